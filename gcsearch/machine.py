"""This machine: device, cores, precision, who may use it now; does not know what is run on it.

Timing and training must not overlap on one machine, whichever processes they are in. Two advisory
file locks, in the manner of a turnstile, see to it: training passes the gate and holds the room
together with other training; timing holds the gate, so that nothing new enters, waits until the
room is empty, and then is alone. The kernel lets go of a dead process's locks.
"""

from __future__ import annotations

import fcntl
import os
import platform
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Literal

import torch

__all__ = [
    "alone",
    "device_fault",
    "environment",
    "n_cores",
    "pick_device",
    "pick_precision",
    "pinned",
    "together",
]

Precision = Literal["fp32", "bf16", "fp16"]
REPORTED = ("gcsearch", "torch", "torchvision", "optuna", "ray", "numpy")


def n_cores() -> int:
    """Return how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pick_device(wanted: str = "auto") -> str:
    """Return the torch device to use: what is wanted, or CUDA when it is there, or the CPU."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_fault(device: str) -> str:
    """Return in one line why this machine cannot use a torch device, or ``""``.

    Example:
        >>> device_fault("cpu")
        ''
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch is built without it
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""


def pick_precision(wanted: str, device: str) -> Precision:
    """Return the precision of training: what is wanted, or the fastest this device does well.

    On CUDA that is automatic mixed precision in bfloat16 where the device has it, else float16.
    A CPU uses bfloat16 only when it multiplies in it natively (AVX512-BF16 or AMX), where it
    trains about twice as fast as in float32 (`benchmarks/speed.py`); emulated, it is slower.
    """
    if wanted in ("fp32", "bf16", "fp16"):
        return wanted  # type: ignore[return-value]
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _cpu_multiplies_bfloat16() else "fp32"


def environment(device: str = "cpu") -> dict[str, str | int]:
    """Return what a measurement depends on: hardware, threads and package versions."""
    names: dict[str, str | int] = {"python": platform.python_version()}
    for package in REPORTED:
        try:
            names[package] = version(package)
        except PackageNotFoundError:
            names[package] = "not installed"
    on_cuda = device.startswith("cuda")
    names["system"] = f"{platform.system()} {platform.machine()}"
    names["processor"] = torch.cuda.get_device_name(device) if on_cuda else _cpu_name()
    names["cores"] = n_cores()
    return names


@contextmanager
def together(directory: Path | None = None) -> Iterator[None]:
    """Hold this machine in common with others that train, while nobody measures."""
    with _open(directory, "gate") as gate, _open(directory, "room") as room:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@contextmanager
def alone(directory: Path | None = None) -> Iterator[None]:
    """Hold this machine alone: waits for training to pause, and keeps it paused."""
    with _open(directory, "gate") as gate, _open(directory, "room") as room:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX)
        yield


@contextmanager
def pinned(threads: int) -> Iterator[list[int]]:
    """Keep torch to some threads and this process to as many cores; undone at the end.

    Every thread of the process is moved, for those of torch's pool exist already; threads that
    begin inside may use every core afterwards, as the caller could before.

    Args:
        threads: At most :func:`n_cores`.

    Yields:
        The cores, on different physical ones as far as they go; none where the system cannot pin.
    """
    n_before, masks = torch.get_num_threads(), _affinities()
    cores = _spread(masks.get(threading.get_native_id(), set()))[:threads]
    try:
        torch.set_num_threads(threads)
        for thread in masks:
            _pin(thread, set(cores))
        yield cores
    finally:
        torch.set_num_threads(n_before)
        for thread in _affinities():
            _pin(thread, masks.get(thread, masks[threading.get_native_id()]))


def _affinities() -> dict[int, set[int]]:
    """Return the cores that each thread of this process may use, where the system tells."""
    if not hasattr(os, "sched_getaffinity") or not os.path.isdir("/proc/self/task"):
        return {}
    masks = {}
    for thread in map(int, os.listdir("/proc/self/task")):
        with suppress(ProcessLookupError):  # it ended meanwhile
            masks[thread] = os.sched_getaffinity(thread)
    return masks


def _pin(thread: int, cores: set[int]) -> None:
    with suppress(ProcessLookupError):
        os.sched_setaffinity(thread, cores)


def _spread(cores: set[int]) -> list[int]:
    """Order cores so that the first share no physical one; core 0 late: it serves interrupts."""

    def rank(core: int) -> tuple[int, int]:
        return sum(other < core for other in _siblings(core)), -core

    return sorted(cores, key=rank)


def _siblings(core: int) -> set[int]:
    """Return the logical cores of one physical core, e.g. from ``0,8`` or ``0-1``."""
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        ranges = [part.partition("-") for part in path.read_text().strip().split(",")]
        return {n for a, _, b in ranges for n in range(int(a), int(b or a) + 1)}
    except (OSError, ValueError):
        return {core}


def _open(directory: Path | None, name: str) -> IO[bytes]:
    folder = directory or Path(tempfile.gettempdir()) / f"gcsearch-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Appending never cuts short what another user may have linked to from a shared folder.
    return (folder / f"{name}.lock").open("ab")


def _cpu_multiplies_bfloat16() -> bool:
    capability = torch.cpu.get_capabilities()
    return any(capability.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next(
        (x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "unknown"
    )

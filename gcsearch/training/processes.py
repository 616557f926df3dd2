"""The processes that share one training, by Lightning Fabric; it knows nothing of what they do."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

from gcsearch.errors import ConfigError, TrainingError
from gcsearch.interchange import needed
from gcsearch.machine import pick_device, pick_precision
from gcsearch.training.settings import FullTrainingSettings

__all__ = ["is_first", "launched", "resolve", "world_size"]

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_PATIENCE = timedelta(hours=6)
"""How long a process waits for another, which may be reading all pictures for the first time."""


def world_size() -> int:
    """Return how many processes torchrun has started, or 1."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return world_size() == 1 or os.environ.get("RANK", "0") == "0"


def resolve(settings: FullTrainingSettings) -> FullTrainingSettings:
    """Return the settings with the device and the precision of this machine.

    Raises:
        ConfigError: They, and the processes, do not go together; all faults are listed.
    """
    device, n_processes, faults = pick_device(settings.device), world_size(), []
    if device not in ("cpu", "cuda"):
        faults.append(f"device = {device!r}: give cpu, cuda or auto")
    elif device == "cuda" and not torch.cuda.is_available():
        faults.append("device = 'cuda': there is none here, or torch was built without; give cpu")
    if settings.precision == "fp16" and device == "cpu":
        faults.append("precision = 'fp16': a CPU does not train in it; give bf16 or fp32")
    if n_processes > 1 and not torch.distributed.is_available():
        faults.append("this torch was built without torch.distributed; start one process")
    if settings.batch_size % n_processes or settings.batch_size // n_processes < 2:
        faults.append(
            f"batch_size = {settings.batch_size}: {n_processes} processes cannot share it evenly; "
            f"give a multiple of {n_processes}, at least {2 * n_processes}"
        )
    if faults:
        raise ConfigError(faults, "train")
    precision = pick_precision(settings.precision, device)
    return settings.model_copy(update={"device": device, "precision": precision})


@contextmanager
def launched(settings: FullTrainingSettings) -> Iterator[Any]:
    """Join the processes that torchrun has started, or be alone; left at the end.

    Args:
        settings: As :func:`resolve` returns them.

    Yields:
        A ``lightning_fabric.Fabric``.

    Raises:
        TrainingError: Fabric is not installed, or the processes cannot be joined.
    """
    fabric = _make(settings)
    try:
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"the processes cannot be joined: {reason:.200}") from error
    try:
        yield fabric
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _make(settings: FullTrainingSettings) -> Any:
    wanted = ("train", "`gcsearch train`", TrainingError)
    lightning = needed("lightning_fabric", *wanted)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its import made it talk
    places = needed("lightning_fabric.plugins.environments", *wanted)
    strategies = needed("lightning_fabric.strategies", *wanted)
    options: dict[str, Any] = {"devices": 1, "plugins": places.LightningEnvironment()}
    if (n_processes := world_size()) > 1:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        options = {
            "devices": here,
            "num_nodes": n_processes // here,
            "plugins": places.TorchElasticEnvironment(),
            # Running statistics stay each process's own within an epoch, and are averaged after.
            "strategy": strategies.DDPStrategy(timeout=_PATIENCE, forward_sync_buffers=False),
        }
    precision = _PRECISIONS[settings.precision]
    try:
        return lightning.Fabric(accelerator=settings.device, precision=precision, **options)
    except (RuntimeError, ValueError) as error:  # e.g. more processes than devices
        reason = " ".join(str(error).split())
        raise TrainingError(f"the processes cannot be joined: {reason:.200}") from error

"""Which modules of a model may hold a block, found by running it; knows no backbone by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import nn

from gcsearch.errors import SurgeryError
from gcsearch.surgery.eligibility import refused_by_probe, refused_by_rehearsal
from gcsearch.surgery.host import attach, detach, is_host
from gcsearch.surgery.layout import LAYOUT, other_sizes
from gcsearch.surgery.probe import run_probe
from gcsearch.surgery.roles import Role, assign_roles
from gcsearch.surgery.site import Site
from gcsearch.surgery.tracing import Return, Trace

__all__ = ["Survey", "check_model", "find_sites", "survey"]

BATCHES = 2, 3
"""Batch sizes of the two probes: the axis that follows them is N."""


@dataclass(frozen=True)
class Survey:
    """The sites of a model in order of execution, and by path why other modules are none."""

    sites: list[Site]
    refusals: dict[str, str]


def find_sites(model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)) -> list[Site]:
    """Return the places where a block may go, in order of execution.

    Runs the model twice, at two sizes, in evaluation mode without gradients; it is left as it was.
    A module is a site if it is called exactly once, is not shared, and returns one floating-point
    tensor of layout NCHW whose height and width follow those of the input. The second run
    rehearses the surgery with stand-ins. Blocks that the model already holds are ignored; hooks
    that are registered on it run.

    Args:
        model: Any module that takes one batch of images.
        input_size: Channels, height and width of the images.

    Raises:
        SurgeryError: The model raised, or is of a kind that cannot be altered.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 1))
        >>> [(site.path, site.shape) for site in find_sites(model, (3, 33, 33))]
        [('0', (8, 16, 16)), ('1', (8, 16, 16)), ('2', (16, 16, 16))]
    """
    return survey(model, input_size).sites


def survey(model: nn.Module, input_size: tuple[int, int, int]) -> Survey:
    """Return the sites of a model together with the reasons against the other modules.

    Raises:
        SurgeryError: The model raised, or is of a kind that cannot be altered.
    """
    check_model(model)
    _check_size(input_size)
    with _without_blocks(model):
        trace = run_probe(model, input_size, BATCHES[0])
        refusals = refused_by_probe(model, trace)
        paths = [path for path, _ in model.named_modules() if path not in refusals]
        rehearsal = _rehearse(model, paths, input_size)
    refusals |= refused_by_rehearsal(paths, trace, rehearsal)
    eligible = [returned for returned in trace.returns if returned.path not in refusals]
    roles = assign_roles(trace, eligible)
    sites = [_site(returned, roles[returned.path]) for returned in eligible]
    return Survey(sites, refusals)


def check_model(model: nn.Module) -> None:
    """Refuse what cannot be altered.

    Raises:
        SurgeryError: The model is a parallel wrapper, compiled, scripted, or not initialised.
    """
    kind = type(model).__name__
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        raise SurgeryError(f"{kind} wraps the model that is meant; pass model.module")
    if isinstance(model, torch.jit.ScriptModule):
        raise SurgeryError(f"{kind} is compiled TorchScript; pass the model it was made from")
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise SurgeryError(f"{kind} is compiled; alter the model first, then torch.compile it")
    if not isinstance(model, nn.Module):
        raise SurgeryError(f"{kind} is no torch.nn.Module; pass the model itself")
    if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
        raise SurgeryError(f"{kind} has uninitialised parameters; run a batch through it first")


def _check_size(input_size: tuple[int, int, int]) -> None:
    if len(input_size) != 3 or not all(isinstance(n, int) and n > 0 for n in input_size):
        raise SurgeryError(
            f"input_size {input_size!r} is not (channels, height, width), e.g. (3, 224, 224)"
        )


@contextmanager
def _without_blocks(model: nn.Module) -> Iterator[None]:
    held = [(module, detach(module)) for module in list(model.modules()) if is_host(module)]
    try:
        yield
    finally:
        for module, block in held:
            attach(module, block)


def _rehearse(
    model: nn.Module, paths: Iterable[str], input_size: tuple[int, int, int]
) -> Trace | None:
    """Run the model with a stand-in for a block at each path, at another size if it takes one.

    Where that fails at every size, modules with children are left out: one of them may run
    whatever children it has.
    """
    hosts = [model.get_submodule(path) for path in paths]
    leaves = [host for host in hosts if not host._modules]
    for trial in (hosts, leaves):
        with _standing_in(trial):
            for size in (*other_sizes(input_size), input_size):
                with suppress(SurgeryError):
                    return run_probe(model, size, BATCHES[1])
    return None


@contextmanager
def _standing_in(hosts: Iterable[nn.Module]) -> Iterator[None]:
    """Attach a stand-in to all modules whose class allows it."""
    try:
        for host in hosts:
            with suppress(TypeError):
                attach(host, nn.Identity())
        yield
    finally:
        for host in filter(is_host, hosts):
            detach(host)


def _site(returned: Return, role: Role) -> Site:
    return Site(
        path=returned.path,
        kind=role.kind,
        stage=role.stage,
        channels=returned.shape[1],
        shape=returned.shape[1:],
        layout=LAYOUT,
        is_stage_end=role.is_stage_end,
    )

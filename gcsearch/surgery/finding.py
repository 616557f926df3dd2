"""Which modules of a model may hold a block, found by running it; knows no backbone by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import nn

from gcsearch.errors import SurgeryError
from gcsearch.surgery.eligibility import read_features, refused_by_probe
from gcsearch.surgery.guard import off_guard
from gcsearch.surgery.host import attach, detach, follows_channels_last, is_host
from gcsearch.surgery.layout import Features, other_sizes
from gcsearch.surgery.probe import run_probe
from gcsearch.surgery.roles import Role, assign_roles
from gcsearch.surgery.site import Site
from gcsearch.surgery.tracing import Trace

__all__ = ["Survey", "check_model", "find_sites", "survey"]

BATCHES = 1, 2
"""Batch sizes of the two probes: the axis that follows them is N."""


@dataclass(frozen=True)
class Survey:
    """The sites of a model in order of execution, and by path why other modules are none."""

    sites: list[Site]
    refusals: dict[str, str]


def find_sites(model: nn.Module, input_size: tuple[int, ...] = (3, 224, 224)) -> list[Site]:
    """Return the places where a block may go, in order of execution.

    Runs the model twice, at two sizes, in evaluation mode without gradients; it is left as it was.
    A module is a site if it is called exactly once, is not shared, and returns one floating-point
    tensor of features: of pictures, video or tokens, with the channels first or last. The
    operations that made it tell which axis holds the channels, and its size in the two runs
    whether the others are batch and positions. The second run rehearses the surgery with
    stand-ins. Blocks that the model already holds are ignored; hooks that are registered on it
    run.

    Args:
        model: Any module that takes one batch of images or clips, or several batches.
        input_size: Channels, height and width of the images; of clips channels, frames, height
            and width.

    Raises:
        SurgeryError: The model raised, or is of a kind that cannot be altered.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 1))
        >>> [(site.path, site.shape) for site in find_sites(model, (3, 33, 33))]
        [('0', (8, 16, 16)), ('1', (8, 16, 16)), ('2', (16, 16, 16))]
    """
    return survey(model, input_size).sites


def survey(model: nn.Module, input_size: tuple[int, ...]) -> Survey:
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
    features, reasons = read_features(paths, trace, rehearsal)
    roles = assign_roles(trace, features)
    return Survey([_site(each, roles[each.path]) for each in features], refusals | reasons)


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


def _check_size(input_size: tuple[int, ...]) -> None:
    is_size = len(input_size) in (3, 4) and all(isinstance(n, int) and n > 0 for n in input_size)
    if not is_size:
        raise SurgeryError(
            f"input_size {input_size!r} is neither (channels, height, width), e.g. (3, 224, 224), "
            "nor (channels, frames, height, width), e.g. (3, 16, 112, 112)"
        )


@contextmanager
def _without_blocks(model: nn.Module) -> Iterator[None]:
    hosts = [module for module in model.modules() if is_host(module)]
    held = [(host, follows_channels_last(host), detach(host)) for host in hosts]
    try:
        with off_guard(model):
            yield
    finally:
        for host, is_channels_last, block in held:
            attach(host, block, is_channels_last=is_channels_last)


def _rehearse(model: nn.Module, paths: Iterable[str], input_size: tuple[int, ...]) -> Trace | None:
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


def _site(features: Features, role: Role) -> Site:
    return Site(
        path=features.path,
        kind=role.kind,
        stage=role.stage,
        channels=features.channels,
        shape=features.shape[1:],
        layout=features.layout,
        is_stage_end=role.is_stage_end,
    )

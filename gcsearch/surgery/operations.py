"""Inserting blocks into a model and taking them out; it knows no block's inside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from gcsearch.architecture import Insertion
from gcsearch.blocks import build_block
from gcsearch.errors import BlockError, SiteError, SurgeryError, near_misses
from gcsearch.surgery.finding import Survey, check_model, survey
from gcsearch.surgery.guard import guard, unguard
from gcsearch.surgery.host import BLOCK_NAME, attach, detach, holds_block, is_host
from gcsearch.surgery.layout import is_channels_last
from gcsearch.surgery.site import Site

__all__ = ["backbone_state_dict", "insert", "inserted_blocks", "remove"]


def insert(
    model: nn.Module,
    insertions: Iterable[Insertion],
    *,
    input_size: tuple[int, ...] = (3, 224, 224),
    sites: Sequence[Site] | None = None,
) -> nn.Module:
    """Insert blocks into ``model`` in place and return it.

    The output is unchanged until training starts, and so are the names of the backbone's weights;
    load those first. The blocks take over device, type and training mode of what they follow. On
    any error the model is left as it was. Convert to SyncBatchNorm or fold batch norms before, not
    after: what replaces a host drops the call of its block.

    Args:
        model: The backbone; it may hold blocks at other sites already.
        insertions: At most one for each site, in any order; none at all leaves the baseline.
        input_size: Of the images the model is probed with; see :func:`find_sites`.
        sites: What :func:`find_sites` returned for this model, to save the probe.

    Returns:
        The same object, for chaining.

    Raises:
        SiteError: A site does not exist, is taken or named twice, or cannot hold the block.
        UnknownNameError: A block is not registered.
        SurgeryError: The model cannot be probed or altered.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 3))
        >>> model = insert(model, [Insertion("1", ratio=1 / 4)], input_size=(3, 32, 32))
        >>> list(inserted_blocks(model))
        ['1']
    """
    wanted = list(insertions)
    check_model(model)
    _refuse_twice(wanted)
    if not wanted:
        return model
    found = survey(model, input_size) if sites is None else Survey(list(sites), {})
    plan = []
    for insertion in wanted:
        host, site = _locate(model, found, insertion.site)
        plan.append((host, _build(insertion, site, host, model), is_channels_last(site.layout)))
    _attach_all(plan)
    guard(model, [insertion.site for insertion in wanted])
    return model


def remove(model: nn.Module) -> nn.Module:
    """Take all blocks out of ``model`` in place and return it: the backbone as it was.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 32, 3))
        >>> _ = insert(model, [Insertion("0")], input_size=(3, 32, 32))
        >>> remove(model)
        Sequential(
          (0): Conv2d(3, 32, kernel_size=(3, 3), stride=(1, 1))
        )
    """
    for _, module in list(_holders(model)):
        detach(module)
    unguard(model)
    return model


def inserted_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Return the blocks that the model holds, by the path of their site.

    Raises:
        SurgeryError: A block is never called, because its host was replaced after the insertion.
    """
    blocks = {}
    for path, module in _holders(model):
        if not is_host(module):
            raise SurgeryError(
                f"the block at site {path!r} is no longer called, because {type(module).__name__} "
                "replaced its host; convert the model first, then insert"
            )
        blocks[path] = module.get_submodule(BLOCK_NAME)
    return blocks


def backbone_state_dict(model: nn.Module) -> dict[str, Any]:
    """Return the state of ``model`` without that of its blocks, under the backbone's own keys."""
    state = model.state_dict()
    for key in [key for key in state if BLOCK_NAME in key.split(".")]:
        del state[key]
    return state


def _holders(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((path, module) for path, module in model.named_modules() if holds_block(module))


def _refuse_twice(insertions: Sequence[Insertion]) -> None:
    paths = [insertion.site for insertion in insertions]
    for path in paths:
        if paths.count(path) > 1:
            raise SiteError(f"site {path!r} is named twice; a site holds one block")


def _locate(model: nn.Module, found: Survey, path: str) -> tuple[nn.Module, Site]:
    site = next((site for site in found.sites if site.path == path), None)
    host = dict(model.named_modules()).get(path)
    if site is None or host is None:
        raise SiteError(_unknown_site(model, found, path))
    if holds_block(host):
        raise SiteError(f"site {path!r} already holds a block; gcsearch.remove the blocks first")
    return host, site


def _unknown_site(model: nn.Module, found: Survey, path: str) -> str:
    kind, paths = type(model).__name__, [site.path for site in found.sites]
    cure = f"`gcsearch sites` lists the {len(paths)} that it has"
    if path in found.refusals:
        return f"module {path!r} of {kind} is no site: it {found.refusals[path]}; {cure}"
    return f"site {path!r} is not in {kind}{near_misses(path, paths)} {cure}"


def _build(insertion: Insertion, site: Site, host: nn.Module, model: nn.Module) -> nn.Module:
    try:
        block = build_block(insertion.block, site.channels, **insertion.settings())
    except BlockError as error:
        raise SiteError(
            f"site {site.path!r} cannot hold block {insertion.block!r}: {error}"
        ) from error
    device, dtype = _placement(host, model)
    return block.to(device=device, dtype=dtype).train(host.training)


def _placement(host: nn.Module, model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return where and in which type the features of a host are computed.

    Weights with several axes tell the type: in mixed precision, norms keep theirs in float32.
    """
    weights = [p for p in (*host.parameters(), *model.parameters()) if p.is_floating_point()]
    if not weights:
        return torch.device("cpu"), torch.get_default_dtype()
    kernels = [weight for weight in weights if weight.ndim > 1] or weights
    return weights[0].device, kernels[0].dtype


def _attach_all(plan: Sequence[tuple[nn.Module, nn.Module, bool]]) -> None:
    done: list[nn.Module] = []
    try:
        for host, block, is_last in plan:
            attach(host, block, is_channels_last=is_last)
            done.append(host)
    except Exception:
        for host in done:
            detach(host)
        raise

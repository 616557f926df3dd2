"""Which blocks surgery can ask for by name, each the identity at first; it knows no backbone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from gcsearch.blocks.global_context import GlobalContext
from gcsearch.blocks.non_local import NonLocal
from gcsearch.blocks.settings import refuse_unknown
from gcsearch.blocks.simplified_non_local import SimplifiedNonLocal
from gcsearch.blocks.squeeze_excitation import SqueezeExcitation
from gcsearch.registry import Registry

__all__ = ["BLOCKS", "build_block"]

BLOCKS: Registry[Callable[..., nn.Module]] = Registry("block")
"""Builders by name: ``builder(channels, **settings)`` returns a block that is the identity."""


def build_block(name: str, channels: int, **settings: Any) -> nn.Module:
    """Build the block that is registered under ``name``; its output equals its input at first.

    Args:
        name: One of ``BLOCKS.names()``.
        channels: Channels of the features that it will transform.
        settings: What the block's builder takes, e.g. ``ratio``.

    Raises:
        UnknownNameError: No block has this name.
        BlockError: The block has no such setting, or cannot be built with its value.

    Example:
        >>> build_block("gc", 64, ratio=1 / 4).planes
        16
    """
    builder = BLOCKS[name]
    known = [p.name for p in inspect.signature(builder).parameters.values()][1:]
    refuse_unknown(name, settings, known)
    return builder(channels, **settings)


@BLOCKS.register("gc")
def _global_context(
    channels: int,
    *,
    ratio: float = 1 / 16,
    pooling: str = "att",
    fusions: Sequence[str] = ("channel_add",),
) -> nn.Module:
    return GlobalContext(channels, ratio=ratio, pooling=pooling, fusions=fusions, gate="identity")


@BLOCKS.register("nl")
def _non_local(
    channels: int, *, mode: str = "embedded_gaussian", sub_sample: bool = False
) -> nn.Module:
    return NonLocal(channels, mode=mode, sub_sample=sub_sample)


@BLOCKS.register("se")
def _squeeze_excitation(channels: int, *, ratio: float = 1 / 16) -> nn.Module:
    return SqueezeExcitation(channels, ratio=ratio, gate="identity")


@BLOCKS.register("snl")
def _simplified_non_local(channels: int) -> nn.Module:
    return SimplifiedNonLocal(channels)

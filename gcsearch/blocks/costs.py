"""What a block costs in parameters and multiply-accumulates, in closed form; it builds nothing.

Multiply-accumulates (MACs) are those of one forward pass of one sample, as gcsearch computes it:
of matrix products, of attention, and of scaling every position by a gate. Sums, activations,
softmax, normalisation and a division by the number of keys count nothing, so that the numbers
agree with torch's flop counter but for the gate, which that does not count. Torch is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gcsearch.blocks.settings import (
    bottleneck_planes,
    complete_settings,
    key_positions,
    require_channels,
)
from gcsearch.errors import BlockError

__all__ = ["n_macs", "n_params"]

_Settings = Mapping[str, Any]


def n_params(name: str, channels: int, **settings: Any) -> int:
    """Return how many parameters a block has.

    Args:
        name: One of ``BLOCK_SETTINGS``.
        channels: Channels of the features.
        settings: The block's settings; defaults as in ``SETTING_DEFAULTS``.

    Raises:
        UnknownNameError: No block has this name.
        BlockError: The block cannot be built so.

    Example:
        >>> n_params("gc", 1024, ratio=1 / 16), n_params("snl", 1024), n_params("nl", 1024)
        (133313, 1050625, 2099712)
    """
    complete = complete_settings(name, settings)
    require_channels(name, channels)
    return _PARAMS[name](channels, complete)


def n_macs(name: str, channels: int, positions: Sequence[int], **settings: Any) -> int:
    """Return the multiply-accumulates of a block's forward pass of one sample.

    Args:
        name: One of ``BLOCK_SETTINGS``.
        channels: Channels of the features.
        positions: Positions along each axis of the features, e.g. height and width.
        settings: The block's settings; defaults as in ``SETTING_DEFAULTS``.

    Raises:
        UnknownNameError: No block has this name.
        BlockError: The block cannot be built so, or there are no positions for it.

    Example:
        >>> n_macs("gc", 1024, (14, 14)), n_macs("nl", 1024, (14, 14))
        (532480, 450379776)
    """
    complete = complete_settings(name, settings)
    require_channels(name, channels)
    if not positions or any(extent < 1 for extent in positions):
        raise BlockError(
            f"positions {tuple(positions)} are none; give the extent of each axis, e.g. (14, 14)"
        )
    return _MACS[name](channels, tuple(positions), complete)


def _gc_params(channels: int, settings: _Settings) -> int:
    planes = bottleneck_planes("gc", channels, settings["ratio"])
    mask = channels + 1 if settings["pooling"] == "att" else 0
    return mask + len(settings["fusions"]) * (2 * channels * planes + 3 * planes + channels)


def _gc_macs(channels: int, positions: Sequence[int], settings: _Settings) -> int:
    planes = bottleneck_planes("gc", channels, settings["ratio"])
    features = channels * math.prod(positions)
    pooling = 2 * features if settings["pooling"] == "att" else 0
    scaling = features if "channel_mul" in settings["fusions"] else 0
    return pooling + scaling + len(settings["fusions"]) * 2 * channels * planes


def _se_params(channels: int, settings: _Settings) -> int:
    planes = bottleneck_planes("se", channels, settings["ratio"])
    return 2 * channels * planes + planes + channels


def _se_macs(channels: int, positions: Sequence[int], settings: _Settings) -> int:
    planes = bottleneck_planes("se", channels, settings["ratio"])
    return 2 * channels * planes + channels * math.prod(positions)


def _snl_params(channels: int, settings: _Settings) -> int:
    return channels + 1 + channels * channels + channels


def _snl_macs(channels: int, positions: Sequence[int], settings: _Settings) -> int:
    return 2 * channels * math.prod(positions) + channels * channels


def _nl_params(channels: int, settings: _Settings) -> int:
    inter = max(channels // 2, 1)
    inner = inter * (channels + 1)
    embeddings = 0 if settings["mode"] == "gaussian" else 2 * inner
    projection = 2 * inter if settings["mode"] == "concatenation" else 0
    return inner + embeddings + projection + channels * (inter + 1)


def _nl_macs(channels: int, positions: Sequence[int], settings: _Settings) -> int:
    inter = max(channels // 2, 1)
    queries = math.prod(positions)
    keys = math.prod(key_positions(positions, settings["sub_sample"]))
    convolution = channels * inter * queries
    if settings["mode"] == "gaussian":
        return 2 * convolution + 2 * queries * keys * channels
    if settings["mode"] == "dot_product":
        return 4 * convolution + min(2 * queries * keys, (queries + keys) * inter) * inter
    if settings["mode"] == "concatenation":
        return 4 * convolution + (queries + keys + queries * keys) * inter
    return 4 * convolution + 2 * queries * keys * inter


_PARAMS: Mapping[str, Callable[[int, _Settings], int]] = {
    "gc": _gc_params,
    "nl": _nl_params,
    "se": _se_params,
    "snl": _snl_params,
}
_MACS: Mapping[str, Callable[[int, Sequence[int], _Settings], int]] = {
    "gc": _gc_macs,
    "nl": _nl_macs,
    "se": _se_macs,
    "snl": _snl_macs,
}

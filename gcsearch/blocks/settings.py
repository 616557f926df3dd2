"""What may be said of each block, as plain data: settings, defaults, allowed values, planes.

Knows no tensor: a configuration can be checked against it, and its cost told, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gcsearch.errors import BlockError, UnknownNameError

__all__ = [
    "BLOCK_SETTINGS",
    "FUSIONS",
    "GATES",
    "MODES",
    "POOLINGS",
    "SETTING_DEFAULTS",
    "bottleneck_planes",
    "complete_settings",
    "key_positions",
    "refuse_unknown",
    "require_channels",
    "require_choice",
]

POOLINGS = ("att", "avg")
"""How GC pools its context: attention-weighted mean over positions, or the plain mean."""

FUSIONS = ("channel_add", "channel_mul")
"""How GC fuses it: add a vector to every position, or scale every position by one."""

GATES = ("sigmoid", "identity")
"""``sigmoid(z)``, as published, or ``2 * sigmoid(z)``, which is 1 at initialisation."""

MODES = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")
"""How NL compares two positions: the pairwise functions of arXiv 1711.07971, section 3.2."""

BLOCK_SETTINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "gc": ("ratio", "pooling", "fusions"),
        "nl": ("mode", "sub_sample"),
        "se": ("ratio",),
        "snl": (),
    }
)
"""Names of the settings of each block, in the order in which they are shown."""

SETTING_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "ratio": 1 / 16,
        "pooling": "att",
        "fusions": ("channel_add",),
        "mode": "embedded_gaussian",
        "sub_sample": False,
    }
)
"""What a setting is when it is not given; one name means the same in every block."""

_CHOICES: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {"pooling": POOLINGS, "mode": MODES, "sub_sample": (False, True)}
)
_LEAST_PLANES: Mapping[str, int] = MappingProxyType({"gc": 2, "se": 1})


def complete_settings(block: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return every setting of a block in canonical form, the default where none is given.

    Args:
        block: Name of a block in :data:`BLOCK_SETTINGS`.
        settings: Some or all of its settings. Fusions may come in any order, and twice.

    Raises:
        UnknownNameError: No block has this name.
        BlockError: The block has no such setting, or it cannot have this value.

    Example:
        >>> complete_settings("nl", {"sub_sample": True})
        {'mode': 'embedded_gaussian', 'sub_sample': True}
    """
    if block not in BLOCK_SETTINGS:
        raise UnknownNameError("block", block, known=BLOCK_SETTINGS)
    refuse_unknown(block, settings, BLOCK_SETTINGS[block])
    complete = {name: settings.get(name, SETTING_DEFAULTS[name]) for name in BLOCK_SETTINGS[block]}
    for name in complete.keys() & _CHOICES.keys():
        require_choice(complete[name], _CHOICES[name], name)
    if "fusions" in complete:
        complete["fusions"] = _canonical_fusions(complete["fusions"])
    return complete


def refuse_unknown(block: str, settings: Collection[str], known: Sequence[str]) -> None:
    """Refuse settings that a block does not have.

    Raises:
        BlockError: One of ``settings`` is not among ``known``.
    """
    unknown = sorted(set(settings) - set(known))
    if unknown:
        listed = f"its settings are {', '.join(known)}" if known else "it has no settings"
        raise BlockError(f"block {block!r} has no setting {unknown[0]!r}; {listed}")


def require_choice(value: object, allowed: Sequence[object], kind: str) -> None:
    """Refuse a value that is not one of a closed set.

    Raises:
        BlockError: ``value`` is not among ``allowed``.
    """
    if value not in allowed:
        raise BlockError(f"{kind} {value!r} is unknown; use one of {', '.join(map(str, allowed))}")


def require_channels(block: str, channels: int) -> None:
    """Refuse features with fewer channels than a block needs.

    Raises:
        BlockError: They have fewer.
    """
    least = _LEAST_PLANES.get(block, 1)
    if channels < least:
        raise BlockError(
            f"channels = {channels} is too few for block {block!r}; it needs at least {least}"
        )


def bottleneck_planes(block: str, channels: int, ratio: float) -> int:
    """Return the planes of a bottleneck, ``int(channels * ratio)`` as published.

    Args:
        block: Name of a block that has a ratio. GC needs 2 planes, as the layer norm of a single
            one is constant; SE needs 1.
        channels: Channels of the features.
        ratio: Planes over channels, in (0, 1].

    Raises:
        BlockError: The ratio is outside (0, 1], or leaves too few planes.

    Example:
        >>> bottleneck_planes("se", 64, 1 / 16)
        4
    """
    require_channels(block, channels)
    if not 0 < ratio <= 1:
        raise BlockError(f"ratio {ratio!r} is outside (0, 1]; use e.g. 1/4 to 1/32")
    planes, least = int(channels * ratio), _LEAST_PLANES[block]
    if planes < least:
        raise BlockError(
            f"ratio {ratio:.4g} of {channels} channels leaves planes = {planes}; block {block!r} "
            f"needs at least {least}: use a ratio of {_smallest_ratio(channels, least):g} or more"
        )
    return planes


def key_positions(positions: Sequence[int], sub_sample: bool) -> tuple[int, ...]:
    """Return how many keys NL has along each position axis.

    Args:
        positions: Positions along each axis of the features, e.g. height and width.
        sub_sample: Whether the keys are max-pooled, two by two.

    Raises:
        BlockError: The positions cannot be pooled two by two.

    Example:
        >>> key_positions((14, 9), sub_sample=True)
        (7, 4)
    """
    if not sub_sample:
        return tuple(positions)
    if len(positions) != 2:
        raise BlockError(
            f"sub_sample = True pools two position axes, the features have {len(positions)}; "
            "use sub_sample=False"
        )
    if any(extent < 2 for extent in positions):
        raise BlockError(
            f"sub_sample = True pools 2x2 positions, the features have "
            f"{positions[0]}x{positions[1]}; use sub_sample=False"
        )
    return tuple(extent // 2 for extent in positions)


def _canonical_fusions(fusions: Sequence[str]) -> tuple[str, ...]:
    if isinstance(fusions, str) or not fusions:
        raise BlockError(f"fusions {fusions!r} is no list of names; use one or more of {FUSIONS}")
    for fusion in fusions:
        require_choice(fusion, FUSIONS, "fusion")
    return tuple(fusion for fusion in FUSIONS if fusion in fusions)


def _smallest_ratio(channels: int, least: int) -> float:
    return math.ceil(least / channels * 10**5) / 10**5

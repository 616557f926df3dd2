"""Which values have no axis with all their channels, as those inside attention have none.

Once channels are viewed as (heads, d), no axis holds them all, whichever layers follow, until
another view joins the two; and a product that sums over them leaves how alike positions are. Such
values are no features by position and channel, even where their shape looks so. A single head
divides nothing. Knows no module and no site.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from gcsearch.surgery.axes import LAST, axis_order
from gcsearch.surgery.tracing import Value

__all__ = ["divided"]

RESHAPES = frozenset({"view", "_unsafe_view", "_reshape_alias", "unsqueeze", "squeeze"})
TRANSPOSES = frozenset({"permute", "transpose", "t"})
PRODUCTS = frozenset({"bmm", "baddbmm"})


class _Factor(NamedTuple):
    """A factor of the size of an axis, of the batch, the channels or the positions: N, C or L.

    Sizes of 1 have none.
    """

    size: int
    letter: str


_Axis = tuple[_Factor, ...]


class _Division(NamedTuple):
    """Where the channels of a value lie, and how many there are."""

    axes: tuple[_Axis, ...]
    n_channels: int


def divided(values: Sequence[Value], axes: Sequence[int | None]) -> list[bool]:
    """Return whether the channels of each value are divided over several axes, or summed.

    Args:
        values: All values of a forward.
        axes: The channel axis of each, as far as it is known.
    """
    divisions: list[_Division | None] = []
    for value in values:
        sources = [(values[i], axes[i], divisions[i]) for i in value.inputs]
        division = _after(value, sources)
        divisions.append(None if division is None or _is_whole(division) else division)
    return [division is not None for division in divisions]


_Source = tuple[Value, int | None, _Division | None]


def _after(value: Value, sources: Sequence[_Source]) -> _Division | None:
    """Return the division of what an operation makes, or ``None`` if it cannot be told."""
    if not value.shape or 0 in value.shape:
        return None
    if value.operation in RESHAPES:
        return _reshaped(sources[0], value.shape)
    if value.operation in PRODUCTS:
        return _product(*sources[-2:]) if len(sources) > 1 else None
    known = [division for _, _, division in sources if division is not None]
    if not known:
        return None
    if value.operation in TRANSPOSES:
        order = axis_order(value, len(known[0].axes))
        return known[0]._replace(axes=tuple(known[0].axes[i] for i in order))
    if value.operation in ("select", "unbind"):
        return _without_axis(known[0], (*value.numbers, 0)[0])
    if any(source.shape == value.shape and of is None for source, _, of in sources):
        return None  # What is added to features, or scales them, becomes features.
    division = next((of for of in known if len(of.axes) == len(value.shape)), None)
    if division is None:
        return None
    if value.operation in LAST:
        return _mixed(division, value.shape, -1)
    if "convolution" in value.operation:
        return _mixed(division, value.shape, 1)
    return _resized(division, value.shape)


def _is_whole(division: _Division) -> bool:
    """Whether all channels are in one axis, and nothing else is."""
    holders = [axis for axis in division.axes if "C" in _letters(axis)]
    is_alone = not holders or (len(holders) == 1 and _letters(holders[0]) == {"C"})
    return is_alone and _n_channels(division.axes) == division.n_channels


def _division_of(source: _Source) -> _Division:
    value, axis, division = source
    if division is not None:
        return division
    letters = ["C" if i == axis else "N" if i == 0 else "L" for i in range(len(value.shape))]
    axes = tuple(map(_axis, value.shape, letters))
    return _Division(axes, _n_channels(axes))


def _axis(size: int, letter: str) -> _Axis:
    return (_Factor(size, letter),) if size != 1 else ()


def _size(axis: Sequence[_Factor]) -> int:
    return math.prod(factor.size for factor in axis)


def _letters(axis: _Axis) -> set[str]:
    return {factor.letter for factor in axis}


def _n_channels(axes: Sequence[_Axis]) -> int:
    return math.prod(factor.size for axis in axes for factor in axis if factor.letter == "C")


def _reshaped(source: _Source, shape: Sequence[int]) -> _Division | None:
    """Deal the factors out to the new axes in their order, cut where one is too large."""
    division = _division_of(source)
    factors = [factor for axis in division.axes for factor in axis][::-1]
    axes = []
    for size in shape:
        axis: list[_Factor] = []
        while (needed := size // _size(axis)) > 1 and factors:
            factor = factors.pop()
            taken = math.gcd(factor.size, needed)
            if taken < min(factor.size, needed):
                return None
            axis.append(factor._replace(size=taken))
            if factor.size > taken:
                factors.append(factor._replace(size=factor.size // taken))
        axes.append(tuple(axis))
    return _settled(_Division(tuple(axes), division.n_channels))


def _settled(division: _Division) -> _Division:
    """Return the division once channels that were joined with positions are positions too.

    But for the first axis, which counts what goes through the network side by side.
    """
    first, *others = division.axes
    axes = (first, *(_as_positions(axis) for axis in others))
    n_lost = _n_channels(division.axes) // _n_channels(axes)
    return _Division(axes, division.n_channels // n_lost)


def _as_positions(axis: _Axis) -> _Axis:
    is_mixed = {"C", "L"} <= _letters(axis)
    return tuple(factor._replace(letter="L") for factor in axis) if is_mixed else axis


def _without_axis(division: _Division, number: int) -> _Division:
    """Return what is left of one index of an axis: of its part of the channels."""
    axes = list(division.axes)
    chosen = axes.pop(number)
    return _Division(tuple(axes), division.n_channels // _n_channels([chosen]))


def _product(first: _Source, second: _Source) -> _Division | None:
    """Return the division of a batched matrix product, which may sum over the channels.

    Unknown if that of the second matrix is, whose last axis it keeps.
    """
    if second[1:] == (None, None):
        return None
    one, other = _division_of(first), _division_of(second)
    heads = next((of.axes[0] for of in (one, other) if "C" in _letters(of.axes[0])), one.axes[0])
    kept = (one.axes[1], other.axes[2])
    axes = (heads, *kept)
    is_summed = not any("C" in _letters(axis) for axis in kept)
    return _Division(
        axes, max(one.n_channels, other.n_channels) if is_summed else _n_channels(axes)
    )


def _mixed(division: _Division, shape: Sequence[int], number: int) -> _Division:
    """Return the division after a layer that makes new channels of those in one axis."""
    axes = list(_resized(division, shape).axes)
    axes[number] = _axis(shape[number], "C")
    return _Division(tuple(axes), _n_channels(axes))


def _resized(division: _Division, shape: Sequence[int]) -> _Division:
    """Return the division after an operation that keeps axes apart, and cuts or repeats some."""
    axes, n_channels = [], division.n_channels
    for axis, size in zip(division.axes, shape, strict=True):
        if _size(axis) == size:
            axes.append(axis)
            continue
        letter = "C" if "C" in _letters(axis) else "L"
        axes.append(_axis(size, letter))
        n_channels = n_channels * size // _size(axis) if letter == "C" else n_channels
    return _Division(tuple(axes), n_channels)

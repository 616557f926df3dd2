"""Which axis of an output is which, told by what it was made with and what changes with the input.

Knows shapes and axes only, no module.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["LAYOUTS", "Features", "Probed", "is_channels_last", "other_sizes", "read_layout"]

LAYOUTS = {
    (3, 1): "NCL",
    (3, 2): "NLC",
    (4, 1): "NCHW",
    (4, 3): "NHWC",
    (5, 1): "NCTHW",
    (5, 4): "NTHWC",
}
"""Layouts by number of axes and place of the channels: sequences and tokens (a class token is one
position more), pictures, video."""

Size = tuple[int, ...]
Shape = tuple[int, ...]
Probed = tuple[Shape, Shape]
"""Shapes of the input and of an output in one run."""


@dataclass(frozen=True)
class Features:
    """What a module returned, once its layout is known.

    Args:
        path: The module.
        value: Number of the value in the trace.
        shape: With the batch.
        layout: One of :data:`LAYOUTS`.
    """

    path: str
    value: int
    shape: Shape
    layout: str

    @property
    def channels(self) -> int:
        """Size of the channel axis."""
        return self.shape[self.layout.index("C")]

    @property
    def positions(self) -> Shape:
        """Sizes of all axes but batch and channels."""
        return tuple(
            n for n, axis in zip(self.shape, self.layout, strict=True) if axis not in "NC"
        )


def is_channels_last(layout: str) -> bool:
    """Whether the channels are the last axis.

    Example:
        >>> [name for name in LAYOUTS.values() if is_channels_last(name)]
        ['NLC', 'NHWC', 'NTHWC']
    """
    return layout.endswith("C")


def other_sizes(input_size: Size) -> list[Size]:
    """Return input sizes that differ in height, in width, and in their ratio; the cheapest first.

    They differ by multiples of 32, as many networks need; frames of video stay as many.

    Example:
        >>> other_sizes((3, 224, 224)), other_sizes((3, 32, 32)), other_sizes((3, 8, 32, 32))
        ([(3, 160, 192), (3, 288, 256)], [(3, 96, 64)], [(3, 8, 96, 64)])
    """
    *rest, height, width = input_size
    signs = (-1, 1) if min(height, width) >= 128 else (1,)
    return [(*rest, height + sign * 64, width + sign * 32) for sign in signs]


def read_layout(
    first: Probed, second: Probed | None, axis: int | None, *, has_fixed_size: bool = False
) -> str | None:
    """Return the layout of an output, or ``None`` if it is no features of one picture each.

    The batch axis must follow the batch of the input, and the channels must stay; the positions
    must change with the size of the input, or be several where that cannot be seen.

    Args:
        first: One run.
        second: One with another batch, and another size if the model takes one.
        axis: Where the channels are by what made the output; ``None`` leaves it to the sizes.
        has_fixed_size: Whether the model brings all inputs to one size of its own.

    Example:
        >>> pictures = ((2, 3, 224, 224), (2, 64, 56, 56)), ((3, 3, 160, 192), (3, 64, 40, 48))
        >>> read_layout(*pictures, axis=1), read_layout(*pictures, axis=None)
        ('NCHW', 'NCHW')
        >>> pooled = ((2, 3, 224, 224), (2, 64, 1, 1)), ((3, 3, 160, 192), (3, 64, 1, 1))
        >>> read_layout(*pooled, axis=1) is None
        True
    """
    (x, a), (y, b) = first, second or first
    is_resized = x[2:] != y[2:] and not has_fixed_size
    if axis is None:
        axis = _axis_by_size(a, b) if is_resized else None
    if axis is None or (layout := LAYOUTS.get((len(a), axis))) is None or len(a) != len(b):
        return None
    if a[axis] != b[axis] or not _follows_batch(first, second or first, is_resized):
        return None
    before, after = (math.prod(shape[1:]) // shape[axis] for shape in (a, b))
    return layout if (before != after if is_resized else before > 1) else None


def _follows_batch(first: Probed, second: Probed, is_resized: bool) -> bool:
    """Whether axis 0 counts the pictures, or several for each where the size has no part in it.

    Windows of attention are counted in axis 0 too, but there are more of them in larger pictures.
    """
    (x, a), (y, b) = first, second
    if (a[0], b[0]) == (x[0], y[0]):
        return True
    return is_resized and a[0] % x[0] == 0 and a[0] * y[0] == b[0] * x[0]


def _axis_by_size(a: Shape, b: Shape) -> int | None:
    """Return the one axis among the first and the last that stays while all others change.

    Not where the others stay equal to each other for an oblong input: they are no height and
    width, but a map of positions by positions.
    """
    if len(a) != len(b) or len(a) < 4:
        return None
    same = [i for i in range(1, len(a)) if a[i] == b[i]]
    if len(same) != 1 or (len(a), same[0]) not in LAYOUTS:
        return None
    others = [i for i in range(1, len(a)) if i != same[0]]
    is_map = len({a[i] for i in others}) == len({b[i] for i in others}) == 1
    return None if is_map else same[0]

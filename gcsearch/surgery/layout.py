"""Which axis of an output is which, told by what changes with the input; knows shapes only."""

from __future__ import annotations

__all__ = ["LAYOUT", "is_channels_first", "other_sizes"]

LAYOUT = "NCHW"
"""The one layout that is recognised."""

Size = tuple[int, int, int]
Shape = tuple[int, ...]
Probed = tuple[Shape, Shape]

SLACK = 2
"""Pixels by which sizes may miss what they should be, because strides round."""


def other_sizes(input_size: Size) -> list[Size]:
    """Return input sizes that differ in height, in width, and in their ratio; the cheapest first.

    They differ by multiples of 32, as many networks need.

    Example:
        >>> other_sizes((3, 224, 224)), other_sizes((3, 32, 32))
        ([(3, 160, 192), (3, 288, 256)], [(3, 96, 64)])
    """
    channels, height, width = input_size
    signs = (-1, 1) if min(height, width) >= 128 else (1,)
    return [(channels, height + sign * 64, width + sign * 32) for sign in signs]


def is_channels_first(first: Probed, second: Probed | None) -> bool:
    """Whether an output is (N, C, H, W) with H and W that follow those of the input.

    If no run with another size is known, H : W must be as in the input.

    Args:
        first: Shapes of the input and of the output, with four axes, in one run.
        second: The same in a run with another batch, and another size if the model takes one.

    Example:
        >>> is_channels_first(
        ...     ((2, 3, 224, 224), (2, 64, 56, 56)), ((3, 3, 160, 192), (3, 64, 40, 48))
        ... )
        True
        >>> is_channels_first(
        ...     ((2, 3, 224, 224), (2, 56, 56, 64)), ((3, 3, 160, 192), (3, 40, 48, 64))
        ... )
        False
    """
    (x, a), (y, b) = first, second or first
    if (x[0], y[0]) != (a[0], b[0]) or len(b) != 4 or a[1] != b[1]:
        return False
    if x[2:] == y[2:]:
        return _is_like(x[2:], a[2:])
    axes = (2, 3)
    return all((a[i] < b[i]) == (x[i] < y[i]) and a[i] != b[i] for i in axes) and not _is_map(a, b)


def _is_like(size: Shape, other: Shape) -> bool:
    """Whether features have the proportions of the input, and are not pooled to a vector."""
    (height, width), (h, w) = size, other
    return 1 < h * w <= height * width and abs(h * width / height - w) <= SLACK


def _is_map(shape: Shape, other: Shape) -> bool:
    """Whether both axes are positions, (N, heads, L, L): they stay equal for an oblong input."""
    is_square = shape[2] == shape[3] and other[2] == other[3]
    return is_square and abs(shape[2] - other[2]) > SLACK

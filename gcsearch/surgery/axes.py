"""Which axis of each value of a forward holds its channels, told by the operations that made it.

Sizes alone cannot tell: a network for one fixed size shows the same shapes whatever it is given,
and tokens have no height and width to follow. Knows no module and no site.
"""

from __future__ import annotations

from collections.abc import Sequence

from gcsearch.surgery.tracing import Value

__all__ = ["LAST", "axis_order", "channel_axes"]

FIRST = frozenset(
    {"convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution"}
    | {"native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"}
    | {"cudnn_batch_norm", "miopen_batch_norm", "native_group_norm", "batch_norm", "group_norm"}
)
"""Operations whose result has its channels in axis 1."""
LAST = frozenset({"addmm", "mm", "linear"})
"""Operations whose result has them in its last axis."""
MIXING = frozenset({"bmm", "baddbmm", "_softmax", "_safe_softmax"})
"""Operations between positions; and all that have "attention" in their name."""
VIEWS = frozenset({"view", "_unsafe_view", "_reshape_alias", "unsqueeze", "squeeze", "expand"})


def channel_axes(values: Sequence[Value]) -> list[int | None]:
    """Return the channel axis of each value, or ``None`` where it cannot be told."""
    axes: list[int | None] = []
    for value in values:
        axes.append(_axis(value, values, axes))
    return axes


def axis_order(value: Value, rank: int) -> list[int]:
    """Return the axes of what was permuted or transposed in their new order."""
    order = list(range(rank))
    if value.operation == "permute":
        return [number % rank for number in value.numbers]
    one, other = value.numbers or (0, 1)
    order[one], order[other] = order[other], order[one]
    return order


def _axis(value: Value, values: Sequence[Value], axes: Sequence[int | None]) -> int | None:
    operation, rank = value.operation, len(value.shape)
    if operation in FIRST:
        return 1
    if operation in LAST or (operation == "native_layer_norm" and len(value.numbers) == 1):
        return rank - 1
    if operation in MIXING or "attention" in operation:
        return None
    known = [(values[i], axis) for i in value.inputs if (axis := axes[i]) is not None]
    if operation in ("permute", "transpose", "t"):
        return axis_order(value, rank).index(known[0][1]) if known else None
    if operation in VIEWS:
        return _viewed(value, *known[0]) if known else None
    return next((axis for source, axis in known if len(source.shape) == rank), None)


def _viewed(value: Value, source: Value, axis: int) -> int | None:
    """Return the axis after a change of shape that leaves the channels alone."""
    if axis == len(source.shape) - 1 and value.shape and value.shape[-1] == source.shape[-1]:
        return len(value.shape) - 1
    return axis if value.shape[: axis + 1] == source.shape[: axis + 1] else None

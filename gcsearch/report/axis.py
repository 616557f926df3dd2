"""From values to places on a chart, in per cent of its sides, so that it fits every screen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Axis", "axis_over"]

STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Axis:
    """A range with its ticks.

    Args:
        low: Value at the left or lower end.
        high: Value at the other.
        ticks: Round values between.
        digits: After the point, as the ticks need them.

    Example:
        >>> axis = Axis(1.0, 1.5, (1.0, 1.25, 1.5), 2)
        >>> axis.x(1.25), axis.y(1.5), axis.x(9.0), axis.show(1.25)
        ('50.00%', '0.00%', '100.00%', '1.25')
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    digits: int

    def x(self, value: float) -> str:
        """Return the distance from the left; what lies outside is put on the edge."""
        return f"{100 * self._share(value):.2f}%"

    def y(self, value: float) -> str:
        """Return the distance from the top."""
        return f"{100 * (1 - self._share(value)):.2f}%"

    def width(self, low: float, high: float) -> str:
        """Return the length between two values."""
        return f"{100 * (self._share(high) - self._share(low)):.2f}%"

    def holds(self, value: float) -> bool:
        """Whether a value lies on the axis."""
        return self.low <= value <= self.high

    def show(self, tick: float) -> str:
        """Return a tick as text."""
        return f"{tick:.{self.digits}f}"

    def _share(self, value: float) -> float:
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def axis_over(
    values: Iterable[float], *, n_ticks: int = 5, margin: float = 0.06, is_whole: bool = False
) -> Axis:
    """Return an axis that holds all values.

    Args:
        values: At least one.
        n_ticks: Fewer than twice as many.
        margin: Free space at either end, as a share of the range.
        is_whole: Whether ticks between whole numbers make no sense.

    Example:
        >>> axis = axis_over([0.0, 10.0], margin=0)
        >>> axis.ticks, axis.digits
        ((0.0, 2.0, 4.0, 6.0, 8.0, 10.0), 0)
    """
    known = list(values)
    low, high = min(known), max(known)
    if high - low < 1e-9:
        room = abs(low) * 0.05 or 1.0
        low, high = low - room, high + room
    room = margin * (high - low)
    low, high = low - room, high + room
    step = _round_step((high - low) / n_ticks)
    if is_whole:
        step = max(1.0, float(math.ceil(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = tuple(round(n * step, 12) + 0.0 for n in range(first, last + 1))
    return Axis(low, high, ticks, _digits(step))


def _round_step(wanted: float) -> float:
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(step * power for step in STEPS if step * power >= wanted * (1 - 1e-9))


def _digits(step: float) -> int:
    """Return how many digits after the point tell one tick from the next."""
    return next((d for d in range(12) if abs(round(step, d) - step) < 1e-9 * step), 12)

"""What a search may minimise and limit: costs as ratios to the backbone; measures none of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from gcsearch.settings import Settings

__all__ = [
    "COSTS",
    "COUNTED",
    "Cost",
    "LimitSettings",
    "excesses",
    "limit_key",
    "limits_by_cost",
    "show_counted",
]

Cost = Literal["latency", "macs", "params", "memory"]
COSTS: tuple[Cost, ...] = ("latency", "macs", "params", "memory")
"""Every cost, in the order in which a trial's constraints are stored."""
COUNTED: tuple[Cost, ...] = COSTS[1:]
"""Those that are counted rather than timed, so that they are known exactly."""

_Limit = Annotated[float, Field(gt=1, le=100)] | None


class LimitSettings(Settings):
    """Most that an architecture may cost, as ratios to the backbone, besides `latency.limit`.

    What costs more is refused before it is timed and trained.
    """

    macs: _Limit = None
    """Multiply-accumulates of one picture at the latency's image size."""
    params: _Limit = None
    """Parameters."""
    memory: _Limit = None
    """Peak memory of one forward pass at the latency's image and batch size, on its device, in
    its type and memory format."""


def limits_by_cost(
    latency: float | None, counted: Mapping[str, float | None]
) -> dict[Cost, float]:
    """Return the limits that are set, in the order of :data:`COSTS`.

    Example:
        >>> limits_by_cost(1.1, {"params": None, "macs": 1.01})
        {'latency': 1.1, 'macs': 1.01}
    """
    limits = {**counted, "latency": latency}
    return {cost: limit for cost in COSTS if (limit := limits.get(cost)) is not None}


def excesses(limits: Mapping[Cost, float], ratios: Mapping[str, float]) -> dict[Cost, float]:
    """Return how far each limited cost lies above its limit; at most 0 where it is kept.

    Args:
        limits: As of :func:`limits_by_cost`.
        ratios: By cost. One that is missing was not measured, since another limit was broken
            before: it counts as neither kept nor broken, by 0.

    Example:
        >>> excesses({"latency": 1.5, "macs": 1.25}, {"macs": 1.5})
        {'latency': 0.0, 'macs': 0.25}
    """
    return {c: ratios[c] - limit if c in ratios else 0.0 for c, limit in limits.items()}


def limit_key(cost: Cost) -> str:
    """Return where a configuration sets the limit of a cost."""
    return "latency.limit" if cost == "latency" else f"limits.{cost}"


def show_counted(ratio: float) -> str:
    """Return the ratio of a cost that is counted, with the digits in which a block shows.

    Example:
        >>> show_counted(1 + 532_480 / 4_089_184_256)
        '1.00013'
    """
    return f"{ratio:.5f}"

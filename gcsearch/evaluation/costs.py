"""What an architecture costs, as ratios to its backbone, and whether a search allows that.

Times and trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from gcsearch.cost import (
    Cost,
    LatencyRatio,
    LatencySettings,
    Prediction,
    count,
    excesses,
    limit_key,
    peak_memory,
    show_counted,
)
from gcsearch.errors import OverLimitError

__all__ = ["Refusal", "count_costs", "hold_to_limits", "ratios_to", "upper_ratios"]


@dataclass(frozen=True)
class Refusal:
    """An architecture that is not trained, since it costs more than was allowed.

    Args:
        cost: What was over its limit; the first one, where several are.
        limit: Most that was allowed.
        ratios: ``macs``, ``params`` and ``memory`` over those of the unaltered backbone.
        latency: What was measured, or predicted without measuring; ``None`` where a cost that is
            counted was over its limit.

    Example:
        >>> refusal = Refusal("macs", 1.25, {"macs": 1.5}, None)
        >>> refusal.reason, refusal.share
        ('macs ratio 1.50000 is over limits.macs 1.25; not trained', 2.0)
    """

    cost: Cost
    limit: float
    ratios: dict[str, float]
    latency: LatencyRatio | Prediction | None

    @property
    def measured(self) -> str:
        """The cost in words."""
        if self.cost == "latency":
            return f"latency {self.latency}"
        return f"{self.cost} ratio {show_counted(self.ratios[self.cost])}"

    @property
    def reason(self) -> str:
        """Why it is not trained, for people."""
        spared = "measured" if isinstance(self.latency, Prediction) else "trained"
        return f"{self.measured} is over {limit_key(self.cost)} {self.limit:g}; not {spared}"

    @property
    def share(self) -> float:
        """What it adds over what may be added: above 1, and comparable from cost to cost."""
        return (upper_ratios(self.ratios, self.latency)[self.cost] - 1) / (self.limit - 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, safe for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Refusal:
        """Read what :meth:`to_dict` wrote of an architecture whose latency was not predicted."""
        latency = data["latency"]
        return cls(**{**data, "latency": LatencyRatio(**latency) if latency else None})


def count_costs(
    model: nn.Module, input_size: tuple[int, ...], settings: LatencySettings
) -> dict[str, int]:
    """Return the MACs of one picture, the parameters, and the peak memory of one pass in bytes.

    Args:
        model: Left as it was.
        input_size: Channels, height and width of a picture.
        settings: How it is served; MACs and parameters do not depend on that.

    Raises:
        LatencyError: It cannot be served so here.
    """
    counts = count(model, input_size)
    memory = peak_memory(model, input_size, settings)
    return {"macs": counts.macs, "params": counts.params, "memory": memory}


def ratios_to(backbone: Mapping[str, int], own: Mapping[str, int]) -> dict[str, float]:
    """Return costs over the backbone's.

    Example:
        >>> ratios_to({"macs": 100, "params": 10}, {"macs": 101, "params": 15})
        {'macs': 1.01, 'params': 1.5}
    """
    return {cost: own[cost] / max(1, backbone[cost]) for cost in backbone}


def upper_ratios(
    ratios: Mapping[str, float], latency: LatencyRatio | Prediction | None
) -> dict[str, float]:
    """Return what counts for limits: ratios by cost, of latency the upper end of its interval."""
    return {**ratios} if latency is None else {**ratios, "latency": latency.high}


def hold_to_limits(
    limits: Mapping[Cost, float],
    ratios: Mapping[str, float],
    latency: LatencyRatio | None = None,
) -> None:
    """Refuse an architecture that costs more than is allowed.

    Args:
        limits: By cost.
        ratios: Of the costs that are counted.
        latency: Once it is measured.

    Raises:
        OverLimitError: It costs more.
    """
    for cost, excess in excesses(limits, upper_ratios(ratios, latency)).items():
        if excess > 0:
            refusal = Refusal(cost, limits[cost], {**ratios}, latency)
            raise OverLimitError(refusal.reason, refusal.to_dict())

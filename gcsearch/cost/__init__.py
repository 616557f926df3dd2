"""What an architecture costs to run: latency as a paired ratio, parameters, MACs, peak memory."""

from gcsearch.cost.counting import Counts, count
from gcsearch.cost.latency import (
    LatencyRatio,
    LatencySettings,
    compare_latency,
    measure_latency,
)
from gcsearch.cost.limits import (
    COSTS,
    COUNTED,
    Cost,
    LimitSettings,
    excesses,
    limit_key,
    limits_by_cost,
    show_counted,
)
from gcsearch.cost.memory import peak_memory

__all__ = [
    "COSTS",
    "COUNTED",
    "Cost",
    "Counts",
    "LatencyRatio",
    "LatencySettings",
    "LimitSettings",
    "compare_latency",
    "count",
    "excesses",
    "limit_key",
    "limits_by_cost",
    "measure_latency",
    "peak_memory",
    "show_counted",
]

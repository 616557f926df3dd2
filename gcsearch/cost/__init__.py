"""What an architecture costs to run: latency as a paired ratio, parameters, MACs, peak memory."""

from gcsearch.cost.contender import share_weights
from gcsearch.cost.context import latency_context
from gcsearch.cost.counting import Counts, count
from gcsearch.cost.latency import (
    LatencyProbe,
    LatencyRatio,
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
from gcsearch.cost.runtimes import RUNTIMES, runtime_version
from gcsearch.cost.settings import LatencySettings
from gcsearch.cost.table import LatencyTable, Prediction

__all__ = [
    "COSTS",
    "COUNTED",
    "RUNTIMES",
    "Cost",
    "Counts",
    "LatencyProbe",
    "LatencyRatio",
    "LatencySettings",
    "LatencyTable",
    "LimitSettings",
    "Prediction",
    "compare_latency",
    "count",
    "excesses",
    "latency_context",
    "limit_key",
    "limits_by_cost",
    "measure_latency",
    "peak_memory",
    "runtime_version",
    "share_weights",
    "show_counted",
]

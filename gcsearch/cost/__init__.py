"""What an architecture costs to run: latency as a paired ratio, parameters, MACs, peak memory."""

from gcsearch.cost.counting import Counts, count
from gcsearch.cost.latency import (
    LatencyRatio,
    LatencySettings,
    compare_latency,
    measure_latency,
)
from gcsearch.cost.memory import peak_memory

__all__ = [
    "Counts",
    "LatencyRatio",
    "LatencySettings",
    "compare_latency",
    "count",
    "measure_latency",
    "peak_memory",
]

"""What an architecture costs to run: latency as a paired ratio, parameters, MACs."""

from gcsearch.cost.counting import Counts, count
from gcsearch.cost.latency import (
    LatencyRatio,
    LatencySettings,
    compare_latency,
    measure_latency,
)

__all__ = [
    "Counts",
    "LatencyRatio",
    "LatencySettings",
    "compare_latency",
    "count",
    "measure_latency",
]

"""What an architecture costs to run: latency as a paired ratio, parameters, MACs."""

from gcsearch.cost.context import latency_context
from gcsearch.cost.counting import Counts, count
from gcsearch.cost.latency import (
    LatencyRatio,
    LatencySettings,
    compare_latency,
    measure_latency,
)
from gcsearch.cost.table import LatencyTable, Prediction

__all__ = [
    "Counts",
    "LatencyRatio",
    "LatencySettings",
    "LatencyTable",
    "Prediction",
    "compare_latency",
    "count",
    "latency_context",
    "measure_latency",
]

"""What an architecture costs to run: latency as a paired ratio, parameters, MACs."""

from gcsearch.cost.counting import Counts, count
from gcsearch.cost.latency import (
    LatencyProbe,
    LatencyRatio,
    compare_latency,
    measure_latency,
    share_weights,
)
from gcsearch.cost.runtimes import RUNTIMES, runtime_version
from gcsearch.cost.settings import LatencySettings

__all__ = [
    "RUNTIMES",
    "Counts",
    "LatencyProbe",
    "LatencyRatio",
    "LatencySettings",
    "compare_latency",
    "count",
    "measure_latency",
    "runtime_version",
    "share_weights",
]

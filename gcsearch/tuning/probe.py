"""Timing on the node of a cluster that is meant for it; knows no training and no database.

Nodes that are like those that will serve get the custom resource `latency_probe` when Ray is
started on them. If the cluster has one, a single actor there times what all workers train, one
after the other; else every worker times on its own machine, which its lock sees to.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import ray

from gcsearch.architecture import Architecture
from gcsearch.cost import LatencyRatio
from gcsearch.errors import LatencyError
from gcsearch.evaluation import Evaluator, Timer
from gcsearch.tuning.worker import WorkerContext

__all__ = ["RESOURCE", "Prober", "start_prober", "timed_by"]

RESOURCE = "latency_probe"


class Prober:
    """Times architectures; as an actor it takes one call after the other.

    Args:
        context: Of the workers.
    """

    def __init__(self, context: WorkerContext) -> None:
        self._evaluator = Evaluator(
            context.config, cache_dir=context.cache_dir, trust=context.trust
        )

    def measure(
        self, architecture: dict[str, Any], precision: float | None = None
    ) -> dict[str, Any]:
        """Return a latency as plain data, or ``{"error": ...}`` where there is none.

        What Ray makes of an exception would come with a traceback of this node.
        """
        timed = Architecture.from_dict(architecture)
        try:
            return asdict(self._evaluator.measure_latency(timed, precision))
        except LatencyError as error:
            return {"error": str(error)}


def start_prober(context: WorkerContext) -> Any:
    """Start the actor where the cluster wants it; return its handle, or ``None``."""
    if not ray.cluster_resources().get(RESOURCE):
        return None
    actor = ray.remote(num_cpus=0, resources={RESOURCE: 1})(Prober)
    return actor.remote(context)


def timed_by(prober: Any) -> Timer:
    """Return what has an architecture timed by the actor.

    Raises:
        LatencyError: As the actor's own measuring did.
    """

    def measure(architecture: Architecture, precision: float | None = None) -> LatencyRatio:
        told = ray.get(prober.measure.remote(architecture.to_dict(), precision))
        if "error" in told:
            raise LatencyError(told["error"])
        return LatencyRatio(**told)

    return measure

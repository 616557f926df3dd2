"""What is stored with a trial, as plain data by name; knows no database.

All are user attributes, which Optuna's dashboard shows, but for those that are long: they are
system attributes, as it does not wrap the lines of what it shows. In trials of old they stand
among the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from optuna.trial import FrozenTrial

from gcsearch.cost import COSTS, Cost, LatencyRatio, Prediction
from gcsearch.errors import StudyError
from gcsearch.evaluation import Evaluation, Refusal

__all__ = [
    "evaluation_attrs",
    "hidden_key",
    "objective_values",
    "read_attrs",
    "refusal_attrs",
]

HIDDEN = ("architecture", "evaluation")
PREFIX = "gcsearch:"


def hidden_key(name: str) -> str | None:
    """Return the system attribute that keeps something, or ``None`` for a user attribute."""
    return PREFIX + name if name in HIDDEN else None


def read_attrs(trial: FrozenTrial) -> dict[str, Any]:
    """Return all that is stored with a trial."""
    hidden = {name: trial.system_attrs.get(PREFIX + name) for name in HIDDEN}
    return {**trial.user_attrs, **{name: data for name, data in hidden.items() if data}}


def objective_values(evaluation: Evaluation, objective: Cost) -> list[float]:
    """Return what a complete trial is told: ``top1``, and a cost as a ratio to the backbone.

    Raises:
        StudyError: One of them was not measured.
    """
    cost = evaluation.cost_ratio(objective)
    if evaluation.latency is None or cost is None:
        missing = "latency" if evaluation.latency is None else f"ratio of {objective}"
        raise StudyError(f"an evaluation without a {missing} cannot end a trial")
    return [evaluation.top1, cost]


def evaluation_attrs(evaluation: Evaluation) -> dict[str, Any]:
    """Return the evaluation itself, and what the dashboard should show as columns of its own."""
    ratios = {cost: evaluation.cost_ratio(cost) for cost in COSTS}
    return {
        "evaluation": evaluation.to_dict(),
        "architecture_id": evaluation.architecture.id,
        "params": evaluation.params,
        "macs": evaluation.macs,
        "memory": evaluation.memory,
        "loss": evaluation.loss,
        **_ratio_attrs(ratios),
        **_interval(evaluation.latency),
        "curve": [point["top1"] for point in evaluation.curve],
        "seconds": sum(evaluation.seconds.values()),
    }


def refusal_attrs(refusal: Refusal) -> dict[str, Any]:
    """Return why an architecture was refused, and as much as is known of its costs."""
    latency = refusal.latency
    attrs = {"reason": refusal.reason, **_ratio_attrs(refusal.ratios), **_interval(latency)}
    if latency is not None:
        attrs |= {"latency": asdict(latency), "latency_ratio": latency.ratio}
        attrs["predicted"] = isinstance(latency, Prediction)
    return attrs


def _ratio_attrs(ratios: Mapping[Any, float | None]) -> dict[str, Any]:
    return {f"{cost}_ratio": ratio for cost, ratio in ratios.items() if ratio is not None}


def _interval(latency: LatencyRatio | Prediction | None) -> dict[str, Any]:
    return {"latency_low": latency.low, "latency_high": latency.high} if latency else {}

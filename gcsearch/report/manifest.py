"""What a study was made with, so that it can be repeated, and what became of every attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from gcsearch.cost import COSTS, Cost
from gcsearch.report.verdict import show_cost
from gcsearch.results import Finding
from gcsearch.study import Attempt, SearchStudy, baseline_hash

__all__ = ["AttemptRow", "LatencyRow", "Manifest", "attempt_rows", "latency_rows", "manifest_of"]


@dataclass(frozen=True)
class Manifest:
    """What a study was made with.

    Args:
        config: The configuration, as the YAML that runs it again.
        facts: Headings with their names and values: seeds, data, plan, versions and hardware.
    """

    config: str
    facts: dict[str, dict[str, str]]


@dataclass(frozen=True)
class AttemptRow:
    """One trial, whatever became of it; what is not known is ``""``."""

    number: int
    state: str
    architecture: str
    top1: str
    cost: str
    reason: str


@dataclass(frozen=True)
class LatencyRow:
    """How one architecture was timed; what was not stored is ``""``."""

    number: int
    architecture: str
    ratio: str
    noise: str
    pairs: str
    p50_ms: str
    p90_ms: str


def manifest_of(study: SearchStudy) -> Manifest:
    """Gather what a study was made with."""
    record = study.record
    checks = sorted({evaluation.seed for evaluation in study.checks()})
    seeds = {
        "search, data and trials": str(record.config["search"]["seed"]),
        "confirmation": ", ".join(map(str, checks)) or "none yet",
    }
    if weights := baseline_hash(study):
        seeds["baseline's weights, SHA-256"] = weights
    return Manifest(
        config=yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True),
        facts={
            "Seeds and weights": seeds,
            "Data": _flat(record.task),
            "Plan": _flat(record.plan),
            "Versions and hardware": _flat(record.environment),
        },
    )


def attempt_rows(attempts: Sequence[Attempt], objective: Cost) -> list[AttemptRow]:
    """Return every attempt with its state and the reason for it."""
    return [_attempt_row(attempt, objective) for attempt in attempts]


def latency_rows(found: Sequence[Finding]) -> list[LatencyRow]:
    """Return how every complete trial was timed; the baseline's ratio is the noise floor."""
    rows = []
    for finding in found:
        latency = finding.evaluation.latency
        if latency is None:
            continue
        noise = "" if latency.noise is None else "{:.3f} [{:.3f}, {:.3f}]".format(*latency.noise)
        rows.append(
            LatencyRow(
                number=finding.number,
                architecture=str(finding.evaluation.architecture),
                ratio=str(latency),
                noise=noise,
                pairs=str(latency.pairs),
                p50_ms=_beside(latency.latency_ms, latency.baseline_ms),
                p90_ms=_beside(latency.latency_p90_ms, latency.baseline_p90_ms),
            )
        )
    return rows


def _attempt_row(attempt: Attempt, objective: Cost) -> AttemptRow:
    row, cost = attempt.row, attempt.costs.get(objective)
    reason = row.reason or ""
    if row.duplicate_of is not None:
        reason = f"same as trial {row.duplicate_of}"
    shown = "" if cost is None else show_cost(cost)
    if row.evaluation is not None and row.evaluation.architecture.is_baseline:
        shown = "1"
    return AttemptRow(
        number=row.number,
        state=row.state,
        architecture="(waiting)" if row.architecture is None else str(row.architecture),
        top1="" if row.evaluation is None else f"{row.evaluation.top1:.3f}",
        cost=f"{shown}, predicted" if attempt.is_predicted and objective == COSTS[0] else shown,
        reason=reason,
    )


def _beside(own: float | None, baseline: float | None) -> str:
    return "" if own is None or baseline is None else f"{own:.2f} / {baseline:.2f}"


def _flat(data: Mapping[str, Any]) -> dict[str, str]:
    """Return names and values to read, one line each."""
    flat: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": text for inner, text in _flat(value).items()}
        elif isinstance(value, (list, tuple)):
            flat[key] = ", ".join(map(_show, value))
        else:
            flat[key] = _show(value)
    return flat


def _show(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

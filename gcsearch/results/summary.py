"""What a study came to: the front, the choice and whether it held in the check."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gcsearch.cost import Cost
from gcsearch.results.check import CheckedGain, checked_gain
from gcsearch.results.front import Finding, candidate_of, choose, findings, front
from gcsearch.study import SearchStudy

__all__ = ["SearchResult", "summarise"]


@dataclass(frozen=True)
class SearchResult:
    """What a run came to.

    Args:
        study: Its name.
        storage: URL of its database.
        is_complete: False when it was interrupted.
        findings: Every complete trial, compared with the baseline.
        front: The Pareto front among them, cheapest first.
        best: The choice, which may be the baseline.
        checked: Its gain on fresh seeds and test pictures, if that was checked.
        config_path: The exported config of the choice.
        objective: The cost that the study minimises.
    """

    study: str
    storage: str
    is_complete: bool
    findings: list[Finding]
    front: list[Finding]
    best: Finding | None
    checked: CheckedGain | None
    config_path: Path | None
    objective: Cost = "latency"


def summarise(study: SearchStudy, storage: str, *, is_complete: bool = True) -> SearchResult:
    """Read what a study came to so far; nothing is trained."""
    found = findings(study)
    candidate = candidate_of(found)
    checked = checked_gain(study.checks(), candidate.evaluation.architecture)
    return SearchResult(
        study=study.name,
        storage=storage,
        is_complete=is_complete,
        findings=found,
        front=front(found),
        best=choose(found, "best", checked=checked),
        checked=checked,
        config_path=None,
        objective=study.record.objective,
    )

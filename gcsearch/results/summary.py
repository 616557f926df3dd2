"""What a study came to: the front, the choice and which gains held on fresh seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gcsearch.cost import Cost
from gcsearch.results.choice import choose
from gcsearch.results.confirmation import Confirmation, confirmations
from gcsearch.results.front import Finding, findings, front
from gcsearch.study import SearchStudy

__all__ = ["KEEP", "SearchResult", "summarise"]

KEEP = "no insertion beats your backbone beyond noise: keep it"


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
        config_path: The exported config of the choice.
        objective: The cost that the study minimises.
        confirmed: The gains on fresh seeds and test pictures, the surest first.
        limit: Most that a latency ratio may be.
    """

    study: str
    storage: str
    is_complete: bool
    findings: list[Finding]
    front: list[Finding]
    best: Finding | None
    config_path: Path | None
    objective: Cost = "latency"
    confirmed: list[Confirmation] = field(default_factory=list)
    limit: float | None = None

    @property
    def checked(self) -> Confirmation | None:
        """The confirmation of the choice, or the surest there is."""
        own = [c for c in self.confirmed if c.finding == self.best]
        return next(iter(own or self.confirmed), None)

    @property
    def verdict(self) -> str | None:
        """The whole in words; ``None`` while there is nothing to compare with the baseline."""
        if self.best is None or len(self.findings) < 2:
            return None
        if not self.best.is_baseline:
            if not self.confirmed:
                return f"{self.best.evaluation.architecture} leads, but was not confirmed"
            return self.checked.verdict if self.checked else None
        limit = self.limit
        if limit is not None and any(c.is_sure and c.latency.high > limit for c in self.confirmed):
            return f"what beats your backbone is over latency.limit {self.limit:g}: keep it"
        return KEEP


def summarise(study: SearchStudy, storage: str, *, is_complete: bool = True) -> SearchResult:
    """Read what a study came to so far; nothing is trained."""
    found = findings(study)
    failed = study.failed_checks()
    confirmed = confirmations(found, study.checks(), study.retimings(), failed)
    limit = study.record.limits.get("latency")
    return SearchResult(
        study=study.name,
        storage=storage,
        is_complete=is_complete,
        findings=found,
        front=front(found),
        best=choose(found, "best", confirmed=confirmed, limit=limit),
        config_path=None,
        objective=study.record.objective,
        confirmed=confirmed,
        limit=limit,
    )

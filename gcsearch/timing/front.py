"""Timing the front of a study again, in another runtime or on another machine; trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

from gcsearch.cost import LatencyRatio, LatencySettings
from gcsearch.errors import StudyError
from gcsearch.evaluation import Evaluator
from gcsearch.results import Finding

__all__ = ["FrontTiming", "Retimed", "time_front"]

FEWEST = 3
"""So few architectures are needed at least for an agreement of ranks to say anything."""


@dataclass(frozen=True)
class Retimed:
    """One architecture of the front, timed again."""

    finding: Finding
    latency: LatencyRatio


@dataclass(frozen=True)
class FrontTiming:
    """The front of a study, timed again.

    Args:
        settings: Runtime, batch and so on of the second measurement.
        rows: The architectures but the baseline, cheapest first by the study's objective.
    """

    settings: LatencySettings
    rows: Sequence[Retimed]

    @property
    def agreement(self) -> dict[str, float] | None:
        """Spearman's and Kendall's (tau-b) correlation of the two orders.

        What is inconclusive is left out; ``None`` where too few remain to say anything.
        """
        sure = [row for row in self.rows if row.latency.conclusive]
        if len(sure) < FEWEST:
            return None
        before = [row.finding.latency.value for row in sure]
        now = [row.latency.ratio for row in sure]
        return {
            "spearman": float(stats.spearmanr(before, now).statistic),
            "kendall": float(stats.kendalltau(before, now).statistic),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "agreement": self.agreement,
            "architectures": [
                {
                    "trial": row.finding.number,
                    "architecture": row.finding.evaluation.architecture.to_dict(),
                    "latency_ratio": [
                        row.finding.latency.value,
                        row.finding.latency.low,
                        row.finding.latency.high,
                    ],
                    "latency": asdict(row.latency),
                }
                for row in self.rows
            ],
        }


def time_front(
    kept: Sequence[Finding],
    evaluator: Evaluator,
    settings: LatencySettings,
    *,
    heard: Callable[[Retimed], None] = lambda row: None,
) -> FrontTiming:
    """Time every architecture of a front again.

    Args:
        kept: The front.
        evaluator: Of the study.
        settings: Of the new measurement.
        heard: Called with each row when it is done.

    Raises:
        StudyError: There is nothing but the baseline.
        LatencyError: A network refuses such an input, or the runtime a network.
    """
    altered = [finding for finding in kept if not finding.is_baseline]
    if not altered:
        raise StudyError("the front holds nothing but the baseline, so there is nothing to time")
    probe = evaluator.latency_probe(settings)
    rows = []
    for finding in altered:
        row = Retimed(finding, probe(finding.evaluation.architecture))
        heard(row)
        rows.append(row)
    return FrontTiming(settings, rows)

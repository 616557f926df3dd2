"""The Pareto front against the baseline, and what is not told from it by noise; trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gcsearch.cost import COUNTED, Cost
from gcsearch.errors import StudyError
from gcsearch.evaluation import Evaluation, unpack
from gcsearch.intervals import Interval, paired_gain, smallest_gain
from gcsearch.plan import TYPICAL_SEED_SD
from gcsearch.study import SearchStudy, TrialRow

__all__ = ["Finding", "findings", "front", "measured_smallest_gain", "near_front"]


@dataclass(frozen=True)
class Finding:
    """A complete trial, compared with the baseline on the same validation pictures.

    Args:
        number: Of the trial.
        evaluation: What was measured.
        gain: In top1, with the interval of the paired pictures (training seeds come on top).
        latency: Ratio to the backbone; exactly 1 for the backbone itself.
        ratios: The same of the costs that are counted: ``macs``, ``params`` and ``memory``, which
            older studies lack.
        objective: The cost that the study minimises.
    """

    number: int
    evaluation: Evaluation
    gain: Interval
    latency: Interval
    ratios: dict[str, float] = field(default_factory=dict)
    objective: Cost = "latency"

    @property
    def cost(self) -> Interval:
        """The ratio that the study minimises; what is counted is known exactly."""
        if self.objective == "latency":
            return self.latency
        ratio = self.ratios[self.objective]
        return Interval(ratio, ratio, ratio)

    @property
    def is_baseline(self) -> bool:
        """Whether this is the unaltered backbone."""
        return self.evaluation.architecture.is_baseline

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        evaluation = self.evaluation
        return {
            "trial": self.number,
            "id": evaluation.architecture.id,
            "architecture": evaluation.architecture.to_dict(),
            "top1": evaluation.top1,
            "loss": evaluation.loss,
            "gain": _as_list(self.gain),
            "objective": f"{self.objective}_ratio",
            "latency_ratio": _as_list(self.latency),
            **{f"{cost}_ratio": self.ratios.get(cost) for cost in COUNTED},
            "params": evaluation.params,
            "macs": evaluation.macs,
            "memory": evaluation.memory,
            "seconds": evaluation.seconds,
            "curve": list(evaluation.curve),
        }


def findings(study: SearchStudy) -> list[Finding]:
    """Return every complete trial but the duplicates, the baseline first.

    Raises:
        StudyError: The baseline's own trial is not complete yet.
    """
    baseline = study.baseline()
    if baseline is None or baseline.evaluation is None:
        raise StudyError(
            f"study {study.name!r} has no complete baseline trial yet; "
            f"go on with `gcsearch run --study {study.name}`"
        )
    objective, base = study.record.objective, baseline.evaluation
    found = [_compare(row, base, objective) for row in study.rows() if row.is_result]
    return sorted(found, key=lambda finding: not finding.is_baseline)


def front(found: Sequence[Finding]) -> list[Finding]:
    """Return those that no other beats in both top1 and the study's cost, cheapest first."""
    kept = [a for a in found if not any(_dominates(b, a) for b in found)]
    return sorted(kept, key=lambda f: (f.cost.value, -f.evaluation.top1))


def near_front(found: Sequence[Finding]) -> list[Finding]:
    """Return the front and what is not beaten by more than noise, the surest gain first.

    That is every trial the upper end of whose gain reaches the highest gain on the front at its
    cost or below.
    """
    kept = front(found)

    def is_near(finding: Finding) -> bool:
        rivals = [f.gain.value for f in kept if f.cost.value <= finding.cost.value]
        return finding.gain.high >= max(rivals)

    return sorted(filter(is_near, found), key=lambda f: (-f.gain.low, f.number))


def measured_smallest_gain(found: Sequence[Finding]) -> float | None:
    """Return the smallest gain one trial could tell from noise, by the discordance that was seen.

    The spread between seeds stays the plan's assumption: a search trains each architecture once.

    Args:
        found: All complete trials.

    Returns:
        A difference in top1, or ``None`` while nothing but the baseline is complete.
    """
    baseline = next(unpack(f.evaluation.correct) for f in found if f.is_baseline)
    rates = [
        float(np.mean(unpack(f.evaluation.correct) != baseline))
        for f in found
        if not f.is_baseline
    ]
    if not rates:
        return None
    return smallest_gain(
        baseline.size, discordance=float(np.median(rates)), seed_sd=TYPICAL_SEED_SD
    )


def _compare(row: TrialRow, baseline: Evaluation, objective: Cost) -> Finding:
    evaluation = row.evaluation
    if evaluation is None or evaluation.latency is None:
        raise StudyError(f"trial {row.number} is complete without its latency")
    if evaluation.architecture.is_baseline:
        gain, latency = Interval(0.0, 0.0, 0.0), Interval(1.0, 1.0, 1.0)
    else:
        gain = paired_gain(unpack(evaluation.correct), unpack(baseline.correct))
        measured = evaluation.latency
        latency = Interval(measured.ratio, measured.low, measured.high)
    ratios = _counted_ratios(evaluation, baseline)
    return Finding(row.number, evaluation, gain, latency, ratios, objective)


def _counted_ratios(evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
    """Return the ratios of what is counted; evaluations of old hold the counts alone."""
    if evaluation.ratios:
        return evaluation.ratios
    counts = {cost: (getattr(evaluation, cost), getattr(baseline, cost)) for cost in COUNTED}
    return {cost: own / base for cost, (own, base) in counts.items() if own and base}


def _dominates(a: Finding, b: Finding) -> bool:
    better_or_equal = a.evaluation.top1 >= b.evaluation.top1 and a.cost.value <= b.cost.value
    return better_or_equal and (
        a.evaluation.top1 > b.evaluation.top1 or a.cost.value < b.cost.value
    )


def _as_list(interval: Interval) -> list[float]:
    return [interval.value, interval.low, interval.high]

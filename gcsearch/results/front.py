"""The Pareto front against the baseline, and the choice of one architecture; trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gcsearch.cost import COUNTED, Cost
from gcsearch.errors import StudyError, UnknownNameError
from gcsearch.evaluation import Evaluation, unpack
from gcsearch.intervals import Interval, paired_gain, smallest_gain
from gcsearch.plan import TYPICAL_SEED_SD
from gcsearch.results.check import CheckedGain
from gcsearch.study import SearchStudy, TrialRow

__all__ = [
    "PICKS",
    "Finding",
    "candidate_of",
    "choose",
    "findings",
    "front",
    "measured_smallest_gain",
]

PICKS = {
    "best": "highest lower end of the gain's interval, if the check on fresh seeds (or, without "
    "one, that interval itself) lies above 0; else the baseline",
    "knee": "farthest above the line between the ends of the front",
    "fastest": "lowest cost, by the study's objective, among those not worse than the baseline",
}


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
    found = [_compare(row, base, objective) for row in study.rows() if row.evaluation]
    return sorted(found, key=lambda finding: not finding.is_baseline)


def front(found: Sequence[Finding]) -> list[Finding]:
    """Return those that no other beats in both top1 and the study's cost, cheapest first."""
    kept = [a for a in found if not any(_dominates(b, a) for b in found)]
    return sorted(kept, key=lambda f: (f.cost.value, -f.evaluation.top1))


def candidate_of(found: Sequence[Finding]) -> Finding:
    """Return the altered network with the highest lower end of its gain, or the baseline alone."""
    altered = [f for f in found if not f.is_baseline]
    return max(altered, key=lambda f: (f.gain.low, -f.number)) if altered else found[0]


def choose(
    found: Sequence[Finding],
    pick: str = "best",
    *,
    trial: int | None = None,
    checked: CheckedGain | None = None,
) -> Finding:
    """Choose one architecture.

    Args:
        found: All complete trials, the baseline among them.
        pick: One of :data:`PICKS`.
        trial: A trial's number instead of a rule.
        checked: What the final check says of :func:`candidate_of`, for ``"best"``.

    Raises:
        UnknownNameError: No such rule.
        StudyError: No such trial, or it is not complete.
    """
    if trial is not None:
        by_number = {f.number: f for f in found}
        if trial not in by_number:
            complete = ", ".join(map(str, sorted(by_number)))
            raise StudyError(f"trial {trial} is not complete; complete are {complete}")
        return by_number[trial]
    if pick not in PICKS:
        raise UnknownNameError("pick", pick, PICKS)
    if pick == "knee":
        return _knee(front(found))
    if pick == "fastest":
        not_worse = [f for f in found if f.gain.value >= 0]
        return min(not_worse, key=lambda f: (f.cost.value, -f.gain.value))
    candidate = candidate_of(found)
    gain = checked.gain if checked else candidate.gain
    return candidate if gain.low > 0 else next(f for f in found if f.is_baseline)


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


def _knee(kept: Sequence[Finding]) -> Finding:
    """Return the point of the front farthest above the chord between its ends."""
    first, last = kept[0], kept[-1]
    run = last.cost.value - first.cost.value
    rise = last.evaluation.top1 - first.evaluation.top1

    def above_chord(finding: Finding) -> float:
        along = (finding.cost.value - first.cost.value) * rise
        return (finding.evaluation.top1 - first.evaluation.top1) * run - along

    return max(kept, key=above_chord)


def _as_list(interval: Interval) -> list[float]:
    return [interval.value, interval.low, interval.high]

"""What fresh seeds and the test split say of gains that a search found; trains nothing.

A search picks the luckiest of many, so the gains it reports are too high on average. A
confirmation trains again with fresh seeds, scores on the test split, which the search never
touches, and pairs by seed and picture with the baseline.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gcsearch.architecture import Architecture
from gcsearch.cost import LatencyRatio, show_counted
from gcsearch.evaluation import Evaluation, unpack
from gcsearch.intervals import Interval, holm, paired_gain, paired_p_value
from gcsearch.results.front import Finding

__all__ = ["LEAST_SEEDS", "Confirmation", "confirmations"]

LEVEL = 0.05
"""A gain whose corrected p-value is below this is beyond noise."""
LEAST_SEEDS = 2
"""One seed alone tells nothing of the luck of seeds, which can be larger than that of pictures."""


@dataclass(frozen=True)
class Confirmation:
    """The gain of one architecture on fresh seeds and the test split.

    Args:
        finding: The trial that is confirmed, or not.
        gain: In top1 over the baseline, with an interval over pictures and seeds.
        seeds: How many of them both were trained with.
        baseline_top1: The baseline's mean top1 on the test split.
        top1: The architecture's.
        p_value: Two-sided, of there being no gain.
        p_corrected: The same by Holm's method for as many as were compared.
        compared: How many were.
        latency: Ratio to the backbone: measured anew where it was, else the search's.
        is_retimed: Whether it was.
        failed: Fresh seeds with which its training came to nothing, e.g. diverged.
    """

    finding: Finding
    gain: Interval
    seeds: int
    baseline_top1: float
    top1: float
    p_value: float
    p_corrected: float
    compared: int
    latency: Interval
    is_retimed: bool
    failed: int = 0

    @property
    def architecture(self) -> Architecture:
        """What was confirmed, or not."""
        return self.finding.evaluation.architecture

    @property
    def is_sure(self) -> bool:
        """Whether it is better than the baseline beyond noise, all that were compared counted.

        One that fails with some seeds is not, however well it does with the others.
        """
        is_beyond_noise = self.gain.value > 0 and self.p_corrected < LEVEL
        return is_beyond_noise and self.seeds >= LEAST_SEEDS and not self.failed

    @property
    def shrinkage(self) -> float:
        """The gain in the search less the confirmed one."""
        return self.finding.gain.value - self.gain.value

    @property
    def words(self) -> str:
        """The gain, and what it costs."""
        gain, latency, finding = self.gain, self.latency, self.finding
        cost = f"{latency.value:.3f}x [{latency.low:.3f}, {latency.high:.3f}]"
        if finding.objective != "latency":
            cost = f"{show_counted(finding.cost.value)}x {finding.objective}, {cost} latency"
        return (
            f"{self.architecture}: {100 * gain.value:+.1f} points "
            f"[{100 * gain.low:.1f}, {100 * gain.high:.1f}] for {cost}"
        )

    @property
    def verdict(self) -> str:
        """The result in words."""
        if self.is_sure:
            return self.words
        if not self.gain.excludes(0.0):
            return f"{self.words}: within noise"
        if self.gain.value < 0:
            return f"{self.words}: worse than your backbone"
        if self.failed:
            of = self.seeds + self.failed
            return f"{self.words}: but its training failed with {self.failed} of {of} seeds"
        if self.seeds < LEAST_SEEDS:
            return f"{self.words}: with one seed, which may be luck"
        luck = f"may be the luck of the best of {self.compared} (Holm p {self.p_corrected:.2f})"
        return f"{self.words}: {luck}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        gain, latency = self.gain, self.latency
        return {
            "trial": self.finding.number,
            "architecture": self.architecture.to_dict(),
            "id": self.architecture.id,
            "gain": [gain.value, gain.low, gain.high],
            "seeds": self.seeds,
            "baseline_top1": self.baseline_top1,
            "top1": self.top1,
            "p_value": self.p_value,
            "p_corrected": self.p_corrected,
            "compared": self.compared,
            "searched_gain": self.finding.gain.value,
            "shrinkage": self.shrinkage,
            "latency_ratio": [latency.value, latency.low, latency.high],
            "retimed": self.is_retimed,
            "failed_seeds": self.failed,
            "sure": self.is_sure,
            "verdict": self.verdict,
        }


def confirmations(
    found: Sequence[Finding],
    checks: Sequence[Evaluation],
    retimed: Mapping[str, LatencyRatio] | None = None,
    failed: Collection[tuple[str, int]] = (),
) -> list[Confirmation]:
    """Return what the checks say of each finding that has any; the surest gain first.

    Args:
        found: All complete trials.
        checks: Evaluations on fresh seeds and the test split, the baseline's among them.
        retimed: Latencies that were measured anew, by the architecture's id.
        failed: Id and seed of trainings that came to nothing.
    """
    paired = [
        (finding, *pair)
        for finding in found
        if not finding.is_baseline and (pair := _pair(checks, finding.evaluation.architecture))
    ]
    p_values = [paired_p_value(correct, baseline) for _, correct, baseline in paired]
    confirmed = []
    for (finding, correct, baseline), p, p_corrected in zip(
        paired, p_values, holm(p_values), strict=True
    ):
        own_id = finding.evaluation.architecture.id
        latency = (retimed or {}).get(own_id)
        confirmed.append(
            Confirmation(
                finding=finding,
                gain=paired_gain(correct, baseline),
                seeds=len(correct),
                baseline_top1=float(baseline.mean()),
                top1=float(correct.mean()),
                p_value=p,
                p_corrected=p_corrected,
                compared=len(paired),
                latency=(
                    Interval(latency.ratio, latency.low, latency.high)
                    if latency
                    else finding.latency
                ),
                is_retimed=latency is not None,
                failed=sum(architecture_id == own_id for architecture_id, _ in failed),
            )
        )
    return sorted(confirmed, key=lambda c: (-c.gain.low, c.finding.number))


def _pair(
    checks: Sequence[Evaluation], architecture: Architecture
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what was answered rightly with each seed that both have: (seeds, N), twice."""
    own = {e.seed: e for e in checks if e.architecture == architecture}
    base = {e.seed: e for e in checks if e.architecture.is_baseline}
    if not (seeds := sorted(own.keys() & base.keys())):
        return None
    return (
        np.stack([unpack(own[seed].correct) for seed in seeds]),
        np.stack([unpack(base[seed].correct) for seed in seeds]),
    )

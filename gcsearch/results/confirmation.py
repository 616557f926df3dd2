"""The check at the end of a run: the choice and the baseline again, on seeds and pictures unseen.

A search picks the luckiest of many, so the gain it reports is too high on average. The check
trains both again with the same fresh seeds, scores them on the test split, which the search never
touches, and pairs by seed and picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from gcsearch.architecture import Architecture
from gcsearch.evaluation import Evaluation, Evaluator, unpack
from gcsearch.intervals import Interval, paired_gain
from gcsearch.plan import Plan
from gcsearch.search import Listener
from gcsearch.study import SearchStudy

__all__ = ["CheckedGain", "check_seeds", "checked_gain", "run_check"]

FIRST_SEED = 10_000
"""Fresh seeds lie this far above the search's own."""


@dataclass(frozen=True)
class CheckedGain:
    """The gain of one architecture on fresh seeds and the test split.

    Args:
        architecture: What was checked.
        gain: In top1 over the baseline, with an interval over pictures and seeds.
        seeds: How many of them.
        baseline_top1: The baseline's mean top1 on the test split.
        top1: The architecture's.
    """

    architecture: Architecture
    gain: Interval
    seeds: int
    baseline_top1: float
    top1: float

    @property
    def verdict(self) -> str:
        """The result in words."""
        points = (
            f"{100 * self.gain.value:+.1f} points "
            f"[{100 * self.gain.low:+.1f}, {100 * self.gain.high:+.1f}]"
        )
        if self.gain.low > 0:
            return f"{self.architecture}: {points} on fresh seeds and test pictures"
        return f"{points} on fresh seeds and test pictures is within noise: keep your backbone"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return {
            "architecture": self.architecture.to_dict(),
            "id": self.architecture.id,
            "gain": [self.gain.value, self.gain.low, self.gain.high],
            "seeds": self.seeds,
            "baseline_top1": self.baseline_top1,
            "top1": self.top1,
            "verdict": self.verdict,
        }


def check_seeds(study: SearchStudy, n: int) -> list[int]:
    """Return seeds that the search did not use."""
    first = int(study.record.config["search"]["seed"]) + FIRST_SEED
    return list(range(first, first + n))


def run_check(
    study: SearchStudy,
    evaluator: Evaluator,
    plan: Plan,
    architecture: Architecture,
    listener: Listener,
) -> dict[str, nn.Module]:
    """Train the architecture and the baseline with each fresh seed; what is done already stays.

    Returns:
        The networks trained last in this call, by architecture id.
    """
    models: dict[str, nn.Module] = {}
    done = {(e.architecture.id, e.seed) for e in study.checks()}
    for seed in check_seeds(study, plan.check_seeds):
        for contender in (architecture.baseline(), architecture):
            if (contender.id, seed) in done:
                continue
            evaluation, model = evaluator.evaluate(
                contender, plan.trial, seed, split=evaluator.task.test, with_latency=False
            )
            models[contender.id] = model
            study.add_check(evaluation)
            listener.check_finished(evaluation)
    return models


def checked_gain(
    evaluations: Sequence[Evaluation], architecture: Architecture
) -> CheckedGain | None:
    """Return the gain of ``architecture`` in the final check; ``None`` if it was not checked."""
    own = {e.seed: e for e in evaluations if e.architecture == architecture}
    base = {e.seed: e for e in evaluations if e.architecture.is_baseline}
    seeds = sorted(own.keys() & base.keys())
    if not seeds or architecture.is_baseline:
        return None
    correct = np.stack([unpack(own[seed].correct) for seed in seeds])
    baseline = np.stack([unpack(base[seed].correct) for seed in seeds])
    return CheckedGain(
        architecture=architecture,
        gain=paired_gain(correct, baseline),
        seeds=len(seeds),
        baseline_top1=float(baseline.mean()),
        top1=float(correct.mean()),
    )

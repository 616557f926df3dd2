"""Main effects of sites and settings, and what the search is worth beside random architectures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gcsearch.evaluation import unpack
from gcsearch.intervals import Interval
from gcsearch.report.factors import FACTORS, level_of, levels
from gcsearch.results import Finding

__all__ = [
    "MIN_EACH",
    "Effect",
    "Effects",
    "RandomGain",
    "difference",
    "effects_of",
    "random_gain",
]

MIN_EACH = 3
"""Architectures that must have a level, and that must lack it."""


@dataclass(frozen=True)
class Effect:
    """What architectures with one level have over those without it.

    Args:
        factor: E.g. ``"ratio"``.
        level: E.g. ``"1/16"``.
        n_with: Architectures that have it somewhere.
        n_without: Those that do not.
        top1: Difference of their mean gains.
        cost: Difference of their mean cost ratios.
    """

    factor: str
    level: str
    n_with: int
    n_without: int
    top1: Interval
    cost: Interval


@dataclass(frozen=True)
class Effects:
    """All that can be told.

    Args:
        shown: Levels with :data:`MIN_EACH` architectures on either side.
        too_few: Names of the other levels.
        missing: Why nothing can be told, or ``""``.
    """

    shown: tuple[Effect, ...]
    too_few: tuple[str, ...]
    missing: str = ""


@dataclass(frozen=True)
class RandomGain:
    """The average random architecture, and the choice over it.

    Args:
        n: Random architectures that were completed.
        n_startup: That were to be drawn before the sampler began.
        mean: Their mean gain over the baseline; ``None`` of fewer than two.
        above: Gain of the subject over their mean.
        is_random: Whether the subject is itself one of them.
    """

    n: int
    n_startup: int
    mean: Interval | None
    above: Interval | None
    is_random: bool


def effects_of(found: Sequence[Finding], order: Sequence[str]) -> Effects:
    """Compare the architectures that have each level with those that lack it.

    Args:
        found: All complete trials.
        order: Paths of the sites in order of execution.
    """
    altered = [finding for finding in found if not finding.is_baseline]
    if len(altered) < 2 * MIN_EACH:
        return Effects(
            (),
            (),
            f"Too few trials: {len(altered)} architectures are complete, and an effect needs "
            f"{MIN_EACH} with and {MIN_EACH} without.",
        )
    architectures = [finding.evaluation.architecture for finding in altered]
    shown, too_few = [], []
    for factor in FACTORS:
        for level in levels(architectures, factor, order):
            effect = _effect(altered, factor, level)
            if effect is None:
                too_few.append(f"{factor} {level}")
            else:
                shown.append(effect)
    return Effects(tuple(shown), tuple(too_few))


def random_gain(found: Sequence[Finding], subject: Finding | None, n_startup: int) -> RandomGain:
    """Set the subject against the architectures drawn at random before the sampler began.

    Args:
        found: All complete trials.
        subject: The choice, or what came nearest.
        n_startup: Trials after the baseline's that were drawn at random.
    """
    drawn = [f for f in found if not f.is_baseline and f.number <= n_startup]
    is_random = subject is not None and subject in drawn
    if len(drawn) < 2:
        return RandomGain(len(drawn), n_startup, None, None, is_random)
    gains = np.array([finding.gain.value for finding in drawn])
    margin = _t(len(drawn) - 1) * float(gains.std(ddof=1)) / math.sqrt(len(drawn))
    mean = float(gains.mean())
    above = None
    if subject is not None:
        correct = np.stack([unpack(finding.evaluation.correct) for finding in drawn])
        paired = unpack(subject.evaluation.correct) - correct.mean(axis=0)
        of_pictures = 1.96 * float(paired.std(ddof=1)) / math.sqrt(paired.size)
        wide, value = math.hypot(margin, of_pictures), float(paired.mean())
        above = Interval(value, value - wide, value + wide)
    return RandomGain(
        len(drawn), n_startup, Interval(mean, mean - margin, mean + margin), above, is_random
    )


def difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> Interval:
    """Return the difference of two means with Welch's interval.

    Example:
        >>> difference(np.array([1.0, 1.0, 1.0]), np.array([0.0, 0.0, 0.0]))
        Interval(value=1.0, low=1.0, high=1.0)
    """
    value = float(a.mean() - b.mean())
    of_a, of_b = float(a.var(ddof=1)) / a.size, float(b.var(ddof=1)) / b.size
    spread = of_a + of_b
    if spread == 0:
        return Interval(value, value, value)
    freedom = spread**2 / (of_a**2 / (a.size - 1) + of_b**2 / (b.size - 1))
    margin = _t(freedom) * math.sqrt(spread)
    return Interval(value, value - margin, value + margin)


def _effect(altered: Sequence[Finding], factor: str, level: str) -> Effect | None:
    has = np.array(
        [
            any(level_of(i, factor) == level for i in f.evaluation.architecture.insertions)
            for f in altered
        ]
    )
    n_with, n_without = int(has.sum()), int((~has).sum())
    if min(n_with, n_without) < MIN_EACH:
        return None
    top1 = np.array([finding.gain.value for finding in altered])
    cost = np.array([finding.cost.value for finding in altered])
    return Effect(
        factor=factor,
        level=level,
        n_with=n_with,
        n_without=n_without,
        top1=difference(top1[has], top1[~has]),
        cost=difference(cost[has], cost[~has]),
    )


def _t(freedom: float) -> float:
    return float(stats.t.ppf(0.975, freedom))

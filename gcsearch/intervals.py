"""How sure a number is: intervals of paired gains and ratios, the smallest gain worth claiming.

Pure functions over numpy arrays; knows neither what was measured nor how.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

__all__ = [
    "Interval",
    "holm",
    "median_ratio",
    "paired_gain",
    "paired_p_value",
    "smallest_gain",
    "spread_of_seeds",
]

CONFIDENCE = 0.95
POWER = 0.80
TYPICAL_DISCORDANCE = 0.15
"""Share of pictures two fine-tunings of one backbone are assumed to answer differently.

On the careful side of the 0.07 that `benchmarks/reliability.py` printed for ResNet-18. Only the
plan uses it, before a search; its results use what was seen.
"""
N_BOOTSTRAP = 1000
LEAST_LOG_P = -600.0
"""Below this a p-value is called 0."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval.

    Example:
        >>> Interval(1.02, 1.01, 1.03).excludes(1.0)
        True
    """

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the distance between the ends."""
        return (self.high - self.low) / 2

    def excludes(self, value: float) -> bool:
        """Whether ``value`` lies outside."""
        return not self.low <= value <= self.high


def paired_gain(correct: NDArray[np.bool_], baseline: NDArray[np.bool_]) -> Interval:
    """Return the gain in top1 over the baseline on the same pictures, with its interval.

    The interval is that of a mean of paired differences in {-1, 0, 1} (the normal form of
    McNemar's test). It covers the choice of pictures. With several seeds their spread is
    added by Student's t, which is wide for as few as two, as it should be. With one seed its luck
    comes on top: :func:`smallest_gain` accounts for it, a check on fresh seeds measures it.

    Args:
        correct: Whether each picture was answered rightly, shape (N,), or (seeds, N).
        baseline: The same for the baseline, of the same shape.

    Raises:
        ValueError: The shapes differ, or there are fewer than two pictures.

    Example:
        >>> gain = paired_gain(np.array([1, 1, 1, 0], bool), np.array([1, 0, 1, 0], bool))
        >>> gain.value
        0.25
    """
    spread = _Spread.of(correct, baseline)
    margin = spread.margin(1 - CONFIDENCE)
    return Interval(spread.gain, spread.gain - margin, spread.gain + margin)


def paired_p_value(correct: NDArray[np.bool_], baseline: NDArray[np.bool_]) -> float:
    """Return the two-sided p-value of no gain: below 0.05 where :func:`paired_gain` excludes 0.

    It is the smallest level at which the interval would still exclude 0, so that the two can never
    disagree.

    Args:
        correct: Whether each picture was answered rightly, shape (N,), or (seeds, N).
        baseline: The same for the baseline, of the same shape.

    Raises:
        ValueError: As of :func:`paired_gain`.

    Example:
        >>> paired_p_value(np.array([1, 0, 1, 0], bool), np.array([0, 1, 1, 0], bool))
        1.0
    """
    spread = _Spread.of(correct, baseline)
    gain = abs(spread.gain)
    if gain == 0:
        return 1.0

    def excess(log_p: float) -> float:
        return spread.margin(math.exp(log_p)) - gain

    if excess(LEAST_LOG_P) <= 0:
        return 0.0
    return math.exp(float(optimize.brentq(excess, LEAST_LOG_P, 0.0)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979): the chance of any false one.

    Args:
        p_values: Of all that were compared, in any order; the answer has the same.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def smallest_gain(
    n_images: int,
    *,
    discordance: float = TYPICAL_DISCORDANCE,
    seed_sd: float = 0.0,
    n_seeds: int = 1,
    estimates_seeds: bool = False,
) -> float:
    """Return the smallest true gain that would be told from noise four times in five.

    With a share ``q`` of pictures answered differently, a paired difference has the variance
    ``q / n_images``; each of the two trainings adds ``seed_sd**2``; averaging over seeds divides
    the latter. The gain must exceed ``(z_.975 + z_.80)`` standard errors (Lachin 1981, eq. 1;
    for paired proportions Miettinen 1968). An interval that estimates the spread of few seeds, as
    :func:`paired_gain` does, is wider than that: Student's quantile takes the place of the normal.

    Args:
        n_images: Pictures both are scored on.
        discordance: Share of pictures that the two answer differently, in [0, 1].
        seed_sd: Standard deviation of top1 from seed to seed of one architecture.
        n_seeds: Seeds averaged for each of the two.
        estimates_seeds: Whether the spread between these seeds will itself be estimated from them.

    Example:
        >>> round(smallest_gain(2000, discordance=0.1, seed_sd=0.005), 4)
        0.028
    """
    of_images, of_seeds = math.sqrt(discordance / n_images), seed_sd * math.sqrt(2 / n_seeds)
    quantile = _z(CONFIDENCE)
    if estimates_seeds and n_seeds > 1:
        quantile = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n_seeds - 1))
    margin = math.hypot(_z(CONFIDENCE) * of_images, quantile * of_seeds)
    return margin + NormalDist().inv_cdf(POWER) * math.hypot(of_images, of_seeds)


def median_ratio(
    log_ratios: NDArray[np.float64],
    groups: NDArray[np.int_] | None = None,
    *,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    n_bootstrap: int = N_BOOTSTRAP,
) -> Interval:
    """Return the median of paired ratios with its bootstrap interval.

    The bootstrap draws whole groups, for what pairs of a group have in common does not average out
    within it. Percentiles of few groups lie too close together, so the interval is Student's, on
    the scale of logs, with the standard error that the bootstrap gives and the usual correction
    for few (Hesterberg 2015, "What teachers should know about the bootstrap"). A single group
    tells nothing of others: its interval is all it holds.

    Args:
        log_ratios: Natural logs of candidate over baseline, one for each pair, shape (N,).
        groups: Of each pair, numbered from 0, shape (N,); by default each is a group of its own.
        seed: Of the bootstrap; the same pairs give the same interval.
        confidence: Of the interval, in (0, 1).
        n_bootstrap: Resamples.

    Raises:
        ValueError: There is no pair.

    Example:
        >>> median_ratio(np.log([1.1, 1.1, 1.1])).value.__round__(6)
        1.1
    """
    if log_ratios.size == 0:
        raise ValueError("a ratio needs at least one pair")
    groups = np.arange(log_ratios.size) if groups is None else groups
    order = np.argsort(log_ratios)
    values, groups = log_ratios[order], groups[order]
    n = int(groups.max()) + 1
    middle = float(np.median(values))
    if n == 1:
        low, high = float(values[0]), float(values[-1])
    else:
        draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), n_bootstrap)
        medians = [_weighted_median(values, drawn[groups]) for drawn in draws]
        error = math.sqrt(n / (n - 1)) * float(np.std(medians, ddof=1))
        margin = float(stats.t.isf((1 - confidence) / 2, n - 1)) * error
        low, high = middle - margin, middle + margin
    return Interval(math.exp(middle), math.exp(low), math.exp(high))


def spread_of_seeds(groups: list[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the variance within and between groups of repeated scores.

    One-way random-effects analysis of variance (Searle, Casella and McCulloch 1992, section 3.6):
    the between estimate is freed of the noise that leaks in from within, and may come out as 0.

    Args:
        groups: For each architecture the scores of its seeds; at least two groups of two.

    Raises:
        ValueError: Fewer than two groups, or a group of fewer than two scores.

    Example:
        >>> within, between = spread_of_seeds([np.array([1.0, 1.0]), np.array([2.0, 2.0])])
        >>> within, between
        (0.0, 0.5)
    """
    if len(groups) < 2 or min(map(len, groups)) < 2:
        raise ValueError("reliability needs at least two architectures with two seeds each")
    counts = np.array([len(g) for g in groups], dtype=float)
    total = counts.sum()
    means = np.array([g.mean() for g in groups])
    grand = float((counts * means).sum() / total)
    within = sum(float(((g - g.mean()) ** 2).sum()) for g in groups) / (total - len(groups))
    mean_square = float((counts * (means - grand) ** 2).sum()) / (len(groups) - 1)
    typical_count = (total - float((counts**2).sum()) / total) / (len(groups) - 1)
    between = (mean_square - float(within)) / float(typical_count)
    return float(within), max(0.0, between)


@dataclass(frozen=True)
class _Spread:
    """A paired gain, its standard error over pictures, and that over seeds, if there are several.

    Args:
        gain: The mean difference.
        of_pictures: Standard error over the choice of pictures.
        of_seeds: Standard error over seeds; 0 with one seed.
        n_seeds: How many.
    """

    gain: float
    of_pictures: float
    of_seeds: float
    n_seeds: int

    @classmethod
    def of(cls, correct: NDArray[np.bool_], baseline: NDArray[np.bool_]) -> _Spread:
        """Compare two arrays of the same shape, (N,) or (seeds, N)."""
        if correct.shape != baseline.shape:
            raise ValueError(
                f"pairing needs equal shapes, got {correct.shape} and {baseline.shape}"
            )
        if correct.shape[-1] < 2:
            raise ValueError(f"an interval needs at least two pictures, got {correct.shape[-1]}")
        difference = np.atleast_2d(correct.astype(float) - baseline.astype(float))
        by_picture, by_seed = difference.mean(axis=0), difference.mean(axis=1)
        n_seeds, n_pictures = difference.shape
        of_seeds = float(by_seed.std(ddof=1)) / math.sqrt(n_seeds) if n_seeds > 1 else 0.0
        of_pictures = float(by_picture.std(ddof=1)) / math.sqrt(n_pictures)
        return cls(float(by_picture.mean()), of_pictures, of_seeds, n_seeds)

    def margin(self, level: float) -> float:
        """Return the half-width of the interval that errs with probability ``level``."""
        margin = float(stats.norm.isf(level / 2)) * self.of_pictures
        if self.of_seeds > 0:  # else an infinite quantile would make no number of it
            quantile = float(stats.t.isf(level / 2, self.n_seeds - 1))
            margin = math.hypot(margin, quantile * self.of_seeds)
        return margin


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.int_]) -> float:
    """Return the median of sorted values, each taken ``weights`` times."""
    upto = np.cumsum(weights)
    half = upto[-1] / 2
    middle = [np.searchsorted(upto, half, side) for side in ("left", "right")]
    return float(values[middle].mean())


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)

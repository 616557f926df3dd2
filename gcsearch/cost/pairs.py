"""Timing contenders in turn, in random order within each round; knows no model and no runtime.

Absolute times on a shared machine drift by tens of per cent within minutes; the ratio of two
passes a few milliseconds apart does not. So the contenders run in turn, and the estimate is the
median of log ratios of passes that lie close together (duet benchmarking, arXiv 2001.05811; random
interleaving as in google/benchmark).

Rounds come in blocks. Before a block something is made anew that would otherwise stay as it fell
out, such as places in memory; within it every pass of one contender is paired with every pass of
the other, which uses more of what was measured than pairs within a round (the estimator of Hodges
and Lehmann 1963 in each block). What varies from block to block is in the interval, for whole
blocks are what the bootstrap draws.

An interval that decides when measuring ends is looked at several times, and those that end it are
narrow by luck more often than others. So each is taken at the level that Pocock (1977) gives for
two looks; with levels of 95 % those of a noisy machine, which are of few blocks, held the truth in
88 % (58 of 66 of ResNet-50 against itself).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from gcsearch.intervals import Interval, median_ratio

__all__ = ["BLOCK_ROUNDS", "Times", "n_blocks", "paired_ratio", "time_in_turn", "warm_up"]

Times = NDArray[np.float64]
"""Seconds of each contender in each round, shape (rounds, contenders)."""

BLOCK_ROUNDS = 3
CHECK_AFTER = 1.25
"""Whether it is enough is asked again after so many times the rounds: an answer takes the longer
the more there are."""
CONFIDENCE_OF_A_LOOK = 1 - 0.0294
WARM_UP_ROUNDS = (3, 30)
STEADY = 0.05


def time_in_turn(
    contenders: Sequence[Callable[[], float]],
    is_enough: Callable[[Times], bool],
    *,
    limit_s: float,
    seed: int = 0,
    renew: Callable[[], None] | None = None,
) -> Times:
    """Time contenders in turn until it is enough or the time is up.

    Args:
        contenders: Each does its work once and returns the seconds it took.
        is_enough: Asked after a block, not after each.
        limit_s: Seconds after which no round begins.
        seed: Of the order within rounds.
        renew: Called before each block of :data:`BLOCK_ROUNDS` rounds; each contender then runs
            once untimed, on what it left cold.

    Example:
        >>> time_in_turn([lambda: 1.0, lambda: 2.0], lambda times: len(times) >= 10, limit_s=9)[0]
        array([1., 2.])
    """
    rng = np.random.default_rng(seed)
    rows: list[Times] = []
    next_check = 0.0
    deadline = time.perf_counter() + limit_s
    with _no_collection():
        while not rows or time.perf_counter() < deadline:
            if renew and len(rows) % BLOCK_ROUNDS == 0:
                renew()
                for contender in dict.fromkeys(contenders):
                    contender()
            row = np.empty(len(contenders))
            for index in rng.permutation(len(contenders)):
                row[index] = contenders[index]()
            rows.append(row)
            if len(rows) % BLOCK_ROUNDS == 0 and len(rows) >= next_check:
                if is_enough(np.array(rows)):
                    break
                next_check = CHECK_AFTER * len(rows)
    return np.array(rows)


def n_blocks(times: Times) -> int:
    """Return how many whole blocks of rounds there are."""
    return len(times) // BLOCK_ROUNDS


def paired_ratio(times: Times, one: int, others: Sequence[int], *, seed: int = 0) -> Interval:
    """Return the ratio of a contender's time to that of others, with its 95 % interval.

    Args:
        times: As of :func:`time_in_turn`.
        one: Column of the contender.
        others: Columns it is compared with.
        seed: Of the bootstrap.

    Example:
        >>> paired_ratio(np.array([[2.2, 2.0, 2.0], [1.1, 1.0, 1.0]]), 0, [1, 2]).value.__round__(
        ...     3
        ... )
        1.1
    """
    logs = np.log(times)
    blocks = np.split(logs, range(BLOCK_ROUNDS, len(logs), BLOCK_ROUNDS))
    pairs = [(block[:, one, None, None] - block[None, :, others]).ravel() for block in blocks]
    groups = np.repeat(np.arange(len(pairs)), [len(each) for each in pairs])
    return median_ratio(np.concatenate(pairs), groups, seed=seed, confidence=CONFIDENCE_OF_A_LOOK)


def warm_up(contenders: Sequence[Callable[[], float]], *, limit_s: float) -> None:
    """Run contenders in turn until a round takes no less than the ones before it.

    Args:
        contenders: As for :func:`time_in_turn`.
        limit_s: Seconds after which it ends anyway; a few rounds are run always.
    """
    least, most = WARM_UP_ROUNDS
    deadline = time.perf_counter() + limit_s
    rounds: list[float] = []
    while len(rounds) < most:
        rounds.append(sum(contender() for contender in contenders))
        is_steady = len(rounds) > least and rounds[-1] >= (1 - STEADY) * min(rounds[:-1])
        if len(rounds) >= least and (is_steady or time.perf_counter() > deadline):
            return


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's collector from running within a pass."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

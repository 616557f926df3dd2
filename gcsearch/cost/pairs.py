"""Timing contenders in turn, in random order within each round; knows no model and no runtime.

Absolute times on a shared machine drift by tens of per cent within minutes; the ratio of two
passes a few milliseconds apart does not. So the contenders run in turn, and the estimate is the
median over rounds of the log ratio, with a bootstrap interval (duet benchmarking, arXiv
2001.05811; random interleaving as in google/benchmark).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

__all__ = ["Times", "time_in_turn", "warm_up"]

Times = NDArray[np.float64]
"""Seconds of each contender in each round, shape (rounds, contenders)."""

CHECK_EVERY = 10
WARM_UP_ROUNDS = (3, 30)
STEADY = 0.05


def time_in_turn(
    contenders: Sequence[Callable[[], float]],
    is_enough: Callable[[Times], bool],
    *,
    limit_s: float,
    seed: int = 0,
) -> Times:
    """Time contenders in turn until it is enough or the time is up.

    Args:
        contenders: Each does its work once and returns the seconds it took.
        is_enough: Asked every few rounds.
        limit_s: Seconds after which no round begins.
        seed: Of the order within rounds.

    Example:
        >>> time_in_turn([lambda: 1.0, lambda: 2.0], lambda times: len(times) >= 10, limit_s=9)[0]
        array([1., 2.])
    """
    rng = np.random.default_rng(seed)
    rows: list[Times] = []
    deadline = time.perf_counter() + limit_s
    with _no_collection():
        while not rows or time.perf_counter() < deadline:
            row = np.empty(len(contenders))
            for index in rng.permutation(len(contenders)):
                row[index] = contenders[index]()
            rows.append(row)
            if len(rows) % CHECK_EVERY == 0 and is_enough(np.array(rows)):
                break
    return np.array(rows)


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

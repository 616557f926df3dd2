"""What an additive table says of latencies before they are measured, and how right it was.

Builds the table in the driver, entry by entry, each kept as soon as it is measured; knows no
worker, no sampler and no SQL.
"""

from __future__ import annotations

import time

from gcsearch.architecture import Architecture
from gcsearch.cost import LatencyRatio
from gcsearch.cost.table import (
    Entry,
    Group,
    LatencyTable,
    Prediction,
    entry_precision,
    plan_groups,
)
from gcsearch.errors import LatencyError
from gcsearch.evaluation import Evaluator, Refusal
from gcsearch.space import SearchSpace
from gcsearch.study import LatencyStore
from gcsearch.tuning.events import Listener

__all__ = ["Foresight", "build_table", "n_missing"]


class Foresight:
    """Predicts the latency of each proposal, and keeps the prediction beside the measurement.

    Args:
        table: What each block adds.
        store: Where measurements of whole architectures are kept.
        study: Name of the study, to keep them by.
        limit: Most that an architecture may take, if there is a limit.
    """

    def __init__(
        self, table: LatencyTable, store: LatencyStore, study: str, limit: float | None
    ) -> None:
        self._table, self._store = table, store
        self._study, self._limit = study, limit
        self._open: dict[int, tuple[Architecture, Prediction]] = {}

    def refusal(self, number: int, architecture: Architecture) -> Refusal | None:
        """Refuse a proposal if even the lower bound of its prediction is over the limit.

        Not before the table has been tried on a few architectures, as until then its intervals
        know nothing of its own errors. What is not refused is remembered until :meth:`settle`.
        The baseline's ratio is 1 by definition, and says nothing of the table.
        """
        prediction = None if architecture.is_baseline else self._table.predict(architecture)
        if prediction is None:
            return None
        if self._limit is None or prediction.low <= self._limit or not self._table.is_tried:
            self._open[number] = architecture, prediction
            return None
        return Refusal("latency", self._limit, {}, prediction)

    def settle(self, number: int, latency: LatencyRatio) -> None:
        """Keep what was measured for a trial, and learn how far its prediction was off."""
        if number in self._open:
            architecture, prediction = self._open.pop(number)
            self._store.add_measurement(self._study, number, architecture, latency, prediction)
            self._table.note(latency.ratio - prediction.ratio)


def n_missing(evaluator: Evaluator, space: SearchSpace, store: LatencyStore) -> int:
    """Return how many entries :func:`build_table` would measure."""
    known = store.entries()
    return sum(g.part.id not in known for g in plan_groups(space, evaluator.timed_sites()))


def build_table(
    evaluator: Evaluator,
    space: SearchSpace,
    store: LatencyStore,
    listener: Listener,
    *,
    deadline: float | None = None,
) -> LatencyTable:
    """Return the table of a space, measuring what the database lacks.

    An entry that is too noisy to be a number is left out; the next call tries it again.

    Args:
        evaluator: Times the architectures.
        space: What is to be predicted.
        store: Has the entries there are, and gets the new ones.
        listener: Hears of every entry.
        deadline: On the clock of ``time.monotonic``; no entry is begun after it.
    """
    sites = evaluator.timed_sites()
    groups, entries = plan_groups(space, sites), store.entries()
    missing = [group for group in groups if group.part.id not in entries]
    n_known = len(groups) - len(missing)
    n_blocks = min(space.max_insertions, len(space.sites))
    listener.table_measured(n_known, len(groups))
    for n_tried, group in enumerate(missing, start=1):
        if deadline is not None and time.monotonic() > deadline:
            break
        n_sites = len(group.architecture.insertions)
        precision = entry_precision(n_sites, n_blocks, evaluator.config.latency.precision)
        if entry := _measure(evaluator, group, precision):
            store.add_entry(group.part, entry)
            entries[group.part.id] = entry
        listener.table_measured(n_known + n_tried, len(groups))
    if n_left_out := sum(group.part.id not in entries for group in groups):
        listener.notice(
            f"{n_left_out} of {len(groups)} entries of the latency table are missing, too noisy "
            "to be numbers or out of time; architectures that need them are not predicted"
        )
    residuals = [measurement.residual for measurement in store.measurements()]
    return LatencyTable(sites, entries, residuals)


def _measure(evaluator: Evaluator, group: Group, precision: float) -> Entry | None:
    """Time a part at all its sites at once, if that comes to a number."""
    try:
        latency = evaluator.measure_latency(group.architecture, precision)
    except LatencyError:
        return None
    if not latency.conclusive:
        return None
    n_sites = len(group.architecture.insertions)
    return Entry(latency.ratio, latency.low, latency.high, n_sites)

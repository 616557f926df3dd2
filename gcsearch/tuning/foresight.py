"""What an additive table says of latencies before they are measured, and how right it was.

Builds the table in the driver, entry by entry, each kept as soon as it is measured; knows no
worker, no sampler and no SQL.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from gcsearch.architecture import Architecture
from gcsearch.cost import LatencyRatio
from gcsearch.cost.latency import LOOSE
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
from gcsearch.surgery import Site
from gcsearch.tuning.events import Listener

__all__ = ["Foresight", "build_table", "table_work"]

LEAST_SHARE = 0.25
"""What an entry takes at least, of the time that a whole architecture takes: it is made ready,
and the machine warmed up, just the same."""


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


def table_work(evaluator: Evaluator, space: SearchSpace, store: LatencyStore) -> float:
    """Return what :func:`build_table` would measure, in measurements of whole architectures.

    Seconds go as one over the square of a precision, but for what making ready takes.
    """
    whole = evaluator.config.latency.precision
    missing = _missing(_planned(evaluator, space, evaluator.timed_sites()), store.entries())
    return sum(max(LEAST_SHARE, (whole / precision) ** 2) for _, precision in missing)


def build_table(
    evaluator: Evaluator,
    space: SearchSpace,
    store: LatencyStore,
    listener: Listener,
    *,
    deadline: float | None = None,
) -> LatencyTable:
    """Return the table of a space, measuring what the database lacks or does not know well enough.

    An entry that is too noisy to be a number is left out; the next call tries it again.

    Args:
        evaluator: Times the architectures.
        space: What is to be predicted.
        store: Has the entries there are, and gets the new ones.
        listener: Hears of every entry.
        deadline: On the clock of ``time.monotonic``; no entry is begun after it.
    """
    sites = evaluator.timed_sites()
    planned, entries = _planned(evaluator, space, sites), store.entries()
    missing = _missing(planned, entries)
    n_known, reason = len(planned) - len(missing), ""
    listener.table_measured(n_known, len(planned))
    for n_tried, (group, precision) in enumerate(missing, start=1):
        if deadline is not None and time.monotonic() > deadline:
            reason = "the time was up"
            break
        try:
            entries[group.part.id] = _measure(evaluator, group, precision)
            store.add_entry(group.part, entries[group.part.id])
        except LatencyError as error:
            reason = str(error)
        listener.table_measured(n_known + n_tried, len(planned))
    if n_left_out := sum(group.part.id not in entries for group, _ in planned):
        listener.notice(
            f"{n_left_out} of {len(planned)} entries of the latency table are missing, and "
            f"architectures that need them are not predicted; the last: {reason}"
        )
    residuals = [measurement.residual for measurement in store.measurements()]
    return LatencyTable(sites, entries, residuals)


def _planned(
    evaluator: Evaluator, space: SearchSpace, sites: Sequence[Site]
) -> list[tuple[Group, float]]:
    """Return what the table of a space holds, and how precisely each entry is to be known."""
    n_blocks = min(space.max_insertions, len(space.sites))
    precision = evaluator.config.latency.precision
    return [
        (group, entry_precision(group.n_sites, n_blocks, precision))
        for group in plan_groups(space, sites)
    ]


def _missing(
    planned: Iterable[tuple[Group, float]], entries: Mapping[str, Entry]
) -> list[tuple[Group, float]]:
    """Return what is to be measured: the database may have an entry of a search that needed less.

    One counts as known that would be conclusive if it had just been measured.
    """
    return [
        (group, precision)
        for group, precision in planned
        if (known := entries.get(group.part.id)) is None or known.precision > LOOSE * precision
    ]


def _measure(evaluator: Evaluator, group: Group, precision: float) -> Entry:
    """Time a part at all its sites at once.

    Raises:
        LatencyError: It comes to no number.
    """
    latency = evaluator.measure_latency(group.architecture, precision)
    if not latency.conclusive:
        raise LatencyError(latency.reason)
    return Entry(latency.ratio, latency.low, latency.high, group.n_sites)

"""Additive tables of latencies in a database: read and written; knows neither table nor trial."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from optuna.storages import RDBStorage
from sqlalchemy import ColumnElement, Engine, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from gcsearch.architecture import Architecture
from gcsearch.cost import LatencyRatio
from gcsearch.cost.table import Entry, Part, Prediction
from gcsearch.study.tables import ContextRow, LatencyRow, MeasurementRow

__all__ = ["LatencyStore", "Measurement", "measurements_of"]


@dataclass(frozen=True)
class Measurement:
    """An architecture that was measured whole, and what had been predicted for it."""

    architecture: Architecture
    ratio: float
    prediction: Prediction

    @property
    def residual(self) -> float:
        """What was measured less what had been predicted."""
        return self.ratio - self.prediction.ratio


class LatencyStore:
    """What is known of the latencies of one context, shared by all studies of a database.

    Args:
        storage: The open database.
        context: All that a latency depends on but the architecture, as plain data.
    """

    def __init__(self, storage: RDBStorage, context: Mapping[str, Any]) -> None:
        self._engine = storage.engine
        self._context_id = _context_id(self._engine, dict(context))

    def entries(self) -> dict[str, Entry]:
        """Return the entries of the table, by the ``id`` of their part."""
        wanted = select(LatencyRow).where(LatencyRow.context_id == self._context_id)
        with Session(self._engine) as session:
            rows = session.scalars(wanted)
            return {r.part_hash: Entry(r.ratio, r.low, r.high, r.n_sites) for r in rows}

    def add_entry(self, part: Part, entry: Entry) -> None:
        """Keep an entry; where there is one already, the narrower of the two."""
        row = LatencyRow(
            context_id=self._context_id,
            part_hash=part.id,
            part=part.to_dict(),
            n_sites=entry.n,
            ratio=entry.ratio,
            low=entry.low,
            high=entry.high,
        )
        _add_unless_there(self._engine, row)
        wider = (
            (LatencyRow.context_id == self._context_id)
            & (LatencyRow.part_hash == part.id)
            & ((LatencyRow.high - LatencyRow.low) / LatencyRow.n_sites > 2 * entry.half_width)
        )
        better = {"ratio": entry.ratio, "low": entry.low, "high": entry.high, "n_sites": entry.n}
        with Session(self._engine) as session, session.begin():
            session.execute(update(LatencyRow).where(wider).values(**better))

    def add_measurement(
        self,
        study: str,
        trial: int,
        architecture: Architecture,
        latency: LatencyRatio,
        prediction: Prediction,
    ) -> None:
        """Keep what was measured for a whole architecture, and what had been predicted."""
        row = MeasurementRow(
            context_id=self._context_id,
            study=study,
            trial=trial,
            architecture=architecture.to_dict(),
            ratio=latency.ratio,
            low=latency.low,
            high=latency.high,
            predicted_ratio=prediction.ratio,
            predicted_low=prediction.low,
            predicted_high=prediction.high,
        )
        with Session(self._engine) as session, session.begin():
            session.add(row)

    def measurements(self) -> list[Measurement]:
        """Return the architectures that were measured whole, of whichever study, in order."""
        return _measurements(self._engine, MeasurementRow.context_id == self._context_id)


def measurements_of(storage: RDBStorage, study: str) -> list[Measurement]:
    """Return the architectures of one study that were measured whole, whatever the context."""
    return _measurements(storage.engine, MeasurementRow.study == study)


def _measurements(engine: Engine, which: ColumnElement[bool]) -> list[Measurement]:
    with Session(engine) as session:
        rows = session.scalars(select(MeasurementRow).where(which).order_by(MeasurementRow.id))
        return [
            Measurement(
                Architecture.from_dict(row.architecture),
                row.ratio,
                Prediction(row.predicted_ratio, row.predicted_low, row.predicted_high),
            )
            for row in rows
        ]


def _context_id(engine: Engine, context: dict[str, Any]) -> int:
    """Return the number of a context; a new one gets its number here."""
    text = json.dumps(context, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    wanted = select(ContextRow.id).where(ContextRow.hash == digest)
    with Session(engine) as session:
        known = session.scalar(wanted)
    if known is not None:
        return known
    _add_unless_there(engine, ContextRow(hash=digest, content=context))
    with Session(engine) as session:
        return session.scalars(wanted).one()


def _add_unless_there(engine: Engine, row: ContextRow | LatencyRow) -> None:
    """Insert a row, unless another process has inserted its like meanwhile."""
    with suppress(IntegrityError), Session(engine) as session, session.begin():
        session.add(row)

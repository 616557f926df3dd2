"""Our own tables beside Optuna's, in the same database; what is in them is read elsewhere.

The form of a database is made by the steps in ``migrations``, never by these classes: a test
compares the two. To change a table, change it here and add a step.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, ForeignKey, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["ContextRow", "LatencyRow", "MeasurementRow", "Tables"]

HASH_LENGTH = 64
NAMES = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}
"""What constraints are called, so that a later step can name them on every database."""


def _now() -> datetime:
    return datetime.now(UTC)


class Tables(DeclarativeBase):
    """All tables of gcsearch; their names keep clear of Optuna's."""

    metadata = MetaData(naming_convention=NAMES)


class ContextRow(Tables):
    """All that some latencies depend on but the architecture: backbone, machine, settings."""

    __tablename__ = "gcsearch_contexts"

    id: Mapped[int] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(String(HASH_LENGTH), unique=True)
    """Of the canonical JSON of ``content``."""
    content: Mapped[dict[str, Any]] = mapped_column(JSON)
    made_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class LatencyRow(Tables):
    """One entry of an additive table: the backbone with one part at ``n_sites`` sites."""

    __tablename__ = "gcsearch_latencies"
    __table_args__ = (UniqueConstraint("context_id", "part_hash"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    context_id: Mapped[int] = mapped_column(ForeignKey("gcsearch_contexts.id"))
    part_hash: Mapped[str] = mapped_column(String(HASH_LENGTH))
    """Of the canonical JSON of ``part``."""
    part: Mapped[dict[str, Any]] = mapped_column(JSON)
    n_sites: Mapped[int]
    ratio: Mapped[float]
    low: Mapped[float]
    high: Mapped[float]
    measured_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class MeasurementRow(Tables):
    """An architecture that was measured whole, and what the table had predicted for it."""

    __tablename__ = "gcsearch_measurements"

    id: Mapped[int] = mapped_column(primary_key=True)
    context_id: Mapped[int] = mapped_column(ForeignKey("gcsearch_contexts.id"), index=True)
    study: Mapped[str] = mapped_column(Text)
    trial: Mapped[int]
    architecture: Mapped[dict[str, Any]] = mapped_column(JSON)
    ratio: Mapped[float]
    low: Mapped[float]
    high: Mapped[float]
    predicted_ratio: Mapped[float]
    predicted_low: Mapped[float]
    predicted_high: Mapped[float]
    measured_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)

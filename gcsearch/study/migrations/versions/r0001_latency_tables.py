"""Contexts, and what blocks add to the latency in each."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the two tables."""
    op.create_table(
        "gcsearch_contexts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gcsearch_contexts"),
        sa.UniqueConstraint("hash", name="uq_gcsearch_contexts_hash"),
    )
    op.create_table(
        "gcsearch_latencies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("context_id", sa.Integer(), nullable=False),
        sa.Column("part_hash", sa.String(64), nullable=False),
        sa.Column("part", sa.JSON(), nullable=False),
        sa.Column("n_sites", sa.Integer(), nullable=False),
        sa.Column("ratio", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=False),
        sa.Column("high", sa.Double(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gcsearch_latencies"),
        sa.ForeignKeyConstraint(
            ["context_id"], ["gcsearch_contexts.id"], name="fk_gcsearch_latencies_context_id"
        ),
        sa.UniqueConstraint(
            "context_id", "part_hash", name="uq_gcsearch_latencies_context_id_part_hash"
        ),
    )

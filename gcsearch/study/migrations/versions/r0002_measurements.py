"""Architectures that were measured whole, with what had been predicted for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "gcsearch_measurements",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("context_id", sa.Integer(), nullable=False),
        sa.Column("study", sa.Text(), nullable=False),
        sa.Column("trial", sa.Integer(), nullable=False),
        sa.Column("architecture", sa.JSON(), nullable=False),
        sa.Column("ratio", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=False),
        sa.Column("high", sa.Double(), nullable=False),
        sa.Column("predicted_ratio", sa.Double(), nullable=False),
        sa.Column("predicted_low", sa.Double(), nullable=False),
        sa.Column("predicted_high", sa.Double(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gcsearch_measurements"),
        sa.ForeignKeyConstraint(
            ["context_id"], ["gcsearch_contexts.id"], name="fk_gcsearch_measurements_context_id"
        ),
    )
    op.create_index("ix_gcsearch_measurements_context_id", "gcsearch_measurements", ["context_id"])

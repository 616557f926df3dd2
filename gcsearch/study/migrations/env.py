"""What Alembic runs to migrate; it is given a connection, and knows no URL.

Alembic executes this file and nobody imports it: `gcsearch.study.schema` is the way in.
"""

from __future__ import annotations

from alembic import context

from gcsearch.study.tables import Tables

given = context.config.attributes
context.configure(
    connection=given["connection"],
    version_table=given["version_table"],
    target_metadata=Tables.metadata,
)
with context.begin_transaction():
    context.run_migrations()

"""Bringing our tables in a database to their newest form; knows nothing of what is in them.

Optuna keeps the revision of its own tables in ``alembic_version``, so ours is in another table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from gcsearch.errors import StudyError

__all__ = ["VERSION_TABLE", "upgrade"]

VERSION_TABLE = "gcsearch_version"
LOCK = 6_371_402_817
"""Any number that no other program locks in the same PostgreSQL database."""


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Take every step that a database still lacks; do nothing if it lacks none.

    Args:
        engine: Of the database.
        revision: Where to stop; by default at the newest.

    Raises:
        StudyError: A newer gcsearch has made the tables.
        SQLAlchemyError: The database cannot be read or written.
    """
    config = Config()
    config.set_main_option("script_location", "gcsearch.study:migrations")
    steps = ScriptDirectory.from_config(config)
    with engine.connect() as connection:
        if _current(connection, steps) == steps.get_current_head():
            return
    with _alone(engine) as connection:
        _current(connection, steps)  # another process may have been faster
        config.attributes |= {"connection": connection, "version_table": VERSION_TABLE}
        command.upgrade(config, revision)


def _current(connection: Connection, steps: ScriptDirectory) -> str | None:
    """Return the revision of the tables, or ``None`` if there are none.

    Raises:
        StudyError: It is not one of ``steps``.
    """
    options = {"version_table": VERSION_TABLE}
    current = MigrationContext.configure(connection, opts=options).get_current_revision()
    if current is not None and current not in {step.revision for step in steps.walk_revisions()}:
        where = connection.engine.url.render_as_string(hide_password=True)
        raise StudyError(
            f"storage {where!r} has tables of revision {current!r}, made by a newer gcsearch; "
            f"this one knows revisions up to {steps.get_current_head()!r}: upgrade gcsearch, or "
            "choose another --storage"
        )
    return current


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """Hold the right to migrate in one transaction; others wait, and then find it done."""
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # its driver begins none before DDL
        elif engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        yield connection

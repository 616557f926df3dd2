"""Opening the database of studies; knows URLs and drivers, nothing of what a study holds."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from sqlalchemy import event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    SQLAlchemyError,
)

from gcsearch.errors import StudyError
from gcsearch.study.schema import upgrade

__all__ = [
    "DEFAULT_URL",
    "HEARTBEAT_S",
    "artifact_directory",
    "list_studies",
    "newest_study",
    "open_storage",
    "run_directory",
    "shown_url",
]

DEFAULT_URL = "sqlite:///storage/gcsearch.db"
HEARTBEAT_S = 30
GRACE_S = 120
SQLITE_TIMEOUT_S = 60
"""How long a writer waits for another before "database is locked"."""
RACE_S = 30
"""How long opening is tried again while other processes make the same database."""


def open_storage(url: str = DEFAULT_URL, *, create: bool = True) -> RDBStorage:
    """Open a database and make sure that it can be written and has the newest form.

    SQLite is put in WAL mode, in which a reading dashboard does not block the search.

    Args:
        url: Any SQLAlchemy URL; a plain ``postgresql://`` uses psycopg 3.
        create: Whether a missing SQLite file may be made.

    Raises:
        StudyError: The URL makes no sense, its driver is missing, the database cannot be reached
            or written, or a newer gcsearch has written it.
    """
    parsed = _parse(url)
    if _is_sqlite(parsed):
        _prepare_sqlite(parsed, url, create)
    quiet = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        return _open_patiently(parsed)
    except ImportError as error:
        raise StudyError(
            f"storage {_shown(parsed)!r} needs the package {parsed.get_driver_name()!r}; for "
            "PostgreSQL: pip install 'gcsearch[postgresql]'"
        ) from error
    except NoSuchModuleError as error:
        raise StudyError(
            f"storage {_shown(parsed)!r} names an unknown database; use sqlite:///FILE or "
            "postgresql://USER@HOST/NAME"
        ) from error
    except StudyError:
        raise
    except (SQLAlchemyError, RuntimeError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise StudyError(
            f"storage {_shown(parsed)!r} cannot be used: {reason}; check the path, its "
            "permissions and that the file is a gcsearch or Optuna database"
        ) from error
    finally:
        optuna.logging.set_verbosity(quiet)


def list_studies(storage: RDBStorage) -> list[str]:
    """Return the names of all studies in the database, sorted."""
    return sorted(study.study_name for study in storage.get_all_studies())


def newest_study(storage: RDBStorage) -> str | None:
    """Return the name of the study that was made last, if there is any."""
    studies = storage.get_all_studies()
    return max(studies, key=lambda study: study._study_id).study_name if studies else None


def run_directory(url: str) -> Path:
    """Return the folder for files that belong to a database's studies: caches and exports.

    Example:
        >>> run_directory("sqlite:///runs/a.db").as_posix()
        'runs'
    """
    parsed = _parse(url)
    is_file = _is_sqlite(parsed) and parsed.database
    return _sqlite_file(parsed).parent if is_file else Path("storage")


def artifact_directory(url: str) -> Path:
    """Return the folder for the artifacts that the dashboard shows of a database's trials."""
    return run_directory(url) / "artifacts"


def shown_url(url: str) -> str:
    """Return a URL as it may be shown to others: without its password.

    Example:
        >>> shown_url("postgresql://me:secret@host/studies")
        'postgresql://me:***@host/studies'
        >>> shown_url("postgresql://host/studies?user=me&password=secret")
        'postgresql://host/studies?password=hidden&user=me'
    """
    parsed = _parse(url)
    if "password" in parsed.query:
        parsed = parsed.update_query_dict({"password": "hidden"})
    elif parsed.password is None:
        return url
    return _shown(parsed).replace("+psycopg://", "://", 1)


def _open_patiently(parsed: URL) -> RDBStorage:
    """Open a database, again while other processes are making it: Optuna does not expect that."""
    deadline = time.monotonic() + RACE_S
    while True:
        try:
            return _open(parsed)
        except DBAPIError as error:
            if not _is_race(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _open(parsed: URL) -> RDBStorage:
    is_sqlite = _is_sqlite(parsed)
    options: dict[str, Any] = (
        {"connect_args": {"timeout": SQLITE_TIMEOUT_S}} if is_sqlite else {"pool_pre_ping": True}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        storage = RDBStorage(
            parsed.render_as_string(hide_password=False),
            engine_kwargs=options,
            heartbeat_interval=HEARTBEAT_S,
            grace_period=GRACE_S,
        )
    try:
        if is_sqlite:
            _use_wal(storage)
        upgrade(storage.engine)
        _try_writing(storage)
    except BaseException:
        storage.remove_session()
        storage.engine.dispose()
        raise
    return storage


def _is_race(error: DBAPIError) -> bool:
    """Whether another process made the same table or row, or went over to WAL, at this moment."""
    reason = str(error.orig)
    return isinstance(error, IntegrityError) or "already exists" in reason or "locked" in reason


def _is_sqlite(parsed: URL) -> bool:
    return parsed.get_backend_name() == "sqlite"


def _sqlite_file(parsed: URL) -> Path:
    """Return the path of the database, which SQLite also takes in the form ``file:PATH``."""
    return Path(str(parsed.database).removeprefix("file:"))


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise StudyError(
            f"storage {url!r} is not a database URL; write sqlite:///storage/gcsearch.db or "
            "postgresql://USER@HOST/NAME"
        ) from None
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if _is_sqlite(parsed) and parsed.database in (None, "", ":memory:"):
        raise StudyError(
            f"storage {url!r} would be gone with the process; name a file: sqlite:///FILE"
        )
    return parsed


def _prepare_sqlite(parsed: URL, url: str, create: bool) -> None:
    path = _sqlite_file(parsed)
    if not create and not path.exists():
        raise StudyError(
            f"there is no database at {str(path)!r}; `gcsearch run` makes one, or name yours "
            "with --storage"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(
            f"storage {url!r} cannot be written: {error.strerror}: {error.filename!r}"
        ) from error


def _use_wal(storage: RDBStorage) -> None:
    def set_pragmas(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    storage.remove_session()
    storage.engine.dispose()
    event.listen(storage.engine, "connect", set_pragmas)


def _try_writing(storage: RDBStorage) -> None:
    """Write nothing to no row, so that a read-only database is found before anything is trained.

    Making a table and dropping it would leave it behind in a process that is killed in between,
    since SQLite's driver commits each of the two.
    """
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE studies SET study_name = study_name WHERE 1 = 0"))


def _shown(parsed: URL) -> str:
    return parsed.render_as_string(hide_password=True)

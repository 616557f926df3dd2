"""Optuna's dashboard on the studies of a database, with their notes and artifacts; draws nothing.

It reads; while a search goes on, that does not keep it from writing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna_dashboard
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import RDBStorage

from gcsearch.dashboard.annotator import Annotator
from gcsearch.errors import StudyError
from gcsearch.study import SearchStudy, list_studies, open_storage
from gcsearch.study.storage import artifact_directory, shown_url

__all__ = ["serve"]


def serve(
    storage: str, *, host: str, port: int, ready: Callable[[], None], notice: Callable[[str], None]
) -> None:
    """Serve the dashboard until it is stopped.

    Args:
        storage: SQLAlchemy URL of the database.
        host: Address to listen on.
        port: The port.
        ready: Called right before it listens.
        notice: Told what notes and artifacts cannot be written.

    Raises:
        StudyError: There is no such database, or the address cannot be listened on.
    """
    opened, directory = open_storage(storage, create=False), artifact_directory(storage)
    _annotate_all(opened, shown_url(storage), directory, notice)
    directory.mkdir(parents=True, exist_ok=True)  # for what people upload
    ready()
    try:
        optuna_dashboard.run_server(
            opened, host=host, port=port, artifact_store=FileSystemArtifactStore(directory)
        )
    except OSError as error:
        raise StudyError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port or --host"
        ) from error


def _annotate_all(
    opened: RDBStorage, storage: str, directory: Path, notice: Callable[[str], None]
) -> None:
    """Add the notes and artifacts that are missing, e.g. of studies made before there were any."""
    for name in list_studies(opened):
        try:
            study = SearchStudy(opened, name)
        except StudyError:
            continue  # made by another program, which the dashboard shows as well
        Annotator(study, storage, directory, notice).refresh()

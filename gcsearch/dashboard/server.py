"""Optuna's dashboard on the studies of a database, with their notes and artifacts; draws nothing.

It reads; while a search goes on, that does not keep it from writing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

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
        ready: Called when it listens.
        notice: Told what notes and artifacts cannot be written.

    Raises:
        StudyError: There is no such database, or the address cannot be listened on.
    """
    opened, directory = open_storage(storage, create=False), artifact_directory(storage)
    _annotate_all(opened, shown_url(storage), directory, notice)
    directory.mkdir(parents=True, exist_ok=True)  # for what people upload
    app = optuna_dashboard.wsgi(opened, artifact_store=FileSystemArtifactStore(directory))
    kind = _ServerOf6 if ":" in host else _Server
    try:
        server = make_server(host, port, app, server_class=kind)
    except OSError as error:
        raise StudyError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port or --host"
        ) from error
    with server, suppress(KeyboardInterrupt):
        ready()
        server.serve_forever()


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each request in a thread of its own: the pages ask for several things at once."""

    daemon_threads = True


class _ServerOf6(_Server):
    address_family = socket.AF_INET6


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

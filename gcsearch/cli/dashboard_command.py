"""`gcsearch dashboard`: the Optuna dashboard on a study database."""

from __future__ import annotations

from typing import Annotated

import typer

from gcsearch.cli.options import DEFAULT_STORAGE, StorageOption

__all__ = ["dashboard"]


def dashboard(
    storage: StorageOption = DEFAULT_STORAGE,
    host: Annotated[
        str, typer.Option(help="Address to listen on; it has no passwords, so think first.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
) -> None:
    """Open the Optuna dashboard on the study database, for this machine's own browser.

    Example: gcsearch dashboard --port 8081
    """
    import optuna_dashboard

    from gcsearch.errors import GcsearchError
    from gcsearch.study import open_storage

    opened = open_storage(storage, create=False)
    print(f"http://{host}:{port}/ shows {storage}; stop it with Ctrl-C", flush=True)
    try:
        optuna_dashboard.run_server(opened, host=host, port=port)
    except OSError as error:
        raise GcsearchError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        ) from error

"""`gcsearch dashboard`: the Optuna dashboard on a study database."""

from __future__ import annotations

from typing import Annotated

import typer

from gcsearch.cli.options import DEFAULT_STORAGE, StorageOption

__all__ = ["dashboard"]

LOCAL = ("127.0.0.1", "localhost", "::1")


def dashboard(
    storage: StorageOption = DEFAULT_STORAGE,
    host: Annotated[
        str, typer.Option(help="Address to listen on; it has no passwords, so think first.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8080,
) -> None:
    """Open the Optuna dashboard on the study database, for this machine's own browser.

    Its notes tell the verdict and what became of each trial; a trial's artifacts are its learning
    curve, a drawing of its backbone and its config. What is missing of them is added first. It may
    be open while a search goes on.

    Example: gcsearch dashboard --port 8081
    """
    from gcsearch.dashboard import serve
    from gcsearch.study.storage import shown_url

    def notice(text: str) -> None:
        typer.echo(f"note: {text}", err=True)

    def tell_address() -> None:
        address = f"[{host}]" if ":" in host else host
        print(
            f"http://{address}:{port}/ shows {shown_url(storage)}; stop it with Ctrl-C", flush=True
        )

    if host not in LOCAL:
        notice(
            f"whoever reaches {host}:{port} can change and delete studies: no password is asked"
        )
    serve(storage, host=host, port=port, ready=tell_address, notice=notice)

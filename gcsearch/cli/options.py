"""Options that several commands share."""

from __future__ import annotations

import json
import re
import signal
from typing import Annotated, Any

import typer

__all__ = [
    "DEFAULT_STORAGE",
    "INTERRUPTED",
    "JsonOption",
    "RayOption",
    "StorageOption",
    "StudyOption",
    "TrustOption",
    "open_study",
    "parse_duration",
    "print_json",
    "stop_by_sigterm",
    "storage_words",
]

DEFAULT_STORAGE = "sqlite:///storage/gcsearch.db"
INTERRUPTED = 130
"""Exit code of what was stopped by Ctrl-C."""
UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
RayOption = Annotated[
    str | None,
    typer.Option("--ray-address", metavar="ADDRESS", help="A running Ray cluster's."),
]
StorageOption = Annotated[
    str, typer.Option("--storage", metavar="URL", help="SQLAlchemy URL of the study database.")
]
StudyOption = Annotated[
    str | None,
    typer.Option("--study", metavar="NAME", help="Name of the study; by default the newest."),
]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Follow import paths, which runs their code.")
]


def open_study(storage: str, name: str | None) -> Any:
    """Open a study by name, or the newest in the database.

    Raises:
        GcsearchError: There is no such database or study.
    """
    from gcsearch.errors import StudyError
    from gcsearch.study import SearchStudy, newest_study, open_storage

    opened = open_storage(storage, create=False)
    name = name or newest_study(opened)
    if name is None:
        raise StudyError(f"{storage} holds no study yet; `gcsearch run` makes one")
    return SearchStudy(opened, name)


def storage_words(storage: str) -> list[str]:
    """Return what a printed command needs to find the same database, but for a password."""
    from gcsearch.study.storage import shown_url

    return [] if storage == DEFAULT_STORAGE else ["--storage", shown_url(storage)]


def parse_duration(text: str) -> float:
    """Return seconds for ``90``, ``90s``, ``15m``, ``1.5h`` or ``1d``.

    Raises:
        ConfigError: The text is no positive duration.

    Example:
        >>> parse_duration("1.5h")
        5400.0
    """
    from gcsearch.errors import ConfigError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    seconds = float(match[1]) * UNITS_S[match[2]] if match else 0.0
    if not seconds > 0:
        raise ConfigError([f"{text!r} is not a duration; write 90s, 15m, 2h or 1d"], "--budget")
    return seconds


def print_json(data: Any) -> None:
    """Print data for programs."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def stop_by_sigterm() -> None:
    """Let SIGTERM stop this process as Ctrl-C does, for what is left to be said and put away.

    Also where Ctrl-C is ignored, as by what a script started in the background.
    """

    def stop(*_: object) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)  # Ray Tune, while it runs, handles it in its own way

    signal.signal(signal.SIGTERM, stop)

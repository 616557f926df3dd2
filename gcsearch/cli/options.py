"""Options that several commands share."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

__all__ = [
    "DEFAULT_STORAGE",
    "JsonOption",
    "StorageOption",
    "StudyOption",
    "open_study",
    "print_json",
    "storage_words",
]

DEFAULT_STORAGE = "sqlite:///storage/gcsearch.db"

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
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
    """Return what a printed command needs to find the same database."""
    return [] if storage == DEFAULT_STORAGE else ["--storage", storage]


def print_json(data: Any) -> None:
    """Print data for programs."""
    print(json.dumps(data, indent=2, ensure_ascii=False))

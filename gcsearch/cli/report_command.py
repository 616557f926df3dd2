"""`gcsearch report`: a study as one page, or its front as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gcsearch.cli.options import (
    DEFAULT_STORAGE,
    JsonOption,
    StorageOption,
    StudyOption,
    open_study,
    print_json,
)

__all__ = ["report"]

PAGE_SUFFIXES = (".html", ".htm")


def report(
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="The .html page to write, or a .png, .svg or .pdf of the front alone.",
        ),
    ],
    study: StudyOption = None,
    storage: StorageOption = DEFAULT_STORAGE,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write what a study came to as one page that needs no network, from its database alone.

    Example: gcsearch report -o report.html
    """
    from gcsearch.export import write_atomically
    from gcsearch.pictures import write_picture
    from gcsearch.report import assemble, draw_front, render

    _check_path(output, force)
    content = assemble(open_study(storage, study))
    if output.suffix.lower() in PAGE_SUFFIXES:
        write_atomically(output, render(content))
    else:
        write_picture(draw_front(content), output)
    if as_json:
        print_json({"written": [str(output)], **content.to_dict()})
        return
    print(f"{content.verdict.headline}\nwritten: {output}")


def _check_path(path: Path, force: bool) -> None:
    """Find out before the work whether the file may be written."""
    from gcsearch.errors import ExportError
    from gcsearch.pictures import SUFFIXES, check_picture_path

    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        check_picture_path(path, force=force)
    elif suffix not in PAGE_SUFFIXES:
        known = ", ".join((PAGE_SUFFIXES[0], *SUFFIXES))
        raise ExportError(f"{str(path)!r} is no page or picture; end it in {known}")
    elif path.exists() and not force:
        raise ExportError(f"{path} exists already; pass --force to replace it")

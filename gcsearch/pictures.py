"""Figures as files: whether one can be drawn, and writing it whole; knows not what is drawn."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from gcsearch.errors import ExportError
from gcsearch.export import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SUFFIXES", "check_picture_path", "new_figure", "write_picture"]

SUFFIXES = (".png", ".svg", ".pdf")
DPI = 150


def check_picture_path(path: Path, *, force: bool = False) -> None:
    """Find out before the work whether a picture can be drawn and may be put there.

    Raises:
        ExportError: The suffix is not one of :data:`SUFFIXES`, the file exists and ``force`` is
            not set, or matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ExportError(f"{str(path)!r} names no picture; end it in {', '.join(SUFFIXES)}")
    if path.exists() and not force:
        raise ExportError(f"{path} exists already; pass --force to replace it")
    new_figure((1, 1))


def new_figure(size: tuple[float, float]) -> Figure:
    """Return an empty figure that no global state of matplotlib knows."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExportError(
            f"pictures need matplotlib ({error}); pip install 'gcsearch[pictures]'"
        ) from error
    return Figure(figsize=size, dpi=DPI, facecolor="white")


def write_picture(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the suffix names, whole or not at all.

    Raises:
        ExportError: The place cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.lower().removeprefix("."))
    write_atomically(path, content.getvalue())

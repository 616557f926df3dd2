"""Attention maps laid over the pictures they belong to, as one figure; it runs no model."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gcsearch.explain.explanation import Explained, Explanation
from gcsearch.explain.maps import AttentionMap
from gcsearch.explain.panels import Panel, panels
from gcsearch.explain.sheet import CELL, LETTERS, LINE, MARGIN, Sheet
from gcsearch.pictures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

COLORS = "viridis"
"""Perceptually uniform, and told apart whatever one's colour vision."""

OPACITY = 0.6
SHADOWS = 80
"""By how much, of 255, pictures under a map are lifted from black, so that they stay visible."""

TEXT = 7.0  # points

NOTE = (
    "Each map is shaded from its own lowest weight to its own highest; both stand below it, as "
    "multiples of uniform attention where the weights of a map sum to 1. Entropy: 1 is uniform, "
    "0 is all weight at one position."
)
QUERY_NOTE = (
    " A cross marks the query that a map belongs to. Distance: how far apart the maps of queries "
    "lie on average; 0 is one map for all of them, 0.5 is maps without a common position."
)


WHOLE = (0.0, 1.0, 1.0, 0.0)
"""A picture's left, right, bottom and top: places on it are fractions of its sides."""


def draw(explanation: Explanation) -> Figure:
    """Draw the maps of all insertions that have one: a row for each picture.

    The first column shows the pictures; the others show a map each, over the picture in grey.
    Blocks with a map for each query have a column for each query, which a cross marks.

    Raises:
        ExportError: matplotlib is not installed.
    """
    drawn = [panels(attention) for _, attention in explanation.drawable]
    widths = (1, *(len(rows[0]) for rows in drawn))
    headers = [
        _header(entry, attention, width)
        for (entry, attention), width in zip(explanation.drawable, widths[1:], strict=True)
    ]
    n_header_lines = max(len(lines) for lines in headers)
    sheet = Sheet(widths, len(explanation.names), n_header_lines, _note(explanation))
    figure = new_figure(sheet.size)
    _write_around(figure, sheet, explanation)
    pictures = zip(explanation.names, explanation.pictures, strict=True)
    for row, (name, picture) in enumerate(pictures):
        _add_cell(figure, sheet, row, 0, 0, _shorten(name)).imshow(picture, extent=WHOLE)
        for group, rows in enumerate(drawn, 1):
            for column, panel in enumerate(rows[row]):
                cell = _add_cell(figure, sheet, row, group, column, panel.caption)
                _overlay(cell, picture, panel)
    for group, lines in enumerate(headers, 1):
        _write_lines(figure, sheet, sheet.header_corner(group, len(lines)), lines)
    _add_scale(figure, sheet)
    return figure


def _add_cell(
    figure: Figure, sheet: Sheet, row: int, group: int, column: int, caption: str
) -> Axes:
    cell = figure.add_axes(sheet.cell(row, group, column))
    cell.set(xticks=[], yticks=[])
    cell.spines[:].set_linewidth(0.5)
    cell.set_xlabel(caption, fontsize=TEXT, labelpad=2, parse_math=False)
    return cell


def _overlay(cell: Axes, picture: NDArray[np.uint8], panel: Panel) -> None:
    """Lay a map over its picture in grey, and mark its query.

    The grey is that of the brightest channel, so that strong colours stand out from dull ones.
    """
    cell.imshow(picture.max(axis=2), cmap="gray", vmin=-SHADOWS, vmax=255, extent=WHOLE)
    down, right = panel.cover
    place = (0, right, down, 0)
    shades = cell.imshow(panel.shades, cmap=COLORS, vmin=0, vmax=1, extent=place)
    shades.set(alpha=OPACITY, interpolation="nearest")
    if panel.mark is not None:
        y, x = panel.mark
        cell.plot(x, y, "X", color="white", markeredgecolor="black", markersize=7)
    cell.set(xlim=(0, 1), ylim=(1, 0))


def _header(entry: Explained, attention: AttentionMap, width: int) -> list[str]:
    """Return the lines above a group of columns."""
    letters = int(width * CELL * LETTERS)
    measures = [attention.size]
    if entry.entropy is not None:
        measures.append(f"entropy {entry.entropy:.2f}")
    if entry.cosine_distance is not None:
        measures.append(f"distance {entry.cosine_distance:.3f}")
    site = textwrap.wrap(entry.insertion.site.replace(".", ". "), letters)  # breaks after dots
    texts = (entry.settings, ", ".join(measures))
    return [
        *(line.replace(". ", ".") for line in site),
        *(line for text in texts for line in textwrap.wrap(text, letters)),
    ]


def _note(explanation: Explanation) -> str:
    has_queries = any(attention.queries is not None for _, attention in explanation.drawable)
    return NOTE + QUERY_NOTE if has_queries else NOTE


def _write_around(figure: Figure, sheet: Sheet, explanation: Explanation) -> None:
    title = f"What the blocks in {explanation.backbone} attend to"
    if not explanation.has_weights:
        title += " (untrained: arbitrary)"
    _write_lines(figure, sheet, (MARGIN, MARGIN), [title], fontsize=9.0, weight="bold")
    _write_lines(figure, sheet, sheet.note_corner, sheet.note_lines, color="0.35")


def _write_lines(
    figure: Figure,
    sheet: Sheet,
    corner: tuple[float, float],
    lines: Sequence[str],
    **style: Any,
) -> None:
    left, top = corner
    for number, line in enumerate(lines):
        place = sheet.point(left, top + number * LINE)
        figure.text(*place, line, va="top", parse_math=False, **{"fontsize": TEXT, **style})


def _add_scale(figure: Figure, sheet: Sheet) -> None:
    """Add the bar that says which colour is more weight."""
    bar = figure.add_axes(sheet.scale())
    ramp = np.linspace(0, 1, 256)[:, None]
    bar.imshow(
        ramp, cmap=COLORS, alpha=OPACITY, aspect="auto", origin="lower", extent=(0, 1, 0, 1)
    )
    bar.set_facecolor("0.5")
    bar.yaxis.tick_right()
    bar.set(xticks=[], yticks=[0, 1], yticklabels=["lowest", "highest"])
    bar.set_ylabel("weight", fontsize=TEXT)
    bar.tick_params(labelsize=TEXT, length=2, pad=1)


def _shorten(name: str) -> str:
    """Return a file's name as it fits under its picture.

    Example:
        >>> _shorten("scene.png"), _shorten("a-very-long-name-of-a-picture-file.png")
        ('scene.png', 'a-very-long-...ture-file.png')
    """
    return name if len(name) <= 28 else f"{name[:12]}...{name[-13:]}"

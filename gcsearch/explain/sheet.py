"""Where the parts of an explanation's figure go; it is arithmetic and draws nothing."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

__all__ = ["CELL", "LETTERS", "LINE", "MARGIN", "SCALE", "Box", "Sheet"]

Box = tuple[float, float, float, float]

CELL, GAP, GROUP_GAP = 1.7, 0.1, 0.3  # inches, as all that follow
MARGIN, TITLE, LINE, CAPTION = 0.15, 0.3, 0.145, 0.36
SCALE = 1.0
"""Width of the column on the right that holds the colour bar."""

LETTERS = 17.0
"""Letters of the text that fit an inch."""


@dataclass(frozen=True)
class Sheet:
    """Rows of square cells under headers, in inches from the top left corner.

    Args:
        widths: Columns of each group; groups stand side by side with wider gaps between them.
        n_rows: Rows of cells.
        n_header_lines: Lines of text above the cells.
        note: Text below them.
    """

    widths: tuple[int, ...]
    n_rows: int
    n_header_lines: int
    note: str

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        return self._right + SCALE, self._bottom + LINE * (len(self.note_lines) + 0.5) + MARGIN

    @property
    def note_lines(self) -> list[str]:
        """The note, broken to the width of the figure."""
        return textwrap.wrap(self.note, int((self._right + SCALE - 2 * MARGIN) * LETTERS))

    @property
    def note_corner(self) -> tuple[float, float]:
        """Left and top of the note."""
        return MARGIN, self._bottom

    def corner(self, row: int, group: int, column: int = 0) -> tuple[float, float]:
        """Return left and top of a cell."""
        n_before = sum(self.widths[:group]) + column
        left = n_before * (CELL + GAP) + group * (GROUP_GAP - GAP)
        return MARGIN + left, MARGIN + TITLE + self.n_header_lines * LINE + row * (CELL + CAPTION)

    def header_corner(self, group: int, n_lines: int) -> tuple[float, float]:
        """Return left and top of a header of so many lines that stands on its group's cells."""
        left, top = self.corner(0, group)
        return left, top - n_lines * LINE

    def scale(self) -> Box:
        """Return the place of the colour bar."""
        return self.box(self._right + 0.05, self.corner(0, 0)[1], 0.12, CELL)

    def cell(self, row: int, group: int, column: int) -> Box:
        """Return the place of a cell as matplotlib takes it."""
        return self.box(*self.corner(row, group, column), CELL, CELL)

    def point(self, left: float, top: float) -> tuple[float, float]:
        """Return a point as matplotlib takes it: in fractions, from the bottom left corner."""
        width, height = self.size
        return left / width, 1 - top / height

    def box(self, left: float, top: float, width: float, height: float) -> Box:
        """Return a rectangle as matplotlib takes it: its bottom left corner and its size."""
        return *self.point(left, top + height), width / self.size[0], height / self.size[1]

    @property
    def _right(self) -> float:
        return self.corner(0, len(self.widths))[0]

    @property
    def _bottom(self) -> float:
        return self.corner(self.n_rows, 0)[1]

"""Where the positions that a block weighs lie on the picture; it knows shapes only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Grid", "grid_of", "sampled_queries", "spread_queries"]

SPREAD = ((0.5, 0.5), (0.2, 0.2), (0.2, 0.8), (0.8, 0.2))
"""Where the queries that are shown lie, in fractions of height and width."""

SAMPLE = 256
"""Queries that distances are taken over, or all positions where they are fewer."""

SEED = 0


@dataclass(frozen=True)
class Grid:
    """The part of the flattened positions that covers the picture, row by row.

    Args:
        rows: Positions from top to bottom.
        columns: Positions from left to right.
        first: Index of the top left one.
        left_out: What the positions outside the grid are, e.g. ``"class token"``; may be empty.
    """

    rows: int
    columns: int
    first: int = 0
    left_out: str = ""

    def on(self, flat: Tensor) -> Tensor:
        """Return the grid's part of values over flattened positions, (rows, columns)."""
        return flat[self.first : self.first + self.rows * self.columns].view(
            self.rows, self.columns
        )

    def index(self, down: float, right: float) -> int:
        """Return the flat index of the position at fractions of height and width below 1."""
        return self.first + int(down * self.rows) * self.columns + int(right * self.columns)

    def place(self, index: int) -> tuple[float, float] | None:
        """Return the middle of a position in fractions of height and width; None if outside."""
        row, column = divmod(index - self.first, self.columns)
        if not 0 <= row < self.rows:
            return None
        return (row + 0.5) / self.rows, (column + 0.5) / self.columns


def grid_of(positions: Sequence[int]) -> Grid | None:
    """Return how positions with one, two or three axes cover a picture.

    Two axes are the grid. Tokens (one axis) are a square grid, alone or after a leading class
    token. Of video (time, height, width) the middle frame is shown. None if nothing fits.

    Example:
        >>> grid_of((197,)), grid_of((3, 4, 5)), grid_of((198,))
        (Grid(rows=14, columns=14, first=1, left_out='class token'), \
Grid(rows=4, columns=5, first=20, left_out='other frames'), None)
    """
    if len(positions) == 2:
        return Grid(rows=positions[0], columns=positions[1])
    if len(positions) == 3:
        time, rows, columns = positions
        return Grid(rows, columns, time // 2 * rows * columns, "other frames" if time > 1 else "")
    for first, left_out in ((0, ""), (1, "class token")):
        side = math.isqrt(positions[0] - first)
        if side and side**2 == positions[0] - first:
            return Grid(side, side, first, left_out)
    return None


def spread_queries(positions: Sequence[int]) -> Tensor:
    """Return flat indices of the centre and of three points near corners, (Q,); each once.

    Example:
        >>> spread_queries((10, 10))
        tensor([55, 22, 28, 82])
    """
    grid = grid_of(positions) or Grid(1, math.prod(positions))
    return torch.tensor(list(dict.fromkeys(grid.index(*point) for point in SPREAD)))


def sampled_queries(positions: Sequence[int]) -> Tensor:
    """Return up to 256 flat indices, the same each time: all positions, or a seeded sample.

    Example:
        >>> sampled_queries((2, 2)), len(sampled_queries((56, 56)))
        (tensor([0, 1, 2, 3]), 256)
    """
    n = math.prod(positions)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(SEED))
    return order[:SAMPLE].sort().values

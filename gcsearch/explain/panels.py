"""One map on one picture as what there is to draw: shades, place and caption; it draws nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gcsearch.errors import ExportError
from gcsearch.explain.grids import Grid, grid_of
from gcsearch.explain.maps import AttentionMap

__all__ = ["Panel", "panels"]

FLAT = 1e-5
"""Weights that differ by less than this, relative to the largest, are rounding: a uniform map."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One map, ready to be laid over its picture.

    Args:
        shades: ``(rows, columns)``, from 0 at the map's lowest weight to 1 at its highest.
        cover: Fractions of the picture's height and width, from the top left corner, that the map
            covers: less than 1 where subsampling drops a last odd row or column.
        mark: Where the query lies, in fractions from the top and from the left; None if the map
            is for all of them, or if the query is no place on the picture.
        caption: What the shades stand for.
    """

    shades: NDArray[np.float64]
    cover: tuple[float, float]
    mark: tuple[float, float] | None
    caption: str


def panels(attention: AttentionMap) -> list[list[Panel]]:
    """Return a row of panels for each picture: one for each query.

    Raises:
        ExportError: The positions do not cover a picture.
    """
    whole, grid = grid_of(attention.positions), grid_of(attention.weights.shape[2:])
    if whole is None or grid is None:
        raise ExportError(
            f"the positions {attention.positions} at {attention.path} are no square of tokens "
            "and cover no picture; leave this map out"
        )
    queries = [None] if attention.queries is None else attention.queries.tolist()
    marks = [None if query is None else whole.place(query) for query in queries]
    cover = _share(whole.rows, grid.rows), _share(whole.columns, grid.columns)
    is_share = attention.is_distribution
    return [
        [
            Panel(_shades(grid.on(flat)), cover, mark, _caption(flat, grid, is_share))
            for flat, mark in zip(maps, marks, strict=True)
        ]
        for maps in attention.weights.flatten(2)
    ]


def _share(positions: int, keys: int) -> float:
    """Return which part of an axis is read where each key stands for as many positions."""
    return keys * (positions // keys) / positions


def _shades(weights: Tensor) -> NDArray[np.float64]:
    values = weights.double().numpy()
    if _is_flat(weights):
        return np.zeros_like(values)
    return np.asarray((values - values.min()) / np.ptp(values))


def _is_flat(weights: Tensor) -> bool:
    return bool(weights.max() - weights.min() <= FLAT * weights.abs().max())


def _caption(flat: Tensor, grid: Grid, is_share: bool) -> str:
    """Return the range of the weights, and how much of them the grid leaves out."""
    shown = grid.on(flat)
    scale = len(flat) if is_share else 1
    low, high = (_short(float(value) * scale) for value in (shown.min(), shown.max()))
    caption = f"{low} to {high}" + (" x uniform" if is_share else "")
    if _is_flat(shown):
        caption = "uniform" if is_share else f"{low} everywhere"
    if grid.left_out and is_share:
        caption += f"\n{grid.left_out}: {max(0.0, 1 - float(shown.sum())):.0%}"
    return caption


def _short(value: float) -> str:
    """Return a number with two digits, or all of its whole part.

    Example:
        >>> [_short(value) for value in (0.0123, 3.14, 123.4, -0.5, 1e-5, 0.0)]
        ['0.012', '3.1', '123', '-0.5', '<0.01', '0']
    """
    if 0 < value < 0.01:
        return "<0.01"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}"

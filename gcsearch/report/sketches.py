"""One trial as pictures that stand alone: how it learned, where its insertions sit.

They are SVG made of text, so that they cost a millisecond and need no library that draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gcsearch.report.axis import Axis, axis_over
from gcsearch.report.content import Curve
from gcsearch.report.drawing import Drawing
from gcsearch.report.templating import templates

__all__ = ["sketch_curves", "sketch_drawing"]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"


@dataclass(frozen=True)
class _Axes:
    epoch: Axis
    top1: Axis
    loss: Axis


def sketch_curves(curves: Sequence[Curve]) -> bytes:
    """Return how a trial learned as SVG.

    Args:
        curves: The trial's own last; what it is to be compared with before it.
    """
    curves = [*curves[:-1], replace(curves[-1], kind="chosen")]
    longest = max(len(curve.top1) for curve in curves)
    axes = _Axes(
        epoch=axis_over([1, max(2, longest)], is_whole=True),
        top1=axis_over([top1 for curve in curves for top1 in curve.top1] or [0.0]),
        loss=axis_over([loss for curve in curves for loss in curve.loss] or [0.0]),
    )
    return (
        templates().get_template("curve.svg").render(curves=curves, axes=axes, font=FONT).encode()
    )


def sketch_drawing(drawing: Drawing) -> bytes:
    """Return a backbone with its insertions as SVG."""
    tallest = max((len(column.places) for column in drawing.columns), default=0)
    template = templates().get_template("backbone.svg")
    return template.render(drawing=drawing, tallest=tallest, font=FONT).encode()

"""A study as one page for people, a trial as pictures: what is on them, and how it is drawn."""

from gcsearch.report.content import Curve, Report, assemble, curve_of
from gcsearch.report.drawing import Drawing, drawing_of
from gcsearch.report.page import render
from gcsearch.report.picture import draw_front
from gcsearch.report.points import front_view
from gcsearch.report.sketches import sketch_curves, sketch_drawing
from gcsearch.report.verdict import show_cost, show_points, verdict_of

__all__ = [
    "Curve",
    "Drawing",
    "Report",
    "assemble",
    "curve_of",
    "draw_front",
    "drawing_of",
    "front_view",
    "render",
    "show_cost",
    "show_points",
    "sketch_curves",
    "sketch_drawing",
    "verdict_of",
]

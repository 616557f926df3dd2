"""A study as one page for people: what is on it, and how it is drawn."""

from gcsearch.report.content import Report, assemble
from gcsearch.report.page import render
from gcsearch.report.picture import draw_front

__all__ = ["Report", "assemble", "draw_front", "render"]

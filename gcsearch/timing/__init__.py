"""Timing again, here and now: exported networks, and the front of a study in another runtime."""

from gcsearch.timing.exported import ExportTiming, time_export
from gcsearch.timing.front import FrontTiming, Retimed, time_front
from gcsearch.timing.picture import draw_times

__all__ = [
    "ExportTiming",
    "FrontTiming",
    "Retimed",
    "draw_times",
    "time_export",
    "time_front",
]

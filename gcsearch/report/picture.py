"""The front of a report as a picture for a paper or a talk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gcsearch.intervals import Interval
from gcsearch.pictures import new_figure
from gcsearch.report.content import Report
from gcsearch.report.points import FrontView, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_front"]

SIZE = (7.0, 4.6)  # inches
BLUE, RED, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6E6E6E"
"""Told apart whatever one's colour vision (Okabe and Ito); marks differ by shape as well."""
MARKS: dict[str, dict[str, Any]] = {
    "dominated": {"marker": "v", "color": GREY, "markersize": 4, "fillstyle": "none"},
    "front": {"marker": "o", "color": BLUE, "markersize": 6},
    "baseline": {"marker": "s", "color": "black", "markersize": 7},
    "chosen": {"marker": "*", "color": RED, "markersize": 13},
}
LABELS = {
    "dominated": "dominated",
    "front": "on the front",
    "baseline": "baseline",
    "chosen": "chosen",
}


def draw_front(report: Report) -> Figure:
    """Draw the front with its intervals; architectures that were refused stand at the bottom.

    Raises:
        ExportError: matplotlib is not installed.
    """
    figure, view = new_figure(SIZE), report.front
    axes = figure.subplots()
    axes.axhline(0, color=GREY, linewidth=0.8)
    if view.smallest_gain is not None:
        label = "smallest gain one trial can tell from noise"
        axes.axhline(
            100 * view.smallest_gain, color=GREY, linewidth=0.8, linestyle=":", label=label
        )
    _draw_line(axes, view)
    for kind, style in MARKS.items():
        points = [point for point in view.points if point.kind == kind]
        _draw_points(axes, points, style, LABELS[kind])
    _draw_confirmed(axes, view)
    _draw_refused(axes, view)
    axes.set_xlabel(f"{report.objective} ratio to the backbone")
    axes.set_ylabel("gain in top1 over the baseline, points")
    axes.set_title(_plain(report.study), fontsize=9, loc="left")
    axes.legend(fontsize=7, loc="best")
    figure.tight_layout()
    return figure


def _draw_line(axes: Axes, view: FrontView) -> None:
    kept = view.front
    costs, gains = [p.cost.value for p in kept], [100 * p.gain.value for p in kept]
    axes.plot(costs, gains, color=BLUE, linewidth=1, drawstyle="steps-post", zorder=1)


def _draw_points(axes: Axes, points: list[Point], style: dict[str, Any], label: str) -> None:
    if points:
        gains = [(100 * p.gain.value, 100 * p.gain.low, 100 * p.gain.high) for p in points]
        costs = [(p.cost.value, p.cost.low, p.cost.high) for p in points]
        axes.errorbar(
            [cost[0] for cost in costs],
            [gain[0] for gain in gains],
            yerr=_reach(gains),
            xerr=_reach(costs),
            linestyle="none",
            linewidth=0.8,
            label=label,
            **style,
        )


def _draw_confirmed(axes: Axes, view: FrontView) -> None:
    confirmed = [(p.confirmed_cost, c.gain) for p in view.points if (c := p.confirmation)]
    if confirmed:
        gains = [_as_points(gain) for _, gain in confirmed]
        axes.errorbar(
            [cost.value for cost, _ in confirmed],
            [gain[0] for gain in gains],
            yerr=_reach(gains),
            linestyle="none",
            marker="D",
            color=GREEN,
            label="again, on fresh seeds",
            zorder=3,
        )


def _draw_refused(axes: Axes, view: FrontView) -> None:
    if view.limit is not None and view.refused:
        axes.axvline(view.limit, color=PINK, linewidth=0.8, linestyle="--")
    if view.refused:
        bottom, top = axes.get_ylim()
        costs = [point.cost.value for point in view.refused]
        axes.plot(
            *(costs, [bottom] * len(costs)),
            *("x",),
            color=PINK,
            markeredgewidth=2,
            clip_on=False,
            label="refused, not trained",
        )
        axes.set_ylim(bottom, top)


def _as_points(gain: Interval) -> tuple[float, float, float]:
    return 100 * gain.value, 100 * gain.low, 100 * gain.high


def _reach(values: list[tuple[float, float, float]]) -> list[list[float]]:
    """Return how far intervals reach down and up from their values."""
    return [[v - low for v, low, _ in values], [high - v for v, _, high in values]]


def _plain(text: str) -> str:
    """Keep matplotlib from reading a name as a formula."""
    return text.replace("$", r"\$")

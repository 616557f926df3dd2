"""The paired samples of a latency measurement as a picture; times nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gcsearch.pictures import new_figure
from gcsearch.timing.exported import ExportTiming

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_times"]

WIDTH, HEIGHT = 7.0, 2.6  # inches, of one measurement
BLUE, GREY = "#0072B2", "#6E6E6E"  # told apart whatever one's colour vision (Okabe and Ito)


def draw_times(timings: Sequence[ExportTiming]) -> Figure:
    """Draw a row for each measurement: the ratio in each round, and how the ratios are spread.

    The band is the interval of the estimate, which pairs the passes of several rounds.

    Raises:
        ExportError: matplotlib is not installed.
    """
    figure = new_figure((WIDTH, HEIGHT * len(timings) + 0.3))
    grid = figure.subplots(len(timings), 2, squeeze=False, width_ratios=(3, 1), sharey="row")
    for (rounds, spread), timing in zip(grid, timings, strict=True):
        _draw_rounds(rounds, timing)
        _draw_spread(spread, timing)
    figure.suptitle(f"{timings[0].config.name} against {timings[0].against}", fontsize=9)
    figure.tight_layout()
    return figure


def _ratios(timing: ExportTiming) -> tuple[np.ndarray, np.ndarray]:
    """Return the ratio of network to opponent, and of the opponent to itself, in each round."""
    network, first, second = timing.times.T
    return network / np.sqrt(first * second), second / first


def _draw_rounds(axes: Axes, timing: ExportTiming) -> None:
    ratio, noise = _ratios(timing)
    axes.plot(noise, ".", color=GREY, markersize=3, label="opponent against itself")
    axes.plot(ratio, "o", color=BLUE, markersize=3, label="network against opponent")
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.axhspan(timing.latency.low, timing.latency.high, color=BLUE, alpha=0.25, linewidth=0)
    label = f"batch {timing.settings.batch_size}, {timing.settings.runtime}: {timing.latency}"
    axes.set_title(label, fontsize=8, loc="left")
    axes.set_xlabel("round", fontsize=8)
    axes.set_ylabel("ratio", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7, loc="best")
    # A few passes that were held up would squeeze all others into a line.
    low, high = np.quantile(np.concatenate([ratio, noise]), [0.02, 0.98])
    margin = max(0.02, 0.3 * (high - low))
    axes.set_ylim(low - margin, high + margin)


def _draw_spread(axes: Axes, timing: ExportTiming) -> None:
    low, high = axes.get_ylim()
    for values, color in zip(_ratios(timing), (BLUE, GREY), strict=True):
        axes.hist(
            values,
            bins=list(np.linspace(low, high, 40)),
            orientation="horizontal",
            color=color,
            alpha=0.6,
        )
    axes.set_xlabel("rounds", fontsize=8)
    axes.tick_params(labelsize=7)

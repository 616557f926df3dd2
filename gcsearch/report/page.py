"""The report as one HTML file that needs nothing else: no network, no other file.

Names in a study come from whoever made it, so every value is escaped by the templates, and the
page forbids itself every connection and every script but its own.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from gcsearch.report.axis import Axis, axis_over
from gcsearch.report.content import Report
from gcsearch.report.effects import MIN_EACH
from gcsearch.report.points import FrontView
from gcsearch.report.templating import templates
from gcsearch.report.volume import MARGIN

__all__ = ["render"]

SCRIPT = "tip.js"


@dataclass(frozen=True)
class _Axes:
    """The axes of all charts, each over what it shows."""

    cost: Axis
    gain: Axis
    epoch: Axis
    top1: Axis
    loss: Axis
    trial: Axis
    volume: Axis
    effect_top1: Axis
    effect_cost: Axis


def render(report: Report) -> bytes:
    """Return the page."""
    environment = templates()
    script = environment.get_template(SCRIPT).render().strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template("page.html").render(
        report=report,
        axes=_axes(report),
        script=script,
        script_hash=f"sha256-{digest}",
        min_each=MIN_EACH,
        margin=MARGIN,
    )
    return page.encode()


def _axes(report: Report) -> _Axes:
    view, volumes = report.front, [volume for _, volume in report.volume.steps]
    curves, effects = report.curves, report.effects.shown
    longest = max(len(curve.top1) for curve in curves)
    effect_top1 = [100 * v for e in effects for v in (e.top1.low, e.top1.high)]
    effect_cost = [100 * v for e in effects for v in (e.cost.low, e.cost.high)]
    return _Axes(
        cost=axis_over(_costs_shown(view)),
        gain=axis_over(_gains_shown(view), n_ticks=6),
        epoch=axis_over([1, max(2, longest)], is_whole=True),
        top1=axis_over([top1 for curve in curves for top1 in curve.top1] or [0.0]),
        loss=axis_over([loss for curve in curves for loss in curve.loss] or [0.0]),
        trial=axis_over([number for number, _ in report.volume.steps], is_whole=True),
        volume=axis_over(volumes),
        effect_top1=axis_over([0.0, *effect_top1], n_ticks=3),
        effect_cost=axis_over([0.0, *effect_cost], n_ticks=3),
    )


def _costs_shown(view: FrontView) -> list[float]:
    """Return what the axis of the front must hold: intervals where they are drawn to be read."""
    kept = [p.cost for p in view.points if p.kind != "dominated"]
    kept += [p.confirmed_cost for p in view.points if p.confirmation]
    costs = [v for cost in kept for v in (cost.low, cost.high)]
    costs += [p.cost.value for p in view.points] + [p.cost.value for p in view.refused]
    return [1.0, *costs]


def _gains_shown(view: FrontView) -> list[float]:
    kept = [p.gain for p in view.points if p.kind != "dominated"]
    kept += [c.gain for p in view.points if (c := p.confirmation)]
    gains = [v for gain in kept for v in (gain.low, gain.high)]
    gains += [p.gain.value for p in view.points]
    return [100 * gain for gain in [0.0, view.smallest_gain or 0.0, *gains]]

"""What a study came to, in sentences; computes no more than they need."""

from __future__ import annotations

from dataclasses import dataclass

from gcsearch.cost import show_counted
from gcsearch.intervals import Interval
from gcsearch.report.points import FrontView, Point
from gcsearch.results import Confirmation, SearchResult
from gcsearch.study import SearchStudy

__all__ = ["Verdict", "show_cost", "show_points", "verdict_of"]


@dataclass(frozen=True)
class Verdict:
    """The answer in words.

    Args:
        headline: The answer.
        is_gain: Whether a gain was seen beyond noise.
        sentences: What it rests on.
    """

    headline: str
    is_gain: bool
    sentences: tuple[str, ...]


def show_points(gain: Interval) -> str:
    """Return a gain in percentage points, with its interval.

    Example:
        >>> show_points(Interval(0.152, 0.084, 0.22))
        '+15.2 points [+8.4, +22.0]'
    """
    return f"{100 * gain.value:+.1f} points [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def show_cost(cost: Interval) -> str:
    """Return a ratio; with its interval where it was measured rather than counted.

    Example:
        >>> (
        ...     show_cost(Interval(1.059, 1.047, 1.082)),
        ...     show_cost(Interval(1.00013, 1.00013, 1.00013)),
        ... )
        ('1.059 [1.047, 1.082]', '1.00013')
    """
    if cost.low == cost.high:
        return show_counted(cost.value)
    return f"{cost.value:.3f} [{cost.low:.3f}, {cost.high:.3f}]"


def verdict_of(study: SearchStudy, result: SearchResult, view: FrontView) -> Verdict:
    """Say what a study came to."""
    chosen = next((point for point in view.points if point.kind == "chosen"), None)
    headline, is_gain = _headline(result, chosen)
    sentences = [*_about_choice(study, chosen), *_about_confirmed(view, chosen)]
    return Verdict(headline, is_gain, (*sentences, *_about_power(study, view), _progress(study)))


def _headline(result: SearchResult, chosen: Point | None) -> tuple[str, bool]:
    if len(result.findings) == 1:
        return "Nothing has been compared with your backbone yet.", False
    if chosen is None:
        return "Keep your backbone: no insertion beats it beyond noise.", False
    confirmation = chosen.confirmation
    if confirmation is None:
        return (
            f"{show_points(chosen.gain)} in the search, not confirmed on fresh seeds: "
            "take it for a guess.",
            False,
        )
    return (
        f"{show_points(confirmation.gain)} on fresh seeds and test pictures, "
        f"for {show_cost(chosen.confirmed_cost)} of the backbone's {result.objective}.",
        confirmation.is_sure,
    )


def _about_choice(study: SearchStudy, chosen: Point | None) -> list[str]:
    if chosen is None:
        return []
    return [
        f"Chosen: trial {chosen.number}, {study.record.config['backbone']} with {chosen.name}."
    ]


def _about_confirmed(view: FrontView, chosen: Point | None) -> list[str]:
    """Tell how far gains shrank, the choice's first."""
    confirmed = [(point, c) for point in view.points if (c := point.confirmation)]
    confirmed.sort(key=lambda pair: (pair[0] is not chosen, -pair[1].gain.low))
    return [
        f"Trial {point.number} gained {show_points(point.gain)} in the search and "
        f"{show_points(c.gain)} on {c.seeds} fresh seed(s){_beside_others(c)}."
        for point, c in confirmed
    ] + ["A search picks the luckiest of many, so fresh seeds are what to believe."] * bool(
        confirmed
    )


def _beside_others(confirmation: Confirmation) -> str:
    """Tell how sure the gain is when all that were compared are counted."""
    if confirmation.compared == 1:
        return ""
    return f" (p {confirmation.p_corrected:.2g} for {confirmation.compared} compared, by Holm)"


def _about_power(study: SearchStudy, view: FrontView) -> list[str]:
    plan = study.plan
    smallest = view.smallest_gain or plan.smallest_gain
    basis = "as often as answers differed here" if view.smallest_gain else "by the plan"
    told = f"One trial could tell gains from {100 * smallest:+.1f} points on from noise ({basis})"
    if plan.smallest_checked_gain:
        told += f"; the run's own confirmation: {100 * plan.smallest_checked_gain:+.1f}"
    return [told + ". What is smaller may be there and was not seen."]


def _progress(study: SearchStudy) -> str:
    done, planned = study.n_done(), study.plan.n_trials
    if done < planned:
        return f"{done} of {planned} planned architectures were tried, so more may change this."
    return f"{done} architectures were tried, as many as were planned or more."

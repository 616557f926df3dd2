"""What the plot of the front shows: every complete trial, what was confirmed, what was refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gcsearch.cost import Cost, excesses
from gcsearch.intervals import Interval
from gcsearch.results import Confirmation, Finding, SearchResult, measured_smallest_gain
from gcsearch.study import Attempt, SearchStudy

__all__ = ["FrontView", "Kind", "Point", "RefusedPoint", "front_view", "subject_of"]

Kind = Literal["baseline", "chosen", "front", "dominated"]


@dataclass(frozen=True)
class Point:
    """A complete trial.

    Args:
        number: Of the trial.
        name: Its architecture in words.
        kind: How it is marked; the front is drawn through all but what is dominated.
        is_front: Whether it is on the front.
        top1: On the validation split.
        gain: Over the baseline on the same pictures.
        cost: The ratio that the study minimises.
        confirmation: What fresh seeds and the test split say of it, if they were asked.
        is_over: Whether it is over a limit.
    """

    number: int
    name: str
    kind: Kind
    is_front: bool
    top1: float
    gain: Interval
    cost: Interval
    confirmation: Confirmation | None = None
    is_over: bool = False

    @property
    def confirmed_cost(self) -> Interval:
        """Where its confirmed gain belongs: a latency may have been measured anew."""
        if self.confirmation is None or self.confirmation.finding.objective != "latency":
            return self.cost
        return self.confirmation.latency


@dataclass(frozen=True)
class RefusedPoint:
    """A trial that was refused for its cost, so that no accuracy is known.

    Args:
        number: Of the trial.
        name: Its architecture in words.
        cost: The ratio that the study minimises.
        reason: In words.
    """

    number: int
    name: str
    cost: Interval
    reason: str


@dataclass(frozen=True)
class FrontView:
    """The plot of the front.

    Args:
        points: Every complete trial but the duplicates.
        refused: Those whose cost on the axis is known.
        n_refused_elsewhere: Refused for another cost, before that on the axis was known.
        baseline_top1: On the validation split, so that a gain can be read as a top1.
        smallest_gain: From where on one trial could tell a gain from noise.
        limit: Of the cost on the axis, if one is set.
    """

    points: tuple[Point, ...]
    refused: tuple[RefusedPoint, ...]
    n_refused_elsewhere: int
    baseline_top1: float
    smallest_gain: float | None
    limit: float | None

    @property
    def front(self) -> list[Point]:
        """The front, cheapest first."""
        kept = [point for point in self.points if point.is_front]
        return sorted(kept, key=lambda point: (point.cost.value, -point.gain.value))


def subject_of(result: SearchResult) -> Finding | None:
    """Return the choice or, where that is the baseline, the altered network that came nearest.

    Returns:
        ``None`` while nothing but the baseline is complete.
    """
    if result.best is not None and not result.best.is_baseline:
        return result.best
    altered = [finding for finding in result.findings if not finding.is_baseline]
    return max(altered, key=lambda f: (f.gain.low, -f.number)) if altered else None


def front_view(study: SearchStudy, result: SearchResult, attempts: Sequence[Attempt]) -> FrontView:
    """Lay out what the plot shows."""
    objective, limits = study.record.objective, study.record.limits
    on_front = {finding.number for finding in result.front}
    points = [_point(finding, result, on_front, limits) for finding in result.findings]
    refused = [attempt for attempt in attempts if attempt.is_refused]
    placed = [attempt for attempt in refused if objective in attempt.costs]
    return FrontView(
        points=tuple(points),
        refused=tuple(
            RefusedPoint(
                a.row.number, str(a.row.architecture), a.costs[objective], a.row.reason or ""
            )
            for a in placed
        ),
        n_refused_elsewhere=len(refused) - len(placed),
        baseline_top1=next(f.evaluation.top1 for f in result.findings if f.is_baseline),
        smallest_gain=measured_smallest_gain(result.findings),
        limit=limits.get(objective),
    )


def _point(
    finding: Finding, result: SearchResult, on_front: set[int], limits: dict[Cost, float]
) -> Point:
    is_front = finding.number in on_front
    kind: Kind = "front" if is_front else "dominated"
    if result.best is not None and finding.number == result.best.number:
        kind = "chosen"
    if finding.is_baseline:
        kind = "baseline"
    uppers = {**finding.ratios, "latency": finding.latency.high}
    return Point(
        number=finding.number,
        name=str(finding.evaluation.architecture),
        kind=kind,
        is_front=is_front,
        top1=finding.evaluation.top1,
        gain=finding.gain,
        cost=finding.cost,
        confirmation=next((c for c in result.confirmed if c.finding == finding), None),
        is_over=any(excess > 0 for excess in excesses(limits, uppers).values()),
    )

"""Hypervolume over trials: how much of what lies between front and reference is dominated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gcsearch.results import Finding

__all__ = ["MARGIN", "REFERENCE_RATIO", "Volume", "hypervolume", "volume_over_trials"]

MARGIN = 0.05
"""The reference lies this far below the baseline's top1."""
REFERENCE_RATIO = 1.5
"""Cost ratio of the reference where the study has no limit."""


@dataclass(frozen=True)
class Volume:
    """How the hypervolume grew.

    Args:
        top1: Of the reference point.
        ratio: Its cost.
        is_limit: Whether that is the study's own limit.
        steps: For each complete trial its number and the hypervolume after it, in percentage
            points of top1 times per cent of cost.
    """

    top1: float
    ratio: float
    is_limit: bool
    steps: tuple[tuple[int, float], ...]


def volume_over_trials(found: Sequence[Finding], limit: float | None) -> Volume:
    """Return the hypervolume after each trial.

    The reference is fixed by the study, not by what it found: :data:`MARGIN` below the baseline's
    top1, and the limit of the cost, or :data:`REFERENCE_RATIO`.
    """
    base = next(f.evaluation.top1 for f in found if f.is_baseline)
    top1, ratio = base - MARGIN, limit or REFERENCE_RATIO
    steps, seen = [], []
    for finding in sorted(found, key=lambda f: f.number):
        seen.append((finding.evaluation.top1, finding.cost.value))
        steps.append((finding.number, 1e4 * hypervolume(seen, (top1, ratio))))
    return Volume(top1, ratio, limit is not None, tuple(steps))


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Return the area that (top1, cost) points dominate: top1 the higher, cost the lower.

    Example:
        >>> hypervolume([(0.5, 1.0), (0.75, 1.25)], (0.25, 1.5))
        0.1875
    """
    least, most = reference
    area, height = 0.0, least
    for top1, cost in sorted(points, key=lambda point: (point[1], -point[0])):
        if top1 > height and cost < most:
            area += (top1 - height) * (most - cost)
            height = top1
    return area

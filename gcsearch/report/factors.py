"""What the architectures of a study have at which factor: site, block, ratio, pooling, fusion."""

from __future__ import annotations

from collections.abc import Sequence

from gcsearch.architecture import Architecture, Insertion, show_ratio

__all__ = ["FACTORS", "level_of", "levels"]

FACTORS = ("site", "block", "ratio", "pooling", "fusion")


def level_of(insertion: Insertion, factor: str) -> str | None:
    """Return what an insertion has at a factor; ``None`` where its block has no such setting.

    Example:
        >>> [level_of(Insertion("layer3.5"), factor) for factor in FACTORS]
        ['layer3.5', 'gc', '1/16', 'att', 'add']
    """
    match factor:
        case "site":
            return insertion.site
        case "block":
            return insertion.block
        case "ratio":
            return None if insertion.ratio is None else show_ratio(insertion.ratio)
        case "pooling":
            return insertion.pooling
        case _:
            names = insertion.fusions
            return "+".join(n.removeprefix("channel_") for n in names) if names else None


def levels(architectures: Sequence[Architecture], factor: str, order: Sequence[str]) -> list[str]:
    """Return the levels of a factor that occur, sites in the order that is given."""
    found = {
        level
        for architecture in architectures
        for insertion in architecture.insertions
        if (level := level_of(insertion, factor))
    }
    return sorted(found, key=lambda level: (level not in order, _rank(level, order), level))


def _rank(level: str, order: Sequence[str]) -> int:
    return order.index(level) if level in order else 0

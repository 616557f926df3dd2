"""What each block adds to the latency, as a table whose entries are summed; it measures nothing.

A block reads the features of its site once and writes them once, so what it adds depends on the
block, its settings and the form of those features, and hardly on what stands elsewhere. One entry
serves all sites of one form, and is measured with the block at all of them at once: the noise of
the ratio is divided by their number, and so is the care it takes (:func:`entry_precision`).
How far sums are from the truth is told by residuals, which widen every prediction once there are a
few.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from scipy import stats

from gcsearch.architecture import Architecture, Insertion
from gcsearch.intervals import CONFIDENCE
from gcsearch.space import SearchSpace
from gcsearch.surgery import Site

__all__ = [
    "Entry",
    "Group",
    "LatencyTable",
    "Part",
    "Prediction",
    "Residuals",
    "describe_residuals",
    "entry_precision",
    "plan_groups",
]

MIN_RESIDUALS = 5
"""With fewer, their spread says too little to widen a prediction by it."""


@dataclass(frozen=True)
class Part:
    """A block with its settings and the form of what it meets: all that one entry depends on.

    Args:
        block: Registered name.
        settings: Its settings by name, in order.
        channels: Of the features.
        shape: Of the features, without the batch, at the image size that is timed.
        layout: Order of their axes.

    Example:
        >>> sites = [Site(path, "after-add", 1, 8, (8, 4, 4)) for path in ("a", "b")]
        >>> one, other = (Part.of(Insertion(site.path, "se"), site) for site in sites)
        >>> one == other
        True
    """

    block: str
    settings: tuple[tuple[str, Any], ...]
    channels: int
    shape: tuple[int, ...]
    layout: str

    @classmethod
    def of(cls, insertion: Insertion, site: Site) -> Part:
        """Return the part that an insertion is at a site."""
        settings = tuple(insertion.settings().items())
        return cls(insertion.block, settings, site.channels, site.shape, site.layout)

    @property
    def id(self) -> str:
        """The same on any machine and in any version."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"settings": dict(self.settings)}


@dataclass(frozen=True)
class Entry:
    """Latency of the backbone with one part at several sites over that of the backbone.

    Args:
        ratio: What was measured.
        low: Lower end of its 95 % interval.
        high: Upper end.
        n: At how many sites the part was.

    Example:
        >>> entry = Entry(1.3, 1.24, 1.36, n=3)
        >>> round(entry.added, 6), round(entry.half_width, 6)
        (0.1, 0.02)
    """

    ratio: float
    low: float
    high: float
    n: int

    @property
    def added(self) -> float:
        """What one of them adds, as a fraction of the backbone's latency."""
        return (self.ratio - 1) / self.n

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval of that."""
        return (self.high - self.low) / 2 / self.n

    @property
    def precision(self) -> float:
        """Half of the 95 % interval of the ratio, relative to it."""
        return (self.high - self.low) / 2 / self.ratio


@dataclass(frozen=True)
class Prediction:
    """A latency ratio that was not measured: the ratio with its 95 % interval."""

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}] (predicted)"


@dataclass(frozen=True)
class Residuals:
    """How far predictions were off; a residual is what was measured less what was predicted.

    Args:
        n: How many there are.
        median: Above zero where architectures are slower than predicted.
        median_absolute: The same without the sign: how far a typical prediction is off.
        worst: The one furthest from zero.
    """

    n: int
    median: float
    median_absolute: float
    worst: float


@dataclass(frozen=True)
class Group:
    """One entry to be measured: a part, and the architecture that has it wherever it fits."""

    part: Part
    architecture: Architecture

    @property
    def n_sites(self) -> int:
        """At how many sites the part is."""
        return len(self.architecture.insertions)


class LatencyTable:
    """Predicts latency ratios by summing what the parts of an architecture add.

    Args:
        sites: Of the backbone, found at the image size that is timed.
        entries: What was measured, by the ``id`` of its part.
        residuals: Of architectures that were measured whole, on the same machine in the same way.

    Example:
        >>> site, insertion = Site("a", "after-add", 1, 8, (8, 4, 4)), Insertion("a", "se")
        >>> entries = {Part.of(insertion, site).id: Entry(1.1, 1.08, 1.12, n=1)}
        >>> print(LatencyTable([site], entries).predict(Architecture("tiny", (insertion,))))
        1.100 [1.080, 1.120] (predicted)
    """

    def __init__(
        self,
        sites: Iterable[Site],
        entries: Mapping[str, Entry],
        residuals: Iterable[float] = (),
    ) -> None:
        self._sites = {site.path: site for site in sites}
        self._entries = dict(entries)
        self._residuals = list(residuals)

    def predict(self, architecture: Architecture) -> Prediction | None:
        """Return the ratio of an architecture, or ``None`` if one of its parts has no entry.

        Entries are independent of each other, so their half-widths add in quadrature; a part that
        occurs twice is wrong twice in the same direction.
        """
        parts = Counter(map(self._part, architecture.insertions))
        if not self._entries.keys() >= parts.keys():
            return None
        added = [(self._entries[part], n) for part, n in sorted(parts.items())]
        ratio = 1 + math.fsum(n * entry.added for entry, n in added)
        noise = math.hypot(*(n * entry.half_width for entry, n in added))
        half_width = math.hypot(noise, _widening(self._residuals))
        return Prediction(ratio, ratio - half_width, ratio + half_width)

    @property
    def is_tried(self) -> bool:
        """Whether enough architectures were measured whole to know how far predictions are off."""
        return len(self._residuals) >= MIN_RESIDUALS

    def note(self, residual: float) -> None:
        """Learn how far a prediction was off."""
        self._residuals.append(residual)

    def _part(self, insertion: Insertion) -> str:
        """Return the id of what an insertion is; that of no part if its site is not known."""
        site = self._sites.get(insertion.site)
        return Part.of(insertion, site).id if site else ""


def plan_groups(space: SearchSpace, sites: Iterable[Site]) -> list[Group]:
    """Return what must be measured for every architecture of a space to be predicted.

    Args:
        space: What may be inserted where.
        sites: Of the backbone, found at the image size that is timed, which the proxy task's
            need not be.
    """
    by_path = {site.path: site for site in sites}
    insertions: dict[Part, list[Insertion]] = {}
    for site, insertion in space.insertions():
        if timed := by_path.get(site.path):
            insertions.setdefault(Part.of(insertion, timed), []).append(insertion)
    return [
        Group(part, Architecture(space.backbone, tuple(equal)))
        for part, equal in insertions.items()
    ]


def entry_precision(n_sites: int, n_blocks: int, precision: float) -> float:
    """Return how precisely an entry is to be measured for predictions to be of a precision.

    Half-widths of different parts add in quadrature, so that each of ``n_blocks`` may add up to
    ``precision / sqrt(n_blocks)``; the ratio of a part that is at several sites at once may be
    as many times less precise. Never better than a measurement of an architecture itself. A sum
    of equal parts is less precise than wanted, which its interval says.

    Args:
        n_sites: At how many sites the part is while it is measured.
        n_blocks: Of the largest architecture to be predicted.
        precision: Wanted half-width of predictions.

    Example:
        >>> entry_precision(n_sites=6, n_blocks=4, precision=0.01)
        0.03
        >>> entry_precision(n_sites=1, n_blocks=4, precision=0.01)
        0.01
    """
    return precision * max(1.0, n_sites / math.sqrt(n_blocks))


def describe_residuals(residuals: Sequence[float]) -> Residuals | None:
    """Return how far predictions were off, or ``None`` if there was none.

    Example:
        >>> describe_residuals([0.01, -0.03, 0.02])
        Residuals(n=3, median=0.01, median_absolute=0.02, worst=-0.03)
    """
    if not residuals:
        return None
    return Residuals(
        n=len(residuals),
        median=median(residuals),
        median_absolute=median(map(abs, residuals)),
        worst=max(residuals, key=abs),
    )


def _widening(residuals: Sequence[float]) -> float:
    """Return the half-width of the 95 % interval that residuals suggest for the next one.

    Spread about zero, not about their mean: predictions are not shifted, so that a table which is
    always off to one side must be doubted by as much.
    """
    n = len(residuals)
    if n < MIN_RESIDUALS:
        return 0.0
    quantile = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n))
    return quantile * math.sqrt(math.fsum(r * r for r in residuals) / n)

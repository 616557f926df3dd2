"""The exceptions gcsearch raises on purpose, in one tree.

GcsearchError
├── UnknownNameError      (LookupError)   no such backbone, block, task, metric ...
├── DuplicateNameError    (ValueError)    a name is registered twice
├── BlockError            (ValueError)    a block cannot be built with these settings
├── SiteError             (ValueError)    a site does not exist, is taken, or cannot hold the block
├── SurgeryError          (RuntimeError)  a model cannot be probed or altered
├── ArchitectureError     (ValueError)    an architecture, or its plain data, makes no sense
├── SpaceError            (ValueError)    a search space is empty or does not hold an architecture
├── DataError             (ValueError)    a data set is missing, broken or of the wrong shape
├── ConfigError           (ValueError)    a search configuration has one or more faults
├── TrainingError         (RuntimeError)  a training diverged or ran out of memory
├── LatencyError          (RuntimeError)  a latency cannot be measured
├── OverLimitError        (ValueError)    an architecture costs more than was allowed
├── StudyError            (RuntimeError)  a study or its database cannot be used
└── ExportError           (ValueError)    an export cannot be written or read

Every message says what is wrong with its value, what is allowed, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence


class GcsearchError(Exception):
    """Base of every error that gcsearch raises on purpose."""


class UnknownNameError(GcsearchError, LookupError):
    """A name is not among the known ones of its kind.

    Args:
        kind: What is named, e.g. ``"backbone"``.
        name: The unknown name.
        known: All allowed names.
        cure: What to do, e.g. a command that lists the names.

    Example:
        >>> print(UnknownNameError("block", "cg", known=["gc", "se"]))
        unknown block 'cg'; did you mean 'gc'? Known: gc, se
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], cure: str = "") -> None:
        self.kind, self.name, self.known, self.cure = kind, name, sorted(known), cure
        super().__init__(
            f"unknown {kind} {name!r}{near_misses(name, self.known)} {self._cure(cure)}"
        )

    def __reduce__(self) -> tuple[Callable[..., UnknownNameError], tuple[object, ...]]:
        return type(self), (self.kind, self.name, self.known, self.cure)

    def _cure(self, cure: str) -> str:
        if cure:
            return cure
        shown = ", ".join(self.known[:12])
        return f"Known: {shown}{', ...' if len(self.known) > 12 else ''}"


class DuplicateNameError(GcsearchError, ValueError):
    """A name is registered twice."""


class BlockError(GcsearchError, ValueError):
    """A block cannot be built with these settings."""


class SiteError(GcsearchError, ValueError):
    """A site does not exist, is already taken, or cannot hold the block."""


class SurgeryError(GcsearchError, RuntimeError):
    """A model cannot be probed or altered."""


class ArchitectureError(GcsearchError, ValueError):
    """An architecture, or the plain data it should come from, makes no sense."""


class SpaceError(GcsearchError, ValueError):
    """A search space is empty, or does not hold an architecture."""


class DataError(GcsearchError, ValueError):
    """A data set is missing, broken or of the wrong shape."""


class ConfigError(GcsearchError, ValueError):
    """A search configuration has faults; all of them are listed.

    Args:
        faults: One line for each fault.
        source: The file or flag the configuration came from.
    """

    def __init__(self, faults: Sequence[str], source: str = "config") -> None:
        self.faults, self.source = list(faults), source
        listed = "".join(f"\n  - {fault}" for fault in self.faults)
        super().__init__(
            f"{source}:{listed}" if len(self.faults) > 1 else f"{source}: {faults[0]}"
        )

    def __reduce__(self) -> tuple[Callable[..., ConfigError], tuple[object, ...]]:
        return type(self), (self.faults, self.source)


class TrainingError(GcsearchError, RuntimeError):
    """A training diverged or ran out of memory; the trial ends, the search goes on."""


class LatencyError(GcsearchError, RuntimeError):
    """A latency cannot be measured well enough to be called a number."""


class OverLimitError(GcsearchError, ValueError):
    """An architecture costs more than was allowed; it is not trained.

    Args:
        message: With the cost and the limit.
        refusal: What was measured, as the plain data of a refusal.
    """

    def __init__(self, message: str, refusal: Mapping[str, object]) -> None:
        self.message, self.refusal = message, dict(refusal)
        super().__init__(message)

    def __reduce__(self) -> tuple[Callable[..., OverLimitError], tuple[object, ...]]:
        return type(self), (self.message, self.refusal)


class StudyError(GcsearchError, RuntimeError):
    """A study or its database cannot be used."""


class ExportError(GcsearchError, ValueError):
    """An exported file cannot be written or read."""


def near_misses(name: str, known: Sequence[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known names, or ``";"`` if none is near.

    Example:
        >>> near_misses("resent50", ["resnet50", "vgg11"])
        "; did you mean 'resnet50'?"
    """
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if not near:
        near = [k for k in known if len(name) <= 3 and sorted(k) == sorted(name)][:3]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"

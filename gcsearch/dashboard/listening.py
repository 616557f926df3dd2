"""A listener that annotates a study while it runs; imports the engine, the rest here does not."""

from __future__ import annotations

import time

from gcsearch.architecture import Architecture
from gcsearch.cost import LatencyRatio
from gcsearch.dashboard.annotator import Annotator
from gcsearch.evaluation import Evaluation
from gcsearch.tuning import Listener

__all__ = ["AnnotatingListener"]

SHARE = 0.05
"""Most of a run's time that notes may take; in a study of thousands of trials they lag behind."""


class AnnotatingListener(Listener):
    """Has the study annotated each time something ends.

    Args:
        annotator: What writes; the caller has it write once more at the very end.
    """

    def __init__(self, annotator: Annotator) -> None:
        self._annotator, self._next = annotator, 0.0

    def trial_finished(self, number: int, evaluation: Evaluation | None, reason: str) -> None:
        """Annotate it."""
        self._refresh()

    def trial_refused(self, number: int, reason: str) -> None:
        """Annotate it."""
        self._refresh()

    def check_finished(self, evaluation: Evaluation) -> None:
        """Tell what it confirms."""
        self._refresh()

    def retimed(self, architecture: Architecture, latency: LatencyRatio) -> None:
        """Tell what it confirms."""
        self._refresh()

    def _refresh(self) -> None:
        began = time.monotonic()
        if began >= self._next:
            self._annotator.refresh()
            now = time.monotonic()
            self._next = now + (now - began) / SHARE

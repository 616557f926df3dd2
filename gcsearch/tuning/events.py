"""What a run tells of itself while it goes on; printing it is the listener's own affair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gcsearch.architecture import Architecture
from gcsearch.cost import LatencyRatio
from gcsearch.evaluation import Evaluation
from gcsearch.plan import Plan
from gcsearch.study import TrialRow

__all__ = ["Listener", "listen_together"]


class Listener:
    """Hears what a run does; every method may be overridden, and none needs to be."""

    def notice(self, text: str) -> None:
        """Something worth a line of its own."""

    def planned(self, plan: Plan, study: str, rows: Sequence[TrialRow]) -> None:
        """The plan stands; ``rows`` are the trials there are already."""

    def baseline_epoch(self, number: int, of: int, top1: float) -> None:
        """The baseline's own training went through an epoch."""

    def table_measured(self, done: int, of: int) -> None:
        """So many entries of the latency table are there, or were tried."""

    def trial_started(self, number: int, architecture: Architecture) -> None:
        """A trial began; it is handed to a worker unless it is refused at once."""

    def trial_epoch(self, number: int, epoch: int, top1: float) -> None:
        """A trial went through an epoch."""

    def trial_finished(self, number: int, evaluation: Evaluation | None, reason: str) -> None:
        """A trial is complete, or ended for ``reason`` without an evaluation."""

    def trial_refused(self, number: int, reason: str) -> None:
        """An architecture was refused before it was trained."""

    def checks_planned(self, n_trainings: int, n_timings: int, seconds: float) -> None:
        """A confirmation will train and time so often, and take so long."""

    def check_started(self, architecture: Architecture, seed: int | None) -> None:
        """One training of a confirmation began; without a seed, a timing."""

    def check_finished(self, evaluation: Evaluation) -> None:
        """One training of a confirmation is done and stored."""

    def check_failed(self, architecture: Architecture, seed: int | None, reason: str) -> None:
        """One training, or without a seed one timing, of a confirmation came to nothing."""

    def retimed(self, architecture: Architecture, latency: LatencyRatio) -> None:
        """A latency was measured anew and stored."""


def listen_together(*listeners: Listener) -> Listener:
    """Return a listener that lets all of these hear the same, in this order."""

    def pass_on(event: str) -> Callable[..., None]:
        def hear(_: Listener, *told: Any, **named: Any) -> None:
            for listener in listeners:
                getattr(listener, event)(*told, **named)

        return hear

    events = {name: pass_on(name) for name in vars(Listener) if not name.startswith("_")}
    together: type[Listener] = type("Together", (Listener,), events)
    return together()

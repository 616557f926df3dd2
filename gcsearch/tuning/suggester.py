"""What all that hands out work through Ray Tune has in common; knows no study and no database."""

from __future__ import annotations

from typing import Any

from ray.tune.search import Searcher

__all__ = ["FAILURES_IN_A_ROW", "RETRIES", "Suggester"]

FAILURES_IN_A_ROW = 4
"""So many trials failing one after the other, and none complete, end the search."""
RETRIES = 2
"""How often in a row a passing cause (a noisy machine) may spoil a trial before it counts so."""


class Suggester(Searcher):  # type: ignore[misc]
    """A searcher of Tune's that neither has a metric nor keeps anything: the database does.

    Attributes:
        is_over: Whether everything was suggested that is to be suggested.
        gave_up: Why it ended early, or ``""``.
        is_stuck: Whether that is a reason to end with an error.
    """

    def __init__(self) -> None:
        super().__init__()
        self._crashes: dict[str, str] = {}
        self.is_over = False
        self.gave_up = ""
        self.is_stuck = False

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Take no metric from Tune: the study has its own objectives."""
        return True

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep the announcement of an error."""
        if "crash" in result:
            self._crashes[trial_id] = str(result["crash"])

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the database is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Have nothing to restore."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave the study out when Ray pickles its state."""
        return {}

    def _failure(self, trial_id: str, result: dict[str, Any], error: bool) -> tuple[str, bool]:
        """Return why a trial ended without what was wanted of it, and whether that may pass."""
        if "failure" in result:
            return str(result["failure"]), bool(result["retry"])
        if error:
            crash = self._crashes.pop(trial_id, "its worker ended with an error")
            return f"{crash}; see the output of `gcsearch run`", False
        return "it was stopped before its last epoch", True

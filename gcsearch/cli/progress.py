"""Live progress of a run on a terminal, or one line an event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from gcsearch.cli.live import LiveLines
from gcsearch.cli.tables import costs_line, plan_lines, points
from gcsearch.tuning.events import Listener

if TYPE_CHECKING:
    from gcsearch.architecture import Architecture
    from gcsearch.cost import Cost, LatencyRatio
    from gcsearch.evaluation import Evaluation
    from gcsearch.plan import Plan
    from gcsearch.study import TrialRow

__all__ = ["Progress"]

TABLE_LINES_EVERY = 10


class Progress(LiveLines, Listener):
    """Prints what a run does: finished things stay, what is under way is a line that changes.

    Args:
        console: Where to print.
        header: Printed before the plan; what fails earlier has no study to speak of.
        objective: The cost that is minimised.
    """

    def __init__(self, console: Console, header: list[str], objective: Cost = "latency") -> None:
        super().__init__(console)
        self._header, self._objective = header, objective
        self._plan: Plan | None = None
        self._began = self._since = time.monotonic()
        self._n_done = 0
        self._under_way: dict[object, str] = {}
        self._checks: tuple[int, float] | None = None
        self._n_checked = 0
        self._stage = "preparing data and backbone, measuring this machine's speed"
        self._baseline_top1: float | None = None
        self._best: tuple[float, str] | None = None

    def planned(self, plan: Plan, study: str, rows: Sequence[TrialRow]) -> None:
        """Print the plan, and remember what was measured before."""
        self._plan, self._n_done = plan, sum(row.counts for row in rows)
        for line in [*self._header, *plan_lines(plan, study, self._n_done)]:
            self._print(line)
        for row in rows:
            if row.evaluation is not None:
                self._remember(row.evaluation)
        self._stage = "training the baseline"

    def baseline_epoch(self, number: int, of: int, top1: float) -> None:
        """Print how the baseline learns."""
        self._print(f"baseline epoch {number}/{of}  top1 {top1:.3f}")
        if number == of:
            self._stage = "starting workers"

    def table_measured(self, done: int, of: int) -> None:
        """Show how far the latency table is; print it now and then."""
        self._stage = f"measuring what blocks add to the latency, {done} of {of}"
        if done == of or done % TABLE_LINES_EVERY == 0:
            self._print(f"table    {done}/{of} entries")
        if done == of:
            self._stage = "starting workers"

    def trial_started(self, number: int, architecture: Architecture) -> None:
        """Remember what is under way."""
        self._under_way[number] = f"trial {number}: {architecture}"
        self._stage = "searching"

    def trial_epoch(self, number: int, epoch: int, top1: float) -> None:
        """Show how far a trial is."""
        text = self._under_way.get(number, f"trial {number}").split("  epoch")[0]
        self._under_way[number] = f"{text}  epoch {epoch}, top1 {top1:.3f}"

    def trial_finished(self, number: int, evaluation: Evaluation | None, reason: str) -> None:
        """Print a trial's result."""
        self._since = time.monotonic()
        self._under_way.pop(number, None)
        if evaluation is None:
            self._print(f"trial {number:<3} failed: {reason}")
            return
        self._print(self._result(number, evaluation))
        self._remember(evaluation)
        self._n_done += not evaluation.architecture.is_baseline

    def trial_refused(self, number: int, reason: str) -> None:
        """Print why an architecture was not trained."""
        text = self._under_way.pop(number, "").partition(": ")[2]
        self._print(f"trial {number:<3} refused: {reason}  {text}")

    def checks_planned(self, n_trainings: int, n_timings: int, seconds: float) -> None:
        """Print what a confirmation will do."""
        for line in self._header:
            self._print(line)
        self._checks = n_trainings + n_timings, seconds
        self._stage = "loading data and baseline, starting workers"
        self._print(
            f"plan     {n_trainings} training(s) on fresh seeds and {n_timings} timing(s), "
            f"about {seconds / 60:.0f} min in all"
        )

    def check_started(self, architecture: Architecture, seed: int | None) -> None:
        """Remember what is under way."""
        self._under_way[architecture, seed] = f"check {_task(seed)}: {architecture}"

    def check_finished(self, evaluation: Evaluation) -> None:
        """Print one training of a confirmation."""
        self._end_check(evaluation.architecture, evaluation.seed)
        self._print(
            f"check    seed {evaluation.seed}  test top1 {evaluation.top1:.3f}  "
            f"{evaluation.architecture}"
        )

    def check_failed(self, architecture: Architecture, seed: int | None, reason: str) -> None:
        """Print why a check came to nothing."""
        self._under_way.pop((architecture, seed), None)
        self._print(f"check    {_task(seed)}  failed: {reason}  {architecture}")

    def retimed(self, architecture: Architecture, latency: LatencyRatio) -> None:
        """Print a latency that was measured anew."""
        self._end_check(architecture, None)
        self._print(f"check    timing  latency {latency}  {architecture}")

    def _end_check(self, architecture: Architecture, seed: int | None) -> None:
        self._stage = "checking on fresh seeds"
        self._under_way.pop((architecture, seed), None)
        self._n_checked += 1

    def _remember(self, evaluation: Evaluation) -> None:
        if evaluation.architecture.is_baseline:
            self._baseline_top1 = evaluation.top1
        elif self._best is None or evaluation.top1 > self._best[0]:
            self._best = (evaluation.top1, str(evaluation.architecture))

    def _left_s(self, plan: Plan) -> float:
        """Return the seconds that what is left should take, by the plan."""
        before = 0.0 if self._baseline_top1 is not None else plan.baseline_s + plan.trial_s
        trials_s = max(0, plan.n_trials - self._n_done) * plan.trial_s / plan.workers
        under_way_s = time.monotonic() - self._since
        return max(0.0, before + trials_s + plan.check_s - under_way_s)

    def _result(self, number: int, evaluation: Evaluation) -> str:
        gain = ""
        if self._baseline_top1 is not None and not evaluation.architecture.is_baseline:
            gain = f" ({points(evaluation.top1 - self._baseline_top1)})"
        return (
            f"trial {number:<3} top1 {evaluation.top1:.3f}{gain}  "
            f"{costs_line(evaluation, self._objective)}  {evaluation.architecture}"
        )

    def _status(self) -> str:
        elapsed = time.monotonic() - self._began
        parts = [f"{elapsed / 60:4.1f} min"]
        if self._plan is not None:
            parts.append(f"about {self._left_s(self._plan) / 60:.1f} left")
            parts.append(f"{self._n_done}/{self._plan.n_trials} done")
        if self._checks is not None:
            n, seconds = self._checks
            parts.append(f"about {seconds * (1 - self._n_checked / n) / 60:.1f} left")
            parts.append(f"{self._n_checked}/{n} done")
        if self._best is not None:
            parts.append(f"best top1 {self._best[0]:.3f} {self._best[1]}")
        lines = [" | ".join(parts), *(list(self._under_way.values()) or [self._stage])]
        return "\n".join(lines)


def _task(seed: int | None) -> str:
    return "timing" if seed is None else f"seed {seed}"

"""Between Ray Tune, which wants suggestions, and the study, which is asked and told.

Ray's own OptunaSearch is not used: it loses trials whose result is not finite, tells those that
were stopped early as complete, trains duplicates again, and cannot attach anything to a trial.
"""

from __future__ import annotations

import json
import time
from typing import Any

from ray.tune.search import Searcher

from gcsearch.architecture import Architecture
from gcsearch.cost import COSTS, LatencyRatio, limit_key
from gcsearch.evaluation import Evaluation, Refusal
from gcsearch.space import SearchSpace
from gcsearch.study import SearchStudy
from gcsearch.tuning.events import Listener
from gcsearch.tuning.foresight import Foresight
from gcsearch.tuning.suggester import FAILURES_IN_A_ROW, RETRIES, Suggester

__all__ = ["StudySearcher"]

REFUSALS_IN_A_ROW = 30
"""So many architectures over a limit one after the other end the search."""


class StudySearcher(Suggester):
    """Suggests what the study asks for, and tells it what came back.

    Args:
        study: Asked and told by this object alone, in the driver.
        space: Of the study.
        target: How many trials are to be done in the whole study.
        deadline: On the clock of ``time.monotonic``; no trial begins that would end after it.
        trial_s: Seconds a trial is expected to take.
        listener: Hears of every trial.
        foresight: Predicts latencies, so that what is surely over the limit reaches no worker.

    Attributes:
        live: Trials under way: Ray's id to the study's number.
    """

    def __init__(
        self,
        study: SearchStudy,
        space: SearchSpace,
        *,
        target: int,
        deadline: float | None,
        trial_s: float,
        listener: Listener,
        foresight: Foresight | None = None,
    ) -> None:
        super().__init__()
        self._study, self._space, self._listener = study, space, listener
        self._target, self._deadline, self._trial_s = target, deadline, trial_s
        self._started: dict[str, float] = {}
        self._architectures: dict[int, Architecture] = {}
        self._failures = 0
        self._refused: list[tuple[Refusal, Architecture]] = []
        self._foresight = foresight
        self.live: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return what to evaluate next, or ``FINISHED``."""
        while not self._is_done():
            proposal = self._study.ask(self._space)
            if proposal is None:
                self.gave_up = "every architecture of the space has been tried"
                break
            number, architecture = proposal.number, proposal.architecture
            self._architectures[number] = architecture
            self._listener.trial_started(number, architecture)
            foresight = self._foresight
            if refusal := foresight and foresight.refusal(number, architecture):
                self._refuse(number, refusal)
                continue
            self.live[trial_id] = number
            self._started[trial_id] = time.monotonic()
            return {"architecture": architecture.to_dict()}
        self.is_over = True
        return str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass an epoch on to the listener, and keep the announcement of an error."""
        super().on_trial_result(trial_id, result)
        if trial_id in self.live and "epoch" in result:
            self._listener.trial_epoch(self.live[trial_id], result["epoch"], result["top1"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study, once, how a trial ended."""
        number = self.live.pop(trial_id, None)
        if number is None:
            return
        result = result or {}
        if "evaluation" in result:
            evaluation = Evaluation.from_dict(json.loads(result["evaluation"]))
            self._study.complete(number, evaluation)
            self._settle(number, evaluation.latency)
            self._note_duration(trial_id)
            self._failures = 0
            self._refused.clear()
            self._listener.trial_finished(number, evaluation, "")
            return
        if "refusal" in result:
            refusal = Refusal.from_dict(json.loads(result["refusal"]))
            if isinstance(refusal.latency, LatencyRatio):
                self._settle(number, refusal.latency)
            self._refuse(number, refusal)
            return
        self._fail(number, *self._failure(trial_id, result, error))

    def _settle(self, number: int, latency: LatencyRatio | None) -> None:
        """Let the foresight learn what came of its prediction."""
        if self._foresight and latency:
            self._foresight.settle(number, latency)

    def _refuse(self, number: int, refusal: Refusal) -> None:
        """Tell of an architecture over a limit; limits that none can meet end the search."""
        self._study.refuse(number, refusal)
        self._listener.trial_refused(number, refusal.reason)
        self._refused.append((refusal, self._architectures[number]))
        if len(self._refused) >= REFUSALS_IN_A_ROW:
            self.is_stuck = not self._study.n_done()
            broken = {one.cost for one, _ in self._refused}
            limits = " or ".join(limit_key(cost) for cost in COSTS if cost in broken)
            cheapest, architecture = min(self._refused, key=lambda pair: pair[0].share)
            self.gave_up = (
                f"the last {len(self._refused)} architectures were all over {limits}; the "
                f"cheapest of them has {cheapest.measured}: {architecture}; raise {limits}, or "
                "search fewer insertions or other sites"
            )

    def _fail(self, number: int, reason: str, retry: bool) -> None:
        """Tell of a failure; without its baseline, or with one after the other, a search ends."""
        self._failures += 1
        is_baseline = self._architectures[number].is_baseline
        may_pass = retry and self._failures <= RETRIES
        self._study.fail(number, reason, retry=may_pass or is_baseline)
        self._listener.trial_finished(number, None, reason)
        if is_baseline and not may_pass:
            self.gave_up, self.is_stuck = f"the baseline's own trial failed: {reason}", True
        elif self._failures >= FAILURES_IN_A_ROW:
            self.is_stuck = True
            self.gave_up = f"{self._failures} trials in a row failed; the last one: {reason}"

    def _is_done(self) -> bool:
        if self.is_over or self.gave_up:
            return True
        n_counted = self._study.n_done() + self._n_live_counted()
        has_baseline = self._study.baseline() is not None
        if n_counted >= self._target:
            return has_baseline or bool(self.live)
        is_late = self._deadline is not None and time.monotonic() + self._trial_s > self._deadline
        if is_late and has_baseline and n_counted:
            self.gave_up = "the time budget is spent; the same command goes on with the rest"
        return bool(self.gave_up)

    def _n_live_counted(self) -> int:
        """Return how many of the trials under way will count: all but the baseline's."""
        return sum(not self._architectures[n].is_baseline for n in self.live.values())

    def _note_duration(self, trial_id: str) -> None:
        """Expect of the next trial what the last one took, when that was longer than planned."""
        taken = time.monotonic() - self._started.pop(trial_id)
        self._trial_s = max(self._trial_s, 0.5 * (self._trial_s + taken))

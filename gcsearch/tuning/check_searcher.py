"""Between Ray Tune, which wants suggestions, and the list of what a confirmation owes."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from ray.tune.search import Searcher

from gcsearch.cost import LatencyRatio
from gcsearch.evaluation import Evaluation
from gcsearch.study import SearchStudy
from gcsearch.tuning.checks import Check
from gcsearch.tuning.events import Listener
from gcsearch.tuning.suggester import FAILURES_IN_A_ROW, RETRIES, Suggester

__all__ = ["CheckSearcher"]


class CheckSearcher(Suggester):
    """Hands out one check after the other, and stores what came back as soon as it is there.

    Args:
        study: Told by this object alone, in the driver.
        checks: What is owed, in order.
        deadline: On the clock of ``time.monotonic``; but for the first, no check begins that would
            end after it.
        check_s: Seconds a check is expected to take.
        listener: Hears of every check.
    """

    def __init__(
        self,
        study: SearchStudy,
        checks: Sequence[Check],
        *,
        deadline: float | None,
        check_s: float,
        listener: Listener,
    ) -> None:
        super().__init__()
        self._study, self._listener = study, listener
        self._waiting = deque(checks)
        self._deadline, self._check_s = deadline, check_s
        self._under_way: dict[str, Check] = {}
        self._failed: Counter[Check] = Counter()
        self._failures = self._n_begun = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return what to do next, ``FINISHED``, or ``None`` while the last may come back."""
        if self._waiting and not self.gave_up and self._is_late():
            self.gave_up = "the time budget is spent; the same command goes on with the rest"
        if self._waiting and not self.gave_up:
            check = self._under_way[trial_id] = self._waiting.popleft()
            self._n_begun += 1
            self._listener.check_started(check.architecture, check.seed)
            return check.to_dict()
        if self._under_way:
            return None
        self.is_over = True
        return str(Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Store what came of a check."""
        check = self._under_way.pop(trial_id, None)
        if check is None:
            return
        result = result or {}
        if "evaluation" in result:
            evaluation = Evaluation.from_dict(json.loads(result["evaluation"]))
            self._study.add_check(evaluation)
            self._listener.check_finished(evaluation)
        elif "latency" in result:
            latency = LatencyRatio(**json.loads(result["latency"]))
            self._study.add_retiming(check.architecture, latency)
            self._listener.retimed(check.architecture, latency)
        else:
            reason, retry = self._failure(trial_id, result, error)
            if "failure" in result and not retry and check.seed is not None:
                self._study.add_failed_check(check.architecture, check.seed, reason)
            self._fail(check, reason, retry)
            return
        self._failures = 0

    def _fail(self, check: Check, reason: str, retry: bool) -> None:
        """Put off what may pass, and tell of it.

        Without a timing anew the search's stands, so that failed ones do not end a confirmation.
        """
        self._listener.check_failed(check.architecture, check.seed, reason)
        self._failed[check] += 1
        if retry and self._failed[check] <= RETRIES:
            self._waiting.append(check)
            return
        if check.seed is None:
            return
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            self.is_stuck = True
            self.gave_up = f"{self._failures} checks in a row failed; the last one: {reason}"

    def _is_late(self) -> bool:
        if self._deadline is None or not self._n_begun:
            return False
        return time.monotonic() + self._check_s > self._deadline

"""What a confirmation still owes of a study, and working it off in this process; knows no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from gcsearch.architecture import Architecture
from gcsearch.evaluation import Evaluator
from gcsearch.plan import Plan
from gcsearch.study import SearchStudy
from gcsearch.tuning.events import Listener

__all__ = ["Check", "check_here", "owed_checks"]

FIRST_SEED = 10_000
"""Fresh seeds lie this far above the search's own."""


@dataclass(frozen=True)
class Check:
    """One piece of a confirmation: to train with a fresh seed, or, without one, to time anew."""

    architecture: Architecture
    seed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a worker."""
        return {"architecture": self.architecture.to_dict(), "check_seed": self.seed}

    def __str__(self) -> str:
        task = "timing" if self.seed is None else f"seed {self.seed}"
        return f"{task}  {self.architecture}"


def owed_checks(
    study: SearchStudy,
    architectures: Sequence[Architecture],
    n_seeds: int,
    *,
    with_timing: bool = True,
) -> list[Check]:
    """Return what is not in the database yet, in the order in which it should be done.

    Timings come first, then seed after seed the baseline and all architectures, so that whatever
    is done can be paired, wherever it stops.

    Args:
        study: Whose seeds are used, and whose checks are not done again.
        architectures: To be compared with their baseline; it is none of them.
        n_seeds: Fresh seeds of each.
        with_timing: Whether their latencies are to be measured anew, once.
    """
    if not architectures:
        return []
    retimed = study.retimings() if with_timing else {}
    timings = [Check(a) for a in architectures if with_timing and a.id not in retimed]
    first = int(study.record.config["search"]["seed"]) + FIRST_SEED
    contenders = [architectures[0].baseline(), *architectures]
    wanted = [Check(a, seed) for seed in range(first, first + n_seeds) for a in contenders]
    done = {(e.architecture.id, e.seed) for e in study.checks()} | study.failed_checks()
    return timings + [c for c in wanted if (c.architecture.id, c.seed) not in done]


def check_here(
    checks: Sequence[Check],
    study: SearchStudy,
    evaluator: Evaluator,
    plan: Plan,
    listener: Listener,
) -> dict[str, tuple[int, nn.Module]]:
    """Train in this process what is owed; each evaluation is stored as soon as it is there.

    Returns:
        The networks trained last in this call with their seeds, by architecture id.
    """
    models: dict[str, tuple[int, nn.Module]] = {}
    for check in checks:
        if check.seed is None:
            raise ValueError(f"{check}: workers time anew, this process does not")
        listener.check_started(check.architecture, check.seed)
        evaluation, model = evaluator.evaluate(
            check.architecture,
            plan.trial,
            check.seed,
            split=evaluator.task.test,
            with_latency=False,
        )
        models[check.architecture.id] = (check.seed, model)
        study.add_check(evaluation)
        listener.check_finished(evaluation)
    return models

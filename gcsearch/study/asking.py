"""Which architecture is tried next: the baseline, random ones, then the sampler's; none twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from gcsearch.architecture import Architecture
from gcsearch.space import SearchSpace
from gcsearch.study.owner import this_process
from gcsearch.study.trials import Trials, quiet_optuna

__all__ = ["MAX_DUPLICATES_IN_A_ROW", "Asking", "Proposal"]

MAX_DUPLICATES_IN_A_ROW = 3
MAX_DRAWS = 1000


@dataclass(frozen=True)
class Proposal:
    """An architecture to be evaluated, and the number of its trial."""

    number: int
    architecture: Architecture


class Asking:
    """Begins trials of one study.

    Args:
        study: As Optuna has it.
        storage: The database it is in.
        trials: Of the study.
        search: The section of that name of its configuration.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: RDBStorage,
        trials: Trials,
        search: Mapping[str, Any],
    ) -> None:
        self._study, self._storage, self._trials = study, storage, trials
        self._seed, self._n_startup = search["seed"], search["startup_trials"]

    def propose(self, space: SearchSpace) -> Proposal | None:
        """Return an architecture that is neither known nor under way, or ``None`` if none is left.

        The first trial is the baseline, again if its failure may pass; then come a few random
        architectures, then the sampler's.
        """
        trials, known = self._trials.all(), self._trials.known()
        baseline = Architecture(space.backbone)
        if any(trial.state == TrialState.WAITING for trial in trials):
            pass  # what was cut short comes first
        elif baseline.id not in known:
            self._study.enqueue_trial(space.encode(baseline))
        elif len(trials) <= self._n_startup:
            self._enqueue_unseen(space, known)
        for attempt in range(MAX_DRAWS):
            is_stuck = attempt and attempt % MAX_DUPLICATES_IN_A_ROW == 0
            if is_stuck and not self._enqueue_unseen(space, known):
                return None
            proposal = self._ask_once(space, known)
            if proposal is not None:
                return proposal
        return None

    def _ask_once(self, space: SearchSpace, known: dict[str, FrozenTrial]) -> Proposal | None:
        self._study.sampler = self._sampler()
        with quiet_optuna():
            trial = self._study.ask()
        trial.set_user_attr("owner", this_process())
        self._storage.record_heartbeat(trial._trial_id)
        architecture = space.decode(trial)
        words = {"architecture": architecture.to_dict(), "architecture_text": str(architecture)}
        self._trials.note(trial, words)
        twin = known.get(architecture.id)
        if twin is None:
            return Proposal(trial.number, architecture)
        trial.set_user_attr("duplicate_of", twin.number)
        if twin.state == TrialState.COMPLETE:
            self._trials.end_as(trial, twin)
        elif not self._trials.one(trial.number).state.is_finished():
            reason = f"same architecture as trial {twin.number}"
            self._trials.note(trial, {"reason": reason, "retry": True})
            self._trials.end(trial, TrialState.FAIL)
        return None

    def _enqueue_unseen(self, space: SearchSpace, known: dict[str, FrozenTrial]) -> bool:
        """Queue a random architecture that is not known; return whether one was found."""
        rng = np.random.default_rng([self._seed, len(self._trials.all())])
        for _ in range(MAX_DRAWS):
            architecture = space.random(rng)
            if architecture.id not in known:
                self._study.enqueue_trial(space.encode(architecture))
                return True
        return False

    def _sampler(self) -> TPESampler:
        """Return TPE, multivariate and grouped, seeded by where the study is.

        It did best of the samplers tried on spaces of this form, and going on after a stop must
        not draw again what was drawn before.
        """
        with quiet_optuna():
            return TPESampler(
                multivariate=True,
                group=True,
                n_startup_trials=self._n_startup,
                seed=self._seed + len(self._trials.all()),
            )

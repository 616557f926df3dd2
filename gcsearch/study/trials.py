"""The trials of one Optuna study, read and written; decides nothing about them.

Optuna's own trial objects write only while their trial runs, and only what they call user
attributes. What is kept here goes to the storage itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from gcsearch.architecture import Architecture
from gcsearch.cost import Cost, excesses
from gcsearch.study.attributes import hidden_key, read_attrs

__all__ = ["Trials", "quiet_optuna"]

CONSTRAINTS = "constraints"
"""Of Optuna's own: the older of its two forms, which is the one that its dashboard reads."""


class Trials:
    """The trials of a study.

    Args:
        study: As Optuna has it.
        storage: The database it is in.
        limits: Of costs, as ratios to the backbone, by their names.
    """

    def __init__(
        self, study: optuna.Study, storage: RDBStorage, limits: Mapping[Cost, float]
    ) -> None:
        self._study, self._storage, self._limits = study, storage, limits

    def all(self) -> list[FrozenTrial]:
        """Return all of them by number; they are not to be changed."""
        return self._study.get_trials(deepcopy=False)

    def one(self, number: int) -> FrozenTrial:
        """Return the trial of a number."""
        return self.all()[number]

    def known(self) -> dict[str, FrozenTrial]:
        """Return those whose architectures need not be tried (again), by architecture id."""
        known = {}
        for trial in self.all():
            data = read_attrs(trial).get("architecture")
            is_open = trial.state == TrialState.FAIL and trial.user_attrs.get("retry")
            if data is None or is_open or trial.user_attrs.get("duplicate_of") is not None:
                continue
            known[Architecture.from_dict(data).id] = trial
        return known

    def note(self, trial: FrozenTrial | optuna.Trial, attrs: Mapping[str, Any]) -> None:
        """Keep attributes of a trial that has not ended."""
        for name, value in attrs.items():
            if key := hidden_key(name):
                self._storage.set_trial_system_attr(trial._trial_id, key, value)
            else:
                self._storage.set_trial_user_attr(trial._trial_id, name, value)

    def constrain(self, trial: FrozenTrial, ratios: Mapping[str, float]) -> None:
        """Keep how far costs are over their limits, where sampler and dashboard look for it."""
        for key, values in self._constraints(ratios).items():
            self._storage.set_trial_system_attr(trial._trial_id, key, values)

    def end(
        self,
        trial: FrozenTrial | optuna.Trial,
        state: TrialState,
        values: list[float] | None = None,
    ) -> None:
        """End a trial; a complete one with its values."""
        self._storage.set_trial_state_values(trial._trial_id, state, values)

    def end_as(self, trial: optuna.Trial, twin: FrozenTrial) -> None:
        """End a trial with what its architecture came to in another, complete one."""
        if constraints := twin.system_attrs.get(CONSTRAINTS):
            self._storage.set_trial_system_attr(trial._trial_id, CONSTRAINTS, constraints)
        self.end(trial, TrialState.COMPLETE, twin.values)

    def add_late(
        self,
        trial: FrozenTrial,
        attrs: Mapping[str, Any],
        values: list[float],
        ratios: Mapping[str, float],
    ) -> None:
        """Keep what was measured for a trial that another process took for dead meanwhile.

        That happens to a machine that was asleep. What ended stays as it is; the result becomes a
        trial of its own, and the queued repetition a duplicate of it.
        """
        kept = {k: v for k, v in read_attrs(trial).items() if k not in ("reason", "retry")}
        kept |= attrs
        twin = self.known().get(attrs["architecture_id"])
        if twin is not None and twin.state == TrialState.COMPLETE:
            kept["duplicate_of"] = twin.number
        hidden = {key: kept[name] for name in kept if (key := hidden_key(name))}
        self._study.add_trial(
            optuna.trial.create_trial(
                params=trial.params,
                distributions=trial.distributions,
                values=values,
                user_attrs={k: v for k, v in kept.items() if not hidden_key(k)},
                system_attrs={**self._constraints(ratios), **hidden},
            )
        )

    def _constraints(self, ratios: Mapping[str, float]) -> dict[str, list[float]]:
        """Return one constraint a limit, kept where at most 0."""
        return {CONSTRAINTS: [*excesses(self._limits, ratios).values()]} if self._limits else {}


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna from telling what it does, and that some of it is new."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)

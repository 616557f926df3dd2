"""One search's Optuna study: asked, told, reaped; knows the space, but no worker.

The database is the only truth: what is done is counted in it, and going on means asking it again.
Only here are trials begun and ended. An architecture that is known already is never handed out
twice: its trial is told the known values at once, which still teaches the sampler something.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from gcsearch.architecture import Architecture
from gcsearch.cost import COSTS, LatencyRatio, excesses
from gcsearch.errors import StudyError, UnknownNameError
from gcsearch.evaluation import Evaluation, Refusal, upper_ratios
from gcsearch.plan import Plan
from gcsearch.space import SearchSpace
from gcsearch.study.attributes import (
    evaluation_attrs,
    hidden_key,
    objective_values,
    read_attrs,
    refusal_attrs,
)
from gcsearch.study.owner import is_dead, this_process
from gcsearch.study.record import DIRECTIONS, StudyRecord, TrialRow
from gcsearch.study.storage import GRACE_S, HEARTBEAT_S, list_studies

__all__ = ["Proposal", "SearchStudy"]

RECORD = "gcsearch"
CHECK = "check"
FAILED_CHECK = "failed-check"
RETIMED = "retimed"
DRIVERS = "drivers"
CONSTRAINTS = "constraints"
"""Of Optuna's own: the older of its two forms, which is the one that its dashboard reads."""
MAX_DUPLICATES_IN_A_ROW = 3
MAX_DRAWS = 1000


@dataclass(frozen=True)
class Proposal:
    """An architecture to be evaluated, and the number of its trial."""

    number: int
    architecture: Architecture


class SearchStudy:
    """A study of one search, in a database.

    Args:
        storage: The open database.
        name: Of an existing study; see :meth:`create`.

    Raises:
        UnknownNameError: The database has no such study.
        StudyError: The study is not one of gcsearch's.
    """

    def __init__(self, storage: RDBStorage, name: str) -> None:
        if name not in list_studies(storage):
            cure = (
                "`gcsearch status` lists those there are; `gcsearch run --study NAME` makes one."
            )
            raise UnknownNameError("study", name, list_studies(storage), cure)
        with _quiet_optuna():
            self._study = optuna.load_study(study_name=name, storage=storage)
        data = self._study.user_attrs.get(RECORD)
        if data is None:
            raise StudyError(f"study {name!r} was not made by gcsearch; choose another --study")
        self.name, self.storage = name, storage
        self.record = StudyRecord(**json.loads(data))

    @classmethod
    def create(cls, storage: RDBStorage, name: str, record: StudyRecord) -> SearchStudy:
        """Make a study; what is fixed for it is written before anything else.

        Raises:
            StudyError: The name is taken.
        """
        study, is_new = cls.create_or_load(storage, name, record)
        if not is_new:
            raise StudyError(f"study {name!r} exists already; choose another --study")
        return study

    @classmethod
    def create_or_load(
        cls, storage: RDBStorage, name: str, record: StudyRecord
    ) -> tuple[SearchStudy, bool]:
        """Make a study, unless another process has made it; return it, and whether it is new."""
        if cls.exists(storage, name):
            return cls(storage, name), False
        with _quiet_optuna():
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                directions=[*DIRECTIONS],
                load_if_exists=True,
            )
            study.set_metric_names([*record.objectives])
        study.set_user_attr(RECORD, json.dumps(asdict(record)))
        return cls(storage, name), True

    @classmethod
    def exists(cls, storage: RDBStorage, name: str) -> bool:
        """Whether the name is taken; not if the process that made the study died over it."""
        if name not in list_studies(storage):
            return False
        with _quiet_optuna():
            study = optuna.load_study(study_name=name, storage=storage)
        directions = [direction.name.lower() for direction in study.directions]
        is_blank = RECORD not in study.user_attrs and not study.get_trials(deepcopy=False)
        return not (is_blank and directions == [*DIRECTIONS])

    @property
    def plan(self) -> Plan:
        """The plan of the study."""
        return Plan.from_dict(self.record.plan)

    def change_plan(self, plan: Plan) -> None:
        """Store another plan, e.g. one of more trials."""
        self.record = replace(self.record, plan=plan.to_dict())
        self._study.set_user_attr(RECORD, json.dumps(asdict(self.record)))

    def set_baseline(self, content_hash: str) -> None:
        """Note the content hash of the weights that every architecture inherits.

        Raises:
            StudyError: Trials of this study have inherited others.
        """
        key = "baseline_sha256"
        known = self._study.user_attrs.get(key)
        if known not in (None, content_hash) and self.baseline() is not None:
            raise StudyError(
                f"the baseline's weights differ from those that study {self.name!r} began with, "
                "so its trials would not compare; restore the file under cache/baselines, or "
                "choose another --study"
            )
        self._study.set_user_attr(key, content_hash)

    def trials(self) -> list[FrozenTrial]:
        """Return all trials by number, as Optuna has them; they are not to be changed."""
        return self._study.get_trials(deepcopy=False)

    def rows(self) -> list[TrialRow]:
        """Return all trials by number."""
        return [TrialRow.from_optuna(trial) for trial in self.trials()]

    def n_done(self) -> int:
        """Return how many of the planned trials are used up."""
        return sum(row.counts for row in self.rows())

    def baseline(self) -> TrialRow | None:
        """Return the complete trial of the unaltered backbone, if there is one."""
        for row in self.rows():
            if row.is_result and row.evaluation and row.evaluation.architecture.is_baseline:
                return row
        return None

    def checks(self) -> list[Evaluation]:
        """Return the evaluations that confirm: on fresh seeds, scored on the test split."""
        attrs = self._study.user_attrs
        keys = sorted(key for key in attrs if key.startswith(f"{CHECK}/"))
        return [Evaluation.from_dict(json.loads(attrs[key])) for key in keys]

    def add_check(self, evaluation: Evaluation) -> None:
        """Keep one evaluation that confirms; the same one again replaces it."""
        key = f"{CHECK}/{evaluation.architecture.id}/{evaluation.seed}"
        self._study.set_user_attr(key, json.dumps(evaluation.to_dict()))

    def failed_checks(self) -> set[tuple[str, int]]:
        """Return id and seed of trainings that would come to nothing again, e.g. diverge."""
        keys = [k.split("/") for k in self._study.user_attrs if k.startswith(f"{FAILED_CHECK}/")]
        return {(architecture_id, int(seed)) for _, architecture_id, seed in keys}

    def add_failed_check(self, architecture: Architecture, seed: int, reason: str) -> None:
        """Keep that a training with a fresh seed comes to nothing, and why."""
        self._study.set_user_attr(f"{FAILED_CHECK}/{architecture.id}/{seed}", reason)

    def retimings(self) -> dict[str, LatencyRatio]:
        """Return the latencies that were measured anew, by the architecture's id."""
        attrs = self._study.user_attrs
        return {
            key.partition("/")[2]: LatencyRatio(**json.loads(attrs[key]))
            for key in attrs
            if key.startswith(f"{RETIMED}/")
        }

    def add_retiming(self, architecture: Architecture, latency: LatencyRatio) -> None:
        """Keep a latency that was measured anew."""
        key = f"{RETIMED}/{architecture.id}"
        self._study.set_user_attr(key, json.dumps(asdict(latency)))

    def complete(self, number: int, evaluation: Evaluation) -> None:
        """End a trial with what was measured.

        The baseline's latency ratio is told as exactly 1: what was measured for it is the noise
        floor of this machine, and stays in the evaluation.
        """
        attrs = evaluation_attrs(evaluation)
        values = objective_values(evaluation, self.record.objective)
        trial = self._trial(number)
        ratios: dict[str, float] = {cost: 1.0 for cost in COSTS}
        if not evaluation.architecture.is_baseline:
            ratios = upper_ratios(evaluation.ratios, evaluation.latency)
        if trial.state.is_finished():
            self._add_late(trial, attrs, values, self._constraints(ratios))
            return
        self._set(trial._trial_id, attrs)
        self._constrain(trial, ratios)
        self._tell(trial._trial_id, TrialState.COMPLETE, values)

    def refuse(self, number: int, refusal: Refusal) -> None:
        """End a trial whose architecture costs too much; the sampler learns of it."""
        trial = self._trial(number)
        if trial.state.is_finished():
            return
        self._set(trial._trial_id, refusal_attrs(refusal))
        self._constrain(trial, upper_ratios(refusal.ratios, refusal.latency))
        self._tell(trial._trial_id, TrialState.PRUNED, None)

    def fail(self, number: int, reason: str, *, retry: bool = False) -> None:
        """End a trial without a result.

        Args:
            number: Of the trial.
            reason: In words, for people.
            retry: Whether the cause may pass, so that the architecture may be proposed again.
        """
        trial = self._trial(number)
        if trial.state.is_finished():
            return  # another process took it for dead, and put its architecture in the queue
        self._set(trial._trial_id, {"reason": reason, "retry": retry})
        self._tell(trial._trial_id, TrialState.FAIL, None)

    def requeue(self, number: int, reason: str) -> None:
        """End an interrupted trial and put its architecture first in the queue."""
        trial = self._trial(number)
        if trial.state.is_finished():
            return
        params = trial.system_attrs.get("fixed_params", {}) | trial.params
        self.fail(number, reason, retry=True)
        if params:
            self._study.enqueue_trial(params)

    def reap(self) -> int:
        """Requeue the trials whose process is gone; return how many there were."""
        stale = set(self.storage._get_stale_trial_ids(self._study._study_id))
        drivers = self._study.user_attrs.get(DRIVERS, [])
        is_deserted = bool(drivers) and all(map(is_dead, drivers))
        orphans = [
            trial.number
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if trial._trial_id in stale or _is_orphan(trial, is_deserted)
        ]
        for number in orphans:
            self.requeue(
                number, "its process ended before it did; the architecture is tried again"
            )
        return len(orphans)

    @contextmanager
    def heartbeat(self, live: dict[str, int]) -> Iterator[None]:
        """Let other drivers know that the trials whose numbers ``live`` holds are looked after."""
        over = threading.Event()
        known = [
            driver for driver in self._study.user_attrs.get(DRIVERS, []) if not is_dead(driver)
        ]
        self._study.set_user_attr(DRIVERS, [*known, this_process()])

        def beat() -> None:
            while not over.wait(HEARTBEAT_S):
                for number in list(live.values()):
                    self.storage.record_heartbeat(self._trial(number)._trial_id)
                self.storage.remove_session()

        thread = threading.Thread(target=beat, name="gcsearch-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def ask(self, space: SearchSpace) -> Proposal | None:
        """Return an architecture that is neither known nor under way, or ``None`` if none is left.

        The first trial is the baseline, again if its failure may pass; then come a few random
        architectures, then the sampler's.
        """
        trials = self._study.get_trials(deepcopy=False)
        known = _known(trials)
        baseline = Architecture(space.backbone)
        if any(trial.state == TrialState.WAITING for trial in trials):
            pass  # what was cut short comes first
        elif baseline.id not in known:
            self._study.enqueue_trial(space.encode(baseline))
        elif len(trials) <= self.record.config["search"]["startup_trials"]:
            self._enqueue_unseen(space, known)
        for attempt in range(MAX_DRAWS):
            if (
                attempt
                and attempt % MAX_DUPLICATES_IN_A_ROW == 0
                and not (self._enqueue_unseen(space, known))
            ):
                return None
            proposal = self._ask_once(space, known)
            if proposal is not None:
                return proposal
        return None

    def _ask_once(self, space: SearchSpace, known: dict[str, FrozenTrial]) -> Proposal | None:
        self._study.sampler = self._sampler()
        with _quiet_optuna():
            trial = self._study.ask()
        trial.set_user_attr("owner", this_process())
        self.storage.record_heartbeat(trial._trial_id)
        architecture = space.decode(trial)
        words = {"architecture": architecture.to_dict(), "architecture_text": str(architecture)}
        self._set(trial._trial_id, words)
        twin = known.get(architecture.id)
        if twin is None:
            return Proposal(trial.number, architecture)
        trial.set_user_attr("duplicate_of", twin.number)
        if twin.state == TrialState.COMPLETE:
            if known_limits := twin.system_attrs.get(CONSTRAINTS):
                self.storage.set_trial_system_attr(trial._trial_id, CONSTRAINTS, known_limits)
            self._tell(trial._trial_id, TrialState.COMPLETE, twin.values)
        else:
            self.fail(trial.number, f"same architecture as trial {twin.number}", retry=True)
        return None

    def _enqueue_unseen(self, space: SearchSpace, known: dict[str, FrozenTrial]) -> bool:
        """Queue a random architecture that is not known; return whether one was found."""
        seed = [self.record.config["search"]["seed"], len(self._study.get_trials(deepcopy=False))]
        rng = np.random.default_rng(seed)
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
        search = self.record.config["search"]
        n_trials = len(self._study.get_trials(deepcopy=False))
        with _quiet_optuna():
            return TPESampler(
                multivariate=True,
                group=True,
                n_startup_trials=search["startup_trials"],
                seed=search["seed"] + n_trials,
            )

    def _constraints(self, ratios: Mapping[str, float]) -> dict[str, list[float]]:
        """Return one constraint a limit, kept where at most 0, in the form the dashboard reads."""
        limits = self.record.limits
        return {CONSTRAINTS: [*excesses(limits, ratios).values()]} if limits else {}

    def _constrain(self, trial: FrozenTrial, ratios: Mapping[str, float]) -> None:
        for key, values in self._constraints(ratios).items():
            self.storage.set_trial_system_attr(trial._trial_id, key, values)

    def _set(self, trial_id: int, attrs: Mapping[str, Any]) -> None:
        for name, value in attrs.items():
            if key := hidden_key(name):
                self.storage.set_trial_system_attr(trial_id, key, value)
            else:
                self.storage.set_trial_user_attr(trial_id, name, value)

    def _tell(self, trial_id: int, state: TrialState, values: list[float] | None) -> None:
        self.storage.set_trial_state_values(trial_id, state, values)

    def _add_late(
        self,
        trial: FrozenTrial,
        attrs: dict[str, Any],
        values: list[float],
        constraints: dict[str, list[float]],
    ) -> None:
        """Keep what was measured for a trial that another process took for dead meanwhile.

        That happens to a machine that was asleep. What ended stays as it is; the result becomes a
        trial of its own, and the queued repetition a duplicate of it.
        """
        kept = {k: v for k, v in read_attrs(trial).items() if k not in ("reason", "retry")} | attrs
        twin = _known(self._study.get_trials(deepcopy=False)).get(attrs["architecture_id"])
        if twin is not None and twin.state == TrialState.COMPLETE:
            kept["duplicate_of"] = twin.number
        self._study.add_trial(
            optuna.trial.create_trial(
                params=trial.params,
                distributions=trial.distributions,
                values=values,
                user_attrs={k: v for k, v in kept.items() if not hidden_key(k)},
                system_attrs=constraints | {h: kept[k] for k in kept if (h := hidden_key(k))},
            )
        )

    def _trial(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]


def _known(trials: list[FrozenTrial]) -> dict[str, FrozenTrial]:
    """Return the trials whose architectures need not be tried (again), by architecture id."""
    known = {}
    for trial in trials:
        data = read_attrs(trial).get("architecture")
        is_open = trial.state == TrialState.FAIL and trial.user_attrs.get("retry")
        if data is None or is_open or trial.user_attrs.get("duplicate_of") is not None:
            continue
        known[Architecture.from_dict(data).id] = trial
    return known


def _is_orphan(trial: FrozenTrial, is_deserted: bool) -> bool:
    """Whether the process that asked for a running trial is gone, or died before it signed it.

    Args:
        trial: Its owner signs it right after it has made it.
        is_deserted: Whether all drivers of the study are gone, so that nobody will sign it.
    """
    owner = trial.user_attrs.get("owner")
    if owner is None and is_deserted:
        return True
    if owner is None and trial.datetime_start is not None:
        return datetime.now() - trial.datetime_start > timedelta(seconds=GRACE_S)
    return is_dead(owner)


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)

"""One search's Optuna study: asked, told, reaped; knows the space, but no worker.

The database is the only truth: what is done is counted in it, and going on means asking it again.
An architecture that is known already is never handed out twice: its trial is told the known values
at once, which still teaches the sampler something.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timedelta

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from gcsearch.architecture import Architecture
from gcsearch.cost import COSTS, LatencyRatio
from gcsearch.errors import StudyError, UnknownNameError
from gcsearch.evaluation import Evaluation, Refusal, upper_ratios
from gcsearch.plan import Plan
from gcsearch.space import SearchSpace
from gcsearch.study.asking import Asking, Proposal
from gcsearch.study.attributes import evaluation_attrs, objective_values, refusal_attrs
from gcsearch.study.owner import is_dead, this_process
from gcsearch.study.record import DIRECTIONS, StudyRecord, TrialRow
from gcsearch.study.storage import GRACE_S, HEARTBEAT_S, list_studies
from gcsearch.study.trials import Trials, quiet_optuna

__all__ = ["SearchStudy"]

RECORD = "gcsearch"
CHECK = "check"
FAILED_CHECK = "failed-check"
RETIMED = "retimed"
DRIVERS = "drivers"


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
        with quiet_optuna():
            self._study = optuna.load_study(study_name=name, storage=storage)
        data = self._study.user_attrs.get(RECORD)
        if data is None:
            raise StudyError(f"study {name!r} was not made by gcsearch; choose another --study")
        self.name, self.storage = name, storage
        self.record = StudyRecord(**json.loads(data))
        self._trials = Trials(self._study, storage, self.record.limits)

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
        with quiet_optuna():
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
        with quiet_optuna():
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
        return self._trials.all()

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
        trial = self._trials.one(number)
        ratios: dict[str, float] = {cost: 1.0 for cost in COSTS}
        if not evaluation.architecture.is_baseline:
            ratios = upper_ratios(evaluation.ratios, evaluation.latency)
        if trial.state.is_finished():
            self._trials.add_late(trial, attrs, values, ratios)
            return
        self._trials.note(trial, attrs)
        self._trials.constrain(trial, ratios)
        self._trials.end(trial, TrialState.COMPLETE, values)

    def refuse(self, number: int, refusal: Refusal) -> None:
        """End a trial whose architecture costs too much; the sampler learns of it."""
        trial = self._trials.one(number)
        if trial.state.is_finished():
            return
        self._trials.note(trial, refusal_attrs(refusal))
        self._trials.constrain(trial, upper_ratios(refusal.ratios, refusal.latency))
        self._trials.end(trial, TrialState.PRUNED)

    def fail(self, number: int, reason: str, *, retry: bool = False) -> None:
        """End a trial without a result.

        Args:
            number: Of the trial.
            reason: In words, for people.
            retry: Whether the cause may pass, so that the architecture may be proposed again.
        """
        trial = self._trials.one(number)
        if trial.state.is_finished():
            return  # another process took it for dead, and put its architecture in the queue
        self._trials.note(trial, {"reason": reason, "retry": retry})
        self._trials.end(trial, TrialState.FAIL)

    def requeue(self, number: int, reason: str) -> None:
        """End an interrupted trial and put its architecture first in the queue."""
        trial = self._trials.one(number)
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
                    self.storage.record_heartbeat(self._trials.one(number)._trial_id)
                self.storage.remove_session()

        thread = threading.Thread(target=beat, name="gcsearch-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def ask(self, space: SearchSpace) -> Proposal | None:
        """Begin a trial; see :meth:`gcsearch.study.asking.Asking.propose`."""
        search = self.record.config["search"]
        return Asking(self._study, self.storage, self._trials, search).propose(space)


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

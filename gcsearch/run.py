"""One whole run, from a configuration to an exported choice; prints nothing.

Every stage first asks the database what is done already, so that the same call goes on after a
stop at any moment: the study and its plan are written before the first trial, the baseline's
weights are kept by a hash of all that decides them, trials and checks are counted where they are
stored.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from optuna.storages import RDBStorage
from torch import nn

from gcsearch.config import SearchConfig
from gcsearch.dashboard import Annotator
from gcsearch.dashboard.listening import AnnotatingListener
from gcsearch.errors import ConfigError, StudyError
from gcsearch.evaluation import Evaluator
from gcsearch.export import write_atomically
from gcsearch.export.finding import export_finding, holds
from gcsearch.plan import Speeds, make_plan
from gcsearch.results import (
    Confirmation,
    Finding,
    SearchResult,
    candidate_of,
    findings,
    rule_of,
    summarise,
)
from gcsearch.resume import baseline_path, config_to_go_on, default_study_name, plan_to_go_on
from gcsearch.study import LatencyStore, SearchStudy, StudyRecord, open_storage
from gcsearch.study.storage import DEFAULT_URL, artifact_directory, run_directory, shown_url
from gcsearch.tuning import (
    Foresight,
    Listener,
    build_table,
    check_here,
    listen_together,
    owed_checks,
    run_trials,
    table_work,
)

__all__ = ["search"]

WRAP_UP_S = 15.0
"""Seconds kept free of trials at the end, for stopping the workers and writing the exports."""


def search(
    config: SearchConfig | None = None,
    *,
    study: str | None = None,
    storage: str = DEFAULT_URL,
    ray_address: str | None = None,
    trust: bool = False,
    listener: Listener | None = None,
) -> SearchResult:
    """Run a search, or go on with it.

    Args:
        config: What to search; defaults throughout if left out.
        study: Name of the study; by default made of backbone and data. One that exists goes on.
        storage: SQLAlchemy URL of the database.
        ray_address: Of a running Ray cluster; by default Ray is started on this machine.
        trust: Whether import paths in the configuration may be followed.
        listener: Hears what happens.

    Raises:
        GcsearchError: Anything foreseen; the message says what to do.
    """
    run = _Run(config, study, storage, ray_address, trust, listener or Listener())
    run.prepare()
    run.train_baseline()
    if run.run_trials():
        run.check()
    return run.conclude()


class _Run:
    """The stages of one run, in the order in which :func:`search` calls them."""

    def __init__(
        self,
        config: SearchConfig | None,
        name: str | None,
        storage: str,
        ray_address: str | None,
        trust: bool,
        listener: Listener,
    ) -> None:
        self._began, self._clock = time.monotonic(), time.perf_counter()
        self._config, self._name, self._storage = config, name, storage
        self._ray_address, self._trust, self._listener = ray_address, trust, listener
        self._directory = run_directory(storage)
        self._models: dict[str, tuple[int, nn.Module]] = {}
        self._is_complete = False

    def prepare(self) -> None:
        """Find the study or make it, with its plan."""
        opened = open_storage(self._storage)
        _check_writable(self._directory)
        name = self._name or default_study_name(self._config or SearchConfig())
        if SearchStudy.exists(opened, name):
            self._go_on(SearchStudy(opened, name))
        else:
            self._begin(opened, name)
        self._annotate()
        self._listener.planned(self._plan, self._study.name, self._study.rows())

    def _annotate(self) -> None:
        """Have notes and artifacts kept up to date from now on."""
        shown, directory = shown_url(self._storage), artifact_directory(self._storage)
        self._annotator = Annotator(self._study, shown, directory, self._listener.notice)
        self._listener = listen_together(self._listener, AnnotatingListener(self._annotator))

    def _begin(self, opened: RDBStorage, name: str) -> None:
        """Lay out a plan and make the study; go on with it if another process was faster."""
        config = self._config or SearchConfig()
        self._make_evaluator(config)
        task = self._evaluator.task
        plan = make_plan(
            config.plan,
            self._measure_speeds(opened),
            n_val=len(task.val),
            n_test=len(task.test),
            workers=config.search.workers,
        )
        record = StudyRecord.of(self._evaluator, plan)
        study, is_new = SearchStudy.create_or_load(opened, name, record)
        if is_new:
            self._study, self._plan = study, plan
        else:
            self._go_on(study)

    def _measure_speeds(self, opened: RDBStorage) -> Speeds:
        """Measure this machine; what a latency table will take counts as time gone already."""
        speeds = self._evaluator.measure_speeds(self._space, self._clock)
        if not self._evaluator.config.search.latency_table:
            return speeds
        store = LatencyStore(opened, self._evaluator.latency_context())
        table_s = speeds.latency_s * table_work(self._evaluator, self._space, store)
        return replace(speeds, startup_s=speeds.startup_s + table_s)

    def _go_on(self, study: SearchStudy) -> None:
        self._study = study
        config = config_to_go_on(study, self._config)
        self._make_evaluator(config)
        self._plan = plan_to_go_on(study, config)
        if orphans := study.reap():
            self._listener.notice(f"{orphans} interrupted trial(s) will be tried again")

    def train_baseline(self) -> None:
        """Load the weights that every architecture inherits, or train them."""
        path = baseline_path(self._directory, self._evaluator, self._plan)
        if path.exists():
            self._evaluator.load_baseline(path.read_bytes())
            self._listener.notice(f"the baseline's weights are taken from {path}")
        else:
            epochs = self._plan.baseline.epochs
            for epoch in self._evaluator.train_baseline(self._plan.baseline):
                self._listener.baseline_epoch(epoch.number, epochs, epoch.top1)
            write_atomically(path, self._evaluator.weights())
        self._study.set_baseline(hashlib.sha256(self._evaluator.weights()).hexdigest())

    def run_trials(self) -> bool:
        """Run the trials that are not done yet; return whether that was not interrupted."""
        if self._study.n_done() >= self._plan.n_trials and self._study.baseline():
            return True
        deadline = None
        if self._plan.budget_s is not None:
            deadline = self._began + self._plan.budget_s - self._plan.check_s - WRAP_UP_S
        self._is_complete = run_trials(
            self._study,
            self._space,
            self._evaluator,
            self._plan,
            listener=self._listener,
            deadline=deadline,
            ray_address=self._ray_address,
            cache_dir=self._directory / "cache",
            trust=self._trust,
            foresight=self._foresee(deadline),
        )
        return self._is_complete

    def _foresee(self, deadline: float | None) -> Foresight | None:
        """Build the latency table, if one is wanted."""
        config, study = self._evaluator.config, self._study
        if not config.search.latency_table:
            return None
        store = LatencyStore(study.storage, self._evaluator.latency_context())
        table = build_table(self._evaluator, self._space, store, self._listener, deadline=deadline)
        return Foresight(table, store, study.name, config.latency.limit)

    def check(self) -> None:
        """Confirm the candidate alone, on as many fresh seeds as fit in the plan.

        In this process, as the export wants the network and the plan no second start of workers.
        """
        self._is_complete = True
        candidate = candidate_of(findings(self._study)).evaluation.architecture
        if candidate.is_baseline:
            return
        checks = owed_checks(self._study, [candidate], self._plan.check_seeds, with_timing=False)
        self._models = check_here(checks, self._study, self._evaluator, self._plan, self._listener)

    def conclude(self) -> SearchResult:
        """Read the results from the database and export the choice."""
        self._annotator.refresh()
        if self._study.baseline() is None:
            return SearchResult(
                *(self._study.name, self._storage, self._is_complete, [], [], None, None),
                objective=self._study.record.objective,
            )
        result = summarise(self._study, self._storage, is_complete=self._is_complete)
        if not self._is_complete or result.best is None:
            return result
        path = self._directory / "exports" / self._study.name / "best.yaml"
        self._export(result.best, result.confirmed, path)
        return replace(result, config_path=path)

    def _export(self, best: Finding, confirmed: list[Confirmation], path: Path) -> None:
        architecture = best.evaluation.architecture
        if holds(path, architecture):
            return
        if architecture.id in self._models:
            seed, model = self._models[architecture.id]
        else:
            seed = best.evaluation.seed
            _, model = self._evaluator.evaluate(
                architecture, self._plan.trial, seed, with_latency=False
            )
        export_finding(
            *(self._study, best, path),
            rule=rule_of(best, confirmed=confirmed),
            confirmed=confirmed,
            model=model,
            weights_seed=seed,
        )

    def _make_evaluator(self, config: SearchConfig) -> None:
        if config.search.latency_table and self._ray_address:
            raise ConfigError(
                [
                    "search.latency_table is measured on this machine, but the trials would be "
                    "timed on a cluster; leave it out, or run without --ray-address"
                ]
            )
        self._evaluator = Evaluator(config, cache_dir=self._directory / "cache", trust=self._trust)
        self._space = self._evaluator.space()
        sites = self._space.sites
        if lonely := [site.path for site in sites if math.prod(site.positions) == 1]:
            self._listener.notice(
                f"at {len(lonely)} of {len(sites)} sites ({lonely[0]} ...) the features have a "
                "single position, so there is nothing to pool over; raise data.image_size"
            )


def _check_writable(directory: Path) -> None:
    """Find out before training that caches and exports can be written.

    Raises:
        StudyError: They cannot.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise StudyError(
            f"folder {str(directory)!r} cannot be written: {error.strerror}; "
            "choose another --storage"
        ) from error

"""One whole run, from a configuration to an exported choice; prints nothing.

Every stage first asks the database what is done already, so that the same call goes on after a
stop at any moment: the study and its plan are written before the first trial, the baseline's
weights are kept by a hash of all that decides them, trials and checks are counted where they are
stored.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from gcsearch.architecture import Architecture
from gcsearch.config import SearchConfig, load_config
from gcsearch.errors import ConfigError, ExportError, StudyError
from gcsearch.evaluation import Evaluator
from gcsearch.export import (
    ExportedConfig,
    read_config,
    write_atomically,
    write_config,
    write_weights,
)
from gcsearch.machine import environment
from gcsearch.plan import Plan, make_plan
from gcsearch.results import (
    PICKS,
    CheckedGain,
    Finding,
    candidate_of,
    checked_gain,
    choose,
    findings,
    front,
    run_check,
)
from gcsearch.search import Listener, run_trials
from gcsearch.space import SearchSpace
from gcsearch.study import SearchStudy, StudyRecord, open_storage
from gcsearch.study.storage import DEFAULT_URL, run_directory

__all__ = [
    "SearchResult",
    "default_study_name",
    "evaluator_of",
    "export_finding",
    "search",
    "stored_config",
    "summarise",
]

FIXED_SECTIONS = ("backbone", "weights", "data", "space", "training", "latency", "search.seed")
"""What must stay the same for as long as a study goes on, and gives it its default name."""
ALSO_FIXED = (
    "search.startup_trials",
    "plan.baseline_images",
    "plan.trial_images",
    "plan.trial_epochs",
    "plan.check_seeds",
)
"""What must stay the same as well."""
WRAP_UP_S = 15.0
"""Seconds kept free of trials at the end, for stopping the workers and writing the exports."""


@dataclass(frozen=True)
class SearchResult:
    """What a run came to.

    Args:
        study: Its name.
        storage: URL of its database.
        is_complete: False when it was interrupted.
        findings: Every complete trial, compared with the baseline.
        front: The Pareto front among them, fastest first.
        best: The choice, which may be the baseline.
        checked: Its gain on fresh seeds and test pictures, if that was checked.
        config_path: The exported config of the choice.
    """

    study: str
    storage: str
    is_complete: bool
    findings: list[Finding]
    front: list[Finding]
    best: Finding | None
    checked: CheckedGain | None
    config_path: Path | None


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


def summarise(study: SearchStudy, storage: str, *, is_complete: bool = True) -> SearchResult:
    """Read what a study came to so far; nothing is trained."""
    found = findings(study)
    candidate = candidate_of(found)
    checked = checked_gain(study.checks(), candidate.evaluation.architecture)
    return SearchResult(
        study=study.name,
        storage=storage,
        is_complete=is_complete,
        findings=found,
        front=front(found),
        best=choose(found, "best", checked=checked),
        checked=checked,
        config_path=None,
    )


def export_finding(
    study: SearchStudy,
    finding: Finding,
    path: Path,
    *,
    rule: str,
    model: nn.Module | None = None,
) -> None:
    """Write a finding's config, and beside it the weights of ``model`` if there is one.

    Raises:
        ExportError: The place cannot be written.
    """
    weights = path.with_suffix(".safetensors") if model is not None else None
    if model is not None and weights is not None:
        write_weights(model, weights)
    task = study.record.task
    config = ExportedConfig(
        architecture=finding.evaluation.architecture,
        n_classes=task["n_classes"],
        image_size=task["image_size"],
        weights=weights.name if weights else None,
        normalisation={"mean": task["mean"], "std": task["std"]},
        provenance={
            "study": study.name,
            "trial": finding.number,
            "rule": rule,
            "top1": finding.evaluation.top1,
            "gain": finding.to_dict()["gain"],
            "latency_ratio": finding.to_dict()["latency_ratio"],
            "params": finding.evaluation.params,
            "macs": finding.evaluation.macs,
            "proxy_task": task["name"],
            "environment": study.record.environment,
        },
    )
    write_config(config, path)


def evaluator_of(study: SearchStudy, storage: str, *, trust: bool = False) -> Evaluator:
    """Return an evaluator as the study's own was, with its baseline.

    Raises:
        StudyError: The baseline's weights are not here.
    """
    directory = run_directory(storage)
    config = load_config(study.record.config)
    evaluator = Evaluator(config, cache_dir=directory / "cache", trust=trust)
    path = _baseline_path(directory, evaluator, study.plan)
    if not path.exists():
        raise StudyError(
            f"the baseline's weights {str(path)!r} are gone; `gcsearch run --study {study.name}` "
            "trains them again"
        )
    evaluator.load_baseline(path.read_bytes())
    return evaluator


def default_study_name(config: SearchConfig) -> str:
    """Return a name made of backbone, data and a hash of all that is fixed for a study.

    So the same command finds its study again, and another configuration gets one of its own.

    Example:
        >>> default_study_name(SearchConfig(backbone="resnet18")).rpartition("-")[0]
        'resnet18-cued-digits'
    """
    fixed = json.dumps(_fixed(config.to_dict()), sort_keys=True)
    data = Path(config.data.source.rpartition(":")[2]).stem or "data"
    backbone = config.backbone.rpartition(":")[2]
    return f"{backbone}-{data}-{hashlib.sha256(fixed.encode()).hexdigest()[:6]}".lower()


def stored_config(name: str, storage: str) -> SearchConfig | None:
    """Return what a study is to go on with: its own configuration, trials and budget left open.

    Args:
        name: Of the study.
        storage: SQLAlchemy URL of the database.

    Returns:
        ``None`` if there is no such study yet.

    Raises:
        StudyError: The database cannot be used, or the study is not one of gcsearch's.
    """
    opened = open_storage(storage)
    return _own_config(SearchStudy(opened, name)) if SearchStudy.exists(opened, name) else None


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
        self._models: dict[str, nn.Module] = {}
        self._is_complete = False

    def prepare(self) -> None:
        """Find the study or make it, with its plan."""
        opened = open_storage(self._storage)
        _check_writable(self._directory)
        name = self._name or default_study_name(self._config or SearchConfig())
        if SearchStudy.exists(opened, name):
            self._study = SearchStudy(opened, name)
            self._config = _config_to_go_on(self._study, self._config)
            self._make_evaluator()
            self._plan = _plan_to_go_on(self._study, self._config)
            if orphans := self._study.reap():
                self._listener.notice(f"{orphans} interrupted trial(s) will be tried again")
        else:
            self._config = self._config or SearchConfig()
            self._make_evaluator()
            speeds = self._evaluator.measure_speeds(self._space, self._clock)
            task = self._evaluator.task
            self._plan = make_plan(
                self._config.plan,
                speeds,
                n_val=len(task.val),
                n_test=len(task.test),
                workers=self._config.search.workers,
            )
            record = _record(self._config, self._evaluator, self._plan)
            self._study = SearchStudy.create(opened, name, record)
        self._listener.planned(self._plan, self._study.name, self._study.n_done())

    def train_baseline(self) -> None:
        """Load the weights that every architecture inherits, or train them."""
        path = _baseline_path(self._directory, self._evaluator, self._plan)
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
        )
        return self._is_complete

    def check(self) -> None:
        """Train the candidate and the baseline again on fresh seeds."""
        self._is_complete = True
        architecture = candidate_of(findings(self._study)).evaluation.architecture
        if not architecture.is_baseline and self._plan.check_seeds:
            self._models = run_check(
                self._study, self._evaluator, self._plan, architecture, self._listener
            )

    def conclude(self) -> SearchResult:
        """Read the results from the database and export the choice."""
        if self._study.baseline() is None:
            return SearchResult(
                self._study.name, self._storage, self._is_complete, [], [], None, None, None
            )
        result = summarise(self._study, self._storage, is_complete=self._is_complete)
        if not self._is_complete or result.best is None:
            return result
        path = self._directory / "exports" / self._study.name / "best.yaml"
        self._export(result.best, path)
        return replace(result, config_path=path)

    def _export(self, best: Finding, path: Path) -> None:
        architecture = best.evaluation.architecture
        if _holds(path, architecture):
            return
        model = self._models.get(architecture.id)
        if model is None:
            _, model = self._evaluator.evaluate(
                architecture, self._plan.trial, best.evaluation.seed, with_latency=False
            )
        export_finding(self._study, best, path, rule=PICKS["best"], model=model)

    def _make_evaluator(self) -> None:
        config = self._config or SearchConfig()
        self._evaluator = Evaluator(config, cache_dir=self._directory / "cache", trust=self._trust)
        self._space: SearchSpace = self._evaluator.space()
        self._config = config
        sites = self._space.sites
        if lonely := [site.path for site in sites if math.prod(site.shape[1:]) == 1]:
            self._listener.notice(
                f"at {len(lonely)} of {len(sites)} sites ({lonely[0]} ...) the features have a "
                "single position, so there is nothing to pool over; raise data.image_size"
            )


def _config_to_go_on(study: SearchStudy, config: SearchConfig | None) -> SearchConfig:
    """Return the study's own configuration with the plan that is wanted now.

    Raises:
        ConfigError: Something that is fixed for the study is wanted otherwise.
    """
    stored = _own_config(study)
    if config is None:
        return stored
    keys = (*FIXED_SECTIONS, *ALSO_FIXED)
    wanted, had = _fixed(config.to_dict(), keys), _fixed(stored.to_dict(), keys)
    if wanted["training.precision"] == "auto":
        wanted["training.precision"] = had["training.precision"]
    faults = [
        f"{key} is {had[key]!r} in study {study.name!r}, not {wanted[key]!r}; choose another "
        "--study, or leave the option out"
        for key in sorted(had)
        if wanted.get(key) != had[key]
    ]
    if faults:
        raise ConfigError(faults, f"study {study.name!r}")
    return stored.model_copy(update={"plan": config.plan, "search": config.search})


def _own_config(study: SearchStudy) -> SearchConfig:
    """Return a study's configuration; how much of it is done now is asked for anew."""
    stored = load_config(study.record.config)
    plan = stored.plan.model_copy(update={"trials": None, "budget_s": None})
    return stored.model_copy(update={"plan": plan})


def _plan_to_go_on(study: SearchStudy, config: SearchConfig) -> Plan:
    """Return the study's plan with another number of trials or another budget, if wanted."""
    plan = study.plan
    wanted = config.plan.trials or max(plan.wanted_trials, plan.n_trials)
    budget = config.plan.budget_s or plan.budget_s
    if config.plan.trials and not config.plan.budget_s and wanted != plan.n_trials:
        budget = None
    changed = replace(
        plan, n_trials=wanted, wanted_trials=wanted, budget_s=budget, workers=config.search.workers
    )
    if changed != plan:
        study.change_plan(changed)
    return changed


def _record(config: SearchConfig, evaluator: Evaluator, plan: Plan) -> StudyRecord:
    training = config.training.model_copy(update={"precision": evaluator.precision})
    task = evaluator.task
    return StudyRecord(
        config=config.model_copy(update={"training": training}).to_dict(),
        plan=plan.to_dict(),
        task={
            "name": task.name,
            "n_classes": task.n_classes,
            "class_names": list(task.class_names),
            "image_size": task.image_size[0],
            "n_train": len(task.train),
            "n_val": len(task.val),
            "n_test": len(task.test),
            "mean": list(task.mean),
            "std": list(task.std),
            "chance": task.chance,
            "guess": task.guess_top1,
            "content_hash": task.content_hash,
        },
        environment=environment(evaluator.device),
    )


def _fixed(config: dict[str, Any], keys: tuple[str, ...] = FIXED_SECTIONS) -> dict[str, Any]:
    """Return the values of some sections and keys, flat: ``{"training.batch_size": 64, ...}``."""
    flat: dict[str, Any] = {}
    for section, value in config.items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{section}.{key}".rstrip("."): entry for key, entry in entries}
    return {k: v for k, v in flat.items() if {k, k.partition(".")[0]} & set(keys)}


def _baseline_path(directory: Path, evaluator: Evaluator, plan: Plan) -> Path:
    return directory / "cache" / "baselines" / f"{evaluator.recipe(plan.baseline)}.safetensors"


def _holds(path: Path, architecture: Architecture) -> bool:
    """Whether ``path`` is an export of this very architecture already, with its weights."""
    try:
        config = read_config(path)
    except ExportError:
        return False
    has_weights = config.weights is not None and (path.parent / config.weights).exists()
    return config.architecture == architecture and has_weights


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

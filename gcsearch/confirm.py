"""One whole confirmation: the front and what is near it, on fresh seeds; prints nothing.

What is done already is asked of the database, so that the same call goes on after a stop at any
moment, and with more seeds adds only those that are new.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from gcsearch.dashboard import Annotator
from gcsearch.dashboard.listening import AnnotatingListener
from gcsearch.errors import ConfigError, StudyError
from gcsearch.plan import RAY_STARTUP_S
from gcsearch.results import LEAST_SEEDS, Finding, SearchResult, findings, near_front, summarise
from gcsearch.resume import evaluator_of
from gcsearch.study import SearchStudy
from gcsearch.study.storage import artifact_directory, run_directory, shown_url
from gcsearch.tuning import Check, Listener, listen_together, owed_checks, run_checks

__all__ = ["DEFAULT_SEEDS", "confirm"]

DEFAULT_SEEDS = 5


def confirm(
    study: SearchStudy,
    storage: str,
    *,
    seeds: int = DEFAULT_SEEDS,
    budget_s: float | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
    trust: bool = False,
    listener: Listener | None = None,
) -> SearchResult:
    """Train the front, what is near it and the baseline again on fresh seeds, and time them anew.

    Args:
        study: What to confirm; its trials must have the fidelity of its plan.
        storage: SQLAlchemy URL of its database.
        seeds: How many fresh seeds each is to have; what there is already counts.
        budget_s: Seconds allowed; no training begins that would end later.
        workers: Trainings at the same time; by default as many as in the search.
        ray_address: Of a running Ray cluster; by default Ray is started on this machine.
        trust: Whether import paths in the study's configuration may be followed.
        listener: Hears what happens.

    Raises:
        GcsearchError: Anything foreseen; the message says what to do.
    """
    began = time.monotonic()
    _check_numbers(seeds, workers)
    listener = listener or Listener()
    found = findings(study)
    if len(found) == 1:
        raise StudyError(
            f"study {study.name!r} has no complete trial but the baseline's, so there is nothing "
            f"to confirm; go on with `gcsearch run --study {study.name}`"
        )
    architectures = [f.evaluation.architecture for f in near_front(found) if not f.is_baseline]
    checks = owed_checks(study, architectures, seeds)
    plan = replace(study.plan, workers=workers or study.plan.workers)
    is_complete = True
    directory = artifact_directory(storage)
    annotator = Annotator(study, shown_url(storage), directory, listener.notice)
    if checks:
        training_s = _training_s(found, study.plan.workers, plan.workers, ray_address)
        _tell_plan(checks, found, training_s, plan.workers, listener)
        is_complete = run_checks(
            study,
            checks,
            evaluator_of(study, storage, trust=trust),
            plan,
            check_s=training_s,
            listener=listen_together(listener, AnnotatingListener(annotator)),
            deadline=None if budget_s is None else began + budget_s,
            ray_address=ray_address,
            cache_dir=run_directory(storage) / "cache",
            trust=trust,
        )
    annotator.refresh()
    return summarise(study, storage, is_complete=is_complete)


def _check_numbers(seeds: int, workers: int | None) -> None:
    """Refuse numbers that make no sense.

    Raises:
        ConfigError: There are such.
    """
    if seeds < LEAST_SEEDS:
        cure = f"give at least {LEAST_SEEDS}: one alone tells nothing of the luck of seeds"
        raise ConfigError([f"{seeds} is too few; {cure}"], "--seeds")
    if workers is not None and workers < 1:
        raise ConfigError([f"{workers} is too few; give at least 1"], "--workers")


def _training_s(
    found: Sequence[Finding], searched: int, workers: int, ray_address: str | None
) -> float:
    """Return the seconds that one training should take, by what trials took.

    Args:
        found: Of the trials.
        searched: Trials at a time in the search.
        workers: Trainings at a time now; on this machine they share its cores.
        ray_address: Of a cluster, if it is not this machine.
    """
    seconds = median(finding.evaluation.seconds["training"] for finding in found)
    return seconds if ray_address else seconds * workers / searched


def _tell_plan(
    checks: Sequence[Check],
    found: Sequence[Finding],
    training_s: float,
    workers: int,
    listener: Listener,
) -> None:
    """Tell how much there is to do and how long that should take, by what trials took."""
    n_timings = sum(check.seed is None for check in checks)
    n_trainings = len(checks) - n_timings
    timing_s = median(f.evaluation.seconds["latency"] for f in found)
    seconds = n_trainings * training_s / workers + n_timings * timing_s
    listener.checks_planned(n_trainings, n_timings, RAY_STARTUP_S + seconds)

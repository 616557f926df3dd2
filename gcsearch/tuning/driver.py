"""Running trials and checks on Ray Tune until the study has what it should; knows no SQL."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gcsearch.config import SearchConfig
from gcsearch.errors import StudyError
from gcsearch.evaluation import Evaluator
from gcsearch.machine import n_cores
from gcsearch.plan import Plan
from gcsearch.proxy.sources import absolute
from gcsearch.space import SearchSpace
from gcsearch.study import SearchStudy
from gcsearch.tuning.checks import Check
from gcsearch.tuning.events import Listener
from gcsearch.tuning.foresight import Foresight

# Ray reads these while it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would let anything disturb a timing
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # import paths may lie in this folder
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ray
    from ray import tune

from gcsearch.tuning.check_searcher import CheckSearcher
from gcsearch.tuning.probe import start_prober, timed_by
from gcsearch.tuning.searcher import StudySearcher
from gcsearch.tuning.suggester import Suggester
from gcsearch.tuning.worker import Worker, WorkerContext

__all__ = ["run_checks", "run_trials"]

BETWEEN_TRIALS = 1.05
"""Expected seconds of a trial are multiplied by this when the deadline is watched."""


def run_trials(
    study: SearchStudy,
    space: SearchSpace,
    evaluator: Evaluator,
    plan: Plan,
    *,
    listener: Listener,
    deadline: float | None = None,
    ray_address: str | None = None,
    cache_dir: Path,
    trust: bool = False,
    foresight: Foresight | None = None,
) -> bool:
    """Evaluate architectures until the planned number is done or the time is up.

    Args:
        study: Asked and told by this process alone.
        space: What may be proposed.
        evaluator: With the baseline's weights, which the workers get.
        plan: How many, and of what fidelity.
        listener: Hears of every trial.
        deadline: On the clock of ``time.monotonic``; ``None`` for no limit.
        ray_address: A running cluster's; ``None`` starts Ray on this machine.
        cache_dir: Where workers keep the prepared proxy task.
        trust: Whether workers may follow import paths.
        foresight: Predicts latencies; by default all are measured.

    Returns:
        Whether it ran to its end; false when it was interrupted.

    Raises:
        StudyError: Several trials failed one after the other.
    """
    searcher = StudySearcher(
        study,
        space,
        target=plan.n_trials,
        deadline=deadline,
        trial_s=plan.trial_s * BETWEEN_TRIALS,
        listener=listener,
        foresight=foresight,
    )
    context = _context(evaluator, plan, cache_dir, trust)
    with _ray(ray_address), study.heartbeat(searcher.live):
        try:
            _fit(searcher, context, plan.workers, evaluator.device)
        finally:
            for number in list(searcher.live.values()):
                study.requeue(number, "interrupted; the architecture is tried again")
    _tell_why(searcher, study, listener)
    return searcher.is_over and not searcher.live


def run_checks(
    study: SearchStudy,
    checks: Sequence[Check],
    evaluator: Evaluator,
    plan: Plan,
    *,
    check_s: float,
    listener: Listener,
    deadline: float | None = None,
    ray_address: str | None = None,
    cache_dir: Path,
    trust: bool = False,
) -> bool:
    """Do what a confirmation owes, on the same workers as trials.

    Args:
        study: Told by this process alone.
        checks: What is owed, in order.
        evaluator: With the baseline's weights, which the workers get.
        plan: Of what fidelity, and on how many workers.
        check_s: Seconds one check should take.
        listener: Hears of every check.
        deadline: On the clock of ``time.monotonic``; ``None`` for no limit.
        ray_address: A running cluster's; ``None`` starts Ray on this machine.
        cache_dir: Where workers keep the prepared proxy task.
        trust: Whether workers may follow import paths.

    Returns:
        Whether it ran to its end, or the end of its time; false when it was interrupted.

    Raises:
        StudyError: Several checks failed one after the other.
    """
    expected_s = check_s * BETWEEN_TRIALS
    searcher = CheckSearcher(
        study, checks, deadline=deadline, check_s=expected_s, listener=listener
    )
    with _ray(ray_address):
        context = _context(evaluator, plan, cache_dir, trust)
        _fit(searcher, context, plan.workers, evaluator.device)
    _tell_why(searcher, study, listener)
    return searcher.is_over


def _context(evaluator: Evaluator, plan: Plan, cache_dir: Path, trust: bool) -> WorkerContext:
    return WorkerContext(
        config=_resolved(evaluator),
        weights=evaluator.weights(),
        fidelity=plan.trial,
        cache_dir=cache_dir.absolute(),
        threads=max(1, n_cores() // plan.workers),
        trust=trust,
    )


def _tell_why(searcher: Suggester, study: SearchStudy, listener: Listener) -> None:
    """Tell why it ended early; what is stuck is an error."""
    if searcher.is_stuck:
        raise StudyError(f"{searcher.gave_up}. `gcsearch status --study {study.name}` shows all")
    if searcher.gave_up:
        listener.notice(searcher.gave_up)


def _fit(searcher: Suggester, context: WorkerContext, workers: int, device: str) -> None:
    prober = start_prober(context)
    measure = timed_by(prober) if prober else None
    resources = {
        "cpu": max(1, n_cores() // workers),
        "gpu": 1 / workers if "cuda" in device else 0,
    }
    trainable = tune.with_resources(
        tune.with_parameters(Worker, context=context, measure=measure), resources
    )
    with tempfile.TemporaryDirectory(prefix="gcsearch-ray-") as scratch:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                max_concurrent_trials=workers,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0, fail_fast=False),
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
                log_to_file=False,
            ),
        )
        tuner.fit()


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """Start Ray quietly, or join a cluster; leave it as it was found."""
    if ray.is_initialized():
        yield
        return
    local = {} if address else {"num_cpus": n_cores(), "include_dashboard": False}
    start = time.monotonic()
    on_sigterm = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
            **local,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"at {address!r}" if address else "on this machine"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudyError(
            f"Ray {where} could not be reached after {time.monotonic() - start:.0f} s: {reason}"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # with Ray's own the process would be aborted
    try:
        yield
    finally:
        ray.shutdown()


def _resolved(evaluator: Evaluator) -> SearchConfig:
    """Return the configuration for workers: with the precision chosen here, and whole paths."""
    config = evaluator.config
    training = config.training.model_copy(update={"precision": evaluator.precision})
    data = config.data.model_copy(update={"source": absolute(config.data.source)})
    weights = config.weights
    if weights and Path(weights).is_file():
        weights = str(Path(weights).absolute())
    return config.model_copy(update={"training": training, "data": data, "weights": weights})

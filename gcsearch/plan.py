"""From a time budget to a plan: how much the baseline, each trial and the final check may train.

Pure arithmetic on measured speeds; measuring them and keeping to the plan is done elsewhere. The
shares below were chosen by measuring (docs/measurements.md): a baseline that has learned too
little gains from anything, one that is given all the time leaves too few trials to choose from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gcsearch.config import PlanSettings
from gcsearch.intervals import smallest_gain
from gcsearch.proxy.training import Fidelity

__all__ = ["DEFAULT_BUDGET_S", "Plan", "Speeds", "make_plan"]

DEFAULT_BUDGET_S = 15 * 60.0
DEFAULT_TRIALS = 10
BASELINE_SHARE = 0.33
BASELINE_EPOCHS = 4
CHECK_SEEDS = (3, 2, 0)
"""Fresh seeds of the final check: as many as still leave room for the trials. One alone would
tell nothing of the luck of seeds."""
CHECKED = 2
"""The final check trains the chosen architecture and the baseline with each fresh seed."""
RAY_STARTUP_S = 12.0
BETWEEN_TRIALS_S = 0.7
"""Seconds of starting Ray and a worker, and of asking for, handing over and telling a trial."""
MIN_TRIAL_IMAGES = 1024
MIN_BASELINE_IMAGES = 2048
MAX_BASELINE_IMAGES = 400_000
MAX_TRIAL_IMAGES = 100_000
ROUND_TO = 128
TYPICAL_SEED_SD = 0.008
"""Assumed standard deviation of top1 between seeds of an architecture that changes little.

`benchmarks/reliability.py` printed 0.004 to 0.007 for those of ResNet-18 (five seeds each), and
0.06 for those that gain much, of which a check on several seeds takes account.
"""


@dataclass(frozen=True)
class Speeds:
    """What this machine does, measured before planning.

    Args:
        baseline: Pictures a second while everything is trained.
        trial: Pictures a second while an altered network is trained as in a trial.
        scoring: Pictures a second while scoring.
        latency_s: Seconds one latency measurement takes.
        startup_s: Seconds of the run that are already gone, and that starting the workers takes.
    """

    baseline: float
    trial: float
    scoring: float
    latency_s: float
    startup_s: float


@dataclass(frozen=True)
class Plan:
    """What a run will do, and how long that should take.

    Args:
        baseline: Training of the baseline before the search; no epochs if it is only loaded.
        trial: Training of each architecture.
        n_trials: Architectures besides the baseline.
        check_seeds: Fresh seeds of the final check.
        workers: Trials trained at the same time.
        baseline_s: Seconds the baseline should take.
        trial_s: Seconds one trial should take.
        check_s: Seconds the final check should take.
        startup_s: Seconds of everything else.
        budget_s: Seconds allowed; ``None`` if the number of trials alone decides.
        wanted_trials: Trials asked for when they do not fit in the budget, else ``n_trials``.
        smallest_gain: Smallest true gain in top1 that one trial can tell from noise.
        smallest_checked_gain: The same of the final check; ``None`` without one.
    """

    baseline: Fidelity
    trial: Fidelity
    n_trials: int
    check_seeds: int
    workers: int
    baseline_s: float
    trial_s: float
    check_s: float
    startup_s: float
    budget_s: float | None
    wanted_trials: int
    smallest_gain: float
    smallest_checked_gain: float | None

    @property
    def total_s(self) -> float:
        """Seconds the whole run should take."""
        trials = (self.n_trials + 1) * self.trial_s / self.workers
        return self.startup_s + self.baseline_s + trials + self.check_s

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the database."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Read what :meth:`to_dict` wrote."""
        fidelities = {key: Fidelity(**data[key]) for key in ("baseline", "trial")}
        return cls(**{**data, **fidelities})


@dataclass(frozen=True)
class _Scored:
    """Seconds of scoring one split of each kind."""

    val_s: float
    test_s: float


def make_plan(
    settings: PlanSettings,
    speeds: Speeds,
    *,
    n_val: int,
    n_test: int,
    workers: int = 1,
) -> Plan:
    """Lay out a run.

    With a budget, the fidelity of a trial shrinks until the wanted number of trials fits; when
    even the smallest does not, fewer trials are planned and :attr:`Plan.wanted_trials` keeps the
    wish. With a number of trials alone, each gets the fidelity it would have by default.

    Args:
        settings: What the user fixed.
        speeds: What was measured here.
        n_val: Pictures in the validation split.
        n_test: Pictures in the test split.
        workers: Trials trained at the same time, which share the machine.
    """
    budget = None if settings.trials and not settings.budget_s else settings.budget_s
    if budget is None and settings.trials is None:
        budget = DEFAULT_BUDGET_S
    scored = _Scored(n_val / speeds.scoring, n_test / speeds.scoring)
    left = max(0.0, (budget or DEFAULT_BUDGET_S) - speeds.startup_s - RAY_STARTUP_S)
    _, least_s, _ = _trial(settings, speeds, 0.0, 1, 0, scored)
    share = min(left * BASELINE_SHARE, left - 2 * least_s)  # trial 0 and one more must follow
    baseline, baseline_s = _baseline(settings, speeds, share, scored)
    wanted = settings.trials or DEFAULT_TRIALS
    if settings.check_seeds is not None:
        seed_choices: tuple[int, ...] = (settings.check_seeds,)
    else:
        seed_choices = CHECK_SEEDS
    for seeds in seed_choices:
        n_share = DEFAULT_TRIALS if budget is None else wanted
        trial, trial_s, check_s = _trial(
            settings, speeds, left - baseline_s, n_share, seeds, scored
        )
        n_fit = int((left - baseline_s - check_s) / trial_s) - 1
        if budget is None or n_fit >= wanted:
            break
    return Plan(
        baseline=baseline,
        trial=trial,
        n_trials=wanted if budget is None else min(wanted, max(1, n_fit)),
        check_seeds=seeds,
        workers=workers,
        baseline_s=baseline_s,
        trial_s=trial_s * workers,  # they share the machine
        check_s=check_s,
        startup_s=speeds.startup_s + RAY_STARTUP_S,
        budget_s=budget,
        wanted_trials=wanted,
        smallest_gain=smallest_gain(n_val, seed_sd=TYPICAL_SEED_SD),
        smallest_checked_gain=(
            smallest_gain(n_test, seed_sd=TYPICAL_SEED_SD, n_seeds=seeds, estimates_seeds=True)
            if seeds
            else None
        ),
    )


def _baseline(
    settings: PlanSettings, speeds: Speeds, seconds: float, scored: _Scored
) -> tuple[Fidelity, float]:
    """Return the baseline's training, scored once an epoch, and its seconds."""
    images = settings.baseline_images or _rounded(
        (seconds - scored.val_s * BASELINE_EPOCHS) * speeds.baseline,
        MIN_BASELINE_IMAGES,
        MAX_BASELINE_IMAGES,
    )
    fidelity = Fidelity(max(1, images // BASELINE_EPOCHS), BASELINE_EPOCHS)
    return fidelity, fidelity.images_seen / speeds.baseline + BASELINE_EPOCHS * scored.val_s


def _trial(
    settings: PlanSettings,
    speeds: Speeds,
    seconds: float,
    n_trials: int,
    seeds: int,
    scored: _Scored,
) -> tuple[Fidelity, float, float]:
    """Share seconds among trials and check; return a trial's training and seconds, the check's."""
    epochs = settings.trial_epochs
    fixed_s = speeds.latency_s + epochs * scored.val_s + BETWEEN_TRIALS_S
    n_checks = seeds * CHECKED
    fixed_in_all_s = fixed_s * (n_trials + 1) + n_checks * epochs * scored.test_s
    each_s = (seconds - fixed_in_all_s) / (n_trials + 1 + n_checks)
    images = settings.trial_images or _rounded(
        each_s * speeds.trial, MIN_TRIAL_IMAGES, MAX_TRIAL_IMAGES
    )
    fidelity = Fidelity(max(1, images // epochs), epochs)
    training_s = fidelity.images_seen / speeds.trial
    check_s = n_checks * (training_s + epochs * scored.test_s)
    return fidelity, fixed_s + training_s, check_s


def _rounded(images: float, least: int, most: int) -> int:
    return min(most, max(least, int(images) // ROUND_TO * ROUND_TO))

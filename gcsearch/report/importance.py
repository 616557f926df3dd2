"""How much site, block, ratio, pooling and fusion matter for each objective, by PED-ANOVA."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from gcsearch.report.factors import FACTORS, level_of, levels
from gcsearch.results import Finding

__all__ = ["MIN_ARCHITECTURES", "Importances", "Share", "importances_of"]

TARGET = 0.25
"""The quarter of the architectures that are the best in an objective is set against all."""
MIN_ARCHITECTURES = 20
"""So many, that five are among the best quarter, as Optuna's documentation asks for."""
SHUFFLES = 50
"""How often values are dealt out again to see what chance alone would give."""
CHANCE = 0.95


@dataclass(frozen=True)
class Share:
    """How much one factor matters.

    Args:
        factor: Its name.
        score: Divergence of the best architectures from all, as a share of all factors' sum.
        chance: The share that chance alone reaches once in twenty times.
    """

    factor: str
    score: float
    chance: float


@dataclass(frozen=True)
class Importances:
    """The importances for each objective, or why there are none.

    Args:
        by_objective: For each objective its factors, the most important first.
        n: Architectures they rest on.
        missing: Why there are none, or ``""``.
    """

    by_objective: dict[str, tuple[Share, ...]]
    n: int
    missing: str = ""


def importances_of(found: Sequence[Finding], objectives: tuple[str, str]) -> Importances:
    """Return the importances for both objectives.

    Every insertion is a row with the values of its architecture, so that all sites together tell
    of a setting; chance is what remains when the values are dealt out to architectures anew.

    Args:
        found: All complete trials.
        objectives: What they are called.
    """
    altered = [finding for finding in found if not finding.is_baseline]
    if len(altered) < MIN_ARCHITECTURES:
        return Importances(
            {},
            len(altered),
            f"Too few trials: {len(altered)} architectures are complete, and importances need "
            f"{MIN_ARCHITECTURES}, so that five are among the best quarter.",
        )
    values = np.array([[-f.evaluation.top1, f.cost.value] for f in altered]).T
    with _quiet():
        rows = _rows(altered)
        shares = {
            name: _shares(rows, column) for name, column in zip(objectives, values, strict=True)
        }
    return Importances(shares, len(altered))


def _rows(altered: Sequence[Finding]) -> optuna.Study:
    """Return a study in memory whose trials are the insertions."""
    architectures = [finding.evaluation.architecture for finding in altered]
    known = {factor: levels(architectures, factor, ()) for factor in FACTORS}
    choices = {f: CategoricalDistribution(v) for f, v in known.items() if len(v) > 1}
    study = optuna.create_study(direction="minimize")
    for index, architecture in enumerate(architectures):
        for insertion in architecture.insertions:
            params = {f: level for f in choices if (level := level_of(insertion, f))}
            study.add_trial(
                optuna.trial.create_trial(
                    params=params,
                    distributions={f: choices[f] for f in params},
                    value=0.0,
                    user_attrs={"architecture": index},
                )
            )
    return study


def _shares(rows: optuna.Study, values: np.ndarray) -> tuple[Share, ...]:
    """Return the share of each factor in reaching low values."""
    rng = np.random.default_rng(0)
    seen = _scores(rows, values)
    by_chance = [_scores(rows, rng.permutation(values)) for _ in range(SHUFFLES)]
    total = sum(seen.values()) or 1.0
    shares = [
        Share(f, score / total, float(np.quantile([c[f] for c in by_chance], CHANCE)) / total)
        for f, score in seen.items()
    ]
    return tuple(sorted(shares, key=lambda share: -share.score))


def _scores(rows: optuna.Study, values: np.ndarray) -> dict[str, float]:
    return get_param_importances(
        rows,
        evaluator=PedAnovaImportanceEvaluator(target_quantile=TARGET),
        target=lambda trial: float(values[trial.user_attrs["architecture"]]),
        normalize=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence that a study is made, and the reminder that low values count as good."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)

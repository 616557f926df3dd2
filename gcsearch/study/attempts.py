"""Every attempt of a study, with what is known of those that were refused; tells nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gcsearch.cost import COSTS, Cost
from gcsearch.intervals import Interval
from gcsearch.study.record import TrialRow
from gcsearch.study.search_study import SearchStudy
from gcsearch.surgery import Site

__all__ = ["Attempt", "attempts_of", "baseline_hash", "sites_of"]

IS_CHOSEN = "/block"
"""How the name of a parameter ends that tells whether a site holds a block."""


@dataclass(frozen=True)
class Attempt:
    """One trial, whatever became of it.

    Args:
        row: What the study tells of it.
        costs: Ratios to the backbone that were measured, predicted or counted before it ended.
        is_predicted: Whether its latency was predicted rather than measured.
    """

    row: TrialRow
    costs: dict[Cost, Interval]
    is_predicted: bool

    @property
    def is_refused(self) -> bool:
        """Whether it cost more than a limit allows."""
        return self.row.state == "PRUNED" and bool(self.costs)


def attempts_of(study: SearchStudy) -> list[Attempt]:
    """Return all trials of a study by number."""
    return [
        Attempt(
            TrialRow.from_optuna(trial),
            _costs(trial.user_attrs),
            bool(trial.user_attrs.get("predicted", False)),
        )
        for trial in study.trials()
    ]


def sites_of(study: SearchStudy) -> list[Site]:
    """Return the sites that could hold a block, in order of execution.

    Studies of old did not store them: of those, only the paths are known, from the parameters of
    their trials; stages are then told apart by what the paths begin with, and ordered by name.
    """
    if study.record.sites:
        return [Site(**{**s, "shape": tuple(s["shape"])}) for s in study.record.sites]
    names = {name for trial in study.trials() for name in trial.params if name.endswith(IS_CHOSEN)}
    paths = sorted((name.removesuffix(IS_CHOSEN) for name in names), key=_by_number)
    stages = list(dict.fromkeys(path.rpartition(".")[0] for path in paths))
    return [Site(path, "", stages.index(path.rpartition(".")[0]) + 1, 0, ()) for path in paths]


def baseline_hash(study: SearchStudy) -> str | None:
    """Return the content hash of the weights that every architecture inherits."""
    known = study.storage.get_study_user_attrs(_id_of(study)).get("baseline_sha256")
    return None if known is None else str(known)


def _id_of(study: SearchStudy) -> int:
    return study.storage.get_study_id_from_name(study.name)


def _costs(attrs: Mapping[str, Any]) -> dict[Cost, Interval]:
    ratios = {cost: attrs[f"{cost}_ratio"] for cost in COSTS if f"{cost}_ratio" in attrs}
    costs = {cost: Interval(ratio, ratio, ratio) for cost, ratio in ratios.items()}
    if "latency" in ratios and "latency_low" in attrs:
        ends = attrs["latency_low"], attrs["latency_high"]
        costs["latency"] = Interval(ratios["latency"], *ends)
    return costs


def _by_number(path: str) -> list[tuple[int, str]]:
    """Order ``layer1.10`` after ``layer1.9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]

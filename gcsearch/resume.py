"""What a study goes on with: its configuration, its plan and its baseline, from the database.

What decides the numbers is fixed for a study; how much of it is done may change from one call to
the next.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from gcsearch.config import SearchConfig, load_config
from gcsearch.errors import ConfigError, StudyError
from gcsearch.evaluation import Evaluator
from gcsearch.plan import Plan
from gcsearch.study import SearchStudy, open_storage
from gcsearch.study.storage import run_directory

__all__ = [
    "baseline_path",
    "config_to_go_on",
    "default_study_name",
    "evaluator_of",
    "plan_to_go_on",
    "stored_config",
]

FIXED_SECTIONS = (
    "backbone",
    "weights",
    "data",
    "space",
    "training",
    "latency",
    "limits",
    "search.seed",
    "search.objective",
)
"""What must stay the same for as long as a study goes on, and gives it its default name."""
ALSO_FIXED = (
    "search.startup_trials",
    "plan.baseline_images",
    "plan.trial_images",
    "plan.trial_epochs",
    "plan.check_seeds",
)
"""What must stay the same as well."""


def default_study_name(config: SearchConfig) -> str:
    """Return a name made of backbone, data and a hash of all that is fixed and not a default.

    So the same command finds its study again, also with a later version that knows more options,
    and another configuration gets a study of its own.

    Example:
        >>> default_study_name(SearchConfig(backbone="resnet18")).rpartition("-")[0]
        'resnet18-cued-digits'
    """
    said = config.model_dump(mode="json", exclude_defaults=True)
    fixed = json.dumps(_fixed(said), sort_keys=True)
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


def config_to_go_on(study: SearchStudy, config: SearchConfig | None) -> SearchConfig:
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


def plan_to_go_on(study: SearchStudy, config: SearchConfig) -> Plan:
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


def evaluator_of(study: SearchStudy, storage: str, *, trust: bool = False) -> Evaluator:
    """Return an evaluator as the study's own was, with its baseline.

    Raises:
        StudyError: The baseline's weights are not here.
    """
    directory = run_directory(storage)
    config = load_config(study.record.config)
    evaluator = Evaluator(config, cache_dir=directory / "cache", trust=trust)
    path = baseline_path(directory, evaluator, study.plan)
    if not path.exists():
        raise StudyError(
            f"the baseline's weights {str(path)!r} are gone; `gcsearch run --study {study.name}` "
            "trains them again"
        )
    evaluator.load_baseline(path.read_bytes())
    return evaluator


def baseline_path(directory: Path, evaluator: Evaluator, plan: Plan) -> Path:
    """Return where the baseline's weights are kept: by a hash of all that decides them."""
    return directory / "cache" / "baselines" / f"{evaluator.recipe(plan.baseline)}.safetensors"


def _own_config(study: SearchStudy) -> SearchConfig:
    """Return a study's configuration; how much of it is done now is asked for anew."""
    stored = load_config(study.record.config)
    plan = stored.plan.model_copy(update={"trials": None, "budget_s": None})
    return stored.model_copy(update={"plan": plan})


def _fixed(config: dict[str, Any], keys: tuple[str, ...] = FIXED_SECTIONS) -> dict[str, Any]:
    """Return the values of some sections and keys, flat: ``{"training.batch_size": 64, ...}``."""
    flat: dict[str, Any] = {}
    for section, value in config.items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{section}.{key}".rstrip("."): entry for key, entry in entries}
    return {k: v for k, v in flat.items() if {k, k.partition(".")[0]} & set(keys)}

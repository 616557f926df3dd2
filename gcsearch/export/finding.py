"""A trial of a study as an exported config: what was chosen, by which rule, what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats
from torch import nn

from gcsearch.architecture import Architecture
from gcsearch.errors import ExportError
from gcsearch.evaluation import Evaluation, unpack
from gcsearch.export.exported_config import ExportedConfig
from gcsearch.export.files import write_files
from gcsearch.export.formats import FORMATS
from gcsearch.export.reading import read_config
from gcsearch.results import Confirmation, Finding
from gcsearch.study import SearchStudy

__all__ = ["config_of", "export_finding", "holds"]

MEASURED = (
    "top1",
    "gain",
    "objective",
    "latency_ratio",
    "macs_ratio",
    "params_ratio",
    "memory_ratio",
    "params",
    "macs",
    "memory",
)
"""What an export says of its trial, besides where it comes from."""


def config_of(
    study: SearchStudy, finding: Finding, *, rule: str, confirmed: Sequence[Confirmation] = ()
) -> ExportedConfig:
    """Describe a finding completely: how to build it, and where it comes from."""
    task, architecture = study.record.task, finding.evaluation.architecture
    return ExportedConfig(
        architecture=architecture,
        n_classes=task["n_classes"],
        image_size=task["image_size"],
        normalisation={"mean": task["mean"], "std": task["std"]},
        provenance=_provenance(study, finding, rule, confirmed),
    )


def export_finding(
    study: SearchStudy,
    finding: Finding,
    path: Path,
    *,
    rule: str,
    confirmed: Sequence[Confirmation] = (),
    model: nn.Module | None = None,
    weights_seed: int | None = None,
) -> list[Path]:
    """Write a finding's config; with ``model`` its weights and a model card beside it.

    What an earlier call wrote is replaced. ``weights_seed`` is the seed that the model was trained
    with, which need not be the one that the metrics of the trial are of.

    Returns:
        The files that were written.

    Raises:
        ExportError: The place cannot be written.
    """
    config = config_of(study, finding, rule=rule, confirmed=confirmed)
    if weights_seed is not None:
        config.provenance["weights_seed"] = weights_seed
    name = "config" if model is None else "weights"
    return write_files(FORMATS[name]().render(config, model, path), force=True)


def holds(path: Path, architecture: Architecture) -> bool:
    """Whether ``path`` is an export of this very architecture already, with its weights."""
    try:
        config = read_config(path)
    except ExportError:
        return False
    has_weights = config.weights is not None and (path.parent / config.weights).exists()
    return config.architecture == architecture and has_weights


def _provenance(
    study: SearchStudy, finding: Finding, rule: str, confirmed: Sequence[Confirmation]
) -> dict[str, Any]:
    record, found, evaluation = study.record, finding.to_dict(), finding.evaluation
    return {
        "study": study.name,
        "trial": finding.number,
        "rule": rule,
        "architecture_id": evaluation.architecture.id,
        **{key: found[key] for key in MEASURED},
        "top1_interval": _top1_interval(evaluation),
        "confirmation": next((_told(c) for c in confirmed if c.finding == finding), None),
        "seed": evaluation.seed,
        "start_weights": record.config.get("weights"),
        "proxy_task": record.task["name"],
        "proxy_task_hash": record.task.get("content_hash"),
        "environment": record.environment,
    }


def _top1_interval(evaluation: Evaluation) -> list[float]:
    """Return Wilson's 95 % interval: how sure the fraction is, by the number of pictures."""
    correct = unpack(evaluation.correct)
    test = stats.binomtest(int(correct.sum()), max(1, correct.size))
    return [float(end) for end in test.proportion_ci(method="wilson")]


def _told(confirmation: Confirmation) -> dict[str, Any]:
    """Return what fresh seeds say of a gain; the trial and architecture are told already."""
    told = confirmation.to_dict()
    return {key: told[key] for key in told if key not in ("trial", "architecture", "id")}

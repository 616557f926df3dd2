"""A trial of a study as files: what was chosen, by which rule, and what was measured."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from gcsearch.architecture import Architecture
from gcsearch.errors import ExportError
from gcsearch.export.exported_config import ExportedConfig
from gcsearch.export.files import write_config, write_weights
from gcsearch.export.reading import read_config
from gcsearch.results import Finding
from gcsearch.study import SearchStudy

__all__ = ["export_finding", "holds"]

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
    task, found = study.record.task, finding.to_dict()
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
            **{key: found[key] for key in MEASURED},
            "proxy_task": task["name"],
            "environment": study.record.environment,
        },
    )
    write_config(config, path)


def holds(path: Path, architecture: Architecture) -> bool:
    """Whether ``path`` is an export of this very architecture already, with its weights."""
    try:
        config = read_config(path)
    except ExportError:
        return False
    has_weights = config.weights is not None and (path.parent / config.weights).exists()
    return config.architecture == architecture and has_weights

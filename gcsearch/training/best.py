"""A trained network in the form that `gcsearch.build` reads; it trains nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scipy import stats
from torch import nn

from gcsearch.export import ExportedConfig
from gcsearch.export.files import write_files
from gcsearch.export.formats import FORMATS
from gcsearch.machine import environment
from gcsearch.proxy.task import ProxyTask
from gcsearch.training.events import EpochResult, Scores
from gcsearch.training.start import Start

__all__ = ["describe", "write_best"]

MOST_NAMES = 1000


def describe(
    start: Start,
    task: ProxyTask,
    record: Mapping[str, Any],
    best: EpochResult,
    test: Scores | None,
    device: str = "cpu",
) -> ExportedConfig:
    """Return a config that says how the network was trained and what was measured, on what.

    Args:
        start: What it was trained from.
        task: The data.
        record: All that decided the result.
        best: The epoch that the weights are of.
        test: Scores on the test split, once they are known.
        device: That it was trained on.
    """
    said = dict(start.provenance)
    provenance = {
        "rule": f"highest top1 on the validation split, after epoch {best.epoch}",
        "top1": best.val.top1,
        "top1_interval": _interval(best.val),
        "top5": best.val.top5,
        "measured_on": f"validation split of {task.name}, {best.val.n_pictures} pictures",
        **(_tested(task, test) if test else {}),
        "architecture_id": start.architecture.id,
        "data": task.name,
        "full_training": {**record["settings"], "best_epoch": best.epoch},
        "start_weights": record["start_weights"],
        "data_hash": record["data_hash"],
        "class_names": list(task.class_names[:MOST_NAMES]),
        "environment": environment(device),
        "found_by": said.get("found_by", said) or None,
    }
    return ExportedConfig(
        architecture=start.architecture,
        n_classes=task.n_classes,
        image_size=record["image_size"],
        normalisation=dict(record["normalisation"]),
        provenance=provenance,
    )


def write_best(config: ExportedConfig, network: nn.Module, path: Path) -> None:
    """Write config, weights and model card, instead of those of an earlier epoch.

    Raises:
        ExportError: The place cannot be written.
    """
    write_files(FORMATS["weights"]().render(config, network, path), force=True)


def _tested(task: ProxyTask, test: Scores) -> dict[str, Any]:
    return {
        "test_top1": test.top1,
        "test_top1_interval": _interval(test),
        "test_top5": test.top5,
        "test_measured_on": f"test split of {task.name}, {test.n_pictures} pictures, once",
    }


def _interval(scores: Scores) -> list[float]:
    """Return Wilson's 95 % interval: how sure the fraction is, by the number of pictures."""
    n_right = round(scores.top1 * scores.n_pictures)
    interval = stats.binomtest(n_right, scores.n_pictures).proportion_ci(method="wilson")
    return [float(end) for end in interval]

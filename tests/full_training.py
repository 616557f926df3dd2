"""Small trainings of an exported config; it tests nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from gcsearch.architecture import Architecture, Insertion
from gcsearch.config import check_settings
from gcsearch.export import ExportedConfig, write_config
from gcsearch.export.formats import FORMATS
from gcsearch.training import FullTrainingSettings, TrainingListener, train
from gcsearch.training.folder import Folder

HERE = Path(__file__).parent
FOUND = (Insertion("1", ratio=1 / 2),)
NORMALISATION = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


def with_norms(num_classes: int = 3) -> nn.Module:
    """A network with all that makes going on hard: running statistics and dropout."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, num_classes)),
    )


def plain(num_classes: int = 3) -> nn.Module:
    """A network whose gradients do not depend on which pictures share a process."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(8, num_classes)),
    )


def write_found(path, *, model=None, backbone="with_norms", n_classes=3, insertions=FOUND):
    architecture = Architecture(f"full_training:{backbone}", insertions)
    config = ExportedConfig(architecture, n_classes, 12, normalisation=NORMALISATION)
    if model is None:
        write_config(config, path)
    else:
        for file in FORMATS["weights"]().render(config, model, path):
            file.path.write_bytes(file.content)
    return path


def settings_for(data, *changes):
    given = ["epochs=3", "batch_size=16", "precision=fp32", "device=cpu"]
    return check_settings(FullTrainingSettings, {"data": {"source": data}}, [*given, *changes])


def run(found, data, output, *changes, **options):
    return train(found, settings_for(data, *changes), output, trust=True, **options)


def without_seconds(trained):
    return [replace(result, seconds=0.0) for result in trained.history], trained.test


def same_weights(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def whole_weights(trained):
    return trained.config_path.with_suffix(".safetensors")


def last_network(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same weights."""
    a, b = (Folder(path).read_checkpoint()["network"] for path in (one, other))
    return all(torch.equal(a[key], b[key]) for key in a | b)


class Killed(BaseException):
    """What nobody catches, as if the process had ended."""


def killed(*_):
    raise Killed


class Heard(TrainingListener):
    def __init__(self):
        self.notes, self.numbers = [], []

    def notice(self, text):
        self.notes.append(text)

    def epoch(self, result, of):
        self.numbers.append(result.epoch)


def write_bright_pictures(path: Path) -> None:
    """Write a data set in which the class is the channel that is bright."""
    random, arrays = np.random.default_rng(0), {}
    for split, n in {"train": 64, "val": 20, "test": 22}.items():
        labels = np.arange(n) % 3
        pictures = random.integers(0, 120, (n, 12, 12, 3))
        pictures[np.arange(n), :, :, labels] += 100
        arrays |= {f"x_{split}": pictures.astype(np.uint8), f"y_{split}": labels}
    np.savez(path, **arrays)

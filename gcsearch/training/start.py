"""What a training starts from: an exported config or a backbone's name, and its weights.

It knows neither optimizer nor epochs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gcsearch.architecture import Architecture
from gcsearch.backbones import build_altered, build_backbone, check_backbone, load_weights
from gcsearch.errors import ConfigError, ExportError, GcsearchError
from gcsearch.export import read_config
from gcsearch.export.reading import WEIGHTS_SUFFIX
from gcsearch.proxy.task import ProxyTask
from gcsearch.surgery import insert
from gcsearch.training.settings import FullTrainingSettings

__all__ = ["Start", "read_start"]


@dataclass(frozen=True)
class Start:
    """An architecture with what is known of it.

    Args:
        architecture: What is trained.
        said_by: The file or the option that named it, for messages.
        n_classes: Of its weights; None where there was no config.
        image_size: Of its pictures; None where there was no config.
        weights: Its weights file, if it has one.
        normalisation: Of the pictures that its weights know.
        provenance: Where it comes from.
    """

    architecture: Architecture
    said_by: str
    n_classes: int | None = None
    image_size: int | None = None
    weights: Path | None = None
    normalisation: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def image_size_for(self, settings: FullTrainingSettings) -> int | None:
        """Return the side of what the network gets; None leaves it to the data."""
        return settings.image_size or self.image_size or settings.data.image_size

    def normalisation_for(self, task: ProxyTask, settings: FullTrainingSettings) -> dict[str, Any]:
        """Return mean and deviation: those its weights know, else those of the data.

        Raises:
            ExportError: It has weights, but says no mean and deviation.
        """
        if self.weights is None or settings.weights:
            return {"mean": list(task.mean), "std": list(task.std)}
        found = {key: _three(self.normalisation.get(key)) for key in ("mean", "std")}
        if not all(found.values()) or min(found["std"]) <= 0:
            raise ExportError(
                f"{self.said_by} does not say how its pictures are normalised; add the mean and "
                "std of each channel as 'normalisation: {mean: [0.5, 0.5, 0.5], std: ...}'"
            )
        return found

    def weights_word(self, settings: FullTrainingSettings) -> str | None:
        """Return the name of the weights it starts from, or the hash of its own file."""
        if settings.weights or self.weights is None:
            return settings.weights
        try:
            return f"sha256 {hashlib.sha256(self.weights.read_bytes()).hexdigest()}"
        except OSError as error:
            raise ExportError(
                f"{self.weights} cannot be read: {error.strerror or error}"
            ) from error

    def network(
        self, task: ProxyTask, settings: FullTrainingSettings, side: int, *, trust: bool
    ) -> tuple[nn.Module, list[str]]:
        """Build the network with its weights; its classifier is new for other classes.

        Returns:
            The network, and what people should know of how it starts.

        Raises:
            GcsearchError: It cannot be built, or the weights do not fit.
        """
        torch.manual_seed(settings.seed)
        name, size, notes = self.architecture.backbone, (3, side, side), []
        left: list[str] = []
        with _building(self.said_by, side):
            if settings.weights:
                model = build_backbone(name, n_classes=task.n_classes, trust=trust)
                left = load_weights(model, name, settings.weights)
                insert(model, self.architecture.insertions, input_size=size)
            else:
                model = build_altered(
                    self.architecture, n_classes=task.n_classes, input_size=size, trust=trust
                )
                if self.weights is not None:
                    left = load_weights(model, name, str(self.weights))
            _probe(model, size)
        if not settings.weights and self.weights is None:
            notes.append(f"{self.said_by} has no weights, so it is trained from scratch")
        if left and self.n_classes == task.n_classes and not settings.weights:
            raise ExportError(f"the weights of {self.said_by} do not fit: {left[0]!r}")
        if left:
            notes.append(
                f"the classifier ({', '.join(sorted(left))}) is new: the data have "
                f"{task.n_classes} classes, the weights another number"
            )
        return model, notes


def read_start(source: Path | None, backbone: str | None, *, trust: bool = False) -> Start:
    """Return what an exported config says, or the unaltered backbone of a name.

    Args:
        source: An exported ``.yaml`` or ``.safetensors`` file.
        backbone: Instead of it.
        trust: Whether an import path may be followed.

    Raises:
        ConfigError: Both are given, or none.
        GcsearchError: The file cannot be read, or there is no such backbone.
    """
    if (source is None) == (backbone is None):
        raise ConfigError(
            ["give an exported config, or --backbone NAME for one unaltered"], "train"
        )
    if backbone is not None:
        check_backbone(backbone, trust=trust)
        return Start(Architecture(backbone), f"backbone {backbone}")
    assert source is not None
    config = read_config(source)
    check_backbone(config.architecture.backbone, trust=trust)
    beside = source.parent / config.weights if config.weights else None
    return Start(
        architecture=config.architecture,
        said_by=str(source),
        n_classes=config.n_classes,
        image_size=config.image_size,
        weights=source if source.suffix == WEIGHTS_SUFFIX else beside,
        normalisation=config.normalisation,
        provenance=config.provenance,
    )


@contextmanager
def _building(said_by: str, side: int) -> Iterator[None]:
    """Say in one line what a network stumbles over, which may be anybody's."""
    try:
        yield
    except GcsearchError:
        raise
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise ExportError(
            f"{said_by} cannot be run on pictures of {side} px ({told:.200}); give another "
            "image_size"
        ) from error


def _probe(model: nn.Module, size: tuple[int, ...]) -> None:
    """Find out before anything is written whether pictures of this size go through."""
    model.eval()
    with torch.inference_mode():
        model(torch.zeros(2, *size))


def _three(values: Any) -> list[float]:
    """Return one finite number a channel, or nothing."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return []
    return numbers if len(numbers) == 3 and all(map(_is_finite, numbers)) else []


def _is_finite(number: float) -> bool:
    return abs(number) < float("inf")

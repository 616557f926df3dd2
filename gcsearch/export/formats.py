"""The formats an architecture is taken away in: what each writes, what it must refuse.

A format makes bytes, checked, and writes nothing. A new one is a class with what :class:`Format`
asks for, registered under its name.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from torch import nn

from gcsearch.errors import ExportError
from gcsearch.export.card import CARD_START, model_card
from gcsearch.export.exported_config import ExportedConfig
from gcsearch.export.files import File, config_bytes, plain_state, weights_bytes
from gcsearch.export.mmdet_plugins import mmdet_config, mmdet_state, pickled
from gcsearch.export.programs import checked_onnx, checked_program, require_onnx
from gcsearch.export.snippet import refuse_snippet, snippet
from gcsearch.export.timm_call import timm_call, timm_state
from gcsearch.registry import Registry

__all__ = ["FORMATS", "Format", "require_suffix"]


class Format(Protocol):
    """One form in which an architecture is taken away."""

    suffixes: tuple[str, ...]
    """Of the file that is asked for."""
    is_trained: bool
    """Whether there is no such file without trained weights."""

    def paths(self, output: Path, *, with_weights: bool) -> list[Path]:
        """Return the files that must not be there yet."""

    def check(self, config: ExportedConfig) -> None:
        """Find out before anything is trained whether this can be written.

        Raises:
            ExportError: The format cannot say it, or needs a package that is missing.
        """

    def render(self, config: ExportedConfig, model: nn.Module | None, output: Path) -> list[File]:
        """Return what is to be written, the file that was asked for last.

        Raises:
            ExportError: The format cannot say it, or what it says does not equal the model.
        """


FORMATS: Registry[type[Format]] = Registry("format")
"""Formats by the name that `--format` takes."""


def require_suffix(output: Path, name: str) -> None:
    """Refuse a path that does not end as files of the format do.

    Raises:
        ExportError: It ends otherwise.
    """
    suffixes = FORMATS[name].suffixes
    if output.suffix not in suffixes:
        beside = "; weights are written beside it" if suffixes[0] == ".yaml" else ""
        raise ExportError(f"{str(output)!r} is not a {suffixes[0]} file{beside}")


@FORMATS.register("config")
class Config:
    """The config alone."""

    suffixes: tuple[str, ...] = (".yaml", ".yml")
    is_trained = False

    def paths(self, output: Path, *, with_weights: bool) -> list[Path]:
        """Return both, since a config that is replaced no longer fits its old weights."""
        return [output, output.with_suffix(".safetensors")]

    def check(self, config: ExportedConfig) -> None:
        """Any architecture has a config."""

    def render(self, config: ExportedConfig, model: nn.Module | None, output: Path) -> list[File]:
        """Return the config, and the weights with a card if there is a model."""
        if model is None:
            alone = replace(config, weights=None)
            return [File(output, config_bytes(alone, output.name))]
        weights = output.with_suffix(".safetensors")
        content = weights_bytes(plain_state(model), config)
        digest = hashlib.sha256(content).hexdigest()
        provenance = {**config.provenance, "weights_sha256": digest}
        whole = replace(config, weights=weights.name, provenance=provenance)
        card = model_card(whole, weights.name)
        return [
            File(weights, content),
            File(output.parent / "README.md", card, yields_to=CARD_START),
            File(output, config_bytes(whole, output.name)),
        ]


@FORMATS.register("weights")
class Weights(Config):
    """The config with trained weights and a model card."""

    is_trained = True


class _Program:
    """One file that another runtime runs."""

    suffixes: tuple[str, ...] = ()
    is_trained = True

    def paths(self, output: Path, *, with_weights: bool) -> list[Path]:
        """Return the one file."""
        return [output]


@FORMATS.register("onnx")
class Onnx(_Program):
    """An ONNX file, compared with the model in ONNX Runtime."""

    suffixes: tuple[str, ...] = (".onnx",)

    def check(self, config: ExportedConfig) -> None:
        """Look for the packages."""
        require_onnx()

    def render(self, config: ExportedConfig, model: nn.Module | None, output: Path) -> list[File]:
        """Return the file."""
        return [File(output, checked_onnx(_required(model), config))]


@FORMATS.register("torch-export")
class TorchExport(_Program):
    """An exported program of torch's, loaded back and compared with the model."""

    suffixes: tuple[str, ...] = (".pt2",)

    def check(self, config: ExportedConfig) -> None:
        """Any network may be tried."""

    def render(self, config: ExportedConfig, model: nn.Module | None, output: Path) -> list[File]:
        """Return the file."""
        return [File(output, checked_program(_required(model), config))]


class _Code:
    """Python code, with converted weights beside it if there is a model."""

    suffixes: tuple[str, ...] = (".py",)
    is_trained = False
    weights_suffix = ".safetensors"

    def paths(self, output: Path, *, with_weights: bool) -> list[Path]:
        """Return the code, and the weights if there are to be any."""
        return [output] + ([output.with_suffix(self.weights_suffix)] if with_weights else [])


@FORMATS.register("mmdet")
class Mmdet(_Code):
    """A backbone with plugins, in the grammar of mmdet's and mmseg's configs."""

    weights_suffix = ".pth"

    def check(self, config: ExportedConfig) -> None:
        """Try to say it."""
        mmdet_config(config, None)

    def render(self, config: ExportedConfig, model: nn.Module | None, output: Path) -> list[File]:
        """Return the config, and the weights in mmdet's names."""
        weights = output.with_suffix(self.weights_suffix)
        code = File(output, mmdet_config(config, weights.name if model else None).encode())
        if model is None:
            return [code]
        return [File(weights, pickled(mmdet_state(config, plain_state(model)))), code]


@FORMATS.register("timm")
class Timm(_Code):
    """A call of timm's `create_model`."""

    def check(self, config: ExportedConfig) -> None:
        """Try to say it."""
        timm_call(config, None)

    def render(self, config: ExportedConfig, model: nn.Module | None, output: Path) -> list[File]:
        """Return the call, and the weights in timm's names."""
        weights = output.with_suffix(self.weights_suffix)
        code = File(output, timm_call(config, weights.name if model else None).encode())
        if model is None:
            return [code]
        return [File(weights, weights_bytes(timm_state(plain_state(model)), None)), code]


@FORMATS.register("snippet")
class Snippet(_Code):
    """A Python file that needs torch and torchvision alone."""

    def check(self, config: ExportedConfig) -> None:
        """Look whether the backbone is torchvision's."""
        refuse_snippet(config)

    def render(self, config: ExportedConfig, model: nn.Module | None, output: Path) -> list[File]:
        """Return the code, and the weights as they are."""
        weights = output.with_suffix(self.weights_suffix)
        code = File(output, snippet(config, model, weights.name if model else None).encode())
        if model is None:
            return [code]
        return [File(weights, weights_bytes(plain_state(model), config)), code]


def _required(model: nn.Module | None) -> nn.Module:
    if model is None:
        raise ExportError("this format holds trained weights, and there are none")
    return model

"""Exported configs (YAML) and weights (safetensors), written whole or not at all, and read back.

A config names a backbone and its insertions; building it runs no code of the file's choosing
unless the caller trusts it. The format is versioned: an older file is read, a newer one is
refused.
"""

from __future__ import annotations

import os
import reprlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save
from torch import nn

from gcsearch.architecture import Architecture
from gcsearch.backbones import build_altered, read_state_dict
from gcsearch.config import read_yaml
from gcsearch.errors import ConfigError, ExportError, GcsearchError

__all__ = [
    "ExportedConfig",
    "build",
    "read_config",
    "write_atomically",
    "write_config",
    "write_weights",
]

FORMAT = 1
LARGEST_CONFIG = 1_000_000
HEADER = """\
# A network found by gcsearch. Rebuild it: gcsearch.build("{name}")
"""


@dataclass(frozen=True)
class ExportedConfig:
    """What an exported config says.

    Args:
        architecture: Backbone and insertions.
        n_classes: Outputs of the classifier.
        image_size: Side of the pictures it was searched on.
        weights: Name of the weights file beside the config, if it has one.
        normalisation: Mean and standard deviation per channel of pictures in [0, 1].
        provenance: Study, trial, metrics, versions; for people and records, not for building.
    """

    architecture: Architecture
    n_classes: int
    image_size: int
    weights: str | None = None
    normalisation: dict[str, list[float]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, safe for YAML."""
        return {
            "gcsearch_format": FORMAT,
            **self.architecture.to_dict(),
            "n_classes": self.n_classes,
            "image_size": self.image_size,
            "weights": self.weights,
            "normalisation": self.normalisation,
            "provenance": self.provenance,
        }


def write_config(config: ExportedConfig, path: Path) -> None:
    """Write a config as YAML, atomically.

    Raises:
        ExportError: The place cannot be written.
    """
    body = yaml.dump(config.to_dict(), Dumper=_PlainDumper, sort_keys=False)
    write_atomically(path, (HEADER.format(name=path.name) + body).encode())


def write_weights(model: nn.Module, path: Path) -> None:
    """Write a model's state dict in safetensors form, atomically.

    Raises:
        ExportError: The place cannot be written.
    """
    state = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    write_atomically(path, save(state))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, making its folder.

    Raises:
        ExportError: The place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(draft, 0o666 & ~umask)
            os.replace(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror or error}") from error


def read_config(path: Path) -> ExportedConfig:
    """Read an exported config without running anything in it.

    Raises:
        ExportError: It is missing, no such config, or of a newer format.
    """
    data = _read_mapping(path)
    version = data.pop("gcsearch_format", None)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ExportError(f"{path} is no exported config: it has no 'gcsearch_format'")
    if version > FORMAT:
        raise ExportError(
            f"{path} has format {version}, newer than {FORMAT}; upgrade gcsearch to read it"
        )
    keys = {"backbone", "insertions"}
    own = {field.name for field in fields(ExportedConfig)} - {"architecture"}
    unknown = sorted(str(key) for key in set(data) - keys - own)
    if unknown:
        raise ExportError(f"{path} has unknown key {unknown[0]!r}")
    try:
        architecture = Architecture.from_dict({k: data[k] for k in keys if k in data})
        return ExportedConfig(
            architecture=architecture,
            n_classes=_whole(data, "n_classes", 100_000),
            image_size=_whole(data, "image_size", 4096),
            weights=_file_name(data.get("weights")),
            normalisation=dict(data.get("normalisation") or {}),
            provenance=dict(data.get("provenance") or {}),
        )
    except (GcsearchError, TypeError, ValueError) as error:
        raise ExportError(f"{path}: {error}") from error


def build(path: str | Path, *, trust: bool = False) -> nn.Module:
    """Rebuild the network of an exported config, with its weights if it has them.

    Args:
        path: The YAML file; its weights file lies beside it.
        trust: Whether a backbone given as an import path may be run.

    Returns:
        The altered backbone, in eval mode.

    Raises:
        ExportError: The files cannot be read, or do not fit together.
    """
    path = Path(path)
    config = read_config(path)
    side = config.image_size
    try:
        model = build_altered(
            config.architecture,
            n_classes=config.n_classes,
            input_size=(3, side, side),
            trust=trust,
        )
        if config.weights:
            _load_strictly(model, path.parent / config.weights)
    except GcsearchError as error:
        raise ExportError(f"{path}: {error}") from error
    return model.eval()


def _load_strictly(model: nn.Module, path: Path) -> None:
    if path.suffix != ".safetensors":
        raise ExportError(f"weights {path.name!r} are not a .safetensors file")
    state: Mapping[str, torch.Tensor] = read_state_dict(path)
    own = model.state_dict()
    wrong = sorted(own.keys() ^ state.keys()) or sorted(
        key for key in own if own[key].shape != state[key].shape
    )
    if wrong:
        raise ConfigError([f"weights {path.name!r} do not fit the architecture: {wrong[0]!r}"])
    model.load_state_dict(dict(state))


class _PlainDumper(yaml.SafeDumper):
    """Writes what occurs twice twice, because aliases are not read back."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ExportError(f"{path} is too large to be an exported config")
        data = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExportError(f"{path} does not exist") from None
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ExportError(f"{path} is not text in UTF-8") from error
    except ExportError:
        raise
    except ValueError as error:
        raise ExportError(f"{path} {error}") from error
    if not isinstance(data, dict):
        raise ExportError(f"{path} is no exported config: it is not a mapping")
    return data


def _whole(data: Mapping[str, Any], key: str, most: int) -> int:
    """Return a number that no machine chokes on: the file may come from a stranger."""
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ExportError(f"{key} is {reprlib.repr(value)}, not a whole number in 1..{most}")
    return value


def _file_name(value: object) -> str | None:
    """Accept a bare file name only: a config must not reach out of its own folder."""
    if value is None:
        return None
    if not isinstance(value, str) or Path(value).name != value or value in ("", ".", ".."):
        raise ExportError(
            f"weights {reprlib.repr(value)} is not the name of a file beside the config"
        )
    return value

"""Exported files read back: configs, weights that carry theirs, and the networks they describe.

Building one runs no code of the file's choosing unless the caller trusts it.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from gcsearch.backbones import build_altered, read_state_dict
from gcsearch.config import read_yaml
from gcsearch.errors import ExportError, GcsearchError
from gcsearch.export.exported_config import ExportedConfig
from gcsearch.export.files import METADATA_KEY

__all__ = ["WEIGHTS_SUFFIX", "build", "read_config"]

LARGEST_CONFIG = 1_000_000
WEIGHTS_SUFFIX = ".safetensors"


def read_config(path: Path) -> ExportedConfig:
    """Read an exported config without running anything in it.

    Args:
        path: A YAML file, or weights (``.safetensors``) that carry their config.

    Raises:
        ExportError: It is missing, no such config, or of a newer format.
    """
    is_weights = path.suffix == WEIGHTS_SUFFIX
    data = _read_metadata(path) if is_weights else _read_mapping(path)
    try:
        return ExportedConfig.from_dict(data)
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error


def build(path: str | Path, *, trust: bool = False) -> nn.Module:
    """Rebuild the network of an exported config, with its weights if it has them.

    Args:
        path: The YAML file, whose weights file lies beside it, or the weights file alone.
        trust: Whether a backbone given as an import path may be run.

    Returns:
        The altered backbone, in eval mode.

    Raises:
        ExportError: The files cannot be read, or do not fit together.
    """
    path = Path(path)
    config = read_config(path)
    with _one_line(path):
        model = build_altered(
            config.architecture,
            n_classes=config.n_classes,
            input_size=config.input_size,
            trust=trust,
        )
        if path.suffix == WEIGHTS_SUFFIX:
            _load_strictly(model, path)
        elif config.weights:
            _load_strictly(model, path.parent / config.weights)
    return model.eval()


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Say what a file is at fault for, whoever stumbles over it: it may come from a stranger."""
    try:
        yield
    except GcsearchError as error:
        raise ExportError(f"{path}: {error}") from error
    except Exception as error:  # e.g. of a network that takes no number of classes
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise ExportError(f"{path} cannot be built: {told:.300}") from error


def _load_strictly(model: nn.Module, path: Path) -> None:
    if path.suffix != WEIGHTS_SUFFIX:
        raise ExportError(f"weights {path.name!r} are not a {WEIGHTS_SUFFIX} file")
    state = read_state_dict(path)
    own = model.state_dict()
    wrong = sorted(own.keys() ^ state.keys()) or sorted(
        key for key in own if not _fits(state[key], own[key])
    )
    if wrong:
        key = reprlib.repr(wrong[0])
        raise ExportError(f"weights {path.name!r} do not fit the architecture: {key}")
    model.load_state_dict(state)


def _fits(given: torch.Tensor, own: torch.Tensor) -> bool:
    same_kind = given.is_floating_point() == own.is_floating_point() and not given.is_complex()
    return given.shape == own.shape and same_kind


def _read_metadata(path: Path) -> dict[str, Any]:
    """Return the config that a weights file carries."""
    if not path.exists():
        raise ExportError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except Exception as error:  # safetensors lets out what its reader stumbles over
        reason = " ".join(str(error).split())
        raise ExportError(f"{path} cannot be read: {reason:.200}") from error
    if METADATA_KEY not in metadata:
        raise ExportError(f"{path} holds weights without their config; build the .yaml beside it")
    text = metadata[METADATA_KEY]
    try:
        data = json.loads(text) if len(text) <= LARGEST_CONFIG else None
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} holds a config that cannot be read as JSON") from error
    return _as_mapping(data, path)


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
    return _as_mapping(data, path)


def _as_mapping(data: Any, path: Path) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise ExportError(f"{path} is no exported config: it is not a mapping")
    return dict(data)

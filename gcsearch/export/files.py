"""Files written whole or not at all: exported configs (YAML) and weights (safetensors).

A weights file carries its config in its metadata, so that it can be rebuilt alone. Knows no study.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml
from safetensors.torch import save
from torch import nn

from gcsearch.errors import ExportError
from gcsearch.export.exported_config import ExportedConfig

__all__ = [
    "METADATA_KEY",
    "File",
    "config_bytes",
    "embedded_text",
    "plain_state",
    "refuse_existing",
    "weights_bytes",
    "write_atomically",
    "write_config",
    "write_files",
    "write_weights",
]

METADATA_KEY = "gcsearch"
"""Under this key formats with room for notes hold the config as JSON."""

HEADER = """\
# A network found by gcsearch. Rebuild it: gcsearch.build("{name}")
"""


@dataclass(frozen=True)
class File:
    """What is to be written.

    Args:
        path: Where.
        content: What.
        yields_to: How a file of ours of this name begins where the name is a common one: what
            begins otherwise is somebody's own and stays, forced or not, and so does what is there
            unless it is forced.
    """

    path: Path
    content: bytes
    yields_to: bytes | None = None

    def gives_way(self, force: bool) -> bool:
        """Whether it is not to be written, for the sake of what is there."""
        if self.yields_to is None or not self.path.exists():
            return False
        return not (force and _begins_with(self.path, self.yields_to))


def write_files(files: Sequence[File], *, force: bool = False) -> list[Path]:
    """Write files, each atomically; return those that were written.

    Raises:
        ExportError: One exists already and is not to be replaced, or cannot be written.
    """
    refuse_existing([file.path for file in files if file.yields_to is None], force=force)
    wanted = [file for file in files if not file.gives_way(force)]
    for file in wanted:
        write_atomically(file.path, file.content)
    return [file.path for file in wanted]


def refuse_existing(paths: Sequence[Path], *, force: bool) -> None:
    """Refuse to replace what is there.

    Raises:
        ExportError: One of the paths exists, and ``force`` does not allow to replace it.
    """
    for path in paths:
        if path.exists() and not force:
            raise ExportError(f"{path} exists already; pass --force to replace it")


def config_bytes(config: ExportedConfig, name: str) -> bytes:
    """Return a config as commented YAML for a file of this name."""
    body = yaml.dump(config.to_dict(), Dumper=_PlainDumper, sort_keys=False)
    return (HEADER.format(name=name) + body).encode()


def embedded_text(config: ExportedConfig) -> str:
    """Return a config as JSON for the metadata of the file that holds the weights themselves."""
    return json.dumps(replace(config, weights=None).to_dict())


def weights_bytes(state: Mapping[str, torch.Tensor], config: ExportedConfig | None) -> bytes:
    """Return a state dict in safetensors form, with its config in the metadata."""
    metadata = {"format": "pt"} | ({METADATA_KEY: embedded_text(config)} if config else {})
    return save(dict(state), metadata=metadata)


def plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's state dict as tensors of their own, contiguous on the processor."""
    return {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}


def write_config(config: ExportedConfig, path: Path) -> None:
    """Write a config as YAML, atomically.

    Raises:
        ExportError: The place cannot be written.
    """
    write_atomically(path, config_bytes(config, path.name))


def write_weights(model: nn.Module, path: Path, config: ExportedConfig | None = None) -> None:
    """Write a model's state dict in safetensors form, atomically.

    Args:
        model: Whose weights.
        path: The ``.safetensors`` file.
        config: Put into the metadata, so that the file can be built alone.

    Raises:
        ExportError: The place cannot be written.
    """
    write_atomically(path, weights_bytes(plain_state(model), config))


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


def _begins_with(path: Path, start: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return False


class _PlainDumper(yaml.SafeDumper):
    """Writes what occurs twice twice, because aliases are not read back."""

    def ignore_aliases(self, data: object) -> bool:
        return True

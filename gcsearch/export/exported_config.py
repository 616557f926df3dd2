"""What an exported config says, as a value; its plain data may come from a stranger.

The format is versioned: an older one is read, a newer one is refused. Knows no file and no tensor.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from gcsearch.architecture import Architecture
from gcsearch.errors import ExportError, GcsearchError

__all__ = ["FORMAT", "ExportedConfig"]

FORMAT = 1


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

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of its input."""
        return (3, self.image_size, self.image_size)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, safe for YAML and JSON."""
        return {
            "gcsearch_format": FORMAT,
            **self.architecture.to_dict(),
            "n_classes": self.n_classes,
            "image_size": self.image_size,
            "weights": self.weights,
            "normalisation": self.normalisation,
            "provenance": self.provenance,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExportedConfig:
        """Read what :meth:`to_dict` of this version or an older one returned.

        Raises:
            ExportError: It is no such data, or of a newer format.
        """
        _require_known_format(data)
        keys = {"backbone", "insertions"}
        own = {field.name for field in fields(cls)} - {"architecture"}
        unknown = sorted(str(key) for key in set(data) - keys - own - {"gcsearch_format"})
        if unknown:
            raise ExportError(f"has unknown key {reprlib.repr(unknown[0])}")
        try:
            return cls(
                architecture=Architecture.from_dict({k: data[k] for k in keys if k in data}),
                n_classes=_whole(data, "n_classes", 100_000),
                image_size=_whole(data, "image_size", 4096),
                weights=_file_name(data.get("weights")),
                normalisation=dict(data.get("normalisation") or {}),
                provenance=dict(data.get("provenance") or {}),
            )
        except ExportError:
            raise
        except (GcsearchError, TypeError, ValueError) as error:
            raise ExportError(f"says what makes no sense: {error}") from error


def _require_known_format(data: Mapping[str, Any]) -> None:
    version = data.get("gcsearch_format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ExportError("is no exported config: it has no 'gcsearch_format'")
    if version > FORMAT:
        shown = reprlib.repr(version)
        raise ExportError(f"has format {shown}, newer than {FORMAT}; upgrade gcsearch to read it")


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

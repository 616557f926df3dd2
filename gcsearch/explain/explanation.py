"""From an exported config and picture files to what its blocks attend to; it draws nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gcsearch.architecture import Insertion
from gcsearch.errors import DataError, ExportError
from gcsearch.explain.grids import grid_of, sampled_queries
from gcsearch.explain.maps import (
    AttentionMap,
    attention_maps,
    entropy_ratio,
    mean_cosine_distance,
    why_no_map,
)
from gcsearch.export import ExportedConfig, build, read_config
from gcsearch.proxy.pictures import decode
from gcsearch.surgery import inserted_blocks

__all__ = ["MOST_PICTURES", "Explained", "Explanation", "explain"]

MOST_PICTURES = 16
"""Rows that one figure can hold and a reader compare."""


@dataclass(frozen=True, eq=False)
class Explained:
    """What is known of one insertion.

    Args:
        insertion: The block, its settings and its site.
        attention: Its maps; None if it has none.
        reason: Why it cannot be drawn; empty if it can.
        entropy: As :func:`entropy_ratio` of the maps, over a sample of queries if it has any.
        cosine_distance: As :func:`mean_cosine_distance` over that sample.
    """

    insertion: Insertion
    attention: AttentionMap | None = None
    reason: str = ""
    entropy: float | None = None
    cosine_distance: float | None = None

    @property
    def settings(self) -> str:
        """The block and its settings without the site."""
        return str(self.insertion).removeprefix(self.insertion.site).strip()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "site": self.insertion.site,
            "block": self.insertion.block,
            "settings": self.settings,
            "shape": list(self.attention.positions) if self.attention else None,
            "entropy": self.entropy,
            "cosine_distance": self.cosine_distance,
            "reason": self.reason or None,
        }


@dataclass(frozen=True, eq=False)
class Explanation:
    """What all insertions of an architecture attend to on some pictures.

    Args:
        backbone: Name of the backbone.
        has_weights: Whether the config came with weights; without them the maps are arbitrary.
        names: A name for each picture.
        pictures: ``(N, side, side, 3)`` uint8, as the model saw them.
        insertions: One entry for each insertion, in running order; those without a map last.
    """

    backbone: str
    has_weights: bool
    names: tuple[str, ...]
    pictures: NDArray[np.uint8]
    insertions: tuple[Explained, ...]

    @property
    def drawable(self) -> list[tuple[Explained, AttentionMap]]:
        """Insertions whose maps cover the picture, with the maps."""
        return [(e, e.attention) for e in self.insertions if e.attention and not e.reason]


def explain(config_path: Path, image_paths: Sequence[Path], *, trust: bool = False) -> Explanation:
    """Run an exported network on pictures and return what its blocks attend to.

    The largest centred square of each picture is scaled to the size the network was searched on,
    and normalised as there.

    Args:
        config_path: An exported config, with its weights beside it if it has them.
        image_paths: Files that hold pictures.
        trust: Whether a backbone given as an import path may be run.

    Raises:
        ExportError: The config cannot be read or built, or no insertion of it has a map.
        DataError: A picture cannot be read, or there are none or too many.
    """
    config = read_config(config_path)
    pictures = _read_pictures(image_paths, config.image_size)
    images = _normalised(pictures, config.normalisation, config_path)
    entries = _explained(build(config_path, trust=trust), images, config)
    if all(entry.reason for entry in entries):
        raise ExportError(f"{config_path} {_why_nothing(entries)}")
    names = tuple(path.name for path in image_paths)
    return Explanation(
        config.architecture.backbone, config.weights is not None, names, pictures, entries
    )


def _explained(model: nn.Module, images: Tensor, config: ExportedConfig) -> tuple[Explained, ...]:
    """Run twice, because what is drawn and what is measured are for different queries."""
    insertions = {insertion.site: insertion for insertion in config.architecture.insertions}
    shown = attention_maps(model, images)
    measured = {m.path: m for m in attention_maps(model, images, sampled_queries)}
    entries = [
        Explained(
            insertions[attention.path],
            attention,
            _why_not_drawn(attention),
            entropy_ratio(measured[attention.path]),
            mean_cosine_distance(measured[attention.path]),
        )
        for attention in shown
    ]
    for path, block in inserted_blocks(model).items():
        if reason := why_no_map(block):
            entries.append(Explained(insertions[path], reason=reason))
    return tuple(entries)


def _why_not_drawn(attention: AttentionMap) -> str:
    keys = attention.weights.shape[2:]
    if grid_of(attention.positions) and grid_of(keys):
        return ""
    return f"its {keys[0]} tokens are no square, with or without a class token"


def _why_nothing(entries: Sequence[Explained]) -> str:
    allowed = "maps come from gc with att pooling, from snl and from nl"
    if not entries:
        return f"has no insertions; {allowed}"
    first = entries[0]
    return (
        f"has no map to draw among its {len(entries)} insertion(s) ({first.insertion}: "
        f"{first.reason}); {allowed}"
    )


def _read_pictures(paths: Sequence[Path], side: int) -> NDArray[np.uint8]:
    if not 1 <= len(paths) <= MOST_PICTURES:
        raise DataError(f"{len(paths)} pictures do not fit one figure; give 1 to {MOST_PICTURES}")
    for path in paths:
        if not path.is_file():
            raise DataError(f"picture {path} is no file; give the path of a PNG, JPEG or the like")
    return np.stack([decode(path, side) for path in paths])


def _normalised(
    pictures: NDArray[np.uint8], normalisation: Mapping[str, Any], config_path: Path
) -> Tensor:
    """Return pictures as the network was trained on them, (N, 3, side, side)."""
    mean = _per_channel(normalisation, "mean", config_path)
    std = _per_channel(normalisation, "std", config_path)
    if not (std > 0).all():
        raise ExportError(f"{config_path}: std of its normalisation is not positive; correct it")
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255 - mean) / std


def _per_channel(normalisation: Mapping[str, Any], key: str, config_path: Path) -> Tensor:
    try:
        values = torch.tensor([float(value) for value in normalisation[key]])
    except (KeyError, TypeError, ValueError):
        values = torch.empty(0)
    if len(values) != 3 or not values.isfinite().all():
        raise ExportError(
            f"{config_path} does not say how its pictures are normalised; add the {key} of each "
            f"channel as 'normalisation: {{{key}: [0.5, 0.5, 0.5], ...}}'"
        )
    return values.view(1, 3, 1, 1)

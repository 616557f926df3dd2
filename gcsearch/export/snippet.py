"""A network as one Python file that needs torch and torchvision alone; it is not run here.

What comes from a config is written as literals, so that no text of a stranger becomes code.
"""

from __future__ import annotations

import inspect
import json
import pprint

from torch import nn

from gcsearch.backbones import backbone_names, build_altered
from gcsearch.errors import ExportError
from gcsearch.export import standalone
from gcsearch.export.exported_config import ExportedConfig
from gcsearch.surgery import inserted_blocks
from gcsearch.surgery.host import follows_channels_last

__all__ = ["refuse_snippet", "snippet"]

_HEAD = '''\
"""Architecture {id} found by gcsearch, built with torch and torchvision alone.

    model = build("WEIGHTS.safetensors")  # or .pt, .pth

The names of its weights are those of gcsearch's files.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

BACKBONE = {backbone!r}
OPTIONS = {options!r}
SITES = {sites}
"""Path, channels, whether they come last, block and its settings."""
NORMALISATION = {normalisation!r}
"""Mean and deviation per channel of pictures in [0, 1], {side} x {side}."""
PROVENANCE = json.loads({provenance!r})
WEIGHTS = {weights!r}


'''


def refuse_snippet(config: ExportedConfig) -> None:
    """Refuse backbones that torchvision does not have.

    Raises:
        ExportError: It is one of timm's, or an import path.
    """
    name = config.architecture.backbone
    if name not in backbone_names():
        raise ExportError(
            f"a snippet needs torchvision alone, which has no classifier {name!r}; "
            "use --format weights"
        )


def snippet(config: ExportedConfig, model: nn.Module | None, weights: str | None) -> str:
    """Return the text of a Python file with a function ``build``.

    Args:
        config: Of the architecture.
        model: The altered backbone, to read channels and layouts off; by default a fresh one.
        weights: Name of the file beside it that ``build()`` loads, if there is one.

    Raises:
        ExportError: The backbone is not torchvision's.
    """
    refuse_snippet(config)
    if model is None:
        size, n_classes = config.input_size, config.n_classes
        model = build_altered(config.architecture, n_classes=n_classes, input_size=size)
    channels = {path: _channels(block) for path, block in inserted_blocks(model).items()}
    sites = [
        (
            insertion.site,
            channels[insertion.site],
            follows_channels_last(model.get_submodule(insertion.site)),
            insertion.block,
            insertion.settings(),
        )
        for insertion in config.architecture.insertions
    ]
    head = _HEAD.format(
        id=config.architecture.id,
        backbone=config.architecture.backbone,
        options=_options(config),
        sites=pprint.pformat(sites, width=95),
        normalisation=json.loads(json.dumps(config.normalisation, default=str)),
        side=config.image_size,
        provenance=json.dumps(config.provenance, default=str),
        weights=weights,
    )
    source = inspect.getsource(standalone)
    return head + source[source.index("\nclass GlobalContext") + 1 :]


def _options(config: ExportedConfig) -> dict[str, object]:
    options: dict[str, object] = {"num_classes": config.n_classes}
    if config.architecture.backbone in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # They warn unless they are told.
    return options


def _channels(block: nn.Module) -> int:
    channels = getattr(block, "channels", None)
    if not isinstance(channels, int):
        raise ExportError(f"a snippet has no code for a block of class {type(block).__name__}")
    return channels

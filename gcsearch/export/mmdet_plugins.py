"""An architecture as mmdet and mmseg write it: a ResNet whose stages hold plugins.

Their plugins act in every bottleneck of a stage, after its last norm (``after_conv3``), before the
addition. Needs neither of them.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gcsearch.architecture import Insertion
from gcsearch.blocks import convert_state_dict
from gcsearch.export.exported_config import ExportedConfig
from gcsearch.export.placing import BOTTLENECK, Stage, gate_faults, refuse, stages_of
from gcsearch.surgery.host import BLOCK_NAME

__all__ = ["mmdet_config", "mmdet_state", "pickled"]

_NAMES = {"gc": "context_block", "nl": "nonlocal_block"}
"""What mmcv calls the child that holds a plugin."""

_CODE = """\
# Architecture {id} of gcsearch for mmdet and mmseg: part of a config, for its _base_ list.
# Its plugins are mmcv's; they act before the addition of every bottleneck of a stage.
model = dict(
    backbone=dict(
        type="ResNet",
        depth={depth},
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        style="pytorch",
        plugins=[{plugins}],
{start}    )
)
"""
_START = """\
        # Relative to where the training is started.
        init_cfg=dict(type="Pretrained", checkpoint={checkpoint!r}),
"""


def mmdet_config(config: ExportedConfig, weights: str | None) -> str:
    """Return a config's text.

    Args:
        config: Of the architecture.
        weights: Name of the file with the weights in mmdet's names, if there is one.

    Raises:
        ExportError: mmdet's grammar cannot say it; the message names what, and where.
    """
    plugins = "".join(f"\n            {plugin}," for plugin in _plugins(_stages(config)))
    return _CODE.format(
        id=config.architecture.id,
        depth=config.architecture.backbone.removeprefix("resnet"),
        plugins=plugins + "\n        " if plugins else "",
        start=_START.format(checkpoint=weights) if weights else "",
    )


def mmdet_state(config: ExportedConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in mmdet's names, without the classifier, which it does not have."""
    converted = {}
    blocks: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        host, found, rest = key.partition(f".{BLOCK_NAME}.")
        if found:
            blocks.setdefault(host, {})[rest] = tensor
        elif not key.startswith("fc."):
            converted[key] = tensor
    for insertion in config.architecture.insertions:
        is_nl = insertion.block == "nl"
        options: dict[str, Any] = {"sub_sample": insertion.sub_sample} if is_nl else {}
        weights = convert_state_dict(
            blocks[insertion.site], block=insertion.block, target="mmcv", **options
        )
        place = insertion.site.rpartition(".")[0] + "." + _NAMES[insertion.block]
        converted |= {f"{place}.{name}": tensor for name, tensor in weights.items()}
    return converted


def pickled(state: Mapping[str, Tensor]) -> bytes:
    """Return a checkpoint as mmengine reads it: it has no other form of weights."""
    file = io.BytesIO()
    torch.save({"state_dict": dict(state)}, file)
    return file.getvalue()


def _stages(config: ExportedConfig) -> list[Stage]:
    architecture = config.architecture
    if architecture.backbone not in BOTTLENECK:
        known = ", ".join(BOTTLENECK)
        refuse("mmdet", [f"backbone {architecture.backbone}: only {known} take plugins"])
    stages, faults = stages_of(architecture, BOTTLENECK[architecture.backbone], "bn3")
    for number, stage in enumerate(stages, 1):
        if stage is not None and stage.block not in _NAMES:
            faults.append(f"layer{number}: block {stage.block!r} is no plugin of mmcv's")
    refuse("mmdet", faults + gate_faults(stages))
    return stages


def _plugins(stages: list[Stage]) -> list[str]:
    kinds = dict.fromkeys(stage for stage in stages if stage is not None)
    return [
        f"dict(cfg={_cfg(kind)}, stages={tuple(stage == kind for stage in stages)}, "
        "position='after_conv3')"
        for kind in kinds
    ]


def _cfg(insertion: Insertion) -> str:
    own: dict[str, Any] = {"type": "NonLocal2d", "mode": insertion.mode}
    own["sub_sample"] = insertion.sub_sample
    if insertion.block == "gc":
        own = {
            "type": "ContextBlock",
            "ratio": insertion.ratio,
            "pooling_type": insertion.pooling,
            "fusion_types": insertion.fusions,
        }
    return f"dict({', '.join(f'{key}={value!r}' for key, value in own.items())})"

"""An architecture as timm builds it: one attention layer before every addition of a ResNet.

Needs no timm.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gcsearch.architecture import Insertion
from gcsearch.backbones import TIMM
from gcsearch.blocks import convert_state_dict
from gcsearch.export.exported_config import ExportedConfig
from gcsearch.export.placing import BASIC, BOTTLENECK, gate_faults, refuse, stages_of
from gcsearch.surgery.host import BLOCK_NAME

__all__ = ["timm_call", "timm_state"]

_CODE = '''\
"""Architecture {id} of gcsearch for timm."""

from functools import partial

import timm
from timm.layers import GlobalContext

WEIGHTS = {weights!r}


def create(weights=WEIGHTS):
    """Return the network; {loading}."""
    model = timm.create_model(
        {name!r},
        num_classes={n_classes},{block_args}
    )
    for module in model.modules():  # timm's layer norm has eps 1e-6, GC as published 1e-5
        if isinstance(module, GlobalContext):
            module.mlp_add.norm.eps = 1e-5
    if weights:
        timm.models.load_checkpoint(model, weights)
    return model
'''
_ATTENTION = """
        block_args=dict(
            attn_layer=partial(
                GlobalContext,
                use_attn={use_attn},
                fuse_add=True,
                fuse_scale=False,
                rd_ratio={ratio!r},
            )
        ),"""


def timm_call(config: ExportedConfig, weights: str | None) -> str:
    """Return Python code that creates the network by timm.

    Args:
        config: Of the architecture.
        weights: Name of the file with the weights in timm's names, if there is one.

    Raises:
        ExportError: timm's grammar cannot say it; the message names what, and where.
    """
    kind = _one_kind(config)
    block_args = ""
    if kind is not None:
        block_args = _ATTENTION.format(use_attn=kind.pooling == "att", ratio=kind.ratio)
    return _CODE.format(
        id=config.architecture.id,
        weights=weights,
        loading="its weights lie beside this file" if weights else "it has fresh weights",
        name=config.architecture.backbone.removeprefix(TIMM),
        n_classes=config.n_classes,
        block_args=block_args,
    )


def timm_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in timm's names."""
    converted = {}
    for key, tensor in state.items():
        host, found, rest = key.partition(f".{BLOCK_NAME}.")
        if not found:
            converted[key] = tensor
            continue
        ((name, own),) = convert_state_dict({rest: tensor}, block="gc", target="timm").items()
        converted[f"{host.rpartition('.')[0]}.se.{name}"] = own
    return converted


def _one_kind(config: ExportedConfig) -> Insertion | None:
    architecture = config.architecture
    name = architecture.backbone.removeprefix(TIMM)
    depths = {**BOTTLENECK, **BASIC}
    if name not in depths:
        refuse("timm", [f"backbone {architecture.backbone}: only {', '.join(depths)} can be said"])
    if not architecture.insertions:
        return None
    is_bottleneck = name in BOTTLENECK
    stages, faults = stages_of(architecture, depths[name], "bn3" if is_bottleneck else "bn2")
    for number, stage in enumerate(stages, 1):
        if stage is None:
            faults.append(f"layer{number}: holds no block, where timm puts it in all stages")
        elif stage.block != "gc":
            faults.append(f"layer{number}: block {stage.block!r} is computed otherwise there")
        elif (planes := _planes(stage.ratio or 0, number, is_bottleneck)) is not None:
            faults.append(f"layer{number}: {planes}")
    kinds = list(dict.fromkeys(stage for stage in stages if stage is not None))
    if len(kinds) > 1:
        faults.append(f"stages differ: {kinds[0]} and {kinds[1]}, where timm has one setting")
    refuse("timm", faults + gate_faults(stages))
    return kinds[0]


def _planes(ratio: float, number: int, is_bottleneck: bool) -> str | None:
    """Say where timm, which rounds, would have another number of planes than published."""
    channels = 2 ** (5 + number) * (4 if is_bottleneck else 1)
    ours, theirs = int(channels * ratio), max(1, int(channels * ratio + 0.5))
    return None if ours == theirs else f"{ours} planes, where timm rounds to {theirs}"

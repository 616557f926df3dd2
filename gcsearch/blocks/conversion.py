"""Translating the weights of one block to and from other projects' names; it builds no block.

The same weights compute the same there, but for two things. Their gates are sigmoids: SE, or GC's
channel_mul, that was trained with ``gate="identity"`` scales by half as much there, which no
weights make good. And timm's layer norm has eps 1e-6 where GC, as published, has 1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from gcsearch.blocks.settings import complete_settings
from gcsearch.errors import BlockError

__all__ = ["convert_state_dict"]

_OURS = "gcsearch"

_LAYERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "gc": (
            "conv_mask",
            *(f"channel_{fusion}_conv.{i}" for fusion in ("add", "mul") for i in (0, 1, 3)),
        ),
        "nl": ("g", "theta", "phi", "concat_project", "conv_out"),
        "se": ("fc1", "fc2"),
        "snl": ("conv_mask", "conv_out"),
    }
)
_NORMS = frozenset({"channel_add_conv.1", "channel_mul_conv.1"})

_TIMM_GC = {"conv_mask": "conv_attn"} | {
    f"channel_{fusion}_conv.{ours}": f"mlp_{theirs}.{layer}"
    for fusion, theirs in (("add", "add"), ("mul", "scale"))
    for ours, layer in ((0, "fc1"), (1, "norm"), (3, "fc2"))
}
_RENAMED: Mapping[tuple[str, str], Mapping[str, str]] = MappingProxyType(
    {
        ("gc", "mmcv"): {},
        ("gc", "timm"): _TIMM_GC,
        ("nl", "mmcv"): {layer: f"{layer}.conv" for layer in _LAYERS["nl"]},
        ("se", "torchvision"): {},
        ("se", "timm"): {},
    }
)
"""What another project calls our layers, where it calls them differently, by block and project."""


def convert_state_dict(
    state: Mapping[str, Tensor],
    *,
    block: str,
    source: str = _OURS,
    target: str = _OURS,
    **settings: Any,
) -> dict[str, Tensor]:
    """Return a block's state dict under the names that another project gives its weights.

    ==========  =====================================================  ====================
    block       project and class                                      names
    ==========  =====================================================  ====================
    ``"gc"``    mmcv ``ContextBlock``                                  the same
    ``"gc"``    timm ``GlobalContext``                                 other names, norms (p,)
    ``"nl"``    mmcv ``NonLocal2d``; ``NonLocal1d``, ``NonLocal3d`` as   other names
                source
    ``"se"``    torchvision ``SqueezeExcitation``, timm ``SEModule``   the same
    ==========  =====================================================  ====================

    Args:
        state: Of the block alone: without the path of the module that holds it.
        block: Name of the block.
        source: Project whose names ``state`` has: ``"gcsearch"``, ``"mmcv"``, ``"timm"`` or
            ``"torchvision"``.
        target: Project whose names are wanted.
        settings: The block's settings. Only NL's ``sub_sample`` changes names, those of mmcv.

    Returns:
        The same tensors, reshaped where the other project's have another shape.

    Raises:
        UnknownNameError: No block has this name.
        BlockError: The project has no such block, the state has a name that the block's has not,
            or a setting is not one of the block.

    Example:
        >>> from gcsearch.blocks import NonLocal
        >>> state = NonLocal(8, mode="gaussian").state_dict()
        >>> sorted(convert_state_dict(state, block="nl", target="mmcv"))
        ['conv_out.conv.bias', 'conv_out.conv.weight', 'g.conv.bias', 'g.conv.weight']
    """
    complete = complete_settings(block, settings)
    is_pooled = complete.get("sub_sample", False)
    ours = {name: layer for layer, name in _names(block, source, is_pooled).items()}
    theirs = _names(block, target, is_pooled)
    if not state:
        raise BlockError(f"state dict of block {block!r} is empty; pass that of the block itself")
    converted = {}
    for key, tensor in state.items():
        name, _, kind = key.rpartition(".")
        if name not in ours or kind not in ("weight", "bias"):
            raise BlockError(_unknown_key(key, block, source, list(ours), is_pooled))
        layer = ours[name]
        converted[f"{theirs[layer]}.{kind}"] = _reshape(tensor, layer, target)
    return converted


def _names(block: str, project: str, is_pooled: bool) -> dict[str, str]:
    """Return the project's name of each of our layers."""
    if project == _OURS:
        return {layer: layer for layer in _LAYERS[block]}
    if (block, project) not in _RENAMED:
        projects = [_OURS, *(p for b, p in _RENAMED if b == block)]
        raise BlockError(
            f"block {block!r} has no counterpart in {project!r}; use {' or '.join(projects)}"
        )
    names = {layer: _RENAMED[block, project].get(layer, layer) for layer in _LAYERS[block]}
    if is_pooled and project == "mmcv":
        # mmcv wraps what it pools in a Sequential of the convolution and the pooling.
        names |= {layer: f"{layer}.0.conv" for layer in ("g", "phi")}
    return names


def _reshape(tensor: Tensor, layer: str, target: str) -> Tensor:
    """Return a tensor in the target's shape; only norms and 1-d or 3-d convolutions change."""
    if layer in _NORMS:
        return tensor.reshape(-1) if target == "timm" else tensor.reshape(-1, 1, 1)
    if tensor.dim() in (3, 5):
        return tensor.reshape(*tensor.shape[:2], 1, 1)
    return tensor


def _unknown_key(key: str, block: str, source: str, known: list[str], is_pooled: bool) -> str:
    swapped = (".0.conv" in key) != is_pooled and block == "nl" and source == "mmcv"
    cure = f"; try sub_sample={not is_pooled}" if swapped else ""
    return f"{key!r} is no weight of block {block!r} in {source}: its layers are {known}{cure}"

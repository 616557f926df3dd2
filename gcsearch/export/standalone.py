"""The blocks and their insertion in plain torch: the source that a snippet is made of.

It is copied from ``class GlobalContext`` on, below a head that names backbone, sites, weights;
so nothing here may need gcsearch. It follows the published formulas, not our fast kernels.
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

BACKBONE = "resnet18"
OPTIONS: dict[str, Any] = {}
SITES: list[tuple[str, int, bool, str, dict[str, Any]]] = []
WEIGHTS: str | None = None


class GlobalContext(nn.Module):
    """GC (arXiv 1904.11492); its gate is 2 * sigmoid, which is 1 where the weights are 0."""

    channel_add_conv: nn.Module
    channel_mul_conv: nn.Module

    def __init__(self, channels, ratio, pooling, fusions):  # type: ignore[no-untyped-def]
        super().__init__()
        planes = int(channels * ratio)
        self.conv_mask = nn.Conv2d(channels, 1, 1) if pooling == "att" else None
        for fusion in fusions:
            branch = nn.Sequential(
                nn.Conv2d(channels, planes, 1),
                nn.LayerNorm([planes, 1, 1]),
                nn.ReLU(),
                nn.Conv2d(planes, channels, 1),
            )
            self.add_module(f"{fusion}_conv", branch)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with its context fused in."""
        context = _pool(x, self.conv_mask)
        if hasattr(self, "channel_mul_conv"):
            scale = 2 * torch.sigmoid(self.channel_mul_conv(context))
            out = x * scale.reshape(*x.shape[:2], *[1] * (x.dim() - 2))
        else:
            out = x
        if hasattr(self, "channel_add_conv"):
            term = self.channel_add_conv(context)
            out = out + term.reshape(*x.shape[:2], *[1] * (x.dim() - 2))
        return out


class SqueezeExcitation(nn.Module):
    """SE (arXiv 1709.01507); its gate is 2 * sigmoid, which is 1 where the weights are 0."""

    def __init__(self, channels, ratio):  # type: ignore[no-untyped-def]
        super().__init__()
        planes = int(channels * ratio)
        self.fc1 = nn.Conv2d(channels, planes, 1)
        self.fc2 = nn.Conv2d(planes, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with its channels scaled."""
        scale = 2 * torch.sigmoid(self.fc2(F.relu(self.fc1(_pool(x, None)))))
        return x * scale.reshape(*x.shape[:2], *[1] * (x.dim() - 2))


class SimplifiedNonLocal(nn.Module):
    """SNL (arXiv 1904.11492, section 3.2)."""

    def __init__(self, channels):  # type: ignore[no-untyped-def]
        super().__init__()
        self.conv_mask = nn.Conv2d(channels, 1, 1)
        self.conv_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with its context added."""
        term: Tensor = self.conv_out(_pool(x, self.conv_mask))
        return x + term.reshape(*x.shape[:2], *[1] * (x.dim() - 2))


class NonLocal(nn.Module):
    """NL (arXiv 1711.07971)."""

    def __init__(self, channels, mode, sub_sample):  # type: ignore[no-untyped-def]
        super().__init__()
        inter = max(channels // 2, 1)
        self.mode, self.sub_sample, self.inter = mode, sub_sample, inter
        self.g = nn.Conv2d(channels, inter, 1)
        if mode != "gaussian":
            self.theta = nn.Conv2d(channels, inter, 1)
            self.phi = nn.Conv2d(channels, inter, 1)
        if mode == "concatenation":
            self.concat_project = nn.Conv2d(2 * inter, 1, 1, bias=False)
        self.conv_out = nn.Conv2d(inter, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with what each position attends to added."""
        flat = x if x.dim() == 4 else x.flatten(2).unsqueeze(3)
        theta = flat if self.mode == "gaussian" else self.theta(flat)
        phi = flat if self.mode == "gaussian" else self.phi(flat)
        values = self._keys(self.g(flat))
        y = self._weights(theta.flatten(2).transpose(1, 2), self._keys(phi)) @ values
        term: Tensor = self.conv_out(y.transpose(1, 2).unsqueeze(3))
        return x + term.reshape(x.shape)

    def _keys(self, features: Tensor) -> Tensor:
        kept = F.max_pool2d(features, 2) if self.sub_sample else features
        return kept.flatten(2).transpose(1, 2)

    def _weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        if self.mode == "concatenation":
            of_queries, of_keys = self.concat_project.weight.flatten(1).chunk(2, 1)
            pairs = F.linear(queries, of_queries) + F.linear(keys, of_keys).transpose(1, 2)
            return F.relu(pairs) / keys.shape[1]
        products = queries @ keys.transpose(1, 2)
        if self.mode == "dot_product":
            return products / keys.shape[1]
        if self.mode == "embedded_gaussian":
            products = products / self.inter**0.5
        return products.softmax(2)


def _pool(x: Tensor, conv_mask: nn.Module | None) -> Tensor:
    """Return the mean over all positions, weighted by attention if there is a mask."""
    flat = x.flatten(2).unsqueeze(3)
    if conv_mask is None:
        return flat.mean(2, keepdim=True)
    mask: Tensor = conv_mask(flat).softmax(2)
    return (flat * mask).sum(2, keepdim=True)


BLOCKS = {
    "gc": GlobalContext,
    "nl": NonLocal,
    "se": SqueezeExcitation,
    "snl": SimplifiedNonLocal,
}


def attach(host: nn.Module, block: nn.Module, channels_last: bool) -> None:
    """Make a module return what the block makes of its output; no weight changes its name."""
    base: Any = type(host)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = base.forward(self, *args, **kwargs)
        if channels_last:
            return self.gcsearch_block(out.movedim(-1, 1)).movedim(1, -1)
        return self.gcsearch_block(out)

    def visible(self: Any) -> dict[str, nn.Module]:
        return {k: v for k, v in self._modules.items() if k != "gcsearch_block"}

    namespace: dict[str, Any] = {"forward": forward}
    if isinstance(host, (nn.Sequential, nn.ModuleDict)):  # They run or count their children.
        is_mapping = isinstance(host, nn.ModuleDict)
        namespace |= {
            "__len__": lambda self: len(visible(self)),
            "__iter__": lambda self: iter(visible(self) if is_mapping else visible(self).values()),
            "items": lambda self: visible(self).items(),
            "values": lambda self: visible(self).values(),
        }
    host.add_module("gcsearch_block", block)
    host.__class__ = type(base.__name__, (base,), namespace)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read tensors from .safetensors, or from .pt and .pth without running their code."""
    if Path(path).suffix != ".safetensors":
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    data = bytearray(Path(path).read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    types = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16}
    types |= {"BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32, "BOOL": torch.bool}
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        raw = data[8 + length + begin : 8 + length + end]
        dtype, shape = types[entry["dtype"]], entry["shape"]
        tensors[name] = torch.frombuffer(raw, dtype=dtype).reshape(shape)
    return tensors


def build(weights: str | Path | None = None) -> nn.Module:
    """Return the network in eval mode; by default with the weights beside this file, if any."""
    model: nn.Module = torchvision.models.get_model(BACKBONE, weights=None, **OPTIONS)
    for path, channels, channels_last, name, settings in SITES:
        attach(model.get_submodule(path), BLOCKS[name](channels, **settings), channels_last)
    if weights is None and WEIGHTS:
        weights = Path(__file__).parent / WEIGHTS
    if weights is not None:
        model.load_state_dict(read_weights(weights))
    return model.eval()

"""The global-context block: its maths and its initialisation; it knows no backbone and no site."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gcsearch.errors import BlockError

__all__ = ["FUSIONS", "GATES", "POOLINGS", "GlobalContext"]

POOLINGS = ("att", "avg")
"""Attention-weighted mean over positions, or the plain mean."""

FUSIONS = ("channel_add", "channel_mul")
"""Add a vector to every position, or scale every position by one."""

GATES = ("sigmoid", "identity")
"""``sigmoid(z)``, as published, or ``2 * sigmoid(z)``, which is 1 at initialisation."""


class GlobalContext(nn.Module):
    """The GC block of GCNet (Cao et al., arXiv 1904.11492).

    One context vector for the whole image is pooled from all positions, transformed by a
    bottleneck of ``planes = int(channels * ratio)`` channels, and fused into every position::

        mask    = softmax over H*W of (w . x + b)                "att"; 1 / (H*W) for "avg"
        context = sum over H*W of mask * x                       (N, C, 1, 1)
        f(c)    = conv1x1(relu(layer_norm(conv1x1(c))))          C -> planes -> C
        out     = x * gate(f_mul(context)) + f_add(context)      the terms that `fusions` names

    **Init.** ``conv_mask`` is Kaiming normal (fan in) with zero bias; the last convolution of each
    branch is zero. So ``channel_add`` starts as the identity. ``channel_mul`` with the published
    ``gate="sigmoid"`` halves the features at first; with ``gate="identity"`` the output of a new
    block equals its input bit for bit in any float type, because sigmoid(0) is exactly 0.5 (unless
    x holds a NaN, or is so large that its context overflows). Initialise or load the network
    around it before the block is inserted: code that re-initialises every convolution spoils this.

    **Cost.** Parameters: ``C + 1`` for attention, ``2*C*p + 3*p + C`` for each fusion with p
    planes. MACs: ``2*C*H*W`` for attention, ``C*H*W`` for ``channel_mul``, ``2*C*p`` for each
    fusion. What is felt is memory traffic: x is read two to four times and written once or twice.

    **Names** in the state dict are those of the authors' ``ContextBlock2d`` (``conv_mask``,
    ``channel_add_conv.{0,1,3}``, ``channel_mul_conv.{0,1,3}``), whose checkpoints load with
    ``gate="sigmoid"``. The two gates differ by the factor 2, which no weights of the block itself
    make good: what was trained with one gives other features with the other, and only a linear
    layer right after the block could absorb the factor.

    **Deviations** from the published code, none of which changes results beyond rounding: the
    attention logits and the weighted sum are matrix products that need no copy of x in either
    memory format (``conv_mask`` holds the weights, but is not itself called); the terms are cast
    to the type of x, which is returned also under autocast; planes below 2 are refused.

    Args:
        channels: Channels of the input, C.
        ratio: Bottleneck planes over channels, in (0, 1].
        pooling: One of :data:`POOLINGS`.
        fusions: One or more of :data:`FUSIONS`.
        gate: One of :data:`GATES`; acts on ``channel_mul`` only.

    Raises:
        BlockError: A setting is not among the allowed, or leaves fewer than 2 planes.

    Example:
        >>> block = GlobalContext(32, ratio=1 / 4)
        >>> x = torch.randn(2, 32, 7, 5)
        >>> torch.equal(block(x), x)
        True
        >>> block.context_mask(x).shape
        torch.Size([2, 1, 7, 5])
    """

    def __init__(
        self,
        channels: int,
        *,
        ratio: float = 1 / 16,
        pooling: str = "att",
        fusions: Sequence[str] = ("channel_add",),
        gate: str = "sigmoid",
    ) -> None:
        super().__init__()
        _require(pooling, POOLINGS, "pooling")
        _require(gate, GATES, "gate")
        self.channels = channels
        self.planes = _bottleneck_planes(channels, ratio)
        self.pooling = pooling
        self.fusions = _canonical_fusions(fusions)
        self.gate = gate
        self.conv_mask = nn.Conv2d(channels, 1, 1) if pooling == "att" else None
        self.channel_add_conv = self._branch("channel_add")
        self.channel_mul_conv = self._branch("channel_mul")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published; the branches keep torch's defaults but for their last layer."""
        if self.conv_mask is not None:
            nn.init.kaiming_normal_(self.conv_mask.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(self.conv_mask.get_parameter("bias"))
        for branch in (self.channel_add_conv, self.channel_mul_conv):
            if branch is not None:
                nn.init.zeros_(branch.get_parameter("3.weight"))
                nn.init.zeros_(branch.get_parameter("3.bias"))

    def context_mask(self, x: Tensor) -> Tensor:
        """Return the weight of each position in the context, (N, 1, H, W); it sums to 1."""
        n, _, height, width = x.shape
        if self.conv_mask is None:
            return x.new_full((n, 1, height, width), 1 / (height * width))
        return _attention(self.conv_mask, x.flatten(2)).reshape(n, 1, height, width)

    def spatial_pool(self, x: Tensor) -> Tensor:
        """Return the context, (N, C, 1, 1)."""
        if self.conv_mask is None:
            return x.mean((2, 3), keepdim=True)
        positions = x.flatten(2)
        context = torch.matmul(_attention(self.conv_mask, positions), positions.transpose(1, 2))
        return context.transpose(1, 2).unsqueeze(3)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with its global context fused in; same shape, type and memory format."""
        context = self.spatial_pool(x)
        out = x
        if self.channel_mul_conv is not None:
            scale = torch.sigmoid(self.channel_mul_conv(context))
            out = x * (2 * scale if self.gate == "identity" else scale).to(x.dtype)
        if self.channel_add_conv is not None:
            # x - (0 - t) is x + t, but keeps the sign of a zero in x when t is zero.
            out = out - (0.0 - self.channel_add_conv(context)).to(x.dtype)
        return out

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        fusions = "+".join(self.fusions)
        return (
            f"{self.channels}, planes={self.planes}, {self.pooling}, {fusions}, gate={self.gate}"
        )

    def _branch(self, fusion: str) -> nn.Sequential | None:
        if fusion not in self.fusions:
            return None
        return nn.Sequential(
            nn.Conv2d(self.channels, self.planes, 1),
            nn.LayerNorm([self.planes, 1, 1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(self.planes, self.channels, 1),
        )


def _attention(conv_mask: nn.Conv2d, positions: Tensor) -> Tensor:
    """Return the mask over flattened positions: (N, C, H*W) -> (N, 1, H*W)."""
    logits = torch.matmul(conv_mask.weight.flatten(1), positions) + conv_mask.bias  # type: ignore[operator]
    return logits.softmax(2).to(positions.dtype)


def _require(value: str, allowed: Sequence[str], kind: str) -> None:
    if value not in allowed:
        raise BlockError(f"{kind} {value!r} is unknown; use one of {', '.join(allowed)}")


def _canonical_fusions(fusions: Sequence[str]) -> tuple[str, ...]:
    if isinstance(fusions, str) or not fusions:
        raise BlockError(f"fusions {fusions!r} is no list of names; use one or more of {FUSIONS}")
    for fusion in fusions:
        _require(fusion, FUSIONS, "fusion")
    return tuple(fusion for fusion in FUSIONS if fusion in fusions)


def _bottleneck_planes(channels: int, ratio: float) -> int:
    """Return the planes; LayerNorm over a single one is constant: nothing could be learnt."""
    if channels < 2:
        raise BlockError(f"channels = {channels} is too few for a bottleneck; it needs at least 2")
    if not 0 < ratio <= 1:
        raise BlockError(f"ratio {ratio!r} is outside (0, 1]; GCNet uses 1/4 to 1/32")
    planes = int(channels * ratio)
    if planes < 2:
        raise BlockError(
            f"ratio {ratio:.4g} of {channels} channels leaves planes = {planes}; "
            f"layer norm needs at least 2: use a ratio of {_smallest_ratio(channels):g} or more"
        )
    return planes


def _smallest_ratio(channels: int) -> float:
    return math.ceil(2 / channels * 10**5) / 10**5

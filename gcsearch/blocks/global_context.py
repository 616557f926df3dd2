"""The global-context block: its maths and its initialisation; it knows no backbone and no site."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gcsearch.blocks.layers import Bottleneck, weights_of
from gcsearch.blocks.pooling import attention_mask, attention_pool, fuse, mean_pool
from gcsearch.blocks.settings import (
    FUSIONS,
    GATES,
    POOLINGS,
    bottleneck_planes,
    complete_settings,
    require_choice,
)

__all__ = ["FUSIONS", "GATES", "POOLINGS", "GlobalContext"]

# Symbolic tracing takes these as they are: they choose by the layout of real tensors.
for _name in ("attention_pool", "fuse", "mean_pool"):
    torch.fx.wrap(_name)


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
        require_choice(gate, GATES, "gate")
        given = {"ratio": ratio, "pooling": pooling, "fusions": fusions}
        self.fusions: tuple[str, ...] = complete_settings("gc", given)["fusions"]
        self.channels = channels
        self.planes = bottleneck_planes("gc", channels, ratio)
        self.pooling = pooling
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
        """Return the weight of each position in the context, (N, 1, *positions); sums to 1."""
        if self.conv_mask is None:
            return torch.full_like(x[:, :1], 1 / x[0, 0].numel())
        return attention_mask(x, *weights_of(self.conv_mask))

    def spatial_pool(self, x: Tensor) -> Tensor:
        """Return the context, (N, C, 1, 1): with as many ones as x has axes of positions."""
        return self._context(x).reshape(*x.shape[:2], *[1] * (x.dim() - 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with its global context fused in; same shape, type and memory format."""
        context = self._context(x)
        scale = term = None
        if (branch := self.channel_mul_conv) is not None:
            scale = torch.sigmoid(branch(context))
            scale = 2 * scale if self.gate == "identity" else scale
        if (branch := self.channel_add_conv) is not None:
            term = branch(context)
        return fuse(x, scale, term)

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        fusions = "+".join(self.fusions)
        return (
            f"{self.channels}, planes={self.planes}, {self.pooling}, {fusions}, gate={self.gate}"
        )

    def _context(self, x: Tensor) -> Tensor:
        mask = self.conv_mask
        return mean_pool(x) if mask is None else attention_pool(x, *weights_of(mask))

    def _branch(self, fusion: str) -> Bottleneck | None:
        return Bottleneck(self.channels, self.planes) if fusion in self.fusions else None

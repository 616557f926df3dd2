"""The simplified non-local block: its maths and its initialisation; it knows no backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gcsearch.blocks.layers import linear, weights_of
from gcsearch.blocks.pooling import attention_mask, attention_pool, fuse
from gcsearch.blocks.settings import require_channels

__all__ = ["SimplifiedNonLocal"]

# Symbolic tracing takes these as they are: they choose by the layout of real tensors.
for _name in ("attention_pool", "fuse"):
    torch.fx.wrap(_name)


class SimplifiedNonLocal(nn.Module):
    """The SNL block of GCNet (Cao et al., arXiv 1904.11492, section 3.2).

    A non-local block whose attention is the same for all queries: one context vector is pooled
    from all positions, transformed by one full matrix, and added to every position::

        mask    = softmax over positions of (w . x + b)          (N, 1, *positions)
        context = sum over positions of mask * x                 (N, C)
        out     = x + conv1x1(context)                           C -> C

    GC puts a bottleneck where this block has its ``C * C`` matrix.

    **Init.** ``conv_mask`` is Kaiming normal (fan in) with zero bias, as in GC; ``conv_out`` is
    zero, so the output of a new block equals its input bit for bit (unless x holds a NaN or an
    infinity). Code that re-initialises every convolution afterwards spoils this.

    **Cost** with L positions. Parameters: ``C + 1`` for attention, ``C*C + C`` for the output.
    MACs: ``2*C*L + C*C``. What is felt is memory traffic: x is read three times, written once.

    **Names** in the state dict are ours, as no published code has the block: ``conv_mask`` as in
    GC, ``conv_out`` as in NL.

    **Deviations.** The matrix is applied to the pooled vector, as the paper ends up doing, not to
    every position before pooling; the result is the same, as the weights sum to 1. Both
    convolutions have biases, which the equations leave out: that of ``conv_mask`` shifts all
    logits alike and so changes nothing. The term is cast to the type of x, which is returned also
    under autocast.

    Args:
        channels: Channels of the input, C.

    Raises:
        BlockError: There are no channels.

    Example:
        >>> block = SimplifiedNonLocal(32)
        >>> x = torch.randn(2, 32, 7, 5)
        >>> torch.equal(block(x), x)
        True
        >>> block.context_mask(x).shape
        torch.Size([2, 1, 7, 5])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_channels("snl", channels)
        self.channels = channels
        self.conv_mask = nn.Conv2d(channels, 1, 1)
        self.conv_out = nn.Conv2d(channels, channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the attention as GC does, and the output to zero."""
        nn.init.kaiming_normal_(self.conv_mask.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(self.conv_mask.get_parameter("bias"))
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.get_parameter("bias"))

    def context_mask(self, x: Tensor) -> Tensor:
        """Return the weight of each position in the context, (N, 1, *positions); it sums to 1."""
        return attention_mask(x, *weights_of(self.conv_mask))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with its context added; same shape, type and memory format."""
        context = attention_pool(x, *weights_of(self.conv_mask))
        return fuse(x, scale=None, term=linear(context, *weights_of(self.conv_out)))

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{self.channels}"

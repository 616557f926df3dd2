"""The squeeze-and-excitation block: its maths and its initialisation; it knows no backbone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcsearch.blocks.layers import linear, weights_of
from gcsearch.blocks.pooling import fuse, mean_pool
from gcsearch.blocks.settings import GATES, bottleneck_planes, require_choice

__all__ = ["SqueezeExcitation"]

# Symbolic tracing takes these as they are: they choose by the layout of real tensors.
for _name in ("fuse", "mean_pool"):
    torch.fx.wrap(_name)


class SqueezeExcitation(nn.Module):
    """The SE block (Hu et al., arXiv 1709.01507, equations 2 to 4).

    Every channel is scaled by a gate that is computed from the means of all channels, through a
    bottleneck of ``planes = int(channels * ratio)`` channels::

        mean = average over positions of x                       (N, C)
        z    = conv1x1(relu(conv1x1(mean)))                      C -> planes -> C
        out  = x * gate(z)

    **Init.** Torch's defaults; with ``gate="identity"`` the last convolution is zero, and the
    output of a new block equals its input bit for bit in any float type, because sigmoid(0) is
    exactly 0.5 (unless x holds a NaN or an infinity). The published gate starts at about a half.

    **Cost** with p planes and L positions. Parameters: ``2*C*p + p + C``. MACs: ``2*C*p + C*L``.
    What is felt is memory traffic: x is read twice and written once.

    **Names** in the state dict, ``fc1`` and ``fc2``, are those of
    ``torchvision.ops.SqueezeExcitation`` and timm's ``SEModule``, whose weights load with
    ``gate="sigmoid"``. The two gates differ by the factor 2, which no weights of the block itself
    make good.

    **Deviations.** The paper's equations have no biases; torchvision, timm and this block do. Else
    none changes results beyond rounding: the convolutions of the means are matrix products, so
    that features may have any number of position axes, and the gate is cast to the type of x,
    which is returned also under autocast.

    Args:
        channels: Channels of the input, C.
        ratio: Bottleneck planes over channels, in (0, 1]: one over the paper's r.
        gate: One of ``GATES``.

    Raises:
        BlockError: A setting is not among the allowed, or leaves no plane.

    Example:
        >>> block = SqueezeExcitation(32, ratio=1 / 4, gate="identity")
        >>> x = torch.randn(2, 32, 7, 5)
        >>> torch.equal(block(x), x)
        True
    """

    def __init__(self, channels: int, *, ratio: float = 1 / 16, gate: str = "sigmoid") -> None:
        super().__init__()
        require_choice(gate, GATES, "gate")
        self.channels = channels
        self.planes = bottleneck_planes("se", channels, ratio)
        self.gate = gate
        self.fc1 = nn.Conv2d(channels, self.planes, 1)
        self.fc2 = nn.Conv2d(self.planes, channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise by torch's defaults, but for the last layer under the identity gate."""
        self.fc1.reset_parameters()
        self.fc2.reset_parameters()
        if self.gate == "identity":
            nn.init.zeros_(self.fc2.weight)
            nn.init.zeros_(self.fc2.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with its channels scaled; same shape, type and memory format."""
        hidden = F.relu(linear(mean_pool(x), *weights_of(self.fc1)))
        scale = torch.sigmoid(linear(hidden, *weights_of(self.fc2)))
        return fuse(x, scale=2 * scale if self.gate == "identity" else scale, term=None)

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{self.channels}, planes={self.planes}, gate={self.gate}"

"""The small layers between pooling and fusing, on vectors (N, C); knows no features, no block.

At the sizes of late stages a block costs what it takes to call some twenty operations, and asking
an `nn.Module` for a parameter costs as much as an operation. So weights are read from where the
module keeps them, and handed as they are to functions that symbolic tracing takes as leaves.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Bottleneck", "bottleneck", "linear", "weights_of"]


def weights_of(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a layer; `layer.weight` alone costs microseconds.

    Example:
        >>> [tuple(weight.shape) for weight in weights_of(nn.Conv2d(8, 2, 1))]
        [(2, 8, 1, 1), (2,)]
    """
    own = layer._parameters
    if "weight" in own and "bias" in own:
        return cast(tuple[Tensor, Tensor], (own["weight"], own["bias"]))
    return cast(Tensor, layer.weight), cast(Tensor, layer.bias)  # e.g. parametrised


def linear(vectors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return a 1x1 convolution of vectors: (N, in), (out, in, 1, 1), (out,) -> (N, out)."""
    return F.linear(vectors, weight.flatten(1), bias)


def bottleneck(
    vectors: Tensor,
    squeeze: tuple[Tensor, Tensor],
    norm: tuple[Tensor, Tensor],
    excite: tuple[Tensor, Tensor],
    eps: float,
) -> Tensor:
    """Return GC's transform: a 1x1 convolution, a layer norm, a ReLU, a 1x1 convolution.

    Args:
        vectors: (N, C).
        squeeze: Weight and bias of a convolution, C -> planes.
        norm: Scale and shift, (planes, 1, 1) each.
        excite: Weight and bias of a convolution, planes -> C.
        eps: Of the norm.
    """
    hidden = linear(vectors, *squeeze)
    scale, shift = norm
    hidden = torch.layer_norm(hidden, hidden.shape[1:], scale.flatten(), shift.flatten(), eps)
    return linear(F.relu(hidden), *excite)


# Symbolic tracing takes these as they are, with the parameters that they are given.
for _name in ("bottleneck", "linear"):
    torch.fx.wrap(_name)

_Layers = tuple[nn.Conv2d, nn.LayerNorm, nn.ReLU, nn.Conv2d]


class Bottleneck(nn.Sequential):
    """GC's transform as published, a sequence of layers that is computed by :func:`bottleneck`."""

    def __init__(self, channels: int, planes: int) -> None:
        super().__init__(
            nn.Conv2d(channels, planes, 1),
            nn.LayerNorm([planes, 1, 1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(planes, channels, 1),
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the transformed vectors, (N, C)."""
        squeeze, norm, _, excite = cast(_Layers, self._modules.values())
        weights = weights_of(squeeze), weights_of(norm), weights_of(excite)
        return bottleneck(vectors, *weights, norm.eps)

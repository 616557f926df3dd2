"""One vector out of all positions of the features, and vectors back into all of them, fast.

Knows the layout of features and what is quick on it, but no block and no bottleneck.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.jit import is_tracing  # type: ignore[attr-defined]

__all__ = ["attention_mask", "attention_pool", "fuse", "mean_pool"]

_PARTS = 4
"""Into how many products a single sample is cut, as a matrix-vector product uses one thread."""

_LARGE = 2**18
"""From how many features on it is cut."""

_CACHED = 2**19
"""How many features of a 16-bit type are widened at a time, to stay in the cache."""


def attention_mask(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the softmax over all positions of ``weight . x + bias``.

    Args:
        x: Features, (N, C, *positions).
        weight: Of a 1x1 convolution to one channel, (1, C, 1, 1).
        bias: Of the same, (1,).

    Returns:
        The weight of each position, (N, 1, *positions); it sums to 1.

    Example:
        >>> attention_mask(torch.ones(1, 8, 2, 2), torch.ones(1, 8, 1, 1), torch.zeros(1))
        tensor([[[[0.2500, 0.2500],
                  [0.2500, 0.2500]]]])
    """
    mask = _attention(x.flatten(2), weight.flatten(1), bias)
    return mask.reshape(x.shape[0], 1, *x.shape[2:])


def attention_pool(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the mean over all positions weighted by :func:`attention_mask`, (N, C).

    The bias shifts all logits alike, which a softmax does not see: its gradient is zero. What is
    compiled or exported is made of plain products; so is all that is not on a processor.

    Example:
        >>> attention_pool(torch.ones(2, 8, 4, 4), torch.ones(1, 8, 1, 1), torch.zeros(1)).shape
        torch.Size([2, 8])
    """
    if _is_recorded():
        positions = x.flatten(2)
        mask = _attention(positions, weight.flatten(1), bias)
        return torch.bmm(mask, positions.transpose(1, 2)).squeeze(1)
    device = "cpu" if x.is_cpu else x.device.type
    if torch.is_autocast_enabled(device):  # It would copy x before each product.
        with torch.autocast(device, enabled=False):
            return _differentiable_pool(x, weight, bias)
    return _differentiable_pool(x, weight, bias)


def mean_pool(x: Tensor) -> Tensor:
    """Return the plain mean over all positions, (N, C)."""
    positions = x.flatten(2)
    if _is_recorded() or not x.is_cpu or x.dtype == torch.float16:
        return positions.mean(2)
    # The gradient of a sum is a view, that of a mean a tensor as large as x in one fixed layout.
    return positions.sum(2) / positions.shape[2]


def fuse(x: Tensor, scale: Tensor | None, term: Tensor | None) -> Tensor:
    """Return ``x * scale + term``, where either may be missing, in the memory format of ``x``.

    A scale of 1 and a term of 0 change no bit: ``x + 0`` would turn -0 into +0, ``x - (0 - 0)``
    does not.

    Args:
        x: Features, (N, C, *positions).
        scale: What each sample's channels are scaled by, (N, C).
        term: What is added to them, (N, C).

    Example:
        >>> fuse(torch.ones(1, 2, 3), torch.tensor([[2.0, 3.0]]), torch.tensor([[0.0, 1.0]]))
        tensor([[[2., 2., 2.],
                 [4., 4., 4.]]])
    """
    if term is None:
        return x if scale is None else x * _spread(scale, x)
    opposite = _spread(0.0 - term, x)
    if scale is None:
        return x - opposite
    if x.stride(1) == 1:  # One pass; it is a slow one where both vectors have a stride of 0.
        return torch.addcmul(-opposite, x, _spread(scale, x))
    return (x * _spread(scale, x)).sub_(opposite)


class _AttentionPool(torch.autograd.Function):
    """Attention pooling whose backward pass keeps nothing but x and the weight w.

    With the mask a, the context c = sum of a_l x_l, and its gradient g::

        d logits_l = a_l (g . x_l - g . c)
        d x_l      = a_l g + d logits_l w
        d w        = sum of d logits_l x_l

    Derived by torch from the products, each term of d x would be a tensor of its own. All is made
    of differentiable operations, so that it can be differentiated again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _pool(x.flatten(2), weight.flatten(1))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            of_x, of_weight = _gradients(x.flatten(2), weight.flatten(1), grads[0])
        return of_x.reshape(x.shape), of_weight.view_as(weight), torch.zeros_like(bias)


def _is_recorded() -> bool:
    """Whether operations are recorded for another runtime, and sizes may stand for any size."""
    return torch.compiler.is_compiling() or bool(is_tracing())  # type: ignore[no-untyped-call]


def _spread(vectors: Tensor, x: Tensor) -> Tensor:
    """Return vectors (N, C) in the type of x, with axes to broadcast over its positions."""
    if vectors.dtype != x.dtype:
        vectors = vectors.to(x.dtype)
    return vectors.view(*vectors.shape, *(1,) * (x.dim() - 2))


def _attention(positions: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the mask over flattened positions: (N, C, L), (1, C), (1,) -> (N, 1, L)."""
    weight = weight.to(positions.dtype).expand(positions.shape[0], 1, -1)
    logits = torch.bmm(weight, positions) + bias
    return logits.softmax(2).to(positions.dtype)


def _differentiable_pool(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or bias.requires_grad):
        pooled: Tensor = _AttentionPool.apply(x, weight, bias)
        return pooled
    return _pool(x.flatten(2), weight.flatten(1))


def _pool(x: Tensor, weight: Tensor) -> Tensor:
    """Return the context by the products found fastest: (N, C, L), (1, C) -> (N, C)."""
    wide = _widened(x)
    if x.dtype != wide:
        pieces = [_pool(piece.to(wide), weight) for piece in _split(x, x, wide)]
        return torch.cat(pieces).to(x.dtype)
    if weight.dtype != wide:
        weight = weight.to(wide)
    if x.stride(1) == 1 and x.shape[0] >= torch.get_num_threads():
        return _attend(x.transpose(1, 2), weight)
    if x.shape[0] == 1 and x.numel() >= _LARGE and x.is_cpu and torch.get_num_threads() > 1:
        return _pool_one(x[0], weight)
    mask = torch.bmm(weight.expand(x.shape[0], 1, -1), x).softmax(2)
    return torch.bmm(mask, x.transpose(1, 2)).squeeze(1)


def _attend(positions: Tensor, weight: Tensor) -> Tensor:
    """Return the context as attention of one query, (N, L, C), (1, C) -> (N, C).

    Reads x once, where the products read it twice, but each sample by one thread, and copies what
    is not channels-last.
    """
    query = weight.expand(positions.shape[0], 1, 1, -1)
    keys = positions.unsqueeze(1)
    return F.scaled_dot_product_attention(query, keys, keys, scale=1.0).flatten(1)


def _pool_one(x: Tensor, weight: Tensor) -> Tensor:
    """Return the context of one sample, cut along its outer axis: (C, L), (1, C) -> (1, C)."""
    channels, length = x.shape
    if x.stride(0) == 1:
        n = math.gcd(length, _PARTS)
        parts = x.t().view(n, length // n, channels)
        logits = torch.bmm(weight.expand(n, 1, channels), parts.transpose(1, 2))
        mask = logits.view(1, length).softmax(1).view(n, 1, length // n)
        return torch.bmm(mask, parts).sum(0)
    n = math.gcd(channels, _PARTS)
    parts = x.reshape(n, channels // n, length)
    mask = torch.bmm(weight.view(n, 1, -1), parts).sum(0, keepdim=True).softmax(2)
    return torch.bmm(mask.expand(n, 1, length), parts.transpose(1, 2)).view(1, channels)


def _gradients(x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of the weight."""
    wide = _widened(x)
    pieces = zip(_split(x, x, wide), _split(grad, x, wide), strict=True)
    sums = [_sums(piece.to(wide), weight.to(wide), g.to(wide)) for piece, g in pieces]
    mask, of_logits, of_weight = map(torch.cat, zip(*sums, strict=True))
    of_weight = of_weight.sum(0, keepdim=True).to(weight.dtype)
    mask, of_logits, weight = mask.to(x.dtype), of_logits.to(x.dtype), weight.to(x.dtype)
    if x.stride(1) == 1:
        return _rank_two(mask, grad, of_logits, weight).transpose(1, 2), of_weight
    return _rank_two(grad, mask, weight, of_logits), of_weight


def _sums(x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mask (N, L), the gradient of the logits (N, L), that of the weight (N, C)."""
    rows = torch.stack([weight.expand_as(grad), grad], 1)
    logits, along = torch.bmm(rows, x).unbind(1)
    mask = logits.softmax(1)
    of_logits = mask * (along - (mask * along).sum(1, keepdim=True))
    return mask, of_logits, torch.bmm(of_logits.unsqueeze(1), x.transpose(1, 2)).squeeze(1)


def _rank_two(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Return ``a b^T + c d^T`` of each sample; a matrix product is slow at so small a rank."""
    product, c, d = a.unsqueeze(2) * b.unsqueeze(1), c.unsqueeze(2), d.unsqueeze(1)
    if torch.is_grad_enabled():  # Differentiated again, or mapped over samples.
        return torch.addcmul(product, c, d)
    return product.addcmul_(c, d)


def _widened(x: Tensor) -> torch.dtype:
    """Return the type of products with x; 16-bit ones with vectors are slow on a processor."""
    return torch.promote_types(x.dtype, torch.float32) if x.is_cpu else x.dtype


def _split(tensor: Tensor, x: Tensor, wide: torch.dtype) -> tuple[Tensor, ...]:
    """Return the samples in pieces of which those of ``x`` fit the cache once they are widened."""
    if x.dtype == wide:
        return (tensor,)
    return torch.split(tensor, max(1, _CACHED // max(1, x[:1].numel())))

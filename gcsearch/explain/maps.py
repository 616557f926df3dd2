"""What the blocks in a model attend to, as values, and measures of it; it draws nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcsearch.explain.grids import spread_queries
from gcsearch.surgery import inserted_blocks

__all__ = [
    "AttentionMap",
    "attention_maps",
    "entropy_ratio",
    "mean_cosine_distance",
    "why_no_map",
]

TOLERANCE = 1e-2
"""By how much the weights of half-precision models may miss a sum of 1."""


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """The weights that one inserted block gives to the positions of its input.

    Args:
        path: Path of the block's site.
        block: Class of the block.
        weights: ``(N, Q, *keys)`` in float32 on the CPU: for each picture and each query, the
            weight of every position that is read.
        positions: Sizes of the position axes of the block's input; ``keys`` are the same, or
            smaller where the block subsamples what it reads.
        queries: ``(Q,)`` indices into the flattened positions whose maps these are; None for
            blocks that have one map for all positions, with Q = 1.
    """

    path: str
    block: str
    weights: Tensor
    positions: tuple[int, ...]
    queries: Tensor | None = None

    @property
    def size(self) -> str:
        """The positions as people say them, e.g. ``"14x14"`` or ``"197 tokens"``."""
        sizes = "x".join(map(str, self.positions))
        return sizes if len(self.positions) > 1 else f"{sizes} tokens"

    @property
    def is_distribution(self) -> bool:
        """Whether the weights of each map are shares of a whole: none negative, with sum 1."""
        sums = self.weights.flatten(2).sum(2)
        return bool((self.weights >= 0).all() and ((sums - 1).abs() <= TOLERANCE).all())


@runtime_checkable
class _HasOneMap(Protocol):
    """A block that weighs positions alike for all queries, as GC and SNL do."""

    def context_mask(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class _HasMapPerQuery(Protocol):
    """A block that weighs positions anew for each query, as NL does."""

    def attention(self, x: Tensor, queries: Tensor) -> Tensor: ...


def attention_maps(
    model: nn.Module,
    images: Tensor,
    pick_queries: Callable[[Sequence[int]], Tensor] = spread_queries,
) -> list[AttentionMap]:
    """Run a model on pictures and return what its inserted blocks attend to, in running order.

    Blocks that weigh all positions alike have no map and are left out, see :func:`why_no_map`.
    The model runs once, in evaluation mode and without gradients, and is left as it was.

    Args:
        model: A model with blocks, e.g. from ``gcsearch.build``.
        images: What it takes, ``(N, 3, H, W)``, normalised and on its device.
        pick_queries: From the sizes of the position axes to flat indices of positions; asked for
            blocks that have one map for each position. By default the centre and three corners.

    Raises:
        SurgeryError: A block is no longer called.

    Example:
        >>> from gcsearch.architecture import Insertion
        >>> from gcsearch.surgery import insert
        >>> model = nn.Sequential(nn.Conv2d(3, 32, 3))
        >>> _ = insert(model, [Insertion("0", ratio=1 / 4)], input_size=(3, 32, 32))
        >>> [(m.path, m.weights.shape) for m in attention_maps(model, torch.randn(2, 3, 8, 8))]
        [('0', torch.Size([2, 1, 6, 6]))]
    """
    found: list[AttentionMap] = []

    def recorder(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda block, args: found.append(_map_of(path, block, args[0], pick_queries))

    with ExitStack() as stack:
        stack.enter_context(_evaluating(model))
        stack.enter_context(torch.no_grad())
        for path, block in inserted_blocks(model).items():
            if why_no_map(block) is None:
                hook = block.register_forward_pre_hook(recorder(path))
                stack.callback(hook.remove)
        model(images)
    return found


def why_no_map(block: nn.Module) -> str | None:
    """Return why a block has no map worth looking at; None if it has one."""
    if getattr(block, "pooling", None) == "avg":
        return "avg pooling weighs all positions alike"
    if isinstance(block, (_HasOneMap, _HasMapPerQuery)):
        return None
    return f"{type(block).__name__} does not attend to positions"


def mean_cosine_distance(attention: AttentionMap) -> float | None:
    """Return how far apart the maps of different queries lie, averaged over pairs and pictures.

    This is GCNet's measure of whether attention depends on the query (arXiv 1904.11492, section
    3.1 and table 1). With the map of query i flattened to a vector a_i, not centred::

        distance(i, j) = (1 - cos(a_i, a_j)) / 2

    averaged over all pairs of different queries of ``attention`` and then over pictures. The paper
    averages over all pairs of positions, those of a query with itself included; for P positions
    that is (P - 1) / P times this. 0: the same map whatever the query. 0.5, the most that weights
    without a sign reach: no two queries look at one place. Maps that are nearly uniform are
    alike, and so near 0, even if what little they emphasise differs: read it together with
    :func:`entropy_ratio`.

    Returns:
        None if there is one map for all queries, or no pair of them. Maps of zeros have no
        direction and are left out.
    """
    if attention.queries is None:
        return None
    distances = [_distance(maps.flatten(1).double()) for maps in attention.weights]
    known = [distance for distance in distances if distance is not None]
    return sum(known) / len(known) if known else None


def entropy_ratio(attention: AttentionMap) -> float | None:
    """Return the entropy of the maps over that of a uniform map, averaged over all of them.

    1: all positions weigh alike. 0: one position has all the weight.

    Returns:
        None if the weights are no shares of a whole, as NL's without a softmax.
    """
    weights = attention.weights.flatten(2)
    if not attention.is_distribution:
        return None
    if weights.shape[2] == 1:
        return 1.0
    entropies = [float(torch.special.entr(maps.double()).sum(1).mean()) for maps in weights]
    return sum(entropies) / len(entropies) / math.log(weights.shape[2])


def _map_of(
    path: str,
    block: nn.Module,
    x: Tensor,
    pick_queries: Callable[[Sequence[int]], Tensor],
) -> AttentionMap:
    positions, queries = tuple(x.shape[2:]), None
    if isinstance(block, _HasMapPerQuery):
        queries = pick_queries(positions)
        weights = block.attention(x, queries.to(x.device))
    elif isinstance(block, _HasOneMap):
        weights = block.context_mask(x)
    return AttentionMap(path, type(block).__name__, weights.float().cpu(), positions, queries)


def _distance(vectors: Tensor) -> float | None:
    """Return the mean of (1 - cos) / 2 over pairs of rows, in time linear in their number.

    The sum of all cosines, each row's with itself included, is the square of the sum of the unit
    vectors.
    """
    units = F.normalize(vectors[vectors.abs().amax(1) > 0], dim=1)
    n = len(units)
    if n < 2:
        return None
    cosine = (float(units.sum(0).square().sum()) - n) / (n * (n - 1))
    return max(0.0, (1 - cosine) / 2)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put all modules in evaluation mode for a while.

    Sets the flags one by one, because some modules override ``train`` to alter their weights.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, flag in flags:
            module.training = flag

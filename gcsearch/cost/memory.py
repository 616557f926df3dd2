"""Peak memory of one forward pass in inference, in bytes; does not time anything.

Counted are the weights and buffers, the input, and whatever else is alive at the worst moment of
the pass, each storage once however many views share it. The pass is torch's own, on the device and
in the type and memory format in which latency is measured; another runtime may need more or less.

On a CPU the storages of all tensors that operations return are followed until they are freed. That
is exact and the same in every run and on every machine, but says nothing of what a kernel needs
while it runs (its workspace, weights packed anew, a copy in a layout of its own), of the rounding
and the gaps of the allocator, and of the process around it. On CUDA it is the peak of torch's own
allocator, in which workspaces are included and every tensor is rounded up to 512 bytes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gcsearch.cost.serving import as_served, refusals_told, served_input
from gcsearch.cost.settings import LatencySettings

__all__ = ["peak_memory"]


def peak_memory(
    model: nn.Module,
    input_size: tuple[int, ...] = (3, 224, 224),
    settings: LatencySettings | None = None,
) -> int:
    """Return the bytes that one forward pass in inference holds at its worst moment.

    Args:
        model: Any module that takes one batch of pictures; it is left as it was.
        input_size: Channels, height and width; for video channels, frames, height and width.
        settings: Of them ``batch_size``, ``device``, ``dtype`` and ``memory_format``.

    Raises:
        LatencyError: The model refuses such an input, or this machine has no such device.

    Example:
        >>> served = LatencySettings(device="cpu")
        >>> peak_memory(nn.Conv2d(3, 8, 1, bias=False), (3, 4, 4), served)  # 4 bytes each:
        800
        >>> 4 * (3 * 8 + 3 * 16 + 8 * 16)  # weights, input, output
        800
    """
    settings = settings or LatencySettings()
    example = served_input(input_size, settings)
    served = as_served(copy.deepcopy(model), example, settings)
    held = {t.untyped_storage() for t in [*served.parameters(), *served.buffers(), example]}
    run = _run_on_cuda if example.is_cuda else _run_followed
    with refusals_told(example), torch.no_grad():
        return sum(int(storage.nbytes()) for storage in held) + run(served, example, held)


def _run_followed(model: nn.Module, example: Tensor, held: Iterable[torch.UntypedStorage]) -> int:
    followed = _Followed(held)
    with followed:
        model(example)
    return followed.peak


def _run_on_cuda(model: nn.Module, example: Tensor, held: Iterable[torch.UntypedStorage]) -> int:
    """Return the peak above what is allocated before, which the weights and the input are part of.

    A first pass makes the libraries allocate what they keep for good.
    """
    model(example)
    torch.cuda.synchronize(example.device)
    torch.cuda.reset_peak_memory_stats(example.device)
    before = torch.cuda.memory_allocated(example.device)
    model(example)
    torch.cuda.synchronize(example.device)
    return int(torch.cuda.max_memory_allocated(example.device)) - before


class _Followed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operations return for as long as anything refers to them.

    Args:
        held: Storages that are there before and after; they are left out.

    Attributes:
        peak: Most bytes that were alive after an operation, its arguments still among them.
    """

    def __init__(self, held: Iterable[torch.UntypedStorage]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held = set(held)
        self._alive: WeakKeyDictionary[torch.UntypedStorage, int] = WeakKeyDictionary()
        self.peak = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided and not leaf.is_meta:
                self._follow(leaf.untyped_storage())
        self.peak = max(self.peak, sum(self._alive.values()))
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._held:
            self._alive[storage] = storage.nbytes()  # again: it may have been resized

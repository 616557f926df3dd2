"""A model as something that can be timed: each call runs one pass and returns its seconds."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from torch import nn

from gcsearch.cost.runtimes import Run
from gcsearch.errors import LatencyError

__all__ = ["Contender", "share_weights"]


def share_weights(model: nn.Module) -> nn.Module:
    """Return a copy of a model on the same weights, as what one process serves has but one copy.

    Two copies would push each other out of the cache, and lie in memory each in its own way.

    Raises:
        LatencyError: The model cannot be copied.
    """
    tensors = [*model.parameters(), *model.buffers()]
    try:
        return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    except Exception as error:  # whatever a module's own code raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise LatencyError(
            f"the model cannot be copied, which timing it takes: {reason}; "
            "give its class a __deepcopy__ that works"
        ) from error


class Contender:
    """Passes of a model: each call runs one and returns its seconds.

    Args:
        model: As it is served.
        prepare: Makes one pass of a model, ready to run.
        on_cuda: Whether passes are timed by the device's own events.
    """

    def __init__(
        self, model: nn.Module, prepare: Callable[[nn.Module], Run], *, on_cuda: bool
    ) -> None:
        self._model, self._prepare = model, prepare
        self._timed = _on_cuda if on_cuda else _on_processor
        self._pass = self._timed(prepare(model))

    def __call__(self) -> float:
        """Run one pass; return its seconds."""
        return self._pass()

    def renew(self) -> None:
        """Go on with a fresh copy, which lies elsewhere."""
        self._pass = self._timed(self._prepare(share_weights(self._model)))


def _on_processor(run: Run) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return seconds


def _on_cuda(run: Run) -> Callable[[], float]:
    """Time on the device itself, between two of its events."""
    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def seconds() -> float:
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    return seconds

"""Eager torch: the model as it is; on CUDA as a graph where the model can be captured."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gcsearch.cost.runtimes.base import RUNTIMES, Pass, Runtime

__all__ = ["Eager"]

WARM_UPS = 3


@RUNTIMES.register("eager")
class Eager(Runtime):
    """Calls the model."""

    name = "eager"
    devices = ("cpu", "cuda", "mps", "xpu")
    dtypes = ("float32", "bfloat16", "float16")

    def version(self) -> str:
        """Return torch's version."""
        return f"torch {torch.__version__}"

    def convert(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Return the model itself."""
        return model

    def load(self, converted: Any, example: Tensor, threads: int) -> Pass:
        """Copy the model, so that its weights lie elsewhere in memory."""
        model = copy.deepcopy(converted)
        if example.is_cuda:
            return _captured(model, example)
        return lambda: model(example)


def _captured(model: nn.Module, example: Tensor) -> Pass:
    """Capture a CUDA graph, which takes the launching of kernels out of the time.

    A model that waits for the device within its pass cannot be captured, and runs as it is.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            model(example)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            outputs = model(example)
    except RuntimeError:
        torch.cuda.synchronize()
        return lambda: model(example)

    def replay() -> object:
        graph.replay()
        return outputs

    return replay

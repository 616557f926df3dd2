"""torch.compile with inductor: kernels generated for this very model and input."""

from __future__ import annotations

import copy
import os
import shutil
from typing import Any

import torch
from torch import Tensor, nn

from gcsearch.cost.runtimes.base import RUNTIMES, Pass, Runtime
from gcsearch.errors import LatencyError

__all__ = ["Compiled"]

COMPILERS = ("g++", "clang++", "c++")


@RUNTIMES.register("compile")
class Compiled(Runtime):
    """Compiles the model; the first pass takes seconds to minutes, which is not timed."""

    name = "compile"
    devices = ("cpu", "cuda")
    dtypes = ("float32", "bfloat16", "float16")

    def check(self, device: str, dtype: str) -> None:
        """Look for a C++ compiler as well.

        Raises:
            LatencyError: There is none, or it does not run on this device or in this dtype.
        """
        super().check(device, dtype)
        wanted = os.environ.get("CXX")
        if not any(shutil.which(name) for name in ((wanted,) if wanted else COMPILERS)):
            raise LatencyError(
                f"runtime 'compile' needs a C++ compiler ({wanted or ', '.join(COMPILERS)} not "
                "found); install one, e.g. apt install g++, or set CXX to yours"
            )

    def version(self) -> str:
        """Return torch's version."""
        return f"torch {torch.__version__} inductor"

    def convert(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Return the model itself: it is compiled by the first pass of each copy."""
        return model

    def load(self, converted: Any, example: Tensor, threads: int) -> Pass:
        """Compile a copy; CUDA graphs come with the mode."""
        mode = "reduce-overhead" if example.is_cuda else "default"
        # One more than all copies of a measurement: past the limit torch would fall back to
        # eager in silence, and its time would stand for the compiled one's.
        model = torch.compile(copy.deepcopy(converted), mode=mode, dynamic=False)
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            model(example)
        return lambda: model(example)

    def release(self) -> None:
        """Forget what was compiled, in the whole process: torch keeps few versions of a class."""
        torch.compiler.reset()

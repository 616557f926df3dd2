"""What a runtime is: from a model to a pass that can be timed; does not time anything.

A conversion that computes something else would be a fast and worthless number, so the outputs of
every loaded pass are compared with those of the model itself, once.
"""

from __future__ import annotations

import importlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gcsearch.errors import LatencyError
from gcsearch.registry import Registry

__all__ = ["RUNTIMES", "Pass", "Prepared", "Runtime", "one_line"]

Pass = Callable[[], object]
"""Runs one whole pass and returns its outputs; on CUDA it may return before they are there."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest allowed difference from the model's own outputs, relative to their largest value."""


class Runtime(ABC):
    """Runs a model somehow: converts it once, and loads what came out as often as is wanted.

    Subclasses say what they need by the class variables and implement the abstract methods.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    """Modules that must be there."""
    cure: ClassVar[str] = ""
    """What to do when one is missing."""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)

    def check(self, device: str, dtype: str) -> None:
        """Find out at little cost whether this runtime can be used here.

        Raises:
            LatencyError: A package is missing, or it does not run on this device or in this dtype.
        """
        for module in self.modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise LatencyError(
                    f"runtime {self.name!r} needs {module} ({error}); {self.cure}"
                ) from error
        kind = device.partition(":")[0]
        if kind not in self.devices:
            raise LatencyError(
                f"runtime {self.name!r} does not run on {device!r} here, only on "
                f"{', '.join(self.devices)}; change latency.device or latency.runtime"
            )
        if dtype not in self.dtypes:
            raise LatencyError(
                f"runtime {self.name!r} does not compute in {dtype}, only in "
                f"{', '.join(self.dtypes)}; change latency.dtype or latency.runtime"
            )

    @abstractmethod
    def version(self) -> str:
        """Return what results depend on, e.g. for the key of a stored one."""

    @abstractmethod
    def convert(self, model: nn.Module, example: Tensor) -> Any:
        """Do the slow work that needs doing only once; return what :meth:`load` takes."""

    @abstractmethod
    def load(self, converted: Any, example: Tensor, threads: int) -> Pass:
        """Make a pass over ``example`` that shares no memory with those loaded before."""

    def release(self) -> None:
        """Let go of what was kept for the models prepared so far; they must not run again."""

    def prepare(self, model: nn.Module, example: Tensor, threads: int) -> Prepared:
        """Convert a model.

        Args:
            model: In eval mode, on the device and in the dtype of ``example``.
            example: A batch of pictures.
            threads: Processor threads of a pass.

        Raises:
            LatencyError: The model refuses such an input, or cannot be converted.
        """
        expected = _leaves(_reference(model, example))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # converters warn of their own insides
            try:
                converted = self.convert(model, example)
            except Exception as error:  # converters raise whatever they stumble over
                raise self._cannot(error) from error
        return Prepared(self, converted, example, threads, expected)

    def _cannot(self, error: Exception) -> LatencyError:
        return LatencyError(
            f"runtime {self.name!r} cannot run this model: {one_line(error)}; "
            "choose another latency.runtime, e.g. eager"
        )


@dataclass(frozen=True)
class Prepared:
    """A converted model, to be loaded as often as is wanted."""

    runtime: Runtime
    converted: Any
    example: Tensor
    threads: int
    expected: Sequence[Tensor]

    def load(self) -> Pass:
        """Load the model once more, apart from before, and check what it computes.

        Raises:
            LatencyError: It does not run, or its outputs differ from the model's.
        """
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            try:
                run = self.runtime.load(self.converted, self.example, self.threads)
                outputs = _leaves(run())
            except Exception as error:
                raise self.runtime._cannot(error) from error
        problem = _difference(self.expected, outputs, TOLERANCE[self.example.dtype])
        if problem:
            raise LatencyError(
                f"runtime {self.runtime.name!r} computes something else than the model: "
                f"{problem}; its time would mean nothing, choose another latency.runtime"
            )
        return run


RUNTIMES = Registry[type[Runtime]]("runtime")
"""Runtimes by the name that ``latency.runtime`` takes."""


def one_line(error: BaseException) -> str:
    """Return what an error says, short, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _reference(model: nn.Module, example: Tensor) -> object:
    try:
        with torch.inference_mode():
            return model(example)
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
        raise LatencyError(
            f"the model refuses an input of shape {tuple(example.shape)}: {one_line(error)}; "
            "set latency.image_size to what it takes"
        ) from error


def _leaves(outputs: object) -> list[Tensor]:
    """Return all tensors in whatever a model returns, in order, on the CPU."""
    leaves = [torch.as_tensor(leaf) for leaf in tree_leaves(outputs) if leaf is not None]
    return [leaf.detach().cpu().float().clone() for leaf in leaves]


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float) -> str:
    """Return in what the outputs differ, or nothing."""
    shapes, other = [tuple(t.shape) for t in expected], [tuple(t.shape) for t in found]
    if shapes != other:
        return f"outputs of shape {other}, not {shapes}"
    for index, (a, b) in enumerate(zip(expected, found, strict=True)):
        finite = a[a.isfinite()].abs()
        largest = float(finite.max()) if finite.numel() else 0.0
        if not torch.allclose(b, a, rtol=0.0, atol=tolerance * largest, equal_nan=True):
            worst = float((b - a).nan_to_num(float("inf")).abs().max())
            return f"output {index} is off by {worst:.2g} where the largest is {largest:.2g}"
    return ""

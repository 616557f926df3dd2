"""What one forward computes: which value each operation makes and each module returns.

It knows no site and judges nothing. Values are numbered, not tensors: an operation in place gives
its tensor a new number, so that ``out += identity`` is told from the ``out`` of the layer before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Return", "Trace", "Tracer", "Value"]


@dataclass(frozen=True)
class Value:
    """One tensor, at one time, that depends on the input of the model.

    Args:
        step: Number of the operation that made it, in order of execution.
        operation: Its name in aten, without the underscore of in-place ones.
        inputs: Numbers of the values that it was made from.
        module: Path of the innermost module whose forward was running.
        shape: Its shape.
        is_weighted: Whether tensors that do not depend on the input, such as weights, took part.
        numbers: The whole numbers among the arguments, e.g. the order of a permutation.
    """

    step: int
    operation: str
    inputs: tuple[int, ...]
    module: str
    shape: tuple[int, ...]
    is_weighted: bool
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Return:
    """What one call of a module returned.

    Args:
        path: The module.
        value: Number of the value; None if it is no tensor, or does not depend on the input.
        shape: Shape of the tensor, if it is one.
        is_float: Whether it is a tensor of floating-point type.
    """

    path: str
    value: int | None
    shape: tuple[int, ...] = ()
    is_float: bool = False


@dataclass
class Trace:
    """All values, indexed by their number, and all returns, both in order of execution."""

    values: list[Value] = field(default_factory=list)
    returns: list[Return] = field(default_factory=list)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the first input, which is the first value."""
        return self.values[0].shape


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record a forward in :attr:`trace`, while it is the active dispatch mode.

    Keeps no tensor alive.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self._running = [""]
        self._n_steps = 0
        self._numbers = WeakTensorKeyDictionary()

    @property
    def running(self) -> str:
        """Path of the innermost module whose forward is running, or was when it raised."""
        return self._running[-1]

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Follow the calls of all modules by hooks, which are removed at the end."""
        handles: list[Any] = []
        try:
            for path, module in model.named_modules():
                handles.append(module.register_forward_pre_hook(self._enter(path), prepend=True))
                handles.append(module.register_forward_hook(self._leave(path)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def start(self, inputs: Iterable[Tensor]) -> None:
        """Declare the inputs of the model."""
        self._add("input", (), inputs, is_weighted=False)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation and number what it makes."""
        kwargs = kwargs or {}
        tensors = list(_tensors((*args, *kwargs.values())))
        inputs = tuple(self._numbers[t] for t in tensors if t in self._numbers)
        result = func(*args, **kwargs)
        if inputs:
            name = str(func._schema.name).removeprefix("aten::").rstrip("_")
            is_weighted = len(inputs) < len(tensors)
            self._add(
                name,
                inputs,
                _tensors([result]),
                is_weighted=is_weighted,
                numbers=tuple(_numbers(args)),
            )
        return result

    def _add(
        self,
        name: str,
        inputs: tuple[int, ...],
        results: Iterable[Tensor],
        *,
        is_weighted: bool,
        numbers: tuple[int, ...] = (),
    ) -> None:
        self._n_steps += 1
        for tensor in results:
            self._numbers[tensor] = len(self.trace.values)
            shape = tuple(tensor.shape)
            value = Value(self._n_steps, name, inputs, self.running, shape, is_weighted, numbers)
            self.trace.values.append(value)

    def _enter(self, path: str) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            self._running.append(path)

        return enter

    def _leave(self, path: str) -> Any:
        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self._running.pop()
            self.trace.returns.append(self._returned(path, output))

        return leave

    def _returned(self, path: str, output: Any) -> Return:
        if not isinstance(output, torch.Tensor):
            return Return(path, None)
        number = self._numbers.get(output)  # type: ignore[no-untyped-call]
        return Return(path, number, tuple(output.shape), output.is_floating_point())


def _tensors(items: Iterable[Any]) -> Iterator[Tensor]:
    for item in items:
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from _tensors(item)


def _numbers(items: Iterable[Any]) -> Iterator[int]:
    for item in items:
        if isinstance(item, int) and not isinstance(item, bool):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from _numbers(item)

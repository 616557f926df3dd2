"""Running a model once without leaving a trace in it; knows nothing of what the run is for."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gcsearch.errors import SurgeryError
from gcsearch.surgery.tracing import Trace, Tracer

__all__ = ["run_probe"]

SEED = 0
"""The probe's input is noise from this seed; no decision depends on its values."""


def run_probe(model: nn.Module, input_size: tuple[int, ...], batch: int) -> Trace:
    """Run one forward in evaluation mode and return what it computed.

    A model whose forward needs several arguments, as those for optical flow do, gets a batch for
    each.

    Training flags, batch statistics, hooks and the state of the random generators are as before
    when it returns, and when it raises.

    Raises:
        SurgeryError: The forward raised.
    """
    tracer = Tracer()
    with _undisturbed(model):
        noise = _noise(model, (batch, *input_size))
        inputs = [noise, *(noise.roll(i, -1) for i in range(1, _n_inputs(model)))]
        try:
            with tracer.following(model), torch.no_grad(), tracer:
                tracer.start(inputs)
                model(*inputs)
        except Exception as error:
            raise SurgeryError(_failure(model, noise, tracer.running, error)) from error
    return tracer.trace


def _n_inputs(model: nn.Module) -> int:
    """Return how many arguments the forward of a model cannot do without, at least one."""
    parameters = inspect.signature(model.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in positional and p.default is p.empty]
    return max(1, len(needed))


def _failure(model: nn.Module, inputs: Tensor, path: str, error: Exception) -> str:
    where = f"its module {path!r}" if path else "its forward"
    cause = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return (
        f"{type(model).__name__} cannot be probed with an input of shape {tuple(inputs.shape)}: "
        f"{where} raised {cause}; pass the input_size the model takes, "
        "(channels, height, width) or (channels, frames, height, width)"
    )


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Put all modules in evaluation mode for a while, and the random generators back at the end.

    Sets the flags one by one, because some modules override ``train`` to alter their weights.
    """
    flags = [(module, module.training) for module in model.modules()]
    gpus = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(gpus)):
        try:
            for module, _ in flags:
                module.training = False
            yield
        finally:
            for module, flag in flags:
                module.training = flag


def _noise(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(shape, generator=generator)
    weights = (p for p in model.parameters() if p.is_floating_point())
    first = next(weights, None)
    return noise if first is None else noise.to(first.device, first.dtype)

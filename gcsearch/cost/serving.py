"""A model and its input as they are served: on the device, in the type and memory format wanted.

All that is measured of a pass starts from here, so that it is measured of the same pass. Runs and
times nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gcsearch.cost.settings import LatencySettings
from gcsearch.errors import LatencyError
from gcsearch.machine import device_fault, pick_device

__all__ = ["as_served", "refusals_told", "served_input"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TIMED = ("cpu", "cuda")
"""Kinds of devices whose passes there is a clock for; others return before they are done."""
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the number of axes; there is no such format for others."""


def served_input(input_size: tuple[int, ...], settings: LatencySettings) -> Tensor:
    """Return a batch of noise as the settings say.

    Args:
        input_size: Channels, height and width; for video channels, frames, height and width.
        settings: Of them ``batch_size``, ``device``, ``dtype`` and ``memory_format``.

    Raises:
        LatencyError: This machine has no such device, or there is no clock for it.

    Example:
        >>> served_input((3, 4, 4), LatencySettings(batch_size=2, device="cpu")).stride()
        (48, 1, 12, 3)
    """
    device = pick_device(settings.device)
    if fault := device_fault(device):
        raise LatencyError(
            f"latency.device {device!r} cannot be used here: {fault}; auto takes what is there"
        )
    if torch.device(device).type not in TIMED:
        raise LatencyError(
            f"latency.device {device!r} cannot be timed; use cpu, cuda, or cuda with a number"
        )
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(settings.batch_size, *input_size, generator=generator)
    noise = noise.to(device, DTYPES[settings.dtype])
    return noise.contiguous(memory_format=_memory_format(noise, settings))


def as_served(model: nn.Module, example: Tensor, settings: LatencySettings) -> nn.Module:
    """Put a model in eval mode, move and convert it in place, and return it.

    Args:
        model: Any module that takes one batch of pictures.
        example: As of :func:`served_input`.
        settings: Those that the example was made by.
    """
    model = model.to(example.device, example.dtype)
    return model.to(memory_format=_memory_format(example, settings)).eval()


@contextmanager
def refusals_told(example: Tensor) -> Iterator[None]:
    """Run the first pass of a model inside: that it does not take the input is told in one line.

    Raises:
        LatencyError: It does not.
    """
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise LatencyError(
            f"the model refuses an input of shape {tuple(example.shape)}: {reason}; "
            "set latency.image_size and latency.batch_size to what it takes"
        ) from error


def _memory_format(batch: Tensor, settings: LatencySettings) -> torch.memory_format:
    if settings.memory_format == "contiguous":
        return torch.contiguous_format
    return CHANNELS_LAST.get(batch.dim(), torch.contiguous_format)

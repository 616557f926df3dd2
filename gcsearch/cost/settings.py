"""What latency means in a search, and how well it is to be known; measures nothing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from gcsearch.cost.runtimes import RUNTIMES
from gcsearch.errors import UnknownNameError
from gcsearch.settings import Settings

__all__ = ["LatencySettings"]


class LatencySettings(Settings):
    """What latency means in a search, and how well it is to be known."""

    image_size: Annotated[int, Field(ge=8, le=4096)] = 224
    """Side in pixels of the pictures that will be served; need not be the proxy task's."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 1
    """Pictures in one pass."""
    runtime: str = "eager"
    """What will serve the model: eager, compile (torch.compile), onnxruntime, openvino or
    cuda-graph."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of weights and features."""
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    """How features lie in memory, where the runtime leaves that to the caller."""
    device: str = "auto"
    """A torch device; auto takes CUDA when it is there."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processor threads of one pass; 0 takes every core this process may use."""
    precision: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Half-width of the 95 % interval at which measuring stops, relative to the ratio."""
    time_limit_s: Annotated[float, Field(gt=0, le=3600)] = 8.0
    """Seconds after which measuring stops anyway; twice as many again if it is inconclusive."""
    disturbance: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the time of the cores measured on, and of all cores of the machine, that other
    processes may take; what was measured while they took more is inconclusive."""
    limit: Annotated[float, Field(gt=1, le=100)] | None = None
    """Most that an architecture may take, as a ratio to the backbone, by the upper end of its
    interval; what takes more is refused before it is trained."""

    @field_validator("runtime")
    @classmethod
    def _check_runtime(cls, value: str) -> str:
        if value not in RUNTIMES:
            raise ValueError(str(UnknownNameError("runtime", value, RUNTIMES.names())))
        return value

"""Latency as a ratio to the unaltered backbone, measured in pairs; knows nothing of accuracy.

Absolute times on a shared machine drift by tens of per cent within minutes; the ratio of two
passes a few milliseconds apart does not. So the backbone and the candidate run in turn, in random
order within each pair, and the estimate is the median of the pairs' log ratios with a bootstrap
interval (duet benchmarking, arXiv 2001.05811). It goes on until the interval is narrow or the time
is up; an interval that is still wide then is called inconclusive, and no number is made of it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from gcsearch.architecture import Architecture
from gcsearch.backbones import build_backbone
from gcsearch.errors import LatencyError
from gcsearch.intervals import Interval, median_ratio
from gcsearch.machine import alone, n_cores, pick_device
from gcsearch.settings import Settings
from gcsearch.surgery import insert

__all__ = ["LatencyRatio", "LatencySettings", "compare_latency", "measure_latency"]

MIN_PAIRS = 20
CHECK_EVERY = 10
LOOSE = 2.5
"""An interval up to this many times wider than the wanted precision still counts as conclusive."""


class LatencySettings(Settings):
    """What latency means in a search, and how well it is to be known."""

    image_size: Annotated[int, Field(ge=8, le=4096)] = 224
    """Side in pixels of the pictures that will be served; need not be the proxy task's."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 1
    """Pictures in one pass."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processor threads of one pass; 0 takes every core this process may use."""
    precision: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Half-width of the 95 % interval at which measuring stops, relative to the ratio."""
    time_limit_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """Seconds after which measuring stops anyway; twice as many again if it is inconclusive."""
    limit: Annotated[float, Field(gt=1, le=100)] | None = None
    """Most that an architecture may take, as a ratio to the backbone, by the upper end of its
    interval; what takes more is refused before it is trained."""


@dataclass(frozen=True)
class LatencyRatio:
    """Latency of a candidate over that of its backbone.

    Args:
        ratio: Median of the paired ratios.
        low: Lower end of its 95 % interval.
        high: Upper end.
        conclusive: Whether the interval is narrow enough to call the ratio a number.
        latency_ms: Median time of one pass of the candidate, on this machine at this moment.
        baseline_ms: The same of the backbone.
        pairs: How many pairs it rests on.
        seconds: What measuring took.
    """

    ratio: float
    low: float
    high: float
    conclusive: bool
    latency_ms: float
    baseline_ms: float
    pairs: int
    seconds: float

    def __str__(self) -> str:
        interval = f"[{self.low:.3f}, {self.high:.3f}]"
        return f"{self.ratio:.3f} {interval}" if self.conclusive else f"inconclusive {interval}"


def measure_latency(
    architecture: Architecture,
    input_size: tuple[int, ...] = (3, 224, 224),
    settings: LatencySettings | None = None,
    *,
    trust: bool = False,
) -> LatencyRatio:
    """Time an architecture against its own backbone, here and now.

    Args:
        architecture: What to time; for a baseline this is the machine's noise floor.
        input_size: Channels, height and width.
        settings: Batch, threads, precision and time limit; its ``image_size`` is not used.
        trust: Whether a backbone given as an import path may be run.

    Raises:
        LatencyError: The model refuses such an input.
    """
    settings = settings or LatencySettings()
    baseline = build_backbone(architecture.backbone, trust=trust)
    candidate = insert(copy.deepcopy(baseline), architecture.insertions, input_size=input_size)
    return compare_latency(candidate, baseline, input_size, settings)


def compare_latency(
    candidate: nn.Module,
    baseline: nn.Module,
    input_size: tuple[int, ...],
    settings: LatencySettings,
    *,
    seed: int = 0,
) -> LatencyRatio:
    """Time two models in turn, alone on this machine; an inconclusive result is tried once more.

    Args:
        candidate: The altered model.
        baseline: The unaltered one.
        input_size: Channels, height and width of a picture.
        settings: Batch, threads, precision and time limit.
        seed: Of the order within pairs and of the bootstrap.

    Raises:
        LatencyError: A model refuses such an input.
    """
    device = pick_device()
    models = [_ready(candidate, device), _ready(baseline, device)]
    example = torch.randn(settings.batch_size, *input_size, device=device)
    example = example.contiguous(memory_format=torch.channels_last)
    result = _measure(models, example, settings, settings.time_limit_s, seed)
    if not result.conclusive:
        result = _measure(models, example, settings, 2 * settings.time_limit_s, seed + 1)
    return result


def _measure(
    models: list[nn.Module], example: Tensor, settings: LatencySettings, limit_s: float, seed: int
) -> LatencyRatio:
    with alone(), _threads(settings.threads or n_cores()), torch.inference_mode():
        start = time.perf_counter()
        _warm_up(models, example)
        times: list[tuple[float, float]] = []
        interval = Interval(1.0, 0.0, float("inf"))
        for pair in _pairs(models, example, seed):
            times.append(pair)
            elapsed = time.perf_counter() - start
            if len(times) % CHECK_EVERY == 0 or elapsed > limit_s:
                interval = _interval(times, seed)
                narrow = interval.half_width <= settings.precision * interval.value
                if (narrow and len(times) >= MIN_PAIRS) or elapsed > limit_s:
                    break
    milliseconds = np.median(np.array(times), axis=0) * 1e3
    is_narrow = interval.half_width <= LOOSE * settings.precision * interval.value
    return LatencyRatio(
        ratio=interval.value,
        low=interval.low,
        high=interval.high,
        conclusive=is_narrow and len(times) >= MIN_PAIRS // 2,
        latency_ms=float(milliseconds[0]),
        baseline_ms=float(milliseconds[1]),
        pairs=len(times),
        seconds=time.perf_counter() - start,
    )


def _interval(times: list[tuple[float, float]], seed: int) -> Interval:
    log_times = np.log(np.array(times))
    return median_ratio(log_times[:, 0] - log_times[:, 1], seed=seed)


def _pairs(models: list[nn.Module], example: Tensor, seed: int) -> Iterator[tuple[float, float]]:
    rng = np.random.default_rng(seed)
    while True:
        taken = [0.0, 0.0]
        for index in rng.permutation(2):
            taken[index] = _time_pass(models[index], example)
        yield taken[0], taken[1]


def _time_pass(model: nn.Module, example: Tensor) -> float:
    start = time.perf_counter()
    model(example)
    if example.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _warm_up(models: list[nn.Module], example: Tensor) -> None:
    try:
        for _ in range(3):
            for model in models:
                _time_pass(model, example)
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise LatencyError(
            f"the model refuses an input of shape {tuple(example.shape)}: {reason}; "
            "set latency.image_size to what it takes"
        ) from error


def _ready(model: nn.Module, device: str) -> nn.Module:
    moved: Any = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved.eval()  # type: ignore[no-any-return]


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Latency as a ratio to the unaltered backbone, measured in pairs; knows nothing of accuracy.

In each round the backbone runs twice and the candidate once, in random order. The ratio is that
of the candidate's time to the backbone's; what the backbone's two times differ by is the machine's
noise. A result is a number only if its interval is narrow enough, the backbone equals itself, and
nothing else took the cores meanwhile. Else it is inconclusive, with the reason, and no number is
made of it.

Every few rounds what is computed comes to lie elsewhere in memory, and where the runtime takes
them at once (eager torch) both are timed as fresh copies on the same weights. Two copies of one
ResNet-50 differed by 0.7 % (standard deviation) for as long as they lived: analysis of variance of
26 pairs, each timed for 20 s on two cores of an AMD EPYC, gave F = 1.9, p = 0.007; where copies
were fresh every three rounds, F = 0.65, p = 0.90 (`benchmarks/latency.py --sections copies` does
the like). Intervals of other runtimes do not know of that part.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from gcsearch.architecture import Architecture
from gcsearch.backbones import build_backbone
from gcsearch.cost.contender import Contender, share_weights
from gcsearch.cost.disturbance import watched
from gcsearch.cost.pairs import BLOCK_ROUNDS, Times, n_blocks, paired_ratio, time_in_turn, warm_up
from gcsearch.cost.placement import Placement
from gcsearch.cost.runtimes import RUNTIMES, Run
from gcsearch.cost.serving import as_served, refusals_told, served_input
from gcsearch.cost.settings import LatencySettings
from gcsearch.errors import LatencyError
from gcsearch.intervals import Interval
from gcsearch.machine import alone, n_cores, pinned, together
from gcsearch.surgery import insert

__all__ = [
    "LatencyProbe",
    "LatencyRatio",
    "compare_latency",
    "measure_latency",
]

CANDIDATE, BACKBONE, TWIN = range(3)
MIN_BLOCKS = 8
"""Before so many measuring does not stop: the first interval that is narrow enough is the more
likely to be so by luck, the fewer blocks it is of."""
LEAST_BLOCKS = 5
"""Of fewer, for which there is no time with slow networks, no number is made."""
MIN_S = 0.02
"""Seconds over the wanted precision that passes must have taken: an interval knows only of the
noise in its own rounds, and those of a moment are more alike than those of two seconds."""
LOOSE = 2.5
"""An interval up to this many times wider than the wanted precision still counts as conclusive."""
TRIES = 2
"""An inconclusive measurement is tried so often, each time for twice as long. Rounds whose
interval is too wide are kept and added to: to throw them away would be to choose among
measurements by how narrow they came out."""
NO_TIMES: Times = np.empty((0, 3))
WARM_UP_SHARE = 0.2


@dataclass(frozen=True)
class LatencyRatio:
    """Latency of a candidate over that of its backbone.

    Args:
        ratio: Median of the paired ratios.
        low: Lower end of its 95 % interval.
        high: Upper end.
        conclusive: Whether the ratio may be called a number; :attr:`reason` says why not.
        latency_ms: Median time of one pass of the candidate, on this machine at this moment.
        baseline_ms: The same of the backbone.
        pairs: Rounds it rests on.
        seconds: What measuring took.
        latency_p90_ms: The time that nine of ten passes of the candidate take at most.
        baseline_p90_ms: The same of the backbone.
        noise: Of the backbone to itself in the same rounds: ratio and its 95 % interval.
        reason: Why it is inconclusive, or ``""``.
    """

    ratio: float
    low: float
    high: float
    conclusive: bool
    latency_ms: float
    baseline_ms: float
    pairs: int
    seconds: float
    latency_p90_ms: float | None = None
    baseline_p90_ms: float | None = None
    noise: tuple[float, float, float] | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        """Take the noise as a list too, as JSON brings it."""
        if self.noise is not None:
            object.__setattr__(self, "noise", tuple(self.noise))

    def __str__(self) -> str:
        interval = f"[{self.low:.3f}, {self.high:.3f}]"
        if self.conclusive:
            return f"{self.ratio:.3f} {interval}"
        return f"inconclusive {interval}" + (f" ({self.reason})" if self.reason else "")


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
        input_size: Channels, height and width; for video channels, frames, height and width.
        settings: Runtime, batch, threads, precision, time limit and so on; its ``image_size`` is
            not used.
        trust: Whether a backbone given as an import path may be run.

    Raises:
        LatencyError: The model refuses such an input, or the runtime the model.
    """
    settings = settings or LatencySettings()
    baseline = build_backbone(architecture.backbone, trust=trust)
    candidate = insert(share_weights(baseline), architecture.insertions, input_size=input_size)
    return compare_latency(candidate, baseline, input_size, settings)


def compare_latency(
    candidate: nn.Module,
    baseline: nn.Module,
    input_size: tuple[int, ...],
    settings: LatencySettings,
    *,
    seed: int = 0,
) -> LatencyRatio:
    """Time two models in turn, alone on this machine; what is inconclusive is tried once more.

    Args:
        candidate: The altered model.
        baseline: The unaltered one.
        input_size: Channels, height and width of a picture.
        settings: Runtime, batch, threads, precision, time limit and so on.
        seed: Of the order within rounds and of the bootstrap.

    Raises:
        LatencyError: A model refuses such an input, or the runtime a model.
    """
    return LatencyProbe(baseline, input_size, settings).measure(candidate, seed=seed)


class LatencyProbe:
    """Times candidates against one backbone, which is made ready once.

    Args:
        baseline: The backbone; put in eval mode, moved and converted as the settings say.
        input_size: Channels, height and width of a picture.
        settings: Runtime, batch, threads, precision, time limit and so on.

    Raises:
        LatencyError: The backbone refuses such an input, the runtime the backbone, or there are
            fewer cores than threads, or no such device.

    Attributes:
        times: Of the last measurement: seconds of the candidate, the backbone and the backbone
            again in each round.
    """

    def __init__(
        self, baseline: nn.Module, input_size: tuple[int, ...], settings: LatencySettings
    ) -> None:
        self._settings = settings
        self._threads = settings.threads or n_cores()
        if self._threads > n_cores():
            raise LatencyError(
                f"latency.threads = {self._threads} is more than the {n_cores()} cores here"
            )
        self._example = served_input(input_size, settings)
        self._runtime = RUNTIMES[settings.runtime]()
        self._baseline = self._ready(baseline)
        self.times = NO_TIMES

    def measure(
        self, candidate: nn.Module, *, seed: int = 0, precision: float | None = None
    ) -> LatencyRatio:
        """Time a candidate; what is inconclusive goes on, or starts anew, for twice as long.

        Args:
            candidate: The altered model.
            seed: Of the order within rounds and of the bootstrap.
            precision: Wanted instead of that of the settings.

        Raises:
            LatencyError: The candidate refuses such an input, or the runtime the candidate.
        """
        start = time.perf_counter()
        wanted = precision or self._settings.precision
        contender = self._ready(candidate)
        kept = NO_TIMES
        for attempt in range(TRIES):
            limit_s = self._settings.time_limit_s * 2**attempt
            disturbed = self._time(contender, limit_s, seed + attempt, kept, wanted)
            ratio, noise = estimate(self.times, seed=seed)
            spoiled = disturbed or _doubt_of(noise)
            reason = spoiled or self._lack(ratio, wanted)
            if not reason:
                break
            kept = NO_TIMES if spoiled else self.times[: n_blocks(self.times) * BLOCK_ROUNDS]
        return self._result(ratio, noise, reason, time.perf_counter() - start)

    def _ready(self, model: nn.Module) -> Contender:
        """Return passes of ``model``."""
        with together(), _threads(self._threads), _current(self._example.device):
            model = as_served(model, self._example, self._settings)
            with refusals_told(self._example), torch.inference_mode():
                model(self._example)  # before anything is compiled
            if self._runtime.is_instant:
                share_weights(model)  # one that cannot be copied is refused now
            return Contender(model, self._prepare, on_cuda=self._example.is_cuda)

    def _prepare(self, model: nn.Module) -> Run:
        return self._runtime.prepare(model, self._example, self._threads)

    def _time(
        self, candidate: Contender, limit_s: float, seed: int, kept: Times, wanted: float
    ) -> str:
        """Add rounds to those that are kept; return what disturbed them, or ``""``."""
        contenders = [candidate, self._baseline, self._baseline]
        placement = Placement(seed)

        def renew() -> None:
            gc.collect(0)  # what copies leave behind; within passes nothing is collected
            placement()
            if self._runtime.is_instant:
                candidate.renew()
                self._baseline.renew()

        with alone(), pinned(self._threads) as cores, _current(self._example.device):
            warm_up(contenders[:TWIN], limit_s=WARM_UP_SHARE * limit_s)
            with watched(cores) as disturbance:
                times = time_in_turn(
                    contenders,
                    lambda times: _is_enough(np.concatenate([kept, times]), wanted),
                    limit_s=limit_s,
                    seed=seed,
                    renew=renew,
                )
        self.times = np.concatenate([kept, times])
        return disturbance.reason(self._settings.disturbance)

    def _lack(self, ratio: Interval, wanted: float) -> str:
        """Return what more rounds would mend, or ``""``."""
        if n_blocks(self.times) < LEAST_BLOCKS:
            return f"the time was up after {len(self.times)} rounds; raise latency.time_limit_s"
        if ratio.half_width > LOOSE * wanted * ratio.value:
            return f"the interval is wider than {LOOSE:g} times the wanted precision {wanted:g}"
        return ""

    def _result(
        self, ratio: Interval, noise: Interval, reason: str, seconds: float
    ) -> LatencyRatio:
        (latency, baseline), (latency_p90, baseline_p90) = (
            1e3 * np.quantile(self.times[:, [CANDIDATE, BACKBONE]], q, axis=0) for q in (0.5, 0.9)
        )
        return LatencyRatio(
            ratio=ratio.value,
            low=ratio.low,
            high=ratio.high,
            conclusive=not reason,
            latency_ms=float(latency),
            baseline_ms=float(baseline),
            pairs=len(self.times),
            seconds=seconds,
            latency_p90_ms=float(latency_p90),
            baseline_p90_ms=float(baseline_p90),
            noise=(noise.value, noise.low, noise.high),
            reason=reason,
        )


def estimate(times: Times, *, seed: int = 0) -> tuple[Interval, Interval]:
    """Return the candidate's ratio to the backbone, and the backbone's to itself.

    Args:
        times: Seconds of candidate, backbone and backbone again, shape (rounds, 3).
        seed: Of the bootstrap.

    Example:
        >>> ratio, noise = estimate(np.array([[2.2, 2.0, 2.0], [1.1, 1.0, 1.0]]))
        >>> round(ratio.value, 3), noise.value
        (1.1, 1.0)
    """
    return (
        paired_ratio(times, CANDIDATE, [BACKBONE, TWIN], seed=seed),
        paired_ratio(times, TWIN, [BACKBONE], seed=seed),
    )


def _is_enough(times: Times, wanted: float) -> bool:
    if n_blocks(times) < MIN_BLOCKS or times.sum() < MIN_S / wanted:
        return False
    ratio = paired_ratio(times, CANDIDATE, [BACKBONE, TWIN])
    return ratio.half_width <= wanted * ratio.value


def _doubt_of(noise: Interval) -> str:
    """Return that the backbone does not equal itself, or ``""``."""
    if noise.excludes(1.0):
        return (
            f"the backbone against itself takes {noise.value:.3f} "
            f"[{noise.low:.3f}, {noise.high:.3f}]"
        )
    return ""


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Make a device the current one, on whose stream events and graphs are recorded."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)

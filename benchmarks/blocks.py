"""How fast the GC block is: ours, mmcv's, timm's and the floor, in turn in one process.

The floor is the least that a block can do to its features x: read them to pool a context, read
them again and write them to fuse it, timed as a copy and an addition of a tensor of that size. A
backward pass has to read the incoming gradient twice and x once and to write the gradient of x,
which is timed as the same once more.

Within each round the contenders run in random order; a ratio is the median over rounds of the
paired ratios with its bootstrap interval, a mean over shapes the geometric one. Ratios to the
peers are theirs over ours, so above 1 ours is faster; the ratio to the floor is ours over it.

    pip install timm && pip install --no-deps mmcv-lite mmengine-lite addict yapf platformdirs \
        termcolor opencv-python-headless
    python benchmarks/blocks.py                       # forward, eager
    python benchmarks/blocks.py --training            # forward and backward
    python benchmarks/blocks.py --compiled --threads 1
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gcsearch.blocks import GlobalContext
from gcsearch.intervals import Interval, median_ratio
from gcsearch.machine import alone, environment, n_cores, pinned

STAGES = {"c2": (256, 56), "c3": (512, 28), "c4": (1024, 14), "c5": (2048, 7)}
BATCHES = (1, 16)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PEERS = ("mmcv", "timm")
RATIO = 1 / 16
SAMPLE_S = 1e-3
"""A sample repeats the call until it takes about as long, so that the clock's grain is nothing."""

Call = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    """One row of the table: features of a stage, a batch and a memory format."""

    stage: str
    batch: int
    layout: str

    def features(self) -> Tensor:
        """Return features of this shape."""
        channels, side = STAGES[self.stage]
        x = torch.randn(self.batch, channels, side, side)
        return x.contiguous(memory_format=FORMATS[self.layout])


def blocks_of(channels: int) -> dict[str, nn.Module]:
    """Return the contenders with the same settings: attention pooling, channel_add, ratio 1/16."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mmcv.cnn import ContextBlock
        from timm.layers import GlobalContext as TimmGlobalContext
    timm = TimmGlobalContext(channels, fuse_add=True, fuse_scale=False, rd_ratio=RATIO)
    return {
        "ours": GlobalContext(channels, ratio=RATIO),
        "mmcv": ContextBlock(channels, RATIO),
        "timm": timm,
    }


def calls_of(shape: Shape, *, is_training: bool, is_compiled: bool) -> dict[str, Call]:
    """Return what is timed for one shape, by name."""
    torch.compiler.reset()  # Else a class seen in many shapes runs in eager again, silently.
    calls = {
        name: _call(block.train(is_training), shape.features(), is_training, is_compiled)
        for name, block in blocks_of(STAGES[shape.stage][0]).items()
    }
    return calls | {"floor": _floor(shape.features(), passes=2 if is_training else 1)}


def _call(block: nn.Module, x: Tensor, is_training: bool, is_compiled: bool) -> Call:
    run = torch.compile(block) if is_compiled else block
    if not is_training:
        return lambda: run(x)
    x.requires_grad_(True)
    gradient = torch.randn_like(x)

    def step() -> None:
        x.grad = None
        block.zero_grad(set_to_none=True)
        run(x).backward(gradient)

    return step


def _floor(x: Tensor, passes: int) -> Call:
    copied = torch.empty_like(x)

    def copy_and_add() -> None:
        for _ in range(passes):
            copied.copy_(x)
            torch.add(x, 1.0)  # Like a block, it returns a new tensor.

    return copy_and_add


def sample(calls: dict[str, Call], rounds: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Return the seconds of each call in each round, the calls of a round in random order."""
    rng = np.random.default_rng(seed)
    names, repeats = list(calls), {name: _repeats(call) for name, call in calls.items()}
    times = np.empty((rounds, len(names)))
    for row in times:
        for index in rng.permutation(len(names)):
            name = names[index]
            row[index] = _seconds(calls[name], repeats[name])
    return dict(zip(names, times.T, strict=True))


def _repeats(call: Call) -> int:
    for _ in range(3):
        call()
    return max(1, round(SAMPLE_S / _seconds(call, 5)))


def _seconds(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def mean_ratio(log_ratios: list[NDArray[np.float64]]) -> Interval:
    """Return the geometric mean over shapes of the median ratios, resampling their rounds."""
    rng = np.random.default_rng(0)
    draws = np.zeros(1000)
    for logs in log_ratios:
        draws += np.median(logs[rng.integers(0, logs.size, (draws.size, logs.size))], axis=1)
    low, high = np.exp(np.quantile(draws / len(log_ratios), [0.025, 0.975]))
    value = np.exp(np.mean([np.median(logs) for logs in log_ratios]))
    return Interval(float(value), float(low), float(high))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training", action="store_true", help="forward and backward")
    parser.add_argument("--compiled", action="store_true", help="under torch.compile")
    parser.add_argument("--threads", type=int, default=n_cores())
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(environment()))
    mode = "forward and backward" if options.training else "forward"
    runtime = "torch.compile" if options.compiled else "eager"
    print(f"{mode}, {runtime}, {options.threads} thread(s), float32, seed {options.seed}")
    print(
        "stage  batch  layout         ours ms  mmcv/ours             timm/ours             ",
        end="",
    )
    print("ours/floor")
    logs: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    shapes = [Shape(*row) for row in product(STAGES, BATCHES, FORMATS)]
    for shape in shapes:
        with _measuring(options.threads, options.training):
            calls = calls_of(shape, is_training=options.training, is_compiled=options.compiled)
            times = sample(calls, options.rounds, options.seed)
        ratios = {f"{peer}/ours": np.log(times[peer] / times["ours"]) for peer in PEERS}
        ratios["ours/floor"] = np.log(times["ours"] / times["floor"])
        for name, values in ratios.items():
            logs.setdefault((name, shape.layout), []).append(values)
        shown = "  ".join(f"{_show(median_ratio(values)):20}" for values in ratios.values())
        milliseconds = np.median(times["ours"]) * 1e3
        label = f"{shape.stage:5}  {shape.batch:5}  {shape.layout:13}"
        print(f"{label}  {milliseconds:7.3f}  {shown}", flush=True)
    for name in dict.fromkeys(name for name, _ in logs):
        both = [values for layout in FORMATS for values in logs[name, layout]]
        parts = {layout: logs[name, layout] for layout in FORMATS} | {"both": both}
        means = "  ".join(f"{key} {_show(mean_ratio(v))}" for key, v in parts.items())
        print(f"geometric mean {name}: {means}")


@contextmanager
def _measuring(threads: int, is_training: bool) -> Iterator[None]:
    with alone(), pinned(threads), torch.inference_mode(not is_training):
        yield


def _show(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


if __name__ == "__main__":
    main()

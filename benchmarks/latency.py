"""Whether latencies can be believed: coverage, repeatability, load, and the naive way beside.

Every section prints its own verdictless figures:

    aa      the backbone against a copy of itself: how many 95 % intervals hold 1
    copies  whether two copies of the backbone differ for as long as they live, and whether they do
            where they are copied anew every few rounds, as is done (analysis of variance)
    ranks   the same architectures measured twice, at different moments: rank correlation and
            differences; beside it the naive way, the means of a loop of passes for each
    load    a training process on the other core: the bias of what is called conclusive
    busy    a training process that holds the machine's lock in common, as workers of a search do

    python benchmarks/latency.py
    python benchmarks/latency.py --sections aa load --backbone resnet18 --image-size 64
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import f_oneway, spearmanr
from torch import nn

from gcsearch.architecture import Architecture
from gcsearch.backbones import build_backbone
from gcsearch.cost import RUNTIMES, LatencyProbe, LatencyRatio, LatencySettings, share_weights
from gcsearch.cost.pairs import BLOCK_ROUNDS, Times, n_blocks
from gcsearch.cost.runtimes import Eager
from gcsearch.machine import environment, n_cores, pinned
from gcsearch.space import SearchSpace, SpaceSettings, select_sites
from gcsearch.surgery import find_sites, insert

SECTIONS = ("aa", "copies", "ranks", "load", "busy")
TRAINING = """
import os, sys, torch, torchvision
from contextlib import nullcontext
from gcsearch.machine import together
hold = together if sys.argv[1] == "together" else nullcontext
if sys.argv[2] != "all":
    os.sched_setaffinity(0, {int(sys.argv[2])})
    torch.set_num_threads(1)
model = torchvision.models.resnet18()
optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
images, labels = torch.randn(32, 3, 64, 64), torch.zeros(32, dtype=torch.long)
print("ready", flush=True)
while True:
    with hold():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
"""


@dataclass(frozen=True)
class Bench:
    """What all sections measure: a backbone, architectures of its space, how to time them."""

    backbone: str
    size: tuple[int, ...]
    settings: LatencySettings
    architectures: list[Architecture]
    model: nn.Module

    def probe(self, **settings: object) -> LatencyProbe:
        """Return a probe, with some settings changed."""
        return LatencyProbe(self.model, self.size, self.settings.model_copy(update=settings))

    def altered(self, architecture: Architecture) -> nn.Module:
        """Return an altered network on the backbone's weights."""
        copy = share_weights(self.model)
        return insert(copy, architecture.insertions, input_size=self.size)


def make_bench(options: argparse.Namespace) -> Bench:
    """Draw architectures of one to four insertions in turn from the default space."""
    model = build_backbone(options.backbone)
    size = (3, options.image_size, options.image_size)
    sites = select_sites(find_sites(model, size), ["auto"])
    rng, drawn = np.random.default_rng(options.seed), []
    for n in range(options.architectures):
        space = SearchSpace(options.backbone, sites, SpaceSettings(max_insertions=1 + n % 4))
        architecture = space.random(rng)
        while len(architecture.insertions) != 1 + n % 4:
            architecture = space.random(rng)
        drawn.append(architecture)
    settings = LatencySettings(
        image_size=options.image_size,
        precision=options.precision,
        time_limit_s=options.time_limit,
        threads=options.threads,
    )
    return Bench(options.backbone, size, settings, drawn, model.eval())


def show_aa(bench: Bench, n: int) -> None:
    """Print how often the backbone equals itself."""
    probe = bench.probe()
    results = [probe.measure(share_weights(bench.model), seed=10 * i) for i in range(n)]
    sure = [r for r in results if r.conclusive]
    print(f"aa      {len(sure)} of {n} conclusive; seconds each, median "
          f"{np.median([r.seconds for r in results]):.1f}, most "
          f"{max(r.seconds for r in results):.1f}")  # fmt: skip
    if sure:
        hits = [r.low <= 1 <= r.high for r in sure]
        widths = [(r.high - r.low) / 2 for r in sure]
        print(f"        1 lies within {np.mean(hits):.1%} of their intervals; half-width, median "
              f"{np.median(widths):.4f}; ratio from {min(r.ratio for r in sure):.4f} to "
              f"{max(r.ratio for r in sure):.4f}")  # fmt: skip
    for reason in sorted({r.reason for r in results if r.reason}):
        print(f"        inconclusive: {reason}")


@RUNTIMES.register("eager, copies kept")
class Kept(Eager):
    """Eager torch whose models stay where they are for a whole measurement."""

    is_instant = False


def show_copies(bench: Bench, n: int) -> None:
    """Print how much more pairs of copies differ than what varies within each of them."""
    blocks: dict[str, list[np.ndarray]] = {"eager": [], "eager, copies kept": []}
    for i in range(n):
        for runtime, found in blocks.items():
            settings = bench.settings.model_copy(update={"runtime": runtime, "disturbance": 1.0})
            probe = LatencyProbe(share_weights(bench.model), bench.size, settings)
            probe.measure(share_weights(bench.model), seed=10 * i)
            found.append(_block_medians(probe.times))
    for runtime, found in blocks.items():
        variance = f_oneway(*found)
        print(f"copies  {runtime}: {n} pairs of {np.mean([len(x) for x in found]):.0f} blocks; "
              f"F = {variance.statistic:.2f}, p = {variance.pvalue:.3f}")  # fmt: skip


def _block_medians(times: Times) -> np.ndarray:
    """Return the median log ratio of the candidate to the backbone in each block of rounds."""
    whole = np.log(times[: n_blocks(times) * BLOCK_ROUNDS]).reshape(-1, BLOCK_ROUNDS, 3)
    candidate, backbone = whole[:, :, 0], whole[:, :, 1:].reshape(len(whole), -1)
    return np.median(candidate[:, :, None] - backbone[:, None], axis=(1, 2))


def show_ranks(bench: Bench) -> None:
    """Print how far two moments agree, measured in pairs and the naive way."""
    probe = bench.probe()
    networks = [bench.altered(architecture) for architecture in bench.architectures]
    naive_passes = max(10, round(4.0 / _mean_seconds(bench.model, bench, 5)))
    paired, naive = [], []
    for _ in range(2):
        paired.append([probe.measure(network) for network in networks])
        base = _mean_seconds(bench.model, bench, naive_passes)
        naive.append([_mean_seconds(each, bench, naive_passes) / base for each in networks])
    print("ranks   architecture, paired twice, naive twice")
    for row in zip(bench.architectures, *paired, *naive, strict=True):
        print(f"        {len(row[0].insertions)} insertions  {row[1]!s:24}  {row[2]!s:24}  "
              f"{row[3]:.3f}  {row[4]:.3f}")  # fmt: skip
    ratios = [[result.ratio for result in each] for each in paired]
    _print_agreement("paired", *ratios)
    _print_agreement("naive", *naive)
    print(f"        naive: {naive_passes} passes a loop; below 1, though blocks were only added: "
          f"{sum(r < 1 for each in naive for r in each)} of {2 * len(networks)}; paired: "
          f"{sum(r < 1 for each in ratios for r in each)}")  # fmt: skip


def show_load(bench: Bench) -> None:
    """Print the bias under a training process on another core, and on all cores."""
    few = bench.architectures[:4]
    every = os.sched_getaffinity(0)
    with pinned(1) as timed:
        other = min(every - set(timed), default=None)
    rows = [(1, str(other), "on another core")] if other is not None else []
    for threads, core, where in (*rows, (n_cores(), "all", "everywhere")):
        probe = bench.probe(threads=threads)
        quiet = [probe.measure(bench.altered(a)) for a in few]
        with training("alone", core):
            loaded = [probe.measure(bench.altered(a)) for a in few]
        print(f"load    {threads} thread(s), a training process {where}")
        _print_biases(quiet, loaded)


def show_busy(bench: Bench) -> None:
    """Print the bias while a search trains on this machine, which pauses for the measurement."""
    few = bench.architectures[:4]
    probe = bench.probe()
    quiet = [probe.measure(bench.altered(a)) for a in few]
    with training("together", "all"):
        busy = [probe.measure(bench.altered(a)) for a in few]
    print("busy    training that shares the machine's lock, as in a search")
    _print_biases(quiet, busy)


@contextmanager
def training(hold: str, core: str) -> Iterator[None]:
    """Train in another process meanwhile."""
    command = [sys.executable, "-c", TRAINING, hold, core]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(1)
        yield
    finally:
        process.kill()
        process.wait()


def _mean_seconds(model: nn.Module, bench: Bench, passes: int) -> float:
    """Time a model as is usual: a loop of passes, and their mean."""
    example = torch.randn(1, *bench.size).contiguous(memory_format=torch.channels_last)
    torch.set_num_threads(bench.settings.threads or n_cores())
    with torch.inference_mode():
        for _ in range(3):
            model(example)
        start = time.perf_counter()
        for _ in range(passes):
            model(example)
    return (time.perf_counter() - start) / passes


def _print_agreement(name: str, first: list[float], second: list[float]) -> None:
    a, b = np.array(first), np.array(second)
    print(f"        {name}: Spearman {spearmanr(a, b).statistic:.2f}, difference "
          f"{np.median(np.abs(a - b)):.2%} in the median, at most "
          f"{np.max(np.abs(a - b)):.2%}")  # fmt: skip


def _print_biases(quiet: list[LatencyRatio], loaded: list[LatencyRatio]) -> None:
    biases, errors = [], []
    for before, after in zip(quiet, loaded, strict=True):
        told = ""
        if before.conclusive and after.conclusive:
            biases.append(after.ratio - before.ratio)
            errors.append(math.hypot(*((each.high - each.low) / 2 for each in (before, after))))
            told = f"bias {biases[-1]:+.2%} +- {errors[-1]:.2%}"
        print(f"        quiet {before}; loaded {after}  {told}")
    if biases:
        error = math.hypot(*errors) / len(errors)
        print(f"        in the mean {np.mean(biases):+.2%} +- {error:.2%} (95 %)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument(
        "--repeats",
        type=int,
        default=50,
        help="measurements of section aa; pairs of section copies are half as many",
    )
    parser.add_argument("--architectures", type=int, default=10)
    parser.add_argument("--precision", type=float, default=0.01)
    parser.add_argument("--time-limit", type=float, default=8.0, help="seconds each, at most")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps(environment()))
    threads = options.threads or n_cores()
    print(
        f"{options.backbone}, {options.image_size} px, precision {options.precision:g}, ", end=""
    )
    print(f"{threads} thread(s), seed {options.seed}", flush=True)
    bench = make_bench(options)
    sections = {
        "aa": lambda: show_aa(bench, options.repeats),
        "copies": lambda: show_copies(bench, max(2, options.repeats // 2)),
        "ranks": lambda: show_ranks(bench),
        "load": lambda: show_load(bench),
        "busy": lambda: show_busy(bench),
    }
    for name in options.sections:
        sections[name]()
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""How well latencies add up: predictions of the additive table against whole measurements.

Builds the table of a backbone, as `gcsearch run --set search.latency_table=true` does, then
measures random architectures of the same space whole. Everything is kept in the database as soon
as it is measured: the same command goes on after a stop.

    python benchmarks/latency_table.py
    python benchmarks/latency_table.py --backbone resnet18 --image-size 64 --architectures 6
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from gcsearch.architecture import Architecture
from gcsearch.config import load_config
from gcsearch.cost import LatencyTable
from gcsearch.cost.table import describe_residuals
from gcsearch.evaluation import Evaluator
from gcsearch.machine import environment
from gcsearch.space import SearchSpace
from gcsearch.study import LatencyStore, open_storage
from gcsearch.study.latency_store import Measurement
from gcsearch.tuning import Listener, build_table

STUDY = "benchmarks/latency_table"


class Printing(Listener):
    """Prints how far the table is."""

    def __init__(self) -> None:
        self.n_entries = 0
        self.n_known: int | None = None

    def table_measured(self, done: int, of: int) -> None:
        """Print every tenth entry; remember how many the database had."""
        self.n_entries = of
        self.n_known = done if self.n_known is None else self.n_known
        if done % 10 == 0 or done == of:
            print(f"table {done}/{of}", flush=True)

    def notice(self, text: str) -> None:
        """Print what is worth a line."""
        print(text, flush=True)


def timed_table(evaluator: Evaluator, space: SearchSpace, store: LatencyStore) -> LatencyTable:
    """Build the table and print what that took."""
    listener, start = Printing(), time.perf_counter()
    table = build_table(evaluator, space, store, listener)
    seconds = time.perf_counter() - start
    print(
        f"{listener.n_entries} entries, {listener.n_known} of them taken from the database; "
        f"{seconds:.0f} s"
    )
    return table


def drawn(space: SearchSpace, n: int) -> list[Architecture]:
    """Return random architectures, the same at every call."""
    rng = np.random.default_rng(0)
    chosen: dict[str, Architecture] = {}
    while len(chosen) < min(n, space.n_architectures - 1):
        architecture = space.random(rng)
        chosen[architecture.id] = architecture
    return list(chosen.values())


def measure_whole(
    evaluator: Evaluator,
    table: LatencyTable,
    store: LatencyStore,
    number: int,
    architecture: Architecture,
) -> None:
    """Measure one architecture, if it can be predicted and comes to a number."""
    prediction = table.predict(architecture)
    if prediction is None:
        print(f"not predicted: {architecture}", flush=True)
        return
    latency = evaluator.measure_latency(architecture)
    if not latency.conclusive:
        print(f"inconclusive: {architecture}", flush=True)
        return
    store.add_measurement(STUDY, number, architecture, latency, prediction)
    table.note(latency.ratio - prediction.ratio)


def report(measurements: list[Measurement]) -> None:
    """Print each prediction against its measurement, then how far they were apart."""
    print("measured  predicted [95 %]         residual  architecture")
    for m in measurements:
        p = m.prediction
        interval = f"{p.ratio:.3f} [{p.low:.3f}, {p.high:.3f}]"
        print(f"{m.ratio:8.3f}  {interval:<23}  {m.residual:+8.3f}  {m.architecture}")
    described = describe_residuals([m.residual for m in measurements])
    if described is None:
        return
    n_inside = sum(m.prediction.low <= m.ratio <= m.prediction.high for m in measurements)
    print(
        f"{described.n} architectures: error {described.median_absolute:.4f} in the median, "
        f"{abs(described.worst):.4f} at worst; measured less predicted {described.median:+.4f} "
        f"in the median; {n_inside} of {described.n} inside their interval"
    )
    if len(measurements) > 2:
        predicted = [m.prediction.ratio for m in measurements]
        correlation = spearmanr(predicted, [m.ratio for m in measurements]).statistic
        print(f"Spearman correlation {correlation:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--architectures", type=int, default=30)
    parser.add_argument("--storage", default="sqlite:///storage/latency_table.db")
    parser.add_argument("--cache", type=Path, default=Path("storage/cache"))
    parser.add_argument("--set", dest="settings", action="append", default=[])
    options = parser.parse_args()
    config = load_config(
        {
            "backbone": options.backbone,
            "data": {"options": {"n_train": 500, "n_val": 250, "n_test": 10}},
            "latency": {"image_size": options.image_size},
        },
        options.settings,
    )
    evaluator = Evaluator(config, cache_dir=options.cache)
    print(json.dumps(environment(evaluator.device)))
    print(json.dumps(vars(options), default=str))
    space = evaluator.space()
    store = LatencyStore(open_storage(options.storage), evaluator.latency_context())
    table = timed_table(evaluator, space, store)
    architectures = drawn(space, options.architectures)
    known = {m.architecture for m in store.measurements()}
    for number, architecture in enumerate(architectures):
        if architecture not in known:
            measure_whole(evaluator, table, store, number, architecture)
    report([m for m in store.measurements() if m.architecture in set(architectures)])


if __name__ == "__main__":
    main()

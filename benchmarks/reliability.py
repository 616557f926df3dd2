"""How far a trial's score tells architectures apart: spread between them against spread of seeds.

Trains one baseline as `gcsearch run` does, then ten or more stratified architectures with several
seeds at the fidelity of a trial, and prints the variance within and between architectures, the
share of the discordant pictures, and the mean of each architecture.

    python benchmarks/reliability.py --backbone resnet18 --seeds 5
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np

from gcsearch.architecture import Architecture, Insertion
from gcsearch.config import load_config
from gcsearch.evaluation import Evaluation, Evaluator, unpack
from gcsearch.intervals import spread_of_seeds
from gcsearch.machine import environment
from gcsearch.proxy.training import Fidelity


def stratified(evaluator: Evaluator) -> list[Architecture]:
    """Return the baseline, one block a stage, each fusion and pooling, and several blocks."""
    stages: dict[int, str] = {}
    for site in evaluator.space().sites:
        stages[site.stage or 0] = site.path  # the last site of each stage
    paths = [path for _, path in sorted(stages.items())]
    first, name = paths[0], evaluator.config.backbone
    chosen: list[tuple[Insertion, ...]] = [()]
    chosen += [(Insertion(path, ratio=1 / 4),) for path in paths]
    chosen += [(Insertion(first, ratio=1 / 16),)]
    chosen += [(Insertion(first, ratio=1 / 4, fusions=("channel_mul",)),)]
    chosen += [(Insertion(first, ratio=1 / 4, pooling="avg"),)]
    chosen += [tuple(Insertion(p, ratio=1 / 4) for p in paths[:2])]
    chosen += [tuple(Insertion(p, ratio=1 / 4) for p in paths[-2:])]
    chosen += [tuple(Insertion(p, ratio=1 / 4) for p in paths)]
    return [Architecture(name, insertions) for insertions in chosen]


def report(rows: list[Evaluation]) -> None:
    """Print a line for each architecture, then the variances."""
    groups: dict[str, list[Evaluation]] = {}
    for row in rows:
        groups.setdefault(str(row.architecture), []).append(row)
    base = {row.seed: row for row in rows if row.architecture.is_baseline}
    print(f"\n{'architecture':<62} top1 mean   sd     gain   loss")
    for text, group in groups.items():
        top1 = np.array([row.top1 for row in group])
        gain = np.mean([row.top1 - base[row.seed].top1 for row in group if row.seed in base])
        loss = np.mean([row.loss for row in group])
        spread = top1.std(ddof=1) if len(top1) > 1 else float("nan")
        print(f"{text[:60]:<62} {top1.mean():.4f}  {spread:.4f} {gain:+.4f}  {loss:.4f}")
    repeated = [group for group in groups.values() if len(group) > 1]
    if len(repeated) < 2:
        return
    for name in ("top1", "loss"):
        within, between = spread_of_seeds(
            [np.array([getattr(row, name) for row in group]) for group in repeated]
        )
        share = between / (between + within)
        print(
            f"{name}: variance between {between:.3e}, within {within:.3e}; "
            f"reliability {share:.3f} of one seed; ratio {between / within:.2f}"
        )
    pairs = [
        float(np.mean(unpack(row.correct) != unpack(base[row.seed].correct)))
        for row in rows
        if not row.architecture.is_baseline and row.seed in base
    ]
    print(f"discordant pictures, median over pairs: {np.median(pairs):.3f}")


def _read(ledger: Path) -> list[Evaluation]:
    """Return what an earlier call of the same settings has measured."""
    if not ledger.exists():
        return []
    return [Evaluation.from_dict(json.loads(line)) for line in ledger.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--data", default="cued-digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--baseline-images", type=int, default=36_000)
    parser.add_argument("--trial-images", type=int, default=6_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--only", type=int, default=None, help="first so many architectures")
    parser.add_argument("--cache", type=Path, default=Path("storage/cache"))
    parser.add_argument("--set", dest="settings", action="append", default=[])
    options = parser.parse_args()
    overrides = [f"backbone={options.backbone}", f"data.source={options.data}", *options.settings]
    config = load_config(None, overrides)
    evaluator = Evaluator(config, cache_dir=options.cache, threads=options.threads)
    print(json.dumps(environment(evaluator.device)))
    print(json.dumps(vars(options), default=str), evaluator.precision)
    kept = options.cache / "baselines"
    fidelity = Fidelity(options.baseline_images // 4, 4)
    path = kept / f"{evaluator.recipe(fidelity)}.safetensors"
    if path.exists():
        evaluator.load_baseline(path.read_bytes())
    else:
        for epoch in evaluator.train_baseline(fidelity):
            print(f"baseline epoch {epoch.number}: top1 {epoch.top1:.4f} loss {epoch.loss:.4f}")
        kept.mkdir(parents=True, exist_ok=True)
        path.write_bytes(evaluator.weights())
    trial = Fidelity(options.trial_images // options.epochs, options.epochs)
    settings = hashlib.sha256(config.training.model_dump_json().encode()).hexdigest()[:8]
    name = f"{path.stem}-{settings}-{trial.images}x{trial.epochs}.jsonl"
    ledger = options.cache / "reliability" / name
    ledger.parent.mkdir(parents=True, exist_ok=True)
    rows = _read(ledger)
    done = {(row.architecture.id, row.seed) for row in rows}
    for seed in range(options.seeds):
        for architecture in stratified(evaluator)[: options.only]:
            if (architecture.id, seed) in done:
                continue
            start = time.perf_counter()
            row, _ = evaluator.evaluate(architecture, trial, seed, with_latency=False)
            rows.append(row)
            with ledger.open("a") as file:
                file.write(json.dumps(row.to_dict()) + "\n")
            seconds = time.perf_counter() - start
            print(
                f"seed {seed} top1 {row.top1:.4f} loss {row.loss:.4f} {seconds:.0f} s  "
                f"{architecture}",
                flush=True,
            )
    report(rows)


if __name__ == "__main__":
    main()

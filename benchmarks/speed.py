"""What makes a default run fit its budget: training speed by size and arithmetic.

Prints pictures a second for a backbone trained whole and with its blocks alone, in float32 and in
this machine's fast mixed precision, and what share of a training step the layers before the first
insertion take, which is the most that keeping their activations could save.

    python benchmarks/speed.py --backbone resnet50
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn

from gcsearch.architecture import Architecture, Insertion
from gcsearch.config import load_config
from gcsearch.evaluation import Evaluator
from gcsearch.machine import environment, n_cores
from gcsearch.proxy.training import measure_speed


class _ReachedError(Exception):
    """Raised by a hook to stop a forward pass at a site."""


def prefix_seconds(model: nn.Module, path: str, size: int, dtype: torch.dtype) -> float:
    """Return the median seconds of a forward pass of 64 pictures up to a site."""
    images = torch.randn(64, 3, size, size).contiguous(memory_format=torch.channels_last)

    def stop(*_: object) -> None:
        raise _ReachedError

    handle = model.get_submodule(path).register_forward_hook(stop)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        try:
            with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                model(images)
        except _ReachedError:
            times.append(time.perf_counter() - start)
    handle.remove()
    return sorted(times)[len(times) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 96])
    options = parser.parse_args()
    torch.set_num_threads(n_cores())
    print(json.dumps(environment()))
    print("size  arithmetic  trained  training img/s  scoring img/s")
    for size in options.sizes:
        for precision in ("fp32", "auto"):
            for trainable in ("all", "blocks"):
                evaluator = _evaluator(options.backbone, size, precision, trainable)
                model = evaluator.build(evaluator.space().typical(), seed=0)
                training, scoring = measure_speed(
                    model,
                    evaluator.task,
                    evaluator.config.training,
                    precision=evaluator.precision,
                )
                shown = f"{size:>4}  {evaluator.precision:<10}  {trainable:<7}"
                print(f"{shown}  {training:14.0f}  {scoring:13.0f}", flush=True)
    _print_prefixes(options.backbone)


def _print_prefixes(backbone: str) -> None:
    """Print what the layers before the last site of each stage take of a blocks-only step."""
    evaluator = _evaluator(backbone, 64, "auto", "blocks")
    dtype = torch.bfloat16 if evaluator.precision == "bf16" else torch.float32
    print("first insertion  training img/s  forward before it, share of the step")
    ends = {site.stage: site.path for site in evaluator.space().sites}
    for path in ends.values():
        model = evaluator.build(Architecture(backbone, (Insertion(path),)), seed=0)
        training, _ = measure_speed(
            model, evaluator.task, evaluator.config.training, precision=evaluator.precision
        )
        share = prefix_seconds(model, path, 64, dtype) / (64 / training)
        print(f"{path:<15}  {training:14.0f}  {share:.2f}", flush=True)


def _evaluator(backbone: str, size: int, precision: str, trainable: str) -> Evaluator:
    data = {"image_size": size, "options": {"n_train": 500, "n_val": 250, "n_test": 10}}
    training = {"precision": precision, "trainable": trainable}
    config = load_config({"backbone": backbone, "data": data, "training": training})
    return Evaluator(config, cache_dir=Path("storage/cache"))


if __name__ == "__main__":
    main()

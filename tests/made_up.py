"""Studies that several test files look at, made up in a moment: nothing is trained or timed."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from gcsearch.architecture import Architecture
from gcsearch.cost import LatencyRatio
from gcsearch.evaluation import Evaluation, Refusal, pack
from gcsearch.plan import Speeds, make_plan
from gcsearch.space import SearchSpace
from gcsearch.study import SearchStudy, StudyRecord, open_storage
from gcsearch.surgery import Site

SITES = [
    Site(f"layer{stage}.{n}", "after-add", stage, 64, (64, 8, 8))
    for stage in (1, 2, 3)
    for n in range(2)
]
TASK = {
    "name": "made up",
    "content_hash": "cafe",
    "n_val": 200,
    "n_classes": 10,
    "image_size": 32,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}


def evaluation_of(
    architecture: Architecture, top1: float, ratio: float, *, seed: int = 0
) -> Evaluation:
    correct = np.arange(200) < round(200 * top1)
    latency = LatencyRatio(
        *(ratio, ratio - 0.01, ratio + 0.01, True, 11.25, 10.0, 40, 1.0),
        *(12.5, 11.0, (1.0, 0.99, 1.01)),
    )
    curve = tuple(
        {"train_loss": 2.0, "loss": loss, "top1": top1 - lack, "seconds": 1.0}
        for loss, lack in [(1.7, 0.05), (1.5, 0.0)]
    )
    counts = (11_000_000, 20_000_000, {"training": 1.0}, 50_000_000)
    ratios = {"macs": 1.001, "params": 1.2, "memory": 1.1}
    return Evaluation(
        *(architecture, seed, float(correct.mean()), 1.5, pack(correct), curve, latency),
        *(*counts, ratios),
    )


def new_study(url: str, config, *, name: str = "made-up", sites=SITES) -> SearchStudy:
    plan = make_plan(config.plan, Speeds(9, 9, 9, 1, 1), n_val=200, n_test=200)
    stored = [asdict(site) for site in sites]
    record = StudyRecord(config.to_dict(), plan.to_dict(), TASK, {"python": "3.11"}, stored)
    return SearchStudy.create(open_storage(url), name, record)


def fill(study: SearchStudy, config, n: int) -> None:
    """Complete the baseline and ``n`` architectures, of which those with att pooling gain."""
    space, rng = SearchSpace("resnet18", SITES, config.space), np.random.default_rng(0)
    for number in range(n + 1):
        proposal = study.ask(space)
        insertions = proposal.architecture.insertions
        gain = 0.1 * any(i.pooling == "att" for i in insertions) if number else 0.0
        top1 = 0.5 + gain + (rng.normal(0, 0.02) if number else 0.0)
        ratio = 1 + 0.02 * len(insertions) + rng.normal(0, 0.002)
        study.complete(proposal.number, evaluation_of(proposal.architecture, top1, ratio))


def refuse_and_fail(study: SearchStudy, config) -> None:
    space = SearchSpace("resnet18", SITES, config.space)
    measured = LatencyRatio(1.4, 1.38, 1.42, True, 14.0, 10.0, 40, 1.0)
    study.refuse(study.ask(space).number, Refusal("latency", 1.3, {"macs": 1.1}, measured))
    study.refuse(study.ask(space).number, Refusal("macs", 1.05, {"macs": 1.1}, None))
    study.fail(study.ask(space).number, "training loss became nan")
    study.ask(space)


def add_checks(study: SearchStudy, architecture: Architecture, top1: float) -> None:
    for seed in (10_000, 10_001):
        study.add_check(evaluation_of(architecture.baseline(), 0.5, 1.0, seed=seed))
        study.add_check(evaluation_of(architecture, top1, 1.0, seed=seed))

"""Studies of ResNet-18 whose trials a test tells, for commands to show; it tests nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gcsearch.architecture import Architecture
from gcsearch.config import SearchConfig
from gcsearch.cost import LatencyRatio
from gcsearch.evaluation import Evaluation, Refusal, pack
from gcsearch.plan import Speeds, make_plan
from gcsearch.space import SearchSpace
from gcsearch.study import SearchStudy, StudyRecord, open_storage
from gcsearch.surgery import Site

TASK = {"name": "made up", "n_classes": 10, "image_size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}
SITES = [Site(path, "after-add", 1, 64, (64, 8, 8)) for path in ("layer1.0", "layer1.1")]


class ToldStudy:
    """A new study that is told how many of 100 pictures each trial has right, and what it costs.

    Args:
        url: Of its database.
        name: Of the study.
        config: Its search.
    """

    def __init__(self, url: str, name: str, config: SearchConfig) -> None:
        plan = make_plan(config.plan, Speeds(9, 9, 9, 1, 1), n_val=100, n_test=100)
        record = StudyRecord(config.to_dict(), plan.to_dict(), TASK, {"python": "3"})
        self.study = SearchStudy.create(open_storage(url), name, record)
        self.space = SearchSpace("resnet18", SITES, config.space)

    def add(self, n_right: int, ratio: float, macs: float = 1.0) -> Architecture:
        """Propose an architecture and tell what came of it."""
        proposal = self.study.ask(self.space)
        correct = np.arange(100) < n_right
        latency = LatencyRatio(ratio, ratio - 0.01, ratio + 0.01, True, 11.0, 10.0, 40, 1.0)
        curve = ({"train_loss": 2.0, "loss": 1.5, "top1": n_right / 100, "seconds": 1.0},)
        measured = Evaluation(
            *(proposal.architecture, 0, n_right / 100, 1.5, pack(correct), curve, latency),
            *(11_000_000, 20_000_000, {"training": 1.0, "latency": 1.0}, 50_000_000),
            {"macs": macs, "params": 1.2, "memory": 1.1},
        )
        self.study.complete(proposal.number, measured)
        return proposal.architecture


def tell(url: str, config: SearchConfig) -> None:
    """Fill a study with the baseline, a better, a worse, a failed and a running trial."""
    told = ToldStudy(url, "tiny", config)
    for n_right, ratio in ((50, 1.001), (70, 1.1), (40, 1.2)):
        told.add(n_right, ratio)
    failed = told.study.ask(told.space)
    told.study.fail(failed.number, "training loss became nan; try a lower learning rate")
    told.study.ask(told.space)


def tell_macs(url: str, config: SearchConfig) -> None:
    """Fill a study that minimises MACs, under a limit on them."""
    told = ToldStudy(url, "macs", config)
    told.add(50, 1.001)
    told.add(70, 1.1, macs=1.0021)
    refused = told.study.ask(told.space)
    told.study.refuse(refused.number, Refusal("macs", 1.01, {"macs": 1.02}, None))


def tell_checked(url: str, config: SearchConfig) -> None:
    """Fill a study, the best of whose trials did not hold on fresh seeds."""
    told = ToldStudy(url, "checked", config)
    for n_right, ratio in ((50, 1.0), (80, 1.2), (70, 1.1)):
        told.add(n_right, ratio)
    held = {0: 50, 1: 51, 2: 65}
    rows = told.study.rows()
    for row in rows:
        for seed in range(10_000, 10_005):
            correct = np.arange(100) < held[row.number] + seed % 2
            top1 = float(correct.mean())
            changed = {"seed": seed, "correct": pack(correct), "top1": top1, "latency": None}
            told.study.add_check(replace(row.evaluation, **changed))
    latency = LatencyRatio(1.125, 1.12, 1.13, True, 11.0, 10.0, 40, 1.0)
    for number in (2, 1):
        told.study.add_retiming(rows[number].architecture, latency)

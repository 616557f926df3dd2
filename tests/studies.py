"""Studies whose trials are told what a test says; it tests nothing."""

from __future__ import annotations

import os
import uuid
from itertools import islice

from optuna.storages import RDBStorage

from gcsearch.architecture import Architecture
from gcsearch.config import load_config
from gcsearch.cost import LatencyRatio
from gcsearch.evaluation import Evaluation
from gcsearch.plan import Speeds, make_plan
from gcsearch.space import SearchSpace, SpaceSettings
from gcsearch.study import SearchStudy, StudyRecord
from gcsearch.surgery import Site

POSTGRES = os.environ.get("GCSEARCH_TEST_POSTGRES")


BASELINE = Architecture("tiny")


PLAN = make_plan(
    load_config({"plan": {"trials": 3}}).plan,
    Speeds(baseline=100, trial=100, scoring=100, latency_s=1, startup_s=1),
    n_val=100,
    n_test=100,
)


def large_space() -> SearchSpace:
    sites = [Site(f"layer{n}.0", "after-add", n, 64, (64, 8, 8)) for n in (1, 2, 3, 4)]
    return SearchSpace("tiny", sites, SpaceSettings())


def small_space() -> SearchSpace:
    """Two sites, one setting: four architectures with the baseline."""
    sites = [Site(f"layer{n}.0", "after-add", n, 64, (64, 8, 8)) for n in (1, 2)]
    settings = SpaceSettings(ratios=(0.25,), poolings=("att",), fusions=("channel_add",))
    return SearchSpace("tiny", sites, settings)


def measured(architecture: Architecture, *, top1: float = 0.5, ratio: float = 1.1) -> Evaluation:
    latency = LatencyRatio(ratio, ratio - 0.01, ratio + 0.01, True, 11.0, 10.0, 40, 1.0)
    curve = ({"train_loss": 2.0, "loss": 1.5, "top1": top1, "seconds": 1.0},)
    seconds = {"training": 1.0, "latency": 1.0}
    counted = (10, 20, seconds, 4000, {"macs": 1.001, "params": 1.2, "memory": 1.05})
    return Evaluation(architecture, 0, top1, 1.5, "4:8A==", curve, latency, *counted)


def make_study(storage: RDBStorage, name: str | None = None, **sections) -> SearchStudy:
    config = load_config({"backbone": "tiny", **sections}).to_dict()
    record = StudyRecord(config, PLAN.to_dict(), {"name": "none"}, {"python": "3"})
    return SearchStudy.create(storage, name or f"s-{uuid.uuid4().hex}", record)


def ask_all(study: SearchStudy, space: SearchSpace, n: int) -> list[Architecture]:
    """Ask and complete up to ``n`` times."""
    done = []
    for proposal in islice(iter(lambda: study.ask(space), None), n):
        study.complete(proposal.number, measured(proposal.architecture))
        done.append(proposal.architecture)
    return done

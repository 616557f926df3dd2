"""A study, a searcher on it and what workers answer, without Ray; it tests nothing."""

from __future__ import annotations

import json
from types import SimpleNamespace

from gcsearch.architecture import Architecture, Insertion
from gcsearch.cost import LatencyRatio
from gcsearch.evaluation import Evaluation, Refusal
from gcsearch.study import Proposal
from gcsearch.tuning import Listener
from gcsearch.tuning.searcher import (
    StudySearcher,
)

FINISHED = StudySearcher.FINISHED


class FakeStudy:
    """Hands out the baseline, then one architecture after the other; remembers what it was told.

    Args:
        n_architectures: How many there are besides the baseline.
    """

    def __init__(self, n_architectures: int = 100) -> None:
        self.n_architectures = n_architectures
        self.asked: list[Architecture] = []
        self.completed: dict[int, Evaluation] = {}
        self.failed: dict[int, tuple[str, bool]] = {}
        self.refused: dict[int, Refusal] = {}

    def ask(self, space):
        number = len(self.asked)
        if number > self.n_architectures:
            return None
        sites = (Insertion(f"layer{number}"),) if number else ()
        self.asked.append(Architecture("tiny", sites))
        return Proposal(number, self.asked[-1])

    def complete(self, number, evaluation):
        self.completed[number] = evaluation

    def fail(self, number, reason, *, retry=False):
        self.failed[number] = (reason, retry)

    def refuse(self, number, refusal):
        self.refused[number] = refusal

    def n_done(self):
        return sum(n > 0 for n in self.completed) + sum(not r for _, r in self.failed.values())

    def baseline(self):
        return self.completed.get(0)


class Heard(Listener):
    def __init__(self) -> None:
        self.events: list[tuple] = []

    def trial_started(self, number, architecture):
        self.events.append(("started", number))

    def trial_epoch(self, number, epoch, top1):
        self.events.append(("epoch", number, epoch, top1))

    def trial_finished(self, number, evaluation, reason):
        self.events.append(("finished", number, reason))

    def trial_refused(self, number, reason):
        self.events.append(("refused", number, reason))

    def table_measured(self, done, of):
        self.events.append(("table", done, of))

    def notice(self, text):
        self.events.append(("notice", text))


def searcher_of(
    study, *, target=3, deadline=None, trial_s=1.0, listener=None, foresight=None
) -> StudySearcher:
    return StudySearcher(
        study,
        SimpleNamespace(),
        target=target,
        deadline=deadline,
        trial_s=trial_s,
        listener=listener or Listener(),
        foresight=foresight,
    )


def answer(architecture: Architecture) -> dict:
    """Return what a worker returns for an architecture."""
    latency = LatencyRatio(1.1, 1.09, 1.11, True, 11.0, 10.0, 40, 1.0)
    evaluation = Evaluation(architecture, 0, 0.5, 1.5, "4:8A==", (), latency, 10, 20, {"s": 1.0})
    return {"evaluation": json.dumps(evaluation.to_dict()), "done": True}


def run_one(searcher: StudySearcher, name: str, result: dict | None = None) -> bool:
    """Let one trial be suggested and end, well unless told otherwise; false when finished."""
    suggested = searcher.suggest(name)
    if suggested == FINISHED:
        return False
    architecture = Architecture.from_dict(suggested["architecture"])
    searcher.on_trial_complete(name, result or answer(architecture))
    return True


def run_until_finished(searcher: StudySearcher, result: dict | None = None) -> int:
    n = 0
    while run_one(searcher, f"ray-{n}", result):
        n += 1
    return n


def slow(high: float) -> Refusal:
    latency = LatencyRatio(high - 0.01, high - 0.02, high, True, 11.0, 10.0, 40, 1.0)
    return Refusal("latency", 1.05, {"macs": 1.1, "params": 1.2}, latency)


def large(macs: float) -> Refusal:
    return Refusal("macs", 1.001, {"macs": macs, "params": 1.2}, None)


def answer_of(refusal: Refusal) -> dict:
    """Return what a worker returns for a refused architecture."""
    return {"refusal": json.dumps(refusal.to_dict()), "done": True}

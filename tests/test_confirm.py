"""Confirming: what is owed, who does it, what becomes of what fails."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from test_results import BASELINE, altered, answers, evaluation_of

from gcsearch.confirm import _tell_plan, _training_s, confirm
from gcsearch.cost import LatencyRatio
from gcsearch.errors import ConfigError
from gcsearch.evaluation import Evaluation
from gcsearch.plan import RAY_STARTUP_S
from gcsearch.tuning import Check, Listener, check_here, owed_checks
from gcsearch.tuning.check_searcher import CheckSearcher
from gcsearch.tuning.suggester import FAILURES_IN_A_ROW, RETRIES
from gcsearch.tuning.worker import Worker

LATENCY = LatencyRatio(1.3, 1.29, 1.31, True, 11.0, 10.0, 40, 1.0)


class MadeUpStudy:
    """What is read and written of a study by a confirmation."""

    def __init__(self, *kept: Evaluation) -> None:
        self.name, self.kept, self.timed = "made-up", list(kept), {}
        self.record = SimpleNamespace(config={"search": {"seed": 3}})
        self.failed = {}

    def checks(self):
        return self.kept

    def retimings(self):
        return self.timed

    def add_check(self, evaluation):
        self.kept.append(evaluation)

    def add_retiming(self, architecture, latency):
        self.timed[architecture.id] = latency

    def failed_checks(self):
        return set(self.failed)

    def add_failed_check(self, architecture, seed, reason):
        self.failed[architecture.id, seed] = reason


ONE, TWO = altered(1), altered(2)


def test_owed_are_timings_and_then_seed_after_seed_with_its_baseline():
    owed = owed_checks(MadeUpStudy(), [ONE, TWO], 2)
    seeds = [Check(a, seed) for seed in (10_003, 10_004) for a in (BASELINE, ONE, TWO)]
    assert owed == [Check(ONE), Check(TWO), *seeds]
    assert owed_checks(MadeUpStudy(), [], 2) == []


def test_what_is_stored_is_not_owed_again():
    study = MadeUpStudy(
        evaluation_of(BASELINE, answers(50), seed=10_003),
        evaluation_of(TWO, answers(50), seed=10_004),
    )
    study.timed[ONE.id] = LATENCY
    owed = owed_checks(study, [ONE, TWO], 2)
    wanted = [(ONE, 10_003), (TWO, 10_003), (BASELINE, 10_004), (ONE, 10_004)]
    assert owed == [Check(TWO), *(Check(*pair) for pair in wanted)]
    untimed = owed_checks(study, [ONE, TWO], 2, with_timing=False)
    assert untimed == owed[1:]


class FakeEvaluator:
    """Counts the trainings; its networks are their seeds."""

    def __init__(self) -> None:
        self.task = SimpleNamespace(test="the test split")
        self.trained: list[Check] = []

    def evaluate(self, architecture, fidelity, seed, *, split, with_latency):
        assert (fidelity, split, with_latency) == ("as in a trial", "the test split", False)
        self.trained.append(Check(architecture, seed))
        return evaluation_of(architecture, answers(50), seed=seed), seed


def test_check_at_the_end_of_a_run_goes_on_where_it_stopped():
    study, evaluator = MadeUpStudy(), FakeEvaluator()
    plan = SimpleNamespace(trial="as in a trial")
    study.add_check(evaluation_of(BASELINE, answers(50), seed=10_003))
    owed = owed_checks(study, [ONE], 2, with_timing=False)
    models = check_here(owed, study, evaluator, plan, Listener())
    assert evaluator.trained == owed and len(owed) == 3
    assert models == {BASELINE.id: (10_004, 10_004), ONE.id: (10_004, 10_004)}
    assert owed_checks(study, [ONE], 2, with_timing=False) == []


class Heard(Listener):
    """Remembers what became of the checks."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def check_finished(self, evaluation):
        self.done.append(f"seed {evaluation.seed}")

    def retimed(self, architecture, latency):
        self.done.append("timing")

    def check_failed(self, architecture, seed, reason):
        self.done.append(reason)


def searcher_of(*checks: Check, deadline: float | None = None) -> tuple[CheckSearcher, Heard]:
    heard = Heard()
    wanted = {"deadline": deadline, "check_s": 60.0, "listener": heard}
    return CheckSearcher(MadeUpStudy(), checks, **wanted), heard


def evaluated(seed: int) -> dict:
    evaluation = evaluation_of(ONE, answers(50), seed=seed)
    return {"evaluation": json.dumps(evaluation.to_dict())}


NOISY = {"failure": "too noisy", "retry": True}


def test_checks_are_handed_out_once_and_stored():
    searcher, heard = searcher_of(Check(ONE), Check(ONE, 10_003))
    assert searcher.suggest("a") == {"architecture": ONE.to_dict(), "check_seed": None}
    assert searcher.suggest("b") == {"architecture": ONE.to_dict(), "check_seed": 10_003}
    assert searcher.suggest("c") is None and not searcher.is_over
    searcher.on_trial_complete("a", {"latency": json.dumps(asdict(LATENCY))})
    searcher.on_trial_complete("b", evaluated(10_003))
    searcher.on_trial_complete("b", evaluated(10_003))
    assert searcher.suggest("c") == "FINISHED" and searcher.is_over
    assert heard.done == ["timing", "seed 10003"]
    assert searcher._study.timed == {ONE.id: LATENCY} and len(searcher._study.kept) == 1


def test_noisy_timing_is_put_off_and_given_up_in_the_end():
    searcher, heard = searcher_of(Check(ONE))
    for _ in range(RETRIES + 1):
        assert searcher.suggest("a") != "FINISHED"
        searcher.on_trial_complete("a", NOISY)
    assert searcher.suggest("a") == "FINISHED" and not searcher.is_stuck
    assert heard.done == ["too noisy"] * (RETRIES + 1)


def test_timings_that_stay_noisy_do_not_end_the_confirmation():
    many = [Check(altered(number)) for number in range(1, FAILURES_IN_A_ROW + 2)]
    searcher, heard = searcher_of(*many)
    while searcher.suggest("a") != "FINISHED":
        searcher.on_trial_complete("a", NOISY)
    assert not searcher.is_stuck and len(heard.done) == len(many) * (RETRIES + 1)


def test_training_that_diverges_is_remembered_and_not_tried_again():
    searcher, _ = searcher_of(Check(ONE, 10_003), Check(ONE, 10_004))
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"failure": "training loss became nan", "retry": False})
    searcher.suggest("b")
    searcher.on_trial_complete("b", {"crash": "killed"}, error=True)
    study = searcher._study
    assert study.failed == {(ONE.id, 10_003): "training loss became nan"}
    assert Check(ONE, 10_003) not in owed_checks(study, [ONE], 2)
    assert Check(ONE, 10_004) in owed_checks(study, [ONE], 2)


def test_failures_in_a_row_end_the_confirmation():
    searcher, _ = searcher_of(*(Check(ONE, seed) for seed in range(FAILURES_IN_A_ROW + 1)))
    for _ in range(FAILURES_IN_A_ROW):
        searcher.suggest("a")
        searcher.on_trial_complete("a", {"failure": "training loss became nan", "retry": False})
    assert searcher.suggest("a") == "FINISHED" and searcher.is_stuck
    assert searcher.gave_up.endswith("the last one: training loss became nan")


class Steps:
    """An evaluator that says how it was asked, in an evaluation's or a latency's stead."""

    def __init__(self) -> None:
        self.task, self.asked = SimpleNamespace(test="the test split"), []

    def steps(self, architecture, fidelity, seed, *, split=None, with_latency=True):
        self.asked.append((architecture, seed, split, with_latency))
        yield evaluation_of(architecture, answers(50), seed=seed), None

    def conclusive_latency(self, architecture):
        return LATENCY


def test_worker_does_checks_and_trials_one_after_the_other():
    worker = Worker.__new__(Worker)
    worker._evaluator = evaluator = Steps()
    settings = SimpleNamespace(search=SimpleNamespace(seed=3))
    worker._context = SimpleNamespace(fidelity=SimpleNamespace(epochs=1), config=settings)
    told = []
    for task in (
        Check(ONE).to_dict(),
        Check(ONE, 10_003).to_dict(),
        {"architecture": ONE.to_dict()},
    ):
        worker.reset_config(task)
        told.append(worker.step())
    assert LatencyRatio(**json.loads(told[0]["latency"])) == LATENCY
    assert [json.loads(one["evaluation"])["seed"] for one in told[1:]] == [10_003, 3]
    assert evaluator.asked == [(ONE, 10_003, "the test split", False), (ONE, 3, None, True)]


def test_late_confirmation_does_one_check_at_least():
    searcher, _ = searcher_of(Check(ONE, 1), Check(ONE, 2), deadline=0.0)
    assert searcher.suggest("a")["check_seed"] == 1
    searcher.on_trial_complete("a", evaluated(1))
    assert searcher.suggest("b") == "FINISHED" and searcher.is_over and not searcher.is_stuck
    assert searcher.gave_up.startswith("the time budget is spent")


@pytest.mark.parametrize("numbers", [{"seeds": 1}, {"seeds": -3}, {"workers": 0}])
def test_numbers_without_sense_are_refused(numbers):
    with pytest.raises(ConfigError, match="is too few; give at least"):
        confirm(MadeUpStudy(), "sqlite:///none.db", **numbers)


@pytest.mark.parametrize(
    ("searched", "workers", "address", "seconds"),
    [
        (1, 1, None, 4 * 60),
        (1, 2, None, 4 * 60),  # two at a time on one machine, each half as fast
        (2, 1, None, 4 * 30),
        (1, 2, "auto", 2 * 60),  # two machines
    ],
)
def test_time_is_foreseen_by_how_many_share_a_machine(searched, workers, address, seconds):
    told = []
    listener = SimpleNamespace(checks_planned=lambda *numbers: told.append(numbers))
    trained = {"training": 60.0, "latency": 5.0}
    found = [SimpleNamespace(evaluation=SimpleNamespace(seconds=trained))]
    checks = [Check(ONE), *(Check(ONE, seed) for seed in range(4))]
    one_s = _training_s(found, searched, workers, address)
    _tell_plan(checks, found, one_s, workers, listener)
    assert told == [(4, 1, pytest.approx(RAY_STARTUP_S + seconds + 5.0))]

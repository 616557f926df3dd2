"""Confirmation: its statistics by property, what is owed, what goes on after a kill."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from searching import Session, planned
from test_results import BASELINE, FOUND, altered, answers, evaluation_of, with_cost

from gcsearch.confirm import _tell_plan, _training_s, confirm
from gcsearch.cost import LatencyRatio
from gcsearch.errors import ConfigError
from gcsearch.evaluation import Evaluation
from gcsearch.intervals import Interval, holm, paired_gain, paired_p_value
from gcsearch.plan import RAY_STARTUP_S
from gcsearch.results import Confirmation, SearchResult, choose, confirmations, rule_of
from gcsearch.tuning import Check, Listener, check_here, owed_checks
from gcsearch.tuning.check_searcher import CheckSearcher
from gcsearch.tuning.suggester import FAILURES_IN_A_ROW, RETRIES
from gcsearch.tuning.worker import Worker

P_VALUES = st.lists(st.floats(0, 1), max_size=20)
LATENCY = LatencyRatio(1.3, 1.29, 1.31, True, 11.0, 10.0, 40, 1.0)
N_SEEDS = 5


@given(P_VALUES)
def test_holm_never_makes_a_p_value_smaller_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [corrected[i] for i in order] == sorted(corrected)


@given(P_VALUES)
def test_holm_is_at_most_bonferroni_and_that_for_the_smallest(p_values):
    corrected = holm(p_values)
    bonferroni = [min(1.0, p * len(p_values)) for p in p_values]
    assert all(c <= b for c, b in zip(corrected, bonferroni, strict=True))
    assert min(corrected, default=0) == min(bonferroni, default=0)


@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0.4, 0.7))
def test_p_value_is_below_five_per_cent_just_where_the_interval_excludes_zero(seed, n_seeds, top1):
    rng = np.random.default_rng(seed)
    own, base = rng.random((n_seeds, 200)) < top1, rng.random((n_seeds, 200)) < 0.5
    gain, p = paired_gain(own, base), paired_p_value(own, base)
    assert 0 <= p <= 1 and gain.excludes(0.0) == (p < 0.05)
    assert paired_p_value(base, own) == pytest.approx(p)


def trainings(rng: np.random.Generator, n: int, gain: float = 0.0) -> np.ndarray:
    """Return answers of n trainings: pictures differ in difficulty, and seeds in luck."""
    difficulty = np.random.default_rng(1).random(400)
    luck = rng.normal(0, 0.02, (n, 1)) + gain
    return difficulty + luck + rng.normal(0, 0.1, (n, 400)) > 0.5


def share_called(gain: float) -> float:
    rng = np.random.default_rng(0)
    calls = [
        paired_p_value(trainings(rng, N_SEEDS, gain), trainings(rng, N_SEEDS)) < 0.05
        for _ in range(300)
    ]
    return float(np.mean(calls))


def test_equal_networks_are_rarely_told_apart_and_better_ones_often():
    assert share_called(0.0) <= 0.05
    assert share_called(0.1) > 0.8


def checks_of(n_right: dict[int, tuple[int, ...]], first: int = 1) -> list[Evaluation]:
    """Return checks: how many each was right of, seed by seed; number 0 is the baseline."""
    return [
        evaluation_of(altered(number) if number else BASELINE, answers(n), seed=seed)
        for number, many in n_right.items()
        for seed, n in enumerate(many, first)
    ]


def by_number(confirmed: list[Confirmation]) -> dict[int, Confirmation]:
    return {c.finding.number: c for c in confirmed}


def test_confirmation_pairs_by_seed():
    checks = checks_of({0: (40, 60), 4: (50, 70, 99)}) + checks_of({3: (99,)}, first=7)
    (own,) = confirmations(FOUND, checks[::-1])
    assert own.finding.number == 4
    assert (own.seeds, own.gain.value) == (2, pytest.approx(0.1))
    assert (own.baseline_top1, own.top1) == (pytest.approx(0.5), pytest.approx(0.6))


def test_what_has_no_pair_is_not_confirmed():
    assert confirmations(FOUND, checks_of({0: (50,)})) == []
    assert confirmations(FOUND, checks_of({4: (50,)})) == []
    assert confirmations(FOUND, []) == []


def test_spread_between_seeds_widens_the_interval():
    alike, apart = (
        confirmations(FOUND, checks_of({0: (50, 50), 4: many})) for many in ((60, 60), (50, 70))
    )
    assert alike[0].gain.half_width < apart[0].gain.half_width


def test_p_values_are_corrected_for_as_many_as_were_compared():
    base = (50,) * N_SEEDS
    alone = confirmations(FOUND, checks_of({0: base, 4: (57, 58, 59, 60, 61)}))[0]
    both = by_number(
        confirmations(
            FOUND, checks_of({0: base, 4: (57, 58, 59, 60, 61), 3: (49, 51, 50, 48, 52)})
        )
    )
    assert (alone.compared, both[4].compared) == (1, 2)
    assert alone.p_corrected == alone.p_value == both[4].p_value
    assert both[4].p_corrected == pytest.approx(2 * alone.p_value)


def test_shrinkage_is_what_the_search_promised_too_much():
    (own,) = confirmations(FOUND, checks_of({0: (50,) * 5, 4: (54, 55, 56, 55, 55)}))
    assert own.gain.value == pytest.approx(0.05) and own.shrinkage == pytest.approx(0.05)
    assert own.to_dict()["shrinkage"] == pytest.approx(0.05)


def test_latency_is_that_which_was_measured_anew():
    checks = checks_of({0: (50, 50), 3: (60, 60), 4: (60, 60)})
    confirmed = by_number(confirmations(FOUND, checks, {altered(4).id: LATENCY}))
    assert (confirmed[4].latency, confirmed[4].is_retimed) == (Interval(1.3, 1.29, 1.31), True)
    assert (confirmed[3].latency, confirmed[3].is_retimed) == (FOUND[3].latency, False)


def confirmation(number: int, value: float, *, margin: float = 0.01, **other) -> Confirmation:
    usual = {"p_value": 0.5 if margin > abs(value) else 0.001, "compared": 2, "seeds": 5}
    usual |= {"p_corrected": 2 * usual["p_value"], "is_retimed": True, "baseline_top1": 0.5}
    usual |= {"latency": Interval(1.03, 1.02, 1.04), "top1": 0.5 + value}
    gain = Interval(value, value - margin, value + margin)
    return Confirmation(finding=FOUND[number], gain=gain, **(usual | other))


def test_verdict_on_each():
    name = "layer4 gc r1/16 att add"
    assert confirmation(4, 0.018, margin=0.009).verdict == (
        f"{name}: +1.8 points [0.9, 2.7] for 1.030x [1.020, 1.040]"
    )
    assert confirmation(4, 0.01, margin=0.02).verdict.endswith(": within noise")
    assert confirmation(4, -0.03).verdict.endswith(": worse than your backbone")
    luck = confirmation(4, 0.03, p_corrected=0.08).verdict
    assert luck.endswith(": may be the luck of the best of 2 (Holm p 0.08)")
    macs = replace(confirmation(4, 0.03), finding=with_cost(FOUND[4], "macs", 1.002))
    assert "for 1.00200x macs, 1.030x [1.020, 1.040] latency" in macs.verdict


def result_of(*confirmed: Confirmation, limit: float | None = None) -> SearchResult:
    best = choose(FOUND, confirmed=confirmed, limit=limit)
    one, names = [*confirmed], ("s", "sqlite:///s.db", True)
    return SearchResult(*names, FOUND, FOUND, best, None, confirmed=one, limit=limit)


def test_verdict_on_the_whole():
    sure, unsure = confirmation(3, 0.03), confirmation(4, 0.01, margin=0.02)
    keep = "no insertion beats your backbone beyond noise: keep it"
    assert result_of(sure, unsure).verdict == sure.verdict
    assert result_of(unsure).verdict == keep
    assert result_of(sure, limit=1.01).verdict.startswith("what beats your backbone is over")
    assert "was not confirmed" in result_of().verdict
    alone = SearchResult("s", "sqlite:///s.db", True, FOUND[:1], FOUND[:1], FOUND[0], None)
    assert alone.verdict is None


def test_best_is_the_surest_of_the_confirmed():
    low, high = confirmation(3, 0.03), confirmation(4, 0.05, margin=0.04)
    assert choose(FOUND, confirmed=[high, low]).number == 3
    assert choose(FOUND, confirmed=[confirmation(3, 0.01, margin=0.02)]).is_baseline
    assert choose(FOUND, confirmed=[confirmation(3, 0.03, p_corrected=0.06)]).is_baseline


def test_best_goes_by_the_latency_that_was_measured_anew():
    slow = confirmation(4, 0.08, latency=Interval(1.2, 1.19, 1.21))
    assert choose(FOUND, confirmed=[slow, confirmation(3, 0.03)], limit=1.1).number == 3


def test_one_seed_alone_confirms_nothing():
    lucky = confirmation(4, 0.20, seeds=1)
    assert choose(FOUND, confirmed=[lucky, confirmation(3, 0.03)]).number == 3
    assert choose(FOUND, confirmed=[lucky]).is_baseline
    assert lucky.verdict.endswith("with one seed, which may be luck")


def test_what_fails_with_a_seed_is_not_confirmed_by_the_others():
    checks = checks_of({0: (50,) * 5, 4: (80, 81, 82)})
    (own,) = confirmations(FOUND, checks, failed={(altered(4).id, 4), (altered(4).id, 5)})
    assert (own.seeds, own.failed, own.is_sure) == (3, 2, False)
    assert own.verdict.endswith("but its training failed with 2 of 5 seeds")
    assert choose(FOUND, confirmed=[own]).is_baseline


@pytest.mark.parametrize("n_seeds", range(2, 8))
def test_equal_gains_with_every_seed_have_an_interval_and_a_p_value(n_seeds):
    correct, baseline = np.ones((n_seeds, 100), bool), np.ones((n_seeds, 100), bool)
    baseline[:, 0] = False
    assert paired_gain(correct, baseline).value == pytest.approx(0.01)
    assert 0 < paired_p_value(correct, baseline) < 1


def test_rule_says_whether_the_gain_was_confirmed_and_on_how_many_seeds():
    confirmed = [confirmation(3, 0.03)]
    assert rule_of(FOUND[3], confirmed=confirmed).endswith(
        "; its gain was confirmed on 5 fresh seed(s): +3.0 points [2.0, 4.0] for 1.030x "
        "[1.020, 1.040]"
    )
    unsure = [confirmation(3, 0.01, margin=0.02)]
    assert "was not confirmed on 5 fresh seed(s)" in rule_of(FOUND[3], confirmed=unsure)
    assert rule_of(FOUND[4], "knee", confirmed=confirmed).endswith("and was not confirmed")
    assert rule_of(FOUND[4], trial=4).startswith("trial 4 was asked for; its gain is the search's")
    assert rule_of(FOUND[0], confirmed=confirmed).endswith(
        "of 1 tried on fresh seeds, 1 gained beyond noise"
    )


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


@dataclass(frozen=True)
class Confirmed:
    """What was seen of a confirmation that was killed, interrupted and then left alone.

    Args:
        session: With the study, where it lies.
        after_run: What the check at the end of the run had stored.
        killed: What was stored when the first confirmation was killed.
        ctrl_c: Exit code, stdout and stderr of the second, which was interrupted.
        interrupted: What was stored by then.
        last: The same of the third.
        again: The same of one more, which has nothing left to do.
    """

    session: Session
    after_run: list[Evaluation]
    killed: list[Evaluation]
    ctrl_c: tuple[int, str, str]
    interrupted: list[Evaluation]
    last: tuple[int, str, str]
    again: tuple[int, str, str]


SEEDS = ("--seeds", "3")


@pytest.fixture(scope="module")
def confirmed(tiny_config, tmp_path_factory) -> Confirmed:
    config = planned(tiny_config, trials=2, trial_epochs=2, check_seeds=1)
    session = Session(tmp_path_factory.mktemp("confirmed"), config.to_dict())
    run = session.start()
    run.communicate(timeout=300)
    after_run = session.checks()
    first = session.start(*SEEDS, command="confirm")
    session.wait_for(first, lambda: len(session.checks()) > len(after_run))
    first.kill()
    first.communicate()
    killed = session.checks()
    second = session.start(*SEEDS, command="confirm")
    session.wait_for(second, lambda: len(session.checks()) > len(killed))
    os.killpg(second.pid, signal.SIGINT)
    ctrl_c = second.communicate(timeout=120)
    interrupted = session.checks()
    outputs = []
    for _ in range(2):
        process = session.start(*SEEDS, "--json", command="confirm")
        outputs.append((*process.communicate(timeout=300), process.returncode))
    last, again = ((code, out, err) for out, err, code in outputs)
    done = (second.returncode, *ctrl_c)
    return Confirmed(session, after_run, killed, done, interrupted, last, again)


@pytest.mark.slow
def test_killed_confirmation_goes_on_and_trains_nothing_twice(confirmed):
    checks = confirmed.session.checks()
    for kept in (confirmed.after_run, confirmed.killed, confirmed.interrupted):
        assert kept and all(check in checks for check in kept)
    pairs = [(check.architecture.id, check.seed) for check in checks]
    assert len(pairs) == len(set(pairs)) and len(pairs) % 3 == 0
    again = len(checks) - len(confirmed.interrupted)
    assert confirmed.last[2].count("check    seed") == again


@pytest.mark.slow
def test_interrupted_confirmation_says_how_to_go_on(confirmed):
    code, out, err = confirmed.ctrl_c
    assert code == 130 and "Traceback" not in err and "failed" not in out
    assert "to go on: gcsearch confirm --study s --seeds 3 --storage sqlite:///" in err


@pytest.mark.slow
def test_confirmation_is_of_all_that_may_be_best(confirmed):
    code, out, err = confirmed.last
    assert code == 0, err
    told = json.loads(out)["confirmed"]
    assert told and {one["seeds"] for one in told} == {3}
    assert {one["compared"] for one in told} == {len(told)}
    found = json.loads(out)["trials"]
    assert {one["trial"] for one in told} <= {trial["trial"] for trial in found}
    assert set(confirmed.session.study().retimings()) == {one["id"] for one in told}
    assert all(one["retimed"] for one in told)


@pytest.mark.slow
def test_finished_confirmation_has_nothing_left_to_do(confirmed):
    code, out, err = confirmed.again
    assert code == 0 and json.loads(out) == json.loads(confirmed.last[1])
    assert "check    " not in err and "plan" not in err


@pytest.mark.slow
def test_checks_are_what_training_with_that_seed_gives(confirmed):
    from gcsearch.resume import evaluator_of

    study = confirmed.session.study()
    evaluator = evaluator_of(study, confirmed.session.storage)
    for wanted in (confirmed.after_run[-1], confirmed.session.checks()[-1]):
        again, _ = evaluator.evaluate(
            wanted.architecture,
            study.plan.trial,
            wanted.seed,
            split=evaluator.task.test,
            with_latency=False,
        )
        assert (again.correct, again.top1) == (wanted.correct, wanted.top1)

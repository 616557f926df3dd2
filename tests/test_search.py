"""The searcher between Ray Tune and the study; no Ray is started here (test_run.py does)."""

from __future__ import annotations

import pickle
import time

import pytest
from fake_trials import (
    FINISHED,
    FakeStudy,
    Heard,
    answer,
    answer_of,
    large,
    run_one,
    run_until_finished,
    searcher_of,
    slow,
)

from gcsearch.architecture import Architecture
from gcsearch.tuning.searcher import FAILURES_IN_A_ROW, REFUSALS_IN_A_ROW, RETRIES


def test_finished_at_target():
    study = FakeStudy()
    searcher = searcher_of(study, target=3)
    assert run_until_finished(searcher) == 4  # the baseline comes on top
    assert searcher.is_over and not searcher.live and not searcher.gave_up
    assert sorted(study.completed) == [0, 1, 2, 3]


def test_trials_under_way_count_towards_the_target():
    study = FakeStudy()
    searcher = searcher_of(study, target=2)
    suggestions = [searcher.suggest(f"ray-{n}") for n in range(4)]
    assert [s == FINISHED for s in suggestions] == [False, False, False, True]


def test_study_that_goes_on_needs_only_the_rest():
    study = FakeStudy()
    run_until_finished(searcher_of(study, target=2))
    assert run_until_finished(searcher_of(study, target=3)) == 1


def test_nothing_is_left_to_try():
    searcher = searcher_of(FakeStudy(n_architectures=2), target=50)
    assert run_until_finished(searcher) == 3
    assert searcher.is_over and "every architecture" in searcher.gave_up


def test_no_trial_begins_that_would_end_after_the_deadline():
    searcher = searcher_of(FakeStudy(), target=50, deadline=time.monotonic() + 50, trial_s=60)
    assert run_until_finished(searcher) == 2
    assert searcher.is_over and "time budget" in searcher.gave_up


def test_baseline_and_one_architecture_are_compared_however_late():
    study = FakeStudy()
    run_until_finished(searcher_of(study, target=50, deadline=time.monotonic() - 1))
    assert sorted(study.completed) == [0, 1]


def test_evaluation_completes_its_trial():
    study, heard = FakeStudy(), Heard()
    run_one(searcher_of(study, listener=heard), "ray-0")
    assert study.completed[0].architecture == Architecture("tiny")
    assert heard.events == [("started", 0), ("finished", 0, "")]


def test_epochs_are_passed_on():
    heard = Heard()
    searcher = searcher_of(FakeStudy(), listener=heard)
    searcher.suggest("ray-0")
    searcher.on_trial_result("ray-0", {"epoch": 1, "top1": 0.25})
    searcher.on_trial_result("ray-9", {"epoch": 1, "top1": 0.25})  # not one of ours
    assert heard.events == [("started", 0), ("epoch", 0, 1, 0.25)]


def test_foreseen_failure_is_told_with_its_reason():
    study, heard = FakeStudy(), Heard()
    searcher = searcher_of(study, listener=heard)
    run_one(searcher, "ray-0")
    run_one(searcher, "ray-1", {"failure": "loss became nan", "retry": False, "done": True})
    assert study.failed == {1: ("loss became nan", False)}
    assert heard.events[-1] == ("finished", 1, "loss became nan")


def test_error_of_a_worker_is_told():
    study = FakeStudy()
    searcher = searcher_of(study)
    run_one(searcher, "ray-0")
    searcher.suggest("ray-1")
    searcher.on_trial_complete("ray-1", None, error=True)
    searcher.suggest("ray-2")
    searcher.on_trial_result("ray-2", {"crash": "ValueError: no such thing"})
    searcher.on_trial_complete("ray-2", {"crash": "ValueError: no such thing"}, error=True)
    see = "; see the output of `gcsearch run`"
    assert study.failed[1] == (f"its worker ended with an error{see}", False)
    assert study.failed[2] == (f"ValueError: no such thing{see}", False)


def test_trial_stopped_before_its_last_epoch_may_be_tried_again():
    study = FakeStudy()
    searcher = searcher_of(study)
    run_one(searcher, "ray-0")
    run_one(searcher, "ray-1", {"epoch": 1, "top1": 0.5})
    assert study.failed[1][1] is True


def test_late_results_are_ignored():
    study = FakeStudy()
    searcher = searcher_of(study)
    architecture = Architecture.from_dict(searcher.suggest("ray-0")["architecture"])
    searcher.on_trial_complete("ray-0", answer(architecture))
    searcher.on_trial_complete("ray-0", {"failure": "too late", "retry": False})
    searcher.on_trial_complete("ray-7", answer(architecture))
    searcher.on_trial_result("ray-0", {"epoch": 2, "top1": 0.5})
    assert list(study.completed) == [0] and not study.failed


def test_failures_in_a_row_end_the_search():
    study = FakeStudy()
    searcher = searcher_of(study, target=50)
    run_one(searcher, "baseline")
    failure = {"failure": "loss became nan", "retry": False}
    assert run_until_finished(searcher, failure) == FAILURES_IN_A_ROW
    assert searcher.gave_up == "4 trials in a row failed; the last one: loss became nan"


def test_failures_now_and_then_do_not_end_the_search():
    study = FakeStudy()
    searcher = searcher_of(study, target=20)
    for n in range(21):
        is_bad = n and n % FAILURES_IN_A_ROW
        assert run_one(searcher, f"ray-{n}", {"failure": "x", "retry": False} if is_bad else None)
    assert searcher.suggest("ray-21") == FINISHED and not searcher.gave_up


def test_passing_cause_that_does_not_pass_counts_in_the_end():
    study = FakeStudy()
    searcher = searcher_of(study, target=50)
    run_one(searcher, "baseline")
    run_until_finished(searcher, {"failure": "noisy", "retry": True})
    assert [study.failed[n][1] for n in range(1, 5)] == [True] * RETRIES + [False] * 2


def test_baseline_that_fails_for_good_ends_the_search_at_once():
    study = FakeStudy()
    searcher = searcher_of(study, target=50)
    assert run_until_finished(searcher, {"failure": "diverged", "retry": False}) == 1
    assert searcher.gave_up == "the baseline's own trial failed: diverged"
    assert study.failed[0] == ("diverged", True)  # so that the same command tries it again


def test_searcher_is_pickled_without_its_study():
    searcher = searcher_of(FakeStudy())
    assert searcher.set_search_properties(None, None, {})
    assert "_study" not in vars(pickle.loads(pickle.dumps(searcher)))


@pytest.mark.parametrize("failures", [1, RETRIES])
def test_success_forgives_earlier_failures(failures):
    study = FakeStudy()
    searcher = searcher_of(study, target=50)
    run_one(searcher, "baseline")
    for n in range(3 * failures):
        is_bad = n % 3 < failures
        run_one(searcher, f"ray-{n}", {"failure": "noisy", "retry": True} if is_bad else None)
    assert all(retry for _, retry in study.failed.values())


@pytest.mark.parametrize("refusal", [slow(1.2), large(1.01)], ids=["latency", "macs"])
def test_refused_architectures_use_up_no_trial(refusal):
    study, heard = FakeStudy(), Heard()
    searcher = searcher_of(study, target=4, listener=heard)
    for n in range(9):
        assert run_one(searcher, f"ray-{n}", answer_of(refusal) if n % 2 else None)
    assert searcher.suggest("ray-9") == FINISHED and not searcher.gave_up
    assert sorted(study.completed) == [0, 2, 4, 6, 8]
    assert study.refused == dict.fromkeys([1, 3, 5, 7], refusal)
    assert ("refused", 1, refusal.reason) in heard.events


@pytest.mark.parametrize("n_before", [0, 1])
def test_limit_that_none_can_meet_ends_the_search_and_names_the_cheapest(n_before):
    study = FakeStudy()
    searcher = searcher_of(study, target=50)
    for n in range(1 + n_before):
        run_one(searcher, f"ray-{n}")
    run_one(searcher, "cheapest", answer_of(slow(1.08)))
    assert run_until_finished(searcher, answer_of(slow(1.2))) == REFUSALS_IN_A_ROW - 1
    assert searcher.gave_up.startswith("the last 30 architectures were all over latency.limit; ")
    assert f"has latency 1.070 [1.060, 1.080]: layer{1 + n_before} gc r1/16" in searcher.gave_up
    assert searcher.is_stuck is (n_before == 0)


def test_cheapest_under_several_limits_is_what_comes_nearest_to_one():
    searcher = searcher_of(FakeStudy(), target=50)
    run_one(searcher, "baseline")
    run_one(searcher, "large", answer_of(large(1.0025)))  # adds 2.5 times what it may
    run_one(searcher, "cheapest", answer_of(slow(1.08)))  # 1.6 times
    run_until_finished(searcher, answer_of(large(1.1)))
    assert "were all over latency.limit or limits.macs; the cheapest" in searcher.gave_up
    assert "has latency 1.070 [1.060, 1.080]: layer2 gc" in searcher.gave_up
    assert "raise latency.limit or limits.macs, or search fewer" in searcher.gave_up

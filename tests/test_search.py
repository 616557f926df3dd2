"""The searcher between Ray Tune and the study, and what it foresees; no Ray is started here
(test_run.py does)."""

from __future__ import annotations

import json
import math
import pickle
import time
from types import SimpleNamespace

import pytest

from gcsearch.architecture import Architecture, Insertion
from gcsearch.cost import LatencyRatio, Prediction
from gcsearch.cost.table import Entry, plan_groups
from gcsearch.errors import LatencyError
from gcsearch.evaluation import Evaluation, Refusal
from gcsearch.space import SearchSpace, SpaceSettings
from gcsearch.study import Proposal
from gcsearch.surgery import Site
from gcsearch.tuning import Foresight, Listener, build_table, table_work
from gcsearch.tuning.searcher import (
    FAILURES_IN_A_ROW,
    REFUSALS_IN_A_ROW,
    RETRIES,
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


def slow(high: float) -> Refusal:
    latency = LatencyRatio(high - 0.01, high - 0.02, high, True, 11.0, 10.0, 40, 1.0)
    return Refusal("latency", 1.05, {"macs": 1.1, "params": 1.2}, latency)


def large(macs: float) -> Refusal:
    return Refusal("macs", 1.001, {"macs": macs, "params": 1.2}, None)


def answer_of(refusal: Refusal) -> dict:
    """Return what a worker returns for a refused architecture."""
    return {"refusal": json.dumps(refusal.to_dict()), "done": True}


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


class FakeTable:
    """Predicts what it is told to for ``layer1``, ``layer2`` ...; learns residuals."""

    is_tried = True

    def __init__(self, *lows: float | None) -> None:
        self.lows, self.residuals = lows, []

    def predict(self, architecture):
        low = self.lows[int(architecture.insertions[0].site.removeprefix("layer")) - 1]
        return None if low is None else Prediction(low + 0.01, low, low + 0.02)

    def note(self, residual):
        self.residuals.append(residual)


class FakeStore:
    """Keeps entries and measurements in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Entry] = {}
        self.measured: list[tuple] = []

    def entries(self):
        return dict(self.kept)

    def measurements(self):
        return []

    def add_entry(self, part, entry):
        self.kept[part.id] = entry

    def add_measurement(self, study, trial, architecture, latency, prediction):
        self.measured.append((study, trial, architecture, latency.ratio, prediction.ratio))


def test_proposal_whose_lower_bound_is_over_the_limit_reaches_no_worker():
    study, heard = FakeStudy(), Heard()
    foresight = Foresight(FakeTable(1.06, 1.04, 1.2), FakeStore(), "s", 1.05)
    searcher = searcher_of(study, listener=heard, foresight=foresight)
    run_one(searcher, "ray-0")
    suggested = searcher.suggest("ray-1")
    assert suggested["architecture"] == study.asked[2].to_dict()  # its interval holds the limit
    assert searcher.live == {"ray-1": 2}
    reason = "latency 1.070 [1.060, 1.080] (predicted) is over latency.limit 1.05; not measured"
    assert study.refused[1].reason == reason and list(study.refused) == [1]
    assert heard.events[2:] == [("started", 1), ("refused", 1, reason), ("started", 2)]


@pytest.mark.parametrize(("lows", "limit"), [((None, None), 1.05), ((9.0, 9.0), None)])
def test_what_cannot_be_predicted_or_has_no_limit_is_measured(lows, limit):
    study = FakeStudy()
    foresight = Foresight(FakeTable(*lows), FakeStore(), "s", limit)
    assert run_until_finished(searcher_of(study, target=2, foresight=foresight)) == 3
    assert not study.refused


def test_prediction_is_kept_with_what_was_measured_then():
    study, store, table = FakeStudy(), FakeStore(), FakeTable(1.0, 1.0, None)
    searcher = searcher_of(study, target=9, foresight=Foresight(table, store, "mine", 1.05))
    run_one(searcher, "baseline")
    run_one(searcher, "ray-1")
    run_one(searcher, "ray-2", answer_of(slow(1.2)))
    run_one(searcher, "ray-3")
    assert store.measured == [
        ("mine", 1, study.asked[1], 1.1, 1.01),
        ("mine", 2, study.asked[2], pytest.approx(1.19), 1.01),
    ]
    assert table.residuals == [pytest.approx(0.09), pytest.approx(0.18)]


def test_prediction_of_a_failed_trial_is_not_kept():
    store, table = FakeStore(), FakeTable(1.0, 1.0)
    searcher = searcher_of(FakeStudy(), foresight=Foresight(table, store, "s", 1.05))
    run_one(searcher, "baseline")
    run_one(searcher, "ray-1", {"failure": "noisy", "retry": True})
    assert not store.measured and not table.residuals


def test_limit_that_none_can_meet_by_prediction_ends_the_search():
    foresight = Foresight(FakeTable(*[1.3] * 10, 1.2, *[1.3] * 50), FakeStore(), "s", 1.05)
    study = FakeStudy()
    searcher = searcher_of(study, target=50, foresight=foresight)
    assert run_until_finished(searcher) == 1  # the baseline
    assert searcher.is_over and searcher.is_stuck
    assert len(study.refused) == REFUSALS_IN_A_ROW
    assert "has latency 1.210 [1.200, 1.220] (predicted): layer11" in searcher.gave_up


def test_table_that_was_not_tried_yet_refuses_nothing():
    study, table = FakeStudy(), FakeTable(9.0, 9.0)
    table.is_tried = False
    foresight = Foresight(table, FakeStore(), "s", 1.05)
    assert run_until_finished(searcher_of(study, target=2, foresight=foresight)) == 3
    assert not study.refused and len(table.residuals) == 2


SITES = [Site(path, "after-add", 1, 64, (64, 8, 8)) for path in ("a", "b")]
SPACE = SearchSpace("tiny", SITES, SpaceSettings(ratios=(0.25,), poolings=("att",)))


class FakeEvaluator:
    """Times each architecture as it is told to, or not at all."""

    def __init__(self, *outcomes: LatencyRatio | BaseException) -> None:
        self.outcomes, self.timed, self.precisions = list(outcomes), [], []
        self.config = SimpleNamespace(latency=SimpleNamespace(precision=0.01))

    def timed_sites(self):
        return SITES

    def measure_latency(self, architecture, precision=None):
        self.timed.append(architecture)
        self.precisions.append(precision)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def ratio(value: float, conclusive: bool = True) -> LatencyRatio:
    return LatencyRatio(value, value - 0.02, value + 0.02, conclusive, 11.0, 10.0, 40, 1.0)


def test_table_takes_what_there_is_and_measures_the_rest():
    store, heard = FakeStore(), Heard()
    groups = plan_groups(SPACE, SITES)
    store.add_entry(groups[1].part, Entry(1.3, 1.28, 1.32, 2))
    evaluator = FakeEvaluator(ratio(1.2), ratio(1.4))
    assert table_work(evaluator, SPACE, store) == pytest.approx(2 / 2)
    table = build_table(evaluator, SPACE, store, heard)
    assert evaluator.timed == [groups[0].architecture, groups[2].architecture]
    assert heard.events == [("table", 1, 3), ("table", 2, 3), ("table", 3, 3)]
    added = [table.predict(Architecture("tiny", (i,))).ratio - 1 for _, i in SPACE.insertions()]
    assert added == pytest.approx([0.1, 0.15, 0.2] * 2)
    assert table_work(evaluator, SPACE, store) == 0


def test_entry_is_as_precise_as_predictions_from_it_need():
    evaluator = FakeEvaluator(ratio(1.2), ratio(1.4), ratio(1.6))
    build_table(evaluator, SPACE, FakeStore(), Listener())
    assert evaluator.precisions == pytest.approx([0.01 * math.sqrt(2)] * 3)  # at both of two sites


def test_entry_of_a_search_that_needed_less_is_measured_anew():
    store, (group, *_) = FakeStore(), plan_groups(SPACE, SITES)
    build_table(FakeEvaluator(ratio(1.2), ratio(1.4), ratio(1.6)), SPACE, store, Listener())
    store.add_entry(group.part, Entry(1.2, 1.1, 1.3, 2))
    evaluator = FakeEvaluator(ratio(1.25))
    table = build_table(evaluator, SPACE, store, Listener())
    assert evaluator.timed == [group.architecture]
    one = Architecture("tiny", group.architecture.insertions[:1])
    assert table.predict(one).ratio == pytest.approx(1.125)


def test_entry_that_is_no_number_is_left_out_and_tried_again():
    store, heard = FakeStore(), Heard()
    noisy = FakeEvaluator(ratio(1.2), ratio(1.3, conclusive=False), LatencyError("too large"))
    table = build_table(noisy, SPACE, store, heard)
    predictions = [table.predict(Architecture("tiny", (i,))) for _, i in SPACE.insertions()]
    assert [p is None for p in predictions] == [False, True, True] * 2
    notice = heard.events[-1][1]
    assert notice.startswith("2 of 3 entries of the latency table are missing")
    assert notice.endswith("the last: too large")
    again = FakeEvaluator(ratio(1.3), ratio(1.4))
    build_table(again, SPACE, store, heard)
    assert len(store.kept) == 3 and not again.outcomes


def test_entry_is_kept_before_the_next_is_measured():
    store = FakeStore()
    with pytest.raises(KeyboardInterrupt):
        build_table(FakeEvaluator(ratio(1.2), KeyboardInterrupt()), SPACE, store, Listener())
    assert len(store.kept) == 1


def test_no_entry_is_begun_after_the_deadline():
    store = FakeStore()
    heard = Heard()
    build_table(FakeEvaluator(), SPACE, store, heard, deadline=time.monotonic() - 1)
    assert not store.kept and heard.events[-1][1].endswith("the last: the time was up")

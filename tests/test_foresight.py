"""What a searcher foresees from the latency table, and how the table comes to be."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import pytest
from fake_trials import (
    FakeStudy,
    Heard,
    answer_of,
    run_one,
    run_until_finished,
    searcher_of,
    slow,
)

from gcsearch.architecture import Architecture
from gcsearch.cost import LatencyRatio, Prediction
from gcsearch.cost.table import Entry, plan_groups
from gcsearch.errors import LatencyError
from gcsearch.space import SearchSpace, SpaceSettings
from gcsearch.surgery import Site
from gcsearch.tuning import Foresight, Listener, build_table, table_work
from gcsearch.tuning.searcher import REFUSALS_IN_A_ROW


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

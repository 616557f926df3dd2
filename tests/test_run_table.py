"""A search with a latency table: what it foresees to be too slow is neither timed nor trained."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from searching import Heard, planned

from gcsearch.config import load_config
from gcsearch.cost import LatencyRatio, Prediction
from gcsearch.cost.table import Entry, plan_groups
from gcsearch.evaluation import Evaluator
from gcsearch.run import search
from gcsearch.study import LatencyStore, SearchStudy, measurements_of, open_storage


@dataclass(frozen=True)
class Foreseen:
    """A search with a latency table, and the same command once more."""

    heard: Heard
    again: Heard
    study: SearchStudy
    entries: dict[str, Entry]


@pytest.fixture(scope="module")
def foreseen(tiny_config, tmp_path_factory) -> Foreseen:
    """Two sites in each of two stages, one setting; of the second stage it is said to be slow."""
    data = tiny_config.to_dict()
    narrow = {"ratios": ["1/4"], "poolings": ["att"], "fusions": ["channel_add"]}
    data["space"] = {**narrow, "sites": ["layer[12].[01]"], "max_insertions": 2}
    data["latency"]["limit"] = 90
    data["search"]["latency_table"] = True
    config, folder = load_config(data), tmp_path_factory.mktemp("foreseen")
    storage = f"sqlite:///{folder}/studies.db"
    evaluator = Evaluator(config, cache_dir=folder / "cache")
    store = LatencyStore(open_storage(storage), evaluator.latency_context())
    _, slow = plan_groups(evaluator.space(), evaluator.timed_sites())
    store.add_entry(slow.part, Entry(201.0, 200.0, 202.0, n=2))
    right = LatencyRatio(1.0, 0.9, 1.1, True, 1.0, 1.0, 30, 1.0), Prediction(1.0, 0.9, 1.1)
    for trial in range(5):  # so that the table counts as tried
        store.add_measurement("earlier", trial, slow.architecture, *right)
    heard, again = Heard(), Heard()
    search(config, study="s", storage=storage, listener=heard)
    search(planned(config, trials=3), study="s", storage=storage, listener=again)
    study = SearchStudy(open_storage(storage), "s")
    return Foreseen(heard, again, study, store.entries())


@pytest.mark.slow
def test_table_is_measured_once_and_before_the_first_trial(foreseen):
    assert [e for e in foreseen.heard.events if e != "epoch"][4:8] == [
        "table 1/2",
        "table 2/2",
        "trial",
        "trial",
    ]
    assert foreseen.again.events[0] == "table 2/2"
    assert len(foreseen.entries) == 2


@pytest.mark.slow
def test_what_the_table_shows_to_be_over_the_limit_is_never_measured(foreseen):
    rows = [row for row in foreseen.study.rows() if row.duplicate_of is None]
    slow = [row for row in rows if "layer2" in str(row.architecture)]
    assert slow and all(row.state == "PRUNED" and "(predicted)" in row.reason for row in slow)
    assert {str(row.architecture).count("layer1") for row in rows if row.evaluation} == {0, 1, 2}
    assert foreseen.study.n_done() == 3


@pytest.mark.slow
def test_what_is_measured_whole_is_kept_with_its_prediction(foreseen):
    study = foreseen.study
    kept = {m.architecture: m for m in measurements_of(study.storage, study.name)}
    done = [r.evaluation for r in study.rows() if r.evaluation and not r.architecture.is_baseline]
    assert len(done) == len(kept) == 3
    added = next(e.added for e in foreseen.entries.values() if e.ratio < 100)
    for evaluation in done:
        measurement, n = kept[evaluation.architecture], len(evaluation.architecture.insertions)
        assert measurement.ratio == evaluation.latency.ratio
        assert measurement.prediction.ratio == pytest.approx(1 + n * added)

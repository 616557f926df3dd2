"""Whole searches on Ray that end well."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState
from searching import Heard, planned

import gcsearch
from gcsearch.config import SearchConfig, load_config
from gcsearch.errors import ConfigError, GcsearchError, StudyError
from gcsearch.export import read_config
from gcsearch.export.finding import export_finding
from gcsearch.results import SearchResult, candidate_of
from gcsearch.resume import default_study_name, evaluator_of, stored_config
from gcsearch.run import search
from gcsearch.study import SearchStudy, open_storage


@dataclass(frozen=True)
class Finished:
    result: SearchResult
    storage: str
    config: SearchConfig
    heard: Heard

    @property
    def study(self) -> SearchStudy:
        return SearchStudy(open_storage(self.storage), self.result.study)


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory) -> Finished:
    config = planned(tiny_config, trials=3, check_seeds=1, trial_epochs=2)
    storage, heard = f"sqlite:///{tmp_path_factory.mktemp('finished')}/studies.db", Heard()
    result = search(config, study="tiny", storage=storage, listener=heard)
    return Finished(result, storage, config, heard)


@pytest.mark.slow
def test_search_ends_with_as_many_trials_as_planned(finished):
    rows = finished.study.rows()
    assert finished.result.is_complete and finished.study.n_done() == 3
    assert {row.state for row in rows} == {"COMPLETE"}
    assert rows[0].architecture.is_baseline
    assert len({row.architecture.id for row in rows if row.duplicate_of is None}) == 4


@pytest.mark.slow
def test_search_leaves_notes_and_artifacts_for_the_dashboard(finished):
    study = finished.study
    attrs = study.storage.get_study_system_attrs(1)
    ended = [row for row in study.rows() if row.duplicate_of is None]
    assert sum(key.startswith("dashboard:artifacts:") for key in attrs) == 3 * len(ended)
    assert all(f"dashboard:{row.number + 1}:note_ver" in attrs for row in study.rows())
    assert "1 fresh seed(s)" in attrs["dashboard:note_str:0"]
    folder = Path(finished.storage.removeprefix("sqlite:///")).parent / "artifacts"
    assert len(list(folder.iterdir())) == 3 * len(ended)
    assert not any("incomplete" in notice for notice in finished.heard.notices)


@pytest.mark.slow
def test_search_tells_its_listener(finished):
    trials = ["trial", "epoch"] * 4  # the last epoch comes with the evaluation
    assert finished.heard.events == ["baseline"] * 4 + trials + ["check"] * 2


@pytest.mark.slow
def test_every_finding_is_measured(finished):
    for finding in finished.result.findings:
        evaluation = finding.evaluation
        assert 0 <= evaluation.top1 <= 1 and evaluation.latency.conclusive
        assert len(evaluation.curve) == 2 and evaluation.macs > 0
        assert evaluation.curve[-1]["top1"] == evaluation.top1
    assert {f.number for f in finished.result.front} <= {0, 1, 2, 3}


@pytest.mark.slow
def test_candidate_and_baseline_are_checked_on_a_fresh_seed(finished):
    checks = finished.study.checks()
    candidate = candidate_of(finished.result.findings).evaluation.architecture
    assert {e.architecture for e in checks} == {candidate, candidate.baseline()}
    assert {e.seed for e in checks} == {10_000}
    assert finished.result.checked.seeds == 1


@pytest.mark.slow
def test_choice_is_exported_with_its_weights(finished):
    path = finished.result.config_path
    model = gcsearch.build(path)
    assert path.with_suffix(".safetensors").exists()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    best = finished.result.best.evaluation.architecture
    assert read_config(path).architecture == best


@pytest.mark.slow
def test_choice_follows_the_check(finished):
    is_sure = finished.result.checked.is_sure
    assert finished.result.best.is_baseline is not is_sure


@pytest.mark.slow
def test_finished_search_has_nothing_left_to_do(finished):
    heard = Heard()
    again = search(None, study="tiny", storage=finished.storage, listener=heard)
    assert heard.events == [] and again.is_complete
    assert again.config_path == finished.result.config_path
    assert any("weights are taken from" in notice for notice in heard.notices)


@pytest.mark.slow
def test_trial_can_be_repeated_from_the_database_alone(finished):
    study = finished.study
    evaluator = evaluator_of(study, finished.storage)
    wanted = study.rows()[1].evaluation
    again, _ = evaluator.evaluate(
        wanted.architecture, study.plan.trial, wanted.seed, with_latency=False
    )
    assert (again.correct, again.top1) == (wanted.correct, wanted.top1)


@pytest.mark.slow
def test_baseline_of_a_trial_is_what_all_inherit(finished):
    study = finished.study
    evaluator = evaluator_of(study, finished.storage)
    inherited = evaluator.build(study.rows()[1].architecture, seed=0).eval()
    plain = evaluator.build(study.rows()[0].architecture, seed=0).eval()
    pictures = torch.rand(2, 3, 32, 32)
    assert torch.equal(inherited(pictures), plain(pictures))


@pytest.mark.slow
def test_any_finding_can_be_exported_with_trained_weights(finished, tmp_path):
    study = finished.study
    finding = finished.result.findings[1]
    evaluator = evaluator_of(study, finished.storage)
    _, model = evaluator.evaluate(
        finding.evaluation.architecture, study.plan.trial, 0, with_latency=False
    )
    export_finding(study, finding, tmp_path / "a.yaml", rule="by hand", model=model)
    pictures = torch.rand(2, 3, 32, 32)
    built = gcsearch.build(tmp_path / "a.yaml")
    assert torch.allclose(built(pictures), model.eval()(pictures), atol=1e-5)


@pytest.mark.slow
def test_what_is_fixed_for_a_study_cannot_be_changed(finished):
    other = finished.config.model_copy(update={"backbone": "resnet34"})
    with pytest.raises(ConfigError, match="backbone is 'resnet18' in study 'tiny'"):
        search(other, study="tiny", storage=finished.storage)
    with pytest.raises(ConfigError, match=r"plan\.trial_images is 64 in study"):
        search(planned(finished.config, trial_images=999), study="tiny", storage=finished.storage)


@pytest.mark.slow
def test_study_is_gone_on_with_as_it_was_made(finished):
    config = stored_config("tiny", finished.storage)
    assert (config.plan.trials, config.plan.trial_images) == (None, 64)
    assert config.space == finished.config.space
    assert stored_config("none", finished.storage) is None


@pytest.mark.slow
def test_lost_baseline_is_named(finished, tmp_path):
    with pytest.raises(StudyError, match="are gone; `gcsearch run --study tiny` trains them"):
        evaluator_of(finished.study, f"sqlite:///{tmp_path}/elsewhere.db")


@pytest.fixture(scope="module")
def frugal(tiny_config, tmp_path_factory) -> Finished:
    """A search that minimises parameters and refuses about half of all architectures."""
    overrides = ["search.objective=params", "limits.macs=1.0012"]
    config = load_config(planned(tiny_config, trials=4).to_dict(), overrides)
    storage, heard = f"sqlite:///{tmp_path_factory.mktemp('frugal')}/studies.db", Heard()
    result = search(config, study="frugal", storage=storage, listener=heard)
    return Finished(result, storage, config, heard)


@pytest.mark.slow
def test_search_under_a_limit_trains_only_what_keeps_it(frugal):
    rows = [row for row in frugal.study.rows() if row.duplicate_of is None]
    states = [row.state for row in rows]
    assert frugal.result.is_complete and frugal.study.n_done() == 4
    assert states.count("COMPLETE") == 5 and "PRUNED" in states
    assert frugal.heard.events.count("trial") == len(states)
    assert all(f.ratios["macs"] <= 1.0012 for f in frugal.result.findings)
    reasons = [row.reason for row in rows if row.state == "PRUNED"]
    assert all(re.match(r"macs ratio 1\.00\d+ is over limits\.macs 1\.0012;", r) for r in reasons)


@pytest.mark.slow
def test_search_goes_by_the_objective_that_was_chosen(frugal):
    study = optuna.load_study(study_name="frugal", storage=frugal.storage)
    assert study.metric_names == ["top1", "params_ratio"]
    params = {f.number: f.evaluation.params for f in frugal.result.findings}
    told = {t.number: t.values[1] for t in study.trials if t.state == TrialState.COMPLETE}
    assert {n: told[n] for n in params} == {n: params[n] / params[0] for n in params}
    assert {f.number for f in frugal.result.front} <= {t.number for t in study.best_trials}
    assert frugal.result.front[0].is_baseline
    assert all(f.evaluation.latency.conclusive for f in frugal.result.findings)


def test_default_name_depends_on_what_is_fixed(tiny_config):
    name = default_study_name(tiny_config)
    assert name.startswith("resnet18-cued-digits-")
    for other in ("latency.precision=0.3", "search.objective=macs", "limits.macs=1.1"):
        assert default_study_name(load_config(tiny_config.to_dict(), [other])) != name
    plan = tiny_config.plan.model_copy(update={"trials": 99})
    assert default_study_name(tiny_config.model_copy(update={"plan": plan})) == name


def test_folder_that_cannot_be_written_is_found_before_training(tiny_config, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(GcsearchError, match="cannot write"):
        search(tiny_config, storage=f"sqlite:///{tmp_path}/studies.db")

"""What a study minimises, and what its limits refuse."""

from __future__ import annotations

import json
from dataclasses import asdict

import optuna
import pytest
from studies import BASELINE, PLAN, ask_all, large_space, make_study, measured

from gcsearch.cost import Prediction
from gcsearch.errors import StudyError
from gcsearch.evaluation import Evaluation, Refusal
from gcsearch.study import SearchStudy, StudyRecord


def constraints(study: SearchStudy) -> list[list[float]]:
    """Return what the sampler and the dashboard read of each trial."""
    trials = study.storage.get_all_trials(study._study._study_id)
    return [trial.system_attrs["constraints"] for trial in trials]


def test_refused_architecture_is_a_broken_constraint_to_sampler_and_dashboard(storage):
    study = make_study(storage, latency={"limit": 1.12})
    ask_all(study, large_space(), 3)
    slow = study.ask(large_space())
    latency = measured(slow.architecture, ratio=1.3).latency
    study.refuse(slow.number, Refusal("latency", 1.12, {"macs": 1.1}, latency))
    row = study.rows()[slow.number]
    assert (row.state, row.counts, row.reason[:11]) == ("PRUNED", False, "latency 1.3")
    trials = storage.get_all_trials(study._study._study_id)
    assert constraints(study) == [
        [pytest.approx(x)] for x in (1 - 1.12, 1.11 - 1.12, 1.11 - 1.12, 1.31 - 1.12)
    ]
    assert [trial.constraints["0"] > 0 for trial in trials] == [False, False, False, True]


def test_refusal_by_prediction_says_that_nothing_was_measured(storage):
    study = make_study(storage, latency={"limit": 1.12})
    ask_all(study, large_space(), 1)
    measured_one, predicted_one = (study.ask(large_space()).number for _ in range(2))
    latencies = measured(BASELINE, ratio=1.3).latency, Prediction(1.3, 1.2, 1.4)
    for number, latency in zip((measured_one, predicted_one), latencies, strict=True):
        study.refuse(number, Refusal("latency", 1.12, {}, latency))
    attrs = [study._study.get_trials()[n].user_attrs for n in (measured_one, predicted_one)]
    assert [a["predicted"] for a in attrs] == [False, True]
    assert attrs[1]["latency"] == {"ratio": 1.3, "low": 1.2, "high": 1.4}
    assert study.rows()[predicted_one].state == "PRUNED"


def test_sampler_goes_on_with_refused_architectures_and_proposes_none_twice(storage):
    study, space = make_study(storage, latency={"limit": 1.12}), large_space()
    seen = []
    for n in range(16):
        proposal = study.ask(space)
        seen.append(proposal.architecture)
        evaluation = measured(proposal.architecture, ratio=1.3 if n % 2 else 1.05)
        if n % 2:
            study.refuse(proposal.number, Refusal("latency", 1.12, {}, evaluation.latency))
        else:
            study.complete(proposal.number, evaluation)
    assert len(set(seen)) == 16 and study.n_done() == 7


def test_every_limit_is_a_constraint_of_its_own_in_one_order(storage):
    limits = {"memory": 1.5, "params": 1.25, "macs": 1.002}
    study = make_study(storage, limits=limits, latency={"limit": 1.12})
    ask_all(study, large_space(), 2)
    ratios = {"memory": 1.75, "params": 1.5, "macs": 1.0}
    study.refuse(study.ask(large_space()).number, Refusal("params", 1.25, ratios, None))
    assert constraints(study) == [
        pytest.approx([1 - 1.12, 1 - 1.002, 1 - 1.25, 1 - 1.5]),
        pytest.approx([1.11 - 1.12, 1.001 - 1.002, 1.2 - 1.25, 1.05 - 1.5]),
        pytest.approx([0, 1 - 1.002, 0.25, 0.25]),  # its latency was not measured
    ]


def test_study_without_limits_has_no_constraints(study):
    ask_all(study, large_space(), 2)
    trials = study.storage.get_all_trials(study._study._study_id)
    assert not any("constraints" in trial.system_attrs for trial in trials)


@pytest.mark.parametrize(
    ("objective", "ratio"), [("latency", 1.1), ("macs", 1.001), ("params", 1.2), ("memory", 1.05)]
)
def test_cost_that_was_chosen_is_the_second_objective(storage, objective, ratio):
    study = make_study(storage, search={"objective": objective})
    ask_all(study, large_space(), 2)
    assert study._study.metric_names == ["top1", f"{objective}_ratio"]
    assert [trial.values for trial in study._study.get_trials()] == [[0.5, 1.0], [0.5, ratio]]
    assert [d.name for d in study._study.directions] == ["MAXIMIZE", "MINIMIZE"]


def test_trials_show_their_costs(study):
    ask_all(study, large_space(), 2)
    shown = ("macs", "params", "memory")
    attrs = [trial.user_attrs for trial in study._study.get_trials()]
    assert [attrs[1][key] for key in shown] == [20, 10, 4000]
    assert [attrs[1][f"{key}_ratio"] for key in ("latency", *shown)] == [1.1, 1.001, 1.2, 1.05]
    assert [attrs[0][f"{key}_ratio"] for key in ("latency", *shown)] == [1, 1, 1, 1]
    study.refuse(study.ask(large_space()).number, Refusal("macs", 1.5, {"macs": 2.0}, None))
    refused = study._study.get_trials()[2].user_attrs
    assert refused["macs_ratio"] == 2.0 and "latency_ratio" not in refused


def test_dashboard_is_shown_no_long_line(study):
    ask_all(study, large_space(), 2)
    for trial in study._study.get_trials():
        assert max(len(str(value)) for value in trial.user_attrs.values()) < 200


def test_trials_of_old_had_all_among_the_users_attributes(study):
    old = optuna.trial.create_trial(
        values=[0.5, 1.0],
        user_attrs={
            "architecture": BASELINE.to_dict(),
            "evaluation": measured(BASELINE).to_dict(),
        },
    )
    study._study.add_trial(old)
    assert study.baseline().evaluation == measured(BASELINE)


def test_evaluation_without_the_chosen_cost_cannot_end_a_trial(storage):
    study, space = make_study(storage, search={"objective": "memory"}), large_space()
    ask_all(study, space, 1)
    proposal = study.ask(space)
    without = Evaluation(**{**vars(measured(proposal.architecture)), "ratios": {}})
    with pytest.raises(StudyError, match="without a ratio of memory"):
        study.complete(proposal.number, without)


def test_study_of_an_older_version_goes_on_with_latency(study):
    space = large_space()
    old = {**study.record.config, "search": {"seed": 0, "startup_trials": 6, "workers": 1}}
    del old["limits"], old["latency"]["limit"]
    record = json.dumps(asdict(StudyRecord(old, PLAN.to_dict(), {"name": "none"}, {})))
    study._study.set_user_attr("gcsearch", record)
    again = SearchStudy(study.storage, study.name)
    assert (again.record.objectives, again.record.limits) == (("top1", "latency_ratio"), {})
    ask_all(again, space, 2)
    assert [trial.values for trial in study._study.get_trials()] == [[0.5, 1.0], [0.5, 1.1]]

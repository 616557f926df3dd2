"""The study in its database: what is handed out and counted, what outlives a killed process."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import uuid
from contextlib import closing
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage

from gcsearch.architecture import Architecture, Insertion
from gcsearch.config import SearchConfig, load_config
from gcsearch.cost import LatencyRatio, Prediction
from gcsearch.errors import StudyError, UnknownNameError
from gcsearch.evaluation import Evaluation, Refusal
from gcsearch.plan import Speeds, make_plan
from gcsearch.space import SearchSpace, SpaceSettings
from gcsearch.study import SearchStudy, StudyRecord, list_studies, newest_study, open_storage
from gcsearch.study.asking import MAX_DUPLICATES_IN_A_ROW
from gcsearch.study.owner import this_process
from gcsearch.study.storage import run_directory
from gcsearch.surgery import Site

POSTGRES = os.environ.get("GCSEARCH_TEST_POSTGRES")
BASELINE = Architecture("tiny")
PLAN = make_plan(
    load_config({"plan": {"trials": 3}}).plan,
    Speeds(baseline=100, trial=100, scoring=100, latency_s=1, startup_s=1),
    n_val=100,
    n_test=100,
)
ASK_AND_WAIT = """
import sys, time
sys.path.insert(0, sys.argv[3])
from test_study import large_space
from gcsearch.study import SearchStudy, open_storage
study = SearchStudy(open_storage(sys.argv[1]), sys.argv[2])
print(study.ask(large_space()).number, flush=True)
time.sleep(600)
"""


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


@pytest.fixture(params=["sqlite", "postgresql"] if POSTGRES else ["sqlite"])
def url(request, tmp_path):
    return POSTGRES if request.param == "postgresql" else f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture
def storage(url):
    storage = open_storage(url)
    yield storage
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture
def study(storage):
    return make_study(storage)


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.mark.skipif(not POSTGRES, reason="GCSEARCH_TEST_POSTGRES names no PostgreSQL database")
def test_postgresql_url_uses_psycopg():
    storage = open_storage(POSTGRES)
    storage.remove_session()
    storage.engine.dispose()
    assert storage.engine.driver == "psycopg"


def test_first_trial_is_the_baseline(study):
    proposal = study.ask(large_space())
    assert (proposal.number, proposal.architecture) == (0, BASELINE)


def test_what_is_fixed_is_read_back(study):
    again = SearchStudy(study.storage, study.name)
    assert again.record == study.record
    assert again.plan == PLAN
    assert load_config(again.record.config) == SearchConfig(backbone="tiny")


def test_no_architecture_is_handed_out_twice(study):
    architectures = ask_all(study, large_space(), 15)
    assert len({a.id for a in architectures}) == 15


def test_running_architectures_are_not_handed_out_again(study):
    proposals = [study.ask(small_space()) for _ in range(4)]
    assert len({p.architecture.id for p in proposals}) == 4
    assert study.ask(small_space()) is None


def test_what_failed_for_good_is_not_handed_out_again(study):
    proposals = [study.ask(small_space()) for _ in range(4)]
    for proposal in proposals:
        study.fail(proposal.number, "diverged")
    assert study.ask(small_space()) is None


def test_small_space_ends(study):
    assert len(ask_all(study, small_space(), 100)) == 4
    assert study.ask(small_space()) is None


def test_duplicate_is_told_the_known_values(study):
    ask_all(study, small_space(), 100)
    rows = study.rows()
    study._study.enqueue_trial(small_space().encode(rows[1].architecture))
    assert study.ask(small_space()) is None
    row = study.rows()[len(rows)]
    assert (row.state, row.duplicate_of, row.evaluation) == ("COMPLETE", 1, None)
    trials = study._study.get_trials()
    assert trials[row.number].values == trials[1].values


def test_duplicate_of_a_running_trial_fails_and_does_not_count(study):
    space = large_space()
    ask_all(study, space, 1)
    running = study.ask(space)
    study._study.enqueue_trial(space.encode(running.architecture))
    other = study.ask(space)
    row = study.rows()[running.number + 1]
    assert other.architecture != running.architecture
    assert (row.state, row.duplicate_of, row.counts) == ("FAIL", running.number, False)


def test_few_duplicates_are_asked_for_in_a_row(study):
    ask_all(study, small_space(), 100)
    duplicates = [row for row in study.rows() if row.duplicate_of is not None]
    assert len(duplicates) <= MAX_DUPLICATES_IN_A_ROW * 5


def test_done_counts_neither_baseline_nor_duplicates_nor_retries(study):
    space = large_space()
    ask_all(study, space, 2)
    study._study.enqueue_trial(space.encode(study.rows()[1].architecture))
    study.fail(study.ask(space).number, "noisy", retry=True)
    assert study.n_done() == 1
    study.fail(study.ask(space).number, "diverged")
    assert study.n_done() == 2


def test_complete_trial_reads_back(study):
    space = large_space()
    ask_all(study, space, 1)
    proposal = study.ask(space)
    evaluation = measured(proposal.architecture, top1=0.625, ratio=1.25)
    study.complete(proposal.number, evaluation)
    assert study.rows()[1].evaluation == evaluation
    assert study._study.get_trials()[1].values == [0.625, 1.25]


def test_baseline_is_told_as_exactly_one(study):
    proposal = study.ask(large_space())
    study.complete(proposal.number, measured(BASELINE, ratio=1.003))
    assert study._study.get_trials()[0].values == [0.5, 1.0]
    assert study.baseline().evaluation.latency.ratio == 1.003


def test_evaluation_without_latency_cannot_end_a_trial(study):
    number = study.ask(large_space()).number
    without = Evaluation(**{**vars(measured(BASELINE)), "latency": None})
    with pytest.raises(StudyError, match="without a latency"):
        study.complete(number, without)


def test_failure_that_may_pass_can_be_asked_again(study):
    proposals = [study.ask(small_space()) for _ in range(4)]
    study.fail(proposals[2].number, "noisy", retry=True)
    again = study.ask(small_space())
    assert again.architecture == proposals[2].architecture
    assert study.rows()[2].reason == "noisy"


def test_baseline_whose_failure_may_pass_is_asked_next(study):
    study.fail(study.ask(large_space()).number, "noisy", retry=True)
    assert study.ask(large_space()).architecture == BASELINE


def test_requeued_architecture_comes_first(study):
    space = large_space()
    ask_all(study, space, 3)
    interrupted = study.ask(space)
    study.requeue(interrupted.number, "interrupted")
    again = study.ask(space)
    assert again.architecture == interrupted.architecture
    assert again.number > interrupted.number


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_baseline_cut_short_while_it_was_asked_for_is_still_the_baseline(study):
    study._study.enqueue_trial(large_space().encode(BASELINE))
    ask_and_die(study)
    study.requeue(0, "its process ended before any parameter was stored")
    assert study.ask(large_space()).architecture == BASELINE


def test_checks_are_kept_and_replaced(study):
    first, second = measured(BASELINE, top1=0.25), measured(BASELINE, top1=0.75)
    study.add_check(first)
    study.add_check(second)
    assert SearchStudy(study.storage, study.name).checks() == [second]


def test_changed_plan_outlives_the_object(study):
    longer = make_plan(load_config({"plan": {"trials": 9}}).plan, Speeds(9, 9, 9, 1, 1), n_val=9,
                       n_test=9)  # fmt: skip
    study.change_plan(longer)
    assert SearchStudy(study.storage, study.name).plan == longer


def test_other_baseline_weights_are_refused_once_trials_inherited_them(study):
    study.set_baseline("aaa")
    study.set_baseline("bbb")  # nothing has inherited them yet
    ask_all(study, large_space(), 1)
    study.set_baseline("bbb")
    with pytest.raises(StudyError, match="would not compare"):
        study.set_baseline("aaa")


def test_trials_of_a_killed_process_are_requeued_at_once(study, url):
    numbers, child = ask_in_a_child(study, url)
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    assert study.reap() == 1
    row = study.rows()[numbers]
    assert (row.state, row.retry) == ("FAIL", True)
    assert study.ask(large_space()).architecture == row.architecture
    assert study.reap() == 0


def test_trials_of_a_living_process_are_left_alone(study, url):
    number, child = ask_in_a_child(study, url)
    try:
        study.ask(large_space())
        assert study.reap() == 0
        assert [row.state for row in study.rows()] == ["RUNNING", "RUNNING"]
    finally:
        child.kill()
        child.wait(10)
    assert number == 0


def ask_in_a_child(study, url) -> tuple[int, subprocess.Popen]:
    """Return the number of the trial that another process has asked for, and that process."""
    command = [sys.executable, "-c", ASK_AND_WAIT, url, study.name, os.path.dirname(__file__)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with closing(child.stdout):
        return int(child.stdout.readline()), child


def test_trial_nobody_beats_for_is_requeued(study):
    number = study.ask(large_space()).number
    trial_id = study._trials.one(number)._trial_id
    study.storage.set_trial_user_attr(trial_id, "owner", {"host": "elsewhere", "pid": 1})
    assert study.reap() == 0
    make_old(study, trial_id)
    assert study.reap() == 1


def test_heartbeat_keeps_the_trials_of_another_machine(study, monkeypatch):
    monkeypatch.setattr("gcsearch.study.search_study.HEARTBEAT_S", 0.02)
    number = study.ask(large_space()).number
    trial_id = study._trials.one(number)._trial_id
    study.storage.set_trial_user_attr(trial_id, "owner", {"host": "elsewhere", "pid": 1})
    make_old(study, trial_id)
    beaten, record = threading.Event(), study.storage.record_heartbeat
    monkeypatch.setattr(study.storage, "record_heartbeat", lambda i: (record(i), beaten.set()))
    with study.heartbeat({"ray": number}):
        assert beaten.wait(30)
    assert study.reap() == 0


def ask_and_die(study) -> None:
    """Leave what a process leaves that is killed between asking for a trial and signing it."""
    study._study.ask()


def make_old(study, trial_id) -> None:
    """Let an hour pass since a trial's last heartbeat."""
    from optuna.storages._rdb import models

    with study.storage.engine.begin() as connection:
        table = models.TrialHeartbeatModel.__table__
        long_ago = datetime.now() - timedelta(days=2)
        mine = table.c.trial_id == trial_id
        connection.execute(table.update().where(mine).values(heartbeat=long_ago))


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_trial_that_was_never_signed_is_requeued_after_a_while(study, monkeypatch):
    ask_and_die(study)
    assert study.reap() == 0
    monkeypatch.setattr("gcsearch.study.search_study.GRACE_S", -1)
    assert study.reap() == 1


def reap_while_it_lives(study, number: int) -> None:
    """Let another process take a trial for dead, as it does of a machine that was asleep."""
    study.requeue(number, "its process ended before it did")


def test_result_of_a_trial_that_was_taken_for_dead_is_kept(study):
    ask_all(study, large_space(), 1)
    proposal = study.ask(large_space())
    reap_while_it_lives(study, proposal.number)
    study.complete(proposal.number, measured(proposal.architecture, top1=0.7))
    late = study.rows()[-1]
    assert (late.state, late.evaluation.top1, late.reason) == ("COMPLETE", 0.7, None)
    assert study.rows()[proposal.number].state == "FAIL" and study.n_done() == 1
    again = study.ask(large_space())
    assert again.architecture != proposal.architecture  # the queued repetition became a duplicate
    assert [row.duplicate_of for row in study.rows()].count(late.number) == 1


def test_late_result_that_was_repeated_meanwhile_counts_once(study):
    ask_all(study, large_space(), 1)
    proposal = study.ask(large_space())
    reap_while_it_lives(study, proposal.number)
    again = study.ask(large_space())
    assert again.architecture == proposal.architecture
    study.complete(again.number, measured(again.architecture))
    study.complete(proposal.number, measured(proposal.architecture))
    assert study.rows()[-1].duplicate_of == again.number and study.n_done() == 1
    assert [row.is_result for row in study.rows()] == [True, False, True, False]


def test_kill_between_evaluation_and_end_of_a_trial_leaves_no_result(study, monkeypatch):
    ask_all(study, large_space(), 1)
    proposal = study.ask(large_space())
    with monkeypatch.context() as patch:
        patch.setattr(study._trials, "end", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            study.complete(proposal.number, measured(proposal.architecture))
    reap_while_it_lives(study, proposal.number)
    row = study.rows()[proposal.number]
    assert row.evaluation is not None and not row.is_result
    assert study.ask(large_space()).architecture == proposal.architecture


def test_failure_of_a_trial_that_was_taken_for_dead_changes_nothing(study):
    ask_all(study, large_space(), 1)
    proposal = study.ask(large_space())
    reap_while_it_lives(study, proposal.number)
    before = study.rows()
    study.fail(proposal.number, "out of memory")
    study.requeue(proposal.number, "interrupted")
    assert study.rows() == before


def test_study_that_another_process_has_just_made_is_gone_on_with(study, storage):
    ask_all(study, large_space(), 2)
    again, is_new = SearchStudy.create_or_load(storage, study.name, study.record)
    assert not is_new and again.rows() == study.rows()


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


def test_trial_that_was_never_signed_is_requeued_at_once_when_all_drivers_are_gone(study):
    ask_all(study, large_space(), 1)
    with study.heartbeat({}):
        study.storage.create_new_trial(study._study._study_id)
        assert study.reap() == 0  # this process lives, and may be about to sign it
    gone = {**this_process(), "pid": 2**22 + 1}
    study._study.set_user_attr("drivers", [gone])
    assert study.reap() == 1


def test_two_studies_in_one_database_do_not_mix(study):
    other = make_study(study.storage)
    ask_all(study, large_space(), 3)
    ask_all(other, small_space(), 1)
    assert (study.n_done(), other.n_done()) == (2, 0)
    assert {study.name, other.name} <= set(list_studies(study.storage))
    assert newest_study(study.storage) == other.name


def test_name_is_taken_once(study):
    with pytest.raises(StudyError, match="exists already; choose another --study"):
        make_study(study.storage, study.name)


def test_unknown_study_names_the_near_one(sqlite_url):
    study = make_study(open_storage(sqlite_url), "cifar-r50")
    with pytest.raises(UnknownNameError, match="did you mean 'cifar-r50'"):
        SearchStudy(study.storage, "cifar-r5O")


def test_foreign_study_is_refused(sqlite_url):
    storage = open_storage(sqlite_url)
    optuna.create_study(storage=storage, study_name="theirs")
    with pytest.raises(StudyError, match="not made by gcsearch"):
        SearchStudy(storage, "theirs")


def test_study_cut_short_while_it_was_made_is_made_anew(sqlite_url):
    storage = open_storage(sqlite_url)
    optuna.create_study(storage=storage, study_name="mine", directions=["maximize", "minimize"])
    assert make_study(storage, "mine").rows() == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("storage.db", "is not a database URL"),
        ("oracel://host/x", "names an unknown database"),
        ("sqlite://", "would be gone with the process"),
        ("sqlite:///:memory:", "would be gone with the process"),
        ("postgresql://nobody@127.0.0.1:1/none", "postgresql"),
        ("mysql+nodriver://host/x", "names an unknown database"),
        ("postgresql://host:port/x", "is not a database URL"),
    ],
)
def test_bad_url_is_one_line(url, says):
    with pytest.raises(StudyError, match=says) as error:
        open_storage(url)
    assert "\n" not in str(error.value)


def test_missing_driver_is_named_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StudyError, match=r"psycopg.*pip install 'gcsearch\[postgresql\]'"):
        open_storage("postgresql://user@host/studies")


def test_password_is_not_shown(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StudyError) as error:
        open_storage("postgresql://user:secret@host/studies")
    assert "secret" not in str(error.value)


def test_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StudyError, match="cannot be written") as error:
        open_storage(f"sqlite:///{tmp_path}/file/studies.db")
    assert "\n" not in str(error.value)


def test_file_that_is_no_database_is_one_line(tmp_path):
    (tmp_path / "notes.db").write_text("not a database, but long enough to be looked at " * 50)
    with pytest.raises(StudyError, match="file is not a database") as error:
        open_storage(f"sqlite:///{tmp_path}/notes.db")
    assert "\n" not in str(error.value)


def test_folder_in_place_of_a_database_is_one_line(tmp_path):
    with pytest.raises(StudyError, match="unable to open") as error:
        open_storage(f"sqlite:///{tmp_path}")
    assert "\n" not in str(error.value)


def test_missing_database_is_not_made_for_reading(tmp_path):
    with pytest.raises(StudyError, match="there is no database at"):
        open_storage(f"sqlite:///{tmp_path}/none.db", create=False)
    assert not list(tmp_path.iterdir())


def test_sqlite_is_in_wal_mode(sqlite_url, tmp_path):
    open_storage(sqlite_url)
    with closing(sqlite3.connect(tmp_path / "studies.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_opening_leaves_nothing_behind_and_stumbles_over_nothing(sqlite_url, tmp_path):
    open_storage(sqlite_url)
    with closing(sqlite3.connect(tmp_path / "studies.db")) as connection:
        before = connection.execute("SELECT name FROM sqlite_master").fetchall()
        connection.execute("CREATE TABLE gcsearch_write_test (n INTEGER)")
    open_storage(sqlite_url)  # what a killed process of an older version may have left
    assert not any("write_test" in name for (name,) in before)


def test_read_only_database_is_found_at_once(sqlite_url, tmp_path):
    open_storage(sqlite_url).engine.dispose()
    uri = f"sqlite:///file:{tmp_path}/studies.db?mode=ro&uri=true"
    with pytest.raises(StudyError, match="readonly"):
        open_storage(uri)
    assert not Path("file:").exists()  # what a path taken for a plain one would leave behind


def test_locked_database_is_waited_for_and_nothing_is_lost(sqlite_url, tmp_path):
    study = make_study(open_storage(sqlite_url))
    proposal = study.ask(large_space())
    locker = sqlite3.connect(tmp_path / "studies.db", check_same_thread=False)
    locker.isolation_level = None
    locker.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(1.0, lambda: (locker.execute("COMMIT"), locker.close()))
    timer.start()
    study.complete(proposal.number, measured(BASELINE))
    timer.join()
    assert study.baseline().evaluation == measured(BASELINE)


def test_files_of_a_study_lie_beside_its_database():
    assert run_directory("sqlite:///runs/a.db").as_posix() == "runs"
    assert run_directory("postgresql://host/studies").as_posix() == "storage"


def test_insertions_survive_the_database(study):
    space = large_space()
    wanted = Architecture("tiny", (Insertion("layer3.0", ratio=1 / 8, pooling="avg"),))
    ask_all(study, space, 1)
    study._study.enqueue_trial(space.encode(wanted))
    assert study.ask(space).architecture == wanted
    assert study.rows()[1].architecture == wanted

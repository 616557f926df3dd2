"""Trials whose process died, seemed to have died, or told its result too late."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from datetime import datetime, timedelta

import pytest
from studies import BASELINE, ask_all, large_space, measured

from gcsearch.study.owner import this_process

ASK_AND_WAIT = """
import sys, time
sys.path.insert(0, sys.argv[3])
from studies import large_space
from gcsearch.study import SearchStudy, open_storage
study = SearchStudy(open_storage(sys.argv[1]), sys.argv[2])
print(study.ask(large_space()).number, flush=True)
time.sleep(600)
"""


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


def test_trial_that_was_never_signed_is_requeued_at_once_when_all_drivers_are_gone(study):
    ask_all(study, large_space(), 1)
    with study.heartbeat({}):
        study.storage.create_new_trial(study._study._study_id)
        assert study.reap() == 0  # this process lives, and may be about to sign it
    gone = {**this_process(), "pid": 2**22 + 1}
    study._study.set_user_attr("drivers", [gone])
    assert study.reap() == 1


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_baseline_cut_short_while_it_was_asked_for_is_still_the_baseline(study):
    study._study.enqueue_trial(large_space().encode(BASELINE))
    ask_and_die(study)
    study.requeue(0, "its process ended before any parameter was stored")
    assert study.ask(large_space()).architecture == BASELINE

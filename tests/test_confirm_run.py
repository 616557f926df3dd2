"""A confirmation that is killed and interrupted goes on to its end, and loses nothing."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass

import pytest
from searching import Session, planned

from gcsearch.evaluation import Evaluation


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

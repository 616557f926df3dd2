"""A search that is killed and interrupted at every stage goes on to its end, and loses nothing."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
from searching import Session, planned

from gcsearch.evaluation import Evaluation
from gcsearch.study import TrialRow


@dataclass(frozen=True)
class Interrupted:
    """What was seen of a search that was killed and interrupted at every stage, then left alone.

    Args:
        in_baseline: Output of the first run, killed while it trained the baseline.
        killed_rows: The trials, when the second run was killed.
        after_ctrl_c: The trials, when the third run was interrupted.
        ctrl_c: Exit code, stdout and stderr of the third run.
        killed_checks: The checks, when the fourth run was killed.
        last: Exit code, stdout and stderr of the fifth.
        rows: The trials in the end.
        checks: The checks in the end.
    """

    in_baseline: str
    killed_rows: list[TrialRow]
    after_ctrl_c: list[TrialRow]
    ctrl_c: tuple[int, str, str]
    killed_checks: list[Evaluation]
    last: tuple[int, str, str]
    rows: list[TrialRow]
    checks: list[Evaluation]


@pytest.fixture(scope="module")
def interrupted(tiny_config, tmp_path_factory) -> Interrupted:
    config = planned(tiny_config, trials=6, trial_epochs=2, check_seeds=2)
    session = Session(tmp_path_factory.mktemp("interrupted"), config.to_dict())
    first = session.start()
    in_baseline = "".join(iter_until(first.stdout, "baseline epoch 1/"))
    first.kill()
    first.communicate()
    second = session.start()
    session.wait_for(second, lambda: session.is_in_trial(1))
    second.kill()
    second.communicate()
    killed_rows = session.rows()
    third = session.start()
    session.wait_for(third, lambda: session.is_in_trial(3))
    os.killpg(third.pid, signal.SIGINT)
    output = third.communicate(timeout=120)
    after = session.rows()
    fourth = session.start()
    session.wait_for(fourth, lambda: len(session.checks()) >= 1)
    fourth.kill()
    fourth.communicate()
    killed_checks = session.checks()
    fifth = session.start("--json")
    last = fifth.communicate(timeout=300)
    return Interrupted(
        in_baseline,
        killed_rows,
        after,
        (third.returncode, *output),
        killed_checks,
        (fifth.returncode, *last),
        session.rows(),
        session.checks(),
    )


def iter_until(lines: Iterable[str], text: str) -> Iterator[str]:
    """Yield lines up to the first that holds ``text``."""
    for line in lines:
        yield line
        if text in line:
            return
    raise AssertionError(f"{text!r} was never printed")


@pytest.mark.slow
def test_search_killed_in_its_baseline_trains_it_anew_in_the_same_study(interrupted):
    assert "plan" in interrupted.in_baseline
    assert "PRUNED" not in [row.state for row in interrupted.killed_rows]
    assert interrupted.killed_rows[0].architecture.is_baseline


@pytest.mark.slow
def test_search_that_goes_on_still_tells_gains(interrupted):
    lines = [line for line in interrupted.ctrl_c[1].splitlines() if line.startswith("trial ")]
    assert lines and all(re.search(r"top1 0\.\d+ \([+-]", line) for line in lines)


@pytest.mark.slow
def test_nothing_is_lost_of_a_killed_check(interrupted):
    kept = interrupted.killed_checks
    assert kept and all(check in interrupted.checks for check in kept)
    pairs = [(check.architecture.id, check.seed) for check in interrupted.checks]
    assert len(pairs) == len(set(pairs)) == 4
    again = len(interrupted.checks) - len(kept)
    assert interrupted.last[2].count("check    seed") == again


@pytest.mark.slow
def test_killed_search_goes_on_without_training_the_baseline_again(interrupted):
    for _, out, err in (interrupted.ctrl_c, interrupted.last):
        assert "the baseline's weights are taken from" in out + err
        assert "baseline epoch" not in out + err
    assert (
        sum(r.evaluation is not None and r.architecture.is_baseline for r in interrupted.rows) == 1
    )


@pytest.mark.slow
def test_nothing_is_lost_of_a_killed_search(interrupted):
    kept = [row for row in interrupted.killed_rows if row.state == "COMPLETE"]
    assert kept and kept == [row for row in interrupted.rows if row in kept]


@pytest.mark.slow
def test_interrupted_search_leaves_no_trial_running(interrupted):
    code, out, err = interrupted.ctrl_c
    assert code == 130 and "Traceback" not in err
    assert "to go on: gcsearch run --study s" in out + err
    assert "RUNNING" not in [row.state for row in interrupted.after_ctrl_c]


@pytest.mark.slow
def test_search_goes_on_to_its_end(interrupted):
    code, out, err = interrupted.last
    assert code == 0, err
    data = json.loads(out)
    assert data["complete"] and len(data["trials"]) == 7
    assert {row.state for row in interrupted.rows} <= {"COMPLETE", "FAIL"}
    assert sum(row.counts for row in interrupted.rows) == 6


@pytest.mark.slow
def test_no_architecture_is_trained_to_its_end_twice(interrupted):
    trained = [row.architecture.id for row in interrupted.rows if row.evaluation]
    assert len(trained) == len(set(trained)) == 7


@pytest.mark.slow
def test_what_was_cut_short_is_tried_again(interrupted):
    cut = [r for r in interrupted.rows if r.state == "FAIL" and r.duplicate_of is None]
    complete = {row.architecture.id for row in interrupted.rows if row.evaluation}
    assert cut and all(row.retry and row.reason for row in cut)
    assert {row.architecture.id for row in cut if row.architecture} <= complete

"""What commands show of a study: status, front, confirmation, progress."""

from __future__ import annotations

import io
import json
import re
import sqlite3
from contextlib import closing

import pytest
from rich.console import Console
from told_studies import ToldStudy

from gcsearch.architecture import Architecture
from gcsearch.cli.progress import Progress
from gcsearch.cost import LatencyRatio, Prediction
from gcsearch.study import LatencyStore, SearchStudy, open_storage


@pytest.mark.parametrize("n_complete", [0, 1])
def test_nothing_to_confirm_is_one_line(call, tmp_path, tiny_config, n_complete):
    url = f"sqlite:///{tmp_path}/studies.db"
    study = ToldStudy(url, "new", tiny_config)
    for _ in range(n_complete):
        study.add(50, 1.0)
    code, _, err = call("confirm", "--storage", url)
    assert (code, err.count("\n")) == (1, 1) and "go on with `gcsearch run --study new`" in err


def test_status_tells_every_trial(call, told):
    code, out, _ = call("status", "--storage", told)
    assert code == 0 and "done     3 of 2 architectures, baseline done" in out
    for text in ("COMPLETE", "RUNNING", "FAIL", "training loss became nan"):
        assert text in out


def test_status_tells_how_far_predictions_were_off(call, tmp_path, told):
    assert "prediction" not in call("status", "--storage", told)[1]
    assert json.loads(call("status", "--storage", told, "--json")[1])["residuals"] is None
    original, copy = told.removeprefix("sqlite:///"), f"sqlite:///{tmp_path}/copy.db"
    with (
        closing(sqlite3.connect(original)) as a,
        closing(sqlite3.connect(tmp_path / "copy.db")) as b,
    ):
        a.backup(b)
    store, altered = LatencyStore(open_storage(copy), {}), Architecture("resnet18")
    latency = LatencyRatio(1.2, 1.19, 1.21, True, 11.0, 10.0, 40, 1.0)
    for predicted in (1.1, 1.25):
        store.add_measurement("tiny", 1, altered, latency, Prediction(predicted, 1.0, 1.3))
    said = "table    2 prediction(s) off by 0.075 in the median, +0.100 at worst"
    assert said in call("status", "--storage", copy)[1]
    residuals = json.loads(call("status", "--storage", copy, "--json")[1])["residuals"]
    wanted = {"n": 2, "median": 0.025, "median_absolute": 0.075, "worst": 0.1}
    assert residuals == pytest.approx(wanted)


def test_table_is_told_of_now_and_then():
    printed = io.StringIO()
    progress = Progress(Console(file=printed, width=80), [])
    for done in range(13):
        progress.table_measured(done, 12)
    assert [line.split()[1] for line in printed.getvalue().splitlines()] == [
        "0/12",
        "10/12",
        "12/12",
    ]


def test_status_as_json(call, told):
    data = json.loads(call("status", "--storage", told, "--json")[1])
    assert (data["study"], data["done"], data["planned"]) == ("tiny", 3, 2)
    states = [trial["state"] for trial in data["trials"]]
    assert states == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL", "RUNNING"]
    assert data["trials"][3]["reason"].startswith("training loss became nan")


def test_front_marks_the_choice(call, told):
    code, out, _ = call("front", "--storage", told, "--study", "tiny")
    assert code == 0 and "\x1b" not in out
    assert re.search(r"^ \*.*\+20\.0 \[\+12\.\d, \+27\.\d\].*1\.100 \[1\.090, 1\.110\]", out, re.M)
    assert "-10.0" not in out  # dominated by the baseline


def test_front_shows_what_was_confirmed(call, told_checked):
    code, out, _ = call("front", "--storage", told_checked)
    assert code == 0 and re.search(r"gain, points +confirmed +latency", out)
    assert re.search(r"^ \*.*\+20\.0 \[.*\+15\.0 \[\+8\.\d, \+2", out, re.M)
    data = json.loads(call("front", "--storage", told_checked, "--json")[1])
    assert data["best"]["trial"] == 2
    assert [(one["trial"], one["seeds"]) for one in data["confirmed"]] == [(2, 5), (1, 5)]
    assert data["verdict"] == data["confirmed"][0]["verdict"]


def test_status_shows_what_was_confirmed(call, told, told_checked):
    said = "checked  2 architecture(s) on 5 fresh seed(s): 1 better than the backbone"
    assert said in call("status", "--storage", told_checked)[1]
    assert "checked" not in call("status", "--storage", told)[1]
    data = json.loads(call("status", "--storage", told_checked, "--json")[1])
    assert [one["sure"] for one in data["confirmed"]] == [True, False]


def test_confirmation_that_is_done_shows_every_gain_and_its_shrinkage(call, told_checked):
    code, out, err = call("confirm", "--storage", told_checked)
    assert code == 0, err
    assert re.search(r"^ \*.* 5 +\+20\.0 +\+15\.0 \[.*\] +\+5\.0 .*1\.125 \[", out, re.M)
    assert re.search(r"\+30\.0 +\+1\.0 \[-?\+?\d.*\] +\+29\.0", out)
    assert re.search(r"^verdict  .*: \+15\.0 points \[8\.\d, 2\d\.\d\] for 1\.125x", out, re.M)
    data = json.loads(call("confirm", "--storage", told_checked, "--json")[1])
    assert data["complete"] and [one["retimed"] for one in data["confirmed"]] == [True, True]


def test_interrupted_confirmation_says_how_to_go_on(call, told_checked, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("gcsearch.confirm.confirm", interrupt)
    code, _, err = call("confirm", "--storage", told_checked, "--seeds", "7", "--trust")
    command = f"gcsearch confirm --study checked --seeds 7 --storage {told_checked} --trust"
    assert (code, err) == (130, f"interrupted; to go on: {command}\n")


def test_progress_tells_of_each_check():
    console = Console(file=io.StringIO(), width=200)
    progress, altered = Progress(console, []), Architecture("resnet18")
    progress.checks_planned(10, 2, 120.0)
    progress.check_started(altered, None)
    progress.retimed(altered, LatencyRatio(1.1, 1.09, 1.11, True, 11.0, 10.0, 40, 1.0))
    progress.check_failed(altered, 10_001, "training loss became nan")
    assert console.file.getvalue().splitlines() == [
        "plan     10 training(s) on fresh seeds and 2 timing(s), about 2 min in all",
        "check    timing  latency 1.100 [1.090, 1.110]  baseline",
        "check    seed 10001  failed: training loss became nan  baseline",
    ]
    assert "| 1/12 done" in str(progress._status())


def test_front_as_json(call, told):
    data = json.loads(call("front", "--storage", told, "--json")[1])
    assert [finding["trial"] for finding in data["front"]] == [0, 1]
    assert data["best"]["trial"] == 1 and data["best"]["gain"][0] == pytest.approx(0.2)
    assert len(data["trials"]) == 3


def test_front_shows_the_cost_that_is_minimised(call, told_macs):
    _, out, _ = call("front", "--storage", told_macs)
    assert re.search(r"macs ratio +latency ratio +params", out)
    assert re.search(r"^ \*.* 1\.00210 +1\.100 \[1\.090, 1\.110\]", out, re.M)
    data = json.loads(call("front", "--storage", told_macs, "--json")[1])
    assert data["objectives"] == ["top1", "macs_ratio"]
    assert [f["macs_ratio"] for f in data["front"]] == [1.0, 1.0021]


def test_status_tells_the_cost_that_is_minimised_and_what_was_refused(call, told_macs):
    _, out, _ = call("status", "--storage", told_macs)
    assert "top1 0.700, macs 1.00210  latency 1.100" in out
    assert "PRUNED" in out and "macs ratio 1.02000 is over limits.macs 1.01; not trained" in out
    data = json.loads(call("status", "--storage", told_macs, "--json")[1])
    assert data["objectives"] == ["top1", "macs_ratio"]
    assert [trial["macs_ratio"] for trial in data["trials"]] == [1.0, 1.0021, None]


def test_progress_tells_the_cost_that_is_minimised_beside_the_latency(told_macs):
    evaluation = SearchStudy(open_storage(told_macs), "macs").rows()[1].evaluation
    for objective, told in [("macs", "macs 1.00210  latency"), ("latency", "top1 0.700  latency")]:
        console = Console(file=io.StringIO(), width=300)
        Progress(console, [], objective).trial_finished(1, evaluation, "")
        assert f"{told} 1.100 [1.090, 1.110]  layer1" in console.file.getvalue()

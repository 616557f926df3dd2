"""The command line: one line for each error and its exit code, JSON that parses, files written."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

import gcsearch
from gcsearch.architecture import Architecture, Insertion
from gcsearch.cli import main
from gcsearch.cli.options import parse_duration
from gcsearch.cli.progress import Progress
from gcsearch.config import load_config
from gcsearch.cost import LatencyRatio, Prediction
from gcsearch.errors import ConfigError
from gcsearch.evaluation import Evaluation, Refusal, pack
from gcsearch.plan import Speeds, make_plan
from gcsearch.space import SearchSpace
from gcsearch.study import LatencyStore, SearchStudy, StudyRecord, open_storage
from gcsearch.surgery import Site

HEAVY = ("torch", "ray", "optuna", "sqlalchemy", "pydantic", "numpy")
TASK = {"name": "made up", "n_classes": 10, "image_size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}
SITES = [Site(path, "after-add", 1, 64, (64, 8, 8)) for path in ("layer1.0", "layer1.1")]


def add_trial(
    study: SearchStudy, space: SearchSpace, n_right: int, ratio: float, macs: float = 1.0
) -> Architecture:
    proposal = study.ask(space)
    correct = np.arange(100) < n_right
    latency = LatencyRatio(ratio, ratio - 0.01, ratio + 0.01, True, 11.0, 10.0, 40, 1.0)
    curve = ({"train_loss": 2.0, "loss": 1.5, "top1": n_right / 100, "seconds": 1.0},)
    measured = Evaluation(
        *(proposal.architecture, 0, n_right / 100, 1.5, pack(correct), curve, latency),
        *(11_000_000, 20_000_000, {"training": 1.0, "latency": 1.0}, 50_000_000),
        {"macs": macs, "params": 1.2, "memory": 1.1},
    )
    study.complete(proposal.number, measured)
    return proposal.architecture


@pytest.fixture(scope="module")
def storage(tmp_path_factory, tiny_config):
    """A database with one study: the baseline, a better, a worse, a failed, a running one."""
    url = f"sqlite:///{tmp_path_factory.mktemp('cli')}/studies.db"
    plan = make_plan(tiny_config.plan, Speeds(9, 9, 9, 1, 1), n_val=100, n_test=100)
    record = StudyRecord(tiny_config.to_dict(), plan.to_dict(), TASK, {"python": "3"})
    study = SearchStudy.create(open_storage(url), "tiny", record)
    space = SearchSpace("resnet18", SITES, tiny_config.space)
    add_trial(study, space, 50, 1.001)
    add_trial(study, space, 70, 1.1)
    add_trial(study, space, 40, 1.2)
    study.fail(study.ask(space).number, "training loss became nan; try a lower learning rate")
    study.ask(space)
    return url


@pytest.fixture(scope="module")
def macs_storage(tmp_path_factory, tiny_config):
    """A database with one study that minimises MACs, under a limit on them."""
    url = f"sqlite:///{tmp_path_factory.mktemp('macs')}/studies.db"
    config = load_config(tiny_config.to_dict(), ["search.objective=macs", "limits.macs=1.01"])
    plan = make_plan(config.plan, Speeds(9, 9, 9, 1, 1), n_val=100, n_test=100)
    record = StudyRecord(config.to_dict(), plan.to_dict(), TASK, {"python": "3"})
    study = SearchStudy.create(open_storage(url), "macs", record)
    space = SearchSpace("resnet18", SITES, config.space)
    add_trial(study, space, 50, 1.001)
    add_trial(study, space, 70, 1.1, macs=1.0021)
    study.refuse(study.ask(space).number, Refusal("macs", 1.01, {"macs": 1.02}, None))
    return url


@pytest.fixture(scope="module")
def checked_storage(tmp_path_factory, tiny_config):
    """A database with one study, the best of whose trials did not hold on fresh seeds."""
    url = f"sqlite:///{tmp_path_factory.mktemp('checked')}/studies.db"
    plan = make_plan(tiny_config.plan, Speeds(9, 9, 9, 1, 1), n_val=100, n_test=100)
    record = StudyRecord(tiny_config.to_dict(), plan.to_dict(), TASK, {"python": "3"})
    study = SearchStudy.create(open_storage(url), "checked", record)
    space = SearchSpace("resnet18", SITES, tiny_config.space)
    for n_right, ratio in ((50, 1.0), (80, 1.2), (70, 1.1)):
        add_trial(study, space, n_right, ratio)
    held = {0: 50, 1: 51, 2: 65}
    for row in study.rows():
        for seed in range(10_000, 10_005):
            correct = np.arange(100) < held[row.number] + seed % 2
            top1 = float(correct.mean())
            changed = {"seed": seed, "correct": pack(correct), "top1": top1, "latency": None}
            study.add_check(replace(row.evaluation, **changed))
    latency = LatencyRatio(1.125, 1.12, 1.13, True, 11.0, 10.0, 40, 1.0)
    study.add_retiming(study.rows()[2].architecture, latency)
    study.add_retiming(study.rows()[1].architecture, latency)
    return url


@pytest.fixture(scope="module")
def tiny_yaml(tmp_path_factory, tiny_config):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_config.to_dict()))
    return str(path)


@pytest.fixture
def call(capsys):
    """Run a command in this process; return its exit code, stdout and stderr."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        return (stop.value.code or 0, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, handler)


def python(code: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def test_help_imports_nothing_heavy():
    done = python(
        "import sys; from gcsearch.cli import main\n"
        "try: main(['--help'])\n"
        f"finally: print('HEAVY', [name for name in {HEAVY} if name in sys.modules])"
    )
    assert "HEAVY []" in done.stdout and "export" in done.stdout


def test_version(call):
    assert call("--version") == (0, f"gcsearch {gcsearch.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--backbone", "resent18"], 2, "unknown backbone 'resent18'; did you mean 'resnet18'"),
        (["--backbone", "my.module:build"], 2, "--trust"),
        (["--set", "space.sites=[layr3.*]"], 1, "'layr3.*' fits no site; did you mean 'layer3."),
        (["--set", "space.blocks=[cg]"], 2, "unknown block 'cg'; did you mean 'gc'"),
        (["--data", "cued-digit"], 2, "unknown proxy task 'cued-digit'; did you mean"),
        (["--data", "npz:no.npz", "--set", "data.options={}"], 1, "npz:no.npz: no such file"),
        (["--storage", "studies.db"], 1, "'studies.db' is not a database URL"),
        (["--set", "space.max_insertion=2"], 2, "did you mean 'max_insertions'"),
        (["--set", "space"], 2, "--set 'space' is not of the form key=value"),
        (["--budget", "soon"], 2, "--budget: 'soon' is not a duration; write 90s"),
        (["--budget", "0"], 2, "--budget: '0' is not a duration"),
        (["--trials", "0"], 2, "plan.trials = 0"),
        (["--set", "training.device=abacus"], 2, "training.device 'abacus' cannot be used"),
        (["--set", "weights=NONE"], 2, "unknown weights of resnet18 'NONE'"),
    ],
)
def test_run_says_what_is_wrong_in_one_line(call, tiny_yaml, tmp_path, arguments, code, says):
    where = [] if "--storage" in arguments else ["--storage", f"sqlite:///{tmp_path}/studies.db"]
    got, out, err = call("run", "--config", tiny_yaml, *where, *arguments)
    assert (got, out, err.count("\n")) == (code, "", 1), err
    assert err.startswith("error: ") and says in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["front", "--study", "tinny"], 2, "unknown study 'tinny'; did you mean 'tiny'"),
        (["confirm", "--study", "tinny"], 2, "unknown study 'tinny'; did you mean 'tiny'"),
        (["confirm", "--seeds", "1"], 2, "--seeds: 1 is too few; give at least 2"),
        (["confirm", "--workers", "0"], 2, "--workers: 0 is too few; give at least 1"),
        (["confirm", "--budget", "soon"], 2, "--budget: 'soon' is not a duration"),
        (["confirm"], 1, "are gone; `gcsearch run --study tiny` trains them again"),
        (["export", "-o", "a.txt"], 1, "'a.txt' is not a .yaml file"),
        (["export", "--trial", "3", "-o", "a.yaml"], 1, "trial 3 is not complete; complete are 0"),
        (["run", "--study", "tiny", "--backbone", "resnet34"], 2, "backbone is 'resnet18' in"),
        (["run", "--study", "tiny", "--set", "plan.trial_images=1"], 2, "plan.trial_images is 64"),
        (["run", "--study", "tiny", "--seed", "7"], 2, "search.seed is 0 in study 'tiny', not 7"),
        (
            ["run", "--study", "tiny", "--set", "search.objective=macs"],
            2,
            "objective is 'latency'",
        ),
        (["run", "--study", "tiny", "--set", "limits.macs=1.1"], 2, "limits.macs is None in"),
    ],
)
def test_command_on_a_study_says_what_is_wrong(call, storage, arguments, code, says):
    got, _, err = call(*arguments, "--storage", storage)
    assert (got, err.count("\n")) == (code, 1), err
    assert err.startswith("error: ") and says in err


@pytest.mark.parametrize("n_complete", [0, 1])
def test_nothing_to_confirm_is_one_line(call, tmp_path, tiny_config, n_complete):
    url = f"sqlite:///{tmp_path}/studies.db"
    plan = make_plan(tiny_config.plan, Speeds(9, 9, 9, 1, 1), n_val=100, n_test=100)
    record = StudyRecord(tiny_config.to_dict(), plan.to_dict(), TASK, {"python": "3"})
    study = SearchStudy.create(open_storage(url), "new", record)
    for _ in range(n_complete):
        add_trial(study, SearchSpace("resnet18", SITES, tiny_config.space), 50, 1.0)
    code, _, err = call("confirm", "--storage", url)
    assert (code, err.count("\n")) == (1, 1) and "go on with `gcsearch run --study new`" in err


@pytest.mark.parametrize("command", ["status", "front", "confirm", "export", "dashboard"])
def test_reading_makes_no_database(call, tmp_path, command):
    output = ["-o", f"{tmp_path}/best.yaml"] if command == "export" else []
    code, _, err = call(command, *output, "--storage", f"sqlite:///{tmp_path}/none.db")
    assert (code, err.count("\n")) == (1, 1) and "there is no database at" in err
    assert not list(tmp_path.iterdir())


def test_empty_database_says_how_to_fill_it(call, tmp_path):
    url = f"sqlite:///{tmp_path}/empty.db"
    open_storage(url)
    assert call("status", "--storage", url)[::2] == (
        1,
        f"error: {url} holds no study yet; `gcsearch run` makes one\n",
    )


def test_all_faults_of_a_configuration_are_told_at_once(call, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("bacbone: x\nspace: {ratios: [2], blocks: [cg]}\nplan: {trials: -1}\n")
    code, _, err = call("run", "--config", str(path))
    assert code == 2
    assert [fault in err for fault in ("'bacbone'", "ratio 2", "'cg'", "plan.trials")] == [
        True
    ] * 4


@pytest.mark.parametrize("arguments", [["frnt"], ["front", "--nope"], ["export"]])
def test_wrong_usage_has_exit_code_2(call, arguments):
    code, _, err = call(*arguments)
    assert code == 2 and "Traceback" not in err


def test_debug_shows_the_traceback():
    with pytest.raises(ConfigError):
        main(["--debug", "run", "--budget", "soon"])


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("15m", 900), ("1.5h", 5400)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


def test_status_tells_every_trial(call, storage):
    code, out, _ = call("status", "--storage", storage)
    assert code == 0 and "done     3 of 2 architectures, baseline done" in out
    for text in ("COMPLETE", "RUNNING", "FAIL", "training loss became nan"):
        assert text in out


def test_status_tells_how_far_predictions_were_off(call, tmp_path, storage):
    assert "prediction" not in call("status", "--storage", storage)[1]
    assert json.loads(call("status", "--storage", storage, "--json")[1])["residuals"] is None
    original, copy = storage.removeprefix("sqlite:///"), f"sqlite:///{tmp_path}/copy.db"
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


def test_status_as_json(call, storage):
    data = json.loads(call("status", "--storage", storage, "--json")[1])
    assert (data["study"], data["done"], data["planned"]) == ("tiny", 3, 2)
    states = [trial["state"] for trial in data["trials"]]
    assert states == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL", "RUNNING"]
    assert data["trials"][3]["reason"].startswith("training loss became nan")


def test_front_marks_the_choice(call, storage):
    code, out, _ = call("front", "--storage", storage, "--study", "tiny")
    assert code == 0 and "\x1b" not in out
    assert re.search(r"^ \*.*\+20\.0 \[\+12\.\d, \+27\.\d\].*1\.100 \[1\.090, 1\.110\]", out, re.M)
    assert "-10.0" not in out  # dominated by the baseline


def test_front_shows_what_was_confirmed(call, checked_storage):
    code, out, _ = call("front", "--storage", checked_storage)
    assert code == 0 and re.search(r"gain, points +confirmed +latency", out)
    assert re.search(r"^ \*.*\+20\.0 \[.*\+15\.0 \[\+8\.\d, \+2", out, re.M)
    data = json.loads(call("front", "--storage", checked_storage, "--json")[1])
    assert data["best"]["trial"] == 2
    assert [(one["trial"], one["seeds"]) for one in data["confirmed"]] == [(2, 5), (1, 5)]
    assert data["verdict"] == data["confirmed"][0]["verdict"]


def test_status_shows_what_was_confirmed(call, storage, checked_storage):
    said = "checked  2 architecture(s) on 5 fresh seed(s): 1 better than the backbone"
    assert said in call("status", "--storage", checked_storage)[1]
    assert "checked" not in call("status", "--storage", storage)[1]
    data = json.loads(call("status", "--storage", checked_storage, "--json")[1])
    assert [one["sure"] for one in data["confirmed"]] == [True, False]


def test_confirmation_that_is_done_shows_every_gain_and_its_shrinkage(call, checked_storage):
    code, out, err = call("confirm", "--storage", checked_storage)
    assert code == 0, err
    assert re.search(r"^ \*.* 5 +\+20\.0 +\+15\.0 \[.*\] +\+5\.0 .*1\.125 \[", out, re.M)
    assert re.search(r"\+30\.0 +\+1\.0 \[-?\+?\d.*\] +\+29\.0", out)
    assert re.search(r"^verdict  .*: \+15\.0 points \[8\.\d, 2\d\.\d\] for 1\.125x", out, re.M)
    data = json.loads(call("confirm", "--storage", checked_storage, "--json")[1])
    assert data["complete"] and [one["retimed"] for one in data["confirmed"]] == [True, True]


def test_interrupted_confirmation_says_how_to_go_on(call, checked_storage, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("gcsearch.confirm.confirm", interrupt)
    code, _, err = call("confirm", "--storage", checked_storage, "--seeds", "7", "--trust")
    command = f"gcsearch confirm --study checked --seeds 7 --storage {checked_storage} --trust"
    assert (code, err) == (130, f"interrupted; to go on: {command}\n")


def test_export_says_that_its_gain_was_confirmed(call, checked_storage, tmp_path):
    arguments = ["export", "--storage", checked_storage]
    for name, choice in (("best", []), ("other", ["--trial", "1"])):
        assert call(*arguments, *choice, "-o", f"{tmp_path}/{name}.yaml")[0] == 0
    best, other = (
        yaml.safe_load((tmp_path / f"{name}.yaml").read_text())["provenance"]
        for name in ("best", "other")
    )
    assert best["trial"] == 2 and "was confirmed on 5 fresh seed(s): +15.0" in best["rule"]
    assert other["rule"].startswith("trial 1 was asked for; its gain was not confirmed on 5")


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


def test_front_as_json(call, storage):
    data = json.loads(call("front", "--storage", storage, "--json")[1])
    assert [finding["trial"] for finding in data["front"]] == [0, 1]
    assert data["best"]["trial"] == 1 and data["best"]["gain"][0] == pytest.approx(0.2)
    assert len(data["trials"]) == 3


def test_front_shows_the_cost_that_is_minimised(call, macs_storage):
    _, out, _ = call("front", "--storage", macs_storage)
    assert re.search(r"macs ratio +latency ratio +params", out)
    assert re.search(r"^ \*.* 1\.00210 +1\.100 \[1\.090, 1\.110\]", out, re.M)
    data = json.loads(call("front", "--storage", macs_storage, "--json")[1])
    assert data["objectives"] == ["top1", "macs_ratio"]
    assert [f["macs_ratio"] for f in data["front"]] == [1.0, 1.0021]


def test_status_tells_the_cost_that_is_minimised_and_what_was_refused(call, macs_storage):
    _, out, _ = call("status", "--storage", macs_storage)
    assert "top1 0.700, macs 1.00210  latency 1.100" in out
    assert "PRUNED" in out and "macs ratio 1.02000 is over limits.macs 1.01; not trained" in out
    data = json.loads(call("status", "--storage", macs_storage, "--json")[1])
    assert data["objectives"] == ["top1", "macs_ratio"]
    assert [trial["macs_ratio"] for trial in data["trials"]] == [1.0, 1.0021, None]


def test_progress_tells_the_cost_that_is_minimised_beside_the_latency(macs_storage):
    evaluation = SearchStudy(open_storage(macs_storage), "macs").rows()[1].evaluation
    for objective, told in [("macs", "macs 1.00210  latency"), ("latency", "top1 0.700  latency")]:
        console = Console(file=io.StringIO(), width=300)
        Progress(console, [], objective).trial_finished(1, evaluation, "")
        assert f"{told} 1.100 [1.090, 1.110]  layer1" in console.file.getvalue()


def test_export_says_what_its_trial_cost(call, macs_storage, tmp_path):
    arguments = ["export", "--storage", macs_storage]
    assert call(*arguments, "-o", f"{tmp_path}/a.yaml")[0] == 0
    told = yaml.safe_load((tmp_path / "a.yaml").read_text())["provenance"]
    costs = ("objective", "macs_ratio", "params_ratio", "memory_ratio", "memory")
    assert [told[key] for key in costs] == ["macs_ratio", 1.0021, 1.2, 1.1, 50_000_000]
    assert told["latency_ratio"] == [1.1, 1.09, 1.11]


def test_sites_as_table_and_json(call):
    _, table, _ = call("sites", "resnet18", "--image-size", "64")
    sites = json.loads(call("sites", "resnet18", "--image-size", "64", "--json")[1])
    by_path = {site["path"]: site for site in sites}
    assert by_path["layer2.1"]["shape"] == [128, 8, 8]
    assert by_path["layer2.1"]["kinds"] == ["after-add", "stage-end"]
    assert all(path in table for path in by_path) and "\x1b" not in table


def test_sites_are_chosen_by_pattern(call):
    chosen = ["--sites", "layer3.*.bn2", "--sites", "kind:stage-end", "--sites", "stage:1"]
    _, out, _ = call("sites", "resnet18", "--image-size", "64", "--json", *chosen)
    sites = json.loads(out)
    assert {s["path"] for s in sites} >= {"layer3.0.bn2", "layer2.1", "layer4.1", "layer1.0"}
    assert "layer3.0" not in {s["path"] for s in sites}
    code, _, err = call("sites", "resnet18", "--image-size", "64", "--sites", "kind:stagend")
    assert code == 1 and "'kind:stagend' fits no site; did you mean 'kind:stage-end'" in err


def test_sites_of_video_and_flow_networks(call):
    _, out, _ = call("sites", "r3d_18", "--image-size", "32", "--sites", "auto", "--json")
    assert [s["path"] for s in json.loads(out)] == [f"layer{i}.{j}" for i in "1234" for j in "01"]
    assert {s["layout"] for s in json.loads(out)} == {"NCTHW"}
    _, out, _ = call("sites", "raft_small", "--image-size", "128", "--json")
    assert {s["path"] for s in json.loads(out)} >= {"feature_encoder.layer1", "context_encoder"}


def test_sites_of_an_unknown_backbone(call):
    code, _, err = call("sites", "mobilenet_v3_smal")
    assert code == 2 and "did you mean 'mobilenet_v3_small'" in err


def test_backbones_lists_them(call):
    assert "resnet50\n" in call("backbones")[1]
    assert "resnet50" in json.loads(call("backbones", "--json")[1])


def test_exported_config_builds(call, storage, tmp_path):
    path = tmp_path / "new folder" / "best.yaml"
    code, out, _ = call("export", "--storage", storage, "-o", str(path))
    assert code == 0 and str(path) in out
    model = gcsearch.build(path)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    data = yaml.safe_load(path.read_text())
    assert data["insertions"] and data["provenance"]["trial"] == 1


def test_export_by_number_and_as_json(call, storage, tmp_path):
    arguments = ["export", "--storage", storage, "-o", f"{tmp_path}/a.yaml", "--trial", "0"]
    data = json.loads(call(*arguments, "--json")[1])
    assert (data["trial"], data["written"]) == (0, [f"{tmp_path}/a.yaml"])
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["insertions"] == []


def test_export_replaces_only_by_force(call, storage, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("precious")
    arguments = ["export", "--storage", storage, "-o", str(path)]
    code, _, err = call(*arguments)
    assert code == 1 and "exists already; pass --force" in err
    assert path.read_text() == "precious"
    assert call(*arguments, "--force")[0] == 0
    assert path.read_text() != "precious"


def test_export_of_weights_needs_the_baselines(call, storage, tmp_path):
    arguments = ["export", "--storage", storage, "--format", "weights"]
    code, _, err = call(*arguments, "-o", f"{tmp_path}/best.yaml")
    assert code == 1 and "are gone; `gcsearch run --study tiny` trains them again" in err
    assert not list(tmp_path.iterdir())


def test_export_of_a_trial_as_code_and_of_a_file(call, storage, tmp_path):
    config, code_file = f"{tmp_path}/a.yaml", f"{tmp_path}/net.py"
    call("export", "--storage", storage, "-o", config, "--trial", "1")
    arguments = ["export", "--from", config, "--format", "snippet", "-o", code_file, "--json"]
    code, out, err = call(*arguments)
    assert code == 0, err
    assert json.loads(out)["written"] == [code_file]
    told = yaml.safe_load((tmp_path / "a.yaml").read_text())["provenance"]
    assert told["top1_interval"][0] < told["top1"] < told["top1_interval"][1]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--format", "onnx", "-o", "a.yaml"], 1, "'a.yaml' is not a .onnx file"),
        (["--format", "weights", "--from", "a.yaml", "-o", "b.yaml"], 1, "a.yaml has no weights"),
        (["--from", "a.yaml", "--trial", "1", "-o", "b.yaml"], 2, "--trial chooses from a study"),
        (["--format", "mmdet", "--from", "a.yaml", "-o", "b.py"], 1, "mmdet cannot say this"),
    ],
)
def test_export_refuses_in_one_line(call, storage, tmp_path, monkeypatch, arguments, code, says):
    monkeypatch.chdir(tmp_path)
    call("export", "--storage", storage, "-o", "a.yaml")
    got, _, err = call("export", *arguments)
    assert (got, err.count("\n")) == (code, 1) and says in err, err
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]


def test_insertion_of_an_export_is_the_one_that_was_found(call, storage, tmp_path):
    call("export", "--storage", storage, "-o", f"{tmp_path}/a.yaml", "--trial", "1")
    front = json.loads(call("front", "--storage", storage, "--json")[1])
    wanted = [Insertion.from_dict(i) for i in front["best"]["architecture"]["insertions"]]
    data = yaml.safe_load((tmp_path / "a.yaml").read_text())
    assert [Insertion.from_dict(i) for i in data["insertions"]] == wanted


@pytest.mark.parametrize("disposition", [signal.SIG_DFL, signal.SIG_IGN])
def test_sigterm_stops_a_command_where_ctrl_c_is_ignored_too(disposition):
    code = (
        "import time; from gcsearch.cli.options import stop_by_sigterm; stop_by_sigterm()\n"
        "try: print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt: print('stopped')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, disposition),
    )
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    assert process.communicate(timeout=30) == (b"stopped\n", None)


def test_pipe_that_closes_early_leaves_no_traceback():
    command = f"{sys.executable} -m gcsearch backbones | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


@pytest.fixture
def port():
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_dashboard_serves_the_study(storage, port):
    command = [sys.executable, "-m", "gcsearch", "dashboard", "--storage", storage]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A job in the background of a script ignores it, and so do the tests in such a job.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert b"Optuna" in fetch(f"http://127.0.0.1:{port}/", process)
        studies = json.loads(fetch(f"http://127.0.0.1:{port}/api/studies", process))
        assert [study["study_name"] for study in studies["study_summaries"]] == ["tiny"]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate(timeout=30)


def fetch(url: str, process: subprocess.Popen) -> bytes:
    """Return what an address answers, once the server is up."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return response.read()
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError(f"the dashboard ended: {process.communicate()}")


def test_dashboard_on_a_taken_port_is_one_line(call, storage):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, out, err = call("dashboard", "--storage", storage, "--port", port)
    assert code == 1 and f"cannot listen on 127.0.0.1:{port}" in err and "http://" not in out


def test_dashboard_at_an_address_of_another_machine_is_one_line(call, storage):
    code, _, err = call("dashboard", "--storage", storage, "--host", "192.0.2.1")
    assert code == 1 and "whoever reaches 192.0.2.1:8080 can change and delete studies" in err
    assert "cannot listen on 192.0.2.1:8080" in err and "choose another --port or --host" in err

"""The command line: one line for each error and its exit code, JSON that parses, files written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
import yaml

import gcsearch
from gcsearch.cli import main
from gcsearch.cli.options import parse_duration
from gcsearch.errors import ConfigError
from gcsearch.study import open_storage

HEAVY = ("torch", "ray", "optuna", "sqlalchemy", "pydantic", "numpy")


@pytest.fixture(scope="module")
def tiny_yaml(tmp_path_factory, tiny_config):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_config.to_dict()))
    return str(path)


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
def test_command_on_a_study_says_what_is_wrong(call, told, arguments, code, says):
    got, _, err = call(*arguments, "--storage", told)
    assert (got, err.count("\n")) == (code, 1), err
    assert err.startswith("error: ") and says in err


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


@pytest.mark.slow
def test_sigterm_stops_a_command_while_ray_is_under_way():
    code = (
        "import time; from gcsearch.cli.options import stop_by_sigterm; stop_by_sigterm()\n"
        "from gcsearch.tuning.driver import _ray\n"
        "try:\n"
        "    with _ray(None): print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt: print('stopped')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    assert process.communicate(timeout=60) == (b"stopped\n", None)


def test_pipe_that_closes_early_leaves_no_traceback():
    command = f"{sys.executable} -m gcsearch backbones | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""

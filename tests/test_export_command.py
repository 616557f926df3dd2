"""The export command: what it writes, and what it refuses in one line."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

import gcsearch
from gcsearch.architecture import Insertion


def test_export_says_that_its_gain_was_confirmed(call, told_checked, tmp_path):
    arguments = ["export", "--storage", told_checked]
    for name, choice in (("best", []), ("other", ["--trial", "1"])):
        assert call(*arguments, *choice, "-o", f"{tmp_path}/{name}.yaml")[0] == 0
    best, other = (
        yaml.safe_load((tmp_path / f"{name}.yaml").read_text())["provenance"]
        for name in ("best", "other")
    )
    assert best["trial"] == 2 and "was confirmed on 5 fresh seed(s): +15.0" in best["rule"]
    assert other["rule"].startswith("trial 1 was asked for; its gain was not confirmed on 5")


def test_export_says_what_its_trial_cost(call, told_macs, tmp_path):
    arguments = ["export", "--storage", told_macs]
    assert call(*arguments, "-o", f"{tmp_path}/a.yaml")[0] == 0
    told = yaml.safe_load((tmp_path / "a.yaml").read_text())["provenance"]
    costs = ("objective", "macs_ratio", "params_ratio", "memory_ratio", "memory")
    assert [told[key] for key in costs] == ["macs_ratio", 1.0021, 1.2, 1.1, 50_000_000]
    assert told["latency_ratio"] == [1.1, 1.09, 1.11]


def test_exported_config_builds(call, told, tmp_path):
    path = tmp_path / "new folder" / "best.yaml"
    code, out, _ = call("export", "--storage", told, "-o", str(path))
    assert code == 0 and str(path) in out
    model = gcsearch.build(path)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    data = yaml.safe_load(path.read_text())
    assert data["insertions"] and data["provenance"]["trial"] == 1


def test_export_by_number_and_as_json(call, told, tmp_path):
    arguments = ["export", "--storage", told, "-o", f"{tmp_path}/a.yaml", "--trial", "0"]
    data = json.loads(call(*arguments, "--json")[1])
    assert (data["trial"], data["written"]) == (0, [f"{tmp_path}/a.yaml"])
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["insertions"] == []


def test_export_replaces_only_by_force(call, told, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("precious")
    arguments = ["export", "--storage", told, "-o", str(path)]
    code, _, err = call(*arguments)
    assert code == 1 and "exists already; pass --force" in err
    assert path.read_text() == "precious"
    assert call(*arguments, "--force")[0] == 0
    assert path.read_text() != "precious"


def test_export_of_weights_needs_the_baselines(call, told, tmp_path):
    arguments = ["export", "--storage", told, "--format", "weights"]
    code, _, err = call(*arguments, "-o", f"{tmp_path}/best.yaml")
    assert code == 1 and "are gone; `gcsearch run --study tiny` trains them again" in err
    assert not list(tmp_path.iterdir())


def test_export_of_a_trial_as_code_and_of_a_file(call, told, tmp_path):
    config, code_file = f"{tmp_path}/a.yaml", f"{tmp_path}/net.py"
    call("export", "--storage", told, "-o", config, "--trial", "1")
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
def test_export_refuses_in_one_line(call, told, tmp_path, monkeypatch, arguments, code, says):
    monkeypatch.chdir(tmp_path)
    call("export", "--storage", told, "-o", "a.yaml")
    got, _, err = call("export", *arguments)
    assert (got, err.count("\n")) == (code, 1) and says in err, err
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]


def test_insertion_of_an_export_is_the_one_that_was_found(call, told, tmp_path):
    call("export", "--storage", told, "-o", f"{tmp_path}/a.yaml", "--trial", "1")
    front = json.loads(call("front", "--storage", told, "--json")[1])
    wanted = [Insertion.from_dict(i) for i in front["best"]["architecture"]["insertions"]]
    data = yaml.safe_load((tmp_path / "a.yaml").read_text())
    assert [Insertion.from_dict(i) for i in data["insertions"]] == wanted

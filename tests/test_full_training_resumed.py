"""Full training that was cut short goes on to the same weights, and no other is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from full_training import (
    HERE,
    Heard,
    Killed,
    killed,
    last_network,
    run,
    same_weights,
    whole_weights,
    without_seconds,
    write_found,
)
from safetensors.torch import load_file

from gcsearch.errors import ConfigError, TrainingError
from gcsearch.training.events import EpochResult
from gcsearch.training.folder import Folder

pytest.importorskip("lightning_fabric")

pytestmark = pytest.mark.usefixtures("unshared_machine", "elsewhere")


@pytest.fixture(scope="module")
def unbroken(bright, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return run(write_found(folder / "found.yaml"), bright, folder / "out")


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("write", [2, 5, 6, 9])
def test_killed_at_any_write_it_goes_on_to_the_same_weights(
    bright, tmp_path, monkeypatch, found, optimizer, write
):
    changes = [f"optimizer={optimizer}", "lr=0.02"]
    whole = run(found, bright, tmp_path / "whole", *changes)
    writes, put = [], os.replace

    def killed_there(*paths):
        writes.append(paths)
        if len(writes) == write:
            raise Killed
        put(*paths)

    monkeypatch.setattr(os, "replace", killed_there)
    with pytest.raises(Killed):
        run(found, bright, tmp_path / "out", *changes)
    monkeypatch.setattr(os, "replace", put)
    again = run(found, bright, tmp_path / "out", *changes)
    assert without_seconds(again) == without_seconds(whole)
    assert same_weights(tmp_path / "out" / "best.safetensors", whole_weights(whole))
    assert last_network(tmp_path / "out", whole.config_path.parent)


def test_finished_training_is_not_trained_again(unbroken, bright):
    heard, folder = Heard(), unbroken.config_path.parent
    again = run(folder.parent / "found.yaml", bright, folder, listener=heard)
    assert heard.numbers == [] and again.n_before == 3
    assert (again.history, again.test) == (unbroken.history, unbroken.test)


def test_metrics_have_a_line_an_epoch_and_one_of_the_test(unbroken):
    lines = (unbroken.config_path.parent / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    assert [line.get("epoch") for line in epochs] == [1, 2, 3, None]
    assert epochs[-1]["test_top1"] == unbroken.test.top1
    assert EpochResult.from_dict(epochs[1]) == unbroken.history[1]


def test_folder_of_another_training_is_kept_unless_forced(unbroken, bright):
    folder, kept = unbroken.config_path.parent, whole_weights(unbroken).read_bytes()
    with pytest.raises(ConfigError) as caught:
        run(folder.parent / "found.yaml", bright, folder, "lr=0.5", "seed=3")
    assert len(caught.value.faults) == 2 and "settings.lr is None" in str(caught.value)
    assert whole_weights(unbroken).read_bytes() == kept


def test_folder_in_which_another_process_trains_is_left_alone(
    found, bright, tmp_path, monkeypatch
):
    monkeypatch.setattr("gcsearch.training.folder.PATIENCE_S", 0.5)
    output = tmp_path / "out"
    trains = (
        "import fcntl, os, sys, time\n"
        "fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)\n"
        "print('holds', flush=True); time.sleep(60)"
    )
    output.mkdir()
    words = [sys.executable, "-c", trains, str(output)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "holds\n"
        with pytest.raises(ConfigError, match="another process trains in it"):
            run(found, bright, output)
        assert [*output.iterdir()] == []
        other.kill()
    assert run(found, bright, output).n_before == 0


def test_what_a_killed_process_leaves_behind_is_waited_for(found, bright, tmp_path):
    """Its children hold the lock until they notice, as those that load pictures do."""
    output = tmp_path / "out"
    parent = (
        "import fcntl, os, sys, time\n"
        "fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)\n"
        "if os.fork() == 0: time.sleep(2); os._exit(0)\n"
        "os._exit(0)"
    )
    output.mkdir()
    subprocess.run([sys.executable, "-c", parent, str(output)], check=True)
    assert run(found, bright, output).n_before == 0


def test_what_is_exported_is_in_the_checkpoint_already(found, bright, tmp_path, monkeypatch):
    """Else a kill between them leaves weights and scores that the training does not know of."""
    monkeypatch.setattr("gcsearch.training.full.write_best", killed)
    with pytest.raises(Killed):
        run(found, bright, tmp_path / "out")
    assert len(Folder(tmp_path / "out").read_checkpoint()["history"]) == 1


def test_force_begins_anew(found, bright, tmp_path):
    run(found, bright, tmp_path / "out", "epochs=1")
    again = run(found, bright, tmp_path / "out", "epochs=2", force=True)
    assert len(again.history) == 2 and again.n_before == 0


def test_export_that_no_training_wrote_is_kept(found, bright, tmp_path):
    write_found(tmp_path / "out" / "best.yaml")
    with pytest.raises(ConfigError, match=r"best\.yaml in it is not of a training"):
        run(found, bright, tmp_path / "out")


def test_checkpoint_that_holds_code_is_not_run(found, bright, tmp_path):
    run(found, bright, tmp_path / "out", "epochs=1")
    torch.save({"history": Path}, tmp_path / "out" / "checkpoint.pt")
    with pytest.raises(TrainingError, match="cannot be read"):
        run(found, bright, tmp_path / "out", "epochs=1")


def test_last_epoch_stays_in_the_checkpoint_where_an_earlier_one_is_best(bright, tmp_path, found):
    trained = run(found, bright, tmp_path / "out", "lr=0.05", "epochs=12")
    state = Folder(tmp_path / "out").read_checkpoint()
    assert trained.best.epoch < 12 and state["test"]["top1"] == trained.test.top1
    best = load_file(whole_weights(trained))
    assert any(not torch.equal(state["network"][key], best[key]) for key in best)


def test_mixed_precision_goes_on_as_well(bright, tmp_path, found, monkeypatch):
    changes = ["precision=bf16", "epochs=2"]
    whole = run(found, bright, tmp_path / "whole", *changes)
    monkeypatch.setattr(Folder, "write_metrics", killed)
    with pytest.raises(Killed):
        run(found, bright, tmp_path / "out", *changes)
    monkeypatch.undo()
    again = run(found, bright, tmp_path / "out", *changes)
    assert again.n_before == 1 and without_seconds(again) == without_seconds(whole)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 on fork beside threads
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2")  # where there is one core
def test_processes_that_load_have_no_effect_on_the_weights(unbroken, bright, tmp_path):
    source = unbroken.config_path.parent.parent / "found.yaml"
    loaded = run(source, bright, tmp_path / "out", "loaders=2")
    assert same_weights(whole_weights(loaded), whole_weights(unbroken))


@pytest.mark.slow
def test_killed_process_goes_on_to_the_same_weights(found, bright, tmp_path):
    def begin(output):
        words = [found, "--data", bright, "-o", output, "--trust", "--epochs", "25", "--set"]
        words += ["batch_size=16", "--set", "device=cpu", "--precision", "fp32"]
        return subprocess.Popen(
            [sys.executable, "-m", "gcsearch", "train", *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}"},
        )

    process = begin(tmp_path / "killed")
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while process.poll() is None and not metrics.exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    n_before = len(metrics.read_text().splitlines())
    assert 0 < n_before < 25
    for output in ("killed", "whole"):
        assert begin(tmp_path / output).wait() == 0
    one, other = tmp_path / "killed", tmp_path / "whole"
    assert same_weights(one / "best.safetensors", other / "best.safetensors")
    assert last_network(one, other)


def test_record_says_all_that_decides(unbroken):
    record = yaml.safe_load((unbroken.config_path.parent / "training.yaml").read_text())
    assert {"settings", "architecture", "data_hash", "start_weights"} <= record.keys()
    assert "device" not in record["settings"]

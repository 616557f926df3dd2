"""The train command: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from full_training import run, same_weights, settings_for, write_found

from gcsearch.cli import main
from gcsearch.errors import ConfigError, ExportError, GcsearchError, TrainingError
from gcsearch.training import train
from gcsearch.training.loop import Loop

pytest.importorskip("lightning_fabric")

pytestmark = pytest.mark.usefixtures("unshared_machine", "elsewhere")
ONE_EPOCH = ("--trust", "--epochs", 1, "--batch-size", 16, "--set", "device=cpu")


def command(*words):
    """Run the command in this process; return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(["train", *map(str, words)])
    return caught.value.code or 0


def test_command_prints_json_and_quietly_where_piped(found, bright, tmp_path, capfd):
    words = ["--data", bright, "-o", tmp_path / "out", *ONE_EPOCH]
    assert command(found, *words, "--json") == 0
    printed = capfd.readouterr()
    told = json.loads(printed.out)
    assert told["config"] == str(tmp_path / "out" / "best.yaml") and told["epochs"] == 1
    assert "epoch 1/1  train loss" in printed.err and "\x1b" not in printed.err


def test_command_converts_and_builds_what_it_wrote(found, bright, tmp_path, capfd):
    words = ["--data", bright, "-o", tmp_path / "out", *ONE_EPOCH]
    assert command(found, *words) == 0
    assert "test     top1" in capfd.readouterr().out
    best, copy = tmp_path / "out" / "best.yaml", tmp_path / "copy.yaml"
    with pytest.raises(SystemExit) as caught:
        main(["export", "--from", str(best), "--trust", "--format", "weights", "-o", str(copy)])
    assert not caught.value.code
    assert same_weights(best.with_suffix(".safetensors"), copy.with_suffix(".safetensors"))


def test_interrupted_command_says_how_to_go_on(found, bright, tmp_path, capfd, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("gcsearch.training.train", interrupted)
    assert command(found, "--data", bright, "-o", tmp_path / "out") == 130
    assert "the same command goes on" in capfd.readouterr().err


def test_all_faults_of_the_settings_are_told_at_once(found, bright, tmp_path, capfd):
    words = ["--epochs", 0, "--lr", -1, "--batch-size", 0, "--set", "warmup=1", "--set", "epoch=2"]
    assert command(found, "--data", bright, "-o", tmp_path / "out", *words) == 2
    printed = capfd.readouterr().err
    for fault in ("epochs = 0", "lr = -1", "batch_size = 0", "warmup = 1", "'epoch'; did you"):
        assert fault in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["precision=fp16"], "a CPU does not train in it"),
        (["device=tpu"], "give cpu, cuda or auto"),
        (["batch_size=65"], "has only 64 training pictures"),
        (["data.source=npz:absent.npz"], "absent.npz"),
        (["weights=absent.pth"], "does not exist"),
        (["image_size=8", "data.source=cued-digit"], "cued-digits"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    found, bright, tmp_path, changes, message
):
    with pytest.raises(GcsearchError, match=message):
        run(found, bright, tmp_path / "out", *changes)
    assert not (tmp_path / "out").exists()


def test_missing_config_and_none_and_both_are_refused(bright, tmp_path):
    with pytest.raises(ExportError, match="does not exist"):
        run(tmp_path / "absent.yaml", bright, tmp_path / "out")
    for source, backbone in ((None, None), (tmp_path / "a.yaml", "resnet18")):
        with pytest.raises(ConfigError, match="--backbone NAME"):
            run(source, bright, tmp_path / "out", backbone=backbone)


def test_pictures_that_are_too_small_for_the_network_are_refused(bright, tmp_path):
    with pytest.raises(ExportError, match="squeezenet1_1 cannot be run on pictures of 12 px"):
        run(None, bright, tmp_path / "out", backbone="squeezenet1_1")
    assert not (tmp_path / "out").exists()


def test_import_paths_are_followed_only_where_trusted(found, bright, tmp_path):
    with pytest.raises(ConfigError, match="--trust"):
        train(found, settings_for(bright), tmp_path / "out")


def test_config_is_not_written_over(bright, tmp_path):
    source = write_found(tmp_path / "best.yaml")
    with pytest.raises(ConfigError, match="write over"):
        run(source, bright, tmp_path, force=True)
    assert source.exists()


def test_batch_that_processes_cannot_share_is_refused(found, bright, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "here")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    with pytest.raises(ConfigError) as caught:
        run(found, bright, tmp_path / "out")
    assert len(caught.value.faults) == 2 and "without torch.distributed" in str(caught.value)


def test_diverged_training_says_what_to_do(found, bright, tmp_path):
    with pytest.raises(TrainingError, match="lower learning rate"):
        run(found, bright, tmp_path / "out", "optimizer=sgd", "lr=100", "epochs=40", "warmup=0")


def test_memory_that_runs_out_says_what_to_lower(found, bright, tmp_path, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Loop, "train", exhausted)
    with pytest.raises(TrainingError, match="lower batch_size or image_size"):
        run(found, bright, tmp_path / "out")


def test_without_fabric_the_cure_is_told(found, bright, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(TrainingError, match=r"pip install 'gcsearch\[train\]'"):
        run(found, bright, tmp_path / "out")

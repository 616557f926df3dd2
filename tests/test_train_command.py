"""Full training: exact continuation, one result for all processes, exports, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

import gcsearch
from gcsearch.architecture import Architecture, Insertion
from gcsearch.backbones import build_altered
from gcsearch.blocks import GlobalContext
from gcsearch.cli import main
from gcsearch.config import check_settings
from gcsearch.errors import ConfigError, ExportError, GcsearchError, TrainingError
from gcsearch.export import ExportedConfig, read_config, write_config
from gcsearch.export.finding import holds
from gcsearch.export.formats import FORMATS
from gcsearch.proxy.sources import load_task
from gcsearch.training import FullTrainingSettings, TrainingListener, train
from gcsearch.training.events import EpochResult, Scores
from gcsearch.training.folder import Folder
from gcsearch.training.loop import Loop, _judged, _loss
from gcsearch.training.optimizer import parameter_groups
from gcsearch.training.pictures import Preparation, training_batches

pytest.importorskip("lightning_fabric")

HERE = Path(__file__).parent
FOUND = (Insertion("1", ratio=1 / 2),)
NORMALISATION = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


def with_norms(num_classes: int = 3) -> nn.Module:
    """A network with all that makes going on hard: running statistics and dropout."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, num_classes)),
    )


def plain(num_classes: int = 3) -> nn.Module:
    """A network whose gradients do not depend on which pictures share a process."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(8, num_classes)),
    )


@pytest.fixture(scope="module", autouse=True)
def _alone(unshared_machine):
    """Do not wait for a search beside the tests."""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Keep what the command caches out of the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures in which the class is the channel that is bright."""
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    random, arrays = np.random.default_rng(0), {}
    for split, n in {"train": 64, "val": 20, "test": 22}.items():
        labels = np.arange(n) % 3
        pictures = random.integers(0, 120, (n, 12, 12, 3))
        pictures[np.arange(n), :, :, labels] += 100
        arrays |= {f"x_{split}": pictures.astype(np.uint8), f"y_{split}": labels}
    np.savez(path, **arrays)
    return f"npz:{path}"


@pytest.fixture
def found(tmp_path):
    """An exported config without weights."""
    return export(tmp_path / "found.yaml")


def export(path, *, model=None, backbone="with_norms", n_classes=3, insertions=FOUND):
    architecture = Architecture(f"test_train_command:{backbone}", insertions)
    config = ExportedConfig(architecture, n_classes, 12, normalisation=NORMALISATION)
    if model is None:
        write_config(config, path)
    else:
        for file in FORMATS["weights"]().render(config, model, path):
            file.path.write_bytes(file.content)
    return path


def settings_for(data, *changes):
    given = ["epochs=3", "batch_size=16", "precision=fp32", "device=cpu"]
    return check_settings(FullTrainingSettings, {"data": {"source": data}}, [*given, *changes])


def run(found, data, output, *changes, **options):
    return train(found, settings_for(data, *changes), output, trust=True, **options)


def without_seconds(trained):
    return [replace(result, seconds=0.0) for result in trained.history], trained.test


def same_weights(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def command(*words):
    """Run the command in this process; return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(["train", *map(str, words)])
    return caught.value.code or 0


class Killed(BaseException):
    """What nobody catches, as if the process had ended."""


def killed(*_):
    raise Killed


# What comes of a training


def test_export_builds_with_the_weights_whose_scores_it_tells(found, data, tmp_path):
    trained = run(found, data, tmp_path / "out", "epochs=4", "lr=0.05")
    config = read_config(trained.config_path)
    model = gcsearch.build(trained.config_path, trust=True)
    task = load_task(data)
    prepare = Preparation(12, *(tuple(config.normalisation[key]) for key in ("mean", "std")))
    pictures = torch.from_numpy(np.array(task.test.images)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        right = model(prepare(pictures, torch.device("cpu"))).argmax(1).numpy()
    assert (right == task.test.labels).mean() == config.provenance["test_top1"]
    assert config.provenance["test_top1"] == trained.test.top1
    assert config.provenance["top1"] == max(result.val.top1 for result in trained.history)
    assert holds(trained.config_path, Architecture("test_train_command:with_norms", FOUND))
    assert "full training" in (tmp_path / "out" / "README.md").read_text()


def test_it_learns(found, data, tmp_path):
    trained = run(found, data, tmp_path / "out", "epochs=12", "lr=0.05")
    assert trained.test.top1 > 0.9 and trained.test.n_pictures == 22
    assert trained.history[-1].train_loss < trained.history[0].train_loss


def test_weights_of_the_config_are_where_it_starts(data, tmp_path):
    torch.manual_seed(7)
    architecture = Architecture("test_train_command:with_norms", FOUND)
    model = build_altered(architecture, n_classes=3, input_size=(3, 12, 12), trust=True)
    source = export(tmp_path / "found.yaml", model=model)
    run(source, data, tmp_path / "out", "epochs=1", "lr=1e-9", "weight_decay=0")
    trained = load_file(tmp_path / "out" / "best.safetensors")
    for key, value in model.named_parameters():
        torch.testing.assert_close(trained[key], value.detach(), atol=1e-6, rtol=0)
    assert read_config(tmp_path / "out" / "best.yaml").normalisation == NORMALISATION


def test_other_classes_get_a_new_classifier_and_are_told(data, tmp_path):
    architecture = Architecture("test_train_command:with_norms", FOUND)
    model = build_altered(architecture, n_classes=5, input_size=(3, 12, 12), trust=True)
    source = export(tmp_path / "found.yaml", model=model, n_classes=5)
    heard = Heard()
    trained = run(source, data, tmp_path / "out", "epochs=1", listener=heard)
    assert any("6.bias, 6.weight" in note and "is new" in note for note in heard.notes)
    assert read_config(trained.config_path).n_classes == 3


def test_backbone_alone_is_trained_unaltered(data, tmp_path):
    name = "test_train_command:plain"
    trained = run(None, data, tmp_path / "out", "epochs=1", backbone=name)
    assert read_config(trained.config_path).architecture == Architecture(name)


class Heard(TrainingListener):
    def __init__(self):
        self.notes, self.numbers = [], []

    def notice(self, text):
        self.notes.append(text)

    def epoch(self, result, of):
        self.numbers.append(result.epoch)


# Going on


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return run(export(folder / "found.yaml"), data, folder / "out")


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("write", [2, 5, 6, 9])
def test_killed_at_any_write_it_goes_on_to_the_same_weights(
    data, tmp_path, monkeypatch, found, optimizer, write
):
    changes = [f"optimizer={optimizer}", "lr=0.02"]
    whole = run(found, data, tmp_path / "whole", *changes)
    writes, put = [], os.replace

    def killed_there(*paths):
        writes.append(paths)
        if len(writes) == write:
            raise Killed
        put(*paths)

    monkeypatch.setattr(os, "replace", killed_there)
    with pytest.raises(Killed):
        run(found, data, tmp_path / "out", *changes)
    monkeypatch.setattr(os, "replace", put)
    again = run(found, data, tmp_path / "out", *changes)
    assert without_seconds(again) == without_seconds(whole)
    assert same_weights(tmp_path / "out" / "best.safetensors", whole_weights(whole))
    assert last_network(tmp_path / "out", whole.config_path.parent)


def whole_weights(trained):
    return trained.config_path.with_suffix(".safetensors")


def last_network(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same weights."""
    a, b = (Folder(path).read_checkpoint()["network"] for path in (one, other))
    return all(torch.equal(a[key], b[key]) for key in a | b)


def test_finished_training_is_not_trained_again(unbroken, data):
    heard, folder = Heard(), unbroken.config_path.parent
    again = run(folder.parent / "found.yaml", data, folder, listener=heard)
    assert heard.numbers == [] and again.n_before == 3
    assert (again.history, again.test) == (unbroken.history, unbroken.test)


def test_metrics_have_a_line_an_epoch_and_one_of_the_test(unbroken):
    lines = (unbroken.config_path.parent / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    assert [line.get("epoch") for line in epochs] == [1, 2, 3, None]
    assert epochs[-1]["test_top1"] == unbroken.test.top1
    assert EpochResult.from_dict(epochs[1]) == unbroken.history[1]


def test_folder_of_another_training_is_kept_unless_forced(unbroken, data):
    folder, kept = unbroken.config_path.parent, whole_weights(unbroken).read_bytes()
    with pytest.raises(ConfigError) as caught:
        run(folder.parent / "found.yaml", data, folder, "lr=0.5", "seed=3")
    assert len(caught.value.faults) == 2 and "settings.lr is None" in str(caught.value)
    assert whole_weights(unbroken).read_bytes() == kept


def test_folder_in_which_another_process_trains_is_left_alone(found, data, tmp_path, monkeypatch):
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
            run(found, data, output)
        assert [*output.iterdir()] == []
        other.kill()
    assert run(found, data, output).n_before == 0


def test_what_a_killed_process_leaves_behind_is_waited_for(found, data, tmp_path):
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
    assert run(found, data, output).n_before == 0


def test_what_is_exported_is_in_the_checkpoint_already(found, data, tmp_path, monkeypatch):
    """Else a kill between them leaves weights and scores that the training does not know of."""
    monkeypatch.setattr("gcsearch.training.full.write_best", killed)
    with pytest.raises(Killed):
        run(found, data, tmp_path / "out")
    assert len(Folder(tmp_path / "out").read_checkpoint()["history"]) == 1


def test_force_begins_anew(found, data, tmp_path):
    run(found, data, tmp_path / "out", "epochs=1")
    again = run(found, data, tmp_path / "out", "epochs=2", force=True)
    assert len(again.history) == 2 and again.n_before == 0


def test_export_that_no_training_wrote_is_kept(found, data, tmp_path):
    export(tmp_path / "out" / "best.yaml")
    with pytest.raises(ConfigError, match=r"best\.yaml in it is not of a training"):
        run(found, data, tmp_path / "out")


def test_checkpoint_that_holds_code_is_not_run(found, data, tmp_path):
    run(found, data, tmp_path / "out", "epochs=1")
    torch.save({"history": Path}, tmp_path / "out" / "checkpoint.pt")
    with pytest.raises(TrainingError, match="cannot be read"):
        run(found, data, tmp_path / "out", "epochs=1")


def test_last_epoch_stays_in_the_checkpoint_where_an_earlier_one_is_best(data, tmp_path, found):
    trained = run(found, data, tmp_path / "out", "lr=0.05", "epochs=12")
    state = Folder(tmp_path / "out").read_checkpoint()
    assert trained.best.epoch < 12 and state["test"]["top1"] == trained.test.top1
    best = load_file(whole_weights(trained))
    assert any(not torch.equal(state["network"][key], best[key]) for key in best)


def test_mixed_precision_goes_on_as_well(data, tmp_path, found, monkeypatch):
    changes = ["precision=bf16", "epochs=2"]
    whole = run(found, data, tmp_path / "whole", *changes)
    monkeypatch.setattr(Folder, "write_metrics", killed)
    with pytest.raises(Killed):
        run(found, data, tmp_path / "out", *changes)
    monkeypatch.undo()
    again = run(found, data, tmp_path / "out", *changes)
    assert again.n_before == 1 and without_seconds(again) == without_seconds(whole)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 on fork beside threads
def test_processes_that_load_have_no_effect_on_the_weights(unbroken, data, tmp_path):
    source = unbroken.config_path.parent.parent / "found.yaml"
    loaded = run(source, data, tmp_path / "out", "loaders=2")
    assert same_weights(whole_weights(loaded), whole_weights(unbroken))


@pytest.mark.slow
def test_killed_process_goes_on_to_the_same_weights(found, data, tmp_path):
    def begin(output):
        words = [found, "--data", data, "-o", output, "--trust", "--epochs", "25", "--set"]
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


# Several processes

TOGETHER = """
import json, os, sys
from dataclasses import asdict
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_train_command import settings_for
from gcsearch.training import train
settings = settings_for({data!r}, "seed=1", "lr=0.01")
trained = train(Path({found!r}), settings, Path({output!r}), trust=True)
told = [[r.train_loss, asdict(r.val)] for r in trained.history], asdict(trained.test)
Path({output!r}, "told" + os.environ["RANK"]).write_text(json.dumps(told))
"""


@pytest.mark.slow
def test_two_processes_come_to_what_one_does(data, tmp_path):
    found = export(tmp_path / "found.yaml", backbone="plain")
    alone = run(found, data, tmp_path / "alone", "seed=1", "lr=0.01")
    output, script = tmp_path / "out", tmp_path / "together.py"
    script.write_text(
        TOGETHER.format(tests=str(HERE), data=data, found=str(found), output=str(output))
    )
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, *words], check=True, env=environment, capture_output=True, text=True
    )
    assert "Warning" not in ended.stderr
    first, second = (json.loads((output / f"told{rank}").read_text()) for rank in (0, 1))
    assert first == second
    assert first[1]["top1"] == pytest.approx(alone.test.top1, abs=1 / 22)
    mine, theirs = load_file(whole_weights(alone)), load_file(output / "best.safetensors")
    for key, value in mine.items():
        torch.testing.assert_close(theirs[key], value, atol=1e-4, rtol=1e-3)


def test_processes_share_the_pictures_of_each_step_whatever_loads_them(data):
    task = load_task(data)
    common = {"side": 8, "seed": 3, "epoch": 2, "batch_size": 16, "crop_area": 0.3}
    whole = list(training_batches(task, **common))
    for number in (2, 4):
        shares = [
            list(training_batches(task, **common, rank=rank, world_size=number))
            for rank in range(number)
        ]
        for step, (pictures, labels) in enumerate(whole):
            assert torch.equal(torch.cat([share[step][0] for share in shares]), pictures)
            assert torch.equal(torch.cat([share[step][1] for share in shares]), labels)


def test_augmenting_leaves_the_randomness_of_the_network_alone(data):
    batches = training_batches(
        load_task(data), side=8, seed=3, epoch=2, batch_size=16, crop_area=0.3
    )
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(batches)
    assert torch.equal(torch.rand(3), expected)


def test_orders_and_crops_differ_between_epochs(data):
    task, common = load_task(data), {"side": 12, "seed": 0, "batch_size": 64}
    first, second = (
        next(training_batches(task, **common, epoch=epoch, crop_area=None)) for epoch in (0, 1)
    )
    assert not torch.equal(first[1], second[1])
    assert sorted(first[1].tolist()) == sorted(second[1].tolist())
    cropped = next(training_batches(task, **common, epoch=0, crop_area=0.3))
    assert torch.equal(cropped[1], first[1]) and not torch.equal(cropped[0], first[0])


# The parts


def test_only_matrices_and_kernels_decay():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), GlobalContext(8, ratio=1 / 2))
    decayed, rest = parameter_groups(model, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        "0.weight",
        "2.conv_mask.weight",
        "2.channel_add_conv.0.weight",
        "2.channel_add_conv.3.weight",
    }
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0)
    assert len(decayed["params"]) + len(rest["params"]) == len(names)


def test_running_statistics_become_the_mean_of_all_processes(data):
    network = nn.Sequential(nn.BatchNorm2d(3))
    fabric = SimpleNamespace(
        world_size=2,
        setup=lambda *both: both,
        all_reduce=lambda value, reduce_op: value + torch.full_like(value, 3.0),
    )
    loop = Loop(fabric, network, None, load_task(data), settings_for(data), None, None)
    loop._average_statistics()
    assert network[0].running_mean.tolist() == [1.5] * 3
    assert network[0].running_var.tolist() == [2.0] * 3
    assert network[0].num_batches_tracked == 0


def test_auxiliary_classifiers_are_trained():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    one = _loss(logits, labels, 0.1)
    torch.testing.assert_close(_loss((logits, logits, None), labels, 0.1), 1.3 * one)


def test_top5_counts_the_first_five():
    logits = torch.arange(10.0).repeat(3, 1)
    _, top1, top5 = _judged(logits, torch.tensor([9, 5, 4])).tolist()
    assert (top1, top5) == (1, 2)


def test_scores_in_plain_data_come_back():
    result = EpochResult(2, 0.1, 1.5, Scores(1.0, 0.5, 0.9, 20), 3.0)
    assert EpochResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


# The command and its refusals


def test_command_prints_json_and_quietly_where_piped(found, data, tmp_path, capfd):
    words = ["--data", data, "-o", tmp_path / "out", "--trust", "--epochs", 1, "--batch-size", 16]
    assert command(found, *words, "--set", "device=cpu", "--json") == 0
    printed = capfd.readouterr()
    told = json.loads(printed.out)
    assert told["config"] == str(tmp_path / "out" / "best.yaml") and told["epochs"] == 1
    assert "epoch 1/1  train loss" in printed.err and "\x1b" not in printed.err


def test_command_converts_and_builds_what_it_wrote(found, data, tmp_path, capfd):
    words = ["--data", data, "-o", tmp_path / "out", "--trust", "--epochs", 1, "--batch-size", 16]
    assert command(found, *words, "--set", "device=cpu") == 0
    assert "test     top1" in capfd.readouterr().out
    best, copy = tmp_path / "out" / "best.yaml", tmp_path / "copy.yaml"
    with pytest.raises(SystemExit) as caught:
        main(["export", "--from", str(best), "--trust", "--format", "weights", "-o", str(copy)])
    assert not caught.value.code
    assert same_weights(best.with_suffix(".safetensors"), copy.with_suffix(".safetensors"))


def test_interrupted_command_says_how_to_go_on(found, data, tmp_path, capfd, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("gcsearch.training.train", interrupted)
    assert command(found, "--data", data, "-o", tmp_path / "out") == 130
    assert "the same command goes on" in capfd.readouterr().err


def test_all_faults_of_the_settings_are_told_at_once(found, data, tmp_path, capfd):
    words = ["--epochs", 0, "--lr", -1, "--batch-size", 0, "--set", "warmup=1", "--set", "epoch=2"]
    assert command(found, "--data", data, "-o", tmp_path / "out", *words) == 2
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
    found, data, tmp_path, changes, message
):
    with pytest.raises(GcsearchError, match=message):
        run(found, data, tmp_path / "out", *changes)
    assert not (tmp_path / "out").exists()


def test_missing_config_and_none_and_both_are_refused(data, tmp_path):
    with pytest.raises(ExportError, match="does not exist"):
        run(tmp_path / "absent.yaml", data, tmp_path / "out")
    for source, backbone in ((None, None), (tmp_path / "a.yaml", "resnet18")):
        with pytest.raises(ConfigError, match="--backbone NAME"):
            run(source, data, tmp_path / "out", backbone=backbone)


def test_pictures_that_are_too_small_for_the_network_are_refused(data, tmp_path):
    with pytest.raises(ExportError, match="squeezenet1_1 cannot be run on pictures of 12 px"):
        run(None, data, tmp_path / "out", backbone="squeezenet1_1")
    assert not (tmp_path / "out").exists()


def test_import_paths_are_followed_only_where_trusted(found, data, tmp_path):
    with pytest.raises(ConfigError, match="--trust"):
        train(found, settings_for(data), tmp_path / "out")


def test_config_is_not_written_over(data, tmp_path):
    source = export(tmp_path / "best.yaml")
    with pytest.raises(ConfigError, match="write over"):
        run(source, data, tmp_path, force=True)
    assert source.exists()


def test_batch_that_processes_cannot_share_is_refused(found, data, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "here")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    with pytest.raises(ConfigError) as caught:
        run(found, data, tmp_path / "out")
    assert len(caught.value.faults) == 2 and "without torch.distributed" in str(caught.value)


def test_diverged_training_says_what_to_do(found, data, tmp_path):
    with pytest.raises(TrainingError, match="lower learning rate"):
        run(found, data, tmp_path / "out", "optimizer=sgd", "lr=100", "epochs=40", "warmup=0")


def test_memory_that_runs_out_says_what_to_lower(found, data, tmp_path, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Loop, "train", exhausted)
    with pytest.raises(TrainingError, match="lower batch_size or image_size"):
        run(found, data, tmp_path / "out")


def test_without_fabric_the_cure_is_told(found, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(TrainingError, match=r"pip install 'gcsearch\[train\]'"):
        run(found, data, tmp_path / "out")


def test_record_says_all_that_decides(unbroken):
    record = yaml.safe_load((unbroken.config_path.parent / "training.yaml").read_text())
    assert {"settings", "architecture", "data_hash", "start_weights"} <= record.keys()
    assert "device" not in record["settings"]

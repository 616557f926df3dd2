"""Full training: what comes of it, and its parts."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from full_training import (
    FOUND,
    NORMALISATION,
    Heard,
    run,
    settings_for,
    write_found,
)
from safetensors.torch import load_file
from torch import nn

import gcsearch
from gcsearch.architecture import Architecture
from gcsearch.backbones import build_altered
from gcsearch.blocks import GlobalContext
from gcsearch.export import read_config
from gcsearch.export.finding import holds
from gcsearch.proxy.sources import load_task
from gcsearch.training.events import EpochResult, Scores
from gcsearch.training.loop import Loop, _judged, _loss
from gcsearch.training.optimizer import parameter_groups
from gcsearch.training.pictures import Preparation

pytest.importorskip("lightning_fabric")

pytestmark = pytest.mark.usefixtures("unshared_machine", "elsewhere")


def test_export_builds_with_the_weights_whose_scores_it_tells(found, bright, tmp_path):
    trained = run(found, bright, tmp_path / "out", "epochs=4", "lr=0.05")
    config = read_config(trained.config_path)
    model = gcsearch.build(trained.config_path, trust=True)
    task = load_task(bright)
    prepare = Preparation(12, *(tuple(config.normalisation[key]) for key in ("mean", "std")))
    pictures = torch.from_numpy(np.array(task.test.images)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        right = model(prepare(pictures, torch.device("cpu"))).argmax(1).numpy()
    assert (right == task.test.labels).mean() == config.provenance["test_top1"]
    assert config.provenance["test_top1"] == trained.test.top1
    assert config.provenance["top1"] == max(result.val.top1 for result in trained.history)
    assert holds(trained.config_path, Architecture("full_training:with_norms", FOUND))
    assert "full training" in (tmp_path / "out" / "README.md").read_text()


def test_it_learns(found, bright, tmp_path):
    trained = run(found, bright, tmp_path / "out", "epochs=12", "lr=0.05")
    assert trained.test.top1 > 0.9 and trained.test.n_pictures == 22
    assert trained.history[-1].train_loss < trained.history[0].train_loss


def test_weights_of_the_config_are_where_it_starts(bright, tmp_path):
    torch.manual_seed(7)
    architecture = Architecture("full_training:with_norms", FOUND)
    model = build_altered(architecture, n_classes=3, input_size=(3, 12, 12), trust=True)
    source = write_found(tmp_path / "found.yaml", model=model)
    run(source, bright, tmp_path / "out", "epochs=1", "lr=1e-9", "weight_decay=0")
    trained = load_file(tmp_path / "out" / "best.safetensors")
    for key, value in model.named_parameters():
        torch.testing.assert_close(trained[key], value.detach(), atol=1e-6, rtol=0)
    assert read_config(tmp_path / "out" / "best.yaml").normalisation == NORMALISATION


def test_other_classes_get_a_new_classifier_and_are_told(bright, tmp_path):
    architecture = Architecture("full_training:with_norms", FOUND)
    model = build_altered(architecture, n_classes=5, input_size=(3, 12, 12), trust=True)
    source = write_found(tmp_path / "found.yaml", model=model, n_classes=5)
    heard = Heard()
    trained = run(source, bright, tmp_path / "out", "epochs=1", listener=heard)
    assert any("6.bias, 6.weight" in note and "is new" in note for note in heard.notes)
    assert read_config(trained.config_path).n_classes == 3


def test_backbone_alone_is_trained_unaltered(bright, tmp_path):
    name = "full_training:plain"
    trained = run(None, bright, tmp_path / "out", "epochs=1", backbone=name)
    assert read_config(trained.config_path).architecture == Architecture(name)


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


def test_running_statistics_become_the_mean_of_all_processes(bright):
    network = nn.Sequential(nn.BatchNorm2d(3))
    fabric = SimpleNamespace(
        world_size=2,
        setup=lambda *both: both,
        all_reduce=lambda value, reduce_op: value + torch.full_like(value, 3.0),
    )
    loop = Loop(fabric, network, None, load_task(bright), settings_for(bright), None, None)
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

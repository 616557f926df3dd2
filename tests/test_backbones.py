"""Names to networks, and weights from files that may come from a stranger."""

from __future__ import annotations

import os
import pickle
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gcsearch.architecture import Architecture, Insertion
from gcsearch.backbones import (
    backbone_names,
    build_altered,
    build_backbone,
    check_backbone,
    default_input_size,
    load_weights,
    read_state_dict,
)
from gcsearch.errors import ConfigError, SurgeryError, UnknownNameError
from gcsearch.surgery import find_sites, inserted_blocks

OWN = """
from torch import nn

def net(num_classes=3):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(num_classes))

def fixed():
    return nn.Linear(2, 2)

def nothing():
    return None

constant = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_backbones.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_backbones"
    sys.modules.pop("own_backbones", None)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_backbone("squeezenet1_1", n_classes=5)


def fresh(n_classes=5):
    torch.manual_seed(1)
    return build_backbone("squeezenet1_1", n_classes=n_classes)


def same(one, other):
    return all(torch.equal(v, other[k]) for k, v in one.items()) and one.keys() == other.keys()


def write(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


def test_names_are_sorted_classifiers():
    names = backbone_names()
    assert names == sorted(names) and {"resnet50", "swin_t", "googlenet"} <= set(names)
    assert not any("rcnn" in name or "raft" in name for name in names)


def test_unknown_name_suggests_a_near_one():
    with pytest.raises(UnknownNameError, match="backbone 'resent50'; did you mean 'resnet50'"):
        build_backbone("resent50")


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "inception_v3"])
def test_torchvision_model_gets_its_classes_without_a_warning(name):
    assert build_backbone(name, n_classes=7).fc.out_features == 7


def test_import_path_is_refused_without_trust_and_not_imported(own):
    with pytest.raises(ConfigError, match=r"would run code of its own\..*trust"):
        build_backbone(f"{own}:net")
    assert own not in sys.modules


def test_import_path_is_followed_with_trust_and_told_the_classes(own):
    assert build_backbone(f"{own}:net", n_classes=4, trust=True)[2].out_features == 4
    assert isinstance(build_backbone(f"{own}:fixed", n_classes=4, trust=True), nn.Linear)


@pytest.mark.parametrize(
    ("attribute", "kind", "told"),
    [
        ("missing", ConfigError, "cannot be imported"),
        ("constant", ConfigError, "is not a function"),
        ("nothing", SurgeryError, "returned NoneType, not an nn.Module"),
    ],
)
def test_import_path_to_something_else_is_told(own, attribute, kind, told):
    with pytest.raises(kind, match=told):
        build_backbone(f"{own}:{attribute}", trust=True)


@pytest.mark.parametrize("path", [":net", "no_such_package_:net", "..:net"])
def test_import_path_to_no_module_is_told(path):
    with pytest.raises(ConfigError, match="cannot be imported"):
        build_backbone(path, trust=True)


def test_altered_backbone_holds_the_blocks():
    architecture = Architecture("squeezenet1_1", (Insertion("features.3", ratio=1 / 4),))
    altered = build_altered(architecture, n_classes=5, input_size=(3, 64, 64))
    assert list(inserted_blocks(altered)) == ["features.3"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_weights_file_is_loaded_whole(model, tmp_path, suffix):
    file = write(model.state_dict(), tmp_path / f"weights{suffix}")
    other = fresh()
    assert not same(model.state_dict(), other.state_dict())
    assert load_weights(other, "squeezenet1_1", file) == []
    assert same(model.state_dict(), other.state_dict())


def test_classifier_of_another_size_stays_as_it_is(model, tmp_path):
    file = write(model.state_dict(), tmp_path / "a.safetensors")
    other = fresh(n_classes=9)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    left = load_weights(other, "squeezenet1_1", file)
    assert left == ["classifier.1.bias", "classifier.1.weight"]
    for key, value in other.state_dict().items():
        assert torch.equal(value, (before if key in left else model.state_dict())[key])


def test_three_classifiers_of_another_size_stay_as_they_are(tmp_path):
    file = write(build_backbone("googlenet", n_classes=9).state_dict(), tmp_path / "a.pth")
    left = load_weights(build_backbone("googlenet", n_classes=5), "googlenet", file)
    assert len(left) == 6 and all("fc" in key for key in left)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"features.0.bias": None}, "the file lacks 'features.0.bias'"),
        ({"extra": torch.zeros(2)}, "the file has 'extra', which is not in it"),
        ({"features.0.weight": torch.zeros(64, 3, 5, 5)}, r"'features.0.weight' has shape"),
        ({"features.0.bias": torch.zeros(())}, r"'features.0.bias' has shape \(\), not \(64,\)"),
        ({"features.0.bias": torch.zeros(3), "classifier.1.bias": torch.zeros(9)}, "has shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(model, tmp_path, changes, told):
    state = {k: v for k, v in (model.state_dict() | changes).items() if v is not None}
    other = fresh()
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(ConfigError, match=f"do not fit squeezenet1_1: .*{told}"):
        load_weights(other, "squeezenet1_1", write(state, tmp_path / "a.safetensors"))
    assert same(before, other.state_dict())


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, writer):
    file, ran = tmp_path / "evil.pth", tmp_path / "ran"
    data = {"conv.weight": torch.zeros(2), "x": Evil(ran)}
    torch.save(data, file) if writer == "torch" else file.write_bytes(pickle.dumps(data))
    with pytest.raises(ConfigError, match=r"holds more than tensors; save it as \.safetensors"):
        read_state_dict(file)
    assert not ran.exists()


@pytest.mark.parametrize("content", [b"", b"junk" * 99, b"PK\x03\x04junk"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_broken_weights_file_is_told_in_one_line(tmp_path, suffix, content):
    file = tmp_path / f"broken{suffix}"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"weights file '.*broken") as caught:
        read_state_dict(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [{"model": {"a": torch.zeros(2)}}, [torch.zeros(2)], {"a": 3}, {0: torch.zeros(2)}]
)
def test_file_that_is_no_state_dict_is_told(tmp_path, data):
    torch.save(data, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="is not a state dict of tensors"):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_missing_weights_file_is_told(tmp_path, suffix):
    with pytest.raises(ConfigError, match="does not exist"):
        read_state_dict(tmp_path / f"no{suffix}")


def test_unknown_weights_name_suggests_a_near_one(model):
    with pytest.raises(UnknownNameError, match="'DEFALT'; did you mean 'DEFAULT'"):
        load_weights(model, "squeezenet1_1", "DEFALT")


def test_named_weights_of_a_foreign_backbone_ask_for_a_file(model):
    with pytest.raises(ConfigError, match=r"is not torchvision's; give a \.safetensors file"):
        load_weights(model, "own_backbones:net", "DEFAULT")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", (3, 224, 224)),
        ("inception_v3", (3, 299, 299)),
        ("r3d_18", (3, 16, 112, 112)),
        ("mvit_v2_s", (3, 16, 224, 224)),
        ("fasterrcnn_resnet50_fpn", (3, 224, 224)),
        ("my.module:build", (3, 224, 224)),
    ],
)
def test_default_input_size_is_that_of_the_published_weights(name, size):
    assert default_input_size(name, nn.Identity()) == size


def test_timm_model_is_a_backbone():
    pytest.importorskip("timm", reason="timm is not installed: pip install 'gcsearch[timm]'")
    model = build_backbone("timm:resnet10t", n_classes=7)
    assert default_input_size("timm:resnet10t", model) == (3, 176, 176)
    sites = [s.path for s in find_sites(model, (3, 64, 64)) if "after-add" in s.kinds]
    assert sites == [f"layer{i}.0" for i in (1, 2, 3, 4)]
    with pytest.raises(UnknownNameError, match="unknown timm model 'resnet10'; did you mean"):
        check_backbone("timm:resnet10")


def test_missing_timm_is_told_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"needs timm; install it: pip install 'gcsearch\[timm"):
        build_backbone("timm:resnet10t")

"""Taking a network away and back: exactly, whole or not at all, and safely from a stranger."""

from __future__ import annotations

import json
import os

import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import gcsearch
from gcsearch.architecture import Architecture, Insertion
from gcsearch.backbones import build_altered
from gcsearch.errors import ExportError
from gcsearch.export import (
    ExportedConfig,
    build,
    read_config,
    write_atomically,
    write_config,
    write_weights,
)

SIZE = (3, 64, 64)
FOUND = Architecture("squeezenet1_1", (Insertion("features.3", ratio=1 / 4),))
NORMALISATION = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
CONFIG = ExportedConfig(FOUND, n_classes=5, image_size=64, normalisation=NORMALISATION)
PLAIN = CONFIG.to_dict()


def refused(call, *arguments, **options):
    """Return the message of the refusal, which is one line."""
    with pytest.raises(ExportError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    return str(caught.value)


def write(folder, data):
    path = folder / "found.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build_altered(FOUND, n_classes=5, input_size=SIZE)
    for parameter in model.parameters():  # so that the block does something
        nn.init.normal_(parameter, std=0.05)
    return model.eval()


@given(
    st.dictionaries(
        st.text(max_size=5), st.text() | st.floats(allow_nan=False) | st.none(), max_size=3
    ),
    st.lists(st.sampled_from(["layer1.0", "layer2.1", "layer4.0"]), unique=True),
)
@example(provenance={"\x85": "\u2028 naïve"}, sites=[])
def test_config_is_read_as_it_was_written(tmp_path_factory, provenance, sites):
    architecture = Architecture("resnet18", tuple(Insertion(s, ratio=1 / 3) for s in sites))
    config = ExportedConfig(
        architecture, 10, 32, "found.safetensors", NORMALISATION, {"study": provenance}
    )
    path = tmp_path_factory.mktemp("round") / "found.yaml"
    write_config(config, path)
    assert read_config(path) == config


def test_what_occurs_twice_is_written_twice_and_read_back(tmp_path):
    same = [0.5, 0.5, 0.5]
    config = ExportedConfig(FOUND, 5, 64, normalisation={"mean": same, "std": same})
    write_config(config, tmp_path / "a.yaml")
    assert read_config(tmp_path / "a.yaml") == config


def test_file_says_how_to_use_it_and_starts_with_its_format(tmp_path):
    write_config(CONFIG, tmp_path / "best.yaml")
    lines = (tmp_path / "best.yaml").read_text().splitlines()
    assert 'gcsearch.build("best.yaml")' in lines[0] and lines[1] == "gcsearch_format: 1"


def test_rebuilt_network_gives_equal_outputs(model, tmp_path):
    write_weights(model, tmp_path / "best.safetensors")
    write_config(ExportedConfig(FOUND, 5, 64, weights="best.safetensors"), tmp_path / "best.yaml")
    again = gcsearch.build(str(tmp_path / "best.yaml"))
    example = torch.randn(2, *SIZE)
    with torch.inference_mode():
        assert torch.equal(again(example), model(example))
    assert not again.training


def test_without_weights_the_network_is_built_fresh(tmp_path):
    write_config(CONFIG, tmp_path / "best.yaml")
    assert build(tmp_path / "best.yaml")(torch.randn(2, *SIZE)).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gcsearch_format": 2}, "has format 2, newer than 1; upgrade gcsearch"),
        ({"gcsearch_format": "1"}, "no exported config: it has no 'gcsearch_format'"),
        ({"gcsearch_format": True}, "no exported config: it has no 'gcsearch_format'"),
        ({"gcsearch_format": 0}, "no exported config: it has no 'gcsearch_format'"),
        ({"command": "rm"}, "has unknown key 'command'"),
        ({"architecture": {}}, "has unknown key 'architecture'"),
        ({7: 7}, "has unknown key '7'"),
        ({"backbone": 3}, "not a mapping with a 'backbone' name"),
        ({"insertions": [{"site": "a", "ratio": "1e999999999"}]}, "ratio '1e999999999'"),
        ({"insertions": [{"site": "a", "rato": 1}]}, "unknown key 'rato'"),
        ({"insertions": [{"site": "a", "block": ["gc"]}]}, "block ['gc'] is not a name"),
        ({"n_classes": 0}, "n_classes is 0, not a whole number in 1..100000"),
        ({"n_classes": True}, "n_classes is True, not a whole number"),
        ({"n_classes": 10**9}, "n_classes is 1000000000, not"),
        ({"image_size": 10**6}, "image_size is 1000000, not a whole number in 1..4096"),
        ({"image_size": "64"}, "image_size is '64', not"),
        ({"image_size": None}, "image_size is None, not"),
        ({"normalisation": "abc"}, "found.yaml: "),
        ({"provenance": [1]}, "found.yaml: "),
    ],
)
def test_config_with_something_wrong_is_refused(tmp_path, change, told):
    assert told in refused(read_config, write(tmp_path, PLAIN | change))


@pytest.mark.parametrize(
    "name",
    ["../a.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", 3, ["a"], "a\0/b"],
)
def test_weights_outside_the_folder_are_refused(tmp_path, name):
    told = refused(read_config, write(tmp_path, PLAIN | {"weights": name}))
    assert "is not the name of a file beside the config" in told


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch HERE']",
        "a: !!python/name:os.system",
        "a: &a [*a]",
        "a: 1\na: 2",
        "[" * 5000,
        "a: !!int ''",
        "a: !!timestamp x",
        "gcsearch_format: 2024-99-99",
        "just words",
        "",
        "a\0b",
    ],
)
def test_hostile_or_broken_yaml_is_refused_and_not_run(tmp_path, text):
    assert refused(read_config, write(tmp_path, text.replace("HERE", str(tmp_path / "ran"))))
    assert not (tmp_path / "ran").exists()


def test_file_of_another_kind_is_refused(tmp_path):
    assert "does not exist" in refused(read_config, tmp_path / "no.yaml")
    assert "Is a directory" in refused(read_config, tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not text in UTF-8" in refused(read_config, tmp_path / "binary.yaml")
    (tmp_path / "large.yaml").write_text("a" * 1_000_001)
    assert "is too large" in refused(read_config, tmp_path / "large.yaml")


def test_import_path_is_refused_without_trust_and_not_imported(tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text("raise SystemExit('this was run')")
    monkeypatch.syspath_prepend(tmp_path)
    path = write(tmp_path, PLAIN | {"backbone": "own_net:build", "insertions": []})
    assert "would run code of its own" in refused(build, path)
    with pytest.raises(SystemExit, match="this was run"):
        build(path, trust=True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"backbone": "resent50"}, "did you mean 'resnet50'"),
        ({"insertions": [{"site": "fc"}]}, "site 'fc' is not in SqueezeNet"),
        ({"insertions": [{"site": "features.3", "block": "cg"}]}, "did you mean 'gc'"),
        ({"insertions": [{"site": "features.3", "pooling": "max"}]}, "pooling 'max' is unknown"),
        ({"image_size": 8}, "cannot be"),
        ({"weights": "no.safetensors"}, "does not exist"),
        ({"weights": "found.yaml"}, "'found.yaml' are not a .safetensors file"),
        ({"weights": "a\0.safetensors"}, "does not exist"),
    ],
)
def test_config_that_cannot_be_built_is_refused(tmp_path, change, told):
    assert told in refused(build, write(tmp_path, PLAIN | change))


@pytest.mark.parametrize("fault", ["lacks", "extra", "shape", "broken"])
def test_weights_that_do_not_fit_are_refused(model, tmp_path, fault):
    state = dict(model.state_dict())
    if fault == "lacks":
        del state["classifier.1.bias"]
    elif fault == "extra":
        state["extra"] = torch.zeros(2)
    elif fault == "shape":
        state["classifier.1.bias"] = torch.zeros(9)
    save_file(state, tmp_path / "best.safetensors")
    if fault == "broken":
        (tmp_path / "best.safetensors").write_bytes(b"junk" * 9)
    told = refused(build, write(tmp_path, PLAIN | {"weights": "best.safetensors"}))
    assert "do not fit the architecture" in told or "cannot be read" in told


@pytest.mark.parametrize("failing", ["fdopen", "replace"])
def test_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, failing):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    target = tmp_path / "best.yaml"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(ExportError, match=r"best\.yaml cannot be written: No space left"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["best.yaml"]


def test_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "best.yaml", b"new")
    assert os.listdir(tmp_path) == []


def test_writing_makes_folders_and_replaces_what_was_there(tmp_path):
    target = tmp_path / "new" / "best.yaml"
    for content in (b"one", b"two"):
        write_atomically(target, content)
        assert target.read_bytes() == content
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(write_config, CONFIG, tmp_path / "file" / "best.yaml")
    assert "cannot be written: Is a directory" in refused(write_config, CONFIG, tmp_path)


def mutated(content, edits):
    """Return bytes with some of them replaced, put in or cut off."""
    changed = bytearray(content)
    for place, byte, kind in edits:
        at = place % max(1, len(changed))
        changed[at : at + (kind < 2)] = bytes([byte]) if kind else b""
    return bytes(changed)


EDITS = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(0, 255), st.integers(0, 2)), min_size=1, max_size=6
)


def refused_or_done(call, *arguments):
    """Run a call that must end well or with an ExportError of one line."""
    try:
        call(*arguments)
    except ExportError as error:
        assert "\n" not in str(error)


@given(EDITS)
def test_mutated_config_is_read_or_refused(tmp_path_factory, edits):
    path = tmp_path_factory.mktemp("fuzz") / "found.yaml"
    path.write_bytes(mutated(yaml.safe_dump(PLAIN).encode(), edits))
    refused_or_done(read_config, path)


@given(EDITS)
@settings(max_examples=25)
def test_mutated_weights_are_built_or_refused(model, tmp_path_factory, edits):
    path = tmp_path_factory.mktemp("fuzz") / "found.safetensors"
    write_weights(model, path, CONFIG)
    content = path.read_bytes()
    cut = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(mutated(content[:cut], edits) + content[cut:])
    refused_or_done(read_config, path)
    refused_or_done(build, path)


@pytest.mark.parametrize("version", [2, 10**30])
def test_newer_weights_are_refused(model, tmp_path, version):
    note = json.dumps(PLAIN | {"gcsearch_format": version})
    save_file(model.state_dict(), tmp_path / "a.safetensors", metadata={"gcsearch": note})
    assert "newer than 1; upgrade gcsearch" in refused(build, tmp_path / "a.safetensors")


def test_older_weights_load_beside_their_config_but_not_alone(model, tmp_path):
    write_weights(model, tmp_path / "best.safetensors")
    path = write(tmp_path, PLAIN | {"weights": "best.safetensors"})
    assert build(path)
    assert "without their config" in refused(build, tmp_path / "best.safetensors")


def test_backbone_that_takes_no_classes_is_refused(tmp_path):
    path = write(tmp_path, PLAIN | {"backbone": "raft_small", "insertions": []})
    assert "found.yaml" in refused(build, path)

"""One search as data: all faults at once, and nothing a stranger's file could do."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from gcsearch.config import SearchConfig, load_config, read_yaml
from gcsearch.errors import ConfigError

ALL_OTHER = {
    "backbone": "resnet18",
    "weights": "DEFAULT",
    "data": {"source": "npz:a.npz", "image_size": 32, "options": {"flip": True, "n": 3, "x": 0.5}},
    "space": {"sites": ["stage:3"], "ratios": ["1/3", 0.0625], "max_insertions": 2},
    "training": {"batch_size": 8, "precision": "bf16", "trainable": "blocks"},
    "latency": {"image_size": 32, "threads": 1, "limit": 1.1},
    "limits": {"macs": 1.001, "memory": 1.5},
    "search": {"workers": 2, "seed": 7, "objective": "params"},
    "plan": {"budget_s": 60, "check_seeds": 0},
}


def write(folder, text):
    path = folder / "search.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def faults_of(source, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    assert not any("\n" in fault or len(fault) > 500 for fault in caught.value.faults)
    return caught.value.faults


@pytest.mark.parametrize("source", [{}, ALL_OTHER])
def test_configuration_survives_plain_data_json_and_yaml(source, tmp_path):
    config = load_config(source)
    assert load_config(config.to_dict()) == config
    assert load_config(json.loads(json.dumps(config.to_dict()))) == config
    assert load_config(write(tmp_path, yaml.safe_dump(config.to_dict()))) == config


def test_limits_are_in_one_order_whichever_are_set():
    given = {"limits": {"memory": 1.5, "params": None, "macs": 1.001}, "latency": {"limit": 1.1}}
    assert [*load_config(given).cost_limits.items()] == [
        ("latency", 1.1),
        ("macs", 1.001),
        ("memory", 1.5),
    ]
    assert SearchConfig().cost_limits == {}


def test_options_keep_their_types():
    options = load_config(load_config(ALL_OTHER).to_dict()).data.options
    assert [type(v) for v in options.values()] == [bool, int, float]


def test_nothing_said_is_all_defaults(tmp_path):
    assert load_config() == load_config({}) == SearchConfig()
    assert load_config(write(tmp_path, "# nothing yet\n")) == SearchConfig()


def test_all_faults_are_told_at_once():
    bad = {
        "bacbone": "resnet18",
        "space": {"max_insertions": 0, "blocks": ["cg"], "ratio": ["1/4"]},
        "training": {"precision": "fp8"},
        "plan": {"budget_s": float("inf")},
    }
    faults = faults_of(bad, ["search.worker=2", "nonsense"])
    told = "\n".join(faults)
    assert len(faults) == 8
    for key in ("nonsense", "bacbone", "max_insertions", "blocks", "ratio", "precision",
                "budget_s", "search.worker"):  # fmt: skip
        assert key in told


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"bacbone": "a"}, "unknown key 'bacbone'; did you mean 'backbone'?"),
        ({"plan": {"budget": 3}}, "unknown key 'plan.budget'; did you mean 'budget_s'?"),
        ({"plan": {"zzz": 3}}, "unknown key 'plan.zzz'; known: baseline_images, budget_s, "),
        ({"plan": {"trials": 0}}, "plan.trials = 0: input should be greater than or equal to 1"),
        ({"plan": 3}, "plan = 3: input should be a valid dictionary"),
        ({"search": {"seed": -1}}, "search.seed = -1: "),
        ({"search": {"objective": "flops"}}, "search.objective = 'flops': input should be 'lat"),
        ({"limits": {"macs": 1}}, "limits.macs = 1: input should be greater than 1"),
        ({"limits": {"params": 2e7}}, "limits.params = 20000000.0: input should be less than"),
        ({"limits": {"latency": 1.1}}, "unknown key 'limits.latency'; known: macs, memory, pa"),
        ({"training": {"device": 3}}, "training.device = 3: input should be a valid string"),
        ({"space": {"blocks": ["cg"]}}, "space.blocks = ['cg']: unknown block 'cg'; did you mean"),
        ({"space": {"ratios": [2]}}, "space.ratios = [2]: ratio 2 is outside (0, 1]"),
        ({1: 2}, "1 = "),
    ],
)
def test_fault_names_key_value_and_cure(source, told):
    (fault,) = faults_of(source)
    assert fault.startswith(told) or told in fault


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("space.max_insertions=2", ("space", "max_insertions"), 2),
        ("backbone=resnet18", ("backbone",), "resnet18"),
        (" plan.budget_s = 60", ("plan", "budget_s"), 60),
        ("space.ratios=[1/4, 0.125]", ("space", "ratios"), (0.25, 0.125)),
        ("space.sites=[layer3.*]", ("space", "sites"), ("layer3.*",)),
        ("data.source=npz:a=b.npz", ("data", "source"), "npz:a=b.npz"),
        ("data.options={digits: 3}", ("data", "options"), {"digits": 3}),
        ("data.options.digits=3", ("data", "options", "digits"), 3),
        ("data.image_size=null", ("data", "image_size"), None),
        ("data.image_size=", ("data", "image_size"), None),
    ],
)
def test_set_changes_one_key(text, path, value):
    found = load_config({"data": {"image_size": 64}}, [text])
    for key in path:
        found = found[key] if isinstance(found, dict) else getattr(found, key)
    assert found == value


def test_section_whose_keys_are_all_commented_out_is_all_defaults(tmp_path):
    path = tmp_path / "search.yaml"
    path.write_text("backbone: resnet18\nplan:\n  # trials: 4\nspace:\n")
    assert load_config(str(path)) == SearchConfig(backbone="resnet18")


def test_later_set_wins_and_the_source_is_left_as_it_was():
    source = {"plan": {"trials": 1}}
    assert load_config(source, ["plan.trials=2", "plan.trials=3"]).plan.trials == 3
    assert source == {"plan": {"trials": 1}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("plan.trials", "is not of the form key=value"),
        ("=3", "is not of the form key=value"),
        ("backbone.name=a", "'backbone' is not a section"),
        ("plan.trials=[", "the value is not YAML"),
        ("plan.trials=!!int ''", "the value is not YAML"),
        ("plan.trials=2024-99-99", "the value is not YAML"),
        ("plan.trials=!!python/object/apply:os.getcwd []", "the value is not YAML"),
        ("plan.trails=3", "unknown key 'plan.trails'; did you mean 'trials'?"),
        ("trials=3", "unknown key 'trials'"),
    ],
)
def test_set_of_another_form_is_a_fault(text, told):
    (fault,) = faults_of({"backbone": "resnet18"}, [text])
    assert told in fault


@pytest.mark.parametrize(
    "text",
    [
        "backbone: !!python/object/apply:os.system ['touch HERE']",
        "backbone: !!python/name:os.system",
        "backbone: !!python/module:antigravity",
        "!!python/object/new:type {args: [a, [], {}]}",
    ],
)
def test_code_in_a_file_is_refused_and_not_run(text, tmp_path):
    path = write(tmp_path, text.replace("HERE", str(tmp_path / "ran")))
    (fault,) = faults_of(path)
    assert "cannot be read as YAML" in fault and not (tmp_path / "ran").exists()


def bomb(levels, form):
    lines = ["a0: &a0 {k0: x, k1: x}"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} " + form.format(*[f"*a{i - 1}"] * 2))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (bomb(60, "[{}, {}]"), "aliases are not allowed"),
        (bomb(60, "{{<<: [{}, {}]}}"), "aliases are not allowed"),
        ("a: &a [*a]", "aliases are not allowed"),
        ("backbone: a\nbackbone: b", "key 'backbone' is given twice"),
        ("plan: {trials: 1, trials: 2}", "key 'trials' is given twice"),
        ("[" * 5000, "cannot be read as YAML"),
        ("plan: {trials: " + "9" * 5000 + "}", "cannot be read as YAML"),
        ('!!timestamp "x"', "cannot be read as YAML"),
        ("!!bool x", "cannot be read as YAML"),
        ("? {a: b}\n: c", "cannot be read as YAML"),
        ("? [a]\n: c\n? [a]\n: c", "cannot be read as YAML"),
        (b"\xff\xfe\xfd", "is not text in UTF-8"),
        ("a\0b", "cannot be read as YAML"),
        ("- a\n- b", "is a list, not a mapping"),
        ("just words", "is a str, not a mapping"),
    ],
)
def test_hostile_or_broken_file_is_one_short_fault(text, told, tmp_path):
    path = write(tmp_path, text)
    (fault,) = faults_of(path)
    assert told in fault


def test_huge_value_is_cut_in_its_fault():
    value = "x"
    for _ in range(5):
        value = [value] * 9
    for fault in faults_of({"plan": {"trials": value}, "backbone": value}):
        assert len(fault) < 200


def test_missing_file_and_folder_are_told_by_name(tmp_path):
    with pytest.raises(ConfigError, match=rf"{re.escape(str(tmp_path))}/no.yaml: no such file"):
        load_config(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


def test_plain_yaml_is_read():
    assert read_yaml("a: [1, 0.5, x, null, true]") == {"a": [1, 0.5, "x", None, True]}


def test_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        SearchConfig().backbone = "resnet18"

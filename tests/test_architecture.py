"""Architectures as values: canonical, with one id everywhere, and only from sound plain data."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gcsearch.architecture import Architecture, Insertion, read_ratio, show_ratio
from gcsearch.blocks.settings import BLOCK_SETTINGS, FUSIONS, MODES, POOLINGS
from gcsearch.errors import ArchitectureError

SITES = st.sampled_from([f"layer{i}.{j}" for i in range(1, 5) for j in range(3)])
VALUES = {
    "ratio": st.floats(0, 1, exclude_min=True),
    "pooling": st.sampled_from(POOLINGS),
    "fusions": st.lists(st.sampled_from(FUSIONS), min_size=1).map(tuple),
    "mode": st.sampled_from(MODES),
    "sub_sample": st.booleans(),
}
INSERTIONS = st.one_of(
    st.builds(Insertion, site=SITES, block=st.just(block), **{k: VALUES[k] for k in settings})
    for block, settings in BLOCK_SETTINGS.items()
)
ROWS = st.lists(INSERTIONS, unique_by=lambda i: i.site, max_size=5)
KNOWN = Architecture("resnet50", (Insertion("layer4.0", ratio=1 / 4), Insertion("layer3.5")))


@given(ROWS, st.randoms())
def test_id_and_value_do_not_depend_on_order(row, random):
    shuffled = random.sample(row, len(row))
    one, other = Architecture("resnet18", tuple(row)), Architecture("resnet18", tuple(shuffled))
    assert one == other and hash(one) == hash(other) and one.id == other.id


@given(ROWS)
def test_plain_data_give_the_architecture_back(row):
    architecture = Architecture("resnet18", tuple(row))
    data = architecture.to_dict()
    for copy in (data, json.loads(json.dumps(data)), yaml.safe_load(yaml.safe_dump(data))):
        assert Architecture.from_dict(copy) == architecture
        assert Architecture.from_dict(copy).id == architecture.id


@given(ROWS, ROWS)
def test_ids_differ_where_architectures_do(row, other):
    a, b = Architecture("resnet18", tuple(row)), Architecture("resnet18", tuple(other))
    assert (a.id == b.id) == (a == b)


@pytest.mark.parametrize("seed", ["0", "1"])
def test_id_is_the_same_in_every_process(seed):
    code = (
        "from gcsearch.architecture import Architecture, Insertion;"
        "a, b = Insertion('layer3.5'), Insertion('layer4.0', ratio='1/4');"
        "print(Architecture('resnet50', (a, b)).id)"
    )
    env = {**os.environ, "PYTHONHASHSEED": seed}
    told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert told.stdout.strip() == KNOWN.id


def test_id_stays_what_it_was_when_studies_were_stored():
    assert KNOWN.id == "5218e71795e3"


def test_backbone_is_part_of_the_id():
    assert Architecture("resnet18").id != Architecture("resnet34").id


def test_spelling_of_a_ratio_or_of_fusions_does_not_matter():
    spelt = Insertion("a", ratio="1/16", fusions=["channel_mul", "channel_add", "channel_mul"])
    assert spelt == Insertion("a", ratio=0.0625, fusions=("channel_add", "channel_mul"))


def test_baseline_is_the_architecture_without_insertions():
    assert KNOWN.baseline() == Architecture("resnet50")
    assert KNOWN.baseline().is_baseline and not KNOWN.is_baseline
    assert str(KNOWN.baseline()) == "baseline"
    assert str(KNOWN) == "layer3.5 gc r1/16 att add; layer4.0 gc r1/4 att add"


@given(st.floats(0, 1, exclude_min=True))
def test_shown_ratio_reads_as_the_same_number(ratio):
    assert read_ratio(show_ratio(ratio)) == ratio


def nested(depth):
    value = "x"
    for _ in range(depth):
        value = [value] * 9
    return value


BAD_INSERTIONS = {
    "site": ["", 3, None, ["a"]],
    "block": [1, None, ["gc"]],
    "pooling": [2, {}],
    "ratio": [
        *(0, -1, 1.5, True, "", "a/b", "1/0", [1], {}, b"0.5"),
        *(float("nan"), float("inf"), 10**400, "1e400", "1e999999999", "9" * 5000),
    ],
    "fusions": ["channel_add", 1, [1], [None], {"channel_add": 1}],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in BAD_INSERTIONS.items() for value in values]
)
def test_bad_values_are_refused_in_one_short_line(key, value):
    data = {"backbone": "resnet18", "insertions": [{"site": "layer1.0", key: value}]}
    with pytest.raises(ArchitectureError) as caught:
        Architecture.from_dict(data)
    assert key in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "not a mapping with a 'backbone'"),
        ([], "not a mapping with a 'backbone'"),
        ({}, "not a mapping with a 'backbone'"),
        ({"backbone": 3}, "not a mapping with a 'backbone'"),
        ({"backbone": "a", "insertion": []}, "unknown key 'insertion'; known"),
        ({"backbone": "a", 1: 2}, "unknown key '1'; known"),
        ({"backbone": "a", "insertions": "layer1"}, "'layer1' is not a list"),
        ({"backbone": "a", "insertions": {"site": "b"}}, "is not a list"),
        ({"backbone": "a", "insertions": None}, "None is not a list"),
        ({"backbone": "a", "insertions": ["layer1"]}, "'layer1' is not a mapping with a 'site'"),
        ({"backbone": "a", "insertions": [{}]}, "is not a mapping with a 'site'"),
        ({"backbone": "a", "insertions": [nested(5)]}, "is not a mapping with a 'site'"),
        ({"backbone": "a", "insertions": [{"site": "b", "rato": 1}]}, "unknown key 'rato'"),
        ({"backbone": "a", "insertions": [{"site": "b"}] * 2}, "'b' is named twice"),
    ],
)
def test_bad_plain_data_are_refused_in_one_short_line(data, message):
    with pytest.raises(ArchitectureError, match=message) as caught:
        Architecture.from_dict(data)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_only_insertions_can_be_inserted():
    with pytest.raises(ArchitectureError, match=r"'layer1\.0' is no Insertion"):
        Architecture("resnet18", ("layer1.0",))


def test_architectures_need_no_torch():
    code = "import sys, gcsearch.architecture; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("insertion", "settings", "text"),
    [
        (
            Insertion("a"),
            {"ratio": 1 / 16, "pooling": "att", "fusions": ("channel_add",)},
            "a gc r1/16 att add",
        ),
        (Insertion("a", "se"), {"ratio": 1 / 16}, "a se r1/16"),
        (Insertion("a", "snl"), {}, "a snl"),
        (
            Insertion("a", "nl", sub_sample=True),
            {"mode": "embedded_gaussian", "sub_sample": True},
            "a nl embedded_gaussian sub",
        ),
    ],
)
def test_each_block_has_its_own_settings_only(insertion, settings, text):
    assert insertion.settings() == settings and str(insertion) == text
    assert insertion.to_dict().keys() == {"site", "block", *settings}


@pytest.mark.parametrize(
    ("block", "settings", "told"),
    [
        ("se", {"pooling": "att"}, "block 'se' has no setting 'pooling'; its settings: ratio"),
        ("snl", {"ratio": 0.5}, "block 'snl' has no setting 'ratio'; its settings: none"),
        ("nl", {"sub_sample": 1}, "sub_sample 1 is neither true nor false"),
        ("nl", {"mode": 3}, "mode 3 is not a name, e.g. 'embedded_gaussian'"),
    ],
)
def test_setting_that_a_block_does_not_have_is_refused(block, settings, told):
    with pytest.raises(ArchitectureError, match=told):
        Insertion("layer1.0", block, **settings)

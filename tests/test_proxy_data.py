"""What a proxy task must be, how splits are carved, and how a spec finds its source."""

import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcsearch.errors import DataError, UnknownNameError
from gcsearch.proxy import sources
from gcsearch.proxy.sources import load_task
from gcsearch.proxy.splits import partition
from gcsearch.proxy.task import ProxyTask, Split, check_task

RNG = np.random.default_rng(0)


def pictures(n, height=10, width=10):
    return RNG.integers(0, 256, (n, height, width, 3), np.uint8)


def labels(n, classes=2):
    return np.arange(n) % classes


def split_of(n=8, **size):
    return Split(pictures(n, **size), labels(n))


def good_task(**changes):
    whole = {"train": split_of(), "val": split_of(4), "test": split_of(4)}
    return replace(ProxyTask("toy", class_names=("a", "b"), flip=True, **whole), **changes)


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    assert message[0].islower()
    return message


def test_a_good_task_passes_as_it_is():
    task = good_task()
    assert check_task(task) is task
    assert (task.n_classes, task.image_size, task.chance, task.guess_top1) == (
        2,
        (10, 10),
        0.5,
        0.5,
    )


def test_guess_is_told_where_it_is_known():
    assert good_task(guess=0.7).guess_top1 == 0.7


def test_mean_and_deviation_are_per_channel_fractions():
    images = np.zeros((8, 10, 10, 3), np.uint8)
    images[..., 1] = 255
    images[:4, ..., 2] = 255
    task = good_task(train=Split(images, labels(8)))
    assert task.mean == (0.0, 1.0, 0.5)
    assert task.std == pytest.approx((1 / 255, 1 / 255, 0.5))


def test_mean_of_many_pictures_is_taken_from_a_sample():
    images = np.repeat(np.arange(5000) % 256, 8 * 8 * 3).reshape(5000, 8, 8, 3).astype(np.uint8)
    task = good_task(train=Split(images, labels(5000)))
    assert task.mean == pytest.approx((0.5, 0.5, 0.5), abs=0.02)


def test_content_hash_follows_pixels_and_labels():
    task = good_task()
    copy = Split(task.val.images.copy(), task.val.labels.copy())
    assert replace(task, val=copy).content_hash == task.content_hash
    turned = Split(task.val.images, 1 - task.val.labels)
    assert replace(task, val=turned).content_hash != task.content_hash
    assert replace(task, val=task.test, test=task.val).content_hash != task.content_hash


def test_pictures_cannot_be_written_to_but_the_callers_can():
    images = pictures(8)
    split = Split(images, labels(8))
    with pytest.raises(ValueError, match="read-only"):
        split.images[0] = 0
    images[0] = 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": Split(pictures(8).astype(float), labels(8))}, "train images are float64"),
        ({"val": Split(pictures(8), labels(8).astype(np.int32))}, "val labels are int32"),
        ({"val": Split(pictures(8), [0, 1])}, "val labels are list; give a numpy array"),
        ({"test": "?"}, "test is str; give a Split"),
        ({"train": Split(pictures(8)[..., :1], labels(8))}, "shape (8, 10, 10, 1)"),
        ({"train": Split(pictures(8)[0], labels(8))}, "shape (10, 10, 3)"),
        ({"train": Split(pictures(8), labels(8)[:, None])}, "labels have shape (8, 1)"),
        ({"train": Split(pictures(8), labels(7))}, "train has 8 images but 7 labels"),
        ({"test": Split(pictures(0), labels(0))}, "test has 0 picture"),
        ({"test": Split(pictures(1), labels(1))}, "test has 1 picture"),
        ({"val": split_of(height=7)}, "sides below 8"),
        ({"val": split_of(width=12)}, "val images are (10, 12) but train's are (10, 10)"),
        (
            {"val": Split(pictures(2), np.array([0, 2]))},
            "val labels go from 0 to 2; allowed: 0..1",
        ),
        ({"val": Split(pictures(2), np.array([-1, 1]))}, "val labels go from -1 to 1"),
        ({"train": Split(pictures(2), np.array([1, 1]))}, "train has only class 1"),
        (
            {"class_names": ("a", "b", "c"), "test": Split(pictures(2), np.array([0, 2]))},
            "'c' is in",
        ),
        ({"class_names": ()}, "there are no class names"),
        ({"class_names": ["a", "b"]}, "class_names are ['a', 'b']"),
        ({"flip": 1}, "flip is 1"),
        ({"guess": 50}, "guess is 50"),
    ],
)
def test_bad_tasks_are_refused(changes, message):
    with pytest.raises(DataError) as caught:
        check_task(good_task(**changes))
    assert one_line(caught).startswith("toy: ")
    assert message in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 99))
def test_carving_keeps_every_picture_once_and_every_class_in_train(values, seed):
    column = np.array(values)
    parts = partition(column, {"val": 0.2, "test": 0.2}, seed)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(column)))
    assert set(column[parts["train"]]) == set(values)
    for label, n in zip(*np.unique(column, return_counts=True), strict=True):
        held = (column[parts["val"]] == label).sum()
        assert held == min(max(1, round(0.2 * n)), n - 1)


@pytest.fixture
def module(monkeypatch):
    module = types.ModuleType("their_data")
    monkeypatch.setitem(sys.modules, "their_data", module)
    return module


def test_import_path_is_refused_unless_trusted(module):
    module.build = lambda: pytest.fail("it was run")
    with pytest.raises(DataError, match=r"their_data:build is an import path.*trust=True"):
        load_task("their_data:build")


def test_untrusted_import_path_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "innocent.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match="trust=True"):
        load_task("innocent:build")
    with pytest.raises(DataError, match="trust=True"):
        load_task("innocent.part:build")


def test_trusted_import_path_gets_what_it_asks_for(module):
    def build(seed, colour, image_size):
        assert (seed, colour, image_size) == (7, "red", 16)
        return good_task()

    module.build = build
    options = {"colour": "red"}
    task = load_task("their_data:build", image_size=16, seed=7, options=options, trust=True)
    assert task.name == "their_data:build"
    assert task.image_size == (16, 16)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: 1 / 0, "raised ZeroDivisionError (division by zero)"),
        (lambda: None, "returned NoneType; return a ProxyTask"),
        (lambda: good_task(flip=3), "flip is 3"),
        (lambda: good_task(test=Split(pictures(0), labels(0))), "test has 0 picture"),
        (lambda needed: None, "raised TypeError"),
        ("text", "is str; name a function"),
    ],
)
def test_trusted_import_path_that_misbehaves(module, build, message):
    module.build = build
    with pytest.raises(DataError) as caught:
        load_task("their_data:build", trust=True)
    assert "their_data:build" in one_line(caught)
    assert message in str(caught.value)


@pytest.mark.parametrize("spec", ["no_such_module:build", "their_data:nothing"])
def test_import_path_that_leads_nowhere(module, spec):
    with pytest.raises(DataError, match=f"cannot import {spec}"):
        load_task(spec, trust=True)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cued-digit", "unknown proxy task 'cued-digit'; did you mean 'cued-digits'?"),
        ("torchvison:CIFAR10", "'torchvison:'; did you mean 'torchvision:NAME'?"),
        ("imagefolders:data/x", "'imagefolders:'; did you mean 'imagefolder:DIR'?"),
        ("data/x", "Known: cued-digits, imagefolder:DIR, npz:FILE, package.module:function"),
        ("", "unknown proxy task ''"),
        ("a b:c", "unknown proxy task 'a b:'"),
    ],
)
def test_unknown_specs_name_near_misses(spec, message):
    with pytest.raises(UnknownNameError) as caught:
        load_task(spec)
    assert message in one_line(caught)


@pytest.mark.parametrize("spec", ["npz:", "imagefolder:", "torchvision:"])
def test_sources_need_a_name(spec):
    with pytest.raises(DataError, match=f"'{spec}' names nothing; give {spec}"):
        load_task(spec)


@pytest.mark.parametrize(
    "wrong",
    [{"image_size": 7}, {"image_size": 32.0}, {"seed": -1}, {"seed": None}, {"seed": True}],
)
def test_bad_requests_are_refused(wrong):
    with pytest.raises(DataError, match="give a whole number of at least"):
        load_task("cued-digits", **wrong)


def test_registered_tasks_are_built_in():
    assert sources.TASKS.names() == ["cued-digits"]

"""Proxy tasks from npz files: the layouts that are read, and what is refused and how."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcsearch.errors import DataError
from gcsearch.proxy.sources import load_task
from gcsearch.proxy.task import check_task

RNG = np.random.default_rng(0)


def pictures(n, height=10, width=10):
    return RNG.integers(0, 256, (n, height, width, 3), np.uint8)


def labels(n, classes=2):
    return np.arange(n) % classes


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    assert message[0].islower()
    return message


def save(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def named(**changes):
    whole = {"x_train": pictures(40), "y_train": labels(40), "x_test": pictures(8)}
    return {**whole, "y_test": labels(8), **changes}


def test_npz_with_named_parts(tmp_path):
    arrays = named(x_val=pictures(6), y_val=labels(6), class_names=np.array(["cat", "dog"]))
    task = load_task(save(tmp_path / "a.npz", **arrays))
    assert np.array_equal(task.train.images, arrays["x_train"])
    assert np.array_equal(task.val.labels, arrays["y_val"])
    assert np.array_equal(task.test.images, arrays["x_test"])
    assert task.class_names == ("cat", "dog")
    assert task.flip is True
    assert task.guess is None


def test_npz_without_val_has_a_stratified_quarter_of_train(tmp_path):
    spec = save(tmp_path / "a.npz", **named())
    task = load_task(spec, seed=1)
    assert np.bincount(task.val.labels).tolist() == [5, 5]
    assert np.bincount(task.train.labels).tolist() == [15, 15]
    assert task.content_hash == load_task(spec, seed=1).content_hash
    assert task.content_hash != load_task(spec, seed=2).content_hash


def test_npz_with_a_split_column(tmp_path):
    column = np.array(["train"] * 10 + ["val"] * 4 + ["test"] * 6)
    x = pictures(20)
    task = load_task(save(tmp_path / "a.npz", x=x, y=labels(20), split=column))
    assert np.array_equal(task.val.images, x[10:14])
    assert (len(task.train), len(task.test)) == (10, 6)


def test_npz_split_column_may_leave_val_out_and_be_bytes(tmp_path):
    column = np.array([b"train"] * 16 + [b"test"] * 4)
    task = load_task(save(tmp_path / "a.npz", x=pictures(20), y=labels(20), split=column))
    assert (len(task.train), len(task.val), len(task.test)) == (12, 4, 4)


@pytest.mark.parametrize("shape", [(40, 10, 10), (40, 10, 10, 1)])
def test_npz_greyscale_becomes_rgb(tmp_path, shape):
    grey = RNG.integers(0, 256, shape, np.uint8)
    test = grey.reshape(40, 10, 10)[:8]
    column = labels(40).astype(np.uint8)[:, None]
    task = load_task(save(tmp_path / "a.npz", **named(x_train=grey, x_test=test, y_train=column)))
    assert np.array_equal(task.test.images, np.repeat(test[..., None], 3, axis=3))


def test_npz_pictures_are_resized_on_demand(tmp_path):
    train, test = np.full((40, 20, 12, 3), 200, np.uint8), np.full((8, 9, 9, 3), 100, np.uint8)
    spec = save(tmp_path / "a.npz", **named(x_train=train, x_test=test))
    task = load_task(spec, image_size=16)
    assert task.image_size == (16, 16)
    assert (task.train.images == 200).all()
    assert (task.test.images == 100).all()
    with pytest.raises(DataError, match=r"test images are \(9, 9\) but train's are \(20, 12\)"):
        load_task(spec)


def test_npz_flip_is_an_option(tmp_path):
    spec = save(tmp_path / "a.npz", **named())
    assert load_task(spec, options={"flip": False}).flip is False
    with pytest.raises(DataError, match="flip is 'no'"):
        load_task(spec, options={"flip": "no"})
    with pytest.raises(DataError, match="unknown option 'flop'; allowed: flip"):
        load_task(spec, options={"flop": False})


CHANNELS_FIRST = pictures(40).transpose(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "lacks x, y, split (it has nothing); use the layout"),
        ({"x_train": pictures(4)}, "lacks y_train, x_test, y_test (it has x_train)"),
        (named(x_val=pictures(4)), "lacks y_val"),
        (named(x_valid=pictures(4)), "unknown array 'x_valid'"),
        (named(x_train=pictures(40) / 255), "x_train is float64; pictures are uint8"),
        (named(x_train=CHANNELS_FIRST), "(40, 3, 10, 10), channels first; give (N, H, W, 3): tr"),
        (named(x_train=CHANNELS_FIRST), ".transpose(0, 2, 3, 1)"),
        (named(x_train=pictures(40)[0, 0]), "x_train has shape (10, 3)"),
        (named(x_train=np.zeros((40, 9, 9, 4), np.uint8)), "x_train has shape (40, 9, 9, 4)"),
        (named(x_test=pictures(0), y_test=labels(0)), "x_test has shape (0, 10, 10, 3)"),
        (named(x_train=pictures(40, 6, 6)), "sides below 8"),
        (named(y_train=labels(39)), "x_train has 40 images but y_train 39 labels"),
        (named(y_train=labels(40) / 2), "y_train is float64; labels are integers"),
        (named(y_train=np.eye(2, dtype=int)[labels(40)]), "y_train has shape (40, 2)"),
        (named(y_train=labels(40) * 5), "train labels are 0, 5; number them 0..1"),
        (named(y_train=labels(40) + 1), "train labels are 1, 2"),
        (named(y_train=labels(40) * 2**40), "number them 0..1"),
        (named(y_train=labels(40) * 0), "train has only class 0"),
        (named(y_test=labels(8) * 2), "test labels go from 0 to 2"),
        (named(class_names=np.array(["a"])), "train labels go from 0 to 1; allowed: 0..0"),
        (named(class_names=np.arange(2)), "class_names is int64"),
        ({"x": pictures(4), "y": labels(4), "split": labels(4)}, "split is int64 of shape (4,)"),
        (
            {"x": pictures(2), "y": labels(2), "split": np.array(["train", "dev"])},
            "split has 'dev'",
        ),
        (
            {"x": pictures(2), "y": labels(2), "split": np.array(["train"] * 2)},
            "never says 'test'",
        ),
    ],
)
def test_bad_npz_is_refused_naming_the_file(tmp_path, arrays, message):
    spec = save(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError) as caught:
        load_task(spec)
    assert one_line(caught).startswith(spec)
    assert message in str(caught.value)


class Trap:
    def __reduce__(self):
        return (os.mkdir, (os.environ["TRAP"],))


def test_npz_never_unpickles(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    objects = np.array([Trap()], dtype=object)
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Trap()))
    specs = [save(tmp_path / "a.npz", **named(y_train=objects)), f"npz:{tmp_path / 'bare.npz'}"]
    for spec in specs:
        with pytest.raises(DataError, match="not a readable"):
            load_task(spec)
    assert not (tmp_path / "sprung").exists()


def test_npz_of_other_kinds_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", pictures(4))
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x_train", b"hello")
    (tmp_path / "c.npz").write_bytes(b"")
    for name, message in [
        ("a.npy", "one bare array"),
        ("b.npz", "'x_train' is no array"),
        ("c.npz", "not a readable"),
        ("d.npz", "no such file"),
        (".", "no such file"),
    ]:
        with pytest.raises(DataError, match=message):
            load_task(f"npz:{tmp_path / name}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("broken")


SOUND = named(x_train=pictures(8), y_train=labels(8), x_test=pictures(4), y_test=labels(4))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=6), st.booleans())
def test_broken_npz_is_refused_or_read_but_never_crashes(folder, where, junk, cut):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **SOUND)
    data = bytearray(buffer.getvalue())
    start = where % len(data)
    data[start : None if cut else start + len(junk)] = junk
    path = folder / "broken.npz"
    path.write_bytes(data)
    try:
        check_task(load_task(f"npz:{path}"))
    except DataError as e:
        assert str(path) in str(e)

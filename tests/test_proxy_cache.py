"""The cache of decoded arrays: used, told apart, whole or not there, and rebuilt when damaged."""

import json
import os
import pickle
import zlib

import numpy as np
import pytest

from gcsearch.errors import DataError
from gcsearch.proxy import npz
from gcsearch.proxy.sources import load_task

RNG = np.random.default_rng(0)


def pictures(n, height=10, width=10):
    return RNG.integers(0, 256, (n, height, width, 3), np.uint8)


def labels(n, classes=2):
    return np.arange(n) % classes


def save(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def named(**changes):
    whole = {"x_train": pictures(40), "y_train": labels(40), "x_test": pictures(8)}
    return {**whole, "y_test": labels(8), **changes}


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """Return a loader that says whether it had to read the source."""
    spec = save(tmp_path / "a.npz", **named())
    reads = []
    original = npz._read
    monkeypatch.setattr(npz, "_read", lambda *args: reads.append(1) or original(*args))

    def load(**how):
        before = len(reads)
        task = load_task(spec, cache_dir=tmp_path / "cache", **how)
        return task, len(reads) > before

    return load


def entry_of(tmp_path):
    (entry,) = (tmp_path / "cache").iterdir()
    return entry


def test_cache_is_used_and_shared_by_mapping(counted, tmp_path):
    (first, was_read), (second, again) = counted(), counted()
    assert (was_read, again) == (True, False)
    assert first.content_hash == second.content_hash
    base = second.train.images
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.mode == "r"
    assert entry_of(tmp_path).name.startswith("npz-") or "a-npz" in entry_of(tmp_path).name


def test_cache_has_an_entry_for_each_seed_size_and_state_of_the_file(counted, tmp_path):
    for how in ({}, {"seed": 1}, {"image_size": 12}, {"options": {"flip": False}}):
        assert counted(**how)[1] is True
    save(tmp_path / "a.npz", **named())
    os.utime(tmp_path / "a.npz", (1, 1))
    assert counted()[1] is True


def truncate(entry):
    path = entry / "train_images.npy"
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(entry):
    path = entry / "val_images.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def lose_a_file(entry):
    (entry / "test_labels.npy").unlink()


def lose_meta(entry):
    (entry / "meta.json").unlink()


def garble_meta(entry):
    (entry / "meta.json").write_bytes(b"\xff{]")


def empty_meta(entry):
    (entry / "meta.json").write_text("[]")


def empty_file(entry):
    (entry / "val_labels.npy").write_bytes(b"")


def become_a_file(entry):
    for path in entry.iterdir():
        path.unlink()
    entry.rmdir()
    entry.write_text("x")


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_a_bit,
        lose_a_file,
        lose_meta,
        garble_meta,
        empty_meta,
        empty_file,
        become_a_file,
    ],
)
def test_damaged_cache_is_rebuilt(counted, tmp_path, damage):
    sound = counted()[0].content_hash
    damage(entry_of(tmp_path))
    rebuilt, was_read = counted()
    assert was_read is True
    assert rebuilt.content_hash == sound
    assert counted()[1] is False
    assert entry_of(tmp_path).is_dir()


class Trap:
    def __reduce__(self):
        return (os.mkdir, (os.environ["TRAP"],))


def test_planted_pickle_is_not_opened(counted, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    counted()
    entry = entry_of(tmp_path)
    (entry / "val_labels.npy").write_bytes(planted := pickle.dumps(Trap()))
    meta = json.loads((entry / "meta.json").read_text())
    meta["checksums"]["val_labels.npy"] = zlib.crc32(planted)
    (entry / "meta.json").write_text(json.dumps(meta))
    assert counted()[1] is True
    assert not (tmp_path / "sprung").exists()


def test_write_that_is_interrupted_leaves_no_entry(counted, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("gcsearch.proxy.cache.os.replace", lambda *_: (_ for _ in ()).throw(OSError))
        with pytest.raises(DataError, match=r"cannot write .*free some space or change cache_dir"):
            counted()
    assert list((tmp_path / "cache").iterdir()) == []
    assert counted()[1] is True


def test_cache_that_cannot_be_written_is_told(counted, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="cannot write"):
        counted()


def test_drafts_of_killed_processes_are_swept(counted, tmp_path):
    for name, age in (("old", 1), ("new", None)):
        draft = tmp_path / "cache" / f".draft-{name}"
        draft.mkdir(parents=True)
        if age:
            os.utime(draft, (age, age))
    counted()
    assert not (tmp_path / "cache" / ".draft-old").exists()
    assert (tmp_path / "cache" / ".draft-new").exists()


def test_bad_task_is_not_cached(tmp_path):
    spec = save(tmp_path / "a.npz", **named(y_train=labels(40) * 0))
    for _ in range(2):
        with pytest.raises(DataError, match="only class 0"):
            load_task(spec, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()

"""Proxy tasks from folders of pictures: layouts, kinds of pictures, and what is refused."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gcsearch.errors import DataError
from gcsearch.proxy.pictures import decode
from gcsearch.proxy.sources import load_task


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    assert message[0].islower()
    return message


def draw(path, color=(200, 30, 30), size=(20, 12), **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **how)


def fill(root, n=5, classes=("cat", "dog")):
    for i, name in enumerate(classes):
        for j in range(n):
            draw(root / name / f"{j}.png", color=(100 * i, j, 0))


def test_imagefolder_of_classes_is_split_60_20_20(tmp_path):
    fill(tmp_path, n=10)
    spec = f"imagefolder:{tmp_path}"
    task = load_task(spec, image_size=16)
    assert [np.bincount(s.labels).tolist() for s in task.splits.values()] == [
        [6, 6],
        [2, 2],
        [2, 2],
    ]
    assert task.class_names == ("cat", "dog")
    assert task.image_size == (16, 16)
    everything = np.concatenate([s.images[:, 0, 0] for s in task.splits.values()])
    assert len(np.unique(everything, axis=0)) == 20
    assert load_task(spec, image_size=16, seed=5).content_hash != task.content_hash


def test_imagefolder_default_size_is_64(tmp_path):
    fill(tmp_path)
    assert load_task(f"imagefolder:{tmp_path}").image_size == (64, 64)


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        (["train"], (24, 8, 8)),
        (["train", "test"], (30, 10, 40)),
        (["train", "val"], (30, 40, 10)),
        (["train", "val", "test"], (40, 40, 40)),
    ],
)
def test_imagefolder_carves_only_what_is_missing(tmp_path, given, sizes):
    for part in given:
        fill(tmp_path / part, n=20)
    task = load_task(f"imagefolder:{tmp_path}", image_size=8)
    assert tuple(len(split) for split in task.splits.values()) == sizes


def test_imagefolder_may_have_a_class_called_train(tmp_path):
    fill(tmp_path, classes=("bus", "train"))
    assert load_task(f"imagefolder:{tmp_path}", image_size=8).class_names == ("bus", "train")


def test_imagefolder_crops_the_centre_and_reads_many_formats(tmp_path):
    fill(tmp_path)
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    for suffix in ("bmp", "png", "PNG", "tiff", "webp"):
        how = {"lossless": True} if suffix == "webp" else {}
        Image.fromarray(wide).save(tmp_path / "dog" / f"a.{suffix}", **how)
    draw(tmp_path / "dog" / "deep" / "b.jpg", color=(255, 255, 255), size=(99, 640))
    task = load_task(f"imagefolder:{tmp_path}", image_size=10)
    white = sum((s.images > 250).all(axis=(1, 2, 3)).sum() for s in task.splits.values())
    assert white == 6


def test_imagefolder_turns_photographs_upright(tmp_path):
    fill(tmp_path)
    lying = np.zeros((10, 20, 3), np.uint8)
    lying[:, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(lying).save(tmp_path / "dog" / "a.jpg", exif=exif, quality=100)
    task = load_task(f"imagefolder:{tmp_path}", image_size=20)
    (photo,) = (i for s in task.splits.values() for i in s.images if i.max() > 200)
    assert photo[:6].min() > 200
    assert photo[-6:].max() < 50


def test_imagefolder_reads_palettes_and_transparency(tmp_path):
    fill(tmp_path)
    Image.new("RGBA", (9, 9), (1, 2, 3, 0)).save(tmp_path / "cat" / "a.png")
    palette = Image.new("P", (9, 9))
    palette.save(tmp_path / "cat" / "b.png", transparency=bytes([0, 100]))
    Image.new("L", (9, 9)).save(tmp_path / "cat" / "c.png")
    task = load_task(f"imagefolder:{tmp_path}", image_size=8)
    assert sum(len(split) for split in task.splits.values()) == 13


def test_imagefolder_ignores_what_is_no_picture(tmp_path):
    fill(tmp_path)
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "cat" / "notes.txt").write_text("hello")
    (tmp_path / "cat" / "._0.png").write_text("hello")
    (tmp_path / ".git").mkdir()
    assert load_task(f"imagefolder:{tmp_path}", image_size=8).n_classes == 2


def refused(tmp_path):
    with pytest.raises(DataError) as caught:
        load_task(f"imagefolder:{tmp_path}")
    return one_line(caught)


def test_imagefolder_names_a_corrupt_file(tmp_path):
    fill(tmp_path)
    for junk in (b"", b"hello", (tmp_path / "cat" / "0.png").read_bytes()[:50]):
        (tmp_path / "cat" / "3.png").write_bytes(junk)
        assert f"cannot read picture {tmp_path / 'cat' / '3.png'}" in refused(tmp_path)


def test_imagefolder_names_a_picture_of_16_bits_and_a_dangling_link(tmp_path):
    fill(tmp_path)
    Image.fromarray(np.full((9, 9), 3000, np.uint16)).save(tmp_path / "cat" / "z.png")
    assert "z.png (mode I;16 has more than 8 bits" in refused(tmp_path)
    (tmp_path / "cat" / "z.png").unlink()
    (tmp_path / "cat" / "z.png").symlink_to("nowhere.png")
    assert "z.png (No such file" in refused(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("broken")


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["png", "jpeg", "bmp", "webp", "tiff", "ppm"]), st.data())
def test_a_damaged_picture_is_read_or_named(folder, kind, data):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(432).reshape(12, 12, 3).astype(np.uint8)).save(buffer, kind)
    raw = bytearray(buffer.getvalue())
    start = data.draw(st.integers(0, len(raw) - 1))
    raw[start : start + 4] = data.draw(st.binary(max_size=4))
    path = folder / f"broken.{kind}"
    path.write_bytes(raw)
    try:
        assert decode(path, 8).shape == (8, 8, 3)
    except DataError as e:
        assert str(path) in str(e)


def test_imagefolder_names_the_folder_that_is_wrong(tmp_path):
    assert f"{tmp_path} has no class folders" in refused(tmp_path)
    (tmp_path / "cat").mkdir()
    assert f"{tmp_path} has only class 'cat'" in refused(tmp_path)
    fill(tmp_path, classes=("dog",))
    assert f"{tmp_path / 'cat'} has no pictures" in refused(tmp_path)
    assert "no such folder" in refused(tmp_path / "nowhere")


def test_imagefolder_names_the_split_that_is_wrong(tmp_path):
    fill(tmp_path / "train", classes=("cat",))
    assert f"{tmp_path / 'train'} has only class 'cat'" in refused(tmp_path)
    fill(tmp_path / "train")
    fill(tmp_path / "valid")
    assert f"unexpected folder {tmp_path / 'valid'} beside train" in refused(tmp_path)
    (tmp_path / "valid").rename(tmp_path / "val")
    (tmp_path / "test").mkdir()
    assert f"{tmp_path / 'test'} has no pictures" in refused(tmp_path)
    fill(tmp_path / "val", classes=("eel",))
    assert f"{tmp_path / 'val' / 'eel'} has no class in train" in refused(tmp_path)


def test_too_few_pictures_to_carve_are_refused(tmp_path):
    fill(tmp_path, n=1)
    assert "val has 0 picture(s); give it at least 2" in refused(tmp_path)


def test_imagefolder_cache_notices_a_changed_picture(tmp_path):
    fill(tmp_path / "data")
    spec = f"imagefolder:{tmp_path / 'data'}"
    first = load_task(spec, image_size=8, cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    draw(tmp_path / "data" / "cat" / "0.png", color=(9, 9, 9))
    second = load_task(spec, image_size=8, cache_dir=tmp_path / "cache")
    assert first.content_hash != second.content_hash

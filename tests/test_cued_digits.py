"""The built-in task: scenes that are what they say, the same for ever, and hard to get wrong."""

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcsearch.errors import DataError
from gcsearch.proxy.cued_digits import CuedDigitsOptions
from gcsearch.proxy.handwriting import handwriting
from gcsearch.proxy.scenes import CHUNK, lay_out, palette
from gcsearch.proxy.sources import load_task

SMALL = {"n_train": 60, "n_val": 20, "n_test": 20}


def load(*, image_size=32, seed=0, cache_dir=None, **options):
    return load_task(
        "cued-digits",
        image_size=image_size,
        seed=seed,
        options={**SMALL, **options},
        cache_dir=cache_dir,
    )


def hue(pixels):
    """Return the hue of the strongest colour among pixels, in whole degrees."""
    spread = np.ptp(pixels.astype(int), axis=-1)
    red, green, blue = pixels.reshape(-1, 3)[spread.argmax()] / 255
    return round(colorsys.rgb_to_hsv(red, green, blue)[0] * 360)


def test_defaults_are_the_documented_ones():
    options = CuedDigitsOptions.parse({})
    assert options == CuedDigitsOptions()
    assert (options.canvas, options.digit_size, options.cue_size) == (64, 31, 15)
    assert (options.n_train, options.n_val, options.n_test) == (32000, 2000, 2000)


def test_task_says_what_it_is():
    task = load(digits=4, cells=3)
    assert (len(task.train), len(task.val), len(task.test)) == (60, 20, 20)
    assert task.image_size == (32, 32)
    assert task.class_names == tuple("0123456789")
    assert task.flip is False
    assert task.guess == task.guess_top1 == 0.25


@pytest.mark.parametrize("size", [24, 33, 48, 100])
def test_digits_and_cue_grow_with_the_canvas(size):
    options = CuedDigitsOptions.parse({}, image_size=size)
    assert options.cue_size * 2 <= options.digit_size <= size // 2
    assert load(image_size=size).image_size == (size, size)


def test_image_size_overrides_canvas():
    assert CuedDigitsOptions.parse({"canvas": 64}, image_size=48).canvas == 48


def test_classes_are_equally_frequent():
    assert (np.bincount(load(n_train=500).train.labels) == 50).all()


def test_same_seed_gives_same_bytes_and_another_seed_does_not():
    assert load(seed=3).content_hash == load(seed=3).content_hash
    assert load(seed=3).content_hash != load(seed=4).content_hash


def test_scenes_of_all_splits_differ():
    task = load()
    assert not np.array_equal(task.val.images, task.test.images)
    assert not np.array_equal(task.train.images[:20], task.val.images)


def test_scenes_are_pinned():
    # Changing what is drawn is a change of every stored study: raise _FORMAT in cache.py then.
    task = load(cells=3, clutter=2)
    assert task.train.labels[:10].tolist() == [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]
    assert task.train.images[:3, 0, 0].tolist() == [[64, 97, 64], [105, 106, 82], [81, 68, 67]]


@settings(max_examples=8, deadline=None)
@given(st.integers(10, 120), st.integers(10, 120), st.sampled_from([24, 25, 27]))
def test_more_scenes_begin_with_the_same_scenes(few, many, size):
    few, many = sorted((few, many))
    short = load(image_size=size, n_train=few, clutter=1)
    long = load(image_size=size, n_train=many, clutter=1)
    assert np.array_equal(short.train.images, long.train.images[:few])
    assert np.array_equal(short.train.labels, long.train.labels[:few])
    assert np.array_equal(short.val.images, long.val.images)


def test_prefix_holds_across_chunks():
    short, long = load(image_size=24, n_train=CHUNK + 30), load(image_size=24, n_train=2 * CHUNK)
    assert np.array_equal(short.train.images, long.train.images[: CHUNK + 30])
    assert not np.array_equal(long.train.images[:CHUNK], long.train.images[CHUNK:])


@settings(max_examples=6, deadline=None)
@given(
    digits=st.integers(2, 5),
    clutter=st.integers(0, 3),
    colors=st.integers(6, 12),
    seed=st.integers(0, 2**32),
)
def test_the_label_is_the_digit_in_the_colour_of_the_cue(digits, clutter, colors, seed):
    given = {
        "cells": 3,
        "digits": digits,
        "clutter": clutter,
        "colors": colors,
        "noise": 0,
        "n_train": 40,
    }
    options = CuedDigitsOptions.parse({**SMALL, **given}, image_size=60)
    task = load(image_size=60, seed=seed, **given)
    layout = lay_out(options.style, "train", np.random.default_rng([seed, 0, 0]))
    classes = handwriting(options.digit_size).classes
    for i, (image, label) in enumerate(zip(task.train.images, task.train.labels, strict=True)):
        hues = []
        for thing, (top, left) in enumerate(layout.corners[i]):
            side = options.cue_size if thing == digits else options.digit_size
            hues.append(hue(image[top : top + side, left : left + side]))
        cue, shown = hues[digits], hues[:digits]
        matches = [j for j, other in enumerate(shown) if abs(other - cue) <= 3]
        assert len(matches) == 1
        assert classes[layout.sources[i, matches[0]]] == label
        assert len(set(classes[layout.sources[i, :digits]])) == digits
        assert all(abs(h - s) > 3 for h in hues[digits + 1 :] for s in shown)


def test_things_have_cells_of_their_own():
    options = CuedDigitsOptions.parse({"cells": 3, "digits": 3, "clutter": 5, "colors": 8})
    corners = lay_out(options.style, "val", np.random.default_rng(0)).corners
    cells = corners // (options.canvas // options.cells)
    for scene in cells:
        assert len({tuple(cell) for cell in scene}) == 9
    assert corners.min() >= 0
    assert corners.max() + options.cue_size <= options.canvas


def test_no_handwritten_digit_is_in_two_splits():
    options = CuedDigitsOptions.parse({"cells": 3, "clutter": 2})
    seen = {
        split: set(np.unique(lay_out(options.style, split, np.random.default_rng(1)).sources))
        for split in ("train", "val", "test")
    }
    assert len(seen["train"]) > 800
    assert seen["train"].isdisjoint(seen["val"] | seen["test"])
    assert seen["val"].isdisjoint(seen["test"])


def test_every_digit_belongs_to_one_split_and_each_class_to_all():
    bank = handwriting(8)
    parts = [np.concatenate(pools) for pools in bank.sources.values()]
    assert sorted(np.concatenate(parts)) == list(range(1797))
    assert [round(len(part) / 1797, 2) for part in parts] == [0.2, 0.2, 0.6]
    for pools in bank.sources.values():
        assert all((bank.classes[pool] == label).all() for label, pool in enumerate(pools))


def test_forms_of_a_digit_differ_but_show_the_same_figure():
    patches = handwriting(20).patches[5].reshape(8, -1).astype(float)
    alike = np.corrcoef(patches)
    assert len(np.unique(patches, axis=0)) == 8
    assert alike.min() > 0.3


@pytest.mark.parametrize("noise", [0.02, 0.04, 0.1])
def test_noise_has_the_asked_deviation(noise):
    clean, noisy = load(noise=0), load(noise=noise)
    background = np.ptp(clean.train.images.astype(int), axis=-1) == 0
    change = noisy.train.images[background].astype(int) - clean.train.images[background]
    middle = clean.train.images[background] > 90  # far from black, where noise is cut off
    assert change[middle].std() / 255 == pytest.approx(noise, rel=0.05)


def test_palette_hues_are_equally_spaced():
    hues = [hue(color[None].astype(np.uint8)) for color in palette(6)]
    assert hues == [0, 60, 120, 180, 240, 300]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digits": 1}, "digits is 1; give a whole number from 2 to 10"),
        ({"digits": 2.0}, "digits is 2.0"),
        ({"digits": True}, "digits is True"),
        ({"canvas": "64"}, "canvas is '64'"),
        ({"noise": -0.1}, "noise is -0.1"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"n_train": 9}, "n_train is 9; give a whole number from 10"),
        ({"n_val": 0}, "n_val is 0"),
        ({"colors": 13}, "colors is 13"),
        ({"clutter": 7}, "2 digits, the cue and 7 clutter need 10 cells of 4"),
        ({"digit_size": 33}, "digit_size 33 exceeds a cell of 32 pixels"),
        ({"cue_size": 33}, "cue_size 33 exceeds a cell of 32 pixels"),
        ({"digits": 4, "colors": 3}, "colors is 3, but 4 digits need 4"),
        ({"digits": 3, "colors": 3, "clutter": 1}, "3 digits and clutter need 4"),
        ({"digit": 3}, "unknown option 'digit'; did you mean 'digits'"),
        ({3: 3}, "unknown option 3"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(DataError, match=r"^cued-digits: ") as caught:
        load_task("cued-digits", options=options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_faults_are_told_at_once():
    with pytest.raises(DataError) as caught:
        CuedDigitsOptions.parse({"digitz": 2, "noise": 7, "n_val": -1})
    assert all(word in str(caught.value) for word in ("digitz", "noise is 7", "n_val is -1"))
    with pytest.raises(DataError) as caught:
        CuedDigitsOptions(clutter=20, cue_size=60, colors=2)
    assert all(
        word in str(caught.value) for word in ("clutter need", "cue_size 60", "colors is 2")
    )


def test_too_small_a_canvas_names_the_cure():
    with pytest.raises(DataError, match=r"digit_size 8 exceeds a cell of 5 pixels.*raise canvas"):
        load(image_size=16, cells=3)


def test_cache_gives_the_same_task(tmp_path):
    built = load(cache_dir=tmp_path)
    read = load(cache_dir=tmp_path)
    assert built.content_hash == read.content_hash == load().content_hash
    assert (read.guess, read.flip, read.class_names) == (0.5, False, tuple("0123456789"))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("other", [{"seed": 1}, {"noise": 0.1}, {"image_size": 48}])
def test_other_options_have_a_cache_of_their_own(tmp_path, other):
    assert load(cache_dir=tmp_path).content_hash != load(cache_dir=tmp_path, **other).content_hash
    assert len(list(tmp_path.iterdir())) == 2

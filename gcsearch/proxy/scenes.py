"""Drawing cued scenes from a seed; it does not know options, caches or tasks.

Scenes are laid out and painted a chunk at a time, each chunk with its own random stream, so a
scene depends on the style, the seed, its split and its number, and never on how many there are.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from gcsearch.proxy.handwriting import N_CLASSES, N_VARIANTS, Handwriting, handwriting
from gcsearch.proxy.task import Split

__all__ = ["CHUNK", "MAX_COLORS", "Layout", "SceneStyle", "draw_split", "lay_out", "palette"]

CHUNK = 1000
MAX_COLORS = 12
_BATCH = 50  # scenes painted at a time, so that they stay in the processor's cache
_SPLIT_IDS = {"train": 0, "val": 1, "test": 2}
_GREY = (30, 110)  # background levels, of 255

_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SceneStyle:
    """What one scene looks like; ``CuedDigitsOptions`` documents and checks the fields."""

    canvas: int
    cells: int
    digits: int
    digit_size: int
    cue_size: int
    colors: int
    clutter: int
    noise: float


@dataclass(frozen=True, eq=False)
class Layout:
    """What the scenes of one chunk show; the first axis counts scenes.

    A scene holds digits, then its cue, then clutter, along the second axis of ``corners`` and
    ``hues``. Digit 0 is the one that the cue points at.

    Args:
        grey: Background level, of 255.
        corners: ``(n, things, 2)``: top and left of each thing.
        hues: ``(n, things)``: the place of its colour in the palette.
        sources: ``(n, digits + clutter)``: which handwritten digit, the digits before clutter.
        variants: ``(n, digits + clutter)``: which of its forms.
        halves: ``(n, clutter)``: what is left of each: top, bottom, left or right.
        labels: ``(n,)``: the class of digit 0.
    """

    grey: _Ints
    corners: _Ints
    hues: _Ints
    sources: _Ints
    variants: _Ints
    halves: _Ints
    labels: _Ints


def palette(colors: int) -> NDArray[np.int64]:
    """Return ``(colors, 3)`` RGB levels of 255: bright colours at equal steps of hue."""
    hues = [colorsys.hsv_to_rgb(i / colors, 0.9, 0.92) for i in range(colors)]
    return np.round(np.array(hues) * 255).astype(np.int64)


def draw_split(style: SceneStyle, split: str, n_scenes: int, seed: int) -> Split:
    """Return the first ``n_scenes`` scenes of a split; classes are equally frequent."""
    images = np.empty((n_scenes, style.canvas, style.canvas, 3), np.uint8)
    labels = np.empty(n_scenes, np.int64)
    for chunk, start in enumerate(range(0, n_scenes, CHUNK)):
        rng = np.random.default_rng([seed, _SPLIT_IDS[split], chunk])
        layout = lay_out(style, split, rng)
        part = slice(start, min(start + CHUNK, n_scenes))
        labels[part] = layout.labels[: part.stop - start]
        _paint(images[part], layout, style, rng)
    return Split(images, labels)


def lay_out(style: SceneStyle, split: str, rng: np.random.Generator) -> Layout:
    """Draw what ``CHUNK`` scenes of a split show."""
    things = style.digits + 1 + style.clutter
    classes = _draw_classes(style, rng)
    places = _shuffled(rng, style.cells**2)[:, :things]
    side = style.canvas // style.cells
    sizes = np.full(things, style.digit_size)
    sizes[style.digits] = style.cue_size
    slack = rng.integers(0, side - sizes[None, :, None], (CHUNK, things, 2), endpoint=True)
    margin = style.canvas % style.cells // 2
    return Layout(
        grey=rng.integers(*_GREY, CHUNK, endpoint=True),
        corners=margin + np.stack(np.divmod(places, style.cells), axis=-1) * side + slack,
        hues=_draw_hues(style, rng),
        sources=_draw_sources(handwriting(style.digit_size), split, classes, rng),
        variants=rng.integers(0, N_VARIANTS, classes.shape),
        halves=rng.integers(0, 4, (CHUNK, style.clutter)),
        labels=classes[:, 0],
    )


def _shuffled(rng: np.random.Generator, n: int) -> _Ints:
    """Return ``(CHUNK, n)``: the numbers below ``n`` in an order of its own for each scene."""
    return rng.permuted(np.tile(np.arange(n), (CHUNK, 1)), axis=1)


def _draw_classes(style: SceneStyle, rng: np.random.Generator) -> _Ints:
    # Each ten scenes hold each class once as their label, in random order; the other digits of
    # a scene are any other classes.
    tens = np.tile(np.arange(N_CLASSES), (CHUNK // N_CLASSES, 1))
    labels = rng.permuted(tens, axis=1).reshape(CHUNK, 1)
    steps = 1 + _shuffled(rng, N_CLASSES - 1)
    others = (labels + steps[:, : style.digits - 1]) % N_CLASSES
    clutter = rng.integers(0, N_CLASSES, (CHUNK, style.clutter))
    return np.concatenate([labels, others, clutter], axis=1)


def _draw_hues(style: SceneStyle, rng: np.random.Generator) -> _Ints:
    order = _shuffled(rng, style.colors)
    digits, unused = order[:, : style.digits], order[:, style.digits :]
    picks = rng.integers(0, max(1, unused.shape[1]), (CHUNK, style.clutter))
    clutter = np.take_along_axis(unused, picks, axis=1)
    return np.concatenate([digits, digits[:, :1], clutter], axis=1)


def _draw_sources(
    bank: Handwriting, split: str, classes: _Ints, rng: np.random.Generator
) -> _Ints:
    pools = bank.sources[split]
    counts = np.array([len(pool) for pool in pools])
    starts = np.cumsum(counts) - counts
    picks = rng.integers(0, counts[classes])
    chosen: _Ints = np.concatenate(pools)[starts[classes] + picks]
    return chosen


def _paint(
    images: NDArray[np.uint8], layout: Layout, style: SceneStyle, rng: np.random.Generator
) -> None:
    table = _noise_table(style.noise)
    for start in range(0, len(images), _BATCH):
        scenes = images[start : start + _BATCH]
        rows = slice(start, start + len(scenes))
        scenes[:] = layout.grey[rows, None, None, None]
        for thing in range(layout.corners.shape[1]):
            alpha = _alpha(layout, rows, thing, style)
            color = palette(style.colors)[layout.hues[rows, thing]]
            _paste(scenes, alpha, layout.corners[rows, thing], color, layout.grey[rows])
        if style.noise:
            _add_noise(scenes, table, rng)


def _alpha(layout: Layout, rows: slice, thing: int, style: SceneStyle) -> NDArray[np.uint8]:
    """Return ``(n, side, side)`` opacities of one thing of each scene."""
    if thing == style.digits:
        n_scenes = len(layout.grey[rows])
        return np.full((n_scenes, style.cue_size, style.cue_size), 255, np.uint8)
    ink = thing - (thing > style.digits)
    bank = handwriting(style.digit_size)
    patches = bank.patches[layout.sources[rows, ink], layout.variants[rows, ink]]
    if thing < style.digits:
        return patches
    return patches * _half_masks(style.digit_size)[layout.halves[rows, ink - style.digits]]


def _half_masks(side: int) -> NDArray[np.uint8]:
    first = (np.arange(side) < side // 2).astype(np.uint8)
    top = np.repeat(first[:, None], side, axis=1)
    return np.stack([top, 1 - top, top.T, 1 - top.T])


def _paste(
    scenes: NDArray[np.uint8],
    alpha: NDArray[np.uint8],
    corners: _Ints,
    color: NDArray[np.int64],
    grey: _Ints,
) -> None:
    opacity = alpha.astype(np.float32)[..., None] / np.float32(255)
    delta = (color - grey[:, None]).astype(np.float32)[:, None, None]
    patch = (grey[:, None, None, None] + opacity * delta + np.float32(0.5)).astype(np.uint8)
    steps = np.arange(alpha.shape[1])
    y = corners[:, 0, None, None] + steps[:, None]
    x = corners[:, 1, None, None] + steps
    scenes[np.arange(len(scenes))[:, None, None], y, x] = patch


def _noise_table(noise: float) -> NDArray[np.int16]:
    # A random byte looked up here is a normal variate: far cheaper than drawing one per channel.
    levels = NormalDist()
    quantiles = [levels.inv_cdf((i + 0.5) / 256) for i in range(256)]
    return np.round(np.array(quantiles) * noise * 255).astype(np.int16)


def _add_noise(
    scenes: NDArray[np.uint8], table: NDArray[np.int16], rng: np.random.Generator
) -> None:
    noisy = table.take(rng.integers(0, 256, scenes.shape, np.uint8), mode="clip")
    noisy += scenes
    scenes[:] = noisy.clip(0, 255)

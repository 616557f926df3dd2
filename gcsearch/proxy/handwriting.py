"""Real handwritten digits in many slightly different forms; it does not know scenes or colours.

The digits are the 1797 of scikit-learn's ``load_digits``: the test part of the UCI "Optical
Recognition of Handwritten Digits" set (Alpaydin and Kaynak, 1998), 8 x 8 pixels of 17 levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gcsearch.proxy.splits import partition

__all__ = ["N_CLASSES", "N_VARIANTS", "Handwriting", "handwriting"]

N_CLASSES = 10
N_VARIANTS = 8
_SIDE = 8
_TURN = np.radians(12)
_SCALE = (0.85, 1.05)  # of the height that fills the patch
_SHIFT = 0.05  # of the patch, either way


@dataclass(frozen=True, eq=False)
class Handwriting:
    """Digits as opacities, and which of them each split may use.

    Args:
        patches: ``(digits, N_VARIANTS, side, side)`` uint8: 0 is paper, 255 is ink.
        classes: ``(digits,)`` int64, the figure each shows.
        sources: For train, val and test: for each class the digits of that split.
    """

    patches: NDArray[np.uint8]
    classes: NDArray[np.int64]
    sources: dict[str, tuple[NDArray[np.int64], ...]]


@lru_cache(maxsize=4)
def handwriting(side: int) -> Handwriting:
    """Return all digits at ``side`` pixels, always the same.

    60 % of the digits of each class belong to train, 20 % each to val and to test, so that no
    digit is seen in two splits.
    """
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    classes = digits.target.astype(np.int64)
    ink = np.round(digits.images * (255 / 16)).astype(np.uint8)
    parts = partition(classes, {"val": 0.2, "test": 0.2}, seed=0)
    sources = {
        part: tuple(indices[classes[indices] == label] for label in range(N_CLASSES))
        for part, indices in parts.items()
    }
    return Handwriting(_vary(ink, side), classes, sources)


def _vary(ink: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    shape = (len(ink), N_VARIANTS)
    turn = rng.uniform(-_TURN, _TURN, shape)
    scale = rng.uniform(*_SCALE, shape)
    shift = rng.uniform(-_SHIFT, _SHIFT, (2, *shape)) * _SIDE
    # Rows of the map from a pixel of the patch to the point of the digit it shows.
    step = _SIDE / (side * scale)
    cos, sin = step * np.cos(turn), step * np.sin(turn)
    x = _SIDE / 2 + shift[0] - (cos - sin) * side / 2
    y = _SIDE / 2 + shift[1] - (sin + cos) * side / 2
    maps = np.stack([cos, -sin, x, sin, cos, y], axis=-1)
    patches = np.empty((*shape, side, side), np.uint8)
    for i, pixels in enumerate(ink):
        picture = Image.fromarray(pixels)
        for j in range(N_VARIANTS):
            patches[i, j] = np.asarray(_warp(picture, maps[i, j], side))
    return patches


def _warp(picture: Image.Image, affine: NDArray[np.float64], side: int) -> Image.Image:
    return picture.transform(
        (side, side), Image.Transform.AFFINE, affine.tolist(), Image.Resampling.BILINEAR
    )

"""Pictures to uint8 arrays of one size; it does not know data sets or labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from gcsearch.errors import DataError

__all__ = ["DEFAULT_SIZE", "decode", "resize", "square"]

DEFAULT_SIZE = 64  # of photographs that come in many sizes


def decode(path: Path, size: int) -> NDArray[np.uint8]:
    """Return the picture in a file as :func:`square` does, turned upright.

    Raises:
        DataError: The file is no picture, broken, or not of 8 bits per channel.
    """
    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (2 * size, 2 * size))  # lets JPEG skip detail we drop anyway
            return square(ImageOps.exif_transpose(picture), size)
    except Exception as e:  # a decoder may raise anything on a broken file
        reason = " ".join(str(e).split())
        raise DataError(f"cannot read picture {path} ({reason}); replace or delete it") from e


def square(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """Return the largest centred square of ``picture`` as ``(size, size, 3)`` RGB.

    Raises:
        DataError: The picture has more than 8 bits per channel.
    """
    rgb = _rgb(picture)
    side = min(rgb.size)
    left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
    if rgb.size != (size, size):
        box = (left, top, left + side, top + side)
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(rgb)


def resize(images: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
    """Return ``(N, H, W, 3)`` images at ``size`` x ``size``; as they are if that is None.

    The whole picture is kept: what is not square is stretched.
    """
    if size is None or images.shape[1:3] == (size, size):
        return images
    scaled = np.empty((len(images), size, size, 3), np.uint8)
    for i, image in enumerate(images):
        picture = Image.fromarray(np.ascontiguousarray(image))
        scaled[i] = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    return scaled


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        raise DataError(f"mode {picture.mode} has more than 8 bits per channel, which is not read")
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert("RGB")

"""The built-in proxy task ``cued-digits``: which options it has; it does not know how to draw.

A scene shows a few handwritten digits, each in its own colour, and away from them a small square,
the cue, in the colour of one of them: the class is that digit's. To tell it, a network has to
carry the cue's colour across the picture, which is what global context is for. One that reads
digits but not the cue can only guess among the digits shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from gcsearch.errors import DataError, near_misses
from gcsearch.proxy.cache import cached
from gcsearch.proxy.handwriting import N_CLASSES
from gcsearch.proxy.scenes import MAX_COLORS, SceneStyle, draw_split
from gcsearch.proxy.task import LoadRequest, ProxyTask

__all__ = ["CuedDigitsOptions", "load_cued_digits"]

_NAME = "cued-digits"


@dataclass(frozen=True)
class CuedDigitsOptions:
    """How scenes look and how many there are.

    Raises:
        DataError: Values that are not allowed, or not together; all of them are listed.

    Example:
        >>> CuedDigitsOptions.parse({"clutter": 1}, image_size=128).digit_size
        63
    """

    canvas: int = 64
    """Height and width of a scene, in pixels."""
    cells: int = 2
    """A scene is a grid of ``cells`` x ``cells``; digits, cue and clutter have a cell each."""
    digits: int = 2
    """Digits per scene, all of different classes and colours; guessing gets 1/digits right."""
    digit_size: int = 31
    """Height and width of a digit, in pixels."""
    cue_size: int = 15
    """Height and width of the cue, in pixels; smaller is harder to see."""
    colors: int = 6
    """Hues in use; more are harder to tell apart."""
    clutter: int = 0
    """Halves of digits per scene, in colours that no digit of the scene has."""
    noise: float = 0.04
    """Standard deviation of the noise on each channel of each pixel; white is 1."""
    n_train: int = 32000
    """Training scenes; more of them begin with the same scenes."""
    n_val: int = 2000
    """Validation scenes."""
    n_test: int = 2000
    """Test scenes."""

    def __post_init__(self) -> None:
        _refuse([*_faults(asdict(self))])

    @classmethod
    def parse(
        cls, options: Mapping[str, object], image_size: int | None = None
    ) -> CuedDigitsOptions:
        """Return the options of that plain data; sizes that are not given go with the canvas.

        Args:
            options: Values by field name.
            image_size: Overrides ``canvas``.

        Raises:
            DataError: Unknown names, or values that are not allowed; all of them are listed.
        """
        names = [field.name for field in fields(cls)]
        unknown = [
            f"unknown option {name!r}{near_misses(str(name), names)} known: {', '.join(names)}"
            for name in options
            if name not in names
        ]
        defaults: dict[str, Any] = {field.name: field.default for field in fields(cls)}
        given = {name: value for name, value in options.items() if name in names}
        if image_size is not None:
            given["canvas"] = image_size
        values = defaults | given
        _fit_sizes(values, given)
        _refuse([*unknown, *_faults(values)])
        return cls(**values)

    @property
    def style(self) -> SceneStyle:
        """What one scene looks like, without how many there are."""
        values = asdict(self)
        return SceneStyle(**{field.name: values[field.name] for field in fields(SceneStyle)})


def load_cued_digits(request: LoadRequest) -> ProxyTask:
    """Return the scenes of ``request``; equal requests give equal bytes.

    Raises:
        DataError: The options are not those of :class:`CuedDigitsOptions`.
    """
    options = CuedDigitsOptions.parse(request.options or {}, request.image_size)
    key = {"spec": _NAME, "seed": request.seed, "options": asdict(options)}

    def build() -> ProxyTask:
        style, seed = options.style, request.seed
        return ProxyTask(
            name=_NAME,
            train=draw_split(style, "train", options.n_train, seed),
            val=draw_split(style, "val", options.n_val, seed),
            test=draw_split(style, "test", options.n_test, seed),
            class_names=tuple(map(str, range(N_CLASSES))),
            flip=False,
            guess=1 / options.digits,
        )

    return cached(request.cache_dir, key, build)


def _fit_sizes(values: dict[str, Any], given: Mapping[str, object]) -> None:
    # A digit fills its cell but for a pixel, the cue half of that: 31 and 15 at the defaults.
    if list(_type_faults({name: values[name] for name in ("canvas", "cells")})):
        return
    if "digit_size" not in given:
        values["digit_size"] = max(8, values["canvas"] // values["cells"] - 1)
    if "cue_size" not in given and not list(_type_faults({"digit_size": values["digit_size"]})):
        values["cue_size"] = max(2, values["digit_size"] // 2)


_LIMITS: dict[str, tuple[int, int]] = {
    "canvas": (16, 512),
    "cells": (2, 16),
    "digits": (2, N_CLASSES),
    "digit_size": (8, 256),
    "cue_size": (2, 256),
    "colors": (2, MAX_COLORS),
    "clutter": (0, 253),
    "n_train": (N_CLASSES, 10_000_000),
    "n_val": (1, 10_000_000),
    "n_test": (1, 10_000_000),
}


def _faults(values: Mapping[str, Any]) -> Iterator[str]:
    faults = list(_type_faults(values))
    yield from faults
    if not faults:
        yield from _fit_faults(values)


def _type_faults(values: Mapping[str, Any]) -> Iterator[str]:
    for name, (low, high) in _LIMITS.items():
        value = values.get(name, low)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            yield f"{name} is {value!r}; give a whole number from {low} to {high}"
    noise = values.get("noise", 0.0)
    if not isinstance(noise, int | float) or isinstance(noise, bool) or not 0 <= noise <= 0.5:
        yield f"noise is {noise!r}; give a number from 0 to 0.5"


def _fit_faults(values: Mapping[str, Any]) -> Iterator[str]:
    cells, digits, clutter = values["cells"], values["digits"], values["clutter"]
    side = values["canvas"] // cells
    if (needed := digits + 1 + clutter) > cells**2:
        yield (
            f"{digits} digits, the cue and {clutter} clutter need {needed} cells of "
            f"{cells**2}; raise cells or lower clutter"
        )
    for name in ("digit_size", "cue_size"):
        if values[name] > side:
            yield (
                f"{name} {values[name]} exceeds a cell of {side} pixels (canvas "
                f"{values['canvas']} // cells {cells}); lower it, or raise canvas"
            )
    if (hues := digits + (clutter > 0)) > values["colors"]:
        what = f"{digits} digits and clutter" if clutter else f"{digits} digits"
        yield f"colors is {values['colors']}, but {what} need {hues}; raise colors"


def _refuse(faults: list[str]) -> None:
    if faults:
        raise DataError(f"{_NAME}: " + "; also ".join(faults))

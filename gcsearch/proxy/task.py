"""What a proxy task is, and the check each passes; it does not know where pictures come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gcsearch.errors import DataError
from gcsearch.registry import Registry

__all__ = ["MIN_SIDE", "TASKS", "LoadRequest", "ProxyTask", "Split", "check_task"]

MIN_SIDE = 8
_SAMPLE = 2000  # pictures that the mean and the deviation are taken from


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set: pictures and their classes, in one order; neither can be written to.

    Args:
        images: ``(N, H, W, 3)`` uint8.
        labels: ``(N,)`` int64, counted from 0.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name in ("images", "labels"):
            if isinstance(array := getattr(self, name), np.ndarray):
                view = array.view()
                view.flags.writeable = False
                object.__setattr__(self, name, view)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ProxyTask:
    """A data set in memory, split in three, on which architectures are trained and compared.

    Args:
        name: The spec it was loaded from; messages name it.
        train: What is trained on.
        val: What the search looks at.
        test: What only the confirmation looks at.
        class_names: One name per class; label ``i`` means ``class_names[i]``.
        flip: Whether a mirrored or shifted picture keeps its label; training augments only then.
        guess: Accuracy of the best guess that does not understand the picture, where it is known
            to be better than naming the most frequent class.
    """

    name: str
    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    flip: bool
    guess: float | None = None

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of each picture, in pixels."""
        height, width = self.train.images.shape[1:3]
        return int(height), int(width)

    @property
    def splits(self) -> dict[str, Split]:
        """The three parts by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @cached_property
    def mean(self) -> tuple[float, float, float]:
        """Mean of each channel over (a sample of) the training pictures, in [0, 1]."""
        return _per_channel(self._sample().mean(axis=(0, 1, 2)))

    @cached_property
    def std(self) -> tuple[float, float, float]:
        """Deviation of each channel, in [0, 1]; never below 1/255, so it is safe to divide by."""
        return _per_channel(np.maximum(self._sample().std(axis=(0, 1, 2)), 1 / 255))

    @cached_property
    def chance(self) -> float:
        """Share of the most frequent class in ``val``: what a constant answer scores."""
        return float(np.bincount(self.val.labels).max() / len(self.val))

    @property
    def guess_top1(self) -> float:
        """What an architecture must beat to have learnt anything: ``guess``, else ``chance``."""
        return self.chance if self.guess is None else self.guess

    @cached_property
    def content_hash(self) -> str:
        """SHA-256, in hex, of all pictures and labels: equal data have equal hashes."""
        digest = hashlib.sha256()
        for _, split in self.splits.items():
            for array in (split.images, split.labels):
                digest.update(f"{array.shape}{array.dtype.str}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def _sample(self) -> NDArray[np.float64]:
        n = len(self.train)
        picks = np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64)
        return self.train.images[picks] / 255.0


@dataclass(frozen=True)
class LoadRequest:
    """How a proxy task is wanted, whatever its source.

    Args:
        image_size: Side of the square pictures in pixels; None leaves it to the source.
        seed: Seed of what is drawn: scenes, and splits that are carved out.
        options: What else the source understands.
        cache_dir: Where decoded arrays are kept; None for nowhere.
    """

    image_size: int | None = None
    seed: int = 0
    options: Mapping[str, object] | None = None
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        _check_int("image_size", self.image_size, at_least=MIN_SIDE, optional=True)
        _check_int("seed", self.seed, at_least=0)

    def flip(self, source: str, default: bool) -> bool:
        """Return the option ``flip``, the only one that ``source`` understands.

        Raises:
            DataError: There are other options, or it is neither true nor false.
        """
        options = dict(self.options or {})
        flip = options.pop("flip", default)
        if options:
            raise DataError(f"{source}: unknown option {next(iter(options))!r}; allowed: flip")
        if not isinstance(flip, bool):
            raise DataError(f"{source}: option flip is {flip!r}; give true or false")
        return flip


TASKS: Registry[Callable[[LoadRequest], ProxyTask]] = Registry("proxy task")


def check_task(task: ProxyTask) -> ProxyTask:
    """Return ``task`` if a network can be trained on it.

    Raises:
        DataError: Its arrays are of the wrong kind, too small, empty or do not fit together.
    """
    for fault in _faults(task):
        raise DataError(f"{task.name}: {fault}")
    return task


def _faults(task: ProxyTask) -> Iterator[str]:
    # Each check may rely on those before it, so only the first fault can be told.
    names = task.class_names
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        yield f"class_names are {names!r:.60}; give a tuple of strings"
    if not isinstance(task.flip, bool):
        yield f"flip is {task.flip!r}; give True or False"
    guess = task.guess
    if guess is not None and not (isinstance(guess, int | float) and 0 <= guess <= 1):
        yield f"guess is {task.guess!r}; give a fraction in [0, 1], or None"
    for part, split in task.splits.items():
        yield from _array_faults(part, split)
    if (only := task.train.labels[0]) == task.train.labels.max() == task.train.labels.min():
        yield f"train has only class {only}; give pictures of at least 2 classes"
    for part, split in task.splits.items():
        yield from _fit_faults(part, split, task)
    yield from _class_faults(task)


def _array_faults(part: str, split: Split) -> Iterator[str]:
    if not isinstance(split, Split):
        yield f"{part} is {type(split).__name__}; give a Split"
    images, labels = split.images, split.labels
    for noun, array, dtype in (("images", images, np.uint8), ("labels", labels, np.int64)):
        if not isinstance(array, np.ndarray):
            yield f"{part} {noun} are {type(array).__name__}; give a numpy array"
        if array.dtype != dtype:
            yield f"{part} {noun} are {array.dtype}; give {np.dtype(dtype).name}"
    if images.ndim != 4 or images.shape[3] != 3:
        yield f"{part} images have shape {images.shape}; give (N, H, W, 3)"
    if labels.ndim != 1:
        yield f"{part} labels have shape {labels.shape}; give (N,)"
    if len(images) != len(labels):
        yield f"{part} has {len(images)} images but {len(labels)} labels; give one label each"
    if len(images) < 2:
        yield f"{part} has {len(images)} picture(s); give it at least 2, or nothing can be told"
    if min(images.shape[1:3]) < MIN_SIDE:
        yield f"{part} images have shape {images.shape}; sides below {MIN_SIDE} are too small"


def _fit_faults(part: str, split: Split, task: ProxyTask) -> Iterator[str]:
    if split.images.shape[1:] != task.train.images.shape[1:]:
        sizes = f"{split.images.shape[1:3]} but train's are {task.train.images.shape[1:3]}"
        yield f"{part} images are {sizes}; give all the same height and width, or an image_size"
    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= task.n_classes:
        allowed = (
            f"0..{task.n_classes - 1}" if task.n_classes else "none: there are no class names"
        )
        yield f"{part} labels go from {low} to {high}; allowed: {allowed}"


def _class_faults(task: ProxyTask) -> Iterator[str]:
    known = np.unique(task.train.labels)
    for part, split in task.splits.items():
        if len(strange := np.setdiff1d(split.labels, known)):
            name = task.class_names[strange[0]]
            yield f"class {name!r} is in {part} but never in train; move some of its pictures"


def _per_channel(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _check_int(name: str, value: object, at_least: int, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise DataError(f"{name} is {value!r}; give a whole number of at least {at_least}")

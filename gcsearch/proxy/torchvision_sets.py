"""Proxy tasks from torchvision's own classification data sets; it does not know one by name."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gcsearch.errors import DataError, UnknownNameError
from gcsearch.proxy.cache import cached
from gcsearch.proxy.pictures import DEFAULT_SIZE, square
from gcsearch.proxy.splits import complete, number_names
from gcsearch.proxy.task import LoadRequest, ProxyTask, Split

__all__ = ["load_torchvision"]

_PARTS = ("train", "val", "test")
# What the sets call their parts; a name that a set does not know is refused by its constructor.
_SPLIT_NAMES = {"train": ("train", "trainval", "train-standard"), "val": ("val", "valid")}
_OURS = {"root", "train", "download", "transform", "target_transform", "transforms"}
# Characters and signs mean something else when mirrored.
_NO_FLIP = {
    *("EMNIST", "GTSRB", "KMNIST", "MNIST", "Omniglot", "QMNIST"),
    *("RenderedSST2", "SEMEION", "SVHN", "USPS"),
}


def load_torchvision(name: str, request: LoadRequest) -> ProxyTask:
    """Return the torchvision data set ``name``, downloaded on first use.

    A missing val is carved out of train; where there is no test, val takes its place. Without a
    ``cache_dir`` the downloads go to ``~/.cache/gcsearch`` (or under ``$XDG_CACHE_HOME``).

    Args:
        name: Class name in ``torchvision.datasets``, in any case.
        request: ``image_size`` None keeps the size of sets that have one, else is 64. Options:
            ``flip``, and what the data set's constructor takes (``{"split": "balanced"}``).

    Raises:
        UnknownNameError: torchvision has no such data set.
        DataError: It cannot be downloaded or built, or its targets are not classes.
    """
    maker = _find(name)
    spec = f"torchvision:{maker.__name__}"
    options = dict(request.options or {})
    flip_only = LoadRequest(options={k: options.pop(k) for k in ["flip"] if k in options})
    flip = flip_only.flip(spec, default=maker.__name__ not in _NO_FLIP)
    root = (request.cache_dir or _user_cache()) / "torchvision"
    _check_options(maker, options, spec)
    key = {
        "spec": spec,
        "options": options,
        "size": request.image_size,
        "seed": request.seed,
        "flip": flip,
    }

    def build() -> ProxyTask:
        sets = dict(_open_parts(maker, root, options))
        if "train" not in sets:
            raise DataError(f"{spec} has no training split; choose one with the option split")
        size = request.image_size or _own_size(sets["train"], spec)
        splits = {part: _read(data, size, spec) for part, data in sets.items()}
        if "test" not in splits and "val" in splits:
            splits["test"] = splits.pop("val")
        names = _class_names(sets["train"], splits["train"], spec)
        whole = complete(splits, request.seed)
        return ProxyTask(spec, whole["train"], whole["val"], whole["test"], names, flip)

    return cached(request.cache_dir, key, build)


def _find(name: str) -> type[Any]:
    from torchvision import datasets

    bases = (datasets.VisionDataset, datasets.DatasetFolder, datasets.ImageFolder)
    entries = (getattr(datasets, entry) for entry in dir(datasets))
    makers: dict[str, type[Any]] = {
        entry.__name__.lower(): entry
        for entry in entries
        if isinstance(entry, type) and issubclass(entry, bases[0]) and entry not in bases
    }
    if name.lower() not in makers:
        raise UnknownNameError("torchvision data set", name.lower(), known=makers)
    return makers[name.lower()]


def _user_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "gcsearch"


def _parameters(maker: type[Any]) -> dict[str, inspect.Parameter]:
    # A constructor with **kwargs hands them to the class above it.
    found: dict[str, inspect.Parameter] = {}
    for cls in maker.__mro__:
        if "__init__" in vars(cls):
            own = list(inspect.signature(cls).parameters.values())
            found = {**{p.name: p for p in own if p.kind != p.VAR_KEYWORD}, **found}
            if not any(p.kind == p.VAR_KEYWORD for p in own):
                break
    return found


def _check_options(maker: type[Any], options: Mapping[str, object], spec: str) -> None:
    parameters = _parameters(maker)
    allowed = sorted(parameters.keys() - _OURS)
    if strange := [name for name in options if name not in allowed]:
        listed = ", ".join([*allowed, "flip"])
        raise DataError(f"{spec}: unknown option {strange[0]!r}; allowed: {listed}")
    chosen = {"root", *options}
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in chosen:
            raise DataError(f"{spec}: {name!r} has no default; give it as an option")


def _open_parts(
    maker: type[Any], root: Path, options: Mapping[str, object]
) -> Iterator[tuple[str, Any]]:
    parameters = _parameters(maker)
    if "train" in parameters:
        yield "train", _open(maker, root, {**options, "train": True})
        yield "test", _open(maker, root, {**options, "train": False})
    elif "split" in parameters and "split" not in options:
        for part in _PARTS:
            for name in _SPLIT_NAMES.get(part, (part,)):
                if (data := _open(maker, root, {**options, "split": name})) is not None:
                    yield part, data
                    break
    else:
        yield "train", _open(maker, root, options)


def _open(maker: type[Any], root: Path, arguments: Mapping[str, object]) -> Any:
    """Return the data set, or None if it has no split of that name."""
    parameters = _parameters(maker)
    ours: dict[str, object] = {"root": str(root), "download": True}
    chosen = {name: value for name, value in ours.items() if name in parameters}
    try:
        root.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            return maker(**chosen, **arguments)
    except Exception as e:  # network, disk, archive, a missing package: all kinds of errors
        if isinstance(e, ValueError) and "for argument split" in str(e):
            return None
        raise _no_data(maker, root, e, has_download="download" in parameters) from e


def _no_data(maker: type[Any], root: Path, e: Exception, has_download: bool) -> DataError:
    reason = " ".join(str(e).split()) or type(e).__name__
    cure = f"put the files under {root}"
    if isinstance(e, ImportError):
        cure = "install that package"
    elif has_download:
        cure = f"connect to the internet once, or {cure}"
    verb = "download" if has_download else "load"
    return DataError(f"cannot {verb} {maker.__name__} ({reason}); {cure}")


def _own_size(data: Any, spec: str) -> int:
    # Sets that hold their pictures in one array have one size; photographs come in many.
    return min(_item(data, 0, spec)[0].size) if hasattr(data, "data") else DEFAULT_SIZE


def _read(data: Any, size: int, spec: str) -> Split:
    images = np.empty((len(data), size, size, 3), np.uint8)
    labels = np.empty(len(data), np.int64)
    for i in range(len(data)):
        picture, labels[i] = _item(data, i, spec)
        images[i] = square(picture, size)
    return Split(images, labels)


def _item(data: Any, index: int, spec: str) -> tuple[Image.Image, int]:
    try:
        picture, target = data[index]
    except Exception as e:  # a broken file, or items of another form
        raise DataError(f"{spec}: cannot read item {index} ({e}); delete its files") from e
    if not isinstance(picture, Image.Image) or not isinstance(target, int | np.integer):
        found = f"{type(picture).__name__}, {type(target).__name__}"
        raise DataError(f"{spec}: items are ({found}); choose a set of pictures with one class")
    return picture, int(target)


def _class_names(data: Any, train: Split, spec: str) -> tuple[str, ...]:
    names = getattr(data, "classes", None)
    if not isinstance(names, Sequence) or len(names) <= int(train.labels.max()):
        return number_names(train.labels, spec)
    return tuple(map(str, names))

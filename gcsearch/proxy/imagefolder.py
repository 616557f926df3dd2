"""Proxy tasks from a folder of pictures, one folder per class; it does not know other sources.

``DIR/train/CLASS/*`` with ``DIR/val`` and ``DIR/test`` where there are such, or ``DIR/CLASS/*``.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from gcsearch.errors import DataError
from gcsearch.proxy.cache import cached
from gcsearch.proxy.pictures import DEFAULT_SIZE, decode
from gcsearch.proxy.splits import complete
from gcsearch.proxy.task import LoadRequest, ProxyTask, Split

__all__ = ["load_imagefolder"]

_PARTS = ("train", "val", "test")
_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_Classes = dict[str, list[Path]]


def load_imagefolder(folder: str, request: LoadRequest) -> ProxyTask:
    """Return the pictures under ``folder`` as squares; missing parts are carved out of train.

    Args:
        folder: The folder that holds ``train``, or the class folders.
        request: ``image_size`` None is 64. Option: ``flip`` (true).

    Raises:
        DataError: The folder is missing or empty, has one class, or holds a broken picture.
    """
    root = Path(folder).expanduser()
    spec = f"imagefolder:{folder}"
    flip = request.flip(spec, default=True)
    if not root.is_dir():
        raise DataError(f"{spec}: no such folder; give one that holds train/, or class folders")
    size = request.image_size or DEFAULT_SIZE
    parts = _find_parts(root)
    files = [path for part in parts.values() for paths in part.values() for path in paths]
    key = {
        "spec": spec,
        "root": root.resolve(),
        "files": [_stamp(path, root) for path in files],
        "size": size,
        "seed": request.seed,
        "flip": flip,
    }

    def build() -> ProxyTask:
        names = tuple(parts["train"])
        read = {part: _read(classes, names, size) for part, classes in parts.items()}
        splits = complete(read, request.seed)
        return ProxyTask(spec, splits["train"], splits["val"], splits["test"], names, flip)

    return cached(request.cache_dir, key, build)


def _stamp(path: Path, root: Path) -> tuple[Path, int, int]:
    try:
        stat = path.stat()
    except OSError as e:
        raise DataError(f"cannot read picture {path} ({e.strerror}); replace or delete it") from e
    return path.relative_to(root), stat.st_size, stat.st_mtime_ns


def _find_parts(root: Path) -> dict[str, _Classes]:
    if not _folders(root / "train"):  # absent, or a class of that name
        classes = _find_classes(root)
        _check_classes(classes, root)
        return {"train": classes}
    for folder in _folders(root):
        if folder.name not in _PARTS:
            cure = "rename it to train, val or test, or move it away"
            raise DataError(f"unexpected folder {folder} beside train; {cure}")
    parts = {part: _find_classes(root / part) for part in _PARTS if (root / part).is_dir()}
    _check_classes(parts["train"], root / "train")
    for part in [part for part in _PARTS[1:] if part in parts]:
        _check_held_out(parts[part], parts["train"], root / part)
    return parts


def _check_classes(classes: _Classes, folder: Path) -> None:
    if len(classes) < 2:
        found = f"only class {next(iter(classes))!r}" if classes else "no class folders"
        cure = "give one folder of pictures for each of at least 2 classes"
        raise DataError(f"folder {folder} has {found}; {cure}")
    for name, paths in classes.items():
        if not paths:
            kinds = " ".join(sorted(_SUFFIXES))
            raise DataError(f"folder {folder / name} has no pictures ({kinds}); add some")


def _check_held_out(classes: _Classes, known: _Classes, folder: Path) -> None:
    if not any(classes.values()):
        raise DataError(f"folder {folder} has no pictures; add some or delete it")
    if strange := sorted(classes.keys() - known.keys()):
        cure = "add the class to train, or delete it"
        raise DataError(f"folder {folder / strange[0]} has no class in train; {cure}")


def _find_classes(folder: Path) -> _Classes:
    return {sub.name: _find_pictures(sub) for sub in _folders(folder)}


def _find_pictures(folder: Path) -> list[Path]:
    found = []
    for top, subs, names in os.walk(folder):
        subs[:] = [name for name in subs if not name.startswith(".")]
        paths = (Path(top, name) for name in names if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in _SUFFIXES]
    return sorted(found)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _read(classes: _Classes, names: tuple[str, ...], size: int) -> Split:
    files = [(path, names.index(name)) for name, paths in classes.items() for path in paths]
    images = np.empty((len(files), size, size, 3), np.uint8)
    for i, (path, _) in enumerate(files):
        images[i] = decode(path, size)
    return Split(images, np.array([label for _, label in files], np.int64))

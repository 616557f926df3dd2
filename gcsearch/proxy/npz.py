"""Proxy tasks from one ``.npz`` file of arrays; it does not know other sources.

Two layouts are read: ``x_train, y_train, x_test, y_test [, x_val, y_val]``, and ``x, y, split``
where ``split`` holds ``"train"``, ``"val"`` or ``"test"`` for each picture. Both may add
``class_names``. Nothing is ever unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcsearch.errors import DataError
from gcsearch.proxy.cache import cached
from gcsearch.proxy.pictures import resize
from gcsearch.proxy.splits import complete, number_names
from gcsearch.proxy.task import LoadRequest, ProxyTask, Split

__all__ = ["load_npz"]

_PARTS = ("train", "val", "test")
_ALLOWED = {f"{axis}_{part}" for axis in "xy" for part in _PARTS}
_BROKEN = (OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError)


def load_npz(file: str, request: LoadRequest) -> ProxyTask:
    """Return the task in ``file``; ``val`` is carved out of train when there is none.

    Args:
        file: Path of the ``.npz`` file.
        request: ``image_size`` None keeps the size of the pictures. Option: ``flip`` (true).

    Raises:
        DataError: The file is missing, broken, or its arrays are not pictures with labels.
    """
    path = Path(file).expanduser()
    spec = f"npz:{file}"
    flip = request.flip(spec, default=True)
    if not path.is_file():
        raise DataError(f"{spec}: no such file; give the path of a .npz file")
    stat = path.stat()
    key = {
        "spec": spec,
        "file": (path.resolve(), stat.st_size, stat.st_mtime_ns),
        "size": request.image_size,
        "seed": request.seed,
        "flip": flip,
    }
    return cached(request.cache_dir, key, lambda: _build(path, spec, request, flip))


def _build(path: Path, spec: str, request: LoadRequest, flip: bool) -> ProxyTask:
    arrays = _read(path, spec)
    parts = _named_parts(arrays, spec) if "x_train" in arrays else _split_parts(arrays, spec)
    splits = complete(
        {
            part: Split(resize(split.images, request.image_size), split.labels)
            for part, split in parts.items()
        },
        request.seed,
    )
    names = _class_names(arrays, splits["train"].labels, spec)
    return ProxyTask(spec, splits["train"], splits["val"], splits["test"], names, flip)


def _read(path: Path, spec: str) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds one bare array")
            arrays = {name: archive[name] for name in archive.files}
    except (*_BROKEN, zipfile.BadZipFile, zlib.error) as e:
        reason = " ".join(str(e).split())
        cure = "write it with numpy.savez or savez_compressed, without object arrays"
        raise DataError(f"{spec}: not a readable .npz file ({reason}); {cure}") from e
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise DataError(f"{spec}: {name!r} is no array; keep only .npy members")
    return arrays


def _named_parts(arrays: dict[str, NDArray[Any]], spec: str) -> dict[str, Split]:
    for name in arrays:
        if name.startswith(("x_", "y_")) and name not in _ALLOWED:
            raise DataError(f"{spec}: unknown array {name!r}; allowed: {_listed(_ALLOWED)}")
    wanted = ["train", "test", *(["val"] if arrays.keys() & {"x_val", "y_val"} else [])]
    _require(arrays, [f"{axis}_{part}" for part in wanted for axis in "xy"], spec)
    return {
        part: _split(arrays[f"x_{part}"], arrays[f"y_{part}"], f"{spec}: ", f"_{part}")
        for part in wanted
    }


def _split_parts(arrays: dict[str, NDArray[Any]], spec: str) -> dict[str, Split]:
    _require(arrays, ["x", "y", "split"], spec)
    whole = _split(arrays["x"], arrays["y"], f"{spec}: ", "")
    column = arrays["split"]
    if column.dtype.kind not in "US" or column.shape != whole.labels.shape:
        found = f"{column.dtype} of shape {column.shape}"
        raise DataError(f"{spec}: split is {found}; give {len(whole)} strings, one per picture")
    column = column.astype(str)
    if strange := set(np.unique(column)) - set(_PARTS):
        raise DataError(f"{spec}: split has {str(min(strange))!r}; allowed: train, val, test")
    for part in ("train", "test"):
        if part not in column:
            raise DataError(f"{spec}: split never says {part!r}; mark some pictures so")
    return {
        part: Split(whole.images[column == part], whole.labels[column == part])
        for part in _PARTS
        if part in column
    }


def _require(arrays: dict[str, NDArray[Any]], names: list[str], spec: str) -> None:
    if missing := [name for name in names if name not in arrays]:
        cure = "add them, or use the layout x, y, split"
        if names[0] == "x":
            cure = "use the layout x, y, split, or x_train, y_train, x_test, y_test"
        has = _listed(arrays) or "nothing"
        raise DataError(f"{spec}: lacks {', '.join(missing)} (it has {has}); {cure}")


def _split(x: NDArray[Any], y: NDArray[Any], prefix: str, suffix: str) -> Split:
    images = _images(x, f"{prefix}x{suffix}")
    labels = _labels(y, f"{prefix}y{suffix}")
    if len(images) != len(labels):
        counts = f"{len(images)} images but y{suffix} {len(labels)} labels"
        raise DataError(f"{prefix}x{suffix} has {counts}; give one label for each image")
    return Split(images, labels)


def _images(x: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if x.dtype != np.uint8:
        cure = "scale to 0..255 and save as uint8"
        raise DataError(f"{name} is {x.dtype}; pictures are uint8: {cure}")
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3):
        cure = "transpose it with .transpose(0, 2, 3, 1)"
        raise DataError(f"{name} has shape {x.shape}, channels first; give (N, H, W, 3): {cure}")
    if x.ndim != 4 or x.shape[3] not in (1, 3):
        allowed = "give (N, H, W, 3), (N, H, W, 1) or (N, H, W)"
        raise DataError(f"{name} has shape {x.shape}; {allowed}")
    if not x.size:
        raise DataError(f"{name} has shape {x.shape}, no pictures; give at least one")
    return np.repeat(x, 3, axis=3) if x.shape[3] == 1 else x


def _labels(y: NDArray[Any], name: str) -> NDArray[np.int64]:
    if y.dtype.kind not in "iu":
        raise DataError(f"{name} is {y.dtype}; labels are integers counted from 0: convert them")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(f"{name} has shape {y.shape}; give one integer per picture, (N,)")
    return y.astype(np.int64)


def _class_names(
    arrays: dict[str, NDArray[Any]], labels: NDArray[np.int64], spec: str
) -> tuple[str, ...]:
    if (names := arrays.get("class_names")) is None:
        return number_names(labels, spec)
    if names.dtype.kind not in "US" or names.ndim != 1:
        found = f"{names.dtype} of shape {names.shape}"
        raise DataError(f"{spec}: class_names is {found}; give one string per class")
    return tuple(map(str, names.astype(str)))


def _listed(names: set[str] | dict[str, NDArray[Any]]) -> str:
    return ", ".join(sorted(names))

"""Keeping loaded tasks as .npy files that processes share; it does not know their sources.

An entry is a folder that appears whole or not at all, and is checked when it is read; what fails
the check is built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from gcsearch.errors import DataError
from gcsearch.proxy.task import ProxyTask, Split, check_task

__all__ = ["cached"]

_FORMAT = 1  # raise it when the files, or what built-in tasks draw, change
_STALE_S = 24 * 3600


def cached(
    cache_dir: Path | None, key: Mapping[str, object], build: Callable[[], ProxyTask]
) -> ProxyTask:
    """Return the task kept under ``key``, or build, check and keep it.

    Args:
        cache_dir: The folder of all entries; None builds without keeping.
        key: Plain data on which the task depends; ``"spec"`` names it.
        build: Called when there is no sound entry.

    Raises:
        DataError: The task is no good, or the entry cannot be written.
    """
    if cache_dir is None:
        return check_task(build())
    text = json.dumps([_FORMAT, dict(key)], sort_keys=True, default=str)
    slug = re.sub(r"[^A-Za-z0-9]+", "-", str(key["spec"]))[-40:].strip("-")
    folder = cache_dir / f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if (task := _read(folder)) is not None:
        return task
    task = check_task(build())
    try:
        _keep(task, folder)
    except OSError as e:
        raise DataError(f"cannot write {folder} ({e}); free some space or change cache_dir") from e
    return _read(folder) or task


def _read(folder: Path) -> ProxyTask | None:
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if any(_checksum(folder / name) != crc for name, crc in meta["checksums"].items()):
            return None
        task = ProxyTask(
            name=meta["name"],
            train=_read_split(folder, "train"),
            val=_read_split(folder, "val"),
            test=_read_split(folder, "test"),
            class_names=tuple(meta["class_names"]),
            flip=meta["flip"],
            guess=meta["guess"],
        )
        return check_task(task)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # none yet, or damaged: the cure is the same


def _read_split(folder: Path, part: str) -> Split:
    images, labels = (
        np.asarray(np.load(folder / f"{part}_{noun}.npy", mmap_mode="r", allow_pickle=False))
        for noun in ("images", "labels")
    )
    return Split(images, labels)


def _keep(task: ProxyTask, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        _write(task, draft / "entry")
        _install(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(task: ProxyTask, folder: Path) -> None:
    folder.mkdir()
    for part, split in task.splits.items():
        np.save(folder / f"{part}_images.npy", split.images)
        np.save(folder / f"{part}_labels.npy", split.labels)
    meta = {
        "name": task.name,
        "class_names": task.class_names,
        "flip": task.flip,
        "guess": task.guess,
        "checksums": {path.name: _checksum(path) for path in sorted(folder.iterdir())},
    }
    (folder / "meta.json").write_text(json.dumps(meta))


def _install(draft: Path, folder: Path) -> None:
    for attempt in range(3):
        with contextlib.suppress(OSError):
            os.replace(draft / "entry", folder)
            return
        if _read(folder) is not None:
            return  # another process was faster
        with contextlib.suppress(OSError):
            os.replace(folder, draft / f"damaged-{attempt}")
    os.replace(draft / "entry", folder)


def _checksum(path: Path) -> int:
    return zlib.crc32(np.memmap(path, np.uint8, "r").data)


def _sweep(cache_dir: Path) -> None:
    # Drafts of processes that were killed while writing.
    for draft in cache_dir.glob(".draft-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - draft.stat().st_mtime > _STALE_S:
                shutil.rmtree(draft, ignore_errors=True)

"""From the name of a proxy task to the task; it does not know how any source reads its data."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from gcsearch.errors import DataError, UnknownNameError
from gcsearch.imports import import_attribute
from gcsearch.proxy.cued_digits import load_cued_digits
from gcsearch.proxy.imagefolder import load_imagefolder
from gcsearch.proxy.npz import load_npz
from gcsearch.proxy.pictures import resize
from gcsearch.proxy.task import TASKS, LoadRequest, ProxyTask, Split, check_task
from gcsearch.proxy.torchvision_sets import load_torchvision

__all__ = ["TASKS", "absolute", "load_task"]

TASKS.register("cued-digits")(load_cued_digits)

_SOURCES: dict[str, Callable[[str, LoadRequest], ProxyTask]] = {
    "imagefolder": load_imagefolder,
    "npz": load_npz,
    "torchvision": load_torchvision,
}
_ON_DISK = ("imagefolder", "npz")
_FORMS = ("imagefolder:DIR", "npz:FILE", "torchvision:NAME")
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def load_task(
    spec: str,
    *,
    image_size: int | None = None,
    seed: int = 0,
    options: Mapping[str, object] | None = None,
    cache_dir: Path | None = None,
    trust: bool = False,
) -> ProxyTask:
    """Return the checked proxy task that ``spec`` names.

    Args:
        spec: A built-in name (``cued-digits``), ``torchvision:NAME``, ``imagefolder:DIR``,
            ``npz:FILE``, or an import path ``package.module:function``. The function is called
            with the options as keywords, and with ``image_size`` and ``seed`` if it takes them.
        image_size: Side of the square pictures; None leaves it to the source.
        seed: Seed of what is drawn: scenes, and splits that are carved out.
        options: What else the source understands.
        cache_dir: Where decoded arrays are kept, to be shared by processes; None for nowhere.
        trust: Whether an import path may run its code.

    Raises:
        UnknownNameError: There is no such built-in, source or torchvision data set.
        DataError: The data are missing, broken or of the wrong shape, or not trusted.

    Example:
        >>> small = {"n_train": 50, "n_val": 20, "n_test": 20}
        >>> task = load_task("cued-digits", image_size=32, options=small)
        >>> len(task.train), task.image_size, task.n_classes, task.guess
        (50, (32, 32), 10, 0.5)
    """
    request = LoadRequest(image_size, seed, options, cache_dir)
    if spec in TASKS:
        return TASKS[spec](request)
    prefix, colon, rest = spec.partition(":")
    if prefix in _SOURCES and colon:
        if not rest:
            form = next(form for form in _FORMS if form.startswith(prefix))
            raise DataError(f"{spec!r} names nothing; give {form}")
        return _SOURCES[prefix](rest, request)
    mistyped = difflib.get_close_matches(prefix, _SOURCES, cutoff=0.8) and not trust
    if mistyped or not _IMPORT_PATH.fullmatch(spec):
        known = [*TASKS.names(), *_FORMS, "package.module:function"]
        raise UnknownNameError("proxy task", prefix + colon, known)
    if not trust:
        cure = "pass trust=True if you know what it does"
        raise DataError(f"{spec} is an import path, which runs code of its own choosing; {cure}")
    return _call(spec, request)


def absolute(spec: str) -> str:
    """Return ``spec`` with the whole path, for a process that runs in another folder.

    Example:
        >>> absolute("cued-digits"), absolute("npz:/data/a.npz")
        ('cued-digits', 'npz:/data/a.npz')
    """
    prefix, _, rest = spec.partition(":")
    return f"{prefix}:{Path(rest).absolute()}" if prefix in _ON_DISK and rest else spec


def _call(spec: str, request: LoadRequest) -> ProxyTask:
    function = _import(spec)
    try:
        task = function(**_arguments(function, request))
    except Exception as e:
        reason = " ".join(str(e).split())
        raise DataError(f"{spec} raised {type(e).__name__} ({reason}); correct it") from e
    if not isinstance(task, ProxyTask):
        raise DataError(f"{spec} returned {type(task).__name__}; return a ProxyTask")
    task = check_task(replace(task, name=spec))
    train, val, test = (
        Split(resize(split.images, request.image_size), split.labels)
        for split in task.splits.values()
    )
    return replace(task, train=train, val=val, test=test)


def _import(spec: str) -> Callable[..., object]:
    try:
        function = import_attribute(spec)
    except Exception as e:  # importing runs the module, which may raise anything
        reason = " ".join(str(e).split())
        cure = "check the spelling, and that the module is on the Python path"
        raise DataError(f"cannot import {spec} ({reason}); {cure}") from e
    if not callable(function):
        raise DataError(f"{spec} is {type(function).__name__}; name a function")
    return function  # type: ignore[no-any-return]


def _arguments(function: Callable[..., object], request: LoadRequest) -> dict[str, object]:
    ours: dict[str, object] = {"image_size": request.image_size, "seed": request.seed}
    taken = inspect.signature(function).parameters
    return {**{k: v for k, v in ours.items() if k in taken}, **(request.options or {})}

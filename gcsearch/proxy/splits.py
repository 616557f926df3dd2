"""Labels: carving validation and test parts, naming classes; it does not know the pictures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gcsearch.errors import DataError
from gcsearch.proxy.task import Split

__all__ = ["complete", "number_names", "partition"]


def partition(
    labels: NDArray[np.int64], fractions: Mapping[str, float], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Return the indices of each named part, class by class in the given fractions.

    A class is never held out whole: its rest, at least one picture, is the part ``"train"``.

    Example:
        >>> parts = partition(np.repeat([0, 1], 10), {"val": 0.2, "test": 0.2}, seed=0)
        >>> {name: len(indices) for name, indices in parts.items()}
        {'val': 4, 'test': 4, 'train': 12}
    """
    rng = np.random.default_rng(seed)
    parts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in [*fractions, "train"]}
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        n_class = len(members)
        for name, fraction in fractions.items():
            n_part = min(max(1, round(fraction * n_class)), len(members) - 1)
            parts[name].append(members[:n_part])
            members = members[n_part:]
        parts["train"].append(members)
    empty = np.empty(0, np.int64)
    return {name: np.sort(np.concatenate([empty, *chunks])) for name, chunks in parts.items()}


def complete(given: Mapping[str, Split], seed: int) -> dict[str, Split]:
    """Return train, val and test; those not given are carved out of train, seeded.

    What is left of train is three times as large as each part that is carved.
    """
    missing = [name for name in ("val", "test") if name not in given]
    if not missing:
        return dict(given)
    train = given["train"]
    parts = partition(train.labels, dict.fromkeys(missing, 1 / (3 + len(missing))), seed)
    carved = {
        name: Split(train.images[indices], train.labels[indices])
        for name, indices in parts.items()
    }
    return {**given, **carved}


def number_names(labels: NDArray[np.int64], source: str) -> tuple[str, ...]:
    """Return ``("0", "1", ...)`` for training labels that come without names.

    Raises:
        DataError: Some number between 0 and the largest label never occurs.
    """
    used = np.unique(labels)
    if not np.array_equal(used, np.arange(len(used))):
        few = ", ".join(map(str, used[:8]))
        cure = f"number them 0..{len(used) - 1}, or add class_names"
        raise DataError(f"{source}: train labels are {few}{', ...' * (len(used) > 8)}; {cure}")
    return tuple(map(str, used))

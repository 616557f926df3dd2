"""Where in memory things come to lie, changed on purpose; times nothing.

How addresses fall together in caches is settled by chance when memory is first taken and then
stays: it favours one contender over the other in all rounds of a measurement, and otherwise in the
next one, which no number of rounds averages out. So it is drawn anew several times within a
measurement (Stabilizer, Curtsinger and Berger 2013, does so for compiled programs; Mytkowicz et
al. 2009, "Producing wrong data without doing anything obviously wrong", shows what comes of it
otherwise).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

__all__ = ["Placement"]

N_GAPS = 20
MOST_BYTES = 2**22
PAGE_BYTES = 4096


class Placement:
    """Each call moves what is allocated on the processor from then on.

    Memory that is free goes back to the system, where its library can do that (glibc), and gaps of
    random sizes are held until the next call. What is held already stays where it is: weights,
    which both contenders share, models unless they are copied, the arenas of runtimes other than
    torch.

    Args:
        seed: Of the sizes.
    """

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._gaps: list[Tensor] = []
        self._give_back = _give_back()

    def __call__(self) -> None:
        """Move what is allocated after this."""
        self._gaps.clear()
        self._give_back()
        sizes = self._rng.integers(1, MOST_BYTES, N_GAPS)
        blocks = [torch.empty(int(size), dtype=torch.uint8) for size in sizes]
        for block in blocks:
            block[::PAGE_BYTES] = 0  # a page takes up memory once it is written
        self._gaps = blocks[::2]


def _give_back() -> Callable[[], object]:
    """Return what gives free memory back to the system, or does nothing where there is none."""
    with suppress(OSError, AttributeError, TypeError):
        trim = ctypes.CDLL(None).malloc_trim
        return lambda: trim(0)
    return lambda: None

"""Pictures in a seeded order, as tensors ready for a network; knows no network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gcsearch.proxy.task import ProxyTask

__all__ = ["Feed", "normalise"]

SHIFT = 8
"""Pictures that may be shifted move by up to 1/SHIFT of their side."""


class Feed:
    """Batches of a task's training pictures; every epoch goes on where the last one stopped.

    Args:
        task: Whose pictures; only if it says so are they shifted and mirrored.
        batch_size: Pictures in a batch.
        seed: Of order and augmentation.
        device: Where the batches are wanted.
    """

    def __init__(self, task: ProxyTask, batch_size: int, seed: int, device: str) -> None:
        self._task, self._batch_size, self._device = task, batch_size, device
        self._rng = np.random.default_rng(seed)
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def batches(self, n: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the next ``n`` batches: pictures (N, 3, H, W), channels last, and labels (N,)."""
        split = self._task.train
        for _ in range(n):
            picks = self._next()
            images = normalise(split.images[picks], self._task, self._device)
            if self._task.flip:
                images = self._shift_and_mirror(images)
            labels = torch.from_numpy(np.array(split.labels[picks])).to(self._device)
            yield images.contiguous(memory_format=torch.channels_last), labels

    def _next(self) -> NDArray[np.int64]:
        while len(self._order) < self._batch_size:
            self._order = np.append(
                self._order, self._rng.permutation(len(self._task.train.labels))
            )
        picks, self._order = np.split(self._order, [self._batch_size])
        return np.sort(picks)

    def _shift_and_mirror(self, images: Tensor) -> Tensor:
        reach = images.shape[-1] // SHIFT
        down, right = (int(v) for v in self._rng.integers(-reach, reach + 1, 2))
        padded = F.pad(images, (reach,) * 4)
        height, width = images.shape[-2:]
        top, left = reach + down, reach + right
        images = padded[..., top : top + height, left : left + width]
        mirrored = torch.from_numpy(self._rng.random(len(images)) < 0.5).to(images.device)
        return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


def normalise(images: NDArray[np.uint8], task: ProxyTask, device: str) -> Tensor:
    """Return pictures (N, H, W, 3) as normalised floats of shape (N, 3, H, W), channels last."""
    tensor = torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2)
    mean = torch.tensor(task.mean, device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor(task.std, device=device).view(1, 3, 1, 1) * 255
    return (tensor.float() - mean) / std

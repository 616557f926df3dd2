"""Training pictures in a seeded order, augmented; it knows neither network nor process group.

Which pictures make a step depends on seed, epoch and batch size alone, and how each is cropped on
seed, epoch and picture, so that the same comes however many processes share the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from gcsearch.proxy.task import ProxyTask, Split

__all__ = ["DROPOUT", "Pictures", "Preparation", "generator", "training_batches"]

ORDER, CROP, DROPOUT = range(3)
"""Streams of random numbers."""


@dataclass(frozen=True)
class Preparation:
    """How bytes become what the network gets.

    Args:
        side: Height and width in pixels.
        mean: Per channel, of pictures in [0, 1].
        std: Per channel.
    """

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pictures: Tensor, device: torch.device) -> Tensor:
        """Return (N, 3, H, W) bytes as normalised floats on ``device``, channels last."""
        moved = pictures.to(device, non_blocking=True)
        if moved.shape[-2:] != (self.side, self.side):
            moved = F.resize(moved, [self.side, self.side], antialias=True)
        floats = F.to_dtype(moved, torch.float32, scale=True)
        normal: Tensor = F.normalize(floats, list(self.mean), list(self.std))
        return normal.contiguous(memory_format=torch.channels_last)


class Pictures(Dataset[tuple[Tensor, int]]):
    """The training split of one epoch, picture by picture.

    Args:
        split: Whose pictures.
        side: Of what is returned, where it is cropped.
        seed: Of the crops.
        epoch: Of the crops.
        crop_area: Smallest share of a picture that is kept; None neither crops nor mirrors.
    """

    def __init__(
        self, split: Split, side: int, seed: int, epoch: int, crop_area: float | None
    ) -> None:
        self._split, self._seed, self._epoch, self._crop = split, seed, epoch, None
        if crop_area is not None:
            crop = v2.RandomResizedCrop(side, scale=(crop_area, 1.0), antialias=True)
            self._crop = v2.Compose([crop, v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return a picture as bytes (3, H, W), and its label."""
        picture = torch.from_numpy(np.array(self._split.images[index])).permute(2, 0, 1)
        label = int(self._split.labels[index])
        if self._crop is None:
            return picture, label
        with torch.random.fork_rng(devices=[]):  # dropout goes on as if nothing was drawn
            torch.default_generator.manual_seed(
                int(generator(CROP, self._seed, self._epoch, index).integers(2**63))
            )
            return self._crop(picture), label


def training_batches(
    task: ProxyTask,
    *,
    side: int,
    seed: int,
    epoch: int,
    batch_size: int,
    crop_area: float | None,
    rank: int = 0,
    world_size: int = 1,
    loaders: int = 0,
    pin_memory: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return an iterator over one process's share of an epoch: bytes (N, 3, H, W), labels (N,).

    Args:
        task: Whose training split.
        side: As for :class:`Pictures`.
        seed: Of the order and the crops.
        epoch: Of the order and the crops.
        batch_size: Of all processes together.
        crop_area: As for :class:`Pictures`.
        rank: Which process this is.
        world_size: How many processes there are.
        loaders: Processes that load for this one.
        pin_memory: Whether batches lie where CUDA copies from fast.
    """
    order = generator(ORDER, seed, epoch).permutation(len(task.train))
    steps = len(order) // batch_size
    shares = np.split(order[: steps * batch_size].reshape(steps, batch_size), world_size, axis=1)
    return iter(
        DataLoader(
            Pictures(task.train, side, seed, epoch, crop_area),
            batch_sampler=_lists(shares[rank]),
            num_workers=loaders,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # else it would draw from the one that dropout uses
        )
    )


def generator(stream: int, *words: int) -> np.random.Generator:
    """Return a generator that a stream and numbers such as seed and epoch decide alone."""
    return np.random.default_rng([stream, *words])


def _lists(share: NDArray[np.int64]) -> list[list[int]]:
    return [[int(index) for index in batch] for batch in share]

"""One epoch of training, and scoring; it knows neither files nor what comes after an epoch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcsearch.errors import TrainingError
from gcsearch.machine import n_cores
from gcsearch.proxy.task import ProxyTask, Split
from gcsearch.proxy.training import SCORING_BATCH, learning_rate_factor, logits_of
from gcsearch.training.events import Scores
from gcsearch.training.pictures import DROPOUT, Preparation, generator, training_batches
from gcsearch.training.settings import FullTrainingSettings

__all__ = ["Loop"]

AUXILIARY = 0.3
"""Weight of the loss of auxiliary classifiers (Szegedy et al., arXiv 1409.4842, section 5)."""
LOOK_EVERY = 20
"""Steps between two looks at the loss, each of which waits for the device."""
MOST_LOADERS = 8


class Loop:
    """Trains a network epoch by epoch, together with the other processes.

    Args:
        fabric: Of this process.
        network: Trained in place.
        optimizer: Over its parameters.
        task: The data.
        settings: How.
        prepare: How bytes become what the network gets.
        hold: Entered around each step, so that timing on this machine can pause training.
    """

    def __init__(
        self,
        fabric: Any,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        task: ProxyTask,
        settings: FullTrainingSettings,
        prepare: Preparation,
        hold: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._fabric, self._task, self._settings = fabric, task, settings
        self._prepare, self._hold = prepare, hold
        self.network, self.optimizer = network, optimizer
        self._wrapped, self._stepper = fabric.setup(network, optimizer)

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return len(self._task.train) // self._settings.batch_size

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def train(self, epoch: int, told: Callable[[int], None]) -> float:
        """Train for one epoch.

        Args:
            epoch: Its number, from 0.
            told: Hears now and then how many steps are done.

        Returns:
            The mean loss of its steps.

        Raises:
            TrainingError: The loss is not finite.
        """
        fabric = self._fabric
        # Dropout differs between processes, and is the same whether or not there was a stop.
        drawn = generator(DROPOUT, self._settings.seed, epoch, fabric.global_rank).integers(2**63)
        torch.manual_seed(int(drawn))
        self.network.train()
        total = torch.zeros((), device=fabric.device)
        with warnings.catch_warnings():
            # Of 1x1 kernels, whose strides along sides of length one mean nothing.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
            for step, (pictures, labels) in enumerate(self._batches(epoch)):
                self._set_rate(epoch * self.steps + step)
                with self._hold():
                    total += self._step(pictures, labels.to(fabric.device))
                if (step + 1) % LOOK_EVERY == 0 or step + 1 == self.steps:
                    _require_finite(total.item())
                    told(step + 1)
        self._average_statistics()
        mean: float = self._sum(total.double()).item() / (self.steps * fabric.world_size)
        return mean

    def score(self, split: Split) -> Scores:
        """Return how the network does on a split, shared by all processes.

        Raises:
            TrainingError: The outputs are not finite, or not one score a class.
        """
        fabric = self._fabric
        own = np.arange(fabric.global_rank, len(split), fabric.world_size)
        sums = torch.zeros(3, dtype=torch.float64, device=fabric.device)
        self.network.eval()
        for start in range(0, len(own), SCORING_BATCH):
            picks = own[start : start + SCORING_BATCH]
            pictures = torch.from_numpy(np.array(split.images[picks])).permute(0, 3, 1, 2)
            labels = torch.from_numpy(np.array(split.labels[picks])).to(fabric.device)
            with self._hold(), torch.inference_mode(), fabric.autocast():
                output = self.network(self._prepare(pictures, fabric.device))
                sums += _judged(logits_of(output, labels).float(), labels)
        loss, top1, top5 = (float(value) / len(split) for value in self._sum(sums))
        _require_finite(loss)
        return Scores(loss, top1, top5, len(split))

    def _batches(self, epoch: int) -> Any:
        settings, fabric, task = self._settings, self._fabric, self._task
        augments = task.flip if settings.augment is None else settings.augment
        on_cuda = settings.device == "cuda"
        spare = min(MOST_LOADERS, n_cores() // fabric.world_size) if on_cuda else 0
        return training_batches(
            task,
            side=self._prepare.side,
            seed=settings.seed,
            epoch=epoch,
            batch_size=settings.batch_size,
            crop_area=settings.crop_area if augments else None,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            loaders=spare if settings.loaders is None else settings.loaders,
            pin_memory=on_cuda,
        )

    def _step(self, pictures: Tensor, labels: Tensor) -> Tensor:
        self._stepper.zero_grad(set_to_none=True)
        try:
            output = self._wrapped(self._prepare(pictures, self._fabric.device))
        except RuntimeError as error:
            if "finished reduction" not in str(error):
                raise
            raise TrainingError(
                "some weights of the network have no effect on its scores, so processes cannot "
                "average their gradients; freeze those weights, or train in one process"
            ) from error
        loss = _loss(output, labels, self._settings.label_smoothing)
        self._fabric.backward(loss)
        self._stepper.step()
        return loss.detach()

    def _set_rate(self, step: int) -> None:
        settings = self._settings
        factor = learning_rate_factor(step, settings.epochs * self.steps, settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.peak_lr * factor

    def _average_statistics(self) -> None:
        """Make running means and variances those of all processes."""
        if self._fabric.world_size > 1:
            for buffer in self.network.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self._sum(buffer) / self._fabric.world_size)

    def _sum(self, values: Tensor) -> Tensor:
        total: Tensor = self._fabric.all_reduce(values.clone(), reduce_op="sum")
        return total


def _loss(output: Any, labels: Tensor, smoothing: float) -> Tensor:
    """Return the loss of the scores, and of auxiliary classifiers where a network has some."""
    logits = logits_of(output, labels)
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
    others = output[1:] if isinstance(output, tuple) else ()
    for other in (scores for scores in others if isinstance(scores, Tensor)):
        extra = F.cross_entropy(other.float(), labels, label_smoothing=smoothing)
        loss = loss + AUXILIARY * extra
    return loss


def _judged(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sums of the loss, of right answers, and of those among the first five."""
    ranked = logits.topk(min(5, logits.shape[1])).indices == labels.unsqueeze(1)
    loss = F.cross_entropy(logits, labels, reduction="sum").double()
    return torch.stack([loss, ranked[:, 0].sum().double(), ranked.any(1).sum().double()])


def _require_finite(loss: float) -> None:
    if not math.isfinite(loss):
        raise TrainingError(f"the loss became {loss}; try a lower learning rate, or more warm-up")

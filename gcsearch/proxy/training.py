"""The short training that scores a network on a proxy task; knows no trial and no worker.

One generator, :func:`train`, serves the baseline (everything is trained, from scratch or from
given weights) and every architecture of a search (which inherits the baseline's weights). The same
model, seed and thread count gives the same numbers twice: the seed alone decides the order of the
pictures, so that two architectures with one seed see the same pictures in the same order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gcsearch.errors import TrainingError
from gcsearch.proxy.feed import Feed, normalise
from gcsearch.proxy.task import ProxyTask, Split
from gcsearch.settings import Settings
from gcsearch.surgery import inserted_blocks

__all__ = [
    "SCORING_BATCH",
    "Epoch",
    "Fidelity",
    "TrainingSettings",
    "learning_rate_factor",
    "logits_of",
    "measure_speed",
    "memory_guard",
    "score",
    "train",
]

SCORING_BATCH = 250
TRAINING_VERSION = 2
"""Raised when the code changes so that the same settings lead to other weights."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class TrainingSettings(Settings):
    """How networks are trained on the proxy task."""

    batch_size: Annotated[int, Field(ge=2, le=4096)] = 64
    """Pictures in a step."""
    baseline_lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    """Peak learning rate while the baseline is trained."""
    backbone_lr: Annotated[float, Field(gt=0, le=10)] = 2e-4
    """Peak learning rate of inherited weights in a trial."""
    block_lr: Annotated[float, Field(gt=0, le=10)] = 5e-3
    """Peak learning rate of the inserted blocks in a trial; they start at identity."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """AdamW's decoupled weight decay."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the steps in which the learning rate rises; then it falls along a cosine."""
    trainable: Literal["all", "blocks"] = "all"
    """What a trial trains: the whole network, or its blocks and the classifier alone, which takes
    half the time and shows less of what the blocks can do (docs/measurements.md)."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of training; auto takes mixed precision where the device is fast at it."""
    device: str = "auto"
    """A torch device; auto takes CUDA when it is there."""


@dataclass(frozen=True)
class Fidelity:
    """How much training a score rests on.

    Args:
        images: Pictures seen in an epoch; the next epoch goes on with the next pictures.
        epochs: Epochs, each of which ends with a scoring of the validation split.
    """

    images: int
    epochs: int

    @property
    def images_seen(self) -> int:
        """Pictures seen in the whole training."""
        return self.images * self.epochs


@dataclass(frozen=True, eq=False)
class Epoch:
    """What one epoch of training came to; ``correct`` has one entry for each scored picture."""

    number: int
    train_loss: float
    loss: float
    top1: float
    correct: NDArray[np.bool_]
    seconds: float


def train(
    model: nn.Module,
    task: ProxyTask,
    settings: TrainingSettings,
    fidelity: Fidelity,
    *,
    seed: int,
    is_baseline: bool = False,
    device: str = "cpu",
    precision: str = "fp32",
    split: Split | None = None,
    hold: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Epoch]:
    """Train ``model`` in place and yield what each epoch came to.

    Args:
        model: Returns logits of shape (N, classes); GoogLeNet's and Inception's tuples are read
            too.
        task: Pictures to train on.
        settings: Learning rates and the like.
        fidelity: Pictures and epochs.
        seed: Decides the order of the pictures and the augmentation.
        is_baseline: Train everything at the baseline's rate, instead of as a trial.
        device: Where to train.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``; the latter two are mixed precision.
        split: What to score on; by default the task's validation split.
        hold: Entered around every step, so that timing can pause training.

    Yields:
        One :class:`Epoch` after each.

    Raises:
        TrainingError: The loss is not finite, or memory ran out.
    """
    torch.backends.cudnn.deterministic = True
    frozen_norms = not is_baseline and settings.trainable != "all"
    with memory_guard():
        model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        groups = _parameter_groups(model, settings, is_baseline)
        optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        steps = fidelity.epochs * max(1, fidelity.images // settings.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, steps, settings.warmup)
        )
        scaler = torch.amp.GradScaler(device.split(":")[0], enabled=precision == "fp16")
        feed = Feed(task, settings.batch_size, seed, device)
        for number in range(fidelity.epochs):
            start = time.perf_counter()
            torch.manual_seed(seed + (number << 20))  # the caller may have drawn meanwhile
            _set_mode(model, frozen_norms)
            losses = []
            for images, labels in feed.batches(steps // fidelity.epochs):
                with hold():
                    loss = _step(model, images, labels, optimizer, scaler, precision)
                losses.append(loss)
                schedule.step()
            with hold():
                scored = score(model, task, split or task.val, device=device, precision=precision)
            yield Epoch(
                number=number + 1,
                train_loss=float(np.mean(losses)),
                loss=scored[0],
                top1=float(scored[1].mean()),
                correct=scored[1],
                seconds=time.perf_counter() - start,
            )


def score(
    model: nn.Module,
    task: ProxyTask,
    split: Split,
    *,
    device: str = "cpu",
    precision: str = "fp32",
) -> tuple[float, NDArray[np.bool_]]:
    """Return the mean cross-entropy on ``split``, and whether each picture was answered rightly.

    Raises:
        TrainingError: The outputs are not finite, or not one score a class.
    """
    model.eval()
    loss, correct = 0.0, []
    for start in range(0, len(split.labels), SCORING_BATCH):
        part = slice(start, start + SCORING_BATCH)
        images = normalise(split.images[part], task, device)
        labels = torch.from_numpy(np.array(split.labels[part])).to(device)
        with torch.inference_mode(), _autocast(device, precision):
            logits = logits_of(model(images), labels).float()
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        correct.append((logits.argmax(dim=1) == labels).cpu().numpy())
    mean = loss / len(split.labels)
    if not math.isfinite(mean):
        raise TrainingError(f"validation loss became {mean}; try a lower learning rate")
    return mean, np.concatenate(correct)


def measure_speed(
    model: nn.Module,
    task: ProxyTask,
    settings: TrainingSettings,
    *,
    is_baseline: bool = False,
    device: str = "cpu",
    precision: str = "fp32",
    seconds: float = 1.5,
) -> tuple[float, float]:
    """Return how many pictures a second are trained on and scored; ``model`` is altered.

    Args:
        model: As for :func:`train`.
        task: As for :func:`train`.
        settings: As for :func:`train`.
        is_baseline: As for :func:`train`.
        device: As for :func:`train`.
        precision: As for :func:`train`.
        seconds: How long to measure each, after a warm-up.
    """
    with memory_guard():
        model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(_parameter_groups(model, settings, is_baseline))
        scaler = torch.amp.GradScaler(device.split(":")[0], enabled=precision == "fp16")
        images, labels = next(Feed(task, settings.batch_size, 0, device).batches(1))
        _set_mode(model, frozen_norms=not is_baseline and settings.trainable != "all")
        part = Split(task.val.images[:SCORING_BATCH], task.val.labels[:SCORING_BATCH])
        training = _per_second(
            lambda: _step(model, images, labels, optimizer, scaler, precision), seconds
        )
        scoring = _per_second(
            lambda: score(model, task, part, device=device, precision=precision), seconds
        )
        return len(labels) * training, len(part) * scoring


def _per_second(action: Callable[[], object], seconds: float) -> float:
    action()
    start, n = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds or n < 2:
        action()
        n += 1
    return n / elapsed


def logits_of(output: Any, labels: Tensor) -> Tensor:
    """Return the class scores in a model's output.

    Raises:
        TrainingError: The output is not one row of scores for each picture, with one for each
            class among the labels.
    """
    logits = output[0] if isinstance(output, tuple) else output
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        what = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise TrainingError(
            f"the backbone returns {what}, not class scores of shape (N, classes); "
            "search works on classifiers"
        )
    n_needed = int(labels.max()) + 1
    if len(logits) != len(labels) or logits.shape[1] < n_needed:
        raise TrainingError(
            f"the backbone returns scores of shape {tuple(logits.shape)} for {len(labels)} "
            f"pictures of at least {n_needed} classes; let it take num_classes"
        )
    return logits


def _step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    precision: str,
) -> float:
    optimizer.zero_grad(set_to_none=True)
    with _autocast(images.device.type, precision):
        logits = logits_of(model(images), labels)
    loss = F.cross_entropy(logits.float(), labels)
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingError(f"training loss became {value}; try a lower learning rate")
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    scaler.step(optimizer)
    scaler.update()
    return value


def _parameter_groups(
    model: nn.Module, settings: TrainingSettings, is_baseline: bool
) -> list[dict[str, Any]]:
    """Freeze what is not trained; return the rest by learning rate."""
    blocks = {id(p) for block in inserted_blocks(model).values() for p in block.parameters()}
    trains_all = is_baseline or settings.trainable == "all"
    classifier = {id(p) for p in _classifier(model, blocks).parameters()}
    old, new = [], []
    for parameter in model.parameters():
        if id(parameter) in blocks:
            new.append(parameter.requires_grad_(True))
            continue
        parameter.requires_grad_(trains_all or id(parameter) in classifier)
        if parameter.requires_grad:
            old.append(parameter)
    rate = settings.baseline_lr if is_baseline else settings.backbone_lr
    groups = [{"params": old, "lr": rate}, {"params": new, "lr": settings.block_lr}]
    return [group for group in groups if group["params"]]


def _classifier(model: nn.Module, blocks: set[int]) -> nn.Module:
    """Return the last layer with a weight matrix: the classifier of every torchvision model.

    Args:
        model: May hold a block at its very end.
        blocks: Identities of the parameters of its blocks.
    """
    matrices = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    linear = [m for m in matrices if id(m.weight) not in blocks]
    if not linear:
        raise TrainingError("the backbone has neither a linear nor a convolutional layer to train")
    return linear[-1]


def _set_mode(model: nn.Module, frozen_norms: bool) -> None:
    """Train mode; with frozen weights the running statistics stay frozen as well."""
    model.train(not frozen_norms)
    for block in inserted_blocks(model).values():
        block.train()


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Return the factor of the learning rate: a linear rise, then a cosine to zero."""
    rise = max(1.0, warmup * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1.0, steps - rise))))


def _autocast(device: str, precision: str) -> torch.autocast:
    kind = device.split(":")[0]
    return torch.autocast(kind, dtype=DTYPES[precision], enabled=precision != "fp32")


class memory_guard(AbstractContextManager[None]):
    """Turn a memory shortage into a :class:`TrainingError`; let every other error pass.

    Args:
        cure: The settings to lower.
    """

    def __init__(self, cure: str = "training.batch_size or data.image_size") -> None:
        self._cure = cure

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, torch.OutOfMemoryError) or (
            isinstance(error, RuntimeError) and any(w in str(error) for w in OUT_OF_MEMORY)
        ):
            raise TrainingError(f"out of memory while training; lower {self._cure}") from error

"""One whole training, from an architecture to its export; prints nothing.

What is kept after each epoch is enough to go on to the bit: weights, optimizer, gradient scaler
and the history. Everything random is drawn from generators that seed and epoch alone decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gcsearch.backbones import read_state_dict
from gcsearch.errors import ConfigError, GcsearchError
from gcsearch.export.files import plain_state
from gcsearch.machine import together
from gcsearch.proxy.sources import load_task
from gcsearch.proxy.task import ProxyTask
from gcsearch.proxy.training import memory_guard
from gcsearch.training.best import describe, write_best
from gcsearch.training.events import EpochResult, Scores, TrainingListener
from gcsearch.training.folder import Folder
from gcsearch.training.loop import Loop
from gcsearch.training.optimizer import make_optimizer
from gcsearch.training.pictures import Preparation
from gcsearch.training.processes import launched, resolve
from gcsearch.training.settings import WITHOUT_EFFECT, FullTrainingSettings
from gcsearch.training.start import Start, read_start

__all__ = ["Trained", "train"]

RECORD_VERSION = 1
"""Raised when the code changes so that the same record leads to other weights."""


@dataclass(frozen=True)
class Trained:
    """What a full training came to.

    Args:
        config_path: The exported config of the best epoch, with its weights beside it.
        history: What each epoch came to.
        best: The epoch whose weights were exported.
        test: Their scores on the test split.
        n_before: Epochs that were done in an earlier call.
    """

    config_path: Path
    history: tuple[EpochResult, ...]
    best: EpochResult
    test: Scores
    n_before: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "config": str(self.config_path),
            "epochs": len(self.history),
            "epochs_before": self.n_before,
            "best": self.best.to_dict(),
            "test": self.test.to_dict(),
            "history": [result.to_dict() for result in self.history],
        }


def train(
    source: Path | None,
    settings: FullTrainingSettings,
    output: Path,
    *,
    backbone: str | None = None,
    force: bool = False,
    trust: bool = False,
    cache_dir: Path | None = None,
    listener: TrainingListener | None = None,
) -> Trained:
    """Train an architecture to its end, or go on with it, and export its best epoch.

    Under torchrun every process calls this, and the first writes; all must see ``output``.

    Args:
        source: An exported ``.yaml`` or ``.safetensors`` file.
        settings: How.
        output: The folder to write, in which the same call finds where it was.
        backbone: Instead of ``source``: a name, whose network is trained unaltered.
        force: Delete another training in the folder.
        trust: Whether import paths may be followed, which runs their code.
        cache_dir: Where decoded pictures are kept.
        listener: Hears what happens, in the first process.

    Raises:
        GcsearchError: Anything foreseen; the message says what to do.
    """
    settings, start = resolve(settings), read_start(source, backbone, trust=trust)
    folder = Folder(output)
    if source is not None and folder.writes(source):
        raise ConfigError([f"it would write over {source}; choose another -o"], str(output))
    with folder, launched(settings) as fabric, memory_guard("batch_size or image_size"):
        with fabric.rank_zero_first(local=True):
            task = _load(start, settings, trust, cache_dir)
        heard = listener if listener and fabric.is_global_zero else TrainingListener()
        training = _Training(fabric, start, settings, task, folder, heard)
        training.prepare(force=force, trust=trust)
        training.run()
        return training.conclude()


class _Training:
    """The stages of one training, in the order in which :func:`train` calls them."""

    def __init__(
        self,
        fabric: Any,
        start: Start,
        settings: FullTrainingSettings,
        task: ProxyTask,
        folder: Folder,
        listener: TrainingListener,
    ) -> None:
        self._fabric, self._start, self._settings = fabric, start, settings
        self._task, self._folder, self._listener = task, folder, listener
        self._history: list[EpochResult] = []
        self._test: Scores | None = None
        self._n_before = 0

    def prepare(self, *, force: bool, trust: bool) -> None:
        """Build the network, claim the folder, and load what was kept in it."""
        torch.backends.cudnn.deterministic = True
        start, settings, task = self._start, self._settings, self._task
        side = start.image_size_for(settings) or max(task.image_size)
        network, notes = start.network(task, settings, side, trust=trust)
        normalisation = start.normalisation_for(task, settings)
        self._record = {
            "version": RECORD_VERSION,
            "settings": settings.model_dump(mode="json", exclude=set(WITHOUT_EFFECT)),
            "architecture": start.architecture.to_dict(),
            "n_classes": task.n_classes,
            "image_size": side,
            "normalisation": normalisation,
            "start_weights": start.weights_word(settings),
            "data_hash": self._only_first(lambda: task.content_hash),
        }
        self._only_first(lambda: self._folder.claim(self._record, force=force))
        network.to(memory_format=torch.channels_last)
        prepare = Preparation(side, tuple(normalisation["mean"]), tuple(normalisation["std"]))
        optimizer = make_optimizer(network, settings)
        self._loop = Loop(self._fabric, network, optimizer, task, settings, prepare, self._hold())
        if not self._go_on():
            for note in [*notes, *_split_notes(start, task)]:
                self._listener.notice(note)

    def run(self) -> None:
        """Train the epochs that are not done yet."""
        of = self._settings.epochs
        for epoch in range(len(self._history), of):
            began = time.perf_counter()
            number = epoch + 1
            loss = self._loop.train(
                epoch, partial(self._listener.step, number, of=self._loop.steps)
            )
            val = self._loop.score(self._task.val)
            seconds = time.perf_counter() - began
            self._history.append(EpochResult(number, self._loop.lr, loss, val, seconds))
            self._keep()
            if self._best is self._history[-1]:
                self._export()
            self._listener.epoch(self._history[-1], of)

    def conclude(self) -> Trained:
        """Score the best weights on the test split, once, and write that into the export."""
        if self._test is None:
            weights = self._folder.best_weights
            network, last = self._loop.network, plain_state(self._loop.network)
            self._fabric.barrier()  # until the first process has written them
            network.load_state_dict(read_state_dict(weights))
            self._test = self._loop.score(self._task.test)
            self._fabric.barrier()  # until all have read them
            self._export()
            network.load_state_dict(last)
            self._keep()
        return Trained(
            self._folder.best, tuple(self._history), self._best, self._test, self._n_before
        )

    @property
    def _best(self) -> EpochResult:
        """The first of those with the highest top1."""
        return max(self._history, key=lambda result: result.val.top1)

    def _go_on(self) -> bool:
        """Load the checkpoint; return whether there was one."""
        state = self._only_first(self._folder.read_checkpoint)
        if state is None:
            return False
        self._loop.network.load_state_dict(state["network"])
        self._loop.optimizer.load_state_dict(state["optimizer"])
        self._fabric.strategy.precision.load_state_dict(state["precision"])
        self._history = [EpochResult.from_dict(result) for result in state["history"]]
        self._test = Scores(**state["test"]) if state["test"] else None
        self._n_before = len(self._history)
        if self._best is self._history[-1] and self._test is None:
            self._export()  # it may have been killed between checkpoint and export
        of = self._settings.epochs
        far = f"going on after epoch {self._n_before} of {of}"
        self._listener.notice(far if self._n_before < of else f"all {of} epochs are done already")
        return True

    def _keep(self) -> None:
        """Write the checkpoint, then what people read, which the checkpoint can repair."""
        if not self._fabric.is_global_zero:
            return
        history = [result.to_dict() for result in self._history]
        test = self._test.to_dict() if self._test else None
        state = {
            "network": self._loop.network.state_dict(),
            "optimizer": self._loop.optimizer.state_dict(),
            "precision": self._fabric.strategy.precision.state_dict(),
            "history": history,
            "test": test,
        }
        self._folder.write_checkpoint(state)
        tested = [{f"test_{key}": value for key, value in test.items()}] if test else []
        self._folder.write_metrics([*history, *tested])

    def _export(self) -> None:
        if self._fabric.is_global_zero:
            said = (self._start, self._task, self._record, self._best, self._test)
            config = describe(*said, self._settings.device)
            write_best(config, self._loop.network, self._folder.best)

    def _hold(self) -> Callable[[], AbstractContextManager[None]]:
        """Let one process of each machine wait for timing: the others wait for its gradients."""
        return together if self._fabric.local_rank == 0 else nullcontext

    def _only_first(self, action: Callable[[], Any]) -> Any:
        """Return what an action returns in the first process, or raise what it raises, in all."""
        result: Any = None
        failure: GcsearchError | None = None
        if self._fabric.is_global_zero:
            try:
                result = action()
            except GcsearchError as error:
                failure = error
        result, failure = self._fabric.broadcast((result, failure))
        if failure is not None:
            raise failure
        return result


def _load(
    start: Start, settings: FullTrainingSettings, trust: bool, cache_dir: Path | None
) -> ProxyTask:
    data, side = settings.data, start.image_size_for(settings)
    task = load_task(
        data.source,
        image_size=data.image_size or side,
        seed=settings.split_seed,
        options=data.options,
        cache_dir=cache_dir,
        trust=trust,
    )
    if len(task.train) < settings.batch_size:
        raise ConfigError(
            [f"batch_size = {settings.batch_size}: {task.name} has only {len(task.train)} "
             f"training pictures; give at most that"], "train"
        )  # fmt: skip
    return task


def _split_notes(start: Start, task: ProxyTask) -> list[str]:
    """Warn where the weights may have been trained on what is now validated or tested on."""
    said = start.provenance
    known = said.get("proxy_task") == task.name and said.get("proxy_task_hash")
    same_size = start.image_size == task.image_size[0]
    if start.weights is None or not known or not same_size or known == task.content_hash:
        return []
    return [
        "the pictures are not split as in the search, whose weights may have seen the test split; "
        "give the search's seed: --set split_seed=N"
    ]

"""The one place where the parts meet: an architecture and a fidelity in, an evaluation out.

An evaluation is a function of (architecture, fidelity, seed, start weights) wherever it runs: in a
worker, a benchmark or a test. Knows neither Optuna nor Ray nor SQL.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from gcsearch.architecture import Architecture
from gcsearch.config import SearchConfig
from gcsearch.errors import ConfigError
from gcsearch.evaluation.costs import hold_to_limits, ratios_to
from gcsearch.evaluation.gauge import Gauge, Timer
from gcsearch.evaluation.value import Evaluation, pack
from gcsearch.machine import device_fault, pick_device, pick_precision, together
from gcsearch.plan import Speeds
from gcsearch.proxy import Split
from gcsearch.proxy.training import (
    TRAINING_VERSION,
    Epoch,
    Fidelity,
    TrainingSettings,
    measure_speed,
    train,
)
from gcsearch.space import SearchSpace
from gcsearch.surgery import insert

__all__ = ["Evaluator"]


class Evaluator(Gauge):
    """Evaluates architectures of one search on this machine.

    Args:
        config: The whole search.
        cache_dir: Where prepared data sets are kept.
        trust: Whether import paths in the configuration may be followed.
        threads: Processor threads to train with; by default every core.
        measure: Times an architecture elsewhere; by default it is timed on this machine.

    Raises:
        DataError: The proxy task cannot be had.
        ConfigError: There is no such backbone, device or file of weights.
        SurgeryError: The backbone cannot be probed at the proxy task's image size.
    """

    def __init__(
        self,
        config: SearchConfig,
        *,
        cache_dir: Path,
        trust: bool = False,
        threads: int | None = None,
        measure: Timer | None = None,
    ) -> None:
        self.device = _usable(pick_device(config.training.device))
        self.precision = pick_precision(config.training.precision, self.device)
        super().__init__(
            config, cache_dir=cache_dir, trust=trust, threads=threads, measure=measure
        )
        self._weights: dict[str, torch.Tensor] | None = None

    def train_baseline(self, fidelity: Fidelity) -> Iterator[Epoch]:
        """Train the unaltered backbone from its start weights; yield each epoch.

        Afterwards :meth:`weights` returns the result, which every architecture inherits.
        """
        model = copy.deepcopy(self._backbone)
        seed = self.config.search.seed
        yield from self._train(model, fidelity, seed, is_baseline=True)
        self._weights = _to_cpu(model)

    def weights(self) -> bytes:
        """Return the baseline's weights in safetensors form.

        Raises:
            RuntimeError: There are none yet.
        """
        if self._weights is None:
            raise RuntimeError("the baseline has neither been trained nor loaded")
        return save(self._weights)

    def load_baseline(self, weights: bytes) -> None:
        """Take weights that :meth:`weights` returned, here or on another machine."""
        self._weights = load(weights)

    def recipe(self, fidelity: Fidelity) -> str:
        """Return a hash of all that decides the baseline's weights, to keep them by."""
        config = self.config
        parts = {
            "version": TRAINING_VERSION,
            "backbone": config.backbone,
            "start": _start_of(config),
            "data": self.task.content_hash,
            "training": _baseline_settings(config.training),
            "fidelity": asdict(fidelity),
            "seed": config.search.seed,
            "device": self.device.split(":")[0],
            "precision": self.precision,
            "torch": torch.__version__.split("+")[0],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def build(self, architecture: Architecture, seed: int) -> nn.Module:
        """Build an architecture on the baseline's weights; its outputs equal the baseline's."""
        model = copy.deepcopy(self._backbone)
        if self._weights is not None:
            model.load_state_dict(self._weights)
        torch.manual_seed(seed)
        return insert(model, architecture.insertions, sites=self.sites)

    def measure_speeds(self, space: SearchSpace, started: float) -> Speeds:
        """Measure in a few seconds how fast this machine trains, scores and times.

        Args:
            space: To take a typical architecture from.
            started: When the run began, on the clock of ``time.perf_counter``.
        """
        typical = space.typical()
        latency_s = self.measure_latency(typical).seconds
        baseline, scoring = self._training_speed(typical.baseline(), is_baseline=True)
        trial, _ = self._training_speed(typical, is_baseline=False)
        return Speeds(baseline, trial, scoring, latency_s, time.perf_counter() - started)

    def steps(
        self,
        architecture: Architecture,
        fidelity: Fidelity,
        seed: int,
        *,
        split: Split | None = None,
        with_latency: bool = True,
    ) -> Iterator[Epoch | tuple[Evaluation, nn.Module]]:
        """Evaluate step by step: yield each epoch, and at last the evaluation and the network.

        What is counted comes first, then latency: what is over a limit, or cannot be timed, costs
        no training.

        Args:
            architecture: What to evaluate.
            fidelity: How much training.
            seed: Of the blocks' weights and of the order of the pictures.
            split: What to score on; by default the validation split.
            with_latency: Whether to time it as well, and to hold it to the limits.

        Raises:
            TrainingError: The training diverged or ran out of memory.
            LatencyError: The latency is inconclusive, or it cannot be served here.
            OverLimitError: It costs more than ``latency.limit`` or one of ``limits`` allows.
        """
        begin = time.perf_counter()
        costs = self.count_costs(architecture)
        ratios = ratios_to(self._backbone_costs, costs)
        limits = self.config.cost_limits if with_latency and not architecture.is_baseline else {}
        hold_to_limits(limits, ratios)
        counted = time.perf_counter()
        latency = self.conclusive_latency(architecture) if with_latency else None
        hold_to_limits(limits, ratios, latency)
        seconds = {"counting": counted - begin, "latency": time.perf_counter() - counted}
        model = self.build(architecture, seed)
        curve: list[Epoch] = []
        for epoch in self._train(model, fidelity, seed, split=split):
            curve.append(epoch)
            yield epoch
        last = curve[-1]
        evaluation = Evaluation(
            architecture=architecture,
            seed=seed,
            top1=last.top1,
            loss=last.loss,
            correct=pack(last.correct),
            curve=tuple(_as_point(epoch) for epoch in curve),
            latency=latency,
            params=costs["params"],
            macs=costs["macs"],
            seconds={"training": sum(epoch.seconds for epoch in curve)} | seconds,
            memory=costs["memory"],
            ratios=ratios,
        )
        yield evaluation, model

    def evaluate(
        self,
        architecture: Architecture,
        fidelity: Fidelity,
        seed: int,
        *,
        split: Split | None = None,
        with_latency: bool = True,
    ) -> tuple[Evaluation, nn.Module]:
        """Evaluate in one go; see :meth:`steps`."""
        steps = self.steps(architecture, fidelity, seed, split=split, with_latency=with_latency)
        for step in steps:
            if not isinstance(step, Epoch):
                return step
        raise AssertionError("steps() ends with an evaluation")

    def _train(
        self,
        model: nn.Module,
        fidelity: Fidelity,
        seed: int,
        *,
        is_baseline: bool = False,
        split: Split | None = None,
    ) -> Iterator[Epoch]:
        torch.set_num_threads(self._threads)
        return train(
            model,
            self.task,
            self.config.training,
            fidelity,
            seed=seed,
            is_baseline=is_baseline,
            device=self.device,
            precision=self.precision,
            split=split,
            hold=together,
        )

    def _training_speed(
        self, architecture: Architecture, *, is_baseline: bool
    ) -> tuple[float, float]:
        torch.set_num_threads(self._threads)
        with together():
            return measure_speed(
                self.build(architecture, seed=0),
                self.task,
                self.config.training,
                is_baseline=is_baseline,
                device=self.device,
                precision=self.precision,
            )


def _as_point(epoch: Epoch) -> dict[str, float]:
    return {
        "train_loss": epoch.train_loss,
        "loss": epoch.loss,
        "top1": epoch.top1,
        "seconds": epoch.seconds,
    }


def _usable(device: str) -> str:
    """Return ``device``.

    Raises:
        ConfigError: This machine has no such device.
    """
    if fault := device_fault(device):
        raise ConfigError(
            [f"training.device {device!r} cannot be used: {fault}; auto takes what is there"]
        )
    return device


def _to_cpu(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}


def _baseline_settings(settings: TrainingSettings) -> dict[str, Any]:
    kept = ("batch_size", "baseline_lr", "weight_decay", "warmup")
    return {name: getattr(settings, name) for name in kept}


def _start_of(config: SearchConfig) -> str | None:
    """Return what names the start weights: a file by its content, anything else by its name."""
    if config.weights and Path(config.weights).is_file():
        return hashlib.sha256(Path(config.weights).read_bytes()).hexdigest()
    return config.weights

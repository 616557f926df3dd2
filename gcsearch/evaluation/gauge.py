"""The backbone of a search at hand: its sites, and what architectures on it cost when served.

Counts and times on this machine, or has it timed elsewhere; trains nothing, and knows no weights
but those that the backbone starts from.
"""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from gcsearch.architecture import Architecture
from gcsearch.backbones import build_backbone, check_backbone, load_weights
from gcsearch.config import SearchConfig
from gcsearch.cost import (
    LatencyProbe,
    LatencyRatio,
    LatencySettings,
    latency_context,
    share_weights,
)
from gcsearch.errors import LatencyError
from gcsearch.evaluation.costs import count_costs
from gcsearch.machine import n_cores, together
from gcsearch.proxy import ProxyTask, load_task
from gcsearch.space import SearchSpace, select_sites
from gcsearch.surgery import Site, find_sites, insert

__all__ = ["Gauge", "Timer"]


class Timer(Protocol):
    """Times an architecture against the backbone."""

    def __call__(self, architecture: Architecture, precision: float | None = None) -> LatencyRatio:
        """Return its latency, as precisely as the settings say or as is wanted instead."""


class Gauge:
    """Counts and times architectures of one search.

    Args:
        config: The whole search.
        cache_dir: Where prepared data sets are kept; they tell how many classes there are.
        trust: Whether import paths in the configuration may be followed.
        threads: Processor threads to count with; by default every core.
        measure: Times an architecture elsewhere; by default it is timed on this machine.

    Raises:
        DataError: The proxy task cannot be had.
        ConfigError: There is no such backbone or file of weights.
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
        check_backbone(config.backbone, trust=trust)  # before the data, which may take a while
        self.config = config
        self._trust = trust
        self._threads = threads or n_cores()
        self.task: ProxyTask = load_task(
            config.data.source,
            image_size=config.data.image_size,
            seed=config.search.seed,
            options=config.data.options,
            cache_dir=cache_dir / "data",
            trust=trust,
        )
        self.input_size = (3, *self.task.image_size)
        self._backbone = self._fresh_backbone()
        self.sites = find_sites(self._backbone, self.input_size)
        self._latency_size = (3, config.latency.image_size, config.latency.image_size)
        self._time = measure

    def space(self) -> SearchSpace:
        """Lay out the search space over the chosen sites."""
        chosen = select_sites(self.sites, self.config.space.sites)
        return SearchSpace(self.config.backbone, chosen, self.config.space)

    def count_costs(self, architecture: Architecture) -> dict[str, int]:
        """Count an architecture's ``macs``, ``params`` and ``memory``, as it will be served.

        Raises:
            LatencyError: It cannot be served on this machine as ``latency`` says.
        """
        if architecture.is_baseline:
            return self._backbone_costs
        model = insert(copy.deepcopy(self._backbone), architecture.insertions, sites=self.sites)
        return self._count(model)

    def measure_latency(
        self, architecture: Architecture, precision: float | None = None
    ) -> LatencyRatio:
        """Time an architecture against the backbone, alone on the machine that times.

        Args:
            architecture: What to time.
            precision: Wanted instead of ``latency.precision``.

        Raises:
            LatencyError: The model refuses pictures of this size, or the runtime the model.
        """
        if self._time is None:
            self._time = self.latency_probe(self.config.latency)
        return self._time(architecture, precision)

    def conclusive_latency(self, architecture: Architecture) -> LatencyRatio:
        """Time an architecture; a latency that is no number is an error.

        Raises:
            LatencyError: It is inconclusive, or cannot be measured at all.
        """
        latency = self.measure_latency(architecture)
        if not latency.conclusive:
            raise LatencyError(
                f"latency is {latency} after {latency.pairs} pairs, so it makes no number; "
                "quiet the machine, or raise latency.time_limit_s or latency.precision"
            )
        return latency

    def latency_probe(self, settings: LatencySettings) -> Timer:
        """Return what times architectures, with the backbone made ready once.

        Args:
            settings: Runtime, batch, image size and so on.

        Raises:
            LatencyError: The backbone refuses such pictures, or the runtime the backbone.
        """
        baseline = copy.deepcopy(self._backbone)
        probe = LatencyProbe(baseline, (3, settings.image_size, settings.image_size), settings)

        def time_one(architecture: Architecture, precision: float | None = None) -> LatencyRatio:
            altered = insert(share_weights(baseline), architecture.insertions, sites=self.sites)
            return probe.measure(altered, precision=precision)

        return time_one

    def timed_sites(self) -> list[Site]:
        """Find the sites again, in the form they have when the backbone is timed."""
        return find_sites(self._backbone, self._latency_size)

    def latency_context(self) -> dict[str, Any]:
        """Return all that latencies measured here depend on but the architecture."""
        config = self.config
        return latency_context(
            config.backbone,
            self._backbone,
            self.task.n_classes,
            self._latency_size,
            config.latency,
        )

    @cached_property
    def _backbone_costs(self) -> dict[str, int]:
        return self._count(self._backbone)

    def _count(self, model: nn.Module) -> dict[str, int]:
        torch.set_num_threads(self._threads)
        with together():
            return count_costs(model, self._latency_size, self.config.latency)

    def _fresh_backbone(self) -> nn.Module:
        config = self.config
        torch.manual_seed(config.search.seed)
        n_classes = self.task.n_classes
        model = build_backbone(config.backbone, n_classes=n_classes, trust=self._trust)
        if config.weights:
            load_weights(model, config.backbone, config.weights)
        return model

"""Timing an exported network against its backbone, or against another export; trains nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gcsearch.cost import (
    LatencyProbe,
    LatencyRatio,
    LatencySettings,
    runtime_version,
    share_weights,
)
from gcsearch.cost.pairs import Times
from gcsearch.export import build
from gcsearch.machine import environment, pick_device
from gcsearch.surgery import remove

__all__ = ["ExportTiming", "time_export"]


@dataclass(frozen=True, eq=False)
class ExportTiming:
    """An exported network, timed with one batch size.

    Args:
        config: Its file.
        against: ``"its backbone"``, or the file of another export.
        settings: Runtime, batch and so on.
        latency: What was measured.
        times: Seconds of network, opponent and opponent again in each round.
    """

    config: Path
    against: str
    settings: LatencySettings
    latency: LatencyRatio
    times: Times

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return {
            "config": str(self.config),
            "against": self.against,
            "batch_size": self.settings.batch_size,
            "latency": asdict(self.latency),
            "settings": self.settings.model_dump(mode="json"),
            "environment": environment(pick_device(self.settings.device))
            | {"runtime": runtime_version(self.settings.runtime)},
        }


def time_export(
    config: Path,
    settings: LatencySettings,
    *,
    against: Path | None = None,
    trust: bool = False,
) -> ExportTiming:
    """Time an exported network, alone on this machine.

    Args:
        config: An exported YAML file.
        settings: Runtime, batch size, image size and so on.
        against: Another exported file to compare with; by default the network's own backbone.
        trust: Whether a backbone given as an import path may be run.

    Raises:
        ExportError: A file cannot be read.
        LatencyError: A network refuses such an input, or the runtime a network.
    """
    model = build(config, trust=trust)
    opponent = remove(share_weights(model)) if against is None else build(against, trust=trust)
    probe = LatencyProbe(opponent, _input_size(settings), settings)
    latency = probe.measure(model)
    shown = "its backbone" if against is None else str(against)
    return ExportTiming(config, shown, settings, latency, probe.times)


def _input_size(settings: LatencySettings) -> tuple[int, ...]:
    return (3, settings.image_size, settings.image_size)

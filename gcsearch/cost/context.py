"""All that a latency depends on but the architecture, as plain data; it times nothing.

Latencies of one context can be compared and added, wherever and whenever they were measured;
those of two cannot. Whatever is new in the settings or in what is known of the machine becomes
part of it without being named here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from gcsearch.cost.runtimes import runtime_version
from gcsearch.cost.settings import LatencySettings
from gcsearch.machine import environment, n_cores, pick_device

__all__ = ["latency_context"]

NOT_OF_A_PASS = frozenset({"precision", "time_limit_s", "disturbance", "limit"})
"""Settings that say how well a latency is measured or what is done with it, not what it is."""
NOT_IN_A_PASS = frozenset({"numpy", "optuna", "ray"})
"""Packages of the environment that take no part in a pass."""


def latency_context(
    backbone: str,
    model: nn.Module,
    n_classes: int,
    input_size: Sequence[int],
    settings: LatencySettings,
) -> dict[str, Any]:
    """Describe what latencies are of.

    Args:
        backbone: Its name.
        model: The backbone itself: an import path may lead to another network tomorrow.
        n_classes: Of its classifier.
        input_size: Channels, height and width of a picture.
        settings: How it is timed.
    """
    device = pick_device(settings.device)
    timed = settings.model_dump(mode="json", exclude=set(NOT_OF_A_PASS))
    timed |= {"threads": settings.threads or n_cores(), "device": device}
    machine = environment(device) | {"runtime": runtime_version(settings.runtime)}
    return {
        "backbone": backbone,
        "structure": _structure(model),
        "n_classes": n_classes,
        "input_size": list(input_size),
        "settings": timed,
        "environment": {k: v for k, v in machine.items() if k not in NOT_IN_A_PASS},
    }


def _structure(model: nn.Module) -> str:
    """Return a hash of a network's modules and their settings."""
    text = re.sub(r" at 0x[0-9a-f]+", "", str(model))  # where in memory differs from run to run
    return hashlib.sha256(text.encode()).hexdigest()[:16]

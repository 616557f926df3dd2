"""Whether blocks stand in a residual network as other projects can say it: before the addition.

Those put one block at the end of every residual branch of a stage, or of the whole network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from gcsearch.architecture import Architecture, Insertion
from gcsearch.errors import ExportError

__all__ = ["BASIC", "BOTTLENECK", "Stage", "gate_faults", "refuse", "stages_of"]

BOTTLENECK: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
)
BASIC: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
)
"""Residual blocks of each stage, by the name of the network."""

Stage = Insertion | None
"""The one insertion that all blocks of a stage share, its site blank; or none."""
_PLACE = re.compile(r"layer([1-4])\.(\d+)(?:\.(.+))?")


def stages_of(
    architecture: Architecture, depths: tuple[int, ...], norm: str
) -> tuple[list[Stage], list[str]]:
    """Return what each stage holds, and what cannot be said, each with its place.

    Args:
        architecture: With a residual network as its backbone.
        depths: Its residual blocks in each stage.
        norm: The layer at the end of each residual branch, e.g. ``"bn3"``.
    """
    held: dict[int, dict[int, Insertion]] = {stage: {} for stage in range(1, len(depths) + 1)}
    faults = []
    for insertion in architecture.insertions:
        match = _PLACE.fullmatch(insertion.site)
        if match and match[3] == norm:
            held[int(match[1])][int(match[2])] = insertion
        else:
            after = " (after the addition)" if match and match[3] is None else ""
            faults.append(f"site {insertion.site}{after}: only layerX.Y.{norm} can be named")
    stages: list[Stage] = []
    for (number, inside), depth in zip(held.items(), depths, strict=True):
        if 0 < len(inside) < depth:
            lacking = next(i for i in range(depth) if i not in inside)
            faults.append(f"layer{number}: block at {len(inside)} of {depth} residual blocks, "
                          f"none at layer{number}.{lacking}.{norm}")  # fmt: skip
        kinds = list(dict.fromkeys(replace(i, site="any") for i in inside.values()))
        if len(kinds) > 1:
            faults.append(f"layer{number}: blocks of {len(kinds)} kinds in one stage")
        stages.append(kinds[0] if kinds else None)
    return stages, faults


def gate_faults(stages: list[Stage]) -> list[str]:
    """Name where the gate of ``channel_mul``, twice a sigmoid here, cannot be said."""
    return [
        f"layer{number}: channel_mul scales by 2*sigmoid (the identity gate), there by sigmoid"
        for number, stage in enumerate(stages, 1)
        if stage is not None and "channel_mul" in (stage.fusions or ())
    ]


def refuse(project: str, faults: list[str]) -> None:
    """Refuse in one line what cannot be said.

    Raises:
        ExportError: There is something.
    """
    if faults:
        more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
        told = "; ".join(faults[:4]) + more
        raise ExportError(f"{project} cannot say this architecture: {told}; use --format snippet")

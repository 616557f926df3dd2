"""What an evaluation came to, as a value that goes to and from plain data."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcsearch.architecture import Architecture
from gcsearch.cost import Cost, LatencyRatio

__all__ = ["Evaluation", "pack", "unpack"]


@dataclass(frozen=True)
class Evaluation:
    """What was measured for one architecture.

    Args:
        architecture: What was evaluated.
        seed: Of the training.
        top1: Fraction of the validation pictures answered rightly, after the last epoch.
        loss: Mean cross-entropy on them.
        correct: Which of them, packed by :func:`pack`, for pairing with another evaluation.
        curve: For each epoch its ``train_loss``, ``loss``, ``top1`` and ``seconds``.
        latency: Ratio to the backbone; ``None`` where it was not asked for.
        params: Of the whole network.
        macs: Multiply-accumulates of one picture at the latency's image size.
        seconds: Spent on ``training``, scoring included, on ``latency``, and on ``counting``.
        memory: Bytes at the peak of one forward pass, served as latency is measured; ``None`` in
            evaluations that were stored before it was measured.
        ratios: ``macs``, ``params`` and ``memory`` over those of the unaltered backbone; empty in
            evaluations that were stored before.
    """

    architecture: Architecture
    seed: int
    top1: float
    loss: float
    correct: str
    curve: tuple[dict[str, float], ...]
    latency: LatencyRatio | None
    params: int
    macs: int
    seconds: dict[str, float]
    memory: int | None = None
    ratios: dict[str, float] = field(default_factory=dict)

    def cost_ratio(self, cost: Cost) -> float | None:
        """Return a cost as a ratio to the unaltered backbone; exactly 1 for the backbone itself.

        Returns:
            ``None`` where it was not measured.
        """
        if self.architecture.is_baseline:
            return 1.0
        if cost == "latency":
            return self.latency.ratio if self.latency else None
        return self.ratios.get(cost)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, safe for JSON."""
        return asdict(self) | {"architecture": self.architecture.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evaluation:
        """Read what :meth:`to_dict` wrote."""
        latency = data["latency"]
        return cls(
            **{
                **data,
                "architecture": Architecture.from_dict(data["architecture"]),
                "curve": tuple(data["curve"]),
                "latency": LatencyRatio(**latency) if latency else None,
            }
        )


def pack(correct: NDArray[np.bool_]) -> str:
    """Return a row of booleans as short text: its length and its bits in base64.

    Example:
        >>> unpack(pack(np.array([True, False, True]))).tolist()
        [True, False, True]
    """
    return f"{correct.size}:{base64.b64encode(np.packbits(correct).tobytes()).decode()}"


def unpack(text: str) -> NDArray[np.bool_]:
    """Read what :func:`pack` wrote."""
    size, _, bits = text.partition(":")
    packed = np.frombuffer(base64.b64decode(bits), dtype=np.uint8)
    return np.unpackbits(packed, count=int(size)).astype(np.bool_)

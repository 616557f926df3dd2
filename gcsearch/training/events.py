"""What is heard of a full training while it runs; it does not know how it is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["EpochResult", "Scores", "TrainingListener"]


@dataclass(frozen=True)
class Scores:
    """How a network does on one split.

    Args:
        loss: Mean cross-entropy, without label smoothing.
        top1: Fraction of the pictures whose class has the highest score.
        top5: Fraction whose class is among the five highest, or among all where there are fewer.
        n_pictures: Pictures of the split.
    """

    loss: float
    top1: float
    top5: float
    n_pictures: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


@dataclass(frozen=True)
class EpochResult:
    """What one epoch came to.

    Args:
        epoch: Its number, from 1.
        lr: Learning rate of its last step.
        train_loss: Mean over its steps, with label smoothing and on augmented pictures.
        val: Scores on the validation split after it.
        seconds: That it took, scoring included.
    """

    epoch: int
    lr: float
    train_loss: float
    val: Scores
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, one level deep."""
        val = {f"val_{key}": value for key, value in self.val.to_dict().items()}
        return {"epoch": self.epoch, "lr": self.lr, "train_loss": self.train_loss, **val,
                "seconds": self.seconds}  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EpochResult:
        """Read what :meth:`to_dict` returned."""
        val = {key.removeprefix("val_"): data[key] for key in data if key.startswith("val_")}
        own = {key: data[key] for key in data if not key.startswith("val_")}
        return cls(**own, val=Scores(**val))


class TrainingListener:
    """Hears what happens; this one does not mind."""

    def notice(self, text: str) -> None:
        """Hear something worth a line of its own."""

    def step(self, epoch: int, done: int, of: int) -> None:
        """Hear that steps of an epoch are done."""

    def epoch(self, result: EpochResult, of: int) -> None:
        """Hear what an epoch came to."""

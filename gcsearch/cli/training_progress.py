"""Live progress of a full training on a terminal, or one line an epoch elsewhere."""

from __future__ import annotations

import time

from rich.console import Console

from gcsearch.cli.live import LiveLines
from gcsearch.training.events import EpochResult, TrainingListener

__all__ = ["TrainingProgress"]


class TrainingProgress(LiveLines, TrainingListener):
    """Prints what a training does: epochs stay, the one under way is a line that changes.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._began, self._stage = time.monotonic(), "preparing data and network"

    def step(self, epoch: int, done: int, of: int) -> None:
        """Show how far an epoch is."""
        self._stage = f"epoch {epoch}, step {done}/{of}"

    def epoch(self, result: EpochResult, of: int) -> None:
        """Print what an epoch came to."""
        val = result.val
        self._print(
            f"epoch {result.epoch}/{of}  train loss {result.train_loss:.3f}  val loss "
            f"{val.loss:.3f}  top1 {val.top1:.4f}  top5 {val.top5:.4f}  lr {result.lr:.2g}  "
            f"{result.seconds:.0f} s"
        )

    def _status(self) -> str:
        return f"{(time.monotonic() - self._began) / 60:4.1f} min | {self._stage}"

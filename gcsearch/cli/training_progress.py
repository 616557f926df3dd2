"""Live progress of a full training on a terminal, or one line an epoch elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from gcsearch.training.events import EpochResult, TrainingListener

__all__ = ["TrainingProgress"]


class TrainingProgress(TrainingListener):
    """Prints what a training does: epochs stay, the one under way is a line that changes.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._began, self._status = time.monotonic(), "preparing data and network"

    def __enter__(self) -> TrainingProgress:
        if self._console.is_terminal:
            self._live.get_renderable = self._line  # type: ignore[method-assign]
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def notice(self, text: str) -> None:
        """Print a line of its own."""
        self._print(f"note     {text}")

    def step(self, epoch: int, done: int, of: int) -> None:
        """Show how far an epoch is."""
        self._status = f"epoch {epoch}, step {done}/{of}"

    def epoch(self, result: EpochResult, of: int) -> None:
        """Print what an epoch came to."""
        val = result.val
        self._print(
            f"epoch {result.epoch}/{of}  train loss {result.train_loss:.3f}  val loss "
            f"{val.loss:.3f}  top1 {val.top1:.4f}  top5 {val.top5:.4f}  lr {result.lr:.2g}  "
            f"{result.seconds:.0f} s"
        )

    def _line(self) -> Text:
        elapsed = (time.monotonic() - self._began) / 60
        return Text(f"{elapsed:4.1f} min | {self._status}", style="dim", overflow="ellipsis")

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

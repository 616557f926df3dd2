"""Lines that stay, and below them, on a terminal, some that change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

__all__ = ["LiveLines"]


class LiveLines(ABC):
    """Shows what is under way while it is entered.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.get_renderable = self._changing  # type: ignore[method-assign]
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

    @abstractmethod
    def _status(self) -> str:
        """Return the lines that change."""

    def _changing(self) -> Text:
        return Text(self._status(), style="dim", overflow="ellipsis", no_wrap=True)

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

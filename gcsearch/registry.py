"""Named things of one kind, with suggestions for mistyped names; it knows nothing of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from gcsearch.errors import DuplicateNameError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Named things of one kind, e.g. blocks or proxy tasks.

    Args:
        kind: What the things are, in the singular; used in messages.

    Example:
        >>> blocks = Registry[type]("block")
        >>> @blocks.register("gc")
        ... class Block: ...
        >>> blocks.names()
        ['gc']
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files its target under ``name``.

        Raises:
            DuplicateNameError: The name is taken.
        """

        def add(entry: T) -> T:
            if name in self._entries:
                raise DuplicateNameError(f"{self._kind} {name!r} is already registered")
            self._entries[name] = entry
            return entry

        return add

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownNameError(self._kind, name, known=self.names()) from None

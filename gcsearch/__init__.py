"""Search which global-context blocks, where in a vision backbone, give the most for the least.

The names below are the public face; each is imported when it is first used, so that
``import gcsearch`` and ``gcsearch --help`` need not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Architecture": "architecture",
    "Insertion": "architecture",
    "SearchConfig": "config",
    "Site": "surgery",
    "build": "export",
    "find_sites": "surgery",
    "insert": "surgery",
    "load_config": "config",
    "remove": "surgery",
    "search": "run",
}
_ROOMS = ("blocks", "cost", "errors")

__all__ = [
    "Architecture",
    "Insertion",
    "SearchConfig",
    "Site",
    "build",
    "find_sites",
    "insert",
    "load_config",
    "remove",
    "search",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"gcsearch.{_HOMES[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"gcsearch.{name}")
    raise AttributeError(f"module 'gcsearch' has no attribute {name!r}")

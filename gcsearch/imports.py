"""Import paths of the user's own code, which are followed only where the caller was trusted.

Knows neither what is imported nor who may do so.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

__all__ = ["import_attribute"]


def import_attribute(path: str) -> Any:
    """Import ``package.module:name``; modules in the current folder are found too.

    The folder comes last, so that nothing in it hides an installed package. An installed command
    does not look there by itself, as ``python -m`` does.

    Raises:
        Exception: Whatever importing the module raises.
        AttributeError: It has no such name.

    Example:
        >>> import_attribute("fractions:Fraction")(1, 2)
        Fraction(1, 2)
    """
    module, _, name = path.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    return getattr(importlib.import_module(module), name)

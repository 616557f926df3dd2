"""The blocks that can be inserted, and their names; they know no backbone.

Each name below is imported when it is first used, so that settings and costs need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcsearch.blocks.catalog import BLOCKS, build_block
    from gcsearch.blocks.conversion import convert_state_dict
    from gcsearch.blocks.costs import n_macs, n_params
    from gcsearch.blocks.global_context import GlobalContext
    from gcsearch.blocks.non_local import NonLocal
    from gcsearch.blocks.settings import (
        BLOCK_SETTINGS,
        FUSIONS,
        MODES,
        POOLINGS,
        SETTING_DEFAULTS,
        complete_settings,
    )
    from gcsearch.blocks.simplified_non_local import SimplifiedNonLocal
    from gcsearch.blocks.squeeze_excitation import SqueezeExcitation

__all__ = [
    "BLOCKS",
    "BLOCK_SETTINGS",
    "FUSIONS",
    "MODES",
    "POOLINGS",
    "SETTING_DEFAULTS",
    "GlobalContext",
    "NonLocal",
    "SimplifiedNonLocal",
    "SqueezeExcitation",
    "build_block",
    "complete_settings",
    "convert_state_dict",
    "n_macs",
    "n_params",
]

_HOMES = {
    "BLOCKS": "catalog",
    "BLOCK_SETTINGS": "settings",
    "FUSIONS": "settings",
    "MODES": "settings",
    "POOLINGS": "settings",
    "SETTING_DEFAULTS": "settings",
    "GlobalContext": "global_context",
    "NonLocal": "non_local",
    "SimplifiedNonLocal": "simplified_non_local",
    "SqueezeExcitation": "squeeze_excitation",
    "build_block": "catalog",
    "complete_settings": "settings",
    "convert_state_dict": "conversion",
    "n_macs": "costs",
    "n_params": "costs",
}

if not TYPE_CHECKING:  # So that a mistyped name is an error to the type checker.

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            return getattr(importlib.import_module(f"gcsearch.blocks.{_HOMES[name]}"), name)
        raise AttributeError(f"module 'gcsearch.blocks' has no attribute {name!r}")

"""The blocks that can be inserted, and their names; they know no backbone."""

from __future__ import annotations

from gcsearch.blocks.catalog import BLOCKS, build_block
from gcsearch.blocks.global_context import FUSIONS, POOLINGS, GlobalContext

__all__ = ["BLOCKS", "FUSIONS", "POOLINGS", "GlobalContext", "build_block"]

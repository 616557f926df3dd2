"""Finding sites by running a model, inserting blocks, taking them out; it knows no backbone."""

from __future__ import annotations

from gcsearch.surgery.finding import find_sites
from gcsearch.surgery.host import BLOCK_NAME
from gcsearch.surgery.operations import backbone_state_dict, insert, inserted_blocks, remove
from gcsearch.surgery.site import Site

__all__ = [
    "BLOCK_NAME",
    "Site",
    "backbone_state_dict",
    "find_sites",
    "insert",
    "inserted_blocks",
    "remove",
]

"""The base of every section of a search configuration; it does not know any section."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Settings"]


class Settings(BaseModel):
    """Frozen plain data; unknown keys and infinite numbers are refused.

    Each section is written beside the code that it steers, and `gcsearch.config` puts them
    together.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

"""Templates of pages and pictures, in which every value is escaped; knows not what is drawn."""

from __future__ import annotations

import functools

from jinja2 import Environment, PackageLoader, StrictUndefined

from gcsearch.report.verdict import show_cost, show_points

__all__ = ["templates"]

LABEL_LENGTH = 27
"""Characters that fit in a box of the drawing."""


@functools.cache
def templates() -> Environment:
    """Return the templates; a name that is not given to one of them is an error."""
    environment = Environment(
        loader=PackageLoader("gcsearch.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"show_points": show_points, "show_cost": show_cost, "short": _short}
    return environment


def _short(text: str) -> str:
    """Return what fits in a box: the end of a path tells more than its beginning."""
    return text if len(text) <= LABEL_LENGTH else "…" + text[1 - LABEL_LENGTH :]

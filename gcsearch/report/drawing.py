"""Where the insertions of an architecture sit: stages as columns of sites, as values to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gcsearch.architecture import Architecture
from gcsearch.surgery import Site

__all__ = ["Column", "Drawing", "Place", "drawing_of"]


@dataclass(frozen=True)
class Place:
    """A site, with what the architecture has there.

    Args:
        path: Of the site.
        inserted: The block with its settings, or ``""``.
    """

    path: str
    inserted: str


@dataclass(frozen=True)
class Column:
    """The sites of one stage, in order of execution.

    Args:
        title: Of the stage.
        shape: Of the features there, as ``"256x16x16"``; empty where it was not stored.
        places: Its sites.
    """

    title: str
    shape: str
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Drawing:
    """A backbone with the insertions of one architecture.

    Args:
        backbone: Its name.
        number: Of the architecture's trial.
        is_chosen: Whether it is the choice rather than what came nearest.
        columns: One for each stage.
    """

    backbone: str
    number: int
    is_chosen: bool
    columns: tuple[Column, ...]


def drawing_of(
    architecture: Architecture, sites: Sequence[Site], *, number: int, is_chosen: bool
) -> Drawing:
    """Lay out a backbone with its insertions.

    Args:
        architecture: What to draw.
        sites: Where the search may insert, in order of execution.
        number: Of its trial.
        is_chosen: Whether it is the study's choice.
    """
    inserted = {i.site: str(i).removeprefix(f"{i.site} ") for i in architecture.insertions}
    stages: dict[int | None, list[Site]] = {}
    for site in sites:
        stages.setdefault(site.stage, []).append(site)
    columns = tuple(
        Column(
            title="no stage" if stage is None else f"stage {stage}",
            shape="x".join(map(str, members[-1].shape)),
            places=tuple(Place(site.path, inserted.get(site.path, "")) for site in members),
        )
        for stage, members in stages.items()
    )
    return Drawing(architecture.backbone, number, is_chosen, columns)

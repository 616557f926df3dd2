"""Files of a trial that the dashboard shows: its curves, its backbone, its config.

Each has an id made of what it belongs to, so that writing it again changes nothing. It is written
before the study names it, and again if it was lost. What somebody deleted stays away.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage

from gcsearch.architecture import Architecture
from gcsearch.export import write_atomically
from gcsearch.export.files import config_bytes
from gcsearch.export.finding import config_of
from gcsearch.report import curve_of, drawing_of, sketch_curves, sketch_drawing
from gcsearch.results import Finding
from gcsearch.study import SearchStudy
from gcsearch.surgery import Site

__all__ = ["Artifact", "Shelf", "artifacts_of", "backbone_artifact"]

RULE = "as its trial ended; `gcsearch export --trial {}` adds what was confirmed since"


@dataclass(frozen=True)
class Artifact:
    """A file that belongs to a trial.

    Args:
        name: Of the file, for people.
        mimetype: Of its content; the dashboard shows pictures.
        render: Returns the content.
    """

    name: str
    mimetype: str
    render: Callable[[], bytes]


class Shelf:
    """The artifacts of one study's trials, in a folder that Optuna's artifact store reads.

    The study names them, in the attributes where the dashboard looks, as trials that have ended
    take no attributes any more.

    Args:
        storage: The open database.
        study_id: Of the study.
        directory: Where the files are.
    """

    def __init__(self, storage: RDBStorage, study_id: int, directory: Path) -> None:
        self._storage, self._study_id, self._directory = storage, study_id, directory

    def put(self, trial_id: int, owner: str, artifact: Artifact, attrs: Mapping[str, Any]) -> None:
        """Add an artifact to a trial, unless it is there or somebody has deleted it.

        Args:
            trial_id: Of the trial.
            owner: What tells the trial from all others, also of other databases.
            artifact: What to add.
            attrs: The study's, to see what is there.

        Raises:
            ExportError: The place cannot be written.
        """
        artifact_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{owner}/{artifact.name}"))
        key = f"dashboard:artifacts:{trial_id}:{artifact_id}"
        known = attrs.get(key)
        if known == json.dumps(None):
            return
        path = self._directory / artifact_id
        if known is None or not path.exists():
            write_atomically(path, artifact.render())
        if known is None:
            told = {
                "artifact_id": artifact_id,
                "filename": artifact.name,
                "mimetype": artifact.mimetype,
                "encoding": None,
            }
            self._storage.set_study_system_attr(self._study_id, key, json.dumps(told))


def artifacts_of(study: SearchStudy, finding: Finding, baseline: Finding) -> list[Artifact]:
    """Return the curves and the config of a complete trial."""
    number, name = finding.number, f"trial-{finding.number}"

    def curves() -> bytes:
        compared = [finding] if finding.is_baseline else [baseline, finding]
        return sketch_curves(
            [curve_of(f, "baseline" if f.is_baseline else "front") for f in compared]
        )

    def config() -> bytes:
        return config_bytes(config_of(study, finding, rule=RULE.format(number)), f"{name}.yaml")

    return [
        Artifact(f"{name}-curves.svg", "image/svg+xml", curves),
        Artifact(f"{name}.yaml", "application/yaml", config),
    ]


def backbone_artifact(number: int, architecture: Architecture, sites: Sequence[Site]) -> Artifact:
    """Return the drawing of where the insertions of a trial sit."""
    drawing = drawing_of(architecture, sites, number=number, is_chosen=False)
    name = f"trial-{number}-backbone.svg"
    return Artifact(name, "image/svg+xml", lambda: sketch_drawing(drawing))

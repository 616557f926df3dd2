"""All that the report of a study shows, as values from its database; draws nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gcsearch.cost import Cost
from gcsearch.report.drawing import Drawing, drawing_of
from gcsearch.report.effects import Effects, RandomGain, effects_of, random_gain
from gcsearch.report.importance import Importances, importances_of
from gcsearch.report.manifest import (
    AttemptRow,
    LatencyRow,
    Manifest,
    attempt_rows,
    latency_rows,
    manifest_of,
)
from gcsearch.report.points import FrontView, Kind, front_view, subject_of
from gcsearch.report.verdict import Verdict, verdict_of
from gcsearch.report.volume import Volume, volume_over_trials
from gcsearch.results import Finding, summarise
from gcsearch.study import SearchStudy, attempts_of, sites_of

__all__ = ["Curve", "Report", "assemble", "curve_of"]


@dataclass(frozen=True)
class Curve:
    """How one trial learned.

    Args:
        number: Of the trial.
        name: Its architecture in words.
        kind: How it is marked in the plot of the front.
        top1: On the validation split, after each epoch.
        loss: The same.
    """

    number: int
    name: str
    kind: Kind
    top1: tuple[float, ...]
    loss: tuple[float, ...]


@dataclass(frozen=True)
class Report:
    """Everything that the page of a study shows, in its order.

    Args:
        study: Its name.
        backbone: Of the study.
        task: Name of the proxy task.
        objective: The cost that is minimised.
        verdict: In words.
        front: The plot of the front.
        drawing: Where the insertions sit; ``None`` while only the baseline is complete.
        curves: How each trial learned.
        volume: Hypervolume over trials.
        importances: Of the factors.
        effects: Of their levels.
        random: What the search is worth beside random architectures.
        latencies: How each trial was timed.
        manifest: What it was made with.
        attempts: Every trial.
    """

    study: str
    backbone: str
    task: str
    objective: Cost
    verdict: Verdict
    front: FrontView
    drawing: Drawing | None
    curves: tuple[Curve, ...]
    volume: Volume
    importances: Importances
    effects: Effects
    random: RandomGain
    latencies: Sequence[LatencyRow]
    manifest: Manifest
    attempts: Sequence[AttemptRow]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return asdict(self)


def assemble(study: SearchStudy) -> Report:
    """Read from the database what the report shows; nothing is trained or timed.

    Raises:
        StudyError: The baseline's own trial is not complete yet.
    """
    result, attempts, sites = summarise(study, ""), attempts_of(study), sites_of(study)
    found, record = result.findings, study.record
    view, subject = front_view(study, result, attempts), subject_of(result)
    kinds = {point.number: point.kind for point in view.points}
    drawing = None
    if subject is not None:
        drawing = drawing_of(
            subject.evaluation.architecture,
            sites,
            number=subject.number,
            is_chosen=kinds[subject.number] == "chosen",
        )
    return Report(
        study=study.name,
        backbone=str(record.config["backbone"]),
        task=str(record.task.get("name", "")),
        objective=record.objective,
        verdict=verdict_of(study, result, view),
        front=view,
        drawing=drawing,
        curves=tuple(curve_of(finding, kinds[finding.number]) for finding in found),
        volume=volume_over_trials(found, view.limit),
        importances=importances_of(found, record.objectives),
        effects=effects_of(found, [site.path for site in sites]),
        random=random_gain(found, subject, int(record.config["search"]["startup_trials"])),
        latencies=latency_rows(found),
        manifest=manifest_of(study),
        attempts=attempt_rows(attempts, record.objective),
    )


def curve_of(finding: Finding, kind: Kind) -> Curve:
    """Return how a trial learned, marked as one of its kind."""
    evaluation = finding.evaluation
    return Curve(
        number=finding.number,
        name=str(evaluation.architecture),
        kind=kind,
        top1=tuple(point["top1"] for point in evaluation.curve),
        loss=tuple(point["loss"] for point in evaluation.curve),
    )

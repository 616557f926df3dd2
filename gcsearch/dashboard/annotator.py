"""Keeping notes and artifacts of a study in step with its trials, while it runs or afterwards.

Whatever is missing is found by looking, so a stop at any moment loses nothing, and studies that
were made before there were notes get theirs. Nothing here may end a trial: what cannot be written
is told once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from gcsearch.dashboard.artifacts import Artifact, Shelf, artifacts_of, backbone_artifact
from gcsearch.dashboard.notes import NoteBook
from gcsearch.dashboard.words import study_words, trial_words
from gcsearch.errors import GcsearchError
from gcsearch.results import Confirmation, Finding, summarise
from gcsearch.study import Attempt, SearchStudy, attempts_of, sites_of

__all__ = ["Annotator"]

ENDED = ("COMPLETE", "PRUNED", "FAIL")


@dataclass(frozen=True)
class _Story:
    """A trial that has ended, with all that is known of it."""

    attempt: Attempt
    finding: Finding | None
    baseline: Finding | None
    confirmation: Confirmation | None

    @property
    def is_settled(self) -> bool:
        """Whether only a confirmation could still change it."""
        return self.finding is not None or self.attempt.row.evaluation is None


class Annotator:
    """Writes what is missing or has changed.

    Args:
        study: Annotated by the process that runs it, and by the dashboard when that starts: both
            would write the same.
        storage: URL of its database as commands should name it.
        directory: Where artifacts are kept.
        notice: Told, once, that something cannot be written.
    """

    def __init__(
        self,
        study: SearchStudy,
        storage: str,
        directory: Path,
        notice: Callable[[str], None],
    ) -> None:
        self._study, self._storage, self._notice = study, storage, notice
        self._id = study.storage.get_study_id_from_name(study.name)
        self._shelf = Shelf(study.storage, self._id, directory)
        self._settled: set[int] = set()
        self._has_failed = False

    def refresh(self) -> None:
        """Write all that is missing or has changed."""
        try:
            self._write()
        except (OSError, GcsearchError, SQLAlchemyError, StorageInternalError) as error:
            if not self._has_failed:
                self._has_failed = True
                self._notice(f"notes and artifacts for the dashboard are incomplete: {error}")

    def _write(self) -> None:
        study = self._study
        result = summarise(study, "") if study.baseline() else None
        found = {f.number: f for f in result.findings} if result else {}
        confirmed = {c.finding.number: c for c in result.confirmed} if result else {}
        baseline = result.findings[0] if result else None
        book = NoteBook(study.storage, self._id)
        for attempt in attempts_of(study):
            number = attempt.row.number
            is_old = number in self._settled and number not in confirmed
            if attempt.row.state in ENDED and not is_old:
                story = _Story(attempt, found.get(number), baseline, confirmed.get(number))
                self._annotate(story, book)
        book.write(None, study_words(study, result, self._storage))

    def _annotate(self, story: _Story, book: NoteBook) -> None:
        number = story.attempt.row.number
        trial = self._study.trials()[number]
        is_over = any(excess > 0 for excess in trial.constraints.values())
        words = trial_words(story.attempt, story.finding, story.confirmation, is_over=is_over)
        book.write(trial._trial_id, words)
        owner = f"{self._study.name}/{number}/{trial.datetime_start}"
        if number not in self._settled:
            for artifact in self._artifacts(story):
                self._shelf.put(trial._trial_id, owner, artifact, book.attrs)
        if story.is_settled:
            self._settled.add(number)

    def _artifacts(self, story: _Story) -> list[Artifact]:
        row, artifacts = story.attempt.row, list[Artifact]()
        if row.architecture is not None and row.duplicate_of is None:
            sites = sites_of(self._study)
            artifacts.append(backbone_artifact(row.number, row.architecture, sites))
        if story.finding is not None and story.baseline is not None:
            artifacts += artifacts_of(self._study, story.finding, story.baseline)
        return artifacts

"""Notes of the dashboard that are kept up to date beside what people write; knows no words.

Our part of a note ends with a line that says so and an invisible mark that holds its hash. What is
written below stays. A note without the mark, or one whose part of ours was changed by hand, is
somebody's own and left alone; one that was emptied is written anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from optuna.storages import RDBStorage
from optuna_dashboard._note import (
    SYSTEM_ATTR_MAX_LENGTH,
    get_note_from_system_attrs,
    save_note_with_version,
)

__all__ = ["NoteBook", "renewed"]

FOOT = (
    "*Kept up to date by gcsearch. Write below; what is changed above is left alone from then on.*"
)
MARK = re.compile(r"\n\[gcsearch\]: # \((?P<digest>[0-9a-f]+)\)\n?")
"""A definition of a link that nothing uses, which Markdown does not show."""
LOG = "gcsearch:note"
"""Holds a note of several attributes while it is written, so that none is left half written."""


class NoteBook:
    """The notes of one study and its trials, as they were when it was opened.

    The dashboard keeps them as attributes of the study, so that trials which have ended can still
    be written about. Its own function to save one wants a live trial, hence the one behind it.

    Args:
        storage: The open database.
        study_id: Of the study.
    """

    def __init__(self, storage: RDBStorage, study_id: int) -> None:
        self._storage, self._study_id = storage, study_id
        self._finish_the_last()
        self.attrs: dict[str, Any] = storage.get_study_system_attrs(study_id)

    def write(self, trial_id: int | None, words: str) -> None:
        """Renew our part of a note.

        Args:
            trial_id: Of the trial; ``None`` for the study's own note.
            words: What our part shall say.
        """
        if renewed(get_note_from_system_attrs(self.attrs, trial_id)["body"], words) is None:
            return
        # Somebody may have written meanwhile, in the open dashboard.
        self.attrs = self._storage.get_study_system_attrs(self._study_id)
        note = get_note_from_system_attrs(self.attrs, trial_id)
        body = renewed(note["body"], words)
        if body is None:
            return
        version = note["version"] + 1
        if max(len(body), len(note["body"])) > SYSTEM_ATTR_MAX_LENGTH:
            self._save_logged(trial_id, version, body)
        else:
            save_note_with_version(self._storage, self._study_id, trial_id, version, body)

    def _save_logged(self, trial_id: int | None, version: int, body: str) -> None:
        self._log({"trial_id": trial_id, "version": version, "body": body})
        save_note_with_version(self._storage, self._study_id, trial_id, version, body)
        self._log(None)

    def _finish_the_last(self) -> None:
        """Write again what a process that died left half written, unless people wrote since."""
        attrs = self._storage.get_study_system_attrs(self._study_id)
        left = json.loads(attrs.get(LOG, "null"))
        if left is None:
            return
        note = get_note_from_system_attrs(attrs, left["trial_id"])
        if note["version"] <= left["version"]:
            self._save_logged(**left)
        self._log(None)

    def _log(self, entry: dict[str, Any] | None) -> None:
        self._storage.set_study_system_attr(self._study_id, LOG, json.dumps(entry))


def renewed(note: str, words: str) -> str | None:
    """Return a note with our part renewed, or ``None`` if it says so already or is not ours.

    Example:
        >>> note = renewed("", "Fine.")
        >>> renewed(note, "Fine.") is None, renewed("My own.", "Fine.") is None
        (True, True)
        >>> renewed(note + "But I doubt it.", "Great.").endswith("But I doubt it.")
        True
        >>> renewed(note.replace("Fine", "Poor"), "Great.") is None
        True
    """
    mark = MARK.search(note)
    if mark is None and note.strip():
        return None
    if mark is not None and _digest(note[: mark.start()]) != mark["digest"]:
        return None
    ours, theirs = f"{words}\n\n{FOOT}\n", note[mark.end() :] if mark else "\n"
    new = f"{ours}\n[gcsearch]: # ({_digest(ours)})\n{theirs}"
    return None if new == note else new


def _digest(text: str) -> str:
    """Return a hash that does not mind what an editor does to blanks and ends of lines."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:12]

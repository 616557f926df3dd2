"""The folder a training writes: whose it is, its checkpoint, its metrics; it trains nothing.

Every file is replaced at once, so that a kill leaves the old one or the new one. Nothing is
unpickled from the checkpoint.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import yaml

from gcsearch.config import read_yaml
from gcsearch.errors import ConfigError, ExportError, TrainingError
from gcsearch.export import write_atomically

__all__ = ["Folder"]

RECORD, CHECKPOINT, METRICS = "training.yaml", "checkpoint.pt", "metrics.jsonl"
BEST, BEST_WEIGHTS = "best.yaml", "best.safetensors"
CURE = "choose another -o, or pass --force to start anew in its place"
PATIENCE_S = 12.0
OWN = (CHECKPOINT, METRICS, BEST, BEST_WEIGHTS)
HEADER = (
    "# All that decides the result of the training in this folder; the same command goes on.\n"
)


class Folder:
    """Where one training is kept; within its context no other process can claim it.

    Args:
        path: Of the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def best(self) -> Path:
        """The exported config of the best epoch."""
        return self.path / BEST

    @property
    def best_weights(self) -> Path:
        """Its weights."""
        return self.path / BEST_WEIGHTS

    def writes(self, path: Path) -> bool:
        """Whether a file is one of those that a training writes here."""
        return path.resolve() in {(self.path / name).resolve() for name in OWN}

    def claim(self, record: Mapping[str, Any], *, force: bool) -> None:
        """Make the folder this training's, or find that it is.

        Args:
            record: Plain data of all that decides the result.
            force: Whether another training in it may be deleted.

        Raises:
            ConfigError: It belongs to another training, or another process trains in it.
            ExportError: It cannot be written.
        """
        self._hold()
        is_known = (self.path / RECORD).exists()
        if is_known and not force:
            self._compare(json.loads(json.dumps(record)))
        elif not force:
            for name in OWN:
                if (self.path / name).exists():
                    raise ConfigError([f"{name} in it is not of a training; {CURE}"], self._name)
        if force:
            for name in (*OWN, RECORD):
                (self.path / name).unlink(missing_ok=True)
        if force or not is_known:
            text = yaml.safe_dump(dict(record), sort_keys=False)
            write_atomically(self.path / RECORD, (HEADER + text).encode())
        for draft in self.path.glob(".*-*"):  # what a killed process was writing
            if draft.name[1:].rpartition("-")[0] in OWN:
                draft.unlink(missing_ok=True)

    def _hold(self) -> None:
        """Lock the folder itself, where its file system can.

        The kernel frees a dead process's lock once its children are gone too; those that load
        pictures notice within seconds that they are alone, hence the patience.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise ExportError(f"{self.path} cannot be written: {error.strerror}") from error
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    fault = "another process trains in it; wait for it, or choose another -o"
                    raise ConfigError([fault], self._name) from None
                time.sleep(0.2)
            except OSError:
                return  # some network file systems lock no folders

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Keep what the training goes on from, instead of what was kept before."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_atomically(self.path / CHECKPOINT, buffer.getvalue())

    def read_checkpoint(self) -> dict[str, Any] | None:
        """Return what was kept last, if anything was.

        Raises:
            TrainingError: It is broken.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds on broken files
            reason = " ".join(str(error).split())
            raise TrainingError(f"{path} cannot be read ({reason:.150}); {CURE}") from error
        return state

    def write_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write one line of JSON for each epoch, and one for the test split."""
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        write_atomically(self.path / METRICS, text.encode())

    @property
    def _name(self) -> str:
        return f"folder {str(self.path)!r}"

    def _compare(self, wanted: Any) -> None:
        try:
            had = read_yaml((self.path / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError([f"{RECORD} in it cannot be read: {error}"], self._name) from error
        old, new = _flat(had), _flat(wanted)
        faults = [
            f"{key} is {old.get(key)!r:.80} in its training, not {new.get(key)!r:.80}; {CURE}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        if faults:
            raise ConfigError(faults, self._name)


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, Mapping):
        return {prefix: data}
    return {
        key: value
        for name, inner in data.items()
        for key, value in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }

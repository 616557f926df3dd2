"""What runs whole searches and hears what they tell; it tests nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from gcsearch.config import SearchConfig, load_config
from gcsearch.errors import GcsearchError
from gcsearch.evaluation import Evaluation
from gcsearch.study import SearchStudy, TrialRow, open_storage
from gcsearch.tuning import Listener


class Heard(Listener):
    """Remembers the events by name."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.notices: list[str] = []

    def notice(self, text):
        self.notices.append(text)

    def baseline_epoch(self, number, of, top1):
        self.events.append("baseline")

    def table_measured(self, done, of):
        self.events.append(f"table {done}/{of}")

    def trial_started(self, number, architecture):
        self.events.append("trial")

    def trial_epoch(self, number, epoch, top1):
        self.events.append("epoch")

    def check_finished(self, evaluation):
        self.events.append("check")


def planned(config: SearchConfig, **plan: int) -> SearchConfig:
    """Return a configuration with some of its plan changed."""
    data = config.to_dict()
    return load_config(data | {"plan": data["plan"] | plan})


class Session:
    """A configuration in a folder of its own, for runs of the command line.

    Args:
        folder: Where everything goes.
        data: The configuration.
    """

    def __init__(self, folder: Path, data: dict) -> None:
        self.folder, self.storage = folder, f"sqlite:///{folder}/studies.db"
        (folder / "search.yaml").write_text(yaml.safe_dump(data))

    def start(self, *options: str, command: str = "run") -> subprocess.Popen:
        """Start a command in a group of processes of its own, as a shell does."""
        arguments = [command, "--study", "s", "--storage", self.storage]
        arguments += ["--config", "search.yaml"] if command == "run" else []
        return subprocess.Popen(
            [Path(sys.executable).with_name("gcsearch"), *arguments, *options],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def rows(self) -> list[TrialRow]:
        """Return the trials so far."""
        try:
            return SearchStudy(open_storage(self.storage, create=False), "s").rows()
        except GcsearchError:
            return []

    def is_in_trial(self, done: int) -> bool:
        """Return whether so many trials are done, and another is under way."""
        rows = self.rows()
        return sum(row.counts for row in rows) >= done and "RUNNING" in [r.state for r in rows]

    def study(self) -> SearchStudy:
        """Open the study."""
        return SearchStudy(open_storage(self.storage, create=False), "s")

    def checks(self) -> list[Evaluation]:
        """Return the evaluations that confirm so far."""
        return self.study().checks()

    def wait_for(self, process: subprocess.Popen, done: Callable[[], bool]) -> None:
        """Wait until the database holds what is wanted."""
        while process.poll() is None:
            if done():
                return
            time.sleep(0.05)
        raise AssertionError(f"ended before that: {process.communicate()}")

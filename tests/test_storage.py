"""Databases: what opens, what is refused in one line, and what is waited for."""

from __future__ import annotations

import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from studies import BASELINE, large_space, make_study, measured

from gcsearch.errors import StudyError
from gcsearch.study import open_storage
from gcsearch.study.storage import run_directory


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("storage.db", "is not a database URL"),
        ("oracel://host/x", "names an unknown database"),
        ("sqlite://", "would be gone with the process"),
        ("sqlite:///:memory:", "would be gone with the process"),
        ("postgresql://nobody@127.0.0.1:1/none", "postgresql"),
        ("mysql+nodriver://host/x", "names an unknown database"),
        ("postgresql://host:port/x", "is not a database URL"),
    ],
)
def test_bad_url_is_one_line(url, says):
    with pytest.raises(StudyError, match=says) as error:
        open_storage(url)
    assert "\n" not in str(error.value)


def test_missing_driver_is_named_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StudyError, match=r"psycopg.*pip install 'gcsearch\[postgresql\]'"):
        open_storage("postgresql://user@host/studies")


def test_password_is_not_shown(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StudyError) as error:
        open_storage("postgresql://user:secret@host/studies")
    assert "secret" not in str(error.value)


def test_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StudyError, match="cannot be written") as error:
        open_storage(f"sqlite:///{tmp_path}/file/studies.db")
    assert "\n" not in str(error.value)


def test_file_that_is_no_database_is_one_line(tmp_path):
    (tmp_path / "notes.db").write_text("not a database, but long enough to be looked at " * 50)
    with pytest.raises(StudyError, match="file is not a database") as error:
        open_storage(f"sqlite:///{tmp_path}/notes.db")
    assert "\n" not in str(error.value)


def test_folder_in_place_of_a_database_is_one_line(tmp_path):
    with pytest.raises(StudyError, match="unable to open") as error:
        open_storage(f"sqlite:///{tmp_path}")
    assert "\n" not in str(error.value)


def test_missing_database_is_not_made_for_reading(tmp_path):
    with pytest.raises(StudyError, match="there is no database at"):
        open_storage(f"sqlite:///{tmp_path}/none.db", create=False)
    assert not list(tmp_path.iterdir())


def test_sqlite_is_in_wal_mode(sqlite_url, tmp_path):
    open_storage(sqlite_url)
    with closing(sqlite3.connect(tmp_path / "studies.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_opening_leaves_nothing_behind_and_stumbles_over_nothing(sqlite_url, tmp_path):
    open_storage(sqlite_url)
    with closing(sqlite3.connect(tmp_path / "studies.db")) as connection:
        before = connection.execute("SELECT name FROM sqlite_master").fetchall()
        connection.execute("CREATE TABLE gcsearch_write_test (n INTEGER)")
    open_storage(sqlite_url)  # what a killed process of an older version may have left
    assert not any("write_test" in name for (name,) in before)


def test_read_only_database_is_found_at_once(sqlite_url, tmp_path):
    open_storage(sqlite_url).engine.dispose()
    uri = f"sqlite:///file:{tmp_path}/studies.db?mode=ro&uri=true"
    with pytest.raises(StudyError, match="readonly"):
        open_storage(uri)
    assert not Path("file:").exists()  # what a path taken for a plain one would leave behind


def test_locked_database_is_waited_for_and_nothing_is_lost(sqlite_url, tmp_path):
    study = make_study(open_storage(sqlite_url))
    proposal = study.ask(large_space())
    locker = sqlite3.connect(tmp_path / "studies.db", check_same_thread=False)
    locker.isolation_level = None
    locker.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(1.0, lambda: (locker.execute("COMMIT"), locker.close()))
    timer.start()
    study.complete(proposal.number, measured(BASELINE))
    timer.join()
    assert study.baseline().evaluation == measured(BASELINE)


def test_files_of_a_study_lie_beside_its_database():
    assert run_directory("sqlite:///runs/a.db").as_posix() == "runs"
    assert run_directory("postgresql://host/studies").as_posix() == "storage"

"""Our tables beside Optuna's: made, upgraded with all rows kept, refused when newer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, insert, inspect, make_url, select, text
from sqlalchemy.engine import Engine
from studies import POSTGRES, ask_all, large_space, make_study, measured

from gcsearch.architecture import Architecture, Insertion
from gcsearch.cost.table import Entry, Part, Prediction
from gcsearch.errors import StudyError
from gcsearch.study import LatencyStore, SearchStudy, measurements_of, open_storage, schema
from gcsearch.study.latency_store import Measurement
from gcsearch.study.tables import ContextRow, LatencyRow, Tables
from gcsearch.surgery import Site

OURS = ["gcsearch_contexts", "gcsearch_latencies", "gcsearch_measurements", "gcsearch_version"]
CONTEXT = {"backbone": "tiny", "device": "cpu"}
SITE = Site("layer1.0", "after-add", 1, 64, (64, 8, 8))
PART = Part.of(Insertion("layer1.0"), SITE)
ENTRY = Entry(1.2, 1.18, 1.22, 2)
ALTERED = Architecture("tiny", (Insertion("layer1.0"),))
OPEN_TOGETHER = """
import sys, time
from gcsearch.study import list_studies, open_storage
print("ready", flush=True)
for line in sys.stdin:
    when, url = line.split()
    time.sleep(max(0, float(when) - time.time()))
    print(list_studies(open_storage(url)), flush=True)
"""


@pytest.fixture(params=["sqlite", "postgresql"] if POSTGRES else ["sqlite"])
def url(request, tmp_path):
    """A database that holds nothing yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/studies.db"
        return
    shared = make_url(POSTGRES).set(drivername="postgresql+psycopg")
    name = f"gcsearch_{os.getpid()}_{time.monotonic_ns()}"
    server = create_engine(shared, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        yield shared.set(database=name).render_as_string(hide_password=False)
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture
def engine(url):
    engine = create_engine(url)
    yield engine
    engine.dispose()


@contextmanager
def opened(url: str) -> Iterator[RDBStorage]:
    storage = open_storage(url)
    yield storage
    storage.remove_session()
    storage.engine.dispose()


def revision_of(engine: Engine) -> str | None:
    with engine.connect() as connection:
        options = {"version_table": schema.VERSION_TABLE}
        return MigrationContext.configure(connection, opts=options).get_current_revision()


def ours(engine: Engine) -> list[str]:
    return sorted(n for n in inspect(engine).get_table_names() if n.startswith("gcsearch_"))


def test_new_database_has_the_newest_tables_beside_optunas(url, engine):
    with opened(url):
        pass
    assert ours(engine) == OURS and revision_of(engine) == "0002"
    assert {"studies", "alembic_version"} <= set(inspect(engine).get_table_names())


def test_steps_make_what_the_classes_say(engine):
    schema.upgrade(engine)
    with engine.connect() as connection:
        options = {"version_table": schema.VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Tables.metadata) == []


def test_upgrade_keeps_all_rows(url, engine):
    schema.upgrade(engine, "0001")
    assert ours(engine) == [name for name in OURS if "measurements" not in name]
    entry = {"context_id": 7, "part": PART.to_dict(), "n_sites": 2}
    entry |= {"ratio": 1.2, "low": 1.18, "high": 1.22}
    with engine.begin() as connection:
        connection.execute(insert(ContextRow).values(id=7, hash="a", content=CONTEXT))
        for n in range(3):
            connection.execute(insert(LatencyRow).values(part_hash=f"p{n}", **entry))
        before = connection.execute(select(LatencyRow.__table__)).all()
    with opened(url), engine.connect() as connection:
        assert connection.execute(select(LatencyRow.__table__)).all() == before
        assert connection.execute(select(ContextRow.id, ContextRow.content)).all() == [
            (7, CONTEXT)
        ]
    assert len(before) == 3 and ours(engine) == OURS and revision_of(engine) == "0002"


def test_database_of_a_gcsearch_without_tables_goes_on(url, engine):
    old = RDBStorage(url)
    done = ask_all(make_study(old, "old"), large_space(), 3)
    old.remove_session()
    old.engine.dispose()
    assert ours(engine) == []
    with opened(url) as storage:
        study = SearchStudy(storage, "old")
        done += ask_all(study, large_space(), 2)
        assert [row.architecture for row in study.rows()] == done and len(set(done)) == 5
    assert ours(engine) == OURS


def test_newer_database_is_refused_and_left_as_it_is(url, engine):
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '0099'"))
    with pytest.raises(StudyError, match=r"revision '0099', made by a newer gcsearch") as error:
        open_storage(url)
    assert "up to '0002': upgrade gcsearch" in str(error.value) and "\n" not in str(error.value)
    assert revision_of(engine) == "0099"


def test_step_that_breaks_off_leaves_nothing_behind(engine, monkeypatch):
    schema.upgrade(engine, "0001")
    monkeypatch.setattr("alembic.op.create_index", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        schema.upgrade(engine)
    assert "gcsearch_measurements" not in ours(engine) and revision_of(engine) == "0001"


def test_newest_database_is_not_locked_to_be_upgraded(engine, monkeypatch):
    schema.upgrade(engine)
    monkeypatch.setattr(schema, "_alone", None)
    schema.upgrade(engine)
    assert revision_of(engine) == "0002"


def test_password_of_a_newer_database_is_not_shown(engine, monkeypatch):
    schema.upgrade(engine)
    monkeypatch.setattr(engine, "url", make_url("postgresql://user:secret@host/studies"))
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '0099'"))
    with pytest.raises(StudyError) as error:
        schema.upgrade(engine)
    assert "secret" not in str(error.value)


@pytest.mark.slow
def test_processes_that_make_a_database_at_the_same_moment_all_succeed(tmp_path):
    command = [sys.executable, "-c", OPEN_TOGETHER]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    urls = [f"sqlite:///{tmp_path}/{n}.db" for n in range(8)]
    began = time.time() + 0.2
    for process in processes:
        process.stdin.writelines(f"{began + 0.5 * n} {url}\n" for n, url in enumerate(urls))
        process.stdin.flush()
    results = [process.communicate(timeout=120) for process in processes]
    assert [out for out, _ in results] == ["[]\n" * 8] * 2, results
    for url in urls:
        with opened(url) as storage:
            assert ours(storage.engine) == OURS


@pytest.mark.parametrize("is_first", [True, False])
def test_entry_reads_back_and_the_narrower_one_stays(storage, is_first):
    store, wider = LatencyStore(storage, CONTEXT), Entry(2.0, 1.9, 2.1, 2)
    for entry in (ENTRY, wider) if is_first else (wider, ENTRY):
        store.add_entry(PART, entry)
    assert LatencyStore(storage, CONTEXT).entries() == {PART.id: ENTRY}


def test_contexts_do_not_mix(storage):
    LatencyStore(storage, CONTEXT).add_entry(PART, ENTRY)
    other = LatencyStore(storage, CONTEXT | {"device": "cuda"})
    assert other.entries() == {} and other.measurements() == []


def test_order_of_keys_makes_no_other_context(storage):
    LatencyStore(storage, CONTEXT).add_entry(PART, ENTRY)
    assert LatencyStore(storage, dict(reversed(CONTEXT.items()))).entries()


def test_measurements_are_kept_with_their_study(storage):
    store, latency = LatencyStore(storage, CONTEXT), measured(ALTERED, ratio=1.25).latency
    store.add_measurement("one", 1, ALTERED, latency, Prediction(1.5, 1.4, 1.6))
    store.add_measurement("two", 1, ALTERED, latency, Prediction(1.0, 0.9, 1.1))
    assert [m.residual for m in store.measurements()] == [-0.25, 0.25]
    assert measurements_of(storage, "two") == store.measurements()[1:]
    assert store.measurements()[1] == Measurement(ALTERED, 1.25, Prediction(1.0, 0.9, 1.1))
    assert measurements_of(storage, "none") == []

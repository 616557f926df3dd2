"""Notes and artifacts of the dashboard: what they say, and that they are in nobody's way."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server
from xml.dom import minidom

import optuna_dashboard
import pytest
from made_up import SITES, add_checks, evaluation_of, fill, new_study, refuse_and_fail
from optuna.artifacts import FileSystemArtifactStore
from optuna_dashboard._note import get_note_from_system_attrs, save_note_with_version

from gcsearch.config import load_config
from gcsearch.dashboard import Annotator, artifacts, notes
from gcsearch.dashboard.server import _Server
from gcsearch.errors import ExportError
from gcsearch.export import read_config
from gcsearch.space import SearchSpace
from gcsearch.study import SearchStudy, open_storage
from gcsearch.tuning import Listener, listen_together

PARTS = {"backbone.svg", "curves.svg", "yaml"}


@pytest.fixture(scope="module")
def config(tiny_config):
    overrides = ["latency.limit=1.3", "limits.macs=1.05", "space.max_insertions=2"]
    return load_config(tiny_config.to_dict(), overrides)


def annotator_of(study: SearchStudy, folder: Path, notice=pytest.fail) -> Annotator:
    return Annotator(study, "sqlite:///my.db", folder / "artifacts", notice)


def note_of(study: SearchStudy, number: int | None = None) -> str:
    trial_id = None if number is None else study.trials()[number]._trial_id
    return get_note_from_system_attrs(attrs_of(study), trial_id)["body"]


def attrs_of(study: SearchStudy) -> dict:
    return study.storage.get_study_system_attrs(1)


def write_note(study: SearchStudy, text: str, number: int | None = None) -> None:
    trial_id = None if number is None else study.trials()[number]._trial_id
    version = get_note_from_system_attrs(attrs_of(study), trial_id)["version"]
    save_note_with_version(study.storage, 1, trial_id, version + 1, text)


def artifacts_by_trial(study: SearchStudy) -> dict[int, set[str]]:
    number_of = {trial._trial_id: trial.number for trial in study.trials()}
    told: dict[int, set[str]] = {}
    for key, value in attrs_of(study).items():
        if key.startswith("dashboard:artifacts:") and value != "null":
            number = number_of[int(key.split(":")[2])]
            name = json.loads(value)["filename"].removeprefix(f"trial-{number}")
            told.setdefault(number, set()).add(name.lstrip("-."))
    return told


@pytest.fixture
def study(tmp_path, config) -> SearchStudy:
    made = new_study(f"sqlite:///{tmp_path}/s.db", config)
    fill(made, config, 2)
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory, config) -> tuple[SearchStudy, Path]:
    """A study with everything: a confirmed trial, refused ones, a failed one, a running one."""
    folder = tmp_path_factory.mktemp("whole")
    study = new_study(f"sqlite:///{folder}/s.db", config)
    fill(study, config, 8)
    refuse_and_fail(study, config)
    best = max((r.evaluation for r in study.rows() if r.evaluation), key=lambda e: e.top1)
    add_checks(study, best.architecture, 0.58)
    annotator_of(study, folder).refresh()
    return study, folder


def best_number(study: SearchStudy) -> int:
    return max((r.evaluation.top1, r.number) for r in study.rows() if r.evaluation)[1]


def in_state(study: SearchStudy, state: str) -> list[int]:
    return [r.number for r in study.rows() if r.state == state and r.duplicate_of is None]


def test_note_of_the_study_tells_verdict_front_and_what_to_do_next(whole):
    note = note_of(whole[0])
    assert note.startswith("**+8.0 points") and "on fresh seeds and test pictures" in note
    assert "| baseline | 0 | 0.500 |" in note and "**chosen:** layer" in note
    assert "`gcsearch run --study made-up --storage sqlite:///my.db`" in note
    assert "-o report.html`" in note


def test_notes_of_trials_tell_what_became_of_them(whole):
    study = whole[0]
    assert note_of(study, 0).startswith("**The unaltered backbone**")
    best = note_of(study, best_number(study))
    assert "points \\[" in best.splitlines()[0] and "of the backbone's latency" in best
    assert "**Confirmed:** +8.0 points" in best and "global context: ratio 1/" in best
    by_latency, by_macs = (note_of(study, number) for number in in_state(study, "PRUNED"))
    assert "**Refused:**" in by_latency and "over latency.limit 1.3" in by_latency
    assert "| macs | 1.10000 |" in by_macs
    assert "**Failed:** training loss became nan." in note_of(study, in_state(study, "FAIL")[0])
    assert note_of(study, in_state(study, "RUNNING")[0]) == ""


def test_artifacts_of_a_trial_are_its_curves_its_backbone_and_its_config(whole):
    study, folder = whole
    told = artifacts_by_trial(study)
    assert all(told[number] == PARTS for number in in_state(study, "COMPLETE"))
    assert all(told[number] == {"backbone.svg"} for number in in_state(study, "PRUNED"))
    files = list((folder / "artifacts").iterdir())
    assert len(files) == sum(map(len, told.values()))
    texts = [path.read_text() for path in files]
    for picture in [text for text in texts if text.startswith("<svg")]:
        assert minidom.parseString(picture).documentElement.getAttribute("width")


def test_config_among_the_artifacts_can_be_built(whole, tmp_path):
    study, folder = whole
    row = study.rows()[best_number(study)]
    texts = [path.read_text() for path in (folder / "artifacts").iterdir()]
    path = tmp_path / "a.yaml"
    path.write_text(next(text for text in texts if f"trial: {row.number}\n" in text))
    assert read_config(path).architecture == row.architecture


def test_nothing_is_written_twice(whole):
    study, folder = whole
    before, files = attrs_of(study), sorted((folder / "artifacts").iterdir())
    times = [path.stat().st_mtime_ns for path in files]
    annotator_of(study, folder).refresh()
    assert attrs_of(study) == before
    assert [p.stat().st_mtime_ns for p in sorted((folder / "artifacts").iterdir())] == times


def test_lost_artifacts_come_back_and_deleted_ones_stay_away(study, tmp_path):
    annotator_of(study, tmp_path).refresh()
    names = {path.name for path in (tmp_path / "artifacts").iterdir()}
    for path in (tmp_path / "artifacts").iterdir():
        path.unlink()
    key = next(k for k in attrs_of(study) if k.startswith("dashboard:artifacts:"))
    study.storage.set_study_system_attr(1, key, json.dumps(None))
    annotator_of(study, tmp_path).refresh()
    kept = {path.name for path in (tmp_path / "artifacts").iterdir()}
    assert kept == names - {key.rpartition(":")[2]} and len(kept) == 8


def test_notes_keep_up_with_a_confirmation(study, tmp_path):
    annotator = annotator_of(study, tmp_path)
    annotator.refresh()
    number = best_number(study)
    assert "Not confirmed on fresh seeds" in note_of(study, number)
    add_checks(study, study.rows()[number].architecture, 0.8)
    annotator.refresh()
    assert "**Confirmed:**" in note_of(study, number)


@pytest.mark.parametrize("number", [None, 1])
def test_what_people_write_below_stays(study, tmp_path, config, number):
    annotator_of(study, tmp_path).refresh()
    write_note(study, note_of(study, number) + "\nMine.", number)
    add_checks(study, study.rows()[1].architecture, 0.8)
    annotator_of(study, tmp_path).refresh()
    note = note_of(study, number)
    assert note.endswith("\nMine.") and "fresh seed(s)" in note


@pytest.mark.parametrize("number", [None, 1])
@pytest.mark.parametrize("change", [lambda n: "Mine.", lambda n: n.replace("points", "dots")])
def test_note_that_people_changed_is_left_alone(study, tmp_path, number, change):
    annotator_of(study, tmp_path).refresh()
    mine = change(note_of(study, number))
    write_note(study, mine, number)
    add_checks(study, study.rows()[1].architecture, 0.8)
    annotator_of(study, tmp_path).refresh()
    assert note_of(study, number) == mine


def test_note_that_was_emptied_is_written_anew(study, tmp_path):
    annotator_of(study, tmp_path).refresh()
    before = note_of(study)
    write_note(study, "")
    annotator_of(study, tmp_path).refresh()
    assert note_of(study) == before


def test_what_people_write_while_notes_are_renewed_stays(study, tmp_path):
    annotator_of(study, tmp_path).refresh()
    book = notes.NoteBook(study.storage, study._study._study_id)
    write_note(study, note_of(study) + "\nMine.")
    book.write(None, "Other words.")
    assert note_of(study).startswith("Other words.") and note_of(study).endswith("\nMine.")


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


def test_note_cut_short_by_a_kill_is_finished(whole, tmp_path, config, monkeypatch):
    study = new_study(f"sqlite:///{tmp_path}/s.db", config)
    fill(study, config, 8)
    save = notes.save_note_with_version

    def save_half(storage, study_id, trial_id, version, body):
        save(storage, study_id, trial_id, version, body[: len(body) // 2])
        if trial_id is None:
            raise Killed

    monkeypatch.setattr(notes, "SYSTEM_ATTR_MAX_LENGTH", 600)
    annotator_of(study, tmp_path).refresh()
    whole_note = note_of(study)
    write_note(study, "")
    monkeypatch.setattr(notes, "save_note_with_version", save_half)
    with pytest.raises(Killed):
        annotator_of(study, tmp_path).refresh()
    assert note_of(study) != whole_note
    monkeypatch.setattr(notes, "save_note_with_version", save)
    annotator_of(study, tmp_path).refresh()
    assert note_of(study) == whole_note


def test_full_disk_is_told_once_and_ends_nothing(study, tmp_path, config, monkeypatch):
    def refuse(path, content):
        raise ExportError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(artifacts, "write_atomically", refuse)
    told: list[str] = []
    annotator = annotator_of(study, tmp_path, told.append)
    annotator.refresh()
    annotator.refresh()
    assert len(told) == 1 and "No space left on device" in told[0]
    monkeypatch.undo()
    annotator.refresh()
    assert artifacts_by_trial(study)[1] == PARTS


def test_study_without_a_complete_baseline_has_a_note(tmp_path, config):
    study = new_study(f"sqlite:///{tmp_path}/s.db", config)
    annotator_of(study, tmp_path).refresh()
    assert note_of(study).startswith("**The baseline's own trial is not complete yet.**")


def test_names_stay_text_in_notes(tmp_path, config):
    name = "![x](http://a.b) `c` <script>"
    study = new_study(f"sqlite:///{tmp_path}/s.db", config, name=name)
    fill(study, config, 0)
    study.fail(ask_next(study, config), "[click](http://a.b) ![y](http://a.b)")
    annotator_of(study, tmp_path).refresh()
    assert "\\[click\\](http://a.b) \\!\\[y\\]" in note_of(study, 1)
    assert "`` gcsearch run --study" in note_of(study)


def ask_next(study: SearchStudy, config) -> int:
    return study.ask(SearchSpace("resnet18", SITES, config.space)).number


def test_every_listener_hears_everything():
    heard: list[tuple[str, str]] = []

    def ear(name: str) -> Listener:
        class Ear(Listener):
            def notice(self, text):
                heard.append((name, text))

            def trial_refused(self, number, reason):
                heard.append((name, reason))

        return Ear()

    both = listen_together(ear("a"), ear("b"))
    both.notice("x")
    both.trial_refused(1, reason="y")
    both.trial_epoch(1, 1, 0.5)
    assert heard == [("a", "x"), ("b", "x"), ("a", "y"), ("b", "y")]


def test_duplicate_of_an_infeasible_trial_is_infeasible(study, config):
    numbers = {r.number: r.duplicate_of for r in study.rows() if r.duplicate_of is not None}
    while not numbers:
        fill(study, config, 1)
        numbers = {r.number: r.duplicate_of for r in study.rows() if r.duplicate_of is not None}
    trials = study.trials()
    for number, twin in numbers.items():
        assert trials[number].constraints == trials[twin].constraints != {}


def test_trial_that_comes_late_keeps_its_constraints(study, config):
    number = ask_next(study, config)
    study.requeue(number, "taken for dead")
    architecture = study.rows()[number].architecture
    study.complete(number, evaluation_of(architecture, 0.5, 1.4))
    late = study.trials()[-1]
    assert late.state.name == "COMPLETE" and max(late.constraints.values()) > 0


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(url: str, folder: Path) -> Iterator[str]:
    """Serve the dashboard as `gcsearch dashboard` does, from a thread; give its address."""
    store = FileSystemArtifactStore(folder / "artifacts")
    app = optuna_dashboard.wsgi(open_storage(url, create=False), artifact_store=store)
    with make_server("127.0.0.1", 0, app, _Server, Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def fetch(address: str) -> dict:
    with urllib.request.urlopen(address, timeout=30) as response:
        return json.loads(response.read())


def test_dashboard_has_names_notes_artifacts_and_constraints(whole):
    study, folder = whole
    with served(f"sqlite:///{folder}/s.db", folder) as address:
        told = fetch(f"{address}/api/studies/1")
    trials = {trial["number"]: trial for trial in told["trials"]}
    assert (
        told["objective_names"] == ["top1", "latency_ratio"] and "points" in told["note"]["body"]
    )
    refused, complete = in_state(study, "PRUNED")[0], in_state(study, "COMPLETE")[1]
    assert max(trials[refused]["constraints"]) > 0 >= max(trials[complete]["constraints"])
    assert len(trials[complete]["artifacts"]) == 3 and trials[complete]["note"]["body"]


def test_search_goes_on_while_the_dashboard_is_polled(tmp_path, config):
    url = f"sqlite:///{tmp_path}/s.db"
    study = new_study(url, config)
    answers: Counter[int] = Counter()
    over = threading.Event()

    def poll(address: str) -> None:
        while not over.is_set():
            answers[len(fetch(f"{address}/api/studies/1?after=0")["trials"])] += 1

    annotator = annotator_of(study, tmp_path)
    with served(url, tmp_path) as address:
        thread = threading.Thread(target=poll, args=(address,))
        thread.start()
        for _ in range(4):
            fill(study, config, 3)
            annotator.refresh()
        over.set()
        thread.join()
    assert answers.total() >= 3 and len(in_state(study, "COMPLETE")) >= 12
    assert note_of(study) and artifacts_by_trial(study)[1] == PARTS

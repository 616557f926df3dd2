"""Whole searches on Ray: one ends well, one is killed and goes on, one meets broken networks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
import yaml
from optuna.trial import TrialState

import gcsearch
from gcsearch.config import SearchConfig, load_config
from gcsearch.cost import LatencyRatio, Prediction
from gcsearch.cost.table import Entry, plan_groups
from gcsearch.errors import ConfigError, GcsearchError, StudyError
from gcsearch.evaluation import Evaluation, Evaluator
from gcsearch.export import read_config
from gcsearch.export.finding import export_finding
from gcsearch.results import SearchResult, candidate_of
from gcsearch.resume import default_study_name, evaluator_of, stored_config
from gcsearch.run import search
from gcsearch.study import LatencyStore, SearchStudy, TrialRow, measurements_of, open_storage
from gcsearch.tuning import Listener

BREAKING = '''
from torch import nn

from gcsearch.surgery import BLOCK_NAME


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        return x + self.norm(self.conv(x)).relu()


class Breaking(nn.Module):
    """Trains with a block at ``sound``, and with one at no other place."""

    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 4, 1)
        self.diverging, self.sound, self.raising = Residual(), Residual(), Residual()
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        x = self.raising(self.sound(self.diverging(self.stem(x))))
        if self.training and hasattr(self.diverging, BLOCK_NAME):
            x = x * float("nan")
        if self.training and hasattr(self.raising, BLOCK_NAME):
            raise ArithmeticError("this network cannot be trained")
        return self.head(x.mean((2, 3)))


def build(num_classes):
    return Breaking(num_classes)
'''


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


def patient(config: SearchConfig, **plan: int) -> SearchConfig:
    """Return a configuration whose timing is conclusive even while the machine is busy."""
    data = config.to_dict()
    return load_config(
        data
        | {"latency": data["latency"] | {"time_limit_s": 60.0}}
        | {"plan": data["plan"] | plan}
    )


@dataclass(frozen=True)
class Finished:
    result: SearchResult
    storage: str
    config: SearchConfig
    heard: Heard

    @property
    def study(self) -> SearchStudy:
        return SearchStudy(open_storage(self.storage), self.result.study)


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory) -> Finished:
    config = patient(tiny_config, trials=3, check_seeds=1, trial_epochs=2)
    storage, heard = f"sqlite:///{tmp_path_factory.mktemp('finished')}/studies.db", Heard()
    result = search(config, study="tiny", storage=storage, listener=heard)
    return Finished(result, storage, config, heard)


@pytest.mark.slow
def test_search_ends_with_as_many_trials_as_planned(finished):
    rows = finished.study.rows()
    assert finished.result.is_complete and finished.study.n_done() == 3
    assert {row.state for row in rows} == {"COMPLETE"}
    assert rows[0].architecture.is_baseline
    assert len({row.architecture.id for row in rows if row.duplicate_of is None}) == 4


@pytest.mark.slow
def test_search_leaves_notes_and_artifacts_for_the_dashboard(finished):
    study = finished.study
    attrs = study.storage.get_study_system_attrs(1)
    ended = [row for row in study.rows() if row.duplicate_of is None]
    assert sum(key.startswith("dashboard:artifacts:") for key in attrs) == 3 * len(ended)
    assert all(f"dashboard:{row.number + 1}:note_ver" in attrs for row in study.rows())
    assert "1 fresh seed(s)" in attrs["dashboard:note_str:0"]
    folder = Path(finished.storage.removeprefix("sqlite:///")).parent / "artifacts"
    assert len(list(folder.iterdir())) == 3 * len(ended)
    assert not any("incomplete" in notice for notice in finished.heard.notices)


@pytest.mark.slow
def test_search_tells_its_listener(finished):
    trials = ["trial", "epoch"] * 4  # the last epoch comes with the evaluation
    assert finished.heard.events == ["baseline"] * 4 + trials + ["check"] * 2


@pytest.mark.slow
def test_every_finding_is_measured(finished):
    for finding in finished.result.findings:
        evaluation = finding.evaluation
        assert 0 <= evaluation.top1 <= 1 and evaluation.latency.conclusive
        assert len(evaluation.curve) == 2 and evaluation.macs > 0
        assert evaluation.curve[-1]["top1"] == evaluation.top1
    assert {f.number for f in finished.result.front} <= {0, 1, 2, 3}


@pytest.mark.slow
def test_candidate_and_baseline_are_checked_on_a_fresh_seed(finished):
    checks = finished.study.checks()
    candidate = candidate_of(finished.result.findings).evaluation.architecture
    assert {e.architecture for e in checks} == {candidate, candidate.baseline()}
    assert {e.seed for e in checks} == {10_000}
    assert finished.result.checked.seeds == 1


@pytest.mark.slow
def test_choice_is_exported_with_its_weights(finished):
    path = finished.result.config_path
    model = gcsearch.build(path)
    assert path.with_suffix(".safetensors").exists()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    best = finished.result.best.evaluation.architecture
    assert read_config(path).architecture == best


@pytest.mark.slow
def test_choice_follows_the_check(finished):
    is_sure = finished.result.checked.is_sure
    assert finished.result.best.is_baseline is not is_sure


@pytest.mark.slow
def test_finished_search_has_nothing_left_to_do(finished):
    heard = Heard()
    again = search(None, study="tiny", storage=finished.storage, listener=heard)
    assert heard.events == [] and again.is_complete
    assert again.config_path == finished.result.config_path
    assert any("weights are taken from" in notice for notice in heard.notices)


@pytest.mark.slow
def test_trial_can_be_repeated_from_the_database_alone(finished):
    study = finished.study
    evaluator = evaluator_of(study, finished.storage)
    wanted = study.rows()[1].evaluation
    again, _ = evaluator.evaluate(
        wanted.architecture, study.plan.trial, wanted.seed, with_latency=False
    )
    assert (again.correct, again.top1) == (wanted.correct, wanted.top1)


@pytest.mark.slow
def test_baseline_of_a_trial_is_what_all_inherit(finished):
    study = finished.study
    evaluator = evaluator_of(study, finished.storage)
    inherited = evaluator.build(study.rows()[1].architecture, seed=0).eval()
    plain = evaluator.build(study.rows()[0].architecture, seed=0).eval()
    pictures = torch.rand(2, 3, 32, 32)
    assert torch.equal(inherited(pictures), plain(pictures))


@pytest.mark.slow
def test_any_finding_can_be_exported_with_trained_weights(finished, tmp_path):
    study = finished.study
    finding = finished.result.findings[1]
    evaluator = evaluator_of(study, finished.storage)
    _, model = evaluator.evaluate(
        finding.evaluation.architecture, study.plan.trial, 0, with_latency=False
    )
    export_finding(study, finding, tmp_path / "a.yaml", rule="by hand", model=model)
    pictures = torch.rand(2, 3, 32, 32)
    built = gcsearch.build(tmp_path / "a.yaml")
    assert torch.allclose(built(pictures), model.eval()(pictures), atol=1e-5)


@pytest.mark.slow
def test_what_is_fixed_for_a_study_cannot_be_changed(finished):
    other = finished.config.model_copy(update={"backbone": "resnet34"})
    with pytest.raises(ConfigError, match="backbone is 'resnet18' in study 'tiny'"):
        search(other, study="tiny", storage=finished.storage)
    with pytest.raises(ConfigError, match=r"plan\.trial_images is 64 in study"):
        search(patient(finished.config, trial_images=999), study="tiny", storage=finished.storage)


@pytest.mark.slow
def test_study_is_gone_on_with_as_it_was_made(finished):
    config = stored_config("tiny", finished.storage)
    assert (config.plan.trials, config.plan.trial_images) == (None, 64)
    assert config.space == finished.config.space
    assert stored_config("none", finished.storage) is None


@pytest.mark.slow
def test_lost_baseline_is_named(finished, tmp_path):
    with pytest.raises(StudyError, match="are gone; `gcsearch run --study tiny` trains them"):
        evaluator_of(finished.study, f"sqlite:///{tmp_path}/elsewhere.db")


@pytest.fixture(scope="module")
def frugal(tiny_config, tmp_path_factory) -> Finished:
    """A search that minimises parameters and refuses about half of all architectures."""
    overrides = ["search.objective=params", "limits.macs=1.0012"]
    config = load_config(patient(tiny_config, trials=4).to_dict(), overrides)
    storage, heard = f"sqlite:///{tmp_path_factory.mktemp('frugal')}/studies.db", Heard()
    result = search(config, study="frugal", storage=storage, listener=heard)
    return Finished(result, storage, config, heard)


@pytest.mark.slow
def test_search_under_a_limit_trains_only_what_keeps_it(frugal):
    rows = [row for row in frugal.study.rows() if row.duplicate_of is None]
    states = [row.state for row in rows]
    assert frugal.result.is_complete and frugal.study.n_done() == 4
    assert states.count("COMPLETE") == 5 and "PRUNED" in states
    assert frugal.heard.events.count("trial") == len(states)
    assert all(f.ratios["macs"] <= 1.0012 for f in frugal.result.findings)
    reasons = [row.reason for row in rows if row.state == "PRUNED"]
    assert all(re.match(r"macs ratio 1\.00\d+ is over limits\.macs 1\.0012;", r) for r in reasons)


@pytest.mark.slow
def test_search_goes_by_the_objective_that_was_chosen(frugal):
    study = optuna.load_study(study_name="frugal", storage=frugal.storage)
    assert study.metric_names == ["top1", "params_ratio"]
    params = {f.number: f.evaluation.params for f in frugal.result.findings}
    told = {t.number: t.values[1] for t in study.trials if t.state == TrialState.COMPLETE}
    assert {n: told[n] for n in params} == {n: params[n] / params[0] for n in params}
    assert {f.number for f in frugal.result.front} <= {t.number for t in study.best_trials}
    assert frugal.result.front[0].is_baseline
    assert all(f.evaluation.latency.conclusive for f in frugal.result.findings)


def test_default_name_depends_on_what_is_fixed(tiny_config):
    name = default_study_name(tiny_config)
    assert name.startswith("resnet18-cued-digits-")
    assert default_study_name(patient(tiny_config)) != name  # latency is fixed
    for other in ("search.objective=macs", "limits.macs=1.1"):
        assert default_study_name(load_config(tiny_config.to_dict(), [other])) != name
    plan = tiny_config.plan.model_copy(update={"trials": 99})
    assert default_study_name(tiny_config.model_copy(update={"plan": plan})) == name


def test_folder_that_cannot_be_written_is_found_before_training(tiny_config, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(GcsearchError, match="cannot write"):
        search(tiny_config, storage=f"sqlite:///{tmp_path}/studies.db")


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


@dataclass(frozen=True)
class Interrupted:
    """What was seen of a search that was killed and interrupted at every stage, then left alone.

    Args:
        in_baseline: Output of the first run, killed while it trained the baseline.
        killed_rows: The trials, when the second run was killed.
        after_ctrl_c: The trials, when the third run was interrupted.
        ctrl_c: Exit code, stdout and stderr of the third run.
        killed_checks: The checks, when the fourth run was killed.
        last: Exit code, stdout and stderr of the fifth.
        rows: The trials in the end.
        checks: The checks in the end.
    """

    in_baseline: str
    killed_rows: list[TrialRow]
    after_ctrl_c: list[TrialRow]
    ctrl_c: tuple[int, str, str]
    killed_checks: list[Evaluation]
    last: tuple[int, str, str]
    rows: list[TrialRow]
    checks: list[Evaluation]


@pytest.fixture(scope="module")
def interrupted(tiny_config, tmp_path_factory) -> Interrupted:
    config = patient(tiny_config, trials=8, trial_epochs=2, check_seeds=2)
    session = Session(tmp_path_factory.mktemp("interrupted"), config.to_dict())
    first = session.start()
    in_baseline = "".join(iter_until(first.stdout, "baseline epoch 1/"))
    first.kill()
    first.communicate()
    second = session.start()
    session.wait_for(second, lambda: sum(row.counts for row in session.rows()) >= 1)
    second.kill()
    second.communicate()
    killed_rows = session.rows()
    third = session.start()
    session.wait_for(third, lambda: sum(row.counts for row in session.rows()) >= 3)
    os.killpg(third.pid, signal.SIGINT)
    output = third.communicate(timeout=120)
    after = session.rows()
    fourth = session.start()
    session.wait_for(fourth, lambda: len(session.checks()) >= 1)
    fourth.kill()
    fourth.communicate()
    killed_checks = session.checks()
    fifth = session.start("--json")
    last = fifth.communicate(timeout=300)
    return Interrupted(
        in_baseline,
        killed_rows,
        after,
        (third.returncode, *output),
        killed_checks,
        (fifth.returncode, *last),
        session.rows(),
        session.checks(),
    )


def iter_until(lines: Iterable[str], text: str) -> Iterator[str]:
    """Yield lines up to the first that holds ``text``."""
    for line in lines:
        yield line
        if text in line:
            return
    raise AssertionError(f"{text!r} was never printed")


@pytest.mark.slow
def test_search_killed_in_its_baseline_trains_it_anew_in_the_same_study(interrupted):
    assert "plan" in interrupted.in_baseline
    assert {row.state for row in interrupted.killed_rows} <= {"COMPLETE", "FAIL", "RUNNING"}
    assert interrupted.killed_rows[0].architecture.is_baseline


@pytest.mark.slow
def test_search_that_goes_on_still_tells_gains(interrupted):
    lines = [line for line in interrupted.ctrl_c[1].splitlines() if line.startswith("trial ")]
    assert lines and all(re.search(r"top1 0\.\d+ \([+-]", line) for line in lines)


@pytest.mark.slow
def test_nothing_is_lost_of_a_killed_check(interrupted):
    kept = interrupted.killed_checks
    assert kept and all(check in interrupted.checks for check in kept)
    pairs = [(check.architecture.id, check.seed) for check in interrupted.checks]
    assert len(pairs) == len(set(pairs)) == 4
    again = len(interrupted.checks) - len(kept)
    assert interrupted.last[2].count("check    seed") == again


@pytest.mark.slow
def test_killed_search_goes_on_without_training_the_baseline_again(interrupted):
    for _, out, err in (interrupted.ctrl_c, interrupted.last):
        assert "the baseline's weights are taken from" in out + err
        assert "baseline epoch" not in out + err
    assert (
        sum(r.evaluation is not None and r.architecture.is_baseline for r in interrupted.rows) == 1
    )


@pytest.mark.slow
def test_nothing_is_lost_of_a_killed_search(interrupted):
    kept = [row for row in interrupted.killed_rows if row.state == "COMPLETE"]
    assert kept and kept == [row for row in interrupted.rows if row in kept]


@pytest.mark.slow
def test_interrupted_search_leaves_no_trial_running(interrupted):
    code, out, err = interrupted.ctrl_c
    assert code == 130 and "Traceback" not in err
    assert "to go on: gcsearch run --study s" in out + err
    assert "RUNNING" not in [row.state for row in interrupted.after_ctrl_c]


@pytest.mark.slow
def test_search_goes_on_to_its_end(interrupted):
    code, out, err = interrupted.last
    assert code == 0, err
    data = json.loads(out)
    assert data["complete"] and len(data["trials"]) == 9
    assert {row.state for row in interrupted.rows} <= {"COMPLETE", "FAIL"}
    assert sum(row.counts for row in interrupted.rows) == 8


@pytest.mark.slow
def test_no_architecture_is_trained_to_its_end_twice(interrupted):
    trained = [row.architecture.id for row in interrupted.rows if row.evaluation]
    assert len(trained) == len(set(trained)) == 9


@pytest.mark.slow
def test_what_was_cut_short_is_tried_again(interrupted):
    cut = [r for r in interrupted.rows if r.state == "FAIL" and r.duplicate_of is None]
    complete = {row.architecture.id for row in interrupted.rows if row.evaluation}
    assert cut and all(row.retry and row.reason for row in cut)
    assert {row.architecture.id for row in cut if row.architecture} <= complete


@dataclass(frozen=True)
class Foreseen:
    """A search with a latency table, and the same command once more."""

    heard: Heard
    again: Heard
    study: SearchStudy
    entries: dict[str, Entry]


@pytest.fixture(scope="module")
def foreseen(tiny_config, tmp_path_factory) -> Foreseen:
    """Two sites in each of two stages, one setting; of the second stage it is said to be slow."""
    data = patient(tiny_config).to_dict()
    narrow = {"ratios": ["1/4"], "poolings": ["att"], "fusions": ["channel_add"]}
    data["space"] = {**narrow, "sites": ["layer[12].[01]"], "max_insertions": 2}
    data["latency"]["limit"] = 90
    data["search"]["latency_table"] = True
    config, folder = load_config(data), tmp_path_factory.mktemp("foreseen")
    storage = f"sqlite:///{folder}/studies.db"
    evaluator = Evaluator(config, cache_dir=folder / "cache")
    store = LatencyStore(open_storage(storage), evaluator.latency_context())
    _, slow = plan_groups(evaluator.space(), evaluator.timed_sites())
    store.add_entry(slow.part, Entry(201.0, 200.0, 202.0, n=2))
    right = LatencyRatio(1.0, 0.9, 1.1, True, 1.0, 1.0, 30, 1.0), Prediction(1.0, 0.9, 1.1)
    for trial in range(5):  # so that the table counts as tried
        store.add_measurement("earlier", trial, slow.architecture, *right)
    heard, again = Heard(), Heard()
    search(config, study="s", storage=storage, listener=heard)
    search(patient(config, trials=3), study="s", storage=storage, listener=again)
    study = SearchStudy(open_storage(storage), "s")
    return Foreseen(heard, again, study, store.entries())


@pytest.mark.slow
def test_table_is_measured_once_and_before_the_first_trial(foreseen):
    assert [e for e in foreseen.heard.events if e != "epoch"][4:8] == [
        "table 1/2",
        "table 2/2",
        "trial",
        "trial",
    ]
    assert foreseen.again.events[0] == "table 2/2"
    assert len(foreseen.entries) == 2


@pytest.mark.slow
def test_what_the_table_shows_to_be_over_the_limit_is_never_measured(foreseen):
    rows = [row for row in foreseen.study.rows() if row.duplicate_of is None]
    slow = [row for row in rows if "layer2" in str(row.architecture)]
    assert slow and all(row.state == "PRUNED" and "(predicted)" in row.reason for row in slow)
    assert {str(row.architecture).count("layer1") for row in rows if row.evaluation} == {0, 1, 2}
    assert foreseen.study.n_done() == 3


@pytest.mark.slow
def test_what_is_measured_whole_is_kept_with_its_prediction(foreseen):
    study = foreseen.study
    kept = {m.architecture: m for m in measurements_of(study.storage, study.name)}
    done = [r.evaluation for r in study.rows() if r.evaluation and not r.architecture.is_baseline]
    assert len(done) == len(kept) == 3
    added = next(e.added for e in foreseen.entries.values() if e.ratio < 100)
    for evaluation in done:
        measurement, n = kept[evaluation.architecture], len(evaluation.architecture.insertions)
        assert measurement.ratio == evaluation.latency.ratio
        assert measurement.prediction.ratio == pytest.approx(1 + n * added)


@pytest.fixture(scope="module")
def broken(tiny_config, tmp_path_factory) -> tuple[tuple[int, str, str], list[TrialRow]]:
    space = {"ratios": ["1/4"], "poolings": ["att"], "fusions": ["channel_add"]}
    data = patient(tiny_config, trials=10).to_dict() | {
        "backbone": "breaking:build",
        "data": {"source": "npz:pictures.npz", "image_size": 32},
        "space": {**space, "max_insertions": 1},
    }
    session = Session(tmp_path_factory.mktemp("broken"), data)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (400, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(400) % 10
    parts = {"x_train": pictures[:300], "x_test": pictures[300:]}
    parts |= {"y_train": labels[:300], "y_test": labels[300:]}
    np.savez(session.folder / "pictures.npz", **parts)
    (session.folder / "breaking.py").write_text(BREAKING)
    process = session.start("--trust")
    output = process.communicate(timeout=300)
    return (process.returncode, *output), session.rows()


@pytest.mark.slow
def test_broken_networks_fail_with_their_reason_and_the_search_goes_on(broken):
    (code, _, err), rows = broken
    reasons = {str(r.architecture).split()[0]: r.reason for r in rows if r.duplicate_of is None}
    assert code == 0, err
    assert reasons.pop("diverging").startswith("training loss became nan")
    assert reasons.pop("raising").startswith("ArithmeticError: this network cannot be trained")
    assert reasons == {"baseline": None, "sound": None}


@pytest.mark.slow
def test_small_space_is_said_to_be_exhausted(broken):
    (_, out, _), rows = broken
    assert "every architecture of the space has been tried" in out
    assert sum(row.counts for row in rows) == 3
    assert {row.state for row in rows} <= {"COMPLETE", "FAIL"}


@pytest.mark.slow
def test_printed_commands_name_the_database(broken):
    (_, out, _), _ = broken
    lines = [line for line in out.splitlines() if "gcsearch front" in line or "resume" in line]
    assert len(lines) == 2 and all("--storage sqlite:///" in line for line in lines)

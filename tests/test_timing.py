"""Timing exports and fronts again, and the command that does; no time is judged."""

from __future__ import annotations

import json

import pytest
from made_up import evaluation_of, fill, new_study
from small_nets import LOOSE
from typer.testing import CliRunner

from gcsearch import timing
from gcsearch.architecture import Architecture, Insertion
from gcsearch.cli.app import app
from gcsearch.cost import LatencyRatio
from gcsearch.errors import ConfigError, GcsearchError, LatencyError, StudyError
from gcsearch.export import ExportedConfig, write_config
from gcsearch.intervals import Interval
from gcsearch.results import Finding, findings, front
from gcsearch.study import open_storage
from gcsearch.timing import draw_times, time_export, time_front

pytestmark = pytest.mark.usefixtures("unshared_machine")
FAST = [
    *("--image-size", "32", "--threads", "1", "--set", "precision=0.4"),
    *("--set", "time_limit_s=5", "--set", "disturbance=1"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "net.yaml"
    architecture = Architecture("squeezenet1_1", (Insertion("features.3", ratio=1 / 4),))
    write_config(ExportedConfig(architecture, n_classes=4, image_size=32), path)
    return path


def call(*arguments):
    return CliRunner().invoke(app, ["latency", *map(str, arguments)])


def test_export_is_timed_against_its_backbone(exported):
    timing = time_export(exported, LOOSE.model_copy(update={"image_size": 32}))
    assert timing.against == "its backbone" and timing.latency.pairs == len(timing.times)
    assert json.loads(json.dumps(timing.to_dict()))["environment"]["runtime"].startswith("torch ")


def test_command_times_several_batches_and_draws_them(exported, tmp_path):
    picture = tmp_path / "times.png"
    result = call(exported, *FAST, "--batch", "1,2", "--plot", picture)
    assert result.exit_code == 0, result.output
    assert "against its backbone" in result.output and picture.stat().st_size > 10_000


def test_command_compares_two_exports_in_json(exported):
    result = call(exported, *FAST, "--vs", exported, "--json")
    (entry,) = json.loads(result.output)
    assert entry["against"] == str(exported) and entry["latency"]["ratio"] > 0
    assert entry["settings"]["threads"] == 1 and len(entry["latency"]["noise"]) == 3


@pytest.mark.parametrize(
    "arguments",
    [[], ["a.yaml", "--study", "s"], ["--study", "s", "--vs", "b.yaml"]],
    ids=["nothing", "both", "front against an export"],
)
def test_command_is_used_in_one_of_two_ways(arguments):
    assert call(*arguments).exit_code == 2


def test_command_refuses_faulty_settings_before_it_builds(exported):
    result = call(exported, "--batch", "0", "--runtime", "fast", "--set", "treads=1")
    assert isinstance(result.exception, ConfigError)
    assert len(result.exception.faults) == 3


def test_picture_shows_every_measurement(exported):
    timing = time_export(exported, LOOSE.model_copy(update={"image_size": 32}))
    figure = draw_times([timing, timing])
    assert len(figure.axes) == 4


def test_unknown_study_is_named(tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    open_storage(url)
    result = call("--study", "mine", "--storage", url)
    assert isinstance(result.exception, GcsearchError) and "mine" in str(result.exception)


def test_batches_before_one_that_fails_are_told(exported, monkeypatch):
    real = timing.time_export

    def failing(config, settings, **options):
        if settings.batch_size == 2:
            raise LatencyError("out of memory")
        return real(config, settings, **options)

    monkeypatch.setattr(timing, "time_export", failing)
    result = call(exported, *FAST, "--batch", "1,2", "--json")
    assert isinstance(result.exception, LatencyError)
    assert [each["batch_size"] for each in json.loads(result.output)] == [1]


class Front:
    """An evaluator and its front: each trial is told a ratio, or that it cannot be timed."""

    def __init__(self, *told: float | str) -> None:
        sites = ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]
        insertions = [Insertion(site) for site in sites[: len(told)]]
        self.architectures = [Architecture("resnet18", (each,)) for each in insertions]
        self.told = dict(zip(self.architectures, told, strict=True))
        made = [Architecture("resnet18"), *self.architectures]
        self.kept = [
            Finding(n, evaluation_of(each, 0.5, 1 + n / 10), Interval(0, 0, 0), latency)
            for n, each in enumerate(made)
            for latency in [Interval(1 + n / 10, 1, 2)]
        ]

    def latency_probe(self, settings):
        def time_one(architecture):
            told = self.told[architecture]
            if isinstance(told, str):
                raise LatencyError(told)
            return LatencyRatio(abs(told), 1, 2, told > 0, 1.0, 1.0, 30, 1.0)

        return time_one


def test_front_is_timed_again_without_the_baseline():
    front, heard = Front(1.4, 1.1, 1.2), []
    timed = time_front(front.kept, front, LOOSE, heard=heard.append)
    assert [row.latency.ratio for row in timed.rows] == [1.4, 1.1, 1.2] and heard == timed.rows
    assert timed.agreement == pytest.approx({"spearman": -0.5, "kendall": -1 / 3})
    assert json.loads(json.dumps(timed.to_dict()))["architectures"][0]["trial"] == 1


def test_agreement_counts_conclusive_times_only_and_needs_three():
    front = Front(1.1, 1.2, -1.3)
    assert time_front(front.kept, front, LOOSE).agreement is None
    front = Front(1.1, -1.0, 1.2, 1.3)
    assert time_front(front.kept, front, LOOSE).agreement["spearman"] == pytest.approx(1)


def test_what_was_timed_of_a_front_before_one_failed_is_heard():
    front, heard = Front(1.1, "cannot be exported"), []
    with pytest.raises(LatencyError, match="cannot be exported"):
        time_front(front.kept, front, LOOSE, heard=heard.append)
    assert [row.finding.number for row in heard] == [1]


def test_front_of_the_baseline_alone_is_refused():
    front = Front()
    with pytest.raises(StudyError, match="nothing but the baseline"):
        time_front(front.kept, front, LOOSE)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_command_tells_of_a_front_what_was_timed_before_one_failed(
    tiny_config, sqlite_url, monkeypatch, options
):
    fill(study := new_study(sqlite_url, tiny_config), tiny_config, 8)
    altered = [finding for finding in front(findings(study)) if not finding.is_baseline]
    told = dict.fromkeys((finding.evaluation.architecture for finding in altered), 1.25)
    told[altered[-1].evaluation.architecture] = "cannot be exported"
    evaluator = Front()
    evaluator.told = told
    monkeypatch.setattr("gcsearch.resume.evaluator_of", lambda *_, **__: evaluator)
    result = call("--study", "made-up", "--storage", sqlite_url, *options)
    assert isinstance(result.exception, LatencyError) and len(altered) > 1
    assert result.stdout.count("1.25") >= len(altered) - 1
    if options:
        timed = json.loads(result.stdout)["architectures"]
        assert [each["trial"] for each in timed] == [each.number for each in altered[:-1]]

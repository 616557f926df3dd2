"""The report of a study: what it shows, that names stay text, and that it needs no network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from made_up import SITES, add_checks, evaluation_of, fill, new_study, refuse_and_fail
from markupsafe import escape

from gcsearch.architecture import Architecture, Insertion
from gcsearch.cli import main
from gcsearch.config import load_config, read_yaml
from gcsearch.errors import StudyError
from gcsearch.intervals import Interval
from gcsearch.pictures import write_picture
from gcsearch.report import Report, assemble, draw_front, render
from gcsearch.report.axis import axis_over
from gcsearch.report.effects import difference, effects_of, random_gain
from gcsearch.report.importance import MIN_ARCHITECTURES, importances_of
from gcsearch.report.volume import MARGIN, REFERENCE_RATIO, hypervolume
from gcsearch.results import Finding
from gcsearch.space import SearchSpace
from gcsearch.study import attempts_of, sites_of

EVIL = "<script>alert(1)</script>"
SECTIONS = [
    *("verdict", "front", "drawing", "curves", "volume", "importances", "effects"),
    *("latency", "manifest", "attempts"),
]


@pytest.fixture(scope="module")
def config(tiny_config):
    overrides = ["latency.limit=1.3", "limits.macs=1.05", "space.max_insertions=2"]
    return load_config(tiny_config.to_dict(), overrides)


@pytest.fixture(scope="module")
def small(tmp_path_factory, config):
    """A database with one study of eight architectures, one of them confirmed, two refused."""
    url = f"sqlite:///{tmp_path_factory.mktemp('report')}/studies.db"
    study = new_study(url, config)
    fill(study, config, 8)
    refuse_and_fail(study, config)
    best = max((r.evaluation for r in study.rows() if r.evaluation), key=lambda e: e.top1)
    add_checks(study, best.architecture, 0.58)
    return url, study


@pytest.fixture(scope="module")
def content(small) -> Report:
    return assemble(small[1])


@pytest.fixture(scope="module")
def page(content) -> str:
    return render(content).decode()


@pytest.fixture(scope="module")
def large(tmp_path_factory, config) -> Report:
    study = new_study(f"sqlite:///{tmp_path_factory.mktemp('large')}/studies.db", config)
    fill(study, config, 24)
    return assemble(study)


def finding(number: int, gain: float, cost: float, *insertions: Insertion) -> Finding:
    evaluation = evaluation_of(Architecture("resnet18", insertions), 0.5 + gain, cost)
    interval = Interval(gain, gain - 0.01, gain + 0.01)
    return Finding(number, evaluation, interval, Interval(cost, cost, cost))


def test_sections_are_in_order(page):
    ids = re.findall(r'<section id="(\w+)"', page)
    assert ids == SECTIONS


def test_verdict_is_the_confirmed_gain(content, page):
    headline = content.verdict.headline
    assert content.verdict.is_gain and headline.startswith("+8.0 points [")
    assert "on fresh seeds and test pictures" in headline and str(escape(headline)) in page
    assert "One trial could tell gains from" in page


def test_verdict_keeps_the_backbone_where_no_gain_is_confirmed(tmp_path, config):
    study = new_study(f"sqlite:///{tmp_path}/s.db", config)
    fill(study, config, 4)
    best = max((r.evaluation for r in study.rows()), key=lambda e: e.top1)
    add_checks(study, best.architecture, 0.5)
    report = assemble(study)
    assert report.verdict.headline.startswith("Keep your backbone")
    assert not report.verdict.is_gain and not report.drawing.is_chosen
    assert ": not chosen, but the nearest to a gain" in render(report).decode()


def test_verdict_calls_an_unconfirmed_gain_a_guess(large):
    assert "not confirmed on fresh seeds" in large.verdict.headline and not large.verdict.is_gain


def test_points_are_all_complete_trials_and_their_kinds(content):
    kinds = [point.kind for point in content.front.points]
    assert len(kinds) == 9 and kinds[0] == "baseline" and kinds.count("chosen") == 1
    assert [p.cost.value for p in content.front.front] == sorted(
        p.cost.value for p in content.front.front
    )
    confirmed = [c for point in content.front.points if (c := point.confirmation)]
    assert len(confirmed) == 1 and confirmed[0].gain.value == pytest.approx(0.08)


def test_refused_ones_are_infeasible_where_their_cost_is_known(content, page):
    view = content.front
    assert [point.cost for point in view.refused] == [Interval(1.4, 1.38, 1.42)]
    assert view.n_refused_elsewhere == 1 and view.limit == 1.3
    assert page.count('class="mark refused"') == 1 and "1 more were refused" in page


def test_every_mark_names_its_architecture(content, page):
    titles = "".join(re.findall(r"<title>(.*?)</title>", page, re.S))
    assert all(str(escape(point.name)) in titles for point in content.front.points)


def test_drawing_has_a_column_for_each_stage_and_the_insertions_in_place(content):
    drawing = content.drawing
    assert [column.title for column in drawing.columns] == ["stage 1", "stage 2", "stage 3"]
    places = {p.path: p.inserted for column in drawing.columns for p in column.places}
    assert list(places) == [site.path for site in SITES]
    chosen = next(p for p in content.front.points if p.kind == "chosen")
    drawn = [f"{path} {what}" for path, what in places.items() if what]
    assert "; ".join(drawn) == chosen.name


def test_sites_of_an_older_study_come_from_its_trials(tmp_path, config):
    study = new_study(f"sqlite:///{tmp_path}/s.db", config, sites=[])
    fill(study, config, 2)
    known = [(site.path, site.stage) for site in sites_of(study)]
    assert known == [(site.path, site.stage) for site in SITES]
    assert "layer3.1" in render(assemble(study)).decode()


def test_attempts_tell_state_and_reason(small, content, page):
    told = [row for row in content.attempts if not row.reason.startswith("same as")]
    assert [row.state for row in told] == ["COMPLETE"] * 9 + ["PRUNED"] * 2 + ["FAIL", "RUNNING"]
    assert "training loss became nan" in page and "is over latency.limit 1.3" in page
    assert [attempt.is_refused for attempt in attempts_of(small[1])].count(True) == 2


def test_manifest_repeats_the_study(content, config):
    manifest = content.manifest
    assert load_config(read_yaml(manifest.config)) == config
    assert manifest.facts["Data"]["content_hash"] == "cafe"
    assert manifest.facts["Seeds and weights"]["confirmation"] == "10000, 10001"
    assert manifest.facts["Versions and hardware"] == {"python": "3.11"}


def test_latency_tells_noise_and_quantiles(content):
    row = content.latencies[1]
    assert (row.noise, row.p50_ms, row.p90_ms) == (
        "1.000 [0.990, 1.010]",
        "11.25 / 10.00",
        "12.50 / 11.00",
    )


def test_latency_that_was_stored_without_noise_says_so(content):
    bare = replace(content.latencies[1], noise="", p90_ms="")
    assert "not stored" in render(replace(content, latencies=[bare])).decode()


def test_few_trials_get_words_and_no_picture(content, page):
    assert content.importances.by_objective == {}
    assert f"importances need {MIN_ARCHITECTURES}" in page and 'class="share"' not in page


def test_baseline_alone_makes_a_page(tmp_path, config):
    study = new_study(f"sqlite:///{tmp_path}/s.db", config)
    fill(study, config, 0)
    page = render(assemble(study)).decode()
    assert "Nothing has been compared with your backbone yet." in page
    assert page.count("Too few trials") == 4 and "No altered network is complete" in page


def test_study_without_a_complete_trial_has_no_report(tmp_path, config):
    study = new_study(f"sqlite:///{tmp_path}/s.db", config)
    with pytest.raises(StudyError, match="no complete baseline trial yet"):
        assemble(study)


def test_hypervolume_never_shrinks_and_its_reference_is_the_study_s(content, large):
    volumes = [volume for _, volume in content.volume.steps]
    assert volumes == sorted(volumes) and content.volume.ratio == 1.3
    assert content.volume.top1 == pytest.approx(0.5 - MARGIN)
    assert volumes[0] == pytest.approx(100 * MARGIN * 100 * 0.3)
    assert large.volume.is_limit and REFERENCE_RATIO > 1


@pytest.mark.parametrize("point", [(0.2, 1.0), (0.9, 1.6), (0.4, 1.3)])
def test_hypervolume_ignores_what_is_beyond_the_reference_or_dominated(point):
    kept = [(0.5, 1.0), (0.75, 1.25)]
    assert hypervolume([*kept, point], (0.25, 1.5)) == hypervolume(kept, (0.25, 1.5))


def test_importances_find_what_decides(large):
    top1, cost = large.importances.by_objective.values()
    by_factor = {share.factor: share for share in top1}
    assert by_factor["pooling"].score > by_factor["pooling"].chance
    assert sum(share.score for share in cost) == pytest.approx(1)
    assert "block" not in by_factor  # there is one block only


def test_importances_do_not_depend_on_the_order_of_trials_only_by_chance():
    found = [
        finding(n, 0.1 * (n % 2), 1.0, Insertion("a", pooling=("avg", "att")[n % 2]))
        for n in range(1, MIN_ARCHITECTURES + 1)
    ]
    shares = importances_of(found, ("top1", "latency_ratio")).by_objective["top1"]
    assert [share.factor for share in shares] == ["pooling"] and shares[0].score == 1


def test_effect_is_the_difference_between_with_and_without():
    att, avg = (Insertion("a", pooling=pooling) for pooling in ("att", "avg"))
    found = [finding(n, 0.1 * (n % 2), 1.0, (avg, att)[n % 2]) for n in range(1, 9)]
    effects = effects_of(found, ["a"])
    by_level = {(e.factor, e.level): e for e in effects.shown}
    assert by_level["pooling", "att"].top1.value == pytest.approx(0.1)
    assert by_level["pooling", "avg"].top1.value == pytest.approx(-0.1)
    assert "site a" in effects.too_few  # none lacks it
    assert effects_of(found[:5], ["a"]).missing.startswith("Too few trials: 5")


def test_spread_widens_the_interval_of_a_difference():
    tight = difference(np.array([1.0, 1.1, 0.9]), np.array([0.0, 0.1, -0.1]))
    loose = difference(np.array([1.0, 2.0, 0.0]), np.array([0.0, 0.1, -0.1]))
    assert tight.value == pytest.approx(loose.value) and tight.half_width < loose.half_width


def test_random_gain_takes_the_first_trials_only():
    insertion = Insertion("a")
    found = [finding(0, 0.0, 1.0), *(finding(n, 0.05 * n, 1.0, insertion) for n in (1, 2, 3, 4))]
    random = random_gain(found, found[4], 3)
    assert (random.n, random.is_random) == (3, False)
    assert random.mean.value == pytest.approx(0.1) and random.above.value == pytest.approx(0.1)
    assert random_gain(found, found[1], 3).is_random
    assert random_gain(found, found[4], 1).mean is None


def test_names_stay_text(tmp_path, config):
    study = new_study(f"sqlite:///{tmp_path}/s.db", config, name=EVIL)
    fill(study, config, 1)
    study.fail(study.ask(SearchSpace("resnet18", SITES, config.space)).number, f'{EVIL}" onload="')
    page = render(assemble(study)).decode()
    assert EVIL not in page and str(escape(EVIL)) in page
    assert page.count("<script>") == 1 and 'onload="' not in page


def test_page_needs_no_network(page):
    links = re.findall(r"""(?:src|href|url|action|srcset)\s*[=(]\s*["']?([^"'\s>)]+)""", page)
    assert links and all(link.startswith(("#", "data:,")) for link in links)
    assert "http:" not in page and "https:" not in page and "@import" not in page
    assert "default-src 'none'" in page


def test_page_is_fit_for_phones_and_printers(page):
    assert '<meta name="viewport" content="width=device-width' in page
    assert "@media print" in page and page.startswith("<!doctype html>")


def test_page_is_the_same_each_time(content, page):
    assert render(content).decode() == page


def test_report_as_plain_data(content):
    data = json.loads(json.dumps(content.to_dict()))
    assert data["verdict"]["is_gain"] and len(data["front"]["points"]) == 9


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([1.0, 1.08], 4), ([0.0, 0.0], 3), ([1.0001, 1.0002], 3), ([-30, 70], 4)],
)
def test_axis_holds_its_values_and_a_few_round_ticks(values, ticks):
    axis = axis_over(values)
    assert all(axis.holds(v) for v in values) and ticks <= len(axis.ticks) <= 11
    assert len({axis.show(tick) for tick in axis.ticks}) == len(axis.ticks)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_front_as_a_picture(content, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"front{suffix}"
    write_picture(draw_front(replace(content, study="a_$x^$ b")), path)
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(begins)


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return stop.value.code or 0


def test_command_writes_a_page_and_keeps_what_is_there(small, tmp_path, capsys):
    path, storage = tmp_path / "report.html", ["--storage", small[0]]
    assert call("report", *storage, "-o", str(path)) == 0
    out = capsys.readouterr().out
    assert "+8.0 points" in out and f"written: {path}" in out
    path.write_text("mine")
    assert call("report", *storage, "-o", str(path)) == 1 and path.read_text() == "mine"
    assert "exists already; pass --force" in capsys.readouterr().err
    assert call("report", *storage, "-o", str(path), "--force", "--json") == 0
    assert json.loads(capsys.readouterr().out)["written"] == [str(path)]
    assert path.read_text().startswith("<!doctype html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_command_says_what_is_wrong_in_one_line(small, tmp_path, config, capsys):
    url = f"sqlite:///{tmp_path}/s.db"
    new_study(url, config, name="fresh")
    for storage, name, says in [
        (small[0], "a.txt", "is no page or picture; end it in .html, .png, .svg, .pdf"),
        (url, "a.html", "study 'fresh' has no complete baseline trial yet"),
        (f"sqlite:///{tmp_path}/none.db", "a.html", "there is no database at"),
    ]:
        assert call("report", "--storage", storage, "-o", str(tmp_path / name)) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and says in err
    assert not (tmp_path / "a.html").exists()


@pytest.mark.slow
def test_page_opens_in_a_browser(page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here; install it to open the page in a browser")
    path = tmp_path / "report.html"
    path.write_text(page)
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update"),
        *(f"--user-data-dir={tmp_path}/profile", "--dump-dom", path.as_uri()),
    ]
    done = subprocess.run([browser, *options], capture_output=True, text=True, timeout=120)
    assert done.stdout.count('aria-label="trial ') >= 9  # put there by the page's script
    assert "Refused to execute" not in done.stderr


def test_writing_into_a_file_that_is_a_folder_is_one_line(small, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert call("report", "--storage", small[0], "-o", str(tmp_path / "file" / "a.html")) == 1
    assert "cannot be written" in capsys.readouterr().err

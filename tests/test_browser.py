"""The dashboard and the report in a real browser: gone through as a person would."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna_dashboard
import pytest
from made_up import SITES, add_checks, evaluation_of, fill, new_study, refuse_and_fail
from optuna.artifacts import FileSystemArtifactStore

from gcsearch.config import load_config
from gcsearch.dashboard import Annotator
from gcsearch.report import assemble, render
from gcsearch.space import SearchSpace
from gcsearch.study import SearchStudy, open_storage

# Of importances that the dashboard has computed of few trials; an error would be its answer 500.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Some regimes:UserWarning")]
PHONE = {"width": 390, "height": 800}
DESK = {"width": 1280, "height": 1000}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium here; install it to go through the pages in a browser")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_config) -> tuple[SearchStudy, Path]:
    """Eight architectures, one confirmed, one over the limit, two refused, one failed."""
    folder = tmp_path_factory.mktemp("seen")
    overrides = ["latency.limit=1.3", "limits.macs=1.05", "space.max_insertions=2"]
    config = load_config(tiny_config.to_dict(), overrides)
    study = new_study(f"sqlite:///{folder}/s.db", config)
    fill(study, config, 8)
    over = study.ask(SearchSpace("resnet18", SITES, config.space))
    study.complete(over.number, evaluation_of(over.architecture, 0.55, 1.4))
    refuse_and_fail(study, config)
    best = max((r.evaluation for r in study.rows() if r.evaluation), key=lambda e: e.top1)
    add_checks(study, best.architecture, 0.58)
    Annotator(study, "sqlite:///s.db", folder / "artifacts", pytest.fail).refresh()
    return study, folder


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    app = optuna_dashboard.wsgi(
        open_storage(f"sqlite:///{folder}/s.db", create=False),
        artifact_store=FileSystemArtifactStore(folder / "artifacts"),
    )
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def opened(browser, size: dict[str, int] = DESK) -> Iterator[tuple]:
    """Open a page; give it with what it asked for and what went wrong."""
    page = browser.new_page(viewport=size)
    answers: dict[str, int] = {}
    faults: list[str] = []
    page.on("response", lambda answer: answers.update({answer.url: answer.status}))
    page.on("console", lambda said: said.type == "error" and faults.append(said.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    try:
        yield page, answers, faults
    finally:
        page.close()


def numbers(study: SearchStudy, state: str) -> list[int]:
    return [r.number for r in study.rows() if r.state == state and r.duplicate_of is None]


def test_dashboard_from_the_list_of_studies_to_a_picture_of_a_trial(browser, study):
    made, folder = study
    best = max((r.evaluation.top1, r.number) for r in made.rows() if r.evaluation)[1]
    with served(folder) as address, opened(browser) as (page, answers, faults):
        page.goto(f"{address}/dashboard")
        page.get_by_text("made-up").first.click()
        page.get_by_text("Pareto Front").wait_for()
        page.get_by_text("latency_ratio").first.wait_for()
        page.locator(
            "#plot-pareto-front .scatterlayer .point, .scatterlayer path"
        ).first.wait_for()

        page.goto(f"{address}/dashboard/studies/1/trials?numbers={best}")
        page.get_by_text("Confirmed:").wait_for()
        page.get_by_text(f"trial-{best}.yaml").wait_for()
        pictures = page.locator("img[src^='/artifacts/']")
        assert pictures.count() == 2
        for picture in pictures.all():
            page.wait_for_function(
                "picture => picture.naturalWidth > 100", arg=picture.element_handle()
            )
        assert page.get_by_text("[gcsearch]: #").count() == 0

        page.goto(f"{address}/dashboard/studies/1/note")
        page.get_by_text("gcsearch report --study made-up").wait_for()
        assert page.locator("table td").count() >= 12
    assert sum("/artifacts/" in url for url in answers) == 2
    assert set(answers.values()) == {200} and faults == []


def test_dashboard_shows_what_is_over_a_limit_as_infeasible(browser, study):
    made, folder = study
    over = next(r.number for r in made.rows() if r.evaluation and r.evaluation.latency.ratio > 1.3)
    with served(folder) as address, opened(browser) as (page, _, faults):
        page.goto(f"{address}/dashboard/studies/1")
        page.locator(".legendtext", has_text="Infeasible").first.wait_for()
        page.goto(f"{address}/dashboard/studies/1/trials?numbers={over}")
        page.get_by_text("it is over a limit of the study").wait_for()
        page.goto(f"{address}/dashboard/studies/1/trials?numbers={numbers(made, 'PRUNED')[0]}")
        page.get_by_text("is over latency.limit 1.3").first.wait_for()
    assert faults == []


@pytest.fixture(scope="module")
def report(study, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(render(assemble(study[0])))
    return path.as_uri()


def test_report_opens_from_a_file_and_asks_for_nothing_else(browser, report):
    with opened(browser) as (page, _, faults):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report)
        page.get_by_text("+8.0 points").first.wait_for()
    assert [url for url in asked if not url.startswith("data:")] == [report]
    assert faults == []


def test_marks_of_the_report_tell_their_trial_by_hover_and_by_tab(browser, report):
    with opened(browser) as (page, _, _faults):
        page.goto(report)
        page.locator("#front .mark.chosen use").hover()
        assert "trial" in page.locator("#tip").inner_text()
        page.mouse.move(2, 2)
        page.locator("#tip").wait_for(state="hidden")
        page.locator("#front .mark.baseline").focus()
        assert "baseline" in page.locator("#tip").inner_text()
        page.keyboard.press("Tab")
        assert page.locator("#tip").is_visible()


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_report_never_scrolls_sideways(browser, report, size):
    with opened(browser, size) as (page, _, _faults):
        page.goto(report)
        width = page.evaluate("document.scrollingElement.scrollWidth")
    assert width <= size["width"]


def test_report_in_print_has_all_sections_and_cuts_nothing(browser, report, tmp_path):
    with opened(browser, {"width": 690, "height": 1000}) as (page, _, _faults):
        page.goto(report)
        page.emulate_media(media="print")
        for section in ("verdict", "front", "manifest", "attempts"):
            assert page.locator(f"#{section}").is_visible()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 690
        assert page.pdf(path=tmp_path / "a.pdf").startswith(b"%PDF")

"""What the documents say can be typed: commands, options, configurations, snippets."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer

import gcsearch
from gcsearch.cli.app import app
from gcsearch.cli.options import parse_duration
from gcsearch.config import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MEASUREMENTS = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
GROUP = typer.main.get_command(app)


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def shell_lines() -> list[str]:
    """Return what is typed in the README, without prompts and output."""
    joined = "\n".join(blocks("console")).replace("\\\n", " ").splitlines()
    typed = [line.removeprefix("$ ") for line in joined if line.startswith("$ ")]
    return typed + "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()


def command_lines() -> list[str]:
    """Return each call of gcsearch in documents and configurations, without comments."""
    parts = [part for line in shell_lines() for part in re.split(r"&&|\|", line)]
    for path in (*DOCUMENTS, *CONFIGS):
        prose = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
        parts += re.findall(r"`(gcsearch [^`]*)`", prose)
    for config in CONFIGS:
        parts += re.findall(r"^#.*: +(gcsearch .*)$", config.read_text(), re.M)
    found = [shlex.join(shlex.split(part, comments=True)) for part in parts]
    return sorted({line for line in found if line.startswith("gcsearch ")})


def parse(line: str) -> typer.Context:
    """Parse a command line as its command would, without running it."""
    _, name, *arguments = shlex.split(line)
    assert name in GROUP.commands, f"no such command: {line}"
    return GROUP.commands[name].make_context(name, arguments)


def test_documents_call_gcsearch():
    assert len(command_lines()) > 10 and len(CONFIGS) > 1


@pytest.mark.parametrize("name", sorted(GROUP.commands))
def test_every_command_says_what_it_does(name):
    command = GROUP.commands[name]
    assert f"Example: gcsearch {name}" in command.help
    without = [p.name for p in command.params if p.name != "help" and not getattr(p, "help", None)]
    assert not without, f"options without help: {without}"


@pytest.mark.parametrize("name", sorted(GROUP.commands))
def test_every_command_is_in_the_readme(name):
    assert f"gcsearch {name}" in README


@pytest.mark.parametrize("name", sorted(GROUP.commands))
def test_example_of_every_command_parses(name):
    example = re.search(r"Example: (gcsearch .*)", GROUP.commands[name].help)
    assert parse(example[1]).info_name == name


@pytest.mark.parametrize("line", command_lines())
def test_documented_command_parses(line):
    if line not in ("gcsearch --help", "gcsearch --version"):
        parse(line)


@pytest.mark.parametrize("line", [x for x in command_lines() if x.startswith("gcsearch run ")])
def test_documented_run_has_a_valid_configuration(line):
    given = parse(line).params
    config = ROOT / given["config"] if given["config"] else None
    load_config(config, given["settings"] or [])
    assert given["budget"] is None or parse_duration(given["budget"]) > 0


def measurements() -> list[list[str]]:
    """Return the words of each call of a script in the documents, which take minutes to run."""
    texts = [path.read_text(encoding="utf-8") for path in DOCUMENTS]
    found = {call for text in texts for call in re.findall(r"`python (benchmarks/[^`]*)`", text)}
    return [shlex.split(call) for call in sorted(found)]


@pytest.mark.parametrize("words", measurements(), ids=" ".join)
def test_documented_measurement_has_its_script_and_options(words):
    script = (ROOT / words[0]).read_text(encoding="utf-8")
    options = [word for word in words if word.startswith("--")]
    assert [option for option in options if f'"{option}"' not in script] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configuration_loads_and_says_how_to_run_it(path):
    load_config(path)
    assert f"gcsearch run --config configs/{path.name}" in path.read_text()


@pytest.mark.parametrize("code", blocks("python"))
def test_snippet_compiles_and_uses_names_that_exist(code):
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "gcsearch":
            assert hasattr(gcsearch, node.attr), f"gcsearch.{node.attr}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


STAGES = {"c3": (512, 28, 4), "c4": (1024, 14, 6), "c5": (2048, 7, 3), "c2": (256, 56, 3)}
"""Channels, side and number of the residual blocks of ResNet-50's stages at 224 px."""
PLACES = {
    "c3-c5": ["c3", "c4", "c5"],
    "all": ["c2", "c3", "c4", "c5"],
    **{stage: [stage] for stage in STAGES},
}


def closed_form(block: str, ratio: float, channels: int, positions: int) -> tuple[int, int]:
    """Parameters and MACs of one block, as in the papers; attention pooling and one fusion."""
    planes, inter = int(channels * ratio), channels // 2
    match block:
        case "gc":
            params = 2 * channels + 1 + 2 * channels * planes + 3 * planes
            return params, 2 * channels * positions + 2 * channels * planes
        case "se":
            params = 2 * channels * planes + planes + channels
            return params, 2 * channels * planes + channels * positions
        case "snl":
            return channels**2 + 2 * channels + 1, 2 * channels * positions + channels**2
        case _:
            params = 4 * channels * inter + 3 * inter + channels
            return params, 4 * channels * inter * positions + 2 * positions**2 * inter


def test_table_of_costs_is_what_closed_formulas_give():
    rows = re.findall(
        r"^\| ([\w -]+) \| (\d+) x (\w+)(?: r1/(\d+))? \| ([\d,]+) .* \| ([\d,]+) ",
        MEASUREMENTS,
        re.M,
    )
    assert len(rows) == 27
    for place, n, block, ratio, params, macs in rows:
        stages = [STAGES[stage] for stage in PLACES.get(place, ["c4"])]
        counts = [(1 if place.startswith("last") else many, c, side) for c, side, many in stages]
        forms = [(k, *closed_form(block, 1 / int(ratio or 16), c, s * s)) for k, c, s in counts]
        assert int(n) == sum(k for k, _, _ in forms)
        assert int(params.replace(",", "")) == sum(k * p for k, p, _ in forms), (place, block)
        assert int(macs.replace(",", "")) == sum(k * m for k, _, m in forms), (place, block)


def test_table_of_costs_is_what_the_script_prints():
    spec = importlib.util.spec_from_file_location("costs", ROOT / "benchmarks" / "costs.py")
    costs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(costs)
    assert f"{costs.BEGIN}\n{costs.table()}\n{costs.END}" in MEASUREMENTS

"""The rooms of the code and the one direction between them (README, 'Map of the code')."""

import ast
from pathlib import Path

import pytest

import gcsearch

ROOT = Path(gcsearch.__file__).parent
ROOMS = [
    "errors",
    "registry",
    "imports",
    "settings",
    "intervals",
    "machine",
    "interchange",
    "blocks",
    "architecture",
    "surgery",
    "backbones",
    "space",
    "proxy",
    "cost",
    "config",
    "plan",
    "evaluation",
    "study",
    "tuning",
    "results",
    "export",
    "pictures",
    "report",
    "explain",
    "timing",
    "dashboard",
    "training",
    "resume",
    "confirm",
    "run",
    "cli",
]
ENTRANCES = {"__init__", "__main__"}
FILES = sorted(ROOT.rglob("*.py"))


def test_no_room_has_the_name_of_something_public():
    """Importing a room binds its name in the package, where it would hide the other."""
    rooms = {path.name.removesuffix(".py") for path in ROOT.iterdir()}
    assert rooms.isdisjoint(gcsearch._HOMES)


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports_of(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
    return names


def test_every_room_is_in_the_table():
    assert {room_of(path) for path in FILES} == {*ROOMS, *ENTRANCES}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_up_the_table(path):
    room = room_of(path)
    if room in ENTRANCES:
        return
    for name in imports_of(path):
        if name.startswith("gcsearch."):
            other = name.split(".")[1]
            assert ROOMS.index(other) <= ROOMS.index(room), f"{room} must not import {other}"


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("ray", {"tuning"}),
        ("optuna_dashboard", {"dashboard"}),
        ("lightning_fabric", {"training"}),
        ("typer", {"cli"}),
        ("rich", {"cli"}),
    ],
)
def test_library_is_known_in_its_own_room_only(library, rooms):
    users = {room_of(p) for p in FILES for n in imports_of(p) if n.split(".")[0] == library}
    assert users <= rooms


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_says_what_it_answers_for(path):
    assert ast.get_docstring(ast.parse(path.read_text()))

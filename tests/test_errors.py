"""The exception tree, its messages, and the registry that raises two of them."""

from __future__ import annotations

import inspect
import pickle

import pytest

from gcsearch import errors
from gcsearch.errors import (
    ConfigError,
    DuplicateNameError,
    GcsearchError,
    OverLimitError,
    UnknownNameError,
    near_misses,
)
from gcsearch.registry import Registry

CLASSES = [
    c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__
]
CHILDREN = [c for c in CLASSES if c is not GcsearchError]
WITH_DETAILS = [
    UnknownNameError("block", "cg", ["gc"], "see the list"),
    ConfigError(["one", "two"], "a.yaml"),
    ConfigError(["one"]),
    OverLimitError("too slow", {"cost": "latency"}),
]
WITH_TEXT = [c("text") for c in CHILDREN if c not in map(type, WITH_DETAILS)]


@pytest.mark.parametrize("kind", CHILDREN, ids=lambda c: c.__name__)
def test_every_error_is_ours_and_a_builtin_one(kind):
    assert issubclass(kind, GcsearchError)
    assert issubclass(kind, (LookupError, ValueError, RuntimeError))


@pytest.mark.parametrize("kind", CHILDREN, ids=lambda c: c.__name__)
def test_every_error_is_in_the_tree_of_the_docstring(kind):
    builtin = kind.__mro__[2].__name__
    line = next(x for x in errors.__doc__.splitlines() if f" {kind.__name__} " in x)
    assert f"({builtin})" in line


@pytest.mark.parametrize("error", [*WITH_DETAILS, *WITH_TEXT], ids=lambda e: type(e).__name__)
def test_errors_survive_the_way_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_several_faults_have_a_line_each():
    assert str(ConfigError(["a = 1", "b = 2"], "x.yaml")) == "x.yaml:\n  - a = 1\n  - b = 2"


def test_single_fault_fits_in_one_line():
    assert str(ConfigError(["a = 1"])) == "config: a = 1"


@pytest.mark.parametrize(
    ("name", "told"),
    [("resent50", "; did you mean 'resnet50'?"), ("cg", "; did you mean 'gc'?"), ("zebra", ";")],
)
def test_near_misses_are_told_and_far_ones_are_not(name, told):
    assert near_misses(name, ["gc", "resnet50", "vgg11"]) == told


def test_long_lists_of_known_names_are_cut():
    message = str(UnknownNameError("thing", "zebra", [f"t{i:02}" for i in range(20)]))
    assert message == (
        "unknown thing 'zebra'; Known: " + ", ".join(f"t{i:02}" for i in range(12)) + ", ..."
    )


def test_registry_files_a_thing_under_its_name_once():
    things = Registry[int]("thing")
    assert things.register("one")(1) == 1
    assert things["one"] == 1 and "one" in things and things.names() == ["one"]
    with pytest.raises(DuplicateNameError, match="thing 'one' is already registered"):
        things.register("one")(2)
    assert things["one"] == 1


def test_registry_suggests_near_names():
    things = Registry[int]("thing")
    things.register("three")(3)
    with pytest.raises(UnknownNameError, match="unknown thing 'tree'; did you mean 'three'"):
        things["tree"]
    assert "tree" not in things

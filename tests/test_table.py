"""The additive table of latencies: what shares an entry, what predictions add up to."""

from __future__ import annotations

import math
import random
from importlib.metadata import version

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gcsearch.architecture import Architecture, Insertion
from gcsearch.cost import context as context_module
from gcsearch.cost import latency_context
from gcsearch.cost.latency import LatencySettings
from gcsearch.cost.table import (
    MIN_RESIDUALS,
    Entry,
    LatencyTable,
    Part,
    describe_residuals,
    entry_precision,
    plan_groups,
)
from gcsearch.space import SearchSpace, SpaceSettings
from gcsearch.surgery import Site

FORMS = {"a": 32, "b": 32, "c": 32, "d": 16, "e": 16}
"""Side of the features at each site: three sites of one form, two of another."""
SITES = [Site(path, "after-add", 1, 64, (64, n, n)) for path, n in FORMS.items()]
SPACE = SearchSpace("tiny", SITES, SpaceSettings(blocks=("gc", "snl"), max_insertions=5))
GROUPS = plan_groups(SPACE, SITES)
SEEDS = st.integers(0, 2**32 - 1)
ADDED = st.floats(-0.1, 1)


def entries_of(seed: int) -> dict[str, Entry]:
    """Return any entries, one for each group."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.9, 2.0, len(GROUPS))
    widths = rng.uniform(0, 0.1, len(GROUPS))
    return {
        g.part.id: Entry(v, v - w, v + w, len(g.architecture.insertions))
        for g, v, w in zip(GROUPS, values, widths, strict=True)
    }


def table_of(seed: int, residuals=()) -> LatencyTable:
    return LatencyTable(SITES, entries_of(seed), residuals)


def half_width(prediction) -> float:
    return (prediction.high - prediction.low) / 2


def test_each_part_is_measured_once_at_all_sites_of_its_form():
    n_settings = 3 * 2 * 3 + 1  # of GC and SNL
    assert len(GROUPS) == 2 * n_settings == len({group.part.id for group in GROUPS})
    assert {len(group.architecture.insertions) for group in GROUPS} == {3, 2}
    done = [i for group in GROUPS for i in group.architecture.insertions]
    assert sorted(map(str, done)) == sorted(str(i) for _, i in SPACE.insertions())


def test_form_is_that_at_the_size_that_is_timed():
    timed = [Site(path, "after-add", 1, 64, (64, 56, 56)) for path in FORMS if path != "e"]
    groups = plan_groups(SPACE, timed)
    assert {len(group.architecture.insertions) for group in groups} == {4}
    insertion = Insertion("e", "snl")
    entries = {Part.of(insertion, SITES[4]).id: Entry(1.1, 1.0, 1.2, 1)}
    assert LatencyTable(timed, entries).predict(Architecture("tiny", (insertion,))) is None


@pytest.mark.parametrize(
    "other",
    [
        (Insertion("a", "snl"), SITES[0]),
        (Insertion("a", ratio=1 / 8), SITES[0]),
        (Insertion("a", fusions=("channel_mul",)), SITES[0]),
        (Insertion("d"), SITES[3]),
        (Insertion("a"), Site("a", "after-add", 1, 32, (64, 32, 32), "NHWC")),
    ],
)
def test_what_may_differ_has_an_entry_of_its_own(other):
    part = Part.of(Insertion("a"), SITES[0])
    assert part == Part.of(Insertion("b"), SITES[1])
    assert part.id == Part.of(Insertion("b"), SITES[1]).id != Part.of(*other).id


def test_id_of_a_part_stays_what_databases_have_it_as():
    part = Part.of(Insertion("a", ratio=1 / 4), SITES[0])
    assert part.id.startswith("64ac1d9990d6")


@given(SEEDS, SEEDS)
def test_predictions_add_up(seed, choice):
    table, whole = table_of(seed), SPACE.random(np.random.default_rng(choice))
    alone = [table.predict(Architecture("tiny", (i,))).ratio - 1 for i in whole.insertions]
    assert table.predict(whole).ratio - 1 == pytest.approx(sum(alone))


@given(SEEDS, SEEDS)
def test_order_does_not_matter(seed, choice):
    insertions = list(SPACE.random(np.random.default_rng(choice)).insertions)
    entries = list(entries_of(seed).items())
    first = LatencyTable(SITES, dict(entries)).predict(Architecture("tiny", tuple(insertions)))
    for order in (insertions, entries, sites := list(SITES)):
        random.Random(choice).shuffle(order)
    again = LatencyTable(sites, dict(entries)).predict(Architecture("tiny", tuple(insertions)))
    assert first == again


@given(SEEDS, SEEDS)
def test_settings_at_sites_of_one_form_share_an_entry(seed, choice):
    table, rng = table_of(seed), random.Random(choice)
    _, insertion = rng.choice([pair for pair in SPACE.insertions() if pair[0].path in "abc"])
    moved = [Insertion(path, insertion.block, **insertion.settings()) for path in "abc"]
    predictions = {table.predict(Architecture("tiny", (i,))) for i in moved}
    assert len(predictions) == 1


@given(ADDED, st.integers(1, 50))
def test_measuring_many_at_once_divides_what_they_add_and_its_noise(added, n):
    ratio = 1 + n * added
    entry = Entry(ratio, ratio - 0.01, ratio + 0.01, n)
    assert entry.added == pytest.approx(added, abs=1e-9)
    assert entry.half_width == pytest.approx(0.01 / n)


def test_noise_of_different_entries_adds_in_quadrature_and_that_of_one_by_itself():
    one, other = Insertion("a"), Insertion("d")
    entries = {
        Part.of(one, SITES[0]).id: Entry(1.2, 1.17, 1.23, 1),
        Part.of(other, SITES[3]).id: Entry(1.2, 1.16, 1.24, 1),
    }
    table = LatencyTable(SITES, entries)
    assert half_width(table.predict(Architecture("tiny", (one, other)))) == pytest.approx(0.05)
    twice = Architecture("tiny", (one, Insertion("b")))
    assert half_width(table.predict(twice)) == pytest.approx(0.06)


def test_what_lacks_an_entry_is_not_predicted():
    entries = entries_of(0)
    part = Part.of(Insertion("a"), SITES[0])
    del entries[part.id]
    table = LatencyTable(SITES, entries)
    assert table.predict(Architecture("tiny", (Insertion("d"),)))
    assert table.predict(Architecture("tiny", (Insertion("d"), Insertion("b")))) is None
    assert table.predict(Architecture("tiny", (Insertion("elsewhere"),))) is None


def test_baseline_is_predicted_as_exactly_one():
    prediction = table_of(0).predict(Architecture("tiny"))
    assert (prediction.ratio, prediction.low, prediction.high) == (1, 1, 1)


@given(SEEDS, st.lists(st.floats(-0.5, 0.5), max_size=20))
def test_residuals_widen_predictions_once_there_are_some_and_move_none(seed, residuals):
    architecture = SPACE.typical()
    plain, taught = table_of(seed), table_of(seed)
    for residual in residuals:
        taught.note(residual)
    before, after = plain.predict(architecture), taught.predict(architecture)
    assert after.ratio == before.ratio
    if len(residuals) < MIN_RESIDUALS:
        assert after == before
    else:
        widest = math.hypot(half_width(before), 2.6 * max(map(abs, residuals)))
        assert half_width(before) <= half_width(after) <= widest + 1e-9
    assert table_of(seed, residuals).predict(architecture) == after


def test_table_that_is_always_off_to_one_side_is_doubted_by_as_much():
    prediction = table_of(0, [0.1] * 20).predict(SPACE.typical())
    assert half_width(prediction) > 0.2


def test_residuals_are_described_with_their_sign():
    described = describe_residuals([0.01, -0.04, 0.02, 0.0])
    assert (described.n, described.median, described.worst) == (4, pytest.approx(0.005), -0.04)
    assert described.median_absolute == pytest.approx(0.015)
    assert describe_residuals([]) is None


def context_of(model=None, n_classes=10, size=(3, 32, 32), **settings):
    return latency_context(
        "tiny", model or nn.Conv2d(3, 4, 1), n_classes, size, LatencySettings(**settings)
    )


@pytest.mark.parametrize(
    "other",
    [
        {"batch_size": 2},
        {"threads": 999},
        {"size": (3, 64, 64)},
        {"n_classes": 11},
        {"model": nn.Conv2d(3, 4, 3)},
    ],
)
def test_context_differs_where_latencies_may(other):
    assert context_of(**other) != context_of()


@pytest.mark.parametrize("other", [{"precision": 0.2}, {"time_limit_s": 1}, {"limit": 1.5}])
def test_context_does_not_tell_how_well_it_was_measured(other):
    assert context_of(**other) == context_of()


def test_every_setting_of_a_latency_is_in_its_context_or_left_out_on_purpose():
    left_out = set(LatencySettings.model_fields) - set(context_of()["settings"])
    assert left_out <= context_module.NOT_OF_A_PASS


def test_context_names_versions_and_machine():
    environment = context_of()["environment"]
    assert torch.__version__.startswith(environment["torch"])
    assert {"torchvision", "processor", "gcsearch"} <= set(environment)
    assert "optuna" not in environment


def test_context_is_the_same_for_a_network_built_again():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = lambda x: x

        def extra_repr(self):
            return f"act={self.act}"

    assert context_of(Odd()) == context_of(Odd())


def test_context_names_the_version_of_the_runtime():
    assert context_of()["environment"]["runtime"] == f"torch {version('torch')}"
    assert context_of(runtime="onnxruntime")["environment"]["runtime"].startswith("onnxruntime ")


def test_predictions_from_entries_of_that_precision_are_as_precise_as_wanted():
    sites = [Site(f"{i}", "after-add", 1, 64, (64, 8, i // 3)) for i in range(12)]
    wanted = entry_precision(n_sites=3, n_blocks=4, precision=0.01)
    chosen = tuple(Insertion(f"{i}", "se") for i in (0, 3, 6, 9))
    parts = {Part.of(insertion, sites[int(insertion.site)]).id for insertion in chosen}
    table = LatencyTable(sites, {part: Entry(1, 1 - wanted, 1 + wanted, 3) for part in parts})
    predicted = table.predict(Architecture("tiny", chosen))
    assert len(parts) == 4 and (predicted.high - predicted.low) / 2 == pytest.approx(0.01)

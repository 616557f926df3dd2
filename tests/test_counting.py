"""Counting what networks cost: torch's counter and the closed formulas agree."""

from __future__ import annotations

from functools import cache

import pytest
import torchvision
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from gcsearch.architecture import Insertion
from gcsearch.blocks import BLOCK_SETTINGS, FUSIONS, MODES, POOLINGS, build_block, n_macs, n_params
from gcsearch.cost import Counts, count
from gcsearch.surgery import Site, find_sites, insert, remove

SIZE = (3, 64, 64)
SETTINGS = {
    "ratio": st.sampled_from([1 / 4, 1 / 8, 1 / 16, 1 / 3]),
    "pooling": st.sampled_from(POOLINGS),
    "fusions": st.sampled_from([FUSIONS[:1], FUSIONS[1:], FUSIONS]),
    "mode": st.sampled_from(MODES),
    "sub_sample": st.booleans(),
}


@cache
def backbone() -> tuple[nn.Module, dict[str, Site], Counts]:
    """Return ResNet-18, every site in it with two positions an axis or more, and its counts."""
    model = torchvision.models.resnet18(weights=None)
    sites = {s.path: s for s in find_sites(model, SIZE) if min(s.positions, default=0) > 1}
    return model, sites, count(model, SIZE)


def gate_macs(site: Site, insertion: Insertion) -> int:
    """Return what scaling the features takes: element-wise, so the counter leaves it out."""
    is_scaling = insertion.block == "se" or "channel_mul" in insertion.settings().get(
        "fusions", ()
    )
    height, width = site.positions
    return is_scaling * site.channels * height * width


@st.composite
def insertions(draw) -> list[Insertion]:
    """Draw up to five blocks with their settings, each at a site of its own."""
    paths = st.lists(st.sampled_from(sorted(backbone()[1])), min_size=1, max_size=5, unique=True)
    drawn = []
    for path in draw(paths):
        block = draw(st.sampled_from(sorted(BLOCK_SETTINGS)))
        drawn.append(
            Insertion(path, block, **{k: draw(SETTINGS[k]) for k in BLOCK_SETTINGS[block]})
        )
    return drawn


@pytest.mark.parametrize("block", BLOCK_SETTINGS)
def test_blocks_count_as_their_formulas_say(block):
    counted = count(build_block(block, 64), (64, 14, 9))
    gate = (
        64 * 14 * 9 if block == "se" else 0
    )  # scaling is element-wise: the counter leaves it out
    assert counted.macs == n_macs(block, 64, (14, 9)) - gate
    assert counted.params == n_params(block, 64)


@settings(max_examples=60)
@given(insertions())
@example([Insertion(f"layer{n}.0", block) for n, block in enumerate(BLOCK_SETTINGS, 1)])
def test_insertions_add_exactly_what_the_formulas_of_their_blocks_sum_up_to(chosen):
    model, sites, before = backbone()
    insert(model, chosen, sites=list(sites.values()))
    try:
        after = count(model, SIZE)
    finally:
        remove(model)
    pairs = [(i, sites[i.site]) for i in chosen]
    params = sum(n_params(i.block, s.channels, **i.settings()) for i, s in pairs)
    macs = sum(n_macs(i.block, s.channels, s.positions, **i.settings()) for i, s in pairs)
    gates = sum(gate_macs(s, i) for i, s in pairs)
    assert (after.params - before.params, after.macs - before.macs) == (params, macs - gates)

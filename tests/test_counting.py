"""Counting what networks cost: torch's counter and the closed formulas agree."""

from __future__ import annotations

import pytest

from gcsearch.blocks import BLOCK_SETTINGS, build_block, n_macs, n_params
from gcsearch.cost import count


@pytest.mark.parametrize("block", BLOCK_SETTINGS)
def test_blocks_count_as_their_formulas_say(block):
    counted = count(build_block(block, 64), (64, 14, 9))
    gate = (
        64 * 14 * 9 if block == "se" else 0
    )  # scaling is element-wise: the counter leaves it out
    assert counted.macs == n_macs(block, 64, (14, 9)) - gate
    assert counted.params == n_params(block, 64)

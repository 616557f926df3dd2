"""What a network costs: counts against closed formulas; of timing only what noise cannot turn."""

from __future__ import annotations

import math

import pytest
import torch
from small_nets import LOOSE
from torch import nn

from gcsearch.architecture import Architecture, Insertion
from gcsearch.blocks import GlobalContext
from gcsearch.cost import (
    LatencyRatio,
    compare_latency,
    count,
    measure_latency,
)
from gcsearch.errors import LatencyError

pytestmark = pytest.mark.usefixtures("unshared_machine")
SIZE = (3, 16, 16)


class Work(nn.Module):
    """Does the same many times."""

    def __init__(self, times):
        super().__init__()
        self.conv, self.times = nn.Conv2d(3, 8, 3), times

    def forward(self, x):
        return [self.conv(x) for _ in range(self.times)][-1]


class Raising(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


@pytest.mark.parametrize(("pooling", "n_mask"), [("att", 1), ("avg", 0)])
@pytest.mark.parametrize("fusions", [("channel_add",), ("channel_add", "channel_mul")])
def test_context_block_costs_what_the_formula_says(pooling, n_mask, fusions):
    channels, planes, side = 64, 16, 6
    block = GlobalContext(channels, ratio=1 / 4, pooling=pooling, fusions=fusions)
    counts = count(block, (channels, side, side))
    branch = 2 * channels * planes + 3 * planes + channels
    assert counts.params == n_mask * (channels + 1) + len(fusions) * branch
    # The mask's convolution and the weighted sum read each feature once.
    pooled = n_mask * 2 * channels * side * side
    assert counts.macs == pooled + len(fusions) * 2 * channels * planes


def test_counts_follow_kernel_and_size():
    conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    assert count(conv, (3, 8, 8)).macs == 3 * 8 * 9 * 64
    assert count(nn.Linear(8, 4), (3, 2, 8)).macs == 3 * 2 * 8 * 4  # type: ignore[arg-type]
    assert count(nn.ReLU(), SIZE).params == count(nn.ReLU(), SIZE).macs == 0


def test_counting_leaves_modes_gradients_and_statistics_as_they_were():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    model[1].eval()
    before = model[1].running_mean.clone()
    count(model, SIZE)
    assert [m.training for m in model] == [True, False, True]
    assert torch.equal(model[1].running_mean, before) and model[0].weight.grad is None


def check_fields(ratio: LatencyRatio):
    assert 0 < ratio.low <= ratio.ratio <= ratio.high < math.inf
    assert ratio.latency_ms > 0 and ratio.baseline_ms > 0
    assert ratio.pairs >= 1 and ratio.seconds > 0


def test_fields_of_a_ratio_agree():
    ratio = compare_latency(Work(2), Work(1), SIZE, LOOSE)
    check_fields(ratio)
    assert ratio.pairs >= 10 or not ratio.conclusive


def test_thirty_times_the_work_takes_longer():
    ratio = compare_latency(Work(30), Work(1), SIZE, LOOSE)
    check_fields(ratio)
    assert ratio.ratio > 1


def test_absurd_precision_is_inconclusive_and_makes_no_number():
    settings = LOOSE.model_copy(update={"precision": 1e-9, "time_limit_s": 0.05})
    ratio = compare_latency(Work(1), Work(1), SIZE, settings)
    check_fields(ratio)
    assert not ratio.conclusive and str(ratio).startswith("inconclusive [")


def test_conclusive_ratio_shows_its_interval():
    ratio = LatencyRatio(1.05, 1.04, 1.062, True, 10.5, 10.0, 50, 1.0)
    assert str(ratio) == "1.050 [1.040, 1.062]"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("size mismatch\nin two lines"),
        AssertionError("Wrong image height! Expected 224 but got 16!"),
        AssertionError(),
        ValueError("expected more than 1 value per channel"),
        IndexError("out of range"),
    ],
    ids=repr,
)
def test_model_that_refuses_the_input_is_a_latency_error_in_one_line(error):
    with pytest.raises(LatencyError, match=r"shape \(1, 3, 16, 16\): .*latency\.image_size") as e:
        compare_latency(Raising(error), Work(1), SIZE, LOOSE)
    assert "\n" not in str(e.value)


def test_vision_transformer_of_another_size_is_a_latency_error():
    with pytest.raises(LatencyError, match="Wrong image height"):
        measure_latency(Architecture("vit_b_32"), (3, 64, 64), LOOSE)


def test_timing_gives_back_the_number_of_threads():
    before = torch.get_num_threads()
    compare_latency(Work(1), Work(1), SIZE, LOOSE)
    with pytest.raises(LatencyError):
        compare_latency(Raising(RuntimeError("no")), Work(1), SIZE, LOOSE)
    assert torch.get_num_threads() == before


def test_architecture_is_timed_against_its_own_backbone():
    architecture = Architecture("squeezenet1_1", (Insertion("features.3", ratio=1 / 4),))
    ratio = measure_latency(architecture, (3, 32, 32), LOOSE)
    check_fields(ratio)

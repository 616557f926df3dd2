"""How sure a number is: coverage and power by simulation, with fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcsearch.evaluation import pack, unpack
from gcsearch.intervals import (
    Interval,
    median_ratio,
    paired_gain,
    smallest_gain,
    spread_of_seeds,
)

REPEATS = 400


def draw(rng, n, gain, discordance, n_seeds=1, seed_sd=0.0):
    """Two rows of answers whose top1 differ by ``gain``; each training shifts its own by luck."""
    luck = rng.normal(0, seed_sd * np.sqrt(2), (n_seeds, 1))
    right = (discordance + gain + luck) / 2
    u = rng.random((n_seeds, n))
    both = rng.random((n_seeds, n)) < 0.7
    correct = (u < right) | ((u >= discordance) & both)
    baseline = ((u >= right) & (u < discordance)) | ((u >= discordance) & both)
    return correct, baseline


@pytest.mark.parametrize(("n_seeds", "seed_sd"), [(1, 0.0), (2, 0.008), (5, 0.0), (5, 0.008)])
def test_paired_gain_covers_the_true_gain(n_seeds, seed_sd):
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(REPEATS):
        gain = paired_gain(*draw(rng, 1000, 0.02, 0.15, n_seeds, seed_sd))
        covered += gain.low <= 0.02 <= gain.high
    assert covered / REPEATS >= 0.93


def test_interval_of_a_single_picture_is_refused():
    with pytest.raises(ValueError, match="at least two pictures, got 1"):
        paired_gain(np.array([True]), np.array([False]))


def test_paired_gain_of_no_difference_seldom_excludes_zero():
    rng = np.random.default_rng(1)
    claims = sum(paired_gain(*draw(rng, 1000, 0, 0.1)).excludes(0) for _ in range(REPEATS))
    assert 0.02 <= claims / REPEATS <= 0.08


def test_one_seed_in_a_row_or_in_a_table_is_the_same():
    correct, baseline = draw(np.random.default_rng(0), 50, 0.1, 0.3)
    assert paired_gain(correct[0], baseline[0]) == paired_gain(correct, baseline)


def test_pairing_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"equal shapes, got \(2,\) and \(3,\)"):
        paired_gain(np.ones(2, bool), np.ones(3, bool))


@pytest.mark.parametrize(("n", "q", "sd", "seeds"), [(2000, 0.15, 0, 1), (1000, 0.1, 0.008, 2)])
def test_smallest_gain_is_found_four_times_in_five(n, q, sd, seeds):
    rng = np.random.default_rng(2)
    gain = smallest_gain(n, discordance=q, seed_sd=sd, n_seeds=seeds)
    error = gain / (1.959964 + 0.841621)
    # What it is about: the mean over seeds on one set of pictures, whose noise the seeds share.
    pictures = rng.choice([1, 0, -1], (REPEATS, n), p=[q / 2, 1 - q, q / 2]).mean(axis=1)
    luck = rng.normal(0, sd, (REPEATS, 2, seeds)).mean(axis=2)
    found = np.abs(gain + pictures + luck[:, 0] - luck[:, 1]) > 1.959964 * error
    assert found.mean() == pytest.approx(0.8, abs=0.06)


def test_smallest_gain_shrinks_with_pictures_and_seeds():
    assert smallest_gain(4000) < smallest_gain(1000)
    assert smallest_gain(1000, seed_sd=0.01, n_seeds=5) < smallest_gain(1000, seed_sd=0.01)


@pytest.mark.parametrize("noise", ["normal", "heavy-tailed"])
def test_median_ratio_covers_the_true_ratio(noise):
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        spread = rng.standard_t(2, 60) if noise == "heavy-tailed" else rng.normal(size=60)
        interval = median_ratio(np.log(1.05) + 0.05 * spread, n_bootstrap=300)
        covered += interval.low <= 1.05 <= interval.high
    assert covered / 200 >= 0.91


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40))
def test_median_ratio_lies_in_its_interval_and_repeats(logs):
    interval = median_ratio(np.array(logs), n_bootstrap=200)
    assert interval.low <= interval.high
    assert interval.low <= interval.value <= interval.high
    assert interval == median_ratio(np.array(logs), n_bootstrap=200)


@pytest.mark.parametrize("n_groups", [4, 8, 20])
def test_median_ratio_of_few_groups_covers_what_varies_between_them(n_groups):
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        common = np.repeat(rng.normal(size=n_groups), 10)
        logs = 0.01 * (common + rng.normal(size=common.size))
        groups = np.repeat(np.arange(n_groups), 10)
        interval = median_ratio(logs, groups, n_bootstrap=300)
        covered += interval.low <= 1 <= interval.high
    assert covered / 200 >= 0.91


def test_median_ratio_of_one_group_claims_no_more_than_its_pairs():
    interval = median_ratio(np.log([1.0, 1.1, 1.3]), np.zeros(3, int))
    assert (interval.value, interval.low, interval.high) == pytest.approx((1.1, 1.0, 1.3))


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40))
def test_the_same_pair_again_in_its_group_adds_nothing(logs):
    groups = np.arange(len(logs)) // 2
    once = median_ratio(np.array(logs), groups, n_bootstrap=100)
    twice = median_ratio(np.repeat(logs, 2), np.repeat(groups, 2), n_bootstrap=100)
    assert vars(once) == pytest.approx(vars(twice))


def test_median_ratio_needs_a_pair():
    with pytest.raises(ValueError, match="at least one pair"):
        median_ratio(np.array([]))


def test_interval_excludes_what_lies_outside():
    interval = Interval(1.0, 0.9, 1.2)
    assert interval.half_width == pytest.approx(0.15)
    assert [interval.excludes(v) for v in (0.89, 0.9, 1.2, 1.21)] == [True, False, False, True]


def test_spread_of_seeds_finds_both_variances():
    rng = np.random.default_rng(4)
    groups = [rng.normal(rng.normal(0, 0.3), 0.1, 6) for _ in range(400)]
    within, between = spread_of_seeds(groups)
    assert within == pytest.approx(0.01, rel=0.15) and between == pytest.approx(0.09, rel=0.2)


def test_spread_between_equals_is_zero_not_negative():
    assert spread_of_seeds([np.array([0.0, 1.0]), np.array([1.0, 0.0])]) == (0.5, 0.0)


@pytest.mark.parametrize("groups", [[np.ones(3)], [np.ones(3), np.ones(1)]])
def test_spread_of_seeds_refuses_too_few(groups):
    with pytest.raises(ValueError, match="at least two architectures with two seeds"):
        spread_of_seeds(groups)


@given(st.lists(st.booleans(), max_size=300))
def test_answers_packed_and_unpacked_are_the_same(answers):
    row = np.array(answers, dtype=bool)
    again = unpack(pack(row))
    assert again.dtype == np.bool_ and again.tolist() == answers


def test_two_seeds_that_differ_leave_a_wide_interval():
    correct, baseline = np.zeros((2, 1000), bool), np.zeros((2, 1000), bool)
    correct[0, :20], correct[1, :40] = True, True  # gains of 2 and 4 points: t is 12.7, z is 2
    gain = paired_gain(correct, baseline)
    assert gain.value == pytest.approx(0.03)
    assert gain.half_width > 0.12


def test_a_spread_that_is_estimated_hides_more_than_one_that_is_known():
    known = smallest_gain(2000, seed_sd=0.01, n_seeds=2)
    assert smallest_gain(2000, seed_sd=0.01, n_seeds=2, estimates_seeds=True) > 2 * known

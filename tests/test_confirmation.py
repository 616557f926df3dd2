"""What fresh seeds say of a gain: its statistics by property, its verdicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_results import BASELINE, FOUND, altered, answers, evaluation_of, with_cost

from gcsearch.cost import LatencyRatio
from gcsearch.evaluation import Evaluation
from gcsearch.intervals import Interval, holm, paired_gain, paired_p_value
from gcsearch.results import Confirmation, SearchResult, choose, confirmations, rule_of

P_VALUES = st.lists(st.floats(0, 1), max_size=20)
LATENCY = LatencyRatio(1.3, 1.29, 1.31, True, 11.0, 10.0, 40, 1.0)
N_SEEDS = 5


@given(P_VALUES)
def test_holm_never_makes_a_p_value_smaller_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [corrected[i] for i in order] == sorted(corrected)


@given(P_VALUES)
def test_holm_is_at_most_bonferroni_and_that_for_the_smallest(p_values):
    corrected = holm(p_values)
    bonferroni = [min(1.0, p * len(p_values)) for p in p_values]
    assert all(c <= b for c, b in zip(corrected, bonferroni, strict=True))
    assert min(corrected, default=0) == min(bonferroni, default=0)


@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0.4, 0.7))
def test_p_value_is_below_five_per_cent_just_where_the_interval_excludes_zero(seed, n_seeds, top1):
    rng = np.random.default_rng(seed)
    own, base = rng.random((n_seeds, 200)) < top1, rng.random((n_seeds, 200)) < 0.5
    gain, p = paired_gain(own, base), paired_p_value(own, base)
    assert 0 <= p <= 1 and gain.excludes(0.0) == (p < 0.05)
    assert paired_p_value(base, own) == pytest.approx(p)


def trainings(rng: np.random.Generator, n: int, gain: float = 0.0) -> np.ndarray:
    """Return answers of n trainings: pictures differ in difficulty, and seeds in luck."""
    difficulty = np.random.default_rng(1).random(400)
    luck = rng.normal(0, 0.02, (n, 1)) + gain
    return difficulty + luck + rng.normal(0, 0.1, (n, 400)) > 0.5


def share_called(gain: float) -> float:
    rng = np.random.default_rng(0)
    calls = [
        paired_p_value(trainings(rng, N_SEEDS, gain), trainings(rng, N_SEEDS)) < 0.05
        for _ in range(300)
    ]
    return float(np.mean(calls))


def test_equal_networks_are_rarely_told_apart_and_better_ones_often():
    assert share_called(0.0) <= 0.05
    assert share_called(0.1) > 0.8


def checks_of(n_right: dict[int, tuple[int, ...]], first: int = 1) -> list[Evaluation]:
    """Return checks: how many each was right of, seed by seed; number 0 is the baseline."""
    return [
        evaluation_of(altered(number) if number else BASELINE, answers(n), seed=seed)
        for number, many in n_right.items()
        for seed, n in enumerate(many, first)
    ]


def by_number(confirmed: list[Confirmation]) -> dict[int, Confirmation]:
    return {c.finding.number: c for c in confirmed}


def test_confirmation_pairs_by_seed():
    checks = checks_of({0: (40, 60), 4: (50, 70, 99)}) + checks_of({3: (99,)}, first=7)
    (own,) = confirmations(FOUND, checks[::-1])
    assert own.finding.number == 4
    assert (own.seeds, own.gain.value) == (2, pytest.approx(0.1))
    assert (own.baseline_top1, own.top1) == (pytest.approx(0.5), pytest.approx(0.6))


def test_what_has_no_pair_is_not_confirmed():
    assert confirmations(FOUND, checks_of({0: (50,)})) == []
    assert confirmations(FOUND, checks_of({4: (50,)})) == []
    assert confirmations(FOUND, []) == []


def test_spread_between_seeds_widens_the_interval():
    alike, apart = (
        confirmations(FOUND, checks_of({0: (50, 50), 4: many})) for many in ((60, 60), (50, 70))
    )
    assert alike[0].gain.half_width < apart[0].gain.half_width


def test_p_values_are_corrected_for_as_many_as_were_compared():
    base = (50,) * N_SEEDS
    alone = confirmations(FOUND, checks_of({0: base, 4: (57, 58, 59, 60, 61)}))[0]
    both = by_number(
        confirmations(
            FOUND, checks_of({0: base, 4: (57, 58, 59, 60, 61), 3: (49, 51, 50, 48, 52)})
        )
    )
    assert (alone.compared, both[4].compared) == (1, 2)
    assert alone.p_corrected == alone.p_value == both[4].p_value
    assert both[4].p_corrected == pytest.approx(2 * alone.p_value)


def test_shrinkage_is_what_the_search_promised_too_much():
    (own,) = confirmations(FOUND, checks_of({0: (50,) * 5, 4: (54, 55, 56, 55, 55)}))
    assert own.gain.value == pytest.approx(0.05) and own.shrinkage == pytest.approx(0.05)
    assert own.to_dict()["shrinkage"] == pytest.approx(0.05)


def test_latency_is_that_which_was_measured_anew():
    checks = checks_of({0: (50, 50), 3: (60, 60), 4: (60, 60)})
    confirmed = by_number(confirmations(FOUND, checks, {altered(4).id: LATENCY}))
    assert (confirmed[4].latency, confirmed[4].is_retimed) == (Interval(1.3, 1.29, 1.31), True)
    assert (confirmed[3].latency, confirmed[3].is_retimed) == (FOUND[3].latency, False)


def confirmation(number: int, value: float, *, margin: float = 0.01, **other) -> Confirmation:
    usual = {"p_value": 0.5 if margin > abs(value) else 0.001, "compared": 2, "seeds": 5}
    usual |= {"p_corrected": 2 * usual["p_value"], "is_retimed": True, "baseline_top1": 0.5}
    usual |= {"latency": Interval(1.03, 1.02, 1.04), "top1": 0.5 + value}
    gain = Interval(value, value - margin, value + margin)
    return Confirmation(finding=FOUND[number], gain=gain, **(usual | other))


def test_verdict_on_each():
    name = "layer4 gc r1/16 att add"
    assert confirmation(4, 0.018, margin=0.009).verdict == (
        f"{name}: +1.8 points [0.9, 2.7] for 1.030x [1.020, 1.040]"
    )
    assert confirmation(4, 0.01, margin=0.02).verdict.endswith(": within noise")
    assert confirmation(4, -0.03).verdict.endswith(": worse than your backbone")
    luck = confirmation(4, 0.03, p_corrected=0.08).verdict
    assert luck.endswith(": may be the luck of the best of 2 (Holm p 0.08)")
    macs = replace(confirmation(4, 0.03), finding=with_cost(FOUND[4], "macs", 1.002))
    assert "for 1.00200x macs, 1.030x [1.020, 1.040] latency" in macs.verdict


def result_of(*confirmed: Confirmation, limit: float | None = None) -> SearchResult:
    best = choose(FOUND, confirmed=confirmed, limit=limit)
    one, names = [*confirmed], ("s", "sqlite:///s.db", True)
    return SearchResult(*names, FOUND, FOUND, best, None, confirmed=one, limit=limit)


def test_verdict_on_the_whole():
    sure, unsure = confirmation(3, 0.03), confirmation(4, 0.01, margin=0.02)
    keep = "no insertion beats your backbone beyond noise: keep it"
    assert result_of(sure, unsure).verdict == sure.verdict
    assert result_of(unsure).verdict == keep
    assert result_of(sure, limit=1.01).verdict.startswith("what beats your backbone is over")
    assert "was not confirmed" in result_of().verdict
    alone = SearchResult("s", "sqlite:///s.db", True, FOUND[:1], FOUND[:1], FOUND[0], None)
    assert alone.verdict is None


def test_best_is_the_surest_of_the_confirmed():
    low, high = confirmation(3, 0.03), confirmation(4, 0.05, margin=0.04)
    assert choose(FOUND, confirmed=[high, low]).number == 3
    assert choose(FOUND, confirmed=[confirmation(3, 0.01, margin=0.02)]).is_baseline
    assert choose(FOUND, confirmed=[confirmation(3, 0.03, p_corrected=0.06)]).is_baseline


def test_best_goes_by_the_latency_that_was_measured_anew():
    slow = confirmation(4, 0.08, latency=Interval(1.2, 1.19, 1.21))
    assert choose(FOUND, confirmed=[slow, confirmation(3, 0.03)], limit=1.1).number == 3


def test_one_seed_alone_confirms_nothing():
    lucky = confirmation(4, 0.20, seeds=1)
    assert choose(FOUND, confirmed=[lucky, confirmation(3, 0.03)]).number == 3
    assert choose(FOUND, confirmed=[lucky]).is_baseline
    assert lucky.verdict.endswith("with one seed, which may be luck")


def test_what_fails_with_a_seed_is_not_confirmed_by_the_others():
    checks = checks_of({0: (50,) * 5, 4: (80, 81, 82)})
    (own,) = confirmations(FOUND, checks, failed={(altered(4).id, 4), (altered(4).id, 5)})
    assert (own.seeds, own.failed, own.is_sure) == (3, 2, False)
    assert own.verdict.endswith("but its training failed with 2 of 5 seeds")
    assert choose(FOUND, confirmed=[own]).is_baseline


@pytest.mark.parametrize("n_seeds", range(2, 8))
def test_equal_gains_with_every_seed_have_an_interval_and_a_p_value(n_seeds):
    correct, baseline = np.ones((n_seeds, 100), bool), np.ones((n_seeds, 100), bool)
    baseline[:, 0] = False
    assert paired_gain(correct, baseline).value == pytest.approx(0.01)
    assert 0 < paired_p_value(correct, baseline) < 1


def test_rule_says_whether_the_gain_was_confirmed_and_on_how_many_seeds():
    confirmed = [confirmation(3, 0.03)]
    assert rule_of(FOUND[3], confirmed=confirmed).endswith(
        "; its gain was confirmed on 5 fresh seed(s): +3.0 points [2.0, 4.0] for 1.030x "
        "[1.020, 1.040]"
    )
    unsure = [confirmation(3, 0.01, margin=0.02)]
    assert "was not confirmed on 5 fresh seed(s)" in rule_of(FOUND[3], confirmed=unsure)
    assert rule_of(FOUND[4], "knee", confirmed=confirmed).endswith("and was not confirmed")
    assert rule_of(FOUND[4], trial=4).startswith("trial 4 was asked for; its gain is the search's")
    assert rule_of(FOUND[0], confirmed=confirmed).endswith(
        "of 1 tried on fresh seeds, 1 gained beyond noise"
    )

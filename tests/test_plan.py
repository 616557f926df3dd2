"""From a budget to a plan: what fits, what grows with it, and what is given up first."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gcsearch.config import PlanSettings
from gcsearch.plan import (
    DEFAULT_BUDGET_S,
    DEFAULT_TRIALS,
    MIN_BASELINE_IMAGES,
    MIN_TRIAL_IMAGES,
    Plan,
    Speeds,
    make_plan,
)

SPEEDS = st.builds(
    Speeds,
    baseline=st.floats(20, 20_000),
    trial=st.floats(20, 20_000),
    scoring=st.floats(100, 50_000),
    latency_s=st.floats(0.3, 20),
    startup_s=st.floats(0, 60),
)
BUDGETS = st.floats(60, 24 * 3600)
SPLITS = st.fixed_dictionaries(
    {"n_val": st.integers(20, 10_000), "n_test": st.integers(20, 10_000)}
)
SMALL = {"n_val": 2000, "n_test": 2000}
USUAL = Speeds(baseline=400, trial=350, scoring=1200, latency_s=2, startup_s=6)


def cheapest_s(speeds, splits, trials, check_seeds=0):
    """Seconds of the smallest plan there is: least fidelity for everything."""
    least = PlanSettings(
        trials=trials,
        baseline_images=MIN_BASELINE_IMAGES,
        trial_images=MIN_TRIAL_IMAGES,
        check_seeds=check_seeds,
    )
    return make_plan(least, speeds, **splits).total_s


@given(SPEEDS, BUDGETS, SPLITS, st.integers(1, 4))
@example(Speeds(177, 37, 100, 1, 15), 103, {"n_val": 65, "n_test": 20}, 1)
def test_plan_fits_its_budget_when_any_plan_does(speeds, budget_s, splits, workers):
    plan = make_plan(PlanSettings(budget_s=budget_s), speeds, **splits, workers=workers)
    if cheapest_s(speeds, splits, trials=1) <= budget_s:
        assert plan.total_s <= 1.1 * budget_s


@given(SPEEDS, BUDGETS, SPLITS, st.integers(1, 200))
def test_wanted_trials_are_all_planned_when_they_fit(speeds, budget_s, splits, trials):
    settings = PlanSettings(budget_s=budget_s, trials=trials)
    plan = make_plan(settings, speeds, **splits)
    assert plan.wanted_trials == trials and 1 <= plan.n_trials <= trials
    # The baseline's share is taken first: two thirds are left for the trials.
    if cheapest_s(speeds, splits, trials) <= 0.66 * budget_s:
        assert plan.n_trials == trials


@given(SPEEDS, BUDGETS, SPLITS, st.integers(1, 5))
def test_fixed_check_shrinks_the_trials_before_it_costs_any(speeds, budget_s, splits, seeds):
    settings = PlanSettings(budget_s=budget_s, trials=5, check_seeds=seeds)
    plan = make_plan(settings, speeds, **splits)
    assert plan.check_seeds == seeds
    if cheapest_s(speeds, splits, 5, check_seeds=seeds) <= 0.66 * budget_s:
        assert plan.n_trials == 5


@given(SPEEDS, BUDGETS, SPLITS)
def test_nothing_shrinks_when_the_budget_doubles(speeds, budget_s, splits):
    less = make_plan(PlanSettings(budget_s=budget_s), speeds, **splits)
    more = make_plan(PlanSettings(budget_s=2 * budget_s), speeds, **splits)
    assert more.n_trials >= less.n_trials and more.check_seeds >= less.check_seeds
    assert more.baseline.images_seen >= less.baseline.images_seen
    if more.check_seeds == less.check_seeds and more.n_trials == less.n_trials:
        assert more.trial.images_seen >= less.trial.images_seen


@given(SPEEDS, BUDGETS | st.none(), SPLITS, st.integers(1, 10))
def test_fidelity_never_falls_below_the_least(speeds, budget_s, splits, epochs):
    plan = make_plan(PlanSettings(budget_s=budget_s, trial_epochs=epochs), speeds, **splits)
    assert plan.trial.images_seen > MIN_TRIAL_IMAGES - epochs and plan.trial.epochs == epochs
    assert plan.baseline.images_seen >= MIN_BASELINE_IMAGES


@given(SPEEDS, BUDGETS, SPLITS, st.integers(1, 8))
def test_plan_survives_the_database(speeds, budget_s, splits, workers):
    plan = make_plan(PlanSettings(budget_s=budget_s), speeds, **splits, workers=workers)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_too_many_trials_are_cut_and_the_wish_is_kept():
    plan = make_plan(PlanSettings(budget_s=120, trials=10_000), USUAL, **SMALL)
    assert plan.wanted_trials == 10_000 and 1 <= plan.n_trials < 50
    assert plan.trial.images_seen == MIN_TRIAL_IMAGES and plan.check_seeds == 0
    assert plan.total_s <= 120


def test_trials_alone_are_all_done_however_long_that_takes():
    plan = make_plan(PlanSettings(trials=500), USUAL, **SMALL)
    assert plan.budget_s is None and plan.n_trials == plan.wanted_trials == 500
    default = make_plan(PlanSettings(), USUAL, **SMALL)
    assert plan.trial == default.trial and plan.check_seeds == default.check_seeds == 3


def test_nothing_said_is_a_quarter_of_an_hour():
    plan = make_plan(PlanSettings(), USUAL, **SMALL)
    assert plan.budget_s == DEFAULT_BUDGET_S and plan.n_trials == DEFAULT_TRIALS
    assert 0.8 * DEFAULT_BUDGET_S <= plan.total_s <= DEFAULT_BUDGET_S


def test_what_the_user_fixed_is_kept():
    fixed = PlanSettings(
        budget_s=600,
        trials=3,
        baseline_images=4000,
        trial_images=3000,
        trial_epochs=3,
        check_seeds=1,
    )
    plan = make_plan(fixed, USUAL, **SMALL)
    assert (plan.baseline.images_seen, plan.trial.images_seen) == (4000, 3000)
    assert (plan.n_trials, plan.trial.epochs, plan.check_seeds) == (3, 3, 1)


@pytest.mark.parametrize("seeds", [0, 5])
def test_only_a_check_can_tell_a_checked_gain(seeds):
    plan = make_plan(PlanSettings(check_seeds=seeds), USUAL, **SMALL)
    assert (plan.smallest_checked_gain is None) == (seeds == 0)
    assert seeds == 0 or plan.smallest_checked_gain < plan.smallest_gain


def test_workers_share_the_machine():
    alone = make_plan(PlanSettings(), USUAL, **SMALL)
    four = make_plan(PlanSettings(), USUAL, **SMALL, workers=4)
    assert four.trial_s == pytest.approx(4 * alone.trial_s)
    assert four.total_s == pytest.approx(alone.total_s)

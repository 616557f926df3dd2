"""Front and choice, on findings made by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gcsearch.architecture import Architecture, Insertion
from gcsearch.cost import LatencyRatio
from gcsearch.errors import StudyError, UnknownNameError
from gcsearch.evaluation import Evaluation, pack
from gcsearch.intervals import Interval, smallest_gain
from gcsearch.plan import TYPICAL_SEED_SD
from gcsearch.results import (
    Finding,
    candidate_of,
    choose,
    findings,
    front,
    measured_smallest_gain,
    near_front,
)
from gcsearch.study import TrialRow

N_PICTURES = 100
BASELINE = Architecture("tiny")


def altered(number: int) -> Architecture:
    return Architecture("tiny", (Insertion(f"layer{number}"),))


def answers(n_right: int, n_swapped: int = 0) -> np.ndarray:
    """Return which pictures were answered rightly, ``n_swapped`` of them at the other end."""
    correct = np.arange(N_PICTURES) < n_right - n_swapped
    correct[N_PICTURES - n_swapped :] = True
    return correct


def evaluation_of(
    architecture: Architecture,
    correct: np.ndarray,
    *,
    seed: int = 0,
    ratio: float = 1.0,
    ratios: dict[str, float] | None = None,
) -> Evaluation:
    latency = LatencyRatio(ratio, ratio - 0.01, ratio + 0.01, True, 11.0, 10.0, 40, 1.0)
    top1, seconds = float(correct.mean()), {"training": 1.0}
    measured = (latency, 9, 9, seconds, 9, ratios or {})
    return Evaluation(architecture, seed, top1, 1.5, pack(correct), (), *measured)


def finding(number: int, top1: float, ratio: float, *, margin: float = 0.01) -> Finding:
    """Return a trial's finding; its gain is over a baseline of top1 0.5, give or take a margin."""
    architecture = altered(number) if number else BASELINE
    evaluation = evaluation_of(architecture, answers(round(top1 * N_PICTURES)), ratio=ratio)
    gain = top1 - 0.5
    margin = margin if number else 0.0
    return Finding(
        number,
        evaluation,
        Interval(gain, gain - margin, gain + margin),
        Interval(ratio, ratio - 0.01, ratio + 0.01),
    )


def numbers(found: list[Finding]) -> list[int]:
    return [f.number for f in found]


FOUND = [
    finding(0, 0.50, 1.00),
    finding(1, 0.52, 1.05),
    finding(2, 0.51, 1.10),  # slower and worse than 1
    finding(3, 0.58, 1.10),
    finding(4, 0.60, 1.40),
    finding(5, 0.48, 1.01),  # worse than the baseline, and slower
]


def with_cost(original: Finding, objective: str, ratio: float) -> Finding:
    """Return a finding of a study that minimises a cost that is counted."""
    return replace(original, objective=objective, ratios={objective: ratio})


def study_of(*evaluations: Evaluation, objective: str = "latency") -> SimpleNamespace:
    """Return what the results read of a study."""
    rows = [
        TrialRow(n, "COMPLETE", evaluation.architecture, evaluation, None, False, None)
        for n, evaluation in enumerate(evaluations)
    ]
    baseline = next((r for r in rows if r.architecture and r.architecture.is_baseline), None)
    return SimpleNamespace(
        name="made-by-hand",
        rows=lambda: rows,
        baseline=lambda: baseline,
        record=SimpleNamespace(objective=objective),
    )


def test_front_leaves_out_what_is_dominated():
    assert numbers(front(FOUND)) == [0, 1, 3, 4]


def test_front_keeps_equals():
    twins = [finding(1, 0.5, 1.1), finding(2, 0.5, 1.1)]
    assert numbers(front(twins)) == [1, 2]


def test_front_leaves_out_a_tie_in_one_and_worse_in_the_other():
    assert numbers(front([finding(1, 0.5, 1.1), finding(2, 0.5, 1.2)])) == [1]


def test_front_of_the_baseline_alone():
    assert numbers(front(FOUND[:1])) == [0]


COUNTED = [
    with_cost(found, "macs", ratio)
    for found, ratio in zip(FOUND, [1.0, 1.004, 1.001, 1.002, 1.003, 1.006], strict=True)
]
"""The same trials, by another cost than their latency."""


def test_front_is_that_of_the_cost_which_the_study_minimises():
    assert numbers(front(COUNTED)) == [0, 2, 3, 4]
    assert COUNTED[3].cost == Interval(1.002, 1.002, 1.002) and FOUND[3].cost == FOUND[3].latency


def test_knee_and_fastest_go_by_the_cost_which_the_study_minimises():
    assert choose(COUNTED[1:5], "fastest").number == 2
    assert choose(FOUND[1:5], "fastest").number == 1
    assert choose(COUNTED, "knee").number == 3


def test_better_one_of_equally_cheap_ones_is_picked():
    twins = [with_cost(f, "memory", 1.0) for f in FOUND]
    assert choose(twins, "fastest").number == 4


def test_findings_hold_all_costs_and_the_one_that_is_minimised():
    ratios = {"macs": 1.001, "params": 1.2, "memory": 1.05}
    trials = [
        evaluation_of(BASELINE, answers(50), ratios=dict.fromkeys(ratios, 1.0)),
        evaluation_of(altered(1), answers(60), ratio=1.1, ratios=ratios),
    ]
    base, found = findings(study_of(*trials, objective="params"))
    assert (base.cost, found.cost) == (Interval(1, 1, 1), Interval(1.2, 1.2, 1.2))
    data = found.to_dict()
    assert (data["objective"], data["latency_ratio"]) == ("params_ratio", [1.1, 1.09, 1.11])
    assert {k: data[f"{k}_ratio"] for k in ratios} == ratios and data["memory"] == 9


def test_ratios_of_an_older_study_come_from_its_counts():
    base, other = (evaluation_of(a, answers(50)) for a in (BASELINE, altered(1)))
    other = replace(other, macs=18, params=27, memory=None)
    found = findings(study_of(base, other))[1]
    assert found.ratios == {"macs": 2.0, "params": 3.0}
    assert found.to_dict()["memory_ratio"] is None


def test_findings_compare_by_picture():
    better = evaluation_of(altered(1), answers(60), ratio=1.1)
    found = findings(study_of(evaluation_of(BASELINE, answers(50), ratio=1.003), better))
    assert found[0].gain == Interval(0, 0, 0) and found[0].latency == Interval(1, 1, 1)
    assert found[1].gain.value == pytest.approx(0.1)
    assert found[1].gain.low < 0.1 < found[1].gain.high
    assert found[1].latency == Interval(1.1, 1.09, 1.11)


def test_interval_grows_with_pictures_answered_differently():
    same = evaluation_of(altered(1), answers(60))
    swapped = evaluation_of(altered(2), answers(60, n_swapped=20))
    found = findings(study_of(evaluation_of(BASELINE, answers(50)), same, swapped))
    assert found[1].gain.value == found[2].gain.value
    assert found[1].gain.half_width < found[2].gain.half_width


def test_baseline_comes_first_even_if_its_trial_was_a_later_one():
    found = findings(
        study_of(evaluation_of(altered(1), answers(60)), evaluation_of(BASELINE, answers(50)))
    )
    assert numbers(found) == [1, 0]


def test_findings_need_the_baseline():
    with pytest.raises(StudyError, match="no complete baseline trial yet; go on with"):
        findings(study_of(evaluation_of(altered(1), answers(60))))


def test_duplicates_are_no_findings():
    study = study_of(evaluation_of(BASELINE, answers(50)))
    study.rows().append(TrialRow(1, "COMPLETE", BASELINE, None, None, False, 0))
    assert numbers(findings(study)) == [0]


def test_near_the_front_is_what_reaches_it_by_its_upper_end():
    near = finding(6, 0.575, 1.20)  # cheaper than 4, and up to 0.585 where 3 has 0.58
    far = finding(7, 0.565, 1.20)
    bold = finding(8, 0.55, 1.50, margin=0.06)
    kept = near_front([*FOUND, near, far, bold])
    assert {f.number for f in kept} == {0, 1, 3, 4, 6, 8}
    assert numbers(kept)[0] == 4 and numbers(near_front(FOUND[:1])) == [0]


def test_near_the_front_goes_by_the_cost_which_the_study_minimises():
    assert {f.number for f in near_front(COUNTED)} == {0, 2, 3, 4}


def test_candidate_is_the_surest_gain_not_the_largest():
    bold = finding(7, 0.70, 1.1, margin=0.25)
    assert candidate_of([*FOUND, bold]).number == 4
    assert candidate_of(FOUND[:1]).is_baseline


def test_best_is_the_surest_gain():
    assert choose(FOUND).number == 4


def test_best_is_the_baseline_when_no_gain_is_beyond_noise():
    assert choose([FOUND[0], finding(1, 0.55, 1.1, margin=0.06)]).is_baseline


def test_best_keeps_the_latency_limit():
    assert choose(FOUND, limit=1.2).number == 3  # 4 takes up to 1.41
    assert choose(FOUND, limit=1.001).is_baseline


def test_knee_is_farthest_above_the_chord():
    assert choose(FOUND, "knee").number == 3
    assert choose(FOUND[:1], "knee").is_baseline
    assert choose(FOUND[:2], "knee").number in (0, 1)


def test_fastest_is_not_worse_than_the_baseline():
    quick_but_worse, quick = finding(6, 0.45, 0.90), finding(7, 0.50, 0.95)
    assert choose([*FOUND, quick_but_worse], "fastest").number == 0
    assert choose([*FOUND, quick_but_worse, quick], "fastest").number == 7


def test_trial_is_chosen_by_number():
    assert choose(FOUND, trial=5).number == 5


def test_trial_that_is_not_complete_names_those_that_are():
    with pytest.raises(StudyError, match="trial 9 is not complete; complete are 0, 1, 2"):
        choose(FOUND, trial=9)


def test_unknown_pick_names_the_near_one():
    with pytest.raises(UnknownNameError, match="did you mean 'fastest'"):
        choose(FOUND, "fasted")


def test_smallest_gain_uses_the_discordance_that_was_seen():
    trials = [evaluation_of(altered(n), answers(50, n_swapped=n)) for n in (1, 5, 10)]
    found = findings(study_of(evaluation_of(BASELINE, answers(50)), *trials))
    expected = smallest_gain(N_PICTURES, discordance=0.1, seed_sd=TYPICAL_SEED_SD)
    assert measured_smallest_gain(found) == pytest.approx(expected)
    assert measured_smallest_gain(found[:1]) is None


def test_finding_as_plain_data():
    data = FOUND[4].to_dict()
    assert data["trial"] == 4 and data["gain"] == pytest.approx([0.1, 0.09, 0.11])
    assert data["architecture"] == altered(4).to_dict()
    assert "NaN" not in str(data)

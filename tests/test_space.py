"""Which architectures are allowed, and the way from them to Optuna trials and back."""

from __future__ import annotations

import itertools

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FixedTrial
from pydantic import ValidationError

from gcsearch.architecture import Architecture, Insertion
from gcsearch.errors import SpaceError
from gcsearch.space import SearchSpace, SpaceSettings, select_sites
from gcsearch.surgery import Site


def site(path, kind="after-add", stage=1, channels=64, end=False):
    return Site(path, kind, stage, channels, (channels, 8, 8), is_stage_end=end)


SITES = [
    site("stem", "other", None, 8),
    site("layer1.0.bn2", "before-add"),
    site("layer1.0"),
    site("layer1.1", end=True),
    site("layer2.0", stage=2, channels=128),
    site("layer2.1", stage=2, channels=128, end=True),
    site("layer3.0", stage=3, channels=256, end=True),
]
SPACE = SearchSpace("resnet18", SITES, SpaceSettings(max_insertions=3))
NARROW = SpaceSettings(
    ratios=(1 / 4,), poolings=("att",), fusions=("channel_add",), max_insertions=2
)
SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS)
def test_random_architectures_encode_and_decode_exactly(seed):
    architecture = SPACE.random(np.random.default_rng(seed))
    params = SPACE.encode(architecture)
    trial = FixedTrial(params)
    assert SPACE.decode(trial) == architecture
    assert trial.params == params  # nothing more is asked, and nothing less


def test_baseline_and_typical_encode_and_decode_exactly():
    for space in (SPACE, SearchSpace("resnet18", SITES[:3], NARROW)):
        for architecture in (Architecture("resnet18"), space.typical()):
            assert space.decode(FixedTrial(space.encode(architecture))) == architecture


def test_every_insertion_is_yielded_once_with_its_site():
    pairs = list(SPACE.insertions())
    insertions = [insertion for _, insertion in pairs]
    one = SearchSpace("resnet18", SITES, SpaceSettings(max_insertions=1))
    assert len(set(insertions)) == len(insertions) == one.n_architectures - 1
    for site, insertion in pairs:
        assert insertion.site == site.path
        assert SPACE.encode(Architecture("resnet18", (insertion,)))


@given(st.floats(0.1, 1), st.floats(0.1, 1))
def test_any_ratio_encodes_and_decodes_exactly(one, other):
    space = SearchSpace("resnet18", SITES[3:], SpaceSettings(ratios=(one, other)))
    for ratio in (one, other):
        architecture = Architecture("resnet18", (Insertion("layer1.1", ratio=ratio),))
        assert space.decode(FixedTrial(space.encode(architecture))) == architecture


@given(SEEDS, st.integers(1, 9))
def test_never_more_than_max_insertions(seed, most):
    space = SearchSpace("resnet18", SITES, SpaceSettings(max_insertions=most))
    rng = np.random.default_rng(seed)

    class Greedy:
        def suggest_categorical(self, name, choices):
            return choices[-1] if name.endswith("/block") else choices[rng.integers(len(choices))]

    assert len(space.decode(Greedy()).insertions) == min(most, len(SITES))
    assert 1 <= len(space.random(rng).insertions) <= most
    assert 1 <= len(space.typical().insertions) <= most


@pytest.mark.parametrize("most", [1, 2, 3, 9])
def test_number_of_architectures_is_what_counting_gives(most):
    settings = SpaceSettings(
        ratios=(1 / 2, 1 / 4), poolings=("att",), fusions=("channel_add", "channel_mul"),
        max_insertions=most,
    )  # fmt: skip
    narrow = site("narrow", channels=4)  # too narrow for a ratio of 1/4
    space = SearchSpace("resnet18", [narrow, *SITES[2:4]], settings)
    ways = {"narrow": 1, "layer1.0": 2, "layer1.1": 2}
    options = [
        [None, *itertools.product([path], range(ways[path]), settings.fusions)] for path in ways
    ]
    picks = [set(filter(None, pick)) for pick in itertools.product(*options)]
    assert space.n_architectures == sum(len(pick) <= most for pick in picks)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_small_space_is_reached_whole_and_nothing_else_is():
    space = SearchSpace("resnet18", SITES[2:5], NARROW)
    study = optuna.create_study(sampler=optuna.samplers.BruteForceSampler())
    found = set()
    study.optimize(lambda trial: found.add(space.decode(trial)) or 0.0, n_trials=50)
    assert len(found) == len(study.trials) == space.n_architectures == 7


def test_ranges_are_the_same_in_every_trial():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: len(SPACE.decode(trial).insertions), n_trials=60)
    ranges = {}
    for trial in study.trials:
        for name, distribution in trial.distributions.items():
            assert ranges.setdefault(name, distribution) == distribution
    assert len(ranges) > 4 * len(SITES) - 4


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (Architecture("resnet34"), "backbone 'resnet34' is not 'resnet18'"),
        (
            Architecture("resnet18", tuple(Insertion(s.path, ratio=1 / 4) for s in SITES)),
            "7 insertions are more than the 3 of space.max_insertions",
        ),
        (Architecture("resnet18", (Insertion("fc"),)), "'gc' at 'fc' is not in the space"),
        (Architecture("resnet18", (Insertion("stem", "se"),)), "'se' at 'stem' is not in"),
        (Architecture("resnet18", (Insertion("layer1.0", ratio=0.3),)), "ratio '3/10' at"),
        (Architecture("resnet18", (Insertion("stem", ratio=1 / 16),)), "ratio '1/16' at 'stem'"),
        (Architecture("resnet18", (Insertion("layer1.0", pooling="max"),)), "pooling 'max' at"),
        (Architecture("resnet18", (Insertion("layer1.0", fusions=()),)), "fusions '' at"),
    ],
)
def test_architecture_outside_the_space_is_refused_with_the_reason(architecture, message):
    with pytest.raises(SpaceError, match=message):
        SPACE.encode(architecture)


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [
        (["auto"], ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0"]),
        (["all"], [s.path for s in SITES]),
        (["kind:before-add"], ["layer1.0.bn2"]),
        (["kind:other"], ["stem"]),
        (["kind:stage-end"], ["layer1.1", "layer2.1", "layer3.0"]),
        (["stage:2"], ["layer2.0", "layer2.1"]),
        (["layer3.0", "layer1.?"], ["layer1.0", "layer1.1", "layer3.0"]),
        (["layer[12].1", "stem", "stem"], ["stem", "layer1.1", "layer2.1"]),
    ],
)
def test_patterns_choose_sites_in_order_of_execution(patterns, paths):
    assert [s.path for s in select_sites(SITES, patterns)] == paths


def test_auto_takes_ends_of_stages_where_nothing_is_added():
    plain = [site("features.0", "other"), site("features.4", "stage-end", end=True)]
    assert [s.path for s in select_sites(plain, ["auto"])] == ["features.4"]


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("layer1.00", "did you mean 'layer1.0'"),
        ("kind:after-ad", "did you mean 'kind:after-add'"),
        ("stage:9", "there are stage:1, stage:2, stage:3"),
        ("stage:None", "there are stage:1, stage:2, stage:3"),
        ("nowhere", r"there are stem \.\.\. layer3.0 \(7\)"),
    ],
)
def test_pattern_that_fits_nothing_names_near_misses(pattern, told):
    with pytest.raises(SpaceError, match=told):
        select_sites(SITES, ["all", pattern])


def test_space_without_a_usable_site_is_refused():
    with pytest.raises(SpaceError, match=r"none of the 1 sites .* raise space\.ratios"):
        SearchSpace("resnet18", [site("stem", channels=8)], SpaceSettings(ratios=(1 / 16,)))


def test_settings_are_kept_in_one_form():
    settings = SpaceSettings(
        ratios=["1/16", 0.25, "1/4"],
        fusions=("channel_mul+channel_add", "channel_add+channel_mul", "channel_add+channel_add"),
    )
    assert settings.ratios == (0.25, 0.0625)
    assert settings.fusions == ("channel_add+channel_mul", "channel_add")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"blocks": ("cg",)}, "unknown block 'cg'; did you mean 'gc'"),
        ({"poolings": ("max",)}, "unknown pooling 'max'; "),
        ({"fusions": ("channel_ad",)}, "unknown fusion 'channel_ad'; did you mean 'channel_add'"),
        ({"ratios": ("2",)}, "ratio '2' is outside"),
        ({"ratios": ()}, "at least 1 item"),
        ({"max_insertions": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, told):
    with pytest.raises(ValidationError, match=told):
        SpaceSettings(**setting)


def test_every_block_is_searched_with_its_own_settings():
    settings = SpaceSettings(
        blocks=("gc", "se", "snl", "nl"),
        modes=("gaussian", "dot_product"),
        sub_samples=(False, True),
    )
    sites = [
        Site("picture", "after-add", 1, 64, (64, 8, 8)),
        Site("tokens", "after-add", 1, 64, (50, 64), "NLC"),
    ]
    space, rng = SearchSpace("tiny", sites, settings), np.random.default_rng(0)
    drawn = {i for _ in range(600) for i in space.random(rng).insertions}
    assert {i.block for i in drawn} == {"gc", "se", "snl", "nl"}
    assert {i.site for i in drawn if i.sub_sample} == {"picture"}  # tokens cannot be pooled by two
    n_gc, n_se, n_nl = 3 * 2 * 3, 3, 2
    assert space.n_architectures == (1 + n_gc + n_se + 1 + 2 * n_nl) * (1 + n_gc + n_se + 1 + n_nl)
    for _ in range(50):
        architecture = space.random(rng)
        params = space.encode(architecture)
        assert space.decode(optuna.trial.FixedTrial(params)) == architecture

"""An architecture and a fidelity in, an evaluation out; the same wherever it runs."""

from __future__ import annotations

import json
import time

import pytest
import torch
from safetensors.torch import save_file

from gcsearch.architecture import Architecture, Insertion
from gcsearch.backbones import build_backbone
from gcsearch.config import load_config
from gcsearch.cost import COSTS, LatencyRatio, count, peak_memory
from gcsearch.errors import ConfigError, LatencyError, OverLimitError, TrainingError
from gcsearch.evaluation import Evaluation, Evaluator, Refusal
from gcsearch.evaluation import evaluator as module
from gcsearch.proxy.training import Epoch, Fidelity, normalise, score
from gcsearch.surgery import inserted_blocks

pytestmark = pytest.mark.usefixtures("unshared_machine")
BRIEF = Fidelity(64, 2)
ALTERED = Architecture(
    "resnet18",
    (Insertion("layer3.1", ratio=1 / 8), Insertion("layer2.0", fusions=("channel_mul",))),
)
BASELINE = Architecture("resnet18")
CERTAIN = LatencyRatio(1.1, 1.09, 1.11, True, 3.0, 2.7, 30, 0.3)
NOISY = LatencyRatio(1.2, 0.8, 1.9, False, 3.0, 2.5, 30, 0.3)


@pytest.fixture(scope="module")
def evaluator(unshared_machine, tiny_config, cache_dir):
    evaluator = Evaluator(tiny_config, cache_dir=cache_dir, threads=1)
    list(evaluator.train_baseline(Fidelity(64, 1)))
    return evaluator


@pytest.fixture
def another(tiny_config, cache_dir):
    return Evaluator(tiny_config, cache_dir=cache_dir, threads=1)


def outputs(evaluator, model):
    images = normalise(evaluator.task.val.images[:4], evaluator.task, "cpu")
    with torch.inference_mode():
        return model.eval()(images)


def numbers(evaluation):
    point = [{k: v for k, v in p.items() if k != "seconds"} for p in evaluation.curve]
    return evaluation.top1, evaluation.loss, evaluation.correct, point


def test_architecture_inherits_the_baseline_and_starts_where_it_stands(evaluator):
    baseline = evaluator.build(ALTERED.baseline(), seed=0)
    altered = evaluator.build(ALTERED, seed=0)
    assert torch.equal(outputs(evaluator, altered), outputs(evaluator, baseline))
    losses = [score(m, evaluator.task, evaluator.task.val)[0] for m in (baseline, altered)]
    assert losses[0] == losses[1]


def test_timed_sites_have_the_form_of_the_pictures_that_are_timed(tiny_config, cache_dir):
    latency = tiny_config.latency.model_copy(update={"image_size": 64})
    config = tiny_config.model_copy(update={"latency": latency})
    evaluator = Evaluator(config, cache_dir=cache_dir, threads=1)
    pairs = list(zip(evaluator.sites, evaluator.timed_sites(), strict=True))
    assert all(one.path == other.path for one, other in pairs)
    assert {tuple(2 * n for n in one.positions) for one, _ in pairs} == {
        other.positions for _, other in pairs
    }


def test_context_of_latencies_is_the_same_for_another_evaluator(evaluator, another, tiny_config):
    context = evaluator.latency_context()
    assert context == another.latency_context() == json.loads(json.dumps(context))
    assert context["backbone"] == "resnet18" and context["input_size"] == [3, 32, 32]


def test_seed_decides_the_weights_of_the_blocks(evaluator):
    first, again, other = (
        inserted_blocks(evaluator.build(ALTERED, seed))["layer3.1"].conv_mask.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_evaluating_twice_gives_the_same(evaluator):
    (one, _), (two, _), (other, _) = (
        evaluator.evaluate(ALTERED, BRIEF, seed, with_latency=False) for seed in (5, 5, 6)
    )
    assert numbers(one) == numbers(two) != numbers(other)
    assert one.latency is None and len(one.curve) == BRIEF.epochs


def test_weights_taken_to_another_machine_give_the_same(evaluator, another):
    another.load_baseline(evaluator.weights())
    assert another.weights() == evaluator.weights()
    brief = Fidelity(64, 1)
    one, two = (e.evaluate(ALTERED, brief, 5, with_latency=False)[0] for e in (evaluator, another))
    assert numbers(one) == numbers(two)


def test_there_are_no_weights_before_the_baseline(another):
    with pytest.raises(RuntimeError, match="neither been trained nor loaded"):
        another.weights()


def test_evaluation_survives_plain_data(evaluator, monkeypatch):
    monkeypatch.setattr(evaluator, "measure_latency", lambda a: CERTAIN)
    evaluation, model = evaluator.evaluate(ALTERED, Fidelity(64, 1), 0)
    assert Evaluation.from_dict(json.loads(json.dumps(evaluation.to_dict()))) == evaluation
    assert evaluation.latency == CERTAIN
    assert evaluation.params == sum(p.numel() for p in model.parameters())
    assert evaluation.macs == count(model, (3, 32, 32)).macs


def test_what_is_scored_is_the_split_asked_for(evaluator):
    evaluation, _ = evaluator.evaluate(
        ALTERED, Fidelity(64, 1), 0, split=evaluator.task.test, with_latency=False
    )
    model = evaluator.evaluate(ALTERED, Fidelity(64, 1), 0, with_latency=False)[1]
    assert evaluation.loss == score(model, evaluator.task, evaluator.task.test)[0]


def test_latency_comes_before_training(evaluator, monkeypatch):
    order, real = [], module.train
    monkeypatch.setattr(evaluator, "measure_latency", lambda a: order.append("time") or CERTAIN)
    monkeypatch.setattr(module, "train", lambda *a, **k: order.append("train") or real(*a, **k))
    evaluation, _ = evaluator.evaluate(ALTERED, Fidelity(64, 1), 0)
    assert order == ["time", "train"] and evaluation.latency == CERTAIN


def test_latency_is_a_ratio_within_its_interval(evaluator):
    ratio = evaluator.measure_latency(ALTERED)
    assert 0 < ratio.low <= ratio.ratio <= ratio.high and ratio.pairs >= 1


def test_inconclusive_latency_costs_no_training(evaluator, monkeypatch):
    monkeypatch.setattr(evaluator, "measure_latency", lambda a: NOISY)
    monkeypatch.setattr(module, "train", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(
        LatencyError, match=r"inconclusive \[0\.800, 1\.900\] after 30 pairs, .*quiet"
    ):
        evaluator.evaluate(ALTERED, BRIEF, 0)


def override(evaluator, monkeypatch, *overrides: str) -> None:
    """Set limits, as ``--set`` does."""
    monkeypatch.setattr(evaluator, "config", load_config(evaluator.config.to_dict(), overrides))


@pytest.mark.parametrize(("limit", "is_over"), [(1.5, False), (1.05, True)])
def test_architecture_over_the_limit_is_not_trained(evaluator, monkeypatch, limit, is_over):
    override(evaluator, monkeypatch, f"latency.limit={limit}")
    monkeypatch.setattr(evaluator, "measure_latency", lambda a: CERTAIN)
    steps = evaluator.steps(ALTERED, Fidelity(64, 1), 0)
    if not is_over:
        assert next(steps).number == 1
        return
    with pytest.raises(OverLimitError, match=r"latency\.limit 1\.05; not trained") as caught:
        next(steps)
    refusal = Refusal.from_dict(json.loads(json.dumps(caught.value.refusal)))
    assert (refusal.cost, refusal.limit, refusal.latency) == ("latency", 1.05, CERTAIN)
    assert refusal.share == pytest.approx((CERTAIN.high - 1) / 0.05)
    assert refusal.ratios == evaluator.evaluate(ALTERED, BRIEF, 0, with_latency=False)[0].ratios
    assert next(evaluator.steps(ALTERED.baseline(), Fidelity(64, 1), 0)).number == 1


@pytest.mark.parametrize("cost", ["macs", "params", "memory"])
def test_what_is_over_a_counted_limit_is_neither_timed_nor_trained(evaluator, monkeypatch, cost):
    ratio = evaluator.count_costs(ALTERED)[cost] / evaluator.count_costs(BASELINE)[cost]
    monkeypatch.setattr(evaluator, "measure_latency", lambda a: CERTAIN)
    override(evaluator, monkeypatch, f"limits.{cost}={ratio}")
    assert next(evaluator.steps(ALTERED, BRIEF, 0)).number == 1
    override(evaluator, monkeypatch, f"limits.{cost}={1 + 0.9 * (ratio - 1)}")
    assert next(evaluator.steps(BASELINE, BRIEF, 0)).number == 1
    monkeypatch.setattr(evaluator, "measure_latency", lambda a: pytest.fail("timed"))
    with pytest.raises(
        OverLimitError, match=rf"{cost} ratio 1\.\d+ is over limits\.{cost} 1"
    ) as e:
        next(evaluator.steps(ALTERED, BRIEF, 0))
    assert e.value.refusal["latency"] is None and e.value.refusal["ratios"][cost] == ratio


def test_what_is_not_timed_is_not_held_to_limits(evaluator, monkeypatch):
    override(evaluator, monkeypatch, "limits.params=1.000001")
    assert next(evaluator.steps(ALTERED, BRIEF, 0, with_latency=False)).number == 1


def test_costs_are_those_of_the_served_network_and_its_backbone(evaluator):
    evaluation, model = evaluator.evaluate(ALTERED, Fidelity(64, 1), 0, with_latency=False)
    baseline = evaluator.build(BASELINE, 0)
    served = evaluator.config.latency
    assert evaluation.memory == peak_memory(model, (3, 32, 32), served)
    assert evaluation.ratios == {
        "macs": evaluation.macs / count(baseline, (3, 32, 32)).macs,
        "params": evaluation.params / sum(p.numel() for p in baseline.parameters()),
        "memory": evaluation.memory / peak_memory(baseline, (3, 32, 32), served),
    }
    assert all(1 < ratio < 1.1 for ratio in evaluation.ratios.values())


def test_peak_memory_is_that_of_the_served_batch(evaluator, monkeypatch):
    one = evaluator.count_costs(ALTERED)
    override(evaluator, monkeypatch, "latency.batch_size=4")
    four = evaluator.count_costs(ALTERED)
    assert four["memory"] > one["memory"]
    assert [four[cost] for cost in ("macs", "params")] == [one["macs"], one["params"]]


@pytest.mark.parametrize("architecture", [ALTERED, BASELINE], ids=["altered", "backbone"])
def test_memory_alone_follows_the_type_and_format_that_are_served(
    evaluator, tiny_config, cache_dir, architecture
):
    sets = ["latency.dtype=bf16", "latency.memory_format=contiguous", "latency.device=cpu"]
    config = load_config(tiny_config.to_dict(), sets)
    served = Evaluator(config, cache_dir=cache_dir, threads=1)
    costs, full = (e.count_costs(architecture) for e in (served, evaluator))
    model = evaluator.build(architecture, 0)
    assert costs["memory"] == peak_memory(model, (3, 32, 32), config.latency)
    assert costs["memory"] == pytest.approx(full["memory"] / 2, rel=0.01)
    assert [costs[cost] for cost in ("macs", "params")] == [full["macs"], full["params"]]


def test_baseline_costs_exactly_one(evaluator, monkeypatch):
    monkeypatch.setattr(evaluator, "measure_latency", lambda a: CERTAIN)
    evaluation, _ = evaluator.evaluate(BASELINE, Fidelity(64, 1), 0)
    assert evaluation.ratios == {"macs": 1, "params": 1, "memory": 1}
    assert [evaluation.cost_ratio(cost) for cost in COSTS] == [1, 1, 1, 1]


def test_evaluation_of_an_older_version_is_read(evaluator):
    evaluation, _ = evaluator.evaluate(ALTERED, Fidelity(64, 1), 0, with_latency=False)
    data = evaluation.to_dict()
    del data["memory"], data["ratios"]
    older = Evaluation.from_dict(data)
    assert (older.memory, older.ratios, older.cost_ratio("macs")) == (None, {}, None)
    assert (older.top1, older.macs) == (evaluation.top1, evaluation.macs)


def test_steps_are_epochs_and_then_the_evaluation(evaluator):
    *epochs, (evaluation, model) = evaluator.steps(ALTERED, BRIEF, 0, with_latency=False)
    assert all(isinstance(e, Epoch) for e in epochs) and len(epochs) == 2
    assert evaluation.top1 == epochs[-1].top1 and isinstance(model, torch.nn.Module)
    assert [p["loss"] for p in evaluation.curve] == [e.loss for e in epochs]


def test_training_an_architecture_leaves_the_baseline_as_it_was(evaluator):
    before = evaluator.weights()
    evaluator.evaluate(ALTERED, Fidelity(64, 1), 0, with_latency=False)
    assert evaluator.weights() == before


def test_training_that_fails_leaves_the_evaluator_usable(evaluator, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="out of memory"):
        patch.setattr(torch.nn.functional, "cross_entropy", fail)
        evaluator.evaluate(ALTERED, BRIEF, 0, with_latency=False)
    evaluator.evaluate(ALTERED, Fidelity(64, 1), 0, with_latency=False)


def test_baseline_starts_from_the_weights_that_are_given(tiny_config, cache_dir, tmp_path):
    torch.manual_seed(9)
    given = build_backbone("resnet18").state_dict()
    save_file(given, tmp_path / "given.safetensors")
    config = tiny_config.model_copy(update={"weights": str(tmp_path / "given.safetensors")})
    evaluator = Evaluator(config, cache_dir=cache_dir, threads=1)
    state = evaluator.build(Architecture("resnet18"), 0).state_dict()
    assert torch.equal(state["conv1.weight"], given["conv1.weight"])
    assert state["fc.weight"].shape == (10, 512)


def test_recipe_names_all_that_decides_the_baseline(evaluator, tiny_config, cache_dir):
    recipe = evaluator.recipe(BRIEF)
    assert recipe == evaluator.recipe(BRIEF) != evaluator.recipe(Fidelity(64, 3))
    slower = tiny_config.training.model_copy(update={"baseline_lr": 1e-4})
    changed = Evaluator(
        tiny_config.model_copy(update={"training": slower}), cache_dir=cache_dir, threads=1
    )
    assert changed.recipe(BRIEF) != recipe


def test_import_path_is_refused_before_any_data_are_made(tiny_config, tmp_path):
    config = tiny_config.model_copy(update={"backbone": "os:getcwd"})
    with pytest.raises(ConfigError, match="would run code of its own"):
        Evaluator(config, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_space_lies_over_the_chosen_sites(evaluator):
    space = evaluator.space()
    assert space.sites[0].path == "layer1.0" and len(space.sites) == 8


def test_speeds_are_measured_on_a_typical_architecture(evaluator, monkeypatch):
    asked = []
    monkeypatch.setattr(
        module, "measure_speed", lambda m, *a, **k: asked.append(m) or (100.0, 300.0)
    )
    speeds = evaluator.measure_speeds(evaluator.space(), time.perf_counter())
    assert (speeds.baseline, speeds.trial, speeds.scoring) == (100.0, 100.0, 300.0)
    assert speeds.latency_s > 0 and speeds.startup_s > 0
    assert [len(inserted_blocks(model)) for model in asked] == [0, 2]

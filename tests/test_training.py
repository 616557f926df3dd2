"""Proxy training: the same twice, better than chance, and honest about what goes wrong."""

from __future__ import annotations

from collections import namedtuple
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from gcsearch.architecture import Insertion
from gcsearch.errors import TrainingError
from gcsearch.proxy.task import ProxyTask, Split
from gcsearch.proxy.training import Fidelity, TrainingSettings, measure_speed, score, train
from gcsearch.surgery import backbone_state_dict, insert, inserted_blocks

SETTINGS = TrainingSettings(batch_size=16)
SHORT = Fidelity(64, 2)


def split(n, seed):
    """Pictures whose class is their brightness; no two are equal."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    noise = rng.integers(0, 60, (n, 16, 16, 3))
    return Split((noise + 120 * labels[:, None, None, None]).astype(np.uint8), labels)


TASK = ProxyTask("brightness", split(96, 0), split(60, 1), split(60, 2), ("dark", "light"), True)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(with_block=False, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )
    blocks = [Insertion("0", ratio=1 / 2)] if with_block else []
    return insert(model, blocks, input_size=(3, 16, 16))


def numbers(seed, settings=SETTINGS, **options):
    epochs = train(build(with_block=True), TASK, settings, SHORT, seed=seed, **options)
    return [(e.number, e.train_loss, e.loss, e.top1, e.correct.tolist()) for e in epochs]


def run(model, settings=SETTINGS, fidelity=SHORT, **options):
    return list(train(model, TASK, settings, fidelity, seed=0, **options))


def state_of(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


class Fails(nn.Module):
    """A classifier that does something else from some call on."""

    def __init__(self, action, after=0):
        super().__init__()
        self.inner, self.action, self.calls_left = build(), action, after

    def forward(self, x):
        self.calls_left -= 1
        return self.inner(x) if self.calls_left >= 0 else self.action(self.inner(x))


def raising(error):
    def action(*inputs, **options):
        raise error

    return action


def test_same_seed_gives_the_same_numbers_twice():
    assert numbers(seed=3) == numbers(seed=3)


def test_another_seed_gives_other_numbers():
    assert numbers(seed=3)[-1][1:3] != numbers(seed=4)[-1][1:3]


def test_what_a_caller_does_between_epochs_changes_no_number():
    epochs = []
    for epoch in train(build(with_block=True), TASK, SETTINGS, SHORT, seed=3):
        torch.rand(7)
        epochs.append(epoch.loss)
    assert epochs == [e[2] for e in numbers(seed=3)]


def test_baseline_learns_an_easy_task():
    epochs = run(build(), SETTINGS.model_copy(update={"baseline_lr": 0.03}), Fidelity(192, 3),
                 is_baseline=True)  # fmt: skip
    assert epochs[-1].top1 > 0.9 > TASK.chance + 0.2
    assert epochs[-1].loss < epochs[0].loss


def test_epochs_are_told_one_by_one():
    epochs = run(build(), fidelity=Fidelity(32, 3))
    assert [e.number for e in epochs] == [1, 2, 3]
    for epoch in epochs:
        assert epoch.correct.shape == (60,) and epoch.top1 == epoch.correct.mean()


def test_scores_are_of_the_split_that_is_asked_for():
    (epoch,) = run(build(), fidelity=Fidelity(16, 1), split=split(17, 9))
    assert epoch.correct.shape == (17,)


def test_fidelity_smaller_than_a_batch_is_one_step():
    assert len(run(build(), fidelity=Fidelity(1, 1))) == 1
    assert Fidelity(64, 2).images_seen == 128


def test_batch_larger_than_the_data_is_filled_by_going_round():
    assert len(run(build(), TrainingSettings(batch_size=256), Fidelity(256, 1))) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_is_a_training_error(value):
    with pytest.raises(TrainingError, match=r"training loss became nan; try a lower"):
        run(Fails(lambda logits: logits * value))


def test_validation_loss_that_is_not_finite_is_a_training_error():
    model = Fails(lambda logits: logits * float("nan"), after=4)
    with pytest.raises(TrainingError, match="validation loss became nan"):
        run(model, fidelity=Fidelity(64, 1))


@pytest.mark.parametrize("after", [0, 4])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["device", "processor"],
)
def test_memory_that_runs_out_is_a_training_error(error, after):
    with pytest.raises(TrainingError, match=r"out of memory .* training\.batch_size"):
        run(Fails(raising(error), after), fidelity=Fidelity(64, 1))


def test_memory_that_runs_out_on_the_way_to_the_device_is_a_training_error(monkeypatch):
    model = Fails(lambda logits: logits)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    monkeypatch.setattr(model, "to", raising(error))
    with pytest.raises(TrainingError, match=r"out of memory .* training\.batch_size"):
        run(model, fidelity=Fidelity(64, 1))


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("a bug")])
def test_bugs_are_not_taken_for_bad_architectures(error):
    with pytest.raises(type(error), match="a bug"):
        run(Fails(raising(error)))


Outputs = namedtuple("Outputs", "logits aux_logits2 aux_logits1")


def test_tuples_with_the_scores_first_are_read():
    run(Fails(lambda logits: Outputs(logits, None, None)))


@pytest.mark.parametrize(
    ("action", "told"),
    [
        (lambda x: {"out": x}, "returns dict, not class scores"),
        (lambda x: x[:, :, None], r"returns \(16, 2, 1\), not class scores"),
        (lambda x: x[:, :1], r"shape \(16, 1\) for 16 pictures of at least 2 classes"),
        (lambda x: x[:3], r"shape \(3, 2\) for 16 pictures"),
    ],
)
def test_outputs_that_are_no_class_scores_are_refused(action, told):
    with pytest.raises(TrainingError, match=told):
        run(Fails(action))


def test_trial_of_blocks_alone_leaves_the_backbone_as_it_was():
    model = build(with_block=True)
    before = state_of(model)
    run(model, SETTINGS.model_copy(update={"trainable": "blocks"}))
    backbone = backbone_state_dict(model)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed & backbone.keys() == {"4.weight", "4.bias"}
    assert any(".channel_add_conv.3" in key for key in changed - backbone.keys())


def test_classifier_is_found_before_a_block_at_the_very_end():
    torch.manual_seed(0)
    tail = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU())
    model = nn.Sequential(nn.Conv2d(3, 8, 3), tail, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    insert(model, [Insertion("1", ratio=1 / 2)], input_size=(3, 16, 16))
    before = state_of(model)
    run(model, SETTINGS.model_copy(update={"trainable": "blocks"}))
    assert not torch.equal(before["1.0.weight"], model.state_dict()["1.0.weight"])
    assert torch.equal(before["0.weight"], model.state_dict()["0.weight"])


def rates(monkeypatch, model, **options):
    groups = []

    class Spy(torch.optim.AdamW):
        def __init__(self, params, **settings):
            groups.extend({**g, "params": list(g["params"])} for g in params)
            super().__init__(params, **settings)

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    run(model, fidelity=Fidelity(16, 1), **options)
    return {id(p): group["lr"] for group in groups for p in group["params"]}


def test_blocks_learn_at_a_rate_of_their_own(monkeypatch):
    model = build(with_block=True)
    lr = rates(monkeypatch, model)
    block = {id(p) for p in inserted_blocks(model)["0"].parameters()}
    assert {lr[id(p)] for p in model.parameters() if id(p) in block} == {SETTINGS.block_lr}
    assert {lr[id(p)] for p in model.parameters() if id(p) not in block} == {SETTINGS.backbone_lr}


def test_baseline_is_trained_whole_at_its_own_rate(monkeypatch):
    settings = SETTINGS.model_copy(update={"trainable": "blocks"})
    model = build()
    lr = rates(monkeypatch, model, settings=settings, is_baseline=True)
    assert lr == {id(p): SETTINGS.baseline_lr for p in model.parameters()}


def test_machine_is_held_in_every_step_and_scoring_and_not_between():
    held = []

    @contextmanager
    def hold():
        held.append("in")
        yield
        held.append("out")

    for _ in train(build(), TASK, SETTINGS, Fidelity(32, 2), seed=0, hold=hold):
        assert held[-1] == "out"
    assert held == ["in", "out"] * (2 * (2 + 1))


def test_mixed_precision_trains_too():
    (epoch,) = run(build(with_block=True), fidelity=Fidelity(32, 1), precision="bf16")
    assert np.isfinite(epoch.loss)


def test_scoring_changes_nothing_and_repeats():
    model = build(with_block=True)
    before = state_of(model)
    (loss, correct), (again, _) = (score(model, TASK, TASK.val) for _ in range(2))
    assert loss == again and correct.shape == (60,)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_speeds_are_pictures_a_second():
    training, scoring = measure_speed(build(), TASK, SETTINGS, seconds=0.01)
    assert training > 0 and scoring > 0

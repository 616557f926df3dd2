"""Surgery: blocks change nothing at first, learn, and come out again."""

from __future__ import annotations

import copy
import pickle
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import (
    SIZE,
    assert_unchanged,
    dense_net,
    everywhere,
    images,
    output,
    perturb,
    residual_net,
    sequential_net,
    snapshot,
    unchanged,
)
from torch import nn

from gcsearch.architecture import Insertion
from gcsearch.errors import SiteError, UnknownNameError
from gcsearch.surgery import (
    BLOCK_NAME,
    backbone_state_dict,
    find_sites,
    insert,
    inserted_blocks,
    remove,
)


@pytest.mark.parametrize("mode", ["eval", "train", "autocast", "channels_last"])
def test_blocks_at_every_site_change_no_output(net, mode):
    x = images()
    if mode == "channels_last":
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    net.train(mode == "train")
    expected = copy.deepcopy(net)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        everywhere(net)
        assert torch.equal(output(net, x), output(expected, x))


def test_blocks_run_once_at_every_site(net):
    blocks, ran = inserted_blocks(everywhere(net)), []
    for path, block in blocks.items():
        block.register_forward_hook(lambda *_, path=path: ran.append(path))
    net(images())
    assert sorted(ran) == sorted(blocks) == sorted(s.path for s in find_sites(remove(net), SIZE))


def test_remove_brings_the_backbone_back(net):
    next(net.children()).eval()
    with unchanged(net):
        assert remove(everywhere(net)) is net
    assert not inserted_blocks(net)


def test_keys_of_the_backbone_stay(net):
    state = copy.deepcopy(net.state_dict())
    everywhere(net)
    others = [key for key in net.state_dict() if key not in state]
    assert others and all(BLOCK_NAME in key.split(".") for key in others)
    assert list(backbone_state_dict(net)) == list(state)
    net.load_state_dict(state, strict=False)


@pytest.mark.parametrize(
    ("insertions", "error", "message"),
    [
        ([("layer5.0",)], SiteError, "site 'layer5.0' is not in Sequential; `gcsearch sites`"),
        (
            [("1.1", "gc", 0.5), ("1.1.bn",)],
            SiteError,
            "'1.1.bn' is not in Sequential; did you mean '1.1.b",
        ),
        ([("1.1",), ("1.0",), ("1.1", "gc", 0.25)], SiteError, "site '1.1' is named twice"),
        ([("1.1", "gc", 0.5), ("1.0", "gc", 0.1)], SiteError, "'1.0' cannot hold block 'gc': rat"),
        ([("1.1", "gc", 0.5), ("1.0", "cg", 0.5)], UnknownNameError, "unknown block 'cg'"),
        ([("0", "gc", 0.5), ("2.0", "gc", 0.5)], SiteError, "site '2.0' already holds a block"),
        ([("1.1", "gc", 0.5, "max")], SiteError, "pooling 'max' is unknown; use one of att, avg"),
    ],
)
@pytest.mark.parametrize("is_probed", [False, True])
def test_failed_insertion_leaves_the_model_as_it_was(small, insertions, error, message, is_probed):
    sites = None if is_probed else find_sites(small, SIZE)
    insert(small, [Insertion("2.0", ratio=0.5)], input_size=SIZE)
    with unchanged(small), pytest.raises(error, match=message):
        insert(small, [Insertion(*i) for i in insertions], input_size=SIZE, sites=sites)


def test_failed_attachment_leaves_the_model_as_it_was(small, monkeypatch):
    sites = find_sites(small, SIZE)
    chosen = [Insertion("1.0", ratio=0.5), Insertion("1.1", ratio=0.5)]
    real = nn.Module.add_module

    def add_module(host, name, module):
        if name == BLOCK_NAME and host is small[1][1]:
            raise RuntimeError("out of luck")
        real(host, name, module)

    monkeypatch.setattr(nn.Module, "add_module", add_module)
    with unchanged(small), pytest.raises(RuntimeError, match="out of luck"):
        insert(small, chosen, sites=sites)


def test_empty_architecture_is_the_baseline(small):
    with unchanged(small):
        assert insert(small, []) is small


def test_known_sites_save_the_probe(small):
    sites = find_sites(small, SIZE)
    small.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    insert(small, [Insertion("1.1", ratio=0.5)], sites=sites)
    assert list(inserted_blocks(small)) == ["1.1"]


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_copies_compute_the_same_and_are_apart(net, duplicate):
    perturb(everywhere(net)).eval()
    twin = duplicate(net)
    assert torch.equal(output(twin), output(net))
    assert list(twin.state_dict()) == list(net.state_dict())
    before = output(net)
    remove(twin)
    assert torch.equal(output(net), before)
    assert not torch.equal(output(twin), before)


def test_saved_state_fits_the_same_architecture_elsewhere(small, tmp_path):
    perturb(everywhere(small)).eval()
    torch.save(small.state_dict(), tmp_path / "altered.pt")
    other = everywhere(residual_net()).eval()
    other.load_state_dict(torch.load(tmp_path / "altered.pt", weights_only=True))
    assert torch.equal(output(other), output(small))


def test_blocks_learn(small):
    everywhere(small).train()
    expected = output(small)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        output(small).square().sum().backward()
        optimizer.step()
    for block in inserted_blocks(small).values():
        assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
        assert any(p.grad.abs().sum() > 0 for p in block.parameters())
    assert not torch.equal(output(small), expected)


def test_blocks_take_over_type_and_mode(small):
    small.bfloat16()
    small[1].eval()
    blocks = inserted_blocks(everywhere(small))
    assert {p.dtype for block in blocks.values() for p in block.parameters()} == {torch.bfloat16}
    assert [blocks[path].training for path in ("0", "1.1", "2.1")] == [True, False, True]
    assert all(p.requires_grad for block in blocks.values() for p in block.parameters())


def test_blocks_of_a_mixed_precision_model_have_the_type_of_its_kernels(small):
    small.half()
    for module in small.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    block = inserted_blocks(everywhere(small))["1.1.bn2"]
    assert next(block.parameters()).dtype == torch.float16


def test_model_on_the_meta_device_can_be_altered():
    with torch.device("meta"):
        model = residual_net()
    blocks = inserted_blocks(everywhere(model))
    assert {p.device.type for block in blocks.values() for p in block.parameters()} == {"meta"}


@pytest.mark.parametrize("is_strict", [True, False])
def test_altered_model_can_be_exported(is_strict):
    for build in (sequential_net, dense_net):
        model = perturb(everywhere(build())).eval()
        program = torch.export.export(model, (images(),), strict=is_strict)
        torch.testing.assert_close(output(program.module()), output(model))


def test_altered_model_compiles_without_a_break(small):
    perturb(everywhere(small)).eval()
    compiled = torch.compile(small, backend="eager", fullgraph=True)
    torch.testing.assert_close(output(compiled), output(small))


def test_altered_model_can_be_traced_by_fx(small):
    perturb(everywhere(small)).eval()
    traced = torch.fx.symbolic_trace(small)
    assert torch.equal(output(traced), output(small))


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1))
def test_any_set_of_insertions_in_any_order_is_one_model(seed, share):
    model, rng = residual_net().eval(), random.Random(seed)
    sites = find_sites(model, SIZE)
    chosen = [Insertion(s.path, ratio=0.5) for s in sites if rng.random() < share]
    before, expected = snapshot(model), output(model)
    keys = list(insert(model, chosen, sites=sites).state_dict())
    assert sorted(inserted_blocks(model)) == sorted(i.site for i in chosen)
    assert torch.equal(output(model), expected)
    assert_unchanged(remove(model), before)
    rng.shuffle(chosen)
    assert list(insert(model, chosen, sites=sites).state_dict()) == keys

"""Hosts: to their users they stay what they were, and they tell when their block is lost."""

from __future__ import annotations

import copy

import pytest
import torch
from small_nets import SIZE, dense_net, everywhere, images, output, perturb
from torch import nn

from gcsearch.architecture import Insertion
from gcsearch.errors import SurgeryError
from gcsearch.surgery import BLOCK_NAME, insert, inserted_blocks, remove


def test_hosts_keep_their_kind_in_all_but_the_exact_type(net):
    modules = list(net.modules())
    before = [(type(m), type(m).__module__, type(m).__qualname__) for m in modules]
    everywhere(net)
    for module, (kind, package, name) in zip(modules, before, strict=True):
        assert isinstance(module, kind)
        assert (type(module).__module__, type(module).__qualname__) == (package, name)
    assert BLOCK_NAME in repr(net)


def test_sequential_hides_its_block():
    model = everywhere(nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())))
    host = model[0]
    assert BLOCK_NAME in host._modules
    assert len(host) == len(list(host)) == len(host[:]) == 2
    assert (host[0], host[-1]) == tuple(host)
    assert type(host[:1]) is nn.Sequential and BLOCK_NAME not in host[:]._modules
    with pytest.raises(SurgeryError, match=r"cannot be moved or deleted; gcsearch\.remove"):
        del host[0]
    host.append(nn.Identity())
    assert len(remove(model)[0]) == 3


def test_module_dict_hides_its_block():
    host = everywhere(dense_net())[1]
    assert (len(host), list(host), list(host.keys())) == (2, ["a", "b"], ["a", "b"])
    assert list(host.items()) == list(zip("ab", host.values(), strict=True))
    assert "a" in host and BLOCK_NAME not in host
    with pytest.raises(SurgeryError, match="cannot be moved or deleted"):
        host.pop("a")


def test_hooks_of_the_user_stay_and_see_the_block(small):
    seen = []
    small[1].register_forward_hook(lambda module, args, out: seen.append(out))
    perturb(insert(small, [Insertion("1", ratio=0.5)], input_size=SIZE)).eval()
    seen.clear()
    output(small)
    remove(small)
    output(small)
    assert len(seen) == 2 and not torch.equal(*seen)


def test_block_whose_host_was_replaced_is_reported_and_removed(small):
    insert(small, [Insertion("1.0.bn1", ratio=0.5)], input_size=SIZE)
    small = nn.SyncBatchNorm.convert_sync_batchnorm(small)
    with pytest.raises(SurgeryError, match=r"'1\.0\.bn1' is no longer called, because SyncBatchN"):
        inserted_blocks(small)
    assert not any(BLOCK_NAME in key for key in remove(small).state_dict())


def swap_norms(model):
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def fold_norms(model):
    block = model[1][0]
    block.conv1 = torch.nn.utils.fusion.fuse_conv_bn_eval(block.conv1, block.bn1)
    block.bn1 = nn.Identity()
    return model


def drop_stage(model):
    model[1] = nn.Identity()
    return model


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (swap_norms, "SyncBatchNorm replaced its host; gcsearch.remove"),
        (fold_norms, "Identity replaced its host; gcsearch.remove"),
        (drop_stage, "its host went; gcsearch.remove"),
    ],
)
@pytest.mark.parametrize("duplicate", [lambda model: model, copy.deepcopy])
def test_model_that_lost_the_call_of_a_block_refuses_to_run(small, change, told, duplicate):
    small.eval()
    insert(small, [Insertion("1.0.bn1", ratio=0.5)], input_size=SIZE)
    insert(small, [Insertion("2.0", ratio=0.5)], input_size=SIZE)
    changed = change(duplicate(small))
    with pytest.raises(SurgeryError, match=rf"'1\.0\.bn1' is no longer called, because {told}"):
        changed.eval()(images())
    remove(changed)(images())

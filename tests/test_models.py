"""Surgery on every model of torchvision: it changes no bit, learns, and goes without a trace.

Those with more than ``GIANT`` parameters are frozen, so that only gradients of blocks are held.
Copies are made of the smallest of each file: what can go wrong there lies in the kinds of modules,
which it shares with the larger ones.
"""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import random
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.ops import StochasticDepth
from torchvision_models import Setup, build, call, insertion, setup_of, wake

from gcsearch.surgery import BLOCK_NAME, find_sites, insert, inserted_blocks, remove

pytestmark = pytest.mark.slow

GIANT = 150_000_000
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(repr=False)
class Case:
    """A model, what it is run with, what it returned, and what is inserted where."""

    model: nn.Module
    setup: Setup
    sites: list
    insertions: list
    paths: list
    before: dict


def smallest_of_each_file():
    """Return the name of the smallest model of each file of torchvision."""
    files = {}
    for name in models.list_models():
        files.setdefault(models.get_model_builder(name).__module__, []).append(name)
    return [min(names, key=n_parameters) for names in files.values()]


def n_parameters(name):
    return models.get_model_weights(name).DEFAULT.meta["num_params"]


@pytest.fixture(scope="module", params=models.list_models())
def case(request):
    name = request.param
    model, setup = build(name), setup_of(name)
    model.requires_grad_(sum(p.numel() for p in model.parameters()) <= GIANT)
    sites = find_sites(model, setup.size)
    insertions = [insertion(i, site) for i, site in enumerate(spread(model, sites, name))]
    paths = [each.site for each in insertions]
    before = {mode: run(model, setup, mode, paths) for mode in ("eval", "train")}
    yield Case(model, setup, sites, insertions, paths, before)
    gc.collect()


def spread(model, sites, name):
    """Return the first and the last site, and one of each class, layout, kind and stage."""
    rng, chosen, groups = random.Random(name), {sites[0].path, sites[-1].path}, {}
    for site in sites:
        host = type(model.get_submodule(site.path)).__name__
        for feature in (host, f"{site.kind} {site.layout}", site.stage):
            groups.setdefault(feature, []).append(site.path)
    chosen.update(rng.choice(paths) for paths in groups.values())
    return [site for site in sites if site.path in chosen]


def run(model, setup, mode, paths):
    """Return the features at some sites, all outputs, and in training all statistics.

    The statistics are put back.
    """
    features = []
    with torch.no_grad(), statistics_put_back(model), watched(model, paths, features):
        outputs = call(model.train(mode == "train"), setup)
        statistics = [buffer.clone() for buffer in model.buffers() if mode == "train"]
    return [value for _, value in features] + outputs + statistics


@contextmanager
def watched(model, paths, calls):
    """Append the path and a copy of the output of each call of some modules."""
    handles = []
    for path in paths:
        keep = functools.partial(lambda path, *call: calls.append((path, call[2].clone())), path)
        handles.append(model.get_submodule(path).register_forward_hook(keep))
    yield
    for handle in handles:
        handle.remove()


@contextmanager
def statistics_put_back(model):
    buffers = [buffer.clone() for buffer in model.buffers()]
    yield
    for buffer, value in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(value)


def bits(tensor):
    tensor = tensor.detach()
    return tensor.view(BITS[tensor.itemsize]) if tensor.is_floating_point() else tensor


def are_same(some, others):
    pairs = zip(some, others, strict=True)
    return all(torch.equal(bits(one), bits(other)) for one, other in pairs)


@contextmanager
def altered(case):
    insert(case.model, case.insertions, sites=case.sites)
    try:
        yield case.model
    finally:
        remove(case.model)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def traces(model):
    modules = dict(model.named_modules())
    hooks = {path: (*m._forward_hooks, *m._forward_pre_hooks) for path, m in modules.items()}
    kinds = {path: (id(m), type(m), list(m._modules)) for path, m in modules.items()}
    return kinds, hooks, [(key, id(p)) for key, p in model.named_parameters()], repr(model)


def test_outputs_are_worth_comparing(case):
    for outputs in case.before.values():
        assert any(t.is_floating_point() and t.numel() and t.any() for t in outputs)
        assert all(t.isfinite().all() for t in outputs)


def test_sites_are_found_and_blocks_fit_there(case):
    assert case.sites
    with altered(case) as model:
        assert list(inserted_blocks(model)) and len(case.insertions) >= min(3, len(case.sites))
        assert set(inserted_blocks(model)) == {each.site for each in case.insertions}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_blocks_change_no_bit(case, mode):
    with altered(case) as model:
        outputs = run(model, case.setup, mode, case.paths)
    assert are_same(outputs, case.before[mode])


def test_keys_of_the_backbone_stay_in_order(case):
    keys = list(case.model.state_dict())
    with altered(case) as model:
        others = [key for key in model.state_dict() if BLOCK_NAME not in key.split(".")]
    assert others == keys


def test_every_block_is_called_once_and_learns(case):
    with altered(case) as model, statistics_put_back(model):
        wake(model)
        for module in model.train().modules():
            module.training = not isinstance(module, StochasticDepth)
        inside, calls = [f"{path}.{BLOCK_NAME}" for path in case.paths], []
        with watched(model, inside, calls):
            outputs = [t for t in call(model, case.setup) if t.requires_grad]
        sum(t.square().mean() for t in outputs).backward()
        blocks = inserted_blocks(model)
    model.zero_grad()
    assert sorted(path for path, _ in calls) == sorted(inside)
    for path, block in blocks.items():
        grads = [parameter.grad for parameter in block.parameters()]
        assert all(grad is not None and grad.isfinite().all() for grad in grads), path
        assert any(grad.any() for grad in grads), path


@pytest.mark.parametrize("case", smallest_of_each_file(), indirect=True)
@pytest.mark.parametrize("way", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])
def test_copies_compute_the_same(case, way):
    with altered(case) as model:
        wake(model)
        outputs = run(model, case.setup, "eval", case.paths)
        assert are_same(run(way(model), case.setup, "eval", case.paths), outputs)
    assert not are_same(outputs, case.before["eval"])


def test_remove_leaves_no_trace(case):
    before = traces(case.model)
    with altered(case) as model:
        assert traces(model) != before
    assert traces(case.model) == before
    assert are_same(run(case.model, case.setup, "eval", case.paths), case.before["eval"])

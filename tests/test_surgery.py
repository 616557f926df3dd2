"""Surgery: where blocks may go, that they change nothing at first, and come out again."""

from __future__ import annotations

import copy
import pickle
import random
import warnings
from contextlib import contextmanager

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gcsearch.architecture import Insertion
from gcsearch.errors import SiteError, SurgeryError, UnknownNameError
from gcsearch.surgery import (
    BLOCK_NAME,
    backbone_state_dict,
    find_sites,
    insert,
    inserted_blocks,
    remove,
)

BOTH = ("channel_add", "channel_mul")


class Residual(nn.Module):
    """A basic block; its last ReLU works in place on a sum made in place."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = self.bn1(self.conv1(x)).relu_()
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return out.relu_()


class ResidualSequential(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class DenseBlock(nn.ModuleDict):
    """Runs the items it has on the list of all features before, as torchvision's DenseNet does."""

    def forward(self, x):
        features = [x]
        for layer in self.values():
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


class SumOfChildren(nn.Module):
    def __init__(self, *children):
        super().__init__()
        for i, child in enumerate(children):
            self.add_module(f"branch{i}", child)

    def forward(self, x):
        return sum(child(x) for child in self.children())


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def head(channels):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]


def residual_net():
    layer1 = nn.Sequential(Residual(8, 8), Residual(8, 8))
    layer2 = nn.Sequential(Residual(8, 16, 2), Residual(16, 16))
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), layer1, layer2, nn.Dropout(), *head(16))


def sequential_net():
    body = ResidualSequential(nn.Conv2d(8, 8, 3, 1, 1), nn.Hardswish(), nn.Conv2d(8, 8, 1))
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), body, nn.ReLU(inplace=True), *head(8))


def dense_net():
    block = DenseBlock({"a": nn.Conv2d(8, 4, 3, 1, 1), "b": nn.Conv2d(12, 4, 3, 1, 1)})
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), block, nn.ReLU(), *head(16))


def vgg_net():
    """A plain network that takes images of 32 x 32 only."""
    layers = []
    for inputs, outputs in [(3, 8), (8, 16), (16, 16)]:
        layers += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    features = nn.Sequential(*layers)
    return nn.Sequential(features, nn.Flatten(), nn.Linear(16 * 4 * 4, 5))


def resnet18():
    return torchvision.models.resnet18(num_classes=5)


def mobilenet():
    return torchvision.models.mobilenet_v3_small(num_classes=5)


NETS = {
    "residual": residual_net,
    "sequential": sequential_net,
    "dense": dense_net,
    "vgg": vgg_net,
    "resnet18": resnet18,
    "mobilenet": mobilenet,
}
SIZE = (3, 32, 32)


@pytest.fixture(params=NETS)
def net(request):
    torch.manual_seed(0)
    return NETS[request.param]()


@pytest.fixture
def small():
    torch.manual_seed(0)
    return residual_net()


def images(n=4):
    return torch.randn(n, *SIZE, generator=torch.Generator().manual_seed(1))


def everywhere(model, **chosen):
    chosen = {"ratio": 0.5, "fusions": BOTH, **chosen}
    sites = find_sites(model, SIZE)
    return insert(model, [Insertion(s.path, **chosen) for s in sites], sites=sites)


def perturb(model):
    for block in inserted_blocks(model).values():
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.2)
    return model


def output(model, x=None):
    torch.manual_seed(7)
    return model(images() if x is None else x)


def snapshot(model):
    """Everything that surgery and probes must leave, or bring back, as it was."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modules = dict(model.named_modules())
    kinds = {path: (type(m), m.training, id(m)) for path, m in modules.items()}
    hooks = {
        path: (len(m._forward_hooks), len(m._forward_pre_hooks)) for path, m in modules.items()
    }
    return kinds, hooks, repr(model), state


def assert_unchanged(model, before):
    *now, state = snapshot(model)
    assert now == list(before[:3])
    assert list(state) == list(before[3])
    assert all(torch.equal(value, before[3][key]) for key, value in state.items())


@contextmanager
def unchanged(model):
    before = snapshot(model)
    yield
    assert_unchanged(model, before)


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


def test_found_sites_leave_model_and_generators_as_they_were(net):
    net.train()
    next(net.children()).eval()
    random_state = torch.get_rng_state()
    with unchanged(net):
        assert find_sites(net, SIZE) == find_sites(net, SIZE)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_sites_do_not_depend_on_the_weights(small):
    sites = find_sites(small, SIZE)
    nn.init.constant_(small[0].weight, float("nan"))
    assert find_sites(small, SIZE) == sites


def test_shapes_of_sites_are_those_of_their_outputs(net):
    sites, shapes = find_sites(net, SIZE), {}
    for path, module in net.named_modules():
        module.register_forward_hook(lambda m, a, y, path=path: shapes.update({path: y.shape[1:]}))
    net.eval()(images())
    for site in sites:
        assert site.shape == shapes[site.path]
        assert (site.channels, site.layout) == (site.shape[0], "NCHW")


def test_altered_model_has_the_sites_of_its_backbone(small):
    sites = find_sites(small, SIZE)
    insert(small, [Insertion("1.1", ratio=0.5)], input_size=SIZE)
    with unchanged(small):
        assert find_sites(small, SIZE) == sites


@pytest.mark.parametrize(
    ("name", "n_blocks", "ends"),
    [
        ("resnet18", 8, ["layer1.1", "layer2.1", "layer3.1", "layer4.1"]),
        ("resnet50", 16, ["layer1.2", "layer2.3", "layer3.5", "layer4.2"]),
    ],
)
def test_kinds_and_stages_of_resnets(name, n_blocks, ends):
    sites = find_sites(torchvision.models.get_model(name), (3, 64, 64))
    after = [s for s in sites if "after-add" in s.kinds]
    before = [s for s in sites if "before-add" in s.kinds]
    last = "bn3" if name == "resnet50" else "bn2"
    assert [s.path for s in before] == [f"{s.path}.{last}" for s in after]
    assert len(after) == n_blocks
    assert [s.path for s in sites if "stage-end" in s.kinds] == ends
    assert all(f"layer{s.stage}." in s.path for s in after)


def test_kinds_of_mobilenet():
    sites = find_sites(mobilenet(), (3, 64, 64))
    after = [s.path for s in sites if s.kind == "after-add"]
    assert after == [f"features.{i}" for i in (3, 5, 6, 8, 10, 11)]
    before = [s.path for s in sites if s.kind == "before-add"]
    assert before[:2] == ["features.3.block.2.1", "features.5.block.3.1"]
    assert len(before) == len(after)


def test_kinds_of_hand_made_residual_nets(small):
    kinds = {s.path: s.kinds for s in find_sites(small, SIZE) if s.kind != "other"}
    assert kinds == {
        "1.0": ("after-add",),
        "1.1": ("after-add", "stage-end"),
        "2.0": ("after-add",),
        "2.1": ("after-add", "stage-end"),
        **{f"{block}.bn2": ("before-add",) for block in ("1.0", "1.1", "2.0", "2.1")},
    }
    kinds = {s.path: s.kinds for s in find_sites(sequential_net(), SIZE) if s.kind != "other"}
    assert kinds == {"1": ("after-add", "stage-end"), "1.2": ("before-add",)}


def test_stages_of_a_net_without_additions_end_before_its_poolings():
    sites = find_sites(vgg_net(), SIZE)
    assert [(s.path, s.stage) for s in sites if "stage-end" in s.kinds] == [
        ("0.1", 1),
        ("0.4", 2),
        ("0.7", 3),
    ]


def test_addition_in_the_root_belongs_to_the_activation_after_it():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, 1, 1)
            self.act, self.next, self.last = nn.ReLU(), nn.ReLU(), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            x = self.stem(x)
            x = self.act(x + self.conv(x))
            y = x + self.last(x)
            return y + self.next(y)

    kinds = {s.path: s.kind for s in find_sites(Root(), SIZE)}
    assert kinds == {
        "stem": "other",
        "conv": "before-add",
        "act": "after-add",
        "last": "other",
        "next": "other",
    }


def windows(x):
    """Cut features of shape (N, C, H, W) into (N * windows, C, 4, 4)."""
    return x.unflatten(3, (-1, 4)).unflatten(2, (-1, 4)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


class Odd(nn.Module):
    """One module for each reason not to be a site, and some odd sites, on the same features."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 4, 1)
        self.twice = nn.ReLU()
        self.never = nn.Conv2d(8, 8, 1)
        self.shared = self.alias = nn.Conv2d(8, 8, 1)
        self.pair = Function(lambda x: (x, x))
        self.integers = Function(lambda x: x.long())
        self.vector = nn.AdaptiveAvgPool2d(1)
        self.fixed = nn.AdaptiveAvgPool2d(8)
        self.channels_last = Function(lambda x: x.permute(0, 2, 3, 1))
        self.mixed = Function(lambda x: x.permute(0, 2, 1, 3))
        self.attention = Function(lambda x: x.flatten(2).mT @ x.flatten(2))
        self.heads = Function(lambda x: (x.flatten(2).mT @ x.flatten(2)).unsqueeze(1))
        self.windows = Function(windows)
        self.both = Function(lambda x: torch.cat([x, x]))
        self.constant = Function(lambda x: torch.zeros(*x.shape))
        self.patched = nn.Identity()
        self.patched.forward = torch.relu
        self.children_sum = SumOfChildren(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))

    def forward(self, x):
        x = self.twice(self.twice(self.stem(x)))
        skipped = ("stem", "twice", "never", "shared")
        for name, module in self.named_children():
            if name not in skipped:
                module(x)
        return self.shared(x)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "is the model itself"),
        ("twice", "is called 2 times"),
        ("never", "is never called"),
        ("shared", "is shared between several places"),
        ("pair", "does not return one floating-point tensor with 3 to 5 axes"),
        ("integers", "does not return one floating-point tensor"),
        ("attention", "does not return features"),
        ("vector", "does not return features"),
        ("fixed", "does not return features"),
        ("mixed", "does not return features"),
        ("heads", "does not return features"),
        ("windows", "does not return features"),
        ("constant", "returns what does not depend on the input"),
        ("patched", "has a forward of its own"),
        ("children_sum", "cannot be made to run one child more"),
    ],
)
def test_unfit_module_is_no_site_and_says_why(path, reason):
    model = Odd()
    assert {s.path: s.layout for s in find_sites(model, SIZE)} == {
        "stem": "NCHW",
        "channels_last": "NHWC",
        "both": "NCHW",
        "children_sum.branch0": "NCHW",
        "children_sum.branch1": "NCHW",
    }
    if path:
        with pytest.raises(
            SiteError, match=f"'{path}' of Odd is no site: it {reason}.*lists the 5"
        ):
            insert(model, [Insertion(path, ratio=0.5)], input_size=SIZE)


def test_container_that_cannot_bear_a_child_more_leaves_the_others_as_sites():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            first, second = self.children()
            return second(first(x))

    model = nn.Sequential(Picky(), nn.ReLU())
    assert [s.path for s in find_sites(model, SIZE)] == ["0.first", "0.second", "1"]


def test_model_of_one_size_only_is_judged_by_its_proportions():
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.AvgPool2d(16), nn.Flatten(), nn.Linear(8, 2)]
    assert [s.path for s in find_sites(nn.Sequential(*layers), SIZE)] == ["0"]


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


def test_failed_probe_names_module_cause_and_cure_and_leaves_the_model(small):
    small.train()
    message = r"Sequential cannot be probed .*\(1, 1, 32, 32\): its module '0' raised .*input_size"
    with unchanged(small), pytest.raises(SurgeryError, match=message):
        find_sites(small, (1, 32, 32))


@pytest.mark.parametrize("size", [(3, 32), (3, 0, 32), (3, 32.0, 32)])
def test_wrong_input_size_is_refused(small, size):
    with pytest.raises(SurgeryError, match=r"is neither \(channels, height, width\)"):
        find_sites(small, size)


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 1)))


def compiled_in_place():
    model = nn.Sequential(nn.Conv2d(3, 8, 1))
    model.compile()
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.DataParallel(nn.Conv2d(3, 8, 1)), "DataParallel wraps .* pass model.module"),
        (scripted, "is compiled TorchScript"),
        (lambda: torch.compile(nn.Conv2d(3, 8, 1)), "compiled; alter the model first"),
        (compiled_in_place, "compiled; alter the model first"),
        (lambda: nn.Sequential(nn.LazyConv2d(8, 1)), "uninitialised parameters"),
        (lambda: len, "is no torch.nn.Module"),
    ],
)
def test_model_that_cannot_be_altered_is_refused(build, message):
    with pytest.raises(SurgeryError, match=message):
        find_sites(build(), SIZE)


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


class Tokens(nn.Module):
    """A vision transformer in small, with or without a class token."""

    def __init__(self, has_class_token):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 16)) if has_class_token else None
        self.norm, self.mlp = nn.LayerNorm(16), nn.Sequential(nn.Linear(16, 16), nn.GELU())
        self.end, self.head = nn.Identity(), nn.Linear(16, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = self.end(x + self.mlp(self.norm(x)))
        return self.head(x.mean(1) if self.token is None else x[:, 0])


class ChannelsLast(nn.Module):
    """A stage of ConvNeXt's kind: the features are permuted in the middle."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.linear = (
            nn.Conv2d(3, 16, 4, 4),
            nn.LayerNorm(16),
            nn.Linear(16, 16),
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.linear(self.norm(self.conv(x).permute(0, 2, 3, 1)))
        return self.head(x.mean((1, 2)))


class Attention(nn.Module):
    """Self-attention with modules that work on each head, and two keys to a query."""

    def __init__(self, n_heads):
        super().__init__()
        self.shape = (3, n_heads, 16 // n_heads)
        self.patches, self.qkv = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 48)
        self.norm, self.pool = nn.LayerNorm(self.shape[2]), nn.AvgPool2d(2)
        self.depthwise = nn.Conv2d(self.shape[2], self.shape[2], 1, groups=self.shape[2])
        self.weights, self.means = nn.Softmax(-1), nn.Identity()
        self.joined, self.project = nn.Identity(), nn.Linear(16, 16)
        self.shuffle = Function(self.interleave)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.patches(x).permute(0, 2, 3, 1)
        n, height, width, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, -1, *self.shape).permute(2, 0, 3, 4, 1)
        pictures = torch.cat([k, v]).reshape(-1, self.shape[2], height, width)
        k, v = self.pool(self.depthwise(pictures)).reshape(2, *k.shape[:3], -1)
        means = self.means(self.weights(self.norm(q.mT) @ k) @ v.mT)
        joined = self.joined(means.mT.reshape(n, 16, height, width))
        x = x + self.project(joined.permute(0, 2, 3, 1))
        return self.head(self.shuffle(x).mean((1, 2)))

    def interleave(self, x):
        return x.unflatten(3, (2, 8)).transpose(3, 4).reshape(x.shape)


@pytest.mark.parametrize("size", [SIZE, (3, 32, 64)])
def test_what_has_its_channels_divided_into_heads_is_no_site(size):
    model = Attention(n_heads=4)
    features = ["patches", "qkv", "joined", "project", "shuffle"]
    assert [s.path for s in find_sites(model, size)] == features
    message = "'norm' of Attention is no site: it does not return features: no axis has all"
    with pytest.raises(SiteError, match=message):
        insert(model, [Insertion("norm", "snl")], input_size=size)


def test_single_head_has_all_channels():
    sites = {s.path: s.shape for s in find_sites(Attention(n_heads=1), SIZE)}
    assert sites["norm"] == (1, 64, 16)


def test_channels_that_were_spread_over_positions_are_divided_no_more():
    def enlarge(x):
        x = x.unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)
        return x.flatten(4).flatten(2, 3)

    layers = [nn.Conv2d(3, 16, 3, 2), Function(enlarge), nn.Conv2d(4, 8, 1), *head(8)]
    assert [s.path for s in find_sites(nn.Sequential(*layers), SIZE)] == ["0", "1", "2"]


def test_values_without_axes_or_elements_are_no_obstacle():
    def empty(x):
        return x + x.sum().view(()).reshape(1, 1) + x[:, :0].reshape(len(x), 0).sum()

    layers = [nn.Conv2d(3, 8, 3, 2), *head(8), Function(empty)]
    assert [s.path for s in find_sites(nn.Sequential(*layers), SIZE)] == ["0"]


def video_net():
    body = [nn.Conv3d(3, 8, 3, (1, 2, 2), 1), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 16, 1)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 5))


class Flow(nn.Module):
    """Two pictures go through one encoder as one batch, as in networks for optical flow."""

    def __init__(self):
        super().__init__()
        self.encoder, self.update = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(16, 2, 1)

    def forward(self, first, second, steps=2):
        features = self.encoder(torch.cat([first, second]))
        return self.update(torch.cat(features.chunk(2), 1))


LAYOUTS = {
    "NLC": (lambda: Tokens(False), (3, 32, 32), {"norm", "mlp", "mlp.0", "mlp.1", "end"}),
    "NLC with a class token": (
        lambda: Tokens(True),
        (3, 32, 32),
        {"norm", "mlp", "mlp.0", "mlp.1", "end"},
    ),
    "NHWC": (ChannelsLast, (3, 32, 32), {"norm", "linear"}),
    "NCTHW": (video_net, (3, 4, 32, 32), {"0", "1", "2", "3"}),
    "NCHW of pairs": (Flow, (3, 32, 32), {"encoder", "update"}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", ["gc", "se", "snl", "nl"])
def test_blocks_work_in_every_layout(layout, block):
    build, size, paths = LAYOUTS[layout]
    torch.manual_seed(0)
    model = build()
    sites = [s for s in find_sites(model, size) if s.layout == layout.split()[0]]
    assert {s.path for s in sites} == paths
    inputs = [torch.randn(4, *size) for _ in range(2 if "pairs" in layout else 1)]
    expected = model(*inputs)
    settings = {"ratio": 1} if block in ("gc", "se") else {}
    insert(model, [Insertion(s.path, block, **settings) for s in sites], sites=sites)
    assert torch.equal(model(*inputs), expected)
    perturb(model)(*inputs).sum().backward()
    for path, module in inserted_blocks(model).items():
        assert any(p.grad is not None and p.grad.any() for p in module.parameters()), path
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(*inputs), model(*inputs))


def test_channels_are_found_in_a_model_of_one_size_only():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = Tokens(True)
            self.places = nn.Parameter(torch.randn(1, 17, 16))

        def forward(self, x):
            x = self.tokens.patches(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.tokens.token.expand(len(x), -1, -1), x], 1) + self.places
            return self.tokens.head(self.tokens.norm(x)[:, 0])

    assert {s.path: (s.layout, s.positions) for s in find_sites(Fixed(), SIZE)} == {
        "tokens.patches": ("NCHW", (4, 4)),
        "tokens.norm": ("NLC", (17,)),
    }


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

"""Sites: where blocks may go, what is said of them, and why elsewhere is none."""

from __future__ import annotations

import warnings

import pytest
import torch
import torchvision
from small_nets import (
    SIZE,
    Function,
    SumOfChildren,
    images,
    mobilenet,
    sequential_net,
    unchanged,
    vgg_net,
)
from torch import nn

from gcsearch.architecture import Insertion
from gcsearch.errors import SiteError, SurgeryError
from gcsearch.surgery import find_sites, insert


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

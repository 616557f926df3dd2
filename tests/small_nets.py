"""Networks small enough to alter at every site, and what is done to them; it tests nothing."""

from __future__ import annotations

from contextlib import contextmanager

import torch
import torchvision
from torch import nn

from gcsearch.architecture import Insertion
from gcsearch.cost import LatencySettings
from gcsearch.surgery import find_sites, insert, inserted_blocks

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


def two_convolutions() -> nn.Module:
    """What takes no time to speak of, for tests of how time is taken."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


LOOSE = LatencySettings(image_size=16, threads=1, precision=0.4, time_limit_s=5, disturbance=1)
"""Settings that time it to so little precision that noise cannot make it inconclusive."""

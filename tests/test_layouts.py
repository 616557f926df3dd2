"""Layouts: channels are found, and blocks work, whatever the order of the axes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from small_nets import SIZE, Function, head, perturb
from torch import nn

from gcsearch.architecture import Insertion
from gcsearch.errors import SiteError
from gcsearch.surgery import find_sites, insert, inserted_blocks


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

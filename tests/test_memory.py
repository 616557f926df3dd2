"""Peak memory of tiny networks against sums made by hand; four bytes a number unless told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gcsearch.architecture import Architecture, Insertion
from gcsearch.backbones import build_altered, build_backbone
from gcsearch.blocks import GlobalContext
from gcsearch.cost import LatencySettings, peak_memory
from gcsearch.errors import LatencyError

SIDE = 12
AREA = SIDE * SIDE
SIZE = (3, SIDE, SIDE)
ON_CPU = LatencySettings(device="cpu")
CONTIGUOUS = LatencySettings(device="cpu", memory_format="contiguous")


def conv(n_in: int, n_out: int) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, padding=1)


def beside_weights(model: nn.Module, settings: LatencySettings = ON_CPU) -> int:
    """Return how many numbers are held at the peak, the input's among them."""
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    peak = peak_memory(model, SIZE, settings) - weights
    assert peak % 4 == 0
    return peak // 4


class Calling(nn.Module):
    """Calls a function of its layers and the input."""

    def __init__(self, forward, *layers):
        super().__init__()
        self.function, self.layers = forward, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_chain_holds_its_input_and_the_two_widest_neighbours(batch_size):
    chain = nn.Sequential(conv(3, 8), conv(8, 4), conv(4, 2))
    widest = max(8, 8 + 4, 4 + 2)
    settings = LatencySettings(device="cpu", batch_size=batch_size)
    assert beside_weights(chain, settings) == batch_size * (3 + widest) * AREA


def test_what_is_freed_does_not_add_up():
    assert beside_weights(nn.Sequential(conv(3, 8), *[conv(8, 8) for _ in range(9)])) == (
        (3 + 8 + 8) * AREA
    )


def test_what_is_kept_adds_up():
    def dense(x, *convs):
        kept = [x]
        for layer in convs:
            kept.append(layer(kept[-1]))
        return torch.cat(kept, 1)

    each = 3 + 8 + 4 + 2
    assert beside_weights(Calling(dense, conv(3, 8), conv(8, 4), conv(4, 2))) == 2 * each * AREA


def test_residual_block_holds_its_input_until_the_addition():
    stem, inner, outer = conv(3, 6), conv(6, 4), conv(4, 6)
    model = Calling(lambda x, a, b, c: (y := a(x)) + c(b(y)), stem, inner, outer)
    at_outer, at_addition = 6 + 4 + 6, 6 + 6 + 6
    assert beside_weights(model) == (3 + max(at_outer, at_addition)) * AREA


def test_branch_that_outlives_the_rest_is_counted_to_its_end():
    model = Calling(lambda x, a, b, c: b(a(x)) + c(x), conv(3, 9), conv(9, 2), conv(3, 2))
    assert beside_weights(model) == (3 + max(9 + 2, 2 + 2 + 2)) * AREA


@pytest.mark.parametrize("pooling", ["att", "avg"])
def test_context_block_adds_its_output_and_three_vectors(pooling):
    channels = 16
    block = GlobalContext(channels, ratio=1 / 4, pooling=pooling)
    # At the fusion: its input and output, the context, the branch's vector, and that negated.
    held = (3 + 2 * channels) * AREA + 3 * channels
    assert beside_weights(nn.Sequential(conv(3, channels), block)) == held


def test_inplace_operations_need_nothing():
    plain, inplace = (nn.Sequential(conv(3, 8), nn.ReLU(inplace=i)) for i in (False, True))
    assert beside_weights(plain) == (3 + 8 + 8) * AREA
    assert beside_weights(inplace) == (3 + 8) * AREA
    assert beside_weights(Calling(lambda x: x.add_(1).mul_(2).clamp_(0))) == 3 * AREA


def test_views_need_nothing():
    def views(x, layer):
        y = layer(x)
        return y.flatten(2).transpose(1, 2)[:, ::2].unsqueeze(0).expand(5, -1, -1, -1), y[:, 1:]

    assert beside_weights(Calling(views, conv(3, 8))) == (3 + 8) * AREA
    assert beside_weights(Calling(lambda x: torch.zeros(1).expand(999))) == 3 * AREA + 1


def test_view_keeps_all_of_its_storage_alive():
    def corner(x, a, b):
        y = a(x)[:, :1, :1, :1]
        return y, b(x)

    assert beside_weights(Calling(corner, conv(3, 8), conv(3, 2))) == (3 + 8 + 2) * AREA


def test_views_of_weights_are_weights():
    def product(x, linear):
        return torch.matmul(x.flatten(2), linear.weight.t())

    layer = nn.Linear(AREA, 5, bias=False)
    assert beside_weights(Calling(product, layer)) == 3 * AREA + 3 * 5


def test_what_is_resized_counts_with_its_new_size():
    def resized(x):
        y = torch.zeros(2)
        return y.resize_(50), y.resize_(20)

    assert beside_weights(Calling(resized)) == 3 * AREA + 50


def test_buffers_are_counted_and_shared_weights_once():
    layer = nn.Linear(8, 8, bias=False)
    tied = nn.Sequential(layer, layer)
    assert peak_memory(tied, (3, 8), ON_CPU) == 4 * (64 + 3 * 24)
    norm = nn.BatchNorm2d(4)  # four vectors, and the number of batches in eight bytes
    assert peak_memory(norm, (4, 2, 2), ON_CPU) == 4 * (4 * 4 + 2 * 16) + 8


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_type_is_that_of_the_settings_whatever_the_weights_have(dtype):
    half = LatencySettings(device="cpu", dtype=dtype)
    for model in (nn.Sequential(conv(3, 8), nn.ReLU()), nn.Linear(SIDE, 8).to(torch.bfloat16)):
        assert 2 * peak_memory(model, SIZE, half) == peak_memory(model, SIZE, ON_CPU)


def test_memory_format_of_the_settings_decides_what_is_copied():
    channels_first = Calling(lambda x, layer: layer(x).flatten(1), conv(3, 8))
    assert beside_weights(channels_first, CONTIGUOUS) == (3 + 8) * AREA
    assert beside_weights(channels_first, ON_CPU) == (3 + 8 + 8) * AREA
    channels_last = Calling(lambda x, layer: layer(x).permute(0, 2, 3, 1).flatten(1), conv(3, 8))
    assert beside_weights(channels_last, CONTIGUOUS) == (3 + 8 + 8) * AREA
    assert beside_weights(channels_last, ON_CPU) == (3 + 8) * AREA


def test_video_is_served_with_its_channels_last_too():
    flat = Calling(lambda x: x.permute(0, 2, 3, 4, 1).flatten(1))
    last, first = (peak_memory(flat, (3, 2, 4, 4), s) for s in (ON_CPU, CONTIGUOUS))
    assert first == 2 * last == 2 * 4 * 96


def test_device_is_that_of_the_settings():
    with pytest.raises(
        LatencyError, match=r"latency\.device 'abacus' cannot be used here: .*auto"
    ):
        peak_memory(conv(3, 8), SIZE, LatencySettings(device="abacus"))


def test_model_that_refuses_the_input_is_a_latency_error():
    with pytest.raises(LatencyError, match=r"shape \(1, 3, 12, 12\): .*latency\.image_size"):
        peak_memory(conv(4, 8), SIZE, ON_CPU)


def test_measuring_is_repeatable_and_leaves_the_model_as_it_was():
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.Dropout()).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert len({peak_memory(model, SIZE, ON_CPU) for _ in range(3)}) == 1
    assert all(module.training for module in model.modules())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert model[0].weight.is_contiguous() and model[0].weight.grad is None


def test_block_away_from_the_peak_costs_its_weights_alone():
    backbone = build_backbone("squeezenet1_1")
    insertion = Insertion("features.3", ratio=1 / 4)
    altered = build_altered(
        Architecture("squeezenet1_1", (insertion,)), n_classes=1000, input_size=(3, 64, 64)
    )
    own, other = (peak_memory(m, (3, 64, 64), ON_CPU) for m in (altered, backbone))
    added = sum(p.numel() for p in altered.parameters()) - sum(
        p.numel() for p in backbone.parameters()
    )
    assert own == other + 4 * added  # the activations are most numerous elsewhere


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_peak_on_cuda_is_at_least_what_the_tensors_need():
    chain = nn.Sequential(conv(3, 8), conv(8, 4))
    on_cuda = peak_memory(chain, (3, 64, 64), LatencySettings(device="cuda"))
    assert on_cuda >= peak_memory(chain, (3, 64, 64), ON_CPU)
    assert on_cuda == peak_memory(chain, (3, 64, 64), LatencySettings(device="cuda"))

"""What every block promises, whatever it computes: identity, layouts, gradients, export, cost."""

from __future__ import annotations

import inspect
import itertools
import math
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gcsearch.blocks import (
    BLOCK_SETTINGS,
    BLOCKS,
    FUSIONS,
    MODES,
    POOLINGS,
    SETTING_DEFAULTS,
    NonLocal,
    SimplifiedNonLocal,
    SqueezeExcitation,
    build_block,
    complete_settings,
    global_context,
    n_macs,
    n_params,
    settings,
)
from gcsearch.errors import BlockError, UnknownNameError

CHOSEN = {
    "gc": [
        {"ratio": 1 / 4, "pooling": pooling, "fusions": fusions}
        for pooling, fusions in itertools.product(POOLINGS, [FUSIONS[:1], FUSIONS[1:], FUSIONS])
    ],
    "nl": [
        {"mode": mode, "sub_sample": sub_sample}
        for mode, sub_sample in itertools.product(MODES, [False, True])
    ],
    "se": [{"ratio": 1 / 4}],
    "snl": [{}],
}
CASES = [(name, chosen) for name in BLOCKS.names() for chosen in CHOSEN[name]]
SHAPES = [(3, 16, 7), (3, 16, 1), (3, 16, 7, 5), (1, 16, 1, 1), (2, 16, 3, 4, 5), (1, 16, 1, 1, 1)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# What the softmax shifts out again: their true gradient is zero.
DEAD = {"gc": {"conv_mask.bias"}, "snl": {"conv_mask.bias"}, "nl": {"phi.bias"}}

every_case = pytest.mark.parametrize(("name", "chosen"), CASES, ids=str)
each_kind = pytest.mark.parametrize(
    ("name", "chosen"), [*((name, CHOSEN[name][-1]) for name in CHOSEN), *CASES[7:12:2]], ids=str
)


def contiguous(x):
    return x.contiguous()


def channels_last(x):
    """A permuted view, as surgery makes it of features that have their channels last."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def transposed(x):
    return x.transpose(1, -1).contiguous().transpose(1, -1)


def part_of_more(x):
    return torch.cat([x, x], dim=1)[:, ::2]


LAYOUTS = [contiguous, channels_last, transposed, part_of_more]


def features(*shape, dtype=torch.float32):
    """Features as networks make them: some are zeros of either sign."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3
    return torch.where(x.abs() < 1, torch.copysign(torch.zeros(()), x), x).to(dtype)


def same_bits(a, b):
    kind = BITS[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.view(kind), b.view(kind))


def randomised(block):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.3)
    return block


def can_take(chosen, shape):
    """Say whether the block takes such features: a single position cannot be sub-sampled."""
    return not chosen.get("sub_sample") or (len(shape) == 4 and min(shape[2:]) > 1)


every_case_and_shape = pytest.mark.parametrize(
    ("name", "chosen", "shape"),
    [(*case, shape) for case in CASES for shape in SHAPES if can_take(case[1], shape)],
    ids=str,
)


@every_case_and_shape
def test_new_block_changes_no_bit(name, chosen, shape):
    block = build_block(name, shape[1], **chosen)
    for dtype, layout, mode in itertools.product(DTYPES, LAYOUTS, [True, False]):
        x = layout(features(*shape, dtype=dtype))
        assert same_bits(block.to(dtype).train(mode)(x), x)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_keeps_type_and_identity(name, chosen, dtype):
    block = build_block(name, 16, **chosen).to(dtype)
    x = features(2, 16, 6, 6, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        assert same_bits(block(x), x)
        assert randomised(block)(x).dtype == dtype


@every_case_and_shape
def test_layout_changes_nothing_but_itself(name, chosen, shape):
    block = randomised(build_block(name, shape[1], **chosen)).double()
    for layout in LAYOUTS:
        x = layout(features(*shape, dtype=torch.float64))
        out = block(x)
        assert out.shape == x.shape
        assert order_of_axes(out) == order_of_axes(x)
        torch.testing.assert_close(out, block(x.contiguous()))


def order_of_axes(x):
    """Return the axes from the outermost to the innermost in memory, without those of size 1."""
    axes = [axis for axis in range(x.dim()) if x.shape[axis] > 1]
    return sorted(axes, key=x.stride, reverse=True)


@pytest.mark.parametrize(
    ("name", "chosen"), [case for case in CASES if not case[1].get("sub_sample")], ids=str
)
def test_position_axes_are_but_a_view(name, chosen):
    block = randomised(build_block(name, 16, **chosen)).double()
    x = features(2, 16, 3, 4, 5, dtype=torch.float64)
    out = block(x).flatten(2)
    torch.testing.assert_close(block(x.flatten(2)), out)
    torch.testing.assert_close(block(x.flatten(3)).flatten(2), out)


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_the_exact_result(name, chosen, dtype):
    block = randomised(build_block(name, 16, **chosen)).to(dtype)
    x = features(2, 16, 8, 8, dtype=dtype)
    exact = block.double()(x.double())
    out = block.to(dtype)(x).double()
    assert (out - exact).norm() < 0.02 * exact.norm()


@every_case
def test_gradients_reach_every_parameter_after_one_step(name, chosen):
    torch.manual_seed(0)
    block = build_block(name, 16, **chosen)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        block(features(4, 16, 6, 6)).square().mean().backward()
        optimizer.step()
    grads = {key: parameter.grad for key, parameter in block.named_parameters()}
    assert all(grad is not None for grad in grads.values())
    assert {key for key, grad in grads.items() if not grad.any()} <= DEAD.get(name, set())


@every_case
def test_gradients_are_those_of_finite_differences(name, chosen):
    block = randomised(build_block(name, 8, **chosen)).double()
    x = torch.randn(2, 8, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))


@every_case
def test_block_can_be_exported_for_any_batch_and_size(name, chosen):
    assert_export_fits_all_sizes(build_block(name, 16, **chosen), is_strict=False)


@each_kind
def test_block_can_be_exported_strictly_for_any_batch_and_size(name, chosen):
    assert_export_fits_all_sizes(build_block(name, 16, **chosen), is_strict=True)


def assert_export_fits_all_sizes(block, is_strict):
    randomised(block).eval()
    dynamic = ({axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)},)
    x = torch.randn(3, 16, 6, 7)
    exported = torch.export.export(block, (x,), dynamic_shapes=dynamic, strict=is_strict)
    for shape in [(2, 16, 9, 4), (5, 16, 5, 12), (1, 16, 4, 4)]:
        x = torch.randn(shape)
        torch.testing.assert_close(exported.module()(x), block(x), rtol=1e-4, atol=1e-4)


@every_case
def test_block_can_be_traced_symbolically(name, chosen):
    block = randomised(build_block(name, 16, **chosen))
    traced = torch.fx.symbolic_trace(block)
    for shape in [(2, 16, 5, 4), (3, 16, 32, 16)]:
        x = channels_last(features(*shape))
        torch.testing.assert_close(traced(x), block(x))


@each_kind
def test_block_compiles_without_a_break(name, chosen):
    block = randomised(build_block(name, 16, **chosen))
    x = torch.randn(2, 16, 4, 4)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x), rtol=1e-4, atol=1e-4)


@every_case
def test_state_loads_strictly_into_a_new_block(name, chosen):
    block = randomised(build_block(name, 16, **chosen))
    other = build_block(name, 16, **chosen)
    other.load_state_dict(block.state_dict())
    x = features(2, 16, 4, 4)
    assert torch.equal(other(x), block(x))


@pytest.mark.parametrize(
    ("name", "chosen", "layers"),
    [
        ("se", {}, "fc1 fc2"),
        ("snl", {}, "conv_mask conv_out"),
        ("nl", {"mode": "gaussian"}, "g conv_out"),
        ("nl", {"mode": "dot_product", "sub_sample": True}, "g theta phi conv_out"),
        ("nl", {"mode": "concatenation"}, "g theta phi concat_project conv_out"),
    ],
)
def test_state_has_the_published_names(name, chosen, layers):
    state = build_block(name, 16, **chosen).state_dict()
    assert {key.rpartition(".")[0] for key in state} == set(layers.split())
    assert all(value.dim() == 4 for key, value in state.items() if key.endswith("weight"))


def test_snl_is_the_published_formula():
    """Every position is transformed, then averaged by weights that do not depend on the query."""
    block = randomised(SimplifiedNonLocal(6)).double()
    x = features(2, 6, 4, 5, dtype=torch.float64)
    state = block.state_dict()
    mask = F.conv2d(x, state["conv_mask.weight"]).flatten(2).softmax(2)
    transformed = F.conv2d(x, state["conv_out.weight"], state["conv_out.bias"]).flatten(2)
    expected = x + (transformed * mask).sum(2)[..., None, None]
    torch.testing.assert_close(block(x), expected)


def test_snl_mask_weighs_the_positions():
    block = randomised(SimplifiedNonLocal(6))
    mask = block.context_mask(channels_last(features(2, 6, 4, 5)))
    assert mask.shape == (2, 1, 4, 5)
    torch.testing.assert_close(mask.sum((2, 3)), torch.ones(2, 1))


@pytest.mark.parametrize("chosen", CHOSEN["nl"], ids=str)
def test_nl_output_is_what_its_attention_says(chosen):
    block = randomised(NonLocal(8, **chosen)).double()
    x = features(2, 8, 6, 4, dtype=torch.float64)
    weights = block.attention(x, torch.arange(24)).flatten(2)
    values = F.conv2d(x, block.g.weight, block.g.bias)
    values = F.max_pool2d(values, 2) if block.sub_sample else values
    response = (weights @ values.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(2, 4, 6, 4)
    torch.testing.assert_close(block(x), x + block.conv_out(response))


@pytest.mark.parametrize("chosen", CHOSEN["nl"], ids=str)
def test_nl_attention_has_a_map_for_each_query(chosen):
    block = randomised(NonLocal(8, **chosen))
    x = features(2, 8, 7, 4)
    maps = block.attention(x, torch.tensor([27, 0, 0]))
    assert maps.shape == (2, 3, *((3, 2) if chosen["sub_sample"] else (7, 4)))
    assert torch.equal(maps[:, 1], maps[:, 2])
    if chosen["mode"].endswith("gaussian"):
        torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 3))


class LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest tensor made under it holds."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("chosen", CHOSEN["nl"], ids=str)
def test_nl_holds_no_pair_of_positions_it_can_do_without(chosen):
    block = randomised(NonLocal(4, **chosen))
    x = features(1, 4, 16, 16).requires_grad_()
    with LargestTensor() as largest:
        block(x).sum().backward()
    keys = math.prod(settings.key_positions((16, 16), chosen["sub_sample"]))
    pairs = 256 * keys if chosen["mode"] == "concatenation" else 0
    assert largest.numel <= max(x.numel(), pairs)


def test_products_of_large_half_features_do_not_overflow():
    block = randomised(NonLocal(8, mode="dot_product")).half()
    x = torch.full((1, 8, 64, 64), 30.0, dtype=torch.float16)
    assert block(x).isfinite().all()


def test_products_of_small_half_features_keep_their_digits():
    block = randomised(NonLocal(8, mode="dot_product")).half()
    with torch.no_grad():
        block.conv_out.weight.mul_(1e4)
    x = (features(1, 8, 64, 64) / 100).half()
    exact = block.double()(x.double())
    assert (block.half()(x) - exact).norm() < 0.01 * exact.norm()


def test_published_se_gate_is_half_of_the_other():
    published = randomised(SqueezeExcitation(16))
    identity = SqueezeExcitation(16, gate="identity")
    identity.load_state_dict(published.state_dict())
    x = torch.randn(2, 16, 3, 3)
    assert torch.equal(identity(x), 2 * published(x))


@given(channels=st.integers(0, 70), ratio=st.floats(0, 1.1), case=st.sampled_from(CASES))
def test_parameters_are_as_many_as_the_formula_says(channels, ratio, case):
    name, chosen = case
    chosen = chosen | ({"ratio": ratio} if "ratio" in chosen else {})
    try:
        expected = sum(p.numel() for p in build_block(name, channels, **chosen).parameters())
    except BlockError:
        with pytest.raises(BlockError):
            n_params(name, channels, **chosen)
    else:
        assert n_params(name, channels, **chosen) == expected


@every_case_and_shape
def test_macs_are_those_that_torch_counts_and_the_gate(name, chosen, shape):
    block = build_block(name, 16, **chosen)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        block(torch.randn(1, *shape[1:]))
    has_gate = name == "se" or "channel_mul" in chosen.get("fusions", ())
    gate = math.prod(shape[1:]) if has_gate else 0
    assert n_macs(name, 16, shape[2:], **chosen) == counter.get_total_flops() // 2 + gate


def test_builders_take_the_settings_of_the_table():
    for name in BLOCKS.names():
        _, *taken = inspect.signature(BLOCKS[name]).parameters.values()
        assert tuple(p.name for p in taken) == BLOCK_SETTINGS[name]
        assert all(p.default == SETTING_DEFAULTS[p.name] for p in taken)
    assert BLOCKS.names() == sorted(BLOCK_SETTINGS)


def test_gc_allows_what_the_table_says():
    assert global_context.POOLINGS == POOLINGS
    assert global_context.FUSIONS == FUSIONS
    assert global_context.GATES == settings.GATES


def test_complete_settings_are_canonical():
    given_settings = {"fusions": ["channel_mul", "channel_add", "channel_mul"]}
    expected = {"ratio": 1 / 16, "pooling": "att", "fusions": FUSIONS}
    assert complete_settings("gc", given_settings) == expected


def test_settings_and_costs_need_no_torch():
    code = (
        "import sys, gcsearch.blocks.settings, gcsearch.blocks; gcsearch.blocks.n_params('nl', 8);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "channels", "wrong", "message"),
    [
        (
            "se",
            10,
            {"ratio": 1 / 16},
            "0.0625 of 10 channels leaves planes = 0; .* of 0.1 or more",
        ),
        ("se", 0, {}, "channels = 0 is too few for block 'se'; it needs at least 1"),
        ("se", 16, {"ratio": 2}, r"ratio 2 is outside \(0, 1\]; use e.g. 1/4 to 1/32"),
        ("se", 16, {"mode": "gaussian"}, "block 'se' has no setting 'mode'; its settings are rat"),
        ("snl", 16, {"ratio": 1 / 4}, "block 'snl' has no setting 'ratio'; it has no settings"),
        ("snl", 0, {}, "channels = 0 is too few for block 'snl'; it needs at least 1"),
        ("nl", -1, {}, "channels = -1 is too few for block 'nl'"),
        ("nl", 16, {"mode": "dot"}, "mode 'dot' is unknown; use one of gaussian, embedded_gau"),
        ("nl", 16, {"sub_sample": "no"}, "sub_sample 'no' is unknown; use one of False, True"),
    ],
)
def test_wrong_setting_is_refused_by_the_block_and_by_its_cost(name, channels, wrong, message):
    with pytest.raises(BlockError, match=message):
        build_block(name, channels, **wrong)
    with pytest.raises(BlockError, match=message):
        n_params(name, channels, **wrong)


def test_wrong_gate_is_refused():
    with pytest.raises(BlockError, match="gate 'tanh' is unknown; use one of sigmoid, identity"):
        SqueezeExcitation(16, gate="tanh")


@pytest.mark.parametrize("fusions", ["channel_add", [], ["add"]])
def test_settings_refuse_fusions_that_are_no_list_of_names(fusions):
    with pytest.raises(BlockError, match=r"use one (or more )?of"):
        complete_settings("gc", {"fusions": fusions})


@given(channels=st.integers(2, 5000), name=st.sampled_from(["gc", "se"]))
def test_ratio_named_as_cure_works(channels, name):
    with pytest.raises(BlockError, match="leaves planes = 0") as caught:
        settings.bottleneck_planes(name, channels, 1e-9)
    ratio = float(re.search("ratio of (.*) or more", str(caught.value))[1])
    least = {"gc": 2, "se": 1}[name]
    assert settings.bottleneck_planes(name, channels, ratio) == least


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ((9,), "pools two position axes, the features have 1; use sub_sample=False"),
        ((2, 3, 4), "pools two position axes, the features have 3; use sub_sample=False"),
        ((1, 5), "pools 2x2 positions, the features have 1x5; use sub_sample=False"),
    ],
)
def test_features_that_cannot_be_sub_sampled_are_refused(positions, message):
    block, x = NonLocal(8, sub_sample=True), torch.randn(2, 8, *positions)
    for refused in (
        lambda: block(x),
        lambda: block.attention(x, torch.tensor([0])),
        lambda: n_macs("nl", 8, positions, sub_sample=True),
    ):
        with pytest.raises(BlockError, match=message):
            refused()


@pytest.mark.parametrize("positions", [(), (0, 4)])
def test_cost_without_positions_is_refused(positions):
    with pytest.raises(BlockError, match="give the extent of each axis"):
        n_macs("se", 16, positions)


def test_cost_of_an_unknown_block_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'snl'"):
        n_params("slnl", 16)


def test_unknown_name_of_the_room_is_an_attribute_error():
    import gcsearch.blocks

    with pytest.raises(AttributeError, match="has no attribute 'NonLokal'"):
        _ = gcsearch.blocks.NonLokal

"""The maths of the blocks against the published formula, and what surgery relies on."""

from __future__ import annotations

import copy
import io
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gcsearch.blocks import BLOCKS, GlobalContext, build_block, pooling
from gcsearch.errors import BlockError, UnknownNameError

POOLINGS = ["att", "avg"]
FUSIONS = [("channel_add",), ("channel_mul",), ("channel_add", "channel_mul")]
SETTINGS = [{"pooling": p, "fusions": f} for p, f in itertools.product(POOLINGS, FUSIONS)]
BOTH_FUSIONS = [{"pooling": p, "fusions": FUSIONS[2]} for p in POOLINGS]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(a, b):
    kind = BITS[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.view(kind), b.view(kind))


def randomised(block):
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.5)
    return block


def features(*shape, dtype=torch.float32):
    """Features as networks make them: some are zeros of either sign."""
    x = torch.randn(shape) * 3
    return torch.where(x.abs() < 1, torch.copysign(torch.zeros(()), x), x).to(dtype)


def published(state, x, pooling, fusions):
    """Equations of arXiv 1904.11492 with the names of the authors' ContextBlock2d."""
    n, c = x.shape[:2]
    positions = x.reshape(n, c, -1, 1)
    context = positions.mean((2, 3), keepdim=True)
    if pooling == "att":
        logits = F.conv2d(positions, state["conv_mask.weight"], state["conv_mask.bias"])
        context = (positions * logits.softmax(2)).sum((2, 3), keepdim=True)
    out = positions
    if "channel_mul" in fusions:
        out = out * torch.sigmoid(published_branch(state, "channel_mul_conv", context))
    if "channel_add" in fusions:
        out = out + published_branch(state, "channel_add_conv", context)
    return out.reshape(x.shape)


def published_branch(state, name, context):
    weights = {key.removeprefix(f"{name}."): value for key, value in state.items()}
    hidden = F.conv2d(context, weights["0.weight"], weights["0.bias"])
    hidden = F.layer_norm(hidden, hidden.shape[1:], weights["1.weight"], weights["1.bias"], 1e-5)
    return F.conv2d(hidden.relu(), weights["3.weight"], weights["3.bias"])


def in_order(x, order):
    """Return x with its axes in this order in memory, the innermost last."""
    order = [axis for axis in order if axis < x.dim()]
    back = [order.index(axis) for axis in range(x.dim())]
    return x.permute(order).contiguous().permute(back)


def strided(x):
    """Return x as every second element of something larger, along each axis."""
    big = x.new_zeros([2 * extent for extent in x.shape])
    every_second = big[tuple(slice(None, None, 2) for _ in x.shape)]
    return every_second.copy_(x)


LAYOUTS = {
    "contiguous": torch.clone,
    "channels last": lambda x: in_order(x, (0, 2, 3, 4, 1)),
    "channels outermost": lambda x: in_order(x, (1, 0, 2, 3, 4)),
    "positions swapped": lambda x: in_order(x, (0, 1, 4, 3, 2)),
    "strided": strided,
}


@settings(deadline=None, max_examples=80)
@given(
    channels=st.integers(2, 24),
    ratio=st.floats(0.1, 1),
    batch=st.integers(1, 3),
    positions=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    chosen=st.sampled_from(SETTINGS),
    layout=st.sampled_from(sorted(LAYOUTS)),
)
def test_output_is_the_published_one(channels, ratio, batch, positions, chosen, layout):
    ratio = max(ratio, 2.001 / channels) if channels > 2 else 1.0
    block = randomised(GlobalContext(channels, ratio=ratio, **chosen)).double()
    x = LAYOUTS[layout](torch.randn(batch, channels, *positions, dtype=torch.float64))
    assert block.planes == int(channels * ratio)
    out = block(x)
    assert out.stride() == torch.empty_like(x).stride()
    torch.testing.assert_close(out, published(block.state_dict(), x, **chosen))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
def test_gradients_are_those_of_the_published_formula(chosen, layout, batch):
    block = randomised(GlobalContext(12, ratio=1 / 4, **chosen)).double()
    x = LAYOUTS[layout](torch.randn(batch, 12, 4, 6, dtype=torch.float64)).requires_grad_()
    wanted = {"x": x, **dict(block.named_parameters())}
    upstream = torch.randn(x.shape, dtype=torch.float64)
    grads = torch.autograd.grad(block(x), wanted.values(), upstream)
    reference = published(wanted, x, **chosen)
    expected = torch.autograd.grad(reference, wanted.values(), upstream)
    torch.testing.assert_close(grads, expected)


@pytest.fixture
def several_threads(monkeypatch):
    """A machine with threads to spare, on which even small features count as large."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(pooling, "_LARGE", 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("channels", "length"), [(8, 16), (6, 10), (7, 9), (5, 1)])
def test_context_of_a_single_sample_cut_in_parts_is_the_same(
    several_threads, channels, length, layout
):
    block = randomised(GlobalContext(channels, ratio=1 / 2)).double()
    x = LAYOUTS[layout](torch.randn(1, channels, length, dtype=torch.float64))
    torch.testing.assert_close(block(x), published(block.state_dict(), x, **SETTINGS[0]))


@pytest.mark.parametrize("cached", [1, 700, 10**9])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_context_in_16_bits_is_rounded_once(monkeypatch, layout, dtype, cached):
    monkeypatch.setattr(pooling, "_CACHED", cached)
    block = randomised(GlobalContext(32)).to(dtype)
    x = LAYOUTS[layout](torch.randn(5, 32, 3, 4)).to(dtype)
    exact = block.double().spatial_pool(x.double())
    context = block.to(dtype).spatial_pool(x)
    tolerance = torch.finfo(dtype).eps
    torch.testing.assert_close(context.double(), exact, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("cached", [1, 700, 10**9])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_gradients_in_16_bits_are_near_the_exact_ones(monkeypatch, layout, cached):
    monkeypatch.setattr(pooling, "_CACHED", cached)
    weight = torch.randn(1, 32, 1, 1).bfloat16()
    bias, upstream = torch.zeros(1).bfloat16(), torch.randn(5, 32).bfloat16()
    x = LAYOUTS[layout](torch.randn(5, 32, 3, 4)).bfloat16()
    grads = pool_gradients(x, weight, bias, upstream)
    exact = pool_gradients(*(t.double() for t in (x, weight, bias, upstream)))
    for grad, true in zip(grads, exact, strict=True):
        assert grad.dtype == torch.bfloat16
        assert (grad.double() - true).norm() < 0.01 * true.norm() + 1e-9


def pool_gradients(x, weight, bias, upstream):
    wanted = [t.detach().requires_grad_() for t in (x, weight, bias)]
    return torch.autograd.grad(pooling.attention_pool(*wanted), wanted, upstream)


@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
def test_gradients_can_be_differentiated_again(chosen):
    block = randomised(GlobalContext(6, ratio=1 / 2, **chosen)).double()
    x = torch.randn(2, 6, 2, 3, dtype=torch.float64, requires_grad=True)
    parameters = tuple(block.parameters())

    def run(x, *values):
        named = dict(zip(dict(block.named_parameters()), values, strict=True))
        return torch.func.functional_call(block, named, (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters))
    assert torch.autograd.gradgradcheck(run, (x, *parameters), atol=1e-4)


def test_bias_of_the_mask_gets_a_gradient_of_exactly_zero():
    block = randomised(GlobalContext(16, ratio=1 / 4))
    block(torch.randn(2, 16, 4, 4)).square().sum().backward()
    assert torch.equal(block.conv_mask.bias.grad, torch.zeros(1))


def test_gradients_keep_the_layout_of_the_features():
    block = randomised(GlobalContext(16, ratio=1 / 4))
    x = LAYOUTS["channels last"](torch.randn(2, 16, 4, 5)).requires_grad_()
    block.spatial_pool(x).sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("frozen", ["x", "parameters"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(frozen):
    block = randomised(GlobalContext(16, ratio=1 / 4))
    x = torch.randn(2, 16, 4, 4, requires_grad=True)
    block(x).square().sum().backward()
    expected = {"x": x.grad, **{key: p.grad for key, p in block.named_parameters()}}
    part, y = copy.deepcopy(block), x.detach().requires_grad_(frozen != "x")
    part.zero_grad()
    part.requires_grad_(frozen != "parameters")
    part(y).square().sum().backward()
    got = {"x": y.grad, **{key: p.grad for key, p in part.named_parameters()}}
    for key, grad in got.items():
        assert (grad is None) == ((key == "x") == (frozen == "x"))
        assert grad is None or torch.equal(grad, expected[key])


@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
def test_float32_output_is_the_published_one(chosen):
    block = randomised(GlobalContext(64, ratio=1 / 4, **chosen))
    x = torch.randn(4, 64, 14, 14)
    expected = published(block.state_dict(), x, **chosen)
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
def test_state_dict_has_the_published_names(chosen):
    names = {"conv_mask"} if chosen["pooling"] == "att" else set()
    for fusion in chosen["fusions"]:
        names |= {f"{fusion}_conv.{layer}" for layer in (0, 1, 3)}
    expected = {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    assert set(GlobalContext(32, **chosen).state_dict()) == expected


@pytest.mark.parametrize("fusions", FUSIONS, ids=str)
def test_parameters_are_as_many_as_the_method_card_says(fusions):
    block = GlobalContext(64, ratio=1 / 8, fusions=fusions)
    expected = 64 + 1 + len(fusions) * (2 * 64 * 8 + 3 * 8 + 64)
    assert sum(p.numel() for p in block.parameters()) == expected


@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(7, 5), (1, 1)], ids=str)
def test_new_block_with_identity_gate_changes_no_bit(chosen, dtype, size):
    block = GlobalContext(32, ratio=1 / 4, gate="identity", **chosen).to(dtype)
    x = features(3, 32, *size, dtype=dtype)
    assert same_bits(block(x), x)


@settings(deadline=None, max_examples=50)
@given(
    channels=st.integers(2, 80),
    batch=st.integers(1, 4),
    positions=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    chosen=st.sampled_from(SETTINGS),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    trained=st.booleans(),
)
def test_new_block_is_the_identity_at_any_size(
    channels, batch, positions, chosen, layout, dtype, trained
):
    block = GlobalContext(channels, ratio=1.0, gate="identity", **chosen).to(dtype)
    x = LAYOUTS[layout](features(batch, channels, *positions, dtype=dtype))
    with torch.set_grad_enabled(trained):
        assert same_bits(block(x.requires_grad_(trained)).detach(), x.detach())


def test_published_gate_halves_features_at_first():
    x = torch.randn(2, 32, 4, 4)
    assert torch.equal(GlobalContext(32, fusions=["channel_mul"])(x), x / 2)


def test_gates_differ_by_a_factor_of_two():
    published_gate = randomised(GlobalContext(16, ratio=1 / 4, fusions=["channel_mul"]))
    identity = GlobalContext(16, ratio=1 / 4, fusions=["channel_mul"], gate="identity")
    identity.load_state_dict(published_gate.state_dict())
    x = torch.randn(2, 16, 3, 3)
    assert torch.equal(identity(x), 2 * published_gate(x))


@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_keeps_type_and_identity(chosen, dtype):
    block = GlobalContext(32, gate="identity", **chosen)
    x = features(2, 32, 6, 6, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        assert same_bits(block(x), x)
        assert randomised(block)(x).dtype == dtype


@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_kept(chosen, layout):
    x = torch.randn(2, 32, 6, 5).contiguous(memory_format=layout)
    assert randomised(GlobalContext(32, **chosen))(x).stride() == x.stride()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_context_mask_weighs_the_positions_of_the_context(pooling):
    block = randomised(GlobalContext(8, ratio=1 / 2, pooling=pooling))
    x = torch.randn(2, 8, 4, 3)
    mask = block.context_mask(x)
    assert mask.shape == (2, 1, 4, 3)
    torch.testing.assert_close(mask.sum((2, 3)), torch.ones(2, 1))
    torch.testing.assert_close((x * mask).sum((2, 3), keepdim=True), block.spatial_pool(x))


@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
def test_gradients_reach_every_parameter(chosen):
    block = GlobalContext(16, ratio=1 / 4, **chosen)
    block(torch.randn(2, 16, 4, 4)).square().sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    for fusion in chosen["fusions"]:
        assert block.get_submodule(f"{fusion}_conv.3").weight.grad.abs().sum() > 0


@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
def test_block_can_be_exported(chosen):
    block = randomised(GlobalContext(16, ratio=1 / 4, **chosen)).eval()
    x = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(torch.export.export(block, (x,)).module()(x), block(x))


def test_block_compiles_without_a_break():
    block = randomised(GlobalContext(16, ratio=1 / 4, fusions=FUSIONS[2]))
    x = torch.randn(2, 16, 4, 4)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x))


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("chosen", BOTH_FUSIONS, ids=str)
def test_compiled_gradients_are_those_of_the_block(chosen, layout):
    block = randomised(GlobalContext(16, ratio=1 / 4, **chosen)).double()
    x = LAYOUTS[layout](torch.randn(2, 16, 4, 3, dtype=torch.float64)).requires_grad_()
    wanted, upstream = (x, *block.parameters()), torch.randn_like(x)
    torch.compiler.reset()
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    grads = torch.autograd.grad(compiled(x), wanted, upstream)
    torch.testing.assert_close(grads, torch.autograd.grad(block(x), wanted, upstream))


@pytest.mark.parametrize("chosen", BOTH_FUSIONS, ids=str)
def test_export_fits_any_batch_and_size_in_either_layout(chosen):
    block = randomised(GlobalContext(16, ratio=1 / 4, **chosen)).eval()
    dynamic = ({axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)},)
    exported = torch.export.export(block, (torch.randn(2, 16, 4, 5),), dynamic_shapes=dynamic)
    core = exported.run_decompositions().module()
    layouts = ["contiguous", "channels last"]
    for layout, shape in itertools.product(layouts, [(3, 16, 2, 7), (1, 16, 3, 1)]):
        x = LAYOUTS[layout](torch.randn(shape))
        torch.testing.assert_close(core(x), block(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
def test_block_can_be_traced_for_another_batch(chosen):
    block = randomised(GlobalContext(16, ratio=1 / 4, **chosen))
    x = torch.randn(3, 16, 5, 4)
    symbolic = torch.fx.symbolic_trace(block)
    torch.testing.assert_close(symbolic(x), block(x))
    loaded = copy.deepcopy(symbolic)
    torch.testing.assert_close(loaded(x[:1]), block(x[:1]))


def test_gradients_of_each_sample_can_be_mapped():
    block = randomised(GlobalContext(8, ratio=1 / 2)).double()
    parameters, x = dict(block.named_parameters()), torch.randn(3, 8, 2, 2, dtype=torch.float64)

    def loss(values, sample):
        return torch.func.functional_call(block, values, (sample[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    one = torch.func.grad(loss)(parameters, x[1])
    for key, grads in each.items():
        torch.testing.assert_close(grads[1], one[key])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_context_is_not_rounded_under_autocast(pooling):
    block = randomised(GlobalContext(32, pooling=pooling))
    x = torch.randn(2, 32, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        context = block.spatial_pool(x)
    assert torch.equal(context, block.spatial_pool(x))


def test_training_under_autocast_gives_gradients_of_the_parameters_types():
    block = randomised(GlobalContext(32))
    x = torch.randn(2, 32, 6, 6).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        block(x).float().square().sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert {p.grad.dtype for p in block.parameters()} == {torch.float32}


def test_block_can_be_pickled_and_keeps_its_output():
    block, buffer = randomised(GlobalContext(16, ratio=1 / 4)), io.BytesIO()
    torch.save(block, buffer)
    buffer.seek(0)
    x = torch.randn(2, 16, 3, 3)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), block(x))


@pytest.mark.parametrize(
    ("channels", "wrong", "message"),
    [
        (16, {"ratio": 1 / 16}, "leaves planes = 1; .* use a ratio of 0.125 or more"),
        (10, {"ratio": 1 / 16}, "ratio 0.0625 of 10 channels leaves planes = 0"),
        (1, {"ratio": 1.0}, "channels = 1 is too few"),
        (16, {"ratio": 0.0}, r"ratio 0.0 is outside \(0, 1\]"),
        (16, {"ratio": float("nan")}, "ratio nan is outside"),
        (64, {"pooling": "max"}, "pooling 'max' is unknown; use one of att, avg"),
        (64, {"gate": "tanh"}, "gate 'tanh' is unknown; use one of sigmoid, identity"),
        (64, {"fusions": ["add"]}, "fusion 'add' is unknown; use one of channel_add, channel_mul"),
        (64, {"fusions": []}, r"fusions \[\] is no list of names"),
        (64, {"fusions": "channel_add"}, "fusions 'channel_add' is no list of names"),
    ],
)
def test_wrong_setting_is_refused_with_the_cure(channels, wrong, message):
    with pytest.raises(BlockError, match=message):
        GlobalContext(channels, **wrong)


@pytest.mark.parametrize("channels", [2, 3, 10, 49, 98, 255, 2048])
def test_ratio_named_as_cure_works(channels):
    with pytest.raises(BlockError, match="leaves planes = 0") as caught:
        GlobalContext(channels, ratio=1e-9)
    ratio = float(str(caught.value).split("ratio of ")[1].split()[0])
    assert GlobalContext(channels, ratio=ratio).planes == 2


def test_repr_names_the_settings():
    text = repr(GlobalContext(32, ratio=1 / 4, fusions=FUSIONS[2]))
    assert "32, planes=8, att, channel_add+channel_mul, gate=sigmoid" in text


@pytest.mark.parametrize("name", BLOCKS.names())
def test_registered_block_starts_as_the_identity(name):
    x = features(2, 32, 5, 5)
    assert same_bits(build_block(name, 32)(x), x)


def test_built_block_has_its_settings():
    block = build_block("gc", 64, ratio=1 / 4, pooling="avg", fusions=("channel_mul",))
    assert isinstance(block, GlobalContext)
    assert (block.planes, block.pooling, block.fusions) == (16, "avg", ("channel_mul",))


def test_unknown_block_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'gc'"):
        build_block("cg", 64)


def test_unknown_setting_is_refused():
    with pytest.raises(BlockError, match="no setting 'gate'; its settings are ratio, pooling, fu"):
        build_block("gc", 64, gate="sigmoid")

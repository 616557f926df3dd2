"""The maths of the blocks against the published formula, and what surgery relies on."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gcsearch.blocks import BLOCKS, GlobalContext, build_block
from gcsearch.errors import BlockError, UnknownNameError

POOLINGS = ["att", "avg"]
FUSIONS = [("channel_add",), ("channel_mul",), ("channel_add", "channel_mul")]
SETTINGS = [{"pooling": p, "fusions": f} for p, f in itertools.product(POOLINGS, FUSIONS)]
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
    n, c, h, w = x.shape
    context = x.mean((2, 3), keepdim=True)
    if pooling == "att":
        logits = F.conv2d(x, state["conv_mask.weight"], state["conv_mask.bias"])
        mask = logits.reshape(n, 1, h * w).softmax(2)
        context = (x.reshape(n, c, h * w) * mask).sum(2).reshape(n, c, 1, 1)
    out = x
    if "channel_mul" in fusions:
        out = out * torch.sigmoid(published_branch(state, "channel_mul_conv", context))
    if "channel_add" in fusions:
        out = out + published_branch(state, "channel_add_conv", context)
    return out


def published_branch(state, name, context):
    weights = {key.removeprefix(f"{name}."): value for key, value in state.items()}
    hidden = F.conv2d(context, weights["0.weight"], weights["0.bias"])
    hidden = F.layer_norm(hidden, hidden.shape[1:], weights["1.weight"], weights["1.bias"], 1e-5)
    return F.conv2d(hidden.relu(), weights["3.weight"], weights["3.bias"])


@settings(deadline=None, max_examples=40)
@given(
    channels=st.integers(2, 24),
    ratio=st.floats(0.1, 1),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    chosen=st.sampled_from(SETTINGS),
    channels_last=st.booleans(),
)
def test_output_is_the_published_one(channels, ratio, shape, chosen, channels_last):
    ratio = max(ratio, 2.001 / channels) if channels > 2 else 1.0
    block = randomised(GlobalContext(channels, ratio=ratio, **chosen)).double()
    n, h, w = shape
    x = torch.randn(n, channels, h, w, dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    assert block.planes == int(channels * ratio)
    torch.testing.assert_close(block(x), published(block.state_dict(), x, **chosen))


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


@settings(deadline=None, max_examples=25)
@given(
    channels=st.integers(2, 80),
    batch=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    chosen=st.sampled_from(SETTINGS),
)
def test_new_block_is_the_identity_at_any_size(channels, batch, height, width, chosen):
    block = GlobalContext(channels, ratio=1.0, gate="identity", **chosen)
    x = features(batch, channels, height, width)
    assert same_bits(block(x), x)


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

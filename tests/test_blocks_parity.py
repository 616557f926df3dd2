"""The same weights give the same outputs and gradients as in the projects the names come from."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from torchvision.ops import SqueezeExcitation as TorchvisionSqueezeExcitation

from gcsearch.blocks import (
    FUSIONS,
    MODES,
    POOLINGS,
    GlobalContext,
    NonLocal,
    SqueezeExcitation,
    convert_state_dict,
)
from gcsearch.errors import BlockError, UnknownNameError

CHOSEN_FUSIONS = [FUSIONS[:1], FUSIONS[1:], FUSIONS]
GC_SETTINGS = [
    {"pooling": pooling, "fusions": fusions}
    for pooling, fusions in itertools.product(POOLINGS, CHOSEN_FUSIONS)
]
NL_SETTINGS = [
    {"mode": mode, "sub_sample": sub_sample}
    for mode, sub_sample in itertools.product(MODES, [False, True])
]


def peer(module):
    """Import a peer's module, or skip the test; what it warns of is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(module, exc_type=ImportError)


def randomised(block, scale=0.3):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=scale)
    return block.double()


def run(block, x):
    """Return the output, the gradient of x and those of the parameters, of a random loss."""
    x = x.clone().requires_grad_()
    out = block(x)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    (out * weight).sum().backward()
    return out, x.grad, {name: p.grad for name, p in block.named_parameters()}


def assert_parity(ours, theirs, x, project, block, **settings):
    """Compare both under weights that go from ours to theirs by their published names."""
    names = {"block": block, "target": project, **settings}
    theirs.double().load_state_dict(convert_state_dict(ours.state_dict(), **names))
    out, x_grad, grads = run(ours, x)
    expected_out, expected_x_grad, expected_grads = run(theirs, x)
    close = {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(out, expected_out, **close)
    torch.testing.assert_close(x_grad, expected_x_grad, **close)
    torch.testing.assert_close(convert_state_dict(grads, **names), expected_grads, **close)


def assert_round_trip(state, **names):
    there = convert_state_dict(state, target=names["project"], **without_project(names))
    back = convert_state_dict(there, source=names["project"], **without_project(names))
    assert list(back) == list(state)
    torch.testing.assert_close(back, dict(state), rtol=0, atol=0)


def without_project(names):
    return {key: value for key, value in names.items() if key != "project"}


def features(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("settings", GC_SETTINGS, ids=str)
def test_gc_is_that_of_mmcv(settings):
    theirs = peer("mmcv.cnn.bricks").ContextBlock(
        16, 1 / 4, pooling_type=settings["pooling"], fusion_types=settings["fusions"]
    )
    ours = randomised(GlobalContext(16, ratio=1 / 4, **settings))
    assert_parity(ours, theirs, features(3, 16, 7, 5), "mmcv", "gc", **settings)


@pytest.mark.parametrize("settings", GC_SETTINGS, ids=str)
def test_gc_is_that_of_timm_with_its_eps(settings):
    theirs = peer("timm.layers").GlobalContext(
        16,
        use_attn=settings["pooling"] == "att",
        fuse_add="channel_add" in settings["fusions"],
        fuse_scale="channel_mul" in settings["fusions"],
        rd_ratio=1 / 4,
    )
    for norm in (m for m in theirs.modules() if hasattr(m, "eps")):
        norm.eps = 1e-5  # timm's is 1e-6, the published one is 1e-5
    ours = randomised(GlobalContext(16, ratio=1 / 4, **settings))
    assert_parity(ours, theirs, features(3, 16, 7, 5), "timm", "gc", **settings)


@pytest.mark.parametrize("settings", NL_SETTINGS, ids=str)
@pytest.mark.parametrize(
    ("channels", "size"), [(8, (7, 5)), (5, (7, 5)), (1, (7, 5)), (64, (4, 3))], ids=str
)
def test_nl_is_that_of_mmcv(settings, channels, size):
    theirs = peer("mmcv.cnn.bricks").NonLocal2d(channels, **settings)
    if settings["mode"] == "concatenation":
        # mmcv divides the ReLU's output in place, which has no backward: give it a copy to divide.
        theirs.concat_project.register_forward_hook(lambda module, inputs, out: out.clone())
    ours = randomised(NonLocal(channels, **settings))
    assert_parity(ours, theirs, features(2, channels, *size), "mmcv", "nl", **settings)


def test_nl_without_scale_is_that_of_mmcv():
    theirs = peer("mmcv.cnn.bricks").NonLocal2d(8, use_scale=False)
    ours = randomised(NonLocal(8, use_scale=False))
    assert_parity(ours, theirs, features(2, 8, 4, 5), "mmcv", "nl")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "shape"), [("NonLocal1d", (9,)), ("NonLocal3d", (2, 3, 4))])
def test_nl_takes_weights_of_other_position_axes(mode, name, shape):
    theirs = randomised(getattr(peer("mmcv.cnn"), name)(8, mode=mode))
    ours = NonLocal(8, mode=mode).double()
    state = convert_state_dict(theirs.state_dict(), block="nl", source="mmcv", mode=mode)
    ours.load_state_dict(state)
    x = features(2, 8, *shape)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-10)


def test_se_is_that_of_torchvision():
    theirs = TorchvisionSqueezeExcitation(16, 4)
    ours = randomised(SqueezeExcitation(16, ratio=1 / 4))
    assert_parity(ours, theirs, features(3, 16, 7, 5), "torchvision", "se", ratio=1 / 4)


def test_se_is_that_of_timm():
    theirs = peer("timm.layers").SEModule(16, rd_channels=4)
    ours = randomised(SqueezeExcitation(16, ratio=1 / 4))
    assert_parity(ours, theirs, features(3, 16, 7, 5), "timm", "se", ratio=1 / 4)


@pytest.mark.parametrize("project", ["mmcv", "timm"])
@pytest.mark.parametrize("settings", GC_SETTINGS, ids=str)
def test_names_of_gc_can_be_translated_back(project, settings):
    state = GlobalContext(32, **settings).state_dict()
    assert_round_trip(state, block="gc", project=project, **settings)


@pytest.mark.parametrize("settings", NL_SETTINGS, ids=str)
def test_names_of_nl_can_be_translated_back(settings):
    state = NonLocal(6, **settings).state_dict()
    assert_round_trip(state, block="nl", project="mmcv", **settings)


def test_names_can_go_from_one_project_to_another():
    state = GlobalContext(32).state_dict()
    to_mmcv = convert_state_dict(state, block="gc", target="mmcv")
    to_timm = convert_state_dict(to_mmcv, block="gc", source="mmcv", target="timm")
    assert to_timm.keys() == convert_state_dict(state, block="gc", target="timm").keys()


def test_names_of_a_pooled_nl_are_those_of_a_sequence():
    state = NonLocal(4, sub_sample=True).state_dict()
    converted = convert_state_dict(state, block="nl", target="mmcv", sub_sample=True)
    layers = {key.rpartition(".")[0] for key in converted}
    assert layers == {"g.0.conv", "phi.0.conv", "theta.conv", "conv_out.conv"}


@pytest.mark.parametrize(
    ("key", "names", "message"),
    [
        ("g.0.conv.weight", {"block": "nl", "source": "mmcv"}, "try sub_sample=True"),
        ("g.conv.weight", {"block": "nl", "source": "mmcv", "sub_sample": True}, "=False"),
        ("layer1.fc1.weight", {"block": "se"}, r"'layer1.fc1.weight' is no weight of block 'se'"),
        ("fc1.scale", {"block": "se"}, "'fc1.scale' is no weight"),
        ("conv_mask.bias", {"block": "snl", "target": "mmcv"}, "in 'mmcv'; use gcsearch"),
        ("conv_mask.bias", {"block": "gc", "target": "tim"}, "use gcsearch or mmcv or timm"),
        ("g.weight", {"block": "nl", "ratio": 1 / 4}, "block 'nl' has no setting 'ratio'"),
    ],
)
def test_what_cannot_be_translated_is_refused(key, names, message):
    with pytest.raises(BlockError, match=message):
        convert_state_dict({key: torch.ones(1)}, **names)


def test_state_of_an_unknown_block_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'nl'"):
        convert_state_dict({"g.weight": torch.ones(1)}, block="ln")


def test_empty_state_is_refused():
    with pytest.raises(BlockError, match="is empty; pass that of the block itself"):
        convert_state_dict({}, block="gc", target="timm")

"""Surgery on every model of torchvision: it changes no bit, learns, and goes without a trace.

The networks have fresh weights and small inputs. Those called quantized are the networks of floats
that quantisation starts from: what computes with integers has no features for a block. Those with
more than ``GIANT`` parameters are not pickled, their copies share the weights, and these are
frozen, so that gradients of the blocks alone are held.
"""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import random
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import StochasticDepth

from gcsearch.architecture import Insertion
from gcsearch.surgery import BLOCK_NAME, find_sites, insert, inserted_blocks, remove

pytestmark = pytest.mark.slow

GIANT = 150_000_000
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
CHOICES = (
    ("gc", {"fusions": ("channel_add", "channel_mul")}),
    ("nl", {}),
    ("se", {}),
    ("snl", {}),
    ("gc", {"pooling": "avg"}),
)
NL_POSITIONS = 400
"""So many at most where a non-local block goes."""


@dataclass(frozen=True)
class Setup:
    """How to build and run the models of one file of torchvision, as small as they allow."""

    size: tuple[int, ...] = (3, 64, 64)
    options: dict = field(default_factory=dict)
    n_images: int = 2
    arguments: dict = field(default_factory=dict)
    is_paired: bool = False
    is_detection: bool = False


def detection(size=96, *, n_images=2, **options):
    """Keep all boxes, however improbable: there would be no output to compare else."""
    options = {"num_classes": 3, "weights_backbone": None, **options}
    return Setup((3, size, size), options, n_images, is_detection=True)


SMALL = {"min_size": 96, "max_size": 96}
FEW = {
    f"rpn_{when}_nms_top_n_{mode}": 40 for when in ("pre", "post") for mode in ("train", "test")
}
FEW |= {"box_batch_size_per_image": 16, "box_detections_per_img": 5}
RCNN = detection(**SMALL, **FEW, box_score_thresh=0.0)
ONE_STAGE = detection(**SMALL, score_thresh=0.0, detections_per_img=5)
SEGMENTATION = Setup(options={"weights_backbone": None, "aux_loss": True})
SETUPS = {
    "vision_transformer": Setup(options={"image_size": 64}),
    "vit_h_14": Setup((3, 56, 56), {"image_size": 56}),
    "googlenet": Setup(options={"init_weights": False}),
    "inception": Setup((3, 128, 128), {"init_weights": False, "aux_logits": False}),
    "maxvit": Setup((3, 224, 224), n_images=1),
    "deeplabv3": SEGMENTATION,
    "fcn": SEGMENTATION,
    "lraspp": Setup(options={"weights_backbone": None}),
    "faster_rcnn": RCNN,
    "mask_rcnn": RCNN,
    "keypoint_rcnn": RCNN,
    "fcos": ONE_STAGE,
    "retinanet": ONE_STAGE,
    "ssd": detection(300, score_thresh=0.0, detections_per_img=5, n_images=1),
    "ssdlite": detection(320, score_thresh=0.0, detections_per_img=5),
    "video.resnet": Setup((3, 4, 64, 64)),
    "video.swin_transformer": Setup((3, 4, 64, 64)),
    "mvit": Setup((3, 4, 64, 64), {"spatial_size": (64, 64), "temporal_size": 4}),
    "s3d": Setup((3, 14, 224, 224), n_images=1),
    "raft": Setup((3, 128, 128), arguments={"num_flow_updates": 2}, is_paired=True),
}


def setup_of(name):
    """Return the setup of a model, of its file or of its folder and file, or else the usual."""
    file = models.get_model_builder(name).__module__.removeprefix("torchvision.models.")
    keys = (name, file, file.rpartition(".")[2])
    return next((SETUPS[key] for key in keys if key in SETUPS), Setup())


def build(name):
    torch.manual_seed(0)
    options = setup_of(name).options
    with pytest.MonkeyPatch.context() as patch:
        if "mvit" in name:  # Its builders fix what is an option of the class.
            make, own = models.video.mvit._mvit, options
            patch.setattr(models.video.mvit, "_mvit", lambda **given: make(**{**given, **own}))
            options = {}
        model = models.get_model(name, weights=None, **options)
    fill_zeros(p for p in model.parameters() if p.ndim > 1)  # As of classifiers of transformers.
    return model


@torch.no_grad()
def fill_zeros(parameters):
    """Give some value to what starts at zero and would hide all that comes before it."""
    for parameter in parameters:
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)


@dataclass(repr=False)
class Case:
    """A model, what it is run with, what it returned, and what is inserted where."""

    model: nn.Module
    setup: Setup
    is_giant: bool
    sites: list
    insertions: list
    paths: list
    before: dict


@pytest.fixture(scope="module", params=models.list_models())
def case(request):
    name = request.param
    model, setup = build(name), setup_of(name)
    is_giant = sum(p.numel() for p in model.parameters()) > GIANT
    model.requires_grad_(not is_giant)
    sites = find_sites(model, setup.size)
    insertions = [insertion(i, site) for i, site in enumerate(spread(model, sites, name))]
    paths = [each.site for each in insertions]
    before = {mode: run(model, setup, mode, paths) for mode in ("eval", "train")}
    yield Case(model, setup, is_giant, sites, insertions, paths, before)
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


def insertion(number, site):
    block, settings = CHOICES[number % len(CHOICES)]
    if block == "nl" and torch.Size(site.positions).numel() > NL_POSITIONS:
        block, settings = "snl", {}
    if block in ("gc", "se"):
        settings = {**settings, "ratio": 1 / 4 if site.channels >= 8 else 1}
    return Insertion(site.path, block, **settings)


def arguments(setup, is_training):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(setup.n_images, *setup.size, generator=generator)
    if setup.is_paired:
        return images, images.roll(3, -1)
    if not setup.is_detection:
        return (images,)
    return (list(images), targets(setup)) if is_training else (list(images),)


def targets(setup):
    """Return objects of all sizes, so that anchors of all scales take part in the losses."""
    height, width = setup.size[1:]
    sides = torch.linspace(0.1, 0.9, 6)
    corners = torch.cat([torch.zeros(6), (1 - sides) / 2])  # At the corner, and in the middle.
    ends = corners + sides.repeat(2)
    boxes = torch.stack([corners, corners, ends, ends], 1) * height
    masks = torch.ones(12, height, width, dtype=torch.uint8)
    points = torch.tensor([height / 2, height / 2, 1.0]).expand(12, 17, 3)
    labels = torch.arange(12) % 2 + 1
    target = {"boxes": boxes, "labels": labels, "masks": masks, "keypoints": points}
    return [target] * setup.n_images


def call(model, setup):
    torch.manual_seed(7)
    return list(tensors(model(*arguments(setup, model.training), **setup.arguments)))


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


def tensors(output):
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from tensors(output.values())
    elif isinstance(output, Iterable):
        for item in output:
            yield from tensors(item)


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


def wake(model):
    """Give the blocks an effect."""
    torch.manual_seed(3)
    for block in inserted_blocks(model).values():
        fill_zeros(block.parameters())


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


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_compute_the_same(case, way):
    if case.is_giant and way == "pickle":
        pytest.skip(f"has more than {GIANT} parameters: too much memory")
    with altered(case) as model:
        wake(model)
        outputs = run(model, case.setup, "eval", case.paths)
        shared = {id(p): p for p in model.parameters()} if case.is_giant else {}
        is_pickled = way == "pickle"
        twin = pickle.loads(pickle.dumps(model)) if is_pickled else copy.deepcopy(model, shared)
        assert are_same(run(twin, case.setup, "eval", case.paths), outputs)
    assert not are_same(outputs, case.before["eval"])


def test_remove_leaves_no_trace(case):
    before = traces(case.model)
    with altered(case) as model:
        assert traces(model) != before
    assert traces(case.model) == before
    assert are_same(run(case.model, case.setup, "eval", case.paths), case.before["eval"])

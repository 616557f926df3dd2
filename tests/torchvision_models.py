"""The models of torchvision, as small as they get, and what to run them with; it tests nothing.

They have fresh weights and small inputs. Those called quantized are the networks of floats that
quantisation starts from: what computes with integers has no features for a block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from gcsearch.architecture import Insertion
from gcsearch.surgery import inserted_blocks

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


def build(name, *, seed=0):
    torch.manual_seed(seed)
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
def fill_zeros(parameters, std=0.02):
    """Give some value to what starts at zero and would hide all that comes before it."""
    for parameter in parameters:
        if not parameter.any():
            nn.init.normal_(parameter, std=std)


def insertion(number, site):
    """Return one of the blocks, each in turn, that fits the site."""
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


def tensors(output):
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from tensors(output.values())
    elif isinstance(output, Iterable):
        for item in output:
            yield from tensors(item)


def wake(model, std=0.02):
    """Give the blocks an effect."""
    torch.manual_seed(3)
    for block in inserted_blocks(model).values():
        fill_zeros(block.parameters(), std)

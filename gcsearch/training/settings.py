"""Everything that decides a full training, as data; it does not know how anything is done."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gcsearch.config import DataSettings
from gcsearch.settings import Settings

__all__ = ["WITHOUT_EFFECT", "FullTrainingSettings"]

WITHOUT_EFFECT = ("device", "loaders")
"""Settings that may change while a training goes on: where it runs, not what it computes."""
_LR = {"adamw": 1e-3, "sgd": 0.1}
_DECAY = {"adamw": 0.05, "sgd": 1e-4}


class FullTrainingSettings(Settings):
    """How one architecture is trained to its end.

    Example:
        >>> FullTrainingSettings(optimizer="sgd").peak_lr
        0.1
    """

    data: DataSettings = DataSettings()
    """The pictures; ``data.image_size`` is the side at which they are held, by default that which
    the network gets. A larger one keeps detail for crops."""
    split_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of splits that are carved out of the data. As ``search.seed`` in the search that the
    architecture comes from, for else its weights may have seen the test split."""
    image_size: Annotated[int, Field(ge=8, le=1024)] | None = None
    """Side in pixels of what the network gets; null is the exported config's, or the data's."""
    weights: str | None = None
    """What the backbone starts from instead of the config's weights: a torchvision name such as
    ``DEFAULT``, or a file. Blocks then start at identity."""
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Times that every training picture is seen; what does not fill a batch waits for the next
    epoch's order."""
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 128
    """Pictures in a step, shared evenly by all processes."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """SGD has Nesterov's momentum of 0.9."""
    lr: Annotated[float, Field(gt=0, le=100)] | None = None
    """Peak learning rate; null is 0.001 for AdamW and 0.1 for SGD."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the learning rate rises; then it falls along a cosine."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of weight matrices and kernels alone; null is 0.05 for AdamW and 0.0001 for SGD."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the target that is spread over all classes."""
    augment: bool | None = None
    """Random resized crops and mirroring; null asks the data whether they keep a label."""
    crop_area: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Smallest share of a picture that a random crop keeps; 0.08 is usual for ImageNet, with which
    nothing much is left of small pictures."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of training; auto takes mixed precision where the device is fast at it."""
    device: str = "auto"
    """``cpu``, ``cuda``, or auto, which takes CUDA when it is there."""
    loaders: Annotated[int, Field(ge=0, le=256)] | None = None
    """Processes beside each that trains, for augmentation; null is none for a CPU. Their number
    has no effect on what is computed."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of fresh weights, the order of the pictures, augmentation and dropout."""

    @property
    def peak_lr(self) -> float:
        """The learning rate after the warm-up."""
        return _LR[self.optimizer] if self.lr is None else self.lr

    @property
    def decay(self) -> float:
        """The weight decay of what decays."""
        return _DECAY[self.optimizer] if self.weight_decay is None else self.weight_decay

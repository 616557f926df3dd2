"""A model as ONNX, for the runtimes that read it; does not run it."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

__all__ = ["to_onnx"]


def to_onnx(model: nn.Module, example: Tensor) -> bytes:
    """Return the model, for inputs of exactly this shape, in ONNX's form.

    The example's memory format is left behind: ONNX knows none.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        program = torch.onnx.export(model, (example.contiguous(),), dynamo=True, verbose=False)
    finally:
        logger.setLevel(level)
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    return program.model_proto.SerializeToString()

"""Parameters and multiply-accumulates of a model; does not time anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

__all__ = ["Counts", "count"]


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


@dataclass(frozen=True)
class Counts:
    """Parameters, and multiply-accumulates of one forward pass of one picture."""

    params: int
    macs: int


def count(model: nn.Module, input_size: tuple[int, ...] = (3, 224, 224)) -> Counts:
    """Count the parameters and multiply-accumulates of ``model``.

    Counted by torch's own flop counter: convolutions, matrix products and attention (for which it
    does not know the kernel of CPUs), two flops a multiply-accumulate; element-wise work counts
    nothing, as usual in the field.

    Args:
        model: Any module that takes one batch of images.
        input_size: Channels, height and width of the picture.

    Example:
        >>> count(nn.Conv2d(3, 8, 1, bias=False), (3, 4, 4))
        Counts(params=24, macs=384)
    """
    parameter = next(model.parameters(), torch.empty(0))
    example = torch.zeros(1, *input_size, dtype=parameter.dtype, device=parameter.device)
    counter = FlopCounterMode(display=False, custom_mapping=ATTENTION)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), counter:
            model(example)
    finally:
        for module, was_training in modes.items():
            module.training = was_training
    params = sum(p.numel() for p in model.parameters())
    return Counts(params=params, macs=counter.get_total_flops() // 2)

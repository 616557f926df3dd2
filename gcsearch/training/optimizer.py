"""What is decayed, and the optimizer over it; it knows neither pictures nor epochs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gcsearch.training.settings import FullTrainingSettings

__all__ = ["make_optimizer", "parameter_groups"]


def parameter_groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Return the parameters that are trained, those that decay apart from the rest.

    Matrices and kernels decay: a block's too, for where its last one starts at zero, decay leads
    back to the identity. Biases, norms, layer scales, tokens and tables of positions do not.

    Example:
        >>> decayed, rest = parameter_groups(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), 0.1)
        >>> [tuple(p.shape) for p in decayed["params"]], len(rest["params"])
        ([(3, 2)], 3)
    """
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for module in model.modules():
        is_norm = isinstance(module, nn.LayerNorm)  # the only norm whose weight may be a matrix
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                is_matrix = "weight" in name and parameter.ndim > 1 and not is_norm
                (decayed if is_matrix else rest).append(parameter)
    groups = [
        {"params": list(dict.fromkeys(decayed)), "weight_decay": decay},
        {"params": list(dict.fromkeys(rest)), "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, settings: FullTrainingSettings) -> torch.optim.Optimizer:
    """Return the optimizer that the settings name, over what is trained of ``model``."""
    groups = parameter_groups(model, settings.decay)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.peak_lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.peak_lr)

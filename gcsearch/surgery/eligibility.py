"""Which modules cannot hold a block, and why not; knows what was computed, not what it is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import torch
from torch import nn

from gcsearch.surgery.axes import channel_axes
from gcsearch.surgery.division import divided
from gcsearch.surgery.host import BLOCK_NAME, holds_block
from gcsearch.surgery.layout import Features, read_layout
from gcsearch.surgery.tracing import Return, Trace

__all__ = ["read_features", "refused_by_probe"]


def refused_by_probe(model: nn.Module, trace: Trace) -> dict[str, str]:
    """Return by path why a module is no site, as the end of a sentence, after a first forward."""
    n_names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    n_calls = Counter(returned.path for returned in trace.returns)
    outputs = {returned.path: returned for returned in trace.returns}
    reasons = {
        path: _unfit_module(path, module, n_names[id(module)])
        or _uncounted(n_calls[path])
        or _unfit_output(outputs[path])
        for path, module in model.named_modules()
    }
    return {path: reason for path, reason in reasons.items() if reason}


def read_features(
    paths: Collection[str], trace: Trace, rehearsal: Trace | None
) -> tuple[list[Features], dict[str, str]]:
    """Return what the modules return, with its layout, and by path why the others are no sites.

    Args:
        paths: The modules that are in question.
        trace: The first forward.
        rehearsal: One in which all held a stand-in, of another batch and, if possible, another
            size; None if it failed.
    """
    axes = channel_axes(trace.values)
    are_divided = divided(trace.values, axes)
    after = {returned.path: returned.shape for returned in rehearsal.returns} if rehearsal else {}
    n_calls = Counter(returned.path for returned in rehearsal.returns) if rehearsal else None
    returns = [returned for returned in trace.returns if returned.path in paths]
    is_fixed = all(r.shape[1:] == after.get(r.path, r.shape)[1:] for r in returns)
    features, reasons = [], {}
    for returned in returns:
        path, shape = returned.path, returned.shape
        if n_calls is not None and n_calls[f"{path}.{BLOCK_NAME}"] != 1:
            reasons[path] = "cannot be made to run one child more, once, at its end"
            continue
        if returned.value is not None and are_divided[returned.value]:
            reasons[path] = (
                "does not return features: no axis has all channels, as inside attention"
            )
            continue
        second = (rehearsal.input_shape, after[path]) if rehearsal else None
        axis = None if returned.value is None else axes[returned.value]
        layout = read_layout((trace.input_shape, shape), second, axis, has_fixed_size=is_fixed)
        if layout is None or returned.value is None:
            reasons[path] = "does not return features of one picture each, by channel and position"
        else:
            features.append(Features(path, returned.value, shape, layout))
    return features, reasons


def _unfit_module(path: str, module: nn.Module, n_names: int) -> str:
    if not path:
        return "is the model itself"
    if n_names > 1:
        return "is shared between several places"
    if isinstance(module, torch.jit.ScriptModule):
        return "is compiled TorchScript"
    if "forward" in vars(module):
        return "has a forward of its own, not its class's"
    if holds_block(module):
        return "holds a block that is never called"
    if _copies_itself(type(module)):
        return "is copied and pickled in its own way"
    return ""


def _copies_itself(kind: type[nn.Module]) -> bool:
    """Whether copies of an instance could lose its altered class, e.g. those of a GraphModule."""
    has_hook = hasattr(kind, "__deepcopy__") or hasattr(kind, "__copy__")
    is_reduced = kind.__reduce_ex__ is not object.__reduce_ex__
    return has_hook or is_reduced or kind.__reduce__ is not object.__reduce__


def _uncounted(n_calls: int) -> str:
    if n_calls == 1:
        return ""
    return f"is called {n_calls} times in one forward" if n_calls else "is never called"


def _unfit_output(output: Return) -> str:
    if not output.is_float or len(output.shape) not in (3, 4, 5):
        return "does not return one floating-point tensor with 3 to 5 axes"
    if output.value is None:
        return "returns what does not depend on the input"
    return ""

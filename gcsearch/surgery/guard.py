"""Refusing to run a model that has lost the call of one of its blocks; knows no block's inside.

Tools that swap modules, such as the conversion to SyncBatchNorm or the folding of batch norms into
convolutions, replace a host by a layer of another class, and the network would run on without its
block. A hook on the root looks after that before each forward. Under ``torch.compile`` and
``torch.export`` it is left out of the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gcsearch.errors import SurgeryError
from gcsearch.surgery.host import is_host

__all__ = ["guard", "off_guard", "unguard"]


class BlockGuard:
    """A forward pre-hook that raises where a block is no longer called.

    Args:
        paths: Of the hosts, from the module that it is registered on.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = tuple(paths)
        self._names = [path.split(".") for path in self.paths]

    def __call__(self, model: nn.Module, args: Any) -> None:
        """Look at each host."""
        if torch.compiler.is_compiling():
            return
        for names in self._names:
            module: nn.Module | None = model
            for name in names:
                module = module._modules.get(name) if module is not None else None
            if module is None or not is_host(module):
                raise SurgeryError(_lost(".".join(names), module))


def guard(model: nn.Module, paths: Iterable[str]) -> None:
    """Watch the hosts at ``paths``, and those that were watched before."""
    known = [path for hook in _take_guards(model) for path in hook.paths]
    model.register_forward_pre_hook(BlockGuard(dict.fromkeys([*known, *paths])))


@contextmanager
def off_guard(model: nn.Module) -> Iterator[None]:
    """Let a model run without its blocks for a while."""
    hooks = [(module, hook) for module in model.modules() for hook in _take_guards(module)]
    try:
        yield
    finally:
        for module, hook in hooks:
            module.register_forward_pre_hook(hook)


def unguard(model: nn.Module) -> None:
    """Watch nothing any more, in the whole model."""
    for module in model.modules():
        _take_guards(module)


def _take_guards(module: nn.Module) -> list[BlockGuard]:
    hooks = module._forward_pre_hooks
    keys = [key for key, hook in hooks.items() if isinstance(hook, BlockGuard)]
    return [hooks.pop(key) for key in keys]  # type: ignore[misc]


def _lost(path: str, module: nn.Module | None) -> str:
    what = f"{type(module).__name__} replaced its host" if module is not None else "its host went"
    return (
        f"the block at site {path!r} is no longer called, because {what}; "
        "gcsearch.remove the blocks, change the model, then insert them again"
    )

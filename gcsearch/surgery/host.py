"""Putting a block behind a module by changing the module's class, and undoing it; knows no site.

The block becomes a child of its host under a reserved name, and the class of the host becomes a
subclass whose forward calls the block on what the original forward returns. The names of other
weights, ``isinstance``, hooks and the ways to copy a model stay as they were. While the block is
there, ``type(host) is Base`` is false.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn, cast

from torch import nn

from gcsearch.errors import SurgeryError

__all__ = [
    "BLOCK_NAME",
    "attach",
    "detach",
    "follows_channels_last",
    "holds_block",
    "host_class",
    "is_host",
]

BLOCK_NAME = "gcsearch_block"
"""Reserved name of the child: keys of a state dict that have it as a part are the block's."""

_BASE = "_gcsearch_base"
_IS_CHANNELS_LAST = "_gcsearch_is_channels_last"


def attach(host: nn.Module, block: nn.Module, *, is_channels_last: bool = False) -> None:
    """Make ``host`` return ``block(what it returned)``.

    Args:
        host: Altered in place.
        block: Takes features of shape (N, C, ...).
        is_channels_last: Whether the host returns (N, ..., C); the block gets a view of it.
    """
    altered = host_class(type(host), is_channels_last)  # type: ignore[arg-type]  # mypy hashes it
    host.add_module(BLOCK_NAME, block)
    try:
        host.__class__ = altered
    except TypeError:
        del host._modules[BLOCK_NAME]
        raise


def follows_channels_last(host: nn.Module) -> bool:
    """Whether :func:`attach` was told that the host returns its channels last."""
    return bool(getattr(type(host), _IS_CHANNELS_LAST, False))


def detach(host: nn.Module) -> nn.Module:
    """Undo :func:`attach` and return the block."""
    host.__class__ = vars(type(host)).get(_BASE, type(host))
    return cast(nn.Module, host._modules.pop(BLOCK_NAME))


def holds_block(module: nn.Module) -> bool:
    """Whether a block is the module's child, called or not."""
    return BLOCK_NAME in module._modules


def is_host(module: nn.Module) -> bool:
    """Whether the module calls its block."""
    return holds_block(module) and _BASE in vars(type(module))


@functools.cache
def host_class(base: type[nn.Module], is_channels_last: bool = False) -> type[nn.Module]:
    """Return the subclass of ``base`` that calls a block; one for each ``base`` and layout.

    It goes by the module and name of ``base``, so that tracers treat it alike: a layer of torch's
    own remains a leaf to ``torch.fx``.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.gcsearch_block(base.forward(self, *args, **kwargs))

    def forward_channels_last(self: Any, *args: Any, **kwargs: Any) -> Any:
        features = base.forward(self, *args, **kwargs)
        return self.gcsearch_block(features.movedim(-1, 1)).movedim(1, -1)

    namespace = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reduce_host,
        "forward": forward_channels_last if is_channels_last else forward,
        _BASE: base,
        _IS_CHANNELS_LAST: is_channels_last,
        **_container_methods(base),
    }
    return type(base.__name__, (base,), namespace)


def _reduce_host(host: nn.Module, protocol: Any) -> tuple[Any, ...]:
    """Copy and pickle by the importable base class and the state."""
    kind = type(host)
    base = getattr(kind, _BASE)
    _, args, *state = base.__reduce_ex__(host, max(protocol, 2))
    return (_new_host, (base, getattr(kind, _IS_CHANNELS_LAST), *args[1:]), *state)


def _new_host(base: type[nn.Module], is_channels_last: bool, *args: Any) -> nn.Module:
    altered = host_class(base, is_channels_last)  # type: ignore[arg-type]
    return altered.__new__(altered, *args)


def _container_methods(base: type[nn.Module]) -> dict[str, Callable[..., Any]]:
    """Return overrides that hide the block from whoever counts, indexes or runs children."""
    if issubclass(base, (nn.Sequential, nn.ModuleList)):
        return _SEQUENCE_METHODS
    if issubclass(base, nn.ModuleDict):
        return _MAPPING_METHODS
    return {}


def _visible(host: nn.Module) -> dict[str, nn.Module]:
    children = cast(dict[str, nn.Module], host._modules)
    return {name: child for name, child in children.items() if name != BLOCK_NAME}


def _get_item(host: nn.Module, index: Any) -> Any:
    """Index the container as it was without the block; a slice is one of the original class."""
    base = getattr(type(host), _BASE)
    plain = base.__new__(base)
    vars(plain).update({**vars(host), "_modules": _visible(host)})
    return plain[index]


def _refuse_change(host: nn.Module, *args: Any, **kwargs: Any) -> NoReturn:
    raise SurgeryError(
        f"children of a {type(host).__name__} that holds a block cannot be moved or deleted; "
        "gcsearch.remove the blocks first"
    )


_COMMON_METHODS: dict[str, Callable[..., Any]] = {
    "__len__": lambda host: len(_visible(host)),
    "__delitem__": _refuse_change,
    "pop": _refuse_change,
}
_SEQUENCE_METHODS: dict[str, Callable[..., Any]] = {
    **_COMMON_METHODS,
    "__iter__": lambda host: iter(_visible(host).values()),
    "__getitem__": _get_item,
    "insert": _refuse_change,
}
_MAPPING_METHODS: dict[str, Callable[..., Any]] = {
    **_COMMON_METHODS,
    "__iter__": lambda host: iter(_visible(host)),
    "__contains__": lambda host, name: name in _visible(host),
    "keys": lambda host: _visible(host).keys(),
    "items": lambda host: _visible(host).items(),
    "values": lambda host: _visible(host).values(),
    "clear": _refuse_change,
}

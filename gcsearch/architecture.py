"""What is inserted where, as values: canonical, hashable, to and from plain data.

Knows no tensor, no model and no trial, so that an architecture can come from a file, a database or
a stranger and be compared, cached and sent between processes without importing torch.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any

from gcsearch.blocks.settings import BLOCK_SETTINGS, SETTING_DEFAULTS
from gcsearch.errors import ArchitectureError

__all__ = ["Architecture", "Insertion"]

ID_LENGTH = 12
"""Hex digits of an architecture's id: 48 bits, so a study of a million has no likely collision."""


@dataclass(frozen=True)
class Insertion:
    """One block with its settings at one site.

    Which settings a block has is told by ``gcsearch.blocks.BLOCK_SETTINGS``; those that are left
    out take the block's defaults, so that equal insertions compare equal. A block registered from
    elsewhere has those that are given.

    Args:
        site: Dotted path of the module whose output the block transforms.
        block: Registered name of the block.
        ratio: Bottleneck planes over channels, in (0, 1]; a string such as ``"1/16"`` is read too.
        pooling: How the context is pooled over positions: ``"att"`` or ``"avg"`` for GC.
        fusions: How the context is fused: ``"channel_add"``, ``"channel_mul"`` or both. Order does
            not matter: the tuple is kept sorted.
        mode: How NL compares positions, e.g. ``"embedded_gaussian"``.
        sub_sample: Whether NL attends to every second position only.

    Raises:
        ArchitectureError: A value is of the wrong type or out of range, or the block has no such
            setting.

    Example:
        >>> str(Insertion("layer3.5", ratio=1 / 16)), str(Insertion("layer3.5", "snl"))
        ('layer3.5 gc r1/16 att add', 'layer3.5 snl')
    """

    site: str
    block: str = "gc"
    ratio: float | None = None
    pooling: str | None = None
    fusions: tuple[str, ...] | None = None
    mode: str | None = None
    sub_sample: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.site, str) or not self.site:
            raise ArchitectureError(f"site {_short(self.site)} is not a dotted module path")
        if not isinstance(self.block, str):
            raise ArchitectureError(f"block {_short(self.block)} is not a name, e.g. 'gc'")
        own = BLOCK_SETTINGS.get(self.block)  # of a block from elsewhere, what is given is taken
        for name, default in SETTING_DEFAULTS.items():
            value = getattr(self, name)
            if value is not None and own is not None and name not in own:
                known = ", ".join(own) or "none"
                raise ArchitectureError(
                    f"block {self.block!r} has no setting {name!r}; its settings: {known}"
                )
            if own is not None and name in own and value is None:
                value = default
            if value is not None:
                object.__setattr__(self, name, _READERS[name](name, value))

    def settings(self) -> dict[str, Any]:
        """Return what the block's constructor takes."""
        values = {name: getattr(self, name) for name in SETTING_DEFAULTS}
        return {name: value for name, value in values.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, safe for YAML and JSON."""
        settings = {k: list(v) if k == "fusions" else v for k, v in self.settings().items()}
        return {"site": self.site, "block": self.block, **settings}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Insertion:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ArchitectureError: The data is no mapping, lacks a site or has unknown keys.
        """
        if not isinstance(data, Mapping) or "site" not in data:
            raise ArchitectureError(f"insertion {_short(data)} is not a mapping with a 'site'")
        _refuse_unknown(data, {f.name for f in fields(cls)}, "insertion")
        return cls(**data)

    def __str__(self) -> str:
        words = [_WORDS[name](value) for name, value in self.settings().items()]
        return " ".join(filter(None, [self.site, self.block, *words]))


@dataclass(frozen=True)
class Architecture:
    """A backbone and its insertions; with none of them it is the *baseline*.

    Args:
        backbone: Name of a torchvision model, or an import path.
        insertions: At most one for each site, in any order; kept sorted.

    Raises:
        ArchitectureError: A site is named twice.

    Example:
        >>> a, b = Insertion("layer3.5"), Insertion("layer4.0")
        >>> Architecture("resnet50", (a, b)).id == Architecture("resnet50", (b, a)).id
        True
    """

    backbone: str
    insertions: tuple[Insertion, ...] = field(default=())

    def __post_init__(self) -> None:
        for insertion in self.insertions:
            if not isinstance(insertion, Insertion):
                raise ArchitectureError(f"{_short(insertion)} is no Insertion; make one of it")
        ordered = tuple(sorted(self.insertions, key=lambda insertion: insertion.site))
        sites = [insertion.site for insertion in ordered]
        twice = sorted({site for site in sites if sites.count(site) > 1})
        if twice:
            raise ArchitectureError(f"site {twice[0]!r} is named twice; a site holds one block")
        object.__setattr__(self, "insertions", ordered)

    @property
    def id(self) -> str:
        """The same for the same set of insertions in any order, on any machine and version."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]

    @property
    def is_baseline(self) -> bool:
        """Whether nothing is inserted."""
        return not self.insertions

    def baseline(self) -> Architecture:
        """Return the unaltered backbone."""
        return Architecture(self.backbone)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, safe for YAML and JSON."""
        return {
            "backbone": self.backbone,
            "insertions": [insertion.to_dict() for insertion in self.insertions],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ArchitectureError: The data has another form, or a value is out of range.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("backbone"), str):
            raise ArchitectureError("architecture is not a mapping with a 'backbone' name")
        _refuse_unknown(data, {"backbone", "insertions"}, "architecture")
        insertions = data.get("insertions", ())
        if not isinstance(insertions, Iterable) or isinstance(insertions, (str, Mapping)):
            raise ArchitectureError(f"insertions {_short(insertions)} is not a list")
        return cls(data["backbone"], tuple(Insertion.from_dict(i) for i in insertions))

    def __str__(self) -> str:
        return "; ".join(map(str, self.insertions)) or "baseline"


def read_ratio(value: object) -> float:
    """Read a bottleneck ratio: a number, or a string such as ``"1/16"``.

    Raises:
        ArchitectureError: It is no number in (0, 1].

    Example:
        >>> read_ratio("1/16")
        0.0625
    """
    try:
        if isinstance(value, (bool, bytes)):
            raise TypeError
        is_fraction = isinstance(value, str) and "/" in value
        ratio = float(Fraction(value) if is_fraction else value)  # type: ignore[arg-type, call-overload]
    except (ValueError, TypeError, ArithmeticError):
        raise ArchitectureError(
            f"ratio {_short(value)} is not a number such as 0.0625 or '1/16'"
        ) from None
    if not 0 < ratio <= 1:
        raise ArchitectureError(f"ratio {_short(value)} is outside (0, 1]; GCNet uses 1/4 to 1/32")
    return ratio


def show_ratio(ratio: float) -> str:
    """Return a ratio as people write it; :func:`read_ratio` of it is the same number again.

    Example:
        >>> show_ratio(0.0625), show_ratio(0.3), show_ratio(1.0), show_ratio(0.12345)
        ('1/16', '3/10', '1', '0.12345')
    """
    fraction = Fraction(ratio).limit_denominator(512)
    return str(fraction) if float(fraction) == ratio else repr(ratio)


def _read_name(setting: str, value: object) -> str:
    if not isinstance(value, str):
        example = SETTING_DEFAULTS[setting]
        raise ArchitectureError(f"{setting} {_short(value)} is not a name, e.g. {example!r}")
    return value


def _read_names(setting: str, value: object) -> tuple[str, ...]:
    is_list = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
    names = list(value) if is_list else []  # type: ignore[call-overload]
    if not is_list or not all(isinstance(name, str) for name in names):
        raise ArchitectureError(
            f"{setting} {_short(value)} is not a list of names; write ['channel_add']"
        )
    return tuple(sorted(set(names)))


def _read_flag(setting: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ArchitectureError(f"{setting} {_short(value)} is neither true nor false")
    return value


def _short(value: object) -> str:
    """Return a value for a message: in one line, however large or nested it is."""
    return f"{reprlib.repr(value):.80}"


def _refuse_unknown(data: Mapping[str, Any], known: set[str], kind: str) -> None:
    unknown = sorted(str(key) for key in set(data) - known)
    if unknown:
        raise ArchitectureError(f"{kind} has unknown key {unknown[0]!r}; known: {sorted(known)}")


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "ratio": lambda _, value: read_ratio(value),
    "pooling": _read_name,
    "fusions": _read_names,
    "mode": _read_name,
    "sub_sample": _read_flag,
}
_WORDS: dict[str, Callable[[Any], str]] = {
    "ratio": lambda ratio: f"r{show_ratio(ratio)}",
    "pooling": str,
    "fusions": lambda names: "+".join(name.removeprefix("channel_") for name in names),
    "mode": str,
    "sub_sample": lambda flag: "sub" if flag else "",
}
"""How each setting is read from plain data, and shown."""

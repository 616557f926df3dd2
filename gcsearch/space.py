"""Which architectures are allowed, and how one becomes an Optuna trial and back.

Every parameter is named by its site (``layer3.5/block``, ``layer3.5/ratio`` ...) and keeps its
range for the whole study: Optuna drops a parameter whose range changes from its joint space
(`optuna/search_space/intersection.py`). Choosing *whether* first and *how* only then was better
with every sampler tried than one flat list of choices a site.

The limit on insertions is kept by construction: sites are walked in a fixed order and, once the
limit is reached, the rest is not asked about. The order is that of a hash of the path, so that
neither end of the network is favoured.
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import Field, field_validator

from gcsearch.architecture import Architecture, Insertion, read_ratio, show_ratio
from gcsearch.blocks import BLOCK_SETTINGS, FUSIONS, MODES, POOLINGS, n_macs
from gcsearch.errors import (
    ArchitectureError,
    BlockError,
    SpaceError,
    UnknownNameError,
    near_misses,
)
from gcsearch.settings import Settings
from gcsearch.surgery import Site

__all__ = ["SearchSpace", "SpaceSettings", "select_sites"]

ABSENT = "none"
JOIN = "+"
KINDS = ("after-add", "before-add", "stage-end", "other")


class SpaceSettings(Settings):
    """Which insertions a search may make."""

    sites: Annotated[tuple[str, ...], Field(min_length=1)] = ("auto",)
    """Site paths with wildcards (``layer3.*``), ``kind:after-add``, ``kind:before-add``,
    ``kind:stage-end``, ``kind:other``, ``stage:3`` or ``all``; a site is taken if any of them
    fits. ``auto`` takes the outputs of residual blocks, or the ends of stages where there are
    none."""
    blocks: Annotated[tuple[str, ...], Field(min_length=1)] = ("gc",)
    """Blocks to choose from."""
    ratios: Annotated[tuple[float, ...], Field(min_length=1)] = (1 / 4, 1 / 8, 1 / 16)
    """Bottleneck ratios to choose from; a string such as "1/16" is read too."""
    poolings: Annotated[tuple[str, ...], Field(min_length=1)] = ("att", "avg")
    """Context poolings to choose from."""
    fusions: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "channel_add",
        "channel_mul",
        "channel_add+channel_mul",
    )
    """Fusions to choose from; join two names by ``+`` for both at once."""
    modes: Annotated[tuple[str, ...], Field(min_length=1)] = ("embedded_gaussian",)
    """How NL may compare positions: gaussian, embedded_gaussian, dot_product, concatenation."""
    sub_samples: Annotated[tuple[bool, ...], Field(min_length=1)] = (False,)
    """Whether NL may attend to every second position only: [false], [true] or both."""
    max_insertions: Annotated[int, Field(ge=1, le=1000)] = 4
    """Most blocks in one architecture."""

    @field_validator("ratios", mode="before")
    @classmethod
    def _read_ratios(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            value = [value]
        try:
            return tuple(sorted({read_ratio(v) for v in value}, reverse=True))
        except ArchitectureError as error:
            raise ValueError(str(error)) from error

    @field_validator("blocks")
    @classmethod
    def _check_blocks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _known("block", value, sorted(BLOCK_SETTINGS))

    @field_validator("poolings")
    @classmethod
    def _check_poolings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _known("pooling", value, POOLINGS)

    @field_validator("modes")
    @classmethod
    def _check_modes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _known("mode", value, MODES)

    @field_validator("fusions")
    @classmethod
    def _sort_fusions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        _known("fusion", [name for v in value for name in v.split(JOIN)], FUSIONS)
        return tuple(dict.fromkeys(JOIN.join(sorted(set(v.split(JOIN)))) for v in value))


class AsksForChoices(Protocol):
    """What the space needs of an Optuna trial, frozen or live."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of ``choices``."""


class SearchSpace:
    """The allowed architectures of one backbone.

    Args:
        backbone: Its name.
        sites: Where blocks may go; see :func:`select_sites`.
        settings: Which blocks, with which settings, and how many.

    Raises:
        SpaceError: No site can hold any of the blocks.

    Attributes:
        sites: The usable sites, in order of execution.
    """

    def __init__(self, backbone: str, sites: Sequence[Site], settings: SpaceSettings) -> None:
        self.backbone = backbone
        self.max_insertions = settings.max_insertions
        self._choices = {site.path: _choices(site, settings) for site in sites}
        self.sites = [site for site in sites if self._choices[site.path]]
        if not self.sites:
            raise SpaceError(
                f"none of the {len(sites)} sites chosen in {backbone} can hold any of the blocks "
                f"{list(settings.blocks)}; widen space.sites or raise space.ratios"
            )
        self._walk = sorted((s.path for s in self.sites), key=_shuffled)

    def decode(self, trial: AsksForChoices) -> Architecture:
        """Ask a trial for an architecture."""
        insertions: list[Insertion] = []
        for path in self._walk:
            if len(insertions) == self.max_insertions:
                break
            block = _ask(trial, f"{path}/block", [ABSENT, *self._choices[path]])
            if block == ABSENT:
                continue
            options = self._choices[path][block]
            picked = {k: _ask(trial, _name(path, block, k), v) for k, v in options.items()}
            insertions.append(_insertion(path, block, picked))
        return Architecture(self.backbone, tuple(insertions))

    def encode(self, architecture: Architecture) -> dict[str, Any]:
        """Return the parameters that make :meth:`decode` give ``architecture``.

        Raises:
            SpaceError: The architecture is not in this space; the message says why.
        """
        self._check(architecture)
        by_site = {insertion.site: insertion for insertion in architecture.insertions}
        params: dict[str, Any] = {}
        for path in self._walk:
            if sum(done in by_site for done in _sites_of(params)) == self.max_insertions:
                break
            insertion = by_site.get(path)
            params[f"{path}/block"] = insertion.block if insertion else ABSENT
            if insertion:
                options = self._choices[path][insertion.block]
                settings = _settings_as_choices(insertion)
                params |= {
                    _name(path, insertion.block, k): settings[k]
                    for k, v in options.items()
                    if len(v) > 1
                }
        return params

    def random(self, rng: np.random.Generator) -> Architecture:
        """Draw an architecture: first how many insertions, then where, then which."""
        n = int(rng.integers(1, min(self.max_insertions, len(self.sites)) + 1))
        picks = rng.choice(len(self.sites), size=n, replace=False)
        return Architecture(
            self.backbone,
            tuple(self._random_insertion(self.sites[int(i)].path, rng) for i in picks),
        )

    def insertions(self) -> Iterator[tuple[Site, Insertion]]:
        """Yield every insertion that may be made, with its site, in order of execution."""
        for site in self.sites:
            for block, options in self._choices[site.path].items():
                for values in itertools.product(*options.values()):
                    picked = dict(zip(options, values, strict=True))
                    yield site, _insertion(site.path, block, picked)

    @property
    def n_architectures(self) -> int:
        """How many architectures there are, the baseline among them.

        The sum over k of the elementary symmetric polynomials of the choices at each site, by the
        usual recurrence.
        """
        counts = [1] + [0] * self.max_insertions
        for options in self._choices.values():
            ways = sum(math.prod(map(len, choice.values())) for choice in options.values())
            for k in range(self.max_insertions, 0, -1):
                counts[k] += counts[k - 1] * ways
        return sum(counts)

    def typical(self) -> Architecture:
        """Return an architecture of middling cost: half the blocks allowed, evenly spread."""
        n = min(len(self.sites), (self.max_insertions + 1) // 2)
        spread = [self.sites[(2 * i + 1) * len(self.sites) // (2 * n)].path for i in range(n)]
        return Architecture(self.backbone, tuple(self._first_insertion(path) for path in spread))

    def _first_insertion(self, path: str) -> Insertion:
        block, options = next(iter(self._choices[path].items()))
        return _insertion(path, block, {k: v[0] for k, v in options.items()})

    def _random_insertion(self, path: str, rng: np.random.Generator) -> Insertion:
        blocks = list(self._choices[path])
        block = blocks[int(rng.integers(len(blocks)))]
        options = self._choices[path][block]
        return _insertion(
            path, block, {k: v[int(rng.integers(len(v)))] for k, v in options.items()}
        )

    def _check(self, architecture: Architecture) -> None:
        if architecture.backbone != self.backbone:
            raise SpaceError(f"backbone {architecture.backbone!r} is not {self.backbone!r}")
        if len(architecture.insertions) > self.max_insertions:
            raise SpaceError(
                f"{len(architecture.insertions)} insertions are more than the "
                f"{self.max_insertions} of space.max_insertions"
            )
        for insertion in architecture.insertions:
            options = self._choices.get(insertion.site, {}).get(insertion.block)
            if options is None:
                raise SpaceError(f"{insertion.block!r} at {insertion.site!r} is not in the space")
            for name, value in _settings_as_choices(insertion).items():
                if value not in options[name]:
                    raise SpaceError(
                        f"{name} {value!r} at {insertion.site!r} is not among {options[name]}"
                    )


def select_sites(sites: Sequence[Site], patterns: Iterable[str]) -> list[Site]:
    """Return the sites that fit any of the patterns, in order of execution.

    Args:
        sites: All sites of a backbone.
        patterns: See :class:`SpaceSettings`.

    Raises:
        SpaceError: A pattern fits no site; near misses are named.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        fitting = {site.path for site in _matching(sites, pattern)}
        if not fitting:
            raise SpaceError(_no_match(sites, pattern))
        chosen |= fitting
    return [site for site in sites if site.path in chosen]


def _matching(sites: Sequence[Site], pattern: str) -> list[Site]:
    if pattern == "all":
        return list(sites)
    if pattern == "auto":
        return _matching(sites, "kind:after-add") or _matching(sites, "kind:stage-end")
    if pattern.startswith("kind:"):
        return [site for site in sites if pattern.removeprefix("kind:") in site.kinds]
    if pattern.startswith("stage:"):
        wanted = pattern.removeprefix("stage:")
        return [site for site in sites if site.stage is not None and str(site.stage) == wanted]
    return [site for site in sites if fnmatch.fnmatchcase(site.path, pattern)]


def _no_match(sites: Sequence[Site], pattern: str) -> str:
    paths = [site.path for site in sites]
    if pattern.startswith("kind:"):
        known = [f"kind:{kind}" for kind in KINDS if _matching(sites, f"kind:{kind}")]
    elif pattern.startswith("stage:"):
        known = sorted({f"stage:{site.stage}" for site in sites if site.stage is not None})
    else:
        known = paths
    shown = f"{known[0]} ... {known[-1]} ({len(known)})" if len(known) > 6 else ", ".join(known)
    return f"site pattern {pattern!r} fits no site{near_misses(pattern, known)} there are {shown}"


def _choices(site: Site, settings: SpaceSettings) -> dict[str, dict[str, list[Any]]]:
    """Return block -> setting -> values at one site, without those that are not possible there."""
    wanted: dict[str, Sequence[Any]] = {
        "ratio": settings.ratios,
        "pooling": settings.poolings,
        "fusions": [tuple(fusions.split(JOIN)) for fusions in settings.fusions],
        "mode": settings.modes,
        "sub_sample": settings.sub_samples,
    }
    choices = {}
    for block in settings.blocks:
        options = {
            name: [_to_choice(name, v) for v in wanted[name] if _fits(block, site, name, v)]
            for name in BLOCK_SETTINGS[block]
        }
        if all(options.values()):
            choices[block] = options
    return choices


def _fits(block: str, site: Site, name: str, value: Any) -> bool:
    """Whether a block can have this setting at a site: with too few planes, say, it cannot."""
    others = {"ratio": 1.0} if "ratio" in BLOCK_SETTINGS[block] else {}
    try:
        n_macs(block, site.channels, site.positions, **(others | {name: value}))
    except BlockError:
        return False
    return True


def _known(kind: str, names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return ``names`` without repetitions.

    Raises:
        ValueError: One of them is not known; pydantic makes a fault of the configuration of it.
    """
    for name in names:
        if name not in known:
            raise ValueError(str(UnknownNameError(kind, name, known)))
    return tuple(dict.fromkeys(names))


def _ask(trial: AsksForChoices, name: str, choices: list[Any]) -> Any:
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, choices)


def _insertion(path: str, block: str, picked: Mapping[str, Any]) -> Insertion:
    return Insertion(path, block, **{k: _from_choice(k, v) for k, v in picked.items()})


def _settings_as_choices(insertion: Insertion) -> dict[str, Any]:
    return {k: _to_choice(k, v) for k, v in insertion.settings().items()}


def _to_choice(name: str, value: Any) -> Any:
    """Return the value of a setting as Optuna and its dashboard are to see it."""
    if name == "ratio":
        return show_ratio(value)
    return JOIN.join(value) if name == "fusions" else value


def _from_choice(name: str, value: Any) -> Any:
    """Undo :func:`_to_choice`."""
    if name == "ratio":
        return read_ratio(value)
    return tuple(value.split(JOIN)) if name == "fusions" else value


def _name(path: str, block: str, setting: str) -> str:
    """Return what the parameter of a setting is called in a study."""
    return f"{path}/{block}/{'fusion' if setting == 'fusions' else setting}"


def _sites_of(params: Mapping[str, Any]) -> list[str]:
    return [name.removesuffix("/block") for name, v in params.items() if name.endswith("/block")]


def _shuffled(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()

"""One search, complete, as data: reading, checking, saving; does not know how anything is done.

A configuration is a YAML mapping with the sections below. All faults are reported at once. It
holds no code, no includes and no environment variables, so one can come from a stranger; import
paths in it are followed only where the caller says ``trust``.
"""

from __future__ import annotations

import reprlib
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field, ValidationError

from gcsearch.cost import Cost, LatencySettings, LimitSettings, limits_by_cost
from gcsearch.errors import ConfigError, near_misses
from gcsearch.proxy.training import TrainingSettings
from gcsearch.settings import Settings
from gcsearch.space import SpaceSettings

__all__ = [
    "DataSettings",
    "PlanSettings",
    "SearchConfig",
    "SearchSettings",
    "check_settings",
    "load_config",
    "read_yaml",
]

SomeSettings = TypeVar("SomeSettings", bound=Settings)


class DataSettings(Settings):
    """The proxy task."""

    source: str = "cued-digits"
    """A built-in, ``torchvision:NAME``, ``imagefolder:DIR``, ``npz:FILE`` or an import path."""
    image_size: Annotated[int, Field(ge=8, le=1024)] | None = None
    """Side in pixels of the pictures; null takes the source's own."""
    options: dict[str, int | float | str | bool] = Field(default_factory=dict)
    """Knobs of a built-in task, e.g. ``digits: 3``."""


class SearchSettings(Settings):
    """How the search goes through the space."""

    objective: Cost = "latency"
    """What is kept low beside a high top1: latency, macs, params or memory (at the peak of one
    forward pass, served as latency is measured), each as a ratio to the unaltered backbone."""
    workers: Annotated[int, Field(ge=1, le=1024)] = 1
    """Trials trained at the same time; they share this machine's cores."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the sampler, the data and the training; the check at the end uses seeds of its own."""
    startup_trials: Annotated[int, Field(ge=1)] = 6
    """Architectures drawn at random before the sampler models what it has seen."""
    latency_table: bool = False
    """Build, or take from the database, an additive table of what each block adds, before the
    first trial; proposals that it shows to be over ``latency.limit`` are refused without being
    measured, all others are measured whole. It is measured on the machine that drives the search,
    so workers elsewhere should be of the same kind. Pays where the database serves several
    searches of one backbone, or the limit is tight."""


class PlanSettings(Settings):
    """How much is done; what is null is laid out from the budget by measuring this machine."""

    budget_s: Annotated[float, Field(gt=0)] | None = None
    """Seconds for the whole run; null means 15 minutes unless ``trials`` is given alone."""
    trials: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Architectures to evaluate, besides the baseline."""
    baseline_images: Annotated[int, Field(ge=1)] | None = None
    """Pictures the baseline is trained on before the search."""
    trial_images: Annotated[int, Field(ge=1)] | None = None
    """Pictures each architecture is trained on in a trial."""
    trial_epochs: Annotated[int, Field(ge=1, le=1000)] = 2
    """Epochs of a trial; the validation split is scored after each."""
    check_seeds: Annotated[int, Field(ge=0, le=100)] | None = None
    """Fresh seeds of the final check on the test split; 0 leaves the check out."""


class SearchConfig(Settings):
    """Everything that decides what a search does.

    Example:
        >>> SearchConfig(backbone="resnet18").space.max_insertions
        4
    """

    backbone: str = "resnet50"
    """A torchvision classifier, or an import path ``package.module:function``."""
    weights: str | None = None
    """Weights the baseline starts from: a torchvision name such as ``DEFAULT``, or a file."""
    data: DataSettings = DataSettings()
    space: SpaceSettings = SpaceSettings()
    training: TrainingSettings = TrainingSettings()
    latency: LatencySettings = LatencySettings()
    limits: LimitSettings = LimitSettings()
    search: SearchSettings = SearchSettings()
    plan: PlanSettings = PlanSettings()

    @property
    def cost_limits(self) -> dict[Cost, float]:
        """The limits that are set, that of latency among them, as ratios to the backbone."""
        return limits_by_cost(self.latency.limit, self.limits.model_dump())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, safe for YAML and JSON."""
        return self.model_dump(mode="json")


def load_config(
    source: str | Path | Mapping[str, Any] | None = None, overrides: Iterable[str] = ()
) -> SearchConfig:
    """Read a configuration and check it whole.

    Args:
        source: Path of a YAML file, or plain data; ``None`` is all defaults.
        overrides: ``"section.key=value"`` each, the value in YAML.

    Raises:
        ConfigError: The file cannot be read, or there are faults; all of them are listed.

    Example:
        >>> load_config({"backbone": "resnet18"}, ["space.max_insertions=2"]).space.max_insertions
        2
        >>> load_config({"bacbone": "resnet18"})
        Traceback (most recent call last):
        gcsearch.errors.ConfigError: config: unknown key 'bacbone'; did you mean 'backbone'?
    """
    if isinstance(source, (str, Path)):
        name, data = str(source), _read_mapping(Path(source))
    else:
        name, data = "config", dict(source or {})
    return check_settings(SearchConfig, data, overrides, name)


def check_settings(
    kind: type[SomeSettings],
    data: Mapping[str, Any],
    overrides: Iterable[str] = (),
    name: str = "config",
) -> SomeSettings:
    """Check plain data whole against settings of one kind.

    Args:
        kind: A class of settings, whose sections are settings too.
        data: What is given; the rest are defaults.
        overrides: ``"section.key=value"`` each, the value in YAML.
        name: Of the file or command that the data came from, for messages.

    Raises:
        ConfigError: There are faults; all of them are listed.

    Example:
        >>> check_settings(SearchSettings, {}, ["workers=0", "seed=-1"])
        Traceback (most recent call last):
        gcsearch.errors.ConfigError: config:
          - workers = 0: input should be greater than or equal to 1
          - seed = -1: input should be greater than or equal to 0
    """
    changed = _without_empty_sections(_deep_copy(data), kind)
    faults = [fault for text in overrides if (fault := _override(changed, text))]
    try:
        settings = kind.model_validate(changed)
    except ValidationError as error:
        raise ConfigError(faults + _explain(error, kind), name) from None
    if faults:
        raise ConfigError(faults, name)
    return settings


def read_yaml(text: str) -> Any:
    """Read plain data, safe to come from a stranger: no code, no aliases, no key twice.

    Raises:
        ValueError: It is no such YAML; the message has one line.

    Example:
        >>> read_yaml("a: [1, x]")
        {'a': [1, 'x']}
    """
    try:
        return yaml.load(text, _PlainLoader)
    except (
        yaml.YAMLError,
        RecursionError,
        ValueError,
        LookupError,
        ArithmeticError,
        AttributeError,
    ) as error:  # PyYAML lets out whatever its constructors stumble over, e.g. in `!!int ''`
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot be read as YAML: {reason:.300}") from error


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases, by which a small file can grow without limit, and keys given twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # refused below: it cannot be hashed
            if key.value in seen:
                problem = f"key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(["no such file; the shipped ones are in configs/"], str(path)) from None
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror or error}"], str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(["is not text in UTF-8"], str(path)) from error
    except ValueError as error:
        raise ConfigError([str(error)], str(path)) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError([f"is a {type(data).__name__}, not a mapping of sections"], str(path))
    return data


def _override(data: dict[str, Any], text: str) -> str | None:
    """Set one dotted key; return the fault if the text has another form."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        return f"--set {text!r} is not of the form key=value, e.g. space.max_insertions=2"
    *sections, last = key.strip().split(".")
    for section in sections:
        inner = data.setdefault(section, {})
        if not isinstance(inner, dict):
            return f"--set {text!r}: {section!r} is not a section"
        data = inner
    try:
        data[last] = read_yaml(value)
    except ValueError:
        return f"--set {text!r}: the value is not YAML"
    return None


def _explain(error: ValidationError, kind: type[Settings]) -> list[str]:
    return [_explain_one(fault, kind) for fault in error.errors()]


def _explain_one(fault: Any, kind: type[Settings]) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _keys_beside(fault["loc"], kind)
        return f"unknown key {key!r}{near_misses(str(fault['loc'][-1]), known)}".rstrip(";") + (
            ""
            if near_misses(str(fault["loc"][-1]), known) != ";"
            else f"; known: {', '.join(known)}"
        )
    message = fault["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{key} = {reprlib.repr(fault['input']):.80}: {message}"


def _keys_beside(location: tuple[Any, ...], model: type[Settings]) -> list[str]:
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Settings)):
            return []
        model = annotation
    return sorted(model.model_fields)


def _without_empty_sections(data: dict[str, Any], kind: type[Settings]) -> dict[str, Any]:
    """Leave out sections whose keys are all commented out, which YAML reads as null."""
    sections = {k for k, v in kind.model_fields.items() if isinstance(v.default, Settings)}
    return {k: v for k, v in data.items() if v is not None or k not in sections}


def _deep_copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _deep_copy(v) if isinstance(v, Mapping) else v for k, v in data.items()}

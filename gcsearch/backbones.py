"""Names to networks: torchvision models and import paths, their weights, and altered backbones.

Knows how to make a model; knows nothing of training, timing or trials.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torchvision import models

from gcsearch.architecture import Architecture
from gcsearch.errors import ConfigError, SurgeryError, UnknownNameError
from gcsearch.imports import import_attribute
from gcsearch.surgery import Site, insert

__all__ = [
    "backbone_names",
    "build_altered",
    "build_backbone",
    "check_backbone",
    "default_input_size",
    "load_weights",
    "read_state_dict",
]

STARTS = ("zero_init_residual", "init_weights")
"""Options that help training from scratch, where a network has them: residual branches that start
at zero (Goyal et al. 2017, arXiv 1706.02677, section 5.1), and the initialisation that GoogLeNet
and Inception warn about unless it is given."""
TIMM = "timm:"
"""Prefix of timm's models; only names that timm lists are followed, so nothing is trusted."""
IMAGE_SIZE = 224
FRAMES = 16
IMPORT_CURE = "To run code of your own pass --trust (in Python: trust=True)"


@cache
def backbone_names() -> list[str]:
    """Return the torchvision models that classify images, sorted."""
    return sorted(models.list_models(module=models))


def build_backbone(name: str, *, n_classes: int | None = None, trust: bool = False) -> nn.Module:
    """Build a backbone with fresh weights.

    Args:
        name: A torchvision model, ``timm:NAME`` for one of timm's, or an import path
            ``package.module:function`` whose function takes ``num_classes`` if it wants to be
            told.
        n_classes: Outputs of the classifier; ``None`` leaves the model's own default.
        trust: Whether an import path may be followed, which runs its code.

    Raises:
        UnknownNameError: No torchvision model has this name.
        ConfigError: An import path is not trusted, cannot be imported, or makes no module.

    Example:
        >>> build_backbone("resnet18", n_classes=10).fc.out_features
        10
    """
    check_backbone(name, trust=trust)
    options: dict[str, Any] = {} if n_classes is None else {"num_classes": n_classes}
    if name.startswith(TIMM):
        built: nn.Module = _timm().create_model(name.removeprefix(TIMM), **options)
        return built
    if ":" in name:
        return _build_from_import_path(name, n_classes)
    builder = models.get_model_builder(name)
    if "weights_backbone" in inspect.signature(builder).parameters:
        options["weights_backbone"] = None
    # The builder passes other options on to the network's class, which alone names them.
    network = get_type_hints(builder)["return"]
    own = inspect.signature(network).parameters
    options |= {option: True for option in STARTS if option in own}
    model: nn.Module = builder(weights=None, **options)
    return model


def check_backbone(name: str, *, trust: bool = False) -> None:
    """Find out at no cost whether a backbone can be had by its name.

    Raises:
        UnknownNameError: No torchvision model has this name.
        ConfigError: It is an import path, and not trusted, or timm is not installed.
    """
    if name.startswith(TIMM):
        known = _timm().list_models()
        if name.removeprefix(TIMM) not in known:
            raise UnknownNameError("timm model", name.removeprefix(TIMM), known)
    elif ":" in name:
        if not trust:
            raise ConfigError([f"backbone {name!r} would run code of its own. {IMPORT_CURE}"])
    elif name not in backbone_names() and name not in models.list_models():
        cure = (
            "`gcsearch backbones` lists them all; your own is given as 'package.module:function'."
        )
        raise UnknownNameError("backbone", name, backbone_names(), cure)


def default_input_size(name: str, model: nn.Module) -> tuple[int, ...]:
    """Return the size of the input that the published weights of a backbone were trained for.

    Args:
        name: As for :func:`build_backbone`.
        model: What it built.

    Returns:
        Channels, height and width; for video channels, frames, height and width. (3, 224, 224)
        where nothing is published.

    Example:
        >>> default_input_size("inception_v3", nn.Identity())
        (3, 299, 299)
    """
    if name.startswith(TIMM):
        published = getattr(model, "pretrained_cfg", {})
        return tuple(published.get("input_size", (3, IMAGE_SIZE, IMAGE_SIZE)))
    if ":" in name:
        return (3, IMAGE_SIZE, IMAGE_SIZE)
    weights = models.get_model_weights(name)
    entry: Any = next(iter(weights), None)
    if entry is None:
        return (3, IMAGE_SIZE, IMAGE_SIZE)
    (side, *_) = getattr(entry.transforms(), "crop_size", (IMAGE_SIZE,))
    is_video = models.get_model_builder(name).__module__.startswith("torchvision.models.video")
    frames = (entry.meta.get("min_temporal_size", FRAMES),) if is_video else ()
    return (3, *frames, side, side)


def build_altered(
    architecture: Architecture,
    *,
    n_classes: int | None = None,
    input_size: tuple[int, ...] = (3, 224, 224),
    sites: Sequence[Site] | None = None,
    trust: bool = False,
) -> nn.Module:
    """Build an architecture's backbone with fresh weights and insert its blocks.

    Args:
        architecture: What to build.
        n_classes: Outputs of the classifier.
        input_size: Channels, height and width to probe the backbone with, unless ``sites`` is
            given.
        sites: The backbone's sites when they are known already.
        trust: Whether an import path may be followed.
    """
    model = build_backbone(architecture.backbone, n_classes=n_classes, trust=trust)
    return insert(model, architecture.insertions, input_size=input_size, sites=sites)


def load_weights(model: nn.Module, backbone: str, weights: str) -> list[str]:
    """Load weights into an unaltered backbone; a classifier of another size stays as it is.

    Args:
        model: The backbone, changed in place.
        backbone: Its name, to find torchvision's weights by.
        weights: A torchvision weights name such as ``"DEFAULT"`` or ``"IMAGENET1K_V2"``
            (downloaded once to torch's cache), or a ``.safetensors`` or ``.pth`` file.

    Returns:
        The tensors left as they were because their shape differs, e.g. the classifier's.

    Raises:
        ConfigError: There are no such weights, they cannot be read, or they do not fit.
    """
    state = read_weights(backbone, weights)
    own = model.state_dict()
    unknown = sorted(set(state) - set(own))
    missing = sorted(set(own) - set(state))
    if unknown or missing:
        problem = f"lacks {missing[0]!r}" if missing else f"has {unknown[0]!r}, which is not in it"
        raise ConfigError([f"weights {weights!r} do not fit {backbone}: the file {problem}"])
    other = sorted(key for key, value in state.items() if value.shape != own[key].shape)
    if not _differ_in_classes([(state[key], own[key]) for key in other]):
        raise ConfigError(
            [f"weights {weights!r} do not fit {backbone}: {other[0]!r} has shape "
             f"{tuple(state[other[0]].shape)}, not {tuple(own[other[0]].shape)}"]
        )  # fmt: skip
    model.load_state_dict({k: v for k, v in state.items() if k not in other}, strict=False)
    return other


def _differ_in_classes(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    """Whether all pairs differ in one and the same way in the first axis, as classifiers do."""
    if any(not given.ndim or given.shape[1:] != own.shape[1:] for given, own in pairs):
        return False
    return len({(len(given), len(own)) for given, own in pairs}) <= 1


def read_weights(backbone: str, weights: str) -> dict[str, torch.Tensor]:
    """Read the state dict that ``weights`` names; see :func:`load_weights`."""
    if Path(weights).suffix in {".safetensors", ".pth", ".pt"}:
        return read_state_dict(Path(weights))
    try:
        enum = models.get_model_weights(backbone)
    except ValueError:
        raise ConfigError(
            [f"weights {weights!r}: {backbone} is not torchvision's; give a .safetensors file"]
        ) from None
    names = [entry.name for entry in enum]
    wanted = weights.rpartition(".")[2]
    if wanted not in [*names, "DEFAULT"]:
        raise UnknownNameError(f"weights of {backbone}", weights, [*names, "DEFAULT"])
    try:
        state: dict[str, torch.Tensor] = enum[wanted].get_state_dict(check_hash=True)
    except OSError as error:
        raise ConfigError(
            [f"weights {weights!r} cannot be downloaded ({error}); connect once, or give a file"]
        ) from error
    return state


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors from a safetensors file, or from a ``.pth`` file without running its code.

    Raises:
        ConfigError: The file is missing, or is no such file.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError([f"weights file {str(path)!r} does not exist"]) from None
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError([f"weights file {str(path)!r} cannot be read: {reason}"]) from error
    except Exception as error:  # torch raises pickle.UnpicklingError and others of its own
        raise ConfigError(
            [f"weights file {str(path)!r} holds more than tensors; save it as .safetensors"]
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise ConfigError([f"weights file {str(path)!r} is not a state dict of tensors"])
    return state


def _timm() -> Any:
    """Import timm.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        fault = "backbone timm:NAME needs timm; install it: pip install 'gcsearch[timm]'"
        raise ConfigError([fault]) from error


def _build_from_import_path(name: str, n_classes: int | None) -> nn.Module:
    function = import_function(name, "backbone")
    takes_classes = "num_classes" in inspect.signature(function).parameters
    model = function(num_classes=n_classes) if takes_classes and n_classes else function()
    if not isinstance(model, nn.Module):
        raise SurgeryError(f"backbone {name!r} returned {type(model).__name__}, not an nn.Module")
    return model


def import_function(path: str, kind: str) -> Callable[..., Any]:
    """Import ``package.module:function``.

    Raises:
        ConfigError: The module or the function does not exist.
    """
    try:
        function = import_attribute(path)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError([f"{kind} {path!r} cannot be imported: {error}"]) from error
    if not callable(function):
        raise ConfigError([f"{kind} {path!r} is not a function"])
    return function  # type: ignore[no-any-return]

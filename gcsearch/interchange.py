"""A model as what other runtimes read, and packages that only some formats need.

Knows neither what the model is nor what becomes of the bytes; times nothing, writes no file.
"""

from __future__ import annotations

import copy
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from gcsearch.errors import ExportError, GcsearchError

__all__ = ["failing", "needed", "onnx_bytes", "plain_copy", "quiet"]

OPSET = 20


def onnx_bytes(
    model: nn.Module,
    example: Tensor,
    *,
    any_batch: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Return a model as ONNX bytes, by torch's dynamo exporter.

    Args:
        model: In eval mode, on the processor; left as it is.
        example: What it is recorded with.
        any_batch: Whether the batch may have another size later.
        metadata: Notes to put into the file.

    Raises:
        Exception: Whatever the exporter raises on this model.
    """
    dynamic = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)} if any_batch else {}
    names = {"input_names": ["pictures"], "output_names": ["scores"]}
    with quiet():
        program = torch.onnx.export(
            plain_copy(model),
            (example.contiguous(),),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            **names,  # type: ignore[arg-type]
            **dynamic,  # type: ignore[arg-type]
        )
        if program is None:
            raise RuntimeError("the exporter returned nothing")
        proto: Any = program.model_proto
        for key, value in (metadata or {}).items():
            proto.metadata_props.add(key=key, value=value)
        return bytes(proto.SerializeToString())


def plain_copy(model: nn.Module) -> nn.Module:
    """Return a copy with contiguous weights: exporting wants them, and leaves traces behind."""
    return copy.deepcopy(model).to(memory_format=torch.contiguous_format)


def needed(
    module: str, extra: str, what: str, error: Callable[[str], GcsearchError] = ExportError
) -> Any:
    """Import an optional package.

    Args:
        module: Its name.
        extra: Of gcsearch, that installs it.
        what: Who needs it, for the message.
        error: What to raise if it is not installed; the message has the cure.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as missing:
        raise error(
            f"{what} needs the package {module!r}: pip install 'gcsearch[{extra}]'"
        ) from missing


@contextmanager
def failing(
    what: str, cure: str, error: Callable[[str], GcsearchError] = ExportError
) -> Iterator[None]:
    """Turn whatever a foreign compiler raises on a model into one line."""
    try:
        yield
    except GcsearchError:
        raise
    except Exception as reason:
        told = " ".join(f"{type(reason).__name__}: {reason}".split())
        raise error(f"{what} fails on this model: {told:.200}; {cure}") from reason


@contextmanager
def quiet() -> Iterator[None]:
    """Keep an exporter's progress and warnings to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

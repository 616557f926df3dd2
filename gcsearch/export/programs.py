"""Networks as programs of other runtimes, each compared with the network before it is kept.

A ``.pt2`` file may be unpickled by torch when it is loaded: never load one from a stranger. Here
only the bytes that were just made are loaded back.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gcsearch.errors import ExportError
from gcsearch.export.exported_config import ExportedConfig
from gcsearch.export.files import METADATA_KEY, embedded_text
from gcsearch.interchange import failing, needed, onnx_bytes, plain_copy, quiet

__all__ = ["checked_onnx", "checked_program", "require_onnx"]

TOLERANCE = 1e-4
"""Largest difference allowed, as a part of the largest output: kernels round differently."""
BATCHES = (2, 3)
"""Recorded with the first. Both are tried where the batch may have any size."""
ONNX_CURE = "take --format weights and gcsearch.build"


def require_onnx() -> None:
    """Refuse where a package is missing.

    Raises:
        ExportError: With the cure.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        needed(module, "onnx", "--format onnx")


def checked_onnx(model: nn.Module, config: ExportedConfig) -> bytes:
    """Return a network as ONNX bytes which ONNX Runtime computes alike, for batches of any size.

    Raises:
        ExportError: A package is missing, the network cannot be exported, or comes out different.
    """
    require_onnx()
    runtime = needed("onnxruntime", "onnx", "--format onnx")
    own = _at_rest(model)
    notes = {METADATA_KEY: embedded_text(config)}
    with failing("the export to ONNX", ONNX_CURE):
        content = onnx_bytes(own, _pictures(config, BATCHES[0]), any_batch=True, metadata=notes)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    with failing("ONNX Runtime", ONNX_CURE):
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def run(pictures: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: pictures.numpy()})[0])

        _compare(own, run, config, "ONNX Runtime")
    return content


def checked_program(model: nn.Module, config: ExportedConfig) -> bytes:
    """Return a network as the bytes of a ``.pt2`` file which computes alike once it is loaded.

    Raises:
        ExportError: The network cannot be exported, or comes out different.
    """
    own = _at_rest(model)
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    pictures = _pictures(config, BATCHES[0])
    file = io.BytesIO()
    with failing("torch.export", ONNX_CURE), quiet():
        program = torch.export.export(plain_copy(own), (pictures,), dynamic_shapes=dynamic)
        torch.export.save(program, file, extra_files={METADATA_KEY: embedded_text(config)})
        content = file.getvalue()
        again = torch.export.load(io.BytesIO(content)).module()
        _compare(own, again, config, "the loaded program")
    return content


def _at_rest(model: nn.Module) -> nn.Module:
    """Return a copy as it will serve: on the processor, in eval mode."""
    return copy.deepcopy(model).cpu().float().eval()


def _pictures(config: ExportedConfig, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, *config.input_size, generator=generator)


def _compare(
    model: nn.Module, other: Callable[[Tensor], Tensor], config: ExportedConfig, name: str
) -> None:
    for batch in BATCHES:
        pictures = _pictures(config, batch)
        with torch.inference_mode():
            wanted, got = model(pictures), other(pictures)
        if not isinstance(wanted, Tensor):
            raise ExportError(f"the network returns a {type(wanted).__name__}, not one tensor")
        off = float((wanted - got).abs().max()) if wanted.shape == got.shape else float("inf")
        limit = TOLERANCE * max(1.0, float(wanted.abs().max()))
        if not off <= limit:
            raise ExportError(
                f"{name} differs from the network by {off:.2g} at batch {batch}, more than "
                f"{limit:.2g}; nothing is written: {ONNX_CURE}"
            )

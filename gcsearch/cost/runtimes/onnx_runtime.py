"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gcsearch.cost.runtimes.base import RUNTIMES, Pass, Runtime
from gcsearch.cost.runtimes.onnx_export import to_onnx

__all__ = ["OnnxRuntime"]


@RUNTIMES.register("onnxruntime")
class OnnxRuntime(Runtime):
    """Runs the exported model with all of ONNX Runtime's graph optimisations."""

    name = "onnxruntime"
    modules = ("onnxruntime", "onnx", "onnxscript")
    cure = "pip install 'gcsearch[onnx]'"

    def version(self) -> str:
        """Return ONNX Runtime's version, and that of torch, which exports."""
        import onnxruntime
        import torch

        return f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}"

    def convert(self, model: nn.Module, example: Tensor) -> bytes:
        """Export the model."""
        return to_onnx(model, example)

    def load(self, converted: Any, example: Tensor, threads: int) -> Pass:
        """Start a session whose threads rest between passes, when the others are timed."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(converted, options, providers=providers)
        (name,) = (node.name for node in session.get_inputs())
        inputs = {name: example.contiguous().numpy()}
        return lambda: session.run(None, inputs)

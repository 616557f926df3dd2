"""OpenVINO on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gcsearch.cost.runtimes.base import RUNTIMES, Pass, Runtime
from gcsearch.cost.runtimes.onnx_export import to_onnx

__all__ = ["OpenVino"]

HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}


@RUNTIMES.register("openvino")
class OpenVino(Runtime):
    """Runs the exported model in one stream, for the least latency."""

    name = "openvino"
    modules = ("openvino", "onnx", "onnxscript")
    cure = "pip install 'gcsearch[openvino]'"
    dtypes = ("float32", "bfloat16")

    def version(self) -> str:
        """Return OpenVINO's version, and that of torch, which exports."""
        import openvino

        return f"openvino {openvino.__version__}, torch {torch.__version__}"

    def convert(self, model: nn.Module, example: Tensor) -> Any:
        """Export the model in float32; the precision to compute in is a hint to the compiler."""
        import openvino

        exported = to_onnx(model.float(), example.float())
        return openvino.Core().read_model(exported)

    def load(self, converted: Any, example: Tensor, threads: int) -> Pass:
        """Compile the model for this processor.

        The hint is always given: left alone, OpenVINO computes in bfloat16 where it can.
        """
        import openvino

        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": HINTS[example.dtype],
        }
        compiled = openvino.Core().compile_model(converted, "CPU", properties)
        request = compiled.create_infer_request()
        inputs = [example.float().contiguous().numpy()]
        return lambda: list(request.infer(inputs, share_inputs=True).values())

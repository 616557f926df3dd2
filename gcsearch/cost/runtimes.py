"""What runs a model when it serves: torch in several ways, ONNX Runtime, OpenVINO.

A runtime makes one callable of a model and an example; it times nothing. A new one is a class with
`prepare`, registered under its name. Those that need a package of their own say how to get it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

import torch
from torch import Tensor, nn

from gcsearch.errors import LatencyError
from gcsearch.interchange import failing, needed, onnx_bytes
from gcsearch.registry import Registry

__all__ = ["RUNTIMES", "Runtime", "runtime_version"]

Run = Callable[[], object]


class Runtime(Protocol):
    """One way to serve a model."""

    package: str
    """Distribution whose version its latencies depend on."""
    is_instant: bool
    """Whether preparing takes next to no time, so that it is done again within a measurement."""

    def prepare(self, model: nn.Module, example: Tensor, threads: int) -> Run:
        """Return what runs one pass of ``model``.

        Args:
            model: In eval mode, on its device, in its type and memory format.
            example: The batch it is run with.
            threads: Processor threads to use.

        Raises:
            LatencyError: The runtime cannot run this model here.
        """


RUNTIMES: Registry[type[Runtime]] = Registry("runtime")
"""Runtimes by the name that `latency.runtime` takes."""


def runtime_version(name: str) -> str:
    """Return the version of the package behind a runtime, or that it is missing.

    Raises:
        UnknownNameError: There is no such runtime.
    """
    package = RUNTIMES[name].package
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"


@RUNTIMES.register("eager")
class Eager:
    """Torch as it is, one operation after the other."""

    package = "torch"
    is_instant = True

    def prepare(self, model: nn.Module, example: Tensor, threads: int) -> Run:
        """Return a call of the model; see :meth:`Runtime.prepare`."""

        def run() -> object:
            with torch.inference_mode():
                return model(example)

        return run


@RUNTIMES.register("compile")
class Compiled:
    """`torch.compile` with its default backend."""

    package = "torch"
    is_instant = False

    def prepare(self, model: nn.Module, example: Tensor, threads: int) -> Run:
        """Compile the model for the example's shape; see :meth:`Runtime.prepare`.

        Every altered network shares the code of its backbone's classes, for each of which torch
        keeps few compiled forms and then falls back to eager without a word; hence the limit.
        """
        compiled = torch.compile(model, dynamic=False)

        def run() -> object:
            with torch.inference_mode():
                return compiled(example)

        limits = {
            "recompile_limit": 1000,
            "accumulated_recompile_limit": 100_000,
            "fail_on_recompile_limit_hit": True,
        }
        with (
            torch._dynamo.config.patch(limits),
            _failing("torch.compile", "use latency.runtime=eager"),
        ):
            run()
        return run


@RUNTIMES.register("cuda-graph")
class CudaGraph:
    """Torch's operations recorded once on a CUDA device and replayed without launching each."""

    package = "torch"
    is_instant = False

    def prepare(self, model: nn.Module, example: Tensor, threads: int) -> Run:
        """Record a pass; see :meth:`Runtime.prepare`."""
        if not example.is_cuda:
            raise LatencyError("runtime 'cuda-graph' needs a CUDA device; set latency.device=cuda")
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(3):
                model(example)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with (
            _failing("recording a CUDA graph", "use latency.runtime=eager"),
            torch.inference_mode(),
            torch.cuda.graph(graph),
        ):
            model(example)
        return graph.replay


@RUNTIMES.register("onnxruntime")
class OnnxRuntime:
    """ONNX Runtime on the processor, on what torch's dynamo exporter writes."""

    package = "onnxruntime"
    is_instant = False

    def prepare(self, model: nn.Module, example: Tensor, threads: int) -> Run:
        """Export the model and open a session; see :meth:`Runtime.prepare`."""
        onnxruntime = _needed("onnxruntime", "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # Two sessions live here; threads of one must not wait busily while the other runs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        model_bytes = _as_onnx(model, example, "onnxruntime")
        with _failing("ONNX Runtime", "use another latency.runtime"):
            session = onnxruntime.InferenceSession(
                model_bytes, options, providers=["CPUExecutionProvider"]
            )
            feed = {session.get_inputs()[0].name: example.contiguous().numpy()}
            session.run(None, feed)
        return lambda: session.run(None, feed)


@RUNTIMES.register("openvino")
class OpenVino:
    """OpenVINO on the processor, on what torch's dynamo exporter writes."""

    package = "openvino"
    is_instant = False

    def prepare(self, model: nn.Module, example: Tensor, threads: int) -> Run:
        """Export and compile the model for latency; see :meth:`Runtime.prepare`."""
        openvino = _needed("openvino", "openvino")
        hints = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        model_bytes = _as_onnx(model, example, "openvino")
        with _failing("OpenVINO", "use another latency.runtime"):
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(model_bytes, b""), "CPU", hints)
            request = compiled.create_infer_request()
            request.set_input_tensor(openvino.Tensor(example.contiguous().numpy()))
            request.infer()
        return request.infer  # type: ignore[no-any-return]


def _as_onnx(model: nn.Module, example: Tensor, name: str) -> bytes:
    """Return the model as ONNX bytes.

    Raises:
        LatencyError: It is not in float32 on the processor, or cannot be exported.
    """
    if example.device.type != "cpu" or example.dtype != torch.float32:
        raise LatencyError(
            f"runtime {name!r} is measured on the processor in fp32, not on {example.device} in "
            f"{example.dtype}; set latency.device=cpu and latency.dtype=fp32"
        )
    _needed("onnxscript", "onnx")
    with _failing("the export to ONNX", "use latency.runtime=eager"):
        return onnx_bytes(model, example)


_needed = partial(needed, what="this runtime", error=LatencyError)
_failing = partial(failing, error=LatencyError)

"""Runtimes that may serve a network, by name; importing this room registers them all.

To add one, subclass :class:`Runtime` in a file of its own here, register it, import it below.
"""

from gcsearch.cost.runtimes.base import RUNTIMES, Pass, Prepared, Runtime
from gcsearch.cost.runtimes.compiled import Compiled
from gcsearch.cost.runtimes.eager import Eager
from gcsearch.cost.runtimes.onnx_runtime import OnnxRuntime
from gcsearch.cost.runtimes.open_vino import OpenVino

__all__ = [
    "RUNTIMES",
    "Compiled",
    "Eager",
    "OnnxRuntime",
    "OpenVino",
    "Pass",
    "Prepared",
    "Runtime",
]

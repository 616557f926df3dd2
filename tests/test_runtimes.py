"""Runtimes: each computes the same, and says in one line what it cannot take."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from small_nets import two_convolutions
from torch import nn

from gcsearch.cost import RUNTIMES, runtime_version
from gcsearch.errors import LatencyError

pytestmark = pytest.mark.usefixtures("unshared_machine")
SIZE = (3, 16, 16)


def runtime_or_skip(name):
    if "not installed" in runtime_version(name):
        pytest.skip(f"{name} is not installed")
    if name == "cuda-graph" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return RUNTIMES[name]()


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNTIMES.names())
@pytest.mark.filterwarnings("ignore")  # compilers' own
def test_every_runtime_computes_the_same(name, monkeypatch):
    runtime, model = runtime_or_skip(name), two_convolutions().eval()
    device = "cuda" if name == "cuda-graph" else "cpu"
    example = torch.randn(2, *SIZE, device=device)
    output = runtime.prepare(model.to(device), example, threads=1)()
    if name == "cuda-graph":
        return  # its outputs stay where they were recorded
    if not isinstance(output, torch.Tensor):
        values = output[0] if isinstance(output, list) else next(iter(output.values()))
        output = torch.as_tensor(np.array(values))
    assert torch.allclose(output, model(example), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.filterwarnings("ignore")
def test_runtime_that_cannot_take_a_model_says_so(name):
    class Unusual(nn.Module):
        def forward(self, x):
            return torch.from_numpy(np.fft.fft(x.numpy())) if x.sum() > 0 else x

    with pytest.raises(LatencyError, match=r"fails on this model: .*; use ") as error:
        runtime_or_skip(name).prepare(Unusual(), torch.ones(1, *SIZE), threads=1)
    assert "\n" not in str(error.value)


def test_compiler_that_fails_is_told_in_one_line(monkeypatch):
    def fail(example):
        raise RuntimeError("no compiler\nfound")

    monkeypatch.setattr(torch, "compile", lambda model, dynamic: fail)
    with pytest.raises(LatencyError, match=r"torch\.compile fails on .* no compiler found; use"):
        RUNTIMES["compile"]().prepare(two_convolutions(), torch.ones(1, *SIZE), threads=1)


def test_runtime_whose_package_is_missing_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(LatencyError, match=r"pip install 'gcsearch\[onnx\]'"):
        RUNTIMES["onnxruntime"]().prepare(two_convolutions(), torch.ones(1, *SIZE), threads=1)


def test_runtime_of_another_device_or_type_says_what_to_set():
    with pytest.raises(LatencyError, match=r"latency\.device=cuda"):
        RUNTIMES["cuda-graph"]().prepare(two_convolutions(), torch.ones(1, *SIZE), threads=1)
    example = torch.ones(1, *SIZE, dtype=torch.bfloat16)
    with pytest.raises(LatencyError, match=r"latency\.dtype=fp32|pip install"):
        RUNTIMES["openvino"]().prepare(two_convolutions(), example, threads=1)

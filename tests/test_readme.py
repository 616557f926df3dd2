"""The README, typed: every command and every snippet runs, each in a size a test can afford."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY
from PIL import Image
from test_docs import ROOT, blocks, parse, shell_lines

import gcsearch
from gcsearch.cli.app import app
from gcsearch.cost import LatencySettings
from gcsearch.errors import ExportError, StudyError
from gcsearch.proxy.task import check_task
from gcsearch.study import newest_study, open_storage

SMALL_DATA = {"data.source", "data.options.n_train", "data.options.n_val", "data.options.n_test"}
"""What another data set does not take."""
NEEDS = {
    "timm:": "timm",
    "onnx": "onnxruntime",
    "explain": "matplotlib",
    "train": "lightning_fabric",
    ".svg": "matplotlib",
}
ELSEWHERE = {
    "postgresql:": "needs a server",
    "torchvision:CIFAR10": "downloads",
    "dashboard": "does not end; has a test of its own",
}

KEPT_BACKBONE = ("the front holds nothing but the baseline", "has no insertions; maps come from")
"""What is told where the search ends with the backbone as it was, as so short a one may."""


def flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested settings with its dotted key."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def documented() -> list[str]:
    """Return each whole gcsearch command in the README's consoles, in their order."""
    parts = [part for line in shell_lines() for part in re.split(r"&&|\|", line)]
    found = [shlex.join(shlex.split(part, comments=True)) for part in parts]
    return list(dict.fromkeys(line for line in found if line.startswith("gcsearch ")))


def made_small(line: str) -> list[str]:
    """Return a documented command with what makes it small; what is given last, counts."""
    line = line.replace("resnet50", "resnet18").replace("NAME", name_of_newest())
    _, name, *arguments = shlex.split(line)
    if name == "run":
        given = [(k, v) for k, v in flat(TINY) if k not in ("backbone", "plan.trials")]
        if "--data" in arguments:
            given = [(k, v) for k, v in given if k not in SMALL_DATA]
        small = [word for key, value in given for word in ("--set", f"{key}={value}")]
        n_trials = "2" if "--trials" in arguments else "1"
        arguments = [*small, *arguments, "--trials", n_trials]
    if name == "latency":
        settings = (f"{key}={value}" for key, value in TINY["latency"].items())
        arguments += [word for setting in settings for word in ("--set", setting)]
    if name == "train":
        arguments += ["--epochs", "1", "--batch-size", "8", "--image-size", "32"]
    return [name, *arguments]


def name_of_newest() -> str:
    return newest_study(open_storage("sqlite:///storage/gcsearch.db", create=False)) or "NAME"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Everything that the README's commands speak of, in one folder, and Ray under way."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("readme")
        patch.chdir(place)
        patch.setenv("PYTHONPATH", str(place))
        patch.syspath_prepend(place)
        rng = np.random.default_rng(0)
        arrays = {
            f"{kind}_{split}": values
            for split, n in (("train", 80), ("test", 40))
            for kind, values in (
                ("x", rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)),
                ("y", np.arange(n) % 4),
            )
        }
        np.savez("pictures.npz", **arrays)
        for label, name in enumerate(("cat", "dog")):
            Path("photos", name).mkdir(parents=True)
            for number in range(60):
                pixels = rng.integers(label * 100, 156 + label * 100, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(f"photos/{name}/{number}.png")
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save("cat.jpg")
        shutil.copytree(ROOT / "configs", "configs")
        open_storage("sqlite:///storage/gcsearch.db")
        (load,) = (code for code in blocks("python") if "def load" in code)
        Path("my").mkdir()
        Path("my/module.py").write_text(
            f"{load}\n\nfrom torchvision.models import resnet18\n\n\n"
            "def build(num_classes):\n    return resnet18(num_classes=num_classes)\n"
        )
        yield place


@pytest.fixture(scope="module")
def ray_under_way(folder: Path) -> Iterator[None]:
    """One Ray for all searches; it stands for the cluster as well."""
    import gcsearch.tuning  # sets what Ray reads while it is imported

    assert gcsearch.tuning
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("line", documented())
def test_command_runs(line: str, folder: Path, ray_under_way: None, capfd) -> None:
    for word, reason in ELSEWHERE.items():
        if word in line:
            pytest.skip(f"{word} {reason}")
    for word, package in NEEDS.items():
        if word in line and find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    command = made_small(line)
    try:
        app(command, prog_name="gcsearch", standalone_mode=False)
    except (StudyError, ExportError) as answer:
        assert any(words in str(answer) for words in KEPT_BACKBONE)
        return
    printed = capfd.readouterr()
    assert printed.out and "Traceback" not in printed.err
    if "-o" in command:
        assert Path(command[command.index("-o") + 1]).stat().st_size


def test_dashboard_serves(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gcsearch", "dashboard", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        try:
            for _ in range(600):
                try:
                    url = f"http://127.0.0.1:{port}/dashboard"
                    assert urllib.request.urlopen(url, timeout=5).status == 200
                    break
                except OSError:
                    assert server.poll() is None, server.stderr
                    time.sleep(0.1)
            else:
                pytest.fail("no answer within a minute")
        finally:
            server.terminate()


def test_elsewhere_is_documented() -> None:
    for word in ELSEWHERE:
        (*lines,) = (line for line in documented() if word in line)
        assert lines and all(parse(line) for line in lines)


@pytest.fixture
def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget afterwards what a snippet registers."""
    from gcsearch.blocks import BLOCKS
    from gcsearch.cost.runtimes import RUNTIMES

    for registry in (BLOCKS, RUNTIMES):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.split("\n")[-2][:40])
def test_snippet_runs(code: str, folder: Path, ray_under_way: None, own_registries: None) -> None:
    names: dict[str, Any] = {"__name__": "readme"}
    small = code.replace(
        'gcsearch.SearchConfig(backbone="resnet18")', f"gcsearch.load_config({TINY!r})"
    )
    exec(compile(small, "README", "exec"), names)
    if "RUNTIMES" in code:
        settings = LatencySettings(runtime="exported", time_limit_s=2)
        architecture = gcsearch.Architecture("resnet18")
        assert gcsearch.cost.measure_latency(architecture, (3, 32, 32), settings).ratio > 0
    if "def load" in code:
        assert check_task(names["load"](None, 0)).class_names == ("dark", "bright")

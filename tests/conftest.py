"""What several test files share: a search small enough to run in a test, and studies."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from full_training import write_bright_pictures, write_found
from hypothesis import settings
from optuna.storages import RDBStorage
from small_nets import NETS, residual_net
from studies import POSTGRES, make_study
from told_studies import tell, tell_checked, tell_macs
from torch import nn

from gcsearch.cli import main
from gcsearch.config import SearchConfig, load_config
from gcsearch.machine import n_cores
from gcsearch.study import SearchStudy, open_storage

EVERY_CORE = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
"""Those that the tests may use together."""


def share_of_machine(number: int, count: int) -> None:
    """Give one of ``count`` test processes its own cores, and its own locks on the machine.

    With every core each, they and what they start would wait for each other's threads, and with
    one lock for each other's timing, so long that a search which times comes to no number.
    """
    if cores := sorted(EVERY_CORE):
        os.sched_setaffinity(0, cores[number::count] or [cores[number % len(cores)]])
    torch.set_num_threads(n_cores())
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix=f"test{number}-")
    atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)


if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    share_of_machine(int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))

# An example may take long on a machine that is busy with other things.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests: a long one begun last is waited for alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


TINY = {
    "backbone": "resnet18",
    "data": {
        "source": "cued-digits",
        "image_size": 32,
        "options": {"n_train": 200, "n_val": 40, "n_test": 40},
    },
    # So loose that noise cannot make it inconclusive: a quiet machine is done in a fraction of a
    # second, only one that is starved of processor time comes near the limit.
    "latency": {"image_size": 32, "time_limit_s": 60, "precision": 0.4, "disturbance": 1},
    "training": {"precision": "fp32", "device": "cpu", "batch_size": 16},
    "plan": {
        "trials": 2,
        "baseline_images": 128,
        "trial_images": 64,
        "trial_epochs": 1,
        "check_seeds": 0,
    },
}


@pytest.fixture(scope="session")
def tiny_config() -> SearchConfig:
    """A search of ResNet-18 on a few small scenes; change it with ``model_copy(update=...)``."""
    return load_config(TINY)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the proxy data of all tests are kept, so that they are drawn once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def unshared_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Time and train in this process without waiting for, or pausing, a search beside the tests.

    Not for tests that start workers: their locks would be other files.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("machine")))
        yield


@pytest.fixture(params=["sqlite", "postgresql"] if POSTGRES else ["sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Where a study may lie: every kind of database there is here."""
    return POSTGRES if request.param == "postgresql" else f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture
def storage(url: str) -> Iterator[RDBStorage]:
    """An open database."""
    opened = open_storage(url)
    yield opened
    opened.remove_session()
    opened.engine.dispose()


@pytest.fixture
def study(storage: RDBStorage) -> SearchStudy:
    """A new study in it."""
    return make_study(storage)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Where a test that looks into the file has its database."""
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> nn.Module:
    """Each of the small networks in turn, with the same weights every time."""
    torch.manual_seed(0)
    return NETS[request.param]()


@pytest.fixture
def small() -> nn.Module:
    """The residual one of them."""
    torch.manual_seed(0)
    return residual_net()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, tiny_config: SearchConfig) -> str:
    """Where there is a study with trials of every kind."""
    url = f"sqlite:///{tmp_path_factory.mktemp('told')}/studies.db"
    tell(url, tiny_config)
    return url


@pytest.fixture(scope="module")
def told_macs(tmp_path_factory: pytest.TempPathFactory, tiny_config: SearchConfig) -> str:
    """Where there is a study that minimises MACs."""
    url = f"sqlite:///{tmp_path_factory.mktemp('macs')}/studies.db"
    overrides = ["search.objective=macs", "limits.macs=1.01"]
    tell_macs(url, load_config(tiny_config.to_dict(), overrides))
    return url


@pytest.fixture(scope="module")
def told_checked(tmp_path_factory: pytest.TempPathFactory, tiny_config: SearchConfig) -> str:
    """Where there is a study that was confirmed."""
    url = f"sqlite:///{tmp_path_factory.mktemp('checked')}/studies.db"
    tell_checked(url, tiny_config)
    return url


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run a command in this process; return its exit code, stdout and stderr."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        return (stop.value.code or 0, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pictures in which the class is the channel that is bright, as the source of a data set."""
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    write_bright_pictures(path)
    return f"npz:{path}"


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """An exported config without weights."""
    return write_found(tmp_path / "found.yaml")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a command caches out of the current folder."""
    monkeypatch.chdir(tmp_path)

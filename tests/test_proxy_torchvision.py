"""Proxy tasks from torchvision, without a network: data sets of our own stand in its module."""

import sys
import types
import urllib.error

import pytest
from PIL import Image

from gcsearch.errors import DataError, UnknownNameError
from gcsearch.proxy.sources import load_task


class Sized:
    """Pictures in memory, as CIFAR10 and MNIST have them."""

    n, mode, target = 20, "RGB", int

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index >= self.n:
            raise IndexError
        return Image.new(self.mode, (12, 12)), self.target(index % 2)


@pytest.fixture
def install(monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")

    def add(name, constructor, **attributes):
        body = {**vars(Sized), "__init__": constructor, **attributes}
        body = {k: v for k, v in body.items() if k not in ("__dict__", "__weakref__")}
        maker = type(name, (datasets.VisionDataset,), body)
        monkeypatch.setattr(datasets, name, maker, raising=False)
        return maker

    return add


def by_train(self, root, train=True, transform=None, download=False):
    self.n, self.data = (40 if train else 10), None
    assert download is True


def by_split(*known, fault="Unknown value '{}' for argument split. Valid values are."):
    def constructor(self, root, split=known[0], download=False):
        if split not in known:
            raise ValueError(fault.format(split))
        self.n = {"train": 40, "trainval": 48, "test": 10}.get(split, 12)

    return constructor


def by_nothing(self, root, download=False):
    pass


@pytest.mark.parametrize(
    ("constructor", "sizes"),
    [
        (by_train, (30, 10, 10)),
        (by_split("train", "val", "test"), (40, 12, 10)),
        (by_split("train", "test", "extra"), (30, 10, 10)),
        (by_split("train", "val"), (30, 10, 12)),
        (by_split("train", "valid", "test"), (40, 12, 10)),
        (by_split("trainval", "test"), (36, 12, 10)),
        (by_nothing, (12, 4, 4)),
    ],
)
def test_torchvision_constructors_of_every_kind(install, tmp_path, constructor, sizes):
    install("Toy", constructor)
    task = load_task("torchvision:toy", cache_dir=tmp_path)
    assert task.name == "torchvision:Toy"
    assert tuple(len(split) for split in task.splits.values()) == sizes
    assert task.class_names == ("0", "1")
    assert (tmp_path / "torchvision").is_dir()


def test_torchvision_sizes(install, tmp_path):
    install("Held", by_train)
    install("Photos", by_nothing)
    assert load_task("torchvision:Held", cache_dir=tmp_path).image_size == (12, 12)
    assert load_task("torchvision:Photos", cache_dir=tmp_path).image_size == (64, 64)
    assert load_task("torchvision:Held", image_size=9, cache_dir=tmp_path).image_size == (9, 9)


def test_torchvision_class_names_and_grey_digits(install, tmp_path):
    install("MNIST", by_train, classes=["zero", "one"], mode="L")
    task = load_task("torchvision:mnist", cache_dir=tmp_path)
    assert task.class_names == ("zero", "one")
    assert task.flip is False
    assert load_task("torchvision:mnist", options={"flip": True}, cache_dir=tmp_path).flip is True


def test_torchvision_options_reach_the_constructor(install, tmp_path):
    parent = install("Parent", by_train)

    def constructor(self, root, kind, **kwargs):
        parent.__init__(self, root, **kwargs)
        self.n += kind

    child = install("Child", constructor)
    child.__bases__ = (parent,)
    task = load_task("torchvision:Child", options={"kind": 2}, cache_dir=tmp_path)
    assert sum(len(split) for split in task.splits.values()) == 54
    with pytest.raises(DataError, match="'kind' has no default; give it as an option"):
        load_task("torchvision:Child", cache_dir=tmp_path)
    with pytest.raises(DataError, match="unknown option 'root'; allowed: kind, flip"):
        load_task("torchvision:Child", options={"kind": 1, "root": "/"}, cache_dir=tmp_path)


@pytest.mark.parametrize("name", ["CIFAR10", "MNIST", "SVHN", "Flowers102", "Food101", "STL10"])
def test_torchvision_offline_says_what_to_do(monkeypatch, tmp_path, name):
    pytest.importorskip("torchvision")

    def offline(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setitem(sys.modules, "scipy", types.ModuleType("scipy"))
    monkeypatch.setitem(sys.modules, "scipy.io", types.ModuleType("scipy.io"))
    with pytest.raises(DataError) as caught:
        load_task(f"torchvision:{name.lower()}", cache_dir=tmp_path)
    assert str(caught.value).startswith(f"cannot download {name} (")
    assert "\n" not in str(caught.value)
    cure = f"connect to the internet once, or put the files under {tmp_path / 'torchvision'}"
    assert str(caught.value).endswith(cure)


def test_torchvision_that_cannot_be_downloaded_says_so(tmp_path):
    pytest.importorskip("torchvision")
    with pytest.raises(DataError, match=r"^cannot load FER2013 \(.*\); put the files under "):
        load_task("torchvision:FER2013", cache_dir=tmp_path)


def test_torchvision_names_a_missing_package(install, tmp_path):
    def constructor(self, root, download=False):
        raise ImportError("No module named 'lmdb'")

    install("Toy", constructor)
    with pytest.raises(DataError, match=r"\(No module named 'lmdb'\); install that package$"):
        load_task("torchvision:Toy", cache_dir=tmp_path)


def test_torchvision_without_cache_dir_downloads_to_the_users(install, tmp_path, monkeypatch):
    roots = []

    def constructor(self, root, download=False):
        roots.append(root)

    install("Toy", constructor)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_task("torchvision:Toy")
    assert roots == [str(tmp_path / "gcsearch" / "torchvision")]
    assert [path.name for path in (tmp_path / "gcsearch").iterdir()] == ["torchvision"]


def test_torchvision_once_loaded_needs_no_network(install, tmp_path):
    install("Toy", by_train)
    first = load_task("torchvision:Toy", cache_dir=tmp_path)

    def offline(self, root, train=True, download=False):
        raise urllib.error.URLError("offline")

    install("Toy", offline)
    assert load_task("torchvision:Toy", cache_dir=tmp_path).content_hash == first.content_hash


@pytest.mark.parametrize("target", [str, float, lambda i: [i]])
def test_torchvision_targets_must_be_classes(install, tmp_path, target):
    install("Boxes", by_train, target=staticmethod(target))
    with pytest.raises(DataError, match="choose a set of pictures with one class"):
        load_task("torchvision:Boxes", cache_dir=tmp_path)


def test_torchvision_near_misses_are_named():
    pytest.importorskip("torchvision")
    with pytest.raises(
        UnknownNameError, match=r"unknown torchvision data set 'cifar-10'.*'cifar10'"
    ):
        load_task("torchvision:CIFAR-10")
    with pytest.raises(UnknownNameError):
        load_task("torchvision:ImageFolder")

"""Formats for other runtimes and projects: equal outputs there, or a refusal that says why."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import warnings

import pytest
import torch
import yaml
from torch import nn
from torchvision.models.resnet import Bottleneck

import gcsearch
from gcsearch.architecture import Architecture, Insertion
from gcsearch.backbones import build_altered
from gcsearch.errors import ExportError
from gcsearch.export import ExportedConfig, build, read_config
from gcsearch.export.files import write_files
from gcsearch.export.formats import FORMATS

SIDE = 64
SE_AND_GC = (
    Insertion("layer1.0", "se", ratio=1 / 4),
    Insertion("layer2.1", ratio=1 / 4, fusions=("channel_add", "channel_mul")),
)
KINDS = [
    Architecture("resnet18", SE_AND_GC),
    Architecture("resnet18", (Insertion("layer1", "snl"), Insertion("layer3.0.bn2", "nl"))),
    Architecture("resnet18", (Insertion("layer2", "nl", mode="concatenation", sub_sample=True),)),
    Architecture("resnet18", (Insertion("layer4.0", ratio=1 / 8, pooling="avg"),)),
]


def config_of(architecture, **provenance):
    return ExportedConfig(
        architecture, 5, SIDE, None, {"mean": [0.5] * 3, "std": [0.2] * 3}, provenance
    )


def trained(architecture):
    """Return a network whose blocks and norms do something."""
    torch.manual_seed(0)
    model = build_altered(architecture, n_classes=5, input_size=(3, SIDE, SIDE))
    for name, parameter in model.named_parameters():
        if "gcsearch_block" in name or parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.05, 0.15)
    return model.eval()


def at_every_bottleneck(stages, depths=(3, 4, 6, 3), norm="bn3", **settings):
    return tuple(
        Insertion(f"layer{stage}.{i}.{norm}", **settings)
        for stage in stages
        for i in range(depths[stage - 1])
    )


def written(name, architecture, model, path, **provenance):
    return write_files(FORMATS[name]().render(config_of(architecture, **provenance), model, path))


def outputs(model):
    with torch.inference_mode():
        return model(torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)))


def peer(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(module, exc_type=ImportError)


def executed(path):
    scope = {"__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    return scope


def refusal(name, *insertions, backbone="resnet50"):
    with pytest.raises(ExportError) as caught:
        FORMATS[name]().check(config_of(Architecture(backbone, tuple(insertions))))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_alone_rebuild_the_network(tmp_path):
    model = trained(KINDS[0])
    written("weights", KINDS[0], model, tmp_path / "best.yaml")
    (tmp_path / "best.yaml").unlink()
    assert torch.equal(outputs(build(tmp_path / "best.safetensors")), outputs(model))


def test_config_names_the_hash_of_its_weights(tmp_path):
    written("weights", KINDS[0], trained(KINDS[0]), tmp_path / "best.yaml")
    digest = hashlib.sha256((tmp_path / "best.safetensors").read_bytes()).hexdigest()
    assert read_config(tmp_path / "best.yaml").provenance["weights_sha256"] == digest


def test_card_has_a_header_for_hubs_and_leaves_a_strangers_readme_alone(tmp_path):
    model, path = trained(KINDS[3]), tmp_path / "best.yaml"
    measured = {"top1": 0.5, "gain": [0.1, 0.05, 0.15], "study": "a\n---\nb"}
    written("weights", KINDS[3], model, path, **measured)
    card = (tmp_path / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["library_name"] == "gcsearch" and "resnet18" in header["tags"]
    assert "| gain | 0.1 | [0.05, 0.15] |" in card and 'gcsearch.build("best.safetensors")' in card
    files = FORMATS["weights"]().render(config_of(KINDS[3]), model, path)
    assert tmp_path / "README.md" in write_files(files, force=True)
    (tmp_path / "README.md").write_text("# Mine")
    assert tmp_path / "README.md" not in write_files(files, force=True)
    assert (tmp_path / "README.md").read_text() == "# Mine"


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ({"seed": 0, "weights_seed": 10_003}, True),
        ({"seed": 0, "weights_seed": 0}, False),
        ({"seed": 0}, False),
    ],
)
def test_card_says_where_the_weights_are_of_another_seed_than_the_figures(tmp_path, seeds, said):
    written("weights", KINDS[3], trained(KINDS[3]), tmp_path / "best.yaml", **seeds)
    card = (tmp_path / "README.md").read_text()
    words = "The weights are of a training with seed 10003, top1 and gain of one with seed 0."
    assert (words in card) == said


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_file_computes_alike_and_carries_its_config(tmp_path):
    onnx, runtime = peer("onnx"), peer("onnxruntime")
    model, path = trained(KINDS[0]), tmp_path / "best.onnx"
    assert written("onnx", KINDS[0], model, path) == [path]
    session = runtime.InferenceSession(path.read_bytes())
    pictures = torch.randn(4, 3, SIDE, SIDE)
    (got,) = session.run(None, {"pictures": pictures.numpy()})
    assert torch.allclose(torch.from_numpy(got), model(pictures), atol=1e-3)
    (note,) = onnx.load(path).metadata_props
    assert json.loads(note.value)["backbone"] == "resnet18"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_exported_program_computes_alike(tmp_path):
    model, path = trained(KINDS[0]), tmp_path / "best.pt2"
    written("torch-export", KINDS[0], model, path)
    pictures = torch.randn(4, 3, SIDE, SIDE)
    got = torch.export.load(path).module()(pictures)
    assert torch.allclose(got, model(pictures), atol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["onnx", "torch-export"])
def test_program_that_comes_out_different_is_not_kept(tmp_path, monkeypatch, name):
    from gcsearch.export import programs

    peer("onnxruntime")
    broken = trained(Architecture("resnet18"))
    monkeypatch.setattr(programs, "plain_copy", lambda model: broken)
    monkeypatch.setattr("gcsearch.interchange.plain_copy", lambda model: broken)
    with pytest.raises(ExportError, match="differs from the network by"):
        written(name, KINDS[0], trained(KINDS[0]), tmp_path / f"a{FORMATS[name].suffixes[0]}")
    assert list(tmp_path.iterdir()) == []


def test_missing_package_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"pip install 'gcsearch\[onnx\]'"):
        FORMATS["onnx"]().check(config_of(KINDS[0]))


@pytest.mark.parametrize("architecture", KINDS, ids=str)
def test_snippet_builds_the_same_network_without_gcsearch(tmp_path, architecture):
    model, path = trained(architecture), tmp_path / "net.py"
    hostile = {"study": '"""\nraise SystemExit("ran")\n', "n": float("inf")}
    written("snippet", architecture, model, path, **hostile)
    code = (
        "import sys, torch; sys.modules['gcsearch'] = None; sys.path.insert(0, sys.argv[1])\n"
        "import net\n"
        "g = torch.Generator().manual_seed(1)\n"
        f"x = torch.randn(2, 3, {SIDE}, {SIDE}, generator=g)\n"
        "with torch.inference_mode():\n"
        "    torch.save(net.build()(x), sys.argv[1] + '/out.pt')\n"
    )
    call = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    got = torch.load(tmp_path / "out.pt", weights_only=True)
    assert torch.allclose(got, outputs(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "backbone", ["squeezenet1_1", "swin_t", "densenet121", "mobilenet_v3_small"]
)
def test_snippet_hosts_blocks_in_other_networks(tmp_path, backbone):
    sites = gcsearch.find_sites(gcsearch.backbones.build_backbone(backbone), (3, SIDE, SIDE))
    ends = [site.path for site in sites if "stage-end" in site.kinds][:2]
    architecture = Architecture(backbone, tuple(Insertion(path, ratio=1 / 4) for path in ends))
    model = trained(architecture)
    written("snippet", architecture, model, tmp_path / "net.py")
    again = executed(tmp_path / "net.py")["build"]()
    assert list(again.state_dict()) == list(model.state_dict())
    assert torch.allclose(outputs(again), outputs(model), rtol=1e-3, atol=1e-4)


def mmdet_backbone(scope, state):
    """Build a ResNet by mmdet's rule of plugins, with mmcv's own blocks, and load its weights."""
    from mmcv.cnn import build_plugin_layer
    from torchvision.models import resnet50

    class WithPlugins(Bottleneck):
        def forward(self, x):
            out = self.relu(self.bn1(self.conv1(x)))
            out = self.relu(self.bn2(self.conv2(out)))
            out = self.bn3(self.conv3(out))
            for name in self.plugin_names:
                out = getattr(self, name)(out)
            return self.relu(out + (x if self.downsample is None else self.downsample(x)))

    model = resnet50(weights=None)
    model.fc = nn.Identity()
    for stage in range(4):
        for block in getattr(model, f"layer{stage + 1}"):
            block.__class__, block.plugin_names = WithPlugins, []
            for plugin in scope["model"]["backbone"]["plugins"]:
                assert plugin["position"] == "after_conv3"
                if plugin["stages"][stage]:
                    channels = block.conv3.out_channels
                    name, layer = build_plugin_layer(plugin["cfg"], in_channels=channels)
                    block.add_module(name, layer)
                    block.plugin_names.append(name)
    model.load_state_dict(state)
    return model.eval()


def test_mmdet_plugins_compute_alike_in_mmcv(tmp_path):
    peer("mmcv.cnn")
    insertions = (
        *at_every_bottleneck([2, 4], ratio=1 / 8),
        *at_every_bottleneck([3], block="nl", mode="gaussian", sub_sample=True),
        *at_every_bottleneck([1], ratio=1 / 4, pooling="avg"),
    )
    architecture = Architecture("resnet50", insertions)
    model, path = trained(architecture), tmp_path / "best.py"
    written("mmdet", architecture, model, path)
    state = torch.load(tmp_path / "best.pth", weights_only=True)["state_dict"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = mmdet_backbone(executed(path), state)
    model.fc = nn.Identity()
    ours, theirs = outputs(model), outputs(again)
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(ours.abs().max()))


@pytest.mark.parametrize(
    ("insertions", "told"),
    [
        (at_every_bottleneck([2], fusions=("channel_mul",)), "layer2: channel_mul scales by 2*s"),
        (at_every_bottleneck([2], block="se"), "layer2: block 'se' is no plugin of mmcv's"),
        (
            at_every_bottleneck([2])[1:],
            "layer2: block at 3 of 4 residual blocks, none at layer2.0",
        ),
        ((Insertion("layer2.0"),), "site layer2.0 (after the addition): only layerX.Y.bn3"),
        ((Insertion("conv1"),), "site conv1: only layerX.Y.bn3"),
        (
            (*at_every_bottleneck([4])[1:], Insertion("layer4.0.bn3", ratio=1 / 4)),
            "layer4: blocks of 2 kinds in one stage",
        ),
    ],
)
def test_mmdet_refuses_what_it_cannot_say(insertions, told):
    message = refusal("mmdet", *insertions)
    assert told in message and "use --format snippet" in message


def test_grammars_refuse_other_backbones():
    assert "backbone resnet18: only resnet50" in refusal("mmdet", backbone="resnet18")
    assert "backbone swin_t: only" in refusal("timm", backbone="swin_t")
    assert "has no classifier 'timm:resnet18'" in refusal("snippet", backbone="timm:resnet18")


@pytest.mark.parametrize(
    ("backbone", "depths", "norm", "pooling"),
    [("resnet50", (3, 4, 6, 3), "bn3", "att"), ("resnet18", (2, 2, 2, 2), "bn2", "avg")],
)
def test_timm_call_computes_alike(tmp_path, monkeypatch, backbone, depths, norm, pooling):
    peer("timm")
    everywhere = at_every_bottleneck([1, 2, 3, 4], depths, norm, ratio=1 / 8, pooling=pooling)
    architecture = Architecture(backbone, everywhere)
    model = trained(architecture)
    written("timm", architecture, model, tmp_path / "net.py")
    monkeypatch.chdir(tmp_path)
    ours, theirs = outputs(model), outputs(executed(tmp_path / "net.py")["create"]().eval())
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(ours.abs().max()))


@pytest.mark.parametrize(
    ("insertions", "told"),
    [
        (at_every_bottleneck([1, 2, 3]), "layer4: holds no block"),
        (
            at_every_bottleneck([1, 2, 3, 4], block="se"),
            "layer1: block 'se' is computed otherwise",
        ),
        (at_every_bottleneck([1, 2, 3, 4], fusions=("channel_mul",)), "2*sigmoid"),
        (at_every_bottleneck([1, 2, 3, 4], ratio=0.3), "76 planes, where timm rounds to 77"),
        (
            (*at_every_bottleneck([1, 2, 3]), *at_every_bottleneck([4], ratio=1 / 4)),
            "stages differ:",
        ),
    ],
)
def test_timm_refuses_what_it_cannot_say(insertions, told):
    assert told in refusal("timm", *insertions)


def test_existing_files_stay(tmp_path):
    (tmp_path / "net.safetensors").write_text("precious")
    with pytest.raises(ExportError, match=r"net\.safetensors exists already; pass --force"):
        written("snippet", KINDS[3], trained(KINDS[3]), tmp_path / "net.py")
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]

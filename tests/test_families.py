"""What torch makes of altered models: programs, graphs, other runtimes, several processes, files.

One small member of every family of torchvision holds three blocks without any of which its output
were another. Where torch cannot do a thing with the backbone itself, the test is skipped with the
backbone's own reason, if the altered model fails for the same. So it is with networks for
detection, whose part that computes the features, which the blocks are in, is tested beside them.
"""

from __future__ import annotations

import datetime
import gc
import io
import shutil
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torchvision import models
from torchvision.ops import StochasticDepth
from torchvision_models import (
    arguments,
    build,
    call,
    fill_zeros,
    insertion,
    setup_of,
    tensors,
    wake,
)

from gcsearch.architecture import Insertion
from gcsearch.surgery import find_sites, insert, inserted_blocks

pytestmark = [
    pytest.mark.slow,
    # Of torch about the backbones: optical flow keeps features in its modules, and detection
    # chooses boxes.
    pytest.mark.filterwarnings("ignore:The tensor attributes self.corr_block"),
    pytest.mark.filterwarnings("ignore:`create_unbacked_symint` is deprecated"),
]

TOLERANCE = 3e-4
"""How far outputs may be apart, in parts of the largest."""
FASTER_RCNN, SSD_LITE = "fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large"
FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf"),
    *("resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11", "vit_b_32"),
    *("fcn_resnet50", "lraspp_mobilenet_v3_large"),
    *("mc3_18", "mvit_v1_b", "s3d", "swin3d_t"),
    *("quantized_mobilenet_v2", "raft_small"),
    *(FASTER_RCNN, f"{FASTER_RCNN}/backbone", SSD_LITE, f"{SSD_LITE}/backbone"),
)
"""Names of models, of some with a part that is tested alone."""
OF_ALL_LAYOUTS = ("resnet18", "convnext_tiny", "vit_b_32", "mc3_18")


@dataclass(repr=False)
class Case:
    """An altered model, the part of it that is tested, and what that is run with."""

    name: str
    model: nn.Module
    part: nn.Module
    sites: list
    insertions: list
    inputs: tuple
    options: dict

    def __call__(self):
        with torch.no_grad():
            return list(tensors(self.part(*self.inputs, **self.options)))


def prepare(family, number):
    """Alter a model, with the blocks that come in turn from some number on."""
    name, _, part = family.partition("/")
    setup, model = setup_of(name), build(name)
    even_out(model, setup)
    sites, insertions = insert_three(model, setup.size, number)
    wake(model, std=0.1)
    inputs, options = arguments(setup, is_training=False), setup.arguments
    if part:
        inputs = (torch.stack(inputs[0]),)
    return Case(family, model, model.get_submodule(part), sites, insertions, inputs, options)


@torch.no_grad()
def even_out(model, setup):
    """Let the signal neither fade nor grow on its way, so that each block shows in the output."""
    for parameter in model.parameters():
        if 0 < parameter.abs().max() < 1e-5:  # Layer scales of ConvNeXt.
            parameter.fill_(1)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    call(model.train(), setup)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def insert_three(model, size, number):
    """Insert the blocks that come in turn from some number on; return the sites and these."""
    sites = find_sites(model, size)
    insertions = [insertion(number + i, site) for i, site in enumerate(three(sites))]
    insert(model, insertions, sites=sites)
    return sites, insertions


def three(sites):
    """Return a site in the middle and one at the end, and before them one of another layout."""
    named = [site for site in sites if site.kind != "other"] or sites
    middle, last = named[len(named) // 2], named[-1]
    first = next((site for site in sites if site.layout != last.layout), named[0])
    return [first, middle, last]


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    yield prepare(request.param, FAMILIES.index(request.param))
    torch.compiler.reset()
    gc.collect()


@pytest.fixture(scope="module")
def program(case):
    """The exported program, which the exporter to ONNX starts from too."""
    return attempt(case, torch.export.export)


def distance(some, others):
    """Return the largest difference between two lists of tensors, in parts of the largest."""
    pairs = list(zip(tensors(some), tensors(others), strict=True))
    if any(one.shape != other.shape for one, other in pairs):
        return float("inf")
    parts = [
        (one - other).abs().max() / other.abs().max().clamp_min(1e-12) for one, other in pairs
    ]
    return float(max(parts))


def attempt(case, make):
    """Return what is made of the altered model; skip what the backbone itself fails in alike."""
    try:
        return make(case.part, case.inputs, case.options)
    except Exception as error:
        failure = error
    name, _, part = case.name.partition("/")
    backbone = build(name).eval().get_submodule(part)
    try:
        make(backbone, case.inputs, case.options)
    except type(failure) as error:
        if headline(error) == headline(failure):
            pytest.skip(f"{name} itself cannot: {headline(error)}")
    raise failure


def headline(error):
    return f"{type(error).__name__}: {error}".splitlines()[0]


def run_program(program, case):
    with torch.no_grad():
        return program.module()(*case.inputs, **case.options)


def run_compiled(model, inputs, options, *, backend="eager", is_whole=True):
    torch.compiler.reset()
    with torch.no_grad():
        return torch.compile(model, backend=backend, fullgraph=is_whole)(*inputs, **options)


def run_traced(model, inputs, options):
    with torch.no_grad():
        return torch.fx.symbolic_trace(model)(*inputs, **options)


def run_in_onnxruntime(program, inputs):
    network = program.model_proto.SerializeToString()
    session = onnxruntime().InferenceSession(network, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, tensors(inputs), strict=True)}
    return [torch.from_numpy(each) for each in session.run(None, feed)]


def onnxruntime():
    pytest.importorskip("onnxscript", reason="pip install 'gcsearch[onnx]'")
    return pytest.importorskip("onnxruntime", reason="pip install 'gcsearch[onnx]'")


def test_every_family_has_a_member_here():
    def family(name):
        file = models.get_model_builder(name.partition("/")[0]).__module__
        return file.removeprefix("torchvision.models.").partition(".")[0]

    assert {family(name) for name in FAMILIES} == {family(name) for name in models.list_models()}


def test_output_without_any_one_block_were_another(case):
    outputs = case()
    for path, block in inserted_blocks(case.model).items():
        bypass = block.register_forward_hook(lambda block, args, output: args[0])
        assert distance(case(), outputs) > 5 * TOLERANCE, path
        bypass.remove()


def test_exported_program_computes_the_same(case, program):
    assert distance(run_program(program, case), case()) < TOLERANCE


@pytest.mark.parametrize("case", OF_ALL_LAYOUTS, indirect=True)
def test_strictly_exported_program_computes_the_same(case):
    program = torch.export.export(case.part, case.inputs, case.options, strict=True)
    assert distance(run_program(program, case), case()) < TOLERANCE


def test_model_compiled_as_a_whole_computes_the_same(case):
    assert distance(attempt(case, run_compiled), case()) < TOLERANCE


@pytest.mark.parametrize("case", [FASTER_RCNN, SSD_LITE], indirect=True)
def test_model_that_compiles_in_pieces_only_computes_the_same(case):
    outputs = run_compiled(case.part, case.inputs, case.options, is_whole=False)
    assert distance(outputs, case()) < TOLERANCE


def test_onnxruntime_computes_the_same(case, program):
    onnxruntime()
    exported = torch.onnx.export(program, dynamo=True, verbose=False)
    # Another program's sums, in another order, through networks of a hundred layers.
    assert distance(run_in_onnxruntime(exported, case.inputs), case()) < 3 * TOLERANCE


@pytest.mark.parametrize("case", OF_ALL_LAYOUTS, indirect=True)
def test_onnxruntime_takes_batches_of_any_size(case):
    onnxruntime()
    batches = ({0: torch.export.Dim.DYNAMIC},)
    options = {"dynamo": True, "verbose": False, "dynamic_shapes": batches}
    exported = torch.onnx.export(case.part, case.inputs, **options)
    images = torch.cat([*case.inputs, *case.inputs])[:3]
    with torch.no_grad():
        outputs = list(tensors(case.part(images)))
    assert distance(run_in_onnxruntime(exported, images), outputs) < TOLERANCE


def test_graph_of_fx_computes_the_same(case):
    assert distance(attempt(case, run_traced), case()) < TOLERANCE


def test_saved_state_loads_strictly_into_a_model_altered_afresh(case):
    name, _, part = case.name.partition("/")
    file = io.BytesIO()
    torch.save(case.model.state_dict(), file)
    fresh = insert(build(name, seed=1), case.insertions, sites=case.sites).eval()
    twin = Case(name, fresh, fresh.get_submodule(part), [], [], case.inputs, case.options)
    assert distance(twin(), case()) > TOLERANCE
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert distance(twin(), case()) == 0


def shallow_resnet():
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)


def shallow_convnext():
    """ConvNeXt whose layer scales let the signal through."""
    stages = [models.convnext.CNBlockConfig(32, 64, 1), models.convnext.CNBlockConfig(64, None, 1)]
    return models.ConvNeXt(stages, layer_scale=1.0, num_classes=5)


def shallow_transformer():
    """A vision transformer whose classifier does not start at zero."""
    model = models.VisionTransformer(64, 16, 2, 2, hidden_dim=32, mlp_dim=64, num_classes=5)
    fill_zeros(p for p in model.parameters() if p.ndim > 1)
    return model


@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="inductor needs a C++ compiler"
)
@pytest.mark.parametrize("make", [shallow_resnet, shallow_convnext, shallow_transformer])
def test_kernels_of_inductor_compute_the_same(make, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    model, images = make().eval(), torch.rand(2, 3, 64, 64)
    insert_three(model, images.shape[1:], 0)
    with torch.no_grad():
        before = model(images)
        wake(model, std=0.1)
        outputs = model(images)
    assert distance(outputs, before) > 5 * TOLERANCE
    compiled = run_compiled(model, (images,), {}, backend="inductor")
    assert distance(compiled, outputs) < TOLERANCE


@pytest.mark.parametrize("name", OF_ALL_LAYOUTS)
def test_blocks_of_a_compiled_model_get_the_same_gradients(name):
    case = prepare(name, 0)
    for module in case.model.modules():
        module.training = not isinstance(module, StochasticDepth)
    compiled = torch.compile(case.model, backend="aot_eager", fullgraph=True)
    assert distance(gradients(compiled, case), gradients(case.model, case)) < TOLERANCE


def gradients(model, case):
    """Return the gradient of each block as one vector: in part it is zero but for rounding."""
    model.zero_grad()
    model(*case.inputs).square().mean().backward()
    blocks = inserted_blocks(case.model).values()
    return [torch.cat([p.grad.flatten() for p in block.parameters()]) for block in blocks]


def small_resnet():
    """Return a residual network that holds a block of each kind."""
    torch.manual_seed(0)
    model = shallow_resnet()
    both = ("channel_add", "channel_mul")
    insertions = [
        Insertion("layer1.0.bn2", "gc", ratio=1 / 4, fusions=both),
        Insertion("layer2.0", "nl"),
        Insertion("layer3.0", "se", ratio=1 / 4),
        Insertion("layer4", "snl"),
    ]
    insert(model, insertions, input_size=(3, 64, 64))
    wake(model)
    return model


def learn(model, rank, n_steps):
    """Return the first gradients of the blocks, and all weights after some steps."""
    generator = torch.Generator().manual_seed(rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    firsts = {}
    for _ in range(n_steps):
        images = torch.rand(4, 3, 64, 64, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(4)).backward()
        named = model.named_parameters()
        firsts = firsts or {key: p.grad.clone() for key, p in named if "gcsearch_block" in key}
        optimizer.step()
    return firsts, {key: value.detach() for key, value in model.named_parameters()}


def learn_in_parallel(rank, folder):
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(minutes=2),
    )
    learnt = learn(DistributedDataParallel(small_resnet()), rank, n_steps=2)
    torch.save(learnt, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_blocks_learn_the_same_in_parallel_processes(tmp_path):
    torch.multiprocessing.spawn(learn_in_parallel, (str(tmp_path),), nprocs=2)
    paths = [tmp_path / f"{rank}.pt" for rank in range(2)]
    (grads, weights), others = (torch.load(path, weights_only=True) for path in paths)
    assert grads and distance((grads, weights), others) == 0
    alone = [learn(small_resnet(), rank, n_steps=1)[0] for rank in range(2)]
    means = {f"module.{key}": (alone[0][key] + alone[1][key]) / 2 for key in alone[0]}
    assert grads.keys() == means.keys()
    assert all(means[key].any() for key in means if "conv_mask.bias" not in key)
    assert distance(grads, means) < TOLERANCE

"""What blocks attend to: maps that are their own, measures of them, the figure, the command."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from gcsearch.architecture import Architecture, Insertion
from gcsearch.backbones import build_altered
from gcsearch.blocks import BLOCKS, build_block
from gcsearch.cli.explain_command import explain as command
from gcsearch.errors import DataError, ExportError
from gcsearch.explain import (
    AttentionMap,
    attention_maps,
    draw,
    entropy_ratio,
    explain,
    mean_cosine_distance,
    why_no_map,
)
from gcsearch.explain.grids import Grid, grid_of, sampled_queries, spread_queries
from gcsearch.explain.panels import panels
from gcsearch.export import ExportedConfig, build, write_config, write_weights
from gcsearch.pictures import check_picture_path, write_picture
from gcsearch.proxy.feed import normalise
from gcsearch.surgery import insert, inserted_blocks
from gcsearch.surgery.host import attach

NORMALISATION = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
FOUND = (
    Insertion("features.3", ratio=1 / 4),
    Insertion("features.4", "se", ratio=1 / 4),
    Insertion("features.6", "nl", sub_sample=True),
    Insertion("features.7", ratio=1 / 4, pooling="avg"),
    Insertion("features.9", "snl"),
)
SITES = [i.site for i in FOUND if i.block != "se" and i.pooling != "avg"]


class Attending(nn.Module):
    """A block of someone's own that offers what explaining needs, and no more."""

    def forward(self, x):
        return x

    def attention(self, x, queries):
        flat = x.flatten(2)
        return (flat[:, :, queries].transpose(1, 2) @ flat).softmax(2).unflatten(2, x.shape[2:])


class OddTokens(nn.Module):
    """A network of sixteen patches and two tokens more, which are no square."""

    def __init__(self):
        super().__init__()
        self.patches, self.mix = nn.Conv2d(3, 16, 16, 16), nn.Linear(16, 16)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x):
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([patches[:, :2] * 0, patches], 1)
        return self.head(self.norm(self.mix(tokens)).mean(1))


def export(folder, insertions, *, backbone="squeezenet1_1", has_weights=True, **changes):
    """Write a config, and the weights of a network whose blocks do something."""
    architecture = Architecture(backbone, tuple(insertions))
    options = {"normalisation": NORMALISATION, **changes}
    if has_weights:
        torch.manual_seed(0)
        model = build_altered(architecture, n_classes=5, input_size=(3, 64, 64), trust=True)
        for block in inserted_blocks(model).values():
            for parameter in block.parameters():
                nn.init.normal_(parameter, std=0.3)
        write_weights(model, folder / "best.safetensors")
        options["weights"] = "best.safetensors"
    write_config(ExportedConfig(architecture, 5, 64, **options), folder / "best.yaml")
    return folder / "best.yaml"


def save_picture(path, size=(64, 64)):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def made_up(weights, *, positions=None, queries=None):
    """Return maps of given weights, (N, Q, *keys)."""
    weights = torch.as_tensor(weights, dtype=torch.float32)
    return AttentionMap("a", "Fake", weights, positions or tuple(weights.shape[2:]), queries)


def of_queries(*rows):
    """Return the maps of several queries on one picture, given as rows."""
    return made_up([rows], queries=torch.arange(len(rows)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export(tmp_path_factory.mktemp("export"), FOUND)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return [save_picture(folder / "square.png"), save_picture(folder / "wide.jpg", (50, 90))]


@pytest.fixture(scope="module")
def explanation(exported, images):
    return explain(exported, images)


@pytest.fixture
def call():
    """Run the command; return its result."""
    app = typer.Typer()
    app.command()(command)

    def run(config, images, *arguments):
        named = [word for path in images for word in ("--image", str(path))]
        return CliRunner().invoke(app, [str(config), *named, *map(str, arguments)])

    return run


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ((14, 9), Grid(14, 9)),
        ((1, 1), Grid(1, 1)),
        ((49,), Grid(7, 7)),
        ((50,), Grid(7, 7, 1, "class token")),
        ((2,), Grid(1, 1, 1, "class token")),
        ((1,), Grid(1, 1)),
        ((5, 4, 3), Grid(4, 3, 24, "other frames")),
        ((1, 4, 3), Grid(4, 3)),
        ((51,), None),
        ((3,), None),
    ],
)
def test_positions_cover_a_picture(positions, expected):
    assert grid_of(positions) == expected


@pytest.mark.parametrize("positions", [(14, 9), (2, 2), (1, 1), (50,), (5, 4, 3), (7,)])
def test_default_queries_are_different_places_and_the_first_is_the_centre(positions):
    queries = spread_queries(positions).tolist()
    grid = grid_of(positions) or Grid(1, math.prod(positions))
    places = [grid.place(query) for query in queries]
    assert len(set(queries)) == len(queries) and None not in places
    assert abs(places[0][0] - 0.5) <= 0.5 / grid.rows
    assert abs(places[0][1] - 0.5) <= 0.5 / grid.columns


def test_measured_queries_are_all_positions_or_a_sample_that_is_always_the_same():
    assert sampled_queries((16, 16)).tolist() == list(range(256))
    many = sampled_queries((40, 40))
    assert len(set(many.tolist())) == 256 and many.max() < 1600
    assert torch.equal(many, sampled_queries((40, 40)))


@pytest.mark.parametrize("name", ["gc", "snl"])
def test_map_is_the_mask_that_the_block_pools_with(name):
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()).eval()
    attach(model[1], build_block(name, 16, **({"ratio": 1 / 4} if name == "gc" else {})))
    x = torch.randn(2, 3, 9, 8)
    (found,) = attention_maps(model, x)
    mask = inserted_blocks(model)["1"].context_mask(model[0](x).relu())
    assert (found.path, found.positions, found.queries) == ("1", (7, 6), None)
    assert torch.equal(found.weights, mask.detach()) and not found.weights.requires_grad


@pytest.mark.parametrize("make", [Attending, lambda: build_block("nl", 16, mode="gaussian")])
def test_block_that_asks_by_query_has_a_map_for_each(make):
    model, block = nn.Sequential(nn.Conv2d(3, 16, 3)), make()
    attach(model[0], block)
    x = torch.randn(2, 3, 9, 8)
    (found,) = attention_maps(model, x, lambda positions: torch.tensor([0, 41]))
    features = nn.functional.conv2d(x, model[0].weight, model[0].bias)
    assert found.weights.shape == (2, 2, 7, 6) and found.queries.tolist() == [0, 41]
    assert torch.equal(found.weights, block.attention(features, torch.tensor([0, 41])).detach())


def test_tokens_with_channels_last_have_a_map():
    model = nn.Sequential(nn.Linear(3, 16))
    attach(model[0], build_block("gc", 16, ratio=1 / 4), is_channels_last=True)
    (found,) = attention_maps(model, torch.randn(2, 10, 3))
    assert found.weights.shape == (2, 1, 10) and found.is_distribution
    assert found.size == "10 tokens"


@pytest.mark.parametrize("name", BLOCKS.names())
def test_every_block_has_a_map_or_a_reason_for_none(name):
    model = nn.Sequential(nn.Conv2d(3, 32, 1))
    insert(model, [Insertion("0", name)], input_size=(3, 32, 32))
    reason = why_no_map(inserted_blocks(model)["0"])
    assert len(attention_maps(model, torch.randn(1, 3, 8, 8))) == (reason is None)
    assert (reason is None) == (name != "se")


def test_average_has_no_map():
    assert "weighs all positions alike" in why_no_map(build_block("gc", 32, pooling="avg"))


def test_maps_come_in_the_order_in_which_the_blocks_run():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Conv2d(8, 8, 1), nn.Conv2d(3, 8, 1)

        def forward(self, x):
            return self.last(self.first(x))

    model = insert(Backwards(), [Insertion("last", "snl"), Insertion("first", "snl")])
    assert [m.path for m in attention_maps(model, torch.randn(1, 3, 4, 4))] == ["first", "last"]


@pytest.mark.parametrize("channels", [3, 4], ids=["runs", "raises"])
def test_model_is_left_as_it_was(channels):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout(0.9)).train()
    model[2].eval()
    attach(model[1], block := build_block("snl", 8))
    if channels == 3:
        attention_maps(model, torch.randn(4, 3, 5, 5))
    else:
        with pytest.raises(RuntimeError):
            attention_maps(model, torch.randn(4, channels, 5, 5))
    assert [m.training for m in (model, model[0], model[1], model[2])] == [True, True, True, False]
    assert not block._forward_pre_hooks and int(model[1].num_batches_tracked) == 0


def test_distance_is_the_mean_of_half_of_one_minus_cosine_over_pairs():
    maps = torch.rand(3, 7, 4, 5)
    expected = []
    for picture in maps.flatten(2):
        cosine = nn.functional.cosine_similarity(picture[:, None], picture[None], dim=2)
        expected.append((1 - cosine[~torch.eye(7, dtype=torch.bool)]).mean() / 2)
    found = mean_cosine_distance(made_up(maps, queries=torch.arange(7)))
    assert found == pytest.approx(float(torch.stack(expected).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (([1, 2, 3], [1, 2, 3], [2, 4, 6]), 0.0),
        (([1, 0, 0], [0, 1, 0], [0, 0, 1]), 0.5),
        (([1, -1], [-1, 1]), 1.0),
        (([1, 0], [0, 0], [0, 1]), 0.5),
        (([1, 2],), None),
        (([0, 0], [0, 0]), None),
    ],
    ids=["equal", "apart", "opposite", "zeros are left out", "one query", "zeros alone"],
)
def test_distance_of_maps(rows, expected):
    assert mean_cosine_distance(of_queries(*rows)) == (expected and pytest.approx(expected))


def test_one_map_for_all_queries_has_no_distance():
    assert mean_cosine_distance(made_up([[[0.5, 0.5]]])) is None


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (([0.25] * 4,), 1.0),
        (([0, 1, 0, 0],), 0.0),
        (([0.25] * 4, [1, 0, 0, 0]), 0.5),
        (([0.5, 0.5, 0, 0],), 0.5),
        (([1],), 1.0),
        (([2, -1, 0, 0],), None),
        (([0.2, 0.2],), None),
    ],
    ids=["uniform", "one place", "mean", "two of four", "one position", "signed", "no sum of 1"],
)
def test_entropy_is_told_relative_to_uniform(rows, expected):
    assert entropy_ratio(of_queries(*rows)) == (expected and pytest.approx(expected))


def test_panel_is_shaded_from_lowest_to_highest_weight_and_says_both():
    ((panel,),) = panels(made_up([[[[0.1, 0.2], [0.3, 0.4]]]]))
    np.testing.assert_allclose(panel.shades, [[0, 1 / 3], [2 / 3, 1]], rtol=1e-6)
    assert panel.caption == "0.4 to 1.6 x uniform"
    assert panel.mark is None and panel.cover == (1, 1)


def test_uniform_map_is_not_blown_up_from_rounding():
    uniform = torch.full((1, 1, 3, 3), 1 / 9) + torch.randn(1, 1, 3, 3) * 1e-8
    ((panel,),) = panels(made_up(uniform))
    assert panel.caption == "uniform" and not panel.shades.any()


def test_weights_without_a_sum_are_shown_as_they_are():
    ((panel,),) = panels(made_up([[[[-0.5, 0.2], [0.3, 150.0]]]]))
    assert panel.caption == "-0.5 to 150"


def test_class_token_is_left_out_and_its_share_is_told():
    tokens = torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1])
    ((panel, other),) = panels(
        made_up(tokens.expand(1, 2, 5), positions=(5,), queries=torch.tensor([0, 4]))
    )
    assert panel.shades.shape == (2, 2) and "class token: 60%" in panel.caption
    assert panel.mark is None and other.mark == (0.75, 0.75)


def test_middle_frame_of_a_video_is_shown():
    weights = torch.zeros(1, 1, 3, 2, 2)
    weights[0, 0, 1, 0, 1], weights[0, 0, 2] = 0.2, 0.2
    ((panel,),) = panels(made_up(weights))
    assert panel.shades.tolist() == [[0, 1], [0, 0]] and "other frames: 80%" in panel.caption


def test_subsampled_map_covers_what_its_keys_stand_for():
    weights = torch.rand(1, 1, 3, 4)
    ((panel,),) = panels(made_up(weights, positions=(7, 8), queries=torch.tensor([9])))
    assert panel.cover == (6 / 7, 1) and panel.mark == (1.5 / 7, 1.5 / 8)


def test_tokens_that_are_no_square_are_refused():
    with pytest.raises(ExportError, match=r"positions \(7,\) at a are no square of tokens"):
        panels(made_up(torch.rand(1, 1, 7)))


def test_explanation_has_each_insertion_with_map_or_reason(explanation):
    drawable = [entry.insertion.site for entry, _ in explanation.drawable]
    assert sorted(e.insertion.site for e in explanation.insertions) == [i.site for i in FOUND]
    assert drawable == SITES and explanation.has_weights
    assert all(bool(e.reason) == (e.attention is None) for e in explanation.insertions)
    distances = [entry.cosine_distance for entry, _ in explanation.drawable]
    assert [distance is not None for distance in distances] == [False, True, False]


def test_pictures_are_cut_scaled_and_normalised_as_in_training(exported, explanation):
    assert explanation.pictures.shape == (2, 64, 64, 3)
    images = normalise(explanation.pictures, SimpleNamespace(**NORMALISATION), "cpu")
    expected = attention_maps(build(exported), images)
    for (_, found), wanted in zip(explanation.drawable, expected, strict=True):
        torch.testing.assert_close(found.weights, wanted.weights, rtol=1e-3, atol=1e-6)


def test_measures_are_of_all_queries_and_not_of_those_shown(exported, explanation):
    images = normalise(explanation.pictures, SimpleNamespace(**NORMALISATION), "cpu")
    _, whole, _ = attention_maps(build(exported), images, sampled_queries)
    entry, shown = explanation.drawable[1]
    assert whole.weights.shape[1] == 49 and shown.weights.shape[1] == 4
    assert entry.cosine_distance == pytest.approx(mean_cosine_distance(whole), rel=1e-3)
    assert entry.entropy == pytest.approx(entropy_ratio(whole), rel=1e-3)
    assert entry.cosine_distance != pytest.approx(mean_cosine_distance(shown), rel=1e-3)


def test_figure_has_a_row_for_each_picture_and_a_column_for_each_map(explanation):
    figure = draw(explanation)
    texts = [text.get_text() for text in figure.texts]
    captions = [axes.get_xlabel() for axes in figure.axes]
    assert len(figure.axes) == 2 * (1 + 1 + 4 + 1) + 1
    assert "nl embedded_gaussian sub" in texts and set(SITES) <= set(texts)
    assert {"square.png", "wide.jpg"} <= set(captions)
    assert sum(len(axes.lines) for axes in figure.axes) == 2 * 4


def test_long_site_is_broken_at_a_dot(explanation):
    entry, attention = explanation.drawable[0]
    long = "encoder.layers.encoder_layer_11.mlp"
    entry = replace(entry, insertion=Insertion(long, ratio=1 / 4))
    narrow = replace(explanation, insertions=(replace(entry, attention=attention),))
    texts = [text.get_text() for text in draw(narrow).texts]
    assert texts[-4:-2] == ["encoder.layers.", "encoder_layer_11.mlp"]


def test_untrained_maps_are_called_arbitrary(tmp_path, images):
    found = explain(export(tmp_path, FOUND[:1], has_weights=False), images)
    assert "untrained: arbitrary" in draw(found).texts[0].get_text()


def test_name_of_a_picture_is_no_formula(exported, tmp_path):
    found = explain(exported, [save_picture(tmp_path / "price_$1\\frac$.png")])
    write_picture(draw(found), tmp_path / "maps.png")
    assert (tmp_path / "maps.png").exists()


@pytest.mark.parametrize(
    ("suffix", "start"),
    [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89")],
)
def test_picture_is_written_whole_without_global_state(
    explanation, tmp_path, monkeypatch, suffix, start
):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    write_picture(draw(explanation), tmp_path / f"maps{suffix}")
    assert (tmp_path / f"maps{suffix}").read_bytes().startswith(start)
    assert len(list(tmp_path.iterdir())) == 1


def test_picture_path_is_checked_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()
    check_picture_path(tmp_path / "a.png", force=True)
    check_picture_path(tmp_path / "other.PNG")
    with pytest.raises(ExportError, match=r"a.png exists already; pass --force"):
        check_picture_path(tmp_path / "a.png")
    with pytest.raises(ExportError, match=r"a.gif' names no picture; end it in .png, .svg, .pdf"):
        check_picture_path(tmp_path / "a.gif")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        ExportError, match=r"need matplotlib .*; pip install 'gcsearch\[pictures\]"
    ):
        check_picture_path(tmp_path / "b.png")


def broken(path):
    path.write_bytes(save_picture(path.with_suffix(".bmp")).read_bytes()[:500])
    return path


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: [folder / "none.png"], "none.png is no file; give the path"),
        (lambda folder: [folder], "is no file; give the path"),
        (lambda folder: [broken(folder / "a.png")], "cannot read picture .*a.png"),
        (lambda folder: [save_picture(folder / "a.png")] * 17, "17 pictures do not fit one figu"),
        (lambda folder: [], "0 pictures do not fit one figure; give 1 to 16"),
    ],
    ids=["missing", "folder", "broken", "many", "none"],
)
def test_wrong_picture_is_refused_before_the_network_is_built(exported, tmp_path, make, told):
    with pytest.raises(DataError, match=told) as caught:
        explain(exported, make(tmp_path))
    assert "\n" not in str(caught.value)


def test_text_is_no_picture(exported):
    with pytest.raises(DataError, match=r"cannot read picture .*best\.yaml"):
        explain(exported, [exported])


@pytest.mark.parametrize(
    ("insertions", "told"),
    [
        ((), "best.yaml has no insertions; maps come from gc with att pooling"),
        (FOUND[1:2], "has no map to draw among its 1 insertion.*SqueezeExcitation does not"),
        (FOUND[3:4], "has no map to draw .*features.7 gc r1/4 avg add: avg pooling weighs all"),
    ],
    ids=["baseline", "se", "avg"],
)
def test_architecture_that_attends_to_nothing_is_refused(tmp_path, images, insertions, told):
    with pytest.raises(ExportError, match=told):
        explain(export(tmp_path, insertions, has_weights=False), images)


@pytest.mark.parametrize(
    ("normalisation", "told"),
    [
        ({}, "does not say how its pictures are normalised; add the mean"),
        ({"mean": [0.5] * 3, "std": [0.2]}, "add the std of each channel"),
        ({"mean": [0.5, 0.5, math.nan], "std": [0.2] * 3}, "add the mean"),
        ({"mean": "grey", "std": [0.2] * 3}, "add the mean"),
        ({"mean": [0.5] * 3, "std": [0.2, 0.2, 0]}, "std of its normalisation is not positive"),
    ],
)
def test_config_without_usable_normalisation_is_refused(tmp_path, images, normalisation, told):
    config = export(tmp_path, FOUND[:1], has_weights=False, normalisation=normalisation)
    with pytest.raises(ExportError, match=told):
        explain(config, images)


def test_tokens_that_are_no_square_are_named_and_the_rest_is_drawn(tmp_path, images, call):
    insertions = [Insertion("patches", "snl"), Insertion("mix", "snl")]
    config = export(tmp_path, insertions, backbone="test_explain:OddTokens")
    refused = call(config, images, "-o", tmp_path / "maps.png")
    assert isinstance(refused.exception, ExportError) and "--trust" in str(refused.exception)
    result = call(config, images, "-o", tmp_path / "maps.png", "--trust")
    assert result.exit_code == 0 and (tmp_path / "maps.png").exists()
    assert "its 18 tokens are no square, with or without a class token" in result.stdout


def test_command_writes_the_picture_and_names_what_it_leaves_out(exported, images, tmp_path, call):
    result = call(exported, images, "-o", tmp_path / "maps.png")
    with Image.open(tmp_path / "maps.png") as picture:
        assert picture.width > picture.height > 300
    assert "features.7 gc r1/4 avg add" in result.stdout and not result.stderr
    assert "avg pooling weighs all positions alike" in result.stdout
    assert "SqueezeExcitation does not attend to positions" in result.stdout


def test_command_prints_the_measures_as_json(exported, images, tmp_path, call, explanation):
    result = call(exported, images, "-o", tmp_path / "maps.png", "--json")
    told = json.loads(result.stdout)
    assert told["written"] == [str(tmp_path / "maps.png")] and told["has_weights"] is True
    assert told["insertions"] == [entry.to_dict() for entry in explanation.insertions]
    by_site = {entry["site"]: entry for entry in told["insertions"]}
    assert by_site["features.6"]["shape"] == [7, 7] and by_site["features.6"]["block"] == "nl"
    assert by_site["features.4"]["shape"] is None and by_site["features.4"]["reason"]


def test_command_warns_of_a_config_without_weights(tmp_path, images, call):
    config = export(tmp_path, FOUND[:1], has_weights=False)
    result = call(config, images, "-o", tmp_path / "maps.png", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["has_weights"] is False
    assert "warning" in result.stderr and "its maps are arbitrary" in result.stderr


def test_command_does_not_replace_a_picture_unless_told_to(exported, images, tmp_path, call):
    (tmp_path / "maps.png").write_text("mine")
    refused = call(exported, images, "-o", tmp_path / "maps.png")
    assert isinstance(refused.exception, ExportError)
    assert (tmp_path / "maps.png").read_text() == "mine"
    assert call(exported, images, "-o", tmp_path / "maps.png", "--force").exit_code == 0
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")

"""Exported files against the checkpoints they were made from: parity, scales, warp, leaks, cards, and gates that refuse.

The networks are small and untrained, but their heads are not: the flow moves pixels by a dozen and more, some of them out
of the picture, so a warp that is wrong anywhere shows.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from torch import nn

from faceeraser.artifacts import contents, edges, publishing
from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.card import SCHEMA_FILE, card_path, read_card
from faceeraser.artifacts.files import sha256_of
from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.artifacts.runtimes import load_model
from faceeraser.conversion import convert, coreml, gate, mil_program, onnx
from faceeraser.conversion.coreml import CoreML
from faceeraser.conversion.formats import Form
from faceeraser.conversion.onnx import ONNX
from faceeraser.conversion.tflite import FLAVOURS, TFLite
from faceeraser.model import checkpoint, networks, quant
from faceeraser.model.config import Config
from faceeraser.model.networks import FaceEraser
from faceeraser.model.warp import offsets_to_flow, sampling_coordinates, warp
from faceeraser.system import writing
from faceeraser.system.history import read_history
from faceeraser.system.script import GateFailed

SIZE = 64
ROOT = Path(__file__).resolve().parent.parent
CARD = Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))


@pytest.fixture(scope="module", autouse=True)
def one_thread(short_canny):
    """For pictures this small, a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def lowered_once():
    """Flavours of one network differ in what is done after the converter, which takes nearly all of the time."""
    lower, files = TFLite._lower, dict[tuple, bytes]()

    def once(self: TFLite, traced: Form, sample: dict[str, torch.Tensor], path: Path) -> None:
        weights = sha256(b"".join(t.numpy().tobytes() for t in traced.state_dict().values())).digest()
        shapes = tuple((name, *given.shape) for name, given in sample.items())
        key = (weights, shapes, traced.outputs, FLAVOURS[self.flavour].warp, self.precision == "int8")
        if key not in files:
            lower(self, traced, sample, path)
            files[key] = path.read_bytes()
        path.write_bytes(files[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TFLite, "_lower", once)
        yield


@pytest.fixture(scope="module")
def pictures() -> list[gate.Picture]:
    return gate.gate_pictures(SIZE)


def tensors(pictures: list[gate.Picture]) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.stack([torch.from_numpy(p.image).permute(2, 0, 1) for p in pictures])
    return image, torch.stack([torch.from_numpy(p.mask)[None] for p in pictures])


def network(pictures: list[gate.Picture], preset: str = "mobile", small: bool = False, **config) -> FaceEraser:
    """A pipeline with statistics in its norms and a flow of a dozen pixels and more; `small` has few operators."""
    torch.manual_seed(0)
    blocks = {"edge": 0, "clone": 0} if small else {"edge": 1, "clone": 1}
    variant = "auto_encoder" if small else "unet_attention"
    pipeline = FaceEraser(Config.of(preset, resolution=SIZE, blocks=blocks, variant=variant, **config), width=4)
    nn.init.normal_(pipeline.clone.head.conv.weight, std=0.02)
    assert pipeline.clone.head.conv.bias is not None
    pipeline.clone.head.conv.bias.data = torch.tensor([-0.45, 0.6])
    if pipeline.config.residual:
        nn.init.normal_(pipeline.refine.head.conv.weight, std=0.03)
    with torch.no_grad():
        pipeline.train()
        for _ in range(3):
            pipeline(*tensors(pictures))
    return pipeline.eval()


def quantized(pipeline: FaceEraser, pictures: list[gate.Picture]) -> FaceEraser:
    quant.fuse(pipeline)
    quant.prepare(pipeline, pipeline.config.float_layers)
    pipeline.config = replace(pipeline.config, fused=True, quantized=True)
    quant.set_calibrating(pipeline, True)
    with torch.no_grad():
        pipeline(*tensors(pictures))
    quant.set_calibrating(pipeline, False)
    return pipeline


def saved(pipeline: FaceEraser, folder: Path) -> Path:
    with writing.whole_folder(folder) as partly:
        checkpoint.save(partly, pipeline, stage="test", options={"seed": 0}, metrics={"psnr_hole": 30.0})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, pictures) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "fp32": saved(network(pictures), folder / "fp32"),
        "int8": saved(quantized(network(pictures), pictures), folder / "int8"),
        # Depthwise convolutions, and one more layer in float before the flow's head.
        "separable": saved(
            quantized(network(pictures, small=True, separable=True, float_layers=("clone.head", "clone.up.1")), pictures),
            folder / "separable",
        ),
        "paper": saved(network(pictures, "paper"), folder / "paper"),
        # Without the fill, which is half of a small network's operators; small8 has it.
        "small": saved(network(pictures, small=True, fill=False), folder / "small"),
        "small8": saved(quantized(network(pictures, small=True), pictures), folder / "small8"),
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory, runs):
    """`exported(kind, run, precision, edges_input, flavour)` -> path of a file that passed its gate; each made once."""
    folder = tmp_path_factory.mktemp("exports")
    files: dict[tuple, Path] = {}

    def export(kind: str, run: str, precision: str = "auto", edges_input: bool = False, flavour: str = "web") -> Path:
        key = (kind, run, precision, edges_input, flavour)
        if key not in files:
            own = {"flavour": flavour} if kind == "tflite" else {}
            format = convert.FORMATS[kind](precision, edges_input=edges_input, **own)
            card = convert.export(runs[run], folder, format)
            files[key] = folder / card["file"]
        return files[key]

    return export


# --- what the gate looks at -----------------------------------------------------------------------------------------


def test_gate_pictures_are_textured_and_have_holes(pictures) -> None:
    assert len(pictures) >= 16 and len({p.name for p in pictures}) == len(pictures)
    for picture in pictures:
        assert picture.image.shape == (SIZE, SIZE, 3) and picture.image.dtype == np.float32
        assert 0.05 < picture.mask.mean() < 0.5 and set(np.unique(picture.mask)) == {0, 1}
        steps = np.abs(np.diff(picture.image, axis=1))
        assert steps.mean() > 0.002, f"{picture.name} is smooth: a shift of a pixel would not show"


def test_the_flow_in_these_tests_moves_pixels_and_leaves_the_picture(pictures, runs) -> None:
    for run in ("fp32", "int8"):
        image, mask = tensors(pictures)
        with torch.no_grad():
            flow = checkpoint.load(runs[run])(image, mask)["flow"]
        inside = mask.expand_as(flow) > 0.5
        assert flow.abs()[inside].mean() > 8
        x, y = sampling_coordinates(flow)
        grid = torch.arange(float(SIZE))
        assert ((x != flow[:, :1] + grid.view(1, 1, 1, -1)) & (mask > 0.5)).any()  # clamped: it landed outside
        assert ((y != flow[:, 1:] + grid.view(1, 1, -1, 1)) & (mask > 0.5)).any()


@pytest.mark.parametrize("precision, bound", [("fp32", 1e-4), ("fp16", 55.0), ("int8", 50.0)])
def test_gates_are_the_promised_ones(precision: str, bound: float) -> None:
    asked = gate.Gate.of(precision)
    assert (asked.max_abs if precision == "fp32" else asked.psnr) == bound
    looser = bound * (2 if precision == "fp32" else 0.9)
    with pytest.raises(ValueError, match="give a reason"):
        gate.Gate.of(precision, looser)
    assert gate.Gate.of(precision, looser, "because").reason == "because"
    tighter = bound * (0.5 if precision == "fp32" else 1.1)
    assert gate.Gate.of(precision, tighter).reason is None
    assert not asked.passes(math.nan, math.nan)


GRAIN = np.random.default_rng(0).random((SIZE, SIZE, 3), np.float32)
HALF = (SIZE - 1) / 2  # pixels that an offset of 1 is


class Copier:
    """Stands for a network: lays grain into the hole from where its plan says, or from 6 pixels to the left."""

    def __call__(self, picture: gate.Picture, plan: dict[str, np.ndarray] | None = None) -> gate.Painted:
        offsets = np.full((SIZE, SIZE, 2), np.float32([-6 / HALF, 0.0])) if plan is None else plan["offsets"]
        rows, columns = np.mgrid[:SIZE, :SIZE]
        x, y = (np.rint(offsets[..., k] * HALF).astype(int) for k in (0, 1))
        grain = GRAIN[(rows + y).clip(0, SIZE - 1), (columns + x).clip(0, SIZE - 1)]
        return gate.Painted(np.where(picture.mask[..., None] > 0.5, grain, picture.image), {"offsets": offsets})

    def agreement(self, other: dict, own: dict, picture: gate.Picture, pixels: float) -> dict[str, float]:
        apart = np.abs(other["offsets"] - own["offsets"]).max(-1) * HALF
        return {"offsets": float((apart[picture.mask > 0.5] <= pixels).mean())}


def asked_of_int8(file, pictures: list[gate.Picture]) -> dict:
    """What the gate of int8 says of a file, given as a function of a `gate.Picture`, whose checkpoint is the Copier."""

    def run(image: np.ndarray, mask: np.ndarray) -> gate.Painted:
        return file(gate.Picture("", image, mask))

    return gate.parity(run, pictures, Copier(), gate.Gate.of("int8"))


def moved(pixels: float, share: float):
    """A file that copies from elsewhere in a share of the cells, and otherwise does what its checkpoint does."""

    def file(picture: gate.Picture) -> gate.Painted:
        offsets = Copier()(picture).plan["offsets"].copy()
        offsets[np.random.default_rng(1).random((SIZE, SIZE)) < share] += np.float32([pixels / HALF, 0.0])
        return Copier()(picture, {"offsets": offsets})

    return file


def test_a_file_that_rounds_to_another_patch_passes_and_one_that_copies_from_elsewhere_does_not(pictures) -> None:
    measured = asked_of_int8(moved(0.9, share=1.0), pictures)
    assert measured["passed"] and measured["psnr_hole_min"] == 200.0 and measured["plan_share_min"] == 1.0
    assert measured["psnr_whole_min"] < 20, "compared as a whole it would be refused: there is other grain everywhere"
    assert asked_of_int8(moved(3.0, share=0.03), pictures)["passed"]
    measured = asked_of_int8(moved(3.0, share=0.2), pictures)
    assert not measured["passed"] and measured["psnr_hole_min"] == 200.0
    assert all("of the plan's offsets agree" in failure for failure in measured["failures"])
    assert len(measured["failures"]) == len(pictures)


def test_parity_reports_the_worst_picture_and_refuses_it(pictures) -> None:
    def file(picture: gate.Picture) -> gate.Painted:
        painted = Copier()(picture)
        off = 0.01 * picture.mask[..., None] if np.array_equal(picture.image, pictures[3].image) else 0.0
        return gate.Painted(painted.image + np.float32(off), painted.plan)

    measured = asked_of_int8(file, pictures)
    assert not measured["passed"] and measured["worst_picture"] == pictures[3].name
    assert measured["psnr_hole_min"] == pytest.approx(40.0, abs=0.01)
    assert measured["max_abs_hole"] == pytest.approx(0.01, abs=1e-5)
    assert len(measured["failures"]) == 1
    assert measured["failures"][0].startswith(pictures[3].name) and "40.0 dB" in measured["failures"][0]


def test_a_file_that_lets_the_hole_through_is_refused(pictures) -> None:
    def file(picture: gate.Picture) -> gate.Painted:
        painted = Copier()(picture)
        return gate.Painted(painted.image + 1e-6 * picture.image, painted.plan)

    failures = asked_of_int8(file, pictures)["failures"]
    assert len(failures) == 2 and all("pixels inside the hole change the output" in failure for failure in failures)


def corrupted(pipeline: FaceEraser, layer: str) -> FaceEraser:
    """One convolution's weights turned over."""
    weight = pipeline.get_submodule(layer).get_parameter("weight")
    weight.data = weight.data.flip(2)
    return pipeline


WRONG = [("clone.stem.conv", "of the plan's offsets_seen agree"), ("refine.stem.conv", "dB, max abs")]


@pytest.mark.parametrize("layer, said", WRONG)
def test_a_wrong_weight_is_refused_and_nothing_published(layer, said, runs, tmp_path, monkeypatch) -> None:
    frozen = onnx.formats.frozen
    monkeypatch.setattr(onnx.formats, "frozen", lambda pipeline: corrupted(frozen(pipeline), layer))
    with pytest.raises(GateFailed, match=said):
        convert.export(runs["small8"], tmp_path, ONNX(edges_input=True))
    assert list(tmp_path.iterdir()) == []


# --- files that pass ------------------------------------------------------------------------------------------------

FORMS = [  # kind, folder, precision, edges as an input
    ("tflite", "fp32", "auto", False),
    ("tflite", "small", "fp16", True),
    ("tflite", "int8", "auto", True),
    ("tflite", "separable", "auto", True),
    ("tflite", "paper", "auto", True),
    ("onnx", "fp32", "auto", False),
    ("onnx", "int8", "auto", False),
    ("onnx", "small", "auto", True),
    ("onnx", "paper", "auto", True),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda f: "-".join(map(str, f)))
def test_a_file_erases_what_its_checkpoint_erases(form, exported, runs, pictures) -> None:
    """Measured here again and on its own: other masks than the gate's, whole picture, through the public reader."""
    path = exported(*form)
    file, pipeline = Artifact(path), checkpoint.load(runs[form[1]])
    precision = file.card["precision"]
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[10:40, 6:58] = 1
    for picture in pictures[:4]:
        edge = torch.from_numpy(edges.canny(picture.image @ np.float32([0.299, 0.587, 0.114]), mask))[None, None]
        with torch.no_grad():
            image = torch.from_numpy(picture.image).permute(2, 0, 1)[None]
            truth = pipeline(image, torch.from_numpy(mask)[None, None], edge if form[3] else None)["erased"]
        truth = truth[0].permute(1, 2, 0).numpy()
        erased = file.run(picture.image, mask)
        assert np.array_equal(erased[mask == 0], picture.image[mask == 0])
        error = (erased - truth)[mask > 0]
        if precision == "fp32":
            assert np.abs(error).max() < 1e-4
        else:
            assert -10 * np.log10(np.mean(error**2)) > (55 if precision == "fp16" else 45)


@pytest.mark.parametrize("form", FORMS, ids=lambda f: "-".join(map(str, f)))
def test_nothing_of_the_hole_leaks(form, exported, pictures) -> None:
    """Pixels where mask = 1 can be anything at all: every bit of the output stays."""
    file = Artifact(exported(*form))
    for k, fill in enumerate((0.0, 1.0, None)):
        picture = pictures[k]
        hole = picture.mask[..., None] > 0.5
        noise = np.random.default_rng(k).random(picture.image.shape, np.float32) if fill is None else np.float32(fill)
        other = np.where(hole, noise, picture.image).astype(np.float32)
        assert not np.array_equal(other, picture.image)
        assert np.array_equal(file.run(picture.image, picture.mask), file.run(other, picture.mask))


@pytest.mark.parametrize("form", FORMS, ids=lambda f: "-".join(map(str, f)))
def test_the_card_tells_what_the_file_is(form, exported, runs) -> None:
    path = exported(*form)
    card = read_card(path)
    kind, run, precision, given = form
    assert card["kind"] == kind and card["edges"] == ("input" if given else "inside") and card["resolution"] == SIZE
    assert card["precision"] == (precision if precision != "auto" else "int8" if run in ("int8", "separable") else "fp32")
    assert card["parity"]["n"] >= 16 and card["parity"]["passed"] is True and "failures" not in card["parity"]
    assert card["history"] == read_history(runs[run])
    layout = "NHWC" if kind == "tflite" else "NCHW"
    assert {port["name"]: (port["layout"], port["dtype"]) for port in (*card["inputs"], *card["outputs"])} == {
        name: (layout, "float32") for name in ("image", "mask", "erased", *(["edges"] if given else []))
    }
    assert card["gmacs"] == pytest.approx(networks.cost_of(checkpoint.load(runs[run]), SIZE)[0], rel=1e-6)
    assert card["params"] > 0 and card["bytes"] == path.stat().st_size


@pytest.mark.parametrize("form", FORMS, ids=lambda f: "-".join(map(str, f)))
def test_the_card_is_of_the_schemas_form_and_the_file_has_every_layer(form, exported, runs) -> None:
    path = exported(*form)
    card = read_card(path)
    CARD.validate(card)
    assert {port["name"]: port["meaning"] for port in card["inputs"]}["mask"] == "1 = erase, 0 = keep"
    inside = contents.listing(path)
    assert inside["operators"] == card["checked"]["operators"]
    # In a .tflite file a mask for three channels is a convolution with three ones: 12 bytes, no layer of the network's.
    listed = [layer for layer in inside["layers"] if layer["bytes"] > 12]
    kinds = nn.Conv2d | nn.ConvTranspose2d
    layers = [m for m in checkpoint.load(runs[form[1]]).modules() if isinstance(m, kinds)]
    assert len(listed) == len(layers)
    size = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1}
    stored = sum(layer["bytes"] / size[layer["stored"]] for layer in listed)
    weights = sum(m.weight.numel() for m in layers)
    # For CPUs some layers of a .tflite file compute four pixels at once, with their weights as often; int8 has its scales.
    assert weights <= stored < weights * (1.0001 if form[0] == "onnx" and form[1] != "int8" else 2.0)


def test_exactly_file_and_card_are_published(exported) -> None:
    path = exported("tflite", "fp32")
    names = {p.name for p in path.parent.iterdir()}
    assert path.name == "fp32-web.tflite" and {"fp32-web.tflite", "fp32-web.tflite.json"} <= names
    assert exported("tflite", "small", "fp16", True, "cpu").name == "small-fp16-edges.tflite"
    assert exported("onnx", "small", "auto", True).name == "small-edges.onnx"
    assert all(name.removesuffix(".json").endswith((".tflite", ".onnx", ".mlpackage")) for name in names)


def test_float16_is_in_the_weights_and_nowhere_else(exported) -> None:
    graph = Graph(exported("tflite", "small", "fp16", True, "gpu"))
    stored = Counter(graph.type(t) for t in range(len(graph.graph.tensors)) if graph.constant(t))
    assert stored["FLOAT16"] == len(graph.ops("CONV_2D")) == len(graph.ops("DEQUANTIZE"))
    assert "FLOAT16" not in {graph.type(t) for t in graph.maker}


def test_the_paper_preset_converts_as_it_is(exported) -> None:
    operators = read_card(exported("tflite", "paper", "auto", True))["checked"]["operators"]
    assert operators["TRANSPOSE_CONV"] == 4 and operators["MIRROR_PAD"] > 0
    operators = read_card(exported("onnx", "paper", "auto", True))["checked"]["operators"]
    assert operators["ConvTranspose"] == 4 and operators["GridSample"] == 1


# --- int8 -----------------------------------------------------------------------------------------------------------


def test_the_int8_file_has_the_learnt_scales_and_int8_convolutions(exported, runs) -> None:
    """Counted here from the file alone, not by the exporter's check. As the converter leaves the graph: that what is edited
    for CPUs changes no bit is told below.
    """
    graph = Graph(exported("tflite", "int8", "auto", True, "gpu"))
    pipeline = checkpoint.load(runs["int8"])
    stored = [
        np.float64(t.quantization.scale)
        for k, t in enumerate(graph.graph.tensors)
        if graph.type(k) == "INT8" and t.quantization is not None and t.quantization.scale is not None
    ]
    for name, scale, _ in quant.quantized_tensors(pipeline):
        value = np.atleast_1d(scale.detach().double().numpy())
        assert any(len(s) == len(value) and np.allclose(s, value, rtol=1e-6, atol=0) for s in stored), name
    inputs = Counter(graph.type(int(op.inputs[0])) for op in graph.ops("CONV_2D"))
    assert inputs == {"INT8": sum(isinstance(m, quant.QuantConv2d) for m in pipeline.modules()), "FLOAT32": 1}
    # Ways back to float are what the flow's head reads and the refined picture, never the warped picture.
    for op in graph.ops("DEQUANTIZE"):
        maker = graph.maker[int(op.inputs[0])]
        assert graph.name(maker) != "QUANTIZE" or graph.type(int(maker.inputs[0])) == "INT8"


def test_what_is_edited_for_cpus_changes_no_bit(exported, pictures) -> None:
    """Heads that compute four pixels at once, and resizes by channels, against the graph as the converter leaves it."""
    edited, plain = (exported("tflite", "int8", "auto", True, flavour) for flavour in ("web", "gpu"))
    # The three heads, and in so small a network other convolutions of at most four channels.
    assert len(Graph(edited).ops("DEPTH_TO_SPACE")) >= 3 + len(Graph(plain).ops("RESIZE_NEAREST_NEIGHBOR"))
    assert not Graph(edited).ops("RESIZE_NEAREST_NEIGHBOR") and not Graph(plain).ops("DEPTH_TO_SPACE")
    files = [Artifact(path, threads=1) for path in (edited, plain)]
    for picture in pictures[:3]:
        one, other = (file.run(picture.image, picture.mask) for file in files)
        assert np.array_equal(one, other)


@pytest.mark.parametrize("run", ["int8", "fp32"])
def test_eight_bits_in_and_out_are_the_float_file_rounded(run, exported, pictures) -> None:
    form = ("tflite", run, "auto", run == "int8")
    eight, real = (Artifact(exported(*form, flavour), threads=1) for flavour in ("cpu", "web"))
    assert {port["dtype"] for port in (*eight.card["inputs"], *eight.card["outputs"])} == {"uint8"}
    assert {port["dtype"] for port in (*real.card["inputs"], *real.card["outputs"])} == {"float32"}
    assert eight.card["flavour"] == "cpu" and real.card["flavour"] == "web"
    for picture in pictures[:3]:
        levels = np.rint(picture.image * 255).astype(np.uint8)
        erased = np.rint(eight.run(levels / np.float32(255), picture.mask) * 255).astype(np.uint8)
        expected = np.rint(real.run(levels / np.float32(255), picture.mask) * 255).astype(np.uint8)
        assert np.array_equal(erased[picture.mask < 0.5], levels[picture.mask < 0.5])
        apart = np.abs(erased.astype(int) - expected)
        assert apart.max() <= 1 and (apart > 0).mean() < 0.001


def test_a_mask_of_any_other_value_than_0_erases_and_its_tensor_says_so(exported, pictures) -> None:
    path = exported("tflite", "fp32", flavour="cpu")
    names = [tensor.name for tensor in Graph(path).graph.tensors]
    assert names.count(b"mask_where_1_is_erased") == 1
    model = load_model(path, 1, None)
    image, mask = np.rint(pictures[0].image * 255).astype(np.uint8)[None], pictures[0].mask.astype(np.uint8)[None, ..., None]
    given = [{3: image, 1: mask}, {3: image, 1: mask * 255}]
    one, other = (model([values[port.channels] for port in model.inputs])[0] for values in given)
    assert np.array_equal(one, other) and not np.array_equal(one, image)


def test_the_layout_forces_few_transpositions(exported) -> None:
    """Around the warp: rows are gathered from a table of pixels, and weighted in planes."""
    operators = read_card(exported("tflite", "separable", "auto", True))["checked"]["operators"]
    assert operators["TRANSPOSE"] <= 8 and "MIRROR_PAD" not in operators and "BROADCAST_TO" not in operators


def test_only_what_is_painted_comes_out_when_compositing_is_off(runs, exported, pictures, tmp_path) -> None:
    whole = Artifact(exported("tflite", "small", "fp16", True), threads=1)
    format = TFLite("fp16", flavour="web", output="refined", edges_input=True)
    card = convert.export(runs["small"], tmp_path, format, name="painted")
    painted = Artifact(tmp_path / card["file"], threads=1)
    picture = pictures[0]
    one, other = (file.run(picture.image, picture.mask) for file in (whole, painted))
    hole = picture.mask > 0.5
    assert np.array_equal(one[hole], other[hole]) and not np.array_equal(one[~hole], other[~hole])


def test_a_file_takes_a_batch_and_its_pictures_do_not_change_one_another(runs, pictures, tmp_path) -> None:
    card = convert.export(runs["small"], tmp_path, TFLite(flavour="web", edges_input=True, batch=2))
    assert card["file"] == "small-edges-batch2-web.tflite" and {port["shape"][0] for port in card["inputs"]} == {2}
    assert card["checked"]["operators"]["GATHER"] == 8
    file = Artifact(tmp_path / card["file"], threads=1)
    images, masks = (np.stack([getattr(picture, name) for picture in pictures[:3]]) for name in ("image", "mask"))
    for picture, painted in zip(pictures[:3], file.run(images, masks), strict=True):  # three pictures, two at a time
        truth = gate.Reference(checkpoint.load(runs["small"]), edges_input=True)(picture).image
        assert np.abs(painted - truth).max() < 1e-4
        assert np.array_equal(painted, file.run(picture.image, picture.mask))


def test_images_of_coreml_are_one_picture(runs, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"--batch 2.*use --tensors"):
        convert.export(runs["small"], tmp_path, CoreML(batch=2))


def test_a_scale_that_is_not_the_checkpoints_is_refused(exported, runs) -> None:
    pipeline = checkpoint.load(runs["int8"])
    path = exported("tflite", "int8", "auto", True)
    assert TFLite("int8", edges_input=True).check(path, pipeline)["scales"] == len(list(quant.quantized_tensors(pipeline)))
    name, scale, _ = next(t for t in quant.quantized_tensors(pipeline) if t[0].startswith("refine.down.0.conv1"))
    scale.data *= 1 + 1e-5
    with pytest.raises(GateFailed, match=name.replace(".", r"\.")):
        TFLite("int8", edges_input=True).check(path, pipeline)


def test_rounding_biases_is_done_once_and_changes_little(runs, pictures) -> None:
    pipeline = checkpoint.load(runs["int8"])
    before = [gate.Reference(pipeline)(picture).image for picture in pictures[:2]]
    quant.round_biases(pipeline, *tensors(pictures[:1]))
    first = {k: v.clone() for k, v in pipeline.state_dict().items()}
    assert any(not torch.equal(v, dict(checkpoint.load(runs["int8"]).state_dict())[k]) for k, v in first.items())
    after = [gate.Reference(pipeline)(picture).image for picture in pictures[:2]]
    assert max(float(np.abs(a - b).max()) for a, b in zip(before, after, strict=True)) < 0.2
    quant.round_biases(pipeline, *tensors(pictures[:1]))
    assert all(torch.allclose(v, first[k], rtol=1e-6, atol=0) for k, v in pipeline.state_dict().items())


# --- refused --------------------------------------------------------------------------------------------------------


WARP = onnx.warp_any_size


def swapped(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    return WARP(image, flow.flip(1))


def corners_off(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Half a pixel off, as grid_sample reads coordinates with align_corners=False."""
    return WARP(image, flow - 0.5)


@pytest.mark.parametrize("broken", [swapped, corners_off])
def test_a_broken_warp_is_refused_and_nothing_published(broken, runs, tmp_path, run_script, monkeypatch, capsys) -> None:
    """In ONNX, which converts fastest; the gate is the same for every kind."""
    monkeypatch.setattr(onnx, "warp_any_size", broken)
    assert run_script("export/to_onnx.py", runs["small"], tmp_path, "--edges-input") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "gate failed" in said and "astronaut-0" in said and "dB" in said and "max abs <= 0.0001" in said
    assert list(tmp_path.iterdir()) == []


def test_a_warp_of_another_form_is_refused(runs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        onnx,
        "warp_any_size",
        lambda image, flow: nn.functional.grid_sample(
            image, flow.permute(0, 2, 3, 1), padding_mode="border", align_corners=False
        ),
    )
    with pytest.raises(GateFailed, match="align_corners"):
        convert.export(runs["small"], tmp_path, ONNX(edges_input=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind, said", [("FLOAT16", "computed from a FLOAT16"), ("GATHER_ND", "GATHER_ND")])
def test_a_file_whose_warp_is_not_float_rows_is_refused(kind, said, exported, runs, tmp_path) -> None:
    """A good file, doctored: its coordinates in half precision, or another operator in the look-ups' place."""
    graph = Graph(exported("tflite", "fp32"))
    if kind == "FLOAT16":
        floor = graph.ops("FLOOR")[0]
        graph.graph.tensors[int(floor.inputs[0])].type = graph.schema.TensorType.FLOAT16
    else:
        code = graph.model.operatorCodes[graph.ops("GATHER")[0].opcodeIndex]
        code.builtinCode = code.deprecatedBuiltinCode = graph.schema.BuiltinOperator.GATHER_ND
    graph.write(tmp_path / "doctored.tflite")
    with pytest.raises(GateFailed, match=said):
        TFLite("fp32").check(tmp_path / "doctored.tflite", checkpoint.load(runs["fp32"]))


def test_a_looser_gate_passes_only_with_a_reason_which_the_card_keeps(
    runs, tmp_path, run_script, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(onnx, "warp_any_size", lambda image, flow: WARP(image, flow + 0.002))
    arguments = ["export/to_onnx.py", runs["small"], tmp_path, "--edges-input", "--gate", 0.5]
    assert run_script(*arguments) == 2
    assert "give a reason" in capsys.readouterr().err
    assert run_script(*arguments, "--reason", "a test of the gate") == 0
    parity = read_card(tmp_path / "small-edges.onnx")["parity"]
    assert parity["looser_because"] == "a test of the gate" and 1e-4 < parity["max_abs_hole"] <= 0.5


@pytest.mark.parametrize("script", ["to_tflite", "to_onnx", "to_coreml"])
def test_what_is_not_a_checkpoint_is_one_line_and_exit_code_2(script, run_script, tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert run_script(f"export/{script}.py", tmp_path / "empty", tmp_path / "exports") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "config.json" in said[0] and "train/train.py" in said[0]
    assert not (tmp_path / "exports").exists()


def test_an_existing_file_is_kept_without_overwrite(exported, runs, run_script, capsys) -> None:
    path = exported("onnx", "small", "auto", True)
    capsys.readouterr()
    before = sha256_of(path)
    assert run_script("export/to_onnx.py", runs["small"], path.parent, "--edges-input") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and str(path) in said[0] and "--overwrite" in said[0]
    assert sha256_of(path) == before
    assert run_script("export/to_onnx.py", runs["small"], path.parent, "--edges-input", "--overwrite") == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["files"][0]["file"] == path.name
    read_card(path)


@pytest.mark.parametrize("run, precision, said", [("fp32", "int8", "quantize.py"), ("int8", "fp16", "is quantized")])
def test_a_precision_the_folder_does_not_have_is_refused(run, precision, said, runs, tmp_path, run_script, capsys) -> None:
    assert run_script("export/to_tflite.py", runs[run], tmp_path, "--precision", precision) == 2
    assert said in capsys.readouterr().err


def test_converters_are_quiet_until_they_fail(capfd) -> None:
    with publishing.quiet():
        print("noise")
        os.write(2, b"noise from C\n")
    assert "noise" not in "".join(capfd.readouterr())
    with pytest.raises(RuntimeError), publishing.quiet():
        print("what went wrong")
        raise RuntimeError
    assert "what went wrong" in capfd.readouterr().err


# --- stopped, refused, no room --------------------------------------------------------------------------------------

SCRIPTS = {"tflite": "to_tflite", "onnx": "to_onnx", "coreml": "to_coreml"}


def command(kind: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "export" / f"{SCRIPTS[kind]}.py"), *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, number",
    [("onnx", signal.SIGINT), ("coreml", signal.SIGTERM), ("tflite", signal.SIGINT), ("tflite", signal.SIGTERM)],
)
def test_an_export_that_is_stopped_leaves_nothing_and_an_old_file_whole(kind, number, runs, tmp_path) -> None:
    """A running one, stopped while it converts; a file of the name stands there already."""
    target = tmp_path / "exports"
    target.mkdir()
    suffix = {"tflite": "-edges.tflite", "onnx": "-edges.onnx", "coreml": "-edges.mlpackage"}[kind]
    old = target / f"small{suffix}"
    old.write_text("an old file")
    card_path(old).write_text("its card")
    arguments = command(kind, runs["small"], target, "--edges-input", "--overwrite")
    running = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=tmp_path)
    assert running.stderr is not None
    said = b""
    while b"converting" not in said:
        said += (piece := os.read(running.stderr.fileno(), 1 << 16))
        assert piece, said
    time.sleep(1.0)
    assert any(".partial" in path.name for path in target.iterdir())
    running.send_signal(number)
    out, rest = running.communicate(timeout=120)
    assert running.returncode == (130 if number == signal.SIGINT else 143), rest.decode()
    last = rest.decode().strip().splitlines()
    assert (
        "stopped; everything that this run published" in last[-1] and len(last) <= 2 and "Traceback" not in rest.decode()
    ), rest
    assert out == b"" and {path.name for path in target.iterdir()} == {old.name, f"{old.name}.json"}
    assert old.read_text() == "an old file" and card_path(old).read_text() == "its card"


def in_a_mount(options: str, folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run with a file system of its own at `folder`, which no other process sees; skips visibly where there may be none."""
    inside = f'mount -t tmpfs -o {options} tmpfs "$0" || exit 99; "$@"; code=$?; echo "left: $(ls -A "$0")"; exit $code'
    space = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c"]
    try:
        subprocess.run([*space, inside, str(folder), "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if os.environ.get("FACEERASER_NO_SKIP") == "1":
            raise
        pytest.skip(f"a mount of one's own is not to be had here: {error}")
    done = [*space, inside, str(folder), *arguments]
    return subprocess.run(done, capture_output=True, text=True, env=environment(), check=False, cwd=ROOT)


@pytest.mark.parametrize("kind", SCRIPTS)
def test_too_little_room_is_told_before_anything_is_done(kind, runs, tmp_path) -> None:
    done = in_a_mount("size=128k", tmp_path, command(kind, runs["small"], tmp_path / "exports", "--edges-input"))
    said = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(said) == 1 and "no space left, 0.1 MB are free" in said[0], done.stderr
    assert done.stdout.splitlines()[-1] == "left: "


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "coreml"])
def test_space_that_runs_out_while_writing_is_one_line_and_leaves_nothing(kind, runs, tmp_path) -> None:
    """As when somebody else fills the disk: what was asked for beforehand was there."""
    arguments = command(kind, runs["small"], tmp_path / "exports", "--edges-input")
    late = "import runpy, sys; from faceeraser.conversion import convert; convert._needs = lambda pipeline: 0; "
    late += "del sys.argv[0]; "
    arguments = [arguments[0], "-c", late + "runpy.run_path(sys.argv[0], run_name='__main__')", *arguments[1:]]
    done = in_a_mount("size=256k", tmp_path, arguments)
    said = done.stderr.strip().splitlines()
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "no space left, nothing was published" in said[-1] and len(said) <= 3, done.stderr
    assert done.stdout.splitlines()[-1] == "left: "


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_folder_that_cannot_be_written_in_is_refused_before_anything_is_done(kind, runs, tmp_path) -> None:
    done = in_a_mount("ro", tmp_path, command(kind, runs["small"], tmp_path, "--edges-input"))
    said = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(said) == 1 and "is not writable" in said[0], done.stderr


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_target_that_is_a_file_is_refused(kind, runs, run_script, tmp_path, capsys) -> None:
    (tmp_path / "exports").write_text("mine")
    for target in (tmp_path / "exports", tmp_path / "exports" / "below"):
        assert run_script(f"export/{SCRIPTS[kind]}.py", runs["small"], target) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and "is a file; expected a folder" in said[0]
    assert (tmp_path / "exports").read_text() == "mine"


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_training_that_has_not_ended_is_refused(kind, runs, run_script, tmp_path, capsys) -> None:
    partial = tmp_path / "fp32.partial"
    partial.symlink_to(runs["small"], target_is_directory=True)
    assert run_script(f"export/{SCRIPTS[kind]}.py", partial, tmp_path / "exports") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "has not finished" in said[0] and "--resume" in said[0] and not (tmp_path / "exports").exists()
    edge = saved(checkpoint.load(runs["small"]), tmp_path / "edge")
    history = json.loads((edge / "history.json").read_text())
    history[-1]["stage"] = "train-edge"
    (edge / "history.json").write_text(json.dumps(history))
    assert run_script(f"export/{SCRIPTS[kind]}.py", edge, tmp_path / "exports") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "--phase inpaint" in said[0] and not (tmp_path / "exports").exists()


@pytest.mark.parametrize("kind, word", [("onnx", "fp16"), ("tflite", "palette4"), ("coreml", "fp32")])
def test_a_precision_of_another_format_is_refused(kind, word, runs, run_script, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        run_script(f"export/{SCRIPTS[kind]}.py", runs["small"], tmp_path / "exports", "--precision", word)
    assert stop.value.code == 2 and f"invalid choice: '{word}'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=f"{word} is not a precision for {kind}"):
        convert.export(runs["small"], tmp_path / "exports", convert.FORMATS[kind](word))
    assert not (tmp_path / "exports").exists()


def test_an_old_file_comes_back_when_the_new_one_cannot_be_put_in_its_place(tmp_path, monkeypatch) -> None:
    path, staged = tmp_path / "m.onnx", tmp_path / "partial" / "m.onnx"
    staged.parent.mkdir()
    for folder, word in ((tmp_path, "old"), (staged.parent, "new")):
        (folder / "m.onnx").write_text(word)
        (folder / "m.onnx.json").write_text(f"{word} card")
    replace_ = Path.replace

    def full(self: Path, target: Path) -> Path:
        if self == staged:
            raise OSError(28, "No space left on device")
        return replace_(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError):
        publishing.publish(staged, path)
    assert path.read_text() == "old" and card_path(path).read_text() == "old card"
    monkeypatch.setattr(Path, "replace", replace_)
    (staged.parent / "before").rmdir()
    publishing.publish(staged, path)
    assert path.read_text() == "new" and card_path(path).read_text() == "new card"


# --- ONNX of any size -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (320, 192), (128, 384), (512, 512), (1280, 768)])
@pytest.mark.parametrize("multiple", [32, 64])
def test_forms_without_a_size_are_the_networks_own(size, multiple) -> None:
    """Bit by bit for the fill, whose depth hangs on the size; to rounding for the warp, which divides by one."""
    generator = torch.Generator().manual_seed(size[0])
    picture = torch.rand(1, 3, *size, generator=generator)
    keep = torch.ones_like(picture)
    keep[:, :, : size[0] // 2 + 29, :-20] = 0  # so large that whole coarse cells see nothing
    for computed, own in zip(
        onnx.fill_any_size(multiple)(picture * keep, keep), networks.fill_hole(picture * keep, keep), strict=True
    ):
        assert torch.equal(computed, own)
    flow = torch.randn(1, 2, *size, generator=generator) * 40
    assert torch.allclose(onnx.warp_any_size(picture, flow), warp(picture, flow), atol=2e-5)
    offsets = torch.rand(1, 2, *size, generator=generator) * 2 - 1
    assert torch.equal(onnx.flow_any_size(offsets), offsets_to_flow(offsets))


@pytest.mark.parametrize("size", [(256, 256), (320, 192), (512, 512)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("run", ["fp32", "int8"])
def test_an_onnx_file_erases_at_any_size_what_its_network_erases_there(run, size, exported, runs) -> None:
    file, pipeline = Artifact(exported("onnx", run), threads=1), checkpoint.load(runs[run])
    assert file.resolution == (None, None)
    picture = gate.cut(gate.gate_pictures(max(size))[4:5], *size)[0]
    hole = picture.mask > 0.5
    assert hole.any()
    truth, erased = gate.Reference(pipeline)(picture).image, file.run(picture.image, picture.mask)
    assert erased.shape == (*size, 3) and np.array_equal(erased[~hole], picture.image[~hole])
    error = (erased - truth)[hole]
    assert np.abs(error).max() < 1e-4 if run == "fp32" else -10 * np.log10(np.mean(error**2)) > 45
    noise = np.random.default_rng(0).random(picture.image.shape, np.float32)
    assert np.array_equal(erased, file.run(np.where(hole[..., None], noise, picture.image), picture.mask))


def test_an_onnx_file_says_which_sizes_it_takes_and_refuses_others(exported) -> None:
    file = Artifact(exported("onnx", "fp32"), threads=1)
    assert file.card["sizes"] == {"multiple_of": 64, "min": 64, "max": 2048}
    assert [port["shape"][2:] for port in file.card["inputs"]] == [[None, None]] * 2
    compared = [(at["height"], at["width"], at["passed"]) for at in file.card["parity_at"]]
    assert compared == [(320, 192, True), (512, 512, True)]
    for height, width in ((100, 64), (64, 2112), (0, 64)):
        with pytest.raises(ValueError, match="multiples of 64 from 64 to 2048"):
            file.run(np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32))
    paper = read_card(exported("onnx", "paper", "auto", True))
    assert paper["sizes"]["multiple_of"] == 32 and all(at["passed"] for at in paper["parity_at"])


def test_an_onnx_file_is_multiplied_in_whole_on_every_cpu(exported) -> None:
    """uint8 by int8 overflows in ONNX Runtime's kernel for AVX2 without VNNI; uint8 by uint8 does not."""
    import onnx as package

    graph = package.load(str(exported("onnx", "int8"))).graph
    kinds = {t.name: t.data_type for t in graph.initializer}
    zeros = [kinds[node.input[2]] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(zeros) > 50 and set(zeros) == {package.TensorProto.UINT8}
    assert package.TensorProto.INT8 not in kinds.values()


def test_an_onnx_file_is_simplified_and_says_what_erases(exported) -> None:
    import onnx as package

    graph = package.load(str(exported("onnx", "fp32"))).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert not {"Constant", "Identity", "Reshape"} & set(kinds) and len(graph.node) < 1000
    assert {port.name: port.doc_string for port in graph.input}["mask"] == "1 = erase, 0 = keep"
    assert max(side for t in graph.initializer for side in (*t.dims, 0)) < 1024  # no grid of the size it was traced at


OLDER = ROOT / ".cache" / "device" / "trixie" / "usr" / "bin" / "qemu-x86_64"
PAINT = """
import sys
import numpy as np
from faceeraser.artifacts.artifact import Artifact
given = np.load(sys.argv[2])
file = Artifact(sys.argv[1], threads=1)
np.save(sys.argv[3], np.stack([file.run(*pair) for pair in zip(given["images"], given["masks"])]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_cpu_without_vnni_paints_the_same(kind, exported, pictures, tmp_path) -> None:
    """A whole process on an emulated Haswell, which has AVX2 and nothing after it. ONNX Runtime's products of uint8 and int8
    overflow there: 38 to 58 dB instead of 55 to 70."""
    if not OLDER.is_file():
        if os.environ.get("FACEERASER_NO_SKIP") == "1":
            pytest.fail(f"no {OLDER}; bash tests/fetch_device_tools.sh brings it")
        pytest.skip("no qemu-x86_64; bash tests/fetch_device_tools.sh brings it")
    path, few = exported(kind, "int8", "auto", kind == "tflite"), pictures[:3]
    given, painted = tmp_path / "given.npz", tmp_path / "made.npy"
    np.savez(given, images=np.stack([p.image for p in few]), masks=np.stack([p.mask for p in few]))
    python = Path(sys.executable).resolve()
    places = os.pathsep.join([str(ROOT), *(place for place in sys.path if place.endswith("-packages"))])
    # Tensorflow and torch are not asked for, and OpenBLAS must choose for the CPU that it sees.
    around = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": places}
    arguments = [OLDER, "-cpu", "Haswell", python, "-c", PAINT, path, given, painted]
    done = subprocess.run(list(map(str, arguments)), env=around, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    file = Artifact(path, threads=1)
    for picture, there in zip(few, np.load(painted), strict=True):
        error = (there - file.run(picture.image, picture.mask))[picture.mask > 0.5]
        assert -10 * np.log10(np.mean(error**2) + 1e-20) > 80


def test_an_onnx_file_that_is_wrong_at_another_size_alone_is_refused(runs, tmp_path, monkeypatch) -> None:
    """A fill without its coarsest levels: right at 64 x 64, where the network has none of them either."""
    whole = onnx.fill_any_size

    def shallow(multiple: int):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnx, "LARGEST", SIZE)
            return whole(multiple)

    monkeypatch.setattr(onnx, "fill_any_size", shallow)
    with pytest.raises(GateFailed, match="at 512 x 512"):
        convert.export(runs["small8"], tmp_path, ONNX(edges_input=True))
    assert list(tmp_path.iterdir()) == []


# --- CoreML ---------------------------------------------------------------------------------------------------------


COREML = [  # folder, precision, float tensors in the place of images
    ("small", "fp16", False),
    ("small", "int8", True),
    ("small", "palette6", True),
    ("small", "palette4", False),
    ("small8", "fp16", True),
    ("small8", "int8", False),
    ("small8", "int8-activations", False),
    ("small8", "int8-activations-fp16", True),
]


@pytest.fixture(scope="module")
def packaged(tmp_path_factory, runs):
    """`packaged(run, precision, tensors)` -> path of a package that passed its gate; each made once."""
    folder = tmp_path_factory.mktemp("packages")
    packages: dict[tuple, Path] = {}

    def export(run: str, precision: str, tensors: bool) -> Path:
        key = (run, precision, tensors)
        if key not in packages:
            card = convert.export(runs[run], folder, CoreML(precision, edges_input=True, tensors=tensors))
            packages[key] = folder / card["file"]
        return packages[key]

    return export


@pytest.mark.parametrize("form", COREML, ids=lambda f: "-".join(map(str, f)))
def test_a_saved_package_computes_what_its_network_erases(form, packaged, runs, pictures) -> None:
    """Here, from the file alone, by mil_program.py: weights as tables, scales, types, and the 0..255 of images."""
    run, precision, as_tensors = form
    path = packaged(*form)
    card, evaluate = read_card(path), coreml.evaluator(path)
    CARD.validate(card)
    assert card["precision"] == precision and card["evaluated_parity"]["passed"] and card["evaluated_parity"]["n"] >= 16
    if sys.platform != "darwin":
        assert card["parity"]["passed"] is None and any("never ran it" in note for note in card["notes"])
    network = coreml.as_written(checkpoint.load(runs[run]), precision)
    image, mask = tensors(pictures[:3])
    edge = (torch.rand(mask.shape, generator=torch.Generator().manual_seed(0)) > 0.9).float() * (1 - mask)
    least = {"palette6": 35, "palette4": 25}.get(precision, 48)
    for k in range(len(image)):
        given = {"image": image[k : k + 1], "mask": mask[k : k + 1], "edges": edge[k : k + 1]}
        erased, hole = evaluate(given)["erased"], given["mask"].expand(-1, 3, -1, -1) > 0.5
        with torch.no_grad():
            truth = network(*given.values())["erased"]
        assert -10 * math.log10(float((erased - truth)[hole].square().mean()) + 1e-20) > least
        assert torch.equal(erased[~hole], given["image"][~hole])
        if not as_tensors:
            assert torch.equal((erased * 255).round() / 255, erased)


@pytest.mark.parametrize("form", COREML, ids=lambda f: "-".join(map(str, f)))
def test_a_package_says_what_it_takes(form, packaged, runs) -> None:
    from coremltools.models import MLModel

    path = packaged(*form)
    description = MLModel(str(path), skip_model_load=True).get_spec().description
    ports = {port.name: port for port in (*description.input, *description.output)}
    card = read_card(path)
    listed = {port["name"]: port for port in (*card["inputs"], *card["outputs"])}
    assert set(ports) == set(listed) == {"image", "mask", "edges", "erased"}
    for name, port in ports.items():
        assert port.shortDescription == listed[name]["meaning"]
        if form[2]:
            assert list(port.type.multiArrayType.shape) == listed[name]["shape"] == [1, listed[name]["shape"][1], SIZE, SIZE]
            assert listed[name]["dtype"] == "float32"
        else:
            image = port.type.imageType
            colour = image.RGB if name in ("image", "erased") else image.GRAYSCALE
            assert (image.width, image.height, image.colorSpace) == (SIZE, SIZE, colour)
            assert listed[name]["dtype"] == "uint8" and listed[name]["quantization"]["scale"] == pytest.approx(1 / 255)
    assert "erase" in listed["mask"]["meaning"] and ("1 = erase" if form[2] else "white") in listed["mask"]["meaning"]


def test_weights_are_packed_and_take_as_little_as_they_say(packaged) -> None:
    sizes = {}
    for run, precision, as_tensors in COREML[:4]:
        layers = contents.listing(packaged(run, precision, as_tensors))["layers"]
        flow = [layer for layer in layers if layer["layer"] == "clone.head.conv"]
        assert len(flow) == 1 and flow[0]["stored"] == "float32"
        sizes[precision] = sum(layer["bytes"] for layer in layers if layer not in flow)
    assert 0.5 < sizes["int8"] / sizes["fp16"] < 0.56
    assert 0.375 < sizes["palette6"] / sizes["fp16"] < 0.48 and 0.25 < sizes["palette4"] / sizes["fp16"] < 0.28


def test_learnt_scales_are_in_the_package_and_others_are_refused(packaged, runs) -> None:
    """Counted here from the saved program, not by the exporter's check; then a checkpoint of other scales."""
    path, pipeline = packaged("small8", "int8-activations", False), checkpoint.load(runs["small8"])
    block = mil_program.Program(path).operators
    stored = [
        np.atleast_1d(op.inputs["scale"].val).astype(np.float64)
        for op in block
        if op.op_type in ("quantize", "dequantize", "constexpr_affine_dequantize")
    ]
    learnt = list(quant.quantized_tensors(pipeline))
    for name, scale, _ in learnt:
        value = np.atleast_1d(scale.detach().double().numpy())
        assert any(len(s) == len(value) and np.allclose(s, value, rtol=1e-6, atol=0) for s in stored), name
    assert CoreML("int8-activations").check(path, pipeline)["scales"] == len(learnt)
    for kind in ("refine.down.0.conv1:out", "refine.down.0.conv1.conv:weight"):
        other = checkpoint.load(runs["small8"])
        scale = next(s for name, s, _ in quant.quantized_tensors(other) if name == kind)
        scale.data *= 1 + 1e-5
        with pytest.raises(GateFailed, match=kind.replace(".", r"\.")):
            CoreML("int8-activations").check(path, other)


def test_float16_has_the_scales_as_float16_rounds_them(packaged, runs) -> None:
    path, pipeline = packaged("small8", "int8-activations-fp16", True), checkpoint.load(runs["small8"])
    assert CoreML("int8-activations-fp16").check(path, pipeline)["scales"] == len(list(quant.quantized_tensors(pipeline)))
    with pytest.raises(GateFailed, match="is not in the file"):
        CoreML("int8-activations").check(path, pipeline)
    scale = next(s for name, s, _ in quant.quantized_tensors(pipeline) if name == "refine.down.0.conv1:out")
    scale.data *= 1.002
    with pytest.raises(GateFailed, match=r"refine\.down\.0\.conv1:out"):
        CoreML("int8-activations-fp16").check(path, pipeline)


def test_a_package_whose_grid_of_pixels_is_packed_is_refused(packaged, runs, tmp_path) -> None:
    """What coremltools does unless told otherwise: the columns and rows that the flow is added to, in steps of pixels."""
    import coremltools.optimize.coreml as optimize
    from coremltools.models import MLModel

    linear = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
    model = MLModel(str(packaged("small8", "fp16", True)), skip_model_load=True)
    packed = optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=linear))
    packed.save(str(tmp_path / "packed.mlpackage"))
    with pytest.raises(GateFailed, match=r"is packed, and is not|convolutions are"):
        CoreML("int8").check(tmp_path / "packed.mlpackage", checkpoint.load(runs["small"]))


def test_int8_activations_need_a_quantized_folder(runs, run_script, tmp_path, capsys) -> None:
    assert run_script("export/to_coreml.py", runs["small"], tmp_path, "--precision", "int8-activations") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "quantize.py" in said[0] and not list(tmp_path.iterdir())


def test_a_missing_scikit_learn_is_named_before_minutes_of_conversion(runs, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"sklearn is not installed.*: pip install 'faceeraser\[coreml\]'"):
        CoreML("palette4", edges_input=True).write(checkpoint.load(runs["small"]), tmp_path / "m.mlpackage")


def test_coreml_refuses_a_warp_in_half_precision(runs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(coreml._HalfInside, "__call__", lambda self, op: True)
    with pytest.raises(GateFailed, match="float16"):
        convert.export(runs["small"], tmp_path, CoreML(edges_input=True))
    assert list(tmp_path.iterdir()) == []

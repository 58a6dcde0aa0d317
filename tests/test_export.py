"""Exported files against the checkpoints they were made from: parity, scales, warp, leaks, cards, and gates that refuse.

The networks are small and untrained, but their heads are not: the flow moves pixels by a dozen and more, some of them out
of the picture, so a warp that is wrong anywhere shows.
"""

import json
import math
import os
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from faceeraser import artifact, checkpoint, convert, coreml, edges, networks, onnx, quant, tflite
from faceeraser.artifact import Artifact
from faceeraser.flatbuffer import Graph
from faceeraser.networks import Config, FaceEraser
from faceeraser.stage import GateFailed
from faceeraser.warp import sampling_coordinates, warp

SIZE = 64


@pytest.fixture(scope="module", autouse=True)
def short_canny():
    """Four steps of edge tracking, not 48: conversion takes as long as the graph has operators."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "canny_tensor", partial(edges.canny_tensor, hysteresis_steps=4))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # for pictures this small, a second thread only waits
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pictures() -> list[convert.Picture]:
    return convert.gate_pictures(SIZE)


def tensors(pictures: list[convert.Picture]) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.stack([torch.from_numpy(p.image).permute(2, 0, 1) for p in pictures])
    return image, torch.stack([torch.from_numpy(p.mask)[None] for p in pictures])


def network(pictures: list[convert.Picture], preset: str = "mobile", small: bool = False, **config) -> FaceEraser:
    """A pipeline with statistics in its norms and a flow of a dozen pixels and more; `small` has few operators."""
    torch.manual_seed(0)
    blocks = {"edge": 0, "clone": 0} if small else {"edge": 1, "clone": 1}
    variant = "auto_encoder" if small else "unet_attention"
    pipeline = FaceEraser(Config.of(preset, resolution=SIZE, blocks=blocks, variant=variant, **config), width=4)
    nn.init.normal_(pipeline.clone.head.conv.weight, std=0.02)
    assert pipeline.clone.head.conv.bias is not None
    pipeline.clone.head.conv.bias.data = torch.tensor([-0.45, 0.6])
    if pipeline.config.residual:
        nn.init.normal_(pipeline.refine.head.conv.weight, std=0.005)
    with torch.no_grad():
        pipeline.train()
        for _ in range(3):
            pipeline(*tensors(pictures))
    return pipeline.eval()


def quantized(pipeline: FaceEraser, pictures: list[convert.Picture]) -> FaceEraser:
    quant.fuse(pipeline)
    quant.prepare(pipeline, pipeline.config.float_layers)
    pipeline.config = replace(pipeline.config, fused=True, quantized=True)
    quant.set_calibrating(pipeline, True)
    with torch.no_grad():
        pipeline(*tensors(pictures))
    quant.set_calibrating(pipeline, False)
    return pipeline


def saved(pipeline: FaceEraser, folder: Path) -> Path:
    with checkpoint.writing(folder) as partly:
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
            quantized(network(pictures, separable=True, float_layers=("clone.head", "clone.up.1")), pictures),
            folder / "separable",
        ),
        "paper": saved(network(pictures, "paper"), folder / "paper"),
        "small": saved(network(pictures, small=True), folder / "small"),
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory, runs):
    """`exported(kind, run, precision, edges_input, flavour)` -> path of a file that passed its gate; each made once."""
    folder = tmp_path_factory.mktemp("exports")
    made: dict[tuple, Path] = {}

    def export(kind: str, run: str, precision: str = "auto", edges_input: bool = False, flavour: str = "web") -> Path:
        key = (kind, run, precision, edges_input, flavour)
        if key not in made:
            card = convert.export(runs[run], folder, kind, precision, edges_input=edges_input, flavour=flavour)
            made[key] = folder / card["file"]
        return made[key]

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
    gate = convert.Gate.of(precision)
    assert (gate.max_abs if precision == "fp32" else gate.psnr) == bound
    looser = bound * (2 if precision == "fp32" else 0.9)
    with pytest.raises(ValueError, match="say why"):
        convert.Gate.of(precision, looser)
    assert convert.Gate.of(precision, looser, "because").reason == "because"
    tighter = bound * (0.5 if precision == "fp32" else 1.1)
    assert convert.Gate.of(precision, tighter).reason is None
    assert not gate.passes(math.nan, math.nan)


def test_parity_reports_the_worst_picture_and_refuses_it(pictures) -> None:
    expected = [p.image for p in pictures]

    def run(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        off = 0.01 * mask[..., None] if np.array_equal(image, pictures[3].image) else 0.0
        return np.where(mask[..., None] > 0.5, 0.0, image) + np.where(mask[..., None] > 0.5, image, 0.0) + off

    measured = convert.parity(run, pictures, expected, convert.Gate.of("int8"))
    assert not measured["passed"] and measured["worst_picture"] == pictures[3].name
    assert measured["psnr_hole_min"] == pytest.approx(40.0, abs=0.01) and measured["max_abs_hole"] == pytest.approx(0.01)
    # That runner also lets the hole through, which is said on its own.
    assert any("change the output" in f for f in measured["failures"])
    assert any(f.startswith(pictures[3].name) and "40.0 dB" in f for f in measured["failures"])


# --- files that pass ------------------------------------------------------------------------------------------------

FORMS = [  # kind, folder, precision, edges as an input
    ("tflite", "fp32", "auto", False),
    ("tflite", "small", "fp16", True),
    ("tflite", "int8", "auto", False),
    ("tflite", "separable", "auto", False),
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
    card = artifact.read_card(path)
    kind, run, precision, given = form
    assert card["kind"] == kind and card["edges"] == ("input" if given else "inside") and card["resolution"] == SIZE
    assert card["precision"] == (precision if precision != "auto" else "int8" if run in ("int8", "separable") else "fp32")
    assert card["parity"]["n"] >= 16 and card["parity"]["passed"] is True and "failures" not in card["parity"]
    assert card["history"] == checkpoint.history(runs[run])
    layout = "NHWC" if kind == "tflite" else "NCHW"
    assert {port["name"]: (port["layout"], port["dtype"]) for port in (*card["inputs"], *card["outputs"])} == {
        name: (layout, "float32") for name in ("image", "mask", "erased", *(["edges"] if given else []))
    }
    assert card["gmacs"] == pytest.approx(networks.count(checkpoint.load(runs[run]), SIZE)[0], rel=1e-6)
    assert card["params"] > 0 and card["bytes"] == path.stat().st_size


def test_exactly_file_and_card_are_published(exported) -> None:
    path = exported("tflite", "fp32")
    names = {p.name for p in path.parent.iterdir()}
    assert path.name == "fp32.tflite" and {"fp32.tflite", "fp32.tflite.json"} <= names
    assert exported("tflite", "small", "fp16", True).name == "small-fp16-edges.tflite"
    assert exported("onnx", "small", "auto", True).name == "small-edges.onnx"
    assert all(name.removesuffix(".json").endswith((".tflite", ".onnx", ".mlpackage")) for name in names)


def test_float16_is_in_the_weights_and_nowhere_else(exported) -> None:
    graph = Graph(exported("tflite", "small", "fp16", True))
    stored = Counter(graph.type(t) for t in range(len(graph.graph.tensors)) if graph.constant(t))
    assert stored["FLOAT16"] == len(graph.ops("CONV_2D")) == len(graph.ops("DEQUANTIZE"))
    assert "FLOAT16" not in {graph.type(t) for t in graph.maker}


def test_the_paper_preset_converts_as_it_is(exported) -> None:
    operators = artifact.read_card(exported("tflite", "paper", "auto", True))["checked"]["operators"]
    assert operators["TRANSPOSE_CONV"] == 4 and operators["MIRROR_PAD"] > 0
    operators = artifact.read_card(exported("onnx", "paper", "auto", True))["checked"]["operators"]
    assert operators["ConvTranspose"] == 4 and operators["GridSample"] == 1


# --- int8 -----------------------------------------------------------------------------------------------------------


def test_the_int8_file_has_the_learnt_scales_and_int8_convolutions(exported, runs) -> None:
    """Counted here from the file alone, not by the exporter's check."""
    graph = Graph(exported("tflite", "int8"))
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
    # Ways back to float are what the flow's head reads and the refined picture, never the warped picture or Canny's.
    for op in graph.ops("DEQUANTIZE"):
        maker = graph.maker[int(op.inputs[0])]
        assert graph.name(maker) != "QUANTIZE" or graph.type(int(maker.inputs[0])) == "INT8"


def test_what_is_edited_for_cpus_changes_no_bit(exported, pictures) -> None:
    """Heads that compute four pixels at once, and resizes by channels, against the graph as the converter leaves it."""
    edited, plain = exported("tflite", "int8"), exported("tflite", "int8", flavour="gpu")
    assert len(Graph(edited).ops("DEPTH_TO_SPACE")) == 3 + len(Graph(plain).ops("RESIZE_NEAREST_NEIGHBOR"))
    assert not Graph(edited).ops("RESIZE_NEAREST_NEIGHBOR") and not Graph(plain).ops("DEPTH_TO_SPACE")
    files = [Artifact(path, threads=1) for path in (edited, plain)]
    for picture in pictures[:3]:
        one, other = (file.run(picture.image, picture.mask) for file in files)
        assert np.array_equal(one, other)


@pytest.mark.parametrize("run", ["int8", "fp32"])
def test_eight_bits_in_and_out_are_the_float_file_rounded(run, exported, pictures) -> None:
    eight, real = (Artifact(exported("tflite", run, flavour=flavour), threads=1) for flavour in ("cpu", "web"))
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
    path = exported("tflite", "int8", flavour="cpu")
    names = [tensor.name for tensor in Graph(path).graph.tensors]
    assert names.count(b"mask_where_1_is_erased") == 1
    model = artifact._open(path, 1, None)
    image, mask = np.rint(pictures[0].image * 255).astype(np.uint8)[None], pictures[0].mask.astype(np.uint8)[None, ..., None]
    given = [{3: image, 1: mask}, {3: image, 1: mask * 255}]
    one, other = (model([values[port.channels] for port in model.inputs])[0] for values in given)
    assert np.array_equal(one, other) and not np.array_equal(one, image)


def test_the_layout_forces_few_transpositions(exported) -> None:
    """Around the warp: rows are gathered from a table of pixels, and weighted in planes."""
    operators = artifact.read_card(exported("tflite", "int8"))["checked"]["operators"]
    assert operators["TRANSPOSE"] <= 8 and "MIRROR_PAD" not in operators and "BROADCAST_TO" not in operators


def test_only_what_is_painted_comes_out_when_compositing_is_off(runs, exported, pictures, tmp_path) -> None:
    whole = Artifact(exported("tflite", "int8"), threads=1)
    card = convert.export(runs["int8"], tmp_path, "tflite", flavour="web", output="refined", name="painted")
    painted = Artifact(tmp_path / card["file"], threads=1)
    picture = pictures[0]
    one, other = (file.run(picture.image, picture.mask) for file in (whole, painted))
    hole = picture.mask > 0.5
    assert np.array_equal(one[hole], other[hole]) and not np.array_equal(one[~hole], other[~hole])


def test_a_scale_that_is_not_the_checkpoints_is_refused(exported, runs) -> None:
    pipeline = checkpoint.load(runs["int8"])
    path = exported("tflite", "int8")
    assert tflite.check(path, pipeline, "int8")["scales"] == len(list(quant.quantized_tensors(pipeline)))
    name, scale, _ = next(t for t in quant.quantized_tensors(pipeline) if t[0].startswith("refine.down.0.conv1"))
    scale.data *= 1 + 1e-5
    with pytest.raises(GateFailed, match=name.replace(".", r"\.")):
        tflite.check(path, pipeline, "int8")


def test_rounding_biases_is_done_once_and_changes_little(runs, pictures) -> None:
    pipeline = checkpoint.load(runs["int8"])
    before = convert.reference(pipeline, pictures[:2])
    quant.round_biases(pipeline, *tensors(pictures[:1]))
    first = {k: v.clone() for k, v in pipeline.state_dict().items()}
    assert any(not torch.equal(v, dict(checkpoint.load(runs["int8"]).state_dict())[k]) for k, v in first.items())
    after = convert.reference(pipeline, pictures[:2])
    assert max(float(np.abs(a - b).max()) for a, b in zip(before, after, strict=True)) < 0.2
    quant.round_biases(pipeline, *tensors(pictures[:1]))
    assert all(torch.allclose(v, first[k], rtol=1e-6, atol=0) for k, v in pipeline.state_dict().items())


# --- refused --------------------------------------------------------------------------------------------------------


def swapped(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    return warp(image, flow.flip(1))


def corners_off(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Coordinates as grid_sample reads them with align_corners=False: x -> x W / (W - 1) - 1 / 2."""
    x, y = sampling_coordinates(flow)
    off = torch.cat([x, y], 1) * (SIZE / (SIZE - 1)) - 0.5
    at = torch.cat([a.float().expand(1, 1, SIZE, SIZE) for a in _pixels()], 1)
    return warp(image, off - at)


def _pixels() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(SIZE).view(1, 1, 1, SIZE), torch.arange(SIZE).view(1, 1, SIZE, 1)


@pytest.mark.parametrize("broken", [swapped, corners_off])
def test_a_broken_warp_is_refused_and_nothing_published(broken, runs, tmp_path, stage, monkeypatch, capsys) -> None:
    """In ONNX, which converts fastest; the gate is the same for every kind."""
    monkeypatch.setattr(onnx, "warp_any_size", broken)
    assert stage("export/to_onnx.py", runs["small"], tmp_path, "--edges-input") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "gate failed" in said and "astronaut-0" in said and "dB" in said and "max abs <= 0.0001" in said
    assert list(tmp_path.iterdir()) == []


def test_a_warp_of_another_form_is_refused(runs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        onnx, "warp_any_size",
        lambda image, flow: nn.functional.grid_sample(
            image, flow.permute(0, 2, 3, 1), padding_mode="border", align_corners=False
        ),
    )  # fmt: skip
    with pytest.raises(GateFailed, match="align_corners"):
        convert.export(runs["small"], tmp_path, "onnx", edges_input=True)
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
        tflite.check(tmp_path / "doctored.tflite", checkpoint.load(runs["fp32"]), "fp32")


def test_a_looser_gate_passes_only_with_a_reason_which_the_card_keeps(runs, tmp_path, stage, monkeypatch, capsys) -> None:
    exact = onnx.warp_any_size
    monkeypatch.setattr(onnx, "warp_any_size", lambda image, flow: exact(image, flow + 0.01))
    words = ["export/to_onnx.py", runs["small"], tmp_path, "--edges-input", "--gate", 0.5]
    assert stage(*words) == 2
    assert "say why" in capsys.readouterr().err
    assert stage(*words, "--reason", "a test of the gate") == 0
    parity = artifact.read_card(tmp_path / "small-edges.onnx")["parity"]
    assert parity["looser_because"] == "a test of the gate" and 1e-4 < parity["max_abs_hole"] <= 0.5


@pytest.mark.parametrize("script", ["to_tflite", "to_onnx", "to_coreml"])
def test_what_is_not_a_checkpoint_is_one_line_and_exit_code_2(script, stage, tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert stage(f"export/{script}.py", tmp_path / "empty", tmp_path / "exports") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "config.json" in said[0] and "train/train.py" in said[0]
    assert not (tmp_path / "exports").exists()


def test_an_existing_file_is_kept_without_overwrite(exported, runs, stage, capsys) -> None:
    path = exported("onnx", "small", "auto", True)
    before = artifact.sha256_of(path)
    assert stage("export/to_onnx.py", runs["small"], path.parent, "--edges-input") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and str(path) in said[0] and "--overwrite" in said[0]
    assert artifact.sha256_of(path) == before
    assert stage("export/to_onnx.py", runs["small"], path.parent, "--edges-input", "--overwrite") == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["files"][0]["file"] == path.name
    artifact.read_card(path)


@pytest.mark.parametrize("run, precision, said", [("fp32", "int8", "quantize.py"), ("int8", "fp16", "is quantized")])
def test_a_precision_the_folder_does_not_have_is_refused(run, precision, said, runs, tmp_path, stage, capsys) -> None:
    assert stage("export/to_tflite.py", runs[run], tmp_path, "--precision", precision) == 2
    assert said in capsys.readouterr().err


def test_converters_are_quiet_until_they_fail(capfd) -> None:
    with convert._quiet():
        print("noise")
        os.write(2, b"noise from C\n")
    assert "noise" not in "".join(capfd.readouterr())
    with pytest.raises(RuntimeError), convert._quiet():
        print("what went wrong")
        raise RuntimeError
    assert "what went wrong" in capfd.readouterr().err


# --- CoreML ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run, precision", [("small", "int8"), ("int8", "auto")])
def test_coreml_is_checked_and_its_card_says_how_far(run, precision, exported) -> None:
    path = exported("coreml", run, precision, True)
    card = artifact.read_card(path)
    assert card["kind"] == "coreml" and card["precision"] == ("int8" if precision == "int8" else "fp16")
    assert {port["name"]: port["shape"][1] for port in card["inputs"]} == {"image": 3, "mask": 1, "edges": 1}
    assert card["checked"]["operators"]["resample"] == 1
    if card["parity"]["passed"] is None:  # anywhere but on macOS
        assert any("never run" in note for note in card["notes"])
        assert card["traced_parity"]["passed"] and card["traced_parity"]["n"] >= 16
    if precision == "int8":
        assert card["checked"]["int8_weights"] == sum(card["checked"]["operators"].get(k, 0) for k in ("conv",))
    else:
        assert any("quantized network" in note for note in card["notes"])


def test_coreml_refuses_a_warp_in_half_precision(runs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(coreml._HalfInside, "__call__", lambda self, op: True)
    with pytest.raises(GateFailed, match="float16"):
        convert.export(runs["small"], tmp_path, "coreml", edges_input=True)
    assert list(tmp_path.iterdir()) == []

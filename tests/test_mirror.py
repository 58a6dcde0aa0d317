"""benchmarks/mirror.py: that the mirror is the same network, and that one which is not does not count."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_benchmarks import call, last_line, script
from test_export import network, pictures, quantized, saved

from faceeraser.artifacts import edges
from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.conversion import formats
from faceeraser.model import networks, quant
from faceeraser.model.networks import FaceEraser
from faceeraser.system.script import GateFailed

__all__ = ["pictures"]  # a fixture
mirror = script("mirror")
STEPS = 4


@pytest.fixture(scope="module", autouse=True)
def short_canny():
    """Four steps of edge tracking in network and mirror: conversion takes as long as the graph has operators."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "canny_tensor", partial(edges.canny_tensor, hysteresis_steps=STEPS))
        patch.setattr(mirror, "HYSTERESIS_STEPS", STEPS)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipeline(pictures) -> FaceEraser:
    """Small, quantized, one more layer in float before the flow's head, and a flow of a dozen pixels."""
    int8 = quantized(network(pictures, float_layers=("clone.head", "clone.up.1")), pictures)
    quant.round_biases(int8, *formats.sample(int8.config.resolution, False, False).values())
    return int8


@pytest.fixture(scope="module")
def files(tmp_path_factory, pipeline) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mirrors")
    paths = {kernels: folder / f"{kernels}.tflite" for kernels in mirror.KERNELS}
    for kernels, path in paths.items():
        mirror.Mirror(pipeline, kernels).write(path)
    return paths


@pytest.mark.parametrize("kernels", mirror.KERNELS)
def test_without_quantization_the_mirror_is_the_network(pipeline, pictures, kernels: str) -> None:
    assert 0 < mirror.difference(pipeline, kernels, pictures[:3]) < 1e-4
    assert not any(m.bypassed for m in pipeline.modules() if isinstance(m, quant.QuantConv2d))


def test_another_network_is_seen(pipeline, pictures, monkeypatch) -> None:
    monkeypatch.setattr(mirror, "RESIDUAL_GAIN", 0.12)
    with pytest.raises(GateFailed, match="the mirror is a different network"):
        mirror.difference(pipeline, "plain", pictures[:2])


def test_the_mirror_s_file_counts_and_paints_what_the_network_paints(pipeline, pictures, files) -> None:
    expected = mirror.painted_by(pipeline, pictures)
    painted = {kernels: mirror.erased(path, pictures) for kernels, path in files.items()}
    for kernels, path in files.items():
        mirror.check(path, pipeline)
        near = mirror.psnr_of(painted[kernels], expected, pictures)
        assert np.median(near) > 40, near  # the gate of a file made by the exporter is 50, of the worst, at this size
        assert all(np.array_equal(a, b) for a, b in zip(painted["plain"], painted[kernels], strict=True)), kernels
    shapes = {k: sorted(Graph(p).shape(int(op.inputs[1])) for op in Graph(p).ops("CONV_2D")) for k, p in files.items()}
    assert shapes["plain"] != shapes["phone"] != shapes["amx"]


def test_a_mirror_of_other_scales_does_not_count(pipeline, files) -> None:
    tap = pipeline.refine.stem.out
    held = tap.scale.data.clone()
    try:
        tap.scale.data = held * 1.001
        with pytest.raises(GateFailed, match=r"an activation's scale .* is not in its file"):
            mirror.check(files["plain"], pipeline)
    finally:
        tap.scale.data = held
    conv = pipeline.edge.stem.conv
    held = conv.weight_scale.data.clone()
    try:
        conv.weight_scale.data = held * 1.001
        with pytest.raises(GateFailed, match=r"no weights have the scales of edge\.stem\.conv:weight"):
            mirror.check(files["plain"], pipeline)
    finally:
        conv.weight_scale.data = held


def test_a_mirror_with_a_transpose_or_a_float_convolution_does_not_count(pipeline, files, tmp_path) -> None:
    graph = Graph(files["plain"])
    op = graph.ops("SQRT")[0]
    graph.make(op, "TRANSPOSE", op.inputs, graph.schema.TransposeOptionsT())
    graph.write(tmp_path / "turned.tflite")
    with pytest.raises(GateFailed, match="1 TRANSPOSE, expected none"):
        mirror.check(tmp_path / "turned.tflite", pipeline)
    wider = mirror.Mirror(pipeline, "plain")
    wider.stored = lambda x, tap: x if tap is pipeline.edge.stem.out else mirror.Mirror.stored(wider, x, tap)
    wider.write(tmp_path / "float.tflite")
    with pytest.raises(GateFailed, match="convolutions are int8 throughout, expected"):
        mirror.check(tmp_path / "float.tflite", pipeline)


@pytest.mark.parametrize(("folds", "phases"), [(1, 2), (2, 1), (4, 1), (8, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("kernel", [3, 7])
def test_a_convolution_in_another_shape_gives_the_same_sums(kernel: int, folds: int, phases: int) -> None:
    import tensorflow as tf

    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, (1, 16, 32, 3)).astype(np.float32)
    weight = rng.integers(-9, 9, (kernel, kernel, 3, 5)).astype(np.float32)
    expected = F.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(weight).permute(3, 2, 0, 1), padding=kernel // 2
    )
    other = mirror.in_phases(mirror.fold(weight, folds), phases)
    sums = tf.nn.conv2d(x.reshape(1, 16, 32 // folds, 3 * folds), other, phases, "SAME")
    sums = tf.nn.depth_to_space(sums, phases) if phases > 1 else sums
    assert np.array_equal(sums.numpy().reshape(1, 16, 32, 5), expected.permute(0, 2, 3, 1).numpy())


def test_a_network_that_the_mirror_is_not_written_for_is_refused(pictures) -> None:
    with pytest.raises(ValueError, match="norm is 'instance', expected 'batch'"):
        mirror.Mirror(network(pictures, "paper"), "plain")
    with pytest.raises(ValueError, match="found a float network"):
        mirror.Mirror(network(pictures), "plain")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("nowhere", "found no config.json, expected a checkpoint folder"),
        ("nowhere --file none.tflite", "--file none.tflite: no such file"),
        ("nowhere --threads 0", "expected at least 1 and 2"),
        ("nowhere --pictures 1", "expected at least 1 and 2"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, command: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(mirror, command) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.slow
def test_the_file_and_its_mirror_take_turns(pipeline, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "release" / "small").mkdir(parents=True)
    saved(pipeline, tmp_path / "release" / "small" / "int8")
    arguments = "release --kernels phone --threads 1 --runs 50 --rounds 5 --pictures 4 --json m.json"
    assert call(mirror, arguments) == 0
    result = json.loads(Path("m.json").read_text())
    assert last_line(capsys) == result and result["goal"] == {"ratio": 1.05, "ms_per_gmac": 6.5}
    file, other = result["rows"]
    assert (file["kind"], other["kind"]) == ("file", "mirror-phone") and file["xnnpack"] and other["xnnpack"]
    assert file["runs"] >= 50 and file["warmup"] >= 10 and "ratio" not in file
    assert other["ratio"] == pytest.approx(file["ms"] / other["ms"], rel=0.5)
    assert file["ms_per_gmac"] == pytest.approx(file["ms"] / file["gmacs"]) and "TRANSPOSE" not in other["operators"]
    assert other["max_abs_unquantized"] < 1e-3 and len(other["psnr_vs_file"]) == 4

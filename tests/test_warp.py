"""The flow contract: backward, pixels, x then y, bilinear, clamped to the border, corners aligned, in every form.

Every runtime is held to one table, tests/golden/warp.npz, which tests/golden/warp.py makes without faceeraser.
"""

import os
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import script
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from torch import Tensor, nn

from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.artifacts.runtimes import RESAMPLER
from faceeraser.conversion import gpu_delegate, mil_program, tflite, tflite_edits
from faceeraser.measurement import results
from faceeraser.model.warp import landing_in_hole, offsets_to_flow, sampling_coordinates, warp, warp_by_rows

FORMS = [warp, warp_by_rows]


def random_case(seed: int, height: int, width: int, reach: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, height, width, generator=generator)
    return image, (torch.rand(1, 2, height, width, generator=generator) - 0.5) * 2 * reach


@pytest.mark.parametrize("sample", FORMS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(2, 20), width=st.integers(2, 20), reach=st.floats(0, 60))
def test_every_form_equals_scipys_interpolation(sample, seed, height, width, reach):
    image, flow = random_case(seed, height, width, reach)
    rows, columns = np.mgrid[0:height, 0:width]
    x = np.clip(columns + flow[0, 0].numpy(), 0, width - 1)
    y = np.clip(rows + flow[0, 1].numpy(), 0, height - 1)
    expected = np.stack([map_coordinates(c.numpy(), [y, x], order=1, mode="nearest") for c in image[0]])
    assert np.abs(sample(image, flow)[0].numpy() - expected).max() < 2e-4


@pytest.mark.parametrize("sample", FORMS)
def test_no_flow_is_the_identity(sample):
    image, flow = random_case(0, 9, 12, 0.0)
    assert torch.allclose(sample(image, flow), image, atol=2e-6)


@pytest.mark.parametrize("sample", FORMS)
def test_flow_is_backward_and_x_comes_first(sample):
    image = torch.zeros(1, 1, 5, 7)
    image[0, 0, 1, 4] = 1.0  # row 1, column 4
    flow = torch.zeros(1, 2, 5, 7)
    flow[0, 0, 3, 2], flow[0, 1, 3, 2] = 2.0, -2.0  # output (3, 2) copies from column 2 + 2, row 3 - 2
    assert sample(image, flow)[0, 0, 3, 2] == pytest.approx(1.0, abs=1e-5)


def test_an_offset_of_one_is_half_the_picture():
    offsets = torch.ones(1, 2, 5, 9)
    flow = offsets_to_flow(offsets)
    assert flow[0, 0].unique().item() == 4.0  # (9 - 1) / 2 pixels in x
    assert flow[0, 1].unique().item() == 2.0  # (5 - 1) / 2 pixels in y


def test_coordinates_stay_float32_when_the_network_runs_in_half_precision():
    flow = torch.zeros(1, 2, 256, 256, dtype=torch.bfloat16)
    x, y = sampling_coordinates(flow)
    assert x.dtype == y.dtype == torch.float32
    assert torch.equal(x[0, 0, 0], torch.arange(256.0))  # bfloat16 has no 255


def test_the_gradient_reaches_the_flow():
    image, flow = random_case(3, 8, 8, 2.0)
    flow.requires_grad_(True)
    warp(image, flow).square().sum().backward()
    assert flow.grad is not None and flow.grad.abs().sum() > 0


def test_share_of_flow_that_lands_in_the_hole():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1  # the left half
    stay, leave = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    leave[:, 0] = 2.0  # two pixels to the right: out of the hole
    assert landing_in_hole(stay, mask).item() == 1.0
    assert landing_in_hole(leave, mask).item() == 0.0
    assert landing_in_hole(leave, torch.zeros_like(mask)).item() == 0.0


# --- one table, every runtime ---------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "golden" / "warp.npz"
SIZES = ((7, 11), (1, 1), (1, 9), (9, 1))
WHOLE = ("identity", "whole-pixels", "borders", "far-beyond")
"""Cases in which every sample is a pixel: what copies pixels must copy them bit for bit."""

# Largest difference from the table, whose pictures are in [0, 1]; and for `WHOLE`. A float32 coordinate near 10 has steps of
# 1e-6; those of the first three go through grid_sample's [-1, 1] and back.
TOLERANCE = {
    **dict.fromkeys(("warp", "onnxruntime", "coreml"), (1e-6, 3e-7)),
    **dict.fromkeys(("warp_by_rows", "litert", "gpu"), (1e-6, 0.0)),
    **dict.fromkeys(("litert-resampler", "tensorflow-resampler", "gpu-resampler"), (1e-6, 0.0)),
}

Pairs = list[tuple[np.ndarray, np.ndarray]]
"""image (1, 3, H, W) and flow (1, 2, H, W) of each of SIZES."""
Warp = Callable[[list[Pairs]], list[list[np.ndarray]]]


class Sizes(nn.Module):
    """A warp of one picture of each of SIZES, so that one conversion serves them all."""

    def __init__(self, sample: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.form = sample

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.form(image, flow) for image, flow in zip(given[::2], given[1::2], strict=True))


def blank_pairs() -> Pairs:
    return [(np.zeros((1, 3, *size), np.float32), np.zeros((1, 2, *size), np.float32)) for size in SIZES]


def flat(pairs: Pairs) -> list[np.ndarray]:
    return [value for pair in pairs for value in pair]


def traced() -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(value) for value in flat(blank_pairs()))


@pytest.fixture(scope="module")
def golden() -> dict[str, tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Name -> (which of SIZES, image (1, 3, H, W), flow (1, 2, H, W), what must come out (1, 3, H, W) float64)."""
    tables = {}
    with np.load(GOLDEN) as table:
        for name in dict.fromkeys(key.split("/")[0] for key in table.files):
            image, flow, warped = (table[f"{name}/{part}"].transpose(2, 0, 1)[None] for part in ("image", "flow", "warped"))
            tables[name] = SIZES.index(image.shape[2:]), np.ascontiguousarray(image), np.ascontiguousarray(flow), warped
    return tables


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    """The warp in its two forms as .tflite files."""
    import litert_torch

    folder = tmp_path_factory.mktemp("warps")
    for name, sample in tflite.WARP_FORMS.items():
        litert_torch.convert(Sizes(sample).eval(), traced()).export(str(folder / f"{name}.tflite"))
        graph = Graph(folder / f"{name}.tflite")
        tflite_edits.apply(graph, ())
        graph.write(folder / f"{name}.tflite")
    return {name: folder / f"{name}.tflite" for name in tflite.WARP_FORMS}


@dataclass
class Place:
    """What a runtime starts from."""

    written: dict[str, Path]
    plugin: Path
    folder: Path


@pytest.fixture(scope="module")
def place(written, resampler, tmp_path_factory) -> Place:
    return Place(written, resampler, tmp_path_factory.mktemp("runtimes"))


def each(run: Callable[[Pairs], Any]) -> Warp:
    return lambda all_pairs: [[np.asarray(v) for v in run(pairs)] for pairs in all_pairs]


def named(pairs: Pairs) -> dict[str, np.ndarray]:
    return {f"args_{k}": value for k, value in enumerate(flat(pairs))}


def by_torch(sample: Callable[[Tensor, Tensor], Tensor]) -> Warp:
    return each(lambda pairs: Sizes(sample)(*map(torch.from_numpy, flat(pairs))))


def by_onnxruntime(place: Place) -> Warp:
    import onnxruntime

    path = str(place.folder / "warp.onnx")
    torch.onnx.export(Sizes(warp).eval(), traced(), path, dynamo=True, opset_version=18, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    return each(lambda pairs: session.run(None, dict(zip(names, flat(pairs), strict=True))))


def by_coreml(place: Place) -> Warp:
    """Its saved program, computed by faceeraser/conversion/mil_program.py: CoreML itself runs on macOS only."""
    import coremltools as tools

    static = torch.export.export(Sizes(warp).eval(), traced()).module()
    model = tools.convert(
        torch.jit.trace(static, traced(), check_trace=False),
        convert_to="mlprogram",
        skip_model_load=True,
        inputs=[tools.TensorType(name=f"args_{k}", shape=v.shape, dtype=np.float32) for k, v in enumerate(traced())],
        outputs=[tools.TensorType(name=f"output_{k}", dtype=np.float32) for k in range(len(SIZES))],
        minimum_deployment_target=tools.target.iOS17,
        compute_precision=tools.precision.FLOAT32,
    )
    model.save(str(place.folder / "warp.mlpackage"))
    program = mil_program.Program(place.folder / "warp.mlpackage")
    samples = [op for op in program.operators if op.op_type == "resample"]
    assert len(samples) == len(SIZES)
    for op in samples:  # what they have to say, whatever torch makes of it
        names = ("sampling_mode", "padding_mode", "align_corners", "coordinates_mode")
        settings = {name: op.inputs[name].val for name in names}
        assert settings == {
            "sampling_mode": "bilinear",
            "padding_mode": "border",
            "align_corners": True,
            "coordinates_mode": "normalized_minus_one_to_one",
        }

    def run(pairs: Pairs) -> list[np.ndarray]:
        outputs = program.run({name: torch.from_numpy(value) for name, value in named(pairs).items()})
        return [outputs[f"output_{k}"].numpy() for k in range(len(SIZES))]

    return each(run)


def by_interpreter(make: Callable[..., Any], path: Path, delegates: list[Any] | None = None) -> Warp:
    runner = make(str(path), num_threads=1, experimental_delegates=delegates).get_signature_runner()

    def run(pairs: Pairs) -> list[np.ndarray]:
        outputs = runner(**named(pairs))
        return [outputs[f"output_{k}"] for k in range(len(SIZES))]

    return each(run)


def by_litert(place: Place, sample: str) -> Warp:
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    delegates = [load_delegate(str(place.plugin))] if sample == "resampler" else None
    return by_interpreter(Interpreter, place.written[sample], delegates)


def by_tensorflow(place: Place) -> Warp:
    import tensorflow as tf

    delegates = [tf.lite.experimental.load_delegate(str(place.plugin))]
    return by_interpreter(tf.lite.Interpreter, place.written["resampler"], delegates)


def by_gpu(place: Place, sample: str) -> Warp:
    def run(all_pairs: list[Pairs]) -> list[list[np.ndarray]]:
        try:
            ran = gpu_delegate.run(place.written[sample], [named(pairs) for pairs in all_pairs])
        except RuntimeError as error:
            if os.environ.get("FACEERASER_NO_SKIP") == "1":
                raise
            pytest.skip(str(error))
        assert ran.refused == []
        return [[outputs[f"output_{k}"] for k in range(len(SIZES))] for outputs in ran.outputs]

    return run


RUNTIMES: dict[str, Callable[[Place], Warp]] = {
    "warp": lambda place: by_torch(warp),
    "warp_by_rows": lambda place: by_torch(warp_by_rows),
    "onnxruntime": by_onnxruntime,
    "coreml": by_coreml,
    "litert": lambda place: by_litert(place, "rows"),
    "litert-resampler": lambda place: by_litert(place, "resampler"),
    "tensorflow-resampler": by_tensorflow,
    "gpu": lambda place: by_gpu(place, "rows"),
    "gpu-resampler": lambda place: by_gpu(place, "resampler"),
}


def test_the_table_is_what_its_script_makes() -> None:
    table = runpy.run_path(str(GOLDEN.with_suffix(".py")))["table"]()
    with np.load(GOLDEN) as kept:
        assert set(kept.files) == set(table)
        for name, value in table.items():
            assert kept[name].dtype == value.dtype and np.abs(kept[name] - value).max() < 1e-12, name


def test_the_table_has_every_kind_of_case(golden) -> None:
    assert {golden[name][1].shape[2:] for name in golden} == set(SIZES)
    for name, (_, image, flow, warped) in golden.items():
        height, width = image.shape[2:]
        x, y = flow[0, 0] + np.arange(width), flow[0, 1] + np.arange(height)[:, None]
        assert name.startswith("identity") or image.size == 3 or np.abs(warped - image).max() > 1e-5, name
        if name == "beyond-7x11":
            assert (x < 0).any() and (x > width - 1).any() and (y < 0).any() and (y > height - 1).any()
        if name.startswith(WHOLE):
            assert np.isin(warped, image).all()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_warps_as_the_table_says(runtime: str, golden, place) -> None:
    cases = []
    for at, image, flow, _ in golden.values():
        pairs = blank_pairs()
        pairs[at] = image, flow
        cases.append(pairs)
    warped = RUNTIMES[runtime](place)(cases)
    off = {}
    for (name, (at, *_, expected)), outputs in zip(golden.items(), warped, strict=True):
        assert outputs[at].shape == expected.shape and outputs[at].dtype == np.float32
        error = float(np.abs(outputs[at] - expected).max())
        if not error <= TOLERANCE[runtime][name.startswith(WHOLE)]:
            off[name] = error
    assert not off, f"{runtime} is off by {off}"


@pytest.mark.parametrize("sample", tflite.WARP_FORMS)
def test_the_files_have_float_coordinates_and_operators_that_gpus_take(sample: str, written) -> None:
    graph = Graph(written[sample])
    taken = graph.ops(*(("GATHER",) if sample == "rows" else (RESAMPLER,)))
    assert len(taken) >= len(SIZES)
    assert not graph.ops("GATHER_ND", "EMBEDDING_LOOKUP", "STABLEHLO_COMPOSITE")
    assert len(graph.model.subgraphs) == 1
    for op in taken:
        picture, coordinates = (graph.type(int(i)) for i in op.inputs)
        assert (picture, coordinates) == ("FLOAT32", "INT32" if sample == "rows" else "FLOAT32")
        assert graph.type(int(op.outputs[0])) == "FLOAT32"
        for maker, tensor in graph.before(int(op.inputs[1]), ()):
            assert maker == "CAST" or graph.type(tensor) == "FLOAT32" or graph.constant(tensor), maker


def resampler_alone(source: Path, target: Path, picture: tuple, coordinates: tuple, samples: tuple) -> Path:
    """A file with nothing but the operator, its tensors of these shapes."""
    graph = Graph(source)
    op = graph.ops(RESAMPLER)[0]
    graph.graph.operators, graph.graph.inputs, graph.graph.outputs = [op], op.inputs, op.outputs
    for tensor, shape in zip((*op.inputs, *op.outputs), (picture, coordinates, samples), strict=True):
        graph.graph.tensors[int(tensor)].shape = np.array(shape, np.int32)
    graph.model.signatureDefs = []
    graph.write(target)
    return target


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_the_plugin_alone(channels: int, written, resampler, tmp_path) -> None:
    """What no file of ours asks of it: several pictures, other channels, another size out than in, beyond, NaN."""
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    random = np.random.default_rng(channels)
    picture = random.random((2, 5, 6, channels), np.float32)
    at = random.uniform(-4, 10, (2, 40, 50, 2)).astype(np.float32)
    at[0, :2, :3], at[1, 0, 0], at[1, -1, -1] = (5, 4), (np.nan, 2), (5, 4)
    path = resampler_alone(written["resampler"], tmp_path / "a.tflite", picture.shape, at.shape, (2, 40, 50, channels))
    interpreter = Interpreter(str(path), num_threads=1, experimental_delegates=[load_delegate(str(resampler))])
    interpreter.allocate_tensors()
    for port, value in zip(interpreter.get_input_details(), (picture, at), strict=True):
        interpreter.set_tensor(port["index"], value)
    interpreter.invoke()
    sampled = runpy.run_path(str(GOLDEN.with_suffix(".py")))["sampled"]
    at = np.nan_to_num(at, nan=0.0)
    expected = np.stack([sampled(p, c[..., 0], c[..., 1]) for p, c in zip(picture, at, strict=True)])
    assert np.abs(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]) - expected).max() < 2e-6


def test_the_plugin_refuses_what_is_no_warp(written, resampler, tmp_path) -> None:
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    shapes = (1, 5, 6, 3), (1, 8, 8, 3), (1, 8, 8, 3)  # three coordinates
    path = resampler_alone(written["resampler"], tmp_path / "a.tflite", *shapes)
    with pytest.raises((RuntimeError, ValueError), match="Resampler: expected"):
        interpreter = Interpreter(str(path), experimental_delegates=[load_delegate(str(resampler))])
        interpreter.allocate_tensors()


def test_the_benchmark_measures_and_judges(run_script, resampler, monkeypatch, tmp_path, capsys) -> None:
    benchmark = script("benchmarks/warp.py")
    monkeypatch.setattr(benchmark, "GOALS", dict.fromkeys(benchmark.GOALS, 1e9))
    arguments = ["benchmarks/warp.py", "--size", 24, "--rounds", 5, "--each", 5]
    assert run_script(*arguments, "--json", tmp_path / "warp.json") == 0
    rows = results.read_result(tmp_path / "warp.json")["rows"]
    assert [row["name"] for row in rows] == ["warp_onnxruntime", "warp_torch", "warp_cpu", "warp_resampler"]
    for row in rows:
        assert row["runs"] == 25 and 0 < row["median_ms"] <= row["p90_ms"] and row["max_abs"] < 1e-5
        assert row["goal"] == (1e9 if row["name"] in ("warp_cpu", "warp_resampler") else None)
    assert rows[0]["ratio"] == 1.0 and rows[0]["max_abs"] > 0  # two programs, not one
    for key, value, said in (("goal", 0.0, "warp_resampler"), ("max_abs", 0.01, "from torch")):
        monkeypatch.setattr(benchmark, "measure", lambda *_, change=(key, value): [*rows[:3], rows[3] | dict([change])])
        capsys.readouterr()
        assert run_script(*arguments) == 1
        assert said in capsys.readouterr().err
    assert run_script("benchmarks/warp.py", "--rounds", 1) == 2

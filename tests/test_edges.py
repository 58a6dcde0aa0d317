"""Canny: the paper's settings, nothing of the hole, and a traceable form that agrees with scikit-image."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data
from skimage.feature import canny as skimage_canny

from faceeraser.artifacts import edges
from faceeraser.artifacts.edges import canny, canny_tensor, traceable_canny

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = Path(os.environ.get("FACEERASER_PHOTOS", ROOT.parent / "shared" / "photos"))


def gray_picture(name: str, size: int = 256) -> np.ndarray:
    picture = getattr(data, name)()
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) / 255.0


def ellipses(size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), np.uint8)
    for _ in range(4):
        centre = tuple(int(v) for v in rng.integers(size // 4, 3 * size // 4, 2))
        axes = tuple(int(v) for v in rng.integers(size // 20, size // 6, 2))
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return mask.astype(np.float64)


def as_tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).float()[None, None]


def agreement(edges: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Recall and precision of edge pixels."""
    both = np.logical_and(edges > 0, expected > 0).sum()
    return both / (expected > 0).sum(), both / (edges > 0).sum()


def test_settings_are_the_papers() -> None:
    """Section 3.1: "Gaussian width of sigma = 2.0, low threshold of 10% and high threshold of 20%"."""
    assert (edges.SIGMA, edges.LOW_THRESHOLD, edges.HIGH_THRESHOLD) == (2.0, 0.1, 0.2)


def test_canny_is_skimages() -> None:
    gray, mask = gray_picture("astronaut"), ellipses(256, 0)
    expected = skimage_canny(gray, sigma=2.0, low_threshold=0.1, high_threshold=0.2, mask=mask == 0)
    edges = canny(gray.astype(np.float64), mask)
    assert edges.dtype == np.float32
    np.testing.assert_array_equal(edges, expected)


@pytest.mark.parametrize("name", ["astronaut", "camera", "coins"])
@pytest.mark.parametrize("hole", [False, True])
def test_tensor_agrees_with_skimage(name: str, hole: bool) -> None:
    gray = gray_picture(name)
    mask = ellipses(256, 1) if hole else np.zeros((256, 256))
    recall, precision = agreement(canny_tensor(as_tensor(gray), as_tensor(mask))[0, 0].numpy(), canny(gray, mask))
    assert recall >= 0.99 and precision >= 0.99, (recall, precision)


@pytest.mark.parametrize("name", ["astronaut", "camera", "coins"])
def test_all_that_is_lost_is_lost_by_stopping_early(name: str) -> None:
    """With enough steps only rounding separates the two, so every other step is as in skimage."""
    gray, mask = gray_picture(name), ellipses(256, 2)
    edges = canny_tensor(as_tensor(gray), as_tensor(mask), hysteresis_steps=400)[0, 0].numpy()
    assert (edges != canny(gray, mask)).sum() <= 2


def test_hysteresis_reaches_one_pixel_a_step() -> None:
    gray, mask = as_tensor(gray_picture("camera")), as_tensor(np.zeros((256, 256)))
    edges = [canny_tensor(gray, mask, k) for k in (0, 1, 2, 8)]
    for fewer, more in pairwise(edges):
        assert (fewer <= more).all() and fewer.sum() < more.sum()
    reach = torch.nn.functional.max_pool2d(edges[0], 3, 1, 1)
    assert (edges[1] <= reach).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(3, 40),
    width=st.integers(3, 40),
    filler=st.sampled_from(["zeros", "ones", "noise", "negative", "huge"]),
)
def test_pixels_of_the_hole_do_not_matter(seed: int, height: int, width: int, filler: str) -> None:
    rng = np.random.default_rng(seed)
    gray = cv2.resize(rng.random((5, 5)), (width, height), interpolation=cv2.INTER_CUBIC)
    mask = (cv2.resize(rng.random((4, 4)), (width, height)) > 0.6).astype(np.float64)
    fill = {
        "zeros": np.zeros_like(gray),
        "ones": np.ones_like(gray),
        "noise": rng.random(gray.shape),
        "negative": -rng.random(gray.shape),
        "huge": np.full_like(gray, 1e30),
    }[filler]
    other = np.where(mask > 0, fill, gray)
    np.testing.assert_array_equal(canny(gray, mask), canny(other, mask))
    edges, again = (canny_tensor(as_tensor(g), as_tensor(mask)).numpy() for g in (gray, other))
    assert edges.tobytes() == again.tobytes()
    assert set(np.unique(edges)) <= {0.0, 1.0}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), level=st.floats(0, 1))
def test_no_edge_at_the_rim_of_a_flat_picture(seed: int, level: float) -> None:
    gray, mask = np.full((64, 64), level), ellipses(64, seed)
    assert canny(gray, mask).sum() == 0
    assert canny_tensor(as_tensor(gray), as_tensor(mask)).sum() == 0


@pytest.mark.parametrize("name", ["astronaut", "coins"])
def test_no_edge_touches_the_hole_or_the_border(name: str) -> None:
    gray, mask = gray_picture(name), ellipses(256, 3)
    closed = np.pad(mask, 1, constant_values=1).astype(np.uint8)
    forbidden = cv2.dilate(closed, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
    for drawn in (canny(gray, mask), canny_tensor(as_tensor(gray), as_tensor(mask))[0, 0].numpy()):
        assert drawn.sum() > 0
        assert (drawn * forbidden).sum() == 0


def test_soft_masks_are_cut_at_one_half() -> None:
    gray, mask = gray_picture("astronaut", 64), ellipses(64, 4)
    soft = np.where(mask > 0, 0.5, 0.49)
    np.testing.assert_array_equal(canny(gray, soft), canny(gray, mask))
    assert torch.equal(canny_tensor(as_tensor(gray), as_tensor(soft)), canny_tensor(as_tensor(gray), as_tensor(mask)))


def test_everything_hidden_has_no_edge() -> None:
    gray, mask = gray_picture("astronaut", 64), np.ones((64, 64))
    assert canny(gray, mask).sum() == 0
    assert canny_tensor(as_tensor(gray), as_tensor(mask)).sum() == 0


def test_a_batch_is_its_pictures() -> None:
    gray = torch.cat([as_tensor(gray_picture(name, 96)) for name in ("astronaut", "coins")])
    mask = torch.cat([as_tensor(ellipses(96, seed)) for seed in (5, 6)])
    one_by_one = [canny_tensor(g[None], m[None]) for g, m in zip(gray, mask, strict=True)]
    assert torch.equal(canny_tensor(gray, mask), torch.cat(one_by_one))


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        canny(np.zeros((4, 4, 3)), np.zeros((4, 4)))
    for shape in [(1, 3, 8, 8), (8, 8), (1, 1, 2, 8)]:
        with pytest.raises(ValueError, match=r"\(N, 1, H, W\)"):
            canny_tensor(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(ValueError, match="one shape"):
        canny_tensor(torch.zeros(1, 1, 8, 8), torch.zeros(2, 1, 8, 8))


def test_importing_loads_neither_torch_nor_skimage() -> None:
    code = "import sys, json, faceeraser.artifacts.edges; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert not {"torch", "skimage"} & set(loaded)


def run_tflite(path: Path, inputs: tuple[torch.Tensor, ...]) -> tuple[np.ndarray, Counter]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    # Listed before anything is allocated: afterwards the delegate has taken its share.
    operators = Counter(detail["op_name"] for detail in interpreter._get_ops_details())
    interpreter.allocate_tensors()
    details = sorted(interpreter.get_input_details(), key=lambda d: d["name"])
    for detail, value in zip(details, inputs, strict=True):
        interpreter.set_tensor(detail["index"], value.numpy())
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), operators


def test_tflite_is_the_same_picture(tmp_path: Path) -> None:
    litert_torch = pytest.importorskip("litert_torch")
    module = traceable_canny()
    path = tmp_path / "canny.tflite"
    example = (torch.zeros(1, 1, 128, 128), torch.zeros(1, 1, 128, 128))
    litert_torch.convert(module, example).export(str(path))
    for name in ("astronaut", "camera", "coins"):
        inputs = (as_tensor(gray_picture(name, 128)), as_tensor(ellipses(128, 7)))
        edges, operators = run_tflite(path, inputs)
        assert (edges == module(*inputs).numpy()).mean() >= 0.999
    refused = {"GATHER_ND", "GATHER", "BROADCAST_TO", "SELECT", "SELECT_V2", "TRANSPOSE", "REDUCE_ALL", "REDUCE_ANY"}
    assert not refused & set(operators), operators


@pytest.mark.slow
def test_onnx_is_the_same_picture(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module = traceable_canny()
    example = (torch.zeros(1, 1, 128, 128), torch.zeros(1, 1, 128, 128))
    path = tmp_path / "canny.onnx"
    torch.onnx.export(module, example, str(path), dynamo=True, opset_version=18, input_names=["gray", "mask"])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for name in ("astronaut", "camera", "coins"):
        gray, mask = as_tensor(gray_picture(name, 128)), as_tensor(ellipses(128, 7))
        (edges,) = session.run(None, {"gray": gray.numpy(), "mask": mask.numpy()})
        assert (edges == module(gray, mask).numpy()).mean() >= 0.999


@pytest.mark.slow
def test_coreml_converts() -> None:
    """Off macOS only the conversion can be checked, and that the traced graph is the module."""
    coremltools = pytest.importorskip("coremltools")
    module = traceable_canny()
    example = (torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64))
    traced = torch.jit.trace(module, example)
    inputs = (as_tensor(gray_picture("astronaut", 64)), as_tensor(ellipses(64, 8)))
    assert torch.equal(traced(*inputs), module(*inputs))
    model = coremltools.convert(
        traced,
        inputs=[coremltools.TensorType("gray", example[0].shape), coremltools.TensorType("mask", example[1].shape)],
        convert_to="mlprogram",
        compute_precision=coremltools.precision.FLOAT32,
        skip_model_load=True,
    )
    assert model.get_spec().WhichOneof("Type") == "mlProgram"


@pytest.mark.photos
def test_real_photographs_agree_with_skimage() -> None:
    """The measurement behind HYSTERESIS_STEPS, on fewer pictures; benchmarks/canny.py takes 200."""
    files = sorted(PHOTOS.glob("*.jpg"))[::40]
    if not files:
        if os.environ.get("FACEERASER_NO_SKIP") == "1":
            pytest.fail(f"no photographs in {PHOTOS}, and FACEERASER_NO_SKIP=1")
        pytest.skip(f"no photographs in {PHOTOS}; set FACEERASER_PHOTOS to a folder of portraits")
    both = found_pixels = expected_pixels = 0
    for seed, file in enumerate(files):
        picture = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        gray = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA) / 255.0
        mask = ellipses(256, seed)
        edges = canny_tensor(as_tensor(gray), as_tensor(mask))[0, 0].numpy() > 0
        expected = canny(gray, mask) > 0
        both += (edges & expected).sum()
        found_pixels += edges.sum()
        expected_pixels += expected.sum()
    assert both / expected_pixels >= 0.99 and both / found_pixels >= 0.99

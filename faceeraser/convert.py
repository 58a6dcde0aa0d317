"""Checkpoint -> TFLite, ONNX or CoreML, with the warp and Canny inside; nothing is published before it passed its gate.

    card = convert.export("runs/int8", "exports", "tflite")

`export` converts beside the target, asserts on the written file what must hold of it (coordinates in float32, the warp in
the form its runtime takes, every learnt scale of a quantized network), compares it with the checkpoint on textured
pictures, and only then renames file and card into place. The gate, inside the hole, worst picture:

    fp32   largest absolute difference at most 1e-4          against the float network
    fp16   PSNR at least 55 dB                               against the float network
    int8   PSNR at least 50 dB                               against the fake-quantized network

Files: `exports/<folder>.tflite`; `-fp16`, `-fp32` or `-int8` is added where that is not the folder's own precision (int8 of
a quantized folder, fp32 of any other; fp16 for CoreML), `-edges` where edges are an input.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import math
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from faceeraser import artifact, checkpoint, quant
from faceeraser.edges import canny
from faceeraser.networks import FaceEraser, count
from faceeraser.pairs import evaluation_pairs
from faceeraser.quant import QuantConv2d
from faceeraser.stage import GateFailed, finish
from faceeraser.warp import warp, warp_by_rows

SUFFIXES = {"tflite": ".tflite", "onnx": ".onnx", "coreml": ".mlpackage"}
PRECISIONS = {"tflite": ("fp32", "fp16", "int8"), "onnx": ("fp32", "int8"), "coreml": ("fp16", "int8")}
WARPS = {
    "tflite": "four look-ups of rows in an (H*W, C) table and bilinear arithmetic, float32; coordinates clamped",
    "onnx": "GridSample, bilinear, border, align_corners = 1, float32; coordinates clamped",
    "coreml": "resample, bilinear, border, align_corners = true, float32; coordinates clamped",
}
PICTURES = 16
"""Textured pictures that a gate takes at least."""


@dataclass(frozen=True)
class Gate:
    """What a file must reach inside the hole of its worst picture: a largest difference, or a PSNR in dB.

    reason: why it is looser than `of(precision)`; it goes into the card.
    """

    max_abs: float | None = None
    psnr: float | None = None
    reason: str | None = None

    @classmethod
    def of(cls, precision: str, value: float | None = None, reason: str | None = None) -> Gate:
        """The gate of a precision; `value` replaces its bound (dB, or the largest difference for fp32).

        Raises:
            ValueError: `value` is looser than the bound and no reason is given.
        """
        bound = {"fp32": 1e-4, "fp16": 55.0, "int8": 50.0}[precision]
        value = bound if value is None else value
        if not reason and (value > bound if precision == "fp32" else value < bound):
            raise ValueError(f"a gate of {value:g} is looser than {bound:g} for {precision}: say why (--reason TEXT)")
        return cls(max_abs=value, reason=reason) if precision == "fp32" else cls(psnr=value, reason=reason)

    def __str__(self) -> str:
        return f"max abs <= {self.max_abs:g}" if self.max_abs is not None else f"PSNR >= {self.psnr:g} dB"

    def passes(self, psnr: float, max_abs: float) -> bool:
        """Whether one picture's figures are inside; NaN never is."""
        return max_abs <= self.max_abs if self.max_abs is not None else psnr >= (self.psnr or 0.0)


# --- the pictures of a gate -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A picture to compare on: `image` (R, R, 3) float32 in [0, 1], `mask` (R, R) float32 with 1 = erase."""

    name: str
    image: np.ndarray
    mask: np.ndarray


# What scikit-image carries inside its wheel, and where to cut: centre, as a share of the picture.
_TEXTURED = (
    ("astronaut", 0.22, 0.45), ("astronaut", 0.75, 0.6), ("coffee", 0.5, 0.5), ("chelsea", 0.45, 0.5),
    ("rocket", 0.5, 0.5), ("hubble_deep_field", 0.5, 0.4), ("immunohistochemistry", 0.5, 0.5), ("retina", 0.5, 0.6),
    ("brick", 0.5, 0.5), ("grass", 0.4, 0.5), ("gravel", 0.5, 0.6), ("camera", 0.3, 0.4), ("coins", 0.5, 0.5),
    ("page", 0.5, 0.5), ("text", 0.5, 0.4), ("moon", 0.5, 0.5),
)  # fmt: skip


def gate_pictures(resolution: int, data: Path | str | None = None) -> list[Picture]:
    """The pictures of a gate: 16 textured crops of scikit-image's photographs and, with `data`, 16 faces of its tune list.

    Raises:
        ValueError: `data` is not a folder made by train/prepare.py.
        ModuleNotFoundError: scikit-image is missing.
    """
    try:
        from skimage import data as photographs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the parity gate needs scikit-image: pip install 'faceeraser[train]'") from error
    found = []
    for k, (name, down, right) in enumerate(_TEXTURED):
        whole = getattr(photographs, name)()
        whole = np.repeat(whole[..., None], 3, 2) if whole.ndim == 2 else whole[..., :3]
        short = min(whole.shape[:2])
        if short < resolution:
            side = [math.ceil(n * resolution / short) for n in whole.shape[1::-1]]
            whole = cv2.resize(whole, side, interpolation=cv2.INTER_CUBIC)
        top, left = (int(share * (n - resolution)) for share, n in zip((down, right), whole.shape[:2], strict=True))
        crop = whole[top : top + resolution, left : left + resolution]
        found.append(Picture(f"{name}-{k}", crop.astype(np.float32) / 255, _part_mask(resolution, k)))
    for pair in evaluation_pairs(data, "tune", resolution, PICTURES) if data is not None else []:
        found.append(Picture(pair.name, pair.truth.astype(np.float32) / 255, pair.mask.astype(np.float32)))
    return found


def _part_mask(resolution: int, seed: int) -> np.ndarray:
    """Brows, eyes, nose and mouth as ellipses about where a face has them, moved and turned a little by `seed`."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((resolution, resolution), np.uint8)
    # Centre x, y, half axes, as shares of the picture.
    parts = [(0.32, 0.33, 0.13, 0.04), (0.68, 0.33, 0.13, 0.04), (0.32, 0.43, 0.11, 0.07), (0.68, 0.43, 0.11, 0.07),
             (0.5, 0.56, 0.09, 0.12), (0.5, 0.78, 0.18, 0.08)]  # fmt: skip
    for x, y, across, along in parts:
        x, y = x + rng.uniform(-0.04, 0.04), y + rng.uniform(-0.04, 0.04)
        axes = max(1, round(across * resolution)), max(1, round(along * resolution))
        centre = round(x * resolution), round(y * resolution)
        cv2.ellipse(mask, centre, axes, rng.uniform(-20, 20), 0, 360, 1, -1)
    return mask.astype(np.float32)


# --- one network, ready to be traced --------------------------------------------------------------------------------


class _Form(nn.Module):
    """The pipeline as a file has it: image, mask (and edges) -> erased, channels last (then by name) or first."""

    def __init__(self, pipeline: FaceEraser, channels_last: bool):
        super().__init__()
        self.pipeline, self.channels_last = pipeline, channels_last

    def forward(self, image: Tensor, mask: Tensor, edges: Tensor | None = None) -> Any:
        if not self.channels_last:
            return self.pipeline(image, mask, edges)["erased"]
        first = (x if x is None else x.permute(0, 3, 1, 2) for x in (image, mask, edges))
        return {"erased": self.pipeline(*first)["erased"].permute(0, 2, 3, 1)}


def _frozen(pipeline: FaceEraser) -> FaceEraser:
    """A copy to export: eval mode, norms folded where they can be, emitting its learnt scales if it is quantized."""
    network = copy.deepcopy(pipeline).cpu().eval().requires_grad_(False)
    if not network.config.fused and network.config.norm == "batch":
        quant.fuse(network)
    if quant.is_quantized(network):
        quant.set_exporting(network)
    return network


def _sample(resolution: int, edges_input: bool, channels_last: bool) -> dict[str, Tensor]:
    """Inputs to trace with: half grey, a square hole in the middle."""
    image = torch.full((1, 3, resolution, resolution), 0.5)
    mask = torch.zeros(1, 1, resolution, resolution)
    mask[:, :, resolution // 4 : resolution // 2, resolution // 4 : resolution // 2] = 1.0
    given = {"image": image, "mask": mask} | ({"edges": torch.zeros_like(mask)} if edges_input else {})
    return {k: v.permute(0, 2, 3, 1).contiguous() if channels_last else v for k, v in given.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what converters and their C++ parts print out of sight; show all of it if the block raises."""
    with tempfile.TemporaryFile("w+b") as log:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        text = open(os.dup(log.fileno()), "w")  # noqa: SIM115 - closed below, after the descriptors are back
        failed = True
        try:
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
                yield
            failed = False
        finally:
            with contextlib.suppress(ValueError):
                text.flush()
            for number, old in zip((1, 2), saved, strict=True):
                os.dup2(old, number)
                os.close(old)
            text.close()
            if failed:
                log.seek(0)
                sys.stderr.write(log.read().decode(errors="replace"))


@contextlib.contextmanager
def _step(words: str) -> Iterator[None]:
    """One line for one step, with the seconds it took."""
    print(f"  {words} ...", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        with _quiet():
            yield
    except BaseException:
        print(" failed", file=sys.stderr, flush=True)
        raise
    print(f" {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _need(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{module} is not installed: pip install 'faceeraser[{extra}]'") from error


# --- TFLite ---------------------------------------------------------------------------------------------------------


def to_tflite(pipeline: FaceEraser, path: Path, precision: str, edges_input: bool = False) -> None:
    """Write a .tflite file: NHWC float32 inputs `image`, `mask` (`edges`), output `erased`, batch 1.

    precision: 'fp32' or 'fp16' (weights only; arithmetic stays float32) of a float network, 'int8' of a quantized one.
    """
    litert_torch = _need("litert_torch", "tflite")
    network = _frozen(pipeline)
    network.warp = warp_by_rows
    options: dict[str, Any] = {}
    if precision == "int8":
        from litert_torch.quantize import pt2e_quantizer, quant_config

        # The network's own quantize / dequantize operators carry the scales; this only tells the converter to use them.
        symmetric = pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
        quantizer = pt2e_quantizer.PT2EQuantizer().set_global(symmetric)
        options["quant_config"] = quant_config.QuantConfig(pt2e_quantizer=quantizer)
    sample = _sample(pipeline.config.resolution, edges_input, channels_last=True)
    form = _Form(network, channels_last=True).eval()
    litert_torch.convert(form, sample_kwargs=sample, **options).export(str(path))
    if precision == "int8":
        _keep_in_float(path)
    if precision == "fp16":
        _halve_weights(path)


def _halve_weights(path: Path) -> None:
    """Store the convolutions' weights in float16, in place; arithmetic, coordinates and everything else stay float32."""
    from ai_edge_quantizer import qtyping, quantizer

    maker = quantizer.Quantizer(str(path))
    half = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True,
    )  # fmt: skip
    for operation in (qtyping.TFLOperationName.CONV_2D, qtyping.TFLOperationName.CONV_2D_TRANSPOSE):
        maker.update_quantization_recipe(
            regex=".*", operation_name=operation, op_config=half,
            algorithm_key=quantizer.AlgorithmName.FLOAT_CASTING,
        )  # fmt: skip
    halved = maker.quantize().quantized_model
    assert halved is not None
    path.write_bytes(halved)


class _Graph:
    """A .tflite file's only graph: its operators by name, and the one that makes each tensor."""

    SAME_SCALE = (
        "RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "PAD", "SQUEEZE", "EXPAND_DIMS", "AVERAGE_POOL_2D",
        "RESIZE_BILINEAR",
    )  # fmt: skip
    """Operators whose int8 output has the scale of their first input: the converter carries int8 back through them."""

    def __init__(self, path: Path):
        self.schema = import_module("ai_edge_litert.schema_py_generated")
        self.model = self.schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
        if len(self.model.subgraphs) != 1:
            raise GateFailed(f"{path.name}: {len(self.model.subgraphs)} subgraphs, expected one")
        self.graph = self.model.subgraphs[0]
        self.names = {v: k for k, v in vars(self.schema.BuiltinOperator).items() if isinstance(v, int)}
        self.types = {v: k for k, v in vars(self.schema.TensorType).items() if isinstance(v, int)}
        self.maker = {int(t): op for op in self.graph.operators for t in op.outputs}

    def name(self, op: Any) -> str:
        code = self.model.operatorCodes[op.opcodeIndex]
        return self.names[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def ops(self, *names: str) -> list[Any]:
        return [op for op in self.graph.operators if self.name(op) in names]

    def type(self, tensor: int) -> str:
        return self.types[self.graph.tensors[tensor].type]

    def constant(self, tensor: int) -> bool:
        """Whether the file holds the tensor's values."""
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        return tensor not in self.maker and data is not None and len(data) > 0

    def before(self, tensor: int, stop: Sequence[str]) -> Iterator[tuple[str, int]]:
        """(operator that makes it, tensor) of a tensor and all it is computed from, back to operators in `stop`."""
        seen, waiting = set(), [tensor]
        while waiting:
            t = waiting.pop()
            if t in seen or t < 0:
                continue
            seen.add(t)
            op = self.maker.get(t)
            name = self.name(op) if op else ""
            yield name, t
            if op and name not in stop:
                waiting.extend(int(i) for i in op.inputs)

    def moved_back(self, dequantize: Any) -> tuple[int, list[Any]] | None:
        """Where DEQUANTIZE only undoes a QUANTIZE: (the float tensor before, operators in between, first one first)."""
        between: list[Any] = []
        op = self.maker.get(int(dequantize.inputs[0]))
        while op is not None and self.name(op) in self.SAME_SCALE:
            between.insert(0, op)
            op = self.maker.get(int(op.inputs[0]))
        if op is None or self.name(op) != "QUANTIZE" or self.type(int(op.inputs[0])) != "FLOAT32":
            return None
        return int(op.inputs[0]), between

    def as_float(self, like: int) -> int:
        """A new float32 tensor of the shape of another."""
        tensor = copy.copy(self.graph.tensors[like])
        tensor.type, tensor.quantization = self.schema.TensorType.FLOAT32, None
        tensor.name = bytes(tensor.name or b"") + b"_float"
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def write(self, path: Path) -> None:
        flatbuffers = import_module("flatbuffers")
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        path.write_bytes(bytes(builder.Output()))


def _keep_in_float(path: Path) -> None:
    """Give every float operator the float tensor that the network gives it, in place.

    Where a tensor is quantized for one reader, the converter hands its int8 form to the others too, carried back through
    reshapes and slices: the warped picture that `refined` adds to, the picture that Canny sees and the visible part of
    the output then had 8 bits. (Its own flag against that, strict_qdq_mode, changes nothing in litert-torch 0.10.)
    """
    graph = _Graph(path)
    for op in graph.ops("QUANTIZE"):  # float to one int8 scale and on to another, where inputs of a join differ in scale
        first = graph.maker.get(int(op.inputs[0]))
        if first is not None and graph.name(first) == "QUANTIZE" and graph.type(int(first.inputs[0])) == "FLOAT32":
            op.inputs = np.array(first.inputs, np.int32)
    kept: list[Any] = []
    for op in graph.graph.operators:
        found = graph.moved_back(op) if graph.name(op) == "DEQUANTIZE" else None
        if found is None:
            kept.append(op)
            continue
        source, between = found
        for k, moved in enumerate(between):
            again = copy.copy(moved)
            again.inputs = np.array([source, *moved.inputs[1:]], np.int32)
            if k + 1 < len(between):
                source = graph.as_float(int(moved.outputs[0]))
            else:
                source = int(op.outputs[0])
            again.outputs = np.array([source], np.int32)
            kept.append(again)
        if not between:
            for reader in graph.graph.operators:
                reader.inputs = np.array([source if i == op.outputs[0] else i for i in reader.inputs], np.int32)
    kept = _resample_in_float(graph, kept)
    while True:  # what nobody reads any more
        read = {int(i) for op in kept for i in op.inputs} | {int(i) for i in graph.graph.outputs}
        alive = [op for op in kept if any(int(t) in read for t in op.outputs)]
        if len(alive) == len(kept):
            break
        kept = alive
    graph.graph.operators = kept
    graph.write(path)


def _resample_in_float(graph: _Graph, operators: list[Any]) -> list[Any]:
    """The operators, with pooling before a QUANTIZE rather than after it, and bilinear resizing after a DEQUANTIZE.

    The network pools a picture and then stores it, and resizes what it has read back; the converter puts the step between
    float and int8 on the other side, which rounds twice.
    """
    maker = {int(t): op for op in operators for t in op.outputs}
    quantize: Any = next((op for op in operators if graph.name(op) == "QUANTIZE"), None)
    kept: list[Any] = []
    for op in operators:
        name = graph.name(op)
        found = graph.moved_back(op) if name == "AVERAGE_POOL_2D" and graph.type(int(op.outputs[0])) == "INT8" else None
        source = maker.get(int(op.inputs[0])) if name == "DEQUANTIZE" else None
        if found is not None:
            at, between = found
            for moved in (*between, op):
                again, made = copy.copy(moved), graph.as_float(int(moved.outputs[0]))
                again.inputs = np.array([at, *moved.inputs[1:]], np.int32)
                again.outputs, at = np.array([made], np.int32), made
                kept.append(again)
            stored = copy.copy(quantize)
            stored.inputs, stored.outputs = np.array([at], np.int32), np.array([op.outputs[0]], np.int32)
            kept.append(stored)
        elif source is not None and graph.name(source) == "RESIZE_BILINEAR":
            read, resized = copy.copy(op), copy.copy(source)
            between_them = graph.as_float(int(source.inputs[0]))
            read.inputs, read.outputs = np.array([source.inputs[0]], np.int32), np.array([between_them], np.int32)
            resized.inputs = np.array([between_them, *source.inputs[1:]], np.int32)
            resized.outputs = np.array([op.outputs[0]], np.int32)
            kept += [read, resized]
        else:
            kept.append(op)
    return kept


def check_tflite(path: Path, pipeline: FaceEraser, precision: str) -> dict[str, Any]:
    """Assert on the written file what must hold of it; returns what was counted, for the card.

    Raises:
        GateFailed: the warp is not four look-ups of rows; a coordinate or a warped pixel is not float32; a convolution is
            not int8 in an int8 file; or a learnt scale of the checkpoint is not in the file to 1e-6 relative.
    """
    graph = _Graph(path)

    def wrong(words: str) -> GateFailed:
        return GateFailed(f"{path.name}: {words}")

    lookups = graph.ops("EMBEDDING_LOOKUP", "GATHER")
    if len(lookups) != 4 or graph.ops("GATHER_ND"):
        raise wrong(f"{len(lookups)} look-ups, expected the warp as 4 and no GATHER_ND")
    # Back from the sampled rows to the flow's convolution and to the picture; then on to the warped picture.
    around = {int(t) for op in lookups for t in op.outputs}
    warped = set(around)
    for op in graph.graph.operators:
        if graph.name(op) in ("MUL", "ADD", "RESHAPE") and any(int(i) in warped for i in op.inputs):
            warped |= {int(t) for t in op.outputs}
    for tensor in around:
        for maker, t in graph.before(tensor, ("CONV_2D", "TRANSPOSE_CONV")):
            if graph.type(t) not in ("FLOAT32", "INT32", "BOOL"):
                raise wrong(f"the warp is computed from a {graph.type(t)} tensor ({maker}), expected float32")
    if bad := {graph.type(t) for t in warped} - {"FLOAT32"}:
        raise wrong(f"the warped picture is {', '.join(bad)}, expected float32")
    if carried := [op for op in graph.ops("DEQUANTIZE") if graph.moved_back(op)]:
        raise wrong(f"{len(carried)} float operators read a tensor that was quantized for another reader")
    convolutions = graph.ops("CONV_2D", "TRANSPOSE_CONV", "DEPTHWISE_CONV_2D")
    whole = [op for op in convolutions if all(graph.type(int(t)) == "INT8" for t in (*op.inputs[:2], op.outputs[0]))]
    expected = sum(isinstance(m, QuantConv2d) for m in pipeline.modules())
    if len(whole) != expected:
        raise wrong(f"{len(whole)} of {len(convolutions)} convolutions are int8 throughout, expected {expected}")
    counted = Counter(graph.name(op) for op in graph.graph.operators)
    found: dict[str, Any] = {"operators": dict(counted.most_common()), "int8_convolutions": len(whole)}
    if precision == "int8":
        found["scales"] = _check_scales(graph, pipeline, wrong)
    return found


def _check_scales(graph: _Graph, pipeline: FaceEraser, wrong: Callable[[str], GateFailed]) -> int:
    """Every learnt scale is in the file, and the file quantizes no activation by any other; returns how many there are."""
    activations: set[tuple[float, int]] = set()
    weights: list[np.ndarray] = []
    for t, tensor in enumerate(graph.graph.tensors):
        if graph.type(t) != "INT8" or tensor.quantization is None or tensor.quantization.scale is None:
            continue
        if graph.constant(t):
            weights.append(np.asarray(tensor.quantization.scale, np.float64))
        elif t in graph.maker:
            activations.add((float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])))
    unknown, count = set(activations), 0
    for name, scale, zero_point in quant.quantized_tensors(pipeline):
        learnt = np.atleast_1d(scale.detach().cpu().double().numpy())
        count += 1
        if name.endswith(":weight"):
            matched = any(len(w) == len(learnt) and np.allclose(w, learnt, rtol=1e-6, atol=0) for w in weights)
        else:
            same = {a for a in activations if a[1] == zero_point and math.isclose(a[0], learnt[0], rel_tol=1e-6)}
            matched = bool(same)
            unknown -= same
        if not matched:
            raise wrong(f"the learnt scale of {name} ({learnt[0]:.8g}, zero point {zero_point}) is not in the file")
    if unknown:
        value, zero = unknown.pop()
        raise wrong(f"a tensor is quantized with scale {value:.8g}, zero point {zero}, which nothing in the checkpoint has")
    return count


# --- ONNX -----------------------------------------------------------------------------------------------------------


def to_onnx(pipeline: FaceEraser, path: Path, precision: str, edges_input: bool = False) -> None:
    """Write an .onnx file, opset 18, the warp as GridSample: NCHW float32 inputs `image`, `mask` (`edges`), output `erased`.

    precision: 'fp32' of a float network; 'int8' of a quantized one, as QuantizeLinear / DequantizeLinear pairs with the
    learnt scales, which a runtime joins with the operators between them.
    """
    _need("onnxscript", "onnx")
    onnx = _need("onnx", "onnx")
    network = _frozen(pipeline)
    network.warp = warp
    sample = _sample(pipeline.config.resolution, edges_input, channels_last=False)
    form = _Form(network, channels_last=False).eval()
    torch.onnx.export(
        form, (), kwargs=sample, f=str(path), dynamo=True, opset_version=18, external_data=False,
        input_names=list(sample), output_names=["erased"],
    )  # fmt: skip
    model = onnx.load(str(path))
    _fold_weights(model)
    # The exporter leaves a Python stack trace on every node, which is more than the weights of a small network.
    for owner in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del owner.metadata_props[:]
    del model.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _fold_weights(model: Any) -> None:
    """Store quantized weights as int8: QuantizeLinear of a constant, and the clip after it, are worked out, in place."""
    from onnx import numpy_helper

    graph = model.graph
    values = {t.name: t for t in graph.initializer}
    kept = []
    for node in graph.node:
        constant = all(name in values for name in node.input if name)
        if not constant or node.op_type not in ("QuantizeLinear", "Clip"):
            kept.append(node)
            continue
        given = [numpy_helper.to_array(values[name]) for name in node.input]
        if node.op_type == "QuantizeLinear":
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            shape = [-1 if k == axis and given[1].ndim else 1 for k in range(given[0].ndim)]
            levels = np.rint(given[0] / given[1].reshape(shape)) + given[2].reshape(shape)
            folded = levels.clip(-128, 127).astype(np.int8)
        else:
            folded = given[0].clip(given[1], given[2])
        values[node.output[0]] = numpy_helper.from_array(folded, node.output[0])
    del graph.node[:]
    graph.node.extend(kept)
    read = {name for node in kept for name in node.input} | {o.name for o in graph.output}
    del graph.initializer[:]
    graph.initializer.extend(t for name, t in values.items() if name in read)


def check_onnx(path: Path, pipeline: FaceEraser, precision: str) -> dict[str, Any]:
    """Assert on the written file what must hold of it; returns what was counted, for the card.

    Raises:
        GateFailed: the warp is not one bilinear, border, corner-aligned GridSample; its coordinates are not computed in
            float; a convolution's weights are not int8 in an int8 file; or a learnt scale of the checkpoint is not in it.
    """
    onnx = _need("onnx", "onnx")
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    maker = {name: node for node in graph.node for name in node.output}
    samples = [node for node in graph.node if node.op_type == "GridSample"]
    if len(samples) != 1:
        raise GateFailed(f"{path.name}: {len(samples)} GridSample operators, expected one")
    how = {a.name: onnx.helper.get_attribute_value(a) for a in samples[0].attribute}
    wanted = {"mode": (b"linear", b"bilinear"), "padding_mode": (b"border",), "align_corners": (1,)}
    for key, allowed in wanted.items():
        if how.get(key) not in allowed:
            raise GateFailed(f"{path.name}: GridSample has {key} = {how.get(key)!r}, expected {allowed[0]!r}")
    seen, waiting = set(), list(samples[0].input)
    while waiting:
        name = waiting.pop()
        node = maker.get(name)
        if node is None or name in seen or node.op_type in ("Conv", "ConvTranspose"):
            continue
        seen.add(name)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise GateFailed(f"{path.name}: the warp's picture or coordinates pass through {node.op_type}, expected float32")
        waiting.extend(node.input)
    initializers = {t.name: t for t in graph.initializer}
    int8 = sum(
        node.op_type == "Conv" and getattr(maker.get(node.input[1]), "op_type", "") == "DequantizeLinear"
        for node in graph.node
    )
    expected = sum(isinstance(m, QuantConv2d) for m in pipeline.modules())
    if int8 != expected:
        raise GateFailed(f"{path.name}: {int8} convolutions have int8 weights, expected {expected}")
    operators = dict(Counter(node.op_type for node in graph.node).most_common())
    found: dict[str, Any] = {"operators": operators, "int8_convolutions": int8}
    if precision == "int8":
        scales = [
            np.atleast_1d(numpy_helper.to_array(initializers[node.input[1]]).astype(np.float64))
            for node in graph.node if node.op_type == "DequantizeLinear"
        ]  # fmt: skip
        learnt = list(quant.quantized_tensors(pipeline))
        for name, scale, _ in learnt:
            value = np.atleast_1d(scale.detach().cpu().double().numpy())
            if not any(len(s) == len(value) and np.allclose(s, value, rtol=1e-6, atol=0) for s in scales):
                raise GateFailed(f"{path.name}: the learnt scale of {name} ({value[0]:.8g}) is not in the file")
        found["scales"] = len(learnt)
    return found


# --- CoreML ---------------------------------------------------------------------------------------------------------


def _without_taps(pipeline: FaceEraser) -> FaceEraser:
    """A copy in float, norms folded; of a quantized network, its weights on their int8 grid and its activations in float.

    For CoreML: coremltools 9 takes none of torch's quantize operators on the route over torch.jit.trace.
    """
    network = copy.deepcopy(pipeline).cpu().eval().requires_grad_(False)
    if not network.config.fused and network.config.norm == "batch":
        quant.fuse(network)
    for module in list(network.modules()):
        if isinstance(module, QuantConv2d):
            step = module.weight_scale.view(-1, 1, 1, 1)
            module.weight.data = (module.weight / step).round().clamp(-127, 127) * step
            module.__class__ = nn.Conv2d
        for name, child in list(module.named_children()):
            if isinstance(child, quant.FakeQuant):
                setattr(module, name, nn.Identity())
    return network


def _traced(pipeline: FaceEraser, edges_input: bool) -> Any:
    """The network as TorchScript with every size a constant, which is what coremltools reads."""
    network = _without_taps(pipeline)
    network.warp = warp
    given = tuple(_sample(pipeline.config.resolution, edges_input, channels_last=False).values())
    # torch.jit.trace alone records sizes as operators on integers, over which coremltools stumbles.
    static = torch.export.export(_Form(network, channels_last=False).eval(), given).module()
    return torch.jit.trace(static, given, check_trace=False)


def to_coreml(pipeline: FaceEraser, path: Path, precision: str, edges_input: bool = False) -> None:
    """Write an .mlpackage (mlprogram, iOS 17) with the warp as `resample`: NCHW float32 in and out.

    precision: 'fp16', or 'int8' for int8 weights, per channel, and float16 arithmetic. Convolutions run in float16; the
    hole's filling, Canny, the head that predicts the flow, coordinates, warp and compositing stay float32.
    """
    tools = _need("coremltools", "coreml")
    sample = _sample(pipeline.config.resolution, edges_input, channels_last=False)
    model = tools.convert(
        _traced(pipeline, edges_input), convert_to="mlprogram", minimum_deployment_target=tools.target.iOS17,
        inputs=[tools.TensorType(name=k, shape=v.shape, dtype=np.float32) for k, v in sample.items()],
        outputs=[tools.TensorType(name="erased", dtype=np.float32)], skip_model_load=True,
        compute_precision=tools.transform.FP16ComputePrecision(op_selector=_HalfInside()),
    )  # fmt: skip
    if precision == "int8":
        import coremltools.optimize.coreml as optimize

        linear = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
        model = optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=linear))
    model.save(str(path))


class _HalfInside:
    """Tells coremltools which operators may run in float16: convolutions and what lies between two of them.

    Not what lies between the flow's head and the warp, and not that head: those are coordinates.
    """

    CONVOLUTIONS = ("conv", "conv_transpose")

    def __init__(self) -> None:
        self.half: set[str] | None = None

    def __call__(self, op: Any) -> bool:
        if self.half is None:
            self.half = self._choose(op.enclosing_block)
        return op.name in self.half

    def _choose(self, block: Any) -> set[str]:
        ops = list(block.operations)
        makers = {op.name: self._makers(op) for op in ops}
        after: set[str] = set()  # has a convolution before it, or is one
        for op in ops:
            if op.op_type in self.CONVOLUTIONS or any(m.name in after for m in makers[op.name]):
                after.add(op.name)
        before: set[str] = set()  # has a convolution after it, or is one
        for op in reversed(ops):
            if op.op_type in self.CONVOLUTIONS or op.name in before:
                before |= {op.name, *(m.name for m in makers[op.name])}
        coordinates: set[str] = set()
        waiting = [op for op in ops if op.op_type == "resample"]
        while waiting:
            op = waiting.pop()
            if op.name not in coordinates:
                coordinates.add(op.name)
                waiting.extend([] if op.op_type in self.CONVOLUTIONS else makers[op.name])
        return (after & before) - coordinates

    @staticmethod
    def _makers(op: Any) -> list[Any]:
        given = (v for value in op.inputs.values() for v in (value if isinstance(value, (list, tuple)) else [value]))
        return [v.op for v in given if getattr(v, "op", None) is not None]


def check_coreml(path: Path, pipeline: FaceEraser, precision: str) -> dict[str, Any]:
    """Assert on the saved package, read again, what must hold of it; returns what was counted, for the card.

    Raises:
        GateFailed: the warp is not one bilinear, border, corner-aligned `resample`; or its picture or coordinates are not
            float32; or a convolution's weights are not int8 in an int8 package.
    """
    tools = _need("coremltools", "coreml")
    from coremltools.proto import MIL_pb2

    spec = tools.models.MLModel(str(path), skip_model_load=True).get_spec()
    block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
    maker = {out.name: op for op in block.operations for out in op.outputs}

    def names(op: Any) -> list[str]:
        return [a.name for given in op.inputs.values() for a in given.arguments if a.name]

    def value(name: str) -> Any:
        held = maker[name].attributes["val"].immediateValue.tensor
        return held.strings.values[0] if held.strings.values else held.bools.values[0]

    samples = [op for op in block.operations if op.type == "resample"]
    if len(samples) != 1:
        raise GateFailed(f"{path.name}: {len(samples)} resample operators, expected one")
    wanted = {"sampling_mode": "bilinear", "padding_mode": "border", "align_corners": True,
              "coordinates_mode": "normalized_minus_one_to_one"}  # fmt: skip
    for key, expected in wanted.items():
        if (found := value(samples[0].inputs[key].arguments[0].name)) != expected:
            raise GateFailed(f"{path.name}: resample has {key} = {found}, expected {expected}")
    seen, waiting = set(), [samples[0].outputs[0].name]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in maker or maker[name].type == "const":
            continue
        seen.add(name)
        for out in maker[name].outputs:
            if out.type.tensorType.dataType == MIL_pb2.DataType.FLOAT16:
                raise GateFailed(f"{path.name}: {maker[name].type} before the warp is float16, expected float32")
        # The flow's head is the first convolution on the way back; its input may be float16, cast before it.
        waiting.extend([] if maker[name].type in _HalfInside.CONVOLUTIONS else names(maker[name]))
    convolutions = [op for op in block.operations if op.type in _HalfInside.CONVOLUTIONS]
    packed = sum(
        maker[op.inputs["weight"].arguments[0].name].type.startswith("constexpr") for op in convolutions
    )  # fmt: skip
    if precision == "int8" and packed != len(convolutions):
        raise GateFailed(f"{path.name}: {packed} of {len(convolutions)} convolutions have int8 weights, expected all")
    operators = Counter(op.type for op in block.operations if op.type != "const")
    return {"operators": dict(operators.most_common()), "int8_convolutions": 0, "int8_weights": packed}


# --- the parity gate ------------------------------------------------------------------------------------------------


def _edges_of(picture: Picture) -> np.ndarray:
    """Edges as `artifact.Artifact` computes them for a file that takes them as an input."""
    return canny(picture.image @ np.array([0.299, 0.587, 0.114], np.float32), picture.mask)


def reference(pipeline: FaceEraser, pictures: Sequence[Picture], edges_input: bool = False) -> list[np.ndarray]:
    """What the checkpoint's own network erases: (R, R, 3) float32 for each picture; fake-quantized if it is quantized."""
    pipeline.eval()
    found = []
    with torch.no_grad():
        for picture in pictures:
            image = torch.from_numpy(picture.image).permute(2, 0, 1)[None]
            edges = torch.from_numpy(_edges_of(picture))[None, None] if edges_input else None
            erased = pipeline(image, torch.from_numpy(picture.mask)[None, None], edges)["erased"]
            found.append(erased[0].permute(1, 2, 0).numpy())
    return found


def _runner(traced: Any, edges_input: bool) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A traced program as `artifact.Artifact.run` runs a file."""

    def run(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        picture = Picture("", image, mask)
        edges = [torch.from_numpy(_edges_of(picture))[None, None]] if edges_input else []
        with torch.no_grad():
            erased = traced(
                torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(mask)[None, None], *edges
            )  # fmt: skip
        return erased[0].permute(1, 2, 0).numpy()

    return run


def parity(
    run: Callable[[np.ndarray, np.ndarray], np.ndarray], pictures: Sequence[Picture], expected: Sequence[np.ndarray],
    gate: Gate,
) -> dict[str, Any]:  # fmt: skip
    """Compare a file with its checkpoint inside the hole, picture by picture; the card's `parity`.

    Also runs two pictures again with other pixels in the hole: the whole output must stay bit-identical.
    """
    worst: dict[str, Any] = {"psnr_hole_min": 200.0, "max_abs_hole": 0.0}
    failures = []
    for k, (picture, truth) in enumerate(zip(tqdm(pictures, "  parity", file=sys.stderr), expected, strict=True)):
        erased = run(picture.image, picture.mask)
        error = (erased.astype(np.float64) - truth)[picture.mask > 0.5]
        largest = float(np.abs(error).max(initial=0.0))
        psnr = min(200.0, -10 * math.log10(max(float(np.mean(error**2)), 1e-20))) if np.isfinite(error).all() else -200.0
        if psnr < worst["psnr_hole_min"]:
            worst |= {"psnr_hole_min": psnr, "worst_picture": picture.name}
        worst["max_abs_hole"] = max(worst["max_abs_hole"], largest if math.isfinite(largest) else 1e9)
        if not gate.passes(psnr, largest):
            failures.append(f"{picture.name}: {psnr:.1f} dB, max abs {largest:.2g} inside the hole, expected {gate}")
        if k < 2:
            noise = np.random.default_rng(k).random(picture.image.shape, np.float32)
            other = run(np.where(picture.mask[..., None] > 0.5, noise, picture.image), picture.mask)
            if not np.array_equal(erased, other):
                failures.append(
                    f"{picture.name}: pixels inside the hole change the output (by {np.abs(erased - other).max():.2g})"
                )
    return {
        "n": len(pictures), **{k: round(v, 7) if isinstance(v, float) else v for k, v in worst.items()},
        "gate": str(gate), "passed": not failures,
        **({"looser_because": gate.reason} if gate.reason else {}), **({"failures": failures} if failures else {}),
    }  # fmt: skip


# --- export: convert, check, gate, publish --------------------------------------------------------------------------


def own_precision(pipeline: FaceEraser, kind: str) -> str:
    """What 'auto' stands for: int8 for a quantized network, else fp32; fp16 for CoreML."""
    return "fp16" if kind == "coreml" else "int8" if pipeline.config.quantized else "fp32"


def export(
    source: Path | str, target: Path | str, kind: str, precision: str = "auto", *, edges_input: bool = False,
    data: Path | str | None = None, name: str | None = None, overwrite: bool = False,
    bound: float | None = None, reason: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Convert a stage's folder into a file with its card in the folder `target`; returns the card.

    Args:
        source: checkpoint folder.
        target: folder for exported files; made if needed.
        kind: 'tflite', 'onnx' or 'coreml'.
        precision: 'auto', or one of PRECISIONS[kind].
        edges_input: edges are an input of the file, instead of Canny inside.
        data: prepared folder, whose tune list adds faces to the gate's pictures.
        name: file name without suffixes; the source folder's name by default.
        overwrite: replace a file that is there.
        bound: another gate (dB; for fp32 the largest difference); a looser one needs its `reason`.
        reason: goes into the card.

    Raises:
        ValueError: the source is not a checkpoint, the precision does not fit it, or the target exists.
        GateFailed: the file is not what the checkpoint says; nothing was published.
    """
    source, target = Path(source), Path(target)
    pipeline = checkpoint.load(source)
    if checkpoint.history(source)[-1]["stage"] == "train-edge":
        raise ValueError(
            f"{source}: only its edge network was trained, the others are as they started; "
            f"run phase 2 first: python train/train.py DATA TARGET --phase inpaint --edge {source}"
        )
    if pipeline.config.quantized:
        quant.round_biases(pipeline, *_sample(pipeline.config.resolution, False, False).values())
    own = own_precision(pipeline, kind)
    precision = own if precision == "auto" else precision
    _check_precision(source, pipeline, kind, precision)
    gate = Gate.of(precision, bound, reason)
    suffix = ("" if precision == own else f"-{precision}") + ("-edges" if edges_input else "")
    path = target / f"{name or source.resolve().name}{suffix}{SUFFIXES[kind]}"
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already; choose another --name, or --overwrite to replace it")
    print(f"{path} ({precision})", file=sys.stderr)
    pictures = gate_pictures(pipeline.config.resolution, data)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.partial-", dir=target) as folder:
        staged = Path(folder) / path.name
        write, check = _KINDS[kind]
        with _step("converting"):
            write(pipeline, staged, precision, edges_input)
        with _step("checking the file"):
            checked = check(staged, pipeline, precision)
        fields: dict[str, Any] = {
            "precision": precision, "resolution": pipeline.config.resolution,
            "edges": "input" if edges_input else "inside", "warp": WARPS[kind], "notes": _notes(pipeline, kind, precision),
            "history": checkpoint.history(source), "checked": checked, "parity": {"n": 0, "passed": False},
        }  # fmt: skip
        with _step("reading it back"):
            if kind == "coreml":
                gmacs, params = count(pipeline, pipeline.config.resolution)
                fields |= {"gmacs": gmacs, "params": params, **artifact.describe(staged)}
            artifact.write_card(staged, fields)
            file = artifact.Artifact(staged, threads=1)
        with _step("running the checkpoint's network"):
            expected = reference(_without_taps(pipeline) if kind == "coreml" else pipeline, pictures, edges_input)
        if kind == "coreml" and sys.platform != "darwin":
            # What can be measured here: the program that coremltools was given, in float32.
            with _step("tracing again"):
                runner = _runner(_traced(pipeline, edges_input), edges_input)
            traced = parity(runner, pictures, expected, Gate.of("fp32"))
            fields["traced_parity"] = traced
            measured = {"n": 0, "psnr_hole_min": None, "max_abs_hole": None, "gate": str(gate), "passed": None}
            failures = traced.get("failures")
        else:
            measured = parity(file.run, pictures, expected, gate)
            failures = measured.get("failures")
        if failures:
            raise GateFailed(f"{path.name} was not published: " + "; ".join(failures))
        card = artifact.write_card(staged, fields | {"parity": measured})
        if path.is_dir():
            shutil.rmtree(path)
        staged.replace(path)
        artifact.card_path(staged).replace(artifact.card_path(path))
    return card


def _check_precision(source: Path, pipeline: FaceEraser, kind: str, precision: str) -> None:
    if precision not in PRECISIONS[kind]:
        raise ValueError(f"{precision} is not a precision for {kind}: expected one of {', '.join(PRECISIONS[kind])}")
    if kind == "coreml":
        return
    if precision == "int8" and not pipeline.config.quantized:
        raise ValueError(f"{source} is not quantized, so it has no int8 form: python compress/quantize.py {source} TARGET")
    if precision != "int8" and pipeline.config.quantized:
        raise ValueError(f"{source} is quantized, found --precision {precision}: export the folder it was made from")


def _notes(pipeline: FaceEraser, kind: str, precision: str) -> list[str]:
    """What a reader of the card has to know besides its figures."""
    quantized = pipeline.config.quantized
    notes = []
    if kind == "coreml":
        if sys.platform != "darwin":
            notes.append(
                "CoreML predicts on macOS only and this was exported elsewhere, so the package was never run; checked were "
                "its saved program and attributes and (traced_parity) the program that coremltools was given"
            )
        notes.append("the flow's head, coordinates, warp, Canny, fill and compositing are float32, the rest is float16")
        if quantized:
            notes.append("from a quantized network: its weights on their int8 grid, its activations in float16, not int8")
        if precision == "int8":
            notes.append("weights int8 per channel, unpacked to float16 for the arithmetic")
    elif precision == "fp16":
        notes.append("weights are float16, arithmetic and coordinates float32; a GPU delegate may choose float16 arithmetic")
    elif precision == "int8":
        notes.append(f"float layers: {', '.join(pipeline.config.float_layers) or 'none'}; biases rounded to int32 steps")
    return notes


_KINDS: dict[str, tuple[Callable[..., None], Callable[..., dict[str, Any]]]] = {
    "tflite": (to_tflite, check_tflite), "onnx": (to_onnx, check_onnx), "coreml": (to_coreml, check_coreml),
}  # fmt: skip


# --- what the three scripts share -----------------------------------------------------------------------------------


def add_flags(made: argparse.ArgumentParser, kind: str) -> argparse.ArgumentParser:
    """The flags of an exporting script, added to a stage's parser; returns it."""
    made.add_argument(
        "--precision", nargs="+", choices=("auto", *PRECISIONS[kind]), default=["auto"], metavar="P",
        help=f"one or more of auto, {', '.join(PRECISIONS[kind])} (default: auto)",
    )  # fmt: skip
    made.add_argument("--edges-input", action="store_true", help="edges are an input of the file, instead of Canny inside")
    made.add_argument("--data", type=Path, help="prepared folder: its tune list adds faces to the gate's pictures")
    made.add_argument("--name", help="file name without suffixes (default: the source folder's name)")
    made.add_argument("--gate", type=float, metavar="BOUND", help="another gate: dB, or for fp32 the largest difference")
    made.add_argument("--reason", help="why the gate is looser than the usual one; goes into the card")
    return made


def run(args: argparse.Namespace, kind: str) -> None:
    """Export SOURCE once for each --precision, then print the table and the JSON line."""
    cards = [
        export(
            args.source, args.target, kind, precision, edges_input=args.edges_input, data=args.data, name=args.name,
            overwrite=args.overwrite, bound=args.gate, reason=args.reason,
        )
        for precision in dict.fromkeys(args.precision)
    ]  # fmt: skip
    rows = [
        {
            "file": card["file"], "precision": card["precision"], "bytes": card["bytes"], "gmacs": card["gmacs"],
            "params": card["params"], "psnr_hole_min": card["parity"]["psnr_hole_min"],
            "max_abs_hole": card["parity"]["max_abs_hole"], "gate": card["parity"]["gate"],
        }
        for card in cards
    ]  # fmt: skip
    n = cards[0]["parity"]["n"]
    how = f"parity inside the hole, worst of {n} pictures" if n else "checked, not run: CoreML predicts on macOS only"
    finish(f"{args.target} ({how})", rows, {"files": rows})

"""A network as a .tflite file: written, mended where the converter rounds too often, and checked on the flatbuffer."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faceeraser import form, paint, quant
from faceeraser.artifact import RESAMPLER
from faceeraser.extras import need
from faceeraser.flatbuffer import Graph
from faceeraser.networks import Inpainter
from faceeraser.planner import PatchEraser
from faceeraser.quant import QuantConv2d
from faceeraser.script import GateFailed
from faceeraser.warp import sample_rows, sampling_coordinates, warp_by_rows


@dataclass(frozen=True)
class Flavour:
    """A kind of .tflite file.

    delegates: what it is for. eight_bit: uint8 pictures in and out, the mask uint8 too, any non-zero = erase; else float32
    in [0, 1]. warp: 'rows' or 'resampler' (see `write`). for_cpu: edited for XNNPACK, with operators that GPU delegates
    need not have.
    """

    delegates: tuple[str, ...]
    told: str
    eight_bit: bool = False
    warp: str = "rows"
    for_cpu: bool = False


FLAVOURS = {
    "cpu": Flavour(("xnnpack",), "uint8 pictures in and out, on any CPU", eight_bit=True, for_cpu=True),
    "web": Flavour(("xnnpack",), "float pictures in and out, on any CPU and in a browser (LiteRT.js)", for_cpu=True),
    "gpu": Flavour(("gpu", "xnnpack"), "float pictures, every node for the GPU delegate, stock operators"),
    "gpu-resampler": Flavour(("gpu", "resampler plugin"), "the same with the GPU delegate's own warp", warp="resampler"),
}
"""Flavours of a .tflite file; the first is what an exporter makes unless told."""

_COMPOSITE = "faceeraser.resampler"


def write(
    pipeline: Inpainter, path: Path, precision: str, edges_input: bool = False, flavour: str = "cpu", output: str = "erased",
    *, with_plan: bool = False,
) -> None:  # fmt: skip
    """Write a .tflite file: NHWC inputs `image`, `mask` (`edges`), output `erased`, batch 1; the mask's tensor is called
    `mask_where_1_is_erased`.

    precision: 'fp32' or 'fp16' (weights only; arithmetic stays float32) of a float network, 'int8' of a quantized one.
    flavour: one of FLAVOURS. Its warp is 'rows', look-ups of rows by stock operators, for CPUs and GPU delegates alike; or
        'resampler', the operator that GPU delegates have for it, which on a CPU needs the plugin that
        export/build_resampler.sh makes.
    output: 'erased', the whole picture; 'refined', what is painted, before it is laid into the picture; or 'plan', the
        network's `PLAN`, for who paints elsewhere (painting.py).
    with_plan: the network's `PLAN` are outputs too, for a gate to hold them fixed; `without` takes them away.
    """
    litert_torch = need("litert_torch", "tflite", "writing a .tflite file")
    made = FLAVOURS[flavour]
    network = form.frozen(pipeline)
    network.warp, network.to_flow = WARPS[made.warp], _flow_in_planes
    if isinstance(network, PatchEraser):
        paint.make_constants(pipeline.config.resolution)
    # By the least cut between NHWC and NCHW; the other way, which goes by the order of nodes, leaves ten TRANSPOSE more.
    litert_torch.config.layout_optimize_partitioner = "MINCUT"
    options: dict[str, Any] = {}
    if precision == "int8":
        from litert_torch.quantize import pt2e_quantizer, quant_config

        # The network's own quantize / dequantize operators carry the scales; this only tells the converter to use them.
        symmetric = pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
        quantizer = pt2e_quantizer.PT2EQuantizer().set_global(symmetric)
        options["quant_config"] = quant_config.QuantConfig(pt2e_quantizer=quantizer)
    sample = form.sample(pipeline.config.resolution, edges_input, channels_last=True)
    outputs = pipeline.PLAN if output == "plan" else (output, *pipeline.PLAN) if with_plan else (output,)
    traced = form.Form(network, channels_last=True, outputs=outputs).eval()
    litert_torch.convert(traced, sample_kwargs=sample, **options).export(str(path))
    if precision == "int8":
        _keep_in_float(path)
    if precision == "fp16":
        _halve_weights(path)
    graph = Graph(path)
    for_any_delegate(graph)
    if made.for_cpu:
        _heads_in_phases(graph)
        _copies_by_convolution(graph)
        _enlarge_in_channels(graph)
    if made.eight_bit:
        _in_eight_bits(graph)
    for given in graph.model.signatureDefs[0].inputs:
        if given.name == b"mask":
            graph.graph.tensors[given.tensorIndex].name = b"mask_where_1_is_erased"
    graph.write(path)


def without(path: Path, target: Path, names: Sequence[str]) -> None:
    """Write the file at `path` again as `target`, without the outputs of these names and what only they need."""
    graph = Graph(path)
    signature = graph.model.signatureDefs[0]
    signature.outputs = [made for made in signature.outputs if made.name.decode() not in names]
    kept = {int(made.tensorIndex) for made in signature.outputs}
    graph.graph.outputs = np.array([t for t in graph.graph.outputs if int(t) in kept], np.int32)
    graph.graph.operators = _read_by_anyone(graph, graph.graph.operators)
    graph.write(target)


def _read_by_anyone(graph: Graph, operators: list[Any]) -> list[Any]:
    """The operators without those whose outputs nobody reads, nor is given."""
    while True:
        read = {int(i) for op in operators for i in op.inputs} | {int(i) for i in graph.graph.outputs}
        alive = [op for op in operators if any(int(t) in read for t in op.outputs)]
        if len(alive) == len(operators):
            return alive
        operators = alive


def _flow_in_planes(offsets: Tensor) -> Tensor:
    """`warp.offsets_to_flow`, as a transposition to planes and products on them: pixels of two channels are slow to cut."""
    _, _, height, width = offsets.shape
    x, y = offsets.reshape(1, 2, height * width).split(1, 1)  # of two dimensions, no GPU delegate would cut them
    scaled = torch.cat([x * ((width - 1) / 2), y * ((height - 1) / 2)], 1)
    return scaled.reshape(1, 2, height, width)


def _marked(image: Tensor, flow: Tensor) -> Tensor:
    """`warp_by_rows`, marked for the converter: it comes out as one composite operator, in whose place Resampler goes."""
    from litert_torch.backend.composite import StableHLOCompositeBuilder

    marks = StableHLOCompositeBuilder(_COMPOSITE)
    coordinates = torch.cat(sampling_coordinates(flow), 1).permute(0, 2, 3, 1)
    picture, coordinates = marks.mark_inputs(image.permute(0, 2, 3, 1), coordinates)
    x, y = coordinates.permute(0, 3, 1, 2).split(1, 1)
    sampled = sample_rows(picture.permute(0, 3, 1, 2), x, y)
    return marks.mark_outputs(sampled.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


WARPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"rows": warp_by_rows, "resampler": _marked}
"""The warp's forms in a .tflite file; each is whole after `for_any_delegate`."""


def for_any_delegate(graph: Graph) -> None:
    """Put what every delegate takes in the place of what some refuse; no number changes.

    A look-up in a table becomes GATHER, as fast on a CPU; a clamp to [0, 1] becomes RELU and MINIMUM; the marked warp
    becomes Resampler.
    """
    for op in graph.ops("EMBEDDING_LOOKUP"):
        graph.make(op, "GATHER", [op.inputs[1], op.inputs[0]], graph.schema.GatherOptionsT())
    for op in graph.ops("RELU_0_TO_1"):
        if graph.type(int(op.outputs[0])) == "FLOAT32":
            below, at = copy.copy(op), graph.graph.operators.index(op)
            below.outputs = np.array([graph.as_float(int(op.outputs[0]))], np.int32)
            graph.make(below, "RELU", [op.inputs[0]])
            graph.make(op, "MINIMUM", [below.outputs[0], graph.scalar(1.0)], graph.schema.MaximumMinimumOptionsT())
            graph.graph.operators.insert(at, below)
    for op in graph.ops("STABLEHLO_COMPOSITE"):
        if op.builtinOptions2.name.decode() == _COMPOSITE:
            graph.make(op, RESAMPLER, op.inputs)


def _heads_in_phases(graph: Graph) -> None:
    """Let a convolution of few channels compute four pixels at once, as the channels of one, which DEPTH_TO_SPACE lays out.

    XNNPACK computes 8 or 16 channels at a time whether they are there or not, and the heads have one to three. A kernel that
    is one larger and moves by two holds the old one four times, at its four places; the sums are the same, to the bit.
    """
    kept: list[Any] = []
    for op in graph.graph.operators:
        kept.append(op)
        if graph.name(op) != "CONV_2D":
            continue
        source, weight, bias = (int(i) for i in op.inputs[:3])
        channels, rows, columns, depth = graph.shape(weight)
        how, (_, height, width, _) = op.builtinOptions, graph.shape(int(op.outputs[0]))
        plain = how.strideH == how.strideW == how.dilationHFactor == how.dilationWFactor == 1
        if not plain or channels > 4 or rows != columns or rows < 3 or rows % 2 == 0 or height % 2 or width % 2:
            continue
        if how.padding != graph.schema.Padding.SAME or not (graph.constant(weight) and graph.constant(bias)):
            continue
        held = np.zeros((2, 2, channels, rows + 1, columns + 1, depth), graph.values(weight).dtype)
        for down, right in np.ndindex(2, 2):
            held[down, right, :, down : down + rows, right : right + columns] = graph.values(weight)
        held = held.reshape(4 * channels, rows + 1, columns + 1, depth)
        biases = np.tile(graph.values(bias), 4)
        op.inputs = np.array([source, graph.tensor(weight, values=held), graph.tensor(bias, values=biases)], np.int32)
        op.builtinOptions = copy.copy(how)
        op.builtinOptions.strideH = op.builtinOptions.strideW = 2
        phases = graph.tensor(int(op.outputs[0]), shape=(1, height // 2, width // 2, 4 * channels))
        kept.append(graph.new("DEPTH_TO_SPACE", [phases], int(op.outputs[0]), _blocks_of_two(graph)))
        op.outputs = np.array([phases], np.int32)
    graph.graph.operators = kept


def _copies_by_convolution(graph: Graph) -> None:
    """Write copies of one channel side by side, as a mask for three channels has, as a 1 x 1 convolution with ones.

    Exact; XNNPACK takes a fifth of the time of what it needs to join single channels pixel by pixel.
    """
    for op in graph.ops("CONCATENATION"):
        source, target, times = int(op.inputs[0]), int(op.outputs[0]), len(op.inputs)
        alike = len({int(i) for i in op.inputs}) == 1 and graph.type(target) == "FLOAT32"
        if alike and len(graph.shape(target)) == 4 and (graph.shape(source)[3], graph.shape(target)[3]) == (1, times):
            how = graph.schema.Conv2DOptionsT()
            how.strideH = how.strideW = how.dilationHFactor = how.dilationWFactor = 1
            ones = graph.tensor(target, values=np.ones((times, 1, 1, 1), np.float32))
            zeros = graph.tensor(target, values=np.zeros(times, np.float32))
            graph.make(op, "CONV_2D", [source, ones, zeros], how)


def _enlarge_in_channels(graph: Graph) -> None:
    """Write an int8 nearest resize to twice the size as four copies in channels that DEPTH_TO_SPACE lays out.

    XNNPACK has no such resize: each one ends its part of the graph and starts another.
    """
    kept: list[Any] = []
    for op in graph.graph.operators:
        source, target = int(op.inputs[0]), int(op.outputs[0])
        if graph.name(op) == "RESIZE_NEAREST_NEIGHBOR" and graph.type(target) == "INT8":
            (_, height, width, channels), (_, higher, wider, _) = graph.shape(source), graph.shape(target)
            if (higher, wider) == (2 * height, 2 * width):
                four = graph.tensor(source, shape=(1, height, width, 4 * channels))
                joined = graph.schema.ConcatenationOptionsT()
                joined.axis = 3
                kept.append(graph.new("CONCATENATION", [source] * 4, four, joined))
                graph.make(op, "DEPTH_TO_SPACE", [four], _blocks_of_two(graph))
        kept.append(op)
    graph.graph.operators = kept


def _blocks_of_two(graph: Graph) -> Any:
    made = graph.schema.DepthToSpaceOptionsT()
    made.blockSize = 2
    return made


def _in_eight_bits(graph: Graph) -> None:
    """Give the graph uint8 inputs and a uint8 output: a picture's levels are divided by 255, and come back rounded."""
    before: list[Any] = []
    after: list[Any] = []
    signature = graph.model.signatureDefs[0]

    def cast(source: int, target: int) -> Any:
        how = graph.schema.CastOptionsT()
        how.inDataType, how.outDataType = graph.graph.tensors[source].type, graph.graph.tensors[target].type
        return graph.new("CAST", [source], target, how)

    for given in signature.inputs:
        inside = int(given.tensorIndex)
        given.tensorIndex = graph.tensor(inside, "UINT8")
        graph.graph.inputs = np.where(graph.graph.inputs == inside, given.tensorIndex, graph.graph.inputs).astype(np.int32)
        if graph.shape(inside)[-1] == 3:
            levels = graph.as_float(inside)
            # Divided: a product with 1 / 255 is a bit off now and then, which int8 makes another flow of.
            divided = graph.new("DIV", [levels, graph.scalar(255.0)], inside, graph.schema.DivOptionsT())
            before += [cast(given.tensorIndex, levels), divided]
        else:
            before.append(cast(given.tensorIndex, inside))
    for given in signature.outputs:
        inside = int(given.tensorIndex)
        if given.name not in (b"erased", b"refined"):  # a plan is no picture
            continue
        levels, rounded, given.tensorIndex = graph.as_float(inside), graph.as_float(inside), graph.tensor(inside, "UINT8")
        all_of_them = graph.graph.outputs
        graph.graph.outputs = np.where(all_of_them == inside, given.tensorIndex, all_of_them).astype(np.int32)
        after += [graph.new("MUL", [inside, graph.scalar(255.0)], levels, graph.schema.MulOptionsT()),
                  graph.new("ROUND", [levels], rounded), cast(rounded, given.tensorIndex)]  # fmt: skip
    graph.graph.operators = [*before, *graph.graph.operators, *after]


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


def _keep_in_float(path: Path) -> None:
    """Give every float operator the float tensor that the network gives it, in place.

    Where a tensor is quantized for one reader, the converter hands its int8 form to the others too, carried back through
    reshapes and slices: the warped picture that `refined` adds to, the picture that Canny sees and the visible part of
    the output then had 8 bits. (Its own flag against that, strict_qdq_mode, changes nothing in litert-torch 0.10.)
    """
    graph = Graph(path)
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
    graph.graph.operators = _read_by_anyone(graph, _resample_in_float(graph, kept))
    graph.write(path)


def _resample_in_float(graph: Graph, operators: list[Any]) -> list[Any]:
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


def check(path: Path, pipeline: Inpainter, precision: str) -> dict[str, Any]:
    """Assert on the written file what must hold of it; returns what was counted, for the card.

    Raises:
        GateFailed: the warp is neither four look-ups of rows nor one Resampler; a coordinate or a warped pixel is not
            float32; a convolution is not int8 in an int8 file; or a learnt scale of the checkpoint is not in the file to
            1e-6 relative.
    """
    graph = Graph(path)

    def wrong(words: str) -> GateFailed:
        return GateFailed(f"{path.name}: {words}")

    lookups = graph.ops("GATHER", RESAMPLER)
    expected = len(pipeline.WARPS) * (1 if graph.ops(RESAMPLER) else 4)
    if isinstance(pipeline, PatchEraser):
        # For each quarter of the windows, where it comes from, and what is there; in a file that only plans, nothing.
        expected = 8 if any(given.name in (b"erased", b"refined") for given in graph.model.signatureDefs[0].outputs) else 0
    if len(lookups) != expected or graph.ops("GATHER_ND"):
        told = "the warp as 4, or as one" if pipeline.WARPS else f"{expected}, nor any"
        raise wrong(f"{len(lookups)} look-ups, expected {told} {RESAMPLER}, and no GATHER_ND")
    # Back from the sampled rows to the flow's convolution and to the picture; then on to the warped picture.
    around = {int(t) for op in lookups for t in op.outputs}
    warped = set(around)
    for op in graph.graph.operators:
        if graph.name(op) in ("MUL", "ADD", "SUB", "RESHAPE", "TRANSPOSE") and any(int(i) in warped for i in op.inputs):
            warped |= {int(t) for t in op.outputs}
    # Features may be stored in 8 bits before they are fetched; what says where from may not.
    read = {int(op.inputs[1]) for op in lookups} if "features" in pipeline.WARPS else around
    for tensor in read:
        for maker, t in graph.before(tensor, ("CONV_2D", "TRANSPOSE_CONV")):
            taken = graph.type(t) == "UINT8" and t in graph.graph.inputs  # eight bits of the picture itself, cast at once
            if graph.type(t) not in ("FLOAT32", "INT32", "BOOL") and not taken:
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


def _check_scales(graph: Graph, pipeline: Inpainter, wrong: Callable[[str], GateFailed]) -> int:
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
            # Four times over where a head computes four pixels at once; then one scale may stand for all four.
            same_scale = (w[:: len(w) // len(learnt)] if len(learnt) == 1 else w[: len(learnt)] for w in weights)
            matched = any(len(w) == len(learnt) and np.allclose(w, learnt, rtol=1e-6, atol=0) for w in same_scale)
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

"""Edits of a .tflite file's graph after the converter, one function each, applied in the order of `EDITS`.

    apply(graph, {"quantized", "for_cpu"})

None changes an output value, except for the type of the pictures (`pictures_in_eight_bits`) and for roundings that the
converter adds to the network (`floats_for_float_readers`, `resampling_in_float`).
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.artifacts.runtimes import RESAMPLER

COMPOSITE = "faceeraser.resampler"
"""What the warp is marked as for `resampler_for_the_mark` to find it."""


# --- of a quantized network: what the converter rounds too often ----------------------------------------------------


def floats_at_the_ends(graph: Graph) -> None:
    """Give the graph float inputs and outputs: what a network stores in int8 at once, or gives as it is stored, the
    converter takes and gives in int8.
    """
    signature, before, after = graph.model.signatureDefs[0], list[Any](), list[Any]()
    for port in signature.inputs:
        inside = int(port.tensorIndex)
        if graph.type(inside) == "INT8":
            port.tensorIndex = graph.as_float(inside)
            of_graph = graph.graph.inputs
            graph.graph.inputs = np.where(of_graph == inside, port.tensorIndex, of_graph).astype(np.int32)
            before.append(graph.new("QUANTIZE", [port.tensorIndex], inside, graph.schema.QuantizeOptionsT()))
    for port in signature.outputs:
        inside = int(port.tensorIndex)
        if graph.type(inside) == "INT8":
            port.tensorIndex = graph.as_float(inside)
            of_graph = graph.graph.outputs
            graph.graph.outputs = np.where(of_graph == inside, port.tensorIndex, of_graph).astype(np.int32)
            after.append(graph.new("DEQUANTIZE", [inside], port.tensorIndex, graph.schema.DequantizeOptionsT()))
    graph.graph.operators = [*before, *graph.graph.operators, *after]


def floats_for_float_readers(graph: Graph) -> None:
    """Give every float operator the float tensor that the network gives it.

    Where a tensor is quantized for one reader, the converter hands its int8 form to the others too, carried back through
    reshapes, slices and repeats: the warped picture that `refined` adds to, the picture that Canny sees, the hole that a
    membrane fills and the visible part of the output then had 8 bits. (Its own flag against that, strict_qdq_mode, changes
    nothing in litert-torch 0.10.)
    """
    for op in graph.ops("QUANTIZE"):  # float to one int8 scale and on to another, where inputs of a join differ in scale
        first = graph.maker.get(int(op.inputs[0]))
        if first is not None and graph.name(first) == "QUANTIZE" and graph.type(int(first.inputs[0])) == "FLOAT32":
            op.inputs = np.array(first.inputs, np.int32)
    kept: list[Any] = []
    for op in graph.graph.operators:
        path_back = graph.moved_back(op) if graph.name(op) == "DEQUANTIZE" else None
        if path_back is None:
            kept.append(op)
            continue
        source, between = path_back
        for k, moved in enumerate(between):
            again = copy.copy(moved)
            again.inputs = np.where(moved.inputs == moved.inputs[0], source, moved.inputs).astype(np.int32)
            if k + 1 < len(between):
                source = graph.as_float(int(moved.outputs[0]))
            else:
                source = int(op.outputs[0])
            again.outputs = np.array([source], np.int32)
            kept.append(again)
        if not between:
            for reader in graph.graph.operators:
                reader.inputs = np.array([source if i == op.outputs[0] else i for i in reader.inputs], np.int32)
    graph.graph.operators = kept


def resampling_in_float(graph: Graph) -> None:
    """Pool before a QUANTIZE rather than after it, and resize bilinearly after a DEQUANTIZE.

    The network pools a picture and then stores it, and resizes what it has read back; the converter puts the step between
    float and int8 on the other side, which rounds twice.
    """
    operators = graph.graph.operators
    maker = {int(t): op for op in operators for t in op.outputs}
    quantize: Any = next((op for op in operators if graph.name(op) == "QUANTIZE"), None)
    kept: list[Any] = []
    for op in operators:
        name = graph.name(op)
        path_back = graph.moved_back(op) if name == "AVERAGE_POOL_2D" and graph.type(int(op.outputs[0])) == "INT8" else None
        source = maker.get(int(op.inputs[0])) if name == "DEQUANTIZE" else None
        if path_back is not None:
            at, between = path_back
            for moved in (*between, op):
                again, floats = copy.copy(moved), graph.as_float(int(moved.outputs[0]))
                again.inputs = np.where(moved.inputs == moved.inputs[0], at, moved.inputs).astype(np.int32)
                again.outputs, at = np.array([floats], np.int32), floats
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
    graph.graph.operators = kept
    unread_operators(graph)


def unread_operators(graph: Graph) -> None:
    """Take away the operators whose outputs nobody reads, nor is given."""
    operators = graph.graph.operators
    while True:
        read = {int(i) for op in operators for i in op.inputs} | {int(i) for i in graph.graph.outputs}
        alive = [op for op in operators if any(int(t) in read for t in op.outputs)]
        if len(alive) == len(operators):
            break
        operators = alive
    graph.graph.operators = operators


# --- of every file: what every delegate takes, in the place of what some refuse -------------------------------------


def gather_for_lookups(graph: Graph) -> None:
    """A look-up in a table is GATHER, which GPU delegates take and which is as fast on a CPU."""
    for op in graph.ops("EMBEDDING_LOOKUP"):
        graph.make(op, "GATHER", [op.inputs[1], op.inputs[0]], graph.schema.GatherOptionsT())


def clamps_in_two(graph: Graph) -> None:
    """A clamp of floats to [0, 1] is RELU and MINIMUM: no GPU delegate has RELU_0_TO_1."""
    for op in graph.ops("RELU_0_TO_1"):
        if graph.type(int(op.outputs[0])) == "FLOAT32":
            below, at = copy.copy(op), graph.graph.operators.index(op)
            below.outputs = np.array([graph.as_float(int(op.outputs[0]))], np.int32)
            graph.make(below, "RELU", [op.inputs[0]])
            graph.make(op, "MINIMUM", [below.outputs[0], graph.scalar(1.0)], graph.schema.MaximumMinimumOptionsT())
            graph.graph.operators.insert(at, below)


def resampler_for_the_mark(graph: Graph) -> None:
    """The marked warp (tflite.WARP_FORMS) is the operator Resampler, which GPU delegates have."""
    for op in graph.ops("STABLEHLO_COMPOSITE"):
        if op.builtinOptions2.name.decode() == COMPOSITE:
            graph.make(op, RESAMPLER, op.inputs)


def repeats_joined(graph: Graph) -> None:
    """Copies along one axis, such as a picture that is sampled by several grids, are a CONCATENATION: GPU delegates have
    no BROADCAST_TO.
    """
    kept: list[Any] = []
    for op in graph.graph.operators:
        kept.append(op)
        source, target = int(op.inputs[0]), int(op.outputs[0])
        if graph.name(op) != "BROADCAST_TO" or len(graph.shape(target)) > 4:
            continue
        after = graph.shape(target)
        before = (1,) * (len(after) - len(graph.shape(source))) + graph.shape(source)
        axes = [axis for axis, (was, now) in enumerate(zip(before, after, strict=True)) if was != now]
        if len(axes) != 1:
            continue
        if before != graph.shape(source):
            how = graph.schema.ReshapeOptionsT()
            how.newShape = np.array(before, np.int32)
            given = [source, graph.tensor(source, "INT32", values=how.newShape)]
            source = graph.tensor(source, shape=before)
            kept.insert(-1, graph.new("RESHAPE", given, source, how))
        joined = graph.schema.ConcatenationOptionsT()
        joined.axis = axes[0]
        graph.make(op, "CONCATENATION", [source] * after[axes[0]], joined)
    graph.graph.operators = kept


def constants_in_advance(graph: Graph) -> None:
    """Compute what hangs on no input, such as the points of an `F.affine_grid`, and store it: a GPU delegate refuses an
    operator that reads constants only, and the converter leaves some.
    """
    fixed, made = set[int](), set[int]()
    given = {int(t) for t in graph.graph.outputs}
    for k, op in enumerate(graph.graph.operators):
        inputs, outputs = [int(t) for t in op.inputs if t >= 0], {int(t) for t in op.outputs}
        known = bool(inputs) and all(graph.constant(t) or t in made for t in inputs)
        # What unpacks weights stays: they are stored in fewer bits.
        if known and graph.name(op) not in ("DEQUANTIZE", "QUANTIZE") and not outputs & given:
            fixed.add(k)
            made |= outputs
    if not fixed:
        return
    left = [op for k, op in enumerate(graph.graph.operators) if k not in fixed]
    wanted = sorted(made & {int(t) for op in left for t in op.inputs})
    for t, values in _computed(graph, fixed, wanted).items():
        graph.store(t, values)
    graph.graph.operators = left


def _computed(graph: Graph, chosen: Collection[int], wanted: list[int]) -> dict[int, np.ndarray]:
    """{tensor: what the chosen operators, by their places, make of constants}."""
    from ai_edge_litert.interpreter import Interpreter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "constants.tflite"
        graph.write(path)
        alone = Graph(path)
        alone.graph.operators = [op for k, op in enumerate(alone.graph.operators) if k in chosen]
        alone.graph.inputs, alone.graph.outputs = np.zeros(0, np.int32), np.array(wanted, np.int32)
        alone.model.signatureDefs = []
        alone.write(path)
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
        interpreter.invoke()
        return {t: interpreter.get_tensor(t) for t in wanted}


# --- for CPUs: what XNNPACK is fast at ------------------------------------------------------------------------------


def heads_in_phases(graph: Graph) -> None:
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
        options, (_, height, width, _) = op.builtinOptions, graph.shape(int(op.outputs[0]))
        plain = options.strideH == options.strideW == options.dilationHFactor == options.dilationWFactor == 1
        if not plain or channels > 4 or rows != columns or rows < 3 or rows % 2 == 0 or height % 2 or width % 2:
            continue
        if options.padding != graph.schema.Padding.SAME or not (graph.constant(weight) and graph.constant(bias)):
            continue
        held = np.zeros((2, 2, channels, rows + 1, columns + 1, depth), graph.values(weight).dtype)
        for down, right in np.ndindex(2, 2):
            held[down, right, :, down : down + rows, right : right + columns] = graph.values(weight)
        held = held.reshape(4 * channels, rows + 1, columns + 1, depth)
        biases = np.tile(graph.values(bias), 4)
        op.inputs = np.array([source, graph.tensor(weight, values=held), graph.tensor(bias, values=biases)], np.int32)
        op.builtinOptions = copy.copy(options)
        op.builtinOptions.strideH = op.builtinOptions.strideW = 2
        phases = graph.tensor(int(op.outputs[0]), shape=(1, height // 2, width // 2, 4 * channels))
        kept.append(graph.new("DEPTH_TO_SPACE", [phases], int(op.outputs[0]), _blocks_of_two(graph)))
        op.outputs = np.array([phases], np.int32)
    graph.graph.operators = kept


def copies_by_convolution(graph: Graph) -> None:
    """Write copies of one channel side by side, as a mask for three channels has, as a 1 x 1 convolution with ones.

    Exact; XNNPACK takes a fifth of the time of what it needs to join single channels pixel by pixel.
    """
    for op in graph.ops("CONCATENATION"):
        source, target, times = int(op.inputs[0]), int(op.outputs[0]), len(op.inputs)
        alike = len({int(i) for i in op.inputs}) == 1 and graph.type(target) == "FLOAT32"
        if alike and len(graph.shape(target)) == 4 and (graph.shape(source)[3], graph.shape(target)[3]) == (1, times):
            options = graph.schema.Conv2DOptionsT()
            options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
            ones = graph.tensor(target, values=np.ones((times, 1, 1, 1), np.float32))
            zeros = graph.tensor(target, values=np.zeros(times, np.float32))
            graph.make(op, "CONV_2D", [source, ones, zeros], options)


def enlarging_in_channels(graph: Graph) -> None:
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
    options = graph.schema.DepthToSpaceOptionsT()
    options.blockSize = 2
    return options


# --- pictures of 8 bits ---------------------------------------------------------------------------------------------


def pictures_in_eight_bits(graph: Graph) -> None:
    """Give the graph uint8 inputs and a uint8 output: a picture's levels are divided by 255, and come back rounded."""
    before: list[Any] = []
    after: list[Any] = []
    signature = graph.model.signatureDefs[0]

    def cast(source: int, target: int) -> Any:
        options = graph.schema.CastOptionsT()
        options.inDataType, options.outDataType = graph.graph.tensors[source].type, graph.graph.tensors[target].type
        return graph.new("CAST", [source], target, options)

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
        after += [
            graph.new("MUL", [inside, graph.scalar(255.0)], levels, graph.schema.MulOptionsT()),
            graph.new("ROUND", [levels], rounded),
            cast(rounded, given.tensorIndex),
        ]
    graph.graph.operators = [*before, *graph.graph.operators, *after]


def mask_named(graph: Graph) -> None:
    """The mask's tensor says what erases: `mask_where_1_is_erased`."""
    for given in graph.model.signatureDefs[0].inputs:
        if given.name == b"mask":
            graph.graph.tensors[given.tensorIndex].name = b"mask_where_1_is_erased"


@dataclass(frozen=True)
class Edit:
    """A change of a graph, and what it is for."""

    change: Callable[[Graph], None]
    """Changes the graph in place."""
    of: str = "all"
    """'all' files, those of 'quantized' networks, those 'for_cpu', those of 'eight_bit' pictures, those that 'erase', or
    those of a network that was 'brought'."""


EDITS = (
    Edit(floats_at_the_ends, "quantized"),
    Edit(floats_for_float_readers, "quantized"),
    Edit(resampling_in_float, "quantized"),
    Edit(gather_for_lookups),
    Edit(clamps_in_two),
    Edit(resampler_for_the_mark),
    Edit(constants_in_advance, "brought"),
    Edit(repeats_joined, "brought"),
    Edit(heads_in_phases, "for_cpu"),
    Edit(copies_by_convolution, "for_cpu"),
    Edit(enlarging_in_channels, "for_cpu"),
    Edit(pictures_in_eight_bits, "eight_bit"),
    Edit(mask_named, "erase"),
)
"""In the order in which they are made."""


def apply(graph: Graph, kinds: Collection[str]) -> None:
    """Make those of EDITS that all files get, and those of files of these kinds."""
    for edit in EDITS:
        if edit.of == "all" or edit.of in kinds:
            edit.change(graph)
            graph.find_makers()

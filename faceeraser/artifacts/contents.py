"""What is inside an exported file: its operators, its layers, and how much they compute and move. Needs no card."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from faceeraser.artifacts.files import Fields, kind_of, members
from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.system.extras import need
from faceeraser.system.reading import first_line

# What an element of a tensor takes, by TFLite's name of its type.
TENSOR_BYTES = {
    "FLOAT32": 4,
    "FLOAT16": 2,
    "FLOAT64": 8,
    "INT8": 1,
    "UINT8": 1,
    "INT16": 2,
    "UINT16": 2,
    "INT32": 4,
    "UINT32": 4,
    "INT64": 8,
    "UINT64": 8,
    "BOOL": 1,
}


def cost_of(path: str | Path, resolution: int | None = None) -> Fields:
    """{"gmacs", "params"} of a .tflite or .onnx file, counted on its graph at its own resolution, or at `resolution`
    (height and width) if it takes any.

    Counts the multiply-accumulates for one picture, and the elements of weights and biases, of convolutions (depthwise and
    transposed ones too) and dense layers. Raises ValueError for CoreML, because a package contains no shapes to count.
    """
    path = Path(path)
    kind = kind_of(path)
    members(path)
    if kind == "coreml":
        raise ValueError(f"{path}: a CoreML package cannot be counted; count the .tflite or .onnx export")
    with _parsed(path):
        macs, params = _count_tflite(path) if kind == "tflite" else _count_onnx(path, resolution)
    return {"gmacs": float(macs / 1e9), "params": params}


def operators(path: str | Path) -> list[Fields]:
    """[{"type", "n", "moved_mb"}] of a .tflite file's first graph, ordered by how much each type moves.

    moved_mb: how much these operators read and write for one picture, in 10^6 bytes: all inputs, including weights, and all
    outputs, as if nothing stayed in a cache. A RESHAPE moves nothing. Raises ValueError for other kinds of files, and for
    tensors of a type whose size is unknown.
    """
    path = Path(path)
    if kind_of(path) != "tflite":
        raise ValueError(f"{path}: operators can be listed for .tflite files only; export one with export/to_tflite.py")
    members(path)
    schema = _tflite_schema()
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    kinds = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}

    def moved(tensor: int) -> int:
        kind = kinds[graph.Tensors(tensor).Type()]
        if kind not in TENSOR_BYTES:
            raise ValueError(f"{path}: has a tensor of type {kind}; expected one of {', '.join(TENSOR_BYTES)}")
        shape = graph.Tensors(tensor).ShapeAsNumpy() if graph.Tensors(tensor).ShapeLength() else []
        return _size(shape) * TENSOR_BYTES[kind]

    rows: dict[str, Fields] = {}
    for op in (graph.Operators(i) for i in range(graph.OperatorsLength())):
        code = model.OperatorCodes(op.OpcodeIndex())
        custom = code.CustomCode()
        name = custom.decode() if custom else names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        tensors = [op.Inputs(i) for i in range(op.InputsLength())] + [op.Outputs(i) for i in range(op.OutputsLength())]
        row = rows.setdefault(name, {"type": name, "n": 0, "moved_mb": 0.0})
        row["n"] += 1
        row["moved_mb"] += 0.0 if name == "RESHAPE" else sum(moved(t) for t in tensors if t >= 0) / 1e6
    return sorted(rows.values(), key=lambda row: (-row["moved_mb"], row["type"]))


def _tflite_schema() -> Any:
    for name in ("ai_edge_litert.schema_py_generated", "tensorflow.lite.python.schema_py_generated"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise ModuleNotFoundError("reading a .tflite file's graph needs the schema in ai-edge-litert: pip install faceeraser")


def _size(shape: Sequence[int]) -> int:
    return int(np.prod([max(int(n), 1) for n in shape], dtype=np.int64))  # an open dimension (0, -1) is one picture


def _count_tflite(path: Path) -> tuple[int, int]:
    schema = _tflite_schema()
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    operator = schema.BuiltinOperator
    codes = [
        max(model.OperatorCodes(i).BuiltinCode(), model.OperatorCodes(i).DeprecatedBuiltinCode())
        for i in range(model.OperatorCodesLength())
    ]
    macs, weights = 0, 0
    for g in range(model.SubgraphsLength()):
        graph = model.Subgraphs(g)
        ops = [graph.Operators(i) for i in range(graph.OperatorsLength())]
        unpacked = {op.Outputs(0): op.Inputs(0) for op in ops if codes[op.OpcodeIndex()] == operator.DEQUANTIZE}
        seen: set[int] = set()

        def shape(tensor: int, graph: Any = graph) -> list[int]:
            return graph.Tensors(tensor).ShapeAsNumpy().tolist() if graph.Tensors(tensor).ShapeLength() else []

        def constant(tensor: int, graph: Any = graph, unpacked: dict[int, int] = unpacked) -> bool:
            buffer = model.Buffers(graph.Tensors(unpacked.get(tensor, tensor)).Buffer())
            return buffer.DataLength() > 0 or buffer.Size() > 0

        for op in ops:
            code = codes[op.OpcodeIndex()]
            inputs = [op.Inputs(i) for i in range(op.InputsLength())]
            produced = _size(shape(op.Outputs(0)))
            if code == operator.CONV_2D:  # weights (out, kh, kw, in / groups)
                macs, ours = macs + produced * _size(shape(inputs[1])[1:]), inputs[1:3]
            elif code == operator.DEPTHWISE_CONV_2D:  # weights (1, kh, kw, out)
                macs, ours = macs + produced * _size(shape(inputs[1])[1:3]), inputs[1:3]
            elif code == operator.TRANSPOSE_CONV:  # inputs: output shape, weights (out, kh, kw, in), picture, bias
                taken = _size(shape(inputs[2]))
                macs, ours = macs + taken * _size(shape(inputs[1])[:3]), [inputs[1], *inputs[3:4]]
            elif code in (operator.FULLY_CONNECTED, operator.BATCH_MATMUL):
                depth = shape(inputs[0])[-1]  # a converter writes a dense layer as either
                macs, ours = macs + produced * depth, inputs[1:3]
            else:
                continue
            fresh = [t for t in ours if t >= 0 and t not in seen and constant(t)]
            seen.update(fresh)
            weights += sum(_size(shape(t)) for t in fresh)
    return macs, weights


def _count_onnx(path: Path, resolution: int | None) -> tuple[int, int]:
    onnx = need("onnx", "onnx", "counting an .onnx file")
    model = onnx.load(str(path), load_external_data=False)
    for value in model.graph.input:
        for axis, side in enumerate(value.type.tensor_type.shape.dim):
            if not side.dim_value and axis and resolution:
                side.dim_value = resolution
    if resolution:
        del model.graph.value_info[:]  # inferred again, and what comes out is told by what goes in
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    constants = {tensor.name for tensor in graph.initializer}
    macs, weights, seen = 0, 0, set()
    for node in graph.node:
        if node.op_type in ("Constant", "DequantizeLinear", "Cast", "Transpose") and constants.issuperset(node.input):
            constants.add(node.output[0])  # a weight that is stored in another type or order
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        unknown = [name for name in (*node.input[:2], node.output[0]) if name not in shapes]
        if unknown:
            raise ValueError(f"{path}: the shape of {unknown[0]} cannot be inferred, so its graph cannot be counted")
        taken, weight, produced = (shapes[name] for name in (node.input[0], node.input[1], node.output[0]))
        if node.op_type == "Conv":  # weights (out, in / groups, kh, kw)
            macs += _size(produced) * _size(weight[1:])
        elif node.op_type == "ConvTranspose":  # weights (in, out / groups, kh, kw)
            macs += _size(taken) * _size(weight[1:])
        else:
            turned = any(a.name == "transA" and a.i for a in node.attribute)
            macs += _size(produced) * taken[0 if turned else -1]
        fresh = [name for name in node.input[1:3] if name in constants and name not in seen]
        seen.update(fresh)
        weights += sum(_size(shapes[name]) for name in fresh)
    return macs, weights


def listing(path: str | Path) -> Fields:
    """{"operators": {type: number}, "layers": [...]} of an exported file, read from the file itself; needs no card.

    layers: [{"layer", "operator", "stored", "bytes"}] for every convolution, in the file's order: the type its weights are
    stored in, and their bytes including scales or table. Raises ValueError, FileNotFoundError or ModuleNotFoundError
    (names the extra to install).
    """
    path = Path(path)
    kind = kind_of(path)
    members(path)
    with _parsed(path):
        names, layers = {"tflite": _tflite_contents, "onnx": _onnx_contents, "coreml": _coreml_contents}[kind](path)
    return {"operators": dict(Counter(names).most_common()), "layers": layers}


@contextmanager
def _parsed(path: Path) -> Iterator[None]:
    """Whatever a file's parser raises becomes one line: on damaged bytes it may be anything."""
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise ValueError(f"{path}: is damaged or not a model ({first_line(error)}); export again") from None


def _layer(name: str, operator: str, stored: str, size: int) -> Fields:
    return {"layer": name, "operator": operator, "stored": stored, "bytes": int(size)}


def _tflite_contents(path: Path) -> tuple[list[str], list[Fields]]:
    try:
        graph = Graph(path)
    except (ValueError, struct.error, IndexError, TypeError) as error:
        raise ValueError(f"{path}: this is not a TFLite model ({first_line(error)}); export again") from None
    layers = []
    for op in graph.ops("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"):
        weights = int(op.inputs[1])
        if (unpack := graph.maker.get(weights)) is not None:  # float16, which a DEQUANTIZE before it unpacks
            weights = int(unpack.inputs[0])
        tensor = graph.graph.tensors[weights]
        scales = tensor.quantization.scale if tensor.quantization is not None else None
        size = len(graph.model.buffers[tensor.buffer].data) + (0 if scales is None else 4 * len(scales))
        # The path of modules that made it: '.../_pipeline/...EdgeGenerator_edge/...Conv_stem/...'.
        origin = bytes(graph.graph.tensors[int(op.outputs[0])].name).decode().split("_pipeline/")[-1].split(";")[0]
        name = ".".join(part.rpartition("_")[2] for part in origin.split("/"))
        layers.append(_layer(name, graph.name(op), graph.type(weights).lower(), size))
    return [graph.name(op) for op in graph.graph.operators], layers


def _onnx_contents(path: Path) -> tuple[list[str], list[Fields]]:
    onnx = need("onnx", "onnx", "reading an .onnx file")
    graph = onnx.load(str(path), load_external_data=False).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    layers = []
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        unpack = maker.get(node.input[1])
        parts = [constants[name] for name in (unpack.input if unpack else node.input[1:2]) if name in constants]
        sizes = [onnx.numpy_helper.to_array(part).nbytes for part in parts]
        stored = onnx.helper.tensor_dtype_to_np_dtype(parts[0].data_type).name if parts else "?"
        named = next((name for name in node.input[1:] if name.endswith((".weight", ".bias"))), node.name)
        name = named.removeprefix("pipeline.").rpartition(".")[0] or named
        layers.append(_layer(name, node.op_type, stored, sum(sizes)))
    return [node.op_type for node in graph.node], layers


def _coreml_contents(path: Path) -> tuple[list[str], list[Fields]]:
    tools = need("coremltools", "coreml", "reading an .mlpackage")
    types = tools.proto.MIL_pb2.DataType
    spec = tools.models.MLModel(str(path), skip_model_load=True).get_spec()
    block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
    maker = {out.name: op for op in block.operations for out in op.outputs}

    def stored(value: Any) -> tuple[str, int]:
        kind = types.Name(value.type.tensorType.dataType)
        dimensions = [side.constant.size for side in value.type.tensorType.dimensions]
        return kind.lower(), _size(dimensions) * TENSOR_BYTES.get(kind, 0)

    layers = []
    for op in block.operations:
        if op.type not in ("conv", "conv_transpose"):
            continue
        weights = maker[op.inputs["weight"].arguments[0].name]
        parts = {
            key: stored(weights.attributes[key])
            for key in ("val", "quantized_data", "scale", "indices", "lut")
            if key in weights.attributes
        }
        kind = f"{parts['lut'][0]} by index" if "lut" in parts else next(iter(parts.values()))[0]
        named = op.inputs["bias"].arguments[0].name if "bias" in op.inputs else weights.outputs[0].name
        name = named.split("pipeline_")[-1].split("_bias")[0].split("_weight")[0].replace("_", ".")
        layers.append(_layer(name, op.type, kind, sum(size for _, size in parts.values())))
    return [op.type for op in block.operations if op.type != "const"], layers

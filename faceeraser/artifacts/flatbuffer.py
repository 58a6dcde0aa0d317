"""The graph of a .tflite file: its operators by name, what makes each tensor, and how to write it again after a change.

    graph = Graph("exports/int8.tflite")
    graph.ops("CONV_2D")

A .tflite file is a flatbuffer; its schema comes with ai-edge-litert. Importing this module loads numpy only.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


class Graph:
    """A .tflite file's only graph: its operators by name, and the one that makes each tensor.

    Graphs that only say what a composite operator is made of do not count; they are kept as long as one needs them.
    """

    SAME_SCALE = (
        "RESHAPE",
        "TRANSPOSE",
        "SLICE",
        "STRIDED_SLICE",
        "PAD",
        "SQUEEZE",
        "EXPAND_DIMS",
        "AVERAGE_POOL_2D",
        "RESIZE_BILINEAR",
    )
    """Operators whose int8 output has the scale of their first input: the converter carries int8 back through them."""

    def __init__(self, path: Path):
        self.schema = import_module("ai_edge_litert.schema_py_generated")
        content = path.read_bytes()
        self.model = self.schema.ModelT.InitFromPackedBuf(content, 0)
        for buffer in self.model.buffers:
            if buffer.size:  # ai-edge-quantizer puts large constants behind the flatbuffer, by their place in the file
                buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
                buffer.offset = buffer.size = 0
        self.graph = self.model.subgraphs[0]
        self.names = {v: k for k, v in vars(self.schema.BuiltinOperator).items() if isinstance(v, int)}
        composites = {op.builtinOptions2.decompositionSubgraphIndex for op in self.ops("STABLEHLO_COMPOSITE")}
        if (graphs := len(self.model.subgraphs) - len(composites)) != 1:
            raise ValueError(f"{path}: {graphs} subgraphs, expected one")
        self.types = {v: k for k, v in vars(self.schema.TensorType).items() if isinstance(v, int)}
        self.find_makers()

    def find_makers(self) -> None:
        """Look anew at which operator makes which tensor (`maker`), after operators were changed."""
        self.maker = {int(t): op for op in self.graph.operators for t in op.outputs}

    def name(self, op: Any) -> str:
        """Its type: CONV_2D, or what a custom operator is called."""
        code = self.model.operatorCodes[op.opcodeIndex]
        return code.customCode.decode() if code.customCode else self.names[max(code.builtinCode, code.deprecatedBuiltinCode)]

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
        while op is not None and (self.name(op) in self.SAME_SCALE or self._repeats(op)):
            between.insert(0, op)
            op = self.maker.get(int(op.inputs[0]))
        if op is None or self.name(op) != "QUANTIZE" or self.type(int(op.inputs[0])) != "FLOAT32":
            return None
        return int(op.inputs[0]), between

    def _repeats(self, op: Any) -> bool:
        """Whether an operator joins one tensor with itself: a mask of three channels, say."""
        return self.name(op) == "CONCATENATION" and len({int(i) for i in op.inputs}) == 1

    def tensor(
        self, like: int, kind: str | None = None, shape: Sequence[int] | None = None, values: np.ndarray | None = None
    ) -> int:
        """A new tensor like another, of another type, shape or content where given; its scale stays unless it is float.

        values: makes it a constant of that shape. Scales for each channel repeat where there are more channels than before.
        """
        tensor = copy.deepcopy(self.graph.tensors[like])
        tensor.shapeSignature, tensor.name = None, bytes(tensor.name or b"") + f"_{len(self.graph.tensors)}".encode()
        tensor.buffer = 0
        if kind is not None:
            tensor.type = getattr(self.schema.TensorType, kind)
            if kind in ("FLOAT32", "UINT8"):
                tensor.quantization = None
        if values is not None:
            tensor.buffer, shape = self._buffer(values), values.shape
        if shape is not None:
            tensor.shape = np.array(shape, np.int32)
            quantization = tensor.quantization
            if quantization is not None and quantization.scale is not None and len(quantization.scale) > 1:
                times = shape[quantization.quantizedDimension] // len(quantization.scale)
                quantization.scale = np.tile(quantization.scale, times)
                quantization.zeroPoint = np.tile(quantization.zeroPoint, times)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def store(self, tensor: int, values: np.ndarray) -> None:
        """Make a tensor a constant; the operator that made it is to go."""
        self.graph.tensors[tensor].buffer = self._buffer(values)

    def _buffer(self, values: np.ndarray) -> int:
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def as_float(self, like: int) -> int:
        """A new float32 tensor of the shape of another."""
        return self.tensor(like, "FLOAT32")

    def shape(self, tensor: int) -> tuple[int, ...]:
        """A tensor's shape."""
        return tuple(int(n) for n in self.graph.tensors[tensor].shape)

    def values(self, tensor: int) -> np.ndarray:
        """What a constant holds."""
        kinds = {"FLOAT32": np.float32, "INT8": np.int8, "INT32": np.int32}
        data = bytes(self.model.buffers[self.graph.tensors[tensor].buffer].data)
        return np.frombuffer(data, kinds[self.type(tensor)]).reshape(self.shape(tensor))

    def new(self, name: str, inputs: Sequence[int], output: int, options: Any = None) -> Any:
        """A new operator, which is in no place of the graph yet; the rest is told at `make`."""
        op = self.schema.OperatorT()
        op.outputs = np.array([output], np.int32)
        self.make(op, name, inputs, options)
        return op

    def make(self, op: Any, name: str, inputs: Sequence[int], options: Any = None) -> None:
        """Turn an operator into another with the same outputs, in place.

        name: of a built-in operator, or of a custom one where there is none of that name. options: the schema's, such
        as a GatherOptionsT.
        """
        builtin = self.schema.BuiltinOperator
        code = self.schema.OperatorCodeT()
        code.version, code.builtinCode = 1, getattr(builtin, name, builtin.CUSTOM)
        code.deprecatedBuiltinCode = min(code.builtinCode, builtin.PLACEHOLDER_FOR_GREATER_OP_CODES)
        code.customCode = name.encode() if code.builtinCode == builtin.CUSTOM else None
        self.model.operatorCodes.append(code)
        op.opcodeIndex, op.inputs = len(self.model.operatorCodes) - 1, np.array(inputs, np.int32)
        kind = type(options).__name__.removesuffix("T") if options is not None else "NONE"
        op.builtinOptions, op.builtinOptionsType = options, getattr(self.schema.BuiltinOptions, kind)
        op.builtinOptions2, op.builtinOptions2Type = None, self.schema.BuiltinOptions2.NONE

    def scalar(self, value: float) -> int:
        """A new constant: a float32 tensor of rank 0."""
        tensor = self.schema.TensorT()
        tensor.type, tensor.shape, tensor.name = self.schema.TensorType.FLOAT32, np.zeros(0, np.int32), f"{value:g}".encode()
        tensor.buffer = self._buffer(np.array(value, np.float32))
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def write(self, path: Path) -> None:
        """Write the file, naming only the operators in use: an old runtime stops at a name that it does not know."""
        if not self.ops("STABLEHLO_COMPOSITE"):
            self.model.subgraphs = [self.graph]
        operators = [op for graph in self.model.subgraphs for op in graph.operators]
        used = sorted({op.opcodeIndex for op in operators})
        self.model.operatorCodes = [self.model.operatorCodes[i] for i in used]
        for op in operators:
            op.opcodeIndex = used.index(op.opcodeIndex)
        flatbuffers = import_module("flatbuffers")
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        path.write_bytes(bytes(builder.Output()))

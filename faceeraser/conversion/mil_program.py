"""A saved CoreML program, read back and computed operator by operator in torch, for systems without CoreML.

    outputs = Program("exports/slim.mlpackage").run({"image": image, "mask": mask})

CoreML predicts on macOS only. What is written into a package (weights as look-up tables or int8, learnt scales, float16
here and float32 there, the 0..255 of pictures) can still be computed anywhere, from the file alone. Every operator is
computed in float32 and rounded to the type that the program declares for its output. Apple's own kernels may round
differently, so this shows that the file is right, not how a phone computes it.

Source of what operators mean: coremltools 9, ``converters/mil/mil/ops/defs`` (BSD-3-Clause).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_ARITHMETIC: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.div,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
}
_EACH: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "round": torch.round,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "identity": torch.clone,
}
_REDUCED: dict[str, Callable[..., Tensor]] = {
    "reduce_mean": torch.mean,
    "reduce_min": torch.amin,
    "reduce_max": torch.amax,
    "reduce_sum": torch.sum,
}
_TYPES = {
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "uint16": torch.int32,
    "int32": torch.int32,
    "bool": torch.bool,
}


class UnknownOperator(ValueError):
    """A program has an operator, or an option of one, that cannot be computed here."""


class Program:
    """The program of an .mlpackage: its operators in order (`operators`), `run`, and which of its inputs and outputs are
    `images`.

    Raises:
        ValueError: the package holds no program (mlprogram).
        ModuleNotFoundError: coremltools is missing.
    """

    def __init__(self, path: str | Path):
        models = import_module("coremltools.models")
        load = import_module("coremltools.converters.mil.frontend.milproto.load").load
        model = models.MLModel(str(path), skip_model_load=True)
        spec = model.get_spec()
        if spec.WhichOneof("Type") != "mlProgram":
            raise ValueError(f"{path}: holds a {spec.WhichOneof('Type')}, expected an mlProgram")
        program = load(spec, spec.specificationVersion, model.weights_dir)
        ports = (*spec.description.input, *spec.description.output)
        self.images = {port.name for port in ports if port.type.WhichOneof("Type") == "imageType"}
        self.path, self._function = Path(path), program.functions["main"]
        self.operators: list[Any] = list(self._function.operations)
        self._readers: dict[str, int] = {}
        for op in self.operators:
            for var in _given(op):
                self._readers[var.name] = self._readers.get(var.name, 0) + 1

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The program's outputs by name; inputs by name, as float32 tensors of the program's shapes (pictures: 0..255).

        Raises:
            UnknownOperator: the program has an operator that is not known here, or an option of one.
        """
        values = {name: inputs[name].to(type_of(var)) for name, var in self._function.inputs.items()}
        left = dict(self._readers)
        outputs = {var.name for var in self._function.outputs}
        with torch.no_grad():
            for op in self.operators:
                if op.op_type != "const":
                    computed = self._compute(op, values)
                    values |= {var.name: value.to(type_of(var)) for var, value in zip(op.outputs, computed, strict=True)}
                for var in _given(op):  # a picture at full size is large, and nobody reads it again
                    left[var.name] -= 1
                    if left[var.name] == 0 and var.name not in outputs:
                        values.pop(var.name, None)
        return {name: values[name].float() for name in outputs}

    def _compute(self, op: Any, values: Mapping[str, Tensor]) -> list[Tensor]:
        kind = op.op_type

        def tensor(name: str) -> Tensor:
            return _wide(_value(op.inputs[name], values))

        def fixed(name: str, default: Any = None) -> Any:
            var = op.inputs.get(name)
            return default if var is None else var.val

        if kind.startswith("constexpr_"):
            return [torch.from_numpy(np.array(op.materialized_val_inference()))]
        if kind in _ARITHMETIC:
            return [_ARITHMETIC[kind](tensor("x"), tensor("y"))]
        if kind in _EACH:
            return [_EACH[kind](tensor("x"))]
        if kind == "cast":
            return [tensor("x")]
        if kind == "select":
            return [torch.where(_value(op.inputs["cond"], values).bool(), tensor("a"), tensor("b"))]
        if kind == "clip":
            return [tensor("x").clamp(float(fixed("alpha")), float(fixed("beta")))]
        if kind == "concat":
            return [torch.cat([_wide(_value(var, values)) for var in op.inputs["values"]], int(fixed("axis")))]
        if kind == "transpose":
            return [tensor("x").permute([int(n) for n in fixed("perm")])]
        if kind == "reshape":
            return [tensor("x").reshape(op.outputs[0].shape)]
        if kind in ("expand_dims", "squeeze"):
            return [tensor("x").reshape(op.outputs[0].shape)]
        if kind in _REDUCED:
            axes = [int(n) for n in fixed("axes", range(tensor("x").ndim))]
            return [_REDUCED[kind](tensor("x"), axes, keepdim=bool(fixed("keep_dims", False)))]
        if kind == "gather":
            return [self._gathered(op, tensor("x"), _value(op.inputs["indices"], values).long(), fixed)]
        if kind in ("linear", "matmul"):
            return [self._multiplied(op, tensor, fixed)]
        if kind in ("quantize", "dequantize"):
            return [self._stored(op, tensor("input"), fixed)]
        if kind in ("conv", "conv_transpose"):
            return [self._convolved(op, tensor, fixed)]
        if kind == "instance_norm":
            gamma, beta = (None if fixed(n) is None else tensor(n) for n in ("gamma", "beta"))
            return [F.instance_norm(tensor("x"), weight=gamma, bias=beta, eps=float(fixed("epsilon", 1e-5)))]
        if kind == "pad":
            return [self._padded(op, tensor("x"), fixed)]
        if kind == "slice_by_index":
            return [tensor("x")[self._slices(op, fixed)]]
        if kind == "avg_pool":
            return [self._pooled(op, tensor("x"), fixed)]
        if kind in ("upsample_nearest_neighbor", "upsample_bilinear"):
            return [self._enlarged(op, tensor("x"), fixed)]
        if kind == "resample":
            supported = {"sampling_mode": "bilinear", "coordinates_mode": "normalized_minus_one_to_one"}
            self._expect(op, supported, fixed)
            padding = {"border": "border", "constant": "zeros", "reflection": "reflection"}[fixed("padding_mode")]
            corners = bool(fixed("align_corners"))
            return [F.grid_sample(tensor("x"), tensor("coordinates"), "bilinear", padding, corners)]
        raise UnknownOperator(f"{self.path}: operator {kind} is not known here, so the program cannot be computed")

    def _expect(self, op: Any, wanted: Mapping[str, Any], fixed: Callable[..., Any]) -> None:
        for name, value in wanted.items():
            if fixed(name, value) != value:
                raise UnknownOperator(f"{self.path}: {op.op_type} has {name} = {fixed(name)}, which is not known here")

    def _gathered(self, op: Any, x: Tensor, indices: Tensor, fixed: Callable[..., Any]) -> Tensor:
        self._expect(op, {"batch_dims": 0}, fixed)
        axis = int(fixed("axis", 0)) % x.ndim
        taken = x.index_select(axis, torch.where(indices < 0, indices + x.shape[axis], indices).reshape(-1))
        return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])

    def _multiplied(self, op: Any, tensor: Callable[[str], Tensor], fixed: Callable[..., Any]) -> Tensor:
        if op.op_type == "linear":
            return F.linear(tensor("x"), tensor("weight"), tensor("bias") if op.inputs.get("bias") is not None else None)
        sides = [(name, bool(fixed(f"transpose_{name}", False))) for name in ("x", "y")]
        left, right = (tensor(name).transpose(-1, -2) if turned else tensor(name) for name, turned in sides)
        return left @ right

    def _stored(self, op: Any, x: Tensor, fixed: Callable[..., Any]) -> Tensor:
        """`quantize`: clip(round(x / scale) + zero point); `dequantize`: (x - zero point) * scale."""
        scale = torch.as_tensor(np.asarray(fixed("scale"), np.float32))
        zero_point = torch.as_tensor(np.asarray(fixed("zero_point", 0), np.float32))
        if scale.ndim:
            shape = [-1 if k == int(fixed("axis")) % x.ndim else 1 for k in range(x.ndim)]
            scale, zero_point = scale.view(shape), zero_point.view(shape) if zero_point.ndim else zero_point
        if op.op_type == "dequantize":
            return (x - zero_point) * scale
        limits = torch.iinfo(type_of(op.outputs[0]))
        return ((x / scale).round() + zero_point).clamp(limits.min, limits.max)

    def _convolved(self, op: Any, tensor: Callable[[str], Tensor], fixed: Callable[..., Any]) -> Tensor:
        x, weight = tensor("x"), tensor("weight")
        bias = tensor("bias") if op.inputs.get("bias") is not None else None
        strides, dilations = ([int(n) for n in fixed(name, (1, 1))] for name in ("strides", "dilations"))
        groups, kind = int(fixed("groups", 1)), fixed("pad_type", "valid")
        padding = [int(n) for n in fixed("pad", (0, 0, 0, 0))] if kind == "custom" else [0, 0, 0, 0]
        if kind not in ("custom", "valid"):
            raise UnknownOperator(f"{self.path}: {op.op_type} has pad_type = {kind}, which is not known here")
        if op.op_type == "conv":
            x = F.pad(x, [padding[2], padding[3], padding[0], padding[1]])
            return F.conv2d(x, weight, bias, strides, 0, dilations, groups)
        whole = F.conv_transpose2d(x, weight, bias, strides, 0, 0, groups, dilations)
        rows, columns = whole.shape[-2:]
        return whole[..., padding[0] : rows - padding[1], padding[2] : columns - padding[3]]

    def _padded(self, op: Any, x: Tensor, fixed: Callable[..., Any]) -> Tensor:
        given = [int(n) for n in fixed("pad")]
        pairs = [(0, 0)] * (x.ndim - len(given) // 2) + list(zip(given[::2], given[1::2], strict=True))
        mode = {"constant": "constant", "replicate": "replicate", "reflect": "reflect"}[fixed("mode", "constant")]
        if mode == "constant":
            return F.pad(x, [n for pair in reversed(pairs) for n in pair], value=float(fixed("constant_val", 0.0)))
        return F.pad(x, [n for pair in reversed(pairs[-2:]) for n in pair], mode=mode)

    def _slices(self, op: Any, fixed: Callable[..., Any]) -> tuple[slice | int, ...]:
        rank = len(fixed("begin"))
        begin, end, step, masked_begin, masked_end, single = (
            list(map(kind, fixed(name, [default] * rank)))
            for name, kind, default in (
                ("begin", int, 0),
                ("end", int, 0),
                ("stride", int, 1),
                ("begin_mask", bool, False),
                ("end_mask", bool, False),
                ("squeeze_mask", bool, False),
            )
        )
        if min(step) < 1:
            raise UnknownOperator(f"{self.path}: slice_by_index goes backwards, which is not known here")
        return tuple(
            begin[k]
            if single[k]
            else slice(None if masked_begin[k] else begin[k], None if masked_end[k] else end[k], step[k])
            for k in range(rank)
        )

    def _pooled(self, op: Any, x: Tensor, fixed: Callable[..., Any]) -> Tensor:
        self._expect(op, {"ceil_mode": False}, fixed)
        kernel, strides = ([int(n) for n in fixed(name, (1, 1))] for name in ("kernel_sizes", "strides"))
        top, bottom, left, right = [int(n) for n in fixed("pad", (0, 0, 0, 0))]
        if fixed("pad_type") not in ("custom", "valid") or (top, left) != (bottom, right):
            raise UnknownOperator(f"{self.path}: avg_pool pads one side more than the other, which is not known here")
        counted = not bool(fixed("exclude_padding_from_average", False))
        return F.avg_pool2d(x, kernel, strides, (top, left), count_include_pad=counted)

    def _enlarged(self, op: Any, x: Tensor, fixed: Callable[..., Any]) -> Tensor:
        factors = [float(fixed(f"scale_factor_{side}", 1)) for side in ("height", "width")]
        if op.op_type == "upsample_nearest_neighbor":
            return F.interpolate(x, scale_factor=factors, mode="nearest")
        self._expect(op, {"align_corners": False, "half_pixel_centers": True}, fixed)
        return F.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=False)


def _given(op: Any) -> list[Any]:
    """The variables that an operator reads."""
    values = (v for v in op.inputs.values() if v is not None)
    return [var for value in values for var in (value if isinstance(value, (list, tuple)) else [value])]


def _value(var: Any, values: Mapping[str, Tensor]) -> Tensor:
    return values[var.name] if var.name in values else torch.from_numpy(np.array(var.val))


def _wide(x: Tensor) -> Tensor:
    """In float32, which holds every int8, float16 and the small integers of shapes exactly."""
    return x if x.dtype == torch.bool else x.float()


def type_of(var: Any) -> torch.dtype:
    """The torch type of a program's variable."""
    types = import_module("coremltools.converters.mil.mil").types
    return _TYPES[types.builtin_to_string(var.dtype)]

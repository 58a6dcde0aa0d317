"""A network as a CoreML package (.mlpackage): written with warp and coordinates in float32, and checked when saved."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from faceeraser import form, quant
from faceeraser.networks import FaceEraser
from faceeraser.quant import QuantConv2d
from faceeraser.stage import GateFailed
from faceeraser.warp import warp


def without_taps(pipeline: FaceEraser) -> FaceEraser:
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


def traced(pipeline: FaceEraser, edges_input: bool) -> Any:
    """The network as TorchScript with every size a constant, which is what coremltools reads."""
    network = without_taps(pipeline)
    network.warp = warp
    given = tuple(form.sample(pipeline.config.resolution, edges_input, channels_last=False).values())
    # torch.jit.trace alone records sizes as operators on integers, over which coremltools stumbles.
    static = torch.export.export(form.Form(network, channels_last=False).eval(), given).module()
    return torch.jit.trace(static, given, check_trace=False)


def write(pipeline: FaceEraser, path: Path, precision: str, edges_input: bool = False) -> None:
    """Write an .mlpackage (mlprogram, iOS 17) with the warp as `resample`: NCHW float32 in and out.

    precision: 'fp16', or 'int8' for int8 weights, per channel, and float16 arithmetic. Convolutions run in float16; the
    hole's filling, Canny, the head that predicts the flow, coordinates, warp and compositing stay float32.
    """
    tools = form.need("coremltools", "coreml")
    sample = form.sample(pipeline.config.resolution, edges_input, channels_last=False)
    model = tools.convert(
        traced(pipeline, edges_input), convert_to="mlprogram", minimum_deployment_target=tools.target.iOS17,
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


def check(path: Path, pipeline: FaceEraser, precision: str) -> dict[str, Any]:
    """Assert on the saved package, read again, what must hold of it; returns what was counted, for the card.

    Raises:
        GateFailed: the warp is not one bilinear, border, corner-aligned `resample`; or its picture or coordinates are not
            float32; or a convolution's weights are not int8 in an int8 package.
    """
    tools = form.need("coremltools", "coreml")
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

"""A network as a CoreML package (.mlpackage): written with warp and coordinates in float32, and checked when saved.

    fp16                    weights and convolutions in float16
    int8                    the same, weights stored as int8, per channel; of a quantized network by its learnt scales
    palette6, palette4      the same, weights stored as indices into a table of 64 or of 16 values for each convolution
    int8-activations        of a quantized network: int8 weights and activations by its learnt scales, all else float32
    int8-activations-fp16   the same with float16 between convolutions, and scales as near as float16 has them (to 1/2048)

The weights of the head that predicts the flow are never compressed: a step of int8 in them would move the copy by half a
pixel.

Pictures go in and come out as images (CVPixelBuffer) unless tensors are asked for: `image` RGB, `mask` and `edges`
greyscale with white for 1, `erased` RGB; the program itself converts between 0..255 and [0, 1].
"""

from __future__ import annotations

import copy
import json
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from faceeraser.artifacts.runtimes import IMAGE_MEANINGS, MEANINGS
from faceeraser.conversion import formats, mil_program
from faceeraser.conversion.gate import File, Painted, Picture, Reference, edges_of, parity, unchanged
from faceeraser.model import paint, quant
from faceeraser.model.any_network import AnyNetwork, Sample
from faceeraser.model.networks import Inpainter
from faceeraser.model.planner import PatchEraser
from faceeraser.model.quant import FakeQuant, QuantConv2d
from faceeraser.model.warp import Sampling, warp
from faceeraser.system.extras import need
from faceeraser.system.script import GateFailed


def stores_activations(precision: str) -> bool:
    """Whether a precision keeps int8 activations, so that the network has to be a quantized one."""
    return precision.startswith("int8-activations")


def as_written(pipeline: Inpainter, precision: str) -> Inpainter:
    """The network that a package of this precision computes, as a copy, norms folded.

    Of a quantized network: with its int8 activations where the precision has them, else in float; its weights on their int8
    grid, as parameters (QuantConv2d) where the precision stores int8 weights.
    """
    network = copy.deepcopy(pipeline).cpu().eval().requires_grad_(False)
    if not network.config.fused and network.config.norm == "batch":
        quant.fuse(network)
    if stores_activations(precision):
        return network
    for module in list(network.modules()):
        if isinstance(module, QuantConv2d) and precision != "int8":
            module.weight.data = _levels(module).float() * module.weight_scale.view(-1, 1, 1, 1)
            module.__class__ = nn.Conv2d
        for name, child in list(module.named_children()):
            if isinstance(child, FakeQuant):
                setattr(module, name, nn.Identity())
    return network


def _levels(conv: QuantConv2d) -> Tensor:
    """A quantized convolution's weights as int8."""
    return (conv.weight / conv.weight_scale.view(-1, 1, 1, 1)).round().clamp(-127, 127).to(torch.int8)


class _StoredConv2d(QuantConv2d):
    """A convolution whose int8 weights are in the program: coremltools takes a dequantize of a constant, no quantize."""

    levels: Tensor

    def forward(self, x: Tensor) -> Tensor:
        unpack = torch.ops.quantized_decomposed.dequantize_per_channel
        weight = unpack(self.levels, self.weight_scale, self.weight_zero_point, 0, -127, 127, torch.int8)
        return self._conv_forward(x, weight, self.bias)


class _Images(nn.Module):
    """The network with pictures of 0..255 in and out; out in whole steps, so visible pixels leave as they came.

    Divided by 255 here, and not multiplied by 1 / 255 as an image type of coremltools does: a last bit of some inputs, which
    is enough to move an int8 network from one level to the next. On the one that ships: 25.3 dB, and no difference at all.
    """

    def __init__(self, inside: nn.Module, outputs: Sequence[str]):
        super().__init__()
        self.inside, self.outputs = inside, tuple(outputs)

    def forward(self, image: Tensor, mask: Tensor, edges: Tensor | None = None) -> Any:
        outputs = self.inside(*(x if x is None else x / 255.0 for x in (image, mask, edges)))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        packed = tuple(
            torch.round(value * 255.0) if name in ("erased", "refined") else value
            for name, value in zip(self.outputs, outputs, strict=True)
        )
        return packed[0] if len(packed) == 1 else packed


@dataclass(frozen=True)
class CoreML(formats.Format):
    """A package of the program's inputs `image`, `mask` (`edges`) and output `erased` (mlprogram, iOS 17), the warp as
    `resample`.

    In float16 run convolutions and what lies between them; the hole's filling, Canny, the head that predicts the flow,
    coordinates, warp and compositing stay float32.

    It is compared as a whole: float16 moves the flow by hundredths of a pixel (a trained network: 44.7 dB on grass), and
    weights packed without training make it copy other texture here and there (int8 25.1, palette6 23.7, palette4 22.8 dB;
    int8 of the quantized one, whose weights lie on that grid, 36.0, and with its activations 25.7): gates against breakage.
    int8-activations is float32 but for what is stored, and the same to the last bit.
    """

    KIND: ClassVar = "coreml"
    SUFFIX: ClassVar = ".mlpackage"
    PRECISIONS: ClassVar = ("fp16", "int8", "palette6", "palette4", "int8-activations", "int8-activations-fp16")
    BOUNDS: ClassVar = {
        "fp16": 40.0,
        "int8": 24.0,
        "palette6": 22.0,
        "palette4": 20.0,
        "int8-activations": 50.0,
        "int8-activations-fp16": 24.0,
    }
    tensors: bool = False
    """Float tensors, NCHW, in and out, in place of images (CVPixelBuffer)."""

    def settled(self, pipeline: Inpainter, source: Path) -> Self:
        if self.batch > 1 and not self.tensors:
            raise ValueError(f"--batch {self.batch}: an image input takes one picture; use --tensors for several at once")
        return super().settled(pipeline, source)

    def own_precision(self, pipeline: Inpainter) -> str:
        return "fp16"

    def check_precision(self, pipeline: Inpainter, source: Path) -> None:
        if stores_activations(self.precision) and not pipeline.config.quantized:
            command = f"python compress/quantize.py {source} TARGET"
            raise ValueError(f"{source} is not quantized, so it has no int8 activations: {command}")

    def marks(self) -> str:
        return super().marks() + ("-tensors" if self.tensors else "")

    def splits(self, pipeline: Inpainter) -> bool:
        """Of a network that plans: other windows, as good, may be taken after a last bit of skin."""
        return super().splits(pipeline) and isinstance(pipeline, PatchEraser)

    def warp(self) -> str:
        return "resample, bilinear, border, align_corners = true, float32; coordinates clamped"

    def notes(self, pipeline: Inpainter) -> list[str]:
        notes = []
        if sys.platform != "darwin":
            notes.append(
                "CoreML predicts on macOS only and this was exported elsewhere, so CoreML never ran it; evaluated_parity is "
                "of the saved program, computed operator by operator in torch. Only a Mac or a phone can tell its speed, "
                "what runs on the Neural Engine, and how its kernels round"
            )
        floats = "the flow's head, coordinates, warp, Canny, fill and compositing are float32"
        whole = self.precision == "int8-activations"
        notes.append("all arithmetic is float32" if whole else f"{floats}, the rest is float16")
        if stores_activations(self.precision):
            notes.append(
                "int8 weights and activations by the network's own learnt scales"
                + (", rounded to float16" if self.precision.endswith("-fp16") else "")
            )
        elif pipeline.config.quantized:
            notes.append("from a quantized network: its weights on their int8 grid, its activations in float16, not int8")
        if self.precision == "int8":
            notes.append("weights int8 per channel, unpacked to float16 for the arithmetic")
        if self.precision.startswith("palette"):
            bits = self.precision[-1]
            notes.append(f"weights are indices of {bits} bits into a table per convolution, not the flow's head")
        return notes

    def reference(self, pipeline: Inpainter, in_levels: bool) -> Reference:
        return super().reference(as_written(pipeline, self.precision), in_levels)

    def compare(
        self, written: formats.Written, pipeline: Inpainter, pictures: Sequence[Picture]
    ) -> tuple[dict[str, Any], list[str]]:
        """On a Mac by CoreML; elsewhere the saved program, computed by mil_program.py: `evaluated_parity`."""
        if sys.platform == "darwin":
            return super().compare(written, pipeline, pictures)
        in_levels = not self.tensors and self.output != "plan"
        gate = self.gate().in_levels() if in_levels else self.gate()
        reference = self.reference(pipeline, in_levels)
        file = self._evaluated(written.planned or written.path, reference)
        evaluated = parity(file, pictures, reference, gate)
        failures = list(evaluated.get("failures", []))
        if written.planned is not None:
            failures += unchanged(file, self._evaluated(written.path, reference), pictures[:2])
        measured = {"n": 0, "psnr_hole_min": None, "max_abs_hole": None, "gate": str(gate), "passed": None}
        return {"evaluated_parity": evaluated, "parity": measured}, failures

    def _evaluated(self, path: Path, reference: Reference) -> File:
        """A saved package, computed by mil_program.py; what one that only plans would have painted, `reference` paints."""
        evaluate = evaluator(path)

        def run(image: np.ndarray, mask: np.ndarray) -> Painted:
            given = {"image": torch.from_numpy(image).permute(2, 0, 1)[None], "mask": torch.from_numpy(mask)[None, None]}
            if self.edges_input:
                given["edges"] = torch.from_numpy(edges_of(Picture("", image, mask)))[None, None]
            outputs = evaluate({name: value.repeat(self.batch, 1, 1, 1) for name, value in given.items()})
            arrays = {name: (x[0].permute(1, 2, 0) if x.ndim == 4 else x[0]).numpy() for name, x in outputs.items()}
            if self.output == "plan":
                return Painted(reference(Picture("", image, mask), arrays).image, arrays)
            picture = arrays.pop(self.output)
            return Painted(picture, arrays or None)

        return run

    def write(self, pipeline: Inpainter, path: Path, *, with_plan: bool = False) -> None:
        tools = need("coremltools", "coreml", "writing an .mlpackage")
        if self.precision.startswith("palette"):
            need("sklearn", "coreml", "a palette")
        network = as_written(pipeline, self.precision)
        network.warp = warp
        if quant.is_quantized(network):
            quant.set_exporting(network)
            for module in network.modules():
                if isinstance(module, QuantConv2d):
                    module.register_buffer("levels", _levels(module), persistent=False)
                    module.__class__ = _StoredConv2d
        plans = isinstance(network, PatchEraser)
        if plans:
            paint.make_constants(pipeline.config.resolution)
        sample = formats.sample(pipeline.config.resolution, self.edges_input, channels_last=False, batch=self.batch)
        outputs = self.outputs(pipeline, with_plan)
        inside = formats.Form(network, channels_last=False, outputs=outputs)
        program = torch.export.export((inside if self.tensors else _Images(inside, outputs)).eval(), (), kwargs=sample)
        passes = tools.PassPipeline.DEFAULT
        # The first would divide the scales of a sum's two inputs by one of them: the same sum, and not the learnt scales;
        # the other makes a division by 255 a product (see _Images).
        passes.remove_passes({"common::distributive_quantized_binary_op_scale_normalization", "common::divide_to_multiply"})
        model = tools.convert(
            program.run_decompositions({}),
            convert_to="mlprogram",
            minimum_deployment_target=tools.target.iOS17,
            inputs=[_input(tools, k, v, self.tensors) for k, v in sample.items()],
            outputs=[_output(tools, name, self.tensors) for name in outputs],
            skip_model_load=True,
            pass_pipeline=passes,
            compute_precision=tools.precision.FLOAT32
            if self.precision == "int8-activations"
            else tools.transform.FP16ComputePrecision(op_selector=_HalfInside(plans)),
        )
        said = MEANINGS if self.tensors else IMAGE_MEANINGS
        for name in sample:
            model.input_description[name] = said[name]
        for name in outputs:
            model.output_description[name] = said.get(name, MEANINGS[name])
        model.short_description = "Paints the masked part of a picture of a face with the skin that would be there."
        _save(model, path)
        if self.precision.startswith("palette") or (self.precision == "int8" and not quant.is_quantized(network)):
            _pack_weights(path, self.precision, plans)

    def without(self, path: Path, target: Path, names: Sequence[str]) -> None:
        """As of every format; what only those outputs need goes too."""
        tools = need("coremltools", "coreml", "writing an .mlpackage")
        model = tools.models.MLModel(str(path), skip_model_load=True)
        spec = model.get_spec()
        kept = [port for port in spec.description.output if port.name not in names]
        del spec.description.output[:]
        spec.description.output.extend(kept)
        (block,) = spec.mlProgram.functions["main"].block_specializations.values()
        block.outputs[:] = [name for name in block.outputs if name not in names]
        read = set(block.outputs)
        alive = []
        for op in reversed(block.operations):
            if any(output.name in read for output in op.outputs):
                alive.append(op)
                read |= {given.name for taken in op.inputs.values() for given in taken.arguments if given.name}
        del block.operations[:]
        block.operations.extend(reversed(alive))
        _save(tools.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True), target)

    def check(self, path: Path, pipeline: Inpainter) -> dict[str, Any]:
        """As of every format, on the saved package, read again.

        Raises:
            GateFailed: the warp is not one bilinear, border, corner-aligned `resample`; or its picture or coordinates are
                not float32; a convolution's weights are not packed in a package of packed weights; or a learnt scale of
                the checkpoint is not in the package of a quantized network (to 1e-6 relative; with float16, as float16
                rounds it).
        """
        program = mil_program.Program(path)
        block = program.operators

        def wrong(reason: str) -> GateFailed:
            return GateFailed(f"{path.name}: {reason}")

        plans = isinstance(pipeline, PatchEraser)
        if (number := sum(op.op_type == "resample" for op in block)) != (0 if plans else 1):
            raise wrong(f"{number} resample operators, expected {0 if plans else 1}")
        heads = _check_painting(block, wrong) if plans else _check_resampling(block, wrong)
        convolutions = [op for op in block if is_convolution(op, plans)]
        packed = Counter(getattr(op.inputs["weight"].op, "op_type", "const") for op in convolutions)
        kind, number = "const", len(convolutions)
        stored = sum(isinstance(m, QuantConv2d) for m in as_written(pipeline, self.precision).modules())
        if stored:
            kind, number = "constexpr_affine_dequantize", stored
        elif self.precision != "fp16":
            kind, number = "constexpr_affine_dequantize", number - len(heads)
            kind = kind if self.precision == "int8" else "constexpr_lut_to_dense"
        if packed[kind] != number:
            raise wrong(f"the weights of {packed[kind]} of {len(convolutions)} convolutions are {kind}, expected {number}")
        for op in block:
            if op.op_type.startswith("constexpr") and any(reader not in convolutions for reader in op.outputs[0].child_ops):
                raise wrong(f"{op.name} is packed, and is not a convolution's weights")
        operators = Counter(op.op_type for op in block if op.op_type != "const")
        counted: dict[str, Any] = {
            "operators": dict(operators.most_common()),
            "packed_weights": number if kind != "const" else 0,
            "int8_convolutions": stored if stores_activations(self.precision) else 0,
        }
        if stored:
            counted["scales"] = _check_scales(block, pipeline, self.precision, wrong)
        return counted

    # --- any network --------------------------------------------------------------------------------------------------

    def settled_for(self, network: AnyNetwork) -> Self:
        if quant.is_quantized(network.module):
            remedy = "export the network that it was made from, with --precision int8"
            raise ValueError(f"{network.name} is quantized, which a CoreML package of any network cannot be: {remedy}")
        return super().settled_for(network)

    def write_network(self, network: AnyNetwork, path: Path) -> None:
        """As of every format: tensors in and out as the module has them, each warp one `resample`."""
        tools = need("coremltools", "coreml", "writing an .mlpackage")
        traced, _ = network.traced(Sampling.on_a_grid)
        sample = dict(network.samples[0])
        # Which coremltools 9 has for torch.jit's graphs alone: of torch.export's it makes a grid without a value.
        apart = torch._decomp.get_decompositions([torch.ops.aten.affine_grid_generator])
        program = torch.export.export(traced, (), kwargs=sample).run_decompositions(apart)
        kinds = {torch.int32: np.int32, torch.int64: np.int32, torch.bool: np.int32}
        model = tools.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=tools.target.iOS17,
            skip_model_load=True,
            inputs=[
                tools.TensorType(name=name, shape=value.shape, dtype=kinds.get(value.dtype, np.float32))
                for name, value in sample.items()
            ],
            outputs=[tools.TensorType(name=name) for name in network.outputs(sample)],
            compute_precision=tools.transform.FP16ComputePrecision(op_selector=_HalfInside()),
        )
        _save(model, path)
        if self.precision != "fp16":
            _pack_weights(path, self.precision)

    def check_network(self, path: Path, network: AnyNetwork, warps: Sequence[Sampling]) -> dict[str, Any]:
        """As of every format.

        Raises:
            GateFailed: there is not one `resample` for each warp; one is not bilinear, border and corner-aligned; or its
                picture or coordinates are not float32.
        """
        block = mil_program.Program(path).operators
        samplers = [op for op in block if op.op_type == "resample"]
        if len(samplers) != len(warps):
            raise GateFailed(f"{path.name}: {len(samplers)} resample operators, expected {len(warps)}")
        _check_resampling(block, lambda reason: GateFailed(f"{path.name}: {reason}"))
        return {"operators": dict(Counter(op.op_type for op in block if op.op_type != "const").most_common())}

    def runner(self, path: Path) -> Callable[[Sample], dict[str, np.ndarray]]:
        """On a Mac CoreML; elsewhere mil_program.py, if it knows the program's operators."""
        if sys.platform == "darwin":
            model = need("coremltools", "coreml", "running an .mlpackage").models.MLModel(str(path))
            return lambda sample: dict(model.predict({name: value.numpy() for name, value in sample.items()}))
        program = mil_program.Program(path)
        return lambda sample: {name: value.numpy() for name, value in program.run(sample).items()}


def _check_resampling(block: list[Any], wrong: Callable[[str], GateFailed]) -> list[Any]:
    """Every warp is bilinear, border and corner-aligned, and reads float32; returns the convolutions they go back to."""
    wanted = {
        "sampling_mode": "bilinear",
        "padding_mode": "border",
        "align_corners": True,
        "coordinates_mode": "normalized_minus_one_to_one",
    }
    for op in block:
        for key, expected in wanted.items() if op.op_type == "resample" else ():
            if (value := op.inputs[key].val) != expected:
                raise wrong(f"resample has {key} = {value}, expected {expected}")
    # The flow's head is float32 itself; its input may be float16, cast before it.
    leading, heads = before_warp(block)
    for op in leading:
        if op.op_type != "const" and any(mil_program.type_of(var) == torch.float16 for var in op.outputs):
            raise wrong(f"{op.op_type} before the warp is float16, expected float32")
    return heads


def _check_painting(block: list[Any], wrong: Callable[[str], GateFailed]) -> list[Any]:
    """What a plan is made of after the network's heads is float32, they themselves too; returns the heads."""
    heads = last_convolutions(block)
    after = {op.name for op in heads}
    for op in block:
        if any(maker.name in after for maker in makers(op)):
            after.add(op.name)
        if op.name in after and any(mil_program.type_of(var) == torch.float16 for var in op.outputs):
            raise wrong(f"{op.op_type} of the plan is float16, expected float32")
    return heads


def _output(tools: Any, name: str, tensors: bool) -> Any:
    if tensors or name not in ("erased", "refined"):
        return tools.TensorType(name=name, dtype=np.float32)
    return tools.ImageType(name=name, color_layout=tools.colorlayout.RGB)


def _input(tools: Any, name: str, value: Tensor, tensors: bool) -> Any:
    if tensors:
        return tools.TensorType(name=name, shape=value.shape, dtype=np.float32)
    layout = tools.colorlayout.RGB if value.shape[1] == 3 else tools.colorlayout.GRAYSCALE
    return tools.ImageType(name=name, shape=value.shape, color_layout=layout)


def _pack_weights(path: Path, precision: str, plans: bool = False) -> None:
    """Store the weights of every convolution but the flow's head, or a plan's, as int8 or indices into a table, in place."""
    import coremltools.optimize.coreml as optimize
    from coremltools.models import MLModel

    weights_config: Any
    if precision == "int8":
        weights_config = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
    else:
        weights_config = optimize.OpPalettizerConfig(
            mode="kmeans", nbits=int(precision.removeprefix("palette")), weight_threshold=0
        )
    block = mil_program.Program(path).operators
    heads = before_warp(block)[1]
    if plans:
        heads = last_convolutions(block)
        heads += [op for op in block if is_convolution(op, False) and not is_convolution(op, True)]
    # By operator: a rule for all of them would pack the grid of pixels that the flow is added to as well.
    config = optimize.OptimizationConfig(
        op_type_configs=dict.fromkeys(_HalfInside.CONVOLUTIONS, weights_config),
        op_name_configs={op.name: None for op in heads},
    )
    pack = optimize.linear_quantize_weights if precision == "int8" else optimize.palettize_weights
    _save(pack(MLModel(str(path), skip_model_load=True), config), path)


def _save(model: Any, path: Path) -> None:
    """Write an .mlpackage: the same bytes for the same model."""
    model.save(str(path))
    # Which operator of torch's each one comes from: for ExecuTorch's debugger, and larger than the weights.
    (path / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
    # Its items are named at random; names that follow from their places do as well.
    manifest = json.loads((path / "Manifest.json").read_text())
    names = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])) for old, item in manifest["itemInfoEntries"].items()}
    manifest["itemInfoEntries"] = {names[old]: item for old, item in manifest["itemInfoEntries"].items()}
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    (path / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n")


def before_warp(operators: list[Any]) -> tuple[list[Any], list[Any]]:
    """(what the warp's picture and coordinates are computed by, back to convolutions; the convolutions reached)."""
    seen_ops: dict[str, Any] = {}
    waiting = [op for op in operators if op.op_type == "resample"]
    while waiting:
        op = waiting.pop()
        if op.name not in seen_ops:
            seen_ops[op.name] = op
            waiting.extend([] if op.op_type in _HalfInside.CONVOLUTIONS else makers(op))
    return list(seen_ops.values()), [op for op in seen_ops.values() if op.op_type in _HalfInside.CONVOLUTIONS]


def makers(op: Any) -> list[Any]:
    """The operators that make what an operator reads."""
    given = (v for value in op.inputs.values() for v in (value if isinstance(value, (list, tuple)) else [value]))
    return [v.op for v in given if getattr(v, "op", None) is not None]


def is_convolution(op: Any, plans: bool) -> bool:
    """Whether an operator is a convolution of the network's. plans: not what painting does by convolutions, luma and the
    overlap of windows (paint.py), whose one output has one input or three.
    """
    if op.op_type not in _HalfInside.CONVOLUTIONS:
        return False
    return not (plans and tuple(op.inputs["weight"].shape[:2]) in ((1, 1), (1, 3)))


def last_convolutions(block: list[Any]) -> list[Any]:
    """The convolutions of a network that plans after which there are none: its heads."""
    needed: set[str] = set()
    heads = []
    for op in reversed(block):
        if is_convolution(op, True) and op.name not in needed:
            heads.append(op)
        if op.name in needed or is_convolution(op, True):
            needed |= {maker.name for maker in makers(op)}
    return heads


class _HalfInside:
    """Tells coremltools which operators may run in float16: convolutions and what lies between two of them.

    Not what lies between the flow's head and the warp, and not that head: those are coordinates. plans: of a network that
    plans, neither its heads nor what is computed from them.
    """

    CONVOLUTIONS = ("conv", "conv_transpose")

    def __init__(self, plans: bool = False) -> None:
        self.plans = plans
        self.half: set[str] | None = None

    def __call__(self, op: Any) -> bool:
        if self.half is None:
            self.half = self._choose(op.enclosing_block)
        return op.name in self.half

    def _choose(self, block: Any) -> set[str]:
        ops = list(block.operations)
        after: set[str] = set()  # has a convolution before it, or is one
        for op in ops:
            if is_convolution(op, self.plans) or any(m.name in after for m in makers(op)):
                after.add(op.name)
        before: set[str] = set()  # has a convolution after it, or is one
        for op in reversed(ops):
            if is_convolution(op, self.plans) or op.name in before:
                before |= {op.name, *(m.name for m in makers(op))}
        half = (after & before) - {op.name for op in (last_convolutions(ops) if self.plans else before_warp(ops)[0])}
        # Stored weights are unpacked to the type that their convolution computes in.
        return half | {m.name for op in ops if op.name in half for m in makers(op) if m.op_type.startswith("constexpr")}


def evaluator(path: Path) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """The saved package as a function here (mil_program.py): NCHW float32 in [0, 1] by name -> its outputs, the same.

    Inputs of a package that takes images are rounded to 8 bits first, as whoever makes the images has to.
    """
    program = mil_program.Program(path)
    images = program.images

    def run(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        packed = {name: (value * 255).round() if name in images else value for name, value in given.items()}
        return {name: value / 255 if name in images else value for name, value in program.run(packed).items()}

    return run


def _check_scales(block: list[Any], pipeline: Inpainter, precision: str, wrong: Callable[[str], GateFailed]) -> int:
    """Every learnt scale is in the program, and it quantizes nothing by any other; returns how many there are."""
    halved = precision != "int8-activations"
    activations = {stored for op in block if op.op_type in ("quantize", "dequantize") for stored in _scale(op)}
    weights = [np.atleast_1d(op.inputs["scale"].val) for op in block if op.op_type == "constexpr_affine_dequantize"]

    def same(stored: Any, learnt: Any) -> bool:
        stored, learnt = np.asarray(stored), np.asarray(learnt)
        if halved and np.array_equal(stored.astype(np.float16), learnt.astype(np.float16)):
            return True
        return formats.same_scale(stored, learnt)

    def has_weight(learnt: np.ndarray) -> bool:
        return any(len(w) == len(learnt) and same(w, learnt) for w in weights)

    stored = activations if activations or stores_activations(precision) else None
    return formats.check_scales(pipeline, has_weight, stored, wrong, same)


def _scale(op: Any) -> Iterator[tuple[float, int]]:
    """(scale, zero point as of int8) of a `quantize` or `dequantize`."""
    stored = op.outputs[0] if op.op_type == "quantize" else op.inputs["input"]
    zero_point = op.inputs.get("zero_point")
    # uint8 counts from 0 where int8 counts from -128; coremltools turns one into the other to save the zero point.
    shift = 128 if mil_program.type_of(stored) == torch.uint8 else 0
    yield float(op.inputs["scale"].val), (0 if zero_point is None else int(zero_point.val)) - shift

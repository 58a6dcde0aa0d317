"""A network as a .tflite file: written, mended where the converter rounds too often, and checked on the flatbuffer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.artifacts.runtimes import RESAMPLER
from faceeraser.conversion import formats, tflite_edits
from faceeraser.measurement.runner import reference
from faceeraser.model import paint
from faceeraser.model.any_network import AnyNetwork, Sample
from faceeraser.model.config import MODELS
from faceeraser.model.networks import Inpainter
from faceeraser.model.planner import PatchEraser
from faceeraser.model.quant import QuantConv2d
from faceeraser.model.warp import Sampling, each_of, sample_rows, sampling_coordinates, warp_by_rows
from faceeraser.system.extras import need
from faceeraser.system.script import GateFailed


@dataclass(frozen=True)
class Flavour:
    """A kind of .tflite file."""

    delegates: tuple[str, ...]
    """What it is for."""
    help: str
    """What it is, in words."""
    eight_bit: bool = False
    """uint8 pictures in and out, the mask uint8 too, any non-zero = erase; else float32 in [0, 1]."""
    warp: str = "rows"
    """'rows', look-ups of rows by stock operators, for CPUs and GPU delegates alike; or 'resampler', the operator that GPU
    delegates have for it, which on a CPU needs the plugin that export/build_resampler.sh makes."""
    for_cpu: bool = False
    """Edited for XNNPACK, with operators that GPU delegates need not have."""


FLAVOURS = {
    "cpu": Flavour(("xnnpack",), "uint8 pictures in and out, on any CPU", eight_bit=True, for_cpu=True),
    "web": Flavour(("xnnpack",), "float pictures in and out, on any CPU and in a browser (LiteRT.js)", for_cpu=True),
    "gpu": Flavour(("gpu", "xnnpack"), "float pictures, every node for the GPU delegate, stock operators"),
    "gpu-resampler": Flavour(("gpu", "resampler plugin"), "the same with the GPU delegate's own warp", warp="resampler"),
}
"""Flavours of a .tflite file; the first is what an exporter makes unless told."""


@dataclass(frozen=True)
class TFLite(formats.Format):
    """A .tflite file: NHWC inputs `image`, `mask` (`edges`), output `erased`."""

    KIND: ClassVar = "tflite"
    SUFFIX: ClassVar = ".tflite"
    PRECISIONS: ClassVar = ("fp32", "fp16", "int8")
    SUPPORTED: ClassVar = tuple(MODELS)

    flavour: str = "cpu"
    """One of FLAVOURS."""
    delegate: Path | None = None
    """The plugin that a file of the flavour gpu-resampler needs on this machine, where its gate runs it."""

    def settled(self, pipeline: Inpainter, source: Path) -> Self:
        settled = super().settled(pipeline, source)
        settled._check_plugin()
        return settled

    def _check_plugin(self) -> None:
        """Raises ValueError when the gate would need a plugin, and none is named."""
        if FLAVOURS[self.flavour].warp == "resampler" and self.delegate is None:
            raise ValueError(
                f"{self.flavour} warps by {RESAMPLER}, which a CPU needs a plugin for, and so does the gate: "
                "bash export/build_resampler.sh resampler.so, then --delegate resampler.so"
            )

    def marks(self) -> str:
        return super().marks() + (f"-{self.flavour}" if self.flavour != "cpu" else "")

    def warp(self) -> str:
        if FLAVOURS[self.flavour].warp == "resampler":
            return "custom operator Resampler, which GPU delegates have, bilinear, float32; coordinates clamped"
        return "four look-ups of rows in an (H*W, C) table and bilinear arithmetic, float32; coordinates clamped"

    def card_fields(self, pipeline: Inpainter) -> dict[str, Any]:
        return {"flavour": self.flavour, "delegates": list(FLAVOURS[self.flavour].delegates)}

    def opened(self, path: Path) -> Artifact:
        return Artifact(path, threads=1, delegate=self.delegate)

    def write(self, pipeline: Inpainter, path: Path, *, with_plan: bool = False) -> None:
        """As of every format; the mask's tensor is called `mask_where_1_is_erased`. 'fp16' is of weights only: arithmetic
        stays float32.
        """
        need("litert_torch", "tflite", "writing a .tflite file")
        flavour = FLAVOURS[self.flavour]
        network = formats.frozen(pipeline)
        network.warp, network.to_flow = WARP_FORMS[flavour.warp], _flow_in_planes
        if isinstance(network, PatchEraser):
            paint.make_constants(pipeline.config.resolution)
        sample = formats.sample(pipeline.config.resolution, self.edges_input, channels_last=True, batch=self.batch)
        traced = formats.Form(network, channels_last=True, outputs=self.outputs(pipeline, with_plan)).eval()
        self._convert(traced, sample, path, {"erase"} | ({"eight_bit"} if flavour.eight_bit else set()))

    def _convert(self, traced: nn.Module, sample: Mapping[str, Tensor], path: Path, kinds: set[str]) -> None:
        """A traced module as a file, edited as these kinds are (tflite_edits.EDITS), besides what the options say."""
        self._lower(traced, sample, path)
        if self.precision == "fp16":
            _halve_weights(path)
        graph = Graph(path)
        own = {"quantized": self.precision == "int8", "for_cpu": FLAVOURS[self.flavour].for_cpu}
        tflite_edits.apply(graph, kinds | {kind for kind, on in own.items() if on})
        graph.write(path)

    def _lower(self, traced: nn.Module, sample: Mapping[str, Tensor], path: Path) -> None:
        """A traced module as the converter writes it: the same for all flavours of one form of the warp."""
        litert_torch = need("litert_torch", "tflite", "writing a .tflite file")
        # By the least cut between NHWC and NCHW; the other way, which goes by the order of nodes, leaves ten TRANSPOSE more.
        litert_torch.config.layout_optimize_partitioner = "MINCUT"
        options: dict[str, Any] = {}
        if self.precision == "int8":
            from litert_torch.quantize import pt2e_quantizer, quant_config

            # The network's own quantize / dequantize operators carry the scales; this only tells the converter to use them.
            symmetric = pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
            quantizer = pt2e_quantizer.PT2EQuantizer().set_global(symmetric)
            options["quant_config"] = quant_config.QuantConfig(pt2e_quantizer=quantizer)
        litert_torch.convert(traced, sample_kwargs=dict(sample), **options).export(str(path))

    def without(self, path: Path, target: Path, names: Sequence[str]) -> None:
        """As of every format, and without what only those outputs need."""
        graph = Graph(path)
        signature = graph.model.signatureDefs[0]
        signature.outputs = [output for output in signature.outputs if output.name.decode() not in names]
        kept = {int(output.tensorIndex) for output in signature.outputs}
        graph.graph.outputs = np.array([t for t in graph.graph.outputs if int(t) in kept], np.int32)
        tflite_edits.unread_operators(graph)
        graph.write(target)

    def check(self, path: Path, pipeline: Inpainter) -> dict[str, Any]:
        """As of every format.

        Raises:
            GateFailed: the warp is neither four look-ups of rows nor one Resampler; a coordinate or a warped pixel is not
                float32; a convolution is not int8 in an int8 file; or a learnt scale of the checkpoint is not in the file to
                1e-6 relative.
        """
        graph = Graph(path)

        def wrong(reason: str) -> GateFailed:
            return GateFailed(f"{path.name}: {reason}")

        _check_lookups(graph, pipeline, self.batch, wrong)
        if carried := [op for op in graph.ops("DEQUANTIZE") if graph.moved_back(op)]:
            raise wrong(f"{len(carried)} float operators read a tensor that was quantized for another reader")
        convolutions = graph.ops("CONV_2D", "TRANSPOSE_CONV", "DEPTHWISE_CONV_2D")
        whole = [op for op in convolutions if all(graph.type(int(t)) == "INT8" for t in (*op.inputs[:2], op.outputs[0]))]
        expected = sum(isinstance(m, QuantConv2d) for m in pipeline.modules())
        if len(whole) != expected:
            raise wrong(f"{len(whole)} of {len(convolutions)} convolutions are int8 throughout, expected {expected}")
        counted = Counter(graph.name(op) for op in graph.graph.operators)
        checked: dict[str, Any] = {"operators": dict(counted.most_common()), "int8_convolutions": len(whole)}
        if self.precision == "int8":
            checked["scales"] = _check_scales(graph, pipeline, wrong)
        return checked

    # --- any network --------------------------------------------------------------------------------------------------

    def fields_for(self, network: AnyNetwork) -> dict[str, Any]:
        return {"flavour": self.flavour, "delegates": list(FLAVOURS[self.flavour].delegates)}

    def settled_for(self, network: AnyNetwork) -> Self:
        self._check_plugin()
        return super().settled_for(network)

    def write_network(self, network: AnyNetwork, path: Path) -> None:
        """As of every format. Pictures stay in the layout and type that the module takes."""
        need("litert_torch", "tflite", "writing a .tflite file")
        traced, _ = network.traced(SAMPLERS[FLAVOURS[self.flavour].warp])
        self._convert(traced, network.samples[0], path, {"brought"})

    def check_network(self, path: Path, network: AnyNetwork, warps: Sequence[Sampling]) -> dict[str, Any]:
        """As of every format.

        Raises:
            GateFailed: there are fewer look-ups, or fewer of Resampler, than the warps need; or one reads coordinates that
                are not computed in float32.
        """
        graph = Graph(path)
        if FLAVOURS[self.flavour].warp == "resampler":
            lookups, expected = graph.ops(RESAMPLER), len(warps)
        else:
            lookups, expected = graph.ops("GATHER"), sum(1 if warp.mode == "nearest" else 4 for warp in warps)
        if len(lookups) < expected:
            raise GateFailed(f"{path.name}: {len(lookups)} look-ups for {len(warps)} warps, expected at least {expected}")
        for op in lookups:
            for maker, t in graph.before(int(op.inputs[1]), ("CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")):
                fed = graph.constant(t) or t in graph.graph.inputs
                if warps and graph.type(t) not in ("FLOAT32", "INT32", "INT64", "BOOL") and not fed:
                    kind = graph.type(t)
                    raise GateFailed(f"{path.name}: a warp is computed from a {kind} tensor ({maker}), expected float32")
        return {"operators": dict(Counter(graph.name(op) for op in graph.graph.operators).most_common())}

    def runner(self, path: Path) -> Callable[[Sample], dict[str, np.ndarray]]:
        def run(sample: Sample) -> dict[str, np.ndarray]:
            return reference(path, {name: value.numpy() for name, value in sample.items()}, self.delegate)

        return run


def _flow_in_planes(offsets: Tensor) -> Tensor:
    """`warp.offsets_to_flow`, as a transposition to planes and products on them: pixels of two channels are slow to cut."""
    n, _, height, width = offsets.shape
    x, y = offsets.reshape(n, 2, height * width).split(1, 1)  # of two dimensions, no GPU delegate would cut them
    scaled = torch.cat([x * ((width - 1) / 2), y * ((height - 1) / 2)], 1)
    return scaled.reshape(n, 2, height, width)


def _marked(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`sample_rows`, marked for the converter: it comes out as one composite operator, in whose place Resampler goes."""
    from litert_torch.backend.composite import StableHLOCompositeBuilder

    marks = StableHLOCompositeBuilder(tflite_edits.COMPOSITE)
    coordinates = torch.cat([x, y], 1).permute(0, 2, 3, 1)
    picture, coordinates = marks.mark_inputs(image.permute(0, 2, 3, 1), coordinates)
    x, y = coordinates.permute(0, 3, 1, 2).split(1, 1)
    sampled = sample_rows(picture.permute(0, 3, 1, 2), x, y)
    return marks.mark_outputs(sampled.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _resampled(sampling: Sampling, image: Tensor, grid: Tensor) -> Tensor:
    """What `F.grid_sample` gives, by the operator Resampler; one for each picture of a batch."""
    return each_of(_marked, *sampling.coordinates(image, grid))


def _marked_warp(image: Tensor, flow: Tensor) -> Tensor:
    """`warp.warp_by_rows`, marked."""
    return each_of(_marked, image, *sampling_coordinates(flow))


WARP_FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"rows": warp_by_rows, "resampler": _marked_warp}
"""The warp's forms in a .tflite file; each is whole after `tflite_edits.EDITS`."""
SAMPLERS: dict[str, Callable[[Sampling, Tensor, Tensor], Tensor]] = {"rows": Sampling.by_rows, "resampler": _resampled}
"""The same of any `F.grid_sample`."""


def _halve_weights(path: Path) -> None:
    """Store the convolutions' weights in float16, in place; arithmetic, coordinates and everything else stay float32."""
    from ai_edge_quantizer import qtyping, quantizer

    maker = quantizer.Quantizer(str(path))
    half = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    for operation in (qtyping.TFLOperationName.CONV_2D, qtyping.TFLOperationName.CONV_2D_TRANSPOSE):
        maker.update_quantization_recipe(
            regex=".*",
            operation_name=operation,
            op_config=half,
            algorithm_key=quantizer.AlgorithmName.FLOAT_CASTING,
        )
    halved = maker.quantize().quantized_model
    assert halved is not None
    path.write_bytes(halved)


def _check_lookups(graph: Graph, pipeline: Inpainter, batch: int, wrong: Callable[[str], GateFailed]) -> None:
    """The warp, or what lays a plan's windows, is the look-ups that it should be, and reads no coordinate but float ones."""
    lookups = graph.ops("GATHER", RESAMPLER)
    expected = len(pipeline.WARPS) * (1 if graph.ops(RESAMPLER) else 4)
    if isinstance(pipeline, PatchEraser):
        # For each quarter of the windows, where it comes from, and what is there; in a file that only plans, nothing.
        expected = 8 if any(given.name in (b"erased", b"refined") for given in graph.model.signatureDefs[0].outputs) else 0
    expected *= batch
    if len(lookups) != expected or graph.ops("GATHER_ND"):
        alternatives = "the warp as 4, or as one" if pipeline.WARPS else f"{expected}, nor any"
        raise wrong(f"{len(lookups)} look-ups, expected {alternatives} {RESAMPLER}, and no GATHER_ND")
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

    def has_weight(learnt: np.ndarray) -> bool:
        # Four times over where a head computes four pixels at once; then one scale may stand for all four.
        stored = (w[:: len(w) // len(learnt)] if len(learnt) == 1 else w[: len(learnt)] for w in weights)
        return any(len(w) == len(learnt) and formats.same_scale(w, learnt) for w in stored)

    return formats.check_scales(pipeline, has_weight, activations, wrong)

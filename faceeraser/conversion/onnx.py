"""A network as an .onnx file of any size: written with int8 weights folded, and checked on the graph.

The exporter traces one size, but nothing in the graph may depend on it. So the warp and the fill, the two places where the
network asks for the size of the picture, have forms here that count pixels on the tensors instead, and the sizes of the
inputs and the output are made dynamic afterwards. (torch.export's own dynamic sizes were tried: with 48 steps of Canny it
solves inequalities for minutes, and it fixes the size where the fill's coarsest levels have one pixel.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.runtimes import MEANINGS
from faceeraser.conversion import formats
from faceeraser.conversion.gate import Gate, Reference, as_file, cut, gate_pictures, parity
from faceeraser.model import paint
from faceeraser.model.any_network import AnyNetwork, Sample
from faceeraser.model.config import Config
from faceeraser.model.networks import Inpainter
from faceeraser.model.planner import PatchEraser
from faceeraser.model.quant import QuantConv2d
from faceeraser.model.warp import Sampling
from faceeraser.system.extras import need
from faceeraser.system.script import GateFailed

LARGEST = 2048
"""Height and width that a file takes at most; the fill's pyramid has levels for so many pixels."""


def multiple_of(config: Config) -> int:
    """What height and width have to be a multiple of: the refine network halves five times what it is shown."""
    return 32 * config.shrink


def other_sizes(pipeline: Inpainter) -> list[tuple[int, int]]:
    """(height, width) at which an .onnx file is compared as well: 320 x 192 and 512 x 512 for most networks."""
    step = max(64, multiple_of(pipeline.config))
    return [(5 * step, 3 * step), (8 * step, 8 * step)]


def warp_any_size(image: Tensor, flow: Tensor) -> Tensor:
    """`warp.warp` for pictures (N, C, H, W) of any H and W of at least 2, without a size in the graph."""
    ones = flow[:, :1].float() * 0.0 + 1.0
    columns, rows = ones.cumsum(3) - 1.0, ones.cumsum(2) - 1.0
    right, bottom = columns[:, :, -1:, -1:], rows[:, :, -1:, -1:]
    x = torch.minimum((flow[:, 0:1].float() + columns).clamp(min=0.0), right)
    y = torch.minimum((flow[:, 1:2].float() + rows).clamp(min=0.0), bottom)
    grid = torch.cat([x * (2.0 / right) - 1.0, y * (2.0 / bottom) - 1.0], 1).permute(0, 2, 3, 1)
    return F.grid_sample(image.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)


def flow_any_size(offsets: Tensor) -> Tensor:
    """`warp.offsets_to_flow` of offsets (N, 2, H, W), without a size in the graph."""
    ones = offsets[:1, :1] * 0.0 + 1.0
    width, height = ones[:, :, :1].sum(3, keepdim=True), ones[:, :, :, :1].sum(2, keepdim=True)
    return offsets * ((torch.cat([width, height], 1) - 1.0) / 2.0)


def fill_any_size(multiple: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`networks.fill_hole` for pictures whose sides are multiples of `multiple` (a power of two), up to LARGEST.

    The network's own pyramid ends where a side is odd or down to two pixels, so its depth hangs on the size. This one always
    has every level that the largest picture needs, and takes of a coarser level only what the network would have computed.
    """
    sure = int(math.log2(multiple)) - 1  # as often can every size be halved and have two pixels left
    deepest = int(math.log2(LARGEST)) - 1

    def descend(known: Tensor, weight: Tensor, level: int) -> tuple[Tensor, Tensor]:
        value, seen = (known, weight) if level == 0 else (known / (weight + 1e-6), (weight * 65536.0).clamp(max=1.0))
        hole = 1.0 - seen
        mean = value.mean((2, 3), keepdim=True) / (seen.mean((2, 3), keepdim=True) + 1e-6)
        coarsest = mean + (value - mean) * seen
        if level == deepest:
            return coarsest, coarsest
        if level >= sure:
            # One row and column more, which an even size does not look at, so that a single pixel can be halved too.
            known, weight = F.pad(known, (0, 1, 0, 1)), F.pad(weight, (0, 1, 0, 1))
        filled, shading = descend(F.avg_pool2d(known, 2), F.avg_pool2d(weight, 2), level + 1)
        filled = F.interpolate(filled, scale_factor=2.0, mode="bilinear", align_corners=False)
        goes_on = None
        if level >= sure:
            ones = seen[0, 0] * 0.0 + 1.0
            rows, columns = ones[:, 0].cumsum(0), ones[0].cumsum(0)
            height, width = rows[-1:], columns[-1:]
            goes_on = (torch.minimum(height, width) > 2.0) & (height % 2 + width % 2 < 0.5)
            filled = filled.index_select(2, rows.long() - 1).index_select(3, columns.long() - 1)
        filled = value + hole * filled
        for _ in range(2):
            filled = value + hole * F.avg_pool2d(filled, 3, 1, 1, count_include_pad=False)
        filled = filled if goes_on is None else torch.where(goes_on, filled, coarsest)
        return filled, (filled if level == 3 else shading)

    def fill(visible: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        filled, shading = descend(visible, keep, 0)
        return filled, F.interpolate(shading, scale_factor=8.0, mode="bilinear", align_corners=False)

    return fill


@dataclass(frozen=True)
class ONNX(formats.Format):
    """An .onnx file, opset 18, the warp as GridSample: NCHW float32 inputs `image`, `mask` (`edges`), output `erased`.

    Height and width are open: multiples of `multiple_of`, at most LARGEST; of a network that plans they are what it
    paints. Of a quantized network QuantizeLinear / DequantizeLinear pairs with the learnt scales, which a runtime joins with
    the operators between them; what is stored counts from 0 (`_count_from_0`).
    """

    KIND: ClassVar = "onnx"
    SUFFIX: ClassVar = ".onnx"
    PRECISIONS: ClassVar = ("fp32", "int8")

    def warp(self) -> str:
        return "GridSample, bilinear, border, align_corners = 1, float32; coordinates clamped"

    def card_fields(self, pipeline: Inpainter) -> dict[str, Any]:
        if isinstance(pipeline, PatchEraser):
            return {}
        step = multiple_of(pipeline.config)
        return {"sizes": {"multiple_of": step, "min": step, "max": LARGEST}}

    def compare_elsewhere(
        self, file: Artifact, pipeline: Inpainter, reference: Reference, gate: Gate
    ) -> tuple[dict[str, Any], list[str]]:
        """At other sizes: `parity_at`."""
        if isinstance(pipeline, PatchEraser):
            return {}, []
        compared, failures = [], []
        for height, width in other_sizes(pipeline):
            some = cut(gate_pictures(max(height, width))[:2], height, width)
            measured = parity(as_file(file, reference), some, reference, gate.elsewhere())
            compared.append({"height": height, "width": width, **measured})
            failures += [f"at {height} x {width}, {failure}" for failure in measured.get("failures", [])]
        return {"parity_at": compared}, failures

    def write(self, pipeline: Inpainter, path: Path, *, with_plan: bool = False) -> None:
        need("onnxscript", "onnx", "writing an .onnx file")
        onnx = need("onnx", "onnx", "writing an .onnx file")
        need("onnxsim", "onnx", "writing an .onnx file")
        network = formats.frozen(pipeline)
        network.warp, network.to_flow = warp_any_size, flow_any_size
        network.fill = fill_any_size(multiple_of(pipeline.config))
        side, any_size = LARGEST, not isinstance(network, PatchEraser)
        if not any_size:
            side = pipeline.config.resolution
            paint.make_constants(side)
        # Shown at its largest, where no level of the fill has a single pixel: sums over one pixel would be optimized away.
        sample = formats.sample(side, self.edges_input, channels_last=False, batch=self.batch)
        outputs = list(self.outputs(pipeline, with_plan))
        traced = formats.Form(network, channels_last=False, outputs=outputs).eval()
        _traced_to(path, traced, sample, outputs)
        model = onnx.load(str(path))
        _say_what_ports_are(model)
        if any_size:
            _open_sizes(model)
        save(model, path)

    def without(self, path: Path, target: Path, names: Sequence[str]) -> None:
        onnx = need("onnx", "onnx", "writing an .onnx file")
        model = onnx.load(str(path))
        kept = [port for port in model.graph.output if port.name not in names]
        del model.graph.output[:]
        model.graph.output.extend(kept)
        onnx.save(model, str(target))

    def check(self, path: Path, pipeline: Inpainter) -> dict[str, Any]:
        """As of every format.

        Raises:
            GateFailed: the warp is not one bilinear, border, corner-aligned GridSample, or what lays a plan's windows is not
                four look-ups; its coordinates are not computed in float; a convolution's weights are not 8 bits in an int8
                file; or a learnt scale of the checkpoint is not in it.
        """
        onnx = need("onnx", "onnx", "checking an .onnx file")
        graph = onnx.load(str(path)).graph
        maker = {name: node for node in graph.node for name in node.output}
        if isinstance(pipeline, PatchEraser):
            _check_lookups(graph, 4 * self.batch if self.output != "plan" else 0, path)
        else:
            _check_warp(graph, path)
        int8 = sum(
            node.op_type == "Conv" and getattr(maker.get(node.input[1]), "op_type", "") == "DequantizeLinear"
            for node in graph.node
        )
        expected = sum(isinstance(m, QuantConv2d) for m in pipeline.modules())
        if int8 != expected:
            raise GateFailed(f"{path.name}: {int8} convolutions have int8 weights, expected {expected}")
        operators = dict(Counter(node.op_type for node in graph.node).most_common())
        checked: dict[str, Any] = {"operators": operators, "int8_convolutions": int8}
        if self.precision == "int8":
            checked["scales"] = _check_scales(graph, pipeline, path)
        return checked

    # --- any network --------------------------------------------------------------------------------------------------

    def write_network(self, network: AnyNetwork, path: Path) -> None:
        """As of every format: each warp is one GridSample."""
        traced, _ = network.traced(None)
        _traced_to(path, traced, network.samples[0], list(network.outputs(network.samples[0])))
        save(need("onnx", "onnx", "writing an .onnx file").load(str(path)), path)

    def check_network(self, path: Path, network: AnyNetwork, warps: Sequence[Sampling]) -> dict[str, Any]:
        """As of every format. Raises GateFailed: there is not one GridSample for each warp, sampling as it was asked."""
        onnx = need("onnx", "onnx", "checking an .onnx file")
        graph = onnx.load(str(path)).graph
        samplers = [
            {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            for node in graph.node
            if node.op_type == "GridSample"
        ]
        modes = {b"linear": "bilinear"}
        sampled = Counter(
            (
                modes.get(attributes.get("mode", b"bilinear"), attributes.get("mode", b"bilinear").decode()),
                attributes.get("padding_mode", b"zeros").decode(),
                bool(attributes.get("align_corners", 0)),
            )
            for attributes in samplers
        )
        asked = Counter((warp.mode, warp.padding_mode, warp.align_corners) for warp in warps)
        if sampled != asked:
            raise GateFailed(f"{path.name}: samples {dict(sampled)}, expected {dict(asked)}")
        return {"operators": dict(Counter(node.op_type for node in graph.node).most_common())}

    def runner(self, path: Path) -> Callable[[Sample], dict[str, np.ndarray]]:
        runtime = need("onnxruntime", "onnx", "running an .onnx file")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [port.name for port in session.get_outputs()]

        def run(sample: Sample) -> dict[str, np.ndarray]:
            given = {name: value.numpy() for name, value in sample.items()}
            return dict(zip(names, session.run(None, given), strict=True))

        return run


def _traced_to(path: Path, module: nn.Module, sample: Sample, outputs: Sequence[str]) -> None:
    """Write what torch's exporter makes of a module, with names for its inputs and outputs."""
    torch.onnx.export(
        module,
        (),
        kwargs=dict(sample),
        f=str(path),
        dynamo=True,
        opset_version=18,
        external_data=False,
        input_names=list(sample),
        output_names=list(outputs),
        optimize=False,
    )


def save(model: Any, path: Path) -> None:
    """Write what torch's exporter made, simplified, with int8 weights folded and without its stack traces."""
    onnx, simplifier = (need(name, "onnx", "writing an .onnx file") for name in ("onnx", "onnxsim"))
    # onnxsim leaves as few nodes as the exporter's own optimizer (of 6061 for a small network 1506; 1528) in a second
    # rather than a minute, and both together 1501.
    model, _ = simplifier.simplify(model)
    _fold_weights(model)
    _count_from_0(model)
    # The exporter leaves a Python stack trace on every node, which is more than the weights of a small network.
    for owner in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del owner.metadata_props[:]
    del model.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _check_warp(graph: Any, path: Path) -> None:
    """The warp is one bilinear, border, corner-aligned GridSample of floats."""
    from onnx import helper

    maker = {name: node for node in graph.node for name in node.output}
    samples = [node for node in graph.node if node.op_type == "GridSample"]
    if len(samples) != 1:
        raise GateFailed(f"{path.name}: {len(samples)} GridSample operators, expected one")
    attributes = {a.name: helper.get_attribute_value(a) for a in samples[0].attribute}
    wanted = {"mode": (b"linear", b"bilinear"), "padding_mode": (b"border",), "align_corners": (1,)}
    for key, allowed in wanted.items():
        if attributes.get(key) not in allowed:
            raise GateFailed(f"{path.name}: GridSample has {key} = {attributes.get(key)!r}, expected {allowed[0]!r}")
    _check_floats(maker, samples[0].input, path)


def _check_lookups(graph: Any, expected: int, path: Path) -> None:
    """A plan's windows are laid by so many look-ups with numbers that are computed, in float."""
    constants = {t.name for t in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    lookups = [node for node in graph.node if node.op_type == "Gather" and not set(node.input) & constants]
    if len(lookups) != expected:
        raise GateFailed(f"{path.name}: {len(lookups)} look-ups by computed numbers, expected {expected}")
    for node in lookups:
        _check_floats(maker, node.input[1:], path)


def _check_floats(maker: Mapping[str, Any], names: Sequence[str], path: Path) -> None:
    """What these are computed from, back to convolutions, passes through no 8 bits."""
    seen, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        node = maker.get(name)
        if node is None or name in seen or node.op_type in ("Conv", "ConvTranspose"):
            continue
        seen.add(name)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise GateFailed(f"{path.name}: the warp's picture or coordinates pass through {node.op_type}, expected float32")
        waiting.extend(node.input)


def _check_scales(graph: Any, pipeline: Inpainter, path: Path) -> int:
    """Every learnt scale is in the file, and it quantizes no activation by any other; returns how many there are."""
    from onnx import numpy_helper

    constants = {t.name: t for t in graph.initializer}
    weights, activations = list[np.ndarray](), set[tuple[float, int]]()
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            scale = np.atleast_1d(numpy_helper.to_array(constants[node.input[1]]).astype(np.float64))
            if node.input[0] in constants:
                weights.append(scale)
            else:
                zero_point = numpy_helper.to_array(constants[node.input[2]])
                activations.add((float(scale[0]), int(zero_point) - (128 if zero_point.dtype == np.uint8 else 0)))

    def has_weight(learnt: np.ndarray) -> bool:
        return any(len(w) == len(learnt) and formats.same_scale(w, learnt) for w in weights)

    def wrong(why: str) -> GateFailed:
        return GateFailed(f"{path.name}: {why}")

    return formats.check_scales(pipeline, has_weight, activations, wrong)


def _say_what_ports_are(model: Any) -> None:
    """Give inputs and outputs their words, in place."""
    for port in (*model.graph.input, *model.graph.output):
        port.doc_string = MEANINGS.get(port.name, "")


def _open_sizes(model: Any) -> None:
    """Declare height and width of inputs and output open, in place."""
    del model.graph.value_info[:]
    for port in (*model.graph.input, *model.graph.output):
        small = "" if port.name in ("image", "mask", "edges", "erased") else "small_"
        for axis, name in ((2, "height"), (3, "width")):
            port.type.tensor_type.shape.dim[axis].dim_param = small + name


def _fold_weights(model: Any) -> None:
    """Store quantized weights as int8: QuantizeLinear of a constant, and the clip after it, are worked out, in place."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    values = {t.name: t for t in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Constant":
            given = helper.get_attribute_value(node.attribute[0])
            if not isinstance(given, TensorProto):
                value = np.asarray(given)
                given = numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32))
            given.name = node.output[0]
            values[given.name] = given
            continue
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


def _count_from_0(model: Any) -> None:
    """Store quantized tensors as uint8, 128 above what they are as int8, in place: the same numbers everywhere.

    ONNX Runtime multiplies uint8 by int8 with VPMADDUBSW where a CPU has AVX2 and no VNNI, and that adds two products in 16
    bits, which overflow: 38 dB where the network is 55 (an emulated Haswell). uint8 by uint8 it adds up in 32 bits.
    """
    from onnx import numpy_helper

    graph = model.graph
    values = {t.name: t for t in graph.initializer}
    raised: dict[str, str] = {}

    def raise_(name: str) -> str:
        if name not in raised:
            levels = numpy_helper.to_array(values[name]).astype(np.int16) + 128
            raised[name] = f"{name}_from_0"
            graph.initializer.append(numpy_helper.from_array(levels.astype(np.uint8), raised[name]))
        return raised[name]

    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.input[2] = raise_(node.input[2])
            if node.input[0] in values:
                node.input[0] = raise_(node.input[0])
    kept = [t for t in graph.initializer if t.name not in raised]
    del graph.initializer[:], graph.value_info[:]  # which say int8
    graph.initializer.extend(kept)

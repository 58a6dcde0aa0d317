"""A network as an .onnx file: written with int8 weights folded, and checked on the graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faceeraser import form, quant
from faceeraser.networks import FaceEraser
from faceeraser.quant import QuantConv2d
from faceeraser.stage import GateFailed
from faceeraser.warp import warp


def write(pipeline: FaceEraser, path: Path, precision: str, edges_input: bool = False) -> None:
    """Write an .onnx file, opset 18, the warp as GridSample: NCHW float32 inputs `image`, `mask` (`edges`), output `erased`.

    precision: 'fp32' of a float network; 'int8' of a quantized one, as QuantizeLinear / DequantizeLinear pairs with the
    learnt scales, which a runtime joins with the operators between them.
    """
    form.need("onnxscript", "onnx")
    onnx = form.need("onnx", "onnx")
    network = form.frozen(pipeline)
    network.warp = warp
    sample = form.sample(pipeline.config.resolution, edges_input, channels_last=False)
    traced = form.Form(network, channels_last=False).eval()
    torch.onnx.export(
        traced, (), kwargs=sample, f=str(path), dynamo=True, opset_version=18, external_data=False,
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


def check(path: Path, pipeline: FaceEraser, precision: str) -> dict[str, Any]:
    """Assert on the written file what must hold of it; returns what was counted, for the card.

    Raises:
        GateFailed: the warp is not one bilinear, border, corner-aligned GridSample; its coordinates are not computed in
            float; a convolution's weights are not int8 in an int8 file; or a learnt scale of the checkpoint is not in it.
    """
    onnx = form.need("onnx", "onnx")
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

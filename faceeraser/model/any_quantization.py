"""Quantizing any network: int8 convolutions with learnt scales in its torch graph, with coordinates in float.

    module = quantized(network, float_layers=["head"])

The network is exported to torch's own graph; each convolution in it becomes a `quant.QuantConv2d` with the batch norm after
it folded in, what it reads and what it gives (after its ReLU) pass through a `quant.FakeQuant`. Whatever leads from a
convolution to the grid of an `F.grid_sample` is coordinates: those convolutions are never quantized, nor what they give.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_weights

from faceeraser.model.any_network import AnyNetwork, samples_pictures
from faceeraser.model.quant import FakeQuant, QuantConv2d

_CONVOLUTIONS = ("conv2d", "conv_transpose2d", "linear", "convolution")


def quantized(network: AnyNetwork, float_layers: Collection[str] = ()) -> GraphModule:
    """The network's graph with its 2-D convolutions in int8, scales not chosen yet (`calibrate`).

    float_layers: names of convolutions that stay in float, besides `coordinate_layers`.

    Raises:
        ValueError: torch.export cannot follow the network, or there is no convolution to quantize.
    """
    # Of a copy: what stays in float is trained with the rest, and would be the float network's own.
    graph, _ = replace(network, module=copy.deepcopy(network.module)).traced(None, any_batch=True)
    skipped = {*float_layers, *coordinate_layers(graph)}
    stores: dict[Node, Node] = {}
    joins = _joins(graph, network)
    names = set[str]()
    for node in list(graph.graph.nodes):
        if _kind(node) != "conv2d" or not _plain(node) or layer_of(node) in skipped:
            continue
        name = name_in_int8(layer_of(node))
        name += f"_{len(names)}" if name in names else ""  # a layer that is used twice
        _replace(graph, node, stores, name, joins)
        names.add(name)
    if not names:
        raise ValueError(f"{network.name}: no 2-D convolution that could be quantized")
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def calibrate(module: nn.Module, network: AnyNetwork) -> None:
    """Choose every activation's scale from the network's samples."""
    stores = [m for m in module.modules() if isinstance(m, FakeQuant)]
    for store in stores:
        store.calibrating = True
    with torch.no_grad():
        for sample in network.samples:
            module(**sample)
    for store in stores:
        store.calibrating = False
        store.settle()


def coordinate_layers(graph: GraphModule) -> set[str]:
    """Convolutions from which a way leads to the grid of a warp without another convolution."""
    layers = set()
    for sampler in (node for node in graph.graph.nodes if samples_pictures(node)):
        layers |= {layer_of(node) for node in _back_to_convolutions([sampler.args[1]])}
    return layers


def last_layers(graph: GraphModule) -> set[str]:
    """Convolutions from which a way leads to an output, or to a warp's grid, without another convolution."""
    ends = [node for node in graph.graph.nodes if node.op == "output"]
    given = [source for end in ends for source in end.all_input_nodes]
    return {layer_of(node) for node in _back_to_convolutions(given)} | coordinate_layers(graph)


def layer_of(node: Node) -> str:
    """The name of the layer whose weight a convolution has."""
    weight = node.args[1]
    assert isinstance(weight, Node)
    name = str(weight.target).removeprefix("module.")
    return name.removesuffix(".weight")


def name_in_int8(layer: str) -> str:
    """What a layer is called once it is quantized; what it gives is stored by that name and `_out`."""
    return "int8_" + layer.replace(".", "_")


def _kind(node: Node) -> str:
    return getattr(node.target, "__name__", "").split(".")[0] if node.op == "call_function" else ""


def _back_to_convolutions(nodes: Any) -> Iterator[Node]:
    seen: set[Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node in seen or not isinstance(node, Node):
            continue
        seen.add(node)
        if _kind(node) in _CONVOLUTIONS:
            yield node
        else:
            waiting.extend(node.all_input_nodes)


def _plain(node: Node) -> bool:
    """Whether the weights are the module's, and the padding is told in numbers."""
    weight = node.args[1]
    padding = node.args[4] if len(node.args) > 4 else 0
    return isinstance(weight, Node) and weight.op == "get_attr" and not isinstance(padding, str)


def _tensor(graph: GraphModule, node: Any) -> Tensor | None:
    if node is None:
        return None
    attribute: Any = graph
    for part in str(node.target).split("."):
        attribute = getattr(attribute, part)
    return attribute.detach()


def _replace(
    graph: GraphModule, node: Node, stores: dict[Node, Node], name: str, joins: dict[Node, tuple[str, str]]
) -> None:
    """One convolution, the batch norm after it folded in, between stored tensors."""
    last = node
    given: list[Any] = [*node.args, *[None, 1, 0, 1, 1][len(node.args) - 2 :]]
    weight, bias = _tensor(graph, given[1]), _tensor(graph, given[2])
    assert weight is not None
    after = _only_reader(last)
    if after is not None and _kind(after) == "batch_norm":
        norm = [_tensor(graph, argument) for argument in after.args[1:5]]
        epsilon: Any = after.args[7]
        weight, bias = fuse_conv_bn_weights(weight, bias, norm[2], norm[3], epsilon, norm[0], norm[1])
        last, after = after, _only_reader(after)
    stride, padding, dilation, groups = given[3:7]
    inputs, kernel = weight.shape[1] * int(groups), tuple(weight.shape[2:])
    conv = nn.Conv2d(inputs, len(weight), kernel, stride, padding, dilation, groups)
    conv.weight = nn.Parameter(weight.clone())
    conv.bias = nn.Parameter(torch.zeros(len(weight)) if bias is None else bias.clone())
    kind = "signed"
    if after is not None and _kind(after) in ("relu", "relu_"):
        last, kind = after, "relu"
    source = node.args[0]
    assert isinstance(source, Node)
    with graph.graph.inserting_before(node):
        stored = _stored(graph, source, stores, joins)
        graph.add_submodule(name, QuantConv2d.from_float(copy.deepcopy(conv)))
        own = graph.graph.call_module(name, (stored,))
        if kind == "relu":
            own = graph.graph.call_function(torch.ops.aten.relu.default, (own,))
        graph.add_submodule(f"{name}_out", FakeQuant(kind))
        own = graph.graph.call_module(f"{name}_out", (own,))
    last.replace_all_uses_with(own)
    stores[own] = own


def _joins(graph: GraphModule, network: AnyNetwork) -> dict[Node, tuple[str, str]]:
    """{tensor: (the name of its store, its kind)} of what is joined before a convolution, and of every input.

    A join in int8 has one scale, and a converter hands it to whoever else reads one of its parts: so all share one store.
    """
    ranges = {node: network.range_of(node.name) for node in graph.graph.nodes if node.op == "placeholder"}
    pictures = {node for node, found in ranges.items() if found == (0.0, 1.0)}
    joins = {node: (f"int8_of_{node.name}", "image") for node in pictures}
    for join in (node for node in graph.graph.nodes if _kind(node) == "cat"):
        if any(_kind(reader) == "conv2d" and reader.args[0] is join for reader in join.users):
            parts = join.all_input_nodes
            kind = "image" if set(parts) <= pictures else "signed"
            joins |= {node: (f"int8_of_{join.name}", kind) for node in (*parts, join)}
    return joins


def _stored(graph: GraphModule, source: Node, stores: dict[Node, Node], joins: dict[Node, tuple[str, str]]) -> Node:
    if source not in stores:
        name, kind = joins.get(source, (f"int8_in_{len(stores)}", "signed"))
        if not hasattr(graph, name):
            graph.add_submodule(name, FakeQuant(kind))
        stores[source] = graph.graph.call_module(name, (source,))
    return stores[source]


def _only_reader(node: Node) -> Node | None:
    readers = list(node.users)
    return readers[0] if len(readers) == 1 else None

"""Any network that works on pictures, ready to be exported: its samples, and its warps written in a form that phones accept.

    brought = AnyNetwork(module, {"image": torch.rand(1, 3, 256, 256)}, name="stabiliser")
    convert.export_module(brought, "exports", TFLite(flavour="gpu"))

A network with `F.grid_sample` in it is what other converters make slow or wrong: GATHER_ND in a .tflite file, refused by
GPUs, and coordinates in 8 bits once it is quantized. So the network is exported to torch's own graph first, each
`grid_sample` in it is found (however it was imported, in whatever layer) and what it was asked for is written in the exact
form that the target takes (`warp.Sampling`), before a converter sees it.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from faceeraser.model import quant
from faceeraser.model.warp import MODES, PADDINGS, Sampling

Sample = Mapping[str, Tensor]

_SAMPLERS = ("grid_sampler", "grid_sampler_2d", "grid_sampler_3d", "cudnn_grid_sampler")
_ASKED_MODES, _ASKED_PADDINGS = (*MODES, "bicubic"), PADDINGS  # by torch's numbers of them


@dataclass(frozen=True)
class AnyNetwork:
    """A network that was not made for this project, with what it is fed."""

    module: nn.Module
    """What is exported; called with its inputs by name, in eval mode. It gives a tensor, a tuple of them or a dictionary."""
    samples: Sequence[Sample]
    """Inputs by name. The first is what is traced, and its shapes are the file's; the gate compares on all."""
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Least and largest value of each input, for the card and for made-up inputs; those of the samples by default."""
    name: str = "network"
    """What its files are called."""
    made_by: str = ""
    """Where it came from, for the card: `my_net.py:build`."""

    @classmethod
    def of(cls, module: nn.Module, inputs: Sample | Sequence[Sample], **about: Any) -> AnyNetwork:
        """Of a module and one sample of its inputs, or several.

        Raises:
            ValueError: there are no samples, they are no tensors by name, or differ in names, shapes or types.
        """
        samples = [inputs] if isinstance(inputs, Mapping) else list(inputs)
        if not isinstance(module, nn.Module):
            raise ValueError(f"expected a torch.nn.Module, found {type(module).__name__}")
        if not samples or not all(isinstance(sample, Mapping) and sample for sample in samples):
            expected = "sample inputs by name, such as {'image': torch.rand(1, 3, 256, 256)}, or a list of such"
            raise ValueError(f"expected {expected}")
        for sample in samples:
            for name, value in sample.items():
                if not isinstance(value, Tensor):
                    raise ValueError(f"input {name!r} of the samples is {type(value).__name__}, expected a torch.Tensor")
            shapes = {name: (tuple(value.shape), value.dtype) for name, value in sample.items()}
            first = {name: (tuple(value.shape), value.dtype) for name, value in samples[0].items()}
            if shapes != first:
                raise ValueError(f"samples differ: {shapes} after {first}; expected the same names, shapes and types")
        return cls(copy.deepcopy(module).cpu().eval().requires_grad_(False), samples, **about)

    def range_of(self, name: str) -> tuple[float, float]:
        """Least and largest value of an input."""
        if name in self.ranges:
            low, high = self.ranges[name]
            return float(low), float(high)
        values = [sample[name].double() for sample in self.samples]
        return min(float(v.min()) for v in values), max(float(v.max()) for v in values)

    def outputs(self, sample: Sample) -> dict[str, np.ndarray]:
        """What the module gives, by name."""
        with torch.no_grad():
            return {name: value.numpy() for name, value in named(self.module(**sample)).items()}

    def traced(
        self, write: Callable[[Sampling, Tensor, Tensor], Tensor] | None, any_batch: bool = False
    ) -> tuple[GraphModule, list[Sampling]]:
        """(the module as torch's graph, with names for its outputs but for any batch; how each of its warps samples).

        write: what takes the place of each `F.grid_sample`, as a function of (sampling, image, grid); None: they stay.
        any_batch: the graph takes as many pictures at once as it is given, where the module does, as training needs.

        Raises:
            ValueError: torch.export cannot follow the module, or a warp cannot be written exactly (5-D, bicubic); the
                message names it.
        """
        module = self.module
        if quant.is_quantized(module):
            module = copy.deepcopy(module)
            quant.set_exporting(module)
        sample, sizes = dict(self.samples[0]), None
        given: nn.Module = _Named(module)
        if any_batch:  # shown two: of one, torch would take it for granted; and as it is: of named inputs, it asks for all
            given = module
            sample = {name: torch.cat([value, value]) if value.ndim > 1 else value for name, value in sample.items()}
            sizes = {name: {0: torch.export.Dim.AUTO} if value.ndim > 1 else None for name, value in sample.items()}
        try:
            graph = torch.export.export(given, (), sample, dynamic_shapes=sizes, strict=False).module()
        except Exception as error:  # torch raises many kinds
            said = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            raise ValueError(f"{self.name}: torch.export cannot follow it ({said})") from None
        assert isinstance(graph, GraphModule)
        warps = []
        for number, node in enumerate([node for node in graph.graph.nodes if samples_pictures(node)]):
            sampling = _asked(node)
            warps.append(sampling)
            if write is not None:
                graph.add_submodule(f"warp_{number}", _Warp(sampling, write))
                with graph.graph.inserting_before(node):
                    own = graph.graph.call_module(f"warp_{number}", node.args[:2])
                node.replace_all_uses_with(own)
                graph.graph.erase_node(node)
        for node in [node for node in graph.graph.nodes if node.target == "_guards_fn"]:  # what held of the sample alone
            graph.graph.erase_node(node)
        # A plain module of that graph: torch.export's own refuses train() and eval().
        return GraphModule(graph, graph.graph), warps


def named(given: Any) -> dict[str, Tensor]:
    """What a module gives, by name: the keys of a dictionary; `output`, or `output_0` and so on."""
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, Tensor):
        return {"output": given}
    if isinstance(given, Sequence) and all(isinstance(output, Tensor) for output in given):
        return {f"output_{k}": output for k, output in enumerate(given)}
    expected = "expected a tensor, a tuple of tensors or a dictionary of them"
    raise ValueError(f"the module gives {type(given).__name__}, {expected}")


class _Named(nn.Module):
    """A module whose outputs all have names."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, **given: Tensor) -> dict[str, Tensor]:
        return named(self.module(**given))


class _Warp(nn.Module):
    """What stands in the place of an `F.grid_sample`."""

    def __init__(self, sampling: Sampling, write: Callable[[Sampling, Tensor, Tensor], Tensor]):
        super().__init__()
        self.sampling, self.write = sampling, write

    def forward(self, image: Tensor, grid: Tensor) -> Tensor:
        return self.write(self.sampling, image, grid)


def samples_pictures(node: Node) -> bool:
    """Whether a node of torch's graph is an `F.grid_sample`."""
    return node.op == "call_function" and getattr(node.target, "__name__", "").split(".")[0] in _SAMPLERS


def _asked(node: Node) -> Sampling:
    """How a node samples. Raises ValueError when that cannot be written exactly: which layer's it is."""
    given: list[Any] = [*node.args[2:], *[0, 0, False][len(node.args) - 2 :]]
    (mode, padding, corners), image = given, node.args[0]
    assert isinstance(image, Node)
    rank = image.meta["val"].ndim
    if rank != 4:
        raise ValueError(f"{_place(node)}: F.grid_sample of {rank}-D input; expected a 4-D one (N, C, H, W)")
    if _ASKED_MODES[mode] not in MODES:
        expected = " or ".join(MODES)
        raise ValueError(f"{_place(node)}: F.grid_sample with mode={_ASKED_MODES[mode]!r}; expected {expected}")
    return Sampling(_ASKED_MODES[mode], _ASKED_PADDINGS[padding], bool(corners))


def _place(node: Node) -> str:
    """Which of the module's layers a node is of."""
    layers = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    layer = layers[-1].removeprefix("module").removeprefix(".") if layers else ""
    return f"layer {layer}" if layer else "the module's own forward"


def load(text: str) -> Any:
    """The function that `my_net.py:build` names, of the file before the colon.

    Raises:
        ValueError: it names no function of a Python file, or the file raises when it is loaded; says what.
    """
    path, colon, name = text.rpartition(":")
    file = Path(path)
    if not colon or file.suffix != ".py" or not name.isidentifier():
        raise ValueError(f"--module {text}: expected FILE.py:FUNCTION, such as my_net.py:build")
    if not file.is_file():
        raise ValueError(f"--module {text}: no file {file}")
    return getattr(_module_at(file, text), name, None) or _lacks(file, name)


def _module_at(file: Path, text: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"brought_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    sys.path.insert(0, str(file.resolve().parent))  # what lies beside it can be imported, as when it is run
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"--module {text}: {file} raises {type(error).__name__} when it is loaded: {error}") from error
    finally:
        sys.path.pop(0)
    return module


def _lacks(file: Path, name: str) -> Any:
    raise ValueError(f"{file} has no function {name!r}")


def built(text: str) -> AnyNetwork:
    """The network that `build()` of `my_net.py:build` makes: it gives (module, inputs) or (module, inputs, ranges).

    Raises:
        ValueError: it gives something else, or raises.
    """
    build = load(text)
    try:
        parts = build()
    except Exception as error:
        raise ValueError(f"--module {text}: it raises {type(error).__name__}: {error}") from error
    if not isinstance(parts, tuple) or len(parts) not in (2, 3):
        expected = "(module, inputs) or (module, inputs, ranges)"
        raise ValueError(f"--module {text}: it gives {type(parts).__name__}, expected {expected}")
    ranges = parts[2] if len(parts) == 3 else {}
    path, _, function = text.rpartition(":")
    file = Path(path)
    return AnyNetwork.of(parts[0], parts[1], ranges=ranges, name=file.stem, made_by=f"{file.name}:{function}")

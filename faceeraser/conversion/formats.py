"""What all formats of exported files share: options, the methods they must have, and a network that is ready to be traced.

    format = TFLite(precision="fp16", flavour="gpu")        # tflite.py; ONNX is onnx.py's, CoreML coreml.py's
    convert.export("runs/student", "exports", format)

A format defines its options, the names of its files, the content of their cards, and how they are written, checked and
compared with their network. `convert.export` calls these in turn, whatever the format.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from faceeraser.artifacts.artifact import Artifact
from faceeraser.conversion.gate import BOUNDS, Gate, Picture, Reference, as_file, parity, together, unchanged
from faceeraser.model import quant
from faceeraser.model.any_network import AnyNetwork, Sample
from faceeraser.model.networks import Inpainter
from faceeraser.model.warp import Sampling
from faceeraser.system.script import GateFailed


class Written(NamedTuple):
    """A file before it is published: its path, and that of the same file with the network's plan as an output, if any."""

    path: Path
    planned: Path | None


@dataclass(frozen=True)
class Format(ABC):
    """Options of a file to export, whatever the format; a format adds its own."""

    KIND: ClassVar[str]
    """Its name in cards."""
    SUFFIX: ClassVar[str]
    """The ending of its files."""
    PRECISIONS: ClassVar[tuple[str, ...]]
    """Allowed values of `precision`, besides 'auto'."""
    BOUNDS: ClassVar[dict[str, float]] = BOUNDS
    """The gate's bound on the picture, by precision."""
    SUPPORTED: ClassVar[tuple[str, ...]] = ("faceeraser", "patches")
    """Models that it can be written for (config.MODELS)."""

    precision: str = "auto"
    """'auto' for the network's own (int8 if it is quantized, else fp32; fp16 for CoreML), or one of PRECISIONS."""
    edges_input: bool = False
    """Whether edges are an input of the file, instead of Canny inside."""
    output: str = "erased"
    """'erased', the whole picture; 'refined', only what is painted, before compositing; or 'plan', the network's `PLAN`, to
    be painted elsewhere (painting.py).
    """
    painted: int | None = None
    """For a network that plans, the edge length in pixels at which it paints, a multiple of 128; None is the network's."""
    batch: int = 1
    """The fixed number of pictures that the file takes at once."""
    data: Path | str | None = None
    """A prepared folder whose tune list adds faces to the gate's pictures."""
    bound: float | None = None
    """Another bound for the gate: dB, or for fp32 the largest difference. A looser one needs a `reason`."""
    reason: str | None = None
    """Why the gate is looser than usual; recorded in the card."""

    def settled(self, pipeline: Inpainter, source: Path) -> Self:
        """These options with nothing left to choose, for the network of a folder.

        Raises:
            ValueError: the network has no such form.
        """
        if pipeline.config.model not in self.SUPPORTED:
            raise ValueError(f"{source}: {pipeline.config.model} is exported as .tflite only; use export/to_tflite.py")
        if self.edges_input and pipeline.first != "edge":
            raise ValueError(f"{source}: {pipeline.config.model} has no edge network, so it takes no edges")
        if self.batch < 1:
            raise ValueError(f"--batch {self.batch}: expected at least 1 picture")
        plans = pipeline.config.model == "patches"
        if self.output == "plan" and not plans:
            raise ValueError(f"{source}: {pipeline.config.model} makes no plan, so there is none to output")
        if self.painted is not None and (not plans or self.painted % 128 or not 128 <= self.painted <= 2048):
            expected = "a multiple of 128 up to 2048, and a network that plans (train.py --model patches)"
            raise ValueError(f"--painted {self.painted}: expected {expected}")
        own = self.own_precision(pipeline)
        settled = replace(self, precision=own if self.precision == "auto" else self.precision)
        if settled.precision not in self.PRECISIONS:
            expected = ", ".join(self.PRECISIONS)
            raise ValueError(f"{settled.precision} is not a precision for {self.KIND}: expected one of {expected}")
        settled.check_precision(pipeline, source)
        return settled

    def own_precision(self, pipeline: Inpainter) -> str:
        """What 'auto' stands for."""
        return "int8" if pipeline.config.quantized else "fp32"

    def check_precision(self, pipeline: Inpainter, source: Path) -> None:
        """Raises ValueError when the network of a folder cannot have the precision."""
        command = f"python compress/quantize.py {source} TARGET"
        if self.precision == "int8" and not pipeline.config.quantized:
            raise ValueError(f"{source} is not quantized, so it has no int8 form: {command}")
        if self.precision != "int8" and pipeline.config.quantized:
            asked = f"found --precision {self.precision}"
            raise ValueError(f"{source} is quantized, {asked}: export the folder it was made from")

    def file_name(self, stem: str, pipeline: Inpainter) -> str:
        """What the file is called: what differs from the network's own form is in it."""
        precision = "" if self.precision == self.own_precision(pipeline) else f"-{self.precision}"
        return stem + precision + ("-edges" if self.edges_input else "") + self.marks() + self.SUFFIX

    def marks(self) -> str:
        """What the other options add to a file's name."""
        size = f"-{self.painted}" if self.painted not in (None, 256) else ""
        output = "-plan" if self.output == "plan" else ""
        return size + output + (f"-batch{self.batch}" if self.batch > 1 else "")

    def gate(self) -> Gate:
        """What the file has to reach. Raises ValueError when `bound` is looser than the usual one, without a reason."""
        return Gate.of(self.precision, self.bound, self.reason, self.BOUNDS)

    def splits(self, pipeline: Inpainter) -> bool:
        """Whether the file is first written with its plan as an output too, for the gate; it is removed again by
        `without`.
        """
        return bool(pipeline.PLAN) and self.output != "plan"

    def outputs(self, pipeline: Inpainter, with_plan: bool) -> tuple[str, ...]:
        """What the traced network gives, by name."""
        if self.output == "plan":
            return pipeline.PLAN
        return (self.output, *pipeline.PLAN) if with_plan else (self.output,)

    @abstractmethod
    def write(self, pipeline: Inpainter, path: Path, *, with_plan: bool = False) -> None:
        """Write the file. with_plan: the network's `PLAN` are outputs too."""

    @abstractmethod
    def without(self, path: Path, target: Path, names: Sequence[str]) -> None:
        """Write the file at `path` again as `target`, without the outputs of these names."""

    @abstractmethod
    def check(self, path: Path, pipeline: Inpainter) -> dict[str, Any]:
        """Check the written file; returns what was counted, for the card. Raises GateFailed."""

    @abstractmethod
    def warp(self) -> str:
        """The warp's form in the file, in words for the card."""

    def card_fields(self, pipeline: Inpainter) -> dict[str, Any]:
        """Fields of its cards that other formats do not have."""
        return {}

    def notes(self, pipeline: Inpainter) -> list[str]:
        """Notes for readers of the card."""
        if self.precision == "fp16":
            return ["weights are float16, arithmetic and coordinates float32; a GPU delegate may choose float16 arithmetic"]
        if self.precision == "int8":
            floats = ", ".join(pipeline.config.float_layers) or "none"
            return [f"float layers: {floats}; biases rounded to int32 steps"]
        return []

    def opened(self, path: Path) -> Artifact:
        """The written file, with its card beside it, ready to run."""
        return Artifact(path, threads=1)

    def reference(self, pipeline: Inpainter, in_levels: bool) -> Reference:
        """What the file is compared with. in_levels: pictures of 8 bits come out of it."""
        return Reference(pipeline, self.edges_input, "erased" if self.output == "plan" else self.output, in_levels)

    def compare(
        self, written: Written, pipeline: Inpainter, pictures: Sequence[Picture]
    ) -> tuple[dict[str, Any], list[str]]:
        """The written file against its network: (the card's fields about it, `parity` among them; what failed)."""
        published = self.opened(written.path)
        in_levels = any(port["dtype"] == "uint8" for port in published.card["outputs"])
        reference, gate = self.reference(pipeline, in_levels), self.gate()
        gate = gate.in_levels() if in_levels else gate
        file = published if written.planned is None else self.opened(written.planned)
        measured = parity(as_file(file, reference), pictures, reference, gate)
        failures = list(measured.get("failures", []))
        if written.planned is not None:
            failures += unchanged(as_file(file), as_file(published), pictures[:2])
        failures += together(published, pictures[: self.batch + 1]) if self.batch > 1 else []
        more, elsewhere = self.compare_elsewhere(file, pipeline, reference, gate)
        return {"parity": measured, **more}, failures + elsewhere

    def compare_elsewhere(
        self, file: Artifact, pipeline: Inpainter, reference: Reference, gate: Gate
    ) -> tuple[dict[str, Any], list[str]]:
        """What else a file of this format is compared on: (fields, what failed)."""
        return {}, []

    # --- any network (any_network.py) ---------------------------------------------------------------------------------

    def settled_for(self, network: AnyNetwork) -> Self:
        """These options with nothing left to choose, for any network.

        Raises:
            ValueError: an option is a face eraser's only, or the network has no such precision.
        """
        if self.edges_input or self.output != "erased" or self.painted or self.data or self.batch != 1:
            own = "edges, output, size, batch and data are options of a face eraser's file"
            raise ValueError(f"{network.name}: {own}, and this is any network")
        quantized = quant.is_quantized(network.module)
        own = "fp16" if "fp32" not in self.PRECISIONS else "int8" if quantized else "fp32"
        settled = replace(self, precision=own if self.precision == "auto" else self.precision)
        if settled.precision not in self.PRECISIONS:
            expected = ", ".join(self.PRECISIONS)
            raise ValueError(f"{settled.precision} is not a precision for {self.KIND}: expected one of {expected}")
        if "fp32" in self.PRECISIONS and (settled.precision == "int8") != quantized:
            state = "quantized" if quantized else "not quantized"
            raise ValueError(
                f"{network.name} is {state}, found precision {settled.precision}: compress/quantize.py --module"
            )
        return settled

    def name_for(self, network: AnyNetwork) -> str:
        """What the file of any network is called."""
        own = "fp16" if "fp32" not in self.PRECISIONS else "int8" if quant.is_quantized(network.module) else "fp32"
        return network.name + ("" if self.precision == own else f"-{self.precision}") + self.marks() + self.SUFFIX

    def fields_for(self, network: AnyNetwork) -> dict[str, Any]:
        """What the cards of any network have beyond those of other formats."""
        return {}

    @abstractmethod
    def write_network(self, network: AnyNetwork, path: Path) -> None:
        """Write the file of any network: inputs and outputs by its own names, in its own layout."""

    @abstractmethod
    def check_network(self, path: Path, network: AnyNetwork, warps: Sequence[Sampling]) -> dict[str, Any]:
        """Assert on the written file that its warps are those of the network, in float; returns what was counted."""

    @abstractmethod
    def runner(self, path: Path) -> Callable[[Sample], dict[str, np.ndarray]]:
        """The written file as a function of inputs by name."""


# --- a network ready to be traced -----------------------------------------------------------------------------------


class Form(nn.Module):
    """The pipeline as a file has it: image, mask (and edges) -> what is asked for, channels last (then by name) or first.

    outputs: keys of what the pipeline returns, such as 'erased' or 'plan'.
    """

    def __init__(self, pipeline: Inpainter, channels_last: bool, outputs: Sequence[str] = ("erased",)):
        super().__init__()
        self.pipeline, self.channels_last, self.outputs = pipeline, channels_last, tuple(outputs)

    def forward(self, image: Tensor, mask: Tensor, edges: Tensor | None = None) -> Any:
        if not self.channels_last:
            outputs = self.pipeline(image, mask, edges)
            return outputs[self.outputs[0]] if len(self.outputs) == 1 else tuple(outputs[name] for name in self.outputs)
        first = (x if x is None else x.permute(0, 3, 1, 2) for x in (image, mask, edges))
        outputs = self.pipeline(*first)
        return {name: x.permute(0, 2, 3, 1) if (x := outputs[name]).ndim == 4 else x for name in self.outputs}


def frozen(pipeline: Inpainter) -> Inpainter:
    """A copy to export: eval mode, norms folded where they can be, emitting its learnt scales if it is quantized."""
    network = copy.deepcopy(pipeline).cpu().eval().requires_grad_(False)
    if not network.config.fused and network.config.norm == "batch":
        quant.fuse(network)
    if quant.is_quantized(network):
        quant.set_exporting(network)
    return network


def same_scale(stored: ArrayLike, learnt: ArrayLike) -> bool:
    """Whether scales of a file, one or many, are learnt ones, as float32 rounds them."""
    return np.allclose(np.asarray(stored, np.float64), learnt, rtol=1e-6, atol=0)


def check_scales(
    pipeline: Inpainter,
    has_weight: Callable[[np.ndarray], bool],
    activations: Set[tuple[float, int]] | None,
    wrong: Callable[[str], GateFailed],
    same: Callable[[ArrayLike, ArrayLike], bool] = same_scale,
) -> int:
    """Every learnt scale is in a file, and it quantizes no activation by any other; returns how many there are.

    Args:
        pipeline: a quantized checkpoint.
        has_weight: (C,) or (1,) float64 scales of a convolution's weights -> whether the file has them.
        activations: (scale, zero point as of int8) of what is quantized in the file; None where it stores weights alone.
        wrong: what is raised, from what it says.
        same: (one of the file, a learnt one) -> whether they are the same number as the file can say it.
    """
    unknown, count = set(activations or ()), 0
    for name, scale, zero_point in quant.quantized_tensors(pipeline):
        learnt = np.atleast_1d(scale.detach().cpu().double().numpy())
        if name.endswith(":weight"):
            found = has_weight(learnt)
        elif activations is None:
            continue
        else:
            matched = {each for each in activations if each[1] == zero_point and same(each[0], learnt[0])}
            found = bool(matched)
            unknown -= matched
        count += 1
        if not found:
            raise wrong(f"the learnt scale of {name} ({learnt[0]:.8g}, zero point {zero_point}) is not in the file")
    if unknown:
        value, zero = unknown.pop()
        raise wrong(f"a tensor is quantized with scale {value:.8g}, zero point {zero}, which nothing in the checkpoint has")
    return count


def sample(resolution: int, edges_input: bool, channels_last: bool, batch: int = 1) -> dict[str, Tensor]:
    """Inputs to trace with: half grey, a square hole in the middle."""
    image = torch.full((batch, 3, resolution, resolution), 0.5)
    mask = torch.zeros(batch, 1, resolution, resolution)
    mask[:, :, resolution // 4 : resolution // 2, resolution // 4 : resolution // 2] = 1.0
    given = {"image": image, "mask": mask} | ({"edges": torch.zeros_like(mask)} if edges_input else {})
    return {k: v.permute(0, 2, 3, 1).contiguous() if channels_last else v for k, v in given.items()}

"""Pruning and quantizing any network with its own loss, as the chain does for a face eraser.

    prune("my_net.py", "runs/pruned", AnyPruning(target_gmacs=0.1))
    quantize("runs/pruned", "runs/int8", AnyQuantizing())

Channels are removed where this is measured to do the least harm, layer by layer on the samples, until the network is within
a budget. It is fine-tuned by its own loss and by its distance to the original network (any_training.py). In int8, the
layers before the outputs whose rounding is measured to harm most stay in float, and so does everything that leads to a
warp's coordinates.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from faceeraser.model import any_quantization, any_task, quant
from faceeraser.model.any_network import AnyNetwork, named
from faceeraser.model.any_task import Task
from faceeraser.system import writing
from faceeraser.training import any_training, channels
from faceeraser.training.any_training import distance

ENOUGH = 0.1
"""Share of all layers' harm from which a layer stays in float."""


@dataclass(frozen=True, kw_only=True)
class AnyTuning:
    """How to fine-tune any network."""

    steps: int = 200
    """Fine-tuning steps in all; 0 for none."""
    lr: float = 5e-4
    """Learning rate at first; it falls to nothing along a cosine."""
    distil: float = 1.0
    """Weight of the distance to the original network, in addition to its own loss."""
    seed: int = 0
    """Seed of torch's random numbers."""


@dataclass(frozen=True, kw_only=True)
class AnyPruning(AnyTuning):
    """Options of `prune`."""

    target_gmacs: float
    """Stay under this number of multiply-accumulates for one sample, in 10^9."""
    rounds: int = 2
    """Pruning rounds, each followed by fine-tuning."""


@dataclass(frozen=True, kw_only=True)
class AnyQuantizing(AnyTuning):
    """Options of `quantize`."""

    lr: float = 1e-4
    """Learning rate at first; it falls to nothing along a cosine."""
    keep_float: str = "auto"
    """'auto' also keeps in float the layers before an output that int8 harms most; 'least' only those of coordinates."""


def prune(source: str | Path, target: str | Path, options: AnyPruning, overwrite: bool = False) -> dict[str, Any]:
    """Prune and fine-tune any network; returns the figures before, pruned and fine-tuned, and each layer's row.

    Raises:
        ValueError: the file does not follow the protocol, the budget cannot be met or is already met, or the target exists.
    """
    task = any_task.task_of(source)
    if task.float_layers is not None:
        raise ValueError(f"{source} is quantized; prune the network that it was made from")
    torch.manual_seed(options.seed)
    writing.check_free(Path(target), overwrite)
    module = copy.deepcopy(task.network.module).requires_grad_(True)
    network = replace(task.network, module=module)
    rows = sensitivity(network)
    budget = channels.Budget(options.target_gmacs)
    shares = channels.shares_within(
        cost(network), budget, rows, lambda given: cost(replace(network, module=narrowed(network, given)))
    )
    before = _figures(network, task)
    unrepaired, losses = before, list[float]()
    for done in range(options.rounds):
        # Of what is left, what brings every layer to its part of the way.
        part = {name: _part(share, done, options.rounds) for name, share in shares.items()}
        network = replace(network, module=narrowed(network, part, whole=task.network))
        unrepaired = _figures(network, task)
        each = max(1, options.steps // options.rounds) if options.steps else 0
        losses += any_training.fine_tune(network.module, task, each, options.lr, options.distil, f"prune {done + 1}")
    for row in rows:
        row["share"] = shares[row["layer"]]
    outcome = {
        "stage": "prune",
        "before": before,
        "unrepaired": unrepaired,
        "after": _figures(network, task),
        "layers": rows,
        "steps": len(losses),
    }
    with writing.whole_folder(target, overwrite) as folder:
        any_task.save(folder, task, network.module, None, outcome)
    return outcome


def quantize(source: str | Path, target: str | Path, options: AnyQuantizing, overwrite: bool = False) -> dict[str, Any]:
    """Quantize and fine-tune any network; returns the figures in float, calibrated and trained, and each tensor's harm.

    Raises:
        ValueError: the file does not follow the protocol, there is nothing to quantize, or the target exists.
    """
    task = any_task.task_of(source)
    if task.float_layers is not None:
        raise ValueError(f"{source} is quantized already; start from the network it was made from")
    torch.manual_seed(options.seed)
    writing.check_free(Path(target), overwrite)
    network, kept = task.network, tuple[str, ...]()
    module = _calibrated(network, kept)
    harm = harm_of_int8(module, network)
    if options.keep_float == "auto" and (kept := kept_in_float(harm, network)):
        module = _calibrated(network, kept)
    calibrated = any_task.mean_loss(module, task)
    losses = any_training.fine_tune(module, task, options.steps, options.lr, options.distil, "quantize")
    quant.round_biases(module, **{name: value for name, value in network.samples[0].items()})
    outcome = {
        "stage": "quantize",
        "before": any_task.mean_loss(network.module, task),
        "calibrated": calibrated,
        "after": any_task.mean_loss(module, task),
        "steps": len(losses),
        "float_layers": list(kept),
        "harm": harm[:16],
        "apart": apart(replace(network, module=module), network),
    }
    with writing.whole_folder(target, overwrite) as folder:
        any_task.save(folder, replace(task, float_layers=kept), module, network.module, outcome)
    return outcome


def _figures(network: AnyNetwork, task: Task) -> dict[str, Any]:
    """A state of a network: its own loss, how far it is from the network that it was, and what it costs."""
    gmacs, params = cost(network)
    loss = any_task.mean_loss(network.module, task)
    return {"loss": loss, "apart": apart(network, task.network), "gmacs": gmacs, "params": params}


# --- channels -------------------------------------------------------------------------------------------------------


class _ChannelsOnly(TorchFunctionMode):
    """While a graph of channels is traced: a warp leaves channels alone, and its grid is one more output."""

    def __init__(self) -> None:
        super().__init__()
        self.grids: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("grid_sample", "grid_sampler"):
            image, grid = args[:2] if len(args) > 1 else (args[0], kwargs["grid"])
            self.grids.append(grid)
            return F.adaptive_avg_pool2d(image, tuple(grid.shape[1:3]))
        return func(*args, **(kwargs or {}))


@contextmanager
def _graph(network: AnyNetwork) -> Iterator[tp.DependencyGraph]:
    """Which layers lose channels together."""
    mode = _ChannelsOnly()
    network.module.requires_grad_(True).eval()
    with mode:
        graph = tp.DependencyGraph().build_dependency(
            network.module,
            dict(network.samples[0]),
            output_transform=lambda output: [*named(output).values(), *mode.grids],
        )
    yield graph


def _last(network: AnyNetwork) -> list[nn.Module]:
    """The layers whose channels are what the network is for: they lose none."""
    graph, _ = network.traced(None)
    modules = dict(network.module.named_modules())
    return [modules[name] for name in any_quantization.last_layers(graph) if name in modules]


def _roots(network: AnyNetwork, graph: tp.DependencyGraph) -> dict[str, nn.Conv2d]:
    """{name: layer} of every group of layers that lose channels together, by its first one, if it can lose any."""
    names = {module: name for name, module in network.module.named_modules()}
    groups = graph.get_all_groups(ignored_layers=_last(network), root_module_types=[nn.Conv2d])
    layers = [group[0].dep.target.module for group in groups]
    return {names[layer]: layer for layer in layers if layer.out_channels > channels.ROUND_TO}


def cost(network: AnyNetwork) -> tuple[float, int]:
    """(GMACs of the first sample, parameters)."""
    counted = FlopCounterMode(display=False)
    with counted:
        network.outputs(network.samples[0])
    return counted.get_total_flops() / 2e9, sum(p.numel() for p in network.module.parameters())


def narrowed(network: AnyNetwork, shares: Mapping[str, float], whole: AnyNetwork | None = None) -> nn.Module:
    """A copy of the module in which each named layer has given up its share of channels, the weakest by their weights.

    whole: shares are of the widths that this network has, of which some may be gone already.
    """
    trial = replace(network, module=copy.deepcopy(network.module))
    score = tp.importance.GroupMagnitudeImportance()
    for name, share in shares.items():
        layer = trial.module.get_submodule(name)
        assert isinstance(layer, nn.Conv2d)
        width = layer.out_channels if whole is None else whole.module.get_submodule(name).out_channels
        number = layer.out_channels - round(int(width) * (1.0 - share))
        if number <= 0:
            continue
        with _graph(trial) as graph:
            group = graph.get_pruning_group(layer, tp.prune_conv_out_channels, list(range(layer.out_channels)))
            weakest = score(group).argsort()[:number].tolist()
            graph.get_pruning_group(layer, tp.prune_conv_out_channels, weakest).prune()
    return trial.module.requires_grad_(False)


def _part(share: float, done: int, rounds: int) -> float:
    """What a layer has given up when so many rounds were done before this one."""
    return share * (done + 1) / rounds


def sensitivity(network: AnyNetwork, cut: float = 0.25) -> list[dict[str, Any]]:
    """What it costs to take channels from each layer: a row with layer, channels, damage (distance of the outputs on the
    samples), gmacs and params saved, as `channels.sensitivity`.
    """
    with _graph(network) as graph:
        roots = _roots(network, graph)
    if not roots:
        raise ValueError(f"{network.name}: no layer has more than {channels.ROUND_TO} channels that could go")
    before, rows = cost(network), []
    for name, layer in roots.items():
        share = max(1, round(cut * layer.out_channels)) / layer.out_channels
        trial = replace(network, module=narrowed(network, {name: share}))
        after = cost(trial)
        rows.append(
            {
                "layer": name,
                "channels": layer.out_channels,
                "damage": apart(trial, network),
                "gmacs": before[0] - after[0],
                "params": before[1] - after[1],
            }
        )
    return rows


def apart(network: AnyNetwork, reference: AnyNetwork) -> float:
    """How far two networks' outputs are apart on the samples (`any_training.distance`)."""
    with torch.no_grad():
        values = [distance(named(network.module(**s)), named(reference.module(**s))) for s in reference.samples]
    return float(torch.stack(values).mean())


# --- int8 -----------------------------------------------------------------------------------------------------------


def _calibrated(network: AnyNetwork, kept: Sequence[str]) -> nn.Module:
    module = any_quantization.quantized(network, kept)
    any_quantization.calibrate(module, network)
    return module


def harm_of_int8(module: nn.Module, network: AnyNetwork) -> list[dict[str, Any]]:
    """The harm of each tensor's int8 alone to a calibrated network, the most harmful first: rows of layer and harm."""
    quant.set_bypassed(module, True)
    rows = []
    for name, part in module.named_modules():
        if isinstance(part, quant.FakeQuant | quant.QuantConv2d):
            quant.set_bypassed(part, False)
            rows.append({"layer": name, "harm": apart(replace(network, module=module), network)})
            quant.set_bypassed(part, True)
    quant.set_bypassed(module, False)
    return sorted(rows, key=lambda row: -row["harm"])


def kept_in_float(rows: Sequence[Mapping[str, Any]], network: AnyNetwork) -> tuple[str, ...]:
    """The layers before an output whose int8 does ENOUGH of all harm."""
    graph, _ = network.traced(None)
    last = any_quantization.last_layers(graph)
    total = sum(row["harm"] for row in rows)
    kept = []
    for layer in sorted(last):
        own = any_quantization.name_in_int8(layer)
        if sum(row["harm"] for row in rows if row["layer"] in (own, f"{own}_out")) >= ENOUGH * total > 0:
            kept.append(layer)
    return tuple(kept)


def states(outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The states of a stage's network, as rows of a table."""
    kept = {name: outcome[name] for name in ("before", "unrepaired", "calibrated", "after") if name in outcome}
    return [{"name": name, **(row if isinstance(row, Mapping) else {"loss": row})} for name, row in kept.items()]

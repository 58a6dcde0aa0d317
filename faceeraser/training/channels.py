"""Fewer channels: structured pruning and network slimming, over the whole pipeline at once.

torch-pruning's dependency graph finds which layers must lose a channel together (residual streams, additive skips,
channel attention, the concatenated inputs); this module decides how many, by which score, and when. Only channels go:
the networks' structure and names stay, so the result loads by the same constructor (checkpoint.load).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from faceeraser.model.losses import distillation_loss, l1_loss
from faceeraser.model.networks import Inpainter, cost_of, norm_scales

IMPORTANCES = ("magnitude", "taylor")
ROUND_TO = 8  # mobile kernels work on 8 channels at a time: 13 cost as much as 16
_LEAST = 0.9  # no layer loses more than this share, or a stream of the network would be cut


def _example(pipeline: Inpainter) -> dict[str, Tensor]:
    side = max(64, 32 * (pipeline.config.resolution // 128))
    parameter = next(pipeline.parameters())
    return {
        "image": torch.rand(1, 3, side, side, device=parameter.device),
        # A hole in the middle only: a visible border keeps every branch of the graph alive.
        "mask": torch.nn.functional.pad(torch.ones(1, 1, side // 2, side // 2), [side // 4] * 4).to(parameter.device),
    }


def _outputs(outputs: dict[str, Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    if isinstance(outputs, tuple):
        return list(outputs)
    return [outputs[name] for name in ("erased", "edges_hat", "offsets") if name in outputs]


def _heads(pipeline: Inpainter) -> list[nn.Module]:
    return [pipeline.get_submodule(f"{name}.conv") for name in pipeline.HEADS]


def _pruner(pipeline: Inpainter, importance: Callable, steps: int, ratios: Mapping[str, float]) -> tp.MetaPruner:
    by_layer = {pipeline.get_submodule(name): share for name, share in ratios.items()}
    return tp.pruner.MetaPruner(
        pipeline.channels_only(),
        _example(pipeline),
        importance=importance,
        global_pruning=False,
        pruning_ratio=0.0,
        pruning_ratio_dict=by_layer,
        max_pruning_ratio=_LEAST,
        iterative_steps=steps,
        ignored_layers=_heads(pipeline),
        round_to=ROUND_TO,
        output_transform=_outputs,
    )


def _graph(pipeline: Inpainter) -> tp.DependencyGraph:
    """Which layers lose channels together."""
    view = pipeline.channels_only()
    return tp.DependencyGraph().build_dependency(view, _example(pipeline), output_transform=_outputs)


def _backward(pipeline: Inpainter, truth: Tensor, mask: Tensor) -> None:
    """Leave the gradient of the L1 objective on every parameter, for first-order Taylor scores."""
    pipeline.zero_grad()
    outputs = pipeline(truth, mask)
    loss = l1_loss(outputs["erased"], truth, mask)
    if "cloned" in outputs:
        loss = loss + l1_loss(outputs["cloned"], truth, mask)
    if "edges_hat" in outputs:
        loss = loss + 0.1 * (outputs["edges_hat"] - outputs["edges"]).abs().mean()
    loss.backward()


def prune_steps(
    pipeline: Inpainter,
    keep: float,
    steps: int = 1,
    importance: str = "magnitude",
    batch: tuple[Tensor, Tensor] | None = None,
    ratios: Mapping[str, float] | None = None,
) -> Iterator[int]:
    """Prune `pipeline` in place to `keep` of each layer's channels, in equal steps; yields after each, to fine-tune.

    ratios: the share that each named layer gives up, in place of 1 - keep everywhere (see `ratios_for`).

    importance: 'magnitude' (L2 norm of a channel's weights over everything that goes with it; Fang et al., DepGraph,
    2023) or 'taylor' (weight times gradient on `batch`, (truth, mask)). Channel counts are multiples of 8.

    Raises:
        ValueError: keep is not in (0, 1), the score is not known, or 'taylor' got no batch.
    """
    if ratios is None and not 0 < keep < 1:
        raise ValueError(f"keep {keep}: expected a share of the channels between 0 and 1, such as 0.5")
    if importance not in IMPORTANCES:
        raise ValueError(f"importance {importance!r}: expected one of {', '.join(IMPORTANCES)}")
    if importance == "taylor" and batch is None:
        raise ValueError("importance 'taylor' needs a batch of training pairs")
    pipeline.eval().requires_grad_(True)
    score = tp.importance.GroupTaylorImportance() if importance == "taylor" else tp.importance.GroupMagnitudeImportance()
    if ratios is None:  # the nearest share that each layer can give up, not torch-pruning's own rounding: see there
        widths = {name: layer.out_channels for name, layer in _roots(pipeline).items()}
        ratios = {n: min(_possible_shares(w), key=lambda share: abs(share - (1 - keep))) for n, w in widths.items()}
    pruner = _pruner(pipeline, score, steps, ratios)
    for step in range(steps):
        pipeline.eval().requires_grad_(True)
        if importance == "taylor" and batch is not None:
            _backward(pipeline, *batch)
        pruner.step()
        pipeline.zero_grad()
        yield step


def _narrowed(pipeline: Inpainter, keep: float, ratios: Mapping[str, float] | None = None) -> tuple[float, int]:
    """(GMACs at 256 x 256, parameters) that a copy has once it is pruned so."""
    trial = copy.deepcopy(pipeline)
    for _step in prune_steps(trial, keep, ratios=ratios):
        pass
    return cost_of(trial)


def keep_for_gmacs(pipeline: Inpainter, gmacs: float) -> float:
    """The largest share of channels to keep so that the pipeline costs at most `gmacs` at 256 x 256.

    Raises:
        ValueError: it costs no more than that already, or would with the smallest layers still cost more.
    """
    return _largest(cost_of(pipeline), Budget(gmacs), lambda keep: _narrowed(pipeline, keep), 1 - _LEAST, 1.0)


def least_cost(pipeline: Inpainter, fewer_blocks: int = 0) -> tuple[float, int]:
    """(GMACs at 256 x 256, parameters) of the narrowest network that pruning can make of it, with fewer residual blocks."""
    trial = copy.deepcopy(pipeline)
    for body in (trial.get_submodule(name) for name in trial.config.blocks):
        body.blocks = body.blocks[: max(0, len(body.blocks) - fewer_blocks)]
    channels = {name: layer.out_channels for name, layer in _roots(trial).items()}
    return _narrowed(trial, 1.0, {name: _possible_shares(width)[-1] for name, width in channels.items()})


@dataclass(frozen=True)
class Budget:
    """At most so many GMACs at 256 x 256 and parameters; None: any number."""

    gmacs: float | None = None
    params: int | None = None

    def holds(self, cost: tuple[float, int]) -> bool:
        """Whether (GMACs, parameters) are within it."""
        return (self.gmacs is None or cost[0] <= self.gmacs) and (self.params is None or cost[1] <= self.params)

    def __str__(self) -> str:
        limits = [f"{self.gmacs:.3g} GMAC"] if self.gmacs is not None else []
        return " and ".join([*limits, *([f"{self.params:,} parameters"] if self.params is not None else [])])


def _largest(
    now: tuple[float, int], budget: Budget, cost: Callable[[float], tuple[float, int]], low: float, high: float
) -> float:
    """The largest number in [low, high), by bisection, whose cost is within the budget; cost grows with it. now: what the
    network costs as it is.
    """
    if budget.holds(now):
        raise ValueError(
            f"the network already costs only {now[0]:.3f} GMAC and {now[1]:,} parameters, and the budget is {budget}: "
            "nothing to prune"
        )
    if not budget.holds(reached := cost(low)):
        raise ValueError(
            f"{budget} cannot be reached by pruning: its minimum is {reached[0]:.3f} GMAC and {reached[1]:,} parameters"
        )
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if budget.holds(cost(middle)) else (low, middle)
    return low


def _roots(pipeline: Inpainter) -> dict[str, nn.Conv2d]:
    """{name: layer} of every group of layers that lose channels together, by its first one, if it can lose any."""
    graph = _graph(pipeline)
    names = {module: name for name, module in pipeline.named_modules()}
    groups = graph.get_all_groups(ignored_layers=_heads(pipeline), root_module_types=[nn.Conv2d])
    layers = [group[0].dep.target.module for group in groups]
    return {names[layer]: layer for layer in layers if layer.out_channels > ROUND_TO}


def _possible_shares(channels: int) -> list[float]:
    """The shares that a layer can give up, rising: whole eights of channels, one of which stays at least. Of any other
    share torch-pruning would make more, or nothing: of 16 channels it takes 8 at 0.87, and none at 0.88 (measured).
    """
    eights = channels // ROUND_TO
    return [k / eights for k in range(eights) if k / eights <= _LEAST] or [0.0]


def sensitivity(pipeline: Inpainter, truth: Tensor, mask: Tensor, cut: float = 0.25) -> list[dict[str, Any]]:
    """What it costs to take channels from each layer, measured: a row for every group of layers that lose them together.

    Each row: layer (the group's first), channels, damage (the distance of `losses.distillation_loss` between the pictures,
    flow and edges of the network and of a copy without the weakest `cut` of that layer's channels, not fine-tuned), and
    gmacs and params (how many of those, at 256 x 256, the copy saves).
    """
    pipeline.eval()
    with torch.no_grad():
        whole = pipeline(truth, mask)
    before = cost_of(pipeline)
    rows = []
    score = tp.importance.GroupMagnitudeImportance()
    for name, layer in _roots(pipeline).items():
        trial = copy.deepcopy(pipeline)
        own = trial.get_submodule(name)
        built = _graph(trial)
        everything = built.get_pruning_group(own, tp.prune_conv_out_channels, list(range(layer.out_channels)))
        weakest = score(everything).argsort()[: max(1, round(cut * layer.out_channels))].tolist()
        built.get_pruning_group(own, tp.prune_conv_out_channels, weakest).prune()
        with torch.no_grad():
            damage = float(distillation_loss(trial.eval()(truth, mask), whole, mask, "all"))
        after = cost_of(trial)
        rows.append(
            {
                "layer": name,
                "channels": layer.out_channels,
                "damage": damage,
                "gmacs": before[0] - after[0],
                "params": before[1] - after[1],
            }
        )
    return rows


def ratios_for(pipeline: Inpainter, budget: Budget, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The share of channels that each layer gives up, {layer: share}, for the pipeline to be within a budget.

    rows: of `sensitivity`. Damage is taken to grow with the square of the channels that go over those that stay, so that
    no layer is stripped bare for its neighbours' sake, and what is saved with the share itself; the least damage for a
    given saving is then where the next channel costs every layer the same. What is saved is the share of the pipeline's
    MACs and of its parameters, each if the budget names it and does not hold yet.

    Raises:
        ValueError: it is within the budget already, or would be over it with the smallest layers still.
    """
    return shares_within(cost_of(pipeline), budget, rows, lambda shares: _narrowed(pipeline, 1.0, shares))


def shares_within(
    now: tuple[float, int],
    budget: Budget,
    rows: Sequence[Mapping[str, Any]],
    cost: Callable[[dict[str, float]], tuple[float, int]],
) -> dict[str, float]:
    """`ratios_for` of any network: now is what it costs, and cost what it would if its layers gave up such shares."""
    gmacs, params = now
    counts = [budget.gmacs is not None and gmacs > budget.gmacs, budget.params is not None and params > budget.params]
    worth = {}
    for row in rows:
        saved = counts[0] * row["gmacs"] / gmacs + counts[1] * row["params"] / params
        worth[row["layer"]] = saved / max(row["damage"], 1e-6)
    most = max(worth.values())

    def shares(kept: float) -> dict[str, float]:
        price = ((1 - kept) / max(kept, 1e-3)) ** 3 / most  # from nothing to more than any channel is worth
        given = {}
        for row in rows:
            able = _possible_shares(row["channels"])
            # The derivative of (s / (1 - s))^2, up to a constant.
            given[row["layer"]] = max(s for s in able if s / (1 - s) ** 3 <= price * worth[row["layer"]])
        return given

    return shares(_largest(now, budget, lambda kept: cost(shares(kept)), 0.0, 1.0))


def rescaled(rows: Sequence[Mapping[str, Any]], costs: Mapping[str, float], cut: float = 0.25) -> list[dict[str, Any]]:
    """Rows of `sensitivity` in the unit of `costs`: what each network loses once half of all its channels are gone.

    rows tell a network's layers apart by what breaks at once; costs {network: loss} tell the networks apart by what
    fine-tuning does not mend. A flow that is broken recovers, for one, and a picture's shading does not.
    """
    weight = ((1 - cut) / cut) ** 2  # from a quarter of a layer to half of it, by the law of `ratios_for`
    total: dict[str, float] = {}
    for row in rows:
        network = row["layer"].split(".")[0]
        total[network] = total.get(network, 0.0) + weight * row["damage"]
    factor = {network: costs[network] / max(damage, 1e-9) for network, damage in total.items()}
    return [{**row, "damage": row["damage"] * factor[row["layer"].split(".")[0]]} for row in rows]


def halve_network(pipeline: Inpainter, network: str, rows: Sequence[Mapping[str, Any]]) -> Inpainter:
    """A copy of which a network ('edge', 'clone', 'refine') has lost half of its layers' channels; rows of `sensitivity`."""
    trial = copy.deepcopy(pipeline)
    ratios = {row["layer"]: 0.5 for row in rows if row["layer"].startswith(network + ".")}
    for _step in prune_steps(trial, 1.0, ratios=ratios):
        pass
    return trial


def drop_blocks(pipeline: Inpainter, network: str, number: int, truth: Tensor, mask: Tensor) -> list[dict[str, Any]]:
    """Take `number` residual blocks out of a network that has them, in place, one after another: each time the
    one without which the pictures, the flow and the edges (`losses.distillation_loss`) change least.

    Returns a row for each: network, block (its place among the original ones) and damage.

    Raises:
        ValueError: the network has no such number of blocks.
    """
    body = pipeline.get_submodule(network)
    blocks = body.blocks if network in pipeline.config.blocks else None
    if not isinstance(blocks, nn.ModuleList) or not 0 < number <= len(blocks):
        have = f"{len(blocks)} residual blocks" if isinstance(blocks, nn.ModuleList) else "no residual blocks"
        raise ValueError(f"{number} blocks of {network!r} are to go, and it has {have}")
    pipeline.eval()
    left = list(enumerate(blocks))
    rows = []
    with torch.no_grad():
        whole = pipeline(truth, mask)
        for _ in range(number):
            damages = []
            for place in range(len(left)):
                trial = copy.deepcopy(pipeline)
                trial.get_submodule(network).blocks = nn.ModuleList(
                    [block for k, (_n, block) in enumerate(left) if k != place]
                )
                damages.append(float(distillation_loss(trial(truth, mask), whole, mask, "all")))
            place = min(range(len(left)), key=damages.__getitem__)
            rows.append({"network": network, "block": left[place][0], "damage": damages[place]})
            left.pop(place)
    body.blocks = nn.ModuleList([block for _n, block in left])
    pipeline.config = replace(pipeline.config, blocks={**pipeline.config.blocks, network: len(left)})
    return rows


def require_scales(pipeline: Inpainter) -> None:
    """Raises ValueError unless the generators have norms with scale factors, which network slimming needs."""
    if not norm_scales(pipeline):
        norm = "instance norm without scales" if pipeline.config.norm == "instance" else "no norm (already fused)"
        raise ValueError(
            f"network slimming needs the scale factors of batch norms, but this network has {norm}; "
            "slim a network of the `mobile` preset before quantizing it"
        )


def scale_values(pipeline: Inpainter) -> Tensor:
    """Absolute scale factors of all norms, (channels,), on the CPU."""
    return torch.cat([s.detach().abs().cpu() for s in norm_scales(pipeline)])


def slim(pipeline: Inpainter, share: float) -> float:
    """Remove in place the `share` of channels with the smallest scale factors: one threshold for the whole pipeline, and
    from each layer whole eights of what is below it.

    Returns the threshold. Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming (2017),
    section 3. Channels that a residual stream ties together go by the mean of their scales.

    Raises:
        ValueError: the network has no scale factors, or share is not in (0, 1).
    """
    require_scales(pipeline)
    if not 0 < share < 1:
        raise ValueError(f"share {share}: expected a share of the channels between 0 and 1, such as 0.3")
    pipeline.eval().requires_grad_(True)
    score = tp.importance.BNScaleImportance(normalizer=None)
    graph = _graph(pipeline)
    scales = {}
    for name, layer in _roots(pipeline).items():
        group = graph.get_pruning_group(layer, tp.prune_conv_out_channels, list(range(layer.out_channels)))
        if (scale := score(group)) is not None:
            scales[name] = scale.detach()
    threshold = float(torch.quantile(torch.cat(list(scales.values())), share))
    ratios = {}
    for name, scale in scales.items():
        below = float((scale < threshold).float().mean())
        ratios[name] = max(possible for possible in _possible_shares(len(scale)) if possible <= below)
    _pruner(pipeline, score, 1, ratios).step()
    return threshold


def share_for(pipeline: Inpainter, budget: Budget) -> float:
    """The smallest share that `slim` has to remove for the pipeline to be within a budget.

    Raises:
        ValueError: it is within the budget already, or would be over it with the smallest layers still.
    """

    def cost(kept: float) -> tuple[float, int]:
        trial = copy.deepcopy(pipeline)
        slim(trial, 1 - kept)
        return cost_of(trial)

    return 1 - _largest(cost_of(pipeline), budget, cost, 1 - _LEAST, 0.999)


def widths(pipeline: Inpainter) -> dict[str, int]:
    """Output channels of every convolution, by name."""
    return {n: m.out_channels for n, m in pipeline.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)}

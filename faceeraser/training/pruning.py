"""Structured channel pruning of a checkpoint, in rounds with fine-tuning between.

    prune("runs/fp32", "runs/pruned", Pruning(data="data/faces", keep=0.5))

channels.py decides which channels are removed. This module is the whole step: it reads a folder, prunes, fine-tunes,
measures before and after, and writes another folder.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faceeraser.measurement import metrics
from faceeraser.model.networks import Inpainter
from faceeraser.system import writing
from faceeraser.training import channels
from faceeraser.training.finetuning import FineTuning, Outcome, Tuning
from faceeraser.training.processes import agreed


@dataclass(kw_only=True)
class Pruning(Tuning):
    """Options of `prune`. Say how much to remove with `keep`, `target_gmacs` or `drop_blocks`."""

    keep: float | None = None
    """Share of each layer's channels to keep, 0 to 1: half of them are about a quarter of the multiply-accumulates."""
    target_gmacs: float | None = None
    """Stay under this number of multiply-accumulates, in 10^9 at 256 x 256; the share is found automatically."""
    target_params: int | None = None
    """Also stay under this number of parameters, with `allocate='sensitivity'`."""
    importance: str = "magnitude"
    """Score of a channel, one of `channels.IMPORTANCES`."""
    allocate: str = "uniform"
    """'uniform' removes the same share from every layer; 'sensitivity' more where it is measured to harm less (needs a
    target).
    """
    trial_steps: int = 100
    """Fine-tuning steps of each network's trial, for `allocate='sensitivity'`."""
    drop_blocks: int = 0
    """First remove this many of the least important residual blocks from each of the edge and clone networks."""
    rounds: int = 2
    """Pruning rounds, each followed by fine-tuning."""

    def __post_init__(self) -> None:
        if self.allocate not in ("uniform", "sensitivity"):
            raise ValueError(f"found allocate {self.allocate!r}; expected 'uniform' or 'sensitivity'")
        if self.allocate == "sensitivity" and self.target_gmacs is None and self.target_params is None:
            raise ValueError(
                "--allocate sensitivity only decides where to remove: also give --target-gmacs or --target-params"
            )
        if self.allocate == "uniform" and self.keep is None and self.target_gmacs is None and not self.drop_blocks:
            raise ValueError("say how much to remove: give --keep, --target-gmacs or --drop-blocks")
        if self.target_params is not None and self.allocate != "sensitivity":
            raise ValueError("--target-params needs --allocate sensitivity")
        if self.rounds < 1:
            raise ValueError(f"--rounds {self.rounds}: expected at least 1")


def prune(network: str | Path, target: str | Path, options: Pruning, overwrite: bool = False) -> Outcome:
    """Prune and fine-tune the network of a checkpoint folder.

    Args:
        network: the folder to read.
        target: the folder to write; its history says what was done.
        options: how much to remove, by which score, and how to fine-tune.
        overwrite: replace the target if it exists.

    Returns:
        The figures on a slice of train: `before`, `pruned` before fine-tuning, `fine-tuned`.

    Raises:
        ValueError: the network or the data cannot be used, the network cannot get that small, or the target exists.
    """
    tuning = FineTuning(network, options)
    pipeline = tuning.source
    with writing.whole_folder(target, overwrite) as folder:
        before = tuning.measure(pipeline)
        items = [tuning.data[k] for k in range(8)]
        truth, mask, *_ = (torch.stack(x) for x in zip(*items, strict=True))
        plan = _planned(tuning, options, truth, mask, folder)
        unrepaired = None
        steps: Iterable[int] = (0,)  # blocks alone
        if plan.keep is not None or plan.ratios is not None:
            rounds, batch = options.rounds, (truth, mask)
            steps = channels.prune_steps(pipeline, plan.keep or 1.0, rounds, options.importance, batch, plan.ratios)
        for step in steps:
            unrepaired = tuning.measure(pipeline)
            title, each = f"prune {step + 1}/{options.rounds}", max(1, options.steps // options.rounds)
            result = tuning.fit(pipeline, folder, title, steps=each, seed=options.seed + step)
        after = tuning.measure(pipeline)
        tuning.save(
            folder,
            pipeline,
            "prune",
            {
                "keep": plan.keep,
                "allocate": options.allocate,
                "importance": options.importance,
                "rounds": options.rounds,
                "drop_blocks": options.drop_blocks,
                "trial_steps": options.trial_steps if plan.costs else 0,
            },
            {**result, "before": before, "unrepaired": unrepaired, "after": after},
            widths=channels.widths(pipeline),
            **plan.measured(),
        )
    description = f"{options.drop_blocks} blocks fewer; "
    if plan.keep or plan.ratios:
        description = f"keep {plan.keep:.2f}; " if plan.keep else "by sensitivity; "
    states = {"before": before, "pruned": unrepaired, "fine-tuned": after}
    return tuning.outcome(target, states, description, keep=plan.keep, before=before, after=after)


@dataclass
class _Plan:
    """What goes: a share of every layer that is kept or one of each that goes; and what it was decided by."""

    keep: float | None
    ratios: dict[str, float] | None = None
    layers: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    costs: dict[str, float] = field(default_factory=dict)

    def measured(self) -> dict[str, Any]:
        """What the history records about it."""
        named = {"sensitivity": self.layers, "costs": self.costs, "dropped": self.dropped}
        return {name: rows for name, rows in named.items() if rows}


def _planned(tuning: FineTuning, options: Pruning, truth: Tensor, mask: Tensor, folder: Path) -> _Plan:
    """Decide what goes. The blocks are gone when this returns."""
    pipeline, plan = tuning.source, _Plan(options.keep)
    if options.drop_blocks:
        if not pipeline.config.blocks:
            raise ValueError(f"--drop-blocks: {pipeline.config.model} has no residual blocks; leave it out")
        for network in pipeline.config.blocks:
            plan.dropped += channels.drop_blocks(pipeline, network, options.drop_blocks, truth, mask)
    if options.allocate == "sensitivity":
        layers = channels.sensitivity(pipeline, truth, mask)
        plan.costs = costs_of_halving(tuning, pipeline, layers, options.trial_steps, folder)
        plan.layers = channels.rescaled(layers, plan.costs)
        budget = channels.Budget(options.target_gmacs, options.target_params)
        plan.ratios = channels.ratios_for(pipeline, budget, plan.layers)
        for row in plan.layers:
            row["share"] = plan.ratios[row["layer"]]
    elif plan.keep is None and options.target_gmacs is not None:
        plan.keep = channels.keep_for_gmacs(pipeline, options.target_gmacs)
    return plan


def loss_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    """The loss of a step in dB: the drops of `psnr_hole_mirrored` and `psnr_hole_smooth`, plus 2 dB for each 1 that
    `texture_energy` moved, so that 0.1 of texture counts as much as 0.2 dB, as in fit_budget.py's gates. At least 0.01.
    """
    drops = sum(max(0.0, before[name] - after[name]) for name in metrics.HOLE_FIGURES[:2])
    moved = abs((after[metrics.HOLE_FIGURES[2]] or 0.0) - (before[metrics.HOLE_FIGURES[2]] or 0.0))
    return max(0.01, drops + 2.0 * moved)


def costs_of_halving(
    tuning: FineTuning, whole: Inpainter, rows: Sequence[Mapping[str, Any]], steps: int, folder: Path
) -> dict[str, float]:
    """What each network loses, {name: loss}, once half of its channels are gone and `steps` of fine-tuning have mended
    what they can: against the whole pipeline after as many steps, by `loss_between`. rows: of channels.sensitivity.
    """
    measured = {}
    for network in ("", *whole.PHASES["all"]):
        trial = channels.halve_network(whole, network, rows) if network else copy.deepcopy(whole)
        tuning.fit(trial, folder, f"half of {network}" if network else "all of it", steps=steps)
        measured[network] = tuning.measure(trial)
    return agreed({name: round(loss_between(measured[""], after), 4) for name, after in measured.items() if name})

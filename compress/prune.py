"""Structured channel pruning over the whole pipeline, in steps with fine-tuning between.

    python compress/prune.py runs/fp32 runs/pruned --data data/faces --keep 0.5

`--keep 0.5` keeps half of each layer's channels, about a quarter of the multiply-accumulates; `--target-gmacs 1.8` finds
the share itself. `--teacher runs/fp32` distils while fine-tuning. Figures before and after are taken on a slice of train.
"""

import argparse
import copy
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from faceeraser import finetuning, metrics, narrowing, script, writing
from faceeraser.networks import Inpainter
from faceeraser.processes import agreed


def build_parser() -> argparse.ArgumentParser:
    made = script.stage_parser(__file__, __doc__)
    finetuning.add_fine_tuning(made, steps=400, lr=5e-4)
    size = made.add_mutually_exclusive_group()
    size.add_argument("--keep", type=float, help="share of each layer's channels to keep, 0 to 1")
    size.add_argument("--target-gmacs", type=float, help="multiply-accumulates to stay under, in 10^9 at 256 x 256")
    made.add_argument("--target-params", type=int, help="parameters to stay under as well (with --allocate sensitivity)")
    made.add_argument("--importance", choices=narrowing.IMPORTANCES, default="magnitude", help="default: %(default)s")
    made.add_argument(
        "--allocate", choices=("uniform", "sensitivity"), default="uniform",
        help="every layer gives up the same share, or by how little harm it does, measured (with a --target)",
    )  # fmt: skip
    made.add_argument(
        "--trial-steps", type=int, default=100,
        help="fine-tuning steps of each network's trial, for --allocate sensitivity (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--drop-blocks", type=int, default=0, metavar="N",
        help="first take the N residual blocks that matter least out of the edge and the clone network each",
    )  # fmt: skip
    made.add_argument("--rounds", type=int, default=2, help="pruning steps, each fine-tuned (default: %(default)s)")
    return made


def loss_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    """What a step lost, in dB: of `psnr_hole_mirrored` and of `psnr_hole_smooth`, and 2 dB for each 1 that `texture_energy`
    moved, so that 0.1 of texture weighs what 0.2 dB do, as in fit_budget.py's gates. At least 0.01: nothing is free.
    """
    drops = sum(max(0.0, before[name] - after[name]) for name in metrics.FIGURES[:2])
    moved = abs((after[metrics.FIGURES[2]] or 0.0) - (before[metrics.FIGURES[2]] or 0.0))
    return max(0.01, drops + 2.0 * moved)


def costs_of_halving(
    tuning: finetuning.FineTuning, whole: Inpainter, rows: Sequence[Mapping[str, Any]], steps: int, folder: Path
) -> dict[str, float]:
    """What each network loses, {name: loss}, once half of its channels are gone and `steps` of fine-tuning have mended
    what they can: against the whole pipeline after as many steps, by `loss_between`. rows: of narrowing.sensitivity.
    """
    found = {}
    for network in ("", *whole.PHASES["all"]):
        trial = narrowing.halve_network(whole, network, rows) if network else copy.deepcopy(whole)
        tuning.fit(trial, folder, f"half of {network}" if network else "all of it", steps=steps)
        found[network] = tuning.measure(trial)
    return agreed({name: round(loss_between(found[""], after), 4) for name, after in found.items() if name})


def run(args: argparse.Namespace) -> None:
    tuning = finetuning.FineTuning(args)
    pipeline = tuning.source
    if args.allocate == "sensitivity" and args.target_gmacs is None and args.target_params is None:
        raise ValueError("--allocate sensitivity needs --target-gmacs or --target-params: it decides where, not how much")
    if args.allocate == "uniform" and args.keep is None and args.target_gmacs is None and not args.drop_blocks:
        raise ValueError("how much is to go? give --keep, --target-gmacs or --drop-blocks")
    if args.target_params is not None and args.allocate != "sensitivity":
        raise ValueError("--target-params needs --allocate sensitivity")
    if args.rounds < 1:
        raise ValueError(f"--rounds {args.rounds}: expected at least 1")
    with writing.whole_folder(args.target, args.overwrite) as folder:
        before = tuning.measure(pipeline)
        items = [tuning.data[k] for k in range(8)]
        truth, mask, *_ = (torch.stack(x) for x in zip(*items, strict=True))
        keep, layers, ratios, dropped, costs = args.keep, [], None, [], {}
        if args.drop_blocks:
            if not pipeline.config.blocks:
                raise ValueError(f"--drop-blocks: {pipeline.config.model} has no residual blocks; leave it out")
            for network in pipeline.config.blocks:
                dropped += narrowing.drop_blocks(pipeline, network, args.drop_blocks, truth, mask)
        if args.allocate == "sensitivity":
            layers = narrowing.sensitivity(pipeline, truth, mask)
            costs = costs_of_halving(tuning, pipeline, layers, args.trial_steps, folder)
            layers = narrowing.rescaled(layers, costs)
            budget = narrowing.Budget(args.target_gmacs, args.target_params)
            ratios = narrowing.ratios_for(pipeline, budget, layers)
            for row in layers:
                row["share"] = ratios[row["layer"]]
        elif keep is None and args.target_gmacs is not None:
            keep = narrowing.keep_for_gmacs(pipeline, args.target_gmacs)
        unrepaired = None
        steps: Iterable[int] = (0,)  # blocks alone
        if keep is not None or ratios is not None:
            batch = (truth, mask)
            steps = narrowing.prune_steps(pipeline, keep or 1.0, args.rounds, args.importance, batch, ratios)
        for step in steps:
            unrepaired = tuning.measure(pipeline)
            title, each = f"prune {step + 1}/{args.rounds}", max(1, args.steps // args.rounds)
            result = tuning.fit(pipeline, folder, title, steps=each, seed=args.seed + step)
        after = tuning.measure(pipeline)
        tuning.save(
            folder, pipeline, "prune",
            {"keep": keep, "allocate": args.allocate, "importance": args.importance, "rounds": args.rounds,
             "drop_blocks": args.drop_blocks, "trial_steps": args.trial_steps if costs else 0},
            {**result, "before": before, "unrepaired": unrepaired, "after": after},
            widths=narrowing.widths(pipeline),
            **{name: found for name, found in (("sensitivity", layers), ("costs", costs), ("dropped", dropped)) if found},
        )  # fmt: skip
    rows = {"before": before, "pruned": unrepaired, "fine-tuned": after}
    how = f"keep {keep:.2f}; " if keep else "by sensitivity; " if ratios else f"{args.drop_blocks} blocks fewer; "
    tuning.finish(rows, how, keep=keep, before=before, after=after)


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

"""Structured channel pruning over the whole pipeline, in steps with fine-tuning between.

    python compress/prune.py runs/fp32 runs/pruned --data data/faces --keep 0.5

`--keep 0.5` keeps half of each layer's channels, about a quarter of the multiply-accumulates; `--target-gmacs 1.8` finds
the share itself. `--teacher runs/fp32` distils while fine-tuning. Figures before and after are taken on a slice of train.
"""

import argparse
import sys

import torch

from faceeraser import checkpoint, fit, narrowing, pairs, stage


def build_parser() -> argparse.ArgumentParser:
    made = stage.parser(__doc__)
    stage.add_fine_tuning(made, steps=400, lr=5e-4)
    size = made.add_mutually_exclusive_group(required=True)
    size.add_argument("--keep", type=float, help="share of each layer's channels to keep, 0 to 1")
    size.add_argument("--target-gmacs", type=float, help="multiply-accumulates to stay under, in 10^9 at 256 x 256")
    made.add_argument("--importance", choices=narrowing.IMPORTANCES, default="magnitude", help="default: %(default)s")
    made.add_argument("--rounds", type=int, default=2, help="pruning steps, each fine-tuned (default: %(default)s)")
    return made


def run(args: argparse.Namespace) -> None:
    pipeline = checkpoint.load(args.source)
    if pipeline.config.quantized:
        raise ValueError(f"{args.source} is quantized already; prune the network it was made from")
    if args.rounds < 1:
        raise ValueError(f"--rounds {args.rounds}: expected at least 1")
    described = pairs.describe(args.data)
    teacher = checkpoint.load(args.teacher) if args.teacher else None
    data, look = stage.training_pairs(args, pipeline), stage.tune_pairs(args, pipeline)
    with checkpoint.writing(args.target, args.overwrite) as folder:
        before = stage.measure(pipeline, look)
        keep = args.keep if args.keep is not None else narrowing.keep_for_gmacs(pipeline, args.target_gmacs)
        items = [data[k] for k in range(args.batch)]
        truth, mask = (torch.stack(x) for x in zip(*items, strict=True))
        unrepaired = None
        for step in narrowing.prune_steps(pipeline, keep, args.rounds, args.importance, (truth, mask)):
            unrepaired = stage.measure(pipeline, look)
            recipe = stage.fine_tuning_recipe(args, steps=max(1, args.steps // args.rounds), seed=args.seed + step)
            result = fit.fit(
                pipeline, data, recipe, folder, teacher=teacher, vgg=args.vgg, look=look[:4],
                title=f"prune {step + 1}/{args.rounds}",
            )  # fmt: skip
        (folder / "state.pt").unlink(missing_ok=True)
        pipeline.cpu()
        after = stage.measure(pipeline, look)
        checkpoint.save(
            folder, pipeline, stage="prune", parent=args.source, data=described,
            options={"keep": keep, "importance": args.importance, "rounds": args.rounds, "steps": args.steps, "lr": args.lr,
                     "teacher": str(args.teacher) if args.teacher else None, "distil": args.distil, "seed": args.seed},
            metrics={**result, "before": before, "unrepaired": unrepaired, "after": after},
            samples=fit.sample_sheet(pipeline, look), extra={"widths": narrowing.widths(pipeline)},
        )  # fmt: skip
    rows = [
        {"name": name, **row} for name, row in (("before", before), ("pruned", unrepaired), ("fine-tuned", after)) if row
    ]
    stage.finish(
        f"{args.source} -> {args.target} (keep {keep:.2f}; on a slice of train; data: {described['source']})", rows,
        {"target": str(args.target), "keep": keep, "source": described["source"], "before": before, "after": after},
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    return stage.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

"""Network slimming: train with an L1 penalty on the norms' scale factors, cut by one global threshold, fine-tune.

    python compress/slim.py runs/pruned runs/slim --data data/faces

The penalty drives the scales of channels that matter little towards zero; the report shows their histograms before and
after. Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming (2017). A network without
such scales (the paper preset's instance norm) is refused.
"""

import argparse
import sys

import numpy as np

from faceeraser import checkpoint, fit, narrowing, pairs, stage


def build_parser() -> argparse.ArgumentParser:
    made = stage.parser(__doc__)
    stage.add_fine_tuning(made, steps=400, lr=5e-4)
    made.add_argument("--share", type=float, default=0.2, help="share of channels to cut (default: %(default)s)")
    made.add_argument("--sparsity", type=float, default=1e-3, help="weight of the L1 penalty (default: %(default)s)")
    return made


def histogram(values: np.ndarray, edges: np.ndarray) -> list[int]:
    """Counts of the scale factors between `edges`; the last bin takes everything above."""
    return [int(c) for c in np.histogram(np.minimum(values, edges[-1]), edges)[0]]


def run(args: argparse.Namespace) -> None:
    pipeline = checkpoint.load(args.source)
    narrowing.require_scales(pipeline)
    if args.steps < 2:
        raise ValueError(f"--steps {args.steps}: expected at least 2, half with the penalty and half without")
    described = pairs.describe(args.data)
    teacher = checkpoint.load(args.teacher) if args.teacher else None
    data, look = stage.training_pairs(args, pipeline), stage.tune_pairs(args, pipeline)
    with checkpoint.writing(args.target, args.overwrite) as folder:
        before = stage.measure(pipeline, look)
        at_first = narrowing.scale_values(pipeline).numpy()
        sparse = stage.fine_tuning_recipe(args, steps=args.steps // 2, sparsity=args.sparsity)
        fit.fit(pipeline, data, sparse, folder, teacher=teacher, vgg=args.vgg, look=look[:4], title="slim: sparsify")
        pipeline.cpu()
        at_last = narrowing.scale_values(pipeline).numpy()
        threshold = narrowing.slim(pipeline, args.share)
        unrepaired = stage.measure(pipeline, look)
        recipe = stage.fine_tuning_recipe(args, steps=args.steps - args.steps // 2, seed=args.seed + 1)
        result = fit.fit(
            pipeline, data, recipe, folder, teacher=teacher, vgg=args.vgg, look=look[:4], title="slim: fine-tune"
        )
        (folder / "state.pt").unlink(missing_ok=True)
        pipeline.cpu()
        after = stage.measure(pipeline, look)
        edges = np.linspace(0, max(1e-6, float(np.quantile(np.concatenate([at_first, at_last]), 0.99))), 33)
        scales = {
            "before": histogram(at_first, edges), "after": histogram(at_last, edges), "edges": edges.tolist(),
            "mean_before": float(at_first.mean()), "mean_after": float(at_last.mean()), "threshold": threshold,
        }  # fmt: skip
        checkpoint.save(
            folder, pipeline, stage="slim", parent=args.source, data=described,
            options={"share": args.share, "sparsity": args.sparsity, "steps": args.steps, "lr": args.lr,
                     "teacher": str(args.teacher) if args.teacher else None, "distil": args.distil, "seed": args.seed},
            metrics={**result, "before": before, "unrepaired": unrepaired, "after": after},
            samples=fit.sample_sheet(pipeline, look), extra={"scales": scales, "widths": narrowing.widths(pipeline)},
        )  # fmt: skip
    print(f"\nscale factors: mean {scales['mean_before']:.4f} -> {scales['mean_after']:.4f}, cut below {threshold:.4f}")
    rows = [{"name": name, **row} for name, row in (("before", before), ("cut", unrepaired), ("fine-tuned", after))]
    stage.finish(
        f"{args.source} -> {args.target} (on a slice of train; data: {described['source']})", rows,
        {"target": str(args.target), "source": described["source"], "before": before, "after": after,
         "scales": {k: scales[k] for k in ("mean_before", "mean_after", "threshold")}},
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    return stage.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

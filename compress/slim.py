"""Network slimming: train with an L1 penalty on the norms' scale factors, cut by one global threshold, fine-tune.

    python compress/slim.py runs/pruned runs/slim --data data/faces

The penalty drives the scales of channels that matter little towards zero; the report shows their histograms before and
after. Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming (2017). A network without
such scales (the paper preset's instance norm) is refused.
"""

import argparse
import sys

import numpy as np

from faceeraser import finetuning, narrowing, script, writing
from faceeraser.networks import count


def build_parser() -> argparse.ArgumentParser:
    made = script.stage_parser(__file__, __doc__)
    finetuning.add_fine_tuning(made, steps=400, lr=5e-4)
    made.add_argument("--share", type=float, help="share of channels to cut (default: 0.2)")
    made.add_argument("--target-gmacs", type=float, help="find the share: multiply-accumulates to stay under, in 10^9")
    made.add_argument("--target-params", type=int, help="find the share: parameters to stay under")
    made.add_argument("--sparsity", type=float, default=1e-3, help="weight of the L1 penalty (default: %(default)s)")
    return made


def histogram(values: np.ndarray, edges: np.ndarray) -> list[int]:
    """Counts of the scale factors between `edges`; the last bin takes everything above."""
    return [int(c) for c in np.histogram(np.minimum(values, edges[-1]), edges)[0]]


def run(args: argparse.Namespace) -> None:
    tuning = finetuning.FineTuning(args)
    pipeline = tuning.source
    narrowing.require_scales(pipeline)
    if args.steps < 2:
        raise ValueError(f"--steps {args.steps}: expected at least 2, half with the penalty and half without")
    budget = None
    if args.target_gmacs is not None or args.target_params is not None:
        if args.share is not None:
            raise ValueError("--share and --target-...: expected one of them, the target finds the share")
        budget = narrowing.Budget(args.target_gmacs, args.target_params)
    with writing.whole_folder(args.target, args.overwrite) as folder:
        before = tuning.measure(pipeline)
        at_first = narrowing.scale_values(pipeline).numpy()
        tuning.fit(pipeline, folder, "slim: sparsify", steps=args.steps // 2, sparsity=args.sparsity)
        at_last = narrowing.scale_values(pipeline).numpy()
        share = 0.2 if args.share is None else args.share
        if budget is not None:  # which pruning in whole eighths may have met already
            share = 0.0 if budget.holds(count(pipeline)) else narrowing.share_for(pipeline, budget)
        threshold = narrowing.slim(pipeline, share) if share or budget is None else 0.0
        unrepaired = tuning.measure(pipeline)
        result = tuning.fit(pipeline, folder, "slim: fine-tune", steps=args.steps - args.steps // 2, seed=args.seed + 1)
        after = tuning.measure(pipeline)
        edges = np.linspace(0, max(1e-6, float(np.quantile(np.concatenate([at_first, at_last]), 0.99))), 33)
        scales = {
            "before": histogram(at_first, edges), "after": histogram(at_last, edges), "edges": edges.tolist(),
            "mean_before": float(at_first.mean()), "mean_after": float(at_last.mean()), "threshold": threshold,
        }  # fmt: skip
        tuning.save(
            folder, pipeline, "slim", {"share": share, "sparsity": args.sparsity},
            {**result, "before": before, "unrepaired": unrepaired, "after": after},
            scales=scales, widths=narrowing.widths(pipeline),
        )  # fmt: skip
    print(f"\nscale factors: mean {scales['mean_before']:.4f} -> {scales['mean_after']:.4f}, cut below {threshold:.4f}")
    tuning.finish(
        {"before": before, "cut": unrepaired, "fine-tuned": after}, before=before, after=after,
        scales={k: scales[k] for k in ("mean_before", "mean_after", "threshold")},
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

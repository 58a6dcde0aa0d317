"""Network slimming: train with an L1 penalty on the norms' scale factors, cut by one global threshold, fine-tune.

    python compress/slim.py runs/pruned runs/slim --data data/faces

The penalty drives the scales of channels that matter little towards zero; the history has their histograms before and
after. Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming (2017). A network without
such scales (the paper preset's instance norm) is refused.
"""

import argparse
import sys

from faceeraser.system import script
from faceeraser.training import finetuning
from faceeraser.training.slimming import Slimming, slim


def build_parser() -> argparse.ArgumentParser:
    parser = script.stage_parser(__file__, __doc__)
    finetuning.add_tuning(parser, Slimming)
    add = parser.add_argument
    add("--share", type=float, help="share of channels to cut (default: 0.2)")
    add(
        "--target-gmacs",
        type=float,
        help="choose the share so as to stay under this number of multiply-accumulates, in 10^9",
    )
    add("--target-params", type=int, help="choose the share so as to stay under this number of parameters")
    add("--sparsity", type=float, default=Slimming.sparsity, help="weight of the L1 penalty (default: %(default)s)")
    return parser


def run(args: argparse.Namespace) -> None:
    done = slim(args.source, args.target, script.options(Slimming, args), args.overwrite)
    script.table("Scale factors", [done.summary["scales"]])
    script.finish(done.title, done.rows, done.summary)


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

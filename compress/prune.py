"""Structured channel pruning over the whole pipeline, in steps with fine-tuning between.

    python compress/prune.py runs/fp32 runs/pruned --data data/faces --keep 0.5

`--keep 0.5` keeps half of each layer's channels, about a quarter of the multiply-accumulates; `--target-gmacs 1.8` finds
the share itself. `--teacher runs/fp32` distils while fine-tuning. Figures before and after are taken on a slice of train.

    python compress/prune.py --module my_net.py runs/pruned --target-gmacs 0.1

prunes a network of your own: my_net.py has build(), batches() and loss(network, batch) (docs/any-network.md).
"""

import argparse
import sys

from faceeraser.system import script
from faceeraser.training import any_compressing, channels, finetuning
from faceeraser.training.any_compressing import AnyPruning
from faceeraser.training.pruning import Pruning, prune


def build_parser() -> argparse.ArgumentParser:
    parser = script.stage_parser(__file__, __doc__)
    finetuning.add_tuning(parser, Pruning, any_network=True)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--keep", type=float, help="share of each layer's channels to keep, 0 to 1")
    size.add_argument(
        "--target-gmacs", type=float, help="stay under this number of multiply-accumulates, in 10^9 at 256 x 256"
    )
    parser.add_argument(
        "--target-params", type=int, help="also stay under this number of parameters (with --allocate sensitivity)"
    )
    parser.add_argument("--importance", choices=channels.IMPORTANCES, default="magnitude", help="default: %(default)s")
    parser.add_argument(
        "--allocate",
        choices=("uniform", "sensitivity"),
        default="uniform",
        help="remove the same share from every layer, or more where it is measured to do less harm (with a --target)",
    )
    parser.add_argument(
        "--trial-steps",
        type=int,
        default=Pruning.trial_steps,
        help="fine-tuning steps for each network's trial with --allocate sensitivity (default: %(default)s)",
    )
    parser.add_argument(
        "--drop-blocks",
        type=int,
        default=0,
        metavar="N",
        help="first remove the N least important residual blocks from each of the edge and clone networks",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=Pruning.rounds,
        help="number of pruning rounds, each followed by fine-tuning (default: %(default)s)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    if args.module:
        if args.target_gmacs is None:
            raise ValueError("say how much to remove: give --target-gmacs")
        options = AnyPruning(
            target_gmacs=args.target_gmacs,
            rounds=args.rounds,
            steps=args.steps,
            lr=args.lr,
            distil=args.distil,
            seed=args.seed,
        )
        outcome = any_compressing.prune(args.source, args.target, options, args.overwrite)
        states = any_compressing.states(outcome)
        script.finish(f"{args.source} -> {args.target}", states, {"target": str(args.target), **outcome})
        return
    finetuning.need_data(args)
    done = prune(args.source, args.target, script.options(Pruning, args), args.overwrite)
    script.finish(done.title, done.rows, done.summary)


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

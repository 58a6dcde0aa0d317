"""Fine-tune a network as it is, taught by the one it was made from: the last float step before quantization.

    python compress/distil.py runs/slim runs/student --data data/faces --teacher runs/fp32

The teacher's edges, flow and pictures are targets inside the hole, beside the objective that it was trained for itself;
`--distil-features 0.1` adds where its features are strong. `--scratch` keeps the structure and the widths alone and draws
the weights anew: the control that says what pruning is worth over training a small network from the start.
"""

import argparse
import sys

from faceeraser.system import script
from faceeraser.training import finetuning
from faceeraser.training.distilling import Distilling, distil


def build_parser() -> argparse.ArgumentParser:
    parser = script.stage_parser(__file__, __doc__)
    finetuning.add_tuning(parser, Distilling)
    parser.add_argument("--scratch", action="store_true", help="start from random weights of the same shapes")
    return parser


def run(args: argparse.Namespace) -> None:
    done = distil(args.source, args.target, script.options(Distilling, args), args.overwrite)
    script.finish(done.title, done.rows, done.summary)


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

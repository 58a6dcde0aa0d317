"""Quantization-aware fine-tuning to int8: fold the norms, calibrate, then train weights and scales together.

    python compress/quantize.py runs/slim runs/int8 --data data/faces

Weights are int8 with one learnt scale for each output channel, activations int8 with one learnt scale each. The scales
in TARGET/quantization.json are the ones in the exported file. The head that predicts the flow, the warp and the
compositing stay in float: int8 coordinates would be a pixel apart. So do the layers before a head whose int8 harms most
(`--keep-float auto`): what each layer's int8 alone does to the pictures, the flow and the edges is measured, listed in
the history and printed. `--steps 0` is calibration alone. On CPUs that multiply int8 (VNNI, AMX, ARM's dot product) the
file is faster than a float one; with AVX2 alone it is smaller and no faster (docs/export.md).

    python compress/quantize.py --module my_net.py runs/int8

quantizes a network of your own: my_net.py has build(), batches() and loss(network, batch) (docs/any-network.md).
"""

import argparse
import sys

from tabulate import tabulate

from faceeraser.system import script, writing
from faceeraser.training import any_compressing, finetuning
from faceeraser.training.any_compressing import AnyQuantizing
from faceeraser.training.quantizing import Quantizing, quantize


def build_parser() -> argparse.ArgumentParser:
    parser = script.stage_parser(__file__, __doc__)
    finetuning.add_tuning(parser, Quantizing, any_network=True)
    parser.add_argument(
        "--calibration",
        type=int,
        default=Quantizing.calibration,
        help="number of training pictures to set the scales from (default: %(default)s)",
    )
    parser.add_argument(
        "--keep-float",
        choices=("auto", "least"),
        default="auto",
        help="which layers stay in float: those that int8 harms most, or only the flow's head (default: %(default)s)",
    )
    parser.add_argument(
        "--max-drop", type=float, help="gate: how many dB psnr_hole_mirrored may lose; beyond this the exit code is 1"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    if args.module:
        options = AnyQuantizing(keep_float=args.keep_float, steps=args.steps, lr=args.lr, distil=args.distil, seed=args.seed)
        outcome = any_compressing.quantize(args.source, args.target, options, args.overwrite)
        states = any_compressing.states(outcome)
        script.finish(f"{args.source} -> {args.target}", states, {"target": str(args.target), **outcome})
        return
    finetuning.need_data(args)
    done = quantize(args.source, args.target, script.options(Quantizing, args), args.overwrite)
    summary = dict(done.summary)
    harm, kept = summary.pop("harm"), summary["float_layers"]
    if writing.first_process():
        print(f"\nin float: {', '.join(kept)}; int8 alone harms most, of {len(harm)} tensors:")
        print(tabulate(harm[:8], headers="keys", floatfmt=".2e"))
    script.finish(done.title, done.rows, summary)
    if args.max_drop is not None and (drop := summary["drop"]) > args.max_drop:
        raise script.GateFailed(
            f"psnr_hole_mirrored fell by {drop:.3f} dB, {drop - args.max_drop:.3f} more than --max-drop allows"
        )


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

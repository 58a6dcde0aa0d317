"""Fine-tune a network as it is, taught by the one it was made from: the last float step before quantization.

    python compress/distil.py runs/slim runs/student --data data/faces --teacher runs/fp32

The teacher's edges, flow and pictures are targets inside the hole, beside the objective that it was trained for itself;
`--distil-features 0.1` adds where its features are strong. `--scratch` keeps the structure and the widths alone and draws
the weights anew: the control that says what pruning is worth over training a small network from the start.
"""

import argparse
import sys

import torch

from faceeraser import finetuning, script, writing


def build_parser() -> argparse.ArgumentParser:
    made = script.stage_parser(__file__, __doc__)
    finetuning.add_fine_tuning(made, steps=1000, lr=5e-4)
    made.add_argument("--scratch", action="store_true", help="start from random weights of the same shapes")
    return made


def run(args: argparse.Namespace) -> None:
    tuning = finetuning.FineTuning(args)
    network = tuning.source
    if tuning.teacher is None:
        raise ValueError("no teacher to distil from: name one with --teacher, such as the network before pruning")
    with writing.whole_folder(args.target, args.overwrite) as folder:
        before = tuning.measure(network)
        if args.scratch:
            torch.manual_seed(args.seed)
            network.initialise()
        result = tuning.fit(network, folder, "distil")
        after = tuning.measure(network)
        tuning.save(folder, network, "distil", {"scratch": args.scratch}, {**result, "before": before, "after": after})
    tuning.finish({"before": before, "distilled": after}, before=before, after=after)


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

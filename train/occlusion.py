"""Train the network that says what hangs in front of a face: hair, hands, things (faceeraser/training/occlusion.py).

    python train/occlusion.py data/faces runs/occlusion

data/faces is a folder that `prepare.py --hair` made: the hair maps in it are the labels. The result is a folder with
`occlusion.safetensors`, `occlusion.tflite`, its history and a sheet of what it says about validation pictures.
"""

import argparse
import sys

from PIL import Image

from faceeraser.measurement import results
from faceeraser.model import pairs
from faceeraser.system import script, writing
from faceeraser.system.history import NAME
from faceeraser.system.writing import write_json
from faceeraser.training import occlusion


def build_parser() -> argparse.ArgumentParser:
    parser = script.stage_parser(__file__, __doc__, "DATA")
    parser.add_argument("--steps", type=int, default=3000, help="training steps (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="pictures per step (default: %(default)s)")
    parser.add_argument(
        "--lr", type=float, default=2e-3, help="Adam's learning rate, which falls to a hundredth (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed for weights and pictures (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="continue a stopped run")
    return parser


def run(args: argparse.Namespace) -> None:
    if args.steps < 1 or args.batch < 1:
        raise ValueError(f"--steps {args.steps} --batch {args.batch}: expected at least 1 of each")
    described = pairs.data_of(args.source)
    data = occlusion.OcclusionPairs(args.source, "train", args.seed)
    held_out = occlusion.OcclusionPairs(args.source, "val", 1)
    with writing.whole_folder(args.target, args.overwrite, args.resume) as folder:
        options = {"steps": args.steps, "batch": args.batch, "lr": args.lr, "seed": args.seed}
        network, spent = occlusion.train(data, folder, **options, resume=args.resume)
        figures = occlusion.measure(network, held_out)
        sha256 = occlusion.save(network, folder)
        file = occlusion.export(occlusion.load(folder), folder / "occlusion.tflite", held_out)
        Image.fromarray(occlusion.sheet(network, held_out)).save(folder / "samples.png")
        entry = {
            "stage": "train-occlusion",
            "options": options,
            "metrics": {**figures, "seconds": round(spent, 1)},
            "file": file,
            "sha256": sha256,
            "data": {name: described.get(name) for name in ("name", "source", "sha256")},
            "versions": results.versions(),
        }
        write_json(folder / NAME, [entry])
    row = {"name": args.target.name, **figures, "bytes": file["bytes"]}
    summary = {"target": str(args.target), **figures, **file}
    script.finish(f"{args.target} (validation; data: {described['source']})", [row], summary)


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

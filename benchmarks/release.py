"""Make the weights that come with the package: photographs -> trained -> compressed -> exported -> measured -> published.

    python benchmarks/release.py PHOTOS --hair models/hair_segmentation.tflite --json benchmarks/results/release.json

An hour and a half on two CPU cores. What exists below --target is kept and what was broken off goes on, so it may be killed
and started again.

Phases, each a line of `commands`: the pairs, with hair maps; the network for what hangs in front of a face (`occlusion`);
the network that plans, first with a membrane in the middle of real faces (`begun`), then with the plate that is easier
learnt from there (`fp32`); pruned to four fifths of its channels, distilled and quantized, each taught by `fp32`; the
exports, of which the int8 file that only plans is what `faceeraser erase` runs; the figures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from faceeraser import WEIGHTS
from faceeraser.artifacts.card import card_path, read_card
from faceeraser.measurement import metrics, results
from faceeraser.system import chain, script
from faceeraser.system.writing import write_json

ROOT = Path(__file__).resolve().parent.parent
# What ships of the exports, and what each is called there: float pictures in and out, for a browser as well as a phone.
EXPORTED = {"int8": "int8-web", "plan": "plan-plan-web"}


def build_parser() -> argparse.ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="folder of photographs of faces")
    parser.add_argument(
        "--hair", type=Path, required=True, metavar="FILE", help="MediaPipe's hair_segmentation.tflite, which labels hair"
    )
    parser.add_argument("--target", type=Path, default=Path("runs/release"), help="default: %(default)s")
    parser.add_argument("--publish", type=Path, default=WEIGHTS, help="where to put the weights (default: the package)")
    parser.add_argument("--size", type=int, default=256, help="edge length of the exported files (default: %(default)s)")
    parser.add_argument("--width", type=int, default=32, help="channels of the first layer (default: %(default)s)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiply all numbers of training steps by this (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, help="number of photographs to prepare")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    return parser


def commands(args: argparse.Namespace) -> list[list[str]]:
    """The stages in order, each the words of one command line (without the interpreter)."""
    work: Path = args.target
    faces, occlusion, exports = (str(work / name) for name in ("faces", "occlusion", "exports"))
    begun = str(work / "begun")
    stages = {name: str(work / name) for name in ("fp32", "pruned", "student", "int8")}
    files = {name: str(work / "exports" / f"{name}-web.tflite") for name in stages}

    def steps(number: int) -> list[str]:
        return ["--steps", str(max(4, round(number * args.scale)))]

    # Its networks see 128 pixels of any picture, so that is what they are trained on.
    planning = ["--phase", "inpaint", "--model", "patches", "--real", "0.5", "--size", "128", "--batch", "16"]
    tuned = ["--data", faces, "--size", "128", "--batch", "16", "--teacher", stages["fp32"]]
    compared = [f"{name}={file}" for name, file in files.items() if name != "fp32"]
    latency, result = str(work / "latency.json"), str(work / "result.json")
    return [
        ["train/prepare.py", str(args.photos), faces, "--size", str(args.size), "--hair", str(args.hair),
         *(["--limit", str(args.limit)] if args.limit else [])],
        ["train/occlusion.py", faces, occlusion, *steps(3000), "--resume"],
        ["train/train.py", faces, begun, *planning, "--width", str(args.width), "--middle", "membrane", "--lr", "2e-3",
         *steps(7000), "--resume"],
        ["train/train.py", faces, stages["fp32"], *planning, "--init", begun, "--lr", "1e-3", *steps(400), "--resume"],
        ["compress/prune.py", stages["fp32"], stages["pruned"], *tuned, "--keep", "0.79", "--lr", "1e-3", *steps(600)],
        ["compress/distil.py", stages["pruned"], stages["student"], *tuned, "--lr", "1e-3", *steps(1000)],
        ["compress/quantize.py", stages["student"], stages["int8"], *tuned, *steps(300)],
        *(["export/to_tflite.py", folder, exports, "--data", faces, "--name", name, "--overwrite", "--flavour", "web",
           "--painted", str(args.size)] for name, folder in stages.items()),
        ["export/to_tflite.py", stages["int8"], exports, "--data", faces, "--name", "plan", "--overwrite", "--flavour",
         "web", "--output", "plan"],
        ["benchmarks/latency.py", f"fp32={files['fp32']}", *compared, stages["fp32"], "--runtimes", "torch", "litert",
         "--json", latency],
        ["benchmarks/fidelity.py", *compared, "--reference", files["fp32"], "--data", faces, "--latency", latency,
         "--json", result],
    ]  # fmt: skip


def missing(plan: list[list[str]]) -> list[list[str]]:
    """The commands whose folder is not there yet; exports and measurements are always done again."""
    return [
        command for command in plan if command[0].startswith(("export/", "benchmarks/")) or not Path(command[2]).exists()
    ]


def publish(work: Path, target: Path) -> None:
    """Copy the two networks and their files to where the package has its weights; what else is there stays."""
    kept = {"fp32": ("config.json", "generators.safetensors", "history.json"),  # samples.png shows people
            "occlusion": ("occlusion.safetensors", "history.json")}  # fmt: skip
    for name, files in kept.items():
        shutil.rmtree(target / name, ignore_errors=True)
        (target / name).mkdir(parents=True)
        for file in files:
            shutil.copyfile(work / name / file, target / name / file)
    shutil.copyfile(work / "occlusion" / "occlusion.tflite", target / "occlusion.tflite")
    for name, exported in EXPORTED.items():
        source = work / "exports" / f"{exported}.tflite"
        shutil.copyfile(source, target / f"{name}.tflite")
        card = card_path(target / f"{name}.tflite")
        write_json(card, {**read_card(source), "file": f"{name}.tflite"})


def run(args: argparse.Namespace) -> None:
    if not args.photos.is_dir():
        raise ValueError(f"{args.photos}: found no such folder, expected one with photographs of faces")
    plan = commands(args)
    taken = chain.run_all(missing(plan), ROOT)
    result = json.loads((args.target / "result.json").read_text())
    result |= {"command": f"python benchmarks/release.py {results.portable(args.photos)}", "steps": taken}
    results.write_result(args.target / "result.json", result)
    if args.json:
        results.write_result(args.json, result)
    publish(args.target, args.publish)
    shown = (*metrics.HOLE_FIGURES, "texture_swd", "psnr_vs_fp32", "gmacs", "params", "bytes", "ms")
    rows = [{"name": row["name"], **{name: row.get(name) for name in shown}} for row in result["rows"]]
    summary = {"weights": str(args.publish), "n": result["data"]["n"], "source": result["data"].get("source")}
    script.finish(f"{args.publish}: {result['data']['n']} validation pairs of {args.photos}", rows, summary)


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

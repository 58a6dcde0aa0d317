"""Make the weights that come with the package: photographs -> trained -> compressed -> exported -> measured -> published.

    python benchmarks/release.py PHOTOS --json benchmarks/results/release.json

Two and a half hours on two CPU cores. What exists below --target is kept and what was broken off goes on, so it may be
killed and started again. Two operating points are trained: `fidelity`, whose only aim is the truth's colours (a smear is
the best guess at pores), and `fp32`, which ships: it copies pores from visible skin. The compression chain starts from it.

Phases, each a line of `commands`: the edges; `fidelity` at half the size, then at full size; from its half-size draft the
cloning, at half the size, at full size, and longest at half the size again, with a few steps at full size to end as `fp32`;
the compression chain from there down to `int8`, which is what `faceeraser erase` runs; the exports; the figures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from faceeraser import WEIGHTS, artifact, chain, metrics, script

ROOT = Path(__file__).resolve().parent.parent
# What ships of the exports, beside the fp32 checkpoint.
EXPORTED = ("int8",)


def build_parser() -> argparse.ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="folder of photographs of faces")
    parser.add_argument("--target", type=Path, default=Path("runs/release"), help="default: %(default)s")
    parser.add_argument("--publish", type=Path, default=WEIGHTS, help="where the weights go (default: the package)")
    parser.add_argument("--size", type=int, default=256, help="edge length of what is exported (default: %(default)s)")
    parser.add_argument("--width", type=int, default=16, help="channels of the first layer (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all training steps (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="photographs to prepare")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    return parser


def commands(args: argparse.Namespace) -> list[list[str]]:
    """The stages in order, each the words of one command line (without the interpreter)."""
    work: Path = args.target
    names = ("faces", "edge", "smooth", "fidelity", "cloning", "draft", "long", "fp32", "small", "exports")
    faces, edge, smooth, fidelity, cloning, draft, long, fp32, small, exports = (str(work / name) for name in names)
    half = ["--size", str(args.size // 2)]
    full = ["--size", str(args.size)]

    def steps(number: int, flag: str = "--steps") -> list[str]:
        return [flag, str(max(4, round(number * args.scale)))]

    def train(target: str, phase: str, *flags: str) -> list[str]:
        return ["train/train.py", faces, target, "--phase", phase, "--adversarial", "0", "--resume", *flags]

    plain, copies = chain.FOR_COLOUR, chain.FOR_COPIES
    untextured = [*copies, "--perceptual", "off", "--texture", "0"]
    # As the table calls them, and as the budget's rounds are called.
    stages = {"fp32": fp32, "pruned": f"{small}/1-pruned", "slim": f"{small}/slim", "student": f"{small}/student",
              "int8": f"{small}/int8"}  # fmt: skip
    files = {name: str(work / "exports" / f"{name}-web.tflite") for name in stages}
    # What is trained for less than it takes is not judged.
    gates = ["--max-drop", "0.2"] if args.scale >= 1 else ["--max-drop", "99", "--max-texture", "99"]
    compared = [f"{name}={file}" for name, file in files.items() if name != "fp32"]
    latency, result = str(work / "latency.json"), str(work / "result.json")
    return [
        ["train/prepare.py", str(args.photos), faces, *full, *(["--limit", str(args.limit)] if args.limit else [])],
        train(edge, "edge", *plain, "--edge-l1", "1", "--width", str(args.width), "--shrink", "1", *half, *steps(120)),
        # Most of the training at half the size, where a step costs a quarter.
        train(smooth, "inpaint", "--edge", edge, "--width", str(args.width), "--shrink", "1", *plain, *half, *steps(6500)),
        train(cloning, "inpaint", "--init", smooth, *copies, *half, *steps(1200)),
        # At full size the networks go on seeing what they saw: a picture of half the size.
        train(draft, "inpaint", "--init", cloning, *untextured, *full, "--shrink", "2", *steps(2000)),
        train(long, "inpaint", "--init", draft, *untextured, *half, "--shrink", "1", *steps(5500)),
        train(fp32, "inpaint", "--init", long, *untextured, *full, "--shrink", "2", "--lr", "2e-4",
              "--half-weights", *steps(150)),
        train(fidelity, "inpaint", "--init", smooth, *plain, *full, "--shrink", "2", "--lr", "5e-4", *steps(300)),
        ["compress/fit_budget.py", fp32, small, "--data", faces, "--max-gmacs", "1.75", "--max-params", "480000",
         "--max-mb", "1", *gates, "--drop-blocks", "4", "--distil-features", "0.1", "--rounds", "1",
         *steps(80, "--trial-steps"), *steps(800), *steps(1000, "--distil-steps"), *steps(600, "--qat-steps"),
         "--qat-lr", "3e-4", "--resume"],
        *(["export/to_tflite.py", folder, exports, "--data", faces, "--name", name, "--overwrite", "--flavour", "web"]
          for name, folder in stages.items()),
        ["benchmarks/latency.py", f"fp32={files['fp32']}", *compared, fp32, "--runtimes", "torch", "litert",
         "--json", latency],
        ["benchmarks/fidelity.py", f"fidelity={fidelity}", *compared, "--reference", files["fp32"], "--data", faces,
         "--noise", "fidelity", "--latency", latency, "--json", result],
    ]  # fmt: skip


def missing(plan: list[list[str]]) -> list[list[str]]:
    """The commands whose folder is not there yet; exports and measurements are always done again."""
    anew = ("export/", "benchmarks/")
    return [command for command in plan if command[0].startswith(anew) or not Path(command[2]).exists()]


def publish(work: Path, target: Path) -> None:
    """Copy the fp32 checkpoint and the exports to where the package has its weights; what else is there stays."""
    shutil.rmtree(target / "fp32", ignore_errors=True)
    (target / "fp32").mkdir(parents=True)
    for name in ("config.json", "generators.safetensors", "history.json"):  # samples.png shows people
        shutil.copyfile(work / "fp32" / name, target / "fp32" / name)
    for name in EXPORTED:  # float pictures in and out: what a browser takes as well as a phone
        source, copied = work / "exports" / f"{name}-web.tflite", target / f"{name}.tflite"
        shutil.copyfile(source, copied)
        artifact.write_json(artifact.card_path(copied), {**artifact.read_card(source), "file": copied.name})


def run(args: argparse.Namespace) -> None:
    if not args.photos.is_dir():
        raise ValueError(f"{args.photos}: found no such folder, expected one with photographs of faces")
    plan = commands(args)
    taken = chain.run_all(missing(plan), ROOT)
    result = json.loads((args.target / "result.json").read_text())
    result |= {"command": f"python benchmarks/release.py {artifact.portable(args.photos)}", "steps": taken}
    artifact.write_result(args.target / "result.json", result)
    if args.json:
        artifact.write_result(args.json, result)
    publish(args.target, args.publish)
    shown = (*metrics.FIGURES, "texture_swd", "psnr_vs_fp32", "gmacs", "params", "bytes", "ms")
    rows = [{"name": row["name"], **{name: row.get(name) for name in shown}} for row in result["rows"]]
    summary = {"weights": str(args.publish), "n": result["data"]["n"], "source": result["data"].get("source")}
    script.finish(f"{args.publish}: {result['data']['n']} validation pairs of {args.photos}", rows, summary)


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

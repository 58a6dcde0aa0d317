"""Does FaceEraser's warp pay for itself on a phone? The paper and its peers through one chain, to an int8 file each.

    python benchmarks/peers.py data/faces --json benchmarks/results/peers.json --plot docs/peers.png

Each model (FaceEraser, EdgeConnect, StructureFlow, HiFill) in the mobile preset, at one width, on the same pairs, for
the same steps and the same terms: its first network, then colour (`chain.FOR_COLOUR`, L1 in the hole), then texture
(`chain.FOR_COPIES`; what speaks of a flow of pixels counts for FaceEraser alone); half of the channels pruned with the
trained network as teacher; quantization-aware training; a .tflite file. All of it once a seed. Figures are the files'
own, on all validation pairs; milliseconds are taken side by side. A model without a network to train first has those
steps too. Runs that are there already are kept.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from faceeraser.measurement import metrics, plots, results
from faceeraser.measurement.seeds import mean_and_spread
from faceeraser.model import pairs, peers
from faceeraser.model.config import COMPARED, Config
from faceeraser.system import chain, script
from faceeraser.system.history import read_history

ROOT = Path(__file__).resolve().parent.parent
COMPARED_FIGURES = (*metrics.HOLE_FIGURES, "texture_swd_centred", "psnr", "mae")


def commands(args: Namespace) -> dict[tuple[str, int], list[list[str]]]:
    """{(model, seed): its commands, one after another}."""
    plan: dict[tuple[str, int], list[list[str]]] = {}
    data, (first, smooth, copies, prune, quantize) = str(args.data), map(str, args.steps)
    for seed in range(args.seeds):
        for model in COMPARED:
            at = {
                name: str(args.target / f"{model}-{name}-{seed}") for name in ("first", "smooth", "fp32", "pruned", "int8")
            }
            common = ["--model", model, "--width", str(args.width), "--adversarial", "0", "--seed", str(seed)]
            small = ["--size", "128", "--shrink", "1"]
            tuned = ["--data", data, "--size", "128", "--seed", str(seed), "--teacher", at["fp32"]]
            steps = []
            network = peers.build(Config.of("mobile", model=model), 4).first
            if network:
                edges = ["--edge-l1", "1"] if network == "edge" else []
                steps.append(["train/train.py", data, at["first"], *common, *small, "--phase", network,
                              "--steps", first, "--perceptual", "off", *edges])  # fmt: skip
                begin, count = ["--edge", at["first"]], smooth
            else:
                begin, count = [], str(int(first) + int(smooth))
            steps += [
                ["train/train.py", data, at["smooth"], *common, *small, "--phase", "inpaint", *begin,
                 "--steps", count, *chain.FOR_COLOUR],
                ["train/train.py", data, at["fp32"], *common, "--size", "256", "--shrink", "2", "--phase", "inpaint",
                 "--init", at["smooth"], "--steps", copies, *chain.FOR_COPIES],
                ["compress/prune.py", at["fp32"], at["pruned"], "--keep", "0.5", "--rounds", "1", "--steps", prune, *tuned],
                ["compress/quantize.py", at["pruned"], at["int8"], "--steps", quantize, *tuned],
                ["export/to_tflite.py", at["int8"], str(exports(args)), "--flavour", "web"],
            ]  # fmt: skip
            plan[model, seed] = steps
    return plan


def exports(args: Namespace) -> Path:
    """Where the files are."""
    folder: Path = args.target / "exports"
    return folder


def file_of(args: Namespace, model: str, seed: int) -> Path:
    """The exported file of a model and a seed."""
    return exports(args) / f"{model}-int8-{seed}-web.tflite"


def train_all(args: Namespace) -> None:
    """Run what is not there yet: a model's commands one after another, the models side by side."""
    plan = commands(args)
    data = pairs.data_of(args.data)

    def there(key: tuple[str, int], command: Sequence[str]) -> bool:
        return chain.trained_already(command, data) if command[0] == "train/train.py" else made(args, key, command).exists()

    left = [[command for command in steps if not there(key, command)] for key, steps in plan.items()]
    for depth in range(max(map(len, left))):
        chain.run_all([steps[depth] for steps in left if depth < len(steps)], ROOT, independent=True)


def made(args: Namespace, key: tuple[str, int], command: Sequence[str]) -> Path:
    """What a command leaves."""
    return file_of(args, *key) if command[0].startswith("export/") else Path(command[2])


def measured(args: Namespace) -> list[dict[str, Any]]:
    """A row for each model, means over the seeds and `std`; and the classical fills."""
    files = {(model, seed): file_of(args, model, seed) for seed in range(args.seeds) for model in COMPARED}
    named = [f"{model}-{seed}={path}" for (model, seed), path in files.items()]
    took, fidelity = args.target / "latency.json", args.target / "fidelity.json"
    chain.run_all(
        [["benchmarks/latency.py", *named, "--runtimes", "litert", "--json", str(took)],
         ["benchmarks/fidelity.py", *named[1:], "--reference", named[0], "--data", str(args.data), "--latency", str(took),
          "--json", str(fidelity)]], ROOT,
    )  # fmt: skip
    result = results.read_result(fidelity)
    by_name = {row["name"]: row for row in result["rows"]}
    rows: list[dict[str, Any]] = []
    for model in COMPARED:
        each = [by_name[f"{model}-{seed}"] for seed in range(args.seeds)]
        history = read_history(args.target / f"{model}-int8-0")
        row: dict[str, Any] = {
            "name": model,
            "kind": "int8",
            "seeds": len(each),
            "perceptual": "filterbank",
            "n": each[0]["n"],
        }
        row["steps"] = sum(int(entry["options"]["steps"]) for entry in history)
        means, spread = mean_and_spread(each, (*COMPARED_FIGURES, "gmacs", "params", "bytes", "ms"))
        row |= {**means, "std": {key: spread[key] for key in COMPARED_FIGURES}}
        row["params"], row["bytes"] = round(row["params"]), round(row["bytes"])
        float_rows = [read_history(args.target / f"{model}-fp32-{seed}")[-1]["metrics"] for seed in range(args.seeds)]
        row["fp32"] = {**mean_and_spread(float_rows, ("gmacs", "params", *metrics.HOLE_FIGURES))[0], "list": "tune"}
        rows.append(row)
    rows += [
        {"kind": "classical", **{k: by_name[name][k] for k in ("name", "n", *COMPARED_FIGURES)}}
        for name in metrics.CLASSICAL
    ]
    args.described = result["data"]
    return rows


def verdict(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For each peer: FaceEraser's figure less the peer's, with their spread over seeds, and what it costs beside it."""
    own = rows[0]
    against = {}
    for row in rows[1:]:
        if row["kind"] == "int8":
            apart = {key: round(own[key] - row[key], 4) for key in COMPARED_FIGURES}
            spread = {key: round(float(np.hypot(own["std"][key], row["std"][key])), 4) for key in COMPARED_FIGURES}
            costs = {f"{key}_ratio": round(own[key] / row[key], 3) for key in ("gmacs", "params", "bytes", "ms")}
            against[row["name"]] = {"difference": apart, "std": spread, **costs}
    return against


def plot(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Shading and texture against MACs, milliseconds and bytes, a point each, with its spread over seeds."""

    def draw(axis: Any, cost: str, unit: float, score: str) -> None:
        for row in rows:
            if row["kind"] == "int8":
                colour = "#1f5fbf" if row["name"] == "faceeraser" else "#c0392b"
                axis.errorbar(row[cost] / unit, row[score], row["std"][score], fmt="o", color=colour, capsize=3)
                axis.annotate(row["name"], (row[cost] / unit, row[score]), xytext=(6, 5), textcoords="offset points")
            elif row["name"] == "navier_stokes":
                axis.axhline(row[score], color="#555555", linestyle=":", linewidth=1)
        axis.margins(x=0.45, y=0.15)

    plots.plot_by_cost(file, "The paper's network and its peers through one chain, int8 files; dotted: Navier-Stokes", draw)


def run(args: Namespace) -> None:
    if args.seeds < 1:
        raise ValueError(f"--seeds {args.seeds}: expected at least 1")
    train_all(args)
    rows = measured(args)
    result = results.result(rows, args.described, args.command) | {"faceeraser_against": verdict(rows)}
    if args.json:
        results.write_result(args.json, result)
    if args.plot:
        plot(rows, args.plot)
    shown = ("name", *COMPARED_FIGURES, "gmacs", "params", "bytes", "ms", "steps", "seeds")
    script.finish("int8 files, one chain", [{k: row.get(k) for k in shown} for row in rows], result)


def build_parser() -> ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder made by train/prepare.py")
    parser.add_argument("--target", type=Path, default=Path("runs/peers"), help="default: %(default)s")
    parser.add_argument("--width", type=int, default=16, help="channels of the first layer (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, nargs=5, default=[60, 200, 100, 60, 20], metavar="N",
        help="training steps for the first network, colour, texture, pruning and quantization (default: 60 200 100 60 20)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=2, help="default: %(default)s")
    script.add_json(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw shading and texture against cost in this file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

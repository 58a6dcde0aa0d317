"""Budget in, model out: prune, slim, quantize and export until a network fits, distilling from the one it started as.

    python compress/fit_budget.py runs/fp32 runs/mobile --data data/faces --max-gmacs 1.75 --max-mb 1 --max-drop 0.2

Where to take channels is measured, not guessed: what it does to the pictures, the flow and the edges to take a quarter of
each layer's channels, and, between the three networks, what half of one costs after some fine-tuning (prune.py). Each
round takes an equal share of what is still too much, then the scale factors decide on the rest (slim.py), then the network
is distilled as it is (distil.py), then it becomes int8 (quantize.py), and the file is exported and measured: its bytes, its
figures against SOURCE's on a slice of train and, with --max-ms, its time. After each round a table says what it left,
which budget is asked for, and how many steps and minutes are to go.

TARGET holds `slim`, `student` (the last float network), `int8`, the exported `int8.tflite` with its card, and
`budget.json`: every round with what it cost and what it left. Exit code 1 says which budget is not met and by how much;
TARGET is then left as TARGET.partial. --resume keeps the rounds there that the same command would make again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.files import sha256_of
from faceeraser.measurement import metrics
from faceeraser.model import checkpoint, inference
from faceeraser.model.networks import Inpainter, cost_of
from faceeraser.model.pairs import data_of, evaluation_pairs
from faceeraser.model.planner import PatchEraser
from faceeraser.system import chain, script, writing
from faceeraser.system.history import read_history
from faceeraser.system.writing import write_json
from faceeraser.training.channels import Budget, least_cost

ROOT = Path(__file__).resolve().parent.parent
# What an int8 .tflite weighs beside its parameters: Canny's and the fill's operators, scales, names, and layers that stay in
# float, which are chosen late (from 435,000 to 508,000 were seen); of one that paints by a plan, without Canny and with less
# in float, from 228,000 to 233,000.
GRAPH_BYTES = {PatchEraser: 250_000, Inpainter: 520_000}
# dB by which an int8 file was better than its student, at the most: fine-tuning goes on while it is quantized (measured).
GIVEN_BACK = 0.2
SLIM_SHARE = 0.12  # of the MACs, left for the scale factors to decide on
ROUND_FIGURES = ("gmacs", "params", *metrics.HOLE_FIGURES)


def build_parser() -> argparse.ArgumentParser:
    parser = script.stage_parser(__file__, __doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder made by train/prepare.py")
    parser.add_argument("--max-gmacs", type=float, help="largest number of multiply-accumulates, in 10^9 at 256 x 256")
    parser.add_argument("--max-params", type=int, help="largest number of parameters")
    parser.add_argument("--max-mb", type=float, help="largest size of the int8 .tflite in megabytes (10^6 bytes)")
    parser.add_argument(
        "--max-ms", type=float, help="longest time of the int8 .tflite on this machine, one thread, in milliseconds"
    )
    parser.add_argument("--runtime", default="litert", choices=("litert", "tflite-runtime"), help="default: %(default)s")
    parser.add_argument("--max-drop", type=float, default=0.2, help="how many dB the file may lose (default: %(default)s)")
    parser.add_argument(
        "--max-texture", type=float, default=0.1, help="how far texture_energy may move (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=2, help="number of pruning rounds (default: %(default)s)")
    parser.add_argument(
        "--drop-blocks", type=int, default=0, metavar="N", help="residual blocks to remove first, as in prune.py"
    )
    parser.add_argument(
        "--trial-steps", type=int, default=100, help="steps of each of prune.py's trials (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=1000, help="fine-tuning steps of each round (default: %(default)s)")
    parser.add_argument(
        "--distil-steps", type=int, default=2000, help="training steps of the student (default: %(default)s)"
    )
    parser.add_argument("--qat-steps", type=int, default=250, help="training steps of quantization (default: %(default)s)")
    parser.add_argument("--qat-lr", type=float, default=1e-4, help="learning rate of quantization (default: %(default)s)")
    parser.add_argument("--distil-features", type=float, default=0.0, metavar="SHARE", help="as in prune.py")
    parser.add_argument("--size", type=int, help="prune and slim at this edge length (default: half the network's)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--resume", action="store_true", help="continue a run that was stopped or missed its budget")
    return parser


def budget_of(args: argparse.Namespace, pipeline: Inpainter) -> Budget:
    """What the float network may cost, from all that was asked for. Raises ValueError when nothing can be meant by it."""
    asked = [("--max-gmacs", args.max_gmacs), ("--max-params", args.max_params), ("--max-mb", args.max_mb)]
    for name, value in [*asked, ("--max-ms", args.max_ms)]:
        if value is not None and value <= 0:
            raise ValueError(f"{name} {value}: expected a number above 0")
    if all(value is None for _, value in asked):
        raise ValueError("no budget given: use --max-gmacs, --max-params or --max-mb (--max-ms is checked in addition)")
    params = [args.max_params] if args.max_params is not None else []
    if args.max_mb is not None:
        graph = next(size for kind, size in GRAPH_BYTES.items() if isinstance(pipeline, kind))
        room = args.max_mb * 1e6 - graph
        if room <= 0:
            raise ValueError(f"--max-mb {args.max_mb}: the graph alone takes {graph / 1e6} MB, expected more")
        params.append(int(room))
    return Budget(args.max_gmacs, min(params) if params else None)


def path_to(budget: Budget, cost: tuple[float, int], rounds: int) -> list[Budget]:
    """The budget of each round of pruning: equal shares of what is too much, leaving some for slimming."""

    def between(now: float, end: float | None, k: int) -> float | None:
        if end is None or now <= end:
            return None
        return now * (end / (1 - SLIM_SHARE) / now) ** (k / rounds) if now * (1 - SLIM_SHARE) > end else now

    steps = []
    for k in range(1, rounds + 1):
        params = between(cost[1], budget.params, k)
        step = Budget(between(cost[0], budget.gmacs, k), None if params is None else round(params))
        steps.append(step)
    return steps


def flags_of(budget: Budget) -> list[str]:
    """A budget as prune.py and slim.py are told it."""
    return [
        *(["--target-gmacs", str(budget.gmacs)] if budget.gmacs else []),
        *(["--target-params", str(budget.params)] if budget.params else []),
    ]


def row_of(folder: Path, name: str) -> dict[str, Any]:
    """What a stage left: its costs and figures, and the seconds that its last fine-tuning took."""
    figures = read_history(folder)[-1]["metrics"]
    return {"round": name, **{key: figures["after"][key] for key in ROUND_FIGURES}, "seconds": figures.get("seconds")}


def exported(file: Path, args: argparse.Namespace, resolution: int) -> dict[str, Any]:
    """The file's own figures, on the same slice of train as the stages'."""
    model = Artifact(file)
    look = evaluation_pairs(args.data, "tune", resolution, 24)
    row = metrics.score(model.erase, look).row
    return {
        "gmacs": model.card["gmacs"],
        "params": model.card["params"],
        "bytes": model.card["bytes"],
        **{name: row[name] for name in metrics.HOLE_FIGURES},
    }


def misses(args: argparse.Namespace, source: dict[str, Any], file: dict[str, Any]) -> list[str]:
    """Every budget that the exported file does not meet, and by how much."""
    missed = []
    limits = (
        ("gmacs", args.max_gmacs, 1, "GMAC"),
        ("params", args.max_params, 1, "parameters"),
        ("bytes", args.max_mb, 1e6, "MB"),
        ("ms", args.max_ms, 1, "ms"),
    )
    for key, limit, unit, name in limits:
        if limit is not None and file[key] / unit > limit:
            missed.append(f"{file[key] / unit:.3f} {name} are {file[key] / unit - limit:.3f} over {limit}")
    for key in metrics.HOLE_FIGURES[:2]:
        drop = source[key] - file[key]
        if drop > args.max_drop:
            missed.append(f"{key} fell by {drop:.3f} dB, {drop - args.max_drop:.3f} more than --max-drop {args.max_drop}")
    key = metrics.HOLE_FIGURES[2]
    if source[key] is not None and abs(moved := file[key] - source[key]) > args.max_texture:
        missed.append(f"{key} moved by {moved:+.3f}, more than --max-texture {args.max_texture}")
    return missed


def unchanged(work: Path, source: Path, plan: Mapping[str, Sequence[str]]) -> set[str]:
    """The rounds of a broken-off run that the same command made: up to the first one whose command is another now.

    The folders of later ones are removed: each round starts from what the one before it left.
    """
    file = work / "plan.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    plan = {"source": [sha256_of(source / "generators.safetensors")], **plan}
    kept: set[str] = set()
    stale = before.get("source") != plan["source"]
    for name, command in list(plan.items())[1:]:
        stale = stale or not (work / name).is_dir() or before.get(name) != list(command)
        if not stale:
            kept.add(name)
        elif (work / name).is_dir():
            print(f"{name}: made by another command, or after a round that was; made again")
            shutil.rmtree(work / name)
    write_json(file, plan)
    return kept


def planned(
    args: argparse.Namespace, budget: Budget, cost: tuple[float, int], resolution: int, work: Path
) -> dict[str, list[str]]:
    """The rounds in order, {name of the folder: the words of its command}; cost and resolution are the source's."""
    taught = [
        "--data",
        str(args.data),
        "--teacher",
        str(args.source),
        "--seed",
        str(args.seed),
        "--distil-features",
        str(args.distil_features),
    ]
    half = ["--size", str(args.size or resolution // 2)]
    plan: dict[str, list[str]] = {}
    last = args.source

    def then(name: str, script: str, *flags: str) -> None:
        nonlocal last
        plan[name] = [f"compress/{script}.py", str(last), str(work / name), *taught, *half, *flags]
        last = work / name

    for number, goal in enumerate(path_to(budget, cost, args.rounds), 1):
        if goal.gmacs is None and goal.params is None:
            continue
        blocks = ["--drop-blocks", str(args.drop_blocks)] if args.drop_blocks and not plan else []
        goal_flags = ["--allocate", "sensitivity", *flags_of(goal), "--rounds", "1", "--trial-steps", str(args.trial_steps)]
        then(f"{number}-pruned", "prune", *goal_flags, *blocks, "--steps", str(args.steps))
    then("slim", "slim", *flags_of(budget), "--steps", str(args.steps))
    then("student", "distil", "--steps", str(args.distil_steps))
    then("int8", "quantize", "--steps", str(args.qat_steps), "--lr", str(args.qat_lr))
    return plan


def check_source(args: argparse.Namespace, budget: Budget, pipeline: Inpainter) -> None:
    """Raises ValueError when nothing is to be done with SOURCE's network, or nothing can be."""
    if pipeline.config.quantized or pipeline.config.preset == "paper":
        kind = "quantized already" if pipeline.config.quantized else "of the paper preset, which cannot become int8"
        raise ValueError(f"{args.source} is {kind}; start from a float network of the mobile preset")
    if budget.holds(cost_of(pipeline)):
        raise ValueError(f"{args.source} is already within {budget}; use compress/quantize.py to make it int8")
    if not budget.holds(least := least_cost(pipeline, args.drop_blocks)):
        raise ValueError(
            f"{budget}: no network of this structure is that small; the narrowest has {least[0]:.3f} GMAC and "
            f"{least[1]:,} parameters; raise the budget, remove blocks (--drop-blocks), or train with --separable"
        )


def train(args: argparse.Namespace, budget: Budget, pipeline: Inpainter, work: Path) -> list[dict[str, Any]]:
    """All rounds but those that were kept, up to the int8 network; returns the table's rows, `source` first."""
    plan = planned(args, budget, cost_of(pipeline), pipeline.config.resolution, work)
    kept = unchanged(work, args.source, plan)
    began = inference.measure(pipeline, evaluation_pairs(args.data, "tune", pipeline.config.resolution, 24))
    rows: list[dict[str, Any]] = [{"round": "source", **{key: began[key] for key in ROUND_FIGURES}}]
    steps = {name: int(command[command.index("--steps") + 1]) for name, command in plan.items()}
    done, spent = 0, 0.0
    for number, (name, command) in enumerate(plan.items(), 1):
        if name == "int8":
            give_up_early(args, rows[0], rows[-1], work)
        at = time.monotonic()
        if name not in kept:
            chain.run_all([command], ROOT)
            done, spent = done + steps[name], spent + time.monotonic() - at
        rows.append(row_of(work / name, name))
        ahead = sum(list(steps.values())[number:])
        left = f"{ahead:,} steps to go" + (f", about {ahead * spent / done / 60:.0f} minutes" if done else "")
        print(f"\nround {number} of {len(plan)} is done; {left}; asked for: {budget}, --max-drop {args.max_drop}")
        print(tabulate(rows, headers="keys", floatfmt=".3f", intfmt=","), flush=True)
    return rows


def export(args: argparse.Namespace, resolution: int, work: Path) -> dict[str, Any]:
    """Write `int8.tflite` from the last round, and measure it: its row."""
    command = ["export/to_tflite.py", str(work / "int8"), str(work), "--data", str(args.data), "--overwrite"]
    chain.run_all([command], ROOT)
    file = exported(work / "int8.tflite", args, resolution)
    if args.max_ms is not None:
        timed = work / "latency.json"
        command = ["benchmarks/latency.py", str(work / "int8.tflite"), "--runtimes", args.runtime, "--json", str(timed)]
        chain.run_all([command], ROOT)
        file["ms"] = json.loads(timed.read_text())["rows"][0]["median_ms"]
    return file


def run(args: argparse.Namespace) -> None:
    if args.rounds < 1:
        raise ValueError(f"--rounds {args.rounds}: expected at least 1")
    pipeline = checkpoint.load(args.source)
    budget = budget_of(args, pipeline)
    described = data_of(args.data)
    if not described["n"]["val"]["blanks"]:
        raise ValueError(f"{args.data}: has no validation split to prove the result on; prepare more photographs")
    writing.check_free(args.target, args.overwrite)
    check_source(args, budget, pipeline)
    with writing.whole_folder(args.target, args.overwrite, args.resume) as work:
        rows = train(args, budget, pipeline, work)
        file = export(args, pipeline.config.resolution, work)
        missed = misses(args, rows[0], file)
        rows.append({"round": "int8.tflite", **file})
        asked = {name: getattr(args, f"max_{name}") for name in ("gmacs", "params", "mb", "ms", "drop", "texture")}
        write_json(work / "budget.json", {"asked": asked, "missed": missed, "rows": rows})
        if missed:
            raise script.GateFailed(f"{'; '.join(missed)}. The result so far is in {work}")
    summary = {"target": str(args.target), "source": described["source"], "asked": asked, "file": file}
    script.finish(f"{args.source} -> {args.target} (on a slice of train; data: {described['source']})", rows, summary)


def give_up_early(args: argparse.Namespace, source: dict[str, Any], student: dict[str, Any], work: Path) -> None:
    """Raises GateFailed when the last float network has lost more than quantization ever gave back (GIVEN_BACK)."""
    for key in metrics.HOLE_FIGURES[:2]:
        if (drop := source[key] - student[key]) > args.max_drop + GIVEN_BACK:
            raise script.GateFailed(
                f"{key} of the student fell by {drop:.3f} dB, --max-drop {args.max_drop} cannot be met by its int8 file; "
                f"give more --steps or --distil-steps, or a larger budget, with --resume. The result so far is in {work}"
            )


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

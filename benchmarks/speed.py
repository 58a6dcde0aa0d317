"""What files of one network cost, at every size they paint and in float, as ratios to the file of the version before.

    python benchmarks/speed.py --previous old/int8.tflite int8_256=exports/int8.tflite int8_512=exports/int8-512.tflite

All take turns in one run of latency.py (LiteRT with XNNPACK), on one thread and on two; `ratio` is to `previous` on one
thread, in the same rounds, and `ratio_2` on two. `isa` beside the hardware names what multiplies: int8 is another thing
with AMX or VNNI than with AVX2 alone. `goals` says which of these hold here: int8_256 at most 0.45 of `previous`,
int8_512 at most 1.0, int8_1024 at most 3.5, int8_256 at most 0.8 of fp32_256. Painting is float in both of these, so files
that only plan (`--output plan`) are compared too: int8_plan at most 0.8 of fp32_plan. Of a plan the membrane and the choice
of windows are float as well; what the convolutions alone take is told by profile_ops.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from faceeraser.artifacts.card import read_card
from faceeraser.measurement import results
from faceeraser.system import chain, script

ROOT = Path(__file__).resolve().parent.parent
GOALS = {
    "int8_256": ("previous", 0.45),
    "int8_512": ("previous", 1.0),
    "int8_1024": ("previous", 3.5),
    "int8_256 against fp32_256": ("fp32_256", 0.8),
    "int8_plan against fp32_plan": ("fp32_plan", 0.8),
}
"""{row, or row against another: (the other, the most of its time)}."""


def build_parser() -> ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("--previous", type=Path, required=True, metavar="FILE", help="the file to beat")
    parser.add_argument("models", nargs="+", metavar="NAME=FILE", help=".tflite files with their cards")
    parser.add_argument(
        "--runs", type=int, default=50, help="number of timed runs, all rounds together (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=10, help="default: %(default)s")
    script.add_json(parser)
    return parser


def timed(files: dict[str, Path], threads: int, args: Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """latency.py's rows by name."""
    result = folder / f"{threads}.json"
    named = [f"{name}={path}" for name, path in files.items()]
    chain.run_all(
        [
            [
                "benchmarks/latency.py",
                *named,
                "--runtimes",
                "litert",
                "--threads",
                str(threads),
                "--runs",
                str(args.runs),
                "--rounds",
                str(args.rounds),
                "--json",
                str(result),
            ]
        ],
        ROOT,
    )
    return {row["model"]: row for row in json.loads(result.read_text())["rows"]}


def goals_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each goal whose rows are there: what was found, what is asked, and whether it is met."""
    by_name = {row["name"]: row for row in rows}
    goals = []
    for goal, (other, most) in GOALS.items():
        name = goal.split(" ")[0]
        if name in by_name and other in by_name:
            ratio = by_name[name]["ratio"] / by_name[other]["ratio"]
            goals.append({"goal": f"{name} / {other}", "found": round(ratio, 3), "at_most": most, "met": ratio <= most})
    return goals


def run(args: Namespace) -> None:
    named = dict(model.split("=", 1) if "=" in model else (Path(model).stem, model) for model in args.models)
    files = {"previous": args.previous, **{name: Path(path) for name, path in named.items()}}
    cards = {name: read_card(path) for name, path in files.items()}
    with tempfile.TemporaryDirectory() as folder:
        single, double = (timed(files, threads, args, Path(folder)) for threads in (1, 2))
    rows = [
        {
            "name": name,
            "file": results.portable(files[name]),
            "painted": card["resolution"],
            "precision": card["precision"],
            "ms": single[name]["median_ms"],
            "ms_2": double[name]["median_ms"],
            "ratio": single[name]["ratio"],
            "ratio_2": double[name]["ratio"],
            "gmacs": card["gmacs"],
            "params": card["params"],
            "bytes": card["bytes"],
            "ops": sum(card["checked"]["operators"].values()),
        }
        for name, card in cards.items()
    ]
    goals = goals_of(rows)
    result = {**results.result(rows, {"name": None, "n": 0, "eval_sha256": None}, args.command), "goals": goals}
    if args.json:
        results.write_result(args.json, result)
    for goal in goals:
        met = "met" if goal["met"] else "NOT met"
        print(f"{goal['goal']}: {goal['found']:.3f}, at most {goal['at_most']:g} asked: {met}")
    script.finish(f"LiteRT on {result['hardware']['cpu']} ({result['hardware']['isa']})", rows, result)


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

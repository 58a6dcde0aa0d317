"""What each part of the compression chain gives: the chain's rows, a control, the options that it did not take, an ablation.

    python benchmarks/compression.py runs/release --json benchmarks/results/compression.json --plot docs/compression.png

RELEASE is the folder that release.py leaves: its rows (fp32, pruned, slim, student, int8) are taken from there, with their
figures on all validation pairs, bytes and milliseconds. What is trained here, below --target:

- `scratch`: the student's very architecture with random weights, the same teacher, and as many steps as the whole chain took
  (its trials and its quantization too), once a seed. Measured on all validation pairs, like the chain.
- options, from random weights with the teacher, equally long each: the mobile network as it is, separable convolutions,
  fewer blocks, the edge and the clone network at full size.
- an ablation from `fp32`, at equal MACs and equal steps: prune, slim, both; each with the teacher and without; where
  the channels go; distilled features; a teacher that goes on training; at the end quantization after training and in
  training. Each with every seed; figures on the slice of train that decisions are made on.

`paper` is the paper's network at width 64, counted and not trained: what all ratios are given against. Runs that are there
already are kept, so the list may be broken off and gone on with. The plot has published ratios beside our own points.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from faceeraser.measurement import metrics, plots, results
from faceeraser.measurement.seeds import mean_and_spread
from faceeraser.model import checkpoint
from faceeraser.model.config import Config
from faceeraser.model.networks import FaceEraser, cost_of
from faceeraser.system import chain, script
from faceeraser.system.history import read_history

ROOT = Path(__file__).resolve().parent.parent
CHAIN = ("fp32", "pruned", "slim", "student", "int8")
# Who, how many times fewer MACs and parameters than their own start, where it is told.
PUBLISHED = (
    ("OMGD, online distillation", 40.3, 82.5, "Ren et al. 2021, arXiv:2108.06908: Pix2Pix, U-Net generator"),
    ("GAN Slimming, 8 bit", 47.1, None, "Wang et al. 2020, arXiv:2008.11062: CartoonGAN, model size"),
)
OPTIONS: dict[str, tuple[str, ...]] = {
    "mobile as it is": (),
    "separable convolutions": ("--separable",),
    "4 blocks of 8": ("--blocks", "4"),
    "1 block of 8": ("--blocks", "1"),
    "edge and clone at full size": ("--without", "halving"),
}


def steps_of(history: Sequence[Mapping[str, Any]]) -> int:
    """All fine-tuning steps of a chain's stages, the trials of prune.py included (four networks each)."""
    stages = [entry for entry in history if entry["stage"] in ("prune", "slim", "distil", "quantize")]
    return sum(int(e["options"]["steps"]) + 4 * int(e["options"].get("trial_steps") or 0) for e in stages)


def commands(args: Namespace) -> dict[tuple[str, str, int], list[str]]:
    """{(kind, what, seed): command} in the order to run them."""
    release, target = args.release, args.target
    fp32, chain = release / "fp32", release / "small"
    half = ["--size", str(args.size)]
    taught = ["--teacher", str(fp32)]
    plan: dict[tuple[str, str, int], list[str]] = {}

    def add(kind: str, what: str, seed: int, script: str, source: Path, *flags: str) -> Path:
        """Plan one run, and return its folder."""
        folder: Path = target / f"{kind}-{''.join(c if c.isalnum() else '-' for c in what)}-{seed}"
        data = [] if script.startswith("train/") else ["--data", str(args.data)]
        few = [] if kind == "control" else ["--limit", str(args.limit)]
        plan[kind, what, seed] = [script, str(source), str(folder), *data, *half, *few, "--seed", str(seed), *flags]
        return folder

    whole = round(steps_of(read_history(chain / "int8")) * args.scale)
    steps, long = str(args.steps), str(args.option_steps)
    to = ["--target-gmacs", str(args.gmacs)]
    part = ["--target-gmacs", str(args.gmacs * 1.25)]
    for seed in range(args.seeds):
        again = ["--scratch", "--steps", str(whole), "--lr", "1e-3", "--distil-features", "0.1", *taught]
        add("control", "scratch", seed, "compress/distil.py", chain / "student", *again)
        teacher: list[str]
        for teacher in (taught, []):
            name = "taught" if teacher else "untaught"
            once = ["--rounds", "1"]
            add("ablation", f"prune, {name}", seed, "compress/prune.py", fp32, *to, *once, "--steps", steps, *teacher)
            add("ablation", f"slim, {name}", seed, "compress/slim.py", fp32, *to, "--steps", steps, *teacher)
            first = ["--steps", str(args.steps // 2), *teacher]
            step = add("part", f"prune first, {name}", seed, "compress/prune.py", fp32, *part, *once, *first)
            add("ablation", f"prune + slim, {name}", seed, "compress/slim.py", step, *to, *first)
        more = [*to, "--rounds", "1", "--steps", steps, *taught]
        where = ["--allocate", "sensitivity", "--trial-steps", str(args.steps // 4)]
        add("ablation", "prune by sensitivity, taught", seed, "compress/prune.py", fp32, *more, *where)
        add("ablation", "prune, taught features too", seed, "compress/prune.py", fp32, *more, "--distil-features", "0.1")
        add("ablation", "prune, taught online", seed, "compress/prune.py", fp32, *more, "--online")
        student = chain / "student"
        for floats in ("auto", "least"):
            for name, count_of in (("after training", "0"), ("in training", steps)):
                options = ["--keep-float", floats, "--steps", count_of, *taught]
                what = f"int8 {name}, {'float tail' if floats == 'auto' else 'all int8'}"
                add("ablation", what, seed, "compress/quantize.py", student, *options)
    aims = [*chain.FOR_COPIES, "--perceptual", "off", "--texture", "0", "--edge-l1", "0.1", "--adversarial", "0"]
    for what, changed in OPTIONS.items():
        phase = ["--phase", "all", "--shrink", "1", *aims, *taught, "--steps", long, *changed]
        add("option", what, 0, "train/train.py", args.data, *phase)
    return plan


def trained(plan: Mapping[tuple[str, str, int], Sequence[str]]) -> list[dict[str, Any]]:
    """A row for each option and variant of the ablation: means over the seeds, and the standard deviation `std`;
    none where a seed is missing.
    """
    planned: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for (kind, what, _seed), command in plan.items():
        if kind in ("option", "ablation"):
            planned[kind, what].append(Path(command[2]))
    entries_of = {
        name: [read_history(folder)[-1] for folder in folders]
        for name, folders in planned.items()
        if all(folder.is_dir() for folder in folders)
    }
    rows = []
    for (kind, what), entries in entries_of.items():
        after = [entry["metrics"].get("after", entry["metrics"]) for entry in entries]
        row: dict[str, Any] = {"name": f"{kind}: {what}", "kind": kind, "list": "tune", "seeds": len(after)}
        means, spread = mean_and_spread(after, (*metrics.HOLE_FIGURES, "gmacs", "params", "flow_in_hole"))
        row |= {**means, "std": {key: spread[key] for key in metrics.HOLE_FIGURES}}
        options, source = entries[0]["options"], Path(plan[kind, what, 0][1])
        before = [Path(command[2]) for (part, *_), command in plan.items() if part == "part"]
        steps = options["steps"] + (read_history(source)[-1]["options"]["steps"] if source in before else 0)
        rows.append({**row, "steps": steps, "size": options["size"], "n": after[0]["n"]})
        if kind == "option":  # trained at half the size with nothing shrunk, to be run at 256 with the same to be seen
            network = checkpoint.load(Path(plan[kind, what, 0][2]))
            network.config = replace(network.config, shrink=network.config.shrink * 256 // options["size"])
            rows[-1]["gmacs"] = round(cost_of(network)[0], 4)
    return rows


def of_chain(args: Namespace, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows `paper` and the chain's, with what each stage took away and which weights it came from."""
    gmacs, params = cost_of(FaceEraser(Config.of("paper"), 64))
    note = "the paper preset at width 64, counted; not trained"
    rows: list[dict[str, Any]] = [
        {"name": "paper", "kind": "chain", "gmacs": round(gmacs, 3), "params": params, "note": note}
    ]
    named = {row["name"]: row for row in result["rows"]}
    history = read_history(args.release / "small" / "int8")
    stages = {"pruned": "prune", "slim": "slim", "student": "distil", "int8": "quantize"}
    before = None
    for name in CHAIN:
        row = {**named[name], "kind": "chain", "list": "eval"}
        entry = next((e for e in reversed(history) if e["stage"] == stages.get(name)), None)
        if entry is not None:
            row |= {key: entry[key] for key in ("sha256", "parent_sha256")}
            row |= {"steps": entry["options"]["steps"]} | {key: entry.get(key) for key in ("float_layers", "costs", "harm")}
            row["gmacs_taken"] = round(before["gmacs"] - row["gmacs"], 4) if before else None
        before = row
        rows.append({key: value for key, value in row.items() if value is not None})
    return rows


def ratios(rows: Sequence[dict[str, Any]]) -> None:
    """Add to every row what it costs and scores against `paper` and `fp32`."""
    paper, fp32 = rows[0], rows[1]
    for row in rows:
        if row.get("gmacs"):
            row["fewer_macs_than_paper"] = round(paper["gmacs"] / row["gmacs"], 1)
            row["fewer_params_than_paper"] = round(paper["params"] / row["params"], 1)
            row["fewer_macs_than_fp32"] = round(fp32["gmacs"] / row["gmacs"], 2)
            row["fewer_params_than_fp32"] = round(fp32["params"] / row["params"], 2)
        if row.get("list") == "eval" and row is not fp32:
            row["against_fp32"] = {key: round(row[key] - fp32[key], 4) for key in metrics.HOLE_FIGURES}


def verdict(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The goals of the chain, each with what was measured and whether it is met."""
    named = {row["name"]: row for row in rows}
    int8, student, fp32 = named["int8"], named["student"], named["fp32"]
    scratch = [row for row in rows if row["kind"] == "control"]
    goals: dict[str, Any] = {}

    def goal(name: str, value: float, met: bool) -> None:
        goals[name] = {"measured": round(value, 4), "met": bool(met)}

    goal("at least 80 times fewer MACs than paper", int8["fewer_macs_than_paper"], int8["fewer_macs_than_paper"] >= 80)
    goal("at most 0.5 M parameters", int8["params"], int8["params"] <= 5e5)
    goal("at most 1 MB", int8["bytes"], int8["bytes"] <= 1e6)
    for key in metrics.HOLE_FIGURES[:2]:
        change = int8[key] - fp32[key]
        goal(f"{key}: between 0.2 dB less and 0.1 dB more than fp32", change, -0.2 <= change <= 0.1)
        below = int8[key] - student[key]
        goal(f"{key}: at most 0.05 dB below student", below, below >= -0.05)
    moved = int8[metrics.HOLE_FIGURES[2]] - fp32[metrics.HOLE_FIGURES[2]]
    goal("texture_energy moved by at most 0.1", moved, abs(moved) <= 0.1)
    for key in metrics.HOLE_FIGURES[:2]:
        if not scratch:
            goals[f"{key}: above scratch by more than its spread over seeds"] = {"measured": None, "met": None}
            continue
        values = [row[key] for row in scratch]
        spread = max(values) - min(values)
        gain = int8[key] - float(np.mean(values))
        goal(f"{key}: above scratch by more than its spread over seeds ({spread:.3f})", gain, gain > spread)
    return goals


def plot(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Shading and texture against MACs, milliseconds and bytes, with what others took away marked."""
    paper = next(row for row in rows if row["name"] == "paper")
    marks = {"chain": ("o", "#1f5fbf"), "control": ("s", "#c0392b")}

    def draw(axis: Any, cost: str, unit: float, score: str) -> None:
        for row in rows:
            # Options and ablations are measured on another list and trained for less: their own figure is the JSON.
            if row["kind"] in marks and row.get(cost) and row.get(score):
                mark, colour = marks[row["kind"]]
                axis.plot(row[cost] / unit, row[score], mark, color=colour, markersize=8)
                axis.annotate(row["name"], (row[cost] / unit, row[score]), xytext=(6, 5), textcoords="offset points")
        if cost == "gmacs":
            axis.set_xscale("log")
            axis.axvline(paper["gmacs"], color="#555555", linestyle=":")
            told_at = {"xycoords": ("data", "axes fraction"), "rotation": 90, "ha": "right", "fontsize": 8}
            axis.annotate("paper, width 64", (paper["gmacs"], 0.03), **told_at)
            for name, fewer, _params, _source in PUBLISHED:
                axis.axvline(paper["gmacs"] / fewer, color="#b8860b", linestyle="--", linewidth=1)
                axis.annotate(f"{name}: {fewer:.0f} x", (paper["gmacs"] / fewer, 0.03), **told_at)

    title = "Each stage of the chain, and its architecture from scratch; dashed: what others took away from theirs"
    plots.plot_by_cost(file, title, draw)


def run(args: Namespace) -> None:
    source = args.release / "result.json"
    if not source.is_file() or not (args.release / "small" / "int8").is_dir():
        raise ValueError(f"{args.release}: expected what benchmarks/release.py leaves, with result.json and small/int8")
    args.data = args.release / "faces"
    result = results.read_result(source)
    plan = commands(args)
    # What continues another run comes after all the others.
    for later in () if args.no_training else (False, True):
        left = [command for command in plan.values() if not Path(command[2]).exists()]
        now = [command for command in left if (Path(command[1]).parent == args.target) == later]
        chain.run_all(now, ROOT, independent=True)
    measured, control_rows = args.target / "scratch.json", []
    controls = {seed: command[2] for (kind, _what, seed), command in plan.items() if kind == "control"}
    scratch = [f"scratch-{seed}={folder}" for seed, folder in controls.items() if Path(folder).is_dir()]
    if scratch:
        command = ["--reference", str(args.release / "fp32"), "--data", str(args.data), "--json", str(measured)]
        chain.run_all([["benchmarks/fidelity.py", *scratch, *command]], ROOT)
        control_rows = [row for row in results.read_result(measured)["rows"] if row["name"].startswith("scratch")]
    rows = of_chain(args, result)
    for row in control_rows:
        command = plan["control", "scratch", int(row["name"].split("-")[1])]
        rows.append({**row, "kind": "control", "list": "eval", "steps": int(command[command.index("--steps") + 1])})
    rows += trained(plan)
    for name, macs, params, origin in PUBLISHED:
        rows.append({"name": name, "kind": "published", "fewer_macs": macs, "fewer_params": params, "source": origin})
    ratios(rows)
    goals = verdict(rows)
    whole = results.result(rows, result["data"], args.command) | {"goals": goals}
    if args.json:
        results.write_result(args.json, whole)
    if args.plot:
        plot(rows, args.plot)
    shown = ("name", *metrics.HOLE_FIGURES, "gmacs", "params", "bytes", "ms", "fewer_macs_than_paper", "steps")
    script.finish(str(args.release), [{key: row.get(key) for key in shown} for row in rows], {"goals": goals})
    if missed := [name for name, goal in goals.items() if not goal["met"]]:
        measures = {name: "not measured" if goals[name]["met"] is None else goals[name]["measured"] for name in missed}
        raise script.GateFailed("; ".join(f"{name}: {value}" for name, value in measures.items()))


def build_parser() -> ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("release", type=Path, metavar="RELEASE", help="folder that benchmarks/release.py made")
    parser.add_argument("--target", type=Path, default=Path("runs/compression"), help="default: %(default)s")
    parser.add_argument("--size", type=int, default=128, help="train at this edge length (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="of each run of the ablation (default: %(default)s)")
    parser.add_argument("--option-steps", type=int, default=100, help="of each option (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=400, help="blanks and masks for these (default: %(default)s)")
    parser.add_argument("--gmacs", type=float, default=0.6, help="that the ablation prunes to (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the control's steps (default: %(default)s)")
    parser.add_argument("--no-training", action="store_true", help="leave out what an earlier run did not come to")
    script.add_json(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw shading and texture against cost there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

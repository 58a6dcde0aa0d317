"""What the compression chain gives: its rows, its shape trained from random weights, and slimming in the place of pruning.

    python benchmarks/compression.py runs/release --json benchmarks/results/compression.json --plot docs/compression.png

RELEASE is the folder that release.py leaves: its rows (fp32, pruned, student, int8) are taken from there, with their figures
on all validation pairs, bytes and milliseconds. What is trained here, below --target:

- `scratch`: the student's very shape from random weights, with the same teacher and as many steps as the chain's stages
  took together, once a seed.
- slimming: from `fp32`, with the same teacher and to as many MACs as `pruned`, by three penalties and as many steps as
  pruning took; by the middle one also as long as pruning and distilling.

All are measured on all validation pairs, like the chain.

`paper` is the paper's network at width 64, counted and not trained: what all ratios are given against. Runs and
measurements that are there already are kept, so the list may be broken off and gone on with; --no-training tells what there
is. The plot has published ratios beside our own points.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from faceeraser.artifacts.card import read_card
from faceeraser.measurement import metrics, plots, results
from faceeraser.model.config import Config
from faceeraser.model.networks import FaceEraser, cost_of
from faceeraser.system import chain, script
from faceeraser.system.history import read_history

ROOT = Path(__file__).resolve().parent.parent
STAGES = {"pruned": "prune", "student": "distil", "int8": "quantize"}
"""Row of the chain -> the stage that made it."""
PENALTIES = ("1e-3", "1e-2", "1e-4")
"""Weights of slimming's L1 penalty; the first is also tried for longer."""
# Who, how many times fewer MACs and parameters than their own start, where it is told.
PUBLISHED = (
    ("OMGD, online distillation", 40.3, 82.5, "Ren et al. 2021, arXiv:2108.06908: Pix2Pix, U-Net generator"),
    ("GAN Slimming, 8 bit", 47.1, None, "Wang et al. 2020, arXiv:2008.11062: CartoonGAN, model size"),
)


def entries_of(release: Path) -> dict[str, dict[str, Any]]:
    """{row of the chain: the entry that its stage left in the history}."""
    by_stage = {entry["stage"]: entry for entry in read_history(release / "int8")}
    if missing := [stage for stage in STAGES.values() if stage not in by_stage]:
        raise ValueError(f"{release / 'int8'}: went through no {missing[0]}, expected the chain of benchmarks/release.py")
    return {name: by_stage[stage] for name, stage in STAGES.items()}


def commands(args: Namespace) -> dict[str, list[str]]:
    """{run, which is the name of its folder: the words of its command line}, in the order to run them."""
    release, target = args.release, args.target
    entries = entries_of(release)
    steps = {name: int(entry["options"]["steps"]) for name, entry in entries.items()}
    tuned = ["--data", str(release / "faces"), "--size", "128", "--batch", "16"]
    tuned += ["--teacher", str(release / "fp32"), "--lr", "1e-3"]
    plan: dict[str, list[str]] = {}
    for seed in range(args.seeds):  # distilling leaves the shape as it is, so the student's is that of `pruned`
        name = f"scratch-{seed}"
        words = ["compress/distil.py", str(release / "pruned"), str(target / name), "--scratch", "--seed", str(seed)]
        plan[name] = [*words, *tuned, "--steps", str(sum(steps.values()))]
    lengths = [(penalty, steps["pruned"]) for penalty in PENALTIES]
    gmacs = str(entries["pruned"]["metrics"]["after"]["gmacs"])
    for penalty, length in [*lengths, (PENALTIES[0], steps["pruned"] + steps["student"])]:
        name = f"slim-{penalty}-{length}"
        words = ["compress/slim.py", str(release / "fp32"), str(target / name), *tuned]
        plan[name] = [*words, "--target-gmacs", gmacs, "--sparsity", penalty, "--steps", str(length)]
    return plan


def of_chain(release: Path, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows `paper` and the chain's, with the steps each stage took and its figures on the slice of train (`tune`)."""
    gmacs, params = cost_of(FaceEraser(Config.of("paper"), 64))
    note = "the paper preset at width 64, counted; not trained"
    rows: list[dict[str, Any]] = [
        {"name": "paper", "kind": "chain", "gmacs": round(gmacs, 3), "params": params, "note": note}
    ]
    named = {row["name"]: row for row in result["rows"]}
    entries = entries_of(release)
    rows.append({**named["fp32"], "tune": figures(entries["pruned"]["metrics"]["before"])})
    for name, entry in entries.items():
        row = {**named[name], "steps": entry["options"]["steps"], "tune": figures(entry["metrics"]["after"])}
        rows.append(row | {key: entry[key] for key in ("sha256", "parent_sha256", "float_layers") if key in entry})
    rows[-1]["plan_bytes"] = read_card(release / "exports" / "plan-plan-web.tflite")["bytes"]
    return [row | {"kind": "chain"} | ({"list": "eval"} if "n" in row else {}) for row in rows]


def figures(measured: Mapping[str, Any]) -> dict[str, float]:
    """The three figures of what a stage measured on its slice of train."""
    return {key: measured[key] for key in metrics.HOLE_FIGURES}


def trained(args: Namespace, plan: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """The rows of what was trained here, on all validation pairs; measured where no earlier run did."""
    folders = {name: Path(words[2]) for name, words in plan.items() if Path(words[2]).is_dir()}
    if not folders:
        return []
    measured = args.target / "trained.json"
    known = [row["name"] for row in results.read_result(measured)["rows"]] if measured.is_file() else []
    if not set(folders) <= set(known):
        models = [f"{name}={folder}" for name, folder in folders.items()]
        words = ["--reference", str(args.release / "fp32"), "--data", str(args.release / "faces"), "--json", str(measured)]
        chain.run_all([["benchmarks/fidelity.py", *models, *words]], ROOT)
    named = {row["name"]: row for row in results.read_result(measured)["rows"]}
    rows = []
    for name, folder in folders.items():
        entry = read_history(folder)[-1]
        row = {**named[name], "list": "eval", "tune": figures(entry["metrics"]["after"]), **_how(entry)}
        rows.append(row | {key: entry["options"][key] for key in ("steps", "seed")})
    return rows


def _how(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What kind of row it is; of a slimmed network also its penalty, its figures on the slice of train before fine-tuning
    (`unrepaired`), and the norms' scales.
    """
    if entry["stage"] != "slim":
        return {"kind": "control"}
    options = {key: entry["options"][key] for key in ("sparsity", "share")}
    scales = {key: entry["scales"][key] for key in ("mean_before", "mean_after", "threshold")}
    return {"kind": "slimming", **options, "unrepaired": figures(entry["metrics"]["unrepaired"]), "scales": scales}


def slimming_against_pruning(rows: Sequence[dict[str, Any]]) -> None:
    """Add to every slimmed row its distance from the chain's row of as many steps."""
    pruned, student = (next(row for row in rows if row["name"] == name) for name in ("pruned", "student"))
    for row in rows:
        if row["kind"] == "slimming":
            beside = pruned if row["steps"] == pruned["steps"] else student
            row["beside"] = beside["name"]
            row["against_it"] = {key: round(row[key] - beside[key], 4) for key in metrics.HOLE_FIGURES}


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
    """The goals of the chain, each with what was measured and whether it is met; both None where nothing was measured."""
    named = {row["name"]: row for row in rows}
    int8, student, fp32 = named["int8"], named["student"], named["fp32"]
    scratch = [row for row in rows if row["kind"] == "control"]
    goals: dict[str, Any] = {}

    def goal(name: str, value: float, met: bool) -> None:
        goals[name] = {"measured": round(value, 4), "met": bool(met)}

    goal("at most 0.2 GMAC", int8["gmacs"], int8["gmacs"] <= 0.2)
    goal("at most 0.25 M parameters", int8["params"], int8["params"] <= 2.5e5)
    goal("the file that plans: at most 400 KB", int8["plan_bytes"], int8["plan_bytes"] <= 4e5)
    for key in metrics.HOLE_FIGURES[:2]:
        change = int8[key] - fp32[key]
        goal(f"{key}: between 0.2 dB less and 0.1 dB more than fp32", change, -0.2 <= change <= 0.1)
        below = int8[key] - student[key]
        goal(f"{key}: at most 0.05 dB below student", below, below >= -0.05)
    moved = int8[metrics.HOLE_FIGURES[2]] - fp32[metrics.HOLE_FIGURES[2]]
    goal("texture_energy moved by at most 0.1", moved, abs(moved) <= 0.1)
    for key in metrics.HOLE_FIGURES[:2]:
        if len(scratch) < 2:
            goals[f"{key}: student above scratch by more than its spread over seeds"] = {"measured": None, "met": None}
            continue
        values = [row[key] for row in scratch]
        spread = max(values) - min(values)
        gain = student[key] - float(np.mean(values))
        goal(f"{key}: student above scratch by more than its spread over seeds ({spread:.3f})", gain, gain > spread)
    return goals


def plot(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Shading and texture against MACs, milliseconds and bytes, with what others took away marked."""
    paper = next(row for row in rows if row["name"] == "paper")
    marks = {"chain": ("o", "#1f5fbf"), "control": ("s", "#c0392b"), "slimming": ("^", "#2e8b57")}

    def draw(axis: Any, cost: str, unit: float, score: str) -> None:
        for row in rows:
            if row["kind"] in marks and row.get(cost) and row.get(score):
                mark, colour = marks[row["kind"]]
                axis.plot(row[cost] / unit, row[score], mark, color=colour, markersize=8)
                axis.annotate(row["name"], (row[cost] / unit, row[score]), xytext=(6, 5), textcoords="offset points")
        if cost == "gmacs":
            axis.set_xscale("log")
            axis.axvline(paper["gmacs"], color="#555555", linestyle=":")
            told_at = {"xycoords": ("data", "axes fraction"), "rotation": 90, "ha": "right", "fontsize": 8}
            axis.annotate("paper, width 64", (paper["gmacs"], 0.03), **told_at)
            for (name, fewer, _params, _source), side in zip(PUBLISHED, ("left", "right"), strict=True):
                axis.axvline(paper["gmacs"] / fewer, color="#b8860b", linestyle="--", linewidth=1)
                axis.annotate(f"{name}: {fewer:.0f} x", (paper["gmacs"] / fewer, 0.03), **told_at | {"ha": side})

    title = "Each stage of the chain, and its shape from scratch; dashed: what others took away from theirs"
    plots.plot_by_cost(file, title, draw)


def run(args: Namespace) -> None:
    source = args.release / "result.json"
    if not source.is_file() or not all((args.release / name).is_dir() for name in ("fp32", *STAGES)):
        expected = f"what benchmarks/release.py leaves: result.json, fp32, {', '.join(STAGES)}"
        raise ValueError(f"{args.release}: expected {expected}")
    result = results.read_result(source)
    plan = commands(args)
    if not args.no_training:
        chain.run_all([words for words in plan.values() if not Path(words[2]).exists()], ROOT, independent=True)
    rows = of_chain(args.release, result)
    rows += trained(args, plan)
    slimming_against_pruning(rows)
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
    parser.add_argument("--seeds", type=int, default=3, help="number of networks from scratch (default: %(default)s)")
    parser.add_argument("--no-training", action="store_true", help="leave out what an earlier run did not come to")
    script.add_json(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw shading and texture against cost there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

"""What each part of the recipe gives: one change at a time, the same seed, steps and data, at a scale two cores can afford.

    python benchmarks/ablation.py data/faces --json benchmarks/results/ablation.json
    python benchmarks/ablation.py data/faces --aims plan --seeds 3 --vgg vgg19_16x.safetensors --json ablation_plan.json

Three tables. `aim: fidelity` starts from the edge network and changes one thing of the recipe for colour and shading;
`aim: texture` starts from the first one's `base` and changes one thing of the recipe for cloning. `aim: plan` changes one
thing of the recipe for the network that plans, which ships, with several seeds (`guided.py` says what edges could be worth
to it): a gain is the mean over seeds of the difference to `base` with the same seed, `_low` and `_high` are its 95 %
interval (Student's t). Figures are taken on a slice of train (the `tune` list), since decisions were made by them, at the
size that was trained. Runs that are there already are kept, so the list may be broken off and gone on with.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from faceeraser.measurement import metrics, results
from faceeraser.measurement.seeds import mean_and_spread
from faceeraser.model import pairs
from faceeraser.system import chain, script
from faceeraser.system.history import read_history

ROOT = Path(__file__).resolve().parent.parent
# The words that are added to the recipe's; of a flag that is given twice the last one counts.
FIDELITY: dict[str, tuple[str, ...]] = {
    "base": (),
    "blanks never varied": ("--variety", "masks"),
    "masks never varied": ("--variety", "blanks"),
    "blur and JPEG too": ("--variety", "blanks", "masks", "camera"),
    "blanks left symmetric": ("--symmetric",),
    "no edges": ("--without", "edges"),
    "direct, not residual": ("--without", "residual"),
    "hole not filled first": ("--without", "fill"),
    "clone network at full size": ("--without", "halving"),
    "paper's clone term": ("--clone", "1"),
    "shading in place of L1": ("--l1", "0", "--shading", "1"),
    "30 % whole faces": ("--real", "0.3"),
}
TEXTURE: dict[str, tuple[str, ...]] = {
    "base": (),
    "no texture term": ("--texture", "0"),
    "no landing term": ("--landing", "0"),
    "no coherence term": ("--coherence", "0"),
    "L1 in place of shading": ("--l1", "1", "--shading", "0"),
    "discriminator added": ("--adversarial", "0.002", "--critic-width", "16", "--d-lr", "1e-4"),
    "no whole faces": ("--real", "0"),
}
PLAN: dict[str, tuple[str, ...]] = {
    "base": (),
    "no whole faces": ("--real", "0"),
    "blanks never varied": ("--variety", "masks"),
    "half as wide (16)": ("--width", "16"),
    "half as wide again (48)": ("--width", "48"),
}
GUIDED = "the truth's edges given"
AIMS = ("fidelity", "texture", "plan")
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for a 95 % interval of a mean, by number of seeds."""


def _folder(args: Namespace, aim: str, name: str) -> Path:
    """Where a run is kept."""
    folder: Path = args.target / f"{aim}-{''.join(c if c.isalnum() else '-' for c in name)}"
    return folder


def of_plans(args: Namespace) -> dict[tuple[str, int], list[str]]:
    """{(what was changed, seed): command}."""
    changes = PLAN | {GUIDED: ()}
    if args.vgg:
        changes["perceptual term of the distilled VGG-19"] = (
            "--perceptual", "vgg16x", "--vgg", str(args.vgg), "--perceptual-weight", "0.01", "--style", "0",
        )  # fmt: skip
    usual = ["--phase", "inpaint", "--model", "patches", "--real", "0.5", "--lr", "2e-3", "--width", "32", "--batch", "16"]
    common = ["--size", str(args.size), "--steps", str(args.steps), *usual]
    return {
        (name, seed): [
            "benchmarks/guided.py" if name == GUIDED else "train/train.py",
            str(args.data),
            str(_folder(args, "plan", f"{name}-{seed}")),
            *common,
            *extra,
            "--seed",
            str(seed),
        ]
        for name, extra in changes.items()
        for seed in range(args.seeds)
    }


def rows_of_plans(args: Namespace) -> list[dict[str, Any]]:
    """Train what is not there yet: a row for each change, means over the seeds and gains over `base` with intervals."""
    plan = of_plans(args)
    chain.run_all([command for command in plan.values() if not Path(command[2]).exists()], ROOT)
    measured = {key: read_history(Path(command[2]))[-1]["metrics"] for key, command in plan.items()}
    rows = []
    for name in dict.fromkeys(name for name, _ in plan):
        runs = [measured[name, seed] for seed in range(args.seeds)]
        means, spread = mean_and_spread(runs, (*metrics.HOLE_FIGURES, "gmacs", "params", "seconds"))
        row: dict[str, Any] = {"name": f"plan: {name}", "aim": "plan", "changed": name, **means, "n": runs[0]["n"]}
        row |= {"seeds": args.seeds, "steps": args.steps, "std": {key: spread[key] for key in metrics.HOLE_FIGURES}}
        for key in metrics.HOLE_FIGURES:
            gains = np.array([run[key] - measured["base", seed][key] for seed, run in enumerate(runs)])
            reach = T_95[args.seeds] * gains.std(ddof=1) / np.sqrt(args.seeds)
            interval = {"_gain": gains.mean(), "_low": gains.mean() - reach, "_high": gains.mean() + reach}
            row |= {key + ending: round(float(value), 3) for ending, value in interval.items()}
        rows.append(row)
    return rows


def commands(args: Namespace) -> dict[tuple[str, str], list[str]]:
    """{(aim, what was changed): command}; the edges, which all start from, are ('edge', '')."""
    common = ["--size", str(args.size), "--seed", "0", "--adversarial", "0"]

    def train(target: Path, steps: int, *flags: str) -> list[str]:
        return ["train/train.py", str(args.data), str(target), *common, "--steps", str(steps), *flags]

    edge, start = _folder(args, "edge", ""), _folder(args, "fidelity", "base")
    plan = {("edge", ""): train(edge, 120, "--phase", "edge", "--perceptual", "off", "--edge-l1", "1")}
    for name, extra in FIDELITY.items():
        changed = ["--phase", "inpaint", "--edge", str(edge), *chain.FOR_COLOUR, *extra]
        plan["fidelity", name] = train(_folder(args, "fidelity", name), args.steps, *changed)
    for name, extra in TEXTURE.items():
        changed = ["--phase", "inpaint", "--init", str(start), *chain.FOR_COPIES, *extra]
        plan["texture", name] = train(_folder(args, "texture", name), args.steps, *changed)
    return plan


def run(args: Namespace) -> None:
    if args.seeds not in T_95:
        raise ValueError(f"found --seeds {args.seeds}; expected one of {', '.join(map(str, T_95))}")
    rows = rows_of_plans(args) if "plan" in args.aims else []
    if set(args.aims) - {"plan"}:
        rows += rows_of_v01(args)
    look = pairs.evaluation_pairs(args.data, "tune", args.size, 24)
    for name, scored in metrics.classical_scores(look).items():
        rows.append(
            {"name": name, "aim": "classical", **{key: scored.row[key] for key in metrics.HOLE_FIGURES}, "n": len(look)}
        )
    described = pairs.data_of(args.data)
    data = {key: described[key] for key in ("name", "source", "size", "eval_sha256")} | {"n": len(look), "list": "tune"}
    result = results.result(rows, data, args.command)
    if args.json:
        results.write_result(args.json, result)
    shown = ("name", *metrics.HOLE_FIGURES, *(f"{key}_gain" for key in metrics.HOLE_FIGURES), "flow_in_hole", "gmacs")
    script.finish(f"{args.steps} steps at {args.size} pixels", [{k: row.get(k) for k in shown} for row in rows], result)


def rows_of_v01(args: Namespace) -> list[dict[str, Any]]:
    """The tables of v0.1's network, a row for each change."""
    plan = commands(args)
    chain.run_all([command for command in plan.values() if not Path(command[2]).exists()], ROOT)
    rows: list[dict[str, Any]] = []
    bases: dict[str, dict[str, Any]] = {}
    for (aim, name), command in plan.items():
        entry = read_history(Path(command[2]))[-1]
        if aim == "edge" or aim not in args.aims:
            continue
        figures = {key: entry["metrics"][key] for key in (*metrics.HOLE_FIGURES, "flow_in_hole", "gmacs", "seconds", "n")}
        base = bases.setdefault(aim, figures)
        gains = {
            f"{key}_gain": round(figures[key] - base[key], 3) for key in metrics.HOLE_FIGURES if figures[key] is not None
        }
        rows.append(
            {
                "name": f"{aim}: {name}",
                "aim": aim,
                "changed": name,
                **figures,
                **gains,
                "steps": args.steps,
                "perceptual": entry["options"]["features"],
            }
        )
    return rows


def build_parser() -> ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder made by train/prepare.py")
    parser.add_argument("--target", type=Path, default=Path("runs/ablation"), help="default: %(default)s")
    parser.add_argument("--size", type=int, default=128, help="edge length in pixels (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="training steps of each run (default: %(default)s)")
    parser.add_argument("--aims", nargs="+", choices=AIMS, default=["fidelity", "texture"], help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="of the plan's table (default: %(default)s)")
    parser.add_argument("--vgg", type=Path, metavar="FILE", help="the distilled VGG-19 (vgg16x), for its row of that table")
    script.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

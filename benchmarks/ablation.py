"""What each part of the recipe gives: one change at a time, the same seed, steps and data, at a scale two cores can afford.

    python benchmarks/ablation.py data/faces --json benchmarks/results/ablation.json

Two tables in one result. `aim: fidelity` starts from the edge network and changes one thing of the recipe for colour and
shading; `aim: texture` starts from the first one's `base` and changes one thing of the recipe for cloning. Figures are
taken on a slice of train (the `tune` list), since decisions were made by them, at the size that was trained. Runs that are
there already are kept, so the list may be broken off and gone on with.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faceeraser.measurement import metrics, results
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


def commands(args: Namespace) -> dict[tuple[str, str], list[str]]:
    """{(aim, what was changed): command}; the edges, which all start from, are ('edge', '')."""
    common = ["--size", str(args.size), "--seed", "0", "--adversarial", "0"]

    def folder(aim: str, name: str) -> Path:
        return args.target / f"{aim}-{''.join(c if c.isalnum() else '-' for c in name)}"

    def train(target: Path, steps: int, *flags: str) -> list[str]:
        return ["train/train.py", str(args.data), str(target), *common, "--steps", str(steps), *flags]

    edge, start = folder("edge", ""), folder("fidelity", "base")
    plan = {("edge", ""): train(edge, 120, "--phase", "edge", "--perceptual", "off", "--edge-l1", "1")}
    for name, extra in FIDELITY.items():
        changed = ["--phase", "inpaint", "--edge", str(edge), *chain.FOR_COLOUR, *extra]
        plan["fidelity", name] = train(folder("fidelity", name), args.steps, *changed)
    for name, extra in TEXTURE.items():
        changed = ["--phase", "inpaint", "--init", str(start), *chain.FOR_COPIES, *extra]
        plan["texture", name] = train(folder("texture", name), args.steps, *changed)
    return plan


def run(args: Namespace) -> None:
    plan = commands(args)
    chain.run_all([command for command in plan.values() if not Path(command[2]).exists()], ROOT)
    rows: list[dict[str, Any]] = []
    bases: dict[str, dict[str, Any]] = {}
    for (aim, name), command in plan.items():
        entry = read_history(Path(command[2]))[-1]
        if aim == "edge":
            continue
        figures = {key: entry["metrics"][key] for key in (*metrics.FIGURES, "flow_in_hole", "gmacs", "seconds", "n")}
        base = bases.setdefault(aim, figures)
        gains = {f"{key}_gain": round(figures[key] - base[key], 3) for key in metrics.FIGURES if figures[key] is not None}
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
    look = pairs.evaluation_pairs(args.data, "tune", args.size, 24)
    for name, scored in metrics.classical_scores(look).items():
        rows.append({"name": name, "aim": "classical", **{key: scored.row[key] for key in metrics.FIGURES}, "n": len(look)})
    described = pairs.describe(args.data)
    data = {key: described[key] for key in ("name", "source", "size", "eval_sha256")} | {"n": len(look), "list": "tune"}
    result = results.result(rows, data, args.command)
    if args.json:
        results.write_result(args.json, result)
    shown = ("name", *metrics.FIGURES, *(f"{key}_gain" for key in metrics.FIGURES), "flow_in_hole", "gmacs")
    script.finish(f"{args.steps} steps at {args.size} pixels", [{k: row.get(k) for k in shown} for row in rows], result)


def build_parser() -> ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder made by train/prepare.py")
    parser.add_argument("--target", type=Path, default=Path("runs/ablation"), help="default: %(default)s")
    parser.add_argument("--size", type=int, default=128, help="edge length in pixels (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="training steps of each run (default: %(default)s)")
    script.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

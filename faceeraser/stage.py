"""What every stage script shares: its flags, its errors and its last lines.

A stage is `python DIR/NAME.py SOURCE TARGET [--knobs]`. It prints a table for people and then one JSON line for programs,
and exits with 0, 1 (a gate failed: which, and by how much) or 2 (bad usage or bad input: what was found, what was
expected, what to run).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from faceeraser import artifact, checkpoint, metrics
from faceeraser.fit import Recipe, as_method, run
from faceeraser.networks import FaceEraser, count
from faceeraser.pairs import Pair, TrainingPairs, evaluation_pairs, to_tensors
from faceeraser.warp import landing_in_hole

FIGURES = ("psnr_hole_mirrored", "psnr_hole_smooth", "texture_energy")
"""The three figures that are always given together (FACES: PSNR alone cannot tell a face from a smear)."""


class GateFailed(Exception):
    """A measured figure is outside its gate; the message says which and by how much. Exit code 1."""


def parser(doc: str | None, source: str = "SOURCE", target: str = "TARGET") -> argparse.ArgumentParser:
    """An argument parser with a script's docstring as its help, SOURCE, TARGET and --overwrite."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("source", type=Path, metavar=source)
    made.add_argument("target", type=Path, metavar=target)
    made.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")
    return made


def add_fine_tuning(made: argparse.ArgumentParser, steps: int, lr: float) -> None:
    """The flags of a stage that fine-tunes: data, length, rate, teacher."""
    made.add_argument("--data", type=Path, required=True, help="folder made by train/prepare.py")
    made.add_argument("--steps", type=int, default=steps, help="fine-tuning steps in all (default: %(default)s)")
    made.add_argument("--batch", type=int, default=8, help="pictures in a step (default: %(default)s)")
    made.add_argument("--lr", type=float, default=lr, help="learning rate (default: %(default)s)")
    made.add_argument("--teacher", type=Path, help="checkpoint whose edges, flow and pictures are distilled")
    made.add_argument("--distil", type=float, default=1.0, help="weight of the teacher (default: %(default)s)")
    made.add_argument(
        "--perceptual", choices=("vgg", "filterbank", "off"), default="off",
        help="network of the perceptual and style terms (default: %(default)s)",
    )  # fmt: skip
    made.add_argument("--vgg", type=Path, metavar="FILE", help="VGG-19's state dict, where there is no network")
    made.add_argument("--size", type=int, help="train at this edge length (default: the network's resolution)")
    made.add_argument("--limit", type=int, help="use only so many blanks and masks")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")


def fine_tuning_recipe(args: argparse.Namespace, **changes: Any) -> Recipe:
    """The recipe of a fine-tuning stage: everything trains, inside the hole, without discriminators."""
    fields: dict[str, Any] = {
        "phase": "all", "steps": args.steps, "batch": args.batch, "lr": args.lr, "adversarial": 0.0, "edge_l1": 0.1,
        "style": Recipe.style if args.perceptual != "off" else 0.0, "beta1": 0.9, "beta2": 0.999, "region": "hole",
        "perceptual": Recipe.perceptual if args.perceptual != "off" else 0.0, "features": args.perceptual,
        "distil": args.distil if args.teacher else 0.0, "schedule": "cosine", "seed": args.seed,
        "precision": args.precision,
    }  # fmt: skip
    return Recipe(**{**fields, **changes})


@dataclass(frozen=True)
class Model:
    """A model to measure: what its row is called, how to call it, the size it takes and what is known of it."""

    name: str
    path: Path
    method: metrics.Method
    resolution: int
    about: Mapping[str, Any]


def open_model(path: Path, name: str) -> Model:
    """Load an exported file or a checkpoint folder, to be called `name` in tables.

    `about` has file, kind, precision, gmacs, params, bytes and `perceptual`: the network of the perceptual term that it
    was trained with, which every result row carries.

    Raises:
        ValueError: it is neither, or cannot be run here.
        FileNotFoundError: it is not there.
    """
    if path.is_dir() and path.suffix not in artifact.KINDS:
        pipeline, history = checkpoint.load(path), checkpoint.history(path)
        gmacs, params = count(pipeline)
        about = {"kind": "checkpoint", "precision": None, "gmacs": gmacs, "params": params, "bytes": None}
        method, resolution = as_method(pipeline), pipeline.config.resolution
    else:
        exported = artifact.Artifact(path)
        if exported.card["kind"] == "coreml" and sys.platform != "darwin":
            raise ValueError(f"{path}: CoreML predicts on macOS only; measure the .tflite or .onnx export here")
        about = {key: exported.card.get(key) for key in ("kind", "precision", "gmacs", "params", "bytes")}
        history = exported.card["history"]
        method, resolution = exported.erase, exported.resolution[0] or int(exported.card["resolution"])
    told = [entry["options"]["features"] for entry in history if "features" in entry.get("options", {})]
    where = artifact.portable(path)
    return Model(name, path, method, resolution, {"file": where, **about, "perceptual": told[-1] if told else None})


def training_pairs(args: argparse.Namespace, pipeline: FaceEraser) -> TrainingPairs:
    """The stage's training pairs, at --size or the network's own resolution."""
    return TrainingPairs(args.data, args.size or pipeline.config.resolution, args.seed, limit=args.limit)


def tune_pairs(args: argparse.Namespace, pipeline: FaceEraser, limit: int = 24) -> list[Pair]:
    """A slice of train for decisions and for the figures of a stage; validation is left to benchmarks/."""
    return evaluation_pairs(args.data, "tune", args.size or pipeline.config.resolution, limit)


def measure(pipeline: FaceEraser, pairs: Sequence[Pair]) -> dict[str, Any]:
    """GMACs and parameters at 256 x 256, the three figures on `pairs` and `flow_in_hole`, rounded for a table.

    flow_in_hole: share of the hole's flow that copies from the hole itself, where there is nothing to copy (0 is ideal).
    """
    gmacs, params = count(pipeline)
    row = metrics.score(as_method(pipeline), pairs).row
    figures = {name: round(row[name], 3) if row[name] is not None else None for name in FIGURES}
    landed = landing_in_hole(run(pipeline, list(pairs))["flow"], to_tensors(list(pairs))[1]).mean()
    return {"gmacs": round(gmacs, 4), "params": params, **figures, "flow_in_hole": round(float(landed), 3), "n": row["n"]}


def finish(title: str, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Print the table for people, then the one JSON line for programs, which is always the last."""
    if not checkpoint.first_process():
        return
    print(f"\n{title}")
    print(tabulate([dict(r) for r in rows], headers="keys", floatfmt=".3f", intfmt=","))
    print(json.dumps(dict(summary)), flush=True)


def execute(
    work: Callable[[argparse.Namespace], int | None], made: argparse.ArgumentParser, argv: Sequence[str] | None
) -> int:
    """Parse, run, and turn an error of the user's into one clear line and exit code 2, a failed gate into 1."""
    args = made.parse_args(argv)
    try:
        return work(args) or 0
    except GateFailed as failure:
        print(f"{made.prog}: gate failed: {failure}", file=sys.stderr)
        return 1
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        print(f"{made.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{made.prog}: stopped; what a training run saved is beside its target, go on with --resume", file=sys.stderr)
        return 130

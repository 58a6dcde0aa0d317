"""What every stage script shares: its flags, its errors and its last lines.

A stage is `python DIR/NAME.py SOURCE TARGET [--knobs]`. It prints a table for people and then one JSON line for programs,
and exits with 0, 1 (a gate failed: which, and by how much) or 2 (bad usage or bad input: what was found, what was
expected, what to run).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from faceeraser import artifact, checkpoint, metrics, picture
from faceeraser.fit import Recipe, as_method, calibrate, fit, run, sample_sheet
from faceeraser.networks import Inpainter, count
from faceeraser.pairs import Pair, TrainingPairs, describe, evaluation_pairs, to_tensors
from faceeraser.warp import landing_in_hole

FIGURES = ("psnr_hole_mirrored", "psnr_hole_smooth", "texture_energy")
"""The three figures that are always given together (FACES: PSNR alone cannot tell a face from a smear)."""


# For an int8 file of a network that copies texture; the usual gate is 50 dB (convert.py).
LOOSER_GATE = (
    "--gate", "24", "--reason",
    "int8 kernels and fake quantization round apart now and then, which moves the flow by a fifth of a pixel and with it "
    "the texture that is copied; colour and figures are compared in benchmarks/fidelity.py",
)  # fmt: skip
# The objectives of the mobile preset, as words of train.py; of a flag that is given twice the last one counts.
FOR_COLOUR = ("--perceptual", "off", "--clone", "0")
FOR_COPIES = (
    "--perceptual", "filterbank", "--perceptual-weight", "0", "--style", "0", "--l1", "0", "--clone", "0", "--shading", "1",
    "--texture", "0.3", "--landing", "0.3", "--coherence", "0.1", "--real", "0.3",
)  # fmt: skip
TRAINING = ("train/train.py", *(f"compress/{name}.py" for name in ("prune", "slim", "distil", "quantize")))


LEGACY = Path(".venv-legacy/bin/python")  # `make legacy` makes it


class GateFailed(Exception):
    """A measured figure is outside its gate; the message says which and by how much. Exit code 1."""


def parser(doc: str | None, source: str = "SOURCE", target: str = "TARGET") -> argparse.ArgumentParser:
    """An argument parser with a script's docstring as its help, SOURCE, TARGET and --overwrite."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("source", type=Path, metavar=source)
    made.add_argument("target", type=Path, metavar=target)
    made.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")
    return made


def legacy_python(given: Path | None = None) -> Path | None:
    """The Python of the second environment (`make legacy`): as given, else LEGACY here or beside this package's folder.

    Raises:
        ValueError: what was given is no file.
    """
    if given is not None:
        if not given.is_file():
            raise ValueError(f"--legacy-python {given}: no such file; expected a Python, such as `make legacy` makes")
        return given.absolute()
    places = (Path.cwd() / LEGACY, Path(__file__).resolve().parents[1] / LEGACY)
    return next((place for place in places if place.is_file()), None)


def add_fine_tuning(made: argparse.ArgumentParser, steps: int, lr: float) -> None:
    """The flags of a stage that fine-tunes: data, length, rate, teacher."""
    made.add_argument("--data", type=Path, required=True, help="folder made by train/prepare.py")
    made.add_argument("--steps", type=int, default=steps, help="fine-tuning steps in all (default: %(default)s)")
    made.add_argument("--batch", type=int, default=8, help="pictures in a step and process (default: %(default)s)")
    made.add_argument("--lr", type=float, default=lr, help="learning rate (default: %(default)s)")
    made.add_argument("--teacher", type=Path, help="checkpoint whose edges, flow and pictures are distilled")
    made.add_argument("--distil", type=float, default=1.0, help="weight of the teacher (default: %(default)s)")
    made.add_argument(
        "--distil-features", type=float, default=0.0, metavar="SHARE",
        help="weight of where the teacher's features are strong, as a share of --distil (default: %(default)s)",
    )  # fmt: skip
    made.add_argument("--online", action="store_true", help="the teacher goes on training beside its student")
    made.add_argument("--vgg", type=Path, metavar="FILE", help="VGG-19's state dict, where there is no network")
    made.add_argument(
        "--size", type=int,
        help="train on pictures of this edge length, of which the networks see what they see at their own "
        "(default: the network's resolution; half of it costs a third)",
    )  # fmt: skip
    made.add_argument("--limit", type=int, help="use only so many blanks and masks")
    made.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    made.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto",
        help="bf16 trains faster where the hardware has it, which auto finds out (default: %(default)s)",
    )  # fmt: skip


class FineTuning:
    """What a stage that fine-tunes works on: SOURCE's network, its pairs, its teacher, and the recipe of its rounds.

    A network is fine-tuned for what it was trained for: the coefficients and the choice of pictures are those of the last
    training in its history, less the adversarial term, which a student learns from its teacher.

    Raises:
        ValueError: the source is not a checkpoint or is quantized already, or the data is not prepared.
    """

    OBJECTIVE = ("l1", "clone", "shading", "texture", "landing", "coherence", "perceptual", "style", "features")

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.pipeline = checkpoint.load(args.source)
        if self.pipeline.config.quantized:
            raise ValueError(f"{args.source} is quantized already; start from the network it was made from")
        self.described = describe(args.data)
        trainings = [entry["options"] for entry in checkpoint.history(args.source) if entry["stage"].startswith("train-")]
        self.objective = trainings[-1] if trainings else {}
        self.teacher = self._teacher() if args.teacher else None
        size = args.size or self.pipeline.config.resolution
        # Photographs are for the shipped network; generated skin, say, has none and goes on without.
        real = self.objective.get("real", 0.0) if self.described["n"]["train"].get("faces") else 0.0
        self.data = TrainingPairs(args.data, size, args.seed, limit=args.limit, real=real)
        self.look = evaluation_pairs(args.data, "tune", self.pipeline.config.resolution, 24)

    def _teacher(self) -> Inpainter:
        """--teacher, once it is known that this network can learn from it."""
        args, own = self.args, self.pipeline.config
        if args.teacher.is_file():
            raise ValueError(f"--teacher {args.teacher}: found a file, expected a checkpoint folder such as runs/fp32")
        teacher = checkpoint.load(args.teacher)
        if teacher.config.quantized:
            raise ValueError(f"--teacher {args.teacher} is quantized; expected the float network it was made from")
        if args.distil_features and own.model != "faceeraser":
            raise ValueError(f"--distil-features {args.distil_features}: only FaceEraser's can be, not {own.model}'s")
        kinds = [(config.model, config.fill, config.residual) for config in (teacher.config, own)]
        if kinds[0] != kinds[1]:
            found, expected = (f"{config.model}, preset {config.preset}" for config in (teacher.config, own))
            raise ValueError(
                f"--teacher {args.teacher} is of another kind, {found} where this network is {expected}: its flow and "
                "pictures mean something else; expected the network that this one was made from"
            )
        return teacher

    def fit(self, folder: Path, title: str, **changes: Any) -> dict[str, Any]:
        """Train all three networks for `changes["steps"]`, and return what `fit.fit` returns; `folder` keeps no state."""
        args = self.args
        fields: dict[str, Any] = {
            "phase": "all", "steps": args.steps, "batch": args.batch, "lr": args.lr, "adversarial": 0.0, "edge_l1": 0.1,
            "beta1": 0.9, "beta2": 0.999, "region": "hole", "distil": args.distil if self.teacher else 0.0,
            "distil_features": args.distil_features, "online": args.online,
            # Only the end is kept: a stage that was broken off is done again.
            "save_every": max(1, args.steps),
            "schedule": "cosine", "seed": args.seed, "precision": args.precision,
            **{name: self.objective[name] for name in self.OBJECTIVE if name in self.objective},
        }  # fmt: skip
        recipe = Recipe(**{**fields, **changes})
        with self.as_trained():
            result = fit(self.pipeline, self.data, recipe, folder, teacher=self.teacher, vgg=args.vgg, title=title)
        self.pipeline.cpu()
        (folder / "state.pt").unlink(missing_ok=True)
        return result

    def calibrate(self, pictures: int) -> None:
        """Choose a freshly prepared network's activation scales from the first `pictures` training pairs."""
        with self.as_trained():
            calibrate(self.pipeline, self.data, pictures)

    @contextmanager
    def as_trained(self) -> Iterator[None]:
        """While in it, networks are shown of a picture of --size what they are shown of one at their own resolution: at
        half of it nothing is shrunk, where else two pixels become one. Trained on half of that, they learn another task.
        """
        pipelines = [each for each in (self.pipeline, self.teacher) if each is not None]
        own = [each.config for each in pipelines]
        for each, config in zip(pipelines, own, strict=True):
            each.config = replace(config, shrink=max(1, config.shrink * self.data.size // config.resolution))
        try:
            yield
        finally:
            for each, config in zip(pipelines, own, strict=True):
                each.config = config

    def measure(self) -> dict[str, Any]:
        """`measure` of the network as it stands, on a slice of train."""
        return measure(self.pipeline, self.look)

    def save(self, folder: Path, stage: str, options: Mapping[str, Any], metrics: Mapping[str, Any], **extra: Any) -> None:
        """Write the network with this stage in its history; `options` are the stage's own."""
        args = self.args
        told = {
            "steps": args.steps, "lr": args.lr, "teacher": artifact.portable(args.teacher) if args.teacher else None,
            "distil": args.distil, "distil_features": args.distil_features, "online": args.online, "seed": args.seed,
            "size": self.data.size,
        }  # fmt: skip
        checkpoint.save(
            folder, self.pipeline, stage=stage, parent=args.source, data=self.described, options={**told, **options},
            metrics=metrics, samples=sample_sheet(self.pipeline, self.look), extra=extra,
        )  # fmt: skip

    def finish(self, rows: Mapping[str, Mapping[str, Any] | None], about: str = "", **summary: Any) -> None:
        """The stage's closing table, a row for each of its states, and its JSON line."""
        args, source = self.args, self.described["source"]
        title = f"{args.source} -> {args.target} ({about}on a slice of train; data: {source})"
        shown = [{"name": name, **row} for name, row in rows.items() if row]
        finish(title, shown, {"target": str(args.target), "source": source, **summary})


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


def photographs(photos: Path) -> list[Path]:
    """A folder's photographs in a fixed shuffled order; those whose split is `val`, where a manifest.csv has splits.

    Raises:
        ValueError: there is no such folder, or nothing in it.
    """
    if not photos.is_dir():
        raise ValueError(f"{photos}: no such folder, expected photographs of faces")
    manifest = photos / "manifest.csv"
    if manifest.is_file():
        with manifest.open(newline="") as file:
            rows = list(csv.DictReader(file))
        files = sorted(photos / row["file"] for row in rows if row.get("split", "val") == "val")
    else:
        files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in picture.READABLE)
    if not files:
        raise ValueError(f"{photos}: found no photographs to validate on, expected files or a manifest.csv with split = val")
    return [files[k] for k in np.random.default_rng(1).permutation(len(files))]


def measure(pipeline: Inpainter, pairs: Sequence[Pair]) -> dict[str, Any]:
    """GMACs and parameters at 256 x 256, the three figures on `pairs` and `flow_in_hole`, rounded for a table.

    flow_in_hole: of a model that has such a flow, share of the hole's flow that copies from the hole itself, where there is
    nothing to copy (0 is ideal).
    """
    gmacs, params = count(pipeline)
    row = metrics.score(as_method(pipeline), pairs).row
    figures = {name: round(row[name], 3) if row[name] is not None else None for name in FIGURES}
    flow = run(pipeline, list(pairs)).get("flow")
    landed = {}
    if flow is not None:
        landed["flow_in_hole"] = round(float(landing_in_hole(flow, to_tensors(list(pairs))[1]).mean()), 3)
    return {"gmacs": round(gmacs, 4), "params": params, **figures, **landed, "n": row["n"]}


def finish(title: str, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Print the table for people, then the one JSON line for programs, which is always the last."""
    if not checkpoint.first_process():
        return
    print(f"\n{title}")
    print(tabulate([dict(r) for r in rows], headers="keys", floatfmt=".3f", intfmt=","))
    print(json.dumps(dict(summary)), flush=True)


def plot_by_cost(file: Path, title: str, draw: Callable[[Any, str, float, str], None]) -> None:
    """Save a figure of shading and texture (rows) against MACs, milliseconds and bytes (columns).

    draw(axis, cost, unit, score): put what there is on one axis; cost and score are fields of a result row, and a cost is to
    be divided by unit.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7), sharey="row", layout="constrained")
    costs = (("gmacs", 1, "GMAC at 256 x 256"), ("ms", 1, "ms, LiteRT, one thread"), ("bytes", 1e6, "MB of the .tflite"))
    scores = ((FIGURES[1], "shading PSNR in the hole, dB"), (FIGURES[2], "texture energy (1 = the truth's)"))
    for line, (score, told) in zip(axes, scores, strict=True):
        for axis, (cost, unit, what) in zip(line, costs, strict=True):
            draw(axis, cost, unit, score)
            axis.set_xlabel(what)
            axis.grid(alpha=0.3)
        line[0].set_ylabel(told)
    figure.suptitle(title)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100)
    plt.close(figure)


def trained_already(words: Sequence[str], data: Mapping[str, Any]) -> bool:
    """Whether a planned command of train.py (the words after `python`) has been run: its TARGET is there, made from the same
    pairs (`data`: data.json) with the same options.

    Raises:
        ValueError: TARGET is there and was trained otherwise, so that one table would hold two kinds of runs.
    """
    folder = Path(words[2])
    if not folder.exists():
        return False
    entry = checkpoint.history(folder)[-1]
    named = {"--steps": "steps", "--batch": "batch", "--lr": "lr", "--seed": "seed", "--width": "width", "--size": "size",
             "--perceptual": "features", "--clone": "clone"}  # fmt: skip
    asked = {flag: words[words.index(flag) + 1] for flag in named if flag in words}
    found = {flag: entry["options"].get(named[flag]) for flag in asked}
    wrong = [flag for flag, value in found.items() if value is None or type(value)(asked[flag]) != value]
    if wrong:
        told = f"was trained with {wrong[0]} {found[wrong[0]]}, and {asked[wrong[0]]} is asked for"
    elif (entry["data"] or {}).get("sha256") != data.get("sha256"):
        told = "was trained on other pairs"
    else:
        return True
    raise ValueError(f"{folder}: {told}; name another --target, or remove it to train it again")


def run_all(plan: Sequence[Sequence[str]], root: Path, independent: bool = False) -> list[dict[str, Any]]:
    """Run command lines of this toolkit one after another, each printed as `$ python ...`: what each took, in seconds.

    plan: the words after `python`, the script relative to `root` first; neighbours under export/ run side by side.
    Stages that train run as two processes with half a batch (8 in all) each rather than as one with two threads: as fast
    on free cores, and far faster on busy ones, where a thread that waits for the other spins (0.3 against 0.3-20 s a step).
    independent: no command needs another, so two of them run at a time, each on a core of its own and with 8 pictures.

    Raises:
        GateFailed: a command ended with another exit code than 0.
    """
    began = time.monotonic()
    cores = os.cpu_count() or 1
    processes = min(2, cores)
    threads = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores // processes))}
    parallel = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]

    def do(words: Sequence[str], quiet: bool) -> tuple[int, float, str]:
        """Run one command: its exit code, its seconds and, when quiet, what it printed."""
        at = time.monotonic()
        trains = words[0] in TRAINING
        split = trains and not independent
        line = [sys.executable, *(parallel if split else []), str(root / words[0]), *words[1:]]
        if split:
            line += ["--batch", str(8 // processes)]
        pipe = subprocess.PIPE if quiet else None
        env = threads if trains or quiet else None
        errors = subprocess.STDOUT if quiet else None
        done = subprocess.run(line, env=env, check=False, text=True, stdout=pipe, stderr=errors)
        return done.returncode, round(time.monotonic() - at, 1), done.stdout or ""

    taken: list[dict[str, Any]] = []
    position = 0
    while position < len(plan):
        # Exports do not need one another and use one core each; everything else takes its turn.
        exports = list(takewhile(lambda words: words[0].startswith("export/"), plan[position:]))
        group = list(plan) if independent else exports or [plan[position]]
        for number, words in enumerate(group, position + 1):
            print(f"\n[{number}/{len(plan)}, {time.monotonic() - began:.0f} s] $ python {shlex.join(words)}", flush=True)
        with ThreadPoolExecutor(processes) as pool:
            quiet = [len(group) > 1] * len(group)
            for words, (code, spent, printed) in zip(group, pool.map(do, group, quiet), strict=True):
                if printed:
                    print(f"\n$ python {shlex.join(words)}\n{printed}", flush=True)
                taken.append({"step": words[0], "seconds": spent})
                if code:
                    raise GateFailed(f"`{words[0]}` ended with exit code {code}; its own message is above")
        position += len(group)
    return taken


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
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"{made.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{made.prog}: stopped; what a training run saved is beside its target, go on with --resume", file=sys.stderr)
        return 130

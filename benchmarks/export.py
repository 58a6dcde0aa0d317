"""Every form of exported file, measured side by side: seconds to make, size, operators, what a GPU takes, parity, time.

    python benchmarks/export.py runs/release --json benchmarks/results/export.json

RELEASE is the folder that release.py leaves. Each row is a file that is exported here, into a folder of --exports of its
own, one at a time. Then it is checked (export/check_gpu.py) and timed (latency.py, one thread and two). Rows:

- `cpu`, `web`, `gpu`: .tflite files of `student`, the float network, that erase at 256 pixels; `gpu-plan` only plans.
- `int8`, `int8-512`, `int8-1024`: of the quantized network, painted at as many pixels; `int8-plan` only plans.
- `onnx`, `onnx-int8`, `coreml`, `coreml-int8`: the same networks there. CoreML is not timed: it runs on Apple's machines.
- `torch`: the float network as it is.
- `warp_cpu`, `warp_resampler`, `warp_onnxruntime`, `warp_torch`: the warp of networks that have one (warp.py).

Exit code 1 names every goal that is missed. On a machine with other work the ratios still hold, the times do not.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faceeraser.artifacts.card import read_card
from faceeraser.measurement import results
from faceeraser.system import chain, script

ROOT = Path(__file__).resolve().parent.parent
TFLITE, ONNX, COREML = "export/to_tflite.py", "export/to_onnx.py", "export/to_coreml.py"
FILES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "cpu": ("student", TFLITE, ("--flavour", "cpu")),
    "web": ("student", TFLITE, ("--flavour", "web")),
    "gpu": ("student", TFLITE, ("--flavour", "gpu")),
    "gpu-plan": ("student", TFLITE, ("--flavour", "gpu", "--output", "plan")),
    "int8": ("int8", TFLITE, ("--flavour", "web")),
    "int8-512": ("int8", TFLITE, ("--flavour", "web", "--painted", "512")),
    "int8-1024": ("int8", TFLITE, ("--flavour", "web", "--painted", "1024")),
    "int8-plan": ("int8", TFLITE, ("--flavour", "web", "--output", "plan")),
    "onnx": ("student", ONNX, ()),
    "onnx-int8": ("int8", ONNX, ()),
    "coreml": ("student", COREML, ()),
    "coreml-int8": ("int8", COREML, ("--precision", "int8-activations")),
}
"""{row: (stage of the chain, the exporter, its options)}"""
MOST_SECONDS = 60.0
"""For exporting one .tflite file."""


def exported(args: Namespace) -> dict[str, tuple[Path, float]]:
    """{row: (the file, seconds that exporting it took)}."""
    made = {}
    for name, (stage, exporter, options) in FILES.items():
        folder = args.exports / name
        shutil.rmtree(folder, ignore_errors=True)
        (taken,) = chain.run_all([[exporter, str(args.release / stage), str(folder), *options]], ROOT)
        (card,) = folder.glob("*.json")
        made[name] = card.with_suffix(""), taken["seconds"]
    return made


def timed(args: Namespace, files: Mapping[str, Path], folder: Path, threads: int) -> dict[str, float]:
    """{row: median milliseconds} on so many threads, all in one run."""
    models = [f"{name}={path}" for name, path in files.items() if path.suffix in (".tflite", ".onnx")]
    result = folder / f"latency-{threads}.json"
    arguments = [*models, f"torch={args.release / 'student'}", "--runtimes", "torch", "onnxruntime", "litert"]
    chain.run_all([["benchmarks/latency.py", *arguments, "--threads", str(threads), "--json", str(result)]], ROOT)
    return {row["model"]: row["median_ms"] for row in results.read_result(result)["rows"]}


def rows_of(args: Namespace, folder: Path) -> list[dict[str, Any]]:
    """All rows, in the order of the docstring."""
    made = exported(args)
    files = {name: path for name, (path, _) in made.items()}
    tflites = [str(path) for path in files.values() if path.suffix == ".tflite"]
    delegated = {row["file"]: row for row in measured(["export/check_gpu.py", *tflites], folder)}
    single, double = (timed(args, files, folder, threads) for threads in (1, 2))
    rows = []
    for name, (path, seconds) in made.items():
        card = read_card(path)
        operators = card["checked"]["operators"]
        # Of CoreML away from a Mac it is computed operator by operator.
        parity: Mapping[str, Any] = card.get("evaluated_parity") or card["parity"]
        row = {"name": name, "file": path.name, "precision": card["precision"], "seconds": seconds}
        row |= {key: card[key] for key in ("bytes", "sha256")} | {"ops": sum(operators.values()), "operators": operators}
        row |= {"parity_max": parity["max_abs_hole"], "parity_psnr": parity["psnr_hole_min"]}
        row |= {"plan_share": parity.get("plan_share_min"), "ms": single.get(name), "ms_2": double.get(name)}
        if path.suffix == ".tflite":
            nodes = delegated[results.portable(path)]
            row |= {"delegates": card["delegates"], "checker": "tf-2.15.1"}
            row |= {key: nodes[key] for key in ("delegated_share", "control_refused", "refused_operators", "litert")}
        rows.append(row)
    rows.append({"name": "torch", "ms": single["torch"], "ms_2": double["torch"]})
    return rows + [{**row, "ms": row["median_ms"]} for row in measured(["benchmarks/warp.py"], folder)]


def measured(command: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """The rows of another benchmark. A gate that it misses is a figure here, and not the end."""
    result = folder / f"{Path(command[0]).stem}.json"
    done = subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:], "--json", str(result)], check=False)
    if done.returncode not in (0, 1):
        raise ValueError(f"{command[0]} ended with {done.returncode}; its message is above")
    rows: list[dict[str, Any]] = results.read_result(result)["rows"]
    return rows


def verdict(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{goal: {"measured", "met"}}."""
    named = {row["name"]: row for row in rows}
    goals: dict[str, dict[str, Any]] = {}

    def goal(name: str, value: float, met: bool) -> None:
        goals[name] = {"measured": round(value, 4), "met": bool(met)}

    for name in ("gpu", "gpu-plan"):
        row = named[name]
        refused = f"{name}: every node taken by {row['checker']}, its control refused"
        goal(refused, row["delegated_share"], row["delegated_share"] == 1 and row["control_refused"])
    slowest = max(row["seconds"] for row in rows if row.get("file", "").endswith(".tflite"))
    goal(f"exporting one .tflite takes at most {MOST_SECONDS:.0f} s", slowest, slowest <= MOST_SECONDS)
    for name, most in (("warp_cpu", 0.6), ("warp_resampler", 0.15)):
        ratio = named[name]["ms"] / named["warp_onnxruntime"]["ms"]
        goal(f"{name} at most {most} of warp_onnxruntime", ratio, ratio <= most)
    ratio = named["warp_resampler"]["ms"] / named["warp_torch"]["ms"]
    goal("warp_resampler faster than warp_torch", ratio, ratio < 1)
    return goals


def run(args: Namespace) -> None:
    stages = sorted({stage for stage, _, _ in FILES.values()})
    if not all((args.release / stage).is_dir() for stage in stages):
        raise ValueError(f"{args.release}: expected what benchmarks/release.py leaves, with {' and '.join(stages)}")
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(args, Path(folder))
    goals = verdict(rows)
    result = results.result(rows, None, args.command) | {"goals": goals}
    if args.json:
        results.write_result(args.json, result)
    columns = ("name", "seconds", "bytes", "ops", "delegated_share", "parity_max", "parity_psnr", "plan_share", "ms", "ms_2")
    script.finish(str(args.release), [{key: row.get(key) for key in columns} for row in rows], {"goals": goals})
    if missed := [f"{name}: {goal['measured']}" for name, goal in goals.items() if not goal["met"]]:
        raise script.GateFailed("; ".join(missed))


def build_parser() -> ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("release", type=Path, metavar="RELEASE", help="folder that benchmarks/release.py made")
    parser.add_argument(
        "--exports", type=Path, default=Path("exports/forms"), help="folder for the exported files (default: %(default)s)"
    )
    script.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

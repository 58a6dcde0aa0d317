"""Every flavour of exported file, measured side by side: size, operators, what a GPU delegate takes, parity, milliseconds.

    python benchmarks/export.py runs/release --json benchmarks/results/export.json

RELEASE is the folder that release.py leaves. Its last float network is exported in every flavour (and as ONNX), its int8
network as `int8`; files that are in --exports already and belong to the checkpoints are kept. Then each is checked
(export/check_gpu.py), timed (latency.py, one thread and two) and the warp alone and the int8 file are held against others
(warp.py; mirror.py, the same network written by hand in TensorFlow). Rows:

- `cpu`, `web`, `gpu`, `gpu-resampler`: the float network; `torch`, `onnxruntime`: the same there.
- `int8`, the quantized one, and its mirrors (mirror.py): `int8_tf_mirror`, as a phone's kernels like it, `..._plain` and
  `..._amx`, for a server's. Their times are of a run of their own, `int8_over_mirror` is the ratio within it.
- `warp_cpu`, `warp_resampler`, `warp_onnxruntime`, `warp_torch`: the warp alone, 256 x 256 x 3.

Exit code 1 names every goal that is missed. On a machine with other work the ratios still hold, the milliseconds do not.
"""

from __future__ import annotations

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
from faceeraser.system.history import read_history

ROOT = Path(__file__).resolve().parent.parent
FLAVOURS = ("cpu", "web", "gpu", "gpu-resampler")


def export_all(args: Namespace, plugin: Path) -> dict[str, Path]:
    """{row: file} of everything exported; what belongs to the checkpoints already is left alone."""
    student, int8 = args.release / "small" / "student", args.release / "small" / "int8"
    files = {name: args.exports / f"student{'' if name == 'cpu' else f'-{name}'}.tflite" for name in FLAVOURS}
    files |= {"int8": args.exports / "int8-web.tflite", "onnxruntime": args.exports / "student.onnx"}

    def current(path: Path, source: Path) -> bool:
        try:
            made_from = read_card(path)["history"]
        except (ValueError, OSError):
            return False
        return bool(made_from == read_history(source))

    left = [name for name in FLAVOURS if not current(files[name], student)]
    commands = []
    if left:
        command = ["export/to_tflite.py", str(student), str(args.exports), "--overwrite", "--delegate", str(plugin)]
        commands.append([*command, "--flavour", *left])
    if not current(files["int8"], int8):
        command = ["export/to_tflite.py", str(int8), str(args.exports), "--overwrite"]
        commands.append([*command, "--flavour", "web"])
    if not current(files["onnxruntime"], student):
        commands.append(["export/to_onnx.py", str(student), str(args.exports), "--overwrite"])
    chain.run_all(commands, ROOT)
    return files


def timed(args: Namespace, files: Mapping[str, Path], plugin: Path, folder: Path, threads: int) -> dict[str, float]:
    """{row: median milliseconds} on so many threads, all in one run."""
    models = [f"{name}={path}" for name, path in files.items()] + [f"torch={args.release / 'small' / 'student'}"]
    result = folder / f"latency-{threads}.json"
    runtimes = ["torch", "onnxruntime", "litert"]
    arguments = [*models, "--runtimes", *runtimes, "--threads", str(threads), "--delegate", str(plugin)]
    chain.run_all([["benchmarks/latency.py", *arguments, "--json", str(result)]], ROOT)
    return {row["model"]: row["median_ms"] for row in results.read_result(result)["rows"]}


def rows_of(args: Namespace, folder: Path) -> list[dict[str, Any]]:
    """All rows, in the order of the docstring."""
    plugin = folder / "resampler.so"
    subprocess.run(["bash", str(ROOT / "export" / "build_resampler.sh"), str(plugin)], check=True)
    files = export_all(args, plugin)
    tflites = [str(path) for path in files.values() if path.suffix == ".tflite"]
    delegated = {row["file"]: row for row in measured(["export/check_gpu.py", *tflites], folder)}
    single, double = (timed(args, files, plugin, folder, threads) for threads in (1, 2))
    rows = []
    for name, path in files.items():
        card = read_card(path)
        row = {
            "name": name,
            "file": path.name,
            "bytes": card["bytes"],
            "sha256": card["sha256"],
            "ops": sum(card["checked"]["operators"].values()),
            "operators": card["checked"]["operators"],
            "parity_max": card["parity"]["max_abs_hole"],
            "parity_psnr": card["parity"]["psnr_hole_min"],
            "ms": single[name],
            "ms_2": double[name],
        }
        if path.suffix == ".tflite":
            nodes = delegated[results.portable(path)]
            row |= {"delegates": card["delegates"], "checker": "tf-2.15.1"}
            row |= {key: nodes[key] for key in ("delegated_share", "control_refused", "refused_operators", "litert")}
        rows.append(row)
    student = str(args.release / "small" / "student")
    rows.append({"name": "torch", "file": student, "ms": single["torch"], "ms_2": double["torch"]})
    rows += mirrored(args, files["int8"], folder)
    rows += [{**row, "ms": row["median_ms"]} for row in measured(["benchmarks/warp.py"], folder)]
    return rows


def measured(command: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """The rows of another benchmark. A gate that it misses is a figure here, and not the end."""
    result = folder / f"{Path(command[0]).stem}.json"
    done = subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:], "--json", str(result)], check=False)
    if done.returncode not in (0, 1):
        raise ValueError(f"{command[0]} ended with {done.returncode}; its message is above")
    rows: list[dict[str, Any]] = results.read_result(result)["rows"]
    return rows


def mirrored(args: Namespace, int8: Path, folder: Path) -> list[dict[str, Any]]:
    """`int8_tf_mirror`, written for a phone's kernels, and the same with plain convolutions and for a server's."""
    arguments = [str(args.release), "--file", str(int8), "--kernels", "plain", "phone", "amx"]
    compared = measured(["benchmarks/mirror.py", *arguments], folder)
    rows = []
    for kernels in ("phone", "plain", "amx"):
        by_threads = {row["threads"]: row for row in compared if row["kind"] == f"mirror-{kernels}"}
        single, double = by_threads[1], by_threads[2]
        rows.append(
            {
                "name": "int8_tf_mirror" if kernels == "phone" else f"int8_tf_mirror_{kernels}",
                "operators": single["operators"],
                "ops": sum(single["operators"].values()),
                "ms": single["ms"],
                "ms_2": double["ms"],
                "int8_over_mirror": single["ratio"],
                "int8_over_mirror_2": double["ratio"],
                "ms_per_gmac": single["ms_per_gmac"],
                "xnnpack": single["xnnpack"],
                "psnr_vs_int8": min(single["psnr_vs_file"]),
            }
        )
    return rows


def verdict(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{goal: {"measured", "met"}}."""
    named = {row["name"]: row for row in rows}
    goals: dict[str, dict[str, Any]] = {}

    def goal(name: str, value: float, met: bool) -> None:
        goals[name] = {"measured": round(value, 4), "met": bool(met)}

    for name, most in (("warp_cpu", 0.6), ("warp_resampler", 0.15)):
        ratio = named[name]["ms"] / named["warp_onnxruntime"]["ms"]
        goal(f"{name} at most {most} of warp_onnxruntime", ratio, ratio <= most)
    ratio = named["warp_resampler"]["ms"] / named["warp_torch"]["ms"]
    goal("warp_resampler faster than warp_torch", ratio, ratio < 1)
    ratio = named["int8_tf_mirror"]["int8_over_mirror"]
    goal("int8 at most 1.05 of int8_tf_mirror", ratio, ratio <= 1.05)
    for name in ("gpu", "gpu-resampler"):
        share = named[name]["delegated_share"]
        goal(
            f"{name}: every node taken by {named[name]['checker']}, its control refused",
            share,
            share == 1 and named[name]["control_refused"],
        )
    return goals


def run(args: Namespace) -> None:
    if not (args.release / "small" / "int8").is_dir() or not (args.release / "small" / "student").is_dir():
        raise ValueError(f"{args.release}: expected what benchmarks/release.py leaves, with small/student and small/int8")
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(args, Path(folder))
    goals = verdict(rows)
    result = results.result(rows, None, args.command) | {"goals": goals}
    if args.json:
        results.write_result(args.json, result)
    columns = ("name", "bytes", "ops", "delegated_share", "control_refused", "parity_max", "parity_psnr", "ms", "ms_2")
    script.finish(str(args.release), [{key: row.get(key) for key in columns} for row in rows], {"goals": goals})
    if missed := [f"{name}: {goal['measured']}" for name, goal in goals.items() if not goal["met"]]:
        raise script.GateFailed("; ".join(missed))


def build_parser() -> ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("release", type=Path, metavar="RELEASE", help="folder that benchmarks/release.py made")
    parser.add_argument(
        "--exports", type=Path, default=Path("exports"), help="folder for the exported files (default: %(default)s)"
    )
    script.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

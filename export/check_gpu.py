"""Whether a phone's GPU takes every operator of a .tflite file, and whether a GPU delegate computes the same.

    python export/check_gpu.py exports/*.tflite

Two checks of each file. TensorFlow 2.15.1's analyzer, in .venv-legacy (`make legacy`), looks at every operator as TFLite's
GPU delegate does; those of 2.19 to 2.21 approve of everything. And LiteRT's own GPU delegate runs the file on this machine
(faceeraser/conversion/gpu_delegate.py), beside the CPU, on pictures of noise: `accelerated` says that nothing was left
over, `max_abs` how far the outputs are apart. A file with the operator Resampler needs its plugin for the CPU's side; this
builds it.

Each file is also checked with an operator in it that no GPU takes (GATHER_ND; for the delegate, which wants fitting shapes,
a clamp): a check that lets that pass has checked nothing. The last line is JSON. Exit code 1 when an operator was refused,
or when the delegate is more than --max-abs away; 2 when the second environment is missing.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from faceeraser.artifacts.files import kind_of
from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.artifacts.runtimes import RESAMPLER
from faceeraser.conversion import gpu_delegate
from faceeraser.measurement import results, runner
from faceeraser.system import legacy, script

MAX_ABS = 1e-3
"""The GPU delegate sums in another order than the CPU; a wrong operator is off by tenths."""
CONTROL, CONTROL_LITERT = "GATHER_ND", "RELU_0_TO_1"
ANALYZE = """
import sys, tensorflow
for path in sys.argv[1:]:
    print("FILE", flush=True)
    tensorflow.lite.experimental.Analyzer.analyze(model_path=path, gpu_compatibility=True)
    sys.stdout.flush()
"""


def read(text: str) -> dict[str, Any]:
    """What the analyzer printed of one file: {"nodes", "refused": [{"node", "operator", "reason"}], "accepted_operators",
    "refused_operators", "delegated_share"}.

    Raises:
        ValueError: it did not come to its verdict, or its verdict is not what it said of the nodes.
    """
    nodes: dict[int, str] = {}
    refused: list[dict[str, Any]] = []
    node = -1
    for line in text.splitlines():
        if match := re.match(r"\s*Op#(\d+) (\S+?)\(", line):
            node = int(match[1])
            nodes[node] = match[2]
        elif (match := re.match(r"GPU COMPATIBILITY WARNING: (.*)", line)) and "Subgraph#" not in line:
            refused.append({"node": node, "operator": nodes[node], "reason": match[1].strip()})
    verdict = re.search(r"compatibility issues at nodes ([\d, ]+)", text)
    listed = [int(k) for k in verdict[1].split(",")] if verdict else []
    if not verdict and "looks compatible with GPU delegate" not in text:
        raise ValueError("the analyzer of .venv-legacy gave no verdict; make it again: rm -r .venv-legacy && make legacy")
    if listed != [row["node"] for row in refused]:
        raise ValueError(f"the analyzer refused the nodes {listed}, and gave reasons for {[r['node'] for r in refused]}")
    turned_down = {row["node"] for row in refused}
    return {
        "nodes": len(nodes),
        "refused": refused,
        "accepted_operators": dict(Counter(name for k, name in nodes.items() if k not in turned_down).most_common()),
        "refused_operators": dict(Counter(row["operator"] for row in refused).most_common()),
        "delegated_share": (len(nodes) - len(turned_down)) / max(len(nodes), 1),
    }


def doctored(path: Path, target: Path) -> None:
    """A copy in which the first look-up, or the first operator where there is none, is CONTROL."""
    graph = Graph(path)
    others = (op for op in graph.graph.operators if graph.name(op) != CONTROL)
    operator = next(iter(graph.ops("GATHER", RESAMPLER)), None) or next(others)
    graph.make(operator, CONTROL, operator.inputs)
    graph.write(target)


def clamped(path: Path, target: Path) -> None:
    """A copy in which the last operator that gives floats is followed by CONTROL_LITERT, of the same shape."""
    graph = Graph(path)
    operator = next(op for op in reversed(graph.graph.operators) if graph.type(int(op.outputs[0])) == "FLOAT32")
    output, before = int(operator.outputs[0]), graph.as_float(int(operator.outputs[0]))
    operator.outputs = np.array([before, *operator.outputs[1:]], np.int32)
    graph.graph.operators.insert(graph.graph.operators.index(operator) + 1, graph.new(CONTROL_LITERT, [before], output))
    graph.write(target)


def analyze(python: Path, files: list[Path]) -> list[dict[str, Any]]:
    """`read` of each file, with `control_refused`: whether its doctored copy was refused for what was done to it."""
    with tempfile.TemporaryDirectory() as folder:
        controls = [Path(folder) / f"{k}.tflite" for k in range(len(files))]
        for path, control in zip(files, controls, strict=True):
            doctored(path, control)
        command = [str(python), "-c", ANALYZE, *(str(path) for path in (*files, *controls))]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        parts = done.stdout.split("FILE\n")[1:]
        if done.returncode != 0 or len(parts) != 2 * len(files):
            said = (done.stderr.strip() or "nothing").splitlines()[-1][:200]
            raise ValueError(f"{python}: expected TensorFlow 2.15.1's analyzer, it ended with {said}; run: make legacy")
    verdicts = [read(part) for part in parts]
    rows = verdicts[: len(files)]
    for row, verdict in zip(rows, verdicts[len(files) :], strict=True):
        before, after = (found["refused_operators"].get(CONTROL, 0) for found in (row, verdict))
        row["control_refused"] = after > before
    return rows


def delegated(path: Path, pictures: int, plugin: Path) -> dict[str, Any]:
    """The file on LiteRT's GPU delegate: {"accelerated", "refused", "adapter", "control_refused", "max_abs"}.

    `plugin` is built there when the file needs it for the CPU's side. Raises RuntimeError when no driver is found.
    """
    given = [runner.sample_inputs(path, seed) for seed in range(pictures)]
    ran = gpu_delegate.run(path, given)
    row = {"accelerated": not ran.refused, "refused": ran.refused, "adapter": ran.adapter, "max_abs": None}
    control = plugin.with_name("control.tflite")
    clamped(path, control)
    row["control_refused"] = any(text.startswith(CONTROL_LITERT) for text in gpu_delegate.run(control, []).refused)
    if ran.refused:
        return row
    if Graph(path).ops(RESAMPLER) and not plugin.is_file():
        subprocess.run(["bash", str(Path(__file__).with_name("build_resampler.sh")), str(plugin)], check=True)
    on_cpu = [runner.reference(path, inputs, plugin if plugin.is_file() else None) for inputs in given]
    row["max_abs"] = max(runner.compare(a, b)["max_abs"] for a, b in zip(ran.outputs, on_cpu, strict=True))
    return row


def run(args: argparse.Namespace) -> int:
    """Both checks, the table, one line for each refused node, the JSON line. 1 when anything was refused."""
    for path in args.files:
        if not path.is_file() or kind_of(path) != "tflite":
            raise ValueError(f"{path}: expected a .tflite file, such as export/to_tflite.py makes")
    python = legacy.find_python(args.legacy_python)
    if python is None:
        raise ValueError("TensorFlow 2.15.1, whose analyzer checks, is not here; run: make legacy")
    rows = analyze(python, args.files)
    with tempfile.TemporaryDirectory() as folder:
        for path, row in zip(tqdm(args.files, desc="on the delegate", unit="file", leave=False), rows, strict=True):
            row |= {"name": path.stem, "file": results.portable(path)}
            try:
                row["litert"] = delegated(path, args.pictures, Path(folder) / "resampler.so")
            except RuntimeError as error:  # no Vulkan here: said in the table, and no verdict
                row["litert"] = {"skipped": str(error)}
    for row in rows:
        for refused in row["refused"]:
            print(f"{row['file']}: node {refused['node']}, {refused['operator']}: {refused['reason']}")
        for text in row["litert"].get("refused", []):
            print(f"{row['file']}: LiteRT's delegate: {text}")
        if "skipped" in row["litert"]:
            print(f"{row['file']}: {row['litert']['skipped']}")
    table = [
        {
            "file": row["file"],
            "nodes": row["nodes"],
            "refused": len(row["refused"]),
            "delegated_share": row["delegated_share"],
            "control_refused": row["control_refused"],
            "accelerated": row["litert"].get("accelerated", "skipped"),
            "max abs, 1e-6": None if row["litert"].get("max_abs") is None else row["litert"]["max_abs"] * 1e6,
        }
        for row in rows
    ]
    script.finish("TensorFlow 2.15.1's check for GPUs, and LiteRT's GPU delegate on this machine", table, {"files": rows})
    if args.json:
        results.write_result(args.json, results.result(rows, None, args.command))
    blind = [row["file"] for row in rows if not (row["control_refused"] and row["litert"].get("control_refused", True))]
    if blind:
        raise script.GateFailed(
            f"a check passed an operator that no GPU takes, in {', '.join(blind)}: its verdict cannot be trusted"
        )
    bad = [row["file"] for row in rows if row["refused"] or row["litert"].get("refused")]
    if bad:
        raise script.GateFailed(f"a GPU does not take all of {', '.join(bad)}; the lines above say what and why")
    if far := [row for row in rows if (row["litert"].get("max_abs") or 0) > args.max_abs]:
        by = far[0]["litert"]["max_abs"]
        raise script.GateFailed(f"{far[0]['file']}: the GPU delegate is {by:.2g} from the CPU, expected {args.max_abs:g}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = script.parser(__file__, __doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="exported .tflite files")
    parser.add_argument(
        "--pictures", type=int, default=2, help="number of pictures to compare on the delegate (default: %(default)s)"
    )
    parser.add_argument(
        "--max-abs",
        type=float,
        default=MAX_ABS,
        metavar="X",
        help="how far its outputs may be from the CPU's (default: %(default)s)",
    )
    script.add_json(parser)
    parser.add_argument(
        "--legacy-python", type=Path, metavar="FILE", help="a Python that has TensorFlow 2.15.1 (default: .venv-legacy's)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

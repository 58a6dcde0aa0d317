"""How long the warp alone takes: in a .tflite file by look-ups or by the plugin, in ONNX Runtime, and in torch.

    python benchmarks/warp.py --json benchmarks/results/warp.json

One picture and one flow, (1, 3, S, S) and (1, 2, S, S) float32; coordinates, clamping and sampling; one thread each, in
turns in one process. The flow is smooth and goes a sixth of the picture far, as a network's does. Rows, each against ONNX
Runtime's GridSample in the same round (`ratio`, the median over rounds):

    warp_onnxruntime  `warp` as an .onnx file
    warp_torch        `warp` itself, without gradients
    warp_cpu          `warp_by_rows` as a .tflite file, stock LiteRT: goal 0.6
    warp_resampler    the operator Resampler by export/resampler_delegate.cc: goal 0.15

Exit code 1 when one of them is further than 1e-4 from torch, or misses its goal; 2 without a C++ compiler.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.conversion import tflite, tflite_edits
from faceeraser.measurement import results
from faceeraser.model.warp import warp
from faceeraser.system import script
from faceeraser.system.extras import need

BASE = "warp_onnxruntime"
GOALS = {"warp_cpu": 0.6, "warp_resampler": 0.15}
"""Largest median of the ratio to ONNX Runtime's time."""
WARM_UP = 20


class Warp(nn.Module):
    """A warp as a network, to be converted."""

    def __init__(self, sample: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.form = sample

    def forward(self, image: Tensor, flow: Tensor) -> Tensor:
        return self.form(image, flow)


def inputs(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture (1, 3, size, size) of noise, flow (1, 2, size, size) in pixels, as large waves; float32."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:size, 0:size] / size * 2 * np.pi
    flow = np.stack([np.sin(columns) * np.cos(2 * rows), np.cos(columns + rows)]) * (size / 6)
    return random.random((1, 3, size, size), np.float32), flow[None].astype(np.float32)


def prepare(size: int, folder: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Each row's warp of the same inputs, converted, loaded and with its inputs set where its runtime keeps them.

    Raises:
        ModuleNotFoundError: a converter or a runtime is missing; names the extra to install.
        ValueError: the plugin cannot be built.
    """
    litert_torch = need("litert_torch", "tflite", "this benchmark")
    onnxruntime = need("onnxruntime", "onnx", "this benchmark")
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    image, flow = inputs(size)
    given = torch.from_numpy(image), torch.from_numpy(flow)
    plugin = folder / "resampler.so"
    build = Path(__file__).resolve().parents[1] / "export" / "build_resampler.sh"
    done = subprocess.run(["bash", str(build), str(plugin)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"the plugin cannot be built: {done.stderr.strip()}")

    def by_torch() -> np.ndarray:
        with torch.inference_mode():
            return warp(*given).numpy()

    torch.onnx.export(Warp(warp).eval(), given, str(folder / "warp.onnx"), dynamo=True, opset_version=18, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "warp.onnx"), options, providers=["CPUExecutionProvider"])
    feed = {port.name: value for port, value in zip(session.get_inputs(), (image, flow), strict=True)}

    def by_litert(name: str, delegates: list[Any] | None) -> Callable[[], np.ndarray]:
        path = folder / f"{name}.tflite"
        litert_torch.convert(Warp(tflite.WARP_FORMS[name]).eval(), given).export(str(path))
        graph = Graph(path)
        tflite_edits.apply(graph, ())
        graph.write(path)
        interpreter = Interpreter(str(path), num_threads=1, experimental_delegates=delegates)
        interpreter.allocate_tensors()
        for port, value in zip(interpreter.get_input_details(), (image, flow), strict=True):
            interpreter.set_tensor(port["index"], value)
        output = interpreter.get_output_details()[0]["index"]

        def run() -> np.ndarray:
            interpreter.invoke()
            return interpreter.get_tensor(output)

        return run

    return {
        BASE: lambda: session.run(None, feed)[0],
        "warp_torch": by_torch,
        "warp_cpu": by_litert("rows", None),
        "warp_resampler": by_litert("resampler", [load_delegate(str(plugin))]),
    }


def measure(size: int, rounds: int, each: int) -> list[dict[str, Any]]:
    """A row for each warp: {"name", "size", "median_ms", "p90_ms", "runs", "ratio", "max_abs", "goal"}.

    rounds: turns they are taken in, `each` runs a turn. ratio: to ONNX Runtime's median of the same round, the median over
    rounds; goal: what it must not exceed, None where none is set. max_abs: from torch's, whose grid_sample has float32's
    rounding of [-1, 1].
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        with contextlib.redirect_stdout(sys.stderr):  # the converters' logs are no part of the result
            warps = prepare(size, Path(scratch))
        expected = warps["warp_torch"]()
        off = {name: float(np.abs(run() - expected).max()) for name, run in warps.items()}
        for run in warps.values():
            for _ in range(WARM_UP):
                run()
        taken: dict[str, list[list[float]]] = {name: [] for name in warps}
        for _ in range(rounds):
            for name, run in warps.items():
                turn = []
                for _ in range(each):
                    began = time.perf_counter()
                    run()
                    turn.append((time.perf_counter() - began) * 1e3)
                taken[name].append(turn)
    base = [statistics.median(turn) for turn in taken[BASE]]
    rows = []
    for name, turns in taken.items():
        times = [ms for turn in turns for ms in turn]
        ratios = [statistics.median(turn) / b for turn, b in zip(turns, base, strict=True)]
        rows.append(
            {
                "name": name,
                "size": size,
                "threads": 1,
                "median_ms": statistics.median(times),
                "p90_ms": float(np.percentile(times, 90)),
                "runs": len(times),
                "ratio": statistics.median(ratios),
                "goal": GOALS.get(name),
                "max_abs": off[name],
            }
        )
    return rows


def run(args: argparse.Namespace) -> None:
    """Measure, print, write.

    Raises:
        ValueError: too few runs for a figure.
        script.GateFailed: a warp computes something else, or is slower than its goal.
    """
    if args.size < 2 or args.rounds < 5 or args.each < 5:
        raise ValueError(f"--size {args.size} --rounds {args.rounds} --each {args.each}: expected at least 2, 5 and 5")
    rows = measure(args.size, args.rounds, args.each)
    result = results.result(rows, None, args.command)
    if args.json:
        results.write_result(args.json, result)
    script.finish(f"the warp of {args.size} x {args.size} x 3, one thread, in turns", rows, result)
    if wrong := [row for row in rows if not row["max_abs"] <= 1e-4]:
        raise script.GateFailed(f"{wrong[0]['name']} is {wrong[0]['max_abs']:.2g} from torch, expected 1e-4")
    limited = [row for row in rows if row["goal"] is not None]
    if slow := [f"{row['name']} {row['ratio']:.2f} of {row['goal']}" for row in limited if row["ratio"] > row["goal"]]:
        raise script.GateFailed(f"slower than its goal, against ONNX Runtime: {', '.join(slow)}")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = script.parser(__file__, __doc__)
    parser.add_argument("--size", type=int, default=256, help="side of the picture in pixels (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=20, help="number of rounds in which they take turns (default: %(default)s)"
    )
    parser.add_argument("--each", type=int, default=20, help="number of runs of each per turn (default: %(default)s)")
    script.add_json(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0, 1 (a goal missed) or 2 (bad input)."""
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

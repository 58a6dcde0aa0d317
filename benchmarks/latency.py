"""How long a model takes: torch, ONNX Runtime, LiteRT, TensorFlow Lite and tflite-runtime, side by side in one run.

    python benchmarks/latency.py exports/*.tflite
    python benchmarks/latency.py runs/fp32 exports/*.onnx exports/*.tflite --json benchmarks/results/latency.json

A checkpoint folder is run by torch, an .onnx by ONNX Runtime, a .tflite by all three TFLite runtimes. Every row has a
process of its own, so one runtime's threads and allocator cannot disturb another's. All are loaded and warmed up
first; then they take turns, a few timed runs each per round, so that a machine that slows down slows all of them
alike. `ratio` is the median over rounds of a row's time over the first row's in the same round.

TFLite without its XNNPACK delegate is several times slower for no reason of the model's, so whether it is on is read
from the interpreter and stands in the row. tflite-runtime needs numpy 1 and lives in .venv-legacy (`make legacy`), or
where --legacy-python says; a runtime that is not there is listed as skipped. `peak_mb` is the process's peak resident
memory, `load_mb` what of it came after the runtime was imported.

This file is also its own worker: `--worker JSON` loads one model and answers one-line JSON commands on stdin. A
worker must not need faceeraser, which the legacy environment does not have.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import selectors
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RUNTIMES = {
    "torch": ("torch", "folder"),
    "onnxruntime": ("onnxruntime", ".onnx"),
    "litert": ("ai_edge_litert.interpreter", ".tflite"),
    "tensorflow": ("tensorflow", ".tflite"),
    "tflite-runtime": ("tflite_runtime.interpreter", ".tflite"),
}
"""Runtime -> the module it is imported from, and what it runs."""
PATIENCE_S = 600.0  # for one answer; a worker that is silent for longer is given up

# --- the worker: one model in one runtime, no faceeraser but for a checkpoint folder --------------------------------


def peak_mb() -> float:
    """Peak resident memory of this process in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss where it can be helped: on Linux that one starts from what the parent had when it forked.
        return float(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def sample(shape: Sequence[int], channels: int) -> np.ndarray:
    """A textured picture, or for one channel a mask with a third of it set: float32 of that shape, [0, 1]. What has no two
    sides is noise too.
    """
    if channels == 1 and len(shape) == 4 and sum(int(n) > 1 for n in shape) >= 2:
        value = np.zeros(shape, np.float32)
        height, width = [n for n in shape if n > 1][-2:]
        value.reshape(height, width)[height // 3 : 2 * height // 3] = 1
        return value
    return np.random.default_rng(0).random(shape, np.float32)


Loaded = tuple[Callable[[], Any], dict[str, Any]]
"""One inference as a function, and {"version", "xnnpack", "import_mb"}."""


def load(spec: Mapping[str, Any]) -> Loaded:
    """The model and runtime in `spec`, ready to be timed."""
    runtime, path, threads = spec["runtime"], spec["path"], spec["threads"]
    if runtime == "torch":
        return _load_torch(path, threads)
    if runtime == "onnxruntime":
        return _load_onnx(path, threads)
    return _load_tflite(runtime, path, threads, spec.get("delegate"))


def _load_torch(path: str, threads: int) -> Loaded:
    import torch

    from faceeraser.model import checkpoint

    torch.set_num_threads(threads)
    about = {"version": torch.__version__, "xnnpack": None, "import_mb": peak_mb()}
    network = checkpoint.load(path)
    side = network.config.resolution
    image, mask = (torch.from_numpy(sample((1, c, side, side), c)) for c in (3, 1))

    def eager() -> Any:
        with torch.inference_mode():
            return network(image, mask)

    return eager, about


def _load_onnx(path: str, threads: int) -> Loaded:
    import onnxruntime

    about = {"version": onnxruntime.__version__, "xnnpack": None, "import_mb": peak_mb()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle while the others have their turn
    card, own = Path(f"{path}.json"), 256
    if card.is_file():  # a file that takes any size is timed at its network's own, known beforehand as a fixed one is
        own = json.loads(card.read_text()).get("resolution", own)
        for name in ("height", "width"):
            options.add_free_dimension_override_by_name(name, own)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    types = {
        "float": np.float32,
        "float16": np.float16,
        "double": np.float64,
        "uint8": np.uint8,
        "int8": np.int8,
        "int32": np.int32,
        "int64": np.int64,
        "bool": np.bool_,
    }
    feed: dict[str, np.ndarray] = {}
    for port in session.get_inputs():
        shape = [n if isinstance(n, int) and n > 0 else own if axis else 1 for axis, n in enumerate(port.shape)]
        dtype = types[port.type[len("tensor(") : -1]]
        value = sample(shape, 3 if 3 in shape else 1)
        if dtype in (np.int8, np.int32, np.int64, np.bool_):  # what counts something
            value = np.zeros(shape)
        feed[port.name] = (value * (255 if dtype == np.uint8 and 3 in shape else 1)).astype(dtype)
    return lambda: session.run(None, feed), about


def _load_tflite(runtime: str, path: str, threads: int, delegate: str | None) -> Loaded:
    if runtime == "tensorflow":
        import tensorflow

        make, version = tensorflow.lite.Interpreter, tensorflow.__version__
        plug: Callable[[str], Any] = tensorflow.lite.experimental.load_delegate
    elif runtime == "litert":
        from importlib import metadata

        from ai_edge_litert import interpreter as litert

        make, version, plug = litert.Interpreter, metadata.version("ai-edge-litert"), litert.load_delegate
    else:
        import tflite_runtime
        from tflite_runtime import interpreter as module

        make, version, plug = module.Interpreter, tflite_runtime.__version__, module.load_delegate
    about = {"version": version, "import_mb": peak_mb()}
    plugins = [plug(delegate)] if delegate else None
    interpreter = make(model_path=path, num_threads=threads, experimental_delegates=plugins)
    interpreter.allocate_tensors()
    for port in interpreter.get_input_details():
        value = sample(port["shape"], int(port["shape"][-1]))
        scale, zero_point = port["quantization"]
        if np.issubdtype(port["dtype"], np.integer):
            limits = np.iinfo(port["dtype"])
            levels = 255 if not scale and port["shape"][-1] == 3 else 1  # a plain 8-bit picture
            value = np.clip(np.rint(value * levels / (scale or 1)) + zero_point, limits.min, limits.max)
        interpreter.set_tensor(port["index"], value.astype(port["dtype"]))
    # XNNPACK is the only delegate a CPU interpreter applies by itself; what it took over is one DELEGATE operator.
    about["xnnpack"] = any(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())
    return interpreter.invoke, about


def work(spec: Mapping[str, Any]) -> int:
    """The worker's life: say hello, answer {"runs": n} with {"ms": [...]}, end with stdin."""
    # Runtimes print what they like on descriptor 1; answers have a descriptor that only this function knows.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        run, about = load(spec)
        print(json.dumps(about), file=answers)
        for line in sys.stdin:
            times = []
            for _ in range(json.loads(line)["runs"]):
                start = time.perf_counter_ns()
                run()
                times.append((time.perf_counter_ns() - start) / 1e6)
            print(json.dumps({"ms": times, "peak_mb": peak_mb()}), file=answers)
    except Exception as error:  # whatever the runtime raises is this row's outcome, not the benchmark's end
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        missing = isinstance(error, ImportError)
        print(json.dumps({"skipped" if missing else "error": reason}), file=answers)
    return 0


# --- the parent -----------------------------------------------------------------------------------------------------


class Worker:
    """One row: a process with one model in one runtime."""

    def __init__(self, python: Path | None, row: dict[str, Any], path: Path, delegate: str | None) -> None:
        """Starts the process and loads the model. `row` gets what becomes known."""
        self.row, self.rounds, self.process = row, [], None  # type: ignore[var-annotated]
        if python is None:
            row["skipped"] = f"{row['runtime']} is not here: `make legacy` makes .venv-legacy, or give --legacy-python"
            return
        spec = {"runtime": row["runtime"], "path": str(path), "threads": row["threads"], "delegate": delegate}
        self.process = subprocess.Popen(
            [str(python), str(Path(__file__).resolve()), "--worker", json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": str(row["threads"]), "CUDA_VISIBLE_DEVICES": ""},
        )
        self._take()

    @property
    def alive(self) -> bool:
        """Whether it can be asked for runs."""
        return self.process is not None

    def ask(self, runs: int) -> list[float]:
        """Milliseconds of `runs` inferences; none when the worker fails, whose row then says why."""
        assert self.process is not None and self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"runs": runs}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the reason is in its answer, or in its exit status
        return self._take().get("ms", [])

    def _take(self) -> dict[str, Any]:
        from faceeraser.system import trial  # the parent's alone

        assert self.process is not None and self.process.stdout is not None
        line = b""
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                part = os.read(self.process.stdout.fileno(), 1 << 16) if ready.select(PATIENCE_S) else None
                if not part:
                    self.close()
                    silent = f"gave no answer in {PATIENCE_S:.0f} s"
                    self.row["error"] = silent if part is None else trial.explain(self.status)
                    return {}
                line += part
        answer: dict[str, Any] = json.loads(line)
        self.row |= {key: value for key, value in answer.items() if key != "ms"}
        if "error" in answer or "skipped" in answer:
            self.close()
        return answer

    def close(self) -> None:
        """End the process; harmless when it has ended."""
        if self.process is None:
            return
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.close()
            self.process.wait(5)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
        self.status = self.process.wait()
        self.process.stdout.close()
        self.process = None


def jobs(args: argparse.Namespace) -> list[tuple[str, str, Path]]:
    """(row's name, runtime, path) of everything to time, in the order given.

    Raises ValueError for a path that is nothing a runtime here runs, or when nothing is left to do.
    """
    pending = []
    for text in args.models:
        name, equals, tail = text.partition("=")
        path = Path(tail) if equals and "/" not in name else Path(text)
        if not path.exists():
            raise ValueError(f"{path}: not found; expected a checkpoint folder, an .onnx or a .tflite file")
        what = "folder" if (path / "config.json").is_file() else path.suffix
        runtimes = [runtime for runtime, (_, runs) in RUNTIMES.items() if runs == what]
        if not runtimes:
            raise ValueError(f"{path}: no runtime here runs this; expected a checkpoint folder, an .onnx or a .tflite file")
        label = name if equals and "/" not in name else path.stem
        pending += [(label, runtime, path) for runtime in runtimes if runtime in args.runtimes]
    if not pending:
        raise ValueError(f"nothing to time: {', '.join(args.runtimes)} run none of the models given")
    return pending


def summarize(row: dict[str, Any], rounds: Sequence[Sequence[float]], first: Sequence[Sequence[float]]) -> None:
    """Put median, p90, number of runs and the ratio to the first row's rounds into a row."""
    times = [ms for turn in rounds for ms in turn]
    row |= {"median_ms": None, "p90_ms": None, "runs": len(times), "ratio": None}
    if times:
        row["median_ms"] = statistics.median(times)
        row["p90_ms"] = float(np.percentile(times, 90))
        row["load_mb"] = row["peak_mb"] - row["import_mb"]
        pairs = [(mine, base) for mine, base in zip(rounds, first, strict=False) if mine and base]
        if pairs:
            row["ratio"] = statistics.median(statistics.median(m) / statistics.median(b) for m, b in pairs)


def time_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Load everything, warm it up, let it take turns; returns the rows in the order given."""
    from tqdm import tqdm

    from faceeraser.measurement import results
    from faceeraser.system.legacy import find_python

    second = find_python(args.legacy_python)
    workers: list[Worker] = []
    try:
        for name, runtime, path in tqdm(jobs(args), desc="load", unit="model", leave=False):
            where = results.portable(path)
            row = {
                "name": f"{name} {runtime}",
                "model": name,
                "file": where,
                "runtime": runtime,
                "threads": args.threads,
            }
            python = second if runtime == "tflite-runtime" else Path(sys.executable)
            # A stock runtime stops at the operator that this flavour has and CPUs have not.
            plugin = str(args.delegate.resolve()) if args.delegate and path.name.endswith("-gpu-resampler.tflite") else None
            workers.append(Worker(python, row, path, plugin))
        for worker in tqdm(workers, desc="warm up", unit="model", leave=False):
            if worker.alive:
                worker.ask(args.warmup)
        each = -(-args.runs // args.rounds)
        for _ in tqdm(range(args.rounds), desc="rounds", unit="round", leave=False):
            for worker in workers:
                worker.rounds.append(worker.ask(each) if worker.alive else [])
    finally:
        for worker in workers:
            worker.close()
    for worker in workers:
        summarize(worker.row, worker.rounds, workers[0].rounds)
        worker.row["warmup"] = args.warmup
    return [worker.row for worker in workers]


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the table for people has it."""
    what = f"skipped: {row['skipped']}" if "skipped" in row else f"failed: {row['error']}" if "error" in row else ""
    xnnpack = {True: "on", False: "OFF", None: ""}[row.get("xnnpack")]
    columns = ("model", "runtime", "version", "threads", "median_ms", "p90_ms", "ratio", "runs", "peak_mb", "load_mb")
    return {**{key: row.get(key) for key in columns}, "xnnpack": xnnpack, "": what}


def run(args: argparse.Namespace) -> int:
    """Time, print, write. 1 when no row could be timed."""
    from faceeraser.measurement import results
    from faceeraser.system import script

    if args.warmup < 10 or args.runs < 50 or args.rounds < 1 or args.threads < 1:
        raise ValueError(
            f"found --warmup {args.warmup} --runs {args.runs} --rounds {args.rounds} --threads {args.threads}; "
            "expected at least 10, 50, 1 and 1: fewer are too few to report"
        )
    rows = time_all(args)
    result = results.result(rows, None, args.command)
    if args.json:
        results.write_result(args.json, result)
    script.finish(f"{args.threads} thread(s), {args.rounds} rounds, interleaved", [shown(row) for row in rows], result)
    if not any(row["runs"] for row in rows):
        raise script.GateFailed("no model could be timed; see the table for the reasons")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    from faceeraser.system import script

    parser = script.parser(__file__, __doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folder, .onnx or .tflite, or name=PATH")
    parser.add_argument(
        "--runtimes",
        nargs="+",
        choices=list(RUNTIMES),
        default=list(RUNTIMES),
        metavar="RUNTIME",
        help=f"one or more of {', '.join(RUNTIMES)} (default: all)",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for each (default: %(default)s)")
    parser.add_argument(
        "--warmup", type=int, default=10, help="number of untimed runs first, at least 10 (default: %(default)s)"
    )
    parser.add_argument(
        "--runs", type=int, default=50, help="number of timed runs of each, at least 50 (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=10, help="number of rounds in which they take turns (default: %(default)s)"
    )
    parser.add_argument("--delegate", type=Path, metavar="FILE", help="plugin for files named *-gpu-resampler.tflite")
    parser.add_argument(
        "--legacy-python", type=Path, metavar="FILE", help="a Python that has tflite-runtime (default: .venv-legacy's)"
    )
    script.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--worker"]:
        return work(json.loads(arguments[1]))
    from faceeraser.system import script

    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

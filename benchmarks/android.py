"""Times and checks exported files on a phone: plug it in, and figures come back that can be trusted.

    bash benchmarks/build_runner.sh aarch64 runner/aarch64
    python benchmarks/android.py exports/int8.tflite exports/fp32.tflite --runner runner/aarch64
    python benchmarks/android.py exports/*.tflite --benchmark-model benchmark_model --json benchmarks/results/phone.json

Times are those of TensorFlow Lite's or LiteRT's own `benchmark_model`, a file or a URL with its --sha256, once for every
file, delegate and number of threads: first without a profiler, then shorter with one, which gives the time by operator.
Whether the phone computes what it should is asked of our own C runner (--runner, made by benchmarks/build_runner.sh): raw
outputs there against those of LiteRT here.

A phone that is hot, throttled, held below its frequencies or low on battery is not timed, unless with --force, and then
the row says so. Between runs it cools to what it was. Threads are kept on the fastest cores. A delegate that took no node
of the graph has no time of its own: its row has an `error`. On an emulated device no time is kept at all.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faceeraser.system import cache, script

DELEGATES = {
    "xnnpack": ["--use_xnnpack=true"],
    "cpu": ["--use_xnnpack=false"],
    "gpu": ["--use_gpu=true"],
    "nnapi": ["--use_nnapi=true"],
}
"""What asks benchmark_model for a delegate. `cpu` is the interpreter without any."""
TAKES = {"xnnpack": "XNNPack", "gpu": "Gpu", "nnapi": "Nnapi"}
"""What a delegate is called in the line that says how many nodes it took."""
TOLERANCE = 1e-4  # float32 on two architectures, of pictures in [0, 1]; 6e-6 was measured (results/device.json)


def fetched(tool: str, sha256: str | None) -> Path:
    """The tool as a file here; a URL is downloaded once, and its sha256 is demanded and checked.

    Raises ValueError: no sha256 for a URL, or it is another. Raises FileNotFoundError: no such file, or no answer.
    """
    if "://" in tool:
        if not sha256:
            raise ValueError(f"--benchmark-model {tool}: a download needs its --sha256, or anything could run on the phone")
        path = cache.fetch(tool, sha256, cache.folder() / sha256[:16] / "benchmark_model")
        path.chmod(0o755)
        return path
    path = Path(tool)
    if not path.is_file():
        raise FileNotFoundError(f"--benchmark-model {tool}: no such file; expected a benchmark_model for the phone")
    if sha256 and (digest := hashlib.sha256(path.read_bytes()).hexdigest()) != sha256.lower():
        raise ValueError(f"--benchmark-model {path.name}: sha256 is {digest}, expected {sha256}")
    return path


def ask(device: Any, model: Path, delegate: str, threads: int, args: argparse.Namespace, profile: bool) -> Any:
    """One run of the tool: what it says, read. Raises ValueError: it failed, or cannot be read."""
    from faceeraser.measurement import device as layer
    from faceeraser.measurement import timings

    runs = max(1, args.runs // 5) if profile else args.runs
    command = [
        "./benchmark_model",
        f"--graph={model.name}",
        f"--num_threads={threads}",
        f"--num_runs={runs}",
        f"--warmup_runs={args.warmup}",
        *DELEGATES[delegate],
        *(["--enable_op_profiling=true"] if profile else ["--report_peak_memory_footprint=true"]),
    ]
    mask = layer.big_cores(device.state().max_mhz, threads)
    return timings.read(device.run(command, args.timeout, mask=mask).text)


def took(timing: Any, delegate: str) -> str | None:
    """What speaks against these being the delegate's own times, or None.

    For gpu and nnapi the tool has to say that they took nodes: refused, it times the CPU and calls it a success.
    """
    mine = [d for d in timing.delegated if TAKES.get(delegate, "").lower() in d.delegate.lower()]
    if delegate in ("gpu", "nnapi") and (timing.refused or not any(d.nodes for d in mine)):
        delegated = ", ".join(f"{d.delegate} {d.nodes} of {d.of}" for d in timing.delegated) or "none"
        return f"{delegate} took no node of the graph (found: {delegated}); these were the CPU's times"
    return None


def timed_row(device: Any, model: Path, delegate: str, threads: int, args: argparse.Namespace) -> dict[str, Any]:
    """One row; a delegate that fails leaves its reason in `error` and lets the others go on."""
    from faceeraser.artifacts.files import sha256_of
    from faceeraser.measurement import device as layer
    from faceeraser.measurement import results

    state = device.state()
    row: dict[str, Any] = {
        "name": f"{model.stem} {delegate} {threads}",
        "model": model.stem,
        "file": results.portable(model),
        "sha256": sha256_of(model),
        "bytes": model.stat().st_size,
        "runtime": "benchmark_model",
        "delegate": delegate,
        "threads": threads,
        "mask": layer.big_cores(state.max_mhz, threads),
        **state.row(),
    }
    try:
        timing = ask(device, model, delegate, threads, args, profile=False)
        if against := took(timing, delegate):
            return {**row, "error": against}
        after = device.state(fresh=True)
        timed = timing.row()
        times = {key: timed.pop(key) for key in list(timed) if key.endswith("_ms")}
        row |= {**timed, **after.row(), "throttled": bool(after.unfit())}
        row |= {"unfit": after.unfit(), "not_known": after.unknown()}
        # What an emulator took says nothing of any phone, so it goes under no name that a report could take for one.
        row |= {"discarded": sorted(times)} if state.emulated else times
        profile = ask(device, model, delegate, threads, args, profile=True) if args.profile else None
        ops = [asdict(op) for op in profile.ops] if profile else []
        row["ops"] = [{key: value for key, value in op.items() if key != "avg_ms"} for op in ops] if state.emulated else ops
    except layer.DeviceLost:
        raise
    except ValueError as error:
        row["error"] = str(error)
    return row


def checked_row(device: Any, model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The outputs there against those here, by our own runner."""
    from faceeraser.artifacts.files import sha256_of
    from faceeraser.measurement import results, runner

    given = runner.sample_inputs(model)
    ran = runner.run_on(device, model, given, timeout_s=args.timeout)
    compared = runner.compare(ran.outputs, runner.reference(model, given))
    tolerance = 1 if any(value.dtype.kind == "u" for value in ran.outputs.values()) else TOLERANCE  # of 8 bits: one level
    row = {
        "name": f"{model.stem} parity",
        "model": model.stem,
        "file": results.portable(model),
        "runtime": "litert_runner",
        "sha256": sha256_of(model),
        **device.state().row(),
        **compared,
        "tolerance": tolerance,
        "passed": compared["max_abs"] <= tolerance,
    }
    row["emulated"] = row["emulated"] or ran.emulated
    return row


def work(device: Any, args: argparse.Namespace, tool: Path | None) -> list[dict[str, Any]]:
    """Everything on one device: parity first, since the time of a wrong answer is of no use."""
    from tqdm import tqdm

    from faceeraser.measurement import runner

    rows: list[dict[str, Any]] = []
    start = device.state(fresh=True)
    for reason in device.fit_to_time(args.force) if tool else []:
        print(f"forced: {reason}", file=sys.stderr)
    for model in args.models:
        device.push(model)
    if args.runner:
        runner.push_bundle(device, args.runner)
        rows += [checked_row(device, model, args) for model in tqdm(args.models, desc="parity", unit="model", leave=False)]
    if tool:
        device.push(tool, "benchmark_model")
        device.run(["chmod", "755", "benchmark_model"], 30.0)
        threads = {delegate: args.threads if delegate in ("xnnpack", "cpu") else [1] for delegate in args.delegates}
        jobs = [(model, delegate, n) for model in args.models for delegate in args.delegates for n in threads[delegate]]
        for number, (model, delegate, n) in enumerate(tqdm(jobs, desc="timing", unit="run", leave=False)):
            if number:
                device.cool_down(start, args.cool_s, args.rest_s)
                device.fit_to_time(args.force)
            rows.append(timed_row(device, model, delegate, n, args))
    return rows


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the table for people has it."""
    columns = ("name", "median_ms", "avg_ms", "std_ms", "runs", "peak_mb", "max_abs", "bit_exact_8bit")
    state = "emulated, no time kept" if "discarded" in row else "THROTTLED" if row.get("throttled") else ""
    said = row.get("error") or state
    return {**{key: row.get(key) for key in columns}, "": said}


def run(args: argparse.Namespace) -> int:
    """Do it, print, write. 1 when an output differs or nothing could be timed."""
    from faceeraser.measurement import results
    from faceeraser.measurement.device import Device

    if args.benchmark_model is None and args.runner is None:
        raise ValueError("nothing to do: name a --benchmark-model to time with, a --runner to check with, or both")
    if args.runs < 1 or args.warmup < 1 or min(args.threads) < 1:
        asked = f"--runs {args.runs} --warmup {args.warmup} --threads {args.threads}"
        raise ValueError(f"found {asked}; expected 1 or more of each")
    names = [model.name for model in args.models]
    for model in args.models:
        if model.suffix != ".tflite" or not model.is_file():
            raise ValueError(f"{model}: not found or no .tflite file; export one with export/to_tflite.py")
        if names.count(model.name) > 1:
            raise ValueError(f"{model}: two models are called {model.name}; rename one, they share a folder on the device")
    tool = fetched(args.benchmark_model, args.sha256) if args.benchmark_model else None
    with Device.open(args.serial, args.place) as device:
        rows = work(device, args, tool)
        title = f"{device.state().model or device.serial}{' (emulated)' if device.state().emulated else ''}"
    result = results.result(rows, None, args.command)
    if args.json:
        results.write_result(args.json, result)
    script.finish(title, [shown(row) for row in rows], result)
    if wrong := [row["name"] for row in rows if row.get("passed") is False]:
        raise script.GateFailed(f"the device's output differs from this machine's: {', '.join(wrong)}; see max_abs")
    if tool and all("error" in row for row in rows if row["runtime"] == "benchmark_model"):
        reason = next(row["error"] for row in rows if "error" in row)
        raise script.GateFailed(f"nothing could be timed; the first reason: {reason}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = script.parser(__file__, __doc__)
    option: Callable[..., Any] = parser.add_argument
    option("models", nargs="+", type=Path, metavar="MODEL", help=".tflite files")
    option("--serial", help="which device, if there are several; `adb devices` lists them")
    option("--benchmark-model", metavar="FILE_OR_URL", help="the timing tool, built for the phone")
    option("--sha256", metavar="HEX", help="sha256 of the tool; needed for a URL")
    option("--runner", type=Path, metavar="FOLDER", help="the checking runner, made by benchmarks/build_runner.sh")
    option(
        "--delegates",
        nargs="+",
        choices=list(DELEGATES),
        default=["xnnpack", "gpu", "nnapi"],
        metavar="NAME",
        help=f"one or more of {', '.join(DELEGATES)} (default: xnnpack gpu nnapi)",
    )
    option("--threads", nargs="+", type=int, default=[1, 4], metavar="N", help="CPU threads, each in turn (default: 1 4)")
    option("--runs", type=int, default=50, help="minimum number of timed runs of each (default: %(default)s)")
    option("--warmup", type=int, default=5, help="untimed runs first (default: %(default)s)")
    option("--no-profile", dest="profile", action="store_false", help="leave out the second run, which times each operator")
    option(
        "--timeout",
        type=float,
        default=300.0,
        metavar="S",
        help="time limit for one run on the device (default: %(default)s)",
    )
    option("--rest-s", type=float, default=10.0, metavar="S", help="minimum rest between runs (default: %(default)s)")
    option(
        "--cool-s",
        type=float,
        default=300.0,
        metavar="S",
        help="how long to wait for it to cool down (default: %(default)s)",
    )
    option("--place", default="/data/local/tmp", metavar="FOLDER", help="folder on the device (default: %(default)s)")
    option("--force", action="store_true", help="time the phone even if it is hot, throttled or low on battery; rows say so")
    script.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

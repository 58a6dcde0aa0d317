"""What `benchmark_model` printed, read strictly: TensorFlow Lite's tool, old, 2.14 and current, and LiteRT's own.

    timing = timings.read(text)
    timing.avg_ms, timing.runs, timing.ops

The tool has no machine-readable form that all its builds share, so its log is read. What it prints has changed:

    old      count=50 first=249042 curr=250889 ... std=1442, "Peak memory footprint (MB)", no prefix
    2.14     the same behind "INFO: ", "Memory footprint delta from the start of the tool (MB)"
    current  p5=, median= and p95= after std=, "Overall peak memory footprint (MB) via periodic monitoring"
    LiteRT   "Inference (avg): 7.43 ms (10 runs)" and a block of such lines, in ms

any of them behind a logcat prefix and with CRLF. A figure that a build does not print is None. One that should be there
and is not, or that contradicts another, is a ValueError: a benchmark that guesses is worse than one that stops.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
# "INFO: ", "I tflite  : ", "11-22 22:48:20.357 12608 12610 I tflite  : ", "INFO: [file.h:89] ", "I0000 ... file.h:89] "
PREFIX = re.compile(
    r"^(?:\d\d-\d\d \d\d:\d\d:\d\d\.\d+\s+\d+\s+\d+\s+)?(?:[VDIWEF][/ ][^:()]{1,40}(?:\(\s*\d+\))?\s*: ?)?"
    r"(?:(?:INFO|WARNING|ERROR|VERBOSE): ?)?(?:\[[\w./-]+:\d+\] ?)?"
)
SUMMARY = re.compile(
    rf"^Inference timings in us: Init: ({NUMBER}), First inference: ({NUMBER}), "
    rf"Warmup \(avg\): ({NUMBER}), Inference \(avg\): ({NUMBER})$"
)
MEMORY = re.compile(
    r"^(?:Peak memory footprint|Memory footprint delta from the start of the tool) \(MB\): "
    rf"init=({NUMBER}) overall=({NUMBER})$"
)
PEAK = re.compile(rf"^Overall peak memory footprint \(MB\) via periodic monitoring: ({NUMBER})$")
REPLACED = re.compile(
    r"Replacing (\d+) out of (\d+) node\(s\) with delegate \((\w+)\) node, yielding (\d+) partitions"
)  # what the interpreter logs for each delegate that takes part
REFUSED = re.compile(r"will not be executed by the delegate|[Ff]ailed to (?:apply|create|initialize) .{0,40}delegate")
FAILED = re.compile(
    r"^(?:Benchmarking failed|Failed to (?:initialize the interpreter|load (?:the )?model|construct interpreter"
    r"|allocate tensors|invoke)|Graph is not built|Could not open|Aborted|Segmentation fault|.*terminating)"
)
PROFILE = re.compile(r"^Operator-wise Profiling Info for Regular Benchmark Runs:$")
RUN_ORDER = re.compile(r"^=+ Run Order =+$")
EXECUTED = re.compile(r"^Number of nodes executed: (\d+)$")
LITERT = {
    "Model initialization": "init_ms",
    "Warmup (first)": "first_ms",
    "Warmup (avg)": "warmup_ms",
    "Inference (avg)": "avg_ms",
    "Inference (min)": "min_ms",
    "Inference (max)": "max_ms",
    "Inference (std)": "std_ms",
    "Init footprint": "init_mb",
    "Overall footprint": "overall_mb",
    "Peak memory": "peak_mb",
}
LITERT_LINE = re.compile(rf"^([\w() ]+?): +({NUMBER})(?: (ms|MB|MB/s))?(?: \((\d+) runs\))?$")
LITERT_HEAD = re.compile(r"^=+ BENCHMARK RESULTS =+$")


@dataclass(frozen=True)
class Op:
    """One row of the tool's profile: average milliseconds of one call, share of the whole in percent."""

    kind: str
    name: str
    avg_ms: float
    share: float
    mem_kb: float
    calls: int


@dataclass(frozen=True)
class Delegated:
    """Who took how many of the graph's nodes, and in how many pieces."""

    delegate: str
    nodes: int
    of: int
    partitions: int


@dataclass(frozen=True)
class Timing:
    """One run of the tool. Times in ms, memory in MB; None where this build of the tool does not say.

    `first_ms` is the first inference, `warmup_ms` the average of the untimed ones, `runs` how many were timed. `refused`:
    the tool said that a delegate will not run the graph, so these are times of the CPU, whatever was asked for.
    """

    tool: str
    runs: int
    init_ms: float
    first_ms: float
    warmup_ms: float
    avg_ms: float
    min_ms: float
    max_ms: float
    std_ms: float
    p5_ms: float | None = None
    median_ms: float | None = None
    p95_ms: float | None = None
    init_mb: float | None = None
    overall_mb: float | None = None
    peak_mb: float | None = None
    delegated: list[Delegated] = field(default_factory=list)
    refused: bool = False
    ops: list[Op] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """As plain values, for a result's row."""
        return asdict(self)


def read(text: str) -> Timing:
    """Read the whole output of one run of the tool, standard output and error together.

    Raises:
        ValueError: it is not such an output, breaks off, reports a failure, holds two runs, or contradicts itself.
    """
    lines = [PREFIX.sub("", line.strip(), count=1).rstrip() for line in text.replace("\r", "\n").split("\n")]
    if failed := next((line for line in lines if FAILED.match(line)), None):
        raise ValueError(f"benchmark_model failed: {failed[:200]}")
    summaries = [match for line in lines if (match := SUMMARY.match(line))]
    heads = [n for n, line in enumerate(lines) if LITERT_HEAD.match(line)]
    if len(summaries) + len(heads) != 1:
        if summaries or heads:
            raise ValueError(f"found the results of {len(summaries) + len(heads)} runs of benchmark_model, expected one")
        shown = next((line for line in reversed(lines) if line.isprintable() and line), "nothing")[:120]
        raise ValueError(
            f"no results of benchmark_model: expected a line 'Inference timings in us: ...' or a block "
            f"'BENCHMARK RESULTS'; the last readable line is: {shown}"
        )
    timing = _litert(lines[heads[0] + 1 :]) if heads else _tflite(lines, summaries[0])
    replaced = [match for line in lines if (match := REPLACED.search(line))]
    taken = [Delegated(match[3], int(match[1]), int(match[2]), int(match[4])) for match in replaced]
    refused = any(REFUSED.search(line) for line in lines)
    return Timing(**{**timing, "delegated": taken, "refused": refused, "ops": _profile(lines)})


def _number(text: str, what: str) -> float:
    if not re.fullmatch(NUMBER, text) or not math.isfinite(value := float(text)):
        raise ValueError(f"benchmark_model's {what} is {text!r}, expected a number")
    return value


def _count_line(line: str) -> dict[str, float]:
    """`count=50 first=... std=...` as numbers; `count=3 curr=7(all same)` says the others by saying they are the same."""
    same = line.endswith("(all same)")
    text = line.removesuffix("(all same)").split()
    values: dict[str, float] = {}
    for word in text:
        key, equals, number = word.partition("=")
        if not equals or key in values:
            raise ValueError(f"cannot read benchmark_model's line: {line[:160]}")
        values[key] = _number(number, key)
    if set(values) == {"count", "curr"} and (same or values["count"] == 1):
        curr = values["curr"]
        return {**values, "first": curr, "min": curr, "max": curr, "avg": curr, "std": 0.0}
    needed = {"count", "first", "curr", "min", "max", "avg", "std"}
    if set(values) not in (needed, needed | {"p5", "median", "p95"}):
        raise ValueError(f"cannot read benchmark_model's line: {line[:160]}")
    return values


def _tflite(lines: list[str], summary: re.Match[str]) -> dict[str, Any]:
    counts = [_count_line(line) for line in lines if re.match(r"count=\d", line) and line != "count=0"]
    # The first is the warm-up and the second the run; --warmup_runs=0 leaves `count=0`, which has nothing to read.
    if len(counts) not in (1, 2) or (len(counts) == 1 and not any(line == "count=0" for line in lines)):
        raise ValueError(f"found {len(counts)} lines `count=...` of benchmark_model, expected the warm-up's and the run's")
    init, first, warmup, average = (_number(text, "summary") for text in summary.groups())
    run = counts[-1]
    if run["count"] < 1 or run["count"] != int(run["count"]):
        raise ValueError(f"benchmark_model timed {run['count']} runs, expected one or more")
    _ordered([run.get(key) for key in ("min", "p5", "median", "p95", "max")], [run["avg"], run["first"], run["curr"]])
    # Both are printed with six digits.
    if not math.isclose(average, run["avg"], rel_tol=1e-4, abs_tol=1.0):
        raise ValueError(f"benchmark_model's summary says {average:g} us on average, its line of the run {run['avg']:g}")
    timing: dict[str, Any] = {
        "tool": "tflite",
        "runs": int(run["count"]),
        "init_ms": init / 1e3,
        "first_ms": first / 1e3,
        "warmup_ms": warmup / 1e3,
        **{f"{key}_ms": run[key] / 1e3 for key in ("avg", "min", "max", "std")},
        **{f"{key}_ms": run[key] / 1e3 for key in ("p5", "median", "p95") if key in run},
    }
    for line in lines:
        if memory := MEMORY.match(line):
            timing |= {"init_mb": float(memory[1]), "overall_mb": float(memory[2])}
        elif peak := PEAK.match(line):
            timing["peak_mb"] = float(peak[1])
        elif "memory footprint" in line.lower() and "(MB)" in line:
            raise ValueError(f"cannot read benchmark_model's line: {line[:160]}")
    return timing


def _litert(lines: list[str]) -> dict[str, Any]:
    timing: dict[str, Any] = {"tool": "litert"}
    for line in lines:
        if line and set(line) == {"="}:
            break
        match = LITERT_LINE.match(line)
        if not match:
            continue
        name, number, unit, runs = match.groups()
        if name not in LITERT:
            continue
        key = LITERT[name]
        # The spread is printed without its unit, which is that of the rest.
        if (unit or "ms") != ("MB" if key.endswith("_mb") else "ms") or key in timing:
            raise ValueError(f"cannot read benchmark_model's line: {line[:160]}")
        timing[key] = _number(number, name)
        if key == "avg_ms":
            if runs is None:
                raise ValueError(f"benchmark_model does not say how many runs it timed: {line[:160]}")
            timing["runs"] = int(runs)
    else:
        raise ValueError("benchmark_model's block of results breaks off: expected a closing line of '='")
    missing = [name for name, key in LITERT.items() if key.endswith("_ms") and key not in timing]
    if missing or not timing["runs"]:
        raise ValueError(f"benchmark_model's block of results lacks {', '.join(missing) or 'timed runs'}")
    _ordered([timing["min_ms"], timing["max_ms"]], [timing["avg_ms"]])
    return timing


def _ordered(rising: list[float | None], between: list[float]) -> None:
    """Minimum <= p5 <= median <= p95 <= maximum, and the others between the ends (averages are printed with six digits)."""
    known = [value for value in rising if value is not None]
    slack = 1e-5 * known[-1] + 0.01
    low, high = known[0] - slack, known[-1] + slack
    if any(a > b + slack for a, b in pairwise(known)) or any(not low <= v <= high for v in between):
        raise ValueError(f"benchmark_model's figures contradict one another: {known} and {between}")


def _profile(lines: list[str]) -> list[Op]:
    """The rows of the regular runs' profile, in the order they run; empty if the tool was not asked for one."""
    start = next((n for n, line in enumerate(lines) if PROFILE.match(line)), None)
    if start is None:
        return []
    order = next((n for n in range(start, len(lines)) if RUN_ORDER.match(lines[n])), None)
    if order is None or order + 1 >= len(lines):
        raise ValueError("benchmark_model's profile breaks off: expected a table 'Run Order'")
    header = re.findall(r"\[([^\]]+)\]", lines[order + 1])
    wanted = ("node type", "avg ms", "%", "mem KB", "times called", "Name")
    if any(name not in header for name in wanted):
        raise ValueError(f"benchmark_model's profile has the columns {header}, expected {', '.join(wanted)}")
    ops = []
    for number in range(order + 2, len(lines)):
        line = lines[number]
        if not line or line.startswith("="):
            break
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != len(header):
            raise ValueError(f"cannot read a row of benchmark_model's profile: {line[:160]}")
        cell = dict(zip(header, cells, strict=True))
        figures = [_number(cell[name].removesuffix("%"), name) for name in ("avg ms", "%", "mem KB", "times called")]
        ops.append(Op(cell["node type"], cell["Name"], figures[0], figures[1], figures[2], int(figures[3])))
    executed = next((int(m[1]) for line in lines[order:] if (m := EXECUTED.match(line))), None)
    if executed is None or executed != len(ops):
        raise ValueError(f"benchmark_model's profile has {len(ops)} rows and says {executed} nodes; it was cut off")
    return ops

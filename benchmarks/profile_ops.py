"""Where a .tflite file's time goes: LiteRT's own profiler, node by node, with XNNPACK's inside its delegate.

    python benchmarks/profile_ops.py exports/int8.tflite
    python benchmarks/profile_ops.py old=a.tflite new=b.tflite --largest 40 --json profile.json

Prints for every file the histogram of its operators, the share of time by operator, and the nodes that take longest. A
figure is that node's median over the fastest quarter of --runs inferences. `(between)` is what a whole inference takes
beyond its nodes' sum: the delegate's parts are entered and left (`parts`), each node's time is cut to whole microseconds,
and on a machine that has other work the process waits now and then, which no median of a node has in it.

LiteRT's own summary of a profile adds the nodes of two parts of the graph that have the same number in theirs, so the
events are read themselves. XNNPACK names its kernels and not the file's nodes; kernels are laid beside the nodes that the
part took over, in their order (`align`), and what fits nowhere keeps XNNPACK's name and has no shape.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.measurement import results
from faceeraser.system import script

BETWEEN = "(between)"
WARM_UP = 10
# How XNNPACK's names begin -> the file's operators that such a kernel may stand for.
KERNELS: dict[str, tuple[str, ...]] = {
    "Abs": ("ABS",),
    "Add": ("ADD",),
    "Average Pooling": ("AVERAGE_POOL_2D", "MEAN"),
    "Bankders Rounding": ("ROUND",),  # so spelt there
    "Batch Matrix": ("BATCH_MATMUL",),
    "Clamp": ("RELU", "RELU6", "RELU_0_TO_1", "MINIMUM", "MAXIMUM"),
    "Constant Pad": ("PAD", "PADV2"),
    "Convert": ("QUANTIZE", "DEQUANTIZE", "CAST"),
    "Convolution": ("CONV_2D", "DEPTHWISE_CONV_2D"),
    "Copy": ("CONCATENATION",),
    "Deconvolution": ("TRANSPOSE_CONV",),
    "Depth To Space": ("DEPTH_TO_SPACE",),
    "Divide": ("DIV",),
    "Exp": ("EXP",),
    "Floor": ("FLOOR",),
    "Fully Connected": ("FULLY_CONNECTED", "CONV_2D", "BATCH_MATMUL"),
    "Lookup Table": ("LOGISTIC", "TANH"),
    "Max Pooling": ("MAX_POOL_2D",),
    "Maximum": ("MAXIMUM",),
    "Mean": ("MEAN",),
    "Minimum": ("MINIMUM",),
    "Multiply": ("MUL",),
    "Negate": ("NEG",),
    "Reciprocal Square Root": ("RSQRT",),
    "Resize Bilinear": ("RESIZE_BILINEAR",),
    "Sigmoid": ("LOGISTIC",),
    "Slice": ("SLICE", "STRIDED_SLICE", "SPLIT"),
    "Square": ("SQUARE", "MUL"),
    "Square Root": ("SQRT",),
    "Squared Difference": ("SQUARED_DIFFERENCE",),
    "Subtract": ("SUB",),
    "Static Reshape": ("RESHAPE", "SQUEEZE", "EXPAND_DIMS"),
    "TanH": ("TANH",),
    "Transpose": ("TRANSPOSE",),
}


# --- LiteRT's C interface ---------------------------------------------------------------------------------------------

_Handle = ctypes.c_void_p
_OPERATOR, _DELEGATED = 2, 8  # kinds of events: a node that LiteRT runs itself, a kernel inside a delegate
_CPU, _WRITE = 1, 1


class _Event(ctypes.Structure):
    """`ProfiledEventData` of LiteRT's litert_profiler_event.h."""

    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("kind", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory", ctypes.c_size_t * 6),
        ("node", ctypes.c_uint64),
        ("subgraph", ctypes.c_uint64),
        ("source", ctypes.c_int),
    )


class _TensorType(ctypes.Structure):
    _fields_ = (("opaque", ctypes.c_char * 512),)  # larger than LiteRtRankedTensorType, which only passes through


@dataclass(frozen=True)
class Event:
    """One node or kernel of one inference: its name, whether a delegate ran it, its node if none did, microseconds."""

    name: str
    delegated: bool
    node: int
    us: int


class Profiler:
    """A .tflite file in LiteRT with its profiler on. Raises ValueError where LiteRT cannot load it."""

    def __init__(self, path: Path, threads: int):
        spec = find_spec("ai_edge_litert")
        assert spec is not None and spec.origin is not None  # the base install has it
        self._library = ctypes.CDLL(str(Path(spec.origin).parent / "libLiteRt.so"))
        libc = ctypes.CDLL(None)
        libc.strdup.restype = _Handle
        free = ctypes.cast(libc.free, _Handle)
        environment, model, options, self._compiled, self._profiler, signature = (_Handle() for _ in range(6))
        self._call("LiteRtCreateEnvironment", 0, None, ctypes.byref(environment))
        try:
            self._call("LiteRtCreateModelFromFile", environment, str(path).encode(), ctypes.byref(model))
        except RuntimeError as error:
            raise ValueError(f"{path}: LiteRT cannot load it as a .tflite model ({error})") from None
        self._call("LiteRtCreateOptions", ctypes.byref(options))
        self._call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        settings = {b"runtime_options_string": "enable_profiling = true\n", b"xnnpack": f"num_threads = {threads}\n"}
        for key, value in settings.items():
            handle = _Handle()
            text = _Handle(libc.strdup(value.encode()))
            self._call("LiteRtCreateOpaqueOptions", ctypes.c_char_p(key), text, free, ctypes.byref(handle))
            self._call("LiteRtAddOpaqueOptions", options, handle)
        self._call("LiteRtCreateCompiledModel", environment, model, options, ctypes.byref(self._compiled))
        self._call("LiteRtGetModelSignature", model, ctypes.c_size_t(0), ctypes.byref(signature))
        self._inputs = self._buffers("Input", signature, environment)
        self._outputs = self._buffers("Output", signature, environment)
        self._call("LiteRtCompiledModelGetProfiler", self._compiled, ctypes.byref(self._profiler))

    def _call(self, name: str, *arguments: Any) -> None:
        function = getattr(self._library, name)
        function.restype = ctypes.c_int
        if status := function(*arguments):
            raise RuntimeError(f"{name}: status {status}")

    def _buffers(self, side: str, signature: Any, environment: Any) -> Any:
        """Memory for all inputs or outputs of the signature, in its order."""
        count = ctypes.c_size_t()
        self._call(f"LiteRtGetNumSignature{side}s", signature, ctypes.byref(count))
        handles = (_Handle * count.value)()
        for k in range(count.value):
            tensor, needed, buffer, kind = _Handle(), _Handle(), _Handle(), _TensorType()
            self._call(f"LiteRtGetSignature{side}TensorByIndex", signature, ctypes.c_size_t(k), ctypes.byref(tensor))
            self._call("LiteRtGetRankedTensorType", tensor, ctypes.byref(kind))
            self._call(
                f"LiteRtGetCompiledModel{side}BufferRequirements",
                self._compiled,
                ctypes.c_size_t(0),
                ctypes.c_size_t(k),
                ctypes.byref(needed),
            )
            self._call(
                "LiteRtCreateManagedTensorBufferFromRequirements",
                environment,
                ctypes.byref(kind),
                needed,
                ctypes.byref(buffer),
            )
            handles[k] = buffer
        return handles

    def give(self, values: Sequence[np.ndarray]) -> None:
        """Write the inputs, in the signature's order."""
        for buffer, value in zip(self._inputs, values, strict=True):
            memory, size = _Handle(), ctypes.c_size_t()
            self._call("LiteRtGetTensorBufferPackedSize", _Handle(buffer), ctypes.byref(size))
            if size.value != value.nbytes:
                raise RuntimeError(f"an input takes {size.value} bytes, found {value.nbytes}")
            self._call("LiteRtLockTensorBuffer", _Handle(buffer), ctypes.byref(memory), _WRITE)
            ctypes.memmove(memory, np.ascontiguousarray(value).ctypes.data, value.nbytes)
            self._call("LiteRtUnlockTensorBuffer", _Handle(buffer))

    def run(self) -> tuple[list[Event], int]:
        """One inference: its events in the order they ran, and microseconds of the whole."""
        self._call("LiteRtResetProfiler", self._profiler)
        self._call("LiteRtStartProfiler", self._profiler)
        sizes = ctypes.c_size_t(len(self._inputs)), ctypes.c_size_t(len(self._outputs))
        self._call(
            "LiteRtRunCompiledModel", self._compiled, ctypes.c_size_t(0), sizes[0], self._inputs, sizes[1], self._outputs
        )
        self._call("LiteRtStopProfiler", self._profiler)
        count = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, ctypes.byref(count))
        held = (_Event * count.value)()
        self._call("LiteRtGetProfilerEvents", self._profiler, count, held)
        events = [
            Event(e.tag.decode(), e.kind == _DELEGATED, int(e.node), int(e.elapsed_us))
            for e in held
            if e.kind in (_OPERATOR, _DELEGATED)
        ]
        whole = [int(e.elapsed_us) for e in held if e.tag == b"Invoke" and e.start_us]
        if not events or len(whole) != 1:
            raise RuntimeError(f"LiteRT gave {len(events)} events of operators and {len(whole)} of the whole")
        return events, whole[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """LiteRT's log goes nowhere: it says at length which accelerators it did not find."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# --- kernels beside nodes ---------------------------------------------------------------------------------------------


def parts(graph: Graph, alone: set[int]) -> list[list[int]]:
    """The nodes of each part that a delegate took over, in the order the parts run; `alone`: nodes that no delegate runs.

    As TensorFlow Lite divides a graph: all nodes of one side whose inputs are there, then all of the other, and so on.
    """
    ops = graph.graph.operators
    missing = [{int(t) for t in op.inputs if int(t) in graph.maker} for op in ops]
    waiting, known = list(range(len(ops))), set[int]()
    groups: list[list[int]] = []
    delegated = 0 not in alone  # the first can always run: a file has its operators in an order in which they can
    while waiting:
        taken: list[int] = []
        rest: list[int] = []
        for k in waiting:
            if (k not in alone) == delegated and missing[k] <= known:
                taken.append(k)
                known |= {int(t) for t in ops[k].outputs}
            else:
                rest.append(k)
        if delegated and taken:
            groups.append(taken)
        waiting, delegated = rest, not delegated
    return groups


def align(kernels: Sequence[str], types: Sequence[str]) -> list[int | None]:
    """For each kernel of a part the position of the node it stands for, None where none fits; both keep their order.

    The alignment with most pairs: nodes may have no kernel (fused into another) and kernels no node.
    """

    def fits(kernel: str, kind: str) -> bool:
        longest = max((begin for begin in KERNELS if kernel.startswith(begin)), key=len, default=None)
        return longest is not None and kind in KERNELS[longest]

    best = np.zeros((len(kernels) + 1, len(types) + 1), np.int32)
    pairs = np.array([[fits(kernel, kind) for kind in types] for kernel in kernels], bool).reshape(len(kernels), len(types))
    for i in range(len(kernels) - 1, -1, -1):
        for j in range(len(types) - 1, -1, -1):
            met = best[i + 1, j + 1] + 1 if pairs[i, j] else 0
            best[i, j] = max(met, best[i + 1, j], best[i, j + 1])
    matches: list[int | None] = [None] * len(kernels)
    i = j = 0
    while i < len(kernels) and j < len(types):
        if pairs[i, j] and best[i, j] == best[i + 1, j + 1] + 1:
            matches[i] = j
            i, j = i + 1, j + 1
        elif best[i, j] == best[i, j + 1]:
            j += 1
        else:
            i += 1
    return matches


def nodes_of(graph: Graph, events: Sequence[Event]) -> list[int | None]:
    """For each event the node of the file that it is."""
    nodes: list[int | None] = [None if event.delegated else event.node for event in events]
    ops = graph.graph.operators
    runs: list[list[int]] = []  # a part's kernels follow one another, and no two parts do
    for k, event in enumerate(events):
        if event.delegated:
            if k and events[k - 1].delegated:
                runs[-1].append(k)
            else:
                runs.append([k])
    divided = parts(graph, {event.node for event in events if not event.delegated})
    if len(divided) != len(runs):
        return nodes  # divided in another way than is known here: no shapes, the times stay
    for positions, taken in zip(runs, divided, strict=True):
        at = align([events[k].name for k in positions], [graph.name(ops[k]) for k in taken])
        for position, place in zip(positions, at, strict=True):
            nodes[position] = None if place is None else taken[place]
    return nodes


# --- the figures ------------------------------------------------------------------------------------------------------


def inputs_of(graph: Graph) -> list[np.ndarray]:
    """A textured picture for every input of three channels, a third of the rows set for one of one channel; zeros for what
    counts something.
    """
    arrays = []
    named = graph.model.signatureDefs[0].inputs if graph.model.signatureDefs else ()
    for tensor in [int(given.tensorIndex) for given in named] or graph.graph.inputs:
        shape, kind = graph.shape(int(tensor)), graph.type(int(tensor))
        if kind in ("INT32", "INT64", "BOOL"):
            arrays.append(np.zeros(shape, kind.lower()))
            continue
        if kind not in ("FLOAT32", "FLOAT16", "UINT8", "INT8"):
            raise ValueError(f"an input is {kind}, expected FLOAT32, FLOAT16, UINT8, INT8, INT32, INT64 or BOOL")
        value = np.random.default_rng(0).random(shape)
        if len(shape) == 4 and shape[-1] == 1:
            value = np.zeros(shape)
            value[:, shape[1] // 3 : 2 * shape[1] // 3] = 1
        levels = {"FLOAT32": 1, "FLOAT16": 1, "UINT8": 255 if shape[-1] == 3 else 1, "INT8": 127}[kind]
        arrays.append((value * levels).astype(kind.lower()))
    return arrays


def profile(path: Path, runs: int, threads: int) -> dict[str, Any]:
    """One file: {"ms", "parts", "histogram", "operators": [{"type", "n", "ms", "share"}], "nodes": [{"type", ...}]}.

    Raises ValueError when it is no .tflite file that LiteRT runs.
    """
    if path.suffix != ".tflite":
        raise ValueError(f"{path}: expected a .tflite file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; export one first, with export/to_tflite.py for example")
    with _quiet():
        profiler = Profiler(path, threads)
        graph = Graph(path)
        profiler.give(inputs_of(graph))
        runs_done = [profiler.run() for _ in range(WARM_UP + runs)][WARM_UP:]
    events = runs_done[0][0]
    if any([e.name for e in operators] != [e.name for e in events] for operators, _ in runs_done):
        raise RuntimeError(f"{path}: LiteRT ran other operators in one run than in another")
    runs_done = sorted(runs_done, key=lambda run: run[1])[: max(3, runs // 4)]
    times = [statistics.median(operators[k].us for operators, _ in runs_done) / 1e3 for k in range(len(events))]
    whole = statistics.median(us for _, us in runs_done) / 1e3
    at, ops = nodes_of(graph, events), graph.graph.operators
    nodes: list[dict[str, Any]] = []
    for event, ms, k in zip(events, times, at, strict=True):
        shapes = [list(graph.shape(int(t))) for t in (*ops[k].inputs, *ops[k].outputs) if t >= 0] if k is not None else []
        kind = graph.type(int(ops[k].outputs[0])).lower() if k is not None else None
        nodes.append(
            {
                "node": k,
                "type": graph.name(ops[k]) if k is not None else event.name,
                "kernel": event.name,
                "delegated": event.delegated,
                "dtype": kind,
                "shapes": shapes,
                "ms": ms,
            }
        )
    spent: dict[str, float] = {}
    for node in nodes:
        spent[node["type"]] = spent.get(node["type"], 0.0) + node["ms"]
    counted = Counter(node["type"] for node in nodes)
    largest = sorted(spent, key=lambda kind: -spent[kind])
    spent[BETWEEN] = whole - sum(times)
    rows = [{"type": k, "n": counted[k], "ms": spent[k], "share": spent[k] / whole} for k in (*largest, BETWEEN)]
    return {
        "ms": whole,
        "parts": len(parts(graph, {e.node for e in events if not e.delegated})),
        "histogram": dict(Counter(graph.name(op) for op in ops).most_common()),
        "operators": rows,
        "nodes": sorted(nodes, key=lambda node: -node["ms"]),
    }


def run(args: argparse.Namespace) -> int:
    from tabulate import tabulate

    if args.runs < 10 or args.threads < 1 or args.largest < 1:
        raise ValueError(
            f"found --runs {args.runs} --threads {args.threads} --largest {args.largest}; expected at least 10, 1 and 1"
        )
    files: dict[str, Path] = {}
    for word in args.files:
        head, equals, tail = word.partition("=")
        name, path = (head, Path(tail)) if equals and "/" not in head else (Path(word).stem, Path(word))
        if name in files:
            raise ValueError(f"two files would be called {name}; name one, as in other={path}")
        files[name] = path
    rows = []
    for name, path in files.items():
        profiled = profile(path, args.runs, args.threads)
        largest = profiled["nodes"][: args.largest]
        rows.append(
            {
                "name": name,
                "file": results.portable(path),
                "threads": args.threads,
                "runs": args.runs,
                **profiled,
                "nodes": largest,
            }
        )
        n = sum(profiled["histogram"].values())
        print(f"\n{name}: {profiled['ms']:.2f} ms, {n} operators, {profiled['parts']} parts in a delegate")
        print(", ".join(f"{n} {kind}" for kind, n in profiled["histogram"].items()))
        shown: list[Mapping[str, Any]] = [
            {"operator": row["type"], "nodes": row["n"], "ms": row["ms"], "%": 100 * row["share"]}
            for row in profiled["operators"]
        ]
        print(tabulate(shown, headers="keys", floatfmt=("", "", ".3f", ".1f")))
    result = results.result(rows, None, args.command)
    if args.json:
        results.write_result(args.json, result)
    largest = [
        {
            "file": row["name"],
            "node": node["node"],
            "operator": node["type"],
            "kernel": node["kernel"],
            "ms": node["ms"],
            "%": 100 * node["ms"] / row["ms"],
            "shapes": _told(node),
        }
        for row in rows
        for node in row["nodes"]
    ]
    script.finish(f"the {args.largest} nodes that take longest, {args.threads} thread(s)", largest, result)
    return 0


def _told(node: Mapping[str, Any]) -> str:
    """Shapes of a node's inputs and output, in short: 1x128x128x8 16x7x7x8 16 -> 1x128x128x16 int8."""
    if not node["shapes"]:
        return ""
    *inputs, output = ("x".join(map(str, shape)) or "1" for shape in node["shapes"])
    return f"{' '.join(inputs)} -> {output} {node['dtype']}"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = script.parser(__file__, __doc__)
    parser.add_argument("files", nargs="+", metavar="[name=]FILE.tflite")
    parser.add_argument(
        "--runs", type=int, default=50, help="number of profiled inferences, at least 10 (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--largest", type=int, default=20, metavar="N", help="number of nodes to list (default: %(default)s)"
    )
    script.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

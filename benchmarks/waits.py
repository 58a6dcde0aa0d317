"""One thing that a user waits for, timed in a process of its own by whatever version of the package this process imports.

    PYTHONPATH=. python benchmarks/waits.py frames.npy faceeraser/weights/plan.tflite --cores 1 --runs 3

benchmarks/apps.py runs it for this version and for an earlier one in turns. SOURCE is a video's frames, (N, H, W, 3) uint8
in a .npy, which are erased in memory, or a .jpg, which is read, erased and written. Prints one JSON object: `ms`, wall time,
and `cpu_ms`, what the process computed, medians of --runs; `steps_ms`, of each step; `peak_mb`, the most memory that the
process had; `faces` of all frames together. Of a .jpg also `erasing_ms`, `cpu_ms` without its decoding and encoding.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import faceeraser

FPS = 30.0
WARM_UP = 10
# Modules have moved since v0.1.
MOVED = (Path(faceeraser.__file__).parent / "face").is_dir()


def tracker() -> Any:
    """What follows the faces of a video."""
    if MOVED:
        return import_module("faceeraser.face.tracking").Tracker(import_module("faceeraser.face.finder").shared())
    return import_module("faceeraser.tracking").Tracker(import_module("faceeraser.faces").finder())


def video(eraser: Any, frames: np.ndarray) -> Callable[[], int]:
    """Erase all frames, and count the faces."""

    def timed(images: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
        return ((image, 1 / FPS) for image in images)

    for _ in eraser.frames(timed(frames[:WARM_UP]), tracker()):
        pass
    return lambda: sum(len(erased.faces) for erased in eraser.frames(timed(frames), tracker()))


def photograph(eraser: Any, source: Path, target: Path) -> Callable[[], int]:
    """Read, erase and write a photograph, and count its faces."""

    def now() -> int:
        picture = import_module("faceeraser.face.picture")
        page = picture.read(source)
        eraser.clock("decode")
        erased = eraser.photograph(page.image)
        eraser.clock.start()
        with picture.writing(target) as put:
            put(page.erased(erased.image, erased.mask))
        return len(erased.faces)

    def then() -> int:
        image = import_module("faceeraser.faces").read_image(source)
        eraser.clock("decode")
        erased = eraser.photograph(image)
        eraser.clock.start()
        import_module("PIL.Image").fromarray(erased.image).save(target, **import_module("faceeraser.cli").WRITABLE[".jpg"])
        return len(erased.faces)

    def once() -> int:
        eraser.clock.start()
        faces = now() if MOVED else then()
        eraser.clock("encode")
        return faces

    once()
    return once


def peak_mb() -> float:
    """The most memory that this process had. What getrusage says counts the process that started this one, too."""
    status = Path("/proc/self/status")
    if status.is_file():
        most = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(most.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(once: Callable[[], int], eraser: Any, frames: int, runs: int) -> dict[str, Any]:
    """Time of each of `frames`."""
    walls, cpus, faces = [], [], 0
    eraser.clock.clear()
    for _ in range(runs):
        wall, cpu = time.perf_counter(), time.process_time()
        faces = once()
        walls.append((time.perf_counter() - wall) * 1e3 / frames)
        cpus.append((time.process_time() - cpu) * 1e3 / frames)
    return {
        "ms": statistics.median(walls),
        "cpu_ms": statistics.median(cpus),
        "steps_ms": {step: seconds * 1e3 / frames / runs for step, seconds in eraser.clock.seconds.items() if seconds},
        "faces": faces,
        "peak_mb": peak_mb(),
    }


def build_parser() -> argparse.ArgumentParser:
    # Not script.parser: v0.1 has none.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="frames (.npy) or a photograph (.jpg)")
    parser.add_argument("model", type=Path, metavar="MODEL", help="what erases")
    parser.add_argument("--cores", type=int, default=1, help="that the process may use (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="that are timed (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    cv2.setNumThreads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    erasing = import_module("faceeraser.erasing")
    eraser = erasing.Eraser(args.model, workers=args.cores)
    if args.cores == 1:  # steps in what they computed, whatever else the machine does
        vars(erasing)["time"] = argparse.Namespace(perf_counter=time.thread_time)
    if args.source.suffix == ".npy":
        frames = np.load(args.source)
        row = measure(video(eraser, frames), eraser, len(frames), args.runs)
    else:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(photograph(eraser, args.source, Path(folder) / "erased.jpg"), eraser, 1, args.runs)
        row["erasing_ms"] = row["cpu_ms"] - sum(row["steps_ms"].get(step, 0.0) for step in ("decode", "encode"))
    json.dump(row, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())

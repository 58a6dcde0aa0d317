"""How many steps of edge tracking does Canny need inside an exported graph?

scikit-image follows an edge to its end; a graph without loops takes a fixed number of steps. This script compares
`edges.canny_tensor` with `skimage.feature.canny` on photographs with parts-like holes, for several numbers
of steps, and times each as a TFLite file (LiteRT with XNNPACK, one thread):

    python benchmarks/canny.py PHOTOS --json benchmarks/results/canny_hysteresis.json

A row gives recall and precision over the edge pixels of all pictures together, the intersection over union, the recall
that 95 % of single pictures reach, the share of the TFLite file's pixels that equal torch's, and milliseconds a picture
(of the torch function too, one thread). Exit code 1 when the number of steps in use, edges.HYSTERESIS_STEPS,
misses 99 % recall or precision, or its file 99.9 % equality with torch; 2 when photographs are missing or unreadable.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from faceeraser.artifacts.edges import HYSTERESIS_STEPS, canny, canny_tensor, traceable_canny
from faceeraser.measurement import results
from faceeraser.system import script

STEPS = (0, 8, 16, 24, 32, 48, 64, 96)
FLOOR = 0.99
TFLITE_FLOOR = 0.999
WARM_UP, RUNS = 10, 60
EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def photographs(folder: Path, count: int, seed: int) -> list[Path]:
    """`count` files of the folder in a seeded order; only the real ones, where a manifest.csv says which these are."""
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        with manifest.open(newline="") as rows:
            files = [folder / row["file"] for row in csv.DictReader(rows) if row["kind"] == "real"]
    else:
        files = [path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS]
    files.sort()
    order = np.random.default_rng(seed).permutation(len(files))[:count]
    return [files[i] for i in order]


def read_gray(path: Path, size: int) -> NDArray[np.float32]:
    """(size, size) float32 in [0, 1], the middle square of the picture."""
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise ValueError(f"{path}: not a picture that OpenCV can read")
    side = min(picture.shape)
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    picture = picture[top : top + side, left : left + side]
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)


def parts_mask(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Ellipses where brows, eyes, nose and mouth of an upright face lie, jittered; (size, size), 1 = erase.

    No detector: the comparison is about edges beside holes, and should not change when the detector does.
    """
    parts = [(-0.32, -0.36, 0.21, 0.07), (0.32, -0.36, 0.21, 0.07), (-0.31, -0.18, 0.17, 0.11)]
    parts += [(0.31, -0.18, 0.17, 0.11), (0.0, 0.08, 0.16, 0.24), (0.0, 0.46, 0.27, 0.13)]
    scale = size * rng.uniform(0.28, 0.42)
    centre = size * (0.5 + rng.uniform(-0.06, 0.06, 2))
    tilt = rng.uniform(-0.3, 0.3)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    mask = np.zeros((size, size), np.uint8)
    for x, y, width, height in parts:
        at = centre + scale * (turn @ np.array([x, y]))
        axes = scale * np.array([width, height]) * rng.uniform(0.85, 1.25, 2)
        angle = float(np.degrees(tilt))
        cv2.ellipse(mask, [int(v) for v in at], [max(1, int(v)) for v in axes], angle, 0, 360, 1, -1)
    return mask.astype(np.float32)


def measure_agreement(pictures: list[tuple[NDArray, NDArray]], steps: tuple[int, ...]) -> dict[int, dict[str, float]]:
    """Recall, precision, IoU over all pictures and the 5th percentile of the recall per picture, by number of steps."""
    import torch
    from tqdm import tqdm

    counts = {k: np.zeros((len(pictures), 3), np.int64) for k in steps}
    for row, (gray, mask) in enumerate(tqdm(pictures, desc="edges", unit="picture")):
        expected = canny(gray, mask) > 0
        inputs = torch.from_numpy(gray)[None, None], torch.from_numpy(mask)[None, None]
        for k in steps:
            edges = canny_tensor(*inputs, hysteresis_steps=k)[0, 0].numpy() > 0
            counts[k][row] = (edges & expected).sum(), edges.sum(), expected.sum()
    results = {}
    for k, table in counts.items():
        both, edges, expected = table.sum(0)
        with_edges = table[table[:, 2] > 0]
        results[k] = {
            "recall": float(both / max(expected, 1)),
            "precision": float(both / max(edges, 1)),
            "iou": float(both / max(edges + expected - both, 1)),
            "recall_p5": float(np.percentile(with_edges[:, 0] / with_edges[:, 2], 5)),
        }
    return results


def measure_files(pictures: list[tuple[NDArray, NDArray]], steps: tuple[int, ...]) -> dict[int, dict[str, float]]:
    """Convert each to TFLite: the share of pixels equal to torch's on 16 pictures, median milliseconds, interleaved."""
    import litert_torch
    import torch
    from ai_edge_litert.interpreter import Interpreter

    Pair = tuple[torch.Tensor, torch.Tensor]
    samples = [(torch.from_numpy(gray)[None, None], torch.from_numpy(mask)[None, None]) for gray, mask in pictures[:16]]
    runners: dict[int, Callable[[Pair], NDArray[Any]]] = {}
    equal: dict[int, float] = {}

    def run_file(run: Any, sample: Pair) -> NDArray[Any]:
        names = sorted(run.get_input_details())  # args_0 = gray, args_1 = mask
        feeds = {name: value.numpy() for name, value in zip(names, sample, strict=True)}
        return next(iter(run(**feeds).values()))

    def run_torch(k: int, sample: Pair) -> NDArray[Any]:
        return canny_tensor(*sample, hysteresis_steps=k).numpy()

    with tempfile.TemporaryDirectory() as folder:
        for k in steps:
            path = Path(folder) / f"canny{k}.tflite"
            with contextlib.redirect_stdout(sys.stderr):  # the converter's log is no part of the result
                litert_torch.convert(traceable_canny(k), samples[0]).export(str(path))
            runner = Interpreter(model_content=path.read_bytes(), num_threads=1).get_signature_runner()
            runners[k] = partial(run_file, runner)
            same = [np.equal(runners[k](sample), run_torch(k, sample)).mean() for sample in samples]
            equal[k] = float(np.mean(same))

    def timed(functions: dict[int, Callable[[Pair], Any]]) -> dict[int, float]:
        seconds: dict[int, list[float]] = {k: [] for k in steps}
        for run in range(WARM_UP + RUNS):
            for k in steps:  # in turns, so that a busy minute of the machine falls on all alike
                started = time.perf_counter()
                functions[k](samples[run % len(samples)])
                if run >= WARM_UP:
                    seconds[k].append(time.perf_counter() - started)
        return {k: 1000 * float(np.median(values)) for k, values in seconds.items()}

    # One runtime after the other: in turns each would find the other's data in the caches.
    ms = timed(runners)
    ms_torch = timed({k: partial(run_torch, k) for k in steps})
    return {k: {"tflite_equal": equal[k], "ms": ms[k], "ms_torch": ms_torch[k]} for k in steps}


def build_parser() -> argparse.ArgumentParser:
    """Command line of this script."""
    parser = script.parser(__file__, __doc__)
    parser.add_argument("photos", type=Path, help="folder of photographs; if it has a manifest.csv, only real ones are used")
    parser.add_argument("--count", type=int, default=200, help="number of photographs (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="side in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed for choosing photographs and holes (default: %(default)s)")
    script.add_json(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure, print a table and one JSON line.

    Raises:
        ValueError: no such folder, no photographs in it, or one that cannot be read.
        script.GateFailed: the number of steps in use is too far from scikit-image, or its file from torch.
    """
    import torch

    torch.set_num_threads(1)
    if args.count < 1 or args.size < 32:
        raise ValueError(f"--count {args.count} --size {args.size}: expected at least 1 and at least 32")
    if not args.photos.is_dir():
        raise ValueError(f"{args.photos}: no such folder; expected a folder of photographs")
    files = photographs(args.photos, args.count, args.seed)
    if not files:
        raise ValueError(f"{args.photos}: no photographs; expected files ending in {', '.join(sorted(EXTENSIONS))}")
    rng = np.random.default_rng(args.seed)
    pictures = [(read_gray(file, args.size), parts_mask(args.size, rng)) for file in files]
    digest = hashlib.sha256()
    for file, (gray, mask) in zip(files, pictures, strict=True):
        digest.update(file.name.encode() + gray.tobytes() + mask.tobytes())

    agreement = measure_agreement(pictures, STEPS)
    timings = measure_files(pictures, STEPS)
    rows = [
        {"name": f"K={k}", **{key: round(value, 6) for key, value in (agreement[k] | timings[k]).items()}} for k in STEPS
    ]
    data = {"name": args.photos.resolve().name, "n": len(files), "eval_sha256": digest.hexdigest()}
    result = results.result(rows, data, args.command)
    if args.json:
        results.write_result(args.json, result)
    print(f"\n{len(files)} photographs of {args.photos} at {args.size} px; in use: K={HYSTERESIS_STEPS}")
    print(tabulate(rows, headers="keys", floatfmt=".5f"))
    print(json.dumps(result), flush=True)

    used = agreement[HYSTERESIS_STEPS] | timings[HYSTERESIS_STEPS]
    floors = {"recall": FLOOR, "precision": FLOOR, "tflite_equal": TFLITE_FLOOR}
    failed = [f"{key} {used[key]:.5f} is below {floor}" for key, floor in floors.items() if used[key] < floor]
    if failed:
        raise script.GateFailed(f"K={HYSTERESIS_STEPS}: {', '.join(failed)}")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0, 1 (a gate failed) or 2 (bad input)."""
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

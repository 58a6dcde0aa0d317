"""How many steps of edge tracking does Canny need inside an exported graph?

scikit-image follows an edge to its end; a graph without loops takes a fixed number of steps. This script compares
`faceeraser.edges.canny_tensor` with `skimage.feature.canny` on photographs with parts-like holes, for several numbers
of steps, and times each as a TFLite file (LiteRT with XNNPACK, one thread):

    python benchmarks/canny.py PHOTOS --out benchmarks/results/canny_hysteresis.json

A row gives recall and precision over the edge pixels of all pictures together, the intersection over union, the recall
that 95 % of single pictures reach, the share of the TFLite file's pixels that equal torch's, and milliseconds a picture
(of the torch function too, one thread). Exit code 1 when the number of steps in use, faceeraser.edges.HYSTERESIS_STEPS,
misses 99 % recall or precision, or its file 99.9 % equality with torch; 2 when photographs are missing or unreadable.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceeraser.edges import HYSTERESIS_STEPS, canny, canny_tensor, traceable_canny

ROOT = Path(__file__).resolve().parents[1]
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
            found = canny_tensor(*inputs, hysteresis_steps=k)[0, 0].numpy() > 0
            counts[k][row] = (found & expected).sum(), found.sum(), expected.sum()
    results = {}
    for k, table in counts.items():
        both, found, expected = table.sum(0)
        with_edges = table[table[:, 2] > 0]
        results[k] = {
            "recall": float(both / max(expected, 1)),
            "precision": float(both / max(found, 1)),
            "iou": float(both / max(found + expected - both, 1)),
            "recall_p5": float(np.percentile(with_edges[:, 0] / with_edges[:, 2], 5)),
        }
    return results


def measure_files(pictures: list[tuple[NDArray, NDArray]], steps: tuple[int, ...]) -> dict[int, dict[str, float]]:
    """Convert each to TFLite: the share of pixels equal to torch's on 16 pictures, median milliseconds, interleaved."""
    import litert_torch
    import torch
    from ai_edge_litert.interpreter import Interpreter

    samples = [(torch.from_numpy(gray)[None, None], torch.from_numpy(mask)[None, None]) for gray, mask in pictures[:16]]
    runners: dict[int, Any] = {}
    equal: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for k in steps:
            path = Path(folder) / f"canny{k}.tflite"
            with contextlib.redirect_stdout(sys.stderr):  # the converter's log is no part of the result
                litert_torch.convert(traceable_canny(k), samples[0]).export(str(path))
            runner = Interpreter(model_content=path.read_bytes(), num_threads=1).get_signature_runner()
            names = sorted(runner.get_input_details())  # args_0 = gray, args_1 = mask
            runners[k] = lambda pair, run=runner, names=names: run(
                **{name: value.numpy() for name, value in zip(names, pair, strict=True)}
            )
            from_file = [next(iter(runners[k](sample).values())) for sample in samples]
            from_torch = [canny_tensor(*sample, hysteresis_steps=k).numpy() for sample in samples]
            equal[k] = float(np.mean(np.equal(from_file, from_torch)))
    seconds: dict[int, list[float]] = {k: [] for k in steps}
    torch_seconds: dict[int, list[float]] = {k: [] for k in steps}
    for run in range(WARM_UP + RUNS):
        for k in steps:
            sample = samples[run % len(samples)]
            started = time.perf_counter()
            runners[k](sample)
            between = time.perf_counter()
            canny_tensor(*sample, hysteresis_steps=k)
            ended = time.perf_counter()
            if run >= WARM_UP:
                seconds[k].append(between - started)
                torch_seconds[k].append(ended - between)

    def milliseconds(times: list[float]) -> float:
        return 1000 * float(np.median(times))

    return {
        k: {"tflite_equal": equal[k], "ms": milliseconds(seconds[k]), "ms_torch": milliseconds(torch_seconds[k])}
        for k in steps
    }


def provenance() -> dict[str, Any]:
    """The commit, machine and versions a result was made with."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        cpu = next((x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if "model name" in x), cpu)
    packages = ("numpy", "torch", "scikit-image", "litert-torch", "ai-edge-litert", "opencv-python-headless")
    return {
        "commit": git.stdout.strip() if git.returncode == 0 else None,
        "hardware": {"machine": platform.machine(), "cpu": cpu, "threads": 1, "system": platform.system()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def build_parser() -> argparse.ArgumentParser:
    """Command line of this script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("photos", type=Path, help="folder of photographs; a manifest.csv there picks the real ones")
    parser.add_argument("--count", type=int, default=200, help="how many photographs (default: 200)")
    parser.add_argument("--size", type=int, default=256, help="side they are resized to, in pixels (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the photographs and the holes (default: 0)")
    parser.add_argument("--out", type=Path, help="also write the result to this JSON file")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table and one JSON line; returns 0, 1 (too far from skimage) or 2 (bad input)."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(argv)
    import torch

    torch.set_num_threads(1)
    try:
        if arguments.count < 1 or arguments.size < 32:
            raise ValueError("--count must be at least 1 and --size at least 32")
        if not arguments.photos.is_dir():
            raise ValueError(f"{arguments.photos}: no such folder; expected a folder of photographs")
        files = photographs(arguments.photos, arguments.count, arguments.seed)
        if not files:
            raise ValueError(f"{arguments.photos}: no photographs; expected {', '.join(sorted(EXTENSIONS))}")
        rng = np.random.default_rng(arguments.seed)
        pictures = [(read_gray(file, arguments.size), parts_mask(arguments.size, rng)) for file in files]
    except ValueError as error:
        print(f"canny.py: {error}", file=sys.stderr)
        return 2

    digest = hashlib.sha256()
    for file, (gray, mask) in zip(files, pictures, strict=True):
        digest.update(file.name.encode())
        digest.update(gray.tobytes())
        digest.update(mask.tobytes())
    agreement = measure_agreement(pictures, STEPS)
    timings = measure_files(pictures, STEPS)
    rows = [
        {"name": f"K={k}", **{key: round(value, 6) for key, value in (agreement[k] | timings[k]).items()}}
        for k in STEPS
    ]
    result = {
        "command": "python benchmarks/canny.py " + shlex.join(argv),
        **provenance(),
        "data": {"name": arguments.photos.resolve().name, "n": len(files), "eval_sha256": digest.hexdigest()},
        "rows": rows,
    }

    print("{:>6} {:>9} {:>9} {:>9} {:>9} {:>12} {:>8} {:>8}".format("", *list(rows[0])[1:]))
    for row in rows:
        mark = "  <- in use" if row["name"] == f"K={HYSTERESIS_STEPS}" else ""
        print("{:>6} {:9.5f} {:9.5f} {:9.5f} {:9.5f} {:12.5f} {:8.2f} {:8.2f}".format(*row.values()) + mark)
    print(json.dumps(result))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")

    used = agreement[HYSTERESIS_STEPS]
    failures = [f"{key} {used[key]:.5f} < {FLOOR}" for key in ("recall", "precision") if used[key] < FLOOR]
    if timings[HYSTERESIS_STEPS]["tflite_equal"] < TFLITE_FLOOR:
        failures.append(f"tflite_equal {timings[HYSTERESIS_STEPS]['tflite_equal']:.5f} < {TFLITE_FLOOR}")
    for failure in failures:
        print(f"canny.py: K={HYSTERESIS_STEPS}: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

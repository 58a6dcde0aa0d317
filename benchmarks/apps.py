"""What a user waits for and sees: a photograph's milliseconds, a video's frames a second, and how steady what is painted is.

    python benchmarks/apps.py PHOTOS --json benchmarks/results/apps.json
    python benchmarks/apps.py PHOTOS --previous old old/int8.tflite --turns 3 --json benchmarks/results/apps.json

photo_1080p          `ms`, median: a JPEG of 1920x1080 with one face in, a JPEG out, on one core
video_480p_1, _2     `fps` on one and on two cores: frames of 640x480 in memory, all but decode and encode (find, landmarks,
                     mask, cut, model, paste); `fps_files`: the same from an .mp4 into an .mp4. What both give is compared.
waits_...            the same, a video with drawn glasses, and a JPEG of 4000x3000 with a face of 1,500 pixels
                     (portrait_12mp), each in a process of its own (waits.py), by this version and by --previous in turns:
                     `cpu_ms` for a picture or a frame is what the process computed, on two cores `ms` is what passed;
                     `ratio` to --previous is of those, the median over the turns; `steps_ms`; `peak_mb`; `model_times`, in
                     times of --previous's model
temporal             mean |erase(T(x)) - T(erase(x))| inside the hole, in levels of 255, for shifts of 8 pixels, turns of 10
                     degrees and 5 % of exposure, both ways each, on the first faces of PHOTOS; `ratio` is to Navier-Stokes.
                     The photograph is changed, and erased as the command does it: the face is found anew
tracking             how far landmarks tremble from frame to frame and trail behind, in eye distances, raw and smoothed with
                     faceeraser/face/tracking.json: a head at rest under noise, and one that moves fast
temporal_model       the same of the model alone: its crop and its mask are changed, and nothing is found or levelled

`share` is what each step took of all steps' time. Moving frames are made of --photo (scikit-image's astronaut): a path of
shifts, turns and zooms. The process keeps itself on one core and then on two; nothing else should run beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from faceeraser import shipped
from faceeraser.erasing import Eraser, shares
from faceeraser.face import finder, tracking, video
from faceeraser.face.crops import align, paste_back
from faceeraser.face.finder import find_faces
from faceeraser.face.glasses import draw_glasses
from faceeraser.face.masks import face_mask
from faceeraser.face.mesh import Face, transform
from faceeraser.face.picture import read as read_picture
from faceeraser.face.picture import write as write_picture
from faceeraser.face.picture import writing as writing_picture
from faceeraser.face.profiles import FEATURES
from faceeraser.face.tracking import Tracker
from faceeraser.measurement import metrics, results
from faceeraser.model import pairs
from faceeraser.system import script

FPS = 30.0
WARM_UP = 10
SMALL, LARGE = (640, 480), (1920, 1080)
SIDE = 256  # of the crop, which is the size of the models that ship
GOALS = {
    "photo_1080p": ("ms", 100.0),
    "video_480p_1": ("fps", 30.0),
    "video_480p_2": ("fps", 60.0),
    "temporal": ("ratio", 1.5),
    "temporal_model": ("ratio", 1.5),
}
AGAINST = {
    "waits_video_480p_1": ("ratio", 0.4),
    "waits_video_480p_2": ("ratio", 0.4),
    "waits_video_glasses_1": ("ratio", 0.4),
    "waits_photo_1080p": ("ratio", 0.6),
    "waits_portrait_12mp": ("model_times", 8.0),
}
PORTRAIT, PORTRAIT_FACE = (4000, 3000), 1500.0
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]
Change = Callable[[np.ndarray], np.ndarray]


def photograph(args: Namespace) -> tuple[np.ndarray, Face]:
    """The photograph that is timed, and its largest face."""
    if args.photo is None:
        from skimage.data import astronaut

        image = np.ascontiguousarray(astronaut())
    else:
        image = read_picture(args.photo).image
    if not (faces := find_faces(image)):
        raise ValueError(f"--photo {args.photo}: no face found; expected a photograph of one")
    return image, faces[0]


def pose(face: Face, size: tuple[int, int], seconds: float | None) -> np.ndarray:
    """The 2x3 matrix from the photograph to a frame of `size` (width, height) in which the face is a third as high; after
    `seconds` on its path, or at rest.
    """
    width, height = size
    shift, turn, zoom = np.zeros(2), 0.0, height / 3 / np.ptp(face.mesh[:, 1])
    if seconds is not None:
        phase = 2 * np.pi * seconds
        shift = np.array([0.09 * np.sin(0.25 * phase), 0.05 * np.sin(0.35 * phase)]) * height
        turn, zoom = 8 * np.sin(0.3 * phase), zoom * (1 + 0.15 * np.sin(0.2 * phase))
    middle = face.mesh.mean(0)
    matrix = cv2.getRotationMatrix2D(tuple(map(float, middle)), turn, float(zoom))
    matrix[:, 2] += np.array([width / 2, height / 2]) + shift - middle
    return matrix


def scene(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame of `size` (width, height): the photograph, moved."""
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def moving(image: np.ndarray, face: Face, count: int) -> list[np.ndarray]:
    """`count` frames of 640x480 on the path."""
    return [scene(image, pose(face, SMALL, number / FPS), SMALL) for number in range(count)]


def on_cores(number: int) -> bool:
    """Keep this process on so many cores; False where there are fewer, or the system does not know how."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    cores = sorted(ALL_CORES)
    if len(cores) < number:
        return False
    os.sched_setaffinity(0, cores[:number])
    return True


ALL_CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def time_photograph(args: Namespace, image: np.ndarray, face: Face, folder: Path) -> dict[str, Any]:
    """The row photo_1080p."""
    eraser, source, target = Eraser(args.model), folder / "photo.jpg", folder / "erased.jpg"
    write_picture(source, scene(image, pose(face, LARGE, None), LARGE))
    times = []
    for run in tqdm(range(-3, args.runs), desc="photo", leave=False):
        if run == 0:
            eraser.clock.clear()
        began = time.perf_counter()
        eraser.clock.start()
        page = read_picture(source)
        eraser.clock("decode")
        erased = eraser.photograph(page.image)
        eraser.clock.start()
        with writing_picture(target) as put:
            put(page.erased(erased.image, erased.mask))
        eraser.clock("encode")
        times.append((time.perf_counter() - began) * 1e3)
        if len(erased.faces) != 1 or not target.stat().st_size:
            raise ValueError(f"--photo {args.photo}: found {len(erased.faces)} faces at 1920x1080; expected one")
    return {
        "name": "photo_1080p",
        "cores": 1,
        "ms": statistics.median(times[3:]),
        "p90_ms": float(np.percentile(times[3:], 90)),
        "n": args.runs,
        "share": shares(eraser.clock),
    }


def time_video(args: Namespace, frames: Sequence[np.ndarray], cores: int, folder: Path) -> tuple[dict[str, Any], str]:
    """The row of a video on so many cores, and a digest of the frames that came out."""
    eraser = Eraser(args.model, workers=cores)

    def timed(images: Iterator[np.ndarray] | Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, float]]:
        return ((image, 1 / FPS) for image in images)

    for _ in eraser.frames(timed(frames[:WARM_UP]), Tracker(finder.shared())):
        pass
    tracker, digest = Tracker(finder.shared()), hashlib.sha256()
    erased = []
    began = time.perf_counter()
    for result in eraser.frames(timed(frames), tracker):
        erased.append(result)
    fps = len(frames) / (time.perf_counter() - began)
    for result in erased:
        digest.update(result.image.tobytes())
    followed = sum(len(result.faces) == 1 for result in erased)
    del erased
    source, target = folder / "clip.mp4", folder / f"erased-{cores}.mp4"
    if not source.exists():
        with video.writing(source, FPS) as write:
            for frame in frames:
                write(frame)
    eraser.clock.clear()
    clip = video.Clip(source)
    began = time.perf_counter()
    waiting: deque[video.Frame] = deque()

    def shown() -> Iterator[tuple[np.ndarray, float]]:
        for frame in clip:
            waiting.append(frame)
            yield frame.image, frame.seconds

    with video.writing(target, clip=clip) as write:
        for result in eraser.frames(shown(), Tracker(finder.shared())):
            eraser.clock.start()
            write(result.image, waiting.popleft(), result.mask)
            eraser.clock("encode")
    row = {
        "name": f"video_480p_{cores}",
        "cores": cores,
        "fps": fps,
        "fps_files": len(frames) / (time.perf_counter() - began),
        "n": len(frames),
        "with_face": followed,
        "looks": tracker.looks,
        "share": shares(eraser.clock),
    }
    return row, digest.hexdigest()


def sources(image: np.ndarray, face: Face, frames: Sequence[np.ndarray], folder: Path) -> dict[str, tuple[Path, int]]:
    """{row: (file, cores)} of what is timed in processes of their own; the files are written."""
    glasses = image.copy()
    glasses[draw_glasses(face, image.shape, lenses=False)] = (25, 20, 20)
    for name, video_frames in (("video", frames), ("glasses", moving(glasses, face, len(frames)))):
        np.save(folder / f"{name}.npy", np.stack(video_frames))
    scale, middle = PORTRAIT_FACE / np.ptp(face.mesh[:, 1]), face.mesh.mean(0)
    shift = np.array(PORTRAIT) / 2 - scale * middle
    large = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    write_picture(folder / "photo.jpg", scene(image, pose(face, LARGE, None), LARGE))
    write_picture(folder / "portrait.jpg", scene(image, large, PORTRAIT))
    return {
        "waits_video_480p_1": (folder / "video.npy", 1),
        "waits_video_480p_2": (folder / "video.npy", 2),
        "waits_video_glasses_1": (folder / "glasses.npy", 1),
        "waits_photo_1080p": (folder / "photo.jpg", 1),
        "waits_portrait_12mp": (folder / "portrait.jpg", 1),
    }


def wait(tree: Path, model: Path, source: Path, cores: int, runs: int) -> dict[str, Any]:
    """What waits.py prints, of the package in a folder."""
    command = [sys.executable, str(Path(__file__).with_name("waits.py")), str(source), str(model)]
    env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--cores", str(cores), "--runs", str(runs)], capture_output=True, text=True, check=False, env=env
    )
    if done.returncode:
        raise ValueError(f"{tree}: {(done.stderr.strip().splitlines() or ['nothing was printed'])[-1]}")
    printed: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return printed


def waits(args: Namespace, given: dict[str, tuple[Path, int]]) -> list[dict[str, Any]]:
    """The rows beside --previous, or without."""
    ours = (Path(__file__).resolve().parent.parent, args.model)
    versions = [ours, (args.previous[0], args.previous[1])] if args.previous else [ours]
    rows = []
    for name, (source, cores) in given.items():
        runs = max(1, args.runs // 10) if source.suffix == ".npy" else max(1, args.runs // 3)
        turns = [[wait(tree, model, source, cores, runs) for tree, model in versions] for _ in range(args.turns)]
        figure = "cpu_ms" if cores == 1 else "ms"
        row, *others = (min(column, key=lambda measured: measured[figure]) for column in zip(*turns, strict=True))
        row = {"name": name, "cores": cores, **row, "n": runs * args.turns}
        if others:
            row["previous"] = others[0]
            row["ratio"] = statistics.median(first[figure] / last[figure] for first, last in turns)
            if cores == 1:
                row["model_times"] = row["cpu_ms"] / others[0]["steps_ms"]["model"]
        rows.append(row)
    return rows


def tracking_row(image: np.ndarray, face: Face, seconds: float = 3.0) -> dict[str, Any]:
    """The row `tracking`: how the landmarks tremble and trail, as the model gives them and smoothed, in eye distances.

    The head rests under a camera's noise (standard deviation 4 levels), then goes along its path at four times its speed.
    Where the landmarks should be is known but for what the model always does wrong: their mean, moved along.
    """
    rng, counts = np.random.default_rng(0), {}
    for name, speed in (("rest", None), ("moving", 4.0)):
        poses = [pose(face, SMALL, None if speed is None else speed * k / FPS) for k in range(round(seconds * FPS))]
        tracker, tracks = Tracker(finder.shared()), []
        for matrix in tqdm(poses, desc=f"tracking, {name}", leave=False):
            frame = scene(image, matrix, SMALL) + rng.normal(0, 4, (*SMALL[::-1], 3)).astype(np.float32)
            tracked = tracker(np.clip(frame, 0, 255).astype(np.uint8), 1 / FPS)
            if len(tracked) != 1:
                raise ValueError(f"found {len(tracked)} faces in a frame of the moving photograph; expected one")
            tracks.append(tracked[0])
        back = [transform(cv2.invertAffineTransform(m), t.seen.mesh) for m, t in zip(poses, tracks, strict=True)]
        truth = np.array([transform(matrix, np.mean(back, axis=0)) for matrix in poses])
        for which, attribute in (("raw", "seen"), ("smoothed", "face")):
            off = (np.array([getattr(track, attribute).mesh for track in tracks]) - truth)[5:] / tracks[0].face.eye_distance
            counts[f"{name}_jitter_{which}"] = float(np.linalg.norm(np.diff(off, axis=0), axis=2).mean())
            counts[f"{name}_lag_{which}"] = float(np.linalg.norm(off.mean(1), axis=1).mean())
    return {"name": "tracking", **counts, "n": 2 * round(seconds * FPS), "constants": asdict(tracking.read())}


def changes(shape: Sequence[int]) -> dict[str, list[tuple[Change, Change]]]:
    """{kind: (what is done to a picture of this shape, what is done to a mask) of each of its two directions}."""

    def moved(matrix: np.ndarray, smooth: int, border: int) -> Change:
        return lambda p: cv2.warpAffine(p, matrix, p.shape[1::-1], flags=smooth, borderMode=border)

    def both(matrix: np.ndarray) -> tuple[Change, Change]:
        picture = moved(matrix, cv2.INTER_CUBIC, cv2.BORDER_REPLICATE)
        return picture, moved(matrix, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)

    def lit(factor: float) -> Change:
        return lambda p: cv2.convertScaleAbs(p, alpha=factor)

    shifts = [np.array([[1.0, 0, x], [0, 1.0, y]]) for x, y in ((8, 0), (0, 8))]
    turns = [cv2.getRotationMatrix2D(((shape[1] - 1) / 2, (shape[0] - 1) / 2), angle, 1.0) for angle in (10, -10)]
    return {
        "shift": [both(matrix) for matrix in shifts],
        "turn": [both(matrix) for matrix in turns],
        "exposure": [(lit(factor), lambda mask: mask) for factor in (1.05, 0.95)],
    }


def unsteadiness(erase: Method, image: np.ndarray, hole: np.ndarray, kind: Sequence[tuple[Change, Change]]) -> float:
    """Mean |erase(T(x)) - T(erase(x))| inside the moved hole, in levels of 255, over a kind's directions.

    erase: (picture, its hole) -> the picture erased.
    """
    still = erase(image, hole)
    changes = []
    for change, of_hole in kind:
        moved = of_hole(hole)
        difference = cv2.absdiff(erase(change(image), moved), change(still))
        changes.append(float(difference[moved > 0].mean()))
    return statistics.mean(changes)


def as_the_command(method: Method, parts: Sequence[str], glasses: str) -> Method:
    """`faceeraser erase` with any method: the face that lies over the hole is found anew, cut out level and pasted back."""

    def erase(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        middle = np.argwhere(hole).mean(0)[::-1]
        seen = find_faces(image)
        if not seen:
            raise LookupError
        face = min(seen, key=lambda candidate: float(np.hypot(*(candidate.mesh.mean(0) - middle))))
        mask, _ = face_mask(image, face, SIDE, parts, glasses)
        crop, matrix = align(image, face, SIDE)
        return paste_back(image, method(crop, mask.astype(np.uint8)), matrix, mask)

    return erase


def temporal(args: Namespace) -> list[dict[str, Any]]:
    """The rows of what is steady: as the command does it and of the model alone, one for each kind of change and for all."""
    model = Eraser(args.model)
    if model.resolution != SIDE:
        raise ValueError(f"--model {args.model}: takes {model.resolution} pixels; expected {SIDE}, as the shifts are set")
    methods: dict[str, Method] = {"ours": model.erase_crop, "navier_stokes": metrics.fill_navier_stokes}
    differences: dict[str, dict[str, dict[str, list[float]]]] = {"temporal": {}, "temporal_model": {}}
    done = 0
    bar = tqdm(total=args.faces, desc="temporal", unit="face", leave=False)
    for file in pairs.photographs(args.photos):
        if done == args.faces:
            break
        image = read_picture(file).image
        if not (seen := find_faces(image)):
            continue
        mask, wears = face_mask(image, seen[0], SIDE)
        crop, matrix = align(image, seen[0], SIDE)
        marked = paste_back(image, 255 - crop, matrix, mask)
        hole = (cv2.absdiff(marked, image).max(2) > 0).astype(np.uint8)
        measured = []
        try:
            for name, method in methods.items():
                command = as_the_command(method, FEATURES, "on" if wears else "off")
                for row, erase, picture, where in (
                    ("temporal", command, image, hole),
                    ("temporal_model", method, crop, mask.astype(np.uint8)),
                ):
                    for kind, ways in changes(picture.shape).items():
                        measured.append((row, kind, name, unsteadiness(erase, picture, where, ways)))
        except LookupError:  # once it is turned it is no face any more
            continue
        for row, kind, name, value in measured:
            differences[row].setdefault(kind, {each: [] for each in methods})[name].append(value)
        done += 1
        bar.update()
    bar.close()
    if done < args.faces:
        raise ValueError(f"{args.photos}: found a face in {done} photographs; expected {args.faces}, or a smaller --faces")
    rows = []
    for row, kinds in differences.items():
        means = {kind: {name: statistics.mean(values) for name, values in of.items()} for kind, of in kinds.items()}
        means |= {"": {name: statistics.mean(values_of[name] for values_of in means.values()) for name in methods}}
        for kind, mean in means.items():
            # Navier-Stokes alone may be exactly steady: it does the same at every place, and eight pixels are whole ones.
            ratio = mean["ours"] / mean["navier_stokes"] if mean["navier_stokes"] else None
            rows.append({"name": f"{row}_{kind}" if kind else row, **mean, "ratio": ratio, "n": done})
    return rows


def run(args: Namespace) -> None:
    if args.frames < 2 * WARM_UP or min(args.runs, args.faces, args.turns) < 1:
        asked = f"--frames {args.frames} --runs {args.runs} --faces {args.faces} --turns {args.turns}"
        raise ValueError(f"found {asked}; expected at least {2 * WARM_UP}, 1, 1 and 1")
    cv2.setNumThreads(1)
    rows, digests = [], []
    try:
        image, face = photograph(args)
        with tempfile.TemporaryDirectory() as scratch:
            frames = moving(image, face, args.frames)
            rows += waits(args, sources(image, face, frames, Path(scratch)))
            if on_cores(1):
                rows.append(time_photograph(args, image, face, Path(scratch)))
            for cores in (1, 2):
                if on_cores(cores):
                    row, digest = time_video(args, frames, cores, Path(scratch))
                    rows.append(row)
                    digests.append(digest)
    finally:
        if ALL_CORES:
            os.sched_setaffinity(0, ALL_CORES)
    if len(set(digests)) > 1:
        raise script.GateFailed("two cores gave different frames from one; expected the same, bit for bit")
    rows += [tracking_row(image, face), *temporal(args)]
    for row in rows:
        if row["name"] in GOALS:
            figure, goal = GOALS[row["name"]]
            row |= {"goal": goal, "met": bool(row[figure] >= goal if figure == "fps" else row[figure] <= goal)}
        if args.previous and row["name"] in AGAINST:
            figure, goal = AGAINST[row["name"]]
            row |= {"goal": goal, "met": bool(row[figure] <= goal)}
    about = {"name": args.photos.resolve().name, "n": args.faces, "eval_sha256": None}
    photo = "skimage.data.astronaut" if args.photo is None else args.photo.name
    about |= {"photo": photo, "model": results.portable(args.model)}
    result = results.result(rows, about, args.command)
    if args.json:
        results.write_result(args.json, result)
    columns = ("name", "ms", "cpu_ms", "peak_mb", "fps", "fps_files", "ours", "navier_stokes", "ratio", "n", "goal", "met")
    script.finish(f"{args.model.name}; shares are in the JSON", [{c: row.get(c) for c in columns} for row in rows], result)


def build_parser() -> ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="folder of photographs of faces")
    parser.add_argument("--model", type=Path, default=shipped.PLAN_FILE, metavar="FILE", help="default: the one that ships")
    parser.add_argument("--photo", type=Path, metavar="FILE", help="what is timed (default: scikit-image's astronaut)")
    parser.add_argument(
        "--previous",
        nargs=2,
        type=Path,
        metavar=("FOLDER", "FILE"),
        help="an earlier version to be faster than: the folder that holds its package, and its model",
    )
    parser.add_argument("--turns", type=int, default=1, help="of this version and --previous (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=300, help="of each video (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=30, help="timed runs of the photograph (default: %(default)s)")
    parser.add_argument("--faces", type=int, default=30, help="photographs of `temporal` (default: %(default)s)")
    script.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

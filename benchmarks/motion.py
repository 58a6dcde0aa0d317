"""Is erased skin as steady in a video as the skin beside it, and does it keep its pores?

    python benchmarks/motion.py PHOTOS int8=faceeraser/weights/plan.tflite --previous old/int8.tflite --json motion.json

Each photograph becomes two clips with a camera's noise on them, drawn anew in every frame: `still`, and `moving`, where the
picture wanders, turns and comes nearer. They are erased as a video is, with a tracker and with sources that are held. Frames
are then moved back to the first one's place, all pixels alike, so what is left to change over time is noise and what the
eraser does. `deviation` is the median over pixels of the standard deviation over time in the hole, over that of the person's
own skin beside it: 1 is as alive as skin, less is frozen or blurred, more swims or flickers. `texture` is that of looks.py
on those same frames, since a blur is steady too. Goals: deviation 0.8 to 1.2, texture at least 0.85.
"""

from __future__ import annotations

import statistics
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from faceeraser.erasing import Eraser
from faceeraser.face import finder, picture
from faceeraser.face.tracking import Tracker
from faceeraser.measurement import looks, results
from faceeraser.model import opening, pairs
from faceeraser.system import script

FACE = 300.0  # pixels across of the largest face that is measured: larger photographs are made smaller
NOISE = 2.0  # levels of 255, the standard deviation of a camera's noise in good light
FPS = 30.0
CLIPS = ("still", "moving")
GOALS = {"deviation": (0.8, 1.2), "texture": (0.85, float("inf"))}


def build_parser() -> ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="a folder of photographs")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="name=PATH of a checkpoint folder or an exported file")
    parser.add_argument("--previous", type=Path, metavar="FILE", help="one more model, the one to beat")
    parser.add_argument("--faces", type=int, default=20, help="number of photographs (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=16, help="frames per clip (default: %(default)s)")
    script.add_json(parser)
    return parser


def paths(kind: str, frames: int, shape: Sequence[int]) -> list[np.ndarray]:
    """The 2x3 matrix from the photograph to each frame of a clip; the first one leaves it as it is."""
    height, width = shape[:2]
    ways = []
    for t in np.linspace(0.0, 1.0, frames) if kind == "moving" else np.zeros(frames):
        way = cv2.getRotationMatrix2D((width / 2, height / 2), 4.0 * float(np.sin(2 * t)), 1.0 + 0.06 * float(t))
        way[:, 2] += np.array([0.04 * width * np.sin(3 * t), 0.03 * height * t])
        ways.append(way)
    return ways


def clip_of(image: np.ndarray, ways: Sequence[np.ndarray], seed: int) -> list[tuple[np.ndarray, float]]:
    """Frames, each with its own noise, and the seconds since the one before."""
    rng = np.random.default_rng(seed)
    frames = []
    for way in ways:
        moved = cv2.warpAffine(image, way, image.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        noisy = moved + rng.normal(0, NOISE, moved.shape)
        frames.append((np.clip(np.rint(noisy), 0, 255).astype(np.uint8), 1 / FPS))
    return frames


def measured(eraser: Eraser, frames: list[tuple[np.ndarray, float]], ways: Sequence[np.ndarray]) -> dict[str, float] | None:
    """`deviation` and `texture` of an erased clip; None where its face is lost or too little of its skin is seen."""
    erased = list(eraser.frames(frames, Tracker(finder.shared())))
    if any(len(frame.faces) == 0 for frame in erased):
        return None
    faces = [max(frame.faces, key=lambda face: face.width) for frame in erased]
    scenes = [
        looks.scene_of(before, frame.image, face.mesh, looks.scale_of(face.mesh))
        for (before, _), frame, face in zip(frames, erased, faces, strict=True)
    ]
    if (first := scenes[0]) is None:
        return None
    textures = [looks.figures_of(scene)["texture"] for scene in scenes if scene is not None]
    # The scene is cut out of the photograph: its regions, back in the whole picture.
    hole, skin = (_whole(region, erased[0].image.shape, faces[0]) for region in (first.hole, first.skin))
    over_time = {}
    for name, pictures in (("hole", [frame.image for frame in erased]), ("skin", [before for before, _ in frames])):
        back = [_luma_at_first(frame, way, ways[0]) for frame, way in zip(pictures, ways, strict=True)]
        over_time[name] = np.std(np.stack(back), axis=0)
    inside, beside = float(np.median(over_time["hole"][hole])), float(np.median(over_time["skin"][skin]))
    return {"deviation": inside / max(beside, 1e-6), "texture": statistics.median(textures)}


def _whole(region: np.ndarray, shape: Sequence[int], face: Any) -> np.ndarray:
    """A region of a `looks.Scene` of a face in its photograph, (H, W) bool."""
    low = looks.corner_of(face.mesh, looks.scale_of(face.mesh))
    whole = np.zeros(shape[:2], bool)
    whole[low[1] : low[1] + region.shape[0], low[0] : low[0] + region.shape[1]] = region
    return whole


def _luma_at_first(frame: np.ndarray, way: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Luma of a frame, moved to where the first one has it."""
    back = np.vstack([way, [0, 0, 1]]) @ np.linalg.inv(np.vstack([first, [0, 0, 1]]))
    luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(luma, back[:2], luma.shape[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT)


def run(args: Namespace) -> None:
    if args.faces < 1 or args.frames < 4:
        raise ValueError(f"found --faces {args.faces} --frames {args.frames}; expected at least 1 and 4")
    given = [opening.named(text) for text in args.models]
    models = [(name or path.stem, path) for name, path in given]
    if args.previous:
        models.append(("previous", args.previous))
    erasers = {name: Eraser(path) for name, path in models}
    figures_of: dict[str, list[Mapping[str, float]]] = {f"{name} {kind}": [] for name in erasers for kind in CLIPS}
    done = 0
    bar = tqdm(total=args.faces, desc="motion", unit="face")
    for number, file in enumerate(pairs.photographs(args.photos)):
        image = picture.read(file).image
        around = finder.find_faces(image)
        if not around:
            continue
        if (scale := FACE / around[0].width) < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        figures: dict[str, dict[str, float] | None] = {}
        for kind in CLIPS:
            ways = paths(kind, args.frames, image.shape)
            frames = clip_of(image, ways, number)
            figures |= {f"{name} {kind}": measured(eraser, frames, ways) for name, eraser in erasers.items()}
        if any(figure is None for figure in figures.values()):
            continue
        for name, figure in figures.items():
            figures_of[name].append(figure or {})
        done += 1
        bar.update()
        if done == args.faces:
            break
    bar.close()
    if not done:
        raise ValueError(f"{args.photos}: found no face that stays in view; expected some")
    rows: list[dict[str, Any]] = [
        {"name": name, **{figure: looks.summary([value[figure] for value in values]) for figure in GOALS}, "n": done}
        for name, values in figures_of.items()
    ]
    for row in rows:
        medians = {figure: row[figure]["median"] for figure in GOALS}
        row["goals"] = {figure: low <= medians[figure] <= high for figure, (low, high) in GOALS.items()}
    about = {"name": args.photos.resolve().name, "n": done, "eval_sha256": None}
    result = results.result(rows, about, args.command)
    if args.json:
        results.write_result(args.json, result)
    shown = [
        {"name": row["name"], **{figure: row[figure]["median"] for figure in GOALS}, "met": all(row["goals"].values())}
        for row in rows
    ]
    script.finish(f"{done} faces, clips of {args.frames} frames; medians", shown, result)


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

"""Golden vectors: what finder, masks, crops, painting and effects make of a face, for the ports (web_demo, android_demo).

    python tests/golden/make_face.py FOLDER

FOLDER gets `face.json` and raw arrays beside it, little-endian, rows from the top, channels last, in files that are named by
their content: `crop.upright.u8` is uint8, `.f32` float32. `face.json` is

    {"known": what serve.known() tells of the mesh and its parts,
     "cases": {name: {
        "shape": [height, width, 3],          the picture is picture.NAME.u8
        "models": [{"input": ARRAY, "outputs": [ARRAY, ARRAY]}, ...],   in the order they are run: detector, meshes, follow
        "detections": [{"points": [[x, y] * 8], "score": s}, ...],
        "mesh": [[x, y] * 468], "eyes": [[x, y], [x, y]], "eye_distance": pixels, "roll": degrees,   of the largest face
        "followed": [[x, y] * 468],           the mesh of FaceFinder.follow() from there, in the same picture
        "matrix": [[a, b, x], [c, d, y]],     picture to crop coordinates, of align() at 256
        "masks": {"brows,eyes": ARRAY, ...},  of face_mask() at 256 without glasses, by what is erased: 1 = erase
        "crop": ARRAY, "sharp": ARRAY,        of align(), as it is planned on; as it is painted
        "whole": ARRAY,                       with_creases() of the crop and all parts
        "lined": ARRAY, "creased": ARRAY,     the crop with creases drawn beside the mask, and with_creases() of that
        "front": ARRAY, "bare": ARRAY, "share": ARRAY,   of Occluders() for the crop; of trimmed() for that and `whole`
        "plan": {"skin": ARRAY, "shading": ARRAY, "sources": ARRAY},   of the file that ships, for the crop under `bare`
        "erased": ARRAY,                      the picture, painted by that plan and `share`
        "erased_moving": ARRAY,               the same as a frame of a video
        "front_fringe", "bare_fringe", "share_fringe", "plan_fringe", "erased_fringe": the same with something in front
        "skin_of": share,                     painting.skin_of() of the plan's own sources
        "picture_grey", "crop_grey", "erased_grey": ARRAY,   in grey, painted by `plan` under `bare` without a share
        "painted": ARRAY, "pasted": ARRAY,    (256, 256, 3), the crop erased in its own grid; that pasted back
        "effects": {name: ARRAY}}},           on `erased`, with the fast blend
     "video": {
        "frames": ARRAY,                      (n, height, width, 3)
        "seconds": s,                         from frame to frame
        "constants": {...},                   as tracking.json has them, but for detect_every, which is small
        "models": [...],                      as above
        "faces": [[[x, y] * 468, ...], ...],  the meshes of tracking.Tracker's faces in every frame
        "numbers": [[n, ...], ...]},          and their numbers, where the first is 1
     "held": [{"number": n, "skin": ARRAY, "sources": ARRAY,   a face's plan, frame after frame
               "steady": ARRAY}, ...]}        and the sources that painting.Held gives for it

where ARRAY is {"file": name, "shape": [...]}. The cases are scikit-image's astronaut (NASA, public domain): upright, turned,
small in the picture (cubic sampling, a blurred paste) and large in it (averaged areas). What is between -0.5 and 0.5 of a
level differs by compiler; what a port may differ by is said in its own test. In the video she moves, is gone for two frames,
and comes back elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage.data import astronaut

from faceeraser import WEIGHTS, serve
from faceeraser.artifacts import painting
from faceeraser.artifacts.artifact import Artifact
from faceeraser.face import effects, finder, occluders, tracking
from faceeraser.face.crops import align, paste_back
from faceeraser.face.finder import Detection, FaceFinder, Looked
from faceeraser.face.masks import face_mask, with_creases
from faceeraser.face.mesh import OVAL, Face

SIZE = 256
MASKS = ("brows,eyes,nose,mouth", "brows,eyes", "mouth", "nose")


def pictures() -> dict[str, np.ndarray]:
    """Name and picture, (H, W, 3) uint8 RGB, of every case."""
    picture = np.ascontiguousarray(astronaut())
    turn = cv2.getRotationMatrix2D((223.0, 120.0), 23.0, 0.9)
    return {
        "upright": picture,
        "turned": cv2.warpAffine(picture, turn, (400, 300), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT),
        "small": cv2.resize(picture, (333, 333), interpolation=cv2.INTER_AREA),
        "large": cv2.resize(picture[:300, 70:390], (1280, 1200), interpolation=cv2.INTER_CUBIC),
    }


def video() -> np.ndarray:
    """Frames, (10, 240, 320, 3) uint8 RGB."""
    picture, frames = np.ascontiguousarray(astronaut()), []
    for k in range(10):
        shift = (-60.0 + 3 * k, -10.0 - 2 * k) if k < 5 else (-110.0 + 2 * k, -30.0)
        matrix = np.array([[0.95, 0, shift[0]], [0, 0.95, shift[1]]])
        frames.append(cv2.warpAffine(picture, matrix, (320, 240)))
    frames[5][:], frames[6][:] = 90, 90
    return np.stack(frames)


class AsThePage(FaceFinder):
    """Looks as the page and the app do: at the whole picture, and closer only where nothing is found there. To look closer
    always, for small faces beside a large one, is Python's alone.
    """

    def detect(
        self,
        image: np.ndarray,
        min_score: float = 0.5,
        looked: Looked | None = None,
        closer: int | None = None,
        known: Sequence[Face] = (),
    ) -> list[Detection]:
        seen = super().detect(image, min_score, Looked(), 0)
        if seen or closer == 0:
            return seen
        levels = finder._halved(image, max(image.shape[:2]))
        return finder._merged([self._look(levels, half, min_score) for half in finder._windows(image.shape, 2)])


Keep = Callable[[str, np.ndarray], dict[str, Any]]


@contextlib.contextmanager
def recorded(name: str, kept: Keep) -> Iterator[list[dict[str, Any]]]:
    """What the landmark models are given meanwhile, and what they give."""
    runs: list[dict[str, Any]] = []
    invoke = finder._invoke

    def recording(interpreter: Any, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = invoke(interpreter, given)
        at = f"{name}.{len(runs)}"
        kept_outputs = [kept(f"output{k}.{at}", output) for k, output in enumerate(outputs)]
        runs.append({"input": kept(f"input.{at}", given.astype(np.float32)), "outputs": kept_outputs})
        return outputs

    finder._invoke, flat = recording, finder.FLAT
    finder.FLAT = -1.0  # the page asks the detector about an empty picture too
    try:
        yield runs
    finally:
        finder._invoke, finder.FLAT = invoke, flat


Plan = dict[str, np.ndarray]


def drawn_front() -> np.ndarray:
    """(128, 128) float32: a wavy fringe down to the brows, its edge six pixels soft; something over half of the mouth."""
    y, x = np.mgrid[: occluders.SIDE, : occluders.SIDE].astype(np.float32)
    fringe = np.clip((44 - y + 5 * np.sin(x / 6)) / 6, 0, 1)
    return np.maximum(fringe, np.clip((x - 70) / 3, 0, 1) * np.clip((y - 84) / 9, 0, 1)).astype(np.float32)


def lined(crop: np.ndarray, level: Face) -> np.ndarray:
    """A crop with lines drawn from the corners of its eyes and mouth outwards, dark ones and faint ones."""
    drawn, corners = crop.copy(), level.mesh[[33, 263, 61, 291]]
    for corner, colour in zip(corners, ((60, 40, 30), (120, 95, 85), (40, 30, 20), (90, 70, 60)), strict=True):
        outward = corner - level.mesh[OVAL].mean(0)
        ends = [tuple(int(v) for v in np.rint(corner + share * outward)) for share in (0.2, 0.75)]
        cv2.line(drawn, *ends, colour, 3, cv2.LINE_AA)
    return drawn


def erased(
    picture: np.ndarray, crop: np.ndarray, matrix: np.ndarray, mask: np.ndarray, front: np.ndarray, model: Artifact
) -> tuple[Plan, dict[str, np.ndarray]]:
    """The plan for a face, and the arrays of a case that tell what comes of it."""
    bare, share = occluders.trimmed(mask > 0, front)
    plan = model.plan(crop, bare)
    arrays = {"front": front, "bare": bare.astype(np.uint8), "share": share}
    for name, moving in (("erased", False), ("erased_moving", True)):
        arrays[name] = painting.paint_by_plan(picture.copy(), bare, crop, plan, matrix, share, moving)[0]
    return plan, arrays


def in_grey(picture: np.ndarray, crop: np.ndarray, matrix: np.ndarray, mask: np.ndarray, plan: Plan) -> Plan:
    """The arrays of a case that tell of grey, and of a crop that is painted in its own grid and pasted back."""
    grey, grey_crop = (np.repeat(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)[..., None], 3, 2) for p in (picture, crop))
    painted = painting.paint_by_plan(crop.copy(), mask, crop, plan, np.array([[1.0, 0, 0], [0, 1.0, 0]]))[0]
    return {
        "picture_grey": grey,
        "crop_grey": grey_crop,
        "erased_grey": painting.paint_by_plan(grey.copy(), mask, grey_crop, plan, matrix)[0],
        "painted": painted,
        "pasted": paste_back(picture, painted, matrix, mask),
    }


def held(plans: list[Plan], kept: Keep) -> list[dict[str, Any]]:
    """A face whose sources stay skin, another beside it, a frame in other light, and then one of whose sources' windows hair
    has come over.
    """
    one, other, *_ = plans
    bare = {**other, "skin": np.ones_like(other["skin"])}
    over = one["skin"].copy()
    over[: len(over) // 2] = 0
    bright = {**bare, "shading": one["shading"] + np.float32(0.1)}
    near = {**bright, "shading": bright["shading"] - np.float32(0.02)}
    frames = [(1, one), (1, bare), (2, other), (1, bright), (1, near), (1, {**other, "skin": over}), (1, bare)]
    steady, records = painting.Held(), []
    for k, (number, plan) in enumerate(frames):
        names = {name: kept(f"held-{name}.{k}", plan[name]) for name in ("skin", "sources", "shading")}
        result = steady.steady(number, plan)
        names |= {"steady": kept(f"held.{k}", result["sources"]), "shaded": kept(f"held-shaded.{k}", result["shading"])}
        records.append({"number": number, **names})
    return records


def write(folder: Path) -> None:
    """Write `face.json` and its arrays into a folder that exists."""

    def kept(name: str, array: np.ndarray) -> dict[str, Any]:
        file = f"{name}.{'u8' if array.dtype == np.uint8 else 'f32'}"
        array.tofile(folder / file)
        return {"file": file, "shape": list(array.shape)}

    model, looking, see = Artifact(WEIGHTS / "plan.tflite"), AsThePage(), occluders.Occluders()
    cases, plans = {}, []
    for name, picture in pictures().items():
        with recorded(name, kept) as runs:
            detections = looking.detect(picture)
            meshes = [looking.landmarks(picture, each) for each in detections]
            face = max((mesh for mesh in meshes if mesh is not None), key=lambda mesh: mesh.width)
            followed = looking.follow(picture, face)
            assert followed is not None
        masks = {parts: face_mask(picture, face, SIZE, parts.split(","), "off")[0].astype(np.uint8) for parts in MASKS}
        crop, matrix = align(picture, face, SIZE, sharp=False)
        level = face.moved(matrix)
        plain = masks[MASKS[0]] > 0
        whole, folds = with_creases(plain, crop, level), lined(crop, level)
        creased = with_creases(plain, folds, level)
        assert creased.sum() > plain.sum() + 100
        plan, arrays = erased(picture, crop, matrix, whole, see(crop), model)
        behind, fringed = erased(picture, crop, matrix, whole, drawn_front(), model)
        arrays |= {f"{each}_fringe": array for each, array in fringed.items()}
        arrays |= in_grey(picture, crop, matrix, arrays["bare"], plan)
        plans.append(plan)
        kept(f"picture.{name}", picture)
        cases[name] = {
            "shape": list(picture.shape),
            "models": runs,
            "detections": [{"points": each.points.tolist(), "score": each.score} for each in detections],
            "mesh": face.mesh.tolist(),
            "followed": followed.mesh.tolist(),
            "eyes": face.eyes.tolist(),
            "eye_distance": face.eye_distance,
            "roll": face.roll,
            "matrix": matrix.tolist(),
            "masks": {parts: kept(f"mask-{parts.replace(',', '-')}.{name}", mask) for parts, mask in masks.items()},
            "crop": kept(f"crop.{name}", crop),
            "sharp": kept(f"sharp.{name}", align(picture, face, SIZE)[0]),
            "whole": kept(f"whole.{name}", whole.astype(np.uint8)),
            "lined": kept(f"lined.{name}", folds),
            "creased": kept(f"creased.{name}", creased.astype(np.uint8)),
            **{each: kept(f"{each}.{name}", array) for each, array in arrays.items()},
            "plan": {each: kept(f"plan-{each}.{name}", array) for each, array in plan.items()},
            "plan_fringe": {each: kept(f"behind-{each}.{name}", array) for each, array in behind.items()},
            "skin_of": painting.skin_of(plan["skin"], plan["sources"]),
            "effects": {
                effect: kept(f"effect-{effect}.{name}", effects.apply(what, picture, arrays["erased"], face, "fast"))
                for effect, what in effects.read().items()
            },
        }
    constants = replace(tracking.read(), detect_every=3)
    tracker, frames = tracking.Tracker(looking, constants), video()
    with recorded("video", kept) as runs:
        tracked = [tracker(frame, 0.04) for frame in frames]
    assert [len(each) for each in tracked] == [1, 1, 1, 1, 1, 0, 0, 1, 1, 1], "she is there, gone, and there again"
    moving = {
        "frames": kept("video", frames),
        "seconds": 0.04,
        "constants": asdict(constants),
        "models": runs,
        "faces": [[track.face.mesh.tolist() for track in each] for each in tracked],
        "numbers": [[track.number for track in each] for each in tracked],
    }
    record = {"known": serve.known(), "cases": cases, "video": moving, "held": held(plans, kept)}
    (folder / "face.json").write_text(json.dumps(record))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("expected one argument, the folder to write into")
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    write(Path(sys.argv[1]))

"""Golden vectors: what faceeraser/faces.py and effects.py make of a face, for the ports of them (web_demo, android_demo).

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
        "crop": ARRAY, "painted": ARRAY,      of align(); and what the model that ships makes of it under all parts
        "erased": ARRAY,                      `painted` pasted back into the picture
        "effects": {name: ARRAY}}}}           on `erased`, with the fast blend

where ARRAY is {"file": name, "shape": [...]}. The cases are scikit-image's astronaut (NASA, public domain): upright, turned,
small in the picture (cubic sampling, a blurred paste) and large in it (averaged areas). What is between -0.5 and 0.5 of a
level differs by compiler; what a port may differ by is said in its own test.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage.data import astronaut

from faceeraser import WEIGHTS, effects, faces, serve
from faceeraser.artifact import Artifact

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


def write(folder: Path) -> None:
    """Write `face.json` and its arrays into a folder that exists."""

    def kept(name: str, array: np.ndarray) -> dict[str, Any]:
        file = f"{name}.{'u8' if array.dtype == np.uint8 else 'f32'}"
        array.tofile(folder / file)
        return {"file": file, "shape": list(array.shape)}

    model = Artifact(WEIGHTS / "int8.tflite")
    cases = {}
    for name, picture in pictures().items():
        runs: list[dict[str, Any]] = []
        invoke = faces._invoke

        def recorded(
            interpreter: Any, given: np.ndarray, name: str = name, runs: list[dict[str, Any]] = runs
        ) -> tuple[np.ndarray, np.ndarray]:
            outputs = invoke(interpreter, given)
            at = f"{name}.{len(runs)}"
            runs.append(
                {"input": kept(f"input.{at}", given.astype(np.float32)),
                 "outputs": [kept(f"output{k}.{at}", output) for k, output in enumerate(outputs)]}
            )  # fmt: skip
            return outputs

        faces._invoke = recorded
        try:
            finder = faces.FaceFinder()
            detections = finder.detect(picture)
            meshes = [finder.landmarks(picture, found) for found in detections]
            face = max((mesh for mesh in meshes if mesh is not None), key=lambda mesh: mesh.width)
            followed = finder.follow(picture, face)
            assert followed is not None
        finally:
            faces._invoke = invoke
        masks = {parts: faces.face_mask(picture, face, SIZE, parts.split(","), "off")[0].astype(np.uint8) for parts in MASKS}
        crop, matrix = faces.align(picture, face, SIZE)
        painted = model.erase(crop, masks[MASKS[0]])
        erased = faces.paste_back(picture, painted, matrix, masks[MASKS[0]])
        kept(f"picture.{name}", picture)
        cases[name] = {
            "shape": list(picture.shape), "models": runs,
            "detections": [{"points": found.points.tolist(), "score": found.score} for found in detections],
            "mesh": face.mesh.tolist(), "followed": followed.mesh.tolist(), "eyes": face.eyes.tolist(), "eye_distance": face.eye_distance, "roll": face.roll,
            "matrix": matrix.tolist(),
            "masks": {parts: kept(f"mask-{parts.replace(',', '-')}.{name}", mask) for parts, mask in masks.items()},
            "crop": kept(f"crop.{name}", crop), "painted": kept(f"painted.{name}", painted),
            "erased": kept(f"erased.{name}", erased),
            "effects": {
                effect: kept(f"effect-{effect}.{name}", effects.apply(what, picture, erased, face, "fast"))
                for effect, what in effects.read().items()
            },
        }  # fmt: skip
    (folder / "face.json").write_text(json.dumps({"known": serve.known(), "cases": cases}))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("expected one argument, the folder to write into")
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    write(Path(sys.argv[1]))

"""Golden vectors of what a port for phones needs besides a photograph: a camera's planes, the filter, drawn glasses.

    python tests/golden/make_camera.py FOLDER

FOLDER gets `camera.json` and raw arrays beside it, in the form of make_face.py:

    {"yuv": {"width": w, "height": h, "luma": ARRAY, "chroma": ARRAY, "rgb": ARRAY},
     "filter": {"seconds": [s, ...], "eye_distance": [pixels, ...],
                "points": [[x, y, ...], ...], "smooth": [[x, y, ...], ...]},
     "glasses": ARRAY}

The planes are a part of the astronaut in full-range BT.601 (JFIF), as Android's cameras give it: `luma` (h, w + 8), whose
rows end in 8 bytes of padding; `chroma` (h / 2, w + 8), V and U interleaved, then padding. `rgb` (h, w, 3) is what Pillow
makes of them, each chroma sample repeated for its four pixels. `filter` has points that rest, jitter and jump, what
tracking.OneEuro makes of them, and the seconds since those before. `glasses` (256, 256) is the pair drawn on the face of
make_face.py's case `upright`, in its crop.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage.data import astronaut

from faceeraser.face import tracking
from faceeraser.face.crops import align_matrix
from faceeraser.face.finder import find_faces
from faceeraser.face.glasses import draw_glasses

PADDING, SIZE = 8, 256


def yuv() -> tuple[dict[str, np.ndarray], int, int]:
    """The planes and what they show, and their width and height."""
    picture = astronaut()[64:128, 176:272]
    height, width = picture.shape[:2]
    ycc = np.asarray(Image.fromarray(picture).convert("YCbCr"))
    chroma = ycc[::2, ::2]  # one sample for four pixels
    planes = {
        "luma": np.pad(ycc[..., 0], ((0, 0), (0, PADDING)), constant_values=77),
        "chroma": np.pad(chroma[..., :0:-1].reshape(height // 2, width), ((0, 0), (0, PADDING)), constant_values=77),
    }
    full = np.dstack([ycc[..., :1], chroma[..., 1:].repeat(2, 0).repeat(2, 1)])
    planes["rgb"] = np.asarray(Image.merge("YCbCr", [Image.fromarray(full[..., k]) for k in range(3)]).convert("RGB"))
    return planes, width, height


def smoothed() -> dict[str, Any]:
    """A path of two points at uneven times, and what the filter makes of it."""
    rng = np.random.default_rng(7)
    seconds = rng.uniform(0.02, 0.05, 40)
    times = np.cumsum(seconds)[:, None]
    path = np.where(times < times[20], 100.0, 100 + 60 * np.sin(4 * (times - times[20])))
    points = path * np.array([1.0, 0.5, -1.0, 2.0]) + rng.normal(0, 0.4, (40, 4))
    distances = np.linspace(40, 60, 40)
    smooth = tracking.OneEuro(tracking.read())
    rows = zip(points, distances, seconds, strict=True)
    states = [smooth(row.reshape(2, 2), float(unit), float(step)).ravel().tolist() for row, unit, step in rows]
    return {
        "seconds": seconds.tolist(),
        "eye_distance": distances.tolist(),
        "points": points.tolist(),
        "smooth": states,
    }


def write(folder: Path) -> None:
    """Write `camera.json` and its arrays into a folder that exists."""

    def kept(name: str, array: np.ndarray) -> dict[str, Any]:
        np.ascontiguousarray(array).tofile(folder / f"{name}.u8")
        return {"file": f"{name}.u8", "shape": list(array.shape)}

    planes, width, height = yuv()
    face = max(find_faces(np.ascontiguousarray(astronaut())), key=lambda seen: seen.width)
    glasses = draw_glasses(face.moved(align_matrix(face, SIZE)), SIZE).astype(np.uint8)
    record = {
        "yuv": {"width": width, "height": height} | {name: kept(f"yuv-{name}", plane) for name, plane in planes.items()},
        "filter": smoothed(),
        "glasses": kept("glasses", glasses),
    }
    (folder / "camera.json").write_text(json.dumps(record))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("expected one argument, the folder to write into")
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    write(Path(sys.argv[1]))

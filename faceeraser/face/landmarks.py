"""Landmarks from the user's own tracker instead of the two landmark models: a JSON file with points for every frame.

    known = landmarks.read(Path("clip.json"))
    faces_of_frame_7 = known[7]

Every layout is turned into a `Face`, whose mesh everything else works on: the mean face is rotated and scaled to fit the
given points, these are moved exactly to where they were given, and the rest of the mesh moves with its neighbours.
docs/landmarks.md describes the format and the layouts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from faceeraser.face.mesh import LEFT_BROW, LEFT_EYE, LIPS, MESH_POINTS, NOSE_OUTLINE, OVAL, RIGHT_BROW, RIGHT_EYE, Face
from faceeraser.system.reading import json_value

FORMAT, VERSION = "faceeraser-landmarks", 1
LARGEST = 160 << 20
"""Bytes of a file; reading one takes some ten times as much memory."""
MEAN_FACE = Path(__file__).with_name("mean_face.json")

OUTLINES: Mapping[str, Sequence[int]] = {
    "right_brow": RIGHT_BROW,
    "left_brow": LEFT_BROW,
    "right_eye": RIGHT_EYE,
    "left_eye": LEFT_EYE,
    "nose": NOSE_OUTLINE,
    "mouth": LIPS,
    "oval": OVAL,
}
"""Indices of the mesh around each part, in order; what the layout `parts` may name. Right is the person's own right."""

# Which point of the mesh each of the 68 points of iBUG's 300-W is (Sagonas et al. 2013, figure 1): jaw, brows, nose, eyes
# and outer lips. The inner lips (60 to 67) are not needed.
IBUG_68: Sequence[int] = (
    127,
    234,
    132,
    58,
    172,
    150,
    149,
    148,
    152,
    377,
    378,
    379,
    397,
    288,
    361,
    454,
    356,
    70,
    63,
    105,
    66,
    107,
    336,
    296,
    334,
    293,
    300,
    168,
    197,
    5,
    4,
    98,
    97,
    2,
    326,
    327,
    33,
    160,
    158,
    133,
    153,
    144,
    362,
    385,
    387,
    263,
    373,
    380,
    61,
    39,
    37,
    0,
    267,
    269,
    291,
    321,
    314,
    17,
    84,
    91,
)
# Which of InsightFace's 106 points (2d106det) each of these is.
INSIGHTFACE_106: Sequence[int] = (
    1,
    10,
    12,
    14,
    16,
    3,
    5,
    7,
    0,
    23,
    21,
    19,
    32,
    30,
    28,
    26,
    17,
    43,
    48,
    49,
    51,
    50,
    102,
    103,
    104,
    105,
    101,
    72,
    73,
    74,
    86,
    78,
    79,
    80,
    85,
    84,
    35,
    41,
    42,
    39,
    37,
    36,
    89,
    95,
    96,
    93,
    91,
    90,
    52,
    64,
    63,
    71,
    67,
    68,
    61,
    58,
    59,
    53,
    56,
    55,
)
# Layout -> (how many points it has, which of them are taken, which points of the mesh these are).
LAYOUTS: Mapping[str, tuple[int, Sequence[int], Sequence[int]]] = {
    "mediapipe-468": (MESH_POINTS, range(MESH_POINTS), range(MESH_POINTS)),
    "ibug-68": (68, range(len(IBUG_68)), IBUG_68),
    "insightface-106": (106, INSIGHTFACE_106, IBUG_68),
}
_FARTHEST = 1e6  # pixels: nothing that is a landmark lies farther out


class Landmarks:
    """The faces of every frame of a landmarks file; `len` is the number of frames, `found[k]` the faces of one."""

    def __init__(self, path: Path, frames: Sequence[Sequence[np.ndarray]], layout: str, parts: Mapping[str, Sequence[int]]):
        """`frames`: for each frame an array (N, 2) a face, in the picture's pixels."""
        self.path, self._frames, self._layout, self._parts = path, frames, layout, parts

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> list[Face]:
        """The faces of a frame, the largest first. Raises ValueError when there is no such frame."""
        if not 0 <= index < len(self):
            raise ValueError(
                f"{self.path}: has landmarks of {len(self)} frames, and the video goes on; expected some for each frame"
            )
        faces = [_face(points, self._layout, self._parts) for points in self._frames[index]]
        return sorted(faces, key=lambda face: -face.width)


def read(path: Path) -> Landmarks:
    """Read and check a landmarks file (docs/landmarks.md).

    Raises:
        ValueError: it is missing, no such file, of another version, or a frame of it cannot be meant. The message names the
            file and the place, what was found and what was expected.
    """
    try:
        document = json_value(path, "a landmarks file (docs/landmarks.md)", LARGEST)
    except FileNotFoundError as error:
        why = error.strerror
        raise ValueError(f"{path}: cannot be opened ({why}); expected a landmarks file (docs/landmarks.md)") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f'{path}: expected "format": "{FORMAT}" in it; docs/landmarks.md describes the format')
    if document.get("version") != VERSION:
        raise ValueError(f"{path}: is version {document.get('version')!r}; this program reads {VERSION}")
    layout, frames, parts = document.get("layout"), document.get("frames"), document.get("parts")
    if not isinstance(layout, str) or (layout != "parts" and layout not in LAYOUTS):
        raise ValueError(f"{path}: found layout {layout!r}; expected one of {', '.join(LAYOUTS)} or parts")
    if (parts is not None) != (layout == "parts"):
        needs = "with" if layout == "parts" else "without"
        raise ValueError(f'{path}: found layout {layout!r}; expected it {needs} "parts", which says what the points are')
    if layout == "parts":
        _check_parts(parts, path)
    if not isinstance(frames, list) or not frames:
        raise ValueError(f'{path}: expected "frames", a list with an entry for each frame (one for a photograph)')
    wanted = LAYOUTS[layout][0] if layout in LAYOUTS else None
    read_frames = []
    for number, frame in enumerate(frames):
        where = f"{path}: frame {number}"
        if not isinstance(frame, dict) or not isinstance(frame.get("faces"), list):
            raise ValueError(f'{where}: expected {{"faces": [[[x, y], ...], ...]}}, an empty list where there is no face')
        read_frames.append([_points(face, wanted, parts, f"{where}, face {k}") for k, face in enumerate(frame["faces"])])
    return Landmarks(path, read_frames, layout, parts or {})


def _check_parts(parts: Any, path: Path) -> None:
    """Raises ValueError unless "parts" is {outline: [index, ...]} with both eyes, which level and scale the face."""
    if not isinstance(parts, dict) or not {"right_eye", "left_eye"} <= set(parts):
        raise ValueError(f'{path}: expected "parts" with right_eye and left_eye at least, which level the face')
    if unknown := set(parts) - set(OUTLINES):
        raise ValueError(f"{path}: found part {sorted(unknown)[0]!r}; expected some of {', '.join(OUTLINES)}")
    for name, indices in parts.items():
        plain = isinstance(indices, list) and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in indices)
        if not plain or len(set(indices)) < 3:
            raise ValueError(f"{path}: part {name}: expected the indices of at least 3 points, in order around it")


def _points(face: Any, wanted: int | None, parts: Mapping[str, Sequence[int]] | None, where: str) -> np.ndarray:
    """One face's points as (N, 2) float64, or ValueError."""
    try:
        points = np.array(face, np.float64)
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"{where}: expected a list of points [x, y], in the picture's pixels")
    if wanted is not None and len(points) != wanted:
        raise ValueError(f"{where}: found {len(points)} points; expected the layout's {wanted}")
    if not (np.abs(points) < _FARTHEST).all():
        raise ValueError(
            f"{where}: found a point that is not a number or far outside any picture; leave the face out instead"
        )
    if float(np.ptp(points, axis=0).max()) < 1:
        raise ValueError(f"{where}: all its points are in one place; are they in the picture's pixels?")
    if parts:
        needed = max(max(indices) for indices in parts.values())
        if needed >= len(points):
            raise ValueError(f"{where}: found {len(points)} points; its parts name point {needed}")
    return points


@cache
def _mean_face() -> np.ndarray:
    """(468, 2) in eye distances from the middle between the eyes."""
    return np.array(json.loads(MEAN_FACE.read_text())["mesh"], np.float64)


def _face(points: np.ndarray, layout: str, parts: Mapping[str, Sequence[int]]) -> Face:
    """The face that a layout's points mean."""
    if layout == "mediapipe-468":
        return Face(points.astype(np.float32))
    if layout == "parts":
        right, left = (points[list(parts[eye])].mean(0) for eye in ("right_eye", "left_eye"))
        along = (left - right) / max(float(np.hypot(*(left - right))), 1e-9)
        known = [place for name, given in parts.items() for place in _around(name, points[list(given)], along)]
        indices, places = [index for index, _ in known], np.array([place for _, place in known])
    else:
        _, taken, meant = LAYOUTS[layout]
        indices, places = list(meant), points[list(taken)]
    return Face(_mesh(indices, places).astype(np.float32))


def _around(name: str, outline: np.ndarray, along: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """(index of the mesh, place) all around a part, from an outline that may start anywhere and run either way.

    along: the unit vector from the right eye to the left.
    """
    indices = list(OUTLINES[name])
    ours = _mean_face()[indices]

    def turning(polygon: np.ndarray) -> float:
        x, y = polygon.T
        return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))

    if turning(ours) * turning(outline) < 0:
        outline = outline[::-1]
    # Both are walked from the point that lies farthest to the person's right.
    ours_from, theirs_from = int(ours[:, 0].argmin()), int((outline @ along).argmin())
    indices, ours = [*indices[ours_from:], *indices[:ours_from]], np.roll(ours, -ours_from, axis=0)
    outline = np.roll(outline, -theirs_from, axis=0)

    def lengths(polygon: np.ndarray) -> np.ndarray:
        steps = np.hypot(*(np.roll(polygon, -1, axis=0) - polygon).T)
        return np.concatenate([[0.0], np.cumsum(steps)]) / max(float(steps.sum()), 1e-9)

    closed = np.vstack([outline, outline[:1]])
    at = [np.interp(lengths(ours)[:-1], lengths(outline), closed[:, axis]) for axis in (0, 1)]
    return list(zip(indices, np.stack(at, axis=1), strict=True))


def _mesh(indices: Sequence[int], places: np.ndarray) -> np.ndarray:
    """The whole mesh, (468, 2), whose points `indices` are at `places`."""
    mean = _mean_face()
    known = mean[list(indices)]
    middle, there = known.mean(0), places.mean(0)
    # The least squares similarity, by complex numbers: one factor turns and scales.
    ours, theirs = (known - middle) @ [1, 1j], (places - there) @ [1, 1j]
    factor = np.vdot(ours, theirs) / max(float(np.vdot(ours, ours).real), 1e-9)
    turn = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    laid = (mean - middle) @ turn.T + there
    # What is left over is spread by inverse cubed distance (Shepard 1968): all of it where a point was given, and nowhere
    # more than was given.
    distance = np.linalg.norm(mean[:, None] - known[None], axis=2)
    weight = 1 / (distance + 1e-5) ** 3
    return laid + weight @ (places - laid[list(indices)]) / weight.sum(1, keepdims=True)

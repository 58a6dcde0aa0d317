"""Find faces and their meshes in a picture, with MediaPipe's detector and landmark model, run by LiteRT.

    faces = find_faces(image)

The detector is BlazeFace (Bazarevsky et al. 2019, arXiv:1907.05047), trained for faces near the camera; to find smaller and
rotated ones, it also runs on parts of the picture and on the rotated picture. Pictures are (H, W, 3) uint8 RGB;
coordinates are as in mesh.py.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from faceeraser.face import landmark_models
from faceeraser.face.crops import check_picture, cut, square
from faceeraser.face.mesh import MESH_POINTS, OVAL, Face, transform

_NOSE_TIP, _MOUTH_MIDDLE = 1, [13, 14]
_EXACT = 3  # halvings that a look at a whole picture does without: those of pictures below 2,048 pixels
FLAT = 2.0  # standard deviation, in levels of 255: where there is less, in a sky or a wall, there is no face
_SOME = 0.1  # the landmark model's score below which it sees no face; of 188 faces none had less than 0.58 at first
_DOUBT = 0.03
"""The detector's score above which a small place of half a picture is looked at more closely. Of 260
portraits in other pictures, faces of a twelfth to a twentieth of the longer side have 0.17 at least there, down to a
twenty-sixth 0.07.
"""
_SURE = 0.8  # the detector's score above which what it saw is a face, and what else is seen inside is none
MESH_APART = 0.3  # in eye distances: how far a mesh may be from the detector's own points, see `_right`

Part = tuple[int, int, int]
"""A square of a picture: its left, its top and its side, in pixels."""
Place = tuple[Part, int]
"""One, and by how many quarters it is turned against the clock."""


@dataclass(frozen=True, eq=False)
class Detection:
    """A face as the detector sees it.

    Attributes:
        points: (8, 2), two corners of a box, then eyes, nose, mouth and ears.
        score: in [0, 1].
        others: less confident detections of the same place, at other scales and rotations.
    """

    points: np.ndarray
    score: float
    others: Sequence[Detection] = ()

    @property
    def box(self) -> np.ndarray:
        """Its upper left and lower right corner, (2, 2)."""
        return self.points[:2]


class Looked:
    """Which places of a video have been looked at closely, and what was there: `FaceFinder.detect` looks at one again when
    it has changed, so that a wall behind a speaker costs nothing.
    """

    CHANGED = 6.0
    """Levels of 255 by which some place of 3 x 3 pixels of a picture 128 to 255 pixels long has to differ. Noise and a
    codec's flicker are below 2 there, what the smallest face that is found covers is 4 pixels wide."""

    def __init__(self) -> None:
        self._then: dict[Place, np.ndarray] = {}
        self._named: dict[Place, int] = {}
        self._turn, self._waiting = 0, dict[Part, None]()
        self._now, self._scale, self._known = np.zeros((1, 1, 3), np.uint8), 1.0, np.zeros((1, 1), bool)

    def begin(self, image: np.ndarray, small: np.ndarray, known: Sequence[Face]) -> None:
        """The next frame, the same small, and the faces in it that need not be found: what changes there does not count."""
        if small.shape != self._now.shape:
            self._then.clear()
            self._waiting.clear()
        self._now, self._scale = small, small.shape[1] / image.shape[1]
        self._known = np.zeros(small.shape[:2], bool)
        for face in known:
            low, high = _box(face) * self._scale
            (left, top), (right, bottom) = np.maximum(np.floor(low - 2), 0).astype(int), np.ceil(high + 3).astype(int)
            self._known[top : max(bottom, 0), left : max(right, 0)] = True

    def due(self, places: Sequence[Place], most: int | None) -> list[Place]:
        """Which places are to be looked at: new ones and those that have changed since this named them last, those that have
        waited longest first, at most so many (None: all).
        """
        due: list[Place] = []
        self._turn += 1
        for place in sorted(places, key=lambda place: self._named.get(place, 0)):
            if most is not None and len(due) >= most:
                break
            if self._changed(place):
                self._named[place] = self._turn
                due.append(place)
        return due

    def next_of(self, parts: Sequence[Part], most: int | None) -> list[Part]:
        """Which of these parts and of those that were left over before are to be looked at now, at most so many."""
        self._waiting |= dict.fromkeys(parts)
        now = list(self._waiting)[:most]
        for part in now:
            del self._waiting[part]
        return now

    def _changed(self, place: Place) -> bool:
        (x, y, side), _ = place
        first, last = (math.floor(each * self._scale) for each in (x, y)), (each + side for each in (x, y))
        (left, top), (right, bottom) = first, (math.ceil(each * self._scale) for each in last)
        now = self._now[top:bottom, left:right]
        then = self._then.get(place)
        if then is not None:
            differs = cv2.absdiff(now, then).max(axis=2).astype(np.float32)
            differs[self._known[top:bottom, left:right]] = 0
            if float(cv2.blur(differs, (3, 3)).max()) < self.CHANGED:
                return False
        self._then[place] = now
        return True


@dataclass(frozen=True)
class _Loaded:
    """A model: its interpreter, and the indices of its input and its outputs."""

    interpreter: Any
    taken: int
    given: tuple[int, int]


class FaceFinder:
    """Detector and landmark model, loaded; `find_faces` keeps one for the whole process.

    `finder(image)` runs `detect`, then `landmarks` for every detection. A program that follows a face from frame to frame
    calls `detect` now and then, and `follow` in between.

    Calls are serialized by a lock, because a LiteRT interpreter holds its tensors; use one process per core for speed.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._lock = threading.Lock()
        paths = landmark_models.fetch(folder)
        loaded = []
        for name in landmark_models.FILES:
            interpreter = Interpreter(str(paths[name]), num_threads=1)
            interpreter.allocate_tensors()
            taken, given = interpreter.get_input_details(), interpreter.get_output_details()
            loaded.append(_Loaded(interpreter, taken[0]["index"], (given[0]["index"], given[1]["index"])))
        self._detector, self._landmarker = loaded
        self._anchors = _anchors()

    def __call__(
        self, image: np.ndarray, min_score: float = 0.5, clock: Callable[[str], None] = lambda step: None
    ) -> list[Face]:
        """See `find_faces`. `clock` is called with "find" and "landmarks" after each has been done."""
        detected = self.detect(image, min_score)
        clock("find")
        faces: list[Face] = []
        for face in (self.landmarks(image, detection) for detection in detected):
            if face is not None and not any(same_face(face, other) for other in faces):
                faces.append(face)
        clock("landmarks")
        return sorted(faces, key=lambda face: -face.width)

    def detect(
        self,
        image: np.ndarray,
        min_score: float = 0.5,
        looked: Looked | None = None,
        closer: int | None = None,
        known: Sequence[Face] = (),
    ) -> list[Detection]:
        """Where faces are, the most confident first, without landmarks.

        The whole picture is looked at, then, closer, places: the picture turned by 90, 180 and 270 degrees, and parts of
        half its size, for smaller faces; and of these what may be a face that is smaller still, in parts of a quarter.

        Args:
            image: (H, W, 3) uint8 RGB.
            min_score: the detector's threshold in [0, 1].
            looked: of a video, what has been looked at before: only places that have changed since are looked at, those that
                have waited longest first.
            closer: of a video, how many places are looked at, at most, and how many parts of a quarter; None: all.
            known: faces that need not be found.

        Raises:
            ValueError: the picture is not (H, W, 3) uint8.
        """
        check_picture(image)
        height, width = image.shape[:2]
        longer = max(height, width)
        levels = _halved(image, longer)
        whole = (0, 0, longer)
        places = [(whole, quarters) for quarters in (1, 2, 3)] + [(half, 0) for half in _windows(image.shape, 2)]
        if looked is not None:
            looked.begin(image, levels[-1], known)
            places = looked.due(places, closer)
        with self._lock:
            seen = _merged([self._look(levels, whole, min_score)])
            for quarters in (1, 2, 3):
                if (whole, quarters) in places:
                    seen += _merged([self._look(levels, whole, min_score, quarters)])
            # The short-range detector sees faces from about a sixth of what it looks at on.
            looks = [self._look(levels, half, min(_DOUBT, min_score)) for half, quarters in places if not quarters]
            seen += _merged([(points[scores >= min_score], scores[scores >= min_score]) for points, scores in looks])
            found = [each.box for each in seen if each.score > _SURE] + [_box(face) for face in known]
            doubtful = _doubtful(looks, found, image.shape)
            if looked is not None:
                doubtful = looked.next_of(doubtful, closer)
            seen += _merged([self._look(levels, part, min_score) for part in doubtful])
        return _grouped(seen)

    def landmarks(self, image: np.ndarray, detection: Detection) -> Face | None:
        """The landmarks of a detection, in two passes; None if the landmark model sees no face there.

        A mesh whose eyes, nose and mouth are not where the detector saw them is wrong, as on a face that is upside down. It
        is then tried from what else the detector saw there, and at last the place is looked at once more, turned, unless the
        landmark model saw nothing at all: of seven small turned faces that needed this it gave none less than 0.46.
        """
        something = False
        for candidate in (detection, *detection.others):
            if (face := self._meshed(image, candidate)) is not None:
                something = True
                if _right(face, candidate):
                    return replace(face, score=candidate.score)
        if not something:
            return None
        side = 2.0 * float(np.ptp(detection.box, axis=0).max())
        left, top = np.round(detection.box.mean(0) - side / 2).astype(int)
        x, y = max(0, left), max(0, top)
        view = image[y : max(y + 1, top + int(side)), x : max(x + 1, left + int(side))]
        if min(view.shape[:2]) < 8:
            return None
        longer = max(view.shape[:2])
        levels, best = _halved(view, longer), list[Face]()
        for quarters in (1, 2, 3):
            with self._lock:
                looks = _merged([self._look(levels, (0, 0, longer), 0.5, quarters)])
            for candidate in looks:
                candidate = replace(candidate, points=candidate.points + np.array([x, y]))
                face = self._meshed(image, candidate) if _overlap(candidate, detection) else None
                if face is not None and _right(face, candidate):
                    best.append(replace(face, score=candidate.score))
        return max(best, key=lambda face: face.score, default=None)

    def _meshed(self, image: np.ndarray, detection: Detection) -> Face | None:
        """The mesh where a face was detected, right or not, its score the model's own; None where it sees no face at all."""
        centre, side = detection.box.mean(0), 1.5 * float(np.ptp(detection.box, axis=0).max())
        roll = math.degrees(math.atan2(*(detection.points[3] - detection.points[2])[::-1]))
        face = self._pass(image, centre, side, roll)
        # The second crop, taken from the first mesh, is centred better than the detector's. Its opinion counts, unless the
        # first saw nothing at all.
        return self._pass(image, *_around(face)) if face and face.score >= _SOME else None

    def follow(self, image: np.ndarray, face: Face) -> Face | None:
        """The same face in the next frame of a video, in one pass that starts at its last mesh; None if it is lost.

        The score of the face that comes back is the landmark model's own: how sure it is, in [0, 1], that this is a face.
        """
        check_picture(image)
        followed = self._pass(image, *_around(face))
        return followed if followed and followed.score >= 0.5 else None

    def _look(
        self, levels: Sequence[np.ndarray], window: Part, min_score: float, quarters: int = 0
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
            # As the page and the app see a whole picture, to the level; none of theirs is larger.
            halvings = max(0, halvings - _EXACT)
        level, times = levels[halvings], 2**halvings
        piece = level[y // times : -(-(y + side) // times), x // times : -(-(x + side) // times)]
        wide, tall = min(side, width - x), min(side, height - y)
        size = (max(1, round(wide * 128 / side)), max(1, round(tall * 128 / side)))
        small = cv2.resize(piece, size, interpolation=cv2.INTER_AREA)
        left, top = (128 - size[0]) // 2, (128 - size[1]) // 2
        means, deviations = cv2.meanStdDev(small)
        if math.sqrt(float(np.square(deviations).mean() + means.var())) < FLAT:
            return np.zeros((0, 8, 2)), np.zeros(0)
        canvas = np.zeros((128, 128, 3), np.float32)
        canvas[top : top + size[1], left : left + size[0]] = small
        raw, logits = _invoke(
            self._detector, np.ascontiguousarray(np.rot90(canvas, quarters)) / np.float32(127.5) - np.float32(1)
        )
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
        matrix = square(centre, side, roll, 192)
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
    turn = square(np.zeros(2), 1.0, roll, 1)[:, :2]
    level = face.mesh @ turn.T
    low, high = level.min(0), level.max(0)
    return (low + high) / 2 @ turn, 1.5 * float((high - low).max()), roll


def _invoke(model: _Loaded, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run a model on (H, W, 3) float32; both models have one input and two outputs, the larger one first."""
    model.interpreter.set_tensor(model.taken, picture[None])
    model.interpreter.invoke()
    return model.interpreter.get_tensor(model.given[0]), model.interpreter.get_tensor(model.given[1])


def _anchors() -> np.ndarray:
    """Anchor centres of the detector, (896, 2) in [0, 1]: 16 x 16 cells twice, then 8 x 8 cells six times."""
    grids = []
    for cells, repeats in ((16, 2), (8, 6)):
        line = (np.arange(cells) + 0.5) / cells
        x, y = np.meshgrid(line, line)
        grids.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), repeats, axis=0))
    return np.concatenate(grids)


def _windows(shape: Sequence[int], parts: int) -> list[Part]:
    """Left, top and side of squares that cover a picture of this shape, their side so much of its longer one; none where
    they would be smaller than what the detector looks at.
    """
    side = max(shape[:2]) // parts
    if side < 128:
        return []
    return [(x, y, side) for y in _starts(shape[0], side) for x in _starts(shape[1], side)]


def _doubtful(
    looks: Sequence[tuple[np.ndarray, np.ndarray]], found: Sequence[np.ndarray], shape: Sequence[int]
) -> list[Part]:
    """The squares of a quarter of a picture in which something small was seen, and no face yet, at what has been looked at,
    the surest first; `found`: boxes (2, 2) of faces.
    """
    windows = _windows(shape, 4)
    if not windows or not looks:
        return []
    boxes = np.concatenate([points[:, :2] for points, _ in looks]).clip(0, shape[1::-1])
    scores = np.concatenate([scores for _, scores in looks])
    doubtful = np.ptp(boxes, axis=1).max(1) < max(shape[:2]) / 8
    middles = boxes.mean(1)
    for low, high in found:
        doubtful &= ((middles < low) | (middles > high)).any(1)
    first, side = np.array([[x, y] for x, y, _ in windows]), windows[0][2]
    held = ((boxes[:, 0] >= first[:, None]) & (boxes[:, 1] <= first[:, None] + side)).all(2) & doubtful
    chosen = []
    while held.any():
        # Of those that hold what is surest, the one that holds the most.
        surest = held & (scores == scores[held.any(0)].max())
        best = int(np.where(surest.any(1), held.sum(1), 0).argmax())
        chosen.append(windows[best])
        held &= ~held[best]
    return chosen


def _box(face: Face) -> np.ndarray:
    """Its upper left and lower right corner, (2, 2)."""
    return np.stack([face.mesh.min(0), face.mesh.max(0)])


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


def _overlap(first: Detection, second: Detection) -> bool:
    """Whether two boxes show the same face: half of the smaller one lies in the other."""
    shared = np.clip(np.minimum(first.box[1], second.box[1]) - np.maximum(first.box[0], second.box[0]), 0, None).prod()
    areas = [np.ptp(each.box, axis=0).prod() for each in (first, second)]
    return bool(shared > 0.5 * min(areas))


def _grouped(seen: Sequence[Detection]) -> list[Detection]:
    """One detection a face: the surest, with the others at its place. The detector is less sure of a face that is turned,
    or too small or too large for it.
    """
    groups: list[list[Detection]] = []
    for detection in sorted(seen, key=lambda detection: -detection.score):
        there = next((group for group in groups if _overlap(detection, group[0])), None)
        if there is None:
            groups.append([detection])
        else:
            there.append(detection)
    return [replace(first, others=rest) for first, *rest in groups]


def _right(face: Face, detection: Detection) -> bool:
    """Whether a mesh is that of the face detected: its model is sure of it, and eyes, nose and mouth are where the detector
    saw them.
    """
    places = np.stack([*face.eyes, face.mesh[_NOSE_TIP], face.mesh[_MOUTH_MIDDLE].mean(0)])
    unit = max(face.eye_distance, 0.25 * face.width, 1.0)
    apart = float(np.linalg.norm(places - detection.points[2:6], axis=1).max() / unit)
    return face.score >= 0.5 and apart <= MESH_APART


def same_face(first: Face, second: Face) -> bool:
    """Whether two meshes show the same face: their centres are closer than 0.4 of the wider one's width."""
    middles = [(face.mesh[OVAL].min(0) + face.mesh[OVAL].max(0)) / 2 for face in (first, second)]
    return float(np.hypot(*(middles[0] - middles[1]))) < 0.4 * max(first.width, second.width)


def _merged(looks: Sequence[tuple[np.ndarray, np.ndarray]], overlap: float = 0.3) -> list[Detection]:
    """Overlapping candidates, points (N, 8, 2) and scores (N,) of each look, merged into their average weighted by score
    (BlazeFace's blending), best first.
    """
    if not looks:
        return []
    points, scores = (np.concatenate(values) for values in zip(*looks, strict=True))
    order = np.argsort(-scores, kind="stable")
    points, scores = points[order], scores[order]
    merged = []
    while scores.size:
        low, high = points[:, 0], points[:, 1]
        shared = np.clip(np.minimum(high, high[0]) - np.maximum(low, low[0]), 0, None).prod(1)
        areas = (high - low).clip(0).prod(1)
        same = shared / np.maximum(areas + areas[0] - shared, 1e-9) > overlap
        same[0] = True
        merged.append(Detection(np.average(points[same], axis=0, weights=scores[same]), float(scores[0])))
        points, scores = points[~same], scores[~same]
    return merged


_shared: FaceFinder | None = None
_shared_lock = threading.Lock()


def find_faces(image: np.ndarray, min_score: float = 0.5) -> list[Face]:
    """Find every face of a picture, the largest first.

    Args:
        image: (H, W, 3) uint8 RGB.
        min_score: the detector's threshold in [0, 1].

    Raises:
        ValueError: the picture is not (H, W, 3) uint8.
        FileNotFoundError: the landmark models are missing and cannot be downloaded.
    """
    return shared()(image, min_score)


def shared() -> FaceFinder:
    """The `FaceFinder` of this process, loaded on first use; raises as `find_faces` does."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = FaceFinder()
    return _shared

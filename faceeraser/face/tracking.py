"""Follow faces from frame to frame: landmarks without jitter and without lag, and a detector that rests.

    tracker = Tracker(FaceFinder())
    for image in frames:
        tracked = tracker(image, seconds=1 / 25)

Where a face was in the last frame its landmarks are looked for in this one; the landmark model itself says when it has lost
the face. The detector runs while no face is followed, when one has just been lost, and every `detect_every` frames for faces
that have come in. The meshes are smoothed by the 1-Euro filter (Casiez, Roussel and Vogel 2012, CHI): a low pass that opens
with speed, so that a face at rest does not tremble and a face that moves does not trail.

The constants stand in tracking.json, for other programs too: min_cutoff_hz, what is left of the low pass at rest; beta, by
how many Hz it opens for a speed of one eye distance a second; derivative_cutoff_hz, the low pass on the speed itself;
detect_every, in frames.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from faceeraser.face.finder import Detection, FaceFinder, Looked, same_face
from faceeraser.face.mesh import OVAL, Face

FILE = Path(__file__).with_name("tracking.json")
CLOSER = 3  # of the nine places that the detector looks at more closely: after three of its looks it has seen them all
JUMP = 0.75  # eye distances between two frames: no face moves so far, so the filter starts anew


@dataclass(frozen=True)
class Constants:
    """What tracking.json says; see the module."""

    min_cutoff_hz: float
    beta: float
    derivative_cutoff_hz: float
    detect_every: int


def read(path: Path = FILE) -> Constants:
    """The constants of a file such as tracking.json."""
    return Constants(**json.loads(path.read_text()))


class OneEuro:
    """The 1-Euro filter on a mesh; speeds are in eye distances a second, so that large faces are smoothed as small ones."""

    def __init__(self, constants: Constants) -> None:
        self._constants = constants
        self._last: np.ndarray | None = None
        self._speed: np.ndarray | None = None

    def __call__(self, mesh: np.ndarray, eye_distance: float, seconds: float) -> np.ndarray:
        """The mesh (N, 2), smoothed. `seconds` since the last call; the first mesh comes back as it is."""
        now = mesh.astype(np.float64)
        if self._last is None or self._speed is None:
            self._last, self._speed = now, np.zeros_like(now)
            return mesh
        speed = (now - self._last) / (eye_distance * seconds)
        self._speed += _share(self._constants.derivative_cutoff_hz, seconds) * (speed - self._speed)
        cutoff = self._constants.min_cutoff_hz + self._constants.beta * np.abs(self._speed)
        self._last = self._last + _share(cutoff, seconds) * (now - self._last)
        return self._last.astype(mesh.dtype)


def _share(cutoff_hz: float | np.ndarray, seconds: float) -> np.ndarray:
    """How much of a new value an exponential low pass takes."""
    return np.asarray(1 / (1 + 1 / (2 * math.pi * np.asarray(cutoff_hz) * seconds)))


@dataclass(eq=False)
class Tracked:
    """One face that is followed. `number` is its own as long as it is; `face` is smoothed, `seen` as the model gave it."""

    number: int
    face: Face
    seen: Face
    smooth: OneEuro = field(repr=False)


class Tracker:
    """Faces from frame to frame. `frames` and `looks` count the frames, and how often the detector ran."""

    def __init__(self, finder: FaceFinder, constants: Constants | None = None) -> None:
        self.constants = constants or read()
        self.frames, self.looks = 0, 0
        self._finder = finder
        self._followed: list[Tracked] = []
        self._since, self._numbers = 0, 0
        self._looked = Looked()

    def __call__(self, image: np.ndarray, seconds: float, clock: Callable[[str], None] = lambda step: None) -> list[Tracked]:
        """The faces of the next frame, in the order in which they came in.

        Args:
            image: (H, W, 3) uint8 RGB.
            seconds: since the last frame.
            clock: called with "landmarks" or "find" after each has been done.
        """
        self.frames += 1
        followed = [(track, self._finder.follow(image, track.seen)) for track in self._followed]
        kept: list[Tracked] = []
        for track, seen in followed:
            # Two that have come to follow the same face are one: the older stays.
            if seen is not None and not any(same_face(seen, other.seen) for other in kept):
                kept.append(self._moved(track, seen, seconds))
        lost = len(kept) < len(self._followed)
        clock("landmarks")
        self._since += 1
        due = lost or self.frames == 1 or self._since >= self.constants.detect_every
        if due or not kept:
            # Without a face every frame is looked at, or one would show for a while; closer looks, which together cost as
            # much as some frames, are for the first frame of it and then now and then, beside a face a few at a time.
            if lost:
                self._looked = Looked()  # who was lost may still be where he was
            closer = 0 if not due else CLOSER if kept and not lost else None
            detected = self._finder.detect(image, closer=closer, looked=self._looked, known=[track.seen for track in kept])
            self._since = 0 if due else self._since
            self.looks += 1
            clock("find")
            for detection in detected:
                if any(_covers(track.seen, detection) for track in kept):
                    continue
                seen = self._finder.landmarks(image, detection)
                if seen is not None and not any(same_face(seen, track.seen) for track in kept):
                    kept.append(self._begun(seen, seconds))
            clock("landmarks")
        self._followed = kept
        return list(kept)

    def _begun(self, seen: Face, seconds: float) -> Tracked:
        self._numbers += 1
        smooth = OneEuro(self.constants)
        smooth(seen.mesh, seen.eye_distance, seconds)
        return Tracked(self._numbers, seen, seen, smooth)

    def _moved(self, track: Tracked, seen: Face, seconds: float) -> Tracked:
        if float(np.median(np.abs(seen.mesh - track.seen.mesh))) > JUMP * seen.eye_distance:
            return self._begun(seen, seconds)
        mesh = track.smooth(seen.mesh, seen.eye_distance, seconds)
        return Tracked(track.number, replace(seen, mesh=mesh), seen, track.smooth)


def _covers(face: Face, detection: Detection) -> bool:
    """Whether what is detected is a face that is followed already: the middle of its box lies well inside it."""
    outline = face.mesh[OVAL]
    return float(np.hypot(*((outline.min(0) + outline.max(0)) / 2 - detection.box.mean(0)))) < 0.4 * face.width

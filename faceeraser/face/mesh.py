"""The mesh of a face: which of its 468 points are brows, eyes, nose and mouth, and where they put the face.

The points are those of MediaPipe's face mesh (Kartynnik et al. 2019, Real-time Facial Surface Geometry, arXiv:1907.06724).

Coordinates are pixels, x then y, with pixel centres at whole numbers (OpenCV's convention). A 2x3 matrix always maps picture
coordinates to crop coordinates. Distances that have to fit faces of any size are given in eye distances: from the middle
of one eye to the middle of the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

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
    172,
    58,
    132,
    93,
    234,
    127,
    162,
    21,
    54,
    103,
    67,
    109,
]
MESH_POINTS = 468


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Transform (N, 2) points by a 2x3 matrix."""
    return np.asarray(points) @ matrix[:, :2].T + matrix[:, 2]


@dataclass(frozen=True, eq=False)
class Face:
    """One face in a picture.

    Attributes:
        mesh: (468, 2) float32, MediaPipe's face mesh in picture pixels.
        score: the detector's confidence, in [0, 1].
        yaw: how far the head is turned, in degrees; 0 looks at the camera, positive turns the nose to the right of the
            picture.
    """

    mesh: np.ndarray
    score: float = 1.0
    yaw: float = 0.0

    def __post_init__(self) -> None:
        if np.shape(self.mesh) != (MESH_POINTS, 2):
            raise ValueError(
                f"found a mesh of shape {np.shape(self.mesh)}; expected ({MESH_POINTS}, 2); finder.find_faces makes one"
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
        """The same face in other coordinates, such as those of an aligned crop; matrix: 2x3."""
        return Face(transform(matrix, self.mesh).astype(np.float32), self.score, self.yaw)

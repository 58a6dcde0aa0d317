"""The parts of a face as a bit map: brows, eyes, nose, mouth and glasses, each dilated to cover the shadow around it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import cv2
import numpy as np

from faceeraser.face.mesh import LEFT_BROW, LEFT_EYE, LIPS, NOSE_OUTLINE, RIGHT_BROW, RIGHT_EYE, Face

BROWS, EYES, NOSE, MOUTH, GLASSES = 1, 2, 4, 8, 16
PARTS = {"brows": BROWS, "eyes": EYES, "nose": NOSE, "mouth": MOUTH, "glasses": GLASSES}
POLYGONS = {
    BROWS: [RIGHT_BROW, LEFT_BROW],
    EYES: [RIGHT_EYE, LEFT_EYE],
    NOSE: [NOSE_OUTLINE],
    MOUTH: [LIPS],
}
PART_POINTS = sorted({point for polygons in POLYGONS.values() for polygon in polygons for point in polygon})
"""Points of the mesh that the polygons have."""

# How far each part is dilated, in pixels of a 256-pixel crop, whose eye distance is close to 90: enough to cover the
# shadows that a part throws, which would otherwise be copied into the hole.
DILATION = {BROWS: 9.0, EYES: 13.0, NOSE: 7.0, MOUTH: 11.0}
DILATION_EYE_DISTANCE = 90.0
# The same where a photograph is erased: the folds beside a nose and the corners of a smile go too, which are no part of
# either, but on an empty face look like leftovers of both (a detector found 1 of 16 erased faces, and 4 without this).
# At 14 pixels around the mouth the ends of the folds stayed as dark marks on most smiling faces of a sheet, at 26 on few; at
# 13 around the eyes their outer corners did, and pulled dark bands across the painted skin (`crease` 1.21, now 1.11).
DILATION_ERASED = {BROWS: 12.0, EYES: 20.0, NOSE: 17.0, MOUTH: 29.0}


def parts_map(
    face: Face,
    shape: tuple[int, ...] | int,
    *,
    dilate: float = 1.0,
    glasses: np.ndarray | None = None,
    dilation: Mapping[int, float] = MappingProxyType(DILATION),
) -> np.ndarray:
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
        fill_near(field, bit, [face.mesh[polygon] for polygon in polygons], dilation[bit] * per_pixel)
    if glasses is not None:
        if glasses.shape != field.shape:
            raise ValueError(f"found a glasses mask of shape {glasses.shape}; expected {field.shape}, that of the map")
        field |= np.where(glasses > 0, np.uint8(GLASSES), np.uint8(0))
    return field


def fill_near(field: np.ndarray, bit: int, polygons: list[np.ndarray], radius: float) -> None:
    """Set `bit` in every pixel at most `radius` from a polygon; by distance, which costs the same at any radius."""
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

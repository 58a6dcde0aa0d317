"""The mask of what is erased from a face. Only this module makes it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from faceeraser.face.crops import align_matrix
from faceeraser.face.glasses import glasses_score, worn_glasses
from faceeraser.face.mesh import OVAL, Face
from faceeraser.face.parts import DILATION_ERASED, DILATION_EYE_DISTANCE, GLASSES, PARTS, POLYGONS, parts_map
from faceeraser.face.profiles import FEATURES

MARGIN = 4.0
"""How far inside the face's outline a mask ends, in pixels of a 256-pixel crop: MediaPipe's outline lies up to so far beyond
the face, and skin painted on hair or a wall is a lobe.
"""
LEAST = 3.0
"""How far from a part's polygon it nevertheless reaches: of a face that is turned, an eye lies near the outline."""
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
    pair = worn(image, face, size, parts, glasses)
    return mask_of(face, size, parts, pair), pair is not None


def worn(
    image: np.ndarray, face: Face, size: int, parts: Sequence[str] = FEATURES, glasses: str = "auto"
) -> np.ndarray | None:
    """The glasses that are to go, (size, size) bool, or None; arguments as of `face_mask`."""
    wears = glasses == "on" or (glasses == "auto" and "eyes" in parts and glasses_score(image, face) >= 0.5)
    return worn_glasses(image, face, size) if wears else None


def mask_of(face: Face, size: int, parts: Sequence[str], pair: np.ndarray | None) -> np.ndarray:
    """`face_mask` where the glasses are known, from `worn`: (size, size) bool."""
    bits = sum(PARTS[name] for name in set(parts)) | (GLASSES if pair is not None else 0)
    level = face.moved(align_matrix(face, size))
    mask = (parts_map(level, size, glasses=pair, dilation=DILATION_ERASED) & np.uint8(bits)).clip(0, 1)
    # A slit between two parts keeps a crease or the rim of a lens, which then looks like a scar: close what is narrow.
    width = 2 * round(_SLIT * level.eye_distance / 2) + 1  # odd: an even disc has no middle and would move the mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    x, y, w, h = cv2.boundingRect(mask)  # closing adds nothing beyond it
    closed = np.zeros_like(mask)
    there = (slice(y, y + h), slice(x, x + w))
    closed[there] = cv2.morphologyEx(np.pad(mask[there], width), cv2.MORPH_CLOSE, disc)[width:-width, width:-width]
    keep = _well_inside(level, size)
    if (closed > keep).any():
        keep |= parts_map(level, size, dilation=dict.fromkeys(POLYGONS, LEAST)) > 0
    if pair is not None:
        keep |= pair > 0
    return (closed > 0) & keep


def _well_inside(level: Face, size: int) -> np.ndarray:
    """(size, size) bool, what lies MARGIN inside the outline of a face in the coordinates of its crop."""
    outline = np.zeros((size, size), np.uint8)
    cv2.fillPoly(outline, [np.round(level.mesh[OVAL] * 16).astype(np.int32)], 1, shift=4)
    depth = cv2.distanceTransform(outline, cv2.DIST_L2, 5)
    return depth > MARGIN * level.eye_distance / DILATION_EYE_DISTANCE

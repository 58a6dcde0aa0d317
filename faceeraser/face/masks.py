"""The mask of what is erased from a face. Only this module makes it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from faceeraser.face.crops import align_matrix
from faceeraser.face.glasses import glasses_score, worn_glasses
from faceeraser.face.mesh import OVAL, Face
from faceeraser.face.parts import BROWS, DILATION_ERASED, DILATION_EYE_DISTANCE, GLASSES, PARTS, POLYGONS, parts_map
from faceeraser.face.profiles import FEATURES

MARGIN = 4.0
"""How far inside the face's outline a mask ends, in pixels of a 256-pixel crop: MediaPipe's outline lies up to so far beyond
the face, and skin painted on hair or a wall is a lobe.
"""
LEAST = 3.0
"""How far from a part's polygon it nevertheless reaches: of a face that is turned, an eye lies near the outline."""
SLIT = 0.2
"""In eye distances: what is narrower and lies between erased parts is erased with them. A slit keeps a crease or the rim of
a lens, which then looks like a scar.
"""
GLABELLA = 0.6
"""The same between the brows, where a frown's folds, left alone, look like a scar too. (Not between the eyes and the mouth:
judges prefer cheeks that stay, though a smile's look like knobs on an empty face, to a flat middle that ends on them.)
"""

RIM = 6.0
"""How far beyond the outline glasses become skin, in pixels as of MARGIN: a face's temples are often beyond it. Lenses of
a turned face jut out further, and skin painted there is a lobe, too.
"""

CREASE, VALLEY = 0.11, 5.0
"""How much darker than the skin beside the mask a crease is, as a share, and half of its greatest width, in pixels as of
MARGIN.
"""
TOUCHES, REACHES, AROUND, DEEPER = 4.0, 12.0, 1.5, 8.0
"""In pixels as of MARGIN: how near to a mask a crease begins that is erased with it, how far it is followed, how much is
erased around it, and how far inside the outline it lies, where nothing is the shadow of hair or of a jaw.
"""


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
    field = parts_map(level, size, glasses=pair, dilation=DILATION_ERASED) & np.uint8(bits)
    between = _closed(field & np.uint8(BROWS), GLABELLA * level.eye_distance / 2)
    closed = _closed(((field > 0) | between).astype(np.uint8), SLIT * level.eye_distance / 2)
    keep = _depth(level, size) > MARGIN * level.eye_distance / DILATION_EYE_DISTANCE
    if (closed & ~keep).any():
        keep |= parts_map(level, size, dilation=dict.fromkeys(POLYGONS, LEAST)) > 0
    if pair is not None:
        keep |= pair > 0
    return closed & keep


def at_face(face: Face, size: int) -> np.ndarray:
    """(size, size) bool, where glasses lie on a face or at its rim, and are to become skin; elsewhere they are beside it."""
    level = face.moved(align_matrix(face, size))
    away = cv2.distanceTransform(1 - _outline(level, size), cv2.DIST_L2, 5)
    there: np.ndarray = away <= RIM * level.eye_distance / DILATION_EYE_DISTANCE
    return there


def with_creases(mask: np.ndarray, crop: np.ndarray, level: Face) -> np.ndarray:
    """A mask and the creases that begin at it: at the corners of eyes, beside nose and mouth, which without the part that
    they belong to look like slits and scars.

    Args:
        mask: (R, R) bool, of a still picture; in a video it would change from frame to frame.
        crop: (R, R, 3) uint8, of the same; what is under the mask is not looked at.
        level: the face, in the crop's coordinates.
    """
    unit = level.eye_distance / DILATION_EYE_DISTANCE
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    inside = _depth(level, len(mask))
    there = ~mask & (away <= REACHES * unit) & (inside > DEEPER * unit)
    if not there.any():
        return mask
    luma = cv2.cvtColor(crop.astype(np.float32), cv2.COLOR_RGB2GRAY)
    usual = luma[there].mean()
    luma[mask] = usual
    luma = cv2.blur(luma, (3, 3), borderType=cv2.BORDER_REPLICATE)
    window = np.ones((2 * round(VALLEY * unit) + 1,) * 2, np.uint8)
    dark = (cv2.morphologyEx(luma, cv2.MORPH_CLOSE, window) - luma > CREASE * usual) & there
    count, labels = cv2.connectedComponents(dark.astype(np.uint8), connectivity=8)
    begins = np.bincount(labels[dark & (away <= TOUCHES * unit)], minlength=count) > 0
    creases = begins[labels] & dark
    if not creases.any():
        return mask
    beside = cv2.distanceTransform((~creases).astype(np.uint8), cv2.DIST_L2, 5)
    return mask | ((beside <= AROUND * unit) & (inside > MARGIN * unit))


def _closed(mask: np.ndarray, radius: float) -> np.ndarray:
    """A mask and all that no disc of this radius beside it reaches. By distance, which costs the same at any radius."""
    closed = np.zeros(mask.shape, bool)
    x, y, width, height = cv2.boundingRect(mask)  # nothing is added beyond it
    there = (slice(y, y + height), slice(x, x + width))
    rim = math.ceil(radius) + 1  # the disc may stand outside of the picture
    away = cv2.distanceTransform(1 - np.pad(mask[there], rim), cv2.DIST_L2, 5)
    depth = cv2.distanceTransform((away <= radius).astype(np.uint8), cv2.DIST_L2, 5)
    closed[there] = depth[rim : rim + height, rim : rim + width] > radius
    return closed


def _depth(level: Face, size: int) -> np.ndarray:
    """(size, size) float32, how far inside the outline of a face in the coordinates of its crop a pixel lies; 0 outside."""
    depth: np.ndarray = cv2.distanceTransform(_outline(level, size), cv2.DIST_L2, 5)
    return depth


def _outline(level: Face, size: int) -> np.ndarray:
    """(size, size) uint8, 1 inside the outline of a face in the coordinates of its crop."""
    outline = np.zeros((size, size), np.uint8)
    cv2.fillPoly(outline, [np.round(level.mesh[OVAL] * 16).astype(np.int32)], 1, shift=4)
    return outline

"""Cut a levelled crop of a face out of a picture and paste it back; pixels outside its mask stay bit-identical.

    crop, matrix = align(image, face, 256)
    image = paste_back(image, painted, matrix, mask)

Pictures are (H, W, 3) uint8 RGB; coordinates and matrices are as in mesh.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np

from faceeraser.face.mesh import OVAL, Face, transform

FEATHER = 3.0  # in crop pixels: the width over which what is pasted fades into the picture, inside the mask
SMALLEST_CROP = 16


def cut(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], sharp: bool = True) -> np.ndarray:
    """Cut an affine patch out of a picture, without aliasing.

    Args:
        image: (H, W) or (H, W, C) uint8 or float32.
        matrix: 2x3, picture to patch coordinates.
        size: width and height of the patch.
        sharp: enlarge by cubic instead of linear sampling, which takes a third of the time.

    Returns:
        The patch, of the picture's type. Beyond the picture its border pixels are repeated.
    """
    width, height = size
    matrix = np.asarray(matrix, np.float64)
    corners = np.array([[-1, -1], [width, -1], [-1, height], [width, height]], np.float64)
    there = transform(cv2.invertAffineTransform(matrix), corners)
    left, top = np.clip(np.floor(there.min(0)).astype(int) - 2, 0, [image.shape[1] - 1, image.shape[0] - 1])
    right, bottom = np.clip(np.ceil(there.max(0)).astype(int) + 3, [left + 1, top + 1], [image.shape[1], image.shape[0]])
    scale = _stretch(matrix)
    # What is far larger than the patch is halved first: areas of whole pixels are averaged many times faster than others.
    halvings = math.floor(math.log2(min(max(0.5 / max(scale, 1e-6), 1.0), right - left, bottom - top)))
    left, right = _in_whole(left, right, 2**halvings, image.shape[1])
    top, bottom = _in_whole(top, bottom, 2**halvings, image.shape[0])
    piece = image[top:bottom, left:right]
    factors = np.ones(2)
    if scale < 0.75:  # sampling a large face directly skips pixels, and the mesh then jitters: average areas first
        small = (max(1, round(piece.shape[1] * scale)), max(1, round(piece.shape[0] * scale)))
        factors = np.array([small[0] / piece.shape[1], small[1] / piece.shape[0]])
        for _ in range(halvings):
            piece = cv2.resize(piece, (piece.shape[1] // 2, piece.shape[0] // 2), interpolation=cv2.INTER_AREA)
        piece = cv2.resize(piece, small, interpolation=cv2.INTER_AREA)
    back = np.diag(1 / factors)  # from the piece's pixels to the picture's: p = (q + 0.5) / factor - 0.5 + corner
    offset = 0.5 / factors - 0.5 + [left, top]
    local = np.hstack([matrix[:, :2] @ back, (matrix[:, :2] @ offset + matrix[:, 2])[:, None]])
    warp = partial(cv2.warpAffine, M=local, dsize=(width, height), borderMode=cv2.BORDER_REPLICATE)
    if scale > 1.0 and sharp:
        return warp(piece, flags=cv2.INTER_CUBIC)
    if piece.ndim == 3 and piece.shape[2] == 3 and piece.dtype == np.uint8:
        # Linearly, OpenCV samples four channels in less than half of the time of three, and the same to the bit.
        return cv2.cvtColor(warp(cv2.cvtColor(piece, cv2.COLOR_RGB2RGBA), flags=cv2.INTER_LINEAR), cv2.COLOR_RGBA2RGB)
    return warp(piece, flags=cv2.INTER_LINEAR)


def _stretch(matrix: np.ndarray) -> float:
    """By how much a 2x3 matrix lengthens what it lengthens most: its larger singular value, in closed form."""
    (a, b), (c, d) = matrix[:, :2].tolist()
    whole, part = a * a + b * b + c * c + d * d, a * d - b * c
    return math.sqrt((whole + math.sqrt(max(0.0, whole * whole - 4 * part * part))) / 2)


def _in_whole(first: int, last: int, unit: int, length: int) -> tuple[int, int]:
    """A range of pixels, at least `unit`, as one of a multiple of it: longer, or shorter where a picture ends."""
    last = min(length, last + -(last - first) % unit)
    first = max(0, first - -(last - first) % unit)
    return first, first + (last - first) // unit * unit


def square(centre: np.ndarray, side: float, roll: float, size: int) -> np.ndarray:
    """The matrix that cuts a square of `side` picture pixels, rotated by `roll` degrees, into `size` x `size` pixels."""
    angle = math.radians(roll)
    scale = size / side
    turn = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    middle = (size - 1) / 2
    return np.hstack([turn, (middle - turn @ np.asarray(centre, np.float64))[:, None]])


def check_picture(image: np.ndarray) -> None:
    """Raises ValueError for anything but (H, W, 3) uint8."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        described = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"found {described}; expected a uint8 RGB picture of shape (H, W, 3); picture.read makes one")


def align(image: np.ndarray, face: Face, size: int = 256, sharp: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Cut a face out, eyes level, filling a square crop from the hairline to the chin. sharp: as for `cut`.

    Returns:
        The crop, (size, size, 3) uint8, and the 2x3 matrix from picture to crop coordinates, for `face.moved` and
        `paste_back`.
    """
    check_picture(image)
    matrix = align_matrix(face, size)
    return cut(image, matrix, (size, size), sharp), matrix


def align_matrix(face: Face, size: int = 256) -> np.ndarray:
    """The 2x3 matrix of `align`, picture to crop coordinates, without a picture."""
    if size < SMALLEST_CROP:
        raise ValueError(f"found size {size}; expected at least {SMALLEST_CROP} pixels; use 256 for the paper's crop")
    turn = square(np.zeros(2), 1.0, face.roll, 1)[:, :2]
    level = face.mesh[OVAL] @ turn.T
    centre = (level.min(0) + level.max(0)) / 2 @ turn
    return square(centre, 1.04 * float(np.ptp(level, axis=0).max()), face.roll, size)


def _reach(box: Sequence[int], matrix: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Where a box (x, y, width, height) of a crop lies in the picture, with a margin for interpolation.

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
    image: np.ndarray,
    crop: np.ndarray,
    matrix: np.ndarray,
    mask: np.ndarray,
    feather: float = FEATHER,
    *,
    in_place: bool = False,
) -> np.ndarray:
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
    check_picture(image)
    check_picture(crop)
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
    scale = _stretch(local)
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

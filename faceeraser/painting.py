"""Painting by a plan on a photograph's own grid, whatever its resolution: `paint.py`'s arithmetic in numpy and OpenCV.

    painted = paint_by_plan(photograph, mask, plan, matrix)

A crop that is resampled, painted and pasted back loses a tenth of its pores on the way, and all that is finer than its
pixels. So
here only what is smooth comes from the crop: shading, skin, and which window goes where. The detail is the photograph's
own, moved by whole pixels of its own grid. (plan and constants: paint.py)
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

SEEN, BLOCKS, CORNERS, HALVES = 128, 16, 17, 29
BOUND = 2.5
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def paint_by_plan(
    image: np.ndarray, mask: np.ndarray, crop: np.ndarray, plan: Mapping[str, np.ndarray], matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Paint what a plan says into a photograph, in place.

    Args:
        image: (H, W, 3) uint8 RGB, the photograph.
        mask: (R, R), non-zero = erase, in the crop's coordinates.
        crop: (R, R, 3) uint8, what the plan was made of.
        plan: `skin` (128, 128, 1), `shading` (64, 64, 3), `sources` (289,), as a file or a network gives them.
        matrix: 2x3, photograph to crop coordinates, as `faces.align` gives it.

    Returns:
        The photograph, and (H, W) bool, what was painted. Other pixels stay as they are, to the bit; nothing that is
        under the mask is looked at.
    """
    side = len(mask)
    back = cv2.invertAffineTransform(np.asarray(matrix, np.float64))
    x, y, width, height = _box(side, back, image.shape)
    painted_there = np.zeros(image.shape[:2], bool)
    if width <= 0 or height <= 0:
        return image, painted_there
    view = image[y : y + height, x : x + width]
    local = np.asarray(matrix, np.float64).copy()
    local[:, 2] += local[:, :2] @ [x, y]  # from the box's pixels to the crop's

    def sampled(field: np.ndarray, smooth: int = cv2.INTER_LINEAR) -> np.ndarray:
        """A map of the crop, of any size, on the box's grid."""
        scale = len(field) / side
        there = local * scale
        there[:, 2] += 0.5 * scale - 0.5
        flags = smooth | cv2.WARP_INVERSE_MAP
        field = np.ascontiguousarray(field, np.float32)
        return cv2.warpAffine(field, there, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)

    hole = sampled((mask > 0).astype(np.float32)) > 0.5
    if not hole.any():
        return image, painted_there
    skin = plan["skin"][..., 0]
    clean = sampled(np.clip(4 * skin - 1.6, 0, 1)) * ~hole
    luma = (view @ _LUMA) / np.float32(255)
    detail = (luma - sampled(_own_shading(crop, mask, skin))) * clean
    deviation = 1.2533 * float(np.abs(detail).mean()) / (float(clean.mean()) + 1e-4)
    detail = np.clip(detail, -BOUND * deviation, BOUND * deviation)
    texture = _laid(detail, hole, plan["sources"].astype(int), local, side)
    shading = sampled(plan["shading"], cv2.INTER_CUBIC)
    if not (np.ptp(crop.astype(int), axis=2) > 0).any():  # a grey picture stays grey: a network has a tint for every skin
        shading = np.repeat((shading @ _LUMA)[..., None], 3, axis=2)
    painted = np.clip(shading + texture[..., None], 0, 1)[hole]
    view[hole] = np.rint(painted * 255).astype(np.uint8)
    painted_there[y : y + height, x : x + width] = hole
    return image, painted_there


def skin_of(skin: np.ndarray, sources: np.ndarray) -> float:
    """How much of the windows of `sources` (289,) is skin (128, 128, 1), in [0, 1], on average."""
    block = SEEN // BLOCKS
    covered = cv2.blur(skin[..., 0], (2 * block,) * 2, anchor=(block, block))
    places = sources.astype(int)
    return float(covered[(places // HALVES + 2) * (block // 2), (places % HALVES + 2) * (block // 2)].mean())


def _box(side: int, back: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """x, y, width, height of what of the photograph is read or painted: the whole crop, as far as it lies inside."""
    corners = np.array([[-0.5, -0.5], [side - 0.5, -0.5], [-0.5, side - 0.5], [side - 0.5, side - 0.5]])
    there = corners @ back[:, :2].T + back[:, 2]
    low = np.clip(np.floor(there.min(0)).astype(int), 0, shape[1::-1])
    high = np.clip(np.ceil(there.max(0)).astype(int) + 1, 0, shape[1::-1])
    return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])


def _own_shading(crop: np.ndarray, mask: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """`paint.own_shading` of a crop (R, R, 3) uint8: luma (64, 64)."""
    visible = (crop @ _LUMA) / np.float32(255) * (mask == 0)
    seen = cv2.resize(visible.astype(np.float32), (SEEN, SEEN), interpolation=cv2.INTER_AREA)
    value, weight = (cv2.resize(f, (SEEN // 2,) * 2, interpolation=cv2.INTER_AREA) for f in (seen * skin, skin))
    for _ in range(2):
        value, weight = (cv2.blur(f, (3, 3), borderType=cv2.BORDER_REFLECT_101) for f in (value, weight))
    return value / (weight + 1e-4)


def _laid(detail: np.ndarray, hole: np.ndarray, sources: np.ndarray, local: np.ndarray, side: int) -> np.ndarray:
    """Texture: each window's source under Hann weights, over the root of the sum of their squares; (h, w) float32."""
    height, width = detail.shape
    block = side / BLOCKS
    back = cv2.invertAffineTransform(local)
    laid, squares = np.zeros_like(detail), np.zeros_like(detail)
    for window, source in enumerate(sources):
        corner = np.array([window % CORNERS, window // CORNERS]) * block - 0.5  # pixel centres are whole numbers
        moved = (np.array([source % HALVES, source // HALVES]) + 2) * (block / 2) - 0.5 - corner
        dx, dy = np.rint(back[:, :2] @ moved).astype(int)
        around = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) * block + corner
        there = around @ back[:, :2].T + back[:, 2]
        low = np.maximum(np.floor(there.min(0)).astype(int), (max(0, -dx), max(0, -dy)))
        high = np.minimum(np.ceil(there.max(0)).astype(int) + 1, (min(width, width - dx), min(height, height - dy)))
        if (high <= low).any() or not hole[low[1] : high[1], low[0] : high[0]].any():
            continue
        columns, rows = np.arange(low[0], high[0], dtype=np.float32), np.arange(low[1], high[1], dtype=np.float32)
        u = (local[0, 0] * columns + (local[0, 1] * rows)[:, None] + local[0, 2] - corner[0]) / block
        v = (local[1, 0] * columns + (local[1, 1] * rows)[:, None] + local[1, 2] - corner[1]) / block
        weight = (_hann(u) * _hann(v)).astype(np.float32)
        to = (slice(low[1], high[1]), slice(low[0], high[0]))
        laid[to] += weight * detail[low[1] + dy : high[1] + dy, low[0] + dx : high[0] + dx]
        squares[to] += weight**2
    return laid / np.sqrt(np.maximum(squares, 1e-3))


def _hann(u: np.ndarray) -> np.ndarray:
    """Hann's window over [-1, 1]."""
    return np.cos(np.clip(u, -1, 1) * (np.pi / 2)) ** 2

"""Painting by a plan on a photograph's own grid, whatever its resolution: `paint.py`'s arithmetic in numpy and OpenCV.

    painted = paint_by_plan(photograph, mask, plan, matrix)

A crop that is resampled, painted and pasted back loses a tenth of its pores on the way, and all that is finer than its
pixels. So here only what is smooth comes from the crop: shading, skin, and which window goes where. The detail is the
photograph's own, moved by whole pixels of its own grid. What the plan is: paint.py, which takes its constants from here,
where torch is not needed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

SEEN = 128
"""Pixels along the side of what a planning network sees, whatever is painted."""
BLOCKS = 16
"""Blocks along the side of a picture."""
CORNERS = BLOCKS + 1
"""Windows along the side: one around each corner of the grid of blocks."""
HALVES = 2 * BLOCKS - 3
"""Sources along the side: points half a block apart, the first and last a block from the border."""
SHADED = 64
"""Pixels along the side of a plan's shading."""
BOUND = 2.5
"""Deviations of own skin's detail beyond which nothing is copied: no hair, no crease, no rim of a lens."""
DEVIATION = 1.2533
"""A normal variable's standard deviation in mean absolute deviations, in which outliers count less than squared."""
CLEAN_SLOPE, CLEAN_OFFSET = 4.0, 1.6
"""Of the ramp on skin's weight that says where nothing but skin is: 0 at 0.4 and below, 1 at 0.65 and above."""
LUMA = (0.299, 0.587, 0.114)
"""Rec. 601."""
LEAST_SHARE = 1 / 64
"""Of a pixel, below which nothing is painted on it."""
AT_ONCE = 1 << 15
"""Pixels that are laid at once, so that what is worked out for them stays near the processor."""

_LUMA = np.array(LUMA, np.float32)


def paint_by_plan(
    image: np.ndarray,
    mask: np.ndarray,
    crop: np.ndarray,
    plan: Mapping[str, np.ndarray],
    matrix: np.ndarray,
    share: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Paint what a plan says into a photograph, in place.

    Args:
        image: (H, W, 3) uint8 RGB, the photograph.
        mask: (R, R), non-zero = erase, in the crop's coordinates.
        crop: (R, R, 3) uint8, what the plan was made of.
        plan: `skin` (128, 128, 1), `shading` (64, 64, 3), `sources` (289,), as a file or a network gives them.
        matrix: 2x3, photograph to crop coordinates, as `crops.align` gives it.
        share: (R, R) float32 in [0, 1], the share that what is painted has of pixels, in the crop's coordinates: 1 in the
            mask, less where it fades out over what is in front (`occluders.trimmed`); None: there is nothing in front.

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
    sampled = functools.partial(_sampled, local=local, side=side, where=(0, 0, width, height))
    hole = sampled((mask > 0).astype(np.float32)) > 0.5
    if not hole.any():
        return image, painted_there
    beyond = _beyond(share, sampled)
    painted_on = hole if beyond is None else hole | (beyond > LEAST_SHARE)
    skin = plan["skin"][..., 0]
    clean = sampled(np.clip(CLEAN_SLOPE * skin - CLEAN_OFFSET, 0, 1)) * ~hole
    luma = (view @ _LUMA) / np.float32(255)
    detail = (luma - sampled(_own_shading(crop, mask, skin))) * clean
    deviation = DEVIATION * float(np.abs(detail).mean()) / (float(clean.mean()) + 1e-4)
    detail = np.clip(detail, -BOUND * deviation, BOUND * deviation)
    inner = cv2.boundingRect(painted_on.view(np.uint8))
    part = (slice(inner[1], inner[1] + inner[3]), slice(inner[0], inner[0] + inner[2]))
    on, view = painted_on[part], view[part]
    colours = _sampled(plan["shading"], cv2.INTER_CUBIC, local=local, side=side, where=inner)[on]
    if not (crop[..., :1] != crop[..., 1:]).any():  # a grey picture stays grey: a network has a tint for every skin
        colours = np.repeat((colours @ _LUMA)[..., None], 3, axis=1)
    colours += _laid(detail, painted_on, plan["sources"].astype(int), local, side)[:, None]
    colours = np.clip(colours, 0, 1, out=colours) * np.float32(255)
    if beyond is not None:
        faint = on & ~hole[part]
        own = beyond[part][faint][:, None]
        colours[faint[on]] = colours[faint[on]] * own + view[faint] * (1 - own)
    view[on] = np.rint(colours, out=colours).astype(np.uint8)
    painted_there[y : y + height, x : x + width] = painted_on
    return image, painted_there


def _sampled(
    field: np.ndarray, smooth: int = cv2.INTER_LINEAR, *, local: np.ndarray, side: int, where: Sequence[int]
) -> np.ndarray:
    """A map of the crop, of any size, on a part of the box's grid: x, y, width, height."""
    scale = len(field) / side
    there = local * scale
    there[:, 2] += 0.5 * scale - 0.5 + there[:, :2] @ where[:2]
    flags, field = smooth | cv2.WARP_INVERSE_MAP, np.ascontiguousarray(field, np.float32)
    return cv2.warpAffine(field, there, tuple(where[2:]), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _beyond(share: np.ndarray | None, sampled: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
    """The share of what is painted on the box's grid where it fades out, and near there; None where it does not."""
    if share is None or not (fading := (share > 0) & (share < 1)).any():
        return None
    return sampled(share) * (sampled(fading) > 0)


def skin_of(skin: np.ndarray, sources: np.ndarray) -> float:
    """How much of the windows of `sources` (289,) is skin (128, 128, 1), in [0, 1], on average."""
    block = SEEN // BLOCKS
    covered = cv2.blur(skin[..., 0], (2 * block,) * 2, anchor=(block, block))
    places = sources.astype(int)
    return float(covered[(places // HALVES + 2) * (block // 2), (places % HALVES + 2) * (block // 2)].mean())


class Held:
    """The sources of each face of a video, held from frame to frame: texture that moves with the face does not flicker."""

    LEAST = 0.6
    """Of the sources' windows must still be skin, on average; else a plan's own are taken: the face has turned, say."""
    SHARE = 0.9
    """Where a plan's own sources have less, as much of theirs."""

    def __init__(self) -> None:
        self._sources: dict[int, np.ndarray] = {}

    def steady(self, number: int, plan: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The plan of a frame for the face of this number, with the sources that were held for it."""
        held = self._sources.get(number)
        if held is None or skin_of(plan["skin"], held) < min(
            self.LEAST, self.SHARE * skin_of(plan["skin"], plan["sources"])
        ):
            held = self._sources[number] = plan["sources"]
        return {**plan, "sources": held}


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
    value, weight = (cv2.resize(f, (SHADED,) * 2, interpolation=cv2.INTER_AREA) for f in (seen * skin, skin))
    for _ in range(2):
        value, weight = (cv2.blur(f, (3, 3), borderType=cv2.BORDER_REFLECT_101) for f in (value, weight))
    return value / (weight + 1e-4)


def _laid(detail: np.ndarray, where: np.ndarray, sources: np.ndarray, local: np.ndarray, side: int) -> np.ndarray:
    """Texture of the pixels `where` (H, W) bool is true, in their order: (P,) float32.

    A pixel lies in four windows, one around each corner of its block. Under Hann windows that overlap by half, what two
    neighbours count is the squared cosine and sine of how far along it lies, so nothing goes through windows one by one.
    """
    block = side / BLOCKS
    numbers = np.arange(CORNERS**2)
    corners = np.stack([numbers % CORNERS, numbers // CORNERS], 1)
    moved = (np.stack([sources % HALVES, sources // HALVES], 1) + 2) * (block / 2) - corners * block
    shifts = np.rint(moved @ cv2.invertAffineTransform(local)[:, :2].T).astype(np.intp)
    blocks = np.hstack([local[:, :2], local[:, 2:] + 0.5]) / block
    far = np.array([[0, 0, 1], [BLOCKS, 0, 1], [0, BLOCKS, 1], [BLOCKS, BLOCKS, 1]]) @ cv2.invertAffineTransform(blocks).T
    whole = bool((far >= 0).all() and (far <= np.array(detail.shape[::-1]) - 1).all())
    rows, columns = np.nonzero(where)
    parts = [slice(first, first + AT_ONCE) for first in range(0, len(rows), AT_ONCE)]
    return np.concatenate([_copied(detail, rows[part], columns[part], shifts, blocks, whole) for part in parts])


def _copied(
    detail: np.ndarray, rows: np.ndarray, columns: np.ndarray, shifts: np.ndarray, blocks: np.ndarray, whole: bool
) -> np.ndarray:
    """Texture of some pixels, (P,) float32. shifts: (289, 2), how far x and y of each window are moved; blocks: 2x3, from
    pixels to blocks; whole: all of the crop is there to be copied, so that nothing has to be asked of each pixel.
    """
    height, width = detail.shape
    u, v = ((blocks[k, 0] * columns + (blocks[k, 1] * rows + blocks[k, 2])).astype(np.float32) for k in (0, 1))
    left, top = (np.clip(np.floor(x), 0, BLOCKS - 1) for x in (u, v))
    across, along = (np.cos((x - low) * np.float32(np.pi / 2)) ** 2 for x, low in ((u, left), (v, top)))
    first, own = (top * CORNERS + left).astype(np.intp), rows * width + columns
    moved = shifts[:, 1] * width + shifts[:, 0]
    laid, squares = np.zeros(len(rows), np.float32), np.zeros(len(rows), np.float32)
    for down, tall in enumerate((along, 1 - along)):
        for right, wide in enumerate((across, 1 - across)):
            window, weight = first + (CORNERS * down + right), wide * tall
            if not whole:
                x, y = columns + shifts[window, 0], rows + shifts[window, 1]
                weight *= (x >= 0) & (x < width) & (y >= 0) & (y < height)
            laid += weight * np.take(detail, own + moved[window], mode="clip")
            squares += weight * weight
    return laid / np.sqrt(np.maximum(squares, 1e-3))

"""Painting by a plan on a photograph's own grid, whatever its resolution: `paint.py`'s arithmetic in numpy and OpenCV.

    painted = paint_by_plan(photograph, mask, plan, matrix)

A crop that is resampled, painted and pasted back loses a tenth of its pores on the way, and all that is finer than its
pixels. So here only what is smooth comes from the crop: shading, skin, and which window goes where. The detail is the
photograph's own, moved by whole pixels of its own grid. What the plan is: paint.py, which takes its constants from here,
where torch is not needed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

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
MOST_DEVIATION = 0.028
"""Of luma: skin whose detail deviates more is creased or stubbled rather than porous, and is copied so much fainter."""
SOFTENED = 1.03
"""What detail is multiplied by where windows are moved by fractions of pixels, which takes as much of its deviation."""
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
    moving: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Paint what a plan says into a photograph, in place.

    Args:
        image: (H, W, 3) uint8 RGB, the photograph.
        mask: (R, R), non-zero = erase, in the crop's coordinates.
        crop: (R, R, 3) uint8, what the plan was made of.
        plan: `skin` (128, 128, 1), `shading` (64, 64, 3), `sources` (289,), as a file or a network gives them.
        matrix: 2x3, photograph to crop coordinates, as `crops.align` gives it.
        share: (R, R) float32 in [0, 1], the share that what is painted has of pixels, in the crop's coordinates: 1 in the
            mask, less where it fades out over what is in front and beside the mask (`occluders.trimmed`); None: the mask.
        moving: of a video. Windows are moved by fractions of pixels, bicubically, where whole ones would jump from frame to
            frame as the face turns or comes nearer.

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
    hole, beyond = _covered(mask, share, local, (height, width))
    if not hole.any():
        return image, painted_there
    painted_on = hole if beyond is None else hole | (beyond > LEAST_SHARE)
    detail = _detail(view, crop, mask, plan["skin"][..., 0], hole, local)
    texture = _Texture(detail, plan["sources"].astype(int), local, side, moving)
    shading = plan["shading"] * np.float32(255)
    if _grey(crop):  # a grey picture stays grey: a network has a tint for every skin
        shading = np.repeat((shading @ _LUMA)[..., None], 3, axis=2)
    for where in _bands(painted_on):
        part = _slices(where)
        smooth = _sampled(shading, cv2.INTER_CUBIC, local=local, side=side, where=where)
        pores = np.float32(255) * texture(*where)
        painted = cv2.add(smooth, cv2.merge([pores] * 3), dtype=cv2.CV_8U)  # rounded, and kept in range
        if beyond is not None and (faint := np.flatnonzero(painted_on[part] & ~hole[part])).size:
            own, seen = beyond[part].reshape(-1)[faint][:, None], view[part].reshape(-1, 3)[faint]
            exact = np.clip(smooth.reshape(-1, 3)[faint] + pores.reshape(-1)[faint][:, None], 0, 255)
            painted.reshape(-1, 3)[faint] = np.rint(exact * own + seen * (1 - own))
        cv2.copyTo(painted, painted_on[part].view(np.uint8), view[part])
    painted_there[y : y + height, x : x + width] = painted_on
    return image, painted_there


def _detail(
    view: np.ndarray, crop: np.ndarray, mask: np.ndarray, skin: np.ndarray, hole: np.ndarray, local: np.ndarray
) -> np.ndarray:
    """`paint.detail` on the box's grid, (H, W) float32, of what of a photograph, (H, W, 3) uint8, is beside its hole."""
    ramp, own = np.clip(CLEAN_SLOPE * skin - CLEAN_OFFSET, 0, 1), _own_shading(crop, mask, skin)
    detail, strength, share = np.empty(hole.shape, np.float32), 0.0, 0.0
    for where in _rows((0, 0, *hole.shape[::-1])):
        part = _slices(where)
        clean = _sampled(ramp, local=local, side=len(mask), where=where)
        clean[hole[part]] = 0
        seen = _luma(view[part])
        seen -= _sampled(own, local=local, side=len(mask), where=where)
        seen *= clean
        detail[part] = seen
        strength += float(cv2.norm(seen, cv2.NORM_L1)) / hole.size
        share += float(cv2.sumElems(clean)[0]) / hole.size
    deviation = DEVIATION * strength / (share + 1e-4)
    np.clip(detail, -BOUND * deviation, BOUND * deviation, out=detail)
    detail *= np.float32(MOST_DEVIATION / max(deviation, MOST_DEVIATION))
    return detail


def _slices(where: Sequence[int]) -> tuple[slice, slice]:
    """Rows and columns of x, y, width, height."""
    x, y, width, height = where
    return slice(y, y + height), slice(x, x + width)


def _luma(picture: np.ndarray) -> np.ndarray:
    """Rec. 601 of (H, W, 3) uint8: (H, W) float32 in [0, 1]."""
    luma: np.ndarray = cv2.cvtColor(picture.astype(np.float32), cv2.COLOR_RGB2GRAY)
    luma *= np.float32(1 / 255)
    return luma


def _grey(picture: np.ndarray) -> bool:
    """Whether (H, W, 3) uint8 has no colour anywhere."""
    few = picture[:: len(picture) // 16 or 1]  # nearly always enough to see some
    return all(np.array_equal(seen[..., 0], seen[..., k]) for seen in (few, picture) for k in (1, 2))


def _rows(where: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """x, y, width, height as strips of its rows of about AT_ONCE pixels."""
    x, y, width, height = where
    rows = max(1, AT_ONCE // max(width, 1))
    for top in range(y, y + height, rows):
        yield x, top, width, min(rows, y + height - top)


def _bands(where: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """x, y, width and height of strips that hold all that is true in (H, W) bool, none much larger than AT_ONCE."""
    _, y, width, height = cv2.boundingRect(where.view(np.uint8))
    for _, top, _, rows in _rows((0, y, width, height)):
        left, low, across, down = cv2.boundingRect(where[top : top + rows].view(np.uint8))
        if across:
            yield left, top + low, across, down


def _sampled(
    field: np.ndarray, smooth: int = cv2.INTER_LINEAR, *, local: np.ndarray, side: int, where: Sequence[int]
) -> np.ndarray:
    """A map of the crop, of any size, on a part of the box's grid: x, y, width, height."""
    scale = len(field) / side
    there = local * scale
    there[:, 2] += 0.5 * scale - 0.5 + there[:, :2] @ where[:2]
    flags, field = smooth | cv2.WARP_INVERSE_MAP, np.ascontiguousarray(field, np.float32)
    return cv2.warpAffine(field, there, tuple(where[2:]), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _covered(
    mask: np.ndarray, share: np.ndarray | None, local: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """On the box's grid, (H, W): where the mask is, bool, and the share of what is painted where it fades out and near
    there; None where it does not.
    """
    hole = np.zeros(shape, bool)
    marked = mask > 0 if share is None else (mask > 0) | (share > 0)
    if (where := _reach(marked, local, shape)) is None:
        return hole, None
    inside = (mask > 0).astype(np.float32)
    fading = None if share is None else (share > 0) & (share < 1)
    beyond = None if fading is None or not fading.any() else np.zeros(shape, np.float32)
    for strip in _rows(where):
        part = _slices(strip)
        sampled = functools.partial(_sampled, local=local, side=len(mask), where=strip)
        hole[part] = sampled(inside) > 0.5
        if beyond is not None and share is not None and fading is not None:
            beyond[part] = sampled(share) * (sampled(fading) > 0)
    return hole, beyond


def _reach(marked: np.ndarray, local: np.ndarray, shape: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """x, y, width, height of the part of the box's grid, (H, W), that samples of a map see anything of which `marked` (R, R)
    is true.
    """
    x, y, width, height = cv2.boundingRect(marked.view(np.uint8))
    if not width:
        return None
    side = len(marked)
    # What lies at the crop's border is repeated beyond it.
    low = [first - (1 if first else side) for first in (x, y)]
    high = [last + (0 if last < side else side) for last in (x + width, y + height)]
    corners = np.array([[a, b] for a in (low[0], high[0]) for b in (low[1], high[1])])
    there = corners @ (back := cv2.invertAffineTransform(local))[:, :2].T + back[:, 2]
    first = np.clip(np.floor(there.min(0)).astype(int), 0, shape[::-1])
    last = np.clip(np.ceil(there.max(0)).astype(int) + 1, 0, shape[::-1])
    if (last <= first).any():
        return None
    return int(first[0]), int(first[1]), int(last[0] - first[0]), int(last[1] - first[1])


def skin_of(skin: np.ndarray, sources: np.ndarray) -> float:
    """How much of the windows of `sources` (289,) is skin (128, 128, 1), in [0, 1], on average."""
    block = SEEN // BLOCKS
    covered = cv2.blur(skin[..., 0], (2 * block,) * 2, anchor=(block, block))
    places = sources.astype(int)
    return float(covered[(places // HALVES + 2) * (block // 2), (places % HALVES + 2) * (block // 2)].mean())


class Held:
    """The sources and the shading of each face of a video, held from frame to frame, so that nothing flickers."""

    LEAST = 0.6
    """Of the sources' windows must still be skin, on average; else a plan's own are taken: the face has turned, say."""
    SHARE = 0.9
    """Where a plan's own sources have less, as much of theirs."""
    FRESH = 0.25
    """What a frame's own shading counts, beside what was held."""
    CUT = 0.03
    """Of [0, 1], how far the two may be apart on average; else the frame's own is taken: a light has gone on, say."""

    def __init__(self) -> None:
        self._plans: dict[int, Mapping[str, np.ndarray]] = {}

    def steady(self, number: int, plan: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The plan of a frame for the face of this number, with the sources and the shading that were held for it."""
        held, own = self._plans.get(number), skin_of(plan["skin"], plan["sources"])
        if held is not None and skin_of(plan["skin"], held["sources"]) >= min(self.LEAST, self.SHARE * own):
            shading, change = held["shading"], plan["shading"] - held["shading"]
            if float(np.abs(change).mean()) <= self.CUT:
                plan = {**plan, "shading": shading + np.float32(self.FRESH) * change}
            plan = {**plan, "sources": held["sources"]}
        self._plans[number] = plan
        return plan


def _box(side: int, back: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """x, y, width, height of what of the photograph is read or painted: the whole crop, as far as it lies inside."""
    corners = np.array([[-0.5, -0.5], [side - 0.5, -0.5], [-0.5, side - 0.5], [side - 0.5, side - 0.5]])
    there = corners @ back[:, :2].T + back[:, 2]
    low = np.clip(np.floor(there.min(0)).astype(int), 0, shape[1::-1])
    high = np.clip(np.ceil(there.max(0)).astype(int) + 1, 0, shape[1::-1])
    return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])


def _own_shading(crop: np.ndarray, mask: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """`paint.own_shading` of a crop (R, R, 3) uint8: luma (64, 64)."""
    visible = _luma(crop)
    visible[mask > 0] = 0
    seen = cv2.resize(visible, (SEEN, SEEN), interpolation=cv2.INTER_AREA)
    value, weight = (cv2.resize(f, (SHADED,) * 2, interpolation=cv2.INTER_AREA) for f in (seen * skin, skin))
    for _ in range(2):
        value, weight = (cv2.blur(f, (3, 3), borderType=cv2.BORDER_REFLECT_101) for f in (value, weight))
    return value / (weight + 1e-4)


class _Texture:
    """What sources make of detail (H, W) float32 on the box's grid: `texture(x, y, width, height)` is a part of it, (h, w).

    A pixel lies in four windows, one around each corner of its block. Under Hann windows that overlap by half, what two
    neighbours count is the squared cosine and sine of how far along it lies, so nothing goes through windows one by one.
    """

    def __init__(self, detail: np.ndarray, sources: np.ndarray, local: np.ndarray, side: int, moving: bool) -> None:
        """sources: (289,) int, of each window; local: 2x3, from the box's pixels to the crop's of `side` pixels; moving: as
        for `paint_by_plan`.
        """
        block = side / BLOCKS
        numbers = np.arange(CORNERS**2)
        corners = np.stack([numbers % CORNERS, numbers // CORNERS], 1)
        moved = (np.stack([sources % HALVES, sources // HALVES], 1) + 2) * (block / 2) - corners * block
        # How far each window is moved, x + iy: one number, so that both are looked up at once; and from pixels to blocks.
        shifts = moved @ cv2.invertAffineTransform(local)[:, :2].T
        self._shifts = ((shifts if moving else np.rint(shifts)) @ [1, 1j]).astype(np.complex64)
        self._flags = cv2.INTER_CUBIC if moving else cv2.INTER_NEAREST
        blocks = np.hstack([local[:, :2], local[:, 2:] + 0.5]) / block
        self._blocks = blocks.astype(np.float32)
        ends = np.array([[0, 0, 1], [BLOCKS, 0, 1], [0, BLOCKS, 1], [BLOCKS, BLOCKS, 1]])
        far = ends @ cv2.invertAffineTransform(blocks).T
        # All of the crop is there to be copied, so that nothing has to be asked of each pixel.
        self._whole = bool((far >= 0).all() and (far <= np.array(detail.shape[::-1]) - 1).all())
        self._detail = detail * np.float32(SOFTENED) if moving else detail

    def __call__(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        detail = self._detail
        rows, columns = (np.arange(first, first + of, dtype=np.float32) for first, of in ((y, height), (x, width)))
        u, v = (of[0] * columns + (of[1] * rows[:, None] + of[2]) for of in self._blocks)
        left, top = (np.clip(np.floor(place), 0, BLOCKS - 1) for place in (u, v))
        across, along = (np.cos((place - low) * np.float32(np.pi / 2)) ** 2 for place, low in ((u, left), (v, top)))
        first = (top * CORNERS + left).astype(np.intp)
        here = np.empty(first.shape, np.complex64)
        here.real, here.imag = columns, rows[:, None]
        laid, squares = np.zeros(first.shape, np.float32), np.zeros(first.shape, np.float32)
        for down, tall in enumerate((along, 1 - along)):
            for right, wide in enumerate((across, 1 - across)):
                source = np.take(self._shifts[CORNERS * down + right :], first)
                source += here
                weight = wide * tall
                if not self._whole:
                    from_x, from_y = source.real, source.imag
                    weight *= (from_x >= 0) & (from_x < detail.shape[1]) & (from_y >= 0) & (from_y < detail.shape[0])
                pairs = source.view(np.float32).reshape(*source.shape, 2)
                copied = cv2.remap(detail, pairs, None, self._flags, borderMode=cv2.BORDER_REPLICATE)
                cv2.accumulateProduct(copied, weight, laid)
                cv2.accumulateSquare(weight, squares)
        np.sqrt(np.maximum(squares, 1e-3, out=squares), out=squares)
        return np.divide(laid, squares, out=laid)

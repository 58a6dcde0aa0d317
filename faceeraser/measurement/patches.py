"""A hole in skin filled without any learning: a membrane that sees only skin, and whole patches of bare skin laid on it.

    painted = fill(image, mask, face.mesh[OVAL], face.eye_distance / EYE_DISTANCE)

The strongest classical filling there is for this task, so the row to beat. `plan` decides: whose colour is this person's
skin, what the shading under the hole is, and for each cell of a coarse grid which patch of skin goes there. `paint` is
arithmetic: patches are shifted by whole pixels, so no pore is interpolated away, and overlap by half under Hann windows
whose sum is divided by the root of the sum of their squares, so that the variance of texture is kept where a mean of four
patches would halve it (Heitz and Neyret 2018, By-Example Noise, without its histograms). What lies under the mask is never
looked at. The membrane is filled by pull and push (Gortler et al. 1996, The Lumigraph).

A picture may be of any resolution: lengths are in units, of which there are 72 from the middle of one eye to the other's.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

EYE_DISTANCE = 72.0
CROP_SIDE = 200.0  # units along the side of a levelled crop (median of 169 faces), where nobody says how large the face is

COLOUR_REACH = np.array([2.2, 1.6, 1.6], np.float32)  # how much further than its deviation skin reaches: L*, a*, b*

_CELL = 12.0  # units: half of a patch
_FINE, _SLOW = 3.2, 7.0  # units, sigmas: pores are finer than the first, mottling than the second, the rest is shading
_COARSE = 3.0  # units to a pixel of the grid on which the membrane is filled
_BORDER, _FADE = 3.0, 0.02  # units, and weight of skin: how far and how fully the border of the membrane is mended
_BOUND_FINE, _BOUND_SLOW = 2.5, 1.5  # deviations of own skin's detail: no hair, crease or rim of a lens comes along
_GAIN_SLOW = 0.5  # of mottling: at its full strength any crease that comes along is seen, without it skin is plastic
_CLEAN = 4.0  # deviations of own skin's detail, beyond which it is no source
_LEAST_SAMPLE = 50  # pixels; with fewer there is no telling what is skin
_WHOLE = 0.8  # of a patch must be clean skin to be a source, or as much as the best has

_BEST = 0.9  # of all sources, those least odd: creases and hair are left out however rare skin is
_CANDIDATES = 800  # sources looked at, evenly spread
_SWEEPS = 3  # over all cells: each chooses again, knowing what the others chose
_NEAR = 1 / 40  # cost of a unit of distance: pores, light and stubble differ from place to place
_ODD = 1.0  # cost of an octave of energy more or less than is usual
_LINED = 2.5  # cost of an octave of energy that runs in one direction
_AGAIN = 1.2  # cost of a source that another cell uses already
_AGAIN_BESIDE = 2.5  # the same, of a cell beside this one, where the eye sees it at once


@dataclass(frozen=True, eq=False)
class Plan:
    """What to paint where: all that `paint` needs to know.

    Attributes:
        shading: (H, W, 3) float32 RGB in [0, 1], the smooth fill, of use under the mask.
        detail: (H, W, 3) float32, what clean skin has beyond its shading, bounded; 0 where nothing may be copied.
        usable: (H, W) float32, 1 where detail may be copied.
        cell: pixels from one cell to the next; a patch is 2 * cell + 1 wide.
        shifts: (rows, columns, 2) int32, x then y: the patch around (cell * column, cell * row) is copied from so far away.
    """

    shading: np.ndarray
    detail: np.ndarray
    usable: np.ndarray
    cell: int
    shifts: np.ndarray


def fill(image: np.ndarray, mask: np.ndarray, oval: np.ndarray | None = None, scale: float | None = None) -> np.ndarray:
    """Fill a hole with this person's own skin; a `metrics.Method`.

    Args:
        image: (H, W, 3) uint8 RGB, at the photograph's own resolution.
        mask: (H, W), non-zero = erase.
        oval: (K, 2), outline of the face in the picture's pixels; None: the whole picture is face.
        scale: pixels to a unit, the eye distance over EYE_DISTANCE; None: that of a levelled crop.

    Returns:
        The picture, uint8, bit-identical outside the mask. Where no skin is seen, the hole has the mean colour of what is;
        where nothing is seen at all, middle grey.

    Raises:
        ValueError: the mask is not of the picture's size, or the picture is not uint8 RGB.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or mask.shape != image.shape[:2]:
        raise ValueError(
            f"found {image.dtype} {image.shape} and a mask of {mask.shape}; expected a uint8 RGB picture (H, W, 3) and a "
            "mask of its height and width"
        )
    hole = mask > 0
    if not hole.any():
        return image.copy()
    seen = image.astype(np.float32) / 255
    seen[hole] = 0
    painted = paint(plan(seen, hole, oval, scale))
    return np.where(hole[..., None], (np.clip(painted, 0, 1) * 255 + 0.5).astype(np.uint8), image)


def plan(image: np.ndarray, mask: np.ndarray, oval: np.ndarray | None = None, scale: float | None = None) -> Plan:
    """Decide what to paint: see `Plan`.

    Args:
        image: (H, W, 3) float32 RGB in [0, 1], 0 under the mask.
        mask: (H, W) bool, True = erase.
        oval: as for `fill`.
        scale: as for `fill`.
    """
    unit = max(scale or max(mask.shape) / CROP_SIDE, 0.1)
    face = np.ones(mask.shape, np.uint8)
    if oval is not None:
        face[:] = 0
        cv2.fillPoly(face, [np.round(oval).astype(np.int32)], 1)
    weight = skin_weight(image, mask, face > 0, unit)
    shading = membrane(image, weight, unit)
    detail, usable = detail_of(image, weight, shading, unit)
    cell = max(3, round(_CELL * unit))
    return Plan(shading, detail, usable, cell, choose(mask, detail, usable, cell, unit))


def paint(plan: Plan) -> np.ndarray:
    """The plan's picture, (H, W, 3) float32: shading and the patches laid on it. Only what is under the mask is of use."""
    return plan.shading + lay(plan)


# --- skin, shading, detail --------------------------------------------------------------------------------------------


def _disc(units: float, unit: float) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(1, round(units * unit / 2)) + 1,) * 2)


def _blur(picture: np.ndarray, units: float, unit: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), max(units * unit, 0.3))


def _mean_around(picture: np.ndarray, weight: np.ndarray, units: float, unit: float) -> np.ndarray:
    """A blur of (H, W, 3) that counts each pixel by its weight (H, W), so that nothing comes in from where that is 0."""
    return _blur(picture * weight[..., None], units, unit) / (_blur(weight, units, unit)[..., None] + 1e-4)


def skin_colour(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Robust middle and spread, (3,) each, of (N, 3) CIE Lab colours of which most are skin; N is at least 1.

    The spread is 1.4826 times the median absolute deviation and a floor, since even skin has noise.
    """
    middle = np.median(sample, 0)
    spread = np.median(np.abs(sample - middle), 0) * 1.4826 + np.array([6, 2, 2.5])
    for _ in range(2):
        good = sample[(((sample - middle) / spread) ** 2).sum(1) < 9]
        if len(good) < _LEAST_SAMPLE:
            break
        middle = np.median(good, 0)
        spread = np.median(np.abs(good - middle), 0) * 1.4826 + np.array([6, 1.5, 2.0])
    return middle, spread


def skin_weight(image: np.ndarray, mask: np.ndarray, face: np.ndarray, unit: float) -> np.ndarray:
    """How surely each visible pixel is this person's skin, (H, W) float32 in [0, 1]; 0 under the mask and off the face.

    The colour of skin is the robust median and deviation of CIE Lab inside the face; a weight falls with the distance from
    it as a Gaussian does. Where no skin is seen, everything that is seen is taken for it.

    Args:
        image: (H, W, 3) float32 RGB in [0, 1].
        mask: (H, W) bool, True = erase.
        face: (H, W) bool, the inside of the face's oval.
        unit: pixels to a unit.
    """
    keep = (~mask).astype(np.float32)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    inner = cv2.erode(face.astype(np.uint8), _disc(12, unit), borderType=cv2.BORDER_REPLICATE) > 0
    sample = lab[inner & ~mask]
    if len(sample) < _LEAST_SAMPLE:
        return keep
    middle, spread = skin_colour(sample)
    distance = (((_mean_around(lab, keep, 1.5, unit) - middle) / (spread * COLOUR_REACH)) ** 2).sum(-1)
    weight = np.exp(-0.5 * distance)
    weight[weight < 0.15] = 0
    weight *= keep * (cv2.dilate(face.astype(np.uint8), _disc(20, unit)) > 0)
    weight = cv2.erode(weight.astype(np.float32), np.ones((3, 3), np.uint8))
    return weight if weight.sum() >= _LEAST_SAMPLE else keep


def membrane(image: np.ndarray, weight: np.ndarray, unit: float) -> np.ndarray:
    """A smooth fill of (H, W, 3) float32 from where `weight` (H, W) says that skin is, by pull and push on a coarse grid.

    Where there is weight it is the mean of what is within some units; without any weight at all it is middle grey.
    """
    height, width = weight.shape
    small = (max(2, round(width / (_COARSE * unit))), max(2, round(height / (_COARSE * unit))))
    levels = [tuple(cv2.resize(x, small, interpolation=cv2.INTER_AREA) for x in (image * weight[..., None], weight))]
    while min(levels[-1][1].shape) > 2:
        size = tuple(max(1, side // 2) for side in levels[-1][1].shape[::-1])
        levels.append(tuple(cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in levels[-1]))
    colours, weights = levels[-1]
    total = float(weights.sum())
    mean = colours.sum((0, 1)) / total if total > 1e-4 else np.full(3, 0.5)
    filled = np.broadcast_to(mean, colours.shape).astype(np.float32)
    for colours, weights in reversed(levels):
        value, seen = colours / (weights[..., None] + 1e-6), np.clip(4 * weights, 0, 1)[..., None]
        if filled.shape != colours.shape:
            filled = cv2.resize(filled, colours.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        for _ in range(8):
            filled = seen * value + (1 - seen) * cv2.blur(filled, (3, 3), borderType=cv2.BORDER_REPLICATE)
    filled = cv2.GaussianBlur(filled, (0, 0), 0.8, borderType=cv2.BORDER_REPLICATE)
    filled = cv2.resize(filled, (width, height), interpolation=cv2.INTER_CUBIC)
    # What the coarse grid missed beside the hole goes on a little way into it, so that there is no step at the border.
    missed = _blur((image - filled) * weight[..., None], _BORDER, unit) / (_blur(weight, _BORDER, unit)[..., None] + _FADE)
    return np.clip(filled + missed, 0, 1)


def detail_of(image: np.ndarray, weight: np.ndarray, shading: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """What clean skin has beyond its shading, (H, W, 3) float32, bounded, and where it may be copied, (H, W) float32.

    Pores and the mottling a little coarser than they are bounded each by its own deviation, mottling more narrowly: creases
    are as coarse. The hole counts as its membrane, so that the slow part of what is beside it has no ramp.
    """
    sure = np.clip(weight * 2, 0, 1)[..., None]
    flat = sure * image + (1 - sure) * shading
    clean = weight > 0.4
    if clean.sum() < _LEAST_SAMPLE:
        return np.zeros_like(image), np.zeros_like(weight)
    middle, slow = _blur(flat, _FINE, unit), _blur(flat, _SLOW, unit)
    detail, usable = np.zeros_like(image), clean.copy()
    for band, bound, gain in ((image - middle, _BOUND_FINE, 1.0), (middle - slow, _BOUND_SLOW, _GAIN_SLOW)):
        grey = np.abs(band.mean(-1))
        usable &= grey < _CLEAN * 1.4826 * np.median(grey[clean]) + 1e-4
        limit = bound * (np.median(np.abs(band[clean]), 0) * 1.4826 + 1e-4)
        detail += gain * np.clip(band, -limit, limit)
    tidy = cv2.morphologyEx(usable.astype(np.uint8), cv2.MORPH_CLOSE, _disc(2, unit))
    tidy = cv2.erode(tidy, np.ones((3, 3), np.uint8)).astype(np.float32)
    return detail * tidy[..., None], tidy


# --- patches ---------------------------------------------------------------------------------------------------------


def choose(mask: np.ndarray, detail: np.ndarray, usable: np.ndarray, cell: int, unit: float) -> np.ndarray:
    """A source for each cell that touches the mask: `Plan.shifts`; 0 where nothing is copied.

    A source is a patch of clean skin. A near one is better, one as strong as skin usually is, and one that no other cell
    uses, least of all one beside it; in some sweeps each cell chooses again. Always the same for the same picture.
    """
    height, width = mask.shape
    shifts = np.zeros((height // cell + 1, width // cell + 1, 2), np.int32)
    window = (2 * cell + 1,) * 2
    cover = cv2.boxFilter(usable, -1, window, normalize=True, borderType=cv2.BORDER_CONSTANT)
    if cover.max() < 0.05:
        return shifts
    odd = oddness(detail, usable, cell, unit)
    whole = cover >= min(_WHOLE, 0.97 * cover.max())
    rows, columns = np.nonzero(whole & (odd <= np.quantile(odd[whole], _BEST)))
    pick = np.linspace(0, len(rows) - 1, min(len(rows), _CANDIDATES)).round().astype(int)
    sources = np.stack([columns[pick], rows[pick]], 1)
    cells = np.argwhere(cv2.dilate(mask.astype(np.uint8), np.ones(window, np.uint8))[::cell, ::cell] > 0)[:, ::-1]
    distance = np.linalg.norm((cells[:, None] * cell - sources[None]).astype(np.float32), axis=2)
    rng = np.random.default_rng(0)
    cost = _NEAR / unit * distance + odd[rows[pick], columns[pick]] + 0.3 * rng.random(len(sources), np.float32)
    apart = np.abs(sources[:, None] - sources[None]).max(2)
    shared = np.clip(1 - apart / (2.0 * cell), 0, None).astype(np.float32)  # of a patch, by any two sources
    beside = [np.flatnonzero((near > 0) & (near <= 2)) for near in np.abs(cells[:, None] - cells[None]).max(2)]
    chosen, load = np.full(len(cells), -1), np.zeros(len(sources), np.float32)  # load: how much of each is in use
    for _ in range(_SWEEPS):
        for k in rng.permutation(len(cells)):
            if chosen[k] >= 0:
                load -= shared[chosen[k]]
            close = chosen[beside[k]]
            crowd = shared[close[close >= 0]].sum(0)
            chosen[k] = int(np.argmin(cost[k] + _AGAIN * load + _AGAIN_BESIDE * crowd))
            load += shared[chosen[k]]
    shifts[cells[:, 1], cells[:, 0]] = sources[chosen] - cells * cell
    return shifts


def oddness(detail: np.ndarray, usable: np.ndarray, cell: int, unit: float) -> np.ndarray:
    """How unlike plain skin the patch around each pixel is, (H, W) float32 >= 0.

    Octaves of energy from what skin usually has, and how much of it runs in one direction, as creases and hairs do.
    """
    window, grey = (2 * cell + 1,) * 2, detail.mean(-1)

    def mean(field: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(field * usable, -1, window, borderType=cv2.BORDER_CONSTANT) / covered

    covered = np.maximum(cv2.boxFilter(usable, -1, window, borderType=cv2.BORDER_CONSTANT), 0.05)
    whole = covered >= min(_WHOLE, 0.97 * covered.max())
    energy = np.log2(mean(grey**2) + 1e-9)
    smooth = _blur(grey, 1.0, unit)
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    xx, xy, yy = (_blur(product, 4.0, unit) for product in (across * across, across * down, down * down))
    lined = np.log2(mean(np.sqrt((xx - yy) ** 2 + 4 * xy * xy)) + 1e-9)
    more, lines = energy - np.median(energy[whole]), lined - np.percentile(lined[whole], 25)
    return _ODD * np.abs(more) + _LINED * np.maximum(lines, 0)


def lay(plan: Plan) -> np.ndarray:
    """The plan's patches, each under its window: their sum over the root of the squared weights' sum, (H, W, 3) float32."""
    cell, (height, width) = plan.cell, plan.usable.shape
    hann = np.hanning(2 * cell + 3)[1:-1].astype(np.float32)
    window = np.outer(hann, hann)
    pad = ((cell, 2 * cell), (cell, 2 * cell))
    detail, usable = np.pad(plan.detail, (*pad, (0, 0))), np.pad(plan.usable, pad)
    laid, squares = np.zeros_like(detail), np.zeros_like(usable)
    side = 2 * cell + 1
    for row, column in np.argwhere((plan.shifts != 0).any(2)):
        y, x = row * cell, column * cell
        dx, dy = (int(n) for n in plan.shifts[row, column])
        to = (slice(y, y + side), slice(x, x + side))
        source = (slice(y + dy, y + dy + side), slice(x + dx, x + dx + side))
        laid[to] += detail[source] * window[..., None]
        squares[to] += (usable[source] * window) ** 2
    inside = (slice(cell, cell + height), slice(cell, cell + width))
    return laid[inside] / np.sqrt(np.maximum(squares[inside], 1e-3))[..., None]

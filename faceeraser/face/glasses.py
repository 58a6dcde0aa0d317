"""Glasses: whether a face wears them, where the frame is, and a drawn pair that fits."""

from __future__ import annotations

import base64
import math

import cv2
import numpy as np

from faceeraser.face.crops import align_matrix, check_picture, cut, mark, paste_back
from faceeraser.face.mesh import Face, transform
from faceeraser.face.parts import BROWS, EYES, POLYGONS, fill_near

_CROP = 512  # glasses are looked for in a crop of this size, whatever the model takes: frames are thin


def draw_glasses(
    face: Face, shape: tuple[int, ...] | int, rng: np.random.Generator | None = None, *, lenses: bool = True
) -> np.ndarray:
    """Draw a pair of glasses that fits a face: frame, lenses, bridge, and the temples up to the edge of the face.

    Args:
        face: in the coordinates of the map.
        shape: the map's height and width, or one number for a square.
        rng: varies size, roundness and thickness; None draws an average pair.
        lenses: fill the lenses, as erasing needs (they tint and reflect); False gives the frame alone.

    Returns:
        (H, W) bool.
    """
    height, width = (shape, shape) if isinstance(shape, int) else shape[:2]

    def vary(low: float, high: float) -> float:
        return (low + high) / 2 if rng is None else float(rng.uniform(low, high))

    unit = face.eye_distance
    half_width, half_height = vary(0.34, 0.44), vary(0.24, 0.38)
    power = vary(2.0, 5.0)  # of the superellipse: 2 is round, 5 nearly a rectangle
    thick = vary(0.04, 0.10)
    drop = vary(0.03, 0.10)
    angle = math.radians(face.roll)
    right, down = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    steps = np.linspace(0, 2 * math.pi, 65)[:-1]
    outline = np.stack(
        [
            half_width * np.sign(np.cos(steps)) * np.abs(np.cos(steps)) ** (2 / power),
            half_height * np.sign(np.sin(steps)) * np.abs(np.sin(steps)) ** (2 / power),
        ],
        axis=1,
    )
    canvas = np.zeros((height, width), np.uint8)
    width_px = max(1, round(thick * unit))

    def fixed(points: np.ndarray) -> np.ndarray:
        return np.round(np.clip(points, -4000, 12000) * 16).astype(np.int32)

    for side, centre, edge in ((-1, face.eyes[0], face.mesh[127]), (1, face.eyes[1], face.mesh[356])):
        middle = centre + unit * (drop * down + side * 0.04 * right)
        lens = middle + unit * (outline[:, :1] * right + outline[:, 1:] * down)
        if lenses:
            cv2.fillPoly(canvas, [fixed(lens)], 255, shift=4)
        cv2.polylines(canvas, [fixed(lens)], True, 255, width_px, cv2.LINE_8, 4)
        hinge = middle + unit * (side * half_width * right - 0.4 * half_height * down)
        cv2.line(canvas, fixed(hinge).tolist(), fixed(edge).tolist(), 255, width_px, cv2.LINE_8, 4)
    inner = [
        centre + unit * (drop * down + side * (0.04 - half_width) * right - 0.25 * half_height * down)
        for side, centre in ((-1, face.eyes[0]), (1, face.eyes[1]))
    ]
    top = (inner[0] + inner[1]) / 2 - 0.05 * unit * down
    cv2.polylines(canvas, [fixed(np.stack([inner[0], top, inner[1]]))], False, 255, width_px, cv2.LINE_8, 4)
    return canvas > 0


# Linear weights over `_features`, fitted by logistic regression on 1,377 portraits: 754 labelled by eye, the
# others by the first round's fit where it was sure. Nobody in tests/labels_photos.csv is among them. int8, base85.
_BIAS, _SCALE = -2.7133, 0.293850
_BROAD = 8 / 256
"""Of a crop, what of glasses beside a face is at least as broad is of a lens that juts out."""
_WEIGHTS = (
    "=>Y@z_2tw54EO*B2k-+I{`>v{>mV%&{RRFR89nX&0`n#R6awn>07n2491R5!7WL>99}52i`0e@m3;qM{>HP{20tEa5|LE%Q@%{by0rmd``||e("
    "{s0*N@$?Ps^Z)(!4Eg&43;p{S-1rm`1OfT*<qhrv2<{;L@8<#o^8x+@_yGO&0QdR;?fM}8_si}52>1F43+?gn@b&x&`xGDj2mkmU3Lx3&@!KWs"
    "1Q*!-1~Ux(5+p4y`1tt&f9U7-{Qubj02TrG<_HG;1O@aE=-k!puLKD25(Wb41qb@?00{ULC++|6-!=&*|Na33Q27HL$j=o)@d+mp&=>;#7VaMx"
    "@Z|yd1M&{^4Cw0k2Mz!I"
)
_EYES_UNIT = 48  # pixels between the eyes in the patch that is looked at
_EYES_PATCH = (120, 67)
_EYES_ORIGIN = (60.0, 28.8)
_EYES_CELLS = (14, 10)


_FRAME_UNIT, _FRAME_PATCH = 96, (240, 134)  # the same of the patch that a frame is looked for in
_TEMPLES_PATCH = (420, 134)  # and of the patch that temples are, which reach to the ears

_HINGE, _EAR = 0.5, 0.36
"""In eye distances: how far beside the middle of an eye its temple is looked for first, and how far beyond the outline of
the face at last, where it goes behind the ear, whose rim is as thin.
"""
_ABOVE, _BELOW = 0.35, 0.25
"""In eye distances from the eye, between which a temple runs."""
_STEEP, _SEEN, _MOST_SEEN = 3.0, 8.0, 40.0
"""In levels of 255: what a temple's path pays for going up or down by a pixel, what it has to stand out by, and beyond which
it does not stand out more.
"""
_GAP, _BENT, _SHORTEST = 5, 0.06, 0.1
"""Pixels of a path that may stand out less, as where light falls on it; in eye distances, how far it may leave the straight
line that it is on the face, and its least length.
"""


def _frame_matrix(face: Face) -> np.ndarray:
    return _eyes_matrix(face) * (_FRAME_UNIT / _EYES_UNIT)


def _eyes_matrix(face: Face) -> np.ndarray:
    angle, scale = math.radians(face.roll), _EYES_UNIT / face.eye_distance
    turn = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.hstack([turn, (np.array(_EYES_ORIGIN) - turn @ face.eyes.mean(0))[:, None]])


def _features(image: np.ndarray, face: Face) -> np.ndarray:
    """How strong edges are, by direction, in the cells of a levelled patch around the eyes; the two sides averaged.

    A bridge across the nose and rims below the eyes are horizontal edges where a bare face has none.
    """
    patch = cut(image, _eyes_matrix(face), _EYES_PATCH)
    grey = cv2.GaussianBlur(cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 0.8)
    grey = np.log(grey + 8)
    across, along = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    slanted = across * along
    fields = [np.abs(along), np.abs(across), np.sqrt(np.maximum(slanted, 0)), np.sqrt(np.maximum(-slanted, 0))]
    cells = []
    for field in fields:
        small = cv2.resize(field, _EYES_CELLS, interpolation=cv2.INTER_AREA)
        cells.append((small + small[:, ::-1])[:, : _EYES_CELLS[0] // 2].ravel() / 2)
    features = np.concatenate(cells)
    return features / (np.linalg.norm(features) + 0.1)


def glasses_score(image: np.ndarray, face: Face) -> float:
    """How likely it is that a face wears glasses, in [0, 1]; from 0.5 on it probably does.

    Args:
        image: (H, W, 3) uint8.
        face: in the picture's coordinates.
    """
    check_picture(image)
    weights = np.frombuffer(base64.b85decode(_WEIGHTS), np.int8).astype(np.float64) * _SCALE
    return float(1 / (1 + np.exp(-np.clip(_features(image, face) @ weights + _BIAS, -50, 50))))


def segment_glasses(image: np.ndarray, face: Face) -> np.ndarray | None:
    """Segment the frame of a pair of glasses: rims, bridge and temples, slightly dilated, without the lenses.

    Frames are thin and darker or lighter than the skin around them. What is found is kept only where a frame can be and
    only if it looks like one: something on both sides and across the nose.

    Args:
        image: (H, W, 3) uint8.
        face: in the picture's coordinates.

    Returns:
        (H, W) bool, or None when no frame stands out clearly enough (`draw_glasses` makes one that fits instead).
    """
    check_picture(image)
    unit, size, matrix = _FRAME_UNIT, _FRAME_PATCH, _frame_matrix(face)
    patch, level = cut(image, matrix, size), face.moved(matrix)
    luma = cv2.cvtColor(patch, cv2.COLOR_RGB2LAB)[..., 0]
    luma = cv2.GaussianBlur(luma, (0, 0), 1.0)
    wide = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (21, 21))
    thin = np.maximum(cv2.morphologyEx(luma, cv2.MORPH_BLACKHAT, wide), cv2.morphologyEx(luma, cv2.MORPH_TOPHAT, wide) // 2)

    usable, (x0, top, bottom) = _frame_zone(level, size, unit)
    if usable.sum() < 500:
        return None
    level_of_zone = thin[usable]
    threshold = max(14.0, float(np.percentile(level_of_zone, 50)) + 10.0)
    standing_out = ((thin > threshold) & usable).astype(np.uint8)
    # Specks are lashes and creases; a frame is long.
    count, labels, stats, _ = cv2.connectedComponentsWithStats(standing_out, connectivity=8)
    long = [k for k in range(1, count) if max(stats[k, cv2.CC_STAT_WIDTH], stats[k, cv2.CC_STAT_HEIGHT]) > 0.22 * unit]
    frame = np.isin(labels, long)
    sides = frame[:, : x0 - 10].sum(), frame[:, x0 + 10 :].sum()
    bridge = frame[top:bottom, x0 - 8 : x0 + 9].any(0).mean()
    share = frame.sum() / usable.sum()
    if min(sides) < 0.25 * max(sides) or bridge < 0.6 or not 0.04 <= share <= 0.55:
        return None
    grown = cv2.dilate(frame.astype(np.uint8) * 255, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    back = cv2.invertAffineTransform(matrix)
    return cv2.warpAffine(grown, back, (image.shape[1], image.shape[0]), flags=cv2.INTER_LINEAR) > 127


def _frame_zone(level: Face, size: tuple[int, int], unit: float) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Where a frame can be in a levelled patch, (H, W) bool, and where its bridge is: its x, its upper and its lower y.

    size: of the patch, width and height. unit: pixels between its eyes.
    """
    # Brows and eyes stand out too. Their own bits cover them, so nothing is lost by leaving them out.
    bare = np.zeros((size[1], size[0]), np.uint8)
    for bit, radius in ((BROWS, 0.03 * unit), (EYES, 0.07 * unit)):
        fill_near(bare, bit, [level.mesh[polygon] for polygon in POLYGONS[bit]], radius)
    zone = np.zeros_like(bare)
    for eye, edge in ((level.eyes[0], level.mesh[127]), (level.eyes[1], level.mesh[356])):
        x, y = eye
        cv2.ellipse(zone, (round(x), round(y + 0.10 * unit)), (round(0.50 * unit), round(0.46 * unit)), 0, 0, 360, 1, -1)
        cv2.line(zone, (round(x), round(y - 0.05 * unit)), (round(edge[0]), round(y - 0.05 * unit)), 1, round(0.28 * unit))
    middle = level.eyes.mean(0)
    top, bottom = round(middle[1] - 0.28 * unit), round(middle[1] + 0.24 * unit)
    cv2.rectangle(zone, (round(middle[0] - 0.2 * unit), top), (round(middle[0] + 0.2 * unit), bottom), 1, -1)
    # The wings of the nose and the folds beside it are as thin and dark as rims.
    zone[bottom:, round(middle[0] - 0.34 * unit) : round(middle[0] + 0.34 * unit)] = 0
    return (zone > 0) & (bare == 0), (round(middle[0]), top, bottom)


def worn_temples(image: np.ndarray, face: Face, size: int) -> np.ndarray:
    """The temples of a pair of glasses, from their hinges towards the ears, as far as they stand out.

    Of all paths from column to column the one that stands out most is taken (dynamic programming), as far as it is seen.

    Args:
        image: (H, W, 3) uint8.
        face: in the picture's coordinates.
        size: R.

    Returns:
        (R, R) bool, slightly dilated, in the coordinates of `align(image, face, R)`; empty where none stands out.
    """
    unit, (width, height) = _FRAME_UNIT, _TEMPLES_PATCH
    matrix = _frame_matrix(face)
    matrix[0, 2] += (width - _FRAME_PATCH[0]) / 2
    patch, level = cut(image, matrix, (width, height), sharp=False), face.moved(matrix)
    luma = cv2.GaussianBlur(cv2.cvtColor(patch, cv2.COLOR_RGB2LAB)[..., 0], (0, 0), 1.0)
    tall = np.ones((21, 1), np.uint8)
    dark, light = (cv2.morphologyEx(luma, how, tall) for how in (cv2.MORPH_BLACKHAT, cv2.MORPH_TOPHAT))
    thin = np.maximum(dark, light // 2).astype(np.float32)
    found = np.zeros((height, width), np.uint8)
    for side, eye, edge in ((-1, level.eyes[0], level.mesh[127]), (1, level.eyes[1], level.mesh[356])):
        first, last = round(float(eye[0]) + side * _HINGE * unit), round(float(edge[0]) + side * _EAR * unit)
        columns = np.arange(first, last, side)
        columns = columns[(columns >= 0) & (columns < width)]
        top, bottom = max(0, round(float(eye[1]) - _ABOVE * unit)), min(height, round(float(eye[1]) + _BELOW * unit))
        if len(columns) < _SHORTEST * unit or bottom - top < 3:
            continue
        rows, stands_out = _path(np.minimum(thin[top:bottom, columns], _MOST_SEEN))
        # A temple is straight; hair, and the rim of an ear, lead away from what it is on the face.
        on_face = (columns * side <= float(edge[0]) * side) | (np.arange(len(columns)) < _SHORTEST * unit)
        slope, offset = np.polyfit(columns[on_face], rows[on_face], 1)
        usual = float(np.median(stands_out[on_face]))
        gone = (stands_out < max(_SEEN, usual / 2)) | (np.abs(rows - slope * columns - offset) > _BENT * unit)
        seen = np.flatnonzero(~gone)
        gaps = np.flatnonzero(np.diff(seen, prepend=-1) > _GAP)
        seen = seen[: gaps[0]] if gaps.size else seen
        length = int(seen[-1]) + 1 if seen.size else 0
        if length < _SHORTEST * unit:
            continue
        along = np.zeros_like(found)
        along[rows[:length] + top, columns[:length]] = 1
        # As thick as it is on the face, where nothing but skin is beside it.
        own = cv2.dilate(along, np.ones((15, 1), np.uint8))[:, columns[:length]] & (thin[:, columns[:length]] >= _SEEN)
        thick = int(np.median(own[:, on_face[:length]].sum(0))) if on_face[:length].any() else 3
        found |= cv2.dilate(along, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thick + 3 | 1,) * 2))
    back = np.vstack([matrix, [0, 0, 1]]) @ np.vstack([cv2.invertAffineTransform(align_matrix(face, size)), [0, 0, 1]])
    return cv2.warpAffine(found * 255, back[:2], (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP) > 100


def _path(thin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The path through (rows, columns) float32, one row a column and at most one row from column to column, with the largest
    sum: its rows, and what stands there.
    """
    total = np.full(len(thin) + 2, -np.inf, np.float32)  # up to a column, with a row beyond each end
    total[1:-1] = thin[:, 0]
    here, above, below = total[1:-1], total[:-2], total[2:]
    came = np.zeros(thin.shape, np.int8)
    for column in range(1, thin.shape[1]):
        beside = np.maximum(above, below) - np.float32(_STEEP)
        came[:, column] = np.where(beside > here, np.where(above >= below, -1, 1), 0)
        here[:] = np.maximum(here, beside) + thin[:, column]
    rows = np.empty(thin.shape[1], np.intp)
    rows[-1] = here.argmax()
    for column in range(thin.shape[1] - 1, 0, -1):
        rows[column - 1] = rows[column] + came[rows[column], column]
    return rows, thin[rows, np.arange(thin.shape[1])]


def worn_frame(image: np.ndarray, face: Face, size: int) -> np.ndarray:
    """(size, size) bool: a frame where one stands out, in the coordinates of `align(image, face, size)`; else empty."""
    matrix = align_matrix(face, _CROP)
    level = face.moved(matrix)
    frame = np.zeros((_CROP, _CROP), np.uint8)
    # Only what is looked at is cut out: from above the brows to below the eyes.
    width, height = _FRAME_PATCH
    corners = np.array([[-2, -2], [width + 1, -2], [-2, height + 1], [width + 1, height + 1]], np.float64)
    ends = transform(cv2.invertAffineTransform(_frame_matrix(level)), corners)[:, 1]
    top, bottom = (int(end) for end in np.clip([np.floor(ends.min()) - 2, np.ceil(ends.max()) + 3], 0, _CROP))
    if bottom - top > 8:
        down = np.array([[1.0, 0, 0], [0, 1.0, -top]])
        band = cut(image, matrix - [[0, 0, 0], [0, 0, top]], (_CROP, bottom - top))
        if (found := segment_glasses(band, level.moved(down))) is not None:
            frame[top:bottom] = found
    return _smaller(frame, size)


def worn_glasses(image: np.ndarray, face: Face, size: int) -> np.ndarray:
    """(size, size) bool: a frame where one stands out, a pair that fits the landmarks, and all that they enclose.

    Both, because a thin rim is seldom found all around, and because lenses tint, reflect and throw shadows.
    """
    pair = (draw_glasses(face.moved(align_matrix(face, _CROP)), _CROP) | worn_frame(image, face, _CROP)).astype(np.uint8)
    rims, _ = cv2.findContours(pair, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(pair, rims, -1, 1, cv2.FILLED)
    return _smaller(pair, size)


def _smaller(field: np.ndarray, size: int) -> np.ndarray:
    """(S, S) uint8 of zeros and ones as (size, size) bool, true where any is one."""
    return cv2.resize(field * 255, (size, size), interpolation=cv2.INTER_AREA) > 0


def lens_beside(beside: np.ndarray) -> np.ndarray:
    """What of glasses beside a face, (R, R) bool, is as broad as a lens: less may as well be hair, or the rim of an ear."""
    least = np.ones((max(1, round(_BROAD * len(beside))),) * 2, np.uint8)
    return cv2.morphologyEx(beside.astype(np.uint8), cv2.MORPH_OPEN, least) > 0


def fill_beside(image: np.ndarray, matrix: np.ndarray, beside: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Fill what of a pair of glasses lies beside a face, a temple or a lens of one that is turned, from what is around it,
    in place: by fast marching (Telea 2004), which thin things need no more than.

    Args:
        image: (H, W, 3) uint8 RGB.
        matrix: 2x3, from its coordinates to those of the face's crop.
        beside: (R, R) bool, what is filled, in those.
        skin: (R, R) bool, what becomes skin afterwards, of which nothing is taken.

    Returns:
        (H, W) bool, what may have changed.
    """
    changed = np.zeros(image.shape[:2], bool)
    if not beside.any():
        return changed
    # No finer than the photograph, and than a temple needs.
    size = round(float(np.clip(len(beside) / np.hypot(*matrix[0, :2]), _CROP / 2, _CROP)))
    scale = size / len(beside)
    finer = np.hstack([matrix[:, :2] * scale, (matrix[:, 2:] + 0.5) * scale - 0.5])
    beside, unknown = (
        cv2.dilate(cv2.resize(f.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST), np.ones((3, 3), np.uint8))
        for f in (beside, beside | skin)
    )
    crop = cut(image, finer, (size, size), sharp=False)
    pieces, rim = cv2.connectedComponentsWithStats(beside, connectivity=8)[2][1:, :4], size // 32
    for x, y, width, height in pieces.tolist():
        there = (slice(max(0, y - rim), y + height + rim), slice(max(0, x - rim), x + width + rim))
        crop[there] = cv2.inpaint(np.ascontiguousarray(crop[there]), unknown[there], 3, cv2.INPAINT_TELEA)
    paste_back(image, crop, finer, beside, feather=1.0, in_place=True)
    mark(changed, finer, beside)
    return changed

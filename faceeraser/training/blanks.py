"""Blank faces: a bare forehead, found and judged, stitched to its own vertical flip (paper, section 3.2).

    forehead = find_forehead(image, face)
    blank = cut_blank(image, forehead, 256) if not forehead.reason else None

Skin, hair and hats are told apart by colour and grain in a levelled patch around the forehead; there is no network in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from faceeraser.face.crops import cut
from faceeraser.face.mesh import LEFT_BROW, OVAL, RIGHT_BROW, Face, transform
from faceeraser.measurement.metrics import lab_of, typology_angle

Box = tuple[int, int, int, int]
"""Left, top, right and bottom; right and bottom are excluded."""

# The forehead is judged in a levelled patch in which the eyes are UNIT pixels apart; lengths below are in eye
# distances.
UNIT = 64
PATCH_HALF_WIDTH, PATCH_UP, PATCH_DOWN = 1.5, 2.2, 1.2
MAX_YAW = 25.0
BROW_GAP = 0.10
MIN_HEIGHT, MIN_WIDTH, MAX_ASPECT, MIN_ASPECT = 0.28, 0.70, 0.62, 0.34
RIM = 2  # pixels of the patch cut off left and right, where the hairline is soft
ROW_SKIN = 0.97
HAIR, MAX_HAIR = 0.43, 0.12  # of the hair teacher: what counts as hair, and how much of a forehead may be
MAX_CLIPPED = 0.02
# How much a pixel may differ from its neighbour in the flood fill: 2 L*, 2 a*, 2 b* per unit.
TOLERANCE = (8, 5, 5)
# Of the levelled patch, in L*: what is finer than 2 pixels; share of dark lines; slope per pixel from side to side.
MAX_TEXTURE, MAX_LINES, MAX_EDGE = 2.2, 0.06, 4.0
# Fine detail that runs up and down, as a fringe does and skin does not: its slope times its slope's ratio to the other
# way.
MAX_STREAKS = 0.95


@dataclass
class Forehead:
    """The verdict on one forehead.

    Attributes:
        reason: why it cannot be used, or "".
        box: its rectangle of bare skin in the levelled patch, or None.
        patch_matrix: 2x3, picture to patch coordinates.
        width_px: source pixels across the box.
        cheek_ita: individual typology angle of the cheeks in degrees, known even if the forehead cannot be used.
        measures: the figures behind the verdict.
    """

    reason: str
    box: Box | None
    patch_matrix: np.ndarray
    width_px: float
    cheek_ita: float
    measures: dict[str, float]


def find_forehead(image: np.ndarray, face: Face) -> Forehead:
    """Find the largest rectangle of bare skin above the brows, and judge whether it makes a good blank face.

    Args:
        image: (H, W, 3) uint8 RGB.
        face: in its coordinates.
    """
    size = (round(2 * PATCH_HALF_WIDTH * UNIT), round((PATCH_UP + PATCH_DOWN) * UNIT))
    matrix = _levelled(face)
    patch, level = cut(image, matrix, size), face.moved(matrix)
    lab = lab_of(cv2.GaussianBlur(patch, (0, 0), 1.0))
    cheeks = _cheek_colours(lab, level)
    cheek_ita = typology_angle(np.median(cheeks, axis=0)) if cheeks else 0.0
    measures: dict[str, float] = {}

    def outcome(reason: str, box: Box | None = None) -> Forehead:
        width_px = (box[2] - box[0]) * face.eye_distance / UNIT if box else 0.0
        return Forehead(reason, box, matrix, width_px, cheek_ita, measures)

    if abs(face.yaw) > MAX_YAW:
        return outcome(f"head turned: by {abs(face.yaw):.0f} degrees")
    left, top, right, bottom = _above_the_brows(level, matrix, image.shape[1], size[0])
    if bottom - top < MIN_HEIGHT * UNIT or right - left < MIN_WIDTH * UNIT:
        return outcome("forehead cut off: by the photograph's border")
    region = lab[top:bottom, left:right]
    skin = skin_region(region, level.mesh[9, 0] - left)
    measures["skin_share"] = float(skin.mean())
    box = bare_rectangle(region, skin)
    worn = looks_like_cloth(lab[max(0, top - UNIT // 2) : bottom], level.mesh[9, 0], skin, left)
    if box is None:
        return outcome(_HAT if worn else "hair on the forehead: no bare rectangle")
    box = (box[0] + RIM, box[1] + 1, box[2] - RIM, box[3])
    width, height = (box[2] - box[0]) / UNIT, (box[3] - box[1]) / UNIT
    measures |= {"width": width, "height": height}
    placed = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
    if width < MIN_WIDTH or height < MIN_HEIGHT:
        return outcome(_HAT if worn else "hair on the forehead: too little bare skin", placed)
    bare = patch[placed[1] : placed[3], placed[0] : placed[2]]
    # One channel at its end is common in warm light and does no harm; two are a burnt highlight.
    measures["clipped"] = float((((bare >= 253).sum(2) >= 2) | (bare <= 2).all(2)).mean())
    if measures["clipped"] > MAX_CLIPPED:
        return outcome(f"clipped: {measures['clipped']:.0%} of the forehead", placed)
    if not cheeks:
        return outcome("colour: no cheek to compare with", placed)
    measures |= _measured(bare, cheeks)
    return outcome(_judged(measures, worn), placed)


_HAT = "hat: cloth where hair would be"


def _levelled(face: Face) -> np.ndarray:
    """The 2x3 matrix from the picture to a patch in which the eyes are level and UNIT pixels apart."""
    angle, scale = math.radians(face.roll), UNIT / face.eye_distance
    turn = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    origin = np.array([PATCH_HALF_WIDTH * UNIT, PATCH_UP * UNIT])
    return np.hstack([turn, (origin - turn @ face.eyes.mean(0))[:, None]])


def _cheek_colours(lab: np.ndarray, level: Face) -> list[np.ndarray]:
    """The median colour around four points of the cheeks that lie in the patch."""
    cheeks = []
    for point in (50, 280, 117, 346):
        x, y = np.round(level.mesh[point]).astype(int)
        near = lab[max(0, y - 5) : y + 6, max(0, x - 5) : x + 6].reshape(-1, 3)
        if near.size:
            cheeks.append(np.median(near, axis=0))
    return cheeks


def _above_the_brows(level: Face, matrix: np.ndarray, picture_width: int, width: int) -> Box:
    """Where a forehead can be in the patch, of that width."""
    brows = level.mesh[RIGHT_BROW + LEFT_BROW]
    bottom = int(brows[:, 1].min() - BROW_GAP * UNIT)
    oval = level.mesh[OVAL]
    left, right = oval[:, 0].min() + 0.06 * UNIT, oval[:, 0].max() - 0.06 * UNIT
    top = int(max(0, oval[:, 1].min() - 0.25 * UNIT))
    # Rows above the photograph are repeats of its border, which look like perfectly smooth skin.
    corners = transform(matrix, np.array([[0, 0], [picture_width - 1, 0]], np.float64))
    return int(max(0, left)), max(top, math.ceil(corners[:, 1].max())), int(min(width, right)), bottom


def _measured(bare: np.ndarray, cheeks: Sequence[np.ndarray]) -> dict[str, float]:
    """What tells skin from hair, creases and paint, of a forehead's rectangle (H, W, 3) uint8."""
    # In L*, not relative to the skin's own lightness: that would call the gloss and grain of dark skin hair.
    luma = lab_of(bare)[..., 0]
    coarse = cv2.GaussianBlur(luma, (0, 0), 2.0)
    dark_lines = cv2.morphologyEx(luma, cv2.MORPH_BLACKHAT, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    fine = cv2.GaussianBlur(luma, (0, 0), 1.0)
    detail = fine - cv2.GaussianBlur(luma, (0, 0), 3.0)
    steep = np.gradient(detail, axis=1).std()
    colour = np.median(lab_of(bare).reshape(-1, 3), axis=0)
    differences = [colour - cheek for cheek in cheeks]
    return {
        "texture": float((luma - coarse).std()),
        "lines": float((dark_lines > 6).mean()),
        "across": float(np.percentile(np.abs(np.gradient(fine, axis=1)), 98)),
        "along": float(np.percentile(np.abs(np.gradient(fine, axis=0)), 98)),
        "streaks": float(steep * steep / max(np.gradient(detail, axis=0).std(), 0.1)),
        "chroma": min(float(np.hypot(d[1], d[2])) for d in differences),
        "light": min((float(d[0]) for d in differences), key=abs),
        "shading": float(coarse.std()),
    }


def _judged(measures: dict[str, float], worn: bool) -> str:
    """Why a forehead with these measures cannot be used, or ""; `worn`: something like a hat was seen above it."""
    rough = measures["texture"] > MAX_TEXTURE or measures["lines"] > MAX_LINES
    if rough or measures["across"] > MAX_EDGE or measures["streaks"] > MAX_STREAKS:
        creased = measures["along"] > 1.5 * measures["across"] and measures["streaks"] <= MAX_STREAKS
        if worn:
            return _HAT
        return "deep creases: bare but far from smooth" if creased else "hair on the forehead: strands"
    smooth = measures["texture"] < 1.0
    if measures["light"] < (-22 if smooth else -18):
        return _HAT if worn else "hair on the forehead: far darker than the cheeks"
    if measures["chroma"] > (18 if smooth else 12) or measures["light"] > (34 if smooth else 24):
        return "colour: unlike the cheeks"
    return ""


def looks_like_cloth(lab: np.ndarray, middle: float, skin: np.ndarray, left: int) -> bool:
    """Whether what covers the top of a forehead has a colour that hair does not have: white, blue, green or bright red.

    Black and brown hats pass for hair, and dyed hair for a hat: this only sorts the reasons for a rejection.

    Args:
        lab: the levelled patch from half an eye distance above the forehead down to the brows.
        middle: x of the face's middle line in the patch.
        skin: the skin found in the patch's lower rows.
        left: the column of the patch where `skin` begins.
    """
    bare = np.zeros(lab.shape[:2], bool)
    bare[lab.shape[0] - skin.shape[0] :, left : left + skin.shape[1]] = skin
    first, last = int(max(0, middle - 0.55 * UNIT)), int(middle + 0.55 * UNIT)
    cover = lab[:, first:last][~bare[:, first:last]]
    if len(cover) < 0.15 * UNIT * UNIT:
        return False
    light, red, yellow = np.median(cover, axis=0)
    white = light > 75 and math.hypot(red, yellow) < 16
    return bool(white or yellow < -6 or red < -6 or (red > 30 and math.hypot(red, yellow) > 38))


def skin_region(lab: np.ndarray, middle: float) -> np.ndarray:
    """Flood-fill skin in a levelled forehead, bottom row just above the brows; (H, W) bool.

    The tolerance floats: each pixel may differ a little from its neighbour, so the fill follows shading and stops where
    hair or a hat begins.
    """
    height, width = lab.shape[:2]
    fixed = np.ascontiguousarray(np.clip(lab * [2.0, 2.0, 2.0] + [0, 128, 128], 0, 255).astype(np.uint8))
    seeds = [
        (int(x), int(y))
        for y in (height - 0.06 * UNIT, height - 0.14 * UNIT, height - 0.22 * UNIT)
        for x in middle + UNIT * np.linspace(-0.42, 0.42, 7)
        if 0 <= x < width and 0 <= y < height
    ]
    if not seeds:
        return np.zeros((height, width), bool)
    colours = np.array([fixed[y, x] for x, y in seeds], np.float32)
    centre = np.median(colours, axis=0)
    wall = np.ones((height + 2, width + 2), np.uint8)
    drift = np.abs(fixed.astype(np.float32) - centre)
    wall[1:-1, 1:-1] = (drift[..., 0] > 70) | (np.hypot(drift[..., 1], drift[..., 2]) > 54)
    for (x, y), colour in zip(seeds, colours, strict=True):
        if wall[y + 1, x + 1] or np.abs(colour - centre).max() > 50:
            continue
        flags = 4 | cv2.FLOODFILL_MASK_ONLY | (2 << 8)
        cv2.floodFill(fixed, wall, (x, y), 0, TOLERANCE, TOLERANCE, flags)
    skin = (wall[1:-1, 1:-1] == 2).astype(np.uint8)
    skin = cv2.morphologyEx(skin, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_REPLICATE)
    # A highlight may be too far from the skin's colour to be filled; what skin surrounds on all sides is taken for
    # skin.
    outline = np.pad(1 - skin, 1, constant_values=1)
    outline[-1] = 0  # the side of the brows is no way out
    cv2.floodFill(outline, None, (0, 0), 2)
    skin[outline[1:-1, 1:-1] == 1] = 1
    return cv2.erode(skin, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE) > 0


def largest_rectangle(skin: np.ndarray) -> Box | None:
    """The rectangle of largest area that starts near the bottom and whose every row is at least 97 % skin.

    Returns:
        left, top, right, bottom (right and bottom excluded), or None.
    """
    height, width = skin.shape
    sums = np.concatenate([np.zeros((height, 1), np.int32), np.cumsum(skin, axis=1, dtype=np.int32)], axis=1)
    edges = np.arange(0, width + 1, 2)
    lefts, rights = np.meshgrid(edges, edges, indexing="ij")
    wide = (rights - lefts) >= 0.6 * UNIT
    lefts, rights = lefts[wide], rights[wide]
    if lefts.size == 0:
        return None
    good = (sums[:, rights] - sums[:, lefts]) >= ROW_SKIN * (rights - lefts)
    best, best_area = None, 0.0
    for lift in range(0, round(0.16 * UNIT), 3):  # stray brow hairs may spoil the first rows
        upwards = good[: height - lift][::-1]
        run = np.where(upwards.all(0), upwards.shape[0], np.argmin(upwards, axis=0))
        tall = np.minimum(run, np.floor(MAX_ASPECT * (rights - lefts)).astype(int))
        area = np.where(tall >= MIN_ASPECT * (rights - lefts), tall * (rights - lefts), 0)
        pick = int(np.argmax(area))
        if area[pick] > 1.08 * best_area:  # moving up must be worth it
            best_area = float(area[pick])
            best = (int(lefts[pick]), int(height - lift - tall[pick]), int(rights[pick]), int(height - lift))
    return best


def bare_rectangle(lab: np.ndarray, skin: np.ndarray) -> Box | None:
    """The largest rectangle of skin, shrunk until nothing in it departs from one smoothly shaded surface.

    The flood fill is loose, so that it passes highlights, and soft hair at the corners lets it through. Skin in a
    rectangle is close to a low polynomial of x and y in each of L*, a*, b*; hair is darker, or of another hue.
    """
    skin = skin.copy()
    box = largest_rectangle(skin)
    for _ in range(5):
        if box is None:
            return None
        left, top, right, bottom = box
        inside = lab[top:bottom, left:right]
        off = departures(inside)
        if off.mean() < 0.004:
            break
        off = cv2.dilate(off.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        skin[top:bottom, left:right] &= ~off
        box = largest_rectangle(skin)
    return box


def departures(lab: np.ndarray) -> np.ndarray:
    """Where (H, W, 3) Lab leaves the smooth surface that fits most of it, specks left out: (H, W) bool."""
    height, width = lab.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y, x**3, x * x * y, x**4], axis=-1).reshape(-1, 9)
    values = lab.reshape(-1, 3).astype(np.float64)
    # The middle is skin more surely than the rim; after that every pixel counts as far as it fits.
    weight = np.exp(-1.5 * (x**2 + y**2)).ravel()
    for _ in range(4):
        weighted = basis * weight[:, None]
        fit = np.linalg.solve(weighted.T @ basis + 1e-6 * np.eye(9), weighted.T @ values)
        rest = values - basis @ fit
        weight = 1 / (1 + (rest**2 / [36.0, 16.0, 16.0]).sum(1)) ** 2
    rest = rest.reshape(height, width, 3)
    light = rest[..., 0]
    # Glossy and strongly lit skin bends more than the surface does, and pales where it shines: allow for its own range
    # of light and for its saturation. A change of hue, at right angles to the saturation, is not skin.
    bent = (basis @ fit)[:, 0]
    sure = np.exp(-1.5 * (x**2 + y**2)).ravel()
    range_of_light = float(np.sqrt(np.average((bent - np.average(bent, weights=sure)) ** 2, weights=sure)))
    colour = np.median(values[:, 1:], axis=0)
    chroma = max(float(np.hypot(*colour)), 1e-3)
    paler = np.abs(rest[..., 1:] @ colour) / chroma
    hue = np.abs(rest[..., 1:] @ [-colour[1], colour[0]]) / chroma
    off = (light < -np.clip(0.9 * range_of_light, 7, 16)) | (light > 24 + range_of_light)
    off |= (hue > 5) | (paler > max(10.0, 0.5 * chroma))
    off |= (light < 4) & (np.hypot(hue, paler) > max(5.0, 0.25 * chroma))
    off = cv2.morphologyEx(off.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    # Hair and hats come from outside; what the rectangle surrounds is a highlight or a crease.
    _, labels = cv2.connectedComponents(off)
    outside = np.unique(np.concatenate([labels[0], labels[:, 0], labels[:, -1]]))
    return (off > 0) & np.isin(labels, outside)


def stitch(forehead: np.ndarray) -> np.ndarray:
    """(S/2, S, 3) forehead -> (S, S, 3) blank face: the forehead as photographed above its own flip."""
    return np.concatenate([forehead, forehead[::-1]])


def cut_blank(image: np.ndarray, forehead: Forehead, size: int) -> np.ndarray:
    """Cut an accepted forehead out of its photograph and stitch it into a (size, size, 3) blank face."""
    assert forehead.box is not None
    left, top, right, bottom = forehead.box
    stretch = np.diag([size / (right - left), size / 2 / (bottom - top)])
    matrix = stretch @ forehead.patch_matrix
    matrix[:, 2] += -stretch @ [left - 0.5, top - 0.5] - 0.5
    return stitch(cut(image, matrix, (size, size // 2)))


def hair_share(hair: np.ndarray, forehead: Forehead, matrix: np.ndarray) -> float:
    """Share of a forehead's rectangle that is hair; hair (H, W) is of the crop that `matrix` leads to."""
    assert forehead.box is not None
    left, top, right, bottom = forehead.box
    x, y = np.meshgrid(np.linspace(left, right, 32), np.linspace(top, bottom, 16))
    there = transform(cv2.invertAffineTransform(forehead.patch_matrix), np.stack([x.ravel(), y.ravel()], 1))
    inside = transform(matrix, there).astype(np.float32)
    sure = cv2.remap(hair, inside[:, :1], inside[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return float((sure > HAIR).mean())

"""Photographs of faces -> blank faces and part masks to train on (paper, section 3.2).

    python train/prepare.py PHOTOS data/faces --hair models/hair_segmentation.tflite
    python train/prepare.py data/synthetic --source synthetic --size 64

A blank face is a bare forehead, resized to 256 x 128 and stitched to its own vertical flip. A mask is the polygons of a
face's parts, dilated, in the aligned crop. Beside them stand the crops of whole faces, bare skin marked in their alpha
channel, so that training can see hair, beards and backgrounds too.

PHOTOS is searched recursively; a manifest.csv in it with the columns file, split, group settles who belongs together and
what validates. One photograph's outcome depends on that photograph and the seed alone, so any number of workers or shards
gives the same folder, byte for byte.

The work stands in TARGET.partial until everything is there, then becomes TARGET by one rename.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import functools
import hashlib
import io
import json
import math
import multiprocessing
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from faceeraser import landmark_models, metrics, picture, script
from faceeraser.crops import align, cut
from faceeraser.finder import find_faces
from faceeraser.glasses import draw_glasses, glasses_score, segment_glasses
from faceeraser.hair import HairTeacher
from faceeraser.mesh import (
    LEFT_BROW,
    LEFT_EYE,
    LIPS,
    MESH_POINTS,
    NOSE_OUTLINE,
    OVAL,
    RIGHT_BROW,
    RIGHT_EYE,
    Face,
    transform,
)
from faceeraser.metrics import lab_of
from faceeraser.parts import GLASSES, parts_map

FORMAT = 1
COLUMNS = [
    "file",
    "split",
    "group",
    "taken",
    "reason",
    "forehead_px",
    "mask",
    "face_px",
    "ita",
    "glasses",
    "blank",
    "mask_file",
    "face_file",
]
SPLITS = ("train", "val")
VAL_SHARE = 0.1
TUNE_PAIRS = 64
# Generated faces cut from captioned contact sheets (see the photographs' README): foreheads to learn from, nothing to
# show.
TRAIN_ONLY = "sfhqt_*"

# The forehead is judged in a levelled patch in which the eyes are UNIT pixels apart; lengths below are in eye
# distances.
UNIT = 64
PATCH_HALF_WIDTH, PATCH_UP, PATCH_DOWN = 1.5, 2.2, 1.2
MAX_YAW_BLANK, MAX_YAW_MASK = 25.0, 35.0
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


class Mistake(Exception):
    """Something the user has to change; its message is all they see."""


# ------------------------------------------------------------------------------------------------------- one forehead


@dataclass
class Forehead:
    """What became of one forehead.

    Attributes:
        reason: "" when it can be used, else why not.
        box: left, top, right, bottom in the levelled patch, or None.
        patch_matrix: 2x3, picture to patch coordinates.
        width_px: source pixels across the box.
        cheek_ita: individual typology angle of the cheeks in degrees, known whether or not the forehead is any good.
    """

    reason: str
    box: tuple[float, float, float, float] | None
    patch_matrix: np.ndarray
    width_px: float
    cheek_ita: float
    measures: dict[str, float]


def typology_angle(lab: np.ndarray) -> float:
    """Individual typology angle of a median colour in degrees: atan((L* - 50) / b*); the lighter the larger."""
    return math.degrees(math.atan2(float(lab[0]) - 50, max(float(lab[2]), 1e-3)))


def find_forehead(image: np.ndarray, face: Face) -> Forehead:
    """Find the largest rectangle of bare skin above the brows, and judge whether it makes a good blank face."""
    size = (round(2 * PATCH_HALF_WIDTH * UNIT), round((PATCH_UP + PATCH_DOWN) * UNIT))
    angle, scale = math.radians(face.roll), UNIT / face.eye_distance
    turn = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    origin = np.array([PATCH_HALF_WIDTH * UNIT, PATCH_UP * UNIT])
    matrix = np.hstack([turn, (origin - turn @ face.eyes.mean(0))[:, None]])
    patch = cut(image, matrix, size)
    level = face.moved(matrix)
    lab = lab_of(cv2.GaussianBlur(patch, (0, 0), 1.0))

    cheeks = []
    for point in (50, 280, 117, 346):
        x, y = np.round(level.mesh[point]).astype(int)
        near = lab[max(0, y - 5) : y + 6, max(0, x - 5) : x + 6].reshape(-1, 3)
        if near.size:
            cheeks.append(np.median(near, axis=0))
    cheek_ita = typology_angle(np.median(cheeks, axis=0)) if cheeks else 0.0
    measures: dict[str, float] = {}

    def outcome(reason: str, box: tuple[float, float, float, float] | None = None) -> Forehead:
        width_px = (box[2] - box[0]) / scale if box else 0.0
        return Forehead(reason, box, matrix, width_px, cheek_ita, measures)

    if abs(face.yaw) > MAX_YAW_BLANK:
        return outcome(f"head turned: by {abs(face.yaw):.0f} degrees")
    brows = level.mesh[RIGHT_BROW + LEFT_BROW]
    bottom = int(brows[:, 1].min() - BROW_GAP * UNIT)
    oval = level.mesh[OVAL]
    left, right = oval[:, 0].min() + 0.06 * UNIT, oval[:, 0].max() - 0.06 * UNIT
    left, right = int(max(0, left)), int(min(size[0], right))
    top = int(max(0, oval[:, 1].min() - 0.25 * UNIT))
    # Rows above the photograph are repeats of its border, which look like perfectly smooth skin.
    corners = transform(matrix, np.array([[0, 0], [image.shape[1] - 1, 0]], np.float64))
    top = max(top, math.ceil(corners[:, 1].max()))
    if bottom - top < MIN_HEIGHT * UNIT or right - left < MIN_WIDTH * UNIT:
        return outcome("forehead cut off: by the photograph's border")
    region = lab[top:bottom, left:right]
    skin = skin_region(region, level.mesh[9, 0] - left)
    measures["skin_share"] = float(skin.mean())
    box = bare_rectangle(region, skin)
    hat = "hat: cloth where hair would be"
    worn = looks_like_cloth(lab[max(0, top - UNIT // 2) : bottom], level.mesh[9, 0], skin, left)
    if box is None:
        return outcome(hat if worn else "hair on the forehead: no bare rectangle")
    box = (box[0] + RIM, box[1] + 1, box[2] - RIM, box[3])
    width, height = (box[2] - box[0]) / UNIT, (box[3] - box[1]) / UNIT
    measures["width"], measures["height"] = width, height
    placed = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
    if width < MIN_WIDTH or height < MIN_HEIGHT:
        return outcome(hat if worn else "hair on the forehead: too little bare skin", placed)

    x0, y0, x1, y1 = placed
    found = patch[y0:y1, x0:x1]
    # One channel at its end is common in warm light and does no harm; two are a burnt highlight.
    clipped = float((((found >= 253).sum(2) >= 2) | (found <= 2).all(2)).mean())
    measures["clipped"] = clipped
    if clipped > MAX_CLIPPED:
        return outcome(f"clipped: {clipped:.0%} of the forehead", placed)
    # In L*, not relative to the skin's own lightness: that would call the gloss and grain of dark skin hair.
    luma = lab_of(found)[..., 0]
    coarse = cv2.GaussianBlur(luma, (0, 0), 2.0)
    texture = float((luma - coarse).std())
    dark_lines = cv2.morphologyEx(luma, cv2.MORPH_BLACKHAT, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    fine = cv2.GaussianBlur(luma, (0, 0), 1.0)
    across = float(np.percentile(np.abs(np.gradient(fine, axis=1)), 98))
    along = float(np.percentile(np.abs(np.gradient(fine, axis=0)), 98))
    lines = float((dark_lines > 6).mean())
    detail = fine - cv2.GaussianBlur(luma, (0, 0), 3.0)
    steep = np.gradient(detail, axis=1).std()
    streaks = float(steep * steep / max(np.gradient(detail, axis=0).std(), 0.1))
    measures |= {"texture": texture, "lines": lines, "across": across, "along": along, "streaks": streaks}
    colour = np.median(lab_of(found).reshape(-1, 3), axis=0)
    differences = [colour - cheek for cheek in cheeks]
    chroma = min(float(np.hypot(d[1], d[2])) for d in differences)
    light = min((float(d[0]) for d in differences), key=abs)
    measures |= {"chroma": chroma, "light": light, "shading": float(coarse.std())}
    if texture > MAX_TEXTURE or lines > MAX_LINES or across > MAX_EDGE or streaks > MAX_STREAKS:
        creased = along > 1.5 * across and streaks <= MAX_STREAKS
        if worn:
            return outcome(hat, placed)
        return outcome("deep creases: bare but far from smooth" if creased else "hair on the forehead: strands", placed)
    smooth = texture < 1.0
    if light < (-22 if smooth else -18):
        return outcome(hat if worn else "hair on the forehead: far darker than the cheeks", placed)
    if chroma > (18 if smooth else 12) or light > (34 if smooth else 24):
        return outcome("colour: unlike the cheeks", placed)
    return outcome("", placed)


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


def largest_rectangle(skin: np.ndarray) -> tuple[int, int, int, int] | None:
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


def bare_rectangle(lab: np.ndarray, skin: np.ndarray) -> tuple[int, int, int, int] | None:
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


# ----------------------------------------------------------------------------------------------------- one photograph


@dataclass(frozen=True)
class Item:
    """A photograph, or a generated picture, to prepare."""

    file: str
    id: str
    group: str
    split: str  # "" until the whole list is known


@dataclass(frozen=True)
class Options:
    """What the outcome depends on, apart from the photographs."""

    size: int
    seed: int
    source: str
    min_forehead: int
    drop_glasses: bool
    train_only: str
    hair: str = ""  # the file of the hair teacher; none: foreheads and bare skin go by colour and grain alone


def bare_skin(crop: np.ndarray, face: Face, parts: np.ndarray) -> np.ndarray:
    """Where an aligned crop (H, W, 3) shows bare skin for certain: (H, W) bool.

    Inside the face's oval, outside its parts, near the smooth surface that fits most of that in L*, a*, b*, and without
    the coarse grain of beard and hair. Skin that is missed costs nothing: it is only learnt from, never erased.
    """
    size = crop.shape[0]
    oval = np.zeros(crop.shape[:2], np.uint8)
    cv2.fillPoly(oval, [np.round(face.mesh[OVAL]).astype(np.int32)], 1)
    region = (cv2.erode(oval, np.ones((size // 32, size // 32), np.uint8)) > 0) & (parts == 0)
    lab = lab_of(cv2.GaussianBlur(crop, (0, 0), size / 170))
    y, x = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y, x**3, x * x * y, x**4], axis=-1)[region]
    values = lab[region].astype(np.float64)
    if len(values) < size:
        return np.zeros(crop.shape[:2], bool)
    weight = np.ones(len(values))
    for _ in range(5):
        weighted = basis * weight[:, None]
        rest = values - basis @ np.linalg.solve(weighted.T @ basis + 1e-6 * np.eye(9), weighted.T @ values)
        weight = 1 / (1 + (rest**2 / [36.0, 16.0, 16.0]).sum(1)) ** 2
    near = np.zeros(crop.shape[:2], bool)
    near[region] = (np.abs(rest[:, 0]) < 14) & (np.hypot(rest[:, 1], rest[:, 2]) < 9)
    light = lab_of(crop)[..., 0]
    grain = cv2.GaussianBlur((light - cv2.GaussianBlur(light, (0, 0), size / 85)) ** 2, (0, 0), size / 64)
    skin = (near & (grain < 3.5**2)).astype(np.uint8)
    skin = cv2.morphologyEx(skin, cv2.MORPH_OPEN, np.ones((7, 7), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(cv2.erode(skin, np.ones((3, 3), np.uint8)))
    areas = stats[:, cv2.CC_STAT_AREA] * (np.arange(len(stats)) > 0)
    return (areas >= 0.1 * max(1, areas.max()))[labels]  # a smooth lock of hair is a small piece beside the cheeks


def chance(*key: object) -> float:
    """A number in [0, 1) that depends on its key alone: the same on every machine, in every order."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def generator(*key: object) -> np.random.Generator:
    """A random generator that depends on its key alone."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


@functools.cache
def teacher(path: str) -> HairTeacher:
    """The hair teacher of this process."""
    return HairTeacher(path)


def hair_in(hair: np.ndarray, forehead: Forehead, matrix: np.ndarray) -> float:
    """Share of a forehead's rectangle that is hair; hair (H, W) is of the crop that `matrix` leads to."""
    assert forehead.box is not None
    left, top, right, bottom = forehead.box
    x, y = np.meshgrid(np.linspace(left, right, 32), np.linspace(top, bottom, 16))
    there = transform(cv2.invertAffineTransform(forehead.patch_matrix), np.stack([x.ravel(), y.ravel()], 1))
    inside = transform(matrix, there).astype(np.float32)
    found = cv2.remap(hair, inside[:, :1], inside[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return float((found > HAIR).mean())


def prepare_photo(photos: Path, partial: Path, item: Item, options: Options) -> dict[str, Any]:
    """Prepare one photograph: write its blank and its mask below `partial` and return its row."""
    row: dict[str, Any] = {"id": item.id, "file": item.file, "taken": 0, "mask": 0, "glasses": "", "reason": ""}
    path = photos / item.file
    try:
        image = picture.read(path).image
        found = find_faces(image)
    except (ValueError, MemoryError, cv2.error) as error:
        message = str(error).replace(str(path), item.file).split(": ", 1)[-1]
        return row | {"reason": f"unreadable: {message}"}
    shown = not fnmatch.fnmatch(Path(item.file).name, options.train_only)
    if not found:
        if shown:
            write_thumbnail(partial, item.id, image, None, None)
        return row | {"reason": "no face: none was found"}
    face = found[0]
    row |= {"face_px": round(face.width, 1), "yaw": round(face.yaw, 1)}

    crop, matrix = align(image, face, options.size)
    aligned = face.moved(matrix)
    hair = teacher(options.hair)(crop) if options.hair else np.zeros(crop.shape[:2], np.float32)
    wears = glasses_score(image, face) >= 0.5
    row["glasses"] = int(wears)
    if abs(face.yaw) <= MAX_YAW_MASK and face.width >= 48:
        frame = segment_glasses(crop, aligned) if wears else None
        row["glasses_mask"] = "real" if frame is not None else "drawn"
        if frame is None:
            frame = draw_glasses(aligned, options.size, generator("glasses", options.seed, item.file))
        # Every mask is written with glasses; which of them keep the bit is settled when all are known.
        field = parts_map(aligned, options.size, glasses=frame)
        write_png(partial / "masks" / f"{item.id}.png", field)
        row["mask"] = 1
        if not wears:  # glasses would have to be erased too, and what is behind them is not known to be skin
            skin = bare_skin(crop, aligned, field & np.uint8(255 - GLASSES)) & (hair <= HAIR)
            write_png(partial / "faces" / f"{item.id}.png", np.dstack([crop, 255 * skin.astype(np.uint8)]))
            row["face"] = 1

    forehead = find_forehead(image, face)
    row |= {"forehead_px": round(forehead.width_px, 1), "cheek_ita": round(forehead.cheek_ita, 1)}
    row["measures"] = {name: round(value, 4) for name, value in forehead.measures.items()}
    reason = forehead.reason
    if not reason and hair_in(hair, forehead, matrix) > MAX_HAIR:
        reason = "hair on the forehead: by the hair teacher"
    if not reason and options.drop_glasses and wears:
        reason = "glasses: and --drop-glasses was given"
    if not reason and forehead.width_px < options.min_forehead:
        reason = f"forehead too small: {forehead.width_px:.0f} pixels across"
    blank = None
    if not reason:
        blank = cut_blank(image, forehead, options.size)
        write_png(partial / "blanks" / f"{item.id}.png", blank)
        row |= {"taken": 1, "ita": round(typology_angle(np.median(lab_of(blank).reshape(-1, 3), axis=0)), 1)}
    if shown:
        write_thumbnail(partial, item.id, image, face, forehead)
    return row | {"reason": reason or "taken"}


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W), (H, W, 3) or (H, W, 4) uint8 RGB(A)."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 4])
    assert done
    path.write_bytes(data.tobytes())


def read_png(path: Path) -> np.ndarray:
    """Read what `write_png` wrote."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, f"{path}: written by this run and gone"
    return pixels if pixels.ndim == 2 else pixels[..., ::-1]


THUMBNAIL = 128


def write_thumbnail(
    partial: Path, name: str, image: np.ndarray, face: Face | None, forehead: Forehead | None
) -> None:
    """Keep a small picture of a photograph for the contact sheets, with the forehead's rectangle drawn on it."""
    if face is None:
        scale = THUMBNAIL / max(image.shape[:2])
        matrix = np.array([[scale, 0, 0], [0, scale, 0]])
    else:
        scale = THUMBNAIL / (1.35 * face.width)
        low, high = face.mesh[OVAL].min(0), face.mesh[OVAL].max(0)
        centre = (low + high) / 2 - [0, 0.1 * face.width]
        matrix = np.hstack([np.eye(2) * scale, (THUMBNAIL / 2 - scale * centre)[:, None]])
    small = cut(image, matrix, (THUMBNAIL, THUMBNAIL))
    if forehead is not None and forehead.box is not None:
        left, top, right, bottom = forehead.box
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)
        there = transform(matrix, transform(cv2.invertAffineTransform(forehead.patch_matrix), corners))
        cv2.polylines(small, [np.round(there).astype(np.int32)], True, (0, 255, 0), 1)
    path = partial / "thumbnails" / f"{name}.png"
    write_png(path, small)


# ---------------------------------------------------------------------------------------------------- generated skin

# The mean aligned mesh of 500 frontal faces, in thousandths of the crop, parts only; the left side is the mirror image.
CANONICAL: dict[str, tuple[list[int], list[int]]] = {
    "brow": (
        RIGHT_BROW,
        [171, 249, 208, 215, 265, 196, 337, 199, 417, 207, 429, 257, 344, 231, 278, 228, 228, 240, 193, 266],
    ),
    "eye": (
        RIGHT_EYE,
        [238, 329, 248, 324, 259, 316, 279, 307, 309, 301, 338, 304, 367, 313, 388, 327, 393, 338, 389, 340, 373, 343,
         346, 348, 317, 350, 286, 347, 266, 342, 251, 337],
    ),
    "nose": (
        NOSE_OUTLINE,
        [498, 302, 454, 309, 434, 349, 443, 376, 443, 412, 418, 469, 397, 489, 386, 516, 375, 533, 385, 551, 396, 572,
         451, 583, 498, 589, 545, 583, 600, 572, 611, 551, 621, 533, 610, 516, 599, 489, 578, 469, 553, 412, 553, 376,
         562, 349, 542, 309],
    ),
    "lips": (
        LIPS,
        [332, 695, 344, 684, 368, 676, 400, 665, 450, 658, 498, 664, 546, 658, 596, 665, 628, 676, 652, 684, 664, 695,
         646, 717, 621, 739, 587, 762, 545, 778, 498, 782, 451, 778, 409, 762, 375, 739, 350, 717],
    ),
}  # fmt: skip
# Lab of skin from the darkest to the lightest, chosen to span typology angles from about -65 to 70 degrees.
SKIN = np.array([[24, 9, 13], [36, 13, 19], [48, 15, 23], [60, 14, 22], [70, 11, 18], [80, 8, 14]], np.float64)


def synthetic_forehead(size: int, rng: np.random.Generator) -> np.ndarray:
    """Generate skin as a forehead shows it: (size / 2, size, 3) uint8.

    Colour along the range of skin, low-frequency shading of a curved surface under one light, blotches, pores and fine
    creases as fine at 256 pixels as photographs show them, soft highlights and a little sensor noise.
    """
    height, width = size // 2, size
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-0.5, 0.5, height))
    place = rng.uniform(0, len(SKIN) - 1)
    low = int(min(place, len(SKIN) - 2))
    colour = SKIN[low] + (place - low) * (SKIN[low + 1] - SKIN[low]) + rng.normal(0, [1.5, 1.2, 1.5])

    def noise(sigma_x: float, sigma_y: float) -> np.ndarray:
        """Smooth noise of unit variance; sigmas in pixels of a 256-pixel picture."""
        scale = size / 256
        sx, sy = max(sigma_x * scale, 0.35), max(sigma_y * scale, 0.35)
        field = cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), sx, sigmaY=sy)
        return field / max(float(field.std()), 1e-9)

    bend = rng.uniform(0.5, 0.95)
    normal = np.stack(
        [bend * x, 0.8 * bend * y, np.sqrt(np.maximum(1 - (bend * x) ** 2 - (0.8 * bend * y) ** 2, 0.02))]
    )
    light = np.array([rng.normal(0, 0.45), rng.uniform(-0.7, 0.1), 1.0])
    light /= np.linalg.norm(light)
    shade = np.tensordot(light, normal, 1)
    shade = shade / shade.mean() - 1 + 0.02 * noise(40, 40)
    # Highlights: the mirror direction of the light towards the camera, wider on rougher skin.
    half = light + np.array([0, 0, 1])
    half /= np.linalg.norm(half)
    gloss = np.maximum(np.tensordot(half, normal, 1), 0) ** rng.uniform(12, 60)
    gloss *= 1 + 0.25 * noise(3, 3)
    pores = rng.uniform(0.5, 2.6) * (0.6 * noise(0.8, 0.8) + 0.6 * (noise(1.2, 1.2) - noise(2.4, 2.4)))
    creases = rng.uniform(0, 0.6) * noise(14, 1.0) * np.clip(noise(50, 6), 0, None)
    lab = np.empty((height, width, 3))
    lab[..., 0] = colour[0] * (1 + rng.uniform(0.25, 0.8) * shade) + rng.uniform(0, 16) * gloss
    lab[..., 0] += (pores + creases) * (0.45 + 0.008 * colour[0]) + 0.5 * noise(9, 9)
    lab[..., 1] = colour[1] * (1 - 0.15 * shade) - 2 * gloss + 0.7 * noise(12, 12) + 0.35 * noise(1.5, 1.5)
    lab[..., 2] = colour[2] * (1 + 0.15 * shade) - 3 * gloss + 0.8 * noise(18, 18) + 0.3 * noise(1.5, 1.5)
    for _ in range(rng.poisson(1.0)):  # freckles and moles
        cx, cy, radius = rng.uniform(-0.9, 0.9), rng.uniform(-0.4, 0.4), rng.uniform(0.006, 0.02)
        lab[..., 0] -= rng.uniform(3, 10) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius**2))
    rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB) * 255
    rgb += rng.normal(0, rng.uniform(0.3, 1.2), rgb.shape)
    return np.clip(rgb + 0.5, 0, 255).astype(np.uint8)


def synthetic_face(size: int, rng: np.random.Generator) -> Face:
    """A face whose parts have the shape of the mean face, each moved, scaled and bent a little at random."""
    mesh = np.zeros((MESH_POINTS, 2))
    parts = []
    for name, (indices, numbers) in CANONICAL.items():
        points = np.array(numbers, np.float64).reshape(-1, 2) / 1000
        parts.append((indices, points))
        if name in ("brow", "eye"):
            mirror = LEFT_BROW if name == "brow" else LEFT_EYE
            parts.append((mirror, points * [-1, 1] + [0.996, 0]))
    width, height = rng.uniform(0.92, 1.08), rng.uniform(0.95, 1.05)
    shared = {name: rng.normal(0, [0.0, 0.012]) for name in ("brow", "eye")}  # both sides rise and fall together
    mouth_open = rng.uniform(0, 0.05) if rng.random() < 0.4 else 0.0
    for indices, points in parts:
        centre = points.mean(0)
        name = "brow" if indices in (RIGHT_BROW, LEFT_BROW) else "eye"
        shift = rng.normal(0, 0.006, 2)
        if indices not in (LIPS, NOSE_OUTLINE):
            shift = shift + shared[name]
        moved = (points - centre) * rng.uniform(0.9, 1.12, 2)
        if indices is LIPS:
            moved[moved[:, 1] > 0, 1] += mouth_open
        angle = rng.normal(0, 0.03)
        moved = moved @ np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        mesh[indices] = (centre + shift + moved - 0.498) * [width, height] + 0.498
    # What the drawn temples reach for: the sides of the face, level with the eyes.
    mesh[127], mesh[356] = [0.10, 0.36], [0.90, 0.36]
    roll = math.radians(rng.normal(0, 1.5))
    turn = np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])
    mesh = (mesh - 0.498) @ turn + 0.498
    return Face((mesh * size).astype(np.float32))


def prepare_synthetic(partial: Path, item: Item, options: Options) -> dict[str, Any]:
    """Generate one blank and one mask: the same files and row as `prepare_photo`."""
    rng = generator("synthetic", options.seed, item.id)
    blank = stitch(synthetic_forehead(options.size, rng))
    write_png(partial / "blanks" / f"{item.id}.png", blank)
    face = synthetic_face(options.size, rng)
    frame = draw_glasses(face, options.size, rng)
    write_png(partial / "masks" / f"{item.id}.png", parts_map(face, options.size, glasses=frame))
    ita = round(typology_angle(np.median(lab_of(blank).reshape(-1, 3), axis=0)), 1)
    return {
        "id": item.id, "file": item.file, "taken": 1, "mask": 1, "glasses": 0, "reason": "taken",
        "glasses_mask": "drawn", "forehead_px": options.size, "face_px": options.size, "ita": ita, "cheek_ita": ita,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------ the whole run


def list_photos(photos: Path, seed: int, limit: int | None) -> list[Item]:
    """Every picture file below a folder, with its group and split, in a fixed order."""
    if not photos.is_dir():
        raise Mistake(f"{photos}: no such folder; expected a folder of face photographs; check the path")
    files = sorted(
        path.relative_to(photos).as_posix()
        for path in photos.rglob("*")
        if path.suffix.lower() in picture.READABLE
        and not any(part.startswith(".") for part in path.relative_to(photos).parts)
    )
    if not files:
        raise Mistake(
            f"{photos}: no picture files in it; expected files ending in {', '.join(sorted(picture.READABLE))}; "
            "check the path"
        )
    known = read_photo_manifest(photos / "manifest.csv")
    files = sorted({*files, *known})  # a file that the manifest names and the folder lacks is reported, not passed over
    folders = Counter(str(Path(file).parent) for file in files)
    # Many small folders are one person each, as in LFW or VoxCeleb; anything else says nothing about identity.
    per_person = len(folders) >= 10 and len(files) / len(folders) <= 100
    items = []
    ids = Counter(plain_name(file) for file in files)
    for file in files:
        split, group = known.get(file, ("", ""))
        parent = str(Path(file).parent)
        group = group or (parent if per_person and parent != "." else file)
        name = plain_name(file)
        if ids[name] > 1:
            name += "-" + hashlib.sha256(file.encode()).hexdigest()[:8]
        items.append(Item(file, name, group, split))
    if limit is not None and limit < len(items):
        items = sorted(
            sorted(items, key=lambda item: chance("limit", seed, item.file))[:limit], key=lambda item: item.file
        )
    return items


def plain_name(file: str) -> str:
    """A path as a file name: `a/b c.jpg` -> `a__b_c`."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", re.sub(r"\.[^./]*$", "", file).replace("/", "__"))


def read_photo_manifest(path: Path) -> dict[str, tuple[str, str]]:
    """{file: (split, group)} of a manifest.csv that lies among the photographs, or nothing."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Mistake(f"{path}: is not a CSV in UTF-8 ({error}); mend it or move it away") from error
    needed = {"file", "split", "group"}
    if rows and not needed <= set(rows[0]):
        raise Mistake(
            f"{path}: has the columns {sorted(map(str, rows[0]))}; expected {sorted(needed)}; mend it or move it away"
        )
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["group"], set()).add(row["split"])
    for group, found in sorted(splits.items()):
        if group and len(found) > 1:
            raise Mistake(
                f"{path}: the group {group!r} is in the splits {sorted(found)}; expected one split per person, or "
                "training leaks into validation; give all its rows the same split"
            )
    return {row["file"]: (row["split"], row["group"]) for row in rows}


def list_synthetic(limit: int | None) -> list[Item]:
    """The pictures to generate: by default 80, a fifth of them for validation."""
    count = 80 if limit is None else limit
    if count < 2:
        raise Mistake(
            f"found --limit {count}; expected at least 2 for generated skin: one to train on, one to validate"
        )
    n_val = max(1, count // 5)
    names = [f"synthetic_{number:05d}" for number in range(count)]
    return [Item(name, name, name, "train" if k < count - n_val else "val") for k, name in enumerate(names)]


def settle_splits(items: list[Item], rows: dict[str, dict[str, Any]], options: Options) -> dict[str, str]:
    """{id: split}: as the photographs' manifest says, else by hash of the group; generated faces stay in training."""
    split_of_group: dict[str, str] = {}
    for item in items:
        hashed = "val" if chance("split", options.seed, item.group) < VAL_SHARE else "train"
        split_of_group[item.group] = item.split or hashed
    for item in items:
        if options.train_only and fnmatch.fnmatch(Path(item.file).name, options.train_only):
            split_of_group[item.group] = "train"
    blanks = [item for item in items if rows[item.id]["taken"]]
    if not any(item.split for item in items) and not any(split_of_group[item.group] == "val" for item in blanks):
        # A handful of photographs: hashing alone may leave nothing to validate on.
        groups = sorted({item.group for item in blanks}, key=lambda group: chance("split", options.seed, group))
        for group in groups[: max(1, round(VAL_SHARE * len(groups)))] if len(groups) > 1 else []:
            split_of_group[group] = "val"
    return {item.id: split_of_group[item.group] for item in items}


def work(task: tuple[Path | None, Path, list[Item], Options]) -> list[dict[str, Any]]:
    """Prepare a few pictures, in a worker process or in this one."""
    photos, partial, items, options = task
    cv2.setNumThreads(1)  # the processes share the cores already
    if photos is None:
        return [prepare_synthetic(partial, item, options) for item in items]
    return [prepare_photo(photos, partial, item, options) for item in items]


def run_all(
    photos: Path | None,
    partial: Path,
    items: list[Item],
    options: Options,
    workers: int,
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Prepare every item, calling `keep` with each row as soon as it is there."""
    chunks = [items[start : start + 8] for start in range(0, len(items), 8)]
    tasks = [(photos, partial, chunk, options) for chunk in chunks]

    def results() -> Iterator[list[dict[str, Any]]]:
        if workers == 1 or len(chunks) < 2:
            yield from map(work, tasks)
            return
        # Fresh processes, not forks: LiteRT's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context) as pool:
            for future in as_completed([pool.submit(work, task) for task in tasks]):
                yield future.result()

    with tqdm(total=len(items), unit="photo", desc="prepare", disable=None) as bar:
        for rows in results():
            for row in rows:
                keep(row)
            bar.update(len(rows))


def read_rows(path: Path) -> tuple[dict[str, dict[str, Any]], bool]:
    """The rows that a run has kept, by id, and whether it came to its end. A line cut short by a kill is dropped."""
    rows: dict[str, dict[str, Any]] = {}
    done = False
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if "done" in row:
                done = True
            else:
                rows[row["id"]] = row
    return rows, done


def finish(
    partial: Path, items: list[Item], rows: dict[str, dict[str, Any]], options: Options, name: str, share: float
) -> Path:
    """Build the whole folder from what the runs left in `partial`; returns it, ready to be renamed."""
    whole = partial / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    split_of = settle_splits(items, rows, options)
    for kind in ("blanks", "masks", "faces"):
        for split in SPLITS:
            (whole / kind / split).mkdir(parents=True)
    used = [item for item in items if split_of[item.id] in SPLITS]
    bare = choose_bare(used, rows, split_of, options, share)
    table = []
    for item in items:
        row, split = rows[item.id], split_of[item.id]
        taken, mask, reason = row["taken"], row["mask"], row["reason"]
        if split not in SPLITS:
            taken, mask, reason = 0, 0, f"split: {split!r} is neither train nor val"
        files = {"blank": "", "mask_file": "", "face_file": ""}
        if taken:
            files["blank"] = f"blanks/{split}/{item.id}.png"
            copy(partial / "blanks" / f"{item.id}.png", whole / files["blank"])
        if mask:
            files["mask_file"] = f"masks/{split}/{item.id}.png"
            source = partial / "masks" / f"{item.id}.png"
            if item.id in bare:
                field = read_png(source)
                write_png(whole / files["mask_file"], field & np.uint8(255 - GLASSES))
            else:
                copy(source, whole / files["mask_file"])
            if row.get("face"):
                files["face_file"] = f"faces/{split}/{item.id}.png"
                copy(partial / "faces" / f"{item.id}.png", whole / files["face_file"])
        ita = row.get("ita", row.get("cheek_ita", ""))
        table.append(
            {"file": item.file, "split": split, "group": item.group, "taken": taken, "reason": reason, "mask": mask,
             "forehead_px": row.get("forehead_px", 0), "face_px": row.get("face_px", 0), "ita": ita,
             "glasses": row["glasses"], **files}
        )  # fmt: skip
    write_csv(whole / "manifest.csv", COLUMNS, table)
    write_csv(whole / "eval.csv", ["blank", "mask"], pair(table, "val", options.seed))
    write_csv(whole / "tune.csv", ["blank", "mask"], pair(table, "train", options.seed)[:TUNE_PAIRS])
    write_sheets(partial, whole, items, rows, options)
    counts = {
        split: {
            "blanks": sum(1 for row in table if row["blank"] and row["split"] == split),
            "masks": sum(1 for row in table if row["mask_file"] and row["split"] == split),
            "faces": sum(1 for row in table if row["face_file"] and row["split"] == split),
        }
        for split in SPLITS
    }
    sums = hashlib.sha256()
    for path in sorted(
        path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.suffix in (".png", ".csv")
    ):
        sums.update(f"{path} {hashlib.sha256((whole / path).read_bytes()).hexdigest()}\n".encode())
    card = {
        "format": FORMAT, "name": name, "source": options.source, "size": options.size, "seed": options.seed,
        "n": counts, "eval_sha256": hashlib.sha256((whole / "eval.csv").read_bytes()).hexdigest(),
        "sha256": sums.hexdigest(),
    }  # fmt: skip
    (whole / "data.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return whole


def choose_bare(
    items: list[Item], rows: dict[str, dict[str, Any]], split_of: dict[str, str], options: Options, share: float
) -> set[str]:
    """The masks that lose their glasses again, so that `share` of each split carries them, real ones first."""
    bare: set[str] = set()
    for split in SPLITS:
        masks = [item for item in items if rows[item.id]["mask"] and split_of[item.id] == split]
        masks.sort(key=lambda item: (rows[item.id]["glasses_mask"] != "real", chance("wear", options.seed, item.file)))
        bare |= {item.id for item in masks[round(share * len(masks)) :]}
    return bare


def copy(source: Path, target: Path) -> None:
    """A hard link where the file system has them: the partial folder is removed in the end."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_csv(path: Path, columns: list[str], rows: Iterable[dict[str, Any]]) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(stream.getvalue().encode())


def pair(table: list[dict[str, Any]], split: str, seed: int) -> list[dict[str, str]]:
    """Each blank of a split with an all-parts mask of another person, in an order whose every slice is fair."""
    blanks = [row for row in table if row["blank"] and row["split"] == split]
    masks = [row for row in table if row["mask_file"] and row["split"] == split]
    pairs = []
    for blank in sorted(blanks, key=lambda row: (chance("order", seed, row["file"]), row["file"])):
        others = [mask for mask in masks if mask["group"] != blank["group"]]
        if others:
            # Drawn by hash, so that one photograph more or less does not shuffle every pair.
            mask = min(others, key=lambda row: chance("pair", seed, blank["file"], row["file"]))
            pairs.append({"blank": blank["blank"], "mask": mask["mask_file"]})
    return pairs


SHEET_COLUMNS, SHEET_ROWS, CAPTION = 8, 8, 26


def write_sheets(
    partial: Path, whole: Path, items: list[Item], rows: dict[str, dict[str, Any]], options: Options
) -> None:
    """Contact sheets: the photographs taken with their blank faces, and those rejected with the reason."""
    ordered = sorted(items, key=lambda item: (chance("sheet", options.seed, item.file), item.file))
    cells: dict[int, list[np.ndarray]] = {0: [], 1: []}
    for item in ordered:
        row = rows[item.id]
        thumbnail = partial / "thumbnails" / f"{item.id}.png"
        if options.source == "photos" and not thumbnail.is_file() and not row["reason"].startswith("unreadable"):
            continue
        group = cells[row["taken"]]
        if len(group) >= SHEET_COLUMNS * SHEET_ROWS // (1 + row["taken"]):
            continue
        pictures = [read_png(thumbnail)] if thumbnail.is_file() else []
        if row["taken"]:
            blank = read_png(partial / "blanks" / f"{item.id}.png")
            pictures.append(cv2.resize(blank, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA))
        if not pictures:
            pictures = [np.zeros((THUMBNAIL, THUMBNAIL, 3), np.uint8)]
        cell = np.concatenate(pictures, axis=1)
        cell = cv2.copyMakeBorder(cell, 0, CAPTION, 0, 0, cv2.BORDER_CONSTANT, value=(0, 0, 0))
        lines = [
            item.id[-22:],
            row["reason"][:22] if not row["taken"] else f"{row['forehead_px']:.0f} px, ITA {row['ita']:.0f}",
        ]
        for number, line in enumerate(lines):
            place = (2, THUMBNAIL + 10 + 12 * number)
            cv2.putText(cell, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.33, (255, 255, 255), 1, cv2.LINE_AA)
        group.append(cell)
    for taken, file in ((1, "taken.jpg"), (0, "rejected.jpg")):
        group = cells[taken]
        if not group:
            empty = np.zeros((THUMBNAIL, 4 * THUMBNAIL, 3), np.uint8)
            text = "nothing was " + file.removesuffix(".jpg")
            cv2.putText(empty, text, (20, 70), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 1, cv2.LINE_AA)
            group = [empty]
        columns = max(1, SHEET_COLUMNS * THUMBNAIL // group[0].shape[1])
        group += [np.zeros_like(group[0])] * (-len(group) % min(columns, len(group)))
        columns = min(columns, len(group))
        sheet = np.concatenate([np.concatenate(group[k : k + columns], axis=1) for k in range(0, len(group), columns)])
        (whole / file).write_bytes(cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes())


# ------------------------------------------------------------------------------------------------ figures and reports


def acceptance(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many foreheads were taken, by the cheeks' skin tone."""
    by_tone: dict[str, list[int]] = {name: [] for name, _ in metrics.SKIN_TONES}
    for row in rows:
        if "cheek_ita" in row:
            by_tone[metrics.tone(row["cheek_ita"])].append(row["taken"])
    return [
        {"tone": name, "n": len(v), "taken": sum(v), "share": round(sum(v) / len(v), 3)}
        for name, v in by_tone.items()
        if v
    ]


FILTERS: dict[str, Callable[[dict[str, str]], bool]] = {
    "glasses": lambda row: row["glasses"] == "1",
    "hat": lambda row: row["reason"].startswith("hat"),
    "hair_covered_forehead": lambda row: row["reason"].startswith("hair"),
    "usable": lambda row: row["taken"] == "1",
}


def measure_filters(target: Path, labels: Path) -> list[dict[str, Any]]:
    """Precision and recall of each filter on photographs labelled by eye."""
    if not labels.is_file():
        raise Mistake(
            f"{labels}: no such file; expected a CSV with the columns file, {', '.join(FILTERS)}; check the path"
        )
    with (target / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        found = {row["file"]: row for row in csv.DictReader(stream)}
    with labels.open(newline="", encoding="utf-8") as stream:
        wanted = list(csv.DictReader(stream))
    if not wanted or not {"file", *FILTERS} <= set(wanted[0]):
        raise Mistake(f"{labels}: expected a CSV with the columns file, {', '.join(FILTERS)}; mend its first line")
    common = [row for row in wanted if row["file"] in found]
    if not common:
        raise Mistake(
            f"{labels}: none of its {len(wanted)} photographs is in {target}; label photographs that were prepared"
        )
    figures = []
    for name, says in FILTERS.items():
        truth = [row[name] == "1" for row in common]
        guess = [says(found[row["file"]]) for row in common]
        right = sum(t and g for t, g in zip(truth, guess, strict=True))
        figures.append(
            {"name": name, "precision": round(right / sum(guess), 3) if any(guess) else None,
             "recall": round(right / sum(truth), 3) if any(truth) else None, "n": len(common),
             "labelled": sum(truth), "found": sum(guess)}
        )  # fmt: skip
    return figures


def print_table(rows: list[dict[str, Any]]) -> None:
    """A table for people."""
    if not rows:
        return
    texts = [[str(value) if value is not None else "-" for value in row.values()] for row in rows]
    heads = list(rows[0])
    widths = [max(len(line[k]) for line in [heads, *texts]) for k in range(len(heads))]
    for line in [heads, *texts]:
        print(
            "  ".join(
                text.ljust(width) if k == 0 else text.rjust(width)
                for k, (text, width) in enumerate(zip(line, widths, strict=True))
            )
        )


def build_parser() -> argparse.ArgumentParser:
    made = script.parser(__file__, __doc__, usage="%(prog)s [PHOTOS] TARGET [options]")
    made.add_argument(
        "photos", nargs="?", type=Path, metavar="PHOTOS", help="folder of photographs; none for --source synthetic"
    )
    made.add_argument("target", type=Path, metavar="TARGET", help="folder to make")
    made.add_argument("--source", choices=("photos", "synthetic"), default="photos", help="default: %(default)s")
    made.add_argument("--size", type=int, default=256, help="side of blanks and masks in pixels; default: %(default)s")
    made.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    made.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; default: one per core")
    made.add_argument("--limit", type=int, help="use only so many photographs, or generate so many pictures (80)")
    made.add_argument(
        "--shard", default="1/1", metavar="i/n", help="do the i-th of n parts; the last to end makes the folder"
    )
    made.add_argument("--resume", action="store_true", help="go on where a run was stopped")
    made.add_argument("--overwrite", action="store_true", help="replace TARGET, or start a stopped run anew")
    made.add_argument(
        "--glasses-share", type=float, default=0.15, help="masks that carry glasses; default: %(default)s"
    )
    made.add_argument(
        "--drop-glasses", action="store_true", help="take no blank from a face with glasses, as the paper does"
    )
    made.add_argument(
        "--hair", type=Path, metavar="FILE", help="MediaPipe's hair_segmentation.tflite: what is hair is no bare skin"
    )
    made.add_argument(
        "--min-forehead", type=int, default=40, help="least source pixels across a forehead; default: %(default)s"
    )
    made.add_argument(
        "--train-only", default=TRAIN_ONLY, metavar="PATTERN", help="never validate on or show; default: %(default)s"
    )
    made.add_argument(
        "--labels", type=Path, metavar="CSV", help="report precision and recall on photographs labelled by eye"
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the script; 0 = done, 1 = a worker died or a download failed, 2 = something for the user to change."""
    arguments = build_parser().parse_intermixed_args(argv)
    try:
        return prepare(arguments)
    except Mistake as mistake:
        print(f"prepare.py: {mistake}", file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print(
            "prepare.py: a worker process was killed, most often for want of memory; expected all to live; "
            "run the same command with --resume and fewer --workers",
            file=sys.stderr,
        )
        return 1
    except RuntimeError as error:
        print(f"prepare.py: {error}", file=sys.stderr)
        return 1


def prepare(arguments: argparse.Namespace) -> int:
    """What `main` does, with mistakes raised."""
    target: Path = arguments.target
    shard, shards = check(arguments)
    partial = target.with_name(target.name + ".partial")
    if target.exists() and not arguments.overwrite:
        if arguments.labels and (target / "data.json").is_file():
            return report_filters(arguments, target)
        raise Mistake(f"{target}: exists already; expected a new folder; name another one or add --overwrite")
    synthetic = arguments.source == "synthetic"
    options = Options(
        arguments.size,
        arguments.seed,
        arguments.source,
        arguments.min_forehead,
        arguments.drop_glasses,
        arguments.train_only,
        str(arguments.hair or ""),
    )
    items = (
        list_synthetic(arguments.limit) if synthetic else list_photos(arguments.photos, arguments.seed, arguments.limit)
    )
    if not synthetic:
        landmark_models.fetch()  # once, before the workers would all do it
    open_partial(partial, items, options, arguments, shard, shards)

    began = time.monotonic()
    own_file = partial / f"rows-{shard}of{shards}.jsonl"
    kept, done = read_rows(own_file)
    todo = [item for number, item in enumerate(items) if number % shards == shard - 1 and item.id not in kept]
    with own_file.open("a", encoding="utf-8") as stream:
        stream.write("\n")  # ends a line that a kill may have cut short

        def keep(row: dict[str, Any]) -> None:
            stream.write(json.dumps(row) + "\n")
            stream.flush()

        run_all(None if synthetic else arguments.photos, partial, todo, options, arguments.workers, keep)
        if not done:
            stream.write(json.dumps({"done": True}) + "\n")
    seconds = time.monotonic() - began

    rows: dict[str, dict[str, Any]] = {}
    waiting = []
    for number in range(1, shards + 1):
        part, done = read_rows(partial / f"rows-{number}of{shards}.jsonl")
        rows |= part
        if not done:
            waiting.append(f"{number}/{shards}")
    if waiting:
        print(f"shard {shard}/{shards} is done; waiting for {', '.join(waiting)}")
        print(
            json.dumps({"target": target.name, "shard": f"{shard}/{shards}", "waiting": waiting, "photos": len(todo)})
        )
        return 0
    return publish(arguments, partial, items, rows, options, len(todo), seconds)


def check(arguments: argparse.Namespace) -> tuple[int, int]:
    """Refuse what cannot be meant; returns the shard's number and how many there are."""
    synthetic = arguments.source == "synthetic"
    if not synthetic and arguments.photos is None:
        raise Mistake("found one folder; expected PHOTOS and TARGET; run `python train/prepare.py PHOTOS TARGET`")
    if synthetic and arguments.photos is not None:
        raise Mistake(
            f"found PHOTOS {str(arguments.photos)!r} with --source synthetic, which needs none; "
            "run `python train/prepare.py TARGET --source synthetic`"
        )
    if arguments.size < 32 or arguments.size % 4:
        raise Mistake(f"found --size {arguments.size}; expected a multiple of 4, at least 32; the paper's is 256")
    for name in ("workers", "limit"):
        number = getattr(arguments, name)
        if number is not None and number < 1:
            raise Mistake(f"found --{name} {number}; expected at least 1")
    if arguments.hair:
        try:
            teacher(str(arguments.hair))
        except ValueError as error:
            raise Mistake(str(error)) from None
    if not 0 <= arguments.glasses_share <= 1:
        raise Mistake(f"found --glasses-share {arguments.glasses_share}; expected a share from 0 to 1, such as 0.15")
    parsed = re.fullmatch(r"(\d+)/(\d+)", arguments.shard)
    if not parsed or not 1 <= int(parsed[1]) <= int(parsed[2]):
        raise Mistake(f"found --shard {arguments.shard}; expected i/n with i from 1 to n, such as 2/8")
    if arguments.resume and arguments.overwrite:
        raise Mistake("found both --resume and --overwrite; expected one: go on, or start anew")
    return int(parsed[1]), int(parsed[2])


def open_partial(
    partial: Path, items: list[Item], options: Options, arguments: argparse.Namespace, shard: int, shards: int
) -> None:
    """Make the partial folder, or check that the one that is there belongs to the same work."""
    listing = hashlib.sha256("\n".join(f"{i.file}\t{i.group}\t{i.split}" for i in items).encode()).hexdigest()
    wanted = vars(options) | {"shards": shards, "glasses_share": arguments.glasses_share, "listing": listing}
    own = partial / f"rows-{shard}of{shards}.jsonl"
    if arguments.overwrite and shard == 1 and partial.exists():
        shutil.rmtree(partial)
    if own.exists() and not arguments.resume:
        raise Mistake(f"{partial}: a run was stopped here; add --resume to go on or --overwrite to start anew")
    for name in ("blanks", "masks", "faces", "thumbnails"):
        (partial / name).mkdir(parents=True, exist_ok=True)
    settings = partial / "options.json"
    fresh = partial / f"options-{os.getpid()}-{shard}.json"
    fresh.write_text(json.dumps(wanted, indent=2), encoding="utf-8")
    try:
        os.link(fresh, settings)  # fails when it exists: only the first of several shards settles it
    except FileExistsError:
        found = json.loads(settings.read_text(encoding="utf-8"))
        changed = [name for name in wanted if found.get(name) != wanted[name]]
        if changed:
            raise Mistake(
                f"{partial}: was begun with other {', '.join(changed)}; expected the same photographs and options; "
                "give those again, or remove the folder"
            ) from None
    finally:
        fresh.unlink()
    if arguments.resume:
        (partial / "finishing").unlink(missing_ok=True)


def publish(
    arguments: argparse.Namespace, partial: Path, items: list[Item], rows: dict[str, dict[str, Any]], options: Options,
    processed: int, seconds: float,
) -> int:  # fmt: skip
    """Build the folder, move it to its place and report."""
    target: Path = arguments.target
    if not any(row["taken"] for row in rows.values()):
        reasons = Counter(row["reason"].split(":")[0] for row in rows.values())
        reason, count = reasons.most_common(1)[0]
        example = next(row for row in rows.values() if row["reason"].startswith(reason))
        shutil.rmtree(partial)
        raise Mistake(
            f"none of {len(rows)} photographs gave a blank face, most often ({count}) because of: {reason} "
            f"(such as {example['file']}: {example['reason'].split(': ', 1)[-1]}); "
            "expected frontal faces with bare foreheads"
        )
    try:
        os.close(os.open(partial / "finishing", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        print(f"another shard is making {target} (or was stopped while making it: then add --resume)")
        print(json.dumps({"target": target.name, "shard": arguments.shard, "waiting": [], "photos": processed}))
        return 0
    name = "synthetic" if options.source == "synthetic" else arguments.photos.resolve().name
    whole = finish(partial, items, rows, options, name, arguments.glasses_share)
    if target.exists():
        shutil.rmtree(target)
    os.rename(whole, target)
    shutil.rmtree(partial)

    card = json.loads((target / "data.json").read_text(encoding="utf-8"))
    reasons = Counter(row["reason"].split(":")[0] for row in rows.values())
    print_table([{"outcome": reason, "photos": count} for reason, count in reasons.most_common()])
    print()
    print_table(acceptance(rows.values()))
    print()
    print_table([{"split": split, **numbers} for split, numbers in card["n"].items()])
    for split in SPLITS:
        if not card["n"][split]["blanks"]:
            print(f"prepare.py: no blank face in {split!r}: add photographs of more people", file=sys.stderr)
    report = {
        "target": target.name, "source": options.source, "photos": len(rows), "n": card["n"], "sha256": card["sha256"],
        "eval_sha256": card["eval_sha256"], "seconds": round(seconds, 1),
        "photos_per_second": round(processed / max(seconds, 1e-9), 1), "acceptance": acceptance(rows.values()),
        "reasons": dict(reasons.most_common()),
    }  # fmt: skip
    if arguments.labels:
        report["filters"] = filters(arguments.labels, target)
    print(json.dumps(report))
    return 0


def report_filters(arguments: argparse.Namespace, target: Path) -> int:
    """`--labels` on a folder that exists: only measure."""
    print(json.dumps({"target": target.name, "filters": filters(arguments.labels, target)}))
    return 0


def filters(labels: Path, target: Path) -> list[dict[str, Any]]:
    """Measure, print and write filters.json."""
    figures = measure_filters(target, labels)
    print_table(figures)
    (target / "filters.json").write_text(
        json.dumps({"labels": labels.name, "rows": figures}, indent=2) + "\n", encoding="utf-8"
    )
    return figures


if __name__ == "__main__":
    sys.exit(main())

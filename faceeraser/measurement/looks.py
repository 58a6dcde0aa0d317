"""Figures without a truth: how like a person's own bare skin is what was painted into a whole photograph.

    figures = looks.looks(before, after, face.mesh, looks.scale_of(face.mesh))

`before` and `after` are the same photograph, uint8 (H, W, 3) RGB, untouched and erased, at its own resolution; the hole is
where the two differ, so no figure depends on how a mask was made. Lengths are in 72nds of the eye distance ("units"), so
that faces of any size are measured alike. Own skin is what inside the face's oval, 8 units off the hole, has the colour of
this person's skin (robust median and deviation of CIE Lab). What each figure sees and what it does not: docs/figures.md.

============ ======= ===============================================================================================
figure       ideal   definition
============ ======= ===============================================================================================
cover        1       share of the parts' polygons (brows, eyes, nose, lips) that changed
area         small   the hole over the face's oval
grain        0       coherence of the structure tensor of the hole's detail, less that of own skin: streaks are above 0
texture      1       robust deviation of the detail (luma less its blur of 2 units) in the hole over that of own skin
spectrum     0       largest distance, in octaves of energy, of one of three bands (0.7-1.4-2.8-5.6 units) from their mean,
                     against own skin: white noise and blur are far from 0
outliers     0       share of the hole whose detail is beyond 5 deviations of own skin's, less the same of own skin
bleed        0       share of the hole whose colour is beyond 3 deviations of own skin's: hair or background smeared in
step         <= 1    Lab distance across the hole's border (median along it) over that across the same border 12 units
                     further out on the untouched photograph
crease       1       robust deviation of the detail in the 7 units outside the hole over that of own skin
repeat       own     highest autocorrelation of the hole's detail at shifts beyond a cell of 18 units
repeat_own           the same of own skin
============ ======= ===============================================================================================

A figure that cannot be taken (no border beside skin, say) is NaN. The scale-free step, crease and structure tensor are old
tools; the structure tensor's coherence is Förstner's and Gülch's (1987), masked autocorrelation by FFT Padfield's (2012).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from faceeraser.face.mesh import OVAL, Face
from faceeraser.face.parts import POLYGONS
from faceeraser.measurement.metrics import luma, tone
from faceeraser.measurement.patches import COLOUR_REACH, EYE_DISTANCE, skin_colour

SKIN_FIGURES = (
    "grain",
    "texture",
    "spectrum",
    "outliers",
    "bleed",
    "step",
    "crease",
    "repeat",
    "repeat_own",
    "cover",
    "area",
)
CELL = 18.0  # units: two places nearer than this look alike because they are near, not because one was copied
_MARGIN = 40  # units around the oval that are looked at: the farthest that a blur or a border reaches
_LEAST_SKIN = 300  # square units of own skin, and of hole, below which nothing is measured
_OVERLAP = 1 / 3  # of a region: what of it a shift must leave over itself for its correlation to count


def scale_of(mesh: np.ndarray) -> float:
    """Pixels to a unit (a 72nd of the eye distance) of a face whose mesh, (468, 2), is in the photograph's pixels."""
    return Face(np.asarray(mesh, np.float32)).eye_distance / EYE_DISTANCE


# --- own skin and hole ----------------------------------------------------------------------------------------------


def _disc(units: float, scale: float) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(1, round((units - 1) * scale / 2)) + 1,) * 2)


def _grown(region: np.ndarray, units: float, scale: float) -> np.ndarray:
    return cv2.dilate(region.astype(np.uint8), _disc(units, scale)) > 0


def _shrunk(region: np.ndarray, units: float, scale: float) -> np.ndarray:
    return cv2.erode(region.astype(np.uint8), _disc(units, scale)) > 0


def _lab(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)


@dataclass(eq=False)
class Scene:
    """A face before and after, cut to its surroundings, and which of its pixels are what.

    Attributes:
        before: (h, w, 3) float32 RGB in [0, 1], the untouched photograph.
        after: the same, erased.
        mesh: (468, 2), in these pixels.
        scale: pixels to a unit.
        oval: (h, w) bool, the face's.
        mask: (h, w) bool, where the two pictures differ, less specks.
        skin: (h, w) bool, own skin: bare, well inside the oval and off the hole.
        hole: (h, w) bool, the mask inside the oval, less its rim.
        middle: (3,) Lab of this person's skin.
        spread: (3,) its deviation.
    """

    before: np.ndarray
    after: np.ndarray
    mesh: np.ndarray
    scale: float
    oval: np.ndarray
    mask: np.ndarray
    skin: np.ndarray
    hole: np.ndarray
    middle: np.ndarray
    spread: np.ndarray

    def blur(self, picture: np.ndarray, units: float) -> np.ndarray:
        """A Gaussian blur whose sigma is given in units."""
        return cv2.GaussianBlur(picture, (0, 0), units * self.scale)

    def strangeness(self, picture: np.ndarray) -> np.ndarray:
        """(h, w) squared distance of a picture's colours from this person's skin; 4 is still skin, 9 no longer."""
        return (((self.blur(_lab(picture), 1.5) - self.middle) / (self.spread * COLOUR_REACH)) ** 2).sum(-1)

    def detail(self, picture: np.ndarray) -> np.ndarray:
        """(h, w) luma less its blur of 2 units: pores and what is as fine."""
        grey = luma(picture)
        return grey - self.blur(grey, 2)

    @cached_property
    def strange_before(self) -> np.ndarray:
        """`strangeness` of the untouched picture."""
        return self.strangeness(self.before)

    @cached_property
    def inner(self) -> np.ndarray:
        """(h, w) bool, the oval less its rim."""
        return _shrunk(self.oval, 13, self.scale)

    @cached_property
    def deviation(self) -> float:
        """Robust standard deviation of own skin's detail, in [0, 1]."""
        return _robust(self.detail(self.before)[self.skin])

    @property
    def ita(self) -> float:
        """The individual typology angle of this person's skin, in degrees (see metrics.SKIN_TONES)."""
        return math.degrees(math.atan2(self.middle[0] - 50, self.middle[2]))


def corner_of(mesh: np.ndarray, scale: float) -> np.ndarray:
    """Where in the photograph a scene's upper left pixel is: x, y."""
    outline = np.asarray(mesh, np.float32)[OVAL]
    corner: np.ndarray = np.maximum(np.floor(outline.min(0) - _MARGIN * scale), 0).astype(int)
    return corner


def _robust(values: np.ndarray) -> float:
    return float(np.median(np.abs(values)) * 1.4826 + 1e-4)


def scene_of(before: np.ndarray, after: np.ndarray, mesh: np.ndarray, scale: float) -> Scene | None:
    """What `looks` measures on; None where there is too little of own skin, or too small a hole.

    Raises:
        ValueError: the two pictures differ in shape or are not uint8 RGB.
    """
    if before.shape != after.shape or before.ndim != 3 or before.dtype != np.uint8 or after.dtype != np.uint8:
        raise ValueError(
            f"found {before.dtype} {before.shape} before and {after.dtype} {after.shape} after; expected uint8 RGB "
            "pictures of one shape: the same photograph, untouched and erased"
        )
    outline, low = np.asarray(mesh, np.float32)[OVAL], corner_of(mesh, scale)
    high = np.ceil(outline.max(0) + _MARGIN * scale).astype(int) + 1
    there = (slice(low[1], max(low[1] + 1, high[1])), slice(low[0], max(low[0] + 1, high[0])))
    before, after, mesh = before[there], after[there], np.asarray(mesh, np.float32) - low.astype(np.float32)
    changed = (before != after).any(-1).astype(np.uint8)
    closed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, _disc(11, scale))
    mask = cv2.morphologyEx(closed, cv2.MORPH_OPEN, _disc(5, scale)) > 0
    if mask.sum() < 0.02 * (256 * scale) ** 2:
        return None
    oval = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(oval, [np.round(mesh[OVAL]).astype(np.int32)], 1)
    inner = _shrunk(oval, 13, scale)
    first = before.astype(np.float32) / 255
    bare = inner & ~mask
    if not bare.any():
        return None
    middle, spread = skin_colour(_lab(first)[bare])
    second, hole, none = after.astype(np.float32) / 255, _shrunk(mask & inner, 9, scale), np.zeros_like(mask)
    scene = Scene(first, second, mesh, scale, oval > 0, mask, none, hole, middle, spread)
    skin = _shrunk((scene.strange_before < 4) & inner & ~_grown(mask, 17, scale), 5, scale)
    if min(skin.sum(), scene.hole.sum()) < _LEAST_SKIN * scale**2:
        return None
    scene.skin = skin
    return scene


# --- figures of one photograph --------------------------------------------------------------------------------------


def looks(before: np.ndarray, after: np.ndarray, mesh: np.ndarray, scale: float) -> dict[str, float] | None:
    """Every figure of the table at the top of this module for one erased face, SKIN_FIGURES in all.

    Args:
        before: (H, W, 3) uint8 RGB, the untouched photograph.
        after: the same, with one face erased.
        mesh: (468, 2), that face's, in the photograph's pixels.
        scale: pixels to a unit, from `scale_of`.

    Returns:
        The figures by name, or None where there is too little own skin to compare with or too small a hole.

    Raises:
        ValueError: the two pictures differ in shape or are not uint8 RGB.
    """
    scene = scene_of(before, after, mesh, scale)
    return None if scene is None else figures_of(scene)


def figures_of(scene: Scene) -> dict[str, float]:
    """The figures of a scene."""
    parts = np.zeros(scene.mask.shape, np.uint8)
    for polygon in (polygon for polygons in POLYGONS.values() for polygon in polygons):
        cv2.fillPoly(parts, [cv2.convexHull(np.round(scene.mesh[polygon]).astype(np.int32))], 1)
    ring = _grown(scene.mask, 15, scene.scale) & ~scene.mask & scene.inner & (scene.strange_before < 9)
    before = scene.detail(scene.before)
    crease = float(np.median(np.abs(before[ring])) * 1.4826 / scene.deviation) if ring.any() else math.nan
    moved = _grown(scene.mask, 25, scene.scale)
    return {
        **_against(scene, scene.after, scene.hole),
        "bleed": float((scene.strangeness(scene.after)[scene.mask & scene.inner] > 9).mean()),
        "step": _step(scene, scene.after, scene.mask) / max(_step(scene, scene.before, moved), 0.3),
        "crease": crease,
        "repeat": repeat(scene.detail(scene.after), scene.hole, CELL * scene.scale),
        "repeat_own": repeat(before, scene.skin, CELL * scene.scale),
        "cover": float(scene.mask[parts > 0].mean()) if parts.any() else math.nan,
        "area": float(scene.mask.sum() / scene.oval.sum()),
    }


def own_halves(scene: Scene) -> dict[str, float] | None:
    """What nature allows: own skin left of the face's middle as if it were the hole, against own skin right of it.

    Gives grain, texture, spectrum, outliers and bleed; None where one side has too little skin.
    """
    columns = np.arange(scene.skin.shape[1])
    left = scene.skin & (columns < scene.mesh[OVAL, 0].mean())
    right = scene.skin & ~left
    if min(left.sum(), right.sum()) < _LEAST_SKIN / 2 * scene.scale**2:
        return None
    half = replace(scene, skin=right, hole=left)
    strange = float((scene.strange_before[left] > 9).mean())
    return {**_against(half, scene.before, left), "bleed": strange}


def _against(scene: Scene, picture: np.ndarray, where: np.ndarray) -> dict[str, float]:
    """grain, texture, spectrum and outliers of a region of `picture` against own skin of the untouched one."""
    there, own, limit = scene.detail(picture)[where], scene.detail(scene.before)[scene.skin], 5 * scene.deviation
    ratio = _bands(scene, picture, where) - _bands(scene, scene.before, scene.skin)
    return {
        "grain": _coherence(scene, picture, where) - _coherence(scene, scene.before, scene.skin),
        "texture": float(np.median(np.abs(there)) * 1.4826 / scene.deviation),
        "spectrum": float(np.abs(ratio - ratio.mean()).max()),
        "outliers": float((np.abs(there) > limit).mean() - (np.abs(own) > limit).mean()),
    }


def _coherence(scene: Scene, picture: np.ndarray, where: np.ndarray) -> float:
    """How much the detail of a region runs in one direction, in [0, 1], weighted by its gradients' energy."""
    grey = luma(picture)
    limit = 4 * scene.deviation  # a single hair is an outlier, not grain
    fine = np.clip(grey - scene.blur(grey, 3), -limit, limit)
    if scene.scale > 1:
        fine = scene.blur(fine, 0.7)
    across, down = cv2.Sobel(fine, cv2.CV_32F, 1, 0, ksize=3), cv2.Sobel(fine, cv2.CV_32F, 0, 1, ksize=3)
    xx, xy, yy = (scene.blur(product, 3) for product in (across * across, across * down, down * down))
    energy = xx + yy + 1e-9
    return float((((xx - yy) ** 2 + 4 * xy * xy) / energy)[where].sum() / energy[where].sum())


def _bands(scene: Scene, picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Energy of three bands an octave wide in a region, as logarithms to the base of 2, (3,)."""
    grey = luma(picture)
    blurred = [scene.blur(grey, sigma) for sigma in (0.7, 1.4, 2.8, 5.6)]
    return np.log2([np.median(np.abs(a - b)[where]) ** 2 + 1e-9 for a, b in pairwise(blurred)])


def _step(scene: Scene, picture: np.ndarray, mask: np.ndarray) -> float:
    """Lab distance between the two sides of a mask's border where skin is outside, median along it; NaN without any."""
    skin, own = scene.strange_before < 4, picture is scene.before
    inside = mask & ~_shrunk(mask, 7, scene.scale)
    if own:
        inside &= skin
    outside = _grown(mask, 7, scene.scale) & ~mask & skin
    if outside.sum() <= 20 * scene.scale**2:
        return math.nan
    lab = _lab(picture)

    def mean(side: np.ndarray) -> np.ndarray:
        weight = side.astype(np.float32)
        return scene.blur(lab * weight[..., None], 3) / (scene.blur(weight, 3)[..., None] + 1e-3)

    return float(np.median(np.linalg.norm(mean(inside) - mean(outside), axis=-1)[outside]))


def repeat(detail: np.ndarray, region: np.ndarray, beyond: float) -> float:
    """The highest autocorrelation of a region's detail at shifts of at least `beyond` pixels, in [-1, 1].

    Normalized for each shift by what of the region lies over itself (Padfield 2012); shifts that leave less than a third of
    it there do not count. The detail is clipped at 4 robust deviations, so that two marks alone do not make it. NaN where no
    shift is left.

    Args:
        detail: (h, w) float.
        region: (h, w) bool.
        beyond: pixels.
    """
    rows, columns = np.nonzero(region)
    if not rows.size:
        return math.nan
    box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    inside, fine = region[box], detail[box]
    limit = 4 * _robust(fine[inside])
    fine = np.clip(fine, -limit, limit)
    fine = np.where(inside, fine - fine[inside].mean(), 0).astype(np.float32)
    size = [cv2.getOptimalDFTSize(2 * n) for n in inside.shape]
    spectra = [np.fft.rfft2(part, size) for part in (inside.astype(np.float32), fine, fine * fine)]
    area, products, energy = (
        np.fft.irfft2(a.conj() * b, size)
        for a, b in ((spectra[0], spectra[0]), (spectra[1], spectra[1]), (spectra[0], spectra[2]))
    )
    shifts = [np.fft.fftfreq(n, 1 / n) for n in size]
    far = np.hypot(shifts[0][:, None], shifts[1][None]) >= beyond
    far &= area >= max(_OVERLAP * inside.sum(), 1)
    if not far.any():
        return math.nan
    back = np.roll(energy[::-1, ::-1], (1, 1), (0, 1))  # the energy of the other copy: the opposite shift's
    root = np.sqrt(np.maximum(energy * back, 1e-20))
    return float((products / root)[far].max())


# --- patches, for a network that judges ------------------------------------------------------------------------------


def squares(picture: np.ndarray, region: np.ndarray, side: int, most: int) -> np.ndarray:
    """Up to `most` squares of a picture, (n, side, side, 3) of its type, that lie wholly in a region and not on one another.

    Spread evenly over all that fit on the first grid, always the same ones.
    """
    whole = cv2.erode(np.pad(region.astype(np.uint8), 1), np.ones((side, side), np.uint8), anchor=(0, 0))[1:-1, 1:-1]
    whole[max(0, whole.shape[0] - side + 1) :] = 0
    whole[:, max(0, whole.shape[1] - side + 1) :] = 0
    corners: list[tuple[int, int]] = []
    free = whole > 0
    while free.any():
        row, column = (int(n) for n in np.unravel_index(int(free.argmax()), free.shape))
        corners.append((row, column))
        free[max(0, row - side + 1) : row + side, max(0, column - side + 1) : column + side] = False
    if not corners:
        return np.zeros((0, side, side, 3), picture.dtype)
    chosen = np.linspace(0, len(corners) - 1, min(most, len(corners))).round().astype(int)
    return np.stack([picture[r : r + side, c : c + side] for r, c in (corners[k] for k in chosen)])


# --- tables ---------------------------------------------------------------------------------------------------------

SIZES = (("under 200 px", 0.0), ("200 to 400 px", 200.0), ("above 400 px", 400.0))
"""Classes of size by the longer side of the box around the face's oval, in pixels of the photograph, from what on."""
FEWEST = 20  # people: tan, brown and dark are one group where one of them has fewer


def size_class(width: float) -> str:
    """The class of a face's size, of SIZES."""
    return [name for name, least in SIZES if width >= least][-1]


def groups(widths: Sequence[float], angles: Sequence[float]) -> dict[str, np.ndarray]:
    """Which faces belong to which group, (n,) bool each: classes of size, then skin tones, those with somebody in them.

    Tan, brown and dark are one group where any of them has fewer than 20.

    Args:
        widths: of each face, see SIZES.
        angles: individual typology angles in degrees.
    """
    sizes = np.array([size_class(width) for width in widths])
    tones = np.array([tone(angle) for angle in angles])
    darker = ("tan", "brown", "dark")
    if any(np.sum(tones == name) < FEWEST for name in darker):
        tones = np.where(np.isin(tones, darker), "tan, brown and dark", tones)
    members = {name: sizes == name for name, _ in SIZES}
    for name in ("very light", "light", "intermediate", *darker, "tan, brown and dark"):
        members[name] = tones == name
    return {name: chosen for name, chosen in members.items() if chosen.any()}


def summary(values: Sequence[float], draws: int = 2000) -> dict[str, Any] | None:
    """median, p90, low and high (a 95 % bootstrap interval of the median over photographs) and n; None without any number.

    Rounded to five places. NaNs are left out. With fewer than two numbers there is no interval (None).
    """
    there = np.asarray(values, np.float64)
    there = there[~np.isnan(there)]
    if not there.size:
        return None
    drawn = np.random.default_rng(0).integers(there.size, size=(draws, there.size))
    low, high = np.percentile(np.median(there[drawn], axis=1), [2.5, 97.5]) if there.size > 1 else (None, None)
    row = {"median": np.median(there), "p90": np.percentile(there, 90), "low": low, "high": high}
    return {name: None if value is None else round(float(value), 5) for name, value in row.items()} | {"n": int(there.size)}


def row_of(figures: Sequence[Mapping[str, float]], members: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`summary` of every figure over all photographs, and `groups`: the same of each group.

    Args:
        figures: a mapping for each photograph, all with the same names.
        members: from `groups`, over the same photographs.
    """

    def summaries(chosen: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        return {name: summary([face[name] for face in chosen]) for name in chosen[0]} if chosen else {}

    by_group = {
        name: {
            "n": int(chosen.sum()),
            **summaries([face for face, keep in zip(figures, chosen, strict=True) if keep]),
        }
        for name, chosen in members.items()
    }
    return {"n": len(figures), **summaries(figures), "groups": by_group}

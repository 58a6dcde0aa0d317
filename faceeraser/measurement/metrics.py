"""Every figure a result row carries, the pairs it is taken on, and the classical fills that stand beside it.

Pictures are uint8 (H, W, 3) RGB, masks uint8 (H, W) with 1 = erase. A *method* is anything that can be called as
``method(image, mask) -> erased``, uint8 (H, W, 3). It never sees the answer: `score` empties the hole before the call,
so a method that peeks gains nothing.

A row (`score(...).row`) is flat. It holds ``x`` and ``x_std`` of every figure ``x``, over the pictures where it exists:

==================== ======= ========= ===========================================================================
field                unit    statistic taken on
==================== ======= ========= ===========================================================================
psnr_hole            dB      mean      the composite, inside the mask M
psnr_hole_mirrored   dB      mean      the composite, inside M' = max(M, M flipped top to bottom)
psnr_hole_smooth     dB      mean      the same, both pictures blurred first (sigma 3): colour and shading
ssim_hole, mae_hole  1       mean      the composite, inside M'
psnr, ssim, mae      dB,1,1  mean      the whole picture as the method painted it, plain mask (the paper's)
psnr_vs_fp32         dB      mean      as psnr_hole_mirrored, the fp32 row's output as the truth (only if given)
texture_energy       ratio   median    fine detail of luma inside M' against the truth's; 1 = as much
texture_swd          level   median    distance of its 7x7 patches from the truth's, in 8-bit levels; 0 = alike
texture_swd_centred  level   median    the same, each patch less its own mean: detail alone
n, texture_n         1       count     pictures; pictures whose forehead had at least 128 source pixels
==================== ======= ========= ===========================================================================

``x_std`` is the population standard deviation (divided by n). A figure that exists on no picture is None. Identical
pictures have an infinite PSNR; in a row each picture counts with at most `PSNR_CAP` dB, so that a mean stays a number.

Why M': a blank face is its own mirror image, so a network could copy the answer from the other half. M' hides both.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from faceeraser.artifacts.painting import LUMA
from faceeraser.measurement import patches

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]
Row = dict[str, Any]

HOLE_FIGURES = ("psnr_hole_mirrored", "psnr_hole_smooth", "texture_energy")
"""The three figures that are always given together: PSNR alone cannot tell a face from a smear."""

PSNR_CAP = 100.0
TEXTURE_MIN_FOREHEAD_PX = 128  # below this a 256 px blank face was enlarged: its skin is interpolation, not texture
_LUMA = np.array(LUMA, np.float32)
_PATCH = 7
_PROJECTIONS = 128
_MAX_PATCHES = 4096  # per picture and scale, evenly spread: the sorted distances move by under 1 % beyond it


class Pair(Protocol):
    """One picture of an evaluation list, such as `faceeraser.pairs.evaluation_pairs` reads."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def truth(self) -> np.ndarray:
        """The blank face, uint8 (H, W, 3)."""

    @property
    def mask(self) -> np.ndarray:
        """What to erase, uint8 (H, W), 1 = erase."""

    @property
    def forehead_px(self) -> float:
        """How wide the forehead was in the photograph, in its pixels; NaN where nobody knows."""


class Score(NamedTuple):
    """What `score` returns, per picture in the pairs' order.

    row: the figures over all pictures. painted: each picture's composite under M', uint8 (H, W, 3). figures: each
    figure's values, NaN where it does not exist.
    """

    row: Row
    painted: list[np.ndarray]
    figures: dict[str, list[float]]


# --- pictures -------------------------------------------------------------------------------------------------------


def mirrored(mask: np.ndarray) -> np.ndarray:
    """M' = max(M, M flipped top to bottom), of the mask's shape (H, W) and dtype."""
    return np.maximum(mask, mask[::-1])


def composite(image: np.ndarray, painted: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`painted` where mask is 1, `image` elsewhere; all (H, W, 3) uint8, mask (H, W)."""
    return np.where(mask[..., None] > 0, painted, image)


def luma(image: np.ndarray) -> np.ndarray:
    """Rec. 601 luma, float32 (H, W), in the picture's own units."""
    return image.astype(np.float32) @ _LUMA


def lab_of(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (L in 0..100) of uint8 RGB, float32."""
    return cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _detail(y: np.ndarray) -> np.ndarray:
    """What is finer than a Gaussian of sigma 2: where texture is looked for."""
    return y - _blur(y, 2, 8)


def _blur(picture: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    size = 2 * radius + 1
    return cv2.GaussianBlur(picture.astype(np.float32), (size, size), sigma, borderType=cv2.BORDER_REPLICATE)


def _region(shape: Sequence[int], region: np.ndarray | None) -> np.ndarray:
    if region is None:
        return np.ones(shape[:2], bool)
    if region.shape != tuple(shape[:2]):
        raise ValueError(f"the region is {region.shape}, the pictures are {tuple(shape[:2])}: they must be of one size")
    inside = region > 0
    if not inside.any():
        raise ValueError("the hole is empty: no pixel of the mask is 1, so there is nothing to take a figure on")
    return inside


def _same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"cannot compare a picture of shape {a.shape} with one of {b.shape}")


# --- figures of one picture -----------------------------------------------------------------------------------------


def _psnr(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> float:
    error = np.mean((a[inside].astype(np.float64) - b[inside].astype(np.float64)) ** 2) / 255.0**2
    return math.inf if error == 0 else float(-10 * np.log10(error))


def psnr(a: np.ndarray, b: np.ndarray, region: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two 8-bit pictures (H, W, 3), over the pixels where `region` (H, W) > 0.

    Infinite for identical pictures. Raises ValueError when shapes differ or the region is empty.
    """
    _same_shape(a, b)
    return _psnr(a, b, _region(a.shape, region))


def psnr_smooth(a: np.ndarray, b: np.ndarray, region: np.ndarray | None = None) -> float:
    """`psnr` of both pictures blurred first (Gaussian, sigma 3, radius 12, replicated border): colour and shading."""
    _same_shape(a, b)
    return _psnr(_blur(a, 3, 12), _blur(b, 3, 12), _region(a.shape, region))


def mae(a: np.ndarray, b: np.ndarray, region: np.ndarray | None = None) -> float:
    """Mean absolute error in [0, 1] of two 8-bit pictures (H, W, 3) over `region`. Raises as `psnr`."""
    _same_shape(a, b)
    inside = _region(a.shape, region)
    return float(np.mean(np.abs(a[inside].astype(np.float64) - b[inside].astype(np.float64))) / 255.0)


def ssim(a: np.ndarray, b: np.ndarray, region: np.ndarray | None = None) -> float:
    """Structural similarity (Wang et al. 2004: Gaussian window, sigma 1.5, radius 5), mean over channels, at most 1.

    Over the whole picture (less a rim of 5 px, where windows would be cut) or over `region`. Raises as `psnr`.
    """
    _same_shape(a, b)
    x, y = a.astype(np.float64), b.astype(np.float64)

    def window(p: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(p, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)

    mean_x, mean_y = window(x), window(y)
    var_x, var_y = window(x * x) - mean_x**2, window(y * y) - mean_y**2
    covariance = window(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    if region is None:
        return float(similarity[5:-5, 5:-5].mean())
    return float(similarity[_region(a.shape, region)].mean())


def texture_energy(erased: np.ndarray, truth: np.ndarray, region: np.ndarray) -> float:
    """Energy of luma minus its Gaussian blur (sigma 2), mean over `region` eroded by 3 px, over the truth's: a ratio.

    NaN when the region is too thin to erode or the truth there is perfectly flat. Raises as `psnr`.
    """
    _same_shape(erased, truth)
    inside = _shrink(_region(truth.shape, region))

    def energy(picture: np.ndarray) -> float:
        return float(np.mean(_detail(luma(picture))[inside].astype(np.float64) ** 2))

    if not inside.any() or (reference := energy(truth)) < 1e-6:  # float rounding alone makes 1e-9 of a flat picture
        return math.nan
    return energy(erased) / reference


def _shrink(inside: np.ndarray) -> np.ndarray:
    """`inside` eroded by 3 px: the pixels whose whole 7x7 neighbourhood lies inside it and inside the picture."""
    size = np.ones((_PATCH, _PATCH), np.uint8)
    return cv2.erode(inside.astype(np.uint8), size, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


def _directions() -> np.ndarray:
    """128 unit vectors in the space of 7x7 patches, (128, 49), always the same."""
    vectors = np.random.default_rng(20240601).standard_normal((_PROJECTIONS, _PATCH * _PATCH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def texture_swd(erased: np.ndarray, truth: np.ndarray, region: np.ndarray, centred: bool = False) -> float:
    """Sliced Wasserstein distance between the 7x7 luma patches inside `region` and the truth's there, in 8-bit levels.

    The mean over full and half scale, each the mean over 128 fixed projections of the Wasserstein-1 distance. White
    noise of the right energy comes near at full scale and not at half. NaN when no patch fits. Raises as `psnr`.

    `centred`: each patch less its own mean. As it stands the distance weighs shading most (measured on 40 photographed
    faces, Navier-Stokes 2.28, plus white noise 2.17, plus the truth's own detail moved aside 2.07); centred, it is
    detail alone (1.08, 0.44, 0.21), so it is the one to tell right texture from noise by.
    """
    _same_shape(erased, truth)
    inside = _region(truth.shape, region)
    directions = _directions()
    if centred:  # projecting patches less their means is projecting patches on directions less their means
        directions = directions - directions.mean(axis=1, keepdims=True)
    height, width = truth.shape[:2]
    distances = []
    for shrink in (1, 2):
        a, b, keep = luma(erased), luma(truth), inside.astype(np.float32)
        if shrink > 1:
            if min(height, width) < shrink:
                continue
            size = (width // shrink, height // shrink)
            a, b, keep = (cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in (a, b, keep))
        rows, columns = np.nonzero(_shrink(keep > 0.999))
        if not rows.size:
            continue
        pick = np.linspace(0, rows.size - 1, min(rows.size, _MAX_PATCHES)).round().astype(int)
        sides = []
        for picture in (a, b):
            windows = np.lib.stride_tricks.sliding_window_view(picture, (_PATCH, _PATCH))
            patches = windows[rows[pick] - _PATCH // 2, columns[pick] - _PATCH // 2].reshape(len(pick), -1)
            sides.append(np.sort(directions @ patches.T, axis=1))
        distances.append(float(np.abs(sides[0] - sides[1]).mean(dtype=np.float64)))
    return float(np.mean(distances)) if distances else math.nan


# --- classical fills ------------------------------------------------------------------------------------------------


def fill_mean(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The hole in the mean colour of the pixels that are left; middle grey when none is."""
    kept = mask == 0
    colour = np.rint(image[kept].mean(axis=0)) if kept.any() else np.full(3, 128)
    return composite(image, np.broadcast_to(colour.astype(np.uint8), image.shape), mask)


def fill_telea(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Telea's fast marching fill (2004), OpenCV's, radius 5."""
    return cv2.inpaint(np.ascontiguousarray(image), np.ascontiguousarray(mask, np.uint8), 5, cv2.INPAINT_TELEA)


def fill_navier_stokes(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The Navier-Stokes fill (Bertalmio et al. 2001), OpenCV's, radius 5: what a network has to beat."""
    return cv2.inpaint(np.ascontiguousarray(image), np.ascontiguousarray(mask, np.uint8), 5, cv2.INPAINT_NS)


def with_noise(method: Method) -> Method:
    """The method with white noise added in the hole, as much as makes its fine detail that of the visible skin.

    A control for texture: it has the right `texture_energy` and is not texture. Always the same noise.
    """

    def noisy(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        painted = method(image, mask)
        hole, seen = _shrink(mask > 0), _shrink(mask == 0)
        if not seen.any() or not hole.any():
            return painted
        there = _detail(np.random.default_rng(0).standard_normal(hole.shape).astype(np.float32))
        own = _detail(luma(painted)) ** 2
        lacking = np.mean(own[seen]) - np.mean(own[hole])
        noise = there * math.sqrt(max(0.0, float(lacking)) / float(np.mean(there[hole] ** 2)))
        return composite(painted, np.clip(np.rint(painted + noise[..., None]), 0, 255).astype(np.uint8), mask)

    return noisy


CLASSICAL: Mapping[str, Method] = {
    "mean": fill_mean,
    "telea": fill_telea,
    "navier_stokes": fill_navier_stokes,
    "skin_patches": patches.fill,
}


# --- groups ---------------------------------------------------------------------------------------------------------

SKIN_TONES = (("very light", 55), ("light", 41), ("intermediate", 28), ("tan", 10), ("brown", -30), ("dark", -91))
"""Skin tones by their least individual typology angle in degrees (Chardon et al. 1991; Del Bino et al. 2006)."""


def typology_angle(lab: np.ndarray) -> float:
    """Individual typology angle of a colour in CIE L*a*b*, in degrees: atan((L* - 50) / b*); the lighter the larger."""
    return math.degrees(math.atan2(float(lab[0]) - 50, max(float(lab[2]), 1e-3)))


def tone(ita: float) -> str:
    """The name of a skin tone by its individual typology angle in degrees."""
    return next(name for name, low in SKIN_TONES if ita > low)


def by_tone(gain: Sequence[float], ita: Sequence[float], draws: int = 2000) -> list[Row]:
    """Mean of `gain` for each skin tone and for all: name, n, gain, low, high; the last two a 95 % bootstrap interval.

    A tone with fewer than two pictures has no interval (None), and says nothing. Pictures whose angle nobody knows (NaN)
    count in `all` only.
    """
    values, rng = np.asarray(gain, np.float64), np.random.default_rng(0)
    names = np.array(["" if math.isnan(angle) else tone(angle) for angle in ita])
    rows = []
    for name, chosen in [("all", np.ones(len(values), bool)), *((n, names == n) for n, _ in SKIN_TONES)]:
        group = values[chosen]
        if not group.size:
            continue
        means = group[rng.integers(group.size, size=(draws, group.size))].mean(1) if group.size > 1 else None
        low, high = (None, None) if means is None else map(float, np.percentile(means, [2.5, 97.5]))
        rows.append({"name": name, "n": int(group.size), "gain": float(group.mean()), "low": low, "high": high})
    return rows


# --- rows -----------------------------------------------------------------------------------------------------------


def _paint(method: Method, pair: Pair, mask: np.ndarray) -> np.ndarray:
    """The method's picture, uint8 (H, W, 3), from the pair's truth with the hole emptied."""
    painted = method(pair.truth * (mask == 0)[..., None].astype(np.uint8), mask)
    if painted.shape != pair.truth.shape or painted.dtype != np.uint8:
        raise ValueError(
            f"{pair.name}: the method returned {painted.dtype} {painted.shape}, expected uint8 {pair.truth.shape}"
        )
    return painted


def score(
    method: Method,
    pairs: Sequence[Pair],
    fp32: Sequence[np.ndarray] | None = None,
    progress: Callable[[Sequence[Pair]], Iterable[Pair]] = iter,
) -> Score:
    """All figures of a method on a list of pairs: the row described at the top of this module, and its pictures.

    `fp32`: the `painted` of the fp32 row on the same pairs, for psnr_vs_fp32. `progress` wraps the pairs (tqdm).
    Raises ValueError when there are no pairs, a mask is empty, or the method returns something that is no picture.
    """
    if not pairs:
        raise ValueError("no pairs to measure on")
    if fp32 is not None and len(fp32) != len(pairs):
        raise ValueError(f"{len(fp32)} fp32 pictures for {len(pairs)} pairs: take both on the same list")
    figures: dict[str, list[float]] = {}
    kept: list[np.ndarray] = []

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(min(value, PSNR_CAP) if name.startswith("psnr") else value)

    for index, pair in enumerate(progress(pairs)):
        truth, plain = pair.truth, (pair.mask > 0).astype(np.uint8)
        if not plain.any():
            raise ValueError(f"{pair.name}: its mask is empty (no pixel is 1), so there is no hole to measure")
        painted = _paint(method, pair, plain)
        note("psnr_hole", psnr(painted, truth, plain))
        note("psnr", psnr(painted, truth))
        note("ssim", ssim(painted, truth))
        note("mae", mae(painted, truth))
        hidden = mirrored(plain)
        erased = composite(truth, _paint(method, pair, hidden), hidden)
        kept.append(erased)
        note("psnr_hole_mirrored", psnr(erased, truth, hidden))
        note("psnr_hole_smooth", psnr_smooth(erased, truth, hidden))
        note("ssim_hole", ssim(erased, truth, hidden))
        note("mae_hole", mae(erased, truth, hidden))
        if fp32 is not None:
            note("psnr_vs_fp32", psnr(erased, fp32[index], hidden))
        textured = pair.forehead_px >= TEXTURE_MIN_FOREHEAD_PX
        note("texture_energy", texture_energy(erased, truth, hidden) if textured else math.nan)
        note("texture_swd", texture_swd(erased, truth, hidden) if textured else math.nan)
        note("texture_swd_centred", texture_swd(erased, truth, hidden, centred=True) if textured else math.nan)

    row: Row = {"n": len(pairs), "texture_n": int(np.sum(~np.isnan(figures["texture_swd"])))}
    for name, values in figures.items():
        there = np.array([v for v in values if not math.isnan(v)])
        middle = np.median if name.startswith("texture") else np.mean
        row[name] = float(middle(there)) if there.size else None
        row[f"{name}_std"] = float(there.std()) if there.size else None
    return Score(row, kept, figures)


_CLASSICAL_SCORES: dict[str, dict[str, Score]] = {}


def classical_scores(pairs: Sequence[Pair], progress: Callable[[Sequence[Pair]], Iterable[Pair]] = iter) -> dict[str, Score]:
    """The scores of every filling in CLASSICAL on these pairs, kept for the life of the process."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(f"{pair.truth.shape} {pair.forehead_px}".encode() + pair.truth.tobytes() + pair.mask.tobytes())
    key = digest.hexdigest()
    if key not in _CLASSICAL_SCORES:
        _CLASSICAL_SCORES[key] = {name: score(fill, pairs, progress=progress) for name, fill in CLASSICAL.items()}
    return _CLASSICAL_SCORES[key]

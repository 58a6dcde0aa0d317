"""Figures against formulas written elsewhere, and the rules under which a method is measured."""

import math
import subprocess
import sys
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import wasserstein_distance
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from faceeraser.measurement import metrics


class Pair(NamedTuple):
    name: str
    truth: np.ndarray
    mask: np.ndarray
    forehead_px: float = 256.0


def picture(seed: int, size: int = 48, smooth: float = 1.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(128, 60, (size, size, 3))
    return ndimage.gaussian_filter(noise, (smooth, smooth, 0)).clip(0, 255).astype(np.uint8)


def hole(size: int = 48, top: int = 6, bottom: int = 22) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[top:bottom, 10 : size - 8] = 1
    return mask


seeds = st.integers(0, 2**16)


# --- figures of one picture -----------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_psnr_over_the_picture_and_in_the_hole_is_skimages(seed: int) -> None:
    a, b, mask = picture(seed), picture(seed + 1), hole()
    assert metrics.psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-9)
    inside = peak_signal_noise_ratio(a[mask > 0], b[mask > 0], data_range=255)
    assert metrics.psnr(a, b, mask) == pytest.approx(inside, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_figures_in_the_hole_ignore_what_is_outside(seed: int) -> None:
    a, b, mask = picture(seed), picture(seed + 1), hole()
    elsewhere = np.where(mask[..., None] > 0, a, picture(seed + 2))
    assert metrics.psnr(a, b, mask) == metrics.psnr(elsewhere, b, mask)
    assert metrics.mae(a, b, mask) == metrics.mae(elsewhere, b, mask)


def test_identical_pictures_have_infinite_psnr_and_8_bits_do_not_wrap() -> None:
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    assert metrics.psnr(black, black) == math.inf
    assert metrics.psnr(black, white) == pytest.approx(0.0)
    assert metrics.mae(black, white) == metrics.mae(white, black) == 1.0
    assert metrics.psnr(black, black + np.uint8(1)) == pytest.approx(20 * math.log10(255))


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_ssim_is_wangs(seed: int) -> None:
    a, b, mask = picture(seed), picture(seed + 1), hole()
    mean, full = structural_similarity(
        a, b, data_range=255, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    assert metrics.ssim(a, b) == pytest.approx(mean, abs=1e-6)
    assert metrics.ssim(a, b, mask) == pytest.approx(full[mask > 0].mean(), abs=1e-6)
    assert metrics.ssim(a, a, mask) == pytest.approx(1.0)


def test_smooth_psnr_blurs_both_with_sigma_3_radius_12_and_a_replicated_border() -> None:
    a, b, mask = picture(1), picture(2), hole(top=0)  # a hole at the rim, where the border shows

    def blurred(p: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(p.astype(float), (3, 3, 0), radius=(12, 12, 0), mode="nearest")

    error = ((blurred(a) - blurred(b))[mask > 0] ** 2).mean()
    assert metrics.psnr_smooth(a, b, mask) == pytest.approx(10 * math.log10(255**2 / error), abs=1e-3)


def test_texture_energy_is_that_of_luma_less_its_blur_over_the_truths() -> None:
    a, b, mask = picture(1), picture(2, smooth=2), hole()
    inner = ndimage.binary_erosion(mask, np.ones((7, 7)))

    def energy(p: np.ndarray) -> float:
        y = 0.299 * p[..., 0] + 0.587 * p[..., 1] + 0.114 * p[..., 2]
        return float(((y - ndimage.gaussian_filter(y, 2, radius=8, mode="nearest"))[inner] ** 2).mean())

    assert metrics.texture_energy(a, b, mask) == pytest.approx(energy(a) / energy(b), rel=1e-4)
    assert metrics.texture_energy(b, b, mask) == 1.0


def test_texture_energy_of_a_flat_truth_or_a_thin_hole_is_no_number() -> None:
    flat, thin = np.full((48, 48, 3), 90, np.uint8), hole(top=6, bottom=10)
    assert math.isnan(metrics.texture_energy(picture(1), flat, hole()))
    assert math.isnan(metrics.texture_energy(picture(1), picture(2), thin))
    assert math.isnan(metrics.texture_swd(picture(1), picture(2), thin))


@pytest.mark.parametrize("centred", [False, True])
def test_texture_swd_is_scipys_wasserstein_distance_of_every_projection(centred: bool) -> None:
    a, b, mask = picture(1, 32), picture(2, 32, smooth=2), hole(32, 4, 26)
    directions = metrics._directions().astype(float)
    assert directions.shape == (128, 49) and np.allclose(np.linalg.norm(directions, axis=1), 1)
    means = []
    for shrink in (1, 2):

        def patches(p: np.ndarray, shrink: int = shrink) -> np.ndarray:
            y = p.astype(float) @ [0.299, 0.587, 0.114]
            inside, side = mask > 0, 32 // shrink
            y = y.reshape(side, shrink, side, shrink).mean((1, 3))
            inside = inside.reshape(side, shrink, side, shrink).all((1, 3))
            squares = [
                y[r : r + 7, c : c + 7].ravel()
                for r in range(side - 6)
                for c in range(side - 6)
                if inside[r : r + 7, c : c + 7].all()
            ]
            return np.array([p - p.mean() if centred else p for p in squares])

        left, right = patches(a) @ directions.T, patches(b) @ directions.T
        means.append(np.mean([wasserstein_distance(x, y) for x, y in zip(left.T, right.T, strict=True)]))
    assert metrics.texture_swd(a, b, mask, centred) == pytest.approx(np.mean(means), rel=1e-4)


def test_white_noise_buys_texture_energy_but_not_texture_swd() -> None:
    truth, mask = picture(3, 96, smooth=1.2), hole(96, 10, 86)
    smear = ndimage.gaussian_filter(truth.astype(float), (3, 3, 0))
    same_kind = picture(4, 96, smooth=1.2)  # the truth's texture, elsewhere: what a good method would paint

    def noisy(amount: float) -> np.ndarray:
        grain = np.random.default_rng(0).normal(0, amount, truth.shape[:2])[..., None]
        return (smear + grain).clip(0, 255).astype(np.uint8)

    amount = min(np.arange(1.0, 60.0), key=lambda n: abs(metrics.texture_energy(noisy(n), truth, mask) - 1))
    assert metrics.texture_energy(noisy(amount), truth, mask) == pytest.approx(1, abs=0.1)
    right = metrics.texture_swd(same_kind, truth, mask, centred=True)
    assert metrics.texture_swd(noisy(amount), truth, mask, centred=True) > 2 * right


FIGURES = (metrics.psnr, metrics.psnr_smooth, metrics.mae, metrics.ssim, metrics.texture_energy, metrics.texture_swd)


@pytest.mark.parametrize("figure", FIGURES)
def test_an_empty_hole_and_unlike_shapes_are_refused(figure) -> None:
    a = picture(1)
    with pytest.raises(ValueError, match="hole is empty"):
        figure(a, a, np.zeros((48, 48), np.uint8))
    with pytest.raises(ValueError, match="must be of one size"):
        figure(a, a, np.ones((24, 48), np.uint8))
    with pytest.raises(ValueError, match="cannot compare"):
        figure(a, a[:24], hole())


# --- masks and classical fills --------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_mirrored_mask_holds_the_mask_and_is_its_own_mirror_image(seed: int) -> None:
    mask = (np.random.default_rng(seed).random((17, 9)) > 0.8).astype(np.uint8)
    both = metrics.mirrored(mask)
    assert (both >= mask).all() and (both == both[::-1]).all() and (metrics.mirrored(both) == both).all()
    assert both.sum() <= 2 * mask.sum()


@pytest.mark.parametrize("name", metrics.CLASSICAL)
def test_classical_fills_keep_the_outside_and_never_look_into_the_hole(name: str) -> None:
    image, mask = picture(1), hole()
    other = np.where(mask[..., None] > 0, 255 - image, image)
    filled = metrics.CLASSICAL[name](image, mask)
    assert (filled[mask == 0] == image[mask == 0]).all()
    assert (filled == metrics.CLASSICAL[name](other, mask)).all()
    assert metrics.CLASSICAL[name](image, np.ones_like(mask)).shape == image.shape  # nothing to fill from: no crash


def test_the_classical_fills_are_opencvs_with_radius_5() -> None:
    image, mask = picture(1), hole()
    assert (metrics.fill_telea(image, mask) == cv2.inpaint(image, mask, 5, cv2.INPAINT_TELEA)).all()
    assert (metrics.fill_navier_stokes(image, mask) == cv2.inpaint(image, mask, 5, cv2.INPAINT_NS)).all()
    mean = np.rint(image[mask == 0].mean(0))
    assert (metrics.fill_mean(image, mask)[mask > 0] == mean).all()


# --- rows -----------------------------------------------------------------------------------------------------------


def pairs(n: int = 3) -> list[Pair]:
    return [Pair(f"p{k}", picture(k), hole(top=4 + k)) for k in range(n)]


def test_a_method_gets_the_plain_and_the_mirrored_mask_and_an_emptied_hole() -> None:
    seen = []

    def method(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        seen.append(mask.copy())
        assert (image[mask > 0] == 0).all(), "the answer was left in the hole"
        return image

    pair = pairs(1)
    metrics.score(method, pair)
    assert [m.tolist() for m in seen] == [pair[0].mask.tolist(), metrics.mirrored(pair[0].mask).tolist()]


def test_hole_figures_are_taken_on_the_composite_and_picture_figures_are_not() -> None:
    def paints_all(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.full_like(image, 100)

    list_ = pairs(1)
    truth, mask = list_[0].truth, list_[0].mask
    scores = metrics.score(paints_all, list_)
    both = metrics.mirrored(mask)
    wholly = np.full_like(truth, 100)
    erased = metrics.composite(truth, wholly, both)
    assert scores.row["psnr"] == metrics.psnr(wholly, truth)
    assert scores.row["mae"] == metrics.mae(wholly, truth)
    assert scores.row["psnr_hole"] == metrics.psnr(wholly, truth, mask)
    assert scores.row["psnr_hole_mirrored"] == metrics.psnr(erased, truth, both)
    assert scores.row["psnr_hole_smooth"] == metrics.psnr_smooth(erased, truth, both)
    assert (scores.painted[0] == erased).all()


def test_a_row_gives_mean_deviation_and_n_and_medians_of_texture() -> None:
    list_ = pairs(3)
    whole = metrics.score(metrics.fill_mean, list_).row
    each = [metrics.score(metrics.fill_mean, [pair]).row for pair in list_]
    values = [row["psnr_hole_mirrored"] for row in each]
    assert whole["psnr_hole_mirrored"] == pytest.approx(np.mean(values))
    assert whole["psnr_hole_mirrored_std"] == pytest.approx(np.std(values))
    for name in ("texture_energy", "texture_swd", "texture_swd_centred"):
        assert whole[name] == pytest.approx(sorted(row[name] for row in each)[1])
    assert whole["n"] == whole["texture_n"] == 3


def test_texture_is_taken_only_where_the_forehead_had_128_pixels() -> None:
    sharp, enlarged, unknown = (p._replace(forehead_px=px) for p, px in zip(pairs(3), (128, 127.9, math.nan), strict=True))
    row = metrics.score(metrics.fill_mean, [sharp, enlarged, unknown]).row
    assert (row["n"], row["texture_n"]) == (3, 1)
    assert row["texture_swd"] == metrics.score(metrics.fill_mean, [sharp]).row["texture_swd"]
    none = metrics.score(metrics.fill_mean, [enlarged]).row
    assert none["texture_energy"] is None and none["texture_n"] == 0


def test_a_perfect_method_counts_with_the_cap_so_that_means_stay_numbers() -> None:
    list_ = pairs(2)
    answers = iter([p.truth for p in list_ for _ in range(2)])
    row = metrics.score(lambda image, mask: next(answers), list_).row
    assert row["psnr_hole"] == row["psnr_hole_mirrored"] == metrics.PSNR_CAP == 100
    assert row["texture_energy"] == 1 and row["texture_swd"] == 0


def test_psnr_vs_fp32_takes_the_fp32_rows_pictures_as_the_truth() -> None:
    list_ = pairs(2)
    fp32 = metrics.score(metrics.fill_navier_stokes, list_).painted
    same = metrics.score(metrics.fill_navier_stokes, list_, fp32).row
    other = metrics.score(metrics.fill_mean, list_, fp32)
    expected = [metrics.psnr(a, b, metrics.mirrored(p.mask)) for a, b, p in zip(other.painted, fp32, list_, strict=True)]
    assert same["psnr_vs_fp32"] == metrics.PSNR_CAP
    assert other.row["psnr_vs_fp32"] == pytest.approx(np.mean(expected))
    with pytest.raises(ValueError, match="1 fp32 pictures for 2 pairs"):
        metrics.score(metrics.fill_mean, list_, fp32[:1])


def test_bad_pairs_and_bad_methods_are_named() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        metrics.score(metrics.fill_mean, [])
    with pytest.raises(ValueError, match="p0: its mask is empty"):
        metrics.score(metrics.fill_mean, [Pair("p0", picture(0), np.zeros((48, 48), np.uint8))])
    with pytest.raises(ValueError, match="p0: the method returned float64"):
        metrics.score(lambda image, mask: image / 255, pairs(1))


def test_classical_rows_are_computed_once_for_a_list_and_again_for_another(monkeypatch) -> None:
    calls = []
    counted = {name: lambda image, mask, name=name: calls.append(name) or image for name in metrics.CLASSICAL}
    monkeypatch.setattr(metrics, "CLASSICAL", counted)
    monkeypatch.setattr(metrics, "_CLASSICAL_SCORES", {})
    first = metrics.classical_scores(pairs(2))
    assert list(first) == ["mean", "telea", "navier_stokes", "skin_patches"] and len(calls) == 16
    assert metrics.classical_scores(pairs(2)) is first and len(calls) == 16
    moved = [pair._replace(forehead_px=1) for pair in pairs(2)]  # other texture figures, so another list
    assert metrics.classical_scores(moved)["mean"].row["texture_n"] == 0 and len(calls) == 32


def test_metrics_and_artifact_load_no_training_framework() -> None:
    heavy = ("torch", "tensorflow", "onnxruntime", "ai_edge_litert", "scipy", "skimage")
    light = "faceeraser.measurement.metrics, faceeraser.artifacts.artifact"
    code = f"import sys, {light}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_skin_tones_have_a_mean_and_an_interval_and_one_picture_alone_has_none():
    gains, ita = [1.0, 2.0, 3.0, 7.0, 9.0], [60, 58, 57, -60, math.nan]
    rows = {row["name"]: row for row in metrics.by_tone(gains, ita)}
    assert set(rows) == {"all", "very light", "dark"}
    assert rows["all"]["n"] == 5 and rows["all"]["gain"] == pytest.approx(4.4)
    assert rows["very light"]["gain"] == 2 and 1 <= rows["very light"]["low"] < 2 < rows["very light"]["high"] <= 3
    assert (rows["dark"]["n"], rows["dark"]["low"], rows["dark"]["high"]) == (1, None, None)

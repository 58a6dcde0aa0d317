"""Figures without a truth: each moves the right way on a made picture, and all agree with numbers taken independently."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceeraser.face.mesh import LEFT_BROW, LEFT_EYE, LIPS, MESH_POINTS, NOSE_OUTLINE, OVAL, RIGHT_BROW, RIGHT_EYE
from faceeraser.face.parts import POLYGONS
from faceeraser.measurement import looks

SCALE = 1.25  # the made face's eyes are 90 pixels apart


def ellipse(x: float, y: float, width: float, height: float, count: int) -> np.ndarray:
    steps = np.linspace(0, 2 * math.pi, count, endpoint=False)
    return np.stack([x + width * np.sin(steps), y - height * np.cos(steps)], axis=1)


@pytest.fixture(scope="module")
def mesh() -> np.ndarray:
    points = np.zeros((MESH_POINTS, 2))
    points[OVAL] = ellipse(160, 170, 100, 130, len(OVAL))
    for side, eye, brow in ((-1, RIGHT_EYE, RIGHT_BROW), (1, LEFT_EYE, LEFT_BROW)):
        points[eye] = ellipse(160 + 45 * side, 130, 18, 8, len(eye))
        points[brow] = ellipse(160 + 45 * side, 104, 26, 6, len(brow))
    points[NOSE_OUTLINE] = ellipse(160, 165, 20, 30, len(NOSE_OUTLINE))
    points[LIPS] = ellipse(160, 225, 32, 14, len(LIPS))
    return points.astype(np.float32)


def skin(seed: int, tilt: float = 0.0) -> np.ndarray:
    """(320, 320, 3) uint8: pores and a mottling coarser than they; with `tilt` the light comes from one side."""
    rng = np.random.default_rng(seed)
    fine = cv2.GaussianBlur(rng.standard_normal((320, 320)), (0, 0), 1.0)
    coarse = cv2.GaussianBlur(rng.standard_normal((320, 320)), (0, 0), 4.0)
    grey = 6 * fine / fine.std() + 3 * coarse / coarse.std() + tilt * (np.arange(320) - 160)
    return np.clip(np.array([205, 160, 135]) + grey[..., None], 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def hole(mesh: np.ndarray) -> np.ndarray:
    """Generously all parts, (320, 320) bool."""
    drawn = np.zeros((320, 320), np.uint8)
    for polygon in (polygon for polygons in POLYGONS.values() for polygon in polygons):
        cv2.fillPoly(drawn, [cv2.convexHull(np.round(mesh[polygon]).astype(np.int32))], 1)
    return cv2.dilate(drawn, np.ones((25, 25), np.uint8)) > 0


@pytest.fixture(scope="module")
def before(mesh: np.ndarray) -> np.ndarray:
    """Skin with dark parts on it."""
    picture = skin(0)
    for polygon in (polygon for polygons in POLYGONS.values() for polygon in polygons):
        cv2.fillPoly(picture, [cv2.convexHull(np.round(mesh[polygon]).astype(np.int32))], (70, 45, 40))
    return picture


@pytest.fixture(scope="module")
def judged(before: np.ndarray, hole: np.ndarray, mesh: np.ndarray) -> Callable[[np.ndarray], dict[str, float]]:
    """The figures of a picture pasted into the hole."""

    def judge(painted: np.ndarray) -> dict[str, float]:
        figures = looks.looks(before, np.where(hole[..., None], painted, before).astype(np.uint8), mesh, SCALE)
        assert figures is not None
        return figures

    return judge


@pytest.fixture(scope="module")
def right(judged: Callable[[np.ndarray], dict[str, float]]) -> dict[str, float]:
    """The figures of the best that there is: other skin of the same kind."""
    return judged(skin(1))


def test_other_skin_of_the_same_kind_is_nearly_ideal_in_every_figure(right: dict[str, float]) -> None:
    assert tuple(right) and set(right) == set(looks.SKIN_FIGURES)
    assert abs(right["grain"]) < 0.05 and right["texture"] == pytest.approx(1, abs=0.1) and right["spectrum"] < 0.4
    assert abs(right["outliers"]) < 0.002 and right["bleed"] == 0 and right["step"] < 1.3
    assert right["crease"] == pytest.approx(1, abs=0.1) and right["repeat"] < right["repeat_own"] + 0.05
    assert right["cover"] == 1 and 0.2 < right["area"] < 0.8


def test_streaks_are_grain(judged, right) -> None:
    streaks = cv2.blur(skin(1).astype(np.float32), (1, 25))
    streaks = 170 + (streaks - streaks.mean()) * 3
    assert judged(streaks)["grain"] > right["grain"] + 0.3


def test_a_blur_has_no_texture_and_another_spectrum(judged, right) -> None:
    blurred = judged(cv2.GaussianBlur(skin(1), (0, 0), 2.5))
    assert blurred["texture"] < 0.3 * right["texture"] and blurred["spectrum"] > right["spectrum"] + 1


def test_white_noise_of_the_right_energy_has_texture_and_not_the_spectrum(judged, right) -> None:
    noise = np.random.default_rng(5).standard_normal((320, 320, 1)) * 6
    figures = judged(np.clip(np.array([205, 160, 135]) + noise, 0, 255))
    assert figures["texture"] == pytest.approx(1, abs=0.3) and figures["spectrum"] > right["spectrum"] + 1


def test_a_pasted_hair_is_an_outlier(judged, right) -> None:
    hairy = skin(1)
    for x in (110, 150, 190):
        cv2.line(hairy, (x, 90), (x + 15, 260), (120, 80, 60), 2)
    assert judged(hairy)["outliers"] > right["outliers"] + 0.005


def test_a_colour_cast_bleeds_and_steps(judged, right) -> None:
    cast = judged(np.clip(skin(1).astype(int) + np.array([-45, 20, 45]), 0, 255))
    assert right["bleed"] == 0 and cast["bleed"] > 0.5 and cast["step"] > 3 * right["step"]


def test_a_faint_step_at_the_border_is_a_step_and_does_not_bleed(judged, right) -> None:
    lighter = judged(skin(1) + np.uint8(12))
    assert lighter["step"] > right["step"] + 1 and lighter["bleed"] == 0


def test_a_tile_again_and_again_repeats_and_own_skin_does_not(judged, right) -> None:
    tiled = np.tile(skin(1)[:32, :32], (10, 10, 1))
    figures = judged(tiled)
    assert figures["repeat"] > 0.9 > 0.4 > figures["repeat_own"] == pytest.approx(right["repeat_own"], abs=0.01)


def test_a_crease_left_beside_the_mask_is_seen_and_one_far_from_it_is_not(before, hole, mesh, right) -> None:
    distance = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, 5)
    for low, high, seen in ((2, 7, True), (20, 25, False)):
        creased = before.copy()
        creased[(distance > low) & (distance < high)] -= np.uint8(25)
        figures = looks.looks(creased, np.where(hole[..., None], skin(1), creased), mesh, SCALE)
        assert figures is not None and (figures["crease"] > right["crease"] + 0.25) is seen, (low, high)


def test_a_part_left_out_is_not_covered_and_a_smaller_mask_is_a_smaller_area(before, hole, mesh, right) -> None:
    less = hole & (np.arange(320)[:, None] < 195)  # without the mouth
    figures = looks.looks(before, np.where(less[..., None], skin(1), before), mesh, SCALE)
    assert figures is not None and figures["cover"] < 0.85 and figures["area"] < 0.8 * right["area"]


def test_figures_do_not_depend_on_the_size_of_the_face(before, hole, mesh, right) -> None:
    """Pores cannot be enlarged without a loss, so this is about colour, masks and thresholds."""
    after = np.where(hole[..., None], skin(1), before)
    large = [cv2.resize(picture, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for picture in (before, after)]
    figures = looks.looks(*large, mesh * 2 + 0.5, SCALE * 2)
    assert figures is not None
    for name in ("cover", "area", "texture", "crease", "bleed"):
        assert figures[name] == pytest.approx(right[name], rel=0.06, abs=0.01), name


def test_without_own_skin_or_without_a_hole_there_is_no_figure(before, mesh) -> None:
    veil = np.random.default_rng(0).integers(0, 255, before.shape, np.uint8)
    assert looks.looks(before, before, mesh, SCALE) is None
    assert looks.looks(before, np.full_like(before, 128), mesh, SCALE) is None
    assert looks.looks(veil[:, :, :], np.where(np.arange(320)[:, None, None] < 290, 255 - veil, veil), mesh, SCALE) is None
    with pytest.raises(ValueError, match="expected uint8 RGB pictures of one shape"):
        looks.looks(before, before[:100], mesh, SCALE)


def test_own_skin_is_judged_by_its_other_half(before, hole, mesh) -> None:
    scene = looks.scene_of(before, np.where(hole[..., None], skin(1), before), mesh, SCALE)
    assert scene is not None
    alike = looks.own_halves(scene)
    assert alike is not None and set(alike) == {"grain", "texture", "spectrum", "outliers", "bleed"}
    assert alike["texture"] == pytest.approx(1, abs=0.1) and alike["spectrum"] < 0.5 and alike["bleed"] == 0
    scene.before[:, : scene.before.shape[1] // 2] = 0.7  # the left half is a flat colour now
    assert looks.own_halves(scene)["texture"] < 0.1


def test_the_typology_angle_is_that_of_own_skin(before, hole, mesh) -> None:
    scene = looks.scene_of(before, np.where(hole[..., None], skin(1), before), mesh, SCALE)
    lab = cv2.cvtColor(np.float32([[[205, 160, 135]]]) / 255, cv2.COLOR_RGB2LAB)[0, 0]
    assert scene is not None and scene.ita == pytest.approx(math.degrees(math.atan2(lab[0] - 50, lab[2])), abs=2)


# --- repeat and squares ----------------------------------------------------------------------------------------------


def test_repeat_is_the_correlation_of_a_region_with_itself_moved() -> None:
    """By hand: one patch copied 30 pixels aside into a region that is nothing but the two."""
    rng = np.random.default_rng(3)
    patch, detail = rng.standard_normal((24, 24)), rng.standard_normal((60, 80))
    detail[10:34, 5:29], detail[10:34, 35:59] = patch, 0.8 * patch + 0.6 * rng.standard_normal((24, 24))
    region = np.zeros((60, 80), bool)
    region[10:34, 5:29] = region[10:34, 35:59] = True
    a, b = detail[10:34, 5:29], detail[10:34, 35:59]
    mean = detail[region].mean()
    expected = ((a - mean) * (b - mean)).sum() / math.sqrt(((a - mean) ** 2).sum() * ((b - mean) ** 2).sum())
    assert looks.repeat(detail, region, 20) == pytest.approx(expected, abs=0.01)
    assert math.isnan(looks.repeat(detail, region, 40)), "no shift as far leaves a third of the region over itself"
    assert math.isnan(looks.repeat(detail, np.zeros_like(region), 20))


def test_squares_lie_wholly_in_the_region_and_not_on_one_another() -> None:
    region = np.zeros((40, 50), bool)
    region[3:29, 7:41] = True
    region[15, 20] = False
    picture = np.stack(np.broadcast_arrays(np.arange(40)[:, None], np.arange(50)[None], region), 2)
    squares = looks.squares(picture, region, 8, 100)
    assert len(squares) >= 6 and (squares[..., 2] == 1).all()
    pixels = squares[..., 0] * 50 + squares[..., 1]
    assert len(np.unique(pixels)) == pixels.size
    assert len(looks.squares(picture, region, 8, 3)) == 3 and len(looks.squares(picture, region, 30, 3)) == 0


# --- tables ----------------------------------------------------------------------------------------------------------


def test_groups_are_sizes_and_tones_and_darker_tones_are_one_where_any_is_rare() -> None:
    widths, angles = [100, 199, 200, 399, 400, 900], [60, 45, 30, 15, 0, -60]
    groups = looks.groups(widths, angles)
    assert {name: np.flatnonzero(chosen).tolist() for name, chosen in groups.items()} == {
        "under 200 px": [0, 1],
        "200 to 400 px": [2, 3],
        "above 400 px": [4, 5],
        "very light": [0],
        "light": [1],
        "intermediate": [2],
        "tan, brown and dark": [3, 4, 5],
    }
    assert set(looks.groups([100] * 60, [15] * 20 + [0] * 20 + [-60] * 20)) == {"under 200 px", "tan", "brown", "dark"}


def test_a_summary_has_an_interval_that_narrows_with_the_number_of_photographs() -> None:
    values = np.random.default_rng(0).normal(2, 1, 400)
    few, many = looks.summary(values[:20]), looks.summary([*values, math.nan])
    assert few is not None and many is not None
    assert many["median"] == pytest.approx(np.median(values), abs=1e-5) and many["n"] == 400
    assert many["p90"] == pytest.approx(np.percentile(values, 90), abs=1e-5)
    for summary in (few, many):
        assert summary["low"] <= summary["median"] <= summary["high"]
    assert many["high"] - many["low"] < 0.5 * (few["high"] - few["low"])
    assert looks.summary([math.nan]) is None and looks.summary([1.0])["low"] is None


def test_a_row_tells_each_figure_over_all_and_over_each_group() -> None:
    row = looks.row_of([{"grain": 0.0}, {"grain": 1.0}, {"grain": 5.0}], {"small": np.array([True, True, False])})
    assert row["n"] == 3 and row["grain"]["median"] == 1
    assert row["groups"]["small"]["n"] == 2 and row["groups"]["small"]["grain"]["median"] == 0.5


# --- against numbers taken by other code ----------------------------------------------------------------------------

# Taken by an earlier, independent implementation, on pictures of PyPI's openpeople (synthetic people, MIT): the convex hulls
# of the made face's parts, scaled and moved onto the person's eyes, dilated by a disc of 20 units' diameter, filled with the
# photograph blurred by a sigma of 6 units. No landmarks are looked for: the numbers hang on nothing but the figures.
GOLDEN = {
    "P001/assets/studio_portrait.jpg": (
        4.17,
        353,
        322,
        {
            "cover": 1,
            "area": 0.38231,
            "grain": -0.243199,
            "texture": 0.193027,
            "spectrum": 1.63969,
            "outliers": -0.00203096,
            "bleed": 0,
            "step": 2.04182,
            "crease": 0.950555,
        },
    ),
    "P004/assets/studio_portrait.jpg": (
        4.53,
        314,
        142,
        {
            "cover": 1,
            "area": 0.384161,
            "grain": -0.141067,
            "texture": 0.178599,
            "spectrum": 1.95983,
            "outliers": -0.00118203,
            "bleed": 0,
            "step": 3.37965,
            "crease": 1.10165,
        },
    ),
    "P007/assets/amateur_selfie.jpg": (
        2.32,
        586,
        379,
        {
            "cover": 1,
            "area": 0.384133,
            "grain": 0.0428229,
            "texture": 0.134656,
            "spectrum": 2.6853,
            "outliers": -0.00407897,
            "bleed": 0,
            "step": 1.88089,
            "crease": 1.01949,
        },
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_figures_are_those_of_an_independent_implementation(name: str, mesh: np.ndarray) -> None:
    package = importlib.util.find_spec("openpeople")
    if package is None:
        pytest.skip("openpeople is not installed: pip install 'faceeraser[dev]'")
    image = cv2.imread(str(Path(str(package.origin)).parent / "data" / "curated" / name))[..., ::-1].copy()
    factor, x, y, golden = GOLDEN[name]
    placed = (mesh.astype(np.float64) * factor + [x, y]).astype(np.float32)
    scale, drawn = looks.scale_of(placed), np.zeros(image.shape[:2], np.uint8)
    for polygon in (polygon for polygons in POLYGONS.values() for polygon in polygons):
        cv2.fillPoly(drawn, [cv2.convexHull(np.round(placed[polygon]).astype(np.int32))], 1)
    drawn = cv2.dilate(drawn, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(10 * scale) + 1,) * 2))
    after = np.where(drawn[..., None] > 0, cv2.GaussianBlur(image, (0, 0), 6 * scale), image)
    ours = looks.looks(image, after, placed, scale)
    assert ours is not None
    for figure, value in golden.items():
        assert ours[figure] == pytest.approx(value, rel=0.01, abs=1e-4), figure

"""The classical filling by patches of skin: what it keeps, what it copies, what it refuses to copy, and bad input."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from faceeraser.measurement import looks, metrics, patches

SIZE = 200  # pixels, and as a levelled crop so many units: a unit is a pixel
SKIN = np.array([205, 160, 135])


def skin(seed: int = 0, tilt: float = 0.0, size: int = SIZE) -> np.ndarray:
    """Pores and a mottling coarser than they, uint8; with `tilt` it gets lighter to the right, levels a pixel."""
    rng = np.random.default_rng(seed)
    fine, coarse = (cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), sigma) for sigma in (1.0, 4.0))
    grey = 6 * fine / fine.std() + 2 * coarse / coarse.std() + tilt * (np.arange(size) - size / 2)
    return np.clip(SKIN + grey[..., None], 0, 255).astype(np.uint8)


def hole(size: int = SIZE) -> np.ndarray:
    """A third of the picture, in its middle, (size, size) uint8."""
    drawn = np.zeros((size, size), np.uint8)
    cv2.ellipse(drawn, (size // 2, size // 2), (size * 3 // 10, size * 7 // 20), 0, 0, 360, 1, -1)
    return drawn


def inner(mask: np.ndarray) -> np.ndarray:
    return cv2.erode(mask, np.ones((15, 15), np.uint8)) > 0


def deviation(picture: np.ndarray, where: np.ndarray) -> float:
    grey = metrics.luma(picture)
    return float((grey - cv2.GaussianBlur(grey, (0, 0), 2))[where].std())


def test_what_is_seen_stays_and_what_is_hidden_does_not_matter() -> None:
    image, mask = skin(), hole()
    other = np.where(mask[..., None] > 0, np.random.default_rng(1).integers(0, 255, image.shape), image).astype(np.uint8)
    a, b = patches.fill(image, mask), patches.fill(other, mask)
    assert np.array_equal(a[mask == 0], image[mask == 0]) and np.array_equal(a, b)
    assert np.array_equal(patches.fill(image, mask), a), "the same picture, the same result"
    assert not np.array_equal(a[mask > 0], image[mask > 0])


def test_the_hole_has_the_texture_of_skin_which_diffusion_has_not() -> None:
    image, mask = skin(), hole()
    own = deviation(image, mask == 0)
    assert deviation(patches.fill(image, mask), inner(mask)) == pytest.approx(own, rel=0.12)
    assert deviation(metrics.fill_navier_stokes(image, mask), inner(mask)) < 0.3 * own


def test_a_plain_mean_of_the_patches_would_lose_half_of_it() -> None:
    """The control of the blend: the same patches under windows that add up to one."""
    image, mask = skin(), hole() > 0
    seen = np.where(mask[..., None], 0, image).astype(np.float32) / 255
    plan = patches.plan(seen, mask)
    ones = patches.Plan(plan.shading, np.ones_like(plan.detail), np.ones_like(plan.usable), plan.cell, plan.shifts)
    there = inner(mask.astype(np.uint8))
    share = patches.lay(ones)[there]  # the sum of weights over the root of their squares
    kept = patches.lay(plan)[there]
    assert share.min() > 0.999 and share.max() > 1.5
    assert (kept / share).std() < 0.75 * kept.std()


def test_a_patch_is_copied_by_whole_pixels_and_the_middle_of_its_window_is_the_source_itself() -> None:
    rng = np.random.default_rng(0)
    detail = rng.standard_normal((60, 60, 3)).astype(np.float32)
    shifts = np.zeros((6, 6, 2), np.int32)
    shifts[2, 3] = [7, -4]  # x, y
    laid = patches.lay(patches.Plan(np.zeros_like(detail), detail, np.ones((60, 60), np.float32), 10, shifts))
    assert laid[20, 30] == pytest.approx(detail[16, 37], abs=1e-5)
    assert laid[24, 27] == pytest.approx(detail[20, 34], abs=1e-5), "one window alone is divided by its own weight"
    assert not laid[:9].any() and not laid[:, 42:].any()


def test_neighbouring_cells_do_not_show_the_same_patch() -> None:
    image, mask = skin(), hole() > 0
    seen = np.where(mask[..., None], 0, image).astype(np.float32) / 255
    plan = patches.plan(seen, mask)
    again = plan.shifts.copy()
    cells = np.argwhere((plan.shifts != 0).any(2))
    first = plan.shifts[tuple(cells[0])] + plan.cell * cells[0][::-1]
    again[cells[:, 0], cells[:, 1]] = first - plan.cell * cells[:, ::-1]
    alike = patches.Plan(plan.shading, plan.detail, plan.usable, plan.cell, again)
    inside = inner(mask.astype(np.uint8))
    repeats = [looks.repeat(patches.paint(each).mean(2), inside, plan.cell - 1) for each in (plan, alike)]
    assert repeats[0] < 0.3 and repeats[1] > 0.8


def test_shading_goes_on_across_the_hole_and_there_is_no_step_at_its_border() -> None:
    image, mask = skin(tilt=0.3), hole()
    painted = patches.fill(image, mask)
    truth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 6)
    error = np.abs(cv2.GaussianBlur(painted.astype(np.float32), (0, 0), 6) - truth)[mask > 0]
    assert error.mean() < 2.5 < 0.5 * np.abs(metrics.fill_mean(image, mask).astype(float) - truth)[mask > 0].mean()


def test_hair_beside_the_hole_does_not_bleed_into_it_as_it_does_with_diffusion() -> None:
    image, mask = skin(), hole()
    image[:52] = [60, 40, 30]
    top = (mask > 0) & (np.arange(SIZE)[:, None] < 60)
    painted, diffused = patches.fill(image, mask), metrics.fill_navier_stokes(image, mask)
    assert np.abs(painted[top].mean(0) - SKIN).max() < 12 < 40 < np.abs(diffused[top].mean(0) - SKIN).max()


def test_moles_and_creases_are_not_copied() -> None:
    image, mask = skin(), hole()
    rng = np.random.default_rng(2)
    for x, y in rng.integers(5, SIZE - 5, (60, 2)):
        cv2.circle(image, (int(x), int(y)), 2, (90, 55, 45), -1)
    painted = metrics.luma(patches.fill(image, mask))
    own = deviation(skin(), mask == 0)
    assert painted[inner(mask)].min() > metrics.luma(SKIN[None].astype(np.float32))[0] - 6 * own


def test_what_is_copied_is_bounded_by_own_skin_s_deviation() -> None:
    """Skin whose detail is faint nearly everywhere and strong in some places, as where it is creased."""
    strong = cv2.GaussianBlur(np.random.default_rng(4).standard_t(2, (SIZE, SIZE)), (0, 0), 1.0)
    image = np.clip(SKIN + 4 * (strong / np.abs(strong).mean())[..., None], 0, 255).astype(np.uint8)
    mask = hole() > 0
    detail = patches.plan(np.where(mask[..., None], 0, image).astype(np.float32) / 255, mask).detail.mean(2)
    there = detail[detail != 0]
    assert np.abs(there).max() < 3.3 * np.median(np.abs(there)) * 1.4826


def test_the_oval_says_where_the_face_is() -> None:
    """A wall of skin's texture and another colour fills the picture; the face is its middle."""
    image, mask = skin(), hole()
    steps = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    oval = np.stack([100 + 90 * np.sin(steps), 100 - 90 * np.cos(steps)], 1)
    face = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(face, [np.round(oval).astype(np.int32)], 1)
    image[face == 0] = np.clip(image[face == 0] + [-120, 20, 90], 0, 255)
    painted = patches.fill(image, mask, oval, 1.0)
    assert np.abs(painted[mask > 0].mean(0) - SKIN).max() < 4


def test_a_larger_picture_is_filled_alike() -> None:
    large, mask = skin(size=2 * SIZE), hole(2 * SIZE)
    painted = patches.fill(large, mask, None, 1.0)  # the same pores, more of them
    assert deviation(painted, inner(mask)) == pytest.approx(deviation(large, mask == 0), rel=0.12)


@pytest.mark.parametrize(
    "image",
    [
        np.repeat(skin()[..., :1], 3, 2),
        (skin() * 0.03).astype(np.uint8),
        np.zeros((SIZE, SIZE, 3), np.uint8),
        np.full((SIZE, SIZE, 3), 255, np.uint8),
        np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8),
        np.tile(np.array([[[20, 60, 20]], [[200, 30, 30]]], np.uint8), (SIZE // 2, SIZE, 1)),
    ],
    ids=["grey", "near black", "black", "white", "noise", "veil"],
)
def test_strange_pictures_give_their_own_colours_and_no_streaks(image: np.ndarray) -> None:
    mask = hole()
    painted = patches.fill(image, mask)
    assert np.array_equal(painted[mask == 0], image[mask == 0])
    kept = image[mask == 0].astype(float)
    assert np.abs(painted[mask > 0].mean(0) - kept.mean(0)).max() < 12
    assert (painted[mask > 0].std(0) <= 1.5 * kept.std(0) + 2).all()


@pytest.mark.parametrize("size", [1, 3, 20])
def test_small_pictures_and_holes_of_a_pixel(size: int) -> None:
    image = skin()[:size, :size]
    one = np.zeros((size, size), np.uint8)
    one[size // 2, size // 2] = 1
    painted = patches.fill(image, one)
    assert painted.shape == image.shape and np.array_equal(painted[one == 0], image[one == 0])
    if size > 1:
        assert np.abs(painted[size // 2, size // 2].astype(int) - SKIN).max() < 30


def test_nothing_to_fill_and_nothing_to_see() -> None:
    image = skin()
    assert np.array_equal(patches.fill(image, np.zeros((SIZE, SIZE), np.uint8)), image)
    assert np.ptp(patches.fill(image, np.ones((SIZE, SIZE), np.uint8)).astype(int)) <= 1
    rim = np.ones((SIZE, SIZE), np.uint8)
    rim[:6] = 0  # a strip of skin alone is seen
    painted = patches.fill(image, rim)
    assert np.abs(painted[rim > 0].mean(0) - SKIN).max() < 6


@pytest.mark.parametrize(
    ("image", "mask"),
    [(skin(), hole()[:100]), (skin().astype(np.float32), hole()), (skin()[..., 0], hole())],
    ids=["mask of another size", "float", "grey"],
)
def test_what_is_no_picture_is_refused_in_one_line(image: np.ndarray, mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected a uint8 RGB picture"):
        patches.fill(image, mask)


def test_it_stands_among_the_classical_fillings() -> None:
    assert metrics.CLASSICAL["skin_patches"] is patches.fill

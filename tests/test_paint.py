"""faceeraser/paint.py: whole windows by whole pixels, at any resolution, with the variance of what they hold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faceeraser import paint


def by_hand(detail: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """The same windows, copied one after another with Hann weights computed for each pixel from its distance to the
    corner.
    """
    side = len(detail)
    block = side // paint.BLOCKS
    laid, squares = np.zeros((side, side)), np.zeros((side, side))
    for window, source in enumerate(sources):
        cy, cx = (block * n for n in divmod(window, paint.CORNERS))
        sy, sx = (block // 2 * (n + 2) for n in divmod(int(source), paint.HALVES))
        for dy in range(-block, block):
            for dx in range(-block, block):
                y, x = cy + dy, cx + dx
                if 0 <= y < side and 0 <= x < side:
                    weight = np.prod([np.cos(np.pi * (d + 0.5) / (2 * block)) ** 2 for d in (dy, dx)])
                    laid[y, x] += weight * detail[sy + dy, sx + dx]
                    squares[y, x] += weight**2
    return laid / np.sqrt(squares)


@pytest.mark.parametrize("side", [32, 128])
def test_what_is_laid_is_every_window_copied_by_hand(side) -> None:
    rng = np.random.default_rng(0)
    detail, sources = rng.standard_normal((side, side)), rng.integers(0, paint.HALVES**2, paint.CORNERS**2)
    laid = paint.lay(torch.from_numpy(detail).float()[None, None], torch.from_numpy(sources)[None])[0, 0].numpy()
    assert np.allclose(laid, by_hand(detail, sources), atol=1e-5)


def test_copying_in_place_changes_nothing_where_windows_are_whole() -> None:
    """A window's own place as its source: the four copies of a pixel are one pixel, so their weighted sum is more than
    it.
    """
    detail = torch.ones(1, 1, 128, 128)
    laid = paint.lay(detail, torch.zeros(1, paint.CORNERS**2, dtype=torch.long))
    assert torch.allclose(laid, paint.lay(detail, torch.full((1, paint.CORNERS**2), 400)), atol=1e-6)
    assert float(laid.min()) >= 1.0 - 1e-6 and float(laid.max()) <= 2.0 + 1e-6


@pytest.mark.parametrize("side", [128, 256, 512])
def test_the_variance_of_texture_is_kept_and_a_mean_would_lose_half(side) -> None:
    rng = np.random.default_rng(1)
    noise = torch.from_numpy(rng.standard_normal((1, 1, side, side))).float()
    sources = torch.from_numpy(rng.permutation(paint.HALVES**2)[None, : paint.CORNERS**2].copy())
    laid = paint.lay(noise, sources)
    inner = laid[..., side // 8 : -side // 8, side // 8 : -side // 8]
    assert float(inner.std()) == pytest.approx(1.0, abs=0.08)
    block = inner.reshape(-1)
    assert float(block.abs().max()) < 6


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([128, 256]))
def test_nothing_of_the_hole_reaches_the_detail(seed, side) -> None:
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.random((1, 3, side, side), np.float32))
    keep = torch.ones(1, 1, side, side)
    keep[..., side // 4 : side // 2, side // 4 : side // 2] = 0
    skin = torch.from_numpy(rng.random((1, 1, 128, 128), np.float32)) * torch.nn.functional.avg_pool2d(keep, side // 128)
    own = paint.own_shading(torch.nn.functional.avg_pool2d(image * keep, side // 128), skin)
    found = paint.detail(image * keep, keep, own, skin)
    assert float(found[keep == 0].abs().max()) == 0.0
    noise = torch.where(keep.bool(), image, torch.rand_like(image))
    assert torch.equal(found, paint.detail(noise * keep, keep, own, skin))


def test_windows_side_by_side_take_different_skin_where_there_is_enough() -> None:
    rows, columns = paint.preference()
    choice = (rows[:, None] + columns[None]).argmin(2)
    assert (choice[1:] != choice[:-1]).all() and (choice[:, 1:] != choice[:, :-1]).all()
    assert (choice[1:, 1:] != choice[:-1, :-1]).all()


def test_a_membrane_sees_skin_alone() -> None:
    seen = torch.zeros(1, 3, 128, 128)
    seen[:, :, :, :64], seen[:, :, :, 64:] = 0.6, 0.1  # skin, and hair beside it
    skin = torch.zeros(1, 1, 128, 128)
    skin[..., :40] = 1.0
    assert torch.allclose(paint.membrane(seen, skin), torch.tensor(0.6), atol=1e-3)
    assert torch.allclose(paint.membrane(seen, torch.zeros_like(skin)), torch.tensor(0.5), atol=1e-3)

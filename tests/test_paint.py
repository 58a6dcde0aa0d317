"""faceeraser/paint.py: whole windows by whole pixels, at any resolution, with the variance of what they hold."""

import itertools

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


def test_every_window_has_the_cheapest_source_that_is_left_to_it() -> None:
    """Again with numpy's argmin, turn by turn."""
    rng = np.random.default_rng(3)
    seen, skin = torch.from_numpy(rng.random((2, 3, 128, 128), np.float32)), torch.rand(2, 1, 128, 128)
    hidden = torch.zeros(2, 1, 128, 128)
    hidden[..., 40:90, 30:100] = 1
    chosen, cost = paint.choose(seen, skin, hidden).numpy(), paint.costs(seen, skin).numpy()
    in_turn, order, ends = paint._turns()
    corners = itertools.product(range(0, 129, 8), repeat=2)
    shown = [hidden[0, 0, max(0, y - 8) : y + 8, max(0, x - 8) : x + 8].any() for y, x in corners]
    liked = paint.preference().numpy()
    for k in range(2):
        taken, found = np.zeros((paint.HALVES, paint.HALVES)), []
        for first, end in itertools.pairwise(ends):
            padded = np.pad(taken, 1)
            part = np.float32([0.5, 1, 0.5])
            around = [(y, x, part[y] * part[x]) for y in range(3) for x in range(3)]
            crowd = sum(w * padded[y : y + paint.HALVES, x : x + paint.HALVES] for y, x, w in around)
            now = cost[k] + paint.AGAIN * crowd.ravel() + np.arange(paint.HALVES**2) / 2**17
            own = (liked[first:end] + now).argmin(1)
            found += own.tolist()
            seen_there = [float(shown[window]) for window in in_turn[first:end]]
            np.add.at(taken, np.divmod(own, paint.HALVES), seen_there)
        assert np.array_equal(np.array(found)[order.numpy()], chosen[k])


def test_what_a_window_likes_is_near_and_by_chance() -> None:
    liked, (_, order, _) = paint.preference().double(), paint._turns()
    windows, sources = (places.double() for places in paint._places())
    apart = (windows[:, None] - sources[None]).square().sum(2)
    chance = (liked[order.long()] - paint.DISTANCE * apart) * 32
    assert torch.equal(chance, chance.round()) and float(chance.min()) >= 0 and float(chance.max()) < paint.CHANCES
    counts = torch.unique(chance, return_counts=True)[1]
    assert len(counts) >= paint.CHANCES - 1 and counts.max() < 2 * counts.min()


def test_little_skin_is_shared_out_and_windows_side_by_side_differ() -> None:
    seen, skin = torch.full((1, 3, 128, 128), 0.5), torch.zeros(1, 1, 128, 128)
    skin[..., :48, 8:120] = 1  # a forehead alone
    hidden = torch.zeros(1, 1, 128, 128)
    hidden[..., 52:112, 16:112] = 1
    seen += 0.02 * torch.randn(seen.shape, generator=torch.Generator().manual_seed(0))
    chosen = paint.choose(seen, skin, hidden)[0].reshape(paint.CORNERS, paint.CORNERS)[6:15, 2:15]
    assert (chosen[1:] != chosen[:-1]).all() and (chosen[:, 1:] != chosen[:, :-1]).all()
    counts = torch.unique(chosen, return_counts=True)[1]
    assert len(counts) > 50 and counts.max() <= 6
    rows = chosen.div(paint.HALVES, rounding_mode="floor") + 2  # the middle of a source, in halves
    assert (rows <= 2 * 6).double().mean() > 0.95, "all but a few from the forehead"


def test_a_membrane_sees_skin_alone() -> None:
    seen = torch.zeros(1, 3, 128, 128)
    seen[:, :, :, :64], seen[:, :, :, 64:] = 0.6, 0.1  # skin, and hair beside it
    skin = torch.zeros(1, 1, 128, 128)
    skin[..., :40] = 1.0
    assert torch.allclose(paint.membrane(seen, skin), torch.tensor(0.6), atol=1e-3)
    assert torch.allclose(paint.membrane(seen, torch.zeros_like(skin)), torch.tensor(0.5), atol=1e-3)

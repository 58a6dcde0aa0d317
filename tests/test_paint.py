"""faceeraser/model/paint.py: whole windows by whole pixels, at any resolution, with the variance of what they hold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faceeraser.model import paint


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


def test_every_window_has_the_source_that_is_cheapest_for_it() -> None:
    """Again with numpy's argmin."""
    rng = np.random.default_rng(3)
    seen, skin = torch.from_numpy(rng.random((2, 3, 128, 128), np.float32)), torch.rand(2, 1, 128, 128)
    chosen, cost = paint.choose(seen, skin).numpy(), paint.costs(seen, skin).numpy()
    liked = paint.preference().flatten(2)[0].T.numpy()
    for k in range(2):
        assert np.array_equal((liked + cost[k] + np.arange(paint.HALVES**2) / 2**17).argmin(1), chosen[k])


def test_what_a_window_likes_is_near_and_by_chance() -> None:
    liked = paint.preference().flatten(2)[0].T.double()
    windows, sources = (places.double() for places in paint._places())
    apart = (windows[:, None] - sources[None]).square().sum(2)
    chance = (liked - paint.DISTANCE * apart) / paint.CHANCE
    assert torch.allclose(chance, chance.round(), atol=1e-4)
    chance = chance.round()
    assert float(chance.min()) >= 0 and float(chance.max()) < paint.CHANCES
    counts = torch.unique(chance, return_counts=True)[1]
    assert len(counts) == (paint.CHANCES + 1) // 2 and counts.max() < 2 * counts.median(), "all squares modulo a prime"
    together = torch.corrcoef(chance)
    together.fill_diagonal_(0)
    assert float(together.abs().quantile(0.99)) < 0.2, "what one window likes says nothing of what another does"


def forehead_alone() -> tuple[torch.Tensor, torch.Tensor]:
    """Seen and skin of a face of which a forehead is all that is bare."""
    seen, skin = torch.full((1, 3, 128, 128), 0.5), torch.zeros(1, 1, 128, 128)
    skin[..., :48, 8:120] = 1
    return seen + 0.02 * torch.randn(seen.shape, generator=torch.Generator().manual_seed(0)), skin


def test_little_skin_is_shared_out_and_windows_side_by_side_differ() -> None:
    chosen = paint.choose(*forehead_alone())[0].reshape(paint.CORNERS, paint.CORNERS)[6:15, 2:15]
    alike = torch.cat([(chosen[1:] == chosen[:-1]).flatten(), (chosen[:, 1:] == chosen[:, :-1]).flatten()])
    assert float(alike.double().mean()) <= 0.03
    counts = torch.unique(chosen, return_counts=True)[1]
    assert len(counts) > 50 and counts.max() <= 6
    rows = chosen.div(paint.HALVES, rounding_mode="floor") + 2  # the middle of a source, in halves
    assert (rows <= 2 * 6).double().mean() > 0.95, "all but a few from the forehead"


def test_a_little_more_or_less_skin_moves_few_windows() -> None:
    """Choices in turns, each from what the last had left, once moved up to four of five."""
    seen, skin = forehead_alone()
    other = (skin - 0.02 * torch.rand(skin.shape, generator=torch.Generator().manual_seed(1))).clamp(min=0)
    assert float((paint.choose(seen, skin) == paint.choose(seen, other)).double().mean()) >= 0.95


def test_where_no_window_is_whole_more_than_a_few_are_taken() -> None:
    """A lined face: skin between creases, and one spot of it that is whole."""
    rng = np.random.default_rng(0)
    seen = torch.from_numpy(0.5 + 0.02 * rng.standard_normal((1, 3, 128, 128))).float()
    skin = torch.zeros(1, 1, 128, 128)
    skin[..., ::3, 20:108] = 1.0
    skin[..., 1::3, 20:108] = 0.5
    skin[..., 56:72, 20:36] = 1.0
    assert len(paint.choose(seen, skin).unique()) > 20


def test_creased_skin_is_copied_fainter() -> None:
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.standard_normal((1, 1, 128, 128))).float().expand(1, 3, 128, 128)
    keep = skin = torch.ones(1, 1, 128, 128)

    def deviation(strength: float) -> float:
        seen = 0.5 + strength * noise
        return float(paint.detail(seen, keep, paint.own_shading(seen, skin), skin).std())

    assert deviation(0.02) == pytest.approx(2 * deviation(0.01), rel=0.01)
    assert deviation(0.1) == pytest.approx(deviation(0.05), rel=0.01)
    assert deviation(0.1) < paint.MOST_DEVIATION


def test_a_membrane_sees_skin_alone() -> None:
    seen = torch.zeros(1, 3, 128, 128)
    seen[:, :, :, :64], seen[:, :, :, 64:] = 0.6, 0.1  # skin, and hair beside it
    skin = torch.zeros(1, 1, 128, 128)
    skin[..., :40] = 1.0
    assert torch.allclose(paint.membrane(seen, skin), torch.tensor(0.6), atol=1e-3)
    assert torch.allclose(paint.membrane(seen, torch.zeros_like(skin)), torch.tensor(0.5), atol=1e-3)

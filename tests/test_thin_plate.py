"""model/thin_plate.py: the shading that is taught in the middle of real faces."""

import pytest
import torch

from faceeraser.model import paint, thin_plate


def face(colours: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(what is seen of a picture (1, 3, 128, 128), the hole in its middle)."""
    hidden = torch.zeros(1, 1, 128, 128)
    hidden[..., 34:94, 44:84] = 1
    return colours * (1 - hidden), hidden


def slope() -> torch.Tensor:
    """A picture that grows lighter from left to right."""
    return torch.linspace(0.3, 0.8, 128).expand(1, 3, 128, 128)


def taught(seen: torch.Tensor, hidden: torch.Tensor, skin: torch.Tensor | None = None) -> torch.Tensor:
    return thin_plate.plate_shading(seen, hidden, torch.ones_like(hidden) if skin is None else skin)


def test_even_skin_stays_even_but_for_a_middle_that_is_a_little_brighter() -> None:
    shading = taught(*face(torch.full((1, 3, 128, 128), 0.5)))
    assert 0.51 < float(shading[..., 32, 32].mean()) < 0.5 + thin_plate.BRIGHTER + 0.005
    assert float((shading[..., :8, :] - 0.5).abs().max()) < 0.005


@pytest.mark.parametrize(("mean", "most"), [(0.05, 0.2), (0.5, 1.0)])
def test_dark_skin_is_made_brighter_by_its_share(mean, most) -> None:
    middle = float(taught(*face(torch.full((1, 3, 128, 128), mean)))[..., 32, 32].mean())
    assert 0.3 * most * thin_plate.BRIGHTER < middle - mean < 1.1 * most * thin_plate.BRIGHTER


def test_a_highlight_beside_the_hole_runs_on_into_it_where_a_membrane_falls_off(monkeypatch) -> None:
    monkeypatch.setattr(thin_plate, "BRIGHTER", 0.0)
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    cheek = 0.4 + 0.3 * torch.exp(-((rows - 64) ** 2 + (columns - 36) ** 2) / 18**2)
    seen, hidden = face(cheek.expand(1, 3, 128, 128))
    membrane = paint.membrane(seen, 1 - hidden)
    beside = (0, 0, 32, 25)  # six pixels of 128 into the hole
    assert taught(seen, hidden)[beside] > membrane[beside] + 0.01


def test_a_membrane_is_no_brighter_than_the_skin_around_it() -> None:
    seen, hidden = face(torch.full((1, 3, 128, 128), 0.5))
    apart = thin_plate.MIDDLES["membrane"](seen, hidden, torch.ones_like(hidden)) - 0.5
    assert float(apart.abs().max()) < 0.005


def test_nothing_under_the_mask_is_looked_at() -> None:
    seen, hidden = face(slope())
    assert torch.equal(taught(seen, hidden), taught(seen, hidden, 1 - hidden))


def test_the_shadow_beside_hair_is_not_met() -> None:
    colours, skin = slope().clone(), torch.ones(1, 1, 128, 128)
    colours[..., :30, :], skin[..., :28, :] = 0.0, 0.0  # hair, and two rows of its shadow that pass for skin
    seen, hidden = face(colours)
    without = skin.clone()
    without[..., :30, :] = 0
    apart = (taught(seen, hidden, skin) - taught(seen, hidden, without))[..., 24:40, 26:38].abs()
    assert float(apart.max()) < 0.02


@pytest.mark.parametrize("skin", [0.0, 1.0])
def test_without_skin_or_without_a_visible_pixel_it_is_still_a_picture(skin) -> None:
    hidden = torch.ones(1, 1, 128, 128) * skin
    shading = taught(slope() * (1 - hidden), hidden, torch.full_like(hidden, skin))
    assert torch.isfinite(shading).all() and float(shading.min()) >= 0 and float(shading.max()) <= 1

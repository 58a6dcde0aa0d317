"""Equations 1-9 against values computed by hand or by an independent formula."""

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from faceeraser.model import losses


def test_discriminator_loss_is_the_cross_entropy_of_equation_2():
    real, fake = torch.tensor([0.9, 0.6]), torch.tensor([0.2, 0.5])
    expected = -np.mean(np.log([0.9, 0.6])) - np.mean(np.log([0.8, 0.5]))
    assert losses.discriminator_loss(real, fake).item() == pytest.approx(expected, rel=1e-5)


def test_generator_loss_is_the_non_saturating_form():
    assert losses.generator_loss(torch.tensor([0.2, 0.5])).item() == pytest.approx(-np.mean(np.log([0.2, 0.5])), rel=1e-5)


def test_feature_matching_sums_layers_and_averages_elements():
    fake = [torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 1, 1)]
    real = [torch.full((1, 2, 2, 2), 0.5), torch.full((1, 1, 1, 1), 3.0)]
    assert losses.feature_matching_loss(fake, real).item() == pytest.approx(0.5 + 3.0)


def test_gram_is_the_matrix_product_over_all_elements():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    expected = np.einsum("nchw,ndhw->ncd", x, x) / (3 * 4 * 5)
    assert np.allclose(losses.gram(torch.from_numpy(x)).numpy(), expected, atol=1e-5)


def test_style_ignores_where_things_are_and_perceptual_does_not():
    x = torch.rand(1, 4, 8, 8)
    moved = x.flip(-1)
    assert losses.style_loss([x], [moved]).item() == pytest.approx(0, abs=1e-6)
    assert losses.perceptual_loss([x], [moved]).item() > 0.1


def test_l1_inside_the_hole_divides_by_each_pictures_own_hole():
    truth, picture = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, 0, 0], mask[1] = 1, 1
    picture[0, :, 0, 0], picture[1] = 0.4, 0.2
    picture[0, :, 3, 3] = 9.0  # outside the hole
    assert losses.l1_loss(picture, truth, mask).item() == pytest.approx((0.4 + 0.2) / 2)


def test_losses_of_two_halves_average_to_the_whole_batch():
    picture, truth = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)
    mask = (torch.rand(4, 1, 8, 8) > torch.rand(4, 1, 1, 1)).float()
    for term in (
        lambda s: losses.l1_loss(picture[s], truth[s], mask[s]),
        lambda s: losses.style_loss([picture[s]], [truth[s]]),
        lambda s: losses.discriminator_loss(picture[s], truth[s]),
    ):
        halves = (term(slice(0, 2)) + term(slice(2, 4))) / 2
        assert halves.item() == pytest.approx(term(slice(0, 4)).item(), rel=1e-5)


def test_the_filter_bank_tells_texture_from_smear_and_grain_from_stripes():
    torch.manual_seed(0)
    bank = losses.FilterBank()
    flat = torch.full((1, 3, 64, 64), 0.6)
    grain = flat + 0.05 * torch.randn(1, 1, 64, 64)
    other_grain = flat + 0.05 * torch.randn(1, 1, 64, 64)
    stripes = flat + 0.07 * torch.sin(torch.arange(64.0) * 1.5).view(1, 1, 1, 64)

    def style(a, b):
        return losses.style_loss(bank(a), bank(b)).item()

    assert style(grain, other_grain) < 0.25 * style(grain, flat)
    assert style(grain, other_grain) < 0.25 * style(grain, stripes)


def test_vgg_offline_without_its_file_stops_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEERASER_CACHE", str(tmp_path))

    monkeypatch.setattr(losses, "VGG_URL", "http://127.0.0.1:1/vgg19-dcbb9e9d.pth")
    with pytest.raises(ValueError, match="--perceptual filterbank or --perceptual off"):
        losses.feature_network("vgg")
    assert not list(tmp_path.iterdir())


def test_vgg_takes_torchvisions_state_dict_and_gives_the_five_activations(tmp_path):
    torch.manual_seed(0)
    bare = object.__new__(losses.VGG19)
    torch.nn.Module.__init__(bare)
    plan, channels, state, index = losses.VGG19.PLAN, 3, {}, 0
    for width in plan:  # torchvision numbers every module of `features`: conv, relu, pool
        if width == 0:
            index += 1
            continue
        state[f"features.{index}.weight"] = torch.randn(width, channels, 3, 3) * 0.05
        state[f"features.{index}.bias"] = torch.zeros(width)
        channels, index = width, index + 2
    state["classifier.0.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "vgg.pth")
    vgg = losses.VGG19(tmp_path / "vgg.pth")
    maps = vgg(torch.rand(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8), (512, 4, 4)]
    assert all((m >= 0).all() for m in maps), "relu1_1 ... relu5_1 are taken after the ReLU"
    assert not any(p.requires_grad for p in vgg.parameters())


def test_vgg_refuses_another_file(tmp_path, monkeypatch):
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="is not torchvision's VGG-19"):
        losses.VGG19(tmp_path / "other.pth")
    monkeypatch.setenv("FACEERASER_CACHE", str(tmp_path))
    (tmp_path / "vgg19-dcbb9e9d.pth").write_bytes(b"tampered")
    assert not hashlib.sha256(b"tampered").hexdigest().startswith(losses.VGG_SHA256_PREFIX)
    with pytest.raises(ValueError, match="expected dcbb9e9d"):
        losses.vgg_file()


def distilled(path) -> None:
    """A file of the distilled VGG-19's form, with numbers drawn at random."""
    torch.manual_seed(0)
    widths, channels = (16, 32, 64, 128, 128), 3
    state = {"conv0.weight": torch.randn(3, 3, 1, 1), "conv0.bias": torch.randn(3)}
    for block, (width, depth) in enumerate(zip(widths, losses.DistilledVGG19.DEPTHS, strict=True), 1):
        for k in range(1, depth + 1):
            state[f"conv{block}{k}.weight"] = 0.1 * torch.randn(width, channels, 3, 3)
            state[f"conv{block}{k}.bias"] = torch.zeros(width)
            channels = width
        state[f"conv{block}1_aux.weight"] = torch.zeros(1)  # of the file, and not needed
    save_file(state, path)


def test_the_distilled_vgg_gives_the_five_activations_and_refuses_another_file(tmp_path):
    distilled(tmp_path / "vgg.safetensors")
    vgg = losses.feature_network("vgg16x", tmp_path / "vgg.safetensors")
    maps = vgg(torch.rand(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 64, 64), (32, 32, 32), (64, 16, 16), (128, 8, 8), (128, 4, 4)]
    assert all((m >= 0).all() for m in maps) and not any(p.requires_grad for p in vgg.parameters())
    with pytest.raises(ValueError, match="found no --vgg"):
        losses.feature_network("vgg16x")
    save_file({"conv0.weight": torch.zeros(3, 3, 1, 1)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "vgg.safetensors").read_bytes()[:900])
    for name in ("other", "cut"):
        with pytest.raises(ValueError, match="no distilled VGG-19"):
            losses.feature_network("vgg16x", tmp_path / f"{name}.safetensors")


def hole(size: int = 64, side: int = 24) -> torch.Tensor:
    mask = torch.zeros(1, 1, size, size)
    start = (size - side) // 2
    mask[..., start : start + side, start : start + side] = 1
    return mask


def shift(x: float, y: float) -> torch.Tensor:
    return torch.tensor([float(x), float(y)]).view(1, 2, 1, 1).expand(1, 2, 64, 64).clone()


def test_landing_is_zero_on_skin_that_is_seen_and_grows_with_depth():
    mask = hole(side=16)
    assert losses.landing_loss(shift(18, 0), mask, mask).item() == pytest.approx(0, abs=1e-3)
    here, nearer = (losses.landing_loss(shift(x, 0), mask, mask).item() for x in (0, 8))
    assert here > nearer > 0
    assert losses.landing_loss(shift(60, 0), mask, mask).item() > here, "beyond the picture's border there is nothing"


def test_landing_pulls_a_flow_out_of_the_hole():
    mask, flow = hole(), shift(3, 0).requires_grad_()
    losses.landing_loss(flow, mask, mask).backward()
    assert (flow.grad[:, 0, 32, 34:40] < 0).all(), "right of the middle, further to the right is better"


def test_coherence_is_zero_for_a_shift_and_charges_a_stripe_and_a_seam_little():
    mask = hole()
    assert losses.coherence_loss(shift(30, -4), mask).item() == 0
    stripe, seam = shift(0, 0), shift(0, 0)
    stripe[:, 0] = 20 - torch.arange(64.0)  # every pixel of a row copies column 20
    seam[:, 0, :, 32:] = 40
    assert losses.coherence_loss(stripe, mask) > 3 * losses.coherence_loss(seam, mask) > 0


def test_shading_forgives_detail_and_not_colour():
    torch.manual_seed(0)
    truth, mask = torch.full((1, 3, 64, 64), 0.5), hole()
    grain, cast = truth + 0.05 * torch.randn_like(truth), truth + 0.05
    assert losses.shading_loss(cast, truth, mask).item() == pytest.approx(0.05, rel=1e-3)
    assert losses.shading_loss(grain, truth, mask).item() < 0.2 * losses.l1_loss(grain, truth, mask).item()


def test_texture_looks_inside_the_hole_and_at_kind_and_strength():
    torch.manual_seed(0)
    bank, mask = losses.FilterBank(), hole(side=40)
    flat = torch.full((1, 3, 64, 64), 0.6)
    grain, other = (flat + 0.03 * torch.randn(1, 1, 64, 64) for _ in range(2))
    stripes = flat + 0.04 * torch.sin(torch.arange(64.0) * 1.5).view(1, 1, 1, 64)
    outside = grain * mask + flat * (1 - mask)

    def texture(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor = mask) -> float:
        return losses.texture_loss(bank(a), bank(b), where).item()

    assert texture(other, grain) < 0.4 * min(texture(flat, grain), texture(stripes, grain))
    assert texture(outside, grain) < 0.2 * texture(flat, grain), "what is outside the hole counts for nothing"
    assert texture(flat, grain, torch.zeros_like(mask)) == 0

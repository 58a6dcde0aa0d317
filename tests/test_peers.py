"""The paper's peers: what is distinctive of each, and that they are `Inpainter`s like FaceEraser."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from faceeraser.model import checkpoint, inference, pairs, peers
from faceeraser.model.config import COMPARED, PRESETS, Config
from faceeraser.model.networks import Conv, Inpainter, cost_of
from faceeraser.system import writing
from faceeraser.training import fit

PEERS = COMPARED[1:]
EVERY = [(preset, model) for preset in PRESETS for model in PEERS]
QUICK = {"batch": 2, "features": "off", "precision": "fp32", "adversarial": 0.0}


def lively(preset: str, model: str, seed: int = 0, size: int = 64) -> Inpainter:
    """A network whose heads are not at zero."""
    torch.manual_seed(seed)
    network = peers.build(Config.of(preset, model=model, resolution=size), 8).eval()
    for name in network.HEADS:
        nn.init.normal_(network.get_submodule(name).conv.weight, std=0.05)
    return network


def square(x: int, y: int, side: int, size: int = 64) -> torch.Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., y : y + side, x : x + side] = 1
    return mask


# --- what every model is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "model"), EVERY)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6), x=st.integers(0, 40), y=st.integers(0, 40), side=st.integers(2, 24))
def test_nothing_of_the_hole_reaches_an_output(preset, model, seed, x, y, side):
    network, mask = lively(preset, model), square(x, y, side)
    generator = torch.Generator().manual_seed(seed)
    image, other = (torch.rand(1, 3, 64, 64, generator=generator) for _ in range(2))
    with torch.no_grad():
        a, b = network(image, mask), network(image * (1 - mask) + other * mask, mask)
    for key in a:
        assert torch.equal(a[key], b[key]), key
    assert torch.equal(a["erased"] * (1 - mask), image * (1 - mask))
    assert torch.equal(a["erased"] * mask, a["refined"] * mask)


@pytest.mark.parametrize("model", PEERS)
def test_an_untrained_mobile_peer_is_the_smooth_fill(model):
    network, mask = peers.build(Config.of("mobile", model=model, resolution=64), 8).eval(), square(16, 16, 24)
    # Smooth, so that HiFill has no residual to aggregate.
    image = F.interpolate(torch.rand(1, 3, 2, 2), size=(64, 64), mode="bilinear", align_corners=True)
    with torch.no_grad():
        out = network(image, mask)["erased"]
        filled = network.fill(image * (1 - mask), torch.cat([1 - mask] * 3, 1))[0]
    assert torch.allclose(out, filled, atol=0.02)


@pytest.mark.parametrize(("preset", "model"), EVERY)
def test_a_checkpoint_brings_back_the_same_network(preset, model, tmp_path):
    network, mask, image = lively(preset, model), square(20, 20, 20), torch.rand(1, 3, 64, 64)
    with writing.whole_folder(tmp_path / "run") as folder:
        checkpoint.save(folder, network, stage="train-inpaint", options={}, metrics={})
    again = checkpoint.load(tmp_path / "run")
    assert type(again) is type(network) and again.config.model == model
    with torch.no_grad():
        assert torch.equal(again(image, mask)["erased"], network(image, mask)["erased"])


@pytest.mark.parametrize("model", PEERS)
def test_each_phase_trains_its_networks_and_nothing_else(model, skin, tmp_path):
    data = pairs.TrainingPairs(skin, 64)
    for phase in lively("paper", model).PHASES:
        network = lively("paper", model)
        before = {k: v.clone() for k, v in network.state_dict().items()}
        result = fit.fit(network, data, fit.Recipe(phase=phase, steps=2, edge_l1=1.0, **QUICK), tmp_path / phase)
        changed = {k.split(".")[0] for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
        assert changed == set(network.PHASES[phase]), phase
        assert all(math.isfinite(value) for value in result["losses"].values())


def test_a_phase_that_a_model_does_not_have_is_refused(skin, tmp_path):
    with pytest.raises(ValueError, match="hifill has no such phase, expected one of inpaint, all"):
        fit.fit(lively("paper", "hifill"), pairs.TrainingPairs(skin, 64), fit.Recipe(phase="edge", **QUICK), tmp_path)


@pytest.mark.parametrize("model", PEERS)
def test_a_peer_learns(model, skin, tmp_path):
    network, held_out = lively("paper", model), pairs.evaluation_pairs(skin, "eval", 64)
    truth, mask = pairs.to_tensors(held_out)

    def error() -> float:
        return float(((inference.run(network, held_out)["erased"] - truth).abs() * mask).sum() / mask.sum())

    before = error()
    fit.fit(
        network,
        pairs.TrainingPairs(skin, 64),
        fit.Recipe(steps=40, lr=2e-3, beta1=0.9, beta2=0.999, region="hole", **QUICK),
        tmp_path,
    )
    assert error() < 0.85 * before


def test_costs_include_the_products_of_attention():
    """At the paper's 512 pixels: 1,024 places, compared by 9 x 32 features and applied to three skips and the residual."""
    network = peers.build(Config.of("paper", model="hifill"), 8)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    macs = []
    hooks = [
        m.register_forward_hook(lambda m, i, o: macs.append(m.weight.numel() * o.shape[-1] * o.shape[-2]))
        for m in convolutions
    ]
    gmacs, _ = cost_of(network)
    for hook in hooks:
        hook.remove()
    pieces = 9 * 32 + 32 * 4 + 16 * 16 + 8 * 64 + 3 * 64
    assert gmacs * 1e9 == pytest.approx(sum(macs) + 1024**2 * pieces)


# --- EdgeConnect ------------------------------------------------------------------------------------------------------


def test_edgeconnect_paints_by_the_edges_it_completed():
    network, image, mask = lively("paper", "edgeconnect"), torch.rand(1, 3, 64, 64), square(20, 20, 20)
    edges = torch.zeros(1, 1, 64, 64)
    edges[..., 10, :] = 1
    with torch.no_grad():
        plain, guided = network(image, mask, torch.zeros_like(edges)), network(image, mask, edges)
    assert not torch.equal(plain["refined"], guided["refined"])
    body = network.paint
    assert len(body.blocks) == 8 and body.blocks[0].conv1.conv.dilation == (2, 2), "an auto-encoder as the edge network's"
    assert [layer.conv.stride for layer in body.down] == [(2, 2), (2, 2)]


# --- StructureFlow ----------------------------------------------------------------------------------------------------


def patchwork(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(a picture of two flat halves, the same with grain), (64, 64, 3) in [0, 1]."""
    flat = np.full((64, 64, 3), 0.3, np.float32)
    flat[:, 32:] = 0.7
    return flat, flat + noise * np.random.default_rng(seed).standard_normal(flat.shape).astype(np.float32)


def as_tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None]


def test_structure_smoothing_takes_the_grain_and_leaves_the_edge():
    flat, grainy = patchwork(0.04)
    smooth = peers.smooth_structure(as_tensor(grainy))
    left = (smooth - as_tensor(flat))[..., 4:28].std()
    assert left < 0.2 * 0.04, "grain is left"
    step = smooth[..., 33:36].mean() - smooth[..., 28:31].mean()
    assert step > 0.35, "the edge of 0.4 is blurred"
    # A Gaussian that takes as much grain takes the edge too.
    import cv2

    blurred = cv2.GaussianBlur(grainy, (0, 0), 3)
    assert np.mean(blurred[:, 33:36]) - np.mean(blurred[:, 28:31]) < 0.35


def test_the_steps_of_the_solver_come_near_the_exact_solution():
    """Against a dense solve of the same linear system, on a picture small enough for it."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, 12, 12)
    weights = [0.015 * w for w in peers._rtv_weights(image, 3.0)]
    unit = torch.eye(144).reshape(144, 1, 12, 12).repeat(1, 3, 1, 1)
    wx, wy = (w[:, :1].clone() for w in weights)
    wx[..., -1], wy[..., -1, :] = 0, 0
    across, down = peers._across(unit[:, :1]).reshape(144, 144).T, peers._down(unit[:, :1]).reshape(144, 144).T
    system = torch.eye(144) + across.T @ torch.diag(wx.flatten()) @ across + down.T @ torch.diag(wy.flatten()) @ down
    exact = torch.linalg.solve(system, image.reshape(3, 144).T).T.reshape(1, 3, 12, 12)
    solution = peers._solve(image, image, weights)
    assert (solution - exact).abs().mean() < 0.1 * (image - exact).abs().mean()


def test_the_structure_network_is_trained_for_the_smoothed_picture(skin, tmp_path):
    """A network that gives the smoothed truth itself has no loss; one that gives the truth has."""
    network, data = lively("paper", "structureflow"), pairs.TrainingPairs(skin, 64)
    losses = []
    for smooth in (peers.smooth_structure, lambda image: image):

        def completed(image, mask, smooth=smooth):
            noise = 0.0 * network.structure.head.conv.weight.sum()
            return {"structure_hat": smooth(image) + noise, "structure_truth": peers.smooth_structure(image)}

        network.complete_structure = completed
        result = fit.fit(network, data, fit.Recipe(phase="structure", steps=1, **QUICK), tmp_path / str(len(losses)))
        losses.append(result["losses"]["l1"])
    assert losses[0] < 1e-6 < 1e-3 < losses[1]


def test_the_appearance_flow_fetches_features_from_where_it_points():
    """A flow to the left, the same everywhere, set by hand: what joins the trunk in the hole is what was there."""
    network = lively("paper", "structureflow")
    texture = network.texture
    nn.init.zeros_(texture.flow.conv.weight)
    texture.flow.conv.bias.data = torch.tensor([-0.5493, 0.0])
    joined, seen = [], []
    texture.joined.register_forward_hook(lambda m, i, o: joined.append(o))
    texture.down[-1].register_forward_hook(lambda m, i, o: seen.append(o))
    mask = square(40, 24, 16)
    with torch.no_grad():
        network(torch.rand(1, 3, 64, 64), mask)
    fetched, features = joined[0][:, 32:], seen[0]
    blurred = F.avg_pool2d(F.avg_pool2d(features, 3, 1, 1), 3, 1, 1)
    moved = math.tanh(-0.5493) * 7.5  # of a map 16 wide, an offset of 1 is 7.5
    whole, part = math.floor(moved), moved - math.floor(moved)
    at = slice(10 + whole, 14 + whole), slice(11 + whole, 15 + whole)
    expected = (1 - part) * blurred[:, :, 6:10, at[0]] + part * blurred[:, :, 6:10, at[1]]
    assert torch.allclose(fetched[:, :, 6:10, 10:14], expected, atol=1e-4)
    assert torch.equal(fetched[:, :, :, :8], features[:, :, :, :8]), "outside the hole nothing is fetched"


def test_sampling_correctness_is_least_where_the_flow_finds_what_is_alike():
    """A picture of stripes 16 pixels wide: a shift by a whole period fetches the truth, half a period its opposite."""
    network = lively("paper", "structureflow")
    column = (torch.arange(64) // 8 % 2).float()
    grain = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    truth = (0.5 + 0.4 * (grain - 0.5)) * column + 0.5 * (1 - column)
    mask = square(24, 16, 16)

    def loss(pixels: float) -> float:
        offsets = torch.zeros(1, 2, 16, 16)
        offsets[:, 0] = pixels / 4 / 7.5
        return float(network.own_terms({"feature_offsets": offsets}, truth, mask, 1 - mask, None)["correctness"])

    assert loss(16) < loss(8) and loss(-16) < loss(-8)
    # Where the truth is not known, as under the own parts of a whole photograph, nothing is asked for.
    offsets = torch.zeros(1, 2, 16, 16)
    terms = network.own_terms({"feature_offsets": offsets}, truth, mask, 1 - mask, torch.zeros_like(mask))
    assert float(terms["correctness"]) == 0.0


# --- HiFill -----------------------------------------------------------------------------------------------------------


def test_attention_looks_only_where_something_is_seen():
    hidden = torch.zeros(1, 1, 6, 6)
    hidden[..., 2:4, 2:4] = 1
    rows = peers.attention_of(torch.randn(1, 5, 6, 6), hidden)
    assert torch.allclose(rows.sum(2), torch.ones(1, 36))
    assert float(rows[:, :, hidden.flatten() > 0].max()) == 0.0


def test_attention_goes_where_the_surroundings_are_most_alike():
    """A hidden place whose 3 x 3 features stand once more in the picture takes nearly all from there."""
    features = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    features[..., 4:7, 4:7] = features[..., 1:4, 0:3]
    hidden = torch.zeros(1, 1, 8, 8)
    hidden[..., 5, 5] = 1
    row = peers.attention_of(features, hidden)[0, 5 * 8 + 5]
    assert int(row.argmax()) == 2 * 8 + 1 and float(row.max()) > 0.9


def test_attention_transfers_pieces_whole():
    """One place takes all of its weight from another: the hole's piece becomes that piece, at any size."""
    for size in (8, 16, 32):
        x = torch.rand(1, 3, size, size)
        attention = torch.eye(16)[None].clone()
        attention[0, 5], attention[0, 5, 2] = 0, 1  # piece (1, 1) from piece (0, 2) of a 4 x 4 grid
        side = size // 4
        hole = torch.zeros(1, 1, size, size)
        hole[..., side : 2 * side, side : 2 * side] = 1
        moved = peers.transferred(x, attention, hole)
        assert torch.allclose(moved[..., side : 2 * side, side : 2 * side], x[..., :side, 2 * side : 3 * side])
        assert torch.equal(moved * (1 - hole), x * (1 - hole))


def test_the_residual_is_what_resizing_loses_and_is_aggregated_into_the_hole():
    """With shrink 2 the networks never see detail; yet the hole gets some, as strong as the seen skin's, if it has any."""
    network, mask = peers.build(Config.of("mobile", model="hifill", resolution=128), 8).eval(), square(48, 48, 32, 128)
    smooth = torch.full((1, 3, 128, 128), 0.5)
    grain = smooth + 0.1 * (torch.rand(smooth.shape, generator=torch.Generator().manual_seed(0)) - 0.5)
    assert float(network.lost(smooth).abs().max()) < 1e-6
    assert float((network.lost(grain) + network._enlarged(network.shrunk(grain), "bilinear") - grain).abs().mean()) < 0.01
    with torch.no_grad():
        plain, rough = network(smooth, mask)["erased"], network(grain, mask)["erased"]

    def energy(picture: torch.Tensor) -> float:
        return float(network.lost(picture)[..., 52:76, 52:76].std())

    assert energy(plain) < 1e-5 < 0.003 < energy(rough) <= 1.1 * energy(grain)


@pytest.mark.parametrize("gate", ["single", "separable"])
def test_a_light_gate_costs_a_fraction_of_a_plain_one(gate):
    layer = peers.GatedConv(Config.of("paper", model="hifill"), 32, 32, 3, gate)
    features = layer.features.conv.weight.numel()
    extra = sum(p.numel() for p in layer.parameters() if p.dim() == 4) - features
    assert extra < 0.2 * features, "a plain gate has as many weights as the features"
    assert isinstance(layer.gate, Conv) and isinstance(layer.gate.act, nn.Sigmoid)
    layer.gate.conv.bias.data.fill_(-100.0)
    assert not layer(torch.rand(1, 32, 8, 8)).any(), "a closed gate lets nothing through"


def test_hifill_works_at_twice_the_size_of_the_others():
    network, seen = lively("paper", "hifill"), []
    network.refine.stem.register_forward_hook(lambda m, i, o: seen.append(i[0].shape[-2:]))
    with torch.no_grad():
        out = network(torch.rand(1, 3, 64, 64), square(20, 20, 20))
    assert seen == [(128, 128)] and out["erased"].shape[-2:] == (64, 64)

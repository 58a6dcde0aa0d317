"""The networks over every variant: what goes in, what comes out, and that nothing of the real face gets through."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from faceeraser.model import peers, quant
from faceeraser.model.config import COMPARED, VARIANTS, Config
from faceeraser.model.networks import FaceEraser, PatchDiscriminator, copyable, cost_of, fill_hole, three
from faceeraser.model.peers import build
from faceeraser.model.warp import warp

EVERY = [(preset, variant) for preset in ("paper", "mobile") for variant in VARIANTS]


def lively(preset: str, variant: str = "unet_attention", width: int = 8, seed: int = 0) -> FaceEraser:
    """A network whose heads are not at zero, so that the flow moves pixels and the refine network paints."""
    torch.manual_seed(seed)
    pipeline = FaceEraser(Config.of(preset, variant=variant, resolution=64), width).eval()
    for head in (pipeline.clone.head, pipeline.refine.head):
        nn.init.normal_(head.conv.weight, std=0.05)
    for norm in pipeline.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
            nn.init.normal_(norm.running_mean, std=0.2)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return pipeline


def quantized(seed: int = 0) -> FaceEraser:
    pipeline = lively("mobile", seed=seed)
    quant.fuse(pipeline)
    quant.prepare(pipeline, pipeline.config.float_layers)
    quant.set_calibrating(pipeline, True)
    with torch.no_grad():
        pipeline(torch.rand(2, 3, 64, 64), (torch.rand(2, 1, 64, 64) > 0.6).float())
    quant.set_calibrating(pipeline, False)
    return pipeline


def rectangle(x: int, y: int, width: int, height: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., y : y + height, x : x + width] = 1
    return mask


@pytest.mark.parametrize(("preset", "variant"), EVERY)
def test_shapes_and_ranges(preset, variant):
    pipeline = lively(preset, variant)
    with torch.no_grad():
        out = pipeline(torch.rand(2, 3, 64, 64), rectangle(10, 20, 30, 12).repeat(2, 1, 1, 1))
    channels = {"edges": 1, "edges_hat": 1, "offsets": 2, "flow": 2, "cloned": 3, "refined": 3, "erased": 3}
    small = 64 // pipeline.config.shrink
    shapes = {k: (2, c, 64, 64) for k, c in channels.items()} | {"offsets_seen": (2, 2, small, small)}
    assert {k: tuple(v.shape) for k, v in out.items()} == shapes
    assert set(out["edges"].unique().tolist()) <= {0.0, 1.0}
    for name, low, high in (("edges_hat", 0, 1), ("offsets", -1, 1), ("refined", 0, 1), ("erased", 0, 1)):
        assert out[name].min() >= low and out[name].max() <= high, name


def test_a_given_plan_is_followed_and_its_own_changes_nothing():
    for preset in ("mobile", "paper"):
        pipeline = lively(preset)
        image, mask = torch.rand(1, 3, 64, 64), rectangle(10, 20, 30, 12)
        with torch.no_grad():
            own = pipeline(image, mask)
            again = pipeline(image, mask, plan={"offsets_seen": own["offsets_seen"]})
            moved = pipeline(image, mask, plan={"offsets_seen": own["offsets_seen"] + 0.1})
        assert torch.equal(again["erased"], own["erased"])
        inner = -torch.nn.functional.max_pool2d(-mask, 7, 1, 3) > 0.5
        apart = (moved["flow"] - own["flow"])[inner.expand(-1, 2, -1, -1)]
        assert len(apart) and torch.allclose(apart, torch.tensor(0.1 * 63 / 2), atol=1e-4)
        assert not torch.equal(moved["erased"], own["erased"])


NETWORKS = {f"{p}-{v}": lambda p=p, v=v: lively(p, v) for p, v in EVERY} | {"mobile-int8": quantized}


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    box=st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(2, 24)] * 2),
    value=st.sampled_from([0.0, 1.0, 0.5, None]),
)
def test_nothing_of_the_hole_reaches_an_output(name, seed, box, value):
    pipeline = NETWORKS[name]()
    generator = torch.Generator().manual_seed(seed)
    image, other = (torch.rand(1, 3, 64, 64, generator=generator) for _ in range(2))
    mask = rectangle(*box)
    changed = image * (1 - mask) + mask * (other if value is None else value)
    with torch.no_grad():
        a, b = pipeline(image, mask), pipeline(changed, mask)
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.mark.parametrize("preset", ["paper", "mobile"])
def test_outside_the_mask_the_input_comes_back_untouched(preset):
    pipeline, mask = lively(preset), rectangle(20, 10, 20, 30)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        out = pipeline(image, mask)
    assert torch.equal(out["erased"] * (1 - mask), image * (1 - mask))
    assert torch.equal(out["erased"] * mask, out["refined"] * mask)


def test_the_flow_moves_pixels_in_these_tests():
    with torch.no_grad():
        flow = lively("mobile")(torch.rand(1, 3, 64, 64), rectangle(16, 16, 30, 30))["flow"]
    assert flow.abs().max() > 3, "the tests above would pass with a warp that does nothing"


def test_an_untrained_mobile_network_is_the_smooth_fill():
    pipeline = FaceEraser(Config.of("mobile", resolution=64), 8).eval()
    image, mask = torch.rand(1, 3, 64, 64), rectangle(16, 16, 30, 30)
    with torch.no_grad():
        erased = pipeline(image, mask)["erased"]
    assert torch.allclose(erased, fill_hole(image * (1 - mask), three(1 - mask))[0], atol=1e-5)


def test_the_paper_width_costs_what_the_paper_costs():
    gmacs, params = cost_of(FaceEraser(Config.of("paper"), 64))
    assert gmacs == pytest.approx(142, rel=0.02)
    assert params == pytest.approx(49e6, rel=0.01)


def test_count_agrees_with_the_formula_for_one_convolution():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
            self.up = nn.ConvTranspose2d(5, 2, 4, stride=2, padding=1)

        def forward(self, image, mask):
            return self.up(self.conv(image))

    gmacs, params = cost_of(One(), 64)
    assert gmacs * 1e9 == 32 * 32 * 3 * 5 * 9 + 32 * 32 * 5 * 2 * 16
    assert params == 3 * 5 * 9 + 5 + 5 * 2 * 16 + 2


@settings(max_examples=20, deadline=None)
@given(level=st.floats(0, 1), x=st.integers(0, 30), y=st.integers(0, 30), side=st.integers(1, 34))
def test_a_flat_picture_is_filled_with_its_colour(level, x, y, side):
    image = torch.full((1, 3, 64, 64), level)
    keep = three(1 - rectangle(x, y, side, side))
    filled, shading = fill_hole(image * keep, keep)
    assert torch.allclose(filled, image, atol=1e-4) and torch.allclose(shading, image, atol=1e-4)


def test_the_fill_follows_a_gradient_and_keeps_what_is_visible():
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(1, 3, 64, 64)
    mask = rectangle(20, 20, 24, 24)
    filled, _ = fill_hole(ramp * (1 - mask), three(1 - mask))
    assert torch.allclose(filled * (1 - mask), ramp * (1 - mask), atol=1e-5)
    assert ((filled - ramp).abs() * mask).max() < 0.06
    mean_fill = (ramp * (1 - mask)).sum() / (3 * (1 - mask).sum())
    assert ((mean_fill - ramp).abs() * mask).max() > 0.15, "the flat fill would pass too"


def test_discriminator_sees_70_pixels():
    critic = PatchDiscriminator(4, 8).eval()
    x = torch.rand(1, 4, 256, 256, requires_grad=True)
    scores, activations = critic(x)
    assert scores.shape == (1, 1, 30, 30) and len(activations) == 4
    scores[0, 0, 15, 15].backward()
    seen = (x.grad.abs().sum(1) > 0)[0]
    assert seen.any(0).sum() == 70 and seen.any(1).sum() == 70


@pytest.mark.parametrize("what", [{"preset": "phone"}, {"preset": "mobile", "variant": "vnet"}])
def test_an_unknown_structure_is_refused_by_name(what):
    with pytest.raises(ValueError, match="is not known: expected one of"):
        Config.of(**what)


def test_a_copy_brings_detail_with_it_and_no_colour():
    """The left half is dark and grainy; the hole, in the bright and flat right half, is told to copy from the left."""
    torch.manual_seed(0)
    image = torch.full((1, 3, 64, 64), 0.7)
    image[..., :32] = 0.3 + 0.02 * torch.randn(1, 1, 64, 32)
    mask = rectangle(40, 20, 16, 16)
    pipeline = FaceEraser(Config.of("mobile", resolution=64), 4).eval()
    pipeline.clone.forward = lambda *inputs: torch.tensor([-32 / 31.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 32, 32)
    with torch.no_grad():
        cloned = pipeline(image, mask)["cloned"][..., 22:34, 42:54]
    assert cloned.mean() == pytest.approx(0.7, abs=0.02), "the colour is that of where the copy is laid"
    assert cloned.std() > 0.01, "its grain is that of where it was taken"


def test_an_outline_is_not_copied_and_pores_are():
    pores, outline = torch.full((1, 1, 1, 1), 0.02), torch.full((1, 1, 1, 1), 0.3)
    assert copyable(pores).item() > 0.019 and copyable(-pores).item() < -0.019
    assert copyable(outline).item() == 0


def test_halved_networks_cost_a_quarter_and_keep_the_shapes():
    whole = FaceEraser(Config.of("mobile", halved=()), 8)
    halved = FaceEraser(Config.of("mobile", halved=("edge", "clone")), 8)
    halved.load_state_dict(whole.state_dict())
    refine = cost_of(whole)[0] - (cost_of(whole)[0] - cost_of(halved)[0]) / 0.75
    assert 0 < refine < cost_of(halved)[0]
    with torch.no_grad():
        outputs = halved.eval()(torch.rand(1, 3, 64, 64), rectangle(16, 16, 30, 30))
    assert outputs["edges_hat"].shape == (1, 1, 64, 64) and outputs["offsets"].shape == (1, 2, 64, 64)


def test_shrunk_networks_do_at_full_size_what_they_do_at_the_small_one():
    """Twice the size and shrink 2: the same flow in half pictures, the same edges, a quarter of the cost of shrink 1."""
    small = lively("mobile")
    small.config = dataclasses.replace(small.config, shrink=1)
    large = copy.deepcopy(small)
    large.config = dataclasses.replace(small.config, shrink=2, resolution=128)
    image, mask = torch.rand(1, 3, 64, 64), rectangle(16, 16, 30, 30)
    with torch.no_grad():
        a = small(image, mask)
        b = large(F.interpolate(image, scale_factor=2.0), F.interpolate(mask, scale_factor=2.0))
    assert torch.equal(F.max_pool2d(b["edges"], 2), a["edges"])
    assert torch.allclose(F.avg_pool2d(b["edges_hat"], 2), a["edges_hat"], atol=1e-5)
    assert b["erased"].shape == (1, 3, 128, 128)
    inside = F.max_pool2d(1 - mask, 5, 1, 2) == 0  # the fill differs a little, and flow is cut off at the hole's border
    change = (F.avg_pool2d(b["offsets"], 2) - a["offsets"]).abs() * inside
    assert change.mean() < 0.1 * (a["offsets"].abs() * inside).mean()
    assert cost_of(large, 128)[0] == pytest.approx(cost_of(small, 64)[0])


def test_what_a_config_writes_it_reads_again():
    paper = Config.of("paper", variant="unet", resolution=128)
    for config in (Config.of("mobile"), paper, Config.of("paper", model="hifill")):
        assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_what_the_first_format_left_out_is_read_as_it_was():
    """Of v0.1 every field may be missing that came later: networks saw all of the picture then, and so on."""
    always = ("preset", "variant", "norm", "padding", "upsampling", "fill", "residual", "resolution", "blocks")
    old = {"format": 1, **{name: getattr(Config.of("mobile"), name) for name in always}}
    read = Config.from_json(old)
    assert (read.model, read.shrink, read.halved, read.guided, read.separable) == ("faceeraser", 1, (), True, False)
    assert read.float_layers == ("clone.head",) and not read.fused and not read.quantized
    assert Config.from_json({**old, "shrink": 2}).shrink == 2


def test_the_checkpoint_of_v0_1_is_of_the_first_format_and_reads():
    fields = json.loads((Path(__file__).parent / "fixtures" / "v0.1-config.json").read_text())
    assert fields["format"] == 1 and "model" not in fields, "else this shows nothing"
    assert Config.from_json(fields) == Config.of("mobile")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "expected format 1 or 2, found 3"),
        ({"format": None}, "found None"),
        ({"shrink": None}, "lacks shrink"),
        ({"wings": 2}, r"unknown fields \['wings'\]"),
        ({"model": "pix2pix"}, "'pix2pix' is not known"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(change, message):
    fields = {**Config.of("mobile").to_json(), **change}
    with pytest.raises(ValueError, match=message):
        Config.from_json({name: value for name, value in fields.items() if value is not None})


@pytest.mark.parametrize("preset", ["paper", "mobile"])
def test_the_flow_that_is_returned_is_the_flow_that_was_used(preset):
    """Everywhere, and not only in the hole: an odd hole cuts through the cells that the networks see."""
    pipeline, used = lively(preset), []
    pipeline.warp = lambda picture, flow: used.append(flow) or warp(picture, flow)
    mask = rectangle(17, 21, 25, 19)
    with torch.no_grad():
        out = pipeline(torch.rand(1, 3, 64, 64), mask)
    assert len(used) == 1 and torch.equal(used[0], out["flow"])
    assert torch.equal(pipeline.to_flow(out["offsets"]), out["flow"])
    assert (out["flow"] * (1 - mask)).abs().max() > 0.1, "the same would be said of a flow that is cut off at the hole"
    if preset == "mobile":
        rim = F.max_pool2d(mask, 9, 1, 4)
        assert (out["flow"] * (1 - rim)).abs().max() == 0, "and beyond the rim there is none"


def test_what_is_traced_without_pixels_moving_is_the_same_network():
    """`channels_only` and `seeing` give objects of their own with the very same layers."""
    for model in COMPARED:
        network = build(Config.of("mobile", model=model, resolution=64), width=4)
        for view in (network.channels_only(), network.seeing(1)):
            assert [id(p) for p in view.parameters()] == [id(p) for p in network.parameters()]
        assert network.config.shrink == 2 and network.seeing(1).config.shrink == 1
    assert network.refine.transfer is peers.transferred and network.channels_only().refine.transfer is not peers.transferred

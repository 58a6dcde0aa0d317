"""One assertion for each detail that the paper fixes (Hua et al., FaceEraser, 2021), with its section."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from faceeraser.artifacts import edges
from faceeraser.model import losses
from faceeraser.model.config import Config
from faceeraser.model.networks import ChannelAttention, DilatedBlock, FaceEraser, PatchDiscriminator, RefineBlock
from faceeraser.training import fit

CONFIG = Config.of("paper")


@pytest.fixture(scope="module")
def paper() -> FaceEraser:
    return FaceEraser(CONFIG, 8)


def convolutions(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]


def test_3_1_canny_sigma_and_thresholds():
    assert (edges.SIGMA, edges.LOW_THRESHOLD, edges.HIGH_THRESHOLD) == (2.0, 0.1, 0.2)


def test_3_1_inputs_of_the_three_networks(paper):
    assert paper.edge.stem.conv.in_channels == 1 + 1 + 1  # gray, edges, mask
    assert paper.clone.stem.conv.in_channels == 1 + 3 + 1  # edges_hat, image, mask
    assert paper.refine.stem.conv.in_channels == 3 + 3 + 2  # cloned, image, flow


def test_3_1_the_clone_network_gives_two_channels(paper):
    assert paper.clone.head.conv.out_channels == 2


@pytest.mark.parametrize("name", ["edge", "clone"])
def test_3_3_encoders_downsample_twice_then_eight_residual_blocks(paper, name):
    network = getattr(paper, name)
    assert [layer.conv.stride for layer in network.down] == [(2, 2), (2, 2)]
    assert len(network.blocks) == 8 and all(isinstance(b, DilatedBlock) for b in network.blocks)
    assert [layer.conv.conv.stride for layer in network.up] == [(2, 2), (2, 2)]


def test_3_3_dilation_of_two_in_the_residual_layers(paper):
    assert all(b.conv1.conv.dilation == (2, 2) for network in (paper.edge, paper.clone) for b in network.blocks)


def test_3_3_instance_norm_and_relu_for_all_but_the_last_convolution(paper):
    for network in (paper.edge, paper.clone):
        assert isinstance(network.stem.norm, nn.InstanceNorm2d) and isinstance(network.stem.act, nn.ReLU)
        assert isinstance(network.head.norm, nn.Identity)
        norms = [m for m in network.modules() if isinstance(m, nn.InstanceNorm2d)]
        assert len(norms) == len(convolutions(network)) - 1


def test_3_3_the_edge_network_ends_in_a_sigmoid_and_the_clone_network_in_tanh(paper):
    assert isinstance(paper.edge.head.act, nn.Sigmoid)
    assert isinstance(paper.clone.head.act, nn.Tanh)


def test_3_3_the_refine_network_has_five_blocks_down_and_five_up(paper):
    assert [b.direction for b in paper.refine.down] == ["down"] * 5
    assert [b.direction for b in paper.refine.up] == ["up"] * 5
    assert all(isinstance(b, RefineBlock) for b in [*paper.refine.down, *paper.refine.up])


def test_3_3_channel_attention_in_each_residual_block(paper):
    assert all(isinstance(b.attention, ChannelAttention) for b in [*paper.refine.down, *paper.refine.up])


def test_3_3_skips_are_additions(paper):
    first = [b.conv1.conv.in_channels for b in paper.refine.up]
    assert first == [b.conv2.conv.out_channels for b in reversed(paper.refine.down)]  # concatenation would double them


def test_table_1_variants():
    plain = FaceEraser(Config.of("paper", variant="auto_encoder"), 8).refine
    skips = FaceEraser(Config.of("paper", variant="unet"), 8).refine
    assert not plain.skips and skips.skips
    assert not any(isinstance(m, ChannelAttention) for m in [*plain.modules(), *skips.modules()])


def test_3_3_discriminators_spectral_norm_leaky_relu_sigmoid():
    critic = PatchDiscriminator(4)
    assert all(parametrize.is_parametrized(layer, "weight") for layer in critic.layers)
    scores, activations = critic(torch.rand(1, 4, 128, 128) * 10 - 5)
    assert scores.min() > 0 and scores.max() < 1
    assert min(a.min() for a in activations) < 0  # leaky: a ReLU would have nothing below zero


def test_3_4_one_discriminator_for_edges_and_one_for_pictures():
    critics = fit.discriminators(8)
    assert critics["edge"].layers[0].in_channels == 1 + 1  # edges and gray of the truth (eq. 2)
    assert critics["inpaint"].layers[0].in_channels == 3 + 1  # picture and edges_hat (eq. 5)


def test_3_4_coefficients_of_equation_1():
    assert losses.EDGE_COEFFICIENTS == {"adversarial": 1.0, "feature_matching": 10.0}
    assert fit.Recipe(phase="edge").adversarial_weight() == 1.0 and fit.Recipe().feature_matching == 10.0


def test_3_4_coefficients_of_equation_4():
    recipe = fit.Recipe(phase="inpaint")
    weights = (recipe.adversarial_weight(), recipe.perceptual, recipe.l1, recipe.style, recipe.clone)
    assert weights == (0.1, 1.0, 1.0, 500.0, 1.0)


def test_3_4_vgg_activations_are_relu1_1_to_relu5_1():
    # torchvision's `features`: a convolution and its ReLU take two places, a pooling one.
    names, block, number = [], 1, 0
    for width in losses.VGG19.PLAN:
        if width == 0:
            names.append("pool")
            block, number = block + 1, 0
        else:
            number += 1
            names += [f"conv{block}_{number}", f"relu{block}_{number}"]
    assert [names[i] for i in losses.VGG19.TAKEN] == [f"relu{k}_1" for k in range(1, 6)]


def test_3_4_edges_are_frozen_in_phase_2(tmp_path):
    torch.manual_seed(0)
    pipeline = FaceEraser(Config.of("paper", resolution=64), 4)
    before = {k: v.clone() for k, v in pipeline.state_dict().items()}
    mask = (torch.rand(1, 64, 64) > 0.5).float()
    data = [(torch.rand(3, 64, 64), mask, mask, 1 - mask, torch.zeros(1, 1, 1))] * 8
    recipe = fit.Recipe(phase="inpaint", steps=1, batch=2, features="off", precision="fp32")
    fit.fit(pipeline, data, recipe, tmp_path, fit.Beside(fit.discriminators(4)))
    changed = {k.split(".")[0] for k, v in pipeline.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"clone", "refine"}


def test_4_1_adam_rates_and_batch():
    recipe = fit.Recipe()
    assert (recipe.beta1, recipe.beta2, recipe.lr, recipe.d_lr, recipe.batch) == (0.0, 0.9, 1e-4, 1e-5, 8)
    assert recipe.schedule == "constant" and recipe.region == "image"


def test_4_1_pictures_are_256_pixels():
    assert CONFIG.resolution == 256

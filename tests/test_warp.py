"""The flow contract: backward, pixels, x then y, bilinear, clamped to the border, corners aligned, in every form."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from faceeraser.warp import landing_in_hole, offsets_to_flow, sampling_coordinates, warp, warp_by_rows

FORMS = [warp, warp_by_rows]


def random_case(seed: int, height: int, width: int, reach: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, height, width, generator=generator)
    return image, (torch.rand(1, 2, height, width, generator=generator) - 0.5) * 2 * reach


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(2, 20), width=st.integers(2, 20), reach=st.floats(0, 60))
def test_every_form_equals_scipys_interpolation(form, seed, height, width, reach):
    image, flow = random_case(seed, height, width, reach)
    rows, columns = np.mgrid[0:height, 0:width]
    x = np.clip(columns + flow[0, 0].numpy(), 0, width - 1)
    y = np.clip(rows + flow[0, 1].numpy(), 0, height - 1)
    expected = np.stack([map_coordinates(c.numpy(), [y, x], order=1, mode="nearest") for c in image[0]])
    assert np.abs(form(image, flow)[0].numpy() - expected).max() < 2e-4


@pytest.mark.parametrize("form", FORMS)
def test_no_flow_is_the_identity(form):
    image, flow = random_case(0, 9, 12, 0.0)
    assert torch.allclose(form(image, flow), image, atol=2e-6)


@pytest.mark.parametrize("form", FORMS)
def test_flow_is_backward_and_x_comes_first(form):
    image = torch.zeros(1, 1, 5, 7)
    image[0, 0, 1, 4] = 1.0  # row 1, column 4
    flow = torch.zeros(1, 2, 5, 7)
    flow[0, 0, 3, 2], flow[0, 1, 3, 2] = 2.0, -2.0  # output (3, 2) copies from column 2 + 2, row 3 - 2
    assert form(image, flow)[0, 0, 3, 2] == pytest.approx(1.0, abs=1e-5)


def test_an_offset_of_one_is_half_the_picture():
    offsets = torch.ones(1, 2, 5, 9)
    flow = offsets_to_flow(offsets)
    assert flow[0, 0].unique().item() == 4.0  # (9 - 1) / 2 pixels in x
    assert flow[0, 1].unique().item() == 2.0  # (5 - 1) / 2 pixels in y


def test_coordinates_stay_float32_when_the_network_runs_in_half_precision():
    flow = torch.zeros(1, 2, 256, 256, dtype=torch.bfloat16)
    x, y = sampling_coordinates(flow)
    assert x.dtype == y.dtype == torch.float32
    assert torch.equal(x[0, 0, 0], torch.arange(256.0))  # bfloat16 has no 255


def test_the_gradient_reaches_the_flow():
    image, flow = random_case(3, 8, 8, 2.0)
    flow.requires_grad_(True)
    warp(image, flow).square().sum().backward()
    assert flow.grad is not None and flow.grad.abs().sum() > 0


def test_share_of_flow_that_lands_in_the_hole():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1  # the left half
    stay, leave = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    leave[:, 0] = 2.0  # two pixels to the right: out of the hole
    assert landing_in_hole(stay, mask).item() == 1.0
    assert landing_in_hole(leave, mask).item() == 0.0
    assert landing_in_hole(leave, torch.zeros_like(mask)).item() == 0.0

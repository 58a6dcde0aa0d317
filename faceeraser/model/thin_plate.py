"""What the shading of an empty face is to be where nobody knows it, in the middle of a real face: taught, not measured.

A membrane of the skin beside the hole is a flat floor that ends on bright cheeks, and looks greyer than the face. A thin
plate, which bends as little as it can, carries the shading of cheeks and forehead on into the hole (Duchon 1977, Splines
minimizing rotation-invariant semi-norms, here on a grid, with soft data); and its middle is a little brighter. Real faces
are no brighter there, but of pictures shown blind the brighter were chosen 36 times of 36 (docs/results.md).
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import solveh_banded
from torch import Tensor

from faceeraser.artifacts.painting import SEEN, SHADED
from faceeraser.model import paint
from faceeraser.model.networks import three

SIDE = 32
"""Pixels along the side of a plate: as many as of what a network adds to its membrane."""
BENDING, FLAT, ANYWHERE = 1 / 16, 0.02, 1e-5
"""What bending counts beside a pixel of skin that is met; what the membrane counts in the hole, and anywhere."""
BRIGHTER, DEEP = 0.035, 0.1
"""What is added to a mean of 1/4 and above, deep in the hole, and how deep that is, as a share of the picture."""
RIM = 2
"""Pixels, of 128, beside what is neither skin nor hidden that are not met: shadows that hair throws."""


def plate_shading(seen: Tensor, hidden: Tensor, skin: Tensor) -> Tensor:
    """The shading (N, 3, 64, 64) of a face of which `seen` (N, 3, 128, 128), zero where hidden (N, 1, 128, 128) is 1, is
    visible, and of that skin (N, 1, 128, 128) is bare skin: a brighter plate.
    """
    skin = skin * (1.0 - hidden)
    membrane = F.avg_pool2d(paint.membrane(seen, skin), SHADED // SIDE)
    other = ((skin + hidden) < 0.5).float()
    met = skin * (1.0 - F.max_pool2d(other, 2 * RIM + 1, 1, RIM))
    weight, value, inside, depth = (F.avg_pool2d(x, SEEN // SIDE) for x in (met, seen * three(met), hidden, _depth(hidden)))
    brighter = membrane * (1.0 + BRIGHTER * three(depth) / membrane.mean((1, 2, 3), keepdim=True).clamp(min=0.25))
    towards = FLAT * (inside > 0.5).float() + ANYWHERE
    weights, data = (weight + towards).squeeze(1), value + three(towards) * brighter
    plates = [_plate(*one) for one in zip(weights.cpu().numpy(), data.cpu().numpy(), strict=True)]
    plate = torch.from_numpy(np.stack(plates)).to(seen)
    return paint.meeting(paint.enlarged(plate, SHADED), seen, skin)


def membrane_shading(seen: Tensor, hidden: Tensor, skin: Tensor) -> Tensor:
    """The same as a membrane, which a network has from the start: for the first of two trainings."""
    skin = skin * (1.0 - hidden)
    return paint.meeting(paint.membrane(seen, skin), seen, skin)


MIDDLES = {"plate": plate_shading, "membrane": membrane_shading}
"""What can be taught, by its name for `train.py --middle`."""


def _plate(weight: np.ndarray, data: np.ndarray) -> np.ndarray:
    """The plate (3, SIDE, SIDE) that bends least and differs least from data (3, SIDE, SIDE) / weight (SIDE, SIDE)."""
    bands = _bending().copy()
    bands[0] += weight.ravel()
    # Its upper bands would be solved eight times as slowly.
    plate: np.ndarray = solveh_banded(bands, data.reshape(3, -1).T, overwrite_ab=True, lower=True, check_finite=False)
    return plate.T.reshape(data.shape)


@functools.cache
def _bending() -> np.ndarray:
    """BENDING times the squared Laplacian of the grid, as its diagonal and the 2 SIDE bands below, (2 SIDE + 1, SIDE^2)."""
    count, numbers = SIDE**2, np.arange(SIDE**2).reshape(SIDE, SIDE)
    laplacian = np.zeros((count, count), np.float32)
    for low, high in ((numbers[:, :-1], numbers[:, 1:]), (numbers[:-1], numbers[1:])):
        slope = np.zeros((low.size, count), np.float32)
        slope[np.arange(low.size), low.ravel()], slope[np.arange(low.size), high.ravel()] = -1, 1
        laplacian += slope.T @ slope
    squared, bands = BENDING * laplacian @ laplacian, np.zeros((2 * SIDE + 1, count), np.float32)
    for below, band in enumerate(bands):
        band[: count - below] = np.diagonal(squared, -below)
    return bands


def _depth(hidden: Tensor) -> Tensor:
    """How deep in the hole a pixel lies, softly, from 0 at its border and outside to 1: (N, 1, H, W)."""
    depths = []
    for hole in hidden[:, 0].byte().cpu().numpy():
        far = cv2.distanceTransform(hole, cv2.DIST_L2, cv2.DIST_MASK_5) / len(hole)
        depths.append(cv2.GaussianBlur(1 - np.exp(-((far / DEEP) ** 2)), (0, 0), len(hole) / 32) * hole)
    return torch.from_numpy(np.stack(depths)).unsqueeze(1).to(hidden)

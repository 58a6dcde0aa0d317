"""Canny edges as the paper sets them, and the same arithmetic as a traceable torch function.

The paper (section 3.1) feeds the edge generator with Canny's edges of the grey picture: Gaussian width 2.0, low
threshold 10 %, high threshold 20 %. `canny` calls ``skimage.feature.canny`` with these. `canny_tensor` writes the same
steps in slices, sums, products and comparisons, so that they can stand inside an exported graph: no weights, no gather,
no branch on data and no boolean reduction; every number stays float32.

Both leave the hole out. Its pixels are set to zero before anything else happens, the smoothing is divided by the share
of kept pixels under the kernel, and pixels whose 3 x 3 neighbourhood touches the hole or the picture's border carry no
edge. So nothing of the hole leaks and its rim makes no edge.

Source of the steps: scikit-image 0.26, ``skimage/feature/_canny.py`` and ``_canny_cy.pyx`` (BSD-3-Clause), after
J. Canny, "A Computational Approach to Edge Detection", IEEE TPAMI 8 (1986). Importing this module loads neither torch
nor skimage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from faceeraser.system.extras import need

if TYPE_CHECKING:
    from torch import Tensor, nn

SIGMA = 2.0
"""Gaussian width in pixels (paper, section 3.1)."""
LOW_THRESHOLD = 0.1
"""Gradient magnitude from which a pixel can belong to an edge: 10 % of the grey range (paper, section 3.1)."""
HIGH_THRESHOLD = 0.2
"""Gradient magnitude from which a pixel starts an edge: 20 % of the grey range (paper, section 3.1)."""
HYSTERESIS_STEPS = 48
"""Steps of edge tracking in `canny_tensor`: the fewest tried with which 95 % of photographs keep 99 % of skimage's edge
pixels (benchmarks/canny.py, benchmarks/results/canny_hysteresis.json)."""

_RADIUS = 8  # skimage cuts the Gaussian at 4 sigma
# skimage adds its float type's epsilon to the share of kept pixels. This is float32's; it also survives float16.
_EPSILON = 1.1920929e-07


def canny(gray: NDArray[Any], mask: NDArray[Any]) -> NDArray[np.float32]:
    """Edges of the kept part of a picture, by scikit-image with the paper's settings.

    Args:
        gray: (H, W) float in [0, 1]; H and W at least 3.
        mask: (H, W), 1 = erase, 0 = keep; values of 0.5 and more count as erase.

    Returns:
        (H, W) float32, 1 = edge, 0 = none. Does not depend on `gray` where the mask is set.

    Raises:
        ValueError: the arrays are not two-dimensional or differ in shape.
        ModuleNotFoundError: scikit-image is missing.
    """
    gray, mask = np.asarray(gray), np.asarray(mask)
    if gray.ndim != 2 or gray.shape != mask.shape:
        raise ValueError(f"canny wants gray and mask as (H, W) of one shape, found {gray.shape} and {mask.shape}")
    # A file that was exported with Canny inside does not come here.
    skimage_canny = need("skimage.feature", "train", "finding edges").canny
    # Always float64: skimage computes in the type it is given, and the result should not hang on that.
    edges = skimage_canny(
        gray.astype(np.float64),
        sigma=SIGMA,
        low_threshold=LOW_THRESHOLD,
        high_threshold=HIGH_THRESHOLD,
        mask=mask < 0.5,
    )
    return edges.astype(np.float32)


def canny_tensor(gray: Tensor, mask: Tensor, hysteresis_steps: int = HYSTERESIS_STEPS) -> Tensor:
    """Edges of the kept part of a batch, in arithmetic that traces and exports.

    Equal to `canny` but for two things: float32 rounding (a few pixels in a million), and edge tracking, which stops
    after a fixed number of steps and so misses what hangs on a strong pixel by a longer chain of weak ones.

    Args:
        gray: (N, 1, H, W) finite float in [0, 1]; H and W at least 3. Computed in float32 whatever the type.
        mask: (N, 1, H, W), 1 = erase, 0 = keep; values of 0.5 and more count as erase.
        hysteresis_steps: how many pixels an edge is followed from its strong pixels over weak ones, at least 0.

    Returns:
        (N, 1, H, W) float32, 1 = edge, 0 = none. Bit-identical whatever `gray` is where the mask is set.

    Raises:
        ValueError: the tensors are not (N, 1, H, W) of one shape with H and W at least 3.
    """
    import torch

    # Sizes are read only here and never while tracing: coremltools 9 stops at int(size) under numpy 2.4.
    if not torch.jit.is_tracing() and (
        gray.dim() != 4 or gray.shape != mask.shape or gray.shape[1] != 1 or min(gray.shape[2:]) < 3
    ):
        raise ValueError(
            "canny_tensor wants gray and mask as (N, 1, H, W) of one shape, H and W at least 3, "
            f"found {tuple(gray.shape)} and {tuple(mask.shape)}"
        )
    # Without the axis of channels from here on: what it holds is one picture, and a converter that moves such an axis to the
    # end has XNNPACK pad rows of one value each, 25 times as slow (48 paddings took 5 of the file's 43 ms).
    gray, mask = gray[:, 0], mask[:, 0]
    keep = _float(mask < 0.5)
    smooth = _gaussian(gray.float() * keep) / (_gaussian(keep) + _EPSILON)

    # Sobel with the border row and column repeated (scipy's "reflect"). The border itself never carries an edge, but
    # its magnitude is what the pixels next to it are compared with.
    smooth = torch.cat([smooth[:, :1], smooth, smooth[:, -1:]], 1)
    smooth = torch.cat([smooth[:, :, :1], smooth, smooth[:, :, -1:]], 2)
    rows = smooth[:, 2:] - smooth[:, :-2]
    columns = smooth[:, :, 2:] - smooth[:, :, :-2]
    down = rows[:, :, :-2] + rows[:, :, 2:] + 2 * rows[:, :, 1:-1]
    right = columns[:, :-2] + columns[:, 2:] + 2 * columns[:, 1:-1]
    magnitude = torch.sqrt(down * down + right * right)

    # From here on only the picture without its border, (H - 2, W - 2): no edge can lie on the border.
    inside = _over_three(_over_three(keep, 1, torch.minimum), 2, torch.minimum)  # mask eroded by 3 x 3
    thin = _local_maximum(magnitude, down, right) * inside
    centre = magnitude[:, 1:-1, 1:-1]
    weak = _float(centre >= LOW_THRESHOLD) * thin
    edges = _float(centre >= HIGH_THRESHOLD) * thin
    for _ in range(hysteresis_steps):
        # A 3 x 3 maximum. As slices it takes LiteRT a fifth of the time of MAX_POOL_2D, which is slow on one channel.
        grown = _over_three(torch.nn.functional.pad(edges, (1, 1, 1, 1)), 1, torch.maximum)
        edges = _over_three(grown, 2, torch.maximum) * weak
    return torch.nn.functional.pad(edges, (1, 1, 1, 1))[:, None]


def traceable_canny(hysteresis_steps: int = HYSTERESIS_STEPS) -> nn.Module:
    """`canny_tensor` as a module without weights: ``forward(gray, mask) -> edges``, for converters and benchmarks."""
    # The class is made here because a class statement at module level would need torch at import time.
    from torch import nn

    class Canny(nn.Module):
        def forward(self, gray: Tensor, mask: Tensor) -> Tensor:
            return canny_tensor(gray, mask, hysteresis_steps)

    return Canny().eval()


def _local_maximum(magnitude: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """1.0 where the magnitude is at least that of both neighbours along the gradient; (N, H - 2, W - 2).

    Between pixels the neighbours are interpolated, as skimage does: of the two pixels on each side, one lies straight
    on the axis of the larger gradient component (`near`), the other on the diagonal (`far`). Choices are products with
    0.0 and 1.0 and not torch.where, because not every delegate takes SELECT; finite numbers give the same.
    """
    import torch

    def at(x: Tensor, dy: int, dx: int) -> Tensor:
        return _part(_part(x, 1, 1 + dy, 1 - dy), 2, 1 + dx, 1 - dx)

    down, right = at(down, 0, 0), at(right, 0, 0)
    absolute_down, absolute_right = down.abs(), right.abs()
    steep = _float(absolute_down > absolute_right)  # the larger component runs along the rows' axis
    level = 1 - steep
    crossed = (_float(down <= 0) - _float(right <= 0)).abs()  # the components' signs differ; zero counts as negative
    aligned = 1 - crossed
    near_after = steep * at(magnitude, 1, 0) + level * at(magnitude, 0, 1)
    near_before = steep * at(magnitude, -1, 0) + level * at(magnitude, 0, -1)
    rising, falling = at(magnitude, -1, 1), at(magnitude, 1, -1)
    far_after = aligned * at(magnitude, 1, 1) + crossed * (steep * falling + level * rising)
    far_before = aligned * at(magnitude, -1, -1) + crossed * (steep * rising + level * falling)
    # No gradient, no edge: the floor only keeps 0 / 0 out, far below what the low threshold lets through.
    towards_far = torch.minimum(absolute_down, absolute_right) / (torch.maximum(absolute_down, absolute_right) + 1e-12)
    towards_near = 1 - towards_far
    after = far_after * towards_far + near_after * towards_near
    before = far_before * towards_far + near_before * towards_near
    return _float(torch.maximum(after, before) <= at(magnitude, 0, 0))


def _gaussian(x: Tensor) -> Tensor:
    """Gaussian blur of (N, H, W) with zeros outside.

    Sums of shifted copies: XNNPACK runs them three times as fast as a one-channel depthwise convolution, they need no
    transposition to NHWC, and autocast leaves them in float32.
    """
    from torch.nn.functional import pad

    taps = [math.exp(-0.5 * (k / SIGMA) ** 2) for k in range(_RADIUS + 1)]
    total = taps[0] + 2 * sum(taps[1:])
    for axis, padding in ((1, (0, 0, _RADIUS, _RADIUS)), (2, (_RADIUS, _RADIUS, 0, 0))):
        padded = pad(x, padding)
        x = x * (taps[0] / total)
        for k in range(1, _RADIUS + 1):
            pair = _part(padded, axis, _RADIUS - k, _RADIUS + k) + _part(padded, axis, _RADIUS + k, _RADIUS - k)
            x = x + pair * (taps[k] / total)
    return x


def _over_three(x: Tensor, axis: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`combine` (torch.minimum or torch.maximum) over three neighbours along one axis, which becomes two shorter."""
    return combine(combine(_part(x, axis, 0, 2), _part(x, axis, 1, 1)), _part(x, axis, 2, 0))


def _part(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """`x` (N, H, W) without its first `before` and last `after` rows (axis 1) or columns (axis 2)."""
    cut = slice(before, -after if after else None)
    return x[:, cut] if axis == 1 else x[:, :, cut]


def _float(truth: Tensor) -> Tensor:
    import torch

    return truth.to(torch.float32)

"""The flow contract, and the warp in one form for each place it runs.

`flow` is (N, 2, H, W) in pixels, x then y, and backward: output pixel p copies the picture at p + flow(p). Sampling is
bilinear, with coordinates clamped to the picture (border) and corners aligned: the one setting that every mobile kernel
accelerates, and clamping inside the graph makes kernels that pad with zeros agree with it.

Source: Hua et al., FaceEraser (2021), section 3.3: "This can be done with the grid sample operation in PyTorch".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def offsets_to_flow(offsets: Tensor) -> Tensor:
    """Offsets (N, 2, H, W) in (-1, 1), the tanh head of the pixel-clone network, to a flow in pixels.

    The paper adds the offsets to grid_sample's normalised grid, whose range [-1, 1] spans the picture: an offset of 1 is
    half the picture, (W - 1) / 2 pixels in x and (H - 1) / 2 in y.
    """
    height, width = offsets.shape[-2:]
    x, y = offsets[:, 0:1], offsets[:, 1:2]
    return torch.cat([x * ((width - 1) / 2), y * ((height - 1) / 2)], 1)


def sampling_coordinates(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute source coordinates (x, y), each (N, 1, H, W) float32, clamped to [0, W - 1] and [0, H - 1]."""
    height, width = flow.shape[-2:]
    flow = flow.float()
    columns = torch.arange(width, dtype=torch.float32, device=flow.device).view(1, 1, 1, width)
    rows = torch.arange(height, dtype=torch.float32, device=flow.device).view(1, 1, height, 1)
    x = (flow[:, 0:1] + columns).clamp(0.0, float(width - 1))
    y = (flow[:, 1:2] + rows).clamp(0.0, float(height - 1))
    return x, y


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Warp image (N, C, H, W) by flow (N, 2, H, W) in pixels with `grid_sample`: the form for training, ONNX, CoreML.

    Coordinates are float32 whatever the autocast type: in half precision they would step by 1/8 pixel at 128-256 px.
    """
    height, width = flow.shape[-2:]
    with torch.autocast(flow.device.type, enabled=False):
        x, y = sampling_coordinates(flow)
        # A side of one pixel has no width to divide by: its only coordinate, 0, is -1 on the grid.
        across, down = 2.0 / max(width - 1, 1), 2.0 / max(height - 1, 1)
        grid = torch.cat([x * across - 1.0, y * down - 1.0], 1).permute(0, 2, 3, 1)
        return F.grid_sample(image.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)


def warp_by_rows(image: Tensor, flow: Tensor) -> Tensor:
    """The same as `warp`, written as four look-ups of rows in an (H*W, C) table for each picture: the TFLite form."""
    return each_of(sample_rows, image, *sampling_coordinates(flow))


def each_of(sample: Callable[[Tensor, Tensor, Tensor], Tensor], image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`sample` of each picture of a batch at its coordinates, together again: a table of rows is one picture's."""
    if len(image) == 1:
        return sample(image, x, y)
    return torch.cat([sample(*picture) for picture in zip(image.split(1), x.split(1), y.split(1), strict=True)])


def sample_rows(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear samples (1, C, h, w) of image (1, C, H, W) at x, y, (1, 1, h, w) float32 in [0, W - 1] and [0, H - 1].

    `grid_sample` becomes GATHER_ND in a .tflite file, 10-20 times slower and refused by the GPU delegate; an embedding
    look-up with a flat int32 index stays a plain gather of rows. What was looked up is turned to planes before it is
    weighted: products along a row of pixels take half the time of products along C (benchmarks/warp.py).
    """
    _, _, height, width = image.shape
    x0, y0 = torch.floor(x), torch.floor(y)
    wx, wy = x - x0, y - y0
    first, last = (y0 * width + x0).reshape(-1), float(height * width - 1)
    corner = _rows_of(image, x)

    def after(offset: int) -> Tensor:
        # On the right and the lower border the next pixel is some other one; there its weight is zero.
        return corner((first + float(offset)).clamp(max=last))

    left = corner(first)
    top = left + wx * (after(1) - left)
    left = after(width)
    bottom = left + wx * (after(width + 1) - left)
    return top + wy * (bottom - top)


def whole_rows(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`sample_rows` at whole coordinates: one look-up, nothing weighted."""
    return _rows_of(image, x)((y * image.shape[-1] + x).reshape(-1))


def _rows_of(image: Tensor, like: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of flat indices (h * w,) that looks pixels of image (1, C, H, W) up, as planes (1, C, h, w) like `like`."""
    _, channels, height, width = image.shape
    rows, columns = like.shape[-2:]
    table = image.reshape(channels, height * width).t()
    return lambda index: F.embedding(index.to(torch.int32), table).t().reshape(1, channels, rows, columns)


@dataclass(frozen=True)
class Sampling:
    """How `F.grid_sample` was asked to sample (its own words)."""

    mode: str = "bilinear"
    """One of MODES."""
    padding_mode: str = "zeros"
    """One of PADDINGS."""
    align_corners: bool = False
    """Whether -1 and 1 are the middles of the outermost pixels, or their outer edges."""

    def coordinates(self, image: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(picture (N, C, H', W'), x and y (N, 1, h, w) in [0, W' - 1] and [0, H' - 1]), bilinear samples of which are what
        `F.grid_sample(image, grid, ...)` gives: image (N, C, H, W), grid (N, h, w, 2).

        Written with operators that GPU delegates have. Zeros outside are a rim of one pixel around the picture; 'nearest' is
        a bilinear sample at whole coordinates.
        """
        height, width = image.shape[-2:]
        planes = grid.float().permute(0, 3, 1, 2)
        x, y = (self._along(planes[:, k : k + 1], side) for k, side in ((0, width), (1, height)))
        return (F.pad(image, (1, 1, 1, 1)) if self.padding_mode == "zeros" else image), x, y

    def _along(self, at: Tensor, side: int) -> Tensor:
        """Coordinates in pixels along one side, inside the picture, of normalised ones; as torch rounds them."""
        at = (at + 1.0) * ((side - 1) / 2.0) if self.align_corners else (at + 1.0) * (side / 2.0) - 0.5
        if self.padding_mode == "reflection":
            at = _reflected(at, side, self.align_corners)
        if self.padding_mode != "zeros":
            at = at.clamp(0.0, float(side - 1))
        if self.mode == "nearest":
            at = round_half_even(at)
        return at.clamp(-1.0, float(side)) + 1.0 if self.padding_mode == "zeros" else at

    def by_rows(self, image: Tensor, grid: Tensor) -> Tensor:
        """The samples by look-ups of rows: (N, C, h, w)."""
        sample = whole_rows if self.mode == "nearest" else sample_rows
        return each_of(sample, *self.coordinates(image, grid))

    def on_a_grid(self, image: Tensor, grid: Tensor) -> Tensor:
        """The samples by `F.grid_sample` in the one setting that every kernel has: bilinear, border, corners aligned."""
        picture, x, y = self.coordinates(image, grid)
        height, width = picture.shape[-2:]
        across, down = 2.0 / max(width - 1, 1), 2.0 / max(height - 1, 1)
        inside = torch.cat([x * across - 1.0, y * down - 1.0], 1).permute(0, 2, 3, 1)
        return F.grid_sample(picture, inside, mode="bilinear", padding_mode="border", align_corners=True)


MODES = ("bilinear", "nearest")
PADDINGS = ("zeros", "border", "reflection")


def _reflected(at: Tensor, side: int, align_corners: bool) -> Tensor:
    """Coordinates mirrored at the picture's edges until they are inside: a wave that rises and falls by turns."""
    low, span = (0.0, float(side - 1)) if align_corners else (-0.5, float(side))
    if span == 0.0:
        return at * 0.0
    away = (at - low).abs()
    away = away - (away / (2.0 * span)).floor() * (2.0 * span)
    return torch.minimum(away, 2.0 * span - away) + low


def round_half_even(x: Tensor) -> Tensor:
    """`torch.round` of numbers within 2^22 of 0, by operators that GPU delegates have: halves go to the even neighbour."""
    up = (x + 0.5).floor()
    odd = up - 2.0 * (up * 0.5).floor()
    tie = (1.0 - (x + 0.5 - up) * 2.0**26).clamp(min=0.0)
    return up - odd * tie


def landing_in_hole(flow: Tensor, mask: Tensor) -> Tensor:
    """Share of the in-hole flow, per picture (N,), whose nearest source pixel lies in the hole itself (0 is ideal).

    flow (N, 2, H, W) in pixels, mask (N, 1, H, W) with 1 = erase. A picture with no hole gives 0.
    """
    x, y = sampling_coordinates(flow)
    n, width = flow.shape[0], flow.shape[-1]
    index = (y.round() * width + x.round()).long().reshape(n, -1)
    hole = (mask >= 0.5).reshape(n, -1)
    landed = torch.gather(hole, 1, index) & hole
    return landed.sum(1) / hole.sum(1).clamp(min=1)

"""Painting by a plan: arithmetic at any resolution, with nothing learnt in it (the mobile preset).

A plan, made at `SEEN` x `SEEN` pixels by a network (planner.PatchEraser), has three parts:

    skin      (N, 1, 128, 128) in [0, 1], which visible pixel is this person's bare skin
    shading   (N, 3, 64, 64), the colour of the empty face, smooth
    sources   (N, 289) whole numbers: for each window of a coarse grid, the window of skin that is copied there

What is copied is *detail*, a picture's luma less its own shading, where it is skin and bounded by this skin's own
deviation. It moves by whole pixels in whole windows, so that no pore is interpolated away. Windows overlap by half under
Hann weights, and their sum is divided by the root of the sum of the squared weights: the variance of texture is kept,
where a mean of four pieces would halve it (Heitz and Neyret 2018, High-Performance By-Example Noise using a
Histogram-Preserving Blending Operator, section 3.1, without its histograms).

A picture of S = 128 k pixels is 16 x 16 blocks, and 32 x 32 halves of S / 32. A window is 2 x 2 blocks around a corner
of the grid of blocks; a source is as large, around any corner of the grid of halves whose window lies inside the
picture. A window copied to a corner is sixteen halves copied to sixteen halves, so painting is a table of halves and
four look-ups of whole rows: no arithmetic for each pixel says where from.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from faceeraser.artifacts.painting import (
    BLOCKS,
    BOUND,
    CLEAN_OFFSET,
    CLEAN_SLOPE,
    CORNERS,
    DEVIATION,
    HALVES,
    LUMA,
    MOST_DEVIATION,
    SEEN,
)
from faceeraser.model.warp import round_half_even


def luma(image: Tensor) -> Tensor:
    """Rec. 601 luma of (N, 3, H, W): (N, 1, H, W). As a convolution, since pixels of three channels are slow to cut."""
    return F.conv2d(image, _luma().to(image.device))


@functools.cache
def _luma() -> Tensor:
    return torch.tensor(LUMA).view(1, 3, 1, 1)


def binary(mask: Tensor) -> Tensor:
    """1 where a mask is at least 0.5, 0 below; without a comparison, which would end a delegate's part of a graph."""
    return ((mask - (0.5 - 2.0**-20)).clamp(min=0.0) * 2.0**24).clamp(max=1.0)


def enlarged(x: Tensor, side: int) -> Tensor:
    """A map (N, C, h, w) bilinearly at side x side."""
    return x if x.shape[-1] == side else F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


def _three(x: Tensor) -> Tensor:
    return torch.cat([x, x, x], 1)


def membrane(seen: Tensor, skin: Tensor) -> Tensor:
    """A smooth fill (N, 3, 64, 64) from skin alone: seen (N, 3, 128, 128), skin (N, 1, 128, 128) in [0, 1].

    Pull: weighted means, down to 2 x 2. Push: bilinear into where little skin was seen, and three 3 x 3 means at each level
    (Gortler et al. 1996, The Lumigraph, section 3.4). Where no skin is seen at all it is middle grey.
    """
    value, weight = F.avg_pool2d(seen * _three(skin), 2), F.avg_pool2d(_three(skin), 2)
    levels = [(value, weight)]
    while levels[-1][0].shape[-1] > 2:
        levels.append((F.avg_pool2d(levels[-1][0], 2), F.avg_pool2d(levels[-1][1], 2)))
    value, weight = levels[-1]
    total = weight.mean((2, 3), keepdim=True)
    filled = torch.zeros_like(value) + (value.mean((2, 3), keepdim=True) + 5e-5) / (total + 1e-4)
    for value, weight in reversed(levels):
        mean, sure = value / (weight + 1e-6), (8.0 * weight).clamp(max=1.0)
        known, open_ = mean * sure, 1.0 - sure
        filled = known + open_ * enlarged(filled, value.shape[-1])
        for _ in range(3):
            filled = known + open_ * F.avg_pool2d(filled, 3, 1, 1, count_include_pad=False)
    return filled


def meeting(shading: Tensor, seen: Tensor, skin: Tensor) -> Tensor:
    """The shading (N, 3, 64, 64), moved to meet the skin that is seen beside the hole: what it lacks there, on average over
    some cells, added to it and fading out as far inside. seen (N, 3, 128, 128), skin (N, 1, 128, 128).
    """
    weight = F.avg_pool2d(_three(skin), 2)
    lacking = F.avg_pool2d(seen * _three(skin), 2) - shading * weight
    for _ in range(2):
        weight, lacking = (F.avg_pool2d(x, 5, 1, 2, count_include_pad=False) for x in (weight, lacking))
    return shading + lacking / (weight + 0.05)


def own_shading(seen: Tensor, skin: Tensor) -> Tensor:
    """Luma (N, 1, 64, 64) of skin without its detail: means of skin over about 9 of 128 pixels; 0 where there is none."""
    value, weight = F.avg_pool2d(luma(seen) * skin, 2), F.avg_pool2d(skin, 2)
    for _ in range(2):
        value, weight = (F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) for x in (value, weight))
    return value / (weight + 1e-4)


def cleanly(skin: Tensor) -> Tensor:
    """Where nothing but skin is: 0 at a weight of 0.4 and below, 1 at 0.65 and above."""
    return (CLEAN_SLOPE * skin - CLEAN_OFFSET).clamp(0.0, 1.0)


def detail(visible: Tensor, keep: Tensor, own: Tensor, skin: Tensor) -> Tensor:
    """What skin has beyond its shading, bounded, fainter where it is creased, (N, 1, S, S); 0 where it may not be copied.

    visible (N, 3, S, S), zero in the hole; keep (N, 1, S, S), 0 in the hole; own and skin as of `own_shading`.
    """
    side = visible.shape[-1]
    clean = cleanly(skin)
    residual = (luma(visible) - enlarged(own, side)) * (enlarged(clean, side) * keep)
    deviation = DEVIATION * residual.abs().mean((2, 3), keepdim=True) / (clean.mean((2, 3), keepdim=True) + 1e-4)
    bound = BOUND * deviation
    return torch.minimum(torch.maximum(residual, -bound), bound) * (deviation.clamp(max=MOST_DEVIATION) / (deviation + 1e-6))


def costs(seen: Tensor, skin: Tensor) -> Tensor:
    """What each source costs on this face, whoever takes it: (N, 841), of seen (N, 3, 128, 128) and skin (N, 1, 128, 128).

    What its window lacks of the clean skin that a good window of this face has, and how much stronger or weaker its detail
    is than usual here: a crease, a strand of hair, a rim; a highlight, a smear. What is usual is a harmonic mean, which a
    few strong windows do not raise. Whole 1/64, so that sums that are only nearly the same give the same choice.
    """
    block = SEEN // BLOCKS
    clean = cleanly(skin)
    covered = F.avg_pool2d(clean, 2 * block, block // 2)
    strength = F.avg_pool2d((luma(seen) - enlarged(own_shading(seen, skin), SEEN)).abs() * clean, 2 * block, block // 2)
    mean = covered.mean((2, 3), keepdim=True)
    whole = (ENOUGH * covered.square().mean((2, 3), keepdim=True) / (mean + 1e-4)).clamp(max=WHOLE)
    relative, weight = strength / (covered + 1e-4), F.relu(covered - SOUND * whole)
    usual = (weight.mean((2, 3), keepdim=True) + 1e-6) / ((weight / (relative + 1e-4)).mean((2, 3), keepdim=True) + 1e-4)
    odd = relative / (usual + 1e-4) - 1.0
    unlike = STRONGER * F.relu(odd).clamp(max=4.0) + WEAKER * F.relu(-odd)
    # As torch.round, which no GPU delegate has.
    return round_half_even((LACKING * F.relu(whole - covered) + unlike) * 64.0).flatten(1) / 64.0


def choose(seen: Tensor, skin: Tensor) -> Tensor:
    """The source of each window: (N, 289) of 0 to 840, float32, of seen (N, 3, 128, 128) and skin (N, 1, 128, 128).

    Each window takes what costs it least, whatever the others take: a last bit of skin moves few of them. That they do not
    take the same is `preference`'s work. The least is found by arithmetic, since GPU delegates lack the operator: no two
    costs of a window are within 2^-17, so one less the distance to the least, in such steps, is 1 once and else at most 0.
    """
    numbers = _numbers().to(skin.device)
    cost = costs(seen, skin)[:, :, None, None] + numbers / 2.0**17
    paid = preference(F.relu(-skin.mean())) + cost
    least = F.relu(1.0 - (paid - paid.amin(1, keepdim=True)) * 2.0**17)
    return (least * numbers).sum(1).flatten(1)


WHOLE, LACKING, STRONGER, WEAKER = 0.85, 30.0, 8.0, 2.0
ENOUGH, SOUND = 1.25, 0.6
"""A window is good with so much more skin than windows that have some; and one with so much of that says what is usual. On
lined faces few windows are whole: these were taken again and again, and were seen as polka dots.
"""
DISTANCE = 1 / 64
"""What a squared distance costs, in halves of a block: a quarter of the picture away costs 1."""
CHANCES = 509
"""A prime: chance is the square of the sum of two numbers modulo it."""
CHANCE = 3 / 64
"""What a step of chance costs: up to 24, so that of all clean windows any is taken, and no patch is seen again and again. At
a third of it the highest autocorrelation was 0.17 where skin's own is 0.12, and it is 0.13 so.
"""


def preference(nothing: Tensor | float = 0.0) -> Tensor:
    """What each window pays for each source whatever the picture: (1, 841, 17, 17), whole 1/64.

    Distance, so that light and stubble are of the same place, and a number like chance, so that windows do not all want
    the same.
    Sums and squares of small whole numbers: the same everywhere. nothing: a zero that hangs on the picture, so that a
    converter does not store the table, which is larger than the network, but computes it. The products are 1 x 1
    convolutions: of a product of matrices LiteRT's GPU delegate gives the first row for all.
    """
    windows, sources, own, other = _places_and_chances()
    apart = F.conv2d(windows + nothing, sources)
    mixed = F.conv2d(own + nothing, other)
    chance = mixed - CHANCES * ((mixed + 0.5) * (1.0 / CHANCES)).floor()
    return DISTANCE * apart + CHANCE * chance


@functools.cache
def _numbers() -> Tensor:
    return torch.arange(HALVES**2, dtype=torch.float32)[None, :, None, None]


@functools.cache
def _places_and_chances() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(windows (1, 4, 17, 17) and sources (841, 4, 1, 1), whose product is the squared distance in halves of a block;
    windows (1, 3, 17, 17) and sources (841, 3, 1, 1), whose product modulo CHANCES is chance).
    """
    windows, sources = (places.float() for places in _places())
    ones = torch.ones(len(windows), 1)
    left = torch.cat([windows, windows.square().sum(1, keepdim=True), ones], 1)
    right = torch.cat([-2.0 * sources, torch.ones(len(sources), 1), sources.square().sum(1, keepdim=True)], 1)
    # Drawn, not counted: of two lines of whole numbers, windows some blocks apart would want the same again.
    rng = np.random.RandomState(0)  # whose numbers are promised never to change
    counts = (len(windows), len(sources))
    a, b = (torch.from_numpy(1 + rng.permutation(np.arange(n) % (CHANCES - 1))).float() for n in counts)
    # The square of a sum as a product too: a converter would make one table of the sum of two constants.
    own = torch.stack([a.square(), a, torch.ones_like(a)], 1)
    other = torch.stack([torch.ones_like(b), 2 * b, b.square()], 1)
    left, own = (of.T.reshape(1, -1, CORNERS, CORNERS).contiguous() for of in (left, own))
    right, other = (of[:, :, None, None] for of in (right, other))
    return left, right, own, other


@functools.cache
def _places() -> tuple[Tensor, Tensor]:
    """(x, y in halves of a block) of the 289 windows and of the 841 sources: (289, 2), (841, 2)."""
    windows = torch.stack(torch.meshgrid(torch.arange(CORNERS), torch.arange(CORNERS), indexing="ij"), -1).reshape(-1, 2)
    sources = torch.stack(torch.meshgrid(torch.arange(HALVES), torch.arange(HALVES), indexing="ij"), -1).reshape(-1, 2)
    return 2 * windows.flip(1), sources.flip(1) + 2


# A half's four windows, by the corner of its block that each is around: (down, right) from the upper left one.
_QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))


@functools.cache
def _where() -> tuple[tuple[Tensor, Tensor], ...]:
    """For each of _QUARTERS, of the 1024 halves: the number of the window (int32), and how many rows of the table of
    halves its own row lies behind that of the half below and right of the window's source (float32).
    """
    rows, columns = torch.meshgrid(torch.arange(2 * BLOCKS), torch.arange(2 * BLOCKS), indexing="ij")
    places = []
    for down, right in _QUARTERS:
        window = (rows // 2 + down) * CORNERS + columns // 2 + right
        behind = (rows % 2 - 2 * down) * (2 * BLOCKS) + columns % 2 - 2 * right
        places.append((window.flatten().int(), behind.flatten().float()))
    return tuple(places)


def make_constants(side: int) -> None:
    """Compute what does not hang on a picture, for pictures of `side`, so that it is there as numbers when a graph is
    traced.
    """
    _luma(), _numbers(), _places_and_chances(), _where(), _weights(side // BLOCKS // 2)


@functools.cache
def _weights(half: int) -> tuple[Tensor, ...]:
    """What each of _QUARTERS counts, over the root of the sum of the four squares: four of (1, 2, 1, 2 half^2), for a
    block's two rows of two halves.
    """
    block = 2 * half
    ramp = torch.sin((torch.arange(block).double() + 0.5) * (torch.pi / (2 * block))).square()  # Hann, its rising half
    quarters = []
    for down, right in _QUARTERS:
        along, across = (ramp.flip(0) if low == 0 else ramp for low in (down, right))
        quarters.append(torch.outer(along, across))
    total = sum(q.square() for q in quarters).sqrt()
    halves = [(q / total).float().reshape(2, half, 2, half).transpose(1, 2) for q in quarters]
    return tuple(q.reshape(1, 2, 1, 2 * half**2).contiguous() for q in halves)


def lay(detail: Tensor, sources: Tensor) -> Tensor:
    """Texture (N, 1, S, S): detail (N, 1, S, S) copied as `sources` (N, 289) say, by look-ups of rows."""
    side = detail.shape[-1]
    half, count = side // (2 * BLOCKS), (2 * BLOCKS) ** 2
    # Row of the half below and right of a source: numbers are whole, so the floor is never near an edge.
    down = ((sources + 0.5) / HALVES).floor()
    rows = sources + (2 * BLOCKS - HALVES) * down + (2 * (2 * BLOCKS) + 2)
    pictures = []
    for own_detail, first in zip(detail.unbind(), rows.unbind(), strict=True):
        # One picture at a time: LiteRT's GPU delegate knows nothing of more than four dimensions.
        table = own_detail.reshape(2 * BLOCKS, half, 2 * BLOCKS, half).transpose(1, 2).reshape(count, half**2)
        laid = torch.zeros(1)
        for (window, behind), weight in zip(_where(), _weights(half), strict=True):
            own = F.embedding(window.to(detail.device), first[:, None])[:, 0] + behind.to(detail.device)
            taken = F.embedding(own.to(torch.int32), table).reshape(BLOCKS, 2, BLOCKS, 2 * half**2)
            laid = laid.to(detail.device) + taken * weight.to(detail.device)
        pictures.append(laid.reshape(2 * BLOCKS, 2 * BLOCKS, half, half).transpose(1, 2).reshape(1, side, side))
    return torch.stack(pictures)


def flow_of(sources: Tensor, side: int) -> Tensor:
    """The flow (N, 2, S, S), x then y in pixels, of the window that counts most at each pixel, the one around the nearest
    corner: pixel p is copied from p + flow(p).
    """
    windows, places = (each.to(sources.device) for each in _places())
    block = side // BLOCKS
    moved = (places[sources.long()] - windows[None]) * (block // 2)
    moved = moved.reshape(len(sources), CORNERS, CORNERS, 2).permute(0, 3, 1, 2)
    whole = moved.repeat_interleave(block, 2).repeat_interleave(block, 3).float()
    return whole[:, :, block // 2 : block // 2 + side, block // 2 : block // 2 + side]

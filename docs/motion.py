"""A small generator like first-order motion's, on toy data: what prune.py --module and quantize.py --module take."""

import torch
import torch.nn.functional as F
from torch import nn


class Motion(nn.Module):
    """A picture and another pose of it (N, 3, 32, 32) -> the picture, warped by a dense flow, and mended."""

    def __init__(self, width=32):
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(6, width, 3, 2, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.flow = nn.Conv2d(width, 2, 3, padding=1)
        self.features = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU())
        self.decode = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, source, driving):
        flow = F.interpolate(self.flow(self.encode(torch.cat([source, driving], 1))), scale_factor=2.0, mode="nearest")
        rows = torch.linspace(-1, 1, source.shape[2])
        grid = torch.stack(torch.meshgrid(rows, rows, indexing="xy"), -1)[None] + 0.3 * flow.permute(0, 2, 3, 1)
        return torch.sigmoid(self.decode(F.grid_sample(self.features(source), grid, align_corners=True)))


def pairs(n, seed):
    """Blurred noise, and the same moved by up to four pixels."""
    random = torch.Generator().manual_seed(seed)
    noise = F.avg_pool2d(torch.rand(n, 3, 44, 44, generator=random), 5, 1)
    x, y = torch.randint(0, 8, (2,), generator=random).tolist()
    return {"source": noise[:, :, 4:36, 4:36], "driving": noise[:, :, y : y + 32, x : x + 32]}


def build():
    """The network, samples of its inputs, and their ranges."""
    torch.manual_seed(0)
    return Motion(), [pairs(1, k) for k in range(4)], {"source": (0, 1), "driving": (0, 1)}


def batches():
    """What it is trained on."""
    return (pairs(8, k) for k in range(50))


def loss(network, batch):
    """How wrong a network is on a batch."""
    return (network(**batch) - batch["driving"]).abs().mean()

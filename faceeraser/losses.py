"""The training objective of the paper: equations 1 to 9 (Hua et al. 2021, section 3.4), one function for each term.

Every term is a mean over the batch of per-picture means, so that the average of two half batches is the whole batch:
what data-parallel training relies on. Losses are computed in float32.
"""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Section 3.4, the paper's coefficients.
EDGE_COEFFICIENTS = {"adversarial": 1.0, "feature_matching": 10.0}
INPAINT_COEFFICIENTS = {"adversarial": 0.1, "perceptual": 1.0, "l1": 1.0, "style": 500.0, "clone": 1.0}

VGG_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
VGG_SHA256_PREFIX = "dcbb9e9d"  # torchvision publishes the first eight digits, in the file's name


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Equations 2 and 5 as the discriminator sees them: -(log D(real) + log(1 - D(fake))). Scores are in (0, 1)."""
    real, fake = real.float(), fake.float()
    return F.binary_cross_entropy(real, torch.ones_like(real)) + F.binary_cross_entropy(fake, torch.zeros_like(fake))


def generator_loss(fake: Tensor) -> Tensor:
    """Equations 2 and 5 as the generator sees them, in the non-saturating form -log D(fake).

    It has the same fixed point as log(1 - D(fake)) and a useful gradient while the discriminator is winning
    (Goodfellow et al. 2014, section 3, the paper's [6]).
    """
    return F.binary_cross_entropy(fake.float(), torch.ones_like(fake, dtype=torch.float32))


def feature_matching_loss(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Equation 3: the sum over the discriminator's layers of the mean absolute difference of activations."""
    return torch.stack([(a.float() - b.detach().float()).abs().mean() for a, b in zip(fake, real, strict=True)]).sum()


def l1_loss(picture: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Equations 8 and 9: mean absolute error of pictures (N, 3, H, W); with a mask (N, 1, H, W), inside it only.

    The masked form divides by each picture's own hole, so that a small hole weighs as much as a large one.
    """
    error = (picture.float() - truth.float()).abs()
    if mask is None:
        return error.mean()
    area = mask.sum((1, 2, 3)).clamp(min=1.0) * picture.shape[1]
    return ((error * mask).sum((1, 2, 3)) / area).mean()


def gram(activation: Tensor) -> Tensor:
    """The Gram matrix (N, C, C) of activations (N, C, H, W), over C H W (Johnson et al. 2016, the paper's [8])."""
    n, c, h, w = activation.shape
    flat = activation.float().reshape(n, c, h * w)
    return flat @ flat.transpose(1, 2) / (c * h * w)


def perceptual_loss(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Equation 6: the sum over layers of the mean absolute difference of a fixed network's activations."""
    return feature_matching_loss(fake, real)


def style_loss(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Equation 7: the sum over layers of the mean absolute difference of Gram matrices."""
    return torch.stack([(gram(a) - gram(b.detach())).abs().mean() for a, b in zip(fake, real, strict=True)]).sum()


class VGG19(nn.Module):
    """VGG-19's activations relu1_1, relu2_1, relu3_1, relu4_1, relu5_1 (section 3.4), frozen: image in [0, 1] -> list.

    `weights` is torchvision's published state dict. Raises ValueError when it is not there or is not that file.
    """

    PLAN = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512)  # 0 is a 2 x 2 max pooling
    TAKEN = (1, 6, 11, 20, 29)  # indices of those activations in torchvision's `features`

    def __init__(self, weights: Path | None = None):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in self.PLAN:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        path = weights or vgg_file()
        state = torch.load(path, map_location="cpu", weights_only=True)
        wanted = {k: v for k, v in state.items() if k in self.state_dict()}
        missing = [k for k in self.features.state_dict() if f"features.{k}" not in wanted]
        if missing:
            raise ValueError(f"{path} is not torchvision's VGG-19: it lacks features.{missing[0]}; get {VGG_URL}")
        self.load_state_dict(wanted, strict=False)
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> list[Tensor]:
        x = (image - self.mean) / self.std
        taken = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.TAKEN:
                taken.append(x)
        return taken


def vgg_file() -> Path:
    """The cached weights of VGG-19, downloaded once and checked.

    Raises:
        ValueError: offline and not in the cache, or the file's digest is wrong.
    """
    cache = Path(os.environ.get("FACEERASER_CACHE", Path.home() / ".cache" / "faceeraser"))
    path = cache / VGG_URL.rsplit("/", 1)[1]
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        try:
            torch.hub.download_url_to_file(VGG_URL, str(partial), hash_prefix=VGG_SHA256_PREFIX)
        except Exception as error:
            raise ValueError(
                f"the perceptual loss needs VGG-19's weights, and they could not be downloaded ({error}); "
                f"pass --vgg FILE with {VGG_URL}, or choose --perceptual filterbank or --perceptual off"
            ) from error
        partial.rename(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(VGG_SHA256_PREFIX):
        raise ValueError(f"{path}: sha256 {digest[:8]}..., expected {VGG_SHA256_PREFIX}...; delete it and run again")
    return path


class FilterBank(nn.Module):
    """Fixed oriented filters at three scales, in VGG's place where its weights cannot be had: image -> list of maps.

    Each scale gives, for luma and two colour differences, the rectified responses of even and odd Gabor filters at four
    orientations (48 maps), times a gain that brings skin's grain to the magnitude of VGG's activations. Not learnt, so
    it knows edges and grain but nothing of faces; every result row that was trained with it says so.
    """

    GAIN = 50.0

    def __init__(self) -> None:
        super().__init__()
        filters = []
        span = torch.arange(-3.0, 4.0)
        y, x = torch.meshgrid(span, span, indexing="ij")
        for k in range(4):
            angle = math.pi * k / 4
            along = x * math.cos(angle) + y * math.sin(angle)
            window = torch.exp(-(x**2 + y**2) / (2 * 1.5**2))
            for phase in (0.0, math.pi / 2):
                wave = window * torch.cos(2 * math.pi * along / 4.0 + phase)
                wave = wave - window * (wave.sum() / window.sum())
                filters.append(self.GAIN * wave / wave.abs().sum())
        self.register_buffer("filters", torch.stack(filters).unsqueeze(1))
        self.register_buffer("colours", torch.tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]]))

    def forward(self, image: Tensor) -> list[Tensor]:
        x = torch.einsum("oc,nchw->nohw", self.colours, image.float())
        maps = []
        for scale in range(3):
            if scale:
                x = F.avg_pool2d(x, 2)
            n, c, h, w = x.shape
            response = F.conv2d(F.pad(x.reshape(n * c, 1, h, w), (3, 3, 3, 3), mode="replicate"), self.filters)
            response = response.reshape(n, c * len(self.filters), h, w)
            maps.append(torch.cat([F.relu(response), F.relu(-response)], 1))
        return maps


def feature_network(kind: str, weights: Path | None = None) -> nn.Module | None:
    """'vgg', 'filterbank' or 'off' as a module for the perceptual and style losses; None for 'off'."""
    if kind == "off":
        return None
    return VGG19(weights) if kind == "vgg" else FilterBank()

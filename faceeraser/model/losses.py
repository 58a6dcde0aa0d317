"""The training objective: the paper's equations 1 to 9 (Hua et al. 2021, section 3.4), one function for each term, and
the terms of the mobile preset, which teach the clone network to copy skin rather than to blur it; and what a student learns
from its teacher.

Every term is a mean over the batch of per-picture means, so that the average of two half batches is the whole batch:
what data-parallel training relies on. Losses are computed in float32.
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from faceeraser.artifacts.painting import LUMA
from faceeraser.model.warp import warp
from faceeraser.system import cache

# Section 3.4, the paper's coefficients.
EDGE_COEFFICIENTS = {"adversarial": 1.0, "feature_matching": 10.0}
INPAINT_COEFFICIENTS = {"adversarial": 0.1, "perceptual": 1.0, "l1": 1.0, "style": 500.0, "clone": 1.0}

FEATURE_NETWORKS = ("vgg", "vgg16x", "filterbank", "off")
"""Networks of the perceptual, style and texture terms: the paper's, it distilled, fixed filters, none."""
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


def shading_loss(picture: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """`l1_loss` of both pictures blurred first (three boxes, sigma about 2.5 pixels at 256): colour and shading only.

    Detail of the picture's own costs little here, so a network that has been given texture has no reason to smooth it.
    """
    error = blurred(picture.float() - truth.float())
    return l1_loss(error, torch.zeros_like(error), mask)


def blurred(picture: Tensor) -> Tensor:
    """A picture (N, C, H, W) without its detail: three boxes, sigma about 2.5 pixels at 256."""
    size = max(3, round(picture.shape[-1] * 5 / 256) // 2 * 2 + 1)
    for _ in range(3):
        picture = F.avg_pool2d(picture, size, 1, size // 2, count_include_pad=False)
    return picture


def depth_in_hole(closed: Tensor) -> Tensor:
    """Distance in pixels (N, 1, H, W) from each pixel to the nearest one where `closed` (N, 1, H, W) is 0."""
    maps = [cv2.distanceTransform(np.ascontiguousarray(m), cv2.DIST_L2, 5) for m in (closed[:, 0] > 0).byte().cpu().numpy()]
    return torch.from_numpy(np.stack(maps)).unsqueeze(1).to(closed.device).clamp_(max=float(closed.shape[-1]))


def landing_loss(flow: Tensor, hole: Tensor, closed: Tensor) -> Tensor:
    """How far from copyable skin the flow lands, in 32nds of the picture: 0 where every copy is of skin that is seen.

    flow (N, 2, H, W) in pixels; hole (N, 1, H, W), where it counts; closed (N, 1, H, W), 1 where nothing can be copied.
    The paper's pixel-clone term (equation 9) asks for the right colour alone, and the hole's own smooth fill has that.
    """
    height, width = flow.shape[-2:]
    x = torch.arange(width, device=flow.device, dtype=flow.dtype) + flow[:, 0]
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 1]
    outside = F.relu(-x) + F.relu(x - (width - 1)) + F.relu(-y) + F.relu(y - (height - 1))
    depth = warp(depth_in_hole(closed), flow) + outside.unsqueeze(1)
    return l1_loss(depth * (32.0 / width), torch.zeros_like(depth), hole)


def coherence_loss(flow: Tensor, hole: Tensor) -> Tensor:
    """How far a copy is from a plain shift: the flow's slope in pixels per pixel, over neighbours that are both in the hole.

    A slope of -1 draws one pixel out into a stripe. Steep slopes count at most 2, so that a piece may be copied from here
    and its neighbour from there, at the cost of one seam.
    """
    total = flow.new_zeros(())
    for axis in (2, 3):
        slope = flow.diff(dim=axis).abs().sum(1, keepdim=True)
        both = torch.minimum(hole.narrow(axis, 1, hole.shape[axis] - 1), hole.narrow(axis, 0, hole.shape[axis] - 1))
        total = total + l1_loss(2.0 * slope / (2.0 + slope), torch.zeros_like(slope), both)
    return total


def texture_loss(fake: list[Tensor], real: list[Tensor], mask: Tensor) -> Tensor:
    """Difference of texture inside the hole: the Gram matrices of a filter bank's maps there, relative to the truth's own.

    fake, real: what a feature network gives, (N, C, H / s, W / s); mask (N, 1, H, W); a picture whose
    mask is empty counts as 0. Equation 7's idea, inside the hole, and free of scale: a smooth skin's faint texture counts
    as much as a rough one's.
    """
    total = fake[0].new_zeros((), dtype=torch.float32)
    for a, b in zip(fake, real, strict=True):
        inside = F.adaptive_avg_pool2d(mask, a.shape[-2:]).ge(0.999).float()
        area = inside.sum((1, 2, 3)).clamp(min=1.0)[:, None, None]
        grams = [(flat := (x.float() * inside).flatten(2)) @ flat.transpose(1, 2) / area for x in (a, b.detach())]
        own = grams[1].diagonal(dim1=1, dim2=2) + 1e-2
        total = total + ((grams[0] - grams[1]).abs() / (own[:, :, None] * own[:, None, :]).sqrt()).mean()
    return total


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


PLAN_TERM = 4.0
"""Coefficient of a teacher's plan, as of a plan's own shading (planner.py)."""


def distillation_loss(student: dict[str, Tensor], teacher: dict[str, Tensor], mask: Tensor, phase: str) -> Tensor:
    """How far a student's edges, flow (in half pictures) and erased picture are from its teacher's, inside the hole, of what
    the model has of these; of a model that plans, its shading and its skin, since all that it paints follows from them.

    Both dictionaries are what `Inpainter.forward` returns. Pictures are compared by their shading: texture follows from
    the flow, and while that is still a pixel off, the nearest picture to a textured one is a smooth one. Phase 'inpaint'
    leaves the frozen edges out.
    """
    if "skin" in student:
        return PLAN_TERM * sum((student[name] - teacher[name]).abs().mean() for name in ("shading", "skin"))
    total = shading_loss(student["erased"], teacher["erased"], mask)
    if "offsets" in student:
        total = total + l1_loss(student["offsets"], teacher["offsets"], mask)
    if phase == "all" and "edges_hat" in student:
        total = total + 0.1 * l1_loss(student["edges_hat"], teacher["edges_hat"], mask)
    return total


def attention_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """How differently two networks spread their attention over the picture: features (N, C, H, W), any C, one size.

    A map's attention is the mean square over its channels, as a unit vector over its pixels, so no layer is needed
    between a narrow student and a wide teacher. Source: Zagoruyko & Komodakis, Paying More Attention to Attention (2017).

    Raises:
        ValueError: the maps are not of the same sizes, so the teacher is of another kind.
    """
    total = student[0].new_zeros((), dtype=torch.float32)
    for a, b in zip(student, teacher, strict=True):
        if a.shape[-2:] != b.shape[-2:]:
            sizes = f"{tuple(b.shape[-2:])} where the student's are {tuple(a.shape[-2:])}"
            raise ValueError(f"the teacher's features are {sizes}; choose a teacher of the same structure")
        unit = [F.normalize(x.float().square().mean(1).flatten(1), dim=1) for x in (a, b.detach())]
        total = total + (unit[0] - unit[1]).square().sum(1).mean()
    return total / len(student)


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
    try:
        return cache.fetch(VGG_URL, VGG_SHA256_PREFIX, cache.folder() / VGG_URL.rsplit("/", 1)[1])
    except FileNotFoundError as error:
        raise ValueError(
            f"the perceptual loss needs VGG-19's weights: {error}; "
            f"pass --vgg FILE with {VGG_URL}, or choose --perceptual filterbank or --perceptual off"
        ) from error


class DistilledVGG19(nn.Module):
    """VGG-19 distilled to a sixteenth of its size (Wang et al. 2020, Collaborative Distillation for Ultra-Resolution
    Universal Style Transfer): the activations of `VGG19` in 16, 32, 64, 128 and 128 channels, image in [0, 1] -> list.

    `weights` is its safetensors file: `convBL` of block B, reflection padding, max pooling between blocks, and `conv0`,
    which takes RGB to what VGG was trained on. Raises ValueError when it is not given, not there or not that file.
    """

    DEPTHS = (2, 2, 4, 4, 1)
    """Convolutions of each block, as far as they are needed."""

    def __init__(self, weights: Path | None):
        super().__init__()
        if weights is None or not weights.is_file():
            found = "no --vgg" if weights is None else f"no file at {weights}"
            raise ValueError(
                f"--perceptual vgg16x: found {found}; expected --vgg FILE with the distilled VGG-19 (safetensors)"
            )
        try:
            state = load_file(weights)
            names = ["conv0", *(f"conv{b}{k}" for b, depth in enumerate(self.DEPTHS, 1) for k in range(1, depth + 1))]
            self.layers = nn.ModuleDict()
            for name in names:
                kernel = state[f"{name}.weight"]
                self.layers[name] = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2])
                self.layers[name].load_state_dict({part: state[f"{name}.{part}"] for part in ("weight", "bias")})
        except (KeyError, SafetensorError) as error:
            raise ValueError(
                f"{weights}: no distilled VGG-19: {error}; expected convolutions conv0, conv11 to conv51"
            ) from error
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> list[Tensor]:
        x, taken = self.layers["conv0"](image), []
        for block, depth in enumerate(self.DEPTHS, 1):
            x = x if block == 1 else F.max_pool2d(x, 2)
            for k in range(1, depth + 1):
                x = F.relu(self.layers[f"conv{block}{k}"](F.pad(x, (1, 1, 1, 1), mode="reflect")))
                if k == 1:
                    taken.append(x)
        return taken


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
        self.register_buffer("colours", torch.tensor([[*LUMA], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]]))

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
    """One of FEATURE_NETWORKS as a module for the perceptual and style losses; None for 'off'."""
    if kind == "off":
        return None
    if kind == "vgg16x":
        return DistilledVGG19(weights)
    return VGG19(weights) if kind == "vgg" else FilterBank()

"""The networks of FaceEraser (Hua et al. 2021, sections 3.1 and 3.3), at any width, in two presets.

Three generators make one pipeline, `FaceEraser`:

    edges_hat = G_edge(gray, edges, mask)         edges are Canny's, of the picture with the hole emptied
    offsets   = G_pc(edges_hat, image, mask)      where each pixel is to be copied from
    cloned    = Warp(image, flow)                 flow is offsets in pixels
    refined   = G_ref(cloned, image, offsets)     and `erased` is refined inside the hole, the input outside

`paper` is the paper's: instance norm, reflection padding, transposed convolutions, a warp of the whole picture and a refine
network that paints all of it. `mobile` is what phones run well: batch norm (folds into the convolution), zero padding,
nearest resize + convolution; the hole is first filled by a smooth membrane (`fill_hole`), of which the clone network sees
the colours, and what is warped is the picture's detail alone, laid on that fill; networks see the picture at half its
size; and the refine network predicts what is missing from the cloned picture. Structure is a `Config`; widths come from
the weights, so a pruned network loads strictly by the same constructor.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.flop_counter import FlopCounterMode

from faceeraser.artifacts.edges import canny_tensor
from faceeraser.artifacts.painting import LUMA
from faceeraser.model.config import Config
from faceeraser.model.quant import Tap
from faceeraser.model.warp import offsets_to_flow, warp

# What is missing from the cloned picture is small; without the gain, Adam's first steps on the head's 49 x width weights
# would move the picture by more than its range (measured: 9 dB after 20 steps, from 34 dB before the first).
RESIDUAL_GAIN = 0.1
# 51 levels of 255. Skin's detail (a picture less its shading) is within half of that, outlines are beyond it.
STRONGEST_DETAIL = 0.2
# Bilinear sampling between pixels takes about a quarter of the energy of skin's finest detail (measured: 0.43 of the
# truth's is left where whole-pixel copies keep 0.57).
DETAIL_GAIN = 1.25


def _norm(config: Config, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if config.norm == "batch" else nn.InstanceNorm2d(channels)


class Depthwise(nn.Module):
    """One filter for each channel, norm and ReLU: (N, C, H, W) -> (N, C, H / stride, W / stride)."""

    def __init__(self, config: Config, channels: int, kernel: int, stride: int, dilation: int):
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(
            channels, channels, kernel, stride, padding, dilation, channels, bias=False, padding_mode=config.padding
        )
        self.norm = _norm(config, channels)
        self.out = Tap("relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.norm(self.conv(x))))


class Conv(nn.Module):
    """Convolution, norm, activation: (N, c_in, H, W) -> (N, c_out, H / stride, W / stride).

    With `config.separable`, kernels of 3 and 4 are a `Depthwise` and a 1 x 1 convolution.

    act: 'relu', 'elu', 'sigmoid', 'tanh' or None. The convolution has no bias where a norm follows, which would cancel it.
    """

    transposed = False
    stored = True  # in int8, where the network is quantized

    def __init__(
        self,
        config: Config,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        act: str | None = "relu",
        norm: bool = True,
    ):
        super().__init__()
        self.depthwise: nn.Module = nn.Identity()
        if config.separable and kernel in (3, 4) and not self.transposed:
            self.depthwise = Depthwise(config, c_in, kernel, stride, dilation)
            kernel, stride, dilation = 1, 1, 1
        padding = dilation * (kernel - 1) // 2
        if self.transposed:
            self.conv: nn.Module = nn.ConvTranspose2d(c_in, c_out, kernel, stride, padding, bias=not norm)
        else:
            self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, bias=not norm, padding_mode=config.padding)
        self.norm = _norm(config, c_out) if norm else nn.Identity()
        acts = {"relu": nn.ReLU(), "elu": nn.ELU(), "sigmoid": nn.Sigmoid(), "tanh": nn.Tanh(), None: nn.Identity()}
        self.act = acts[act]
        if act == "sigmoid":
            self.before = Tap("signed")  # a sigmoid is an int8 operator of its own: its input is stored too
        kind = {"relu": "relu", "sigmoid": "sigmoid"}.get(act or "", "signed")
        self.out = Tap(kind) if self.stored else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(self.depthwise(x)))
        if hasattr(self, "before"):
            x = self.before(x)
        return self.out(self.act(x))


class TransposedConv(Conv):
    """The same with a transposed convolution: (N, c_out, H * stride, W * stride)."""

    transposed = True


class FloatConv(Conv):
    """The same, whose output stays in float: that of a head which the warp or the paint reads."""

    stored = False


class DilatedBlock(nn.Module):
    """The residual block of EdgeConnect (Nazeri et al. 2019), dilation 2 in its first convolution; no ReLU at the end."""

    def __init__(self, config: Config, channels: int):
        super().__init__()
        self.conv1 = Conv(config, channels, channels, 3, dilation=2)
        self.conv2 = Conv(config, channels, channels, 3, act=None)
        self.out = Tap()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + self.conv2(self.conv1(x)))


class Up(nn.Module):
    """Twice the size, fewer channels: a transposed convolution, or nearest resize + 3x3 convolution."""

    def __init__(self, config: Config, c_in: int, c_out: int):
        super().__init__()
        self.transposed = config.upsampling == "transposed"
        self.conv = TransposedConv(config, c_in, c_out, 4, stride=2) if self.transposed else Conv(config, c_in, c_out, 3)

    def forward(self, x: Tensor, tap: nn.Module) -> Tensor:
        """`tap` is the one that stored x: the resized tensor is stored again with the same scale, as LiteRT wants it."""
        if not self.transposed:
            x = tap(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv(x)


class Completion(nn.Module):
    """Encoder, residual blocks of dilation 2, decoder (section 3.3): the body of the edge and the clone network.

    head: the class of its last convolution. halved: works on the input at half its size, and its output is upsampled:
    nearest where that is quantized.
    """

    def __init__(
        self, config: Config, c_in: int, c_out: int, width: int, blocks: int, act: str | None, head: type[Conv], halved: bool
    ):
        super().__init__()
        self.halved = halved
        self.store = Tap("image")
        self.stem = Conv(config, c_in, width, 7)
        self.down = nn.ModuleList(
            [Conv(config, width, 2 * width, 4, stride=2), Conv(config, 2 * width, 4 * width, 4, stride=2)]
        )
        self.blocks = nn.ModuleList([DilatedBlock(config, 4 * width) for _ in range(blocks)])
        self.up = nn.ModuleList([Up(config, 4 * width, 2 * width), Up(config, 2 * width, width)])
        self.head = head(config, width, c_out, 7, act=act, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.halved:  # before it is stored: an int8 pooling would round twice
            with torch.autocast(x.device.type, enabled=False):
                x = F.avg_pool2d(x.float(), 2)
        x = self.stem(self.store(x))
        stored_by: Any = self.stem
        for layer in (*self.down, *self.blocks):
            x, stored_by = layer(x), layer
        for up in self.up:
            x, stored_by = up(x, stored_by.out), up.conv
        x = self.head(x)
        if not self.halved:
            return x
        if isinstance(self.head.out, nn.Identity):
            return F.interpolate(x.float(), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.head.out(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class EdgeGenerator(Completion):
    """G_edge: (gray, edges, mask), each (N, 1, H, W), -> edges_hat (N, 1, H, W) in (0, 1)."""

    def __init__(self, config: Config, width: int):
        super().__init__(config, 3, 1, width, config.blocks["edge"], "sigmoid", Conv, "edge" in config.halved)

    def forward(self, gray: Tensor, edges: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat([gray, edges, mask], 1))


class PixelCloneGenerator(Completion):
    """G_pc: (edges_hat, image, mask) -> offsets (N, 2, H, W) in (-1, 1). The image's hole is empty, or filled smoothly.

    Its head is never quantized: an int8 tanh has steps of 1/128, a whole pixel at 256 px, and a picture sampled a pixel off
    is another picture.
    """

    def __init__(self, config: Config, width: int):
        super().__init__(config, 5, 2, width, config.blocks["clone"], "tanh", FloatConv, "clone" in config.halved)

    def forward(self, edges_hat: Tensor, image: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat([edges_hat, image, mask], 1))


class ChannelAttention(nn.Module):
    """Squeeze, 1/16 of the channels, and rescale (Zhang et al. 2018, RCAN): x (N, C, H, W) -> the same shape."""

    def __init__(self, config: Config, channels: int):
        super().__init__()
        hidden = max(4, channels // 16)
        self.mean = Tap("signed")
        self.squeeze = Conv(config, channels, hidden, 1, norm=False)
        self.excite = Conv(config, hidden, channels, 1, norm=False, act="sigmoid")
        self.out = Tap("signed")

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x * self.excite(self.squeeze(self.mean(x.mean((2, 3), keepdim=True)))))


class RefineBlock(nn.Module):
    """A residual block that halves ('down') or doubles ('up') the size, with channel attention on its branch."""

    def __init__(self, config: Config, c_in: int, c_out: int, direction: str, attention: bool):
        super().__init__()
        self.direction = direction
        stride = 2 if direction == "down" else 1
        self.conv1 = Conv(config, c_in, c_out, 3, stride=stride)
        self.conv2 = Conv(config, c_out, c_out, 3, act=None)
        self.attention = ChannelAttention(config, c_out) if attention else nn.Identity()
        self.shortcut = Conv(config, c_in, c_out, 1, act=None, norm=False)
        self.out = Tap()

    def forward(self, x: Tensor, tap: nn.Module) -> Tensor:
        """`tap` is the one that stored x: what is resized or pooled from it is stored again with the same scale."""
        if self.direction == "up":
            # A 1x1 convolution and a nearest resize commute: the shortcut runs on a quarter of the pixels.
            short = self.shortcut.out(F.interpolate(self.shortcut(x), scale_factor=2.0, mode="nearest"))
            x = tap(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        else:
            # Pooled rather than strided: a strided 1x1 drops three pixels of four, and its backward pass writes out of
            # bounds for few channels in channels-last memory (torch 2.13 on a CPU: 8 -> 16 channels at 64 x 64).
            short = self.shortcut(tap(F.avg_pool2d(x, 2)))
        return self.out(short + self.attention(self.conv2(self.conv1(x))))


class RefineGenerator(nn.Module):
    """G_ref: (cloned, image, offsets) -> a picture (N, 3, H, W): 5 down + 5 up residual blocks, additive skips.

    With `config.residual` the output is unbounded and, before training, zero (it is added to `cloned`); else in (0, 1).
    The image's hole is empty. All three are as large as the networks see the picture, and so is the output.
    Offsets enter as (offsets + 1) / 2, so that all inputs share the range [0, 1] and one int8 scale.
    """

    WIDTHS = (1, 2, 4, 8, 8, 8)  # with width 64 the three networks have 49 M parameters and 142 GMAC at 256 x 256

    def __init__(self, config: Config, width: int):
        super().__init__()
        attention = config.variant == "unet_attention"
        widths = [width * w for w in self.WIDTHS]
        self.skips = config.variant != "auto_encoder"
        self.store = Tap("image")
        self.stem = Conv(config, 8, width, 7)
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList([RefineBlock(config, a, b, "down", attention) for a, b in pairs])
        self.up = nn.ModuleList([RefineBlock(config, b, a, "up", attention) for a, b in reversed(pairs)])
        self.joined = nn.ModuleList([Tap() for _ in self.up]) if self.skips else nn.ModuleList()
        self.head = Conv(config, width, 3, 7, act=None if config.residual else "sigmoid", norm=False)

    def forward(self, cloned: Tensor, image: Tensor, offsets: Tensor) -> Tensor:
        x = self.stem(self.store(torch.cat([cloned, image, (offsets + 1.0) * 0.5], 1)))
        encoded = [x]
        tap: nn.Module = self.stem.out
        for block in self.down:
            x, tap = block(x, tap), block.out
            encoded.append(x)
        encoded.pop()
        for i, block in enumerate(self.up):
            x, tap = block(x, tap), block.out
            if self.skips:
                x, tap = self.joined[i](x + encoded.pop()), self.joined[i]
        return self.head(x)


class PatchDiscriminator(nn.Module):
    """PatchGAN-70 with spectral norm, leaky ReLU and a sigmoid last (section 3.3): -> (scores, activations).

    Input (N, c_in, H, W): for edges (edge map, gray of the truth); for pictures (picture, edges_hat). Scores are in
    (0, 1), one for each 70 x 70 patch; activations are the outputs of each layer, for feature matching (eq. 3).
    """

    def __init__(self, c_in: int, width: int = 64):
        super().__init__()
        widths = [c_in, width, 2 * width, 4 * width, 8 * width]
        layers = [nn.Conv2d(a, b, 4, 2 if i < 3 else 1, 1) for i, (a, b) in enumerate(itertools.pairwise(widths))]
        layers.append(nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.layers = nn.ModuleList([spectral_norm(layer) for layer in layers])

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        activations = []
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), 0.2)
            activations.append(x)
        return torch.sigmoid(self.layers[-1](x)), activations


def gray(image: Tensor) -> Tensor:
    """Rec. 601 luma of image (N, 3, H, W): (N, 1, H, W)."""
    return LUMA[0] * image[:, 0:1] + LUMA[1] * image[:, 1:2] + LUMA[2] * image[:, 2:3]


def three(mask: Tensor) -> Tensor:
    """A mask (N, 1, H, W) for each of three channels: (N, 3, H, W). Said once, so that every product is of equal shapes."""
    return torch.cat([mask, mask, mask], 1)


def fill_hole(visible: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """(filled, shading): the picture with its hole filled by a smooth membrane, every visible pixel as it was; and its
    shading everywhere, means of 8 x 8 visible pixels upsampled.

    visible (N, C, H, W), zero in the hole; keep (N, C, H, W) of ones, and zeros in the hole; H and W divisible by a power of
    two. Pull: average pooling of the visible pixels, down to a few pixels. Push: bilinear upsampling into the hole and two
    3 x 3 averages at each level (a multigrid sweep for Laplace's equation). Plain pooling, resizing and arithmetic between
    tensors of one shape, so that it runs on any phone: a product of three channels with one takes XNNPACK ten times as long.
    """
    known, weight = visible, keep
    levels = [(known, weight)]
    while min(known.shape[-2:]) > 2 and known.shape[-1] % 2 == 0 and known.shape[-2] % 2 == 0:
        known, weight = F.avg_pool2d(known, 2), F.avg_pool2d(weight, 2)
        levels.append((known, weight))

    def mean_and_seen(level: int) -> tuple[Tensor, Tensor]:
        """Mean of a cell's visible pixels, zero where there is none; and 1 where there is any."""
        known, weight = levels[level]
        if level == 0:
            return known, weight
        # A weight is a multiple of 4 ** -level: times 65,536 it is zero or more than one.
        return known / (weight + 1e-6), (weight * 65536.0).clamp(max=1.0)

    value, seen = mean_and_seen(len(levels) - 1)
    # Where not even the coarsest cell saw a visible pixel, the mean of those that did.
    mean = value.mean((2, 3), keepdim=True) / (seen.mean((2, 3), keepdim=True) + 1e-6)
    filled = mean + (value - mean) * seen
    shading = filled
    for level in reversed(range(len(levels) - 1)):
        value, seen = mean_and_seen(level)
        hole = 1.0 - seen
        filled = value + hole * F.interpolate(filled, scale_factor=2.0, mode="bilinear", align_corners=False)
        for _ in range(2):
            filled = value + hole * F.avg_pool2d(filled, 3, 1, 1, count_include_pad=False)
        if level == 3:
            shading = filled
    return filled, F.interpolate(shading, size=visible.shape[-2:], mode="bilinear", align_corners=False)


def touched(mask: Tensor, size: int) -> Tensor:
    """The cells (N, 1, H / size, W / size) of a mask (N, 1, H, W) of which any pixel is 1.

    By a difference, not by a maximum: a converter would make that int8, and the warp's coordinates are multiplied by it.
    """
    return 1.0 - F.relu(1.0 - F.avg_pool2d(mask, size) * size**2) if size > 1 else mask


def copyable(detail: Tensor) -> Tensor:
    """Detail of a picture (N, C, H, W) without what no skin has: pores and creases pass, outlines fade out.

    A copy that reaches hair, a collar or an ear-ring would draw its outline across the face.
    """
    return detail * F.relu(1.0 - (detail / STRONGEST_DETAIL).square().square())


class Inpainter(nn.Module):
    """What every model is to the rest of the house: `forward(image, mask)` returns a dictionary of (N, C, H, W) tensors.

    image in [0, 1], mask with 1 = erase (binarised at 0.5). Keys: `refined`, the picture as it was painted; `erased`, that
    inside the hole and the input outside; and what the model has on its way there, such as `edges_hat` or `flow` (pixels).
    Whatever stands in the picture where the mask is 1 never reaches an output.

    `warp`, `to_flow` and `fill` are forms of the warp and the fill; an exporter swaps in those its runtime takes.
    """

    PHASES: ClassVar[Mapping[str, tuple[str, ...]]]
    """What each phase of training trains, in the order of training: 'inpaint', 'all', and what goes before, if any does."""
    HEADS: tuple[str, ...]
    """The last layer of each network, whose channels are what it is for."""
    TAILS: tuple[tuple[str, ...], ...]
    """What may stay in float when it is quantized, from a network's end backwards."""
    PLAN: ClassVar[tuple[str, ...]] = ()
    """Outputs of `forward` that say what to copy from where, which it also takes (`plan`), so that two runs that round
    differently paint the same: FaceEraser's `offsets_seen` (N, 2, h, w) in (-1, 1), say.
    """
    WARPS: tuple[str, ...] = ()
    """What is warped, in order: a 'picture', which is never quantized before it is, or 'features'."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.warp: Callable[[Tensor, Tensor], Tensor] = warp
        self.to_flow: Callable[[Tensor], Tensor] = offsets_to_flow
        self.fill: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = fill_hole

    def initialise(self) -> None:
        """Draw all weights anew (He's), with norms as they are at first; the heads of a residual network start at zero."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, a=1.0)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.config.residual:  # starts as the smooth fill, and learns what that lacks
            for head in map(self.get_submodule, self.HEADS):
                if isinstance(head, Conv) and not isinstance(head.act, nn.Sigmoid):
                    nn.init.zeros_(head.get_submodule("conv").get_parameter("weight"))

    @property
    def first(self) -> str | None:
        """The network that has a phase of its own, before the others are trained: 'edge', 'structure' or None."""
        return next((phase for phase in self.PHASES if phase not in ("inpaint", "all")), None)

    def unpainted(self, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """What `own_terms` and a student need of `forward`, for training without a term on the picture: less, where a model
        can tell what it is to paint without painting it.
        """
        outputs: dict[str, Tensor] = self(image, mask)
        return outputs

    def own_terms(
        self, outputs: Mapping[str, Tensor], truth: Tensor, mask: Tensor, skin: Tensor, where: Tensor | None
    ) -> dict[str, Tensor]:
        """What this model adds of its own to the objective that all share, {name: weighted loss} of what `forward` gave
        for a truth (N, 3, H, W) and a mask (N, 1, H, W). skin (N, 1, H, W): 1 where bare skin is seen. where: what L1
        terms are taken over, None for the whole picture.
        """
        return {}

    def agreement(
        self, other: Mapping[str, Tensor], own: Mapping[str, Tensor], image: Tensor, mask: Tensor, pixels: float
    ) -> dict[str, float]:
        """How much of somebody's plan for a picture (1, 3, H, W) and a mask (1, 1, H, W) is this network's own, {name: share
        of what the hole has of it}; of what says where to copy from, to so many pixels.
        """
        raise NotImplementedError(f"{type(self).__name__} has no plan")

    def seeing(self, shrink: int) -> Self:
        """The same layers and weights in an object of its own, whose networks see a picture at 1 / shrink of its size: what
        is trained in the one is trained in the other.
        """
        view = copy.copy(self)
        view.config = dataclasses.replace(self.config, shrink=shrink)
        return view

    def channels_only(self) -> Self:
        """The same layers and weights, to trace a graph of channels by: what moves pixels and leaves channels alone may be
        left out.
        """
        return self

    def shrunk(self, image: Tensor) -> Tensor:
        """What the networks see of a picture (N, C, H, W): its mean over cells of `config.shrink` pixels."""
        return F.avg_pool2d(image.float(), self.config.shrink) if self.config.shrink > 1 else image

    def _touched(self, mask: Tensor) -> Tensor:
        """The cells (N, 1, h, w) of a mask (N, 1, H, W) of which any pixel is 1, as large as the networks see it."""
        return touched(mask.float(), self.config.shrink)

    def _enlarged(self, x: Tensor, mode: str) -> Tensor:
        if self.config.shrink == 1:
            return x
        smooth = {"align_corners": False} if mode == "bilinear" else {}
        return F.interpolate(x.float(), scale_factor=float(self.config.shrink), mode=mode, **smooth)

    def complete_edges(self, image: Tensor, mask: Tensor, edges: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(edges, edges_hat) of a picture, as large as the networks see it: phase 1 alone, of a model with an edge network.

        `edges` (N, 1, H, W), as large as the picture, are taken as given when passed.
        """
        mask = (mask >= 0.5).to(image.dtype)
        with torch.autocast(image.device.type, enabled=False):
            seen = self.shrunk(image * three(1.0 - mask))
            return self._complete_edges(seen, self._touched(mask), edges)

    def _complete_edges(self, seen: Tensor, small_mask: Tensor, edges: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same of what the networks see: `seen` (N, 3, h, w), and the cells that are hidden, if only in part."""
        with torch.autocast(seen.device.type, enabled=False):
            keep = 1.0 - small_mask
            luma = gray(seen) * keep
            edges = canny_tensor(luma, small_mask) if edges is None else self._touched(edges) * keep
        return edges, self.edge(luma, edges, small_mask)


class FaceEraser(Inpainter):
    """The paper's pipeline. Keys of what it returns: `edges`, `edges_hat`, `offsets_seen`, `offsets`, `flow`, `cloned`,
    `refined`, `erased`.

    `offsets_seen` are the offsets as large as the networks see the picture, `offsets` the same enlarged, and `flow`
    those in pixels: the flow that `cloned` was made by. With `config.fill` only what it copies into the hole is used;
    beyond the hole's rim it is zero. Without, the whole picture is warped by it.
    """

    PLAN = ("offsets_seen",)

    PHASES: ClassVar = {"edge": ("edge",), "inpaint": ("clone", "refine"), "all": ("edge", "clone", "refine")}
    HEADS = ("edge.head", "clone.head", "refine.head")
    TAILS = (("clone.head", "clone.up.1", "clone.up.0"), ("refine.head",))
    WARPS = ("picture",)

    def __init__(self, config: Config, width: int = 16, edge_width: int | None = None):
        super().__init__(config)
        self.edge = EdgeGenerator(config, edge_width or width)
        self.clone = PixelCloneGenerator(config, width)
        self.refine = RefineGenerator(config, width)
        self.initialise()

    def forward(
        self, image: Tensor, mask: Tensor, edges: Tensor | None = None, plan: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """As of every `Inpainter`. plan: takes the place of what the clone network would say, so that two runs which round
        differently copy the same pixels.
        """
        mask = (mask >= 0.5).to(image.dtype)
        hole, small_mask = three(mask), self._touched(mask)
        keep = 1.0 - hole
        visible = image * keep
        seen = self.shrunk(visible)
        edges, edges_hat = self._complete_edges(seen, small_mask, edges)
        guide = edges_hat if self.config.guided else torch.zeros_like(edges_hat)
        if self.config.fill:
            with torch.autocast(image.device.type, enabled=False):
                filled, shading = self.fill(visible.float(), keep.float())
            small_offsets = self._offsets(plan, guide, self.shrunk(filled), small_mask)
            small_offsets = small_offsets * torch.cat([small_mask, small_mask], 1)
            offsets = self._enlarged(small_offsets, "bilinear")
            flow = self.to_flow(offsets)
            detail = copyable(visible - shading) * (keep * DETAIL_GAIN)
            cloned = filled + hole * self.warp(detail, flow)
        else:
            small_offsets = self._offsets(plan, guide, self.shrunk(visible), small_mask)
            offsets = self._enlarged(small_offsets, "bilinear")
            flow = self.to_flow(offsets)
            cloned = self.warp(visible, flow)
        seen = seen * (1.0 - three(small_mask))
        refined = self._enlarged(self.refine(self.shrunk(cloned), seen, small_offsets).float(), "bilinear")
        if self.config.residual:
            refined = cloned + RESIDUAL_GAIN * refined
        refined = refined.clamp(0.0, 1.0)
        erased = visible + refined * hole
        return {
            "edges": self._enlarged(edges, "nearest"),
            "edges_hat": self._enlarged(edges_hat, "nearest"),
            "offsets_seen": small_offsets,
            "offsets": offsets,
            "flow": flow,
            "cloned": cloned,
            "refined": refined,
            "erased": erased,
        }

    def _offsets(self, plan: Mapping[str, Tensor] | None, guide: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        return self.clone(guide, image, mask).float() if plan is None else plan["offsets_seen"]

    def agreement(
        self, other: Mapping[str, Tensor], own: Mapping[str, Tensor], image: Tensor, mask: Tensor, pixels: float
    ) -> dict[str, float]:
        """Of the cells that the hole touches, those whose flow is the same to so many pixels of the picture."""
        half = (torch.tensor(mask.shape[:-3:-1], dtype=torch.float64) - 1.0).view(1, 2, 1, 1) / 2.0
        apart = ((other["offsets_seen"] - own["offsets_seen"]) * half).abs().amax(1, keepdim=True)
        cells = apart[self._touched(mask) > 0.5]
        return {"offsets_seen": float((cells <= pixels).double().mean()) if len(cells) else 1.0}


def shape_to(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give every layer the shape of its tensors in `state`, in place, so that a pruned network loads strictly."""
    for name, module in network.named_modules():
        weight = state.get(f"{name}.weight")
        if weight is None:
            continue
        if isinstance(module, nn.ConvTranspose2d):
            module.in_channels, module.out_channels = weight.shape[0], weight.shape[1]
        elif isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = weight.shape[0], weight.shape[1]
            if module.groups > 1:  # depthwise: a filter for each channel
                module.groups = module.in_channels = module.out_channels
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = weight.shape[0]
        for kind in ("weight", "bias"):
            old, new = getattr(module, kind, None), state.get(f"{name}.{kind}")
            if isinstance(old, nn.Parameter) and new is not None:
                setattr(module, kind, nn.Parameter(torch.empty_like(new)))
        for kind in ("running_mean", "running_var"):
            if (new := state.get(f"{name}.{kind}")) is not None:
                setattr(module, kind, torch.empty_like(new))


def norm_scales(network: nn.Module) -> list[nn.Parameter]:
    """The scale factors (gamma) of every batch norm, each (C,): what network slimming makes sparse."""
    return [m.weight for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def cost_of(network: nn.Module, resolution: int = 256) -> tuple[float, int]:
    """(GMACs at resolution x resolution, parameters) of a pipeline: convolutions, transposed and dense layers, and the
    products of matrices that attention makes.

    Multiply-accumulates are counted in one forward pass, on the tensors as they are, for one picture.
    """
    counter = FlopCounterMode(display=False)
    training = network.training
    device = next(network.parameters()).device
    try:
        with torch.no_grad(), counter:
            network.eval()(
                torch.zeros(1, 3, resolution, resolution, device=device),
                torch.zeros(1, 1, resolution, resolution, device=device),
            )
    finally:
        network.train(training)
    flops_of, aten = counter.get_flop_counts(), torch.ops.aten
    # By module: a filter that nobody learnt, such as Canny's, is no layer.
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    flops = sum(flops_of[f"{type(network).__name__}.{name}"][aten.convolution] for name in layers)
    flops += flops_of["Global"].get(aten.bmm, 0)
    return flops / 2e9, sum(p.numel() for n, p in network.named_parameters() if not n.endswith("scale"))

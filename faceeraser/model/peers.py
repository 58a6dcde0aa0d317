"""The paper's peers (Hua et al. 2021, section 4.2), each from its own paper, around the same picture, mask and loop.

    EdgeConnect    edges, then an auto-encoder that paints           Nazeri et al. 2019, arXiv:1901.00212
    StructureFlow  a smooth structure, then an appearance flow       Ren et al. 2019, arXiv:1908.03852
    HiFill         attention, and the residual it carries over       Yi et al. 2020, arXiv:2005.09704

All are `Inpainter`s of the same two presets as FaceEraser, so that they train, compress and export by the same commands.
With the `paper` preset a peer sees the hole as zeros and paints the whole picture. With `mobile` it has what the mobile
FaceEraser has around its three networks: batch norms, a hole that is filled by a membrane first, half the size inside, an
output that is added to that fill. FaceEraser's edge and clone networks work at half of that size again (`Config.halved`);
of the peers', EdgeConnect's edges do: compare costs with that in mind. Each keeps the term of its own paper (`own_terms`),
whatever else the objective holds.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceeraser.model.config import Config
from faceeraser.model.losses import FilterBank, l1_loss
from faceeraser.model.networks import (
    RESIDUAL_GAIN,
    Completion,
    Conv,
    Depthwise,
    DilatedBlock,
    EdgeGenerator,
    FaceEraser,
    FloatConv,
    Inpainter,
    Up,
    three,
    touched,
)
from faceeraser.model.planner import PatchEraser
from faceeraser.model.quant import Tap


class Peer(Inpainter):
    """What the peers share: what their networks see, and where what they paint goes."""

    def forward(self, image: Tensor, mask: Tensor, edges: Tensor | None = None) -> dict[str, Tensor]:
        mask = (mask >= 0.5).to(image.dtype)
        hole = three(mask)
        keep = 1.0 - hole
        visible = image * keep
        base = self._filled(visible, keep) if self.config.fill else visible
        small_mask = self._touched(mask)
        outputs, painted, added = self.painted(self._seen(base, small_mask), small_mask, visible, keep, edges)
        refined = self._enlarged(painted.float(), "bilinear")
        if self.config.residual:
            refined = base + RESIDUAL_GAIN * refined
        refined = (refined if added is None else refined + added).clamp(0.0, 1.0)
        return {**outputs, "refined": refined, "erased": visible + refined * hole}

    def painted(
        self, seen: Tensor, small_mask: Tensor, visible: Tensor, keep: Tensor, edges: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """(what is found on the way, what is painted, what is added to that at full size).

        seen (N, 3, h, w), small_mask (N, 1, h, w): as the networks see them, 1 / shrink of the size of visible and keep
        (N, 3, H, W). What is painted is (N, 3, h, w), with `config.residual` what the picture that is seen lacks.
        """
        raise NotImplementedError

    def _filled(self, visible: Tensor, keep: Tensor) -> Tensor:
        """The picture (N, 3, H, W) with a membrane in its hole."""
        with torch.autocast(visible.device.type, enabled=False):
            return self.fill(visible.float(), keep.float())[0]

    def _seen(self, base: Tensor, small_mask: Tensor) -> Tensor:
        """What the networks see of a picture; without a fill, zeros in every cell that is hidden, if only in part."""
        return self.shrunk(base) if self.config.fill else self.shrunk(base) * (1.0 - three(small_mask))

    def _picture(self, given: Tensor, head: Tensor) -> Tensor:
        """A picture (N, 3, h, w) from what a head gives: added to what was given, or as it is."""
        return (given + RESIDUAL_GAIN * head.float()).clamp(0.0, 1.0) if self.config.residual else head


def _act(config: Config) -> str | None:
    """How a head that paints ends."""
    return None if config.residual else "sigmoid"


# --- EdgeConnect ------------------------------------------------------------------------------------------------------


class EdgeConnect(Peer):
    """Edges are completed first, by the network that FaceEraser took over, and an auto-encoder of the same body paints
    (sections 3.1 and 3.2). Besides picture and edges the auto-encoder is given the mask, as the others are; the edges are
    the network's, in the hole and outside. It is trained with the edges frozen; the paper trains both together at the end.
    """

    PHASES: ClassVar = {"edge": ("edge",), "inpaint": ("paint",), "all": ("edge", "paint")}
    HEADS = ("edge.head", "paint.head")
    TAILS = (("paint.head",),)

    def __init__(self, config: Config, width: int = 16, edge_width: int | None = None):
        super().__init__(config)
        self.edge = EdgeGenerator(config, edge_width or width)
        self.paint = Completion(config, 5, 3, width, config.blocks["paint"], _act(config), Conv, halved=False)
        self.initialise()

    def painted(
        self, seen: Tensor, small_mask: Tensor, visible: Tensor, keep: Tensor, edges: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        edges, edges_hat = self._complete_edges(self.shrunk(visible), small_mask, edges)
        painted = self.paint(torch.cat([seen, edges_hat, small_mask], 1))
        outputs = {"edges": self._enlarged(edges, "nearest"), "edges_hat": self._enlarged(edges_hat, "nearest")}
        return outputs, painted, None


# --- StructureFlow ----------------------------------------------------------------------------------------------------

_ROUNDS, _ITERATIONS = 3, 8


def smooth_structure(image: Tensor, strength: float = 0.015, sigma: float = 3.0) -> Tensor:
    """A picture (N, 3, H, W) without its texture and with its edges: `S`, what StructureFlow reconstructs first.

    Relative total variation (Xu et al., Structure Extraction from Texture via Relative Total Variation, 2012): the
    picture nearest to the input whose gradients are small where they go to and fro within a window of `sigma` pixels.
    Three rounds of reweighting, sigma halved each time, and in each eight steps of conjugate gradients: arithmetic on
    planes only, so that an exported file can hold it.
    """
    image = image.float()
    smooth = image
    for _ in range(_ROUNDS):
        weights = [strength * w for w in _rtv_weights(smooth, sigma)]
        smooth = _solve(image, smooth, weights)
        sigma = max(sigma / 2, 0.5)
    return smooth


def _across(x: Tensor) -> Tensor:
    """Forward differences along a row, zero in the last column."""
    return F.pad(x[..., 1:] - x[..., :-1], (0, 1))


def _down(x: Tensor) -> Tensor:
    return F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))


def _rtv_weights(image: Tensor, sigma: float) -> list[Tensor]:
    """The weights (N, 3, H, W) of the squared differences across and down: one over the windowed inherent variation (it is
    large where gradients add up, at edges) and over the difference itself (Xu et al. 2012, equations 9 and 10).
    """
    radius = max(1, round(2 * sigma))
    at = torch.arange(-radius, radius + 1, dtype=torch.float32, device=image.device)
    bell = torch.exp(-at.square() / (2 * sigma**2))
    bell = bell / bell.sum()
    rows, columns = bell.view(1, 1, 1, -1), bell.view(1, 1, -1, 1)

    def window(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(F.pad(x, [radius] * 4), rows), columns)

    weights = []
    for difference in (_across(image), _down(image)):
        mean = difference.mean(1, keepdim=True)
        inherent = 1.0 / (window(mean).abs() + 1e-3)
        own = 1.0 / (difference.abs().mean(1, keepdim=True) + 0.02)
        weights.append(three(window(inherent) * own))
    return weights


def _solve(image: Tensor, start: Tensor, weights: list[Tensor]) -> Tensor:
    """The picture x (N, 3, H, W) with x + D'WDx = image, nearly: preconditioned conjugate gradients from `start`."""
    wx, wy = F.pad(weights[0][..., :-1], (0, 1)), F.pad(weights[1][..., :-1, :], (0, 0, 0, 1))  # no next pixel there
    diagonal = 1.0 + wx + F.pad(wx[..., :-1], (1, 0)) + wy + F.pad(wy[..., :-1, :], (0, 0, 1, 0))

    def apply(x: Tensor) -> Tensor:
        a, b = wx * _across(x), wy * _down(x)
        return x - a + F.pad(a[..., :-1], (1, 0)) - b + F.pad(b[..., :-1, :], (0, 0, 1, 0))

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).mean((1, 2, 3), keepdim=True)

    x = start
    r = image - apply(x)
    z = r / diagonal
    p, rz = z, dot(r, z)
    for _ in range(_ITERATIONS):
        ap = apply(p)
        alpha = rz / (dot(p, ap) + 1e-20)
        x = x + alpha * p
        r = r - alpha * ap
        z = r / diagonal
        before, rz = rz, dot(r, z)
        p = z + rz / (before + 1e-20) * p
    return x


class TextureGenerator(nn.Module):
    """G_t: (picture, structure, mask), 7 channels -> 3; features of what is seen are carried into the hole by a flow
    (section 3.2). `flow` predicts it at a quarter of the size from the features of the residual blocks; what it fetches
    from the encoder's features joins them. Sampling is Gaussian (section 3.2: a bilinear sample sees four pixels, too few
    for a flow to be learnt): the features are blurred, then sampled bilinearly.
    """

    def __init__(self, config: Config, width: int, blocks: int):
        super().__init__()
        self.store = Tap("image")
        self.stem = Conv(config, 7, width, 7)
        self.down = nn.ModuleList(
            [Conv(config, width, 2 * width, 4, stride=2), Conv(config, 2 * width, 4 * width, 4, stride=2)]
        )
        self.blocks = nn.ModuleList([DilatedBlock(config, 4 * width) for _ in range(blocks)])
        self.flow = FloatConv(config, 4 * width, 2, 3, act="tanh", norm=False)
        self.joined = Tap("signed")
        self.join = Conv(config, 8 * width, 4 * width, 3)
        self.up = nn.ModuleList([Up(config, 4 * width, 2 * width), Up(config, 2 * width, width)])
        self.head = Conv(config, width, 3, 7, act=_act(config), norm=False)

    def forward(self, x: Tensor, hole: Tensor, sample: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """(head's output (N, 3, h, w), offsets (N, 2, h / 4, w / 4)); hole (N, 1, h / 4, w / 4), where features are fetched;
        sample(features, offsets): the warp.
        """
        x = self.stem(self.store(x))
        for layer in self.down:
            x = layer(x)
        seen = x
        for layer in self.blocks:
            x = layer(x)
        with torch.autocast(x.device.type, enabled=False):
            offsets = self.flow(x.float()) * torch.cat([hole, hole], 1)
            blurred = F.avg_pool2d(F.avg_pool2d(seen.float(), 3, 1, 1), 3, 1, 1)  # two boxes: sigma 1.2
            fetched = sample(blurred, offsets)
            fetched = seen.float() + hole * (fetched - seen.float())
        x = self.join(self.joined(torch.cat([x, fetched.to(x.dtype)], 1)))
        stored_by: Any = self.join
        for up in self.up:
            x, stored_by = up(x, stored_by.out), up.conv
        return self.head(x), offsets


class StructureFlow(Peer):
    """A structure, smooth with sharp edges, is completed first (section 3.1); then a flow fetches features (section 3.2).

    The structure that goes in is that of the picture with its hole filled by the membrane: nothing of the hole is in it.
    Unlike the paper's, the flow reaches half a picture at most (a tanh ends it), both networks have the adversarial weight
    that all models here have, and the likeness that the flow is taught by is a fixed filter bank's, not VGG's.
    """

    PHASES: ClassVar = {"structure": ("structure",), "inpaint": ("texture",), "all": ("structure", "texture")}
    HEADS = ("structure.head", "texture.flow", "texture.head")
    TAILS = (("texture.flow",), ("texture.head",))
    WARPS = ("features",)
    CORRECTNESS = 0.05  # of the L1 term: the paper's lambda_c over its lambda_l1, 0.25 over 5

    def __init__(self, config: Config, width: int = 16, edge_width: int | None = None):
        super().__init__(config)
        blocks = config.blocks
        self.structure = Completion(config, 7, 3, edge_width or width, blocks["structure"], _act(config), Conv, halved=False)
        self.texture = TextureGenerator(config, width, blocks["texture"])
        self.initialise()

    def complete_structure(self, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The first network alone, of image (N, 3, H, W): `structure_hat`, and `structure_truth`, the smoothed picture."""
        mask = (mask >= 0.5).to(image.dtype)
        keep = 1.0 - three(mask)
        visible, small_mask = image * keep, self._touched(mask)
        base = self._filled(visible, keep) if self.config.fill else visible
        completed = self._completed(self._seen(base, small_mask), small_mask, visible, keep)
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            truth = smooth_structure(self.shrunk(image))
        return {"structure_hat": self._enlarged(completed, "bilinear"), "structure_truth": self._enlarged(truth, "bilinear")}

    def _completed(self, seen: Tensor, small_mask: Tensor, visible: Tensor, keep: Tensor) -> Tensor:
        with torch.autocast(seen.device.type, enabled=False):
            if self.config.fill:  # what is seen is filled already
                given = smooth_structure(seen)
            else:
                given = smooth_structure(self.shrunk(self._filled(visible, keep))) * (1.0 - three(small_mask))
        return self._picture(given, self.structure(torch.cat([seen, given, small_mask], 1)))

    def painted(
        self, seen: Tensor, small_mask: Tensor, visible: Tensor, keep: Tensor, edges: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        structure = self._completed(seen, small_mask, visible, keep)
        painted, offsets = self.texture(
            torch.cat([seen, structure, small_mask], 1),
            touched(small_mask, 4),
            lambda x, given: self.warp(x, self.to_flow(given)),
        )
        outputs = {"structure_hat": self._enlarged(structure.float(), "bilinear"), "feature_offsets": offsets}
        return outputs, painted, None

    def own_terms(
        self, outputs: Mapping[str, Tensor], truth: Tensor, mask: Tensor, skin: Tensor, where: Tensor | None
    ) -> dict[str, Tensor]:
        """The sampling correctness loss (equation 5): what the flow fetches into the hole, of the picture that is seen, has
        to be as like the truth as the likest there is. Likeness is the cosine of features, here the filter bank's.
        """
        offsets = outputs["feature_offsets"]
        size = offsets.shape[-2:]

        def features(picture: Tensor) -> Tensor:
            return F.normalize(F.adaptive_avg_pool2d(_filter_bank(picture.device)(picture)[2], size), dim=1, eps=1e-3)

        with torch.autocast(truth.device.type, enabled=False):
            # Of a whole photograph only some of the hole has a truth; the rest is the very parts that are to go.
            hole = (F.adaptive_avg_pool2d(mask if where is None else where, size) > 0).float()
            wanted, there = features(truth.float()), features((truth * (1.0 - three(mask))).float())
            alike = wanted.flatten(2).transpose(1, 2) @ there.flatten(2)
            best = alike.amax(2).reshape(len(truth), 1, *size).clamp(min=1e-3)
            likeness = (wanted * self.warp(there, self.to_flow(offsets))).sum(1, keepdim=True)
            loss = l1_loss(torch.exp(-likeness / best), torch.full_like(best, 1 / math.e), hole)
        return {"correctness": self.CORRECTNESS * loss}


@functools.cache
def _filter_bank(device: torch.device) -> FilterBank:
    return FilterBank().to(device)


# --- HiFill -----------------------------------------------------------------------------------------------------------


class GatedConv(nn.Module):
    """A light weight gated convolution (section 3.4): (N, c_in, H, W) -> (N, c_out, H / stride, W / stride).

    Features times a gate in (0, 1). gate: 'single', one for all channels, which the coarse network has; or 'separable', one
    for each, by a depthwise convolution (with the preset's norm and a ReLU) and a 1 x 1, which the refine network has. A
    plain gated convolution costs twice what a convolution costs; these a fraction more.
    """

    def __init__(self, config: Config, c_in: int, c_out: int, kernel: int, gate: str, stride: int = 1, dilation: int = 1):
        super().__init__()
        plain = config.preset == "paper"  # features without norms, and ELU, which phones compute slowly
        self.features = Conv(
            config, c_in, c_out, kernel, stride=stride, dilation=dilation, act="elu" if plain else "relu", norm=not plain
        )
        self.around: nn.Module = nn.Identity()
        if gate == "single":
            self.gate = Conv(config, c_in, 1, kernel, stride=stride, dilation=dilation, act="sigmoid", norm=False)
        else:
            self.around = Depthwise(config, c_in, kernel, stride, dilation)
            self.gate = Conv(config, c_in, c_out, 1, act="sigmoid", norm=False)
        self.out = Tap("signed" if plain else "relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x) * self.gate(self.around(x)))


class CoarseNetwork(nn.Module):
    """The first network: (picture, mask), 4 channels -> 3, at half the working size; dilated convolutions in its middle."""

    def __init__(self, config: Config, width: int):
        super().__init__()
        wide = 2 * width
        self.store = Tap("image")
        self.stem = GatedConv(config, 4, width, 5, "single")
        self.down = nn.ModuleList(
            [GatedConv(config, width, wide, 3, "single", stride=2), GatedConv(config, wide, wide, 3, "single", stride=2)]
        )
        self.middle = nn.ModuleList([GatedConv(config, wide, wide, 3, "single", dilation=d) for d in (1, 2, 4, 8)])
        self.up = nn.ModuleList([GatedConv(config, wide, wide, 3, "single"), GatedConv(config, wide, width, 3, "single")])
        self.head = Conv(config, width, 3, 3, act=_act(config), norm=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.store(x))
        stored_by: Any = self.stem
        for layer in (*self.down, *self.middle):
            x, stored_by = layer(x), layer
        for layer in self.up:
            x, stored_by = layer(stored_by.out(F.interpolate(x, scale_factor=2.0, mode="nearest"))), layer
        return self.head(x)


def attention_of(features: Tensor, hidden: Tensor) -> Tensor:
    """Where each place may be taken from (section 3.3): features (N, C, g, g), hidden (N, 1, g, g) with 1 = not to be taken
    from -> (N, g g, g g), rows that add up to 1, over the places that are not hidden.

    Places are compared by the cosine of the 3 x 3 features around them.
    """
    n, channels, height, width = features.shape
    # Scaled, which changes no cosine: litert-torch loses the shape of a quantized tensor that is padded or reshaped at once.
    padded = F.pad(features.float() * channels**-0.5, (1, 1, 1, 1))
    around = [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    patches = torch.cat(around, 1).reshape(n, -1, height * width)
    patches = patches / (patches.square().sum(1, keepdim=True) + 1e-6).sqrt()
    alike = patches.transpose(1, 2) @ patches
    return torch.softmax(SHARPNESS * alike - 1e4 * hidden.reshape(n, 1, height * width), 2)


SHARPNESS = 10.0
"""Of the softmax: 1 where places are alike against exp(-10) where they have nothing in common."""


def transferred(x: Tensor, attention: Tensor, hole: Tensor) -> Tensor:
    """A map (N, C, H, W) with its hole made of what attention (N, g g, g g) takes from elsewhere, piece by piece of H / g
    pixels (section 3.3, the attention transfer module); hole (N, 1, H, W). The same attention serves every size.
    """
    grid = math.isqrt(attention.shape[1])
    piece = x.shape[-1] // grid
    holes = torch.cat([hole] * x.shape[1], 1)
    seen = x.float() * (1.0 - holes)  # nothing is taken from a hole
    pieces = F.pixel_unshuffle(seen, piece)
    n, channels = pieces.shape[:2]
    # In this order: a reshape before the left factor would be folded into TFLite's FULLY_CONNECTED, wrongly.
    moved = attention @ pieces.reshape(n, channels, grid * grid).transpose(1, 2)
    moved = moved.transpose(1, 2).reshape(n, channels, grid, grid)
    return seen + holes * F.pixel_shuffle(moved, piece)


class HiFillRefine(nn.Module):
    """The second network: (picture, mask), 4 channels -> 3 at the working size, and the attention, computed at 1 / 16 of it.

    Its skips at 1/8, 1/4 and 1/2 are filled by that attention.
    """

    def __init__(self, config: Config, width: int):
        super().__init__()
        widths = [max(1, width // 2), width, 2 * width, 4 * width, 4 * width]
        self.store = Tap("image")
        self.stem = GatedConv(config, 4, widths[0], 5, "separable")
        self.down = nn.ModuleList([GatedConv(config, a, b, 3, "separable", stride=2) for a, b in itertools.pairwise(widths)])
        self.middle = nn.ModuleList([GatedConv(config, widths[-1], widths[-1], 3, "separable", dilation=d) for d in (1, 2)])
        self.joined = nn.ModuleList([Tap("signed") for _ in range(3)])
        self.up = nn.ModuleList(
            [GatedConv(config, b + a, a, 3, "separable") for a, b in reversed(list(itertools.pairwise(widths))[1:])]
        )
        self.last = GatedConv(config, widths[1], widths[0], 3, "separable")
        self.transfer: Callable[[Tensor, Tensor, Tensor], Tensor] = transferred
        self.head = Conv(config, widths[0], 3, 3, act=_act(config), norm=False)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(head's output, attention); x (N, 4, W, W), mask (N, 1, W / 2, W / 2) with 1 = hole."""
        skips = [self.stem(self.store(x))]
        for layer in self.down:
            skips.append(layer(skips[-1]))
        with torch.autocast(x.device.type, enabled=False):
            attention = attention_of(skips[-1], touched(mask, 8))
        x = skips[-1]
        stored_by: Any = self.down[-1]
        for layer in self.middle:
            x, stored_by = layer(x), layer
        for layer, joined, skip, size in zip(self.up, self.joined, (skips[3], skips[2], skips[1]), (4, 2, 1), strict=True):
            with torch.autocast(x.device.type, enabled=False):
                taken = self.transfer(skip, attention, touched(mask, size))
            x = stored_by.out(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            x, stored_by = layer(joined(torch.cat([x, taken.to(x.dtype)], 1))), layer
        x = self.last(stored_by.out(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return self.head(x), attention


class HiFill(Peer):
    """Coarse, refine and, with the same attention, the residual that resizing lost (section 3).

    It works at twice the size that the other models' networks see, as Hua et al. had to do ("HiFill only supports training
    and inferences on images no smaller than 512 x 512", section 4.2), and what it paints is resized back. Then the
    contextual residual (section 3.2): what the picture loses on the way there and back, aggregated into the hole by the
    attention and added. In the `paper` preset that is what two resizings blur; with `shrink` it is all the detail.
    """

    PHASES: ClassVar = {"inpaint": ("coarse", "refine"), "all": ("coarse", "refine")}
    HEADS = ("coarse.head", "refine.head")
    TAILS = (("refine.head",),)

    def __init__(self, config: Config, width: int = 16, edge_width: int | None = None):
        super().__init__(config)
        self.coarse = CoarseNetwork(config, width)
        self.refine = HiFillRefine(config, width)
        self.initialise()

    def painted(
        self, seen: Tensor, small_mask: Tensor, visible: Tensor, keep: Tensor, edges: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        coarse = self._picture(seen, self.coarse(torch.cat([seen, small_mask], 1)))
        hole = three(small_mask)
        given = seen + hole * (coarse - seen)
        doubled = F.interpolate(torch.cat([given, small_mask], 1).float(), scale_factor=2.0, mode="bilinear")
        painted, attention = self.refine(doubled, small_mask)
        painted = F.avg_pool2d(painted.float(), 2)
        with torch.autocast(visible.device.type, enabled=False):
            residual = self.lost(self._filled(visible, keep)) * keep
            residual = self.refine.transfer(residual, attention, 1.0 - keep[:, :1]) * (1.0 - keep)
        return {"coarse": self._enlarged(coarse.float(), "bilinear")}, painted, residual

    def channels_only(self) -> Self:
        # torch-pruning would follow every channel through attention's reshapes, which takes all of a machine's memory.
        view = copy.copy(self)
        view._modules = dict(self._modules)
        view.refine = copy.copy(self.refine)
        view.refine.transfer = lambda x, attention, hole: x.float()
        return view

    def lost(self, picture: Tensor) -> Tensor:
        """What of a picture (N, 3, H, W) does not come back from the working size: R = I - up(down(I)), section 3.2."""
        there = F.interpolate(self.shrunk(picture), scale_factor=2.0, mode="bilinear")
        return picture - self._enlarged(F.avg_pool2d(there, 2), "bilinear")

    def own_terms(
        self, outputs: Mapping[str, Tensor], truth: Tensor, mask: Tensor, skin: Tensor, where: Tensor | None
    ) -> dict[str, Tensor]:
        """L1 of the coarse network's picture too (section 3.5)."""
        return {"coarse": l1_loss(outputs["coarse"], truth, where)}


# --- all of them ------------------------------------------------------------------------------------------------------


def build(config: Config, width: int = 16, edge_width: int | None = None) -> Inpainter:
    """A fresh network of `config.model`; edge_width: of the network that is trained first, if it is another."""
    classes: dict[str, type[FaceEraser | EdgeConnect | StructureFlow | HiFill | PatchEraser]] = {
        "faceeraser": FaceEraser,
        "edgeconnect": EdgeConnect,
        "structureflow": StructureFlow,
        "hifill": HiFill,
        "patches": PatchEraser,
    }
    return classes[config.model](config, width, edge_width)

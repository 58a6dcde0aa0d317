"""A network for phones that plans: a small body looks at 128 x 128 pixels, and painting is arithmetic (paint.py).

    plan = skin, shading, sources        what each is: paint.py
    erased = paint(image, mask, plan)    at 128 k pixels, whatever k

The body is a U-Net whose first convolution moves by four pixels, so that nothing is convolved at full width. It says
which of the visible pixels are bare skin, and what the membrane of that skin lacks to be the shading of an empty face.
Which window is copied where follows from that without a weight (`paint.choose`). There is no edge network: nothing in
the plan asks for edges.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceeraser.artifacts import painting
from faceeraser.model import paint, thin_plate
from faceeraser.model.config import Config
from faceeraser.model.losses import blurred
from faceeraser.model.networks import Conv, FloatConv, Inpainter, Up, three, touched
from faceeraser.model.quant import Tap

FOLD = 4
"""Pixels that the first convolution moves by."""
SHADING_GAIN = 0.1
"""What the membrane lacks is small; see networks.RESIDUAL_GAIN."""
SKIN_TERM, SHADING_TERM, SHADING_SQUARED = 0.3, 4.0, 40.0
"""Coefficients of the network's own terms: cross-entropy of skin, L1 and squared error of shading."""
TAUGHT_TERM = 4.0
"""The same of L1 where no truth is known, the middle of real faces, to the shading that is taught there (thin_plate.py).
Without it the network painted there what it had learnt from stitched foreheads: a bright chin and dark bands at the eyes, on
most faces of a sheet.
"""


class Body(nn.Module):
    """The U-Net: picture and mask (N, 4, 128, 128) -> (skin's logits (N, 1, 64, 64), what the membrane lacks (N, 3, 32,
    32)).
    """

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.store = Tap("image")
        self.stem = Conv(config, 4, width, 2 * FOLD, stride=FOLD)
        widths = [width, 2 * width, 3 * width]
        self.down = nn.ModuleList([Conv(config, a, b, 3, stride=2) for a, b in itertools.pairwise(widths)])
        self.same = nn.ModuleList([Conv(config, w, w, 3) for w in widths])
        self.deep = Conv(config, 3 * width, 3 * width, 3, dilation=2)
        self.up = nn.ModuleList([Up(config, b, a) for a, b in zip(widths[1::-1], widths[:0:-1], strict=True)])
        self.joined = nn.ModuleList([Tap(), Tap()])
        self.mixed = Conv(config, width, width, 3)
        self.finer = Up(config, width, max(8, width // 2))
        self.shading = FloatConv(config, width, 3, 1, act=None, norm=False)
        self.skin = FloatConv(config, max(8, width // 2), 1, 1, act=None, norm=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.same[0](self.stem(self.store(x)))
        kept = [x]
        for down, same in zip(self.down, list(self.same)[1:], strict=True):
            x = same(down(x))
            kept.append(x)
        x, tap = self.deep(kept.pop()), self.deep.out
        for up, joined in zip(self.up, self.joined, strict=True):
            x, tap = joined(up(x, tap) + kept.pop()), joined
        x = self.mixed(x)
        return self.skin(self.finer(x, self.mixed.out)), self.shading(x)


class PatchEraser(Inpainter):
    """The network and its painting. `middle` is what it is taught in the middle of real faces. Keys of what it returns:

    `skin` (N, 1, 128, 128) and `logits` (N, 1, 64, 64); `membrane` and `shading` (N, 3, 64, 64); `lacking` (N, 3, 32, 32);
    `sources` (N, 289); `flow` (N, 2, H, W), pixels that the window moves which counts most at a pixel; `refined` and
    `erased` as of every model.
    """

    PHASES: ClassVar = {"inpaint": ("body",), "all": ("body",)}
    PLAN = ("skin", "shading", "sources")
    HEADS = ("body.shading", "body.skin")
    TAILS = (("body.shading",), ("body.skin", "body.finer"))

    def __init__(self, config: Config, width: int = 24, edge_width: int | None = None):
        super().__init__(config)
        self.body = Body(config, width)
        self.middle = thin_plate.plate_shading
        self.initialise()

    def forward(
        self, image: Tensor, mask: Tensor, edges: Tensor | None = None, plan: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """As of every `Inpainter`, at any multiple of 128 pixels, H = W. edges: not looked at. plan: `skin`, `shading` and
        `sources` in the place of what the network would say.
        """
        mask, hole, visible = self._emptied(image, mask)
        with torch.autocast(image.device.type, enabled=False):
            seen, hidden = self.look(visible.float(), mask.float())
        planned = self.plan(seen, hidden) if plan is None else dict(plan)
        with torch.autocast(image.device.type, enabled=False):
            refined = self.paint(visible.float(), mask.float(), seen, planned)
        return {
            **planned,
            "flow": paint.flow_of(planned["sources"], image.shape[-1]),
            "refined": refined,
            "erased": visible + refined * hole,
        }

    def unpainted(self, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        mask, _, visible = self._emptied(image, mask)
        with torch.autocast(image.device.type, enabled=False):
            seen, hidden = self.look(visible.float(), mask)
        return self.smooth_plan(seen, hidden)

    @staticmethod
    def _emptied(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(the mask of 0 and 1, the same for three channels, the picture with zeros where it is 1)."""
        mask = paint.binary(mask.float())
        hole = three(mask)
        return mask, hole, image * (1.0 - hole)

    def channels_only(self) -> Self:
        view = copy.copy(self)
        object.__setattr__(view, "forward", lambda image, mask: self.body(torch.cat([image, mask], 1)))
        return view

    def paint(self, visible: Tensor, mask: Tensor, seen: Tensor, plan: Mapping[str, Tensor]) -> Tensor:
        """What a plan paints, (N, 3, S, S) in [0, 1], of use inside the hole. visible (N, 3, S, S), zero in the hole; mask
        (N, 1, S, S), 1 = erase; seen (N, 3, 128, 128).
        """
        skin, side = plan["skin"], mask.shape[-1]
        detail = paint.detail(visible, 1.0 - mask, paint.own_shading(seen, skin), skin)
        texture = paint.lay(detail, plan["sources"])
        return (paint.enlarged(plan["shading"], side) + three(texture)).clamp(0.0, 1.0)

    def look(self, visible: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees of a picture of S = 128 k pixels: (seen (N, 3, 128, 128), zero where anything is hidden;
        hidden (N, 1, 128, 128)).
        """
        k = visible.shape[-1] // painting.SEEN
        hidden = touched(mask, k)
        return (F.avg_pool2d(visible, k) * three(1.0 - hidden) if k > 1 else visible), hidden

    def plan(self, seen: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """A plan for what is seen: `skin`, `shading`, `sources`; `logits`, `membrane` and `lacking` beside them."""
        planned = self.smooth_plan(seen, hidden)
        with torch.autocast(seen.device.type, enabled=False):
            return {**planned, "sources": paint.choose(seen.detach(), planned["skin"].detach())}

    def smooth_plan(self, seen: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """A plan without its sources, which follow from its skin and from what is seen."""
        with torch.autocast(seen.device.type, enabled=False):
            # The hole is filled from all that is visible, skin or not, since it is the body that is to say what is.
            filled = seen + three(hidden) * paint.enlarged(paint.membrane(seen, 1.0 - hidden), painting.SEEN)
        logits, lacking = self.body(torch.cat([filled, hidden], 1))
        with torch.autocast(seen.device.type, enabled=False):
            skin = paint.enlarged(torch.sigmoid(logits.float()), painting.SEEN) * (1.0 - hidden)
            membrane = paint.membrane(seen, skin)
            shading = membrane + SHADING_GAIN * paint.enlarged(lacking.float(), painting.SHADED)
            shading = paint.meeting(shading, seen, skin)
        return {"logits": logits, "skin": skin, "membrane": membrane, "lacking": lacking, "shading": shading}

    def agreement(
        self, other: Mapping[str, Tensor], own: Mapping[str, Tensor], image: Tensor, mask: Tensor, pixels: float
    ) -> dict[str, float]:
        """Of skin what is the same to a tenth; of shading, inside the hole, to two levels of 255; of the windows that the
        hole touches, those that copy what this network would for the skin that `other` says. For other skin, on pictures
        that are no skin, as many as one window in ten takes another source that is as good.
        """
        block, cell = mask.shape[-1] // painting.BLOCKS, mask.shape[-1] // painting.SHADED
        near = F.max_pool2d(F.pad(mask, (block,) * 4), 2 * block, block).flatten() > 0.5  # (17 x 17)
        seen, _ = self.look(image * three(1.0 - mask), mask)
        same = other["sources"].flatten() == paint.choose(seen, other["skin"]).flatten()
        inside = three(F.max_pool2d(mask, cell)) > 0.5
        apart = {name: (other[name] - own[name]).abs() for name in ("skin", "shading")}
        return {
            "sources": float(same[near].double().mean()) if near.any() else 1.0,
            "skin": float((apart["skin"] <= 0.1).double().mean()),
            "shading": float((apart["shading"][inside] <= 2 / 255).double().mean()) if inside.any() else 1.0,
        }

    @torch.no_grad()
    def plan_of(self, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        """`skin` (128, 128, 1), `shading` (64, 64, 3) and `sources` (289,) for a picture (R, R, 3) uint8 and a mask (R, R),
        non-zero = erase, R a multiple of 128, as `painting.paint_by_plan` takes them.
        """
        hole = torch.from_numpy(mask > 0)[None, None].float()
        picture = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255.0
        planned = self.eval().plan(*self.look(picture * three(1.0 - hole), hole))
        first = {name: planned[name][0] for name in self.PLAN}
        return {name: (x.permute(1, 2, 0) if x.ndim == 3 else x).numpy() for name, x in first.items()}

    def own_terms(
        self, outputs: Mapping[str, Tensor], truth: Tensor, mask: Tensor, skin: Tensor, where: Tensor | None
    ) -> dict[str, Tensor]:
        """Cross-entropy of what is skin, where that is seen; L1 and squared error of the shading inside the hole,
        against the truth without its detail, and where that is not known against what is taught there.
        """
        where = mask if where is None else where
        unknown = (mask - where).clamp(min=0.0)
        taught = paint.enlarged(self._apart_from_taught(outputs, truth, mask, skin, unknown), truth.shape[-1])
        cell = mask.shape[-1] // outputs["logits"].shape[-1]
        seen, target = 1.0 - F.max_pool2d(mask, cell), F.avg_pool2d(skin, cell)
        entropy = F.binary_cross_entropy_with_logits(outputs["logits"].float(), target, reduction="none")
        error = paint.enlarged(outputs["shading"], truth.shape[-1]) - blurred(truth)
        known, all_known = three(where), 3.0 * where.sum() + 1.0
        return {
            "skin": SKIN_TERM * (entropy * seen).sum() / (seen.sum() + 1.0),
            "shade": SHADING_TERM * (error.abs() * known).sum() / all_known,
            "shade_squared": SHADING_SQUARED * (error.square() * known).sum() / all_known,
            "taught": TAUGHT_TERM * (taught.abs() * three(unknown)).sum() / (3.0 * unknown.sum() + 1.0),
        }

    def _apart_from_taught(
        self, outputs: Mapping[str, Tensor], truth: Tensor, mask: Tensor, skin: Tensor, unknown: Tensor
    ) -> Tensor:
        """The shading less the one that is taught, (N, 3, 64, 64), of pictures with an unknown part; of others 0. It depends
        on what is added to the membrane alone: through skin, a network would blur what is skin to move its membrane.
        """
        apart = torch.zeros_like(outputs["shading"])
        if (some := unknown.amax((1, 2, 3)) > 0).any():
            with torch.no_grad():
                seen, hidden = self.look((truth * three(1.0 - mask))[some], mask[some])
                taught = self.middle(seen, hidden, F.avg_pool2d(skin[some], skin.shape[-1] // painting.SEEN))
            added = SHADING_GAIN * paint.enlarged(outputs["lacking"][some].float(), painting.SHADED)
            shading = outputs["membrane"][some].detach() + added
            apart[some] = paint.meeting(shading, seen, outputs["skin"][some].detach()) - taught
        return apart

"""The mobile network: one small body that looks at 128 x 128 pixels and plans; painting is arithmetic (paint.py).

    plan = skin, shading, sources        what each is: paint.py
    erased = paint(image, mask, plan)    at 128 k pixels, whatever k

The body is a U-Net on a picture folded 4 x 4 into channels, so that nothing is convolved at full width. It says which visible
pixels are bare skin, what the membrane of that skin lacks to be the shading of an empty face, and how good skin is as a source
of texture. Which window is copied where then follows without a weight (`PatchEraser.choose`).
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceeraser import paint
from faceeraser.networks import Config, Conv, Inpainter, Up, three
from faceeraser.quant import Tap

FOLD = 4
"""Pixels along the side of what becomes one position of the body."""
WHOLE = 0.9
"""Of a source's window must be clean skin; less costs."""
SHADING_GAIN = 0.1


class Body(nn.Module):
    """The U-Net: (N, 64, 32, 32), a folded picture and mask, -> (N, 20, 32, 32): 16 logits of skin, 3 of shading, 1 of quality."""

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.store = Tap("image")
        self.stem = Conv(config, 4 * FOLD**2, width, 3)
        self.down = nn.ModuleList(
            [Conv(config, width, 2 * width, 3, stride=2), Conv(config, 2 * width, 3 * width, 3, stride=2)]
        )
        self.same = nn.ModuleList([Conv(config, w * width, w * width, 3) for w in (1, 2, 3)])
        self.deep = Conv(config, 3 * width, 3 * width, 3, dilation=2)
        self.up = nn.ModuleList([Up(config, 3 * width, 2 * width), Up(config, 2 * width, width)])
        self.joined = nn.ModuleList([Tap(), Tap()])
        self.mixed = Conv(config, width, width, 3)
        self.head = Conv(config, width, FOLD**2 + 4, 1, act=None, norm=False, tap=None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.same[0](self.stem(self.store(x)))
        kept = [x]
        for down, same in zip(self.down, list(self.same)[1:], strict=True):
            x = same(down(x))
            kept.append(x)
        x, stored_by = self.deep(kept.pop()), self.deep.out
        for up, joined in zip(self.up, self.joined, strict=True):
            x, stored_by = joined(up(x, stored_by) + kept.pop()), joined
        return self.head(self.mixed(x))


class PatchEraser(Inpainter):
    """The mobile preset. Keys of what it returns: `skin` (N, 1, 128, 128), `membrane` and `shading` (N, 3, 64, 64), `sources`
    (N, 289), `flow` (N, 2, 17, 17) in pixels, `plan` (what `forward` takes back), `cloned` (membrane and texture), `refined`
    (shading and texture), `erased`.
    """

    PHASES: ClassVar = {"inpaint": ("body",), "all": ("body",)}
    HEADS = ("body.head",)
    TAILS = (("body.head", "body.mixed"),)

    def __init__(self, config: Config, width: int = 32, edge_width: int | None = None):
        super().__init__(config)
        self.body = Body(config, width)
        self.initialise()

    def forward(
        self, image: Tensor, mask: Tensor, edges: Tensor | None = None, plan: tuple[Tensor, ...] | None = None
    ) -> dict[str, Tensor]:
        mask = (mask >= 0.5).to(image.dtype)
        keep = 1.0 - mask
        visible = image * three(keep)
        seen, open_ = self.look(visible, mask)
        made = self.plan(seen, open_) if plan is None else {}
        skin, shading, sources = plan if plan is not None else (made["skin"], made["shading"], made["sources"])
        found, _ = paint.detail(visible, keep, paint.own_shading(seen, skin), skin)
        texture = three(paint.lay(found, sources))
        refined = (paint._enlarged(shading, image.shape[-1]) + texture).clamp(0.0, 1.0)
        soft = three(paint.softened(mask))
        erased = visible + three(mask) * (refined)
        flow = paint.shifts_of(sources, image.shape[-1])
        return {**made, "texture": texture, "flow": flow, "refined": refined, "erased": erased, "soft": soft}

    def look(self, visible: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(seen (N, 3, 128, 128), zero where anything is hidden; hidden (N, 1, 128, 128))."""
        k = visible.shape[-1] // paint.SEEN
        if k == 1:
            return visible, mask
        hidden = 1.0 - F.relu(1.0 - F.avg_pool2d(mask, k) * k**2)
        return F.avg_pool2d(visible, k) * three(1.0 - hidden), hidden

    def plan(self, seen: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """A plan of what is seen: `skin`, `membrane`, `shading`, `sources`; `quality` and `logits` for training."""
        said = self.body(F.pixel_unshuffle(torch.cat([self.filled(seen, hidden), hidden], 1), FOLD)).float()
        logits = F.pixel_shuffle(said[:, : FOLD**2], FOLD)
        skin = torch.sigmoid(logits) * (1.0 - hidden)
        smooth = paint.membrane(seen, skin)
        added = F.interpolate(said[:, FOLD**2 : FOLD**2 + 3], size=smooth.shape[-2:], mode="bilinear", align_corners=False)
        quality = said[:, FOLD**2 + 3 :]
        clean = (4.0 * skin - 1.6).clamp(0.0, 1.0)
        return {
            "logits": logits, "skin": skin, "membrane": smooth, "shading": smooth + SHADING_GAIN * added, "quality": quality,
            "sources": self.choose(clean, quality),
        }  # fmt: skip

    def filled(self, seen: Tensor, hidden: Tensor) -> Tensor:
        """What the body sees: the hole filled from all that is visible, skin or not, since it is to say what is."""
        crude = paint.membrane(seen, 1.0 - hidden)
        return seen + three(hidden) * paint._enlarged(crude, seen.shape[-1])

    def choose(self, clean: Tensor, quality: Tensor) -> Tensor:
        """The cheapest source for each window: (N, 289) of 0 to 840."""
        covered = paint.cover(clean.detach()).flatten(1)
        good = F.avg_pool2d(quality.detach(), 2, 1)[:, 0, 1:-1, 1:-1].flatten(1)
        cost = 20.0 * F.relu(WHOLE - covered) + good
        return (paint.preference().to(cost.device)[None] + cost[:, None]).argmin(2)

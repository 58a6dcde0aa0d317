"""One network, ready to be traced by a converter: frozen, norms folded, its inputs and output as the file has them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from faceeraser import quant
from faceeraser.networks import Inpainter


class Form(nn.Module):
    """The pipeline as a file has it: image, mask (and edges) -> what is asked for, channels last (then by name) or first.

    outputs: keys of what the pipeline returns, such as 'erased' or 'plan'.
    """

    def __init__(self, pipeline: Inpainter, channels_last: bool, outputs: Sequence[str] = ("erased",)):
        super().__init__()
        self.pipeline, self.channels_last, self.outputs = pipeline, channels_last, tuple(outputs)

    def forward(self, image: Tensor, mask: Tensor, edges: Tensor | None = None) -> Any:
        if not self.channels_last:
            made = self.pipeline(image, mask, edges)
            return made[self.outputs[0]] if len(self.outputs) == 1 else tuple(made[name] for name in self.outputs)
        first = (x if x is None else x.permute(0, 3, 1, 2) for x in (image, mask, edges))
        made = self.pipeline(*first)
        return {name: x.permute(0, 2, 3, 1) if (x := made[name]).ndim == 4 else x for name in self.outputs}


def frozen(pipeline: Inpainter) -> Inpainter:
    """A copy to export: eval mode, norms folded where they can be, emitting its learnt scales if it is quantized."""
    network = copy.deepcopy(pipeline).cpu().eval().requires_grad_(False)
    if not network.config.fused and network.config.norm == "batch":
        quant.fuse(network)
    if quant.is_quantized(network):
        quant.set_exporting(network)
    return network


def sample(resolution: int, edges_input: bool, channels_last: bool) -> dict[str, Tensor]:
    """Inputs to trace with: half grey, a square hole in the middle."""
    image = torch.full((1, 3, resolution, resolution), 0.5)
    mask = torch.zeros(1, 1, resolution, resolution)
    mask[:, :, resolution // 4 : resolution // 2, resolution // 4 : resolution // 2] = 1.0
    given = {"image": image, "mask": mask} | ({"edges": torch.zeros_like(mask)} if edges_input else {})
    return {k: v.permute(0, 2, 3, 1).contiguous() if channels_last else v for k, v in given.items()}

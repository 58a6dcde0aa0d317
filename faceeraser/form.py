"""One network, ready to be traced by a converter: frozen, norms folded, its inputs and output as the file has them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from faceeraser import quant
from faceeraser.networks import Inpainter


class Form(nn.Module):
    """The pipeline as a file has it: image, mask (and edges) -> erased, channels last (then by name) or first.

    output: 'erased', or another of the pipeline's pictures.
    """

    def __init__(self, pipeline: Inpainter, channels_last: bool, output: str = "erased"):
        super().__init__()
        self.pipeline, self.channels_last, self.output = pipeline, channels_last, output

    def forward(self, image: Tensor, mask: Tensor, edges: Tensor | None = None) -> Any:
        if not self.channels_last:
            return self.pipeline(image, mask, edges)[self.output]
        first = (x if x is None else x.permute(0, 3, 1, 2) for x in (image, mask, edges))
        return {self.output: self.pipeline(*first)[self.output].permute(0, 2, 3, 1)}


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

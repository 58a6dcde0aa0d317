"""train/train.py for a planner that is told the truth's edges: the most that an edge network could give it.

    python benchmarks/guided.py data/faces runs/guided --phase inpaint --model patches --real 0.5

The paper completes the edges of the empty face before anything else. The network that plans has no edge network; this says
what one could be worth. The planner's body sees the edges of the whole picture, the erased part too, as a fifth channel. An
edge network that is trained can only say less. `ablation.py` has its row beside the others. What is trained is of no other
use: without the truth nobody knows those edges.
"""

from __future__ import annotations

import functools
import runpy
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from faceeraser.artifacts.edges import canny_tensor
from faceeraser.artifacts.painting import SEEN
from faceeraser.model import planner
from faceeraser.model.config import Config
from faceeraser.model.networks import Conv, gray
from faceeraser.system import script


class GuidedBody(planner.Body):
    """The planner's body, to which `edges` (N, 1, 128, 128) are given beside what it sees."""

    def __init__(self, config: Config, width: int):
        super().__init__(config, width)
        self.stem = Conv(config, 5, width, 2 * planner.FOLD, stride=planner.FOLD)
        self.edges: Tensor | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert self.edges is not None
        return super().forward(torch.cat([x, self.edges.to(x.dtype)], 1))


@torch.no_grad()
def true_edges(image: Tensor) -> Tensor:
    """(N, 1, 128, 128), 1 where a whole picture (N, 3, S, S) has an edge, S a multiple of 128."""
    small = F.avg_pool2d(image.float(), image.shape[-1] // SEEN)
    return canny_tensor(gray(small), torch.zeros_like(small[:, :1]))


def guide() -> None:
    """From now on, every planner of this process is built and used with the truth's edges."""

    def told(method: Callable[..., Any]) -> Callable[..., Any]:
        def look(self: planner.PatchEraser, image: Tensor, *words: Any, **more: Any) -> Any:
            self.body.edges = true_edges(image)
            return method(self, image, *words, **more)

        return look

    planner.Body = GuidedBody  # type: ignore[misc]
    for name in ("forward", "unpainted"):
        setattr(planner.PatchEraser, name, told(getattr(planner.PatchEraser, name)))


@functools.cache
def _train() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).resolve().parent.parent / "train" / "train.py"))


def build_parser() -> ArgumentParser:
    """That of train/train.py."""
    parser: ArgumentParser = _train()["build_parser"]()
    parser.prog, parser.description = Path(__file__).name, __doc__
    parser.set_defaults(script="benchmarks/guided.py")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    guide()
    return script.execute(_train()["run"], build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

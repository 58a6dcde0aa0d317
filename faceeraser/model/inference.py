"""Running a network on pictures: its outputs on a list of pairs, as a method to measure, and as a sheet to look at.

Erasing with a checkpoint needs this module and nothing from training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from faceeraser.measurement import metrics
from faceeraser.model.networks import Inpainter, cost_of
from faceeraser.model.pairs import Pair, to_tensors
from faceeraser.model.warp import landing_in_hole


def run(pipeline: Inpainter, pairs: list[Pair], batch: int = 8) -> dict[str, Tensor]:
    """Outputs of a pipeline on evaluation pairs, concatenated on the CPU, in float32 and without gradients."""
    truth, mask = to_tensors(pairs)
    device = next(pipeline.parameters()).device
    parts: dict[str, list[Tensor]] = defaultdict(list)
    training = pipeline.training
    pipeline.eval()
    with torch.no_grad():
        for first in range(0, len(pairs), batch):
            outputs = pipeline(truth[first : first + batch].to(device), mask[first : first + batch].to(device))
            for name, value in outputs.items():
                parts[name].append(value.float().cpu())
    pipeline.train(training)
    return {name: torch.cat(values) for name, values in parts.items()}


def as_picture(tensor: Tensor) -> np.ndarray:
    """One of `run`'s pictures (C, H, W) in [0, 1] as uint8 (H, W, C)."""
    return (tensor.permute(1, 2, 0).numpy() * 255).round().clip(0, 255).astype(np.uint8)


def as_method(pipeline: Inpainter) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A pipeline as the benchmarks take a method: (image uint8 (H, W, 3), mask uint8 (H, W)) -> painted uint8.

    The paper's network paints the whole picture and is shown so; the mobile one paints the hole.
    """
    key = "erased" if pipeline.config.fill else "refined"

    def method(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return as_picture(run(pipeline, [Pair("", image, mask, 0.0, 0.0)])[key][0])

    return method


def sample_sheet(pipeline: Inpainter, pairs: list[Pair], columns: int = 4) -> Image.Image:
    """What a pipeline does on a few pairs, one a row: hole, what it found on the way (edges or structure, a coarse or a
    cloned picture), erased, truth.
    """
    pairs = pairs[:columns]
    outputs = run(pipeline, pairs)
    rows = []
    for i, pair in enumerate(pairs):
        hole = pair.truth * (1 - pair.mask[:, :, None])
        cells = [hole]
        for name in ("edges_hat", "structure_hat", "coarse", "cloned", "erased"):
            if name not in outputs:
                continue
            cell = as_picture(outputs[name][i])
            cells.append(np.repeat(cell, 3, 2) if cell.shape[2] == 1 else cell)
        rows.append(np.concatenate([*cells, pair.truth], 1))
    sheet = np.concatenate(rows)
    scale = min(1.0, 1280 / sheet.shape[1])
    if scale < 1:
        sheet = cv2.resize(sheet, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return Image.fromarray(sheet)


def measure(pipeline: Inpainter, pairs: Sequence[Pair]) -> dict[str, Any]:
    """GMACs and parameters at 256 x 256, the three figures on `pairs` and `flow_in_hole`, rounded for a table.

    flow_in_hole: of a model that has such a flow, share of the hole's flow that copies from the hole itself, where there is
    nothing to copy (0 is ideal).
    """
    gmacs, params = cost_of(pipeline)
    row = metrics.score(as_method(pipeline), pairs).row
    figures = {name: round(row[name], 3) if row[name] is not None else None for name in metrics.HOLE_FIGURES}
    flow = run(pipeline, list(pairs)).get("flow")
    landed = {}
    if flow is not None:
        landed["flow_in_hole"] = round(float(landing_in_hole(flow, to_tensors(list(pairs))[1]).mean()), 3)
    return {"gmacs": round(gmacs, 4), "params": params, **figures, **landed, "n": row["n"]}

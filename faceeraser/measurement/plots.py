"""Plots of results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from faceeraser.measurement.metrics import HOLE_FIGURES
from faceeraser.system import extras


def plot_by_cost(file: Path, title: str, draw: Callable[[Any, str, float, str], None]) -> None:
    """Save a figure of shading and texture (rows) against MACs, milliseconds and bytes (columns).

    draw(axis, cost, unit, score): put what there is on one axis; cost and score are fields of a result row, and a cost is to
    be divided by unit.
    """
    with extras.needed_for("a plot", "train"):
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7), sharey="row", layout="constrained")
    costs = (("gmacs", 1, "GMAC at 256 x 256"), ("ms", 1, "ms, LiteRT, one thread"), ("bytes", 1e6, "MB of the .tflite"))
    scores = ((HOLE_FIGURES[1], "shading PSNR in the hole, dB"), (HOLE_FIGURES[2], "texture energy (1 = the truth's)"))
    for line, (score, label) in zip(axes, scores, strict=True):
        for axis, (cost, unit, what) in zip(line, costs, strict=True):
            draw(axis, cost, unit, score)
            axis.set_xlabel(what)
            axis.grid(alpha=0.3)
        line[0].set_ylabel(label)
    figure.suptitle(title)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100)
    plt.close(figure)

"""Fine-tune a network with the one it was made from as its teacher: the last float step before quantization.

distil("runs/slim", "runs/student", Distilling(data="data/faces", teacher="runs/fp32"))
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from faceeraser.system import writing
from faceeraser.training.finetuning import FineTuning, Outcome, Tuning


@dataclass(kw_only=True)
class Distilling(Tuning):
    """Options of `distil`."""

    steps: int = 1000
    """Fine-tuning steps in all."""
    scratch: bool = False
    """Start from random weights of the same shapes: a control that shows what pruning is worth compared with training a
    small network from scratch."""

    def __post_init__(self) -> None:
        if not self.teacher:
            raise ValueError("no teacher to distil from: name one with --teacher, such as the network before pruning")


def distil(network: str | Path, target: str | Path, options: Distilling, overwrite: bool = False) -> Outcome:
    """Fine-tune the network of a checkpoint folder with its teacher.

    Args:
        network: the folder to read.
        target: the folder to write.
        options: the teacher, and how long.
        overwrite: replace the target if it exists.

    Returns:
        The figures on a slice of train: `before` and `distilled`.

    Raises:
        ValueError: the network, its teacher or the data cannot be used, or the target exists.
    """
    tuning = FineTuning(network, options)
    pipeline = tuning.source
    with writing.whole_folder(target, overwrite) as folder:
        before = tuning.measure(pipeline)
        if options.scratch:
            torch.manual_seed(options.seed)
            pipeline.initialise()
        result = tuning.fit(pipeline, folder, "distil")
        after = tuning.measure(pipeline)
        metrics = {**result, "before": before, "after": after}
        tuning.save(folder, pipeline, "distil", {"scratch": options.scratch}, metrics)
    return tuning.outcome(target, {"before": before, "distilled": after}, before=before, after=after)

"""Network slimming: train with an L1 penalty on the norms' scale factors, cut by one global threshold, fine-tune.

    slim("runs/pruned", "runs/slim", Slimming(data="data/faces", share=0.2))

Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming (2017). A network without such scales
(the paper preset's instance norm) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faceeraser.model.networks import cost_of
from faceeraser.system import writing
from faceeraser.training import channels
from faceeraser.training.finetuning import FineTuning, Outcome, Tuning


@dataclass(kw_only=True)
class Slimming(Tuning):
    """Options of `slim`. Half of `steps` use the penalty, half do not."""

    share: float | None = None
    """Share of channels to cut; None is 0.2, or what the targets require."""
    target_gmacs: float | None = None
    """Choose the share so as to stay under this number of multiply-accumulates, in 10^9 at 256 x 256."""
    target_params: int | None = None
    """Choose the share so as to stay under this number of parameters."""
    sparsity: float = 1e-4
    """Weight of the L1 penalty. Of 1e-2, 1e-3 and 1e-4 this lost least at the same MACs; 1e-3 leaves half the parameters."""

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"--steps {self.steps}: expected at least 2, half with the penalty and half without")
        if self.share is not None and (self.target_gmacs is not None or self.target_params is not None):
            raise ValueError("found --share and --target-...; expected only one of them")

    @property
    def budget(self) -> channels.Budget | None:
        """What the targets require."""
        asked = self.target_gmacs is not None or self.target_params is not None
        return channels.Budget(self.target_gmacs, self.target_params) if asked else None


def slim(network: str | Path, target: str | Path, options: Slimming, overwrite: bool = False) -> Outcome:
    """Slim and fine-tune the network of a checkpoint folder.

    Args:
        network: the folder to read.
        target: the folder to write; its history has histograms of the scale factors before and after.
        options: how much to cut, and how to fine-tune.
        overwrite: replace the target if it exists.

    Returns:
        The figures on a slice of train: `before`, `cut` before fine-tuning, `fine-tuned`; in the summary `scales`:
        mean_before, mean_after and threshold.

    Raises:
        ValueError: the network has no scale factors, the data cannot be used, or the target exists.
    """
    tuning = FineTuning(network, options)
    pipeline = tuning.source
    channels.require_scales(pipeline)
    budget, half = options.budget, options.steps // 2
    with writing.whole_folder(target, overwrite) as folder:
        before = tuning.measure(pipeline)
        at_first = channels.scale_values(pipeline).numpy()
        tuning.fit(pipeline, folder, "slim: sparsify", steps=half, sparsity=options.sparsity)
        at_last = channels.scale_values(pipeline).numpy()
        share = 0.2 if options.share is None else options.share
        if budget is not None:  # which pruning in whole eighths may have met already
            share = 0.0 if budget.holds(cost_of(pipeline)) else channels.share_for(pipeline, budget)
        threshold = channels.slim(pipeline, share) if share or budget is None else 0.0
        unrepaired = tuning.measure(pipeline)
        result = tuning.fit(pipeline, folder, "slim: fine-tune", steps=options.steps - half, seed=options.seed + 1)
        after = tuning.measure(pipeline)
        means = {"mean_before": float(at_first.mean()), "mean_after": float(at_last.mean()), "threshold": threshold}
        tuning.save(
            folder,
            pipeline,
            "slim",
            {"share": share, "sparsity": options.sparsity},
            {**result, "before": before, "unrepaired": unrepaired, "after": after},
            scales={**_histograms(at_first, at_last), **means},
            widths=channels.widths(pipeline),
        )
    states = {"before": before, "cut": unrepaired, "fine-tuned": after}
    return tuning.outcome(target, states, before=before, after=after, scales=means)


def _histograms(before: np.ndarray, after: np.ndarray) -> dict[str, list[float]]:
    """How many scale factors lie between `edges`, before and after; the last bin takes everything above."""
    edges = np.linspace(0, max(1e-6, float(np.quantile(np.concatenate([before, after]), 0.99))), 33)
    counts = [np.histogram(np.minimum(values, edges[-1]), edges)[0].astype(int).tolist() for values in (before, after)]
    return {"before": counts[0], "after": counts[1], "edges": edges.tolist()}

"""Fewer channels: structured pruning and network slimming, over the whole pipeline at once.

torch-pruning's dependency graph finds which layers must lose a channel together (residual streams, additive skips,
channel attention, the concatenated inputs); this module decides how many, by which score, and when. Only channels go:
the networks' structure and names stay, so the result loads by the same constructor (checkpoint.load).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
import torch_pruning as tp
from torch import Tensor, nn

from faceeraser.fit import norm_scales
from faceeraser.losses import l1_loss
from faceeraser.networks import FaceEraser, count

IMPORTANCES = ("magnitude", "taylor")
ROUND_TO = 8  # mobile kernels work on 8 channels at a time: 13 cost as much as 16
_LEAST = 0.9  # no layer loses more than this share, or a stream of the network would be cut


def _pruner(pipeline: FaceEraser, importance: Callable, ratio: float, steps: int, one_threshold: bool) -> tp.MetaPruner:
    side = max(64, 32 * (pipeline.config.resolution // 128))
    parameter = next(pipeline.parameters())
    example = {
        "image": torch.rand(1, 3, side, side, device=parameter.device),
        # A hole in the middle only: a visible border keeps every branch of the graph alive.
        "mask": torch.nn.functional.pad(torch.ones(1, 1, side // 2, side // 2), [side // 4] * 4).to(parameter.device),
    }
    heads = [pipeline.edge.head.conv, pipeline.clone.head.conv, pipeline.refine.head.conv]
    return tp.pruner.MetaPruner(
        pipeline, example, importance=importance, global_pruning=one_threshold, pruning_ratio=ratio,
        max_pruning_ratio=_LEAST, iterative_steps=steps, ignored_layers=heads, round_to=ROUND_TO,
        output_transform=lambda outputs: [outputs["erased"], outputs["edges_hat"], outputs["offsets"]],
    )  # fmt: skip


def _backward(pipeline: FaceEraser, truth: Tensor, mask: Tensor) -> None:
    """Leave the gradient of the L1 objective on every parameter, for first-order Taylor scores."""
    pipeline.zero_grad()
    outputs = pipeline(truth, mask)
    loss = l1_loss(outputs["erased"], truth, mask) + l1_loss(outputs["cloned"], truth, mask)
    (loss + 0.1 * (outputs["edges_hat"] - outputs["edges"]).abs().mean()).backward()


def prune_steps(
    pipeline: FaceEraser, keep: float, steps: int = 1, importance: str = "magnitude",
    batch: tuple[Tensor, Tensor] | None = None,
) -> Iterator[int]:  # fmt: skip
    """Prune `pipeline` in place to `keep` of each layer's channels, in equal steps; yields after each, to fine-tune.

    importance: 'magnitude' (L2 norm of a channel's weights over everything that goes with it; Fang et al., DepGraph,
    2023) or 'taylor' (weight times gradient on `batch`, (truth, mask)). Channel counts are multiples of 8.

    Raises:
        ValueError: keep is not in (0, 1), the score is not known, or 'taylor' got no batch.
    """
    if not 0 < keep < 1:
        raise ValueError(f"keep {keep}: expected a share of the channels between 0 and 1, such as 0.5")
    if importance not in IMPORTANCES:
        raise ValueError(f"importance {importance!r}: expected one of {', '.join(IMPORTANCES)}")
    if importance == "taylor" and batch is None:
        raise ValueError("importance 'taylor' needs a batch of training pairs")
    pipeline.eval().requires_grad_(True)
    score = tp.importance.GroupTaylorImportance() if importance == "taylor" else tp.importance.GroupMagnitudeImportance()
    pruner = _pruner(pipeline, score, 1 - keep, steps, one_threshold=False)
    for step in range(steps):
        pipeline.eval().requires_grad_(True)
        if importance == "taylor" and batch is not None:
            _backward(pipeline, *batch)
        pruner.step()
        pipeline.zero_grad()
        yield step


def keep_for_gmacs(pipeline: FaceEraser, gmacs: float) -> float:
    """The largest share of channels to keep so that the pipeline costs at most `gmacs` at 256 x 256.

    Raises:
        ValueError: it costs no more than that already, or would with the smallest layers still cost more.
    """
    now = count(pipeline)[0]
    if now <= gmacs:
        raise ValueError(f"the network costs {now:.3f} GMAC already, at most {gmacs} is asked for: nothing to prune")
    low, high = 1 - _LEAST, 1.0
    for _ in range(8):
        middle = (low + high) / 2
        trial = copy.deepcopy(pipeline)
        for _step in prune_steps(trial, middle):
            pass
        if count(trial)[0] <= gmacs:
            low = middle
        else:
            high = middle
    trial = copy.deepcopy(pipeline)
    for _step in prune_steps(trial, low):
        pass
    if (reached := count(trial)[0]) > gmacs:
        raise ValueError(f"{gmacs} GMAC cannot be reached by pruning: with {low:.0%} of the channels it costs {reached:.3f}")
    return low


def require_scales(pipeline: FaceEraser) -> None:
    """Raises ValueError unless the generators have norms with scale factors, which network slimming needs."""
    if not norm_scales(pipeline):
        found = "instance norm without scales" if pipeline.config.norm == "instance" else "no norm (already fused)"
        raise ValueError(
            f"network slimming reads the scale factors of batch norms, and this network has {found}; "
            "slim a network of the `mobile` preset before quantizing it"
        )


def scale_values(pipeline: FaceEraser) -> Tensor:
    """Absolute scale factors of all norms, (channels,), on the CPU."""
    return torch.cat([s.detach().abs().cpu() for s in norm_scales(pipeline)])


def slim(pipeline: FaceEraser, share: float) -> float:
    """Remove in place the `share` of channels with the smallest scale factors: one threshold for the whole pipeline.

    Returns the threshold. Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming (2017),
    section 3. Channels that a residual stream ties together go by the mean of their scales.

    Raises:
        ValueError: the network has no scale factors, or share is not in (0, 1).
    """
    require_scales(pipeline)
    if not 0 < share < 1:
        raise ValueError(f"share {share}: expected a share of the channels between 0 and 1, such as 0.3")
    pipeline.eval().requires_grad_(True)
    threshold = float(torch.quantile(scale_values(pipeline), share))
    score = tp.importance.BNScaleImportance(normalizer=None)
    _pruner(pipeline, score, share, 1, one_threshold=True).step()
    return threshold


def widths(pipeline: FaceEraser) -> dict[str, int]:
    """Output channels of every convolution, by name."""
    return {n: m.out_channels for n, m in pipeline.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)}

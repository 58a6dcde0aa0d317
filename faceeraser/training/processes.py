"""Several processes that train as one, under torchrun: each takes its own pairs of a batch, and gradients are averaged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class Group:
    """The processes of a run, as one of them sees it."""

    world: int
    """How many there are."""
    rank: int
    """Which of them this is; 0 writes and prints."""
    device: torch.device
    """Where this one computes."""


def join() -> Group:
    """The group that torchrun started this process in, joined; a group of one without torchrun."""
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Group(world, rank, device)


class Numbers:
    """Sampler: the pair numbers of this process, from a step on. Batch s of W processes is pairs s*W*B to (s+1)*W*B."""

    def __init__(self, start: int, steps: int, batch: int, group: Group):
        self.steps = range(start, steps)
        self.batch, self.rank, self.world = batch, group.rank, group.world

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            first = (step * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))

    def __len__(self) -> int:
        return len(self.steps)


def average_gradients(parameters: list[nn.Parameter], world: int) -> None:
    """Put the mean over the processes in the place of each one's gradients, in one exchange."""
    if world == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def average_statistics(network: nn.Module, world: int) -> None:
    """The same of what the batch norms of each process have seen of its own pictures."""
    if world == 1:
        return
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            for statistic in (module.running_mean, module.running_var):
                dist.all_reduce(statistic)
                statistic /= world


def agreed(value: Any) -> Any:
    """What the first process has for `value`, in all of them: what decides a structure must not differ between them."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]

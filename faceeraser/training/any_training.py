"""Fine-tuning any network with its own loss, and with the network it was made from as its teacher (any_task.py)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from faceeraser.model.any_network import named
from faceeraser.model.any_task import Task, loss_of


class Student(nn.Module):
    """A network that is shown what its teacher makes of whatever it is called with: `apart` is how far apart they were."""

    def __init__(self, network: nn.Module, teacher: nn.Module | None):
        super().__init__()
        self.network = network
        self.teacher = [teacher]  # in a list, so that it is none of this module's own
        self.apart = torch.zeros(())

    def forward(self, **given: Tensor) -> Any:
        outputs = self.network(**given)
        if self.teacher[0] is not None:
            with torch.no_grad():
                expected = self.teacher[0](**given)
            self.apart = self.apart + distance(named(outputs), named(expected))
        return outputs


def distance(outputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Tensor:
    """Mean squared difference of outputs, each in shares of its own variance, so that a flow counts as much as a picture."""
    return torch.stack(
        [
            (outputs[name].float() - value.float()).square().mean() / value.float().var().clamp(min=1e-8)
            for name, value in expected.items()
        ]
    ).mean()


def fine_tune(module: nn.Module, task: Task, steps: int, lr: float, distil: float, title: str = "fine-tune") -> list[float]:
    """Train a module in place by the task's loss and, `distil` times, its distance to the task's own network; the losses.

    Raises:
        ValueError: the loss is no scalar, or not finite.
    """
    teacher = task.network.module if distil > 0 else None
    student = Student(module.train().requires_grad_(True), teacher)
    optimizer = torch.optim.Adam(module.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    losses: list[float] = []
    batches = itertools.chain.from_iterable(task.batches() for _ in itertools.count())
    for batch in tqdm(itertools.islice(batches, steps), title, total=steps, leave=False):
        student.apart = torch.zeros(())
        loss = loss_of(student, task, batch)
        optimizer.zero_grad()
        (loss + distil * student.apart).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    module.eval().requires_grad_(False)
    return losses

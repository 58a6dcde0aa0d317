"""Any network with its training data and loss: the small protocol, and the folder that passes between stages.

    task = task_of("my_net.py")        # or the folder of an earlier stage

A file has three functions:

    build() -> (module, inputs)        as for exporting: a module and samples of its inputs by name (any_network.py)
    batches() -> iterable              what training takes, whatever it is; gone through again and again
    loss(network, batch) -> scalar     calls `network(**inputs)`, as often as it likes, and says how wrong it is

A stage writes a folder: `network.json` (which file, what was done) and `weights.safetensors`. The module is built by the
file again and takes the weights' shapes, so what was pruned loads without a pickle; a quantized one is quantized again.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from faceeraser.model import any_network
from faceeraser.model.any_network import AnyNetwork
from faceeraser.model.any_quantization import quantized
from faceeraser.model.networks import shape_to
from faceeraser.system import reading

FORMAT = 1
_NAMES = ("build", "batches", "loss")


@dataclass(frozen=True)
class Task:
    """A network with what it is trained by."""

    network: AnyNetwork
    """The module and samples of its inputs."""
    loss: Callable[[nn.Module, Any], Tensor]
    """How wrong a network is on a batch."""
    batches: Callable[[], Iterable[Any]]
    """What it is trained on."""
    file: Path
    """Where these come from."""
    history: tuple[Mapping[str, Any], ...] = ()
    """What was done to it so far, oldest first."""
    float_layers: tuple[str, ...] | None = None
    """Of a quantized network, what stayed in float."""


def task_of(source: str | Path) -> Task:
    """The task that a file or an earlier stage's folder says.

    Raises:
        ValueError: a function is missing, or what it gives is not what is asked for.
    """
    path = Path(source)
    if path.is_dir():
        return _opened(path)
    functions = {name: any_network.load(f"{path}:{name}") for name in _NAMES}
    if not isinstance(functions["batches"](), Iterable):
        raise ValueError(f"{path}: batches() gives no batches; expected something to go through, such as a DataLoader")
    return Task(any_network.built(f"{path}:build"), functions["loss"], functions["batches"], path)


def opened(text: str) -> AnyNetwork:
    """The network that `my_net.py:build` builds, or that a stage left in a folder."""
    return _opened(Path(text)).network if Path(text).is_dir() else any_network.built(text)


def _opened(folder: Path) -> Task:
    about = folder / "network.json"
    if not about.is_file():
        raise ValueError(f"{folder}: no network.json in it; expected what compress/prune.py --module makes, or FILE.py")
    description = reading.json_object(about, "what compress/prune.py --module writes; make the folder again")
    if description.get("format") != FORMAT:
        raise ValueError(f"{about}: its format is {description.get('format')!r}, this version reads {FORMAT}")
    task = task_of(description["file"])
    state = load_file(str(folder / "weights.safetensors"))
    module = copy.deepcopy(task.network.module)
    layers = description["float_layers"]
    if layers is None:
        shape_to(module, state)
        module.load_state_dict(state)
    else:
        pruned = {name.removeprefix("before."): value for name, value in state.items() if name.startswith("before.")}
        shape_to(module, pruned)
        module.load_state_dict(pruned)
        own = {name.removeprefix("after."): value for name, value in state.items() if name.startswith("after.")}
        module = quantized(replace(task.network, module=module), layers)
        module.load_state_dict(own)
    network = replace(task.network, module=module.eval().requires_grad_(False), name=folder.resolve().name)
    kept = None if layers is None else tuple(layers)
    return replace(task, network=network, history=tuple(description["history"]), float_layers=kept)


def save(folder: Path, task: Task, module: nn.Module, before: nn.Module | None, done: Mapping[str, Any]) -> None:
    """Write a stage's folder. before: of a quantized module, the float one that it was made from. done: of the stage."""
    tensors = {name: value.detach().clone().contiguous() for name, value in module.state_dict().items()}
    if before is not None:
        tensors = {f"after.{name}": value for name, value in tensors.items()}
        tensors |= {f"before.{name}": value.detach().clone().contiguous() for name, value in before.state_dict().items()}
    (folder / "weights.safetensors").write_bytes(to_bytes(tensors))
    description = {
        "format": FORMAT,
        "file": str(task.file.resolve()),
        "history": [*task.history, dict(done)],
        "float_layers": None if task.float_layers is None else list(task.float_layers),
    }
    (folder / "network.json").write_text(json.dumps(description, indent=1, allow_nan=False) + "\n")


def loss_of(module: nn.Module, task: Task, batch: Any) -> Tensor:
    """The task's loss of a module on a batch. Raises ValueError when it raises, or is not one finite number."""
    try:
        loss = task.loss(module, batch)
    except Exception as error:
        raise ValueError(f"{task.file}: loss(network, batch) raises {type(error).__name__}: {error}") from error
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not torch.isfinite(loss).all():
        given = f"a tensor of {tuple(loss.shape)}" if isinstance(loss, Tensor) and loss.numel() != 1 else loss
        raise ValueError(f"{task.file}: loss(network, batch) gave {given}, expected one finite number")
    return loss


def mean_loss(module: nn.Module, task: Task, number: int = 8) -> float:
    """The task's loss of a module, mean of its first batches."""
    module.eval()
    with torch.no_grad():
        values = [float(loss_of(module, task, batch)) for batch in itertools.islice(task.batches(), number)]
    return sum(values) / max(len(values), 1)

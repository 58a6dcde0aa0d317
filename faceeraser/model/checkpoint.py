"""The folder that passes between stages: structure, weights, quantization, history and a picture of what it does.

    config.json                 structure of the generators (config.Config); format version
    generators.safetensors      float weights; widths are their shapes
    quantization.json           for a quantized network: tensor name -> scale, zero_point, bits
    discriminators.safetensors  for a trained network
    state.pt                    for a trained network, to resume: optimizers, step, averaged weights
    history.json                append-only: the options of each stage and what it measured
    samples.png                 sample results to look at
    tensorboard/                scalars and sample sheets of a training run

A stage reads one folder and writes another. It writes beside its target and renames at the end, so a folder that exists
is whole. Nothing is unpickled.
"""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from faceeraser.artifacts.files import sha256_of
from faceeraser.measurement import results
from faceeraser.model import peers, quant
from faceeraser.model.config import Config
from faceeraser.model.networks import Inpainter, shape_to
from faceeraser.system.history import NAME, read_history
from faceeraser.system.reading import json_object
from faceeraser.system.writing import first_process, whole_file, write_json


def save(
    folder: Path,
    pipeline: Inpainter,
    *,
    stage: str,
    options: Mapping[str, Any],
    metrics: Mapping[str, Any],
    parent: Path | str | None = None,
    data: Mapping[str, Any] | None = None,
    half: bool = False,
    **extra: Any,
) -> None:
    """Write a pipeline into `folder` (of `writing.whole_folder`) and append this stage to its parent's history.

    options: what the stage was told (the seed among them). metrics: what it measured. data: data.json of the pairs.
    half: weights in half precision. extra: further fields of the history entry, such as histograms.
    Under torchrun only the first process writes.
    """
    if not first_process():
        return
    scales = {name: (scale, zero) for name, scale, zero in quant.quantized_tensors(pipeline)}
    state = {k: v.detach().cpu().contiguous() for k, v in pipeline.state_dict().items() if not _is_scale(k)}
    if half:
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file(state, folder / "generators.safetensors")
    if scales:
        write_json(
            folder / "quantization.json",
            {
                name: {"scale": scale.detach().cpu().double().tolist(), "zero_point": zero, "bits": quant.BITS}
                for name, (scale, zero) in scales.items()
            },
        )
    write_json(folder / "config.json", pipeline.config.to_json())
    shutil.copymode(folder / "config.json", folder / "generators.safetensors")  # which nobody but the owner could read
    past = read_history(parent) if parent else []
    write_json(
        folder / NAME,
        [
            *past,
            {
                "stage": stage,
                "options": dict(options),
                "metrics": dict(metrics),
                "parent_sha256": sha256_of(Path(parent) / "generators.safetensors") if parent else None,
                "sha256": sha256_of(folder / "generators.safetensors"),
                "data": {k: data.get(k) for k in ("name", "source", "sha256", "eval_sha256")} if data else None,
                "versions": results.versions(),
                "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                **extra,
            },
        ],
    )


def save_beside(folder: Path, samples: Image.Image, discriminators: nn.Module | None = None) -> None:
    """Write what stands beside a network that `save` has written: a sheet of what it does, its discriminators."""
    if not first_process():
        return
    samples.save(folder / "samples.png")
    if discriminators is not None:
        named = {k: v.detach().cpu().contiguous() for k, v in discriminators.state_dict().items()}
        save_file(named, folder / "discriminators.safetensors")
        shutil.copymode(folder / "config.json", folder / "discriminators.safetensors")


def _is_scale(key: str) -> bool:
    """Whether a state-dict key is a quantization scale; those live in quantization.json under the tensor's name."""
    return key.endswith((".scale", ".weight_scale"))


def load(folder: Path | str) -> Inpainter:
    """A pipeline in eval mode from a stage's folder, strictly: every tensor in its place and none left over.

    Raises:
        ValueError: the folder is not a checkpoint, is of another format, its tensors do not fit its structure, or its
            weights are not the ones whose sha256 stands last in its history.
    """
    folder = Path(folder)
    for name in ("config.json", "generators.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: found no {name}, expected a checkpoint folder; make one with train/train.py")
    if (folder / NAME).is_file():
        digest, recorded = sha256_of(folder / "generators.safetensors"), read_history(folder)[-1]["sha256"]
        if digest != recorded:
            raise ValueError(
                f"{folder}/generators.safetensors: sha256 is {digest[:12]}..., its history says {recorded[:12]}...: "
                "damaged or replaced; fetch it again"
            )
    fields = json_object(folder / "config.json", "the structure of a checkpoint; make the folder again")
    try:
        config = Config.from_json(fields)
    except ValueError as error:
        raise ValueError(f"{folder}/config.json: {error}") from None
    try:
        state = load_file(folder / "generators.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{folder}/generators.safetensors is not a whole safetensors file ({error})") from error
    state = {k: v.float() if v.dtype == torch.float16 else v for k, v in state.items()}
    try:
        return build(config, state, _read_scales(folder))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    except (RuntimeError, TypeError, KeyError, IndexError, AttributeError, MemoryError) as error:  # torch, of odd shapes
        why = " ".join(str(error).split())[:120]
        raise ValueError(f"{folder}: its weights do not fit its config.json ({why}); make the folder again") from None


def _read_scales(folder: Path) -> dict[str, dict[str, Any]] | None:
    path = folder / "quantization.json"
    return json_object(path, "the scales of a quantized network; make the folder again") if path.is_file() else None


def build(config: Config, state: Mapping[str, Tensor], scales: Mapping[str, Any] | None = None) -> Inpainter:
    """A pipeline in eval mode from its structure, its weights and, if quantized, its scales.

    Raises:
        ValueError: tensors are missing, left over or of the wrong shape.
    """
    pipeline = peers.build(config, width=4)
    if config.fused:
        quant.fuse(pipeline)
    shape_to(pipeline, state)
    try:
        pipeline.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit config.json: {' '.join(str(error).split())[:300]}") from error
    if config.quantized:
        quant.prepare(pipeline, config.float_layers)
        unused = dict(scales or {})
        for name, scale, zero_point in quant.quantized_tensors(pipeline):
            entry = unused.pop(name, None)
            if not isinstance(entry, dict) or entry.get("zero_point") != zero_point or entry.get("bits") != quant.BITS:
                found_there = str(entry)[:120]
                raise ValueError(f"quantization.json: expected {name} with zero point {zero_point}, found {found_there}")
            scale.data = _scale(entry.get("scale"), tuple(scale.shape), name)
        if unused:
            raise ValueError(f"quantization.json names tensors the network does not have: {sorted(unused)[:3]}")
    return pipeline.eval()


def _scale(values: Any, shape: tuple[int, ...], name: str) -> Tensor:
    """A tensor's scales as quantization.json tells them. Raises ValueError unless each is a number above 0."""
    try:
        scale = torch.tensor(values, dtype=torch.float32).reshape(shape)
    except (TypeError, ValueError, RuntimeError):
        scale = torch.zeros(1)
    if not bool(((scale > 0) & torch.isfinite(scale)).all()):
        raise ValueError(f"quantization.json: scale of {name} is {str(values)[:60]}; expected numbers above 0, {shape}")
    return scale


def read_state(path: Path) -> dict[str, Any]:
    """The resume state of a run. Only tensors and plain values are read: a file with a pickled object in it is refused.

    Raises:
        ValueError: the file holds anything else, or is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds here, and every one of them means the same
        reason = str(error).split("\n", 1)[0][:120]
        raise ValueError(f"{path}: refused, not a plain file of tensors ({reason}); start again without --resume") from error
    return state


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write the resume state: a run that is killed while writing keeps the one before.

    Raises:
        OSError: it cannot be written; there is no space left, say.
    """
    with whole_file(path) as partial:
        try:
            torch.save(dict(state), partial)
        except RuntimeError:  # of torch's writer, which does not say what the system told it
            with open(partial, "ab") as file:
                file.write(bytes(1 << 16))
                os.fsync(file.fileno())
            raise

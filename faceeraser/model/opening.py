"""Opening a model to measure it: an exported file or a checkpoint folder, behind one interface.

A file needs only its own runtime. A folder needs torch, which is imported when one is opened.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.files import KINDS
from faceeraser.measurement import metrics, results
from faceeraser.system import extras
from faceeraser.system.history import read_history


@dataclass(frozen=True)
class Model:
    """A model to measure: what its row is called, how to call it, the size it takes and what is known of it."""

    name: str
    path: Path
    method: metrics.Method
    resolution: int
    about: Mapping[str, Any]


def named(text: str) -> tuple[str | None, Path]:
    """`name=PATH` or `PATH`, as models are given on a command line, as (name or None, path)."""
    name, equals, path = text.partition("=")
    return (name, Path(path)) if equals and "/" not in name else (None, Path(text))


def open_model(path: Path, name: str) -> Model:
    """Load an exported file or a checkpoint folder, to be called `name` in tables.

    `about` has file, kind, precision, gmacs, params, bytes and `perceptual`: the network of the perceptual term that it
    was trained with, which every result row carries.

    Raises:
        ValueError: it is neither, or cannot be run here.
        FileNotFoundError: it is not there.
        ModuleNotFoundError: its runtime, or torch for a folder, is not installed; names the extra.
    """
    if path.is_dir() and path.suffix not in KINDS:
        with extras.needed_for("a checkpoint folder", "train"):
            from faceeraser.model import checkpoint, inference
            from faceeraser.model.networks import cost_of
        pipeline, stages = checkpoint.load(path), read_history(path)
        gmacs, params = cost_of(pipeline)
        about = {"kind": "checkpoint", "precision": None, "gmacs": gmacs, "params": params, "bytes": None}
        method, resolution = inference.as_method(pipeline), pipeline.config.resolution
    else:
        exported = Artifact(path)
        if exported.card["kind"] == "coreml" and sys.platform != "darwin":
            raise ValueError(f"{path}: CoreML predicts on macOS only; measure the .tflite or .onnx export here")
        about = {key: exported.card.get(key) for key in ("kind", "precision", "gmacs", "params", "bytes")}
        stages = exported.card["history"]
        method, resolution = exported.erase, exported.resolution[0] or int(exported.card["resolution"])
    perceptual = [entry["options"]["features"] for entry in stages if "features" in entry.get("options", {})]
    where = results.portable(path)
    about = {"file": where, **about, "perceptual": perceptual[-1] if perceptual else None}
    return Model(name, path, method, resolution, about)

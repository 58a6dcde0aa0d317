"""The essentials of a card, stored inside the exported file, in case the card gets lost.

    write("exports/int8.tflite", essentials(card))
    read("exports/int8.tflite")["inputs"]

They are stored as JSON under the name NAME: in a .tflite file's metadata, an .onnx file's `metadata_props` or a CoreML
package's `user_defined_metadata`. Any tool that shows a file's metadata shows them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from faceeraser.artifacts.files import members
from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.system import reading
from faceeraser.system.extras import need

NAME = "faceeraser"
FIELDS = (
    "precision",
    "resolution",
    "network",
    "edges",
    "warp",
    "flavour",
    "delegates",
    "sizes",
    "inputs",
    "outputs",
    "gmacs",
    "params",
    "made_by",
)
"""Of a card what goes inside: what it is, and how it is fed."""


def essentials(card: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a card's fields."""
    return {name: card[name] for name in FIELDS if name in card}


def write(path: Path, essentials: Mapping[str, Any]) -> None:
    """Store them in the file, replacing earlier ones. What the file computes does not change."""
    text = json.dumps(dict(essentials), separators=(",", ":"), allow_nan=False)
    if path.suffix == ".tflite":
        graph = Graph(path)
        buffer, entry = graph.schema.BufferT(), graph.schema.MetadataT()
        buffer.data = np.frombuffer(text.encode(), np.uint8)
        graph.model.buffers.append(buffer)
        entry.name, entry.buffer = NAME.encode(), len(graph.model.buffers) - 1
        graph.model.metadata = [*(other for other in graph.model.metadata or [] if other.name != NAME.encode()), entry]
        graph.write(path)
    elif path.suffix == ".onnx":
        onnx = need("onnx", "onnx", "writing an .onnx file")
        model = onnx.load(str(path))
        onnx.helper.set_model_props(model, {NAME: text})
        model.producer_name = NAME
        onnx.save(model, str(path))
    else:
        file, spec = _specification(path)
        spec.description.metadata.userDefined[NAME] = text
        file.write_bytes(spec.SerializeToString())


def read(path: Path) -> dict[str, Any] | None:
    """The essentials stored in a file, or None if there are none or it is not such a file.

    Raises:
        ValueError: they cannot be read.
        ModuleNotFoundError: the format's package is missing; names the extra.
    """
    try:
        text = _text(path)
    except ModuleNotFoundError:
        raise
    except Exception:  # each parser has its own errors: it is no such file, and says nothing
        return None
    if text is None:
        return None
    card = reading.json_text(text, f"{path}: the card inside it", "the essentials of a card; export again")
    if not isinstance(card, dict):
        raise ValueError(f"{path}: the card inside it is a {type(card).__name__}, expected an object; export again")
    return card


def _text(path: Path) -> str | None:
    if path.suffix == ".tflite":
        graph = Graph(path)
        entry = next((metadata for metadata in graph.model.metadata or [] if metadata.name == NAME.encode()), None)
        return None if entry is None else bytes(graph.model.buffers[entry.buffer].data).decode(errors="replace")
    if path.suffix == ".onnx":
        model = need("onnx", "onnx", "reading an .onnx file").load(str(path), load_external_data=False)
        return next((prop.value for prop in model.metadata_props if prop.key == NAME), None)
    return dict(_specification(path)[1].description.metadata.userDefined).get(NAME)


def _specification(path: Path) -> tuple[Path, Any]:
    """(the file of a package that says all but its weights, and what it says)."""
    tools = need("coremltools", "coreml", "reading an .mlpackage")
    file = next(file for file in members(path) if file.suffix == ".mlmodel")
    spec = tools.proto.Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    return file, spec

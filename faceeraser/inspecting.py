"""What is in an exported file or a checkpoint folder, for people and as JSON: `faceeraser inspect`."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faceeraser.artifacts import contents
from faceeraser.artifacts.card import read_card
from faceeraser.artifacts.files import KINDS, sha256_of
from faceeraser.measurement.metrics import HOLE_FIGURES
from faceeraser.system.history import read_history
from faceeraser.system.reading import json_object


def inspect(args: argparse.Namespace) -> int:
    """`faceeraser inspect`: a card, or a checkpoint's structure, and the history of either."""
    path: Path = args.path
    if path.suffix in KINDS:
        description = read_card(path)
        inside = contents.listing(path)
        facts, tables = _card_facts(description, inside), {"weights by layer": inside["layers"]}
        description = description | {"contents": inside}
    elif path.is_dir():
        description = read_checkpoint(path)
        facts, tables = _checkpoint_facts(description), {"generators": description["generators"]}
    else:
        what = "is neither" if path.exists() else "no such file or folder"
        endings = ", ".join(KINDS)
        raise FileNotFoundError(f"{path}: {what}; expected a checkpoint folder, or a file ending in {endings}")
    if args.json:
        print(json.dumps(description, indent=1))
        return 0
    print(path)
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"  {name:<{width}}  {value}")
    tables["history (figures on a slice of train, GMACs at 256 x 256)"] = _history_rows(description["history"])
    for title, rows in tables.items():
        print(f"\n{title}")
        print(_table(rows) if rows else "  none")
    return 0


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Structure and history of a checkpoint folder, read without torch; the weights' header is enough.

    Returns:
        {"config": config.json, "generators": a row for each network, "quantized_tensors": how many, "history": [...]}.

    Raises:
        ValueError: the folder is not a checkpoint, or a file in it is damaged.
    """
    for name in ("config.json", "history.json"):
        if not (folder / name).is_file():
            remedy = "make one with train/train.py"
            raise ValueError(f"{folder}: found no {name}, expected a checkpoint folder; {remedy}")
    again, scales = "make the folder again", folder / "quantization.json"
    history, weights = read_history(folder), folder / "generators.safetensors"
    if weights.is_file() and (digest := sha256_of(weights)) != (listed := history[-1]["sha256"]):
        raise ValueError(
            f"{weights}: sha256 is {digest[:12]}..., its history says {listed[:12]}...: damaged or replaced; fetch it again"
        )
    config = json_object(folder / "config.json", f"the structure of a network; {again}")
    return {
        "config": config,
        "generators": _generator_rows(weights),
        "quantized_tensors": len(json_object(scales, f"scales by tensor; {again}")) if scales.is_file() else 0,
        "history": history,
    }


def _generator_rows(path: Path) -> list[dict[str, Any]]:
    """What the header of a safetensors file says."""
    from safetensors import SafetensorError, safe_open  # which an exported file does not need

    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file, expected a checkpoint's weights; make the folder again") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); make the folder again") from None
    rows: dict[str, dict[str, Any]] = {}
    for name, shape in sorted(shapes.items()):
        network, tensor = name.split(".")[0], name.rsplit(".", 1)[-1]
        row = rows.setdefault(network, {"generator": network, "layers": 0, "params": 0, "narrowest": 0, "widest": 0})
        if tensor not in ("running_mean", "running_var", "num_batches_tracked"):
            row["params"] += math.prod(shape)
        if tensor == "weight" and len(shape) == 4 and ".head." not in name:
            channels = shape[0]
            row["narrowest"] = min(row["narrowest"] or channels, channels)
            row["widest"] = max(row["widest"], channels)
        row["layers"] += tensor == "weight" and len(shape) == 4
    return list(rows.values())


def _card_facts(card: Mapping[str, Any], inside: Mapping[str, Any]) -> dict[str, str]:
    """What a card says, and the file's operators by count."""

    def ports(listed: Sequence[Mapping[str, Any]]) -> str:
        return ", ".join(
            f"{port['name']} {'x'.join(str(n or '?') for n in port['shape'])} {port['layout']} {port['dtype']}"
            + (f" ({port['meaning']})" if "meaning" in port else "")
            for port in listed
        )

    def in_words(figures: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {_cell(value)}" for name, value in figures.items())

    notes, sizes, delegates = card["notes"], card.get("sizes"), card.get("delegates", ())
    said = [delegate if isinstance(delegate, str) else in_words(delegate) for delegate in delegates]
    return {
        "kind": f"{card['kind']}, {card['precision']}",
        **({"flavour": card["flavour"]} if "flavour" in card else {}),
        **({"delegates": "; ".join(said)} if said else {}),
        "resolution": str(card["resolution"])
        + (f"; takes multiples of {sizes['multiple_of']} from {sizes['min']} to {sizes['max']}" if sizes else ""),
        "bytes": f"{card['bytes']:,}",
        "params": f"{card['params']:,}",
        "GMACs": f"{card['gmacs']:.3f} at its resolution",
        "inputs": ports(card["inputs"]),
        "outputs": ports(card["outputs"]),
        "edges": card["edges"],
        "warp": card["warp"],
        "operators": ", ".join(f"{name} {count}" for name, count in inside["operators"].items()),
        "parity": in_words(card["parity"]),
        **({"computed parity": in_words(card["evaluated_parity"])} if "evaluated_parity" in card else {}),
        **{f"parity at {at['width']} x {at['height']}": in_words(at) for at in card.get("parity_at", ())},
        "sha256": card["sha256"],
        **({"notes": notes if isinstance(notes, str) else "; ".join(map(str, notes))} if notes else {}),
    }


def _checkpoint_facts(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    def value_of(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {_cell(part)}" for name, part in value.items())
        return ", ".join(map(str, value)) if isinstance(value, list) else _cell(value)

    quantized = checkpoint["quantized_tensors"]
    return {
        **{name: value_of(value) for name, value in checkpoint["config"].items()},
        **({"quantized tensors": str(quantized)} if quantized else {}),
    }


def _history_rows(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each stage, oldest first; of a stage that compares, the figures after it."""
    rows = []
    for entry in history:
        measured = entry.get("metrics") or {}
        figures = measured.get("after")
        figures = figures if isinstance(figures, Mapping) else measured
        data = entry.get("data") or {}
        rows.append(
            {
                "stage": entry.get("stage"),
                "data": data.get("source") or data.get("name"),
                **{name: figures.get(name) for name in ("gmacs", "params", *HOLE_FIGURES, "n")},
                "time": str(entry.get("time") or "-")[:16].replace("T", " "),
            }
        )
    return rows


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys in columns, numbers to the right."""
    names = list(rows[0])
    cells = [[_cell(row[name]) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    right = [any(isinstance(row[name], int | float) for row in rows) for name in names]
    lines = []
    for line in [names, *cells]:
        padded = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True))
        lines.append("  " + "  ".join(padded).rstrip())
    return "\n".join(lines)

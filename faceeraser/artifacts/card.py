"""The card of an exported file, `<file>.json` beside it: written by the exporter, read by whatever runs the file.

Its content is defined by `card.schema.json` beside this module, a JSON Schema (docs/cards.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from faceeraser.artifacts import embedded
from faceeraser.artifacts.contents import cost_of
from faceeraser.artifacts.files import Fields, bytes_of, kind_of, members, sha256_of
from faceeraser.artifacts.runtimes import ports_of
from faceeraser.system.reading import json_object
from faceeraser.system.writing import write_json

CARD_FORMAT = 1
SCHEMA_FILE = Path(__file__).with_name("card.schema.json")
ALL_PRECISIONS = (
    "fp32",
    "fp16",
    "int8",
    "palette6",
    "palette4",
    "int8-activations",
    "int8-activations-fp16",
)
# What only the exporter knows; the rest of a card is read from the file.
CARD_NEEDS = ("precision", "resolution", "edges", "warp", "parity", "notes", "history")
# The same of a network that is no face eraser, which the card's `network` names.
ANY_CARD_NEEDS = ("precision", "network", "warp", "parity", "notes", "history")


def card_path(path: str | Path) -> Path:
    """Where the card of an exported file lies: `<path>.json`."""
    return Path(f"{str(path).rstrip('/')}.json")


def write_card(path: str | Path, fields: Mapping[str, Any]) -> Fields:
    """Write the card of the exported file at `path`, atomically, and return it.

    `fields` needs precision, resolution, edges, warp, parity, notes and history. Format, file, kind, sha256 and bytes are
    added; inputs, outputs, gmacs and params are read from the file unless given (for CoreML they must be given).
    Raises ValueError when a field is missing or wrong, and FileNotFoundError when there is no file.
    """
    path = Path(path)
    kind = kind_of(path)
    missing = [name for name in (ANY_CARD_NEEDS if "network" in fields else CARD_NEEDS) if name not in fields]
    if missing:
        raise ValueError(f"the card of {path.name} lacks {', '.join(missing)}")
    for name, allowed in {"precision": ALL_PRECISIONS, "edges": ("inside", "input")}.items():
        if name in fields and fields[name] not in allowed:
            raise ValueError(f"the card of {path.name}: {name} is {fields[name]!r}, expected {' or '.join(allowed)}")
    if path.with_name(path.name + ".data").exists():
        raise ValueError(f"{path.name} keeps its weights in {path.name}.data; export one file (external_data=False)")
    card: Fields = {
        "format": CARD_FORMAT,
        "file": path.name,
        "kind": kind,
        "sha256": sha256_of(path),
        "bytes": bytes_of(path),
    }
    if kind != "coreml":
        if "inputs" not in fields or "outputs" not in fields:
            card |= ports_of(path, made_here=True)
        if "gmacs" not in fields or "params" not in fields:
            card |= cost_of(path, fields.get("resolution"))
    card = card | dict(fields) | {key: card[key] for key in ("format", "file", "kind", "sha256", "bytes")}
    missing = [name for name in ("inputs", "outputs", "gmacs", "params") if name not in card]
    if missing:
        raise ValueError(f"the card of {path.name} lacks {', '.join(missing)}: they cannot be read from a CoreML package")
    write_json(card_path(path), card)
    return card


def read_card(path: str | Path) -> Fields:
    """The card of the exported file at `path`, checked against the file.

    If the file has lost its card, the essentials stored inside it are returned instead (embedded.py), with a note and
    without parity.

    Raises FileNotFoundError when the file is missing, or its card is and nothing is stored inside it; ValueError when the
    card is unreadable, has another format, or was written for a file with other content.
    """
    path = Path(path)
    kind = kind_of(path)
    members(path)
    beside = card_path(path)
    if not beside.is_file():
        if essentials := embedded.read(path):
            lost: Fields = {
                **essentials,
                "format": CARD_FORMAT,
                "file": path.name,
                "kind": kind,
                "sha256": sha256_of(path),
                "bytes": bytes_of(path),
                "parity": {"n": 0, "passed": None},
                "history": [],
                "notes": ["its card is lost: this is what stands in the file itself, without its history and its parity"],
            }
            if why := _misfit(lost):
                raise ValueError(f"{path}: the card inside it: {why} (docs/cards.md); export again")
            return lost
        raise FileNotFoundError(f"{path}: no card beside it; expected {beside.name}; export again")
    card: Fields = json_object(beside, "the card of an exported file; export again")
    if card.get("format") != CARD_FORMAT:
        version = str(card.get("format"))[:40]
        raise ValueError(f"{beside}: the card's format is {version!r}, this version reads {CARD_FORMAT}; export again")
    if (size := bytes_of(path)) != card.get("bytes"):  # told at once, while a checksum takes time
        raise ValueError(
            f"{path}: has {size} bytes, its card says {str(card.get('bytes'))[:20]}: "
            "the file and the card do not belong together; export again"
        )
    if (digest := sha256_of(path)) != card.get("sha256"):
        raise ValueError(
            f"{path}: sha256 is {digest[:12]}..., its card says {str(card.get('sha256'))[:12]}...: "
            "the file and the card do not belong together; export again"
        )
    if why := _misfit(card):
        raise ValueError(f"{beside}: {why} (docs/cards.md); export again")
    if card["kind"] != kind_of(path):
        raise ValueError(f"{beside}: is the card of a {card['kind']} file, but {path.name} is not one; export again")
    return card


def _misfit(card: Fields) -> str:
    """What is wrong with a card by its schema, or ""."""
    import fastjsonschema

    try:
        _schema()(card)
        return ""
    except fastjsonschema.JsonSchemaValueException as error:
        return " ".join(str(error.message).split())[:160].replace("data", "the card", 1)


@cache
def _schema() -> Callable[[Fields], Fields]:
    """What holds a card against the schema."""
    import fastjsonschema

    schema = json.loads(SCHEMA_FILE.read_text())
    check: Callable[[Fields], Fields] = fastjsonschema.compile(schema)
    return check

"""What was done to a network: `history.json` in its folder, to which each stage appends one entry.

An entry has the stage, its options, what it measured, and the sha256 of what it started from and of its result. The card of
an exported file contains the whole list.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faceeraser.system.reading import json_value

NAME = "history.json"


def read_history(folder: Path | str) -> list[dict[str, Any]]:
    """The stages that a checkpoint folder went through, oldest first.

    Raises:
        FileNotFoundError: the folder has no history.json.
        ValueError: it is damaged, or none.
    """
    path, expected = Path(folder) / NAME, "the stages that made this folder; make the folder again"
    entries = json_value(path, expected)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: expected a list of {expected}")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("stage"), str):
            raise ValueError(f"{path}: entry {number} is none of {expected}")
        for name, kinds in _KINDS.items():
            if not isinstance(entry.get(name), kinds):
                raise ValueError(f"{path}: {name} of entry {number} is {str(entry.get(name))[:40]!r}; expected {expected}")
    return entries


_KINDS = {"options": dict, "metrics": dict, "sha256": str, "data": dict | None, "parent_sha256": str | None}

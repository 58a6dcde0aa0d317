"""What was done to a network: `history.json` in its folder, to which each stage appends one entry.

An entry tells the stage, what it was told, what it measured, and by sha256 what it started from and what it left. An
exported file carries the whole list in its card.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAME = "history.json"


def read_history(folder: Path | str) -> list[dict[str, Any]]:
    """The stages that a checkpoint folder went through, oldest first.

    Raises:
        FileNotFoundError: the folder has no history.json.
    """
    entries: list[dict[str, Any]] = json.loads((Path(folder) / NAME).read_text())
    return entries

"""How accurate the filters are that accept or reject foreheads: by skin tone, and against labels made by eye."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from faceeraser.measurement import metrics


def acceptance(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How many foreheads were accepted, by the skin tone of the cheeks."""
    by_tone: dict[str, list[int]] = {name: [] for name, _ in metrics.SKIN_TONES}
    for row in rows:
        if "cheek_ita" in row:
            by_tone[metrics.tone(row["cheek_ita"])].append(row["taken"])
    return [
        {"tone": name, "n": len(v), "taken": sum(v), "share": round(sum(v) / len(v), 3)} for name, v in by_tone.items() if v
    ]


FILTERS: dict[str, Callable[[dict[str, str]], bool]] = {
    "glasses": lambda row: row["glasses"] == "1",
    "hat": lambda row: row["reason"].startswith("hat"),
    "hair_covered_forehead": lambda row: row["reason"].startswith("hair"),
    "usable": lambda row: row["taken"] == "1",
}


def measure_filters(target: Path, labels: Path) -> list[dict[str, Any]]:
    """Precision and recall of each filter on photographs labelled by eye.

    Args:
        target: a prepared folder.
        labels: a CSV with the columns file and those of FILTERS, 1 or 0.

    Raises:
        ValueError: it is no such CSV, or names none of the folder's photographs.
    """
    if not labels.is_file():
        raise ValueError(
            f"{labels}: no such file; expected a CSV with the columns file, {', '.join(FILTERS)}; check the path"
        )
    with (target / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        prepared = {row["file"]: row for row in csv.DictReader(stream)}
    with labels.open(newline="", encoding="utf-8") as stream:
        wanted = list(csv.DictReader(stream))
    if not wanted or not {"file", *FILTERS} <= set(wanted[0]):
        raise ValueError(f"{labels}: expected a CSV with the columns file, {', '.join(FILTERS)}; fix its first line")
    common = [row for row in wanted if row["file"] in prepared]
    if not common:
        raise ValueError(
            f"{labels}: none of its {len(wanted)} photographs is in {target}; label photographs that were prepared"
        )
    figures = []
    for name, says in FILTERS.items():
        truth = [row[name] == "1" for row in common]
        guess = [says(prepared[row["file"]]) for row in common]
        right = sum(t and g for t, g in zip(truth, guess, strict=True))
        figures.append(
            {
                "name": name,
                "precision": round(right / sum(guess), 3) if any(guess) else None,
                "recall": round(right / sum(truth), 3) if any(truth) else None,
                "n": len(common),
                "labelled": sum(truth),
                "found": sum(guess),
            }
        )
    return figures

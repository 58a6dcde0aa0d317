"""Strict reading of JSON files that anybody may have written: anything but plain JSON of a sane size is one clear error.

    fields = reading.json_object(Path("config.json"), "the structure of a checkpoint; make the folder again")

Python's own reader accepts NaN and 1e999 as numbers, silently keeps the last of two equal names, and ends in a
RecursionError, a MemoryError or a long wait on malicious input. Here each of these is a ValueError.
"""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

LARGEST = 64 << 20
"""Bytes of a file, unless the caller knows of larger ones: Python takes some ten times as much memory for it."""


def json_value(path: Path, expected: str, largest: int = LARGEST) -> Any:
    """What a JSON file says.

    Args:
        path: the file.
        expected: what it has to be and what to do where it is not, for the message.
        largest: bytes that it may have.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it may not be read, is too large, or is not JSON: not UTF-8, cut short, nested a thousand deep, with a
            name twice in one object, with a number that is none or that no float can hold. The message has one line.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(largest + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path}: may not be read ({error.strerror}); expected {expected}") from None
    if len(data) > largest:
        raise ValueError(f"{path}: is larger than {largest >> 20} MB; expected {expected}")
    return json_text(data, str(path), expected)


def json_text(data: bytes | str, where: str, expected: str) -> Any:
    """What a text of JSON says. `where` names it in the message. Raises ValueError as `json_value`."""
    try:
        return json.loads(data, object_pairs_hook=_distinct, parse_float=_finite, parse_constant=_refused)
    except RecursionError:
        why = "nested too deep"
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are such
        why = " ".join(str(error).split())[:160]
    raise ValueError(f"{where}: this is not JSON ({why}); expected {expected}")


def json_object(path: Path, expected: str, largest: int = LARGEST) -> dict[str, Any]:
    """The same of a file that holds an object. Raises as `json_value`."""
    value = json_value(path, expected, largest)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}; expected {expected}")
    return value


def csv_rows(path: Path, encoding: str = "utf-8") -> list[dict[str, str]]:
    """The rows of a CSV file by its first line's names.

    Raises:
        OSError: it may not be read.
        ValueError: it is none, is not in that encoding, or is larger than `LARGEST`; one line, without the path.
    """
    with open(path, newline="", encoding=encoding) as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST >> 20} MB")
    try:
        return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)[:60]!r} stands in it twice")
    return mapping


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is more than a number can be")
    return value


def _refused(text: str) -> float:
    raise ValueError(f"{text} is no number")


def first_line(error: Exception) -> str:
    """What an error says, or its name, in at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]

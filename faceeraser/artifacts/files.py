"""An exported file as bytes: which kind it is, what it consists of, its size and its sha256."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faceeraser.system.reading import json_object

Fields = dict[str, Any]
KINDS = {".tflite": "tflite", ".onnx": "onnx", ".mlpackage": "coreml"}


def kind_of(path: str | Path) -> str:
    """'tflite', 'onnx' or 'coreml', by the ending of the name. Raises ValueError for any other."""
    suffix = Path(path).suffix
    if suffix not in KINDS:
        raise ValueError(f"{path}: cannot tell what this is; expected a file ending in {', '.join(KINDS)}")
    return KINDS[suffix]


LARGEST = 1 << 30
"""Bytes of an artifact: a thousand times what a network for a phone has. A file may say that it has any size."""


def members(path: Path) -> list[Path]:
    """The files that an exported file consists of: itself, or everything in a folder (.mlpackage), in a fixed order.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is larger than any artifact, or a package in which something leads elsewhere.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; export one first, with export/to_tflite.py for example")
    if path.is_dir():
        files = sorted(_inside(path))
        if path.suffix == ".mlpackage":
            _check_manifest(path)
    elif path.is_file():
        files = [path]
    else:
        raise ValueError(f"{path}: is no file; expected an exported one")
    if (size := sum(file.stat().st_size for file in files)) > LARGEST:
        raise ValueError(f"{path}: has {size >> 20:,} MB; expected an exported file, at most {LARGEST >> 20:,} MB")
    return files


def _inside(package: Path) -> Iterator[Path]:
    for path in package.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            yield path
        elif not stat.S_ISDIR(mode):
            what = "link" if stat.S_ISLNK(mode) else "thing"
            raise ValueError(f"{path}: is a {what} that is no file; expected a package of plain files; export again")


def _check_manifest(package: Path) -> None:
    """Raises ValueError unless the manifest of an .mlpackage names what lies in it, which its reader would take on trust."""
    path, expected = package / "Manifest.json", "the manifest of an .mlpackage; export again"
    if not path.is_file():
        raise ValueError(f"{package}: has no {path.name}; expected {expected}")
    told = json_object(path, expected)
    items = told.get("itemInfoEntries")
    root = told.get("rootModelIdentifier")
    if not isinstance(items, dict) or not isinstance(root, str) or not isinstance(items.get(root), dict):
        raise ValueError(f"{path}: names no model; expected {expected}")
    for item in items.values():
        named = item.get("path") if isinstance(item, dict) else None
        if (
            not isinstance(named, str)
            or len(named) > 1000
            or "\0" in named
            or ".." in Path(named).parts
            or Path(named).is_absolute()
        ):
            raise ValueError(f"{path}: names {str(named)[:60]!r}; expected something inside the package; export again")
        if not (package / "Data" / named).exists():
            raise ValueError(f"{path}: names {named[:60]!r}, which is not there; export again")
    if not (package / "Data" / items[root]["path"]).is_file():
        raise ValueError(f"{path}: its model is no file; export again")


def sha256_of(path: str | Path) -> str:
    """Hex sha256 of a file; of a folder, over each file's relative name, size and content, in sorted order."""
    path = Path(path)
    digest = hashlib.sha256()
    for member in members(path):
        if path.is_dir():
            digest.update(f"{member.relative_to(path).as_posix()}\0{member.stat().st_size}\0".encode())
        with open(member, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def bytes_of(path: str | Path) -> int:
    """Size in bytes of a file, or of all files in a folder."""
    return sum(member.stat().st_size for member in members(Path(path)))

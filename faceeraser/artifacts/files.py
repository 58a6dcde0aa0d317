"""An exported file as bytes: which kind it is, what it consists of, its size and its sha256."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

Fields = dict[str, Any]
KINDS = {".tflite": "tflite", ".onnx": "onnx", ".mlpackage": "coreml"}


def kind_of(path: str | Path) -> str:
    """'tflite', 'onnx' or 'coreml', by the ending of the name. Raises ValueError for any other."""
    suffix = Path(path).suffix
    if suffix not in KINDS:
        raise ValueError(f"{path}: cannot tell what this is; expected a file ending in {', '.join(KINDS)}")
    return KINDS[suffix]


def members(path: Path) -> list[Path]:
    """The files that an exported file consists of: itself, or everything in a folder (.mlpackage), in a fixed order."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; export one first, with export/to_tflite.py for example")
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


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

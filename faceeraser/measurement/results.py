"""The form of every result: rows, with the command, commit, versions and machine they come from."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from faceeraser.system.reading import json_value
from faceeraser.system.writing import write_json

Fields = dict[str, Any]

PACKAGES = (
    "faceeraser",
    "numpy",
    "opencv-python-headless",
    "torch",
    "torchao",
    "torch-pruning",
    "litert-torch",
    "ai-edge-litert",
    "tensorflow",
    "onnx",
    "onnxruntime",
    "coremltools",
    "scikit-image",
)
ISA = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
"""Instruction sets that decide how fast int8 and float are, as /proc/cpuinfo calls them."""


def isa() -> str:
    """Those of ISA that this machine has, with a space between; '' where it does not say."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    flags = next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith(("flags", "Features"))), set())
    return " ".join(name for name in ISA if name in flags and not name.startswith(HIDDEN.get(hidden(), ())))


HIDDEN: Mapping[str, tuple[str, ...]] = {"amx": ("amx",), "avx512": ("amx", "avx512", "avx_vnni")}


def hidden() -> str:
    """What benchmarks/hide_isa.sh hides of this machine's instruction sets from what it runs, a key of HIDDEN; '' else."""
    return os.environ.get("HIDE_ISA", "") if "hide_isa" in os.environ.get("LD_PRELOAD", "") else ""


def hardware() -> Fields:
    """{"cpu", "isa", "cores", "ram_gb", "system"} of the machine; "hidden" where some of it is hidden (`hidden`)."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = lines[0].split(":", 1)[1].strip() if lines else cpu
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    own = {"cpu": cpu, "isa": isa(), "cores": os.cpu_count(), "ram_gb": round(ram / 2**30, 1), "system": platform.system()}
    return {**own, "hidden": hidden()} if hidden() else own


def versions() -> dict[str, str]:
    """Version of Python and of every package of `PACKAGES` that is installed."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def commit(folder: str | Path | None = None) -> str:
    """The commit of the checkout this package lies in, '+changes' if tracked files differ from it, or 'uncommitted'."""
    folder = Path(folder) if folder is not None else Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        head = git("rev-parse", "--verify", "HEAD")
        return head + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "uncommitted"


def portable(path: str | Path) -> str:
    """A path that reveals nothing about this machine: relative to the working folder, or only the name if it is far away."""
    near = os.path.relpath(path)
    return os.path.basename(near) if near.startswith(os.path.join("..", "..")) else near


def _command_line(command: Sequence[str]) -> str:
    """What was typed, with portable paths; `name=path` and `--flag=path` are treated as paths are."""

    def shorten(word: str) -> str:
        head, equals, tail = word.rpartition("=")
        return head + equals + (portable(tail) if tail.startswith((os.sep, os.pardir + os.sep)) else tail)

    return shlex.join(shorten(word) for word in command)


def result(rows: Sequence[Mapping[str, Any]], data: Mapping[str, Any] | None, command: Sequence[str]) -> Fields:
    """Make a result, the form of every file under benchmarks/results/.

    `rows` each have a "name". `data` has name, n and eval_sha256 (more is kept; None for timings, which use no data).
    `command` is what was typed, as words. Raises ValueError when a row has no name or data lacks one of the three.
    """
    if nameless := [row for row in rows if not row.get("name")]:
        raise ValueError(f"a result's row has no name: {nameless[0]}")
    about = {"name": None, "n": 0, "eval_sha256": None} if data is None else dict(data)
    if missing := [key for key in ("name", "n", "eval_sha256") if key not in about]:
        raise ValueError(f"a result's data lacks {', '.join(missing)}")
    return {
        "command": _command_line(command),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        "data": about,
        "rows": [dict(row) for row in rows],
    }


def read_result(path: str | Path) -> Fields:
    """A result file, checked for its form.

    Raises ValueError when it cannot be read or is not a result: not JSON, a part missing, no rows, a row without a name, or
    no data.
    """
    wanted = "expected a result of benchmarks/fidelity.py --json or of another benchmark"
    try:
        measured = json_value(Path(path), wanted.removeprefix("expected "))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: {wanted} ({error})") from None
    if not isinstance(measured, dict):
        raise ValueError(f"{path}: {wanted}, found a {type(measured).__name__}")
    if missing := [key for key in ("command", "commit", "hardware", "versions", "data", "rows") if not measured.get(key)]:
        raise ValueError(f"{path}: {wanted}, it lacks {', '.join(missing)}")
    rows = measured["rows"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("name") for row in rows):
        raise ValueError(f"{path}: {wanted}, its rows are not objects that have a name")
    if not isinstance(measured["data"], dict):
        raise ValueError(f"{path}: {wanted}, its data is not an object")
    return measured


def write_result(path: str | Path, measured: Mapping[str, Any]) -> None:
    """Write a `result` atomically. Raises ValueError when a figure is NaN or infinite, which JSON cannot say."""
    write_json(Path(path), measured)

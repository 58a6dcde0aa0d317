"""Files and folders that are complete or absent: written beside their place and renamed at the end."""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_NUMBERS = itertools.count()
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_PARTIAL = re.compile(rf"\.{_HOST}-(\d+)-\d+\.partial(\..*)?")
_swept: set[Path] = set()


def first_process() -> bool:
    """Whether this process is the one that writes and prints: the only one, or torchrun's number 0."""
    return int(os.environ.get("RANK", 0)) == 0


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the name to write under, beside `path`, which the file gets when the block ends without an error: whoever reads
    `path` sees the old file or all of the new one. The folder is made; after an error nothing is left behind.

    The name is hidden, has the same ending, and is short: a name may be as long as names can be. What a killed process left
    in the folder under such a name is taken away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path.parent, path.suffix)
    try:
        yield partial
        with open(partial, "rb") as file:  # a rename may reach the disk before what was written does
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all. Raises ValueError when a number is NaN or infinite, which JSON cannot say."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with whole_file(path) as partial:
        partial.write_text(text)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A new hidden folder inside `folder`, on the same disk, gone when the block ends. As `whole_file`'s partial files, what
    a killed process left is taken away by the next that writes there.
    """
    place = _beside(folder, "")
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _beside(folder: Path, ending: str) -> Path:
    """A free hidden name in a folder, which tells the process that it is of, after `sweep`."""
    sweep(folder)
    return folder / f".{_HOST}-{os.getpid()}-{next(_NUMBERS)}.partial{ending}"


def sweep(folder: Path) -> None:
    """Take away what processes of this machine that are gone left half-written in a folder; once for each folder, as there
    may be many files in it.
    """
    if os.name != "posix" or (folder := folder.absolute()) in _swept:  # elsewhere there is no asking whether one is alive
        return
    _swept.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:  # a folder that may be written but not listed
        for entry in entries:
            if (name := _PARTIAL.fullmatch(entry.name)) and not _alive(int(name[1])):
                with suppress(OSError):
                    shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def check_free(target: Path, overwrite: bool) -> None:
    """Raises ValueError when `target` exists and may not be replaced."""
    if target.exists() and not overwrite:
        raise ValueError(f"{target} exists already; choose another target, or --overwrite to replace it")


@contextmanager
def whole_folder(target: Path | str, overwrite: bool = False, resume: bool = False) -> Iterator[Path]:
    """A folder to write in, `TARGET.partial`, that becomes TARGET when the block ends without an error.

    resume: go on with what a killed run left there, or with a copy of the finished TARGET. Under torchrun only the
    first process writes; the others get the same path, to read a resume state from.

    Raises:
        ValueError: the target exists and neither `overwrite` nor `resume` is set, or another process is writing it.
    """
    target = Path(target)
    partial = target.with_name(target.name + ".partial")
    if not first_process():
        yield partial
        return
    if resume and target.exists() and not partial.exists():
        with scratch(target.parent) as copied:  # one that is killed halfway is no state to go on from
            shutil.copytree(target, copied / "whole").rename(partial)
    new = not partial.exists()
    partial.mkdir(parents=True, exist_ok=True)
    with alone(partial, target):
        restore(target)
        try:
            check_free(target, overwrite or resume)
        except ValueError:
            if new:
                partial.rmdir()
            raise
        if not resume:
            for old in partial.iterdir():
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        yield partial
        publish(partial, target)


@contextmanager
def alone(place: Path, target: Path) -> Iterator[None]:
    """Within, no other process of this machine comes into its own block of the same file or folder `place`, from which
    `target` is made. However a process ends, its hold on it ends with it. (Not on Windows, which has no such locks.)

    Raises:
        ValueError: another one is there.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    busy = f"{target}: another process is writing it; wait until it has ended, or choose another target"
    held = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(busy) from None
        except OSError:  # a network's file system without locks
            pass
        if not place.exists() or not os.path.samestat(os.fstat(held), place.stat()):  # published in this moment
            raise ValueError(busy)
        yield
    finally:
        os.close(held)


def publish(partial: Path, target: Path) -> None:
    """Put a finished folder in its place. One that is there goes only when the new one stands: whoever kills this at any
    moment finds the old folder, the new one, or none and the old one under `_before`, from where `restore` brings it back.
    """
    restore(target)
    before = _before(target)
    if target.exists():
        target.rename(before)
    partial.rename(target)
    shutil.rmtree(before, ignore_errors=True)


def restore(target: Path) -> None:
    """Finish what a `publish` that was killed began: the old folder comes back where there is no new one, else it goes."""
    before = _before(target)
    if before.exists() and not target.exists():
        before.rename(target)
    elif before.exists():
        shutil.rmtree(before, ignore_errors=True)  # whoever put the new one there may be at it as well


def _before(target: Path) -> Path:
    return target.with_name(f".{target.name}.before")

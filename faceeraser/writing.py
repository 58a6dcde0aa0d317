"""Files and folders that are whole or not there: written beside their place and renamed at the end."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NUMBERS = itertools.count()


def first_process() -> bool:
    """Whether this process is the one that writes and prints: the only one, or torchrun's number 0."""
    return int(os.environ.get("RANK", 0)) == 0


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the name to write under, beside `path`, which the file gets when the block ends without an error: whoever reads
    `path` sees the old file or all of the new one. The folder is made; after an error nothing is left behind.

    The name is hidden, has the same ending, and is short: a name may be as long as names can be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{next(_NUMBERS)}.partial{path.suffix}")
    try:
        yield partial
        with open(partial, "rb") as file:  # a rename may reach the disk before what was written does
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
        ValueError: the target exists and neither `overwrite` nor `resume` is set.
    """
    target = Path(target)
    partial = target.with_name(target.name + ".partial")
    if not first_process():
        yield partial
        return
    check_free(target, overwrite or resume)
    if partial.exists() and not resume:
        shutil.rmtree(partial)
    if resume and target.exists() and not partial.exists():
        shutil.copytree(target, partial)
    partial.mkdir(parents=True, exist_ok=True)
    yield partial
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)

"""Publishing an exported file with its card, completely or not at all: it is converted beside its place, with the
converter's output hidden, the free space checked and signals handled.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faceeraser.artifacts.card import card_path
from faceeraser.system.script import GateFailed
from faceeraser.system.writing import scratch, sweep

_asked_to_stop: list[int] = []
"""Signals that came while an export ran, the first one first."""


def _on_signal(number: int, frame: Any) -> None:
    """Stop what runs, and ask again until `_stoppable` hears it: coremltools imports under a bare `except`."""
    if number != signal.SIGALRM:
        _asked_to_stop.append(number)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    raise KeyboardInterrupt


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """What a signal may break off, at the latest when it ends; what is cleared away after it is not disturbed."""
    try:
        yield
        if _asked_to_stop:
            raise KeyboardInterrupt
    except Exception:
        if _asked_to_stop:  # an import that was broken off halfway
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if _asked_to_stop:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
                signal.signal(number, signal.SIG_IGN)


def until_stopped(work: Callable[[], None], who: str) -> int:
    """Run `work`; returns the exit code: 0, or 130 when stopped by Ctrl-C and 143 by SIGTERM, with nothing half-written."""
    _asked_to_stop.clear()
    before = {n: signal.signal(n, _on_signal) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    try:
        with _stoppable():
            work()
        return 0
    except KeyboardInterrupt:
        print(f"{who}: stopped; everything that this run published is complete", file=sys.stderr)
        return 143 if signal.SIGTERM in _asked_to_stop[:1] else 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what converters and their C++ parts print; show all of it if the block raises."""
    with tempfile.TemporaryFile("w+b") as log:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        text = open(os.dup(log.fileno()), "w")  # noqa: SIM115 - closed below, after the descriptors are back
        failed = False
        try:
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
                yield
        except Exception as error:
            # What is the user's to mend is told in one line, without what the converter said before.
            failed = not (isinstance(error, (OSError, ModuleNotFoundError, GateFailed)) or _asked_to_stop)
            raise
        finally:
            with contextlib.suppress(ValueError):
                text.flush()
            for number, old in zip((1, 2), saved, strict=True):
                os.dup2(old, number)
                os.close(old)
            text.close()
            if failed:
                log.seek(0)
                sys.stderr.write(log.read().decode(errors="replace"))


@contextlib.contextmanager
def step(description: str) -> Iterator[None]:
    """One line for one step, with the seconds it took."""
    print(f"  {description} ...", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        with quiet():
            yield
    except BaseException:
        print(" failed", file=sys.stderr, flush=True)
        raise
    print(f" {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def check_target(target: Path, needs: int) -> None:
    """Raise ValueError unless `target` is a writable folder with enough space, or can be created. What an export that was
    killed left there is taken away, also where the next one has nothing to do.

    Space is checked beforehand, because LiteRT's converter ends the whole process when there is none.
    """
    there = next(folder for folder in (target, *target.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise ValueError(f"{there}: is a file; expected a folder for exported files")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{there}: is not writable; expected a folder for exported files")
    sweep(target)
    if (free := shutil.disk_usage(there).free) < needs:
        raise ValueError(f"{there}: no space left, {free / 1e6:.1f} MB are free and an export takes up to {needs / 1e6:.1f}")


@contextlib.contextmanager
def _room_in(target: Path) -> Iterator[None]:
    """Make the folder, take it away again after an error if it is new and empty, and say in one line when the block ran out
    of space, which converters say in many ways.
    """
    new = not target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        if new:
            with contextlib.suppress(OSError):  # there is an earlier file in it
                target.rmdir()
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise ValueError(f"{target}: no space left, nothing was published; make room and export again") from None
        raise


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Gives the name to write under, in a folder of its own beside `path`; `publish` puts file and card in their places, and
    what is not published is gone when the block ends.

    Raises:
        ValueError: there was no space left.
    """
    with _room_in(path.parent), scratch(path.parent) as folder, _stoppable():
        yield folder / path.name


def publish(staged: Path, path: Path) -> None:
    """Put a file and its card in their places. An old file stays complete until then, and is restored if this fails.

    The old file is removed first and the new one is added last, so a kill leaves at most a card without a file, which does
    not count as an export.
    """
    pairs = [(staged, path), (card_path(staged), card_path(path))]
    aside = staged.parent / "before"
    aside.mkdir()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGALRM})
    placed: list[tuple[Path, Path]] = []
    try:
        for _, last in pairs:
            if last.exists():
                last.replace(aside / last.name)
        for first, last in reversed(pairs):
            first.replace(last)
            placed.append((first, last))
    except OSError:
        for first, last in placed:
            last.replace(first)
        for _, last in pairs:
            if (aside / last.name).exists():
                (aside / last.name).replace(last)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)

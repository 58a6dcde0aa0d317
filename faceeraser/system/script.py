"""The frame of every script: its parser, its exit codes, its last lines.

A script is `python DIR/NAME.py ... [--knobs]`. It prints a table for people and then one JSON line for programs, and exits
with 0, 1 (a gate failed: which, and by how much) or 2 (bad usage or bad input: what was found, what was expected, what to
run). Nothing here needs more than the base install.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import signal
import sys
import threading
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from faceeraser.system.writing import first_process

Options = TypeVar("Options")


class GateFailed(Exception):
    """A measured figure is outside its gate; the message says which and by how much. Exit code 1."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C, or SIGTERM. `code` is the exit code that a shell gives either."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


def code_of(stop: KeyboardInterrupt) -> int:
    """The exit code of a command that was stopped."""
    return stop.code if isinstance(stop, Stopped) else 130


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM raise `Stopped`, so that whatever cleans up behind itself does, and child processes end
    with the `subprocess.run` that waits for them. A second signal is not heard while that goes on. Where Python cannot raise
    anything, as while an object is being freed, the signal comes again a moment later.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code is again.__code__:  # what is raised there is ignored too
                return
            frame = frame.f_back
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    def again(event: Any) -> None:
        if isinstance(event.exc_value, Stopped):
            signal.signal(number := event.exc_value.code - 128, stop)
            threading.Thread(target=repeat, args=(number,), daemon=True).start()
        else:
            unraisable(event)

    def repeat(number: int) -> None:
        while not ended.wait(0.05):
            os.kill(os.getpid(), number)  # ignored once it has been raised

    numbers, unraisable, ended = (signal.SIGINT, signal.SIGTERM), sys.unraisablehook, threading.Event()
    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield
        return
    before = {number: signal.signal(number, stop) for number in numbers}
    sys.unraisablehook = again
    try:
        yield
    except Stopped:
        _end_children()
        raise
    finally:
        ended.set()
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def read_to_the_end() -> Iterator[None]:
    """Leave without a word, as other commands do, when who read standard output has gone (`| head`). Raises SystemExit with
    the code of SIGPIPE.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        asked = select.poll()
        asked.register(sys.stdout.fileno(), 0)
        if not any(event & select.POLLERR for _, event in asked.poll(0)):
            raise  # another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed when Python ends
        raise SystemExit(141) from None


def _end_children() -> None:
    """End child processes that are left: one may have been started in the moment in which the signal came. (Linux tells.)"""
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            for pid in children.read_text().split():
                os.kill(int(pid), signal.SIGTERM)


def leave_with_parent() -> None:
    """In a worker process, first: end when the process that started it has ended, however it did, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def parser(file: str, doc: str | None, **options: Any) -> ArgumentParser:
    """The parser of the script at `file` (its `__file__`), with its docstring as the help.

    options: of ArgumentParser. What it parses has `script`, the script's path in the repository, beside the flags.
    """
    path = Path(file)
    built = ArgumentParser(prog=path.name, description=doc, formatter_class=RawDescriptionHelpFormatter, **options)
    built.set_defaults(script=f"{path.resolve().parent.name}/{path.name}")
    return built


def stage_parser(file: str, doc: str | None, source: str = "SOURCE", target: str = "TARGET") -> ArgumentParser:
    """The parser of a stage, which reads one folder and writes another: with SOURCE, TARGET and --overwrite."""
    built = parser(file, doc)
    built.add_argument("source", type=Path, metavar=source)
    built.add_argument("target", type=Path, metavar=target)
    built.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")
    return built


def add_json(parser: ArgumentParser) -> None:
    """The flag of a benchmark whose result can be kept."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")


def options(kind: type[Options], args: Namespace) -> Options:
    """An options dataclass from the flags that bear its fields' names."""
    return kind(**{field.name: getattr(args, field.name) for field in fields(kind)})  # type: ignore[arg-type]


def execute(work: Callable[[Namespace], int | None], parser: ArgumentParser, argv: Sequence[str] | None) -> int:
    """Parse, run, and turn an error of the user's into one clear line and exit code 2, a failed gate into 1.

    argv: the words after the script's name; None for those of this process. `work` gets what was parsed and, as `command`,
    all words of the command line: what a result says that it was made by. It returns an exit code, or None for 0.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_intermixed_args(arguments)  # an option may stand between two positional arguments
    args.command = ["python", getattr(args, "script", parser.prog), *arguments]
    try:
        with stoppable(), read_to_the_end():
            return work(args) or 0
    except GateFailed as failure:
        print(f"{parser.prog}: gate failed: {failure}", file=sys.stderr)
        return 1
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        resumes = "; what was done is saved beside its target, go on with --resume" if "resume" in args else ""
        print(f"{parser.prog}: stopped{resumes}", file=sys.stderr)
        return code_of(stop)


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table for people."""
    from tabulate import tabulate  # a command that prints none does not wait for it

    if first_process():
        print(f"\n{title}")
        print(tabulate([dict(row) for row in rows], headers="keys", floatfmt=".3f", intfmt=",", missingval="-"))


def finish(title: str, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Print the table for people, then the one JSON line for programs, which is always the last."""
    if not first_process():
        return
    table(title, rows)
    print(json.dumps(dict(summary)), flush=True)

"""Stages run one after another, as a user would type them, and the options that several chains share."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import Any

from faceeraser.system.history import read_history
from faceeraser.system.script import GateFailed

# The objectives of the mobile preset, as words of train.py; of a flag that is given twice the last one counts.
FOR_COLOUR = ("--perceptual", "off", "--clone", "0")
FOR_COPIES = (
    "--perceptual",
    "filterbank",
    "--perceptual-weight",
    "0",
    "--style",
    "0",
    "--l1",
    "0",
    "--clone",
    "0",
    "--shading",
    "1",
    "--texture",
    "0.3",
    "--landing",
    "0.3",
    "--coherence",
    "0.1",
    "--real",
    "0.3",
)
TRAINING = ("train/train.py", *(f"compress/{name}.py" for name in ("prune", "slim", "distil", "quantize")))


def trained_already(command: Sequence[str], data: Mapping[str, Any]) -> bool:
    """Whether a planned command of train.py (the words after `python`) has been run: its TARGET is there, made from the same
    pairs (`data`: data.json) with the same options.

    Raises:
        ValueError: TARGET is there and was trained otherwise, so that one table would hold two kinds of runs.
    """
    folder = Path(command[2])
    if not folder.exists():
        return False
    entry = read_history(folder)[-1]
    named = {
        "--steps": "steps",
        "--batch": "batch",
        "--lr": "lr",
        "--seed": "seed",
        "--width": "width",
        "--size": "size",
        "--perceptual": "features",
        "--clone": "clone",
    }
    asked = {flag: command[command.index(flag) + 1] for flag in named if flag in command}
    trained = {flag: entry["options"].get(named[flag]) for flag in asked}
    wrong = [flag for flag, value in trained.items() if value is None or type(value)(asked[flag]) != value]
    if wrong:
        reason = f"was trained with {wrong[0]} {trained[wrong[0]]}, and {asked[wrong[0]]} is asked for"
    elif (entry["data"] or {}).get("sha256") != data.get("sha256"):
        reason = "was trained on other pairs"
    else:
        return True
    raise ValueError(f"{folder}: {reason}; name another --target, or remove it to train it again")


def run_all(plan: Sequence[Sequence[str]], root: Path, independent: bool = False) -> list[dict[str, Any]]:
    """Run command lines of this toolkit one after another, each printed as `$ python ...`: what each took, in seconds.

    plan: the words after `python`, the script relative to `root` first; neighbours under export/ run side by side.
    Where there are two cores, stages that train run as two processes with half a batch each (of --batch, or 8) rather than
    as one with two threads: as fast on free cores, and far faster on busy ones, where a thread that waits for the other
    spins (0.3 against 0.3-20 s a step).
    independent: no command needs another, so two of them run at a time, each on a core of its own and with 8 pictures.

    Raises:
        GateFailed: a command ended with another exit code than 0.
    """
    began = time.monotonic()
    cores = os.cpu_count() or 1
    processes = min(2, cores)
    threads = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores // processes))}
    parallel = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]

    def do(command: Sequence[str], quiet: bool) -> tuple[int, float, str]:
        """Run one command: its exit code, its seconds and, when quiet, what it printed."""
        at = time.monotonic()
        trains = command[0] in TRAINING
        split = trains and not independent and processes > 1
        line = [sys.executable, *(parallel if split else []), str(root / command[0]), *command[1:]]
        if split:
            whole = int(command[command.index("--batch") + 1]) if "--batch" in command else 8
            line += ["--batch", str(max(1, whole // processes))]
        pipe = subprocess.PIPE if quiet else None
        env = threads if trains or quiet else None
        errors = subprocess.STDOUT if quiet else None
        done = subprocess.run(line, env=env, check=False, text=True, stdout=pipe, stderr=errors)
        return done.returncode, round(time.monotonic() - at, 1), done.stdout or ""

    taken: list[dict[str, Any]] = []
    position = 0
    while position < len(plan):
        # Exports do not need one another and use one core each; everything else takes its turn.
        exports = list(takewhile(lambda command: command[0].startswith("export/"), plan[position:]))
        group = list(plan) if independent else exports or [plan[position]]
        for number, command in enumerate(group, position + 1):
            print(f"\n[{number}/{len(plan)}, {time.monotonic() - began:.0f} s] $ python {shlex.join(command)}", flush=True)
        with ThreadPoolExecutor(processes) as pool:
            quiet = [len(group) > 1] * len(group)
            for command, (code, spent, printed) in zip(group, pool.map(do, group, quiet), strict=True):
                if printed:
                    print(f"\n$ python {shlex.join(command)}\n{printed}", flush=True)
                taken.append({"step": command[0], "seconds": spent})
                if code:
                    raise GateFailed(f"`{command[0]}` ended with exit code {code}; its own message is above")
        position += len(group)
    return taken

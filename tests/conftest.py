"""What several tests start from: generated skin, and the stages' scripts called as a user calls them."""

import contextlib
import ctypes
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from faceeraser.face import landmark_models
from faceeraser.system.script import GateFailed

ROOT = Path(__file__).resolve().parent.parent


BECOME_THE_PARENT_OF_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER of <linux/prctl.h>


def pytest_configure(config: pytest.Config) -> None:
    """What a test's process leaves behind when it ends, torchrun's workers say, becomes a child of this one."""
    if not hasattr(config, "workerinput") and sys.platform == "linux":
        ctypes.CDLL(None).prctl(BECOME_THE_PARENT_OF_ORPHANS, 1, 0, 0, 0)
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """However the suite ended, nothing that it started goes on."""
    if not hasattr(config, "workerinput") and sys.platform == "linux":
        for process in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)


def descendants(process: int) -> Iterator[int]:
    """The processes that a process has started, those below first."""
    children = [int(word) for path in Path(f"/proc/{process}/task").glob("*/children") for word in path.read_text().split()]
    for child in children:
        with contextlib.suppress(OSError):
            yield from descendants(child)
        yield child


def script(path: str) -> ModuleType:
    """A stage's script, `train/train.py` say, as a module. Scripts live in folders that are not packages."""
    name = "script_" + path.replace("/", "_").removesuffix(".py")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def run_script() -> Callable[..., int]:
    """`stage("train/train.py", *words)` runs a script's main and returns its exit code."""

    def run(path: str, *arguments: object) -> int:
        return script(path).main([str(w) for w in arguments])

    return run


@pytest.fixture(scope="module")
def short_canny() -> Iterator[None]:
    """Four steps of edge tracking, not 48: conversion takes as long as the graph has operators."""
    from faceeraser.artifacts import edges
    from faceeraser.model import networks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "canny_tensor", partial(edges.canny_tensor, hysteresis_steps=4))
        yield


@pytest.fixture(scope="module")
def stages_here() -> Iterator[None]:
    """A chain's commands are run in this process, which has everything imported, and not each in a new one."""
    from faceeraser.system import chain

    def run_all(plan: Sequence[Sequence[str]], root: Path, independent: bool = False) -> list[dict[str, Any]]:
        for path, *words in plan:
            print(f"$ python {shlex.join([path, *words])}", flush=True)
            if code := script(path).main(list(words)):
                raise GateFailed(f"`{path}` ended with exit code {code}")
        return [{"step": words[0], "seconds": 0.0} for words in plan]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "run_all", run_all)
        yield


@pytest.fixture(scope="session")
def landmarks() -> None:
    """The landmark models are in the cache; else the test skips visibly, or fails under FACEERASER_NO_SKIP=1."""
    try:
        landmark_models.fetch()
    except FileNotFoundError as error:
        if os.environ.get("FACEERASER_NO_SKIP") == "1":
            raise
        pytest.skip(f"the landmark models cannot be had: {error}")


@pytest.fixture(scope="session")
def resampler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin for the operator Resampler, built; without a compiler a visible skip, or a failure under NO_SKIP."""
    target = tmp_path_factory.mktemp("plugin") / "resampler.so"
    arguments = ["bash", str(ROOT / "export" / "build_resampler.sh"), str(target)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        no_compiler = "install g++" in done.stderr and os.environ.get("FACEERASER_NO_SKIP") != "1"
        (pytest.skip if no_compiler else pytest.fail)(done.stderr.strip())
    return target


@pytest.fixture(scope="session")
def skin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of generated skin at 64 px: 32 training and 8 validation pictures."""
    folder = tmp_path_factory.mktemp("prepared") / "skin"
    arguments = [str(folder), "--source", "synthetic", "--size", "64", "--limit", "40", "--workers", "1"]
    assert script("train/prepare.py").main(arguments) == 0
    return folder

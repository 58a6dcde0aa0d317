"""Loading an untrusted model file, first in a child process, which may crash.

    trial.check(Path("somebodys.tflite"))

A damaged .tflite can crash the process of the interpreter, which is C++ and trusts the file. If the file has a card with its
sha256, no trial is needed. Any other file is first loaded and run once in a child process.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

PATIENCE_S = 120
"""For loading it and running it once."""
MOST_BYTES = 4 << 30
"""Of memory that the child may ask for."""

_PROGRAM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
path = sys.argv[1]
if path.endswith(".onnx"):
    import onnxruntime
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
else:
    from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.invoke()
""".replace("MOST", str(MOST_BYTES))


def check(path: Path) -> None:
    """Raises ValueError when a .tflite or .onnx file ends the process that loads it, or takes longer than `PATIENCE_S`.

    What its runtime merely refuses passes: that is told by whoever loads it next. A system without such limits (Windows) is
    trusted with the file.
    """
    if sys.platform != "win32" and path.suffix in (".tflite", ".onnx"):
        facts = path.stat()
        if why := _tried(str(path), facts.st_mtime_ns, facts.st_size):
            raise ValueError(f"{path}: {why}")


@cache
def _tried(path: str, _time: int, _size: int) -> str:
    command = [sys.executable, "-c", _PROGRAM, path]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return f"loading it takes more than {PATIENCE_S} s; {_THEREFORE}"
    return explain(done.returncode) if done.returncode < 0 else ""


_THEREFORE = "it is damaged or not a model; export it again"


def explain(status: int) -> str:
    """Why a process that was to load and run a file ended, by its exit status, in words for a line."""
    how = f"ends the process that loads it (signal {-status})" if status < 0 else f"its process ended with {status}"
    return f"{how}; {_THEREFORE}" if status < 0 else how

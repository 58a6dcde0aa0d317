"""The second environment, for what needs numpy 1: tflite-runtime, and TensorFlow 2.15's check of what a GPU takes."""

from __future__ import annotations

from pathlib import Path

PYTHON = Path(".venv-legacy/bin/python")  # `make legacy` makes it


def find_python(given: Path | None = None) -> Path | None:
    """Its Python: as given (--legacy-python), else PYTHON here or beside this package's folder; None if there is none.

    Raises:
        ValueError: what was given is no file.
    """
    if given is not None:
        if not given.is_file():
            raise ValueError(f"--legacy-python {given}: no such file; expected a Python, such as `make legacy` makes")
        return given.absolute()
    places = (Path.cwd() / PYTHON, Path(__file__).resolve().parents[2] / PYTHON)
    return next((place for place in places if place.is_file()), None)

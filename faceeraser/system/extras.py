"""Optional packages: imported where they are used; if one is missing, the error names the extra to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


@contextmanager
def needed_for(what: str, extra: str) -> Iterator[None]:
    """Around imports that `what` ("running an .onnx file", say) needs and the extra of that name installs.

    Raises:
        ModuleNotFoundError: a package is missing, or does not load; the message names it, what needs it and the command
            that installs it.
    """
    try:
        yield
    except ImportError as error:
        name = (error.name or str(error)).split(".")[0]
        if name == "faceeraser":  # a mistake of ours, which no installation mends
            raise
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"does not load ({error})"
        message = f"{name} {reason}, which {what} needs: pip install 'faceeraser[{extra}]'"
        raise ModuleNotFoundError(message, name=name) from None


def need(module: str, extra: str, what: str) -> Any:
    """The optional module of that name, imported. Raises ModuleNotFoundError as `needed_for` does."""
    with needed_for(what, extra):
        return import_module(module)

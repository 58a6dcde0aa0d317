"""Train, compress, export and measure a face-erasing network; erase photographs with what it exports.

    eraser = faceeraser.load("exports/int8.tflite")
    erased = eraser.erase(crop_u8, mask_u8)

Importing the package loads neither torch nor TensorFlow nor even numpy: each is imported when something asks for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceeraser.artifact import Artifact
    from faceeraser.networks import FaceEraser

__version__ = "0.1.0"
__all__ = ["WEIGHTS", "FaceEraser", "__version__", "load"]

WEIGHTS = Path(__file__).resolve().parent / "weights"
"""What comes with the package: two checkpoint folders, fp32 and plan, the files exported from them, and MODEL_CARD.md."""


def load(path: str | Path) -> Artifact | FaceEraser:
    """An exported file (.tflite, .onnx, .mlpackage) as an `artifact.Artifact`, a checkpoint folder as a `FaceEraser`.

    Raises:
        FileNotFoundError: there is nothing at `path`, or an exported file's card is missing.
        ValueError: what is there is neither, or is damaged.
        ModuleNotFoundError: the runtime of the file, or torch for a checkpoint, is not installed; names the extra.
    """
    from faceeraser.artifact import KINDS, Artifact
    from faceeraser.extras import needed_for

    path = Path(path)
    if path.suffix not in KINDS:
        endings = ", ".join(KINDS)
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: no such file or folder; expected a checkpoint folder, or a file ending in {endings}"
            )
        if path.is_dir():
            with needed_for("a checkpoint folder", "train"):
                from faceeraser import checkpoint
            return checkpoint.load(path)
    return Artifact(path)


def __getattr__(name: str) -> Any:
    if name == "FaceEraser":
        from faceeraser.extras import needed_for

        with needed_for("faceeraser.FaceEraser", "train"):
            from faceeraser.networks import FaceEraser
        return FaceEraser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

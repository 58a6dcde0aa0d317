"""Erase the parts of faces; train, compress, export and measure the network that does it.

    import faceeraser

    erased = faceeraser.load().erase(image)

`image` is (H, W, 3) uint8 RGB, and so is the result. Importing the package loads neither torch nor TensorFlow, nor even
numpy; each is imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceeraser.face.profiles import FEATURES
from faceeraser.shipped import VERSION as __version__
from faceeraser.shipped import WEIGHTS

if TYPE_CHECKING:
    import torch

    from faceeraser.artifacts.artifact import Artifact
    from faceeraser.conversion.formats import Format
    from faceeraser.erasing import Erased, Eraser
    from faceeraser.model.networks import FaceEraser, Inpainter
    from faceeraser.model.quality import Fidelity, fidelity
    from faceeraser.training.distilling import Distilling, distil
    from faceeraser.training.pruning import Pruning, prune
    from faceeraser.training.quantizing import Quantizing, quantize
    from faceeraser.training.slimming import Slimming, slim

__all__ = [
    "WEIGHTS",
    "Artifact",
    "Distilling",
    "Erased",
    "Eraser",
    "FaceEraser",
    "Fidelity",
    "Pruning",
    "Quantizing",
    "Slimming",
    "__version__",
    "distil",
    "export",
    "fidelity",
    "load",
    "load_checkpoint",
    "prune",
    "quantize",
    "slim",
]

# Names that are imported on first use, each with its module and the extra that it needs.
_LATE = {
    "Artifact": ("artifacts.artifact", None),
    "Erased": ("erasing", None),
    "Eraser": ("erasing", None),
    "FaceEraser": ("model.networks", "train"),
    "Inpainter": ("model.networks", "train"),
    "prune": ("training.pruning", "train"),
    "Pruning": ("training.pruning", "train"),
    "slim": ("training.slimming", "train"),
    "Slimming": ("training.slimming", "train"),
    "quantize": ("training.quantizing", "train"),
    "Quantizing": ("training.quantizing", "train"),
    "distil": ("training.distilling", "train"),
    "Distilling": ("training.distilling", "train"),
    "fidelity": ("model.quality", None),
    "Fidelity": ("model.quality", None),
}


def load(
    model: str | Path | None = None,
    parts: Sequence[str] = FEATURES,
    glasses: str = "auto",
    *,
    front: str = "keep",
    most: int | None = None,
    runtime: str | None = None,
    delegate: str | Path | None = None,
    workers: int = 1,
) -> Eraser:
    """Load a model that erases: `erase` for whole photographs, `frames` for a video, `erase_crop` for a crop.

    Args:
        model: an exported file (.tflite, .onnx, .mlpackage) with its card, or a checkpoint folder (which needs torch). None
            is the file that comes with the package.
        parts: what to erase, any of brows, eyes, nose and mouth.
        glasses: 'on', 'off', or 'auto': erased with the eyes where a face seems to wear some.
        front: 'keep' what hangs in front of the parts (hair, hands, objects), or 'erase' it with them.
        most: erase only this many of the largest faces in a picture; None erases all.
        runtime: for .tflite, one of `runtimes.TFLITE_RUNTIMES`.
        delegate: for .tflite, a plugin that runs part of the file.
        workers: number of video frames erased at the same time, each on one thread.

    Raises:
        FileNotFoundError: there is nothing at `model`, or an exported file's card is missing.
        ValueError: what is there is neither of the two, or is damaged.
        ModuleNotFoundError: the file's runtime, or torch for a checkpoint, is not installed; names the extra.
    """
    from faceeraser.erasing import Eraser

    return Eraser(model, parts, glasses, front=front, most=most, runtime=runtime, delegate=delegate, workers=workers)


def load_checkpoint(path: str | Path) -> Inpainter:
    """Load the network of a checkpoint folder, in eval mode: a torch module that takes an image and a mask.

    Raises:
        ValueError: the folder is not a checkpoint, or is damaged.
        ModuleNotFoundError: torch is not installed; names the extra.
    """
    from faceeraser.system.extras import needed_for

    with needed_for("a checkpoint folder", "train"):
        from faceeraser.model import checkpoint
    return checkpoint.load(path)


def export(
    network: torch.nn.Module | str | Path,
    inputs: Mapping[str, torch.Tensor] | Sequence[Mapping[str, torch.Tensor]] | None,
    target: str | Path,
    format: Format | None = None,
    *,
    overwrite: bool = False,
    **about: Any,
) -> dict[str, Any]:
    """Export a network as a file with its card into the folder `target`, if it passes its gate; return the card.

    Args:
        network: any torch module (docs/any-network.md), whose `F.grid_sample`s are found and written exactly; or a
            checkpoint folder.
        inputs: for a module, one or more samples of its inputs by name, on which the file is compared with it; None for a
            checkpoint folder.
        target: folder for exported files; made if needed.
        format: the format and its options: tflite.TFLite, onnx.ONNX or coreml.CoreML; by default TFLite(flavour="web").
        overwrite: replace a file that is there.
        about: `name`, the file's name; for a module also `ranges`, the (smallest, largest) values of its inputs by name.

    Raises:
        ValueError: the inputs do not fit, the network cannot be followed, or a warp cannot be written exactly.
        GateFailed: the file does not compute what the network does; nothing was published.
        ModuleNotFoundError: a converter is not installed; names the extra.
    """
    from faceeraser.system.extras import needed_for

    with needed_for("exporting a network", "train"):
        from faceeraser.conversion import convert
    format = format or convert.TFLite(flavour="web")
    if isinstance(network, str | Path):
        return convert.export(network, target, format, overwrite=overwrite, **about)
    return convert.export_module(convert.AnyNetwork.of(network, inputs or {}, **about), target, format, overwrite=overwrite)


if not TYPE_CHECKING:  # a type checker sees the names above, and an error in any other

    def __getattr__(name: str) -> Any:
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, extra = _LATE[name]
        if extra is None:
            return getattr(import_module(f"faceeraser.{module}"), name)
        from faceeraser.system.extras import needed_for

        with needed_for(f"faceeraser.{name}", extra):
            return getattr(import_module(f"faceeraser.{module}"), name)

"""An exported face eraser, ready to run.

    erased = Artifact("exports/int8.tflite").erase(image_u8, mask_u8)

`run(image, mask)` is the same for every runtime. The order, layout, type and quantization of the inputs are read from the
file itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from faceeraser.artifacts.card import card_path, read_card
from faceeraser.artifacts.painting import LUMA
from faceeraser.artifacts.runtimes import Port, load_model
from faceeraser.system import trial

PLAN_OUTPUTS = ("skin", "shading", "sources")
"""Outputs of a file that only plans."""


def _roles(path: Path, ports: Sequence[Port]) -> list[str]:
    """What each input is: 'image', 'mask' or 'edges', in the model's own order."""
    roles = []
    single = [port for port in ports if port.channels == 1]
    for port in ports:
        if port.channels == 3:
            roles.append("image")
        elif port.channels == 1:
            # One single-channel input is the mask whatever it is called; of two, the name has to tell.
            roles.append("edges" if len(single) > 1 and "edge" in port.name.lower() else "mask")
    if sorted(roles) not in (["image", "mask"], ["edges", "image", "mask"]) or len(roles) != len(ports):
        listed = ", ".join(f"{port.name} {port.shape}" for port in ports)
        raise ValueError(f"{path}: its inputs are {listed}; expected an image, a mask and perhaps 'edges'")
    return roles


class Artifact:
    """An exported face eraser, ready to run: file and card are checked, the runtime is loaded.

    `card` is the card; `resolution` is the (height, width) that the file takes, None where it takes any; `wants_edges` says
    whether edges are an input (they are then computed by `edges.py`).

    Raises FileNotFoundError, ValueError (file, card or inputs are not as expected) or
    ModuleNotFoundError (names the extra to install).
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        runtime: str | None = None,
        delegate: str | Path | None = None,
    ) -> None:
        """`threads`: CPU threads, all by default. For .tflite, `runtime`: one of `TFLITE_RUNTIMES`; `delegate`: a plugin.

        A file with the operator Resampler needs the one that `bash export/build_resampler.sh resampler.so` makes.
        """
        self.path = Path(path)
        self.card = read_card(self.path)
        if "network" in self.card:
            raise ValueError(
                f"{self.path}: is {self.card['network']['name']}, not a face eraser; run it with its own runtime"
            )
        if not card_path(self.path).is_file():
            trial.check(self.path)
        self._model = load_model(self.path, threads or os.cpu_count() or 1, runtime, Path(delegate) if delegate else None)
        self._roles = _roles(self.path, self._model.inputs)
        pictures = [port for port in self._model.outputs if port.channels == 3]
        named = [port for port in pictures if "erased" in port.name.lower()] or pictures
        self.plans = set(PLAN_OUTPUTS) <= {port.name for port in self._model.outputs} and "erased" not in named[0].name
        if len(named) != 1:
            listed = ", ".join(f"{port.name} {port.shape}" for port in self._model.outputs)
            raise ValueError(f"{self.path}: its outputs are {listed}; expected one picture, or one named 'erased'")
        self._erased = -1 if self.plans else self._model.outputs.index(named[0])
        self.wants_edges = "edges" in self._roles
        if self.wants_edges != (self.card["edges"] == "input"):
            raise ValueError(
                f"{self.path}: the card says edges are {self.card['edges']!r}, "
                f"the file has {'an' if self.wants_edges else 'no'} input for them; export again"
            )

    @property
    def resolution(self) -> tuple[int | None, int | None]:
        """Height and width in pixels; None where the file takes any."""
        return self._model.inputs[self._roles.index("image")].size

    def run(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Erase, with float32 RGB in [0, 1] in and out.

        `image` (H, W, 3) with `mask` (H, W) or (H, W, 1), or (N, H, W, 3) with (N, H, W) or (N, H, W, 1); 1 = erase.
        Returns the image's shape. Raises ValueError for other shapes, sizes or ranges; RuntimeError for CoreML anywhere
        but on macOS.
        """
        image, mask = np.asarray(image), np.asarray(mask)
        for name, values in (("image", image), ("mask", mask)):
            if values.size and not (values.min() >= 0 and values.max() <= 1):
                raise ValueError(
                    f"{name} has values from {values.min()} to {values.max()}; expected [0, 1] (8 bits: `erase`)"
                )
        return self._painted(image, mask)

    def outputs(self, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        """All outputs of the file for one picture, by name, as float32 (h, w, channels). Inputs and errors are those of
        `run`.
        """
        pictures, masks = self._checked(np.asarray(image), np.asarray(mask))
        values = self._values(pictures[:1], masks[:1])
        given = self._packed(values, self._at_once or 1)
        return {p.name: p.unpack(value)[0] for p, value in zip(self._model.outputs, self._model(given), strict=True)}

    def plan(self, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        """For a file that only plans (`plans`): `skin`, `shading` and `sources`, as `painting.paint_by_plan` takes them,
        for a picture (H, W, 3) uint8 and a mask (H, W), any non-zero = erase. Errors are those of `run`.
        """
        return self.outputs(np.divide(image, np.float32(255), dtype=np.float32), (np.asarray(mask) > 0).astype(np.float32))

    def _values(self, pictures: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
        """What goes in, by role."""
        return {"image": pictures, "mask": masks, **({"edges": _edges(pictures, masks)} if self.wants_edges else {})}

    def _painted(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """`run`, once the ranges are known."""
        if self.plans:
            raise ValueError(f"{self.path}: makes plans but does not paint; erase whole photographs with it")
        pictures, masks = self._checked(image, mask)
        values = self._values(pictures, masks)
        step = max(self._at_once or len(pictures), 1)
        erased = np.empty_like(pictures)
        for start in range(0, len(pictures), step):
            part = slice(start, start + step)
            given = self._packed({role: value[part] for role, value in values.items()}, step)
            painted = self._model.outputs[self._erased].unpack(self._model(given)[self._erased])
            erased[part] = painted[: len(pictures[part])]
        return erased if image.ndim == 4 else erased[0]

    @property
    def _at_once(self) -> int | None:
        """Pictures that the file takes at once; None where it takes any number."""
        ports = self._model.inputs
        return None if all(port.batched for port in ports) else max(port.shape[0] or 1 for port in ports)

    def _packed(self, values: Mapping[str, np.ndarray], number: int) -> list[np.ndarray]:
        """Values by role as the model's inputs, of so many pictures: the last one again where there are fewer."""
        filled = {
            role: np.concatenate([x, np.repeat(x[-1:], number - len(x), 0)]) if len(x) < number else x
            for role, x in values.items()
        }
        return [port.pack(filled[role]) for port, role in zip(self._model.inputs, self._roles, strict=True)]

    def _checked(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both as float32 (N, H, W, C), or ValueError."""
        if image.ndim not in (3, 4) or image.shape[-1] != 3:
            raise ValueError(f"image has shape {image.shape}; expected (H, W, 3) or (N, H, W, 3)")
        if mask.shape not in (image.shape[:-1], (*image.shape[:-1], 1)):
            raise ValueError(f"mask has shape {mask.shape}; expected {image.shape[:-1]}, the image's")
        for wanted, length, side in zip(self.resolution, image.shape[-3:-1], ("high", "wide"), strict=True):
            if wanted is not None and length != wanted:
                raise ValueError(f"image is {length} pixels {side}; {self.path.name} takes {wanted}: resize it first")
        if allowed := self.card.get("sizes"):
            self._check_size(image.shape[-3:-1], allowed)
        image = image if image.ndim == 4 else image[None]
        return image.astype(np.float32, copy=False), mask.reshape(*image.shape[:3], 1).astype(np.float32, copy=False)

    def _check_size(self, size: Sequence[int], allowed: Mapping[str, int]) -> None:
        """Of a file that takes any size its card allows. Raises ValueError for another."""
        step, least, most = (allowed[name] for name in ("multiple_of", "min", "max"))
        if any(side % step or not least <= side <= most for side in size):
            raise ValueError(
                f"image is {size[1]} x {size[0]} pixels; {self.path.name} takes multiples of {step} from {least} to {most}: "
                "resize or pad it first"
            )

    def erase(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """`run` for 8-bit pictures: uint8 (H, W, 3) RGB and a mask, any non-zero = erase; returns uint8 (H, W, 3).

        Pixels outside the mask come back exactly as they went in. Shapes and errors are those of `run`.
        """
        if image.dtype != np.uint8:
            raise ValueError(f"image is {image.dtype}; expected uint8 (for float pictures: `run`)")
        hole = np.asarray(mask) > 0
        painted = self._painted(np.divide(image, np.float32(255), dtype=np.float32), hole.astype(np.float32))
        painted = np.rint(np.multiply(painted, 255, out=painted), out=painted).clip(0, 255, out=painted)
        return np.where(hole.reshape(*image.shape[:-1], 1), painted.astype(np.uint8), image)


def _edges(pictures: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The edge maps of (N, H, W, 3) pictures outside their masks (N, H, W, 1), as float32 (N, H, W, 1)."""
    from faceeraser.artifacts import edges

    grey = pictures @ np.array(LUMA, np.float32)
    maps = [edges.canny(g, m[..., 0]) for g, m in zip(grey, masks, strict=True)]
    return np.asarray(maps, np.float32).reshape(masks.shape)

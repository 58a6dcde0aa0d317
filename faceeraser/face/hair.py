"""Where hair is, by MediaPipe's hair segmentation: a teacher for the labels that networks of ours are trained on.

    hair = HairTeacher("models/hair_segmentation.tflite").around(photograph, matrix, 256)

The model (Apache-2.0; 0.8 MB, 20 to 60 ms on a core) is not part of this package. It knows heads with their surroundings: on
crops of bare faces it took half of grey-haired people's faces for hair, and on crops 1.6 times as wide none of them. There
it is exact to a pixel or three at temples and fringes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from faceeraser.face.crops import cut

SHA256 = "d2c940c4fd80edeaf38f5d7387d1b4235ee320ed120080df67c663e749e77633"
_SIDE = 512
WIDER = 1.6
"""How many crops across what the model looks at is."""


class HairTeacher:
    """The model, loaded: `teacher(picture)` for a picture (H, W, 3) uint8 RGB gives (H, W) float32, how surely it is
    hair.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises ValueError when the file is missing or is not the one that is meant."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"{path}: no such file; expected MediaPipe's hair_segmentation.tflite")
        if (digest := hashlib.sha256(path.read_bytes()).hexdigest()) != SHA256:
            raise ValueError(f"{path}: sha256 is {digest[:12]}..., expected {SHA256[:12]}..., hair_segmentation.tflite's")
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=str(path), num_threads=1)
        self._interpreter.allocate_tensors()

    def around(self, image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
        """How surely what a crop shows is hair, by a look at its surroundings and one at their mirror image.

        Args:
            image: (H, W, 3) uint8 RGB, a photograph.
            matrix: 2x3, photograph to crop coordinates.
            size: edge of the crop in pixels.

        Returns:
            (size, size) float32 in [0, 1].
        """
        scale = _SIDE / (WIDER * size)
        to_wide = np.array([[scale, 0.0], [0.0, scale]])
        shift = (_SIDE - 1) / 2 - scale * (size - 1) / 2
        wide = cut(image, np.hstack([to_wide @ matrix[:, :2], (scale * matrix[:, 2] + shift)[:, None]]), (_SIDE, _SIDE))
        hair = (self(wide) + self(np.ascontiguousarray(wide[:, ::-1]))[:, ::-1]) / 2
        back = np.array([[scale, 0.0, shift], [0.0, scale, shift]])
        return cv2.warpAffine(hair, back, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        given = np.zeros((1, _SIDE, _SIDE, 4), np.float32)  # the fourth plane is the mask of a frame before; there is none
        given[0, ..., :3] = cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR) / np.float32(255)
        self._interpreter.set_tensor(self._interpreter.get_input_details()[0]["index"], given)
        self._interpreter.invoke()
        logits = self._interpreter.get_tensor(self._interpreter.get_output_details()[0]["index"])[0]
        hair = 1 / (1 + np.exp(np.clip(logits[..., 0] - logits[..., 1], -50, 50)))
        return cv2.resize(hair.astype(np.float32), picture.shape[1::-1], interpolation=cv2.INTER_AREA)

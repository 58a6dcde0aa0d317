"""What hangs in front of a face and stays: the network of occlusion.py as a file, and what it does to a mask.

    front = Occluders()(crop)
    mask, share = trimmed(mask, front)

Hair, hands and objects in front of the face are removed from the mask before anything is erased. At their edge, which is
strands and not a line, what is painted fades out over the occluder, so that no lobe of skin lies on hair; and it fades out
over a few pixels of what lies beside the mask.
"""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np

from faceeraser import shipped

SIDE = 128
"""Edge in pixels of what the network sees and says."""
IN_FRONT, WHOLLY = 0.5, 0.9
"""From what on something is in front, and so surely that nothing is painted over it."""
FADES = 3 / 256
"""Of the crop's side, over which paint fades out beside the mask: at temples, where shadow or hair begins, a hard end looks
like the rim of a mask. looks.py's `step` is larger so (0.72, hard 0.57); the eye prefers it (docs/results.md).
"""


class Occluders:
    """The network, loaded: `occluders(crop)` for a crop (R, R, 3) uint8 RGB gives (128, 128) float32, how surely each pixel
    is in front of the face. Calls are serialized: an interpreter holds its tensors.
    """

    def __init__(self, path: Path = shipped.OCCLUSION_FILE) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._lock = threading.Lock()
        self._interpreter = Interpreter(str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        self._input, self._output = (
            details[0]["index"]
            for details in (self._interpreter.get_input_details(), self._interpreter.get_output_details())
        )

    def __call__(self, crop: np.ndarray) -> np.ndarray:
        small = cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA) if len(crop) != SIDE else crop
        with self._lock:
            self._interpreter.set_tensor(self._input, small[None].astype(np.float32) / np.float32(255))
            self._interpreter.invoke()
            said: np.ndarray = self._interpreter.get_tensor(self._output)
        return said.reshape(SIDE, SIDE)


def trimmed(mask: np.ndarray, front: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A mask without what is in front of it, and how much is painted on that.

    Args:
        mask: (R, R) bool, true = erase.
        front: (128, 128) in [0, 1], from `Occluders`, of the same crop. What does not hang together with something
            outside the mask is a highlight, a nostril or a mark, and no occluder.

    Returns:
        The mask where nothing is in front, (R, R) bool; and (R, R) float32 in [0, 1], the share that what is painted has
        of a pixel: 1 in that mask, less and less in what the mask has lost and beside it, 0 where something is surely in
        front.
    """
    there = cv2.resize(_reaching_in(front, mask), mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    bare = mask & (there <= IN_FRONT)
    if not bare.any():
        return bare, np.zeros(mask.shape, np.float32)
    over = np.clip((WHOLLY - there) / (WHOLLY - IN_FRONT), 0, 1)
    away = cv2.distanceTransform((~bare).astype(np.uint8), cv2.DIST_L2, 5)
    beside = np.clip(1 - away / (FADES * len(mask)), 0, 1) * np.clip(1 - there / IN_FRONT, 0, 1)
    return bare, np.where(bare, 1, np.where(mask, over, beside)).astype(np.float32)


def _reaching_in(front: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`front` without what lies wholly inside the mask."""
    outside = cv2.resize(mask.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA) < 0.5
    sure = front > IN_FRONT
    count, labels = cv2.connectedComponents(sure.astype(np.uint8), connectivity=8)
    kept = np.bincount(labels[outside], minlength=count) > 0
    kept[0] = True  # what is not in front is as it was
    return np.where(kept[labels], front, np.float32(0))

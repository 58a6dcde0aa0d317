"""Contact sheets of a prepared folder: the accepted photographs with their blank faces, and the rejected ones."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from faceeraser.face.crops import cut
from faceeraser.face.mesh import OVAL, Face, transform
from faceeraser.training.blanks import Forehead

SIDE = 128
"""Pixels along the side of a small picture."""
COLUMNS, ROWS = 8, 8
_CAPTION = 26


def thumbnail(image: np.ndarray, face: Face | None, forehead: Forehead | None) -> np.ndarray:
    """A small picture of a photograph, (SIDE, SIDE, 3) uint8, with the forehead's rectangle drawn on it."""
    if face is None:
        scale = SIDE / max(image.shape[:2])
        matrix = np.array([[scale, 0, 0], [0, scale, 0]])
    else:
        scale = SIDE / (1.35 * face.width)
        low, high = face.mesh[OVAL].min(0), face.mesh[OVAL].max(0)
        centre = (low + high) / 2 - [0, 0.1 * face.width]
        matrix = np.hstack([np.eye(2) * scale, (SIDE / 2 - scale * centre)[:, None]])
    small = cut(image, matrix, (SIDE, SIDE))
    if forehead is not None and forehead.box is not None:
        left, top, right, bottom = forehead.box
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)
        there = transform(matrix, transform(cv2.invertAffineTransform(forehead.patch_matrix), corners))
        cv2.polylines(small, [np.round(there).astype(np.int32)], True, (0, 255, 0), 1)
    return small


def cell(pictures: Sequence[np.ndarray], caption: Sequence[str]) -> np.ndarray:
    """Small pictures side by side above two lines of text; without any, a black one."""
    row = np.concatenate(pictures or [np.zeros((SIDE, SIDE, 3), np.uint8)], axis=1)
    row = cv2.copyMakeBorder(row, 0, _CAPTION, 0, 0, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    for number, line in enumerate(caption):
        place = (2, SIDE + 10 + 12 * number)
        cv2.putText(row, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.33, (255, 255, 255), 1, cv2.LINE_AA)
    return row


def sheet(cells: Sequence[np.ndarray], empty: str) -> bytes:
    """The JPEG file of a sheet of cells of one size, or one that says `empty`."""
    group = list(cells)
    if not group:
        blank = np.zeros((SIDE, 4 * SIDE, 3), np.uint8)
        cv2.putText(blank, empty, (20, 70), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 1, cv2.LINE_AA)
        group = [blank]
    columns = max(1, COLUMNS * SIDE // group[0].shape[1])
    group += [np.zeros_like(group[0])] * (-len(group) % min(columns, len(group)))
    columns = min(columns, len(group))
    whole = np.concatenate([np.concatenate(group[k : k + columns], axis=1) for k in range(0, len(group), columns)])
    return cv2.imencode(".jpg", whole[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()

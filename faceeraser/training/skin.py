"""Where an aligned crop of a face shows bare skin: what training may copy from and compare with."""

from __future__ import annotations

import cv2
import numpy as np

from faceeraser.face.mesh import OVAL, Face
from faceeraser.measurement.metrics import lab_of


def bare_skin(crop: np.ndarray, face: Face, parts: np.ndarray) -> np.ndarray:
    """Where an aligned crop (H, W, 3) shows bare skin for certain: (H, W) bool.

    Inside the face's oval, outside its parts, near the smooth surface that fits most of that in L*, a*, b*, and without
    the coarse grain of beard and hair. Skin that is missed costs nothing: it is only learnt from, never erased.
    """
    size = crop.shape[0]
    oval = np.zeros(crop.shape[:2], np.uint8)
    cv2.fillPoly(oval, [np.round(face.mesh[OVAL]).astype(np.int32)], 1)
    region = (cv2.erode(oval, np.ones((size // 32, size // 32), np.uint8)) > 0) & (parts == 0)
    lab = lab_of(cv2.GaussianBlur(crop, (0, 0), size / 170))
    y, x = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y, x**3, x * x * y, x**4], axis=-1)[region]
    values = lab[region].astype(np.float64)
    if len(values) < size:
        return np.zeros(crop.shape[:2], bool)
    weight = np.ones(len(values))
    for _ in range(5):
        weighted = basis * weight[:, None]
        rest = values - basis @ np.linalg.solve(weighted.T @ basis + 1e-6 * np.eye(9), weighted.T @ values)
        weight = 1 / (1 + (rest**2 / [36.0, 16.0, 16.0]).sum(1)) ** 2
    near = np.zeros(crop.shape[:2], bool)
    near[region] = (np.abs(rest[:, 0]) < 14) & (np.hypot(rest[:, 1], rest[:, 2]) < 9)
    light = lab_of(crop)[..., 0]
    grain = cv2.GaussianBlur((light - cv2.GaussianBlur(light, (0, 0), size / 85)) ** 2, (0, 0), size / 64)
    skin = (near & (grain < 3.5**2)).astype(np.uint8)
    skin = cv2.morphologyEx(skin, cv2.MORPH_OPEN, np.ones((7, 7), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(cv2.erode(skin, np.ones((3, 3), np.uint8)))
    areas = stats[:, cv2.CC_STAT_AREA] * (np.arange(len(stats)) > 0)
    return (areas >= 0.1 * max(1, areas.max()))[labels]  # a smooth lock of hair is a small piece beside the cheeks

"""Generated skin and faces, to try the chain without photographs."""

from __future__ import annotations

import math

import cv2
import numpy as np

from faceeraser.face.mesh import LEFT_BROW, LEFT_EYE, LIPS, MESH_POINTS, NOSE_OUTLINE, RIGHT_BROW, RIGHT_EYE, Face

# The mean aligned mesh of 500 frontal faces, in thousandths of the crop, parts only; the left side is the mirror image.
CANONICAL: dict[str, tuple[list[int], list[int]]] = {
    "brow": (
        RIGHT_BROW,
        [171, 249, 208, 215, 265, 196, 337, 199, 417, 207, 429, 257, 344, 231, 278, 228, 228, 240, 193, 266],
    ),
    "eye": (
        RIGHT_EYE,
        [
            238,
            329,
            248,
            324,
            259,
            316,
            279,
            307,
            309,
            301,
            338,
            304,
            367,
            313,
            388,
            327,
            393,
            338,
            389,
            340,
            373,
            343,
            346,
            348,
            317,
            350,
            286,
            347,
            266,
            342,
            251,
            337,
        ],
    ),
    "nose": (
        NOSE_OUTLINE,
        [
            498,
            302,
            454,
            309,
            434,
            349,
            443,
            376,
            443,
            412,
            418,
            469,
            397,
            489,
            386,
            516,
            375,
            533,
            385,
            551,
            396,
            572,
            451,
            583,
            498,
            589,
            545,
            583,
            600,
            572,
            611,
            551,
            621,
            533,
            610,
            516,
            599,
            489,
            578,
            469,
            553,
            412,
            553,
            376,
            562,
            349,
            542,
            309,
        ],
    ),
    "lips": (
        LIPS,
        [
            332,
            695,
            344,
            684,
            368,
            676,
            400,
            665,
            450,
            658,
            498,
            664,
            546,
            658,
            596,
            665,
            628,
            676,
            652,
            684,
            664,
            695,
            646,
            717,
            621,
            739,
            587,
            762,
            545,
            778,
            498,
            782,
            451,
            778,
            409,
            762,
            375,
            739,
            350,
            717,
        ],
    ),
}
# Lab of skin from the darkest to the lightest, chosen to span typology angles from about -65 to 70 degrees.
SKIN = np.array([[24, 9, 13], [36, 13, 19], [48, 15, 23], [60, 14, 22], [70, 11, 18], [80, 8, 14]], np.float64)


def synthetic_forehead(size: int, rng: np.random.Generator) -> np.ndarray:
    """Generate skin as a forehead shows it: (size / 2, size, 3) uint8.

    Colour along the range of skin, low-frequency shading of a curved surface under one light, blotches, pores and fine
    creases as fine at 256 pixels as photographs show them, soft highlights and a little sensor noise.
    """
    height, width = size // 2, size
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-0.5, 0.5, height))
    place = rng.uniform(0, len(SKIN) - 1)
    low = int(min(place, len(SKIN) - 2))
    colour = SKIN[low] + (place - low) * (SKIN[low + 1] - SKIN[low]) + rng.normal(0, [1.5, 1.2, 1.5])

    def noise(sigma_x: float, sigma_y: float) -> np.ndarray:
        """Smooth noise of unit variance; sigmas in pixels of a 256-pixel picture."""
        scale = size / 256
        sx, sy = max(sigma_x * scale, 0.35), max(sigma_y * scale, 0.35)
        field = cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), sx, sigmaY=sy)
        return field / max(float(field.std()), 1e-9)

    bend = rng.uniform(0.5, 0.95)
    normal = np.stack([bend * x, 0.8 * bend * y, np.sqrt(np.maximum(1 - (bend * x) ** 2 - (0.8 * bend * y) ** 2, 0.02))])
    light = np.array([rng.normal(0, 0.45), rng.uniform(-0.7, 0.1), 1.0])
    light /= np.linalg.norm(light)
    shade = np.tensordot(light, normal, 1)
    shade = shade / shade.mean() - 1 + 0.02 * noise(40, 40)
    # Highlights: the mirror direction of the light towards the camera, wider on rougher skin.
    half = light + np.array([0, 0, 1])
    half /= np.linalg.norm(half)
    gloss = np.maximum(np.tensordot(half, normal, 1), 0) ** rng.uniform(12, 60)
    gloss *= 1 + 0.25 * noise(3, 3)
    pores = rng.uniform(0.5, 2.6) * (0.6 * noise(0.8, 0.8) + 0.6 * (noise(1.2, 1.2) - noise(2.4, 2.4)))
    creases = rng.uniform(0, 0.6) * noise(14, 1.0) * np.clip(noise(50, 6), 0, None)
    lab = np.empty((height, width, 3))
    lab[..., 0] = colour[0] * (1 + rng.uniform(0.25, 0.8) * shade) + rng.uniform(0, 16) * gloss
    lab[..., 0] += (pores + creases) * (0.45 + 0.008 * colour[0]) + 0.5 * noise(9, 9)
    lab[..., 1] = colour[1] * (1 - 0.15 * shade) - 2 * gloss + 0.7 * noise(12, 12) + 0.35 * noise(1.5, 1.5)
    lab[..., 2] = colour[2] * (1 + 0.15 * shade) - 3 * gloss + 0.8 * noise(18, 18) + 0.3 * noise(1.5, 1.5)
    for _ in range(rng.poisson(1.0)):  # freckles and moles
        cx, cy, radius = rng.uniform(-0.9, 0.9), rng.uniform(-0.4, 0.4), rng.uniform(0.006, 0.02)
        lab[..., 0] -= rng.uniform(3, 10) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius**2))
    rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB) * 255
    rgb += rng.normal(0, rng.uniform(0.3, 1.2), rgb.shape)
    return np.clip(rgb + 0.5, 0, 255).astype(np.uint8)


def synthetic_face(size: int, rng: np.random.Generator) -> Face:
    """A face whose parts have the shape of the mean face, each moved, scaled and bent a little at random."""
    mesh = np.zeros((MESH_POINTS, 2))
    parts = []
    for name, (indices, numbers) in CANONICAL.items():
        points = np.array(numbers, np.float64).reshape(-1, 2) / 1000
        parts.append((indices, points))
        if name in ("brow", "eye"):
            mirror = LEFT_BROW if name == "brow" else LEFT_EYE
            parts.append((mirror, points * [-1, 1] + [0.996, 0]))
    width, height = rng.uniform(0.92, 1.08), rng.uniform(0.95, 1.05)
    shared = {name: rng.normal(0, [0.0, 0.012]) for name in ("brow", "eye")}  # both sides rise and fall together
    mouth_open = rng.uniform(0, 0.05) if rng.random() < 0.4 else 0.0
    for indices, points in parts:
        centre = points.mean(0)
        name = "brow" if indices in (RIGHT_BROW, LEFT_BROW) else "eye"
        shift = rng.normal(0, 0.006, 2)
        if indices not in (LIPS, NOSE_OUTLINE):
            shift = shift + shared[name]
        moved = (points - centre) * rng.uniform(0.9, 1.12, 2)
        if indices is LIPS:
            moved[moved[:, 1] > 0, 1] += mouth_open
        angle = rng.normal(0, 0.03)
        moved = moved @ np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        mesh[indices] = (centre + shift + moved - 0.498) * [width, height] + 0.498
    # What the drawn temples reach for: the sides of the face, level with the eyes.
    mesh[127], mesh[356] = [0.10, 0.36], [0.90, 0.36]
    roll = math.radians(rng.normal(0, 1.5))
    turn = np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])
    mesh = (mesh - 0.498) @ turn + 0.498
    return Face((mesh * size).astype(np.float32))

"""Cases of the warp with what must come out: tests/golden/warp.npz, which every runtime's warp is held to.

    python tests/golden/warp.py

Independent of faceeraser: float64, no corners and no look-ups. A sample is the sum over all pixels, each times how near it
is: max(0, 1 - |x - column|) * max(0, 1 - |y - row|), which is what bilinear means. Names end in the picture's size.
"""

import sys
from pathlib import Path

import numpy as np

TARGET = Path(__file__).with_suffix(".npz")


def sampled(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """image (H, W, C) at absolute coordinates x, y (h, w), clamped to the border -> float64 (h, w, C)."""
    height, width = image.shape[:2]
    x, y = np.clip(x.astype(np.float64), 0, width - 1), np.clip(y.astype(np.float64), 0, height - 1)
    near_column = np.maximum(0, 1 - np.abs(x[..., None] - np.arange(width)))
    near_row = np.maximum(0, 1 - np.abs(y[..., None] - np.arange(height)))
    return np.einsum("ijr,ijc,rck->ijk", near_row, near_column, image.astype(np.float64))


def warped(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """image (H, W, C), flow (H, W, 2) in pixels, x then y, backward -> float64 (H, W, C)."""
    rows, columns = np.mgrid[0 : image.shape[0], 0 : image.shape[1]].astype(np.float64)
    return sampled(image, columns + flow[..., 0], rows + flow[..., 1])


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> (image (H, W, 3) in [0, 1], flow (H, W, 2) in pixels), float32."""
    random = np.random.default_rng(0)
    height, width = 7, 11
    rows, columns = np.mgrid[0:height, 0:width]
    textured = random.random((height, width, 3))
    smooth = 0.5 + 0.4 * np.sin(0.5 * columns[..., None] + 0.3 * rows[..., None] + np.arange(3))

    def same(x: float, y: float) -> np.ndarray:
        return np.broadcast_to((x, y), (height, width, 2))

    far = random.choice([0, width - 1], (height, width)), random.choice([0, height - 1], (height, width))
    waves = np.stack([2.3 * np.sin(0.6 * rows + 0.2 * columns), 1.7 * np.cos(0.5 * columns)], -1)
    large = {
        "identity": (textured, same(0, 0)),
        "whole-pixels": (textured, random.integers(-4, 5, (height, width, 2))),
        "borders": (textured, np.stack([far[0] - columns, far[1] - rows], -1)),
        "far-beyond": (textured, random.choice([-1e6, 1e6], (height, width, 2))),
        "half-pixels": (textured, same(0.5, -0.5)),
        "constant": (textured, same(-2.25, 1.75)),
        "just-beside": (textured, random.choice([-1, 1], (height, width, 2)) * 2.0**-12),
        "random": (textured, random.uniform(-3, 3, (height, width, 2))),
        "beyond": (textured, random.uniform(-40, 40, (height, width, 2))),
        "smooth": (smooth, waves),
    }
    chosen = {f"{name}-{height}x{width}": pair for name, pair in large.items()}
    for tall, wide in ((1, 1), (1, 9), (9, 1)):
        for name, reach in (("identity", 0.0), ("random", 3.0), ("beyond", 40.0)):
            flow = random.uniform(-reach, reach, (tall, wide, 2))
            chosen[f"{name}-{tall}x{wide}"] = random.random((tall, wide, 3)), flow
    return {name: (image.astype(np.float32), flow.astype(np.float32)) for name, (image, flow) in chosen.items()}


def table() -> dict[str, np.ndarray]:
    """`<case>/image`, `<case>/flow`, `<case>/warped` of every case, as the file has them."""
    arrays = {}
    for name, (image, flow) in cases().items():
        arrays |= {f"{name}/image": image, f"{name}/flow": flow, f"{name}/warped": warped(image, flow)}
    return arrays


if __name__ == "__main__":
    np.savez_compressed(TARGET, **table())
    print(f"{TARGET.name}: {len(cases())} cases, {TARGET.stat().st_size} bytes")
    sys.exit(0)

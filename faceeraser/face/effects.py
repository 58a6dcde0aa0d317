"""Effects on an erased face (Hua et al. 2021, section 3.5): all parts are erased, then pieces are pasted back, changed.

What an effect pastes and where stands in effects.json, in a unit of the face itself, so that the same file serves other
programs. A piece is a part of the photographed face; an element of the user's own is a PNG with an alpha channel. Both are
blended by Poisson's equation or, for video, by `fast_clone`, which comes close for less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from faceeraser.face import picture
from faceeraser.face.crops import SMALLEST_CROP
from faceeraser.face.mesh import MESH_POINTS, Face, transform
from faceeraser.face.parts import BROWS, EYES, MOUTH, NOSE, parts_map
from faceeraser.system.reading import json_object

FILE = Path(__file__).with_name("effects.json")
PIECES = {
    "right_brow": (BROWS, -1),
    "left_brow": (BROWS, 1),
    "right_eye": (EYES, -1),
    "left_eye": (EYES, 1),
    "nose": (NOSE, 0),
    "mouth": (MOUTH, 0),
    "face": (BROWS | EYES | NOSE | MOUTH, 0),
}
"""Of each piece its bits of `parts_map`, and its side: -1 on the picture's left, 1 on its right, 0 both."""
# How far a piece reaches beyond its part, in pixels of a 256 pixel crop: lids and shadows come along, brows do not.
DILATION = {BROWS: 8.0, EYES: 10.5, NOSE: 8.0, MOUTH: 9.0}
_DARK = 8.0  # levels that are added before a logarithm is taken: noise in black is no light
# How much a piece may be lit in all, and how far the light at any place may differ from the median along its border: a lid's
# shadow or a lock of hair there asks for more light than skin ever gets, and an eye's corner would glow.
_MOST_LIGHT = 0.25
_SPREAD = 0.08
_FARTHEST = 100.0  # eye distances, and times as large: beyond any picture
Blend = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def read(path: Path = FILE) -> dict[str, dict[str, Any]]:
    """{name: effect} of a file such as effects.json; an effect has `elements`, each a `piece` or an `image` and its place.

    Raises:
        ValueError: it is not such a file, or an element is not understood.
        FileNotFoundError: there is none.
    """
    document = json_object(path, '{"elements": [...]} as in effects.json')
    try:
        effects: dict[str, dict[str, Any]] = document.get("effects", {path.stem: document})
        for name, effect in effects.items():
            for element in effect["elements"]:
                _check(element, f"{path}: {name}")
    except (KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f'{path}: expected {{"elements": [...]}} as in effects.json ({what})') from None
    return effects


def _check(element: Mapping[str, Any], where: str) -> None:
    """Raises ValueError unless an element is one that `apply` can place."""
    known = {"piece", "image", "scale", "move", "to", "width", "angle", "landmark"}
    if unknown := set(element) - known:
        raise ValueError(f"{where}: found {sorted(unknown)[0]!r}; expected some of {', '.join(sorted(known))}")
    if ("piece" in element) == ("image" in element):
        raise ValueError(f"{where}: expected either a piece of the face or an image in each element")
    if not isinstance(element.get("image", ""), str):
        raise ValueError(f"{where}: found image {str(element['image'])[:60]}; expected the name of a file")
    if "piece" in element and str(element["piece"]) not in PIECES:
        raise ValueError(f"{where}: found piece {element['piece']!r}; expected one of {', '.join(PIECES)}")
    for name in ("move", "to"):
        place = element.get(name, [0, 0])
        if not (isinstance(place, Sequence) and len(place) == 2 and all(_is_number(n) for n in place)):
            raise ValueError(f"{where}: found {name} {str(place)[:60]}; expected two numbers, [x, y], up to {_FARTHEST:g}")
    for name in ("scale", "width"):
        if not (_is_number(size := element.get(name, 1.0)) and size > 1e-3):
            raise ValueError(f"{where}: found {name} {str(size)[:60]}; expected a number above 0, up to {_FARTHEST:g}")
    if not (_is_number(turn := element.get("angle", 0.0), 360.0)):
        raise ValueError(f"{where}: found angle {str(turn)[:60]}; expected degrees, -360 to 360")
    index = element.get("landmark", 0)
    if not (isinstance(index, int) and not isinstance(index, bool) and 0 <= index < MESH_POINTS):
        raise ValueError(f"{where}: found landmark {index!r}; expected a point of the mesh, 0 to {MESH_POINTS - 1}")


def _is_number(value: Any, most: float = _FARTHEST) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most


def _light(image: np.ndarray) -> np.ndarray:
    """The logarithm of a picture: light is a factor, so that what brightens skin leaves a pupil black."""
    return np.log(image.astype(np.float32) + _DARK)


def _lit(source: np.ndarray, light: np.ndarray, mask: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`target` with `source` in the light `light` (what to add to its logarithm) where `mask`, softly at the rim."""
    inside = mask.astype(np.uint8)
    rim = mask & (cv2.erode(inside, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE) == 0)
    middle = np.clip(np.median(_light(target[rim]) - _light(source[rim]), axis=0), -_MOST_LIGHT, _MOST_LIGHT)
    light = np.clip(light, middle - _SPREAD, middle + _SPREAD)
    laid = (source.astype(np.float32) + _DARK) * np.exp(light) - _DARK
    depth = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    weight = np.clip(depth / max(3.0, 0.35 * float(depth.max())), 0, 1)[..., None]
    return np.clip(target + (laid - target) * weight + 0.5, 0, 255).astype(np.uint8)


def _membrane(difference: np.ndarray, known: np.ndarray, sweeps: int) -> np.ndarray:
    """The harmonic function inside a ring of known values: a pyramid down, and up again with `sweeps` of relaxation each.

    difference: (H, W, 3) float32; known: (H, W) float32, 1 where it is known.
    """
    levels = [(difference * known[..., None], known)]
    while min(levels[-1][1].shape) > 2:
        size = tuple(max(1, (n + 1) // 2) for n in levels[-1][1].shape[::-1])
        levels.append(tuple(cv2.resize(a, size, interpolation=cv2.INTER_AREA) for a in levels[-1]))
    spread = levels[-1][0] / np.maximum(levels[-1][1], 1e-6)[..., None]
    for value, weight in reversed(levels[:-1]):
        spread = cv2.resize(spread, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
        fixed = weight > 0
        held = value[fixed] / weight[fixed][:, None]
        spread[fixed] = held
        for _ in range(sweeps):
            spread = cv2.blur(spread, (3, 3), borderType=cv2.BORDER_REPLICATE)
            spread[fixed] = held
    return spread


def _clone(source: np.ndarray, mask: np.ndarray, target: np.ndarray, sweeps: int) -> np.ndarray:
    """Lay `source` over `target` where `mask`, in the light that the two differ by along its border."""
    inside = mask.astype(np.uint8)
    if not inside.any():
        return target
    x, y, width, height = cv2.boundingRect(inside)
    left, top = max(0, x - 3), max(0, y - 3)
    window = (slice(top, y + height + 3), slice(left, x + width + 3))
    within = inside[window]
    ring = (cv2.dilate(within, np.ones((3, 3), np.uint8)) - within).astype(np.float32)
    light = _membrane(_light(target[window]) - _light(source[window]), ring, sweeps)
    result = target.copy()
    result[window] = _lit(source[window], light, within > 0, target[window])
    return result


def poisson_clone(source: np.ndarray, mask: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Lay `source` over `target` where `mask`, its gradients kept and its border met (Perez et al. 2003), in logarithms.

    Keeping the gradients is adding the harmonic function of what the two differ by on the border (their equation 4). It is
    not OpenCV's seamlessClone, which meets the border of the mask's bounding box and not the mask's: on the astronaut's eye
    that is off by 0.26 of light, this by 0.01 (docs/effects.md).

    source, target: (H, W, 3) uint8 of one size; mask: (H, W) bool.
    """
    return _clone(source, mask, target, sweeps=48)


def fast_clone(source: np.ndarray, mask: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`poisson_clone` for video: the same function, relaxed less (as networks.fill_hole does). Same arguments."""
    return _clone(source, mask, target, sweeps=2)


BLENDS: Mapping[str, Blend] = {"poisson": poisson_clone, "fast": fast_clone}


def _frame(face: Face) -> np.ndarray:
    """The 2x3 matrix from the face's own unit (see effects.json) to the picture's pixels."""
    along = (face.eyes[1] - face.eyes[0]).astype(np.float64)
    down = np.array([-along[1], along[0]])
    return np.stack([along, down, face.eyes.mean(0)], axis=1)


def piece_mask(face: Face, piece: str, shape: tuple[int, int]) -> np.ndarray:
    """Where a piece of the face is, (H, W) bool, in the coordinates of `face`; brows are left out of the eyes' pieces."""
    bits, side = PIECES[piece]
    field = parts_map(face, shape, dilation=DILATION)
    mask = (field & bits) > 0
    if piece == "face":
        hull = cv2.convexHull(np.argwhere(mask)[:, ::-1].astype(np.int32)) if mask.any() else None
        drawn = np.zeros(shape, np.uint8)
        return cv2.fillConvexPoly(drawn, hull, 1) > 0 if hull is not None else mask
    if bits in (EYES, BROWS):  # a border that ran through the other would give its colour to all that is pasted
        other = EYES if bits == BROWS else BROWS
        mask &= (parts_map(face, shape, dilate=0.5, dilation=DILATION) & other) == 0
    if side:
        along = face.eyes[1] - face.eyes[0]
        y, x = np.indices(shape)
        middle = face.eyes.mean(0)
        mask &= np.sign((x - middle[0]) * along[0] + (y - middle[1]) * along[1]) == side
    return mask


def _centre(mask: np.ndarray) -> np.ndarray:
    """The middle of a mask's bounding box, (x, y)."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return np.array([x + (width - 1) / 2, y + (height - 1) / 2])


def _place(element: Mapping[str, Any], centre: np.ndarray, size: float, face: Face) -> np.ndarray:
    """The 2x3 matrix that brings what is centred on `centre` to an element's place, `size` times as large."""
    frame = _frame(face)
    if "landmark" in element:
        to = face.mesh[element["landmark"]].astype(np.float64)
    else:
        to = transform(frame, np.array([element["to"]]))[0] if "to" in element else centre
    to = to + frame[:, :2] @ np.asarray(element.get("move", (0.0, 0.0)), np.float64)
    turn = np.deg2rad(element.get("angle", 0.0) + (face.roll if "image" in element else 0.0))
    linear = size * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.hstack([linear, (to - linear @ centre)[:, None]])


def _own_image(element: Mapping[str, Any], folder: Path) -> np.ndarray:
    """The user's picture of an element, (H, W, 4) uint8 RGBA.

    Raises:
        ValueError: it is not a picture with an alpha channel.
    """
    path = folder / element["image"]
    page = picture.read(path)
    if page.mode != "RGBA" or page.samples.dtype != np.uint8:
        raise ValueError(f"{path}: expected a PNG of 8 bits with an alpha channel, which says what is visible")
    return page.samples


def apply(
    effect: Mapping[str, Any],
    image: np.ndarray,
    erased: np.ndarray,
    face: Face,
    blend: str = "poisson",
    folder: Path = Path("."),
) -> np.ndarray:
    """One face of an erased photograph with an effect's elements on it.

    Args:
        effect: of `read`.
        image: (H, W, 3) uint8 RGB, the photograph that pieces are taken from.
        erased: the same photograph with the face's parts erased.
        face: in its coordinates.
        blend: one of BLENDS.
        folder: where the images of the user's own elements are.

    Returns:
        `erased` with the elements, (H, W, 3) uint8; beyond the face's surroundings bit-identical to it.

    Raises:
        ValueError: an element's image cannot be used, or the pictures differ in size.
    """
    if image.shape != erased.shape:
        raise ValueError(f"found pictures of {image.shape} and {erased.shape}; expected a photograph and itself, erased")
    low, high = face.mesh.min(0) - 0.6 * face.eye_distance, face.mesh.max(0) + 0.6 * face.eye_distance
    left, top = np.maximum(np.floor(low), 0).astype(int)
    right, bottom = np.minimum(np.ceil(high), image.shape[1::-1]).astype(int)
    if min(right - left, bottom - top) < SMALLEST_CROP:
        return erased.copy()
    near = (slice(top, bottom), slice(left, right))
    local = face.moved(np.array([[1.0, 0, -left], [0, 1.0, -top]]))
    photograph, canvas = image[near], np.ascontiguousarray(erased[near])
    shape = photograph.shape[:2]
    size = (shape[1], shape[0])
    for element in effect["elements"]:
        if "image" in element:
            own = _own_image(element, folder)
            scale = element.get("width", 1.0) * local.eye_distance / own.shape[1]
            matrix = _place({"to": [0.0, 0.0], **element}, np.array(own.shape[1::-1]) / 2 - 0.5, scale, local)
            smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            laid = cv2.warpAffine(own, matrix, size, flags=smooth).astype(np.float32)
            # Virtual elements keep their own colours: laid over by their alpha, not blended into the skin's.
            alpha = laid[..., 3:] / 255
            canvas = np.clip(canvas + (laid[..., :3] - canvas) * alpha + 0.5, 0, 255).astype(np.uint8)
            continue
        mask = piece_mask(local, element["piece"], shape)
        if not mask.any():
            continue
        matrix = _place(element, _centre(mask), element.get("scale", 1.0), local)
        moved = cv2.warpAffine(photograph, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        there = cv2.warpAffine(mask.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST) > 0
        canvas = BLENDS[blend](moved, there, canvas)
    result = erased.copy()
    result[near] = canvas
    return result

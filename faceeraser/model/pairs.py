"""Training and evaluation pairs: a blank face and a part mask, from the folder that `train/prepare.py` makes.

The blank face is a forehead above its own flip (section 3.2), so a network could copy the answer from the other half.
Training breaks that symmetry by default: the lower half is bent smoothly, by nothing at the seam and more away from it,
and both get their own light. Pair number k of a seed is always the same pair, whoever asks: that is what makes a resumed
run equal to an unbroken one, and two processes equal to one.

Importing this module does not load torch: a file is measured without it. Tensors are made when something asks for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from faceeraser.face import picture
from faceeraser.face.parts import DILATION, DILATION_ERASED, GLASSES
from faceeraser.measurement.metrics import TEXTURE_MIN_FOREHEAD_PX
from faceeraser.system.reading import csv_rows, json_object

if TYPE_CHECKING:
    import torch

# Below these a 256 pixel crop was enlarged, and its texture is interpolation: source pixels across forehead and face.
SHARP_FOREHEAD_PX, SHARP_FACE_PX = TEXTURE_MIN_FOREHEAD_PX, 190
GLASSES_WIDER = 4.0  # pixels of 256: how far glasses are drawn wider where parts are as `erase` draws them


@dataclass(frozen=True)
class Pair:
    """One evaluation pair: `truth` (H, W, 3) uint8 RGB, `mask` (H, W) uint8 with 1 = erase; forehead in source pixels."""

    name: str
    truth: np.ndarray
    mask: np.ndarray
    forehead_px: float
    ita: float


def data_of(folder: Path | str) -> dict[str, Any]:
    """data.json of a prepared folder.

    Raises:
        ValueError: the folder is not one that `train/prepare.py` made.
    """
    path = Path(folder) / "data.json"
    if not path.is_file():
        raise ValueError(f"{folder}: found no data.json, expected a folder made by: python train/prepare.py PHOTOS {folder}")
    described = json_object(path, "the description of a folder made by train/prepare.py; run it again")
    if not isinstance(size := described.get("size"), int) or not 32 <= size <= 4096:
        raise ValueError(f"{path}: found size {str(size)[:40]!r}; expected pixels, 32 to 4096; run train/prepare.py again")
    return described


def _rows(folder: Path, name: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table of a prepared folder. Raises ValueError when it is missing, damaged, or names a file elsewhere."""
    path = folder / name
    try:
        rows = csv_rows(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: is no table of a prepared folder ({error}); run train/prepare.py again") from None
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values() or not set(columns) <= set(row):
            line = ", ".join(map(str, row))[:120]
            raise ValueError(f"{path}: line {number} lacks {' or '.join(columns)} ({line}); run train/prepare.py again")
        for name in filter(None, (row[column] for column in columns)):
            if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
                raise ValueError(f"{path}: line {number} names a file outside the folder; run train/prepare.py again")
    return rows


def _read(path: Path, size: int, mask: bool) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE if mask else cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"{path}: listed by the prepared folder but cannot be read; run train/prepare.py again")
    if picture.shape[0] != size:
        picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_NEAREST if mask else cv2.INTER_AREA)
    return picture if mask else np.ascontiguousarray(picture[:, :, ::-1])


def _read_face(path: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A whole face (size, size, 3) uint8 RGB and where it is bare skin, (size, size) bool."""
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 3 or picture.shape[2] != 4:
        raise ValueError(f"{path}: expected a face with an alpha channel that marks its skin; run train/prepare.py again")
    picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) if len(picture) != size else picture
    return np.ascontiguousarray(picture[:, :, 2::-1]), picture[:, :, 3] > 250


def evaluation_pairs(
    folder: Path | str, which: str = "eval", size: int | None = None, limit: int | None = None
) -> list[Pair]:
    """The fixed pairs of a prepared folder: 'eval' (validation, only ever reported) or 'tune' (a slice of train).

    size: resize to it (area for pictures, nearest for masks); the prepared size by default.

    Raises:
        ValueError: the folder is not prepared, or a file it lists is missing.
    """
    folder = Path(folder)
    size = size or int(data_of(folder)["size"])
    rows = _rows(folder, f"{which}.csv", ("blank", "mask"))[:limit]
    about = {row["blank"]: row for row in _rows(folder, "manifest.csv", ("blank", "mask_file")) if row["blank"]}
    if not rows:
        raise ValueError(f"{folder}/{which}.csv lists no pair; prepare more photographs (train/prepare.py)")

    def number(row: dict[str, str], key: str) -> float:
        try:
            return float(row.get(key) or "nan")
        except ValueError:
            value = f"{key} {row[key][:40]!r} of {row['blank']}"
            raise ValueError(f"{folder}/manifest.csv: found {value}; expected a number; run prepare.py again") from None

    return [
        Pair(
            Path(row["blank"]).stem,
            _read(folder / row["blank"], size, False),
            (_read(folder / row["mask"], size, True) > 0).astype(np.uint8),
            number(about.get(row["blank"], {}), "forehead_px"),
            number(about.get(row["blank"], {}), "ita"),
        )
        for row in rows
    ]


def photographs(folder: Path, split: str = "val") -> list[Path]:
    """A folder's photographs in a fixed shuffled order; those of one split, where a manifest.csv has splits.

    Of `train`, which then is what others are compared with, only those whose `kind` is real, where the manifest tells.

    Raises:
        ValueError: there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder, expected photographs of faces")
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        try:
            rows = csv_rows(manifest)
        except (OSError, ValueError) as error:
            raise ValueError(f"{manifest}: is not a CSV in UTF-8 ({error}); fix it or move it away") from None
        kept = [row for row in rows if row.get("split", "val") == split]
        if split == "train":
            kept = [row for row in kept if row.get("kind", "real").startswith("real")]
        files = sorted(folder / row["file"] for row in kept)
    else:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in picture.READABLE)
    if not files:
        raise ValueError(f"{folder}: found no photographs to validate on, expected files, or split {split} in manifest.csv")
    return [files[k] for k in np.random.default_rng(1).permutation(len(files))]


def _tensors(truth: np.ndarray, sharp: bool, *maps: np.ndarray) -> tuple[torch.Tensor, ...]:
    import torch

    picture = torch.from_numpy(truth.astype(np.float32) / 255).permute(2, 0, 1).contiguous()
    as_maps = (torch.from_numpy(m.astype(np.float32)).unsqueeze(0) for m in maps)
    return picture, *as_maps, torch.full((1, 1, 1), float(sharp))


def to_tensors(pairs: list[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """(truth (N, 3, H, W) float in [0, 1], mask (N, 1, H, W) float) of evaluation pairs."""
    import torch

    truth = torch.from_numpy(np.stack([p.truth for p in pairs])).permute(0, 3, 1, 2).float() / 255
    return truth, torch.from_numpy(np.stack([p.mask for p in pairs])).unsqueeze(1).float()


class TrainingPairs:
    """An endless, numbered stream of training pairs: item k is (truth (3, H, W), mask, target, skin, sharp), float32.

    The maps are (1, H, W) of zeros and ones: what is erased; where in it the truth is known; what is bare skin and seen,
    so that it may be copied. sharp (1, 1, 1) is 1 where photography resolved the skin, so that its texture may be learnt:
    foreheads of at least 128 source pixels, faces of at least 190.

    A blank face is skin all over, and all of its hole is known. A share of `real` items are whole photographs instead,
    with hair, beard and background: their own parts are erased, which nobody knows the truth of, and beside them other
    holes on bare skin, where it is known.

    size: edge length in pixels. symmetric: leave the blank face its own mirror image, as in the paper's table.
    limit: use only the first so many blanks and masks (for the demo's shortest runs and for tests).
    variety: what differs from one time a picture is drawn to the next. 'blanks': scale, crop and light; 'masks': which of
    the parts, and which way up; 'camera': some pictures are blurred or JPEG-compressed.

    Raises:
        ValueError: the folder is not prepared or holds no training pair.
    """

    VARIETY = ("blanks", "masks", "camera")

    def __init__(
        self,
        folder: Path | str,
        size: int,
        seed: int = 0,
        symmetric: bool = False,
        limit: int | None = None,
        real: float = 0.0,
        variety: Sequence[str] = ("blanks", "masks"),
    ):
        folder = Path(folder)
        self.size, self.seed, self.symmetric, self.real, self.variety = size, seed, symmetric, real, variety
        prepared = int(data_of(folder)["size"])
        blanks = sorted((folder / "blanks" / "train").glob("*.png"))
        masks = sorted((folder / "masks" / "train").glob("*.png"))
        photos = sorted((folder / "faces" / "train").glob("*.png")) if real else []
        table = _rows(folder, "manifest.csv", ("blank", "mask_file"))
        rows = {Path(row["blank"] or row["mask_file"]).stem: row for row in table}
        blanks, masks, photos = blanks[:limit], masks[:limit], photos[:limit]
        if not blanks or not masks or (real and not photos):
            raise ValueError(
                f"{folder}: {len(blanks)} training blanks, {len(masks)} masks and {len(photos)} photographs, "
                "expected some of each; run train/prepare.py again, on more photographs"
            )
        self.sharp_blanks = [float(rows[p.stem]["forehead_px"] or 0) >= SHARP_FOREHEAD_PX for p in blanks]
        self.sharp_photos = [float(rows[p.stem]["face_px"] or 0) >= SHARP_FACE_PX for p in photos]
        with ThreadPoolExecutor(8) as pool:
            # Kept at the prepared size and as bytes: a crop of 3/4 then still has more pixels than most outputs.
            self.foreheads = list(pool.map(lambda p: _read(p, prepared, False)[: prepared // 2].copy(), blanks))
            self.parts = list(pool.map(lambda p: _read(p, size, True), masks))
            self.photos = list(pool.map(lambda p: _read_face(p, size), photos))
            self.own = list(pool.map(lambda p: _read(folder / "masks" / "train" / p.name, size, True), photos))

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, k: int) -> tuple[torch.Tensor, ...]:
        rng = np.random.default_rng((self.seed, k))
        if self.real and rng.random() < self.real:
            return self._photograph(rng)
        number = int(rng.integers(len(self.foreheads)))
        forehead = self.foreheads[number]
        parts = self.parts[rng.integers(len(self.parts))]
        truth = self._camera(self._blank(forehead, rng), rng)
        mask = self._mask(parts, rng)
        return _tensors(truth, self.sharp_blanks[number], mask, mask, ~mask)

    def _photograph(self, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
        k = int(rng.integers(len(self.photos)))
        (picture, skin), own = self.photos[k], self._own(self.own[k], rng)
        # Another person's parts, moved about: holes of the right shape that fall on cheeks, forehead and hairline.
        other = self._mask(self.parts[rng.integers(len(self.parts))], rng)
        dx, dy = rng.integers(-self.size // 4, self.size // 4 + 1, 2)
        moved = cv2.warpAffine(other.astype(np.uint8), np.array([[1.0, 0, dx], [0, 1.0, dy]]), (self.size, self.size)) > 0
        if rng.random() < 0.5:
            picture, skin, own = picture[:, ::-1], skin[:, ::-1], own[:, ::-1]
        hole = own | moved
        light = rng.uniform(0.8, 1.15) * rng.uniform(0.95, 1.05, 3)
        return _tensors(np.clip(picture * light, 0, 255), self.sharp_photos[k], hole, hole & skin & ~own, skin & ~hole)

    @staticmethod
    def _own(parts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The face's own parts, mostly with its glasses, drawn wider: from hardly to a third wider than `erase` draws them,
        so that nothing of them is left to be seen.
        """
        wider, kept = rng.uniform(0.2, 1.3), 31 if rng.random() < 0.7 else 15
        drawn = np.zeros(parts.shape, np.uint8)
        for bit in (*DILATION, GLASSES):
            pixels = DILATION_ERASED[bit] - DILATION[bit] if bit in DILATION else GLASSES_WIDER
            side = 2 * round(wider * pixels * len(parts) / 256) + 1
            disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
            drawn |= cv2.dilate((parts & bit & kept > 0).astype(np.uint8), disc)
        return drawn > 0

    def _camera(self, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if "camera" not in self.variety or rng.random() < 0.7:
            return truth
        if rng.random() < 0.5:
            return cv2.GaussianBlur(truth.astype(np.float32), (0, 0), rng.uniform(0.4, 1.5) * self.size / 256)
        done, data = cv2.imencode(".jpg", truth.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 92))])
        again = cv2.imdecode(data, cv2.IMREAD_COLOR) if done else None
        return truth if again is None else again

    def _blank(self, forehead: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        size, half = self.size, self.size // 2
        if "blanks" not in self.variety:
            upper = cv2.resize(forehead, (size, half), interpolation=cv2.INTER_AREA)
            return np.concatenate([upper, upper[::-1]])
        if rng.random() < 0.5:
            forehead = forehead[:, ::-1]
        height, width = forehead.shape[:2]
        zoom = rng.uniform(0.75, 1.0)
        left = rng.uniform(0, 1 - zoom) * (width - 1)
        # The seam stays at the bottom of the forehead, where both halves meet.
        xs = left + np.linspace(0, 1, size)[None, :] * zoom * (width - 1)
        distance = np.linspace(0, 1, half)[:, None]  # from the seam
        upper_x, upper_y = (
            np.broadcast_to(xs, (half, size)),
            np.broadcast_to((height - 1) * (1 - distance * zoom), (half, size)),
        )
        lower_x, lower_y = upper_x, upper_y
        if not self.symmetric:
            bend, sway, stretch = rng.uniform(-0.16, 0.16), rng.uniform(-0.06, 0.06), rng.uniform(0.7, 1.15)
            shift = (bend * distance**2 + sway * np.sin(np.pi * distance * rng.uniform(0.5, 2))) * width
            middle = xs.mean()
            lower_x = middle + (xs - middle) * (1 - rng.uniform(-0.1, 0.25) * distance) + shift
            lower_y = (height - 1) * (1 - distance * np.minimum(zoom * stretch, 1.0))
            lower_y = np.broadcast_to(lower_y, (half, size))

        def take(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return cv2.remap(
                forehead, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
            )

        blank = np.concatenate([take(upper_x, upper_y)[::-1], take(lower_x, lower_y)]).astype(np.float32)
        if rng.random() < 0.5:
            blank = blank[::-1]
        gain = rng.uniform(0.8, 1.15) * rng.uniform(0.95, 1.05, 3)
        if not self.symmetric:
            light = cv2.resize(
                rng.uniform(-0.1, 0.1, (3, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
            )
            gain = gain[None, None, :] * (1 + light[:, :, None])
        return np.clip(blank * gain, 0, 255)

    def _mask(self, parts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if "masks" not in self.variety:
            return parts > 0
        bits = 31
        if rng.random() < 0.25:  # some of the parts
            bits = int(rng.integers(1, 16)) | 16
        mask = (parts & bits) > 0
        if not mask.any():
            mask = parts > 0
        if rng.random() < 0.5:
            mask = mask[:, ::-1]
        if rng.random() < 0.5:  # both halves hidden, as the mirrored figures are taken
            mask = mask | mask[::-1]
        elif rng.random() < 0.3:
            mask = mask[::-1]
        return np.ascontiguousarray(mask)

"""Erase whole photographs and look: a sheet of them, the colour step at the mask's border, what a face detector still finds.

    python benchmarks/photos.py PHOTOS runs/release/fp32 --sheet runs/photos.jpg

Real faces have no ground truth, so nothing here is a PSNR. MODEL is a checkpoint folder, whose sheet also shows what was
cloned and refined, or an exported file. The photographs are the first of PHOTOS in a fixed shuffled order (those whose
split is `val`, where a manifest.csv has splits) in which a face is found; all parts and glasses are erased from the largest
face, and rows for Navier-Stokes and for the untouched photograph stand beside the model's.

border_step     CIE Lab distance between the means of the 4 pixels on either side of the mask's border, median over
                photographs: a seam or a colour cast. The untouched photograph's is that of brows and lips.
found           share of photographs in which the detector still finds the face
part_shift      where it does, how far the landmarks of the erased parts moved, in eye distances, median
part_contrast   standard deviation of L* inside the mask, less what is slower than 16 pixels: ghosts of eyes and lips

The sheet shows people: it is for looking at, and not for publishing.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from faceeraser import artifact, checkpoint, faces, inference, metrics, opening, pairs, script
from faceeraser.metrics import lab_of
from faceeraser.picture import read as read_picture

Pictures = dict[str, np.ndarray]


def painter(path: Path) -> tuple[str, int, Callable[[np.ndarray, np.ndarray], Pictures]]:
    """(name, resolution, function) of MODEL; the function gives uint8 pictures by name, `erased` among them."""
    model = opening.open_model(path, path.stem)
    if not path.is_dir() or path.suffix in artifact.KINDS:
        return model.name, model.resolution, lambda crop, mask: {"erased": model.method(crop, mask)}
    pipeline = checkpoint.load(path)

    def paint(crop: np.ndarray, mask: np.ndarray) -> Pictures:
        outputs = inference.run(pipeline, [pairs.Pair("", crop, mask, 0.0, 0.0)])
        shown = {name: outputs[name][0].permute(1, 2, 0).numpy() for name in ("cloned", "refined", "erased")}
        return {name: np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8) for name, picture in shown.items()}

    return model.name, model.resolution, paint


def border_step(picture: np.ndarray, mask: np.ndarray) -> float:
    """Mean Lab distance between the two sides of a mask's border, each the mean of what lies within 4 pixels of it."""
    lab, inside = lab_of(picture), mask > 0
    near = [cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, 5) for side in (inside, ~inside)]
    means = []
    for side in near:
        band = ((side > 0) & (side <= 4)).astype(np.float32)
        weight = cv2.GaussianBlur(band, (0, 0), 3)
        means.append(cv2.GaussianBlur(lab * band[..., None], (0, 0), 3) / (weight[..., None] + 1e-6))
    rim = (near[0] > 0) & (near[0] <= 1.5)
    rim[:2], rim[-2:], rim[:, :2], rim[:, -2:] = False, False, False, False
    return float(np.linalg.norm(means[0] - means[1], axis=2)[rim].mean()) if rim.any() else float("nan")


def part_contrast(picture: np.ndarray, mask: np.ndarray) -> float:
    """Standard deviation of L* inside the mask, less what is slower than 16 pixels."""
    light = lab_of(picture)[..., 0]
    return float((light - cv2.GaussianBlur(light, (0, 0), 16))[mask > 0].std())


def part_shift(crop: np.ndarray, erased: np.ndarray, face: faces.Face) -> float | None:
    """How far the landmarks of the parts moved, in eye distances; None where no face is found any more."""
    found = faces.find_faces(erased)
    if not found:
        return None
    indices = [k for polygons in faces.POLYGONS.values() for polygon in polygons for k in polygon]
    moved = np.linalg.norm(found[0].mesh[indices, :2] - face.mesh[indices, :2], axis=1)
    return float(moved.mean() / face.eye_distance)


def sheet_of(lines: Sequence[Pictures], side: int = 160) -> np.ndarray:
    """All photographs, a line each, in two columns."""
    small = [
        np.concatenate([cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) for picture in line.values()], 1)
        for line in lines
    ]
    if len(small) % 2:
        small.append(np.zeros_like(small[0]))
    half = len(small) // 2
    return np.concatenate([np.concatenate(small[:half]), np.concatenate(small[half:])], 1)


def run(args: Namespace) -> None:
    if args.limit < 1:
        raise ValueError(f"--limit {args.limit}: expected at least 1")
    files = pairs.photographs(args.photos)
    name, size, paint = painter(args.model)
    figures: dict[str, dict[str, list[float | None]]] = {}
    lines: list[Pictures] = []
    bar = tqdm(total=min(args.limit, len(files)), desc="erase", unit="photo")
    for file in files:
        image = read_picture(file).image
        if not (found := faces.find_faces(image)):
            continue
        mask, _ = faces.face_mask(image, found[0], size)
        crop, matrix = faces.align(image, found[0], size)
        face = found[0].moved(matrix)
        pictures = {"before": crop, "mask": crop * (mask == 0)[..., None].astype(np.uint8), **paint(crop, mask)}
        rivals = {name: pictures["erased"], "navier_stokes": metrics.fill_navier_stokes(pictures["mask"], mask)}
        for row, picture in {**rivals, "untouched": crop}.items():
            shift = part_shift(crop, picture, face)
            told = figures.setdefault(row, {"border_step": [], "part_shift": [], "part_contrast": []})
            told["border_step"].append(border_step(picture, mask))
            told["part_shift"].append(shift)
            told["part_contrast"].append(part_contrast(picture, mask))
        lines.append(pictures)
        bar.update()
        if len(lines) == args.limit:
            break
    bar.close()
    if not lines:
        raise ValueError(f"{args.photos}: found no face in any of {len(files)} photographs; expected upright faces")
    rows: list[dict[str, Any]] = []
    for row, told in figures.items():
        shifts = [value for value in told["part_shift"] if value is not None]
        rows.append(
            {"name": row, "n": len(lines), "border_step": float(np.nanmedian(np.array(told["border_step"], float))),
             "found": len(shifts) / len(lines), "part_shift": float(np.median(shifts)) if shifts else None,
             "part_contrast": float(np.median(np.array(told["part_contrast"], float)))}
        )  # fmt: skip
    data = {"name": args.photos.resolve().name, "n": len(lines), "eval_sha256": None}
    result = artifact.result(rows, data, args.command)
    if args.json:
        artifact.write_result(args.json, result)
    if args.sheet:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(args.sheet), sheet_of(lines)[..., ::-1])
    script.finish(f"{len(lines)} photographs of {args.photos}, all parts erased ({', '.join(lines[0])})", rows, result)


def build_parser() -> ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="folder of photographs of faces")
    parser.add_argument("model", type=Path, metavar="MODEL", help="checkpoint folder or exported file")
    parser.add_argument("--limit", type=int, default=40, help="photographs (default: %(default)s)")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write the pictures there, as .jpg or .png")
    script.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

"""Erase whole photographs and measure without a truth: is what was painted like the person's own bare skin?

    python benchmarks/photos.py PHOTOS int8=exports/int8.tflite fp32=runs/fp32 --previous old/int8.tflite --json photos.json
    python benchmarks/photos.py PHOTOS int8=exports/int8.tflite --blind runs/blind --pair int8 skin_patches

Real faces have no ground truth, so nothing here is a PSNR: the figures are those of measurement/looks.py and judge.py, and
docs/figures.md tells what each sees and does not. MODEL is a checkpoint folder or an exported file, `name=PATH` names its
row; --previous is one more, the one to be better than. Beside them stand, all with the same masks, at the photograph's own
resolution:

skin_patches     the strongest classical filling (faceeraser/measurement/patches.py)
navier_stokes    the usual one (OpenCV's)
noise, tile      controls, which each have to miss a goal: the membrane of skin_patches with white noise of the right energy
                 on it, and with one patch of skin again and again
own_skin         what nature allows: one half of the person's own skin against the other half

The photographs are the first of PHOTOS in a fixed shuffled order (those whose split is `val`, where a manifest.csv has
splits) in which a face is found; all parts and glasses are erased from the largest face. `skin_kid` compares with bare skin
of the split `train`; without one it is not taken. --openpeople adds the pictures of PyPI's openpeople (people who do not
exist) as a group of their own. In the result each figure has median, p90, low, high (a 95 % bootstrap interval of the median
over photographs) and n; `groups` has the same by size of face and skin tone, `goals` which goals are met. `found` is the
share of photographs in which the detector still finds a face.

--sheet shows what was done. --blind writes pairs of two rows at full size, sides shuffled, for a judge who does not know
which is which; key.json tells. Both show people: they are for looking at, and not for publishing.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import multiprocessing
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from faceeraser import erasing
from faceeraser.face import picture
from faceeraser.face.crops import align, paste_back
from faceeraser.face.finder import find_faces
from faceeraser.face.glasses import glasses_score
from faceeraser.face.masks import face_mask, with_creases
from faceeraser.face.mesh import OVAL, Face
from faceeraser.face.occluders import Occluders, trimmed
from faceeraser.measurement import judge, looks, metrics, patches, results
from faceeraser.model import opening, pairs
from faceeraser.system import script, writing

Pictures = dict[str, np.ndarray]
Fill = Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]
"""(crop uint8, mask bool, the oval in it, pixels to a unit) -> the crop, filled."""

MASK_SIDE = 256  # pixels of the crop on which masks are drawn, those of the models that are measured
FEATHER = 1.75  # units: at twice that width the parts' shadows shine through at the border
MARGIN = 30  # units of the photograph around a face's oval that a filling sees
REFERENCES, SCANNED = 60, 500  # photographs of real skin in each class of size, and how many are looked at for them
CONTROLS = ("noise", "tile")
OWN = "own_skin"


# --- goals ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """Bounds of one statistic of a figure; `mask`: the mask alone decides it; `against`: what the bound is taken from."""

    figure: str
    statistic: str
    low: float = -math.inf
    high: float = math.inf
    mask: bool = False
    against: str = ""

    def __str__(self) -> str:
        bounds = [f"at least {self.low:g}"] * (self.low > -math.inf) + [f"at most {self.high:.4g}"] * (self.high < math.inf)
        return f"{self.figure} {self.statistic} {' and '.join(bounds)}" + (f" ({self.against})" if self.against else "")

    def met(self, summary: Mapping[str, Any] | None) -> bool | None:
        """Whether a summary meets it; None where the figure could not be taken."""
        value = summary.get(self.statistic) if summary else None
        return None if value is None else self.low <= value <= self.high

    def reached(self, summary: Mapping[str, Any] | None) -> bool | None:
        """Whether the 95 % interval of a summary's median has the goal in it; None where there is none."""
        if not summary or summary.get("low") is None:
            return None
        return summary["low"] <= self.high and summary["high"] >= self.low


GOALS = (
    Goal("grain", "median", -0.08, 0.04),
    Goal("grain", "p90", high=0.12),
    Goal("texture", "median", 0.85, 1.15),
    Goal("spectrum", "median", high=1.0),
    Goal("outliers", "p90", high=0.003),
    Goal("bleed", "p90", high=0.001),
    Goal("step", "median", high=0.8),
    Goal("step", "p90", high=1.0),
    Goal("crease", "median", high=1.08, mask=True),
    Goal("crease", "p90", high=1.2, mask=True),
    Goal("cover", "median", low=0.99, mask=True),
    Goal("area", "median", high=1.25 * 0.53, mask=True),
)


def goals_of(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> list[Goal]:
    """GOALS, and those that depend on other figures or rows: repeat on own skin's, skin_kid on those of other rows."""
    own = row.get("repeat_own") or {"median": math.inf}
    goals = [*GOALS, Goal("repeat", "median", high=own["median"] + 0.05, against="own skin's and 0.05")]
    for rival, share in (("previous", 0.5), ("noise", 0.5), ("tile", 0.5), ("skin_patches", 1.0)):
        summary = rows.get(rival, {}).get("skin_kid")
        if summary and rival != row["name"]:
            of = f"{share:g} of {rival}'s" if share < 1 else f"{rival}'s"
            goals.append(Goal("skin_kid", "median", high=share * summary["median"], against=of))
    return goals


def judged(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`goals`: whether each is met, by its words; `groups_missed`: where a group's interval leaves the goal out;
    `painting_misses`: how many goals are missed that do not hang on the mask alone.
    """
    goals = goals_of(row, rows)
    missed = [
        f"{group}: {goal.figure}"
        for group, figures in row.get("groups", {}).items()
        for goal in goals
        if goal.statistic == "median" and goal.reached(figures.get(goal.figure)) is False
    ]
    figures = {str(goal): goal.met(row.get(goal.figure)) for goal in goals}
    painted = [goal.met(row.get(goal.figure)) for goal in goals if not goal.mask]
    return {"goals": figures, "groups_missed": sorted(set(missed)), "painting_misses": painted.count(False)}


# --- rows -----------------------------------------------------------------------------------------------------------


def hole_of(image: np.ndarray, face: Face) -> np.ndarray:
    """What to erase, (H, W) bool on the photograph's own grid: the mask that the models get, not resampled pixels."""
    crop, matrix = align(image, face, MASK_SIDE)
    mask = with_creases(face_mask(image, face, MASK_SIDE)[0], crop, face.moved(matrix))
    mask, _ = trimmed(mask, _occluders()(crop))
    back = cv2.invertAffineTransform(matrix)
    return cv2.warpAffine(mask.astype(np.float32), back, image.shape[1::-1]) > 0.5


@functools.cache
def _occluders() -> Occluders:
    return Occluders()


def on_photograph(fill: Fill, image: np.ndarray, face: Face, hole: np.ndarray) -> np.ndarray:
    """The photograph with its hole filled on its own grid."""
    oval, scale = face.mesh[OVAL], looks.scale_of(face.mesh)
    low = np.maximum(np.floor(oval.min(0) - MARGIN * scale), 0).astype(int)
    high = np.ceil(oval.max(0) + MARGIN * scale).astype(int) + 1
    there = (slice(low[1], high[1]), slice(low[0], high[0]))
    painted = fill(np.ascontiguousarray(image[there]), hole[there], oval - low, scale)
    shift = np.array([[1, 0, -low[0]], [0, 1, -low[1]]], np.float64)
    return paste_back(image, painted, shift, hole[there], feather=FEATHER * scale)


def fill_noise(crop: np.ndarray, mask: np.ndarray, oval: np.ndarray, scale: float) -> np.ndarray:
    """A control: the membrane of skin_patches with white noise whose detail has own skin's deviation."""
    plan, seen = _planned(crop, mask, oval, scale)

    def deviation(picture: np.ndarray, where: np.ndarray) -> float:
        detail = picture - cv2.GaussianBlur(picture, (0, 0), 2 * scale)
        return float(np.median(np.abs(detail[where]))) if where.any() else 0.0

    noise = np.random.default_rng(0).standard_normal(mask.shape).astype(np.float32)
    own = deviation(metrics.luma(seen), plan.usable > 0) / deviation(noise, np.ones_like(mask))
    return _levels(plan.shading + own * noise[..., None])


def fill_tile(crop: np.ndarray, mask: np.ndarray, oval: np.ndarray, scale: float) -> np.ndarray:
    """A control: skin_patches with the patch of the middlemost cell in every cell."""
    plan, _ = _planned(crop, mask, oval, scale)
    cells = np.argwhere((plan.shifts != 0).any(2))
    if not len(cells):
        return _levels(patches.paint(plan))
    row, column = cells[np.linalg.norm(cells - cells.mean(0), axis=1).argmin()]
    source = plan.shifts[row, column] + plan.cell * np.array([column, row])
    shifts = np.zeros_like(plan.shifts)
    shifts[cells[:, 0], cells[:, 1]] = source - plan.cell * cells[:, ::-1]
    return _levels(patches.paint(replace(plan, shifts=shifts)))


def _planned(crop: np.ndarray, mask: np.ndarray, oval: np.ndarray, scale: float) -> tuple[patches.Plan, np.ndarray]:
    seen = np.where(mask[..., None], 0, crop).astype(np.float32) / 255
    return patches.plan(seen, mask, oval, scale), seen


def _levels(picture: np.ndarray) -> np.ndarray:
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _navier_stokes(crop: np.ndarray, mask: np.ndarray, oval: np.ndarray, scale: float) -> np.ndarray:
    return metrics.fill_navier_stokes(crop, mask)


FILLS: Mapping[str, Fill] = {
    "skin_patches": patches.fill,
    "navier_stokes": _navier_stokes,
    "noise": fill_noise,
    "tile": fill_tile,
}


# --- one photograph -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Measured:
    """A photograph: its face's size and skin tone, and by row the figures, patches of the hole and what it looks like.

    figures is empty where there is too little own skin; shown (crops around the face, the untouched one first) only where
    somebody is to look at them.
    """

    name: str
    width: float
    ita: float
    figures: Mapping[str, Mapping[str, float]]
    patches: Mapping[str, np.ndarray]
    found: Mapping[str, bool]
    shown: Pictures


class Bench:
    """The models, opened; called with a photograph it measures every row on it."""

    def __init__(self, models: Sequence[tuple[str, Path]], show: bool) -> None:
        self.models = {name: erasing.Eraser(path) for name, path in models}
        self.show = show

    def __call__(self, file: Path) -> Measured | None:
        """None where no face is found."""
        image = picture.read(file).image
        if not (around := find_faces(image)):
            return None
        face, scale = around[0], looks.scale_of(around[0].mesh)
        hole = hole_of(image, face)
        erased = {name: model.photograph(image, known=[face]).image for name, model in self.models.items()}
        erased |= {name: on_photograph(fill, image, face, hole) for name, fill in FILLS.items()}
        scenes = {name: looks.scene_of(image, picture, face.mesh, scale) for name, picture in erased.items()}
        there = _around(image, face)
        shown = {name: picture[there] for name, picture in {"before": image, **erased}.items()} if self.show else {}
        detected = {name: bool(find_faces(picture[there])) for name, picture in erased.items()}
        whole = {name: scene for name, scene in scenes.items() if scene is not None}
        if len(whole) < len(scenes):
            return Measured(file.name, face.width, math.nan, {}, {}, detected, shown)
        side, scene = judge.side_of(face.width), whole["skin_patches"]
        squares = {n: looks.squares(_levels(s.after), s.hole, side, judge.MOST) for n, s in whole.items()}
        figures: dict[str, Mapping[str, float]] = {name: looks.figures_of(scene) for name, scene in whole.items()}
        squares[OWN] = looks.squares(_levels(scene.before), scene.skin, side, judge.MOST)
        if (halves := looks.own_halves(scene)) is not None:
            figures[OWN] = halves
        return Measured(file.name, face.width, scene.ita, figures, squares, detected, shown)


def _around(image: np.ndarray, face: Face) -> tuple[slice, slice]:
    """The square of the photograph around a face, with a tenth more on every side."""
    oval = face.mesh[OVAL]
    low = np.maximum(np.floor((oval.min(0) + oval.max(0)) / 2 - 0.6 * face.width), 0).astype(int)
    high = np.ceil((oval.min(0) + oval.max(0)) / 2 + 0.6 * face.width).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def bare_skin(file: Path) -> tuple[str, np.ndarray] | None:
    """(class of size, patches of bare skin) of a photograph; None without a face, with glasses or without such a patch."""
    image = picture.read(file).image
    if not (around := find_faces(image)) or glasses_score(image, around[0]) >= 0.5:
        return None
    face, hole = around[0], hole_of(image, around[0])
    scene = looks.scene_of(image, np.where(hole[..., None], 255 - image, image), face.mesh, looks.scale_of(face.mesh))
    if scene is None:
        return None
    patches = looks.squares(_levels(scene.before), scene.skin, judge.side_of(face.width), judge.MOST)
    return (looks.size_class(face.width), patches) if len(patches) else None


# --- all of them ----------------------------------------------------------------------------------------------------

_BENCH: list[Bench] = []  # of a worker's process


def _open(models: Sequence[tuple[str, Path]], show: bool) -> None:
    cv2.setNumThreads(1)
    _BENCH.append(Bench(models, show))


def _measure(file: Path) -> Measured | None:
    return _BENCH[0](file)


@dataclass(frozen=True)
class Pool:
    """Runs a function over files in order, in `workers` processes, which each open the models; 1 works in this one."""

    models: Sequence[tuple[str, Path]]
    show: bool
    workers: int

    def measured(self, files: Sequence[Path], limit: int | None, what: str) -> list[Measured]:
        """The first `limit` photographs with a face, or all."""
        kept: list[Measured] = []
        work = Bench(self.models, self.show) if self.workers == 1 else _measure
        for photo in self._each(work, files, what, (self.models, self.show)):
            if photo is not None:
                kept.append(photo)
            if len(kept) == limit:
                break
        return kept

    def skin(self, files: Sequence[Path]) -> dict[str, list[np.ndarray]]:
        """Patches of bare skin by class of size, of REFERENCES photographs each where there are as many."""
        squares: dict[str, list[np.ndarray]] = {name: [] for name, _ in looks.SIZES}
        for own_skin in self._each(bare_skin, files[:SCANNED], "real skin", ((), False)):
            if own_skin is not None and len(squares[own_skin[0]]) < REFERENCES:
                squares[own_skin[0]].append(own_skin[1])
            if all(len(group) == REFERENCES for group in squares.values()):
                break
        return squares

    def _each(self, work: Callable[[Path], Any], files: Sequence[Path], what: str, opened: tuple[Any, Any]) -> Iterator[Any]:
        if self.workers == 1:
            yield from tqdm(map(work, files), total=len(files), desc=what, unit="photo")
            return
        spawn = multiprocessing.get_context("spawn")  # a process that forks while LiteRT's threads run may hang
        pool = ProcessPoolExecutor(self.workers, spawn, _open, opened)
        try:
            yield from tqdm(pool.map(work, files), total=len(files), desc=what, unit="photo")
        finally:
            pool.shutdown(cancel_futures=True)


def skin_kids(
    measured: Sequence[Measured], name: str, real: Mapping[str, Sequence[np.ndarray]]
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """skin_kid of a row over all classes of size, and by class; None where there are too few photographs to compare."""
    distances = {}
    for size, _ in looks.SIZES:
        painted = [
            photo.patches[name]
            for photo in measured
            if looks.size_class(photo.width) == size and len(photo.patches.get(name, ()))
        ]
        if min(len(painted), len(real.get(size, ()))) >= 5:
            distances[size] = judge.distance(
                *([judge.features(patches) for patches in side] for side in (painted, real[size]))
            )
    summary = judge.skin_kid(list(distances.values())) if distances else None
    return summary, {size: judge.skin_kid([distance]) for size, distance in distances.items()}


def rows_of(
    measured: Sequence[Measured], further: Sequence[Measured], real: Mapping[str, Sequence[np.ndarray]]
) -> list[dict[str, Any]]:
    """A row for each name, own skin's last; `further` are the photographs of the group openpeople."""
    rows = []
    for name in [*measured[0].found, OWN]:
        have = [photo for photo in measured if name in photo.figures]
        if not have:
            continue
        members = looks.groups([photo.width for photo in have], [photo.ita for photo in have])
        row = {"name": name, **looks.row_of([photo.figures[name] for photo in have], members)}
        row["skin_kid"], by_size = skin_kids(measured, name, real)
        for size, kid in by_size.items():
            row["groups"].setdefault(size, {})["skin_kid"] = kid
        if others := [photo.figures[name] for photo in further if name in photo.figures]:
            group = looks.row_of(others, {})
            row["groups"]["openpeople"] = {k: v for k, v in group.items() if k != "groups"}
            row["groups"]["openpeople"]["skin_kid"] = skin_kids(further, name, real)[0]
        if name != OWN:
            row["found"] = float(np.mean([photo.found[name] for photo in measured]))
        rows.append(row)
    by_name = {row["name"]: row for row in rows}
    return [row | (judged(row, by_name) if row["name"] != OWN else {}) for row in rows]


# --- looking --------------------------------------------------------------------------------------------------------


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


def write_blind(folder: Path, measured: Sequence[Measured], pair: Sequence[str], count: int, seed: int) -> None:
    """Pairs at full size, one file a face, faces drawn and sides shuffled by the seed; key.json tells which is which."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(measured))[:count]
    with writing.whole_folder(folder) as there:
        key = {}
        for number, k in enumerate(chosen, 1):
            names = [pair[side] for side in rng.permutation(2)]
            left, right = (measured[k].shown[name] for name in names)
            bar = np.full((left.shape[0], 12, 3), 255, np.uint8)
            cv2.imwrite(str(there / f"{number:03}.png"), np.concatenate([left, bar, right], 1)[..., ::-1])
            key[f"{number:03}.png"] = {"photograph": measured[k].name, "left": names[0], "right": names[1]}
        (there / "key.json").write_text(json.dumps({"seed": seed, "pairs": key}, indent=1) + "\n")


# --- command line ---------------------------------------------------------------------------------------------------


def open_people(folder: Path | None) -> list[Path]:
    """The portraits and selfies of openpeople: of the installed package (None), or of a folder that has its `curated`.

    Raises:
        ValueError: there are none.
    """
    if folder is None:
        spec = importlib.util.find_spec("openpeople")
        if spec is None or spec.origin is None:
            raise ValueError("--openpeople: the package is not installed: pip install 'faceeraser[dev]', or name its folder")
        folder = Path(spec.origin).parent / "data" / "curated"
    files = [file for name in ("studio_portrait.jpg", "amateur_selfie.jpg") for file in sorted(folder.rglob(name))]
    if not files:
        raise ValueError(f"--openpeople {folder}: found no studio_portrait.jpg or amateur_selfie.jpg in it")
    return files


def models_of(args: Namespace) -> list[tuple[str, Path]]:
    """(row, path) of every model.

    Raises:
        ValueError: two rows of one name, or a row of --pair that there is not.
    """
    given = [opening.named(text) for text in args.models]
    listed = [(name or path.stem, path) for name, path in given]
    if args.previous:
        listed.append(("previous", args.previous))
    names = [name for name, _ in listed] + [*FILLS, OWN]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two rows would be called {twice[0]}; name one of them: other={listed[-1][1]}")
    if args.blind and (unknown := set(args.pair or ()) - set(names)):
        raise ValueError(f"--pair {unknown.pop()}: no row is called so; expected two of {', '.join(names)}")
    return listed


def check(args: Namespace) -> None:
    """Raises ValueError for options that cannot be."""
    for flag in ("limit", "workers", "blind_faces"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise ValueError(f"--{flag.replace('_', '-')} {value}: expected at least 1")
    if args.blind:
        writing.check_free(args.blind, False)


def look(args: Namespace, models: Sequence[tuple[str, Path]], measured: Sequence[Measured]) -> None:
    """Write what is to be looked at."""
    if args.sheet:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(args.sheet), sheet_of([photo.shown for photo in measured])[..., ::-1])
    if args.blind:
        pair = args.pair or (models[0][0], "skin_patches")
        write_blind(args.blind, measured, pair, args.blind_faces, args.seed)


def table(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is shown of the rows: medians, and how many goals are missed."""
    shown = [name for name in looks.SKIN_FIGURES if name != "repeat_own"] + ["skin_kid"]
    return [
        {
            "name": row["name"],
            **{name: (row.get(name) or {}).get("median") for name in shown},
            "found": row.get("found"),
            "missed": sum(met is False for met in row.get("goals", {}).values()),
        }
        for row in rows
    ]


def run(args: Namespace) -> None:
    check(args)
    models, files = models_of(args), pairs.photographs(args.photos)
    people = [] if args.openpeople is None else open_people(Path(args.openpeople) if args.openpeople else None)
    pool = Pool(models, bool(args.sheet or args.blind), args.workers)
    measured = pool.measured(files, args.limit, "erase")
    if not measured:
        raise ValueError(f"{args.photos}: found no face in any of {len(files)} photographs; expected upright faces")
    look(args, models, measured)
    whole, without = [photo for photo in measured if photo.figures], [photo.name for photo in measured if not photo.figures]
    if not whole:
        raise ValueError(f"{args.photos}: too little bare skin on all {len(measured)} faces; expected some")
    further = replace(pool, show=False).measured(people, None, "openpeople") if people else []
    splits = (args.photos / "manifest.csv").is_file()
    real = pool.skin(pairs.photographs(args.photos, "train")) if splits else {}
    rows = rows_of(whole, further, real)
    data = {
        "name": args.photos.resolve().name,
        "n": len(measured),
        "eval_sha256": None,
        "openpeople": len(further),
        "real_skin": {size: len(patches) for size, patches in real.items()},
        "without_own_skin": without,
    }
    result = results.result(rows, data, args.command)
    if args.json:
        results.write_result(args.json, result)
    title = f"{len(measured)} photographs of {args.photos}, all parts erased, {len(without)} with too little bare skin"
    script.finish(title, table(rows), result)
    if passed := [row["name"] for row in rows if row["name"] in CONTROLS and not row["painting_misses"]]:
        raise script.GateFailed(f"{passed[0]} is a control and meets all goals: the figures cannot tell it from skin")


def build_parser() -> ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="folder of photographs of faces")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="checkpoint folder or exported file, or name=PATH")
    parser.add_argument("--previous", type=Path, metavar="FILE", help="one more model, the one to beat")
    parser.add_argument("--limit", type=int, help="number of photographs (default: all)")
    parser.add_argument(
        "--openpeople",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="also use openpeople's pictures, from FOLDER or as installed",
    )
    parser.add_argument("--workers", type=int, default=1, help="number of processes (default: %(default)s)")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write the pictures to this .jpg or .png")
    parser.add_argument(
        "--blind", type=Path, metavar="FOLDER", help="write pairs for a blind judge and their key to this folder"
    )
    parser.add_argument(
        "--pair", nargs=2, metavar="ROW", help="the two rows for --blind (default: the first model, skin_patches)"
    )
    parser.add_argument(
        "--blind-faces", type=int, default=60, metavar="N", help="number of faces for --blind (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed for --blind (default: %(default)s)")
    script.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

"""Turn photographs of faces into training data: a folder of blank faces, part masks and whole faces.

    report = prepare(Path("photos"), Path("data/faces"), Options(), Run(workers=4))

One photograph's outcome depends on that photograph and the options alone, so any number of workers or shards gives the same
folder, byte for byte. The folder is built as TARGET.partial and renamed when it is complete.
"""

from __future__ import annotations

import csv
import fnmatch
import functools
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from faceeraser.face import landmark_models, picture
from faceeraser.face.crops import align
from faceeraser.face.finder import find_faces
from faceeraser.face.glasses import draw_glasses, glasses_score, segment_glasses
from faceeraser.face.hair import HairTeacher
from faceeraser.face.mesh import Face
from faceeraser.face.parts import GLASSES, parts_map
from faceeraser.measurement.metrics import lab_of, typology_angle
from faceeraser.system import script, writing
from faceeraser.training import contact_sheets
from faceeraser.training.blanks import HAIR, MAX_HAIR, cut_blank, find_forehead, hair_share, stitch
from faceeraser.training.filters import acceptance
from faceeraser.training.skin import bare_skin
from faceeraser.training.splits import (
    SPLITS,
    TRAIN_ONLY,
    Item,
    chance,
    choose_bare,
    generator,
    list_photos,
    list_synthetic,
    pairs_of,
    settle_splits,
)
from faceeraser.training.synthetic import synthetic_face, synthetic_forehead

FORMAT = 1
COLUMNS = (
    "file",
    "split",
    "group",
    "taken",
    "reason",
    "forehead_px",
    "mask",
    "face_px",
    "ita",
    "glasses",
    "blank",
    "mask_file",
    "face_file",
)
"""Of manifest.csv."""
TUNE_PAIRS = 64
MAX_YAW = 35.0
"""Degrees by which a head may be turned and still give a mask."""
SMALLEST_FACE = 48
"""Least width in pixels of a face that gives a mask."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Everything except the photographs that the result depends on. Raises ValueError for impossible values."""

    size: int = 256
    """Pixels along the side of blanks, masks and faces: a multiple of 4, at least 32."""
    seed: int = 0
    """Seed of the splits, the pairs, the drawn glasses and the generated skin."""
    source: str = "photos"
    """'photos', or 'synthetic' for generated skin."""
    limit: int | None = None
    """Use only this many photographs, a fixed sample; or generate this many pictures (default: 80)."""
    min_forehead: int = 40
    """Least width of a forehead in source pixels."""
    glasses_share: float = 0.15
    """Share of the masks that include glasses, 0 to 1."""
    drop_glasses: bool = False
    """Do not use foreheads of faces with glasses, as in the paper."""
    train_only: str = TRAIN_ONLY
    """A pattern of file names that are never validated on or shown."""
    hair: str = ""
    """MediaPipe's hair_segmentation.tflite; without it, foreheads and bare skin are judged by colour and grain alone."""

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 4:
            raise ValueError(f"found size {self.size}; expected a multiple of 4, at least 32; the paper's is 256")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"found limit {self.limit}; expected at least 1")
        if not 0 <= self.glasses_share <= 1:
            raise ValueError(f"found a share of glasses of {self.glasses_share:g}; expected one from 0 to 1, such as 0.15")
        if self.hair:
            _teacher(self.hair)


@dataclass(frozen=True)
class Run:
    """How the work is done, which does not change the result. Raises ValueError for impossible values."""

    workers: int = 1
    """Processes."""
    shard: tuple[int, int] = (1, 1)
    """(i, n): process the i-th of n parts; whichever finishes last builds the folder."""
    resume: bool = False
    """Continue a run that was stopped."""
    overwrite: bool = False
    """Replace the target, or restart a stopped run from the beginning."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"found {self.workers} workers; expected at least 1")
        if not 1 <= self.shard[0] <= self.shard[1]:
            raise ValueError(f"found the shard {self.part}; expected i/n with i from 1 to n, such as 2/8")
        if self.resume and self.overwrite:
            raise ValueError("found both --resume and --overwrite; expected one: continue, or start again")

    @property
    def part(self) -> str:
        """The shard as people write it, `2/8`."""
        return f"{self.shard[0]}/{self.shard[1]}"


def prepare(photos: Path | None, target: Path, options: Options, run: Run) -> dict[str, Any]:
    """Make a folder of training data.

    Args:
        photos: a folder of photographs, searched recursively; a manifest.csv in it with the columns file, split, group
            settles who belongs together and what validates. None where they are generated.
        target: the folder to make.
        options: see there.
        run: see there.

    Returns:
        What was made: target, source, photos, n, sha256, eval_sha256, seconds, photos_per_second, acceptance, reasons. Where
        other shards have still to end, or one of them is making the folder: target, shard, waiting (which), photos. Where
        the run that is resumed had made the folder: target, source, n, sha256, eval_sha256.

    Raises:
        ValueError: there are no photographs, none of them gives a blank face, or the target is there already.
        OSError: the landmark models cannot be had, or a worker died.
    """
    partial = target.with_name(target.name + ".partial")
    writing.restore(target)
    if target.exists() and run.resume and (partial / "finishing").exists():
        shutil.rmtree(partial)  # it was killed when all was done but this
        card = json.loads((target / "data.json").read_text(encoding="utf-8"))
        return {"target": target.name, **{key: card[key] for key in ("source", "n", "sha256", "eval_sha256")}}
    if target.exists() and not run.overwrite:
        raise ValueError(f"{target}: exists already; expected a new folder; name another one or add --overwrite")
    if photos is None:
        items = list_synthetic(options.limit)
    else:
        items = list_photos(photos, options.seed, options.limit)
        landmark_models.fetch()  # once, before the workers would all do it
    with writing.alone(_open_partial(partial, items, options, run), target):
        return _prepared(target, _Work(photos, partial, options), items, run)


def _prepared(target: Path, work: _Work, items: Sequence[Item], run: Run) -> dict[str, Any]:
    """What `prepare` does once nobody else is at this shard."""
    began, partial, options = time.monotonic(), work.partial, work.options
    prepared = _prepare_shard(work, items, run)
    seconds = time.monotonic() - began
    rows: dict[str, Row] = {}
    waiting = []
    for number in range(1, run.shard[1] + 1):
        part, done = _read_rows(partial / f"rows-{number}of{run.shard[1]}.jsonl")
        rows |= part
        if not done:
            waiting.append(f"{number}/{run.shard[1]}")
    if waiting or not _may_publish(partial, rows):
        return {"target": target.name, "shard": run.part, "waiting": waiting, "photos": prepared}
    name = "synthetic" if work.photos is None else work.photos.resolve().name
    card = _publish(target, partial, items, rows, options, name)
    return {
        "target": target.name,
        "source": options.source,
        "photos": len(rows),
        "n": card["n"],
        "sha256": card["sha256"],
        "eval_sha256": card["eval_sha256"],
        "seconds": round(seconds, 1),
        "photos_per_second": round(prepared / max(seconds, 1e-9), 1),
        "acceptance": acceptance(rows.values()),
        "reasons": dict(Counter(row["reason"].split(":")[0] for row in rows.values()).most_common()),
    }


# --- one photograph -------------------------------------------------------------------------------------------------


@functools.cache
def _teacher(path: str) -> HairTeacher:
    """The hair teacher of this process."""
    return HairTeacher(path)


@dataclass(frozen=True)
class _Work:
    """What a worker needs to know: where the photographs are, None where they are generated; where results go."""

    photos: Path | None
    partial: Path
    options: Options

    def __call__(self, items: Sequence[Item]) -> list[Row]:
        """Prepare a few pictures, in a worker process or in this one."""
        cv2.setNumThreads(1)  # the processes share the cores already
        if self.photos is None:
            return [_prepare_synthetic(self.partial, item, self.options) for item in items]
        return [_prepare_photo(self.photos, self.partial, item, self.options) for item in items]


def _prepare_photo(photos: Path, partial: Path, item: Item, options: Options) -> Row:
    """Prepare one photograph: write its blank and its mask below `partial` and return its row."""
    row: Row = {"id": item.id, "file": item.file, "taken": 0, "mask": 0, "glasses": "", "reason": ""}
    path = photos / item.file
    try:
        image = picture.read(path).image
        around = find_faces(image)
    except (ValueError, MemoryError, cv2.error) as error:
        message = str(error).replace(str(path), item.file).split(": ", 1)[-1]
        return row | {"reason": f"unreadable: {message}"}
    shown = not fnmatch.fnmatch(Path(item.file).name, options.train_only)
    if not around:
        if shown:
            write_png(_thumbnail(partial, item), contact_sheets.thumbnail(image, None, None))
        return row | {"reason": "no face: none was found"}
    face = around[0]
    row |= {"face_px": round(face.width, 1), "yaw": round(face.yaw, 1)}

    crop, matrix = align(image, face, options.size)
    aligned = face.moved(matrix)
    hair = np.zeros(crop.shape[:2], np.float32)
    if options.hair:
        hair = _teacher(options.hair).around(image, matrix, options.size)
    wears = glasses_score(image, face) >= 0.5
    row["glasses"] = int(wears)
    if abs(face.yaw) <= MAX_YAW and face.width >= SMALLEST_FACE:
        row |= _write_mask(partial, item, crop, aligned, hair, wears, options)

    forehead = find_forehead(image, face)
    row |= {"forehead_px": round(forehead.width_px, 1), "cheek_ita": round(forehead.cheek_ita, 1)}
    row["measures"] = {name: round(value, 4) for name, value in forehead.measures.items()}
    reason = forehead.reason
    if not reason and hair_share(hair, forehead, matrix) > MAX_HAIR:
        reason = "hair on the forehead: by the hair teacher"
    if not reason and options.drop_glasses and wears:
        reason = "glasses: and --drop-glasses was given"
    if not reason and forehead.width_px < options.min_forehead:
        reason = f"forehead too small: {forehead.width_px:.0f} pixels across"
    blank = None
    if not reason:
        blank = cut_blank(image, forehead, options.size)
        write_png(partial / "blanks" / f"{item.id}.png", blank)
        row |= {"taken": 1, "ita": round(typology_angle(np.median(lab_of(blank).reshape(-1, 3), axis=0)), 1)}
    if shown:
        write_png(_thumbnail(partial, item), contact_sheets.thumbnail(image, face, forehead))
    return row | {"reason": reason or "taken"}


def _thumbnail(partial: Path, item: Item) -> Path:
    return partial / "thumbnails" / f"{item.id}.png"


def _write_mask(
    partial: Path, item: Item, crop: np.ndarray, aligned: Face, hair: np.ndarray, wears: bool, options: Options
) -> Row:
    """Write the mask of a face's parts and, where no glasses are in the way, the crop with its bare skin."""
    row: Row = {"mask": 1}
    frame = segment_glasses(crop, aligned) if wears else None
    row["glasses_mask"] = "real" if frame is not None else "drawn"
    if frame is None:
        frame = draw_glasses(aligned, options.size, generator("glasses", options.seed, item.file))
    # Every mask is written with glasses; which of them keep the bit is settled when all are known.
    field = parts_map(aligned, options.size, glasses=frame)
    write_png(partial / "masks" / f"{item.id}.png", field)
    if options.hair:  # what the network that looks for hair in front of faces is taught
        write_png(partial / "hair" / f"{item.id}.png", np.dstack([crop, np.rint(255 * hair).astype(np.uint8)]))
    if not wears:  # glasses would have to be erased too, and what is behind them is not known to be skin
        skin = bare_skin(crop, aligned, field & np.uint8(255 - GLASSES)) & (hair <= HAIR)
        write_png(partial / "faces" / f"{item.id}.png", np.dstack([crop, 255 * skin.astype(np.uint8)]))
        row["face"] = 1
    return row


def _prepare_synthetic(partial: Path, item: Item, options: Options) -> Row:
    """Generate one blank and one mask: the same files and row as `_prepare_photo`."""
    rng = generator("synthetic", options.seed, item.id)
    blank = stitch(synthetic_forehead(options.size, rng))
    write_png(partial / "blanks" / f"{item.id}.png", blank)
    face = synthetic_face(options.size, rng)
    frame = draw_glasses(face, options.size, rng)
    write_png(partial / "masks" / f"{item.id}.png", parts_map(face, options.size, glasses=frame))
    ita = round(typology_angle(np.median(lab_of(blank).reshape(-1, 3), axis=0)), 1)
    return {
        "id": item.id,
        "file": item.file,
        "taken": 1,
        "mask": 1,
        "glasses": 0,
        "reason": "taken",
        "glasses_mask": "drawn",
        "forehead_px": options.size,
        "face_px": options.size,
        "ita": ita,
        "cheek_ita": ita,
    }


def _prepare_shard(work: _Work, items: Sequence[Item], run: Run) -> int:
    """Do this shard's items that are not done yet and keep their rows; how many that were."""
    number, count = run.shard
    own_file = work.partial / f"rows-{number}of{count}.jsonl"
    kept, done = _read_rows(own_file)
    todo = [item for place, item in enumerate(items) if place % count == number - 1 and item.id not in kept]
    with own_file.open("a", encoding="utf-8") as stream:
        stream.write("\n")  # ends a line that a kill may have cut short

        def keep(row: Row) -> None:
            stream.write(json.dumps(row) + "\n")
            stream.flush()

        _prepare_all(work, todo, run.workers, keep)
        if not done:
            stream.write(json.dumps({"done": True}) + "\n")
    return len(todo)


def _prepare_all(work: _Work, items: Sequence[Item], workers: int, keep: Callable[[Row], None]) -> None:
    """Prepare every item, calling `keep` with each row as soon as it is there."""
    chunks = [items[start : start + 8] for start in range(0, len(items), 8)]

    def results() -> Iterator[list[Row]]:
        if workers == 1 or len(chunks) < 2:
            yield from map(work, chunks)
            return
        # Fresh processes, not forks: LiteRT's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(chunks)), context, script.leave_with_parent) as pool:
            try:
                for future in as_completed([pool.submit(work, chunk) for chunk in chunks]):
                    yield future.result()
            except BaseException:  # stopped: nobody waits for what is not done
                pool.shutdown(wait=False, cancel_futures=True)
                for child in multiprocessing.active_children():
                    child.terminate()
                raise

    try:
        with tqdm(total=len(items), unit="photo", desc="prepare", disable=None) as bar:
            for rows in results():
                for row in rows:
                    keep(row)
                bar.update(len(rows))
    except BrokenProcessPool:
        raise ChildProcessError(
            "a worker process was killed, usually because memory ran out; "
            "run the same command with --resume and fewer --workers"
        ) from None


# --- the partial folder ---------------------------------------------------------------------------------------------


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W), (H, W, 3) or (H, W, 4) uint8 RGB(A)."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 4])
    assert done
    path.write_bytes(data.tobytes())


def read_png(path: Path) -> np.ndarray:
    """Read what `write_png` wrote."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, f"{path}: written by this run and gone"
    return pixels if pixels.ndim == 2 else pixels[..., ::-1]


def _open_partial(partial: Path, items: Sequence[Item], options: Options, run: Run) -> Path:
    """Make the partial folder, or check that it belongs to the same work; returns the file of this shard's rows."""
    listing = hashlib.sha256("\n".join(f"{i.file}\t{i.group}\t{i.split}" for i in items).encode()).hexdigest()
    number, count = run.shard
    wanted = asdict(options) | {"shards": count, "listing": listing}
    own = partial / f"rows-{number}of{count}.jsonl"
    if run.overwrite and number == 1 and partial.exists():
        shutil.rmtree(partial)
    if own.exists() and not run.resume:
        raise ValueError(f"{partial}: a run was stopped here; add --resume to continue or --overwrite to start again")
    for name in ("blanks", "masks", "faces", "hair", "thumbnails"):
        (partial / name).mkdir(parents=True, exist_ok=True)
    settings = partial / "options.json"
    fresh = partial / f"options-{os.getpid()}-{number}.json"
    fresh.write_text(json.dumps(wanted, indent=2), encoding="utf-8")
    try:
        os.link(fresh, settings)  # fails when it exists: only the first of several shards settles it
    except FileExistsError:
        begun = json.loads(settings.read_text(encoding="utf-8"))
        changed = [name for name in wanted if begun.get(name) != wanted[name]]
        if changed:
            raise ValueError(
                f"{partial}: was started with other {', '.join(changed)}; expected the same photographs and options; "
                "give those again, or remove the folder"
            ) from None
    finally:
        fresh.unlink()
    if run.resume:
        (partial / "finishing").unlink(missing_ok=True)
    own.touch()
    return own


def _read_rows(path: Path) -> tuple[dict[str, Row], bool]:
    """The rows that a run has kept, by id, and whether it came to its end. A line cut short by a kill is dropped."""
    rows: dict[str, Row] = {}
    done = False
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if "done" in row:
                done = True
            else:
                rows[row["id"]] = row
    return rows, done


def _may_publish(partial: Path, rows: Mapping[str, Row]) -> bool:
    """Whether this process makes the folder: not when another shard is at it. Raises ValueError when nothing was taken."""
    if not any(row["taken"] for row in rows.values()):
        reasons = Counter(row["reason"].split(":")[0] for row in rows.values())
        reason, count = reasons.most_common(1)[0]
        example = next(row for row in rows.values() if row["reason"].startswith(reason))
        shutil.rmtree(partial)
        raise ValueError(
            f"none of {len(rows)} photographs gave a blank face, most often ({count}) because of: {reason} "
            f"(such as {example['file']}: {example['reason'].split(': ', 1)[-1]}); "
            "expected frontal faces with bare foreheads"
        )
    try:
        os.close(os.open(partial / "finishing", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


# --- the whole folder -----------------------------------------------------------------------------------------------


def _publish(
    target: Path, partial: Path, items: Sequence[Item], rows: Mapping[str, Row], options: Options, name: str
) -> dict[str, Any]:
    """Build the folder from what the runs left in `partial` and move it to its place; returns its data.json."""
    whole = partial / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    split_of = settle_splits(items, rows, options.seed, options.train_only)
    for kind in ("blanks", "masks", "faces", *(["hair"] if options.hair else [])):
        for split in SPLITS:
            (whole / kind / split).mkdir(parents=True)
    used = [item for item in items if split_of[item.id] in SPLITS]
    bare = choose_bare(used, rows, split_of, options.seed, options.glasses_share)
    table = [_placed(partial, whole, item, rows[item.id], split_of[item.id], item.id in bare) for item in items]
    if options.hair:
        for row in (row for row in table if row["mask_file"]):
            hair = Path(row["mask_file"].replace("masks", "hair", 1))
            _copy(partial / "hair" / hair.name, whole / hair)
    write_csv(whole / "manifest.csv", COLUMNS, table)
    write_csv(whole / "eval.csv", ("blank", "mask"), pairs_of(table, "val", options.seed))
    write_csv(whole / "tune.csv", ("blank", "mask"), pairs_of(table, "train", options.seed)[:TUNE_PAIRS])
    _write_sheets(partial, whole, items, rows, options)
    card = {
        "format": FORMAT,
        "name": name,
        "source": options.source,
        "size": options.size,
        "seed": options.seed,
        "n": {split: _counts(table, split) for split in SPLITS},
        "eval_sha256": hashlib.sha256((whole / "eval.csv").read_bytes()).hexdigest(),
        "sha256": _sha256_of(whole),
    }
    (whole / "data.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    writing.publish(whole, target)
    shutil.rmtree(partial)
    return card


def _counts(table: Sequence[Row], split: str) -> dict[str, int]:
    """How many files of each kind a split has."""
    own = [row for row in table if row["split"] == split]
    columns = {"blanks": "blank", "masks": "mask_file", "faces": "face_file"}
    return {kind: sum(1 for row in own if row[column]) for kind, column in columns.items()}


def _sha256_of(whole: Path) -> str:
    """One checksum of a folder's pictures and tables and their names."""
    sums = hashlib.sha256()
    names = sorted(path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.suffix in (".png", ".csv"))
    for name in names:
        sums.update(f"{name} {hashlib.sha256((whole / name).read_bytes()).hexdigest()}\n".encode())
    return sums.hexdigest()


def _placed(partial: Path, whole: Path, item: Item, row: Row, split: str, bare: bool) -> Row:
    """Put a photograph's files where they belong; its line of manifest.csv. `bare`: its mask loses its glasses."""
    taken, mask, reason = row["taken"], row["mask"], row["reason"]
    if split not in SPLITS:
        taken, mask, reason = 0, 0, f"split: {split!r} is neither train nor val"
    files = {"blank": "", "mask_file": "", "face_file": ""}
    if taken:
        files["blank"] = f"blanks/{split}/{item.id}.png"
        _copy(partial / "blanks" / f"{item.id}.png", whole / files["blank"])
    if mask:
        files["mask_file"] = f"masks/{split}/{item.id}.png"
        source = partial / "masks" / f"{item.id}.png"
        if bare:
            write_png(whole / files["mask_file"], read_png(source) & np.uint8(255 - GLASSES))
        else:
            _copy(source, whole / files["mask_file"])
        if row.get("face"):
            files["face_file"] = f"faces/{split}/{item.id}.png"
            _copy(partial / "faces" / f"{item.id}.png", whole / files["face_file"])
    return {
        "file": item.file,
        "split": split,
        "group": item.group,
        "taken": taken,
        "reason": reason,
        "mask": mask,
        "forehead_px": row.get("forehead_px", 0),
        "face_px": row.get("face_px", 0),
        "ita": row.get("ita", row.get("cheek_ita", "")),
        "glasses": row["glasses"],
        **files,
    }


def _copy(source: Path, target: Path) -> None:
    """A hard link where the file system has them: the partial folder is removed in the end."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table, in UTF-8 and with the same bytes everywhere."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(stream.getvalue().encode())


def _write_sheets(partial: Path, whole: Path, items: Sequence[Item], rows: Mapping[str, Row], options: Options) -> None:
    """Contact sheets: the photographs taken with their blank faces, and those rejected with the reason."""
    ordered = sorted(items, key=lambda item: (chance("sheet", options.seed, item.file), item.file))
    cells: dict[int, list[np.ndarray]] = {0: [], 1: []}
    for item in ordered:
        row, small = rows[item.id], _thumbnail(partial, item)
        if options.source == "photos" and not small.is_file() and not row["reason"].startswith("unreadable"):
            continue
        group = cells[row["taken"]]
        if len(group) >= contact_sheets.COLUMNS * contact_sheets.ROWS // (1 + row["taken"]):
            continue
        pictures = [read_png(small)] if small.is_file() else []
        caption = row["reason"][:22]
        if row["taken"]:
            blank, side = read_png(partial / "blanks" / f"{item.id}.png"), contact_sheets.SIDE
            pictures.append(cv2.resize(blank, (side, side), interpolation=cv2.INTER_AREA))
            caption = f"{row['forehead_px']:.0f} px, ITA {row['ita']:.0f}"
        group.append(contact_sheets.cell(pictures, (item.id[-22:], caption)))
    for taken, name in ((1, "taken"), (0, "rejected")):
        (whole / f"{name}.jpg").write_bytes(contact_sheets.sheet(cells[taken], f"nothing was {name}"))

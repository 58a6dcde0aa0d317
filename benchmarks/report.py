"""One self-contained HTML page of results: whether the budgets are met, first; then pictures, figures, times, history.

    python benchmarks/report.py runs/demo/result.json --data data/faces --models int8=exports/int8.tflite report.html
    python benchmarks/report.py --max-ms 16 --max-mb 2 result.json latency.json android.json prediction.json report.html

The page asks for nothing from any network (its own policy forbids it) and opens from a disk or on a phone. RESULT files are
told apart by their rows: quality (benchmarks/fidelity.py), times (latency.py, and android.py with device and delegate),
estimates (predict.py). Budgets are Snap's 30 frames a second (33.3 ms) and 8 MB unless given; a time counts for the budget
only if a phone was measured: times of this computer, of an emulated device and estimates are shown as what they are.

With --models the page has their history and operators, with --data as well what they paint: whole faces before and after
a slider, and validation pairs, spread evenly over the evaluation list, with maps of the difference from the truth (the
figures' own mirrored mask). `--photo` takes photographs of one's own instead of scikit-image's astronaut. Pages that show
people are not for publishing. docs/report.md tells more.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import math
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment
from tqdm import tqdm

from faceeraser.artifacts import contents
from faceeraser.artifacts.card import card_path, read_card
from faceeraser.artifacts.files import KINDS, bytes_of, kind_of
from faceeraser.face.crops import align, paste_back
from faceeraser.face.finder import find_faces
from faceeraser.face.masks import face_mask
from faceeraser.face.mesh import Face
from faceeraser.face.picture import read as read_picture
from faceeraser.measurement import metrics, results
from faceeraser.model import pairs
from faceeraser.model.opening import Model, open_model
from faceeraser.system import script
from faceeraser.system.history import read_history
from faceeraser.system.writing import whole_file

Row = Mapping[str, Any]
Fields = dict[str, Any]

# Field, heading, digits, and which way is better: 1 up, -1 down, 0 towards one, None neither.
COLUMNS: tuple[tuple[str, str, int, int | None], ...] = (
    ("psnr_hole_mirrored", "PSNR, hole, mirrored (dB)", 2, 1),
    ("psnr_hole_smooth", "PSNR, shading (dB)", 2, 1),
    ("texture_energy", "texture energy (1 = truth)", 2, 0),
    ("texture_swd", "texture SWD", 2, -1),
    ("texture_swd_centred", "texture SWD, detail", 2, -1),
    ("psnr_vs_fp32", "PSNR against fp32 (dB)", 1, None),
    ("psnr_hole", "PSNR, hole (dB)", 2, 1),
    ("psnr", "PSNR, picture (dB)", 2, 1),
    ("gmacs", "GMACs", 3, -1),
    ("params", "parameters", 0, -1),
    ("bytes", "bytes", 0, -1),
    ("ms", "ms, LiteRT", 1, -1),
    ("ms_torch", "ms, torch", 1, -1),
)
QUALITY = "psnr_hole_mirrored"  # what the verdict's drop and the plots are of
SHOWN_PX = 256  # at most, for pictures of pairs; more would make the page too heavy for a phone
SHOWN_ROWS = 6  # models that paint; a page of fifty columns of faces is one that nobody compares anything on
SHOWN_WHOLE = 6  # pairs and faces that show all of those models; the others show the first and the one to ship
PICTURE_BYTES = 6_500_000  # of JPEG; in base64 a third more, and the page stays below 10 MB
SCALES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125)
DIFFERENCE = 8  # difference maps show so many times what there is
SNAP_MS, SNAP_MB = 1000 / 30, 8.0
SMOOTH = 0.5  # texture energy below which a row is a smear, whatever its PSNR: classical fills have 0.1, what ships 1

# --- pictures --------------------------------------------------------------------------------------------------------


def data_uri(picture: np.ndarray, longest: int, quality: int = 90) -> str:
    """A uint8 picture, grey (H, W) or RGB (H, W, 3), as a JPEG data URI, shrunk to `longest` pixels if larger."""
    whole, coded = cv2.imencode(
        ".jpg", shrunk(picture, longest)[..., ::-1] if picture.ndim == 3 else shrunk(picture, longest),
        [cv2.IMWRITE_JPEG_QUALITY, quality],
    )  # fmt: skip
    assert whole
    return "data:image/jpeg;base64," + base64.b64encode(coded.tobytes()).decode()


def shrunk(picture: np.ndarray, longest: int) -> np.ndarray:
    """The picture, its longer side at most `longest` pixels."""
    scale = longest / max(picture.shape[:2])
    if scale >= 1:
        return picture
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


class Album:
    """All pictures of a page, which are only encoded when it is known how many there are: together they have a budget."""

    def __init__(self, most: int = PICTURE_BYTES) -> None:
        """most: bytes of JPEG in all."""
        self.most, self._pictures = most, []  # type: ignore[var-annotated]
        self.scale = 1.0

    def add(self, picture: np.ndarray, longest: int) -> Fields:
        """{"key", "width", "height"} of a picture that the page will show at most `longest` pixels large."""
        kept = shrunk(picture, longest)
        self._pictures.append(kept.copy())
        return {"key": len(self._pictures) - 1, "width": kept.shape[1], "height": kept.shape[0]}

    def uris(self) -> list[str]:
        """The data URIs, by key. All pictures are shrunk alike until they fit the budget."""
        encoded: list[str] = []
        for self.scale in SCALES:
            encoded = [data_uri(p, max(16, round(max(p.shape[:2]) * self.scale))) for p in self._pictures]
            if sum(len(uri) for uri in encoded) * 3 / 4 <= self.most:
                break
        return encoded


def at_size(method: metrics.Method, size: int, picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`method` on a picture of another size: shrunk or enlarged for it, and its hole put back into the picture."""
    if picture.shape[:2] == (size, size):
        return metrics.composite(picture, method(picture, mask), mask)
    smaller = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    hole = cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)
    painted = cv2.resize(method(smaller, hole), picture.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return metrics.composite(picture, painted, mask)


def difference_map(painted: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How far RGB is from the truth inside the mask, in colours: dark for nothing, white for 255 / DIFFERENCE levels."""
    distance = np.abs(painted.astype(np.float32) - truth.astype(np.float32)).mean(axis=2) * (mask > 0)
    levels = np.clip(np.rint(distance * DIFFERENCE), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1])


def outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with what is erased tinted."""
    tint = picture * 0.35 + np.array([255, 64, 129]) * 0.65
    return np.where(mask[..., None] > 0, tint, picture).astype(np.uint8)


def spread(n: int, count: int) -> list[int]:
    """`count` positions, at most n, spread evenly over n."""
    return sorted({round(k) for k in np.linspace(0, n - 1, min(count, n))}) if n and count > 0 else []


def gallery(models: Mapping[str, Model], listed: Sequence[pairs.Pair], best: str | None, album: Album) -> list[Fields]:
    """Figures of validation pairs: the truth, the hole, what each row and classical fill makes of it, and how far off."""
    shown = []
    for number, pair in enumerate(tqdm(listed, desc="pairs", leave=False)):
        mask = metrics.mirrored(pair.mask)
        emptied = pair.truth * (1 - mask)[..., None]
        whole = number < SHOWN_WHOLE
        painted = {
            name: at_size(model.method, model.resolution, emptied, mask)
            for name, model in models.items()
            if whole or name in (next(iter(models)), best)
        }
        if whole:
            painted |= {name: fill(emptied, mask) for name, fill in metrics.CLASSICAL.items()}
        cells = [
            {"label": label, "picture": album.add(picture, SHOWN_PX), "map": None, "note": ""}
            for label, picture in (("truth", pair.truth), ("hidden", emptied))
        ]
        for label, picture in painted.items():
            cells.append({
                "label": label, "picture": album.add(picture, SHOWN_PX),
                "map": album.add(difference_map(picture, pair.truth, mask), SHOWN_PX),
                "note": f"{metrics.psnr(picture, pair.truth, mask):.1f} dB",
            })  # fmt: skip
        shown.append({"name": pair.name, "cells": cells, "whole": whole})
    return shown


def whole_faces(models: Mapping[str, Model], folder: Path, count: int, best: str | None, album: Album) -> list[Fields]:
    """Sliders of validation faces of a prepared folder, each with its own parts erased; none where it has no faces."""
    with open(folder / "manifest.csv", newline="") as file:
        known = [row for row in csv.DictReader(file) if row["split"] == "val" and row.get("face_file") and row["mask_file"]]
    shown = []
    for number, row in enumerate(tqdm([known[k] for k in spread(len(known), count)], desc="faces", leave=False)):
        picture = cv2.imread(str(folder / row["face_file"]), cv2.IMREAD_COLOR)
        parts = cv2.imread(str(folder / row["mask_file"]), cv2.IMREAD_GRAYSCALE)
        if picture is None or parts is None:
            raise ValueError(f"{folder / row['face_file']}: listed by manifest.csv but cannot be read; prepare it again")
        image = np.ascontiguousarray(picture[..., ::-1])
        mask = (cv2.resize(parts, image.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0).astype(np.uint8)
        chosen = {n: m for n, m in models.items() if number < SHOWN_WHOLE or n in (next(iter(models)), best)}
        shown.append(slider(
            Path(row["face_file"]).stem, "a validation photograph; nobody trained on it", image, outlined(image, mask),
            {name: at_size(model.method, model.resolution, image, mask) for name, model in chosen.items()}, album, 384,
        ))  # fmt: skip
    return shown


def slider(
    name: str, about: str, before: np.ndarray, marked: np.ndarray | None, after: Mapping[str, np.ndarray], album: Album,
    longest: int,
) -> Fields:  # fmt: skip
    """A picture and what stands on the other side of its slider, by label."""
    sides = {**({"what is erased": marked} if marked is not None else {}), **after}
    return {
        "name": name, "about": about, "before": album.add(before, longest),
        "after": [{"label": label, "picture": album.add(picture, longest)} for label, picture in sides.items()],
    }  # fmt: skip


def photographs(files: Sequence[Path]) -> list[tuple[str, np.ndarray]]:
    """(what to call it, uint8 RGB) of each file, or of scikit-image's astronaut when there are none."""
    if files:
        return [(file.name, read_picture(file).image) for file in files]
    import skimage.data

    return [("Eileen Collins (scikit-image's astronaut; NASA, public domain)", skimage.data.astronaut())]


def around(faces: Sequence[Face], shape: Sequence[int]) -> tuple[slice, slice]:
    """The part of a picture (H, W, ...) that holds all faces and their surroundings; all of it when there is none."""
    if not faces:
        return slice(None), slice(None)
    boxes = [(face.mesh.min(axis=0) - 0.8 * face.width, face.mesh.max(axis=0) + 0.8 * face.width) for face in faces]
    low = np.min([box[0] for box in boxes], axis=0).clip(0).astype(int)
    high = np.max([box[1] for box in boxes], axis=0).clip(0, shape[1::-1]).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def erased_photographs(models: Mapping[str, Model], files: Sequence[Path], best: str | None, album: Album) -> list[Fields]:
    """Sliders of photographs, cut to the faces in them: before, the parts found, and after, by every row."""
    shown: list[Fields] = []
    for number, (name, image) in enumerate(tqdm(photographs(files), desc="photographs", leave=False)):
        around_here = find_faces(image)
        view = around(around_here, image.shape)
        people = f"{len(around_here)} face{'s' if len(around_here) != 1 else ''} found"
        after, marked = {}, None
        if around_here:
            marked, crops = image.copy(), []
            for face in around_here:
                crop, matrix = align(image, face)
                mask = face_mask(image, face, crop.shape[0])[0].astype(np.uint8)
                crops.append((crop, matrix, mask))
                marked = paste_back(marked, np.full_like(crop, (255, 64, 129)), matrix, mask, 0)
            fills = {n: (m.method, m.resolution) for n, m in models.items()
                     if number < SHOWN_WHOLE or n in (next(iter(models)), best)}  # fmt: skip
            for label, (method, size) in {**fills, "navier_stokes": (metrics.fill_navier_stokes, 256)}.items():
                painted = image.copy()
                for crop, matrix, mask in crops:
                    painted = paste_back(painted, at_size(method, size, crop, mask), matrix, mask)
                after[label] = painted[view]
        shown.append(slider(
            name, people if around_here else "no face found in it, so nothing was erased", image[view],
            marked[view] if marked is not None else None, after, album, 640,
        ))  # fmt: skip
    return shown


# --- figures ---------------------------------------------------------------------------------------------------------


def cell(row: Row, first: Row, field: str, digits: int, better: int | None) -> dict[str, str]:
    """{"text", "change", "tone"} of one figure: its value, and how it stands to the first row's."""
    value, base = row.get(field), first.get(field)
    if value is None:
        return {"text": "–", "change": "", "tone": ""}
    text = f"{value:,.{digits}f}"
    if field == "psnr_vs_fp32" and value >= metrics.PSNR_CAP:
        text = "identical"
    if row is first or base is None or better is None:
        return {"text": text, "change": "", "tone": ""}
    sizes = field in ("gmacs", "params", "bytes", "ms", "ms_torch")
    if sizes:
        change = f"× {value / base:.2f}" if base else ""
    else:
        change = f"{value - base:+.{digits}f}"
    gain = abs(base - 1) - abs(value - 1) if better == 0 else better * (value - base)
    small = 0.5 * 10**-digits
    return {"text": text, "change": change, "tone": "" if abs(gain) < small else "better" if gain > 0 else "worse"}


def table(rows: Sequence[Row]) -> Fields:
    """Headings and lines of the result's table, with the columns that any row has."""
    columns = [column for column in COLUMNS if any(row.get(column[0]) is not None for row in rows)]
    lines = [
        {
            "name": row["name"],
            "classical": is_control(row),
            "resized": row.get("resized_from"),
            "cells": [cell(row, rows[0], field, digits, better) for field, _, digits, better in columns],
        }
        for row in rows
    ]
    return {"headings": [heading for _, heading, _, _ in columns], "lines": lines}


def is_control(row: Row) -> bool:
    """Whether a row stands in the table to be compared with, and is nothing to ship."""
    return row["name"] in metrics.CLASSICAL or row.get("kind") in ("classical", "control")


# --- times -----------------------------------------------------------------------------------------------------------


def times(results: Sequence[Row]) -> tuple[list[Fields], int]:
    """(every measured time, how many rows of emulated devices were left out) of the results' rows.

    A time is {"model", "file", "device", "phone", "delegate", "threads", "ms", "low", "high", "what", "ops", "nodes",
    "taken", "doubt"}: low and high are the spread that the row tells, and `what` says which; `taken` is how many nodes a
    delegate took, `doubt` why the time may not be the device's own. The fastest of a model and device stands first.
    """
    timed, emulated = [], 0
    for result in results:
        for row in result["rows"]:
            # A quality row's milliseconds are latency.py's: given beside them they would stand here twice. Old builds of
            # benchmark_model tell a mean and no median.
            ms = next((row[key] for key in ("median_ms", "avg_ms") if row.get(key) is not None), None)
            emulated += bool(row.get("emulated"))
            if ms is None or row.get("estimate") or row.get("emulated"):
                continue
            device, phone = device_of(row, result)
            low, high, what = spread_of(row)
            taken = [f"{t['delegate']} took {t['nodes']} of {t['of']} nodes, in {t['partitions']} pieces"
                     for t in row.get("delegated") or []]  # fmt: skip
            timed.append({
                "model": str(row.get("model") or row["name"]), "file": row.get("file"), "device": device, "phone": phone,
                "delegate": str(row.get("delegate") or row.get("runtime") or "not told"), "threads": row.get("threads"),
                "ms": float(ms), "low": low, "high": high, "what": what, "ops": row.get("ops") or [],
                "nodes": row.get("nodes") or [], "taken": taken,
                "doubt": "; ".join(map(str, row.get("unfit") or (["throttled"] if row.get("throttled") else []))),
            })  # fmt: skip
    return sorted(timed, key=lambda t: (not t["phone"], t["device"], t["model"], t["ms"])), emulated


def of_model(timed: Sequence[Row], row: Row) -> list[Row]:
    """The times of a quality row: of its file, or of its name."""
    return [t for t in timed if t["model"] == row["name"] or (t["file"] is not None and t["file"] == row.get("file"))]


def device_of(row: Row, result: Row) -> tuple[str, bool]:
    """(what a time was taken on, whether that is a phone): android.py's rows tell a device, those of latency.py none."""
    if row.get("device") or row.get("runtime") == "benchmark_model":
        return str(row.get("device") or row.get("soc") or "a device that gives no name"), True
    hardware = result["hardware"]
    if isinstance(hardware, Mapping):
        cores = f", {hardware['cores']} cores" if hardware.get("cores") else ""
        return f"{hardware.get('cpu', 'a computer')}{cores} (a computer)", False
    return f"{hardware} (a computer)", False


def spread_of(row: Row) -> tuple[float | None, float | None, str]:
    """(low, high, what they are) of a timing row; None where it does not tell."""
    for low, high, what in (
        ("p10_ms", "p90_ms", "10th to 90th percentile"), ("p5_ms", "p95_ms", "5th to 95th percentile"),
        ("min_ms", "max_ms", "fastest to slowest"), (None, "p90_ms", "median to 90th percentile"),
    ):  # fmt: skip
        if row.get(high) is not None and (low is None or row.get(low) is not None):
            return (float(row[low]) if low else None), float(row[high]), what
    return None, None, "no spread told"


def timing_bars(timed: Sequence[Row]) -> list[Fields]:
    """The times grouped by device, with the bars' lengths in percent of the longest."""
    top = max((t["high"] or t["ms"] for t in timed), default=1) or 1
    groups: dict[str, Fields] = {}
    for t in timed:
        group = groups.setdefault(t["device"], {"device": t["device"], "phone": t["phone"], "bars": []})
        low, high = t["low"] if t["low"] is not None else t["ms"], t["high"] if t["high"] is not None else t["ms"]
        group["bars"].append({
            **t, "length": round(100 * t["ms"] / top, 2), "from": round(100 * low / top, 2),
            "span": round(100 * max(0.0, high - low) / top, 2),
        })  # fmt: skip
    return list(groups.values())


def estimate_table(estimated: Sequence[Row]) -> Fields:
    """{"classes", "models"}: the estimates with a line for each model and a column for each class of phone."""
    classes = {e["class"]: e.get("about", "") for e in estimated}
    models: dict[str, dict[str, Row]] = {}
    for e in estimated:
        models.setdefault(e["model"], {})[e["class"]] = e
    lines = []
    for name, by in models.items():
        first = next(iter(by.values()))
        lines.append({"model": name, "rows": [by.get(label) for label in classes], "gmacs": first["gmacs"],
                      "moved_mb": first["moved_mb"]})  # fmt: skip
    return {"classes": [{"name": name, "about": about} for name, about in classes.items()], "models": lines}


def ops_tables(timed: Sequence[Row], most: int = 12) -> list[Fields]:
    """Time by operator type of every timed model that tells it: the `most` longest and the rest together.

    Of android.py an operator is {"kind", "avg_ms"}, a node of the graph; {"type", "n", "ms"} does as well.
    """
    tables = []
    for t in timed:
        by: dict[str, Fields] = {}
        for op in t["ops"]:
            kind = str(op.get("kind") or op.get("type") or op.get("name"))
            ms = op.get("avg_ms", op.get("ms"))
            entry = by.setdefault(kind, {"type": kind, "n": 0, "ms": 0.0})
            entry["n"] += op.get("n") or 1
            entry["ms"] += float(ms) if ms is not None else 0.0
        ops = sorted(by.values(), key=lambda op: -op["ms"])
        total = sum(op["ms"] for op in ops)
        if total <= 0:
            continue
        if len(ops) > most:
            rest = {"type": f"{len(ops) - most} other types", "n": None, "ms": sum(op["ms"] for op in ops[most:])}
            ops = [*ops[:most], rest]
        tables.append({**{key: t[key] for key in ("model", "device", "delegate")}, "total": total,
                     "ops": [{**op, "share": round(100 * op["ms"] / total, 1)} for op in ops]})  # fmt: skip
    return tables


# --- the verdict -----------------------------------------------------------------------------------------------------


def verdict(rows: Sequence[Row], timed: Sequence[Row], estimated: Sequence[Row], args: Namespace) -> Fields:
    """What the budgets say of every row that is a file, and which one to ship.

    A row's checks are {"budget", "state", "text"}: "met", "missed" or "unknown". Of the rows that miss fewest budgets and
    are known to meet most, the one with the best picture is `best`: one that has texture, and of those by PSNR.
    """
    candidates = [row for row in rows if not is_control(row) and row.get("bytes") is not None]
    judged = []
    for row in candidates:
        checks = [size_check(row, args.max_mb), speed_check(row, timed, estimated, args.max_ms)]
        if args.max_drop is not None:
            checks.append(drop_check(row, rows[0], args.max_drop))
        states = [check["state"] for check in checks]
        texture = row.get("texture_energy")
        smear = texture is not None and texture < SMOOTH
        judged.append({
            "name": row["name"], "checks": checks,
            "smear": f"a smear: {texture:.2f} of the truth's texture" if smear else "",
            "state": "missed" if "missed" in states else "unknown" if "unknown" in states else "met",
            "rank": (states.count("missed"), -states.count("met"), smear, -(row.get(QUALITY) or -math.inf)),
        })  # fmt: skip
    best = min(judged, key=lambda j: j["rank"])["name"] if judged else None
    unfiled = [row["name"] for row in rows if not is_control(row) and row.get("bytes") is None]
    return {
        "best": next((j for j in judged if j["name"] == best), None), "judged": judged, "unfiled": unfiled,
        "headings": ["size", "speed", *(["quality"] if args.max_drop is not None else [])],
        "headline": headline(judged, best), "max_ms": args.max_ms, "max_mb": args.max_mb, "max_drop": args.max_drop,
    }  # fmt: skip


def size_check(row: Row, most: float) -> Fields:
    size = row["bytes"] / 1e6
    text = f"{size:.2f} MB, {'below' if size < most else 'not below'} {most:g} MB"
    return {"budget": "size", "state": "met" if size < most else "missed", "text": text, "note": ""}


def speed_check(row: Row, timed: Sequence[Row], estimated: Sequence[Row], most: float) -> Fields:
    """A phone's fastest time decides; without one the budget stays open, and what else is known is told beside it."""
    own = of_model(timed, row)
    if phones := [t for t in own if t["phone"]]:
        quick = min(phones, key=lambda t: t["ms"])
        met = quick["ms"] <= most
        where = f"{quick['device']} ({quick['delegate']})"
        text = f"{quick['ms']:.1f} ms on {where}, {'within' if met else 'over'} {most:.1f} ms"
        doubt = f"not the phone at its best: {quick['doubt']}" if quick["doubt"] else ""
        return {"budget": "speed", "state": "met" if met else "missed", "text": text, "note": doubt}
    notes = []
    if guesses := [e for e in estimated if e.get("model") == row["name"]]:
        spans = ", ".join(f"{e['class']} {e['low_ms']:.0f}–{e['high_ms']:.0f}" for e in guesses)
        notes.append(f"estimate only, ms: {spans}")
    here = [t["ms"] for t in own] or ([row["ms"]] if row.get("ms") else [])
    if here:
        notes.append(f"{min(here):.1f} ms on a computer")
    return {"budget": "speed", "state": "unknown", "text": "not measured on a phone", "note": "; ".join(notes)}


def drop_check(row: Row, first: Row, most: float) -> Fields:
    value, base = row.get(QUALITY), first.get(QUALITY)
    if value is None or base is None:
        return {"budget": "quality", "state": "unknown", "text": "not measured", "note": ""}
    drop = base - value
    text = f"{drop:.2f} dB below {first['name']}, allowed are {most:g}" if drop > 0 else f"not below {first['name']}"
    return {"budget": "quality", "state": "met" if drop <= most else "missed", "text": text, "note": ""}


def headline(judged: Sequence[Row], best: str | None) -> Fields:
    """{"state", "text"}: the page in one sentence."""
    if best is None:
        return {"state": "unknown", "text": "No row is an exported file, so no budget can be judged."}
    chosen = next(j for j in judged if j["name"] == best)
    missed = [check["budget"] for check in chosen["checks"] if check["state"] == "missed"]
    open_ = [check["budget"] for check in chosen["checks"] if check["state"] == "unknown"]
    if missed:
        text = f"No model meets the budgets. The closest is {best}; it misses {' and '.join(missed)}."
        return {"state": "missed", "text": text}
    if open_:
        known = [check["budget"] for check in chosen["checks"] if check["state"] == "met"]
        return {"state": "unknown", "text": f"{best} meets the budget of {' and '.join(known)}. "
                f"Whether it meets that of {' and '.join(open_)} is not known yet."}  # fmt: skip
    return {"state": "met", "text": f"{best} meets every budget."}


# --- plots -----------------------------------------------------------------------------------------------------------

WIDE, HIGH, LEFT, BOTTOM, TOP, RIGHT = 360, 260, 40, 34, 12, 12  # of a plot, in its own units; about a phone's pixels


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between low and high, at most `most`."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(k for k in (1, 2, 5, 10, 20) if (high - low) / (step * k) <= most)
    return [round(k * step, 10) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def pareto(rows: Sequence[Row], field: str, heading: str, unit: float, budget: float | None) -> Fields | None:
    """A plot of quality against one cost: points, the front, labels that do not lie on one another. None without two points.

    The front: rows that no other beats in one of both without being beaten in the other. Its rows have labels, as far as
    there is room; every point's label is told when it is pointed at.
    """
    points = [(row["name"], row[field] / unit, row[QUALITY]) for row in rows
              if not is_control(row) and row.get(field) is not None and row.get(QUALITY) is not None]  # fmt: skip
    if len(points) < 2:
        return None
    fill = next((row[QUALITY] for row in rows if row["name"] == "navier_stokes" and row.get(QUALITY) is not None), None)
    heights = [p[2] for p in points] + ([fill] if fill is not None else [])
    low, high = min(heights), max(heights)
    low, high = low - 0.08 * (high - low or 1), high + 0.12 * (high - low or 1)
    top = 1.08 * max([p[1] for p in points] + ([budget] if budget and budget < 3 * max(p[1] for p in points) else [])) or 1

    def x(value: float) -> float:
        return round(LEFT + (WIDE - LEFT - RIGHT) * value / top, 1)

    def y(value: float) -> float:
        return round(HIGH - BOTTOM - (HIGH - BOTTOM - TOP) * (value - low) / (high - low), 1)

    front: list[tuple[str, float, float]] = []
    for point in sorted(points, key=lambda p: (p[1], -p[2])):
        if not front or point[2] > front[-1][2]:
            front.append(point)
    names = {p[0] for p in front}
    dots = [{"name": n, "x": x(c), "y": y(q), "front": n in names, "title": f"{n}: {c:.3g} {heading}, {q:.2f} dB"}
            for n, c, q in points]  # fmt: skip
    return {
        "heading": heading, "dots": dots, "labels": labels(dots), "budget": x(budget) if budget and budget <= top else None,
        "front": " ".join(f"{x(c)},{y(q)}" for _, c, q in front),
        "fill": y(fill) if fill is not None else None,
        "xs": [{"at": x(v), "text": f"{v:g}"} for v in ticks(0, top)],
        "ys": [{"at": y(v), "text": f"{v:g}"} for v in ticks(low, high)],
    }  # fmt: skip


def labels(dots: Sequence[Row]) -> list[Fields]:
    """Where the names of the dots can stand without covering a dot or one another, the front's first; the rest have none."""
    placed: list[tuple[float, float, float, float]] = [(d["x"] - 4, d["y"] - 4, d["x"] + 4, d["y"] + 4) for d in dots]
    texts = []
    for dot in sorted(dots, key=lambda d: not d["front"]):
        name = dot["name"] if len(dot["name"]) <= 18 else dot["name"][:17] + "…"
        width = 6.2 * len(name)
        for left, baseline in (
            (dot["x"] + 7, dot["y"] + 4), (dot["x"] - 7 - width, dot["y"] + 4),
            (dot["x"] - width / 2, dot["y"] - 8), (dot["x"] - width / 2, dot["y"] + 17),
        ):  # fmt: skip
            box = (left, baseline - 10, left + width, baseline + 3)
            inside = box[0] >= LEFT + 2 and box[2] <= WIDE and box[1] >= 0 and box[3] <= HIGH - BOTTOM
            if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in placed):
                placed.append(box)
                texts.append({"x": round(left, 1), "y": round(baseline, 1), "text": name})
                break
    return texts


# --- what is known of the models -------------------------------------------------------------------------------------


def stages(history: Sequence[Row]) -> list[Fields]:
    """A model's history as a table: what each stage was, how long, and the figures before and after it."""
    rows = []
    for entry in history:
        figures = entry.get("metrics") or {}
        before, after = figures.get("before") or {}, figures.get("after") or figures
        options = entry.get("options") or {}
        rows.append({
            "stage": entry.get("stage", "?"), "steps": options.get("steps"), "seconds": figures.get("seconds"),
            "figures": [
                {"name": heading, "before": figure(before.get(field), digits), "after": figure(after.get(field), digits)}
                for field, heading, digits in (
                    (QUALITY, "PSNR, mirrored", 2), ("psnr_hole_smooth", "shading", 2), ("texture_energy", "texture", 2),
                    ("gmacs", "GMAC", 3), ("params", "parameters", 0),
                )
            ],
        })  # fmt: skip
    return rows


def figure(value: Any, digits: int) -> str:
    """A figure of a history, nothing where there is none."""
    return f"{value:,.{digits}f}" if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def histories(known: Mapping[str, Sequence[Row]], best: str | None) -> list[Fields]:
    """Every model's stages, the one to ship first; models that have one history share an entry."""
    entries: dict[str, Fields] = {}
    for name in sorted(known, key=lambda n: n != best):
        if steps := stages(known[name]):
            entries.setdefault(repr(steps), {"names": [], "stages": steps})["names"].append(name)
    return list(entries.values())


def placement(paths: Mapping[str, Path], cards: Mapping[str, Row], timed: Sequence[Row]) -> list[Fields]:
    """Each model's operators by type, and where they run as far as a result from a device says it.

    A timing row may have `delegated`, how many nodes a delegate took (android.py), and `nodes`, which: [{"type", "delegate",
    "n"}]. What no result says is unknown, and told so.
    """
    rows = []
    for name, path in paths.items():
        card = cards.get(name) or {}
        listed: list[Fields] = []
        if path.suffix == ".tflite":
            listed = contents.operators(path)
        elif counted := (card.get("checked") or {}).get("operators"):
            listed = [{"type": kind, "n": n, "moved_mb": None} for kind, n in counted.items()]
        runs = []
        for t in timed:
            if t["model"] == name and (t["nodes"] or t["taken"]):
                by: dict[str, list[str]] = {}
                for node in t["nodes"]:
                    by.setdefault(str(node["type"]), []).append(f"{node['delegate']} {node.get('n', '')}".strip())
                taken = {kind: ", ".join(names) for kind, names in by.items()}
                runs.append({"device": t["device"], "delegate": t["delegate"], "by": taken, "taken": "; ".join(t["taken"])})
        total = sum(op["n"] for op in listed)
        moved = sum(op["moved_mb"] or 0 for op in listed)
        convolutions = sum(op["n"] for op in listed if "CONV" in op["type"].upper())
        rows.append({
            "name": name, "ops": listed, "total": total, "moved": moved, "convolutions": convolutions, "runs": runs,
            "int8": (card.get("checked") or {}).get("int8_convolutions"), "kind": path.suffix.lstrip(".") or "checkpoint",
        })  # fmt: skip
    return rows


def histograms(known: Mapping[str, Sequence[Row]]) -> list[Fields]:
    """The norms' scales before and after slimming, of every history that has them, as SVG bars."""
    drawn = {}
    for name, history in known.items():
        for entry in history:
            if scales := entry.get("scales"):
                top = max([*scales["before"], *scales["after"], 1])
                drawn[repr(scales)] = {
                    "name": name,
                    "low": f"{scales['edges'][0]:.3g}",
                    "high": f"{scales['edges'][-1]:.3g}",
                    "sides": [
                        {
                            "label": side,
                            "bars": [round(100 * n / top, 2) for n in scales[side]],
                            "total": sum(scales[side]),
                        }
                        for side in ("before", "after")
                    ],
                }
    return list(drawn.values())


# --- results and models ----------------------------------------------------------------------------------------------


def sort_results(documents: Mapping[Path, Fields]) -> tuple[Fields | None, list[Fields], list[Fields]]:
    """(quality, or None; results with times; results with estimates) of the files given.

    Several results of one evaluation list become one; a row whose name is taken gets its file's name added. Raises
    ValueError when two are of different lists.
    """
    quality: Fields | None = None
    first: Path | None = None
    timings, guesses = [], []
    for path, result in documents.items():
        if any(row.get("estimate") for row in result["rows"]):
            guesses.append(result)
            continue
        timing = [row for row in result["rows"] if any(key in row for key in ("median_ms", "avg_ms", "device"))]
        if timing:
            timings.append(result)
        rows = [row for row in result["rows"] if row not in timing]
        if not any(row.get(column[0]) is not None for row in rows for column in COLUMNS):
            if not timing:
                raise ValueError(f"{path}: none of its rows has a figure, a time or an estimate that this page shows")
            continue
        if quality is None:
            quality, first = {**result, "rows": rows}, path
            continue
        ours, theirs = quality["data"].get("eval_sha256"), result["data"].get("eval_sha256")
        if ours != theirs:
            raise ValueError(
                f"{path} was measured on list {str(theirs)[:12]}, {first} on {str(ours)[:12]}: figures from different lists "
                "cannot be in one table; make two pages"
            )
        taken = {row["name"] for row in quality["rows"]}
        quality["rows"] += [
            {**row, "name": f"{row['name']} ({path.stem})"} if row["name"] in taken else row
            for row in rows if not (row["name"] in taken and is_control(row))
        ]  # fmt: skip
    return quality, timings, guesses


def model_paths(arguments: Sequence[str]) -> dict[str, Path]:
    """{name: path} of `name=path` words. Raises ValueError for another form or for a name given twice."""
    paths: dict[str, Path] = {}
    for word in arguments:
        name, equals, tail = word.partition("=")
        if not equals or not name:
            raise ValueError(f"--models {word}: expected name=path, such as int8=exports/int8.tflite")
        if name in paths:
            raise ValueError(f"--models {word}: {name} is given twice")
        paths[name] = Path(tail)
    return paths


def about_models(paths: Mapping[str, Path]) -> tuple[dict[str, Fields], dict[str, Sequence[Row]]]:
    """(cards of the exported files, histories of all). A file without a card has what can be read from it and no history.
    Raises ValueError or FileNotFoundError as their readers do.
    """
    cards: dict[str, Fields] = {}
    known: dict[str, Sequence[Row]] = {}
    for name, path in paths.items():
        if path.is_dir() and path.suffix not in KINDS:
            known[name] = read_history(path)
        else:
            beside = card_path(path).is_file() or not path.exists()
            counted = {"kind": kind_of(path), "bytes": bytes_of(path)} if not beside else {}
            cards[name] = read_card(path) if beside else {**counted, "history": []}
            known[name] = cards[name]["history"]
    return cards, known


def painters(paths: Mapping[str, Path], best: str | None) -> dict[str, Model]:
    """The models that paint: the first, the one to ship, then the others in order, at most SHOWN_ROWS."""
    order = [*list(paths)[:1], *([best] if best is not None and best in paths else []), *list(paths)[1:]]
    return {name: open_model(paths[name], name) for name in list(dict.fromkeys(order))[:SHOWN_ROWS]}


def render(
    result: Row | None, timings: Sequence[Row] = (), guesses: Sequence[Row] = (), args: Namespace | None = None,
    album: Album | None = None, **parts: Any,
) -> str:  # fmt: skip
    """The page. Every text is escaped: names of files and rows are other people's.

    result: quality, or None; timings and guesses: results of latency.py or android.py and of predict.py.
    parts: `pictures`, `sliders`, `histories`, `operators`, `scales`, `hidden` (models that paint nothing), as the functions
    above make them, with their pictures in `album`.
    """
    args = args or build_parser().parse_args(["result.json"])
    synthetic = result is not None and result["data"].get("source") == "synthetic"
    rows = list(result["rows"]) if result else []
    timed, emulated = times(timings)
    estimated = [row for guess in guesses for row in guess["rows"]]
    judged = verdict(rows, timed, estimated, args) if rows else None
    what = "synthetic skin" if synthetic else (result["data"].get("name") if result else None) or "devices"
    plots = [
        pareto(rows, field, heading, unit, budget)
        for field, heading, unit, budget in (
            ("bytes", "MB", 1e6, args.max_mb), ("gmacs", "GMAC", 1, None), ("ms", "ms on a computer", 1, None),
        )
    ]  # fmt: skip
    on_phone = [
        {**row, "phone_ms": min((t["ms"] for t in of_model(timed, row) if t["phone"]), default=None)} for row in rows
    ]
    plots.insert(0, pareto(on_phone, "phone_ms", "ms on a phone", 1, args.max_ms))
    uris = album.uris() if album else []
    template = (Path(__file__).with_name("report.html")).read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template).render(
        heading=f"FaceEraser on {what}", result=result, sources=[r for r in (result, *timings, *guesses) if r],
        synthetic=synthetic, verdict=judged, table=table(rows) if rows else None,
        texture_n=rows[0].get("texture_n") if rows else None, plots=[p for p in plots if p],
        plot={"wide": WIDE, "high": HIGH, "left": LEFT, "bottom": HIGH - BOTTOM, "top": TOP, "right": WIDE - RIGHT},
        bars=timing_bars(timed), emulated=emulated, ops=ops_tables(timed), guesses=guesses,
        estimates=estimate_table(estimated),
        uris=uris, reduced=album is not None and album.scale < 1, difference=DIFFERENCE,
        **{"pictures": (), "sliders": (), "histories": (), "operators": (), "scales": (), "hidden": (), **parts},
    )  # fmt: skip
    script = re.search(r"<script>(.*?)</script>", page, re.S)
    assert script is not None
    # The page's policy lets this one script run, and no other: not even one that came in with somebody's file name.
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    return page.replace("SCRIPT_DIGEST", digest, 1)


def run(args: Namespace) -> int:
    """Read, paint, write."""
    if args.target is None:
        raise ValueError("no TARGET.html; expected the name of the page to write")
    result, timings, guesses = sort_results({path: results.read_result(path) for path in args.results})
    paths = model_paths(args.models)
    if args.data is not None:
        about = pairs.data_of(args.data)
        if result is not None and result["data"].get("eval_sha256") != about.get("eval_sha256"):
            raise ValueError(
                f"{args.results[0]} was measured on list {str(result['data'].get('eval_sha256'))[:12]}, {args.data} has "
                f"{str(about.get('eval_sha256'))[:12]}: give the data folder on which the result was measured"
            )
    cards, known = about_models(paths)
    timed, _ = times(timings)
    estimated = [row for guess in guesses for row in guess["rows"]]
    judged = verdict(result["rows"], timed, estimated, args) if result else None
    best = judged["best"]["name"] if judged and judged["best"] else None
    album, pictures, sliders, painting = Album(), [], [], {}
    if paths and (args.data is not None or not args.no_photo):
        # A network that is no face eraser, or of which nothing is known, is counted and timed, and paints no picture.
        erasers = {name: path for name, path in paths.items() if name not in cards or "resolution" in cards[name]}
        painting = painters(erasers, best)
    if painting and args.data is not None:
        sliders += whole_faces(painting, args.data, args.faces, best, album)
        listed = pairs.evaluation_pairs(args.data)
        pictures = gallery(painting, [listed[k] for k in spread(len(listed), args.pairs)], best, album)
    if painting and not args.no_photo:
        sliders += erased_photographs(painting, args.photo, best, album)
    page = render(
        result, timings, guesses, args, album, pictures=pictures, sliders=sliders, histories=histories(known, best),
        operators=placement(paths, cards, timed), scales=histograms(known),
        hidden=[name for name in paths if painting and name not in painting],
    )  # fmt: skip
    with whole_file(args.target) as partial:
        partial.write_text(page, encoding="utf-8")
    summary = {
        "target": args.target.name, "bytes": len(page.encode()), "rows": len(result["rows"]) if result else 0,
        "times": len(timed), "photographs": len(sliders), "pairs": len(pictures),
        "verdict": judged["headline"]["text"] if judged else None,
    }  # fmt: skip
    script.finish("Report", [summary], summary)
    return 0


def build_parser() -> ArgumentParser:
    """The command line; TARGET.html may stand anywhere (see `main`)."""
    usage = "report.py RESULT.json ... [--data FOLDER] [options] [--models name=PATH ...] TARGET.html"
    parser = script.parser(__file__, __doc__, usage=usage)
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT.json",
                        help="written by fidelity.py, latency.py, android.py or predict.py with --json")  # fmt: skip
    parser.add_argument(
        "--target",
        type=Path,
        metavar="TARGET.html",
        help="the page to write; may also stand anywhere without the flag",
    )
    parser.add_argument("--data", type=Path, help="data folder that the result was measured on, to show its pictures")
    parser.add_argument("--models", nargs="+", default=[], metavar="name=PATH", help="models to describe and to paint with")
    parser.add_argument(
        "--max-ms", type=float, default=SNAP_MS, help="time budget on a phone, in milliseconds (default: 33.3)"
    )
    parser.add_argument(
        "--max-mb", type=float, default=SNAP_MB, help="size budget for a file, in 10^6 bytes (default: %(default)s)"
    )
    parser.add_argument("--max-drop", type=float, metavar="DB",
                        help="quality budget: dB of mirrored PSNR below the first row (default: none)")  # fmt: skip
    parser.add_argument("--pairs", type=int, default=4, help="number of validation pairs to show (default: %(default)s)")
    parser.add_argument("--faces", type=int, default=4, help="number of validation faces to show (default: %(default)s)")
    parser.add_argument("--photo", nargs="+", type=Path, default=[], metavar="FILE",
                        help="photographs to erase (default: scikit-image's astronaut)")  # fmt: skip
    parser.add_argument(
        "--no-photo", action="store_true", help="show no photograph, for example without the landmark models"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    pages = [number for number, word in enumerate(arguments) if word.endswith(".html")]
    if pages and "--target" not in arguments:
        # --models and --photo take every word that follows them, so it has to be told apart first.
        arguments = ["--target", arguments.pop(pages[-1]), *arguments]
    return script.execute(run, build_parser(), arguments)


if __name__ == "__main__":
    sys.exit(main())

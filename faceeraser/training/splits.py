"""List the photographs, group them by person, and split them into training and validation: no identity is in both.

Every choice depends on the photograph's own name and the seed alone. So adding a photograph changes nothing for the others,
and any number of processes make the same choices.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faceeraser.face import picture
from faceeraser.system.reading import csv_rows

SPLITS = ("train", "val")
VAL_SHARE = 0.1
TRAIN_ONLY = "sfhqt_*"
"""Generated faces cut from captioned contact sheets: foreheads to learn from, nothing to show."""


@dataclass(frozen=True)
class Item:
    """A photograph, or a generated picture, to prepare."""

    file: str
    id: str
    group: str
    split: str  # "" until the whole list is known


def chance(*key: object) -> float:
    """A number in [0, 1) that depends on its key alone: the same on every machine, in every order."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def generator(*key: object) -> np.random.Generator:
    """A random generator that depends on its key alone."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def list_photos(photos: Path, seed: int, limit: int | None) -> list[Item]:
    """Every picture file below a folder, with its group and split, in a fixed order; `limit` takes a fixed sample of them.

    Raises:
        ValueError: there is no such folder, no picture in it, or its manifest.csv cannot be meant.
    """
    if not photos.is_dir():
        raise ValueError(f"{photos}: no such folder; expected a folder of face photographs; check the path")
    files = sorted(
        path.relative_to(photos).as_posix()
        for path in photos.rglob("*")
        if path.suffix.lower() in picture.READABLE
        and not any(part.startswith(".") for part in path.relative_to(photos).parts)
    )
    if not files:
        raise ValueError(
            f"{photos}: no picture files in it; expected files ending in {', '.join(sorted(picture.READABLE))}; "
            "check the path"
        )
    known = read_photo_manifest(photos / "manifest.csv")
    files = sorted({*files, *known})  # a file that the manifest names and the folder lacks is reported, not passed over
    folders = Counter(str(Path(file).parent) for file in files)
    # Many small folders are one person each, as in LFW or VoxCeleb; anything else says nothing about identity.
    per_person = len(folders) >= 10 and len(files) / len(folders) <= 100
    items = []
    ids = Counter(plain_name(file) for file in files)
    for file in files:
        split, group = known.get(file, ("", ""))
        parent = str(Path(file).parent)
        group = group or (parent if per_person and parent != "." else file)
        name = plain_name(file)
        if ids[name] > 1:
            name += "-" + hashlib.sha256(file.encode()).hexdigest()[:8]
        items.append(Item(file, name, group, split))
    if limit is not None and limit < len(items):
        items = sorted(sorted(items, key=lambda item: chance("limit", seed, item.file))[:limit], key=lambda item: item.file)
    return items


def plain_name(file: str) -> str:
    """A path as a file name: `a/b c.jpg` -> `a__b_c`."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", re.sub(r"\.[^./]*$", "", file).replace("/", "__"))


def read_photo_manifest(path: Path) -> dict[str, tuple[str, str]]:
    """{file: (split, group)} of a manifest.csv that lies among the photographs, or nothing.

    Raises:
        ValueError: it cannot be read, or puts one person into two splits.
    """
    if not path.is_file():
        return {}
    try:
        rows = csv_rows(path, "utf-8-sig")
    except ValueError as error:
        raise ValueError(f"{path}: is not a CSV in UTF-8 ({error}); fix it or move it away") from error
    needed = {"file", "split", "group"}
    if rows and not needed <= set(rows[0]):
        raise ValueError(
            f"{path}: has the columns {sorted(map(str, rows[0]))}; expected {sorted(needed)}; fix it or move it away"
        )
    if short := [number for number, row in enumerate(rows, 2) if any(row[name] is None for name in needed)]:
        said = f"line {short[0]} has too few cells; expected {sorted(needed)} in each"
        raise ValueError(f"{path}: {said}; fix it or move it away")
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["group"], set()).add(row["split"])
    for group, named in sorted(splits.items()):
        if group and len(named) > 1:
            raise ValueError(
                f"{path}: the group {group!r} is in the splits {sorted(named)}; expected one split per person, or "
                "training leaks into validation; give all its rows the same split"
            )
    return {row["file"]: (row["split"], row["group"]) for row in rows}


def list_synthetic(limit: int | None) -> list[Item]:
    """The pictures to generate: by default 80, a fifth of them for validation. Raises ValueError for fewer than 2."""
    count = 80 if limit is None else limit
    if count < 2:
        raise ValueError(f"found --limit {count}; expected at least 2 for generated skin: one to train on, one to validate")
    n_val = max(1, count // 5)
    names = [f"synthetic_{number:05d}" for number in range(count)]
    return [Item(name, name, name, "train" if k < count - n_val else "val") for k, name in enumerate(names)]


def settle_splits(
    items: Sequence[Item], rows: Mapping[str, Mapping[str, Any]], seed: int, train_only: str = TRAIN_ONLY
) -> dict[str, str]:
    """{id: split}: as the photographs' manifest says, else by hash of the group.

    Args:
        items: all photographs.
        rows: of each by its id, `taken`: whether it gave a blank face.
        seed: of the hash.
        train_only: a pattern of file names that are never validated on.
    """
    split_of_group: dict[str, str] = {}
    for item in items:
        hashed = "val" if chance("split", seed, item.group) < VAL_SHARE else "train"
        split_of_group[item.group] = item.split or hashed
    for item in items:
        if train_only and fnmatch.fnmatch(Path(item.file).name, train_only):
            split_of_group[item.group] = "train"
    blanks = [item for item in items if rows[item.id]["taken"]]
    if not any(item.split for item in items) and not any(split_of_group[item.group] == "val" for item in blanks):
        # A handful of photographs: hashing alone may leave nothing to validate on.
        groups = sorted({item.group for item in blanks}, key=lambda group: chance("split", seed, group))
        for group in groups[: max(1, round(VAL_SHARE * len(groups)))] if len(groups) > 1 else []:
            split_of_group[group] = "val"
    return {item.id: split_of_group[item.group] for item in items}


def choose_bare(
    items: Sequence[Item], rows: Mapping[str, Mapping[str, Any]], split_of: Mapping[str, str], seed: int, share: float
) -> set[str]:
    """The masks that lose their glasses again, so that `share` of each split carries them, real ones first."""
    bare: set[str] = set()
    for split in SPLITS:
        masks = [item for item in items if rows[item.id]["mask"] and split_of[item.id] == split]
        masks.sort(key=lambda item: (rows[item.id]["glasses_mask"] != "real", chance("wear", seed, item.file)))
        bare |= {item.id for item in masks[round(share * len(masks)) :]}
    return bare


def pairs_of(table: list[dict[str, Any]], split: str, seed: int) -> list[dict[str, str]]:
    """Each blank of a split with an all-parts mask of another person, in an order whose every slice is fair."""
    blanks = [row for row in table if row["blank"] and row["split"] == split]
    masks = [row for row in table if row["mask_file"] and row["split"] == split]
    pairs = []
    for blank in sorted(blanks, key=lambda row: (chance("order", seed, row["file"]), row["file"])):
        others = [mask for mask in masks if mask["group"] != blank["group"]]
        if others:
            # Drawn by hash, so that one photograph more or less does not shuffle every pair.
            mask = min(others, key=lambda row: chance("pair", seed, blank["file"], row["file"]))
            pairs.append({"blank": blank["blank"], "mask": mask["mask_file"]})
    return pairs

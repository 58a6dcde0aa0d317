"""Photographs of faces -> blank faces and part masks to train on (paper, section 3.2).

    python train/prepare.py PHOTOS data/faces --hair models/hair_segmentation.tflite
    python train/prepare.py data/synthetic --source synthetic --size 64

A blank face is a bare forehead, resized to 256 x 128 and stitched to its own vertical flip. A mask is the polygons of a
face's parts, dilated, in the aligned crop. Beside them stand the crops of whole faces, bare skin marked in their alpha
channel, so that training can see hair, beards and backgrounds too.

PHOTOS is searched recursively; a manifest.csv in it with the columns file, split, group settles who belongs together and
what validates. One photograph's outcome depends on that photograph and the seed alone, so any number of workers or shards
gives the same folder, byte for byte.
"""

from __future__ import annotations

import json
import os
import re
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from faceeraser.system import script
from faceeraser.training import filters, preparing, splits


def build_parser() -> ArgumentParser:
    parser = script.parser(__file__, __doc__, usage="%(prog)s [PHOTOS] TARGET [options]")
    add = parser.add_argument
    add("photos", nargs="?", type=Path, metavar="PHOTOS", help="folder of photographs; none for --source synthetic")
    add("target", type=Path, metavar="TARGET", help="folder to create")
    add("--source", choices=("photos", "synthetic"), default="photos", help="default: %(default)s")
    add("--size", type=int, default=256, help="side of blanks and masks in pixels; default: %(default)s")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--workers", type=int, default=os.cpu_count() or 1, help="number of processes; default: one per core")
    add("--limit", type=int, help="use only this many photographs, or generate this many pictures (80)")
    add(
        "--shard", default="1/1", metavar="i/n", help="process part i of n; the part that finishes last completes the folder"
    )
    add("--resume", action="store_true", help="continue a stopped run")
    add("--overwrite", action="store_true", help="replace TARGET, or restart a stopped run")
    add("--glasses-share", type=float, default=0.15, help="share of masks with glasses; default: %(default)s")
    add("--drop-glasses", action="store_true", help="make no blank from a face with glasses, as in the paper")
    add("--hair", metavar="FILE", default="", help="MediaPipe's hair_segmentation.tflite: hair does not count as bare skin")
    add(
        "--min-forehead",
        type=int,
        default=40,
        help="minimum number of source pixels across a forehead; default: %(default)s",
    )
    add(
        "--train-only",
        default=splits.TRAIN_ONLY,
        metavar="PATTERN",
        help="files that are never validated on or shown; default: %(default)s",
    )
    add("--labels", type=Path, metavar="CSV", help="report precision and recall on these photographs, labelled by eye")
    return parser


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


def run(args: Namespace) -> None:
    if args.labels and not args.overwrite and (args.target / "data.json").is_file():  # there already: only measure
        rows = measured(args.target, args.labels)
        script.finish(str(args.labels), rows, {"target": args.target.name, "filters": rows})
        return
    if args.photos is None and args.source == "photos":
        raise ValueError("found one folder; expected PHOTOS and TARGET; run `python train/prepare.py PHOTOS TARGET`")
    if args.photos is not None and args.source == "synthetic":
        raise ValueError(
            f"found PHOTOS {str(args.photos)!r} with --source synthetic, which needs none; "
            "run `python train/prepare.py TARGET --source synthetic`"
        )
    if not (shard := re.fullmatch(r"(\d+)/(\d+)", args.shard)):
        raise ValueError(f"found --shard {args.shard}; expected i/n with i from 1 to n, such as 2/8")
    options = preparing.Options(
        size=args.size,
        seed=args.seed,
        source=args.source,
        limit=args.limit,
        min_forehead=args.min_forehead,
        glasses_share=args.glasses_share,
        drop_glasses=args.drop_glasses,
        train_only=args.train_only,
        hair=args.hair,
    )
    run_options = preparing.Run(args.workers, (int(shard[1]), int(shard[2])), args.resume, args.overwrite)
    report = preparing.prepare(args.photos, args.target, options, run_options)
    if "waiting" in report:
        others = ", ".join(report["waiting"])
        print(
            f"shard {report['shard']} is done; waiting for {others}"
            if others
            else f"another shard is making {args.target} (or was stopped while making it: then add --resume)"
        )
        print(json.dumps(report))
        return
    if "reasons" not in report:
        print(f"{args.target}: was whole already")
        print(json.dumps(report))
        return
    show(args, report)


def show(args: Namespace, report: dict[str, Any]) -> None:
    script.table("Photographs", [{"outcome": reason, "photos": count} for reason, count in report["reasons"].items()])
    script.table("Foreheads by skin tone", report["acceptance"])
    for split, counts in report["n"].items():
        if not counts["blanks"]:
            print(f"prepare.py: no blank face in {split!r}: add photographs of more people", file=sys.stderr)
    if args.labels:
        report["filters"] = measured(args.target, args.labels)
        script.table("Filters against labels", report["filters"])
    script.finish(str(args.target), [{"split": split, **counts} for split, counts in report["n"].items()], report)


def measured(target: Path, labels: Path) -> list[dict[str, Any]]:
    rows = filters.measure_filters(target, labels)
    kept = json.dumps({"labels": labels.name, "rows": rows}, indent=2)
    (target / "filters.json").write_text(kept + "\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    sys.exit(main())

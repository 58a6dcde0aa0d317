"""`faceeraser`: the toolkit for people who only want the result.

    faceeraser erase photo.jpg
    faceeraser erase holiday/ portrait.png --model exports/int8.tflite --output erased/
    faceeraser effect toonized photo.jpg toonized.png
    faceeraser inspect exports/int8.tflite
    faceeraser inspect runs/pruned --json

`erase` and `effect` need the base install alone: neither torch nor TensorFlow is loaded. Exit code 0, or 2 when anything
was not as it has to be; a line says what was found, what was expected, what to do. Of several photographs the good ones
are still done.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from faceeraser import WEIGHTS, artifact, effects, faces
from faceeraser.artifact import Artifact

WRITABLE: Mapping[str, Mapping[str, Any]] = {
    ".png": {"format": "PNG"},
    ".tif": {"format": "TIFF", "compression": "tiff_lzw"},
    ".tiff": {"format": "TIFF", "compression": "tiff_lzw"},
    ".bmp": {"format": "BMP"},
    ".webp": {"format": "WEBP", "lossless": True},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}

SHIPPED = WEIGHTS / "int8.tflite"
FIGURES = ("psnr_hole_mirrored", "psnr_hole_smooth", "texture_energy")


# --- erase ----------------------------------------------------------------------------------------------------------


def erase_photograph(
    image: np.ndarray, model: Artifact, parts: Sequence[str] = faces.FEATURES, glasses: str = "auto"
) -> tuple[np.ndarray, list[faces.Face], list[bool]]:
    """Erase the parts of every face of a photograph.

    Args:
        image: (H, W, 3) uint8 RGB.
        model: an exported file; each face is cut to its resolution and pasted back.
        parts: as for `faces.face_mask`.
        glasses: as for `faces.face_mask`.

    Returns:
        The photograph, whose pixels outside the faces' masks are bit-identical, each face that was found, and for each
        whether glasses were erased with it.

    Raises:
        ValueError: the model takes no square pictures.
        RuntimeError: the landmark models are missing and cannot be downloaded.
    """
    size = _resolution(model)
    erased, worn = image, []
    found = faces.find_faces(image)
    for face in found:
        mask, wears = faces.face_mask(image, face, size, parts, glasses)
        crop, matrix = faces.align(erased, face, size)
        erased = faces.paste_back(erased, model.erase(crop, mask), matrix, mask)
        worn.append(wears)
    return erased, found, worn


def _resolution(model: Artifact) -> int:
    height, width = (side or int(model.card["resolution"]) for side in model.resolution)
    if height != width:
        raise ValueError(f"{model.path}: takes pictures of {width} x {height}; expected square ones; export again")
    return height


def _photographs(named: Sequence[Path], output: Path | None, ending: str) -> list[tuple[Path, Path]]:
    """(photograph, its name below the folder that was given) of everything that was named, each once.

    Folders are searched, all but hidden files, earlier results (`*-erased` where that is the `ending`) and what lies in the
    output folder.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    for path in named:
        if not path.is_dir():
            found.setdefault(path.resolve(), (path, Path(path.name)))
            continue
        inside = [
            (file, file.relative_to(path))
            for file in sorted(path.rglob("*"))
            if file.suffix.lower() in faces.READABLE and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and not file.stem.endswith(f"-{ending}")  # what an earlier run left beside its photograph
            and not (output and output.resolve() != path.resolve() and output.resolve() in file.resolve().parents)
        ]  # fmt: skip
        if not inside:
            raise ValueError(f"{path}: no photographs in it; expected files ending in {', '.join(sorted(faces.READABLE))}")
        for file, below in inside:
            found.setdefault(file.resolve(), (file, below))
    return list(found.values())


def _plan(args: argparse.Namespace) -> list[tuple[Path, Path]]:
    """(photograph, where its result goes) of everything that was named, checked before anything is done.

    Raises:
        ValueError: there is no telling where a result should go, or something is there already.
    """
    output: Path | None = args.output
    several = len(args.photos) > 1 or args.photos[0].is_dir()
    if several and output is None:
        raise ValueError("several photographs, or a folder of them, need --output FOLDER for the results")
    as_file = output is not None and not output.is_dir() and (output.is_file() or output.suffix.lower() in faces.READABLE)
    if output and as_file:
        if several:
            raise ValueError(f"--output {output} is one file; several photographs need a folder")
        if output.suffix.lower() not in WRITABLE:
            raise ValueError(f"--output {output}: cannot write this kind; expected one of {', '.join(WRITABLE)}")
        plan = [(args.photos[0], output)]
    else:
        plan = []
        for photo, below in _photographs(args.photos, output, args.ending):
            named = below.with_name(f"{below.stem}-{args.ending}.png")
            plan.append((photo, output / named if output else photo.with_name(named.name)))
    taken: dict[Path, Path] = {}
    for photo, target in plan:
        if target.resolve() == photo.resolve():
            raise ValueError(f"{photo}: the result would replace the photograph itself; choose another --output")
        if (other := taken.setdefault(target.resolve(), photo)) != photo:
            raise ValueError(f"{other} and {photo} would both become {target}; erase them into two folders")
    there = [target for _, target in plan if target.exists()]
    if there and not args.overwrite:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise ValueError(f"{there[0]} exists already{more}; choose another place for it, or --overwrite to replace it")
    return plan


def _profile(path: Path) -> bytes | None:
    """A photograph's colour profile if it is one for RGB: without it a phone's picture would come out paler."""
    with Image.open(path) as picture:
        profile = picture.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and profile[16:20] == b"RGB " else None


def _write(path: Path, image: np.ndarray, profile: bytes | None) -> None:
    """Write a picture beside its target and rename it: a file that exists is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    options = {**WRITABLE[path.suffix.lower()], **({"icc_profile": profile} if profile else {})}
    try:
        Image.fromarray(image).save(partial, **options)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _each_photograph(args: argparse.Namespace, change: Callable[[np.ndarray, Artifact], tuple[np.ndarray, str]]) -> int:
    """Change every photograph that was named, and write it: 0, or 2 when one could not be read or has no face in it.

    change: (photograph, model) -> (what to write, what was found, such as '2 faces'; empty for none).
    """
    if args.model.suffix not in artifact.KINDS and (args.model / "config.json").is_file():
        raise ValueError(
            f"{args.model}: is a checkpoint folder, expected an exported file; "
            f"make one: python export/to_tflite.py {args.model} exports/"
        )
    plan = _plan(args)
    model = Artifact(args.model, runtime=args.runtime)
    _resolution(model)
    done = 0
    for photo, target in plan:
        try:
            image = faces.read_image(photo)
        except ValueError as error:
            print(f"faceeraser: {error}", file=sys.stderr, flush=True)
            continue
        changed, found = change(image, model)
        if not found:
            print(
                f"faceeraser: {photo}: no face found, nothing written; expected an upright face that looks at the "
                "camera and fills at least a twelfth of the picture's longer side; cut closer to it",
                file=sys.stderr, flush=True,
            )  # fmt: skip
            continue
        _write(target, changed, _profile(photo))
        print(f"{photo}: {found} -> {target}", flush=True)
        done += 1
    if len(plan) > 1:
        print(f"{done} of {len(plan)} photographs done")
    return 0 if done == len(plan) else 2


def _counted(worn: Sequence[bool]) -> str:
    """'2 faces (1 with glasses)', or nothing for no face."""
    count = "1 face" if len(worn) == 1 else f"{len(worn)} faces"
    return f"{count}{f' ({sum(worn)} with glasses)' if any(worn) else ''}" if worn else ""


def erase(args: argparse.Namespace) -> int:
    """`faceeraser erase`: 0, or 2 when a photograph could not be read or has no face in it."""

    def change(image: np.ndarray, model: Artifact) -> tuple[np.ndarray, str]:
        erased, _found, worn = erase_photograph(image, model, args.parts, args.glasses)
        return erased, _counted(worn)

    return _each_photograph(args, change)


# --- effect ---------------------------------------------------------------------------------------------------------


def effect(args: argparse.Namespace) -> int:
    """`faceeraser effect`: all parts erased, and an effect's elements on every face; exit codes as of `erase`."""
    known, folder = effects.read(), Path(".")
    if args.name == "custom":
        if args.elements is None:
            raise ValueError("effect custom: expected --elements FILE, a JSON that says what sits where (docs/effects.md)")
        chosen, folder = next(iter(effects.read(args.elements).values())), args.elements.parent
    elif args.name not in known:
        raise ValueError(f"effect {args.name!r} is not known: expected one of {', '.join(known)} or custom")
    elif args.elements is not None:
        raise ValueError(f"--elements is for the effect custom; {args.name} has its own")
    else:
        chosen = known[args.name]
    args.photos, args.output, args.ending = [args.photo], args.target, args.name

    def change(image: np.ndarray, model: Artifact) -> tuple[np.ndarray, str]:
        result, found, worn = erase_photograph(image, model, glasses=args.glasses)
        for face in found:
            result = effects.apply(chosen, image, result, face, args.blend, folder)
        return result, _counted(worn)

    return _each_photograph(args, change)


# --- inspect --------------------------------------------------------------------------------------------------------


def inspect(args: argparse.Namespace) -> int:
    """`faceeraser inspect`: a card, or a checkpoint's structure, and the history of either."""
    path: Path = args.path
    if path.suffix in artifact.KINDS:
        found = artifact.read_card(path)
        inside = artifact.contents(path)
        facts, tables = _card_facts(found, inside), {"weights by layer": inside["layers"]}
        found = found | {"contents": inside}
    elif path.is_dir():
        found = read_checkpoint(path)
        facts, tables = _checkpoint_facts(found), {"generators": found["generators"]}
    else:
        what = "is neither" if path.exists() else "no such file or folder"
        endings = ", ".join(artifact.KINDS)
        raise FileNotFoundError(f"{path}: {what}; expected a checkpoint folder, or a file ending in {endings}")
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    print(path)
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"  {name:<{width}}  {value}")
    tables["history (figures on a slice of train, GMACs at 256 x 256)"] = _history_rows(found["history"])
    for title, rows in tables.items():
        print(f"\n{title}")
        print(_table(rows) if rows else "  none")
    return 0


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Structure and history of a checkpoint folder, read without torch; the weights' header is enough.

    Returns:
        {"config": config.json, "generators": a row for each network, "quantized_tensors": how many, "history": [...]}.

    Raises:
        ValueError: the folder is no checkpoint, or a file in it is damaged.
    """
    read: dict[str, Any] = {}
    for name in ("config.json", "history.json"):
        try:
            read[name] = json.loads((folder / name).read_text())
        except FileNotFoundError:
            made = "make one with train/train.py"
            raise ValueError(f"{folder}: found no {name}, expected a checkpoint folder; {made}") from None
        except ValueError as error:
            raise ValueError(f"{folder / name}: this is not JSON ({error}); make the folder again") from None
    scales = folder / "quantization.json"
    return {
        "config": read["config.json"],
        "generators": _generator_rows(folder / "generators.safetensors"),
        "quantized_tensors": len(json.loads(scales.read_text())) if scales.is_file() else 0,
        "history": read["history.json"],
    }


def _generator_rows(path: Path) -> list[dict[str, Any]]:
    """What the header of a safetensors file tells: an 8-byte length, then JSON with each tensor's type and shape."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        if 8 + length + max(entry["data_offsets"][1] for entry in header.values()) != path.stat().st_size:
            raise ValueError("it is cut short")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file, expected a checkpoint's weights; make the folder again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); make the folder again") from None
    rows: dict[str, dict[str, Any]] = {}
    for name, entry in sorted(header.items()):
        network, tensor = name.split(".")[0], name.rsplit(".", 1)[-1]
        row = rows.setdefault(network, {"generator": network, "layers": 0, "params": 0, "narrowest": 0, "widest": 0})
        if tensor not in ("running_mean", "running_var", "num_batches_tracked"):
            row["params"] += int(np.prod(entry["shape"], dtype=np.int64))
        if tensor == "weight" and len(entry["shape"]) == 4 and ".head." not in name:
            channels = entry["shape"][0]
            row["narrowest"] = min(row["narrowest"] or channels, channels)
            row["widest"] = max(row["widest"], channels)
        row["layers"] += tensor == "weight" and len(entry["shape"]) == 4
    return list(rows.values())


def _card_facts(card: Mapping[str, Any], inside: Mapping[str, Any]) -> dict[str, str]:
    """What stands in a card, and the file's operators by count."""

    def ports(listed: Sequence[Mapping[str, Any]]) -> str:
        return ", ".join(
            f"{port['name']} {'x'.join(str(n or '?') for n in port['shape'])} {port['layout']} {port['dtype']}"
            + (f" ({port['meaning']})" if "meaning" in port else "")
            for port in listed
        )

    def told(found: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {_cell(value)}" for name, value in found.items())

    notes, sizes, delegates = card["notes"], card.get("sizes"), card.get("delegates", ())
    said = [delegate if isinstance(delegate, str) else told(delegate) for delegate in delegates]
    return {
        "kind": f"{card['kind']}, {card['precision']}",
        **({"flavour": card["flavour"]} if "flavour" in card else {}),
        **({"delegates": "; ".join(said)} if said else {}),
        "resolution": str(card["resolution"])
        + (f"; takes multiples of {sizes['multiple_of']} from {sizes['min']} to {sizes['max']}" if sizes else ""),
        "bytes": f"{card['bytes']:,}",
        "params": f"{card['params']:,}",
        "GMACs": f"{card['gmacs']:.3f} at its resolution",
        "inputs": ports(card["inputs"]),
        "outputs": ports(card["outputs"]),
        "edges": card["edges"],
        "warp": card["warp"],
        "operators": ", ".join(f"{name} {count}" for name, count in inside["operators"].items()),
        "parity": told(card["parity"]),
        **({"computed parity": told(card["evaluated_parity"])} if "evaluated_parity" in card else {}),
        **{f"parity at {at['width']} x {at['height']}": told(at) for at in card.get("parity_at", ())},
        "sha256": card["sha256"],
        **({"notes": notes if isinstance(notes, str) else "; ".join(map(str, notes))} if notes else {}),
    }


def _checkpoint_facts(found: Mapping[str, Any]) -> dict[str, str]:
    def value_of(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {_cell(part)}" for name, part in value.items())
        return ", ".join(map(str, value)) if isinstance(value, list) else _cell(value)

    quantized = found["quantized_tensors"]
    return {
        **{name: value_of(value) for name, value in found["config"].items()},
        **({"quantized tensors": str(quantized)} if quantized else {}),
    }


def _history_rows(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each stage, oldest first; of a stage that compares, the figures after it."""
    rows = []
    for entry in history:
        measured = entry.get("metrics") or {}
        figures = measured.get("after") or measured
        data = entry.get("data") or {}
        rows.append(
            {
                "stage": entry.get("stage"), "data": data.get("source") or data.get("name"),
                **{name: figures.get(name) for name in ("gmacs", "params", *FIGURES, "n")},
                "time": str(entry.get("time") or "-")[:16].replace("T", " "),
            }
        )  # fmt: skip
    return rows


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys in columns, numbers to the right. (tabulate is not part of the base install.)"""
    names = list(rows[0])
    cells = [[_cell(row[name]) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    right = [any(isinstance(row[name], int | float) for row in rows) for name in names]
    lines = []
    for line in [names, *cells]:
        padded = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True))
        lines.append("  " + "  ".join(padded).rstrip())
    return "\n".join(lines)


# --- the command ----------------------------------------------------------------------------------------------------


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or not set(names) <= set(faces.FEATURES):
        hint = "; for glasses there is --glasses on" if "glasses" in names else ""
        raise argparse.ArgumentTypeError(f"found {text!r}; expected some of {','.join(faces.FEATURES)}{hint}")
    return names


def _add_erasing(made: argparse.ArgumentParser) -> None:
    """The flags of every command that erases."""
    made.add_argument(
        "--model", type=Path, default=SHIPPED, metavar="FILE",
        help="an exported file, such as export/to_tflite.py makes (default: the one that comes with the package)",
    )  # fmt: skip
    made.add_argument(
        "--glasses", choices=("auto", "off", "on"), default="auto",
        help="erase glasses too (default: auto, when a face seems to wear some and its eyes are erased)",
    )  # fmt: skip
    made.add_argument(
        "--runtime", choices=tuple(artifact.TFLITE_RUNTIMES),
        help="what runs a .tflite file (default: the first that is installed)",
    )  # fmt: skip
    made.add_argument("--overwrite", action="store_true", help="replace results that exist")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `faceeraser`, with a parser for each command."""
    made = argparse.ArgumentParser(
        prog="faceeraser", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = made.add_subparsers(metavar="COMMAND", required=True)

    one = commands.add_parser("erase", help="erase the parts of every face in a photograph")
    one.set_defaults(run=erase, ending="erased")
    one.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="a photograph, or a folder of them")
    one.add_argument(
        "--output", type=Path, metavar="OUT",
        help="a folder, or a picture (.png keeps pixels outside the masks exactly; default: PHOTO-erased.png beside)",
    )  # fmt: skip
    one.add_argument(
        "--parts",
        type=_parts,
        default=faces.FEATURES,
        metavar="LIST",
        help=f"what to erase (default: {','.join(faces.FEATURES)})",
    )
    _add_erasing(one)

    two = commands.add_parser("effect", help="erase all parts, then paste pieces of the face, or your own, back")
    two.set_defaults(run=effect)
    two.add_argument("name", metavar="NAME", help=f"{', '.join(effects.read())} or custom")
    two.add_argument("photo", type=Path, metavar="IN", help="a photograph, or a folder of them")
    two.add_argument("target", type=Path, metavar="OUT", help="a picture, or a folder")
    two.add_argument("--elements", type=Path, metavar="FILE", help="of the effect custom: a JSON that says what sits where")
    two.add_argument(
        "--blend", choices=tuple(effects.BLENDS), default="poisson",
        help="Poisson blending, or an approximation for video (default: %(default)s)",
    )  # fmt: skip
    _add_erasing(two)

    other = commands.add_parser("inspect", help="what is in an exported file or a checkpoint folder")
    other.set_defaults(run=inspect)
    other.add_argument("path", type=Path, metavar="FILE|FOLDER")
    other.add_argument("--json", action="store_true", help="for programs: the card, or structure and history")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; an error of the user's becomes one clear line and exit code 2."""
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        return code
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError) as error:
        print(f"faceeraser: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("faceeraser: stopped; results that were written are whole", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

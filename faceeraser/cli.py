"""`faceeraser`: the toolkit for people who only want the result.

    faceeraser erase photo.jpg
    faceeraser erase holiday/ erased/ --model exports/int8.tflite
    faceeraser erase clip.mp4
    faceeraser erase --camera 0 out.mp4
    faceeraser effect toonized photo.jpg toonized.png
    faceeraser inspect exports/int8.tflite
    faceeraser inspect runs/pruned --json
    faceeraser demo --port 8000

IN is a photograph, a video, a folder of both, or a camera. `erase` and `effect` need the base install alone, unless the
model is a checkpoint folder: neither torch nor TensorFlow is loaded. Exit code 0, or 2 when anything was not as it has to
be; a line says what was found, what was expected, what to do. Of a folder the good ones are still done.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from faceeraser import WEIGHTS, artifact, effects, faces, landmarks, serve, video
from faceeraser.erasing import Erased, Eraser, Finish
from faceeraser.faces import Face
from faceeraser.tracking import Tracker

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
NO_FACE = (
    "no face found, nothing written; expected an upright face that looks at the camera and fills at least a twelfth of the "
    "picture's longer side; cut closer to it"
)


# --- where results go -----------------------------------------------------------------------------------------------


def plan(source: Path, target: Path | None, ending: str, overwrite: bool) -> list[tuple[Path, Path]]:
    """(photograph or video, where its result goes) of everything in IN, checked before anything is done.

    A file's result is `<name>-<ending>.png` or `.mp4` beside it, or OUT, or lies under that name in the folder OUT. Of a
    folder everything keeps its place and its name, below OUT or `<folder>-<ending>`; where its kind cannot be written the
    ending becomes .png or .mp4.

    Raises:
        ValueError: there is no telling where a result should go, or something is there already.
    """
    if source.is_dir():
        target = target or source.with_name(f"{source.resolve().name}-{ending}")
        if target.is_file() or target.suffix.lower() in (*WRITABLE, *video.WRITABLE):
            raise ValueError(f"{target}: is one file; the results of the folder {source} need a folder")
        planned = [(file, target / _writable(below)) for file, below in _inside(source, target, ending)]
    else:
        film = is_film(source)
        beside = source.with_name(f"{source.stem}-{ending}{'.mp4' if film else '.png'}")
        if target is None:
            target = beside
        elif target.is_dir() or (not target.suffix and not target.exists()):
            target = target / beside.name
        kinds = video.WRITABLE if film else WRITABLE
        if target.suffix.lower() not in kinds:
            raise ValueError(f"{target}: cannot write this kind; expected one of {', '.join(kinds)}, or a folder")
        planned = [(source, target)]
    taken: dict[Path, Path] = {}
    for file, place in planned:
        if place.resolve() == file.resolve():
            raise ValueError(f"{file}: the result would replace it; choose another OUT")
        if (other := taken.setdefault(place.resolve(), file)) != file:
            raise ValueError(f"{other} and {file} would both become {place}; put them into two folders")
    _check_places([place for _, place in planned], overwrite)
    return planned


def _check_places(places: Sequence[Path], overwrite: bool) -> None:
    """Raises ValueError where something is in the way of a result, or it cannot be written."""
    there = [place for place in places if place.exists()]
    if there and not overwrite:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise ValueError(f"{there[0]} exists already{more}; choose another place for it, or --overwrite to replace it")
    for place in places:
        above = next(folder for folder in place.absolute().parents if folder.exists())
        if place.is_dir() or not above.is_dir():
            raise ValueError(f"{place}: {'is a folder' if place.is_dir() else f'{above} is a file'}; choose another OUT")
        if not os.access(above, os.W_OK):
            raise ValueError(f"{place}: may not be written, {above} does not allow it; choose another OUT")


def is_film(path: Path) -> bool:
    """Whether a file is a video: by its name, or where that tells nothing by what opens it."""
    kind = path.suffix.lower()
    if kind in faces.READABLE | video.READABLE or not path.is_file():
        return kind in video.READABLE
    try:
        Image.open(path).close()
        return False
    except OSError:
        pass
    try:
        video.Clip(path)
        return True
    except ValueError:
        return False


def _inside(folder: Path, target: Path, ending: str) -> list[tuple[Path, Path]]:
    """(file, its name below the folder) of all photographs and videos in a folder, but for hidden files, earlier results
    (`*-erased` where that is the `ending`) and what lies in the folder of the results.
    """
    kinds = faces.READABLE | video.READABLE
    found = [
        (file, file.relative_to(folder))
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in kinds and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and not file.stem.endswith(f"-{ending}")  # what an earlier run left beside its photograph
        and not (target.resolve() != folder.resolve() and target.resolve() in file.resolve().parents)
    ]  # fmt: skip
    if not found:
        raise ValueError(f"{folder}: no photographs or videos in it; expected files ending in {', '.join(sorted(kinds))}")
    return found


def _writable(name: Path) -> Path:
    """A name whose kind can be written: itself, or the same with .mp4 or .png."""
    kinds, otherwise = (video.WRITABLE, ".mp4") if name.suffix.lower() in video.READABLE else (WRITABLE, ".png")
    return name if name.suffix.lower() in kinds else name.with_suffix(otherwise)


# --- erase and effect -----------------------------------------------------------------------------------------------


def _profile(path: Path) -> bytes | None:
    """A photograph's colour profile if it is one for RGB: without it a phone's picture would come out paler."""
    with Image.open(path) as picture:
        profile = picture.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and profile[16:20] == b"RGB " else None


def write_image(path: Path, image: np.ndarray, profile: bytes | None = None) -> None:
    """Write a picture, (H, W, 3) uint8, beside its target and rename it: a file that exists is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    options = {**WRITABLE[path.suffix.lower()], **({"icc_profile": profile} if profile else {})}
    try:
        Image.fromarray(image).save(partial, **options)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _counted(worn: Sequence[bool]) -> str:
    """'2 faces (1 with glasses)'."""
    count = "1 face" if len(worn) == 1 else f"{len(worn)} faces"
    return f"{count}{f' ({sum(worn)} with glasses)' if any(worn) else ''}"


def _photograph(source: Path, target: Path, eraser: Eraser, known: landmarks.Landmarks | None, finish: Finish | None) -> str:
    """Do one photograph and say what was found. Raises ValueError when it cannot be read or has no face in it."""
    image = faces.read_image(source)
    if known is not None and len(known) != 1:
        raise ValueError(f"{known.path}: has landmarks of {len(known)} frames; expected those of one, for a photograph")
    erased = eraser.photograph(image, known[0] if known is not None else None, finish)
    if not erased.faces:
        raise ValueError(f"{source}: {NO_FACE}")
    write_image(target, erased.image, _profile(source))
    return _counted(erased.worn)


class _Frames:
    """Counts what comes out of the eraser, with a bar on a terminal's stderr: frames, frames a second, what is left."""

    def __init__(self, name: str, total: int | None) -> None:
        from tqdm import tqdm

        self.frames, self.with_faces, self.most, self._began = 0, 0, 0, time.monotonic()
        self._bar = tqdm(total=total, desc=name, unit=" frames", disable=None, leave=False, file=sys.stderr)

    def count(self, erased: Erased) -> None:
        self.frames += 1
        self.with_faces += bool(erased.faces)
        self.most = max(self.most, len(erased.faces))
        self._bar.update()

    def close(self) -> None:
        self._bar.close()

    def told(self, following: Tracker | landmarks.Landmarks) -> str:
        """'1 face in 298 of 300 frames, looked for in 31, 24.3 frames a second'."""
        found = f"{'1 face' if self.most == 1 else f'up to {self.most} faces'} in {self.with_faces} of {self.frames} frames"
        looked = f", looked for in {following.looks}" if isinstance(following, Tracker) else ""
        return f"{found}{looked}, {self.frames / max(time.monotonic() - self._began, 1e-9):.1f} frames a second"


def _video(source: Path, target: Path, eraser: Eraser, known: landmarks.Landmarks | None, finish: Finish | None) -> str:
    """Do one video and say what was found.

    Raises:
        ValueError: it cannot be read, has no face in any frame, or not as many frames as there are landmarks: then nothing
        is written. Or it is cut short: then what could be read is written.
    """
    clip = video.Clip(source)
    following = known or Tracker(faces.finder())
    frames = _Frames(source.name, clip.frames)
    try:
        with video.writing(target, clip.fps, sound_of=source) as write:
            images = ((image, 1 / clip.fps) for image in clip)
            for erased in eraser.frames(images, following, finish):
                write(erased.image)
                eraser.clock("encode")
                frames.count(erased)
            if known is not None and len(known) != frames.frames:
                raise ValueError(
                    f"{known.path}: has landmarks of {len(known)} frames, {source} has {frames.frames}; expected as many"
                )
            if not frames.with_faces:
                raise ValueError(f"{source}: {NO_FACE}")
    finally:
        frames.close()
    if clip.cut_short:
        raise ValueError(
            f"{source}: ends after {clip.read} of {clip.frames} frames: it is damaged or cut short; "
            f"what could be read is in {target}; fetch or export it again"
        )
    sound = "" if video.sound_command() else ", without sound: there is no ffmpeg on the PATH"
    return frames.told(following) + sound


def _camera(index: int, target: Path | None, eraser: Eraser, finish: Finish | None, overwrite: bool) -> int:
    """Record a camera into a video until it is stopped by Ctrl-C, or show it in a window."""
    if target is not None and target.suffix.lower() not in video.WRITABLE:
        raise ValueError(f"{target}: cannot write this kind; expected one of {', '.join(video.WRITABLE)}")
    _check_places([target] if target is not None else [], overwrite)
    camera, tracker, frames = video.Camera(index), Tracker(faces.finder()), _Frames(f"camera {index}", None)
    with ExitStack() as stack:
        stack.callback(frames.close)
        if target is None:
            show = stack.enter_context(video.window(f"faceeraser, camera {index} (Escape ends it)"))
        else:
            write = stack.enter_context(video.writing(target, camera.fps))
            print(f"camera {index}: recording into {target}; Ctrl-C ends it", file=sys.stderr, flush=True)
        began, written = time.monotonic(), 0
        try:
            for erased in eraser.frames(camera, tracker, finish):
                frames.count(erased)
                if target is None:
                    if not show(erased.image):
                        break
                    continue
                # By the clock: who erases slower than the camera gives frames repeats them, or the video would run too fast.
                due = max(written + 1, round((time.monotonic() - began) * camera.fps))
                while written < due:
                    write(erased.image)
                    written += 1
        except KeyboardInterrupt:
            if not frames.frames:
                raise
    print(f"camera {index}: {frames.told(tracker)}{f' -> {target}' if target else ''}", flush=True)
    return 0


def _run(args: argparse.Namespace, ending: str, finish_of: Mapping[bool, Finish] | None = None) -> int:
    """`erase` and `effect`: 0, or 2 when something could not be read or has no face in it.

    finish_of: what else is done to a photograph (False), to a frame of a video (True).
    """
    if args.camera is not None and not args.camera.isdecimal():
        raise ValueError(f"found --camera {args.camera}; expected a camera's number, such as --camera 0 {args.camera}")
    if args.camera is not None and args.target is not None:
        raise ValueError(f"--camera takes the place of IN; found {args.source} and {args.target}, expected OUT alone")
    if args.camera is None and args.source is None:
        raise ValueError("expected IN, a photograph, a video or a folder of them; or --camera")
    if args.landmarks is not None and (args.camera is not None or args.source.is_dir()):
        raise ValueError("--landmarks is for one photograph or one video: its points belong to that one's frames")
    finish = {False: None, True: None} if finish_of is None else dict(finish_of)
    planned = [] if args.camera is not None else plan(args.source, args.target, ending, args.overwrite)
    films = {file: is_film(file) for file, _ in planned}
    known = landmarks.read(args.landmarks) if args.landmarks is not None else None
    filming = args.camera is not None or any(films.values())
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    runs_by = {"runtime": args.runtime, "delegate": args.delegate}
    eraser = Eraser(args.model, args.parts, args.glasses, **runs_by, workers=workers if filming else 1)
    if args.camera is not None:
        return _camera(int(args.camera), args.source, eraser, finish[True], args.overwrite)
    done = 0
    for file, target in planned:
        film = films[file]
        try:
            found = (_video if film else _photograph)(file, target, eraser, known, finish[film])
        except ValueError as error:
            print(f"faceeraser: {error}", file=sys.stderr, flush=True)
            continue
        print(f"{file}: {found} -> {target}", flush=True)
        done += 1
    if len(planned) > 1:
        print(f"{done} of {len(planned)} done")
    return 0 if done == len(planned) else 2


def erase(args: argparse.Namespace) -> int:
    """`faceeraser erase`: 0, or 2 when something could not be read or has no face in it."""
    return _run(args, "erased")


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

    def laid(blend: str) -> Finish:
        def finish(image: np.ndarray, erased: np.ndarray, around: Sequence[Face]) -> np.ndarray:
            for face in around:
                erased = effects.apply(chosen, image, erased, face, blend, folder)
            return erased

        return finish

    args.parts = faces.FEATURES
    return _run(args, args.name, {False: laid(args.blend or "poisson"), True: laid(args.blend or "fast")})


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


# --- demo -----------------------------------------------------------------------------------------------------------


def demo(args: argparse.Namespace) -> int:
    """`faceeraser demo`: serve the page until Ctrl-C."""
    served = serve.table(args.model, serve.PAGE)
    with serve.Server(args.host, args.port, served) as server:
        print(f"{server.url} shows the page, with {args.model.name}; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
    return 0


# --- the command ----------------------------------------------------------------------------------------------------


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or not set(names) <= set(faces.FEATURES):
        hint = "; for glasses there is --glasses on" if "glasses" in names else ""
        raise argparse.ArgumentTypeError(f"found {text!r}; expected some of {','.join(faces.FEATURES)}{hint}")
    return names


def _add_erasing(made: argparse.ArgumentParser) -> None:
    """What every command that erases takes."""
    made.add_argument("source", type=Path, nargs="?", metavar="IN", help="a photograph, a video, or a folder of them")
    made.add_argument(
        "target", type=Path, nargs="?", metavar="OUT",
        help="a file or a folder; .png keeps a photograph's pixels outside the masks exactly, .mkv a video's "
        "(default: beside IN, photo-erased.png, clip-erased.mp4 or folder-erased)",
    )  # fmt: skip
    made.add_argument(
        "--camera", nargs="?", const="0", metavar="INDEX",
        help="a camera in the place of IN, until Ctrl-C (default: the first); without OUT in a window, where OpenCV has any",
    )  # fmt: skip
    made.add_argument(
        "--model", type=Path, default=SHIPPED, metavar="FILE",
        help="an exported file, such as export/to_tflite.py makes, or a checkpoint folder, which needs torch "
        "(default: the one that comes with the package)",
    )  # fmt: skip
    made.add_argument(
        "--landmarks", type=Path, metavar="FILE",
        help="where the faces are, of a tracker of your own: a JSON with points for each frame (docs/landmarks.md)",
    )  # fmt: skip
    made.add_argument(
        "--glasses", choices=("auto", "off", "on"), default="auto",
        help="erase glasses too (default: auto, when a face seems to wear some and its eyes are erased)",
    )  # fmt: skip
    made.add_argument(
        "--runtime", choices=tuple(artifact.TFLITE_RUNTIMES),
        help="what runs a .tflite file (default: the first that is installed)",
    )  # fmt: skip
    made.add_argument(
        "--delegate", type=Path, metavar="FILE",
        help="a plugin for it: export/build_resampler.sh makes the one that a -gpu-resampler file needs on a CPU",
    )  # fmt: skip
    made.add_argument("--overwrite", action="store_true", help="replace results that exist")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `faceeraser`, with a parser for each command."""
    made = argparse.ArgumentParser(
        prog="faceeraser", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = made.add_subparsers(metavar="COMMAND", required=True)

    one = commands.add_parser("erase", help="erase the parts of every face in a photograph or a video")
    one.set_defaults(run=erase)
    _add_erasing(one)
    one.add_argument(
        "--parts",
        type=_parts,
        default=faces.FEATURES,
        metavar="LIST",
        help=f"what to erase (default: {','.join(faces.FEATURES)})",
    )

    two = commands.add_parser("effect", help="erase all parts, then paste pieces of the face, or your own, back")
    two.set_defaults(run=effect)
    two.add_argument("name", metavar="NAME", help=f"{', '.join(effects.read())} or custom")
    _add_erasing(two)
    two.add_argument("--elements", type=Path, metavar="FILE", help="of the effect custom: a JSON that says what sits where")
    two.add_argument(
        "--blend", choices=tuple(effects.BLENDS),
        help="how pieces are blended: Poisson (default for photographs) or an approximation (default for videos)",
    )  # fmt: skip

    other = commands.add_parser("inspect", help="what is in an exported file or a checkpoint folder")
    other.set_defaults(run=inspect)
    other.add_argument("path", type=Path, metavar="FILE|FOLDER")
    other.add_argument("--json", action="store_true", help="for programs: the card, or structure and history")

    page = commands.add_parser("demo", help="serve a page that erases faces in a browser, from its camera or from pictures")
    page.set_defaults(run=demo)
    page.add_argument("--port", type=int, default=8000, help="default: %(default)s; 0 takes one that is free")
    page.add_argument(
        "--host", default="127.0.0.1",
        help="address to listen at (default: %(default)s; browsers give a camera to localhost and https alone)",
    )  # fmt: skip
    page.add_argument(
        "--model", type=Path, default=SHIPPED, metavar="FILE",
        help="an exported .tflite file with its card (default: the one that comes with the package)",
    )  # fmt: skip
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

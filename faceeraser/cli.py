"""`faceeraser`: the toolkit for people who only want the result.

    faceeraser erase photo.jpg
    faceeraser erase holiday/ erased/ --model exports/int8.tflite
    faceeraser erase one.jpg two.heic three.mp4 -o erased/
    faceeraser erase clip.mp4
    faceeraser erase --camera 0 out.mp4
    faceeraser effect toonized photo.jpg toonized.png
    faceeraser inspect exports/int8.tflite
    faceeraser inspect runs/pruned --json
    faceeraser demo --port 8000

IN is a photograph, a video, a folder of both, or a camera; there may be several. `erase` and `effect` need the base install
alone, unless the model is a checkpoint folder: neither torch nor TensorFlow is loaded. Exit code 0, or 2 when anything was
not as it has to be; a line says what was found, what was expected, what to do, and the other files are still processed.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from faceeraser import artifact, effects, finder, landmarks, picture, script, serve, shipped, video
from faceeraser.erasing import Erased, Eraser, Finish
from faceeraser.history import read_history
from faceeraser.mesh import Face
from faceeraser.parts import FEATURES
from faceeraser.reading import json_object
from faceeraser.tracking import Tracker

PROFILES: Mapping[str, tuple[str, ...]] = {
    "all": FEATURES,
    "upper": ("brows", "eyes"),
    "lower": ("nose", "mouth"),
    "features": ("eyes", "nose", "mouth"),
}
"""Names for sets of parts, for `--parts`."""
FIGURES = ("psnr_hole_mirrored", "psnr_hole_smooth", "texture_energy")
NO_FACE = (
    "no face found, nothing written; expected one that looks at the camera and fills at least a twenty-fourth of the "
    "picture's longer side; cut closer to it, or say what to erase with --mask"
)


# --- where results go -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One photograph or video: where it is, where its result goes, and where the mask of what was erased goes, or None."""

    source: Path
    target: Path
    film: bool
    mask: Path | None = None


def named(paths: Sequence[Path], output: Path | None) -> tuple[Sequence[Path], Path | None]:
    """(every IN, OUT or None) of the paths on a command line.

    OUT is what `-o` says. Without it, of two paths the second is OUT where nothing of that name exists or it is a folder;
    two files that exist are two INs, so that a shell's `*.jpg` never overwrites one photograph with another.

    Raises:
        ValueError: no IN, or no telling which is OUT.
    """
    if not paths:
        raise ValueError("expected IN, a photograph, a video or a folder of them; or --camera")
    if output is None and len(paths) == 2:
        first, second = paths
        if not second.exists() or second.is_dir():
            return [first], second
        if first.exists() and first.resolve() == second.resolve():
            raise ValueError(f"{first}: the result would replace it; choose another OUT")
        if first.is_dir():
            return [first], second
        if not first.exists():
            raise ValueError(f"{first}: cannot be opened (no such file); expected a photograph or a video; check the path")
        said = f"{first} and {second} both exist, so both are done; an OUT that exists goes after -o"
        print(f"faceeraser: {said}", file=sys.stderr)
    elif output is None and len(paths) > 2 and not paths[-1].exists():
        raise ValueError(f"{paths[-1]}: no such file; expected the OUT of several INs after -o: -o {paths[-1]}")
    unique = {path.resolve(): path for path in reversed(paths)}
    return [path for path in paths if unique[path.resolve()] is path], output


def plan(sources: Sequence[Path], target: Path | None, ending: str, overwrite: bool) -> list[Job]:
    """Everything that is to be done, checked before anything is.

    A file's result is `<name>-<ending>.png` or `.mp4` beside it, or OUT, or lies under that name in the folder OUT. Of a
    folder everything keeps its place and its name, below OUT or `<folder>-<ending>`; where its kind cannot be written the
    ending becomes .png or .mp4. Of several INs OUT is a folder.

    Raises:
        ValueError: there is no telling where a result should go, or something is there already.
    """
    if len(sources) > 1 and target is not None and not target.is_dir() and _is_file(target):
        raise ValueError(f"{target}: is one file; the results of {len(sources)} INs need a folder")
    jobs = []
    for source in sources:
        below: Path | None = target
        if len(sources) > 1 and target is not None:
            below = target / source.resolve().name if source.is_dir() else target / _beside(source, ending).name
        jobs += _of_folder(source, below, ending) if source.is_dir() else [_of_file(source, below, ending)]
    jobs = _kept_apart(jobs)
    taken: dict[Path, Path] = {}
    for job in jobs:
        if job.target.resolve() == job.source.resolve():
            raise ValueError(f"{job.source}: the result would replace it; choose another OUT")
        if (other := taken.setdefault(job.target.resolve(), job.source)) != job.source:
            raise ValueError(f"{other} and {job.source} would both become {job.target}; put them into two folders")
    for job in jobs:
        if (maker := taken.get(job.source.resolve())) is not None:
            raise ValueError(f"{job.source}: the result of {maker} would replace it; choose another OUT")
    _check_places([job.target for job in jobs], overwrite)
    return jobs


def _kept_apart(jobs: Sequence[Job]) -> list[Job]:
    """The same, where a.heic and a.jpg of one folder would both become a-erased.png: they become a-heic-erased.png and
    a-jpg-erased.png.
    """
    wanted = Counter(job.target.resolve() for job in jobs)

    def placed(job: Job) -> Job:
        if wanted[job.target.resolve()] == 1:
            return job
        stem, kind = job.source.stem, job.source.suffix[1:]
        return replace(job, target=job.target.with_name(f"{stem}-{kind}{job.target.name.removeprefix(stem)}"))

    return [placed(job) for job in jobs]


def _is_file(target: Path) -> bool:
    """Whether a path is a file, or would be one by its name."""
    return target.is_file() or target.suffix.lower() in (*picture.WRITABLE, *video.WRITABLE)


def _beside(source: Path, ending: str) -> Path:
    return source.with_name(f"{source.stem}-{ending}{'.mp4' if is_film(source) else '.png'}")


def _of_folder(source: Path, target: Path | None, ending: str) -> list[Job]:
    place = target or source.with_name(f"{source.resolve().name}-{ending}")
    if _is_file(place):
        raise ValueError(f"{place}: is one file; the results of the folder {source} need a folder")
    inside = _inside(source, place, ending)
    return [Job(file, place / _writable(below), file.suffix.lower() in video.READABLE) for file, below in inside]


def _of_file(source: Path, target: Path | None, ending: str) -> Job:
    film, beside = is_film(source), _beside(source, ending)
    place = beside if target is None else target
    if place.is_dir() or (not place.suffix and not place.exists()):
        place = place / beside.name
    kinds: Iterable[str] = video.WRITABLE if film else picture.WRITABLE
    if place.suffix.lower() not in kinds:
        raise ValueError(f"{place}: cannot write this kind; expected one of {', '.join(kinds)}, or a folder")
    return Job(source, place, film)


def with_masks(jobs: Sequence[Job], target: Path, overwrite: bool) -> list[Job]:
    """The same, each with the place of its mask: the file `target` of a single one, else that folder."""
    placed, stems = [], Counter((job.source.stem, job.film) for job in jobs)
    for job in jobs:
        kinds: Iterable[str] = video.WRITABLE if job.film else picture.WRITABLE
        if len(jobs) == 1 and target.suffix and not target.is_dir():
            if target.suffix.lower() not in kinds:
                raise ValueError(f"--mask-out {target}: cannot write this kind; expected one of {', '.join(kinds)}")
            place = target
        elif _is_file(target):
            raise ValueError(f"--mask-out {target}: is one file; the masks of {len(jobs)} files need a folder")
        else:
            kind = f"-{job.source.suffix[1:]}" if stems[job.source.stem, job.film] > 1 else ""
            place = target / f"{job.source.stem}{kind}-mask{'.mkv' if job.film else '.png'}"
        placed.append(replace(job, mask=place))
    masks = [job.mask for job in placed if job.mask is not None]
    if len({mask.resolve() for mask in masks} | {job.target.resolve() for job in jobs}) < 2 * len(jobs):
        raise ValueError(f"--mask-out {target}: two results would have one name; choose other places for them")
    _check_places(masks, overwrite)
    return placed


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
    if kind in picture.READABLE | video.READABLE or not path.is_file():
        return kind in video.READABLE
    return not picture.opens(path) and video.opens(path)


def _inside(folder: Path, target: Path, ending: str) -> list[tuple[Path, Path]]:
    """(file, its name below the folder) of all photographs and videos in a folder, but for hidden files, earlier results
    (`*-erased` where that is the `ending`) and what lies in the folder of the results.
    """
    kinds = picture.READABLE | video.READABLE
    found = [
        (file, file.relative_to(folder))
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in kinds and (file.is_file() or not file.exists())  # a link that leads nowhere is told of
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and not file.stem.endswith(f"-{ending}")  # what an earlier run left beside its photograph
        and not (target.resolve() != folder.resolve() and target.resolve() in file.resolve().parents)
    ]  # fmt: skip
    if not found:
        raise ValueError(f"{folder}: no photographs or videos in it; expected files ending in {', '.join(sorted(kinds))}")
    return found


def _writable(name: Path) -> Path:
    """A name whose kind can be written: itself, or the same with .mp4 or .png."""
    film = name.suffix.lower() in video.READABLE
    kinds, otherwise = (set(video.WRITABLE), ".mp4") if film else (set(picture.WRITABLE), ".png")
    return name if name.suffix.lower() in kinds else name.with_suffix(otherwise)


# --- erase and effect -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What is done to every file: the eraser, what else is done to a photograph and to a frame, and how results are written.

    Attributes:
        eraser: the model, and what it erases.
        finish: what else is done to a photograph (False), to a frame of a video (True); None for nothing.
        known: landmarks of the one file that is done, or None.
        mask: what to erase in the place of faces' parts, (H, W) bool, or None.
        written: options of `picture.writing` and `video.writing`.
    """

    eraser: Eraser
    finish: Mapping[bool, Finish | None]
    known: landmarks.Landmarks | None
    mask: np.ndarray | None
    written: Mapping[str, Any]

    def told(self, erased: Erased) -> str:
        """'2 faces (1 with glasses)', or '3 % of it'."""
        if self.mask is not None:
            return f"{100 * float(erased.mask.mean()):.1f} % of it"
        return _counted(erased.worn)

    def photograph(self, image: np.ndarray, source: Path) -> Erased:
        """A photograph, erased. Raises ValueError where the mask has another size."""
        if self.mask is None:
            return self.eraser.photograph(image, self.known[0] if self.known is not None else None, self.finish[False])
        try:
            return self.eraser.region(image, self.mask)
        except ValueError as error:
            raise ValueError(f"{source}: --mask: {error}") from None


def _shades(mask: np.ndarray) -> np.ndarray:
    """A mask as a picture: white where something was erased."""
    return np.where(mask, np.uint8(255), np.uint8(0))


def _counted(worn: Sequence[bool]) -> str:
    """'2 faces (1 with glasses)'."""
    count = "1 face" if len(worn) == 1 else f"{len(worn)} faces"
    return f"{count}{f' ({sum(worn)} with glasses)' if any(worn) else ''}"


def _photograph(job: Job, run: Run) -> tuple[str, Sequence[str]]:
    """Do one picture file; what was found, and lines about what the result could not keep.

    Raises:
        ValueError: it cannot be read, has no face in it, or holds several images and OUT one.
    """
    source, known = picture.opened(job.source), run.known
    try:
        if known is not None and len(known) != source.frames:
            found = f"landmarks of {len(known)} frames; expected those of {source.frames}"
            raise ValueError(f"{known.path}: has {found}, as {job.source} has")
        if source.many and picture.WRITABLE[job.target.suffix.lower()].many != source.many:
            raise ValueError(picture.several(job.target, source))
        with ExitStack() as stack:
            put = stack.enter_context(picture.writing(job.target, source, **run.written))
            mark = None if job.mask is None else stack.enter_context(picture.writing(job.mask, source))
            found, faces_seen = "", 0
            for page, erased in _animated(source, run) if source.many == "animation" else _stills(source, run):
                put(page.erased(erased.image, erased.mask))
                if mark is not None:
                    mark(picture.Page(_shades(erased.mask), "L", 255.0, None, page.seconds))
                faces_seen = max(faces_seen, len(erased.faces))
                found = run.told(erased) if len(erased.faces) == faces_seen else found
            if not faces_seen and run.mask is None:
                raise ValueError(f"{job.source}: {NO_FACE}")
        several = f" in {source.frames} {'frames' if source.many == 'animation' else 'pages'}" if source.many else ""
        return found + several, source.notes
    finally:
        source.close()


def _stills(source: picture.Source, run: Run) -> Iterator[tuple[picture.Page, Erased]]:
    """Pictures that have nothing to do with one another; a page without a face stays as it is."""
    for page in source.pages():
        yield page, run.photograph(page.image, source.path)


def _animated(source: picture.Source, run: Run) -> Iterator[tuple[picture.Page, Erased]]:
    """The frames of an animation, whose faces are followed as those of a video."""
    if run.mask is not None or run.finish[True] is not None:
        yield from _stills(source, run)
        return
    waiting: deque[picture.Page] = deque()

    def images() -> Iterator[tuple[np.ndarray, float]]:
        for page in source.pages():
            waiting.append(page)
            yield page.image, page.seconds or 0.1

    for erased in run.eraser.frames(images(), run.known or Tracker(finder.shared())):
        yield waiting.popleft(), erased


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

    def told(self, following: Tracker | landmarks.Landmarks | None) -> str:
        """'1 face in 298 of 300 frames, looked for in 31, 24.3 frames a second'; with a mask, frames alone."""
        speed = f"{self.frames / max(time.monotonic() - self._began, 1e-9):.1f} frames a second"
        if following is None:
            return f"{self.frames} frames, {speed}"
        found = f"{'1 face' if self.most == 1 else f'up to {self.most} faces'} in {self.with_faces} of {self.frames} frames"
        looked = f", looked for in {following.looks}" if isinstance(following, Tracker) else ""
        return f"{found}{looked}, {speed}"


def _video(job: Job, run: Run) -> tuple[str, Sequence[str]]:
    """Do one video; what was found, and lines about what the result could not keep.

    Raises:
        ValueError: it cannot be read, has no face in any frame, or not as many frames as there are landmarks: then nothing
        is written. Or it is cut short: then what could be read is written.
    """
    clip, known = video.Clip(job.source), run.known
    following = known or Tracker(finder.shared())
    frames = _Frames(job.source.name, clip.frames)
    waiting: deque[video.Frame] = deque()

    def images() -> Iterator[tuple[np.ndarray, float]]:
        for frame in clip:
            waiting.append(frame)
            yield frame.image, frame.seconds

    try:
        with ExitStack() as stack:
            write = stack.enter_context(video.writing(job.target, clip=clip, **run.written))
            mark = None if job.mask is None else stack.enter_context(video.writing(job.mask, clip=clip, tracks=False))
            for erased in _erased_frames(images(), job.source, run, following):
                frame = waiting.popleft()
                if mark is not None:
                    mark(np.repeat(_shades(erased.mask)[..., None], 3, axis=2), frame.copy())
                write(erased.image, frame, erased.mask)
                run.eraser.clock("encode")
                frames.count(erased)
            if known is not None and len(known) != frames.frames:
                raise ValueError(
                    f"{known.path}: has landmarks of {len(known)} frames, {job.source} has {frames.frames}; expected as many"
                )
            if not frames.with_faces and run.mask is None:
                raise ValueError(f"{job.source}: {NO_FACE}")
    finally:
        frames.close()
    if clip.damage:
        raise ValueError(
            f"{job.source}: ends after {clip.read} frames: {clip.damage}; what could be read is in {job.target}; "
            "fetch or export it again"
        )
    return frames.told(following if run.mask is None else None), clip.notes


def _erased_frames(
    images: Iterable[tuple[np.ndarray, float]], source: Path, run: Run, following: Tracker | landmarks.Landmarks
) -> Iterator[Erased]:
    """The frames of a video, erased."""
    if run.mask is None:
        yield from run.eraser.frames(images, following, run.finish[True])
        return
    for image, _ in images:
        yield run.photograph(image, source)


def _camera(index: int, target: Path | None, eraser: Eraser, finish: Finish | None, overwrite: bool) -> int:
    """Record a camera into a video until it is stopped by Ctrl-C, or show it in a window."""
    if target is not None and target.suffix.lower() not in video.WRITABLE:
        raise ValueError(f"{target}: cannot write this kind; expected one of {', '.join(video.WRITABLE)}")
    _check_places([target] if target is not None else [], overwrite)
    camera, tracker, frames = video.Camera(index), Tracker(finder.shared()), _Frames(f"camera {index}", None)
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
    finish: Mapping[bool, Finish | None] = {False: None, True: None, **(finish_of or {})}
    jobs, camera = _wanted(args, ending)
    known = landmarks.read(args.landmarks) if args.landmarks is not None else None
    mask = None if args.mask is None else picture.read(args.mask).image.min(axis=2) >= 128
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if camera is None and not any(job.film for job in jobs):
        workers = 1
    runs_by = {"runtime": args.runtime, "delegate": args.delegate}
    eraser = Eraser(args.model, args.parts, args.glasses, front=args.front, most=args.faces, **runs_by, workers=workers)
    if camera is not None:
        return _camera(*camera, eraser, finish[True], args.overwrite)
    kept = {"metadata": args.keep_metadata, "gps": args.keep_gps}
    run = Run(eraser, finish, known, mask, {"quality": args.quality, **kept})
    if len(jobs) > 1 and known is None:
        finder.shared()  # what fails here would fail for every file
    done = sum(_done(job, run) for job in jobs)
    if len(jobs) > 1:
        print(f"{done} of {len(jobs)} done")
    return 0 if done == len(jobs) else 2


def _wanted(args: argparse.Namespace, ending: str) -> tuple[list[Job], tuple[int, Path | None] | None]:
    """(what to do, or the camera and its OUT) of a command line. Raises ValueError where its words do not fit together."""
    if args.camera is not None:
        if not args.camera.isdecimal():
            raise ValueError(f"found --camera {args.camera}; expected a camera's number, such as --camera 0 {args.camera}")
        out = [*args.paths, *([args.output] if args.output is not None else [])]
        if len(out) > 1:
            raise ValueError(f"--camera takes the place of IN; found {out[0]} and {out[1]}, expected OUT alone")
        for option, value in (("--landmarks", args.landmarks), ("--mask", args.mask), ("--mask-out", args.mask_out)):
            if value is not None:
                raise ValueError(f"{option} is for files; a camera's frames are not known beforehand")
        return [], (int(args.camera), out[0] if out else None)
    sources, target = named(args.paths, args.output)
    for option, given in (("--landmarks", args.landmarks), ("--mask", args.mask)):
        if given is not None and (len(sources) > 1 or sources[0].is_dir()):
            raise ValueError(f"{option} is for one photograph or one video: what it says belongs to that one's frames")
    jobs = plan(sources, target, ending, args.overwrite)
    return jobs if args.mask_out is None else with_masks(jobs, args.mask_out, args.overwrite), None


def _done(job: Job, run: Run) -> bool:
    """Do one file, whatever becomes of it: what fails is told in a line, and the next one is done."""
    try:
        found, notes = (_video if job.film else _photograph)(job, run)
    except Exception as error:  # a decoder, a codec or a disk may raise anything, and the other files are not to blame
        said = str(error) if isinstance(error, ValueError | OSError | RuntimeError) else f"{type(error).__name__}: {error}"
        said = " ".join(said.split()) or type(error).__name__
        print(f"faceeraser: {said if str(job.source) in said else f'{job.source}: {said}'}", file=sys.stderr, flush=True)
        return False
    print(f"{job.source}: {found} -> {job.target}", flush=True)
    for note in notes:
        print(f"faceeraser: {job.source}: {note}", file=sys.stderr, flush=True)
    return True


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

    args.parts, args.mask = FEATURES, None
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
    for name in ("config.json", "history.json"):
        if not (folder / name).is_file():
            made = "make one with train/train.py"
            raise ValueError(f"{folder}: found no {name}, expected a checkpoint folder; {made}")
    again, scales = "make the folder again", folder / "quantization.json"
    config = json_object(folder / "config.json", f"the structure of a network; {again}")
    return {
        "config": config,
        "generators": _generator_rows(folder / "generators.safetensors"),
        "quantized_tensors": len(json_object(scales, f"scales by tensor; {again}")) if scales.is_file() else 0,
        "history": read_history(folder),
    }


def _generator_rows(path: Path) -> list[dict[str, Any]]:
    """What the header of a safetensors file tells."""
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file, expected a checkpoint's weights; make the folder again") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); make the folder again") from None
    rows: dict[str, dict[str, Any]] = {}
    for name, shape in sorted(shapes.items()):
        network, tensor = name.split(".")[0], name.rsplit(".", 1)[-1]
        row = rows.setdefault(network, {"generator": network, "layers": 0, "params": 0, "narrowest": 0, "widest": 0})
        if tensor not in ("running_mean", "running_var", "num_batches_tracked"):
            row["params"] += math.prod(shape)
        if tensor == "weight" and len(shape) == 4 and ".head." not in name:
            channels = shape[0]
            row["narrowest"] = min(row["narrowest"] or channels, channels)
            row["widest"] = max(row["widest"], channels)
        row["layers"] += tensor == "weight" and len(shape) == 4
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
    if text in PROFILES:
        return PROFILES[text]
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or not set(names) <= set(FEATURES):
        hint = "; for glasses there is --glasses on" if "glasses" in names else ""
        known = f"{','.join(FEATURES)}, or one of {', '.join(PROFILES)}"
        raise argparse.ArgumentTypeError(f"found {text!r}; expected some of {known}{hint}")
    return names


def _how_many(text: str) -> int | None:
    if text == "all":
        return None
    if text == "largest":
        return 1
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"found {text!r}; expected largest, all or a number, such as 2 for the two largest")


def _quality(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 100:
        return int(text)
    raise argparse.ArgumentTypeError(f"found {text!r}; expected 1 to 100")


def _add_erasing(made: argparse.ArgumentParser) -> None:
    """What every command that erases takes."""
    made.add_argument("paths", type=Path, nargs="*", metavar="IN", help="photographs, videos, or folders of them")
    made.add_argument(
        "-o", "--output", type=Path, metavar="OUT",
        help="a file, or a folder; of one IN it may also stand last, if no such file exists. .png and .tif keep a "
        "photograph's pixels outside the masks exactly, .mkv a video's "
        "(default: beside IN, photo-erased.png, clip-erased.mp4 or folder-erased)",
    )  # fmt: skip
    made.add_argument(
        "--camera", nargs="?", const="0", metavar="INDEX",
        help="a camera in the place of IN, until Ctrl-C (default: the first); without OUT in a window, where OpenCV has any",
    )  # fmt: skip
    made.add_argument(
        "--model", type=Path, default=shipped.PLAN, metavar="FILE",
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
        "--front", choices=("keep", "erase"), default="keep",
        help="what hangs in front of the parts, such as hair and hands, stays or is erased with them (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--runtime", choices=tuple(artifact.TFLITE_RUNTIMES),
        help="what runs a .tflite file (default: the first that is installed)",
    )  # fmt: skip
    made.add_argument(
        "--delegate", type=Path, metavar="FILE",
        help="a plugin for it: export/build_resampler.sh makes the one that a -gpu-resampler file needs on a CPU",
    )  # fmt: skip
    made.add_argument(
        "--faces", type=_how_many, default=None, metavar="largest|all|N",
        help="which faces: the largest, all, or the N largest (default: all)",
    )  # fmt: skip
    made.add_argument(
        "--mask-out", type=Path, metavar="FILE",
        help="write what was erased there too, white on black, as a picture or a video; of several files, a folder",
    )  # fmt: skip
    made.add_argument(
        "--quality", type=_quality, metavar="1-100",
        help="of what is written with loss: .jpg, .avif, .heic (default: 95), .mp4, .mov, .avi (default: 65, a rate "
        "factor of 18), and .webp, which is lossless without it",
    )  # fmt: skip
    made.add_argument(
        "--keep-metadata", action="store_true", help="keep date, camera, artist and dots per inch (default: none of them)"
    )
    made.add_argument("--keep-gps", action="store_true", help="keep the place where it was taken (default: not kept)")
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
        default=FEATURES,
        metavar="LIST",
        help=f"what to erase: some of {','.join(FEATURES)}, or "
        + ", ".join(f"{name} ({','.join(parts)})" for name, parts in PROFILES.items() if name != "all")
        + " (default: all)",
    )
    one.add_argument(
        "--mask", type=Path, metavar="FILE",
        help="erase what a picture of the same size says, white = erase, in the place of the faces' parts",
    )  # fmt: skip

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
        "--model", type=Path, default=shipped.PLAN, metavar="FILE",
        help="an exported .tflite file with its card (default: the one that comes with the package)",
    )  # fmt: skip
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; an error of the user's becomes one clear line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what this terminal cannot show
    args = build_parser().parse_args(argv)
    try:
        with script.stoppable():
            code: int = args.run(args)
            return code
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError) as error:
        print(f"faceeraser: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("faceeraser: stopped; results that were written are whole", file=sys.stderr)
        return script.code_of(stop)


if __name__ == "__main__":
    sys.exit(main())

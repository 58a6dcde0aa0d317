"""The commands `faceeraser erase`, `effect` and `demo`. If a file fails, a line says why, and the next one is processed."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faceeraser import serve
from faceeraser.erasing import Erased, Eraser, Finish
from faceeraser.face import effects, finder, landmarks, picture, video
from faceeraser.face.mesh import Face
from faceeraser.face.profiles import FEATURES
from faceeraser.face.tracking import Tracker
from faceeraser.jobs import Job, check_places, named, plan, with_masks

NO_FACE = (
    "no face found, nothing written; expected one that looks at the camera and fills at least a twenty-fourth of the "
    "picture's longer side; cut closer to it, or say what to erase with --mask"
)


@dataclass(frozen=True)
class Run:
    """What is done to every file: the eraser, what else is done to a photograph and to a frame, and how results are written.

    Attributes:
        eraser: the model, and what it erases.
        finish: what else is done to a photograph (False), to a frame of a video (True); None for nothing.
        known: landmarks of the single file that is processed, or None.
        mask: what to erase in the place of faces' parts, (H, W) bool, or None.
        written: options of `picture.writing` and `video.writing`.
    """

    eraser: Eraser
    finish: Mapping[bool, Finish | None]
    known: landmarks.Landmarks | None
    mask: np.ndarray | None
    written: Mapping[str, Any]

    def summary(self, erased: Erased) -> str:
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
    """Process one picture file; returns what was found, and lines about what the result could not keep.

    Raises:
        ValueError: it cannot be read, has no face in it, or holds several images and OUT one.
    """
    source, known = picture.opened(job.source), run.known
    try:
        if known is not None and len(known) != source.frames:
            given = f"landmarks of {len(known)} frames; expected those of {source.frames}"
            raise ValueError(f"{known.path}: has {given}, as {job.source} has")
        if source.many and picture.WRITABLE[job.target.suffix.lower()].many != source.many:
            raise ValueError(picture.several(job.target, source))
        with ExitStack() as stack:
            put = stack.enter_context(picture.writing(job.target, source, **run.written))
            mark = None if job.mask is None else stack.enter_context(picture.writing(job.mask, source))
            summary, faces_seen = "", 0
            for page, erased in _animated(source, run) if source.many == "animation" else _stills(source, run):
                put(page.erased(erased.image, erased.mask))
                if mark is not None:
                    mark(picture.Page(_shades(erased.mask), "L", 255.0, None, page.seconds))
                faces_seen = max(faces_seen, len(erased.faces))
                summary = run.summary(erased) if len(erased.faces) == faces_seen else summary
            if not faces_seen and run.mask is None:
                raise ValueError(f"{job.source}: {NO_FACE}")
        several = f" in {source.frames} {'frames' if source.many == 'animation' else 'pages'}" if source.many else ""
        return summary + several, source.notes
    finally:
        source.close()


def _stills(source: picture.Source, run: Run) -> Iterator[tuple[picture.Page, Erased]]:
    """Pictures that are unrelated; a page without a face stays as it is."""
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

    def counts(self, following: Tracker | landmarks.Landmarks | None) -> str:
        """'1 face in 298 of 300 frames, looked for in 31, 24.3 frames a second'; with a mask, frames alone."""
        speed = f"{self.frames / max(time.monotonic() - self._began, 1e-9):.1f} frames a second"
        if following is None:
            return f"{self.frames} frames, {speed}"
        faces = "1 face" if self.most == 1 else f"up to {self.most} faces"
        summary = f"{faces} in {self.with_faces} of {self.frames} frames"
        looked = f", looked for in {following.looks}" if isinstance(following, Tracker) else ""
        return f"{summary}{looked}, {speed}"


def _video(job: Job, run: Run) -> tuple[str, Sequence[str]]:
    """Process one video; returns what was found, and lines about what the result could not keep.

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
    return frames.counts(following if run.mask is None else None), clip.notes


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
    check_places([target] if target is not None else [], overwrite)
    camera, tracker, frames = video.Camera(index), Tracker(finder.shared()), _Frames(f"camera {index}", None)
    with ExitStack() as stack:
        stack.callback(frames.close)
        if target is None:
            show = stack.enter_context(video.window(f"faceeraser, camera {index} (Escape ends it)"))
        else:
            write = stack.enter_context(video.writing(target, camera.fps))
            print(f"camera {index}: recording into {target}; press Ctrl-C to stop", file=sys.stderr, flush=True)
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
    print(f"camera {index}: {frames.counts(tracker)}{f' -> {target}' if target else ''}", flush=True)
    return 0


def _run(args: argparse.Namespace, ending: str, finish_of: Mapping[bool, Finish] | None = None) -> int:
    """`erase` and `effect`: 0, or 2 if something could not be read or has no face in it.

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
    """(what to do, or the camera and its OUT) of a command line. Raises ValueError for a contradiction."""
    if args.camera is not None:
        if not args.camera.isdecimal():
            raise ValueError(f"found --camera {args.camera}; expected a camera's number, such as --camera 0 {args.camera}")
        out = [*args.paths, *([args.output] if args.output is not None else [])]
        if len(out) > 1:
            raise ValueError(f"--camera takes the place of IN; found {out[0]} and {out[1]}, expected OUT alone")
        for option, value in (("--landmarks", args.landmarks), ("--mask", args.mask), ("--mask-out", args.mask_out)):
            if value is not None:
                raise ValueError(f"{option} is for files: the frames of a camera are not known in advance")
        return [], (int(args.camera), out[0] if out else None)
    sources, target = named(args.paths, args.output)
    for option, given in (("--landmarks", args.landmarks), ("--mask", args.mask)):
        if given is not None and (len(sources) > 1 or sources[0].is_dir()):
            raise ValueError(f"{option} is for a single photograph or video, because it describes its frames")
    jobs = plan(sources, target, ending, args.overwrite)
    return jobs if args.mask_out is None else with_masks(jobs, args.mask_out, args.overwrite), None


def _done(job: Job, run: Run) -> bool:
    """Process one file, whatever happens: if it fails, a line says why, and the next file is processed."""
    try:
        summary, notes = (_video if job.film else _photograph)(job, run)
    except Exception as error:  # a decoder, a codec or a disk may raise anything, and the other files are not to blame
        said = str(error) if isinstance(error, ValueError | OSError | RuntimeError) else f"{type(error).__name__}: {error}"
        said = " ".join(said.split()) or type(error).__name__
        print(f"faceeraser: {said if str(job.source) in said else f'{job.source}: {said}'}", file=sys.stderr, flush=True)
        return False
    print(f"{job.source}: {summary} -> {job.target}", flush=True)
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
            raise ValueError("effect custom: expected --elements FILE, a JSON file with its elements (docs/effects.md)")
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


def demo(args: argparse.Namespace) -> int:
    """`faceeraser demo`: serve the page until Ctrl-C."""
    served = serve.table(args.model, serve.PAGE)
    with serve.Server(args.host, args.port, served) as server:
        print(f"{server.url} shows the page, with {args.model.name}; press Ctrl-C to stop", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
    return 0

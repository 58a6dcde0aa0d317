"""Where the results of `faceeraser erase` go; everything is checked before anything is processed."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from faceeraser.face import picture, video


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
        if first.exists() and _real(first) == _real(second):
            raise ValueError(f"{first}: the result would replace it; choose another OUT")
        if first.is_dir():
            return [first], second
        if not first.exists():
            raise ValueError(f"{first}: cannot be opened (no such file); expected a photograph or a video; check the path")
        said = f"{first} and {second} both exist, so both are done; an OUT that exists goes after -o"
        print(f"faceeraser: {said}", file=sys.stderr)
    elif output is None and len(paths) > 2 and not paths[-1].exists():
        raise ValueError(f"{paths[-1]}: no such file; expected the OUT of several INs after -o: -o {paths[-1]}")
    unique = {_real(path): path for path in reversed(paths)}
    return [path for path in paths if unique[_real(path)] is path], output


def plan(sources: Sequence[Path], target: Path | None, ending: str, overwrite: bool) -> list[Job]:
    """List everything that is to be done, and check it before starting.

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
            below = target / _real(source).name if source.is_dir() else target / _beside(source, ending).name
        jobs += _of_folder(source, below, ending) if source.is_dir() else [_of_file(source, below, ending)]
    for job in jobs:
        if _real(job.target) == _real(job.source):
            raise ValueError(f"{job.source}: the result would replace it; choose another OUT")
    jobs = _kept_apart(jobs)
    taken: dict[Path, Path] = {}
    for job in jobs:
        if (other := taken.setdefault(_real(job.target), job.source)) != job.source:
            raise ValueError(f"{other} and {job.source} would both become {job.target}; put them into two folders")
    for job in jobs:
        if (maker := taken.get(_real(job.source))) is not None:
            raise ValueError(f"{job.source}: the result of {maker} would replace it; choose another OUT")
    check_places([job.target for job in jobs], overwrite)
    return jobs


def _kept_apart(jobs: Sequence[Job]) -> list[Job]:
    """The same, where a.heic and a.jpg of one folder would both become a-erased.png: they become a-heic-erased.png and
    a-jpg-erased.png.
    """
    wanted = Counter(_real(job.target) for job in jobs)

    def placed(job: Job) -> Job:
        if wanted[_real(job.target)] == 1:
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
    place = target or source.with_name(f"{_real(source).name}-{ending}")
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
    if len({_real(mask) for mask in masks} | {_real(job.target) for job in jobs}) < 2 * len(jobs):
        raise ValueError(f"--mask-out {target}: two results would have one name; choose other places for them")
    check_places(masks, overwrite)
    return placed


def check_places(places: Sequence[Path], overwrite: bool) -> None:
    """Raises ValueError if something is in the way of a result, or it cannot be written."""
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
    """Whether a file is a video: by its name or, if that says nothing, by what opens it."""
    kind = path.suffix.lower()
    if kind in picture.READABLE | video.READABLE or not path.is_file():
        return kind in video.READABLE
    return not picture.opens(path) and video.opens(path)


def _inside(folder: Path, target: Path, ending: str) -> list[tuple[Path, Path]]:
    """(file, its name below the folder) of all photographs and videos in a folder, but for hidden files, earlier results
    (`*-erased` where that is the `ending`) and what lies in the folder of the results.
    """
    kinds = picture.READABLE | video.READABLE
    paths = [
        (file, file.relative_to(folder))
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in kinds
        and (file.is_file() or not file.exists())  # a link that leads nowhere is told of
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and not file.stem.endswith(f"-{ending}")  # what an earlier run left beside its photograph
        and not (_real(target) != _real(folder) and _real(target) in _real(file).parents)
    ]
    if not paths:
        raise ValueError(f"{folder}: no photographs or videos in it; expected files ending in {', '.join(sorted(kinds))}")
    return paths


def _writable(name: Path) -> Path:
    """A name whose kind can be written: itself, or the same with .mp4 or .png."""
    film = name.suffix.lower() in video.READABLE
    kinds, otherwise = (set(video.WRITABLE), ".mp4") if film else (set(picture.WRITABLE), ".png")
    return name if name.suffix.lower() in kinds else name.with_suffix(otherwise)


def _real(path: Path) -> Path:
    """Where a path leads. Unlike `Path.resolve`, a link that leads to itself is no error here: opening it is one."""
    return Path(os.path.realpath(path))

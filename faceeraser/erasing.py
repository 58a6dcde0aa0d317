"""From a picture to the same picture without facial parts: find, landmarks, mask, model, paste.

    eraser = Eraser()
    erased = eraser.erase(image)

In a photograph, faces are detected; in a video they are followed (tracking.py), or come from a landmarks file. Only the
crop of a face is processed, so a large picture costs no more than its copy. The model runs on every frame. Once the faces
are known, frames are independent: with several workers, each erases one frame while faces are being followed in the next.
The pictures and their order are the same as with one worker.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from faceeraser import shipped
from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.files import KINDS
from faceeraser.artifacts.painting import paint_by_plan
from faceeraser.face import finder
from faceeraser.face.crops import align, align_matrix, check_picture, cut, mark, paste_back
from faceeraser.face.glasses import fill_beside, glasses_score, lens_beside, worn_frame, worn_temples
from faceeraser.face.landmarks import Landmarks
from faceeraser.face.masks import at_face, mask_of, with_creases, worn
from faceeraser.face.mesh import Face, transform
from faceeraser.face.occluders import Occluders, trimmed
from faceeraser.face.parts import PART_POINTS
from faceeraser.face.profiles import FEATURES
from faceeraser.face.tracking import Tracked, Tracker
from faceeraser.holding import Answer, Said
from faceeraser.system.extras import needed_for

Paint = Callable[[np.ndarray, np.ndarray], np.ndarray]
Finish = Callable[[np.ndarray, np.ndarray, Sequence[Face]], np.ndarray]
"""Further processing of a picture: (the photograph, the erased one, its faces) -> the result."""

STEPS = ("decode", "find", "landmarks", "mask", "cut", "model", "paste", "finish", "encode")


class Stopwatch:
    """Seconds spent in each of STEPS, over all threads. `since` is where a thread's next step begins."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STEPS, 0.0)
        self._own, self._lock = threading.local(), threading.Lock()

    def clear(self) -> None:
        """Forget what was measured."""
        self.seconds = dict.fromkeys(STEPS, 0.0)

    def start(self) -> None:
        """A step of this thread begins now."""
        self._own.since = time.perf_counter()

    def __call__(self, step: str) -> None:
        """What this thread did since the last call, or `start`, was this step."""
        now = time.perf_counter()
        with self._lock:
            self.seconds[step] += now - self._own.since
        self._own.since = now


@dataclass(frozen=True, eq=False)
class Erased:
    """A picture without its faces' parts.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        faces: those that were erased.
        worn: for each, whether glasses were erased too.
        mask: (H, W) bool, which pixels may have changed; all others are bit-identical.
    """

    image: np.ndarray
    faces: Sequence[Face]
    worn: Sequence[bool]
    mask: np.ndarray


class Eraser:
    """A model and what it erases. `resolution` is the edge of the crop in pixels; `clock` has the time of each step."""

    def __init__(
        self,
        model: str | Path | None = None,
        parts: Sequence[str] = FEATURES,
        glasses: str = "auto",
        *,
        front: str = "keep",
        most: int | None = None,
        runtime: str | None = None,
        delegate: str | Path | None = None,
        workers: int = 1,
    ) -> None:
        """Load the model.

        Args:
            model: an exported file with its card, or a checkpoint folder (which needs torch); None: the file that comes with
                the package.
            parts: as for `face_mask`.
            glasses: as for `face_mask`.
            front: 'keep' what hangs in front of the parts (hair, hands, things), or 'erase' it with them.
            most: erase only the so many largest faces of a picture; None: all.
            runtime: for .tflite, as for `Artifact`.
            delegate: the same.
            workers: how many frames of a video are erased at a time, each on one thread.

        Raises:
            FileNotFoundError, ValueError: there is no such model, it is damaged, or it takes no square pictures.
            ModuleNotFoundError: names the extra to install.
        """
        if not parts or not set(parts) <= set(FEATURES):
            raise ValueError(f"found the parts {list(parts)}; expected some of {', '.join(FEATURES)}")
        if glasses not in ("auto", "on", "off"):
            raise ValueError(f"found glasses {glasses!r}; expected 'auto', 'on' or 'off'")
        if front not in ("keep", "erase"):
            raise ValueError(f"found front {front!r}; expected 'keep' or 'erase'")
        self.parts, self.glasses, self.workers, self.clock = parts, glasses, workers, Stopwatch()
        self.most = most
        self._occluders = Occluders() if front == "keep" else None
        self._models: SimpleQueue[_Model] = SimpleQueue()
        for _ in range(workers):
            opened = _open(Path(model or shipped.PLAN_FILE), runtime, Path(delegate) if delegate else None)
            self.resolution, self.plans = opened.resolution, opened.plan is not None
            self._models.put(opened)
        self._opened = opened.source

    def erase(self, image: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> np.ndarray:
        """Erase the facial parts in a photograph and return the picture; `photograph` also returns the faces.

        Args:
            image: (H, W, 3) uint8 RGB, upright, or anything that numpy converts to this, such as a Pillow image.
            mask: deprecated; in v0.1 this erased a crop. Use `erase_crop`; this will be removed in 0.3.

        Returns:
            (H, W, 3) uint8. Pixels outside the faces' masks are bit-identical; without a face all of them are.

        Raises:
            ValueError: the image is not of this kind.
            FileNotFoundError: the landmark models are missing and cannot be downloaded.
        """
        if mask is not None:
            _warn("erase(crop, mask)", "erase_crop(crop, mask)")
            return self.erase_crop(np.asarray(image), np.asarray(mask))
        return self.photograph(np.asarray(image)).image

    def photograph(self, image: np.ndarray, known: Sequence[Face] | None = None, finish: Finish | None = None) -> Erased:
        """Erase every face of a photograph.

        Args:
            image: (H, W, 3) uint8 RGB.
            known: its faces, if they come from somewhere else; None detects them.
            finish: see `Finish`.

        Returns:
            The photograph, whose pixels outside the faces' masks are bit-identical, its faces and who wears glasses.

        Raises:
            FileNotFoundError: faces are to be found, and the landmark models are missing and cannot be downloaded.
        """
        self.clock.start()
        if known is None:
            known = finder.shared()(image, clock=self.clock)
        known = known[: self.most]
        return self._erase(image, known, [self.glasses] * len(known), finish, still=True)

    def region(self, image: np.ndarray, mask: np.ndarray) -> Erased:
        """Erase exactly what a mask marks, face or not.

        If a piece of the mask lies wholly in the crop of a face, that crop is used, because the model knows it best. Any
        other piece gets its own square, twice as wide as the piece.

        Args:
            image: (H, W, 3) uint8 RGB.
            mask: (H, W) bool, true = erase.

        Raises:
            ValueError: the mask has another size than the picture.
        """
        if mask.shape != image.shape[:2]:
            given, wanted = (f"{shape[1]} x {shape[0]}" for shape in (mask.shape, image.shape))
            raise ValueError(f"found a mask of {given} pixels; expected {wanted}, the picture's size")
        self.clock.start()
        squares = [align_matrix(face, self.resolution) for face in finder.shared()(image, clock=self.clock)]
        result = image.copy()
        for matrix, piece in _pieces(mask, squares, self.resolution):
            inside = cut(piece.astype(np.float32), matrix, (self.resolution, self.resolution)) > 0
            crop = cut(result, matrix, (self.resolution, self.resolution))
            grown = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # its rim fades outside
            painted = _as_grey_as(crop, self.erase_crop(crop, grown))
            laid = paste_back(result, painted, matrix, grown)
            result[piece] = laid[piece]
        return Erased(result, [], [], mask.copy())

    def erase_crop(self, crop: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Run only the model on a crop, without detecting faces.

        Args:
            crop: (R, R, 3) uint8 RGB of the edge length `resolution`, such as `crops.align` cuts.
            mask: (R, R), any non-zero = erase.

        Returns:
            (R, R, 3) uint8; pixels outside the mask are bit-identical.

        Raises:
            ValueError: they are of another size or type.
        """
        check_picture(crop)
        expected = (self.resolution, self.resolution)
        if crop.shape[:2] != expected or np.shape(mask) != expected:
            raise ValueError(f"found a crop {crop.shape[:2]} and a mask {np.shape(mask)}; expected {expected} of both")
        if self.plans:
            whole = np.array([[1.0, 0, 0], [0, 1.0, 0]])
            return paint_by_plan(crop.copy(), mask, crop, self._said(crop, mask), whole)[0]
        model = self._models.get()
        try:
            return model.paint(crop, mask)
        finally:
            self._models.put(model)

    def _said(self, crop: np.ndarray, mask: np.ndarray) -> Mapping[str, np.ndarray]:
        """The plan of a model that makes plans."""
        model = self._models.get()
        try:
            assert model.plan is not None
            return model.plan(crop, mask)
        finally:
            self._models.put(model)

    def frames(
        self,
        images: Iterable[tuple[np.ndarray, float]],
        known: Tracker | Landmarks | None = None,
        finish: Finish | None = None,
    ) -> Iterator[Erased]:
        """Erase every face of every frame of a video.

        Args:
            images: frames, (H, W, 3) uint8 RGB, with the seconds since the one before.
            known: a tracker that follows the faces, or the landmarks of each frame; None uses a new tracker.
            finish: see `Finish`; it runs in the workers' threads.

        Raises:
            ValueError: there are more frames than landmarks.
        """
        known = Tracker(finder.shared()) if known is None else known
        chosen, held = _Largest(self.most), Said()
        glasses = _Glasses(self.glasses if "eyes" in self.parts or self.glasses == "on" else "off")
        waiting: deque[Future[Erased]] = deque()
        with ThreadPoolExecutor(self.workers) if self.workers > 1 else _Inline() as pool:
            try:
                for image, around, choices, numbers in self._followed(images, known, glasses, chosen):
                    # Plans are made in order, each from the one before; what they paint does not hang on other frames.
                    plans = self._planned(image, around, choices, numbers, held) if self.plans else None
                    waiting.append(pool.submit(self._erase, image, around, choices, finish, plans))
                    if len(waiting) >= self.workers + (self.workers > 1):  # one more than is worked on
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    if not TYPE_CHECKING:  # until 0.3: what `faceeraser.load` gave in v0.1 was the file or the network itself

        def __getattr__(self, name: str) -> Any:
            opened = self.__dict__.get("_opened")
            if name.startswith("_") or not hasattr(opened, name):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            _warn(f"load(path).{name}", f"faceeraser.{_successor(opened)}(path).{name}")
            return getattr(opened, name)

        def __call__(self, *inputs: Any) -> Any:
            if not callable(self._opened):
                raise TypeError(f"{type(self).__name__!r} object is not callable; erase(image) erases a photograph")
            _warn("load(path)(image, mask)", "faceeraser.load_checkpoint(path)(image, mask)")
            return self._opened(*inputs)

    def _followed(
        self, images: Iterable[tuple[np.ndarray, float]], known: Tracker | Landmarks, glasses: _Glasses, chosen: _Largest
    ) -> Iterator[tuple[np.ndarray, Sequence[Face], list[str], list[int]]]:
        """(frame, its faces, what is done about the glasses of each, the number of each)."""
        frames = iter(images)
        number = 0
        while True:
            self.clock.start()
            taken = next(frames, None)
            self.clock("decode")
            if taken is None:
                return
            image, seconds = taken
            if isinstance(known, Tracker):
                tracked = chosen.of(known(image, seconds, self.clock))
                around: Sequence[Face] = [track.face for track in tracked]
                numbers = [track.number for track in tracked]
            else:
                around = known[number][: self.most]
                numbers = list(range(len(around)))
            choices = [glasses.of(own, image, face) for own, face in zip(numbers, around, strict=True)]
            self.clock("mask")
            number += 1
            yield image, around, choices, numbers

    def _planned(
        self,
        image: np.ndarray,
        around: Sequence[Face],
        glasses: Sequence[str],
        numbers: Sequence[int],
        held: Said,
        still: bool = False,
    ) -> list[_Planned]:
        """What each face of a frame is painted by. Sources are those of the frame before as long as they are skin. still: no
        frame of a video.
        """
        self.clock.start()
        plans = []
        for face, choice, number in zip(around, glasses, numbers, strict=True):
            # Nothing of it is shown, and a plan sees half of its pixels.
            crop, matrix = align(image, face, self.resolution, sharp=False)
            self.clock("cut")
            points = transform(matrix, face.mesh[PART_POINTS])
            answer, covers, kept = held.of(number, crop, choice, points)
            if answer is not None and covers:
                plans.append(_Planned(answer.mask, answer.share, answer.pair is not None, None, crop, matrix, answer.plan))
                self.clock("mask")
                continue
            if answer is not None:
                pair = answer.pair
            else:
                pair = worn(image, face, self.resolution, self.parts, choice) if kept is None else kept
            mask, share, beside = self._hole(image, face, crop, matrix, pair, still)
            self.clock("mask")
            if answer is None:
                answer = Answer(choice, points, pair, mask, share, self._said(crop, mask))
                answer = held.new(number, crop, answer, kept)
            plans.append(_Planned(mask, share, pair is not None, beside, crop, matrix, answer.plan))
            self.clock("model")
        return plans

    def _hole(
        self, image: np.ndarray, face: Face, crop: np.ndarray, matrix: np.ndarray, pair: np.ndarray | None, still: bool
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """What is erased of a face at last, the share of what is painted (`occluders.trimmed`), and what of its glasses is
        not skin but filled (`fill_beside`). pair: the glasses; still: no frame of a video, in which temples that are found
        in one frame alone would flicker.
        """
        front = None if self._occluders is None else self._occluders(crop)
        frame = temples = beside = None
        if still and pair is not None:
            frame, temples = (find(image, face, self.resolution) for find in (worn_frame, worn_temples))
            there = at_face(face, self.resolution)
            pair, frame, beside = (pair | temples) & there, frame & there, lens_beside(pair & ~there)
        mask, share = mask_of(face, self.resolution, self.parts, pair), None
        if still and set(FEATURES) <= set(self.parts):
            mask = with_creases(mask, crop, face.moved(matrix))
        if front is not None:
            # A frame that hangs together with hair is no hair.
            if frame is not None:
                front[cv2.resize(frame.astype(np.uint8), front.shape, interpolation=cv2.INTER_AREA) > 0] = 0
            mask, share = trimmed(mask, front)
        if beside is not None:
            beside |= temples & ~mask
        return mask, share, beside

    def _erase(
        self,
        image: np.ndarray,
        around: Sequence[Face],
        glasses: Sequence[str],
        finish: Finish | None,
        plans: Sequence[_Planned] | None = None,
        still: bool = False,
    ) -> Erased:
        """Mask, model and paste, face by face, in the order given. still: no frame of a video."""
        self.clock.start()
        result, wearers = image.copy(), []
        changed = np.zeros(image.shape[:2], bool)
        for k, (face, choice) in enumerate(zip(around, glasses, strict=True)):
            if self.plans:
                planned = plans[k] if plans else self._planned(result, [face], [choice], [0], Said(), still)[0]
                mask, wears = planned.mask, planned.wears
                if planned.beside is not None:
                    changed |= fill_beside(result, planned.matrix, planned.beside, mask)
                made_of = planned.crop, planned.plan, planned.matrix, planned.share
                result, painted_there = paint_by_plan(result, mask, *made_of, moving=plans is not None)
                changed |= painted_there
            else:
                crop, matrix = align(result, face, self.resolution)
                self.clock("cut")
                pair = worn(image, face, self.resolution, self.parts, choice)
                (mask, _, beside), wears = self._hole(result, face, crop, matrix, pair, still), pair is not None
                self.clock("mask")
                if beside is not None:
                    changed |= fill_beside(result, matrix, beside, mask)
                    crop, _ = align(result, face, self.resolution)
                painted = _as_grey_as(crop, self.erase_crop(crop, mask))
                self.clock("model")
                result = paste_back(result, painted, matrix, mask, in_place=True)
                mark(changed, matrix, mask)
            self.clock("paste")
            wearers.append(wears)
        if finish is not None and around:
            result = finish(image, result, around)
            changed |= (result != image).any(axis=2)
            self.clock("finish")
        return Erased(result, around, wearers, changed)


def _as_grey_as(crop: np.ndarray, painted: np.ndarray) -> np.ndarray:
    """What was painted, without its colour where the crop has none: a network has a tint for every skin."""
    if (crop[..., 0] != crop[..., 1]).any() or (crop[..., 0] != crop[..., 2]).any():
        return painted
    return cv2.cvtColor(cv2.cvtColor(painted, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _pieces(mask: np.ndarray, squares: Sequence[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(2x3 matrix of the crop, (H, W) bool) of everything in a mask that hangs together, those in one face's crop as one."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    held: dict[int, list[int]] = {}
    for label in range(1, count):
        x, y, width, height = stats[label, :4]
        corners = np.array([[x, y], [x + width, y], [x, y + height], [x + width, y + height]], np.float64)
        for number, matrix in enumerate(squares):
            there = transform(matrix, corners)
            if there.min() >= 0 and there.max() <= size - 1:
                held.setdefault(number, []).append(label)
                break
        else:
            scale = size / max(2.0 * max(width, height), 16.0)
            middle = np.array([x + (width - 1) / 2, y + (height - 1) / 2])
            shift = (size - 1) / 2 - scale * middle
            yield np.array([[scale, 0, shift[0]], [0, scale, shift[1]]]), labels == label
    for number, own in held.items():
        yield squares[number], np.isin(labels, own)


class _Largest:
    """The largest faces of a video, so chosen that two of about one size do not take turns."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._numbers: set[int] = set()

    def of(self, tracked: Sequence[Tracked]) -> Sequence[Tracked]:
        """Those of a frame's faces that are to be erased."""
        if self._most is None:
            return tracked
        # Who was chosen counts as half as large again.
        order = sorted(tracked, key=lambda track: -track.face.width * (1.5 if track.number in self._numbers else 1.0))
        self._numbers = {track.number for track in order[: self._most]}
        return [track for track in tracked if track.number in self._numbers]


@dataclass(frozen=True, eq=False)
class _Planned:
    """A face's mask, the share of what is painted in and beyond it, whether glasses are in it, what of them is filled beside
    it, the crop that was planned on and where it lies, and the plan.
    """

    mask: np.ndarray
    share: np.ndarray | None
    wears: bool
    beside: np.ndarray | None
    crop: np.ndarray
    matrix: np.ndarray
    plan: Mapping[str, np.ndarray]


class _Inline:
    """A pool of no threads: what is submitted is done at once. For one worker, so that nothing is switched."""

    def __enter__(self) -> _Inline:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[..., Erased], *args: object) -> Future[Erased]:
        done: Future[Erased] = Future()
        done.set_result(work(*args))
        return done


class _Glasses:
    """Whether someone in a video wears glasses: the mean of all looks so far, so that no single frame turns it over."""

    EVERY = 15  # frames between two looks

    def __init__(self, choice: str) -> None:
        self._choice = choice
        self._scores: dict[int, list[float]] = {}
        self._frames: dict[int, int] = {}

    def of(self, number: int, image: np.ndarray, face: Face) -> str:
        """'on' or 'off' for the face of this number, in this frame."""
        if self._choice != "auto":
            return self._choice
        seen = self._frames.get(number, 0)
        self._frames[number] = seen + 1
        scores = self._scores.setdefault(number, [])
        if seen % self.EVERY == 0:
            scores.append(glasses_score(image, face))
        return "on" if sum(scores) >= 0.5 * len(scores) else "off"


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} of v0.1 is {new}; it goes with 0.3", DeprecationWarning, stacklevel=3)


def _successor(opened: object) -> str:
    return "Artifact" if isinstance(opened, Artifact) else "load_checkpoint"


@dataclass(frozen=True, eq=False)
class _Model:
    """A model as functions of (crop, mask), and the edge of the crops it takes. plan: where painting is done elsewhere.

    source: the exported file or the network.
    """

    source: Any
    resolution: int
    paint: Paint
    plan: Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]] | None = None


def _open(path: Path, runtime: str | None, delegate: Path | None) -> _Model:
    if path.suffix not in KINDS and not path.exists():
        endings = ", ".join(KINDS)
        expected = f"expected a checkpoint folder, or a file ending in {endings}"
        raise FileNotFoundError(f"{path}: no such file or folder; {expected}")
    if path.suffix not in KINDS and path.is_dir():
        with needed_for("a checkpoint folder", "train"):
            from faceeraser.model import checkpoint
            from faceeraser.model.inference import as_method
        pipeline: Any = checkpoint.load(path)
        return _Model(pipeline, pipeline.config.resolution, as_method(pipeline), getattr(pipeline, "plan_of", None))
    model = Artifact(path, threads=1, runtime=runtime, delegate=delegate)
    height, width = (side or int(model.card["resolution"]) for side in model.resolution)
    if height != width:
        raise ValueError(f"{path}: takes pictures of {width} x {height}; expected a square; export again")
    return _Model(model, height, model.erase, model.plan if model.plans else None)


def shares(clock: Stopwatch) -> Mapping[str, float]:
    """What each step took of all that was measured, as shares of 1."""
    whole = sum(clock.seconds.values()) or 1.0
    return {step: spent / whole for step, spent in clock.seconds.items() if spent}

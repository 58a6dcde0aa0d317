"""What holds of a face of a video from frame to frame, so that not every frame is asked for a mask, glasses and a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np

from faceeraser.artifacts.painting import Held


@dataclass(frozen=True, eq=False)
class Answer:
    """What was found out of a face in its crop: the glasses for a choice, the mask for where the parts' points were, the
    share of paint, and the plan.
    """

    choice: str
    points: np.ndarray
    pair: np.ndarray | None
    mask: np.ndarray
    share: np.ndarray | None
    plan: Mapping[str, np.ndarray]


class Still:
    """Something of each face of a video that holds for some frames of its crop, which follows the face, unless what is
    visible of the crop changes.
    """

    EVERY = 5
    """Frames that it holds for, at most."""
    LIT = 1.0
    """Levels of 255 by which the mean of what is visible has to differ to have changed."""
    SIDE = 32
    """Pixels along the side of the small crop that is compared."""

    def __init__(self, changed: float) -> None:
        """changed: levels of 255 by which some visible place, a tenth of the crop across, has to differ."""
        self._changed = changed
        # By the face's number: the thing, the crop then, small, and its visible places; and the frames it was for.
        self._things: dict[int, tuple[Answer, np.ndarray, np.ndarray]] = {}
        self._ages: dict[int, int] = {}

    @classmethod
    def small(cls, crop: np.ndarray) -> np.ndarray:
        """What is compared of a crop."""
        return cv2.resize(crop, (cls.SIDE, cls.SIDE), interpolation=cv2.INTER_AREA)

    def of(self, number: int, now: np.ndarray) -> tuple[Answer | None, float]:
        """What holds for a crop of the face of this number, given `small`, or None; and by how much the place differs that
        differs most, visible or hidden.
        """
        if number not in self._things or self._ages[number] >= self.EVERY:
            return None, 0.0
        thing, then, visible = self._things[number]
        differs = cv2.absdiff(cv2.blur(now, (3, 3)), cv2.blur(then, (3, 3))).max(axis=2)
        lit = np.abs(np.subtract(cv2.mean(now, visible), cv2.mean(then, visible))).max()
        if differs[visible > 0].max(initial=0) > self._changed or lit > self.LIT:
            return None, 0.0
        self._ages[number] += 1
        return thing, float(differs.max())

    def new(self, number: int, now: np.ndarray, thing: Answer) -> None:
        """Hold something from now on; now: its crop, `small`."""
        hidden = cv2.resize(thing.mask.astype(np.float32), (self.SIDE, self.SIDE), interpolation=cv2.INTER_AREA)
        self._things[number] = thing, now, (hidden == 0).astype(np.uint8)
        self._ages[number] = 1


class Said:
    """The answers for each face of a video: the plan and the mask hold as long as little changes, glasses a little longer. A
    mask is also made again when what it hides changes, or a part moves in the crop.
    """

    PLAN, GLASSES, HIDDEN = 6.0, 12.0, 24.0
    """Levels of 255, see `Still`; the last of what the mask hides. Where a head moves, places differ by 3 to 6 from frame
    to frame; where an eye blinks or a rim of glasses moves by a pixel, by 10 to 20. Plans that held at 12 swam: 1.62 in
    benchmarks/motion.py, and 1.45 at 6 and with a plan for every frame.
    """
    MOVED = 1.5 / 256
    """Of the crop, how far a point of a part has to move for another mask: much less than masks reach beyond the parts."""

    def __init__(self) -> None:
        self._sources, self._answers, self._glasses = Held(), Still(self.PLAN), Still(self.GLASSES)

    def of(
        self, number: int, crop: np.ndarray, choice: str, points: np.ndarray
    ) -> tuple[Answer | None, bool, np.ndarray | None]:
        """The answer that holds for a crop of the face of this number, or None; if its mask does; the glasses that do."""
        now = Still.small(crop)
        answer, differs = self._answers.of(number, now)
        known, _ = self._glasses.of(number, now)
        pair = known.pair if known and known.choice == choice else None
        if answer is None or answer.choice != choice:
            return None, False, pair
        moved = float(np.linalg.norm(points - answer.points, axis=1).max())
        return answer, moved <= self.MOVED * len(crop) and differs <= self.HIDDEN, answer.pair

    def new(self, number: int, crop: np.ndarray, answer: Answer, pair: np.ndarray | None) -> Answer:
        """The answer that has just been found, with the sources that are held for this face. pair: glasses that held."""
        answer = replace(answer, plan=self._sources.steady(number, answer.plan))
        now = Still.small(crop)
        self._answers.new(number, now, answer)
        if pair is None:
            self._glasses.new(number, now, answer)
        return answer

"""Videos and cameras, read and written by OpenCV; their sound is carried over by the command `ffmpeg` where there is one.

    clip = video.Clip(Path("clip.mp4"))
    with video.writing(Path("out.mp4"), clip.fps, sound_of=clip.path) as write:
        for image in clip:
            write(image)

Frames are (H, W, 3) uint8 RGB, upright (a phone's rotation is applied). What is written stands beside its target under
another name until it is whole.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# FFmpeg inside OpenCV writes to stderr what is said here in one line. It looks at this once, when it is first used.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

READABLE = {
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv",
}  # fmt: skip
"""What counts as a video when a folder is searched, or by its name alone."""

WRITABLE: Mapping[str, str] = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "FFV1", ".avi": "MJPG"}
"""What can be written, and the codec: MPEG-4, which plays nearly everywhere; in .mkv FFV1, which loses nothing."""

_FPS = 30.0  # of what does not say


class Clip:
    """A video file. `fps`; `frames`, how many the file says it has, or None; iterating reads it once, front to back."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError when the file is missing, empty, no video, or has no frame that can be read."""
        if not path.is_file():
            raise ValueError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected a video")
        if path.stat().st_size == 0:
            raise ValueError(f"{path}: the file is empty (0 bytes); expected a video; fetch or export it again")
        self.path = path
        self._capture = _opened(str(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise ValueError(
                f"{path}: is no video in any format that OpenCV's FFmpeg reads, or is damaged or cut short; "
                "fetch it again, or convert it first"
            )
        self.fps = _plausible(self._capture.get(cv2.CAP_PROP_FPS))
        told = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames = int(told) if 0 < told < 1e9 else None
        self._first = _next(self._capture)
        if self._first is None:
            raise ValueError(f"{path}: has no frame that can be read; expected a video; fetch or export it again")
        self.read = 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        assert self._first is not None
        return self._first.shape[1], self._first.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        frame = self._first
        while frame is not None:
            self.read += 1
            yield frame
            frame = _next(self._capture)
        self._capture.release()

    @property
    def cut_short(self) -> bool:
        """Once it has been read: whether there were clearly fewer frames than the file says (containers count roughly)."""
        return self.frames is not None and self.read < 0.97 * self.frames - 1


class Camera:
    """A camera. Iterating gives its frames without end, each with the seconds since the one before."""

    def __init__(self, index: int) -> None:
        """Raises ValueError when there is no such camera, or it gives no picture."""
        self._capture = _opened(index)
        first = _next(self._capture) if self._capture.isOpened() else None
        if first is None:
            self._capture.release()
            raise ValueError(
                f"camera {index} cannot be opened, or gives no picture; expected one that is plugged in and that no other "
                "program uses; try another number, such as --camera 1"
            )
        self._first: np.ndarray = first
        self.fps = _plausible(self._capture.get(cv2.CAP_PROP_FPS))

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        frame: np.ndarray | None = self._first
        seconds, at = 1 / self.fps, time.monotonic()
        try:
            while frame is not None:
                yield frame, seconds
                frame = _next(self._capture)
                now = time.monotonic()
                seconds, at = max(now - at, 1e-3), now
        finally:
            self._capture.release()


def _opened(source: str | int, *backend: int) -> cv2.VideoCapture:
    """OpenCV's capture of a file or a camera, without what its backends say on stderr: the caller says it in one line."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return cv2.VideoCapture(source, *backend)
    finally:
        cv2.utils.logging.setLogLevel(level)


def _plausible(fps: float) -> float:
    return float(fps) if 0.1 <= fps <= 1000 else _FPS


def _next(capture: cv2.VideoCapture) -> np.ndarray | None:
    there, frame = capture.read()
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame) if there and frame is not None else None


# --- writing --------------------------------------------------------------------------------------------------------


@contextmanager
def writing(path: Path, fps: float, sound_of: Path | None = None) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a video: gives the function that takes the frames; the file is there once the block has ended without an error.

    Args:
        path: ends in one of WRITABLE. A size that is odd loses its last row or column: the codecs want even ones.
        fps: frames a second.
        sound_of: a video whose sound comes along, where `sound_command` gives one.

    Raises:
        ValueError: the place cannot be written, the frames differ in size, or less arrived on disk than was written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # With the ending, by which OpenCV and ffmpeg choose the container.
    silent, sounding = (path.with_name(f".{path.stem}.{what}-{os.getpid()}{path.suffix}") for what in ("partial", "sound"))
    writer: cv2.VideoWriter | None = None
    size, written, row = (0, 0), 0, np.zeros(0, np.uint8)

    def write(image: np.ndarray) -> None:
        nonlocal writer, size, written, row
        if writer is None:
            size = (image.shape[1], image.shape[0])
            code = cv2.VideoWriter.fourcc(*WRITABLE[path.suffix.lower()])
            writer = cv2.VideoWriter(str(silent), cv2.CAP_FFMPEG, code, fps, size)
            row = np.empty_like(image)
            if not writer.isOpened():
                raise ValueError(f"{path}: cannot be written; expected a folder that can, and frames of 2 pixels or more")
        if (image.shape[1], image.shape[0]) != size:
            found = f"{image.shape[1]} x {image.shape[0]}"
            raise ValueError(f"{path}: found a frame of {found} pixels among {size[0]} x {size[1]}; expected one size")
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR, dst=row))
        written += 1

    try:
        yield write
        if writer is None:
            raise ValueError(f"{path}: there was no frame to write")
        writer.release()
        # OpenCV says nothing of a full disk, so the file itself is asked.
        whole = _opened(str(silent), cv2.CAP_FFMPEG)
        counted = whole.get(cv2.CAP_PROP_FRAME_COUNT) if whole.isOpened() else 0
        whole.release()
        if counted < written:
            raise ValueError(f"{path}: only {counted:.0f} of {written} frames arrived on disk; is there room for it?")
        (sounding if sound_of is not None and _with_sound(silent, sound_of, sounding) else silent).replace(path)
    finally:
        if writer is not None:
            writer.release()
        silent.unlink(missing_ok=True)
        sounding.unlink(missing_ok=True)


def sound_command() -> str | None:
    """Where `ffmpeg` is, which carries sound over; None where it is not installed."""
    return shutil.which("ffmpeg")


def _with_sound(silent: Path, source: Path, target: Path) -> bool:
    """Write `silent` to `target` with the sound of `source`: as it is or, where the container does not take it, encoded.

    False where there is no ffmpeg, or it cannot do it.
    """
    if (ffmpeg := sound_command()) is None:
        return False
    for codec in (["-c:a", "copy"], []):
        command = [ffmpeg, "-nostdin", "-v", "error", "-y", "-i", str(silent), "-i", str(source)]
        command += ["-map", "0:v:0", "-map", "1:a?", "-c:v", "copy", *codec, str(target)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0 and target.is_file():
            return True
    return False


# --- showing --------------------------------------------------------------------------------------------------------


@contextmanager
def window(title: str) -> Iterator[Callable[[np.ndarray], bool]]:
    """A window that shows frames: gives a function that shows one and says whether to go on (Escape, q or closing it: no).

    Raises:
        ValueError: this build of OpenCV has no windows.
    """
    try:
        cv2.namedWindow(title, cv2.WINDOW_NORMAL)
    except cv2.error:
        raise ValueError(
            "this build of OpenCV (opencv-python-headless) has no windows, so there is no preview; name a video to write: "
            "faceeraser erase --camera 0 out.mp4; or install opencv-python in its place"
        ) from None

    def show(image: np.ndarray) -> bool:
        cv2.imshow(title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        closed = cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1
        return cv2.waitKey(1) & 0xFF not in (27, ord("q")) and not closed

    try:
        yield show
    finally:
        cv2.destroyAllWindows()

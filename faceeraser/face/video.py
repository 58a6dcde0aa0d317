"""Videos, read and written by PyAV (FFmpeg inside a wheel), and cameras, by OpenCV.

    clip = video.Clip(Path("clip.mp4"))
    with video.writing(Path("out.mp4"), clip=clip) as write:
        for frame in clip:
            write(erased, frame, mask)

A program sees (H, W, 3) uint8 RGB, upright. A `Frame` keeps the decoded frame beside it, with its planes, depth, colour
tags, time and interlacing. What is erased is put back into those planes, so everything else is encoded as it was decoded.
Times, colour tags, pixel shape, rotation, sound, subtitles, languages and chapters go into the new file; `Clip.notes` says
what could not. The new file stands beside its target under another name until it is whole.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

# FFmpeg inside OpenCV, which opens cameras, writes to stderr what is said here in one line. It looks at this once.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

from faceeraser.system.writing import whole_file

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame

READABLE = {
    ".mp4",
    ".m4v",
    ".mov",
    ".avi",
    ".mkv",
    ".webm",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".m2ts",
    ".wmv",
    ".flv",
    ".3gp",
    ".ogv",
    ".mxf",
    ".vob",
}
"""What counts as a video when a folder is searched, or by its name alone."""

WRITABLE: Mapping[str, str] = {".mp4": "libx264", ".mov": "libx264", ".mkv": "ffv1", ".avi": "mjpeg"}
"""What can be written, and the codec: H.264, which plays everywhere; in .mkv lossless FFV1; in .avi Motion JPEG."""

QUALITY = 65  # 1 to 100; of H.264, whose constant rate factor is then 18, where losses are hard to see

_SOUND: Mapping[str, str] = {".mp4": "aac", ".mov": "aac", ".mkv": "flac", ".avi": "libmp3lame"}
_FPS = Fraction(30)  # of what does not say
# Formats whose planes hold one component each, in this machine's byte order: those are painted in place.
_PLANAR = re.compile(r"(yuvj?|yuva)4[1-4][0-4]p(9|10|12|14|16)?(le)?|gray(9|10|12|14|16)?(le)?|gbra?p(9|10|12|14|16)?(le)?")
_SUBSAMPLED = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (4, 1): "411", (1, 2): "440", (4, 4): "410"}
_FULL, _LIMITED = 2, 1  # AVColorRange
_BT709, _BT601 = 1, 6  # AVColorSpace
_TURNED = "an .avi cannot say that a video is turned, and this one is"


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a clip.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright.
        seconds: since the frame before.
        native: as it was decoded, as stored (not turned), with its time in `native.pts`.
    """

    image: np.ndarray
    seconds: float
    native: VideoFrame

    def copy(self) -> Frame:
        """The same with planes of its own, for a second file: writing a frame paints into them."""
        frame = _cropped(self.native, self.native.width, self.native.height)
        return Frame(self.image, self.seconds, frame)


class Clip:
    """A video file. Iterating reads it once, front to back.

    `fps`, frames a second on average; `frames`, about how many there are, or None; `read`, how many were read;
    `damage`, what was wrong with it, known once it has been read; `notes`, lines about what the result could not keep.
    """

    def __init__(self, path: Path) -> None:
        """Raises ValueError when the file is missing, empty, no video, or has no frame that can be read."""
        import av

        self.path, self.read, self.damage = path, 0, ""
        self.notes: list[str] = []
        self.container, self._file = _opened(path)
        pictures = av.stream.Disposition.attached_pic
        streams = [stream for stream in self.container.streams.video if not stream.disposition & pictures]
        if not streams:
            self.container.close()
            raise ValueError(f"{path}: has sound and no pictures; expected a video")
        self.stream = max(
            streams, key=lambda stream: (bool(stream.disposition & av.stream.Disposition.default), -stream.index)
        )
        self.stream.thread_type = "AUTO"
        rate = self.stream.average_rate or self.stream.guessed_rate
        self.rate = Fraction(rate) if rate and 0.1 <= rate <= 1000 else _FPS
        self.fps = float(self.rate)
        long = self.stream.duration * self.stream.time_base if self.stream.duration and self.stream.time_base else None
        long = long or (Fraction(self.container.duration, 1_000_000) if self.container.duration else None)
        self.frames = self.stream.frames or (None if long is None else max(1, round(long * self.rate)))
        # A broadcast's clock begins anywhere; that of any other file is meant, such as pictures that begin after the sound.
        running = self.container.format.name in ("mpegts", "mpeg") and self.container.start_time
        self.begins = Fraction(self.container.start_time, 1_000_000) if running else Fraction(0)
        self._decoded = self._decode()
        self._first = next(self._decoded, None)
        if self._first is None:
            raise ValueError(f"{path}: has no frame that can be read; expected a video; fetch or export it again")
        self._turn = _turn(self._first)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright."""
        assert self._first is not None
        width, height = self._first.width, self._first.height
        return (height, width) if self._turn[0] % 2 else (width, height)

    @property
    def turned(self) -> bool:
        """Whether it is to be shown turned or mirrored."""
        return self._turn != (0, False)

    @property
    def matrix(self) -> Sequence[int] | None:
        """The display matrix, 9 numbers, of a video that is to be shown turned."""
        return None if self._first is None else _matrix(self._first)

    @property
    def first(self) -> VideoFrame:
        """The first frame as it was decoded."""
        assert self._first is not None
        return self._first

    def upright(self, stored: np.ndarray) -> np.ndarray:
        """A picture as it is stored -> as it is shown."""
        quarters, mirrored = self._turn
        return np.ascontiguousarray(np.rot90(stored[:, ::-1] if mirrored else stored, quarters))

    def stored(self, upright: np.ndarray) -> np.ndarray:
        """The other way."""
        quarters, mirrored = self._turn
        turned = np.rot90(upright, -quarters)
        return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)

    def __iter__(self) -> Iterator[Frame]:
        frame, last = self._first, None
        step = 1 / self.rate
        while frame is not None:
            if (frame.width, frame.height) != (self.first.width, self.first.height):
                raise ValueError(
                    f"{self.path}: changes from {self.first.width} x {self.first.height} to {frame.width} x {frame.height} "
                    "pixels on the way; expected one size; cut it there into two files"
                )
            base = frame.time_base or self.stream.time_base or Fraction(1, 1000)
            at = frame.pts * base if frame.pts is not None else (Fraction(0) if last is None else last + step)
            if last is not None and at <= last:  # times that stand still or go back: a frame later than the one before
                at = last + base
            frame.pts, frame.time_base = round((at - self.begins) / base), base
            self.read += 1
            frame = _planar(frame)
            image = self.upright(frame.reformat(format="rgb24", dst_color_range=_FULL).to_ndarray())
            yield Frame(image, float(at - last if last is not None else step), frame)
            last = at
            frame = next(self._decoded, None)
        self.container.close()

    def _decode(self) -> Iterator[VideoFrame]:
        import av

        broken = 0
        try:
            for packet in self._file.packets(self.container.demux(self.stream)):
                try:
                    decoded = packet.decode()
                except av.error.InvalidDataError:
                    broken += self.read > 0  # a recording may begin in the middle of a group of pictures
                    continue
                for frame in decoded:
                    broken += bool(frame.is_corrupt) and self.read > 0
                    yield frame
        except (av.error.FFmpegError, OSError):
            self.damage = "it is cut short or damaged"
            with suppress(av.error.FFmpegError):
                yield from self.stream.decode(None)
        if self._file.given_up:
            self.damage = "it is cut short or damaged"
        elif _cut_short(self.path):
            self.damage = "it is cut short"
        elif broken and not self.damage:
            self.damage = f"{broken} of its frames could not be decoded"


PATIENCE_S = 8.0
"""For opening a file, and for its next packet: one may be followed by a terabyte of zeros."""
LARGEST_PACKET = 512 << 20
"""Bytes that are read of a file for its next packet; FFmpeg has memory for as many as a damaged file says."""


class _File:
    """A video file as PyAV reads it. It ends where too much is read, or too long, without a packet."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when it cannot be opened."""
        self.name, self.given_up = str(path), False
        self._number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._begin()

    def _begin(self) -> None:
        self._left, self._until = LARGEST_PACKET, time.monotonic() + PATIENCE_S

    def packets(self, demuxed: Iterator[Packet]) -> Iterator[Packet]:
        """The same packets, each of which is waited for and has its share anew."""
        while True:
            self._begin()
            if (packet := next(demuxed, None)) is None:
                return
            yield packet

    def read(self, size: int) -> bytes:
        self.given_up |= self._left <= 0 or time.monotonic() > self._until
        data = b"" if self.given_up else os.read(self._number, size)
        self._left -= len(data)
        return data

    def seek(self, to: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._number, to, whence)

    def tell(self) -> int:
        return os.lseek(self._number, 0, os.SEEK_CUR)

    def __del__(self) -> None:
        with suppress(AttributeError):  # it was never opened
            os.close(self._number)


def opens(path: Path) -> bool:
    """Whether a file is a video, whatever it is called."""
    try:
        Clip(path).container.close()
        return True
    except ValueError:
        return False


def _opened(path: Path) -> tuple[InputContainer, _File]:
    """A video file, opened, and what it is read by. Raises ValueError with a line that says what is wrong with it."""
    import av

    if not path.is_file():
        raise ValueError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected a video")
    try:
        if path.stat().st_size == 0:
            raise ValueError(f"{path}: the file is empty (0 bytes); expected a video; fetch or export it again")
        file = _File(path)
        options = {"protocol_whitelist": "file"}  # what a file names inside may only be files
        return av.open(file, "r", options=options, metadata_errors="replace", buffer_size=1 << 18), file
    except PermissionError as error:
        why = error.strerror
        raise ValueError(f"{path}: may not be read ({why}); expected a video; change its permissions") from None
    except (av.error.FFmpegError, UnicodeEncodeError):
        raise ValueError(
            f"{path}: is no video in any format that FFmpeg reads, or is damaged or cut short; "
            "fetch it again, or convert it first"
        ) from None


def _url(path: Path) -> str:
    return f"file:{path}"


def _cut_short(path: Path) -> bool:
    """Whether the outermost boxes of an MP4, AVI or Matroska file say that it goes on where it ends."""
    whole = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(64)
        if head[:4] == b"RIFF":
            stated = int.from_bytes(head[4:8], "little")
            return 0 < stated < 0xFFFFFFFF and stated + 8 > whole + 1
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            at = 0
            while at + 8 <= whole:
                file.seek(at)
                box = file.read(16)
                size = int.from_bytes(box[:4], "big")
                size = int.from_bytes(box[8:16], "big") if size == 1 else size
                if size < 8:  # 0: to the end of the file
                    return False
                at += size
            return at > whole
        if head[:4] == b"\x1a\x45\xdf\xa3":
            first, length = _ebml(head[4:])
            at = 4 + length + first
            file.seek(at)
            segment = file.read(12)
            if segment[:4] == b"\x18\x53\x80\x67":
                size, length = _ebml(segment[4:])
                return size >= 0 and at + 4 + length + size > whole
    return False


def _ebml(data: bytes) -> tuple[int, int]:
    """(value, bytes it takes) of a Matroska size; -1 for one that is not known. RFC 8794, section 4."""
    length = 9 - data[0].bit_length()
    value = int.from_bytes(data[:length], "big") & ((1 << 7 * length) - 1)
    return (-1 if value == (1 << 7 * length) - 1 else value), length


def _matrix(frame: VideoFrame) -> Sequence[int] | None:
    data: Any
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return [int(number) for number in np.frombuffer(data, np.int32)[:9]]
    return None


def _turn(frame: VideoFrame) -> tuple[int, bool]:
    """(quarter turns against the clock, whether it is mirrored before) that show a frame upright."""
    if (matrix := _matrix(frame)) is None:
        return 0, False
    a, b, _, c, d = matrix[:5]  # libavutil/display.h: x' = a x + c y, y' = b x + d y, in 16.16
    mirrored = a * d - b * c < 0
    angle = np.degrees(np.arctan2(-b if not mirrored else b, a if not mirrored else -a))
    return round(angle / 90) % 4, mirrored


def _planar(frame: VideoFrame) -> VideoFrame:
    """The frame in a format whose planes can be painted one by one: nearly always the one that it has."""
    if _PLANAR.fullmatch(frame.format.name):
        return frame
    return frame.reformat(format=_planar_name(frame))


def _planar_name(frame: VideoFrame) -> str:
    kind = frame.format
    parts = kind.components
    bits = max(part.bits for part in parts)
    deep = "" if bits <= 8 else "10le" if bits <= 10 else "12le" if bits <= 12 else "16le"
    clear = any(part.is_alpha for part in parts)
    if kind.is_rgb or kind.has_palette:
        return ("gbrap" if clear and not kind.has_palette else "gbrp") + deep
    if len(parts) < 3:
        return "gray" + deep
    halved = (round(frame.width / kind.chroma_width(frame.width)), round(frame.height / kind.chroma_height(frame.height)))
    return f"yuv{'a' if clear else ''}{_SUBSAMPLED.get(halved, '444')}p{deep}"


def _plane(frame: VideoFrame, number: int) -> np.ndarray:
    """A plane as (H, W), writable where the frame is."""
    plane: Any = frame.planes[number]
    dtype = np.dtype(np.uint8 if frame.format.components[0].bits <= 8 else np.uint16)
    rows = np.frombuffer(plane, dtype)[: plane.height * plane.line_size // dtype.itemsize]
    return rows.reshape(plane.height, -1)[:, : plane.width]


def paint(native: VideoFrame, image: np.ndarray, mask: np.ndarray) -> None:
    """Put what stands in `image` wherever `mask` is set into a frame's planes, in place; all other samples stay.

    Where colour is stored at half size, a sample is replaced when any of its pixels is in the mask.

    Args:
        native: in a planar format.
        image: (H, W, 3) uint8 RGB, not turned.
        mask: (H, W) bool.
    """
    if not mask.any():
        return
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    top, left = int(rows[0]) // 8 * 8, int(columns[0]) // 8 * 8  # where colour samples begin too, however they are halved
    ends = zip((rows[-1], columns[-1]), mask.shape, strict=True)
    bottom, right = (min((int(end) // 8 + 1) * 8, whole) for end, whole in ends)
    inside = mask[top:bottom, left:right]
    patch = _like(np.ascontiguousarray(image[top:bottom, left:right]), native)
    native.make_writable()
    for part in native.format.components:
        if part.is_alpha:
            continue
        there, painted = _plane(native, part.plane), _plane(patch, part.plane)
        tall, wide = (-(-whole // short) for whole, short in zip(mask.shape, there.shape, strict=True))
        padded = np.pad(inside, [(0, -inside.shape[0] % tall), (0, -inside.shape[1] % wide)])
        small = np.asarray(padded.reshape(padded.shape[0] // tall, tall, -1, wide).any((1, 3)))
        view = there[top // tall :, left // wide :][: painted.shape[0], : painted.shape[1]]
        view[small] = painted[small]


def _like(image: np.ndarray, native: VideoFrame) -> VideoFrame:
    """RGB in the format, the matrix and the range of a frame."""
    import av

    frame = av.VideoFrame.from_ndarray(image, "rgb24")
    frame.colorspace = native.colorspace
    rgb = native.format.is_rgb
    full = rgb or native.color_range == _FULL or native.format.name.startswith("yuvj")
    return frame.reformat(format=native.format.name, src_color_range=_FULL, dst_color_range=_FULL if full else _LIMITED)


class Camera:
    """A camera. Iterating gives its frames without end, each with the seconds since the one before."""

    def __init__(self, index: int) -> None:
        """Raises ValueError when there is no such camera, or it gives no picture."""
        self._capture = _capture(index)
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


def _capture(index: int) -> cv2.VideoCapture:
    """OpenCV's capture of a camera, without what its backends say on stderr: the caller says it in one line."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return cv2.VideoCapture(index)
    finally:
        cv2.utils.logging.setLogLevel(level)


def _plausible(fps: float) -> float:
    return float(fps) if 0.1 <= fps <= 1000 else float(_FPS)


def _next(capture: cv2.VideoCapture) -> np.ndarray | None:
    there, frame = capture.read()
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame) if there and frame is not None else None


# --- writing --------------------------------------------------------------------------------------------------------


Write = Callable[..., None]
"""(image, frame=None, mask=None): the next frame. With a frame of the clip it has that one's time and, outside the mask, its
planes; without a mask all of it is `image`."""


@contextmanager
def writing(
    path: Path,
    fps: float | Fraction = _FPS,
    *,
    clip: Clip | None = None,
    tracks: bool = True,
    quality: int | None = None,
    metadata: bool = False,
    gps: bool = False,
) -> Iterator[Write]:
    """Write a video: gives the function that takes the frames; the file is there once the block has ended without an error.

    Args:
        path: ends in one of WRITABLE.
        fps: frames a second, where there is no clip whose times are taken.
        clip: where the frames come from; its notes get a line for everything that the new file cannot hold.
        tracks: copy its sound, subtitles and chapters too.
        quality: 1 to 100, of H.264 and Motion JPEG (default: 65, a constant rate factor of 18).
        metadata: keep the title, the date and the like.
        gps: keep the place.

    Raises:
        ValueError: the place cannot be written, the frames differ in size, or the format cannot say what the clip needs.
        OSError: less arrived on disk than was written.
    """
    if clip is not None and path.suffix.lower() == ".avi" and clip.turned:
        raise ValueError(f"{path}: {_TURNED}; expected an OUT that ends in .mp4, .mov or .mkv")
    with whole_file(path) as partial:
        writer = _Writer(path, partial, Fraction(fps).limit_denominator(100_000), clip, tracks, quality)
        try:
            if clip is not None and (metadata or gps):
                writer.container.metadata.update(_facts(clip.container.metadata, metadata, gps))
            yield writer.write
            writer.finish()
        finally:
            writer.close()


_PLACE = re.compile(r"location|gps|latitude|longitude|ISO6709", re.IGNORECASE)


def _facts(tags: Mapping[str, str], metadata: bool, gps: bool) -> dict[str, str]:
    """A container's metadata, of which the place is kept only where it is asked for."""
    technical = {"major_brand", "minor_version", "compatible_brands", "encoder", "ENCODER", "DURATION"}
    return {
        name: text for name, text in tags.items() if name not in technical and (gps if _PLACE.search(name) else metadata)
    }


class _Writer:
    """An output container with its video track."""

    def __init__(
        self, path: Path, partial: Path, rate: Fraction, clip: Clip | None, tracks: bool, quality: int | None
    ) -> None:
        import av

        self._tracks = tracks
        self.path, self.clip, self.rate = path, clip, rate if clip is None else clip.rate
        self.others: _Tracks | None = None
        self.kind, self.written = path.suffix.lower(), 0
        self._quality = QUALITY if quality is None else quality
        self._size: tuple[int, int] | None = None
        self._shown = 0  # of a container of one rate: how many frames are in it
        options = {"movflags": "+faststart"} if self.kind in (".mp4", ".mov") else {}
        try:
            self.container: OutputContainer = av.open(_url(partial), "w", options=options)
        except (av.error.FFmpegError, OSError) as error:
            raise ValueError(f"{path}: cannot be written ({error.strerror}); choose another OUT") from None

    def write(self, image: np.ndarray, frame: Frame | None = None, mask: np.ndarray | None = None) -> None:
        """See `Write`."""
        size = (image.shape[1], image.shape[0])
        if self._size is None:
            self._begin(image, frame)
            self._size = size
        if size != self._size:
            given = f"{size[0]} x {size[1]}"
            wanted = f"{self._size[0]} x {self._size[1]}"
            raise ValueError(f"{self.path}: found a frame of {given} pixels among {wanted}; expected one size")
        ready = self._made(image, frame, mask)
        for copy in self._in_time(ready):
            for packet in self.stream.encode(copy):
                if self.others is not None and packet.dts is not None:
                    self.others.until(packet.dts * packet.time_base)
                self.container.mux(packet)
        self.written += 1

    def _begin(self, image: np.ndarray, frame: Frame | None) -> None:
        """Open the encoder, now that the first frame is known."""
        from av.codec.context import Flags

        native = frame.native if frame is not None else None
        height, width = (native.height, native.width) if native is not None else image.shape[:2]
        self.format, self._full = self._encoded_as(native)
        if self.kind != ".mkv" and (width % 2 or height % 2):
            width, height = width // 2 * 2, height // 2 * 2
            self._say("an odd last row or column was left out: its codec takes even sizes")
        if min(width, height) < 2:
            raise ValueError(f"{self.path}: cannot be written; expected frames of 2 pixels or more")
        base = native.time_base if native is not None and self.kind != ".avi" else 1 / self.rate
        assert base is not None
        stream: Any = self.container.add_stream(WRITABLE[self.kind], rate=self.rate, width=width, height=height)
        context = stream.codec_context
        context.pix_fmt, context.time_base, context.framerate = self.format, base, self.rate
        context.color_range = _FULL if self._full else _LIMITED
        if self.kind == ".mkv":
            context.options = {"level": "3", "slices": "4"}
        elif self.kind == ".avi":
            context.flags |= Flags.qscale
            context.global_quality = 118 * max(1, round((100 - self._quality) * 0.1))  # 118: FF_QP2LAMBDA
        else:
            factor = str(max(1, round((100 - self._quality) * 0.51)))
            context.options = {"crf": factor, "preset": "fast"}
            context.thread_type = "FRAME"  # slices, each with its own beginning, cost bytes
        if native is None:
            context.colorspace, context.color_primaries, context.color_trc = _BT709, _BT709, _BT709
        else:
            self._tag(stream, native)
        self.stream = stream
        if self.clip is not None and self._tracks:
            self.others = _Tracks(self.clip, self.kind, self.container)

    def _tag(self, stream: Any, native: VideoFrame) -> None:
        """Colour tags, pixel shape, rotation, interlacing and language: those of the clip."""
        from av.codec.context import Flags

        assert self.clip is not None
        own, context = self.clip.stream, stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc = _tags(native, self.format)
        if self.kind == ".avi":
            context.colorspace = _BT601
        if native.color_range == 0 and not self._full:
            context.color_range = 0
        if own.sample_aspect_ratio:
            stream.sample_aspect_ratio = context.sample_aspect_ratio = own.sample_aspect_ratio
        if (matrix := self.clip.matrix) is not None and self.kind != ".avi":
            stream.set_display_matrix(matrix)
        stream.metadata.update(_labels(own, self.kind))
        if native.interlaced_frame:
            if self.kind in (".mp4", ".mov"):
                context.flags |= Flags.interlaced_dct | Flags.interlaced_me
            elif self.kind == ".avi":
                self._say("it is interlaced, which the new file does not say")
            if own.codec_context.field_order:
                context.field_order = own.codec_context.field_order

    def _encoded_as(self, native: VideoFrame | None) -> tuple[str, bool]:
        """(pixel format, whether its levels are 0 to 255) of what is encoded; says what is lost by it."""
        if native is None:
            return {".mkv": ("bgr0", True), ".avi": ("yuvj420p", True)}.get(self.kind, ("yuv420p", False))
        name, full = native.format.name, native.color_range == _FULL or native.format.name.startswith("yuvj")
        parts = native.format.components
        if self.kind == ".mkv":
            lossless = {"gbrp": "bgr0", "gbrap": "bgra"}.get(name, name.replace("yuvj", "yuv"))
            return lossless, full or native.format.is_rgb
        if parts[0].bits > 8:
            self._say(f"{parts[0].bits} bits a channel became 8: {self.kind} is written with 8, .mkv with all")
        if any(part.is_alpha for part in parts):
            self._say(f"its transparency was lost: {self.kind} is written without, .mkv with it")
        if self.kind == ".avi":
            return "yuvj420p", True
        if re.search("4[1-4][124]", name) or native.format.is_rgb:
            self._say(f"its colours ({name}) are stored at half size: .mkv keeps them whole")
        return "yuv420p", full

    def _say(self, line: str) -> None:
        if self.clip is not None and line not in self.clip.notes:
            self.clip.notes.append(line)

    def _made(self, image: np.ndarray, frame: Frame | None, mask: np.ndarray | None) -> VideoFrame:
        """The frame to be encoded."""
        import av

        if frame is None:
            ready = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            ready.colorspace = _BT709 if self.kind != ".avi" else _BT601
            levels = _FULL if self._full else _LIMITED
            ready = ready.reformat(format=self.format, src_color_range=_FULL, dst_color_range=levels)
            ready.pts, ready.time_base = self.written, 1 / self.rate
        else:
            assert self.clip is not None
            ready = frame.native
            stored = self.clip.stored(image)
            paint(ready, stored, np.ones(stored.shape[:2], bool) if mask is None else self.clip.stored(mask))
            ready = self._reformatted(ready)
        context = self.stream.codec_context
        if (ready.width, ready.height) != (context.width, context.height):
            ready = _cropped(ready, context.width, context.height)
        ready.pict_type = 0  # the encoder chooses
        return ready

    def _reformatted(self, native: VideoFrame) -> VideoFrame:
        if native.format.name == self.format:
            return native
        if native.format.name == self.format.replace("yuv", "yuvj"):
            return _relabelled(native, self.format)
        frame = native
        rgb = native.format.is_rgb
        if rgb and not self.format.startswith("bgr"):
            frame.colorspace = _BT709
        return frame.reformat(
            format=self.format,
            src_color_range=_FULL if rgb else None,
            dst_color_range=_FULL if self._full else _LIMITED,
            dst_colorspace=5 if self.kind == ".avi" else None,  # SWS_CS_ITU601, which is what Motion JPEG means
        )

    def _in_time(self, ready: VideoFrame) -> Iterator[VideoFrame]:
        """The frame as often as it is needed: once, but in an .avi, which has one rate, until the next is due."""
        if self.kind != ".avi" or self.clip is None:
            yield ready
            return
        assert ready.pts is not None and ready.time_base is not None
        due = round(ready.pts * ready.time_base * self.rate)
        self._shown = due if not self.written else self._shown
        if due < self._shown:
            return
        if due > self._shown:
            self._say("its frames come at varying times: some were repeated, as an .avi has one rate")
        for number in range(self._shown, due + 1):
            ready.pts, ready.time_base = number, 1 / self.rate
            yield ready
        self._shown = due + 1

    def finish(self) -> None:
        """Write what the encoder and the other tracks still have, and the end of the file."""
        if self._size is None:
            raise ValueError(f"{self.path}: there was no frame to write")
        for packet in self.stream.encode(None):
            self.container.mux(packet)
        if self.others is not None:
            self.others.until(None)
        self.container.close()

    def close(self) -> None:
        """Close the files, whether it ended well or not."""
        import av

        if self.others is not None:
            self.others.source.close()
        with suppress(av.error.FFmpegError, OSError, ValueError):  # what is half written goes
            self.container.close()


def _tags(native: VideoFrame, encoded: str) -> tuple[int, int, int]:
    """(matrix, primaries, transfer) as numbered in ITU-T H.273."""
    if native.format.is_rgb:
        matrix = 0 if encoded.startswith("bgr") else _BT709
        return matrix, native.color_primaries, native.color_trc
    return native.colorspace, native.color_primaries, native.color_trc


def _relabelled(frame: VideoFrame, name: str) -> VideoFrame:
    """The same planes under a format of the same layout (yuvj420p is yuv420p at full range)."""
    return _cropped(frame, frame.width, frame.height, name)


def _cropped(frame: VideoFrame, width: int, height: int, name: str | None = None) -> VideoFrame:
    """The upper left part of a frame."""
    import av

    cropped = av.VideoFrame(width, height, name or frame.format.name)
    for number in range(len(cropped.planes)):
        there = _plane(cropped, number)
        there[:] = _plane(frame, number)[: there.shape[0], : there.shape[1]]
    cropped.pts, cropped.time_base = frame.pts, frame.time_base
    cropped.colorspace, cropped.color_range = frame.colorspace, frame.color_range
    cropped.color_primaries, cropped.color_trc = frame.color_primaries, frame.color_trc
    return cropped


# --- sound, subtitles and the rest ----------------------------------------------------------------------------------


class _Tracks:
    """What a clip holds beside its pictures, read once more and handed over in time."""

    def __init__(self, clip: Clip, kind: str, target: OutputContainer) -> None:
        self.source, self._file = _opened(clip.path)
        self._target, self._ways, self._begins = target, dict[int, _Way](), clip.begins
        counts: dict[str, int] = {}
        for stream in self.source.streams:
            if stream.index == clip.stream.index:
                continue
            counts[stream.type] = counts.get(stream.type, 0) + 1
            way, said = _way(stream, kind, target, counts[stream.type])
            if said:
                clip.notes.append(said)
            if way is not None:
                self._ways[stream.index] = way
        if (chapters := self.source.chapters()) and kind != ".avi":
            target.set_chapters(chapters)
        elif chapters:
            clip.notes.append(f"its {len(chapters)} chapters were left out: {kind} has none")
        self._packets = self._read()
        self._next: Any = None

    def _read(self) -> Iterator[Any]:
        import av

        if self._ways:
            try:
                for packet in self._file.packets(self.source.demux()):
                    if packet.stream.index in self._ways:
                        yield packet
            except (av.error.FFmpegError, OSError):
                return  # cut short; `Clip.damage` says so

    def _timed(self) -> Any:
        """The next packet, its time counted from where the clip begins."""
        packet = next(self._packets, None)
        if packet is not None and self._begins:
            late = round(self._begins / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - late
            packet.dts = None if packet.dts is None else packet.dts - late
        return packet

    def until(self, seconds: Fraction | None) -> None:
        """Hand over everything that comes before a time, or all of it."""
        while True:
            packet, self._next = self._next or self._timed(), None
            if packet is None:
                break
            if seconds is not None and packet.dts is not None and packet.dts * packet.time_base > seconds:
                self._next = packet
                return
            if packet.dts is not None or packet.size:
                for ready in self._ways[packet.stream.index].passed(packet):
                    self._target.mux(ready)
        if seconds is None:
            for way in self._ways.values():
                for ready in way.rest():
                    self._target.mux(ready)


class _Way:
    """How a track gets over: its packets as they are or, with an encoder, decoded and encoded anew."""

    def __init__(self, stream: Any, anew: bool) -> None:
        self._stream, self._anew = stream, anew
        self._sampler: Any = None

    def passed(self, packet: Any) -> Sequence[Any]:
        """What becomes of a packet."""
        import av

        if not self._anew:
            packet.stream = self._stream
            return [packet]
        if self._stream.type == "subtitle":
            return self._shown(packet)
        packets: list[Any] = []
        try:
            decoded = packet.decode()
        except av.error.FFmpegError:
            return []
        for frame in decoded:
            packets += self._encoded(frame)
        return packets

    def _shown(self, packet: Any) -> Sequence[Any]:
        """A line of a subtitle track, whose times are the packet's."""
        import av
        from av.subtitles.subtitle import SubtitleSet

        if packet.pts is None:
            return []
        context, frames = self._stream.codec_context, list[Any]()
        try:
            for line in packet.decode():
                begins, lasts = (round(1000 * ticks * packet.time_base) for ticks in (packet.pts, packet.duration or 0))
                encoded = context.encode_subtitle(SubtitleSet.create(line.ass, 0, lasts, begins))
                encoded.stream, encoded.time_base = self._stream, Fraction(1, 1000)
                frames.append(encoded)
        except (av.error.FFmpegError, ValueError, AttributeError):
            return []  # damaged, as with sound
        return frames

    def _encoded(self, frame: Any) -> Sequence[Any]:
        import av

        context = self._stream.codec_context
        if self._sampler is None:
            self._sampler = av.AudioResampler(
                context.format, context.layout, context.rate, frame_size=context.frame_size or None
            )
        return [packet for resampled in self._sampler.resample(frame) for packet in self._stream.encode(resampled)]

    def rest(self) -> Sequence[Any]:
        """What an encoder still has."""
        if not self._anew or self._sampler is None:
            return []
        return [*self._encoded(None), *self._stream.encode(None)]


def _way(stream: Any, kind: str, target: OutputContainer, number: int) -> tuple[_Way | None, str]:
    """(how a track gets into a file of this kind, or None; what to say about it)."""
    import av

    known = stream.codec_context is not None and stream.codec_context.name
    about = [str(stream.codec_context.name) if known else str(getattr(stream, "codec_tag", "")).strip("\0") or "unknown"]
    about += [stream.language] if getattr(stream, "language", None) else []
    named = f"{'sound' if stream.type == 'audio' else stream.type} track {number} ({', '.join(about)})"
    if stream.type == "video":
        cover = stream.disposition & av.stream.Disposition.attached_pic
        return None, "its cover picture was left out: it may show a face" if cover else f"its {named} was left out"
    if stream.type == "data" and stream.name == "bin_data":
        return None, ""  # the titles of chapters, which are kept as such
    copied: Any
    if _takes(kind, stream):
        copied = target.add_stream_from_template(stream)
    elif stream.type == "audio" and known:
        own = stream.codec_context
        copied = target.add_stream(_SOUND[kind], rate=own.sample_rate)
        copied.codec_context.layout = own.layout.name if own.channels <= 2 or kind != ".avi" else "stereo"
        copied.codec_context.open()
    elif stream.type == "subtitle" and known and kind in (".mp4", ".mov") and stream.codec_context.codec.text_sub:
        stream.codec_context.open(strict=False)
        copied = target.add_stream("mov_text")
        copied.codec_context.subtitle_header = stream.codec_context.subtitle_header
        copied.codec_context.time_base = copied.time_base = Fraction(1, 1000)
        copied.metadata.update(_labels(stream, kind))
        copied.disposition = stream.disposition
        return _Way(copied, True), f"its {named} became mov_text, the one kind that {kind} holds"
    else:
        unknown = stream.type == "audio" and not known
        why = ": it is of a kind that FFmpeg does not know" if unknown else f": {kind} cannot hold it"
        return None, f"its {named} was left out{why}"
    copied.metadata.update(_labels(stream, kind))
    copied.disposition = stream.disposition
    anew = copied.codec_context is not None and copied.codec_context.is_encoder and copied.codec_context.is_open
    return _Way(copied, anew), f"its {named} was encoded anew: {kind} does not take it as it is" if anew else ""


# ISO 639-2 has two codes for some languages; FFmpeg's table for .mov, Macintosh's, knows these of them by the older one.
_OLDER: Mapping[str, str] = {
    "deu": "ger",
    "nld": "dut",
    "ell": "gre",
    "isl": "ice",
    "sqi": "alb",
    "ron": "rum",
    "slk": "slo",
    "fas": "per",
    "hye": "arm",
    "kat": "geo",
    "mkd": "mac",
    "mya": "bur",
    "bod": "tib",
    "cym": "wel",
    "eus": "baq",
    "msa": "may",
}


def _labels(stream: Any, kind: str) -> dict[str, str]:
    """A track's language and title."""
    labels = {name: text for name, text in stream.metadata.items() if name in ("language", "title")}
    if kind == ".mov" and "language" in labels:
        labels["language"] = _OLDER.get(labels["language"], labels["language"])
    return labels


def _takes(kind: str, stream: Any) -> bool:
    """Whether a container takes a track as it is: tried on one that is thrown away."""
    import av

    if stream.codec_context is None and stream.type != "attachment":
        return False
    formats = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi"}
    try:
        with av.open(io.BytesIO(), "w", format=formats[kind]) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
        return True
    except (av.error.FFmpegError, ValueError, OSError):
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

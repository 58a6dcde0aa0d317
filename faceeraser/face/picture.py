"""Pictures: any file that people have is read with all that it holds, and written so that nothing but the holes changes.

    source = picture.opened(Path("photo.tif"))
    with picture.writing(Path("out.tif"), source) as put:
        for page in source.pages():
            put(page, erased, mask)

`picture.read(path).image` is all that a program needs that only looks: (H, W, 3) uint8 sRGB, upright. A `Page` keeps beside
it the file's own samples: grey, CMYK, transparency, 16 bits, a colour profile. What is erased is put back into those, so a
sample outside the mask is written as it was read. What the written format cannot carry is said in `Source.notes`.

Light path: Pillow (with littleCMS and libavif), pillow-heif, OpenCV for 16-bit colour, tifffile for TIFF; the last three are
imported when a file needs them.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from faceeraser.system.writing import whole_file

READABLE = {
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".png",
    ".apng",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".heic",
    ".heif",
    ".avif",
    ".jp2",
}
"""What counts as a photograph when a folder is searched. A file that is named is opened whatever it is called."""

SMALLEST_SIDE = 16
LARGEST_PIXELS = 120_000_000  # above the sensors of today's phones in their usual modes, below what fills the memory
QUALITY = 95  # of what is written with loss, unless another is asked for
KNOWN = "JPEG, PNG, WebP, TIFF, BMP, GIF, HEIC, AVIF or JPEG 2000"
RAW = {".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"}


@dataclass(frozen=True)
class Kind:
    """What a format that is written can carry: Pillow's name, modes, bits a channel, a colour profile, several images."""

    name: str
    modes: Sequence[str]
    bits: int = 8
    profile: bool = True
    many: str = ""
    exif: bool = True


WRITABLE: Mapping[str, Kind] = {
    ".png": Kind("PNG", ("L", "LA", "RGB", "RGBA"), bits=16, many="animation"),
    ".tif": Kind("TIFF", ("L", "LA", "RGB", "RGBA", "CMYK"), bits=32, many="pages"),
    ".tiff": Kind("TIFF", ("L", "LA", "RGB", "RGBA", "CMYK"), bits=32, many="pages"),
    ".bmp": Kind("BMP", ("L", "RGB"), profile=False, exif=False),
    ".webp": Kind("WEBP", ("RGB", "RGBA"), many="animation"),
    ".jpg": Kind("JPEG", ("L", "RGB", "CMYK")),
    ".jpeg": Kind("JPEG", ("L", "RGB", "CMYK")),
    ".avif": Kind("AVIF", ("RGB", "RGBA"), many="animation"),
    ".heic": Kind("HEIF", ("RGB", "RGBA")),
    ".heif": Kind("HEIF", ("RGB", "RGBA")),
}
"""What can be written, by the ending of the name."""

# TIFF and EXIF tags: https://www.loc.gov/preservation/digital/formats/content/tiff_tags.shtml
_DATES = {0x9003, 0x9004, 0x9010, 0x9011, 0x9012, 0x9290, 0x9291, 0x9292}  # taken and digitized, zones, parts of a second
_ABOUT = {0x010F, 0x0110, 0x0132, 0x013B, 0x8298}  # maker, model, date, artist, copyright
_EXIF_IFD, _GPS_IFD, _REDUCED, _SUB_IFDS, _DNG_VERSION = 0x8769, 0x8825, 254, 330, 50706
_PNG_COLOUR = {b"gAMA", b"cHRM", b"sRGB", b"cICP"}
_SPACES = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}


# --- what a file holds ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Page:
    """One image of a file.

    Attributes:
        samples: (H, W) or (H, W, C), uint8, uint16, int32 or float32: as in the file, upright, transparency last.
        mode: what the channels are: L, LA, RGB, RGBA or CMYK.
        full: the sample that means white (or, in CMYK, full ink).
        profile: the colour profile of the samples, or None.
        seconds: how long it is shown, of an animation.
    """

    samples: np.ndarray
    mode: str
    full: float
    profile: bytes | None
    seconds: float = 0.0

    @cached_property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 sRGB, through the profile where there is one. What is wholly transparent is white."""
        colours = _eight_bits(self._colours, self.full)
        plain = self.mode.removesuffix("A")
        if plain == "RGB" and self._transform() is None:
            shown = colours
        else:
            shown = np.asarray(self._to_srgb(Image.fromarray(colours, plain if plain == "CMYK" else None)))
        if self.mode.endswith("A") and (clear := self.samples[..., -1] == 0).any():
            shown = np.where(clear[..., None], np.uint8(255), shown)
        return shown

    @property
    def _colours(self) -> np.ndarray:
        """The samples without transparency."""
        if not self.mode.endswith("A"):
            return self.samples
        return self.samples[..., 0] if self.mode == "LA" else self.samples[..., :3]

    def _transform(self, back: bool = False) -> ImageCms.ImageCmsTransform | None:
        """From the profile to sRGB, or back; None where there is none to follow (or it is that of sRGB itself)."""
        plain = self.mode.removesuffix("A")
        if self.profile is None or self.profile[16:20] != _SPACES[plain]:
            return None
        try:
            own = ImageCms.getOpenProfile(io.BytesIO(self.profile))
            if plain == "RGB" and "srgb" in ImageCms.getProfileDescription(own).lower():
                return None
            srgb = ImageCms.createProfile("sRGB")
            ways = (srgb, own, "RGB", plain) if back else (own, srgb, plain, "RGB")
            return ImageCms.buildTransform(*ways)
        except (ImageCms.PyCMSError, OSError):
            return None  # damaged, or one that goes one way only: as good as none

    def _to_srgb(self, colours: Image.Image) -> Image.Image:
        transform = self._transform()
        return colours.convert("RGB") if transform is None else _applied(transform, colours)

    def erased(self, image: np.ndarray, mask: np.ndarray) -> Page:
        """The page with what stands in `image` wherever `mask` is set; every other sample is the same.

        Args:
            image: (H, W, 3) uint8 sRGB, `self.image` with its holes painted.
            mask: (H, W) bool.
        """
        if not mask.any():
            return self
        if self.mode == "RGB" and self.samples is self.image:
            return Page(image, *self._facts)
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        there = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        plain = self.mode.removesuffix("A")
        patch, transform = Image.fromarray(np.ascontiguousarray(image[there])), self._transform(back=True)
        native = patch.convert(plain) if transform is None else _applied(transform, patch)
        painted = np.asarray(native)
        if self.samples.dtype != np.uint8:
            whole = np.issubdtype(self.samples.dtype, np.integer)
            painted = painted * (self.full / 255)
            painted = (np.rint(painted) if whole else painted).astype(self.samples.dtype)
        samples, inside = self.samples.copy(), mask[there]
        view = samples[there]
        if self.mode.endswith("A"):
            opaque = view[..., -1] > 0  # what does not show stays as it is
            inside = inside & opaque
            view = view[..., 0] if self.mode == "LA" else view[..., :3]
        view[inside] = painted[inside]
        return Page(samples, *self._facts)

    @property
    def _facts(self) -> tuple[str, float, bytes | None, float]:
        return self.mode, self.full, self.profile, self.seconds


def _applied(transform: ImageCms.ImageCmsTransform, picture: Image.Image) -> Image.Image:
    moved = ImageCms.applyTransform(picture, transform)
    assert moved is not None  # it is None where it works in place
    return moved


def _eight_bits(samples: np.ndarray, full: float) -> np.ndarray:
    if samples.dtype == np.uint8:
        return samples
    scaled = np.nan_to_num(samples.astype(np.float32 if samples.dtype == np.uint16 else np.float64)) * (255 / full)
    return np.clip(scaled + 0.5, 0, 255).astype(np.uint8)


class Source:
    """A picture file.

    `frames`, how many images it has; `many`, "animation", "pages" or "" for one; `size`, width and height as stored;
    `notes`, lines about what was left out or changed, in the order in which it was seen.
    """

    def __init__(self, path: Path, picture: Image.Image) -> None:
        """Use `opened`."""
        self.path, self._picture = path, picture
        self.notes: list[str] = []
        self.kind, self.size = str(picture.format), picture.size
        self._facts: tuple[Mapping[int, Any], Mapping[int, Any], Mapping[int, Any], tuple[float, float] | None] | None = None
        self.loop = int(picture.info.get("loop", 1 if self.kind == "GIF" else 0))
        count = int(getattr(picture, "n_frames", 1))
        self._numbers: Sequence[int] = range(count) if self.kind in ("GIF", "PNG", "WEBP", "AVIF", "TIFF") else [0]
        if self.kind == "TIFF":
            self._numbers = self._full_pages(count)
        self.frames = len(self._numbers)
        self.many = "" if self.frames == 1 else "pages" if self.kind == "TIFF" else "animation"
        self.default_image = bool(getattr(picture, "default_image", False))
        if count > 1 and len(self._numbers) == 1 and self.kind in ("MPO", "HEIF", "PSD"):
            self.notes.append(
                f"it holds {count} images: the main one was processed, the rest (previews, layers) were left out"
            )

    def _full_pages(self, count: int) -> list[int]:
        """The pages of a TIFF that are not reduced copies of others. Raises _Unfit for a camera's raw file."""
        sizes, reduced = [], set()
        for number in range(count):
            self._picture.seek(number)
            tags = self._picture.tag_v2  # type: ignore[attr-defined]
            sizes.append(self._picture.size)
            if int(tags.get(_REDUCED, 0)) & 1:
                reduced.add(number)
            raw = _DNG_VERSION in tags or (number in reduced and _SUB_IFDS in tags)
            if raw or self.path.suffix.lower() in RAW:
                raise _Unfit(
                    f"{self.path}: is a camera's raw file, of which only a preview could be read; expected a developed "
                    "photograph; export it as TIFF or JPEG first"
                )
        kept = [number for number in range(count) if number not in reduced]
        if not kept:  # every page says that it is a copy: the largest is the picture
            kept = [max(range(count), key=lambda number: sizes[number][0] * sizes[number][1])]
        if len(kept) < count:
            self.notes.append(f"{count - len(kept)} of its {count} pages is a thumbnail of another and was left out")
        self._picture.seek(kept[0])
        return kept

    def pages(self) -> Iterator[Page]:
        """Every image, decoded one at a time. Raises ValueError as `opened` does."""
        for number in self._numbers:
            with _explained(self.path):
                if self._picture.tell() != number or self.frames > 1:
                    self._picture.seek(number)
                _check_size(self.path, *self._picture.size)
                page = self._page(number)
                if self._facts is None:
                    self._facts = self._gathered()
            if number == self._numbers[-1]:
                self._picture.close()  # its pixels are in the page
            yield page

    def _page(self, number: int) -> Page:
        picture = self._picture
        picture.load()
        seconds = float(picture.info.get("duration", 0) or 0) / 1000
        profile = picture.info.get("icc_profile")
        profile = profile if isinstance(profile, bytes) and len(profile) > 128 else None
        turn = picture.getexif().get(0x0112, 1)
        deep = self._deep(number)
        if deep is None:
            samples, mode, full = self._samples(picture)
        else:
            samples, mode, full = deep
        if self.kind != "HEIF" and turn in _TURNS:  # (pillow-heif has turned it already)
            samples = np.ascontiguousarray(_TURNS[turn](samples))
        return Page(samples, mode, full, profile, seconds)

    def _deep(self, number: int) -> tuple[np.ndarray, str, float] | None:
        """16-bit colour, which Pillow would cut to 8 bits; None where there is none, or OpenCV cannot read it."""
        if self.kind == "PNG" and not self.many:
            with open(self.path, "rb") as file:
                head = file.read(26)
            grey = head[25] == 4
            if head[24] != 16 or head[25] not in (2, 4, 6):
                return None
        elif self.kind == "TIFF":
            grey, bits = False, self._picture.tag_v2.get(258)  # type: ignore[attr-defined]
            if self._picture.mode not in ("RGB", "RGBA") or not bits or min(bits) != 16:
                return None
        else:
            return None
        decoded = _by_opencv(self.path, number)
        if decoded is None or decoded.ndim != 3 or decoded.dtype != np.uint16:
            self._say("16 bits a channel were read as 8")
            return None
        order = [2, 1, 0, 3][: decoded.shape[2]]
        samples = np.ascontiguousarray(decoded[..., order])
        if grey:
            return np.ascontiguousarray(samples[..., [0, 3]]), "LA", 65535.0
        return samples, "RGBA" if samples.shape[2] == 4 else "RGB", 65535.0

    def _samples(self, picture: Image.Image) -> tuple[np.ndarray, str, float]:
        """(samples, mode, full) of what Pillow decodes."""
        mode = picture.mode
        if mode.startswith(("I", "F")):
            deep = np.array(picture)
            if deep.dtype.byteorder == ">":
                deep = deep.astype(deep.dtype.newbyteorder("="))
            top = float(np.nan_to_num(deep).max())
            full = 1.0 if top <= 1.0 and mode == "F" else 255.0 if top <= 255.0 and mode != "I;16" else 65535.0
            return deep, "L", full
        bits = _bits(self.path, picture)
        if bits > 8:
            self._say(f"{bits} bits a channel were read as 8")
        if mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
            if "transparency" not in picture.info or mode not in ("L", "RGB"):
                return np.array(picture), mode, 255.0
            return np.array(picture.convert("LA" if mode == "L" else "RGBA")), "LA" if mode == "L" else "RGBA", 255.0
        clear = "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info
        if mode == "1":
            self._say("it is black and white alone: written in shades of grey, which the painted skin needs")
            return np.array(picture.convert("L")), "L", 255.0
        colours = np.array(picture.convert("RGBA" if clear else "RGB"))
        if mode not in ("P", "PA", "RGBX", "RGBa", "La"):
            self._say(f"its colours ({mode}) were converted to RGB")
        elif mode in ("P", "PA") and self.kind != "GIF":
            self._say("its palette has no room for painted skin: written with full colours")
        if (colours[..., 0] == colours[..., 1]).all() and (colours[..., 0] == colours[..., 2]).all() and not self.many:
            return np.ascontiguousarray(colours[..., [0, 3]] if clear else colours[..., 0]), "LA" if clear else "L", 255.0
        return colours, "RGBA" if clear else "RGB", 255.0

    def _say(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)

    def _gathered(self) -> tuple[Mapping[int, Any], Mapping[int, Any], Mapping[int, Any], tuple[float, float] | None]:
        """EXIF tags of the picture, of its dates and of its place, without previews and makers' notes; dots per inch."""
        own = self._picture.getexif()
        dates, place = own.get_ifd(_EXIF_IFD), own.get_ifd(_GPS_IFD)
        dpi = self._picture.info.get("dpi")
        if dpi is None and 0x011A in own and 0x011B in own:
            metric = 2.54 if own.get(0x0128, 2) == 3 else 1.0
            dpi = (float(own[0x011A]) * metric, float(own[0x011B]) * metric)
        about = {tag: own[tag] for tag in _ABOUT & set(own)}
        dated = {tag: dates[tag] for tag in _DATES & set(dates)}
        return about, dated, dict(place), None if dpi is None or min(dpi) <= 1 else (float(dpi[0]), float(dpi[1]))

    def facts(self, metadata: bool, gps: bool) -> tuple[Image.Exif, tuple[float, float] | None]:
        """What is to be kept, known once it was read: EXIF, and dots per inch.

        Args:
            metadata: when, by whom and by what it was taken, and the dots per inch.
            gps: where.
        """
        assert self._facts is not None
        about, dates, place, dpi = self._facts
        kept = Image.Exif()
        if metadata:
            kept.update(about)
            if dates:
                kept.get_ifd(_EXIF_IFD).update(dates)
        if gps and place:
            kept.get_ifd(_GPS_IFD).update(place)
        return kept, dpi if metadata else None

    def colour_chunks(self) -> list[tuple[bytes, bytes]]:
        """The chunks of a PNG that say what its colours mean, other than a profile."""
        if self.kind != "PNG":
            return []
        with open(self.path, "rb") as file:
            return [(name, data) for name, data in _chunks(file.read(1 << 16)) if name in _PNG_COLOUR]

    def close(self) -> None:
        """Close the file."""
        self._picture.close()


# EXIF orientation -> what turns the samples upright
_TURNS: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def _by_opencv(path: Path, number: int) -> np.ndarray | None:
    import cv2

    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        _, read = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED, range=(number, number + 1))
        return read[0] if read else None
    except cv2.error:
        return None
    finally:
        cv2.utils.logging.setLogLevel(level)


def _bits(path: Path, picture: Image.Image) -> int:
    """Bits a channel of a file that Pillow reads with 8."""
    if picture.format == "HEIF":
        return int(picture.info.get("bit_depth", 8))
    if picture.format == "JPEG2000":
        with open(path, "rb") as file:
            head = file.read(1 << 14)
        at = head.find(b"\xff\x4f\xff\x51")  # start of codestream, then SIZ: Csiz is 36 bytes on, Ssiz of each channel 38
        return max(((depth & 0x7F) + 1 for depth in head[at + 42 : at + 42 + 3 * len(picture.getbands()) : 3]), default=8)
    if picture.format == "AVIF":
        with open(path, "rb") as file:
            head = file.read(1 << 14)
        at = head.find(b"av1C")  # AV1 codec configuration box: high_bitdepth and twelve_bit are bits 6 and 5 of byte 2
        flags = head[at + 6] if 0 <= at < len(head) - 6 else 0
        return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    return 8


# --- reading --------------------------------------------------------------------------------------------------------


def opened(path: str | os.PathLike[str]) -> Source:
    """Open any picture file that Pillow or pillow-heif knows.

    Raises:
        ValueError: the file is missing, may not be read, is empty, no picture, a camera's raw file, smaller than 16 pixels
            or larger than 120 megapixels. Damage is found when `Source.pages` decodes. The message names the file, what was
            found, what was expected and what to do.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise ValueError(f"{path}: is a folder; expected one picture file; name a file in it")
        with open(path, "rb") as file:
            head = file.read(16)
    except PermissionError as error:
        why = error.strerror
        raise ValueError(f"{path}: may not be read ({why}); expected a picture; change its permissions") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be opened ({error.strerror}); expected a picture file; check the path") from error
    if not head:
        raise ValueError(f"{path}: the file is empty (0 bytes); expected a picture; fetch or export it again")
    with _explained(path):
        picture = _identified(path, head)
        try:
            _check_size(path, *picture.size)
            return Source(path, picture)
        except BaseException:
            picture.close()
            raise


def read(path: str | os.PathLike[str]) -> Page:
    """The picture of a file, or its first where it has several. Raises ValueError as `opened`, and where it is damaged."""
    source = opened(path)
    try:
        return next(source.pages())
    finally:
        source.close()


def opens(path: Path) -> bool:
    """Whether a file is a picture, whatever it is called."""
    try:
        opened(path).close()
        return True
    except ValueError:
        return False


class _Unfit(ValueError):
    """A picture of which the header already says that it is of no use."""


def _identified(path: Path, head: bytes) -> Image.Image:
    if head[4:8] == b"ftyp" and head[8:12] not in (b"avif", b"avis"):  # HEIC and its kin
        import pillow_heif

        pillow_heif.register_heif_opener()
    with warnings.catch_warnings():
        # Pillow only warns between one and two times its own limit; the limit here is checked before decoding.
        warnings.simplefilter("ignore")
        return Image.open(io.BufferedReader(_Gif(path)) if head.startswith(b"GIF8") else path)


class _Gif(io.FileIO):
    """A GIF as Pillow reads it. It ends where a megabyte of zeros comes: Pillow looks for the next image one byte at a time,
    and a file that was not copied to its end may have a terabyte of them.
    """

    MOST = 1 << 20

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._zeros = 0

    def readinto(self, buffer: Any) -> int | None:
        view = memoryview(buffer).cast("B")
        count = super().readinto(view) or 0
        self._zeros = 0 if any(view[:count]) else self._zeros + count
        return 0 if self._zeros > self.MOST else count


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever a decoder raises becomes one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _Unfit:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path}: unpacks to far more pixels than a photograph ({error}); expected at most "
            f"{LARGEST_PIXELS // 1_000_000} megapixels; scale it down first"
        ) from error
    except Image.UnidentifiedImageError as error:
        raw = path.suffix.lower() in RAW
        what = "is a camera's raw file" if raw else "is not a picture in any format known here"
        do = "export it as TIFF or JPEG first" if raw else "convert it first"
        raise ValueError(f"{path}: {what}; expected {KNOWN}; {do}") from error
    except MemoryError as error:
        raise ValueError(f"{path}: too large for this machine's memory; expected a photograph; scale it down") from error
    except Exception as error:  # decoders raise nearly anything on damaged bytes: OSError, SyntaxError, struct.error, ...
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{path}: the picture is damaged or cut short ({why}); expected a whole file; fetch or export it again"
        ) from error


def _check_size(path: Path, width: int, height: int) -> None:
    if min(width, height) < SMALLEST_SIDE:
        raise _Unfit(
            f"{path}: is {width} x {height} pixels; expected at least {SMALLEST_SIDE} on each side; use a larger photograph"
        )
    if width * height > LARGEST_PIXELS:
        raise _Unfit(
            f"{path}: is {width} x {height} pixels; expected at most {LARGEST_PIXELS // 1_000_000} megapixels; "
            "scale it down first"
        )


# --- writing --------------------------------------------------------------------------------------------------------


@contextmanager
def writing(
    path: Path, source: Source | None = None, *, quality: int | None = None, metadata: bool = False, gps: bool = False
) -> Iterator[Callable[[Page], None]]:
    """Write a picture: gives the function that takes its pages; the file is there once the block has ended without an error.

    Args:
        path: ends in one of WRITABLE.
        source: where the pages come from: what kind of file with several images it is, its colours and its facts.
        quality: 1 to 100, of what is written with loss (JPEG, AVIF, HEIC; WebP is lossless without it).
        metadata: keep the date, the camera and the dots per inch.
        gps: keep the place.

    Raises:
        ValueError: it has several images and the format takes one, or no page was given.
        OSError: the place cannot be written.
    """
    kind, pages = WRITABLE[path.suffix.lower()], list[Page]()
    notes: list[str] = [] if source is None else source.notes

    def put(page: Page) -> None:
        pages.append(_fitted(page, path.suffix.lower(), notes))

    yield put
    if not pages:
        raise ValueError(f"{path}: there was no picture to write")
    if len(pages) > 1 and (source is None or kind.many != source.many):
        raise ValueError(several(path, source))
    facts = _Facts(quality, *_kept(path, source, metadata, gps), source)
    with whole_file(path) as partial, open(partial, "wb") as file:
        _SAVERS.get(kind.name, _save)(file, pages, kind, facts)


def several(path: Path, source: Source | None) -> str:
    """What to say where a file with several images is to become one that holds a single one."""
    what = "frames" if source is not None and source.many == "animation" else "pages"
    takes = [ending for ending, kind in WRITABLE.items() if source is not None and kind.many == source.many]
    name, count = (source.path, source.frames) if source is not None else (path, "several")
    return f"{name}: has {count} {what}, and {path.suffix} holds one; expected an OUT that ends in {' or '.join(takes)}"


@dataclass(frozen=True)
class _Facts:
    quality: int | None
    exif: bytes
    dpi: tuple[float, float] | None
    tags: Image.Exif = field(default_factory=Image.Exif)
    source: Source | None = None


def _kept(
    path: Path, source: Source | None, metadata: bool, gps: bool
) -> tuple[bytes, tuple[float, float] | None, Image.Exif]:
    """(EXIF, dots per inch, the same EXIF by tag) of what is to be kept."""
    if source is None or not (metadata or gps):
        return b"", None, Image.Exif()
    exif, dpi = source.facts(metadata, gps)
    kind = WRITABLE[path.suffix.lower()]
    if len(exif) and not kind.exif:
        source.notes.append(f"its date was not kept: {path.suffix} has no place for it")
    elif kind.name == "TIFF" and exif.get_ifd(_GPS_IFD):
        source.notes.append(f"its place was not kept: this program does not write it into {path.suffix}")
    if dpi is not None and kind.name in ("WEBP", "AVIF", "HEIF"):
        exif[0x011A], exif[0x011B], exif[0x0128] = dpi[0], dpi[1], 2
    return exif.tobytes() if kind.exif and (len(exif) or exif.get_ifd(_GPS_IFD)) else b"", dpi, exif


def _fitted(page: Page, ending: str, notes: list[str]) -> Page:
    """The page as a format can hold it; `notes` gets a line for everything that is lost on the way."""
    kind = WRITABLE[ending]

    def say(line: str) -> None:
        if line not in notes:
            notes.append(line)

    samples, mode, full, profile = page.samples, page.mode, page.full, page.profile
    bits = 8 * samples.dtype.itemsize
    if bits > kind.bits:
        say(f"{bits} bits a channel became {kind.bits}: {ending} holds no more")
        eight = _eight_bits(samples, full)
        if kind.bits == 16:
            eight = np.clip(np.rint(np.nan_to_num(samples.astype(np.float64)) * (65535 / full)), 0, 65535).astype(np.uint16)
        samples, full = eight, float(2**kind.bits - 1)
    if mode.endswith("A") and not any(name.endswith("A") for name in kind.modes):
        say(f"what is transparent became white: {ending} has no transparency")
        alpha = samples[..., -1:].astype(np.float32) / full
        laid = samples[..., :-1] * alpha + full * (1 - alpha)
        mode = mode.removesuffix("A")
        samples = np.rint(laid[..., 0] if mode == "L" else laid).astype(samples.dtype)
    now = Page(samples, mode, full, profile, page.seconds)
    plain = mode.removesuffix("A")
    followed = now._transform() is not None
    if plain not in kind.modes and plain == "CMYK":
        say(f"CMYK became RGB: {ending} has no CMYK")
        return Page(now.image, "RGB", 255.0, None, page.seconds)
    if profile is not None and not kind.profile and followed:
        say(f"its colour profile was followed to sRGB: {ending} carries none")
        grey = plain == "L"
        return Page(now.image[..., 0] if grey else now.image, plain, 255.0, None, page.seconds)
    if plain not in kind.modes:  # grey where there is colour alone: the same shades
        shades = now.image if followed else np.repeat(samples[..., :1] if mode == "LA" else samples[..., None], 3, axis=2)
        if mode == "LA":
            shades = np.concatenate([shades, samples[..., 1:]], axis=2)
        return Page(shades, "RGBA" if mode == "LA" else "RGB", full, None, page.seconds)
    return Page(samples, mode, full, profile if kind.profile else None, page.seconds)


def _pillow(page: Page) -> Image.Image:
    return Image.fromarray(page.samples, "CMYK" if page.mode == "CMYK" else None)


def _save(file: io.BufferedWriter, pages: Sequence[Page], kind: Kind, facts: _Facts) -> None:
    """JPEG, BMP, WebP, AVIF and HEIC, by Pillow."""
    options: dict[str, Any] = {"quality": facts.quality or QUALITY}
    if kind.name == "JPEG":
        options["subsampling"] = 0
    elif kind.name == "WEBP":
        options = {"lossless": True} if facts.quality is None else options
        options["exact"] = True  # colours that do not show are kept too
    elif kind.name == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
        options["chroma"] = 444
    elif kind.name == "AVIF":
        options["subsampling"] = "4:4:4"
    if facts.exif:
        options["exif"] = facts.exif
    if facts.dpi is not None:
        options["dpi"] = facts.dpi
    if pages[0].profile is not None:
        options["icc_profile"] = pages[0].profile
    if kind.name == "BMP":
        options.pop("quality")
    first, *rest = map(_pillow, pages)
    if rest:
        options |= {"save_all": True, "append_images": rest, "duration": [round(1000 * page.seconds) for page in pages]}
        options["loop"] = facts.source.loop if facts.source is not None else 0
    first.save(file, kind.name, **options)


def _save_png(file: io.BufferedWriter, pages: Sequence[Page], kind: Kind, facts: _Facts) -> None:
    first = pages[0]
    if first.samples.dtype == np.uint16:
        import cv2

        deep = first.samples if first.mode != "LA" else first.samples[..., [0, 0, 0, 1]]
        order = [2, 1, 0, 3][: deep.shape[2]] if deep.ndim == 3 else None
        done, buffer = cv2.imencode(".png", deep if order is None else np.ascontiguousarray(deep[..., order]))
        if not done:
            raise OSError("this PNG could not be made")
        encoded = buffer.tobytes()
    else:
        written = io.BytesIO()
        options: dict[str, Any] = {}
        if len(pages) > 1:
            rest = [_pillow(page) for page in pages[1:]]
            options = {"save_all": True, "append_images": rest, "duration": [1000 * page.seconds for page in pages]}
            if facts.source is not None:
                options |= {"loop": facts.source.loop, "default_image": facts.source.default_image}
        _pillow(first).save(written, "PNG", **options)
        encoded = written.getvalue()
    extra = []
    if first.profile is not None:
        extra.append((b"iCCP", b"profile\0\0" + zlib.compress(first.profile)))
    elif facts.source is not None:
        extra += facts.source.colour_chunks()
    if facts.dpi is not None:
        extra.append((b"pHYs", struct.pack(">IIB", *(round(pixels_per_inch / 0.0254) for pixels_per_inch in facts.dpi), 1)))
    if facts.exif:
        extra.append((b"eXIf", facts.exif.removeprefix(b"Exif\0\0")))
    head = 8 + 25  # signature and IHDR
    file.write(encoded[:head])
    for name, data in extra:
        file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    file.write(memoryview(encoded)[head:])


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, data) of a PNG's chunks before its pixels."""
    at = 8
    while at + 12 <= len(png):
        length, name = struct.unpack(">I4s", png[at : at + 8])
        if name == b"IDAT":
            return
        yield name, png[at + 8 : at + 8 + length]
        at += 12 + length


def _save_tiff(file: io.BufferedWriter, pages: Sequence[Page], kind: Kind, facts: _Facts) -> None:
    import tifffile

    dates = facts.tags.get_ifd(_EXIF_IFD)
    texts = {tag: str(value) for tag, value in {**facts.tags, **dates}.items() if tag in _ABOUT | _DATES and facts.exif}
    with tifffile.TiffWriter(file) as writer:
        for page in pages:
            writer.write(
                page.samples,
                compression="zlib",
                predictor=page.samples.dtype != np.float32,
                metadata=None,
                software=None,
                photometric={"L": "minisblack", "RGB": "rgb", "CMYK": "separated"}[page.mode.removesuffix("A")],
                extrasamples=["unassalpha"] if page.mode.endswith("A") else None,
                iccprofile=page.profile,
                planarconfig="contig" if page.samples.ndim == 3 else None,
                resolution=facts.dpi,
                resolutionunit="INCH" if facts.dpi is not None else None,
                extratags=[(tag, 2, None, text, True) for tag, text in sorted(texts.items())],
            )


_SAVERS: Mapping[str, Callable[[io.BufferedWriter, Sequence[Page], Kind, _Facts], None]] = {
    "PNG": _save_png,
    "TIFF": _save_tiff,
}


def write(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) or (H, W) uint8 sRGB beside its target and rename it: a file that exists is whole."""
    with writing(path) as put:
        put(Page(image, "RGB" if image.ndim == 3 else "L", 255.0, None))

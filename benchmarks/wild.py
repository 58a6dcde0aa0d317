"""Any picture, any video that people have: awkward files are made, erased, and read with other tools than our own.

    python benchmarks/wild.py --json benchmarks/results/wild.json

Every input is made here, from scikit-image's astronaut: grey, transparent, 16-bit, CMYK and wide-gamut pictures, animations,
pages and previews, turned and small faces, videos of varying rate, colour, depth, rotation and tracks, names that no
terminal prints, files that are cut short. `faceeraser erase` runs on each as a user would call it. What came out is read by
Pillow, tifffile, OpenCV and ffprobe (which has to be installed), not by this package. A row has

kind        what the file is an example of
verdict     `right`; `refused`, with one line and nothing written, where refusing is right; `wrong`
why         what was seen

Exit code 1 where a verdict is `wrong`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from faceeraser import cli
from faceeraser.measurement import results

SIDE = 600
EYE = (202, 256)  # of the portrait, y and x
FACE = (slice(90, 400), slice(140, 460))  # all that may change lies in it
Samples = np.ndarray


class Wrong(AssertionError):
    """What came out is not what it has to be; the message says how."""


@dataclass(frozen=True)
class Done:
    """One run of the command: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All lines."""
        return self.out + self.err


@dataclass(frozen=True)
class Case:
    """One awkward input. `make` writes it into a folder and gives the command's words, `judge` looks at the folder after."""

    name: str
    kind: str
    make: Callable[[Path], Sequence[str]]
    judge: Callable[[Path, Done], str]


def need(condition: object, why: str) -> None:
    """Raise Wrong unless something holds."""
    if not condition:
        raise Wrong(why)


# --- what is made ----------------------------------------------------------------------------------------------------


@cache
def portrait() -> Image.Image:
    """The astronaut's head, SIDE x SIDE, RGB."""
    from skimage.data import astronaut

    return Image.fromarray(np.ascontiguousarray(astronaut()[0:300, 75:375])).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def pixels() -> Samples:
    """The portrait as (SIDE, SIDE, 3) uint8."""
    return np.array(portrait())


def _profile(kind: bytes, space: bytes, target: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    """An ICC profile of version 2.4 with these tags (ICC.1:2001-04, sections 6 and 7)."""
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"wild\0" + bytes(79), **tags}
    body, entries, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        entries += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI", at + len(body), b"lcms", 0x02400000) + kind + space + target
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _D50
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body


_D50 = struct.pack(">3i", 63190, 65536, 54061)  # its XYZ, in 16.16


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def grey_profile(gamma: float = 1.8) -> bytes:
    """A profile for grey, darker or lighter than sRGB's."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": b"XYZ " + bytes(4) + _D50, b"kTRC": _curve(gamma)})


def wide_profile() -> bytes:
    """The primaries of Adobe RGB (1998), adapted to D50, and its gamma of 2.2."""
    red, green, blue = (0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)
    columns = {b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue}
    fixed = {name: struct.pack(">3i", *(round(v * 65536) for v in value)) for name, value in columns.items()}
    xyz = {name: b"XYZ " + bytes(4) + value for name, value in fixed.items()}
    curves = {name: _curve(2.19921875) for name in (b"rTRC", b"gTRC", b"bTRC")}
    return _profile(b"mntr", b"RGB ", b"XYZ ", {b"wtpt": b"XYZ " + bytes(4) + _D50, **xyz, **curves})


@cache
def ink_profile(power: float = 1.6, steps: int = 9) -> bytes:
    """A profile for CMYK whose inks are darker than the naive formula has them: two tables (lut8Type)."""
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    line = np.linspace(0, 1, steps)
    c, m, y, k = np.meshgrid(line, line, line, line, indexing="ij")
    rgb = np.stack([((1 - ink) * (1 - k)) ** power for ink in (c, m, y)], axis=-1).reshape(1, -1, 3)
    seen = ImageCms.applyTransform(
        Image.fromarray(np.rint(rgb * 255).astype(np.uint8)), ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    )
    there = np.array(seen)
    there[..., 1:] ^= 128  # Pillow keeps a and b with a sign, a profile from 0
    light, a, b = np.meshgrid(line, line, line, indexing="ij")
    grid = np.rint(np.stack([light, a, b], axis=-1).reshape(1, -1, 3) * 255).astype(np.uint8)
    grid[..., 1:] ^= 128
    shown = ImageCms.applyTransform(Image.fromarray(grid, "LAB"), ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    rest = (np.array(shown) / 255) ** (1 / power)
    key = 1 - rest.max(-1, keepdims=True)
    back = np.concatenate([np.clip(1 - rest / np.maximum(1 - key, 1e-6), 0, 1), key], axis=-1)

    def table(inputs: int, outputs: int, values: Samples) -> bytes:
        head = b"mft1" + bytes(4) + bytes([inputs, outputs, steps, 0])
        head += struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
        straight = bytes(range(256))
        return head + straight * inputs + values.astype(np.uint8).tobytes() + straight * outputs

    tables = {b"A2B0": table(4, 3, there), b"B2A0": table(3, 4, np.rint(back * 255))}
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": b"XYZ " + bytes(4) + _D50, **tables})


def converted(profile: bytes, mode: str) -> Image.Image:
    """The portrait through a profile: the numbers that mean the same colours there."""
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    picture = ImageCms.profileToProfile(portrait(), ImageCms.createProfile("sRGB"), own, outputMode=mode)
    assert picture is not None
    return picture


def film(
    path: Path,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: Fraction = Fraction(30),
    count: int = 12,
    times: Sequence[Fraction] | None = None,
    size: tuple[int, int] = (320, 240),
    image: Samples | None = None,
    **more: Any,
) -> None:
    """Write a video of the portrait, which moves a little.

    Args:
        path: where; the ending says the container.
        codec: FFmpeg's name.
        pixel_format: its pixel format.
        rate: frames a second.
        count: how many frames.
        times: when each is shown, in seconds, where that is not by the rate.
        size: width and height.
        image: another picture than the portrait.
        more: `colours` (matrix, primaries, transfer, range), `shape` of a pixel, `matrix` that turns it, `sound`, a list of
            languages, `options` of the encoder, `begin`, `chapters`, `interlaced`, `format`.
    """
    import av
    from av.codec.context import Flags

    with av.open(f"file:{path}", "w", format=more.get("format")) as target:
        stream: Any = target.add_stream(codec, rate=rate, width=size[0], height=size[1], options=more.get("options"))
        context = stream.codec_context
        context.pix_fmt, context.time_base = pixel_format, Fraction(1, 30000) if times is not None else 1 / rate
        if colours := more.get("colours"):
            context.colorspace, context.color_primaries, context.color_trc, context.color_range = colours
        if shape := more.get("shape"):
            stream.sample_aspect_ratio = context.sample_aspect_ratio = shape
        if matrix := more.get("matrix"):
            stream.set_display_matrix(matrix)
        if more.get("interlaced"):
            context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        sounds = [_sound(target, language, more.get("sound_codec", "aac")) for language in more.get("sound", ())]
        if more.get("chapters"):
            target.set_chapters(more["chapters"])
        target.metadata.update(more.get("metadata", {}))
        for number in range(count):
            base = context.time_base
            frame = _frame(image, size, pixel_format, number, colours)
            moment = (times[number] if times is not None else number / rate) + more.get("begin", Fraction(0))
            frame.pts, frame.time_base = round(moment / base), base
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
        for sound in sounds:
            _tone(target, sound, float(times[-1] if times is not None else count / rate))


def _frame(
    image: Samples | None, size: tuple[int, int], pixel_format: str, number: int, colours: Sequence[int] | None
) -> Any:
    import av

    picture = pixels() if image is None else image
    moved = np.roll(picture, number, axis=1)
    shown = cv2.resize(moved, size, interpolation=cv2.INTER_AREA)
    frame = av.VideoFrame.from_ndarray(shown, "rgb24")
    full = pixel_format.startswith(("gbr", "rgb", "bgr", "yuvj")) or (colours is not None and colours[3] == 2)
    if colours is not None:
        frame.colorspace = colours[0]
    return frame.reformat(format=pixel_format, src_color_range=2, dst_color_range=2 if full else 1)


def _sound(target: Any, language: str, codec: str) -> Any:
    stream = target.add_stream(codec, rate=48000)
    stream.codec_context.layout = "mono"
    stream.metadata["language"] = language
    return stream


def _tone(target: Any, stream: Any, seconds: float) -> None:
    import av

    context = stream.codec_context
    sampler = av.AudioResampler(context.format, "mono", 48000, frame_size=context.frame_size or None)
    wave = (12000 * np.sin(np.arange(round(seconds * 48000)) * 2 * np.pi * 440 / 48000)).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts = 48000, 0
    for chunk in [*sampler.resample(frame), *sampler.resample(None)]:
        target.mux(stream.encode(chunk))
    target.mux(stream.encode(None))


# --- how it is looked at ---------------------------------------------------------------------------------------------


def probe(path: Path) -> Mapping[str, Any]:
    """What ffprobe says of a video: streams, format and chapters."""
    command = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-show_chapters", "-of", "json", f"file:{path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    need(done.returncode == 0, f"ffprobe cannot read {path.name}: {done.stderr.strip()}")
    contents: Mapping[str, Any] = json.loads(done.stdout)
    return contents


def shown(path: Path, count: int = 1) -> Samples:
    """The first frames as ffmpeg shows them, (N, H, W, 3) uint8 RGB."""
    video = of_kind(probe(path), "video")[0]
    turned = any(abs(int(entry.get("rotation", 0))) % 180 == 90 for entry in video.get("side_data_list", ()))
    width, height = (video["height"], video["width"]) if turned else (video["width"], video["height"])
    command = ["ffmpeg", "-v", "error", "-i", f"file:{path}", "-map", "0:V:0", "-frames:v", str(count), "-f", "rawvideo"]
    done = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=False)
    need(done.stdout, f"ffmpeg shows no frame of {path.name}: {done.stderr.decode(errors='replace').strip()}")
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


def moments(path: Path) -> list[float]:
    """When each frame is shown, in seconds, as ffprobe says."""
    command = ["ffprobe", "-v", "error", "-select_streams", "V:0", "-show_entries", "frame=best_effort_timestamp_time"]
    done = subprocess.run([*command, "-of", "csv=p=0", f"file:{path}"], capture_output=True, text=True, check=True)
    return [float(line.strip(",")) for line in done.stdout.split() if line.strip(",") not in ("", "N/A")]


def _count(path: Path) -> int:
    command = ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "V:0", "-show_entries", "stream=nb_read_frames"]
    done = subprocess.run([*command, "-of", "csv=p=0", f"file:{path}"], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0].strip(","))


def of_kind(contents: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    """The streams of a kind, of what `probe` gives."""
    return [stream for stream in contents["streams"] if stream["codec_type"] == kind]


def read_samples(path: Path) -> Samples:
    """A picture's samples at their own depth: by OpenCV for 16-bit PNG, by tifffile for TIFF, else by Pillow."""
    if path.suffix in (".tif", ".tiff"):
        import tifffile

        with contextlib.suppress(ValueError):  # LZW, which tifffile leaves to another package
            return np.asarray(tifffile.imread(path))
    with Image.open(path) as picture:
        head = path.read_bytes()[:26]
        if (path.suffix == ".png" and head[24] == 16) or (path.suffix == ".tif" and picture.tag_v2[258][0] == 16):  # type: ignore[attr-defined]
            read: Any = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            return read if read.ndim == 2 else read[..., [2, 1, 0, 3][: read.shape[2]]]
        return np.array(picture)


def is_erased(before: Samples, after: Samples, at: tuple[int, int] = EYE) -> None:
    """The eye of the portrait has to be gone, in pictures of any size and any samples: where it was dark it is light now."""
    scale = after.shape[0] / SIDE
    y, x = round(at[0] * scale), round(at[1] * scale)
    near = (slice(y - 12, y + 13), slice(x - 12, x + 13))
    a, b = (np.asarray(picture[near], np.float64) for picture in (before, after))
    span = float(np.ptp(np.asarray(before, np.float64))) or 1.0
    need(np.abs(a - b).mean() > 0.02 * span, "the face is still there")


def outside(samples: Samples) -> Samples:
    """All that is far from the face."""
    kept = np.ones(samples.shape[:2], bool)
    scale = samples.shape[0] / SIDE
    kept[tuple(slice(round(extent.start * scale), round(extent.stop * scale)) for extent in FACE)] = False
    return samples[kept]


def refused(reason: str, *absent: str) -> Callable[[Path, Done], str]:
    """A judge: exit code 2, one line with these words, and none of these files there."""

    def judge(folder: Path, done: Done) -> str:
        lines = [line for line in done.err.splitlines() if line.startswith("faceeraser: ")]
        need(done.code == 2, f"exit code {done.code}, expected 2")
        need("Traceback" not in done.said, "a traceback")
        need(any(reason in line for line in lines), f"expected {reason!r} in: {' / '.join(lines)[:200]}")
        there = [name for name in absent if (folder / name).exists()]
        need(not there, f"{there} was written")
        return f"refused: {next(line for line in lines if reason in line)[12:]}"

    return judge


# --- photographs -----------------------------------------------------------------------------------------------------


def still(
    name: str,
    kind: str,
    source: str,
    write: Callable[[Path], object],
    target: str,
    *,
    mode: str,
    within: float = 0.0,
    **more: Any,
) -> Case:
    """A photograph in, a photograph out.

    Args:
        name: of the row.
        kind: of the row.
        source: the file's name.
        write: makes it.
        target: the result's name.
        mode: Pillow's mode of the result.
        within: how far samples outside of the face may be off, on average: 0 means bit-identical.
        more: `wanted(path)`, the samples that are expected (default: the source's own); `said`, words of a line; `dtype`;
            `words`, more of the command; `look(path)`, more to ask of the result.
    """

    def make(folder: Path) -> Sequence[str]:
        write(folder / source)
        return ["erase", source, "-o", target, *more.get("words", ())]

    def judge(folder: Path, done: Done) -> str:
        need(done.code == 0, f"exit code {done.code}: {done.err.strip()[-200:]}")
        with Image.open(folder / target) as picture:
            need(picture.mode == mode, f"mode {picture.mode}, expected {mode}")
        before = more["wanted"](folder / source) if "wanted" in more else read_samples(folder / source)
        after = read_samples(folder / target)
        need(after.dtype == more.get("dtype", np.uint8), f"samples of {after.dtype}")
        need(before.shape == after.shape, f"shape {after.shape}, expected {before.shape}")
        off = float(np.abs(outside(before).astype(float) - outside(after).astype(float)).mean())
        need(off <= within, f"samples outside of the face are off by {off:.2f} on average, {within:g} allowed")
        is_erased(before, after)
        grey = outside(before)
        if grey.ndim == 2 and grey.shape[1] == 3 and (np.ptp(grey, axis=1) == 0).all():
            need((np.ptp(after, axis=2) == 0).all(), "a colour in a grey picture")
        if said := more.get("said", ""):
            need(said in done.said, f"not a word of {said!r}")
        if look := more.get("look"):
            look(folder / target)
        return f"{mode}, off by {off:.2f} outside of the face" + (f", said: {said}" if said else "")

    return Case(name, kind, make, judge)


def saved(mode: str | None = None, image: Callable[[], Image.Image] = portrait, **options: Any) -> Callable[[Path], object]:
    """A maker: the portrait in a mode, saved by Pillow."""
    return lambda path: (image() if mode is None else image().convert(mode)).save(path, **options)


def _clear() -> Image.Image:
    picture = portrait().convert("RGBA")
    picture.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1)).T.copy()))
    return picture


def _grey_clear() -> Image.Image:
    return _clear().convert("LA")


def _deep(channels: int) -> Callable[[Path], object]:
    samples = pixels().astype(np.uint16) * 257 + np.arange(SIDE, dtype=np.uint16)[:, None, None] % 7
    if channels == 1:
        deep = samples[..., 1]
    else:
        deep = samples[..., ::-1]
        if channels == 4:
            deep = np.dstack([deep, np.full((SIDE, SIDE), 40000, np.uint16)])
    return lambda path: cv2.imwrite(str(path), deep)


def _has_profile(profile: bytes) -> Callable[[Path], None]:
    def look(path: Path) -> None:
        with Image.open(path) as picture:
            need(picture.info.get("icc_profile") == profile, "the colour profile is gone")

    return look


def _on_white(path: Path) -> Samples:
    with Image.open(path) as picture:
        clear = picture.convert("RGBA")
    white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(white, clear).convert("RGB"))


def _as_rgb(path: Path) -> Samples:
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB"))


def _eight(path: Path) -> Samples:
    return np.rint(read_samples(path) / 257).astype(np.uint8)


def modes() -> Iterator[Case]:
    """Mode, transparency and depth: kept, or said."""
    kind = "grey"
    for target, mode, within in (("o.png", "L", 0), ("o.tif", "L", 0), ("o.bmp", "L", 0), ("o.jpg", "L", 2)):
        yield still(f"grey PNG to {target[1:]}", kind, "a.png", saved("L"), target, mode=mode, within=within)
    yield still("grey JPEG to .png", kind, "a.jpg", saved("L"), "o.png", mode="L")
    for target, within in (("o.webp", 0), ("o.avif", 3)):
        more: Any = {"within": within, "wanted": _as_rgb}
        yield still(f"grey PNG to {target[1:]}", kind, "a.png", saved("L"), target, mode="RGB", **more)
    grey = saved(None, lambda: portrait().convert("L").convert("RGB"))
    yield still("grey saved as RGB", kind, "a.png", grey, "o.png", mode="RGB")
    kind = "transparency"
    for source in ("a.png", "a.webp", "a.tif"):
        options = {"lossless": True, "exact": True} if source == "a.webp" else {}
        make = saved(None, _clear, **options)
        yield still(f"RGBA {source[1:]} to .png", kind, source, make, "o.png", mode="RGBA")
    for target in ("o.tif", "o.webp"):
        look: Any = {"wanted": lambda path: np.array(Image.open(path))}
        yield still(f"RGBA PNG to {target[1:]}", kind, "a.png", saved(None, _clear), target, mode="RGBA", within=0.2, **look)
    for target, within in (("o.jpg", 3), ("o.bmp", 1)):
        said: Any = {"said": "transparent became white", "wanted": _on_white}
        make = saved(None, _clear)
        yield still(f"RGBA PNG to {target[1:]}", kind, "a.png", make, target, mode="RGB", within=within, **said)
    yield still("grey with transparency", kind, "a.png", saved(None, _grey_clear), "o.png", mode="LA")
    yield still("grey with transparency to .tif", kind, "a.png", saved(None, _grey_clear), "o.tif", mode="LA")
    kind = "palette"
    adaptive = saved(None, lambda: portrait().quantize(256))
    yield still("palette", kind, "a.png", adaptive, "o.png", mode="RGB", wanted=_as_rgb, said="palette")
    shades = saved(None, lambda: portrait().convert("L").convert("P"))
    yield still("palette of greys", kind, "a.png", shades, "o.png", mode="L", wanted=lambda p: _as_rgb(p)[..., 0])
    kind = "black and white"
    dots: Any = {"wanted": lambda p: np.array(Image.open(p).convert("L")), "said": "shades of grey"}
    for source in ("a.png", "a.tif"):
        yield still(f"1 bit {source[2:]}", kind, source, saved("1"), "o.png", mode="L", **dots)


def depths() -> Iterator[Case]:
    """16 bits and more: kept, or said."""
    kind = "16 bits"
    for channels, mode in ((1, "I;16"), (3, "RGB"), (4, "RGBA")):
        for source in ("a.png", "a.tif"):
            for target in ("o.png", "o.tif"):
                name = f"{channels} channels, {source[2:]} to {target[2:]}"
                yield still(name, kind, source, _deep(channels), target, mode=mode, dtype=np.uint16)
    for target in ("o.jpg", "o.webp"):
        said: Any = {"said": "16 bits a channel became 8", "wanted": _eight}
        yield still(f"RGB to {target[1:]}", kind, "a.png", _deep(3), target, mode="RGB", within=3, **said)
    said = {"said": "16 bits a channel became 8", "wanted": _eight}
    yield still("grey to .jpg", kind, "a.png", _deep(1), "o.jpg", mode="L", within=3, **said)
    kind = "32 bits"
    floats = saved(None, lambda: Image.fromarray(np.asarray(portrait().convert("L"), np.float32) / 255))
    yield still("float TIFF", kind, "a.tif", floats, "o.tif", mode="F", dtype=np.float32)

    def sixteen(path: Path) -> Samples:
        return np.rint(read_samples(path) * 65535).astype(np.uint16)

    deep: Any = {"said": "32 bits a channel became 16", "wanted": sixteen}
    yield still("float TIFF to .png", kind, "a.tif", floats, "o.png", mode="I;16", dtype=np.uint16, within=1, **deep)


def colours() -> Iterator[Case]:
    """Colour profiles: followed, and kept where OUT can carry them."""
    kind = "CMYK"
    yield still("CMYK JPEG to JPEG", kind, "a.jpg", saved("CMYK"), "o.jpg", mode="CMYK", within=3)
    yield still("CMYK TIFF to TIFF", kind, "a.tif", saved("CMYK"), "o.tif", mode="CMYK")
    said: Any = {"said": "CMYK became RGB", "wanted": lambda p: pixels()}
    yield still("CMYK JPEG to .png", kind, "a.jpg", saved("CMYK", quality=95), "o.png", mode="RGB", within=3, **said)
    inks = ink_profile()
    printed = saved(None, lambda: converted(inks, "CMYK"), icc_profile=inks, quality=95)
    yield still("with a profile, to .png", kind, "a.jpg", printed, "o.png", mode="RGB", within=5, **said)
    yield still("with a profile, to .bmp", kind, "a.jpg", printed, "o.bmp", mode="RGB", within=5, **said)
    kept: Any = {"look": _has_profile(inks)}
    yield still("with a profile, JPEG to JPEG", kind, "a.jpg", printed, "o.jpg", mode="CMYK", within=3, **kept)
    plain = saved(None, lambda: converted(inks, "CMYK"), icc_profile=inks)
    yield still("with a profile, TIFF to TIFF", kind, "a.tif", plain, "o.tif", mode="CMYK", **kept)
    kind = "wide gamut"
    wide = wide_profile()
    source, kept = saved(None, lambda: converted(wide, "RGB"), icc_profile=wide), {"look": _has_profile(wide)}
    for target, within in (("o.png", 0), ("o.tif", 0), ("o.webp", 0), ("o.jpg", 2), ("o.avif", 3)):
        yield still(f"to {target[1:]}", kind, "a.png", source, target, mode="RGB", within=within, **kept)
    said = {"said": "profile was followed to sRGB", "wanted": lambda p: pixels()}
    yield still("to .bmp", kind, "a.png", source, "o.bmp", mode="RGB", within=2, **said)
    kind = "grey profile"
    shades = grey_profile()
    source, kept = saved(None, lambda: converted(shades, "L"), icc_profile=shades), {"look": _has_profile(shades)}
    for target, within in (("o.png", 0), ("o.tif", 0), ("o.jpg", 2)):
        yield still(f"to {target[1:]}", kind, "a.png", source, target, mode="L", within=within, **kept)
    own = ImageCms.ImageCmsProfile(io.BytesIO(shades))
    srgb = ImageCms.createProfile("sRGB")

    def meant(path: Path) -> Samples:
        back = ImageCms.profileToProfile(Image.open(path), own, srgb, outputMode="RGB")
        assert back is not None
        return np.array(back)

    yield still("to .webp", kind, "a.png", source, "o.webp", mode="RGB", within=1, wanted=meant)
    said = {"said": "profile was followed to sRGB", "wanted": lambda p: meant(p)[..., 0]}
    yield still("to .bmp", kind, "a.png", source, "o.bmp", mode="L", within=1, **said)
    chunk = PngInfo()
    chunk.add(b"gAMA", struct.pack(">I", 100000))

    def linear(path: Path) -> None:
        with Image.open(path) as picture:
            need(picture.info.get("gamma") == 1.0, "gAMA is gone: it would be shown darker")

    yield still("PNG that says its gamma", "gamma", "a.png", saved(pnginfo=chunk), "o.png", mode="RGB", look=linear)


def facts() -> Iterator[Case]:
    """EXIF: turned upright; date, dpi and place kept when asked for and not otherwise."""
    for turn in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        ways = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }
        stored = saved(None, partial(portrait().transpose, ways[turn]), exif=exif)

        def upright(path: Path) -> None:
            with Image.open(path) as picture:
                need(picture.getexif().get(0x0112, 1) == 1, "it would be turned once more")

        name = f"orientation {turn}"
        wanted: Any = {"wanted": lambda p: pixels(), "look": upright}
        yield still(name, "orientation", "a.png", stored, "o.png", mode="RGB", **wanted)
    exif = Image.Exif()
    exif[0x0132] = exif[0x0110] = "2020:02:03 04:05:06"
    exif.get_ifd(0x8769)[0x9003] = "2020:02:03 04:05:06"
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 0.0), 3: "E", 4: (11.0, 34.0, 0.0)})
    taken = saved(exif=exif, dpi=(300, 300), quality=95)

    def has(date: bool, place: bool, dpi: bool) -> Callable[[Path], None]:
        def look(path: Path) -> None:
            with Image.open(path) as picture:
                own = picture.getexif()
                dates = own.get_ifd(0x8769).get(0x9003) or own.get(0x9003)
                need((dates == "2020:02:03 04:05:06") == date, f"its date is {dates}")
                need(bool(own.get_ifd(0x8825)) == place, f"its place is {dict(own.get_ifd(0x8825))}")
                dots = picture.info.get("dpi", (own.get(0x011A, 72.0),))[0]
                need((abs(float(dots) - 300) < 1) == dpi, f"{dots} dots per inch")

        return look

    date, place = "--keep-metadata", "--keep-gps"
    for flags, targets in (
        ((), ("o.jpg", "o.png")),
        ((date,), ("o.jpg", "o.png", "o.tif")),
        ((place,), ("o.jpg", "o.png")),
        ((date, place), ("o.jpg", "o.webp")),
    ):
        for target in targets:
            look, within = has(date in flags, place in flags, date in flags), 3 if target == "o.jpg" else 0
            name = f"{' '.join(flags) or 'nothing asked for'}, to {target[1:]}"
            yield still(name, "metadata", "a.jpg", taken, target, mode="RGB", within=within, words=flags, look=look)


# --- files with several images, and other formats --------------------------------------------------------------------


def _turning(count: int = 4) -> list[Image.Image]:
    return [portrait().rotate(3 * number) for number in range(count)]


def _all(count: int = 4, **options: Any) -> Callable[[Path], object]:
    first, *rest = _turning(count)
    return lambda path: first.save(path, save_all=True, append_images=rest, **options)


def several(name: str, source: str, write: Callable[[Path], object], target: str, seconds: float | None) -> Case:
    """Several images in, as many out, each of them erased; `seconds` that they are shown in all."""

    def make(folder: Path) -> Sequence[str]:
        write(folder / source)
        return ["erase", source, "-o", target]

    def judge(folder: Path, done: Done) -> str:
        need(done.code == 0, f"exit code {done.code}: {done.err.strip()[-200:]}")
        long = 0.0
        with Image.open(folder / source) as before, Image.open(folder / target) as after:
            count = getattr(before, "n_frames", 1)
            need(getattr(after, "n_frames", 1) == count, f"{getattr(after, 'n_frames', 1)} images of {count}")
            for number in range(count):
                before.seek(number)
                after.seek(number)
                a, b = (np.array(picture.convert("RGB")) for picture in (before, after))
                long += float(after.info.get("duration", 0))
                off = float(np.abs(outside(a).astype(float) - outside(b)).mean())
                allowed = 3 if target.endswith("avif") else 0.01
                need(off < allowed, f"image {number} is off by {off:.2f} outside of the face")
                is_erased(a, b)
        need(seconds is None or abs(long / 1000 - seconds) < 0.02, f"{long / 1000} seconds of {seconds}")
        return f"{count} images, each erased" + ("" if seconds is None else f", {long / 1000:g} seconds")

    return Case(name, "several images", make, judge)


def _thumbnail_first(path: Path, raw: bool = False) -> None:
    import tifffile

    small = cv2.resize(pixels(), (150, 150), interpolation=cv2.INTER_AREA)
    with tifffile.TiffWriter(path) as writer:
        tags = [(50706, 1, 4, b"\1\4\0\0", True)] if raw else []
        writer.write(small, photometric="rgb", subfiletype=1, metadata=None, extratags=tags)
        writer.write(pixels(), photometric="rgb", subfiletype=0, metadata=None)


def containers() -> Iterator[Case]:
    """Animations, pages and previews."""
    yield several("GIF", "a.gif", _all(duration=80, loop=0), "o.png", 0.32)
    yield several("GIF to .webp", "a.gif", _all(duration=80), "o.webp", 0.32)
    yield several("APNG", "a.png", _all(duration=80), "o.png", 0.32)
    yield several("animated WebP", "a.webp", _all(duration=80, lossless=True), "o.webp", 0.32)
    yield several("animated WebP to APNG", "a.webp", _all(duration=80, lossless=True), "o.png", 0.32)
    yield several("animated AVIF", "a.avif", _all(duration=80, quality=95), "o.avif", 0.32)
    yield several("TIFF of four pages", "a.tif", _all(), "o.tif", None)
    kind = "several images"
    for source, target in (("a.gif", "o.jpg"), ("a.tif", "o.png"), ("a.webp", "o.bmp")):
        write = _all(duration=80) if source != "a.tif" else _all()

        def make(folder: Path, source: str = source, target: str = target, write: Any = write) -> Sequence[str]:
            write(folder / source)
            return ["erase", source, "-o", target]

        yield Case(f"{source[2:]} to {target[1:]}", kind, make, refused("holds one", target))
    said: Any = {"said": "thumbnail", "wanted": lambda p: pixels()}
    yield still("TIFF whose first page is a thumbnail", kind, "a.tif", _thumbnail_first, "o.png", mode="RGB", **said)

    def dng(folder: Path) -> Sequence[str]:
        _thumbnail_first(folder / "a.dng", raw=True)
        return ["erase", "a.dng"]

    yield Case("DNG", kind, dng, refused("raw file", "a-erased.png"))

    def mpo(path: Path) -> None:
        small = portrait().resize((300, 300))
        portrait().save(path.with_suffix(".mpo"), save_all=True, append_images=[small], quality=95)
        path.with_suffix(".mpo").rename(path)

    said = {"said": "left out", "within": 0.01, "wanted": _as_rgb}
    yield still("JPEG with a second picture", kind, "a.jpg", mpo, "o.png", mode="RGB", **said)


def phones() -> Iterator[Case]:
    """HEIC, AVIF and JPEG 2000."""
    kind = "HEIC and AVIF"

    def heic(path: Path) -> None:
        import pillow_heif

        pillow_heif.from_pillow(portrait()).save(path, quality=95)

    def by_heif(path: Path) -> Samples:
        import pillow_heif

        return np.array(pillow_heif.open_heif(path).to_pillow())

    yield still("HEIC to .png", kind, "a.heic", heic, "o.png", mode="RGB", wanted=by_heif)
    yield still("HEIC to .jpg", kind, "a.heic", heic, "o.jpg", mode="RGB", within=3, wanted=by_heif)

    def make_heic(folder: Path) -> Sequence[str]:
        heic(folder / "a.heic")
        return ["erase", "a.heic", "-o", "o.heic"]

    def judge_heic(folder: Path, done: Done) -> str:
        need(done.code == 0, f"exit code {done.code}: {done.err[-200:]}")
        a, b = by_heif(folder / "a.heic"), by_heif(folder / "o.heic")
        off = float(np.abs(outside(a).astype(float) - outside(b)).mean())
        need(off < 3, f"off by {off:.2f}")
        is_erased(a, b)
        return f"HEIC, off by {off:.2f} outside of the face"

    yield Case("HEIC to .heic", kind, make_heic, judge_heic)
    avif = saved(quality=90)
    yield still("AVIF to .png", kind, "a.avif", avif, "o.png", mode="RGB")
    yield still("AVIF to .avif", kind, "a.avif", avif, "o.avif", mode="RGB", within=3)
    yield still("JPEG 2000", kind, "a.jp2", saved(), "o.png", mode="RGB")


# --- the command's words, names and files that are bad ---------------------------------------------------------------


def _listed(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def command_words(name: str, kind: str, files: Sequence[str], said: Sequence[str], expected: Sequence[str]) -> Case:
    """Copies of the portrait under these names, a command, and the files that have to be there afterwards, erased."""

    def make(folder: Path) -> Sequence[str]:
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            if file.endswith("/"):
                (folder / file).mkdir()
            else:
                portrait().save(folder / file)
        return ["erase", *said]

    def judge(folder: Path, done: Done) -> str:
        need(done.code == 0, f"exit code {done.code}: {done.err.strip()[-200:]}")
        there = set(_listed(folder)) - {file for file in files if not file.endswith("/")}
        need(there == set(expected), f"written were {sorted(there)}, expected {sorted(expected)}")
        for file in expected:
            is_erased(pixels(), _as_rgb(folder / file))
        for file in files:
            if not file.endswith("/"):
                need(np.array_equal(_as_rgb(folder / file), pixels()), f"{file} was changed")
        return f"written: {', '.join(os.fsencode(name).decode('ascii', 'backslashreplace')[:40] for name in sorted(there))}"

    return Case(name, kind, make, judge)


def commands() -> Iterator[Case]:
    """Several INs, OUT, and where results go."""
    kind = "several INs"
    two = ["a-erased.png", "b-erased.png"]
    yield command_words("two photographs, --overwrite", kind, ["a.png", "b.png"], ["a.png", "b.png", "--overwrite"], two)
    yield command_words("the second does not exist", kind, ["a.png"], ["a.png", "b.png"], ["b.png"])
    yield command_words("the second is a folder", kind, ["a.png", "f/"], ["a.png", "f"], ["f/a-erased.png"])
    many, into = ["a.png", "b.png", "c.png"], ["f/a-erased.png", "f/b-erased.png", "f/c-erased.png"]
    yield command_words("three and -o", kind, many, [*many, "-o", "f"], into)
    yield command_words("three without -o", kind, many, many, ["a-erased.png", "b-erased.png", "c-erased.png"])
    both = ["o/a-erased.png", "o/f/b.png"]
    yield command_words("a file and a folder", kind, ["a.png", "f/b.png"], ["a.png", "f", "-o", "o"], both)
    yield command_words("the same twice among three", kind, ["a.png", "b.png"], ["a.png", "b.png", "a.png"], two)

    def three(folder: Path) -> Sequence[str]:
        for name in many:
            portrait().save(folder / name)
        return ["erase", *many, "gone"]

    yield Case("OUT without -o behind three", kind, three, refused("after -o", "a-erased.png", "gone"))

    def same(folder: Path) -> Sequence[str]:
        portrait().save(folder / "a.png")
        return ["erase", "a.png", "a.png", "--overwrite"]

    yield Case("IN and OUT are one file", kind, same, refused("would replace it", "a-erased.png"))
    kind = "names"
    yield command_words("a name with a colon", kind, ["12:30.png"], ["12:30.png"], ["12:30-erased.png"])
    yield command_words("a name of spaces and signs", kind, ["a %d #1 ü.png"], ["a %d #1 ü.png"], ["a %d #1 ü-erased.png"])
    odd = os.fsdecode(b"caf\xe9.png")
    yield command_words("a name that is not UTF-8", kind, ["f/" + odd, "f/b.png"], ["f", "o"], ["o/" + odd, "o/b.png"])
    long = "x" * 251 + ".png"
    yield command_words("a name of 255 bytes", kind, ["f/" + long, "f/b.png"], ["f", "o"], ["o/" + long, "o/b.png"])


def folders() -> Iterator[Case]:
    """One bad file does not stop the others."""
    bad: Mapping[str, tuple[Callable[[Path], object], str]] = {
        "empty": (lambda path: path.write_bytes(b""), "is empty"),
        "no picture": (lambda path: path.write_bytes(b"no picture " * 50), "is not a picture"),
        "cut short": (lambda path: path.write_bytes(_bytes("JPEG")[:9000]), "damaged or cut short"),
        "no face": (lambda path: Image.new("RGB", (300, 200), (90, 120, 200)).save(path, "PNG"), "no face found"),
        "far too large": (lambda path: path.write_bytes(_announced(60000)), "far more pixels"),
        "a link that leads nowhere": (lambda path: path.symlink_to("gone"), "cannot be opened"),
        "a folder by that name": (lambda path: path.mkdir(), ""),
    }
    for name, (write, said) in bad.items():

        def make(folder: Path, write: Any = write) -> Sequence[str]:
            (folder / "f").mkdir()
            for good in ("a.png", "c.png"):
                portrait().save(folder / "f" / good)
            write(folder / "f" / "b.jpg")
            return ["erase", "f", "o"]

        def judge(folder: Path, done: Done, said: str = said) -> str:
            need(done.code == (2 if said else 0), f"exit code {done.code}")
            need(_listed(folder / "o") == ["a.png", "c.png"], f"written: {_listed(folder / 'o')}")
            need(said in done.err and "Traceback" not in done.said, f"{said!r} is not in: {done.err.strip()[-200:]}")
            need(f"2 of {3 if said else 2} done" in done.out, "no count at the end")
            return "the others were done" + (f"; said: {said}" if said else "")

        yield Case(name, "a bad file in a folder", make, judge)

    def locked(folder: Path) -> Sequence[str]:
        portrait().save(folder / "a.png")
        (folder / "a.png").chmod(0)
        return ["erase", "a.png"]

    if os.geteuid() != 0:  # root may read anything
        yield Case("without read permission", "permission", locked, refused("may not be read", "a-erased.png"))


def _bytes(kind: str) -> bytes:
    portrait().save(written := io.BytesIO(), kind, quality=90)
    return written.getvalue()


def _announced(side: int) -> bytes:
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# --- faces -----------------------------------------------------------------------------------------------------------


def scene(
    name: str,
    kind: str,
    image: Callable[[], Image.Image],
    gone: Sequence[tuple[int, int, int]],
    kept: Sequence[tuple[int, int, int]] = (),
    options: Sequence[str] = (),
    files: Callable[[Path], object] | None = None,
) -> Case:
    """A photograph, and places (x, y, radius) that have to change or to stay."""

    def make(folder: Path) -> Sequence[str]:
        image().save(folder / "a.png")
        if files is not None:
            files(folder)
        return ["erase", "a.png", "-o", "o.png", *options]

    def judge(folder: Path, done: Done) -> str:
        need(done.code == 0, f"exit code {done.code}: {done.err.strip()[-200:]}")
        a, b = (_as_rgb(folder / name).astype(float) for name in ("a.png", "o.png"))

        def change(x: int, y: int, radius: int) -> float:
            near = (slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1))
            return float(np.abs(a[near] - b[near]).mean())

        left = [place for place in gone if change(*place) < 3]
        need(not left, f"the face is still there at {left[:3]} ({len(left)} of {len(gone)} places)")
        touched = [place for place in kept if change(*place) > 0]
        need(not touched, f"what had to stay was changed at {touched[:3]}")
        return f"{len(gone)} places erased" + (f", {len(kept)} left as they were" if kept else "")

    return Case(name, kind, make, judge)


def _at(x: int, y: int, scale: float) -> list[tuple[int, int, int]]:
    """Both eyes and the mouth of a portrait that was pasted there."""
    points = ((256, 202), (344, 208), (296, 292))
    return [(round(x + scale * px), round(y + scale * py), max(1, round(8 * scale))) for px, py in points]


def _beside() -> Image.Image:
    sheet = Image.new("RGB", (1920, 1080))
    sheet.paste(portrait().resize((300, 300)), (1500, 400))
    sheet.paste(portrait().resize((1000, 1000)), (100, 40))
    return sheet


def _sheet(columns: int, rows: int, side: int) -> Image.Image:
    sheet = Image.new("RGB", (columns * side, rows * side))
    for number in range(columns * rows):
        sheet.paste(portrait().resize((side, side)), (number % columns * side, number // columns * side))
    return sheet


def people() -> Iterator[Case]:
    """Small faces beside a large one, and turned faces."""
    large, small = _at(100, 40, 1000 / SIDE), _at(1500, 400, 0.5)
    yield scene("a small face beside a large one", "small faces", _beside, [*large, *small])
    for columns, rows, side in ((6, 4, 200), (6, 4, 300), (8, 3, 160)):
        gone = [place for n in range(columns * rows) for place in _at(n % columns * side, n // columns * side, side / SIDE)]
        name = f"{columns * rows} portraits of {side} pixels"
        yield scene(name, "small faces", partial(_sheet, columns, rows, side), gone)
    for angle in (30, 60, 90, 110, 120, 130, 140, 150, 180, 210, 240, 250, 270, 300, 330):
        turn = np.array(cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), -angle, 1.0))
        gone = [(round(float(x)), round(float(y)), 8) for x, y in (turn @ [px, py, 1] for px, py, _ in _at(0, 0, 1.0))]

        def turned(angle: int = angle) -> Image.Image:
            matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), -angle, 1.0)
            return Image.fromarray(cv2.warpAffine(pixels(), matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE))

        yield scene(f"turned by {angle} degrees", "turned faces", turned, gone)


def choices() -> Iterator[Case]:
    """Which faces, which parts, and masks in and out."""
    large, small = _at(100, 40, 1000 / SIDE), _at(1500, 400, 0.5)
    kind = "which faces"
    yield scene("--faces largest", kind, _beside, large, small, ["--faces", "largest"])
    yield scene("--faces 1", kind, _beside, large, small, ["--faces", "1"])
    yield scene("--faces 2", kind, _beside, [*large, *small], (), ["--faces", "2"])
    yield scene("--faces all", kind, _beside, [*large, *small], (), ["--faces", "all"])
    kind = "which parts"
    eyes, mouth = _at(0, 0, 1.0)[:2], _at(0, 0, 1.0)[2:]
    yield scene("--parts lower", kind, portrait, mouth, eyes, ["--parts", "lower"])
    yield scene("--parts upper", kind, portrait, eyes, mouth, ["--parts", "upper", "--glasses", "off"])
    kind = "masks"

    def disc(folder: Path) -> None:
        mask = np.zeros((SIDE, SIDE), np.uint8)
        cv2.circle(mask, (296, 292), 40, 255, -1)
        Image.fromarray(mask).save(folder / "m.png")

    yield scene("--mask", kind, portrait, mouth, [*eyes, (30, 30, 20)], ["--mask", "m.png"], disc)

    def wrong_size(folder: Path) -> Sequence[str]:
        portrait().save(folder / "a.png")
        Image.new("L", (50, 60), 255).save(folder / "m.png")
        return ["erase", "a.png", "-o", "o.png", "--mask", "m.png"]

    yield Case("--mask of another size", kind, wrong_size, refused("expected 600 x 600", "o.png"))

    def out(folder: Path) -> Sequence[str]:
        portrait().save(folder / "a.png")
        return ["erase", "a.png", "-o", "o.png", "--mask-out", "m.png"]

    def judge(folder: Path, done: Done) -> str:
        need(done.code == 0, f"exit code {done.code}: {done.err[-200:]}")
        with Image.open(folder / "m.png") as picture:
            need(picture.mode == "L" and picture.size == (SIDE, SIDE), f"{picture.mode} {picture.size}")
            mask = np.array(picture)
        need(set(np.unique(mask)) == {0, 255}, "it is not black and white")
        changed = (_as_rgb(folder / "a.png") != _as_rgb(folder / "o.png")).any(axis=2)
        need(not (changed & (mask == 0)).any(), "something was changed outside of it")
        need(changed[mask == 255].mean() > 0.9, "it says more than was erased")
        return f"white where pixels changed, {100 * (mask > 0).mean():.1f} % of the picture"

    yield Case("--mask-out", kind, out, judge)


# --- videos ----------------------------------------------------------------------------------------------------------

Look = Callable[[Path, Path, Done], str]


def moving(
    name: str,
    kind: str,
    source: str,
    look: Look,
    target: str = "o.mp4",
    arguments: Sequence[str] = (),
    code: int = 0,
    write: Callable[[Path], object] | None = None,
    **options: Any,
) -> Case:
    """A video in, a video out; `look(source, result, done)` says what was seen."""

    def make(folder: Path) -> Sequence[str]:
        if write is not None:
            write(folder / source)
        else:
            film(folder / source, **options)
        return ["erase", source, "-o", target, *arguments]

    def judge(folder: Path, done: Done) -> str:
        need(done.code == code, f"exit code {done.code}: {done.err.strip()[-200:]}")
        a, b = folder / source, folder / target
        before, after = shown(a), shown(b)
        need(before.shape == after.shape, f"shown are {after.shape[2]} x {after.shape[1]}")
        need(after.mean() > 20, "black frames")
        gone = np.abs(before[0].astype(float) - after[0]).max(axis=2)
        need(float((gone > 25).mean()) > 0.005, "the face is still there")
        return look(a, b, done)

    return Case(name, kind, make, judge)


def _video(path: Path) -> Mapping[str, Any]:
    return of_kind(probe(path), "video")[0]


def _same(*fields: str) -> Look:
    """Fields of the video stream that have to be those of the source."""

    def look(a: Path, b: Path, done: Done) -> str:
        before, after = _video(a), _video(b)
        pairs = {field: (before.get(field), after.get(field)) for field in fields}
        off = [f"{field} {before} became {other}" for field, (before, other) in pairs.items() if before != other]
        need(not off, "; ".join(off))
        return ", ".join(f"{field} {after.get(field)}" for field in fields)

    return look


def _same_times(a: Path, b: Path, done: Done) -> str:
    before, after = moments(a), moments(b)
    need(len(before) == len(after), f"{len(after)} frames of {len(before)}")
    # Matroska has no negative times: what an AAC encoder puts before the sound shifts everything by 23 ms.
    all_by = after[0] - before[0]
    need(abs(all_by) < (0.03 if b.suffix == ".mkv" else 0.003), f"it begins {all_by:.3f} s off")
    late = max(abs(x - y + all_by) for x, y in zip(before, after, strict=True))
    need(late < 0.003, f"a frame is off by {late:.3f} s")
    return f"{len(after)} frames, off by {1000 * late:.1f} ms at most"


def _h264(a: Path, b: Path, done: Done) -> str:
    after, count, whole = _video(b), _count(b), _count(a)
    # ffprobe calls 4:2:0 of full range yuvj420p.
    codec = (after["codec_name"], after["pix_fmt"])
    need(codec in (("h264", "yuv420p"), ("h264", "yuvj420p")), " ".join(codec))
    need(count == whole, f"{count} frames of {whole}")
    return f"H.264, {count} frames"


def _said(text: str, look: Look) -> Look:
    def both(a: Path, b: Path, done: Done) -> str:
        need(text in done.said, f"not a word of {text!r}")
        return f"{look(a, b, done)}, said: {text}"

    return both


def _patch(colour: tuple[int, int, int]) -> Samples:
    """The portrait with a field of one colour in its upper left corner."""
    image = pixels()
    image[:80, :200] = colour
    return image


def _colour(colour: tuple[int, int, int], within: float = 4) -> Look:
    def look(a: Path, b: Path, done: Done) -> str:
        before, after = (shown(path)[0, 5:25, 20:60].reshape(-1, 3).mean(0) for path in (a, b))
        off = float(np.abs(before - after).max())
        need(off < within, f"{np.round(before)} became {np.round(after)}")
        return f"{colour} is shown as {np.round(after).astype(int).tolist()}, as in the source"

    return look


def _and(*looks: Look) -> Look:
    return lambda a, b, done: "; ".join(look(a, b, done) for look in looks)


def timing() -> Iterator[Case]:
    """When frames are shown."""
    kind = "times"
    slowing = [Fraction(k, 30) if k < 10 else Fraction(1, 3) + Fraction(k - 10, 10) for k in range(16)]
    for target in ("o.mp4", "o.mov", "o.mkv"):
        sound: Any = {"times": slowing, "count": 16, "sound": ["eng"]}
        yield moving(f"30 then 10 frames a second, {target[1:]}", kind, "a.mp4", _same_times, target, **sound)
    repeats = _said("varying times", lambda a, b, done: f"{len(moments(b))} frames of one rate")
    yield moving("30 then 10 frames a second, .avi", kind, "a.mp4", repeats, "o.avi", times=slowing, count=16)
    yield moving("pictures that begin after the sound", kind, "a.mp4", _same_times, begin=Fraction(1, 2), sound=["eng"])
    for rate in (Fraction(66667, 1000), Fraction(24000, 1001), Fraction(12), Fraction(120)):
        look = _and(_same_times, _same("avg_frame_rate"))
        yield moving(f"{float(rate):.3f} frames a second", kind, "a.mp4", look, rate=rate)

    def trimmed(path: Path) -> None:
        import av

        film(path.with_name("whole.mp4"), count=40, options={"g": "300"})
        with av.open(str(path.with_name("whole.mp4"))) as source, av.open(str(path), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    assert packet.pts is not None
                    late = round(Fraction(1, 2) / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts - late, packet.dts - late, stream
                    target.mux(packet)

    yield moving("cut without encoding: frames that are not shown", "false alarms", "a.mp4", _same_times, write=trimmed)


def tags() -> Iterator[Case]:
    """Colours, and the tags that say what they mean."""
    kind = "colour"
    green = (27, 199, 28)
    named = ("color_space", "color_primaries", "color_transfer", "color_range")
    for name, tagged in {"BT.709": (1, 1, 1, 1), "BT.601": (6, 6, 6, 1), "full range": (1, 1, 1, 2)}.items():
        for target in ("o.mp4", "o.mkv"):
            look = _and(_same(*named), _colour(green))
            yield moving(f"{name}, {target[1:]}", kind, "a.mp4", look, target, colours=tagged, image=_patch(green))
    yield moving("untagged", kind, "a.mp4", _and(_same(*named), _colour(green)), image=_patch(green))
    hdr: Any = {"colours": (9, 9, 18, 1), "form": "yuv420p10le", "image": _patch(green)}
    deep = _and(_same(*named, "pix_fmt"), _colour(green))
    yield moving("BT.2020, HLG, 10 bits, .mkv", kind, "a.mp4", deep, "o.mkv", **hdr)
    eight = _said("10 bits a channel became 8", _and(_same(*named), _colour(green, 6)))
    yield moving("BT.2020, HLG, 10 bits, .mp4", kind, "a.mp4", eight, **hdr)
    field: Any = {"colours": (1, 1, 1, 1), "image": _patch(green)}
    yield moving("BT.709 to Motion JPEG", kind, "a.mp4", _colour(green, 6), "o.avi", **field)


def shapes() -> Iterator[Case]:
    """Pixel shape, rotation, interlacing."""
    kind = "pixel shape"
    for shape in (Fraction(64, 45), Fraction(10, 11)):
        yield moving(f"{shape}", kind, "a.mp4", _same("sample_aspect_ratio"), shape=shape)
    kind = "rotation"
    unit = 65536
    matrices = {90: (0, -unit, 0, unit, 0, 0), 180: (-unit, 0, 0, 0, -unit, 0), 270: (0, unit, 0, -unit, 0, 0)}
    for turn, numbers in matrices.items():
        matrix = [*numbers, 0, 0, 1 << 30]
        # Stored so that it is upright when it is shown turned.
        quarters = {90: 3, 180: 2, 270: 1}[turn]
        stored = np.ascontiguousarray(np.rot90(pixels(), quarters))

        def look(a: Path, b: Path, done: Done) -> str:
            before, after = shown(a)[0].astype(float), shown(b)[0].astype(float)
            off = float(np.abs(before[:40] - after[:40]).mean())
            need(off < 4, f"it is shown turned otherwise: {off:.0f} levels")
            return "shown as the source is"

        for target in ("o.mp4", "o.mkv"):
            name = f"{turn} degrees, {target[1:]}"
            yield moving(name, kind, "a.mp4", look, target, matrix=matrix, image=stored, size=(240, 240))
    kind = "interlaced"
    weave: Any = {"interlaced": True, "size": (720, 576), "rate": Fraction(25), "shape": Fraction(64, 45), "count": 6}
    yield moving("MPEG-2", kind, "a.mpg", _same("sample_aspect_ratio", "width", "height"), codec="mpeg2video", **weave)
    fields = _same("field_order", "sample_aspect_ratio")
    yield moving("H.264", kind, "a.ts", fields, options={"x264-params": "tff=1"}, **weave)


def _languages(a: Path, b: Path, done: Done) -> str:
    same = {"ger": "deu", None: "und"}  # .mov knows German by its older code, and no language at all as such
    languages = ([stream.get("tags", {}).get("language") for stream in of_kind(probe(path), "audio")] for path in (a, b))
    before, after = ([same.get(language, language) for language in stream] for stream in languages)
    need(before == after, f"sound in {before} became {after}")
    return f"sound in {', '.join(map(str, after))}"


def _with_text(path: Path) -> None:
    """A video with sound, subtitles and two chapters."""
    import av

    text = path.with_name("a.srt")
    text.write_text("1\n00:00:00,000 --> 00:00:00,300\nhello\n\n2\n00:00:00,300 --> 00:00:00,390\nagain\n")
    marks = [
        {"id": k, "start": 200 * k, "end": 200 * k + 200, "time_base": Fraction(1, 1000), "metadata": {"title": f"part {k}"}}
        for k in range(2)
    ]
    film(path.with_name("plain.mkv"), sound=["deu", "fra"], chapters=marks, options={"bf": "0"})
    with av.open(str(path.with_name("plain.mkv"))) as source, av.open(str(text)) as lines, av.open(str(path), "w") as target:
        target.set_chapters(source.chapters())
        ways: dict[Any, Any] = {}
        for stream in [*source.streams, *lines.streams]:
            ways[stream] = target.add_stream_from_template(stream, opaque=True)
            ways[stream].metadata["language"] = stream.language or "eng"
        packets = [packet for file in (source, lines) for packet in file.demux(*file.streams) if packet.size]
        for packet in sorted(packets, key=lambda packet: (packet.pts or 0) * packet.time_base):
            packet.dts, packet.stream = packet.pts, ways[packet.stream]
            target.mux(packet)


def _chapters(a: Path, b: Path, done: Done) -> str:
    before, after = ([(c["start_time"][:5], c["tags"]["title"]) for c in probe(path)["chapters"]] for path in (a, b))
    need(len(after) == 2 and before == after, f"chapters {before} became {after}")
    return f"{len(after)} chapters"


def _texts(count: int) -> Look:
    def look(a: Path, b: Path, done: Done) -> str:
        subtitles = of_kind(probe(b), "subtitle")
        need(len(subtitles) == count, f"{len(subtitles)} subtitle tracks, expected {count}")
        need(all(stream["tags"].get("language") == "eng" for stream in subtitles), "its language is gone")
        return f"{count} subtitle tracks"

    return look


def tracks() -> Iterator[Case]:
    """Sound: copied, or named."""
    kind = "sound"
    for target in ("o.mp4", "o.mkv", "o.mov"):
        yield moving(f"two languages, {target[1:]}", kind, "a.mp4", _languages, target, sound=["deu", "fra"])

    def long(a: Path, b: Path, done: Done) -> str:
        before, after = (float(of_kind(probe(path), "audio")[0]["duration"]) for path in (a, b))
        need(abs(before - after) < 0.06, f"{before:.2f} s of sound became {after:.2f}")
        return f"{after:.2f} s of sound"

    yield moving("as long as it was", kind, "a.mp4", long, sound=["eng"], count=24)

    def mp3(a: Path, b: Path, done: Done) -> str:
        (sound,) = of_kind(probe(b), "audio")
        need(sound["codec_name"] == "mp3" and abs(float(sound["duration"]) - 0.4) < 0.1, f"{sound['codec_name']}")
        return "one track of MP3, as long as it was"

    yield moving("Opus to .avi", kind, "a.mkv", _said("encoded anew", mp3), "o.avi", sound=["eng"], sound_codec="libopus")
    yield moving("PCM to .mp4", kind, "a.mov", _languages, sound=["deu"], sound_codec="pcm_s16le")

    def unknown(path: Path) -> None:
        film(path, sound=["deu", "fra"])
        data = path.read_bytes()
        at = data.rindex(b"mp4a")  # the second track's sample description, and what is in it
        more = data.index(b"esds", at)
        path.write_bytes(data[:at] + b"apac" + data[at + 4 : more] + b"dapa" + data[more + 4 :])

    def kept(a: Path, b: Path, done: Done) -> str:
        kept_streams = of_kind(probe(b), "audio")
        need(len(kept_streams) == 1 and kept_streams[0]["codec_name"] == "aac", f"{len(kept_streams)} sound tracks")
        return "the track that is known was kept"

    yield moving("one of two tracks unknown", kind, "a.mp4", _said("sound track 2", kept), write=unknown)


def texts() -> Iterator[Case]:
    """Subtitles, chapters, cover pictures, metadata."""
    kind = "subtitles and chapters"
    yield moving("SubRip, .mkv", kind, "a.mkv", _and(_texts(1), _chapters, _languages), "o.mkv", write=_with_text)
    yield moving("SubRip, .mp4", kind, "a.mkv", _said("subtitle track 1", _and(_chapters, _languages)), write=_with_text)

    def covered(path: Path) -> None:
        import av

        film(path.with_name("plain.mp4"), sound=["eng"])
        portrait().resize((200, 200)).save(path.with_name("cover.jpg"))
        plain, cover = path.with_name("plain.mp4"), path.with_name("cover.jpg")
        with av.open(str(plain)) as source, av.open(str(cover)) as art, av.open(str(path), "w") as target:
            ways = {stream: target.add_stream_from_template(stream, opaque=True) for stream in source.streams}
            picture = target.add_stream_from_template(art.streams.video[0], opaque=True)
            picture.disposition = av.stream.Disposition.attached_pic
            for packet in art.demux():
                if packet.dts is not None:
                    packet.stream = picture
                    target.mux(packet)
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = ways[packet.stream]
                    target.mux(packet)

    def bare(a: Path, b: Path, done: Done) -> str:
        need(len(of_kind(probe(a), "video")) == 2 and len(of_kind(probe(b), "video")) == 1, "its cover came along")
        return "the cover, which shows the face, is not in it"

    yield moving("a cover picture", kind, "a.mp4", _said("cover picture", bare), write=covered)
    kind = "metadata"
    about = {"title": "a walk", "location": "+48.1+011.5/"}

    def has(title: bool, place: bool) -> Look:
        def look(a: Path, b: Path, done: Done) -> str:
            tags = probe(b)["format"].get("tags", {})
            need(("title" in tags) == title, f"its title is {tags.get('title')}")
            need(any("location" in name.lower() for name in tags) == place, f"tags {sorted(tags)}")
            return f"title {'kept' if title else 'left out'}, place {'kept' if place else 'left out'}"

        return look

    both = ["--keep-metadata", "--keep-gps"]
    yield moving("a video's place and title", kind, "a.mp4", has(False, False), metadata=about)
    yield moving("a video's, --keep-metadata", kind, "a.mp4", has(True, False), arguments=both[:1], metadata=about)
    yield moving("a video's, --keep-gps too", kind, "a.mp4", has(True, True), arguments=both, metadata=about)


def kinds() -> Iterator[Case]:
    """Containers and codecs that people have."""
    kind = "containers"
    for source, codec, pixel_format in (
        ("a.mov", "libx264", "yuv420p"),
        ("a.mkv", "libx264", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.ts", "libx264", "yuv420p"),
        ("a.mpg", "mpeg2video", "yuv420p"),
        ("a.flv", "flv", "yuv420p"),
        ("a.wmv", "wmv2", "yuv420p"),
        ("a.3gp", "mpeg4", "yuv420p"),
        ("b.avi", "mjpeg", "yuvj420p"),
        ("b.mov", "prores_ks", "yuv422p10le"),
        ("b.mkv", "ffv1", "yuv444p"),
        ("c.mkv", "ffv1", "gray"),
        ("c.mov", "qtrle", "rgb24"),
        ("d.mkv", "ffv1", "bgr0"),
        ("d.mp4", "libx265", "yuv420p"),
    ):
        yield moving(
            f"{codec} {pixel_format} in {source[1:]}",
            kind,
            source,
            _h264,
            codec=codec,
            pixel_format=pixel_format,
            rate=Fraction(25),
        )


def lossless() -> Iterator[Case]:
    """Pixel formats that .mkv keeps; what other endings lose is said."""
    kind = "lossless"

    def exact(a: Path, b: Path, done: Done) -> str:
        before, after = shown(a)[0].astype(int), shown(b)[0].astype(int)
        off = np.abs(before[:20] - after[:20]).max()
        need(off == 0, f"off by {off} levels far from the face")
        return f"{_video(b)['pix_fmt']}, bit-identical far from the face"

    for pixel_format in ("yuv420p", "yuv422p", "yuv444p", "yuva420p", "yuv420p10le", "gray", "bgr0"):
        look = exact if pixel_format == "bgr0" else _and(exact, _same("pix_fmt"))
        yield moving(f"{pixel_format} to .mkv", kind, "a.mkv", look, "o.mkv", codec="ffv1", pixel_format=pixel_format)
    yield moving("transparency to .mp4", kind, "a.mkv", _said("transparency", _h264), codec="ffv1", pixel_format="yuva420p")
    yield moving("odd size to .mkv", kind, "a.mkv", _same("width", "height"), "o.mkv", codec="ffv1", size=(321, 241))

    def odd(folder: Path) -> Sequence[str]:
        film(folder / "a.mkv", codec="ffv1", size=(321, 241))
        return ["erase", "a.mkv", "-o", "o.mp4"]

    def even(folder: Path, done: Done) -> str:
        need(done.code == 0 and "odd last row or column" in done.said, done.err[-200:])
        need((_video(folder / "o.mp4")["width"], _video(folder / "o.mp4")["height"]) == (320, 240), "another size")
        return "320 x 240 of 321 x 241, said"

    yield Case("odd size to .mp4", kind, odd, even)


def named() -> Iterator[Case]:
    """Quality, and names that look like something else."""
    kind = "quality"

    def twice(folder: Path) -> Sequence[str]:
        film(folder / "a.mp4")
        film(folder / "b.mp4")
        cli.main(["erase", "a.mp4", "-o", "low.mp4", "--quality", "30"])
        return ["erase", "b.mp4", "-o", "high.mp4", "--quality", "90"]

    def smaller(folder: Path, done: Done) -> str:
        low, high = ((folder / name).stat().st_size for name in ("low.mp4", "high.mp4"))
        need(low < 0.5 * high, f"{low} and {high} bytes")
        return f"30 takes {low} bytes, 90 takes {high}"

    yield Case("--quality of a video", kind, twice, smaller)
    kind = "names"
    odd = (("12:30.mp4", "o.mp4"), ("a.mp4", "meeting:2.mp4"), ("http:a.mp4", "o.mp4"), ("a%03d.mp4", "o.mp4"))
    for source, target in odd:
        yield moving(f"{source} to {target}", kind, source, _h264, target)


def _half(ending: str, share: float = 0.6) -> Callable[[Path], None]:
    """A maker of a video that is cut short; an .mp4 is one whose index stands first."""
    import av

    def write(path: Path) -> None:
        whole = path.with_name(f"whole{ending}")
        codec = {".avi": "mpeg4", ".mkv": "libx264"}.get(ending, "libx264")
        if ending == ".mp4":
            film(path.with_name("plain.mp4"), count=40)
            fast = {"movflags": "+faststart"}
            plain = str(path.with_name("plain.mp4"))
            with av.open(plain) as source, av.open(str(whole), "w", options=fast) as target:
                stream = target.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.dts is not None:
                        packet.stream = stream
                        target.mux(packet)
        else:
            film(whole, codec=codec, count=40)
        data = whole.read_bytes()
        path.write_bytes(data[: round(len(data) * share)])

    return write


def damage() -> Iterator[Case]:
    """Files that are cut short, empty of pictures or of faces."""
    kind = "damage"

    def so_far(a: Path, b: Path, done: Done) -> str:
        need("cut short" in done.err and "what could be read is in" in done.err, done.err[-200:])
        count = len(moments(b))
        need(2 <= count < 40, f"{count} frames of 40")
        return f"refused: it is cut short; {count} of 40 frames done, said"

    for ending in (".mp4", ".mkv", ".avi"):
        yield moving(f"cut short, {ending}", kind, f"a{ending}", so_far, write=_half(ending), code=2)

    def no_index(folder: Path) -> Sequence[str]:
        film(folder / "whole.mp4")
        (folder / "a.mp4").write_bytes((folder / "whole.mp4").read_bytes()[:2000])
        return ["erase", "a.mp4"]

    yield Case("an .mp4 without its index", kind, no_index, refused("is no video", "a-erased.mp4"))

    def text(folder: Path) -> Sequence[str]:
        (folder / "a.mp4").write_text("no video\n" * 500)
        return ["erase", "a.mp4"]

    yield Case("text called .mp4", kind, text, refused("is no video", "a-erased.mp4"))

    def deaf(folder: Path) -> Sequence[str]:
        import av

        with av.open(str(folder / "a.mp4"), "w") as target:
            _tone(target, _sound(target, "eng", "aac"), 1.0)
        return ["erase", "a.mp4"]

    yield Case("sound alone", kind, deaf, refused("no pictures", "a-erased.mp4"))

    def faceless(folder: Path) -> Sequence[str]:
        film(folder / "a.mp4", image=np.full((SIDE, SIDE, 3), 90, np.uint8))
        return ["erase", "a.mp4"]

    yield Case("no face in it", kind, faceless, refused("no face found", "a-erased.mp4"))


GROUPS = (
    modes,
    depths,
    colours,
    facts,
    containers,
    phones,
    commands,
    folders,
    people,
    choices,
    timing,
    tags,
    shapes,
    tracks,
    texts,
    kinds,
    lossless,
    named,
    damage,
)


# --- the run ---------------------------------------------------------------------------------------------------------


def cases() -> list[Case]:
    """All of them."""
    return [case for group in GROUPS for case in group()]


def run(case: Case) -> dict[str, Any]:
    """Make the input, run the command on it, judge: a row."""
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        out, err = io.StringIO(), io.StringIO()
        os.chdir(folder)
        try:
            said = case.make(folder)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = cli.main(list(said))
            why = case.judge(folder, Done(code, out.getvalue(), err.getvalue()))
            verdict = "refused" if why.startswith("refused") else "right"
        except Wrong as error:
            verdict, why = "wrong", str(error)
        except Exception as error:  # a row for whatever happens: a run of an hour does not end at its first surprise
            verdict, why = "wrong", f"{type(error).__name__}: {error}"
        finally:
            os.chdir(home)
    plain = " ".join(why.replace(str(folder), "").split())
    return {"name": f"{case.kind}: {case.name}", "kind": case.kind, "verdict": verdict, "why": plain[:300]}


def work(args: Namespace) -> int:
    """All cases, a table, a result file. The exit code."""
    wanted = [case for case in cases() if args.only in f"{case.kind}: {case.name}"]
    if not wanted:
        raise ValueError(f"--only {args.only}: no case has this in its name; expected part of one, such as 'metadata'")
    if missing := [tool for tool in ("ffmpeg", "ffprobe") if shutil.which(tool) is None]:
        raise FileNotFoundError(f"{missing[0]} is not on the PATH; it reads the videos that come out; install ffmpeg")
    rows = [run(case) for case in tqdm(wanted, desc="wild", disable=None)]
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        print(f"{row['name']:<{width}}  {row['verdict']:<7}  {row['why']}")
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in ("right", "refused", "wrong")}
    if args.json:
        results.write_result(args.json, results.result(rows, None, args.command))
    print(json.dumps(counts))
    return 1 if counts["wrong"] else 0


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="wild.py", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose name has this in it (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    args.command = ["python", "benchmarks/wild.py", *(sys.argv[1:] if argv is None else argv)]
    try:
        return work(args)
    except (ValueError, OSError) as error:
        print(f"wild.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

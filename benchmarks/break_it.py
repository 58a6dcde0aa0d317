"""Break it: kill every stage that writes, feed every reader what is damaged or absurd, and let it run for long.

    python benchmarks/break_it.py --minutes 30 --seed 1 --json benchmarks/results/break_it.json

`kills`: a stage runs in a child that gets kill -9 (or SIGTERM or Ctrl-C) at a random moment: at one of its calls that
write, or after some of its processor time. Then every final path has to be whole or absent, the same command (with
--resume) has to end with the bytes of an unbroken run, times and dates excepted, nothing may be left lying, and no child
process may be left alive: `n` (kill -9), `stops`, `lost`, by stage; `exporters` is the same for what converts. `inputs`:
damaged by bits, cuts, splices and lengths that lie, and whole files and folders with absurd content; each is read in a
child that is watched: `n`, `tracebacks` (whatever is not the one clear line of a ValueError or OSError, a crash of the
process among them), `hangs` (10 s of processor time), `over_2gb`, `believed` (damage that a checksum or another reader
shows, and we did not). `server`: requests on the loopback. `circumstances`: a full disk, a read-only folder, no
permission, no home, no network, a clock set back, two commands at once: each ends in one line or with all that it makes.
`soak`: a long clip through `faceeraser erase`, and calls from 8 threads: `n`, `growth` of memory after warm-up, `same`
bytes as one thread's. The parts share the minutes; what does not come to its full number says so by its `n`.
docs/reliability.md tells what is promised.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import functools
import hashlib
import importlib.util
import io
import itertools
import json
import math
import mmap
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from faceeraser import cli, inspecting, jobs, serve, shipped
from faceeraser.artifacts import contents
from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.card import SCHEMA_FILE, card_path, read_card, write_card
from faceeraser.artifacts.runtimes import ports_of
from faceeraser.erasing import Eraser
from faceeraser.face import effects, landmarks, picture, video
from faceeraser.face.mesh import Face
from faceeraser.measurement import device, results, timings
from faceeraser.model import checkpoint, pairs
from faceeraser.system import chain, script
from faceeraser.training import splits

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("inputs", "kills", "exporters", "server", "circumstances", "soak")
INPUTS, KILLS, LEAST_KILLS, FRAMES, CALLS = 10_000, 100, 5, 20_000, 2_000
PATIENCE_S = 10.0  # of processor time, for one input
MOST_BYTES = 2 << 30


# --- inputs: what is done to them -----------------------------------------------------------------------------------


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A file with bits flipped, cut, spliced, blanked, or with lengths that lie."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at, size = chance.randrange(len(changed) or 1), chance.choice((1, 2, 4, 16, 64, 1024))
        if chance.random() < 0.4:  # the head, where a file says what it is
            at = chance.randrange(min(len(changed), 200) or 1)
        what = chance.randrange(7)
        if what == 0:
            for _ in range(chance.choice((1, 3, 8))):
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        elif what == 1:
            del changed[at:]
        elif what == 2:
            from_ = chance.randrange(len(changed))
            changed[at : at + size] = changed[from_ : from_ + size]
        elif what == 3:
            changed[at : at + size] = bytes(min(size, len(changed) - at))
        elif what == 4:
            lie = chance.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, len(changed), 10**9))
            changed[at : at + 4] = struct.pack(chance.choice("<>") + "I", lie)
        elif what == 5:
            changed[at:at] = chance.randbytes(size)
        else:
            del changed[at : at + size]
        if not changed:
            break
    return bytes(changed)


ABSURD: Sequence[Any] = (
    None, True, -1, 0, 10**9, -(10**18), 1e308, -1e308, 1e-308, 0.5, "", "x", "../../../etc/passwd", "/etc/passwd", "a\0b",
    "\u202e", "9" * 400, [], {}, [[]], [None], {"": 0}, [0] * 1000, "NaN", [1e308] * 3,
)  # fmt: skip


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a JSON value."""
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def absurd_json(data: bytes, chance: random.Random) -> bytes:
    """JSON whose content nobody means: other types, sizes and names, names twice, deep nesting, numbers that are none."""
    value = json.loads(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = list(itertools.islice(_places(value), 4000))
        if not places:
            break
        holder, key = chance.choice(places)
        what = chance.randrange(5)
        if what == 0 and isinstance(holder, dict):
            del holder[key]
        elif what == 1 and isinstance(holder, dict):
            holder[chance.choice(("x", "../x", "__class__", ""))] = holder.pop(key)
        elif what == 2 and isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[key] = json.loads(json.dumps(chance.choice(ABSURD)))
    text = json.dumps(value)
    whole = chance.randrange(12)
    if whole == 0:
        return (b"[" * 200_000) + text.encode()
    if whole == 1 and text.startswith('{"'):
        return b"{" + text[1 : text.index(":")].encode() + b": 0, " + text[1:].encode()
    if whole == 2:
        for old in ("1", "0"):
            text = text.replace(f" {old}", chance.choice((" NaN", " Infinity", " 1e999", " -Infinity")), 1)
    return text.encode()


def absurd_table(data: bytes, chance: random.Random) -> bytes:
    """A CSV with names that lead elsewhere, missing cells, huge cells and other numbers."""
    lines = data.decode().splitlines()
    for _ in range(chance.choice((1, 2))):
        number = chance.randrange(len(lines))
        cells = lines[number].split(",")
        cells[chance.randrange(len(cells))] = chance.choice(
            ("../../../etc/passwd", "/etc/hostname", "", '"', "x" * 200_000, "nan", "-1", "1e400", "\0", "blanks", "\r", "é")
        )
        lines[number] = ",".join(cells[: chance.choice((1, len(cells), len(cells)))])
    return "\n".join(lines).encode()


def absurd_text(data: bytes, chance: random.Random) -> bytes:
    """Output of a tool whose lines are missing, twice, in another order, or have other numbers."""
    lines = data.decode().splitlines()
    for _ in range(chance.choice((1, 2, 3))):
        at, what = chance.randrange(len(lines)), chance.randrange(4)
        if what == 0:
            del lines[at]
        elif what == 1:
            lines.insert(at, chance.choice(lines))
        elif what == 2:
            chance.shuffle(lines)
        else:
            numbers = [k for k, c in enumerate(lines[at]) if c.isdigit()]
            if numbers:
                k = chance.choice(numbers)
                new = chance.choice(("9", "0", "-", "", "²", "1e400", "nan", "9" * 300))
                lines[at] = lines[at][:k] + new + lines[at][k + 1 :]
        if not lines:
            break
    return "\n".join(lines).encode()


def absurd_picture(data: bytes, chance: random.Random) -> bytes:
    """A picture whose head, checksum and all, says that it has other sides: none, or thousands of millions."""
    sides = [chance.choice((0, 1, 2**16 - 1, 10**6, 10**9, 2**31 - 1, 2**32 - 1)) for _ in range(2)]
    changed = bytearray(data)
    if data.startswith(b"\x89PNG"):
        changed[16:24] = struct.pack(">2I", *sides)
        changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
    elif data.startswith(b"GIF8"):
        changed[6:10] = struct.pack("<2H", *(side & 0xFFFF for side in sides))
    elif data.startswith(b"BM"):
        changed[18:26] = struct.pack("<2I", *sides)
    elif (at := data.find(b"\xff\xc0")) > 0:  # a JPEG's start of frame
        changed[at + 5 : at + 9] = struct.pack(">2H", *(side & 0xFFFF for side in sides))
    else:
        return mutated(data, chance)
    return bytes(changed)


STRUCTURE = b"not bytes, but: "
"""What a file begins with that stands for a change of the folder that it is in."""


def _sparse(file: Path) -> None:
    os.truncate(file, 10**12)  # of which the disk has nothing


def _instead(file: Path, make: Callable[[Path], Any]) -> None:
    file.unlink(missing_ok=True)
    make(file)


PACKAGES: Mapping[str, Callable[[Path, Path, Path], Any]] = {
    "a model of a terabyte": lambda package, model, weights: _sparse(model),
    "weights of a terabyte": lambda package, model, weights: _sparse(weights),
    "a model that is a link to itself": lambda package, model, weights: _instead(model, lambda at: at.symlink_to(at.name)),
    "a model elsewhere": lambda package, model, weights: _instead(model, lambda at: at.symlink_to("/etc/hostname")),
    "a folder in itself": lambda package, model, weights: (package / "Data" / "more").symlink_to(package),
    "a pipe": lambda package, model, weights: _instead(model, os.mkfifo),
    "a folder as model": lambda package, model, weights: _instead(model, Path.mkdir),
    "no weights": lambda package, model, weights: shutil.rmtree(weights.parent),
    "a manifest that is a pipe": lambda package, model, weights: _instead(package / "Manifest.json", os.mkfifo),
    "a way out": lambda package, model, weights: _renamed(package, "../../../../../../etc/passwd"),
    "another place": lambda package, model, weights: _renamed(package, "/etc/passwd"),
    "a name of a megabyte": lambda package, model, weights: _renamed(package, "x" * 1_000_000),
    "no name": lambda package, model, weights: _renamed(package, "\0"),
}
"""What is done to a package, of its folder, its model and its weights."""


def _renamed(package: Path, name: str) -> None:
    manifest = package / "Manifest.json"
    told = json.loads(manifest.read_text())
    for item in told["itemInfoEntries"].values():
        item["path"] = name
    manifest.write_text(json.dumps(told))


FOLDERS: Mapping[str, Callable[[Path], Any]] = {
    "a folder in itself": lambda folder: (folder / "more").symlink_to(folder),
    "a link to itself": lambda folder: (folder / "b.png").symlink_to("b.png"),
    "a link to nothing": lambda folder: (folder / "b.jpg").symlink_to("nothing.jpg"),
    "a pipe": lambda folder: os.mkfifo(folder / "b.png"),
    "a folder as picture": lambda folder: (folder / "b.jpg").mkdir(),
    "a long name": lambda folder: (folder / ("x" * 251 + ".png")).write_bytes(b"x"),
    "an odd name": lambda folder: (folder / "\u202e\t\x1b[31m.png").write_bytes(b"x"),
    "bytes as name": lambda folder: Path(os.fsdecode(bytes(folder) + b"/\xff\xfe.png")).write_bytes(b"x"),
    "a picture of a terabyte": lambda folder: _sparse(Path(shutil.copy(folder / "a.png", folder / "b.png"))),
    "a film of nothing": lambda folder: (folder / "b.mp4").touch(),
    "the memory of this process": lambda folder: (folder / "b.png").symlink_to("/proc/self/mem"),
    "zeros without end": lambda folder: (folder / "b.png").symlink_to("/dev/zero"),
    "a hundred folders": lambda folder: (folder / "/".join(["x"] * 100)).mkdir(parents=True),
}
"""What is done to a folder of photographs."""


def structure_of(known: Mapping[str, Any]) -> Callable[[bytes, random.Random], bytes]:
    """Changes by name, beside those of JSON and bytes."""

    def change(data: bytes, chance: random.Random) -> bytes:
        if chance.random() < 0.5:
            return STRUCTURE + chance.choice(list(known)).encode()
        return absurd_json(data, chance) if data.lstrip()[:1] in (b"{", b"[") else mutated(data, chance)

    return change


@dataclass(frozen=True)
class Kind:
    """One kind of input: its whole files, what absurd ones are made by, how one is read, and whether it was believed.

    read: (the broken file, the whole one's bytes) -> what is wrong that we did not see, or "".
    """

    name: str
    files: Sequence[Path]
    read: Callable[[Path, bytes], str]
    share: int
    absurd: Callable[[bytes, random.Random], bytes] = mutated
    sparse: bool = True
    """One in thirty has a terabyte, of which the disk has only the beginning."""


# --- inputs: the whole ones, and how each is read -------------------------------------------------------------------


def whole_pictures(folder: Path) -> list[Path]:
    """Small pictures of every format and mode that is read."""
    chance = np.random.default_rng(0)
    shades = chance.integers(0, 255, (40, 48, 3), np.uint8)
    base, pictures = Image.fromarray(shades), []

    def add(name: str, image: Image.Image, **options: Any) -> None:
        image.save(folder / name, **options)
        pictures.append(folder / name)

    for name in ("a.png", "a.jpg", "a.gif", "a.bmp", "a.webp", "a.tif", "a.jp2", "a.avif"):
        add(name, base)
    add("l.png", base.convert("L"))
    add("la.png", base.convert("LA"))
    add("p.png", base.convert("P"))
    add("i16.png", Image.fromarray(chance.integers(0, 65535, (40, 48), np.uint16)))
    add("cmyk.tif", base.convert("CMYK"), compression="tiff_lzw")
    add("cmyk.jpg", base.convert("CMYK"))
    add("prog.jpg", base, progressive=True, exif=Image.Exif().tobytes())
    add("many.gif", base, save_all=True, append_images=[base.rotate(90 * k) for k in range(3)], duration=40)
    add("many.png", base, save_all=True, append_images=[base.rotate(180)], duration=40)
    add("many.tif", base, save_all=True, append_images=[base.rotate(180)])
    with picture.writing(folder / "deep.png") as put:
        put(picture.Page(shades.astype(np.uint16) * 257, "RGB", 65535.0, None))
    return [*pictures, folder / "deep.png"]


def read_picture(path: Path, _whole: bytes) -> str:
    """Every image of a file, compared with what Pillow says of it."""
    source = picture.opened(path)
    try:
        pages = list(itertools.islice(source.pages(), 20))
    finally:
        source.close()
    if any(page.image.shape[2] != 3 for page in pages):
        return "a page that is no picture"
    try:
        with Image.open(path) as other:
            for number, page in zip(source._numbers, pages, strict=False):
                other.seek(number)
                other.load()
                upright = page.samples.shape[:2] in (other.size, other.size[::-1])
                if not upright:
                    return f"{page.samples.shape} where Pillow sees {other.size}"
                plain = other.mode == page.mode == "RGB" and page.samples.dtype == np.uint8 and not other.getexif()
                if plain and not np.array_equal(np.asarray(other), page.samples):
                    return "other pixels than Pillow's"
    except Exception as error:  # whatever Pillow raises says that the file is damaged
        return f"read, and Pillow says {type(error).__name__}: {error}"
    return ""


def whole_videos(folder: Path) -> list[Path]:
    """Clips of ten small frames in every container that is written."""
    chance, videos = np.random.default_rng(0), []
    for name in ("a.mp4", "a.mkv", "a.avi", "a.mov"):
        with video.writing(folder / name, 10) as write:
            for _ in range(10):
                write(chance.integers(0, 255, (32, 48, 3), np.uint8))
        videos.append(folder / name)
    return videos


def read_video(path: Path, _whole: bytes) -> str:
    """Every frame of a clip, compared with what PyAV alone says of it."""
    import av

    clip = video.Clip(path)
    count = sum(1 for _ in itertools.islice(clip, 200))
    clip.container.close()
    if clip.damage:
        return ""
    seen, wrong = 0, ""
    with av.open(str(path)) as other:
        try:
            for _frame in other.decode(other.streams.video[0]):
                seen += 1
                if seen >= 200:
                    break
        except av.error.InvalidDataError:
            wrong = ""  # packets before the first key frame; counted by frames
        except av.error.FFmpegError as error:
            wrong = str(error)
    if wrong or seen > count:
        return f"{count} frames without a word, PyAV has {seen} and says {wrong or 'nothing'}"
    return ""


def read_landmarks(path: Path, _whole: bytes) -> str:
    """A landmarks file, and the faces of its frames."""
    points_read = landmarks.read(path)
    for number in range(min(len(points_read), 5)):
        if not all(np.isfinite(face.mesh).all() for face in points_read[number]):
            return "a mesh of numbers that are none"
    return "" if len(points_read) == len(json.loads(path.read_bytes())["frames"]) else "another number of frames"


def read_effects(path: Path, _whole: bytes) -> str:
    """A file of effects, one of them laid on a small face."""
    face = Face((landmarks._mean_face() * 20 + [48, 40]).astype(np.float32))
    grey = np.full((96, 96, 3), 128, np.uint8)
    for effect in list(effects.read(path).values())[:1]:
        if effects.apply(effect, grey, grey, face, "fast", path.parent).shape != grey.shape:
            return "another size"
    return ""


def card_beside(path: Path, whole: bytes) -> str:
    """A card beside a model that is whole."""
    from jsonschema import Draft202012Validator

    model = path.with_suffix("")
    card = read_card(model)
    schema = json.loads(SCHEMA_FILE.read_text())
    if error := next(Draft202012Validator(schema).iter_errors(card), None):
        return f"a card that its schema refuses: {error.message[:100]}"
    inspecting._card_facts(card, {"operators": {}})
    return "" if card["sha256"] == json.loads(whole)["sha256"] else "a card of another file"


def read_model(path: Path, whole: bytes) -> str:
    """A model whose card is whole: refused, unless it is the same."""
    Artifact(path, threads=1)
    return "" if path.read_bytes() == whole else "a damaged model was loaded"


def read_bare_model(path: Path, whole: bytes) -> str:
    """A model without a card: described, if it can be loaded at all; the command lives on."""
    ports_of(path)
    contents.listing(path)
    return ""


def read_weights(path: Path, whole: bytes) -> str:
    """A checkpoint folder whose weights are damaged."""
    description = inspecting.read_checkpoint(path.parent)
    checkpoint.load(path.parent)
    return "" if path.read_bytes() == whole else f"damaged weights were loaded ({len(description)})"


def read_folder(path: Path, _whole: bytes) -> str:
    """A checkpoint folder whose config, history or scales are damaged."""
    inspecting._checkpoint_facts(description := inspecting.read_checkpoint(path.parent))
    inspecting._history_rows(description["history"])
    network = checkpoint.load(path.parent)
    finite = all(bool(value.isfinite().all()) for value in network.state_dict().values() if value.is_floating_point())
    return "" if finite and 1 <= network.config.resolution <= 1 << 14 else "a network of numbers that are none"


def read_table(path: Path, _whole: bytes) -> str:
    """A prepared folder whose lists are damaged."""
    listed = pairs.evaluation_pairs(path.parent, "eval", 32, limit=2)
    return "" if all(pair.truth.shape == (32, 32, 3) for pair in listed) else "pairs of another size"


def read_manifest(path: Path, _whole: bytes) -> str:
    """A manifest of somebody's photographs."""
    return "" if all(isinstance(file, str) for file in splits.read_photo_manifest(path)) else "names that are none"


def read_timing(path: Path, whole: bytes) -> str:
    """What benchmark_model printed."""
    figures, whole_figures = timings.read(path.read_text(errors="replace")), timings.read(whole.decode())
    near = abs(figures.avg_ms - whole_figures.avg_ms) <= 1e-3 * whole_figures.avg_ms
    return "" if near else f"{figures.avg_ms} ms instead of {whole_figures.avg_ms}"


def read_phone(path: Path, _whole: bytes) -> str:
    """What a phone answered."""
    state = device.read_state(path.read_text(errors="replace"))
    likely = {"battery": (0, 100), "battery_c": (-60, 150), "skin_c": (-60, 150), "throttling": (0, 6), "sdk": (1, 99)}
    for name, (low, high) in likely.items():
        if (value := getattr(state, name)) is not None and not low <= value <= high:
            return f"{name} is {value}"
    return ""


TIMING = """STARTED!
count=2 first=7401 curr=7390 min=7390 max=7401 avg=7395.5 std=5

count=50 first=7433 curr=7401 min=7390 max=7601 avg=7420 std=41 p5=7391 median=7415 p95=7500

Inference timings in us: Init: 2001, First inference: 7401, Warmup (avg): 7395.5, Inference (avg): 7420
Memory footprint delta from the start of the tool (MB): init=4.2 overall=9.1
"""
PHONE = """@@machine
aarch64
@@model
Pixel 6
@@android
14
@@sdk
34
@@qemu

@@cpus
0 1803000 1803000 schedutil
1 2253000 2253000 schedutil
2 2802000 2600000 schedutil
@@battery
Current Battery Service state:
  AC powered: false
  USB powered: true
  level: 83
  scale: 100
  temperature: 291
@@thermal
Thermal Status: 0
Current temperatures from HAL:
 Temperature{mValue=31.5, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
Current cooling devices from HAL:
@@saver
0
"""


def _beginning(path: Path) -> bytes:
    """As much of a file as can stand for a change of its folder; it may have a terabyte."""
    with open(path, "rb") as file:
        return file.read(100)


def read_package(path: Path, whole: bytes) -> str:
    """An .mlpackage without a card: described, or refused; one of which something leads elsewhere is refused."""
    package = next(above for above in path.parents if above.suffix == ".mlpackage")
    if not (structure := _beginning(path)).startswith(STRUCTURE):
        ports_of(package)
        contents.listing(package)
        return ""
    path.write_bytes(whole)
    other = package.with_name("other.mlpackage")
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(package, other)
    model = other / "Data" / "com.apple.CoreML" / "model.mlmodel"
    PACKAGES[structure.removeprefix(STRUCTURE).decode()](other, model, model.parent / "weights" / "weight.bin")
    ports_of(other)
    contents.listing(other)
    return f"{structure.decode()} was read"


def read_carded_package(path: Path, whole: bytes) -> str:
    """The same with a card: refused, unless it is the same."""
    package = next(above for above in path.parents if above.suffix == ".mlpackage")
    Artifact(package)
    return "" if path.read_bytes() == whole else "a damaged package was loaded"


def read_photographs(path: Path, whole: bytes) -> str:
    """A folder of photographs in which something is odd: what is to be done is planned, and each of it opened."""
    structure = path.read_bytes()
    if not structure.startswith(STRUCTURE):
        return ""
    path.write_bytes(whole)
    other = path.parent.with_name("other")
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(path.parent, other)
    FOLDERS[structure.removeprefix(STRUCTURE).decode()](other)
    for job in jobs.plan([other], path.parent.with_name("out"), "erased", False):
        try:
            read_video(job.source, b"") if job.film else read_picture(job.source, b"")
        except (ValueError, OSError) as error:
            if "\n" in str(error).strip():
                raise
    return ""


def read_wheel(path: Path, whole: bytes) -> str:
    """A wheel with the landmark models."""
    from faceeraser.face import landmark_models

    place = path.with_name("models")
    shutil.rmtree(place, ignore_errors=True)
    landmark_models._extract(path, place, list(landmark_models.FILES))
    same = all(_sha256(place / name) == sha256 for name, (_, sha256) in landmark_models.FILES.items())
    return "" if same else "other models than are pinned"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_request(path: Path, _whole: bytes) -> str:
    """What somebody sends to the page's server."""
    server, failed = _listening()
    failed.clear()
    heard = ask(int(server.server_address[1]), path.read_bytes(), 30.0)
    if failed:
        raise failed[0]
    return f"answered {heard[:60]!r}" if SECRET in heard or (heard and not heard.startswith(KNOWN)) else ""


@functools.cache
def _listening() -> tuple[serve.Server, list[BaseException]]:
    """A server of this process, and what went wrong in it."""
    page = {"/": ("text/html", b"<p>page"), "/data/a.json": ("application/json", b"{}")}
    server, failed = serve.Server("127.0.0.1", 0, page, lambda figures: None), list[BaseException]()

    def note(request: Any, address: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError | TimeoutError):
            failed.append(error)

    server.handle_error = note  # type: ignore[method-assign, assignment]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, failed


def small_package(path: Path) -> Path:
    """The smallest .mlpackage with an image, a mask, weights, and a picture that comes of them."""
    import coremltools
    from coremltools.converters.mil import Builder

    specs = [Builder.TensorSpec((1, 3, 8, 8)), Builder.TensorSpec((1, 1, 8, 8))]

    @Builder.program(input_specs=specs)
    def program(image: Any, mask: Any) -> Any:
        weight = np.ones((3, 3, 3, 3), np.float32)
        return Builder.mul(x=Builder.conv(x=image, weight=weight, pad_type="same"), y=mask, name="erased")

    with contextlib.redirect_stderr(io.StringIO()):
        model = coremltools.convert(program, convert_to="mlprogram", minimum_deployment_target=coremltools.target.iOS15)
    model.save(str(path))
    return path


def whole_packages(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of a package without a card, and of one with a card."""
    bare, carded = (small_package(folder / name) for name in ("bare.mlpackage", "carded.mlpackage"))
    card, of_the_file = read_card(shipped.PLAN_FILE), ("format", "file", "kind", "sha256", "bytes")
    write_card(carded, {name: value for name, value in card.items() if name not in of_the_file})
    first, second = (sorted(path for path in package.rglob("*") if path.is_file()) for package in (bare, carded))
    return first, second


def bomb(path: Path) -> Path:
    """A wheel of some megabytes whose first model unpacks to eight thousand million zeros."""
    import zipfile

    from faceeraser.face import landmark_models

    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    begin = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    stream = begin + block * 7999 + packer.flush()
    name, (where, _) = next(iter(landmark_models.FILES.items()))
    with zipfile.ZipFile(path, "w") as wheel:
        entry = zipfile.ZipInfo(where + name)
        wheel.writestr(entry, stream)  # stored, and then called deflated
        entry.compress_type, entry.file_size = zipfile.ZIP_DEFLATED, 8000 << 20
    data = bytearray(path.read_bytes())
    data[8:10] = struct.pack("<H", zipfile.ZIP_DEFLATED)
    path.write_bytes(data)
    return path


def small_checkpoint(folder: Path) -> None:
    """A network that weighs little, with scales if it can have them, saved as a stage saves one."""
    from faceeraser.model import peers, quant
    from faceeraser.model.config import Config

    config = Config.of("mobile", resolution=64, blocks={"edge": 1, "clone": 1})
    network = peers.build(config, width=4).eval()
    quant.fuse(network)
    network.config = config = type(config)(**{**vars(config), "fused": True, "quantized": True})
    quant.prepare(network, config.float_layers)
    folder.mkdir()
    checkpoint.save(folder, network, stage="quantize", options={"steps": 1}, metrics={"after": {"gmacs": 0.1}})


def small_data(folder: Path) -> None:
    """A prepared folder of generated skin."""
    arguments = [str(folder), "--source", "synthetic", "--size", "64", "--limit", "10", "--workers", "1"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if script_module("train/prepare.py").main(arguments) != 0:
            raise RuntimeError("the data could not be prepared")


def kinds(folder: Path) -> list[Kind]:
    """Everything that is read, each with whole files of its own in the folder."""
    rooms = {name: folder / name for name in ("pictures", "videos", "models", "bare", "texts", "onnx", "packages", "asked")}
    for room in rooms.values():
        room.mkdir(parents=True)
    small_checkpoint(folder / "run")
    small_data(folder / "data")
    model = shutil.copy(shipped.OCCLUSION_FILE, rooms["bare"] / "m.tflite")
    carded = Path(shutil.copy(shipped.PLAN_FILE, rooms["models"] / "m.tflite"))
    card = Path(shutil.copy(card_path(shipped.PLAN_FILE), card_path(carded)))
    onnx = write_onnx(rooms["onnx"] / "m.onnx")
    texts = {
        "l.json": json.dumps({"format": landmarks.FORMAT, "version": landmarks.VERSION, "layout": "ibug-68", "frames": [
            {"faces": [[[float(x), float(7 * x % 41)] for x in range(68)]]} for _ in range(3)]}),
        "e.json": effects.FILE.read_text(), "t.txt": TIMING, "p.txt": PHONE,
        "manifest.csv": "file,split,group\n" + "".join(f"{k}.jpg,{'val' if k < 3 else 'train'},{k}\n" for k in range(9)),
    }  # fmt: skip
    for name, text in texts.items():
        (rooms["texts"] / name).write_text(text)
    asked = []
    for k, request in enumerate(REQUESTS):
        asked.append(rooms["asked"] / f"{k}.txt")
        asked[-1].write_bytes(request)
    (odd := folder / "odd" / "photographs").mkdir(parents=True)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(odd / "a.png")
    (odd / "note.txt").write_text("changes of this folder")
    wheel_of_landmarks(folder / "wheels")
    wheels = [next((folder / "wheels").glob("*.whl")), bomb(folder / "wheels" / "bomb.whl")]
    bare, carded_files = whole_packages(rooms["packages"])
    pictures, run, data = whole_pictures(rooms["pictures"]), folder / "run", folder / "data"
    json_files = [run / name for name in ("config.json", "history.json", "quantization.json")]
    return [
        Kind("pictures", pictures, read_picture, 30, absurd_picture),
        Kind("masks", [path for path in pictures if path.name in ("l.png", "i16.png", "a.bmp")], read_picture, 4),
        Kind("videos", whole_videos(rooms["videos"]), read_video, 12),
        Kind("landmarks", [rooms["texts"] / "l.json"], read_landmarks, 8, absurd_json),
        Kind("effects", [rooms["texts"] / "e.json"], read_effects, 6, absurd_json),
        Kind("cards", [card], card_beside, 8, absurd_json),
        Kind("models with a card", [carded], read_model, 4),
        Kind("models without a card", [Path(model), onnx], read_bare_model, 1),
        Kind("safetensors", [run / "generators.safetensors"], read_weights, 4),
        Kind("config, history, quantization", json_files, read_folder, 6, absurd_json),
        Kind("lists of a prepared folder", [data / "eval.csv", data / "manifest.csv"], read_table, 6, absurd_table),
        Kind("data.json", [data / "data.json"], read_table, 2, absurd_json),
        Kind("manifests of photographs", [rooms["texts"] / "manifest.csv"], read_manifest, 3, absurd_table),
        Kind("benchmark_model", [rooms["texts"] / "t.txt"], read_timing, 4, absurd_text, sparse=False),
        Kind("adb", [rooms["texts"] / "p.txt"], read_phone, 4, absurd_text, sparse=False),
        Kind("packages without a card", bare, read_package, 5, structure_of(PACKAGES)),
        Kind("packages with a card", carded_files, read_carded_package, 3),
        Kind("folders of photographs", [odd / "note.txt"], read_photographs, 2, structure_of(FOLDERS), sparse=False),
        Kind("wheels", wheels, read_wheel, 1),
        Kind("requests", asked, read_request, 6, sparse=False),
    ]


def write_onnx(path: Path) -> Path:
    """The smallest file with an image, a mask and a picture that comes of them."""
    from onnx import TensorProto, helper, save

    def port(name: str, channels: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 8, 8])

    nodes = [helper.make_node("Mul", ["image", "mask"], ["erased"])]
    graph = helper.make_graph(nodes, "g", [port("image", 3), port("mask", 1)], [port("erased", 3)])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


# --- inputs: the child that reads them, watched ---------------------------------------------------------------------


@dataclass
class Found:
    """What came of the inputs so far."""

    n: int = 0
    tracebacks: int = 0
    hangs: int = 0
    over_2gb: int = 0
    believed: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    examples: list[str] = field(default_factory=list)


WHOLES: dict[Path, bytes] = {}
"""The bytes of every whole file."""
MOST_ADDRESSES = 8 << 30
"""Of a child that reads, so that a fault of memory is a fault and not the machine's end."""


def broken(kind: Kind, number: int, seed: int) -> tuple[Path, bytes, bytes, bool]:
    """(the whole file, its bytes, those of the broken one, whether it says that it has a terabyte) of an input, which its
    number and the seed settle.
    """
    chance = random.Random(f"{seed} {kind.name} {number}")
    path = chance.choice(kind.files)
    whole = WHOLES[path]
    how = kind.absurd if chance.random() < 0.5 else mutated
    data = how(whole, chance)
    return path, whole, data, kind.sparse and not data.startswith(STRUCTURE) and chance.random() < 1 / 30


def read_one(kind: Kind, number: int, seed: int) -> dict[str, Any]:
    """Read one input as a command would: how it ended. The whole file is put back."""
    path, whole, data, huge = broken(kind, number, seed)
    path.write_bytes(data)
    try:
        if huge:
            _sparse(path)
        why = kind.read(path, whole)
        return {"end": "believed" if why else "read", "why": why}
    except (ValueError, OSError) as error:
        lines = str(error).strip()
        one_line = "\n" not in lines
        return {"end": "refused" if one_line else "traceback", "why": "" if one_line else f"several lines: {lines[:200]}"}
    except Exception as error:  # what a user would see as a traceback
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {str(error)[:120]} ({Path(where.filename).name}:{where.lineno})"
        return {"end": "traceback", "why": said}
    finally:
        path.write_bytes(whole)


def read_many(work: Sequence[tuple[Kind, int]], begin: int, seed: int, at: mmap.mmap, answers: Path) -> None:
    """In a child: inputs from `begin` on; where it is stands in `at`, what came of it is a line in `answers`."""
    faulthandler.disable()  # who imported this may have it on; a crash is seen by its exit code
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    null = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):  # decoders in C say what they like
        os.dup2(null, number)
    with open(answers, "a", buffering=1) as lines:
        for index in range(begin, len(work)):
            at[:16] = struct.pack("<qd", index, sum(os.times()[:4]))
            kind, number = work[index]
            ended = read_one(kind, number, seed)
            whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
            peak = max(resource.getrusage(who).ru_maxrss for who in whose) * 1024
            lines.write(json.dumps({"index": index, **ended, "large": peak > MOST_BYTES}) + "\n")
            if peak > MOST_BYTES or index % 500 == 499:
                break  # a fresh child, with a fresh peak
    at[:16] = struct.pack("<qd", index + 1, math.inf)  # no input is being read, so nothing hangs
    os._exit(0)


def _seconds(pid: int) -> float:
    """Processor time so far of a process and of those of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def inputs(folder: Path, count: int, seed: int, until: float) -> dict[str, Any]:
    """Read broken files: the row `inputs`."""
    known_kinds = kinds(folder)
    WHOLES.update({path: path.read_bytes() for kind in known_kinds for path in kind.files})
    chance = random.Random(seed)
    shares = [kind.share for kind in known_kinds]
    work = [(kind, k) for k, kind in enumerate(chance.choices(known_kinds, shares, k=count))]
    tally, answers = Found(), folder / "answers"
    at, begin = mmap.mmap(-1, 16), 0
    with tqdm(total=count, desc="inputs", unit="file", disable=None) as bar:
        while begin < count and time.monotonic() < until:
            at[:16] = struct.pack("<qd", begin, 0.0)
            answers.write_text("")
            pid = os.fork()
            if pid == 0:
                read_many(work, begin, seed, at, answers)
            lost = _watched(pid, at, until)
            for line in answers.read_text().splitlines():
                _count(tally, json.loads(line), work)
            begin = struct.unpack("<qd", at[:16])[0]
            if lost:
                kind, number = work[begin]
                _count(tally, {"index": begin, "end": lost, "why": "", "large": False}, work)
                path, whole, _, _ = broken(kind, number, seed)
                path.write_bytes(whole)
                begin += 1
            bar.update(begin - bar.n)
    return {
        "name": "inputs", "n": tally.n, "refused": tally.refused, "tracebacks": tally.tracebacks, "hangs": tally.hangs,
        "over_2gb": tally.over_2gb, "believed": tally.believed, "by_kind": dict(tally.kinds),
        "examples": tally.examples[:20],
    }  # fmt: skip


def _watched(pid: int, at: mmap.mmap, until: float) -> str:
    """Wait for a child, at most `until`: "" when it ended by itself, else "hang", or "traceback", as it crashed."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return "" if os.waitstatus_to_exitcode(status) == 0 else "traceback"
        _, began = struct.unpack("<qd", at[:16])
        hangs = _seconds(pid) - began > PATIENCE_S
        if hangs or time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "hang" if hangs else ""
        time.sleep(0.1)


def _count(tally: Found, ended: Mapping[str, Any], work: Sequence[tuple[Kind, int]]) -> None:
    kind, number = work[ended["index"]]
    tally.n += 1
    tally.kinds[kind.name] += 1
    tally.refused += ended["end"] == "refused"
    tally.tracebacks += ended["end"] == "traceback"
    tally.hangs += ended["end"] == "hang"
    tally.believed += ended["end"] == "believed"
    tally.over_2gb += ended["large"]
    if ended["end"] in ("traceback", "hang", "believed") or ended["large"]:
        tally.examples.append(f"{kind.name} {number}: {ended['end']} {ended['why']}")


def script_module(path: str) -> ModuleType:
    """A script of this toolkit as a module, `train/train.py` say."""
    name = "stage_" + path.replace("/", "_").removesuffix(".py")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / path)
        assert spec and spec.loader
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


# --- kills: the stages ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A command that writes. `arguments` go to the script (or, for "", to `faceeraser`), where {0} is the folder of the run.

    makes: what is there at the end, under that folder. resume: arguments to continue with, if it can. again: those with
    which it is run once more where all is there. filled: it makes a folder that is filled file by file.
    """

    name: str
    script: str
    arguments: Sequence[str]
    makes: Sequence[str]
    resume: Sequence[str] = ()
    again: Sequence[str] = ()
    filled: bool = False
    heavy: bool = False
    shortcut: bool = False
    """What the unbroken run converted and measured is taken from it: what is killed is staging, cards and publishing."""
    waits: bool = False
    """It waits for other processes more than it computes: a random moment is one of the clock, not of its processor time."""


SMALL = (
    "--size", "64", "--shrink", "1", "--width", "4", "--blocks", "1", "--batch", "2", "--perceptual", "off",
    "--adversarial", "0",
)  # fmt: skip
"""A network that is trained in seconds."""


def stages(given: Path) -> list[Stage]:
    """Every stage that writes, on tiny networks and pictures in the folder `given`."""
    data, fp32, int8, over = given / "data", given / "fp32", given / "int8", ("--overwrite",)
    tune = ["--data", str(data), "--batch", "2", "--steps", "4"]
    small = ["--phase", "all", *SMALL, "--steps", "6", "--save-every", "2"]
    synthetic = ["{0}/t", "--source", "synthetic", "--size", "64", "--limit", "12"]
    marks = ["--landmarks", str(given / "clip.json")]

    def from_network(name: str, script: str, *arguments: str, **more: Any) -> Stage:
        return Stage(name, script, [str(fp32), "{0}/t", *arguments], ["t"], again=over, **more)

    return [
        Stage("prepare", "train/prepare.py", [*synthetic, "--workers", "1"], ["t"], ("--resume",), over),
        Stage("train", "train/train.py", [str(data), "{0}/t", *small], ["t"], ("--resume",), over),
        from_network("prune", "compress/prune.py", *tune, "--keep", "0.5"),
        from_network("slim", "compress/slim.py", *tune, "--share", "0.1"),
        from_network("distil", "compress/distil.py", *tune, "--teacher", str(fp32)),
        from_network("quantize", "compress/quantize.py", *tune),
        Stage("fidelity", "benchmarks/fidelity.py",
              [str(int8), "--reference", str(fp32), "--data", str(data), "--limit", "2", "--json", "{0}/t.json"],
              ["t.json"]),
        Stage("report", "benchmarks/report.py", [str(given / "fidelity.json"), "{0}/t.html"], ["t.html"]),
        Stage("erase, a folder", "", ["erase", str(given / "photos"), "{0}/t"], ["t"], over, over, filled=True),
        Stage("erase, a video", "", ["erase", str(given / "clip.mp4"), "{0}/t.mp4", *marks], ["t.mp4"], again=over),
        Stage("landmark models", "landmarks", [], ["cache"], filled=True, waits=True),
        Stage("a download", "download", [], ["cache"]),
        Stage("make setup", "make", [], ["t"], filled=True, waits=True),
        from_network("to_onnx", "export/to_onnx.py", heavy=True, filled=True),
        from_network("to_coreml", "export/to_coreml.py", heavy=True, filled=True),
        from_network("to_tflite", "export/to_tflite.py", heavy=True, filled=True),
        Stage("fit_budget", "compress/fit_budget.py",
              [str(fp32), "{0}/t", "--data", str(data), "--max-params", "100000", "--max-drop", "99", "--max-texture", "99",
               "--rounds", "1", "--trial-steps", "1", "--steps", "2", "--distil-steps", "2", "--qat-steps", "2"],
              ["t"], ("--resume",), over, heavy=True),
    ]  # fmt: skip


def given_to_stages(folder: Path, names: Sequence[str] = ()) -> None:
    """What the stages start from: data, networks, photographs, a clip with landmarks, a wheel with the landmark models.

    names: of stages, where not all of them are meant: those that download, erase and prepare need no network.
    """
    if not names or not set(names) <= {"prepare", "erase, a folder", "erase, a video", "a download", "make setup"}:
        _networks_for_stages(folder)
    (folder / "photos").mkdir()
    face = portrait()
    for k, name in enumerate(("a.png", "b.jpg", "c.png")):
        Image.fromarray(np.ascontiguousarray(face[:, :: -1 if k else 1])).save(folder / "photos" / name)
    mesh = [[float(x), float(y)] for x, y in landmarks._mean_face() * 20 + [48, 40]]
    with video.writing(folder / "clip.mp4", 10) as write:
        for _ in range(6):
            write(np.asarray(Image.fromarray(face).resize((96, 96))))
    known = {"format": landmarks.FORMAT, "version": landmarks.VERSION, "layout": "mediapipe-468"}
    (folder / "clip.json").write_text(json.dumps({**known, "frames": [{"faces": [mesh]}] * 6}))
    wheel_of_landmarks(folder / "wheels")


def _networks_for_stages(folder: Path) -> None:
    small_data(folder / "data")
    _must("train/train.py", [str(folder / "data"), str(folder / "fp32"), "--phase", "all", *SMALL, "--steps", "2"])
    tune = [str(folder / "int8"), "--data", str(folder / "data"), "--steps", "2", "--batch", "2"]
    _must("compress/quantize.py", [str(folder / "fp32"), *tune])
    told = ["--reference", str(folder / "fp32"), "--data", str(folder / "data"), "--limit", "2"]
    _must("benchmarks/fidelity.py", [str(folder / "int8"), *told, "--json", str(folder / "fidelity.json")])


def _must(path: str, arguments: Sequence[str]) -> None:
    """Run a script that has to do it."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        if (code := script_module(path).main(list(arguments))) != 0:
            raise RuntimeError(f"{path} ended with {code}: {said.getvalue()[-300:]}")


def portrait() -> np.ndarray:
    """A picture with a face in it, (256, 256, 3) uint8: the astronaut's."""
    from faceeraser.system.extras import need

    astronaut: np.ndarray = need("skimage.data", "train", "the picture that is erased").astronaut()
    return np.ascontiguousarray(astronaut[0:256, 95:351])


def wheel_of_landmarks(folder: Path) -> None:
    """A folder with a wheel such as the public index serves, of which only the two models are real."""
    import zipfile

    from faceeraser.face import landmark_models

    folder.mkdir()
    tags = "cp311-cp311-manylinux_2_28_x86_64"
    facts = {
        "mediapipe-0.10.21.dist-info/METADATA": "Metadata-Version: 2.1\nName: mediapipe\nVersion: 0.10.21\n",
        "mediapipe-0.10.21.dist-info/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tags}\n",
        "mediapipe-0.10.21.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"mediapipe-0.10.21-{tags}.whl", "w") as wheel:
        for name, path in landmark_models.fetch().items():
            wheel.write(path, landmark_models.FILES[name][0] + name)
        for name, text in facts.items():
            wheel.writestr(name, text)
    (folder / "m.bin").write_bytes(random.Random(0).randbytes(3 << 20))


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[None]:
    """A server of files in a process of its own; its address goes into the file `served` beside the folder."""
    words = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(folder), "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            (folder.parent / "served").write_text(process.stdout.readline().partition("(")[2].partition(")")[0])
            yield
        finally:
            process.kill()


def run_stage(stage: Stage, folder: Path, given: Path, more: Sequence[str] = ()) -> int:
    """Run a stage in this process, with more words to it; its exit code."""
    if stage.script in ("landmarks", "download", "make"):
        try:
            with script.stoppable():
                return _made(folder, given) if stage.script == "make" else _fetched(stage, folder, given)
        except KeyboardInterrupt as stop:
            print("stopped", file=sys.stderr)
            return script.code_of(stop)
    if stage.name == "fit_budget":  # its steps are run here, with what is imported, and not each in two new processes
        chain.run_all = _run_all_here
    if stage.shortcut:
        _keep_conversions(given / f"kept-{stage.name}")
    words = [word.format(folder) for word in (*stage.arguments, *more)]
    code: int = script_module(stage.script).main(words) if stage.script else cli.main(words)
    return code


def _run_all_here(plan: Sequence[Sequence[str]], root: Path, independent: bool = False) -> list[dict[str, Any]]:
    """What `chain.run_all` does, in this process."""
    for path, *words in plan:
        code = script_module(path).main(list(words))
        if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):  # which a parent process hears as its child does
            raise script.Stopped(code - 128)
        if code:
            raise script.GateFailed(f"`{path}` ended with exit code {code}; its own message is above")
    return [{"step": words[0], "seconds": 0.0} for words in plan]


def _keep_conversions(folder: Path) -> None:
    """In this process, let an export convert and measure only what `folder` does not have yet."""
    from faceeraser.conversion import convert

    real = convert._written
    folder.mkdir(exist_ok=True)

    def copied(source: Path, target: Path) -> None:
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)

    def written(how: Any, pipeline: Any, staged: Path) -> Any:
        told = folder / f"{staged.name}.told"
        if told.exists():
            planned, check, compare = json.loads(told.read_text())
            made = convert.Written(staged, staged.with_name(planned) if planned else None)
            for path in filter(None, made):
                copied(folder / path.name, path)
            object.__setattr__(how, "check", lambda *_: check)
            object.__setattr__(how, "compare", lambda *_: compare)
            return made
        made = real(how, pipeline, staged)
        for path in filter(None, made):
            copied(path, folder / path.name)
        check, compare, seen = how.check, how.compare, []

        def checked(*words: Any) -> Any:
            seen.append(check(*words))
            return seen[0]

        def compared(*words: Any) -> Any:
            measured = compare(*words)
            told.write_text(json.dumps((made.planned.name if made.planned else "", seen[0], measured)))
            return measured

        object.__setattr__(how, "check", checked)
        object.__setattr__(how, "compare", compared)
        return made

    convert._written = written  # type: ignore[assignment]


def _fetched(stage: Stage, folder: Path, given: Path) -> int:
    """Download from the server on the loopback, as a user's machine does from the public index."""
    from faceeraser.face import landmark_models
    from faceeraser.system import cache

    here = (given / "served").read_text()
    os.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": here, "PIP_CONFIG_FILE": os.devnull, "NO_PROXY": "127.0.0.1",
                   "no_proxy": "127.0.0.1"}  # fmt: skip
    try:
        if stage.script == "download":
            data = (given / "wheels" / "m.bin").read_bytes()
            cache.fetch(f"{here}m.bin", hashlib.sha256(data).hexdigest(), folder / "cache" / "m.bin")
        else:
            landmark_models.fetch(folder / "cache")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _made(folder: Path, given: Path) -> int:
    """`make setup`, with a Python that installs nothing."""
    fake = _fake_python(folder, given)
    return subprocess.run(["make", "-s", "setup", f"PYTHON={fake}"], cwd=folder / "t", check=False).returncode


def _fake_python(folder: Path, given: Path) -> Path:
    """A checkout's Makefile, and a Python that installs nothing: a file of its name says what was asked for."""
    place = folder / "t"
    place.mkdir(exist_ok=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "constraints-legacy.txt"):
        if not (place / name).exists():
            (place / name).write_bytes((ROOT / name).read_bytes())
            os.utime(place / name, (0, 0))
    fake = given / "python"
    if not fake.exists():
        command = f"mkdir -p .venv/bin; ln -sf {fake} .venv/bin/python"
        notes = """echo there > ".venv/$(echo "$*" | tr -c 'a-z0-9\\n' _)\""""
        fake.write_text(f'#!/bin/sh\nsleep 0.05\ncase "$2" in venv) {command};; pip) {notes};; esac\n')
        fake.chmod(0o755)
    return fake


# --- kills: the child that ends at a random moment ------------------------------------------------------------------

WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree", "shutil.copyfile"}
WARM = ("torchao", "torch_pruning", "sklearn", "onnx", "onnxsim", "onnxscript", "onnxruntime", "coremltools", "litert_torch")
"""Imported once, before anything is forked: a child that is killed has not spent its life importing."""


@dataclass(frozen=True)
class Moment:
    """When a child gets which signal."""

    number: signal.Signals
    call: int = 0
    """At this one of its calls that open, make, rename or remove something in the folder of the run; 0: at none of them"""
    late: float = 0.0
    """and so many seconds on;"""
    after: float = 0.0
    """or else after so many seconds of its processor time, or of the clock where the stage waits for others."""

    def __str__(self) -> str:
        where = f"at call {self.call}, {self.late:.3f} s on" if self.call else f"after {self.after:.2f} s"
        return f"{self.number.name} {where}"

    @classmethod
    def random(cls, number: signal.Signals, whole: Unbroken, chance: random.Random) -> Moment:
        """Half of them while something is written, half anywhere."""
        if whole.calls and chance.random() < 0.5:
            return cls(number, chance.randint(1, whole.calls), chance.choice((0.0, 0.002, chance.random() * 0.1)))
        return cls(number, after=chance.random() * whole.seconds)


@dataclass
class Ended:
    """How a child ended."""

    code: int
    calls: int
    """Watched calls that it made."""
    seconds: float
    """Of processor time, its children's too, or of the clock where the stage waits for others."""
    survivors: int
    """Processes of its group that lived on for five seconds; they were killed then."""
    said: str


@dataclass
class Unbroken:
    """What a run that nobody breaks leaves."""

    calls: int
    seconds: float
    names: frozenset[str]
    made: dict[str, dict[str, str]]
    """{name: `digest`}"""
    size: int
    """Bytes of all that."""


def in_child(stage: Stage, folder: Path, given: Path, moment: Moment | None = None, more: Sequence[str] = (),
             enter: Callable[[], None] = lambda: None) -> Ended:  # fmt: skip
    """Run a stage in a forked child, in a group of its own. `enter` is called in it first."""
    with contextlib.suppress(OSError):  # a disk that is full, a folder that is read-only
        (folder / ".tmp").mkdir(exist_ok=True)
    said = folder.parent / f"{folder.name}-{threading.get_ident()}.said"
    sink = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    count = mmap.mmap(-1, 8)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        for target in (1, 2):
            os.dup2(sink, target)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(sink), "w", buffering=1) for _ in range(2))  # whoever had caught them
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        os.environ["TMPDIR"], tempfile.tempdir = str(folder / ".tmp"), None
        _watch(folder, moment, count)
        code = 1
        try:
            enter()
            code = run_stage(stage, folder, given, more)
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
            code = 98
        finally:
            sys.stdout.flush()
            os._exit(code % 256)
    os.close(sink)
    with contextlib.suppress(OSError):  # whoever is first
        os.setpgid(pid, pid)
    code, seconds = _broken(pid, moment, stage.waits)
    survivors = _left_of(pid)
    return Ended(code, struct.unpack("<q", count[:8])[0], seconds, survivors, said.read_text(errors="replace"))


def _watch(folder: Path, moment: Moment | None, count: mmap.mmap) -> None:
    """In a child: count its calls that write in the folder, and send the signal at the one that was chosen."""
    calls, own = itertools.count(1), str(folder)
    target = 0 if moment and moment.number == signal.SIGKILL else os.getpid()  # kill -9: with all that it has started

    def hook(event: str, words: tuple[Any, ...]) -> None:
        if event in WATCHED and any(own in str(word) for word in words[:2] if isinstance(word, str | Path)):
            call = next(calls)
            count[:8] = struct.pack("<q", call)
            if moment and call == moment.call:
                if moment.late:
                    threading.Timer(moment.late, lambda: os.kill(target, moment.number)).start()
                else:
                    os.kill(target, moment.number)

    sys.addaudithook(hook)


def _broken(pid: int, moment: Moment | None, waits: bool) -> tuple[int, float]:
    """(exit code, seconds) of a child, which gets its signal if that comes after some time."""
    began = time.monotonic()
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG if moment and moment.after else 0)
        clock = time.monotonic() - began
        if done:
            return os.waitstatus_to_exitcode(status), clock if waits else used.ru_utime + used.ru_stime
        if moment and (clock if waits else _seconds(pid)) >= moment.after:
            (os.killpg if moment.number == signal.SIGKILL else os.kill)(pid, moment.number)
            moment = None
        time.sleep(0.002)


def _left_of(group: int) -> int:
    """How many processes of a group that has to be empty live for five more seconds; they are killed then."""
    until = time.monotonic() + 5.0
    while living := [pid for pid in os.listdir("/proc") if pid.isdecimal() and _group(pid) == group]:
        if time.monotonic() > until:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            return len(living)
        time.sleep(0.02)
    return 0


def _group(pid: str) -> int | None:
    """The process group of a process that lives."""
    try:
        state, _, group = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
        return int(group) if state != "Z" else None
    except OSError:
        return None


def digest(path: Path) -> dict[str, str]:
    """{name: sha256} of all files below a path, or of it. Of JSON, HTML and a resume state what tells times or the place is
    left out.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] if path.exists() else []
    digests = {}
    for file in files:
        if file.name.startswith("events.out.tfevents"):
            continue
        data = file.read_bytes()
        if file.suffix == ".json":
            with contextlib.suppress(ValueError):  # half of it: that is what it is compared for
                data = json.dumps(_timeless(json.loads(data)), sort_keys=True).encode().replace(bytes(path.parent), b"{0}")
        elif file.name == "state.pt" and data:
            with contextlib.suppress(ValueError):
                data = repr(_plain({**checkpoint.read_state(file), "seconds": 0})).encode()
        elif file.suffix == ".html":
            data = b"".join(line for line in data.splitlines() if b"20" not in line)
        digests[file.relative_to(path).as_posix() if path.is_dir() else file.name] = hashlib.sha256(data).hexdigest()
    return digests


def _plain(value: Any) -> Any:
    """The same with a tensor as the sha256 of what is in it."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return hashlib.sha256(value.numpy().tobytes()).hexdigest() if hasattr(value, "numpy") else value


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        timed = ("time", "seconds", "command", "ms", "commit")
        return {key: _timeless(each) for key, each in value.items() if not any(word in key for word in timed)}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def unbroken(stage: Stage, given: Path, folder: Path) -> Unbroken:
    """Run a stage that nobody breaks. Raises RuntimeError when it does not end with 0."""
    folder.mkdir()
    ended = in_child(stage, folder, given)
    if ended.code != 0:
        raise RuntimeError(f"{stage.name} ended with {ended.code}: {ended.said[-400:]}")
    names = frozenset(path.name for path in folder.iterdir())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Unbroken(ended.calls, ended.seconds, names, {name: digest(folder / name) for name in stage.makes}, size)


@dataclass
class Broken:
    """What came of the kills of one stage."""

    sent: Counter[str] = field(default_factory=Counter)
    """Signals that hit it, by name."""
    missed: int = 0
    """Signals that came too late: it had ended."""
    lost: int = 0
    survivors: int = 0
    temporary: int = 0
    """Files and folders that kill -9 left in the system's folder for temporary files."""
    why: list[str] = field(default_factory=list)
    not_run: str = ""
    whole: Unbroken | None = None


def kill_once(stage: Stage, whole: Unbroken, given: Path, moment: Moment, folder: Path, found: Broken) -> None:
    """A broken run, and the one that goes on from it: what came of them is added to `found`."""
    folder.mkdir()
    ended, lost = in_child(stage, folder, given, moment), list[str]()
    killed = moment.number == signal.SIGKILL
    if ended.code == 0 or (killed and ended.code != -signal.SIGKILL):
        found.missed += 1
    else:
        found.sent[moment.number.name] += 1
    if ended.survivors:
        lost.append(f"{ended.survivors} child processes lived on")
    if not killed and "Traceback" in ended.said:
        lost.append(f"a traceback: {ended.said.strip().splitlines()[-1][:120]}")
    if not killed and ended.code not in (0, 128 + moment.number, -moment.number) and stage.script != "make":
        lost.append(f"exit code {ended.code}: {ended.said[-120:]}")
    for name in stage.makes:  # a folder that is filled file by file: each file is whole or absent
        seen = {file: sha for file, sha in digest(folder / name).items() if "/." not in f"/{file}"}
        if seen and seen != whole.made[name] and not (stage.filled and seen.items() <= whole.made[name].items()):
            lost.append(f"{name} was there and not whole")
    finished = all(digest(folder / name) == whole.made[name] for name in stage.makes)
    clean = {path.name for path in folder.iterdir()} <= whole.names
    if not finished or stage.resume or (not clean and stage.again):
        ended = in_child(stage, folder, given, more=stage.resume or (stage.again if finished else ()))
    for name in stage.makes:
        if (now := digest(folder / name)) != whole.made[name]:
            other = sorted({file for file, _ in set(now.items()) ^ set(whole.made[name].items())})[:2]
            lost.append(f"afterwards {name} differs in {other}, exit code {ended.code} {ended.said.splitlines()[-1:]}")
    if left := sorted({path.name for path in folder.iterdir()} - whole.names):
        lost.append(f"left lying: {left}")
    found.temporary += len(list((folder / ".tmp").iterdir()))
    found.lost += bool(lost)
    found.survivors += any("lived on" in why for why in lost)
    found.why += [f"{moment}: {why}" for why in lost]


TURNS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGKILL, signal.SIGKILL)
"""The signals of the first turns; then it is kill -9 alone, of the stages that take little time or were hit too rarely."""
LAST_HEAVY = len(TURNS) + 3
"""The last turn of the stages that convert, which are killed in it at any moment of all that they do."""


def kills(folder: Path, count: int, seed: int, until: float, heavy: bool = False) -> dict[str, Any]:
    """Kill every stage in turn, until `count` kills, the last of them where that takes less than a second: the row `kills`.

    heavy: those that convert, which take a minute: they are killed while they stage and publish what was converted once, and
    in a last turn at any moment of all that they do. The row `kills, exporters`.
    """
    given, chance = folder / "given", random.Random(seed)
    given.mkdir(parents=True)
    given_to_stages(given)
    for name in WARM if heavy else WARM[:2]:
        with contextlib.suppress(ImportError), contextlib.redirect_stderr(io.StringIO()):
            importlib.import_module(name)
    found = {stage.name: Broken() for stage in stages(given) if stage.heavy == heavy}
    with tqdm(total=count, desc="kills", disable=None) as bar, serving(given / "wheels"):
        for turn in range(LAST_HEAVY + 1) if heavy else itertools.count():
            number, in_full = TURNS[turn] if turn < len(TURNS) else signal.SIGKILL, heavy and turn == LAST_HEAVY
            for stage in stages(given):
                done = sum(each.sent["SIGKILL"] for each in found.values())
                bar.update(done - bar.n)
                rare = any(each.sent["SIGKILL"] < LEAST_KILLS and not each.not_run for each in found.values())
                if (done >= count and not (rare and count >= KILLS)) or time.monotonic() > until:
                    return _row_of_kills(found, heavy)
                mine = found.get(stage.name)
                if mine is None or mine.not_run:
                    continue
                quick = mine.whole is not None and mine.whole.seconds < 1.0
                if turn < len(TURNS) or in_full or quick or mine.sent["SIGKILL"] < LEAST_KILLS:
                    short = replace(stage, shortcut=heavy and not in_full)
                    _killed(short, given, folder, (number, turn), chance, mine)
            if all(mine.not_run for mine in found.values()):
                break
    return _row_of_kills(found, heavy)


def _killed(
    stage: Stage, given: Path, folder: Path, which: tuple[signal.Signals, int], chance: random.Random, found: Broken
) -> None:
    """Kill a stage once in a (signal, turn). First it is run unbroken, and twice where that makes it short."""
    number, turn = which
    if found.whole is None or (turn == LAST_HEAVY and stage.heavy):
        try:
            found.whole = unbroken(stage, given, folder / f"whole-{stage.name}-{turn}")
            if stage.shortcut:
                found.whole = unbroken(stage, given, folder / f"short-{stage.name}")
        except RuntimeError as error:
            found.not_run = " ".join(str(error).split())[-300:]
            return
    kill_once(stage, found.whole, given, Moment.random(number, found.whole, chance), folder / f"{turn}", found)
    shutil.rmtree(folder / f"{turn}")


def _row_of_kills(tally: Mapping[str, Broken], heavy: bool) -> dict[str, Any]:
    every = list(tally.values())
    return {
        "name": "kills, exporters" if heavy else "kills", "n": sum(each.sent["SIGKILL"] for each in every),
        "lost": sum(each.lost for each in every),
        "stops": sum(each.sent.total() - each.sent["SIGKILL"] for each in every),
        "missed": sum(each.missed for each in every),
        "survivors": sum(each.survivors for each in every),
        "by_stage": {name: dict(each.sent) for name, each in tally.items()},
        "temporary": {name: each.temporary for name, each in tally.items() if each.temporary},
        "not_run": {name: each.not_run for name, each in tally.items() if each.not_run},
        "examples": [f"{name}: {why}" for name, each in tally.items() for why in each.why][:20],
    }  # fmt: skip


# --- circumstances --------------------------------------------------------------------------------------------------

NEW_MOUNTS, NEW_NETWORK = 0x00020000, 0x40000000  # CLONE_NEWNS and CLONE_NEWNET of <linux/sched.h>
READ_ONLY, REMOUNT, PRIVATE = 1, 32, (1 << 14) | (1 << 18)  # MS_* of <linux/mount.h>; the last with MS_REC
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
static int calls;
static long back(void) { return ++calls > 20 ? 10L * 365 * 86400 : 0; }
int clock_gettime(clockid_t which, struct timespec *at) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int done = real(which, at);
  if (which == CLOCK_REALTIME) at->tv_sec -= back();
  return done;
}
int gettimeofday(struct timeval *at, void *zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec; at->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
"""
"""A clock that is set back by ten years once it has been asked twenty times: what was written before is of the future."""


def system_call(name: str, *words: Any) -> None:
    """A call of the C library, by ctypes. Raises OSError when it fails, as where one may not do it."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*words) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def mount(folder: Path, size: int, flags: int = 0) -> None:
    """A file system in memory of that many bytes at a folder, or another size or other flags of the one there."""
    system_call("mount", b"none", bytes(folder), b"tmpfs", flags, f"size={max(4096, size)}".encode())


def unmount(folder: Path) -> None:
    """Take it away."""
    system_call("umount", bytes(folder))


@dataclass
class Tried:
    """What came of the circumstances."""

    n: int = 0
    lost: int = 0
    tracebacks: int = 0
    ends: dict[str, Counter[str]] = field(default_factory=dict)
    """{circumstance: how the stages ended: "done" as ever, or in one "line"}"""
    not_run: dict[str, str] = field(default_factory=dict)
    why: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where one stage meets its circumstances."""

    stage: Stage
    whole: Unbroken
    given: Path
    chance: random.Random
    folder: Path

    def run(self, enter: Callable[[], None] = lambda: None, more: Sequence[str] = ()) -> Ended:
        return in_child(self.stage, self.folder, self.given, None, more, enter)

    def is_whole(self) -> bool:
        return all(digest(self.folder / name) == made for name, made in self.whole.made.items())

    def left(self) -> set[str]:
        """What lies there that does not belong there, what a run can go on from excepted."""
        begun = {f"{name}.partial" for name in self.stage.makes}
        return {path.name for path in self.folder.iterdir()} - self.whole.names - begun


def full_disk(at: Place) -> list[tuple[Ended, str]]:
    """A file system with too little room, then more room."""
    need = at.whole.size
    mount(at.folder, 1 << 30)
    try:
        if at.stage.script == "make":
            _fake_python(at.folder, at.given)
        used = sum(path.stat().st_size + 4096 for path in at.folder.rglob("*"))
        mount(at.folder, used + int(at.chance.choice((0.0, 0.3, 0.6, 0.9)) * need), REMOUNT)
        ended = at.run()
        lost = f"left lying: {sorted(at.left())}" if at.left() else ""
        for name, made in at.whole.made.items():
            seen = {file: sha for file, sha in digest(at.folder / name).items() if "/." not in f"/{file}"}
            if seen and seen != made and not (at.stage.filled and seen.items() <= made.items()):
                lost = f"{name} was there and not whole"
        mount(at.folder, 1 << 30, REMOUNT)
        then = at.run(more=at.stage.resume)
        if not at.is_whole() or at.left():
            lost = f"with more room it ends with {then.code} and {sorted(at.left())}: {then.said[-160:]}"
        return [(ended, lost)]
    finally:
        unmount(at.folder)


def read_only(at: Place) -> list[tuple[Ended, str]]:
    """A file system that cannot be written, with what an earlier run left in it."""
    mount(at.folder, 1 << 30)
    try:
        first = at.run()
        mount(at.folder, 1 << 30, REMOUNT | READ_ONLY)
        ended = at.run(more=at.stage.again)
        return [(ended, "" if at.is_whole() and first.code == 0 else "what was there is not as it was")]
    finally:
        unmount(at.folder)


def no_permission(at: Place) -> list[tuple[Ended, str]]:
    """Somebody who may not write there; then one who may not read the sources."""
    place = at.folder
    if at.stage.script == "make":
        place = _fake_python(at.folder, at.given) and at.folder / "t"
    place.chmod(0o555)
    ended = at.run(powerless)
    place.chmod(0o755)
    found = [(ended, f"{sorted(at.left())} was made" if at.left() or at.is_whole() else "")]
    if at.stage.script not in ("landmarks", "download", "make") and at.stage.name != "prepare":
        at.given.chmod(0)
        try:
            ended = at.run(powerless)
            found.append((ended, f"{sorted(at.left())} was made" if at.left() or at.is_whole() else ""))
        finally:
            at.given.chmod(0o755)
    return found


def powerless() -> None:
    """Take from this process, where it is root's, what lets root read and write everything; children have it neither."""
    if os.getuid() == 0:
        for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER of <linux/capability.h>
            system_call("prctl", 24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
        now = struct.unpack("<6I", _capabilities("capget", bytes(24)))
        kept = [value & ~0b1110 if k < 3 else value for k, value in enumerate(now)]
        _capabilities("capset", struct.pack("<6I", *kept))


def _capabilities(name: str, data: bytes) -> bytes:
    header, words = ctypes.create_string_buffer(struct.pack("<Ii", 0x20080522, 0)), ctypes.create_string_buffer(data, 24)
    system_call(name, header, words)
    return words.raw[:24]


def no_home(at: Place) -> list[tuple[Ended, str]]:
    """A home that is not there and cannot be made."""

    def nowhere() -> None:
        for name in ("FACEERASER_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
            os.environ.pop(name, None)
        os.environ["HOME"] = "/proc/nowhere"

    return _done_or_told(at, at.run(nowhere))


def no_network(at: Place) -> list[tuple[Ended, str]]:
    """No network, not even the loopback."""
    return _done_or_told(at, at.run(lambda: system_call("unshare", NEW_NETWORK)))


def _done_or_told(at: Place, ended: Ended) -> list[tuple[Ended, str]]:
    """All is made, or nothing and a line says why."""
    wrong = not at.is_whole() if ended.code == 0 else at.is_whole()
    return [(ended, f"exit code {ended.code}, left {sorted(at.left())}" if wrong or at.left() else "")]


def clock_set_back(at: Place) -> list[tuple[Ended, str]]:
    """The clock is set back while it runs: by a library that is preloaded, so in a new process."""
    library = at.given / "clock.so"
    if not library.exists():
        words = ["cc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(library), "-ldl"]
        subprocess.run(words, input=CLOCK.encode(), check=True, capture_output=True)
    program = (
        "import importlib.util, sys\nfrom pathlib import Path\n"
        f"spec = importlib.util.spec_from_file_location('break_it', {str(Path(__file__).resolve())!r})\n"
        "sys.modules['break_it'] = here = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(here)\n"
        f"folder, given = Path({str(at.folder)!r}), Path({str(at.given)!r})\n"
        f"stage = next(stage for stage in here.stages(given) if stage.name == {at.stage.name!r})\n"
        "sys.exit(here.run_stage(stage, folder, given))\n"
    )

    def become() -> None:
        os.execve(sys.executable, [sys.executable, "-c", program], {**os.environ, "LD_PRELOAD": str(library)})

    return _done_or_told(at, at.run(become))


def two_at_once(at: Place) -> list[tuple[Ended, str]]:
    """The same command twice at the same time."""
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: at.run(), range(2)))
    lost = "" if at.is_whole() and not at.left() and 0 in {ended.code for ended in both} else (
        f"exit codes {[ended.code for ended in both]}, whole {at.is_whole()}, left {sorted(at.left())}")  # fmt: skip
    return [(both[0], lost), (both[1], "")]


CIRCUMSTANCES: Mapping[str, Callable[[Place], list[tuple[Ended, str]]]] = {
    "full disk": full_disk, "read-only folder": read_only, "no permission": no_permission, "no home": no_home,
    "no network": no_network, "clock set back": clock_set_back, "two at once": two_at_once,
}  # fmt: skip


def circumstances(
    folder: Path, seed: int, until: float, names: Sequence[str] = (), only: Sequence[str] = ()
) -> dict[str, Any]:
    """Every stage that takes little time under every circumstance: the row `circumstances`.

    In a child, whose mounts are its own. names, only: stages and circumstances, where not all of them are meant.
    """
    folder.mkdir(parents=True)
    told = folder / "row.json"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            told.write_text(json.dumps(_circumstances(folder, seed, until, names, only)))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.waitpid(pid, 0)
    row: dict[str, Any] = json.loads(told.read_text())
    return row


def _circumstances(folder: Path, seed: int, until: float, names: Sequence[str], only: Sequence[str]) -> dict[str, Any]:
    given, chance, tried = folder / "given", random.Random(seed), Tried()
    given.mkdir()
    try:
        system_call("unshare", NEW_MOUNTS)
        system_call("mount", b"none", b"/", None, PRIVATE, None)
    except OSError as error:
        tried.not_run |= dict.fromkeys(("full disk", "read-only folder"), str(error))
    if not shutil.which("cc"):
        tried.not_run["clock set back"] = "there is no C compiler"
    wanted = {name: todo for name, todo in CIRCUMSTANCES.items() if not only or name in only}
    given_to_stages(given, names)
    order = [stage for stage in stages(given) if (not stage.heavy and not names) or stage.name in names]
    with serving(given / "wheels"), tqdm(total=len(order) * len(wanted), desc="circumstances", disable=None) as bar:
        for stage in order:
            whole = unbroken(stage, given, folder / f"whole-{stage.name}")
            for name, meet in wanted.items():
                bar.update()
                if name in tried.not_run or time.monotonic() > until:
                    continue
                (room := folder / f"{stage.name}, {name}").mkdir()
                try:
                    ends = meet(Place(stage, whole, given, chance, room))
                except OSError as error:
                    tried.not_run[name] = str(error)
                    continue
                for ended, lost in ends:
                    _judge(tried, name, stage, ended, lost)
                shutil.rmtree(room)
    return {
        "name": "circumstances", "n": tried.n, "lost": tried.lost, "tracebacks": tried.tracebacks,
        "by_circumstance": {name: dict(ends) for name, ends in tried.ends.items()}, "not_run": tried.not_run,
        "examples": tried.why[:20],
    }  # fmt: skip


def _judge(tried: Tried, name: str, stage: Stage, ended: Ended, lost: str) -> None:
    """Count how a stage ended: with all that it makes, or in one line; whatever else is a fault."""
    lines = [line for line in ended.said.splitlines() if line.strip()] or [""]
    told = any(": " in line and line[0] != " " for line in lines[-2:])  # after a folder's line it says how many are done
    line = ended.code == 2 and told and "Traceback" not in ended.said
    tried.n += 1
    tried.lost += bool(lost)
    tried.ends.setdefault(name, Counter())["done" if ended.code == 0 else "line" if line else "fault"] += 1
    if ended.code != 0 and not line:
        tried.tracebacks += 1
        tried.why.append(f"{stage.name}, {name}: exit code {ended.code}: {' | '.join(lines[-2:])[-300:]}")
    if lost:
        tried.why.append(f"{stage.name}, {name}: {lost}")


# --- the server -----------------------------------------------------------------------------------------------------

REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /../../etc/passwd HTTP/1.0\r\n\r\n", b"HEAD /data/a.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"POST /figures HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n{}",
    b"GET /index.html?a=/etc/passwd HTTP/1.1\r\n\r\n",
    b"POST /figures HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"GET http://other/ HTTP/1.1\r\nHost: other\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 300 + b"\r\n", b"PUT / HTTP/1.1\r\n\r\n", b"\r\n\r\n\r\n",
    b"GET /\0 HTTP/1.1\r\n\r\n",
)  # fmt: skip
SECRET = b"root:"
KNOWN = (b"HTTP/1.", b"<!DOCTYPE", b"<p>page", b"{}", b"there is nothing here")
"""What an answer begins with; one of HTTP/0.9 has no head."""


def ask(port: int, request: bytes, patience: float = 10.0) -> bytes:
    """What a server on the loopback answers to some bytes; empty where it hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as line:
        with contextlib.suppress(OSError):  # it may have heard enough
            line.sendall(request)
            line.shutdown(socket.SHUT_WR)
        heard = b""
        with contextlib.suppress(ConnectionError):
            while block := line.recv(1 << 16):
                heard += block
        return heard


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def server(count: int, seconds: float, seed: int, until: float) -> dict[str, Any]:
    """Requests as nobody means them, one who is slow, and then as many a second as 1,000: the row `server`."""
    chance, page = random.Random(seed), {"/": ("text/html", b"<p>page"), "/data/a.json": ("application/json", b"{}")}
    wrong: list[str] = []
    with serve.Server("127.0.0.1", 0, page, lambda figures: None) as here:
        port = int(here.server_address[1])
        threading.Thread(target=here.serve_forever, daemon=True).start()
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
        for line in slow:
            line.sendall(b"GET / HT")  # and no more
        asked = 0
        while asked < count and time.monotonic() < until:
            request = mutated(chance.choice(REQUESTS), chance) if chance.random() < 0.7 else chance.choice(REQUESTS)
            asked += 1
            try:
                heard = ask(port, request)
            except OSError as error:
                wrong.append(f"{request[:60]!r}: {type(error).__name__}: {error}")
                continue
            if SECRET in heard or (heard and not heard.startswith(KNOWN)):
                wrong.append(f"{request[:60]!r}: answered {heard[:60]!r}")
        before = resident()
        answered, refused, offered = flood(port, seconds, until)
        if not ask(port, REQUESTS[0]).startswith(b"HTTP/1.1 200"):
            wrong.append("after all that it does not answer")
        grown = resident() / before - 1
        for line in slow:
            line.close()
        here.shutdown()
    return {
        "name": "server", "n": asked, "wrong": len(wrong), "offered": offered, "seconds": seconds, "answered": answered,
        "refused": refused, "growth": round(grown, 4), "examples": wrong[:10],
    }  # fmt: skip


def flood(port: int, seconds: float, until: float) -> tuple[int, int, int]:
    """(answered, refused, offered) of 1,000 requests a second from 16 threads."""
    ends = min(time.monotonic() + seconds, until)

    def one(number: int) -> tuple[int, int]:
        answered = refused = 0
        due = time.monotonic() + number / 1000
        while due < ends:
            time.sleep(max(0.0, due - time.monotonic()))
            due += 0.016
            try:
                heard = ask(port, b"GET /data/a.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answered += heard.startswith(b"HTTP/1.1 200")
                refused += not heard
            except OSError:
                refused += 1
        return answered, refused

    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(one, range(16)))
    answered, refused = (sum(values) for values in zip(*done, strict=True))
    return answered, refused, answered + refused


# --- a soak ---------------------------------------------------------------------------------------------------------


def soak(folder: Path, frames: int, calls: int, until: float) -> list[dict[str, Any]]:
    """`faceeraser erase` with a long clip, then calls from 8 threads, each compared with one thread's: two rows.

    Growth is of the resident memory from a tenth of the way, once everything is warm, to the end. As many frames are taken
    as the first 300 say that there is time for.
    """
    folder.mkdir(parents=True)
    began = time.monotonic()
    enough = began + (until - began) * 0.85
    _, first = erased(folder, tried := min(300, frames))
    n = min(frames, int((enough - time.monotonic()) / (time.monotonic() - began) * tried * 0.8))
    memory, out = erased(folder, n) if n > tried else ([], first)
    rows = [{"name": "soak", "what": "frames", "n": max(n, tried), "of": frames, "growth": _growth_of(memory),
             "mb": round(max(memory, default=0) / 1e6), "same": out}]  # fmt: skip
    face = Face((landmarks._mean_face() * 16 + [48, 40]).astype(np.float32))
    shades = np.random.default_rng(0).integers(90, 170, (4, 96, 96, 3), np.uint8)
    eraser = Eraser(shipped.PLAN_FILE, front="erase", glasses="off")
    once = [eraser.photograph(image, [face]).image for image in shades]

    def call(k: int) -> bool | None:
        if time.monotonic() > until:
            return None
        return bool(np.array_equal(eraser.photograph(shades[k % 4], [face]).image, once[k % 4]))

    with ThreadPoolExecutor(8) as pool:
        warm = list(pool.map(call, range(calls // 10)))
        before = resident()
        ended = [right for right in [*warm, *pool.map(call, range(calls - len(warm)))] if right is not None]
    rows.append({"name": "soak, 8 threads", "what": "calls", "n": len(ended), "of": calls,
                 "growth": _share(resident(), before), "mb": round(resident() / 1e6), "same": all(ended)})  # fmt: skip
    return rows


def erased(folder: Path, count: int) -> tuple[list[int], bool]:
    """`faceeraser erase` in a process of its own, with a clip of 160 x 120 in which a small face moves: (its resident memory
    in bytes, ten times a second, whether every frame came out and the first ones are not what went in).
    """
    clip, out = folder / f"{count}.mp4", folder / f"{count}-out.mp4"
    face = np.asarray(Image.fromarray(portrait()).resize((120, 120), Image.Resampling.BILINEAR))
    with video.writing(clip, 30) as write:
        for k in range(count):
            frame = np.full((120, 160, 3), 96, np.uint8)
            at = 20 + round(15 * np.sin(k / 20))
            frame[:, at : at + 120] = face
            write(frame)
    program = "import sys\nfrom faceeraser import cli\nsys.exit(cli.main())"
    words = [sys.executable, "-c", program, "erase", str(clip), str(out)]
    memory, page = [], os.sysconf("SC_PAGE_SIZE")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError, IndexError):
                memory.append(int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * page)
            time.sleep(0.1)
        if process.returncode:
            assert process.stderr is not None
            raise RuntimeError(f"faceeraser erase ended with {process.returncode}: {process.stderr.read()[-200:]!r}")
    came = sum(1 for _ in video.Clip(out))
    pairs_of_frames = zip(itertools.islice(video.Clip(clip), 5), itertools.islice(video.Clip(out), 5), strict=True)
    changed = all(np.abs(a.image.astype(int) - b.image.astype(int)).max() > 40 for a, b in pairs_of_frames)
    return memory, came == count and changed


def _growth_of(memory: Sequence[int]) -> float | None:
    """From what was resident a tenth to a fifth of the way to what was at the end, as medians."""
    if len(memory) < 40:
        return None
    tenth = len(memory) // 10
    return _share(np.median(memory[-tenth // 2 :]), np.median(memory[tenth : 2 * tenth]))


def _share(now: Any, before: Any) -> float:
    return round(float(now / before) - 1, 4)


# --- the script -----------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="for all of it (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=f"some of {', '.join(PARTS)} (default: all)")  # fmt: skip
    parser.add_argument("--count", type=int, help="of inputs or kills or whatever is broken, in place of the full number")
    script.add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Break, tell, and exit with 1 where something broke."""
    if args.minutes <= 0:
        raise ValueError(f"--minutes {args.minutes}: expected more than none")
    began, rows = time.monotonic(), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as scratch:
        for number, part in enumerate(args.only, 1):
            until, folder = began + 60 * args.minutes * number / len(args.only), Path(scratch) / part
            if part == "inputs":
                rows.append(inputs(folder, args.count or INPUTS, args.seed, until))
            elif part in ("kills", "exporters"):
                rows.append(kills(folder, args.count or KILLS, args.seed, until, heavy=part == "exporters"))
            elif part == "circumstances":
                rows.append(circumstances(folder, args.seed, until))
            elif part == "server":
                rows.append(server(args.count or 500, 10.0, args.seed, until))
            else:
                rows += soak(folder, args.count or FRAMES, args.count or CALLS, until)
    result = results.result(rows, None, args.command)
    rows = [{**row, "by": result["command"], "commit": result["commit"]} for row in rows]  # parts may be run one by one
    result["rows"] = rows
    if args.json:
        kept = results.read_result(args.json)["rows"] if args.json.is_file() else []
        measured = {row["name"] for row in rows}
        results.write_result(args.json, {**result, "rows": [row for row in kept if row["name"] not in measured] + rows})
    bad = ("lost", "survivors", "tracebacks", "hangs", "over_2gb", "believed", "wrong")
    shown = [{"name": row["name"], "n": row["n"], **{key: row.get(key) for key in (*bad, "growth")}} for row in rows]
    script.finish("Broken, and what came of it", shown, result)
    failed = [f"{row['name']}: {key} {row[key]}" for row in rows for key in bad if row.get(key)]
    if failed:
        raise script.GateFailed("; ".join(failed))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

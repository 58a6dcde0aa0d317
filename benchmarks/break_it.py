"""Break it: kill every stage that writes, feed every reader what is damaged or absurd, and let it run for long.

    python benchmarks/break_it.py --minutes 30 --seed 1 --json benchmarks/results/break_it.json

`kills`: a stage runs in a child that ends itself by kill -9 at a random moment (or hears SIGTERM or Ctrl-C), chosen among
its calls that open, make, rename and remove, and some milliseconds on. Then every final path has to be whole or absent, the
same command (with --resume) has to end with the bytes of an unbroken run, times and dates excepted, nothing may be left
lying, and no child process may be left alive: `n`, `lost`, by stage. `inputs`: damaged by bits, cuts, splices and lengths
that lie, and whole files with absurd content; each is read in a child that is watched: `n`, `tracebacks` (whatever is not
the one clear line of a ValueError or OSError, a crash of the process among them), `hangs` (10 s of processor time),
`over_2gb`, `believed` (damage that a checksum or another reader shows, and we did not). `server`: requests on the loopback.
`soak`: frames, and calls from 8 threads: `n`, `growth` of memory after warm-up, `same` bytes as one thread's. The parts
share the minutes; what does not come to its full number says so by its `n`. docs/reliability.md tells what is promised.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import hashlib
import importlib.util
import io
import itertools
import json
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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from faceeraser import cli, inspecting, serve, shipped
from faceeraser.artifacts import contents
from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.card import SCHEMA_FILE, card_path, read_card
from faceeraser.artifacts.runtimes import ports_of
from faceeraser.erasing import Eraser
from faceeraser.face import effects, landmarks, picture, video
from faceeraser.face.mesh import Face
from faceeraser.measurement import device, results, timings
from faceeraser.model import checkpoint, pairs
from faceeraser.system import script
from faceeraser.training import splits

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("inputs", "kills", "server", "soak")
INPUTS, KILLS, FRAMES, CALLS = 10_000, 100, 20_000, 2_000
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
    likely = {"battery": (0, 100), "battery_c": (-60, 150), "skin_c": (-60, 150), "throttling": (0, 6), "sdk": (1, 200)}
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
    rooms = {name: folder / name for name in ("pictures", "videos", "models", "bare", "texts", "onnx")}
    for room in rooms.values():
        room.mkdir(parents=True)
    small_checkpoint(folder / "run")
    small_data(folder / "data")
    model = shutil.copy(shipped.OCCLUSION_FILE, rooms["bare"] / "m.tflite")
    carded = Path(shutil.copy(shipped.PLAN_FILE, rooms["models"] / "m.tflite"))
    card = Path(shutil.copy(card_path(shipped.PLAN_FILE), card_path(carded)))
    onnx = write_onnx(rooms["onnx"] / "m.onnx")
    texts = {
        "l.json": json.dumps({"format": landmarks.FORMAT, "version": landmarks.VERSION, "layout": "ibug68", "frames": [
            {"faces": [[[float(x), float(7 * x % 41)] for x in range(68)]]} for _ in range(3)]}),
        "e.json": effects.FILE.read_text(), "t.txt": TIMING, "p.txt": PHONE,
        "manifest.csv": "file,split,group\n" + "".join(f"{k}.jpg,{'val' if k < 3 else 'train'},{k}\n" for k in range(9)),
    }  # fmt: skip
    for name, text in texts.items():
        (rooms["texts"] / name).write_text(text)
    pictures, run, data = whole_pictures(rooms["pictures"]), folder / "run", folder / "data"
    json_files = [run / name for name in ("config.json", "history.json", "quantization.json")]
    return [
        Kind("pictures", pictures, read_picture, 30),
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
        Kind("benchmark_model", [rooms["texts"] / "t.txt"], read_timing, 4, absurd_text),
        Kind("adb", [rooms["texts"] / "p.txt"], read_phone, 4, absurd_text),
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


def broken(kind: Kind, number: int, seed: int) -> tuple[Path, bytes, bytes]:
    """(the whole file, its bytes, those of the broken one) of an input, which its number and the seed settle."""
    chance = random.Random(f"{seed} {kind.name} {number}")
    path = chance.choice(kind.files)
    whole = path.with_name(path.name + ".whole").read_bytes()
    breaks = kind.absurd if chance.random() < 0.5 else mutated
    return path, whole, breaks(whole, chance)


def read_one(kind: Kind, number: int, seed: int) -> dict[str, Any]:
    """Read one input as a command would: how it ended. The whole file is put back."""
    path, whole, data = broken(kind, number, seed)
    path.write_bytes(data)
    try:
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
    null = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):  # decoders in C say what they like
        os.dup2(null, number)
    with open(answers, "a", buffering=1) as lines:
        for index in range(begin, len(work)):
            at[:16] = struct.pack("<qd", index, time.process_time())
            kind, number = work[index]
            ended = read_one(kind, number, seed)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            lines.write(json.dumps({"index": index, **ended, "large": peak > MOST_BYTES}) + "\n")
            if peak > MOST_BYTES or index % 500 == 499:
                break  # a fresh child, with a fresh peak
    at[:16] = struct.pack("<qd", index + 1, 0.0)
    os._exit(0)


def _seconds(pid: int) -> float:
    """Processor time of a process so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def inputs(folder: Path, count: int, seed: int, until: float) -> dict[str, Any]:
    """Read broken files: the row `inputs`."""
    known_kinds = kinds(folder)
    for path in {path for kind in known_kinds for path in kind.files}:
        shutil.copy(path, path.with_name(path.name + ".whole"))
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
                path, whole, _ = broken(kind, number, seed)
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

    makes: what is there at the end, under that folder. resume: arguments to continue with, if it can.
    """

    name: str
    script: str
    arguments: Sequence[str]
    makes: Sequence[str]
    resume: Sequence[str] = ()
    heavy: bool = False


SMALL = (
    "--size", "64", "--shrink", "1", "--width", "4", "--blocks", "1", "--batch", "2", "--perceptual", "off",
    "--adversarial", "0",
)  # fmt: skip
"""A network that is trained in seconds."""


def stages(given: Path) -> list[Stage]:
    """Every stage that writes, on tiny networks and pictures in the folder `given`."""
    data, fp32, int8 = given / "data", given / "fp32", given / "int8"
    tune = ["--data", str(data), "--batch", "2", "--steps", "4"]
    small = ["--phase", "all", *SMALL, "--steps", "6", "--save-every", "2"]
    synthetic = ["{0}/t", "--source", "synthetic", "--size", "64", "--limit", "12"]
    return [
        Stage("prepare", "train/prepare.py", [*synthetic, "--workers", "1"], ["t"], ["--resume"]),
        Stage("train", "train/train.py", [str(data), "{0}/t", *small], ["t"], ["--resume"]),
        Stage("prune", "compress/prune.py", [str(fp32), "{0}/t", *tune, "--keep", "0.5"], ["t"]),
        Stage("slim", "compress/slim.py", [str(fp32), "{0}/t", *tune, "--share", "0.1"], ["t"]),
        Stage("distil", "compress/distil.py", [str(fp32), "{0}/t", *tune, "--teacher", str(fp32)], ["t"]),
        Stage("quantize", "compress/quantize.py", [str(fp32), "{0}/t", *tune], ["t"]),
        Stage("fidelity", "benchmarks/fidelity.py",
              [str(int8), "--reference", str(fp32), "--data", str(data), "--limit", "2", "--json", "{0}/t.json"],
              ["t.json"]),
        Stage("report", "benchmarks/report.py", [str(given / "fidelity.json"), "{0}/t.html"], ["t.html"]),
        Stage("erase, a folder", "", ["erase", str(given / "photos"), "{0}/t"], ["t"], ["--overwrite"]),
        Stage("erase, a video", "", ["erase", str(given / "clip.mp4"), "{0}/t.mp4", "--landmarks", str(given / "clip.json")],
              ["t.mp4"]),
        Stage("landmark models", "landmarks", [], ["cache"]),
        Stage("make setup", "make", [], ["t"]),
        Stage("to_onnx", "export/to_onnx.py", [str(fp32), "{0}/t"], ["t"], heavy=True),
        Stage("to_coreml", "export/to_coreml.py", [str(fp32), "{0}/t"], ["t"], heavy=True),
        Stage("to_tflite", "export/to_tflite.py", [str(fp32), "{0}/t"], ["t"], heavy=True),
        Stage("fit_budget", "compress/fit_budget.py",
              [str(fp32), "{0}/t", "--data", str(data), "--max-params", "9000", "--max-drop", "99", "--max-texture", "99",
               "--rounds", "1", "--trial-steps", "1", "--steps", "2", "--distil-steps", "2", "--qat-steps", "2"],
              ["t"], ["--resume"], heavy=True),
    ]  # fmt: skip


def given_to_stages(folder: Path) -> None:
    """What the stages start from: data, networks, photographs, a clip with landmarks, a wheel with the landmark models."""
    small_data(folder / "data")
    _must("train/train.py", [str(folder / "data"), str(folder / "fp32"), "--phase", "all", *SMALL, "--steps", "2"])
    tune = [str(folder / "int8"), "--data", str(folder / "data"), "--steps", "2", "--batch", "2"]
    _must("compress/quantize.py", [str(folder / "fp32"), *tune])
    arguments = ["--reference", str(folder / "fp32"), "--data", str(folder / "data"), "--limit", "2"]
    _must("benchmarks/fidelity.py", [str(folder / "int8"), *arguments, "--json", str(folder / "fidelity.json")])
    (folder / "photos").mkdir()
    face = portrait()
    for k, name in enumerate(("a.png", "b.jpg", "c.png")):
        Image.fromarray(np.ascontiguousarray(face[:, :: -1 if k else 1])).save(folder / "photos" / name)
    mesh = [[float(x), float(y)] for x, y in landmarks._mean_face() * 20 + [48, 40]]
    with video.writing(folder / "clip.mp4", 10) as write:
        for _ in range(6):
            write(np.asarray(Image.fromarray(face).resize((96, 96))))
    known = {"format": landmarks.FORMAT, "version": landmarks.VERSION, "layout": "mediapipe468"}
    (folder / "clip.json").write_text(json.dumps({**known, "frames": [{"faces": [mesh]}] * 6}))
    wheel_of_landmarks(folder / "wheels")


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


def run_stage(stage: Stage, folder: Path, given: Path, again: bool = False) -> int:
    """Run a stage in this process; its exit code."""
    arguments = [word.format(folder) for word in (*stage.arguments, *(stage.resume if again else ()))]
    if stage.script == "landmarks":
        from faceeraser.face import landmark_models

        os.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(given / "wheels"), "PIP_CONFIG_FILE": os.devnull}
        with script.stoppable():
            landmark_models.fetch(folder / "cache")
        return 0
    if stage.script == "make":
        fake = _fake_python(folder, given)
        return subprocess.run(["make", "-s", "setup", f"PYTHON={fake}"], cwd=folder / "t", check=False).returncode
    code: int = script_module(stage.script).main(arguments) if stage.script else cli.main(arguments)
    return code


def _fake_python(folder: Path, given: Path) -> Path:
    """A checkout's Makefile, and a Python that installs nothing: it notes what it was asked to do, and takes its time."""
    place = folder / "t"
    place.mkdir(exist_ok=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "constraints-legacy.txt"):
        (place / name).write_bytes((ROOT / name).read_bytes())
        os.utime(place / name, (0, 0))
    fake = given / "python"
    command = f"mkdir -p .venv/bin; ln -sf {fake} .venv/bin/python"
    fake.write_text(f'#!/bin/sh\nsleep 0.03\ncase "$2" in venv) {command};; esac\n')
    fake.chmod(0o755)
    return fake


# --- kills: the child that ends at a random moment ------------------------------------------------------------------

WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree", "shutil.copyfile"}


def in_child(
    stage: Stage, folder: Path, given: Path, at: int | None = None, number: int = 0, late: float = 0.0, again: bool = False
) -> tuple[int, int]:
    """Run a stage in a forked child: (its exit code, how many watched calls it made).

    at: it gets the signal `number` at that call, `late` seconds on; None: never. A group of its own, which has to be empty
    once it has ended: what is not is killed and makes the exit code 999.
    """
    count = mmap.mmap(-1, 8)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        sink = os.open(folder / ".said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for target in (1, 2):
            os.dup2(sink, target)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        calls = itertools.count(1)

        def hook(event: str, _words: Any) -> None:
            if event in WATCHED:
                call = next(calls)
                count[:8] = struct.pack("<q", call)
                if call == at:
                    target = 0 if number == signal.SIGKILL else os.getpid()  # kill -9: with all that it has started
                    threading.Timer(late, lambda: os.kill(target, number)).start()

        sys.addaudithook(hook)
        code = 1
        try:
            code = run_stage(stage, folder, given, again)
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
            code = 998
        finally:
            sys.stdout.flush()
            os._exit(code % 256 if code != 998 else 98)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, 0)
        time.sleep(2.0)  # a child that was told to end
        os.killpg(pid, signal.SIGKILL)
        code = 999
    return code, int(struct.unpack("<q", count[:8])[0])


def digest(path: Path) -> dict[str, str]:
    """{name: sha256} of all files below a path, or of it. Of JSON and HTML what tells times is left out."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] if path.exists() else []
    digests = {}
    for file in files:
        if file.name.startswith("events.out.tfevents"):
            continue
        data = file.read_bytes()
        if file.suffix == ".json":
            data = json.dumps(_timeless(json.loads(data)), sort_keys=True).encode()
        elif file.suffix == ".html":
            data = b"".join(line for line in data.splitlines() if b"20" not in line)
        digests[file.relative_to(path).as_posix() if path.is_dir() else file.name] = hashlib.sha256(data).hexdigest()
    return digests


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        timed = ("time", "seconds", "command", "ms", "commit")
        return {key: _timeless(each) for key, each in value.items() if not any(word in key for word in timed)}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


@dataclass
class Broken:
    """What came of the kills of one stage."""

    kills: int = 0
    stops: int = 0
    lost: int = 0
    survivors: int = 0
    why: list[str] = field(default_factory=list)
    not_run: str = ""


def kill_once(
    stage: Stage, whole: Mapping[str, Any], given: Path, chance: random.Random, folder: Path
) -> tuple[int, list[str]]:
    """(the signal, what was lost) of one broken run and the one that goes on from it."""
    number = chance.choice((signal.SIGKILL,) * 4 + (signal.SIGTERM, signal.SIGINT))
    at, late = chance.randint(1, max(1, whole["calls"])), chance.choice((0.0, 0.002, chance.random() * 0.1))
    folder.mkdir()
    code, _ = in_child(stage, folder, given, at, int(number), late)
    said = (folder / ".said").read_text(errors="replace")
    moment = f"{number.name} at call {at} of {whole['calls']}, {late:.3f} s on"
    lost = [f"{moment}: a child process lived on"] if code == 999 else []
    if number != signal.SIGKILL and "Traceback" in said:
        lost.append(f"{moment}: a traceback: {said.strip().splitlines()[-1][:120]}")
    for name in stage.makes:  # a folder that is filled file by file: each file is whole or absent
        seen = digest(folder / name)
        filled = stage.name in ("erase, a folder", "landmark models", "make setup") or stage.script.startswith("export/")
        seen = {file: sha for file, sha in seen.items() if not Path(file).name.startswith(".") and "/." not in f"/{file}"}
        if seen and seen != whole[name] and not (filled and seen.items() <= whole[name].items()):
            lost.append(f"{moment}: {name} was there and not whole")
    finished = bool(digest(folder / stage.makes[-1])) and digest(folder / stage.makes[-1]) == whole[stage.makes[-1]]
    if not finished or stage.resume:
        code, _ = in_child(stage, folder, given, again=True)
    for name in stage.makes:
        if (now := digest(folder / name)) != whole[name]:
            other = sorted(set(now.items()) ^ set(whole[name].items()))[:2]
            tail = (folder / ".said").read_text(errors="replace").strip().splitlines()[-1:]
            lost.append(f"{moment}: afterwards {name} differs in {[file for file, _ in other]}, exit code {code} {tail}")
    left = sorted({path.name for path in folder.iterdir()} - {*whole["names"]})
    if left:
        lost.append(f"{moment}: left lying: {left}")
    return int(number), lost


def kills(folder: Path, count: int, seed: int, until: float, heavy: bool = True) -> dict[str, Any]:
    """Kill every stage in turn: the row `kills`."""
    given, chance = folder / "given", random.Random(seed)
    given.mkdir(parents=True)
    given_to_stages(given)
    tally: dict[str, Broken] = {}
    wholes: dict[str, dict[str, Any]] = {}
    order = [each for each in stages(given) if heavy or not each.heavy]
    with tqdm(total=count, desc="kills", disable=None) as bar:
        for turn in itertools.count():
            for each in order:
                if bar.n >= count or time.monotonic() > until:
                    return _row_of_kills(tally)
                if each.name not in tally:
                    tally[each.name] = Broken()
                    try:
                        wholes[each.name] = unbroken(each, given, folder / f"whole-{len(tally)}")
                    except RuntimeError as error:
                        tally[each.name].not_run = " ".join(str(error).split())[-300:]
                if each.name not in wholes:
                    continue
                number, lost = kill_once(each, wholes[each.name], given, chance, room := folder / f"{turn}")
                shutil.rmtree(room)
                mine = tally[each.name]
                mine.kills += number == signal.SIGKILL
                mine.stops += number != signal.SIGKILL
                mine.lost += bool(lost)
                mine.survivors += any("lived on" in why for why in lost)
                mine.why += lost
                bar.update()
    raise AssertionError


def unbroken(stage: Stage, given: Path, folder: Path) -> dict[str, Any]:
    """What a run that nobody breaks leaves: {name: digest} of what it makes, how many calls, and all names."""
    folder.mkdir()
    code, calls = in_child(stage, folder, given)
    if code != 0:
        raise RuntimeError(f"{stage.name} ended with {code}: {(folder / '.said').read_text(errors='replace')[-400:]}")
    return {
        "calls": calls,
        "names": [path.name for path in folder.iterdir()],
        **{n: digest(folder / n) for n in stage.makes},
    }


def _row_of_kills(tally: Mapping[str, Broken]) -> dict[str, Any]:
    every = list(tally.values())
    return {
        "name": "kills", "n": sum(each.kills + each.stops for each in every), "lost": sum(each.lost for each in every),
        "sigkill": sum(each.kills for each in every), "sigterm_or_sigint": sum(each.stops for each in every),
        "survivors": sum(each.survivors for each in every),
        "by_stage": {name: each.kills + each.stops for name, each in tally.items()},
        "not_run": {name: each.not_run for name, each in tally.items() if each.not_run},
        "examples": [f"{name}: {why}" for name, each in tally.items() for why in each.why][:20],
    }  # fmt: skip


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


def soak(frames: int, calls: int, until: float) -> list[dict[str, Any]]:
    """Frames through an eraser, then calls of it from 8 threads, each compared with one thread's: two rows.

    Growth is of the resident memory from a tenth of the way, once everything is warm, to the end.
    """
    face = Face((landmarks._mean_face() * 16 + [48, 40]).astype(np.float32))
    shades = np.random.default_rng(0).integers(90, 170, (4, 96, 96, 3), np.uint8)
    eraser = Eraser(shipped.PLAN_FILE, front="erase", glasses="off")
    once = [eraser.photograph(image, [face]).image for image in shades]
    half = time.monotonic() + (until - time.monotonic()) / 2
    known: Any = Faces([face])
    first, same, n = 0, True, 0
    images = ((shades[k % 4], 1 / 30) for k in range(frames))
    for erased in eraser.frames(images, known):
        n += 1
        first = first or (resident() if n >= max(50, frames // 10) else 0)
        same = same and erased.image.shape == shades[0].shape
        if time.monotonic() > half:
            break
    rows = [{"name": "soak", "what": "frames", "n": n, "of": frames, "growth": _grown(first), "same": same}]

    def call(k: int) -> bool | None:
        if time.monotonic() > until:
            return None
        return bool(np.array_equal(eraser.photograph(shades[k % 4], [face]).image, once[k % 4]))

    with ThreadPoolExecutor(8) as pool:
        warm = list(pool.map(call, range(min(calls, 40))))
        first = resident()
        ended = [right for right in [*warm, *pool.map(call, range(calls - len(warm)))] if right is not None]
    rows.append({"name": "soak, 8 threads", "what": "calls", "n": len(ended), "of": calls, "growth": _grown(first),
                 "same": all(ended)})  # fmt: skip
    return rows


def _grown(before: int) -> float | None:
    return round(resident() / before - 1, 4) if before else None


class Faces(landmarks.Landmarks):
    """The same faces in every frame, without end."""

    def __init__(self, faces: Sequence[Face]) -> None:
        self._faces = list(faces)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> list[Face]:
        return self._faces


# --- the script -----------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="for all of it (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=f"some of {', '.join(PARTS)} (default: all)")  # fmt: skip
    parser.add_argument("--count", type=int, help="of inputs or kills or whatever is broken, in place of the full number")
    parser.add_argument("--light", action="store_true", help="kill no exporter and no fit_budget, which take long")
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
            elif part == "kills":
                rows.append(kills(folder, args.count or KILLS, args.seed, until, heavy=not args.light))
            elif part == "server":
                rows.append(server(args.count or 500, 10.0, args.seed, until))
            else:
                rows += soak(args.count or FRAMES, args.count or CALLS, until)
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

"""Videos and cameras: what is read and written, how faces are followed, and what can be wrong with either."""

import collections
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import script

from faceeraser import cli, erasing, holding, jobs, shipped
from faceeraser.erasing import Eraser
from faceeraser.face import tracking, video
from faceeraser.face.finder import Detection, FaceFinder, shared
from faceeraser.face.mesh import LIPS, Face
from faceeraser.face.tracking import Constants, OneEuro, Tracker

ROOT = Path(__file__).resolve().parent.parent
FPS = 25.0
wild = script("benchmarks/wild.py")  # it makes awkward videos, and reads what comes out with other tools


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    import skimage.data

    return np.ascontiguousarray(skimage.data.astronaut())


def scene(image: np.ndarray, shift: float = 0.0, turn: float = 0.0, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """The astronaut's head in a small frame."""
    matrix = cv2.getRotationMatrix2D((224, 110), turn, 0.8)
    matrix[:, 2] += [size[0] / 2 - 224 + shift, size[1] / 2 - 110]
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)


def moving(image: np.ndarray, count: int) -> list[np.ndarray]:
    return [scene(image, 25 * np.sin(k / 6), 6 * np.sin(k / 9)) for k in range(count)]


def images(path: Path) -> list[np.ndarray]:
    return [frame.image for frame in video.Clip(path)]


def write(path: Path, frames: list[np.ndarray], fps: float = FPS) -> Path:
    with video.writing(path, fps) as one:
        for frame in frames:
            one(frame)
    return path


@pytest.fixture(scope="module")
def clip(astronaut: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames of the astronaut, moving, without loss."""
    return write(tmp_path_factory.mktemp("clip") / "clip.mkv", moving(astronaut, 24))


@pytest.fixture(scope="module")
def finder(landmarks: None) -> FaceFinder:
    return shared()


def run(*arguments: object) -> int:
    return cli.main([str(word) for word in arguments])


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def errors(capfd: pytest.CaptureFixture[str]) -> str:
    """The one line of the error; by descriptor, so that what a library prints counts too. (LiteRT's greeting does not.)"""
    (line,) = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("INFO: Created TensorFlow Lite")]
    assert line.startswith("faceeraser: "), line
    return line


# --- reading and writing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", list(video.WRITABLE))
def test_what_is_written_can_be_read(ending, tmp_path, astronaut):
    frames = moving(astronaut, 5)
    back = video.Clip(write(tmp_path / f"a{ending}", frames))
    read = [frame.image for frame in back]
    assert len(read) == back.read == back.frames == 5 and back.fps == pytest.approx(FPS) and not back.damage
    worst = max(np.abs(a.astype(int) - b).mean() for a, b in zip(frames, read, strict=True))
    assert worst == 0 if ending == ".mkv" else worst < 8
    assert files(tmp_path) == [f"a{ending}"]


def test_an_odd_row_and_column_are_left_out(tmp_path):
    odd = np.random.default_rng(0).integers(0, 255, (33, 47, 3), dtype=np.uint8)
    (back,) = images(write(tmp_path / "a.mp4", [odd]))
    assert back.shape == (32, 46, 3)
    (whole,) = images(write(tmp_path / "a.mkv", [odd]))
    assert np.array_equal(whole, odd)


@pytest.mark.parametrize("reason", ["error", "interrupt", "no frame", "another size"])
def test_nothing_half_written_is_left(reason, tmp_path, monkeypatch, astronaut):
    frame = scene(astronaut)
    expected: type[BaseException] = KeyboardInterrupt if reason == "interrupt" else ValueError
    (tmp_path / "a.mp4").write_text("mine")
    with pytest.raises(expected), video.writing(tmp_path / "a.mp4", FPS) as one:
        if reason != "no frame":
            one(frame)
        if reason == "another size":
            one(frame[:100])
        if reason in ("error", "interrupt"):
            raise expected("stop")
    assert files(tmp_path) == ["a.mp4"] and (tmp_path / "a.mp4").read_text() == "mine"


# --- what survives: read with ffprobe and ffmpeg ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ffprobe() -> None:
    """Without it a visible skip, or a failure under FACEERASER_NO_SKIP=1."""
    if shutil.which("ffprobe") is None:
        if os.environ.get("FACEERASER_NO_SKIP") == "1":
            pytest.fail("ffprobe is not installed, and FACEERASER_NO_SKIP=1")
        pytest.skip("ffprobe is not installed")


PATCH = (slice(60, 100), slice(100, 180))  # where SKIN is painted into every frame
SKIN = (200, 120, 60)


def painted(source: Path, target: Path, **options: object) -> list[str]:
    """Paint SKIN into the PATCH of every frame; what was said about the result."""
    clip = video.Clip(source)
    with video.writing(target, clip=clip, **options) as put:  # type: ignore[arg-type]
        for frame in clip:
            image, mask = frame.image.copy(), np.zeros(frame.image.shape[:2], bool)
            mask[PATCH] = True
            image[mask] = SKIN
            put(image, frame, mask)
    return clip.notes


def fields(path: Path, *names: str) -> list[object]:
    (stream,) = [each for each in wild.of_kind(wild.probe(path), "video") if not each["disposition"]["attached_pic"]]
    return [stream.get(name) for name in names]


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
def test_frames_keep_their_times(ffprobe, tmp_path, ending):
    """A second at 30 and then at 10 frames a second: by its mean rate it would be most of a second off its sound."""
    times = [Fraction(k, 30) if k < 10 else Fraction(1, 3) + Fraction(k - 10, 10) for k in range(20)]
    wild.film(tmp_path / "a.mp4", times=times, count=20, begin=Fraction(1, 4))
    assert painted(tmp_path / "a.mp4", tmp_path / f"o{ending}") == []
    assert np.abs(np.subtract(wild.moments(tmp_path / f"o{ending}"), [float(t) + 0.25 for t in times])).max() < 0.002


def test_an_avi_has_one_rate(ffprobe, tmp_path):
    times = [Fraction(k, 30) if k < 10 else Fraction(1, 3) + Fraction(k - 10, 10) for k in range(20)]
    wild.film(tmp_path / "a.mp4", times=times, count=20, sound=["eng"])
    assert [line for line in painted(tmp_path / "a.mp4", tmp_path / "o.avi") if "varying times" in line]
    lasts = wild.moments(tmp_path / "o.avi")[-1]
    assert abs(lasts - float(times[-1])) < 0.08


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
@pytest.mark.parametrize("tags", [(1, 1, 1, 1), (6, 6, 6, 1), (9, 9, 16, 1), (1, 1, 1, 2)])
def test_colours_mean_what_they_meant(ffprobe, tmp_path, ending, tags):
    """The tags are those of the source, a green field is shown as it was, and the patch as it was painted."""
    wild.film(tmp_path / "a.mp4", colours=tags, count=3, image=wild._patch((27, 199, 28)), options={"crf": "1"})
    painted(tmp_path / "a.mp4", tmp_path / f"o{ending}", quality=95)
    names = ("color_space", "color_primaries", "color_transfer", "color_range")
    assert fields(tmp_path / f"o{ending}", *names) == fields(tmp_path / "a.mp4", *names)
    before, after = (wild.shown(tmp_path / name)[0].astype(int) for name in ("a.mp4", f"o{ending}"))
    assert np.abs(before[5:25, 20:60].reshape(-1, 3).mean(0) - after[5:25, 20:60].reshape(-1, 3).mean(0)).max() < 2
    (back,) = images(tmp_path / f"o{ending}")[:1]
    middle = back[70:90, 120:160].reshape(-1, 3).mean(0)
    assert np.abs(middle - SKIN).max() < 5, middle


def luma(path: Path, shape: tuple[int, int], pixel_format: str) -> np.ndarray:
    """The first plane of the first frame, of 16-bit samples."""
    arguments = ["ffmpeg", "-v", "error", "-i", str(path), "-frames:v", "1", "-pix_fmt", pixel_format, "-f", "rawvideo", "-"]
    raw = subprocess.run(arguments, capture_output=True, check=True).stdout
    return np.frombuffer(raw, "<u2")[: shape[0] * shape[1]].reshape(shape)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "yuva420p", "yuv420p10le", "gray", "bgr0"])
def test_in_mkv_nothing_but_the_patch_changes(ffprobe, tmp_path, pixel_format):
    """Sample by sample, as ffmpeg decodes both: depth, halved colours and transparency are the source's."""
    wild.film(tmp_path / "a.mkv", codec="ffv1", pixel_format=pixel_format, count=2)
    assert painted(tmp_path / "a.mkv", tmp_path / "o.mkv") == []
    assert fields(tmp_path / "o.mkv", "pix_fmt") == [pixel_format]
    before, after = (wild.shown(tmp_path / name)[0] for name in ("a.mkv", "o.mkv"))
    far = np.ones(before.shape[:2], bool)
    far[PATCH[0].start - 2 : PATCH[0].stop + 2, PATCH[1].start - 2 : PATCH[1].stop + 2] = False  # colour is interpolated
    if pixel_format == "yuv420p10le":  # ffmpeg dithers what it cuts to 8 bits: its own luma then
        before, after = (luma(tmp_path / name, before.shape[:2], pixel_format) for name in ("a.mkv", "o.mkv"))
        far[PATCH] = False
    assert np.array_equal(before[far], after[far])
    after = wild.shown(tmp_path / "o.mkv")[0]
    middle = after[70:90, 120:160].reshape(-1, 3).mean(0)
    wanted = SKIN if pixel_format != "gray" else [137] * 3
    assert np.abs(middle - wanted).max() < 4


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_video_is_shown_upright_and_stays_turned(ffprobe, tmp_path, turn):
    one = 65536
    matrix = {90: (0, -one, 0, one, 0, 0), 180: (-one, 0, 0, 0, -one, 0), 270: (0, one, 0, -one, 0, 0)}[turn]
    wild.film(tmp_path / "a.mp4", matrix=[*matrix, 0, 0, 1 << 30], count=2)
    expected = wild.shown(tmp_path / "a.mp4")[0]
    clip = video.Clip(tmp_path / "a.mp4")
    image = next(iter(clip)).image
    assert clip.size == expected.shape[1::-1] and np.abs(image.astype(int) - expected).mean() < 2
    assert np.array_equal(clip.upright(clip.stored(image)), image)
    painted(tmp_path / "a.mp4", tmp_path / "o.mp4")
    after = wild.shown(tmp_path / "o.mp4")[0]
    assert np.abs(after[70:90, 120:160].reshape(-1, 3).mean(0) - SKIN).max() < 8, "painted where it is shown"
    with pytest.raises(ValueError, match=r"expected an OUT that ends in \.mp4"):
        painted(tmp_path / "a.mp4", tmp_path / "o.avi")
    assert not (tmp_path / "o.avi").exists()


def test_pixel_shape_and_fields_are_kept(ffprobe, tmp_path):
    more = {"interlaced": True, "size": (720, 576), "rate": Fraction(25), "shape": Fraction(64, 45), "count": 3}
    wild.film(tmp_path / "a.ts", options={"x264-params": "tff=1"}, **more)
    painted(tmp_path / "a.ts", tmp_path / "o.mp4")
    names = ("sample_aspect_ratio", "field_order", "width", "height")
    assert fields(tmp_path / "o.mp4", *names) == fields(tmp_path / "a.ts", *names) == ["64:45", "tt", 720, 576]


def test_tracks_languages_and_chapters_come_along(ffprobe, tmp_path):
    wild._with_text(tmp_path / "a.mkv")
    assert painted(tmp_path / "a.mkv", tmp_path / "o.mkv") == []
    probed = wild.probe(tmp_path / "o.mkv")
    assert [(stream["codec_type"], stream["tags"].get("language")) for stream in probed["streams"]][1:] == [
        ("audio", "deu"),
        ("audio", "fra"),
        ("subtitle", "eng"),
    ]
    assert [stream["tags"]["title"] for stream in probed["chapters"]] == ["part 0", "part 1"]
    assert painted(tmp_path / "a.mkv", tmp_path / "o.mp4") == [
        "its subtitle track 1 (srt, eng) became mov_text, the one kind that .mp4 holds"
    ]
    arguments = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "o.mp4"), "-map", "0:s", "-f", "srt", "-"]
    said = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert said.split("\n\n")[:2] == ["1\n00:00:00,000 --> 00:00:00,300\nhello", "2\n00:00:00,300 --> 00:00:00,390\nagain"]
    assert wild.of_kind(wild.probe(tmp_path / "o.mp4"), "subtitle")[0]["tags"]["language"] == "eng"
    assert painted(tmp_path / "a.mkv", tmp_path / "o.avi")[0] == (
        "its subtitle track 1 (srt, eng) was left out: .avi cannot hold it"
    )
    assert len(wild.of_kind(wild.probe(tmp_path / "o.mp4"), "audio")) == 2
    assert painted(tmp_path / "a.mkv", tmp_path / "silent.mp4", tracks=False) == []
    assert not wild.of_kind(wild.probe(tmp_path / "silent.mp4"), "audio")


def test_sound_is_copied_packet_by_packet_or_encoded_anew_and_said(ffprobe, tmp_path):
    wild.film(tmp_path / "a.mkv", count=20, sound=["eng"], sound_codec="libopus")

    def packets(path: Path) -> list[str]:
        arguments = [
            "ffprobe",
            "-v",
            "error",
            "-select_streams",
            "a",
            "-show_packets",
            "-show_data_hash",
            "md5",
            "-of",
            "json",
        ]
        done = subprocess.run([*arguments, str(path)], capture_output=True, text=True, check=True)
        return [packet["data_hash"] for packet in json.loads(done.stdout)["packets"]]

    assert painted(tmp_path / "a.mkv", tmp_path / "o.mp4") == []
    assert packets(tmp_path / "o.mp4") == packets(tmp_path / "a.mkv") != []
    (said,) = painted(tmp_path / "a.mkv", tmp_path / "o.avi")
    assert said == "its sound track 1 (opus, eng) was encoded anew: .avi does not take it as it is"
    (sound,) = wild.of_kind(wild.probe(tmp_path / "o.avi"), "audio")
    assert sound["codec_name"] == "mp3" and float(sound["duration"]) == pytest.approx(20 / 30, abs=0.1)


def test_facts_of_a_video_are_kept_when_they_are_asked_for(ffprobe, tmp_path):
    wild.film(tmp_path / "a.mp4", count=2, metadata={"title": "a walk", "location": "+48.1+011.5/"})
    for options in ({}, {"metadata": True}, {"gps": True}):
        painted(tmp_path / "a.mp4", tmp_path / "o.mp4", **options)
        tags = wild.probe(tmp_path / "o.mp4")["format"].get("tags", {})
        assert ("title" in tags) == ("metadata" in options) and ("location" in tags) == ("gps" in options)


def test_frames_that_a_container_counts_and_does_not_show_are_not_missed(ffprobe, finder, tmp_path, capfd):
    """Cut without encoding, a file holds frames before its beginning: its count is no promise."""
    (case,) = [one for one in wild.timing() if one.kind == "false alarms"]
    (tmp_path / "in").mkdir()
    case.make(tmp_path / "in")
    clip = video.Clip(tmp_path / "in" / "a.mp4")
    read = len(list(clip))
    assert clip.stream.frames > read and clip.damage == "" and read == len(wild.moments(tmp_path / "in" / "a.mp4"))


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi"])
def test_a_file_that_goes_on_where_it_ends_is_cut_short(tmp_path, ending):
    """By its own outermost boxes; and a whole file is not."""
    wild._half(ending)(tmp_path / f"cut{ending}")
    for name, damage in ((f"cut{ending}", "it is cut short"), (f"whole{ending}", "")):
        clip = video.Clip(tmp_path / name)
        count = len(list(clip))
        assert clip.damage == damage and (count == 40) == (damage == ""), name


def test_names_are_paths(tmp_path, monkeypatch):
    """What looks like a protocol or a pattern is neither, in a relative name too."""
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.mp4", "http:x.mp4", "a%03d.mp4"):
        wild.film(Path(name), count=2)
        painted(Path(name), Path(f"out:{name}"))
        assert len(images(Path(f"out:{name}"))) == 2


def test_quality_is_an_option(tmp_path):
    wild.film(tmp_path / "a.mp4", count=6)
    sizes = []
    for quality in (20, 65, 95):
        painted(tmp_path / "a.mp4", tmp_path / "o.mp4", quality=quality)
        sizes.append((tmp_path / "o.mp4").stat().st_size)
    painted(tmp_path / "a.mp4", tmp_path / "o.mp4")
    assert sizes == sorted(sizes) and sizes[2] > 3 * sizes[0]
    # (x264's own lookahead is not the same to the byte in every run)
    assert (tmp_path / "o.mp4").stat().st_size == pytest.approx(sizes[1], rel=0.03), "65 is the default"


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on the size of files")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """A real one, as far as a process can tell: files may not grow beyond so many bytes."""
    rng = np.random.default_rng(0)
    write(tmp_path / "a.mkv", [rng.integers(0, 255, (120, 160, 3), dtype=np.uint8) for _ in range(20)])
    code = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom faceeraser.face import video\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))\n"
        "clip = video.Clip(Path(sys.argv[1]))\n"
        "try:\n    with video.writing(Path(sys.argv[2]), clip=clip) as write:\n"
        "        for frame in clip: write(frame.image, frame)\n"
        "except (ValueError, OSError) as error: print(type(error).__name__, error); sys.exit(2)\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "a.mkv"), str(tmp_path / "o.mkv")]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert files(tmp_path) == ["a.mkv"]


# --- following faces -------------------------------------------------------------------------------------------------


def test_the_constants_are_the_ones_that_the_programs_share():
    assert json.loads(tracking.FILE.read_text()).keys() == Constants.__dataclass_fields__.keys()
    assert tracking.read().detect_every >= 1


def test_the_filter_steadies_what_rests_and_does_not_trail_behind_what_moves():
    """Against the two limits: noise at rest falls to a third, and a steady walk is followed to within a fiftieth of an eye
    distance, where a plain low pass of the same rest would be a third behind.
    """
    constants, rng, unit = tracking.read(), np.random.default_rng(0), 90.0
    noise = rng.normal(0, 0.003 * unit, (200, 468, 2))
    still = OneEuro(constants)
    rest = np.array([still(100 + shift, unit, 1 / 30) for shift in noise])
    shaking = np.abs(np.diff(rest[50:], axis=0)).mean() / np.abs(np.diff(noise[50:], axis=0)).mean()
    assert shaking < 0.35
    walk = np.arange(200)[:, None, None] * np.full((1, 468, 2), 2.0 * unit / 30)  # two eye distances a second
    smooth = OneEuro(constants)
    behind = np.array([shift - smooth(shift, unit, 1 / 30) for shift in walk])[50:] / unit
    assert 0 <= behind.mean() < 0.02
    slow = OneEuro(Constants(constants.min_cutoff_hz, 0.0, constants.derivative_cutoff_hz, 1))
    assert np.array([shift - slow(shift, unit, 1 / 30) for shift in walk])[50:].mean() / unit > 0.25


def test_the_filter_does_not_depend_on_how_large_the_face_is_or_how_many_frames_a_second():
    rng = np.random.default_rng(1)
    path = np.cumsum(rng.normal(0, 1, (60, 10, 2)), axis=0)
    small, large = OneEuro(tracking.read()), OneEuro(tracking.read())
    for mesh in path:
        a, b = small(mesh, 50.0, 1 / 30), large(7 * mesh, 350.0, 1 / 30)
        assert np.allclose(7 * a, b)
    once, twice = OneEuro(tracking.read()), OneEuro(tracking.read())
    ramp = [np.full((1, 2), 3.0 * k) for k in range(40)]
    for k, mesh in enumerate(ramp):
        a = once(mesh, 90.0, 1 / 15)
        if k:
            twice((ramp[k - 1] + mesh) / 2, 90.0, 1 / 30)
        b = twice(mesh, 90.0, 1 / 30)
    assert np.abs(a - b).max() < 0.02 * 90


class Finder:
    """Stands in for the models: says what was asked of it, and sees the faces it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.closer: list[int | None] = []
        self.there: list[Face] = []

    def detect(self, image: np.ndarray, closer: int | None = None, **of_video: Any) -> list[Detection]:
        self.asked.append("detect")
        self.closer.append(closer)
        boxes = [np.stack([face.mesh.min(0), face.mesh.max(0)]) for face in self.there]
        return [Detection(np.vstack([box, np.zeros((6, 2))]), 0.9) for box in boxes]

    def landmarks(self, image: np.ndarray, detection: Detection) -> Face | None:
        self.asked.append("landmarks")
        return min(self.there, key=lambda face: float(np.abs(face.mesh.min(0) - detection.box[0]).sum()))

    def follow(self, image: np.ndarray, face: Face) -> Face | None:
        near = [known for known in self.there if np.abs(known.mesh - face.mesh).mean() < 0.5 * face.width]
        return near[0] if near else None


def a_face(x: float, y: float = 100.0) -> Face:
    from faceeraser.face.landmarks import _mean_face

    return Face((_mean_face() * 40 + [x, y]).astype(np.float32))


def test_the_detector_rests_while_a_face_is_followed_and_looks_again_now_and_then():
    finder, blank = Finder(), np.zeros((200, 400, 3), np.uint8)
    tracker = Tracker(finder, Constants(1.0, 10.0, 1.0, 10))  # type: ignore[arg-type]
    finder.there = [a_face(100)]
    seen = [tracker(blank, 0.04) for _ in range(31)]
    assert tracker.frames == 31 and tracker.looks == 4 and finder.asked.count("landmarks") == 1
    assert {track.number for frame in seen for track in frame} == {1}
    finder.there.append(a_face(300))
    numbers = [[track.number for track in tracker(blank, 0.04)] for _ in range(12)]
    assert numbers[0] == [1] and numbers[-1] == [1, 2], "who comes in is seen at the next look"
    assert 0 < numbers.index([1, 2]) <= 10


def test_a_face_that_is_lost_is_looked_for_at_once_and_then_on_every_frame():
    finder, blank = Finder(), np.zeros((200, 400, 3), np.uint8)
    tracker = Tracker(finder, Constants(1.0, 10.0, 1.0, 10))  # type: ignore[arg-type]
    finder.there = [a_face(100)]
    tracker(blank, 0.04), tracker(blank, 0.04)
    finder.there, finder.asked = [a_face(320)], []
    (track,) = tracker(blank, 0.04)
    assert finder.asked == ["detect", "landmarks"] and track.number == 2, "a jump is another face, with a filter of its own"
    assert np.array_equal(track.face.mesh, finder.there[0].mesh)
    finder.there, finder.closer = [], []
    assert [tracker(blank, 0.04) for _ in range(10)] == [[]] * 10
    assert finder.closer == [None] + 9 * [0], "closely where it was lost, then on every frame"
    assert tracker(blank, 0.04) == [] and finder.closer[-1] is None, "and closely now and then"


def test_closer_looks_beside_a_face_that_is_followed_are_a_few_at_a_time():
    """All of them cost as much as several frames."""
    finder, blank = Finder(), np.zeros((200, 400, 3), np.uint8)
    finder.there = [a_face(100)]
    tracker = Tracker(finder, Constants(1.0, 10.0, 1.0, 5))  # type: ignore[arg-type]
    for _ in range(16):
        tracker(blank, 0.04)
    assert finder.closer == [None, 3, 3, 3]


def test_the_largest_faces_of_a_video_do_not_take_turns():
    """Two of about one size, now this one a little larger and now that one: who was chosen stays, if none is far larger."""
    from faceeraser.erasing import _Largest

    def tracked(*widths: float) -> list[tracking.Tracked]:
        faces = [Face((a_face(0).mesh * width / a_face(0).width).astype(np.float32)) for width in widths]
        return [tracking.Tracked(k, face, face, OneEuro(tracking.read())) for k, face in enumerate(faces)]

    chosen = _Largest(1)
    frames = ((100, 90), (95, 110), (100, 120), (90, 160))
    seen = [[track.number for track in chosen.of(tracked(*widths))] for widths in frames]
    assert seen == [[0], [0], [0], [1]]
    assert [track.number for track in _Largest(None).of(tracked(10, 20, 30))] == [0, 1, 2]


def test_two_that_follow_one_face_become_one():
    finder, blank = Finder(), np.zeros((200, 400, 3), np.uint8)
    tracker = Tracker(finder, Constants(1.0, 10.0, 1.0, 10))  # type: ignore[arg-type]
    finder.there = [a_face(170), a_face(230)]
    assert len(tracker(blank, 0.04)) == 2
    finder.there = [a_face(200)]
    finder.follow = lambda image, face: finder.there[0]  # type: ignore[method-assign]
    assert [track.number for track in tracker(blank, 0.04)] == [1]


def test_the_astronaut_is_followed_and_steadied(finder, astronaut):
    """A head that rests under a camera's noise: the landmarks tremble at most half as much, and the detector hardly runs."""
    rng = np.random.default_rng(0)
    still = scene(astronaut, size=(320, 240)).astype(float)
    tracker = Tracker(finder)
    frames = [np.clip(still + rng.normal(0, 4, still.shape), 0, 255).astype(np.uint8) for _ in range(25)]
    tracks = [tracker(frame, 1 / 30)[0] for frame in frames]
    raw, smooth = (np.array([getattr(track, which).mesh for track in tracks[5:]]) for which in ("seen", "face"))
    assert np.abs(np.diff(smooth, axis=0)).mean() < 0.5 * np.abs(np.diff(raw, axis=0)).mean()
    assert tracker.looks == 3 and tracks[-1].number == 1
    (anew,) = finder(frames[-1])
    assert np.abs(tracks[-1].face.mesh - anew.mesh).mean() < 0.03 * anew.eye_distance
    assert tracker(np.full_like(frames[0], 128), 1 / 30) == [], "the landmark model says when it is lost"


# --- erasing ---------------------------------------------------------------------------------------------------------


def test_two_workers_give_the_frames_of_one_in_the_same_order(finder, clip):
    def erased(workers: int) -> list[np.ndarray]:
        shown = ((image, 1 / FPS) for image in images(clip))
        return [frame.image for frame in Eraser(shipped.PLAN_FILE, workers=workers).frames(shown, Tracker(finder))]

    one, two = erased(1), erased(2)
    assert len(one) == 24 and all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not any(np.array_equal(a, b) for a, b in itertools.pairwise(one))


def test_a_video_is_erased_beside_itself_and_steadily(finder, clip, tmp_path, capfd):
    """Every frame, nothing outside the face; and where the head's movement is taken out again, the hole is as steady as the
    skin around it.
    """
    source = Path(shutil.copy(clip, tmp_path / "clip.mkv"))
    assert run("erase", source, tmp_path / "out.mkv") == 0
    said = capfd.readouterr().out
    assert "1 face in 24 of 24 frames, looked for in 3, " in said and "frames a second" in said
    before, after = (images(path) for path in (source, tmp_path / "out.mkv"))
    level, hole = [], np.ones((240, 320), bool)
    for k, (image, erased) in enumerate(zip(before, after, strict=True)):
        changed = (image != erased).any(2)
        assert 0.01 < changed.mean() < 0.2
        rows, columns = np.nonzero(changed)
        (face,) = finder(image)[:1]
        low, high = face.mesh.min(0), face.mesh.max(0)
        assert low[0] <= columns.min() and columns.max() <= high[0] and low[1] <= rows.min() and rows.max() <= high[1]
        back = cv2.invertAffineTransform(cv2.getRotationMatrix2D((224, 110), 6 * np.sin(k / 9), 0.8))
        shift = np.array([160 - 224 + 25 * np.sin(k / 6), 120 - 110])
        back[:, 2] -= back[:, :2] @ shift
        back[:, 2] -= [224 - 160, 110 - 120]
        level.append(cv2.warpAffine(erased, back, (320, 240), flags=cv2.INTER_CUBIC).astype(float))
        hole &= cv2.warpAffine(changed.astype(np.uint8), back, (320, 240)) > 0
    assert hole.sum() > 500
    flicker = np.abs(np.diff(level, axis=0)).mean(3)[:, hole].mean(1)
    assert flicker.max() < 4, "levels of 255 between two frames"


def test_an_effect_on_a_video(finder, clip, tmp_path):
    assert run("effect", "mono-eye", clip, tmp_path / "out.mkv") == 0
    erased = images(tmp_path / "out.mkv")
    assert len(erased) == 24
    image = images(clip)[0]
    (face,) = finder(image)[:1]
    middle = face.eyes.mean(0) + np.array([0, -0.22 * face.eye_distance])
    x, y = np.round(middle).astype(int)
    eye = cv2.cvtColor(erased[0], cv2.COLOR_RGB2GRAY)[y - 6 : y + 7, x - 8 : x + 9]
    bare = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[y - 6 : y + 7, x - 8 : x + 9]
    assert eye.min() < bare.min() - 30, "a pupil where there was skin"


def test_glasses_in_a_video_are_decided_by_all_looks(astronaut, finder, monkeypatch):
    """A score that wavers about the half would take them off and put them on again."""
    from faceeraser.erasing import _Glasses

    scores = itertools.cycle([0.9, 0.2, 0.8, 0.3])
    monkeypatch.setattr(erasing, "glasses_score", lambda image, face: next(scores))
    (face,) = finder(astronaut)[:1]
    glasses = _Glasses("auto")
    assert {glasses.of(1, astronaut, face) for _ in range(8 * _Glasses.EVERY)} == {"on"}
    assert _Glasses("off").of(1, astronaut, face) == "off"


@pytest.fixture
def asked(astronaut, finder, monkeypatch):
    """`asked(frames)` erases the astronaut, changed by each function in turn, and says at which frames a plan was made, at
    which glasses were looked for, and at which a mask was.
    """
    (face,) = finder(astronaut)[:1]
    known = collections.defaultdict(lambda: [face])
    calls = {name: [] for name in ("plan", "glasses", "mask")}

    def counted(name, function):
        def call(*words, **more):
            calls[name].append(len(frames_done))
            return function(*words, **more)

        return call

    frames_done: list[int] = []
    monkeypatch.setattr(erasing, "worn", counted("glasses", erasing.worn))
    monkeypatch.setattr(erasing, "mask_of", counted("mask", erasing.mask_of))

    def run_on(frames, **options):
        eraser = Eraser(**options)
        monkeypatch.setattr(eraser, "_said", counted("plan", eraser._said))
        for _ in eraser.frames(((change(astronaut.copy()), 1 / 25) for change in frames), known):
            frames_done.append(1)
        return calls

    return run_on


def test_plans_glasses_and_masks_are_for_five_frames_of_a_face_that_stays_as_it_is(asked):
    calls = asked([lambda image: image] * 12, glasses="on")
    assert calls == {"plan": [0, 5, 10], "glasses": [0, 5, 10], "mask": [0, 5, 10]}


def test_what_changes_on_a_face_is_planned_at_once(asked, finder, astronaut):
    """Light on all of it by two levels; a shadow on its forehead alone."""
    (face,) = finder(astronaut)[:1]
    x, y = face.mesh[10].astype(int)

    def shadow(image):
        image[y : y + 20, x - 15 : x + 15] //= 2
        return image

    same, lit = (lambda image: image), (lambda image: cv2.add(image, (2.0, 2.0, 2.0, 0.0)))
    assert asked([same, same, lit, lit, shadow, shadow])["plan"] == [0, 2, 4]


def test_what_comes_in_front_of_a_part_is_seen_at_once_though_the_plan_stays(asked, finder, astronaut):
    (face,) = finder(astronaut)[:1]
    x, y = face.mesh[LIPS].mean(0).astype(int)

    def hand(image):
        image[y - 8 : y + 8, x - 14 : x + 14] = (60, 40, 30)
        return image

    calls = asked([lambda image: image, hand, hand])
    assert calls["plan"] == [0] and calls["mask"] == [0, 1, 2]


def test_a_mask_follows_a_part_that_moves_in_the_crop():
    said = holding.Said()
    crop, points, mask = np.full((256, 256, 3), 90, np.uint8), np.full((4, 2), 99.0), np.zeros((256, 256), bool)
    said.new(1, crop, holding.Answer("off", points, None, mask, None, skin_plan()), None)
    for shift, holds in ((1.4, True), (1.6, False)):
        answer, covers, _ = said.of(1, crop, "off", points + np.array([shift, 0.0]))
        assert answer is not None and covers is holds
    assert said.of(1, crop, "on", points) == (None, False, None), "glasses are taken off from now on"
    assert said.of(2, crop, "off", points) == (None, False, None), "somebody else"


def skin_plan():
    return {
        "skin": np.ones((128, 128, 1), np.float32),
        "shading": np.ones((64, 64, 3), np.float32),
        "sources": np.zeros(289),
    }


# --- what can be wrong -----------------------------------------------------------------------------------------------


def test_videos_that_are_none(tmp_path, capfd):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mov").write_bytes(b"no video\n" * 1000)
    (tmp_path / "folder.mp4").mkdir()
    for name, message in (
        ("gone.mp4", "gone.mp4: no such file"),
        ("empty.mp4", "the file is empty"),
        ("text.mov", "is no video in any format"),
        ("folder.mp4", "no photographs or videos in it"),
    ):
        assert run("erase", tmp_path / name, tmp_path / "out") == 2
        assert message in errors(capfd), name
    assert files(tmp_path) == ["empty.mp4", "text.mov"]


def test_a_video_with_no_frames(tmp_path, capfd, clip):
    """A container with its header and nothing in it."""
    content = clip.read_bytes()
    (tmp_path / "a.mkv").write_bytes(content[: content.index(b"\x1f\x43\xb6\x75")])  # up to the first cluster
    assert run("erase", tmp_path / "a.mkv") == 2
    assert "a.mkv: " in (line := errors(capfd)) and ("no frame that can be read" in line or "is no video" in line)
    assert files(tmp_path) == ["a.mkv"]


def test_a_video_that_is_cut_short_is_done_as_far_as_it_goes(finder, astronaut, tmp_path, capfd):
    whole = write(tmp_path / "whole.avi", moving(astronaut, 24))
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert run("erase", tmp_path / "cut.avi", tmp_path / "out.mkv") == 2
    line = errors(capfd)
    assert "frames: it is cut short; what could be read is in" in line
    done = len(images(tmp_path / "out.mkv"))
    assert 6 <= done <= 18 and f"ends after {done} frames" in line


def test_a_video_without_a_face_is_not_written(finder, tmp_path, capfd):
    grey = write(tmp_path / "grey.mp4", [np.full((120, 160, 3), 128, np.uint8)] * 4)
    assert run("erase", grey) == 2
    assert "grey.mp4: no face found, nothing written" in errors(capfd) and files(tmp_path) == ["grey.mp4"]


def test_a_face_that_comes_and_goes(finder, astronaut, tmp_path, capfd):
    frames = [np.full((240, 320, 3), 128, np.uint8)] * 3 + moving(astronaut, 6) + [np.full((240, 320, 3), 128, np.uint8)] * 3
    assert run("erase", write(tmp_path / "a.mkv", frames), tmp_path / "out.mkv") == 0
    assert "1 face in 6 of 12 frames" in capfd.readouterr().out
    same = [np.array_equal(a, b) for a, b in zip(frames, images(tmp_path / "out.mkv"), strict=True)]
    assert same == [True] * 3 + [False] * 6 + [True] * 3, "erased from its first frame on, and gone with it"


def test_a_file_whose_name_tells_nothing_is_opened_by_what_it_is(tmp_path, clip, astronaut):
    from PIL import Image

    shutil.copy(clip, tmp_path / "film.dat")
    Image.fromarray(astronaut).save(tmp_path / "photo.dat", format="PNG")
    (tmp_path / "neither.dat").write_text("")
    assert [jobs.is_film(tmp_path / f"{name}.dat") for name in ("film", "photo", "neither")] == [True, False, False]


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a signal")
def test_an_interrupted_video_leaves_nothing(landmarks, tmp_path, astronaut):
    source = write(tmp_path / "long.mkv", moving(astronaut, 24) * 12)
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from faceeraser.cli import main; sys.exit(main(['erase', *sys.argv[1:]]))"
    )
    arguments = [sys.executable, "-c", code, str(source), str(tmp_path / "out.mp4")]
    with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True) as going:
        until = time.monotonic() + 60
        while not list(tmp_path.glob(".*.partial.mp4")) and time.monotonic() < until:
            time.sleep(0.05)
        assert list(tmp_path.glob(".*.partial.mp4")), "it is being written"
        going.send_signal(signal.SIGINT)
        said = going.communicate(timeout=60)[1]
    assert going.returncode == 130 and "stopped" in said and "Traceback" not in said
    assert files(tmp_path) == ["long.mkv"]


# --- cameras ---------------------------------------------------------------------------------------------------------


class Capture:
    """A camera of so many frames; then Ctrl-C."""

    def __init__(self, frames: list[np.ndarray], ends: type[BaseException] = KeyboardInterrupt) -> None:
        self._frames, self._ends = iter(frames), ends

    def isOpened(self) -> bool:
        return True

    def get(self, what: int) -> float:
        return 20.0 if what == cv2.CAP_PROP_FPS else 0.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        frame = next(self._frames, None)
        if frame is None:
            raise self._ends
        time.sleep(0.12)  # a slow one: it gives 8 frames a second and says 20
        return True, np.ascontiguousarray(frame[..., ::-1])

    def release(self) -> None:
        pass


def camera(monkeypatch: pytest.MonkeyPatch, frames: list[np.ndarray]) -> None:
    real = video._capture
    monkeypatch.setattr(video, "_capture", lambda index: Capture(frames) if index == 0 else real(index))


def test_a_camera_is_recorded_until_it_is_stopped_and_at_the_speed_of_life(finder, astronaut, tmp_path, capfd, monkeypatch):
    camera(monkeypatch, moving(astronaut, 10))
    began = time.monotonic()
    assert run("erase", "--camera", "0", tmp_path / "out.mkv") == 0
    passed = time.monotonic() - began
    said = capfd.readouterr()
    assert "press Ctrl-C to stop" in said.err and re.search(r"camera 0: 1 face in ([6-9]|10) of \1 frames", said.out)
    recorded = images(tmp_path / "out.mkv")
    assert len(recorded) >= 12, "at most eight a second came, and twenty a second are shown"
    assert len(recorded) / 20 < passed
    assert files(tmp_path) == ["out.mkv"]


def test_a_camera_without_out_is_shown_where_there_are_windows(finder, astronaut, capfd, monkeypatch):
    camera(monkeypatch, moving(astronaut, 10))
    assert run("erase", "--camera") == 2
    line = errors(capfd)
    assert "has no windows" in line and "faceeraser erase --camera 0 out.mp4" in line
    shown: list[np.ndarray] = []
    keys = iter([-1, -1, ord("q")])
    for name, window in {
        "namedWindow": lambda *_: None,
        "imshow": lambda _, image: shown.append(image),
        "waitKey": lambda _: next(keys),
        "getWindowProperty": lambda *_: 1.0,
        "destroyAllWindows": lambda: None,
    }.items():
        monkeypatch.setattr(cv2, name, window)
    camera(monkeypatch, moving(astronaut, 10))
    assert run("erase", "--camera") == 0
    assert len(shown) == 3 and "camera 0: 1 face in 3 of 3 frames" in capfd.readouterr().out


def test_a_camera_that_is_not_there(landmarks, tmp_path, capfd):
    assert run("erase", "--camera", "63", tmp_path / "out.mp4") == 2
    assert "camera 63 cannot be opened" in errors(capfd) and files(tmp_path) == []

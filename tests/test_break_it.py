"""The short form of benchmarks/break_it.py, and that it sees what it is there to see."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import coremltools
import numpy as np
import pytest
import torch
from conftest import script as stage_script
from PIL import Image

from faceeraser import serve, shipped
from faceeraser.artifacts import contents, publishing
from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.card import card_path
from faceeraser.artifacts.files import sha256_of
from faceeraser.artifacts.runtimes import ports_of
from faceeraser.conversion import coreml
from faceeraser.face import landmark_models, picture, video
from faceeraser.model import checkpoint, pairs
from faceeraser.system import script as stages
from faceeraser.system import trial, writing
from faceeraser.training import splits

break_it = stage_script("benchmarks/break_it.py")
ROOT = Path(__file__).resolve().parents[1]
BAD = ("tracebacks", "hangs", "over_2gb", "believed")


@pytest.mark.usefixtures("landmarks")
def test_a_hundred_broken_inputs_are_refused_or_read_as_others_read_them(tmp_path: Path) -> None:
    row = break_it.inputs(tmp_path / "w", 100, 3, time.monotonic() + 600)
    assert row["n"] == 100 and row["refused"] > 30, row
    assert {name: row[name] for name in BAD} == dict.fromkeys(BAD, 0), row["examples"]


@pytest.mark.parametrize(
    ("does", "seen"),
    [
        ("raise KeyError('x')", "tracebacks"),
        ("os.abort()", "tracebacks"),
        ("raise ValueError('a\\nb')", "tracebacks"),
        ("while True: pass", "hangs"),
        ("return 'another'", "believed"),
        ("raise OSError('one line')", "refused"),
    ],
)
def test_what_a_reader_must_not_do_is_counted(does: str, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a reader that does it."""
    known: dict[str, object] = {"os": os}
    exec(f"def read(path, whole):\n    {does}", known)
    (tmp_path / "a").write_bytes(b"0123456789" * 10)
    kind = break_it.Kind("bad", [tmp_path / "a"], known["read"], 1)
    monkeypatch.setattr(break_it, "kinds", lambda folder: [kind])
    monkeypatch.setattr(break_it, "PATIENCE_S", 0.3)
    row = break_it.inputs(tmp_path, 3, 1, time.monotonic() + 120)
    assert row["n"] == 3 and row[seen] == 3, row
    assert sum(row[name] for name in (*BAD, "refused")) == 3
    assert (tmp_path / "a").read_bytes() == b"0123456789" * 10, "the whole file is back"


def a_stage(monkeypatch: pytest.MonkeyPatch, does: str) -> object:
    """A stage that writes 40 lines into its file, in its own way."""
    known: dict[str, object] = {"os": os, "Path": Path, "time": time}
    exec(f"def run(one, folder, given, more=()):\n{does}\n    return 0", known)
    monkeypatch.setattr(break_it, "run_stage", known["run"])
    return break_it.Stage("a stage", "", [], ["t"])


WHOLE = """
    from faceeraser.system import writing
    with writing.whole_file(folder / "t") as part:
        for k in range(40):
            with open(part, "a") as file: file.write("line")
        time.sleep(0.004)"""
IN_PLACE = """
    (folder / "t").unlink(missing_ok=True)
    for k in range(40):
        with open(folder / "t", "a") as file: file.write("line")
        time.sleep(0.004)"""
LEAVES = """
    open(folder / f"left-{os.getpid()}", "w").close()
    for k in range(40):
        with open(folder / f"left-{os.getpid()}", "a") as file: file.write("line")
        time.sleep(0.004)
    os.replace(folder / f"left-{os.getpid()}", folder / "t")"""


def killed(one: object, given: Path, count: int, folder: Path, seed: int) -> object:
    """What came of some kills of a stage at random moments."""
    chance, whole, found = random.Random(seed), break_it.unbroken(one, given, folder / "whole"), break_it.Broken()
    for k in range(count):
        moment = break_it.Moment.random(signal.SIGKILL, whole, chance)
        break_it.kill_once(one, whole, given, moment, folder / str(k), found)
    return found


@pytest.mark.parametrize(("does", "lost"), [(WHOLE, ""), (IN_PLACE, "was there and not whole"), (LEAVES, "left lying")])
def test_a_kill_shows_who_writes_in_place_and_who_leaves_things_lying(
    does: str, lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = killed(a_stage(monkeypatch, does), tmp_path, 8, tmp_path, 5)
    said = "; ".join(found.why)
    assert lost in said if lost else not said, said
    assert found.sent["SIGKILL"] + found.missed == 8 and found.sent["SIGKILL"] >= 3, found


@pytest.mark.parametrize("name", ["make setup", "a download"])
def test_a_setup_or_a_download_that_was_killed_is_done_again(name: str, tmp_path: Path) -> None:
    (wheels := tmp_path / "given" / "wheels").mkdir(parents=True)
    (wheels / "m.bin").write_bytes(random.Random(0).randbytes(1 << 20))
    (one,) = [each for each in break_it.stages(tmp_path / "given") if each.name == name]
    with break_it.serving(wheels):
        found = killed(one, tmp_path / "given", 4, tmp_path, 2)
    assert not found.why and not found.not_run and found.sent["SIGKILL"], found


class _Freed:
    """Something in whose end a signal comes: Python can raise nothing there."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        for _ in range(1000):
            pass


def test_a_signal_that_comes_while_an_object_is_freed_is_heard_all_the_same() -> None:
    with pytest.raises(stages.Stopped) as stopped, stages.stoppable():
        _Freed()
        time.sleep(60)
        pytest.fail("it went on")
    assert stopped.value.code == 143


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_stopped_takes_its_children_and_its_scratch_with_it(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    program = f"""
import subprocess, sys
from pathlib import Path
from faceeraser.system import script, writing
def work(args):
    with writing.scratch(Path({str(tmp_path)!r})) as folder:
        print("ready", flush=True)
        subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], check=False)
made = script.parser("train/train.py", "A stage.")
sys.exit(script.execute(work, made, []))"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == code and said.count("\n") == 1 and "stopped" in said, said
    assert list(tmp_path.iterdir()) == []
    living = [pid for pid in os.listdir("/proc") if pid.isdecimal() and break_it._group(pid) == process.pid]
    assert living == []


def test_workers_do_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = tmp_path / "pool.py"
    program.write_text(
        "import multiprocessing, os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from faceeraser.system import script\n"
        "def work(k):\n    print(os.getpid(), flush=True)\n    time.sleep(120)\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    with ProcessPoolExecutor(1, context, script.leave_with_parent) as pool:\n        list(pool.map(work, [1]))\n"
    )
    parent = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()

    def lives() -> bool:
        try:  # who has ended and is not asked for yet has no command line
            return Path(f"/proc/{worker}/cmdline").read_bytes() != b""
        except OSError:
            return False

    until = time.monotonic() + 120
    while lives() and time.monotonic() < until:
        time.sleep(0.05)
    assert not lives()


def test_a_model_that_ends_its_process_does_not_end_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(shipped.OCCLUSION_FILE.read_bytes())
    trial.check(path)
    monkeypatch.setattr(trial, "_PROGRAM", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    os.utime(path, (1, 1))
    with pytest.raises(ValueError, match=r"m\.tflite: ends the process that loads it \(signal 11\)"):
        ports_of(path)
    monkeypatch.setattr(trial, "_PROGRAM", "import time; time.sleep(60)")
    monkeypatch.setattr(trial, "PATIENCE_S", 0.5)
    os.utime(path, (2, 2))
    with pytest.raises(ValueError, match=r"takes more than 0\.5 s"):
        ports_of(path)


def test_a_damaged_model_is_one_line_with_a_card_and_without(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(shipped.OCCLUSION_FILE.read_bytes()[:4096])
    for read in (ports_of, contents.listing, contents.cost_of):
        with pytest.raises(ValueError) as refused:
            read(path)
        assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)
    card_path(path).write_bytes(card_path(shipped.PLAN_FILE).read_bytes())
    with pytest.raises(ValueError, match="do not belong together"):
        Artifact(path)


@contextlib.contextmanager
def _serving() -> Iterator[int]:
    """The port of a server of one page."""
    with serve.Server("127.0.0.1", 0, {"/": ("text/html", b"<p>page")}) as here:
        threading.Thread(target=here.serve_forever, daemon=True).start()
        yield int(here.server_address[1])
        here.shutdown()


def _half_a_request(port: int) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", port))
    line.sendall(b"GET / HT")
    return line


def test_a_slow_client_blocks_nobody_and_too_many_are_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.Server, "MOST", 4)
    with _serving() as port, contextlib.ExitStack() as lines:
        for _ in range(3):
            lines.enter_context(_half_a_request(port))
        assert break_it.ask(port, b"GET / HTTP/1.0\r\n\r\n").endswith(b"<p>page")
        for _ in range(100):  # who asked just now may still count, and this one be hung up on in its place
            lines.enter_context(_half_a_request(port))
            if not (answer := break_it.ask(port, b"GET / HTTP/1.0\r\n\r\n")):
                break
            time.sleep(0.1)
        assert answer == b"", "the fifth at a time"


def test_who_is_silent_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve._Handler, "timeout", 0.3)
    with _serving() as port, _half_a_request(port) as line:
        line.settimeout(60)
        assert line.recv(1) == b""
        assert break_it.ask(port, b"GET / HTTP/1.0\r\n\r\n").endswith(b"<p>page")


def test_requests_that_nobody_means_reach_no_other_file() -> None:
    row = break_it.server(60, 0.3, 1, time.monotonic() + 120)
    assert row["n"] == 60 and row["wrong"] == 0 and row["answered"] + row["refused"] == row["offered"], row["examples"]


def test_a_video_with_a_terabyte_of_nothing_behind_it_is_read_and_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "PATIENCE_S", 0.5)
    with video.writing(tmp_path / "a.mkv", 10) as write:
        for _ in range(3):
            write(np.zeros((32, 48, 3), np.uint8))
    os.truncate(tmp_path / "a.mkv", 10**12)
    clip = video.Clip(tmp_path / "a.mkv")
    assert len(list(clip)) == 3 and clip.damage


def test_a_gif_with_a_terabyte_of_nothing_behind_it_is_read_or_refused_at_once(tmp_path: Path) -> None:
    shades = [Image.fromarray(np.full((40, 48, 3), 60 * k, np.uint8)) for k in range(4)]
    shades[0].save(tmp_path / "a.gif", save_all=True, append_images=shades[1:])
    data = (tmp_path / "a.gif").read_bytes()
    assert data[-1:] == b";"
    (tmp_path / "a.gif").write_bytes(data[:-1])  # the end is not there, so more is looked for
    os.truncate(tmp_path / "a.gif", 10**12)
    began = time.process_time()
    source = picture.opened(tmp_path / "a.gif")
    with contextlib.suppress(ValueError):
        assert len(list(source.pages())) == 4
    source.close()
    assert time.process_time() - began < 5


def test_of_a_video_no_more_is_read_for_one_packet_than_there_should_be_memory_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with video.writing(tmp_path / "a.avi", 10) as write:
        for k in range(5):
            write(np.full((32, 48, 3), 40 * k, np.uint8))
    data = (tmp_path / "a.avi").read_bytes()
    last = data.rindex(b"00dc", 0, data.rindex(b"idx1"))
    (tmp_path / "a.avi").write_bytes(data[: last + 4] + (0x7FFFFFF0).to_bytes(4, "little") + data[last + 8 :])
    os.truncate(tmp_path / "a.avi", 1 << 32)
    monkeypatch.setattr(video, "LARGEST_PACKET", 1 << 20)
    clip = video.Clip(tmp_path / "a.avi")
    assert len(list(clip)) >= 4 and clip.damage == "it is cut short or damaged"
    assert clip._file.tell() < 3 << 20


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return break_it.small_package(tmp_path_factory.mktemp("package") / "m.mlpackage")


def test_a_whole_package_is_described(package: Path) -> None:
    assert [port["name"] for port in ports_of(package)["outputs"]] == ["erased"]
    assert contents.listing(package)["operators"] == {"cast": 3, "conv": 1, "mul": 1}


def test_the_same_model_is_the_same_package(package: Path, tmp_path: Path) -> None:
    model = coremltools.models.MLModel(str(package), skip_model_load=True)
    for name in ("a", "b"):
        coreml._save(model, tmp_path / f"{name}.mlpackage")
    made = break_it.digest(tmp_path / "a.mlpackage")
    assert made == break_it.digest(tmp_path / "b.mlpackage") and len(made) == 3
    assert [port["name"] for port in ports_of(tmp_path / "a.mlpackage")["outputs"]] == ["erased"]


def test_what_a_killed_export_left_goes_with_the_next_also_where_that_has_nothing_to_do(tmp_path: Path) -> None:
    (left := tmp_path / f".{writing._HOST}-999999999-0.partial").mkdir()
    (left / "a.tflite").touch()
    publishing.check_target(tmp_path, 0)
    assert not left.exists()


def test_a_state_that_finds_no_room_is_an_error_of_the_system(tmp_path: Path) -> None:
    """A limit of the process stands for the disk's; torch's writer says no more than that a position is unexpected."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoint.write_state(tmp_path / "state.pt", {"step": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            checkpoint.write_state(tmp_path / "state.pt", {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.read_state(tmp_path / "state.pt") == {"step": 1} and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", list(break_it.PACKAGES))
def test_a_package_that_leads_elsewhere_or_has_no_end_is_refused_at_once(name: str, package: Path, tmp_path: Path) -> None:
    shutil.copytree(package, other := tmp_path / "m.mlpackage")
    model = other / "Data" / "com.apple.CoreML" / "model.mlmodel"
    break_it.PACKAGES[name](other, model, model.parent / "weights" / "weight.bin")
    for read in (ports_of, contents.listing, sha256_of):
        with pytest.raises(ValueError) as refused:
            read(other)
        assert str(refused.value).startswith(str(other)) and "\n" not in str(refused.value)


def test_a_file_of_another_size_than_its_card_says_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(shipped.PLAN_FILE.read_bytes())
    card_path(path).write_bytes(card_path(shipped.PLAN_FILE).read_bytes())
    os.truncate(path, 900 << 20)
    began = time.process_time()
    with pytest.raises(ValueError, match="has 943718400 bytes, its card says"):
        Artifact(path)
    assert time.process_time() - began < 0.2
    os.truncate(path, 10**12)
    card_path(path).unlink()
    with pytest.raises(ValueError, match=r"has 953,674 MB; expected an exported file"):
        Artifact(path)


def test_a_wheel_is_not_unpacked_beyond_what_it_may_have(tmp_path: Path) -> None:
    wheel = break_it.bomb(tmp_path / "bomb.whl")
    tracemalloc.start()
    with pytest.raises(ValueError, match="is not the file that is pinned here"):
        landmark_models._extract(wheel, tmp_path / "models", list(landmark_models.FILES))
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.usefixtures("landmarks")
def test_a_full_disk_and_whatever_else_a_machine_may_lack_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    names, shorter = ("prepare", "a download"), [name for name in break_it.CIRCUMSTANCES if name != "clock set back"]
    row = break_it.circumstances(tmp_path / "c", 2, time.monotonic() + 300, names, shorter)
    assert row["lost"] == row["tracebacks"] == 0 and row["n"] >= 8, row["examples"]


def test_a_stage_that_ends_otherwise_is_counted() -> None:
    """The negative control."""
    tried, one = break_it.Tried(), break_it.Stage("a stage", "", [], ["t"])
    for code, said in (
        (2, "Traceback (most recent call last):\n  x: y"),
        (3, "a.py: so"),
        (2, ""),
        (2, "a.py: why"),
        (0, ""),
    ):
        break_it._judge(tried, "full disk", one, break_it.Ended(code, 0, 0.0, 0, said), "")
    assert tried.ends["full disk"] == {"fault": 3, "line": 1, "done": 1} and tried.tracebacks == 3


def test_two_commands_on_one_folder_are_told_apart(tmp_path: Path) -> None:
    with writing.whole_folder(tmp_path / "t") as folder:
        (folder / "a").write_text("1")
        for resume in (False, True):
            with (
                pytest.raises(ValueError, match="another process is writing it"),
                writing.whole_folder(tmp_path / "t", True, resume),
            ):
                pass
    assert (tmp_path / "t" / "a").read_text() == "1"
    with pytest.raises(ValueError, match="exists already"), writing.whole_folder(tmp_path / "t"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize(
    "read", [lambda path: splits.read_photo_manifest(path), lambda path: pairs.evaluation_pairs(path.parent, "eval", 32)]
)
def test_a_list_of_a_terabyte_is_refused_at_once(read: Callable[[Path], object], tmp_path: Path) -> None:
    for name in ("eval.csv", "manifest.csv"):
        (tmp_path / name).write_text("file,split,group\n")
        os.truncate(tmp_path / name, 10**12)
    (tmp_path / "data.json").write_text(json.dumps({"size": 32}))
    with pytest.raises(ValueError, match="larger than 64 MB"):
        read(tmp_path / "manifest.csv")

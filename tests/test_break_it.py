"""The short form of benchmarks/break_it.py, and that it sees what it is there to see."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import script as stage_script

from faceeraser import serve, shipped
from faceeraser.artifacts import contents
from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.card import card_path
from faceeraser.artifacts.runtimes import ports_of
from faceeraser.system import trial

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
    exec(f"def run(one, folder, given, again=False):\n{does}\n    return 0", known)
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


@pytest.mark.parametrize(("does", "lost"), [(WHOLE, ""), (IN_PLACE, "was there and not whole"), (LEAVES, "left lying")])
def test_a_kill_shows_who_writes_in_place_and_who_leaves_things_lying(
    does: str, lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, chance = a_stage(monkeypatch, does), random.Random(5)
    whole = break_it.unbroken(one, tmp_path, tmp_path / "whole")
    found = [break_it.kill_once(one, whole, tmp_path, chance, tmp_path / str(k))[1] for k in range(8)]
    said = "; ".join(why for each in found for why in each)
    assert lost in said if lost else not said, said


def test_a_setup_that_was_killed_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (one,) = [each for each in break_it.stages(tmp_path / "given") if each.name == "make setup"]
    chance, whole = random.Random(2), break_it.unbroken(one, tmp_path / "given", tmp_path / "whole")
    for k in range(3):
        assert break_it.kill_once(one, whole, tmp_path / "given", chance, tmp_path / str(k))[1] == []


def _group(pid: str) -> int | None:
    """The process group of a process that lives."""
    try:
        state, _, group = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
        return int(group) if state != "Z" else None
    except OSError:
        return None


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
    living = [pid for pid in os.listdir("/proc") if pid.isdecimal() and _group(pid) == process.pid]
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


def test_a_slow_client_blocks_nobody_and_too_many_are_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.Server, "MOST", 4)
    monkeypatch.setattr(serve._Handler, "timeout", 1)
    with serve.Server("127.0.0.1", 0, {"/": ("text/html", b"<p>page")}) as here:
        port = int(here.server_address[1])
        threading.Thread(target=here.serve_forever, daemon=True).start()
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        for line in slow:
            line.sendall(b"GET / HT")
        assert break_it.ask(port, b"GET / HTTP/1.0\r\n\r\n").endswith(b"<p>page")
        slow.append(socket.create_connection(("127.0.0.1", port)))
        time.sleep(0.3)
        assert break_it.ask(port, b"GET / HTTP/1.0\r\n\r\n") == b"", "the fifth at a time"
        time.sleep(2.0)
        assert break_it.ask(port, b"GET / HTTP/1.0\r\n\r\n").endswith(b"<p>page"), "who was silent was hung up on"
        for line in slow:
            line.close()
        here.shutdown()


def test_requests_that_nobody_means_reach_no_other_file() -> None:
    row = break_it.server(60, 0.3, 1, time.monotonic() + 120)
    assert row["n"] == 60 and row["wrong"] == 0 and row["answered"] + row["refused"] == row["offered"], row["examples"]

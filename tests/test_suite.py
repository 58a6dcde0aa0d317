"""The suite itself: one that is interrupted leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
# What a test starts, here two floors down and in a session of its own, as torchrun starts its workers.
WAITS = """
import subprocess, sys, time
def test_waits():
    inner = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '600'], start_new_session=True);"
    inner += "open({told!r}, 'w').write(str(p.pid)); time.sleep(600)"
    subprocess.run([sys.executable, "-c", inner])
"""


def alive(process: int) -> bool:
    """Whether it runs; one that has ended and whom nobody has asked about does not."""
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processes are found by /proc, which Linux has")
@pytest.mark.parametrize(("number", "arguments"), [(signal.SIGINT, ("-n", "1")), (signal.SIGTERM, ())], ids=["int", "term"])
def test_interrupting_it_ends_what_its_tests_have_started(tmp_path: Path, number: int, arguments: tuple[str, ...]) -> None:
    pid_file = tmp_path / "told"
    (tmp_path / "test_waits.py").write_text(WAITS.replace("{told!r}", repr(str(pid_file)).replace("'", '\\"')))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]  # this is a suite of its own, whoever runs it
    suite = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-c",
            os.devnull,
            "--rootdir",
            tmp_path,
            "-p",
            "conftest",
            *arguments,
            tmp_path,
        ],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        end = time.monotonic() + 120
        while not (pid_file.exists() and pid_file.read_text()) and suite.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        child = int(pid_file.read_text())
        assert alive(child)
        suite.send_signal(number)
        assert suite.wait(60) == pytest.ExitCode.INTERRUPTED
        assert not alive(child)
    finally:
        suite.kill()
        suite.wait()

"""The device layer: its parser on every build's output, its rules on made-up phones, and all of it on a real adb daemon.

What needs the daemon, qemu or the cross compiler skips where tests/fetch_device_tools.sh was not run; with
FACEERASER_NO_SKIP=1 a missing piece is a failure.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, script
from hypothesis import given
from hypothesis import strategies as st

from faceeraser.measurement import device as layer
from faceeraser.measurement import runner, timings
from faceeraser.measurement.device import Device, DeviceError, big_cores, choose, read_state
from faceeraser.system import writing

FIXTURES = ROOT / "tests" / "fixtures"
TOOLS = ROOT / ".cache" / "device"
WEIGHTS = ROOT / "faceeraser" / "weights"
MODEL = WEIGHTS / "plan.tflite"
faults = script("benchmarks/device_faults.py")
android = script("benchmarks/android.py")


def text_of(name: str) -> str:
    return (FIXTURES / f"{name}.txt").read_bytes().decode()


# --- what benchmark_model printed -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "runs", "avg", "median", "memory", "ops"),
    [
        ("benchmark_model_old", 20, 321.945, None, 31.7422, 0),
        ("benchmark_model_old_profile", 20, 321.945, None, 31.7422, 3),
        ("benchmark_model_2_14", 50, 1097.81, None, 27.832, 3),
        ("benchmark_model_2_14_crlf", 50, 1097.81, None, 27.832, 0),
        ("benchmark_model_all_same", 3, 1097.81, None, 27.832, 0),
        ("benchmark_model_current", 50, 25.1207, 24.99, 91.2305, 3),
        ("benchmark_model_current_logcat", 50, 25.1207, 24.99, 91.2305, 0),
        ("benchmark_model_refused", 50, 1097.81, None, 27.832, 0),
        ("benchmark_litert_model", 10, 7430.2, None, 61.25, 0),
    ],
)
def test_every_build_is_read(name: str, runs: int, avg: float, median: float | None, memory: float | None, ops: int) -> None:
    timing = timings.read(text_of(name))
    assert (timing.runs, timing.avg_ms, timing.median_ms, timing.overall_mb) == (runs, avg, median, memory)
    assert len(timing.ops) == ops
    if ops:  # of the regular runs' table, not of the initialization's, and in the order they run
        assert [op.avg_ms for op in timing.ops] == [21.5, 140.25, 38.25]
        assert timing.ops[1].kind == "Convolution (NHWC, QS8, QC8W) IGEMM" and timing.ops[2].name == "erased:2"
        assert sum(op.share for op in timing.ops) == pytest.approx(100, abs=0.01)


def test_every_fixture_has_a_case() -> None:
    cases = {mark.args[1][i][0] for mark in test_every_build_is_read.pytestmark for i in range(len(mark.args[1]))}
    assert cases == {path.stem for path in FIXTURES.glob("*.txt")} and faults.parser_row()["n"] == len(cases)


def test_who_ran_the_nodes_is_read() -> None:
    current = timings.read(text_of("benchmark_model_current"))
    assert current.delegated == [timings.Delegated("TfLiteGpuDelegateV2", 1404, 1432, 3)] and not current.refused
    assert timings.read(text_of("benchmark_model_refused")).refused
    assert android.took(current, "gpu") is None and "took no node" in (android.took(current, "nnapi") or "")
    assert "CPU's times" in (android.took(timings.read(text_of("benchmark_model_refused")), "nnapi") or "")


@pytest.mark.parametrize(
    ("name", "find", "put", "says"),
    [
        ("benchmark_model_old", "Inference timings in us", "Inference timing", "no results of benchmark_model"),
        ("benchmark_model_old", "avg=321945", "avg=nan", "'nan', expected a number"),
        ("benchmark_model_old", "avg=321945", "avg=421945", "says 321945 us on average"),
        ("benchmark_model_old", "min=272004", "min=372004", "contradict"),
        ("benchmark_model_old", " std=45256", "", "cannot read"),
        ("benchmark_model_old", "std=45256", "std=45256 p6=3", "cannot read"),
        ("benchmark_model_old", "init=2.80078", "init=lots", "cannot read"),
        ("benchmark_model_old", "count=20 ", "count=0 ", "timed 0"),
        ("benchmark_model_old", "count=2 ", "cnt=2 ", "found 1 lines"),
        ("benchmark_model_old", "STARTING!", "Failed to load model m.tflite", "failed: Failed to load model"),
        ("benchmark_model_2_14", "Number of nodes executed: 3", "Number of nodes executed: 4", "it was cut off"),
        ("benchmark_model_2_14", "[times called]", "[called]", "has the columns"),
        ("benchmark_model_2_14", "140.250", "a lot", "expected a number"),
        ("benchmark_model_current", "median=24990", "median=29990", "contradict"),
        ("benchmark_litert_model", "7430.20 ms (10 runs)", "7430.20 ms", "how many runs"),
        ("benchmark_litert_model", "7430.20 ms", "7430.20 MB", "cannot read"),
        ("benchmark_litert_model", "Inference (min):", "Inference (low):", "lacks Inference (min)"),
        ("benchmark_litert_model", "INFO: [benchmark_litert_model.h:89] ======", "", "breaks off"),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, find: str, put: str, says: str) -> None:
    text = text_of(name)
    assert find in text
    if says == "breaks off":
        text = text[: text.rindex(find)]
    with pytest.raises(ValueError, match=re.escape(says)):
        timings.read(text.replace(find, put))


def test_two_runs_are_not_taken_for_one() -> None:
    with pytest.raises(ValueError, match="2 runs"):
        timings.read(text_of("benchmark_model_old") + text_of("benchmark_litert_model"))


@given(st.text())
def test_no_text_gives_a_figure_by_chance(text: str) -> None:
    with pytest.raises(ValueError):
        timings.read(text)


@pytest.mark.parametrize("name", ["benchmark_model_current", "benchmark_litert_model"])
@given(share=st.floats(0, 1))
def test_a_log_that_breaks_off_is_refused_or_the_same(name: str, share: float) -> None:
    """Wherever it is cut: either that is seen, or all that is read is what the whole log says."""
    text = text_of(name).rstrip("\n")
    whole = timings.read(text).row()
    cut = text[: int(share * len(text))]
    try:
        found = timings.read(cut).row()
    except ValueError:
        return
    # Cut inside its last number, a line still reads as a line; memory and profile stand behind the times.
    late = ("init_mb", "overall_mb", "peak_mb", "ops")
    times = {key: value for key, value in found.items() if key not in (*late, "avg_ms")}
    assert times == {key: whole[key] for key in times}
    assert found["avg_ms"] == pytest.approx(whole["avg_ms"], rel=1e-3) and found["ops"] in ([], whole["ops"])


@given(
    values=st.lists(st.integers(1, 10**7), min_size=2, max_size=60).map(sorted),
    prefix=st.sampled_from(["", "INFO: "]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_is_printed_is_what_is_read(values: list[int], prefix: str, end: str) -> None:
    """Any run of the tool, printed as its C++ streams print it (six digits), comes back within those digits."""
    average, spread = float(np.mean(values)), float(np.std(values))
    if len(set(values)) == 1:
        line = f"count={len(values)} curr={values[0]}(all same)"
    else:
        line = f"count={len(values)} first={values[-1]} curr={values[0]} min={values[0]} max={values[-1]} "
        line += f"avg={average:.6g} std={spread:.0f}"
    lines = ["count=1 curr=77", line]
    lines.append(f"Inference timings in us: Init: 9, First inference: 77, Warmup (avg): 77, Inference (avg): {average:.6g}")
    timing = timings.read(end.join(prefix + each for each in lines))
    assert timing.runs == len(values) and timing.avg_ms == pytest.approx(average / 1e3, rel=1e-5)
    assert (timing.min_ms, timing.max_ms, timing.median_ms) == (values[0] / 1e3, values[-1] / 1e3, None)


# --- phones that are made up ------------------------------------------------------------------------------------------

PHONE = """@@machine
aarch64
@@model
Pixel 8
@@maker
Google
@@soc
Tensor G3
@@platform
zuma
@@android
15
@@sdk
35
@@qemu

@@cpus
0 1704000 1704000 sched_pixel
4 2367000 2367000 sched_pixel
5 2367000 2367000 sched_pixel
8 2914000 2914000 sched_pixel
@@battery
Current Battery Service state:
  AC powered: false
  USB powered: true
  level: 81
  scale: 100
  temperature: 291
@@thermal
IsStatusOverride: false
Thermal Status: 0
Cached temperatures:
	Temperature{mValue=55.0, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
Current temperatures from HAL:
	Temperature{mValue=31.5, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
	Temperature{mValue=48.2, mType=0, mName=BIG, mStatus=0}
Current cooling devices from HAL:
@@saver
0
"""


def test_the_state_of_a_phone() -> None:
    state = read_state(PHONE)
    assert (state.model, state.soc, state.android, state.sdk, state.cores) == ("Pixel 8", "Tensor G3", "15", 35, 4)
    assert (state.battery, state.charging, state.battery_c, state.skin_c) == (81, True, 29.1, 31.5)
    assert (state.throttling, state.saver, state.governor, state.emulated) == (0, False, "sched_pixel", False)
    assert state.max_mhz == {0: 1704, 4: 2367, 5: 2367, 8: 2914}
    assert state.unfit() == [] and state.unknown() == []


def test_what_a_device_does_not_tell_is_none() -> None:
    state = read_state("@@machine\nx86_64\n@@cpus\n0 - - -\n1 - - -\n@@saver\nnull\n")
    told = {name for name, value in vars(state).items() if value not in (None, {})}
    assert told == {"machine", "cores", "emulated"} and state.cores == 2 and state.emulated
    assert state.unfit() == [] and set(state.unknown()) >= {"throttling", "battery", "battery_c", "allowed_mhz"}
    with pytest.raises(DeviceError, match="did not say what it is"):
        read_state("")


@pytest.mark.parametrize(
    ("find", "put", "says"),
    [
        ("Thermal Status: 0", "Thermal Status: 2", "thermal status 2"),
        ("temperature: 291", "temperature: 415", "41.5 C"),
        ("level: 81", "level: 12", "12 %"),
        ("@@saver\n0", "@@saver\n1", "power saver"),
        ("8 2914000 2914000", "8 2914000 1803000", "core 8 is held at 1803 of 2914 MHz"),
    ],
)
def test_an_unfit_phone_is_not_timed(find: str, put: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find in PHONE
    phone = Device(Path("adb"), "made-up", "/nowhere")
    monkeypatch.setattr(phone, "_shell", lambda *_: layer.Output(0, PHONE.replace(find, put), 0.0))
    with pytest.raises(DeviceError, match=re.escape(says)) as error:
        phone.fit_to_time()
    assert "--force" in str(error.value) and "\n" not in str(error.value)
    assert len(phone.fit_to_time(force=True)) == 1


def test_it_waits_until_it_is_as_cool_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    start, slept = read_state(PHONE), []
    warm = [PHONE.replace("temperature: 291", f"temperature: {t}") for t in (330, 310, 300)]
    phone = Device(Path("adb"), "made-up", "/nowhere")
    answers = iter([*warm, *warm])
    monkeypatch.setattr(phone, "_shell", lambda *_: layer.Output(0, next(answers), 0.0))
    assert phone.cool_down(start, limit_s=100, rest_s=5, sleep=slept.append).battery_c == 30.0 and slept == [5, 5, 5]
    # It does not wait for ever, and then says how warm it is.
    assert phone.cool_down(start, limit_s=5, rest_s=5, sleep=slept.append).battery_c == 33.0


@given(st.dictionaries(st.integers(0, 15), st.sampled_from([900, 1800, 2400, 3000]), max_size=10), st.integers(1, 8))
def test_threads_stay_on_the_fastest_cores(max_mhz: dict[int, int], threads: int) -> None:
    mask = big_cores(max_mhz, threads)
    if mask is None:
        return
    inside = {core for core in max_mhz if int(mask, 16) >> core & 1}
    outside = set(max_mhz) - inside
    assert int(mask, 16) == sum(1 << core for core in inside) and outside
    assert len(inside) >= threads and min(max_mhz[c] for c in inside) > max(max_mhz[c] for c in outside)


def test_four_threads_on_a_phone_of_three_clusters() -> None:
    clusters = {0: 1704, 1: 1704, 2: 1704, 3: 1704, 4: 2367, 5: 2367, 6: 2367, 7: 2367, 8: 2914}
    assert [big_cores(clusters, n) for n in (1, 4, 9)] == ["100", "1f0", None]


@pytest.mark.parametrize(
    ("devices", "serial", "says"),
    [
        ({}, None, "found no device"),
        ({"a": "device", "b": "device"}, None, "choose with --serial"),
        ({"a": "device"}, "b", "found no device b; adb lists: a (device)"),
        ({"a": "unauthorized"}, None, "allow USB debugging"),
        ({"a": "offline", "b": "device"}, "a", "a is offline"),
        ({"a": "no permissions"}, None, "udev"),
    ],
)
def test_choosing(devices: dict[str, str], serial: str | None, says: str) -> None:
    with pytest.raises(DeviceError, match=re.escape(says)):
        choose(devices, serial)
    assert choose({"a": "offline", "b": "device"}, "b") == "b"


def test_without_adb_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setitem(sys.modules, "adbutils", None)
    with pytest.raises(ModuleNotFoundError, match=r"faceeraser\[device\]"):
        layer.find_adb()


def test_the_runner_has_to_end_with_done() -> None:
    whole = "compile_us 10.0\naccelerated 0\ninput 0 4 image\nrun_us 1000.0\nrun_us 2000.0\ndone\n"
    assert runner._read(whole) == ([1.0, 2.0], 0.01, False, False)
    assert runner._read("emulated 1\n" + whole)[3]
    for cut in ("done\n", "run_us 1000.0\nrun_us 2000.0\n", "compile_us 10.0\n"):
        with pytest.raises(ValueError, match="broke off"):
            runner._read(whole.replace(cut, ""))


def test_comparing_outputs() -> None:
    a = {"erased": np.full((1, 2), 0.5, np.float32)}
    b = {"erased": np.full((1, 2), 0.5 + 1e-6, np.float32)}
    assert runner.compare(a, a) == {"bit_exact": True, "bit_exact_8bit": True, "max_abs": 0.0}
    found = runner.compare(a, b)
    assert not found["bit_exact"] and found["bit_exact_8bit"] and 0 < found["max_abs"] < 2e-6
    with pytest.raises(ValueError, match="not finite"):
        runner.compare({"erased": np.full((1, 2), np.nan, np.float32)}, a)
    with pytest.raises(ValueError, match="expected"):
        runner.compare({"erased": np.zeros((2, 2), np.float32)}, a)


# --- a real daemon ----------------------------------------------------------------------------------------------------


def missing(why: str) -> None:
    if os.environ.get("FACEERASER_NO_SKIP") == "1":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="module")
def adb() -> Path:
    try:
        return layer.find_adb()
    except ModuleNotFoundError as error:
        missing(str(error))
        raise


@pytest.fixture
def world(adb: Path) -> Iterator:
    try:
        entered = faults.World(TOOLS, adb).__enter__()
    except FileNotFoundError as error:
        missing(str(error))
    yield entered
    entered.__exit__()


SAYS = {
    "no_device": "found no device, expected one",
    "unauthorized": "127.0.0.1:{port} is unauthorized, expected 'device'; unlock the phone",
    "offline": "127.0.0.1:{port} is offline, expected 'device'",
    "two_devices": "found 2 devices, expected one",
    "in_use": "is in use by process",
    "lost_in_push": "was lost while pushing big.bin",
    "lost_in_run": "was lost while running sleep",
    "full_disk": "its disk is full at model.tflite",
    "missing_binary": "benchmark_model is not there",
    "wrong_architecture": "benchmark_model is a program for",
    "damaged": "arrived with sha256",
    "garbage_output": "no results of benchmark_model",
    "time_out": "took longer than 1.5 s; stopped on the device",
    "crashed": "was ended by SIGSEGV",
}


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.__name__)
def test_every_fault_is_reported_in_one_line(fault, world) -> None:
    text = fault(world, faults.FIRST_PORT)
    assert SAYS[fault.__name__].format(port=faults.FIRST_PORT) in text and "\n" not in text
    assert world.exit_code == 2


@pytest.mark.parametrize("fault", [faults.lost_in_push, faults.lost_in_run], ids=lambda fault: fault.__name__)
def test_a_loss_that_an_old_adb_hides_is_seen(fault, adb: Path) -> None:
    old = faults.old_adb(TOOLS)
    if old is None:
        missing("no Debian adb under .cache/device; run: bash tests/fetch_device_tools.sh")
        return
    assert SAYS[fault.__name__] in faults.fault_rows(TOOLS, old, [fault])[0]["reported"]


def test_without_the_sentinel_a_loss_would_pass(world, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adb that returns 0 whatever happens: only the sentinel's absence tells, and it does."""
    world.phone(faults.FIRST_PORT)
    lying = faults.shell_script(world, "lying-adb", f'#!/bin/sh\n"{world.adb}" "$@" 2>/dev/null\nexit 0\n')
    world.adb = lying
    assert "was lost while running" in faults.lost_in_run(world, faults.FIRST_PORT + 1)


def test_the_whole_path(adb: Path) -> None:
    try:
        row = faults.loopback_row(TOOLS, adb)
    except FileNotFoundError as error:
        missing(str(error))
        return
    assert row["sha256_equal"] and row["exit_code"] == 7 and row["output"] == ["out", "err"] and row["cleaned"]
    assert row["emulated"] and set(row["not_told"]) == {"model", "soc", "android", "battery"}


def test_ctrl_c_leaves_nothing_behind(world) -> None:
    """A process of its own, interrupted while its program runs: program gone, folder gone, lock let go."""
    serial = world.phone(faults.FIRST_PORT)
    place = Path(world.place(faults.FIRST_PORT))
    code = (
        # What was started in the background has inherited that Ctrl-C is not for it.
        "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path\nfrom faceeraser.measurement.device import Device\n"
        "with Device.open(sys.argv[1], sys.argv[2], Path(sys.argv[3])) as d:\n    d.run(['sleep', '300'], 300)\n"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        started = subprocess.Popen(
            [sys.executable, "-c", code, serial, str(place), str(world.adb)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert world._until(lambda: any(place.glob("faceeraser-*/.pid")), 60)
        pid = next(place.glob("faceeraser-*/.pid")).read_text().strip()
        started.send_signal(number)
        assert "KeyboardInterrupt" in started.communicate(timeout=60)[1] and started.returncode != 0
        assert not any(place.iterdir())
        with Device.open(serial, str(place), world.adb) as device:
            assert device._shell(f"kill -0 {pid}", 30.0).code != 0


def test_runs_of_two_threads_do_not_share_a_phone(world) -> None:
    serial, place = world.phone(faults.FIRST_PORT), world.place(faults.FIRST_PORT)
    with Device.open(serial, place, world.adb), pytest.raises(DeviceError, match=f"process {os.getpid()}"):
        Device.open(serial, place, world.adb).__enter__()
    with Device.open(serial, place, world.adb):
        pass  # let go at the end


def test_words_arrive_as_they_are(world) -> None:
    serial, place = world.phone(faults.FIRST_PORT), world.place(faults.FIRST_PORT)
    arguments = ["a b", "$HOME", "'", '"', "*", ";echo", "\\", "`id`", "ä"]
    with Device.open(serial, place, world.adb) as device:
        assert device.run(["printf", "%s\\n", *arguments], 30).text.splitlines() == arguments
        with pytest.raises(DeviceError, match="ended with exit code 3, expected 0: why"):
            device.run(["sh", "-c", "echo why; exit 3"], 30)


# --- the script, on the daemon, with a tool that prints what the tool prints -----------------------------------------


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C runner for this machine."""
    folder = tmp_path_factory.mktemp("runner") / "native"
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks/build_runner.sh"), os.uname().machine, str(folder)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        missing(f"the runner cannot be built: {done.stderr.strip()[-200:]}")
    return folder


def stand_in(world, folder: Path) -> Path:
    """A benchmark_model that prints a fixture for each delegate, with a profile only when asked, and no nnapi."""
    fixture = {name: FIXTURES / f"benchmark_model_{name}.txt" for name in ("current", "current_logcat", "refused", "2_14")}
    plain = "\n".join(text_of("benchmark_model_2_14").split("INFO: Profiling Info")[0].splitlines())
    texts = {
        "gpu": fixture["current_logcat"].read_text(),
        "nnapi": fixture["refused"].read_text(),
        "plain": plain,
        "profile": fixture["2_14"].read_text(),
    }
    lines = ["#!/bin/sh", '[ -f "${1#--graph=}" ] || { echo "Could not open ${1#--graph=}"; exit 1; }', 'case "$*" in']
    cases = {"use_nnapi=true": "nnapi", "use_gpu=true": "gpu", "op_profiling=true": "profile", "": "plain"}
    for pattern, name in cases.items():
        lines.append(f"*{pattern}*) cat <<'END'\n{texts[name]}\nEND\n;;")
    path = folder / "benchmark_model"
    path.write_text("\n".join([*lines, "esac"]) + "\n")
    path.chmod(0o755)
    return path


def test_the_script_from_phone_to_file(world, native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serial = world.phone(faults.FIRST_PORT)
    place = world.place(faults.FIRST_PORT)
    monkeypatch.setattr(layer, "find_adb", lambda: world.adb)
    arguments = [
        str(MODEL),
        "--serial",
        serial,
        "--place",
        place,
        "--runner",
        str(native),
        "--threads",
        "2",
        "--benchmark-model",
        str(stand_in(world, tmp_path)),
        "--rest-s",
        "0.01",
        "--json",
        str(tmp_path / "phone.json"),
    ]
    assert android.main(arguments) == 0
    result = json.loads((tmp_path / "phone.json").read_text())
    rows = {row["name"]: row for row in result["rows"]}
    assert set(rows) == {"plan parity", "plan xnnpack 2", "plan gpu 1", "plan nnapi 1"}
    assert rows["plan parity"]["passed"] and rows["plan parity"]["bit_exact"]
    assert "took no node" in rows["plan nnapi 1"]["error"]
    xnnpack = rows["plan xnnpack 2"]
    assert xnnpack["delegated"][0]["nodes"] == 812 and len(xnnpack["ops"]) == 3 and xnnpack["overall_mb"] == 27.832
    # The daemon is no phone: nothing that could be taken for its latency is in the file.
    assert all(row["emulated"] for row in rows.values()) and "avg_ms" in xnnpack["discarded"]
    assert "1097.81" not in json.dumps(rows) and not [key for row in rows.values() for key in row if key.endswith("_ms")]
    assert not any(Path(place).iterdir())


def test_an_output_that_differs_fails(world, native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serial = world.phone(faults.FIRST_PORT)
    monkeypatch.setattr(layer, "find_adb", lambda: world.adb)
    honest = runner.reference
    monkeypatch.setattr(runner, "reference", lambda *a: {n: v + np.float32(0.01) for n, v in honest(*a).items()})
    arguments = [str(MODEL), "--serial", serial, "--place", world.place(faults.FIRST_PORT)]
    assert android.main([*arguments, "--runner", str(native)]) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["m.tflite"], "nothing to do"),
        (["m.tflite", "--runner", "r"], "m.tflite: not found"),
        ([str(MODEL), "--benchmark-model", "http://127.0.0.1:1/x"], "needs its --sha256"),
        ([str(MODEL), "--benchmark-model", "no-such-file"], "no such file"),
        ([str(MODEL), "--benchmark-model", __file__, "--sha256", "0" * 64], "expected " + "0" * 64),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert android.main(arguments) == 2
    assert says in (line := capsys.readouterr().err.strip()) and "\n" not in line


def test_a_tool_by_url_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib
    import http.server

    monkeypatch.setenv("FACEERASER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tool").write_bytes(b"a tool")
    handler = lambda *a: http.server.SimpleHTTPRequestHandler(*a, directory=str(tmp_path))  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, digest = f"http://127.0.0.1:{server.server_port}/tool", hashlib.sha256(b"a tool").hexdigest()
        path = android.fetched(url, digest)
        assert path.read_bytes() == b"a tool" and os.access(path, os.X_OK)
        with pytest.raises(ValueError, match="0000 but got "):
            android.fetched(url, "0" * 64)
        assert not list((tmp_path / "cache" / ("0" * 16)).iterdir()), "a file that is another is not kept"
        with pytest.raises(FileNotFoundError, match="cannot be downloaded"):
            android.fetched(f"{url}-gone", "1" * 64)
        server.shutdown()
    assert android.fetched(url, digest) == path  # the server is gone, the file is not
    path.write_bytes(b"tampered")
    with pytest.raises(ValueError, match="delete it and run again"):
        android.fetched(url, digest)


# --- the C runner -----------------------------------------------------------------------------------------------------


def test_the_runner_equals_pythons_runtime(native: Path) -> None:
    model = MODEL
    given = runner.sample_inputs(model)
    ran = runner.run_here(native, model, given, warmup=1, runs=2)
    assert len(ran.run_ms) == 2 and not ran.emulated
    assert runner.compare(ran.outputs, runner.reference(model, given))["bit_exact"]
    other = runner.reference(model, runner.sample_inputs(model, seed=1))
    assert not runner.compare(ran.outputs, other)["bit_exact"], "the comparison cannot fail"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda arguments, folder: [*arguments, "--input", "other=x"], "no tensor for"),
        (
            lambda arguments, folder: [w for w in arguments if w not in ("--input",) and not w.startswith("mask=")],
            "unknown word",
        ),
        (lambda arguments, folder: [*arguments[:1], "no-such-model.tflite", *arguments[2:]], "LiteRtCreateModelFromFile"),
        (
            lambda arguments, folder: [w.replace("image=image.in", "image=mask.in") for w in arguments],
            "not of its tensor's size",
        ),
        (lambda arguments, folder: [*arguments, "--runs", "many"], "expected a number"),
    ],
)
def test_the_runner_says_what_is_wrong(native: Path, tmp_path: Path, change, says: str) -> None:
    model = MODEL
    for name, value in runner.sample_inputs(model).items():
        value.tofile(tmp_path / f"{name}.in")
    arguments = ["run", str(model), *runner._options(runner.ports(model), 1, 0, 1)]
    changed = change(arguments, tmp_path)
    done = subprocess.run(
        ["sh", str(native / "run"), *changed[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode in (2, 4) and says in done.stderr.splitlines()[-1] and "done" not in done.stdout.split()


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    try:
        return faults.bundles(TOOLS, tmp_path_factory.mktemp("bundles"))
    except FileNotFoundError as error:
        missing(str(error))
        raise


@pytest.mark.slow
def test_int8_on_arm_is_bit_exact(both: tuple[Path, Path]) -> None:
    row = faults.qemu_row("qemu_int8", WEIGHTS / "int8.tflite", *both, pictures=1)
    assert row["bit_exact"] and row["emulated"] and row["int8_tensors"] >= 1
    assert row["int8_tensors_after_warp"] == 0, "painting by a plan has no weights: nothing after it is int8"
    assert faults.within(row) and row["python_bit_exact"]


@pytest.fixture(scope="module")
def small_fp32(tmp_path_factory: pytest.TempPathFactory, short_canny: None) -> Path:
    """A small network, untrained but with a flow that moves pixels, through the exporter."""
    import torch
    from torch import nn

    from faceeraser.model import checkpoint
    from faceeraser.model.config import Config
    from faceeraser.model.networks import FaceEraser

    torch.manual_seed(0)
    config = Config.of("mobile", resolution=64, blocks={"edge": 0, "clone": 0}, variant="auto_encoder")
    pipeline = FaceEraser(config, width=4)
    nn.init.normal_(pipeline.clone.head.conv.weight, std=0.02)
    folder = tmp_path_factory.mktemp("small")
    with writing.whole_folder(folder / "fp32") as partly:
        checkpoint.save(partly, pipeline.eval(), stage="test", options={}, metrics={})
    assert script("export/to_tflite.py").main([str(folder / "fp32"), str(folder), "--flavour", "web"]) == 0
    return folder / "fp32-web.tflite"


@pytest.mark.slow
def test_fp32_on_arm_is_within_its_tolerance(both: tuple[Path, Path], small_fp32: Path) -> None:
    row = faults.qemu_row("qemu_fp32", small_fp32, *both, pictures=1)
    assert row["parity_max"] <= faults.TOLERANCE and row["python_bit_exact"] and row["emulated"]


@pytest.mark.slow
def test_an_emulated_arm_behind_the_daemon(world, both: tuple[Path, Path]) -> None:
    """All of it together: the ARM program pushed through adb, run there by qemu, its outputs pulled and compared."""
    serial, place = world.phone(faults.FIRST_PORT), world.place(faults.FIRST_PORT)
    model = WEIGHTS / "int8.tflite"
    given = runner.sample_inputs(model)
    with Device.open(serial, place, world.adb) as device:
        runner.push_bundle(device, both[1])
        device.push(model)
        ran = runner.run_on(device, model, given)
    found = runner.compare(ran.outputs, runner.reference(model, given))
    apart = np.abs(ran.outputs["erased"] - runner.reference(model, given)["erased"]) * 255
    assert ran.emulated and (apart > 2).mean() <= 1e-3 and found["max_abs"] < 0.05


# --- the committed result ---------------------------------------------------------------------------------------------


def test_the_committed_result_has_its_rows_and_no_latency() -> None:
    rows = {row["name"]: row for row in json.loads((ROOT / "benchmarks/results/device.json").read_text())["rows"]}
    assert {"adbd_loopback", "qemu_int8", "qemu_fp32", "parser_fixtures"} <= set(rows)
    assert {f"fault_{fault.__name__}" for fault in faults.FAULTS} <= set(rows)
    assert rows["qemu_int8"]["bit_exact"] and rows["qemu_int8"]["emulated"] and rows["qemu_fp32"]["emulated"]
    assert rows["qemu_fp32"]["parity_max"] <= faults.TOLERANCE and rows["parser_fixtures"]["n"] >= 9
    assert all(row["reported"] and "\n" not in row["reported"] for name, row in rows.items() if name.startswith("fault_"))
    assert not [key for row in rows.values() for key in row if key.endswith(("_ms", "_us", "seconds"))]

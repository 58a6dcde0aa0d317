"""A phone over adb: choose it, read its model and state, push, run, pull, and leave nothing behind.

    with Device.open() as device:
        device.push("exports/int8.tflite")
        done = device.run(["./benchmark_model", "--graph=int8.tflite"], timeout_s=60)

adb's answers are not trusted: some builds exit with 0 when the device is lost half-way. A command's exit code is
printed by the device behind a word that no program can guess, and a pushed file's sha256 is taken on the device. Every
error is one line: what was found, what was expected, what to do.

adb is the user's own, else the one inside adbutils (extra `device`). ADB_SERVER_SOCKET and ANDROID_ADB_SERVER_PORT hold,
as they do for adb.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faceeraser.artifacts.files import sha256_of

PLACE = "/data/local/tmp"  # the one place on a phone where the shell may write and execute
MOST_OUTPUT = 64 << 20  # bytes that a program may print before it is stopped
BATTERY_LEAST = 30  # percent; below it phones begin to save power
BATTERY_HOT = 40.0  # degrees Celsius at the battery
CAPPED = 0.95  # a core whose highest allowed frequency is below this share of what it can do is held back
PROBLEMS = {
    "unauthorized": "unlock the phone, allow USB debugging for this computer, and run again",
    "authorizing": "unlock the phone, allow USB debugging for this computer, and run again",
    "offline": "plug it in again or run `adb reconnect offline`, then run again",
    "connecting": "wait until it is connected, then run again",
    "recovery": "start Android on it, then run again",
    "sideload": "start Android on it, then run again",
    "bootloader": "start Android on it, then run again",
    "no permissions": "give your user access to the USB device (udev rules), then run again",
}
# What ELF's e_machine calls an architecture, in the words of `uname -m`.
MACHINES = {3: "i686", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
RUNS_ALSO = {"aarch64": {"arm"}, "x86_64": {"i686"}, "armv7l": {"arm"}, "armv8l": {"arm", "aarch64"}}


class DeviceError(ValueError):
    """Something about the device or adb is not as it has to be; the message is one line and says what to do."""


class DeviceLost(DeviceError):
    """The device went away during a command, whose outcome is unknown."""


# --- adb -------------------------------------------------------------------------------------------------------------


def find_adb() -> Path:
    """The user's adb, else the one inside adbutils. Raises ModuleNotFoundError, which names the extra, if there is none."""
    if own := shutil.which("adb"):
        return Path(own)
    try:
        import adbutils
    except ImportError:
        raise ModuleNotFoundError(
            "no adb found on PATH; install Android's platform-tools, or: pip install 'faceeraser[device]'"
        ) from None
    return Path(adbutils.adb_path())


@dataclass(frozen=True)
class Output:
    """What a command of adb's did: its exit code (None: stopped at its time limit), all it printed, seconds."""

    code: int | None
    text: str
    seconds: float

    @property
    def last_line(self) -> str:
        """The line that says most, for an error message: adb's own error, else the last; adb's prefix is dropped."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        lines = [line for line in lines if line.startswith("adb: error:")] or lines
        shown = "".join(c if c.isprintable() else "?" for c in lines[-1]) if lines else "nothing"
        return shown.removeprefix("adb: ").removeprefix("error: ")[:200]


def _call(command: Sequence[str], timeout_s: float) -> Output:
    """Run adb in a session of its own, so that a Ctrl-C at the terminal reaches us and not the adb that cleans up."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as sink:
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
        too_much = False
        try:
            while process.poll() is None and time.monotonic() - began < timeout_s and not too_much:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
                too_much = os.fstat(sink.fileno()).st_size > MOST_OUTPUT
        finally:
            code = process.poll()
            if code is None:
                process.kill()
                process.wait()
        sink.seek(0)
        text = sink.read(MOST_OUTPUT).decode("utf-8", "replace")
    if too_much:
        raise DeviceError(f"found more than {MOST_OUTPUT >> 20} MiB of output; expected a few lines of figures; stopped it")
    return Output(code, text, time.monotonic() - began)


def listed(adb: Path | None = None) -> dict[str, str]:
    """Serial -> state ('device' is the good one) of all that adb sees. Raises DeviceError when adb does not answer."""
    output = _call([str(adb or find_adb()), "devices"], 30.0)
    head, title, rest = output.text.partition("List of devices attached")
    if output.code != 0 or not title:
        raise DeviceError(f"adb does not list devices: {Output(1, head or output.text, 0).last_line}; try `adb kill-server`")
    devices = {}
    for line in rest.splitlines():
        serial, _, state = line.strip().partition("\t")
        if state and not line.startswith("*"):
            devices[serial] = "no permissions" if state.startswith("no permissions") else state.strip()
    return devices


def choose(devices: Mapping[str, str], serial: str | None) -> str:
    """The serial to work with: the one asked for, else the only one there is.

    Raises DeviceError: none, several and none asked for, not the one asked for, or it is not in state 'device'.
    """
    shown = ", ".join(f"{name} ({state})" for name, state in devices.items()) or "none"
    if serial is None:
        if not devices:
            raise DeviceError("found no device, expected one; plug a phone in and turn USB debugging on, then `adb devices`")
        if len(devices) > 1:
            raise DeviceError(f"found {len(devices)} devices, expected one: {shown}; choose with --serial")
        serial = next(iter(devices))
    if serial not in devices:
        raise DeviceError(f"found no device {serial}; adb lists: {shown}; check the cable or --serial")
    if (state := devices[serial]) != "device":
        todo = PROBLEMS.get(state, "see `adb devices -l`, then run again")
        raise DeviceError(f"{serial} is {state}, expected 'device'; {todo}")
    return serial


@contextlib.contextmanager
def locked(serial: str) -> Iterator[None]:
    """Hold the device: a second run on the same phone would spoil both figures. Let go by the system if we die.

    Raises DeviceError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no lock, and so no claim of one
        yield
        return
    name = re.sub(r"[^\w.-]", "_", serial)
    path = Path(tempfile.gettempdir()) / f"faceeraser-{os.getuid()}-{name}.lock"
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise DeviceError(f"{serial} is in use by process {holder}; wait until it is done, or stop it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


# --- the state of a phone --------------------------------------------------------------------------------------------

# One round trip. A tool that is not there leaves its section empty, which is read as "not known".
QUESTIONS = {
    "machine": "uname -m",
    "model": "getprop ro.product.model",
    "maker": "getprop ro.product.manufacturer",
    "soc": "getprop ro.soc.model",
    "platform": "getprop ro.board.platform",
    "android": "getprop ro.build.version.release",
    "sdk": "getprop ro.build.version.sdk",
    "qemu": "getprop ro.kernel.qemu; getprop ro.boot.qemu",
    "cpus": (
        "for c in /sys/devices/system/cpu/cpu[0-9]*; do echo ${c##*/cpu} "
        "$(cat $c/cpufreq/cpuinfo_max_freq || echo -) $(cat $c/cpufreq/scaling_max_freq || echo -) "
        "$(cat $c/cpufreq/scaling_governor || echo -); done"
    ),
    "battery": "dumpsys battery",
    "thermal": "dumpsys thermalservice",
    "saver": "settings get global low_power",
}


@dataclass(frozen=True)
class State:
    """What a device is and how it fares just now. What it does not tell is None (or absent), never a guess.

    `max_mhz`, `allowed_mhz`: core -> what it can do, and what it is allowed just now. `throttling`: Android's thermal
    status, 0 none to 6 shutdown. Temperatures in degrees Celsius, `battery` in percent.
    """

    machine: str | None = None
    model: str | None = None
    soc: str | None = None
    android: str | None = None
    sdk: int | None = None
    emulated: bool = True
    cores: int | None = None
    max_mhz: dict[int, int] = field(default_factory=dict)
    allowed_mhz: dict[int, int] = field(default_factory=dict)
    governor: str | None = None
    battery: int | None = None
    charging: bool | None = None
    battery_c: float | None = None
    skin_c: float | None = None
    throttling: int | None = None
    saver: bool | None = None

    def row(self) -> dict[str, Any]:
        """The fields of a result's row: what the device is, and under `conditions` how it fared."""
        mhz = sorted(self.max_mhz.values(), reverse=True) or None
        conditions = {
            name: getattr(self, name)
            for name in ("governor", "battery", "charging", "battery_c", "skin_c", "throttling", "saver")
        }
        return {
            "device": self.model,
            "soc": self.soc,
            "android": self.android,
            "machine": self.machine,
            "cores": self.cores,
            "max_mhz": mhz,
            "emulated": self.emulated,
            "conditions": conditions,
        }

    def unfit(self) -> list[str]:
        """Why no time measured now would be the phone's own; empty if nothing known speaks against it."""
        reasons = []
        if self.throttling:
            reasons.append(f"Android reports thermal status {self.throttling}, expected 0")
        if self.battery_c is not None and self.battery_c >= BATTERY_HOT:
            reasons.append(f"the battery has {self.battery_c:g} C, expected less than {BATTERY_HOT:g}")
        if self.battery is not None and self.battery < BATTERY_LEAST:
            reasons.append(f"the battery is at {self.battery} %, expected {BATTERY_LEAST} or more")
        if self.saver:
            reasons.append("the power saver is on, expected off")
        held = {c: m for c, m in self.allowed_mhz.items() if c in self.max_mhz and m < CAPPED * self.max_mhz[c]}
        if held:
            core, mhz = max(held.items(), key=lambda item: self.max_mhz[item[0]])
            reasons.append(f"core {core} is held at {mhz} of {self.max_mhz[core]} MHz, expected all of it")
        return reasons

    def unknown(self) -> list[str]:
        """Which of the conditions this device does not tell."""
        return [name for name in ("throttling", "battery_c", "battery", "saver") if getattr(self, name) is None] + (
            [] if self.allowed_mhz else ["allowed_mhz"]
        )


def _float(text: str) -> float:
    """A number, or NaN, which is in no range, where a text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def read_state(text: str) -> State:
    """The answers to `QUESTIONS`, each behind a line `@@name`, as a State. Raises DeviceError if there are none."""
    sections = {part.split("\n", 1)[0].strip(): part.split("\n", 1)[1] for part in text.split("@@")[1:] if "\n" in part}
    if "machine" not in sections:
        raise DeviceError("the device did not say what it is; expected the answer of `uname -m`; check `adb shell uname -m`")

    def word(name: str) -> str | None:
        lines = sections.get(name, "").strip().splitlines()
        return lines[0].strip() or None if lines else None

    def number(pattern: str, section: str, least: float, most: float) -> float | None:
        match = re.search(pattern, sections.get(section, ""), re.M | re.A)
        return value if match and least <= (value := _float(match[1])) <= most else None

    max_mhz: dict[int, int] = {}
    allowed: dict[int, int] = {}
    governors: dict[str, bool] = {}
    cores = 0
    for line in sections.get("cpus", "").splitlines():
        cells = line.split()
        if len(cells) != 4 or not re.fullmatch("[0-9]{1,3}", cells[0]):
            continue
        cores += 1
        for table, cell in ((max_mhz, cells[1]), (allowed, cells[2])):
            if re.fullmatch("[1-9][0-9]{3,9}", cell):
                table[int(cells[0])] = int(cell) // 1000
        if cells[3] != "-":
            governors[cells[3]] = True
    battery, scale = number(r"^\s*level: (\d+)", "battery", 0, 1e6), number(r"^\s*scale: (\d+)", "battery", 1, 1e6)
    powered = re.findall(r"^\s*\w+ powered: (true|false)", sections.get("battery", ""), re.M)
    tenths = number(r"^\s*temperature: (-?\d+)", "battery", -600, 1500)
    throttling = number(r"^\s*Thermal Status: (\d+)", "thermal", 0, 6)
    # What the sensors say now; "Cached temperatures" may be minutes old.
    now = sections.get("thermal", "").partition("Current temperatures from HAL")[2].partition("Current cooling devices")[0]
    skin = [v for v in map(_float, re.findall(r"mValue=(-?[\d.]+), mType=3,", now)) if -60 <= v <= 150]
    android, sdk = word("android"), word("sdk")
    saver = word("saver")
    return State(
        machine=word("machine"),
        model=word("model"),
        soc=word("soc") or word("platform"),
        android=android,
        sdk=int(sdk) if sdk and re.fullmatch("[1-9][0-9]?", sdk) else None,
        # Neither Android's emulator nor a daemon on plain Linux has a phone's silicon.
        emulated=android is None or "1" in sections.get("qemu", "").split(),
        cores=cores or None,
        max_mhz=max_mhz,
        allowed_mhz=allowed,
        governor=", ".join(governors) or None,
        battery=round(100 * battery / scale) if battery is not None and scale and battery <= scale else None,
        charging="true" in powered if powered else None,
        battery_c=tenths / 10 if tenths is not None else None,
        skin_c=max(skin) if skin else None,
        throttling=int(throttling) if throttling is not None else None,
        saver=saver == "1" if saver in ("0", "1") else None,
    )


def big_cores(max_mhz: Mapping[int, int], threads: int) -> str | None:
    """A hexadecimal mask for taskset: the fastest clusters that together have `threads` cores, and all of their cores.

    None where the frequencies are not known, or where there is nothing to choose.
    """
    if len(set(max_mhz.values())) < 2:
        return None
    taken: list[int] = []
    for mhz in sorted(set(max_mhz.values()), reverse=True):
        taken += [core for core, most in max_mhz.items() if most == mhz]
        if len(taken) >= threads:
            break
    return None if len(taken) == len(max_mhz) else f"{sum(1 << core for core in taken):x}"


# --- the device ------------------------------------------------------------------------------------------------------


def machine_of(path: str | Path) -> str | None:
    """The architecture an ELF program is for, in the words of `uname -m`; None for anything else, a script say."""
    with open(path, "rb") as file:
        head = file.read(20)
    if head[:4] != b"\x7fELF" or len(head) < 20:
        return None
    number = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    return MACHINES.get(number, f"machine {number}")


class Device:
    """One device, held by this process, and a folder of its own there. Made by `Device.open`."""

    def __init__(self, adb: Path, serial: str, folder: str) -> None:
        """`folder`: absolute path on the device, which is made by `open` and removed by it."""
        self.adb, self.serial, self.folder = adb, serial, folder
        self._state: State | None = None

    @classmethod
    @contextlib.contextmanager
    def open(cls, serial: str | None = None, place: str = PLACE, adb: Path | None = None) -> Iterator[Device]:
        """Choose and lock a device and make a folder on it; at the end, whatever the end, stop what runs there, remove it.

        Also at Ctrl-C and SIGTERM: a benchmark that goes on after we have gone would heat the phone and spoil the next.

        Raises:
            DeviceError: see `choose` and `locked`; or the folder cannot be made.
            ModuleNotFoundError: there is no adb.
        """
        adb = adb or find_adb()
        serial = choose(listed(adb), serial)
        with locked(serial), _terminated_as_interrupted():
            device = cls(adb, serial, f"{place}/faceeraser-{secrets.token_hex(4)}")
            try:
                output = device._shell(f"mkdir -p {shlex.quote(device.folder)}", 30.0)
                if output.code != 0:
                    reason = f"cannot make {device.folder} ({output.last_line})"
                    raise DeviceError(f"{serial}: {reason}; expected {place} to be writable; name another with --place")
                yield device
            finally:
                with _deaf():
                    device._clean()

    def push(self, local: str | Path, name: str | None = None, timeout_s: float = 300.0, foreign: bool = False) -> str:
        """Copy a file into the device's folder as `name` and compare sha256 there; returns its path on the device.

        `foreign`: do not ask that a program be built for the device (it will be emulated).

        Raises:
            DeviceError: the file is a program for another architecture, the disk is full, it arrived damaged, time ran out.
            DeviceLost: the device went away.
            FileNotFoundError: there is no such file here.
        """
        local = Path(local)
        if not local.is_file():
            raise FileNotFoundError(f"{local}: no such file to push; expected a model, a tool or a runner")
        name = name or local.name
        target = f"{self.folder}/{name}"
        if not foreign and (machine := machine_of(local)):
            here = self.state().machine
            if here and machine != here and machine not in RUNS_ALSO.get(here, set()):
                raise DeviceError(
                    f"{local.name} is a program for {machine}, {self.serial} is {here}; expected one built for {here}"
                )
        digest = sha256_of(local)
        done = _call([str(self.adb), "-s", self.serial, "push", str(local), target], timeout_s)
        if done.code is None:
            self._still_there(f"pushing {name}")
            raise DeviceError(f"{self.serial}: pushing {name} took longer than {timeout_s:g} s; check the cable or the port")
        # Not every adb reports every failure: even after a 0, only the sha256 tells.
        if done.code != 0:
            self._still_there(f"pushing {name}")
            self._refuse_full(f"{name} of {local.stat().st_size / 2**20:.1f} MiB", done.text)
            raise DeviceError(f"{self.serial}: pushing {name} failed: {done.last_line}; expected it in {self.folder}")
        output = self._shell(f"sha256sum {shlex.quote(target)}", 60.0, f"checking {name}")
        if output.code != 0:
            raise DeviceError(f"{self.serial}: the sha256 of {name} cannot be taken there ({output.last_line})")
        if (arrived := output.text.split()[0].lstrip("\\")) != digest:
            raise DeviceError(
                f"{self.serial}: {name} arrived with sha256 {arrived[:12]}..., expected {digest[:12]}...; push it again"
            )
        return target

    def pull(self, name: str, local: str | Path, timeout_s: float = 300.0) -> Path:
        """Copy a file out of the device's folder and compare sha256; returns where it lies here.

        Raises DeviceError (it is not there, or was damaged, or time ran out) or DeviceLost.
        """
        local = Path(local)
        source = f"{self.folder}/{name}"
        output = self._shell(f"sha256sum {shlex.quote(source)}", 60.0, f"checking {name}")
        if output.code != 0:
            raise DeviceError(f"{self.serial}: no file {name} to pull ({output.last_line}); the program should write it")
        done = _call([str(self.adb), "-s", self.serial, "pull", source, str(local)], timeout_s)
        if done.code is None or done.code != 0 or not local.is_file():
            self._still_there(f"pulling {name}")
            raise DeviceError(f"{self.serial}: pulling {name} failed: {done.last_line}")
        if sha256_of(local) != output.text.split()[0].lstrip("\\"):
            raise DeviceError(f"{self.serial}: {name} was damaged on its way here; pull it again")
        return local

    def run(self, command: Sequence[str], timeout_s: float, mask: str | None = None, check: bool = True) -> Output:
        """Run a program in the device's folder, its output and errors together; at the time limit it is killed there too.

        `mask`: the cores to stay on (`big_cores`). Raises DeviceError: time ran out, or with `check`, the program cannot be
        run or ended with another exit code than 0. Raises DeviceLost: no exit code came back.
        """
        program = Path(command[0]).name
        line = shlex.join([*(["taskset", mask] if mask else []), *command])
        # In the background and waited for, so that its process is known and can be stopped; exec keeps that id.
        script = f"( exec {line} ) </dev/null & echo $! >.pid; wait $!; code=$?; rm -f .pid; ( exit $code )"
        try:
            done = self._shell(script, timeout_s, f"running {program}")
        except BaseException:
            with _deaf():
                self._stop()
            raise
        if done.code is None:
            stopped = self._stop()
            self._still_there(f"running {program}")
            raise DeviceError(
                f"{self.serial}: {program} took longer than {timeout_s:g} s; "
                f"{'stopped on the device' if stopped else 'it may still run there'}; raise --timeout or time fewer runs"
            )
        if check and done.code != 0:
            said = done.last_line
            self._refuse_full(program, done.text[-2000:])
            if done.code == 127:
                raise DeviceError(f"{self.serial}: {program} is not there ({said}); expected it in {self.folder}; push it")
            if done.code == 126:
                raise DeviceError(
                    f"{self.serial}: {program} cannot be run there ({said}); expected a program for {self.state().machine}"
                )
            if done.code > 128:
                name = signal.Signals(done.code - 128).name if done.code - 128 in list(signal.Signals) else "a signal"
                raise DeviceError(f"{self.serial}: {program} was ended by {name}; its last line: {said}")
            raise DeviceError(f"{self.serial}: {program} ended with exit code {done.code}, expected 0: {said}")
        return done

    def state(self, fresh: bool = False) -> State:
        """What the device is and how it fares; asked once, or anew if `fresh`."""
        if self._state is None or fresh:
            asked = "; ".join(f"echo @@{name}; {{ {line}; }} 2>/dev/null" for name, line in QUESTIONS.items())
            self._state = read_state(self._shell(asked, 60.0, "reading the device's state").text)
        return self._state

    def fit_to_time(self, force: bool = False) -> list[str]:
        """Raise DeviceError unless the device is fit to be timed now; forced, return the reasons against it instead."""
        reasons = self.state(fresh=True).unfit()
        if reasons and not force:
            raise DeviceError(
                f"{self.serial} is not fit to be timed: {'; '.join(reasons)}; let it cool and charge, or use --force"
            )
        return reasons

    def cool_down(
        self, start: State, limit_s: float = 300.0, rest_s: float = 5.0, sleep: Callable[[float], None] = time.sleep
    ) -> State:
        """Wait until the device is as cool as it was in `start`, within a degree, and not throttled: its state then.

        It rests `rest_s` at least, which is all that can be done where no temperature is known. After `limit_s` the state
        is returned as it is: `fit_to_time` decides.
        """
        waited = 0.0
        while True:
            sleep(rest_s)
            waited += rest_s
            now = self.state(fresh=True)
            pairs = [(now.battery_c, start.battery_c), (now.skin_c, start.skin_c)]
            warm = any(a is not None and b is not None and a > b + 1.0 for a, b in pairs)
            if (not warm and not now.throttling) or waited >= limit_s:
                return now

    # --- below: how it is done ---

    def _shell(self, script: str, timeout_s: float, doing: str = "a command") -> Output:
        """Run shell text in the device's folder; the exit code is the device's own, None if time ran out.

        Raises DeviceLost when no exit code came back although adb ended.
        """
        word = f"__FE_{secrets.token_hex(6)}"
        answer = f"__c=$?; printf '\\n%s=%d\\n' {word} $__c"
        text = f"cd {shlex.quote(self.folder)} 2>/dev/null || cd /; {{ {script}; }} 2>&1; {answer}"
        done = _call([str(self.adb), "-s", self.serial, "shell", "-T", "-n", text], timeout_s)
        marks = list(re.finditer(rf"\r?\n?{word}=(\d+)", done.text))
        if marks:
            return Output(int(marks[-1][1]), done.text[: marks[-1].start()], done.seconds)
        if done.code is None:
            return done
        self._still_there(doing)
        raise DeviceLost(
            f"{self.serial} was lost while {doing}: no exit code came back ({done.last_line}); expected one; "
            "check the cable and run again"
        )

    def _still_there(self, doing: str) -> None:
        """Raise DeviceLost unless adb lists the device as good; adb takes a moment to notice."""
        time.sleep(0.3)
        state = listed(self.adb).get(self.serial)
        if state != "device":
            reason = f"adb lists it as {state}" if state else "adb lists it no longer"
            todo = "check the cable and run again"
            raise DeviceLost(f"{self.serial} was lost while {doing}: {reason}, expected 'device'; {todo}")

    def _refuse_full(self, name: str, said: str) -> None:
        if "No space left on device" in said:
            free = self._shell(f"df -k {shlex.quote(self.folder)}", 30.0).text.strip().split("\n")
            cells = free[-1].split() if len(free) > 1 else []
            room = f", {int(cells[3]) // 1024} MiB left" if len(cells) > 3 and cells[3].isdigit() else ""
            raise DeviceError(f"{self.serial}: its disk is full at {name}{room}; expected room in {self.folder}; free some")

    def _stop(self) -> bool:
        """Kill what `run` started; whether the device said that it did."""
        try:
            return self._shell("p=$(cat .pid) && kill -9 $p && rm -f .pid", 15.0).code == 0
        except DeviceError:
            return False

    def _clean(self) -> None:
        """Stop what runs and remove the folder. A device that is lost keeps it, which is said and not raised."""
        folder = shlex.quote(self.folder)
        try:
            done = self._shell(f"[ ! -f .pid ] || kill -9 $(cat .pid); cd /; rm -rf {folder}; [ ! -e {folder} ]", 60.0)
            left = done.code != 0
        except DeviceError:
            left = True
        if left:
            print(f"{self.serial}: {self.folder} is left on the device; remove it when it is back", file=sys.stderr)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C is not heard meanwhile: cleaning up takes a second and has to be whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends us as Ctrl-C does, through all that has to be cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

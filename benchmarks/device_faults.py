"""The device layer against a real adb daemon and real faults, and the C runner on an emulated ARM: what was reported.

    bash tests/fetch_device_tools.sh
    python benchmarks/device_faults.py --json benchmarks/results/device.json
    python benchmarks/device_faults.py --fp32 exports/fp32.tflite --json benchmarks/results/device.json

A phone is not needed and none is measured. adbd, the daemon that runs on every phone, runs here on a loopback of its own:
user, network, mount and process namespaces, which need no root, because Debian's adbd listens on every address and asks
for no key. The adb server is in there with it and is reached over a socket in a folder. Faults are made for real: the daemon
is killed in the middle, the disk is a tmpfs of 4 MiB, the unauthorized phone is a peer that never takes a key.

The rows `qemu_*` run one program, built for x86-64 and for aarch64, on the same inputs; what qemu runs has an ARM's
arithmetic and not its speed, so no time is kept. Of the int8 file everything int8 has to be bit-exact, and the picture in
8 bits; its flow and its warp are float32 and stay within the tolerance, as all of the fp32 file does.

This file is also its own worker: `--world JSON` is the inside of the namespaces, told what to do on stdin.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from faceeraser.system import script

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / ".cache" / "device"
FIXTURES = ROOT / "tests" / "fixtures"
TOLERANCE = 1e-4  # float32 on two architectures: other orders of summation, fused or not; 6e-6 was measured
SMALL_DISK = 4 << 20  # bytes
FIRST_PORT = 5611  # an adb server looks for emulators below 5586 by itself
UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child")

# --- inside the namespaces -------------------------------------------------------------------------------------------


def raise_loopback() -> None:
    """`ip link set lo up`, without needing ip."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14s", b"lo", 0, b"")
        flags = struct.unpack("16sh14s", fcntl.ioctl(any_socket, 0x8913, request))[1]  # SIOCGIFFLAGS
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14s", b"lo", flags | 1, b""))  # SIOCSIFFLAGS, IFF_UP


def peer(kind: str, port: int) -> None:
    """Something on `port` that speaks adb's protocol just as far as its fault goes."""
    listener = socket.create_server(("127.0.0.1", port))

    def packet(command: bytes, first: int, second: int, body: bytes) -> bytes:
        number = int.from_bytes(command, "little")
        return struct.pack("<6I", number, first, second, len(body), sum(body), number ^ 0xFFFFFFFF) + body

    def receive(link: socket.socket) -> tuple[bytes, int] | None:
        head = link.recv(24, socket.MSG_WAITALL)
        if len(head) < 24:
            return None
        _, first, _, length, _, _ = struct.unpack("<6I", head)
        link.recv(length, socket.MSG_WAITALL)
        return head[:4], first

    def serve(link: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while message := receive(link):
                # A hello, or a signature of a key that is not known: sign another token. A public key: silence, which
                # is what a phone gives while it waits for its user.
                if kind == "unauthorized" and (message[0] == b"CNXN" or message == (b"AUTH", 2)):
                    link.sendall(packet(b"AUTH", 1, 0, os.urandom(20)))

    def accept() -> None:
        while True:
            link, _ = listener.accept()
            threading.Thread(target=serve, args=(link,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def reap() -> None:
    """Wait for every process that ends, so that none stays as a zombie, which would look alive."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.05)


def inside(options: dict[str, Any]) -> int:
    """The worker: one JSON command a line on stdin, one JSON answer a line on stdout, until stdin ends."""
    folder = Path(options["folder"])
    raise_loopback()
    env = {**os.environ, "HOME": str(folder / "home")}
    phones: dict[int, subprocess.Popen[bytes]] = {}
    log = open(folder / "log", "wb")  # noqa: SIM115 -- as long as the process
    subprocess.Popen(
        [options["adb"], "-L", f"localfilesystem:{folder}/adb", "server", "nodaemon"],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=env,
    )
    # This process is the namespace's first, to whom what others leave behind falls: it has to be waited for.
    threading.Thread(target=reap, daemon=True).start()
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "phone":
            port = order["port"]
            place = folder / f"phone-{port}"
            place.mkdir(exist_ok=True)
            if order.get("disk"):
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={order['disk']}", "none", str(place)], check=True)
            phones[port] = subprocess.Popen(
                options["adbd"],
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**env, "ADBD_PORT": str(port)},
                start_new_session=True,
            )
        elif order["do"] == "kill":
            phones[order["port"]].kill()
            phones[order["port"]].wait()
        elif order["do"] == "peer":
            peer(order["kind"], order["port"])
        print(json.dumps({"done": order["do"]}), flush=True)
    return 0


# --- outside ---------------------------------------------------------------------------------------------------------


class World:
    """The namespaces, seen from outside: phones come and go in it. While it is entered, adb talks to its server."""

    def __init__(self, tools: Path, adb: Path) -> None:
        """`tools`: what tests/fetch_device_tools.sh made. Raises FileNotFoundError when a piece is missing."""
        unpacked = tools / "trixie"
        loader, adbd = unpacked / "usr/lib64/ld-linux-x86-64.so.2", unpacked / "usr/lib/android-sdk/platform-tools/adbd"
        for piece in (loader, adbd):
            if not piece.is_file():
                raise FileNotFoundError(f"no {piece.name} under {tools}; run: bash tests/fetch_device_tools.sh")
        if not shutil.which("unshare"):
            raise FileNotFoundError("no unshare on PATH, which separates the daemon from the network; install util-linux")
        libraries = f"{unpacked}/usr/lib/x86_64-linux-gnu:{unpacked}/usr/lib/x86_64-linux-gnu/android"
        self.exit_code = 0  # of the last fault
        self.adb, self.adbd = adb, [str(loader), "--library-path", libraries, str(adbd)]

    def __enter__(self) -> World:
        self.folder = Path(tempfile.mkdtemp(prefix="fe-"))  # short: a socket's path has 107 characters
        (self.folder / "home").mkdir()
        self.before = {name: os.environ.get(name) for name in ("ADB_SERVER_SOCKET", "HOME")}
        # Libraries of other suites' programs must not reach the daemon, nor ours the user's adb server and keys.
        options = json.dumps({"folder": str(self.folder), "adb": str(self.adb), "adbd": self.adbd})
        self.process = subprocess.Popen(
            [*UNSHARE, sys.executable, str(Path(__file__).resolve()), "--world", options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        os.environ |= {"ADB_SERVER_SOCKET": f"localfilesystem:{self.folder}/adb", "HOME": str(self.folder / "home")}
        if not self._until(lambda: (self.folder / "adb").exists()):
            self.__exit__()
            raise FileNotFoundError("the adb server did not start in a namespace of its own; is `unshare --user` allowed?")
        return self

    def __exit__(self, *_: object) -> None:
        for name, value in self.before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()  # --kill-child takes all that is inside along
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _until(true: Callable[[], bool], seconds: float = 60.0) -> bool:
        ends = time.monotonic() + seconds
        while not (value := true()) and time.monotonic() < ends:
            time.sleep(0.05)
        return value

    def _tell(self, **order: Any) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        if not self.process.stdout.readline():
            raise RuntimeError(f"the daemon's world ended at {order}: {(self.folder / 'log').read_text()[-300:]}")

    def command(self, *order: str) -> str:
        """What adb prints; for connecting and disconnecting."""
        done = subprocess.run([str(self.adb), *order], capture_output=True, text=True, timeout=60, check=False)
        return (done.stdout + done.stderr).strip()

    def place(self, port: int) -> str:
        """The folder that stands for a phone's /data/local/tmp."""
        return str(self.folder / f"phone-{port}")

    def phone(self, port: int, disk: int | None = None) -> str:
        """Start a daemon, connect, wait until adb lists it as good: its serial. `disk`: a disk of so many bytes."""
        from faceeraser.measurement import device

        self._tell(do="phone", port=port, disk=disk)
        serial = f"127.0.0.1:{port}"
        for _ in range(100):
            self.command("connect", serial)
            if device.listed(self.adb).get(serial) == "device":
                return serial
            time.sleep(0.1)
        raise RuntimeError(f"{serial} did not come up: {(self.folder / 'log').read_text()[-300:]}")

    def peer(self, port: int, kind: str, state: str) -> str:
        """Connect to a peer with a fault and wait until adb lists it in `state`."""
        from faceeraser.measurement import device

        self._tell(do="peer", port=port, kind=kind)
        serial = f"127.0.0.1:{port}"
        # `connect` waits for it to be good, which it never is.
        waiting = subprocess.Popen([str(self.adb), "connect", serial], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if not self._until(lambda: device.listed(self.adb).get(serial) == state):
                raise RuntimeError(f"{serial} is {device.listed(self.adb).get(serial)}, expected {state}")
        finally:
            waiting.kill()
            waiting.wait()
        return serial

    def kill(self, port: int) -> None:
        """As if the cable was pulled: no goodbye."""
        self._tell(do="kill", port=port)

    def gone(self, serial: str) -> None:
        """Forget a device, so that the next fault sees only its own."""
        self.command("disconnect", serial)

    @contextlib.contextmanager
    def killed_when(self, port: int, file: str) -> Iterator[None]:
        """Kill the phone as soon as a file of that name is in its folder."""
        place = Path(self.place(port))

        def watch() -> None:
            if self._until(lambda: any(place.glob(f"faceeraser-*/{file}"))):
                self.kill(port)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            watcher.join()


# --- faults: each returns what was reported --------------------------------------------------------------------------


def reported(world: World, work: Callable[[], Any]) -> str:
    """What a script that does `work` prints on standard error, without this machine's folders; its exit code is kept.

    Raises RuntimeError when the fault goes unnoticed or takes more than one line to tell.
    """
    with contextlib.redirect_stderr(io.StringIO()) as said:
        world.exit_code = script.execute(lambda _: work(), argparse.ArgumentParser(prog="android.py"), [])
    # What could not be cleaned up on a phone that is lost is said before it, on a line of its own.
    lines = [line for line in said.getvalue().splitlines() if not line.endswith("remove it when it is back")]
    if world.exit_code == 0 or len(lines) != 1:
        raise RuntimeError(f"a fault went unnoticed or was told in {len(lines)} lines: {lines}")
    text = lines[0].removeprefix("android.py: ").replace(str(world.folder), "")
    return re.sub(r"/phone-\d+", "<place>", re.sub(r"faceeraser-[0-9a-f]{8}", "faceeraser-<id>", text))


def opened(world: World, port: int, work: Callable[[Any], Any]) -> str:
    """What is reported when `work(device)` is done on the phone at `port`."""
    from faceeraser.measurement.device import Device

    def do() -> None:
        with Device.open(f"127.0.0.1:{port}", world.place(port), world.adb) as device:
            work(device)

    return reported(world, do)


def shell_script(world: World, name: str, text: str) -> Path:
    """A shell script to push."""
    path = world.folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def no_device(world: World, port: int) -> str:
    from faceeraser.measurement.device import Device

    def do() -> None:
        with Device.open(None, world.place(port), world.adb):
            pass

    return reported(world, do)


def unauthorized(world: World, port: int) -> str:
    world.peer(port, "unauthorized", "unauthorized")
    return no_device(world, port)


def offline(world: World, port: int) -> str:
    world.peer(port, "silent", "offline")
    return no_device(world, port)


def two_devices(world: World, port: int) -> str:
    serials = [world.phone(port), world.phone(port + 50)]
    try:
        return no_device(world, port)
    finally:
        world.gone(serials[1])


def in_use(world: World, port: int) -> str:
    from faceeraser.measurement.device import Device

    serial = world.phone(port)
    with Device.open(serial, world.place(port), world.adb):
        text = opened(world, port, lambda device: None)
    return re.sub(r"process \d+", "process <id>", text)


def lost_in_push(world: World, port: int) -> str:
    world.phone(port)
    big = world.folder / "big.bin"
    big.write_bytes(os.urandom(96 << 20))
    with world.killed_when(port, "big.bin"):
        return opened(world, port, lambda device: device.push(big))


def lost_in_run(world: World, port: int) -> str:
    world.phone(port)
    with world.killed_when(port, ".pid"):
        return opened(world, port, lambda device: device.run(["sleep", "30"], 60))


def full_disk(world: World, port: int) -> str:
    world.phone(port, disk=SMALL_DISK)
    big = world.folder / "model.tflite"
    big.write_bytes(os.urandom(2 * SMALL_DISK))
    return opened(world, port, lambda device: device.push(big))


def missing_binary(world: World, port: int) -> str:
    world.phone(port)
    return opened(world, port, lambda device: device.run(["./benchmark_model"], 30))


def wrong_architecture(world: World, port: int) -> str:
    world.phone(port)
    program = bytearray(Path(shutil.which("true") or "/bin/true").read_bytes())
    program[18:20] = (183 if os.uname().machine == "x86_64" else 62).to_bytes(2, "little")
    path = world.folder / "benchmark_model"
    path.write_bytes(program)
    path.chmod(0o755)
    return opened(world, port, lambda device: device.push(path))


def damaged(world: World, port: int) -> str:
    world.phone(port)
    path = world.folder / "model.tflite"
    path.write_bytes(b"as it was")

    def work(device: Any) -> None:
        from faceeraser.measurement import device as layer

        honest = layer.sha256_of
        # The file changes between taking its sum and sending it, which to the device looks like a bad cable.
        layer.sha256_of = lambda p: (honest(p), path.write_bytes(b"as it is"))[0]  # type: ignore[assignment]
        try:
            device.push(path)
        finally:
            layer.sha256_of = honest

    return opened(world, port, work)


def garbage_output(world: World, port: int) -> str:
    from faceeraser.measurement import timings

    world.phone(port)
    # Bytes of all kinds, no newline at the end, and a line that looks like the sentinel of another run.
    end = "printf '\\n__FE_000000000000=0\\nhalf a li'"
    tool = shell_script(world, "benchmark_model", f"#!/bin/sh\nhead -c 20000 /dev/urandom\n{end}\n")

    def work(device: Any) -> None:
        device.push(tool)
        timings.read(device.run(["./benchmark_model"], 30).text)

    return opened(world, port, work)


def time_out(world: World, port: int) -> str:
    world.phone(port)
    alive: list[bool] = []

    def work(device: Any) -> None:
        device.push(shell_script(world, "slow", "#!/bin/sh\necho $$ > id\nexec sleep 300\n"))
        try:
            device.run(["./slow"], 1.5)
        finally:
            alive.append(device._shell("kill -0 $(cat id)", 30.0).code == 0)

    text = opened(world, port, work)
    if alive != [False]:
        raise RuntimeError("the program still runs on the device after its time-out")
    return text


def crashed(world: World, port: int) -> str:
    world.phone(port)

    def work(device: Any) -> None:
        device.push(shell_script(world, "crashing", "#!/bin/sh\necho half way\nkill -SEGV $$\n"))
        device.run(["./crashing"], 30)

    return opened(world, port, work)


FAULTS = (
    no_device,
    unauthorized,
    offline,
    two_devices,
    in_use,
    lost_in_push,
    lost_in_run,
    full_disk,
    missing_binary,
    wrong_architecture,
    damaged,
    garbage_output,
    time_out,
    crashed,
)


def fault_rows(tools: Path, adb: Path, faults: Sequence[Callable[[World, int], str]] = FAULTS) -> list[dict[str, Any]]:
    """One row for each fault, each in a world of its own."""
    rows = []
    for number, fault in enumerate(faults):
        with World(tools, adb) as world:
            text = fault(world, FIRST_PORT + number)
            rows.append({"name": f"fault_{fault.__name__}", "reported": text, "exit_code": world.exit_code})
    return rows


def adb_version(adb: Path) -> str:
    done = subprocess.run([str(adb), "version"], capture_output=True, text=True, check=False)
    version = re.search(r"^Version (\S+)", done.stdout, re.M)
    return version[1] if version else "unknown"


def old_adb(tools: Path) -> Path | None:
    """Debian's own adb, unpacked, as a program that finds its libraries; None where it was not fetched."""
    unpacked = tools / "cross"
    program = next((p for p in unpacked.glob("usr/lib/android-sdk/platform-tools/adb") if p.is_file()), None)
    if program is None:
        return None
    libraries = f"{unpacked}/usr/lib/x86_64-linux-gnu/android:{unpacked}/usr/lib/x86_64-linux-gnu"
    started = tools / "old-adb"
    started.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries}" exec "{program}" "$@"\n')
    started.chmod(0o755)
    return started


def loopback_row(tools: Path, adb: Path) -> dict[str, Any]:
    """The whole path without a fault: connect, read the state, push, run, pull, clean up."""
    from faceeraser.artifacts.files import sha256_of
    from faceeraser.measurement.device import Device

    with World(tools, adb) as world:
        serial = world.phone(FIRST_PORT)
        payload = world.folder / "payload.bin"
        payload.write_bytes(os.urandom(8 << 20))
        with Device.open(None, world.place(FIRST_PORT), adb) as device:
            state = device.state()
            device.push(payload)
            code = device.run(["sh", "-c", "cp payload.bin back.bin; echo out; echo err >&2; exit 7"], 30, check=False)
            back = device.pull("back.bin", world.folder / "back.bin")
            row = {
                "name": "adbd_loopback",
                "adb": adb_version(adb),
                "adbd": adbd_version(tools),
                "serial": serial,
                "bytes": payload.stat().st_size,
                "sha256_equal": sha256_of(back) == sha256_of(payload),
                "exit_code": code.code,
                "output": code.text.split(),
                "machine": state.machine,
                "not_told": [name for name in ("model", "soc", "android", "battery") if getattr(state, name) is None],
                "emulated": state.emulated,
            }
        row["cleaned"] = not any(Path(world.place(FIRST_PORT)).iterdir())
    return row


def adbd_version(tools: Path) -> str:
    """From the package's changelog: the daemon has no way to say."""
    import gzip

    log = tools / "trixie/usr/share/doc/adbd/changelog.Debian.gz"
    version = re.search(r"\((?:\d+:)?([^)]+)\)", gzip.decompress(log.read_bytes()).decode()) if log.is_file() else None
    return version[1] if version else "unknown"


# --- ARM, emulated ---------------------------------------------------------------------------------------------------


def bundles(tools: Path, target: Path) -> tuple[Path, Path]:
    """(native, emulated) folders of the C runner, built now. Raises FileNotFoundError when a piece is missing."""
    qemu = tools / "trixie/usr/bin/qemu-aarch64"
    if not qemu.is_file():
        raise FileNotFoundError(f"no qemu-aarch64 under {tools}; run: bash tests/fetch_device_tools.sh")
    folders = []
    for name, machine in {"native": [os.uname().machine], "emulated": ["aarch64"]}.items():
        folder = target / name
        more = ["--emulate", str(qemu)] if name == "emulated" else []
        done = subprocess.run(
            ["bash", str(ROOT / "benchmarks/build_runner.sh"), *machine, str(folder), *more],
            env={**os.environ, "PYTHON": sys.executable, "FACEERASER_CROSS": str(tools / "cross")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip() or "nothing").splitlines()[-1]
            raise FileNotFoundError(f"the runner for {machine[0]} cannot be built: {last}")
        folders.append(folder)
    return folders[0], folders[1]


def with_int8_shown(model: Path, target: Path) -> dict[str, bool]:
    """Write the model with every int8 tensor that leaves its quantized part as an output too: {its name as an output:
    whether it was computed from what the warp gave, which is float32}.

    What leaves is what a DEQUANTIZE takes: there the integers that the networks computed can be seen as they are.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    unpacked = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model.read_bytes(), 0))
    graph = unpacked.subgraphs[0]
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in unpacked.operatorCodes]
    maker = {tensor: operator for operator in graph.operators for tensor in operator.outputs}
    # The forms in which exporters write a warp; nothing else in the graph looks rows up.
    gathers = {getattr(schema.BuiltinOperator, n) for n in ("GATHER", "GATHER_ND", "EMBEDDING_LOOKUP")}

    def after_warp(tensor: int) -> bool:
        seen, ahead = set(), [tensor]
        while ahead:
            operator = maker.get(ahead.pop())
            if operator is None or id(operator) in seen:
                continue
            seen.add(id(operator))
            if codes[operator.opcodeIndex] in gathers:
                return True
            ahead += list(operator.inputs)
        return False

    outputs, shown = list(graph.outputs), {}
    for number, operator in enumerate(graph.operators):
        tensor = operator.inputs[0] if len(operator.inputs) else -1
        leaves = codes[operator.opcodeIndex] == schema.BuiltinOperator.DEQUANTIZE and tensor not in outputs
        if leaves and graph.tensors[tensor].type == schema.TensorType.INT8:
            named = schema.TensorMapT()
            named.name, named.tensorIndex = f"int8_{number}", tensor
            unpacked.signatureDefs[0].outputs.append(named)
            outputs.append(tensor)
            shown[named.name] = after_warp(tensor)
    graph.outputs = outputs
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(unpacked.Pack(builder), b"TFL3")
    target.write_bytes(builder.Output())
    return shown


def qemu_row(name: str, model: Path, native: Path, emulated: Path, pictures: int) -> dict[str, Any]:
    """The model by the same program on x86-64 and on an emulated ARM, and by Python's LiteRT, on the same inputs."""
    import numpy as np

    from faceeraser.artifacts.files import sha256_of
    from faceeraser.measurement import results, runner

    int8, after_warp = name == "qemu_int8", {}
    row: dict[str, Any] = {"name": name, "file": results.portable(model), "sha256": sha256_of(model)}
    pairs = []
    with tempfile.TemporaryDirectory() as scratch:
        run = model
        if int8:
            run = Path(scratch) / model.name
            after_warp = with_int8_shown(model, run)
        for seed in range(pictures):
            given = runner.sample_inputs(run, seed)
            arm = runner.run_here(emulated, run, given, timeout_s=3600)
            x86 = runner.run_here(native, run, given)
            if not arm.emulated or x86.emulated:
                raise ValueError("the emulated runner does not say that it is emulated, or the native one does")
            pairs.append((arm.outputs, x86.outputs, runner.reference(run, given)))
    whole = {kind: value.dtype.kind for kind, value in pairs[0][0].items()}
    floats = [n for n, k in whole.items() if k == "f"]
    if not floats:
        what = "gives no float outputs, and rounded ones hide how far apart two machines are; export it with --flavour web"
        raise ValueError(f"{results.portable(model)} {what}")

    def over(names: Sequence[str], a: int, b: int) -> list[dict[str, Any]]:
        return [runner.compare({n: p[a][n] for n in names}, {n: p[b][n] for n in names}) for p in pairs if names]

    float_pairs, python = over(floats, 0, 1), over(list(whole), 1, 2)
    row |= {
        "pictures": pictures,
        "bit_exact_8bit": all(pair["bit_exact_8bit"] for pair in float_pairs),
        "bit_exact_float": all(pair["bit_exact"] for pair in float_pairs),
        "parity_max": max(pair["max_abs"] for pair in float_pairs),
        "python_bit_exact": all(pair["bit_exact"] for pair in python),
        "python_max": max(pair["max_abs"] for pair in python),
        "tolerance": TOLERANCE,
        "emulated": True,
    }
    if int8:
        before = [n for n, after in after_warp.items() if not after]
        # What follows the warp is quantized from floats, which differ in the last bit: now and then one falls on the other
        # side of a half, and over twenty layers that is a level or two, here and there.
        levels = [np.abs(p[0][n].astype(int) - p[1][n]) for p in pairs for n, after in after_warp.items() if after]
        shown = [np.abs(np.rint(p[0][n] * 255) - np.rint(p[1][n] * 255)) for p in pairs for n in floats]
        row |= {
            "bit_exact": bool(before) and all(pair["bit_exact"] for pair in over(before, 0, 1)),
            "bit_exact_of": "every int8 tensor that leaves the quantized part before the warp, which is float32",
            "int8_tensors": len(before),
            "int8_tensors_after_warp": len(after_warp) - len(before),
            "after_warp_differ": max((float((x > 0).mean()) for x in levels), default=0.0),
            "after_warp_levels": max((int(x.max()) for x in levels), default=0),
            "picture_differ_by_more_than_2_of_255": max(float((x > 2).mean()) for x in shown),
        }
    return row


def parser_row() -> dict[str, Any]:
    """All outputs of benchmark_model under tests/fixtures, read."""
    from faceeraser.measurement import timings

    files = sorted(FIXTURES.glob("benchmark_*.txt"))
    read = {file.stem: timings.read(file.read_bytes().decode()) for file in files}
    return {
        "name": "parser_fixtures",
        "n": len(read),
        "with_profile": sum(bool(t.ops) for t in read.values()),
        "files": list(read),
    }


# --- the command -----------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> int:
    """Do it all, print, write. 1 when a figure is not what it has to be."""
    from faceeraser.measurement import device, results

    adb = device.find_adb()
    rows = [loopback_row(args.tools, adb)]
    if old := old_adb(args.tools):
        again = loopback_row(args.tools, old)
        rows.append({**again, "name": "adbd_loopback_debian_adb"})
    with tempfile.TemporaryDirectory() as scratch:
        native, emulated = bundles(args.tools, Path(scratch))
        rows.append(qemu_row("qemu_int8", args.int8, native, emulated, args.pictures))
        if args.fp32:
            rows.append(qemu_row("qemu_fp32", args.fp32, native, emulated, 1))
    rows += [parser_row(), *fault_rows(args.tools, adb)]
    if old:
        lost = fault_rows(args.tools, old, (lost_in_push, lost_in_run))
        rows += [{**row, "name": f"{row['name']}_debian_adb", "adb": adb_version(old)} for row in lost]
    result = results.result(rows, None, args.command)
    if args.json:
        results.write_result(args.json, result)
    script.finish("the device layer, without a phone", [{"name": r["name"], "": summary(r)} for r in rows], result)
    by_name = {row["name"]: row for row in rows}
    wrong = [row["name"] for row in rows if row.get("python_max", 0) > TOLERANCE or not within(row)]
    if not by_name["qemu_int8"]["bit_exact"] or wrong:
        raise script.GateFailed(f"ARM and x86-64 differ: {', '.join(wrong) or 'qemu_int8 is not bit-exact'}")
    return 0


def within(row: dict[str, Any]) -> bool:
    """Whether ARM's picture is x86-64's: floats within TOLERANCE; of an int8 file 0.1 % may be 3 levels of 255 apart."""
    apart = row.get("picture_differ_by_more_than_2_of_255")
    return float(row.get("parity_max", 0)) <= TOLERANCE if apart is None else float(apart) <= 1e-3


def summary(row: dict[str, Any]) -> str:
    """A row in one cell of the table for people."""
    if "reported" in row:
        return str(row["reported"])
    keys = ("n", "bit_exact", "parity_max", "python_bit_exact", "sha256_equal", "cleaned", "adb", "adbd")
    return ", ".join(f"{key} {row[key]}" for key in keys if key in row)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = script.parser(__file__, __doc__)
    weights = ROOT / "faceeraser" / "weights"
    parser.add_argument(
        "--tools", type=Path, default=TOOLS, metavar="FOLDER", help="folder made by tests/fetch_device_tools.sh"
    )
    parser.add_argument("--int8", type=Path, default=weights / "int8.tflite", metavar="FILE", help="default: the package's")
    parser.add_argument(
        "--fp32", type=Path, metavar="FILE", help="an fp32 export; takes minutes, because qemu is slow with floats"
    )
    parser.add_argument(
        "--pictures", type=int, default=2, help="number of pictures for the int8 file (default: %(default)s)"
    )
    script.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--world"]:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ends with its stdin, not with the terminal's Ctrl-C
        return inside(json.loads(arguments[1]))
    return script.execute(measure, build_parser(), arguments)


if __name__ == "__main__":
    sys.exit(main())

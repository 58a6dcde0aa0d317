"""Time the web demo in a browser: here, in headless Chromium, or in a phone's Chrome over adb.

    python benchmarks/web.py --json benchmarks/results/web.json
    python benchmarks/web.py --previous old/faceeraser/page old/int8.tflite --turns 5
    python benchmarks/web.py --phone --effects none mono-eye

The page is served as `faceeraser demo` serves it, opened at ?bench=1, and posts its figures back: frames of 640 x 480 in
which a face moves, through all that a camera's frame goes through. A row for each effect (`none` erases alone):

fps             frames a second, everything included
STEP_ms         median of a step's milliseconds over the frames that have it: grab, landmarks, mask, cut, model, paste,
                effect, show, and find, which only every detect_every-th frame has
mean_ms         by step, the mean over all frames: these add up to a frame
ratio           of --previous: fps to that page's, the median over the turns

On a phone Chrome is started by an intent, at an address that `adb reverse` leads back to this machine: a phone that is warm,
throttled or nearly empty is refused as benchmarks/android.py refuses it. Nothing else should run meanwhile, here or there.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from faceeraser import WEIGHTS, serve
from faceeraser.face import effects
from faceeraser.measurement import results
from faceeraser.system import script

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROME = "com.android.chrome"


class Here:
    """A headless browser on this machine, with a profile of its own."""

    name = "here"
    facts: dict[str, Any] = {}  # noqa: RUF012 - a result tells of this machine anyway

    def __init__(self, program: str | None) -> None:
        """program: its name or path; None takes the first of BROWSERS. Raises FileNotFoundError: there is none."""
        programs = [path for name in ([program] if program else BROWSERS) if (path := shutil.which(name))]
        if not programs:
            looked = program or ", ".join(BROWSERS)
            raise FileNotFoundError(f"no browser found (looked for {looked}); name one: --browser FILE")
        self.program = programs[0]

    @contextlib.contextmanager
    def showing(self, url: str) -> Iterator[None]:
        """Open an address, and close the browser at the end."""
        with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
            flags = ["--headless=new", "--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}"]
            flags += ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []
            process = subprocess.Popen([self.program, *flags, url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                yield
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


class Phone:
    """Chrome on a device."""

    def __init__(self, device: Any, port: int, force: bool) -> None:
        """device: an open one; port: of the server on this machine. Raises DeviceError: it is not fit to be timed."""
        self.device, self.port = device, port
        for reason in device.fit_to_time(force):
            print(f"forced: {reason}", file=sys.stderr)
        self.start = device.state()
        self.name = self.start.model or device.serial

    @property
    def facts(self) -> dict[str, Any]:
        """What the device is and how it fares now, for a row."""
        state = self.device.state(fresh=True)
        return {**state.row(), "throttled": bool(state.unfit()), "unfit": state.unfit(), "not_known": state.unknown()}

    @contextlib.contextmanager
    def showing(self, url: str) -> Iterator[None]:
        """Open an address of this machine's in Chrome, once the phone has cooled down."""
        self.device.cool_down(self.start)
        self._reverse(f"tcp:{self.port}", f"tcp:{self.port}")
        try:
            self.device.run(["am", "start", "-a", "android.intent.action.VIEW", "-d", url, CHROME], 60.0)
            yield
            # So that the next row's page does not share the processor with this one's.
            self.device.run(["am", "force-stop", CHROME], 60.0)
        finally:
            self._reverse("--remove", f"tcp:{self.port}")

    def _reverse(self, *order: str) -> None:
        command = [str(self.device.adb), "-s", self.device.serial, "reverse", *order]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["nothing was said"]
            raise ValueError(f"{self.device.serial}: adb reverse failed ({said[-1]}); expected Android 5 or later")


def row_of(figures: Any, effect: str, facts: dict[str, Any]) -> dict[str, Any]:
    """A result's row. Raises ValueError: the page says that something went wrong."""
    if not isinstance(figures, dict) or "fps" not in figures:
        problem = figures.get("error") if isinstance(figures, dict) else type(figures).__name__
        raise ValueError(f"the page cannot be measured: {problem}")
    steps = figures["steps"]
    line = (
        "frames",
        "frames_with_face",
        "width",
        "height",
        "runs",
        "threads",
        "why",
        "isolated",
        "model",
        "precision",
        "sha256",
        "agent",
    )
    times = {
        "fps": figures["fps"],
        **{f"{name}_ms": step["median_ms"] for name, step in steps.items()},
        "p90_ms": {name: step["p90_ms"] for name, step in steps.items()},
        "mean_ms": {name: step["mean_ms"] for name, step in steps.items()},
    }
    return {
        "name": f"{figures['runs']} {figures['threads']} {effect}",
        "effect": effect,
        **{key: figures[key] for key in line},
        "litert_js": figures["litert"],
        "browser_cores": figures["cores"],
        **facts,
        # What an emulator took says nothing of any phone.
        **({"discarded": sorted(times)} if facts.get("emulated") else times),
    }


def figures_of(place: Here | Phone, url: str, posted: queue.Queue[Any], effect: str, args: Namespace) -> dict[str, Any]:
    """A result's row of one effect."""
    wanted = f"bench=1&post=1&frames={args.frames}&run={args.run_on}&effect={'' if effect == 'none' else effect}"
    with place.showing(f"{url}?{wanted}"):
        try:
            figures = posted.get(timeout=args.timeout)
        except queue.Empty:
            raise ValueError(
                f"no figures came from the browser within {args.timeout:g} s; expected them at {url}; is it there, and "
                "awake? raise --timeout or time fewer --frames"
            ) from None
    return row_of(figures, effect, place.facts)


def measured(
    place: Here | Phone, servers: Sequence[serve.Server], posted: queue.Queue[Any], args: Namespace
) -> list[dict[str, Any]]:
    """A row for each effect, of the first server's page; `ratio` is to the second's, if there is one."""
    rows = []
    for effect in args.effects:
        turns = [[figures_of(place, each.url, posted, effect, args) for each in servers] for _ in range(args.turns)]
        row, *previous = ([turn[k] for turn in turns] for k in range(len(servers)))
        rows.append(sorted(row, key=lambda each: float(each.get("fps", 0)))[len(row) // 2])
        if previous and "fps" in row[0]:
            ratios = [after["fps"] / before["fps"] for after, before in zip(row, previous[0], strict=True)]
            rows[-1] |= {
                "ratio": statistics.median(ratios),
                "ratios": ratios,
                "previous": {key: previous[0][0][key] for key in ("model", "sha256", "threads")}
                | {"fps": statistics.median(each["fps"] for each in previous[0])},
            }
    return rows


def run(args: Namespace) -> None:
    if args.frames < 1 or args.turns < 1:
        raise ValueError(f"--frames {args.frames} --turns {args.turns}: expected at least 1 of each")
    if unknown := set(args.effects) - {"none", *effects.read()}:
        raise ValueError(f"--effects {sorted(unknown)[0]}: expected some of none, {', '.join(effects.read())}")
    if args.phone and args.previous:
        raise ValueError("--previous compares on this machine; use it without --phone")
    posted: queue.Queue[Any] = queue.Queue()
    pages = [(args.model, serve.PAGE), *([tuple(map(Path, reversed(args.previous)))] if args.previous else [])]
    with contextlib.ExitStack() as stack:
        servers = []
        for model, page in pages:
            servers.append(stack.enter_context(serve.Server("127.0.0.1", 0, serve.table(model, page), posted.put)))
            threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
            stack.callback(servers[-1].shutdown)
        if args.phone:
            from faceeraser.measurement.device import Device

            device = stack.enter_context(Device.open(args.serial))
            place: Here | Phone = Phone(device, servers[0].server_address[1], args.force)
        else:
            place = Here(args.browser)
        rows = measured(place, servers, posted, args)
    result = results.result(rows, None, args.command)
    if args.json:
        results.write_result(args.json, result)
    shown = (
        "name",
        "fps",
        "ratio",
        "find_ms",
        "landmarks_ms",
        "mask_ms",
        "cut_ms",
        "model_ms",
        "paste_ms",
        "effect_ms",
        "throttled",
    )
    script.finish(f"the page, {place.name}", [{key: row.get(key) for key in shown} for row in rows], result)


def build_parser() -> ArgumentParser:
    parser = script.parser(__file__, __doc__)
    option = parser.add_argument
    option("--model", type=Path, default=WEIGHTS / "plan.tflite", metavar="FILE", help="default: the one that ships")
    option(
        "--effects",
        nargs="+",
        default=["none"],
        metavar="NAME",
        help="effects, timed one after another; `none` only erases (the default)",
    )
    option("--run-on", choices=("wasm", "webgpu"), default="wasm", help="default: %(default)s")
    option("--frames", type=int, default=100, help="number of frames (default: %(default)s)")
    option(
        "--previous",
        nargs=2,
        metavar=("PAGE", "FILE"),
        help="another version to time in turns with this one, for `ratio`: the folder its `make web` wrote, and its model",
    )
    option("--turns", type=int, default=1, help="how often each is timed; the middle one counts (default: %(default)s)")
    option("--browser", metavar="FILE", help="a Chromium-based browser on this machine")
    option("--phone", action="store_true", help="use a phone's Chrome, over adb")
    option("--serial", help="which phone, if there are several")
    option("--force", action="store_true", help="time the phone even if it is warm, throttled or low on battery")
    option("--timeout", type=float, default=300.0, metavar="S", help="time limit per row (default: %(default)s)")
    script.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

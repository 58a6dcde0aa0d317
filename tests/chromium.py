"""Headless Chromium, driven through its DevTools protocol with the standard library alone."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def program() -> str:
    """Where Chromium is; where it is not, the test skips visibly, or fails under FACEERASER_NO_SKIP=1."""
    for name in NAMES:
        if executable := shutil.which(name):
            return executable
    message = f"no Chromium here (looked for {', '.join(NAMES)}): install one to see that the pages can be read"
    if os.environ.get("FACEERASER_NO_SKIP") == "1":
        pytest.fail(message)
    pytest.skip(message)


class Chromium:
    """One browser with one page. Use as a context manager: it ends the process and removes its profile."""

    def __init__(self, patience_s: float = 120.0, flags: Sequence[str] = ()) -> None:
        """patience_s: how long any one answer may take; test machines have other work. flags: more of Chromium's own."""
        self.patience_s, self.number, self.events = patience_s, 0, []  # type: ignore[var-annotated]
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            "--remote-debugging-port=0",
            f"--user-data-dir={self.profile}",
        ]
        self.process = subprocess.Popen(
            [program(), *arguments, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.socket = self._connect()
        target = next(t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = None
        self.session = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Performance"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)

    session: str | None = None

    def _connect(self) -> socket.socket:
        port_file = Path(self.profile) / "DevToolsActivePort"
        end = time.monotonic() + self.patience_s
        while not (port_file.is_file() and len(port_file.read_text().splitlines()) >= 2):
            assert self.process.poll() is None, f"Chromium ended with exit code {self.process.returncode}"
            assert time.monotonic() < end, "Chromium did not start"
            time.sleep(0.1)
        port, path = port_file.read_text().splitlines()[:2]
        link = socket.create_connection(("127.0.0.1", int(port)), self.patience_s)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        link.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.stream = link.makefile("rb")
        assert b" 101 " in self.stream.readline()
        while self.stream.readline() not in (b"\r\n", b""):
            pass
        return link

    def _send(self, text: bytes) -> None:
        length, mask = len(text), secrets.token_bytes(4)
        size = bytes([0x80 | min(length, 127)])
        if length >= 126:
            size = b"\xfe" + struct.pack(">H", length) if length < 1 << 16 else b"\xff" + struct.pack(">Q", length)
        masked = bytes(byte ^ mask[k % 4] for k, byte in enumerate(text))
        self.socket.sendall(b"\x81" + size + mask + masked)

    def _receive(self) -> dict[str, Any]:
        whole = b""
        while True:
            first, second = self.stream.read(2)
            length = second & 0x7F
            if length >= 126:
                length = int.from_bytes(self.stream.read(2 if length == 126 else 8), "big")
            part = self.stream.read(length)
            if first & 0x0F in (0, 1):
                whole += part
                if first & 0x80:
                    return json.loads(whole)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one command. What the browser tells meanwhile is kept in `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self._send(json.dumps(message).encode())
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def window(self, width: int, height: int = 800, dark: bool = False) -> None:
        """The size of the window in pixels, and which of the two colour schemes the reader prefers."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.ask("Emulation.setTouchEmulationEnabled", enabled=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, page: Path | str) -> float:
        """Load a file or an address; returns the seconds until its load event."""
        self.events.clear()
        began = time.monotonic()
        self.ask("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())
        return time.monotonic() - began

    def cpu_s(self) -> float:
        """Processor seconds that the page's process has used."""
        return next(m["value"] for m in self.ask("Performance.getMetrics")["metrics"] if m["name"] == "ProcessTime")

    def requests(self) -> list[str]:
        """Addresses asked for since `open`, other than pictures inside the page."""
        sent = [event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]

    def press(self, key: str, code: int) -> None:
        """One key, down and up."""
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def touch(self, x: float, y: float, to_x: float) -> None:
        """A finger put down at (x, y), moved sideways and lifted."""
        self.ask("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        for part in (0.5, 1.0):
            self.ask("Input.dispatchTouchEvent", type="touchMove", touchPoints=[{"x": x + part * (to_x - x), "y": y}])
        self.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def screenshot(self, whole: bool = False) -> bytes:
        """The window, or the whole page, as PNG."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

"""The web demo's server: it serves one page and the models it runs, using only the standard library.

    faceeraser demo --port 8000

The page (web_demo/) finds faces and erases them in the browser: no picture is sent anywhere. `make web` writes its files
into `faceeraser/page`, so an installed package contains them if that was run before it was built. The server has a fixed
table of paths, made at the start: there are no listings, and no request reaches another file.

Every answer has two kinds of headers that matter. COOP and COEP make the page cross-origin isolated, without which a
browser gives WebAssembly no threads. The Content-Security-Policy allows the page to contact only its own origin, so that a
picture could not leave the device even by mistake.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from faceeraser import shipped
from faceeraser.artifacts import painting
from faceeraser.artifacts.card import read_card
from faceeraser.face import effects, landmark_models, masks, occluders, tracking
from faceeraser.face.mesh import LEFT_EYE, MESH_POINTS, OVAL, RIGHT_EYE
from faceeraser.face.parts import DILATION_ERASED, DILATION_EYE_DISTANCE, PART_POINTS, PARTS, POLYGONS
from faceeraser.holding import Said, Still
from faceeraser.system.reading import json_text

PAGE = Path(__file__).with_name("page")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".tflite": "application/octet-stream",
    ".jpg": "image/jpeg",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # WebAssembly has to be compiled, a picture of the user's has an address of the kind blob:, and that is all.
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; connect-src 'self'; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked for again each time: a page of yesterday with a model of today would be hard to understand.
    "Cache-Control": "no-cache",
}
LARGEST_POST = 1 << 20


def _of_masks() -> dict[str, Any]:
    """What masks.py's port has to know beside the parts."""
    creases = {
        "darker": masks.CREASE,
        "valley": masks.VALLEY,
        "touches": masks.TOUCHES,
        "reaches": masks.REACHES,
        "around": masks.AROUND,
        "deeper": masks.DEEPER,
    }
    own = {"margin": masks.MARGIN, "least_dilation": masks.LEAST, "slit": masks.SLIT, "glabella": masks.GLABELLA}
    return {**own, "creases": creases}


def known() -> dict[str, Any]:
    """What a port of finder.py, parts.py, masks.py, painting.py, holding.py and effects.py has to know: indices of the mesh,
    dilations by part, the grids of a plan.
    """
    names = {bit: name for name, bit in PARTS.items()}
    return {
        "mesh_points": MESH_POINTS,
        "right_eye": RIGHT_EYE,
        "left_eye": LEFT_EYE,
        "oval": OVAL,
        "polygons": {names[bit]: polygons for bit, polygons in POLYGONS.items()},
        "dilation_eye_distance": DILATION_EYE_DISTANCE,
        "dilation_erased": {names[bit]: radius for bit, radius in DILATION_ERASED.items()},
        **_of_masks(),
        "pieces": {
            piece: [[name for bit, name in names.items() if bit & bits], side]
            for piece, (bits, side) in effects.PIECES.items()
        },
        "piece_dilation": {names[bit]: radius for bit, radius in effects.DILATION.items()},
        "painting": {
            "seen": painting.SEEN,
            "shaded": painting.SHADED,
            "blocks": painting.BLOCKS,
            "bound": painting.BOUND,
            "deviation": painting.DEVIATION,
            "most_deviation": painting.MOST_DEVIATION,
            "softened": painting.SOFTENED,
            "luma": painting.LUMA,
            "least_share": painting.LEAST_SHARE,
            "clean": {"slope": painting.CLEAN_SLOPE, "offset": painting.CLEAN_OFFSET},
            "held": {
                "least": painting.Held.LEAST,
                "share": painting.Held.SHARE,
                "fresh": painting.Held.FRESH,
                "cut": painting.Held.CUT,
            },
        },
        "said": {
            "points": PART_POINTS,
            "side": Still.SIDE,
            "every": Still.EVERY,
            "lit": Still.LIT,
            "plan": Said.PLAN,
            "hidden": Said.HIDDEN,
            "moved": Said.MOVED,
        },
        "occluders": {
            "side": occluders.SIDE,
            "in_front": occluders.IN_FRONT,
            "wholly": occluders.WHOLLY,
            "fades": occluders.FADES,
        },
    }


def _checked(model: Path) -> dict[str, Any]:
    """The card of a model that the page can run.

    Raises:
        ValueError: it is none: of another kind, or of a form that LiteRT.js does not take.
        FileNotFoundError: there is no such file, or no card beside it.
    """
    card = read_card(model)
    if card["kind"] != "tflite":
        raise ValueError(f"{model}: is {card['kind']}; a browser runs .tflite: make one with export/to_tflite.py")
    if card["edges"] != "inside":
        raise ValueError(f"{model}: takes edges as an input; the page does not compute any; export it with the edges inside")
    size = card["resolution"]
    plan = {
        "skin": [1, painting.SEEN, painting.SEEN, 1],
        "shading": [1, painting.SHADED, painting.SHADED, 3],
        "sources": [1, painting.CORNERS**2],
    }
    wanted = {"image": [1, size, size, 3], "mask": [1, size, size, 1], "erased": [1, size, size, 3], **plan}
    for port in card["inputs"] + card["outputs"]:
        shape = wanted.get(port["name"])
        if shape is None:
            raise ValueError(
                f"{model}: found {port['name']}; the page knows {', '.join(wanted)}: export it without other inputs"
            )
        if port["shape"] != shape or port["layout"] == "NCHW" or port["dtype"] != "float32":
            taken = f"{port['name']} {port['shape']} {port['layout']} {port['dtype']}"
            raise ValueError(f"{model}: found {taken}; the page takes {shape} NHWC float32, batch 1: export it that way")
    return card


def table(model: str | Path, page: str | Path) -> dict[str, tuple[str, bytes | Path]]:
    """What is served: {address: (media type, content or the file that has it)}.

    Args:
        model: an exported .tflite file with its card.
        page: the folder that `make web` wrote.

    Raises:
        ValueError: the model is none that the page can run.
        FileNotFoundError: the page is not built, or the model or its card is not there.
        FileNotFoundError: the landmark models are missing and cannot be downloaded.
    """
    page, model = Path(page), Path(model)
    if not (page / "index.html").is_file():
        raise FileNotFoundError(
            f"{page}: the page is not built; expected index.html there; in a checkout of the repository, with npm "
            "installed, run: make web"
        )
    card = _checked(model)
    served: dict[str, tuple[str, bytes | Path]] = {}
    for file in sorted(page.rglob("*")):
        if file.is_file() and file.suffix in TYPES:
            served[f"/{file.relative_to(page).as_posix()}"] = (TYPES[file.suffix], file)
    served["/"] = served["/index.html"]
    # The history says how a model was trained, and with it what somebody's folders are called.
    shown = {name: value for name, value in card.items() if name != "history"}
    for name, value in {"model": shown, "faces": known()}.items():
        served[f"/data/{name}.json"] = (TYPES[".json"], json.dumps(value).encode())
    for path in (effects.FILE, tracking.FILE):
        served[f"/data/{path.name}"] = (TYPES[".json"], path)
    files = {"model.tflite": model, "occlusion.tflite": shipped.OCCLUSION_FILE, **landmark_models.fetch()}
    return served | {f"/data/{name}": (TYPES[".tflite"], path) for name, path in files.items()}


class Server(ThreadingHTTPServer):
    """Serves a `table` until it is shut down. `figures`, where given, is called with what the page's benchmark posts."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128
    MOST = 128
    """Connections at a time, each of which takes a thread; more are hung up on at once."""

    def __init__(
        self,
        host: str,
        port: int,
        served: Mapping[str, tuple[str, bytes | Path]],
        figures: Callable[[Any], None] | None = None,
    ) -> None:
        """port: 0 takes any that is free.

        Raises:
            ValueError: the address cannot be had.
        """
        self.served, self.figures = dict(served), figures
        self._free = threading.BoundedSemaphore(self.MOST)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"cannot serve at {host}:{port} ({getattr(error, 'strerror', None) or error}); "
                "expected a free port, and an address of this machine: try another --port"
            ) from None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, or hang up where there are too many: who is slow must not take all memory."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """What that thread does."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what went wrong, unless a browser has merely gone away."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page."""
        host, port = str(self.server_address[0]), self.server_address[1]
        name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        return f"http://{name}:{port}/"


def _fits(length: str) -> bool:
    return re.fullmatch("[0-9]{1,7}", length) is not None and int(length) <= LARGEST_POST


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 20
    """Seconds that a client may be silent."""
    server_version, sys_version = "faceeraser", ""

    def do_GET(self) -> None:
        self._give(body=True)

    def do_HEAD(self) -> None:
        self._give(body=False)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != "/figures" or self.server.figures is None or not _fits(length):
            self.close_connection = True  # what was sent is not read
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"nothing takes that here\n")
            return
        try:
            posted = json_text(self.rfile.read(int(length)), "the figures", "JSON")
        except ValueError:
            self._answer(HTTPStatus.BAD_REQUEST, "text/plain", b"expected JSON\n")
            return
        self._answer(HTTPStatus.NO_CONTENT, "text/plain", b"")
        self.server.figures(posted)

    def _give(self, body: bool) -> None:
        entry = self.server.served.get(self.path.partition("?")[0])
        if entry is None:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there is nothing here\n", body)
            return
        kind, content = entry
        try:
            self._answer(HTTPStatus.OK, kind, content.read_bytes() if isinstance(content, Path) else content, body)
        except FileNotFoundError:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"that file is gone: build the page again\n", body)

    def _answer(self, status: HTTPStatus, kind: str, content: bytes, body: bool = True) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each of forty files would hide the one that says where the page is."""

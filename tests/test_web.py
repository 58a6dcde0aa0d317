"""The web demo: its arithmetic against Python's, its page in headless Chromium, its server; that no picture leaves it."""

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from chromium import Chromium, program
from conftest import script
from PIL import Image

from faceeraser import WEIGHTS, cli, serve, shipped
from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.card import card_path
from faceeraser.artifacts.files import sha256_of
from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.artifacts.painting import paint_by_plan
from faceeraser.erasing import Eraser
from faceeraser.face import effects, parts
from faceeraser.face.crops import align
from faceeraser.face.finder import find_faces
from faceeraser.face.glasses import segment_glasses
from faceeraser.face.masks import face_mask, with_creases
from faceeraser.face.mesh import LEFT_BROW, LEFT_EYE, LIPS, NOSE_OUTLINE, RIGHT_BROW, RIGHT_EYE, Face
from faceeraser.face.occluders import Occluders, trimmed
from faceeraser.measurement import device, results

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "web_demo"
MODEL = WEIGHTS / "plan.tflite"
ALL = ("brows", "eyes", "nose", "mouth")
GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan", "--ignore-gpu-blocklist")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


def missing(what: str) -> None:
    """Skip visibly, or fail under FACEERASER_NO_SKIP=1."""
    if os.environ.get("FACEERASER_NO_SKIP") == "1":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def page(landmarks: None) -> Path:
    """The page as it stands in web_demo/src, built."""
    if shutil.which("node") is None or not (DEMO / "node_modules" / "@litertjs").is_dir():
        missing("the page cannot be built: no node, or no LiteRT.js in web_demo/node_modules; run: make web")
    subprocess.run(["node", "build.js"], cwd=DEMO, check=True, capture_output=True)
    return serve.PAGE


@pytest.fixture(scope="module")
def server(page: Path) -> Iterator[serve.Server]:
    with serve.Server("127.0.0.1", 0, serve.table(MODEL, page)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


class Page:
    """The demo in a browser, as a test uses it."""

    def __init__(self, browser: Chromium, url: str) -> None:
        self.browser = browser
        browser.open(url)
        self.run("await ready")

    def run(self, script: str) -> Any:
        """The value of some statements on the page, which see its `app`."""
        return self.browser.run(f"(async () => {{ const {{app, ready}} = await import('/page.js'); {script} }})()")

    def until(self, condition: str, seconds: float = 60.0) -> None:
        """Wait for a condition on the page."""
        met = self.run(
            f"for (const end = Date.now() + {1000 * seconds}; Date.now() < end;) {{ if ({condition}) return true;"
            "await new Promise((r) => setTimeout(r, 30)); } return false"
        )
        assert met, f"{condition} did not come true; the page says: {self.text('message')!r}"

    def text(self, name: str) -> str:
        return str(self.run(f"return document.getElementById('{name}').textContent"))

    def wrong(self) -> bool:
        return bool(self.run("return document.getElementById('message').classList.contains('wrong')"))

    def choose(self, file: Path, said: str) -> str:
        """Give the page a file as a user does, and wait for its line; returns the line."""
        node = self.browser.ask(
            "DOM.querySelector", nodeId=self.browser.ask("DOM.getDocument")["root"]["nodeId"], selector="#file"
        )["nodeId"]
        self.browser.ask("DOM.setFileInputFiles", files=[str(file)], nodeId=node)
        self.until(f"document.getElementById('message').textContent.includes({json.dumps(said)})")
        return self.text("message")

    def effect(self, name: str) -> None:
        """Choose an effect for the picture that is shown, and wait for it."""
        self.run(
            "const last = app.erased;"
            f"document.querySelector('input[name=effect][value=\"{name}\"]').click();"
            "while (app.erased === last) await new Promise((r) => setTimeout(r, 20));"
        )

    def erased(self) -> np.ndarray:
        """What the page made last, (H, W, 3) uint8."""
        width, height, text = self.run(
            "const {width, height, data} = app.erased; let text = '';"
            "for (let k = 0; k < data.length; k += 32768) text += String.fromCharCode(...data.subarray(k, k + 32768));"
            "return [width, height, btoa(text)]"
        )
        return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[..., :3]

    def arrays(self, script: str) -> dict[str, np.ndarray]:
        """The typed arrays of an object that some statements return, by name, each flat."""
        shapes = self.run(
            f"const found = await (async () => {{ {script} }})();"
            "return Object.fromEntries(Object.entries(found).map(([name, array]) => {"
            "const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength); let text = '';"
            "for (let k = 0; k < bytes.length; k += 32768) text += String.fromCharCode(...bytes.subarray(k, k + 32768));"
            "return [name, [array.constructor.name, btoa(text)]]; }))"
        )
        types = {"Float32Array": np.float32, "Float64Array": np.float64}
        return {
            name: np.frombuffer(base64.b64decode(text), types.get(kind, np.uint8)) for name, (kind, text) in shapes.items()
        }

    def exceptions(self) -> list[str]:
        return [json.dumps(e["params"])[:300] for e in self.browser.events if e["method"] == "Runtime.exceptionThrown"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


@pytest.fixture
def demo(browser: Chromium, server: serve.Server) -> Iterator[Page]:
    tab = Page(browser, server.url)
    yield tab
    assert not tab.exceptions()


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    from skimage.data import astronaut as picture

    return np.ascontiguousarray(picture())


@pytest.fixture(scope="module")
def portrait(astronaut: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As PNG: two decoders of a JPEG need not agree."""
    path = tmp_path_factory.mktemp("portrait") / "portrait.png"
    Image.fromarray(astronaut).save(path)
    return path


def faces_of(image: np.ndarray) -> list[Face]:
    """The faces of a picture, found as the page finds them, the largest first."""
    finder = script("tests/golden/make_face.py").AsThePage()
    faces = [face for detection in finder.detect(image) if (face := finder.landmarks(image, detection)) is not None]
    return sorted(faces, key=lambda face: -face.width)


def changed_by_python(image: np.ndarray, parts: Sequence[str]) -> np.ndarray:
    """(H, W) bool: which pixels go with some parts."""
    return Eraser(MODEL, parts, "off").photograph(image, faces_of(image)).mask


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(int) - b.astype(int))


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def test_the_arithmetic_is_pythons(landmarks: None, tmp_path: Path) -> None:
    """Every step on golden vectors: what the models are given, meshes, crops, masks, pasting, all effects; on four faces."""
    if shutil.which("node") is None:
        missing("no node here: install it to compare the page's arithmetic")
    subprocess.run([sys.executable, "tests/golden/make_face.py", tmp_path], cwd=ROOT, check=True, capture_output=True)
    done = subprocess.run(
        ["node", "--test", "web_demo/tests/"],
        cwd=ROOT,
        env={**os.environ, "GOLDEN": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "# pass 78" in done.stdout, "every comparison"


@pytest.fixture(scope="module")
def given(astronaut: np.ndarray, landmarks: None) -> tuple[np.ndarray, np.ndarray]:
    """The astronaut's crop and mask, as the model takes them."""
    face = find_faces(astronaut)[0]
    mask = face_mask(astronaut, face, 256, ALL, "off")[0]
    return align(astronaut, face)[0].astype(np.float32) / 255, mask.astype(np.float32)


def planned(page: Page, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """What the model on the page makes of it, by name, each flat."""
    first, second = (base64.b64encode(array.tobytes()).decode() for array in (image, mask))
    return page.arrays(
        "const floats = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);"
        f"return app.engine.eraser(floats('{first}'), floats('{second}'))"
    )


def test_the_model_gives_what_it_gives_natively(demo: Page, given: tuple[np.ndarray, np.ndarray]) -> None:
    """The same floats into the same file."""
    outputs = planned(demo, *given)
    expected = Artifact(MODEL).outputs(*given)
    apart = {name: float(np.abs(outputs[name] - expected[name].ravel()).max()) for name in outputs}
    print(f"page and native: {apart}")
    assert outputs.keys() == {"skin", "shading", "sources"} and max(apart.values()) < 1e-4, "sources are whole numbers"
    assert outputs["skin"].max() > 0.9 and np.ptp(outputs["shading"]) > 0.2, "something was planned"


# --- the page ---------------------------------------------------------------------------------------------------------


def test_a_picture_is_erased_as_python_erases_it(demo: Page, portrait: Path, astronaut: np.ndarray) -> None:
    """By the same plan, to a level; its own plan is Python's in skin and shading. A level of the crop's that is another may
    change which sources all windows after take, for patches that are as good.
    """
    assert demo.choose(portrait, "1 face") == "portrait.png: 1 face"
    (face,) = faces_of(astronaut)
    mesh, size = demo.run("return [app.faces[0].mesh, app.engine.size]")
    shift = np.hypot(*(np.array(mesh) - face.mesh).T)
    given = demo.arrays(
        "const {alignMatrix} = await import('/faces.js'); const {cut, scaled} = await import('/picture.js');"
        "const {width, height} = app.picture; const canvas = new OffscreenCanvas(width, height).getContext('2d');"
        "canvas.drawImage(app.picture, 0, 0); const {data} = canvas.getImageData(0, 0, width, height);"
        "const matrix = alignMatrix(app.faces[0], app.engine.size);"
        "const {size, plans} = app.engine; const crop = cut({width, height, channels: 4, data}, matrix, size, size, !plans);"
        f"const {{mask, share}} = await app.eraser.maskOf(app.faces[0], crop, {json.dumps(ALL)});"
        "const plan = await app.engine.eraser(scaled(crop, 1 / 255), Float32Array.from(mask));"
        "return {...plan, matrix: Float64Array.from(matrix), crop: crop.data, mask, share}"
    )
    mask, crop = given["mask"].reshape(size, size), given["crop"].reshape(size, size, 3)
    there_crop, there_matrix = align(astronaut, face, size, sharp=False)
    there = with_creases(face_mask(astronaut, face, size, ALL, "off")[0], there_crop, face.moved(there_matrix))
    there, _ = trimmed(there, Occluders()(there_crop))
    overlap = (mask & there).sum() / (mask | there).sum()
    expected = Artifact(MODEL).plan(there_crop, there.astype(np.uint8))
    plan = {name: given[name].reshape(value.shape) for name, value in expected.items()}
    apart = {name: np.abs(plan[name] - expected[name]) for name in ("skin", "shading")}
    print(f"landmarks {shift.max():.3f} px, masks {overlap:.4f}, plan {[(n, float(a.max())) for n, a in apart.items()]}")
    assert shift.max() < 0.1 and overlap > 0.99
    assert (apart["skin"] < 0.1).mean() > 0.97 and (apart["shading"] < 2 / 255).mean() > 0.97
    painted, changed = paint_by_plan(
        astronaut.copy(), mask, crop, plan, given["matrix"].reshape(2, 3), given["share"].reshape(size, size)
    )
    picture = demo.erased()
    assert difference(picture, painted).max() <= 1 and (difference(picture, painted) > 0).sum() < 50
    assert changed.sum() > 1000 and difference(picture, astronaut)[changed].mean() > 5


def test_effects_look_as_pythons_fast_ones(demo: Page, portrait: Path, astronaut: np.ndarray) -> None:
    demo.choose(portrait, "1 face")
    erased, (face,) = demo.erased(), faces_of(astronaut)
    for name, effect in effects.read().items():
        demo.effect(name)
        expected = effects.apply(effect, astronaut, erased, face, "fast")
        changed = (expected != erased).any(2)
        apart = difference(demo.erased(), expected)[changed].mean()
        assert apart < 1.0, f"{name}: {apart:.2f} levels apart"
        assert difference(erased, expected)[changed].mean() > 4, name
    assert demo.run("return [...document.querySelectorAll('#parts input:disabled')].map((i) => i.value)") == list(ALL)


def test_parts_that_are_not_chosen_stay(demo: Page, portrait: Path, astronaut: np.ndarray) -> None:
    demo.choose(portrait, "1 face")
    whole = demo.erased()
    demo.run(
        "const last = app.erased; document.querySelector('#parts input[value=mouth]').click();"
        "while (app.erased === last) await new Promise((r) => setTimeout(r, 20));"
    )
    kept = demo.erased()
    lips = ~changed_by_python(astronaut, ("brows", "eyes", "nose")) & (whole != astronaut).any(2)
    assert lips.sum() > 300 and difference(whole, astronaut)[lips].mean() > 5
    assert difference(kept, astronaut)[lips].mean() < 0.2


def test_glasses_are_a_pair_that_fits(demo: Page, portrait: Path, astronaut: np.ndarray) -> None:
    """Python's, where no frame stands out; the strokes of its drawing have no round ends."""
    demo.choose(portrait, "1 face")
    drawn = demo.run(
        "const {faceMask} = await import('/faces.js'); return [...faceMask(app.faces[0], 256, ['brows', 'eyes', 'glasses'])]"
    )
    face = faces_of(astronaut)[0]
    crop, matrix = align(astronaut, face, 512)
    assert segment_glasses(crop, face.moved(matrix)) is None
    mine = np.array(drawn).reshape(256, 256) > 0
    bare, pair = (face_mask(astronaut, face, 256, ("brows", "eyes"), glasses)[0] for glasses in ("off", "on"))
    assert (mine & pair).sum() / (mine | pair).sum() > 0.98 > (bare & pair).sum() / (bare | pair).sum()


def test_a_picture_is_dropped_and_the_result_saved(demo: Page, browser: Chromium, portrait: Path, tmp_path: Path) -> None:
    data = base64.b64encode(portrait.read_bytes()).decode()
    demo.run(
        f"const bytes = Uint8Array.from(atob('{data}'), (c) => c.charCodeAt(0)); const dropped = new DataTransfer();"
        "dropped.items.add(new File([bytes], 'dropped.png', {type: 'image/png'}));"
        "document.getElementById('stage').dispatchEvent(new DragEvent('drop', {dataTransfer: dropped, bubbles: true}))"
    )
    demo.until("document.getElementById('message').textContent === 'dropped.png: 1 face'")
    browser.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    demo.run("document.getElementById('save').click()")
    saved = tmp_path / "dropped-erased.png"
    for _ in range(100):
        if saved.exists():
            break
        demo.run("await new Promise((r) => setTimeout(r, 50))")
    assert (np.array(Image.open(saved).convert("RGB")) == demo.erased()).all()


def test_the_slider_shows_before_and_after(demo: Page, portrait: Path, astronaut: np.ndarray) -> None:
    demo.choose(portrait, "1 face")

    def shown(split: float) -> np.ndarray:
        data = demo.run(
            f"const s = document.getElementById('split'); s.value = {split}; s.dispatchEvent(new Event('input'));"
            "return document.getElementById('view').toDataURL().split(',')[1]"
        )
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        return np.asarray(picture)[..., ::-1]

    erased = demo.erased()
    assert (shown(0) == erased).all() and (shown(1) == astronaut).all()
    half = shown(0.5)
    assert (half[:, :250] == astronaut[:, :250]).all() and (half[:, 262:] == erased[:, 262:]).all()


def test_it_uses_threads_and_says_so(demo: Page) -> None:
    assert demo.run("return crossOriginIsolated")
    threads = min(4, os.cpu_count() or 1)
    assert demo.run("return app.engine.told") == {"runs": "wasm", "threads": threads, "why": ""}
    assert f"WebAssembly, {threads} thread" in demo.text("runs")


def test_on_webgpu_it_plans_as_natively_or_says_why_webassembly_runs(
    server: serve.Server, given: tuple[np.ndarray, np.ndarray]
) -> None:
    """On a GPU that Chromium emulates: the route and the arithmetic are WebGPU's, its times nobody's."""
    with Chromium(flags=GPU) as chromium:
        tab = Page(chromium, f"{server.url}?run=webgpu")
        runs = tab.text("runs")
        if "offers no GPU" in runs:
            missing("this Chromium emulates no GPU (SwiftShader)")
        outputs, expected = planned(tab, *given), Artifact(MODEL).outputs(*given)
        most = {"skin": 0.1, "shading": 2 / 255, "sources": 0.5}
        shares = {name: float((np.abs(outputs[name] - expected[name].ravel()) < most[name]).mean()) for name in most}
        print(f"{runs} The same: {shares}")
        if "Runs on WebGPU." in runs:  # floats where the file has int8: another source may be as good
            assert shares["skin"] > 0.95 and shares["shading"] > 0.95 and shares["sources"] > 0.5
        else:
            assert "WebGPU cannot be used here" in runs and "WebAssembly runs instead" in runs
            assert set(shares.values()) == {1.0}
        tab.run("document.getElementById('example').click()")
        tab.until("app.faces.length === 1")
        assert not tab.exceptions()


def test_without_a_gpu_webgpu_is_refused_in_a_line_and_webassembly_runs(browser: Chromium, server: serve.Server) -> None:
    tab = Page(browser, f"{server.url}?run=webgpu")
    assert "WebGPU cannot be used here" in tab.text("runs") and "WebAssembly runs instead" in tab.text("runs")
    assert tab.run("return app.engine.told.runs") == "wasm"
    tab.run("document.getElementById('example').click()")
    tab.until("app.faces.length === 1")
    assert not tab.exceptions()


def test_it_fits_a_phone(demo: Page, browser: Chromium) -> None:
    browser.window(390, 844)
    try:
        demo.run("document.getElementById('example').click()")
        demo.until("app.faces.length === 1")
        assert demo.run("return document.documentElement.scrollWidth") <= 390
        box = demo.run("return document.getElementById('camera').getBoundingClientRect().toJSON()")
        assert box["left"] >= 0 and box["right"] <= 390 and box["height"] >= 36, "a thumb can press it"
    finally:
        browser.window(1200, 900)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_picture_without_a_face_is_shown_and_told(demo: Page, tmp_path: Path) -> None:
    from skimage.data import coffee

    Image.fromarray(coffee()).save(tmp_path / "coffee.png")
    assert "coffee.png: no face found" in demo.choose(tmp_path / "coffee.png", "no face") and demo.wrong()
    assert (demo.erased() == coffee()).all()


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\nrubbish", b"", b"text"], ids=["cut short", "empty", "text"])
def test_a_damaged_file_is_told(demo: Page, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    line = demo.choose(tmp_path / "broken.png", "damaged")
    assert line.startswith("broken.png: ") and "\n" not in line and demo.wrong()


def test_a_picture_that_is_too_small_is_told(demo: Page, tmp_path: Path) -> None:
    Image.new("RGB", (8, 40)).save(tmp_path / "dot.png")
    assert "8 x 40 pixels" in demo.choose(tmp_path / "dot.png", "pixels") and demo.wrong()


def test_a_camera_that_may_not_be_used_is_told(server: serve.Server) -> None:
    with Chromium(flags=CAMERA[:1]) as chromium:  # there is one, and nobody who says yes
        tab = Page(chromium, server.url)
        chromium.ask("Browser.setPermission", permission={"name": "camera"}, setting="denied", origin=server.url)
        tab.run("document.getElementById('camera').click()")
        tab.until("document.getElementById('message').classList.contains('wrong')")
        assert tab.text("message").startswith("The camera may not be used")
        assert not tab.exceptions()


def test_that_there_is_no_camera_is_told(demo: Page) -> None:
    demo.run(
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('none', 'NotFoundError') };"
        "document.getElementById('camera').click()"
    )
    demo.until("document.getElementById('message').classList.contains('wrong')")
    assert demo.text("message").startswith("No camera found")


# --- camera, benchmark, offline ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def video(astronaut: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of the astronaut, who sways: raw frames, as Chromium's fake camera takes them."""
    path = tmp_path_factory.mktemp("video") / "astronaut.y4m"
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W640 H480 F25:1 Ip A1:1 C420jpeg\n")
        for k in range(25):
            angle = 2 * np.pi * k / 25
            matrix = np.array([[1.6, 0, -40 + 12 * np.cos(angle)], [0, 1.6, -20 + 8 * np.sin(angle)]])
            frame = cv2.warpAffine(astronaut, matrix, (640, 480))
            file.write(b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).tobytes())
    return path


def test_the_camera_is_erased_frame_after_frame(server: serve.Server, video: Path) -> None:
    flags = [*CAMERA, f"--use-file-for-fake-video-capture={video}"]
    with Chromium(flags=flags) as chromium:
        tab = Page(chromium, server.url)
        tab.run("document.getElementById('camera').click()")
        tab.until("app.frames >= 12", 120)
        tab.until("app.faces.length === 1")
        assert tab.run("return app.fps") > 0
        assert "frames per second" in tab.text("figures") and tab.text("message") == "Camera: 1 face"
        eyes = tab.run("return app.faces[0].eyeDistance")
        assert 55 < eyes < 90
        # Where the mouth was there is skin: no part of the frame is as red as lips now.
        lips = tab.run(
            "const {mesh} = app.faces[0]; const [x, y] = [0, 1].map((a) => Math.round((mesh[13][a] + mesh[14][a]) / 2));"
            "const {data, width} = app.erased; const at = 4 * (y * width + x); return [...data.slice(at, at + 3)]"
        )
        assert min(lips) > 90, f"teeth and lips are gone: {lips}"
        tab.effect("mono-eye")
        tab.until("app.frames >= 16")
        tab.run("document.getElementById('camera').click()")
        assert tab.text("message") == "Camera stopped." and tab.run("return app.stream === null")
        assert not tab.exceptions()


def test_the_benchmark_gives_its_figures_on_the_page_and_to_who_asks(page: Path, browser: Chromium) -> None:
    posted: list[Any] = []
    with serve.Server("127.0.0.1", 0, serve.table(MODEL, page), posted.append) as own:
        threading.Thread(target=own.serve_forever, daemon=True).start()
        tab = Page(browser, f"{own.url}?bench=1&frames=8&effect=mono-eye&post=1")
        figures = json.loads(tab.text("bench"))
        assert figures == tab.run("return window.bench") and posted == [figures]
        own.shutdown()
    assert figures["frames"] == figures["frames_with_face"] == 8 and figures["fps"] > 0
    assert {"landmarks", "mask", "cut", "model", "paste", "effect", "show", "grab"} <= set(figures["steps"])
    for step in figures["steps"].values():
        assert 0 <= step["median_ms"] <= step["p90_ms"] and step["n"] <= 8
    assert figures["steps"]["model"]["mean_ms"] > 1
    assert figures["sha256"] == sha256_of(MODEL) and figures["runs"] == "wasm" and figures["effect"] == "mono-eye"
    assert 1000 / figures["fps"] > sum(step["mean_ms"] for step in figures["steps"].values()) * 0.9
    assert not tab.exceptions()


def test_the_benchmark_script_writes_a_result(page: Path, tmp_path: Path, run_script, capsys) -> None:
    result_file = tmp_path / "web.json"
    assert run_script("benchmarks/web.py", "--frames", 3, "--effects", "none", "small-face", "--json", result_file) == 0
    rows = results.read_result(result_file)["rows"]
    assert [row["effect"] for row in rows] == ["none", "small-face"]
    assert all(row["fps"] > 0 and row["model_ms"] > 1 and row["frames_with_face"] == 3 for row in rows)
    assert "small-face" in capsys.readouterr().out
    previous = ("--previous", page, MODEL, "--turns", 2, "--frames", 2, "--json", result_file)
    assert run_script("benchmarks/web.py", *previous) == 0
    (row,) = results.read_result(result_file)["rows"]
    assert row["ratio"] == np.median(row["ratios"]) > 0 and len(row["ratios"]) == 2 and row["previous"]["fps"] > 0
    capsys.readouterr()
    assert run_script("benchmarks/web.py", "--browser", tmp_path / "none") == 2
    assert run_script("benchmarks/web.py", "--effects", "ghost") == 2
    assert run_script("benchmarks/web.py", "--timeout", 0.2, "--browser", shutil.which("true")) == 2
    assert [line.startswith("web.py: ") for line in capsys.readouterr().err.splitlines()] == [True] * 3


def test_the_benchmark_script_times_a_phones_browser(page: Path, tmp_path: Path, run_script, monkeypatch, capsys) -> None:
    """An adb whose device is this machine, and an `am` there that opens what an intent names in Chromium."""
    tools = tmp_path / "tools"
    tools.mkdir()
    log, url = tmp_path / "log", '$(printf "%s\\n" "$@" | grep ^http)'
    scripts = {
        "adb": f"""#!/bin/sh
            case "$1 $3" in
            devices*) printf 'List of devices attached\nphone\tdevice\n';;
            *reverse) echo "$@" >> {log};;
            *shell) for text; do :; done
                PATH={tools}:$PATH exec sh -c "$(printf '%s' "$text" | sed 's#/data/local/tmp#{tmp_path}#g')";;
            esac
            """,
        "am": f"""#!/bin/sh
            echo "am $@" >> {log}
            case "$1" in
            force-stop) kill $(cat {tmp_path}/browser); rm -f {tmp_path}/browser;;
            *) {program()} --headless=new --no-sandbox --user-data-dir={tmp_path}/profile "{url}" >/dev/null 2>&1 &
               echo $! > {tmp_path}/browser;;
            esac
            """,
    }
    for name, text in scripts.items():
        (tools / name).write_text("\n".join(line.strip() for line in text.splitlines()))
        (tools / name).chmod(0o755)
    monkeypatch.setattr(device, "find_adb", lambda: tools / "adb")
    result_file = tmp_path / "web.json"
    try:
        assert run_script("benchmarks/web.py", "--phone", "--frames", 2, "--json", result_file) == 0, capsys.readouterr().err
    finally:
        if (left := tmp_path / "browser").exists():
            os.kill(int(left.read_text()), signal.SIGKILL)
    (row,) = results.read_result(result_file)["rows"]
    assert row["frames_with_face"] == 2 and "conditions" in row
    assert row["emulated"] and "fps" in row["discarded"] and "fps" not in row, "these times are no phone's"
    done = log.read_text().splitlines()
    assert done[0].startswith("-s phone reverse tcp:") and "--remove" in done[-1]
    assert done[1].startswith("am start -a android.intent.action.VIEW -d http://127.0.0.1:")
    assert done[1].endswith("com.android.chrome") and done[-2] == "am force-stop com.android.chrome"


@contextlib.contextmanager
def started() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`faceeraser demo`, running, and its address."""
    # A shell in the background leaves its children deaf to Ctrl-C: whoever started the tests, this one hears it.
    process = subprocess.Popen(
        [sys.executable, "-m", "faceeraser.cli", "demo", "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:") and "plan.tflite" in line
        yield process, line.split()[0]
    finally:
        process.kill()
        process.wait()


def test_once_loaded_it_works_without_its_server(page: Path) -> None:
    with Chromium() as chromium:
        with started() as (_, url):
            tab = Page(chromium, url)
            tab.until("/offline from now/.test(document.getElementById('offline').textContent)")
        again = Page(chromium, url)
        assert again.text("message") == "Ready." and again.run("return crossOriginIsolated")
        again.run("document.getElementById('example').click()")
        again.until("app.faces.length === 1")
        assert not again.exceptions()


def test_no_request_leaves_the_origin(browser: Chromium, server: serve.Server, portrait: Path, page: Path) -> None:
    tab = Page(browser, server.url)
    tab.choose(portrait, "1 face")
    tab.effect("comic")
    tab.until("document.getElementById('offline').textContent")
    # What the browser's last page still asked for is not this one's.
    sent = [event["params"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    asked = {each["request"]["url"] for each in sent if each["documentURL"].startswith(server.url)}
    assert f"{server.url}data/model.tflite" in asked and f"{server.url}astronaut.jpg" in asked
    assert not [url for url in asked if not url.startswith((server.url, f"blob:{server.url}"))]
    # And the header would not let one: another origin, that listens, hears nothing.
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as other:

        def hear(link: socket.socket) -> None:
            with link:
                # Chromium opens a connection ahead of asking whether a form may be sent: over that comes nothing.
                if text := link.recv(100):
                    heard.append(text)

        def listen() -> None:
            with contextlib.suppress(OSError):
                while True:
                    link, _ = other.accept()
                    threading.Thread(target=hear, args=(link,), daemon=True).start()

        threading.Thread(target=listen, daemon=True).start()
        port = other.getsockname()[1]
        there = f"http://127.0.0.1:{port}/"
        for attempt in (
            f"await fetch('{there}', {{method: 'POST', mode: 'no-cors', body: '1'}}).catch(() => 0)",
            f"navigator.sendBeacon('{there}', '1')",
            f"new Image().src = '{there}'",
            f"new WebSocket('ws://127.0.0.1:{port}/')",
            f"const form = document.createElement('form'); form.method = 'post'; form.action = '{there}';"
            "document.body.append(form); form.submit()",
        ):
            with contextlib.suppress(AssertionError):  # some of them say no by an exception
                tab.run(attempt)
        tab.run("await new Promise((r) => setTimeout(r, 300))")
        # The control: what the page may not do, this test can.
        with socket.create_connection(("127.0.0.1", port)) as link:
            link.sendall(b"here")
            assert link.recv(1) == b""
    assert heard == [b"here"]
    sources = "".join(path.read_text() for path in (DEMO / "src").iterdir() if path.suffix in {".js", ".html", ".css"})
    assert "https://" not in sources


# --- the server -------------------------------------------------------------------------------------------------------


def ask(server: serve.Server, path: str, method: str = "GET", body: str | None = None) -> tuple[int, dict[str, str], bytes]:
    link = http.client.HTTPConnection(*server.server_address[:2], timeout=30)
    link.putrequest(method, path, skip_accept_encoding=True)
    if body is not None:
        link.putheader("Content-Length", str(len(body)))
    link.endheaders(body.encode() if body else None)
    answer = link.getresponse()
    content = answer.read()
    link.close()
    return answer.status, dict(answer.getheaders()), content


@pytest.fixture
def small(tmp_path: Path, landmarks: None) -> Iterator[serve.Server]:
    """A server of a page that is no page, which needs neither npm nor a browser."""
    (tmp_path / "page" / "litert").mkdir(parents=True)
    (tmp_path / "page" / "index.html").write_text("<!doctype html>")
    (tmp_path / "page" / "litert" / "x.wasm").write_bytes(b"\0asm")
    (tmp_path / "secret.js").write_text("secret")
    (tmp_path / "page" / "note.txt").write_text("secret")
    posted: list[Any] = []
    with serve.Server("127.0.0.1", 0, serve.table(MODEL, tmp_path / "page"), posted.append) as running:
        running.posted = posted  # type: ignore[attr-defined]
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_every_answer_isolates_the_page_and_says_what_it_is(small: serve.Server) -> None:
    for path, kind in {
        "/": "text/html; charset=utf-8",
        "/?bench=1": "text/html; charset=utf-8",
        "/litert/x.wasm": "application/wasm",
        "/data/model.tflite": "application/octet-stream",
        "/data/model.json": "application/json",
        "/nothing": "text/plain",
    }.items():
        status, headers, content = ask(small, path)
        assert status == (404 if path == "/nothing" else 200) and headers["Content-Type"] == kind
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        rules = headers["Content-Security-Policy"]
        assert "default-src 'none'" in rules and "connect-src 'self';" in rules and "unsafe-inline" not in rules
        assert int(headers["Content-Length"]) == len(content)
    assert ask(small, "/data/model.tflite")[2] == MODEL.read_bytes()
    assert ask(small, "/", "HEAD")[2] == b"" and ask(small, "/", "PUT")[0] == 501


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.js",
        "/litert/../../secret.js",
        "/%2e%2e/secret.js",
        "//secret.js",
        "/litert/",
        "/litert",
        "/data/",
        "/note.txt",
        "/..%2fsecret.js",
        "/\\..\\secret.js",
        "secret.js",
        "/data/../../secret.js",
    ],
)
def test_nothing_but_the_table_is_served(small: serve.Server, path: str) -> None:
    status, _, content = ask(small, path)
    assert status == 404 and b"secret" not in content and b"x.wasm" not in content


def test_figures_are_taken_only_where_they_are_wanted(small: serve.Server) -> None:
    assert ask(small, "/figures", "POST", '{"fps": 3}')[0] == 204
    assert ask(small, "/figures", "POST", "no JSON")[0] == 400
    assert ask(small, "/", "POST", "{}")[0] == 404
    assert ask(small, "/figures", "POST")[0] == 404, "no length is told"
    assert small.posted == [{"fps": 3}]  # type: ignore[attr-defined]
    small.figures = None
    assert ask(small, "/figures", "POST", "{}")[0] == 404


def test_the_page_is_told_of_the_mesh_what_python_knows(small: serve.Server) -> None:
    mesh = json.loads(ask(small, "/data/faces.json")[2])
    assert mesh["polygons"] == {
        "brows": [RIGHT_BROW, LEFT_BROW],
        "eyes": [RIGHT_EYE, LEFT_EYE],
        "nose": [NOSE_OUTLINE],
        "mouth": [LIPS],
    }
    assert mesh["dilation_erased"] == {name: parts.DILATION_ERASED[bit] for name, bit in parts.PARTS.items() if name in ALL}
    assert mesh["occluders"]["side"] == 128 and mesh["painting"]["blocks"] == 16
    assert ask(small, "/data/occlusion.tflite")[2] == shipped.OCCLUSION_FILE.read_bytes()
    assert mesh["pieces"]["left_eye"] == [["eyes"], 1] and mesh["pieces"]["face"] == [list(ALL), 0]
    card = json.loads(ask(small, "/data/model.json")[2])
    assert card["sha256"] == sha256_of(MODEL) and "history" not in card
    assert json.loads(ask(small, "/data/effects.json")[2]) == json.loads(effects.FILE.read_text())


def errors(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of the error."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("faceeraser: ")
    return line


def test_a_port_that_is_taken_is_told(small: serve.Server, capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(serve, "PAGE", tmp_path / "page")
    port = small.server_address[1]
    assert cli.main(["demo", "--port", str(port)]) == 2
    line = errors(capsys)
    assert f"127.0.0.1:{port}" in line and "--port" in line
    assert cli.main(["demo", "--port", "99999"]) == 2 and "99999" in errors(capsys)


def test_a_page_that_is_not_built_is_told(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(serve, "PAGE", tmp_path / "page")
    assert cli.main(["demo"]) == 2
    assert "make web" in errors(capsys)


def test_a_model_that_the_page_cannot_run_is_told(capsys, monkeypatch, tmp_path: Path, landmarks: None) -> None:
    (tmp_path / "index.html").write_text("<!doctype html>")
    monkeypatch.setattr(serve, "PAGE", tmp_path)
    monkeypatch.delattr(serve, "Server")  # what is not refused would be served until somebody stops it
    copy = tmp_path / "copy.tflite"
    graph = Graph(MODEL)
    graph.model.metadata = []  # a file that says nothing of itself
    graph.write(copy)
    assert cli.main(["demo", "--model", str(copy)]) == 2 and "no card" in errors(capsys)
    assert cli.main(["demo", "--model", str(tmp_path / "none.tflite")]) == 2 and "no such file" in errors(capsys)
    shutil.copy(MODEL, copy)
    card = json.loads(card_path(MODEL).read_text())

    def refused(**changes: Any) -> str:
        card_path(copy).write_text(json.dumps({**card, **changes}))
        assert cli.main(["demo", "--model", str(copy)]) == 2
        return errors(capsys)

    assert "edges" in refused(edges="input")
    assert ".tflite" in refused(kind="onnx")
    assert "int8" in refused(inputs=[{**card["inputs"][0], "dtype": "int8"}, card["inputs"][1]])
    assert "[1, 3, 256, 256]" in refused(inputs=[{**card["inputs"][0], "shape": [1, 3, 256, 256]}, card["inputs"][1]])
    assert "do not belong together" in refused(sha256="0" * 64)


def test_the_command_serves_until_ctrl_c(page: Path) -> None:
    with started() as (process, url):
        link = http.client.HTTPConnection(url.split("/")[2], timeout=30)
        link.request("GET", "/")
        assert b"<title>FaceEraser</title>" in link.getresponse().read()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


# --- the packages -----------------------------------------------------------------------------------------------------


def test_packages_are_pinned_and_name_no_registry() -> None:
    wanted = json.loads((DEMO / "package.json").read_text())["dependencies"]
    lock = json.loads((DEMO / "package-lock.json").read_text())["packages"]
    assert wanted == {"@litertjs/core": lock["node_modules/@litertjs/core"]["version"]}
    others = [package for name, package in lock.items() if name]
    assert others and all("resolved" not in package and package["integrity"].startswith("sha512-") for package in others)

"""The Kotlin, Swift and JavaScript in the pages: Kotlin and Swift parse, the JavaScript erases a face in a browser."""

from __future__ import annotations

import base64
import os
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tree_sitter_kotlin
import tree_sitter_swift
from chromium import Chromium
from tree_sitter import Language, Node, Parser

from faceeraser import WEIGHTS
from faceeraser.artifacts.artifact import Artifact

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ROOT / "web_demo" / "node_modules"
PARSERS = {
    "swift": Parser(Language(tree_sitter_swift.language())),
    "kotlin": Parser(Language(tree_sitter_kotlin.language())),
}


def snippets(language: str) -> list[str]:
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/coreml.md")]
    return [code for page in pages for code in re.findall(rf"^```{language}\n(.*?)^```", page, re.S | re.M)]


def mistakes(language: str, code: str) -> list[str]:
    """The lines at which the grammar stumbles."""
    wrong, waiting = [], [PARSERS[language].parse(code.encode()).root_node]
    while waiting:
        node: Node = waiting.pop()
        if node.is_error or node.is_missing:
            wrong.append(code.splitlines()[node.start_point[0]])
        waiting.extend(node.children)
    return wrong


@pytest.mark.parametrize(("language", "number"), [("swift", 2), ("kotlin", 1)])
def test_the_snippets_parse(language: str, number: int) -> None:
    assert [mistakes(language, code) for code in snippets(language)] == [[]] * number


@pytest.mark.parametrize(
    ("language", "right", "wrong"),
    [
        ("swift", "guard let", "guard leet"),
        ("swift", "throws {", "throws"),
        ("swift", "-> CVPixelBuffer?", "-> ?"),
        ("kotlin", "val mask =", "val = mask"),
        ("kotlin", 'mapOf("erased" to erased)', 'mapOf("erased" to erased'),
    ],
)
def test_a_mistake_in_a_snippet_is_seen(language: str, right: str, wrong: str) -> None:
    (code,) = [code for code in snippets(language) if right in code]
    assert mistakes(language, code.replace(right, wrong, 1))


def test_the_kotlin_names_the_ports_of_the_file() -> None:
    """An app that asks LiteRT for a name that the file does not have ends there."""
    (code,) = snippets("kotlin")
    card = Artifact(WEIGHTS / "int8.tflite", threads=1).card
    named = {kind: set(re.findall(rf'create{kind}Buffer\("(\w+)"', code)) for kind in ("Input", "Output")}
    assert named["Input"] == {port["name"] for port in card["inputs"]}
    assert named["Output"] == {port["name"] for port in card["outputs"]}


# --- JavaScript -------------------------------------------------------------------------------------------------------

IMPORTS = """<script type="importmap">{"imports": {
 "@litertjs/core": "/node_modules/@litertjs/core/dist/index.js",
 "@litertjs/wasm-utils": "/node_modules/@litertjs/wasm-utils/dist/index.js"}}</script>"""
CALL = """(async () => {
 const floats = async (name) => new Float32Array(await (await fetch(name)).arrayBuffer());
 const painted = await (await import("/snippet.js")).default(await floats("/crop"), await floats("/hole"));
 const bytes = new Uint8Array(painted.buffer, painted.byteOffset, painted.byteLength); let text = "";
 for (let k = 0; k < bytes.length; k += 32768) text += String.fromCharCode(...bytes.subarray(k, k + 32768));
 return btoa(text);
})()"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def test_the_javascript_erases_as_python_does(tmp_path: Path) -> None:
    """As it stands in the README, with the package that it imports; only the pictures come from here."""
    if not (PACKAGES / "@litertjs").is_dir():
        if os.environ.get("FACEERASER_NO_SKIP") == "1":
            pytest.fail("no LiteRT.js in web_demo/node_modules; run: make web")
        pytest.skip("no LiteRT.js in web_demo/node_modules; run: make web")
    from skimage.data import astronaut

    crop = np.ascontiguousarray(astronaut()[0:256, 100:356], np.float32) / 255
    hole = np.zeros((256, 256), np.float32)
    hole[90:150, 90:170] = 1
    (code,) = snippets("js")
    imports, body = code.split("\n\n", 1)
    (tmp_path / "snippet.js").write_text(
        f"{imports}\nexport default async (crop, hole) => {{\n{body}\nreturn painted;\n}};\n"
    )
    (tmp_path / "index.html").write_text(IMPORTS)
    crop.tofile(tmp_path / "crop")
    hole.tofile(tmp_path / "hole")
    (tmp_path / "node_modules").symlink_to(PACKAGES.resolve())
    (tmp_path / "int8.tflite").symlink_to(WEIGHTS / "int8.tflite")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server, Chromium() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(f"http://127.0.0.1:{server.server_port}/")
        painted = np.frombuffer(base64.b64decode(browser.run(CALL)), np.float32).reshape(256, 256, 3)
        server.shutdown()
    expected = Artifact(WEIGHTS / "int8.tflite", threads=1).run(crop, hole)
    assert np.abs(painted - expected)[hole == 0].max() < 1e-6
    assert np.abs(painted - crop)[hole == 1].mean() > 0.01, "something was painted"
    assert np.abs(painted - expected)[hole == 1].mean() < 0.01

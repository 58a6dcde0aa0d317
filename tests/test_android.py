"""The Android demo: its arithmetic against Python's, its app against Android's classes, and the page's app built."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from faceeraser import WEIGHTS, serve
from faceeraser.face import landmark_models
from faceeraser.face.parts import PARTS

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "android_demo"
CORE, APP, PAGE = DEMO / "core", DEMO / "app" / "src" / "main", DEMO / "webview"
ANDROID = "{http://schemas.android.com/apk/res/android}"
NO_WARNINGS = ("-Werror", "-Xlint:all,-path,-options")


def missing(what: str) -> None:
    """Skip visibly, or fail under FACEERASER_NO_SKIP=1."""
    if os.environ.get("FACEERASER_NO_SKIP") == "1":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def jdk() -> None:
    for tool in ("javac", "java", "keytool"):
        if shutil.which(tool) is None:
            missing(f"no {tool} here: install a JDK (Debian: default-jdk-headless)")


class Tools:
    """What tests/fetch_android_tools.sh fetched."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tools = folder, folder / "tools"
        self.android = folder / "old/usr/lib/android-sdk/platforms/android-23/android.jar"
        jars = ("junit4.jar", "hamcrest.jar", "json-android.jar")
        self.test_jars = ":".join(str(self.tools / "usr/share/java" / jar) for jar in jars)

    def run(self, program: str, *arguments: object) -> str:
        """What a program of theirs prints; it must end well."""
        lib = self.tools / "usr/lib"
        paths = [lib / "x86_64-linux-gnu", lib / "x86_64-linux-gnu/android", lib, lib / "p7zip"]
        paths.append(self.tools / "lib/x86_64-linux-gnu")
        libraries = {"LD_LIBRARY_PATH": ":".join(map(str, paths))}
        return run(str(self.tools / "usr/bin" / program), *arguments, env=libraries)


@pytest.fixture(scope="session")
def tools(jdk: None) -> Tools:
    folder = Path(os.environ.get("FACEERASER_ANDROID_TOOLS") or ROOT / ".cache" / "android")
    if not all((folder / part / ".whole").is_file() for part in ("tools", "old")):
        missing(f"no Android tools in {folder}: bash tests/fetch_android_tools.sh")
    return Tools(folder)


def run(*arguments: object, env: dict[str, str] | None = None, code: int = 0) -> str:
    settings = {**os.environ, **(env or {})}
    done = subprocess.run([str(w) for w in arguments], capture_output=True, text=True, env=settings, cwd=ROOT, check=False)
    assert done.returncode == code, (
        f"{arguments[0]} ended with {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    )
    return done.stdout + done.stderr


def java_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.java"))


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("android_" + path.stem, path)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


# --- the arithmetic --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def golden(landmarks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    for name in ("make_face", "make_camera"):
        module(ROOT / "tests" / "golden" / f"{name}.py").write(folder)
    return folder


@pytest.fixture(scope="session")
def core(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The core and its tests, compiled as for Java 8, without a warning."""
    classes = tmp_path_factory.mktemp("core")
    run("javac", *NO_WARNINGS, "--release", 8, "-cp", tools.test_jars, "-d", classes, *java_files(CORE))
    return classes


def junit(tools: Tools, core: Path, golden: Path, tests: list[str], code: int = 0) -> str:
    options = (f"-Dfaceeraser.root={ROOT}", f"-Dfaceeraser.golden={golden}", "-XX:TieredStopAtLevel=1")
    return run("java", *options, "-cp", f"{core}:{tools.test_jars}", "org.junit.runner.JUnitCore", *tests, code=code)


def test_the_java_computes_what_the_python_computes(tools: Tools, core: Path, golden: Path) -> None:
    files = sorted((CORE / "src/test/java").rglob("*Test.java"))
    report = junit(tools, core, golden, [f"faceeraser.core.{path.stem}" for path in files])
    written = sum(path.read_text().count("@Test") for path in files)
    assert f"OK ({written} tests)" in report and written > 30, report


def test_another_result_of_python_would_be_seen(tools: Tools, core: Path, golden: Path, tmp_path: Path) -> None:
    """The negative control: a thousandth of a pixel on one point of the filter's path, and one more dilated pixel."""
    shutil.copytree(golden, tmp_path, dirs_exist_ok=True, copy_function=os.link)
    camera, face = (json.loads((golden / name).read_text()) for name in ("camera.json", "face.json"))
    camera["filter"]["smooth"][30][0] += 0.001
    face["known"]["dilation_erased"]["nose"] += 1
    for name, content in {"camera.json": camera, "face.json": face}.items():
        (tmp_path / name).unlink()
        (tmp_path / name).write_text(json.dumps(content))
    report = junit(tools, core, tmp_path, ["faceeraser.core.TrackerTest"], code=1)
    assert "theFilterIsThatOfPython" in report and "Failures: 1" in report
    report = junit(tools, core, tmp_path, ["faceeraser.core.EraserTest"], code=1)
    assert "theMeshsListsAndTheDilationsAreThoseOfPython" in report and "Failures: 1" in report


def test_the_core_knows_nothing_of_android() -> None:
    files = java_files(CORE / "src/main")
    assert len(files) > 10
    for path in files:
        imports = re.findall(r"^import (?:static )?([\w.]+)", path.read_text(), re.M)
        assert all(name.startswith(("java.", "org.json.")) for name in imports), path.name


def test_every_java_class_says_what_it_is_and_fits_a_screen() -> None:
    for path in java_files(CORE, APP, PAGE):
        text = path.read_text()
        assert re.search(r"\*/\n(?:public )?(?:final |abstract )?(?:class|interface|enum) " + path.stem, text), path.name
        assert max(map(len, text.splitlines())) <= 125, path.name
        assert "TODO" not in text and "java.util." not in re.sub(r"^import .*$", "", text, flags=re.M), path.name


# --- the app ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def linked(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app's resources and manifest through aapt2: R.java, and app.apk without code."""
    folder = tmp_path_factory.mktemp("app")
    tools.run("aapt2", "compile", "--dir", APP / "res", "-o", folder / "res.zip")
    # What the Gradle plugin fills in from the build file's namespace.
    manifest = (APP / "AndroidManifest.xml").read_text().replace("<manifest ", '<manifest package="faceeraser.demo" ')
    (folder / "AndroidManifest.xml").write_text(manifest)
    tools.run(
        "aapt2",
        "link",
        "-I",
        tools.android,
        "--manifest",
        folder / "AndroidManifest.xml",
        "--java",
        folder / "java",
        "--min-sdk-version",
        24,
        "--target-sdk-version",
        36,
        "-o",
        folder / "app.apk",
        folder / "res.zip",
    )
    return folder


def test_the_manifest_asks_for_the_camera_and_for_nothing_else(tools: Tools, linked: Path) -> None:
    badging = tools.run("aapt", "dump", "badging", linked / "app.apk")
    assert re.findall(r"uses-permission: name='([\w.]+)'", badging) == ["android.permission.CAMERA"]
    assert "launchable-activity: name='faceeraser.demo.MainActivity'" in badging
    assert "sdkVersion:'24'" in badging and "uses-feature-not-required: name='android.hardware.camera'" in badging


def test_the_app_fits_androids_classes_and_what_is_known_of_litert(tools: Tools, linked: Path, tmp_path: Path) -> None:
    """LiteRT's own classes cannot be had here: tests/android has their signatures, from LiteRT's sources."""
    sources = java_files(CORE / "src/main", APP / "java", linked / "java", ROOT / "tests" / "android")
    lint = ("-Werror", "-Xlint:all,-path,-options,-deprecation,-serial")
    run("javac", *lint, "--release", 8, "-cp", tools.android, "-d", tmp_path, *sources)
    assert (tmp_path / "faceeraser/demo/MainActivity.class").is_file()


def test_every_part_has_its_box_and_its_words() -> None:
    strings = {node.get("name") for node in ElementTree.parse(APP / "res/values/strings.xml").iter("string")}
    layout = ElementTree.parse(APP / "res/layout/main.xml")
    boxes = {node.get(f"{ANDROID}id", "").removeprefix("@+id/") for node in layout.iter("CheckBox")}
    assert boxes == set(PARTS) and boxes <= strings
    # In the order of their bits, as the activity makes a field of them.
    listed = re.search(r"PARTS = \{(.*?)\}", (APP / "java/faceeraser/demo/MainActivity.java").read_text())
    assert listed and re.findall(r"R\.id\.(\w+)", listed[1]) == sorted(PARTS, key=lambda name: PARTS[name])
    code = "".join(path.read_text() for path in java_files(APP))
    unused = [name for name in strings if f"R.string.{name}" not in code and name not in boxes | {"name"}]
    texts = (APP / "res/layout/main.xml").read_text()
    assert not [name for name in unused if f"@string/{name}" not in texts]


def test_every_version_is_pinned() -> None:
    build = "".join((DEMO / name).read_text() for name in ("build.gradle", "app/build.gradle", "core/build.gradle"))
    libraries = re.findall(r"'([\w.-]+):([\w.-]+):([^']+)'", build)
    plugins = re.findall(r"id '([\w.]+)' version '([^']+)'", build)
    assert {name for _, name, _ in libraries} == {"litert", "litert-gpu", "json", "junit"}
    assert [name for name, _ in plugins] == ["com.android.application"]
    for version in [*(version for *_, version in libraries), *(version for _, version in plugins)]:
        assert re.fullmatch(r"\d+(\.\d+)*", version), version
    wrapper = (DEMO / "gradle/wrapper/gradle-wrapper.properties").read_text()
    assert re.search(r"gradle-\d+(\.\d+)+-bin\.zip$", wrapper, re.M)
    assert re.search(r"distributionSha256Sum=[0-9a-f]{64}$", wrapper, re.M)
    # The runtime that every other test and figure of this repository was taken with.
    (pinned,) = re.findall(r"^ai-edge-litert==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert {version for _, name, version in libraries if name.startswith("litert")} == {pinned}


def test_the_shipped_model_has_the_signature_that_the_app_names() -> None:
    from ai_edge_litert.interpreter import Interpreter

    code = (APP / "java/faceeraser/demo/LiteRtModel.java").read_text()
    (name,) = re.findall(r'SIGNATURE = "(\w+)"', code)
    card = json.loads((WEIGHTS / "plan.tflite.json").read_text())
    ports = {side: sorted(port["name"] for port in card[side]) for side in ("inputs", "outputs")}
    assert Interpreter(str(WEIGHTS / "plan.tflite")).get_signature_list() == {name: ports}


def test_the_assets_are_the_packages_own_files() -> None:
    build = (DEMO / "app/build.gradle").read_text()
    lists = {name: re.findall(r"'([^']+)'", arguments) for name, arguments in re.findall(r"def (\w+) = \[(.*?)\]", build)}
    assert set(lists["landmarks"]) == set(landmark_models.FILES)
    assert all((ROOT / "faceeraser" / name).is_file() for name in lists["shipped"])
    assert WEIGHTS / "plan.tflite.json" in {ROOT / "faceeraser" / name for name in lists["shipped"]}
    opened = set(re.findall(r'"([\w.]+\.(?:json|tflite))"', (APP / "java/faceeraser/demo/Worker.java").read_text()))
    assert opened <= {Path(name).name for name in lists["shipped"]} | set(lists["landmarks"])
    assert not [path for path in DEMO.rglob("*") if path.suffix in {".tflite", ".jar", ".apk"} and "build" not in path.parts]


# --- the page as an app ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of one file: what is packed does not depend on what it is."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<!doctype html><title>page</title>")
    return folder


def test_what_is_packed_is_what_the_server_serves(landmarks: None, page: Path, tmp_path: Path) -> None:
    pack = module(PAGE / "pack.py")
    assert pack.main([str(tmp_path), "--page", str(page)]) == 0
    site = json.loads((tmp_path / "site.json").read_text())
    served = serve.table(WEIGHTS / "plan.tflite", page)
    assert site["headers"] == serve.HEADERS
    assert {"Cross-Origin-Opener-Policy", "Cross-Origin-Embedder-Policy"} <= set(site["headers"])
    assert site["files"].keys() == served.keys()
    for address, (kind, content) in served.items():
        found_kind, file = site["files"][address]
        assert found_kind == kind
        assert (tmp_path / file).read_bytes() == (content.read_bytes() if isinstance(content, Path) else content)


def test_a_page_that_is_not_built_is_said(landmarks: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert module(PAGE / "pack.py").main([str(tmp_path / "out"), "--page", str(tmp_path)]) == 2
    assert "make web" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_pages_app_is_built_and_signed(tools: Tools, landmarks: None, page: Path, tmp_path: Path) -> None:
    settings = {"PYTHON": sys.executable, "PAGE": str(page), "TOOLS": str(tools.folder), "PYTHONPATH": str(ROOT)}
    apk = tmp_path / "page.apk"
    printed = run("bash", PAGE / "build.sh", apk, env=settings)
    assert str(apk) in printed.splitlines() and apk.is_file()
    java = tools.tools / "usr/share/java"
    signer = ("java", "-cp", f"{java}/apksigner.jar:{java}/apksig.jar", "com.android.apksigner.ApkSignerTool")
    assert "v2 scheme (APK Signature Scheme v2): true" in run(*signer, "verify", "--verbose", apk)
    badging = tools.run("aapt", "dump", "badging", apk)
    assert "package: name='faceeraser.page'" in badging
    assert "launchable-activity: name='faceeraser.page.PageActivity'" in badging
    assert re.findall(r"uses-permission: name='([\w.]+)'", badging) == ["android.permission.CAMERA"]
    inside = tools.run("aapt", "list", apk).split()
    assert {"classes.dex", "assets/site.json", "assets/site/0.bin"} <= set(inside)
    # One byte in the middle changed, and the signature says so.
    broken = bytearray(apk.read_bytes())
    broken[len(broken) // 2] ^= 1
    apk.write_bytes(broken)
    run(*signer, "verify", apk, code=1)

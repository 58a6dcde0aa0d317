"""What a user installs: the wheel and the source distribution, built here without a network, and looked into."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = "faceeraser/page/litert/wasm/litert.wasm"
BUILD = "import sys; from setuptools import build_meta; build_meta.{}(sys.argv[1])"


def tracked() -> list[str]:
    """The repository's files, by their places."""
    words = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return sorted(name for name in done.stdout.split("\0") if name and (ROOT / name).is_file())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{"wheel", "sdist"} of a copy of the repository, with a page as `make web` leaves one."""
    folder = tmp_path_factory.mktemp("built")
    for name in tracked():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "source" / name)
    shutil.copytree(ROOT / "web_demo" / "src", folder / "source" / "faceeraser" / "page")
    (folder / "source" / PAGE).parent.mkdir(parents=True)
    (folder / "source" / PAGE).write_bytes(b"\0asm")
    for what in ("wheel", "sdist"):
        words = [sys.executable, "-c", BUILD.format(f"build_{what}"), str(folder)]
        subprocess.run(words, cwd=folder / "source", capture_output=True, text=True, check=True)
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


def inside(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as opened:
        return set(opened.namelist())


def test_the_wheel_is_the_package_and_the_page_and_nothing_else(built) -> None:
    names = inside(built["wheel"])
    own = {name for name in tracked() if name.startswith("faceeraser/")}
    assert len(own) > 100 and own <= names
    assert PAGE in names and {f"faceeraser/page/{path.name}" for path in (ROOT / "web_demo" / "src").iterdir()} <= names
    others = {name for name in names - own if ".dist-info/" not in name and not name.startswith("faceeraser/page/")}
    assert others == set()


def test_licences_are_told_and_nothing_of_mediapipe_is_inside(built) -> None:
    names = inside(built["wheel"])
    assert {"LICENSE", "NOTICE"} <= {Path(name).name for name in names if "/licenses/" in name}
    from faceeraser.face.landmark_models import FILES, WHEEL

    notice = (ROOT / "NOTICE").read_text()
    assert not {Path(name).name for name in names} & set(FILES)
    assert all(name in notice for name in (*FILES, WHEEL.replace("==", " ")))


def test_what_an_index_shows_is_what_the_project_says(built) -> None:
    with zipfile.ZipFile(built["wheel"]) as opened:
        name = next(name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        told = email.message_from_string(opened.read(name).decode())
        points = opened.read(name.replace("METADATA", "entry_points.txt")).decode()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (told["Name"], told["Version"]) == (project["name"], project["version"])
    assert told["License-Expression"] == "Apache-2.0" and "faceeraser = faceeraser.cli:main" in points
    for minor in (11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in told.get_all("Classifier")
    assert told["Description-Content-Type"] == "text/markdown" and told.get_payload() == (ROOT / "README.md").read_text()


def test_the_source_distribution_is_the_repository_and_the_page(built) -> None:
    with tarfile.open(built["sdist"]) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {*tracked(), PAGE} - names <= {".gitignore"}


def test_what_was_installed_erases_by_its_own_weights(built, tmp_path) -> None:
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path), str(built["wheel"])]
    subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    code = (
        "import numpy, faceeraser, faceeraser.serve\n"
        "image = numpy.full((256, 256, 3), 90, numpy.uint8); mask = numpy.zeros((256, 256), numpy.uint8)\n"
        "mask[40:60, 40:80] = 1\n"
        "erased = faceeraser.load().erase_crop(image, mask)\n"
        "print(faceeraser.__file__, erased.shape, (faceeraser.serve.PAGE / 'index.html').is_file())"
    )
    alone = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=alone, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(tmp_path / "faceeraser" / "__init__.py"), "(256,", "256,", "3)", "True"], done.stderr

"""What a program calls: three lines erase, every name has one return type that mypy sees, the examples of the docs run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import faceeraser
from faceeraser import cli
from faceeraser.artifacts.card import card_path
from faceeraser.face import picture, video
from faceeraser.model import checkpoint
from faceeraser.model.config import Config
from faceeraser.model.networks import FaceEraser
from faceeraser.system import writing
from faceeraser.training import preparing

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [
    pytest.param(block, id=f"{page.name}:{text[: text.index(block)].count(chr(10)) + 1}")
    for page in PAGES
    for text in [page.read_text(encoding="utf-8")]
    for block in re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
]


@pytest.fixture(scope="module")
def astronaut(landmarks: None) -> np.ndarray:
    return np.ascontiguousarray(pytest.importorskip("skimage.data").astronaut())


@pytest.fixture(scope="module")
def eraser(landmarks: None) -> faceeraser.Eraser:
    return faceeraser.load()


def test_three_lines_erase_a_photograph(astronaut, tmp_path):
    erased = faceeraser.load().erase(astronaut)
    changed = (erased != astronaut).any(axis=2)
    assert erased.dtype == np.uint8 and changed[146, 223] and not changed[300:].any()
    assert np.array_equal(faceeraser.load().erase(Image.fromarray(astronaut)), erased), "Pillow's pictures do as well"


def test_a_picture_without_a_face_comes_back_as_it_is(eraser):
    wall = np.full((200, 300, 3), 120, np.uint8)
    assert np.array_equal(eraser.erase(wall), wall)


@pytest.mark.parametrize("given", ["no picture", np.zeros((4, 4)), np.zeros((9, 9, 3)), np.zeros((9, 9, 4), np.uint8)])
def test_what_is_no_picture_is_refused_with_what_was_found(eraser, given):
    with pytest.raises(ValueError, match="expected a uint8 RGB picture"):
        eraser.erase(given)


def test_the_model_alone_paints_under_the_mask_and_nowhere_else(eraser, astronaut):
    side = eraser.resolution
    crop, mask = astronaut[:side, :side].copy(), np.zeros((side, side), np.uint8)
    mask[60:90, 60:90] = 1
    painted = eraser.erase_crop(crop, mask)
    assert np.array_equal(painted[mask == 0], crop[mask == 0]) and (painted != crop)[mask == 1].any()
    with pytest.raises(ValueError, match="expected"):
        eraser.erase_crop(crop[1:], mask)


def test_frames_need_nothing_but_themselves(eraser, astronaut):
    erased = list(eraser.frames((astronaut, 0.04) for _ in range(2)))
    assert [len(frame.faces) for frame in erased] == [1, 1] and (erased[1].image != astronaut).any()


@pytest.mark.parametrize(("options", "says"), [({"parts": ("ears",)}, "ears"), ({"glasses": "maybe"}, "maybe")])
def test_options_that_cannot_be_meant_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        faceeraser.load(**options)


# --- v0.1 -------------------------------------------------------------------------------------------------------------


def test_what_load_gave_in_v01_works_and_warns():
    file, side = faceeraser.WEIGHTS / "int8.tflite", 256
    crop, mask = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8)
    mask[100:120, 100:120] = 1
    loaded = faceeraser.load(str(file))
    with pytest.warns(DeprecationWarning, match="erase_crop"):
        old = loaded.erase(crop, mask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(loaded.erase_crop(crop, mask), old), "the new name does not warn"
    with pytest.warns(DeprecationWarning, match=r"faceeraser.Artifact\(path\).card"):
        assert loaded.card["kind"] == "tflite"
    with pytest.raises(AttributeError):
        loaded.nothing  # noqa: B018
    with pytest.raises(TypeError, match=r"erase\(image\)"):
        loaded(crop, mask)


def test_a_network_that_load_gave_in_v01_works_and_warns():
    torch = pytest.importorskip("torch")
    inputs = torch.rand(1, 3, 256, 256), torch.zeros(1, 1, 256, 256)
    loaded = faceeraser.load(faceeraser.WEIGHTS / "fp32")
    with pytest.warns(DeprecationWarning, match="load_checkpoint"):
        assert loaded.config.resolution == 256
    with pytest.warns(DeprecationWarning, match="load_checkpoint"), torch.no_grad():
        old = loaded(*inputs)["erased"]
    with torch.no_grad():
        assert torch.equal(faceeraser.load_checkpoint(faceeraser.WEIGHTS / "fp32")(*inputs)["erased"], old)


# --- types ------------------------------------------------------------------------------------------------------------


def test_a_type_checker_sees_what_comes_back(tmp_path):
    """One type each, no Any in between, and a name that does not exist is an error."""
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy as np\nimport faceeraser\n"
        "reveal_type(faceeraser.load())\n"
        "reveal_type(faceeraser.load('a.tflite').erase(np.zeros((9, 9, 3), np.uint8)))\n"
        "reveal_type(next(faceeraser.load().frames([])))\n"
        "reveal_type(faceeraser.load_checkpoint('a'))\n"
        "reveal_type(faceeraser.Artifact('a').card)\n"
        "reveal_type(faceeraser.prune('a', 'b', faceeraser.Pruning(data='d', keep=0.5)))\n"
        "faceeraser.load(3)\n"
        "faceeraser.load().nothing\n"
        "faceeraser.nothing\n"
    )
    arguments = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(program)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=ROOT)
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert [re.sub(r"\[.*|builtins\.", "", name) for name in revealed] == [
        "faceeraser.erasing.Eraser",
        "numpy.ndarray",
        "faceeraser.erasing.Erased",
        "faceeraser.model.networks.Inpainter",
        "dict",
        "faceeraser.training.finetuning.Outcome",
    ], done.stdout
    assert [line.split(":")[1] for line in done.stdout.splitlines() if ": error:" in line] == ["9", "10", "11"], done.stdout
    assert (ROOT / "faceeraser" / "py.typed").is_file()


# --- examples ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(astronaut: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples open: photo.jpg, clip.mp4, model.tflite, data/faces and runs/fp32."""
    folder = tmp_path_factory.mktemp("examples")
    Image.fromarray(astronaut).save(folder / "photo.jpg")
    with video.writing(folder / "clip.mp4", 25) as write:
        for _ in range(3):
            write(astronaut)
    model = faceeraser.WEIGHTS / "int8.tflite"
    for source, target in ((model, "model.tflite"), (card_path(model), "model.tflite.json")):
        shutil.copyfile(source, folder / target)
    options = preparing.Options(size=64, source="synthetic", limit=12)
    preparing.prepare(None, folder / "data" / "faces", options, preparing.Run())
    network = FaceEraser(Config.of("mobile", resolution=64, shrink=1, blocks={"edge": 1, "clone": 1}), 16)
    with writing.whole_folder(folder / "runs" / "fp32") as partial:
        checkpoint.save(partial, network, stage="train-inpaint", options={"features": "off"}, metrics={})
    (folder / "my_net.py").write_text(next(code for (code,) in (each.values for each in EXAMPLES) if "# my_net.py" in code))
    (folder / "my_project.py").write_text(STABILISER)
    torch.save({}, folder / "weights.pt")
    return folder


STABILISER = """
import torch

class Stabiliser(torch.nn.Module):
    def forward(self, frame, motion):
        grid = torch.nn.functional.interpolate(motion, size=frame.shape[-2:], mode="nearest").permute(0, 2, 3, 1)
        return {"steady": torch.nn.functional.grid_sample(frame, grid, align_corners=True)}
"""
"""A user's own network, for the page on exporting one."""


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_as_it_stands(example, files, monkeypatch):
    monkeypatch.chdir(files)
    monkeypatch.syspath_prepend(files)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        exec(compile(example, "example", "exec"), names)
    if "erased.mp4" in example:
        assert len(list(video.Clip(files / "erased.mp4"))) == 3
    if isinstance(erased := names.get("erased"), np.ndarray):
        assert (erased != picture.read("photo.jpg").image).any()


def test_the_commands_of_the_readme_run_one_after_another(files, tmp_path, monkeypatch):
    for name in ("photo.jpg", "clip.mp4"):
        shutil.copyfile(files / name, tmp_path / name)
    (tmp_path / "faceeraser").symlink_to(ROOT / "faceeraser")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S | re.M)
    lines = [line for language, block in blocks if language == "" for line in block.splitlines()]
    asked = [shlex.split(line)[1:] for line in lines if line.startswith("faceeraser ")]
    assert len(asked) == 5
    assert [cli.main(arguments) for arguments in asked] == [0] * 5
    written = {"photo-erased.png", "no-mouth.png", "toonized.png", "erased/photo-erased.png", "erased/clip-erased.mp4"}
    assert all((tmp_path / name).is_file() for name in written)


def test_every_name_that_is_promised_is_there():
    pytest.importorskip("torch")
    for name in faceeraser.__all__:
        assert getattr(faceeraser, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        faceeraser.nothing  # noqa: B018


def test_there_are_examples():
    """A regular expression that finds nothing would make the test above pass on an empty list."""
    assert len(EXAMPLES) >= 5

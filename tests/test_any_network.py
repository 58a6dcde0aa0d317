"""Networks that were not made for this project: warps found and written exactly, files gated, what cannot be refused."""

import itertools
import json
import re
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from jsonschema import Draft202012Validator
from torch import Tensor, nn
from torch.nn.functional import grid_sample  # bound early, as many networks have it

import faceeraser
from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.card import SCHEMA_FILE, read_card
from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.conversion import convert
from faceeraser.conversion.coreml import CoreML
from faceeraser.conversion.onnx import ONNX
from faceeraser.conversion.tflite import TFLite
from faceeraser.model.any_network import AnyNetwork
from faceeraser.model.warp import MODES, PADDINGS, Sampling, round_half_even
from faceeraser.system.script import GateFailed

ASKED = list(itertools.product(MODES, PADDINGS, (True, False)))
CARD = Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))


class EveryWarp(nn.Module):
    """All twelve ways to sample, of a picture and with a grid of another size, behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image: Tensor, grid: Tensor) -> dict[str, Tensor]:
        x = image + 0.1 * self.before(image)
        return {
            "_".join(map(str, asked)): grid_sample(x, grid, mode=asked[0], padding_mode=asked[1], align_corners=asked[2])
            for asked in ASKED
        }


def samples(n: int = 3, height: int = 17, width: int = 23) -> list[dict[str, Tensor]]:
    """Grids that leave the picture on every side, by more than its size."""
    random = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.rand(1, 3, height, width, generator=random),
            "grid": torch.rand(1, 9, 31, 2, generator=random) * 5 - 2.5,
        }
        for _ in range(n)
    ]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """`exported(how)` -> (path, card) of EveryWarp in that format; each made once."""
    folder, files = tmp_path_factory.mktemp("any"), {}

    def export(format) -> Path:
        if format not in files:
            files[format] = folder / faceeraser.export(EveryWarp(), samples(), folder, format, name="every")["file"]
        return files[format]

    return export


# --- the warp -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ASKED, ids=lambda how: "-".join(map(str, how)))
@pytest.mark.parametrize("size", [(17, 23), (64, 64), (1, 9), (5, 1)], ids=str)
def test_each_form_samples_as_torch_does(asked, size) -> None:
    sampling = Sampling(*asked)
    for sample in samples(2, *size):
        expected = F.grid_sample(sample["image"], sample["grid"], asked[0], asked[1], asked[2])
        for written in (sampling.by_rows, sampling.on_a_grid):
            assert torch.allclose(written(sample["image"], sample["grid"]), expected, atol=1e-5)


@pytest.mark.parametrize("asked", ASKED, ids=lambda how: "-".join(map(str, how)))
def test_a_batch_is_its_pictures_and_corners_are_where_torch_has_them(asked) -> None:
    image = torch.rand(2, 4, 9, 5)  # sides of which halves of pixels are exact in floats
    edges = torch.tensor([-1.0, 1.0, 0.0, -0.5, 0.5, 1.5, -1.5])
    grid = torch.stack(torch.meshgrid(edges, edges, indexing="xy"), -1)[None].repeat(2, 1, 1, 1)
    expected = F.grid_sample(image, grid, asked[0], asked[1], asked[2])
    assert torch.allclose(Sampling(*asked).by_rows(image, grid), expected, atol=1e-5)


@given(st.floats(-(2**21), 2**21, width=32) | st.integers(-4000, 4000).map(lambda k: k / 2))
def test_halves_are_rounded_to_the_even_neighbour(number: float) -> None:
    x = torch.tensor([number])
    assert torch.equal(round_half_even(x), torch.round(x) + 0.0)


def test_a_wrong_form_would_be_seen() -> None:
    """The negative control of the bound: corners taken the other way, or the rim left out."""
    sample = samples(1)[0]
    expected = F.grid_sample(sample["image"], sample["grid"], "bilinear", "zeros", False)
    for other in (Sampling("bilinear", "zeros", True), Sampling("bilinear", "border", False)):
        assert (other.by_rows(**sample) - expected).abs().max() > 0.1


# --- found ----------------------------------------------------------------------------------------------------------


def test_every_warp_is_found_however_it_was_imported() -> None:
    network = AnyNetwork.of(EveryWarp(), samples())
    traced, warps = network.traced(Sampling.by_rows)
    assert warps == [Sampling(*asked) for asked in ASKED]
    assert "grid_sampler" not in str(traced.graph)
    expected, outputs = network.outputs(samples()[0]), traced(**samples()[0])
    assert all(np.abs(outputs[name].numpy() - value).max() < 1e-5 for name, value in expected.items())


class Volume(nn.Module):
    def forward(self, image: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(image[:, :, None], torch.cat([grid, grid[..., :1]], -1)[:, None], align_corners=False)


class Bicubic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.zoom = Zoom()

    def forward(self, image: Tensor, grid: Tensor) -> Tensor:
        return self.zoom(image, grid)


class Zoom(nn.Module):
    def forward(self, image: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(image, grid, mode="bicubic", align_corners=False)


@pytest.mark.parametrize(
    "module, said",
    [
        (Volume(), r"the module's own forward: F\.grid_sample of 5-D input"),
        (Bicubic(), r"layer zoom: F\.grid_sample with mode='bicubic'; expected bilinear or nearest"),
    ],
    ids=["5-D", "bicubic"],
)
@pytest.mark.parametrize("format", [TFLite(flavour="web"), ONNX(), CoreML()], ids=lambda how: how.KIND)
def test_what_cannot_be_written_exactly_is_refused_by_name(module, said, format, tmp_path) -> None:
    with pytest.raises(ValueError, match=said):
        faceeraser.export(module, samples(), tmp_path, format)
    assert list(tmp_path.iterdir()) == []


# --- exported -------------------------------------------------------------------------------------------------------

FORMATS = [TFLite(flavour="gpu"), ONNX(), CoreML(bound=60.0)]


@pytest.mark.parametrize("format", FORMATS, ids=lambda how: how.KIND)
def test_a_file_gives_what_its_module_gives(format, exported) -> None:
    """Measured here again, on inputs that the gate did not see; a .tflite or .onnx file to 1e-5."""
    path, module = exported(format), EveryWarp().eval()
    card = read_card(path)
    CARD.validate(card)
    figures = card["evaluated_parity"] if format.KIND == "coreml" else card["parity"]
    assert figures["passed"] is True and figures["n"] == 3
    assert card["network"] == {"name": "every", "made_by": ""} and card["warp"].count("align_corners") >= 12
    run, sample = format.runner(path), samples(5)[4]
    with torch.no_grad():
        expected = module(**sample)
    outputs = run(sample)
    assert outputs.keys() == expected.keys() and len(outputs) == 12
    for name, value in expected.items():
        apart = np.abs(outputs[name] - value.numpy())
        if format.KIND == "coreml":  # its convolution is float16; a nearest pixel may be the neighbour's
            assert (apart < 1e-2).mean() > 0.99, name
        else:
            assert apart.max() < 1e-5, name


def test_coordinates_are_floats_and_nothing_is_gather_nd(exported) -> None:
    graph = Graph(exported(TFLite(flavour="gpu")))
    lookups = graph.ops("GATHER")
    assert len(lookups) == 6 * 4 + 6 and not graph.ops("GATHER_ND", "EMBEDDING_LOOKUP")
    for op in lookups:
        before = {graph.type(t) for _, t in graph.before(int(op.inputs[1]), ("CONV_2D",)) if not graph.constant(t)}
        assert before <= {"FLOAT32", "INT32"}


def test_the_card_says_what_the_inputs_are(exported) -> None:
    card = read_card(exported(ONNX()))
    ports = {port["name"]: port for port in card["inputs"]}
    assert ports["image"]["shape"] == [1, 3, 17, 23] and ports["grid"]["shape"] == [1, 9, 31, 2]
    low, high = ports["grid"]["range"]
    assert -2.5 <= low < -2.3 and 2.3 < high <= 2.5
    with pytest.raises(ValueError, match="not a face eraser"):
        Artifact(exported(ONNX()))


def test_a_file_that_is_not_its_module_is_not_published(tmp_path, monkeypatch) -> None:
    network = AnyNetwork.of(nn.Conv2d(3, 3, 3), {"input": torch.rand(1, 3, 8, 8)})
    run = ONNX.runner

    def wrong(self, path: Path):
        inside = run(self, path)
        return lambda sample: {name: value + 1e-3 for name, value in inside(sample).items()}

    monkeypatch.setattr(ONNX, "runner", wrong)
    with pytest.raises(GateFailed, match=r"sample 0: output output .* expected max abs"):
        convert.export_module(network, tmp_path, ONNX())
    assert list(tmp_path.iterdir()) == []


# --- my_net.py:build ------------------------------------------------------------------------------------------------

NET = """
import torch
from torch import nn
from beside import WIDTH

def build():
    return nn.Conv2d(3, WIDTH, 3), {"input": torch.rand(1, 3, 8, 8)}, {"input": (0, 1)}

def raises():
    raise RuntimeError("no weights here")

def gives_a_module():
    return nn.Conv2d(3, 4, 3)

def gives_numbers():
    return nn.Conv2d(3, 4, 3), {"input": 3}

def gives_two_sizes():
    return nn.Conv2d(3, 4, 3), [{"input": torch.rand(1, 3, side, 8)} for side in (8, 9)]
"""


@pytest.fixture
def my_net(tmp_path) -> Path:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "beside.py").write_text("WIDTH = 5\n")
    (tmp_path / "net" / "my_net.py").write_text(NET)
    return tmp_path / "net" / "my_net.py"


def test_a_network_of_ones_own_is_exported_by_the_script(my_net, run_script, tmp_path, capsys) -> None:
    arguments = ["export/to_onnx.py", "--module", f"{my_net}:build", tmp_path / "exports"]
    assert run_script(*arguments) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["files"][0]
    card = read_card(tmp_path / "exports" / "my_net.onnx")
    assert row["file"] == "my_net.onnx" and card["network"] == {"name": "my_net", "made_by": "my_net.py:build"}
    assert card["params"] == 5 * 3 * 9 + 5 and card["inputs"][0]["range"] == [0.0, 1.0]
    assert card["gmacs"] == pytest.approx(5 * 3 * 9 * 36 / 1e9)
    assert run_script(*arguments) == 2 and "--overwrite" in capsys.readouterr().err
    assert run_script(*arguments, "--edges-input", "--name", "other") == 2
    assert "face eraser" in capsys.readouterr().err


@pytest.mark.parametrize(
    "function, said",
    [
        ("missing", "has no function 'missing'"),
        ("raises", "no weights here"),
        ("gives_a_module", r"expected \(module, inputs\)"),
        ("gives_numbers", "input 'input' of the samples is int"),
        ("gives_two_sizes", "samples differ"),
    ],
)
def test_a_mistake_in_ones_own_file_is_one_line(function, said, my_net, run_script, tmp_path, capsys) -> None:
    assert run_script("export/to_onnx.py", "--module", f"{my_net}:{function}", tmp_path / "exports") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and re.search(said, lines[0]) and not (tmp_path / "exports").exists()


@pytest.mark.parametrize("word", ["my_net.py", "nowhere.py:build", "my_net.txt:build"])
def test_what_names_no_function_of_a_file_is_one_line(word, run_script, tmp_path, capsys) -> None:
    assert run_script("export/to_tflite.py", "--module", word, tmp_path / "exports") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and word in lines[0]

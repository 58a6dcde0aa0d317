"""Each edit of a .tflite file's graph, against the graph as it was: what it puts in whose place, and the same numbers."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.conversion import tflite_edits
from faceeraser.measurement.runner import reference
from faceeraser.model import quant
from faceeraser.model.config import Config
from faceeraser.model.networks import Conv
from faceeraser.model.quant import Tap

SIDE = 8
MOBILE = Config.of("mobile")


class Floats(nn.Module):
    """What the edits of every file, for CPUs and of 8-bit pictures look for; no more."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        image, hole = image.permute(0, 3, 1, 2), torch.cat([mask, mask, mask], 3).permute(0, 3, 1, 2)
        offsets = self.head(image * (1.0 - hole))
        index = (offsets[:, 0].abs() * 20.0).clamp(max=float(SIDE * SIDE - 1)).reshape(-1).to(torch.int32)
        looked = F.embedding(index, image.reshape(3, -1).t()).t().reshape(1, 3, SIDE, SIDE)
        erased = (looked + offsets[:, :1] * 0.1).clamp(0.0, 1.0) * hole + image * (1.0 - hole)
        return {"erased": erased.permute(0, 2, 3, 1)}


class Stored(nn.Module):
    """A convolution between stores in int8; what it reads is pooled, and read as floats too; what it gives is enlarged."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.store = Tap("image")
        self.conv = Conv(MOBILE, 3, 8, 3, norm=False)
        self.mixed = Conv(MOBILE, 8, 8, 3, norm=False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        image = image.permute(0, 3, 1, 2) * 0.9
        x = self.conv(self.store(F.avg_pool2d(image, 2)))
        x = self.mixed(self.conv.out(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        wide = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return {"wide": (wide * 0.5).permute(0, 2, 3, 1), "same": (image + 0.5).permute(0, 2, 3, 1)}


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    mask = np.zeros((1, SIDE, SIDE, 1), np.float32)
    mask[:, 2:6, 3:7] = 1
    return {"image": random.random((1, SIDE, SIDE, 3), np.float32), "mask": mask}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    """The two networks as the converter leaves them."""
    import litert_torch
    from litert_torch.quantize import pt2e_quantizer, quant_config

    folder = tmp_path_factory.mktemp("edits")
    given = {name: torch.from_numpy(value) for name, value in inputs().items()}
    litert_torch.convert(Floats().eval(), sample_kwargs=given).export(str(folder / "floats.tflite"))
    stored = Stored().eval()
    quant.prepare(stored)
    quant.set_calibrating(stored, True)
    with torch.no_grad():
        stored(given["image"])
    quant.set_calibrating(stored, False)
    quant.set_exporting(stored)
    symmetric = pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    config = quant_config.QuantConfig(pt2e_quantizer=pt2e_quantizer.PT2EQuantizer().set_global(symmetric))
    edge_model = litert_torch.convert(stored, sample_kwargs={"image": given["image"]}, quant_config=config)
    edge_model.export(str(folder / "stored.tflite"))
    return {name: folder / f"{name}.tflite" for name in ("floats", "stored")}


def kinds(graph: Graph) -> Counter[str]:
    return Counter(graph.name(op) for op in graph.graph.operators)


def edited(path: Path, target: Path, *changes) -> Graph:
    """The file with these edits, written and read again."""
    graph = Graph(path)
    for change in changes:
        change(graph)
        graph.find_makers()
    graph.write(target)
    return Graph(target)


def same(one: Path, other: Path, apart: float = 0.0) -> None:
    """They compute the same, of three inputs; outputs by name."""
    names = {given.name.decode() for given in Graph(one).model.signatureDefs[0].inputs}
    for seed in range(3):
        given = {name: value for name, value in inputs(seed).items() if name in names}
        outputs, expected = (reference(path, given) for path in (one, other))
        assert outputs.keys() == expected.keys()
        for name, value in outputs.items():
            assert np.abs(value - expected[name]).max() <= apart, name


def test_every_edit_has_a_test_here() -> None:
    tests = {name.removeprefix("test_") for name in globals()}
    missing = {edit.change.__name__ for edit in tflite_edits.EDITS} - tests
    assert not missing, f"{missing}: no test of that name"


def test_gather_for_lookups(written, tmp_path) -> None:
    before = kinds(Graph(written["floats"]))
    graph = edited(written["floats"], tmp_path / "a.tflite", tflite_edits.gather_for_lookups)
    assert before["EMBEDDING_LOOKUP"] == 1 and kinds(graph)["GATHER"] == 1 and not graph.ops("EMBEDDING_LOOKUP")
    same(written["floats"], tmp_path / "a.tflite")


def test_clamps_in_two(written, tmp_path) -> None:
    before = kinds(Graph(written["floats"]))
    after = kinds(edited(written["floats"], tmp_path / "a.tflite", tflite_edits.clamps_in_two))
    assert before["RELU_0_TO_1"] == 1 and not after["RELU_0_TO_1"]
    assert after["RELU"] == before["RELU"] + 1 and after["MINIMUM"] == before["MINIMUM"] + 1
    same(written["floats"], tmp_path / "a.tflite")


def test_resampler_for_the_mark(tmp_path) -> None:
    """Only what is marked as the warp, and with the mark's own inputs, picture and coordinates."""
    import litert_torch

    from faceeraser.conversion.tflite import WARP_FORMS

    class Warps(nn.Module):
        def forward(self, image: Tensor, flow: Tensor) -> Tensor:
            return WARP_FORMS["resampler"](image, flow)

    given = (torch.rand(1, 3, SIDE, SIDE), torch.rand(1, 2, SIDE, SIDE))
    litert_torch.convert(Warps().eval(), given).export(str(tmp_path / "marked.tflite"))
    before = Graph(tmp_path / "marked.tflite")
    assert len(before.ops("STABLEHLO_COMPOSITE")) == 1
    graph = edited(tmp_path / "marked.tflite", tmp_path / "a.tflite", tflite_edits.resampler_for_the_mark)
    (op,) = graph.ops("Resampler")
    assert not graph.ops("STABLEHLO_COMPOSITE") and not graph.ops("EMBEDDING_LOOKUP")
    assert [graph.shape(int(t)) for t in op.inputs] == [(1, SIDE, SIDE, 3), (1, SIDE, SIDE, 2)]


def test_heads_in_phases(written, tmp_path) -> None:
    before = Graph(written["floats"])
    graph = edited(written["floats"], tmp_path / "a.tflite", tflite_edits.heads_in_phases)
    (was,), (op,) = before.ops("CONV_2D"), graph.ops("CONV_2D")
    assert before.shape(int(was.inputs[1])) == (2, 3, 3, 3) and graph.shape(int(op.inputs[1])) == (8, 4, 4, 3)
    assert op.builtinOptions.strideH == 2 and len(graph.ops("DEPTH_TO_SPACE")) == 1
    same(written["floats"], tmp_path / "a.tflite", 1e-7)


def test_copies_by_convolution(written, tmp_path) -> None:
    before = kinds(Graph(written["floats"]))
    after = kinds(edited(written["floats"], tmp_path / "a.tflite", tflite_edits.copies_by_convolution))
    assert before["CONCATENATION"] >= 1 and not after["CONCATENATION"]
    assert after["CONV_2D"] == before["CONV_2D"] + before["CONCATENATION"]
    same(written["floats"], tmp_path / "a.tflite")


def test_enlarging_in_channels(written, tmp_path) -> None:
    before = Graph(written["stored"])
    graph = edited(written["stored"], tmp_path / "a.tflite", tflite_edits.enlarging_in_channels)
    assert len(before.ops("RESIZE_NEAREST_NEIGHBOR")) == 1 and not graph.ops("RESIZE_NEAREST_NEIGHBOR")
    assert graph.shape(int(graph.ops("DEPTH_TO_SPACE")[0].inputs[0]))[-1] == 32
    same(written["stored"], tmp_path / "a.tflite")


class Brought(nn.Module):
    """What other people's networks have: points that hang on no input, and a picture several times over."""

    def forward(self, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        theta = torch.tensor([[[0.9, 0.1, 0.0], [0.0, 1.0, 0.1]]]) * mask.mean()
        points = F.affine_grid(theta, [1, 3, SIDE, SIDE], align_corners=False)
        return {"points": points, "many": image.repeat(4, 1, 1, 1) * points[:, :, :, :1]}


@pytest.fixture(scope="module")
def brought(tmp_path_factory) -> Path:
    import litert_torch

    path = tmp_path_factory.mktemp("brought") / "brought.tflite"
    given = {name: torch.from_numpy(value) for name, value in inputs().items()}
    litert_torch.convert(Brought().eval(), sample_kwargs=given).export(str(path))
    return path


def test_constants_in_advance(brought, tmp_path) -> None:
    def idle(graph: Graph) -> int:
        return sum(all(graph.constant(int(t)) for t in op.inputs) for op in graph.graph.operators)

    assert idle(Graph(brought)) > 0, "nothing to mend"
    graph = edited(brought, tmp_path / "a.tflite", tflite_edits.constants_in_advance)
    assert idle(graph) == 0 and not graph.ops("PAD")
    same(brought, tmp_path / "a.tflite")


def test_repeats_joined(brought, tmp_path) -> None:
    graph = edited(brought, tmp_path / "a.tflite", tflite_edits.constants_in_advance, tflite_edits.repeats_joined)
    assert len(Graph(brought).ops("BROADCAST_TO")) >= 1 and not graph.ops("BROADCAST_TO")
    assert [len(op.inputs) for op in graph.ops("CONCATENATION")] == [4]
    same(brought, tmp_path / "a.tflite")


class Direct(nn.Module):
    """A convolution that stores its input at once, and gives what it stores."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.store, self.conv = Tap("image"), Conv(MOBILE, 3, 8, 3, norm=False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"made": self.conv(self.store(image.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)}


def test_floats_at_the_ends(tmp_path) -> None:
    """The same numbers, of floats; to a step of the output's where rounding meets an edge."""
    import litert_torch
    from litert_torch.quantize import pt2e_quantizer, quant_config

    image = torch.from_numpy(inputs()["image"])
    module = Direct().eval()
    quant.prepare(module)
    quant.set_calibrating(module, True)
    with torch.no_grad():
        module(image)
    quant.set_calibrating(module, False)
    with torch.no_grad():
        expected, step = module(image)["made"].numpy(), float(module.conv.get_submodule("out").get_parameter("scale"))
    quant.set_exporting(module)
    symmetric = pt2e_quantizer.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    config = quant_config.QuantConfig(pt2e_quantizer=pt2e_quantizer.PT2EQuantizer().set_global(symmetric))
    litert_torch.convert(module, sample_kwargs={"image": image}, quant_config=config).export(str(tmp_path / "direct.tflite"))
    before = Graph(tmp_path / "direct.tflite")
    ends = (*before.model.signatureDefs[0].inputs, *before.model.signatureDefs[0].outputs)
    assert "INT8" in {before.type(int(port.tensorIndex)) for port in ends}, "nothing to mend"
    graph = edited(tmp_path / "direct.tflite", tmp_path / "a.tflite", tflite_edits.floats_at_the_ends)
    ends = (*graph.model.signatureDefs[0].inputs, *graph.model.signatureDefs[0].outputs)
    assert {graph.type(int(port.tensorIndex)) for port in ends} == {"FLOAT32"}
    output = reference(tmp_path / "a.tflite", {"image": inputs()["image"]})["made"]
    assert np.abs(output - expected).max() < 1.01 * step and (np.abs(output - expected) > 0.01 * step).mean() < 0.01


def test_floats_for_float_readers(written, tmp_path) -> None:
    """`same` is the picture in floats; the converter gives it the int8 form that the pooling's reader has."""
    before = Graph(written["stored"])
    changes = (tflite_edits.floats_for_float_readers, tflite_edits.unread_operators)
    graph = edited(written["stored"], tmp_path / "a.tflite", *changes)
    assert [op for op in before.ops("DEQUANTIZE") if before.moved_back(op)], "nothing to mend"
    assert not [op for op in graph.ops("DEQUANTIZE") if graph.moved_back(op)]
    image = inputs()["image"]
    rounded, mended = (reference(path, {"image": image})["same"] for path in (written["stored"], tmp_path / "a.tflite"))
    expected = image * np.float32(0.9) + np.float32(0.5)
    assert np.abs(mended - expected).max() < 1e-6 and np.abs(rounded - expected).max() > 1e-3


def test_resampling_in_float(written, tmp_path) -> None:
    """The network pools and then stores, reads back and then enlarges; the converter had it the other way round."""
    before = Graph(written["stored"])
    changes = (tflite_edits.floats_for_float_readers, tflite_edits.resampling_in_float)
    graph = edited(written["stored"], tmp_path / "a.tflite", *changes)
    for name in ("AVERAGE_POOL_2D", "RESIZE_BILINEAR"):
        assert "INT8" in {before.type(int(op.outputs[0])) for op in before.ops(name)}, f"{name}: nothing to mend"
        assert {graph.type(int(op.outputs[0])) for op in graph.ops(name)} == {"FLOAT32"}
    module = Stored().eval()
    quant.prepare(module)
    quant.set_calibrating(module, True)
    with torch.no_grad():
        module(torch.from_numpy(inputs()["image"]))
    quant.set_calibrating(module, False)
    errors = []
    for path in (written["stored"], tmp_path / "a.tflite"):
        for seed in range(3):
            image = inputs(seed)["image"]
            with torch.no_grad():
                expected = module(torch.from_numpy(image))["wide"].numpy()
            errors.append(float(np.abs(reference(path, {"image": image})["wide"] - expected).max()))
    # Where PyTorch multiplies in tiles (AMX), one of the three pictures has a tie that it rounds the other way.
    assert sorted(errors[3:])[1] < 1e-5 < max(errors[:3]) and max(errors[3:]) < 1e-3


def test_pictures_in_eight_bits(written, tmp_path) -> None:
    edited(written["floats"], tmp_path / "a.tflite", tflite_edits.pictures_in_eight_bits)
    for seed in range(3):
        given = inputs(seed)
        levels = np.rint(given["image"] * 255).astype(np.uint8)
        eight = reference(tmp_path / "a.tflite", {"image": levels, "mask": given["mask"].astype(np.uint8)})["erased"]
        real = reference(written["floats"], {"image": levels / np.float32(255), "mask": given["mask"]})["erased"]
        assert eight.dtype == np.uint8 and np.abs(eight.astype(float) - np.rint(real * 255)).max() == 0


def test_mask_named(written, tmp_path) -> None:
    graph = edited(written["floats"], tmp_path / "a.tflite", tflite_edits.mask_named)
    assert [t.name for t in graph.graph.tensors].count(b"mask_where_1_is_erased") == 1
    same(written["floats"], tmp_path / "a.tflite")


@pytest.mark.parametrize("kinds", [(), ("quantized", "for_cpu", "erase"), ("for_cpu", "eight_bit", "erase")])
def test_a_file_gets_the_edits_of_its_kind_in_order(kinds, monkeypatch) -> None:
    applied: list[str] = []

    class Nothing:
        def find_makers(self) -> None:
            applied.append("looked anew")

    originals = tflite_edits.EDITS
    noted = [tflite_edits.Edit(lambda _, name=edit.change.__name__: applied.append(name), edit.of) for edit in originals]
    monkeypatch.setattr(tflite_edits, "EDITS", tuple(noted))
    tflite_edits.apply(Nothing(), kinds)
    wanted = [edit.change.__name__ for edit in originals if edit.of in ("all", *kinds)]
    assert applied[::2] == wanted and set(applied[1::2]) == {"looked anew"} and len(wanted) >= 3

"""An exported file and its card, on tiny models built here: run, described and counted from the file itself."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from onnx import TensorProto, helper

from faceeraser import WEIGHTS, cli
from faceeraser.artifacts import contents, embedded, runtimes
from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.card import (
    ALL_PRECISIONS,
    ANY_CARD_NEEDS,
    CARD_FORMAT,
    CARD_NEEDS,
    SCHEMA_FILE,
    card_path,
    read_card,
    write_card,
)
from faceeraser.artifacts.files import KINDS, sha256_of
from faceeraser.artifacts.runtimes import ports_of
from faceeraser.measurement import results
from faceeraser.system import extras

SIZE = 16
FACTS = {
    "precision": "fp32",
    "resolution": SIZE,
    "edges": "inside",
    "warp": "none",
    "notes": "",
    "parity": {"n": 16, "psnr_hole_min": 90.0, "max_abs_hole": 1e-5, "gate": 1e-4, "passed": True},
    "history": [{"stage": "train", "options": {"features": "off"}}],
}
RNG = np.random.default_rng(0)
IMAGE = RNG.random((SIZE, SIZE, 3), np.float32)
MASK = np.zeros((SIZE, SIZE), np.float32)
MASK[4:12, 3:10] = 1


def painted(image: np.ndarray, mask: np.ndarray, colour: float = 0.25) -> np.ndarray:
    """What the tiny ONNX models compute: the hole in one grey."""
    mask = mask.reshape(*image.shape[:-1], 1)
    return image * (1 - mask) + colour * mask


def write_onnx(path: Path, inputs=("mask", "image"), batch=1, extra=(), outputs=("erased",), one=1.0, **facts) -> Path:
    """NCHW; the mask comes first unless told otherwise. `extra`: single-channel inputs added to the picture.
    `one` below 1: also darkens what it should keep."""
    channels = {"image": 3}
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, channels.get(name, 1), SIZE, SIZE])
        for name in (*inputs, *extra)
    ]
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, SIZE, SIZE]) for name in outputs]
    nodes = [
        helper.make_node("Sub", ["one", "mask"], ["keep"]),
        helper.make_node("Mul", ["image", "keep"], ["outside"]),
        helper.make_node("Mul", ["mask", "grey"], ["inside"]),
        helper.make_node("Add", ["outside", "inside"], ["sum"]),
    ]
    last = "sum"
    for name in extra:
        nodes.append(helper.make_node("Add", [last, name], [f"{name}_sum"]))
        last = f"{name}_sum"
    nodes += [helper.make_node("Identity", [last], [name]) for name in outputs]
    constants = [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in (("one", one), ("grey", 0.25))]
    graph = helper.make_graph(nodes, "tiny", ports, outs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    write_card(path, FACTS | facts)
    return path


@pytest.fixture(scope="session")
def torch_toy(tmp_path_factory):
    """(torch module, its .tflite): a convolution, a depthwise and a transposed one, and a dense layer."""
    import litert_torch
    import torch

    class Toy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(4, 8, 3, stride=2, padding=1)
            self.depth = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.dense = torch.nn.Linear(8, 8)
            self.up = torch.nn.ConvTranspose2d(8, 3, 4, 2, 1)

        def forward(self, image, mask):
            x, m = image.permute(0, 3, 1, 2), mask.permute(0, 3, 1, 2)
            h = torch.relu(self.conv(torch.cat([x * (1 - m), m], 1)))
            h = self.depth(h)
            h = h * torch.sigmoid(self.dense(h.mean((2, 3))))[:, :, None, None]
            return (x * (1 - m) + torch.sigmoid(self.up(h)) * m).permute(0, 2, 3, 1)

    torch.manual_seed(0)
    toy = Toy().eval()
    path = tmp_path_factory.mktemp("toy") / "toy.tflite"
    sample = {"image": torch.zeros(1, SIZE, SIZE, 3), "mask": torch.zeros(1, SIZE, SIZE, 1)}
    litert_torch.convert(toy, sample_kwargs=sample).export(str(path))
    write_card(path, FACTS)
    return toy, path


@pytest.fixture(scope="session")
def tensorflow_toys(tmp_path_factory) -> dict[str, Path]:
    """One TensorFlow function as fp16 weights behind DEQUANTIZE, and as int8 with int8 inputs and outputs."""
    import tensorflow as tf

    # A 1x1 convolution that looks at nothing but the mask, so that quantization is the only error.
    kernel = np.zeros((3, 3, 4, 3), np.float32)
    kernel[1, 1, :3] = np.eye(3)
    kernel[1, 1, 3] = 0.25

    @tf.function(input_signature=[tf.TensorSpec([1, SIZE, SIZE, 3]), tf.TensorSpec([1, SIZE, SIZE, 1])])
    def eraser(image, mask):
        return {"erased": tf.nn.conv2d(tf.concat([image * (1 - mask), mask], 3), kernel, 1, "SAME")}

    folder, files = tmp_path_factory.mktemp("tf"), {}
    for name in ("fp16", "int8"):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([eraser.get_concrete_function()])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == "fp16":
            converter.target_spec.supported_types = [tf.float16]
        else:
            converter.representative_dataset = lambda: ([IMAGE[None], MASK[None, ..., None]] for _ in range(4))
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        files[name] = folder / f"{name}.tflite"
        files[name].write_bytes(converter.convert())
        write_card(files[name], FACTS | {"precision": name})
    return files


# --- running ---------------------------------------------------------------------------------------------------------


def test_tflite_gives_what_the_network_gives(torch_toy) -> None:
    import torch

    toy, path = torch_toy
    with torch.no_grad():
        expected = toy(torch.from_numpy(IMAGE)[None], torch.from_numpy(MASK)[None, ..., None])[0].numpy()
    painted = Artifact(path).run(IMAGE, MASK)
    assert painted.dtype == np.float32 and painted.shape == IMAGE.shape
    np.testing.assert_allclose(painted, expected, atol=1e-5)


@pytest.mark.parametrize("runtime", ["ai_edge_litert", "tensorflow"])
def test_the_runtime_can_be_chosen(torch_toy, runtime: str) -> None:
    chosen = Artifact(torch_toy[1], runtime=runtime, threads=1).run(IMAGE, MASK)
    np.testing.assert_allclose(chosen, Artifact(torch_toy[1]).run(IMAGE, MASK), atol=1e-6)


@pytest.mark.parametrize("inputs", [("mask", "image"), ("image", "mask")])
def test_input_order_and_layout_are_read_from_the_file(tmp_path: Path, inputs) -> None:
    model = Artifact(write_onnx(tmp_path / "m.onnx", inputs))
    np.testing.assert_allclose(model.run(IMAGE, MASK), painted(IMAGE, MASK), atol=1e-6)
    assert model.resolution == (SIZE, SIZE) and not model.wants_edges


@pytest.mark.parametrize("batch", [1, "n"])
def test_batches_and_mask_shapes(tmp_path: Path, batch) -> None:
    model = Artifact(write_onnx(tmp_path / "m.onnx", batch=batch))
    images = RNG.random((3, SIZE, SIZE, 3), np.float32)
    masks = (RNG.random((3, SIZE, SIZE)) > 0.5).astype(np.float32)
    expected = painted(images, masks)
    np.testing.assert_allclose(model.run(images, masks), expected, atol=1e-6)
    np.testing.assert_allclose(model.run(images, masks[..., None]), expected, atol=1e-6)
    np.testing.assert_allclose(model.run(images[0], masks[0][..., None]), expected[0], atol=1e-6)
    assert model.run(images[:0], masks[:0]).shape == (0, SIZE, SIZE, 3)


def test_quantized_inputs_and_outputs_follow_the_files_own_scales(tensorflow_toys) -> None:
    path = tensorflow_toys["int8"]
    card = read_card(path)
    assert {port["dtype"] for port in (*card["inputs"], *card["outputs"])} == {"int8"}
    assert all(
        port["quantization"]["scale"] > 0 > port["quantization"]["zero_point"]
        for port in (*card["inputs"], *card["outputs"])
    )
    np.testing.assert_allclose(Artifact(path).run(IMAGE, MASK), painted(IMAGE, MASK), atol=3 / 255)


def test_edges_as_an_input_come_from_the_paper_s_canny(tmp_path: Path) -> None:
    from faceeraser.artifacts import edges

    model = Artifact(write_onnx(tmp_path / "m.onnx", extra=("edges",), edges="input"))
    steps = np.repeat((np.arange(SIZE) > 7)[None, :, None], SIZE, 0).repeat(3, 2).astype(np.float32)
    expected = edges.canny(steps @ np.array([0.299, 0.587, 0.114], np.float32), MASK)
    assert model.wants_edges and expected.any()
    np.testing.assert_allclose(model.run(steps, MASK) - painted(steps, MASK), expected[..., None].repeat(3, 2), atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), high=st.sampled_from([1, 255]))
def test_erase_leaves_the_outside_bit_identical_and_takes_any_non_zero_as_erase(tmp_path_factory, seed, high) -> None:
    model = Artifact(write_onnx(tmp_path_factory.mktemp("m") / "m.onnx", one=0.9))
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    mask = (rng.random((SIZE, SIZE)) > 0.5).astype(np.uint8) * np.uint8(high)
    erased = model.erase(image, mask)
    assert erased.dtype == np.uint8 and (erased[mask == 0] == image[mask == 0]).all()
    inside = 0.25 * 255 - 0.1 * image[mask > 0].astype(float)
    assert np.abs(erased[mask > 0] - inside.clip(0, 255)).max() <= 0.51


def test_two_pictures_out_need_one_called_erased(tmp_path: Path) -> None:
    model = Artifact(write_onnx(tmp_path / "m.onnx", outputs=("cloned", "erased")))
    np.testing.assert_allclose(model.run(IMAGE, MASK), painted(IMAGE, MASK), atol=1e-6)
    with pytest.raises(ValueError, match="expected one picture, or one named 'erased'"):
        Artifact(write_onnx(tmp_path / "n.onnx", outputs=("left", "right")))


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (IMAGE[..., :2], MASK, r"image has shape \(16, 16, 2\)"),
        (IMAGE[:8], MASK[:8], "image is 8 pixels high; m.onnx takes 16"),
        (IMAGE, MASK[:8], r"mask has shape \(8, 16\)"),
        (IMAGE, MASK.T[None], r"mask has shape \(1, 16, 16\)"),
        (IMAGE * 255, MASK, r"image has values .* expected \[0, 1\]"),
        (IMAGE, MASK * 255, r"mask has values from 0.0 to 255.0"),
        (np.full_like(IMAGE, np.nan), MASK, "image has values from nan"),
    ],
)
def test_pictures_of_another_form_are_refused(tmp_path: Path, image, mask, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Artifact(write_onnx(tmp_path / "m.onnx")).run(image, mask)


def test_two_single_channel_inputs_that_no_name_tells_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected an image, a mask and perhaps 'edges'"):
        Artifact(write_onnx(tmp_path / "m.onnx", extra=("other",)))


def test_a_card_that_disagrees_about_edges_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the card says edges are 'input'.*has no input"):
        Artifact(write_onnx(tmp_path / "m.onnx", edges="input"))


@pytest.mark.skipif(sys.platform == "darwin", reason="CoreML predicts here")
def test_coreml_is_described_but_refuses_to_predict_away_from_macos(tmp_path: Path) -> None:
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb

    shapes = [mb.TensorSpec((1, 3, SIZE, SIZE)), mb.TensorSpec((1, 1, SIZE, SIZE))]

    @mb.program(input_specs=shapes, opset_version=ct.target.iOS15)
    def program(image, mask):
        return mb.mul(x=image, y=mask, name="erased")

    path = tmp_path / "m.mlpackage"
    ct.convert(program, convert_to="mlprogram", compute_precision=ct.precision.FLOAT32).save(str(path))
    described = ports_of(path)
    with pytest.raises(ValueError, match="lacks gmacs, params"):
        write_card(path, FACTS | described)
    card = write_card(path, FACTS | described | {"gmacs": 0.1, "params": 3})
    assert card["kind"] == "coreml" and card["bytes"] == sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    assert [(p["name"], p["layout"]) for p in card["inputs"]] == [("image", "NCHW"), ("mask", "NCHW")]
    with pytest.raises(RuntimeError, match="CoreML predicts on macOS only"):
        Artifact(path).run(IMAGE, MASK)
    weights = next(f for f in path.rglob("*.mlmodel"))
    weights.write_bytes(weights.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="do not belong together"):
        Artifact(path)


@pytest.mark.parametrize(
    ("missing", "suffix", "extra"), [("onnxruntime", ".onnx", "onnx"), ("ai_edge_litert", ".tflite", "faceeraser")]
)
def test_a_missing_runtime_is_named_with_the_extra_to_install(torch_toy, tmp_path, monkeypatch, missing, suffix, extra):
    path = torch_toy[1] if suffix == ".tflite" else write_onnx(tmp_path / "m.onnx")

    def absent(name: str):
        raise ModuleNotFoundError(name, name=name)

    for module in (runtimes, extras):
        monkeypatch.setattr(module, "import_module", absent)
    with pytest.raises(ModuleNotFoundError, match=f"{missing} is not installed.*pip install .*{extra}"):
        Artifact(path)


# --- cards -----------------------------------------------------------------------------------------------------------


def test_a_card_has_every_field_and_describes_the_file(torch_toy) -> None:
    path = torch_toy[1]
    card = json.loads(card_path(path).read_text())
    assert sorted(card) == sorted(
        [
            "format",
            "file",
            "kind",
            "precision",
            "sha256",
            "bytes",
            "resolution",
            "inputs",
            "outputs",
            "edges",
            "warp",
            "gmacs",
            "params",
            "parity",
            "notes",
            "history",
        ]
    )
    assert (card["format"], card["file"], card["kind"]) == (1, "toy.tflite", "tflite")
    assert card["bytes"] == path.stat().st_size
    assert card["inputs"][0] == {
        "name": "image",
        "shape": [1, SIZE, SIZE, 3],
        "layout": "NHWC",
        "dtype": "float32",
        "range": [0.0, 1.0],
        "quantization": None,
        "meaning": "the picture, RGB",
    }
    assert card["inputs"][1]["meaning"] == "1 = erase, 0 = keep"


def test_a_changed_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="do not belong together") as caught:
        Artifact(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_missing_files_and_unreadable_cards_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file; export one first"):
        Artifact(tmp_path / "none.tflite")
    with pytest.raises(ValueError, match="cannot tell what this is"):
        Artifact(tmp_path / "model.pt")
    path = write_onnx(tmp_path / "m.onnx")
    card = card_path(path)
    fields = json.loads(card.read_text())
    for text, message in (
        ("{", "this is not JSON"),
        ("[]", "holds a list; expected the card"),
        ('{"format": 2}', "format is '2'"),
        (json.dumps({**fields, "inputs": fields["inputs"][:1]}), r"the card\.inputs must contain"),
        (json.dumps({**fields, "kind": "tflite"}), r"is the card of a tflite file, but m\.onnx is not one"),
        (json.dumps(fields)[:-1] + ', "sha256": "' + fields["sha256"] + '"}', "'sha256' stands in it twice"),
    ):
        card.write_text(text)
        with pytest.raises(ValueError, match=message):
            Artifact(path)
    card.unlink()
    with pytest.raises(FileNotFoundError, match=r"expected m\.onnx\.json"):
        Artifact(path)


@pytest.mark.parametrize("name", ["broken.tflite", "broken.onnx"])
def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"not a model at all")
    port = {"name": "a", "shape": [1], "layout": "?", "dtype": "float32", "range": [0, 1], "quantization": None}
    write_card(path, FACTS | {"inputs": [port, port], "outputs": [port], "gmacs": 0, "params": 0})
    with pytest.raises(ValueError, match="cannot load it") as caught:
        Artifact(path)
    assert "\n" not in str(caught.value)


def test_a_card_is_whole_or_not_there(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx")
    before = card_path(path).read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_card(path, FACTS | {"parity": {"psnr_hole_min": float("inf")}})
    assert card_path(path).read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.json"]


@pytest.mark.parametrize("field", CARD_NEEDS)
def test_a_card_lacking_a_field_is_refused(tmp_path: Path, field: str) -> None:
    path = write_onnx(tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=f"lacks {field}"):
        write_card(path, {key: value for key, value in FACTS.items() if key != field})


def test_the_exporter_cannot_claim_another_sha256_or_size(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", sha256="0" * 64, bytes=1)
    assert read_card(path)["bytes"] == path.stat().st_size


def test_weights_beside_the_onnx_file_are_refused(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx")
    (tmp_path / "m.onnx.data").write_bytes(b"weights")
    with pytest.raises(ValueError, match="external_data=False"):
        write_card(path, FACTS)


SCHEMA = json.loads(SCHEMA_FILE.read_text())
CARD = Draft202012Validator(SCHEMA)


def test_the_schema_is_one_and_its_lists_are_the_codes_own() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["format"]["const"] == CARD_FORMAT
    assert tuple(SCHEMA["properties"]["precision"]["enum"]) == ALL_PRECISIONS
    assert set(SCHEMA["properties"]["kind"]["enum"]) == set(KINDS.values())
    assert set(CARD_NEEDS) <= {*SCHEMA["required"], *SCHEMA["else"]["required"]}
    assert set(ANY_CARD_NEEDS) <= {*SCHEMA["required"], *SCHEMA["if"]["required"]}


def test_cards_here_and_the_one_that_ships_are_of_the_schemas_form(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", delegates=["xnnpack", {"name": "gpu", "nodes": 3, "of": 3, "by": "hand"}])
    CARD.validate(read_card(path))
    for name in ("int8.tflite", "plan.tflite"):
        CARD.validate(read_card(WEIGHTS / name))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"format": 2}, "format"),
        ({"precision": "int4"}, "precision"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"mask_polarity": "0 = erase"}, ""),
        ({"inputs": []}, "inputs"),
        ({"bytes": -1}, "bytes"),
        ({"edges": "outside"}, "edges"),
        ({"flavour": "fast"}, "flavour"),
        ({"delegates": [{"nodes": 3}]}, "delegates"),
        ({"parity": {"n": 16}}, "parity"),
        ({"sizes": {"min": 64}}, "sizes"),
        ({"history": [{"options": {}}]}, "history"),
        ({"parity_at": [{"n": 1, "passed": True}]}, "parity_at"),
    ],
)
def test_a_card_of_another_form_is_seen(tmp_path: Path, change, where: str) -> None:
    card = read_card(write_onnx(tmp_path / "m.onnx"))
    CARD.validate(card)
    errors = list(CARD.iter_errors(card | change))
    assert errors and {error.path[0] if error.path else "" for error in errors} == {where}


@pytest.mark.parametrize("field", SCHEMA["required"])
def test_a_card_without_a_field_is_seen(tmp_path: Path, field: str) -> None:
    card = read_card(write_onnx(tmp_path / "m.onnx"))
    del card[field]
    assert not CARD.is_valid(card)


def test_inspect_tells_operators_and_weights_and_refuses_a_changed_file(torch_toy, tmp_path: Path, capsys) -> None:
    path = tmp_path / "toy.tflite"
    path.write_bytes(torch_toy[1].read_bytes())
    write_card(path, FACTS | {"flavour": "cpu", "delegates": ["xnnpack"]})
    assert cli.main(["inspect", str(path)]) == 0
    said = capsys.readouterr().out
    for part in ("CONV_2D 1", "DEPTHWISE_CONV_2D 1", "TRANSPOSE_CONV 1", "xnnpack", "1 = erase, 0 = keep"):
        assert part in said, said
    layers = contents.listing(path)["layers"]
    assert [(layer["operator"], layer["stored"], layer["bytes"]) for layer in layers] == [
        ("CONV_2D", "float32", 4 * 8 * 4 * 9),
        ("DEPTHWISE_CONV_2D", "float32", 4 * 8 * 9),
        ("TRANSPOSE_CONV", "float32", 4 * 8 * 3 * 16),
    ]
    path.write_bytes(path.read_bytes() + b"\0")
    assert cli.main(["inspect", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.strip().splitlines()) == 1 and "do not belong together" in printed.err


def test_float16_weights_are_told_as_they_are_stored(tensorflow_toys) -> None:
    (layer,) = contents.listing(tensorflow_toys["fp16"])["layers"]
    assert (layer["stored"], layer["bytes"]) == ("float16", 2 * 108)


def test_contents_of_what_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"not a model at all")
    with pytest.raises(ValueError, match="this is not a TFLite model"):
        contents.listing(path)


def test_a_file_of_any_size_takes_what_its_card_allows_and_is_counted_at_its_resolution(tmp_path: Path) -> None:
    def weight(name, *shape):
        return helper.make_tensor(name, TensorProto.FLOAT, shape, np.zeros(shape, np.float32).ravel())

    open_ = [1, 3, "height", "width"]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, *open_[2:]]) for n, c in (("image", 3), ("mask", 1))]
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["painted"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Add", ["painted", "mask"], ["erased"]),
    ]
    outs = [helper.make_tensor_value_info("erased", TensorProto.FLOAT, open_)]
    graph = helper.make_graph(nodes, "open", ports, outs, [weight("w", 3, 3, 3, 3)])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    card = write_card(path, FACTS | {"sizes": {"multiple_of": 8, "min": 8, "max": 32}})
    assert card["gmacs"] * 1e9 == pytest.approx(SIZE * SIZE * 81) and card["params"] == 81
    CARD.validate(card)
    model = Artifact(path)
    for height, width in ((8, 32), (16, 16)):
        assert model.run(np.zeros((height, width, 3), np.float32), np.ones((height, width), np.float32)).min() == 1
    for height, width in ((12, 16), (16, 40), (0, 8)):
        with pytest.raises(ValueError, match=r"takes multiples of 8 from 8 to 32"):
            model.run(np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32))


# --- counting --------------------------------------------------------------------------------------------------------


def test_tflite_is_counted_as_the_closed_form_says(torch_toy) -> None:
    half = (SIZE // 2) ** 2
    macs = half * 8 * 4 * 9 + half * 8 * 9 + 8 * 8 + half * 8 * 3 * 16  # the transposed one by its input positions
    toy, path = torch_toy
    counted = contents.cost_of(path)
    assert counted["gmacs"] * 1e9 == pytest.approx(macs)
    assert counted["params"] == sum(p.numel() for p in toy.parameters())


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_quantized_weights_count_like_float_ones(tensorflow_toys, name: str) -> None:
    counted = contents.cost_of(tensorflow_toys[name])
    assert counted["gmacs"] * 1e9 == pytest.approx(SIZE * SIZE * 3 * 4 * 9)
    assert counted["params"] in (108, 111)  # the converter adds a bias of zeros to some


def test_onnx_is_counted_alike_and_shared_weights_once(tmp_path: Path) -> None:
    def weight(name, *shape):
        return helper.make_tensor(name, TensorProto.FLOAT, shape, np.zeros(shape, np.float32).ravel())

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Conv", ["a", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Conv", ["c", "d"], ["e"], kernel_shape=[3, 3], pads=[1] * 4, group=4),
        helper.make_node("ConvTranspose", ["e", "t"], ["f"], kernel_shape=[4, 4], strides=[2, 2], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["f"], ["g"]),
        helper.make_node("Flatten", ["g"], ["h"]),
        helper.make_node("Gemm", ["h", "m", "n"], ["y"], transB=1),
    ]
    constants = [
        weight("w", 4, 4, 3, 3),
        weight("b", 4),
        weight("d", 4, 1, 3, 3),
        weight("t", 4, 2, 4, 4),
        weight("m", 5, 2),
        weight("n", 5),
    ]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])]
    outs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])]
    path = tmp_path / "m.onnx"
    graph = helper.make_graph(nodes, "count", ports, outs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    counted = contents.cost_of(path)
    assert counted["gmacs"] * 1e9 == pytest.approx(2 * 64 * 4 * 36 + 64 * 4 * 9 + 64 * 4 * 2 * 16 + 10)
    assert counted["params"] == 144 + 4 + 36 + 128 + 10 + 5


# --- results ---------------------------------------------------------------------------------------------------------


def test_a_result_has_the_one_form_and_no_machine_paths(tmp_path: Path, monkeypatch) -> None:
    home = tmp_path / "home" / "someone" / "checkout"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    arguments = [
        "python",
        "x.py",
        str(home / "exports" / "a.tflite"),
        "--data",
        str(tmp_path / "far" / "faces"),
        f"--rows=int8={home.parent}/b.tflite",
        "int8=../../../elsewhere/c.tflite",
        "two words",
    ]
    data = {"name": "photos", "n": 2, "eval_sha256": "ab", "source": "photos"}
    result = results.result([{"name": "fp32", "psnr": 1.5}], data, arguments)
    assert list(result) == ["command", "commit", "hardware", "versions", "data", "rows"]
    assert result["command"] == (
        "python x.py exports/a.tflite --data faces --rows=int8=../b.tflite int8=c.tflite 'two words'"
    )
    assert {"cpu", "cores", "ram_gb"} <= set(result["hardware"])
    assert result["versions"]["numpy"] == np.__version__ and "torch" in result["versions"]
    target = home / "results" / "a.json"
    results.write_result(target, result)
    assert json.loads(target.read_text()) == result and [p.name for p in target.parent.iterdir()] == ["a.json"]


def test_a_result_without_names_or_with_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row has no name"):
        results.result([{"psnr": 1.0}], None, ["python"])
    with pytest.raises(ValueError, match="lacks n, eval_sha256"):
        results.result([], {"name": "photos"}, ["python"])
    with pytest.raises(ValueError):
        results.write_result(tmp_path / "a.json", {"rows": [{"name": "a", "psnr": float("nan")}]})
    assert not list(tmp_path.iterdir())


def test_the_commit_is_gits_or_uncommitted(tmp_path: Path) -> None:
    import subprocess

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    assert results.commit(tmp_path) == "uncommitted"
    git("init")
    assert results.commit(tmp_path) == "uncommitted"
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    clean = results.commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "result.json").write_text("untracked files do not count: the result itself is one")
    assert results.commit(tmp_path) == clean
    (tmp_path / "a").write_text("2")
    assert results.commit(tmp_path) == clean + "+changes"


# --- a card that is lost ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_file_that_lost_its_card_still_says_what_it_is_and_how_it_is_fed(kind, torch_toy, tmp_path, capsys) -> None:
    path = tmp_path / f"toy.{kind}"
    if kind == "onnx":
        write_onnx(path)
    else:
        path.write_bytes(torch_toy[1].read_bytes())
        write_card(path, FACTS)
    card = read_card(path)
    image = np.random.default_rng(0).random((SIZE, SIZE, 3), np.float32)
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[2:9, 3:8] = 1
    expected = Artifact(path, threads=1).run(image, mask)
    embedded.write(path, embedded.essentials(card))
    write_card(path, FACTS)
    assert np.array_equal(Artifact(path, threads=1).run(image, mask), expected), "what it computes has changed"
    embedded.write(path, embedded.essentials(card))  # again: in the place of what it had
    card_path(path).unlink()
    own = read_card(path)
    assert all(own[name] == card[name] for name in ("precision", "resolution", "edges", "warp", "inputs", "outputs"))
    assert own["sha256"] == sha256_of(path) and own["parity"] == {"n": 0, "passed": None}
    assert any("lost" in note for note in own["notes"])
    assert np.array_equal(Artifact(path, threads=1).run(image, mask), expected)
    assert cli.main(["inspect", str(path)]) == 0 and "lost" in capsys.readouterr().out


def test_what_a_file_says_of_itself_is_not_believed_when_it_is_damaged(tmp_path) -> None:
    path = write_onnx(tmp_path / "toy.onnx")
    embedded.write(path, embedded.essentials(read_card(path)))
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {embedded.NAME: '{"precision": "fp32", '})
    onnx.save(model, str(path))
    card_path(path).unlink()
    with pytest.raises(ValueError, match="the card inside it"):
        read_card(path)

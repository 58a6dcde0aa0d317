"""What a phone's GPU takes: files through TensorFlow 2.15.1's check and LiteRT's GPU delegate, and files they refuse."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import script
from torch import nn

from faceeraser.artifacts import contents, edges
from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.card import write_card
from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.artifacts.runtimes import ports_of
from faceeraser.conversion import gpu_delegate
from faceeraser.conversion.tflite import TFLite
from faceeraser.measurement import runner
from faceeraser.model.config import Config
from faceeraser.model.networks import FaceEraser
from faceeraser.system.legacy import find_python

SIZE = 64


def missing(what: str) -> None:
    """A visible skip, or a failure under FACEERASER_NO_SKIP=1."""
    (pytest.fail if os.environ.get("FACEERASER_NO_SKIP") == "1" else pytest.skip)(what)


@pytest.fixture(scope="module")
def legacy() -> Path:
    python = find_python()
    if python is None:
        missing("TensorFlow 2.15.1, whose analyzer checks, is not here; run: make legacy")
    assert python is not None
    return python


@pytest.fixture(scope="module")
def pipeline() -> FaceEraser:
    """Every kind of operator there is in the network that ships, few of each; a flow of a dozen pixels."""
    torch.manual_seed(0)
    network = FaceEraser(Config.of("mobile", resolution=SIZE, blocks={"edge": 0, "clone": 0}), width=4)
    nn.init.normal_(network.clone.head.conv.weight, std=0.02)
    assert network.clone.head.conv.bias is not None
    network.clone.head.conv.bias.data = torch.tensor([-0.45, 0.6])
    nn.init.normal_(network.refine.head.conv.weight, std=0.005)
    return network.eval()


@pytest.fixture(scope="module")
def files(pipeline, tmp_path_factory, short_canny) -> dict[str, Path]:
    """By flavour: the network with Canny inside; and with edges as an input and float16 weights."""
    folder = tmp_path_factory.mktemp("files")
    for flavour, precision, given in (("gpu", "fp32", False), ("gpu-resampler", "fp16", True)):
        path = folder / f"{flavour}.tflite"
        format = TFLite(precision, edges_input=given, flavour=flavour)
        format.write(pipeline, path)
        checked = format.check(path, pipeline)
        fields = {
            "precision": precision,
            "resolution": SIZE,
            "edges": "input" if given else "inside",
            "warp": flavour,
            "checked": checked,
            "parity": {"n": 0, "passed": None},
            "notes": [],
            "history": [],
        }
        write_card(path, fields)
    return {flavour: folder / f"{flavour}.tflite" for flavour in ("gpu", "gpu-resampler")}


def test_both_forms_are_taken_whole_and_compute_what_the_cpu_does(files, legacy, run_script, capsys) -> None:
    """Node for node by TensorFlow 2.15.1, as a whole by LiteRT's GPU delegate, pixel for pixel against the CPU."""
    assert run_script("export/check_gpu.py", *files.values()) == 0
    out = capsys.readouterr().out.splitlines()
    for row, path in zip(json.loads(out[-1])["files"], files.values(), strict=True):
        assert row["file"].endswith(path.name) and row["refused"] == [] and row["delegated_share"] == 1.0
        assert row["control_refused"] is True
        assert row["nodes"] == len(Graph(path).graph.operators) == sum(row["accepted_operators"].values()) > 100
        if "skipped" in row["litert"]:
            missing(row["litert"]["skipped"])
        assert row["litert"]["accelerated"] is True and row["litert"]["max_abs"] < 1e-4
        assert row["litert"]["control_refused"] is True


def test_a_refused_operator_is_named_with_its_reason(files, legacy, run_script, tmp_path, capsys) -> None:
    path = tmp_path / "doctored.tflite"
    graph = Graph(files["gpu"])
    first, second = graph.ops("GATHER")[:2]
    graph.make(first, "EMBEDDING_LOOKUP", first.inputs[::-1])
    graph.make(second, "EMBEDDING_LOOKUP", second.inputs[::-1])
    graph.write(path)
    assert run_script("export/check_gpu.py", path) == 1
    said = capsys.readouterr()
    lines = [line for line in said.out.splitlines() if ": node " in line]
    assert len(lines) == 2 and all("EMBEDDING_LOOKUP: Not supported op EMBEDDING_LOOKUP" in line for line in lines)
    row = json.loads(said.out.splitlines()[-1])["files"][0]
    assert row["refused_operators"] == {"EMBEDDING_LOOKUP": 2}
    assert row["delegated_share"] == pytest.approx(1 - 2 / row["nodes"]) and row["control_refused"] is True
    assert "gate failed" in said.err and "doctored.tflite" in said.err


def test_a_check_that_sees_nothing_is_no_check(files, legacy, run_script, monkeypatch, capsys) -> None:
    """The negative control: where even what no GPU takes passes, every verdict is void."""
    module = script("export/check_gpu.py")
    asked = module.delegated
    monkeypatch.setattr(module, "delegated", lambda *_: {"skipped": "not asked"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CONTROL", "GATHER")
        assert run_script("export/check_gpu.py", files["gpu"]) == 1
        assert "cannot be trusted" in capsys.readouterr().err
    monkeypatch.setattr(module, "delegated", asked)
    monkeypatch.setattr(module, "CONTROL_LITERT", "LOGISTIC")
    if gpu_delegate.swiftshader() is None:
        missing("no Vulkan driver for LiteRT's GPU delegate here; install chromium")
    assert run_script("export/check_gpu.py", files["gpu"]) == 1
    assert "cannot be trusted" in capsys.readouterr().err


def test_an_analyzer_that_breaks_off_is_not_believed() -> None:
    read = script("export/check_gpu.py").read
    whole = "  Op#0 ADD(T#0) -> [T#1]\n  Op#1 CAST(T#1) -> [T#2]\nYour model looks compatible with GPU delegate on TFLite"
    assert read(whole)["delegated_share"] == 1.0
    with pytest.raises(ValueError, match="no verdict"):
        read(whole[:-60])
    with pytest.raises(ValueError, match="gave reasons for"):
        read("  Op#0 ADD(T#0) -> [T#1]\nGPU COMPATIBILITY WARNING: Subgraph#0 has compatibility issues at nodes 0 on")


def test_without_the_second_environment_it_says_what_to_run(files, run_script, monkeypatch, capsys) -> None:
    monkeypatch.setattr(script("export/check_gpu.py").legacy, "find_python", lambda given: None)
    assert run_script("export/check_gpu.py", files["gpu"]) == 2
    said = capsys.readouterr()
    assert "make legacy" in said.err and len(said.err.strip().splitlines()) == 1 and said.out == ""


@pytest.mark.parametrize("word", ["missing.tflite", __file__])
def test_what_is_no_tflite_file_is_one_line(word: str, run_script, capsys) -> None:
    assert run_script("export/check_gpu.py", word) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_litert_s_delegate_refuses_what_it_does_not_take(files, tmp_path) -> None:
    """And then computes nothing: a file that is taken in part would otherwise seem to have run on the GPU."""
    graph = Graph(files["gpu"])
    op = graph.ops("RELU")[0]
    graph.make(op, "RELU_0_TO_1", op.inputs)
    graph.write(tmp_path / "doctored.tflite")
    try:
        ran = gpu_delegate.run(tmp_path / "doctored.tflite", [runner.sample_inputs(files["gpu"])])
    except RuntimeError as error:
        missing(str(error))
    assert ran.outputs == [] and ran.refused == ["RELU_0_TO_1: Not supported op RELU_0_TO_1"]


def test_without_a_driver_the_delegate_s_own_words_are_passed_on(files, monkeypatch) -> None:
    monkeypatch.setenv("VK_ICD_FILENAMES", "missing.json")
    with pytest.raises(RuntimeError, match=r"did not run .*VK_ICD_FILENAMES"):
        gpu_delegate.run(files["gpu"], [])


# --- the plugin, as a user meets it ---------------------------------------------------------------------------------


def test_with_the_plugin_a_cpu_erases_as_the_network_does(files, pipeline, resampler) -> None:
    random = np.random.default_rng(0)
    image, mask = random.random((SIZE, SIZE, 3), np.float32), np.zeros((SIZE, SIZE), np.float32)
    mask[20:44, 12:50] = 1
    edge = edges.canny(image @ np.float32([0.299, 0.587, 0.114]), mask)
    with torch.no_grad():
        given = torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(mask)[None, None]
        outputs = pipeline(*given, torch.from_numpy(edge)[None, None])
    expected = outputs["erased"][0].permute(1, 2, 0).numpy()
    assert outputs["flow"].abs().amax() > 8
    for runtime in ("ai_edge_litert", "tensorflow"):
        erased = Artifact(files["gpu-resampler"], runtime=runtime, delegate=resampler).run(image, mask)
        # On noise, a flow that is off by a hundredth of a pixel (the weights are float16) shows as a hundredth.
        assert np.abs(erased - expected).max() < 1e-2
        assert np.array_equal(erased[mask == 0], image[mask == 0])


def test_without_the_plugin_one_line_says_how_to_make_it(files, tmp_path, capsys) -> None:
    from PIL import Image

    from faceeraser import cli

    Image.fromarray(np.zeros((SIZE, SIZE, 3), np.uint8)).save(tmp_path / "photo.png")
    arguments = ["erase", str(tmp_path / "photo.png"), "--model", str(files["gpu-resampler"])]
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "Resampler" in said[0] and "export/build_resampler.sh" in said[0] and "--delegate" in said[0]
    for plugin in (tmp_path / "missing.so", files["gpu"]):
        assert cli.main([*arguments, "--delegate", str(plugin)]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and str(plugin) in said[0] and "export/build_resampler.sh" in said[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png"]


def test_what_a_file_needs_no_plugin_for(files, capsys) -> None:
    """Its card, its operators, its counts."""
    from faceeraser import cli

    assert cli.main(["inspect", str(files["gpu-resampler"])]) == 0
    assert {row["type"]: row["n"] for row in contents.operators(files["gpu-resampler"])}["Resampler"] == 1
    assert [p["name"] for p in ports_of(files["gpu-resampler"])["inputs"]] == ["image", "mask", "edges"]


def test_the_build_script_says_what_is_missing(tmp_path) -> None:
    build = Path(__file__).resolve().parents[1] / "export" / "build_resampler.sh"

    def run(*arguments: str, **environment: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", str(build), *arguments], env=os.environ | environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stderr

    assert run()[0] == 2
    code, said = run(str(tmp_path / "a.so"), CXX="no-such-compiler")
    assert code == 2 and "no no-such-compiler" in said and "CXX" in said
    assert run(str(tmp_path / "no" / "a.so"))[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_constants_behind_the_flatbuffer_are_kept(files, tmp_path) -> None:
    """ai-edge-quantizer writes those of a large file there: rewritten without them, the file would load no more."""
    graph = Graph(files["gpu"])
    buffer = max(graph.model.buffers, key=lambda b: 0 if b.data is None else len(b.data))
    data = buffer.data.tobytes()
    buffer.data, buffer.offset, buffer.size = None, 1, len(data)
    outside, again = tmp_path / "outside.tflite", tmp_path / "again.tflite"
    graph.write(outside)
    buffer.offset = outside.stat().st_size
    graph.write(outside)
    assert buffer.offset == outside.stat().st_size
    outside.write_bytes(outside.read_bytes() + data)
    Graph(outside).write(again)
    given = runner.sample_inputs(files["gpu"])
    for path in (outside, again):
        assert runner.compare(runner.reference(path, given), runner.reference(files["gpu"], given))["bit_exact"], path.name

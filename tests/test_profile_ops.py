"""benchmarks/profile_ops.py: that times are of the nodes they are said to be of, and that the figures add up."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_benchmarks import call, last_line, script, tflite

from faceeraser.artifacts.flatbuffer import Graph

__all__ = ["tflite"]  # a fixture
profile_ops = script("profile_ops")
SIZE = 64


@pytest.fixture(scope="module")
def divided(tmp_path_factory) -> Path:
    """A file of which XNNPACK takes two parts, around a GATHER; the second begins with two branches out of order."""
    import tensorflow as tf

    kernel = np.random.default_rng(0).normal(size=(7, 7, 3, 8)).astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec([1, SIZE, SIZE, 3]), tf.TensorSpec([1, SIZE, SIZE, 1])])
    def eraser(image, mask):
        lit = image * 0.5
        at = tf.cast(tf.reshape(lit[..., :1], [-1]) * 100.0, tf.int32)
        copied = tf.reshape(tf.gather(tf.reshape(lit, [-1, 3]), at), [1, SIZE, SIZE, 3])
        sharp = tf.nn.relu(tf.nn.conv2d(copied, kernel, 1, "SAME"))
        return {"erased": tf.concat([sharp, tf.sqrt(mask + lit[..., :1])], 3)}

    path = tmp_path_factory.mktemp("divided") / "divided.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([eraser.get_concrete_function()]).convert())
    return path


def test_every_node_is_told_with_its_own_time_and_shapes(divided, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(profile_ops, f"it={divided} --runs 20 --json p.json") == 0
    row = json.loads(Path("p.json").read_text())["rows"][0]
    graph = Graph(divided)
    nodes = {node["node"]: node for node in row["nodes"] if node["node"] is not None}
    for k, node in nodes.items():
        assert node["type"] == graph.name(graph.graph.operators[k])
        assert node["shapes"][-1] == list(graph.shape(int(graph.graph.operators[k].outputs[0])))
    # What XNNPACK has no kernel for is a reshape, or fused into another.
    missing = {graph.name(op) for k, op in enumerate(graph.graph.operators) if k not in nodes}
    assert missing <= {"RESHAPE", "RELU"}
    (gather,) = (n for n in row["nodes"] if n["type"] == "GATHER")
    (convolution,) = (n for n in row["nodes"] if n["type"] == "CONV_2D")
    assert not gather["delegated"] and convolution["delegated"] and "IGEMM" in convolution["kernel"]
    # 38 M multiply-accumulates against 4,096 roots: whose time is whose cannot be mistaken.
    (root,) = (n for n in row["nodes"] if n["type"] == "SQRT")
    assert row["nodes"][0] == convolution and convolution["ms"] > 5 * root["ms"]
    assert row["parts"] == 2 and row["histogram"]["CONV_2D"] == 1
    out = capsys.readouterr().out
    assert "1x64x64x3 8x7x7x3 8 -> 1x64x64x8 float32" in out and "2 parts in a delegate" in out


def test_operators_and_what_is_between_them_make_the_whole(divided, capsys) -> None:
    assert call(profile_ops, f"{divided} --runs 12 --largest 2") == 0
    row = last_line(capsys)["rows"][0]
    assert sum(op["share"] for op in row["operators"]) == pytest.approx(1) and row["operators"][-1]["type"] == "(between)"
    assert sum(op["ms"] for op in row["operators"]) == pytest.approx(row["ms"]) and row["ms"] > 0
    assert len(row["nodes"]) == 2 and row["nodes"][0]["ms"] >= row["nodes"][1]["ms"]


def test_kernels_are_laid_beside_nodes_in_their_order() -> None:
    kernels = ["Multiply (ND)", "Clamp (NC)", "Convolution (NHWC, QC8) IGEMM", "Transpose (ND, X8)", "Multiply (ND)"]
    types = ["MUL", "RESHAPE", "CONV_2D", "PAD", "MUL"]
    assert profile_ops.align(kernels, types) == [0, None, 2, None, 4]
    assert profile_ops.align(["Square Root (NC)", "Square (NC)"], ["SQRT", "MUL"]) == [0, 1]  # the longest name counts
    assert profile_ops.align(["Unheard of"], ["ADD"]) == [None] and profile_ops.align([], ["ADD"]) == []


def test_a_graph_is_divided_as_the_interpreter_divides_it(divided) -> None:
    """Against the interpreter's own count, and against what each part may contain: nothing that waits for another."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(divided), num_threads=1)
    interpreter.allocate_tensors()
    ran = interpreter._get_ops_details()
    graph = Graph(divided)
    alone = {k for k, op in enumerate(graph.graph.operators) if graph.name(op) in ("GATHER", "CAST")}
    parts = profile_ops.parts(graph, alone)
    assert len(parts) == sum(op["op_name"] == "DELEGATE" for op in ran) == 2
    assert sorted([*alone, *(k for part in parts for k in part)]) == list(range(len(graph.graph.operators)))
    kinds = [{graph.name(graph.graph.operators[k]) for k in part} for part in parts]
    assert "SQRT" in kinds[0] and "CONV_2D" in kinds[1]  # the root waits for no look-up


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("none.tflite", "none.tflite: no such file"),
        ("{folder}/broken.tflite", "LiteRT cannot load it as a .tflite model"),
        ("{folder}/x.onnx", "expected a .tflite file"),
        ("{tiny} --runs 9", "expected at least 10, 1 and 1"),
        ("{tiny} {tiny}", "two files would be called tiny"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tflite, tmp_path, capsys, arguments: str, message: str) -> None:
    (tmp_path / "broken.tflite").write_bytes(b"no model")
    assert call(profile_ops, arguments.format(folder=tmp_path, tiny=tflite)) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]

"""The benchmark of networks that were not made for this project: what it takes, how it times, and when it says no."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import script

from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.model.warp import Sampling


@pytest.fixture(scope="module")
def module():
    return script("benchmarks/any_network.py")


@pytest.fixture(scope="module")
def small(module):
    return module.networks(2)


def test_three_networks_and_their_warps(small) -> None:
    asked = {"motion": 2, "transformer": 1, "pyramid": 1}
    assert small.keys() == asked.keys()
    for name, (whole, alone) in small.items():
        _, found = whole.traced(None)
        assert len(found) == asked[name] and alone.traced(None)[1] == [found[-1]]
        outputs = [whole.outputs(sample)["output"] for sample in whole.samples]
        assert all(np.isfinite(one).all() and one.std() > 1e-3 for one in outputs)
        assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


def test_a_warp_hangs_on_what_leads_to_it(small) -> None:
    """A network that did not use its warp would be no test of one."""
    for name, given in (("motion", "driving"), ("transformer", "image"), ("pyramid", "flow")):
        whole, _ = small[name]
        sample = dict(whole.samples[0])
        moved = sample | {given: sample[given].flip(-1)}
        assert np.abs(whole.outputs(sample)["output"] - whole.outputs(moved)["output"]).max() > 1e-4, name


def test_times_are_medians_and_the_ratio_is_of_one_round(module, monkeypatch) -> None:
    taken = iter([9, 9, 9, 1, 10, 3, 4, 20, 3, 2, 60, 3, 2, 14, 3, 3, 24, 3])  # warming up; ours, stock, onnx
    now = [0]
    monkeypatch.setattr(module, "WARM_UP", 1)
    monkeypatch.setattr(module.time, "process_time_ns", lambda: now[0])

    def run() -> None:
        now[0] += next(taken) * 1_000_000

    found = module.timed({name: run for name in ("ours", "stock", "onnx")}, 5)
    assert found == {"ours_ms": 2.0, "stock_ms": 20.0, "onnx_ms": 3.0, "speedup": 8.0}


def figures(speedup: float, share: float) -> dict[str, object]:
    times = {"ours_ms": 1.0, "stock_ms": speedup, "onnx_ms": 1.0, "speedup": speedup}
    return {**times, "parity_max": 1e-6, "gpu_share": share, "stock_gpu_share": 0.8}


@pytest.mark.parametrize("speedup, share, said", [(6.0, 1.0, None), (4.9, 1.0, "warp 4.9 x"), (6.0, 0.7, "GPU share")])
def test_a_goal_that_is_missed_is_a_failure_and_the_figures_are_kept(
    speedup, share, said, module, run_script, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(module, "measure", lambda *_: figures(speedup, share))
    words = ["--scale", 2, "--networks", "transformer", "--rounds", 5, "--json", tmp_path / "any.json"]
    assert run_script("benchmarks/any_network.py", tmp_path / "files", *words) == (0 if said is None else 1)
    out, err = capsys.readouterr()
    (row,) = json.loads((tmp_path / "any.json").read_text())["rows"]
    assert row == json.loads(out.splitlines()[-1])["rows"][0]
    assert row["name"] == "transformer" and row["warp_speedup"] == speedup and row["gpu_share"] == share
    assert said is None or said in err


def test_files_that_are_timed_again_keep_their_gpu_shares(module, run_script, tmp_path, monkeypatch, capsys) -> None:
    known = []
    monkeypatch.setattr(module, "measure", lambda network, args, before: known.append(before) or figures(6.0, 1.0))
    words = [tmp_path, "--networks", "transformer", "--scale", 2, "--json", tmp_path / "any.json"]
    assert run_script("benchmarks/any_network.py", *words) == run_script("benchmarks/any_network.py", *words, "--again") == 0
    assert known == [{}, {}, *[{"gpu_share": 1.0, "stock_gpu_share": 0.8}] * 2]


@pytest.mark.parametrize("words", [("--rounds", 4), ("--scale", 1)])
def test_too_little_to_measure_is_one_line(words, run_script, tmp_path, capsys) -> None:
    assert run_script("benchmarks/any_network.py", tmp_path / "files", *words) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1 and not (tmp_path / "files").exists()


@pytest.mark.slow
def test_a_warp_is_exported_both_ways_and_measured(module, small, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "shares", lambda *_: {})
    _, alone = small["transformer"]
    torch.set_num_threads(1)
    args = module.build_parser().parse_args([str(tmp_path), "--rounds", "5", "--again"])
    row = module.measure(alone, args, {})
    made = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert module.measure(alone, args, {"gpu_share": 1.0}).keys() == {*row, "gpu_share"}
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == made
    assert max(row["parity_max"], row["stock_parity_max"], row["onnx_parity_max"]) < 1e-5
    ours, stock = (Graph(Path(tmp_path / f"warp-transformer-{kind}.tflite")) for kind in ("gpu", "stock"))
    assert len(stock.ops("GATHER_ND")) == 4 and not ours.ops("GATHER_ND") and len(ours.ops("GATHER")) == 4
    assert alone.traced(None)[1] == [Sampling("bilinear", "zeros", False)] and row["speedup"] > 1.5

"""Each peer through the chain that FaceEraser goes through: trained, pruned, quantized, exported, by the same commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import script

from faceeraser.artifacts.artifact import Artifact
from faceeraser.model import checkpoint, inference, pairs, peers
from faceeraser.model.config import COMPARED, MODELS, Config
from faceeraser.model.networks import cost_of
from faceeraser.model.quant import QuantConv2d, quantized_tensors
from faceeraser.training import channels

PEERS = COMPARED[1:]


@pytest.mark.slow
@pytest.mark.parametrize("model", PEERS)
def test_a_peer_goes_through_the_chain(model, run_script, skin, tmp_path, short_canny):
    run = tmp_path / "run"
    common = ["--model", model, "--width", "16", "--size", "64", "--perceptual", "off", "--adversarial", "0", "--batch", "2"]
    common += [] if model == "hifill" else ["--blocks", "3"]  # of residual blocks HiFill has none
    tuned = ["--data", skin, "--batch", "2"]
    assert run_script("train/train.py", skin, run, *common, "--phase", "all", "--steps", "2") == 0
    arguments = ["--keep", "0.5", "--steps", "1", "--rounds", "1", "--teacher", run]
    assert run_script("compress/prune.py", run, tmp_path / "pruned", *tuned, *arguments) == 0
    assert run_script("compress/quantize.py", tmp_path / "pruned", tmp_path / "int8", *tuned, "--steps", "1") == 0
    arguments = ["--flavour", "web", "--gate", "40", "--reason", "two steps of training"]
    assert run_script("export/to_tflite.py", tmp_path / "int8", tmp_path, *arguments) == 0

    whole, pruned, int8 = (checkpoint.load(tmp_path / name) for name in ("run", "pruned", "int8"))
    assert cost_of(pruned)[1] < 0.6 * cost_of(whole)[1] and type(int8) is type(whole)
    file = tmp_path / "int8-web.tflite"
    card = json.loads(Path(f"{file}.json").read_text())
    assert [entry["stage"] for entry in card["history"]] == ["train-all", "prune", "quantize"]
    convolutions = sum(isinstance(m, QuantConv2d) for m in int8.modules())
    assert card["checked"]["int8_convolutions"] == convolutions > 20
    assert card["checked"]["scales"] == sum(1 for _ in quantized_tensors(int8))
    for pair in pairs.evaluation_pairs(skin, "eval", 64)[:2]:
        shown = np.asarray(Artifact(file).erase(pair.truth, pair.mask), np.float64)
        expected = inference.as_method(int8)(pair.truth, pair.mask)
        assert np.abs(shown - expected).mean() < 0.5 and np.array_equal(shown[pair.mask == 0], pair.truth[pair.mask == 0])


@pytest.mark.parametrize("model", PEERS)
def test_a_pruned_peer_is_smaller_and_runs(model):
    torch.manual_seed(0)
    network = peers.build(Config.of("mobile", model=model, resolution=64), 16).eval()
    before = cost_of(network)
    for _ in channels.prune_steps(network, 0.5):
        pass
    after = cost_of(network)
    assert after[0] < 0.75 * before[0] and after[1] < 0.6 * before[1]  # HiFill's first layers have 8 channels, the least
    with torch.no_grad():
        out = network(torch.rand(1, 3, 64, 64), torch.nn.functional.pad(torch.ones(1, 1, 20, 20), (22, 22, 22, 22)))
    assert out["erased"].shape == (1, 3, 64, 64)


@pytest.mark.parametrize("model", ["edgeconnect", "structureflow"])
def test_blocks_are_dropped_from_a_peer_s_networks_too(model):
    torch.manual_seed(0)
    network = peers.build(Config.of("mobile", model=model, resolution=64), 8).eval()
    truth, mask = torch.rand(1, 3, 64, 64), torch.nn.functional.pad(torch.ones(1, 1, 20, 20), (22, 22, 22, 22))
    for name in MODELS[model]:
        rows = channels.drop_blocks(network, name, 2, truth, mask)
        assert len(rows) == 2 and len(network.get_submodule(name).blocks) == network.config.blocks[name] == 6


def test_a_teacher_of_another_model_is_refused(run_script, skin, tmp_path, capsys):
    common = ["--width", "4", "--size", "64", "--perceptual", "off", "--adversarial", "0", "--batch", "1", "--steps", "1"]
    for model in ("edgeconnect", "hifill"):
        assert run_script("train/train.py", skin, tmp_path / model, "--model", model, "--phase", "all", *common) == 0
    arguments = [
        tmp_path / "hifill",
        tmp_path / "out",
        "--data",
        skin,
        "--keep",
        "0.5",
        "--teacher",
        tmp_path / "edgeconnect",
    ]
    assert run_script("compress/prune.py", *arguments) == 2
    assert "edgeconnect, preset mobile, but this network is hifill, preset mobile" in capsys.readouterr().err


def test_every_model_is_given_the_same_steps_and_terms():
    benchmark = script("benchmarks/peers.py")
    plan = benchmark.commands(benchmark.build_parser().parse_args(["data"]))
    assert {model for model, _ in plan} == set(COMPARED) and {seed for _, seed in plan} == {0, 1}
    options = {}
    for (model, seed), commands in plan.items():
        steps = [int(arguments[arguments.index("--steps") + 1]) for arguments in commands if "--steps" in arguments]
        texture = next(arguments for arguments in commands if "--texture" in arguments)
        options[model, seed] = sum(steps), texture[texture.index("--init") + 2 :]
    assert len({steps for steps, _ in options.values()}) == 1
    assert len({tuple(arguments) for _, arguments in options.values()}) == 1

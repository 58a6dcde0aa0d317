"""Networks that were not made for this project, pruned and quantized by their own loss: docs/motion.py is one."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from faceeraser.model import any_quantization, any_task, quant
from faceeraser.model.any_network import AnyNetwork, built
from faceeraser.training import any_compressing
from faceeraser.training.any_compressing import AnyPruning, AnyQuantizing

MOTION = Path(__file__).resolve().parents[1] / "docs" / "motion.py"


@pytest.fixture(scope="module")
def pruned(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("motion") / "pruned"
    return folder, any_compressing.prune(MOTION, folder, AnyPruning(target_gmacs=0.009, steps=20, rounds=2))


@pytest.fixture(scope="module")
def network() -> AnyNetwork:
    return built(f"{MOTION}:build")


def test_the_example_is_as_short_as_the_page_says() -> None:
    assert sum(bool(line.strip()) for line in MOTION.read_text().splitlines()) <= 40


def test_channels_go_within_the_budget_and_what_says_where_or_what_comes_out_keeps_its_own(pruned, network) -> None:
    folder, outcome = pruned
    before, after = outcome["before"], outcome["after"]
    assert after["gmacs"] <= 0.009 < before["gmacs"] and after["params"] < before["params"]
    assert {row["layer"] for row in outcome["layers"]} >= {"encode.0", "features.0"}
    assert all(row["damage"] > 0 for row in outcome["layers"])
    module = any_task.opened(str(folder)).module
    assert module.flow.out_channels == 2 and module.decode[2].out_channels == 3
    widths = [m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert widths != [m.out_channels for m in network.module.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 8 == 0 for width in widths if width not in (2, 3))


def test_fine_tuning_mends_what_pruning_broke(pruned) -> None:
    _, outcome = pruned
    assert outcome["before"]["apart"] == 0 < outcome["after"]["apart"] < outcome["unrepaired"]["apart"]


def test_a_folder_is_loaded_again_to_the_bit(pruned, network) -> None:
    folder, _ = pruned
    first, second = (any_task.opened(str(folder)) for _ in range(2))
    sample = network.samples[0]
    assert first.name == "pruned"
    assert all((a == b).all() for a, b in zip(first.outputs(sample).values(), second.outputs(sample).values(), strict=True))


def test_what_leads_to_coordinates_is_never_quantized(network) -> None:
    module = any_quantization.quantized(network)
    names = {name for name, part in module.named_modules() if isinstance(part, quant.QuantConv2d)}
    assert names == {"int8_encode_0", "int8_encode_3", "int8_features_0", "int8_decode_0", "int8_decode_2"}
    any_quantization.calibrate(module, network)
    seen: list[torch.Tensor] = []
    grids = [node.args[1] for node in module.graph.nodes if "grid_sampler" in str(node.target)]
    assert len(grids) == 1 and "int8" not in str(grids[0])
    # Coordinates on an int8 grid would be so many different numbers at most.
    interpreter = torch.fx.Interpreter(module)
    keep = interpreter.run_node

    def run(node):
        value = keep(node)
        if node is grids[0]:
            seen.append(value)
        return value

    interpreter.run_node = run  # type: ignore[method-assign]
    with torch.no_grad():
        interpreter.run(*network.samples[0].values())
    assert len(seen[0][..., 0].unique()) > 256


def test_batch_norms_are_folded_and_bypassed_int8_is_the_float_network(network) -> None:
    module = any_quantization.quantized(network)
    assert "batch_norm" not in str(module.graph)
    any_quantization.calibrate(module, network)
    quant.set_bypassed(module, True)
    sample = network.samples[0]
    with torch.no_grad():
        plain = module(**sample)
        quant.set_bypassed(module, False)
        rounded = module(**sample)
    expected = torch.from_numpy(network.outputs(sample)["output"])
    assert (plain - expected).abs().max() < 1e-5 < (rounded - expected).abs().max() < 0.1


def test_a_quantized_folder_is_loaded_again_and_says_what_harms(pruned, tmp_path, network) -> None:
    outcome = any_compressing.quantize(pruned[0], tmp_path / "int8", AnyQuantizing(steps=4))
    assert outcome["harm"][0]["harm"] >= outcome["harm"][-1]["harm"] >= 0 and outcome["apart"] < 0.2
    task = any_task.opened(str(tmp_path / "int8"))
    assert quant.is_quantized(task.module)
    history = json.loads((tmp_path / "int8" / "network.json").read_text())["history"]
    assert [entry["stage"] for entry in history] == ["prune", "quantize"]
    before = any_task.opened(str(pruned[0]))
    assert any_compressing.apart(task, before) == pytest.approx(outcome["apart"], rel=1e-4)
    with pytest.raises(ValueError, match="quantized already"):
        any_compressing.quantize(tmp_path / "int8", tmp_path / "again", AnyQuantizing())


class Used(nn.Module):
    """A layer that is used twice, and one without a norm or an activation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.twice, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.first = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.twice(F.relu(self.twice(self.first(image))))
        return self.last(x)


def test_what_is_joined_has_one_scale_wherever_it_is_read(network) -> None:
    """A .tflite file's join has one, and its parts' other readers get it too; two would be 30 dB from the module."""
    module = any_quantization.quantized(network)
    read = {}
    for node in module.graph.nodes:
        if node.op == "call_module" and isinstance(module.get_submodule(node.target), quant.QuantConv2d):
            read[node.target] = node.args[0].target
    assert read["int8_encode_0"] == read["int8_features_0"] != read["int8_decode_0"]
    assert module.get_submodule(read["int8_encode_0"]).kind == "image"  # both parts are pictures in [0, 1]


def test_training_a_quantized_network_leaves_the_float_one_alone(network) -> None:
    module = any_quantization.quantized(network)
    own = {value.data_ptr() for value in module.state_dict().values()}
    assert not own & {value.data_ptr() for value in network.module.state_dict().values()}


def test_a_layer_that_is_used_twice_is_quantized_in_both_places() -> None:
    network = AnyNetwork.of(Used(), {"image": torch.rand(1, 3, 8, 8)})
    module = any_quantization.quantized(network, ["last"])
    assert sorted(name for name, part in module.named_modules() if isinstance(part, quant.QuantConv2d)) == [
        "int8_first",
        "int8_twice",
        "int8_twice_2",
    ]


BROKEN = [
    ("def loss", "def lost", "has no function 'loss'"),
    (".mean()", "", "expected one finite number"),
    ("return (pairs(8, k) for k in range(50))", "return 3", "gives no batches"),
]


@pytest.mark.parametrize("before, after, said", BROKEN)
def test_a_protocol_that_is_not_kept_is_one_line(before, after, said, run_script, tmp_path, capsys) -> None:
    file = tmp_path / "motion.py"
    file.write_text(MOTION.read_text()[::-1].replace(before[::-1], after[::-1], 1)[::-1])
    arguments = ["compress/prune.py", "--module", file, tmp_path / "pruned", "--target-gmacs", 0.009, "--steps", 2]
    assert run_script(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1] and not (tmp_path / "pruned").exists()


@pytest.mark.parametrize("gmacs, said", [(9.0, "nothing to prune"), (1e-6, "cannot be reached")])
def test_a_budget_that_cannot_be_met_is_one_line(gmacs, said, run_script, tmp_path, capsys) -> None:
    assert run_script("compress/prune.py", "--module", MOTION, tmp_path / "pruned", "--target-gmacs", gmacs) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_without_a_module_data_is_asked_for(run_script, tmp_path, capsys) -> None:
    for name in ("prune", "quantize"):
        own = ["--keep", 0.5] if name == "prune" else []
        assert run_script(f"compress/{name}.py", tmp_path, tmp_path / "target", *own) == 2
        assert "--data is missing" in capsys.readouterr().err

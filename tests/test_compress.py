"""The compression chain at 64 px on generated skin, through the scripts as a user runs them, and its functions alone."""

import argparse
import copy
import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, script
from test_networks import lively

from faceeraser.model import checkpoint, inference, losses, pairs, quant
from faceeraser.model.config import Config
from faceeraser.model.networks import FaceEraser, cost_of, norm_scales
from faceeraser.system import writing
from faceeraser.system.history import read_history
from faceeraser.training import channels, finetuning, fit, quantizing

pytestmark = pytest.mark.usefixtures("short_canny")

WEIGHTS = ROOT / "faceeraser" / "weights"
TRAINED = {"config.json", "generators.safetensors", "history.json", "samples.png", "state.pt", "tensorboard"}
COMPRESSED = TRAINED - {"state.pt"}


@pytest.fixture(scope="module")
def skin(tmp_path_factory):
    """A third of the usual pictures: every stage measures its network on all of them, before, after and in between."""
    folder = tmp_path_factory.mktemp("prepared") / "skin"
    arguments = [str(folder), "--source", "synthetic", "--size", "64", "--limit", "12", "--workers", "1"]
    assert script("train/prepare.py").main(arguments) == 0
    return folder


@pytest.fixture(scope="module")
def runs(run_script, skin, tmp_path_factory, short_canny):
    """runs/edge -> fp32 -> pruned -> slim -> int8, a few steps each."""
    folder = tmp_path_factory.mktemp("runs")
    # Seen at half of 64 pixels, the deepest level would be one pixel, whose mean no file stores.
    plain = ["--perceptual", "off", "--size", "64", "--shrink", "1", "--width", "16", "--blocks", "1", "--batch", "4"]
    tune = ["--data", skin, "--batch", "4"]
    fp32 = folder / "fp32"
    assert (
        run_script("train/train.py", skin, folder / "edge", "--phase", "edge", *plain, "--steps", 6, "--critic-width", 8)
        == 0
    )
    edge = ["--phase", "inpaint", "--edge", folder / "edge", "--adversarial", 0]
    assert run_script("train/train.py", skin, fp32, *plain, *edge, "--steps", 30) == 0
    assert (
        run_script("compress/prune.py", fp32, folder / "pruned", *tune, "--keep", 0.5, "--steps", 12, "--teacher", fp32) == 0
    )
    slim = ["--steps", 30, "--share", 0.2, "--teacher", fp32]
    assert run_script("compress/slim.py", folder / "pruned", folder / "slim", *tune, *slim) == 0
    assert run_script("compress/quantize.py", folder / "slim", folder / "int8", *tune, "--steps", 8, "--teacher", fp32) == 0
    return folder


def names(folder):
    return {p.name for p in folder.iterdir()}


def entry(folder):
    return read_history(folder)[-1]


@pytest.mark.parametrize(
    ("stage_name", "files"),
    [
        ("edge", TRAINED | {"discriminators.safetensors"}),
        ("fp32", TRAINED),
        ("pruned", COMPRESSED),
        ("slim", COMPRESSED),
        ("int8", COMPRESSED | {"quantization.json"}),
    ],
)
def test_the_exact_files_of_each_stage(runs, stage_name, files):
    assert names(runs / stage_name) == files
    assert not list(runs.glob("*.partial"))


def test_each_stage_records_the_ones_before_it(runs):
    assert [e["stage"] for e in read_history(runs / "int8")] == ["train-edge", "train-inpaint", "prune", "slim", "quantize"]
    assert all(e["versions"]["torch"] and e["data"]["source"] == "synthetic" for e in read_history(runs / "int8"))


def test_each_stage_reports_cost_and_the_three_figures_before_and_after(runs):
    for name in ("pruned", "slim", "int8"):
        for when in ("before", "after"):
            figures = entry(runs / name)["metrics"][when]
            assert {"gmacs", "params", "psnr_hole_mirrored", "psnr_hole_smooth", "texture_energy", "n"} <= set(figures)


def test_pruning_halves_the_channels_in_multiples_of_eight(runs):
    before, after = (checkpoint.load(runs / n) for n in ("fp32", "pruned"))
    wide, narrow = channels.widths(before), channels.widths(after)
    heads = {"edge.head.conv", "clone.head.conv", "refine.head.conv"}
    for name, number in narrow.items():
        if name in heads:
            assert number == wide[name]
        elif wide[name] >= 16:
            assert number == wide[name] // 2 and number % 8 == 0, name
    assert cost_of(after)[0] < 0.4 * cost_of(before)[0]


@pytest.mark.parametrize("name", ["pruned", "slim", "int8"])
def test_a_compressed_network_reloads_strictly_with_the_same_output(runs, name, skin):
    look = pairs.evaluation_pairs(skin, "eval", 64)[:2]
    pipeline = checkpoint.load(runs / name)
    state = {k: v for k, v in pipeline.state_dict().items() if "scale" not in k}
    scales = json.loads((runs / name / "quantization.json").read_text()) if name == "int8" else None
    again = checkpoint.build(pipeline.config, state, scales)
    a, b = inference.run(pipeline, look), inference.run(again, look)
    assert all(float((a[k] - b[k]).abs().max()) <= 1e-5 for k in a)


def test_slimming_shrinks_the_scales_and_cuts_the_smallest(runs):
    scales = entry(runs / "slim")["scales"]
    assert scales["mean_after"] < 0.99 * scales["mean_before"]
    assert sum(scales["before"]) == sum(scales["after"]) > 0
    wide, narrow = (channels.widths(checkpoint.load(runs / n)) for n in ("pruned", "slim"))
    assert sum(narrow.values()) < sum(wide.values())


def test_slimming_keeps_the_channels_with_the_large_scales():
    pipeline = lively("mobile", width=16)
    norm = pipeline.refine.down[3].conv1.norm
    with torch.no_grad():
        norm.weight.fill_(1.0)
        norm.weight[::2] = 1e-4  # 64 of the 128 hardly matter
    kept = norm.weight[1::2].clone()
    channels.slim(pipeline, 0.1)
    left = pipeline.refine.down[3].conv1.norm.weight
    assert len(left) < 128 and (left == 1.0).sum() == len(kept), "every channel with a large scale stays"


def test_slimming_refuses_a_network_without_scales(run_script, skin, tmp_path, capsys):
    with writing.whole_folder(tmp_path / "paper") as partial:
        checkpoint.save(partial, FaceEraser(Config.of("paper", resolution=64), 8), stage="test", options={}, metrics={})
    assert run_script("compress/slim.py", tmp_path / "paper", tmp_path / "slim", "--data", skin) == 2
    assert "instance norm without scales" in capsys.readouterr().err
    assert run_script("compress/quantize.py", tmp_path / "paper", tmp_path / "int8", "--data", skin) == 2
    assert "paper preset" in capsys.readouterr().err
    assert names(tmp_path) == {"paper"}


def test_the_target_of_gmacs_is_met_and_not_overdone():
    pipeline = lively("mobile", width=32)
    goal = 0.5 * cost_of(pipeline)[0]
    keep = channels.keep_for_gmacs(pipeline, goal)
    for _ in channels.prune_steps(pipeline, keep):
        pass
    assert 0.7 * goal < cost_of(pipeline)[0] <= goal


@pytest.mark.parametrize(("goal", "message"), [(1000.0, "nothing to prune"), (0.001, "cannot be reached")])
def test_a_target_that_cannot_be_met_says_so(goal, message):
    with pytest.raises(ValueError, match=message):
        channels.keep_for_gmacs(lively("mobile", width=16), goal)


def test_taylor_keeps_what_the_loss_feels():
    pipeline = lively("mobile", width=16)
    dead = pipeline.refine.down[0].conv1
    with torch.no_grad():  # sixteen channels whose output is thrown away, with the largest weights of the layer
        dead.conv.weight[:16] *= 10
        pipeline.refine.down[0].conv2.conv.weight[:, :16] = 0
    batch = (torch.rand(2, 3, 64, 64), torch.nn.functional.pad(torch.ones(2, 1, 32, 32), [16] * 4))
    for _ in channels.prune_steps(pipeline, 0.5, importance="taylor", batch=batch):
        pass
    left = pipeline.refine.down[0].conv1.conv.weight.detach().abs().mean((1, 2, 3))
    assert len(left) == 16 and (left > 5 * left.median()).sum() <= 2, "magnitude would have kept all sixteen"


def test_folding_the_norms_changes_nothing():
    pipeline = lively("mobile")
    folded = copy.deepcopy(pipeline)
    quant.fuse(folded)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    image, mask = torch.rand(1, 3, 64, 64), torch.nn.functional.pad(torch.ones(1, 1, 32, 32), [16] * 4)
    with torch.no_grad():
        assert torch.allclose(pipeline(image, mask)["refined"], folded(image, mask)["refined"], atol=1e-4)


def test_a_quantized_tensor_takes_at_most_256_values():
    for kind, zero in (("relu", -128), ("signed", 0)):
        tap = quant.FakeQuant(kind)
        tap.scale.data = torch.tensor(0.02)
        y = tap(torch.linspace(-4, 6, 5000))
        levels = (y / 0.02).round().unique()
        assert len(levels) <= 256 and tap.zero_point == zero
        assert levels.min() >= -128 - zero and levels.max() <= 127 - zero
        assert torch.allclose(y / 0.02, (y / 0.02).round(), atol=1e-4)


def test_the_gradient_of_a_scale_points_where_the_error_falls():
    x = torch.randn(1, 8, 32, 32)
    for start in (0.2, 0.001):  # far too coarse, far too tight
        tap = quant.FakeQuant("signed")
        tap.scale.data = torch.tensor(start)
        error = (tap(x) - x).square().mean()
        error.backward()
        with torch.no_grad():
            tap.scale -= 0.02 * start * tap.scale.grad.sign()
        assert (tap(x) - x).square().mean() < error


def test_calibration_finds_a_scale_close_to_the_best_one():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 64, 64)
    tap = quant.FakeQuant("signed")
    tap.calibrating = True
    tap(x)
    tap.calibrating = False
    tap.settle()

    def error(scale: float) -> float:
        return float(((x / scale).round().clamp(-128, 127) * scale - x).square().mean())

    best = min(error(s) for s in np.linspace(0.005, 0.06, 200))
    assert error(tap.scale.item()) < 1.15 * best


def test_quantizing_twice_and_pruning_an_int8_network_are_refused(runs, run_script, skin, tmp_path, capsys):
    assert run_script("compress/quantize.py", runs / "int8", tmp_path / "again", "--data", skin) == 2
    assert run_script("compress/prune.py", runs / "int8", tmp_path / "again", "--data", skin, "--keep", 0.5) == 2
    assert capsys.readouterr().err.count("quantized already") == 2


def test_a_gate_that_is_not_met_is_exit_code_1(runs, run_script, skin, tmp_path, capsys):
    arguments = ["--data", skin, "--steps", 0, "--batch", 4, "--max-drop", -50]
    assert run_script("compress/quantize.py", runs / "slim", tmp_path / "int8", *arguments) == 1
    assert "gate failed: psnr_hole_mirrored fell by" in capsys.readouterr().err


@pytest.mark.parametrize("keep", [0, 1, 1.5, -1])
def test_a_share_outside_zero_to_one_is_refused(runs, run_script, skin, tmp_path, keep):
    assert run_script("compress/prune.py", runs / "fp32", tmp_path / "p", "--data", skin, "--keep", keep) == 2
    assert not names(tmp_path) - {"p.partial"}


def test_the_last_line_is_json_for_programs(runs, run_script, skin, tmp_path, capsys):
    assert run_script("compress/quantize.py", runs / "slim", tmp_path / "int8", "--data", skin, "--steps", 0) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert {"target", "before", "after", "drop", "source"} <= set(last)


def test_a_network_of_which_only_the_edges_were_trained_is_not_exported(runs, run_script, tmp_path, capsys):
    assert run_script("export/to_tflite.py", runs / "edge", tmp_path / "exports") == 2
    assert "only its edge network was trained" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.tflite"))


# --- a budget --------------------------------------------------------------------------------------------------------


def a_batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.rand(2, 3, 64, 64), torch.nn.functional.pad(torch.ones(2, 1, 32, 32), [16] * 4)


def test_sensitivity_finds_the_layer_whose_output_is_thrown_away():
    pipeline = lively("mobile", width=16)
    with torch.no_grad():
        pipeline.refine.up[3].conv2.conv.weight.zero_()  # what its conv1 gives reaches nothing
    rows = {row["layer"]: row for row in channels.sensitivity(pipeline, *a_batch())}
    assert rows["refine.up.3.conv1.conv"]["damage"] == 0
    assert rows["refine.stem.conv"]["damage"] > 0
    assert all(row["gmacs"] > 0 and row["params"] > 0 for row in rows.values())


def test_channels_are_taken_where_they_do_least_harm_until_both_budgets_are_met():
    pipeline = lively("mobile", width=16)
    with torch.no_grad():
        pipeline.refine.up[3].conv2.conv.weight.zero_()
    gmacs, params = cost_of(pipeline)
    budget = channels.Budget(0.6 * gmacs, round(0.5 * params))
    ratios = channels.ratios_for(pipeline, budget, channels.sensitivity(pipeline, *a_batch()))
    assert ratios["refine.up.3.conv1.conv"] == 0.75, "all but the eight that have to stay"
    assert ratios["refine.stem.conv"] < 0.75
    for _ in channels.prune_steps(pipeline, 1.0, ratios=ratios):
        pass
    assert budget.holds(cost_of(pipeline)) and cost_of(pipeline)[0] > 0.3 * gmacs
    assert all(width % 8 == 0 for name, width in channels.widths(pipeline).items() if "conv1" in name)


def test_slimming_can_be_told_what_to_reach():
    pipeline = lively("mobile", width=16)
    with torch.no_grad():
        for scale in norm_scales(pipeline):
            scale.uniform_(0.1, 1.0)
    budget = channels.Budget(gmacs=0.8 * cost_of(pipeline)[0])
    channels.slim(pipeline, channels.share_for(pipeline, budget))
    assert budget.holds(cost_of(pipeline))


def test_what_a_network_is_worth_is_measured_after_fine_tuning_and_what_a_layer_is_within_it():
    rows = [
        {"layer": "clone.stem.conv", "damage": 3.0},
        {"layer": "clone.up.0.conv.conv", "damage": 1.0},
        {"layer": "refine.stem.conv", "damage": 0.1},
    ]
    clone, up, refine = (row["damage"] for row in channels.rescaled(rows, {"clone": 0.2, "refine": 1.0}))
    assert clone == pytest.approx(3 * up), "a network's layers keep their order"
    assert refine > 5 * clone, "and the network that fine-tuning does not mend is worth more"


@pytest.mark.parametrize("network", ["edge", "clone"])
def test_the_block_that_does_nothing_goes_first(network):
    pipeline = lively("mobile", width=16)
    body = pipeline.get_submodule(network)
    for layer in (body.blocks[3].conv2.conv.weight, body.blocks[3].conv2.norm.bias, body.blocks[3].conv2.norm.running_mean):
        layer.data.zero_()
    image, mask = a_batch()
    with torch.no_grad():
        before = pipeline(image, mask)["erased"]
    assert [row["block"] for row in channels.drop_blocks(pipeline, network, 1, image, mask)] == [3]
    with torch.no_grad():
        assert torch.allclose(pipeline(image, mask)["erased"], before, atol=1e-6)
    assert channels.drop_blocks(pipeline, network, 2, image, mask)[0]["block"] != 3
    assert pipeline.config.blocks[network] == len(body.blocks) == 5
    state = pipeline.state_dict()
    assert checkpoint.build(pipeline.config, state).config == pipeline.config, "it loads by the same constructor"
    with pytest.raises(ValueError, match="it has 5 residual blocks"):
        channels.drop_blocks(pipeline, network, 6, image, mask)


def test_a_separable_network_is_small_and_can_be_pruned_quantized_and_read_back():
    torch.manual_seed(0)
    plain, config = lively("mobile", width=16), Config.of("mobile", resolution=64, separable=True)
    pipeline = FaceEraser(config, 16).eval()
    assert cost_of(pipeline)[1] < cost_of(plain)[1] / 5 and cost_of(pipeline)[0] < cost_of(plain)[0] / 2
    params = cost_of(pipeline)[1]
    for _ in channels.prune_steps(pipeline, 0.5):
        pass
    assert cost_of(pipeline)[1] < 0.6 * params
    quant.fuse(pipeline)
    quant.prepare(pipeline, config.float_layers)
    quant.set_calibrating(pipeline, True)
    with torch.no_grad():
        pipeline(*a_batch())
    quant.set_calibrating(pipeline, False)
    pipeline.config = dataclasses.replace(config, fused=True, quantized=True)
    scales = {
        name: {"scale": scale.tolist(), "zero_point": zero, "bits": 8}
        for name, scale, zero in quant.quantized_tensors(pipeline)
    }
    assert any(".depthwise" in name for name in scales)
    state = {k: v for k, v in pipeline.state_dict().items() if not k.endswith("scale")}
    again = checkpoint.build(pipeline.config, state, scales)
    with torch.no_grad():
        assert torch.equal(again(*a_batch())["erased"], pipeline(*a_batch())["erased"])


def test_the_layer_that_int8_harms_most_is_found_and_stays_in_float():
    pipeline = lively("mobile", width=16)
    quant.fuse(pipeline)
    quant.prepare(pipeline, ("clone.head",))
    quant.set_calibrating(pipeline, True)
    with torch.no_grad():
        pipeline(*a_batch())
    quant.set_calibrating(pipeline, False)
    pipeline.clone.up[1].conv.out.scale.data *= 40  # what the flow's head reads, in steps as coarse as fists
    rows = quantizing.harm_of_int8(pipeline, *a_batch())
    assert rows[0]["layer"] == "clone.up.1.conv.out" and rows[0]["harm"] > 3 * rows[1]["harm"]
    assert not any(m.bypassed for m in pipeline.modules() if isinstance(m, quant.FakeQuant | quant.QuantConv2d))
    kept = quantizing.kept_in_float(rows, ("clone.head",), FaceEraser.TAILS)
    assert kept[:2] == ("clone.head", "clone.up.1")


def test_only_a_tail_stays_in_float_and_only_where_int8_harms_enough():
    harm = {"clone.up.1.conv.out": 1.0, "clone.up.0.conv.out": 9.0, "refine.head.out": 0.5, "edge.head.out": 89.5}
    rows = [{"layer": layer, "harm": value} for layer, value in harm.items()]
    kept = quantizing.kept_in_float(rows, ("clone.head",), FaceEraser.TAILS)
    assert kept == ("clone.head",), "up.1 is between up.0 and the head"
    rows[0]["harm"], rows[2]["harm"] = 40.0, 40.0
    assert quantizing.kept_in_float(rows, ("clone.head",), FaceEraser.TAILS) == ("clone.head", "clone.up.1", "refine.head")


@pytest.fixture(scope="module")
def fitted(runs, run_script, skin, tmp_path_factory, stages_here):
    """What fit_budget.py leaves, and its limits: two thirds of the MACs. Every budget has room on both sides: what so few
    steps leave of the figures, and which layers stay in float, differs from one CPU to the next.
    """
    folder = tmp_path_factory.mktemp("fitted") / "fit"
    gmacs, _params = cost_of(checkpoint.load(runs / "fp32"))
    arguments = [
        "--data",
        skin,
        "--rounds",
        1,
        "--steps",
        4,
        "--distil-steps",
        2,
        "--qat-steps",
        2,
        "--size",
        64,
        "--trial-steps",
        1,
        "--max-gmacs",
        0.65 * gmacs,
        "--max-mb",
        2.3,
        "--max-texture",
        1000,
    ]
    assert run_script("compress/fit_budget.py", runs / "fp32", folder, *arguments, "--max-drop", 60) == 0
    return folder, arguments, gmacs


def test_a_budget_goes_in_and_a_file_that_fits_comes_out(fitted):
    folder, _words, gmacs = fitted
    folders = {"1-pruned", "slim", "student", "int8"}
    assert folders | {"int8.tflite", "int8.tflite.json", "budget.json", "plan.json"} == names(folder)
    budget = json.loads((folder / "budget.json").read_text())
    assert budget["missed"] == [] and [row["round"] for row in budget["rows"]] == [
        "source",
        "1-pruned",
        "slim",
        "student",
        "int8",
        "int8.tflite",
    ]
    costs = [row["gmacs"] for row in budget["rows"]]
    assert costs == sorted(costs, reverse=True) and costs[-1] <= 0.65 * gmacs
    assert budget["rows"][-1]["bytes"] == (folder / "int8.tflite").stat().st_size <= 2.3e6
    history = read_history(folder / "int8")
    assert [e["stage"] for e in history[-4:]] == ["prune", "slim", "distil", "quantize"]
    assert all(b["parent_sha256"] == a["sha256"] for a, b in itertools.pairwise(history) if b["parent_sha256"])
    assert set(history[-4]["costs"]) == {"edge", "clone", "refine"} and history[-1]["harm"]


def test_a_budget_that_is_missed_says_which_and_by_how_much_and_throws_nothing_away(
    fitted, runs, run_script, tmp_path, capsys
):
    folder, arguments, _gmacs = fitted
    shutil.copytree(folder, tmp_path / "other.partial")
    plan = tmp_path / "other.partial" / "plan.json"
    plan.write_text(plan.read_text().replace(str(folder) + ".partial", str(tmp_path / "other.partial")))
    resumed = [runs / "fp32", tmp_path / "other", *arguments, "--resume"]
    assert run_script("compress/fit_budget.py", *resumed, "--max-drop", -60) == 1
    told_of = capsys.readouterr()
    assert "of the student fell by" in told_of.err and "--max-drop -60.0 cannot be met" in told_of.err
    assert "step/s" not in told_of.err, "no round was trained again"
    assert not (tmp_path / "other").exists() and (tmp_path / "other.partial" / "int8.tflite").exists()


@pytest.mark.parametrize(
    ("file", "missed"),
    [
        ({}, []),
        ({"gmacs": 0.51}, ["0.510 GMAC are 0.010 over 0.5"]),
        ({"params": 1001}, ["1001.000 parameters are 1.000 over 1000"]),
        ({"bytes": 1_250_000}, ["1.250 MB are 0.250 over 1.0"]),
        ({"ms": 11.0}, ["11.000 ms are 1.000 over 10"]),
        ({"psnr_hole_mirrored": 33.7}, ["psnr_hole_mirrored fell by 0.300 dB, 0.100 more than --max-drop 0.2"]),
        ({"psnr_hole_smooth": 40.0}, []),
        ({"texture_energy": 0.85}, ["texture_energy moved by -0.150, more than --max-texture 0.1"]),
    ],
)
def test_what_misses_a_budget_is_named_with_how_much(file, missed):
    args = argparse.Namespace(max_gmacs=0.5, max_params=1000, max_mb=1.0, max_ms=10, max_drop=0.2, max_texture=0.1)
    source = {"psnr_hole_mirrored": 34.0, "psnr_hole_smooth": 37.0, "texture_energy": 1.0}
    fits = {**source, "gmacs": 0.5, "params": 1000, "bytes": 1_000_000, "ms": 10.0, "psnr_hole_mirrored": 33.801}
    assert script("compress/fit_budget.py").misses(args, source, fits | file) == missed


def test_going_on_makes_again_what_another_command_would_have_made(fitted, runs, run_script, tmp_path, capsys):
    folder, _words, _gmacs = fitted
    unchanged = script("compress/fit_budget.py").unchanged
    work = tmp_path / "work"
    shutil.copytree(folder, work)
    plan = {k: v for k, v in json.loads((work / "plan.json").read_text()).items() if k != "source"}
    assert unchanged(work, runs / "fp32", plan) == set(plan)
    longer = {**plan, "student": [*plan["student"], "--lr", "1e-5"]}
    assert unchanged(work, runs / "fp32", longer) == {"1-pruned", "slim"}
    assert {"1-pruned", "slim"} <= names(work) and not names(work) & {"student", "int8"}
    assert unchanged(work, runs / "pruned", longer) == set(), "another source: all of it"


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("fp32", [], "no budget given"),
        ("fp32", ["--max-gmacs", 0], "expected a number above 0"),
        ("fp32", ["--max-mb", 0.2], "the graph alone takes"),
        ("fp32", ["--max-gmacs", 99], "use compress/quantize.py to make it int8"),
        ("fp32", ["--max-params", 900], "no network of this structure is that small"),
        ("int8", ["--max-gmacs", 0.1], "quantized already"),
        ("fp32", ["--max-gmacs", 0.1, "--rounds", 0], "--rounds 0"),
        ("nowhere", ["--max-gmacs", 0.1], "found no config.json"),
    ],
)
def test_a_budget_that_cannot_be_meant_is_one_line(runs, run_script, skin, tmp_path, capsys, source, arguments, message):
    assert run_script("compress/fit_budget.py", runs / source, tmp_path / "fit", "--data", skin, *arguments) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and len(err.splitlines()) == 1 and not names(tmp_path)


def test_half_a_megabyte_has_room_for_the_network_that_ships_and_not_for_the_one_before(runs):
    """As the README asks for it; what a file weighs beside its parameters is another thing for each kind of network."""
    asked = argparse.Namespace(max_gmacs=0.08, max_params=None, max_mb=0.5, max_ms=None)
    budget_of, shipped = script("compress/fit_budget.py").budget_of, checkpoint.load(WEIGHTS / "fp32")
    budget = budget_of(asked, shipped)
    assert budget.gmacs == 0.08 and 200_000 < budget.params < cost_of(shipped)[1]
    assert (WEIGHTS / "int8.tflite").stat().st_size < 0.5e6
    with pytest.raises(ValueError, match="the graph alone takes"):
        budget_of(asked, checkpoint.load(runs / "fp32"))


# --- a teacher --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (None, "no teacher to distil from"),
        ("int8", "is quantized; expected the float network"),
        ("paper", "is faceeraser, preset paper, but this network"),
        ("file", "found a file, expected a check"),
    ],
)
def test_a_teacher_of_another_kind_is_refused(runs, run_script, skin, tmp_path, capsys, teacher, message):
    with writing.whole_folder(tmp_path / "paper") as partial:
        checkpoint.save(partial, FaceEraser(Config.of("paper", resolution=64), 8), stage="test", options={}, metrics={})
    (tmp_path / "file").write_text("no network")
    path = runs / "int8" if teacher == "int8" else tmp_path / str(teacher)
    arguments = ["--data", skin, *(["--teacher", path] if teacher else [])]
    assert run_script("compress/distil.py", runs / "pruned", tmp_path / "student", *arguments) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and len(err.splitlines()) == 1 and not (tmp_path / "student").exists()


def test_from_scratch_keeps_the_shapes_and_nothing_of_the_weights(runs, run_script, skin, tmp_path):
    arguments = ["--data", skin, "--batch", 2, "--steps", 1, "--lr", 1e-9, "--teacher", runs / "fp32"]
    assert run_script("compress/distil.py", runs / "slim", tmp_path / "again", *arguments) == 0
    assert run_script("compress/distil.py", runs / "slim", tmp_path / "scratch", *arguments, "--scratch") == 0
    folders = (runs / "slim", tmp_path / "again", tmp_path / "scratch")
    own, again, scratch = (checkpoint.load(folder).state_dict() for folder in folders)
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in scratch.items()}
    key = "clone.blocks.0.conv1.conv.weight"
    assert torch.allclose(own[key], again[key], atol=1e-6) and not torch.allclose(own[key], scratch[key], atol=1e-2)


def test_fine_tuning_on_smaller_pictures_shows_the_networks_what_they_will_see(runs, skin):
    """A network that sees 64 of 128 pixels is trained on pictures of 64 with nothing shrunk."""
    tuning = finetuning.FineTuning(runs / "fp32", finetuning.Tuning(data=skin, size=64))
    network = tuning.source
    network.config = dataclasses.replace(network.config, resolution=128, shrink=2)
    seen = []
    network.refine.register_forward_pre_hook(lambda _module, given: seen.append(tuple(given[0].shape[-2:])))
    shown = tuning.as_trained(network)
    with torch.no_grad():
        shown(*a_batch())
        network(torch.rand(1, 3, 128, 128), torch.zeros(1, 1, 128, 128))
    assert seen == [(64, 64), (64, 64)]
    assert network.config.shrink == 2, "the network itself is as it was"
    both = zip(shown.parameters(), network.parameters(), strict=True)
    assert all(a is b for a, b in both), "what is trained is its own weights"


def test_attention_is_compared_whatever_the_channels_and_refuses_other_sizes():
    torch.manual_seed(0)
    wide = [torch.rand(2, 16, 8, 8), torch.rand(2, 4, 4, 4)]
    narrow = [x[:, ::2].repeat(1, 1, 1, 1) * 3 for x in wide]
    same = [x.square().mean(1, keepdim=True).sqrt() * 5 for x in wide]
    assert float(losses.attention_loss(same, wide)) == pytest.approx(0, abs=1e-6)
    assert float(losses.attention_loss(narrow, wide)) > 1e-4
    with pytest.raises(ValueError, match="choose a teacher of the same structure"):
        losses.attention_loss([wide[0]], [wide[1]])


def test_distilled_features_come_closer_and_an_online_teacher_goes_on_learning(skin, tmp_path):
    def trained(**options):
        teacher, student = lively("mobile", seed=1, width=16), lively("mobile", seed=2)
        recipe = fit.Recipe(
            phase="all",
            steps=12,
            batch=2,
            lr=1e-3,
            beta1=0.9,
            beta2=0.999,
            region="hole",
            adversarial=0.0,
            perceptual=0.0,
            style=0.0,
            features="off",
            clone=0.0,
            distil=1.0,
            precision="fp32",
            **options,
        )
        start = teacher.refine.stem.conv.weight.clone()
        done = fit.fit(student, pairs.TrainingPairs(skin, 64), recipe, tmp_path, fit.Beside(teacher=teacher))
        moved = (teacher.refine.stem.conv.weight - start).detach().abs().max()
        return done["losses"], float(moved), (student, teacher)

    def apart(networks) -> float:
        watched = [fit._Watched(network) for network in networks]
        look = pairs.evaluation_pairs(skin, "eval", 64)
        for network in networks:
            inference.run(network, look)
        return float(losses.attention_loss(*(each.taken() for each in watched)))

    terms, moved, both = trained(distil_features=10.0)
    _terms, _moved, without = trained()
    assert "distil_features" in terms and moved == 0
    assert apart(both) < 0.9 * apart(without)
    terms, moved, _both = trained(online=True)
    assert "teacher" in terms and moved > 1e-4


def test_a_stage_trains_for_what_its_network_was_trained_for(runs, run_script, skin, tmp_path):
    arguments = ["--phase", "inpaint", "--init", runs / "fp32", "--size", 64, "--batch", 2, "--steps", 2, "--adversarial", 0]
    aims = [
        "--perceptual",
        "filterbank",
        "--perceptual-weight",
        0,
        "--style",
        0,
        "--l1",
        0,
        "--clone",
        0,
        "--shading",
        1,
        "--texture",
        0.3,
        "--landing",
        0.3,
        "--coherence",
        0.1,
    ]
    assert run_script("train/train.py", skin, tmp_path / "cloning", *arguments, *aims) == 0
    tune = ["--data", skin, "--batch", 2, "--steps", 2, "--teacher", tmp_path / "cloning"]
    assert run_script("compress/quantize.py", tmp_path / "cloning", tmp_path / "int8", *tune) == 0
    assert set(entry(tmp_path / "int8")["metrics"]["losses"]) == {
        "shading",
        "texture",
        "landing",
        "coherence",
        "edge",
        "distil",
    }

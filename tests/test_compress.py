"""The compression chain at 64 px on generated skin, through the scripts as a user runs them, and its functions alone."""

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from test_networks import lively

from faceeraser import checkpoint, fit, narrowing, pairs, quant
from faceeraser.networks import Config, FaceEraser, count

TRAINED = {"config.json", "generators.safetensors", "history.json", "samples.png", "state.pt", "tensorboard"}
COMPRESSED = TRAINED - {"state.pt"}


@pytest.fixture(scope="module")
def runs(stage, skin, tmp_path_factory):
    """runs/edge -> fp32 -> pruned -> slim -> int8, a few steps each."""
    folder = tmp_path_factory.mktemp("runs")
    # Seen at half of 64 pixels, the deepest level would be one pixel, whose mean no file stores.
    plain = ["--perceptual", "off", "--size", "64", "--shrink", "1", "--width", "16", "--batch", "4"]
    tune = ["--data", skin, "--batch", "4"]
    fp32 = folder / "fp32"
    assert stage("train/train.py", skin, folder / "edge", "--phase", "edge", *plain, "--steps", 6, "--critic-width", 8) == 0
    edge = ["--phase", "inpaint", "--edge", folder / "edge", "--adversarial", 0]
    assert stage("train/train.py", skin, fp32, *plain, *edge, "--steps", 30) == 0
    assert stage("compress/prune.py", fp32, folder / "pruned", *tune, "--keep", 0.5, "--steps", 12, "--teacher", fp32) == 0
    slim = ["--steps", 30, "--share", 0.2, "--teacher", fp32]
    assert stage("compress/slim.py", folder / "pruned", folder / "slim", *tune, *slim) == 0
    assert stage("compress/quantize.py", folder / "slim", folder / "int8", *tune, "--steps", 8, "--teacher", fp32) == 0
    return folder


def names(folder):
    return {p.name for p in folder.iterdir()}


def entry(folder):
    return checkpoint.history(folder)[-1]


@pytest.mark.parametrize(
    ("stage_name", "files"),
    [("edge", TRAINED | {"discriminators.safetensors"}), ("fp32", TRAINED), ("pruned", COMPRESSED), ("slim", COMPRESSED),
     ("int8", COMPRESSED | {"quantization.json"})],
)  # fmt: skip
def test_the_exact_files_of_each_stage(runs, stage_name, files):
    assert names(runs / stage_name) == files
    assert not list(runs.glob("*.partial"))


def test_each_stage_records_the_ones_before_it(runs):
    assert [e["stage"] for e in checkpoint.history(runs / "int8")] == [
        "train-edge", "train-inpaint", "prune", "slim", "quantize"
    ]  # fmt: skip
    assert all(e["versions"]["torch"] and e["data"]["source"] == "synthetic" for e in checkpoint.history(runs / "int8"))


def test_each_stage_reports_cost_and_the_three_figures_before_and_after(runs):
    for name in ("pruned", "slim", "int8"):
        for when in ("before", "after"):
            figures = entry(runs / name)["metrics"][when]
            assert {"gmacs", "params", "psnr_hole_mirrored", "psnr_hole_smooth", "texture_energy", "n"} <= set(figures)


def test_pruning_halves_the_channels_in_multiples_of_eight(runs):
    before, after = (checkpoint.load(runs / n) for n in ("fp32", "pruned"))
    wide, narrow = narrowing.widths(before), narrowing.widths(after)
    heads = {"edge.head.conv", "clone.head.conv", "refine.head.conv"}
    for name, channels in narrow.items():
        if name in heads:
            assert channels == wide[name]
        elif wide[name] >= 16:
            assert channels == wide[name] // 2 and channels % 8 == 0, name
    assert count(after)[0] < 0.4 * count(before)[0]


@pytest.mark.parametrize("name", ["pruned", "slim", "int8"])
def test_a_compressed_network_reloads_strictly_with_the_same_output(runs, name, skin):
    look = pairs.evaluation_pairs(skin, "eval", 64)[:2]
    pipeline = checkpoint.load(runs / name)
    state = {k: v for k, v in pipeline.state_dict().items() if "scale" not in k}
    scales = json.loads((runs / name / "quantization.json").read_text()) if name == "int8" else None
    again = checkpoint.build(pipeline.config, state, scales)
    a, b = fit.run(pipeline, look), fit.run(again, look)
    assert all(float((a[k] - b[k]).abs().max()) <= 1e-5 for k in a)


def test_slimming_shrinks_the_scales_and_cuts_the_smallest(runs):
    scales = entry(runs / "slim")["scales"]
    assert scales["mean_after"] < 0.99 * scales["mean_before"]
    assert sum(scales["before"]) == sum(scales["after"]) > 0
    wide, narrow = (narrowing.widths(checkpoint.load(runs / n)) for n in ("pruned", "slim"))
    assert sum(narrow.values()) < sum(wide.values())


def test_slimming_keeps_the_channels_with_the_large_scales():
    pipeline = lively("mobile", width=16)
    norm = pipeline.refine.down[3].conv1.norm
    with torch.no_grad():
        norm.weight.fill_(1.0)
        norm.weight[::2] = 1e-4  # 64 of the 128 hardly matter
    kept = norm.weight[1::2].clone()
    narrowing.slim(pipeline, 0.1)
    left = pipeline.refine.down[3].conv1.norm.weight
    assert len(left) < 128 and (left == 1.0).sum() == len(kept), "every channel with a large scale stays"


def test_slimming_refuses_a_network_without_scales(stage, skin, tmp_path, capsys):
    with checkpoint.writing(tmp_path / "paper") as partial:
        checkpoint.save(partial, FaceEraser(Config.of("paper", resolution=64), 8), stage="test", options={}, metrics={})
    assert stage("compress/slim.py", tmp_path / "paper", tmp_path / "slim", "--data", skin) == 2
    assert "instance norm without scales" in capsys.readouterr().err
    assert stage("compress/quantize.py", tmp_path / "paper", tmp_path / "int8", "--data", skin) == 2
    assert "paper preset" in capsys.readouterr().err
    assert names(tmp_path) == {"paper"}


def test_the_target_of_gmacs_is_met_and_not_overdone():
    pipeline = lively("mobile", width=32)
    goal = 0.5 * count(pipeline)[0]
    keep = narrowing.keep_for_gmacs(pipeline, goal)
    for _ in narrowing.prune_steps(pipeline, keep):
        pass
    assert 0.7 * goal < count(pipeline)[0] <= goal


@pytest.mark.parametrize(("goal", "message"), [(1000.0, "nothing to prune"), (0.001, "cannot be reached")])
def test_a_target_that_cannot_be_met_says_so(goal, message):
    with pytest.raises(ValueError, match=message):
        narrowing.keep_for_gmacs(lively("mobile", width=16), goal)


def test_taylor_keeps_what_the_loss_feels():
    pipeline = lively("mobile", width=16)
    dead = pipeline.refine.down[0].conv1
    with torch.no_grad():  # sixteen channels whose output is thrown away, with the largest weights of the layer
        dead.conv.weight[:16] *= 10
        pipeline.refine.down[0].conv2.conv.weight[:, :16] = 0
    batch = (torch.rand(2, 3, 64, 64), torch.nn.functional.pad(torch.ones(2, 1, 32, 32), [16] * 4))
    for _ in narrowing.prune_steps(pipeline, 0.5, importance="taylor", batch=batch):
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


def test_quantizing_twice_and_pruning_an_int8_network_are_refused(runs, stage, skin, tmp_path, capsys):
    assert stage("compress/quantize.py", runs / "int8", tmp_path / "again", "--data", skin) == 2
    assert stage("compress/prune.py", runs / "int8", tmp_path / "again", "--data", skin, "--keep", 0.5) == 2
    assert capsys.readouterr().err.count("quantized already") == 2


def test_a_gate_that_is_not_met_is_exit_code_1(runs, stage, skin, tmp_path, capsys):
    words = ["--data", skin, "--steps", 0, "--batch", 4, "--max-drop", -50]
    assert stage("compress/quantize.py", runs / "slim", tmp_path / "int8", *words) == 1
    assert "gate failed: psnr_hole_mirrored fell by" in capsys.readouterr().err


@pytest.mark.parametrize("keep", [0, 1, 1.5, -1])
def test_a_share_outside_zero_to_one_is_refused(runs, stage, skin, tmp_path, keep):
    assert stage("compress/prune.py", runs / "fp32", tmp_path / "p", "--data", skin, "--keep", keep) == 2
    assert not names(tmp_path) - {"p.partial"}


def test_the_last_line_is_json_for_programs(runs, stage, skin, tmp_path, capsys):
    assert stage("compress/quantize.py", runs / "slim", tmp_path / "int8", "--data", skin, "--steps", 0) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert {"target", "before", "after", "drop", "source"} <= set(last)


def test_a_network_of_which_only_the_edges_were_trained_is_not_exported(runs, stage, tmp_path, capsys):
    assert stage("export/to_tflite.py", runs / "edge", tmp_path / "exports") == 2
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
    rows = {row["layer"]: row for row in narrowing.sensitivity(pipeline, *a_batch())}
    assert rows["refine.up.3.conv1.conv"]["damage"] == 0
    assert rows["refine.stem.conv"]["damage"] > 0
    assert all(row["gmacs"] > 0 and row["params"] > 0 for row in rows.values())


def test_channels_are_taken_where_they_do_least_harm_until_both_budgets_are_met():
    pipeline = lively("mobile", width=16)
    with torch.no_grad():
        pipeline.refine.up[3].conv2.conv.weight.zero_()
    gmacs, params = count(pipeline)
    budget = narrowing.Budget(0.6 * gmacs, round(0.5 * params))
    ratios = narrowing.ratios_for(pipeline, budget, narrowing.sensitivity(pipeline, *a_batch()))
    assert ratios["refine.up.3.conv1.conv"] == 0.75, "all but the eight that have to stay"
    assert ratios["refine.stem.conv"] < 0.75
    for _ in narrowing.prune_steps(pipeline, 1.0, ratios=ratios):
        pass
    assert budget.holds(count(pipeline)) and count(pipeline)[0] > 0.3 * gmacs
    assert all(channels % 8 == 0 for name, channels in narrowing.widths(pipeline).items() if "conv1" in name)


def test_slimming_can_be_told_what_to_reach():
    pipeline = lively("mobile", width=16)
    with torch.no_grad():
        for scale in fit.norm_scales(pipeline):
            scale.uniform_(0.1, 1.0)
    budget = narrowing.Budget(gmacs=0.8 * count(pipeline)[0])
    narrowing.slim(pipeline, narrowing.share_for(pipeline, budget))
    assert budget.holds(count(pipeline))


def test_a_budget_goes_in_and_a_file_that_fits_comes_out(runs, stage, skin, tmp_path, capsys):
    gmacs, _params = count(checkpoint.load(runs / "fp32"))
    limits = ["--max-gmacs", 0.5 * gmacs, "--max-mb", 1.6, "--max-drop", 5, "--max-texture", 5]
    words = [runs / "fp32", tmp_path / "fit", "--data", skin, "--rounds", 1, "--steps", 4, "--qat-steps", 2, "--size", 64]
    assert stage("compress/fit_budget.py", *words, *limits) == 0
    out = capsys.readouterr().out
    assert "GMAC asked for" in out or "asked for" in out
    assert {"student", "int8", "int8.tflite", "int8.tflite.json", "budget.json", "1-pruned"} <= names(tmp_path / "fit")
    told = json.loads((tmp_path / "fit" / "budget.json").read_text())
    assert told["missed"] == [] and [row["round"] for row in told["rows"]] == [
        "source", "1-pruned", "student", "int8", "int8.tflite"
    ]  # fmt: skip
    costs = [row["gmacs"] for row in told["rows"]]
    assert costs == sorted(costs, reverse=True) and costs[-1] <= 0.5 * gmacs
    assert told["rows"][-1]["bytes"] == (tmp_path / "fit" / "int8.tflite").stat().st_size <= 1.6e6
    history = checkpoint.history(tmp_path / "fit" / "int8")
    assert [e["stage"] for e in history[-3:]] == ["prune", "slim", "quantize"]
    assert all(b["parent_sha256"] == a["sha256"] for a, b in itertools.pairwise(history) if b["parent_sha256"])

    # The same rounds, now asked to lose nothing at all: which budget is missed, by how much, and nothing is thrown away.
    (tmp_path / "fit").rename(tmp_path / "other.partial")
    words[1] = tmp_path / "other"
    assert stage("compress/fit_budget.py", *words, *limits[:4], "--max-drop", -9, "--resume") == 1
    err = capsys.readouterr().err
    assert "psnr_hole_mirrored fell by" in err and "more than --max-drop -9" in err
    assert not (tmp_path / "other").exists() and (tmp_path / "other.partial" / "int8.tflite").exists()


@pytest.mark.parametrize(
    ("source", "words", "message"),
    [
        ("fp32", [], "no budget to fit"),
        ("fp32", ["--max-gmacs", 0], "expected more than nothing"),
        ("fp32", ["--max-mb", 0.2], "the graph alone takes"),
        ("fp32", ["--max-gmacs", 99], "as it is; compress/quantize.py makes it int8"),
        ("int8", ["--max-gmacs", 0.1], "quantized already"),
        ("fp32", ["--max-gmacs", 0.1, "--rounds", 0], "--rounds 0"),
        ("nowhere", ["--max-gmacs", 0.1], "found no config.json"),
    ],
)
def test_a_budget_that_cannot_be_meant_is_one_line(runs, stage, skin, tmp_path, capsys, source, words, message):
    assert stage("compress/fit_budget.py", runs / source, tmp_path / "fit", "--data", skin, *words) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and len(err.splitlines()) == 1 and not names(tmp_path)


def test_a_stage_trains_for_what_its_network_was_trained_for(runs, stage, skin, tmp_path):
    words = ["--phase", "inpaint", "--init", runs / "fp32", "--size", 64, "--batch", 2, "--steps", 2, "--adversarial", 0]
    aims = ["--perceptual", "filterbank", "--perceptual-weight", 0, "--style", 0, "--l1", 0, "--clone", 0, "--shading", 1,
            "--texture", 0.3, "--landing", 0.3, "--coherence", 0.1]  # fmt: skip
    assert stage("train/train.py", skin, tmp_path / "cloning", *words, *aims) == 0
    tune = ["--data", skin, "--batch", 2, "--steps", 2, "--teacher", tmp_path / "cloning"]
    assert stage("compress/quantize.py", tmp_path / "cloning", tmp_path / "int8", *tune) == 0
    assert set(entry(tmp_path / "int8")["metrics"]["losses"]) == {
        "shading", "texture", "landing", "coherence", "edge", "distil"
    }  # fmt: skip

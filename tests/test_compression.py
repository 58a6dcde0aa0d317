"""The chain's result: what counts as met, what is compared with what, and that the committed one says what is true."""

import itertools
import json
from argparse import Namespace
from pathlib import Path

import pytest
from conftest import script

from faceeraser.artifacts.card import read_card
from faceeraser.measurement import metrics
from faceeraser.system.writing import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/compression.json"
WEIGHTS = ROOT / "faceeraser/weights"
ABOUT = {"command": "c", "commit": "c", "hardware": {"cpu": "c"}, "versions": {"python": "3"}, "data": {"name": "d"}}


def figures(mirrored, smooth, texture):
    return dict(zip(metrics.HOLE_FIGURES, (mirrored, smooth, texture), strict=True))


def rows(**changes):
    """A chain that meets every goal, and a control that it beats; `changes` are those of the row int8."""

    def row(name, mirrored, smooth, texture, kind="chain", **more):
        return {"name": name, "kind": kind, "list": "eval", **figures(mirrored, smooth, texture), **more}

    small = {"gmacs": 0.1, "params": 200_000, "bytes": 450_000, "ms": 8.0}
    made = [
        {"name": "paper", "kind": "chain", "gmacs": 142.0, "params": 49_000_000},
        row("fp32", 33.5, 36.5, 0.7, gmacs=0.12, params=400_000, bytes=1_700_000, ms=10.0),
        row("student", 33.45, 36.45, 0.7, **small),
        {**row("int8", 33.42, 36.43, 0.69, **small, plan_bytes=390_000), **changes},
        row("scratch-0", 33.0, 35.5, 0.6, "control", gmacs=0.1, params=200_000),
        row("scratch-1", 33.1, 35.7, 0.6, "control", gmacs=0.1, params=200_000),
    ]
    script("benchmarks/compression.py").ratios(made)
    return made


def entry(stage, steps, mirrored, **more):
    """What a stage leaves in a history: 0.0657 GMAC, and figures that follow `mirrored`."""
    measured = {"gmacs": 0.0657, "params": 217_996, "n": 24, **figures(mirrored, mirrored + 2, 0.57)}
    metrics_of = {"before": measured, "unrepaired": measured, "after": measured}
    options = {"steps": steps, "lr": 1e-3, "seed": 0, **more.pop("options", {})}
    hashes = {"parent_sha256": "a", "sha256": "b"}
    return {"stage": stage, "options": options, "metrics": metrics_of, "data": None, **hashes, **more}


@pytest.fixture
def args(tmp_path):
    """A release whose stages took 600, 1,000 and 300 steps, and an empty target."""
    stages = [entry("prune", 600, 35.0), entry("distil", 1000, 35.1), entry("quantize", 300, 35.05)]
    write_json(tmp_path / "release/int8/history.json", [entry("train-inpaint", 9999, 36.0), *stages])
    return Namespace(release=tmp_path / "release", target=tmp_path / "target", seeds=3)


def test_costs_are_given_against_the_paper_and_against_where_the_chain_started():
    int8 = rows()[3]
    assert (int8["fewer_macs_than_paper"], int8["fewer_params_than_paper"]) == (1420.0, 245.0)
    assert (int8["fewer_macs_than_fp32"], int8["fewer_params_than_fp32"]) == (1.2, 2.0)
    assert int8["against_fp32"]["psnr_hole_mirrored"] == pytest.approx(-0.08)


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"gmacs": 0.201}, ["0.2 GMAC"]),
        ({"params": 250_001}, ["0.25 M"]),
        ({"plan_bytes": 400_001}, ["400 KB"]),
        ({"psnr_hole_mirrored": 33.29}, ["mirrored: between", "mirrored: at most 0.05 dB below student"]),
        ({"psnr_hole_smooth": 36.61}, ["smooth: between"]),  # a gain of more says that the teacher was not trained out
        ({"texture_energy": 0.59}, ["texture_energy"]),
    ],
)
def test_a_goal_is_missed_by_what_lies_outside_of_it(changes, missed):
    goals = script("benchmarks/compression.py").verdict(rows(**changes))
    failed = [name for name, goal in goals.items() if not goal["met"]]
    assert len(failed) == len(missed) and all(any(part in name for name in failed) for part in missed), failed


def test_the_student_has_to_beat_its_shape_from_scratch_by_more_than_seeds_differ():
    """Mean 33.05, and 0.1 between the seeds: 33.16 is better by more than chance, 33.14 is not."""
    for mirrored, met in ((33.16, True), (33.14, False)):
        made = rows()
        made[2]["psnr_hole_mirrored"] = mirrored
        goals = script("benchmarks/compression.py").verdict(made)
        (goal,) = (goal for name, goal in goals.items() if "mirrored: student above scratch" in name)
        assert goal["met"] is met and goal["measured"] == pytest.approx(mirrored - 33.05)


def test_one_seed_has_no_spread_so_nothing_is_said_of_scratch():
    goals = script("benchmarks/compression.py").verdict(rows()[:-1])
    assert [goal["met"] for name, goal in goals.items() if "above scratch" in name] == [None, None]


def test_scratch_is_the_students_shape_for_as_many_steps_as_all_stages(args):
    plan = script("benchmarks/compression.py").commands(args)
    release, target = str(args.release), str(args.target)
    taught = f"--data {release}/faces --size 128 --batch 16 --teacher {release}/fp32 --lr 1e-3"
    for seed in range(3):
        words = f"compress/distil.py {release}/pruned {target}/scratch-{seed} --scratch --seed {seed} {taught} --steps 1900"
        assert plan[f"scratch-{seed}"] == words.split()


def test_slimming_is_tried_by_three_penalties_and_for_longer_to_the_macs_that_pruning_left(args):
    plan = script("benchmarks/compression.py").commands(args)
    slim = [words for name, words in plan.items() if name.startswith("slim")]
    fp32 = str(args.release / "fp32")
    for words in slim:
        assert words[:2] == ["compress/slim.py", fp32] and words[words.index("--teacher") + 1] == fp32
        assert words[words.index("--target-gmacs") + 1] == "0.0657"
    tried = [(words[words.index("--sparsity") + 1], words[words.index("--steps") + 1]) for words in slim]
    assert tried == [("1e-3", "600"), ("1e-2", "600"), ("1e-4", "600"), ("1e-3", "1600")]


def test_a_slimmed_network_stands_beside_the_stage_that_took_as_many_steps(args):
    """Those of 600 steps beside `pruned`, that of 1,600 beside `student`, on the chain's pairs. What was not trained has no
    row, and what was measured is not measured again."""
    compression = script("benchmarks/compression.py")
    scales = {"mean_before": 0.5, "mean_after": 0.4, "threshold": 0.1}
    measured = []
    for name, steps, mirrored in (("slim-1e-3-600", 600, 34.0), ("slim-1e-3-1600", 1600, 34.5)):
        done = entry("slim", steps, 30.0, options={"sparsity": 1e-3, "share": 0.3}, scales=scales)
        write_json(args.target / name / "history.json", [done])
        measured.append({"name": name, **figures(mirrored, mirrored + 2, 0.57)})
    write_json(args.target / "trained.json", {**ABOUT, "rows": measured})
    chain = [
        {"name": "pruned", "kind": "chain", "steps": 600, **figures(35.0, 37.0, 0.57)},
        {"name": "student", "kind": "chain", "steps": 1000, **figures(35.1, 37.1, 0.57)},
    ]
    made = [*chain, *compression.trained(args, compression.commands(args))]
    compression.slimming_against_pruning(made)
    short, long = made[2:]
    assert (short["name"], short["beside"], short["against_it"]["psnr_hole_mirrored"]) == ("slim-1e-3-600", "pruned", -1.0)
    assert (long["name"], long["beside"], long["against_it"]["psnr_hole_mirrored"]) == ("slim-1e-3-1600", "student", -0.6)


def test_the_plot_is_drawn(tmp_path):
    script("benchmarks/compression.py").plot(rows(), tmp_path / "plots" / "plot.png")
    assert (tmp_path / "plots" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_what_release_did_not_make_is_one_line(tmp_path, capsys):
    assert script("benchmarks/compression.py").main([str(tmp_path)]) == 2
    assert "expected what benchmarks/release.py leaves" in capsys.readouterr().err


def test_a_release_by_another_chain_is_one_line(args, capsys):
    for name in ("fp32", "pruned", "student"):
        (args.release / name).mkdir()
    write_json(args.release / "int8/history.json", [entry("prune", 600, 35.0), entry("quantize", 300, 35.0)])
    write_json(args.release / "result.json", {**ABOUT, "rows": [{"name": "fp32"}]})
    assert script("benchmarks/compression.py").main([str(args.release), "--no-training"]) == 2
    assert "went through no distil, expected the chain of benchmarks/release.py" in capsys.readouterr().err


# --- the committed result ---------------------------------------------------------------------------------------------


def committed():
    return json.loads(RESULT.read_text())


def test_the_result_has_the_chain_and_says_of_each_goal_whether_it_is_met():
    found = committed()
    named = {row["name"]: row for row in found["rows"]}
    costs = [named[name]["gmacs"] for name in ("paper", "fp32", "pruned", "student", "int8")]
    assert costs == sorted(costs, reverse=True)
    assert found["goals"] == script("benchmarks/compression.py").verdict(found["rows"])
    assert all(goal["met"] is not None for goal in found["goals"].values())


def test_the_control_is_the_students_shape_for_as_many_steps_as_the_chain_with_three_seeds():
    named = {row["name"]: row for row in committed()["rows"]}
    stages = [named[name] for name in ("pruned", "student", "int8")]
    controls = [row for row in named.values() if row["kind"] == "control"]
    assert [row["seed"] for row in controls] == [0, 1, 2]
    assert {row["gmacs"] for row in controls} == {named["student"]["gmacs"]}
    assert {row["steps"] for row in controls} == {sum(row["steps"] for row in stages)}
    assert {row["n"] for row in controls} == {named["student"]["n"]}


def test_slimming_was_given_what_pruning_was_given():
    """As many steps, and within channels of eight the same MACs, never more; on the same pairs."""
    named = {row["name"]: row for row in committed()["rows"]}
    slimmed = [row for row in named.values() if row["kind"] == "slimming"]
    assert len(slimmed) == 4 and {row["n"] for row in slimmed} == {named["pruned"]["n"]}
    for row in slimmed:
        assert row["steps"] == named["pruned"]["steps"] + (named["student"]["steps"] if row["beside"] == "student" else 0)
        assert 0.9 * named["pruned"]["gmacs"] <= row["gmacs"] <= named["pruned"]["gmacs"] + 5e-5


def test_the_int8_row_is_the_file_that_ships_and_its_history_is_one_chain_or_the_page_says_that_it_is_another():
    named = {row["name"]: row for row in committed()["rows"]}
    row, card, plan = named["int8"], read_card(WEIGHTS / "int8.tflite"), read_card(WEIGHTS / "plan.tflite")
    if (row["bytes"], row["params"], row["plan_bytes"]) != (card["bytes"], card["params"], plan["bytes"]):
        assert "The figures of this section are of the network that shipped before" in (ROOT / "docs/results.md").read_text()
        return
    history = card["history"]
    assert [stage["stage"] for stage in history[-3:]] == ["prune", "distil", "quantize"]
    assert all(after["parent_sha256"] == before["sha256"] for before, after in itertools.pairwise(history))
    assert [named[name]["sha256"] for name in ("pruned", "student", "int8")] == [stage["sha256"] for stage in history[-3:]]

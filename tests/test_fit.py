"""The training loop: it learns, a killed run resumes to the same weights, and two processes equal one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from faceeraser.model import checkpoint, inference, pairs
from faceeraser.model.config import Config
from faceeraser.model.networks import FaceEraser
from faceeraser.system.history import read_history
from faceeraser.training import fit

ROOT = Path(__file__).resolve().parent.parent
QUICK = {"batch": 4, "features": "off", "precision": "fp32", "adversarial": 0.0}


def small(preset: str = "mobile", seed: int = 0) -> FaceEraser:
    torch.manual_seed(seed)
    return FaceEraser(Config.of(preset, resolution=64), 4)


def test_training_lowers_the_error_on_pairs_it_did_not_see(skin, tmp_path):
    pipeline, held_out = small(), pairs.evaluation_pairs(skin, "eval", 64)
    torch.nn.init.normal_(pipeline.refine.head.conv.weight, std=0.1)  # starts wrong: the smooth fill alone is hard to beat

    def error() -> float:
        truth, mask = pairs.to_tensors(held_out)
        out = inference.run(pipeline, held_out)["erased"]
        return float(((out - truth).abs() * mask).sum() / mask.sum())

    before = error()
    recipe = fit.Recipe(steps=60, lr=2e-3, beta1=0.9, beta2=0.999, region="hole", average=0.9, **QUICK)
    result = fit.fit(pipeline, pairs.TrainingPairs(skin, 64), recipe, tmp_path)
    assert error() < 0.8 * before
    assert result["pictures"] == 240 and set(result["losses"]) == {"l1", "clone"}
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_edge_phase_trains_the_edges_and_nothing_else(skin, tmp_path):
    pipeline = small()
    before = {k: v.clone() for k, v in pipeline.state_dict().items()}
    recipe = fit.Recipe(phase="edge", steps=3, **{**QUICK, "adversarial": None})
    result = fit.fit(pipeline, pairs.TrainingPairs(skin, 64), recipe, tmp_path, fit.Beside(fit.discriminators(4)))
    changed = {k.split(".")[0] for k, v in pipeline.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"edge"}
    assert set(result["losses"]) == {"discriminator", "feature_matching", "adversarial"}


def test_a_student_comes_closer_to_its_teacher(skin, tmp_path):
    teacher, student, look = small(seed=1), small(seed=2), pairs.evaluation_pairs(skin, "eval", 64)
    torch.nn.init.normal_(teacher.refine.head.conv.weight, std=0.3)  # a teacher that paints something of its own
    teacher.eval()

    def distance() -> float:
        return float((inference.run(student, look)["erased"] - inference.run(teacher, look)["erased"]).abs().mean())

    before = distance()
    recipe = fit.Recipe(steps=40, lr=1e-3, beta1=0.9, beta2=0.999, region="hole", l1=0.0, clone=0.0, distil=1.0, **QUICK)
    fit.fit(student, pairs.TrainingPairs(skin, 64), recipe, tmp_path, fit.Beside(teacher=teacher))
    assert distance() < 0.8 * before


def test_an_unknown_phase_and_a_missing_discriminator_are_refused(skin, tmp_path):
    data = pairs.TrainingPairs(skin, 64)
    with pytest.raises(ValueError, match="expected one of edge, structure, inpaint, all"):
        fit.fit(small(), data, fit.Recipe(phase="paint"), tmp_path)
    with pytest.raises(ValueError, match="no term to train for"):
        fit.fit(small(), data, fit.Recipe(phase="edge", **QUICK), tmp_path)
    with pytest.raises(ValueError, match="needs discriminators"):
        fit.fit(small(), data, fit.Recipe(features="off"), tmp_path)


def train(target: Path, skin: Path, *more: str, processes: int = 1, wait: bool = True) -> subprocess.Popen:
    arguments = [
        str(ROOT / "train/train.py"),
        str(skin),
        str(target),
        "--phase",
        "edge",
        "--perceptual",
        "off",
        "--size",
        "64",
        "--width",
        "4",
        "--critic-width",
        "4",
        "--precision",
        "fp32",
        *more,
    ]
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    run = subprocess.Popen(
        [*launcher, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if wait:
        _, err = run.communicate(timeout=300)
        assert run.returncode == 0, err[-3000:]
    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder).state_dict()


def test_a_run_killed_with_sigkill_and_resumed_ends_with_the_same_weights(skin, tmp_path):
    steps = ["--steps", "24", "--save-every", "4", "--batch", "2"]
    train(tmp_path / "unbroken", skin, *steps)
    killed = train(tmp_path / "killed", skin, *steps, wait=False)
    state = tmp_path / "killed.partial" / "state.pt"
    deadline = time.monotonic() + 120
    while not state.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert state.exists() and not (tmp_path / "killed").exists()
    at = checkpoint.read_state(state)["step"]
    assert 0 < at < 24, f"killed too late to show anything: step {at}"
    train(tmp_path / "killed", skin, *steps, "--resume")
    a, b = weights(tmp_path / "unbroken"), weights(tmp_path / "killed")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    losses = [read_history(tmp_path / name)[-1]["metrics"]["losses"] for name in ("unbroken", "killed")]
    assert losses[0] and losses[0] == losses[1], "what it says of its last steps does not hang on where it was killed"


def test_two_processes_equal_one_with_the_double_batch(skin, tmp_path):
    steps = ["--steps", "3", "--preset", "paper"]  # instance norm: a picture's output does not depend on its batch
    train(tmp_path / "one", skin, *steps, "--batch", "4")
    train(tmp_path / "two", skin, *steps, "--batch", "2", processes=2)
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    worst = max(float((a[k].double() - b[k].double()).abs().max()) for k in a)
    assert worst < 1e-5
    start = FaceEraser(Config.of("paper", resolution=64), 4).state_dict()
    assert any(not np.allclose(a[k], start[k]) for k in a)


def test_a_finished_run_goes_on_when_given_more_steps(skin, tmp_path):
    train(tmp_path / "run", skin, "--steps", "2", "--batch", "2")
    train(tmp_path / "run", skin, "--steps", "4", "--batch", "2", "--resume")
    state = checkpoint.read_state(tmp_path / "run" / "state.pt")
    assert state["step"] == 4
    assert json.loads((tmp_path / "run" / "history.json").read_text())[-1]["options"]["steps"] == 4


@pytest.mark.parametrize(
    ("preset", "variant"), [("paper", "unet_attention"), ("paper", "unet"), ("paper", "auto_encoder"), ("mobile", "unet")]
)
def test_every_preset_and_variant_trains_with_the_papers_objective(preset, variant, run_script, skin, tmp_path):
    size = ["--preset", preset, "--size", 64, "--width", 4, "--critic-width", 4, "--batch", 2, "--steps", 2]
    edge = tmp_path / "edge"
    assert run_script("train/train.py", skin, edge, "--phase", "edge", "--perceptual", "off", *size) == 0
    options = ["--phase", "inpaint", "--edge", edge, "--variant", variant, "--perceptual", "filterbank"]
    assert run_script("train/train.py", skin, tmp_path / "run", *options, *size) == 0
    entry = read_history(tmp_path / "run")[-1]
    assert set(entry["metrics"]["losses"]) == {"discriminator", "adversarial", "l1", "clone", "perceptual", "style"}
    assert entry["options"]["features"] == "filterbank", "a row says what its perceptual term was made of"
    assert checkpoint.load(tmp_path / "run").config.variant == variant


def test_a_mobile_network_is_distilled_from_the_papers(run_script, skin, tmp_path):
    size = ["--size", 64, "--width", 4, "--batch", 2, "--steps", 2, "--perceptual", "off", "--adversarial", 0]
    for preset, teacher in (("paper", []), ("mobile", ["--teacher", tmp_path / "paper"])):
        edge = tmp_path / f"edge-{preset}"
        assert run_script("train/train.py", skin, edge, "--phase", "edge", "--preset", preset, "--edge-l1", 1, *size) == 0
        arguments = ["--phase", "inpaint", "--edge", edge, "--preset", preset, *teacher, *size]
        assert run_script("train/train.py", skin, tmp_path / preset, *arguments) == 0
    assert "distil" in read_history(tmp_path / "mobile")[-1]["metrics"]["losses"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--phase", "inpaint"], "--edge FOLDER"),
        (["--phase", "edge", "--size", "100"], "multiple of 64"),
        (["--phase", "inpaint", "--edge", "nowhere"], "found no config.json"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments, message, run_script, skin, tmp_path, capsys):
    assert run_script("train/train.py", skin, tmp_path / "run", *arguments) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()

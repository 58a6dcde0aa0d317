"""What comes with the package: whole, small, one chain of hashes, measured, and good enough to erase the astronaut."""

import itertools
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from faceeraser import WEIGHTS, cli, shipped
from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.card import read_card
from faceeraser.artifacts.files import sha256_of
from faceeraser.face import occluders
from faceeraser.measurement import metrics
from faceeraser.model import checkpoint, networks
from faceeraser.system.history import read_history
from faceeraser.training import occlusion

ROOT = Path(__file__).resolve().parents[1]
RELEASE = json.loads((ROOT / "benchmarks/results/release.json").read_text())
ROWS = {row["name"]: row for row in RELEASE["rows"]}


def test_the_whole_release_is_small_and_shows_nobody():
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 4e6
    assert not [path for path in files if path.suffix in (".png", ".jpg", ".pt")]


@pytest.mark.parametrize("name", ["int8", "plan"])
def test_a_file_comes_from_the_fp32_weights_by_an_unbroken_chain_of_hashes(name):
    own = read_history(WEIGHTS / "fp32")[-1]["sha256"]
    assert own == sha256_of(WEIGHTS / "fp32" / "generators.safetensors")
    history = read_card(WEIGHTS / f"{name}.tflite")["history"]
    assert [entry["stage"] for entry in history] == ["train-inpaint", "train-inpaint", "prune", "distil", "quantize"]
    assert history[1]["sha256"] == own, "trained with a membrane in the middle of faces, then with a plate"
    assert all(b["parent_sha256"] == a["sha256"] for a, b in itertools.pairwise(history))


def test_the_file_that_erases_plans_is_small_and_passed_its_gate():
    card = read_card(WEIGHTS / "plan.tflite")
    assert shipped.PLAN_FILE == WEIGHTS / "plan.tflite" and Artifact(shipped.PLAN_FILE).plans
    assert card["precision"] == "int8" and card["parity"]["passed"] and card["parity"]["plan_share_min"] >= 0.95
    assert card["gmacs"] < 0.2 and card["params"] < 250_000 and card["bytes"] < 420_000
    assert checkpoint.load(WEIGHTS / "fp32").config.model == "patches"
    text = (WEIGHTS / "MODEL_CARD.md").read_text()
    assert f"{card['params']:,} parameters, {card['gmacs']:.2f} GMAC" in text


def test_what_is_in_front_is_said_by_a_small_file_of_the_network_beside_it():
    history = read_history(WEIGHTS / "occlusion")[-1]
    assert history["stage"] == "train-occlusion" and history["data"]["source"] == "photos"
    assert history["sha256"] == sha256_of(WEIGHTS / "occlusion" / occlusion.WEIGHTS)
    assert shipped.OCCLUSION_FILE.stat().st_size < 150_000
    picture = np.random.default_rng(0).integers(0, 256, (occluders.SIDE,) * 2 + (3,), np.uint8)
    own = occlusion.load(WEIGHTS / "occlusion")(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)[0, 0]
    assert np.abs(occluders.Occluders()(picture) - own.detach().numpy()).mean() < occlusion.APART


def test_weights_that_were_exchanged_are_refused(tmp_path):
    for name in ("config.json", "generators.safetensors", "history.json"):
        shutil.copyfile(WEIGHTS / "fp32" / name, tmp_path / name)
    pipeline = checkpoint.load(tmp_path)
    with np.errstate(all="ignore"):
        state = {k: (v + 1e-3).contiguous() if v.is_floating_point() else v for k, v in pipeline.state_dict().items()}
    checkpoint.save_file(state, tmp_path / "generators.safetensors")
    with pytest.raises(ValueError, match="its history says"):
        checkpoint.load(tmp_path)
    file = tmp_path / "int8.tflite"
    shutil.copyfile(WEIGHTS / "int8.tflite.json", tmp_path / "int8.tflite.json")
    file.write_bytes((WEIGHTS / "int8.tflite").read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="its card says"):
        Artifact(file)


def test_the_results_are_those_of_the_files_that_ship():
    card = read_card(WEIGHTS / "int8.tflite")
    assert all(ROWS["int8"][key] == card[key] for key in ("gmacs", "params", "bytes"))
    gmacs, params = networks.cost_of(checkpoint.load(WEIGHTS / "fp32"))
    assert ROWS["fp32"]["gmacs"] == pytest.approx(gmacs, rel=0.01) and ROWS["fp32"]["params"] <= params


def test_the_readme_gives_the_figures_of_whole_photographs():
    rows = {row["name"]: row for row in json.loads((ROOT / "benchmarks/results/photos.json").read_text())["rows"]}
    lines = (ROOT / "README.md").read_text().splitlines()
    for title, name in (("fp32", "fp32"), ("int8, what ships", "int8"), ("Navier-Stokes", "navier_stokes")):
        texture, spectrum, kid, step = (rows[name][key]["median"] for key in ("texture", "spectrum", "skin_kid", "step"))
        assert f"| {title} | {texture:.2f} | {spectrum:.2f} | {kid:.0f} | {step:.2f} |" in lines


def test_the_model_card_and_the_results_page_give_the_figures_of_the_results():
    for text in ((WEIGHTS / "MODEL_CARD.md").read_text(), (ROOT / "docs/results.md").read_text()):
        for name in ("fp32", "int8", "skin_patches", "navier_stokes"):
            row = ROWS[name]
            line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
            assert f"| {row['psnr_hole_mirrored']:.2f} | {row['psnr_hole_smooth']:.2f} |" in line, line


def test_erase_uses_the_weights_of_the_package(landmarks, tmp_path, capsys):
    from skimage.data import astronaut

    Image.fromarray(astronaut()).save(tmp_path / "astronaut.png")
    assert cli.main(["erase", str(tmp_path / "astronaut.png")]) == 0
    erased = np.asarray(Image.open(tmp_path / "astronaut-erased.png"))
    changed = (erased != astronaut()).any(2)
    assert 0.01 < changed.mean() < 0.2

    def contrast(picture: np.ndarray) -> float:
        light = metrics.luma(picture)
        return float((light - cv2.GaussianBlur(light, (0, 0), 5))[changed].std())

    assert contrast(erased) < 0.5 * contrast(astronaut()), "eyes and mouth are gone"

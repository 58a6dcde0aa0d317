"""What train/prepare.py promises: the data folder's contract, determinism, shards, resuming, and honest reports."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceeraser.face import landmark_models
from faceeraser.face.mesh import OVAL, Face
from faceeraser.face.parts import GLASSES
from faceeraser.measurement import metrics
from faceeraser.training import blanks, filters, preparing, synthetic

SCRIPT = Path(__file__).parents[1] / "train" / "prepare.py"
PHOTOS = Path(os.environ.get("FACEERASER_PHOTOS") or Path(__file__).parents[2] / "shared" / "photos")
LABELS = Path(__file__).with_name("labels_photos.csv")


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_script", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["prepare_script"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


prepare = load()
SMALL = ["--size", "32", "--workers", "1"]


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its sha256."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def generated(target: Path, *options: str) -> int:
    return prepare.main([str(target), "--source", "synthetic", *SMALL, *options])


# ------------------------------------------------------------------------------------------------- the data contract


def check_contract(folder: Path, size: int) -> dict:
    """Assert everything that other code reads from a data folder; returns data.json."""
    card = json.loads((folder / "data.json").read_text())
    assert set(card) == {"format", "name", "source", "size", "seed", "n", "eval_sha256", "sha256"}
    assert card["format"] == 1 and card["size"] == size
    assert card["eval_sha256"] == hashlib.sha256((folder / "eval.csv").read_bytes()).hexdigest()
    manifest = rows_of(folder / "manifest.csv")
    columns = "file,split,group,taken,reason,forehead_px,mask,face_px,ita,glasses,blank,mask_file,face_file"
    assert ",".join(manifest[0]) == columns
    files = set(tree(folder))
    listed = {row[key] for row in manifest for key in ("blank", "mask_file", "face_file") if row[key]}
    rest = {"data.json", "manifest.csv", "eval.csv", "tune.csv", "taken.jpg", "rejected.jpg"}
    assert files == listed | rest
    for split in ("train", "val"):
        for kind, key in (("blanks", "blank"), ("masks", "mask_file"), ("faces", "face_file")):
            rows = [row for row in manifest if row[key].startswith(f"{kind}/{split}/")]
            assert len(rows) == card["n"][split][kind] == len(list((folder / kind / split).iterdir()))
            assert all(row["split"] == split for row in rows)
    for row in manifest:
        assert row["reason"] and (row["taken"] == "1") == bool(row["blank"]) == (row["reason"] == "taken")
        if row["blank"]:
            blank = cv2.imread(str(folder / row["blank"]), cv2.IMREAD_UNCHANGED)
            assert blank.shape == (size, size, 3) and blank.dtype == np.uint8
            assert np.array_equal(blank[size // 2 :], blank[: size // 2][::-1]), "the lower half is the upper one flipped"
        if row["mask_file"]:
            mask = cv2.imread(str(folder / row["mask_file"]), cv2.IMREAD_UNCHANGED)
            assert mask.shape == (size, size) and mask.dtype == np.uint8 and mask.max() < 32
            assert all((mask & bit).any() for bit in (1, 2, 4, 8))
        if row["face_file"]:
            whole = cv2.imread(str(folder / row["face_file"]), cv2.IMREAD_UNCHANGED)
            parts = cv2.imread(str(folder / row["mask_file"]), cv2.IMREAD_UNCHANGED) & 15
            assert whole.shape == (size, size, 4) and set(np.unique(whole[..., 3])) <= {0, 255}
            assert row["glasses"] == "0" and not ((whole[..., 3] > 0) & (parts > 0)).any(), "no part is bare skin"
    splits: dict[str, set[str]] = {}
    for row in manifest:
        splits.setdefault(row["group"], set()).add(row["split"])
    assert all(len(of_identity) == 1 for of_identity in splits.values()), "an identity never crosses splits"
    group = {row[key]: row["group"] for row in manifest for key in ("blank", "mask_file") if row[key]}
    for name, split in (("eval.csv", "val"), ("tune.csv", "train")):
        for pair in rows_of(folder / name):
            assert pair["blank"].startswith(f"blanks/{split}/") and pair["mask"].startswith(f"masks/{split}/")
            assert group[pair["blank"]] != group[pair["mask"]], "the mask is another person's"
    return card


def test_generated_skin_keeps_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generated(tmp_path / "data") == 0
    card = check_contract(tmp_path / "data", 32)
    assert card["source"] == card["name"] == "synthetic"
    assert card["n"] == {"train": {"blanks": 64, "masks": 64, "faces": 0}, "val": {"blanks": 16, "masks": 16, "faces": 0}}
    assert len(rows_of(tmp_path / "data" / "eval.csv")) == 16
    assert len(rows_of(tmp_path / "data" / "tune.csv")) == 64
    assert list(tmp_path.iterdir()) == [tmp_path / "data"], "nothing is left beside the target"
    last = capsys.readouterr().out.strip().splitlines()[-1]
    report = json.loads(last)
    assert report["n"] == card["n"] and report["sha256"] == card["sha256"]


def test_the_asked_share_of_masks_carries_glasses(tmp_path: Path) -> None:
    for share in (0.0, 0.25, 1.0):
        target = tmp_path / f"share{share}"
        assert generated(target, "--glasses-share", str(share), "--limit", "40") == 0
        masks = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (target / "masks" / "train").iterdir()]
        assert sum(bool((mask & GLASSES).any()) for mask in masks) == round(share * len(masks))


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    assert generated(tmp_path / "one", "--limit", "24") == 0
    command = [
        sys.executable,
        str(SCRIPT),
        str(tmp_path / "two"),
        "--source",
        "synthetic",
        "--size",
        "32",
        "--limit",
        "24",
    ]
    subprocess.run([*command, "--workers", "2"], check=True, capture_output=True)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert generated(tmp_path / "other", "--limit", "24", "--seed", "1") == 0
    one, other = tree(tmp_path / "one"), tree(tmp_path / "other")
    assert set(one) == set(other)
    assert not {name for name in one if name.startswith("blanks") and one[name] == other[name]}


def test_shards_together_make_the_whole(tmp_path: Path) -> None:
    assert generated(tmp_path / "whole", "--limit", "20") == 0
    for number in (2, 3, 1):
        assert not (tmp_path / "parts").exists()
        assert generated(tmp_path / "parts", "--limit", "20", "--shard", f"{number}/3") == 0
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    options = ["--source", "synthetic", "--size", "128", "--limit", "120", "--workers", "1"]
    command = [sys.executable, str(SCRIPT), str(tmp_path / "killed"), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = tmp_path / "killed.partial" / "rows-1of1.jsonl"
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and not (rows.exists() and rows.read_text().count("\n") > 10):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists(), "the run ended before it could be killed: give it more to do"
    rows.write_text(rows.read_text()[:-7])  # as if the last line had been cut short
    assert prepare.main([str(tmp_path / "killed"), *options]) == 2, "without --resume a stopped run is not touched"
    done_before = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed.partial" / "blanks").iterdir()}
    assert prepare.main([str(tmp_path / "killed"), *options, "--resume"]) == 0
    assert prepare.main([str(tmp_path / "whole"), *options]) == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    kept = [tmp_path / "killed" / "blanks" / split / path.name for path in done_before for split in ("train", "val")]
    mtimes = {path.name: path.stat().st_mtime_ns for path in kept if path.exists()}
    assert sum(mtimes[path.name] == then for path, then in done_before.items()) >= 8, "what was done is not done again"


def test_resuming_with_other_options_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generated(tmp_path / "data", "--limit", "8", "--shard", "1/2") == 0
    assert generated(tmp_path / "data", "--limit", "8", "--shard", "2/2", "--seed", "5") == 2
    assert "seed" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "data"], "no such folder"),
        (["data"], "expected PHOTOS and TARGET"),
        (["empty", "data"], "no picture files"),
        (["empty", "data", "--shard", "3/2"], "shard 3/2"),
        (["empty", "data", "--size", "33"], "size 33"),
        (["empty", "data", "--limit", "0"], "limit 0"),
        (["empty", "data", "--glasses-share", "15"], "share of glasses of 15"),
        (["empty", "data", "--resume", "--overwrite"], "both"),
        (["empty", "empty"], "exists already"),
        (["empty", "data", "--source", "synthetic"], "needs none"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert prepare.main(arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not (tmp_path / "data").exists()


def test_a_target_is_replaced_only_when_told_to(tmp_path: Path) -> None:
    assert generated(tmp_path / "data", "--limit", "6") == 0
    before = tree(tmp_path / "data")
    assert generated(tmp_path / "data", "--limit", "8") == 2
    assert tree(tmp_path / "data") == before
    assert generated(tmp_path / "data", "--limit", "8", "--overwrite") == 0
    assert len(rows_of(tmp_path / "data" / "manifest.csv")) == 8


# ------------------------------------------------------------------------------- photographs, with a stand-in detector


def portrait(seed: int, fringe: bool = False) -> np.ndarray:
    """A drawn head: skin with fine noise, dark hair around it, a fringe over the forehead if asked for."""
    rng = np.random.default_rng(seed)
    picture = np.full((320, 320, 3), (90, 110, 130), np.uint8)
    cv2.ellipse(picture, (160, 150), (118, 140), 0, 0, 360, (40, 30, 25), -1)
    tone = np.array([205, 160, 130]) - rng.integers(0, 90)
    cv2.ellipse(picture, (160, 170), (98, 128), 0, 0, 360, tone.tolist(), -1)
    if fringe:
        cv2.rectangle(picture, (60, 30), (260, 98), (40, 30, 25), -1)
    noisy = picture + rng.normal(0, 2, picture.shape)
    return cv2.GaussianBlur(np.clip(noisy, 0, 255).astype(np.uint8), (0, 0), 1.0)


def stand_in_face(image: np.ndarray) -> list[Face]:
    """Where `portrait` draws its face; pictures of another size have none."""
    if image.shape != (320, 320, 3):
        return []
    face = synthetic.synthetic_face(256, np.random.default_rng(0))
    mesh = face.mesh * (190 / 256) + [65, 80]
    steps = np.linspace(0, 2 * np.pi, len(OVAL), endpoint=False)
    mesh[OVAL] = np.stack([160 + 96 * np.sin(steps), 175 - 122 * np.cos(steps)], axis=1)
    for point, place in {50: (112, 190), 280: (208, 190), 117: (105, 175), 346: (215, 175), 9: (160, 120)}.items():
        mesh[point] = place
    return [Face(mesh.astype(np.float32))]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "find_faces", stand_in_face)
    monkeypatch.setattr(landmark_models, "fetch", lambda *_: {})


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])


@pytest.mark.usefixtures("stand_in")
def test_every_photograph_is_accounted_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    for number in range(12):
        save(photos / f"deep/er/person {number}.png", portrait(number))
    save(photos / "fringe.png", portrait(50, fringe=True))
    save(photos / "wall.png", np.full((200, 300, 3), 120, np.uint8))
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a jpeg")
    (photos / "empty.png").write_bytes(b"")
    (photos / "notes.txt").write_text("no photograph")
    assert prepare.main([str(photos), str(tmp_path / "data"), "--size", "64", "--workers", "1"]) == 0
    card = check_contract(tmp_path / "data", 64)
    assert card["source"] == "photos" and card["name"] == "photos"
    rows = {row["file"]: row for row in rows_of(tmp_path / "data" / "manifest.csv")}
    assert len(rows) == 16
    assert all(rows[f"deep/er/person {k}.png"]["taken"] == "1" for k in range(12))
    assert rows["fringe.png"]["reason"].startswith("hair") and rows["fringe.png"]["mask"] == "1"
    assert rows["wall.png"]["reason"].startswith("no face")
    assert rows["broken.jpg"]["reason"].startswith("unreadable: ")
    assert rows["empty.png"]["reason"] == (
        "unreadable: the file is empty (0 bytes); expected a picture; fetch or export it again"
    )
    assert card["n"]["val"]["blanks"] >= 1, "a small folder still validates on somebody"
    taken = rows["deep/er/person 0.png"]
    assert 80 < float(taken["forehead_px"]) < 200 and float(taken["face_px"]) == pytest.approx(244, abs=2)
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["reasons"]["unreadable"] == 2


@pytest.mark.usefixtures("stand_in")
def test_a_manifest_among_the_photographs_settles_splits_and_groups(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    lines = ["file,split,group"]
    for number in range(12):
        name = "sfhqt_1.png" if number == 11 else f"p{number}.png"
        save(photos / name, portrait(number))
        lines.append(f"{name},{'val' if number in (0, 1, 2, 3) else 'test' if number == 4 else 'train'},person{number // 2}")
    lines[5] = "p4.png,test,alone"
    lines.append("gone.png,train,nobody")
    (photos / "manifest.csv").write_text("\n".join(lines) + "\n")
    arguments = [str(photos), str(tmp_path / "data"), "--size", "32", "--workers", "1"]
    assert prepare.main(arguments) == 0
    rows = {row["file"]: row for row in rows_of(tmp_path / "data" / "manifest.csv")}
    assert [rows[f"p{k}.png"]["split"] for k in range(4)] == ["val"] * 4
    assert rows["p4.png"]["taken"] == "0" and rows["p4.png"]["reason"].startswith("split")
    assert rows["gone.png"]["reason"].startswith("unreadable: cannot be opened")
    group = {row["blank"]: row["group"] for row in rows.values()} | {row["mask_file"]: row["group"] for row in rows.values()}
    pairs = rows_of(tmp_path / "data" / "eval.csv")
    assert len(pairs) == 4 and all(group[pair["blank"]] != group[pair["mask"]] for pair in pairs)
    (photos / "manifest.csv").write_text("file,split,group\np0.png,train,same\np1.png,val,same\n")
    assert prepare.main([*arguments, "--overwrite"]) == 2
    assert len(rows_of(tmp_path / "data" / "manifest.csv")) == 13, "a mistake leaves the old folder alone"


@pytest.mark.usefixtures("stand_in")
def test_photographs_cut_from_sheets_only_train(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number in range(30):
        save(photos / f"{'sfhqt' if number % 2 else 'p'}_{number}.png", portrait(number))
    assert prepare.main([str(photos), str(tmp_path / "data"), "--size", "32", "--workers", "1"]) == 0
    rows = rows_of(tmp_path / "data" / "manifest.csv")
    assert {row["split"] for row in rows if row["file"].startswith("sfhqt")} == {"train"}
    assert "sfhqt" not in (tmp_path / "data" / "eval.csv").read_text()


@pytest.mark.usefixtures("stand_in")
def test_an_empty_result_is_an_error_that_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        save(tmp_path / "photos" / f"f{number}.png", portrait(number, fringe=True))
    save(tmp_path / "photos" / "wall.png", np.full((200, 300, 3), 120, np.uint8))
    assert prepare.main([str(tmp_path / "photos"), str(tmp_path / "data"), "--workers", "1"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "none of 4 photographs" in error and "(3) because of: hair on the forehead" in error
    assert not (tmp_path / "data").exists() and not (tmp_path / "data.partial").exists()


@pytest.mark.usefixtures("stand_in")
def test_limit_takes_a_fixed_sample(tmp_path: Path) -> None:
    for number in range(10):
        save(tmp_path / "photos" / f"p{number}.png", portrait(number))
    for limit in (4, 6):
        target = tmp_path / f"data{limit}"
        arguments = [str(tmp_path / "photos"), str(target), "--size", "32", "--workers", "1", "--limit", str(limit)]
        assert prepare.main(arguments) == 0
    names = [{row["file"] for row in rows_of(tmp_path / f"data{limit}" / "manifest.csv")} for limit in (4, 6)]
    assert len(names[0]) == 4 and len(names[1]) == 6 and names[0] < names[1]


# -------------------------------------------------------------------------------------------------------------- parts


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(0, 60), st.integers(46, 120), st.integers(0, 2**31))
def test_the_rectangle_found_is_bare(top: int, left: int, width: int, seed: int) -> None:
    """A clean rectangle in noise is found and never exceeded by much."""
    rng = np.random.default_rng(seed)
    skin = rng.random((90, 200)) < 0.5
    right = left + width
    skin[top:, left:right] = True
    box = blanks.largest_rectangle(skin)
    assert box is not None
    x0, y0, x1, y1 = box
    assert skin[y0:y1, x0:x1].mean(1).min() >= 0.97
    assert 0.34 <= (y1 - y0) / (x1 - x0) <= 0.62 + 1e-9
    assert (x1 - x0) >= 0.9 * min(width, (90 - top) / 0.34) - 4


def test_hair_at_a_corner_is_cut_off_and_a_highlight_is_not() -> None:
    y, x = np.mgrid[:40, :130].astype(np.float32)
    lab = np.stack([70 - ((x - 65) / 14) ** 2 * 0.5 - 0.1 * y, np.full_like(x, 14), np.full_like(x, 20)], axis=2)
    lab[..., 0] += 14 * np.exp(-((x - 60) ** 2 + (y - 18) ** 2) / 60)
    lab[24:29, 80:90, 0] -= 25
    assert not blanks.departures(lab).any(), "a highlight or a mole in the middle is skin"
    lab[:12, :20] -= [25, 5, 8]
    off = blanks.departures(lab)
    assert off[:10, :18].mean() > 0.9 and not off[16:, 26:].any()
    box = blanks.bare_rectangle(lab, np.ones((40, 130), bool))
    assert box is not None and (box[0] >= 18 or box[1] >= 10)


def test_skin_tones_are_named_by_their_angle() -> None:
    assert metrics.typology_angle(np.array([70.0, 10, 20])) == pytest.approx(45)
    assert metrics.tone(56) == "very light" and metrics.tone(0) == "brown" and metrics.tone(-60) == "dark"
    table = filters.acceptance([{"cheek_ita": -50.0, "taken": 1}, {"cheek_ita": -40.0, "taken": 0}])
    assert table == [{"tone": "dark", "n": 2, "taken": 1, "share": 0.5}]


def test_generated_skin_covers_the_range_of_skin() -> None:
    angles = []
    for seed in range(40):
        skin = synthetic.synthetic_forehead(64, np.random.default_rng(seed))
        assert skin.shape == (32, 64, 3)
        angles.append(metrics.typology_angle(np.median(metrics.lab_of(skin).reshape(-1, 3), axis=0)))
    assert min(angles) < -30 and max(angles) > 50


def test_filters_are_measured_against_labels(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        "file,glasses,reason,taken\na,1,taken,1\nb,1,hair on the forehead: strands,0\nc,0,taken,1\nd,0,hat: worn,0\n"
    )
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "file,glasses,hat,hair_covered_forehead,usable\na,1,0,0,1\nb,0,0,1,0\nc,1,0,0,1\nd,0,1,0,1\nelsewhere,1,1,1,1\n"
    )
    figures = {row["name"]: row for row in filters.measure_filters(tmp_path, labels)}
    assert (figures["glasses"]["precision"], figures["glasses"]["recall"], figures["glasses"]["n"]) == (0.5, 0.5, 4)
    assert (figures["usable"]["precision"], figures["usable"]["recall"]) == (1.0, 0.667)
    assert (figures["hat"]["precision"], figures["hat"]["recall"]) == (1.0, 1.0)


# --------------------------------------------------------------------------------------------------- real photographs


@pytest.fixture(scope="module")
def real(landmarks: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict]]:
    """The labelled photographs, prepared once with two workers."""
    if not (PHOTOS / "manifest.csv").is_file():
        pytest.skip(f"no photographs in {PHOTOS}; set FACEERASER_PHOTOS")
    folder = tmp_path_factory.mktemp("real")
    photos = folder / "photos"
    photos.mkdir()
    labelled = {row["file"] for row in rows_of(LABELS)}
    for name in labelled:
        (photos / name).symlink_to(PHOTOS / name)
    listed = [row for row in rows_of(PHOTOS / "manifest.csv") if row["file"] in labelled]
    preparing.write_csv(photos / "manifest.csv", list(listed[0]), listed)
    command = [
        sys.executable,
        str(SCRIPT),
        str(photos),
        str(folder / "data"),
        "--workers",
        "2",
        "--labels",
        str(LABELS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    yield folder / "data", json.loads(done.stdout.strip().splitlines()[-1])


def test_real_photographs_keep_the_contract(real: tuple[Path, dict]) -> None:
    folder, report = real
    (folder / "filters.json").rename(folder.parent / "filters.json")
    check_contract(folder, 256)
    (folder.parent / "filters.json").rename(folder / "filters.json")
    wanted = {row["file"]: (row["split"], row["group"]) for row in rows_of(PHOTOS / "manifest.csv")}
    for row in rows_of(folder / "manifest.csv"):
        assert (row["split"], row["group"]) == wanted[row["file"]]
    assert "sfhqt" not in (folder / "eval.csv").read_text()
    assert report["photos"] == 150


def test_the_filters_find_what_was_labelled_by_eye(real: tuple[Path, dict]) -> None:
    figures = {row["name"]: row for row in real[1]["filters"]}
    assert figures["glasses"]["precision"] >= 0.9 and figures["glasses"]["recall"] >= 0.85
    assert figures["usable"]["precision"] >= 0.93 and figures["usable"]["recall"] >= 0.8


def test_no_skin_tone_is_left_behind(real: tuple[Path, dict]) -> None:
    """Of the foreheads that a person would use, those of dark skin are taken nearly as often as those of light skin."""
    usable = {row["file"] for row in rows_of(LABELS) if row["usable"] == "1"}
    rows = [row for row in rows_of(real[0] / "manifest.csv") if row["file"] in usable]
    dark = [row["taken"] == "1" for row in rows if float(row["ita"]) <= 10]
    light = [row["taken"] == "1" for row in rows if float(row["ita"]) > 10]
    assert len(dark) >= 20 and np.mean(dark) >= 0.8
    assert np.mean(dark) >= np.mean(light) - 0.12

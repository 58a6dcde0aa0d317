"""benchmarks/apps.py: what it measures is what it says, on the astronaut and few frames."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import script
from PIL import Image

from faceeraser import shipped
from faceeraser.face.finder import find_faces
from faceeraser.system.script import GateFailed

apps = script("benchmarks/apps.py")


@pytest.fixture(scope="module")
def astronaut(landmarks: None) -> np.ndarray:
    import skimage.data

    return np.ascontiguousarray(skimage.data.astronaut())


def test_what_does_not_depend_on_where_it_is_is_steady_and_what_does_is_not():
    """A fill with the hole's surroundings' mean is as steady as can be; one with stripes of the picture's own columns is
    not, and by as much as two stripes differ on average.
    """
    crop = np.full((256, 256, 3), 100, np.uint8)
    mask = np.zeros((256, 256), np.uint8)
    mask[100:150, 90:160] = 1

    def mean(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        return np.where(hole[..., None] > 0, image[hole == 0].mean(0).round().astype(np.uint8), image)

    def stripes(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        columns = np.where(np.arange(256) // 8 % 2, 120, 80).astype(np.uint8)
        return np.where(hole[..., None] > 0, columns[None, :, None], image)

    kinds = apps.changes(crop.shape)
    assert set(kinds) == {"shift", "turn", "exposure"}
    for ways in kinds.values():
        assert apps.unsteadiness(mean, crop, mask, ways) < 1
    assert apps.unsteadiness(stripes, crop, mask, kinds["shift"]) == pytest.approx(20, abs=1), "sideways 40, down 0"
    assert apps.unsteadiness(stripes, crop, mask, kinds["exposure"]) == pytest.approx(5, abs=1), "the stripes do not follow"


def test_frames_move_and_the_face_stays_in_them(astronaut):
    (face,) = find_faces(astronaut)[:1]
    frames = apps.moving(astronaut, face, 60)
    assert {frame.shape for frame in frames} == {(480, 640, 3)}
    places = [face.moved(apps.pose(face, apps.SMALL, k / apps.FPS)) for k in range(60)]
    meshes = np.array([face.mesh for face in places])
    assert meshes.min() > 0 and (meshes < [640, 480]).all()
    assert np.ptp(meshes.mean(1)[:, 0]) > 20 and np.ptp([face.roll for face in places]) > 5
    (seen,) = find_faces(frames[30])[:1]
    assert np.abs(seen.mesh - places[30].mesh).mean() < 0.05 * seen.eye_distance


def test_the_benchmark_writes_its_rows(astronaut, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(apps, "PORTRAIT", (800, 600))
    monkeypatch.setattr(apps, "PORTRAIT_FACE", 300.0)
    (tmp_path / "photos").mkdir()
    Image.fromarray(astronaut).save(tmp_path / "photos" / "astronaut.png")
    arguments = [tmp_path / "photos", "--frames", 20, "--runs", 1, "--faces", 1, "--json", tmp_path / "apps.json"]
    arguments += ["--previous", Path(__file__).parent.parent, shipped.PLAN_FILE]
    assert apps.main([str(word) for word in arguments]) == 0
    capsys.readouterr()
    rows = {row["name"]: row for row in json.loads((tmp_path / "apps.json").read_text())["rows"]}
    kinds = [f"{name}{kind}" for name in ("temporal", "temporal_model") for kind in ("", "_shift", "_turn", "_exposure")]
    assert {*kinds, "tracking", *apps.AGAINST} <= set(rows)
    for name, row in rows.items():
        if "share" in row:
            # What ships only plans, a small part of a photograph; how small, a busy machine tells otherwise each time.
            assert sum(row["share"].values()) == pytest.approx(1) and row["share"]["model"] > 0.002
            wanted = {"decode", "landmarks", "mask", "cut", "model", "paste", "encode", "find"}
            assert set(row["share"]) == wanted, name
        if name.startswith("waits_"):
            assert row["faces"] == (20 if "video" in name else 1) and row["cpu_ms"] > 0, name
            # The previous one is this one here: what both compute is the same but for what else the machine does.
            assert row["ratio"] == pytest.approx(1, rel=0.6) and row["previous"]["faces"] == row["faces"], name
            assert 100 < row["peak_mb"] < 500 and row.get("model_times", 2) > 1
        if "goal" in row:
            assert isinstance(row["met"], bool)
    assert rows["temporal"]["ours"] == pytest.approx(np.mean([rows[f"temporal_{k}"]["ours"] for k in apps.changes((9, 9))]))
    tracking = rows["tracking"]
    assert tracking["rest_jitter_smoothed"] < 0.5 * tracking["rest_jitter_raw"]
    assert tracking["moving_lag_smoothed"] < 0.015
    if "video_480p_1" in rows:
        assert rows["video_480p_1"]["with_face"] == 20 and rows["video_480p_1"]["fps"] > 0


def test_frames_that_differ_between_cores_fail_the_gate(astronaut, tmp_path, monkeypatch):
    (tmp_path / "astronaut.png").write_bytes(b"")
    rows = iter([({"name": "a"}, "one"), ({"name": "b"}, "another")])
    monkeypatch.setattr(apps, "on_cores", lambda number: True)
    monkeypatch.setattr(apps, "time_photograph", lambda *_: {"name": "photo"})
    monkeypatch.setattr(apps, "waits", lambda *_: [])
    monkeypatch.setattr(apps, "time_video", lambda *_: next(rows))
    args = apps.build_parser().parse_args([str(tmp_path), "--frames", "20"])
    with pytest.raises(GateFailed, match="bit for bit"):
        apps.run(args)


def test_what_cannot_be_measured_is_one_line(tmp_path, capsys):
    for arguments, message in (
        ([tmp_path / "gone", "--frames", 3], "--frames 3"),
        ([tmp_path / "gone", "--frames", 20, "--previous", tmp_path, tmp_path / "gone.tflite"], "gone.tflite"),
        ([tmp_path / "gone", "--photo", tmp_path / "gone.jpg"], "gone.jpg"),
    ):
        assert apps.main([str(word) for word in arguments]) == 2
        assert message in capsys.readouterr().err

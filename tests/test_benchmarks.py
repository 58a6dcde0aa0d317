"""The benchmark scripts on models that take milliseconds: what they print, write, refuse, and the exit codes."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import onnx
import pytest
from conftest import script as any_script
from onnx import TensorProto, helper

from faceeraser.artifacts.card import write_card
from faceeraser.measurement import looks, results
from faceeraser.system import writing
from faceeraser.system.legacy import find_python
from faceeraser.system.script import GateFailed

ROOT = Path(__file__).resolve().parents[1]
SIZE = 64


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fidelity, latency = script("fidelity"), script("latency")


def write_data(folder: Path, source: str = "photos", n: int = 3) -> Path:
    """A data folder as train/prepare.py makes it, of smooth random skin with a hole in it."""
    rng = np.random.default_rng(7)
    for kind in ("blanks", "masks"):
        (folder / kind / "val").mkdir(parents=True)
    listed, known = (
        ["blank,mask"],
        ["file,split,group,taken,reason,forehead_px,mask,face_px,ita,glasses,blank,mask_file"],
    )
    for k in range(n):
        skin = cv2.GaussianBlur(rng.normal((110, 135, 170), 60, (SIZE, SIZE, 3)), (0, 0), 1.5).clip(0, 255).astype(np.uint8)
        parts = np.zeros((SIZE, SIZE), np.uint8)
        parts[5:18, 8:40] = 1 + 2  # brows and eyes
        cv2.imwrite(str(folder / f"blanks/val/p{k}.png"), skin)
        cv2.imwrite(str(folder / f"masks/val/p{k}.png"), parts)
        listed.append(f"blanks/val/p{k}.png,masks/val/p{(k + 1) % n}.png")
        known.append(f"p{k}.jpg,val,p{k},1,,{200 if k else 60},1,200,40,0,blanks/val/p{k}.png,masks/val/p{k}.png")
    (folder / "eval.csv").write_text("\n".join(listed) + "\n")
    (folder / "manifest.csv").write_text("\n".join(known) + "\n")
    about = {"name": folder.name, "source": source, "size": SIZE, "seed": 0, "n": {"val": n}}
    about["eval_sha256"] = hashlib.sha256((folder / "eval.csv").read_bytes()).hexdigest()
    (folder / "data.json").write_text(json.dumps(about))
    return folder


def write_model(path: Path, colour: float, size: int = SIZE, precision: str = "fp32", history=None) -> Path:
    """An .onnx that paints the hole in one grey, and its card."""
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, size, size]) for n, c in (("image", 3), ("mask", 1))]
    out = [helper.make_tensor_value_info("erased", TensorProto.FLOAT, [1, 3, size, size])]
    nodes = [
        helper.make_node("Sub", ["one", "mask"], ["keep"]),
        helper.make_node("Mul", ["image", "keep"], ["outside"]),
        helper.make_node("Mul", ["mask", "grey"], ["inside"]),
        helper.make_node("Add", ["outside", "inside"], ["erased"]),
    ]
    constants = [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in (("one", 1.0), ("grey", colour))]
    graph = helper.make_graph(nodes, "grey", ports, out, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    write_card(
        path,
        {
            "precision": precision,
            "resolution": size,
            "edges": "inside",
            "warp": "none",
            "notes": "",
            "parity": {"n": 0, "passed": True},
            "history": history or [{"stage": "train", "options": {"features": "off"}}],
        },
    )
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    """A working folder with data and three models: fp32 paints well, near almost as well, far does not."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "faces")
    for name, colour in (("fp32", 0.585), ("near", 0.589), ("far", 0.3)):
        write_model(tmp_path / f"{name}.onnx", colour)
    return tmp_path


def call(module: ModuleType, command: str) -> int:
    return module.main(command.split())


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


# --- fidelity --------------------------------------------------------------------------------------------------------


def test_fidelity_gives_the_reference_then_the_models_then_the_classical_rows(place, capsys) -> None:
    command = "near.onnx far.onnx --reference fp32.onnx --data faces --json out/result.json"
    assert call(fidelity, command) == 0
    result = json.loads(Path("out/result.json").read_text())
    assert last_line(capsys) == result
    assert list(result) == ["command", "commit", "hardware", "versions", "data", "rows", "gain_over_navier_stokes"]
    assert result["command"] == f"python benchmarks/fidelity.py {command}"
    digest = hashlib.sha256(Path("faces/eval.csv").read_bytes()).hexdigest()
    assert result["data"] == {"name": "faces", "source": "photos", "size": SIZE, "n": 3, "eval_sha256": digest}
    rows = result["rows"]
    assert [row["name"] for row in rows] == ["fp32", "near", "far", "mean", "telea", "navier_stokes", "skin_patches"]
    assert [("psnr_vs_fp32" in row) for row in rows] == [False, True, True, False, False, False, False]
    for row in rows:
        assert {"psnr_hole", "psnr_hole_std", "psnr_hole_mirrored", "psnr_hole_smooth", "psnr", "mae", "n"} <= set(row)
        assert (row["n"], row["texture_n"]) == (3, 2)  # one forehead was 60 px wide
    for row in rows[:3]:
        path = place / f"{row['name']}.onnx"
        assert (row["bytes"], row["kind"], row["perceptual"]) == (path.stat().st_size, "onnx", "off")
        assert {"gmacs", "params", "precision", "file"} <= set(row)


def test_psnr_vs_fp32_is_taken_against_the_reference_s_pictures(place, capsys) -> None:
    call(fidelity, "far.onnx --reference fp32.onnx --data faces")
    steps = abs(round(0.585 * 255) - round(0.3 * 255))  # both paint one grey, so the difference is the same everywhere
    assert last_line(capsys)["rows"][1]["psnr_vs_fp32"] == pytest.approx(20 * np.log10(255 / steps))


def test_a_drop_beyond_max_drop_fails_and_says_which_and_by_how_much(place, capsys) -> None:
    command = "near.onnx far.onnx --reference fp32.onnx --data faces --json r.json --max-drop 0.5"
    assert call(fidelity, command) == 1
    rows = {row["name"]: row["psnr_hole_mirrored"] for row in json.loads(Path("r.json").read_text())["rows"]}
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"far is {rows['fp32'] - rows['far']:.3f} dB below fp32" in message and "near" not in message
    assert call(fidelity, "near.onnx --reference fp32.onnx --data faces --max-drop 0.5") == 0


def test_the_gate_is_the_number_given_and_judges_models_only() -> None:
    rows = [{"name": n, "psnr_hole_mirrored": v} for n, v in (("fp32", 35.0), ("a", 34.9), ("b", 36.0), ("mean", 20.0))]
    rows[-1]["kind"] = "classical"
    fidelity.gate(rows, 0.11)
    with pytest.raises(GateFailed, match=r"a is 0\.100 dB below fp32$"):
        fidelity.gate(rows, 0.09)


def test_rows_are_named_and_the_reference_is_not_measured_twice(place, capsys) -> None:
    assert call(fidelity, "fp32.onnx --reference fp32.onnx --data faces --limit 1 --rows int8=near.onnx") == 0
    rows = last_line(capsys)["rows"]
    assert [row["name"] for row in rows[:2]] == ["fp32", "int8"] and rows[0]["n"] == 1


def test_another_resolution_is_resized_says_so_and_is_not_gated(place, capsys) -> None:
    write_model(place / "small.onnx", 0.585, size=24)
    assert call(fidelity, "small.onnx --reference fp32.onnx --data faces") == 0
    rows = last_line(capsys)["rows"]
    assert rows[1]["resized_from"] == SIZE and rows[1]["resolution"] == 24 and "psnr_vs_fp32" not in rows[1]
    assert "resized_from" not in rows[0]
    assert call(fidelity, "small.onnx --reference fp32.onnx --data faces --max-drop 1") == 2
    assert "figures of one resolution only" in capsys.readouterr().err


def test_synthetic_data_is_called_so(place, capsys) -> None:
    write_data(place / "generated", "synthetic")
    assert call(fidelity, "--reference fp32.onnx --data generated") == 0
    out = capsys.readouterr().out
    assert "SYNTHETIC" in out and json.loads(out.strip().splitlines()[-1])["data"]["source"] == "synthetic"


def test_a_checkpoint_folder_is_measured_like_an_exported_file(place, capsys) -> None:
    from faceeraser.model import checkpoint, networks
    from faceeraser.model.config import Config

    pipeline = networks.FaceEraser(Config(preset="mobile", resolution=SIZE), width=4).eval()
    with writing.whole_folder(place / "runs") as folder:
        checkpoint.save(folder, pipeline, stage="train", options={"features": "vgg"}, metrics={})
    assert call(fidelity, "runs --reference fp32.onnx --data faces --limit 1") == 0
    row = last_line(capsys)["rows"][1]
    gmacs, params = networks.cost_of(pipeline)
    assert (row["name"], row["kind"], row["perceptual"], row["bytes"]) == ("runs", "checkpoint", "vgg", None)
    assert (row["gmacs"], row["params"]) == (gmacs, params)


def test_milliseconds_are_those_of_the_row_s_file_or_else_of_its_name(place, capsys) -> None:
    timed = [
        {"model": "x", "file": "near.onnx", "runtime": "litert", "threads": 1, "median_ms": 4.5},
        {"model": "near", "file": "other", "runtime": "litert", "threads": 1, "median_ms": 7.0},
        {"model": "near", "file": "near.onnx", "runtime": "litert", "threads": 2, "median_ms": 1.0},
        {"model": "near", "file": "runs/near", "runtime": "torch", "threads": 1, "median_ms": 9.0},
        {"model": "fp32", "file": "fp32.onnx", "runtime": "litert", "threads": 1, "median_ms": None},
    ]
    rows = [{"name": row["model"], **row} for row in timed]
    results.write_result(Path("l.json"), results.result(rows, None, ["latency.py"]))
    assert call(fidelity, "near.onnx --reference fp32.onnx --data faces --limit 1 --latency l.json") == 0
    fp32, near, *_ = last_line(capsys)["rows"]
    assert (near["ms"], near["ms_torch"]) == (4.5, 9.0) and "ms" not in fp32


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("none.onnx --reference fp32.onnx --data faces", "none.onnx: no such file"),
        ("near.onnx --reference fp32.onnx --data nowhere", "found no data.json"),
        ("near.onnx other/near.onnx --reference fp32.onnx --data faces", "two rows would be called near"),
        ("telea=near.onnx --reference fp32.onnx --data faces", "two rows would be called telea"),
        ("faces --reference fp32.onnx --data faces", "expected a checkpoint folder"),
        ("near.onnx --reference fp32.onnx --data faces --limit 0", "--limit is 0"),
        ("near.onnx --reference fp32.onnx --data faces --latency faces/data.json", "expected a result of latency.py"),
    ],
)
def test_a_user_s_mistake_is_one_clear_line_and_exit_code_2(place, capsys, command: str, message: str) -> None:
    (place / "other").mkdir()
    write_model(place / "other" / "near.onnx", 0.5)
    assert call(fidelity, command) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1] and "Traceback" not in "".join(lines)


def test_an_edited_list_is_refused(place, capsys) -> None:
    lines = Path("faces/eval.csv").read_text().splitlines()
    Path("faces/eval.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert call(fidelity, "near.onnx --reference fp32.onnx --data faces") == 2
    assert "the list was changed" in capsys.readouterr().err


def test_the_gain_over_navier_stokes_is_given_by_skin_tone(place, capsys) -> None:
    assert call(fidelity, "near.onnx --reference fp32.onnx --data faces") == 0
    result = last_line(capsys)
    rows, gains = {row["name"]: row for row in result["rows"]}, result["gain_over_navier_stokes"]
    assert set(gains) == {"fp32", "near"}
    gain = rows["near"]["psnr_hole_mirrored"] - rows["navier_stokes"]["psnr_hole_mirrored"]
    everyone, group = gains["near"]
    assert everyone["name"] == "all" and everyone["gain"] == pytest.approx(gain) and everyone["n"] == 3
    assert group["name"] == "intermediate" and group["low"] <= group["gain"] <= group["high"]


def test_the_noise_control_has_the_energy_and_not_the_distance_of_texture(place, capsys) -> None:
    assert call(fidelity, "near.onnx --reference fp32.onnx --data faces --noise near") == 0
    rows = {row["name"]: row for row in last_line(capsys)["rows"]}
    assert rows["near_noise"]["texture_energy"] == pytest.approx(1, abs=0.3) and rows["near"]["texture_energy"] < 0.05
    assert call(fidelity, "near.onnx --reference fp32.onnx --data faces --noise far") == 2
    assert "--noise far: no row is called so; expected one of fp32, near" in capsys.readouterr().err


# --- photos ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def people(landmarks, place) -> Path:
    """Two photographs of one face, the second its mirror image, and a model that paints grey."""
    from skimage.data import astronaut

    (place / "people").mkdir()
    for name, picture in (("a", astronaut()), ("b", astronaut()[:, ::-1])):
        cv2.imwrite(str(place / "people" / f"{name}.png"), cv2.resize(picture, None, fx=2, fy=2)[..., ::-1])
    write_model(place / "grey.onnx", 0.6, 256)
    return place


def test_whole_photographs_have_a_row_for_every_painter_and_the_controls_miss_goals(people, capsys) -> None:
    arguments = "people grey.onnx other=grey.onnx --sheet out/sheet.png --json out/p.json"
    assert call(script("photos"), arguments) == 0
    result = json.loads(Path("out/p.json").read_text())
    assert last_line(capsys) == result
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["grey", "other", "skin_patches", "navier_stokes", "noise", "tile", "own_skin"]
    assert result["data"]["n"] == 2 and result["data"]["without_own_skin"] == [] and result["data"]["real_skin"] == {}
    medians = {name: {f: row[f]["median"] for f in looks.SKIN_FIGURES if row.get(f)} for name, row in rows.items()}
    for name, row in rows.items():
        assert row["n"] == 2 and row["skin_kid"] is None, "there is no split to compare with"
        assert set(row["grain"]) == {"median", "p90", "low", "high", "n"}
        assert set(row["groups"]) >= {"200 to 400 px", "intermediate"}
        assert name == "own_skin" or (row["found"] in (0, 0.5, 1) and medians[name]["cover"] > 0.98)
    assert medians["grey"] == medians["other"], "one model under two names has one row's figures"
    assert medians["skin_patches"]["texture"] == pytest.approx(1, abs=0.5) and medians["grey"]["texture"] < 0.4
    assert medians["grey"]["step"] > 2 * medians["skin_patches"]["step"]
    assert medians["tile"]["repeat"] > 0.6 > 0.5 > medians["skin_patches"]["repeat"]
    assert medians["noise"]["spectrum"] > medians["skin_patches"]["spectrum"] + 0.5
    assert min(rows[name]["painting_misses"] for name in ("noise", "tile")) >= 1
    assert cv2.imread("out/sheet.png").shape[1] == 2 * 7 * 160


def test_a_blind_pair_hides_which_is_which_and_the_key_tells(people) -> None:
    photos = script("photos")
    shown = {"grey": np.full((40, 40, 3), 90, np.uint8), "skin_patches": np.full((40, 40, 3), 200, np.uint8)}
    faces = [photos.Measured(f"{k}.png", 100, 0, {}, {}, {}, shown) for k in range(12)]
    photos.write_blind(Path("blind"), faces, ("grey", "skin_patches"), 10, 3)
    key = json.loads(Path("blind/key.json").read_text())["pairs"]
    assert sorted(path.name for path in Path("blind").iterdir()) == [*sorted(key), "key.json"] and len(key) == 10
    for name, sides in key.items():
        pair = cv2.imread(f"blind/{name}")
        assert {sides["left"], sides["right"]} == set(shown)
        assert (pair[:, :40] == shown[sides["left"]]).all(), "at full size"
        assert (pair[:, -40:] == shown[sides["right"]]).all(), "at full size"
    assert len({sides["photograph"] for sides in key.values()}) == 10
    assert {sides["left"] for sides in key.values()} == set(shown), "both sides are used"
    photos.write_blind(Path("again"), faces, ("grey", "skin_patches"), 10, 3)
    photos.write_blind(Path("other"), faces, ("grey", "skin_patches"), 10, 4)
    again, other = (json.loads(Path(f"{name}/key.json").read_text())["pairs"] for name in ("again", "other"))
    assert again == key != other
    assert call(photos, "people grey.onnx --limit 1 --blind blind") == 2, "a folder that exists is refused"
    assert call(photos, "people grey.onnx --limit 1 --blind new --pair navier_stokes grey") == 0
    sides = json.loads(Path("new/key.json").read_text())["pairs"]["001.png"]
    assert {sides["left"], sides["right"]} == {"navier_stokes", "grey"}


def test_goals_are_judged_by_their_bounds_and_groups_by_their_intervals() -> None:
    photos = script("photos")

    def interval(value: float, low: float | None = None, high: float | None = None) -> dict:
        return {"median": value, "p90": value, "low": low, "high": high, "n": 9}

    good = {
        "grain": interval(0),
        "texture": interval(1),
        "spectrum": interval(0.5),
        "outliers": interval(0),
        "bleed": interval(0),
        "step": interval(0.5),
        "crease": interval(2),
        "cover": interval(1),
        "area": interval(0.5),
        "repeat": interval(0.12),
        "repeat_own": interval(0.1),
        "skin_kid": interval(40),
    }
    rows = {name: {"name": name, "skin_kid": interval(value)} for name, value in (("previous", 100), ("skin_patches", 39))}
    groups = {"dark": {"texture": interval(0.7, 0.6, 0.84)}, "light": {"texture": interval(0.7, 0.6, 0.9)}}
    row = {"name": "x", **good, "groups": groups}
    goals = photos.judged(row, rows)
    missed = {goal for goal, met in goals["goals"].items() if not met}
    assert missed == {"crease median at most 1.08", "crease p90 at most 1.2", "skin_kid median at most 39 (skin_patches's)"}
    assert goals["goals"]["skin_kid median at most 50 (0.5 of previous's)"] is True
    assert goals["groups_missed"] == ["dark: texture"], "an interval that has the goal in it is no miss"
    assert goals["painting_misses"] == 1, "creases are the mask's"
    for figure, value in (("grain", 0.05), ("texture", 0.8), ("spectrum", 1.1), ("step", 0.9), ("repeat", 0.16)):
        worse = photos.judged({**row, figure: interval(value)}, rows)
        assert {goal for goal, met in worse["goals"].items() if not met} - missed, figure
    assert photos.judged({**row, "step": None}, rows)["goals"]["step median at most 0.8"] is None


def test_a_control_that_misses_no_goal_is_a_failed_gate(people, capsys, monkeypatch) -> None:
    photos = script("photos")
    monkeypatch.setattr(photos, "GOALS", ())
    monkeypatch.setattr(photos, "goals_of", lambda row, rows: [])
    assert call(photos, "people grey.onnx --limit 1") == 1
    assert "noise is a control and meets all goals" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_measure_what_one_does(people) -> None:
    base = [sys.executable, str(ROOT / "benchmarks" / "photos.py"), "people", "grey.onnx", "--json"]
    for workers in ("1", "2"):
        assert subprocess.run([*base, f"{workers}.json", "--workers", workers], check=False).returncode == 0
    one, two = (json.loads(Path(f"{workers}.json").read_text()) for workers in ("1", "2"))
    assert one["rows"] == two["rows"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("people none.onnx", "none.onnx: no such file"),
        ("people fp32.onnx tile=near.onnx", "two rows would be called tile"),
        ("people fp32.onnx --limit 0", "--limit 0: expected at least 1"),
        ("people fp32.onnx --workers 0", "--workers 0: expected at least 1"),
        ("people fp32.onnx --blind b --pair fp32 telea", "--pair telea: no row is called so"),
        ("people fp32.onnx --openpeople faces", "found no studio_portrait.jpg or amateur_selfie.jpg"),
        ("nowhere fp32.onnx", "nowhere: no such folder"),
    ],
)
def test_a_mistake_in_what_photos_is_told_is_one_clear_line(place, capsys, command: str, message: str) -> None:
    (place / "people").mkdir()
    cv2.imwrite(str(place / "people" / "a.png"), np.full((64, 64, 3), 90, np.uint8))
    assert call(script("photos"), command) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1] and "Traceback" not in "".join(lines) and not Path("b").exists()


def test_photos_refuses_a_folder_without_faces_in_one_line(landmarks, place, capsys) -> None:
    (place / "people").mkdir()
    assert call(script("photos"), "people fp32.onnx") == 2
    cv2.imwrite(str(place / "people" / "a.png"), np.full((64, 64, 3), 90, np.uint8))
    assert call(script("photos"), "people fp32.onnx") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("photos.py")]
    assert "no photographs to validate on" in errors[0] and "found no face in any of 1 photographs" in errors[1]


# --- latency ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tflite(tmp_path_factory) -> Path:
    import tensorflow as tf

    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 3)).astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec([1, SIZE, SIZE, 3]), tf.TensorSpec([1, SIZE, SIZE, 1])])
    def eraser(image, mask):
        return {"erased": tf.nn.conv2d(tf.concat([image, mask], 3), kernel, 1, "SAME")}

    path = tmp_path_factory.mktemp("tflite") / "tiny.tflite"
    converter = tf.lite.TFLiteConverter.from_concrete_functions([eraser.get_concrete_function()])
    path.write_bytes(converter.convert())
    return path


def test_latency_times_every_runtime_in_its_own_process(place, tflite, capsys) -> None:
    (place / "broken.tflite").write_bytes(b"no model")
    arguments = ["near.onnx", f"tiny={tflite}", "broken.tflite", "--runtimes", "onnxruntime", "litert", "tflite-runtime"]
    assert latency.main([*arguments, "--rounds", "5", "--json", "l.json"]) == 0
    result = json.loads(Path("l.json").read_text())
    table = capsys.readouterr().out
    assert list(result) == ["command", "commit", "hardware", "versions", "data", "rows"]
    rows = {(row["model"], row["runtime"]): row for row in result["rows"]}
    assert list(rows) == [
        ("near", "onnxruntime"),
        ("tiny", "litert"),
        ("tiny", "tflite-runtime"),
        ("broken", "litert"),
        ("broken", "tflite-runtime"),
    ]
    first, second = rows["near", "onnxruntime"], rows["tiny", "litert"]
    for row in (first, second):
        assert row["runs"] >= 50 and row["warmup"] >= 10 and row["threads"] == 1
        assert 0 < row["median_ms"] <= row["p90_ms"] and row["peak_mb"] > row["import_mb"] > 1
    assert first["ratio"] == 1 and first["xnnpack"] is None
    assert second["ratio"] > 0 and second["xnnpack"] is True
    assert rows["broken", "litert"]["error"] and rows["broken", "litert"]["median_ms"] is None
    # Not there in this folder: skipped, visibly, with what to do.
    if find_python() is None:
        assert "make legacy" in rows["tiny", "tflite-runtime"]["skipped"] and "skipped: tflite-runtime" in table
    assert "failed: " in table


def test_workers_take_turns_after_all_are_warm(place, monkeypatch) -> None:
    asked: list[tuple[str, int]] = []

    class Fake(latency.Worker):
        def __init__(self, python, row, path, plugin):
            self.row, self.rounds = row | {"peak_mb": 2.0, "import_mb": 1.0}, []

        alive = True

        def ask(self, runs: int) -> list[float]:
            asked.append((self.row["model"], runs))
            return [1.0 + len(asked)] * runs if self.row["model"] == "near" else [2.0 * len(asked)] * runs

        def close(self) -> None:
            pass

    monkeypatch.setattr(latency, "Worker", Fake)
    assert call(latency, "near.onnx far.onnx --rounds 4 --runs 51 --warmup 12") == 0
    assert asked == [("near", 12), ("far", 12)] + [("near", 13), ("far", 13)] * 4


def test_the_ratio_is_taken_within_rounds_so_that_a_slowing_machine_cancels_out() -> None:
    first = [[10.0] * 5, [20.0] * 5, [40.0] * 5]
    row = {"peak_mb": 3.0, "import_mb": 1.0}
    latency.summarize(row, [[5.0] * 5, [10.0] * 5, [20.0] * 5], first)
    assert (row["ratio"], row["median_ms"], row["p90_ms"], row["runs"]) == (0.5, 10.0, 20.0, 15)
    dead = {}
    latency.summarize(dead, [[], []], first)
    assert dead == {"median_ms": None, "p90_ms": None, "runs": 0, "ratio": None}


def test_tflite_without_xnnpack_is_seen(tflite, monkeypatch) -> None:
    import ai_edge_litert.interpreter as litert

    spec = {"runtime": "litert", "path": str(tflite), "threads": 1}
    assert latency.load(spec)[1]["xnnpack"] is True
    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    real = litert.Interpreter
    monkeypatch.setattr(litert, "Interpreter", lambda **kw: real(experimental_op_resolver_type=plain, **kw))
    assert latency.load(spec)[1]["xnnpack"] is False
    assert latency.shown({"xnnpack": False})["xnnpack"] == "OFF"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("none.tflite", "none.tflite: not found"),
        ("faces", "no runtime here runs this"),
        ("near.onnx --runtimes litert", "nothing to time"),
        ("near.onnx --runs 49", "expected at least 10, 50, 1 and 1"),
        ("near.onnx --warmup 9", "expected at least 10, 50, 1 and 1"),
        ("near.onnx --legacy-python none", "no such file; expected a Python"),
    ],
)
def test_latency_refuses_a_mistake_in_one_line(place, capsys, command: str, message: str) -> None:
    assert call(latency, command) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_latency_outlives_a_file_that_ends_the_process_of_its_runtime(place, tmp_path) -> None:
    """A damaged .tflite can end the interpreter's process, which is C++: that row says so, in the words of every command."""
    (python := tmp_path / "python").write_text("#!/bin/sh\nkill -SEGV $$\n")
    python.chmod(0o755)
    row = {"runtime": "litert", "threads": 1}
    worker = latency.Worker(python, row, place / "damaged.tflite", None)
    assert not worker.alive
    assert row["error"] == "ends the process that loads it (signal 11); it is damaged or not a model; export it again"


def test_latency_fails_when_nothing_could_be_timed(place, capsys) -> None:
    (place / "broken.tflite").write_bytes(b"no model")
    assert call(latency, "broken.tflite --runtimes litert") == 1
    assert "no model could be timed" in capsys.readouterr().err


# --- every form of exported file --------------------------------------------------------------------------------------


def forms(**changes):
    """Rows that meet every goal of export.py; `changes` are those of the row `gpu`."""
    taken = {"delegated_share": 1.0, "control_refused": True, "checker": "tf", "seconds": 30.0}
    made = [{"name": name, "file": f"{name}.tflite", **taken} for name in ("cpu", "gpu", "gpu-plan")]
    made[1] |= changes
    times = {"warp_onnxruntime": 10.0, "warp_torch": 2.0, "warp_cpu": 5.0, "warp_resampler": 1.4}
    return [*made, {"name": "torch", "ms": 1.0}, *({"name": name, "ms": ms} for name, ms in times.items())]


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"delegated_share": 0.999}, ["gpu: every node"]),
        ({"control_refused": False}, ["gpu: every node"]),
        ({"seconds": 61.0}, ["exporting one .tflite"]),
    ],
)
def test_a_goal_of_exported_files_is_missed_by_what_lies_outside_of_it(changes, missed) -> None:
    goals = script("export").verdict(forms(**changes))
    found = [name for name, goal in goals.items() if not goal["met"]]
    assert len(found) == len(missed) and all(name.startswith(start) for name, start in zip(found, missed, strict=True))


def test_every_form_is_made_of_a_stage_that_a_release_leaves(tmp_path, capsys) -> None:
    export = script("export")
    (tmp_path / "student").mkdir()
    assert export.main([str(tmp_path)]) == 2
    assert "expected what benchmarks/release.py leaves, with int8 and student" in capsys.readouterr().err
    for _, exporter, options in export.FILES.values():
        any_script(exporter).build_parser().parse_args(["runs/x", "exports/", *options])

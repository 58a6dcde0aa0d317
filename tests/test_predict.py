"""benchmarks/predict.py: that the fit finds what it should, that its error is what it says, that estimates are marked."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_benchmarks import script, tflite

from faceeraser.artifacts import contents
from faceeraser.artifacts.card import write_card
from faceeraser.measurement import results

__all__ = ["tflite"]  # a fixture
predict = script("predict")
COMMITTED = Path(__file__).resolve().parents[1] / "benchmarks/results/prediction.json"
FIELDS = {"precision": "fp32", "resolution": 64, "edges": "inside", "warp": "none", "notes": "", "history": []}
FIELDS |= {"parity": {"n": 0, "passed": True}}


def timed_rows(r: float, plain: float, dot: float) -> list:
    """The anchors with times that follow the form exactly, every place with a rate of its own."""
    places = sorted({a.place for a in predict.anchors()})
    rates = {place: 20.0 + 7 * k for k, place in enumerate(places)}
    truth = predict.Fit(r, {"plain": plain, "dot": dot}, rates)
    return [replace(a, ms=truth.ms(a)) for a in predict.anchors()]


def test_the_fit_finds_the_parameters_of_times_that_follow_the_form() -> None:
    fitted = predict.fit(timed_rows(3.0, 1.2, 0.4))
    assert fitted.r == pytest.approx(3.0, rel=1e-6) and fitted.q == pytest.approx({"plain": 1.2, "dot": 0.4}, rel=1e-6)
    assert predict.leave_one_out(timed_rows(3.0, 1.2, 0.4)) == pytest.approx([1.0] * len(predict.anchors()), rel=1e-6)


def test_an_anchor_that_is_off_is_left_out_of_its_own_fit() -> None:
    anchors = timed_rows(2.0, 1.1, 0.5)
    wrong = [replace(anchors[0], ms=2 * anchors[0].ms), *anchors[1:]]
    assert predict.leave_one_out(wrong)[0] == pytest.approx(0.5, rel=1e-6)  # the others say half of what it says
    inside = predict.fit(wrong).ms(wrong[0]) / wrong[0].ms
    assert inside > 0.55  # in the fit it would hide some of its own error


def test_published_times_are_many_and_each_has_its_source() -> None:
    anchors = predict.anchors()
    assert len(anchors) >= 60 and {a.source for a in anchors} == set(predict.SOURCES)
    assert all(a.gmacs > 0 and a.gb > 0 and a.ms > 0 for a in anchors)
    assert {predict.CLASSES[name][0] for name in predict.CLASSES} <= {a.place for a in anchors}
    with pytest.raises(ValueError, match="no int8 anchor on cores of kind dot"):
        predict.fit([a for a in anchors if a.int8 != "dot"])


def test_the_committed_prediction_is_what_the_code_says() -> None:
    committed = json.loads(COMMITTED.read_text())
    factors = predict.as_factor(predict.leave_one_out(predict.anchors()))
    assert committed["error"]["max_factor"] == pytest.approx(max(factors)) and committed["error"]["n"] == len(factors)
    assert committed["error"]["median_factor"] == pytest.approx(np.median(factors))
    assert [a["published_ms"] for a in committed["anchors"]] == [a.ms for a in predict.anchors()]
    largest = max(committed[name]["max_factor"] for name in ("error", "check"))
    assert predict.RANGE == committed["range_factor"] >= largest
    assert all(row["estimate"] is True and "ms" not in row and "median_ms" not in row for row in committed["rows"])


def test_moved_bytes_are_those_of_all_inputs_and_outputs(tflite) -> None:
    # image and mask in, their concatenation, a 3x3 convolution of 4 to 3 channels with its bias, at 64 x 64 in floats
    pixels, rows = 64 * 64, {row["type"]: row for row in contents.operators(tflite)}
    assert rows["CONCATENATION"]["moved_mb"] == pytest.approx(pixels * 8 * 4 / 1e6)
    assert rows["CONV_2D"]["moved_mb"] == pytest.approx((pixels * 7 + 3 * 3 * 4 * 3 + 3) * 4 / 1e6)
    with pytest.raises(ValueError, match=r"\.tflite files only"):
        contents.operators(Path("x.onnx"))


@pytest.mark.slow
def test_the_networks_can_be_counted_again(capsys) -> None:
    name = "mobilenet_v3_small_minimalistic"
    assert predict.recount([name]) == 0
    gmacs, moved = predict.NETWORKS[name]
    assert capsys.readouterr().out.strip() == f'"{name}": ({gmacs:.4f}, {moved:.2f}),'


@pytest.fixture
def exported(tflite, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(f"{name}.tflite").write_bytes(tflite.read_bytes())
        write_card(f"{name}.tflite", FIELDS)
    return tmp_path


def test_an_estimate_is_marked_in_every_row_and_on_the_screen(exported, capsys) -> None:
    assert predict.main(["a.tflite", "--json", "p.json"]) == 0
    out = capsys.readouterr().out
    assert "ESTIMATES, nothing was measured." in out and json.loads(out.strip().splitlines()[-1])["estimate"] is True
    rows = json.loads(Path("p.json").read_text())["rows"]
    assert [row["class"] for row in rows] == ["low", "middle", "high"]
    assert all(row["estimate"] is True and not {"ms", "median_ms"} & set(row) for row in rows)
    assert rows[0]["estimate_ms"] > rows[1]["estimate_ms"] > rows[2]["estimate_ms"] > 0
    assert all(row["high_ms"] / row["estimate_ms"] == pytest.approx(predict.RANGE) for row in rows)


def test_int8_costs_what_the_cores_say(exported) -> None:
    fitted = predict.fit(predict.anchors())
    floats = predict.estimates("a", Path("a.tflite"), fitted)
    write_card("a.tflite", FIELDS | {"precision": "int8"})
    for before, after in zip(floats, predict.estimates("a", Path("a.tflite"), fitted), strict=True):
        q = fitted.q["dot" if before["class"] == "high" else "plain"]
        gmacs, gb = before["gmacs"], before["moved_mb"] / 1e3
        ratio = (gmacs * q + fitted.r * gb) / (gmacs + fitted.r * gb)
        assert after["estimate_ms"] / before["estimate_ms"] == pytest.approx(ratio)


def test_the_check_says_how_far_the_form_is_off_our_own_times(exported, capsys) -> None:
    rows = [{"name": name, "ms": ms} for name, ms in (("a", 10.0), ("b", 40.0), ("other", 1.0))]
    results.write_result("r.json", results.result(rows, None, ["c"]))
    assert predict.main(["a.tflite", "b.tflite", "--check", "r.json", "--json", "p.json"]) == 0
    check = json.loads(Path("p.json").read_text())["check"]
    # One file twice: the form says one time for both, which lies in the middle, a factor of two from each.
    assert check["max_factor"] == pytest.approx(2.0) and [row["name"] for row in check["rows"]] == ["a", "b"]
    assert all(row["fitted_ms"] == pytest.approx(20.0) for row in check["rows"])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "no model"),
        ("none.tflite", "no such file"),
        ("x=a.tflite x=b.tflite", "two rows would be called x"),
        ("a.tflite --check none.json", "none.json: expected a result"),
        ("a.tflite --check r.json", "expected `ms` of two or more fp32 models given here, found 1"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(exported, capsys, command: str, message: str) -> None:
    results.write_result("r.json", results.result([{"name": "a", "ms": 10.0}], None, ["c"]))
    assert predict.main(command.split()) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert message in errors[-1]

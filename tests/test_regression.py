"""benchmarks/regression.py: what it calls worse, what it does not compare, what it refuses, and the XML it writes."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_benchmarks import ROOT, script

regression = script("regression")
HERE = {"cpu": "x", "cores": 2}
ROW = {
    "name": "int8",
    "psnr_hole_mirrored": 33.4,
    "psnr_hole_smooth": 36.1,
    "texture_energy": 0.9,
    "bytes": 1000,
    "ms": 30.0,
}


def result(*rows: dict, hardware: dict = HERE, sha: str | None = "ab", n: int = 3) -> dict:
    data = {"name": "faces", "n": n, "eval_sha256": sha}
    return {"command": "c", "commit": "d", "hardware": hardware, "versions": {"v": "1"}, "data": data, "rows": list(rows)}


@pytest.fixture
def compare(tmp_path: Path, monkeypatch, capsys):
    """`compare(new, old, flags)` -> (exit code, the JSON line or None, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(new: dict, old: dict, flags: str = "") -> tuple[int, dict | None, str]:
        Path("new.json").write_text(json.dumps(new))
        Path("old.json").write_text(json.dumps(old))
        code = regression.main(["new.json", "--baseline", "old.json", *flags.split()])
        printed = capsys.readouterr()
        lines = printed.out.strip().splitlines()
        return code, json.loads(lines[-1]) if lines else None, printed.err

    return run


def test_a_result_is_not_worse_than_itself(compare) -> None:
    code, printed, _ = compare(result(ROW), result(ROW))
    assert code == 0 and printed == {"compared": 5, "worse": [], "skipped": 0}


@pytest.mark.parametrize(
    ("change", "flags", "worse"),
    [
        ({"psnr_hole_mirrored": 33.29}, "", "psnr_hole_mirrored"),
        ({"psnr_hole_mirrored": 33.31}, "", None),
        ({"psnr_hole_mirrored": 33.31}, "--max-drop 0.05", "psnr_hole_mirrored"),
        ({"psnr_hole_smooth": 35.9}, "", "psnr_hole_smooth"),
        ({"psnr_hole_mirrored": 40.0}, "", None),
        ({"texture_energy": 1.05}, "", None),  # nearer to 1 than before
        ({"texture_energy": 0.78}, "", "texture_energy"),
        ({"texture_energy": 1.25}, "", "texture_energy"),  # too much is as wrong as too little
        ({"bytes": 1011}, "", "bytes"),
        ({"bytes": 1009}, "", None),
        ({"bytes": 500}, "", None),
        ({"ms": 33.5}, "", "ms"),
        ({"ms": 33.5}, "--max-slower 1.2", None),
        ({"psnr_hole_smooth": None}, "", "psnr_hole_smooth"),  # a figure that is gone cannot be called as good
    ],
)
def test_what_is_worse(compare, change: dict, flags: str, worse: str | None) -> None:
    code, printed, err = compare(result(ROW | change), result(ROW), flags)
    assert code == (1 if worse else 0)
    assert [case["figure"] for case in printed["worse"]] == ([worse] if worse else [])
    assert ("gate failed: int8, " + str(worse) in err) == bool(worse)


def test_the_message_says_by_how_much(compare) -> None:
    _, _, err = compare(result(ROW | {"psnr_hole_mirrored": 33.1, "ms": 60.0}), result(ROW))
    assert "0.300 dB below the baseline, allowed are 0.1" in err and "2.00 times the baseline's, allowed are 1.1" in err


@pytest.mark.parametrize(
    ("new", "old", "hardware"),
    [
        ({}, {}, {"cpu": "y"}),
        ({"emulated": True}, {"emulated": True}, HERE),
        ({"estimate": True}, {}, HERE),
        ({"delegate": "gpu"}, {"delegate": "xnnpack"}, HERE),
        ({"threads": 4}, {"threads": 1}, HERE),
        ({"device": "Pixel 4"}, {"device": "Pixel 7"}, HERE),
        ({"device": "Pixel 7", "throttled": True}, {"device": "Pixel 7"}, HERE),
    ],
)
def test_times_taken_differently_are_not_compared(compare, new: dict, old: dict, hardware: dict) -> None:
    code, printed, _ = compare(result(ROW | new | {"ms": 99.0}, hardware=hardware), result(ROW | old))
    assert code == 0 and printed["skipped"] == 1
    assert compare(result(ROW | new | {"bytes": 9999}, hardware=hardware), result(ROW | old))[0] == 1  # the rest still is


def test_rows_of_latency_are_compared_by_their_median(compare) -> None:
    rows = [{"name": "int8 litert", "median_ms": ms, "runtime": "litert", "threads": 1} for ms in (10.0, 12.0)]
    none = {"sha": None, "n": 0}
    assert compare(result(rows[1], **none), result(rows[0], **none))[0] == 1
    assert compare(result(rows[0], **none), result(rows[1], **none))[0] == 0


def test_a_phone_s_times_are_compared_whatever_computer_it_hung_on(compare) -> None:
    row = {"name": "int8 gpu 1", "median_ms": None, "device": "Pixel 7", "delegate": "gpu"}
    rows = [row | {"avg_ms": ms} for ms in (10.0, 12.0)]
    none = {"sha": None, "n": 0}
    assert compare(result(rows[1], hardware={"cpu": "y"}, **none), result(rows[0], **none))[0] == 1


def test_a_model_cannot_pass_by_going_away(compare) -> None:
    other = ROW | {"name": "slim"}
    code, printed, _ = compare(result(ROW), result(ROW, other))
    assert code == 1 and printed["worse"] == [{"row": "slim", "figure": "row", "why": "the new result has no such row"}]
    assert compare(result(ROW), result(ROW, other), "--allow-missing")[0] == 0
    assert compare(result(ROW, other), result(ROW))[0] == 0  # a new one is welcome


def test_the_xml_is_what_ci_systems_read(compare) -> None:
    worse = ROW | {"name": 'a<b>&"\x07', "bytes": 9999, "ms": 1.0}
    code, _, _ = compare(result(worse, hardware={"cpu": "y"}), result(worse | {"bytes": 1000}), "--junit out/regression.xml")
    assert code == 1
    top = ElementTree.parse("out/regression.xml").getroot()
    (suite,) = top.findall("testsuite")
    assert (top.tag, suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("testsuites", "5", "1", "1")
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert {case.get("classname") for case in cases.values()} == {'a<b>&"?'}
    assert "8,999 bytes more" in cases["bytes"].find("failure").get("message")
    assert "different hardware" in cases["ms"].find("skipped").get("message")
    assert cases["psnr_hole_mirrored"].find("failure") is None
    assert [path.name for path in Path("out").iterdir()] == ["regression.xml"]


@pytest.mark.parametrize(
    ("new", "old", "flags", "message"),
    [
        (result(ROW, sha="cd"), result(ROW), "", "new.json is of evaluation list cd, old.json of ab"),
        (result(ROW, n=2), result(ROW), "", "number of pictures 2"),
        (result(ROW | {"name": "x"}), result(ROW), "", "no row in common"),
        (result(ROW, ROW), result(ROW), "", "two rows are called int8"),
        (result(ROW | {"psnr_hole_mirrored": float("nan")}), result(ROW), "", "NaN is no number"),
        (result(ROW | {"bytes": "1000"}), result(ROW), "", "expected a finite number"),
        (result({"name": "int8", "n": 3}), result({"name": "int8", "n": 3}), "", "none of the figures"),
        (result(), result(ROW), "", "new.json: expected a result"),
        ([1], result(ROW), "", "found a list"),
        (result(ROW), result(ROW), "--max-slower 0.9", "--max-slower is 0.9; expected 1 or more"),
        (result(ROW), result(ROW), "--max-drop nan", "expected 0 or more"),
        (result(ROW), result(ROW), "--baseline none.json", "none.json: expected a result"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(compare, new, old, flags: str, message: str) -> None:
    code, _, err = compare(new, old, flags)
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1


def test_the_workflow_in_the_docs_calls_what_there_is() -> None:
    block = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/ci.md").read_text(), re.S).group(1)
    lines = re.findall(r"run: python benchmarks/(\w+)\.py (.*)", block)
    assert [name for name, _ in lines] == ["fidelity", "regression", "report"]
    for name, arguments in lines:
        script(name).build_parser().parse_args(arguments.removesuffix(" report.html").split())

"""The awkward files of benchmarks/wild.py: that they are judged by other tools, and what the result that is kept says."""

import shutil
from pathlib import Path

import pytest
from conftest import script

from faceeraser import cli
from faceeraser.measurement import results

ROOT = Path(__file__).resolve().parent.parent
wild = script("benchmarks/wild.py")


def test_the_kept_result_has_a_row_for_every_case_and_none_is_wrong() -> None:
    rows = results.read_result(ROOT / "benchmarks/results/wild.json")["rows"]
    cases = [case for case in wild.cases() if case.kind != "permission"]  # root, who may read anything, has no such case
    names = [f"{case.kind}: {case.name}" for case in cases]
    assert [row["name"] for row in rows if row["kind"] != "permission"] == names, "run it again"
    assert len(rows) >= 100 and len({row["name"] for row in rows}) == len(rows)
    assert {row["verdict"] for row in rows} == {"right", "refused"}
    refusing = {"several images", "several INs", "a bad file in a folder", "masks", "damage", "permission"}
    assert {row["kind"] for row in rows if row["verdict"] == "refused"} <= refusing
    assert all(row["why"] for row in rows)


def case_of(name: str) -> object:
    (case,) = [case for case in wild.cases() if f"{case.kind}: {case.name}" == name]
    return case


@pytest.mark.usefixtures("landmarks")
@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("grey: grey PNG to .png", "right"),
        ("several INs: IN and OUT are one file", "refused"),
        ("times: 12.000 frames a second", "right"),
    ],
)
def test_a_case_is_made_run_and_judged(name: str, verdict: str) -> None:
    if name.startswith("times") and shutil.which("ffprobe") is None:
        pytest.skip("ffprobe is not installed")
    assert wild.run(case_of(name))["verdict"] == verdict


@pytest.mark.parametrize(
    "name", ["grey: grey PNG to .png", "several INs: the same twice among three", "damage: text called .mp4"]
)
def test_a_command_that_does_not_do_it_is_judged_wrong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a command that copies IN to OUT, or does nothing, and says that all is well."""

    def copies(arguments: list[str]) -> int:
        if "-o" in arguments:
            shutil.copy(arguments[1], arguments[arguments.index("-o") + 1])
        return 0

    monkeypatch.setattr(cli, "main", copies)
    assert wild.run(case_of(name))["verdict"] == "wrong"


def test_which_cases_run_can_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert wild.main(["--only", "nothing is called so"]) == 2
    assert "--only nothing is called so" in capsys.readouterr().err

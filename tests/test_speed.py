"""benchmarks/speed.py: goals are ratios, and a missed one is said."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from test_benchmarks import script

from faceeraser.measurement import results

speed = script("speed")


def rows(**ratios: float) -> list[dict]:
    return [{"name": name, "ratio": ratio} for name, ratio in {"previous": 1.0, **ratios}.items()]


@pytest.mark.parametrize(
    ("ratios", "met"),
    [
        ({"int8_256": 0.45}, {"int8_256 / previous": True}),
        ({"int8_256": 0.46}, {"int8_256 / previous": False}),
        ({"int8_512": 1.0, "int8_1024": 3.6}, {"int8_512 / previous": True, "int8_1024 / previous": False}),
        ({"int8_256": 0.4, "fp32_256": 0.49}, {"int8_256 / previous": True, "int8_256 / fp32_256": False}),
        ({"int8_256": 0.4, "fp32_256": 0.5}, {"int8_256 / previous": True, "int8_256 / fp32_256": True}),
        ({"int8_plan": 0.2, "fp32_plan": 0.26}, {"int8_plan / fp32_plan": True}),
        ({"int8_plan": 0.2, "fp32_plan": 0.24}, {"int8_plan / fp32_plan": False}),
        ({"other": 9.0}, {}),
    ],
)
def test_a_goal_is_met_up_to_its_bound_and_only_asked_of_rows_that_are_there(ratios, met) -> None:
    assert {goal["goal"]: goal["met"] for goal in speed.goals_of(rows(**ratios))} == met


def test_results_name_the_instruction_set_of_the_machine() -> None:
    sets = results.hardware()["isa"].split()
    assert set(sets) <= set(results.ISA)
    with open("/proc/cpuinfo") as file:
        text = file.read()
    assert ("avx2" in sets) == (" avx2 " in text)


def test_what_is_hidden_of_the_instruction_sets_is_hidden_from_the_program_and_said() -> None:
    said = """if True:
        import json
        from numpy._core._multiarray_umath import __cpu_features__ as has
        from faceeraser.measurement import results
        print(json.dumps([results.hardware(), has['AVX2'], has['AVX512F']]))"""
    done = subprocess.run(
        ["bash", "benchmarks/hide_isa.sh", "avx512", sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True
    )
    if " cpuid_fault" not in Path("/proc/cpuinfo").read_text():  # nothing is timed that is not what it says
        assert (done.returncode, done.stdout) == (2, "") and "does not let CPUID fault" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    hardware, avx2, avx512 = json.loads(done.stdout)
    assert (hardware["isa"], hardware["hidden"], avx2, avx512) == ("avx2", "avx512", True, False)


def test_hide_isa_says_how_it_is_used() -> None:
    done = subprocess.run(["bash", "benchmarks/hide_isa.sh", "mmx", "true"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "hide_isa.sh avx512 python" in done.stderr

"""benchmarks/speed.py: goals are ratios, and a missed one is said."""

import pytest
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

"""The paper's tables: what is run, what a row says, how an order is judged. Training is a step on generated skin."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import script
from PIL import Image

from faceeraser.measurement import metrics, results
from faceeraser.measurement.patchmatch import fill_patchmatch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
evaluate = script("train/evaluate.py")
QUICK = ("--size", "64", "--width", "4", "--steps", "1", "--first-steps", "1", "--batch", "1", "--limit", "2")


def planned(table: int, *more: str) -> tuple[list, list, dict]:
    return evaluate.commands(evaluate.build_parser().parse_args(["data", "--table", str(table), *more]))


# --- what is run ------------------------------------------------------------------------------------------------------


def without(arguments: list[str], *flags: str) -> list[str]:
    """A command less these flags with their values, its target and its seed."""
    kept, skip = [], False
    for word in [*arguments[:2], *arguments[3:]]:
        if skip:
            skip = False
        elif word in (*flags, "--seed"):
            skip = True
        else:
            kept.append(word)
    return kept


def test_the_rows_of_table_1_differ_in_the_model_alone():
    _, then, folders = planned(1)
    assert list(folders)[:6] == list(evaluate.TABLE_1) and all(len(folders[name]) == 3 for name in evaluate.TABLE_1)
    named = {Path(arguments[2]).name: arguments for arguments in then}
    for seed in range(3):
        apart = ("--model", "--variant", "--edge", "--norm", "--steps")
        assert len({tuple(without(named[f"{name}-{seed}"], *apart)) for name in folders if seed < len(folders[name])}) == 1
        # What has a first network spends there what HiFill gets on top.
        steps = {
            name: int(named[f"{name}-{seed}"][named[f"{name}-{seed}"].index("--steps") + 1]) for name in evaluate.TABLE_1
        }
        assert steps.pop("hifill") == 1300 and set(steps.values()) == {1000}


def test_the_rows_of_table_2_differ_in_one_coefficient():
    first, then, folders = planned(2, "--seeds", "2")
    assert {Path(arguments[2]).name for arguments in first} == {"edge-0", "edge-1"}, "all start from the same edges"
    assert len({tuple(without(arguments, "--clone", "--edge")) for arguments in then}) == 1
    given = {arguments[arguments.index("--clone") + 1] for arguments in then if "--clone" in arguments}
    assert given | {"1.0"} == set(evaluate.TABLE_2) and len(folders["edge_pc_unet_ca"]) == 2


# --- how it is judged -------------------------------------------------------------------------------------------------


def made_up(gains: dict[str, float], noise: float = 0.1) -> dict[str, dict[str, np.ndarray]]:
    """Figures of three seeds on 40 pictures, where each row is better than the one before by so many dB."""
    rng, level, scores = np.random.default_rng(0), 30.0, {}
    pictures = rng.normal(0, 3, 40)  # pictures differ far more than rows do
    for name in (*evaluate.TABLE_1, "edgeconnect_bn", "edge_pc_unet_ca_bn"):
        level += gains.get(name, 0.0)
        psnr = level + pictures + rng.normal(0, noise, (3, 40))
        scores[name] = {"psnr": psnr, "mae": 10 ** (-psnr / 20), "psnr_hole": psnr, "psnr_hole_mirrored": psnr[:, ::-1]}
    return scores


def test_an_order_is_seen_reversed_or_not_told_apart():
    order = evaluate.order(made_up({"structureflow": 0.5, "edgeconnect": -0.5}))
    seen = {(row["better"], row["figure"]): row for row in order}
    assert len(order) == 6 * 4
    assert seen["structureflow", "psnr"]["seen"] == seen["structureflow", "mae"]["seen"] == "yes"
    assert seen["edgeconnect", "psnr"]["seen"] == seen["edgeconnect", "mae"]["seen"] == "reversed"
    assert seen["edge_pc_unet", "psnr"]["seen"] == "not told apart"
    row = seen["structureflow", "psnr"]
    assert row["low"] < row["gain"] < row["high"] and row["of_seeds"] == 3 and row["gain"] == pytest.approx(0.5, abs=0.1)


def test_an_order_that_seeds_do_not_agree_on_is_not_told_apart():
    figures = made_up({})
    figures["structureflow"]["psnr"] = figures["hifill"]["psnr"] + np.array([[3.0], [3.0], [-0.1]])
    row = next(row for row in evaluate.order(figures) if (row["better"], row["figure"]) == ("structureflow", "psnr"))
    assert row["gain"] > 1 and row["of_seeds"] == 2 and row["seen"] == "not told apart"


def test_the_paper_s_claims_are_judged_beyond_the_spread_over_seeds():
    def row(alpha: str, flow_spread: float, dots: float, psnr: float) -> dict:
        std = {"flow_spread": 0.1, "dots": 0.1, "psnr": 0.1}
        return {"name": f"alpha_{alpha}", "flow_spread": flow_spread, "dots": dots, "psnr": psnr, "std": std}

    paper = {
        "0": (0, 0, 31.2),
        "0.5": (0, 0, 31.5),
        "0.8": (8, 0, 32.6),
        "1.0": (9, 0, 33.1),
        "1.2": (9, 0.1, 32.8),
        "1.5": (9, 0.1, 32.5),
        "2.0": (9, 1, 32.3),
    }
    assert all(claim["seen"] for claim in evaluate.claims([row(a, *given) for a, given in paper.items()]).values())
    other = {**paper, "0.5": (7, 0, 33.0), "2.0": (9, 0.1, 33.3)}
    assert not any(claim["seen"] for claim in evaluate.claims([row(a, *given) for a, given in other.items()]).values())


def test_flows_are_drawn_by_direction_and_length():
    flow = torch.zeros(2, 8, 8)
    flow[0, :, :4], flow[0, :, 4:] = 4.0, -4.0  # right, left: half the picture
    hole = np.ones((8, 8), np.uint8)
    hole[0] = 0
    drawn = evaluate.as_colours(flow, hole)
    assert tuple(drawn[4, 1]) == (255, 0, 0) and tuple(drawn[4, 6]) == (0, 255, 255)
    assert (drawn[0] == 235).all()
    assert (evaluate.as_colours(torch.zeros(2, 8, 8), hole)[1:] == 255).all(), "no flow is white"


# --- PatchMatch -------------------------------------------------------------------------------------------------------


def test_patchmatch_continues_a_pattern_that_diffusion_cannot():
    column = (np.arange(96) // 6 % 2 * 160 + 40).astype(np.uint8)
    truth = np.repeat(np.repeat(column[None, :, None], 96, 0), 3, 2)
    mask = np.zeros((96, 96), np.uint8)
    mask[36:60, 36:60] = 1
    seen = truth * (mask == 0)[..., None].astype(np.uint8)
    patches, diffused = (
        metrics.psnr(fill(seen, mask), truth, mask) for fill in (fill_patchmatch, metrics.fill_navier_stokes)
    )
    assert patches > diffused + 8


def test_patchmatch_keeps_what_is_seen_and_is_always_the_same():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (64, 64, 3), np.uint8), (0, 0), 2)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:44, 8:50] = 1
    a, b = fill_patchmatch(image, mask), fill_patchmatch(np.where(mask[..., None] > 0, 0, image).astype(np.uint8), mask)
    assert np.array_equal(a, b), "something of the hole was looked at"
    assert np.array_equal(a[mask == 0], image[mask == 0]) and a.dtype == np.uint8


@pytest.mark.parametrize("hidden", [0, 64])
def test_patchmatch_without_a_hole_or_without_anything_else(hidden):
    image, mask = np.full((64, 64, 3), 90, np.uint8), np.zeros((64, 64), np.uint8)
    mask[:hidden] = 1
    assert fill_patchmatch(image, mask).shape == image.shape
    if not hidden:
        assert np.array_equal(fill_patchmatch(image, mask), image)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(skin: Path, tmp_path_factory: pytest.TempPathFactory, stages_here: None) -> Path:
    """Both tables at a few steps, by the command: one seed, two validation pairs."""
    folder = tmp_path_factory.mktemp("tables")
    common = [str(skin), *QUICK, "--target", str(folder / "runs"), "--seeds", "1"]
    for table, more in ((1, ()), (2, ("--flows", str(folder / "flows.png"), "--sheet", str(folder / "sheet.png")))):
        assert evaluate.main([*common, "--table", str(table), "--json", str(folder / f"table{table}.json"), *more]) == 0
    return folder


@pytest.mark.slow
def test_a_table_has_every_row_with_what_made_it(tables: Path):
    for table, names in ((1, [*evaluate.TABLE_1, *evaluate.CONTROLS]), (2, [f"alpha_{a}" for a in evaluate.TABLE_2])):
        result = results.read_result(tables / f"table{table}.json")
        rows = {row["name"]: row for row in result["rows"]}
        assert set(names) <= set(rows)
        for name in names:
            row = rows[name]
            assert row["seeds"] == 1 and row["perceptual"] == "off" and row["n"] == 2 and row["width"] == 4
            assert {"psnr", "mae", "psnr_hole", "psnr_hole_mirrored"} <= set(row) & set(row["std"]) & set(row["picture_std"])
            assert row["gmacs"] > 0 and row["params"] > 0 and row["steps"] == 2
            assert ("paper" in row) == (name not in evaluate.CONTROLS)
            if table == 2:
                assert row["clone"] == float(name.removeprefix("alpha_")) and row["flow_spread"] >= 0
    rows = {row["name"] for row in results.read_result(tables / "table1.json")["rows"]}
    assert {"mean", "telea", "navier_stokes", "patchmatch"} <= rows


@pytest.mark.slow
def test_a_table_goes_on_where_it_was_broken_off(tables: Path, skin: Path, capfd: pytest.CaptureFixture[str]):
    arguments = [str(skin), *QUICK, "--target", str(tables / "runs"), "--seeds", "1", "--table", "2"]
    assert evaluate.main(arguments) == 0
    assert "train/train.py" not in capfd.readouterr().out, "trained again what was there"


@pytest.mark.slow
def test_flows_and_sheets_have_a_column_for_each_coefficient(tables: Path):
    flows, sheet = Image.open(tables / "flows.png"), Image.open(tables / "sheet.png")
    assert flows.size == (7 * 64, 2 * 64) and sheet.size == (7 * 64, 2 * 3 * 64)


def test_bad_input_is_one_line(skin, tmp_path, capsys):
    cases = (
        ([str(tmp_path)], "expected a folder made by"),
        ([str(skin), "--seeds", "0"], "at least 1"),
        ([str(skin), "--limit", "1"], "at least 2 pairs"),
    )
    for arguments, message in cases:
        assert evaluate.main([*arguments, "--table", "1", "--target", str(tmp_path / "runs")]) == 2
        error = capsys.readouterr().err.strip()
        assert message in error and "\n" not in error


@pytest.mark.slow
def test_runs_of_other_options_are_not_mixed_in(tables: Path, skin: Path, capsys: pytest.CaptureFixture[str]):
    arguments = [str(skin), *QUICK, "--target", str(tables / "runs"), "--seeds", "1", "--table", "2"]
    assert evaluate.main([*arguments, "--steps", "2"]) == 2
    error = capsys.readouterr().err.strip()
    assert "was trained with --steps 1, and 2 is asked for" in error and "\n" not in error


# --- train.py --model -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def edge(skin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edge network of the paper preset."""
    folder = tmp_path_factory.mktemp("edge") / "edge"
    arguments = ["--preset", "paper", "--width", "4", "--size", "64", "--steps", "1", "--perceptual", "off", "--batch", "1"]
    assert (
        script("train/train.py").main(
            [str(skin), str(folder), "--phase", "edge", "--adversarial", "0", "--edge-l1", "1", *arguments]
        )
        == 0
    )
    return folder


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "hifill", "--phase", "edge"], "hifill has no such phase"),
        (["--model", "structureflow", "--phase", "inpaint"], "needs the structure network of phase 1"),
        (["--model", "edgeconnect", "--phase", "edge", "--variant", "unet"], "edgeconnect has no such parts"),
        (["--model", "structureflow", "--phase", "inpaint", "--edge", "EDGE"], "faceeraser has no structure network"),
        (["--model", "hifill", "--phase", "inpaint", "--edge", "EDGE"], "no first network"),
        (["--model", "hifill", "--phase", "inpaint", "--blocks", "4"], "hifill has no residual blocks"),
        (["--model", "hifill", "--phase", "inpaint", "--init", "EDGE"], "is of the model faceeraser, --model says hifill"),
        (["--model", "hifill", "--phase", "all", "--teacher", "EDGE"], "the teacher is faceeraser, the student hifill"),
        (["--model", "edgeconnect", "--phase", "inpaint", "--edge", "EDGE", "--norm", "batch"], "give the same --norm"),
    ],
)
def test_a_model_that_cannot_be_trained_so_is_refused(arguments, told, run_script, skin, edge, tmp_path, capsys):
    arguments = [str(edge) if word == "EDGE" else word for word in arguments]
    common = [
        "--preset",
        "paper",
        "--width",
        "4",
        "--size",
        "64",
        "--steps",
        "1",
        "--perceptual",
        "off",
        "--adversarial",
        "0",
    ]
    assert run_script("train/train.py", skin, tmp_path / "out", *common, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert told in error and not (tmp_path / "out").exists()


# --- the committed results --------------------------------------------------------------------------------------------


def test_table_1_is_committed_with_every_row_and_says_of_every_order_whether_it_is_seen():
    result = results.read_result(RESULTS / "table1.json")
    rows = {row["name"]: row for row in result["rows"]}
    # skin_patches is younger than the table: a table that is made now has its row.
    assert set(rows) | {"skin_patches"} == {*evaluate.TABLE_1, *evaluate.CONTROLS, *metrics.CLASSICAL, "patchmatch"}
    for name in evaluate.TABLE_1:
        row = rows[name]
        assert row["seeds"] >= 3 and row["steps"] == 1300 and row["perceptual"] == "off" and row["std"]["psnr"] > 0
        assert row["paper"]["psnr"] == evaluate.TABLE_1[name][0]
    assert len(result["order"]) == 24 and "train/evaluate.py" in result["command"]
    for row in result["order"]:
        sign = -1 if row["figure"] == "mae" else 1
        gain = sign * (rows[row["better"]][row["figure"]] - rows[row["worse"]][row["figure"]])
        assert row["gain"] == pytest.approx(gain, abs=2e-4) and row["low"] <= row["gain"] <= row["high"]


def test_the_paper_s_figures_are_those_of_the_paper():
    """A second copy, by line of its text: a slip of the pen in one of them shows."""
    one = "28.24 .0253 29.62 .0247 32.13 .0231 33.01 .0226 33.11 .0209 33.17 .0199"
    two = "31.21 .0263 31.46 .0250 32.61 .0221 33.09 .0202 32.87 .0205 32.56 .0209 32.38 .0214"
    for told, table in ((one, evaluate.TABLE_1), (two, evaluate.TABLE_2)):
        assert [float(x) for x in told.split()] == [x for row in table.values() for x in (row[0], row[2])]
    spread = [row[3] for row in evaluate.TABLE_2.values()]
    assert spread == [0.0023, 0.0025, 0.0021, 0.0019, 0.0019, 0.0020, 0.0017]


def test_table_2_is_committed_with_its_claims_judged():
    result = results.read_result(RESULTS / "table2.json")
    rows = {row["name"]: row for row in result["rows"]}
    assert [row["clone"] for row in rows.values()] == [float(alpha) for alpha in evaluate.TABLE_2]
    assert all(row["seeds"] >= 2 and row["steps"] == 1300 and row["std"]["psnr"] >= 0 for row in rows.values())
    again = evaluate.claims(result["rows"])
    assert result["claims"] == again and len(again) == 3


def test_the_peers_files_are_committed_with_what_they_cost():
    result = results.read_result(RESULTS / "peers.json")
    rows = {row["name"]: row for row in result["rows"] if row["kind"] == "int8"}
    assert list(rows) == ["faceeraser", "edgeconnect", "structureflow", "hifill"]
    for row in rows.values():
        assert (
            row["seeds"] == 2 and row["steps"] == 440 and row["bytes"] > 0 < row["ms"] and row["std"]["texture_energy"] >= 0
        )
    for name, verdict in result["faceeraser_against"].items():
        assert verdict["difference"]["psnr"] == pytest.approx(rows["faceeraser"]["psnr"] - rows[name]["psnr"], abs=1e-3)


def test_the_page_gives_the_figures_of_the_results():
    page = (ROOT / "docs" / "tables.md").read_text()
    for file, keys in (
        ("table1.json", ("psnr", "psnr_hole_mirrored")),
        ("table2.json", ("psnr", "psnr_hole")),
        ("peers.json", ("psnr_hole_mirrored", "psnr_hole_smooth")),
    ):
        for row in results.read_result(RESULTS / file)["rows"]:
            for key in keys:
                spread = row.get("std") or {}
                shown = f"{row[key]:.2f}" + (f" ± {spread[key]:.2f}" if key in spread else "")
                assert f"| {shown} |" in page, (file, row["name"], key, shown)

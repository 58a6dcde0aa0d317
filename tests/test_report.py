"""benchmarks/report.py: what its page says first, what it shows, what it never does, and how it looks in a browser."""

import base64
import json
import re
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from chromium import Chromium
from test_benchmarks import call, fidelity, place, script, write_data, write_model

from faceeraser.measurement import metrics, results

__all__ = ["place"]  # a fixture
report = script("report")


class Page(HTMLParser):
    """What a page shows and what it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.links, self.texts, self.ids, self.tables = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        loads = ("src", "srcset", "data", "action")
        self.links += [value for key, value in attrs if key in loads or (tag, key) == ("link", "href")]
        self.ids += [value for key, value in attrs if key == "id"]

    def handle_data(self, data) -> None:
        if self.tags[-1:] not in (["style"], ["script"]):
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(text for text in self.texts if text)


def result_of(rows: list[dict], source: str = "photos", **more) -> dict:
    data = {"name": "faces", "n": 3, "eval_sha256": "ab", "source": source}
    result = {"command": "c", "commit": "d", "hardware": {"cpu": "x"}, "versions": {"v": "1"}, "data": data, "rows": rows}
    return result | more


def row(name: str, quality: float = 33.0, size: float = 1.0, **more) -> dict:
    fields = {"name": name, "psnr_hole_mirrored": quality, "bytes": int(size * 1e6), "gmacs": size / 4, "ms": 20.0 + size}
    return fields | more


def timing(model: str, ms: float, **more) -> dict:
    fields = {"name": f"{model} {ms}", "model": model, "median_ms": ms, "p90_ms": ms * 1.1, "runtime": "litert"}
    return fields | {"threads": 1} | more


def estimate(model: str, ms: float) -> dict:
    return {
        "name": f"{model}, middle",
        "model": model,
        "class": "middle",
        "about": "cores",
        "estimate": True,
        "estimate_ms": ms,
        "low_ms": ms / 1.4,
        "high_ms": ms * 1.4,
        "gmacs": 1.0,
        "moved_mb": 300.0,
    }


def options(*arguments: str):
    return report.build_parser().parse_args(["result.json", *arguments])


def judge(rows: list[dict], timings: list[dict] = (), estimates: list[dict] = (), *arguments: str) -> dict:
    timed, _ = report.times([result_of(list(timings))] if timings else [])
    return report.verdict(rows, timed, list(estimates), options(*arguments))


# --- the verdict -----------------------------------------------------------------------------------------------------


def test_the_verdict_stands_before_everything_else() -> None:
    page = Page(report.render(result_of([row("fp32", 34, 12.5), row("int8", 33.5, 3.6)])))
    assert page.ids[0] == "verdict" and page.text.index("meets the budget of size") < page.text.index("PSNR, hole")


def test_a_computer_s_time_meets_no_phone_s_budget() -> None:
    verdict = judge([row("int8")], [timing("int8", 5.0)])
    speed = verdict["best"]["checks"][1]
    assert verdict["headline"]["state"] == "unknown" and speed["state"] == "unknown"
    assert speed["text"] == "not measured on a phone" and "5.0 ms on a computer" in speed["note"]


def test_an_estimate_meets_no_budget_and_is_called_one() -> None:
    verdict = judge([row("int8")], [], [estimate("int8", 10.0)])
    assert verdict["headline"]["state"] == "unknown"
    assert "estimate only, ms: middle 7–14" in verdict["best"]["checks"][1]["note"]


def test_an_emulated_time_meets_no_budget_and_is_not_shown() -> None:
    rows = [timing("int8", 1.7, device="emulator", emulated=True)]
    assert judge([row("int8")], rows)["headline"]["state"] == "unknown"
    html = report.render(result_of([row("int8")]), [result_of(rows)])
    assert "1 row of emulated devices is left out" in Page(html).text and "1.7 ms" not in html


@pytest.mark.parametrize(("ms", "size", "state"), [(33.0, 7.9, "met"), (34.0, 7.9, "missed"), (33.0, 8.0, "missed")])
def test_a_phone_s_fastest_time_and_the_size_decide(ms: float, size: float, state: str) -> None:
    phone = {"device": "Pixel 9"}
    times = [timing("int8", ms, **phone, delegate="gpu"), timing("int8", 90.0, **phone, delegate="xnnpack")]
    verdict = judge([row("int8", size=size)], times)
    assert verdict["headline"]["state"] == state
    assert f"{ms:.1f} ms on Pixel 9 (gpu)" in verdict["best"]["checks"][1]["text"]


def test_budgets_are_the_user_s_where_given() -> None:
    times = [timing("int8", 20.0, device="Pixel 9")]
    assert judge([row("int8")], times)["headline"]["state"] == "met"
    assert judge([row("int8")], times, [], "--max-ms", "16")["headline"]["state"] == "missed"
    assert judge([row("int8")], times, [], "--max-mb", "0.5")["headline"]["state"] == "missed"
    rows = [row("fp32", 34.0, 12.0), row("int8", 33.5)]
    assert judge(rows, times, [], "--max-drop", "0.4")["judged"][1]["state"] == "missed"
    assert judge(rows, times, [], "--max-drop", "0.6")["headline"]["text"] == "int8 meets every budget."


def test_the_one_to_ship_misses_least_and_then_paints_best() -> None:
    rows = [row("fp32", 34, 12), row("small", 32, 0.5), row("int8", 33.5, 3), row("telea", 40, 0.1)]
    assert judge(rows)["best"]["name"] == "int8"
    assert "No model meets the budgets. The closest is" in judge(rows[:1])["headline"]["text"]


def test_a_smear_is_called_one_and_is_not_the_one_to_ship() -> None:
    rows = [row("smooth", 36, 3, texture_energy=0.01), row("int8", 33.5, 3, texture_energy=1.0)]
    assert judge(rows)["best"]["name"] == "int8"
    page = Page(report.render(result_of(rows[:1])))
    assert "smooth paints a smear: 0.01 of the truth's texture" in page.text
    assert "paints a smear" not in Page(report.render(result_of(rows[1:]))).text


def test_rows_that_are_no_file_are_not_judged_but_named() -> None:
    verdict = judge([row("fp32"), {"name": "folder", "psnr_hole_mirrored": 33.0, "kind": "checkpoint", "bytes": None}])
    assert [j["name"] for j in verdict["judged"]] == ["fp32"] and verdict["unfiled"] == ["folder"]
    assert "no budget can be judged" in judge([{"name": "folder", "psnr_hole_mirrored": 33.0}])["headline"]["text"]


# --- figures, times, history -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "first", "value", "better", "change", "tone"),
    [
        ("psnr_hole_mirrored", 35.0, 34.5, 1, "-0.50", "worse"),
        ("texture_energy", 0.5, 0.8, 0, "+0.30", "better"),
        ("texture_energy", 0.9, 1.4, 0, "+0.50", "worse"),  # more texture than the truth is no gain
        ("texture_swd", 2.0, 1.0, -1, "-1.00", "better"),
        ("bytes", 1000, 250, -1, "× 0.25", "better"),
        ("psnr_hole", 35.0, 35.001, 1, "+0.00", ""),
    ],
)
def test_a_figure_stands_with_its_change_against_the_first_row(field, first, value, better, change, tone) -> None:
    cell = report.cell({field: value}, {field: first}, field, 2, better)
    assert (cell["change"], cell["tone"]) == (change, tone)
    assert report.cell({}, {field: first}, field, 2, better)["text"] == "–"


def test_the_front_is_what_nothing_beats_in_both() -> None:
    rows = [row("a", 33, 1), row("b", 34, 2), row("c", 33.5, 3), row("d", 35, 4), row("telea", 36, 0.1)]
    plot = report.pareto(rows, "bytes", "MB", 1e6, 8.0)
    assert {d["name"] for d in plot["dots"] if d["front"]} == {"a", "b", "d"} and len(plot["dots"]) == 4
    ys = {d["name"]: d["y"] for d in plot["dots"]}
    assert ys["d"] < ys["b"] < ys["a"]  # up is better, and SVG counts down
    assert report.pareto(rows[:1], "bytes", "MB", 1e6, 8.0) is None


def test_fifty_labels_do_not_cover_one_another() -> None:
    plot = report.pareto([row(f"model{k}", 33 + k % 7, 1 + k / 10) for k in range(50)], "bytes", "MB", 1e6, None)
    boxes = [(t["x"], t["y"], t["x"] + 6 * len(t["text"])) for t in plot["labels"]]
    assert len(plot["dots"]) == 50 and boxes
    for k, (left, base, right) in enumerate(boxes):
        for other in boxes[k + 1 :]:
            assert right <= other[0] or other[2] <= left or abs(base - other[1]) >= 13


def test_times_are_told_by_device_and_delegate_with_their_spread() -> None:
    phone = {"device": "Pixel 9"}
    rows = [timing("int8", 12.0, **phone, delegate="gpu", p10_ms=11.0), timing("int8", 30.0, **phone, delegate="xnnpack")]
    text = Page(report.render(result_of([row("int8")]), [result_of(rows)])).text
    assert "Pixel 9" in text and "12.0 ms 11.0–13.2" in text and "30.0 ms 30.0–33.0" in text
    assert "No phone was measured" not in text
    text = Page(report.render(result_of([row("int8")]), [result_of([timing("int8", 9.0)])])).text
    assert "No phone was measured" in text


def test_time_by_operator_and_where_nodes_run_are_what_the_device_told(place) -> None:
    ops = [{"type": f"OP{k}", "n": 1, "ms": 1.0 + k} for k in range(20)]
    nodes = [{"type": "Sub", "delegate": "gpu", "n": 1}]
    results = [result_of([timing("fp32", 9.0, device="Pixel 9", delegate="gpu", ops=ops, nodes=nodes)])]
    (table,) = report.ops_tables(report.times(results)[0])
    assert [op["type"] for op in table["ops"]][:2] == ["OP19", "OP18"] and table["ops"][-1]["type"] == "8 other types"
    assert sum(op["share"] for op in table["ops"]) == pytest.approx(100, abs=1)
    (line,) = report.placement({"fp32": Path("fp32.onnx")}, {}, report.times(results)[0])
    assert line["runs"][0]["by"] == {"Sub": "gpu 1"}
    unknown = report.placement({"fp32": Path("fp32.onnx")}, {}, [])
    page = Page(report.render(result_of([row("fp32")]), (), operators=unknown))
    assert "Not known: no result from a device says which nodes" in page.text


def test_rows_of_android_py_are_read_as_they_are(place) -> None:
    device_row = {
        "name": "near gpu 4",
        "model": "near",
        "file": "near.onnx",
        "runtime": "benchmark_model",
        "delegate": "gpu",
        "threads": 4,
        "device": None,
        "soc": "Tensor G3",
        "emulated": False,
        "avg_ms": 12.0,
        "median_ms": None,
        "min_ms": 10.0,
        "max_ms": 15.0,
        "p5_ms": None,
        "p95_ms": None,
        "throttled": True,
        "unfit": ["battery at 9 %"],
        "delegated": [{"delegate": "Gpu", "nodes": 900, "of": 1291, "partitions": 12}],
        "ops": [{"kind": "CONV_2D", "name": f"{k}", "avg_ms": 0.5, "calls": 1} for k in range(4)],
    }
    (timed,), _ = report.times([result_of([device_row])])
    assert (timed["ms"], timed["low"], timed["high"], timed["what"]) == (12.0, 10.0, 15.0, "fastest to slowest")
    assert timed["device"] == "Tensor G3" and timed["phone"]
    assert report.ops_tables([timed])[0]["ops"] == [{"type": "CONV_2D", "n": 4, "ms": 2.0, "share": 100.0}]
    rows = [row("int8", file="near.onnx"), row("fp32")]  # another name, the same file
    check = report.verdict(rows, [timed], [], options())["judged"][0]["checks"][1]
    assert check["state"] == "met" and "battery at 9 %" in check["note"]
    nodes = report.placement({"near": Path("near.onnx")}, {}, [timed])
    page = report.render(result_of(rows), [result_of([device_row])], operators=nodes)
    assert "Gpu took 900 of 1291 nodes, in 12 pieces; which ones it does not tell" in Page(page).text
    failed = {**device_row, "avg_ms": None, "error": "gpu took no node of the graph"}
    assert report.times([result_of([failed])]) == ([], 0)


def test_the_history_tells_each_stage_before_and_after() -> None:
    figures = {"psnr_hole_mirrored": 33.0, "gmacs": 1.25, "params": 3000}
    entries = [
        {"stage": "train", "options": {"steps": 100}, "metrics": {**figures, "seconds": 60}},
        {"stage": "prune", "options": {"steps": 50}, "metrics": {"before": figures, "after": {**figures, "gmacs": 0.5}}},
    ]
    shared = report.histories({"a": entries, "best": entries, "c": entries[:1]}, "best")
    assert [entry["names"] for entry in shared] == [["best", "a"], ["c"]]
    text = Page(report.render(result_of([row("best")]), histories=shared)).text
    assert "1. train 100 1.0 33.00" in text and "2. prune 50" in text and "0.500 from 1.250" in text


def test_estimates_are_marked_wherever_they_stand() -> None:
    error = {"n": 69, "median_factor": 1.05, "max_factor": 1.42, "worst": "x on y"}
    guess = result_of([estimate("int8", 40.0)], error=error)
    page = Page(report.render(result_of([row("int8")]), (), [guess]))
    assert "Nothing here was measured." in page.text and "69 published times" in page.text and "1.42" in page.text
    assert "Estimates, not measurements" in page.text and "middle phone, estimate" in page.text
    assert page.text.count("40 ms") == 1 and "≈ 40 ms 29–56 ms" in page.text
    assert "estimate only, ms: middle 29–56" in page.text  # in the verdict too


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_difference_map_is_black_where_there_is_none() -> None:
    truth, mask = np.full((8, 8, 3), 100, np.uint8), np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 1
    painted = truth.copy()
    painted[:, 2:6] += 20
    shown = report.difference_map(painted, truth, mask).astype(int).sum(2)
    assert shown[0, 4] > 200 and shown[0, 7] == shown[0, 2] == shown[0, 0] < 10  # outside the mask nothing counts


def test_an_album_keeps_its_budget_and_small_ones_keep_their_pixels() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    small, large = report.Album(200_000), report.Album(200_000)
    small.add(noise, 256)
    for _ in range(40):
        large.add(noise, 256)
    assert len(small.uris()) == 1 and small.scale == 1
    assert len(large.uris()) == 40 and large.scale < 1 and sum(map(len, large.uris())) * 3 / 4 <= 200_000


def test_the_report_is_one_file_that_loads_nothing(place, capsys) -> None:
    scales = {"edges": [0.0, 0.5, 1.0], "before": [1, 3], "after": [4, 0]}
    write_model(place / "slim.onnx", 0.587, history=[{"stage": "slim", "options": {}, "scales": scales}])
    assert call(fidelity, "slim.onnx --reference fp32.onnx --data faces --json r.json") == 0
    command = "r.json out/report.html --data faces --no-photo --pairs 2 --models fp32=fp32.onnx slim=slim.onnx"
    assert call(report, command) == 0
    html = Path("out/report.html").read_text()
    page = Page(html)
    assert page.tags.count("script") == 1 and not {"link", "iframe", "object"} & set(page.tags)
    assert "@import" not in html and "url(" not in html and "default-src 'none'" in html
    # Of each pair: the truth, the hole, and of six rows the picture and its difference map.
    assert len(page.links) == 2 * (2 + 2 * 6) and all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(page.links[0].split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    truth = cv2.imread("faces/blanks/val/p0.png")
    assert picture.shape == truth.shape and metrics.psnr(picture, truth) > 25  # the right picture, colours not swapped
    assert {"fp32", "slim", "navier_stokes", "truth", "hidden"} <= set(page.texts)
    assert page.tags.count("rect") == 4 and "before, 4 channels" in page.texts
    assert [p.name for p in Path("out").iterdir()] == ["report.html"]


def test_the_report_says_synthetic_and_escapes_what_others_named() -> None:
    html = report.render(result_of([{"name": "<script>alert(1)</script>", "psnr": 30.0}], "synthetic"))
    assert "<script>alert" not in html and "&lt;script&gt;" in html
    assert "Synthetic data." in html and "FaceEraser on synthetic skin" in html
    assert "ynthetic" not in report.render(result_of([{"name": "fp32", "psnr": 30.0}]))


# --- several results, and mistakes -----------------------------------------------------------------------------------


def test_results_of_several_files_stand_on_one_page(place, capsys) -> None:
    sha = json.loads(Path("faces/data.json").read_text())["eval_sha256"]
    for name, rows in (("a", [row("fp32"), row("telea")]), ("b", [row("fp32", 32), row("int8"), row("telea")])):
        result = result_of(rows)
        result["data"]["eval_sha256"] = sha
        Path(f"{name}.json").write_text(json.dumps(result))
    Path("l.json").write_text(json.dumps(result_of([timing("int8", 9.0)])))
    Path("p.json").write_text(json.dumps(result_of([estimate("int8", 40.0)])))
    assert call(report, "a.json l.json b.json p.json --no-photo report.html") == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (last["rows"], last["times"]) == (4, 1)  # fp32, telea, fp32 (b), int8
    assert "fp32 (b)" in Path("report.html").read_text()
    Path("c.json").write_text(json.dumps(result_of([row("x")])))
    assert call(report, "a.json c.json report.html") == 2
    assert "c.json was measured on list ab, a.json on" in capsys.readouterr().err


def test_times_alone_make_a_page(place, capsys) -> None:
    Path("l.json").write_text(json.dumps(result_of([timing("int8", 9.0)])))
    assert call(report, "l.json report.html") == 0
    assert "9.0 ms" in Path("report.html").read_text()


def test_a_report_on_other_data_than_the_result_s_is_refused(place, capsys) -> None:
    Path("r.json").write_text(json.dumps(result_of([{"name": "fp32", "psnr": 30.0}])))
    assert call(report, "r.json --data faces --no-photo --models fp32=fp32.onnx report.html") == 2
    assert "give the data folder on which the result was measured" in capsys.readouterr().err
    assert not Path("report.html").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("faces/data.json --data faces report.html", "it lacks command"),
        ("none.json --data faces report.html", "expected a result of benchmarks/fidelity.py"),
        ("r.json --data faces", "no TARGET.html"),
        ("r.json --data faces --models fp32.onnx report.html", "expected name=path"),
        ("n.json report.html", "n.json: none of its rows has a figure, a time or an estimate"),
        ("r.json --data faces --models a=fp32.onnx a=near.onnx report.html", "a is given twice"),
    ],
)
def test_report_refuses_a_mistake_in_one_line(place, capsys, command: str, message: str) -> None:
    digest = json.loads(Path("faces/data.json").read_text())["eval_sha256"]
    result = result_of([{"name": "fp32", "psnr": 30.0}])
    result["data"]["eval_sha256"] = digest
    Path("r.json").write_text(json.dumps(result))
    Path("n.json").write_text(json.dumps(result_of([{"name": "fp32", "found": 1.0}])))
    assert call(report, command) == 2
    assert re.search(re.escape(message), capsys.readouterr().err)


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A page with every section, of pictures that are noise."""
    rng = np.random.default_rng(0)
    album = report.Album()

    def picture() -> np.ndarray:
        return cv2.GaussianBlur(rng.integers(0, 255, (128, 128, 3), dtype=np.uint8), (0, 0), 3)

    sliders = [
        report.slider(f"face{k}", "noise", picture(), picture(), {"fp32": picture(), "int8": picture()}, album, 128)
        for k in range(2)
    ]
    cells = [
        {"label": label, "picture": album.add(picture(), 128), "map": album.add(picture(), 128), "note": "30 dB"}
        for label in ("truth", "fp32", "a_name_that_is_far_too_long_for_its_column")
    ]
    entry = {"stage": "train-inpaint", "options": {"steps": 9}, "metrics": {"psnr_hole_mirrored": 33.0, "gmacs": 1.0}}
    operators = [
        {
            "name": "int8",
            "ops": [{"type": "RESIZE_NEAREST_NEIGHBOR", "n": 3, "moved_mb": 1.0}],
            "total": 3,
            "moved": 1.0,
            "convolutions": 0,
            "runs": [],
            "int8": 0,
            "kind": "tflite",
        }
    ]
    ops = [{"type": "CONV_2D", "n": 9, "ms": 5.0}]
    error = {"n": 69, "median_factor": 1.05, "max_factor": 1.42, "worst": "x on y"}
    html = report.render(
        result_of([row("fp32", 34, 12), row("int8", 33.5, 3), row("x" * 60, 33.1, 2), row("navier_stokes", 32)]),
        [result_of([timing("int8", 12.0, device="A phone with a very long name, 12 GB", delegate="gpu", ops=ops)])],
        [result_of([estimate("int8", 40.0)], error=error)],
        options(),
        album,
        pictures=[{"name": "p", "cells": cells, "whole": True}],
        sliders=sliders,
        histories=report.histories({"int8": [entry]}, "int8"),
        operators=operators,
        scales=report.histograms({"int8": [{"scales": {"edges": [0, 1, 2], "before": [1, 2], "after": [2, 1]}}]}),
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html)
    return path


SECTIONS = [
    "verdict",
    "faces",
    "figures",
    "plots",
    "latency",
    "estimates",
    "ops",
    "pictures",
    "nodes",
    "history",
    "slimming",
    "made",
]


@pytest.mark.parametrize(("width", "dark"), [(360, False), (360, True), (1280, False)])
def test_every_section_can_be_seen_and_nothing_is_wider_than_the_window(browser, page, width: int, dark: bool) -> None:
    browser.window(width, dark=dark)
    browser.open(page)
    heights = dict(browser.run("[...document.querySelectorAll('section')].map(s => [s.id, s.offsetHeight])"))
    assert list(heights) == SECTIONS and min(heights.values()) > 40
    assert browser.run("document.documentElement.scrollWidth") <= width
    # What scrolls by itself may be wider; nothing else may stick out, not even where it would be cut off.
    wide = (
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll > *, nav') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert browser.run(wide) == []


@pytest.fixture
def outside():
    """A server on this machine, and the paths it was asked for: what a page that leaks would reach."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", asked
        server.shutdown()


LEAKS = (
    "(async () => { const picture = new Image(); picture.src = '%simage'; "
    "const over = new Promise(done => picture.onload = picture.onerror = done); "
    "await over; await fetch('%sfetch').catch(() => 0); })()"
)


def test_nothing_leaves_the_file_and_its_policy_would_not_let_it(browser, page, outside, tmp_path) -> None:
    address, asked = outside
    browser.window(800)
    browser.open(page)
    assert browser.requests() == [page.resolve().as_uri()]
    browser.run(LEAKS % (address, address))
    assert asked == []
    injected = (
        "(() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1'; "
        "document.body.append(s); return window.ran; })()"
    )
    assert browser.run(injected) is None
    # The negative control: a page without the policy can do it all.
    (tmp_path / "free.html").write_text("<!doctype html><body>")
    browser.open(tmp_path / "free.html")
    browser.run(LEAKS % (address, address))
    assert asked == ["/image", "/fetch"] and browser.run(injected) == 1


def test_dark_is_dark_and_light_is_light(browser, page) -> None:
    means = {}
    for dark in (False, True):
        browser.window(800, dark=dark)
        browser.open(page)
        shot = cv2.imdecode(np.frombuffer(browser.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        assert shot.shape == (800, 800, 3)
        means[dark] = shot.mean()
        # The state's colour is on the picture: the panel that was met is green, in either scheme.
        assert (shot[..., 1].astype(int) - shot[..., 2] > 8).mean() > 0.01
    assert means[False] > 200 and means[True] < 70


def test_the_slider_follows_keys_fingers_and_the_choice_of_a_row(browser, page) -> None:
    browser.window(360)
    browser.open(page)
    at = "document.querySelector('.slider').style.getPropertyValue('--at')"
    place = (
        "(() => { const s = document.querySelector('.slider'); s.scrollIntoView({block: 'center'}); "
        "const b = s.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()"
    )
    x, y, width, height = browser.run(place)
    before = browser.screenshot()
    browser.touch(x + width / 2, y + height / 2, x + width * 0.2)
    share = float(browser.run(at).rstrip("%"))
    assert 10 <= share <= 30 and browser.screenshot() != before
    browser.run("document.querySelector('.slider input').focus()")
    for _ in range(3):
        browser.press("ArrowRight", 39)
    assert float(browser.run(at).rstrip("%")) == share + 3
    shown = "[...document.querySelectorAll('img.over:not([hidden])')].map(side => side.dataset.row)"
    assert browser.run(shown) == ["int8", "int8"]  # the one to ship
    browser.run("document.getElementById('row').value = 'fp32'")
    browser.run("document.getElementById('row').dispatchEvent(new Event('change'))")
    assert browser.run(shown) == ["fp32", "fp32"]
    assert browser.run("document.querySelector('.tag.right').textContent") == "fp32"


@pytest.mark.slow
def test_fifty_models_and_two_hundred_pictures_open_in_two_seconds_below_ten_megabytes(
    tmp_path, monkeypatch, capsys, browser
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "faces", n=200)
    history = [{"stage": f"stage{k}", "options": {"steps": k}, "metrics": {"psnr_hole_mirrored": 33.0}} for k in range(8)]
    sha = json.loads(Path("faces/data.json").read_text())["eval_sha256"]
    rows, arguments = [], []
    for k in range(50):
        write_model(tmp_path / f"m{k}.onnx", 0.5 + k / 500, history=history)
        rows.append(row(f"m{k}", 30 + k / 25, 1 + k / 10, params=k, psnr_hole_smooth=33.0, texture_energy=1.0))
        arguments.append(f"m{k}=m{k}.onnx")
    result = result_of(rows)
    result["data"]["eval_sha256"] = sha
    results.write_result("r.json", result)
    # Faces of 256 pixels with more detail than photographs have, so that the budget of bytes is put to the test.
    rng = np.random.default_rng(0)
    (tmp_path / "faces/faces/val").mkdir(parents=True)
    lines = Path("faces/manifest.csv").read_text().splitlines()
    manifest = [lines[0] + ",face_file"]
    for k, line in enumerate(lines[1:]):
        noise = cv2.GaussianBlur(rng.integers(0, 255, (256, 256, 4), dtype=np.uint8), (0, 0), 0.7)
        cv2.imwrite(str(tmp_path / f"faces/faces/val/p{k}.png"), noise, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        manifest.append(f"{line},faces/val/p{k}.png")
    Path("faces/manifest.csv").write_text("\n".join(manifest) + "\n")
    flags = ["--data", "faces", "--no-photo", "--pairs", "200", "--faces", "200", "--models", *arguments]
    assert report.main(["r.json", *flags, "big.html"]) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (last["rows"], last["photographs"], last["pairs"]) == (50, 200, 200) and last["bytes"] < 10e6
    browser.window(360)
    # In the processor's time, which other work on the machine does not prolong, and until the first screen is painted.
    began = browser.cpu_s()
    browser.open(Path("big.html"))
    browser.screenshot()
    assert browser.cpu_s() - began < 2
    assert browser.run("document.querySelectorAll('.slider').length") == 200
    assert browser.run("document.documentElement.scrollWidth") <= 360

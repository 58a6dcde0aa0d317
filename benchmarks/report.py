"""One self-contained HTML page of a result: the table, what each row paints, a photograph before and after.

    python benchmarks/report.py runs/demo/result.json --data data/faces --models int8=exports/int8.tflite report.html

Styles and pictures are inside the file, which asks for nothing from any network and opens from a disk or a phone.
Numbers come from RESULT (benchmarks/fidelity.py wrote it); the models are run again for the pictures only, on pairs
spread evenly over the evaluation list, with the mirrored mask that the figures are taken with. `--photo` takes
photographs of one's own instead of scikit-image's astronaut. A checkpoint folder whose history has `scales` adds the
histograms of slimming.
"""

from __future__ import annotations

import base64
import json
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment
from tqdm import tqdm

from faceeraser import artifact, checkpoint, faces, metrics, pairs, stage

# Field, heading, digits, and which way is better: 1 up, -1 down, 0 towards one, None neither.
COLUMNS: tuple[tuple[str, str, int, int | None], ...] = (
    ("psnr_hole_mirrored", "PSNR, hole, mirrored (dB)", 2, 1),
    ("psnr_hole_smooth", "PSNR, shading (dB)", 2, 1),
    ("texture_energy", "texture energy (1 = truth)", 2, 0),
    ("texture_swd", "texture SWD", 2, -1),
    ("texture_swd_centred", "texture SWD, detail", 2, -1),
    ("psnr_vs_fp32", "PSNR against fp32 (dB)", 1, None),
    ("psnr_hole", "PSNR, hole (dB)", 2, 1),
    ("psnr", "PSNR, picture (dB)", 2, 1),
    ("gmacs", "GMACs", 3, -1),
    ("params", "parameters", 0, -1),
    ("bytes", "bytes", 0, -1),
    ("ms", "ms, LiteRT", 1, -1),
    ("ms_torch", "ms, torch", 1, -1),
)
SHOWN_PX = 256  # at most, for pictures of pairs; more would make the page too heavy for a phone


def data_uri(picture: np.ndarray, longest: int) -> str:
    """A uint8 picture, grey (H, W) or RGB (H, W, 3), as a JPEG data URI, shrunk to `longest` pixels if larger."""
    scale = longest / max(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    whole, coded = cv2.imencode(
        ".jpg", picture[..., ::-1] if picture.ndim == 3 else picture, [cv2.IMWRITE_JPEG_QUALITY, 92]
    )
    assert whole
    return "data:image/jpeg;base64," + base64.b64encode(coded.tobytes()).decode()


def cell(
    row: Mapping[str, Any], first: Mapping[str, Any], field: str, digits: int, better: int | None
) -> dict[str, str]:
    """{"text", "change", "tone"} of one figure: its value, and how it stands to the first row's."""
    value, base = row.get(field), first.get(field)
    if value is None:
        return {"text": "–", "change": "", "tone": ""}
    text = f"{value:,.{digits}f}"
    if field == "psnr_vs_fp32" and value >= metrics.PSNR_CAP:
        text = "identical"
    if row is first or base is None or better is None:
        return {"text": text, "change": "", "tone": ""}
    sizes = field in ("gmacs", "params", "bytes", "ms", "ms_torch")
    if sizes:
        change = f"× {value / base:.2f}" if base else ""
    else:
        change = f"{value - base:+.{digits}f}"
    gain = abs(base - 1) - abs(value - 1) if better == 0 else better * (value - base)
    small = 0.5 * 10**-digits
    return {"text": text, "change": change, "tone": "" if abs(gain) < small else "better" if gain > 0 else "worse"}


def table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Headings and lines of the result's table, with the columns that any row has."""
    columns = [column for column in COLUMNS if any(row.get(column[0]) is not None for row in rows)]
    lines = [
        {
            "name": row["name"],
            "classical": row["name"] in metrics.CLASSICAL,
            "resized": row.get("resized_from"),
            "cells": [cell(row, rows[0], field, digits, better) for field, _, digits, better in columns],
        }
        for row in rows
    ]
    return {"headings": [heading for _, heading, _, _ in columns], "lines": lines}


def open_models(words: Sequence[str]) -> dict[str, stage.Model]:
    """{name: model} of `name=path` words: checkpoint folders or exported files."""
    found: dict[str, stage.Model] = {}
    for word in words:
        name, equals, tail = word.partition("=")
        if not equals or not name:
            raise ValueError(f"--models {word}: expected name=path, such as int8=exports/int8.tflite")
        found[name] = stage.open_model(Path(tail), name)
    return found


def at_size(method: metrics.Method, size: int, picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`method` on a picture of another size: shrunk or enlarged for it, and its hole put back into the picture."""
    if picture.shape[:2] == (size, size):
        return metrics.composite(picture, method(picture, mask), mask)
    smaller = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    hole = cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)
    painted = cv2.resize(method(smaller, hole), picture.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return metrics.composite(picture, painted, mask)


def gallery(models: Mapping[str, stage.Model], folder: Path, count: int) -> list[dict[str, Any]]:
    """Figures for `count` validation pairs: the truth, the hole, and what each row and classical fill makes of it."""
    listed = pairs.evaluation_pairs(folder)
    picks = sorted({round(k) for k in np.linspace(0, len(listed) - 1, min(count, len(listed)))})
    shown = []
    for pair in tqdm([listed[k] for k in picks], desc="pairs", leave=False):
        mask = metrics.mirrored(pair.mask)
        emptied = pair.truth * (1 - mask)[..., None]
        cells = [("truth", pair.truth), ("hidden", emptied)]
        cells += [(name, at_size(m.method, m.resolution, emptied, mask)) for name, m in models.items()]
        cells += [(name, fill(emptied, mask)) for name, fill in metrics.CLASSICAL.items()]
        shown.append(
            {
                "name": pair.name,
                "cells": [
                    {
                        "label": label,
                        "uri": data_uri(picture, SHOWN_PX),
                        "note": ""
                        if label in ("truth", "hidden")
                        else f"{metrics.psnr(picture, pair.truth, mask):.1f} dB",
                    }
                    for label, picture in cells
                ],
            }
        )
    return shown


def photographs(files: Sequence[Path]) -> list[tuple[str, np.ndarray]]:
    """(what to call it, uint8 RGB) of each file, or of scikit-image's astronaut when there are none."""
    if files:
        return [(file.name, faces.read_image(file)) for file in files]
    import skimage.data

    return [("Eileen Collins (scikit-image's astronaut; NASA, public domain)", skimage.data.astronaut())]


def around(found: Sequence[faces.Face], shape: Sequence[int]) -> tuple[slice, slice]:
    """The part of a picture (H, W, ...) that holds all faces and their surroundings; all of it when there is none."""
    if not found:
        return slice(None), slice(None)
    boxes = [(face.mesh.min(axis=0) - 0.8 * face.width, face.mesh.max(axis=0) + 0.8 * face.width) for face in found]
    low = np.min([box[0] for box in boxes], axis=0).clip(0).astype(int)
    high = np.max([box[1] for box in boxes], axis=0).clip(0, shape[1::-1]).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def erased_photographs(
    models: Mapping[str, stage.Model], files: Sequence[Path]
) -> list[dict[str, Any]]:
    """Figures of photographs, cut to the faces in them: before, the parts found, and after, by every row."""
    shown: list[dict[str, Any]] = []
    for name, image in tqdm(photographs(files), desc="photographs", leave=False):
        found = faces.find_faces(image)
        view = around(found, image.shape)
        cells = [{"label": "before", "uri": data_uri(image[view], 640)}]
        if found:
            outlined = image.copy()
            crops = []
            for face in found:
                crop, matrix = faces.align(image, face)
                mask = faces.face_mask(image, face, crop.shape[0])[0].astype(np.uint8)
                crops.append((crop, matrix, mask))
                outlined = faces.paste_back(outlined, np.full_like(crop, (255, 64, 129)), matrix, mask, 0)
            cells.append({"label": "parts found", "uri": data_uri(outlined[view], 640)})
            fills = {name: (m.method, m.resolution) for name, m in models.items()}
            for label, (method, size) in {**fills, "navier_stokes": (metrics.fill_navier_stokes, 256)}.items():
                after = image.copy()
                for crop, matrix, mask in crops:
                    after = faces.paste_back(after, at_size(method, size, crop, mask), matrix, mask)
                cells.append({"label": label, "uri": data_uri(after[view], 640)})
        people = f"{len(found)} face{'s' if len(found) != 1 else ''} found"
        shown.append(
            {"name": name, "found": people if found else "no face found in it, so nothing was erased", "cells": cells}
        )
    return shown


def histograms(models: Mapping[str, stage.Model]) -> list[dict[str, Any]]:
    """The norms' scales before and after slimming, of every folder or card whose history has them, as SVG bars."""
    drawn = {}
    for name, model in models.items():
        history = checkpoint.history(model.path) if model.path.is_dir() else artifact.read_card(model.path)["history"]
        for entry in history:
            if scales := entry.get("scales"):
                top = max([*scales["before"], *scales["after"], 1])
                drawn[json.dumps(scales)] = {
                    "name": name,
                    "low": f"{scales['edges'][0]:.3g}",
                    "high": f"{scales['edges'][-1]:.3g}",
                    "sides": [
                        {
                            "label": side,
                            "bars": [round(100 * n / top, 2) for n in scales[side]],
                            "total": sum(scales[side]),
                        }
                        for side in ("before", "after")
                    ],
                }
    return list(drawn.values())


TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ heading }}</title>
<style>
:root { --ink: #1b1d22; --soft: #5d6472; --line: #dfe2e8; --ground: #fbfbfc; --card: #fff; --mark: #b4235a;
        --good: #0b6b46; --bad: #a8341c; --warn: #fff4d6; --warn-ink: #5b4300; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e9ebef; --soft: #9aa3b2; --line: #2e333d; --ground: #14161a; --card: #1b1e24; --mark: #ff86b0;
          --good: #5fd3a0; --bad: #ff9a80; --warn: #3a2f10; --warn-ink: #ffe2a0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 4rem; background: var(--ground); color: var(--ink);
       font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; }
.soft, figcaption, small { color: var(--soft); }
.notice { background: var(--warn); color: var(--warn-ink); border-radius: .5rem; padding: .6rem .9rem;
          margin: 1rem 0; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .6rem; background: var(--card); }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .9rem;
        font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { font-weight: 600; color: var(--soft); font-size: .78rem; line-height: 1.25; min-width: 5.2rem;
           vertical-align: bottom; }
tbody tr:last-child > * { border-bottom: 0; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--card); min-width: 0;
                 border-right: 1px solid var(--line); }
tr.first > * { background: color-mix(in srgb, var(--mark) 9%, var(--card)); }
tr.classical th, tr.classical td { color: var(--soft); }
td small { display: block; font-size: .75rem; }
small.better { color: var(--good); } small.worse { color: var(--bad); }
figure { margin: 0 0 1.5rem; }
.grid { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fill, minmax({{ thumb }}px, 1fr)); }
.wide { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.grid div, .wide div { min-width: 0; }
.grid img, .wide img { width: 100%; height: auto; display: block; border-radius: .4rem; background: var(--line); }
.label { font-size: .8rem; line-height: 1.25; display: flex; flex-wrap: wrap; justify-content: space-between;
         gap: 0 .4rem; padding: .2rem .1rem; }
.label span { white-space: nowrap; }
figcaption { font-size: .85rem; margin-top: .4rem; }
svg { width: 100%; height: 9rem; display: block; border-bottom: 1px solid var(--line); }
svg rect { fill: var(--mark); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .85rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  .grid { grid-template-columns: repeat(3, 1fr); gap: .4rem; } h1 { font-size: 1.3rem; }
  .wide { grid-template-columns: repeat(2, 1fr); gap: .4rem; } .label { font-size: .72rem; } }
</style>
</head>
<body>
<header>
<h1>{{ heading }}</h1>
<p class="soft">{{ result.data.n }} validation pairs, list {{ (result.data.eval_sha256 or "")[:12] }}.</p>
</header>
{% if synthetic %}<p class="notice"><strong>Synthetic data.</strong> Skin and masks were generated by code. These
figures show that the chain works; they say nothing about real faces.</p>{% endif %}

<h2>Figures</h2>
<figure>
<div class="scroll" tabindex="0"><table>
<thead><tr><th scope="col">row</th>{% for h in table.headings %}<th scope="col">{{ h }}</th>{% endfor %}</tr></thead>
<tbody>{% for line in table.lines %}
<tr class="{{ 'classical' if line.classical }}{{ 'first' if loop.first }}">
<th scope="row">{{ line.name }}
{%- if line.resized %}<br><small>resized from {{ line.resized }}</small>{% endif %}</th>
{% for c in line.cells %}
<td>{{ c.text }}{% if c.change %}<small class="{{ c.tone }}">{{ c.change }}</small>{% endif %}</td>
{% endfor %}</tr>{% endfor %}
</tbody></table></div>
<figcaption>Small print under a figure: its change against {{ table.lines[0].name }}, the first row. Figures are
taken inside the hole, on 8-bit pictures, with the mask also mirrored top to bottom, so that the answer cannot be copied
from the other half. PSNR alone cannot tell a face from a smear: read it with shading and texture. Texture figures are
medians{% if texture_n is not none %} over the {{ texture_n }} pictures of enough resolution{% endif %}. Mean colour,
Telea and Navier-Stokes are classical fills: what a network has to beat.</figcaption>
</figure>

{% if gallery %}<h2>What each row paints</h2>
{% for pair in gallery %}<figure><div class="grid">
{% for c in pair.cells %}<div><img src="{{ c.uri }}" alt="{{ c.label }}, pair {{ pair.name }}" width="{{ thumb }}"
 height="{{ thumb }}"><div class="label"><span>{{ c.label }}</span><span class="soft">{{ c.note }}</span></div></div>
{% endfor %}</div><figcaption>Pair {{ pair.name }}{% if synthetic %} (synthetic){% endif %}: the blank face that is
the truth, what a method sees, and what it makes of it; PSNR inside the hole.</figcaption></figure>
{% endfor %}{% endif %}

{% if photographs %}<h2>Photographs</h2>
{% for photo in photographs %}<figure><div class="wide">
{% for c in photo.cells %}<div><img src="{{ c.uri }}" alt="{{ photo.name }}, {{ c.label }}">
<div class="label"><span>{{ c.label }}</span></div></div>
{% endfor %}</div><figcaption>{{ photo.name }}: {{ photo.found }}.
{%- if synthetic %} The networks were trained on synthetic skin.{% endif %}</figcaption></figure>
{% endfor %}{% endif %}

{% if histograms %}<h2>Slimming</h2>
{% for h in histograms %}<figure><div class="wide">
{% for side in h.sides %}<div><svg viewBox="0 0 {{ side.bars|length }} 100" preserveAspectRatio="none" role="img"
 aria-label="scale factors {{ side.label }}">{% for b in side.bars %}
<rect x="{{ loop.index0 + 0.06 }}" y="{{ 100 - b }}" width="0.88" height="{{ b }}"/>{% endfor %}</svg>
<div class="label"><span>{{ h.low }}</span><span>{{ side.label }}, {{ side.total }} channels</span>
<span>{{ h.high }}</span></div></div>{% endfor %}</div>
<figcaption>{{ h.name }}: sizes of the norms' scale factors before and after training with the L1 penalty, drawn to one
height. What shrank to nothing was cut.</figcaption></figure>
{% endfor %}{% endif %}

<h2>How this was made</h2>
<dl><dt>command</dt><dd><code>{{ result.command }}</code></dd><dt>commit</dt><dd>{{ result.commit }}</dd>
<dt>machine</dt><dd>{% for k, v in result.hardware.items() %}{{ k }} {{ v }}{{ ", " if not loop.last }}{% endfor %}</dd>
<dt>versions</dt>
<dd>{% for k, v in result.versions.items() %}{{ k }} {{ v }}{{ ", " if not loop.last }}{% endfor %}</dd></dl>
</body>
</html>
"""


def read_result(path: Path) -> dict[str, Any]:
    """A result file, checked for its form. Raises ValueError when it is not one."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        missing = [key for key in ("command", "commit", "hardware", "versions", "data", "rows") if key not in found]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: expected a result of benchmarks/fidelity.py --json ({error})") from None
    if missing or not found["rows"]:
        raise ValueError(
            f"{path}: expected a result of benchmarks/fidelity.py --json, it lacks {', '.join(missing) or 'rows'}"
        )
    return found


def render(
    result: Mapping[str, Any], pictures: Sequence[Any] = (), photographs: Sequence[Any] = (), scales: Sequence[Any] = ()
) -> str:
    """The page. Every text is escaped: names of files and rows are other people's."""
    synthetic = result["data"].get("source") == "synthetic"
    what = "synthetic skin" if synthetic else result["data"]["name"]
    return Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE).render(
        heading=f"FaceEraser on {what}", result=result, synthetic=synthetic, table=table(result["rows"]),
        texture_n=result["rows"][0].get("texture_n"), gallery=pictures, photographs=photographs, histograms=scales,
        thumb=130,
    )  # fmt: skip


def run(args: Namespace) -> int:
    """Read, paint, write."""
    if args.target is None:
        raise ValueError("no TARGET.html; expected it as the last word of the command")
    result = read_result(args.result)
    about = pairs.describe(args.data)
    if result["data"].get("eval_sha256") != about.get("eval_sha256"):
        raise ValueError(
            f"{args.result} was measured on list {str(result['data'].get('eval_sha256'))[:12]}, {args.data} has "
            f"{str(about.get('eval_sha256'))[:12]}: give the data folder that the result was measured on"
        )
    models = open_models(args.models)
    photos = [] if args.no_photo else erased_photographs(models, args.photo)
    page = render(result, gallery(models, args.data, args.pairs), photos, histograms(models))
    args.target.parent.mkdir(parents=True, exist_ok=True)
    partial = args.target.with_name(args.target.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(args.target)
    summary = {
        "target": args.target.name,
        "bytes": len(page.encode()),
        "rows": len(result["rows"]),
        "photographs": len(photos),
    }
    stage.finish("Report", [summary], summary)
    return 0


def build_parser() -> ArgumentParser:
    """The command line; TARGET.html may stand last (see `main`)."""
    parser = ArgumentParser(
        prog="report.py", description=__doc__, formatter_class=RawDescriptionHelpFormatter,
        usage="report.py RESULT.json --data FOLDER [options] --models name=PATH ... TARGET.html",
    )  # fmt: skip
    parser.add_argument("result", type=Path, metavar="RESULT.json", help="written by benchmarks/fidelity.py --json")
    parser.add_argument("--target", type=Path, metavar="TARGET.html", help="the page; may stand last, without the flag")
    parser.add_argument("--data", type=Path, required=True, help="folder the result was measured on")
    parser.add_argument("--models", nargs="+", default=[], metavar="name=PATH", help="rows to paint with")
    parser.add_argument("--pairs", type=int, default=4, help="validation pairs to show (default: %(default)s)")
    parser.add_argument("--photo", nargs="+", type=Path, default=[], metavar="FILE",
                        help="photographs to erase (default: scikit-image's astronaut)")  # fmt: skip
    parser.add_argument("--no-photo", action="store_true", help="show no photograph: without landmark models, say")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[-1].endswith(".html") and "--target" not in words:
        # --models and --photo take every word that follows them, so the last one has to be told apart first.
        words = ["--target", words[-1], *words[:-1]]
    return stage.execute(run, build_parser(), words)


if __name__ == "__main__":
    sys.exit(main())

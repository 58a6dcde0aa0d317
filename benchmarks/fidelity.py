"""How much of the fp32 network's quality a compressed or exported model keeps, on the fixed evaluation list.

    python benchmarks/fidelity.py exports/*.tflite --reference runs/fp32 --data data/faces

A model is an exported file (with its card) or a checkpoint folder; `name=PATH` names its row, which otherwise is
called as the file is. The reference is the row `fp32`. Every other model gets `psnr_vs_fp32`, and mean colour, Telea
and Navier-Stokes stand beside: a network that does not beat Navier-Stokes is not worth a phone's battery. With --max-
drop it is a gate: exit code 1 if a model's psnr_hole_mirrored lies more than that many dB below the reference's.

The figures are defined in faceeraser/metrics.py. `gmacs`, `params` and `bytes` are an exported file's own, from its
card; a checkpoint folder is counted as a network and has no `bytes`. A model of another resolution than the data's is
measured on resized pairs and says so in `resized_from`; it has a `psnr_vs_fp32` only where the reference has its
resolution. The gain over Navier-Stokes by skin tone, with 95 % bootstrap intervals, stands in the result's
`gain_over_navier_stokes`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from faceeraser import artifact, metrics, opening, pairs, script

COLUMNS = (
    "psnr_hole_mirrored", "psnr_hole_smooth", "texture_energy", "texture_swd", "texture_swd_centred", "psnr_vs_fp32",
    "psnr_hole", "psnr", "mae", "gmacs", "params", "bytes", "ms", "ms_torch",
)  # fmt: skip


def open_all(args: Namespace) -> list[opening.Model]:
    """The reference, then the models, each once and under its own name."""
    name, path = opening.named(args.reference)
    found = [opening.open_model(path, name or "fp32")]
    for name, path in [opening.named(text) for text in (*args.models, *args.rows)]:
        if path.resolve() == found[0].path.resolve():
            continue
        model = opening.open_model(path, name or path.stem)
        if model.name in {other.name for other in found} | set(metrics.CLASSICAL):
            raise ValueError(f"two rows would be called {model.name}; name one of them: other={path}")
        found.append(model)
    return found


def timings(path: Path | None) -> dict[tuple[str, str], float]:
    """{(file or model's name, runtime): median ms} of one thread, from a result of benchmarks/latency.py."""
    if path is None:
        return {}
    try:
        rows = json.loads(path.read_text())["rows"]
        timed = [row for row in rows if row["threads"] == 1 and row["median_ms"] is not None]
        return {(row[key], row["runtime"]): row["median_ms"] for key in ("model", "file") for row in timed}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a result of latency.py ({type(error).__name__}: {error})") from None


def milliseconds(model: opening.Model, took: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """`ms` and `ms_torch` of a model, where they were taken: of its own file, or of what bears its row's name.

    So a row that is measured as a .tflite gets its `ms_torch` from the checkpoint folder of the same name.
    """
    found = {}
    for field, runtime in (("ms", "litert"), ("ms_torch", "torch")):
        keys = [key for key in ((model.about["file"], runtime), (model.name, runtime)) if key in took]
        if keys:
            found[field] = took[keys[0]]
    return found


def measure(models: Sequence[opening.Model], args: Namespace) -> dict[str, Any]:
    """The result. The classical rows are taken at the reference's resolution."""
    data = pairs.describe(args.data)
    digest = hashlib.sha256((args.data / "eval.csv").read_bytes()).hexdigest()
    if data.get("eval_sha256") != digest:
        raise ValueError(
            f"{args.data}/eval.csv has sha256 {digest[:12]}, its data.json says {str(data.get('eval_sha256'))[:12]}: "
            "the list was changed; run train/prepare.py again"
        )
    took = timings(args.latency)
    lists: dict[int, list[pairs.Pair]] = {}

    def score(name: str, method: metrics.Method, size: int, fp32: Sequence[Any] | None) -> metrics.Score:
        if size not in lists:
            lists[size] = pairs.evaluation_pairs(args.data, size=size, limit=args.limit)
        return metrics.score(method, lists[size], fp32, lambda p: tqdm(p, desc=name, unit="pair", leave=False))

    rows, fp32 = [], None
    gained: dict[str, list[float]] = {}
    for model in models:
        size = model.resolution
        found = score(model.name, model.method, size, fp32 if size == models[0].resolution else None)
        fp32 = fp32 or found.painted
        row = {"name": model.name, "resolution": size, **found.row, **model.about}
        if size != data["size"]:
            row["resized_from"] = data["size"]
        rows.append(row | milliseconds(model, took))
        if size == models[0].resolution:
            gained[model.name] = found.figures["psnr_hole_mirrored"]
    size = models[0].resolution
    for model in [model for model in models if model.name == args.noise]:
        found = score(f"{model.name}_noise", metrics.with_noise(model.method), model.resolution, None)
        rows.append({"name": f"{model.name}_noise", "resolution": model.resolution, **found.row, "kind": "control"})
    classical = metrics.classical_scores(lists[size], lambda p: tqdm(p, desc="classical", leave=False))
    for name, found in classical.items():
        resized = {"resized_from": data["size"]} if size != data["size"] else {}
        rows.append({"name": name, "resolution": size, **found.row, "kind": "classical", **resized})
    about = {key: data.get(key) for key in ("name", "source", "size")} | {"n": rows[0]["n"], "eval_sha256": digest}
    navier_stokes = np.asarray(classical["navier_stokes"].figures["psnr_hole_mirrored"])
    ita = [pair.ita for pair in lists[size]]
    tones = {name: metrics.by_tone(np.asarray(values) - navier_stokes, ita) for name, values in gained.items()}
    return artifact.result(rows, about, args.command) | {"gain_over_navier_stokes": tones}


def title(data: Mapping[str, Any]) -> str:
    """One line over the table; generated skin is called so."""
    what = "SYNTHETIC skin (generated, not photographs)" if data["source"] == "synthetic" else "photographs"
    return f"{data['n']} pairs of {what}, {data['name']}; texture: medians"


def gate(rows: Sequence[Mapping[str, Any]], models: int, max_drop: float) -> None:
    """Raises GateFailed naming every model that lies more than `max_drop` dB below the reference, the first row."""
    best = rows[0]["psnr_hole_mirrored"]
    fallen = [(row["name"], best - row["psnr_hole_mirrored"]) for row in rows[1:models]]
    failed = [f"{name} is {drop:.3f} dB below {rows[0]['name']}" for name, drop in fallen if drop > max_drop]
    if failed:
        raise script.GateFailed(f"psnr_hole_mirrored may drop by {max_drop} dB; {'; '.join(failed)}")


def run(args: Namespace) -> int:
    """Measure, print, write, judge."""
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit is {args.limit}; expected at least 1")
    models = open_all(args)
    if args.noise is not None and args.noise not in {model.name for model in models}:
        raise ValueError(f"--noise {args.noise}: no row is called so; expected one of {', '.join(m.name for m in models)}")
    if args.max_drop is not None and (other := [m for m in models if m.resolution != models[0].resolution]):
        raise ValueError(
            f"{other[0].name} runs at {other[0].resolution}, {models[0].name} at {models[0].resolution}: "
            "--max-drop compares figures of one resolution only"
        )
    result = measure(models, args)
    rows, data = result["rows"], result["data"]
    if args.json:
        artifact.write_result(args.json, result)
    shown = [c for c in COLUMNS if any(row.get(c) is not None for row in rows)]
    script.finish(title(data), [{"name": row["name"], **{c: row.get(c) for c in shown}} for row in rows], result)
    if args.max_drop is not None:
        gate(rows, len(models), args.max_drop)
    return 0


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = script.parser(__file__, __doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="exported file or checkpoint folder, or name=PATH")
    parser.add_argument("--reference", required=True, metavar="MODEL", help="the row fp32: a folder or a file")
    parser.add_argument("--data", type=Path, required=True, help="folder made by train/prepare.py")
    parser.add_argument("--max-drop", type=float, metavar="DB", help="gate: exit 1 if a model lies further below fp32")
    parser.add_argument("--limit", type=int, help="only the first so many pairs of the list")
    parser.add_argument("--rows", nargs="+", default=[], metavar="name=PATH", help="further models, named")
    parser.add_argument("--noise", metavar="NAME", help="a control row: that model's output with white noise for texture")
    parser.add_argument("--latency", type=Path, metavar="FILE", help="a result of latency.py, for milliseconds")
    script.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

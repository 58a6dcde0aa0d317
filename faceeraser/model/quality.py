"""How much of the fp32 network's quality a compressed or exported model keeps, measured on the fixed evaluation list.

    result = fidelity(["exports/int8.tflite"], Fidelity(reference="runs/fp32", data="data/faces"))

The figures are defined in metrics.py. Opening a checkpoint folder needs torch; an exported file needs its own runtime only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from faceeraser.measurement import metrics, results
from faceeraser.model import opening, pairs


@dataclass(kw_only=True)
class Fidelity:
    """Options of `fidelity`."""

    reference: str
    """The row `fp32`: a checkpoint folder or a file, or name=PATH."""
    data: str | Path
    """A folder made by train/prepare.py."""
    limit: int | None = None
    """Use only this many pairs, from the start of the list."""
    noise: str | None = None
    """Name of a model to add as a control, with white noise for texture."""
    latency: str | Path | None = None
    """A result of latency.py, for milliseconds."""
    one_resolution: bool = False
    """Refuse a model whose resolution differs from the reference's, since their figures cannot be compared."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit is {self.limit}; expected at least 1")


def fidelity(models: Sequence[str], options: Fidelity, command: Sequence[str] = ("faceeraser.fidelity",)) -> dict[str, Any]:
    """Measure models against the truth, against the reference and against classical filling.

    Args:
        models: exported files and checkpoint folders, each a path or name=PATH; without a name the file names the row.
        options: the reference, the data, and what else is measured.
        command: what the result says that it was made by.

    Returns:
        A result as benchmarks/results/ has them: `rows` (the reference first, then the models, then controls and classical
        filling), `data`, `gain_over_navier_stokes` by skin tone with 95 % bootstrap intervals, versions and hardware.

    Raises:
        ValueError: a model or the data cannot be used, or two rows would have one name.
        FileNotFoundError: a model is not there.
        ModuleNotFoundError: names the extra to install.
    """
    opened = open_all(options.reference, models)
    if options.noise is not None and options.noise not in {model.name for model in opened}:
        names = ", ".join(model.name for model in opened)
        raise ValueError(f"--noise {options.noise}: no row is called so; expected one of {names}")
    if options.one_resolution and (other := [model for model in opened if model.resolution != opened[0].resolution]):
        raise ValueError(
            f"{other[0].name} runs at {other[0].resolution}, {opened[0].name} at {opened[0].resolution}: "
            "--max-drop compares figures of one resolution only"
        )
    return measure(opened, options, command)


def open_all(reference: str, models: Sequence[str]) -> list[opening.Model]:
    """The reference, then the models, each once and under its own name. Raises as `fidelity`."""
    name, path = opening.named(reference)
    opened = [opening.open_model(path, name or "fp32")]
    for name, path in map(opening.named, models):
        if path.resolve() == opened[0].path.resolve():
            continue
        model = opening.open_model(path, name or path.stem)
        if model.name in {other.name for other in opened} | set(metrics.CLASSICAL):
            raise ValueError(f"two rows would be called {model.name}; name one of them: other={path}")
        opened.append(model)
    return opened


def _timings(path: Path | None) -> dict[tuple[str, str], float]:
    """{(file or model's name, runtime): median ms} of one thread, from a result of benchmarks/latency.py."""
    if path is None:
        return {}
    try:
        rows = results.read_result(path)["rows"]
        timed = [row for row in rows if row["threads"] == 1 and row["median_ms"] is not None]
        return {(row[key], row["runtime"]): row["median_ms"] for key in ("model", "file") for row in timed}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a result of latency.py ({type(error).__name__}: {error})") from None


def _milliseconds(model: opening.Model, took: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """`ms` and `ms_torch` of a model, where they were taken: of its own file, or of what bears its row's name.

    So a row that is measured as a .tflite gets its `ms_torch` from the checkpoint folder of the same name.
    """
    taken = {}
    for field, runtime in (("ms", "litert"), ("ms_torch", "torch")):
        keys = [key for key in ((model.about["file"], runtime), (model.name, runtime)) if key in took]
        if keys:
            taken[field] = took[keys[0]]
    return taken


def measure(models: Sequence[opening.Model], options: Fidelity, command: Sequence[str]) -> dict[str, Any]:
    """The result of models that are open, the reference first. The classical rows are taken at its resolution."""
    folder = Path(options.data)
    data = pairs.data_of(folder)
    digest = hashlib.sha256((folder / "eval.csv").read_bytes()).hexdigest()
    if data.get("eval_sha256") != digest:
        raise ValueError(
            f"{folder}/eval.csv has sha256 {digest[:12]}, its data.json says {str(data.get('eval_sha256'))[:12]}: "
            "the list was changed; run train/prepare.py again"
        )
    took = _timings(Path(options.latency) if options.latency else None)
    lists: dict[int, list[pairs.Pair]] = {}

    def score(name: str, method: metrics.Method, size: int, fp32: Sequence[Any] | None) -> metrics.Score:
        if size not in lists:
            lists[size] = pairs.evaluation_pairs(folder, size=size, limit=options.limit)
        return metrics.score(method, lists[size], fp32, lambda p: tqdm(p, desc=name, unit="pair", leave=False))

    rows, fp32 = [], None
    gained: dict[str, list[float]] = {}
    size = models[0].resolution
    for model in models:
        own = model.resolution
        scored = score(model.name, model.method, own, fp32 if own == size else None)
        fp32 = fp32 or scored.painted
        row = {"name": model.name, "resolution": own, **scored.row, **model.about}
        if own != data["size"]:
            row["resized_from"] = data["size"]
        rows.append(row | _milliseconds(model, took))
        if own == size:
            gained[model.name] = scored.figures["psnr_hole_mirrored"]
    for model in [model for model in models if model.name == options.noise]:
        scored = score(f"{model.name}_noise", metrics.with_noise(model.method), model.resolution, None)
        rows.append({"name": f"{model.name}_noise", "resolution": model.resolution, **scored.row, "kind": "control"})
    classical = metrics.classical_scores(lists[size], lambda p: tqdm(p, desc="classical", leave=False))
    for name, scored in classical.items():
        resized = {"resized_from": data["size"]} if size != data["size"] else {}
        rows.append({"name": name, "resolution": size, **scored.row, "kind": "classical", **resized})
    about = {key: data.get(key) for key in ("name", "source", "size")} | {"n": rows[0]["n"], "eval_sha256": digest}
    navier_stokes = np.asarray(classical["navier_stokes"].figures["psnr_hole_mirrored"])
    ita = [pair.ita for pair in lists[size]]
    tones = {name: metrics.by_tone(np.asarray(values) - navier_stokes, ita) for name, values in gained.items()}
    return results.result(rows, about, list(command)) | {"gain_over_navier_stokes": tones}

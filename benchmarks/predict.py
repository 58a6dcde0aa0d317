"""A rough estimate of what a .tflite takes on three classes of phone, where there is no phone to measure it on.

    python benchmarks/predict.py exports/*.tflite --json prediction.json
    python benchmarks/report.py --data data/faces result.json prediction.json report.html

An estimate, not a measurement: every row says so (`estimate: true`, `estimate_ms`), and no figure of it is ever called
`ms`. The form is

    ms = rate of the device * (GMAC * q + r * GB)

GB is what all operators read and write (`contents.operators`), so the hundreds of small operators around the
convolutions count as well; r, one for all devices, says how many GMAC take as long as moving 10^9 bytes; q is 1 for floats,
and for int8 one number for cores without and one for cores with a dot product of bytes. All are fitted, in the logarithm,
to `PUBLISHED`: times that others have published of known networks on known devices. The networks were built with random
weights and counted as our own files are (`--recount` does it again; it needs TensorFlow). The error is that of leaving each
anchor out and fitting to the others.

The anchors are classifiers, in which nearly all the time is convolutions; an eraser with Canny and the warp inside is not.
`--check RESULT.json` looks how well the form holds for our own files, timed on a computer: a rate is fitted to the rows of
RESULT that have `ms` and are called as the models are, and the largest miss is told. `RANGE`, the factor between estimate
and ends of the range, is no less than any of these misses in benchmarks/results/prediction.json, which holds it all:

    python benchmarks/predict.py fp32=exports/fp32.tflite int8=exports/int8.tflite pruned=exports/pruned.tflite \
        slim=exports/slim.tflite student=exports/student.tflite --check benchmarks/results/release.json \
        --json benchmarks/results/prediction.json
"""

from __future__ import annotations

import io
import math
import os
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faceeraser.artifacts import contents
from faceeraser.artifacts.card import read_card
from faceeraser.measurement import results
from faceeraser.system import script

# Network -> GMAC and 10^6 bytes moved by its fp32 .tflite, as `--recount` prints them.
NETWORKS: dict[str, tuple[float, float]] = {
    "mobilenet_v1": (0.5687, 57.85),
    "mobilenet_v2": (0.3008, 70.59),
    "mobilenet_v3_large": (0.2166, 82.16),
    "mobilenet_v3_large_0.75": (0.1546, 68.95),
    "mobilenet_v3_large_minimalistic": (0.2091, 56.56),
    "mobilenet_v3_small": (0.0565, 32.60),
    "mobilenet_v3_small_0.75": (0.0434, 28.22),
    "mobilenet_v3_small_minimalistic": (0.0523, 20.73),
    "efficientnet_lite0": (0.3852, 75.57),
    "efficientnet_lite1": (0.6002, 108.49),
    "efficientnet_lite2": (0.8635, 135.68),
    "efficientnet_lite3": (1.4009, 199.48),
    "efficientnet_lite4": (2.5981, 310.32),
}
SOURCES = {
    "xnnpack": "XNNPACK, README.md, Performance (March and February 2020), github.com/google/XNNPACK",
    "slim": "TensorFlow Models, research/slim/nets/mobilenet/README.md, MobileNet V3 checkpoints (one large core, TF-Lite), "
    "github.com/tensorflow/models",
    "lite": "TensorFlow TPU, models/official/efficientnet/lite/README.md (four CPU threads), github.com/tensorflow/tpu",
}
_FOUR = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")
_SIX = ("mobilenet_v3_large", "mobilenet_v3_large_0.75", "mobilenet_v3_large_minimalistic",
        "mobilenet_v3_small", "mobilenet_v3_small_0.75", "mobilenet_v3_small_minimalistic")  # fmt: skip
_INT8 = ("mobilenet_v3_large", "mobilenet_v3_large_minimalistic", "mobilenet_v3_small")
_LITE = tuple(f"efficientnet_lite{k}" for k in range(5))
# Source, device, threads, precision, networks, their published milliseconds.
PUBLISHED: tuple[tuple[str, str, int, str, tuple[str, ...], tuple[float, ...]], ...] = (
    ("xnnpack", "Pixel", 1, "fp32", _FOUR, (82, 49, 39, 12)),
    ("xnnpack", "Pixel 2", 1, "fp32", _FOUR, (86, 53, 42, 14)),
    ("xnnpack", "Pixel 3a", 1, "fp32", _FOUR, (88, 55, 44, 14)),
    ("xnnpack", "Pixel", 2, "fp32", _FOUR, (43, 26, 22, 7)),
    ("xnnpack", "Pixel 2", 4, "fp32", _FOUR, (27, 18, 16, 6)),
    ("xnnpack", "Pixel 3a", 2, "fp32", _FOUR, (46, 28, 24, 8)),
    ("xnnpack", "Raspberry Pi 3+", 4, "fp32", _FOUR, (115, 79, 67, 23)),
    ("xnnpack", "Raspberry Pi 4", 4, "fp32", _FOUR, (75, 44, 41, 14)),
    ("slim", "Pixel", 1, "fp32", _SIX, (51.2, 39.8, 44.1, 15.8, 12.8, 12.2)),
    ("slim", "Pixel 2", 1, "fp32", _SIX, (61, 48, 51, 19.4, 15.9, 15.1)),
    ("slim", "Pixel 3", 1, "fp32", _SIX, (44, 34, 35, 14.4, 11.6, 11)),
    ("slim", "Pixel", 1, "int8", _INT8, (44, 37, 15.5)),
    ("slim", "Pixel 2", 1, "int8", _INT8, (42.5, 35, 15)),
    ("slim", "Pixel 3", 1, "int8", _INT8, (32, 27, 10.7)),
    ("lite", "Pixel 4", 4, "fp32", _LITE, (12, 18, 26, 41, 76)),
    ("lite", "Pixel 4", 4, "int8", _LITE, (6.5, 9.1, 12, 18, 30)),
)
# Cores since Arm's v8.4 (and some of v8.2) multiply four bytes at once, which TFLite's int8 convolutions use.
DOT_PRODUCT = ("Pixel 4",)
# Class -> (source, device, threads) whose rate it has, and what that stands for.
CLASSES: dict[str, tuple[tuple[str, str, int], str]] = {
    "low": (("xnnpack", "Raspberry Pi 3+", 4), "four Cortex-A53 cores, those of entry phones (timed on a Raspberry Pi 3+)"),
    "middle": (("xnnpack", "Pixel 3a", 2), "the two big cores of a Pixel 3a (2019)"),
    "high": (("lite", "Pixel 4", 4), "four threads on a Pixel 4 (flagship of 2019; one of today is faster)"),
}
RANGE = 1.45


@dataclass(frozen=True)
class Anchor:
    """One published time. gmacs and gb are those of its network in its precision; a quarter of the bytes for int8."""

    network: str
    source: str
    device: str
    threads: int
    precision: str
    ms: float
    gmacs: float
    gb: float

    @property
    def place(self) -> tuple[str, str, int]:
        """What has a rate of its own: the same device in another source ran another runtime."""
        return self.source, self.device, self.threads

    @property
    def int8(self) -> str | None:
        """Which q its MACs are multiplied with: None (1, floats), "plain" or "dot"."""
        return None if self.precision == "fp32" else "dot" if self.device in DOT_PRODUCT else "plain"


def anchors() -> list[Anchor]:
    """`PUBLISHED`, one by one."""
    return [
        Anchor(name, source, device, threads, precision, ms, NETWORKS[name][0],
               NETWORKS[name][1] / 1e3 / (4 if precision == "int8" else 1))
        for source, device, threads, precision, networks, times in PUBLISHED
        for name, ms in zip(networks, times, strict=True)
    ]  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """r in GMAC for 10^9 bytes, q by kind of int8, and the rates in ms for each GMAC by place."""

    r: float
    q: Mapping[str, float]
    rates: Mapping[tuple[str, str, int], float]

    def work(self, gmacs: float, gb: float, int8: str | None) -> float:
        """What a rate is multiplied with: GMAC, the bytes counted as such."""
        return gmacs * (self.q[int8] if int8 else 1) + self.r * gb

    def ms(self, anchor: Anchor) -> float:
        """Milliseconds of an anchor."""
        return self.rates[anchor.place] * self.work(anchor.gmacs, anchor.gb, anchor.int8)


def fit(given: Sequence[Anchor]) -> Fit:
    """The parameters that miss the logarithms of the anchors' times least (least squares, Gauss-Newton).

    Raises ValueError when an int8 kind or the places leave nothing to fit it to.
    """
    places = sorted({a.place for a in given})
    kinds = ("plain", "dot")
    if missing := [kind for kind in kinds if kind not in {a.int8 for a in given}]:
        raise ValueError(f"no int8 anchor on cores of kind {' and '.join(missing)}")
    column = {place: 3 + k for k, place in enumerate(places)}
    values = np.zeros(3 + len(places))  # logarithms of r, of both q, of the rates
    values[3:] = 4.0
    gmacs, gb, ms = (np.array([getattr(a, name) for a in given]) for name in ("gmacs", "gb", "ms"))
    kind = np.array([0 if a.int8 is None else 1 + kinds.index(a.int8) for a in given])
    rate = np.array([column[a.place] for a in given])
    rows = np.arange(len(given))
    for _ in range(30):
        scaled = gmacs * np.exp(np.where(kind > 0, values[kind], 0.0))
        bytes_part = np.exp(values[0]) * gb
        missed = np.log(ms) - values[rate] - np.log(scaled + bytes_part)
        slope = np.zeros((len(given), len(values)))
        slope[:, 0] = bytes_part / (scaled + bytes_part)
        quantized = kind > 0
        slope[rows[quantized], kind[quantized]] = (scaled / (scaled + bytes_part))[quantized]
        slope[rows, rate] = 1.0
        values = values + np.linalg.lstsq(slope, missed, rcond=None)[0]
    rates = {place: float(np.exp(values[column[place]])) for place in places}
    return Fit(float(np.exp(values[0])), {k: float(np.exp(values[1 + i])) for i, k in enumerate(kinds)}, rates)


def leave_one_out(given: Sequence[Anchor]) -> list[float]:
    """For each anchor the factor estimate / published, the estimate fitted to all the others."""
    return [fit([*given[:k], *given[k + 1 :]]).ms(anchor) / anchor.ms for k, anchor in enumerate(given)]


def as_factor(ratios: Sequence[float]) -> list[float]:
    """How far off each is, whichever way: 1.1 for 10 % more and for 10 % less."""
    return [max(ratio, 1 / ratio) for ratio in ratios]


def measured_work(path: Path, card: Mapping[str, Any]) -> tuple[float, float]:
    """(GMAC, 10^9 bytes moved) of an exported file."""
    return float(card["gmacs"]), sum(row["moved_mb"] for row in contents.operators(path)) / 1e3


def estimates(name: str, path: Path, fitted: Fit) -> list[dict[str, Any]]:
    """The file's rows, one for each class of phone."""
    card = read_card(path)
    gmacs, gb = measured_work(path, card)
    rows = []
    for label, (place, about) in CLASSES.items():
        int8 = ("dot" if place[1] in DOT_PRODUCT else "plain") if card["precision"] == "int8" else None
        ms = fitted.rates[place] * fitted.work(gmacs, gb, int8)
        rows.append({
            "name": f"{name}, {label}", "model": name, "file": results.portable(path), "class": label, "about": about,
            "threads": place[2], "precision": card["precision"], "gmacs": gmacs, "moved_mb": gb * 1e3,
            "estimate": True, "estimate_ms": ms, "low_ms": ms / RANGE, "high_ms": ms * RANGE,
        })  # fmt: skip
    return rows


def check(path: Path, models: Mapping[str, Path], fitted: Fit) -> dict[str, Any]:
    """How the form holds for our own files: those of `models` whose rows in the result at `path` have `ms`.

    Floats only: an int8 file's q on that computer is not known. Raises ValueError when fewer than two are left.
    """
    result = results.read_result(path)
    timed = {row["name"]: row["ms"] for row in result["rows"] if row.get("ms") and row["name"] in models}
    work: dict[str, float] = {}
    for name in timed:
        card = read_card(models[name])
        if card["precision"] == "fp32":
            work[name] = fitted.work(*measured_work(models[name], card), None)
    if len(work) < 2:
        raise ValueError(f"--check {path}: expected `ms` of two or more fp32 models given here, found {len(work)}")
    rate = float(np.exp(np.mean([np.log(timed[name] / work[name]) for name in work])))
    rows = [{"name": name, "ms": timed[name], "fitted_ms": rate * work[name]} for name in work]
    worst = max(as_factor([row["fitted_ms"] / row["ms"] for row in rows]))
    return {"file": results.portable(path), "hardware": result["hardware"], "rows": rows, "max_factor": worst}


def recount(names: Sequence[str] = tuple(NETWORKS)) -> int:
    """Build the anchors' networks with random weights, convert and count them, and print their lines of `NETWORKS`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import tensorflow as tf
    from keras.src.applications import efficientnet

    applications, shape = keras.applications, (224, 224, 3)

    def lite(wide: float, deep: float, size: int) -> Any:
        # EfficientNet-Lite is EfficientNet with relu6 and without squeeze-and-excite, its first and last stage no deeper.
        # That its stem and head are no wider either cannot be said here: lite2 to lite4 come out a few percent large.
        blocks = [
            {**block, "se_ratio": 0, "repeats": math.ceil(block["repeats"] * (deep if 0 < k < 6 else 1))}
            for k, block in enumerate(efficientnet.DEFAULT_BLOCKS_ARGS)
        ]
        return efficientnet.EfficientNet(
            wide, 1.0, size, activation="relu6", blocks_args=blocks, input_shape=(size, size, 3), weights=None, name="lite"
        )

    def v3(large: bool, alpha: float = 1.0, minimalistic: bool = False) -> Any:
        build = applications.MobileNetV3Large if large else applications.MobileNetV3Small
        return build(input_shape=shape, alpha=alpha, minimalistic=minimalistic, weights=None, include_preprocessing=False)

    builders: dict[str, Callable[[], Any]] = {
        "mobilenet_v1": lambda: applications.MobileNet(input_shape=shape, weights=None),
        "mobilenet_v2": lambda: applications.MobileNetV2(input_shape=shape, weights=None),
        "mobilenet_v3_large": lambda: v3(True),
        "mobilenet_v3_large_0.75": lambda: v3(True, 0.75),
        "mobilenet_v3_large_minimalistic": lambda: v3(True, minimalistic=True),
        "mobilenet_v3_small": lambda: v3(False),
        "mobilenet_v3_small_0.75": lambda: v3(False, 0.75),
        "mobilenet_v3_small_minimalistic": lambda: v3(False, minimalistic=True),
        "efficientnet_lite0": lambda: lite(1.0, 1.0, 224),
        "efficientnet_lite1": lambda: lite(1.0, 1.1, 240),
        "efficientnet_lite2": lambda: lite(1.1, 1.2, 260),
        "efficientnet_lite3": lambda: lite(1.2, 1.4, 280),
        "efficientnet_lite4": lambda: lite(1.4, 1.8, 300),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = Path(folder) / f"{name}.tflite"
            with redirect_stdout(io.StringIO()):  # Keras tells every variable that it saves
                path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(builders[name]()).convert())
            moved = sum(row["moved_mb"] for row in contents.operators(path))
            print(f'    "{name}": ({contents.cost_of(path)["gmacs"]:.4f}, {moved:.2f}),', flush=True)
            keras.backend.clear_session()
    return 0


def run(args: Namespace) -> int:
    if args.recount:
        return recount()
    models: dict[str, Path] = {}
    for word in args.models:
        head, equals, tail = word.partition("=")
        name, path = (head, Path(tail)) if equals and "/" not in head else (Path(word).stem, Path(word))
        if name in models:
            raise ValueError(f"two rows would be called {name}; name one, as in other={path}")
        models[name] = path
    if not models:
        raise ValueError("no model; expected .tflite files, such as exports/int8.tflite")
    published = anchors()
    fitted, ratios = fit(published), leave_one_out(published)
    factors = as_factor(ratios)
    rows = [row for name, path in models.items() for row in estimates(name, path, fitted)]
    worst = int(np.argmax(factors))
    summary: dict[str, Any] = {
        "estimate": True,
        "fit": {"r_gmac_per_gb": fitted.r, "q_int8": dict(fitted.q),
                "ms_per_gmac": {f"{d}, {t} threads, {s}": rate for (s, d, t), rate in fitted.rates.items()}},
        "error": {"how": "leave one anchor out, fit to the others", "n": len(published),
                  "rms_factor": float(np.exp(np.sqrt(np.mean(np.log(ratios) ** 2)))),
                  "median_factor": float(np.median(factors)),
                  "max_factor": factors[worst], "worst": f"{published[worst].network} on {published[worst].device}"},
        "range_factor": RANGE,
        "sources": SOURCES,
        "anchors": [{"network": a.network, "device": a.device, "threads": a.threads, "precision": a.precision,
                     "source": a.source, "published_ms": a.ms, "gmacs": a.gmacs, "moved_mb": a.gb * 1e3,
                     "left_out_ms": ratio * a.ms} for a, ratio in zip(published, ratios, strict=True)],
    }  # fmt: skip
    if args.check:
        summary["check"] = check(args.check, models, fitted)
    result = results.result(rows, None, args.command) | summary
    if args.json:
        results.write_result(args.json, result)
    shown = [{"model": row["model"], "class": row["class"], "estimate, ms": row["estimate_ms"], "from": row["low_ms"],
              "to": row["high_ms"], "GMAC": row["gmacs"], "MB moved": row["moved_mb"]} for row in rows]  # fmt: skip
    error = summary["error"]
    script.finish(
        f"ESTIMATES, nothing was measured. On {error['n']} published times the form is off by a factor of "
        f"{error['median_factor']:.2f} (median), {error['max_factor']:.2f} at most, each left out of its fit",
        shown, {"estimate": True, "rows": len(rows), "error": error},
    )  # fmt: skip
    return 0


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = script.parser(__file__, __doc__)
    parser.add_argument("models", nargs="*", metavar="[name=]FILE.tflite", help="exported files with their cards")
    parser.add_argument("--check", type=Path, metavar="RESULT.json", help="measured times of these models, to compare with")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    parser.add_argument("--recount", action="store_true", help="count the anchors' networks again (needs TensorFlow)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

"""How much of the fp32 network's quality a compressed or exported model keeps, on the fixed evaluation list.

    python benchmarks/fidelity.py exports/*.tflite --reference runs/fp32 --data data/faces

A model is an exported file (with its card) or a checkpoint folder; `name=PATH` names its row, which otherwise is
called as the file is. The reference is the row `fp32`. Every other model gets `psnr_vs_fp32`, and mean colour, Telea
and Navier-Stokes stand beside: a network that does not beat Navier-Stokes is not worth a phone's battery. With --max-
drop it is a gate: exit code 1 if a model's psnr_hole_mirrored lies more than that many dB below the reference's.

The figures are defined in faceeraser/measurement/metrics.py. `gmacs`, `params` and `bytes` are an exported file's own, from
its card; a checkpoint folder is counted as a network and has no `bytes`. A model of another resolution than the data's is
measured on resized pairs and says so in `resized_from`; it has a `psnr_vs_fp32` only where the reference has its
resolution. The gain over Navier-Stokes by skin tone, with 95 % bootstrap intervals, stands in the result's
`gain_over_navier_stokes`.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faceeraser.measurement import results
from faceeraser.model import quality
from faceeraser.system import script

COLUMNS = (
    "psnr_hole_mirrored",
    "psnr_hole_smooth",
    "texture_energy",
    "texture_swd",
    "texture_swd_centred",
    "psnr_vs_fp32",
    "psnr_hole",
    "psnr",
    "mae",
    "gmacs",
    "params",
    "bytes",
    "ms",
    "ms_torch",
)


def title(data: Mapping[str, Any]) -> str:
    """One line over the table; generated skin is called so."""
    what = "SYNTHETIC skin (generated, not photographs)" if data["source"] == "synthetic" else "photographs"
    return f"{data['n']} pairs of {what}, {data['name']}; texture: medians"


def gate(rows: Sequence[Mapping[str, Any]], max_drop: float) -> None:
    """Raises GateFailed naming every model that lies more than `max_drop` dB below the reference, the first row."""
    best = rows[0]["psnr_hole_mirrored"]
    models = [row for row in rows[1:] if row.get("kind") not in ("control", "classical")]
    fallen = [(row["name"], best - row["psnr_hole_mirrored"]) for row in models]
    failed = [f"{name} is {drop:.3f} dB below {rows[0]['name']}" for name, drop in fallen if drop > max_drop]
    if failed:
        raise script.GateFailed(f"psnr_hole_mirrored may drop by {max_drop} dB; {'; '.join(failed)}")


def run(args: Namespace) -> None:
    args.one_resolution = args.max_drop is not None
    result = quality.fidelity([*args.models, *args.rows], script.options(quality.Fidelity, args), args.command)
    rows, data = result["rows"], result["data"]
    if args.json:
        results.write_result(args.json, result)
    shown = [c for c in COLUMNS if any(row.get(c) is not None for row in rows)]
    script.finish(title(data), [{"name": row["name"], **{c: row.get(c) for c in shown}} for row in rows], result)
    if args.max_drop is not None:
        gate(rows, args.max_drop)


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = script.parser(__file__, __doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="exported file or checkpoint folder, or name=PATH")
    parser.add_argument("--reference", required=True, metavar="MODEL", help="checkpoint folder or file for the row fp32")
    parser.add_argument("--data", type=Path, required=True, help="folder made by train/prepare.py")
    parser.add_argument(
        "--max-drop", type=float, metavar="DB", help="gate: exit with 1 if a model is further below fp32 than this"
    )
    parser.add_argument("--limit", type=int, help="use only the first N pairs of the list")
    parser.add_argument("--rows", nargs="+", default=[], metavar="name=PATH", help="more models, with names")
    parser.add_argument(
        "--noise", metavar="NAME", help="add a control row: this model's output with white noise for texture"
    )
    parser.add_argument("--latency", type=Path, metavar="FILE", help="a result of latency.py to take milliseconds from")
    script.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

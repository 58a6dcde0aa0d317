"""Export a checkpoint to TFLite, ONNX or CoreML, with the warp and Canny inside. A file is published only if it passes its
gate.

    card = convert.export("runs/int8", "exports", TFLite(flavour="web"))

`export` converts beside the target, checks the written file (coordinates in float32, the warp in the form its runtime
takes, every learnt scale of a quantized network), compares it with the checkpoint on textured pictures (gate.py), and only
then moves file and card into place. Each format defines how this is done: tflite.py, onnx.py and coreml.py, each a
`formats.Format` with its options. The gate, inside the hole of the worst picture, with the file's plan held fixed:

    fp32   largest absolute difference at most 1e-4          against the float network
    fp16   PSNR at least 55 dB                               against the float network
    int8   PSNR at least 50 dB                               against the fake-quantized network

and the plans, where pixels are copied from, agree. (CoreML's bounds are in coreml.py.) An .onnx file, which takes any size,
is compared at two more. Where there is no CoreML, a package is computed from the file by mil_program.py.

Files are called `exports/<folder>.tflite`, plus `-fp16`, `-fp32` or `-int8` if that is not the folder's own precision (int8
for a quantized folder, fp32 for any other; fp16 for CoreML), `-edges` if edges are an input, and the flavour of a .tflite
file unless it is `cpu`. A file with 8-bit pictures is compared with the rounded picture (`Gate.in_levels`).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from faceeraser.artifacts import embedded, publishing
from faceeraser.artifacts.card import write_card
from faceeraser.artifacts.runtimes import ports_of
from faceeraser.conversion import formats, tflite
from faceeraser.conversion.coreml import CoreML
from faceeraser.conversion.formats import Format, Written
from faceeraser.conversion.gate import Gate, gate_pictures, parity_of_outputs
from faceeraser.conversion.mil_program import UnknownOperator
from faceeraser.conversion.onnx import ONNX
from faceeraser.conversion.tflite import TFLite
from faceeraser.measurement import results
from faceeraser.model import any_task, checkpoint, quant
from faceeraser.model.any_network import AnyNetwork
from faceeraser.model.networks import Inpainter, cost_of
from faceeraser.model.warp import Sampling
from faceeraser.system.history import read_history
from faceeraser.system.script import GateFailed, finish

MADE_BY = f"faceeraser {results.versions().get('faceeraser', '')}".strip()
FORMATS: dict[str, type[Format]] = {form.KIND: form for form in (TFLite, ONNX, CoreML)}


def export(
    source: Path | str, target: Path | str, format: Format, *, name: str | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Convert a stage's folder into a file with its card in the folder `target`; returns the card.

    Args:
        source: checkpoint folder.
        target: folder for exported files; made if needed.
        format: the format and its options.
        name: file name without suffixes; the source folder's name by default.
        overwrite: replace a file that is there.

    Raises:
        ValueError: the source is not a checkpoint or not finished, the options do not fit it, the target exists, is no
            folder or cannot be written in, or there is no space left.
        GateFailed: the file does not compute what the checkpoint does; nothing was published.
    """
    source, target = Path(source), Path(target)
    pipeline = _trained(source)
    publishing.check_target(target, _needs(pipeline))
    _check_phase(pipeline, source)
    format = format.settled(pipeline, source)
    format.gate()  # a bound that is not to be had, before minutes of conversion
    if format.painted is not None:
        pipeline.config = replace(pipeline.config, resolution=format.painted)
    if pipeline.config.quantized:
        quant.round_biases(pipeline, *formats.sample(pipeline.config.resolution, False, False).values())
    path = target / format.file_name(name or source.resolve().name, pipeline)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already; choose another --name, or --overwrite to replace it")
    print(f"{path} ({format.precision})", file=sys.stderr)
    pictures = gate_pictures(pipeline.config.resolution, format.data)
    with publishing.staged(path) as staged:
        written = _written(format, pipeline, staged)
        with publishing.step("checking the file"):
            checked = format.check(staged, pipeline)
        with publishing.step("reading it back"):
            about = _about(format, pipeline, source)
            fields = {**about, "checked": checked, "parity": {"n": 0, "passed": False}, **ports_of(staged)}
            embedded.write(staged, embedded.essentials(fields))
            write_card(staged, fields)
            if written.planned is not None:
                write_card(written.planned, fields | ports_of(written.planned))
        measured, failures = format.compare(written, pipeline, pictures)
        if failures:
            raise GateFailed(f"{path.name} was not published: " + "; ".join(failures))
        card = write_card(staged, fields | measured)
        publishing.publish(staged, path)
    return card


def _trained(source: Path) -> Inpainter:
    """The network of a stage's folder, if the training that made it has ended. Raises ValueError."""
    if source.name.endswith(".partial") and source.is_dir():
        raise ValueError(f"{source}: its training has not finished; continue it with train/train.py ... --resume")
    return checkpoint.load(source)


def _check_phase(pipeline: Inpainter, source: Path) -> None:
    """Raises ValueError when only a network's first phase was trained."""
    if read_history(source)[-1]["stage"] == f"train-{pipeline.first}":
        raise ValueError(
            f"{source}: only its {pipeline.first} network was trained, the others are untrained; "
            f"run phase 2 first: python train/train.py DATA TARGET --phase inpaint --edge {source}"
        )


def _needs(network: nn.Module) -> int:
    """Bytes that an export may take for a while: weights in float three times over, and the graph."""
    return 12 * sum(p.numel() for p in network.parameters()) + (4 << 20)


def _written(format: Format, pipeline: Inpainter, staged: Path) -> Written:
    """The file, converted; and where its gate is to hold a plan fixed, beside it the same with the plan as an output."""
    splits = format.splits(pipeline)
    planned = staged.with_name(f"planned-{staged.name}") if splits else None
    with publishing.step("converting"):
        format.write(pipeline, planned or staged, with_plan=splits)
        if planned is not None:
            format.without(planned, staged, pipeline.PLAN)
    return Written(staged, planned)


def _about(format: Format, pipeline: Inpainter, source: Path) -> dict[str, Any]:
    """What a card says of the network and of how it was written."""
    # Counted on the network, which a file has too: what a head computes in phases is zeros beyond that.
    folded = pipeline if pipeline.config.quantized else formats.frozen(pipeline)
    gmacs, params = cost_of(folded, pipeline.config.resolution)
    return {
        "precision": format.precision,
        "resolution": pipeline.config.resolution,
        "edges": "input" if format.edges_input else "inside",
        "warp": format.warp() if pipeline.WARPS else "none",
        "notes": format.notes(pipeline),
        "made_by": MADE_BY,
        "history": read_history(source),
        "gmacs": gmacs,
        "params": params,
        **format.card_fields(pipeline),
    }


# --- any network ----------------------------------------------------------------------------------------------------


def export_module(network: AnyNetwork, target: Path | str, format: Format, *, overwrite: bool = False) -> dict[str, Any]:
    """Convert any network into a file with its card in the folder `target`, as `export` does for a checkpoint; returns the
    card.

    Raises:
        ValueError: the network cannot be followed, or has a warp that cannot be written exactly; and as of `export`.
        GateFailed: the file does not compute what the module does on the samples; nothing was published.
    """
    target, module = Path(target), network.module
    publishing.check_target(target, _needs(module))
    format = format.settled_for(network)
    gate = format.gate()
    path = target / format.name_for(network)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already; choose another name, or --overwrite to replace it")
    _, warps = network.traced(None)  # what cannot be written is said before minutes of conversion
    print(f"{path} ({format.precision}, {len(warps)} warps)", file=sys.stderr)
    with publishing.staged(path) as staged:
        with publishing.step("converting"):
            format.write_network(network, staged)
        with publishing.step("checking the file"):
            checked = format.check_network(staged, network, warps)
            fields = {**_about_any(format, network, warps), "checked": checked, **_ports(network, staged)}
            embedded.write(staged, embedded.essentials(fields))
        with publishing.step("comparing it"):
            measured = _compared(format, network, staged, gate)
        if failures := measured["parity"].get("failures"):
            raise GateFailed(f"{path.name} was not published: " + "; ".join(failures[:4]))
        card = write_card(staged, fields | measured)
        publishing.publish(staged, path)
    return card


def _compared(format: Format, network: AnyNetwork, staged: Path, gate: Gate) -> dict[str, Any]:
    """`parity` on the samples; of a CoreML package away from a Mac `evaluated_parity`, or a note where it has operators that
    cannot be computed here.
    """
    away = format.KIND == "coreml" and sys.platform != "darwin"
    try:
        parity = parity_of_outputs(format.runner(staged), network, gate)
    except UnknownOperator as error:
        note = f"computed nowhere: CoreML predicts on macOS only, and {error}"
        return {"parity": {"n": 0, "passed": None}, "notes": [note]}
    if not away:
        return {"parity": parity}
    unknown = {"n": 0, "passed": None, **{key: parity[key] for key in ("failures",) if key in parity}}
    return {"parity": unknown, "evaluated_parity": parity}


def _about_any(format: Format, network: AnyNetwork, warps: Sequence[Sampling]) -> dict[str, Any]:
    """What a card says of any network and of how it was written."""
    sampled = Counter(f"{warp.mode}, {warp.padding_mode}, align_corners {warp.align_corners}" for warp in warps)
    asked = "; ".join(f"{n} x ({sampling})" for sampling, n in sampled.items())
    counted = FlopCounterMode(display=False)
    with counted:
        network.outputs(network.samples[0])
    return {
        "precision": format.precision,
        "network": {"name": network.name, "made_by": network.made_by},
        "warp": f"{asked}: {format.warp()}" if warps else "none",
        "notes": [],
        "history": [],
        "made_by": MADE_BY,
        "gmacs": counted.get_total_flops() / 2e9,
        "params": sum(p.numel() for p in network.module.parameters()),
        **format.fields_for(network),
    }


def _ports(network: AnyNetwork, path: Path) -> dict[str, Any]:
    """Inputs and outputs as a card lists them, with the ranges that the network's samples have."""
    ports = ports_of(path)
    given = network.outputs(network.samples[0])
    for port in ports["inputs"]:
        low, high = network.range_of(port["name"])
        port |= {"range": [low, high], "meaning": f"input {port['name']!r} of {network.name}"}
    for port in ports["outputs"]:
        value = given[port["name"]]
        port |= {"range": [float(value.min()), float(value.max())], "meaning": f"output {port['name']!r} of {network.name}"}
    return ports


# --- what the three scripts share -----------------------------------------------------------------------------------


def add_flags(parser: argparse.ArgumentParser, kind: str) -> argparse.ArgumentParser:
    """The flags of an exporting script, added to a stage's parser; returns it."""
    parser.add_argument("--module", action="store_true", help="SOURCE is a network of your own, FILE.py:FUNCTION")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=("auto", *FORMATS[kind].PRECISIONS),
        default=["auto"],
        metavar="P",
        help=f"one or more of auto, {', '.join(FORMATS[kind].PRECISIONS)} (default: auto)",
    )
    parser.add_argument("--edges-input", action="store_true", help="take edges as an input instead of computing them")
    if kind == "tflite":
        flavours = "; ".join(f"{name}: {flavour.help}" for name, flavour in tflite.FLAVOURS.items())
        parser.add_argument(
            "--flavour",
            nargs="+",
            choices=tuple(tflite.FLAVOURS),
            default=["cpu"],
            metavar="F",
            help=f"one or more of {flavours} (default: cpu)",
        )
        parser.add_argument(
            "--delegate",
            type=Path,
            metavar="FILE",
            help="the plugin that gpu-resampler needs on a CPU, for its gate: bash export/build_resampler.sh FILE",
        )
    parser.add_argument(
        "--output",
        choices=("erased", "refined", "plan"),
        default="erased",
        help="erased: the whole picture; refined: only what is painted, to be composited outside the file; plan: for a "
        "network that plans, only its plan, which `faceeraser erase` paints at full resolution (default: erased)",
    )
    parser.add_argument(
        "--painted",
        type=int,
        nargs="+",
        metavar="PX",
        help="for a network that plans, the edge lengths at which to paint, such as 256 512 1024 (default: the network's)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="pictures per run of the file (default: %(default)s)",
    )
    if kind == "coreml":
        parser.add_argument("--tensors", action="store_true", help="float tensors instead of images in and out")
    parser.add_argument("--data", type=Path, help="prepared folder whose tune list adds faces to the gate's pictures")
    parser.add_argument("--name", help="file name without suffixes (default: the source folder's name)")
    parser.add_argument(
        "--gate", type=float, metavar="BOUND", help="set another gate: dB, or for fp32 the largest difference"
    )
    parser.add_argument("--reason", help="why the gate is looser than usual; recorded in the card")
    return parser


def run(args: argparse.Namespace, kind: str) -> int:
    """Export SOURCE once for each --precision, then print the table and the JSON line; returns the exit code.

    0; 130 when stopped by Ctrl-C and 143 by SIGTERM, with nothing half-written left behind.
    """
    return publishing.until_stopped(lambda: _export_all(args, kind), f"to_{kind}.py")


_FIGURES = ("psnr_hole_min", "max_abs_hole", "plan_share_min", "psnr_min", "max_abs", "gate")
"""Of a card's parity, what the table has."""


def _asked_for(args: argparse.Namespace, kind: str) -> list[Format]:
    """The files that a command line asks for."""
    shared = {
        "edges_input": args.edges_input,
        "data": args.data,
        "bound": args.gate,
        "reason": args.reason,
        "output": args.output,
        "batch": args.batch,
    }
    own: list[dict[str, Any]] = [{"tensors": args.tensors}] if kind == "coreml" else [{}]
    if kind == "tflite":
        own = [{"delegate": args.delegate, "flavour": flavour} for flavour in dict.fromkeys(args.flavour)]
    chosen = [{**options, "painted": px} for options in own for px in args.painted or [None]]
    format_class = FORMATS[kind]
    return [
        format_class(precision, **shared, **options) for precision in dict.fromkeys(args.precision) for options in chosen
    ]


def _export_all(args: argparse.Namespace, kind: str) -> None:
    asked = _asked_for(args, kind)
    if args.module:
        network = any_task.opened(str(args.source))
        network = replace(network, name=args.name or network.name)
        cards = [export_module(network, args.target, format, overwrite=args.overwrite) for format in asked]
    else:
        cards = [export(args.source, args.target, format, name=args.name, overwrite=args.overwrite) for format in asked]
    parities = [card.get("evaluated_parity", card["parity"]) for card in cards]
    rows = [
        {
            "file": card["file"],
            "precision": card["precision"],
            "bytes": card["bytes"],
            "gmacs": card["gmacs"],
            "params": card["params"],
            **{name: parity[name] for name in _FIGURES if name in parity},
        }
        for card, parity in zip(cards, parities, strict=True)
    ]
    by = ", computed from the saved program, not by CoreML" if "evaluated_parity" in cards[0] else ""
    where = f"of {parities[0]['n']} samples" if args.module else f"inside the hole, worst of {parities[0]['n']} pictures"
    finish(f"{args.target} (parity {where}{by})", rows, {"files": rows})

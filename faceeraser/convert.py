"""Checkpoint -> TFLite, ONNX or CoreML, with the warp and Canny inside; nothing is published before it passed its gate.

    card = convert.export("runs/int8", "exports", "tflite")

`export` converts beside the target, asserts on the written file what must hold of it (coordinates in float32, the warp in
the form its runtime takes, every learnt scale of a quantized network; tflite.py, onnx.py, coreml.py), compares it with the
checkpoint on textured pictures (gate.py), and only then renames file and card into place. The gate, inside the hole, worst
picture, the file's plan held fixed:

    fp32   largest absolute difference at most 1e-4          against the float network
    fp16   PSNR at least 55 dB                               against the float network
    int8   PSNR at least 50 dB                               against the fake-quantized network

and the plans, where pixels are copied from, agree. (CoreML: `Gate.of`.) An .onnx file, which takes any size, is compared at
two more; a CoreML package is computed from the file by mil.py where there is no CoreML.

Files: `exports/<folder>.tflite`; `-fp16`, `-fp32` or `-int8` is added where that is not the folder's own precision (int8 of
a quantized folder, fp32 of any other; fp16 for CoreML), `-edges` where edges are an input, and a .tflite file's flavour
unless it is `cpu`. A file with 8-bit pictures is compared with the rounded picture (`Gate.in_levels`).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faceeraser import artifact, checkpoint, coreml, form, onnx, quant, tflite
from faceeraser.gate import File, Gate, Painted, Picture, Reference, cut, edges_of, gate_pictures, other_sizes, parity
from faceeraser.history import read_history
from faceeraser.networks import Inpainter, count
from faceeraser.script import GateFailed, finish
from faceeraser.writing import scratch

SUFFIXES = {"tflite": ".tflite", "onnx": ".onnx", "coreml": ".mlpackage"}
PRECISIONS = {"tflite": ("fp32", "fp16", "int8"), "onnx": ("fp32", "int8"), "coreml": coreml.PRECISIONS}
WARPS = {
    "tflite": "four look-ups of rows in an (H*W, C) table and bilinear arithmetic, float32; coordinates clamped",
    artifact.RESAMPLER: "custom operator Resampler, which GPU delegates have, bilinear, float32; coordinates clamped",
    "onnx": "GridSample, bilinear, border, align_corners = 1, float32; coordinates clamped",
    "coreml": "resample, bilinear, border, align_corners = true, float32; coordinates clamped",
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what converters and their C++ parts print out of sight; show all of it if the block raises."""
    with tempfile.TemporaryFile("w+b") as log:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        text = open(os.dup(log.fileno()), "w")  # noqa: SIM115 - closed below, after the descriptors are back
        failed = False
        try:
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
                yield
        except Exception as error:
            # What is the user's to mend is told in one line, without what the converter said before.
            failed = not (isinstance(error, (OSError, ModuleNotFoundError, GateFailed)) or _asked_to_stop)
            raise
        finally:
            with contextlib.suppress(ValueError):
                text.flush()
            for number, old in zip((1, 2), saved, strict=True):
                os.dup2(old, number)
                os.close(old)
            text.close()
            if failed:
                log.seek(0)
                sys.stderr.write(log.read().decode(errors="replace"))


@contextlib.contextmanager
def _step(words: str) -> Iterator[None]:
    """One line for one step, with the seconds it took."""
    print(f"  {words} ...", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        with _quiet():
            yield
    except BaseException:
        print(" failed", file=sys.stderr, flush=True)
        raise
    print(f" {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


# --- a file as what a gate compares ---------------------------------------------------------------------------------


def _evaluated(path: Path) -> File:
    """A saved CoreML package, computed by mil.py."""
    evaluate, wants_edges = coreml.evaluator(path), "edges" in {port["name"] for port in artifact.describe(path)["inputs"]}

    def run(image: np.ndarray, mask: np.ndarray) -> Painted:
        given = {"image": torch.from_numpy(image).permute(2, 0, 1)[None], "mask": torch.from_numpy(mask)[None, None]}
        if wants_edges:
            given["edges"] = torch.from_numpy(edges_of(Picture("", image, mask)))[None, None]
        return Painted(evaluate(given)[0].permute(1, 2, 0).numpy())

    return run


def _run(file: artifact.Artifact, reference: Reference | None = None) -> File:
    """An exported file, with its plan where that is an output. What a file that only plans would have painted, `reference`
    paints by its plan.
    """

    def run(image: np.ndarray, mask: np.ndarray) -> Painted:
        made = file.outputs(image, mask)
        if file.plans:
            assert reference is not None
            return Painted(reference(Picture("", image, mask), made).image, made)
        picture = made.pop("erased" if "erased" in made else "refined")
        return Painted(picture, made or None)

    return run


def _unchanged(planned: File, published: File, pictures: Sequence[Picture]) -> list[str]:
    """That a file paints the same bits as the one with its plan as an output, which the gate looked at; what differs."""
    failures = []
    for picture in pictures:
        one, other = (file(picture.image, picture.mask).image for file in (planned, published))
        if not np.array_equal(one, other):
            failures.append(f"{picture.name}: without the plan as an output the file paints another picture")
    return failures


# --- export: convert, check, gate, publish --------------------------------------------------------------------------


def own_precision(pipeline: Inpainter, kind: str) -> str:
    """What 'auto' stands for: int8 for a quantized network, else fp32; fp16 for CoreML."""
    return "fp16" if kind == "coreml" else "int8" if pipeline.config.quantized else "fp32"


def export(
    source: Path | str, target: Path | str, kind: str, precision: str = "auto", *, edges_input: bool = False,
    flavour: str = "cpu", output: str = "erased", delegate: Path | None = None, tensors: bool = False,
    data: Path | str | None = None, name: str | None = None, overwrite: bool = False, bound: float | None = None,
    reason: str | None = None, painted: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Convert a stage's folder into a file with its card in the folder `target`; returns the card.

    Args:
        source: checkpoint folder.
        target: folder for exported files; made if needed.
        kind: 'tflite', 'onnx' or 'coreml'.
        precision: 'auto', or one of PRECISIONS[kind].
        edges_input: edges are an input of the file, instead of Canny inside.
        flavour: of a .tflite file, one of tflite.FLAVOURS; no other kind has any.
        output: of a .tflite file, 'erased', 'refined' or 'plan' (see tflite.write).
        delegate: the plugin that a file of the flavour gpu-resampler needs on this machine, where its gate runs it.
        tensors: of a CoreML package, float tensors in and out in place of images.
        data: prepared folder, whose tune list adds faces to the gate's pictures.
        name: file name without suffixes; the source folder's name by default.
        overwrite: replace a file that is there.
        bound: another gate (dB; for fp32 the largest difference); a looser one needs its `reason`.
        reason: goes into the card.
        painted: of a network that plans, the edge length in pixels of what is painted, a multiple of 128.

    Raises:
        ValueError: the source is not a checkpoint or not finished, the precision does not fit it, the target exists, is no
            folder or cannot be written in, or there is no space left.
        GateFailed: the file is not what the checkpoint says; nothing was published.
    """
    source, target = Path(source), Path(target)
    if source.name.endswith(".partial") and source.is_dir():
        raise ValueError(f"{source}: is of a training that has not ended; go on with it: train/train.py ... --resume")
    pipeline = checkpoint.load(source)
    _check_target(target, _needs(pipeline))
    if pipeline.config.model != "faceeraser" and kind != "tflite":
        raise ValueError(f"{source}: {pipeline.config.model} is exported as .tflite only; use export/to_tflite.py")
    if edges_input and pipeline.first != "edge":
        raise ValueError(f"{source}: {pipeline.config.model} has no edge network that edges could be given to")
    if read_history(source)[-1]["stage"] == f"train-{pipeline.first}":
        raise ValueError(
            f"{source}: only its {pipeline.first} network was trained, the others are as they started; "
            f"run phase 2 first: python train/train.py DATA TARGET --phase inpaint --edge {source}"
        )
    if output == "plan" and pipeline.config.model != "patches":
        raise ValueError(f"{source}: {pipeline.config.model} makes no plan that could be painted elsewhere")
    if painted is not None:
        if pipeline.config.model != "patches" or painted % 128 or not 128 <= painted <= 2048:
            expected = "a multiple of 128 up to 2048, and a network that plans (train.py --model patches)"
            raise ValueError(f"--painted {painted}: expected {expected}")
        pipeline.config = replace(pipeline.config, resolution=painted)
    if pipeline.config.quantized:
        quant.round_biases(pipeline, *form.sample(pipeline.config.resolution, False, False).values())
    own = own_precision(pipeline, kind)
    precision = own if precision == "auto" else precision
    _check_precision(source, pipeline, kind, precision)
    gate = Gate.of(precision, bound, reason, kind)
    suffix = ("" if precision == own else f"-{precision}") + ("-edges" if edges_input else "")
    suffix += f"-{painted}" if painted not in (None, 256) else ""
    suffix += "-plan" if output == "plan" else ""
    suffix += f"-{flavour}" if kind == "tflite" and flavour != "cpu" else ""
    suffix += "-tensors" if tensors else ""
    how: dict[str, Any] = {"flavour": flavour, "output": output} if kind == "tflite" else {}
    how |= {"tensors": tensors} if kind == "coreml" else {}
    warp = artifact.RESAMPLER if kind == "tflite" and tflite.FLAVOURS[flavour].warp == "resampler" else kind
    if warp == artifact.RESAMPLER and delegate is None:
        raise ValueError(
            f"{flavour} warps by {warp}, which a CPU needs a plugin for, and so does the gate: "
            "bash export/build_resampler.sh resampler.so, then --delegate resampler.so"
        )
    path = target / f"{name or source.resolve().name}{suffix}{SUFFIXES[kind]}"
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already; choose another --name, or --overwrite to replace it")
    print(f"{path} ({precision})", file=sys.stderr)
    pictures = gate_pictures(pipeline.config.resolution, data)
    with _room_in(target), scratch(target) as folder, _stoppable():
        staged = folder / path.name
        write, check, without = _KINDS[kind]
        gated = pipeline.PLAN and without and output != "plan"
        planned = staged.with_name(f"planned-{staged.name}") if gated else None
        with _step("converting"):
            write(pipeline, planned or staged, precision, edges_input, **how, **({"with_plan": True} if planned else {}))
            if planned and without:
                without(planned, staged, pipeline.PLAN)
        with _step("checking the file"):
            checked = check(staged, pipeline, precision)
        fields: dict[str, Any] = {
            "precision": precision, "resolution": pipeline.config.resolution,
            "edges": "input" if edges_input else "inside", "warp": WARPS[warp] if pipeline.WARPS else "none",
            "notes": _notes(pipeline, kind, precision),
            "history": read_history(source), "checked": checked, "parity": {"n": 0, "passed": False},
        }  # fmt: skip
        if kind == "onnx":
            step = onnx.multiple_of(pipeline.config)
            fields["sizes"] = {"multiple_of": step, "min": step, "max": onnx.LARGEST}
        if kind == "tflite":
            fields |= {"flavour": flavour, "delegates": list(tflite.FLAVOURS[flavour].delegates)}
        with _step("reading it back"):
            # The network's, which a file has too: what a head computes in phases is zeros beyond that.
            folded = pipeline if pipeline.config.quantized else form.frozen(pipeline)
            gmacs, params = count(folded, pipeline.config.resolution)
            fields |= {"gmacs": gmacs, "params": params}
            if kind == "coreml":
                fields |= artifact.describe(staged)
            artifact.write_card(staged, fields)
            published = artifact.Artifact(staged, threads=1, delegate=delegate)
            file = published
            if planned:
                artifact.write_card(planned, fields)
                file = artifact.Artifact(planned, threads=1, delegate=delegate)
        network = coreml.as_written(pipeline, precision) if kind == "coreml" else pipeline
        in_levels = any(port["dtype"] == "uint8" for port in published.card["outputs"])
        reference = Reference(network, edges_input, "erased" if output == "plan" else output, in_levels)
        gate = gate.in_levels() if in_levels else gate
        if kind == "coreml" and sys.platform != "darwin":
            evaluated = parity(_evaluated(staged), pictures, reference, gate)
            fields["evaluated_parity"], failures = evaluated, list(evaluated.get("failures", []))
            measured: dict[str, Any] = {"n": 0, "psnr_hole_min": None, "max_abs_hole": None}
            measured |= {"gate": str(gate), "passed": None}
        else:
            measured = parity(_run(file, reference), pictures, reference, gate)
            failures = list(measured.get("failures", []))
            failures += _unchanged(_run(file), _run(published), pictures[:2]) if planned else []
        if kind == "onnx":
            fields["parity_at"] = []
            for height, width in other_sizes(pipeline):
                some = cut(gate_pictures(max(height, width))[:2], height, width)
                found = parity(_run(file), some, reference, gate.elsewhere())
                fields["parity_at"].append({"height": height, "width": width, **found})
                failures += [f"at {height} x {width}, {words}" for words in found.get("failures", [])]
        if failures:
            raise GateFailed(f"{path.name} was not published: " + "; ".join(failures))
        card = artifact.write_card(staged, fields | {"parity": measured})
        _publish(staged, path)
    return card


def _needs(pipeline: Inpainter) -> int:
    """Bytes that an export may take for a while: weights in float three times over, and the graph."""
    return 12 * sum(p.numel() for p in pipeline.parameters()) + (4 << 20)


def _check_target(target: Path, needs: int) -> None:
    """A folder that can be written in, or that can be made, with room. Raises ValueError.

    Room is asked for beforehand, because LiteRT's converter ends the whole process where there is none.
    """
    there = next(folder for folder in (target, *target.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise ValueError(f"{there}: is a file, expected a folder for exported files")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{there}: cannot be written in; expected a folder of yours for exported files")
    if (free := shutil.disk_usage(there).free) < needs:
        raise ValueError(f"{there}: no space left, {free / 1e6:.1f} MB are free and an export takes up to {needs / 1e6:.1f}")


@contextlib.contextmanager
def _room_in(target: Path) -> Iterator[None]:
    """Make the folder, take it away again after an error if it is new and empty, and say in one line when the block ran out
    of space, which converters say in many ways.
    """
    new = not target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        if new:
            with contextlib.suppress(OSError):  # there is an earlier file in it
                target.rmdir()
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise ValueError(f"{target}: no space left, nothing was published; make room and export again") from None
        raise


def _publish(staged: Path, path: Path) -> None:
    """Put a file and its card in their places; an old file stays whole until then, and comes back if that fails.

    The file goes first and comes last: who kills this halfway leaves a card without a file, which is no export at all.
    """
    pairs = [(staged, path), (artifact.card_path(staged), artifact.card_path(path))]
    aside = staged.parent / "before"
    aside.mkdir()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGALRM})
    try:
        for _, last in pairs:
            if last.exists():
                last.replace(aside / last.name)
        for first, last in reversed(pairs):
            first.replace(last)
    except OSError:
        for _, last in pairs:
            if (aside / last.name).exists() and not last.exists():
                (aside / last.name).replace(last)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _check_precision(source: Path, pipeline: Inpainter, kind: str, precision: str) -> None:
    if precision not in PRECISIONS[kind]:
        raise ValueError(f"{precision} is not a precision for {kind}: expected one of {', '.join(PRECISIONS[kind])}")
    if kind == "coreml":
        if coreml.stores_activations(precision) and not pipeline.config.quantized:
            made = f"python compress/quantize.py {source} TARGET"
            raise ValueError(f"{source} is not quantized, so it has no int8 activations: {made}")
        return
    if precision == "int8" and not pipeline.config.quantized:
        raise ValueError(f"{source} is not quantized, so it has no int8 form: python compress/quantize.py {source} TARGET")
    if precision != "int8" and pipeline.config.quantized:
        raise ValueError(f"{source} is quantized, found --precision {precision}: export the folder it was made from")


def _notes(pipeline: Inpainter, kind: str, precision: str) -> list[str]:
    """What a reader of the card has to know besides its figures."""
    quantized = pipeline.config.quantized
    notes = []
    if kind == "coreml":
        if sys.platform != "darwin":
            notes.append(
                "CoreML predicts on macOS only and this was exported elsewhere, so CoreML never ran it; evaluated_parity is "
                "of the saved program, computed operator by operator in torch. Only a Mac or a phone can tell its speed, "
                "what runs on the Neural Engine, and how its kernels round"
            )
        floats = "the flow's head, coordinates, warp, Canny, fill and compositing are float32"
        notes.append("all arithmetic is float32" if precision == "int8-activations" else f"{floats}, the rest is float16")
        if coreml.stores_activations(precision):
            notes.append("int8 weights and activations by the network's own learnt scales"
                         + (", rounded to float16" if precision.endswith("-fp16") else ""))  # fmt: skip
        elif quantized:
            notes.append("from a quantized network: its weights on their int8 grid, its activations in float16, not int8")
        if precision == "int8":
            notes.append("weights int8 per channel, unpacked to float16 for the arithmetic")
        if precision.startswith("palette"):
            notes.append(f"weights are indices of {precision[-1]} bits into a table per convolution, not the flow's head")
    elif precision == "fp16":
        notes.append("weights are float16, arithmetic and coordinates float32; a GPU delegate may choose float16 arithmetic")
    elif precision == "int8":
        notes.append(f"float layers: {', '.join(pipeline.config.float_layers) or 'none'}; biases rounded to int32 steps")
    return notes


_KINDS: dict[str, tuple[Callable[..., None], Callable[..., dict[str, Any]], Callable[..., None] | None]] = {
    "tflite": (tflite.write, tflite.check, tflite.without), "onnx": (onnx.write, onnx.check, onnx.without),
    "coreml": (coreml.write, coreml.check, None),
}  # fmt: skip


# --- what the three scripts share -----------------------------------------------------------------------------------


def add_flags(made: argparse.ArgumentParser, kind: str) -> argparse.ArgumentParser:
    """The flags of an exporting script, added to a stage's parser; returns it."""
    made.add_argument(
        "--precision", nargs="+", choices=("auto", *PRECISIONS[kind]), default=["auto"], metavar="P",
        help=f"one or more of auto, {', '.join(PRECISIONS[kind])} (default: auto)",
    )  # fmt: skip
    made.add_argument("--edges-input", action="store_true", help="edges are an input of the file, instead of Canny inside")
    if kind == "tflite":
        told = "; ".join(f"{name}: {flavour.told}" for name, flavour in tflite.FLAVOURS.items())
        made.add_argument(
            "--flavour", nargs="+", choices=tuple(tflite.FLAVOURS), default=["cpu"], metavar="F",
            help=f"one or more of {told} (default: cpu)",
        )  # fmt: skip
        made.add_argument(
            "--delegate", type=Path, metavar="FILE",
            help="the plugin that gpu-resampler needs on a CPU, for its gate: bash export/build_resampler.sh FILE",
        )  # fmt: skip
        made.add_argument(
            "--output", choices=("erased", "refined", "plan"), default="erased",
            help="the whole picture; what is painted, to be laid into the picture outside the file; or, of a network that "
            "plans, the plan alone, by which `faceeraser erase` paints at a photograph's own resolution (default: erased)",
        )  # fmt: skip
        made.add_argument(
            "--painted", type=int, nargs="+", metavar="PX",
            help="of a network that plans, edge lengths of what is painted, such as 256 512 1024 (default: the network's)",
        )  # fmt: skip
    if kind == "coreml":
        told = "float tensors in and out, in place of images (CVPixelBuffer)"
        made.add_argument("--tensors", action="store_true", help=told)
    made.add_argument("--data", type=Path, help="prepared folder: its tune list adds faces to the gate's pictures")
    made.add_argument("--name", help="file name without suffixes (default: the source folder's name)")
    made.add_argument("--gate", type=float, metavar="BOUND", help="another gate: dB, or for fp32 the largest difference")
    made.add_argument("--reason", help="why the gate is looser than the usual one; goes into the card")
    return made


_asked_to_stop: list[int] = []
"""Signals that came while an export ran, the first one first."""


def _on_signal(number: int, frame: Any) -> None:
    """Stop what runs, and ask again until `_stoppable` hears it: coremltools imports under a bare `except`."""
    if number != signal.SIGALRM:
        _asked_to_stop.append(number)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    raise KeyboardInterrupt


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """What a signal may break off, at the latest when it ends; what is cleared away after it is not disturbed."""
    try:
        yield
        if _asked_to_stop:
            raise KeyboardInterrupt
    except Exception:
        if _asked_to_stop:  # an import that was broken off halfway
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if _asked_to_stop:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
                signal.signal(number, signal.SIG_IGN)


def run(args: argparse.Namespace, kind: str) -> int:
    """Export SOURCE once for each --precision, then print the table and the JSON line; returns the exit code.

    0; 130 when stopped by Ctrl-C and 143 by SIGTERM, with nothing half-written left behind.
    """
    _asked_to_stop.clear()
    before = {n: signal.signal(n, _on_signal) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    try:
        with _stoppable():
            _export_all(args, kind)
        return 0
    except KeyboardInterrupt:
        print(f"to_{kind}.py: stopped; nothing was published by this run that is not whole", file=sys.stderr)
        return 143 if signal.SIGTERM in _asked_to_stop[:1] else 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _export_all(args: argparse.Namespace, kind: str) -> None:
    chosen: list[dict[str, Any]] = [{}]
    if kind == "tflite":
        flavours = dict.fromkeys(args.flavour)
        chosen = [
            {"flavour": flavour, "output": args.output, "delegate": args.delegate, "painted": painted}
            for flavour in flavours for painted in args.painted or [None]
        ]  # fmt: skip
    elif kind == "coreml":
        chosen = [{"tensors": args.tensors}]
    cards = [
        export(
            args.source, args.target, kind, precision, edges_input=args.edges_input, data=args.data, name=args.name,
            overwrite=args.overwrite, bound=args.gate, reason=args.reason, **how,
        )
        for precision in dict.fromkeys(args.precision)
        for how in chosen
    ]  # fmt: skip
    figures = [card.get("evaluated_parity", card["parity"]) for card in cards]
    rows = [
        {
            "file": card["file"], "precision": card["precision"], "bytes": card["bytes"], "gmacs": card["gmacs"],
            "params": card["params"],
            **{name: found[name] for name in ("psnr_hole_min", "max_abs_hole", "plan_share_min", "gate") if name in found},
        }
        for card, found in zip(cards, figures, strict=True)
    ]  # fmt: skip
    by = ", computed from the saved program, not by CoreML" if "evaluated_parity" in cards[0] else ""
    how = f"parity inside the hole, worst of {figures[0]['n']} pictures{by}"
    finish(f"{args.target} ({how})", rows, {"files": rows})

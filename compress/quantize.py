"""Quantization-aware fine-tuning to int8: fold the norms, calibrate, then train weights and scales together.

    python compress/quantize.py runs/slim runs/int8 --data data/faces

Weights are int8 with one learnt scale for each output channel, activations int8 with one learnt scale each. The scales
in TARGET/quantization.json are the ones in the exported file. The head that predicts the flow, the warp and the
compositing stay in float: int8 coordinates would be a pixel apart. So do the layers before a head whose int8 harms most
(`--keep-float auto`): what each layer's int8 alone does to the pictures, the flow and the edges is measured, listed in
the history and printed. `--steps 0` is calibration alone.
"""

import argparse
import copy
import sys
from dataclasses import replace
from typing import Any

import torch
from tabulate import tabulate

from faceeraser import finetuning, pairs, quant, script, writing
from faceeraser.losses import distillation_loss
from faceeraser.networks import Inpainter
from faceeraser.processes import agreed

ENOUGH = 0.1  # share of all layers' harm from which a layer stays in float


def build_parser() -> argparse.ArgumentParser:
    made = script.stage_parser(__file__, __doc__)
    finetuning.add_fine_tuning(made, steps=200, lr=1e-4)
    made.add_argument(
        "--calibration", type=int, default=32, help="training pictures to set the scales from (default: %(default)s)"
    )
    made.add_argument(
        "--keep-float", choices=("auto", "least"), default="auto",
        help="layers before the heads that harm most in int8 stay in float, or the flow's head alone (default: %(default)s)",
    )  # fmt: skip
    made.add_argument("--max-drop", type=float, help="gate: dB that psnr_hole_mirrored may lose; exit code 1 beyond it")
    return made


def harm_of_int8(pipeline: Inpainter, truth: torch.Tensor, mask: torch.Tensor) -> list[dict[str, Any]]:
    """What each layer's int8 alone does to a prepared and calibrated network, the most harmful first: rows of layer and
    harm, the distance (`losses.distillation_loss`) to the same network in float. A layer is a convolution or a stored
    tensor.
    """
    pipeline.eval()
    quant.set_bypassed(pipeline, True)
    rows = []
    with torch.no_grad():
        plain = pipeline(truth, mask)
        for name, module in pipeline.named_modules():
            if isinstance(module, quant.FakeQuant | quant.QuantConv2d):
                quant.set_bypassed(module, False)
                rows.append({"layer": name, "harm": float(distillation_loss(pipeline(truth, mask), plain, mask, "all"))})
                quant.set_bypassed(module, True)
    quant.set_bypassed(pipeline, False)
    return sorted(rows, key=lambda row: -row["harm"])


def kept_in_float(
    rows: list[dict[str, Any]], already: tuple[str, ...], tails: tuple[tuple[str, ...], ...]
) -> tuple[str, ...]:
    """The layers to leave in float: `already` and, from each network's head backwards (`Inpainter.TAILS`: a float layer in
    the middle would be read by an int8 one), those that do ENOUGH of all harm.
    """
    total = sum(row["harm"] for row in rows)
    kept = list(already)
    for tail in tails:
        for layer in tail:
            share = sum(row["harm"] for row in rows if row["layer"].startswith(layer + ".")) / max(total, 1e-12)
            if layer not in already and share < ENOUGH:
                break
            kept += [layer] if layer not in kept else []
    return tuple(kept)


def prepared(
    tuning: finetuning.FineTuning, fused: Inpainter, float_layers: tuple[str, ...], pictures: int
) -> Inpainter:
    """A copy of a fused network, quantized but for `float_layers`, with its scales chosen."""
    network = copy.deepcopy(fused)
    quant.prepare(network, float_layers)
    network.config = replace(network.config, fused=True, quantized=True, float_layers=float_layers)
    tuning.calibrate(network, pictures)
    return network


def run(args: argparse.Namespace) -> None:
    tuning = finetuning.FineTuning(args)
    pipeline = tuning.source
    if pipeline.config.preset == "paper":
        raise ValueError(
            f"{args.source} is of the paper preset, whose norms or operators have no int8 form; "
            "train a mobile one (train.py --preset mobile --teacher FOLDER distils it)"
        )
    with writing.whole_folder(args.target, args.overwrite) as folder:
        before = tuning.measure(pipeline)
        quant.fuse(pipeline)
        floats = pipeline.config.float_layers
        network = prepared(tuning, pipeline, floats, args.calibration)
        items = [tuning.data[k] for k in range(4)]
        truth, mask, *_ = (torch.stack(x) for x in zip(*items, strict=True))
        layers = agreed(harm_of_int8(tuning.as_trained(network), truth, mask))
        if args.keep_float == "auto" and (more := kept_in_float(layers, floats, pipeline.TAILS)) != floats:
            network = prepared(tuning, pipeline, more, args.calibration)
        calibrated = tuning.measure(network)
        result = tuning.fit(network, folder, "quantize") if args.steps else {}
        # What is saved is what ships.
        quant.round_biases(network, *(tensor[:1] for tensor in pairs.to_tensors(tuning.look[:1])))
        after = tuning.measure(network)
        metrics = {**result, "before": before, "calibrated": calibrated, "after": after}
        kept = network.config.float_layers
        told = {"calibration": args.calibration, "keep_float": args.keep_float}
        tuning.save(folder, network, "quantize", told, metrics, float_layers=list(kept), harm=layers[:16])
    drop = before["psnr_hole_mirrored"] - after["psnr_hole_mirrored"]
    if writing.first_process():
        print(f"\nin float: {', '.join(kept)}; int8 alone harms most, of {len(layers)} tensors:")
        print(tabulate(layers[:8], headers="keys", floatfmt=".2e"))
    rows = {"float": before, "calibrated": calibrated, "trained": after}
    tuning.finish(rows, before=before, after=after, drop=round(drop, 3))
    if args.max_drop is not None and drop > args.max_drop:
        raise script.GateFailed(
            f"psnr_hole_mirrored fell by {drop:.3f} dB, {drop - args.max_drop:.3f} more than --max-drop allows"
        )


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

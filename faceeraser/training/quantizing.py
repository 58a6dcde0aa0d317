"""Quantization-aware fine-tuning to int8: fold the norms, calibrate, then train weights and scales together.

    quantize("runs/slim", "runs/int8", Quantizing(data="data/faces"))

Weights are int8 with one learnt scale for each output channel, activations int8 with one learnt scale each. The head that
predicts the flow, the warp and the compositing stay in float: int8 coordinates would be a pixel apart. So do the layers
before a head whose int8 harms most: what each layer's int8 alone does to the pictures, the flow and the edges is measured.
What rounds is quant.py.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faceeraser.model import pairs, quant
from faceeraser.model.losses import distillation_loss
from faceeraser.model.networks import Inpainter
from faceeraser.system import writing
from faceeraser.training.finetuning import FineTuning, Outcome, Tuning
from faceeraser.training.processes import agreed

ENOUGH = 0.1
"""Share of all layers' harm from which a layer stays in float."""


@dataclass(kw_only=True)
class Quantizing(Tuning):
    """Options of `quantize`. `steps=0` only calibrates."""

    steps: int = 200
    """Fine-tuning steps in all."""
    lr: float = 1e-4
    """Learning rate."""
    calibration: int = 32
    """Training pictures to set the scales from."""
    keep_float: str = "auto"
    """'auto' also keeps in float the layers before the heads that int8 harms most; 'least' only the flow's head."""

    def __post_init__(self) -> None:
        if self.keep_float not in ("auto", "least"):
            raise ValueError(f"found keep_float {self.keep_float!r}; expected 'auto' or 'least'")


def quantize(network: str | Path, target: str | Path, options: Quantizing, overwrite: bool = False) -> Outcome:
    """Quantize and fine-tune the network of a checkpoint folder.

    Args:
        network: the folder to read.
        target: the folder to write; the scales in its quantization.json are the ones in the exported file.
        options: how it is calibrated and fine-tuned, and what stays in float.
        overwrite: replace the target if it exists.

    Returns:
        The figures on a slice of train: `float`, `calibrated`, `trained`; in the summary `drop`, what psnr_hole_mirrored
        lost in dB, `float_layers`, and `harm`: what each tensor's int8 alone does, the most harmful first.

    Raises:
        ValueError: the network is already quantized or has no int8 form, the data cannot be used, or the target exists.
    """
    tuning = FineTuning(network, options)
    pipeline = tuning.source
    if pipeline.config.preset == "paper":
        raise ValueError(
            f"{network} has the paper preset, whose norms or operators have no int8 form; "
            "train a mobile one (train.py --preset mobile --teacher FOLDER distils it)"
        )
    with writing.whole_folder(target, overwrite) as folder:
        before = tuning.measure(pipeline)
        quant.fuse(pipeline)
        floats = pipeline.config.float_layers
        quantized = _prepared(tuning, pipeline, floats, options.calibration)
        items = [tuning.data[k] for k in range(4)]
        truth, mask, *_ = (torch.stack(x) for x in zip(*items, strict=True))
        harm = agreed(harm_of_int8(tuning.as_trained(quantized), truth, mask))
        if options.keep_float == "auto" and (more := kept_in_float(harm, floats, pipeline.TAILS)) != floats:
            quantized = _prepared(tuning, pipeline, more, options.calibration)
        calibrated = tuning.measure(quantized)
        result = tuning.fit(quantized, folder, "quantize") if options.steps else {}
        # What is saved is what ships.
        quant.round_biases(quantized, *(tensor[:1] for tensor in pairs.to_tensors(tuning.look[:1])))
        after = tuning.measure(quantized)
        metrics = {**result, "before": before, "calibrated": calibrated, "after": after}
        kept = list(quantized.config.float_layers)
        own = {"calibration": options.calibration, "keep_float": options.keep_float}
        tuning.save(folder, quantized, "quantize", own, metrics, float_layers=kept, harm=harm[:16])
    drop = round(before["psnr_hole_mirrored"] - after["psnr_hole_mirrored"], 3)
    states = {"float": before, "calibrated": calibrated, "trained": after}
    return tuning.outcome(target, states, before=before, after=after, drop=drop, float_layers=kept, harm=harm)


def harm_of_int8(pipeline: Inpainter, truth: Tensor, mask: Tensor) -> list[dict[str, Any]]:
    """The harm of each layer's int8 alone to a prepared and calibrated network, the most harmful first: rows of layer and
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
    rows: Sequence[dict[str, Any]], already: tuple[str, ...], tails: tuple[tuple[str, ...], ...]
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


def _prepared(tuning: FineTuning, fused: Inpainter, float_layers: tuple[str, ...], pictures: int) -> Inpainter:
    """A copy of a fused network, quantized but for `float_layers`, with its scales chosen."""
    network = copy.deepcopy(fused)
    quant.prepare(network, float_layers)
    network.config = replace(network.config, fused=True, quantized=True, float_layers=float_layers)
    tuning.calibrate(network, pictures)
    return network

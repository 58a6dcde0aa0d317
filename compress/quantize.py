"""Quantization-aware fine-tuning to int8: fold the norms, calibrate, then train weights and scales together.

    python compress/quantize.py runs/slim runs/int8 --data data/faces

Weights are int8 with one learnt scale for each output channel, activations int8 with one learnt scale each. The scales
in TARGET/quantization.json are the ones in the exported file. The head that predicts the flow, the warp and the
compositing stay in float: int8 coordinates would be a pixel apart. `--steps 0` is calibration alone.
"""

import argparse
import sys
from dataclasses import replace

from faceeraser import checkpoint, fit, pairs, quant, stage


def build_parser() -> argparse.ArgumentParser:
    made = stage.parser(__doc__)
    stage.add_fine_tuning(made, steps=200, lr=1e-4)
    made.add_argument(
        "--calibration", type=int, default=32, help="training pictures to set the scales from (default: %(default)s)"
    )
    made.add_argument("--max-drop", type=float, help="gate: dB that psnr_hole_mirrored may lose; exit code 1 beyond it")
    return made


def run(args: argparse.Namespace) -> None:
    tuning = stage.FineTuning(args)
    pipeline = tuning.pipeline
    if pipeline.config.preset == "paper":
        raise ValueError(
            f"{args.source} is of the paper preset, whose instance norms cannot be folded; "
            "train a mobile one (train.py --preset mobile --teacher FOLDER distils it)"
        )
    with checkpoint.writing(args.target, args.overwrite) as folder:
        before = tuning.measure()
        quant.fuse(pipeline)
        quant.prepare(pipeline, pipeline.config.float_layers)
        pipeline.config = replace(pipeline.config, fused=True, quantized=True)
        fit.calibrate(pipeline, tuning.data, args.calibration)
        calibrated = tuning.measure()
        result = tuning.fit(folder, "quantize") if args.steps else {}
        # What is saved is what ships.
        quant.round_biases(pipeline, *(tensor[:1] for tensor in pairs.to_tensors(tuning.look[:1])))
        after = tuning.measure()
        metrics = {**result, "before": before, "calibrated": calibrated, "after": after}
        tuning.save(folder, "quantize", {"calibration": args.calibration}, metrics)
    drop = before["psnr_hole_mirrored"] - after["psnr_hole_mirrored"]
    rows = {"float": before, "calibrated": calibrated, "trained": after}
    tuning.finish(rows, before=before, after=after, drop=round(drop, 3))
    if args.max_drop is not None and drop > args.max_drop:
        raise stage.GateFailed(
            f"psnr_hole_mirrored fell by {drop:.3f} dB, {drop - args.max_drop:.3f} more than --max-drop allows"
        )


def main(argv: list[str] | None = None) -> int:
    return stage.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

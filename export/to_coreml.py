"""A checkpoint as a CoreML .mlpackage (mlprogram, iOS 17) with the warp inside as `resample`, and its card.

    python export/to_coreml.py runs/slim exports/
    python export/to_coreml.py runs/slim exports/ --precision fp16 int8 palette6 palette4
    python export/to_coreml.py runs/int8 exports/ --precision int8-activations
    python export/to_coreml.py --module my_net.py:build exports/

Any stage's folder. Pictures go in and out as images, the mask greyscale with white = erase; --tensors gives float tensors,
NCHW. `auto` is fp16; int8 and palettes are of the weights; int8-activations needs a quantized folder, whose learnt scales it
carries (docs/coreml.md). CoreML predicts on macOS only: elsewhere the saved program is computed in torch, and the card says
so. exports/<folder>.mlpackage; `-int8` and so on, `-edges`, `-tensors` are added.

--module: SOURCE is a network of your own, its warps found and written exactly (docs/any-network.md).
"""

import argparse
import sys

from faceeraser.conversion import convert
from faceeraser.system import script


def build_parser() -> argparse.ArgumentParser:
    return convert.add_flags(script.stage_parser(__file__, __doc__), "coreml")


def main(argv: list[str] | None = None) -> int:
    return script.execute(lambda args: convert.run(args, "coreml"), build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

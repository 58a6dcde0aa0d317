"""A checkpoint as an .onnx file of any size with the warp inside (GridSample, opset 18), and its card.

    python export/to_onnx.py runs/fp32 exports/
    python export/to_onnx.py runs/int8 exports/
    python export/to_onnx.py --module my_net.py:build exports/

Any stage's folder; NCHW, height and width open (multiples of 64 for most networks, docs/onnx.md). `auto` is fp32, or for a
quantized folder int8: quantize / dequantize pairs with the learnt scales. exports/<folder>.onnx; `-edges` is added for the
form that takes edges as an input.

--module: SOURCE is a network of your own, its warps found and written exactly (docs/any-network.md).
"""

import argparse
import sys

from faceeraser.conversion import convert
from faceeraser.system import script


def build_parser() -> argparse.ArgumentParser:
    return convert.add_flags(script.stage_parser(__file__, __doc__), "onnx")


def main(argv: list[str] | None = None) -> int:
    return script.execute(lambda args: convert.run(args, "onnx"), build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

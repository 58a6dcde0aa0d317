"""A checkpoint as a .tflite file with the warp inside, and its card; published only after its parity gate.

    python export/to_tflite.py runs/int8 exports/
    python export/to_tflite.py runs/fp32 exports/ --precision fp32 fp16
    python export/to_tflite.py --module my_net.py:build exports/

Any stage's folder. `auto` is int8 for a quantized folder and fp32 for any other. exports/<folder>.tflite; `-fp16` is added
for another precision than auto's, `-edges` for the form that takes edges as an input.

--module: SOURCE is a network of your own, its warps found and written exactly (docs/any-network.md).
"""

import argparse
import sys

from faceeraser.conversion import convert
from faceeraser.system import script


def build_parser() -> argparse.ArgumentParser:
    return convert.add_flags(script.stage_parser(__file__, __doc__), "tflite")


def main(argv: list[str] | None = None) -> int:
    return script.execute(lambda args: convert.run(args, "tflite"), build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

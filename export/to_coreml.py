"""A checkpoint as a CoreML .mlpackage (mlprogram, iOS 17) with the warp inside as `resample`, and its card.

    python export/to_coreml.py runs/slim exports/
    python export/to_coreml.py runs/slim exports/ --precision fp16 int8

Any stage's folder; NCHW. `auto` is fp16; int8 stores int8 weights and computes in float16. CoreML predicts on macOS only:
elsewhere the package is checked but not run, and its card says so. exports/<folder>.mlpackage; `-int8`, `-edges` are added.
"""

import argparse
import sys

from faceeraser import convert, stage


def build_parser() -> argparse.ArgumentParser:
    return convert.add_flags(stage.parser(__doc__), "coreml")


def main(argv: list[str] | None = None) -> int:
    return stage.execute(lambda args: convert.run(args, "coreml"), build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

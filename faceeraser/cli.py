"""`faceeraser`: the toolkit for people who only want the result.

    faceeraser erase photo.jpg
    faceeraser erase holiday/ erased/ --model exports/int8.tflite
    faceeraser erase one.jpg two.heic three.mp4 -o erased/
    faceeraser erase clip.mp4
    faceeraser erase --camera 0 out.mp4
    faceeraser effect toonized photo.jpg toonized.png
    faceeraser inspect exports/int8.tflite
    faceeraser inspect runs/pruned --json
    faceeraser demo --port 8000

IN is a photograph, a video, a folder of both, or a camera; there may be several. `erase` and `effect` need the base install
alone, unless the model is a checkpoint folder: neither torch nor TensorFlow is loaded. Exit code 0, or 2 if anything went
wrong: a line says what was found, what was expected and what to do, and the other files are still processed.

This module is the command line alone; what a command does is imported when it is run, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from faceeraser import shipped
from faceeraser.face.profiles import FEATURES, PROFILES
from faceeraser.system import script

RUNTIMES = ("ai_edge_litert", "tensorflow", "tflite_runtime")
"""What may run a .tflite file: `runtimes.TFLITE_RUNTIMES`, which a help text does not wait for."""
BLENDS = ("poisson", "fast")
"""`effects.BLENDS`."""
EFFECTS = Path(__file__).with_name("face") / "effects.json"


def _parts(text: str) -> tuple[str, ...]:
    if text in PROFILES:
        return PROFILES[text]
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or not set(names) <= set(FEATURES):
        hint = "; for glasses there is --glasses on" if "glasses" in names else ""
        known = f"{','.join(FEATURES)}, or one of {', '.join(PROFILES)}"
        raise argparse.ArgumentTypeError(f"found {text!r}; expected some of {known}{hint}")
    return names


def _how_many(text: str) -> int | None:
    if text == "all":
        return None
    if text == "largest":
        return 1
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"found {text!r}; expected largest, all or a number, such as 2 for the two largest")


def _quality(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 100:
        return int(text)
    raise argparse.ArgumentTypeError(f"found {text!r}; expected 1 to 100")


def _add_erasing(parser: argparse.ArgumentParser) -> None:
    """What every command that erases takes."""
    parser.add_argument("paths", type=Path, nargs="*", metavar="IN", help="photographs, videos, or folders of them")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT",
        help="a file or a folder; after a single IN it may also be the last argument, if no such file exists. .png and .tif "
        "keep a photograph's pixels outside the masks exactly, .mkv a video's "
        "(default: beside IN, photo-erased.png, clip-erased.mp4 or folder-erased)",
    )  # fmt: skip
    parser.add_argument(
        "--camera", nargs="?", const="0", metavar="INDEX",
        help="use a camera instead of IN, until Ctrl-C (default: the first one); without OUT, show it in a window",
    )  # fmt: skip
    parser.add_argument(
        "--model", type=Path, default=shipped.PLAN_FILE, metavar="FILE",
        help="an exported file, such as export/to_tflite.py makes, or a checkpoint folder, which needs torch "
        "(default: the one that comes with the package)",
    )  # fmt: skip
    parser.add_argument(
        "--landmarks", type=Path, metavar="FILE",
        help="use the points of your own tracker: a JSON file with points for each frame (docs/landmarks.md)",
    )  # fmt: skip
    parser.add_argument(
        "--glasses", choices=("auto", "off", "on"), default="auto",
        help="erase glasses too (default: auto, if the face seems to wear some and its eyes are erased)",
    )  # fmt: skip
    parser.add_argument(
        "--front", choices=("keep", "erase"), default="keep",
        help="keep what is in front of the parts, such as hair and hands, or erase it with them (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--runtime", choices=RUNTIMES,
        help="the runtime for .tflite files (default: the first one that is installed)",
    )  # fmt: skip
    parser.add_argument(
        "--delegate", type=Path, metavar="FILE",
        help="a plugin for it; a -gpu-resampler file needs the one from export/build_resampler.sh to run on a CPU",
    )  # fmt: skip
    parser.add_argument(
        "--faces", type=_how_many, default=None, metavar="largest|all|N",
        help="which faces to erase: the largest, all, or the N largest (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--mask-out", type=Path, metavar="FILE",
        help="also write what was erased, white on black, as a picture or a video; for several files, a folder",
    )  # fmt: skip
    parser.add_argument(
        "--quality", type=_quality, metavar="1-100",
        help="of lossy formats: .jpg, .avif, .heic (default: 95), .mp4, .mov, .avi (default: 65, a rate factor of 18), "
        "and .webp, which is lossless without this option",
    )  # fmt: skip
    parser.add_argument(
        "--keep-metadata", action="store_true", help="keep date, camera, artist and resolution (default: drop them)"
    )
    parser.add_argument("--keep-gps", action="store_true", help="keep the place where it was taken (default: drop it)")
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist")


def _erase(args: argparse.Namespace) -> int:
    from faceeraser.commands import erase

    return erase(args)


def _effect(args: argparse.Namespace) -> int:
    from faceeraser.commands import effect

    return effect(args)


def _inspect(args: argparse.Namespace) -> int:
    from faceeraser.inspecting import inspect

    return inspect(args)


def _demo(args: argparse.Namespace) -> int:
    from faceeraser.commands import demo

    return demo(args)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `faceeraser`, with a parser for each command."""
    parser = argparse.ArgumentParser(
        prog="faceeraser", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"faceeraser {shipped.VERSION}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    erase = commands.add_parser("erase", help="erase the parts of every face in a photograph or a video")
    erase.set_defaults(run=_erase)
    _add_erasing(erase)
    erase.add_argument(
        "--parts",
        type=_parts,
        default=FEATURES,
        metavar="LIST",
        help=f"what to erase: some of {','.join(FEATURES)}, or "
        + ", ".join(f"{name} ({','.join(parts)})" for name, parts in PROFILES.items() if name != "all")
        + " (default: all)",
    )
    erase.add_argument(
        "--mask", type=Path, metavar="FILE",
        help="erase what a picture of the same size marks in white, instead of the faces' parts",
    )  # fmt: skip

    two = commands.add_parser("effect", help="erase all parts, then paste pieces of the face, or your own, back")
    two.set_defaults(run=_effect)
    two.add_argument("name", metavar="NAME", help=f"{', '.join(json.loads(EFFECTS.read_text())['effects'])} or custom")
    _add_erasing(two)
    two.add_argument("--elements", type=Path, metavar="FILE", help="for the effect custom: a JSON file with its elements")
    two.add_argument(
        "--blend", choices=BLENDS,
        help="how pieces are blended: Poisson (default for photographs) or an approximation (default for videos)",
    )  # fmt: skip

    other = commands.add_parser("inspect", help="show what is in an exported file or a checkpoint folder")
    other.set_defaults(run=_inspect)
    other.add_argument("path", type=Path, metavar="FILE|FOLDER")
    other.add_argument("--json", action="store_true", help="print JSON: the card, or structure and history")

    page = commands.add_parser("demo", help="serve a page that erases faces in a browser, from its camera or from pictures")
    page.set_defaults(run=_demo)
    page.add_argument("--port", type=int, default=8000, help="default: %(default)s; 0 takes a free one")
    page.add_argument(
        "--host", default="127.0.0.1",
        help="address to listen at (default: %(default)s; browsers allow the camera only on localhost and https)",
    )  # fmt: skip
    page.add_argument(
        "--model", type=Path, default=shipped.PLAN_FILE, metavar="FILE",
        help="an exported .tflite file with its card (default: the one that comes with the package)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; an error of the user's becomes one clear line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what this terminal cannot show
    args = build_parser().parse_args(argv)
    try:
        with script.stoppable(), script.read_to_the_end():
            code: int = args.run(args)
            return code
    except (ValueError, OSError, ModuleNotFoundError, RuntimeError) as error:
        print(f"faceeraser: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("faceeraser: stopped; the results that were written are complete", file=sys.stderr)
        return script.code_of(stop)


if __name__ == "__main__":
    sys.exit(main())

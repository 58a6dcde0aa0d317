"""Everything that the page's server serves, as files for the app that shows the page without a server.

    python android_demo/webview/pack.py FOLDER

FOLDER gets `site/`, the files by number, and `site.json`: {"headers": {name: value}, "files": {address: [type, file]}}.
What is served, and with which headers, is asked of faceeraser.serve, so that the app cannot differ from `faceeraser demo`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from faceeraser import WEIGHTS, serve

MODEL = WEIGHTS / "plan.tflite"


def pack(folder: Path, model: Path = MODEL, page: Path = serve.PAGE) -> int:
    """Write `site/` and `site.json` into a folder and return how many files there are.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: as of `serve.table`.
    """
    served = serve.table(model, page)
    site = folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    files: dict[str, list[str]] = {}
    for number, (address, (kind, content)) in enumerate(sorted(served.items())):
        file = f"{number}.bin"
        (site / file).write_bytes(content.read_bytes() if isinstance(content, Path) else content)
        files[address] = [kind, f"site/{file}"]
    (folder / "site.json").write_text(json.dumps({"headers": serve.HEADERS, "files": files}, indent=1))
    return len(files)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go, such as an app's assets")
    parser.add_argument("--model", type=Path, default=MODEL, help="the .tflite file with its card; the one that ships")
    parser.add_argument("--page", type=Path, default=serve.PAGE, help="the page, as `make web` wrote it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 2 when the page is not built or the model is none that it can run."""
    args = build_parser().parse_args(argv)
    try:
        print(f"{pack(args.folder, args.model, args.page)} files")
    except (ValueError, OSError, RuntimeError) as error:
        print(f"pack.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A gate for teams: is a new result worse than the one that was agreed on? Exit code 1 says yes, and which and by how much.

    python benchmarks/regression.py new.json --baseline benchmarks/results/release.json --max-drop 0.1 --max-slower 1.1
    python benchmarks/regression.py new.json --baseline release.json --junit regression.xml

Both are results of the same benchmark (fidelity.py, latency.py, android.py); rows are compared by name. Quality may drop by
--max-drop dB in PSNR, mirrored and shading, texture may move --max-texture further away from 1, the truth's; a file may
grow by the factor --max-bigger, and time by --max-slower. Times are compared between results of the same hardware only,
never emulated ones and never estimates; where they cannot be compared, the line says why. A row of the baseline that is
not in the new result fails, unless --allow-missing: a gate that a model passes by going away is none.

--junit writes what CI systems show, one test case for each row and figure. docs/ci.md has a workflow ready to copy.
"""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from faceeraser.measurement import results
from faceeraser.system import script
from faceeraser.system.writing import whole_file

Row = Mapping[str, Any]
TIMES = ("ms", "ms_torch", "median_ms")
# What says that two times of one row name were taken alike; hardware is the whole result's.
CONDITIONS = ("device", "delegate", "runtime", "threads")


@dataclass(frozen=True)
class Case:
    """One figure of one row. failed and skipped hold the reason; at most one of them is set."""

    row: str
    figure: str
    before: float | None = None
    after: float | None = None
    failed: str = ""
    skipped: str = ""

    @property
    def outcome(self) -> str:
        """'worse', 'skipped' or 'ok'."""
        return "worse" if self.failed else "skipped" if self.skipped else "ok"


def number(row: Row, field: str, file: Path) -> float | None:
    """The figure, or None where the row has none. Raises ValueError when it is not a finite number."""
    value = row.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{file}: {field} of row {row['name']} is {value!r}, expected a finite number")
    return float(value)


def rows_by_name(result: Row, file: Path) -> dict[str, Row]:
    """The result's rows. Raises ValueError when two have one name, which could not be told apart."""
    rows: dict[str, Row] = {}
    for row in result["rows"]:
        if row["name"] in rows:
            raise ValueError(f"{file}: two rows are called {row['name']}; expected one of each name")
        rows[row["name"]] = row
    return rows


def untimed(before: Row, after: Row, same_hardware: bool) -> str:
    """Why two rows' times cannot be compared; nothing when they can."""
    for row, which in ((before, "baseline's"), (after, "new one")):
        if row.get("emulated"):
            return f"the {which} is from an emulated device, whose time says nothing"
        if row.get("estimate"):
            return f"the {which} is an estimate"
        if row.get("throttled"):
            return f"the {which} is of a throttled device"
    # A phone's time is the phone's, whatever computer it hung on.
    if not same_hardware and not before.get("device"):
        return "the two results are of different hardware"
    if differing := [key for key in CONDITIONS if before.get(key) != after.get(key)]:
        key = differing[0]
        return f"{key} was {before.get(key)} and is {after.get(key)}"
    return ""


def compare(before: Row, after: Row, args: Namespace, same_hardware: bool) -> list[Case]:
    """The cases of one row, for every figure that the baseline has of it."""
    name = str(before["name"])
    cases = []
    # Old builds of benchmark_model tell a mean and no median; where both are told, one is enough.
    mean = [] if before.get("median_ms") is not None else ["avg_ms"]
    for field in ("psnr_hole_mirrored", "psnr_hole_smooth", "texture_energy", "bytes", *TIMES, *mean):
        old, new = number(before, field, args.baseline), number(after, field, args.result)
        if old is None:
            continue
        failed = skipped = ""
        if (timed := field.endswith("ms") or field in TIMES) and (reason := untimed(before, after, same_hardware)):
            skipped = reason
        elif new is None and timed:
            skipped = "the new result has no time"
        elif new is None:
            failed = "the new result does not have it any more"
        elif field.startswith("psnr"):
            if old - new > args.max_drop:
                failed = f"{old - new:.3f} dB below the baseline, allowed are {args.max_drop}"
        elif field == "texture_energy":
            further = abs(new - 1) - abs(old - 1)
            if further > args.max_texture:
                failed = f"{further:.3f} further from the truth's texture, allowed are {args.max_texture}"
        elif field == "bytes":
            if new > old * args.max_bigger:
                failed = f"{new - old:,.0f} bytes more, {new / old:.3f} times the baseline's, allowed are {args.max_bigger}"
        elif new > old * args.max_slower:
            failed = f"{new / old:.2f} times the baseline's, allowed are {args.max_slower}"
        cases.append(Case(name, field, old, new, failed, skipped))
    return cases


def compare_all(new: Row, old: Row, args: Namespace) -> list[Case]:
    """All cases, in the baseline's order.

    Raises ValueError when the results are of different evaluation lists or have no row in common.
    """
    for key, what in (("eval_sha256", "evaluation list"), ("n", "number of pictures")):
        if new["data"].get(key) != old["data"].get(key):
            raise ValueError(
                f"{args.result} is of {what} {str(new['data'].get(key))[:12]}, {args.baseline} of "
                f"{str(old['data'].get(key))[:12]}; expected results on the same data"
            )
    before, after = rows_by_name(old, args.baseline), rows_by_name(new, args.result)
    if not set(before) & set(after):
        raise ValueError(
            f"{args.result} and {args.baseline} have no row in common (found {', '.join(list(after)[:5])}; "
            f"expected some of {', '.join(list(before)[:5])})"
        )
    cases: list[Case] = []
    for name, row in before.items():
        if name in after:
            cases += compare(row, after[name], args, new["hardware"] == old["hardware"])
        else:
            reason = "the new result has no such row"
            cases.append(Case(name, "row", skipped=reason) if args.allow_missing else Case(name, "row", failed=reason))
    if not any(case.figure != "row" for case in cases):
        raise ValueError(f"{args.baseline}: its rows have none of the figures that are compared; see --help")
    return cases


def printable(text: str) -> str:
    """A text that XML can hold: names are other people's, and no escape makes a control character legal there."""
    return "".join(c if c.isprintable() else "?" for c in text)


def junit(cases: Sequence[Case], title: str) -> bytes:
    """A JUnit XML document: one suite, a test case for each figure."""
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(bool(c.failed) for c in cases)),
        "skipped": str(sum(bool(c.skipped) for c in cases)),
        "errors": "0",
    }
    top = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(top, "testsuite", {"name": printable(title), **counts})
    for case in cases:
        about = {"classname": printable(case.row), "name": case.figure, "time": "0"}
        element = ElementTree.SubElement(suite, "testcase", about)
        figures = f"baseline {shown(case.before)}, new {shown(case.after)}"
        if case.failed:
            ElementTree.SubElement(element, "failure", {"message": case.failed, "type": "regression"}).text = figures
        elif case.skipped:
            ElementTree.SubElement(element, "skipped", {"message": printable(case.skipped)})
        ElementTree.SubElement(element, "system-out").text = figures
    ElementTree.indent(top)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(top, encoding="utf-8") + b"\n"


def shown(value: float | None) -> str:
    """A figure for people: a thousandth is enough for dB, a byte for sizes."""
    return "none" if value is None else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.3f}"


def run(args: Namespace) -> int:
    for flag, least in (("max_drop", 0), ("max_texture", 0), ("max_slower", 1), ("max_bigger", 1)):
        if not getattr(args, flag) >= least:  # NaN too
            raise ValueError(f"--{flag.replace('_', '-')} is {getattr(args, flag)}; expected {least} or more")
    new, old = results.read_result(args.result), results.read_result(args.baseline)
    cases = compare_all(new, old, args)
    if args.junit:
        title = f"{results.portable(args.result)} against {results.portable(args.baseline)}"
        with whole_file(args.junit) as partial:
            partial.write_bytes(junit(cases, title))
    worse = [case for case in cases if case.failed]
    table = [
        {
            "row": c.row,
            "figure": c.figure,
            "baseline": shown(c.before),
            "new": shown(c.after),
            "": c.outcome,
            "why": c.failed or c.skipped,
        }
        for c in cases
    ]
    script.finish(
        f"{args.result} against {args.baseline}",
        table,
        {
            "compared": len(cases),
            "worse": [{"row": c.row, "figure": c.figure, "why": c.failed} for c in worse],
            "skipped": sum(bool(c.skipped) for c in cases),
        },
    )
    if worse:
        raise script.GateFailed("; ".join(f"{case.row}, {case.figure}: {case.failed}" for case in worse))
    return 0


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = script.parser(__file__, __doc__)
    parser.add_argument("result", type=Path, metavar="RESULT.json", help="the new result")
    parser.add_argument("--baseline", type=Path, required=True, metavar="FILE", help="the accepted result to compare with")
    parser.add_argument(
        "--max-drop", type=float, default=0.1, metavar="DB", help="largest drop of either PSNR (default: %(default)s)"
    )
    parser.add_argument(
        "--max-texture",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="how far texture energy may move away from 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--max-slower", type=float, default=1.1, metavar="FACTOR", help="largest factor on times (default: %(default)s)"
    )
    parser.add_argument(
        "--max-bigger", type=float, default=1.01, metavar="FACTOR", help="largest factor on bytes (default: %(default)s)"
    )
    parser.add_argument("--allow-missing", action="store_true", help="allow rows of the baseline to be missing")
    parser.add_argument("--junit", type=Path, metavar="FILE.xml", help="write JUnit XML for CI systems")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

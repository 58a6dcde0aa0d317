"""The paper's tables (Hua et al. 2021), trained and measured again at a scale that two cores can afford.

    python train/evaluate.py data/faces --table 1 --json benchmarks/results/table1.json
    python train/evaluate.py data/faces --table 2 --seeds 2 --json benchmarks/results/table2.json --flows docs/flows.png

Table 1: HiFill, StructureFlow, EdgeConnect and three refine networks of FaceEraser, at equal data, steps and terms, beside
classical filling. Table 2: FaceEraser's coefficient of the pixel-clone term. Networks are of the paper preset and trained as
`train.py` trains it; what differs from the paper is in the options (width, size, steps, batch, rate; no perceptual network)
and in every row. A model whose first network has a phase of its own gets those steps there, HiFill gets them on top.

Every row is the mean over the seeds, with its spread over seeds (`std`) and pictures (`picture_std`), and the paper's own
figures (`paper`). Table 1 says of each step of the paper's order whether it is seen here, paired by picture, with a 95 %
interval: on the whole picture, as the paper takes it, inside the hole, and with mirrored masks. Runs that are there already
are kept, so a table may be broken off and gone on with.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from faceeraser.measurement import metrics, results
from faceeraser.measurement.patchmatch import fill_patchmatch
from faceeraser.measurement.seeds import mean_and_spread
from faceeraser.model import checkpoint, inference, pairs
from faceeraser.model.networks import Inpainter, cost_of
from faceeraser.model.warp import landing_in_hole
from faceeraser.system import chain, script
from faceeraser.system.history import read_history
from faceeraser.training import fit

ROOT = Path(__file__).resolve().parent.parent
TABLE_FIGURES = ("psnr", "mae", "psnr_hole", "psnr_hole_mirrored", "psnr_hole_smooth", "mae_hole", "texture_energy")
OURS = {"edge_pc_ae": "auto_encoder", "edge_pc_unet": "unet", "edge_pc_unet_ca": "unet_attention"}
# The paper's tables: PSNR, its spread, MAE, its spread. In the order of Table 1, the worst first.
TABLE_1 = {
    "hifill": (28.24, 0.20, 0.0253, 0.0035),
    "structureflow": (29.62, 0.23, 0.0247, 0.0031),
    "edgeconnect": (32.13, 0.25, 0.0231, 0.0022),
    "edge_pc_ae": (33.01, 0.25, 0.0226, 0.0023),
    "edge_pc_unet": (33.11, 0.27, 0.0209, 0.0019),
    "edge_pc_unet_ca": (33.17, 0.29, 0.0199, 0.0016),
}
TABLE_2 = {
    "0": (31.21, 0.25, 0.0263, 0.0023),
    "0.5": (31.46, 0.29, 0.0250, 0.0025),
    "0.8": (32.61, 0.30, 0.0221, 0.0021),
    "1.0": (33.09, 0.28, 0.0202, 0.0019),
    "1.2": (32.87, 0.31, 0.0205, 0.0019),
    "1.5": (32.56, 0.34, 0.0209, 0.0020),
    "2.0": (32.38, 0.32, 0.0214, 0.0017),
}
# Why a row is where it is: the same with batch norms, which keep the colour that instance norms take out of a picture.
CONTROLS = {"edge_pc_unet_ca_bn": "edge_pc_unet_ca", "edgeconnect_bn": "edgeconnect"}
CONTROL_SEEDS = 2
DOT = 0.1  # of the range: how far a pixel is above the median of its neighbourhood to be a white dot


def commands(args: Namespace) -> tuple[list[list[str]], list[list[str]], dict[str, list[Path]]]:
    """(first networks, what is trained on them, {row: its folders, one a seed})."""
    common = [
        "--preset",
        "paper",
        "--width",
        str(args.width),
        "--size",
        str(args.size),
        "--batch",
        str(args.batch),
        "--critic-width",
        str(2 * args.width),
        "--perceptual",
        args.perceptual,
        "--symmetric",
        "--lr",
        str(args.lr),
        "--schedule",
        "cosine",
    ]
    first: list[list[str]] = []
    then: list[list[str]] = []
    folders: dict[str, list[Path]] = {}

    def train(plan: list[list[str]], name: str, seed: int, steps: int, *flags: str) -> Path:
        folder: Path = args.target / f"{name}-{seed}"
        plan.append(
            ["train/train.py", str(args.data), str(folder), *common, "--seed", str(seed), "--steps", str(steps), *flags]
        )
        return folder

    def row(name: str, seed: int, base: Path | None, *flags: str) -> None:
        steps, edge = (args.steps, ["--edge", str(base)]) if base else (args.steps + args.first_steps, [])
        folders.setdefault(name, []).append(train(then, name, seed, steps, "--phase", "inpaint", *edge, *flags))

    for seed in range(args.seeds):
        edge = train(first, "edge", seed, args.first_steps, "--phase", "edge")
        if args.table == 2:
            row("edge_pc_unet_ca", seed, edge)
            for alpha in TABLE_2:
                if alpha != "1.0":
                    row(f"alpha_{alpha}", seed, edge, "--clone", alpha)
            continue
        flow = ["--model", "structureflow"]
        structure = train(first, "structure", seed, args.first_steps, "--phase", "structure", *flow)
        row("hifill", seed, None, "--model", "hifill")
        row("structureflow", seed, structure, *flow)
        row("edgeconnect", seed, edge, "--model", "edgeconnect")
        for name, variant in OURS.items():
            row(name, seed, edge, "--variant", variant)
        if seed >= CONTROL_SEEDS:
            continue
        batch = ["--norm", "batch"]
        edge = train(first, "edge_bn", seed, args.first_steps, "--phase", "edge", *batch)
        row("edge_pc_unet_ca_bn", seed, edge, *batch)
        row("edgeconnect_bn", seed, edge, *batch, "--model", "edgeconnect")
    return first, then, folders


def painted_by(network: Inpainter, listed: Sequence[pairs.Pair]) -> dict[str, metrics.Method]:
    """What a network paints on these pairs, 'refined' and, of a model that warps pictures, 'cloned': methods that are called
    for each pair with its mask, then mirrored, as `metrics.score` does. Computed once for both, in batches, which is several
    times as fast.
    """
    asked = [dataclasses.replace(pair, mask=mask) for pair in listed for mask in (pair.mask, metrics.mirrored(pair.mask))]
    outputs = inference.run(network, asked)

    def method_of(painted: Iterator[torch.Tensor]) -> metrics.Method:
        return lambda _image, _mask: inference.as_picture(next(painted))

    return {key: method_of(iter(outputs[key])) for key in ("refined", "cloned") if key in outputs}


def scored(name: str, folders: Sequence[Path], listed: Sequence[pairs.Pair]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(the row of a model over its seeds, {figure: (seeds, pictures)})."""
    values: dict[str, list[list[float]]] = {}
    rows = []
    for folder in folders:
        network = checkpoint.load(folder)
        painted = painted_by(network, listed)
        score = metrics.score(painted["refined"], listed, progress=tqdm)
        if "cloned" in painted:
            cloned = metrics.score(painted["cloned"], listed, progress=tqdm)
            for key in ("psnr", "psnr_hole", "psnr_hole_mirrored"):
                score.row[f"cloned_{key}"], score.figures[f"cloned_{key}"] = cloned.row[key], cloned.figures[key]
                score.row[f"cloned_{key}_std"] = cloned.row[f"{key}_std"]
        rows.append(score.row)
        for key, each in score.figures.items():
            values.setdefault(key, []).append(each)
    gmacs, params = cost_of(network)
    options = read_history(folders[0])[-1]["options"]
    row: dict[str, Any] = {"name": name, "seeds": len(folders), "n": len(listed), "gmacs": round(gmacs, 4), "params": params}
    # Texture is None where no photograph resolved any.
    shared = [key for key in values if key in TABLE_FIGURES or key.startswith("cloned")]
    wanted = [key for key in shared if all(score[key] is not None for score in rows)]
    means, spread = mean_and_spread(rows, wanted)
    row |= dict.fromkeys(TABLE_FIGURES) | means | {"std": spread}
    within, _ = mean_and_spread(rows, [f"{key}_std" for key in wanted])
    row["picture_std"] = {key: within[f"{key}_std"] for key in wanted}
    row |= {"steps": sum(entry["options"]["steps"] for entry in read_history(folders[0]))}
    row |= {key: options[key] for key in ("width", "size", "batch", "lr", "clone")}
    weight = fit.Recipe(phase="inpaint", adversarial=options["adversarial"]).adversarial_weight()
    row |= {"adversarial": weight, "perceptual": options["features"], "norm": network.config.norm}
    return row, {key: np.array(each) for key, each in values.items()}


def classical(listed: Sequence[pairs.Pair]) -> list[dict[str, Any]]:
    """The rows of the classical fills."""
    rows = []
    for name, fill in {**metrics.CLASSICAL, "patchmatch": fill_patchmatch}.items():
        score = metrics.score(fill, listed, progress=tqdm).row
        there = [key for key in TABLE_FIGURES if score[key] is not None]
        untrained = dict.fromkeys(("seeds", "std", "steps", "gmacs", "params", "perceptual"))
        row = {"name": name, "kind": "classical", "n": score["n"], **untrained, **dict.fromkeys(TABLE_FIGURES)}
        row |= {key: round(score[key], 4) for key in there}
        rows.append({**row, "picture_std": {key: round(score[f"{key}_std"], 4) for key in there}})
    return rows


def order(figures: dict[str, dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Each step of Table 1's order as it is here: by how much the better row of the paper is better, paired by picture; and
    at the end its claim over EdgeConnect once more, both with batch norms.

    gain: of the row that the paper puts above; in dB, for MAE in levels of 1, and the lower MAE is the gain. low, high: its
    95 % interval, of a bootstrap that draws seeds and pictures. of_seeds: with how many seeds it is positive; where these do
    not agree, the rows are not told apart.
    """
    rng = np.random.default_rng(0)
    rows = []
    for worse, better in (*itertools.pairwise(TABLE_1), ("edgeconnect_bn", "edge_pc_unet_ca_bn")):
        for key in ("psnr", "mae", "psnr_hole", "psnr_hole_mirrored"):
            sign = -1 if key == "mae" else 1
            gain = sign * (figures[better][key] - figures[worse][key])
            seeds, pictures = (rng.integers(size, size=(2000, size)) for size in gain.shape)
            drawn = gain[seeds[:, :, None], pictures[:, None, :]].mean((1, 2))
            low, high = map(float, np.percentile(drawn, [2.5, 97.5]))
            of_seeds = int((gain.mean(1) > 0).sum())
            seen = (
                "yes" if low > 0 and of_seeds == len(gain) else "reversed" if high < 0 and not of_seeds else "not told apart"
            )
            rows.append(
                {
                    "better": better,
                    "worse": worse,
                    "figure": key,
                    "gain": round(float(gain.mean()), 5),
                    "low": round(low, 5),
                    "high": round(high, 5),
                    "of_seeds": of_seeds,
                    "seeds": len(gain),
                    "seen": seen,
                }
            )
    return rows


def flow_of(network: Inpainter, listed: Sequence[pairs.Pair]) -> dict[str, float]:
    """What the paper says of flows and dots, as numbers: `flow_spread`, how far the hole's flow vectors are from their
    mean, in pixels (0: the flow is constant); `flow_in_hole`; `dots`, white dots per thousand pixels of the hole.
    """
    out = inference.run(network, list(listed))
    _, mask = pairs.to_tensors(list(listed))
    inside = mask >= 0.5
    apart, dots, pixels = [], 0, 0
    for flow, refined, hole in zip(out["flow"], out["refined"], inside, strict=True):
        vectors = flow[:, hole[0]]
        apart.append(float((vectors - vectors.mean(1, keepdim=True)).norm(dim=0).mean()))
        luma = metrics.luma(inference.as_picture(refined))
        above = luma - cv2.medianBlur(luma.astype(np.float32), 5)
        dots += int((above[hole[0].numpy()] > DOT * 255).sum())
        pixels += int(hole.sum())
    landed = float(landing_in_hole(out["flow"], mask).mean())
    return {"flow_spread": float(np.mean(apart)), "flow_in_hole": landed, "dots": 1000 * dots / pixels}


def claims(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the paper says under Table 2, and whether it is seen: beyond the spread over seeds, where there is one."""
    named = {row["name"].removeprefix("alpha_"): row for row in rows}
    own = named["1.0"]

    def beyond(key: str, low: dict[str, Any], high: dict[str, Any]) -> bool:
        return bool(high[key] - low[key] > high["std"][key] + low["std"][key])

    steady = {alpha: row["flow_spread"] for alpha, row in named.items()}
    return {
        "the flow is constant at 0.5 and below": {
            "flow_spread": steady,
            "seen": all(beyond("flow_spread", named[a], own) and steady[a] < 1 for a in ("0", "0.5")),
        },
        "white dots at 2.0": {
            "dots": {alpha: row["dots"] for alpha, row in named.items()},
            "seen": beyond("dots", own, named["2.0"]),
        },
        "1.0 is best": {
            "psnr": {alpha: row["psnr"] for alpha, row in named.items()},
            "seen": all(beyond("psnr", row, own) for alpha, row in named.items() if alpha != "1.0"),
        },
    }


def as_colours(flow: torch.Tensor, hole: np.ndarray) -> np.ndarray:
    """A flow (2, H, W) in pixels as a picture (H, W, 3) uint8: hue is where to, saturation how far; grey outside."""
    x, y = flow.numpy()
    hue = (np.degrees(np.arctan2(y, x)) % 360 / 2).astype(np.uint8)
    far = np.clip(np.hypot(x, y) / (flow.shape[-1] / 2) * 255, 0, 255).astype(np.uint8)
    colours = cv2.cvtColor(np.stack([hue, far, np.full_like(hue, 255)], -1), cv2.COLOR_HSV2RGB)
    return np.where(hole[..., None] > 0, colours, np.uint8(235))


def draw(args: Namespace, folders: dict[str, list[Path]], listed: Sequence[pairs.Pair]) -> None:
    """`--flows`: flow maps alone, a column a coefficient. `--sheet`: under each the cloned and the refined picture."""
    columns: dict[str, list[np.ndarray]] = {"flow": [], "all": []}
    for each in folders.values():
        out = inference.run(checkpoint.load(each[0]), list(listed))
        maps = [as_colours(flow, pair.mask) for flow, pair in zip(out["flow"], listed, strict=True)]
        columns["flow"].append(np.concatenate(maps))
        cells = []
        for k, flow in enumerate(maps):
            shown = [inference.as_picture(out[key][k]) for key in ("cloned", "refined")]
            cells += [flow, *shown]
        columns["all"].append(np.concatenate(cells))
    for target, kind in ((args.flows, "flow"), (args.sheet, "all")):
        if target:
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.concatenate(columns[kind], 1)).save(target, quality=92)


def run(args: Namespace) -> None:
    if args.seeds < 1:
        raise ValueError(f"--seeds {args.seeds}: expected at least 1")
    if args.limit is not None and args.limit < 2:
        raise ValueError(f"--limit {args.limit}: expected at least 2 pairs, to have a spread")
    data = pairs.data_of(args.data)
    first, then, folders = commands(args)
    for plan in (first, then):
        if left := [command for command in plan if not chain.trained_already(command, data)]:
            chain.run_all(left, ROOT, independent=True)
    listed = pairs.evaluation_pairs(args.data, "eval", args.size, args.limit)
    rows, figures = [], {}
    if args.table == 2:
        folders = {f"alpha_{a}": folders["edge_pc_unet_ca" if a == "1.0" else f"alpha_{a}"] for a in TABLE_2}
    for name, each in folders.items():
        row, figures[name] = scored(name, each, listed)
        described = TABLE_2[name.removeprefix("alpha_")] if args.table == 2 else TABLE_1.get(name)
        if described:
            row["paper"] = dict(zip(("psnr", "psnr_std", "mae", "mae_std"), described, strict=True))
        if name in CONTROLS:
            row["control_of"] = CONTROLS[name]
        if args.table == 2:
            flows = [flow_of(checkpoint.load(folder), listed) for folder in each]
            means, spread = mean_and_spread(flows, flows[0])
            row |= means
            row["std"] |= spread
        rows.append(row)
    if args.table == 1:
        rows += classical(listed)
    about = {key: data.get(key) for key in ("name", "source", "eval_sha256")} | {"size": args.size, "n": len(listed)}
    result = results.result(rows, about, args.command)
    if args.table == 1:
        result["order"] = order(figures)
    else:
        result["claims"] = claims(rows)
    if args.json:
        results.write_result(args.json, result)
    if args.table == 2 and (args.flows or args.sheet):
        draw(args, folders, listed[:4])
    more = ("flow_spread", "flow_in_hole", "dots") if args.table == 2 else ("cloned_psnr_hole_mirrored", "gmacs", "params")
    shown = ("name", *TABLE_FIGURES, *more, "seeds")
    script.finish(
        f"Table {args.table} at {args.size} pixels, {args.steps} steps", [{k: r.get(k) for k in shown} for r in rows], result
    )


def build_parser() -> ArgumentParser:
    parser = script.parser(__file__, __doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder made by train/prepare.py")
    parser.add_argument("--table", type=int, choices=(1, 2), required=True)
    parser.add_argument("--target", type=Path, default=Path("runs/tables"), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--width", type=int, default=8, help="channels of the first layer; the paper has 64 (default: 8)")
    parser.add_argument("--size", type=int, default=96, help="edge length in pixels; the paper has 256 (default: 96)")
    parser.add_argument("--steps", type=int, default=1000, help="training steps (default: %(default)s)")
    parser.add_argument(
        "--first-steps", type=int, default=300, help="training steps of the edge or structure network (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=4, help="default: %(default)s")
    parser.add_argument(
        "--lr", type=float, default=1e-3, help="default: %(default)s; the paper has 1e-4, for 2,000,000 epochs"
    )
    parser.add_argument(
        "--perceptual", choices=("vgg", "filterbank", "off"), default="off", help="network of the perceptual and style terms"
    )
    parser.add_argument("--limit", type=int, help="use only the first N validation pairs")
    script.add_json(parser)
    parser.add_argument("--flows", type=Path, metavar="FILE", help="for table 2: draw the flow maps in this file")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="for table 2: draw the pictures in this file (it shows the faces of DATA)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

"""Networks that were not made for this project: what is made of them here, beside what the stock converters make.

    python benchmarks/any_network.py exports/any --json benchmarks/results/any.json

Three networks with random weights, written from their papers: a first-order motion generator (Siarohin et al. 2019, sections
3.1 and 3.2, dense motion and occlusion with it), a spatial transformer before a classifier (Jaderberg et al. 2015) and one
level of PWC-Net (Sun et al. 2018): warp, correlation and flow estimator. Each is exported by `faceeraser.export`, by
litert-torch as it is, and by torch.onnx as it is; LiteRT and ONNX Runtime run them on one thread, in turns in one process;
`ours_ms`, `stock_ms` and `onnx_ms` are processor time, which other processes hardly change. `warp_...` is the same of the
network's largest warp alone, at its own size.

speedup         stock's time over ours in the same round, the median over rounds; of the warp, goal 5
gpu_share       nodes that a GPU takes, by TensorFlow 2.15.1's analyzer (`make legacy`); `refused` says which it does not
accelerated     whether LiteRT's GPU delegate takes the whole file; gpu_max_abs, how far it is from the CPU
parity_max      largest difference to torch on the samples

Exit code 1 when a warp misses its goal or a GPU takes less of ours than of the stock file; 2 without .venv-legacy.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from faceeraser.artifacts import publishing
from faceeraser.conversion import convert
from faceeraser.conversion.onnx import ONNX
from faceeraser.conversion.tflite import TFLite
from faceeraser.measurement import results
from faceeraser.model.any_network import AnyNetwork
from faceeraser.system import script
from faceeraser.system.extras import need

CHECK = Path(__file__).resolve().parents[1] / "export" / "check_gpu.py"
GOAL = 5.0
"""Times that a warp has to be faster than what the stock converter makes of it."""
WARM_UP = 3
_OF_BOTH = ("gpu_share", "accelerated", "nodes", "refused")
_SHARES = (*_OF_BOTH, *(f"stock_{key}" for key in _OF_BOTH), "gpu_max_abs")
OURS = TFLite("fp32", flavour="gpu")


# --- the networks ---------------------------------------------------------------------------------------------------


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """A block of the generator's bottleneck: norms first."""

    def __init__(self, width: int):
        super().__init__()
        one = [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
        two = [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
        self.inside = nn.Sequential(*one, *two)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


class DenseMotion(nn.Module):
    """Where each pixel comes from: the picture moved by each keypoint's affine motion, and which of them holds where.

    source (1, 3, S, S), driving and still keypoints (1, K, 2) in (-1, 1), turned (1, K, 2, 2) the product of their Jacobians
    -> grid (1, S, S, 2), visible (1, 1, S, S).
    """

    def __init__(self, points: int, width: int):
        super().__init__()
        entering = 4 * (points + 1)
        self.down = nn.ModuleList([_block(entering, width, 2), _block(width, 2 * width, 2), _block(2 * width, 4 * width, 2)])
        self.up = nn.ModuleList([_block(4 * width, 2 * width), _block(4 * width, width), _block(2 * width, width)])
        self.which = nn.Conv2d(width + entering, points + 1, 7, padding=3)
        self.visible = nn.Conv2d(width + entering, 1, 7, padding=3)

    def forward(self, source: Tensor, still: Tensor, driving: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
        (side, points) = source.shape[2], still.shape[1]
        line = torch.linspace(-1, 1, side)
        here = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)[None]
        away = here - driving.view(points, 1, 1, 2)
        moved = torch.einsum("kij,khwj->khwi", turned[0], away) + still.view(points, 1, 1, 2)
        grids = torch.cat([here, moved])
        heat = _gaussian(driving, here) - _gaussian(still, here)
        heat = torch.cat([torch.zeros_like(heat[:1]), heat])
        pictures = F.grid_sample(source.repeat(points + 1, 1, 1, 1), grids, align_corners=True)
        x = entering = torch.cat([heat, pictures], 1).reshape(1, 4 * (points + 1), side, side)
        passed = []
        for down in self.down:
            x = down(x)
            passed.append(x)
        passed.pop()
        for up in self.up:
            x = up(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = torch.cat([x, passed.pop()], 1) if passed else x
        x = torch.cat([x, entering], 1)
        share = torch.softmax(self.which(x), 1)
        grid = (share.permute(1, 2, 3, 0) * grids).sum(0, keepdim=True)
        return grid, torch.sigmoid(self.visible(x))


def _gaussian(points: Tensor, here: Tensor) -> Tensor:
    """Heat maps (K, 1, S, S) of keypoints (1, K, 2)."""
    away = here - points.view(-1, 1, 1, 2)
    return torch.exp(-50.0 * (away * away).sum(-1))[:, None]


class Motion(nn.Module):
    """First-order motion's generator: features of a picture, halved twice, are warped by a dense motion, weighted by where
    they are visible, and decoded. source (1, 3, 4 S, 4 S), the keypoints as `DenseMotion` has them.
    """

    def __init__(self, width: int = 32, points: int = 10):
        super().__init__()
        self.dense = DenseMotion(points, width)
        self.down = nn.Sequential(_block(3, width), _block(width, 2 * width, 2), _block(2 * width, 4 * width, 2))
        self.body = nn.Sequential(*[Residual(4 * width) for _ in range(6)])
        self.up = nn.ModuleList([_block(4 * width, 2 * width), _block(2 * width, width)])
        self.last = nn.Conv2d(width, 3, 7, padding=3)

    def forward(self, source: Tensor, still: Tensor, driving: Tensor, turned: Tensor) -> Tensor:
        small = F.interpolate(source, scale_factor=0.25, mode="bilinear", align_corners=False)
        grid, visible = self.dense(small, still, driving, turned)
        x = self.body(F.grid_sample(self.down(source), grid, align_corners=True) * visible)
        for up in self.up:
            x = up(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return torch.sigmoid(self.last(x))


class Transformer(nn.Module):
    """A spatial transformer before a classifier: image (1, 3, S, S) -> scores (1, 43), its picture straightened to S / 2."""

    def __init__(self, side: int = 96):
        super().__init__()
        self.side = side
        self.look = nn.Sequential(_block(3, 16, 2), _block(16, 32, 2), _block(32, 32, 2))
        self.where = nn.Linear(32 * (side // 8) ** 2, 6)
        nn.init.normal_(self.where.weight, std=1e-3)
        self.where.bias.data = torch.tensor([0.8, 0.1, 0.0, -0.1, 0.8, 0.0])
        self.read = nn.Sequential(_block(3, 32, 2), _block(32, 64, 2), _block(64, 64, 2))
        self.scores = nn.Linear(64, 43)

    def forward(self, image: Tensor) -> Tensor:
        theta = self.where(self.look(image).flatten(1)).view(1, 2, 3)
        grid = F.affine_grid(theta, [1, 3, self.side // 2, self.side // 2], align_corners=False)
        straight = F.grid_sample(image, grid, align_corners=False)
        return self.scores(self.read(straight).mean((2, 3)))


class Pyramid(nn.Module):
    """One level of PWC-Net: features of the second picture warped by the flow from the level below, correlated with the
    first's over 9 x 9 shifts, and a flow estimated. first, second (1, C, H, W), flow (1, 2, H / 2, W / 2) in its pixels.
    """

    def __init__(self, channels: int = 32):
        super().__init__()
        self.estimate = nn.Sequential(
            _block(81 + channels + 2, 128), _block(128, 96), _block(96, 64), nn.Conv2d(64, 2, 3, padding=1)
        )

    def forward(self, first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
        height, width = first.shape[2:]
        flow = 2.0 * F.interpolate(flow, scale_factor=2.0, mode="bilinear", align_corners=False)
        columns, rows = torch.arange(width).view(1, 1, 1, width), torch.arange(height).view(1, 1, height, 1)
        x = 2.0 * (flow[:, :1] + columns) / (width - 1) - 1.0
        y = 2.0 * (flow[:, 1:] + rows) / (height - 1) - 1.0
        warped = F.grid_sample(second, torch.cat([x, y], 1).permute(0, 2, 3, 1), align_corners=True)
        around = F.pad(warped, (4, 4, 4, 4))
        cost = [
            (first * around[:, :, down : down + height, right : right + width]).mean(1, keepdim=True)
            for down in range(9)
            for right in range(9)
        ]
        return flow + self.estimate(torch.cat([*cost, first, flow], 1))


class Alone(nn.Module):
    """A network's warp, with nothing around it."""

    def __init__(self, align_corners: bool):
        super().__init__()
        self.align_corners = align_corners

    def forward(self, image: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(image, grid, align_corners=self.align_corners)


class Noise:
    """Random tensors, the same in every run."""

    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self.random)


def motion(scale: int, noise: Noise) -> tuple[nn.Module, Callable[[], dict[str, Tensor]]]:
    """The generator and a maker of samples: pictures of 32 x scale pixels, keypoints, how what is around them is turned."""

    def sample() -> dict[str, Tensor]:
        source = noise(1, 3, 32 * scale, 32 * scale)
        still, driving = (noise(1, 10, 2, low=-0.8, high=0.8) for _ in range(2))
        turned = torch.eye(2) + noise(1, 10, 2, 2, low=-0.2, high=0.2)
        return {"source": source, "still": still, "driving": driving, "turned": turned}

    return Motion(4 * scale), sample


def transformer(scale: int, noise: Noise) -> tuple[nn.Module, Callable[[], dict[str, Tensor]]]:
    """The classifier and a maker of samples, pictures of 12 x scale pixels."""
    return Transformer(12 * scale), lambda: {"image": noise(1, 3, 12 * scale, 12 * scale)}


def pyramid(scale: int, noise: Noise) -> tuple[nn.Module, Callable[[], dict[str, Tensor]]]:
    """The level and a maker of samples: features of 12 x 16 x scale pixels, a flow of half that size."""

    def sample() -> dict[str, Tensor]:
        first, second = (noise(1, 4 * scale, 12 * scale, 16 * scale) for _ in range(2))
        return {"first": first, "second": second, "flow": noise(1, 2, 6 * scale, 8 * scale, low=-4.0, high=4.0)}

    return Pyramid(4 * scale), sample


# Of each: how it is made; its warp's channels, height and width of picture and grid, all times scale; and its corners.
_MADE: dict[str, tuple[Callable[..., Any], tuple[int, int, int, int, int], bool]] = {
    "motion": (motion, (16, 8, 8, 8, 8), True),
    "transformer": (transformer, (0, 12, 12, 6, 6), False),
    "pyramid": (pyramid, (4, 12, 16, 12, 16), True),
}


def networks(scale: int = 8) -> dict[str, tuple[AnyNetwork, AnyNetwork]]:
    """{name: (the network, its warp alone)}; at scale 8 pictures of 256, 96 and 96 x 128 pixels, at 2 a quarter of that."""
    noise, found = Noise(), {}
    torch.manual_seed(0)
    modules = {name: make(scale, noise) for name, (make, _, _) in _MADE.items()}
    pictures = {
        name: noise(1, sizes[0] * scale or 3, *(scale * n for n in sizes[1:3])) for name, (_, sizes, _) in _MADE.items()
    }
    for name, (module, sample) in modules.items():
        with torch.no_grad():
            module.train()(**sample())  # statistics for the norms
        _, (*_, rows, columns), corners = _MADE[name]
        grid = noise(1, rows * scale, columns * scale, 2, low=-1.1, high=1.1)
        found[name] = (
            AnyNetwork.of(module.eval(), [sample() for _ in range(2)], name=name),
            AnyNetwork.of(Alone(corners), {"image": pictures[name], "grid": grid}, name=f"warp-{name}"),
        )
    return found


# --- their files ----------------------------------------------------------------------------------------------------


def written(network: AnyNetwork, folder: Path, again: bool) -> dict[str, Path]:
    """Its files: `ours`, through its gate; `stock`, what litert-torch makes of it as it is; `onnx`, what torch.onnx does.

    again: those of an earlier run, if all are there.
    """
    paths = {"ours": folder / OURS.name_for(network)}
    paths |= {"stock": folder / f"{network.name}-stock.tflite", "onnx": folder / f"{network.name}-stock.onnx"}
    if again and all(path.is_file() for path in paths.values()):
        return paths
    litert_torch = need("litert_torch", "tflite", "the stock converter")
    need("onnxscript", "onnx", "the stock .onnx file")
    sample = dict(network.samples[0])
    convert.export_module(network, folder, OURS, overwrite=True)
    with publishing.step("the stock converters'"):
        litert_torch.convert(network.module, sample_kwargs=sample).export(str(paths["stock"]))
        torch.onnx.export(
            network.module,
            (),
            kwargs=sample,
            f=str(paths["onnx"]),
            dynamo=True,
            external_data=False,
            input_names=list(sample),
        )
    return paths


def runner(path: Path, network: AnyNetwork) -> tuple[Callable[[], Any], float]:
    """(one inference of the first sample on one thread; largest difference to the module on all samples)."""
    run = (ONNX() if path.suffix == ".onnx" else OURS).runner(path)
    apart = 0.0
    for sample in network.samples:
        expected, found = network.outputs(sample).values(), run(sample).values()
        apart = max(apart, *(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True)))
    sample = network.samples[0]
    if path.suffix == ".onnx":
        return lambda: run(sample), apart
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    signature = interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))
    for name, port in signature.get_input_details().items():
        interpreter.set_tensor(port["index"], sample[name].numpy())
    return interpreter.invoke, apart


def timed(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """{"..._ms": median} of runs that take turns, and {"speedup": stock's time over ours of a round, median}."""
    for _ in range(WARM_UP):
        for run in runs.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.process_time_ns()
            run()
            times[name].append((time.process_time_ns() - began) / 1e6)
    faster = statistics.median(stock / ours for stock, ours in zip(times["stock"], times["ours"], strict=True))
    return {**{f"{name}_ms": statistics.median(taken) for name, taken in times.items()}, "speedup": faster}


def shares(files: Mapping[str, Path], python: Path | None) -> dict[str, Any]:
    """Of ours and the stock .tflite file, the share of nodes that TF 2.15.1's check takes, and how many it does not; whether
    LiteRT's own GPU delegate takes the whole file, and how far its outputs are from the CPU's (None where it does not).
    """
    words = [sys.executable, str(CHECK), str(files["ours"]), str(files["stock"]), "--pictures", "1"]
    words += ["--legacy-python", str(python)] if python else []
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode == 2:
        raise ValueError((done.stderr.strip() or "check_gpu.py said nothing").splitlines()[-1])
    ours, stock = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))["files"]
    if not (ours["control_refused"] and stock["control_refused"]):
        raise ValueError(f"check_gpu.py takes what no GPU takes: {done.stderr.strip().splitlines()[-1]}")
    return {
        "gpu_share": ours["delegated_share"],
        "stock_gpu_share": stock["delegated_share"],
        "accelerated": ours["litert"].get("accelerated"),
        "stock_accelerated": stock["litert"].get("accelerated"),
        "gpu_max_abs": ours["litert"].get("max_abs"),
        "nodes": ours["nodes"],
        "stock_nodes": stock["nodes"],
        "refused": ours["refused_operators"],
        "stock_refused": stock["refused_operators"],
    }


def measure(network: AnyNetwork, args: argparse.Namespace, known: Mapping[str, Any]) -> dict[str, Any]:
    """{"ours_ms", "stock_ms", "onnx_ms", "speedup", "parity_max", "stock_parity_max", "onnx_parity_max", ...}.

    known: `shares` of its files, if they were taken before.
    """
    paths = written(network, args.target, args.again)
    made = {kind: runner(path, network) for kind, path in paths.items()}
    apart = {("" if kind == "ours" else f"{kind}_") + "parity_max": value for kind, (_, value) in made.items()}
    times = timed({kind: run for kind, (run, _) in made.items()}, args.rounds)
    return {**times, **apart, **(known or shares(paths, args.legacy_python))}


def known_shares(args: argparse.Namespace, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `shares` gave of a network and of its warp in the result that --json names, where files are timed again."""
    if not args.again or args.json is None or not args.json.is_file():
        return {}, {}
    row: dict[str, Any] = next((row for row in results.read_result(args.json)["rows"] if row["name"] == name), {})
    whole, warp = ({key: row[f"{part}{key}"] for key in _SHARES if f"{part}{key}" in row} for part in ("", "warp_"))
    return whole, warp


# --- the script -----------------------------------------------------------------------------------------------------

_WHOLE = ("name", "ours_ms", "stock_ms", "onnx_ms", "gpu_share", "stock_gpu_share", "parity_max")
_TABLE = (*_WHOLE, "warp_ours_ms", "warp_stock_ms", "warp_onnx_ms", "warp_speedup")


def run(args: argparse.Namespace) -> None:
    """Export, check, time; the table, the JSON line.

    Raises:
        ValueError: too few rounds, too small a scale, or TensorFlow 2.15.1 is not there.
        script.GateFailed: a goal is missed; says whose and by how much.
    """
    if args.rounds < 5 or args.scale < 2:
        raise ValueError(f"--rounds {args.rounds} --scale {args.scale}: expected at least 5 and 2")
    args.target.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    wanted = {name: pair for name, pair in networks(args.scale).items() if name in args.networks}
    rows = []
    for name, pair in tqdm(wanted.items(), unit="network"):
        row, warp = (measure(one, args, known) for one, known in zip(pair, known_shares(args, name), strict=True))
        rows.append({"name": name, **row, **{f"warp_{key}": value for key, value in warp.items()}})
    result = results.result(rows, None, args.command)
    if args.json:
        results.write_result(args.json, result)
    script.finish("any network, one thread, in turns", [{key: row[key] for key in _TABLE} for row in rows], result)
    missed = [f"{row['name']}'s warp {row['warp_speedup']:.1f} x" for row in rows if row["warp_speedup"] < GOAL]
    missed += [f"{row['name']}'s GPU share" for row in rows if row["gpu_share"] < row["stock_gpu_share"]]
    if missed:
        raise script.GateFailed(f"{', '.join(missed)}: expected {GOAL:g} x, and no smaller share than the stock file's")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = script.parser(__file__, __doc__)
    parser.add_argument("target", type=Path, metavar="TARGET", help="folder for the files")
    known = tuple(_MADE)
    parser.add_argument("--networks", nargs="+", choices=known, default=known, metavar="N", help=f"of {', '.join(known)}")
    parser.add_argument("--scale", type=int, default=8, help="eighths of the networks' usual sizes (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=50, help="turns they are taken in (default: %(default)s)")
    parser.add_argument("--legacy-python", type=Path, metavar="FILE", help="has TensorFlow 2.15.1 (default: .venv-legacy's)")
    parser.add_argument(
        "--again", action="store_true", help="time an earlier run's files in TARGET again; GPU shares stay as FILE has them"
    )
    script.add_json(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

"""Train the networks at full precision (paper, section 3.4): edges first, then pixel-clone and refine with edges frozen.

    python train/train.py data/faces runs/edge --phase edge
    python train/train.py data/faces runs/fp32 --phase inpaint --edge runs/edge

`--preset paper` is the paper's network and its objective with every coefficient; `--preset mobile` (the default) is what
the compression chain starts from, trained inside the hole with averaged weights. `--teacher runs/paper` distils one from
the other. A killed run goes on with `--resume`, and so does a finished one that is given more `--steps`. Under
`torchrun --nproc-per-node N train/train.py ...` the same command trains on N devices.
"""

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from faceeraser.model import checkpoint, inference, losses, pairs, peers, thin_plate
from faceeraser.model.config import MODELS, PRESETS, VARIANTS, Config
from faceeraser.model.networks import Inpainter
from faceeraser.model.planner import PatchEraser
from faceeraser.system import script, writing
from faceeraser.training import fit


def build_parser() -> argparse.ArgumentParser:
    parser = script.stage_parser(__file__, __doc__, source="DATA")
    parser.add_argument("--phase", choices=fit.PHASES, required=True)
    parser.add_argument("--model", choices=tuple(MODELS), help="faceeraser or a peer (default: faceeraser, or --init's)")
    parser.add_argument(
        "--edge", type=Path, metavar="FOLDER", help="checkpoint whose first network (edges or structure) is used, frozen"
    )
    parser.add_argument("--init", type=Path, metavar="FOLDER", help="checkpoint to take the initial weights from")
    parser.add_argument("--preset", choices=PRESETS, default="mobile")
    parser.add_argument("--variant", choices=VARIANTS, default=VARIANTS[0], help="refine network (Table 1's rows)")
    parser.add_argument("--width", type=int, default=16, help="channels of the first layer; the paper has 64")
    parser.add_argument("--size", type=int, default=256, help="edge length in pixels (default: %(default)s)")
    parser.add_argument(
        "--shrink", type=int, choices=(1, 2, 4),
        help="the networks see the picture at 1/N of its size (default: 2 for mobile, or that of --init)",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=2000, help="training steps (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="pictures per step and process (default: %(default)s)")
    parser.add_argument("--lr", type=float, help="generators' learning rate (default: 1e-4 for paper, 1e-3 for mobile)")
    parser.add_argument("--d-lr", type=float, default=1e-5, help="discriminators' learning rate (default: %(default)s)")
    add_objective(parser)
    parser.add_argument(
        "--edge-l1", type=float, default=0.0, help="weight of plain cross-entropy on the edges, beside eq. 1"
    )
    parser.add_argument("--symmetric", action="store_true", help="keep blank faces mirror-symmetric, as in the paper")
    parser.add_argument("--real", type=float, default=0.0, help="share of whole photographs, with holes in bare skin")
    parser.add_argument(
        "--variety", nargs="*", choices=pairs.TrainingPairs.VARIETY, default=["blanks", "masks"],
        help="what is varied each time a picture is drawn (default: blanks masks)",
    )  # fmt: skip
    parser.add_argument(
        "--without", nargs="+", choices=("edges", "fill", "residual", "halving"), default=[],
        help="leave out a part of the mobile preset, to see what it contributes",
    )  # fmt: skip
    parser.add_argument(
        "--norm",
        choices=("instance", "batch"),
        help="default: instance for paper, batch for mobile",
    )
    parser.add_argument("--separable", action="store_true", help="use depthwise and 1 x 1 convolutions instead of full ones")
    parser.add_argument("--blocks", type=int, help="residual blocks of the edge and clone networks (default: 8)")
    parser.add_argument(
        "--half-weights", action="store_true", help="store the weights in half precision, to save half the bytes"
    )
    parser.add_argument("--teacher", type=Path, help="checkpoint to distil from")
    parser.add_argument("--distil", type=float, default=1.0, help="weight of the teacher (default: %(default)s)")
    parser.add_argument(
        "--average", type=float, help="decay of the averaged weights (default: 0 for paper, 0.998 for mobile)"
    )
    parser.add_argument("--schedule", choices=("constant", "cosine"), help="default: constant for paper, cosine for mobile")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--critic-width", type=int, default=64, help="channels of the discriminators (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="use only this many blanks and masks")
    parser.add_argument("--workers", type=int, help="number of loading processes (default: 0 on a CPU, 8 on a GPU)")
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS", help="default: %(default)s")
    parser.add_argument("--resume", action="store_true", help="continue a killed run, or train a finished one further")
    return parser


def add_objective(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--adversarial", type=float, help="coefficient of the adversarial term (default: the paper's)")
    parser.add_argument("--l1", type=float, default=fit.Recipe.l1)
    parser.add_argument("--clone", type=float, default=fit.Recipe.clone, help="coefficient of the pixel-clone term")
    parser.add_argument("--style", type=float, default=fit.Recipe.style)
    parser.add_argument("--shading", type=float, default=0.0, help="coefficient of L1 on blurred pictures, for colour alone")
    parser.add_argument(
        "--texture", type=float, default=0.0, help="coefficient of Gram matrices inside the hole (needs --perceptual)"
    )
    parser.add_argument(
        "--landing", type=float, default=0.0, help="coefficient of the distance from where the flow lands to bare skin"
    )
    parser.add_argument(
        "--coherence",
        type=float,
        default=0.0,
        help="coefficient of the flow's slope, which makes copies shifts instead of stripes",
    )
    parser.add_argument(
        "--middle", choices=tuple(thin_plate.MIDDLES),
        help="what a network that plans is taught in the middle of whole photographs, where nobody knows the truth: a "
        "brighter thin plate over the skin around it, or a membrane, to begin with (default: plate)",
    )  # fmt: skip
    parser.add_argument("--perceptual-weight", type=float, default=fit.Recipe.perceptual)
    parser.add_argument(
        "--perceptual", choices=losses.FEATURE_NETWORKS, default="vgg",
        help="network of the perceptual and style terms (default: %(default)s, the paper's; needs its weights)",
    )  # fmt: skip
    parser.add_argument("--vgg", type=Path, metavar="FILE", help="the weights of VGG-19 for offline use, or of vgg16x")


def recipe_of(args: argparse.Namespace) -> fit.Recipe:
    """The recipe: the paper's for --preset paper; the mobile preset differs where a line here says so, and of a model that
    plans all terms are its own but those that are asked for.
    """
    mobile = args.preset == "mobile"
    if args.model == "patches":
        usual, none = build_parser().get_default, {"perceptual": "off", "l1": 0.0, "clone": 0.0, "adversarial": 0.0}
        args = argparse.Namespace(**{**vars(args), **{k: v for k, v in none.items() if getattr(args, k) == usual(k)}})
    recipe = fit.Recipe(
        phase=args.phase, steps=args.steps, batch=args.batch, d_lr=args.d_lr, adversarial=args.adversarial, l1=args.l1,
        clone=args.clone, shading=args.shading, texture=args.texture, landing=args.landing,
        coherence=args.coherence, style=args.style, perceptual=args.perceptual_weight, features=args.perceptual,
        edge_l1=args.edge_l1, distil=args.distil if args.teacher else 0.0, precision=args.precision, seed=args.seed,
        save_every=args.save_every, workers=args.workers if args.workers is not None else 8 * torch.cuda.is_available(),
    )  # fmt: skip
    return replace(
        recipe,
        lr=args.lr or (1e-3 if mobile else recipe.lr),
        beta1=0.9 if mobile else recipe.beta1,
        beta2=0.999 if mobile else recipe.beta2,
        region="hole" if mobile else "image",
        average=(0.998 if mobile else 0.0) if args.average is None else args.average,
        schedule=args.schedule or ("cosine" if mobile else "constant"),
    )


def resolution_of(model: str, size: int) -> int:
    """What a network takes that is trained at a size: one that plans sees 128 pixels of any picture, and takes more."""
    return max(256, size) if model == "patches" else size


def network_of(args: argparse.Namespace) -> Inpainter:
    """A fresh pipeline, or the one of --init; with the first network of --edge."""
    model = args.model or "faceeraser"
    if args.init:
        pipeline = checkpoint.load(args.init)
        if args.model not in (None, pipeline.config.model):
            raise ValueError(f"--init {args.init} is of the model {pipeline.config.model}, --model says {args.model}")
        shrink = pipeline.config.shrink if args.shrink is None else args.shrink
        pipeline.config = replace(pipeline.config, resolution=resolution_of(pipeline.config.model, args.size), shrink=shrink)
        return pipeline
    torch.manual_seed(args.seed)
    parts = {"edges": ("guided", False), "fill": ("fill", False), "residual": ("residual", False), "halving": ("halved", ())}
    left_out: dict[str, Any] = {**dict(parts[name] for name in args.without), "separable": args.separable}
    if args.blocks is not None:
        if args.blocks < 0:
            raise ValueError(f"--blocks {args.blocks}: expected a number of residual blocks, 0 or more")
        if not MODELS[model]:
            raise ValueError(f"--blocks {args.blocks}: {model} has no residual blocks; leave it out")
        left_out["blocks"] = dict.fromkeys(MODELS[model], args.blocks)
    if args.shrink is not None:
        left_out["shrink"] = args.shrink
    if args.norm is not None:
        left_out["norm"] = args.norm
    if model != "faceeraser" and (args.variant != VARIANTS[0] or {"edges", "residual", "halving"} & set(args.without)):
        raise ValueError(f"--variant and --without are for FaceEraser's parts; {model} has no such parts")
    resolution = resolution_of(model, args.size)
    config = Config.of(args.preset, model=model, variant=args.variant, resolution=resolution, **left_out)
    pipeline = peers.build(config, args.width)
    if args.edge:
        trained = checkpoint.load(args.edge)
        if trained.config.preset != args.preset:
            raise ValueError(f"{args.edge}: its preset is {trained.config.preset}, expected {args.preset} as asked")
        if trained.config.norm != config.norm:
            raise ValueError(
                f"{args.edge}: its norms are {trained.config.norm}, here they are {config.norm}; give the same --norm"
            )
        if trained.config.separable != config.separable:
            raise ValueError(
                f"{args.edge}: only one of the two has separable convolutions; train the edges with the same option"
            )
        first = pipeline.first
        if first is None:
            raise ValueError(f"--edge {args.edge}: {model} has no first network; leave it out")
        if first != trained.first:
            raise ValueError(f"{args.edge}: {trained.config.model} has no {first} network, which {model} is to take")
        setattr(pipeline, first, trained.get_submodule(first))
        blocks = {**config.blocks, first: trained.config.blocks[first]}
        halved = [*[name for name in config.halved if name != "edge"], *[n for n in trained.config.halved if n == "edge"]]
        pipeline.config = replace(config, blocks=blocks, halved=tuple(halved))
    return pipeline


def set_middle(pipeline: Inpainter, middle: str | None) -> None:
    """What a network that plans is taught in the middle of real faces, by its name."""
    if isinstance(pipeline, PatchEraser):
        pipeline.middle = thin_plate.MIDDLES[middle or "plate"]
    elif middle:
        raise ValueError(f"--middle {middle}: {pipeline.config.model} does not plan; leave it out, or add --model patches")


def run(args: argparse.Namespace) -> None:
    pipeline = network_of(args)
    if args.phase == "inpaint" and pipeline.first and not (args.edge or args.init):
        first = "the edges" if pipeline.first == "edge" else "the structure network"
        raise ValueError(
            f"--phase inpaint needs {first} of phase 1: --edge FOLDER (train.py ... --phase {pipeline.first} makes it)"
        )
    set_middle(pipeline, args.middle)
    unit = 128 if pipeline.config.model == "patches" else 32 * pipeline.config.shrink
    if args.size % unit:
        why = "128 pixels are seen of any picture" if unit == 128 else "the refine network halves five times"
        raise ValueError(f"--size {args.size}: expected a multiple of {unit}, as {why}")
    described = pairs.data_of(args.source)
    recipe = recipe_of(args)
    teacher = checkpoint.load(args.teacher) if args.teacher else None
    critics = fit.discriminators(args.critic_width) if recipe.adversarial_weight() > 0 else None
    data = pairs.TrainingPairs(args.source, args.size, args.seed, args.symmetric, args.limit, args.real, args.variety)
    look = pairs.evaluation_pairs(args.source, "tune", args.size, 24)
    with writing.whole_folder(args.target, args.overwrite, args.resume) as folder:
        result = fit.fit(
            pipeline, data, recipe, folder, fit.Beside(critics, teacher, args.vgg), resume=args.resume, look=look[:4],
            title=f"train {args.phase}",
        )  # fmt: skip
        pipeline.cpu()
        if args.half_weights:  # before anything is measured: what is measured is what is stored
            pipeline.half().float()
        figures = inference.measure(pipeline, look)
        checkpoint.save(
            folder, pipeline, stage=f"train-{args.phase}", parent=args.init or args.edge, data=described,
            options={
                **asdict(recipe), "width": args.width, "size": args.size, "symmetric": args.symmetric, "real": args.real,
                "variety": args.variety, **({"middle": args.middle} if args.middle else {}),
            },
            metrics={**result, **figures}, half=args.half_weights,
        )  # fmt: skip
        checkpoint.save_beside(folder, inference.sample_sheet(pipeline, look), critics)
    source = described["source"]
    summary = {"target": str(args.target), "data": described["name"], "source": source, **result, **figures}
    script.finish(f"{args.target} (on a slice of train; data: {source})", [{"name": args.target.name, **figures}], summary)


def main(argv: list[str] | None = None) -> int:
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

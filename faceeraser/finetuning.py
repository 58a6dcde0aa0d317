"""What the stages under compress/ share: a network that is fine-tuned for what it was trained for, with a teacher."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faceeraser import artifact, checkpoint, script
from faceeraser.fit import Beside, Recipe, calibrate, fit
from faceeraser.history import read_history
from faceeraser.inference import measure, sample_sheet
from faceeraser.networks import Inpainter
from faceeraser.pairs import TrainingPairs, describe, evaluation_pairs


def add_fine_tuning(made: ArgumentParser, steps: int, lr: float) -> None:
    """The flags of a stage that fine-tunes: data, length, rate, teacher."""
    made.add_argument("--data", type=Path, required=True, help="folder made by train/prepare.py")
    made.add_argument("--steps", type=int, default=steps, help="fine-tuning steps in all (default: %(default)s)")
    made.add_argument("--batch", type=int, default=8, help="pictures in a step and process (default: %(default)s)")
    made.add_argument("--lr", type=float, default=lr, help="learning rate (default: %(default)s)")
    made.add_argument("--teacher", type=Path, help="checkpoint whose edges, flow and pictures are distilled")
    made.add_argument("--distil", type=float, default=1.0, help="weight of the teacher (default: %(default)s)")
    made.add_argument(
        "--distil-features", type=float, default=0.0, metavar="SHARE",
        help="weight of where the teacher's features are strong, as a share of --distil (default: %(default)s)",
    )  # fmt: skip
    made.add_argument("--online", action="store_true", help="the teacher goes on training beside its student")
    made.add_argument("--vgg", type=Path, metavar="FILE", help="VGG-19's state dict, where there is no network")
    made.add_argument(
        "--size", type=int,
        help="train on pictures of this edge length, of which the networks see what they see at their own "
        "(default: the network's resolution; half of it costs a third)",
    )  # fmt: skip
    made.add_argument("--limit", type=int, help="use only so many blanks and masks")
    made.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    made.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto",
        help="bf16 trains faster where the hardware has it, which auto finds out (default: %(default)s)",
    )  # fmt: skip


class FineTuning:
    """What a stage that fine-tunes works on: SOURCE's network, its pairs, its teacher, and the recipe of its rounds.

    `source` is the network that was loaded; the methods take the one to work on, which may be that, or made from it.

    A network is fine-tuned for what it was trained for: the coefficients and the choice of pictures are those of the last
    training in its history, less the adversarial term, which a student learns from its teacher.

    Raises:
        ValueError: the source is not a checkpoint or is quantized already, or the data is not prepared.
    """

    OBJECTIVE = ("l1", "clone", "shading", "texture", "landing", "coherence", "perceptual", "style", "features")

    def __init__(self, args: Namespace):
        self.args = args
        self.source = checkpoint.load(args.source)
        if self.source.config.quantized:
            raise ValueError(f"{args.source} is quantized already; start from the network it was made from")
        self.described = describe(args.data)
        trainings = [entry["options"] for entry in read_history(args.source) if entry["stage"].startswith("train-")]
        self.objective = trainings[-1] if trainings else {}
        self.teacher = self._teacher() if args.teacher else None
        size = args.size or self.source.config.resolution
        # Photographs are for the shipped network; generated skin, say, has none and goes on without.
        real = self.objective.get("real", 0.0) if self.described["n"]["train"].get("faces") else 0.0
        self.data = TrainingPairs(args.data, size, args.seed, limit=args.limit, real=real)
        self.look = evaluation_pairs(args.data, "tune", self.source.config.resolution, 24)

    def _teacher(self) -> Inpainter:
        """--teacher, once it is known that this network can learn from it."""
        args, own = self.args, self.source.config
        if args.teacher.is_file():
            raise ValueError(f"--teacher {args.teacher}: found a file, expected a checkpoint folder such as runs/fp32")
        teacher = checkpoint.load(args.teacher)
        if teacher.config.quantized:
            raise ValueError(f"--teacher {args.teacher} is quantized; expected the float network it was made from")
        if args.distil_features and own.model != "faceeraser":
            raise ValueError(f"--distil-features {args.distil_features}: only FaceEraser's can be, not {own.model}'s")
        kinds = [(config.model, config.fill, config.residual) for config in (teacher.config, own)]
        if kinds[0] != kinds[1]:
            found, expected = (f"{config.model}, preset {config.preset}" for config in (teacher.config, own))
            raise ValueError(
                f"--teacher {args.teacher} is of another kind, {found} where this network is {expected}: its flow and "
                "pictures mean something else; expected the network that this one was made from"
            )
        return teacher

    def fit(self, network: Inpainter, folder: Path, title: str, **changes: Any) -> dict[str, Any]:
        """Train a network in place, as the flags say but for `changes` of the recipe, and return what `fit.fit` returns;
        `folder` keeps no state.
        """
        args = self.args
        fields: dict[str, Any] = {
            "phase": "all", "steps": args.steps, "batch": args.batch, "lr": args.lr, "adversarial": 0.0, "edge_l1": 0.1,
            "beta1": 0.9, "beta2": 0.999, "region": "hole", "distil": args.distil if self.teacher else 0.0,
            "distil_features": args.distil_features, "online": args.online,
            # Only the end is kept: a stage that was broken off is done again.
            "save_every": max(1, args.steps),
            "schedule": "cosine", "seed": args.seed, "precision": args.precision,
            **{name: self.objective[name] for name in self.OBJECTIVE if name in self.objective},
        }  # fmt: skip
        recipe = Recipe(**{**fields, **changes})
        beside = Beside(teacher=self.as_trained(self.teacher) if self.teacher else None, vgg=args.vgg)
        result = fit(self.as_trained(network), self.data, recipe, folder, beside, title=title)
        network.cpu()
        (folder / "state.pt").unlink(missing_ok=True)
        return result

    def calibrate(self, network: Inpainter, pictures: int) -> None:
        """Choose a freshly prepared network's activation scales from the first `pictures` training pairs."""
        calibrate(self.as_trained(network), self.data, pictures)

    def as_trained(self, network: Inpainter) -> Inpainter:
        """The same layers and weights, which are shown of a picture of --size what they are shown of one at their own
        resolution: at half of it nothing is shrunk, where else two pixels become one. Trained on half of that, they learn
        another task.
        """
        return network.seeing(max(1, network.config.shrink * self.data.size // network.config.resolution))

    def measure(self, network: Inpainter) -> dict[str, Any]:
        """`inference.measure` of a network, on a slice of train."""
        return measure(network, self.look)

    def save(
        self, folder: Path, network: Inpainter, stage: str, options: Mapping[str, Any], metrics: Mapping[str, Any],
        **extra: Any,
    ) -> None:  # fmt: skip
        """Write a network with this stage in its history; `options` are the stage's own."""
        args = self.args
        told = {
            "steps": args.steps, "lr": args.lr, "teacher": artifact.portable(args.teacher) if args.teacher else None,
            "distil": args.distil, "distil_features": args.distil_features, "online": args.online, "seed": args.seed,
            "size": self.data.size,
        }  # fmt: skip
        checkpoint.save(
            folder, network, stage=stage, parent=args.source, data=self.described, options={**told, **options},
            metrics=metrics, samples=sample_sheet(network, self.look), extra=extra,
        )  # fmt: skip

    def finish(self, rows: Mapping[str, Mapping[str, Any] | None], about: str = "", **summary: Any) -> None:
        """The stage's closing table, a row for each of its states, and its JSON line."""
        args, source = self.args, self.described["source"]
        title = f"{args.source} -> {args.target} ({about}on a slice of train; data: {source})"
        shown = [{"name": name, **row} for name, row in rows.items() if row]
        script.finish(title, shown, {"target": str(args.target), "source": source, **summary})

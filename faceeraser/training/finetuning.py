"""What the stages under compress/ share: fine-tuning a network for the objective it was trained for, with a teacher."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceeraser.measurement import results
from faceeraser.model import checkpoint
from faceeraser.model.inference import measure, sample_sheet
from faceeraser.model.networks import Inpainter
from faceeraser.model.pairs import TrainingPairs, data_of, evaluation_pairs
from faceeraser.system.history import read_history
from faceeraser.training.fit import Beside, Recipe, calibrate, fit


@dataclass(kw_only=True)
class Tuning:
    """Options of every step that fine-tunes: the data, the length, the teacher."""

    data: str | Path
    """A folder made by train/prepare.py."""
    steps: int = 400
    """Fine-tuning steps in all."""
    batch: int = 8
    """Pictures per step and process."""
    lr: float = 5e-4
    """Learning rate."""
    teacher: str | Path | None = None
    """A checkpoint whose edges, flow and pictures the network learns from."""
    distil: float = 1.0
    """Weight of the teacher."""
    distil_features: float = 0.0
    """Weight of the places where the teacher's features are strong, as a share of `distil`."""
    online: bool = False
    """Keep training the teacher along with its student."""
    vgg: str | Path | None = None
    """VGG-19's state dict, for offline use."""
    size: int | None = None
    """Train on pictures of this edge length, shown to the networks with the same content as at their own. None is the
    network's resolution; half of it costs a third.
    """
    limit: int | None = None
    """Use only this many blanks and masks."""
    seed: int = 0
    """Seed of the pairs and of torch's random numbers."""
    precision: str = "auto"
    """'fp32', 'bf16' or 'auto': bf16 trains faster on hardware that supports it, which auto detects."""


def add_tuning(parser: ArgumentParser, defaults: type[Tuning], any_network: bool = False) -> None:
    """The flags of a stage that fine-tunes, one for each field of `Tuning`. any_network: with --module, for a network that
    brings its own data.
    """
    if any_network:
        parser.add_argument("--module", action="store_true", help="SOURCE is your own network: FILE.py, or its folder")
    parser.add_argument("--data", type=Path, required=not any_network, help="folder made by train/prepare.py")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="fine-tuning steps in all (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="pictures per step and process (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=defaults.lr, help="learning rate (default: %(default)s)")
    parser.add_argument("--teacher", type=Path, help="checkpoint whose edges, flow and pictures the network learns from")
    parser.add_argument("--distil", type=float, default=1.0, help="weight of the teacher (default: %(default)s)")
    parser.add_argument(
        "--distil-features",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="weight of the term for where the teacher's features are strong, as a share of --distil (default: %(default)s)",
    )
    parser.add_argument("--online", action="store_true", help="keep training the teacher together with its student")
    parser.add_argument("--vgg", type=Path, metavar="FILE", help="file with VGG-19's state dict, for offline use")
    parser.add_argument(
        "--size",
        type=int,
        help="train on pictures of this edge length, shown to the networks with the same content as at their own "
        "(default: the network's resolution; half of it costs a third)",
    )
    parser.add_argument("--limit", type=int, help="use only this many blanks and masks")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="bf16 trains faster on hardware that supports it, which auto detects (default: %(default)s)",
    )


def need_data(args: Namespace) -> None:
    """Raises ValueError when --data is missing, which only the stages for face erasers need."""
    if args.data is None:
        raise ValueError("--data is missing: expected the folder that train/prepare.py made")


class FineTuning:
    """What a stage that fine-tunes works on: SOURCE's network, its pairs, its teacher, and the recipe of its rounds.

    `source` is the network that was loaded; the methods take the one to work on, which may be that, or made from it.

    A network is fine-tuned for the objective it was trained for: the coefficients and the choice of pictures come from the
    last training in its history, without the adversarial term, which a student learns from its teacher.

    Raises:
        ValueError: the source is not a checkpoint or is already quantized, or the data is not prepared.
    """

    OBJECTIVE = ("l1", "clone", "shading", "texture", "landing", "coherence", "perceptual", "style", "features")

    def __init__(self, source: str | Path, options: Tuning):
        self.path, self.options = Path(source), options
        self.source = checkpoint.load(source)
        if self.source.config.quantized:
            raise ValueError(f"{source} is quantized already; start from the network it was made from")
        data = Path(options.data)
        self.described = data_of(data)
        trainings = [entry["options"] for entry in read_history(self.path) if entry["stage"].startswith("train-")]
        self.objective = trainings[-1] if trainings else {}
        self.teacher = self._teacher(Path(options.teacher)) if options.teacher else None
        size = options.size or self.source.config.resolution
        # Photographs are for the shipped network; generated skin, say, has none and goes on without.
        real = self.objective.get("real", 0.0) if self.described["n"]["train"].get("faces") else 0.0
        self.data = TrainingPairs(data, size, options.seed, limit=options.limit, real=real)
        self.look = evaluation_pairs(data, "tune", self.source.config.resolution, 24)

    def _teacher(self, path: Path) -> Inpainter:
        """The teacher, once it is known that this network can learn from it."""
        options, own = self.options, self.source.config
        if path.is_file():
            raise ValueError(f"--teacher {path}: found a file, expected a checkpoint folder such as runs/fp32")
        teacher = checkpoint.load(path)
        if teacher.config.quantized:
            raise ValueError(f"--teacher {path} is quantized; expected the float network it was made from")
        if options.distil_features and own.model != "faceeraser":
            raise ValueError(f"--distil-features {options.distil_features}: only FaceEraser's can be, not {own.model}'s")
        kinds = [(config.model, config.fill, config.residual) for config in (teacher.config, own)]
        if kinds[0] != kinds[1]:
            given, expected = (f"{config.model}, preset {config.preset}" for config in (teacher.config, own))
            raise ValueError(
                f"--teacher {path} is {given}, but this network is {expected}: its flow and "
                "pictures have another meaning; expected the network that this one was made from"
            )
        return teacher

    def fit(self, network: Inpainter, folder: Path, title: str, **changes: Any) -> dict[str, Any]:
        """Train a network in place, as the options say but for `changes` of the recipe, and return what `fit.fit` returns;
        `folder` keeps no state.
        """
        args = self.options
        fields: dict[str, Any] = {
            "phase": "all",
            "steps": args.steps,
            "batch": args.batch,
            "lr": args.lr,
            "adversarial": 0.0,
            "edge_l1": 0.1,
            "beta1": 0.9,
            "beta2": 0.999,
            "region": "hole",
            "distil": args.distil if self.teacher else 0.0,
            "distil_features": args.distil_features,
            "online": args.online,
            # Only the end is kept: a stage that was broken off is done again.
            "save_every": max(1, args.steps),
            "schedule": "cosine",
            "seed": args.seed,
            "precision": args.precision,
            **{name: self.objective[name] for name in self.OBJECTIVE if name in self.objective},
        }
        recipe = Recipe(**{**fields, **changes})
        teacher = self.as_trained(self.teacher) if self.teacher else None
        beside = Beside(teacher=teacher, vgg=Path(args.vgg) if args.vgg else None)
        result = fit(self.as_trained(network), self.data, recipe, folder, beside, title=title)
        network.cpu()
        (folder / "state.pt").unlink(missing_ok=True)
        return result

    def calibrate(self, network: Inpainter, pictures: int) -> None:
        """Choose a freshly prepared network's activation scales from the first `pictures` training pairs."""
        calibrate(self.as_trained(network), self.data, pictures)

    def as_trained(self, network: Inpainter) -> Inpainter:
        """The same layers and weights, shown the same content of a picture of --size as at their own resolution: at half of
        it nothing is shrunk, where two pixels otherwise become one. If they saw half of that again, they would learn
        another task.
        """
        return network.seeing(max(1, network.config.shrink * self.data.size // network.config.resolution))

    def measure(self, network: Inpainter) -> dict[str, Any]:
        """`inference.measure` of a network, on a slice of train."""
        return measure(network, self.look)

    def save(
        self,
        folder: Path,
        network: Inpainter,
        stage: str,
        options: Mapping[str, Any],
        metrics: Mapping[str, Any],
        **extra: Any,
    ) -> None:
        """Write a network with this stage in its history; `options` are the stage's own."""
        own = self.options
        shared = {
            "steps": own.steps,
            "lr": own.lr,
            "teacher": results.portable(Path(own.teacher)) if own.teacher else None,
            "distil": own.distil,
            "distil_features": own.distil_features,
            "online": own.online,
            "seed": own.seed,
            "size": self.data.size,
        }
        checkpoint.save(
            folder,
            network,
            stage=stage,
            parent=self.path,
            data=self.described,
            options={**shared, **options},
            metrics=metrics,
            **extra,
        )
        checkpoint.save_beside(folder, sample_sheet(network, self.look))

    def outcome(
        self, target: str | Path, states: Mapping[str, Mapping[str, Any] | None], about: str = "", **summary: Any
    ) -> Outcome:
        """The result of the stage, from the figures of its states, {name: those of `measure`}."""
        source = self.described["source"]
        title = f"{self.path} -> {target} ({about}on a slice of train; data: {source})"
        rows = [{"name": name, **row} for name, row in states.items() if row]
        return Outcome(title, rows, {"target": str(target), "source": source, **summary})


@dataclass(frozen=True)
class Outcome:
    """The result of a step.

    Attributes:
        title: one line over the table.
        rows: name, size and figures of the network before, in between and after.
        summary: for programs: target, source of the data, before, after, and the stage's own.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]

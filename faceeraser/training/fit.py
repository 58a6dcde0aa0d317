"""The one training loop. Adversarial training, distillation, sparsity and quantization-aware training are options of it.

A run is a function of its recipe: pair k of a seed is always the same pair, the optimizers' state and the averaged
weights are saved with the step, so a run that was killed and resumed ends with the weights of an unbroken one. Under
`torchrun` every process takes its own pairs of each batch and gradients are averaged over the process group, so N
processes with batch B train as one with batch N x B (processes.py).
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
import types
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from faceeraser.artifacts.edges import canny_tensor
from faceeraser.model import losses, quant
from faceeraser.model.checkpoint import read_state, write_state
from faceeraser.model.inference import sample_sheet
from faceeraser.model.networks import Inpainter, PatchDiscriminator, gray, norm_scales
from faceeraser.model.pairs import Pair
from faceeraser.training import processes

PHASES = ("edge", "structure", "inpaint", "all")


class Numbered(Protocol):
    """Training data: item k is (truth, mask, target, skin, sharp), as in `pairs.TrainingPairs`."""

    def __getitem__(self, k: int, /) -> tuple[Tensor, ...]: ...

    def __len__(self) -> int: ...


@dataclass
class Recipe:
    """Options of a training run. The defaults are the paper's (sections 3.4 and 4.1)."""

    phase: str = "inpaint"
    """'edge' trains G_edge; 'inpaint' G_pc and G_ref with the edges frozen; 'all' everything (fine-tuning). The `PHASES` of
    the peers define what these train there, and StructureFlow's 'structure'.
    """
    steps: int = 1000
    """Total number of steps; a resumed run continues to this number."""
    batch: int = 8
    """Pictures per step and process."""
    lr: float = 1e-4
    """Adam's learning rate for the generators (and for a teacher that keeps training), before the schedule."""
    d_lr: float = 1e-5
    """The same for the discriminators."""
    beta1: float = 0.0
    """Adam's decay of the mean of the gradients."""
    beta2: float = 0.9
    """Adam's decay of the mean of their squares."""
    adversarial: float | None = None
    """Coefficient of the adversarial term (equations 1 and 4); None is the paper's for the phase."""
    feature_matching: float = losses.EDGE_COEFFICIENTS["feature_matching"]
    """Coefficient of the feature-matching term of phase 'edge' (equation 1)."""
    perceptual: float = losses.INPAINT_COEFFICIENTS["perceptual"]
    """Coefficient of the perceptual term (equations 4 and 6)."""
    l1: float = losses.INPAINT_COEFFICIENTS["l1"]
    """Coefficient of the L1 term (equations 4 and 8)."""
    style: float = losses.INPAINT_COEFFICIENTS["style"]
    """Coefficient of the style term (equations 4 and 7)."""
    clone: float = losses.INPAINT_COEFFICIENTS["clone"]
    """Coefficient of the pixel-clone term (equations 4 and 9)."""
    shading: float = 0.0
    """Coefficient of `losses.shading_loss`: colour, not detail. This and the next three are the mobile preset's own."""
    texture: float = 0.0
    """Coefficient of `losses.texture_loss`; needs `features`."""
    landing: float = 0.0
    """Coefficient of `losses.landing_loss`: copies come from visible bare skin."""
    coherence: float = 0.0
    """Coefficient of `losses.coherence_loss`: copies are shifts, not stripes."""
    edge_l1: float = 0.0
    """Weight of a plain cross-entropy on the edge map, for training it without a discriminator or beside one."""
    region: str = "image"
    """Where L1 terms are taken: over the whole 'image' (the paper), or on the composite inside the 'hole' only."""
    features: str = "vgg"
    """Network of the perceptual, style and texture terms: one of `losses.FEATURE_NETWORKS`."""
    distil: float = 0.0
    """Weight of the teacher's edges, flow and erased pictures; 0 leaves them out."""
    distil_features: float = 0.0
    """Weight of where the teacher's features are strong (`losses.attention_loss`), as a share of `distil`."""
    online: bool = False
    """Whether the teacher keeps training beside its student, on the same pictures with the same objective."""
    sparsity: float = 0.0
    """L1 weight on the norms' scale factors (network slimming, Liu et al. 2017)."""
    average: float = 0.0
    """Decay of the averaged weights that are kept at the end; 0 keeps the last weights."""
    schedule: str = "constant"
    """Schedule of the learning rates: 'constant' (the paper), or 'cosine' with a short warm-up, down to a hundredth."""
    precision: str = "auto"
    """'fp32', 'bf16' or 'auto': bf16 autocast where the hardware has it."""
    seed: int = 0
    """Seed of torch's random numbers. The pairs have their own."""
    save_every: int = 100
    """Steps between two resume states and sample sheets."""
    workers: int = 0
    """Processes that load pairs; 0 loads them in this one."""

    def looks_at_pictures(self) -> bool:
        """Whether any term is taken on what was painted; else only a model's own are."""
        own = (self.l1, self.clone, self.shading, self.landing, self.coherence, self.adversarial_weight())
        return any(own) or (self.features != "off" and any((self.perceptual, self.style, self.texture)))

    def adversarial_weight(self) -> float:
        """The coefficient of the adversarial term: the recipe's, or the paper's for the phase."""
        if self.adversarial is not None:
            return self.adversarial
        return (losses.EDGE_COEFFICIENTS if self.phase == "edge" else losses.INPAINT_COEFFICIENTS)["adversarial"]


@dataclass(frozen=True)
class Beside:
    """What accompanies a network while it trains."""

    critics: nn.ModuleDict | None = None
    """The discriminators (`discriminators`), trained with it if the adversarial weight is not 0."""
    teacher: Inpainter | None = None
    """A network of the same model to learn from, if `Recipe.distil` is not 0."""
    vgg: Path | None = None
    """VGG-19's weights, for offline use."""


def has_bfloat16(device: torch.device) -> bool:
    """Whether bf16 arithmetic is native (a GPU's tensor cores, a CPU's AMX or AVX-512), not emulated and slow."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.backends.cpu.get_cpu_capability() if hasattr(torch.backends, "cpu") else ""
    if "AVX512" not in capabilities:
        return False
    with contextlib.suppress(OSError):
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    return False


def discriminators(width: int = 64) -> nn.ModuleDict:
    """The two discriminators of section 3.3, fresh: 'edge' sees (edges, gray), 'inpaint' (picture, edges_hat), or the mask
    beside the picture of a model that has no edges.
    """
    return nn.ModuleDict({"edge": PatchDiscriminator(2, width), "inpaint": PatchDiscriminator(4, width)})


def _rate(recipe: Recipe, step: int) -> float:
    """The factor on the learning rate at a step."""
    if recipe.schedule == "constant":
        return 1.0
    warm = max(1, min(100, recipe.steps // 5))
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, recipe.steps - warm)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


class _Adam:
    """Adam with the run's schedule, on gradients that are averaged over the processes.

    shares: {id(parameter): share of the rate}, for parameters that do not get all of it.
    """

    def __init__(
        self, parameters: list[nn.Parameter], lr: float, recipe: Recipe, world: int, shares: dict[int, float] | None = None
    ):
        self.parameters, self.world = parameters, world
        share = {id(p): (shares or {}).get(id(p), 1.0) for p in parameters}
        groups = [
            {"params": [p for p in parameters if share[id(p)] == s], "lr": lr * s} for s in sorted(set(share.values()))
        ]
        self.rates = [lr * s for s in sorted(set(share.values()))]
        self.adam = torch.optim.Adam(groups, lr=lr, betas=(recipe.beta1, recipe.beta2))
        self.recipe = recipe
        self.begin(0)

    def begin(self, step: int, state: dict[str, Any] | None = None) -> None:
        """Start, or go on from a saved state, at a step. The rates are this recipe's, whatever the state's were."""
        if state is not None:
            self.adam.load_state_dict(state)
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["initial_lr"] = rate
        self.schedule = LambdaLR(self.adam, partial(_rate, self.recipe), last_epoch=step - 1)

    def step(self, loss: Tensor) -> None:
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        processes.average_gradients(self.parameters, self.world)
        self.adam.step()
        self.schedule.step()


def _shares(pipeline: Inpainter, recipe: Recipe) -> dict[int, float]:
    """The shares of the rate, by parameter, that are not 1. Adam's step is the rate itself, whatever the gradient, so
    quantization scales, about 0.005, need a smaller one than weights, and norm scales, about 1, a larger one to be driven
    to zero within a short sparsity run.
    """
    shares = {id(scale): 0.01 for _, scale, _ in quant.quantized_tensors(pipeline)}
    return shares | ({id(scale): 5.0 for scale in norm_scales(pipeline)} if recipe.sparsity else {})


def _averaging(pipeline: Inpainter, most: float) -> AveragedModel:
    """The moving average of a network's weights and statistics, which starts as they are and counts them as one of n: while
    n is small, the decay is n / (9 + n), then `most`.
    """

    def move(averaged: Any, current: Any, n: Any) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - min(most, int(n) / (9 + int(n))))
        else:
            torch._foreach_copy_(averaged, current)

    averaged = AveragedModel(pipeline, multi_avg_fn=move, use_buffers=True)
    averaged.n_averaged.fill_(1)
    return averaged


class _Terms:
    """The weighted sum of loss terms, and each term's running mean for the log."""

    def __init__(self) -> None:
        self.total: Any = 0.0
        self.values: dict[str, Tensor] = {}

    def add(self, name: str, weight: float, value: Tensor) -> None:
        self.total = self.total + weight * value
        self.values[name] = value.detach()


def _told_apart(pipeline: Inpainter) -> list[nn.Module]:
    """The layers whose features are distilled: those that end a stage of one of the three networks, in order."""
    layers: list[nn.Module] = []
    for body in (pipeline.edge, pipeline.clone):
        layers += [body.down[-1], body.blocks[-1] if len(body.blocks) else body.down[-1], body.up[0]]
    return [*layers, *pipeline.refine.down, *pipeline.refine.up]


class _Watched:
    """Keeps what `_told_apart` layers gave in the last forward pass: `maps`, in the order they were run."""

    def __init__(self, pipeline: Inpainter):
        self.maps: list[Tensor] = []
        self.hooks = [layer.register_forward_hook(self._keep) for layer in _told_apart(pipeline)]

    def _keep(self, _module: nn.Module, _given: Any, output: Tensor) -> None:
        self.maps.append(output)

    def taken(self) -> list[Tensor]:
        """The maps since the last call."""
        maps, self.maps = self.maps, []
        return maps

    def remove(self) -> None:
        """Stop watching."""
        for hook in self.hooks:
            hook.remove()


class _Critic:
    """The discriminator of a phase. It sees a picture with the edges, or the mask, beside it; an edge map with the gray."""

    def __init__(self, critics: nn.ModuleDict | None, recipe: Recipe, group: processes.Group):
        if critics is None:
            raise ValueError("an adversarial term needs discriminators; pass --adversarial 0 to train without")
        network = critics["edge" if recipe.phase == "edge" else "inpaint"]
        self.network = network.to(group.device, memory_format=torch.channels_last).train()
        self.optimizer = _Adam(list(self.network.parameters()), recipe.d_lr, recipe, group.world)
        self.recipe = recipe

    def loss(self, picture: Tensor, real: Tensor, beside: Tensor) -> Tensor:
        """Its own, of a real picture and a generated one."""
        score_real, _ = self.network(torch.cat([real, beside], 1))
        score_fake, _ = self.network(torch.cat([picture.detach(), beside], 1))
        with torch.autocast(picture.device.type, enabled=False):
            return losses.discriminator_loss(score_real, score_fake)

    def judge(self, terms: _Terms, picture: Tensor, real: Tensor, beside: Tensor, half: bool) -> None:
        """Add the generator's terms: gradients pass through, and none are kept."""
        self.network.requires_grad_(False)
        with torch.autocast(picture.device.type, torch.bfloat16, enabled=half):
            score, fake_maps = self.network(torch.cat([picture, beside], 1))
            if self.recipe.phase == "edge" and self.recipe.feature_matching:
                with torch.no_grad():
                    _, real_maps = self.network(torch.cat([real, beside], 1))
                matched = losses.feature_matching_loss(fake_maps, real_maps)
                terms.add("feature_matching", self.recipe.feature_matching, matched)
        terms.add("adversarial", self.recipe.adversarial_weight(), losses.generator_loss(score))
        self.network.requires_grad_(True)


class _Teacher:
    """The network that is learnt from, and whose features are watched beside its student's where they are asked for."""

    def __init__(self, network: Inpainter, student: Inpainter, recipe: Recipe, group: processes.Group):
        self.watched = [_Watched(student), _Watched(network)] if recipe.distil_features else []
        network = network.to(group.device, memory_format=torch.channels_last)
        self.network = network.eval().requires_grad_(recipe.online)
        self.recipe, self.student = recipe, student
        self.optimizer = None
        if recipe.online:
            self.optimizer = _Adam(list(network.parameters()), recipe.lr, recipe, group.world)

    def forget(self) -> None:
        """Drop what was watched while no step was made, as when a sample sheet is drawn."""
        for each in self.watched:
            each.taken()

    def outputs(self, truth: Tensor, mask: Tensor, own: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """What it makes of a batch of which the student made `own`; None where that is not asked for."""
        if not self.recipe.distil or self.recipe.phase not in ("inpaint", "all"):
            return None
        same = "edges" in own and self.network.config.shrink == self.student.config.shrink
        with torch.set_grad_enabled(self.recipe.online):
            if same:
                return self.network(truth, mask, own["edges"])
            return self.network(truth, mask) if self.recipe.looks_at_pictures() else self.network.unpainted(truth, mask)

    def teach(self, terms: _Terms, own: dict[str, Tensor], taught: dict[str, Tensor], mask: Tensor) -> None:
        """Add the terms of what it made of a batch."""
        taught = {name: value.detach() for name, value in taught.items()}
        terms.add("distil", self.recipe.distil, losses.distillation_loss(own, taught, mask, self.recipe.phase))
        if self.watched:
            weight = self.recipe.distil * self.recipe.distil_features
            terms.add("distil_features", weight, losses.attention_loss(*(each.taken() for each in self.watched)))

    def leave(self) -> None:
        """Stop watching."""
        for each in self.watched:
            each.remove()


@dataclass(frozen=True)
class _Target:
    """What a batch's outputs are held against; maps (N, 1, H, W), as `pairs.TrainingPairs` tells them."""

    truth: Tensor
    mask: Tensor
    known: Tensor
    skin: Tensor
    sharp: Tensor
    edges: Tensor | None


class _Run:
    """A network in training: its optimizers, and what stands beside it."""

    def __init__(self, pipeline: Inpainter, recipe: Recipe, beside: Beside, group: processes.Group):
        self.pipeline, self.recipe, self.group = pipeline, recipe, group
        # Each term's last values: a run that was killed after its last step still says how it ended.
        self.recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=100))
        device = group.device
        torch.manual_seed(recipe.seed)
        pipeline.to(device, memory_format=torch.channels_last)
        if group.world > 1 and device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(pipeline)
        self.half = recipe.precision == "bf16" or (recipe.precision == "auto" and has_bfloat16(device))
        self.trained = [pipeline.get_submodule(name) for name in pipeline.PHASES[recipe.phase]]
        pipeline.requires_grad_(False)
        for network in self.trained:
            network.requires_grad_(True)
        parameters = [p for p in pipeline.parameters() if p.requires_grad]
        self.optimizer = _Adam(parameters, recipe.lr, recipe, group.world, _shares(pipeline, recipe))
        self.critic = _Critic(beside.critics, recipe, group) if recipe.adversarial_weight() > 0 else None
        self.features: nn.Module | None = None
        if recipe.phase in ("inpaint", "all") and (recipe.perceptual or recipe.style or recipe.texture):
            features = losses.feature_network(recipe.features, beside.vgg)
            self.features = features.to(device) if features is not None else None
        self.averaged = _averaging(pipeline, recipe.average) if recipe.average else None  # before there are hooks to copy
        self.teacher = _Teacher(beside.teacher, pipeline, recipe, group) if beside.teacher is not None else None

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs of this one."""
        return {
            "generators": self.pipeline.state_dict(), "optimizer": self.optimizer.adam.state_dict(),
            "averaged": self.averaged.module.state_dict() if self.averaged else {},
            "critic": self.critic.network.state_dict() if self.critic else {},
            "d_optimizer": self.critic.optimizer.adam.state_dict() if self.critic else {},
            "recent": {name: list(values) for name, values in self.recent.items()},
        }  # fmt: skip

    def resume(self, file: Path) -> tuple[int, float]:
        """Go on from the state in a file: (the step to begin with, the seconds that were spent)."""
        state = read_state(file)
        same = state["recipe"]["phase"] == self.recipe.phase and state["recipe"]["seed"] == self.recipe.seed
        if not same or state["generators"].keys() != self.pipeline.state_dict().keys():
            raise ValueError(f"{file}: of another run (model, phase or seed differ); start again without --resume")
        step: int = state["step"]
        self.pipeline.load_state_dict(state["generators"])
        self.optimizer.begin(step, state["optimizer"])
        if self.critic:
            self.critic.network.load_state_dict(state["critic"])
            self.critic.optimizer.begin(step, state["d_optimizer"])
        if self.averaged:
            self.averaged.module.load_state_dict(state["averaged"])
            self.averaged.n_averaged.fill_(1 + step)
        if self.teacher and self.teacher.optimizer:
            self.teacher.optimizer.begin(step)
        for name, values in state.get("recent", {}).items():
            self.recent[name].extend(values)
        return step, state["seconds"]

    def autocast(self) -> torch.autocast:
        """Half precision, where the run has it."""
        return torch.autocast(self.group.device.type, torch.bfloat16, enabled=self.half)

    def outputs(self, truth: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """(what the phase's networks give, which of it is the result, the truth it is held against)."""
        pipeline, phase = self.pipeline, self.recipe.phase
        if phase == "edge":
            edges, edges_hat = pipeline.complete_edges(truth, mask)
            return {"edges": edges, "edges_hat": edges_hat}, edges_hat, truth
        if phase == "structure":
            outputs = pipeline.complete_structure(truth, mask)
            return outputs, outputs["structure_hat"], outputs["structure_truth"]
        outputs = pipeline(truth, mask) if self.recipe.looks_at_pictures() else pipeline.unpainted(truth, mask)
        return outputs, outputs.get("erased" if self.recipe.region == "hole" else "refined", truth), truth

    def edges_of(self, truth: Tensor) -> tuple[Tensor, Tensor]:
        """(gray, edges) of a truth, as large as the networks see it."""
        with torch.no_grad(), torch.autocast(truth.device.type, enabled=False):
            seen = gray(self.pipeline.shrunk(truth))
            return seen, canny_tensor(seen, torch.zeros_like(seen))

    def step(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """One step on a batch of (truth, mask, target, skin, sharp): every term's value."""
        recipe, phase = self.recipe, self.recipe.phase
        whole, mask, known, skin, sharp = batch
        self.pipeline.eval()
        for network in self.trained:
            network.train(not self.pipeline.config.fused)
        if self.teacher:
            self.teacher.forget()
        terms = _Terms()
        with self.autocast():
            outputs, picture, truth = self.outputs(whole, mask)
            taught = self.teacher.outputs(truth, mask, outputs) if self.teacher else None
            seen = edge_truth = None
            if phase == "edge" or (recipe.edge_l1 and "edges_hat" in outputs):
                seen, edge_truth = self.edges_of(truth)
            if self.critic:
                if phase == "edge" and seen is not None and edge_truth is not None:
                    judged = (picture, edge_truth, seen)
                else:
                    judged = (picture, truth, outputs.get("edges_hat", mask).detach())
                d_loss = self.critic.loss(*judged)
        if self.critic:
            self.critic.optimizer.step(d_loss)
            terms.values["discriminator"] = d_loss.detach()
            self.critic.judge(terms, *judged, self.half)
        target = _Target(truth, mask, known, skin, sharp, edge_truth)
        self.add_objective(terms, self.pipeline, outputs, picture, target)
        if self.teacher and taught is not None:
            if self.teacher.optimizer:
                own = _Terms()
                self.add_objective(own, self.teacher.network, taught, taught.get("erased", truth), target)
                self.teacher.optimizer.step(own.total)
                terms.values["teacher"] = own.total.detach()
            self.teacher.teach(terms, outputs, taught, mask)
        if recipe.sparsity:
            penalty = torch.stack([s.abs().sum() for network in self.trained for s in norm_scales(network)]).sum()
            terms.add("sparsity", recipe.sparsity, penalty)
        if not isinstance(terms.total, Tensor):
            raise ValueError(f"phase {phase!r} has no term to train for: every coefficient is 0")
        self.optimizer.step(terms.total)
        if self.averaged:
            self.averaged.update_parameters(self.pipeline)
        return terms.values

    def add_objective(
        self, terms: _Terms, network: Inpainter, outputs: dict[str, Tensor], picture: Tensor, target: _Target
    ) -> None:
        """Add what the recipe asks of a network's outputs, whose result is `picture`: all but the adversarial and the
        teacher's terms.
        """
        recipe, truth = self.recipe, target.truth
        if recipe.phase != "edge":
            hole = target.known if recipe.region == "hole" else None
            if recipe.l1:
                terms.add("l1", recipe.l1, losses.l1_loss(picture, truth, hole))
            if recipe.phase != "structure":
                for name, value in network.own_terms(outputs, truth, target.mask, target.skin, hole).items():
                    terms.add(name, 1.0, value)
            if recipe.clone and "cloned" in outputs:
                terms.add("clone", recipe.clone, losses.l1_loss(outputs["cloned"], truth, hole))
            if recipe.shading:
                terms.add("shading", recipe.shading, losses.shading_loss(picture, truth, target.known))
            if recipe.landing and "flow" in outputs:
                landing = losses.landing_loss(outputs["flow"], target.mask, 1.0 - target.skin)
                terms.add("landing", recipe.landing, landing)
            if recipe.coherence and "flow" in outputs:
                terms.add("coherence", recipe.coherence, losses.coherence_loss(outputs["flow"], target.mask))
            if self.features is not None:
                self._add_features(terms, self.features, picture, target)
        if recipe.edge_l1 and recipe.phase in ("edge", "all") and target.edges is not None and "edges_hat" in outputs:
            edges = F.interpolate(target.edges, size=outputs["edges_hat"].shape[-2:], mode="nearest")
            terms.add("edge", recipe.edge_l1, F.binary_cross_entropy(outputs["edges_hat"].float(), edges))

    def _add_features(self, terms: _Terms, features: nn.Module, picture: Tensor, target: _Target) -> None:
        recipe = self.recipe
        with self.autocast():
            fake_maps, real_maps = features(picture), features(target.truth)
        if recipe.perceptual:
            terms.add("perceptual", recipe.perceptual, losses.perceptual_loss(fake_maps, real_maps))
        if recipe.style:
            terms.add("style", recipe.style, losses.style_loss(fake_maps, real_maps))
        if recipe.texture:
            where = target.known * target.sharp
            terms.add("texture", recipe.texture, losses.texture_loss(fake_maps, real_maps, where))

    def finish(self) -> None:
        """Leave the weights that the run is for: averaged ones, in eval mode."""
        if self.teacher:
            self.teacher.leave()
        if self.averaged:
            self.pipeline.load_state_dict(self.averaged.module.state_dict())
        processes.average_statistics(self.pipeline, self.group.world)
        self.pipeline.requires_grad_(True)
        self.pipeline.eval()


def _check(pipeline: Inpainter, recipe: Recipe, teacher: Inpainter | None) -> None:
    """Raises ValueError when a network cannot be trained so."""
    if recipe.phase not in PHASES:
        raise ValueError(f"phase {recipe.phase!r}: expected one of {', '.join(PHASES)}")
    if teacher is not None and teacher.config.model != pipeline.config.model:
        raise ValueError(f"the teacher is {teacher.config.model}, the student {pipeline.config.model}: expected one model")
    if recipe.phase not in pipeline.PHASES:
        model, phases = pipeline.config.model, ", ".join(pipeline.PHASES)
        raise ValueError(f"phase {recipe.phase!r}: {model} has no such phase, expected one of {phases}")


def fit(
    pipeline: Inpainter, data: Numbered, recipe: Recipe, workdir: Path, beside: Beside = Beside(), *,
    resume: bool = False, look: Sequence[Pair] = (), title: str = "train",
) -> dict[str, Any]:  # fmt: skip
    """Train `pipeline` in place and return what happened: mean losses of the last steps, pictures, seconds.

    workdir receives state.pt every `save_every` steps and tensorboard/; with `resume`, the run continues from a state.pt
    there. look: pairs for the sample sheets. title: label of the progress bar.

    Raises:
        ValueError: the phase is not known, the resume state is of another run, or VGG-19's weights are not available.
    """
    _check(pipeline, recipe, beside.teacher)
    group = processes.join()
    run = _Run(pipeline, recipe, beside, group)
    state_file = workdir / "state.pt"
    start, seconds = run.resume(state_file) if resume and state_file.is_file() else (0, 0.0)
    log = _Log(workdir, group.rank == 0)
    loader = DataLoader(
        data, batch_sampler=processes.Numbers(start, recipe.steps, recipe.batch, group), num_workers=recipe.workers,
        persistent_workers=recipe.workers > 0, pin_memory=group.device.type == "cuda",
    )  # fmt: skip
    bar = tqdm(loader, initial=start, total=recipe.steps, desc=title, unit="step", disable=group.rank != 0, mininterval=1)
    began = time.monotonic()
    for step, (truth, *maps) in enumerate(bar, start):
        truth = truth.to(group.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        values = run.step([truth, *(x.to(group.device, non_blocking=True) for x in maps)])
        for name, value in values.items():
            run.recent[name].append(float(value))
        last = step + 1 == recipe.steps
        if step % 10 == 9 or last:
            means = {name: float(np.mean(list(values)[-10:])) for name, values in run.recent.items()}
            bar.set_postfix({k: f"{v:.3g}" for k, v in means.items()}, refresh=False)
            log.scalars(means, step + 1)
        if (step + 1) % recipe.save_every == 0 or last:
            seconds += time.monotonic() - began
            began = time.monotonic()
            if group.rank == 0:
                write_state(state_file, {"recipe": asdict(recipe), "step": step + 1, "seconds": seconds, **run.state()})
                if look:
                    log.picture(np.asarray(sample_sheet(pipeline, list(look))), step + 1)
    log.close()
    run.finish()
    return {
        "losses": {name: float(np.mean(values)) for name, values in run.recent.items()},
        "pictures": recipe.steps * recipe.batch * group.world, "seconds": round(seconds, 1), "device": str(group.device),
        "precision": "bf16" if run.half else "fp32",
    }  # fmt: skip


class _Log:
    """TensorBoard scalars and sample sheets, in the first process only."""

    def __init__(self, workdir: Path, on: bool):
        self.writer: Any = None
        if on:
            # Where tensorflow is installed, tensorboard would load it to write a scalar; this module is its own switch
            # for its own stub (tensorboard/compat/__init__.py).
            sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(workdir / "tensorboard"))

    def scalars(self, values: dict[str, float], step: int) -> None:
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def picture(self, sheet: np.ndarray, step: int) -> None:
        if self.writer:
            self.writer.add_image("samples", sheet, step, dataformats="HWC")

    def close(self) -> None:
        if self.writer:
            self.writer.close()


def calibrate(pipeline: Inpainter, data: Numbered, pictures: int = 32, batch: int = 8) -> None:
    """Choose the activation scales of a freshly prepared network from training pairs 0 to `pictures`."""
    quant.set_calibrating(pipeline, True)
    device = next(pipeline.parameters()).device
    torch.manual_seed(0)
    with torch.no_grad():
        for first in range(0, pictures, batch):
            items = [data[k] for k in range(first, min(first + batch, pictures))]
            truth, mask, *_ = (torch.stack(x).to(device) for x in zip(*items, strict=True))
            pipeline(truth, mask)
    quant.set_calibrating(pipeline, False)

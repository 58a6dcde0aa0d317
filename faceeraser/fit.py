"""The one training loop. Adversarial training, distillation, sparsity and quantization-aware training are options of it.

A run is a function of its recipe: pair k of a seed is always the same pair, the optimizers' state and the averaged
weights are saved with the step, so a run that was killed and resumed ends with the weights of an unbroken one. Under
`torchrun` every process takes its own pairs of each batch and gradients are averaged over the process group, so N
processes with batch B train as one with batch N x B.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
import types
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from faceeraser import losses, quant
from faceeraser.checkpoint import read_state, write_state
from faceeraser.edges import canny_tensor
from faceeraser.inference import sample_sheet
from faceeraser.networks import Inpainter, PatchDiscriminator, gray
from faceeraser.pairs import Pair

PHASES = ("edge", "structure", "inpaint", "all")


@dataclass
class Recipe:
    """What a run is told. Defaults are the paper's (sections 3.4 and 4.1).

    phase: 'edge' trains G_edge; 'inpaint' G_pc and G_ref with the edges frozen; 'all' everything (fine-tuning). What of the
        peers' they train, and StructureFlow's 'structure', says their `PHASES`.
    adversarial, feature_matching, perceptual, l1, style, clone: coefficients of equations 1 and 4; None is the paper's.
    shading, texture, landing, coherence: coefficients of the mobile preset's own terms; losses.py says what each is.
    region: L1 terms over the whole 'image' (the paper) or inside the 'hole' only, on the composite.
    edge_l1: weight of a plain cross-entropy on the edge map, for fine-tuning without a discriminator.
    features: network of the perceptual and style terms: 'vgg' (the paper), 'filterbank' or 'off'.
    distil: weight of the teacher's edges, flow and erased pictures (0: no teacher).
    distil_features: weight of where the teacher's features are strong (`attention_loss`), as a share of `distil`.
    online: the teacher goes on training beside its student, on the same pictures and the same objective.
    sparsity: L1 weight on the norms' scale factors (network slimming, Liu et al. 2017).
    average: decay of the averaged weights that are kept at the end (0: keep the last ones).
    schedule: 'constant' (the paper) or 'cosine', with a short warm-up, to a hundredth of the rate.
    precision: 'fp32', 'bf16' or 'auto': bf16 autocast where the hardware has it.
    """

    phase: str = "inpaint"
    steps: int = 1000
    batch: int = 8
    lr: float = 1e-4
    d_lr: float = 1e-5
    beta1: float = 0.0
    beta2: float = 0.9
    adversarial: float | None = None
    feature_matching: float = losses.EDGE_COEFFICIENTS["feature_matching"]
    perceptual: float = losses.INPAINT_COEFFICIENTS["perceptual"]
    l1: float = losses.INPAINT_COEFFICIENTS["l1"]
    style: float = losses.INPAINT_COEFFICIENTS["style"]
    clone: float = losses.INPAINT_COEFFICIENTS["clone"]
    shading: float = 0.0
    texture: float = 0.0
    landing: float = 0.0
    coherence: float = 0.0
    edge_l1: float = 0.0
    region: str = "image"
    features: str = "vgg"
    distil: float = 0.0
    distil_features: float = 0.0
    online: bool = False
    sparsity: float = 0.0
    average: float = 0.0
    schedule: str = "constant"
    precision: str = "auto"
    seed: int = 0
    save_every: int = 100
    workers: int = 0

    def adversarial_weight(self) -> float:
        """The coefficient of the adversarial term: as told, or the paper's for the phase."""
        if self.adversarial is not None:
            return self.adversarial
        return (losses.EDGE_COEFFICIENTS if self.phase == "edge" else losses.INPAINT_COEFFICIENTS)["adversarial"]


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


class _Numbers:
    """Sampler: the pair numbers of this process, from a step on. Batch s of W processes is pairs s*W*B to (s+1)*W*B."""

    def __init__(self, start: int, steps: int, batch: int, rank: int, world: int):
        self.steps = range(start, steps)
        self.batch, self.rank, self.world = batch, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            first = (step * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))

    def __len__(self) -> int:
        return len(self.steps)


def _average_gradients(parameters: list[nn.Parameter], world: int) -> None:
    """Mean of the gradients over the process group, in one exchange."""
    if world == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def agreed(value: Any) -> Any:
    """What the first process has for `value`, in all of them: what decides a structure must not differ between them."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    told = [value]
    dist.broadcast_object_list(told)
    return told[0]


def _average_statistics(pipeline: Inpainter, world: int) -> None:
    """Mean over the process group of what the batch norms of each process have seen of its own pictures."""
    if world == 1:
        return
    for module in pipeline.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            for statistic in (module.running_mean, module.running_var):
                dist.all_reduce(statistic)
                statistic /= world


def _rate(recipe: Recipe, step: int) -> float:
    """The factor on the learning rate at a step."""
    if recipe.schedule == "constant":
        return 1.0
    warm = max(1, min(100, recipe.steps // 5))
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, recipe.steps - warm)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def norm_scales(network: nn.Module) -> list[nn.Parameter]:
    """The scale factors (gamma) of every batch norm, each (C,): what network slimming makes sparse."""
    return [m.weight for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _groups(pipeline: Inpainter, parameters: list[nn.Parameter], recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters by the share of the learning rate they get. Adam's step is the rate itself, whatever the gradient, so
    quantization scales, about 0.005, need a smaller one than weights, and norm scales, about 1, a larger one to be
    driven to zero within a short sparsity run.
    """
    share = dict.fromkeys(map(id, parameters), 1.0)
    share |= {id(scale): 0.01 for _, scale, _ in quant.quantized_tensors(pipeline)}
    if recipe.sparsity:
        share |= {id(scale): 5.0 for scale in norm_scales(pipeline)}
    shares = sorted({share[id(p)] for p in parameters})
    return [{"params": [p for p in parameters if share[id(p)] == s], "share": s} for s in shares]


class _Terms:
    """The weighted sum of loss terms, and each term's running mean for the log."""

    def __init__(self) -> None:
        self.total: Any = 0.0
        self.values: dict[str, Tensor] = {}

    def add(self, name: str, weight: float, value: Tensor) -> None:
        self.total = self.total + weight * value
        self.values[name] = value.detach()


def distillation_loss(student: dict[str, Tensor], teacher: dict[str, Tensor], mask: Tensor, phase: str) -> Tensor:
    """How far a student's edges, flow (in half pictures) and erased picture are from its teacher's, inside the hole, of what
    the model has of these.

    Both dictionaries are what `Inpainter.forward` returns. Pictures are compared by their shading: texture follows from
    the flow, and while that is still a pixel off, the nearest picture to a textured one is a smooth one. Phase 'inpaint'
    leaves the frozen edges out.
    """
    total = losses.shading_loss(student["erased"], teacher["erased"], mask)
    if "offsets" in student:
        total = total + losses.l1_loss(student["offsets"], teacher["offsets"], mask)
    if phase == "all" and "edges_hat" in student:
        total = total + 0.1 * losses.l1_loss(student["edges_hat"], teacher["edges_hat"], mask)
    return total


def _told_apart(pipeline: Inpainter) -> list[nn.Module]:
    """The layers whose features are distilled: those that end a stage of one of the three networks, in order."""
    found: list[nn.Module] = []
    for body in (pipeline.edge, pipeline.clone):
        found += [body.down[-1], body.blocks[-1] if len(body.blocks) else body.down[-1], body.up[0]]
    return [*found, *pipeline.refine.down, *pipeline.refine.up]


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


def attention_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """How differently two networks spread their attention over the picture: features (N, C, H, W), any C, one size.

    A map's attention is the mean square over its channels, as a unit vector over its pixels, so no layer is needed
    between a narrow student and a wide teacher. Source: Zagoruyko & Komodakis, Paying More Attention to Attention (2017).

    Raises:
        ValueError: the maps are not of the same sizes, so the teacher is of another kind.
    """
    total = student[0].new_zeros((), dtype=torch.float32)
    for a, b in zip(student, teacher, strict=True):
        if a.shape[-2:] != b.shape[-2:]:
            found = f"{tuple(b.shape[-2:])} where the student's are {tuple(a.shape[-2:])}"
            raise ValueError(f"the teacher's features are {found}; choose a teacher of the same structure")
        unit = [F.normalize(x.float().square().mean(1).flatten(1), dim=1) for x in (a, b.detach())]
        total = total + (unit[0] - unit[1]).square().sum(1).mean()
    return total / len(student)


def _objective(
    terms: _Terms, recipe: Recipe, pipeline: Inpainter, outputs: dict[str, Tensor], picture: Tensor,
    batch: tuple[Tensor, ...], features: nn.Module | None, edge_truth: Tensor | None, half: bool,
) -> None:  # fmt: skip
    """Add what a recipe asks of `outputs`, whose result is `picture`: all but the adversarial and the teacher's terms."""
    truth, mask, target, skin, sharp = batch
    if recipe.phase != "edge":
        hole = target if recipe.region == "hole" else None
        if recipe.l1:
            terms.add("l1", recipe.l1, losses.l1_loss(picture, truth, hole))
        if recipe.phase != "structure":
            for name, value in pipeline.own_terms(outputs, truth, mask, hole).items():
                terms.add(name, 1.0, value)
        if recipe.clone and "cloned" in outputs:
            terms.add("clone", recipe.clone, losses.l1_loss(outputs["cloned"], truth, hole))
        if recipe.shading:
            terms.add("shading", recipe.shading, losses.shading_loss(picture, truth, target))
        if recipe.landing and "flow" in outputs:
            terms.add("landing", recipe.landing, losses.landing_loss(outputs["flow"], mask, 1.0 - skin))
        if recipe.coherence and "flow" in outputs:
            terms.add("coherence", recipe.coherence, losses.coherence_loss(outputs["flow"], mask))
        if features is not None:
            with torch.autocast(picture.device.type, torch.bfloat16, enabled=half):
                fake_maps, real_maps = features(picture), features(truth)
            if recipe.perceptual:
                terms.add("perceptual", recipe.perceptual, losses.perceptual_loss(fake_maps, real_maps))
            if recipe.style:
                terms.add("style", recipe.style, losses.style_loss(fake_maps, real_maps))
            if recipe.texture:
                terms.add("texture", recipe.texture, losses.texture_loss(fake_maps, real_maps, target * sharp))
    if recipe.edge_l1 and recipe.phase in ("edge", "all") and edge_truth is not None and "edges_hat" in outputs:
        told = F.interpolate(edge_truth, size=outputs["edges_hat"].shape[-2:], mode="nearest")
        terms.add("edge", recipe.edge_l1, F.binary_cross_entropy(outputs["edges_hat"].float(), told))


def fit(
    pipeline: Inpainter, data: Dataset, recipe: Recipe, workdir: Path, *, critics: nn.ModuleDict | None = None,
    teacher: Inpainter | None = None, vgg: Path | None = None, resume: bool = False,
    look: list[Pair] | None = None, title: str = "train",
) -> dict[str, Any]:  # fmt: skip
    """Train `pipeline` in place and return what happened: mean losses of the last steps, pictures, seconds.

    data: item k is (truth, mask, target, skin, sharp); see pairs.TrainingPairs. workdir receives state.pt every
    `save_every` steps and tensorboard/; with `resume`, a state.pt there is where the run goes on. critics: the
    discriminators, trained beside it when the adversarial weight is not 0. look: pairs for the sample sheets.

    Raises:
        ValueError: the phase is not known, the resume state is of another run, or VGG-19's weights cannot be had.
    """
    if recipe.phase not in PHASES:
        raise ValueError(f"phase {recipe.phase!r}: expected one of {', '.join(PHASES)}")
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(recipe.seed)
    pipeline.to(device, memory_format=torch.channels_last)
    if world > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(pipeline)
    half = recipe.precision == "bf16" or (recipe.precision == "auto" and has_bfloat16(device))
    if teacher is not None and teacher.config.model != pipeline.config.model:
        raise ValueError(f"the teacher is {teacher.config.model}, the student {pipeline.config.model}: expected one model")
    if recipe.phase not in pipeline.PHASES:
        model, phases = pipeline.config.model, ", ".join(pipeline.PHASES)
        raise ValueError(f"phase {recipe.phase!r}: {model} has no such phase, expected one of {phases}")
    trained = [pipeline.get_submodule(name) for name in pipeline.PHASES[recipe.phase]]
    pipeline.requires_grad_(False)
    for network in trained:
        network.requires_grad_(True)
    parameters = [p for p in pipeline.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(_groups(pipeline, parameters, recipe), lr=recipe.lr, betas=(recipe.beta1, recipe.beta2))
    adversarial = recipe.adversarial_weight()
    critic = d_optimizer = None
    if adversarial > 0:
        if critics is None:
            raise ValueError("an adversarial term needs discriminators; pass --adversarial 0 to train without")
        critic = (
            critics["edge" if recipe.phase == "edge" else "inpaint"].to(device, memory_format=torch.channels_last).train()
        )
        d_optimizer = torch.optim.Adam(critic.parameters(), lr=recipe.d_lr, betas=(recipe.beta1, recipe.beta2))
    features = None
    if recipe.phase in ("inpaint", "all") and (recipe.perceptual or recipe.style or recipe.texture):
        features = losses.feature_network(recipe.features, vgg)
        features = features.to(device) if features is not None else None
    teacher_optimizer = None
    watched: list[_Watched] = []
    if teacher is not None:
        if recipe.distil_features:
            watched = [_Watched(pipeline), _Watched(teacher)]
        teacher = teacher.to(device, memory_format=torch.channels_last).eval().requires_grad_(recipe.online)
        if recipe.online:
            teacher_optimizer = torch.optim.Adam(teacher.parameters(), lr=recipe.lr, betas=(recipe.beta1, recipe.beta2))

    averaged = {k: v.detach().clone() for k, v in pipeline.state_dict().items()} if recipe.average else None
    start, seconds = 0, 0.0
    state_file = workdir / "state.pt"
    if resume and state_file.is_file():
        state = read_state(state_file)
        same = state["recipe"]["phase"] == recipe.phase and state["recipe"]["seed"] == recipe.seed
        if not same or state["generators"].keys() != pipeline.state_dict().keys():
            raise ValueError(f"{state_file}: of another run (model, phase or seed differ); start again without --resume")
        pipeline.load_state_dict(state["generators"])
        optimizer.load_state_dict(state["optimizer"])
        if critic is not None and d_optimizer is not None:
            critic.load_state_dict(state["critic"])
            d_optimizer.load_state_dict(state["d_optimizer"])
        if averaged is not None:
            averaged = {k: v.to(device) for k, v in state["averaged"].items()}
        start, seconds = state["step"], state["seconds"]

    def keep(step: int) -> None:
        if rank:
            return
        write_state(
            state_file,
            {
                "recipe": asdict(recipe), "step": step, "seconds": seconds, "generators": pipeline.state_dict(),
                "optimizer": optimizer.state_dict(), "averaged": averaged or {},
                "critic": critic.state_dict() if critic is not None else {},
                "d_optimizer": d_optimizer.state_dict() if d_optimizer is not None else {},
            },
        )  # fmt: skip

    def update(opt: torch.optim.Optimizer, loss: Tensor, over: list[nn.Parameter], rate: float) -> None:
        opt.zero_grad(set_to_none=True)
        loss.backward()
        _average_gradients(over, world)
        for group in opt.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        opt.step()

    log = _Log(workdir, rank == 0)
    loader = DataLoader(
        data, batch_sampler=_Numbers(start, recipe.steps, recipe.batch, rank, world), num_workers=recipe.workers,
        persistent_workers=recipe.workers > 0, pin_memory=device.type == "cuda",
    )  # fmt: skip
    bar = tqdm(loader, initial=start, total=recipe.steps, desc=title, unit="step", disable=rank != 0, mininterval=1)
    fused = pipeline.config.fused
    began = time.monotonic()
    recent: dict[str, list[float]] = defaultdict(list)
    for step, (truth, *maps) in enumerate(bar, start):
        truth = truth.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        mask, target, skin, sharp = (x.to(device, non_blocking=True) for x in maps)
        pipeline.eval()
        for network in trained:
            network.train(not fused)
        factor = _rate(recipe, step)
        terms = _Terms()
        for each in watched:
            each.taken()  # what drawing a sample sheet left
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            if recipe.phase == "edge":
                edges, edges_hat = pipeline.complete_edges(truth, mask)
                outputs = {"edges": edges, "edges_hat": edges_hat}
            elif recipe.phase == "structure":
                outputs = pipeline.complete_structure(truth, mask)
                truth = outputs["structure_truth"]
            else:
                outputs = pipeline(truth, mask)
            taught = None
            if teacher is not None and recipe.distil and recipe.phase in ("inpaint", "all"):
                same = "edges" in outputs and teacher.config.shrink == pipeline.config.shrink
                with torch.set_grad_enabled(recipe.online):
                    taught = teacher(truth, mask, outputs["edges"] if same else None)
            first = {"edge": "edges_hat", "structure": "structure_hat"}
            picture = outputs[first.get(recipe.phase, "erased" if recipe.region == "hole" else "refined")]
            with torch.no_grad():
                edge_truth = None
                if recipe.phase == "edge" or (recipe.edge_l1 and "edges_hat" in outputs):
                    with torch.autocast(device.type, enabled=False):
                        seen = gray(pipeline.shrunk(truth))
                        edge_truth = canny_tensor(seen, torch.zeros_like(seen))
            if critic is not None and d_optimizer is not None:
                beside = seen if recipe.phase == "edge" else outputs.get("edges_hat", mask).detach()
                real = edge_truth if recipe.phase == "edge" else truth
                score_real, _ = critic(torch.cat([real, beside], 1))
                score_fake, _ = critic(torch.cat([picture.detach(), beside], 1))
                with torch.autocast(device.type, enabled=False):
                    d_loss = losses.discriminator_loss(score_real, score_fake)
        if critic is not None and d_optimizer is not None:
            update(d_optimizer, d_loss, list(critic.parameters()), recipe.d_lr * factor)
            terms.values["discriminator"] = d_loss.detach()
            critic.requires_grad_(False)  # the generator's turn: gradients pass through, none are kept
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                score, fake_maps = critic(torch.cat([picture, beside], 1))
                if recipe.phase == "edge" and recipe.feature_matching:
                    with torch.no_grad():
                        _, real_maps = critic(torch.cat([real, beside], 1))
                    terms.add(
                        "feature_matching", recipe.feature_matching, losses.feature_matching_loss(fake_maps, real_maps)
                    )
            terms.add("adversarial", adversarial, losses.generator_loss(score))
            critic.requires_grad_(True)
        batch = (truth, mask, target, skin, sharp)
        _objective(terms, recipe, pipeline, outputs, picture, batch, features, edge_truth, half)
        if taught is not None and teacher_optimizer is not None and teacher is not None:
            own = _Terms()
            _objective(own, recipe, teacher, taught, taught["erased"], batch, features, edge_truth, half)
            update(teacher_optimizer, own.total, list(teacher.parameters()), recipe.lr * factor)
            terms.values["teacher"] = own.total.detach()
            taught = {name: value.detach() for name, value in taught.items()}
        if taught is not None:
            terms.add("distil", recipe.distil, distillation_loss(outputs, taught, mask, recipe.phase))
            if watched:
                weight = recipe.distil * recipe.distil_features
                terms.add("distil_features", weight, attention_loss(*(each.taken() for each in watched)))
        if recipe.sparsity:
            penalty = torch.stack([s.abs().sum() for network in trained for s in norm_scales(network)]).sum()
            terms.add("sparsity", recipe.sparsity, penalty)
        if not isinstance(terms.total, Tensor):
            raise ValueError(f"phase {recipe.phase!r} has no term to train for: every coefficient is 0")
        update(optimizer, terms.total, parameters, recipe.lr * factor)
        if averaged is not None:
            decay = min(recipe.average, (1 + step) / (10 + step))
            with torch.no_grad():
                for name, value in pipeline.state_dict().items():
                    if value.is_floating_point():
                        averaged[name].lerp_(value, 1 - decay)
                    else:
                        averaged[name].copy_(value)
        for name, value in terms.values.items():
            recent[name].append(float(value))
        if step % 10 == 9 or step + 1 == recipe.steps:
            means = {name: float(np.mean(values[-10:])) for name, values in recent.items()}
            bar.set_postfix({k: f"{v:.3g}" for k, v in means.items()}, refresh=False)
            log.scalars(means, step + 1)
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            seconds += time.monotonic() - began
            began = time.monotonic()
            keep(step + 1)
            if look and rank == 0:
                log.picture(np.asarray(sample_sheet(pipeline, look)), step + 1)
    log.close()
    for each in watched:
        each.remove()
    if averaged is not None:
        pipeline.load_state_dict(averaged)
    _average_statistics(pipeline, world)
    pipeline.requires_grad_(True)
    pipeline.eval()
    pictures = recipe.steps * recipe.batch * world
    return {
        "losses": {name: float(np.mean(values[-100:])) for name, values in recent.items()},
        "pictures": pictures, "seconds": round(seconds, 1), "device": str(device), "precision": "bf16" if half else "fp32",
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


def calibrate(pipeline: Inpainter, data: Dataset, pictures: int = 32, batch: int = 8) -> None:
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

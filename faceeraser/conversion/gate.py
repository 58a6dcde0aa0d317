"""The gate for every exported file: does it compute what its checkpoint does, on textured pictures?

Two runs of the same network that round differently may give different pictures: an int8 value moves to the next level, the
flow moves by a fraction of a pixel, and different but equally good grain is copied. A wrong file gives a different picture
too. To tell these apart, the two halves of such a network are compared separately:

    plan      where it copies from: must agree nearly everywhere, to a pixel
    picture   what it paints, given the file's own plan: must agree closely

So a file is converted with its plan as a second output, which is removed before the file is published. Models without a
plan (the peers) and CoreML packages are compared as a whole.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from tqdm import tqdm

from faceeraser.artifacts.artifact import Artifact
from faceeraser.artifacts.edges import canny
from faceeraser.artifacts.painting import LUMA
from faceeraser.model.any_network import AnyNetwork
from faceeraser.model.networks import Inpainter
from faceeraser.model.pairs import evaluation_pairs

PICTURES = 16
"""Textured pictures that a gate takes at least."""
BOUNDS = {"fp32": 1e-4, "fp16": 55.0, "int8": 50.0}
"""By precision, what is asked of the picture: for fp32 the largest difference, else a PSNR in dB."""


class Painted(NamedTuple):
    """What a network or a file made of a picture: `image` (R, R, 3) float32 in [0, 1]; its `plan`, by name, maps (h, w,
    C) or lists (K,), or None.
    """

    image: np.ndarray
    plan: Mapping[str, np.ndarray] | None = None


@dataclass(frozen=True)
class Gate:
    """What a file must reach inside the hole of its worst picture.

    max_abs, psnr: of the picture, a largest difference of values in [0, 1], or a PSNR in dB.
    plan_px, plan_share: of the plan, the share that is the same, of what says where from to so many pixels
        (`Inpainter.agreement`).
    reason: why it is looser than `of(precision)`; it goes into the card.
    """

    max_abs: float | None = None
    psnr: float | None = None
    plan_px: float = 1.0
    plan_share: float = 0.95
    reason: str | None = None

    @classmethod
    def of(
        cls, precision: str, value: float | None = None, reason: str | None = None, bounds: Mapping[str, float] = BOUNDS
    ) -> Gate:
        """The gate of a precision; `value` replaces its bound of the picture (dB, or the largest difference for fp32).

        Raises:
            ValueError: `value` is looser than the bound and no reason is given.
        """
        bound = bounds[precision]
        value = bound if value is None else value
        if not reason and (value > bound if precision == "fp32" else value < bound):
            raise ValueError(f"a gate of {value:g} is looser than {bound:g} for {precision}: give a reason (--reason TEXT)")
        if precision == "fp32":
            return cls(max_abs=value, plan_px=0.05, plan_share=1.0, reason=reason)
        return cls(psnr=value, reason=reason)

    def in_levels(self) -> Gate:
        """The same of pictures in 8 bits, rounded on both sides: a difference below half a level may become a whole one,
        in a value out of a hundred (68 dB).
        """
        if self.max_abs is None:
            return self
        return Gate(max(self.max_abs, 1.001 / 255), 68.0, self.plan_px, self.plan_share, self.reason)

    def elsewhere(self) -> Gate:
        """The same at a size the network was not trained at, where its float arithmetic is worse conditioned: folding the
        norms alone, in torch, moved the flow of a trained network by 0.0003 pixels at 256 and by 0.004 at 512. A form
        that is wrong at a size is far below.
        """
        if self.max_abs is None:
            return self
        return Gate(100 * self.max_abs, 60.0, 0.5, self.plan_share, self.reason)

    def __str__(self) -> str:
        bounds = ([] if self.max_abs is None else [f"max abs <= {self.max_abs:g}"]) + (
            [] if self.psnr is None else [f"PSNR >= {self.psnr:g} dB"]
        )
        return " and ".join(bounds)

    @property
    def of_plan(self) -> str:
        """What is asked of the plan, in words."""
        return f"{100 * self.plan_share:g} % of the plan to {self.plan_px:g} px"

    def passes(self, psnr: float, max_abs: float) -> bool:
        """Whether one picture's figures are inside; NaN never is."""
        return max_abs <= (self.max_abs if self.max_abs is not None else math.inf) and psnr >= (self.psnr or 0.0)


# --- its pictures ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A picture to compare on: `image` (R, R, 3) float32 in [0, 1], `mask` (R, R) float32 with 1 = erase."""

    name: str
    image: np.ndarray
    mask: np.ndarray


# What scikit-image carries inside its wheel, and where to cut: centre, as a share of the picture.
_TEXTURED = (
    ("astronaut", 0.22, 0.45),
    ("astronaut", 0.75, 0.6),
    ("coffee", 0.5, 0.5),
    ("chelsea", 0.45, 0.5),
    ("rocket", 0.5, 0.5),
    ("hubble_deep_field", 0.5, 0.4),
    ("immunohistochemistry", 0.5, 0.5),
    ("retina", 0.5, 0.6),
    ("brick", 0.5, 0.5),
    ("grass", 0.4, 0.5),
    ("gravel", 0.5, 0.6),
    ("camera", 0.3, 0.4),
    ("coins", 0.5, 0.5),
    ("page", 0.5, 0.5),
    ("text", 0.5, 0.4),
    ("moon", 0.5, 0.5),
)


def gate_pictures(resolution: int, data: Path | str | None = None) -> list[Picture]:
    """The pictures of a gate: 16 textured crops of scikit-image's photographs and, with `data`, 16 faces of its tune list.

    Raises:
        ValueError: `data` is not a folder made by train/prepare.py.
        ModuleNotFoundError: scikit-image is missing.
    """
    try:
        from skimage import data as photographs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the parity gate needs scikit-image: pip install 'faceeraser[train]'") from error
    pictures = []
    for k, (name, down, right) in enumerate(_TEXTURED):
        whole = getattr(photographs, name)()
        whole = np.repeat(whole[..., None], 3, 2) if whole.ndim == 2 else whole[..., :3]
        short = min(whole.shape[:2])
        if short < resolution:
            side = [math.ceil(n * resolution / short) for n in whole.shape[1::-1]]
            whole = cv2.resize(whole, side, interpolation=cv2.INTER_CUBIC)
        top, left = (int(share * (n - resolution)) for share, n in zip((down, right), whole.shape[:2], strict=True))
        crop = whole[top : top + resolution, left : left + resolution]
        pictures.append(Picture(f"{name}-{k}", crop.astype(np.float32) / 255, _part_mask(resolution, k)))
    for pair in evaluation_pairs(data, "tune", resolution, PICTURES) if data is not None else []:
        pictures.append(Picture(pair.name, pair.truth.astype(np.float32) / 255, pair.mask.astype(np.float32)))
    return pictures


def cut(pictures: Sequence[Picture], height: int, width: int) -> list[Picture]:
    """The upper left height x width pixels of pictures."""
    return [Picture(p.name, p.image[:height, :width], p.mask[:height, :width]) for p in pictures]


def _part_mask(resolution: int, seed: int) -> np.ndarray:
    """Brows, eyes, nose and mouth as ellipses about where a face has them, moved and turned a little by `seed`."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((resolution, resolution), np.uint8)
    # Centre x, y, half axes, as shares of the picture.
    parts = [
        (0.32, 0.33, 0.13, 0.04),
        (0.68, 0.33, 0.13, 0.04),
        (0.32, 0.43, 0.11, 0.07),
        (0.68, 0.43, 0.11, 0.07),
        (0.5, 0.56, 0.09, 0.12),
        (0.5, 0.78, 0.18, 0.08),
    ]
    for x, y, across, along in parts:
        x, y = x + rng.uniform(-0.04, 0.04), y + rng.uniform(-0.04, 0.04)
        axes = max(1, round(across * resolution)), max(1, round(along * resolution))
        centre = round(x * resolution), round(y * resolution)
        cv2.ellipse(mask, centre, axes, rng.uniform(-20, 20), 0, 360, 1, -1)
    return mask.astype(np.float32)


# --- what is compared -----------------------------------------------------------------------------------------------


def edges_of(picture: Picture) -> np.ndarray:
    """Edges as `Artifact` computes them for a file that takes them as an input: (R, R) float32."""
    return canny(picture.image @ np.array(LUMA, np.float32), picture.mask)


@dataclass(frozen=True)
class Reference:
    """What the checkpoint's own network paints; fake-quantized if it is quantized.

    edges_input: it is given edges. output: which of its pictures. in_levels: rounded to 8 bits, as the file's are.
    """

    network: Inpainter
    edges_input: bool = False
    output: str = "erased"
    in_levels: bool = False

    def __call__(self, picture: Picture, plan: Mapping[str, np.ndarray] | None = None) -> Painted:
        """What it makes of a picture, with a plan of somebody else's where one is given."""
        image = torch.from_numpy(picture.image).permute(2, 0, 1)[None]
        edges = torch.from_numpy(edges_of(picture))[None, None] if self.edges_input else None
        given_plan = {} if plan is None else {"plan": tensors_of(plan)}
        with torch.no_grad():
            outputs = self.network.eval()(image, torch.from_numpy(picture.mask)[None, None], edges, **given_plan)
        painted = outputs[self.output][0].permute(1, 2, 0).numpy()
        painted = np.rint(painted * 255) / 255 if self.in_levels else painted
        own = {name: outputs[name][0] for name in self.network.PLAN}
        return Painted(painted, {k: (x.permute(1, 2, 0) if x.ndim == 3 else x).numpy() for k, x in own.items()} or None)

    def agreement(
        self, other: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray], picture: Picture, pixels: float
    ) -> dict[str, float]:
        """How much of somebody's plan for a picture is the network's own, by name: `Inpainter.agreement`."""
        image = torch.from_numpy(picture.image).permute(2, 0, 1)[None]
        hole = torch.from_numpy(picture.mask)[None, None].float()
        return self.network.agreement(tensors_of(other), tensors_of(own), image, hole, pixels)


def tensors_of(plan: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """A plan as its network takes it: (1, C, h, w) or (1, K), float32."""
    given = {name: torch.from_numpy(np.ascontiguousarray(x)).float() for name, x in plan.items()}
    return {name: (x.permute(2, 0, 1) if x.ndim == 3 else x)[None] for name, x in given.items()}


File = Callable[[np.ndarray, np.ndarray], Painted]
"""A file as a function of image (R, R, 3) and mask (R, R)."""


def as_file(file: Artifact, reference: Reference | None = None) -> File:
    """An exported file, with its plan where that is an output. What a file that only plans would have painted, `reference`
    paints by its plan.
    """

    def run(image: np.ndarray, mask: np.ndarray) -> Painted:
        outputs = file.outputs(image, mask)
        if file.plans:
            assert reference is not None
            return Painted(reference(Picture("", image, mask), outputs).image, outputs)
        picture = outputs.pop("erased" if "erased" in outputs else "refined")
        return Painted(picture, outputs or None)

    return run


def unchanged(planned: File, published: File, pictures: Sequence[Picture]) -> list[str]:
    """That a file paints the same bits as the one with its plan as an output, which the gate looked at; what differs."""
    failures = []
    for picture in pictures:
        before, after = (file(picture.image, picture.mask).image for file in (planned, published))
        if not np.array_equal(before, after):
            failures.append(f"{picture.name}: without the plan as an output the file paints another picture")
    return failures


def together(file: Artifact, pictures: Sequence[Picture]) -> list[str]:
    """That pictures which a file takes at once do not change one another; what differs."""
    if file.plans:
        return []
    images, masks = (np.stack([getattr(picture, name) for picture in pictures]) for name in ("image", "mask"))
    failures = []
    for picture, painted in zip(pictures, file.run(images, masks), strict=True):
        if (apart := float(np.abs(painted - file.run(picture.image, picture.mask)).max())) > 1e-4:
            failures.append(f"{picture.name}: in a batch with others it comes out differently (by {apart:.2g})")
    return failures


def parity(file: File, pictures: Sequence[Picture], reference: Reference, gate: Gate) -> dict[str, Any]:
    """Compare a file with its checkpoint inside the hole, picture by picture; the card's `parity`.

    Also runs two pictures again with other pixels in the hole: the whole output must stay bit-identical.
    """
    worst: dict[str, Any] = {"psnr_hole_min": 200.0, "max_abs_hole": 0.0}
    failures = []
    for picture in tqdm(pictures, "  parity", file=sys.stderr):
        erased, own = file(picture.image, picture.mask), reference(picture)
        truth = own.image if erased.plan is None else reference(picture, erased.plan).image
        psnr, largest = _apart(erased.image, truth, picture.mask)
        if psnr < worst["psnr_hole_min"]:
            worst |= {"psnr_hole_min": psnr, "worst_picture": picture.name}
        worst["max_abs_hole"] = max(worst["max_abs_hole"], largest if math.isfinite(largest) else 1e9)
        if not gate.passes(psnr, largest):
            failures.append(f"{picture.name}: {psnr:.1f} dB, max abs {largest:.2g} inside the hole, expected {gate}")
        if erased.plan is not None and own.plan is not None:
            whole, _ = _apart(erased.image, own.image, picture.mask)
            worst["psnr_whole_min"] = min(worst.get("psnr_whole_min", 200.0), whole)
            for name, share in reference.agreement(erased.plan, own.plan, picture, gate.plan_px).items():
                worst["plan_share_min"] = min(worst.get("plan_share_min", 1.0), share)
                if not share >= gate.plan_share:
                    failures.append(
                        f"{picture.name}: {100 * share:.1f} % of the plan's {name} agree (to {gate.plan_px:g} px), "
                        f"expected {100 * gate.plan_share:g} %"
                    )
    failures += _leaks(file, pictures[:2])
    return {
        "n": len(pictures),
        **{k: round(v, 7) if isinstance(v, float) else v for k, v in worst.items()},
        "gate": f"{gate} and {gate.of_plan}" if "plan_share_min" in worst else str(gate),
        "passed": not failures,
        **({"looser_because": gate.reason} if gate.reason else {}),
        **({"failures": failures} if failures else {}),
    }


def parity_of_outputs(
    run: Callable[[Mapping[str, torch.Tensor]], Mapping[str, np.ndarray]], network: AnyNetwork, gate: Gate
) -> dict[str, Any]:
    """Compare a file of any network with its module, sample by sample; the card's `parity`.

    Differences are shares of an output's span, the largest less the smallest value that the module gave of it.
    """
    expected = [network.outputs(sample) for sample in network.samples]
    spans = {
        name: max(float(np.ptp([f(one_sample[name]) for one_sample in expected for f in (np.min, np.max)])), 1e-6)
        for name in expected[0]
    }
    worst: dict[str, Any] = {"psnr_min": 200.0, "max_abs": 0.0}
    failures = []
    for k, (sample, truth) in enumerate(zip(network.samples, expected, strict=True)):
        outputs = run(sample)
        for name, value in truth.items():
            output = outputs.get(name)
            if output is None or output.shape != value.shape:
                given = None if output is None else output.shape
                failures.append(f"sample {k}: output {name} is {given}, expected {value.shape}")
                continue
            whole = np.ones(value.shape)
            psnr, largest = _apart(output / spans[name], value.astype(np.float64) / spans[name], whole)
            if psnr < worst["psnr_min"]:
                worst |= {"psnr_min": psnr, "worst_output": name}
            worst["max_abs"] = max(worst["max_abs"], largest if math.isfinite(largest) else 1e9)
            if not gate.passes(psnr, largest):
                measured = f"{psnr:.1f} dB, max abs {largest:.2g} of its span"
                failures.append(f"sample {k}: output {name} {measured}, expected {gate}")
    return {
        "n": len(expected),
        **{k: round(v, 8) if isinstance(v, float) else v for k, v in worst.items()},
        "gate": str(gate),
        "passed": not failures,
        **({"looser_because": gate.reason} if gate.reason else {}),
        **({"failures": failures} if failures else {}),
    }


def _leaks(file: File, pictures: Sequence[Picture]) -> list[str]:
    """Where other pixels in the hole make another output, in a line for each picture."""
    failures = []
    for k, picture in enumerate(pictures):
        noise = np.random.default_rng(k).random(picture.image.shape, np.float32)
        hidden = np.where(picture.mask[..., None] > 0.5, noise, picture.image)
        plain, changed = (file(image, picture.mask).image for image in (picture.image, hidden))
        if not np.array_equal(plain, changed):
            apart = np.abs(plain - changed).max()
            failures.append(f"{picture.name}: pixels inside the hole change the output (by {apart:.2g})")
    return failures


def _apart(image: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """(PSNR in dB, at most 200; largest difference) inside the hole; -200 dB where a value is not finite."""
    error = (image.astype(np.float64) - truth)[mask > 0.5]
    largest = float(np.abs(error).max(initial=0.0))
    if not np.isfinite(error).all():
        return -200.0, largest
    return min(200.0, -10 * math.log10(max(float(np.mean(error**2)), 1e-20))), largest

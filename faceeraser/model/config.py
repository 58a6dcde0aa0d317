"""The structure of a network's generators, as config.json has it: which model, which preset, which options.

Widths are not part of it: they come from the weights. Importing this module does not load torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

VARIANTS = ("unet_attention", "unet", "auto_encoder")

PRESETS = ("paper", "mobile")

# The models, and their networks that have residual blocks: FaceEraser is in networks.py, its peers in peers.py, the one that
# plans in planner.py.
MODELS = {
    "faceeraser": ("edge", "clone"),
    "edgeconnect": ("edge", "paint"),
    "structureflow": ("structure", "texture"),
    "hifill": (),
    "patches": (),
}

COMPARED = ("faceeraser", "edgeconnect", "structureflow", "hifill")
"""The models of the paper's tables."""

# The heads that predict a flow, or a plan. They are never quantized: an int8 tanh has steps of 1/128, a whole pixel at
# 256 px.
FLOW_HEADS = {"faceeraser": ("clone.head",), "structureflow": ("texture.flow",), "patches": ("body.shading", "body.skin")}

# What a config.json of format 1 (v0.1) meant by a field that it does not have. The fields that are not here it always has.
_MEANT_BY_FORMAT_1: Mapping[str, Any] = {
    "model": "faceeraser",
    "shrink": 1,
    "guided": True,
    "halved": (),
    "separable": False,
    "fused": False,
    "float_layers": ("clone.head",),
    "quantized": False,
}


@dataclass(frozen=True)
class Config:
    """Structure of the generators (never their widths). `Config.of` makes one of a preset; the defaults are `mobile`'s."""

    FORMAT: ClassVar = 2
    """Version of what `to_json` writes."""

    preset: str = "mobile"
    """'paper' or 'mobile': the starting values of the fields below."""
    model: str = "faceeraser"
    """One of MODELS."""
    variant: str = "unet_attention"
    """FaceEraser's refine network, Table 1's rows: 'auto_encoder' (AE), 'unet' or 'unet_attention' (UNet + CA, the
    paper's)."""
    norm: str = "batch"
    """'batch', which folds into the convolution before it, or 'instance', the paper's, which leaves nothing to fold or to
    slim."""
    padding: str = "zeros"
    """Padding of every convolution that keeps the size: 'zeros', or 'reflect', the paper's."""
    upsampling: str = "nearest"
    """'nearest', a resize and a convolution, or 'transposed', a transposed convolution, the paper's."""
    fill: bool = True
    """Whether the hole is first filled by a smooth membrane. The clone network then sees it filled, and what is warped is
    the picture's detail (the picture less its shading), laid on that fill inside the hole: a copy brings pores with it and
    no colour step. Without, the picture with its hole emptied is seen and warped, everywhere."""
    shrink: int = 2
    """The networks see the picture at 1 / shrink of its size; the fill, the detail, the warp and the composite stay at full
    size, and the flow and what is added to the picture are upsampled. What networks have to know is smooth, and what is not
    smooth is copied."""
    guided: bool = True
    """Whether the clone network is given the completed edges (section 3.1); without, it sees none."""
    halved: tuple[str, ...] = ("edge", "clone")
    """Those of FaceEraser's networks 'edge' and 'clone' that work at half of what they see, for a quarter of the MACs."""
    residual: bool = True
    """Whether the last network's output is added to what it is given (FaceEraser: the cloned picture) or replaces it."""
    separable: bool = False
    """Whether every convolution between a network's first and last is a depthwise one and a 1 x 1 (Howard et al. 2017,
    MobileNets): about an eighth of the weights and of the MACs."""
    resolution: int = 256
    """Edge length in pixels of the pictures that it is trained and exported for."""
    blocks: dict[str, int] = field(default_factory=lambda: {"edge": 8, "clone": 8})
    """Residual blocks kept in each network that has them (8 in the paper, section 3.3); a model's are named in MODELS."""
    fused: bool = False
    """Whether the norms are folded into the convolutions (quant.fuse)."""
    float_layers: tuple[str, ...] = ("clone.head",)
    """Layers that stay in float when the rest is quantized, by name, with all they contain."""
    quantized: bool = False
    """Whether activations and weights are rounded to int8 with learnt scales (quant.prepare)."""

    @classmethod
    def of(cls, preset: str, **changes: Any) -> Config:
        """The configuration of a preset, 'paper' or 'mobile'.

        Raises:
            ValueError: the preset, the model or the variant is not known.
        """
        if preset not in PRESETS:
            raise ValueError(f"preset {preset!r} is not known: expected one of {', '.join(PRESETS)}")
        if changes.get("variant", VARIANTS[0]) not in VARIANTS:
            raise ValueError(f"variant {changes['variant']!r} is not known: expected one of {', '.join(VARIANTS)}")
        model = changes.get("model", "faceeraser")
        if model not in MODELS:
            raise ValueError(f"model {model!r} is not known: expected one of {', '.join(MODELS)}")
        own = {"blocks": dict.fromkeys(MODELS[model], 8), "float_layers": FLOW_HEADS.get(model, ())}
        paper = {
            "norm": "instance",
            "padding": "reflect",
            "upsampling": "transposed",
            "fill": False,
            "halved": (),
            "shrink": 1,
            "residual": False,
        }
        return cls(preset=preset, **{**own, **(paper if preset == "paper" else {}), **changes})

    def to_json(self) -> dict[str, Any]:
        """config.json's fields: all of these, and the format's version."""
        return {"format": self.FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Config:
        """From config.json's fields, of any format so far. Fields that an old format does not have are filled in here.

        Raises:
            ValueError: the format is not known, a field is missing or not known, or the model is not.
        """
        given = dict(fields)
        if (version := given.pop("format", None)) not in (1, cls.FORMAT):
            raise ValueError(f"expected format 1 or {cls.FORMAT}, found {version!r}; was it made by a newer version?")
        if version == 1:
            given = {**_MEANT_BY_FORMAT_1, **given}
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := given.keys() - known:
            raise ValueError(f"it has unknown fields {sorted(unknown)}: made by a newer version of faceeraser?")
        if missing := known - given.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}, which format {version} has")
        if not isinstance(given["model"], str) or given["model"] not in MODELS:
            raise ValueError(f"its model {given['model']!r} is not known, expected one of {', '.join(MODELS)}")
        for name, kinds in _TYPES.items():
            if not isinstance(value := given[name], kinds) or (kinds is int and not 1 <= value <= 1 << 14):
                raise ValueError(f"its {name} is {str(value)[:60]!r}, expected {_TOLD[kinds]}")
        for name in ("halved", "float_layers"):
            if not all(isinstance(layer, str) for layer in given[name]):
                raise ValueError(f"its {name} is {str(given[name])[:60]!r}, expected names")
        if not all(isinstance(n, int) and 0 <= n <= 64 for n in given["blocks"].values()):
            raise ValueError(f"its blocks are {str(given['blocks'])[:60]}, expected how many for each network")
        return cls(**{**given, "halved": tuple(given["halved"]), "float_layers": tuple(given["float_layers"])})


_TYPES: Mapping[str, Any] = {
    **dict.fromkeys(("preset", "model", "variant", "norm", "padding", "upsampling"), str),
    **dict.fromkeys(("fill", "guided", "residual", "separable", "fused", "quantized"), bool),
    **dict.fromkeys(("resolution", "shrink"), int),
    **dict.fromkeys(("halved", "float_layers"), list | tuple),
    "blocks": dict,
}

_TOLD = {str: "a word", bool: "true or false", int: "a number", list | tuple: "a list of names", dict: "numbers by name"}

"""An exported file and its card: load it, run it, describe it, count it, and write down what was measured.

    erased = Artifact("exports/int8.tflite").erase(image_u8, mask_u8)

One `run(image, mask)` for every runtime. What the file takes, its order, layout, type and quantization, is read from
the file itself. The card, `<file>.json` beside it, is written by the exporter; what stands in one is told by
`card.schema.json` beside this module, a JSON Schema (docs/cards.md).

Importing this module loads numpy only; a runtime is imported by the first `Artifact` that needs it.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import os
import platform
import shlex
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from faceeraser.artifacts import embedded
from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.artifacts.painting import LUMA
from faceeraser.system import trial
from faceeraser.system.extras import need
from faceeraser.system.reading import json_object, json_value
from faceeraser.system.writing import whole_file

Fields = dict[str, Any]

CARD_FORMAT = 1
KINDS = {".tflite": "tflite", ".onnx": "onnx", ".mlpackage": "coreml"}
PRECISIONS = (
    "fp32",
    "fp16",
    "int8",
    "palette6",
    "palette4",
    "int8-activations",
    "int8-activations-fp16",
)
MEANINGS = {
    "image": "the picture, RGB",
    "mask": "1 = erase, 0 = keep",
    "edges": "1 = edge, as faceeraser.edges.canny finds them",
    "erased": "the picture with its hole painted, RGB",
    "refined": "what is painted, everywhere, RGB",
    "skin": "how surely what is visible is bare skin",
    "shading": "the colours of the empty face, RGB",
    "sources": "for each window of the plan, which source is copied there",
    "offsets_seen": "where the hole copies from",
}
"""What each input and output is, in words that go into files and cards; values are in [0, 1]."""
IMAGE_MEANINGS = {
    "image": "the picture, an RGB image",
    "mask": "a greyscale image: white (128..255) = erase, black = keep",
    "edges": "a greyscale image: white = edge, as faceeraser.edges.canny finds them",
    "erased": "the picture with its hole painted, an RGB image",
}
"""The same of a CoreML package that takes images, in 0..255."""
# What only the exporter knows; the rest of a card is read from the file.
CARD_NEEDS = ("precision", "resolution", "edges", "warp", "parity", "notes", "history")
# The same of a network that is no face eraser, which the card's `network` names.
ANY_CARD_NEEDS = ("precision", "network", "warp", "parity", "notes", "history")
TFLITE_RUNTIMES = {
    "ai_edge_litert": "ai_edge_litert.interpreter",
    "tensorflow": "tensorflow.lite",
    "tflite_runtime": "tflite_runtime.interpreter",
}
RANGES = {"sources": [0.0, 840.0], "offsets_seen": [-1.0, 1.0]}
"""Of what is no picture, in a card."""
PLAN = ("skin", "shading", "sources")
"""Outputs of a file that only plans."""
RESAMPLER = "Resampler"
"""The custom operator of the GPU delegates: picture (N, H, W, C) and absolute x, y (N, h, w, 2) -> samples (N, h, w, C)."""
# What an element of a tensor takes, by TFLite's name of its type.
TENSOR_BYTES = {
    "FLOAT32": 4,
    "FLOAT16": 2,
    "FLOAT64": 8,
    "INT8": 1,
    "UINT8": 1,
    "INT16": 2,
    "UINT16": 2,
    "INT32": 4,
    "UINT32": 4,
    "INT64": 8,
    "UINT64": 8,
    "BOOL": 1,
}
PACKAGES = (
    "faceeraser",
    "numpy",
    "opencv-python-headless",
    "torch",
    "torchao",
    "torch-pruning",
    "litert-torch",
    "ai-edge-litert",
    "tensorflow",
    "onnx",
    "onnxruntime",
    "coremltools",
    "scikit-image",
)


# --- the file -------------------------------------------------------------------------------------------------------


def kind_of(path: str | Path) -> str:
    """'tflite', 'onnx' or 'coreml', by the name's ending. Raises ValueError for any other."""
    suffix = Path(path).suffix
    if suffix not in KINDS:
        raise ValueError(f"{path}: cannot tell what this is; expected a file ending in {', '.join(KINDS)}")
    return KINDS[suffix]


def _members(path: Path) -> list[Path]:
    """The files an artifact consists of: itself, or for a folder (.mlpackage) all that is in it, in a fixed order."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; export one first, with export/to_tflite.py for example")
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def sha256_of(path: str | Path) -> str:
    """Hex sha256 of a file; of a folder, over each file's relative name, size and content, in sorted order."""
    path = Path(path)
    digest = hashlib.sha256()
    for member in _members(path):
        if path.is_dir():
            digest.update(f"{member.relative_to(path).as_posix()}\0{member.stat().st_size}\0".encode())
        with open(member, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def bytes_of(path: str | Path) -> int:
    """Size in bytes of a file, or of all files in a folder."""
    return sum(member.stat().st_size for member in _members(Path(path)))


# --- the card -------------------------------------------------------------------------------------------------------


def card_path(path: str | Path) -> Path:
    """Where the card of an exported file lies: `<path>.json`."""
    return Path(f"{str(path).rstrip('/')}.json")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all. Raises ValueError when a number is NaN or infinite, which JSON cannot say."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    with whole_file(path) as partial:
        partial.write_text(text)


def write_card(path: str | Path, fields: Mapping[str, Any]) -> Fields:
    """Write the card of the exported file at `path`, atomically, and return it.

    `fields` needs precision, resolution, edges, warp, parity, notes and history. Format, file, kind, sha256 and bytes
    are the file's; inputs, outputs, gmacs and params are read from it unless given (CoreML: give them).
    Raises ValueError when a field is missing or wrong, FileNotFoundError when the file is not there.
    """
    path = Path(path)
    kind = kind_of(path)
    missing = [name for name in (ANY_CARD_NEEDS if "network" in fields else CARD_NEEDS) if name not in fields]
    if missing:
        raise ValueError(f"the card of {path.name} lacks {', '.join(missing)}")
    for name, allowed in {"precision": PRECISIONS, "edges": ("inside", "input")}.items():
        if name in fields and fields[name] not in allowed:
            raise ValueError(f"the card of {path.name}: {name} is {fields[name]!r}, expected {' or '.join(allowed)}")
    if path.with_name(path.name + ".data").exists():
        raise ValueError(f"{path.name} keeps its weights in {path.name}.data; export one file (external_data=False)")
    card: Fields = {
        "format": CARD_FORMAT,
        "file": path.name,
        "kind": kind,
        "sha256": sha256_of(path),
        "bytes": bytes_of(path),
    }
    if kind != "coreml":
        if "inputs" not in fields or "outputs" not in fields:
            card |= _described(path)  # made here
        if "gmacs" not in fields or "params" not in fields:
            card |= count(path, fields.get("resolution"))
    card = card | dict(fields) | {key: card[key] for key in ("format", "file", "kind", "sha256", "bytes")}
    missing = [name for name in ("inputs", "outputs", "gmacs", "params") if name not in card]
    if missing:
        raise ValueError(f"the card of {path.name} lacks {', '.join(missing)}: a CoreML package does not tell")
    write_json(card_path(path), card)
    return card


def read_card(path: str | Path) -> Fields:
    """The card of the exported file at `path`, checked against the file.

    Of a file that has lost its card, what it says of itself (embedded.py), with a note; its parity is not known.

    Raises FileNotFoundError when the file is missing, or its card and it says nothing; ValueError when the card is
    unreadable, of another format, or was written for other bytes than the file's.
    """
    path = Path(path)
    kind = kind_of(path)
    _members(path)
    beside = card_path(path)
    if not beside.is_file():
        if told := embedded.read(path):
            lost: Fields = {
                **told,
                "format": CARD_FORMAT,
                "file": path.name,
                "kind": kind,
                "sha256": sha256_of(path),
                "bytes": bytes_of(path),
                "parity": {"n": 0, "passed": None},
                "history": [],
                "notes": ["its card is lost: this is what stands in the file itself, without its history and its parity"],
            }
            if why := _misfit(lost):
                raise ValueError(f"{path}: what it says of itself: {why} (docs/cards.md); export again")
            return lost
        raise FileNotFoundError(f"{path}: no card beside it; expected {beside.name}; export again")
    card: Fields = json_object(beside, "the card of an exported file; export again")
    if card.get("format") != CARD_FORMAT:
        found = str(card.get("format"))[:40]
        raise ValueError(f"{beside}: the card's format is {found!r}, this version reads {CARD_FORMAT}; export again")
    if (found := sha256_of(path)) != card.get("sha256"):
        raise ValueError(
            f"{path}: sha256 is {found[:12]}..., its card says {str(card.get('sha256'))[:12]}...: "
            "the file and the card do not belong together; export again"
        )
    if why := _misfit(card):
        raise ValueError(f"{beside}: {why} (docs/cards.md); export again")
    if card["kind"] != kind_of(path):
        raise ValueError(f"{beside}: is the card of a {card['kind']} file, and {path.name} is none; export again")
    return card


def _misfit(card: Fields) -> str:
    """What is wrong with a card by its schema, or ""."""
    import fastjsonschema

    try:
        _schema()(card)
        return ""
    except fastjsonschema.JsonSchemaValueException as error:
        return " ".join(str(error.message).split())[:160].replace("data", "the card", 1)


@cache
def _schema() -> Callable[[Fields], Fields]:
    """What holds a card against the schema."""
    import fastjsonschema

    schema = json.loads(Path(__file__).with_name("card.schema.json").read_text())
    made: Callable[[Fields], Fields] = fastjsonschema.compile(schema)
    return made


# --- running --------------------------------------------------------------------------------------------------------


class _Port:
    """One input or output of a model: how to put an NHWC float picture into it, or to take one out."""

    def __init__(
        self, name: str, shape: Sequence[Any], dtype: Any, scale: float = 0.0, zero_point: int = 0, image: bool = False
    ) -> None:
        self.image = image  # CoreML's: 8 bits, white for 1
        self.name, self.dtype, self.scale, self.zero_point = name, np.dtype(dtype), float(scale), int(zero_point)
        self.shape = [int(n) if isinstance(n, (int, np.integer)) and n > 0 else None for n in shape]  # None: any
        self.layout, self.channels = "NC" if len(self.shape) == 2 else "?", 0
        for layout, axis in (("NHWC", 3), ("NCHW", 1)):
            # A picture has 3 channels, a mask 1, a plan 2. (Sides of 1 to 3 pixels, which could mislead, nobody exports.)
            if self.layout == "?" and len(self.shape) == 4 and self.shape[axis] in (1, 2, 3):
                self.layout, self.channels = layout, self.shape[axis] or 0

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Height and width in pixels; None where the model takes any."""
        rows = 1 if self.layout == "NHWC" else 2
        return self.shape[rows], self.shape[rows + 1]

    @property
    def batched(self) -> bool:
        """Whether it takes any number of pictures at once."""
        return self.shape[0] is None

    def pack(self, value: np.ndarray) -> np.ndarray:
        """Float (N, H, W, C) in [0, 1] as the model wants it."""
        value = value.transpose(0, 3, 1, 2) if self.layout == "NCHW" else value
        if np.issubdtype(self.dtype, np.integer):
            # Without a scale an integer port takes plain 8-bit pictures, and masks of 0 and 1.
            scale = self.scale or (1 / 255 if self.channels == 3 else 1.0)
            limits = np.iinfo(self.dtype)
            value = (np.rint(value / scale) + self.zero_point).clip(limits.min, limits.max)
        return np.ascontiguousarray(value, dtype=self.dtype)

    def unpack(self, value: np.ndarray) -> np.ndarray:
        """What the model gave, as float32 (N, H, W, C) in [0, 1]."""
        real = value.astype(np.float32)
        if np.issubdtype(self.dtype, np.integer):
            real = (real - self.zero_point) * np.float32(self.scale or 1 / 255)
        return real.transpose(0, 2, 3, 1) if self.layout == "NCHW" else real

    @property
    def meaning(self) -> str:
        """What it is, in words; by its channels where its name tells nothing."""
        said = IMAGE_MEANINGS if self.image else MEANINGS
        return said.get(self.name, said["image" if self.channels == 3 else "mask"])

    def described(self) -> Fields:
        """The port as a card lists it."""
        quantization = {"scale": self.scale, "zero_point": self.zero_point} if self.scale else None
        return {
            "name": self.name,
            "shape": self.shape,
            "layout": self.layout,
            "dtype": self.dtype.name,
            "range": RANGES.get(self.name, [0.0, 1.0]),
            "quantization": quantization,
            "meaning": self.meaning,
        }


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


class _TFLite:
    def __init__(self, path: Path, threads: int, runtime: str | None, delegate: Path | None, runs: bool = True) -> None:
        """`runs`: False to look at its ports only, which needs neither memory nor a delegate."""
        interpreter, load_delegate = _tflite_runtime(runtime)
        if delegate:
            try:  # first by hand: load_delegate leaves a half-made object behind, which fails again when it is collected
                _ = ctypes.CDLL(str(delegate.resolve())).tflite_plugin_create_delegate
            except (OSError, AttributeError) as error:
                raise ValueError(
                    f"{delegate}: cannot be loaded as a delegate ({_first_line(error)}); "
                    f"make it: bash export/build_resampler.sh {delegate}"
                ) from None
        delegates = [load_delegate(str(delegate.resolve()))] if delegate else None
        try:
            self._interpreter = interpreter(model_path=str(path), num_threads=threads, experimental_delegates=delegates)
            if runs:
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            if f"custom op: {RESAMPLER}" in str(error):
                raise ValueError(
                    f"{path}: warps by {RESAMPLER}, an operator that GPU delegates have and a CPU needs a plugin for: "
                    "bash export/build_resampler.sh resampler.so, then --delegate resampler.so"
                ) from None
            raise ValueError(f"{path}: this runtime cannot load it as a TFLite model ({_first_line(error)})") from None
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        names: dict[int, str] = {}
        for signature in list(self._interpreter.get_signature_list())[:1]:
            # A signature's names ("mask") say what a tensor's name ("serving_default_args_1:0") may not.
            runner = self._interpreter.get_signature_runner(signature)
            for named in (runner.get_input_details(), runner.get_output_details()):
                names |= {tensor["index"]: name for name, tensor in named.items()}
        self.inputs, self.outputs = (
            [_Port(names.get(d["index"], d["name"]), d["shape"], d["dtype"], *d["quantization"]) for d in details]
            for details in (self._inputs, self._outputs)
        )

    def __call__(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        for details, value in zip(self._inputs, values, strict=True):
            self._interpreter.set_tensor(details["index"], value)
        try:
            self._interpreter.invoke()
        except RuntimeError:
            # TensorFlow's class counts references and refuses while any other is alive, a signature runner among them
            # that the collector has not taken yet (seen once in CI). An error of the model's own is raised again.
            gc.collect()
            self._interpreter.invoke()
        return [self._interpreter.get_tensor(details["index"]) for details in self._outputs]


def _tflite_runtime(runtime: str | None) -> tuple[Callable[..., Any], Callable[[str], Any]]:
    """(the Interpreter class, what loads a delegate) of the runtime named, or of the first that is installed."""
    for name in TFLITE_RUNTIMES if runtime is None else [runtime]:
        try:
            module = import_module(TFLITE_RUNTIMES[name].removesuffix(".lite"))
        except ImportError:
            continue
        if name == "tensorflow":
            return module.lite.Interpreter, module.lite.experimental.load_delegate
        return module.Interpreter, module.load_delegate
    wanted = runtime or "ai_edge_litert"
    extra = "'faceeraser[tflite]'" if wanted == "tensorflow" else "tflite-runtime" if runtime else "faceeraser"
    raise ModuleNotFoundError(f"{wanted} is not installed, which running a .tflite file needs: pip install {extra}")


class _ONNX:
    def __init__(self, path: Path, threads: int) -> None:
        runtime = need("onnxruntime", "onnx", "running an .onnx file")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own errors share no base class
            raise ValueError(f"{path}: ONNX Runtime cannot load it ({_first_line(error)})") from None
        types = {"float": "float32", "double": "float64"}
        self.inputs, self.outputs = (
            [_Port(p.name, p.shape, types.get(t := p.type.removeprefix("tensor(")[:-1], t)) for p in ports]
            for ports in (self._session.get_inputs(), self._session.get_outputs())
        )

    def __call__(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        named = {port.name: value for port, value in zip(self.inputs, values, strict=True)}
        return list(self._session.run(None, named))


class _CoreML:
    """A package of CoreML's: its ports can be read anywhere, it predicts on macOS."""

    def __init__(self, path: Path) -> None:
        tools = need("coremltools", "coreml", "reading an .mlpackage")
        self._model = tools.models.MLModel(str(path), skip_model_load=sys.platform != "darwin")
        description = self._model.get_spec().description
        array = tools.proto.FeatureTypes_pb2.ArrayFeatureType
        types = {array.FLOAT16: "float16", array.FLOAT32: "float32", array.DOUBLE: "float64", array.INT32: "int32"}
        colours = {tools.proto.FeatureTypes_pb2.ImageFeatureType.RGB: 3}

        def port(feature: Any) -> _Port:
            if feature.type.WhichOneof("Type") == "imageType":
                kind = feature.type.imageType
                shape = [1, kind.height, kind.width, colours.get(kind.colorSpace, 1)]
                return _Port(feature.name, shape, np.uint8, 1 / 255, image=True)
            kind = feature.type.multiArrayType
            return _Port(feature.name, list(kind.shape), types[kind.dataType])

        self.inputs, self.outputs = ([port(p) for p in ports] for ports in (description.input, description.output))

    def __call__(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        if sys.platform != "darwin":
            raise RuntimeError(
                f"CoreML predicts on macOS only, this is {platform.system()}: use the .tflite or .onnx export here"
            )
        given = {port.name: value for port, value in zip(self.inputs, values, strict=True)}
        for port in self.inputs:
            if port.image:
                given[port.name] = Image.fromarray(np.squeeze(given[port.name][0]))
        found = self._model.predict(given)
        # An image comes back with an alpha channel.
        return [np.asarray(found[p.name])[None, ..., :3] if p.image else np.asarray(found[p.name]) for p in self.outputs]


def _open(
    path: Path, threads: int, runtime: str | None = None, delegate: Path | None = None, runs: bool = True
) -> _TFLite | _ONNX | _CoreML:
    kind = kind_of(path)
    if kind == "tflite":
        return _TFLite(path, threads, runtime, delegate, runs)
    if delegate:
        raise ValueError(f"{path}: is no .tflite file, and takes no delegate ({delegate})")
    return _ONNX(path, threads) if kind == "onnx" else _CoreML(path)


def _roles(path: Path, ports: Sequence[_Port]) -> list[str]:
    """What each input is: 'image', 'mask' or 'edges', in the model's own order."""
    roles = []
    single = [port for port in ports if port.channels == 1]
    for port in ports:
        if port.channels == 3:
            roles.append("image")
        elif port.channels == 1:
            # One single-channel input is the mask whatever it is called; of two, the name has to tell.
            roles.append("edges" if len(single) > 1 and "edge" in port.name.lower() else "mask")
    if sorted(roles) not in (["image", "mask"], ["edges", "image", "mask"]) or len(roles) != len(ports):
        found = ", ".join(f"{port.name} {port.shape}" for port in ports)
        raise ValueError(f"{path}: its inputs are {found}; expected an image, a mask and perhaps 'edges'")
    return roles


class Artifact:
    """An exported face eraser, ready to run: file and card are checked, the runtime is loaded.

    `card` is the card; `resolution` the (height, width) the file takes, None where it takes any; `wants_edges` whether
    edges are an input (then they are computed here, by `faceeraser.edges`).

    Raises FileNotFoundError, ValueError (file, card or inputs are not as expected) or
    ModuleNotFoundError (names the extra to install).
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        runtime: str | None = None,
        delegate: str | Path | None = None,
    ) -> None:
        """`threads`: CPU threads, all by default. For .tflite, `runtime`: one of `TFLITE_RUNTIMES`; `delegate`: a plugin.

        A file with the operator Resampler needs the one that `bash export/build_resampler.sh resampler.so` makes.
        """
        self.path = Path(path)
        self.card = read_card(self.path)
        if "network" in self.card:
            raise ValueError(f"{self.path}: is {self.card['network']['name']}, no face eraser; run it by its own runtime")
        if not card_path(self.path).is_file():
            trial.check(self.path)
        self._model = _open(self.path, threads or os.cpu_count() or 1, runtime, Path(delegate) if delegate else None)
        self._roles = _roles(self.path, self._model.inputs)
        pictures = [port for port in self._model.outputs if port.channels == 3]
        named = [port for port in pictures if "erased" in port.name.lower()] or pictures
        self.plans = set(PLAN) <= {port.name for port in self._model.outputs} and "erased" not in named[0].name
        if len(named) != 1:
            found = ", ".join(f"{port.name} {port.shape}" for port in self._model.outputs)
            raise ValueError(f"{self.path}: its outputs are {found}; expected one picture, or one named 'erased'")
        self._erased = -1 if self.plans else self._model.outputs.index(named[0])
        self.wants_edges = "edges" in self._roles
        if self.wants_edges != (self.card["edges"] == "input"):
            raise ValueError(
                f"{self.path}: the card says edges are {self.card['edges']!r}, "
                f"the file has {'an' if self.wants_edges else 'no'} input for them; export again"
            )

    @property
    def resolution(self) -> tuple[int | None, int | None]:
        """Height and width in pixels; None where the file takes any."""
        return self._model.inputs[self._roles.index("image")].size

    def run(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Erase: float32 in, float32 out, [0, 1], RGB.

        `image` (H, W, 3) with `mask` (H, W) or (H, W, 1), or (N, H, W, 3) with (N, H, W) or (N, H, W, 1); 1 = erase.
        Returns the image's shape. Raises ValueError for other shapes, sizes or ranges; RuntimeError for CoreML anywhere
        but on macOS.
        """
        image, mask = np.asarray(image), np.asarray(mask)
        for name, values in (("image", image), ("mask", mask)):
            if values.size and not (values.min() >= 0 and values.max() <= 1):
                raise ValueError(
                    f"{name} has values from {values.min()} to {values.max()}; expected [0, 1] (8 bits: `erase`)"
                )
        return self._painted(image, mask)

    def outputs(self, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Everything the file gives for one picture, by name, as float32 (h, w, channels); errors and inputs as of `run`."""
        pictures, masks = self._checked(np.asarray(image), np.asarray(mask))
        values = self._values(pictures[:1], masks[:1])
        given = self._packed(values, self._at_once or 1)
        return {p.name: p.unpack(made)[0] for p, made in zip(self._model.outputs, self._model(given), strict=True)}

    def plan(self, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Of a file that only plans (`plans`): `skin`, `shading` and `sources` for a picture (H, W, 3) uint8 and a mask
        (H, W), any non-zero = erase, as `painting.paint_by_plan` takes them. Errors as of `run`.
        """
        return self.outputs(np.divide(image, np.float32(255), dtype=np.float32), (np.asarray(mask) > 0).astype(np.float32))

    def _values(self, pictures: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
        """What goes in, by role."""
        return {"image": pictures, "mask": masks, **({"edges": _edges(pictures, masks)} if self.wants_edges else {})}

    def _painted(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """`run`, once the ranges are known."""
        if self.plans:
            raise ValueError(f"{self.path}: makes plans and paints nothing itself; erase whole photographs with it")
        pictures, masks = self._checked(image, mask)
        values = self._values(pictures, masks)
        step = max(self._at_once or len(pictures), 1)
        erased = np.empty_like(pictures)
        for start in range(0, len(pictures), step):
            part = slice(start, start + step)
            given = self._packed({role: value[part] for role, value in values.items()}, step)
            made = self._model.outputs[self._erased].unpack(self._model(given)[self._erased])
            erased[part] = made[: len(pictures[part])]
        return erased if image.ndim == 4 else erased[0]

    @property
    def _at_once(self) -> int | None:
        """Pictures that the file takes at once; None where it takes any number."""
        ports = self._model.inputs
        return None if all(port.batched for port in ports) else max(port.shape[0] or 1 for port in ports)

    def _packed(self, values: Mapping[str, np.ndarray], number: int) -> list[np.ndarray]:
        """Values by role as the model's inputs, of so many pictures: the last one again where there are fewer."""
        filled = {
            role: np.concatenate([x, np.repeat(x[-1:], number - len(x), 0)]) if len(x) < number else x
            for role, x in values.items()
        }
        return [port.pack(filled[role]) for port, role in zip(self._model.inputs, self._roles, strict=True)]

    def _checked(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both as float32 (N, H, W, C), or ValueError."""
        if image.ndim not in (3, 4) or image.shape[-1] != 3:
            raise ValueError(f"image has shape {image.shape}; expected (H, W, 3) or (N, H, W, 3)")
        if mask.shape not in (image.shape[:-1], (*image.shape[:-1], 1)):
            raise ValueError(f"mask has shape {mask.shape}; expected {image.shape[:-1]}, the image's")
        for wanted, found, side in zip(self.resolution, image.shape[-3:-1], ("high", "wide"), strict=True):
            if wanted is not None and found != wanted:
                raise ValueError(f"image is {found} pixels {side}; {self.path.name} takes {wanted}: resize it first")
        if allowed := self.card.get("sizes"):
            self._check_size(image.shape[-3:-1], allowed)
        image = image if image.ndim == 4 else image[None]
        return image.astype(np.float32, copy=False), mask.reshape(*image.shape[:3], 1).astype(np.float32, copy=False)

    def _check_size(self, size: Sequence[int], allowed: Mapping[str, int]) -> None:
        """Of a file that takes any size its card allows. Raises ValueError for another."""
        step, least, most = (allowed[name] for name in ("multiple_of", "min", "max"))
        if any(side % step or not least <= side <= most for side in size):
            raise ValueError(
                f"image is {size[1]} x {size[0]} pixels; {self.path.name} takes multiples of {step} from {least} to {most}: "
                "resize or pad it first"
            )

    def erase(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """`run` for 8-bit pictures: uint8 (H, W, 3) RGB and a mask, any non-zero = erase; returns uint8 (H, W, 3).

        Pixels outside the mask come back exactly as they went in. Shapes and errors are those of `run`.
        """
        if image.dtype != np.uint8:
            raise ValueError(f"image is {image.dtype}; expected uint8 (for float pictures: `run`)")
        hole = np.asarray(mask) > 0
        painted = self._painted(np.divide(image, np.float32(255), dtype=np.float32), hole.astype(np.float32))
        painted = np.rint(np.multiply(painted, 255, out=painted), out=painted).clip(0, 255, out=painted)
        return np.where(hole.reshape(*image.shape[:-1], 1), painted.astype(np.uint8), image)


def _edges(pictures: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The edge maps of (N, H, W, 3) pictures outside their masks (N, H, W, 1), as float32 (N, H, W, 1)."""
    from faceeraser.artifacts import edges

    grey = pictures @ np.array(LUMA, np.float32)
    found = [edges.canny(g, m[..., 0]) for g, m in zip(grey, masks, strict=True)]
    return np.asarray(found, np.float32).reshape(masks.shape)


# --- describing and counting ----------------------------------------------------------------------------------------


def describe(path: str | Path) -> Fields:
    """{"inputs": [...], "outputs": [...]} as a card lists them, read from the file. Needs no card."""
    path = Path(path)
    _members(path)
    trial.check(path)
    return _described(path)


def _described(path: Path) -> Fields:
    model = _open(path, threads=1, runs=False)
    return {"inputs": [p.described() for p in model.inputs], "outputs": [p.described() for p in model.outputs]}


def count(path: str | Path, resolution: int | None = None) -> Fields:
    """{"gmacs", "params"} of a .tflite or .onnx file, counted on its own graph at its own resolution, or at `resolution`
    (height and width) where it takes any.

    Counted are convolutions, depthwise and transposed ones, and dense layers: multiply-accumulates of one picture, and
    the elements of their weights and biases. Raises ValueError for CoreML, whose package keeps no shapes to count on.
    """
    path = Path(path)
    kind = kind_of(path)
    _members(path)
    if kind == "coreml":
        raise ValueError(f"{path}: a CoreML package cannot be counted; count the .tflite or .onnx export")
    with _parsed(path):
        macs, params = _count_tflite(path) if kind == "tflite" else _count_onnx(path, resolution)
    return {"gmacs": float(macs / 1e9), "params": params}


def operators(path: str | Path) -> list[Fields]:
    """[{"type", "n", "moved_mb"}] of a .tflite file's first graph, the type that moves most first.

    moved_mb: what one picture makes these operators read and write, in 10^6 bytes: all their inputs, weights too, and all
    their outputs, as if nothing stayed in a cache. A RESHAPE moves nothing. Raises ValueError for another kind of file, or
    for a tensor of a type whose size is not known here.
    """
    path = Path(path)
    if kind_of(path) != "tflite":
        raise ValueError(f"{path}: operators are listed of .tflite files only; export one with export/to_tflite.py")
    _members(path)
    schema = _tflite_schema()
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    kinds = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}

    def moved(tensor: int) -> int:
        kind = kinds[graph.Tensors(tensor).Type()]
        if kind not in TENSOR_BYTES:
            raise ValueError(f"{path}: has a tensor of type {kind}; expected one of {', '.join(TENSOR_BYTES)}")
        shape = graph.Tensors(tensor).ShapeAsNumpy() if graph.Tensors(tensor).ShapeLength() else []
        return _size(shape) * TENSOR_BYTES[kind]

    found: dict[str, Fields] = {}
    for op in (graph.Operators(i) for i in range(graph.OperatorsLength())):
        code = model.OperatorCodes(op.OpcodeIndex())
        custom = code.CustomCode()
        name = custom.decode() if custom else names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        tensors = [op.Inputs(i) for i in range(op.InputsLength())] + [op.Outputs(i) for i in range(op.OutputsLength())]
        row = found.setdefault(name, {"type": name, "n": 0, "moved_mb": 0.0})
        row["n"] += 1
        row["moved_mb"] += 0.0 if name == "RESHAPE" else sum(moved(t) for t in tensors if t >= 0) / 1e6
    return sorted(found.values(), key=lambda row: (-row["moved_mb"], row["type"]))


def _tflite_schema() -> Any:
    for name in ("ai_edge_litert.schema_py_generated", "tensorflow.lite.python.schema_py_generated"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise ModuleNotFoundError("reading a .tflite file's graph needs the schema in ai-edge-litert: pip install faceeraser")


def _size(shape: Sequence[int]) -> int:
    return int(np.prod([max(int(n), 1) for n in shape], dtype=np.int64))  # an open dimension (0, -1) is one picture


def _count_tflite(path: Path) -> tuple[int, int]:
    schema = _tflite_schema()
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    operator = schema.BuiltinOperator
    codes = [
        max(model.OperatorCodes(i).BuiltinCode(), model.OperatorCodes(i).DeprecatedBuiltinCode())
        for i in range(model.OperatorCodesLength())
    ]
    macs, weights = 0, 0
    for g in range(model.SubgraphsLength()):
        graph = model.Subgraphs(g)
        ops = [graph.Operators(i) for i in range(graph.OperatorsLength())]
        unpacked = {op.Outputs(0): op.Inputs(0) for op in ops if codes[op.OpcodeIndex()] == operator.DEQUANTIZE}
        seen: set[int] = set()

        def shape(tensor: int, graph: Any = graph) -> list[int]:
            return graph.Tensors(tensor).ShapeAsNumpy().tolist() if graph.Tensors(tensor).ShapeLength() else []

        def constant(tensor: int, graph: Any = graph, unpacked: dict[int, int] = unpacked) -> bool:
            buffer = model.Buffers(graph.Tensors(unpacked.get(tensor, tensor)).Buffer())
            return buffer.DataLength() > 0 or buffer.Size() > 0

        for op in ops:
            code = codes[op.OpcodeIndex()]
            inputs = [op.Inputs(i) for i in range(op.InputsLength())]
            produced = _size(shape(op.Outputs(0)))
            if code == operator.CONV_2D:  # weights (out, kh, kw, in / groups)
                macs, ours = macs + produced * _size(shape(inputs[1])[1:]), inputs[1:3]
            elif code == operator.DEPTHWISE_CONV_2D:  # weights (1, kh, kw, out)
                macs, ours = macs + produced * _size(shape(inputs[1])[1:3]), inputs[1:3]
            elif code == operator.TRANSPOSE_CONV:  # inputs: output shape, weights (out, kh, kw, in), picture, bias
                taken = _size(shape(inputs[2]))
                macs, ours = macs + taken * _size(shape(inputs[1])[:3]), [inputs[1], *inputs[3:4]]
            elif code in (operator.FULLY_CONNECTED, operator.BATCH_MATMUL):
                depth = shape(inputs[0])[-1]  # a converter writes a dense layer as either
                macs, ours = macs + produced * depth, inputs[1:3]
            else:
                continue
            fresh = [t for t in ours if t >= 0 and t not in seen and constant(t)]
            seen.update(fresh)
            weights += sum(_size(shape(t)) for t in fresh)
    return macs, weights


def _count_onnx(path: Path, resolution: int | None) -> tuple[int, int]:
    onnx = need("onnx", "onnx", "counting an .onnx file")
    model = onnx.load(str(path), load_external_data=False)
    for value in model.graph.input:
        for axis, side in enumerate(value.type.tensor_type.shape.dim):
            if not side.dim_value and axis and resolution:
                side.dim_value = resolution
    if resolution:
        del model.graph.value_info[:]  # inferred again, and what comes out is told by what goes in
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    constants = {tensor.name for tensor in graph.initializer}
    macs, weights, seen = 0, 0, set()
    for node in graph.node:
        if node.op_type in ("Constant", "DequantizeLinear", "Cast", "Transpose") and constants.issuperset(node.input):
            constants.add(node.output[0])  # a weight that is stored in another type or order
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        unknown = [name for name in (*node.input[:2], node.output[0]) if name not in shapes]
        if unknown:
            raise ValueError(f"{path}: the shape of {unknown[0]} cannot be inferred, so its graph cannot be counted")
        taken, weight, produced = (shapes[name] for name in (node.input[0], node.input[1], node.output[0]))
        if node.op_type == "Conv":  # weights (out, in / groups, kh, kw)
            macs += _size(produced) * _size(weight[1:])
        elif node.op_type == "ConvTranspose":  # weights (in, out / groups, kh, kw)
            macs += _size(taken) * _size(weight[1:])
        else:
            turned = any(a.name == "transA" and a.i for a in node.attribute)
            macs += _size(produced) * taken[0 if turned else -1]
        fresh = [name for name in node.input[1:3] if name in constants and name not in seen]
        seen.update(fresh)
        weights += sum(_size(shapes[name]) for name in fresh)
    return macs, weights


def contents(path: str | Path) -> Fields:
    """{"operators": {type: how many}, "layers": [...]} of an exported file, read from the file itself; needs no card.

    layers: [{"layer", "operator", "stored", "bytes"}] of every convolution, in the file's order: what its weights are stored
    as, and how many bytes they take with their scales or table. Raises ValueError, FileNotFoundError or ModuleNotFoundError
    (names the extra to install).
    """
    path = Path(path)
    kind = kind_of(path)
    _members(path)
    with _parsed(path):
        names, layers = {"tflite": _tflite_contents, "onnx": _onnx_contents, "coreml": _coreml_contents}[kind](path)
    return {"operators": dict(Counter(names).most_common()), "layers": layers}


@contextmanager
def _parsed(path: Path) -> Iterator[None]:
    """Whatever a file's parser raises becomes one line: on damaged bytes it may be anything."""
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise ValueError(f"{path}: is damaged, or no model ({_first_line(error)}); export again") from None


def _layer(name: str, operator: str, stored: str, size: int) -> Fields:
    return {"layer": name, "operator": operator, "stored": stored, "bytes": int(size)}


def _tflite_contents(path: Path) -> tuple[list[str], list[Fields]]:
    try:
        graph = Graph(path)
    except (ValueError, struct.error, IndexError, TypeError) as error:
        raise ValueError(f"{path}: this is not a TFLite model ({_first_line(error)}); export again") from None
    layers = []
    for op in graph.ops("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"):
        weights = int(op.inputs[1])
        if (unpack := graph.maker.get(weights)) is not None:  # float16, which a DEQUANTIZE before it unpacks
            weights = int(unpack.inputs[0])
        tensor = graph.graph.tensors[weights]
        scales = tensor.quantization.scale if tensor.quantization is not None else None
        size = len(graph.model.buffers[tensor.buffer].data) + (0 if scales is None else 4 * len(scales))
        # The path of modules that made it: '.../_pipeline/...EdgeGenerator_edge/...Conv_stem/...'.
        made = bytes(graph.graph.tensors[int(op.outputs[0])].name).decode().split("_pipeline/")[-1].split(";")[0]
        name = ".".join(part.rpartition("_")[2] for part in made.split("/"))
        layers.append(_layer(name, graph.name(op), graph.type(weights).lower(), size))
    return [graph.name(op) for op in graph.graph.operators], layers


def _onnx_contents(path: Path) -> tuple[list[str], list[Fields]]:
    onnx = need("onnx", "onnx", "reading an .onnx file")
    graph = onnx.load(str(path), load_external_data=False).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    layers = []
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        unpack = maker.get(node.input[1])
        parts = [constants[name] for name in (unpack.input if unpack else node.input[1:2]) if name in constants]
        sizes = [onnx.numpy_helper.to_array(part).nbytes for part in parts]
        stored = onnx.helper.tensor_dtype_to_np_dtype(parts[0].data_type).name if parts else "?"
        named = next((name for name in node.input[1:] if name.endswith((".weight", ".bias"))), node.name)
        name = named.removeprefix("pipeline.").rpartition(".")[0] or named
        layers.append(_layer(name, node.op_type, stored, sum(sizes)))
    return [node.op_type for node in graph.node], layers


def _coreml_contents(path: Path) -> tuple[list[str], list[Fields]]:
    tools = need("coremltools", "coreml", "reading an .mlpackage")
    types = tools.proto.MIL_pb2.DataType
    spec = tools.models.MLModel(str(path), skip_model_load=True).get_spec()
    block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
    maker = {out.name: op for op in block.operations for out in op.outputs}

    def stored(value: Any) -> tuple[str, int]:
        kind = types.Name(value.type.tensorType.dataType)
        dimensions = [side.constant.size for side in value.type.tensorType.dimensions]
        return kind.lower(), _size(dimensions) * TENSOR_BYTES.get(kind, 0)

    layers = []
    for op in block.operations:
        if op.type not in ("conv", "conv_transpose"):
            continue
        weights = maker[op.inputs["weight"].arguments[0].name]
        parts = {
            key: stored(weights.attributes[key])
            for key in ("val", "quantized_data", "scale", "indices", "lut")
            if key in weights.attributes
        }
        kind = f"{parts['lut'][0]} by index" if "lut" in parts else next(iter(parts.values()))[0]
        named = op.inputs["bias"].arguments[0].name if "bias" in op.inputs else weights.outputs[0].name
        name = named.split("pipeline_")[-1].split("_bias")[0].split("_weight")[0].replace("_", ".")
        layers.append(_layer(name, op.type, kind, sum(size for _, size in parts.values())))
    return [op.type for op in block.operations if op.type != "const"], layers


# --- results --------------------------------------------------------------------------------------------------------


ISA = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
"""Instruction sets that decide how fast int8 and float are, as /proc/cpuinfo calls them."""


def isa() -> str:
    """Those of ISA that this machine has, with a space between; '' where it does not say."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    flags = next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith(("flags", "Features"))), set())
    return " ".join(name for name in ISA if name in flags)


def hardware() -> Fields:
    """{"cpu", "isa", "cores", "ram_gb", "system"}: what a timing was taken on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = lines[0].split(":", 1)[1].strip() if lines else cpu
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {"cpu": cpu, "isa": isa(), "cores": os.cpu_count(), "ram_gb": round(ram / 2**30, 1), "system": platform.system()}


def versions() -> dict[str, str]:
    """Version of Python and of every package of `PACKAGES` that is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(folder: str | Path | None = None) -> str:
    """The commit of the checkout this package lies in, '+changes' if tracked files differ from it, or 'uncommitted'."""
    folder = Path(folder) if folder is not None else Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        head = git("rev-parse", "--verify", "HEAD")
        return head + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "uncommitted"


def portable(path: str | Path) -> str:
    """A path that says nothing of this machine: relative to the working folder, or only its name if it is far away."""
    near = os.path.relpath(path)
    return os.path.basename(near) if near.startswith(os.path.join("..", "..")) else near


def _command_line(words: Sequence[str]) -> str:
    """What was typed, with portable paths; `name=path` and `--flag=path` are treated as paths are."""

    def shorten(word: str) -> str:
        head, equals, tail = word.rpartition("=")
        return head + equals + (portable(tail) if tail.startswith((os.sep, os.pardir + os.sep)) else tail)

    return shlex.join(shorten(word) for word in words)


def result(rows: Sequence[Mapping[str, Any]], data: Mapping[str, Any] | None, command: Sequence[str]) -> Fields:
    """The one form of every file under benchmarks/results/.

    `rows` each have a "name". `data` has name, n and eval_sha256 (more is kept; None for timings, which use no data).
    `command` is what was typed, as words. Raises ValueError when a row has no name or data lacks one of the three.
    """
    if nameless := [row for row in rows if not row.get("name")]:
        raise ValueError(f"a result's row has no name: {nameless[0]}")
    about = {"name": None, "n": 0, "eval_sha256": None} if data is None else dict(data)
    if missing := [key for key in ("name", "n", "eval_sha256") if key not in about]:
        raise ValueError(f"a result's data lacks {', '.join(missing)}")
    return {
        "command": _command_line(command),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        "data": about,
        "rows": [dict(row) for row in rows],
    }


def read_result(path: str | Path) -> Fields:
    """A result file, checked for its form.

    Raises ValueError when it cannot be read or is none: not JSON, a part missing, no rows, a row without a name, data that
    is not told.
    """
    wanted = "expected a result of benchmarks/fidelity.py --json or of another benchmark"
    try:
        found = json_value(Path(path), wanted.removeprefix("expected "))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: {wanted} ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {wanted}, found a {type(found).__name__}")
    if missing := [key for key in ("command", "commit", "hardware", "versions", "data", "rows") if not found.get(key)]:
        raise ValueError(f"{path}: {wanted}, it lacks {', '.join(missing)}")
    rows = found["rows"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("name") for row in rows):
        raise ValueError(f"{path}: {wanted}, its rows are not objects that have a name")
    if not isinstance(found["data"], dict):
        raise ValueError(f"{path}: {wanted}, its data is not an object")
    return found


def write_result(path: str | Path, found: Mapping[str, Any]) -> None:
    """Write a `result` atomically. Raises ValueError when a figure is NaN or infinite, which JSON cannot say."""
    write_json(Path(path), found)

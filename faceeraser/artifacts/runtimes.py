"""The runtimes of exported files behind one interface; the inputs and outputs are read from the file itself.

Importing this module loads numpy only; a runtime is imported by the first model that needs it.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from faceeraser.artifacts.files import Fields, kind_of, members
from faceeraser.system import trial
from faceeraser.system.extras import need
from faceeraser.system.reading import first_line

MEANINGS = {
    "image": "the picture, RGB",
    "mask": "1 = erase, 0 = keep",
    "edges": "1 = edge, as faceeraser.artifacts.edges.canny finds them",
    "erased": "the picture with its hole painted, RGB",
    "refined": "what is painted, everywhere, RGB",
    "skin": "how surely what is visible is bare skin",
    "shading": "the colours of the empty face, RGB",
    "sources": "for each window of the plan, which source is copied there",
    "offsets_seen": "where the hole copies from",
}
"""Descriptions of inputs and outputs for files and cards; values are in [0, 1]."""
IMAGE_MEANINGS = {
    "image": "the picture, an RGB image",
    "mask": "a greyscale image: white (128..255) = erase, black = keep",
    "edges": "a greyscale image: white = edge, as faceeraser.artifacts.edges.canny finds them",
    "erased": "the picture with its hole painted, an RGB image",
}
"""The same for a CoreML package that takes images, with values in 0..255."""
TFLITE_RUNTIMES = {
    "ai_edge_litert": "ai_edge_litert.interpreter",
    "tensorflow": "tensorflow.lite",
    "tflite_runtime": "tflite_runtime.interpreter",
}
RANGES = {"sources": [0.0, 840.0], "offsets_seen": [-1.0, 1.0]}
"""Ranges in cards, for outputs that are not pictures."""
RESAMPLER = "Resampler"
"""The custom operator of the GPU delegates: picture (N, H, W, C) and absolute x, y (N, h, w, 2) -> samples (N, h, w, C)."""


class Port:
    """One input or output of a model: converts NHWC float pictures to what the model takes, and back."""

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
        """Height and width in pixels; None where the model accepts any."""
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
        """The model's output as float32 (N, H, W, C) in [0, 1]."""
        real = value.astype(np.float32)
        if np.issubdtype(self.dtype, np.integer):
            real = (real - self.zero_point) * np.float32(self.scale or 1 / 255)
        return real.transpose(0, 2, 3, 1) if self.layout == "NCHW" else real

    @property
    def meaning(self) -> str:
        """A description in words, by the number of channels if the name is unknown."""
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


class _TFLite:
    def __init__(self, path: Path, threads: int, runtime: str | None, delegate: Path | None, runs: bool = True) -> None:
        """`runs`: False to look at its ports only, which needs neither memory nor a delegate."""
        interpreter, load_delegate = _tflite_runtime(runtime)
        if delegate:
            try:  # first by hand: load_delegate leaves a half-made object behind, which fails again when it is collected
                _ = ctypes.CDLL(str(delegate.resolve())).tflite_plugin_create_delegate
            except (OSError, AttributeError) as error:
                raise ValueError(
                    f"{delegate}: cannot be loaded as a delegate ({first_line(error)}); "
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
            raise ValueError(f"{path}: this runtime cannot load it as a TFLite model ({first_line(error)})") from None
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        names: dict[int, str] = {}
        for signature in list(self._interpreter.get_signature_list())[:1]:
            # A signature's names ("mask") say what a tensor's name ("serving_default_args_1:0") may not.
            runner = self._interpreter.get_signature_runner(signature)
            for named in (runner.get_input_details(), runner.get_output_details()):
                names |= {tensor["index"]: name for name, tensor in named.items()}
        self.inputs, self.outputs = (
            [Port(names.get(d["index"], d["name"]), d["shape"], d["dtype"], *d["quantization"]) for d in details]
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
            raise ValueError(f"{path}: ONNX Runtime cannot load it ({first_line(error)})") from None
        types = {"float": "float32", "double": "float64"}
        self.inputs, self.outputs = (
            [Port(p.name, p.shape, types.get(t := p.type.removeprefix("tensor(")[:-1], t)) for p in ports]
            for ports in (self._session.get_inputs(), self._session.get_outputs())
        )

    def __call__(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        named = {port.name: value for port, value in zip(self.inputs, values, strict=True)}
        return list(self._session.run(None, named))


class _CoreML:
    """A package of CoreML's: its ports can be read anywhere, it predicts on macOS."""

    def __init__(self, path: Path) -> None:
        tools = need("coremltools", "coreml", "reading an .mlpackage")
        try:
            self._model = tools.models.MLModel(str(path), skip_model_load=sys.platform != "darwin")
            description = self._model.get_spec().description
            self.inputs, self.outputs = (
                [self._port(port, tools.proto.FeatureTypes_pb2) for port in ports]
                for ports in (description.input, description.output)
            )
        except Exception as error:  # its reader, protobuf and Python have each their own for damaged bytes
            raise ValueError(f"{path}: coremltools cannot load it ({first_line(error)}); export again") from None
        if not self.inputs or not self.outputs:
            raise ValueError(f"{path}: has no input or no output; export again")

    def _port(self, feature: Any, told: Any) -> Port:
        array = told.ArrayFeatureType
        types = {array.FLOAT16: "float16", array.FLOAT32: "float32", array.DOUBLE: "float64", array.INT32: "int32"}
        if feature.type.WhichOneof("Type") == "imageType":
            kind = feature.type.imageType
            shape = [1, kind.height, kind.width, {told.ImageFeatureType.RGB: 3}.get(kind.colorSpace, 1)]
            return Port(feature.name, shape, np.uint8, 1 / 255, image=True)
        kind = feature.type.multiArrayType
        return Port(feature.name, list(kind.shape), types[kind.dataType])

    def __call__(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        if sys.platform != "darwin":
            raise RuntimeError(
                f"CoreML predicts on macOS only, this is {platform.system()}: use the .tflite or .onnx export here"
            )
        given = {port.name: value for port, value in zip(self.inputs, values, strict=True)}
        for port in self.inputs:
            if port.image:
                given[port.name] = Image.fromarray(np.squeeze(given[port.name][0]))
        predicted = self._model.predict(given)
        # An image comes back with an alpha channel.
        return [
            np.asarray(predicted[p.name])[None, ..., :3] if p.image else np.asarray(predicted[p.name]) for p in self.outputs
        ]


def load_model(
    path: Path, threads: int, runtime: str | None = None, delegate: Path | None = None, runs: bool = True
) -> _TFLite | _ONNX | _CoreML:
    """The model of an exported file: its `inputs` and `outputs` as ports, and a call that runs it. Needs no card."""
    kind = kind_of(path)
    if kind == "tflite":
        return _TFLite(path, threads, runtime, delegate, runs)
    if delegate:
        raise ValueError(f"{path}: is no .tflite file, and takes no delegate ({delegate})")
    return _ONNX(path, threads) if kind == "onnx" else _CoreML(path)


def ports_of(path: str | Path, made_here: bool = False) -> Fields:
    """{"inputs": [...], "outputs": [...]} as a card lists them, read from the file. Needs no card."""
    path = Path(path)
    members(path)
    if not made_here:
        trial.check(path)
    model = load_model(path, threads=1, runs=False)
    return {"inputs": [p.described() for p in model.inputs], "outputs": [p.described() for p in model.outputs]}

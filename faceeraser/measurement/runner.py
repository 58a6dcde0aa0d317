"""The same inputs through the same file by benchmarks/litert_runner.c: here, on a device, and by Python's LiteRT.

    given = sample_inputs("exports/int8.tflite")
    there = run_on(device, "exports/int8.tflite", given)
    compare(there.outputs, reference("exports/int8.tflite", given))

A folder made by benchmarks/build_runner.sh holds the program, the library and what they need; its `run` starts them.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faceeraser.measurement.device import Device
from faceeraser.system import trial

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Ran:
    """What the runner gave: raw outputs by name, ms of each timed run and of compiling, and whether it was emulated."""

    outputs: Tensors
    run_ms: list[float]
    compile_ms: float
    accelerated: bool
    emulated: bool


def _interpreter(model: str | Path, delegate: str | Path | None = None) -> Any:
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    plugins = [load_delegate(str(Path(delegate).absolute()))] if delegate else None
    interpreter = Interpreter(model_path=str(model), num_threads=1, experimental_delegates=plugins)
    return interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))


def ports(model: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(inputs, outputs) of the model's first signature: name -> (shape, dtype). Raises ValueError if it is no model."""
    trial.check(Path(model))
    try:
        signature = _interpreter(model)
    except (ValueError, RuntimeError, StopIteration) as error:
        raise ValueError(f"{model}: not a TFLite model with a signature ({error}); export it again") from None
    described = signature.get_input_details(), signature.get_output_details()
    inputs, outputs = ({n: (tuple(map(int, d["shape"])), d["dtype"]) for n, d in details.items()} for details in described)
    return inputs, outputs


def sample_inputs(model: str | Path, seed: int = 0) -> Tensors:
    """A textured picture and a mask with a hole, as float32 in [0, 1] or uint8; what is no picture is noise in [-1, 1], or
    zeros where it counts something; the same for the same seed.

    Texture is what shows an error in the sampling coordinates; a smooth picture hides it.
    """
    random = np.random.default_rng(seed)
    inputs: Tensors = {}
    for name, (shape, dtype) in sorted(ports(model)[0].items()):
        planes = [n for n in shape if n > 1]
        if dtype not in (np.float32, np.uint8):
            inputs[name] = np.zeros(shape, dtype)
        elif len(shape) != 4 or (3 not in shape and (len(planes) != 2 or 1 not in shape[1:])):
            noise = random.random(shape, np.float32)
            inputs[name] = 2 * noise - 1 if dtype == np.float32 else (noise * 255).astype(np.uint8)
        elif 3 in shape:
            picture = random.random(shape, np.float32)
            inputs[name] = picture if dtype == np.float32 else (picture * 255).astype(np.uint8)
        else:
            mask = np.zeros(shape, dtype)
            height, width = [n for n in shape if n > 1][-2:]
            top, left = int(random.integers(height // 3)), int(random.integers(width // 3))
            mask.reshape(height, width)[top : top + height // 3, left : left + width // 2] = 1
            inputs[name] = mask
    return inputs


def reference(model: str | Path, inputs: Mapping[str, np.ndarray], delegate: str | Path | None = None) -> Tensors:
    """The outputs of Python's LiteRT here, one thread, by name; `delegate`: a plugin (export/build_resampler.sh)."""
    return {name: np.asarray(value) for name, value in _interpreter(model, delegate)(**inputs).items()}


def _read(text: str) -> tuple[list[float], float, bool, bool]:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    values: dict[str, list[str]] = {}
    for line in lines:
        if len(line) == 2:
            values.setdefault(line[0], []).append(line[1])
    if ["done"] not in lines or "compile_us" not in values or "run_us" not in values or "accelerated" not in values:
        raise ValueError(f"the runner broke off after: {' '.join(lines[-1])[:160] if lines else 'nothing'}; expected `done`")
    times = [float(us) / 1e3 for us in values["run_us"]]
    return times, float(values["compile_us"][0]) / 1e3, values["accelerated"] == ["1"], values.get("emulated") == ["1"]


def _load(folder: Path, names: Mapping[str, Any]) -> Tensors:
    outputs = {}
    for name, (shape, dtype) in names.items():
        output = np.fromfile(folder / f"{name}.out", dtype)
        if output.size != int(np.prod(shape)):
            raise ValueError(f"the runner's output {name} has {output.size} values, expected {shape}")
        outputs[name] = output.reshape(shape)
    return outputs


def _options(names: tuple[dict[str, Any], dict[str, Any]], threads: int = 1, warmup: int = 0, runs: int = 1) -> list[str]:
    files = [word for name in names[0] for word in ("--input", f"{name}={name}.in")]
    files += [word for name in names[1] for word in ("--output", f"{name}={name}.out")]
    return [*files, "--threads", str(threads), "--warmup", str(warmup), "--runs", str(runs)]


def run_here(
    bundle: str | Path,
    model: str | Path,
    inputs: Mapping[str, np.ndarray],
    threads: int = 1,
    warmup: int = 0,
    runs: int = 1,
    timeout_s: float = 600.0,
) -> Ran:
    """Run it on this machine (or emulated, if the bundle is built so).

    Raises ValueError: no such bundle, or it failed; its last line says why.
    """
    names = ports(model)
    program = Path(bundle).absolute() / "run"
    if not program.is_file():
        raise ValueError(f"{bundle}: no `run` in it; expected a folder made by benchmarks/build_runner.sh")
    with tempfile.TemporaryDirectory() as scratch:
        for name in names[0]:
            inputs[name].tofile(Path(scratch) / f"{name}.in")
        command = ["sh", str(program), str(Path(model).absolute()), *_options(names, threads, warmup, runs)]
        done = subprocess.run(
            command, cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1][:200]
            raise ValueError(f"{bundle}: the runner ended with exit code {done.returncode}, expected 0: {said}")
        times, compiled, accelerated, emulated = _read(done.stdout)
        return Ran(_load(Path(scratch), names[1]), times, compiled, accelerated, emulated)


def push_bundle(device: Device, bundle: str | Path) -> None:
    """Put the files of a bundle into the device's folder. Raises what `Device.push` raises; ValueError: no bundle."""
    files = sorted(path for path in Path(bundle).iterdir() if path.is_file()) if Path(bundle).is_dir() else []
    if not any(path.name == "run" for path in files):
        raise ValueError(f"{bundle}: no `run` in it; expected a folder made by benchmarks/build_runner.sh")
    # Emulated, the program is for another machine than the device's, and meant to be.
    emulated = any(path.name.startswith("qemu-") for path in files)
    for path in files:
        device.push(path, foreign=emulated)


def run_on(device: Device, model: str | Path, inputs: Mapping[str, np.ndarray], timeout_s: float = 600.0) -> Ran:
    """Run it once on the device, which already has the bundle (`push_bundle`) and the model (`Device.push`).

    Raises what `Device.run` raises; ValueError when what it printed or wrote is incomplete.
    """
    names = ports(model)
    with tempfile.TemporaryDirectory() as scratch:
        for name in names[0]:
            inputs[name].tofile(Path(scratch) / f"{name}.in")
            device.push(Path(scratch) / f"{name}.in")
        command: Sequence[str] = ["sh", "./run", Path(model).name, *_options(names)]
        done = device.run(command, timeout_s)
        times, compiled, accelerated, emulated = _read(done.text)
        for name in names[1]:
            device.pull(f"{name}.out", Path(scratch) / f"{name}.out")
        return Ran(_load(Path(scratch), names[1]), times, compiled, accelerated, emulated)


def compare(outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """{"bit_exact", "bit_exact_8bit", "max_abs"}: over all outputs; `8bit` is what is saved or shown of a float picture.

    Raises ValueError when the outputs' names or shapes differ, or one has a value that is not finite.
    """
    if {n: v.shape for n, v in outputs.items()} != {n: v.shape for n, v in expected.items()}:
        raise ValueError(f"found the outputs {sorted(outputs)}, expected {sorted(expected)} of the same shapes")
    if bad := [name for name, value in outputs.items() if not np.isfinite(value).all()]:
        raise ValueError(f"output {bad[0]} has values that are not finite")

    def eight(value: np.ndarray) -> np.ndarray:
        return np.rint(value.clip(0, 1) * 255) if value.dtype.kind == "f" else value

    pairs = [(value, expected[name]) for name, value in outputs.items()]
    return {
        "bit_exact": all(a.tobytes() == b.tobytes() for a, b in pairs),
        "bit_exact_8bit": all(np.array_equal(eight(a), eight(b)) for a, b in pairs),
        "max_abs": max(float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) for a, b in pairs),
    }

"""A .tflite file on LiteRT's GPU delegate, on this machine: what it refuses, and what it computes.

    ran = gpu_delegate.run("exports/student.tflite", [inputs])

The wheel of ai-edge-litert includes the delegate: ML Drift, which LiteRT uses on phones too, here over WebGPU. It needs a
Vulkan driver: SwiftShader, which computes on the CPU and comes with Chromium, or the one named by VK_ICD_FILENAMES, or the
system's. So the delegate really runs, but this does not show how fast a GPU is, or how a phone's driver behaves.

It runs in a process of its own (`python -m faceeraser.conversion.gpu_delegate`): the delegate looks for its driver once,
when it is loaded. Importing this module loads numpy only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Where a browser's files lie when what is on PATH is only a script that starts it.
FOLDERS = ("/usr/lib/chromium", "/usr/lib/chromium-browser", "/usr/lib64/chromium-browser", "/opt/google/chrome")
_DRIVER, _MANIFEST, _LOADER = "libvk_swiftshader.so", "vk_swiftshader_icd.json", "libvulkan.so.1"


@dataclass(frozen=True)
class Ran:
    """outputs: of each set of inputs, by name; none where anything was refused. refused: "OPERATOR: why", each once.

    adapter: what the driver calls itself.
    """

    outputs: list[dict[str, np.ndarray]]
    refused: list[str]
    adapter: str


def swiftshader() -> Path | None:
    """The folder of a browser that has the software Vulkan driver, if there is one."""
    beside = [Path(program).resolve().parent for name in BROWSERS if (program := shutil.which(name))]
    folders = (*beside, *map(Path, FOLDERS))
    return next((f for f in folders if all((f / name).is_file() for name in (_DRIVER, _MANIFEST, _LOADER))), None)


def run(model: Path | str, inputs: Sequence[Mapping[str, np.ndarray]], timeout_s: float = 600.0) -> Ran:
    """Run a file wholly on the GPU delegate, in float32: each set of inputs, by name, through its first signature.

    Raises:
        RuntimeError: there is no Vulkan driver that the delegate takes, or it failed; the message's end is its own.
    """
    model = Path(model)
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        browser = swiftshader()
        if browser and not {"VK_ICD_FILENAMES", "VK_DRIVER_FILES"} & set(environment):
            # The loader alone, not its neighbours, which are the browser's own.
            (folder / _LOADER).symlink_to(browser / _LOADER)
            paths = [scratch, *filter(None, [environment.get("LD_LIBRARY_PATH")])]
            environment |= {"VK_ICD_FILENAMES": str(browser / _MANIFEST), "LD_LIBRARY_PATH": os.pathsep.join(paths)}
        for k, given in enumerate(inputs):
            np.savez(folder / f"{k}-in.npz", **given)  # type: ignore[arg-type]
        arguments = [str(model.absolute()), scratch, str(len(inputs))]
        command = [sys.executable, "-m", "faceeraser.conversion.gpu_delegate", *arguments]
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        adapter = re.search(r"Selected adapter: ([^,\n]*)", done.stderr)
        listed = re.search(r"not supported by GPU delegate:\n(.*?)\n[^\n]*operations will run", done.stderr, re.S)
        refused = [line.strip() for line in listed[1].splitlines() if ":" in line] if listed else []
        if done.returncode != 0 and not refused:
            said = re.findall(r"^ERROR: (?:\[[^]]*\] )?(\S.+)", done.stderr, re.M) or done.stderr.split("\n")[-2:-1]
            raise RuntimeError(
                f"{model.name}: LiteRT's GPU delegate did not run ({said[0][:160] if said else 'it said nothing'}); "
                "it needs a Vulkan driver: install chromium, or name another by VK_ICD_FILENAMES"
            )
        outputs = [] if refused else [dict(np.load(folder / f"{k}-out.npz")) for k in range(len(inputs))]
        return Ran(outputs, refused, adapter[1] if adapter else "unknown")


def _work(model: str, folder: Path, count: int) -> None:
    """The life of the process: `0-in.npz` ... become `0-out.npz` ... in the folder."""
    from ai_edge_litert.compiled_model import CompiledModel, GpuOptions, HardwareAccelerator, Options

    # The GPU alone: with the CPU allowed beside it, what is refused would quietly run there.
    options = Options(hardware_accelerators=HardwareAccelerator.GPU, gpu_options=GpuOptions(enforce_f32=True))
    compiled: Any = CompiledModel.from_file(model, options=options)
    if not compiled.is_fully_accelerated():
        raise RuntimeError("not fully accelerated")
    signature, names = next(iter(compiled.get_signature_list().items()))
    described = compiled.get_output_tensor_details(signature)
    taken, given = compiled.create_input_buffers(0), compiled.create_output_buffers(0)
    for k in range(count):
        values = np.load(folder / f"{k}-in.npz")
        for name, buffer in zip(names["inputs"], taken, strict=True):
            buffer.write(np.ascontiguousarray(values[name]))
        compiled.run_by_index(0, taken, given)
        arrays = {}
        for name, buffer in zip(names["outputs"], given, strict=True):
            shape, kind = described[name]["shape"], described[name]["dtype"]
            arrays[name] = np.asarray(buffer.read(int(np.prod(shape)), kind), kind).reshape(shape)
        np.savez(folder / f"{k}-out.npz", **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    _work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))

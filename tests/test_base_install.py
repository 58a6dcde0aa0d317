"""What the base install can do: compare results, measure exported files, talk to a phone, serve the page. No torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from faceeraser import WEIGHTS

ROOT = Path(__file__).resolve().parents[1]
RELEASE = ROOT / "benchmarks" / "results" / "release.json"
INT8 = WEIGHTS / "int8.tflite"
# Runs a script as if nothing but the base install were there.
ALONE = """
import runpy, sys
OTHERS = {"torch", "torch_pruning", "skimage", "tensorboard", "matplotlib", "scipy", "litert_torch",
          "tensorflow", "ai_edge_quantizer", "coremltools", "sklearn", "onnx", "onnxscript", "onnxruntime", "onnxsim",
          "adbutils"}
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OTHERS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def alone(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", ALONE, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)


def test_without_torch_nothing_trains_so_the_block_holds() -> None:
    assert "No module named 'torch'" in alone("train/train.py", "--help").stderr


@pytest.mark.parametrize(
    "script",
    [
        "benchmarks/android.py",
        "benchmarks/device_faults.py",
        "benchmarks/fidelity.py",
        "benchmarks/latency.py",
        "benchmarks/predict.py",
        "benchmarks/profile_ops.py",
        "benchmarks/regression.py",
        "benchmarks/report.py",
        "benchmarks/web.py",
        "benchmarks/demo.py",
        "benchmarks/release.py",
        "export/check_gpu.py",
    ],
)
def test_a_script_that_needs_no_network_starts(script: str) -> None:
    done = alone(script, "--help")
    assert done.returncode == 0 and Path(script).name in done.stdout, done.stderr


def test_results_are_compared_and_shown(tmp_path: Path) -> None:
    done = alone("benchmarks/regression.py", RELEASE, "--baseline", RELEASE)
    assert done.returncode == 0 and json.loads(done.stdout.splitlines()[-1])["worse"] == [], done.stderr
    done = alone("benchmarks/report.py", RELEASE, tmp_path / "page.html")
    assert done.returncode == 0 and "student" in (tmp_path / "page.html").read_text(), done.stderr


def test_an_exported_file_is_measured(skin: Path, tmp_path: Path) -> None:
    arguments = [f"other={INT8}", "--data", skin, "--limit", 2]
    copy = tmp_path / "int8.tflite"
    for file in (INT8, INT8.with_name(INT8.name + ".json")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    done = alone("benchmarks/fidelity.py", *arguments, "--reference", copy)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])["rows"]}
    assert rows["other"]["psnr_hole_mirrored"] == rows["fp32"]["psnr_hole_mirrored"] > 20
    assert alone("benchmarks/predict.py", INT8).returncode == 0


def test_a_checkpoint_folder_asks_for_the_extra_by_name(skin: Path) -> None:
    done = alone("benchmarks/fidelity.py", INT8, "--reference", WEIGHTS / "fp32", "--data", skin)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "fidelity.py: torch is not installed, which a checkpoint folder needs: pip install 'faceeraser[train]'"
    )

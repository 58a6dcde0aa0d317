"""What comes with the package: its version, and the weights with what each file is for."""

from __future__ import annotations

from pathlib import Path

VERSION = "0.2.0"
"""As pyproject.toml has it."""
WEIGHTS = Path(__file__).resolve().parent / "weights"
"""Checkpoint folders, fp32, plan and occlusion, the files exported from them with their cards, and MODEL_CARD.md."""
PLAN_FILE = WEIGHTS / "plan.tflite"
"""What erases, here, in the page and in the app: it plans, and what it plans is painted at the picture's own resolution."""
OCCLUSION_FILE = WEIGHTS / "occlusion.tflite"
"""What hangs in front of a face, and stays (occluders.py)."""

"""What a CoreML program computes, in numpy: the few operators that the warp is made of, by MIL's own definitions.

CoreML runs on macOS only. This reads the program that coremltools made, operator by operator, so that a wrong attribute or
a wrong order of coordinates shows here. Source: the operators' documentation in coremltools, converters/mil/mil/ops/defs.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def run(program: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a MIL program's main function."""
    function = program.functions["main"]
    values: dict[str, Any] = dict(inputs)

    def value(given: Any) -> Any:
        if isinstance(given, (list, tuple)):
            return [value(v) for v in given]
        return values.get(given.name, given.val)

    for op in function.operations:
        if op.op_type == "const":
            continue
        given = {name: value(v) for name, v in op.inputs.items() if v is not None}
        values[op.outputs[0].name] = globals()[f"_{op.op_type}"](**given)
    return [values[v.name] for v in function.outputs]


def _add(x: Any, y: Any) -> Any:
    return x + y


def _sub(x: Any, y: Any) -> Any:
    return x - y


def _mul(x: Any, y: Any) -> Any:
    return x * y


def _clip(x: Any, alpha: Any, beta: Any) -> Any:
    return np.clip(x, alpha, beta)


def _concat(values: Any, axis: int, interleave: bool) -> Any:
    assert not interleave
    return np.concatenate(values, axis)


def _transpose(x: Any, perm: Any) -> Any:
    return np.transpose(x, perm)


def _slice_by_index(x: Any, begin: Any, end: Any, end_mask: Any, begin_mask: Any = None, **others: Any) -> Any:
    assert not any(np.any(v) for name, v in others.items() if name == "squeeze_mask")
    cut = []
    for k in range(x.ndim):
        low = None if begin_mask is not None and begin_mask[k] else begin[k]
        cut.append(slice(low, None if end_mask is not None and end_mask[k] else end[k]))
    return x[tuple(cut)]


def _resample(
    x: Any, coordinates: Any, sampling_mode: str, padding_mode: str, padding_value: Any, coordinates_mode: str,
    align_corners: bool,
) -> Any:  # fmt: skip
    """x (N, C, H, W), coordinates (N, h, w, 2), x first, in [-1, 1], where -1 and 1 are the outermost pixels' middles."""
    found = sampling_mode, padding_mode, coordinates_mode, bool(align_corners)
    assert found == ("bilinear", "border", "normalized_minus_one_to_one", True), found
    height, width = x.shape[2:]
    column = ((coordinates[..., 0] + 1) / 2 * (width - 1)).clip(0, width - 1)
    row = ((coordinates[..., 1] + 1) / 2 * (height - 1)).clip(0, height - 1)
    across, down = (column % 1)[..., None], (row % 1)[..., None]
    left, top = column.astype(int), row.astype(int)
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    n = np.arange(len(x))[:, None, None]
    pixels = x.transpose(0, 2, 3, 1)
    upper = pixels[n, top, left] * (1 - across) + pixels[n, top, right] * across
    lower = pixels[n, below, left] * (1 - across) + pixels[n, below, right] * across
    return (upper * (1 - down) + lower * down).transpose(0, 3, 1, 2)


def _identity(x: Any) -> Any:
    return x

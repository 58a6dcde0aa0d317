"""Is the exported int8 file as fast as one made by hand? A mirror of the same network in TensorFlow, timed beside it.

    python benchmarks/mirror.py runs/release --json benchmarks/results/mirror.json

The mirror is written operator by operator, channels last, from the weights and scales of RELEASE/small/int8, with whatever
form of each step was found to be the fastest; TensorFlow's own converter makes a file of it, which lies in a temporary
folder and goes nowhere else. It stands for what an engineer would reach who writes the network twice. It counts only if

    it has no TRANSPOSE, and its int8 convolutions are those of the checkpoint, with its scales and no others;
    without any quantization it computes what the checkpoint's network computes, to 1e-3 inside the hole;
    its picture is not further from the file's than the file's is from the network's, whose int8 rounds apart now and then
    too: medians of the PSNR inside the hole over the gate's pictures, with 3 dB to spare;
    XNNPACK is on, as benchmarks/latency.py sees it, and it takes at most 6.5 ms per GMAC.

All then take turns in LiteRT (benchmarks/latency.py), with one thread and with two. `ratio` is the file's time over the
mirror's. The last condition and the goal, a ratio of 1.05, were set on a network of 27 GMAC; the one that ships has half
of one, and Canny, the fill and the warp take most of its time. So --wide N adds the same pipeline with N channels in its
first layers, unpruned and with random weights, where convolutions take most of it.

--kernels: for which kernels the mirror's convolutions are written. `plain` leaves them as they are. `phone` lays
neighbouring columns into channels, or computes four pixels at once, where the work gets less when 16 outputs and 8 inputs
are padded to; `amx` where 64 of each are, as XNNPACK does on server CPUs that multiply tiles. The bits are the same.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from faceeraser.artifacts import contents
from faceeraser.artifacts.edges import HIGH_THRESHOLD, HYSTERESIS_STEPS, LOW_THRESHOLD, SIGMA
from faceeraser.artifacts.flatbuffer import Graph
from faceeraser.conversion import formats, gate, tflite
from faceeraser.measurement import results
from faceeraser.model import checkpoint, quant
from faceeraser.model.config import Config
from faceeraser.model.networks import DETAIL_GAIN, RESIDUAL_GAIN, STRONGEST_DETAIL, FaceEraser, RefineBlock, cost_of
from faceeraser.model.quant import FakeQuant, QuantConv2d
from faceeraser.system import chain, script

ROOT = Path(__file__).resolve().parent.parent
GOAL, MS_PER_GMAC = 1.05, 6.5
# Output and input channels that a convolution's kernel takes at once, whether they are there or not.
KERNELS = {"plain": (1, 1), "phone": (16, 8), "amx": (64, 64)}
FLOAT_KERNELS = (16, 1)
# Of float arithmetic in another order, the flow's and so the copied texture's.
SAME_NETWORK = 1e-3
SPARE_DB = 3.0
# No gradient is that small, and times 1e38 no other is under 1.
ANY = 1e38
Op = Any


class Mirror:
    """A quantized pipeline of the mobile preset as a TensorFlow function: image, mask (1, R, R, C) -> erased.

    kernels: one of KERNELS. bypassed: without any quantization, as `quant.set_bypassed` has it.

    Raises ValueError for a pipeline that is built otherwise.
    """

    def __init__(self, pipeline: FaceEraser, kernels: str, bypassed: bool = False):
        import tensorflow as tf

        config, wanted = pipeline.config, Config.of("mobile")
        fixed = ("norm", "padding", "upsampling", "fill", "shrink", "guided", "halved", "residual", "separable", "variant")
        for name in fixed:
            given, expected = getattr(config, name), getattr(wanted, name)
            if given != expected:
                raise ValueError(f"{name} is {given!r}, expected {expected!r}: the mirror is written for the mobile preset")
        if not config.quantized:
            raise ValueError("found a float network, expected a quantized one: python compress/quantize.py SOURCE TARGET")
        self.tf, self.pipeline, self.size, self.lanes = tf, pipeline, config.resolution, KERNELS[kernels]
        self.bypassed = bypassed

    # --- int8 ---

    def stored(self, x: Op, tap: nn.Module) -> Op:
        """The tensor as int8 of the tap's scale and zero point; as it is where the tap's layer stays in float."""
        if self.bypassed or not isinstance(tap, FakeQuant):
            return x
        scale, zero = float(tap.scale.detach()), tap.zero_point
        return self.tf.quantization.fake_quant_with_min_max_vars(x, (-128 - zero) * scale, (127 - zero) * scale, 8)

    def _weights(self, values: np.ndarray, scales: np.ndarray) -> Op:
        """int8 weights (rows, columns, in, out) on their own grid."""
        if self.bypassed:
            return self.tf.constant(values)
        peak = (127 * scales).astype(np.float32)
        return self.tf.quantization.fake_quant_with_min_max_vars_per_channel(values, -peak, peak, 8, narrow_range=True)

    def conv(self, x: Op, module: Any) -> Op:
        """A `networks.Conv`, norm folded: convolution, bias, activation, store."""
        tf, conv = self.tf, module.conv
        weight = conv.weight.detach().permute(2, 3, 1, 0).numpy()
        bias = conv.bias.detach().numpy()
        scales = conv.weight_scale.detach().numpy() if isinstance(conv, QuantConv2d) else None
        stride, dilation, kernel = conv.stride[0], conv.dilation[0], conv.kernel_size[0]
        _, rows, columns, _ = x.shape
        alone = stride == dilation == 1 and kernel > 1 and min(rows, columns) > 1
        folds, phases = self._shape(weight, rows, columns, scales is not None) if alone else (1, 1)
        if folds * phases > 1:
            weight = in_phases(fold(weight, folds), phases)
            bias, x = np.tile(bias, folds * phases**2), tf.reshape(x, [1, rows, columns // folds, folds * x.shape[3]])
            scales = None if scales is None else np.tile(scales, folds * phases**2)
        padding = "SAME"
        if stride == 2 and kernel == 3:  # SAME would have none above and on the left
            x, padding = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), "VALID"
        held = weight if scales is None else self._weights(weight, scales)
        x = tf.nn.conv2d(x, held, stride * phases, padding, dilations=dilation) + bias
        x = self.stored(x, module.before) if hasattr(module, "before") else x
        if isinstance(module.act, nn.ReLU):
            x = tf.nn.relu(x)
        elif isinstance(module.act, nn.Sigmoid):
            x = tf.sigmoid(x)
        elif isinstance(module.act, nn.Tanh):
            x = 1.0 - 2.0 / (tf.exp(2.0 * x) + 1.0)  # the converter would make TANH's output int8, and with it the flow
        x = self.stored(x, module.out)
        x = tf.nn.depth_to_space(x, 2) if phases == 2 else x
        return tf.reshape(x, [1, rows, columns, conv.out_channels]) if folds > 1 else x

    def _shape(self, weight: np.ndarray, rows: int, columns: int, int8: bool) -> tuple[int, int]:
        """(columns to fold into channels, phases each way) of a convolution: those whose padded work is the least."""
        outputs, inputs = self.lanes if int8 else FLOAT_KERNELS
        kernel, _, depth, channels = weight.shape

        def work(shape: tuple[int, int]) -> float:
            folds, phases = shape
            taps = (kernel + phases - 1) * (2 * math.ceil(kernel // 2 / folds) + phases)
            together = folds * phases**2
            return taps * math.ceil(depth * folds / inputs) * math.ceil(channels * together / outputs) / together

        shapes = [(n, m) for n in (1, 2, 4, 8) for m in (1, 2) if columns % (n * m) == 0 and rows % m == 0]
        return (1, 1) if self.lanes == KERNELS["plain"] else min(shapes, key=work)

    def halved(self, x: Op, tap: nn.Module) -> Op:
        """Means of 2 x 2 of an int8 tensor, stored with the same scale: a depthwise convolution, which XNNPACK takes."""
        weight = np.full((2, 2, 1, x.shape[3]), 0.25, np.float32)
        held = self._weights(weight, np.full(x.shape[3], 0.25))
        weight = self.tf.reshape(held, [2, 2, x.shape[3], 1])
        return self.stored(self.tf.nn.depthwise_conv2d(x, weight, [1, 2, 2, 1], "VALID"), tap)

    def doubled(self, x: Op) -> Op:
        """Each pixel four times: copies in the channels, which DEPTH_TO_SPACE lays out."""
        return self.tf.nn.depth_to_space(self.tf.concat([x] * 4, 3), 2)

    # --- the networks ---

    def completion(self, x: Op, network: Any) -> Op:
        """The edge or the clone network on its input at half size; its output is at half size too."""
        x = self.conv(self.stored(x, network.store), network.stem)
        for stage_ in network.down:
            x = self.conv(x, stage_)
        for block in network.blocks:
            x = self.stored(x + self.conv(self.conv(x, block.conv1), block.conv2), block.out)
        for up in network.up:
            x = self.conv(self.doubled(x), up.conv)
        return self.conv(x, network.head)

    def _attended(self, x: Op, attention: Any) -> Op:
        mean = self.stored(self.tf.reduce_mean(x, [1, 2], keepdims=True), attention.mean)
        return self.stored(x * self.conv(self.conv(mean, attention.squeeze), attention.excite), attention.out)

    def _block(self, x: Op, block: RefineBlock, tap: nn.Module) -> Op:
        if block.direction == "up":
            short, x = self.doubled(self.conv(x, block.shortcut)), self.doubled(x)
        else:
            short = self.conv(self.halved(x, tap), block.shortcut)
        branch = self._attended(self.conv(self.conv(x, block.conv1), block.conv2), block.attention)
        return self.stored(short + branch, block.out)

    def refine(self, x: Op) -> Op:
        network: Any = self.pipeline.refine
        x = self.conv(self.stored(x, network.store), network.stem)
        encoded, tap = [x], network.stem.out
        for block in network.down:
            x, tap = self._block(x, block, tap), block.out
            encoded.append(x)
        encoded.pop()
        for block, joined in zip(network.up, network.joined, strict=True):
            x = self.stored(self._block(x, block, tap) + encoded.pop(), joined)
            tap = joined
        return self.conv(x, network.head)

    # --- around them, in float ---

    def mixed(self, x: Op, table: Sequence[Sequence[float]]) -> Op:
        """Channels as fixed sums of channels, table (in, out): 1 x 1, a fifth of the time of slices and concatenations."""
        return self.tf.nn.conv2d(x, np.array([[table]], np.float32), 1, "SAME")

    def three(self, x: Op) -> Op:
        return self.mixed(x, [[1, 1, 1]])

    def half(self, x: Op, cell: int = 2) -> Op:
        """Means of cells. Not by AVERAGE_POOL_2D: the converter would make those before a store int8, and round twice."""
        weight = np.full((cell, cell, x.shape[3], 1), 1 / cell**2, np.float32)
        return self.tf.nn.depthwise_conv2d(x, weight, [1, cell, cell, 1], "VALID")

    def clamped(self, x: Op) -> Op:
        return self.tf.nn.relu(self.tf.minimum(x, 1.0))

    def above(self, x: Op) -> Op:
        """1.0 where x > 0, else 0.0. A comparison and a CAST would end XNNPACK's part of the graph."""
        return self.clamped(x * ANY)

    def smoothed(self, x: Op, hole: Op, value: Op) -> Op:
        """Twice value + hole * (mean of 3 x 3 pixels of the picture). Rows at once are long vectors, pixels are not."""
        tf = self.tf
        _, rows, columns, channels = x.shape
        if rows <= 16:
            for _ in range(2):
                x = value + hole * tf.nn.avg_pool2d(x, 3, 1, "SAME")
            return x
        across = np.full((columns, channels), 1 / 3, np.float32)
        across[[0, -1]] = 1 / 2
        line = [1, rows, columns * channels]
        hole, value, x = tf.reshape(hole, line) * across.reshape(1, 1, -1), tf.reshape(value, line), tf.reshape(x, line)
        for _ in range(2):
            down = tf.nn.avg_pool2d(tf.reshape(x, [1, rows, 1, columns * channels]), [3, 1], 1, "SAME")
            wide = tf.pad(tf.reshape(down, line), [[0, 0], [0, 0], [channels, channels]])
            three = wide[:, :, : -2 * channels] + wide[:, :, channels:-channels] + wide[:, :, 2 * channels :]
            x = value + hole * three
        return tf.reshape(x, [1, rows, columns, channels])

    def fill(self, visible: Op, keep: Op, small: Op, small_share: Op) -> tuple[Op, Op]:
        """`networks.fill_hole`; `small` and `small_share` are the first pooling of both, which the networks need anyway."""
        tf = self.tf
        levels = [(visible, keep), (small, self.three(small_share))]
        while levels[-1][0].shape[1] > 2 and levels[-1][0].shape[1] % 2 == 0:
            known, weight = levels[-1]
            levels.append((tf.nn.avg_pool2d(known, 2, 2, "VALID"), tf.nn.avg_pool2d(weight, 2, 2, "VALID")))

        def mean_and_seen(level: int) -> tuple[Op, Op]:
            known, weight = levels[level]
            return (known, weight) if level == 0 else (known / (weight + 1e-6), tf.minimum(weight * 65536.0, 1.0))

        value, seen = mean_and_seen(len(levels) - 1)
        mean = tf.reduce_mean(value, [1, 2], keepdims=True) / (tf.reduce_mean(seen, [1, 2], keepdims=True) + 1e-6)
        filled = shading = mean + (value - mean) * seen
        for level in reversed(range(len(levels) - 1)):
            value, seen = mean_and_seen(level)
            hole = 1.0 - seen
            filled = value + hole * self.enlarged(filled, value.shape[1])
            filled = self.smoothed(filled, hole, value)
            if level == 3:
                shading = filled
        return filled, self.enlarged(shading, self.size)

    def enlarged(self, x: Op, size: int) -> Op:
        return self.tf.image.resize(x, [size, size])

    def gaussian(self, x: Op) -> Op:
        """Blur of (1, h, w): rows by a matrix, columns by a depthwise convolution whose channels they are."""
        tf = self.tf
        radius, size = int(4 * SIGMA), x.shape[1]
        taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / SIGMA) ** 2)
        taps = (taps / taps.sum()).astype(np.float32)
        matrix = np.zeros((size, size), np.float32)
        for k, tap in enumerate(taps):
            matrix += tap * np.eye(size, k=k - radius, dtype=np.float32)
        kernel = np.repeat(taps.reshape(-1, 1, 1, 1), size, 2)
        down = tf.nn.depthwise_conv2d(tf.reshape(x, [1, size, 1, size]), kernel, [1, 1, 1, 1], "SAME")
        return tf.reshape(tf.matmul(tf.reshape(down, [size, size]), matrix), [1, size, size])

    def canny(self, gray: Op, keep: Op) -> Op:
        """`edges.canny_tensor` of (1, h, w, 1), comparisons as clamps: (1, h, w, 1)."""
        tf = self.tf
        size = gray.shape[1]
        gray, keep = tf.reshape(gray, [1, size, size]), tf.reshape(keep, [1, size, size])
        smooth = self.gaussian(gray * keep) / (self.gaussian(keep) + 1.1920929e-07)
        smooth = tf.concat([smooth[:, :1], smooth, smooth[:, -1:]], 1)
        smooth = tf.concat([smooth[:, :, :1], smooth, smooth[:, :, -1:]], 2)
        rows, columns = smooth[:, 2:] - smooth[:, :-2], smooth[:, :, 2:] - smooth[:, :, :-2]
        down = rows[:, :, :-2] + rows[:, :, 2:] + 2 * rows[:, :, 1:-1]
        right = columns[:, :-2] + columns[:, 2:] + 2 * columns[:, 1:-1]
        magnitude = tf.sqrt(down * down + right * right)

        def over_three(x: Op, combine: Callable[[Op, Op], Op]) -> Op:
            x = combine(combine(x[:, :-2], x[:, 1:-1]), x[:, 2:])
            return combine(combine(x[:, :, :-2], x[:, :, 1:-1]), x[:, :, 2:])

        def at(x: Op, dy: int, dx: int) -> Op:
            return x[:, 1 + dy : size - 1 + dy, 1 + dx : size - 1 + dx]

        down, right = at(down, 0, 0), at(right, 0, 0)
        far, near = tf.abs(down), tf.abs(right)
        steep = self.above(far - near)
        level = 1 - steep
        crossed = tf.abs(self.above(down) - self.above(right))
        aligned = 1 - crossed
        near_after = steep * at(magnitude, 1, 0) + level * at(magnitude, 0, 1)
        near_before = steep * at(magnitude, -1, 0) + level * at(magnitude, 0, -1)
        rising, falling = at(magnitude, -1, 1), at(magnitude, 1, -1)
        far_after = aligned * at(magnitude, 1, 1) + crossed * (steep * falling + level * rising)
        far_before = aligned * at(magnitude, -1, -1) + crossed * (steep * rising + level * falling)
        towards_far = tf.minimum(far, near) / (tf.maximum(far, near) + 1e-12)
        towards_near = 1 - towards_far
        after = far_after * towards_far + near_after * towards_near
        before = far_before * towards_far + near_before * towards_near
        centre = at(magnitude, 0, 0)
        lower = self.above(tf.maximum(after, before) - centre)
        thin = over_three(keep, tf.minimum) * (1 - lower)
        weak = (1 - self.above(LOW_THRESHOLD - centre)) * thin
        edges = (1 - self.above(HIGH_THRESHOLD - centre)) * thin
        for _ in range(HYSTERESIS_STEPS):
            edges = over_three(tf.pad(edges, [[0, 0], [1, 1], [1, 1]]), tf.maximum) * weak
        return tf.reshape(tf.pad(edges, [[0, 0], [1, 1], [1, 1]]), [1, size, size, 1])

    def warp(self, detail: Op, offsets: Op) -> Op:
        """`warp.sample_rows` channels last: coordinates in one channel, weights in three."""
        tf, size = self.tf, self.size
        table = tf.reshape(detail, [size * size, 3])
        half, last = (size - 1) / 2, float(size - 1)
        columns = np.tile(np.arange(size, dtype=np.float32), (size, 1)).reshape(1, size, size, 1)
        x = tf.nn.relu(tf.minimum(self.mixed(offsets, [[half], [0]]) + columns, last))
        y = tf.nn.relu(tf.minimum(self.mixed(offsets, [[0], [half]]) + columns.transpose(0, 2, 1, 3), last))
        left, top = tf.floor(x), tf.floor(y)
        right_share, lower_share = self.three(x - left), self.three(y - top)
        first = tf.reshape(top * float(size) + left, [-1])

        def corner(after: int) -> Op:
            at = tf.minimum(first + float(after), size * size - 1.0) if after else first
            return tf.reshape(tf.gather(table, tf.cast(at, tf.int32)), [1, size, size, 3])

        here, below = corner(0), corner(size)
        upper = here + right_share * (corner(1) - here)
        lower = below + right_share * (corner(size + 1) - below)
        return upper + lower_share * (lower - upper)

    def __call__(self, image: Op, mask: Op) -> dict[str, Op]:
        """The whole pipeline, as `FaceEraser.forward` has it for the mobile preset."""
        tf = self.tf
        mask = self.clamped((mask - 0.5) * ANY + 1.0)
        hole = self.three(mask)
        keep = 1.0 - hole
        visible = image * keep
        share = self.half(mask)
        small_keep = tf.nn.relu(1.0 - share * 4.0)
        small_mask = 1.0 - small_keep
        seen = self.half(visible)

        luma = self.mixed(seen, [[0.299], [0.587], [0.114]]) * small_keep
        edges = self.canny(luma, small_keep)
        half_mask = self.half(small_mask)
        # The network enlarges these edges and the next one pools them again: the mean of four equals is what it was.
        half_edges = self.completion(tf.concat([self.half(luma), self.half(edges), half_mask], 3), self.pipeline.edge)
        filled, shading = self.fill(visible, keep, seen, 1.0 - share)
        given = tf.concat([half_edges, self.half(filled, 4), half_mask], 3)
        offsets = self.enlarged(self.completion(given, self.pipeline.clone), self.size // 2)
        offsets = offsets * self.mixed(small_mask, [[1, 1]])
        detail = visible - shading
        power = tf.square(tf.square(detail))
        detail = detail * (keep * tf.nn.relu(DETAIL_GAIN - power * (DETAIL_GAIN / STRONGEST_DETAIL**4)))
        # Where the mask is 0 the offsets do not matter: what is warped there is multiplied by it.
        cloned = filled + hole * self.warp(detail, self.enlarged(offsets, self.size))
        given = tf.concat([self.half(cloned), seen * self.three(small_keep), (offsets + 1.0) * 0.5], 3)
        refined = self.clamped(cloned + self.enlarged(self.refine(given) * RESIDUAL_GAIN, self.size))
        return {"erased": visible + refined * hole}

    def write(self, path: Path) -> None:
        """Convert it, as trained with quantization: int8 where it says so, float everywhere else."""
        tf, size = self.tf, self.size
        taken = [tf.TensorSpec([1, size, size, 3], name="image"), tf.TensorSpec([1, size, size, 1], name="mask")]
        function = tf.function(self.__call__, input_signature=taken)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], None)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]  # else it folds the fake quantization of weights away
        path.write_bytes(converter.convert())


def fold(weight: np.ndarray, folds: int) -> np.ndarray:
    """Weights (k, k, in, out) of a convolution on neighbouring columns folded into channels, exactly the same sums.

    (rows, columns, in) seen as (rows, columns / folds, folds * in): (k, k', folds * in, folds * out), k' odd.
    """
    kernel, _, depth, channels = weight.shape
    reach = kernel // 2
    blocks = math.ceil(reach / folds)
    held = np.zeros((kernel, 2 * blocks + 1, folds, depth, folds, channels), weight.dtype)
    for phase in range(folds):
        for tap in range(kernel):
            block, place = divmod(phase + tap - reach, folds)
            held[:, block + blocks, place, :, phase] = weight[:, tap]
    return held.reshape(kernel, 2 * blocks + 1, folds * depth, folds * channels)


def in_phases(weight: np.ndarray, phases: int) -> np.ndarray:
    """Weights (k, k', in, out) of a convolution that moves by `phases` and makes all the pixels between as channels:
    (k + phases - 1, k' + phases - 1, in, phases ** 2 * out), as DEPTH_TO_SPACE lays them out.
    """
    rows, columns, depth, channels = weight.shape
    held = np.zeros((rows + phases - 1, columns + phases - 1, depth, phases, phases, channels), weight.dtype)
    for down, right in np.ndindex(phases, phases):
        held[down : down + rows, right : right + columns, :, down, right] = weight
    return held.reshape(*held.shape[:3], phases**2 * channels)


# --- what it has to be ------------------------------------------------------------------------------------------------


def check(path: Path, pipeline: FaceEraser) -> None:
    """Assert on a mirror's file what makes it count. Raises GateFailed."""
    graph = Graph(path)

    def wrong(reason: str) -> script.GateFailed:
        return script.GateFailed(f"the mirror does not count: {reason}")

    if graph.ops("TRANSPOSE"):
        raise wrong(f"{len(graph.ops('TRANSPOSE'))} TRANSPOSE, expected none")
    convolutions = graph.ops("CONV_2D")
    whole = [op for op in convolutions if all(graph.type(int(t)) == "INT8" for t in (*op.inputs[:2], op.outputs[0]))]
    expected = sum(isinstance(m, QuantConv2d) for m in pipeline.modules())
    if len(whole) != expected:
        raise wrong(f"{len(whole)} convolutions are int8 throughout, expected {expected}")
    # Beside them, 1 x 1 convolutions mix channels in float, and those of the layers that the checkpoint keeps in float.
    floats = [op for op in convolutions if op not in whole and graph.shape(int(op.inputs[1]))[1:3] != (1, 1)]
    kept = sum(type(m) is nn.Conv2d for m in pipeline.modules())
    if len(floats) != kept or any(graph.type(int(t)) != "FLOAT32" for op in floats for t in op.inputs):
        raise wrong(f"{len(floats)} convolutions are not int8, expected {kept}, in float32")
    kinds, constants = set(), []
    for t, tensor in enumerate(graph.graph.tensors):
        if graph.type(t) == "INT8" and tensor.quantization is not None and tensor.quantization.scale is not None:
            scales = np.asarray(tensor.quantization.scale, np.float64)
            if graph.constant(t):
                constants.append(np.unique(scales.astype(np.float32)))
            elif t in graph.maker:
                kinds.add((float(scales[0]), int(tensor.quantization.zeroPoint[0])))
    learnt = set()
    for name, scale, zero in quant.quantized_tensors(pipeline):
        values = np.unique(np.atleast_1d(scale.detach().numpy()))
        if not name.endswith(":weight"):
            learnt.add((float(values[0]), zero))
        elif not any(len(c) in (1, len(values)) and np.allclose(c, values, rtol=1e-5, atol=0) for c in constants):
            raise wrong(f"no weights have the scales of {name}")
    for mine, other, what in ((learnt, kinds, "is not in its file"), (kinds, learnt, "is in its file and in no checkpoint")):
        for scale, zero in mine:
            if not any(zero == z and math.isclose(scale, s, rel_tol=1e-5) for s, z in other):
                raise wrong(f"an activation's scale {scale:.8g}, zero point {zero}, {what}")


def painted_by(pipeline: FaceEraser, pictures: Sequence[gate.Picture]) -> list[np.ndarray]:
    """What the network erases: (R, R, 3) float32 for each picture."""
    return [gate.Reference(pipeline)(picture).image for picture in pictures]


def difference(pipeline: FaceEraser, kernels: str, pictures: Sequence[gate.Picture]) -> float:
    """The largest difference inside the hole between network and mirror, both without quantization.

    Raises GateFailed when it is not the same network.
    """
    mirror, worst = Mirror(pipeline, kernels, bypassed=True), 0.0
    quant.set_bypassed(pipeline, True)
    try:
        for picture, truth in zip(pictures, painted_by(pipeline, pictures), strict=True):
            erased = mirror(picture.image[None], picture.mask[None, ..., None])["erased"].numpy()[0]
            worst = max(worst, float(np.abs(erased - truth)[picture.mask > 0.5].max()))
    finally:
        quant.set_bypassed(pipeline, False)
    if not worst <= SAME_NETWORK:
        failure = f"{worst:.2g} apart without quantization, expected {SAME_NETWORK:g}"
        raise script.GateFailed(f"the mirror is a different network: {failure}")
    return worst


def erased(path: Path, pictures: Sequence[gate.Picture]) -> list[np.ndarray]:
    """What LiteRT makes of the pictures with a file that takes them in float: (R, R, 3) float32 each."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    painted = []
    for picture in pictures:
        for port in interpreter.get_input_details():
            value = picture.image if port["shape"][-1] == 3 else picture.mask[..., None]
            interpreter.set_tensor(port["index"], value[None])
        interpreter.invoke()
        painted.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    return painted


def psnr_of(images: Sequence[np.ndarray], others: Sequence[np.ndarray], pictures: Sequence[gate.Picture]) -> list[float]:
    """PSNR inside the hole, dB, picture by picture; 200 for the same bits."""
    errors = [np.square((a - b)[p.mask > 0.5]).mean() for a, b, p in zip(images, others, pictures, strict=True)]
    return [float(min(200.0, -10 * np.log10(max(error, 1e-20)))) for error in errors]


# --- the networks and their times -------------------------------------------------------------------------------------


def random_network(width: int, pictures: Sequence[gate.Picture]) -> FaceEraser:
    """The mobile preset, unpruned, quantized and calibrated on the pictures, with random weights and a flow that moves."""
    torch.manual_seed(0)
    pipeline = FaceEraser(Config.of("mobile"), width=width)
    nn.init.normal_(pipeline.clone.head.conv.weight, std=0.02)
    nn.init.normal_(pipeline.refine.head.conv.weight, std=0.005)
    image = torch.stack([torch.from_numpy(p.image).permute(2, 0, 1) for p in pictures])
    mask = torch.stack([torch.from_numpy(p.mask)[None] for p in pictures])
    with torch.no_grad():
        pipeline.train()(image, mask)
        quant.fuse(pipeline.eval())
        quant.prepare(pipeline, pipeline.config.float_layers)
        quant.set_calibrating(pipeline, True)
        pipeline(image, mask)
        quant.set_calibrating(pipeline, False)
    pipeline.config = replace(pipeline.config, fused=True, quantized=True)
    return pipeline


def times(files: dict[str, Path], threads: int, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """latency.py's rows of the files, which take turns."""
    result = folder / f"{threads}.json"
    chain.run_all([[
        "benchmarks/latency.py", *(f"{name}={path}" for name, path in files.items()), "--runtimes", "litert",
        "--threads", str(threads), "--runs", str(args.runs), "--rounds", str(args.rounds), "--json", str(result),
    ]], ROOT)  # fmt: skip
    rows: list[dict[str, Any]] = json.loads(result.read_text())["rows"]
    return rows


def compare(name: str, pipeline: FaceEraser, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Write, check and time the file and its mirrors: a row for each of them and number of threads."""
    pictures = gate.gate_pictures(pipeline.config.resolution)[: args.pictures]
    quant.round_biases(pipeline, *formats.sample(pipeline.config.resolution, False, False).values())
    format = tflite.TFLite("int8", flavour="web")
    gmacs, _ = cost_of(pipeline, pipeline.config.resolution)
    facts: dict[str, dict[str, Any]] = {}
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        files = {"file": args.file if args.file and name == "release" else Path(scratch) / "file.tflite"}
        if not files["file"].exists():
            format.write(pipeline, files["file"])
        format.check(files["file"], pipeline)
        shown = erased(files["file"], pictures)
        network = painted_by(pipeline, pictures)
        facts["file"] = {"psnr_vs_network": psnr_of(shown, network, pictures)}
        bound = statistics.median(facts["file"]["psnr_vs_network"]) - SPARE_DB
        for kernels in args.kernels:
            mirror = f"mirror-{kernels}"
            apart = difference(pipeline, kernels, pictures[:2])
            files[mirror] = Path(scratch) / f"{mirror}.tflite"
            Mirror(pipeline, kernels).write(files[mirror])
            check(files[mirror], pipeline)
            mirrored = erased(files[mirror], pictures)
            near = psnr_of(mirrored, shown, pictures)
            if statistics.median(near) < bound:
                raise script.GateFailed(f"{mirror}: {statistics.median(near):.1f} dB from the file, expected {bound:.1f}")
            facts[mirror] = {"max_abs_unquantized": apart, "psnr_vs_file": near,
                             "psnr_vs_network": psnr_of(mirrored, network, pictures)}  # fmt: skip
        for threads in args.threads:
            timed = {row["model"]: row for row in times(files, threads, args, Path(scratch))}
            if failed := [f"{model}: {row.get('error')}" for model, row in timed.items() if not row["median_ms"]]:
                raise script.GateFailed("could not be timed: " + "; ".join(failed))
            for kind, row in timed.items():
                per_gmac = row["median_ms"] / gmacs
                mirrored = kind != "file"
                rows.append({
                    "name": f"{name} {kind}, {threads} threads", "network": name, "kind": kind, "threads": threads,
                    "gmacs": gmacs, "ms": row["median_ms"], "p90_ms": row["p90_ms"], "runs": row["runs"],
                    "warmup": row["warmup"], "xnnpack": row["xnnpack"], "ms_per_gmac": per_gmac, **facts[kind],
                    # latency.py's ratio is of each to the first, the file, round by round.
                    **({"ratio": 1 / row["ratio"],
                        "counts": bool(row["xnnpack"]) and per_gmac <= MS_PER_GMAC} if mirrored else {}),
                    "operators": {op["type"]: op["n"] for op in contents.operators(files[kind])},
                })  # fmt: skip
    return rows


def run(args: argparse.Namespace) -> int:
    if min(args.threads) < 1 or args.pictures < 2:
        raise ValueError(f"found --threads {args.threads} --pictures {args.pictures}, expected at least 1 and 2")
    if args.file and not args.file.is_file():
        raise ValueError(f"--file {args.file}: no such file; leave it out, and it is exported")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    torch.set_num_threads(1)
    rows = compare("release", checkpoint.load(args.release / "small" / "int8"), args)
    if args.wide:
        wide = random_network(args.wide, gate.gate_pictures(256)[:4])
        rows += compare(f"wide {args.wide}", wide, args)
    result = results.result(rows, None, args.command) | {"goal": {"ratio": GOAL, "ms_per_gmac": MS_PER_GMAC}}
    if args.json:
        results.write_result(args.json, result)
    shown = [
        {
            "": row["name"], "ms": row["ms"], "p90": row["p90_ms"], "ms/GMAC": row["ms_per_gmac"],
            "file/mirror": row.get("ratio"), "xnnpack": "on" if row["xnnpack"] else "OFF",
            "operators": sum(row["operators"].values()),
            "dB from the file": statistics.median(row["psnr_vs_file"]) if "psnr_vs_file" in row else None,
        }
        for row in rows
    ]  # fmt: skip
    script.finish(f"LiteRT, interleaved; the goal is file/mirror <= {GOAL}", shown, result)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = script.parser(__file__, __doc__)
    parser.add_argument("release", type=Path, metavar="RELEASE", help="folder made by release.py; its small/int8 is used")
    parser.add_argument(
        "--file", type=Path, help="its int8 .tflite of the flavour web (default: export it again, which takes minutes)"
    )
    parser.add_argument("--kernels", nargs="+", choices=tuple(KERNELS), default=["phone", "amx"], metavar="K",
                        help=f"mirrors to make, of {', '.join(KERNELS)} (default: phone amx)")  # fmt: skip
    parser.add_argument(
        "--wide", type=int, metavar="N", help="also make one with N channels in the first layers and random weights"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument(
        "--runs", type=int, default=100, help="number of timed runs of each, at least 50 (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=20, help="number of rounds in which they take turns (default: %(default)s)"
    )
    parser.add_argument(
        "--pictures", type=int, default=16, help="number of the gate's pictures to compare on (default: %(default)s)"
    )
    script.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return script.execute(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())

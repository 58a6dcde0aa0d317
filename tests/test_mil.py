"""A saved CoreML program computed here, against arithmetic written down by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from faceeraser.conversion import mil_program


@pytest.fixture
def packaged(tmp_path: Path):
    """`packaged(shapes, build, **options)` -> Program of a package that coremltools wrote of `build(builder, *inputs)`."""
    import coremltools as ct
    from coremltools.converters.mil import Builder

    def make(shapes: list[tuple[int, ...]], build, **options) -> mil_program.Program:
        names = ["x", "y"][: len(shapes)]
        body = {1: lambda x: build(Builder, x), 2: lambda x, y: build(Builder, x, y)}[len(shapes)]
        program = Builder.program(input_specs=[Builder.TensorSpec(s) for s in shapes], opset_version=ct.target.iOS17)(body)
        options = {"compute_precision": ct.precision.FLOAT32, "skip_model_load": True} | options
        package = ct.convert(program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17, **options)
        assert set(package.input_description) == set(names)
        package.save(str(tmp_path / "m.mlpackage"))
        return mil_program.Program(tmp_path / "m.mlpackage")

    return make


def one(program: mil_program.Program, **inputs: torch.Tensor) -> torch.Tensor:
    (output,) = program.run(inputs).values()
    return output


X = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 4, 6, 8)).astype(np.float32))


@pytest.mark.parametrize("zero_point", [-128, 0, 5])
def test_quantize_and_dequantize_by_hand(packaged, zero_point: int) -> None:
    def build(b, x):
        options = {"scale": np.float32(0.02), "zero_point": np.int8(zero_point)}
        return b.add(x=b.dequantize(input=b.quantize(input=x, output_dtype="int8", **options), **options), y=np.float32(1))

    levels = np.clip(np.rint(X.numpy() / np.float32(0.02)) + zero_point, -128, 127)
    expected = (levels - zero_point) * np.float32(0.02) + 1
    np.testing.assert_allclose(one(packaged([X.shape], build), x=X).numpy(), expected, rtol=1e-6, atol=1e-7)


def test_float16_is_rounded_at_every_operator(packaged) -> None:
    import coremltools as ct

    def build(b, x):
        return b.mul(x=b.add(x=x, y=np.float32(1000)), y=np.float32(3))

    half = one(packaged([X.shape], build, compute_precision=ct.precision.FLOAT16), x=X)
    expected = ((X.half().float() + 1000).half().float() * 3).half().float()
    assert torch.equal(half, expected) and not torch.equal(half, (X + 1000) * 3)


def test_weights_are_unpacked_as_they_are_stored(packaged, tmp_path: Path) -> None:
    import coremltools.optimize.coreml as optimize
    from coremltools.models import MLModel

    weight = np.random.default_rng(1).normal(size=(5, 4, 3, 3)).astype(np.float32)

    def build(b, x):
        bias = np.arange(5, dtype=np.float32)
        return b.conv(x=x, weight=weight, bias=bias, strides=[2, 1], pad_type="custom", pad=[1, 0, 2, 1])

    def expected(kernel: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(X, (2, 1, 1, 0)), kernel, torch.arange(5.0), (2, 1))

    program = packaged([X.shape], build)
    torch.testing.assert_close(one(program, x=X), expected(torch.from_numpy(weight)))
    linear = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
    model = MLModel(str(program.path), skip_model_load=True)
    packed = optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=linear))
    packed.save(str(tmp_path / "q.mlpackage"))
    steps = np.abs(weight).max((1, 2, 3), keepdims=True) / 127
    stored = torch.from_numpy((np.rint(weight / steps) * steps).astype(np.float32))
    torch.testing.assert_close(
        one(mil_program.Program(tmp_path / "q.mlpackage"), x=X), expected(stored), atol=1e-5, rtol=1e-5
    )
    assert not torch.allclose(expected(stored), expected(torch.from_numpy(weight)), atol=1e-4)


@pytest.mark.parametrize("exclude", [True, False])
def test_pooling_padding_slicing_and_resizing(packaged, exclude: bool) -> None:
    def build(b, x):
        options = {"kernel_sizes": [3, 3], "strides": [1, 1], "pad_type": "custom", "pad": [1, 1, 1, 1]}
        pooled = b.avg_pool(x=x, exclude_padding_from_average=exclude, **options)
        padded = b.pad(x=pooled, pad=[1, 1, 2, 2], mode="replicate")
        cut = b.slice_by_index(x=padded, begin=[0, 1, 2, 0], end=[1, 3, -1, 0], end_mask=[False, False, False, True])
        row = b.slice_by_index(x=cut, begin=[0, 0, 0, 0], end=[1, 2, 1, 12], squeeze_mask=[False, False, True, False])
        large = b.upsample_bilinear(x=cut, scale_factor_height=2.0, scale_factor_width=2.0, align_corners=False)
        return b.add(x=large, y=b.reduce_mean(x=b.expand_dims(x=row, axes=[2]), axes=[2, 3], keep_dims=True))

    pooled = F.avg_pool2d(X, 3, 1, 1, count_include_pad=not exclude)
    cut = F.pad(pooled, (2, 2, 1, 1), mode="replicate")[:, 1:3, 2:-1]
    expected = F.interpolate(cut, scale_factor=2.0, mode="bilinear", align_corners=False)
    expected = expected + cut[:, :, 0:1].mean((2, 3), keepdim=True)
    torch.testing.assert_close(one(packaged([X.shape], build), x=X), expected)


def test_resample_samples_where_the_coordinates_say(packaged) -> None:
    def build(b, x, y):
        return b.resample(
            x=x,
            coordinates=y,
            sampling_mode="bilinear",
            padding_mode="border",
            padding_value=np.float32(0),
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=True,
        )

    at = torch.tensor([[[[-1.0, -1.0], [1.0, 1.0], [0.0, 9.0], [2 / 7 - 1, 2 / 5 - 1]]]])  # last: x = 1, y = 1
    samples = one(packaged([X.shape, at.shape], build), x=X, y=at)
    middle = X[:, :, -1, 3:5].mean(-1)
    expected = torch.stack([X[:, :, 0, 0], X[:, :, -1, -1], middle, X[:, :, 1, 1]], -1)[:, :, None]
    torch.testing.assert_close(samples, expected)


def test_looking_up_multiplying_and_reducing(packaged) -> None:
    weight, table = (np.random.default_rng(k).normal(size=size).astype(np.float32) for k, size in ((2, (5, 8)), (3, (7, 4))))
    numbers = np.array([[3, 0], [6, 6]], np.int32)

    def build(b, x):
        dense = b.linear(x=x, weight=weight, bias=np.arange(5, dtype=np.float32))
        least = b.reduce_min(x=dense, axes=[2, 3], keep_dims=True)
        product = b.matmul(x=x, y=x, transpose_y=True)
        looked = b.reduce_sum(x=b.gather(x=table, indices=numbers, axis=0), axes=[0, 1, 2], keep_dims=False)
        return b.add(x=b.mul(x=product, y=least), y=looked)

    least = F.linear(X, torch.from_numpy(weight), torch.arange(5.0)).amin((2, 3), keepdim=True)
    expected = X @ X.transpose(-1, -2) * least + float(table[numbers].sum())
    torch.testing.assert_close(one(packaged([X.shape], build), x=X), expected, rtol=1e-4, atol=1e-4)


def test_an_operator_that_is_not_known_is_said(packaged) -> None:
    program = packaged([X.shape], lambda b, x: b.cumsum(x=x, axis=1))
    with pytest.raises(mil_program.UnknownOperator, match="operator cumsum is not known here"):
        program.run({"x": X})

"""Quantization: where an activation is quantized (`Tap`), how it is learnt, and how it reaches the exported file.

The networks call a `Tap` wherever a tensor would be stored on the device. In a float network a tap does nothing. To
quantize, batch norms are folded into their convolutions, each tap becomes a `FakeQuant` and each convolution a
`QuantConv2d`, in place and under the same names, so a checkpoint keeps the float weights and, beside them, one scale per
tensor. Scales are trained by gradient (Esser et al., Learned Step Size Quantization, 2020), per tensor for activations and
per output channel for weights. On export the same modules emit quantize / dequantize operators with exactly those scales,
which the LiteRT converter turns into an int8 graph: no second quantized network, nothing re-estimated on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

BITS = 8
_LOW, _HIGH = -128, 127


class Tap(nn.Identity):
    """A place where a tensor would be stored; the identity until the network is quantized.

    kind: 'relu' (values >= 0), 'signed', or a range known in advance, whose scale is fixed rather than learnt: 'image'
    ([0, 1] both ends included, steps of 1/255), 'sigmoid' ((0, 1), 1/256), as LiteRT's kernels want them.
    """

    def __init__(self, kind: str = "signed"):
        super().__init__()
        self.kind = kind


_FIXED = {"image": (1 / 255, -128), "sigmoid": (1 / 256, -128)}


class _RoundThrough(torch.autograd.Function):
    """round() with the gradient of the identity (the straight-through estimator)."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


def _scale_gradient(scale: Tensor, factor: float) -> Tensor:
    """`scale` with its gradient multiplied by `factor` (LSQ, section 2.2: balances scales against weights)."""
    return (scale - scale * factor).detach() + scale * factor


def _fake_quantize(x: Tensor, scale: Tensor, zero_point: int, low: int, high: int) -> Tensor:
    levels = _RoundThrough.apply(x / scale)
    return (levels.clamp(low - zero_point, high - zero_point)) * scale


class FakeQuant(nn.Module):
    """An int8 activation, per tensor. `scale` is a parameter, or a buffer where the tap's range is fixed.

    While `calibrating`, it passes tensors through and remembers the least mean squared error scale.
    """

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        fixed = _FIXED.get(kind)
        self.scale: Tensor
        self.zero_point = fixed[1] if fixed else (-128 if kind == "relu" else 0)
        if fixed:
            self.register_buffer("scale", torch.tensor(fixed[0]))
        else:
            self.scale = nn.Parameter(torch.tensor(1.0))
        self.calibrating = False
        self.bypassed = False
        self.exporting = False
        self._seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.exporting:
            scale = self.exported_scale
            q = torch.ops.quantized_decomposed.quantize_per_tensor(x, scale, self.zero_point, _LOW, _HIGH, torch.int8)
            return torch.ops.quantized_decomposed.dequantize_per_tensor(q, scale, self.zero_point, _LOW, _HIGH, torch.int8)
        if self.calibrating:
            if self.kind not in _FIXED:
                flat = x.detach().float().flatten()
                self._seen.append(flat[torch.randperm(flat.numel())[:20000]] if flat.numel() > 20000 else flat)
                self._seen.append(flat.abs().max().reshape(1))
            return x
        if self.bypassed:
            return x
        with torch.autocast(x.device.type, enabled=False):
            # LSQ's 1 / sqrt(n q) with n the elements of one picture, so that the step does not depend on the batch.
            factor = 1.0 / math.sqrt(max(1, x[0].numel()) * _HIGH)
            scale = _scale_gradient(self.scale.clamp(min=1e-8), factor)
            return _fake_quantize(x.float(), scale, self.zero_point, _LOW, _HIGH)

    def settle(self) -> None:
        """Choose the scale from what was seen while calibrating: least squared error over shrinking ranges."""
        if self.kind in _FIXED or not self._seen:
            return
        seen = torch.cat(self._seen)
        self._seen = []
        levels = 255 if self.kind == "relu" else 127
        # A floor for a tap that saw only zeros (a dead ReLU): XNNPACK refuses a whole file for one convolution whose input
        # scale x weight scale is 256 times its output's or more.
        top = float(seen.abs().max().clamp(min=1e-2))
        candidates = [torch.tensor(top * share / levels) for share in torch.linspace(0.3, 1.0, 36).tolist()]
        errors = [float((_fake_quantize(seen, s, self.zero_point, _LOW, _HIGH) - seen).square().mean()) for s in candidates]
        self.scale.data = candidates[min(range(len(errors)), key=errors.__getitem__)].to(self.scale)


class QuantConv2d(nn.Conv2d):
    """A convolution with int8 weights in [-127, 127], one learnt scale per output channel, symmetric."""

    weight_scale: nn.Parameter
    weight_zero_point: Tensor
    bypassed: bool

    @classmethod
    def from_float(cls, conv: nn.Conv2d) -> QuantConv2d:
        conv.__class__ = cls  # the same parameters and hooks: an optimizer or a name that refers to them stays valid
        assert isinstance(conv, cls)
        # XNNPACK refuses a whole file for one scale near 2^-32, as a channel without weights would have.
        peak = conv.weight.detach().abs().amax((1, 2, 3)).clamp(min=1e-5)
        conv.weight_scale = nn.Parameter(peak / 127)
        conv.exporting = conv.bypassed = False
        return conv

    def forward(self, x: Tensor) -> Tensor:
        if self.exporting:
            args = (self.weight_scale.detach(), self.weight_zero_point, 0, -127, 127, torch.int8)
            ops = torch.ops.quantized_decomposed
            weight = ops.dequantize_per_channel(ops.quantize_per_channel(self.weight, *args), *args)
        elif self.bypassed:
            weight = self.weight
        else:
            factor = 1.0 / math.sqrt(self.weight[0].numel() * 127)
            scale = _scale_gradient(self.weight_scale.clamp(min=1e-8), factor).view(-1, 1, 1, 1)
            weight = _fake_quantize(self.weight, scale, 0, -127, 127)
        return self._conv_forward(x, weight, self.bias)


def fuse(network: nn.Module) -> None:
    """Fold every batch norm into the convolution before it, in place; the output is unchanged in eval mode.

    A module that owns a `conv` and a `norm` is a pair. The norm becomes the identity and the convolution gains a bias.

    Raises:
        ValueError: a norm has no running statistics (instance norm), so there is nothing to fold.
    """
    for name, module in network.named_modules():
        norm = getattr(module, "norm", None)
        conv = getattr(module, "conv", None)
        if norm is None or isinstance(norm, nn.Identity) or not isinstance(conv, nn.Conv2d):
            continue
        if not isinstance(norm, nn.BatchNorm2d):
            raise ValueError(
                f"{name}: found {type(norm).__name__}, expected BatchNorm2d with running statistics; "
                "quantize a network of the `mobile` preset (train.py --preset mobile)"
            )
        module.conv = fuse_conv_bn_eval(conv.eval(), norm.eval())
        module.norm = nn.Identity()


def prepare(network: nn.Module, float_layers: tuple[str, ...] = ()) -> None:
    """Make a fused network quantized, in place: taps become FakeQuant, convolutions QuantConv2d.

    float_layers: names of modules (with all they contain) that stay in float, such as the head that predicts the flow.
    """

    def stays_float(name: str) -> bool:
        return any(name == layer or name.startswith(layer + ".") for layer in float_layers)

    for name, module in list(network.named_modules()):
        if stays_float(name):
            continue
        if type(module) is nn.Conv2d:
            QuantConv2d.from_float(module)
        for child_name, child in list(module.named_children()):
            if isinstance(child, Tap) and not stays_float(f"{name}.{child_name}" if name else child_name):
                setattr(module, child_name, FakeQuant(child.kind))


def quantized_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor, int]]:
    """(tensor's name, its scale, zero point) of every quantized tensor: `refine.down.0.conv1:out`, `...conv:weight`."""
    for name, module in network.named_modules():
        if isinstance(module, FakeQuant):
            owner, _, tap = name.rpartition(".")
            yield f"{owner}:{tap}", module.scale, module.zero_point
        elif isinstance(module, QuantConv2d):
            yield f"{name}:weight", module.weight_scale, 0


def set_bypassed(network: nn.Module, on: bool) -> None:
    """Let every quantizer of a network, or of one of its layers, pass floats as they are, or not any more."""
    for module in network.modules():
        if isinstance(module, FakeQuant | QuantConv2d):
            module.bypassed = on


def set_calibrating(network: nn.Module, on: bool) -> None:
    """Start, or end and settle, the measuring of activation ranges. Run training pictures through in between."""
    for module in network.modules():
        if isinstance(module, FakeQuant):
            module.calibrating = on
            if not on:
                module.settle()


def round_biases(network: nn.Module, *inputs: Tensor, **by_name: Tensor) -> None:
    """Round every bias to what the device stores, int32 in steps of input scale x weight scale, in place.

    Steps are tiny, but a value that lies near the edge between two int8 levels then falls on the other side, and over
    twenty layers that grows to half of all levels: 53 dB between file and network instead of 60 and more. Once rounded,
    rounding again changes nothing. `inputs`: any inputs of the network; they only show which scale each convolution reads.
    """
    stored: list[tuple[Tensor, Tensor]] = []

    def on_store(module: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(module, FakeQuant)
        stored.append((output, module.scale.detach()))

    def on_convolution(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(module, QuantConv2d)
        scale = next((s for tensor, s in reversed(stored) if tensor is given[0]), None)
        if scale is not None and module.bias is not None:
            step = scale.double() * module.weight_scale.detach().double()
            module.bias.data = ((module.bias.data.double() / step).round() * step).to(module.bias.dtype)

    hooks = [m.register_forward_hook(on_store) for m in network.modules() if isinstance(m, FakeQuant)]
    hooks += [m.register_forward_pre_hook(on_convolution) for m in network.modules() if isinstance(m, QuantConv2d)]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(*inputs, **by_name)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()


def set_exporting(network: nn.Module) -> None:
    """From here on the network emits quantize / dequantize operators with its learnt scales. Not reversible."""
    # Registers the operators; without it torch.ops has no such namespace.
    import torch.ao.quantization.fx._decomposed

    for module in network.modules():
        if isinstance(module, FakeQuant):
            module.exported_scale = float(module.scale.detach())
            module.exporting = True
        elif isinstance(module, QuantConv2d):
            # A buffer, not a constant made in forward: litert-torch looks zero points up among the graph's inputs.
            zeros = torch.zeros(len(module.weight_scale), dtype=torch.int64)
            module.register_buffer("weight_zero_point", zeros, persistent=False)
            module.exporting = True


def is_quantized(network: nn.Module) -> bool:
    """Whether any tensor of the network is quantized."""
    return any(isinstance(m, FakeQuant | QuantConv2d) for m in network.modules())

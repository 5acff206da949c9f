"""Layers that compute as INT8 will, and still learn (quantization-aware training).

The input, the weights and the OUTPUT of a layer are rounded to 8 bits: ONNX Runtime makes one
INT8 kernel of a convolution only where a QuantizeLinear stands directly on its output. Weights
are rounded as ONNX Runtime's quantizer does it (symmetric, -127..127), so that the exported
file holds the very numbers that were trained with. Gradients pass the rounding unchanged
(straight-through estimator, Bengio et al., 2013).
"""

# mypy: allow-subclassing-any
# mypy does not follow torch (see pyproject.toml), so nn.Module is Any to it.

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS: Final = 255
_TOP_WEIGHT: Final = 127
_TINY: Final = 1e-8


class Range(nn.Module):
    """Rounds a tensor to 256 levels between a low and a high that follow what is seen.

    While training, both are a moving average of the batches' extremes (Jacob et al., 2018);
    `momentum` is the share of the newest. A range always holds zero, as ONNX asks. With
    `positive` it starts at zero, which is what a ReLU makes of it.
    """

    ends: Tensor  # (2,) low, high
    seen: Tensor  # () whether there was any batch

    def __init__(self, momentum: float, *, positive: bool = False) -> None:
        super().__init__()
        self.momentum = momentum
        self.positive = positive
        self.register_buffer("ends", torch.zeros(2))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, the same shape."""
        if self.training:
            self._observe(x.detach())
        if not self.seen:
            return x
        scale, zero = self.grid()
        out: Tensor = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, LEVELS)
        return out

    def grid(self) -> tuple[float, int]:
        """Scale and zero point for unsigned levels; signed ones have a zero point 128 lower."""
        low, high = self.ends.tolist()
        scale = max(high - low, _TINY) / LEVELS
        return scale, min(LEVELS, round(-low / scale))

    def _observe(self, x: Tensor) -> None:
        low, high = x.aminmax()
        low = torch.zeros_like(low) if self.positive else low.clamp(max=0)
        now = torch.stack([low, high.clamp(min=0)]).float()
        if self.seen:
            now = torch.lerp(self.ends, now, self.momentum)
        self.ends.copy_(now)
        self.seen.fill_(value=True)


def round_weight(weight: Tensor, axis: int | None) -> Tensor:
    """Weights on 255 levels around zero, with one scale for each channel of `axis`, or one."""
    dims = [dim for dim in range(weight.ndim) if dim != axis]
    scales = weight.detach().abs().amax(dim=dims).clamp(min=_TINY) / _TOP_WEIGHT
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    limits = (-_TOP_WEIGHT, _TOP_WEIGHT)
    out: Tensor = (
        torch.fake_quantize_per_tensor_affine(weight, scales, zeros, *limits)
        if axis is None
        else torch.fake_quantize_per_channel_affine(weight, scales, zeros, axis, *limits)
    )
    return out


class _Quant:
    """What the three kinds of layers share; comes before their torch class."""

    channels: int
    """The axis of the weight that counts outputs."""
    weight: Any
    bias: Any
    input_range: Range
    output_range: Range
    axis: int | None

    @classmethod
    def of(cls, layer: Any, *, momentum: float, per_channel: bool, relu: bool) -> Any:
        """The layer with its own weights, in place of `layer`; `relu` says that one follows."""
        quant: Any = cls.__new__(cls)
        quant.__dict__.update(layer.__dict__)
        quant._modules = dict(layer._modules)  # noqa: SLF001 - torch keeps submodules there
        quant.axis = cls.channels if per_channel else None
        quant.input_range = Range(momentum)
        quant.output_range = Range(momentum, positive=relu)
        return quant

    def rounded(self) -> Any:
        """The weights as they will be in the file; exported as they are, and rounded there."""
        return (
            self.weight if torch.onnx.is_in_onnx_export() else round_weight(self.weight, self.axis)
        )


class QuantConv2d(_Quant, nn.Conv2d):
    """A convolution as INT8 computes it."""

    channels = 0

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv2d."""
        return self.output_range(self._conv_forward(self.input_range(x), self.rounded(), self.bias))


class QuantConvTranspose2d(_Quant, nn.ConvTranspose2d):
    """A transposed convolution whose input, weights and output are rounded."""

    channels = 1

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As nn.ConvTranspose2d without a given output size."""
        if output_size is not None:
            raise ValueError("a transposed convolution with a given output size is not rounded")
        out = functional.conv_transpose2d(
            self.input_range(x),
            self.rounded(),
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )
        return self.output_range(out)


class QuantLinear(_Quant, nn.Linear):
    """A matrix product as INT8 computes it."""

    channels = 0

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Linear."""
        return self.output_range(functional.linear(self.input_range(x), self.rounded(), self.bias))


KINDS: Final[dict[type, Any]] = {
    nn.Conv2d: QuantConv2d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
    nn.Linear: QuantLinear,
}


def quant_layers(module: nn.Module) -> dict[str, Any]:
    """The layers of these kinds, by name."""
    return {n: layer for n, layer in module.named_modules() if isinstance(layer, _Quant)}

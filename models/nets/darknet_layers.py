"""What the two sizes of YOLOv3 are made of, and what they share."""

# mypy: allow-subclassing-any
# mypy does not follow torch (see pyproject.toml), so nn.Module is Any to it.

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.nets.arch import Arch
from models.nets.darknet_decode import BOX_NUMBERS, Decode

Channels = Callable[[int], int]
"""A width of the full network -> the width of this one."""
ANCHORS_PER_CELL: Final = 3
_MULTIPLE: Final = 8
"""Scaled widths are a multiple of it: what vector units and groups divide well."""
_OBJECT_BIAS: Final = -4.6
"""First objectness is about 0.01: few of the anchors hold an object."""
_ACTIVATIONS: Final[dict[str, Callable[[], nn.Module]]] = {
    "leaky_relu": lambda: nn.LeakyReLU(0.1, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
}


class Unit(nn.Sequential):
    """Convolution without bias, batch norm, activation (Darknet: leaky, slope 0.1)."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, *, stride: int = 1, activation: str
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(c_out, eps=1e-5, momentum=0.03)
        self.act = _ACTIVATIONS[activation]()


class Residual(nn.Module):
    """1x1 to half the channels, 3x3 back, added to the input."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.squeeze = Unit(channels, channels // 2, 1, activation=activation)
        self.expand = Unit(channels // 2, channels, 3, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w)."""
        out: Tensor = x + self.expand(self.squeeze(x))
        return out


class Head(nn.Sequential):
    """The last 3x3 convolution of a scale and its 1x1 output."""

    def __init__(self, c_in: int, c_mid: int, num_classes: int, activation: str) -> None:
        super().__init__()
        self.last = Unit(c_in, c_mid, 3, activation=activation)
        self.output = nn.Conv2d(c_mid, ANCHORS_PER_CELL * (BOX_NUMBERS + num_classes), 1)
        with torch.no_grad():
            bias = self.output.bias.view(ANCHORS_PER_CELL, -1)
            bias[:, BOX_NUMBERS - 1] = _OBJECT_BIAS


class AnchorDetector(nn.Module, abc.ABC):
    """What both sizes share: raw maps for a loss, decoded boxes otherwise."""

    strides: tuple[int, ...]
    decode: Decode

    @property
    def anchors(self) -> Tensor:
        """(scales, 3, 2): widths and heights in input pixels, finest scale first."""
        return self.decode.anchors

    @abc.abstractmethod
    def maps(self, images: Tensor) -> list[Tensor]:
        """(n, 3, s, s) in 0..1 -> what the output convolutions give, finest scale first."""

    def raw(self, images: Tensor) -> list[Tensor]:
        """(n, 3, s, s) in 0..1 -> (n, 3, h, w, 5 + classes) a scale, finest first.

        The last dimension: x and y in the cell as logits, the logarithms of width and height
        relative to the anchor, objectness and classes as logits. Any size that is a multiple
        of 32.
        """
        return [_by_anchor(each) for each in self.maps(images)]

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Training: `raw`. Otherwise (n, 4 + classes, anchors), as yolo_v8 heads give it."""
        if self.training:
            return self.raw(images)
        out: Tensor = self.decode(self.maps(images))
        return out

    @abc.abstractmethod
    def darknet_order(self) -> Iterator[nn.Module]:
        """Parts in the order of Darknet's layers, as a weights file has them."""


def scaling(arch: Arch) -> tuple[Channels, str, int]:
    """The scaling of widths, the activation and the number of classes; raises ValueError."""
    width, activation = float(arch.options["width"]), str(arch.options["activation"])
    num_classes = int(arch.options["num_classes"])
    if width <= 0 or num_classes < 1:
        raise ValueError(f"width {width} and num_classes {num_classes} must be above 0")
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation {activation!r}: known are {', '.join(_ACTIVATIONS)}")

    def channels(full: int) -> int:
        return full if width == 1.0 else max(round(full * width / _MULTIPLE), 1) * _MULTIPLE

    return channels, activation, num_classes


def decoder(arch: Arch, anchors: tuple[object, ...], strides: tuple[int, ...]) -> Decode:
    """The decode with the family's anchors times the option `anchor_scale`; raises ValueError."""
    scaled = torch.tensor(anchors, dtype=torch.float32) * float(arch.options["anchor_scale"])
    return Decode(int(arch.options["num_classes"]), scaled, strides, arch.imgsz_px)


def double(x: Tensor) -> Tensor:
    """Nearest neighbour to twice the height and width."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _by_anchor(x: Tensor) -> Tensor:
    """(n, 3 * k, h, w) -> (n, 3, h, w, k)."""
    n, channels, h, w = x.shape
    return x.view(n, ANCHORS_PER_CELL, channels // ANCHORS_PER_CELL, h, w).permute(0, 1, 3, 4, 2)

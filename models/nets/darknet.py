"""The original YOLOv3 and its tiny version: Darknet backbones, anchors, readable torch.

Layers, strides and anchors are those of Darknet's `yolov3.cfg` and `yolov3-tiny.cfg` (Redmon
and Farhadi, YOLOv3, arXiv 1804.02767), so that its `.weights` files fit. Convolutions are named
by section: `backbone`, `neck` and `heads`; the order in a weights file is `darknet_order`.
"""

# mypy: allow-subclassing-any
# mypy does not follow torch (see pyproject.toml), so nn.Module is Any to it.

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.nets.arch import Arch
from models.nets.darknet_layers import (
    AnchorDetector,
    Channels,
    Head,
    Residual,
    Unit,
    decoder,
    double,
    scaling,
)
from models.nets.darknet_weights import load_weights

__all__ = ["Yolo3", "Yolo3Tiny", "build", "load_weights", "sections"]

ANCHORS: Final = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
"""yolov3.cfg: widths and heights in input pixels, made for 416 px, at strides 8, 16 and 32."""
TINY_ANCHORS: Final = (
    ((23, 27), (37, 58), (81, 82)),
    ((81, 82), (135, 169), (344, 319)),
)
"""Those that yolov3-tiny.weights was trained with, at strides 16 and 32 (mask = 1,2,3, not the
0,1,2 of later yolov3-tiny.cfg files: https://github.com/AlexeyAB/darknet/issues/1341)."""


class Darknet53(nn.Module):
    """The 52 convolutions of Darknet-53 without its classifier."""

    def __init__(self, channels: Channels, activation: str) -> None:
        super().__init__()
        self.stem = Unit(3, channels(32), 3, activation=activation)
        self.stage2 = _stage(channels(32), channels(64), 1, activation)
        self.stage4 = _stage(channels(64), channels(128), 2, activation)
        self.stage8 = _stage(channels(128), channels(256), 8, activation)
        self.stage16 = _stage(channels(256), channels(512), 8, activation)
        self.stage32 = _stage(channels(512), channels(1024), 4, activation)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, 3, s, s) -> 256, 512 and 1024 channels at strides 8, 16 and 32."""
        x8 = self.stage8(self.stage4(self.stage2(self.stem(images))))
        x16 = self.stage16(x8)
        return x8, x16, self.stage32(x16)


class Neck(nn.Module):
    """Top down: five convolutions a scale, halved, doubled in size and joined to the next."""

    def __init__(self, channels: Channels, activation: str) -> None:
        super().__init__()
        c128, c256, c512, c1024 = (channels(c) for c in (128, 256, 512, 1024))
        self.tower32 = _tower(c1024, c512, c1024, activation)
        self.lateral32 = Unit(c512, c256, 1, activation=activation)
        self.tower16 = _tower(c256 + c512, c256, c512, activation)
        self.lateral16 = Unit(c256, c128, 1, activation=activation)
        self.tower8 = _tower(c128 + c256, c128, c256, activation)

    def forward(self, scales: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Backbone maps -> 128, 256 and 512 channels at strides 8, 16 and 32."""
        x8, x16, x32 = scales
        x32 = self.tower32(x32)
        x16 = self.tower16(torch.cat([double(self.lateral32(x32)), x16], dim=1))
        x8 = self.tower8(torch.cat([double(self.lateral16(x16)), x8], dim=1))
        return x8, x16, x32


class Yolo3(AnchorDetector):
    """YOLOv3: Darknet-53, a top-down neck, three heads."""

    strides = (8, 16, 32)

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        channels, activation, num_classes = scaling(arch)
        self.backbone = Darknet53(channels, activation)
        self.neck = Neck(channels, activation)
        self.heads = nn.ModuleList(
            Head(channels(c), channels(2 * c), num_classes, activation) for c in (128, 256, 512)
        )
        self.decode = decoder(arch, ANCHORS, self.strides)

    def maps(self, images: Tensor) -> list[Tensor]:
        """(n, 3, s, s) in 0..1 -> (n, 3 * (5 + classes), h, w) at strides 8, 16 and 32."""
        scales = self.neck(self.backbone(images))
        return [head(x) for head, x in zip(self.heads, scales, strict=True)]

    def darknet_order(self) -> Iterator[nn.Module]:
        """Backbone, then scale by scale from the coarsest: tower, head, lateral."""
        neck, heads = self.neck, self.heads
        yield from (self.backbone, neck.tower32, heads[2])
        yield from (neck.lateral32, neck.tower16, heads[1])
        yield from (neck.lateral16, neck.tower8, heads[0])


class TinyBackbone(nn.Module):
    """Seven 3x3 convolutions with max pooling between, the last one of stride 1."""

    def __init__(self, channels: Channels, activation: str) -> None:
        super().__init__()
        c16, c32, c64, c128 = (channels(c) for c in (16, 32, 64, 128))
        self.stage1 = Unit(3, c16, 3, activation=activation)
        self.stage2 = Unit(c16, c32, 3, activation=activation)
        self.stage4 = Unit(c32, c64, 3, activation=activation)
        self.stage8 = Unit(c64, c128, 3, activation=activation)
        self.stage16 = Unit(c128, channels(256), 3, activation=activation)
        self.stage32 = Unit(channels(256), channels(512), 3, activation=activation)
        self.last = Unit(channels(512), channels(1024), 3, activation=activation)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 3, s, s) -> 256 and 1024 channels at strides 16 and 32."""
        x = images
        for stage in (self.stage1, self.stage2, self.stage4, self.stage8):
            x = functional.max_pool2d(stage(x), 2)
        x16 = self.stage16(x)
        x32 = self.stage32(functional.max_pool2d(x16, 2))
        return x16, self.last(_pool_in_place(x32))


class TinyNeck(nn.Module):
    """One convolution at stride 32, halved, doubled in size and joined to stride 16."""

    def __init__(self, channels: Channels, activation: str) -> None:
        super().__init__()
        self.tower32 = Unit(channels(1024), channels(256), 1, activation=activation)
        self.lateral32 = Unit(channels(256), channels(128), 1, activation=activation)

    def forward(self, scales: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Backbone maps -> 128 + 256 and 256 channels at strides 16 and 32."""
        x16, x32 = scales[0], self.tower32(scales[1])
        return torch.cat([double(self.lateral32(x32)), x16], dim=1), x32


class Yolo3Tiny(AnchorDetector):
    """YOLOv3-tiny: two heads, thirteen convolutions."""

    strides = (16, 32)

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        channels, activation, num_classes = scaling(arch)
        self.backbone = TinyBackbone(channels, activation)
        self.neck = TinyNeck(channels, activation)
        joined = channels(128) + channels(256)
        self.heads = nn.ModuleList(
            [
                Head(joined, channels(256), num_classes, activation),
                Head(channels(256), channels(512), num_classes, activation),
            ]
        )
        self.decode = decoder(arch, TINY_ANCHORS, self.strides)

    def maps(self, images: Tensor) -> list[Tensor]:
        """(n, 3, s, s) in 0..1 -> (n, 3 * (5 + classes), h, w) at strides 16 and 32."""
        scales = self.neck(self.backbone(images))
        return [head(x) for head, x in zip(self.heads, scales, strict=True)]

    def darknet_order(self) -> Iterator[nn.Module]:
        """Backbone, the coarse scale with its head, the fine one with its own."""
        yield from (self.backbone, self.neck.tower32, self.heads[1])
        yield from (self.neck.lateral32, self.heads[0])


def build(arch: Arch) -> AnchorDetector:
    """The network of a description; raises ValueError."""
    return Yolo3Tiny(arch) if arch.family == "yolov3-tiny" else Yolo3(arch)


def sections(_arch: Arch) -> dict[str, tuple[str, ...]]:
    """Beginnings of module names by section: the cut of the VOC quantization study."""
    return {"backbone": ("backbone",), "neck": ("neck",), "head": ("heads",)}


def _stage(c_in: int, c_out: int, count: int, activation: str) -> nn.Sequential:
    """Half the size by stride 2, then `count` residual blocks."""
    down = Unit(c_in, c_out, 3, stride=2, activation=activation)
    return nn.Sequential(down, *(Residual(c_out, activation) for _ in range(count)))


def _tower(c_in: int, c_narrow: int, c_wide: int, activation: str) -> nn.Sequential:
    """1x1 and 3x3 in turn, five of them."""
    widths = (c_in, c_narrow, c_wide, c_narrow, c_wide, c_narrow)
    kernels = (1, 3, 1, 3, 1)
    return nn.Sequential(
        *(
            Unit(before, after, kernel, activation=activation)
            for before, after, kernel in zip(widths[:-1], widths[1:], kernels, strict=True)
        )
    )


def _pool_in_place(x: Tensor) -> Tensor:
    """Darknet's 2x2 max pooling of stride 1: a cell, its right, lower and diagonal neighbour.

    torch pads on all sides with minus infinity, so that the first row and column are dropped.
    """
    return functional.max_pool2d(x, 2, stride=1, padding=1)[:, :, 1:, 1:]

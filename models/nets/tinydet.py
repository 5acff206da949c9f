"""TinyDet: a small anchor-free detector of our own, under one million parameters.

A plain backbone (convolution, batch norm, ReLU: the pattern that every runtime fuses and
quantizes well), a top-down neck, and one head a scale that tells for every cell the distances
to the four sides of a box and a score for each class. Cells are called anchors below.

Everything after the last convolution is the submodule `decode`, so that its nodes are named
`/decode/...` in the exported file and a recipe can leave them in float: boxes in pixels and
scores in 0..1 end in ONE tensor, which a single INT8 scale would destroy.
"""

# mypy: allow-subclassing-any
# mypy does not follow torch (see pyproject.toml), so nn.Module is Any to it.

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.nets.arch import Arch

STRIDES: Final = (8, 16, 32)
IMGSZ: Final = 160
DECODE_PREFIX: Final = "/decode/"
"""How the ONNX names of all decode nodes begin."""


class ConvUnit(nn.Sequential):
    """Convolution without bias, batch norm, ReLU; folds into one convolution."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.03),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """Two 3x3 units through half the channels, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = ConvUnit(channels, channels // 2)
        self.expand = ConvUnit(channels // 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w)."""
        out: Tensor = x + self.expand(self.squeeze(x))
        return out


class Head(nn.Module):
    """Box distances and class scores of one scale, as logits."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.box_tower = ConvUnit(channels, channels)
        self.class_tower = ConvUnit(channels, channels)
        self.box = nn.Conv2d(channels, 4, 1)
        self.cls = nn.Conv2d(channels, num_classes, 1)
        nn.init.constant_(self.box.bias, 1.0)  # first boxes are about three cells wide
        nn.init.constant_(self.cls.bias, -4.6)  # first scores are about 0.01: few objects

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, c, h, w) -> (n, 4, h, w) and (n, classes, h, w)."""
        return self.box(self.box_tower(x)), self.cls(self.class_tower(x))


class Decode(nn.Module):
    """Logits of all scales -> one tensor (n, 4 + classes, anchors)."""

    centres: Tensor  # (1, 2, anchors) x and y of each cell's centre in input pixels
    strides: Tensor  # (1, 1, anchors)

    def __init__(self, num_classes: int, imgsz: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.cells = tuple((imgsz // stride) ** 2 for stride in STRIDES)
        centres, strides = anchor_grid(imgsz)
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def join(self, levels: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Maps of all scales -> (n, 4, anchors) distances and (n, classes, anchors) logits.

        The sizes are plain numbers, so that the exported file computes no shapes.
        """
        sized = list(zip(levels, self.cells, strict=True))
        boxes = [box.reshape(-1, 4, cells) for (box, _), cells in sized]
        classes = [cls.reshape(-1, self.num_classes, cells) for (_, cls), cells in sized]
        return torch.cat(boxes, dim=2), torch.cat(classes, dim=2)

    def forward(self, levels: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Rows 0..3 are cx, cy, w, h in input pixels, the others scores in 0..1."""
        distances, logits = self.join(levels)
        to_low, to_high = (functional.softplus(distances) * self.strides).split(2, dim=1)
        low, high = self.centres - to_low, self.centres + to_high  # (n, 2, a) each
        return torch.cat([(low + high) / 2, high - low, logits.sigmoid()], dim=1)


class TinyDet(nn.Module):
    """The detector; square input of a fixed size, a multiple of 32."""

    def __init__(self, num_classes: int, imgsz: int = IMGSZ) -> None:
        super().__init__()
        if imgsz % STRIDES[-1]:
            raise ValueError(f"imgsz is {imgsz}; it must be a multiple of {STRIDES[-1]}")
        self.imgsz = imgsz
        self.stem = ConvUnit(3, 16, stride=2)  # 1/2
        self.stage4 = nn.Sequential(ConvUnit(16, 32, stride=2), Residual(32))
        self.stage8 = nn.Sequential(ConvUnit(32, 64, stride=2), Residual(64), Residual(64))
        self.stage16 = nn.Sequential(ConvUnit(64, 96, stride=2), Residual(96), Residual(96))
        self.stage32 = nn.Sequential(ConvUnit(96, 128, stride=2), Residual(128))
        self.lateral8 = ConvUnit(64, 48, 1)
        self.lateral16 = ConvUnit(96, 48, 1)
        self.lateral32 = ConvUnit(128, 48, 1)
        self.merge16 = ConvUnit(48, 48)
        self.merge8 = ConvUnit(48, 48)
        self.heads = nn.ModuleList(Head(48, num_classes) for _ in STRIDES)
        self.decode = Decode(num_classes, imgsz)

    def levels(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(n, 3, imgsz, imgsz) in 0..1 -> box and class logits at strides 8, 16 and 32."""
        x8 = self.stage8(self.stage4(self.stem(images)))  # (n, 64, s/8, s/8)
        x16 = self.stage16(x8)  # (n, 96, s/16, s/16)
        x32 = self.lateral32(self.stage32(x16))  # (n, 48, s/32, s/32)
        x16 = self.merge16(self.lateral16(x16) + _double(x32))  # (n, 48, s/16, s/16)
        x8 = self.merge8(self.lateral8(x8) + _double(x16))  # (n, 48, s/8, s/8)
        return [head(x) for head, x in zip(self.heads, (x8, x16, x32), strict=True)]

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, imgsz, imgsz) in 0..1 -> (n, 4 + classes, anchors)."""
        out: Tensor = self.decode(self.levels(images))
        return out


def build(arch: Arch) -> TinyDet:
    """The network of a description; raises ValueError."""
    return TinyDet(arch.options["num_classes"], arch.imgsz_px)


def sections(_arch: Arch) -> dict[str, tuple[str, ...]]:
    """Beginnings of module names by section."""
    return {
        "backbone": ("stem", "stage4", "stage8", "stage16", "stage32"),
        "neck": ("lateral8", "lateral16", "lateral32", "merge16", "merge8"),
        "head": ("heads",),
    }


def _double(x: Tensor) -> Tensor:
    """Nearest neighbour to twice the height and width."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def anchor_grid(imgsz: int) -> tuple[Tensor, Tensor]:
    """Centres (1, 2, anchors) in input pixels and strides (1, 1, anchors), finest scale first."""
    centres, strides = [], []
    for stride in STRIDES:
        side = imgsz // stride
        at = (torch.arange(side, dtype=torch.float32) + 0.5) * stride
        y, x = torch.meshgrid(at, at, indexing="ij")
        centres.append(torch.stack([x.flatten(), y.flatten()]))
        strides.append(torch.full((1, side * side), float(stride)))
    return torch.cat(centres, dim=1)[None], torch.cat(strides, dim=1)[None]


def count_parameters(net: nn.Module) -> int:
    """Trained numbers of a network."""
    return sum(p.numel() for p in net.parameters())

"""U-Net and its lighter variants for segmentation, in readable torch.

The base: 32, 64 and 128 filters going down, 256 at the bottom, each stage two 3x3 convolutions
with bias and no batch norm, 2x2 max pooling, 2x2 transposed convolutions with the skip joined
on the way up, one 1x1 output (after Ronneberger et al., arXiv 1505.04597). A variant changes
what a stage is made of and nothing else; docs/zoo.md has the counts beside the published ones.
"""

# mypy: allow-subclassing-any
# mypy does not follow torch (see pyproject.toml), so nn.Module is Any to it.

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.nets.arch import Arch
from models.nets.deform import OPSET, Deformable
from models.nets.unet_stages import STAGES, Place, StageMaker

FILTERS: Final = (32, 64, 128, 256)
"""Of the full network: three stages going down and the bottleneck."""
SIZE_MULTIPLE: Final = 8
"""Three poolings halve the input."""
_WIDTH_MULTIPLE: Final = 8
"""Scaled widths are a multiple of it, so that groups divide them."""


class Encoder(nn.Module):
    """Three stages, each followed by pooling."""

    def __init__(self, filters: list[int], make: StageMaker) -> None:
        super().__init__()
        c1, c2, c3, _ = filters
        self.stage1 = make(3, c1, Place("encoder", 1))
        self.stage2 = make(c1, c2, Place("encoder", 2))
        self.stage3 = make(c2, c3, Place("encoder", 3))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, 3, h, w) -> what is passed across at full, half and quarter size."""
        x1 = self.stage1(images)
        x2 = self.stage2(functional.max_pool2d(x1, 2))
        return x1, x2, self.stage3(functional.max_pool2d(x2, 2))


class Up(nn.Module):
    """Twice the size by a transposed convolution, joined with what was passed across."""

    def __init__(self, c_in: int, c_out: int, make: StageMaker, level: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(c_in, c_out, 2, stride=2)
        self.stage = make(2 * c_out, c_out, Place("decoder", level))

    def forward(self, x: Tensor, across: Tensor) -> Tensor:
        """(n, 2c, h, w) and (n, c, 2h, 2w) -> (n, c, 2h, 2w)."""
        out: Tensor = self.stage(torch.cat([self.up(x), across], dim=1))
        return out


class Decoder(nn.Module):
    """Three stages back to full size."""

    def __init__(self, filters: list[int], make: StageMaker) -> None:
        super().__init__()
        c1, c2, c3, c4 = filters
        self.up3 = Up(c4, c3, make, 3)
        self.up2 = Up(c3, c2, make, 2)
        self.up1 = Up(c2, c1, make, 1)

    def forward(self, x: Tensor, across: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """(n, 8c, h/8, w/8) and the encoder's maps -> (n, c, h, w)."""
        x1, x2, x3 = across
        out: Tensor = self.up1(self.up2(self.up3(x, x3), x2), x1)
        return out


class UNet(nn.Module):
    """The network; height and width are multiples of 8."""

    def __init__(self, num_classes: int, width: float, make: StageMaker) -> None:
        super().__init__()
        if width <= 0 or num_classes < 1:
            raise ValueError(f"width {width} and num_classes {num_classes} must be above 0")
        filters = [_scaled(full, width) for full in FILTERS]
        self.encoder = Encoder(filters, make)
        self.bottleneck = make(filters[2], filters[3], Place("bottleneck", 4))
        self.decoder = Decoder(filters, make)
        self.head = nn.Conv2d(filters[0], num_classes, 1)
        self.decode = nn.Sigmoid()
        self.apply(_initialise)

    def logits(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) in 0..1 -> (n, classes, h, w)."""
        across = self.encoder(images)
        x = self.bottleneck(functional.max_pool2d(across[2], 2))
        out: Tensor = self.head(self.decoder(x, across))
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Training: logits. Otherwise (n, classes, h, w) probabilities, classes independent."""
        logits = self.logits(images)
        return logits if self.training else self.decode(logits)


def build(arch: Arch) -> UNet:
    """The network of a description; raises ValueError."""
    if arch.imgsz_px % SIZE_MULTIPLE:
        raise ValueError(f"imgsz is {arch.imgsz_px}; it must be a multiple of {SIZE_MULTIPLE}")
    make = STAGES[arch.family.removeprefix("unet").removeprefix("-")]
    return UNet(int(arch.options["num_classes"]), float(arch.options["width"]), make)


def min_opset(arch: Arch) -> int:
    """The lowest version of ONNX that has the network's operators."""
    return OPSET if arch.family == "unet-deform" else 0


def sections(_arch: Arch) -> dict[str, tuple[str, ...]]:
    """Beginnings of module names by section."""
    return {
        "encoder": ("encoder",),
        "bottleneck": ("bottleneck",),
        "decoder": ("decoder",),
        "head": ("head",),
    }


def _scaled(full: int, width: float) -> int:
    return max(round(full * width / _WIDTH_MULTIPLE), 1) * _WIDTH_MULTIPLE


def _initialise(layer: nn.Module) -> None:
    """Kaiming for ReLU: without batch norm torch's own weights are too small to train from."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    elif isinstance(layer, Deformable):
        layer.initialise()  # after its own convolution, which the lines above filled

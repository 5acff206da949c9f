"""What the stages of the U-Net family are made of: one function a variant.

Groups by place were chosen among plain layouts (both convolutions of a stage alike, with bias)
as the nearest to the published counts that agree with the published description; docs/zoo.md
has the differences.
"""

# mypy: allow-subclassing-any
# mypy does not follow torch (see pyproject.toml), so nn.Module is Any to it.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn

from models.nets.deform import Deformable


@dataclass(frozen=True)
class Place:
    """Where a stage stands; levels are 1 (full size) to 4 (the bottleneck)."""

    side: Literal["encoder", "bottleneck", "decoder"]
    level: int


StageMaker = Callable[[int, int, Place], nn.Module]
"""Channels in, channels out, place -> a stage that keeps height and width."""


def plain(c_in: int, c_out: int, _place: Place) -> nn.Module:
    """The base: two 3x3 convolutions with bias, each with ReLU."""
    return _pair(c_in, c_out)


_DILATIONS: Final = {1: 1, 2: 1, 3: 2, 4: 4}
"""By level: deeper maps are smaller, and reach further."""


def dilated(c_in: int, c_out: int, place: Place) -> nn.Module:
    """The base with dilated convolutions deep down: as many parameters, a wider view."""
    return _pair(c_in, c_out, dilation=_DILATIONS[place.level])


_LITE_DOWN: Final = {1: 1, 2: 1, 3: 2, 4: 4}
_LITE_UP: Final = {3: 1, 2: 2, 1: 4}


def lite(c_in: int, c_out: int, place: Place) -> nn.Module:
    """Few groups early and more later, on the way down and again up; dilated deep down."""
    if place.side == "decoder":
        return _pair(c_in, c_out, groups=_LITE_UP[place.level])
    level = place.level
    return _pair(c_in, c_out, groups=_LITE_DOWN[level], dilation=_DILATIONS[level])


_GROUPS: Final = {1: 1, 2: 2, 3: 2, 4: 4}


def grouped(c_in: int, c_out: int, place: Place) -> nn.Module:
    """Groups alone, the same on both sides."""
    return _pair(c_in, c_out, groups=_GROUPS[place.level])


def separable(c_in: int, c_out: int, _place: Place) -> nn.Module:
    """Each convolution as a depthwise 3x3 and a 1x1 (MobileNet, arXiv 1704.04861)."""
    return nn.Sequential(
        _conv(c_in, c_in, groups=c_in),
        nn.Conv2d(c_in, c_out, 1),
        nn.ReLU(inplace=True),
        _conv(c_out, c_out, groups=c_out),
        nn.Conv2d(c_out, c_out, 1),
        nn.ReLU(inplace=True),
    )


def shuffle(c_in: int, c_out: int, _place: Place) -> nn.Module:
    """Two ShuffleNet units."""
    return nn.Sequential(ShuffleUnit(c_in, c_out), ShuffleUnit(c_out, c_out))


def fire(c_in: int, c_out: int, _place: Place) -> nn.Module:
    """Two Fire modules."""
    return nn.Sequential(Fire(c_in, c_out), Fire(c_out, c_out))


def deformable(c_in: int, c_out: int, place: Place) -> nn.Module:
    """The bottleneck's second convolution samples where it learns to; the rest is the base."""
    if place.side != "bottleneck":
        return _pair(c_in, c_out)
    return nn.Sequential(
        _conv(c_in, c_out),
        nn.ReLU(inplace=True),
        Deformable(c_out, c_out),
        nn.ReLU(inplace=True),
    )


class ShuffleUnit(nn.Module):
    """1x1 in groups to half the channels, shuffle, depthwise 3x3, 1x1 (arXiv 1707.01083).

    With bias in place of batch norm, as the base. Added to the input where the widths agree.
    """

    groups = 2

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        c_mid = c_out // 2
        groups = self.groups if c_in % self.groups == 0 else 1  # three colours have no halves
        self.squeeze = nn.Conv2d(c_in, c_mid, 1, groups=groups)
        self.spread = _conv(c_mid, c_mid, groups=c_mid)
        self.expand = nn.Conv2d(c_mid, c_out, 1)
        self.act = nn.ReLU(inplace=True)
        self.adds = c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) -> (n, c_out, h, w)."""
        out: Tensor = self.act(self.squeeze(x))
        out = self.expand(self.spread(_shuffled(out, self.groups)))
        return self.act(x + out if self.adds else out)


class Fire(nn.Module):
    """1x1 to an eighth of the channels, then 1x1 and 3x3 side by side (arXiv 1602.07360)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        c_mid, c_half = max(c_out // 8, 4), c_out // 2  # fewer than four die in training
        self.squeeze = nn.Conv2d(c_in, c_mid, 1)
        self.expand1 = nn.Conv2d(c_mid, c_half, 1)
        self.expand3 = nn.Conv2d(c_mid, c_out - c_half, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) -> (n, c_out, h, w)."""
        x = self.act(self.squeeze(x))
        return torch.cat([self.act(self.expand1(x)), self.act(self.expand3(x))], dim=1)


STAGES: Final[Mapping[str, StageMaker]] = {
    "": plain,
    "dilated": dilated,
    "lite": lite,
    "group": grouped,
    "shuffle": shuffle,
    "fire": fire,
    "separable": separable,
    "deform": deformable,
}
"""By what follows `unet-` in the family's name."""


def _pair(c_in: int, c_out: int, *, groups: int = 1, dilation: int = 1) -> nn.Sequential:
    """Two 3x3 convolutions with bias and ReLU; three colours are never put in groups."""
    first = groups if c_in % groups == 0 else 1
    return nn.Sequential(
        _conv(c_in, c_out, groups=first, dilation=dilation),
        nn.ReLU(inplace=True),
        _conv(c_out, c_out, groups=groups, dilation=dilation),
        nn.ReLU(inplace=True),
    )


def _conv(c_in: int, c_out: int, *, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=dilation, dilation=dilation, groups=groups)


def _shuffled(x: Tensor, groups: int) -> Tensor:
    """Channels dealt out, so that the next groups see a part of each."""
    n, channels, h, w = x.shape
    return x.view(n, groups, channels // groups, h, w).transpose(1, 2).reshape(n, channels, h, w)

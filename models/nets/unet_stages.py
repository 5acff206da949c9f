"""What the stages of the U-Net family are made of: one function a variant."""

# mypy: allow-subclassing-any
# mypy does not follow torch (see pyproject.toml), so nn.Module is Any to it.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from torch import nn


@dataclass(frozen=True)
class Place:
    """Where a stage stands; levels are 1 (full size) to 4 (the bottleneck)."""

    side: Literal["encoder", "bottleneck", "decoder"]
    level: int


StageMaker = Callable[[int, int, Place], nn.Module]
"""Channels in, channels out, place -> a stage that keeps height and width."""


def double_conv(
    c_in: int, c_out: int, *, groups: int = 1, dilation: int = 1, first_groups: int | None = None
) -> nn.Sequential:
    """Two 3x3 convolutions with bias, each with ReLU."""
    first = groups if first_groups is None else first_groups
    return nn.Sequential(
        _conv(c_in, c_out, first, dilation),
        nn.ReLU(inplace=True),
        _conv(c_out, c_out, groups, dilation),
        nn.ReLU(inplace=True),
    )


def plain(c_in: int, c_out: int, _place: Place) -> nn.Module:
    """The base: nothing but the two convolutions."""
    return double_conv(c_in, c_out)


_DILATIONS: Final = {1: 1, 2: 1, 3: 2, 4: 4}
"""By level: deeper maps are smaller, and reach further."""


def dilated(c_in: int, c_out: int, place: Place) -> nn.Module:
    """The base with dilated convolutions deep down: as many parameters, a wider view."""
    return double_conv(c_in, c_out, dilation=_DILATIONS[place.level])


def _conv(c_in: int, c_out: int, groups: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=dilation, dilation=dilation, groups=groups)


STAGES: Final[Mapping[str, StageMaker]] = {
    "": plain,
    "dilated": dilated,
}
"""By what follows `unet-` in the family's name."""

"""Edit `split_chunks`: a convolution whose output is cut in two becomes two convolutions.

For ultralytics' C2f, C3k2, RepNCSPELAN4 and their kin, where pruning could otherwise not tell
the halves apart. The network computes exactly the same. Parameters: `modules` by name.
"""

# mypy: allow-subclassing-any
# mypy does not follow torch (see pyproject.toml), so nn.Module is Any to it.

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from models.nets.edits.place import put


class SplitBlock(nn.Module):
    """Both halves, then each part on the one before; all are joined for the last convolution."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.first, self.second = _half(block.cv1, 0), _half(block.cv1, 1)
        self.chained = "m" in block._modules  # noqa: SLF001 - torch keeps submodules there
        for name, child in block.named_children():
            if name != "cv1":
                self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c', h, w)."""
        parts: Iterable[nn.Module] = self.m if self.chained else (self.cv2, self.cv3)
        maps = [self.first(x), self.second(x)]
        for part in parts:
            maps.append(part(maps[-1]))
        last = self.cv2 if self.chained else self.cv4
        out: Tensor = last(torch.cat(maps, dim=1))
        return out


def apply(module: nn.Module, params: dict[str, Any]) -> None:
    """Replace each block."""
    for name in params["modules"]:
        put(module, name, SplitBlock(module.get_submodule(name)))


def _half(unit: Any, which: int) -> Any:
    """One half of a convolution unit's outputs."""
    unit = copy.deepcopy(unit)
    with torch.no_grad():
        unit.conv.weight = _part(unit.conv.weight, which)
        unit.conv.out_channels //= 2
        norm = unit.bn
        norm.weight, norm.bias = _part(norm.weight, which), _part(norm.bias, which)
        norm.running_mean = norm.running_mean.chunk(2)[which].clone()
        norm.running_var = norm.running_var.chunk(2)[which].clone()
        norm.num_features //= 2
    return unit


def _part(parameter: Tensor, which: int) -> nn.Parameter:
    return nn.Parameter(parameter.chunk(2)[which].clone())

"""Edit `merge_branches`: units of parallel convolutions become one convolution each.

For ultralytics' RepConv (v9): a 3x3 and a 1x1 convolution, each with its batch norm, are added;
one 3x3 convolution computes the same. Parameters: `modules` by name.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from models.nets.edits.place import put


def apply(module: nn.Module, params: dict[str, Any]) -> None:
    """Merge each; ultralytics does the arithmetic."""
    for name in params["modules"]:
        unit: Any = module.get_submodule(name)
        unit.fuse_convs()
        unit.conv.requires_grad_()  # the library freezes what it merges
        put(module, name, nn.Sequential(OrderedDict(conv=unit.conv, act=unit.act)))

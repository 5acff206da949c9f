"""Puts modules in the place of others, also in networks by ultralytics."""

from __future__ import annotations

from typing import Any, Final

from torch import nn

_NOTES: Final = ("i", "f", "type", "np")
"""What ultralytics notes at a layer: its number, where its input comes from ..."""


def put(module: nn.Module, name: str, new: nn.Module) -> None:
    """Replace the submodule `name`; what was noted at the old one is noted at the new one."""
    old = module.get_submodule(name)
    for note in _NOTES:
        if hasattr(old, note):
            setattr(new, note, getattr(old, note))
    module.set_submodule(name, new)


def put_two(module: nn.Module, name: str, first: nn.Conv2d, second: nn.Conv2d) -> None:
    """Replace a convolution by two, one after the other.

    A unit by ultralytics (convolution, batch norm, activation) keeps the second as its own, so
    that its batch norm can still be folded, and the first comes before the unit.
    """
    unit_name = name.rpartition(".")[0]
    unit: Any = module.get_submodule(unit_name)
    if not hasattr(unit, "forward_fuse"):
        module.set_submodule(name, nn.Sequential(first, second))
        return
    unit.conv = second
    put(module, unit_name, nn.Sequential(first, unit))

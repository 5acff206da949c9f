"""Edit `activation`: activations of some kinds become those of another.

Parameters: `old`, a list of kinds; `new`, a kind; `slope` of a LeakyReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import nn

KINDS: Final[dict[str, type[nn.Module]]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "relu6": nn.ReLU6,
    "hard_swish": nn.Hardswish,
}
_MAKE: Final[dict[str, Callable[[float], nn.Module]]] = {
    "silu": lambda _slope: nn.SiLU(inplace=True),
    "relu": lambda _slope: nn.ReLU(inplace=True),
    "leaky_relu": lambda slope: nn.LeakyReLU(slope, inplace=True),
    "relu6": lambda _slope: nn.ReLU6(inplace=True),
    "hard_swish": lambda _slope: nn.Hardswish(inplace=True),
}


def apply(module: nn.Module, params: dict[str, Any]) -> None:
    """Replace each; one that several layers share becomes one for each."""
    for parent in module.modules():
        for name in find(parent, params["old"]):
            setattr(parent, name, _MAKE[params["new"]](params["slope"]))


def find(parent: nn.Module, kinds: list[str]) -> list[str]:
    """Names of a module's own activations of these kinds."""
    wanted = {KINDS[kind] for kind in kinds}
    children = parent._modules.items()  # noqa: SLF001 - named_children leaves shared ones out
    return [name for name, child in children if type(child) in wanted]

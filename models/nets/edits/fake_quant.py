"""Edit `fake_quant`: layers that compute as INT8 will (models/nets/quant.py).

Parameters: `layers` by name, those of them that a ReLU follows in `relu`, `per_channel` and
`momentum` as in `models.nets.quant`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from models.nets.quant import KINDS


def apply(module: nn.Module, params: dict[str, Any]) -> None:
    """Put a rounding layer in the place of each; the weights stay."""
    relu = set(params["relu"])
    for name in params["layers"]:
        layer = module.get_submodule(name)
        quant = KINDS[type(layer)].of(
            layer,
            momentum=params["momentum"],
            per_channel=params["per_channel"],
            relu=name in relu,
        )
        module.set_submodule(name, quant)
